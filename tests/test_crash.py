"""The server is killed in the middle of concurrent writes, and so is its PostgreSQL: what was answered stays."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import httpx
import pytest
from conftest import Served
from factories import gql

from wallet_gql.operations import demo

CLIENTS: Final = 8
ANSWERS_BEFORE_THE_KILL: Final = 200
OWNERS: Final = [f"player-{n}" for n in range(3)]

TOP_UP: Final = """mutation($o: String!, $k: UUID!) { topUp(input: {ownerId: $o, amount: 1, idempotencyKey: $k}) {
  ... on TopUpPayload { alreadyProcessed transaction { id balanceAfter } }
} }"""
BY_KEY: Final = """query($o: String!, $k: UUID!) {
  transactionByKey(ownerId: $o, idempotencyKey: $k) { id type amount balanceAfter }
}"""


@pytest.fixture
def data_dir() -> Iterator[Path]:
    """A folder that PostgreSQL's own account reaches too."""
    folder = Path(tempfile.mkdtemp(prefix="wallet-gql-crash-", dir="/tmp"))
    folder.chmod(0o755)
    yield folder / "data"
    shutil.rmtree(folder, ignore_errors=True)


def variables(data_dir: Path) -> dict[str, str]:
    """Return an environment that names no database: the server brings its own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("DATABASE_URL")}
    return {**kept, "WALLET_DATA_DIR": str(data_dir), "WALLET_SHARD_COUNT": "4"}


class Writers:
    """Clients that top up under fresh keys until their server is gone, and keep what they know."""

    def __init__(self, url: str) -> None:
        self.answered: dict[str, tuple[str, dict[str, Any]]] = {}
        self.unanswered: dict[str, str] = {}
        self.has_enough = asyncio.Event()
        self._url = url

    async def write(self, owner: str) -> None:
        async with httpx.AsyncClient(base_url=self._url, timeout=30) as client:
            while True:
                key = str(uuid4())
                self.unanswered[key] = owner
                try:
                    answer = await gql(client, TOP_UP, o=owner, k=key)
                except httpx.TransportError:
                    return
                del self.unanswered[key]
                self.answered[key] = owner, answer["topUp"]["transaction"]
                if len(self.answered) >= ANSWERS_BEFORE_THE_KILL:
                    self.has_enough.set()


async def test_kill_in_the_middle_of_writes_loses_and_doubles_nothing(
    data_dir: Path, serve: Callable[..., Served]
) -> None:
    first = await asyncio.to_thread(serve, variables(data_dir), "--demo")
    base_url = first.url.removesuffix("/graphql")
    async with httpx.AsyncClient(base_url=base_url) as client:
        for owner in OWNERS:
            await gql(client, "mutation($o: String!) { openWallet(input: {ownerId: $o}) { __typename } }", o=owner)
    writers = Writers(base_url)
    writing = [asyncio.create_task(writers.write(OWNERS[n % len(OWNERS)])) for n in range(CLIENTS)]
    enough = asyncio.create_task(writers.has_enough.wait())
    await asyncio.wait([enough, *writing], return_when=asyncio.FIRST_COMPLETED)
    assert enough.done()

    first.process.send_signal(signal.SIGKILL)
    await asyncio.gather(*writing)

    assert first.process.wait() == -signal.SIGKILL
    assert len(writers.answered) >= ANSWERS_BEFORE_THE_KILL
    assert writers.unanswered
    second = await asyncio.to_thread(serve, variables(data_dir))
    async with httpx.AsyncClient(base_url=second.url.removesuffix("/graphql"), timeout=30) as client:
        await check(client, writers)
    second.process.terminate()
    second.process.wait()
    verified = subprocess.run(  # noqa: ASYNC221 - nothing else runs in this loop
        [Path(sys.executable).with_name("wallet-gql"), "verify"],
        env=variables(data_dir),
        capture_output=True,
        text=True,
        check=False,
    )
    count = len(writers.answered) + len(writers.unanswered) + len(demo.OWNERS) + len(demo.EXPIRING)
    assert (verified.returncode, verified.stdout) == (0, f"The books balance: {2 * count} entries in 4 shards.\n")


async def check(client: httpx.AsyncClient, writers: Writers) -> None:
    """Ask for everything that was answered, and send again what was not."""
    found_without_an_answer = 0
    for key, (owner, transaction) in writers.answered.items():
        found = (await gql(client, BY_KEY, o=owner, k=key))["transactionByKey"]
        assert found == {**transaction, "type": "TOP_UP", "amount": "1"}, "an answered posting is lost"
        again = (await gql(client, TOP_UP, o=owner, k=key))["topUp"]
        assert again == {"alreadyProcessed": True, "transaction": transaction}
    for key, owner in writers.unanswered.items():
        found = (await gql(client, BY_KEY, o=owner, k=key))["transactionByKey"]
        found_without_an_answer += found is not None
        first = (await gql(client, TOP_UP, o=owner, k=key))["topUp"]
        second = (await gql(client, TOP_UP, o=owner, k=key))["topUp"]
        assert (first["alreadyProcessed"], second["alreadyProcessed"]) == (found is not None, True)
        assert first["transaction"] == second["transaction"]
    for owner in OWNERS:
        keys = [of for of, _ in writers.answered.values()] + list(writers.unanswered.values())
        balance = "query($o: String!) { balance(ownerId: $o) { amount } transactions(ownerId: $o) { totalCount } }"
        count = keys.count(owner)
        assert await gql(client, balance, o=owner) == {
            "balance": {"amount": str(count)},
            "transactions": {"totalCount": count},
        }
