"""An open-loop load: requests are sent at a fixed rate, whatever becomes of those before them."""

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, NamedTuple, cast
from urllib.parse import urlsplit

CONNECTIONS_MAX: Final = 3500
CAPACITY_CLIENTS: Final = 700


class Answer(NamedTuple):
    """What became of a request that was sent at a time of the system's clock: after so many seconds, and how.

    `kind` is "posted", the name of a refusal, or a fault's code.
    """

    sent_at: float
    kind: str
    seconds: float
    retry_after: bytes | None = None


class Client(asyncio.Protocol):
    """A connection; it has one request under way at most."""

    def __init__(self) -> None:
        """Connect with `loop.create_connection`."""
        self.transport: asyncio.Transport | None = None
        self.answered: asyncio.Future[tuple[bytes, bytes]] | None = None
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Collect an answer."""
        self._received += data
        head, found, body = self._received.partition(b"\r\n\r\n")
        if found and self.answered and len(body) >= int(_header(head, b"content-length") or 0):
            self._received = b""
            self.answered.set_result((head, body))

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell who waits."""
        self.transport = None
        if self.answered and not self.answered.done():
            self.answered.set_exception(exc or ConnectionResetError())

    async def ask(self, request: bytes) -> tuple[bytes, bytes]:
        """Send a request; return the answer's head and body."""
        assert self.transport is not None
        self.answered = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        return await self.answered


def _header(head: bytes, name: bytes) -> bytes | None:
    for line in head.lower().split(b"\r\n"):
        if line.startswith(name + b": "):
            return line.partition(b": ")[2]
    return None


def _kind(body: bytes) -> str:
    told = json.loads(body)
    if "errors" in told:
        return str(told["errors"][0]["extensions"]["code"])
    (result,) = told["data"].values()
    name = str(result["__typename"])
    return "posted" if name.endswith("Payload") else name


@dataclass
class Generator:
    """Sends requests to a server over as many connections as are needed, each kept for the next request.

    `make` returns the document and the variables of the request of a number; it has one field.
    """

    url: str
    make: Callable[[int], tuple[str, dict[str, object]]]
    free: list[Client] = field(default_factory=list)
    count: int = 0

    async def send(self, number: int) -> Answer:
        """Send one request."""
        loop = asyncio.get_running_loop()
        address = urlsplit(self.url)
        query, variables = self.make(number)
        body = json.dumps({"query": query, "variables": variables}).encode()
        head = f"POST /graphql HTTP/1.1\r\nhost: {address.netloc}\r\ncontent-type: application/json\r\n"
        sent_at, started = time.time(), loop.time()
        try:
            client = self._free() or await self._connect(address.hostname or "", address.port or 0)
            if client is None:
                return Answer(sent_at, "no connection left", 0)
            head_of_answer, answer = await client.ask(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        except OSError as error:
            return Answer(sent_at, type(error).__name__, loop.time() - started)
        self.free.append(client)
        return Answer(sent_at, _kind(answer), loop.time() - started, _header(head_of_answer, b"retry-after"))

    def _free(self) -> Client | None:
        """Return a connection that is kept; one that the server closed meanwhile is not."""
        while self.free:
            client = self.free.pop()
            if client.transport is not None:
                return client
            self.count -= 1
        return None

    async def _connect(self, host: str, port: int) -> Client | None:
        if self.count >= CONNECTIONS_MAX:
            return None
        self.count += 1
        _, client = await asyncio.get_running_loop().create_connection(Client, host, port)
        return client

    async def offer(self, rate: float, seconds: float, is_over: Callable[[], bool] = lambda: False) -> list[Answer]:
        """Send at a rate for so long, or until it is over; return all answers."""
        loop = asyncio.get_running_loop()
        started, tasks, sent = loop.time(), list[asyncio.Task[Answer]](), 0
        while (now := loop.time() - started) < seconds and not is_over():
            while sent < now * rate:
                tasks.append(asyncio.create_task(self.send(sent)))
                sent += 1
            await asyncio.sleep(0.002)
        return await asyncio.gather(*tasks)

    async def capacity(self, seconds: float) -> float:
        """Return how many are posted per second when there is always a full batch more that waits."""
        answers: list[Answer] = []
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds

        async def play(number: int) -> None:
            while loop.time() < end:
                answers.append(await self.send(number))
                if answers[-1].kind != "posted":
                    await asyncio.sleep(0.2)  # it was told to come back later

        await asyncio.gather(*(play(number) for number in range(CAPACITY_CLIENTS)))
        return sum(answer.kind == "posted" for answer in answers) / seconds
