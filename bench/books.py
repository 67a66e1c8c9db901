"""The databases under load: making them, filling them by `post_batch`, and reading what postings cost there."""

import asyncio
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import asyncpg
from pydantic import SecretStr
from servers import Processes, clean_environment
from sqlalchemy import make_url
from sqlalchemy.ext.asyncio import AsyncEngine

from wallet_gql.db.engine import connect, create_engine
from wallet_gql.domain.assets import Asset
from wallet_gql.domain.postings import Posted, PostingRequest, TransactionType
from wallet_gql.domain.shards import shard_of
from wallet_gql.domain.wallets import WalletKind
from wallet_gql.embedded.launcher import EmbeddedPostgres, start
from wallet_gql.ledger.posting import post_batch
from wallet_gql.ledger.reads import read_assets
from wallet_gql.ledger.treasury import open_stripes, treasuries
from wallet_gql.operations.proof import Proof, prove
from wallet_gql.operations.unit_of_work import unit_of_work
from wallet_gql.settings import Settings

BATCH_SIZE: Final = 1000
CONNECTION_COUNT: Final = 4
STATEMENTS_PER_UNIT: Final = 6
"""BEGIN, lock, heads, keys, insert, COMMIT: a unit of work in which no account is opened."""

_SLOT: Final = 0


@dataclass(frozen=True, slots=True)
class WalMark:
    """A place in the log."""

    lsn: str


@dataclass(frozen=True, slots=True)
class Wal:
    """What was written to the log between two marks; `image_bytes` of it are full pages, after a checkpoint."""

    bytes: int
    image_bytes: int
    commit_count: int


class Database:
    """A migrated database of the cluster, with the asset GOLD."""

    def __init__(self, cluster: "Cluster", name: str, shard_count: int) -> None:
        """Name it; `Cluster` makes it."""
        self.cluster = cluster
        self.name = name
        self.shard_count = shard_count

    def environment(self) -> dict[str, str]:
        """Return what gives a command this database."""
        return {
            "DATABASE_URL": self._url(self.cluster.server.server_url),
            "WALLET_MIGRATION_DATABASE_URL": self._url(self.cluster.server.owner_url),
            "WALLET_SHARD_COUNT": str(self.shard_count),
        }

    def settings(self) -> Settings:
        """Return the service's settings for this database."""
        url = SecretStr(self._url(self.cluster.server.server_url))
        return Settings(_env_file=None, DATABASE_URL=url, shard_count=self.shard_count)

    def command(self, *arguments: str) -> None:
        """Run a command of the service on it."""
        program = str(Path(sys.executable).with_name("wallet-gql"))
        environment = clean_environment(self.environment())
        subprocess.run(
            [program, *arguments], cwd=self.cluster.scratch, env=environment, check=True, stdout=subprocess.DEVNULL
        )

    def execute(self, *statements: str) -> Any:
        """Run statements as the superuser; returns the last one's value."""

        async def run() -> Any:
            connection = await asyncpg.connect(_plain(self._url(self.cluster.server.superuser_url)), timeout=30)
            try:
                return [await connection.fetchval(statement) for statement in statements][-1]
            finally:
                await connection.close()

        return asyncio.run(run())

    def count(self) -> int:
        """Return the number of transactions in the books."""
        return int(self.execute("SELECT count(*) FROM transaction"))

    def settle(self) -> None:
        """Do what autovacuum would have done by now, and begin a new checkpoint's cycle."""
        self.execute("VACUUM (ANALYZE)", "CHECKPOINT")

    def prove(self) -> Proof:
        """Verify the books."""
        return asyncio.run(prove(self.settings()))

    def _url(self, url: str) -> str:
        return make_url(url).set(database=self.name).render_as_string(hide_password=False)


@dataclass(frozen=True, slots=True)
class Plan:
    """Top-ups to post, taking turns among the owners."""

    database: Database
    owners: Sequence[str]
    posting_count: int
    amount_minor: int = 1


