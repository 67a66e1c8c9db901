"""A transport that sends what one turn of the event loop writes as one piece, and that closes without losing it.

uvicorn writes an answer's headers and its body apart, and uvloop sends what is written at once: two system calls and
two packets per answer, which were a tenth of a request's CPU.
"""

import asyncio
from collections.abc import Callable
from typing import Any, Final

SLICE_BYTES: Final = 128 * 1024
"""A transport keeps what it was given until the last byte is read, so a large answer is given in slices of this."""


class GatheringTransport:
    """Passes everything on to a transport, but writes together."""

    def __init__(
        self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop, lingers: Callable[[], bool]
    ) -> None:
        """Take the transport; `lingers` says, when it is closed, whether the client may still be sending."""
        self._transport = transport
        self._loop = loop
        self._lingers = lingers
        self._pieces: list[bytes] = []
        self.is_closing = transport.is_closing  # asked for each answer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Send data when this turn of the event loop is over."""
        if not self._pieces:
            self._loop.call_soon(self._send)
        self._pieces.append(data)

    def close(self) -> None:
        """Close when everything is sent; to a client that may still be sending, say only that no more comes.

        Closing a socket with unread input resets the connection, and the client may lose the answer.
        """
        self._send()
        if not self._transport.is_closing() and self._lingers():
            self._transport.write_eof()
        else:
            self._transport.close()

    def abort(self) -> None:
        """Close at once, whatever is not sent."""
        self._pieces.clear()
        self._transport.abort()

    def _send(self) -> None:
        if not self._pieces:
            return
        data = b"".join(self._pieces)
        self._pieces.clear()
        if len(data) <= SLICE_BYTES:
            self._transport.write(data)
            return
        for start in range(0, len(data), SLICE_BYTES):
            self._transport.write(data[start : start + SLICE_BYTES])
