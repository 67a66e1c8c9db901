"""What is served under overload: an open-loop load of 0.5 to 4 times what a slowed database can post.

`python bench/overload.py [SECONDS]`. Requests are sent at a fixed rate, whatever becomes of those before them. Ends
with 1 if at twice the capacity less than 0.8 of it is posted within the deadline, or if the books do not balance.
"""

import asyncio
import json
import sys
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple, cast
from urllib.parse import urlsplit
from uuid import uuid4

import asyncpg
import servers
import uvloop
from outage import folder, settings_of

from wallet_gql.db import migrations
from wallet_gql.embedded.launcher import start
from wallet_gql.operations import demo
from wallet_gql.operations.opening import open_ledger
from wallet_gql.operations.proof import prove
from wallet_gql.operations.wallets import open_wallet
from wallet_gql.settings import Settings

DEADLINE_SECONDS: Final = 3
OWNERS: Final = 1000
LOADS: Final = (0.5, 1, 1.5, 2, 4)
SERVED_AT_TWICE_AT_LEAST: Final = 0.8
CONNECTIONS_MAX: Final = 3500
CAPACITY_CLIENTS: Final = 700

# Two lanes post at once, so this is a capacity of some 850 postings/s, whatever the batches' size.
POSTING_SECONDS: Final = 0.00235
SLOWED: Final = """
CREATE FUNCTION bench_slow() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN PERFORM pg_sleep(POSTING_SECONDS * (SELECT count(*) FROM inserted)); RETURN NULL; END $$;
CREATE TRIGGER bench_slow AFTER INSERT ON transaction REFERENCING NEW TABLE AS inserted
FOR EACH STATEMENT EXECUTE FUNCTION bench_slow()
""".replace("POSTING_SECONDS", str(POSTING_SECONDS))

QUERY: Final = """
mutation($o: String!, $k: UUID!) { topUp(input: {ownerId: $o, amount: 1, idempotencyKey: $k}) { __typename } }
"""


class Answer(NamedTuple):
    """What became of a request: "posted" or the fault's code, after so many seconds, and the Retry-After."""

    kind: str
    seconds: float
    retry_after: bytes | None


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


@dataclass
class Generator:
    """Sends top-ups to a server over as many connections as are needed, each kept for the next request."""

    url: str
    free: list[Client] = field(default_factory=list)
    count: int = 0

    async def top_up(self, number: int) -> Answer:
        """Send one top-up."""
        loop = asyncio.get_running_loop()
        address = urlsplit(self.url)
        body = json.dumps({"query": QUERY, "variables": {"o": f"player-{number % OWNERS}", "k": str(uuid4())}}).encode()
        head = f"POST /graphql HTTP/1.1\r\nhost: {address.netloc}\r\ncontent-type: application/json\r\n"
        started = loop.time()
        try:
            client = self._free() or await self._connect(address.hostname or "", address.port or 0)
            if client is None:
                return Answer("no connection left", 0, None)
            head_of_answer, answer = await client.ask(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        except OSError as error:
            return Answer(type(error).__name__, loop.time() - started, None)
        self.free.append(client)
        told = json.loads(answer)
        kind = told["errors"][0]["extensions"]["code"] if "errors" in told else "posted"
        return Answer(kind, loop.time() - started, _header(head_of_answer, b"retry-after"))

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

    async def offer(self, rate: float, seconds: float) -> list[Answer]:
        """Send at a rate for so long; return all answers."""
        loop = asyncio.get_running_loop()
        started, tasks, sent = loop.time(), list[asyncio.Task[Answer]](), 0
        while (now := loop.time() - started) < seconds:
            while sent < now * rate:
                tasks.append(asyncio.create_task(self.top_up(sent)))
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
                answers.append(await self.top_up(number))
                if answers[-1].kind != "posted":
                    await asyncio.sleep(0.2)  # it was told to come back later

        await asyncio.gather(*(play(number) for number in range(CAPACITY_CLIENTS)))
        return sum(answer.kind == "posted" for answer in answers) / seconds


def describe(load: float, rate: float, answers: list[Answer], seconds: float, capacity: float) -> float:
    """Print a row; return how much of the capacity was posted within the deadline."""
    in_time = [answer for answer in answers if answer.kind == "posted" and answer.seconds <= DEADLINE_SECONDS]
    refused = sorted(answer.seconds for answer in answers if answer.kind == "OVERLOADED")
    slow = refused[len(refused) * 99 // 100] * 1000 if refused else 0
    retry = Counter(answer.retry_after.decode() for answer in answers if answer.retry_after)
    served = len(in_time) / seconds
    print(
        f"{load:4} x  offered {rate:6.0f}/s  in time {served:5.0f}/s = {served / capacity:4.2f} of capacity"
        f"  {dict(Counter(answer.kind for answer in answers))}  refusals' p99 {slow:.0f} ms  Retry-After {dict(retry)}",
        flush=True,
    )
    return served / capacity


async def curve(url: str, seconds: float) -> bool:
    """Measure the capacity, then each load; return whether enough is served at twice the capacity."""
    generator = Generator(url)
    await generator.capacity(2)
    capacity = await generator.capacity(6)
    print(f"capacity {capacity:.0f}/s, deadline {DEADLINE_SECONDS} s, {seconds:.0f} s for each load")
    served = {}
    for load in LOADS:
        answers = await generator.offer(load * capacity, seconds)
        served[load] = describe(load, load * capacity, answers, seconds, capacity)
        await asyncio.sleep(1)
    return served[2] >= SERVED_AT_TWICE_AT_LEAST


async def prepare(settings: Settings) -> None:
    """Open the players' wallets, then slow the database down."""
    async with open_ledger(settings) as ledger:
        await demo.seed(ledger)
        for n in range(OWNERS):
            await open_wallet(ledger, f"player-{n}")
    url = settings.owner_url().set(drivername="postgresql").render_as_string(hide_password=False)
    connection = await asyncpg.connect(url)
    await connection.execute(SLOWED)
    await connection.close()


def run(seconds: float, made: Path) -> int:
    """Serve on a database of its own, and print the curve."""
    with ExitStack() as stack:
        running = stack.enter_context(start(made / "data"))
        settings = settings_of(running)
        migrations.upgrade(settings.owner_url(), settings.server_role())
        asyncio.run(prepare(settings))
        environment = {
            "DATABASE_URL": running.server_url,
            "WALLET_REQUEST_DEADLINE_SECONDS": str(DEADLINE_SECONDS),
            "WALLET_CONNECTIONS_MAX": str(CONNECTIONS_MAX + 100),
        }
        with servers.service(made, environment) as server:
            reached = uvloop.run(curve(f"{server.url}/graphql", seconds))
        findings = asyncio.run(prove(settings)).findings
    print(*(findings or ("the books balance",)), sep="\n")
    return int(bool(findings) or not reached)


def main(seconds: float = 10) -> int:
    """Make a folder that PostgreSQL's own account reaches, and run in it."""
    with folder() as made:
        return run(seconds, made)


if __name__ == "__main__":
    sys.exit(main(*map(float, sys.argv[1:2])))
