"""The databases under load: making them, posting to them by `post_batch`, and reading what postings cost there."""

import asyncio
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias
from uuid import uuid4

import asyncpg
from pydantic import SecretStr
from servers import Processes, clean_environment
from sqlalchemy import make_url
from sqlalchemy.ext.asyncio import AsyncEngine

from wallet_gql.db.engine import connect, create_engine
from wallet_gql.domain.assets import Asset
from wallet_gql.domain.postings import Held, Posted, PostingRequest, Request, TransactionType
from wallet_gql.domain.shards import shard_of
from wallet_gql.domain.wallets import OwnerName, WalletKind
from wallet_gql.embedded.launcher import EmbeddedPostgres, start
from wallet_gql.ledger.posting import post_batch
from wallet_gql.ledger.reads import read_assets
from wallet_gql.ledger.treasury import open_stripes, treasuries
from wallet_gql.operations.proof import Proof, prove
from wallet_gql.operations.unit_of_work import unit_of_work
from wallet_gql.settings import Settings

BATCH_SIZE: Final = 1000
LANE_COUNT: Final = 4
STATEMENTS_PER_UNIT: Final = 6
"""BEGIN, lock, heads, keys, insert, COMMIT: a unit of work in which no account is opened."""

Mode: TypeAlias = Literal["live", "test"]

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

    def __init__(self, cluster: "Cluster", name: str, shard_count: int, mode: Mode = "live") -> None:
        """Name it; `Cluster` makes it."""
        self.cluster = cluster
        self.name = name
        self.shard_count = shard_count
        self.mode: Mode = mode

    def environment(self) -> dict[str, str]:
        """Return what gives a command this database."""
        return {
            "DATABASE_URL": self._url(self.cluster.server.server_url),
            "WALLET_MIGRATION_DATABASE_URL": self._url(self.cluster.server.owner_url),
            "WALLET_SHARD_COUNT": str(self.shard_count),
            "WALLET_MODE": self.mode,
            "WALLET_ACCESS": "open",
        }

    def settings(self) -> Settings:
        """Return the service's settings for this database."""
        url = SecretStr(self._url(self.cluster.server.server_url))
        return Settings(_env_file=None, DATABASE_URL=url, shard_count=self.shard_count, mode=self.mode)

    def command(self, *arguments: str) -> None:
        """Run a command of the service on it."""
        program = str(Path(sys.executable).with_name("wallet-gql"))
        environment = clean_environment(self.environment())
        subprocess.run(
            [program, *arguments], cwd=self.cluster.scratch, env=environment, check=True, stdout=subprocess.DEVNULL
        )

    def execute(self, *statements: str) -> Any:
        """Run statements as the superuser; returns the last one's value."""
        return asyncio.run(self.execute_beside(*statements))

    async def execute_beside(self, *statements: str) -> Any:
        """Do so where a loop is running: a second one in a thread would share asyncio's set of all tasks with it."""
        connection = await asyncpg.connect(_plain(self._url(self.cluster.server.superuser_url)), timeout=30)
        try:
            return [await connection.fetchval(statement) for statement in statements][-1]
        finally:
            await connection.close()

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

    def create(self, name: str, *, shard_count: int = 64, mode: Mode = "live") -> Database:
        """Make and migrate a database."""
        database = Database(self, name, shard_count, mode)
        Database(self, "postgres", 0).execute(f"CREATE DATABASE {name} OWNER wallet_owner")
        database.command("migrate")
        database.command("add-asset", "GOLD", "--name", "Gold Coins", "--scale", "0")
        return database

    def clone(self, template: Database, name: str) -> Database:
        """Copy a database that nobody uses."""
        self.execute(f"CREATE DATABASE {name} OWNER wallet_owner TEMPLATE {template.name}")
        return Database(self, name, template.shard_count, template.mode)

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


def owner_ids(count: int, prefix: str = "bench") -> list[str]:
    """Name owners as load.lua does."""
    return [f"{prefix}-{n:05d}" for n in range(count)]


def fill(*plans: Plan) -> None:
    """Open the plans' owners and post what they say, all at once."""

    async def run() -> None:
        async with asyncio.TaskGroup() as tasks:
            for plan in plans:
                tasks.create_task(in_lanes(plan.database, plan.owners, partial(_top_up, plan)))

    asyncio.run(run())


@dataclass(frozen=True, slots=True)
class Lane:
    """The owners of some shards, and what posts for them: lanes do not wait for each other's stripes."""

    number: int
    owners: Sequence[str]
    engine: AsyncEngine
    asset: Asset
    shard_count: int

    def name(self, owner: str) -> OwnerName:
        """Return an owner with the shard."""
        return OwnerName(shard_of(owner, self.shard_count), owner)

    def posting(self, owner: str, type_: TransactionType, amount_minor: int) -> PostingRequest:
        """Return a posting under a fresh key."""
        return PostingRequest(*self.name(owner), type_, self.asset, amount_minor, uuid4())

    async def post(self, requests: Sequence[Request]) -> list[Posted | Held]:
        """Post a batch, none of which may be refused."""
        async with unit_of_work(self.engine) as connection:
            outcomes = await post_batch(connection, requests, _SLOT, line=self.number)
        posted = [outcome for outcome in outcomes if isinstance(outcome, Posted | Held)]
        refused = [outcome for outcome in outcomes if not isinstance(outcome, Posted | Held)]
        assert not refused, refused[0]
        return posted


async def in_lanes(database: Database, owners: Sequence[str], work: Callable[[Lane], Awaitable[None]]) -> None:
    """Open the owners' wallets, and do some work on each lane of them, all lanes at once."""
    engine = create_engine(database.settings())
    try:
        async with connect(engine) as connection:
            asset = next(asset for asset in await read_assets(connection) if asset.code == "GOLD")
            await open_stripes(connection, treasuries(_SLOT, database.shard_count))
            await _open_wallets(connection, owners, database.shard_count)
        async with asyncio.TaskGroup() as tasks:
            for number in range(LANE_COUNT):
                own = [owner for owner in owners if shard_of(owner, database.shard_count) % LANE_COUNT == number]
                if own:
                    tasks.create_task(_run(work, Lane(number, own, engine, asset, database.shard_count)))
    finally:
        await engine.dispose()


async def _run(work: Callable[[Lane], Awaitable[None]], lane: Lane) -> None:
    await work(lane)


async def _top_up(plan: Plan, lane: Lane) -> None:
    count = round(plan.posting_count * len(lane.owners) / len(plan.owners))
    owners = islice(cycle(lane.owners), count)
    while batch := list(islice(owners, BATCH_SIZE)):
        await lane.post([lane.posting(owner, TransactionType.TOP_UP, plan.amount_minor) for owner in batch])


def _plain(url: str) -> str:
    return make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)


def _position(mark: WalMark) -> int:
    high, _, low = mark.lsn.partition("/")
    return (int(high, 16) << 32) + int(low, 16)


async def _open_wallets(connection: asyncpg.Connection, owners: Sequence[str], shard_count: int) -> None:
    await connection.execute(
        "INSERT INTO wallet (shard, kind, owner_id) SELECT shard, $3, owner_id"
        " FROM unnest($1::smallint[], $2::text[]) AS new(shard, owner_id)"
        " ON CONFLICT (shard, kind, owner_id) DO NOTHING",
        [shard_of(owner, shard_count) for owner in owners],
        list(owners),
        WalletKind.USER,
    )
