"""One connection: its requests are read within bounds, and none is executed that did not arrive whole.

Bounds are counted on the pieces that arrive, at most `HEAD_BYTES_MAX` at a time, so that no more than twice of it is
ever buffered for a head. What goes past one is answered and the connection closed. A request that asks for another
protocol is read as if it had not: uvicorn, where it ignores an Upgrade, takes the body for the next request
(docs/decisions/0010).
"""

import asyncio
import math
import re
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, NoReturn

import httptools
from uvicorn._types import HTTPScope
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from wallet_gql.endpoint.protocol.answer import Answer
from wallet_gql.endpoint.protocol.refusals import refusal
from wallet_gql.endpoint.protocol.transport import GatheringTransport

if TYPE_CHECKING:
    from wallet_gql.endpoint.protocol.clients import Clients

HEAD_BYTES_MAX: Final = 32 * 1024
"""The most that comes before a body: request line and headers."""

HEADERS_MAX: Final = 100

URL_BYTES_MAX: Final = 16 * 1024

PIPELINE_MAX: Final = 64
"""How many requests may wait for the answers to those before them; after that many, the connection ends."""

FRAMING_MAX: Final = 8
"""How many bytes may frame one byte of a body: a chunk of one byte has five. Extensions and trailers count."""

LINGER_SECONDS: Final = 2
"""How long a client that was refused may take to read the answer."""

DROPPED: Final = "dropped"
"""In the state of a request that was begun and then refused or left behind here: the application need not log it."""

_ABSOLUTE: Final = re.compile(rb"[a-z][a-z0-9+.-]*://([^/?#]*)", re.IGNORECASE)

_NOT_HTTP: Final = (
    HTTPStatus.BAD_REQUEST,
    "The request is not valid HTTP/1.1, or is ambiguous: send it with a standard HTTP client.",
)
_HEAD_TOO_LARGE: Final = (
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
    f"The request has more than {HEADERS_MAX} headers, or more than {HEAD_BYTES_MAX} bytes of them: send fewer.",
)
_URL_TOO_LONG: Final = HTTPStatus.REQUEST_URI_TOO_LONG, f"The URL is longer than {URL_BYTES_MAX} bytes: use POST."
_BODY_FRAMING: Final = HTTPStatus.BAD_REQUEST, "The body has more framing than content: send larger chunks."
_PIPELINE_FULL: Final = (
    HTTPStatus.BAD_REQUEST,
    f"{PIPELINE_MAX} requests on this connection wait for their answers: read those first.",
)
_NO_PROXY: Final = HTTPStatus.METHOD_NOT_ALLOWED, "This is not a proxy: use POST, or GET for queries."
_TOO_SLOW: Final = HTTPStatus.REQUEST_TIMEOUT, "The request did not arrive in time: send it again."
_TURNED_AWAY: Final = HTTPStatus.SERVICE_UNAVAILABLE, "Too many connections are open: try again after a pause."


