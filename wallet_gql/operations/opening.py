"""Opens the ledger for a worker: connections, its own treasury stripes, and what never changes."""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Final, TypeAlias
from uuid import UUID

from asyncpg import Connection
from sqlalchemy.ext.asyncio import AsyncEngine

from wallet_gql.db.engine import connect, create_engine, lend
from wallet_gql.db.migrations import check_at_head
from wallet_gql.domain.model import Asset, Balance, Entry, Outcome, PostingRequest, TransactionView, Wallet
from wallet_gql.ledger import reads
from wallet_gql.ledger.armour import check_armour
from wallet_gql.ledger.treasury import SLOT_COUNT, claim_slot, open_stripes
from wallet_gql.operations.group_commit import GroupCommit
from wallet_gql.operations.outcomes import Outcomes
from wallet_gql.operations.read_batches import ReadBatch
from wallet_gql.settings import Settings

CLOSED_WITHIN_SECONDS: Final = 2

Post: TypeAlias = Callable[[PostingRequest], Awaitable[Outcome]]


@dataclass(frozen=True, slots=True)
class Reads:
    """The batched reads, one a kind of question."""

    wallets: ReadBatch[reads.OwnerName, Wallet | None]
    wallets_by_id: ReadBatch[tuple[int, int], Wallet | None]
    balances: ReadBatch[reads.WalletAsset, Balance]
    owners_balances: ReadBatch[tuple[reads.OwnerName, Asset], Balance | None]
    pages: ReadBatch[reads.PageRequest, reads.Page]
    entries: ReadBatch[TransactionView, list[Entry]]
    transactions: ReadBatch[reads.TransactionName, TransactionView | None]
    transactions_by_key: ReadBatch[tuple[reads.OwnerName, UUID], TransactionView | None]
    assets: ReadBatch[None, list[Asset]]


@dataclass(frozen=True, slots=True)
class Ledger:
    """An open ledger. `assets` is a cache by code: assets are only ever added, so what is in it stays true."""

    engine: AsyncEngine
    settings: Settings
    shard_count: int
    slot: int
    assets: dict[str, Asset]
    reads: Reads
    outcomes: Outcomes
    commits: GroupCommit
    post: Post


class ShardCountDiffers(Exception):
    """The settings name another number of shards than the database was made with."""


@asynccontextmanager
async def open_ledger(settings: Settings) -> AsyncIterator[Ledger]:
    """Open the ledger of the configured database until the block ends.

    Raises `SchemaNotAtHead`, `ArmourDamaged` or `ShardCountDiffers` for a database that this version must not write to.
    """
    async with AsyncExitStack() as stack:
        engine = create_engine(settings)
        stack.push_async_callback(_close, engine)
        await check_at_head(engine)
        async with connect(engine) as connection:
            await check_armour(connection)
            shard_count = await reads.read_shard_count(connection)
            if shard_count != settings.shard_count:
                raise ShardCountDiffers(
                    f"The database was made with {shard_count} shards, which is fixed for ever, but WALLET_SHARD_COUNT"
                    f" says {settings.shard_count}: set it to {shard_count}."
                )
            assets = {asset.code: asset for asset in await reads.read_assets(connection)}
        if settings.pgbouncer:
            # No session is ours there, so no lock of a session: workers that share a slot wait for each other.
            slot = os.getpid() % SLOT_COUNT
        else:
            # Held open, outside the pool's turn-over: the slot is ours for as long as this connection lives.
            slot = await claim_slot(await stack.enter_async_context(lend(engine)))
        async with connect(engine) as connection:
            await open_stripes(connection, slot, shard_count)
        commits = GroupCommit(
            engine,
            slot,
            deadline_seconds=settings.request_deadline_seconds,
            queue_size_max=settings.queue_size_max,
        )
        stack.push_async_callback(commits.close)
        yield Ledger(
            engine=engine,
            settings=settings,
            shard_count=shard_count,
            slot=slot,
            assets=assets,
            reads=_batched_reads(engine, settings.request_deadline_seconds),
            outcomes=Outcomes(engine, settings.request_deadline_seconds),
            post=commits.post,
            commits=commits,
        )


async def _close(engine: AsyncEngine) -> None:
    """Close the pool; what a silent database does not confirm, the end of the process closes."""
    with suppress(TimeoutError):
        async with asyncio.timeout(CLOSED_WITHIN_SECONDS):
            await engine.dispose()


def _batched_reads(engine: AsyncEngine, deadline_seconds: float) -> Reads:
    return Reads(
        wallets=ReadBatch(engine, reads.read_wallets, deadline_seconds),
        wallets_by_id=ReadBatch(engine, reads.read_wallets_by_id, deadline_seconds),
        balances=ReadBatch(engine, reads.read_balances, deadline_seconds),
        owners_balances=ReadBatch(engine, reads.read_owners_balances, deadline_seconds),
        pages=ReadBatch(engine, reads.read_pages, deadline_seconds, rows=lambda page: 1 + len(page.transactions)),
        entries=ReadBatch(engine, reads.read_entries, deadline_seconds, rows=len),
        transactions=ReadBatch(engine, reads.read_transactions, deadline_seconds),
        transactions_by_key=ReadBatch(engine, reads.read_transactions_by_key, deadline_seconds),
        assets=ReadBatch(engine, _read_assets, deadline_seconds),
    )


async def _read_assets(connection: Connection, keys: Sequence[None]) -> list[list[Asset]]:
    """Return all assets for whoever asks: there is nothing to ask but everything."""
    return [await reads.read_assets(connection)] * len(keys)
