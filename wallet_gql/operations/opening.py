"""Opens the ledger for a worker: connections, its own treasury stripes, and what never changes."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Final, TypeAlias
from uuid import UUID

import structlog
from asyncpg import Connection
from sqlalchemy.ext.asyncio import AsyncEngine

from wallet_gql.db.api_keys import read_keys
from wallet_gql.db.connecting import is_standby
from wallet_gql.db.engine import close, connect, create_engine, lend
from wallet_gql.db.migrations import UnfitDatabase, check_at_head
from wallet_gql.domain.api_keys import ApiKey
from wallet_gql.domain.assets import Asset, AssetSetting
from wallet_gql.domain.holds import Hold, HoldName
from wallet_gql.domain.limits import Rule, RuleName
from wallet_gql.domain.lots import LotName
from wallet_gql.domain.postings import Entry, Outcome, Request, TransactionName, TransactionView
from wallet_gql.domain.wallets import Balance, OwnerName, Wallet, WalletState
from wallet_gql.ledger import reads
from wallet_gql.ledger.armour import check_armour
from wallet_gql.ledger.clock import read_clock
from wallet_gql.ledger.holds import (
    HoldPage,
    HoldPageRequest,
    read_hold_pages,
    read_holds,
    read_holds_by_key,
    read_holds_of_transactions,
)
from wallet_gql.ledger.limit_reads import LimitUse, ResetRequest, read_limit_uses, read_resets, read_rules_of
from wallet_gql.ledger.limits import Chain, KnownLimits, read_rules
from wallet_gql.ledger.lot_reads import (
    LotPage,
    LotPageRequest,
    LotPart,
    LotView,
    read_lapsed_again,
    read_lot_pages,
    read_lot_parts,
    read_lots_by_name,
)
from wallet_gql.ledger.reversals import Reversal, read_reversals, read_reversed, read_reversing
from wallet_gql.ledger.searches import FoundPage, SearchRequest, search
from wallet_gql.ledger.states import WalletId, read_states_in_order, read_status_events
from wallet_gql.ledger.treasury import any_slot, claim_slot, open_stripes, treasuries
from wallet_gql.operations.callers import Callers, open_callers
from wallet_gql.operations.group_commit import GroupCommit
from wallet_gql.operations.openings import Openings
from wallet_gql.operations.outcomes import Outcomes
from wallet_gql.operations.read_batches import ReadBatch
from wallet_gql.operations.sweeper import keep_sweeping
from wallet_gql.settings import Settings

SLOT_CHECKED_EVERY_SECONDS: Final = 5

LIMIT_CHANGES_AT_ONCE: Final = 2
BATCH_POSTINGS_AT_ONCE: Final = 64

_log = structlog.get_logger()

Post: TypeAlias = Callable[[Request, float | None], Awaitable[Outcome]]


@dataclass(frozen=True, slots=True)
class Reads:
    """The batched reads, one a kind of question."""

    wallets: ReadBatch[OwnerName, Wallet | None]
    wallets_by_id: ReadBatch[tuple[int, int], Wallet | None]
    balances: ReadBatch[reads.WalletAsset, Balance]
    owners_balances: ReadBatch[tuple[OwnerName, Asset], Balance | None]
    pages: ReadBatch[reads.PageRequest, reads.Page]
    entries: ReadBatch[TransactionView, list[Entry]]
    transactions: ReadBatch[reads.EntryName, TransactionView | None]
    transactions_by_key: ReadBatch[tuple[OwnerName, UUID], TransactionView | None]
    own_transactions: ReadBatch[reads.OwnTransaction, TransactionView | None]
    owners_of_transactions: ReadBatch[TransactionName, str | None]
    notes: ReadBatch[TransactionName, reads.Note]
    searches: ReadBatch[SearchRequest, FoundPage]
    holds: ReadBatch[HoldName, Hold | None]
    holds_by_key: ReadBatch[tuple[OwnerName, UUID], Hold | None]
    hold_pages: ReadBatch[HoldPageRequest, HoldPage]
    captures: ReadBatch[HoldName, list[TransactionView]]
    holds_of_transactions: ReadBatch[TransactionName, Hold | None]
    lots: ReadBatch[LotName, LotView | None]
    lot_pages: ReadBatch[LotPageRequest, LotPage]
    lot_parts: ReadBatch[reads.EntryName, list[LotPart]]
    lapsed_again: ReadBatch[reads.EntryName, int]
    reversals: ReadBatch[TransactionName, Reversal | None]
    reversing: ReadBatch[TransactionName, list[TransactionName]]
    reversed_minor: ReadBatch[TransactionName, int]
    assets: ReadBatch[None, list[Asset]]
    asset_settings: ReadBatch[None, dict[int, AssetSetting]]
    states: ReadBatch[WalletId, WalletState | None]
    status_events: ReadBatch[WalletId, TransactionName | None]
    clock: ReadBatch[None, datetime]
    api_keys: ReadBatch[None, list[ApiKey]]
    limit_rules: ReadBatch[RuleName, Rule | None]
    limits_in_force: ReadBatch[Chain, tuple[Rule, ...]]
    limit_uses: ReadBatch[reads.WalletAsset, list[LimitUse]]
    limit_resets: ReadBatch[ResetRequest, datetime]


@dataclass(frozen=True, slots=True)
class Ledger:
    """An open ledger.

    `assets` is a cache by code: assets are only ever added, so what is in it stays true. `placed_holds` are some that
    this worker placed, for what never changes of a hold.
    """

    engine: AsyncEngine
    settings: Settings
    assets: dict[str, Asset]
    placed_holds: dict[HoldName, Hold]
    reads: Reads
    outcomes: Outcomes
    openings: Openings
    callers: Callers
    commits: GroupCommit
    post: Post
    limit_changes: asyncio.Semaphore
    """So many change limits at once: each holds a connection."""
    batch_postings: asyncio.Semaphore
    """So many postings of batches are under way at once: what comes alone waits behind no more."""

    @property
    def shard_count(self) -> int:
        """How many shards the data is spread over; the database says the same."""
        return self.settings.shard_count

    @property
    def slot(self) -> int:
        """The slot whose treasury stripes are posted against; it changes when the session that holds it ends."""
        return self.commits.slot


class ShardCountDiffers(UnfitDatabase):
    """The settings name another number of shards than the database was made with."""


class ModeDiffers(UnfitDatabase):
    """The settings name another mode than the database was made for."""


@asynccontextmanager
async def open_ledger(settings: Settings) -> AsyncIterator[Ledger]:
    """Open the ledger of the configured database until the block ends.

    Raises `UnfitDatabase` for one that this version must not write to, or whatever stopped it from finding out.
    """
    async with AsyncExitStack() as stack:
        engine = create_engine(settings)
        stack.push_async_callback(close, engine)
        await check_at_head(engine)
        async with connect(engine) as connection:
            await check_armour(connection)
            await _check_fixed(connection, settings)
            assets = {asset.code: asset for asset in await reads.read_assets(connection)}
        callers = await stack.enter_async_context(open_callers(engine, settings))
        holding = await stack.enter_async_context(AsyncExitStack())
        slot, session = await holding.enter_async_context(_slot(engine, settings))
        commits = GroupCommit(
            engine, slot, deadline_seconds=settings.request_deadline_seconds, queue_size_max=settings.queue_size_max
        )
        ledger = Ledger(
            engine=engine,
            settings=settings,
            assets=assets,
            placed_holds={},
            reads=_batched_reads(engine, settings.request_deadline_seconds),
            outcomes=Outcomes(engine, settings.request_deadline_seconds),
            openings=Openings(engine, settings.request_deadline_seconds, settings.queue_size_max),
            callers=callers,
            post=commits.post,
            commits=commits,
            limit_changes=asyncio.Semaphore(LIMIT_CHANGES_AT_ONCE),
            batch_postings=asyncio.Semaphore(BATCH_POSTINGS_AT_ONCE),
        )
        if session is not None:
            stack.push_async_callback(end, asyncio.create_task(_keep_slot(ledger, holding, session)))
        stack.push_async_callback(end, asyncio.create_task(keep_sweeping(engine, settings.shard_count)))
        stack.push_async_callback(commits.close)
        stack.push_async_callback(ledger.openings.close)
        stack.push_async_callback(ledger.outcomes.close)
        yield ledger


async def _check_fixed(connection: Connection, settings: Settings) -> None:
    """Refuse settings that differ from what was fixed when the database was made."""
    shard_count = await reads.read_shard_count(connection)
    if shard_count != settings.shard_count:
        raise ShardCountDiffers(
            f"The database was made with {shard_count} shards, which never changes, but WALLET_SHARD_COUNT"
            f" says {settings.shard_count}: set it to {shard_count}."
        )
    mode = "test" if await reads.read_is_test_mode(connection) else "live"
    if mode != settings.mode:
        raise ModeDiffers(
            f"The database was made in {mode} mode, which never changes, but WALLET_MODE says {settings.mode}:"
            f" set it to {mode}, or use a database of its own."
        )


@asynccontextmanager
async def _slot(engine: AsyncEngine, settings: Settings) -> AsyncIterator[tuple[int, Connection | None]]:
    """Have a slot whose stripes are open, and the session that holds it, until the block ends."""
    if settings.pgbouncer:
        # No session is ours there, so no lock of a session: workers that share a slot wait for each other.
        slot = any_slot()
        async with connect(engine) as connection:
            await open_stripes(connection, treasuries(slot, settings.shard_count))
        yield slot, None
        return
    async with lend(engine) as session:
        try:
            slot = await claim_slot(session)
            await open_stripes(session, treasuries(slot, settings.shard_count))
            yield slot, session
        finally:
            # The slot is free when the session ends: it must not go back to the pool with it.
            session.terminate()


async def _keep_slot(ledger: Ledger, holding: AsyncExitStack, session: Connection) -> None:
    """Claim a slot again whenever the session that holds one is lost: nobody else knows that it is ours."""
    while True:
        await _is_lost(session)
        await holding.aclose()
        try:
            slot, found = await holding.enter_async_context(_slot(ledger.engine, ledger.settings))
        except Exception as error:  # noqa: BLE001 - a worker without a slot of its own is slower, and no worse
            _log.warning("no slot", reason=str(error))
            await asyncio.sleep(SLOT_CHECKED_EVERY_SECONDS)
        else:
            assert found is not None
            ledger.commits.slot, session = slot, found
            _log.info("slot", slot=slot)


async def _is_lost(session: Connection) -> None:
    """Return when a session has ended, fallen silent, or become a standby's."""
    has_ended = asyncio.Event()
    session.add_termination_listener(lambda _: has_ended.set())
    while not (session.is_closed() or is_standby(session)):
        with suppress(TimeoutError):
            await asyncio.wait_for(has_ended.wait(), SLOT_CHECKED_EVERY_SECONDS)
        try:
            async with asyncio.timeout(SLOT_CHECKED_EVERY_SECONDS):
                await session.execute("SELECT 1")
        except Exception:  # noqa: BLE001 - whatever stops it from answering
            return


