"""The database is stopped for 30 s under load and started again: what clients are told, how fast, and is it true.

`python bench/outage.py [SECONDS]`. Ends with 1 if an answer was wrong, took longer than the deadline, or if postings
were not answered again within 3 s.
"""

import asyncio
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import httpx
import servers
from pydantic import SecretStr

from wallet_gql.db import migrations
from wallet_gql.embedded.launcher import EmbeddedPostgres, start
from wallet_gql.operations import demo
from wallet_gql.operations.opening import open_ledger
from wallet_gql.operations.proof import prove
from wallet_gql.operations.wallets import open_wallet
from wallet_gql.settings import Settings

CLIENTS: Final = 64
OWNERS: Final = 200
BACK_WITHIN_SECONDS: Final = 3
# What an answer takes on its way, on a machine whose two cores do everything.
ROUND_TRIP_SECONDS: Final = 0.5
QUERY: Final = """
mutation($o: String!, $k: UUID!) { topUp(input: {ownerId: $o, amount: 1, idempotencyKey: $k}) {
  __typename ... on TopUpPayload { alreadyProcessed transaction { id balanceAfter } }
} }
"""


@dataclass
class Told:
    """What clients were told, by key; times are of the monotonic clock."""

    posted: dict[str, tuple[str, dict[str, Any]]] = field(default_factory=dict)
    not_posted: dict[str, str] = field(default_factory=dict)
    unknown: dict[str, str] = field(default_factory=dict)
    codes: Counter[str] = field(default_factory=Counter)
    slowest: float = 0
    successes: list[float] = field(default_factory=list)
    is_over: bool = False


async def play(url: str, client_number: int, told: Told) -> None:
    """Top up without a pause under fresh keys until it is over."""
    async with httpx.AsyncClient(timeout=60) as client:
        turn = client_number
        while not told.is_over:
            owner, key = f"player-{turn % OWNERS}", str(uuid4())
            turn += CLIENTS
            started = time.monotonic()
            answer = await client.post(url, json={"query": QUERY, "variables": {"o": owner, "k": key}})
            ended = time.monotonic()
            told.slowest = max(told.slowest, ended - started)
            body = answer.json()
            code = body["errors"][0]["extensions"]["code"] if "errors" in body else "posted"
            told.codes[code] += 1
            if code == "posted":
                told.successes.append(ended)
                told.posted[key] = owner, body["data"]["topUp"]["transaction"]
            elif code in {"UNAVAILABLE", "OVERLOADED"}:
                told.not_posted[key] = owner
                await asyncio.sleep(0.1)
            else:
                assert code == "OUTCOME_UNKNOWN", body
                told.unknown[key] = owner


async def check(url: str, told: Told) -> list[str]:
    """Ask for everything again under its key; returns what was not true."""
    wrong: list[str] = []

    async def ask(client: httpx.AsyncClient, key: str, owner: str) -> dict[str, Any]:
        answer = await client.post(url, json={"query": QUERY, "variables": {"o": owner, "k": key}})
        again: dict[str, Any] = answer.json()["data"]["topUp"]
        return again

    async with httpx.AsyncClient(timeout=60) as client:
        for key, (owner, transaction) in told.posted.items():
            if await ask(client, key, owner) != {
                "__typename": "TopUpPayload", "alreadyProcessed": True, "transaction": transaction,
            }:  # fmt: skip
                wrong.append(f"{key} was answered, and is not there")
        for key, owner in told.not_posted.items():
            if (await ask(client, key, owner))["alreadyProcessed"]:
                wrong.append(f"{key} was said not to be posted, and is there")
        for key, owner in told.unknown.items():
            first, second = await ask(client, key, owner), await ask(client, key, owner)
            if first["transaction"] != second["transaction"] or not second["alreadyProcessed"]:
                wrong.append(f"{key} was posted twice")
    return wrong


@contextmanager
def folder() -> Iterator[Path]:
    """Make a folder that PostgreSQL's own account reaches too."""
    made = Path(tempfile.mkdtemp(prefix="wallet-outage-", dir="/tmp"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made, ignore_errors=True)


def settings_of(server: EmbeddedPostgres) -> Settings:
    """Return the settings of a service on an embedded server."""
    return Settings(
        _env_file=None,
        DATABASE_URL=SecretStr(server.server_url),
        migration_database_url=SecretStr(server.owner_url),
    )


async def prepare(settings: Settings) -> None:
    """Open the players' wallets."""
    async with open_ledger(settings) as ledger:
        await demo.seed(ledger)
        for n in range(OWNERS):
            await open_wallet(ledger, f"player-{n}")


async def drive(url: str, first: ExitStack, data: Path, seconds: float) -> tuple[Told, float, list[str]]:
    """Play, stop the first database for so long, start it again, and ask again for everything."""
    told = Told()
    players = [asyncio.create_task(play(url, n, told)) for n in range(CLIENTS)]
    await asyncio.sleep(5)
    await asyncio.to_thread(first.close)
    await asyncio.sleep(seconds)
    with ExitStack() as second:
        running = await asyncio.to_thread(second.enter_context, start(data))
        back = time.monotonic()
        await asyncio.sleep(8)
        told.is_over = True
        await asyncio.gather(*players)
        wrong = await check(url, told)
        wrong += [str(finding) for finding in (await prove(settings_of(running))).findings]
    return told, min(time for time in told.successes if time > back) - back, wrong


def main(seconds: float) -> int:
    """Print what happened."""
    with folder() as made, ExitStack() as first:
        running = first.enter_context(start(made / "data"))
        settings = settings_of(running)
        migrations.upgrade(settings.owner_url(), settings.server_role())
        asyncio.run(prepare(settings))
        with servers.service(made, {"DATABASE_URL": running.server_url}) as server:
            told, back, wrong = asyncio.run(drive(f"{server.url}/graphql", first, made / "data", seconds))
    deadline = settings.request_deadline_seconds
    print(f"The database was away for {seconds:.0f} s beside {CLIENTS} clients: {dict(told.codes)}")
    print(
        f"slowest answer {told.slowest:.2f} s (deadline {deadline:.0f} s), first posting {back:.2f} s after the start"
    )
    print(*wrong or ["every answer was true, and the books balance"], sep="\n")
    return int(bool(wrong) or told.slowest > deadline + ROUND_TRIP_SECONDS or back > BACK_WITHIN_SECONDS)


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]) if len(sys.argv) > 1 else 30))
