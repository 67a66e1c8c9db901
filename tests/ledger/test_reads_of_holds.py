"""Reads of accounts with holds: what moved is listed as if there were none, what is over is over, none costs more."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from decimal import Decimal
from itertools import count
from typing import Any, Final
from uuid import UUID, uuid4

import asyncpg
import pytest
from asyncpg import Connection
from conftest import plain
from direct import TABLES
from direct_holds import HeldAccount, insert_acts
from explained import explain
from factories import new_owner, post
from pages import asked_pages, model

from wallet_gql.db.engine import connect, create_engine
from wallet_gql.domain.holds import Hold, HoldName, HoldState, HoldStepKind
from wallet_gql.domain.postings import (
    Held,
    HoldRequest,
    PlaceHoldRequest,
    Posted,
    PostingRequest,
    RequestKind,
    TransactionType,
    TransactionView,
)
from wallet_gql.domain.shards import shard_of
from wallet_gql.domain.wallets import Balance, OwnerName, Wallet
from wallet_gql.ledger import heads, holds, reads
from wallet_gql.ledger.holds import HoldPage, HoldPageRequest, read_hold_pages, read_holds, read_holds_by_key
from wallet_gql.ledger.posting import post_batch
from wallet_gql.ledger.reads import (
    EntryName,
    PageRequest,
    WalletAsset,
    read_balances,
    read_captures,
    read_owners_balances,
    read_pages,
    read_transactions,
    read_wallets,
)
from wallet_gql.operations.holds import (
    ChangeHoldInput,
    PlaceHoldInput,
    adjust_hold,
    capture_hold,
    place_hold,
    void_hold,
)
from wallet_gql.operations.opening import Ledger, open_ledger
from wallet_gql.settings import Settings

CHANGES: Final = {"capture": capture_hold, "void": void_hold, "adjust": adjust_hold}


class Account:
    """An owner's account in GOLD; what is done to it, and what moved credits, oldest first."""

    def __init__(self, ledger: Ledger, wallet: Wallet) -> None:
        self.ledger = ledger
        self.wallet = wallet
        self.moved: list[TransactionView] = []
        self.holds: list[Hold] = []
        """As they were placed, oldest first."""

    @property
    def gold(self) -> WalletAsset:
        return WalletAsset(self.wallet, self.ledger.assets["GOLD"])

    async def post(self, verb: str, amount: int) -> None:
        outcome = await post(self.ledger, verb, self.wallet.owner_id, amount)
        assert isinstance(outcome, Posted)
        self.moved.append(outcome.transaction)

    async def place(self, amount: int, **more: Any) -> Hold:
        asked = PlaceHoldInput(self.wallet.owner_id, "GOLD", Decimal(amount), uuid4(), **more)
        outcome = await place_hold(self.ledger, asked)
        assert isinstance(outcome, Held)
        self.holds.append(outcome.hold)
        return outcome.hold

    async def change(self, what: str, hold: Hold, amount: int | None = None, **more: Any) -> Hold:
        asked = ChangeHoldInput(hold.name, "", uuid4(), None if amount is None else Decimal(amount), **more)
        outcome = await CHANGES[what](self.ledger, asked)
        assert isinstance(outcome, Held)
        if outcome.transaction is not None:
            self.moved.append(outcome.transaction)
        return outcome.hold


async def new_account(ledger: Ledger, gold: int = 0) -> Account:
    owner = await new_owner(ledger)
    name = OwnerName(shard_of(owner, ledger.shard_count), owner)
    async with connect(ledger.engine) as connection:
        [wallet] = await read_wallets(connection, [name])
    assert wallet is not None
    account = Account(ledger, wallet)
    if gold:
        await account.post("top_up", gold)
    return account


@pytest.fixture
async def connection(ledger: Ledger) -> AsyncIterator[Connection]:
    async with connect(ledger.engine) as connection:
        yield connection