class Connection(HttpToolsProtocol):
    """uvicorn's protocol, bounded."""

    # uvicorn declares both as if they were never None.
    scope: HTTPScope | None  # type: ignore[assignment]
    cycle: RequestResponseCycle | None  # type: ignore[assignment]

    def __init__(self, clients: "Clients", **uvicorns: Any) -> None:
        """Take the connections it is one of, and what uvicorn gives to a protocol."""
        super().__init__(**uvicorns)
        self._clients = clients
        self._limits = clients.limits
        self._why = _NOT_HTTP
        self._is_deaf = False
        """Reads nothing more: closes when what was read is answered."""
        self._is_upgrading = False
        self._awaited: object = None
        """The scope or the cycle whose rest the deadline is for."""
        self._awaited_bytes = 0
        self._body_bytes = 0
        self._unread_bytes = 0
        self._deadline = math.inf
        self.stalled_since = math.inf
        """Since when nothing of what waits to be read was read."""

    # --- What the transport tells ------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn declares it
        """Begin with a connection, or turn it away."""
        gathering: Any = GatheringTransport(transport, self.loop, self._lingers)
        now = self.loop.time()
        self.stalled_since = now
        if self._clients.admit():
            super().connection_made(gathering)
            self._deadline = now + self._limits.header_seconds
            return
        self.transport = gathering
        if self._clients.turn_away(self):
            self._refuse(*_TURNED_AWAY)
        else:
            gathering.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """End with a connection."""
        self._clients.turned_away.discard(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read requests, or a part of one."""
        if len(data) <= HEAD_BYTES_MAX:
            self._feed(data)
        else:
            for start in range(0, len(data), HEAD_BYTES_MAX):
                self._feed(data[start : start + HEAD_BYTES_MAX])

    def pause_writing(self) -> None:
        """Read no more requests from a client that does not read their answers."""
        super().pause_writing()
        self.flow.pause_reading()
        self.loop.call_soon(self._clients.bound_unread)

    def resume_writing(self) -> None:
        """Go on with a client that has read."""
        super().resume_writing()
        self.stalled_since = self.loop.time()
        if self.cycle is None or self.cycle.response_complete:
            self.flow.resume_reading()
            self._allow_again()

    # --- What the parser tells ---------------------------------------------------------------------------------

    def on_headers_complete(self) -> None:
        """Start a request whose head is within the bounds."""
        # Most heads are short, and came in one piece.
        if self._awaited is self.scope or self.pipeline or len(self.url) + len(self.headers) > HEADERS_MAX:
            self._check_head()
        if self.parser.should_upgrade():
            if self.parser.get_method() == b"CONNECT":
                self._stop(_NO_PROXY)
            self._is_upgrading = True
            return
        if not self.url.startswith(b"/"):
            self._name_host_of_target()
        super().on_headers_complete()
        # uvicorn names the class itself, and runs none of it before this turn of the event loop is over.
        self.cycle.__class__ = Answer
        self._body_bytes = 0
        # What comes as a header from now on is a trailer, and would be added to the headers of the running request.
        self.headers = []
        if self.pipeline:
            self.pipeline[0] = (self.pipeline[0][0], self._answer_when_read)

    def on_body(self, body: bytes) -> None:
        """Take a part of a body, unless it is answered already; as uvicorn does, without asking about upgrades."""
        self._body_bytes += len(body)
        cycle = self.cycle
        assert cycle is not None
        if cycle.response_complete:
            return
        cycle.body += body
        if len(cycle.body) > HIGH_WATER_LIMIT:
            self.flow.pause_reading()
        cycle.message_event.set()

    def on_message_complete(self) -> None:
        """Take a request for whole; also one that was answered before, unlike uvicorn."""
        if self._is_upgrading:
            return
        assert self.cycle is not None
        self.cycle.more_body = False
        self.cycle.message_event.set()

    def on_response_complete(self) -> None:
        """Go on to the next request; without uvicorn's timer, which every request would arm and cancel."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        if not self.flow.write_paused:
            self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
            self._allow_again()
        elif self._is_deaf:
            self.transport.close()
        elif self.cycle is not None and self.cycle.scope is self.scope and not self.cycle.more_body:
            self._deadline = self.loop.time() + self._limits.keep_alive_seconds

    # --- Reading -----------------------------------------------------------------------------------------------

    def _feed(self, data: bytes) -> None:
        while not self._is_deaf:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                data = self._without_upgrade() + data[upgrade.args[0] :]
                continue
            except httptools.HttpParserError:
                self._refuse(*self._why)
                return
            cycle = self.cycle
            if cycle is None or cycle.more_body or cycle.scope is not self.scope:
                self._await_rest(len(data))
            elif cycle.response_complete:
                self._deadline = self.loop.time() + self._limits.keep_alive_seconds
            else:
                self._deadline = math.inf
            return

    def _name_host_of_target(self) -> None:
        """Put the authority of an absolute target where Host is, which does not count then (RFC 9112, 3.2.2)."""
        target = _ABSOLUTE.match(self.url)
        if target is None:
            return
        # In place: it is the scope's too. Whether there is exactly one Host is for the application to say.
        self.headers[:] = [(name, target[1] if name == b"host" else value) for name, value in self.headers]
        if self.parser.get_http_version() == "1.0" and all(name != b"host" for name, _ in self.headers):
            self.headers.append((b"host", target[1]))

    def _check_head(self) -> None:
        size = len(self.url)
        if size > URL_BYTES_MAX:
            self._stop(_URL_TOO_LONG)
        # A head that came in one piece is no larger than a piece.
        if self._awaited is self.scope:
            size += sum(len(name) + len(value) + 4 for name, value in self.headers)
        if size > HEAD_BYTES_MAX or len(self.headers) > HEADERS_MAX:
            self._stop(_HEAD_TOO_LARGE)
        if len(self.pipeline) >= PIPELINE_MAX:
            self._stop(_PIPELINE_FULL)

    def _without_upgrade(self) -> bytes:
        """Begin a message anew; returns its head as it was parsed, but for the Upgrade."""
        line = b"%s %s HTTP/%s\r\n" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())
        headers = [b"%s: %s\r\n" % field for field in self.headers if field[0] != b"upgrade"]
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does
        self._is_upgrading = False
        return b"".join([line, *headers, b"\r\n"])

    def _await_rest(self, received: int) -> None:
        """Say until when the rest of a request must have come, and refuse one that is too large already."""
        is_head = self._is_in_head()
        awaited = self.scope if is_head else self.cycle
        if awaited is None:
            return
        if self._awaited is not awaited:
            # It began somewhere in this piece, so none of it is counted.
            self._awaited, self._awaited_bytes = awaited, 0
            seconds = self._limits.header_seconds if is_head else self._limits.body_seconds
            self._deadline = self.loop.time() + seconds
        else:
            self._awaited_bytes += received
        if is_head and len(self.url) > URL_BYTES_MAX:
            self._refuse(*_URL_TOO_LONG)
        elif is_head and (self._awaited_bytes > HEAD_BYTES_MAX or len(self.headers) > HEADERS_MAX):
            self._refuse(*_HEAD_TOO_LARGE)
        elif self._awaited_bytes > HEAD_BYTES_MAX + FRAMING_MAX * self._body_bytes:
            self._refuse(*_BODY_FRAMING)

    def _allow_again(self) -> None:
        """Give the time for the rest of a request anew, for we did not read."""
        if self._deadline != math.inf:
            self._deadline = self.loop.time() + self._limits.body_seconds

    def _is_in_head(self) -> bool:
        return self.scope is not None and (self.cycle is None or self.cycle.scope is not self.scope)

    def _is_reading(self) -> bool:
        return self._is_in_head() or (self.cycle is not None and self.cycle.more_body)

    def _stop(self, why: tuple[HTTPStatus, str]) -> NoReturn:
        """End the parsing from within one of its callbacks."""
        self._why = why
        raise httptools.HttpParserError

    # --- Ending ------------------------------------------------------------------------------------------------

    def _refuse(self, status: HTTPStatus, message: str) -> None:
        """Read nothing more, and answer what is being read, unless it is answered or earlier ones are to be first."""
        self._is_deaf = True
        if not self._drop_request() or self.transport.is_closing():
            return
        if self.cycle is None or not self.cycle.response_complete or self._is_in_head():
            known = {} if self.cycle is None or self._is_in_head() else self.cycle.scope["state"]
            self.transport.write(refusal(status, message, known.get("request_id")))
        self.transport.close()
        # While the client reads the answer, nothing of what it sent is kept.
        self.url, self.headers, self.scope = b"", [], None
        self.parser = None  # type: ignore[assignment] # as uvicorn does when a connection is lost

    def _drop_request(self) -> bool:
        """Let nothing become of a request that is not whole; returns whether no answer is on its way."""
        cycle = self.cycle
        if cycle is None or cycle.response_complete:
            return True
        is_queued = bool(self.pipeline) and self.pipeline[0][0] is cycle
        if is_queued or not cycle.more_body:
            if cycle.more_body:
                self.pipeline.popleft()
            else:
                cycle.keep_alive = False
            self._deadline = math.inf
            return False
        # What runs is told that the client is gone, and what it would answer goes nowhere.
        cycle.scope["state"][DROPPED] = True
        cycle.disconnected = True
        cycle.message_event.set()
        if cycle.response_started:
            self.transport.abort()
        return True

    def _lingers(self) -> bool:
        """Say whether the client may still be sending what is not read, and give it a moment to read the answer."""
        lingers = self._is_deaf or (self.cycle is not None and self.cycle.more_body)
        if lingers:
            self._is_deaf = True
            self._deadline = min(self._deadline, self.loop.time() + LINGER_SECONDS)
        return lingers

    async def _answer_when_read(self, *request: Any) -> None:
        """Answer a request that was sent ahead when the answers before it are read."""
        await self.flow.drain()
        await self.app(*request)

    def shutdown(self) -> None:
        """Finish what was read whole, for the server stops; leave everything else behind."""
        self._clients.is_draining = True
        if self._is_deaf:
            return
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()
            return
        self._is_deaf = True
        if self._drop_request():
            self.transport.abort()

    def look(self, now: float, stall_seconds: float) -> None:
        """Cut a client that is too slow; called once a second."""
        unread_bytes = self.transport.get_write_buffer_size()
        if unread_bytes == 0 or unread_bytes < self._unread_bytes:
            self.stalled_since = now
        self._unread_bytes = unread_bytes
        if now - self.stalled_since > stall_seconds:
            self.cut("The client does not read its answers.")
        elif now > self._deadline and unread_bytes == 0 and (self._is_deaf or not self.flow.read_paused):
            self._end_waiting()

    def cut(self, reason: str) -> None:
        """End the connection at once."""
        self._clients.log_cut(reason, self.transport.get_write_buffer_size())
        self.transport.abort()

    def _end_waiting(self) -> None:
        """End a connection that has reached its deadline; one that is idle ends without a word."""
        if self._is_deaf:
            self.transport.abort()
        elif self._is_reading():
            self._refuse(*_TOO_SLOW)
        else:
            self.transport.close()
