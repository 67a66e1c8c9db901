"""Writing an answer: uvicorn's way, but for its head.

uvicorn looks at each header field of each answer by two regular expressions, which was more than a hundredth of what a
request costs. Here the head is put together at once, and what would end a field early is looked for in all of it.

Without this, answers are uvicorn's: `Connection.on_headers_complete` need only leave the class of its cycle alone.
"""

from typing import Final

from uvicorn._types import ASGISendEvent
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

_UVICORNS: Final = frozenset({b"connection", b"transfer-encoding"})
"""Fields that say how the answer itself is sent: by uvicorn, then."""


class Answer(RequestResponseCycle):
    """The answer to one request."""

    async def send(self, message: ASGISendEvent) -> None:
        """Send the head, or a part of the body. Raises RuntimeError for a head that would be more, or less, than one.

        A head without a length, before the connection closes or while the client does not read, is uvicorn's.
        """
        if message["type"] == "http.response.start" and not self.response_started and not self.disconnected:
            headers = [*self.default_headers, *message["headers"]]
            fields = dict(headers)
            length = fields.get(b"content-length")
            if length and self.keep_alive and not self.flow.write_paused and _UVICORNS.isdisjoint(fields):
                head, self.expected_content_length = _head(message["status"], headers), int(length)
                self.response_started, self.waiting_for_100_continue, self.chunked_encoding = True, False, False
                self.transport.write(head)
                return
        await super().send(message)


def _head(status: int, headers: list[tuple[bytes, bytes]]) -> bytes:
    lines = [STATUS_LINE[status][:-2], *map(b": ".join, headers), b"\r\n"]
    head, count = b"\r\n".join(lines), len(lines)
    if head.count(b"\r") != count or head.count(b"\n") != count or b"\0" in head:
        raise RuntimeError("A header field has a line break or a NUL.")
    return head