async def interleaved(ledger: Ledger, *, before: int, ends_with_hold: bool) -> Account:
    """Make a history: so many entries before the first hold, then twelve of which half move nothing."""
    account = await new_account(ledger)
    for n in range(before):
        await account.post("bonus", n + 50)
    first, second = await account.place(5), await account.place(10)
    await account.post("top_up", 100)
    await account.change("void", first)
    await account.change("capture", second, 4, keep_remainder=True)
    await account.change("adjust", second, 20)
    await account.post("spend", 1)
    await account.post("spend", 2)
    await account.change("capture", second)
    third = await account.place(3)
    if ends_with_hold:
        await account.change("adjust", third, 4)
    else:
        await account.post("bonus", 9)
    return account


POSITIONS: Final = (None, *range(18), 40)


@pytest.mark.parametrize("ends_with_hold", [True, False], ids=["ends with a hold", "ends with a posting"])
@pytest.mark.parametrize("before", [1, 4])
async def test_a_page_of_what_moved_is_what_a_list_would_give(
    ledger: Ledger, connection: Connection, before: int, *, ends_with_hold: bool
) -> None:
    account = await interleaved(ledger, before=before, ends_with_hold=ends_with_hold)
    assert [view.seq for view in account.moved] != list(range(1, len(account.moved) + 1))
    asked_for = asked_pages(POSITIONS)
    pages = await read_pages(connection, [PageRequest(account.gold, **asked) for asked in asked_for])  # type: ignore[arg-type]
    for asked, page in zip(asked_for, pages, strict=True):
        assert page == model(account.moved, asked), asked


async def test_a_page_from_the_balance_s_cursor_on_begins_with_what_came_later(
    ledger: Ledger, connection: Connection
) -> None:
    account = await interleaved(ledger, before=2, ends_with_hold=True)
    [balance] = await read_balances(connection, [account.gold])
    known = len(account.moved)
    assert balance.seq == account.moved[-1].seq + 2
    assert [page.transactions for page in await read_pages(connection, [since(account, balance)])] == [[]]
    await account.place(1)
    await account.post("spend", 3)
    await account.place(1)
    [page] = await read_pages(connection, [since(account, balance)])
    assert page.transactions == account.moved[known:]
    assert (page.total_count, page.has_next_page, page.has_previous_page) == (known + 1, True, False)


def since(account: Account, balance: Balance) -> PageRequest:
    return PageRequest(account.gold, last=10, newer_than=balance.seq)


async def test_following_next_pages_meets_every_transaction_once(ledger: Ledger, connection: Connection) -> None:
    account = await interleaved(ledger, before=2, ends_with_hold=True)
    listed, met, position = account.moved[::-1], [], None
    while True:
        [page] = await read_pages(connection, [PageRequest(account.gold, first=2, older_than=position)])
        met += page.transactions
        if not page.has_next_page:
            break
        position = page.transactions[-1].seq
        # What arrives meanwhile shifts no page.
        await account.place(1)
        await account.post("bonus", 1)
    assert met == listed


async def test_an_account_that_only_had_a_hold_s_refusal_has_no_positions(
    ledger: Ledger, connection: Connection
) -> None:
    account = await new_account(ledger, gold=5)
    await place_hold(ledger, PlaceHoldInput(account.wallet.owner_id, "GOLD", Decimal(6), uuid4()))
    await account.post("spend", 5)
    held = await connection.fetchval(
        "SELECT count(*) FROM entry WHERE account_id = $1 AND position IS NOT NULL", account.moved[0].account_id
    )
    [page] = await read_pages(connection, [PageRequest(account.gold, first=10)])
    assert (held, page.transactions, page.total_count) == (0, account.moved[::-1], 2)


async def test_an_entry_that_moves_nothing_is_no_transaction(ledger: Ledger, connection: Connection) -> None:
    account = await new_account(ledger, gold=5)
    hold = await account.place(5)
    name = EntryName(hold.shard, hold.account_id, hold.seq)
    assert await read_transactions(connection, [name, name._replace(seq=1)]) == [None, account.moved[0]]


async def until_over(ledger: Ledger, hold: Hold) -> None:
    async with connect(ledger.engine) as connection:
        await connection.execute("SELECT pg_sleep_until($1)", hold.held_until)
        assert await connection.fetchval("SELECT clock_timestamp() >= $1", hold.held_until)


