"""A proxy on 127.0.0.1 between the service and PostgreSQL, on which a test takes the network down as it likes.

It reads the protocol's frames: what is done to a message is done to exactly that message.
"""

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any, Final

from pydantic import SecretStr

from wallet_gql.operations.opening import Ledger, open_ledger
from wallet_gql.settings import Settings

_SSL_REQUEST: Final = 80877103
_READY_FOR_QUERY: Final = b"Z"

COMMIT: Final = "COMMIT;"
"""The text of the message that ends a unit of work, and of no other."""


class Fate(Enum):
    """What becomes of a message from the client."""

    LOST = auto()
    """It does not reach the server, and the connection is cut."""

    UNANSWERED = auto()
    """The server does all that it asks for; then the connection is cut before the answer reaches the client."""

    HELD = auto()
    """It waits until `release`, then goes on."""

    HELD_UNANSWERED = auto()
    """It waits until `release`; then it is as above: done, but not answered."""


@dataclass(eq=False)
class _Link:
    """A client's connection, and the one to the server that was made for it."""

    client: asyncio.StreamWriter
    server: asyncio.StreamWriter
    is_answer_lost: bool = False
    is_silent: bool = False

    def cut(self) -> None:
        self.client.transport.abort()
        self.server.transport.abort()


@dataclass
class Proxy:
    """Passes everything on, but for what it is told; `count` says to how many messages that was done."""

    server_port: int
    port: int = 0
    count: int = 0
    _message: bytes | None = None
    _fate: Fate = Fate.LOST
    _times: int = 0
    _is_last: bool = False
    _links: set[_Link] = field(default_factory=set)
    _tasks: set[asyncio.Task[Any]] = field(default_factory=set)
    _listener: asyncio.Server | None = None
    _flows: asyncio.Event = field(default_factory=asyncio.Event)
    _released: asyncio.Event = field(default_factory=asyncio.Event)

    def on(self, message: str, fate: Fate, *, times: int = 1, then_refuse: bool = False) -> None:
        """Let the next so many messages that contain a text meet their fate; then, if told so, refuse connections."""
        self._message, self._fate, self._times, self._is_last = message.encode(), fate, times, then_refuse
        self.count = 0
        self._released.clear()

    def release(self) -> None:
        """Let the messages that were held go on, and all that come."""
        self._times = 0
        self._released.set()

    async def accept(self) -> None:
        """Take connections, at the same port each time."""
        self._listener = await asyncio.start_server(self._start, "127.0.0.1", self.port)
        self.port = self._listener.sockets[0].getsockname()[1]

    def refuse(self) -> None:
        """Refuse connections, and cut those there are."""
        self._refuse()

    def cut(self) -> None:
        """Cut the connections there are."""
        self._cut()

    def stall(self) -> None:
        """Fall silent: connections are taken and kept, but nothing passes in either direction."""
        self._flows.clear()

    def vanish(self) -> None:
        """Let the connections there are fall silent for good, as a host's that is gone; new ones pass everything on."""
        for link in self._links:
            link.is_silent = True

    def flow(self) -> None:
        """Let everything pass again, what was sent meanwhile included."""
        self._flows.set()

    async def close(self) -> None:
        """End everything."""
        self.refuse()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _refuse(self, but: _Link | None = None) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        self._cut(but)

    def _cut(self, but: _Link | None = None) -> None:
        for link in self._links - {but}:
            link.cut()

    def _start(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            answers, server = await asyncio.open_connection("127.0.0.1", self.server_port)
        except OSError:
            writer.transport.abort()
            return
        link = _Link(writer, server)
        self._links.add(link)
        back = asyncio.create_task(self._pass_answers(link, answers))
        try:
            with suppress(OSError, asyncio.IncompleteReadError):
                await self._pass_messages(link, reader)
        finally:
            back.cancel()
            link.cut()
            self._links.discard(link)

    async def _pass_messages(self, link: _Link, reader: asyncio.StreamReader) -> None:
        await self._pass_start(link, reader)
        while True:
            message = await _read_frame(reader)
            await self._may_pass(link)
            if self._times and self._message is not None and self._message in message:
                self._times -= 1
                self.count += 1
                if self._is_last and not self._times:
                    self._refuse(but=link)
                if self._fate is Fate.LOST:
                    return
                if self._fate in {Fate.HELD, Fate.HELD_UNANSWERED}:
                    await self._released.wait()
                if self._fate in {Fate.UNANSWERED, Fate.HELD_UNANSWERED}:
                    link.is_answer_lost = True
            link.server.write(message)

    async def _may_pass(self, link: _Link) -> None:
        await self._flows.wait()
        if link.is_silent:
            await asyncio.Future()

    async def _pass_start(self, link: _Link, reader: asyncio.StreamReader) -> None:
        """Pass on the first message, which has no type; a client that first asks for encryption sends two of them."""
        code = _SSL_REQUEST
        while code == _SSL_REQUEST:
            head = await reader.readexactly(8)
            size, code = struct.unpack("!ii", head)
            await self._flows.wait()
            link.server.write(head + await reader.readexactly(size - 8))

    async def _pass_answers(self, link: _Link, answers: asyncio.StreamReader) -> None:
        try:
            with suppress(OSError, asyncio.IncompleteReadError):
                # The one answer without a frame: that there is no encryption.
                first = await answers.readexactly(1)
                await self._flows.wait()
                link.client.write(first)
                while True:
                    answer = await _read_frame(answers)
                    await self._may_pass(link)
                    if not link.is_answer_lost:
                        link.client.write(answer)
                    elif answer.startswith(_READY_FOR_QUERY):
                        return
        finally:
            link.cut()


async def _read_frame(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readexactly(5)
    return head + await reader.readexactly(int.from_bytes(head[1:]) - 4)


@asynccontextmanager
async def proxy_to(settings: Settings) -> AsyncIterator[Proxy]:
    """Stand a proxy before the server of these settings."""
    port = settings.server_url().port
    assert port is not None
    proxy = Proxy(port)
    proxy.flow()
    await proxy.accept()
    try:
        yield proxy
    finally:
        await proxy.close()


def through(proxy: Proxy, settings: Settings) -> Settings:
    """Return the settings with the proxy's address."""
    url = settings.server_url().set(host="127.0.0.1", port=proxy.port).render_as_string(hide_password=False)
    return settings.model_copy(update={"database_url": SecretStr(url)})


@asynccontextmanager
async def open_through_proxy(settings: Settings, *, flow_at_end: bool = True) -> AsyncIterator[tuple[Ledger, Proxy]]:
    """Open a ledger whose every connection goes through a proxy, which passes everything on before it closes."""
    async with proxy_to(settings) as proxy, open_ledger(through(proxy, settings)) as ledger:
        try:
            yield ledger, proxy
        finally:
            if flow_at_end:
                proxy.flow()
                proxy.release()