async def end(task: asyncio.Task[None]) -> None:
    """Cancel a task and wait for its end."""
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


def _batched_reads(engine: AsyncEngine, deadline_seconds: float) -> Reads:
    return Reads(
        wallets=ReadBatch(engine, reads.read_wallets, deadline_seconds),
        states=ReadBatch(engine, read_states_in_order, deadline_seconds),
        status_events=ReadBatch(engine, read_status_events, deadline_seconds),
        wallets_by_id=ReadBatch(engine, reads.read_wallets_by_id, deadline_seconds),
        balances=ReadBatch(engine, reads.read_balances, deadline_seconds),
        owners_balances=ReadBatch(engine, reads.read_owners_balances, deadline_seconds),
        pages=ReadBatch(engine, reads.read_pages, deadline_seconds, rows=lambda page: 1 + len(page.transactions)),
        entries=ReadBatch(engine, reads.read_entries, deadline_seconds, rows=len),
        transactions=ReadBatch(engine, reads.read_transactions, deadline_seconds),
        transactions_by_key=ReadBatch(engine, reads.read_transactions_by_key, deadline_seconds),
        own_transactions=ReadBatch(engine, reads.read_own_transactions, deadline_seconds),
        owners_of_transactions=ReadBatch(engine, reads.read_owners, deadline_seconds),
        notes=ReadBatch(engine, reads.read_notes, deadline_seconds),
        searches=ReadBatch(engine, search, deadline_seconds, rows=lambda page: 1 + len(page.found)),
        holds=ReadBatch(engine, read_holds, deadline_seconds),
        holds_by_key=ReadBatch(engine, read_holds_by_key, deadline_seconds),
        hold_pages=ReadBatch(engine, read_hold_pages, deadline_seconds, rows=lambda page: 1 + len(page.holds)),
        captures=ReadBatch(engine, reads.read_captures, deadline_seconds, rows=len),
        holds_of_transactions=ReadBatch(engine, read_holds_of_transactions, deadline_seconds),
        lots=ReadBatch(engine, read_lots_by_name, deadline_seconds),
        lot_pages=ReadBatch(engine, read_lot_pages, deadline_seconds, rows=lambda page: 1 + len(page.lots)),
        lot_parts=ReadBatch(engine, read_lot_parts, deadline_seconds, rows=len),
        lapsed_again=ReadBatch(engine, read_lapsed_again, deadline_seconds),
        reversals=ReadBatch(engine, read_reversals, deadline_seconds),
        reversing=ReadBatch(engine, read_reversing, deadline_seconds, rows=len),
        reversed_minor=ReadBatch(engine, _read_reversed_minor, deadline_seconds),
        assets=ReadBatch(engine, _read_assets, deadline_seconds),
        asset_settings=ReadBatch(engine, _read_asset_settings, deadline_seconds),
        clock=ReadBatch(engine, _read_clock, deadline_seconds),
        api_keys=ReadBatch(engine, _read_api_keys, deadline_seconds),
        limit_rules=ReadBatch(engine, read_rules, deadline_seconds),
        limits_in_force=ReadBatch(engine, read_rules_of, deadline_seconds, rows=len),
        limit_uses=ReadBatch(engine, partial(read_limit_uses, known=KnownLimits()), deadline_seconds, rows=len),
        limit_resets=ReadBatch(engine, read_resets, deadline_seconds),
    )


async def _read_assets(connection: Connection, keys: Sequence[None]) -> list[list[Asset]]:
    """Return all assets for whoever asks: there is nothing to ask but everything."""
    return [await reads.read_assets(connection)] * len(keys)


async def _read_clock(connection: Connection, keys: Sequence[None]) -> list[datetime]:
    return [await read_clock(connection)] * len(keys)


async def _read_api_keys(connection: Connection, keys: Sequence[None]) -> list[list[ApiKey]]:
    return [await read_keys(connection, good_only=False)] * len(keys)


async def _read_asset_settings(connection: Connection, keys: Sequence[None]) -> list[dict[int, AssetSetting]]:
    """Return what holds for assets now, for whoever asks."""
    return [await reads.read_asset_settings(connection)] * len(keys)


async def _read_reversed_minor(connection: Connection, originals: Sequence[TransactionName]) -> list[int]:
    """Return how much of each transaction was reversed, in order."""
    found = await read_reversed(connection, originals)
    return [found[original].amount_minor if original in found else 0 for original in originals]