async def test_a_balance_holds_what_is_not_over_whether_or_not_that_is_booked(
    ledger: Ledger, connection: Connection
) -> None:
    account = await new_account(ledger, gold=100)
    short = await account.place(10, ttl_seconds=1)
    also_short = await account.place(20, ttl_seconds=1)
    long = await account.place(30)
    await account.change("capture", also_short, 5, keep_remainder=True)
    gold, name = account.gold, OwnerName(account.wallet.shard, account.wallet.owner_id)

    async def seen() -> set[tuple[int, int, int, int]]:
        """Return what both ways of reading say: amount, held, available and the cursor."""
        [found] = await read_balances(connection, [gold])
        [same] = await read_owners_balances(connection, [(name, gold.asset)])
        assert same is not None
        return {(each.amount_minor, each.held_minor, each.available_minor, each.seq) for each in (found, same)}

    before = await seen()
    await until_over(ledger, also_short)
    assert before == {(95, 55, 40, 5)}
    assert await seen() == {(95, 30, 65, 5)}
    states = [hold.state for hold in await read_holds(connection, [short.name, also_short.name, long.name]) if hold]
    assert states == [HoldState.EXPIRED, HoldState.EXPIRED, HoldState.OPEN]
    # Two ends are booked before the spend.
    await account.post("spend", 65)
    assert await seen() == {(30, 30, 0, 8)}
    again = [hold.state for hold in await read_holds(connection, [short.name, also_short.name, long.name]) if hold]
    assert again == states
    [only] = await read_captures(connection, [also_short.name])
    assert [view.amount_minor for view in only] == [-5]


def page_model(account: Account, states: dict[UUID, HoldState], asked: HoldPageRequest) -> tuple[list[UUID], bool]:
    """Say what a page of holds is, by a list: newest first, in the state, older than its cursor; and if more follow."""
    listed = [
        hold.id
        for hold in reversed(account.holds)
        if asked.state in {None, states[hold.id]} and (asked.older_than is None or hold.seq < asked.older_than)
    ]
    return listed[: asked.first], len(listed) > asked.first


async def test_a_page_of_holds_is_what_a_list_would_give(ledger: Ledger, connection: Connection) -> None:
    account = await new_account(ledger, gold=1000)
    states: dict[UUID, HoldState] = {}
    for n in range(3):
        over = await account.place(1, ttl_seconds=1)
        states[over.id] = HoldState.EXPIRED
        states[(await account.place(2)).id] = HoldState.OPEN
        voided = await account.place(3)
        await account.change("void", voided)
        states[voided.id] = HoldState.VOIDED
        captured = await account.place(4)
        await account.change("capture", captured, n + 1)
        states[captured.id] = HoldState.CAPTURED
        lowered = await account.place(5)
        await account.change("capture", lowered, 2, keep_remainder=True)
        if n:
            await account.change("adjust", lowered, 2)
        states[lowered.id] = HoldState.CAPTURED if n else HoldState.OPEN
    await until_over(ledger, over)
    seqs = [hold.seq for hold in account.holds]
    asked_for = [
        HoldPageRequest(account.gold, state, first, older_than)
        for state in (None, *HoldState)
        for first in (1, 2, 3, 5, 14, 15, 16, 100)
        for older_than in (None, 0, 1, *(seq + more for seq in seqs for more in (0, 1)), 1000)
    ]
    for is_booked in (False, True):
        pages = await read_hold_pages(connection, asked_for)
        for asked, page in zip(asked_for, pages, strict=True):
            ids, has_more = page_model(account, states, asked)
            assert ([hold.id for hold in page.holds], page.next_older_than is not None) == (ids, has_more), asked
            if has_more:
                assert page.next_older_than == page.holds[-1].seq
            assert {hold.state for hold in page.holds} <= {states[id_] for id_ in ids}
        if not is_booked:
            await account.post("spend", 1)
    assert await read_hold_pages(connection, []) == []