class Cluster:
    """An embedded PostgreSQL of our own, durable as the service's."""

    def __init__(self, server: EmbeddedPostgres, scratch: Path) -> None:
        """Take the running server, and a folder to work in."""
        self.server = server
        self.scratch = scratch
        self.processes = Processes(server.pid)
        self._binaries = Path(f"/proc/{server.pid}/exe").readlink().parent

    def create(self, name: str, *, shard_count: int = 64) -> Database:
        """Make and migrate a database."""
        database = Database(self, name, shard_count)
        Database(self, "postgres", 0).execute(f"CREATE DATABASE {name} OWNER wallet_owner")
        database.command("migrate")
        database.command("add-asset", "GOLD", "--name", "Gold Coins", "--scale", "0")
        return database

    def clone(self, template: Database, name: str) -> Database:
        """Copy a database that nobody uses."""
        self.execute(f"CREATE DATABASE {name} OWNER wallet_owner TEMPLATE {template.name}")
        return Database(self, name, template.shard_count)

    def execute(self, *statements: str) -> Any:
        """Run statements in the database postgres as the superuser; returns the last one's value."""
        return Database(self, "postgres", 0).execute(*statements)

    def mark(self) -> WalMark:
        """Return the present end of the log."""
        return WalMark(self.execute("SELECT pg_current_wal_flush_lsn()::text"))

    def wal_since(self, mark: WalMark) -> Wal:
        """Read the log from a mark to its end."""
        end = self.mark()
        folder = self.server.data_dir / f"pg{self.server.version}" / "pg_wal"
        command = [
            str(self._binaries / "pg_waldump"),
            "-p",
            str(folder),
            "-s",
            mark.lsn,
            "-e",
            end.lsn,
            "--stats=record",
        ]
        if end.lsn == mark.lsn:
            return Wal(0, 0, 0)
        statistics = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        # N, (%), record size, (%), FPI size, (%), combined size
        totals = next(line.split() for line in statistics.splitlines() if line.startswith("Total"))
        commits = re.search(r"^Transaction/COMMIT\s+(\d+)", statistics, re.MULTILINE)
        return Wal(_position(end) - _position(mark), int(totals[4]), int(commits[1]) if commits else 0)

    def checkpoint_seconds(self) -> float:
        """Return the time between checkpoints that PostgreSQL is set to."""
        return float(self.execute("SELECT setting FROM pg_settings WHERE name = 'checkpoint_timeout'"))


@contextmanager
def cluster() -> Iterator[Cluster]:
    """Run an embedded PostgreSQL in a temporary folder: on a disk, for /tmp may be memory, where nothing is durable."""
    scratch = Path(tempfile.mkdtemp(prefix="wallet-gql-bench-", dir="/var/tmp"))
    scratch.chmod(0o755)
    try:
        with start(scratch / "data") as server:
            yield Cluster(server, scratch)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def owner_ids(count: int) -> list[str]:
    """Name owners as load.lua does."""
    return [f"bench-{n:05d}" for n in range(count)]


def fill(*plans: Plan) -> None:
    """Open the plans' owners and post what they say, all at once."""

    async def run() -> None:
        async with asyncio.TaskGroup() as tasks:
            for database in {plan.database for plan in plans}:
                own = [plan for plan in plans if plan.database is database]
                tasks.create_task(_fill(database.settings(), own))

    asyncio.run(run())


def _plain(url: str) -> str:
    return make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)


def _position(mark: WalMark) -> int:
    high, _, low = mark.lsn.partition("/")
    return (int(high, 16) << 32) + int(low, 16)


async def _fill(settings: Settings, plans: Sequence[Plan]) -> None:
    engine = create_engine(settings)
    try:
        async with connect(engine) as connection:
            asset = next(asset for asset in await read_assets(connection) if asset.code == "GOLD")
            await open_stripes(connection, treasuries(_SLOT, settings.shard_count))
            for plan in plans:
                await _open_wallets(connection, plan.owners, settings.shard_count)
        async with asyncio.TaskGroup() as tasks:
            for plan in plans:
                for owners, posting_count in _lanes(plan, settings.shard_count):
                    requests = _requests(owners, posting_count, plan.amount_minor, asset, settings.shard_count)
                    tasks.create_task(_post(engine, requests))
    finally:
        await engine.dispose()


async def _open_wallets(connection: asyncpg.Connection, owners: Sequence[str], shard_count: int) -> None:
    await connection.execute(
        "INSERT INTO wallet (shard, kind, owner_id) SELECT shard, $3, owner_id"
        " FROM unnest($1::smallint[], $2::text[]) AS new(shard, owner_id)"
        " ON CONFLICT (shard, kind, owner_id) DO NOTHING",
        [shard_of(owner, shard_count) for owner in owners],
        list(owners),
        WalletKind.USER,
    )


def _lanes(plan: Plan, shard_count: int) -> Iterator[tuple[list[str], int]]:
    """Divide a plan among connections by shard, so that they do not wait for each other's treasury stripes."""
    for lane in range(CONNECTION_COUNT):
        owners = [owner for owner in plan.owners if shard_of(owner, shard_count) % CONNECTION_COUNT == lane]
        if owners:
            yield owners, round(plan.posting_count * len(owners) / len(plan.owners))


def _requests(
    owners: Sequence[str], posting_count: int, amount_minor: int, asset: Asset, shard_count: int
) -> Iterator[PostingRequest]:
    for owner in islice(cycle(owners), posting_count):
        yield PostingRequest(shard_of(owner, shard_count), owner, TransactionType.TOP_UP, asset, amount_minor, uuid4())


async def _post(engine: AsyncEngine, requests: Iterator[PostingRequest]) -> None:
    while batch := list(islice(requests, BATCH_SIZE)):
        async with unit_of_work(engine) as connection:
            outcomes = await post_batch(connection, batch, _SLOT)
        assert all(isinstance(outcome, Posted) for outcome in outcomes)
