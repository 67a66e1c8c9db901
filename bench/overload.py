"""What is served under overload: an open-loop load of 0.5 to 4 times what a slowed database can post.

`python bench/overload.py [SECONDS]`. Requests are sent at a fixed rate, whatever becomes of those before them. Ends
with 1 if at twice the capacity less than 0.8 of it is posted within the deadline, or if the books do not balance.
"""

import asyncio
import sys
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Final
from uuid import uuid4

import asyncpg
import servers
import uvloop
from open_loop import CONNECTIONS_MAX, Answer, Generator
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


def top_up(number: int) -> tuple[str, dict[str, object]]:
    """Return a top-up of a player, under a fresh key."""
    return QUERY, {"o": f"player-{number % OWNERS}", "k": str(uuid4())}


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
    generator = Generator(url, top_up)
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