async def test_a_page_of_holds_of_an_account_without_any_is_empty(ledger: Ledger, connection: Connection) -> None:
    account = await new_account(ledger, gold=5)
    diamond = WalletAsset(account.wallet, ledger.assets["DIAMOND"])
    asked = [HoldPageRequest(each, state, 5) for each in (account.gold, diamond) for state in (None, *HoldState)]
    assert await read_hold_pages(connection, asked) == [HoldPage([], None)] * len(asked)


async def test_pages_of_several_accounts_keep_their_order(ledger: Ledger, connection: Connection) -> None:
    one, other = await new_account(ledger, gold=5), await new_account(ledger, gold=5)
    mine, theirs = await one.place(1), await other.place(2)
    await other.change("void", theirs)
    asked = [
        HoldPageRequest(other.gold, HoldState.OPEN, 5),
        HoldPageRequest(other.gold, None, 5),
        HoldPageRequest(one.gold, HoldState.OPEN, 5),
        HoldPageRequest(one.gold, HoldState.VOIDED, 5),
    ]
    pages = await read_hold_pages(connection, asked)
    assert [[hold.id for hold in page.holds] for page in pages] == [[], [theirs.id], [mine.id], []]


CLOSED_HOLDS: Final = 10_000
SHARD: Final = 0


@dataclass(frozen=True)
class Filled:
    """A database of its own: three accounts with three open holds, after one closed hold and after 10,000.

    Of the third account, with 10,000 too, one of the three is over.
    """

    settings: Settings
    short: Wallet
    long: Wallet
    due: Wallet
    names: dict[int, list[HoldName]]
    """The open holds, by the wallets' ids."""


@pytest.fixture(scope="module")
def never_analysed(new_database: Callable[[str], Settings]) -> Filled:
    settings = new_database("reads_of_holds")

    async def fill_account(connection: Connection, owner: str, closed: int, *, is_due: bool) -> list[HoldName]:
        account = await HeldAccount.read(connection, SHARD, owner, 0)
        for _ in range(closed // min(closed, 500)):
            acts = []
            for _ in range(min(closed, 500)):
                placed = account.place(1)
                assert placed.step is not None
                id_ = placed.step.hold_id
                acts += [placed, account.void(id_)]
                # It is of no interest to what follows.
                del account.steps[id_]
            await insert_acts(connection, *acts)
        more = [account.place(1), account.place(2)]
        last = account.place(3, timedelta(seconds=1) if is_due else timedelta(days=1))
        await insert_acts(connection, *more, last)
        return [HoldName(SHARD, act.step.hold_id) for act in (*more, last) if act.step is not None]

    async def fill() -> Filled:
        owner = await asyncpg.connect(plain(settings.owner_url().render_as_string(hide_password=False)))
        for table in TABLES:
            await owner.execute(f"ALTER TABLE {table} SET (autovacuum_enabled = off)")
        await owner.close()
        async with open_ledger(settings) as ledger, connect(ledger.engine) as connection:
            names = (f"player-{n}" for n in count())
            owners = [next(name for name in names if shard_of(name, ledger.shard_count) == SHARD) for _ in range(3)]
            found: dict[int, list[HoldName]] = {}
            wallets: list[Wallet] = []
            for name, closed, is_due in zip(owners, (1, CLOSED_HOLDS, CLOSED_HOLDS), (False, False, True), strict=True):
                await new_owner(ledger, gold=100, owner_id=name)
                opened = await fill_account(connection, name, closed, is_due=is_due)
                [wallet] = await read_wallets(connection, [OwnerName(SHARD, name)])
                assert wallet is not None
                wallets.append(wallet)
                found[wallet.id] = opened
        # What is over is booked by nobody: the ledger's sweeper has gone.
        await asyncio.sleep(1)
        short, long, due = wallets
        return Filled(settings, short, long, due, found)

    return asyncio.run(fill())


@pytest.fixture(scope="module", params=["never analysed", "analysed"])
def filled(request: pytest.FixtureRequest, never_analysed: Filled, new_database: Callable[..., Settings]) -> Filled:
    if request.param == "never analysed":
        return never_analysed
    settings = new_database("reads_of_holds_analysed", template=never_analysed.settings.server_url().database)

    async def analyse() -> None:
        owner = await asyncpg.connect(plain(settings.owner_url().render_as_string(hide_password=False)))
        await owner.execute(f"ANALYZE {', '.join(TABLES)}")
        await owner.close()

    asyncio.run(analyse())
    return replace(never_analysed, settings=settings)


@pytest.fixture
async def filled_connection(filled: Filled) -> AsyncIterator[Connection]:
    """A connection as the service makes it."""
    engine = create_engine(filled.settings)
    async with connect(engine) as connection:
        yield connection
    await engine.dispose()


both_modes = pytest.mark.parametrize("mode", ["force_custom_plan", "force_generic_plan"])
GOLD_ID: Final = 1

# The statements that look for one thing, and what each is asked about a wallet and its open holds.
LOOKUPS: Final[dict[str, tuple[str, Callable[[Wallet, HoldName], tuple[object, ...]]]]] = {
    "balance": (reads._BALANCES, lambda w, _: (SHARD, w.id, GOLD_ID)),
    "owner's balance": (reads._OWNERS_BALANCES, lambda w, _: (SHARD, w.owner_id, GOLD_ID)),
    "head": (heads.HEADS, lambda w, _: (SHARD, w.id, GOLD_ID)),
    "hold": (holds._HOLDS, lambda _, h: (SHARD, h.id)),
    "captures": (reads._CAPTURES, lambda _, h: (SHARD, h.id)),
    "open holds": (holds._OPEN_PAGES, lambda w, _: (SHARD, w.id, GOLD_ID, None, 10)),
    "the first page of holds": (holds._PAGES, lambda w, _: (SHARD, w.id, GOLD_ID, None, 3)),
    "the first page of what moved": (
        reads._PAGES, lambda w, _: (SHARD, w.id, GOLD_ID, 10, None, 0, None, None),
    ),
}  # fmt: skip


@both_modes
@pytest.mark.parametrize("lookup", LOOKUPS)
async def test_a_lookup_costs_the_same_after_one_closed_hold_and_after_ten_thousand(
    filled: Filled, filled_connection: Connection, lookup: str, mode: str
) -> None:
    statement, about = LOOKUPS[lookup]
    short, long = [
        await explain(filled_connection, mode, statement, *about(wallet, filled.names[wallet.id][0]))
        for wallet in (filled.short, filled.long)
    ]
    assert short.rows == long.rows
    assert (long.rows >= 1) is (lookup != "captures")
    # An index of 30,000 entries is one or two levels higher where each open hold is looked up.
    assert abs(long.buffers - short.buffers) <= (12 if lookup in {"open holds", "the first page of holds"} else 4)
    assert long.buffers < (110 if lookup in {"open holds", "the first page of holds"} else 40)
    assert "Seq Scan" not in short.node_types | long.node_types


@both_modes
@pytest.mark.parametrize("lookup", ["balance", "owner's balance", "head"])
async def test_a_balance_with_nothing_due_is_one_look_up_of_the_head(
    filled: Filled, filled_connection: Connection, lookup: str, mode: str
) -> None:
    statement, about = LOOKUPS[lookup]
    explained = await explain(filled_connection, mode, statement, *about(filled.long, filled.names[filled.long.id][0]))
    head = {"limit_rule"} if lookup == "head" else set()
    assert explained.tables - {"wallet"} == {"account", "entry", "wallet_state"} | head
    assert explained.buffers < 16


@both_modes
async def test_a_balance_with_something_due_looks_at_what_is_open_only(
    filled: Filled, filled_connection: Connection, mode: str
) -> None:
    explained = await explain(filled_connection, mode, reads._BALANCES, SHARD, filled.due.id, GOLD_ID)
    assert explained.tables == {"account", "entry", "hold_step", "wallet_state"}
    assert explained.buffers < 40
    [gold] = [asset for asset in await reads.read_assets(filled_connection) if asset.code == "GOLD"]
    found = await read_balances(filled_connection, [WalletAsset(wallet, gold) for wallet in (filled.long, filled.due)])
    assert [(each.amount_minor, each.held_minor) for each in found] == [(100, 6), (100, 3)]


async def test_a_page_in_a_state_looks_at_a_thousand_holds_and_says_where_to_go_on(
    filled: Filled, filled_connection: Connection
) -> None:
    [gold] = [asset for asset in await reads.read_assets(filled_connection) if asset.code == "GOLD"]
    account = WalletAsset(filled.long, gold)
    request = HoldPageRequest(account, HoldState.CAPTURED, 10)
    met, older_than = 0, None
    while True:
        [page] = await read_hold_pages(filled_connection, [replace(request, older_than=older_than)])
        assert page.holds == []
        met += 1
        if page.next_older_than is None:
            break
        assert older_than is None or page.next_older_than < older_than
        older_than = page.next_older_than
    assert met == CLOSED_HOLDS // holds.WALKED_MAX + 1
    [voided] = await read_hold_pages(filled_connection, [replace(request, state=HoldState.VOIDED)])
    assert [hold.kind for hold in voided.holds] == [HoldStepKind.VOIDED] * 10


async def test_acts_and_their_laws_read_as_many_rows_after_one_closed_hold_as_after_ten_thousand(
    filled: Filled, filled_connection: Connection
) -> None:
    [gold] = [asset for asset in await reads.read_assets(filled_connection) if asset.code == "GOLD"]

    async def counters() -> dict[str, tuple[int, int]]:
        rows = await filled_connection.fetch(
            "SELECT relname, seq_scan, seq_tup_read + coalesce(idx_tup_fetch, 0) FROM pg_stat_xact_user_tables"
        )
        return {table: (scan_count, row_count) for table, scan_count, row_count in rows}

    async def rows_read(wallet: Wallet, what: str) -> dict[str, int]:
        owner = OwnerName(SHARD, wallet.owner_id)
        [hold] = [hold for hold in await read_holds(filled_connection, filled.names[wallet.id][:1]) if hold]
        request: Any = {
            "spend": PostingRequest(SHARD, wallet.owner_id, TransactionType.SPEND, gold, 1, uuid4()),
            "place": PlaceHoldRequest(owner, None, gold, 1, 60, uuid4()),
            "capture": HoldRequest(RequestKind.CAPTURE_HOLD, hold, 1, uuid4()),
            "void": HoldRequest(RequestKind.VOID_HOLD, hold, None, uuid4()),
            "adjust": HoldRequest(RequestKind.ADJUST_HOLD, hold, 2, uuid4()),
        }[what]
        transaction = filled_connection.transaction()
        await transaction.start()
        before = await counters()
        [outcome] = await post_batch(filled_connection, [request], 0)
        after = await counters()
        await transaction.rollback()
        assert isinstance(outcome, Posted | Held)
        scanned = {table for table, (scan_count, _) in after.items() if scan_count != before[table][0]}
        # Assets and what is set of them are a handful.
        assert scanned <= {"asset", "asset_setting"}
        return {table: row_count - before[table][1] for table, (_, row_count) in after.items()}

    for what in ("spend", "place", "capture", "void", "adjust"):
        short, long = await rows_read(filled.short, what), await rows_read(filled.long, what)
        assert short == long, what
        assert 0 < long["entry"] < 30
        assert long["hold_step"] < 60
        booked = await rows_read(filled.due, what)
        assert booked["hold_step"] < 80


async def test_a_hold_is_found_by_its_key_under_its_owner_only(ledger: Ledger, connection: Connection) -> None:
    account, other = await new_account(ledger, gold=10), await new_account(ledger, gold=10)
    hold = await account.place(5)
    name, stranger = [OwnerName(each.wallet.shard, each.wallet.owner_id) for each in (account, other)]
    keys = [(stranger, hold.idempotency_key), (name, hold.idempotency_key), (name, uuid4())]
    found = await read_holds_by_key(connection, keys)
    assert [None if each is None else each.id for each in found] == [None, hold.id, None]
