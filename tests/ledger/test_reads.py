import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from itertools import count, islice
from uuid import uuid4

import asyncpg
import pytest
from asyncpg import Connection
from direct import TABLES
from explained import Explained, explain
from factories import new_owner, new_owner_id, post
from pages import asked_pages, model

from wallet_gql.db.engine import connect, create_engine
from wallet_gql.domain.postings import Entry, Posted, PostingRequest, TransactionType, TransactionView
from wallet_gql.domain.shards import shard_of
from wallet_gql.domain.wallets import Balance, OwnerName, Wallet, WalletKind
from wallet_gql.ledger import heads, locks, outcomes, reads
from wallet_gql.ledger.posting import Decided, post_batch
from wallet_gql.ledger.reads import (
    EntryName,
    Page,
    PageRequest,
    WalletAsset,
    read_balances,
    read_entries,
    read_owners_balances,
    read_pages,
    read_transactions,
    read_transactions_by_key,
    read_wallets,
    read_wallets_by_id,
)
from wallet_gql.operations.opening import Ledger, open_ledger
from wallet_gql.operations.unit_of_work import unit_of_work
from wallet_gql.settings import Settings

AMOUNTS = (50, -7, 3, 100, -20, 1, 1, -60, 9, 30, -2, 4)


@dataclass(frozen=True)
class History:
    """An owner with twelve entries in GOLD, none in DIAMOND, and what posting them answered, oldest first."""

    ledger: Ledger
    wallet: Wallet
    posted: list[TransactionView]

    @property
    def gold(self) -> WalletAsset:
        return WalletAsset(self.wallet, self.ledger.assets["GOLD"])

    @property
    def diamond(self) -> WalletAsset:
        return WalletAsset(self.wallet, self.ledger.assets["DIAMOND"])

    @property
    def name(self) -> OwnerName:
        return OwnerName(self.wallet.shard, self.wallet.owner_id)


@pytest.fixture
async def history(ledger: Ledger) -> History:
    owner = await new_owner(ledger)
    outcomes = []
    for n, amount in enumerate(AMOUNTS):
        verb = "spend" if amount < 0 else ("bonus", "top_up")[n % 2]
        outcome = await post(ledger, verb, owner, abs(amount), description=f"no. {n}" if n % 3 else None)
        assert isinstance(outcome, Posted)
        outcomes.append(outcome)
    return History(ledger, outcomes[0].balance.wallet, [outcome.transaction for outcome in outcomes])


@pytest.fixture
async def connection(ledger: Ledger) -> AsyncIterator[Connection]:
    async with connect(ledger.engine) as connection:
        yield connection


def stranger(wallet: Wallet) -> Wallet:
    """Return a wallet that is not there, in the same shard."""
    return Wallet(wallet.shard, 2**60, "nobody", wallet.opened_at)


POSITIONS = (None, 0, 1, 2, 6, 11, 12, 13, 14, 40)
ASKED = asked_pages(POSITIONS)


async def test_a_page_is_what_a_list_would_give(history: History, connection: Connection) -> None:
    pages = await read_pages(connection, [PageRequest(history.gold, **asked) for asked in ASKED])  # type: ignore[arg-type]
    for asked, page in zip(ASKED, pages, strict=True):
        assert page == model(history.posted, asked), asked


async def test_a_page_of_an_account_that_was_never_used_is_empty(history: History, connection: Connection) -> None:
    nobody = WalletAsset(stranger(history.wallet), history.gold.asset)
    for account in (history.diamond, nobody):
        pages = await read_pages(connection, [PageRequest(account, **asked) for asked in ASKED])  # type: ignore[arg-type]
        assert pages == [Page([], 0, has_next_page=False, has_previous_page=False)] * len(ASKED)


async def test_a_page_of_an_account_that_is_open_without_entries_is_empty(
    history: History, connection: Connection
) -> None:
    await connection.execute(
        "INSERT INTO account (shard, wallet_id, wallet_kind, asset_id, may_go_negative) VALUES ($1, $2, 1, $3, false)",
        history.wallet.shard,
        history.wallet.id,
        history.diamond.asset.id,
    )
    pages = await read_pages(connection, [PageRequest(history.diamond, **asked) for asked in ASKED])  # type: ignore[arg-type]
    assert pages == [Page([], 0, has_next_page=False, has_previous_page=False)] * len(ASKED)
    assert await read_balances(connection, [history.diamond]) == [
        Balance(history.wallet, history.diamond.asset, 0, 0)
    ]  # fmt: skip


async def test_following_next_pages_meets_every_transaction_once(history: History, connection: Connection) -> None:
    met: list[TransactionView] = []
    position = None
    while True:
        [page] = await read_pages(connection, [PageRequest(history.gold, first=5, older_than=position)])
        met += page.transactions
        if not page.has_next_page:
            break
        position = page.transactions[-1].seq
        # What arrives meanwhile shifts no page.
        await post(history.ledger, "bonus", history.wallet.owner_id, 1)
    assert met == history.posted[::-1]


async def test_pages_of_several_accounts_keep_their_order(history: History, connection: Connection) -> None:
    other = await new_owner(history.ledger, gold=5)
    [wallet] = await read_wallets(connection, [OwnerName(shard_of(other, history.ledger.shard_count), other)])
    assert wallet is not None
    accounts = [history.diamond, history.gold, WalletAsset(wallet, history.gold.asset), history.gold]
    pages = await read_pages(connection, [PageRequest(account, first=2) for account in accounts])
    assert [[view.seq for view in page.transactions] for page in pages] == [[], [12, 11], [1], [12, 11]]
    assert [page.total_count for page in pages] == [0, 12, 1, 12]
    assert pages[2].transactions[0].wallet_id == wallet.id


async def test_no_page_is_asked_for(connection: Connection) -> None:
    assert await read_pages(connection, []) == []
    assert await read_balances(connection, []) == []


async def test_a_balance_is_the_last_entry_s(history: History, connection: Connection) -> None:
    nobody = WalletAsset(stranger(history.wallet), history.gold.asset)
    balances = await read_balances(connection, [history.diamond, history.gold, nobody, history.gold])
    assert [(found.amount_minor, found.seq) for found in balances] == [(0, 0), (sum(AMOUNTS), 12), (0, 0), (109, 12)]
    assert [found.wallet for found in balances[:2]] == [history.wallet] * 2


async def test_an_owner_s_balance_is_the_wallet_s_and_none_where_there_is_no_wallet(
    history: History, connection: Connection
) -> None:
    gold, diamond = history.gold.asset, history.diamond.asset
    nobody = OwnerName(history.wallet.shard, new_owner_id())
    treasury = OwnerName(history.wallet.shard, str(history.ledger.slot))
    assert await read_owners_balances(
        connection, [(nobody, gold), (history.name, diamond), (history.name, gold), (treasury, gold)]
    ) == [None, Balance(history.wallet, diamond, 0, 0), Balance(history.wallet, gold, 109, 12), None]


async def test_wallets_are_found_by_owner_and_by_id_but_no_treasury_s(history: History, connection: Connection) -> None:
    wallet = history.wallet
    treasury_id = await connection.fetchval("SELECT id FROM wallet WHERE shard = $1 AND kind = 2 LIMIT 1", wallet.shard)
    names = [OwnerName(wallet.shard, new_owner_id()), history.name, OwnerName(wallet.shard, str(history.ledger.slot))]
    assert await read_wallets(connection, [*names, history.name]) == [None, wallet, None, wallet]
    ids = [(wallet.shard, 2**60), (wallet.shard, wallet.id), (wallet.shard, treasury_id), (wallet.shard ^ 1, wallet.id)]
    assert await read_wallets_by_id(connection, ids) == [None, wallet, None, None]


async def test_a_transaction_is_found_by_its_account_and_number(history: History, connection: Connection) -> None:
    posted = history.posted[6]
    treasury = await connection.fetchrow(
        "SELECT e.account_id, e.seq FROM entry e WHERE (e.shard, e.transaction_id) = ($1, $2) AND e.account_id <> $3",
        posted.shard,
        posted.id,
        posted.account_id,
    )
    names = [
        EntryName(posted.shard, posted.account_id, 13),
        EntryName(posted.shard, posted.account_id, posted.seq),
        EntryName(posted.shard, *treasury),
        EntryName(posted.shard, posted.account_id, 0),
    ]
    assert await read_transactions(connection, names) == [None, posted, None, None]


async def test_a_transaction_is_found_by_its_key_under_its_owner_only(history: History, connection: Connection) -> None:
    other, posted = await new_owner(history.ledger), history.posted[3]
    assert posted.idempotency_key is not None
    refused_key = uuid4()
    await post(history.ledger, "spend", history.wallet.owner_id, 10**6, refused_key)
    keys = [
        (OwnerName(shard_of(other, history.ledger.shard_count), other), posted.idempotency_key),
        (history.name, posted.idempotency_key),
        (history.name, uuid4()),
        (history.name, refused_key),
    ]
    assert await read_transactions_by_key(connection, keys) == [None, posted, None, None]


async def test_a_transaction_s_legs_are_the_owner_s_and_the_treasury_s(
    history: History, connection: Connection
) -> None:
    views = [history.posted[n] for n in (1, 0)]
    assert await read_entries(connection, views) == [
        [Entry(WalletKind.USER, -7), Entry(WalletKind.TREASURY, 7)],
        [Entry(WalletKind.USER, 50), Entry(WalletKind.TREASURY, -50)],
    ]


@dataclass(frozen=True)
class Filled:
    """A database of its own, where a thousand owners have one entry; a posting of one who has 10 and of one who has
    20,000.
    """

    settings: Settings
    short: Posted
    long: Posted


@pytest.fixture(scope="module")
def never_analysed(new_database: Callable[[str], Settings]) -> Filled:
    settings = new_database("reads")
    shard = 0

    async def post_many(ledger: Ledger, owners: Sequence[str], size: int) -> list[Decided]:
        gold = ledger.assets["GOLD"]
        async with unit_of_work(ledger.engine) as connection:
            return await post_batch(
                connection,
                [
                    PostingRequest(shard, owner, TransactionType.TOP_UP, gold, 1, uuid4())
                    for owner in owners
                    for _ in range(size)
                ],
                ledger.slot,
            )

    async def fill() -> Filled:
        owner = await asyncpg.connect(
            settings.owner_url().set(drivername="postgresql").render_as_string(hide_password=False)
        )
        for table in TABLES:
            await owner.execute(f"ALTER TABLE {table} SET (autovacuum_enabled = off)")
        await owner.close()
        async with open_ledger(settings) as ledger:
            numbered = (f"player-{n}" for n in count())
            owners = list(islice((name for name in numbered if shard_of(name, ledger.shard_count) == shard), 1002))
            async with connect(ledger.engine) as connection:
                await connection.execute(
                    "INSERT INTO wallet (shard, kind, owner_id) SELECT $1, 1, unnest($2::text[])", shard, owners
                )
            short, long, *others = owners
            await post_many(ledger, others, 1)
            few = await post_many(ledger, [short], 10)
            many = [outcome for _ in range(20) for outcome in await post_many(ledger, [long], 1000)]
            of_few, of_many = few[5], many[10_000]
            assert isinstance(of_few, Posted)
            assert isinstance(of_many, Posted)
            return Filled(settings, of_few, of_many)

    return asyncio.run(fill())


# The third: what the planner believes where nearly all accounts are short.
@pytest.fixture(scope="module", params=["never analysed", "analysed", "analysed as one entry an account"])
def filled(request: pytest.FixtureRequest, never_analysed: Filled, new_database: Callable[..., Settings]) -> Filled:
    if request.param == "never analysed":
        return never_analysed
    name = request.param.replace(" ", "_")
    settings = new_database(f"reads_{name}", template=never_analysed.settings.server_url().database)

    async def analyse() -> None:
        connection = await asyncpg.connect(
            settings.owner_url().set(drivername="postgresql").render_as_string(hide_password=False)
        )
        if request.param != "analysed":
            await connection.execute("ALTER TABLE entry ALTER account_id SET (n_distinct = -1)")
            await connection.execute("ALTER TABLE idempotency_key ALTER wallet_id SET (n_distinct = -1)")
        await connection.execute(f"ANALYZE {', '.join(TABLES)}")
        await connection.close()

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

# The statements that look for one thing, and what each is asked about a posting.
LOOKUPS: dict[str, tuple[str, Callable[[Posted], tuple[object, ...]]]] = {
    "balance": (reads._BALANCES, lambda p: (p.transaction.shard, p.transaction.wallet_id, p.transaction.asset.id)),
    "owner's balance": (
        reads._OWNERS_BALANCES,
        lambda p: (p.transaction.shard, p.balance.wallet.owner_id, p.transaction.asset.id),
    ),
    "transaction": (reads._TRANSACTIONS, lambda p: (p.transaction.shard, p.transaction.account_id, p.transaction.seq)),
    "transaction by key": (
        reads._TRANSACTIONS_BY_KEY,
        lambda p: (p.transaction.shard, p.balance.wallet.owner_id, p.transaction.idempotency_key),
    ),
    "outcome by key": (
        outcomes._KEYS,
        lambda p: (p.transaction.shard, p.balance.wallet.id, p.transaction.idempotency_key),
    ),
    "legs": (reads._ENTRIES, lambda p: (p.transaction.shard, p.transaction.id, p.transaction.asset.id)),
    "a posting's lock": (locks._LOCK, lambda p: (p.transaction.shard, 1, p.balance.wallet.owner_id)),
    "a posting's lock if free": (locks._LOCK_FREE, lambda p: (p.transaction.shard, 1, p.balance.wallet.owner_id)),
    "a posting's head": (
        heads.HEADS,
        lambda p: (p.transaction.shard, p.transaction.wallet_id, p.transaction.asset.id),
    ),
    "a posting's key": (
        heads.KEYS,
        lambda p: (
            p.transaction.shard, p.transaction.wallet_id, p.transaction.idempotency_key, p.transaction.asset.id,
        ),
    ),
}  # fmt: skip


@both_modes
@pytest.mark.parametrize("lookup", LOOKUPS)
async def test_a_lookup_costs_the_same_with_ten_entries_and_with_twenty_thousand(
    filled: Filled, filled_connection: Connection, lookup: str, mode: str
) -> None:
    statement, about = LOOKUPS[lookup]
    short, long = [
        await explain(filled_connection, mode, statement, *about(posted)) for posted in (filled.short, filled.long)
    ]
    assert short.rows == long.rows
    assert long.rows >= 1
    assert abs(long.buffers - short.buffers) <= 2
    assert long.buffers < 25
    assert "Seq Scan" not in short.node_types | long.node_types


@both_modes
async def test_the_thousandth_page_costs_what_the_first_does(
    filled: Filled, filled_connection: Connection, mode: str
) -> None:
    def page(posted: Posted, **more: int) -> Awaitable[Explained]:
        view = posted.transaction
        asked = {"first": 10, "last": None, "offset": 0, "older_than": None, "newer_than": None, **more}
        place = (view.shard, view.wallet_id, view.asset.id)
        return explain(filled_connection, mode, reads._PAGES, *place, *asked.values())

    first = await page(filled.long)
    for explained in (
        first,
        await page(filled.short),
        await page(filled.long, offset=9990),
        await page(filled.long, older_than=10_011),
        await page(filled.long, older_than=11),
    ):
        assert explained.rows == 10
        assert abs(explained.buffers - first.buffers) <= 2
        assert "Seq Scan" not in explained.node_types
    assert first.buffers < 60


async def test_a_posting_and_its_laws_read_as_many_rows_with_ten_entries_as_with_twenty_thousand(
    filled: Filled, filled_connection: Connection
) -> None:
    async def counters() -> dict[str, tuple[int, int]]:
        rows = await filled_connection.fetch(
            "SELECT relname, seq_scan, seq_tup_read + coalesce(idx_tup_fetch, 0) FROM pg_stat_xact_user_tables"
        )
        return {table: (scan_count, row_count) for table, scan_count, row_count in rows}

    async def rows_read(posted: Posted) -> dict[str, int]:
        view, owner_id = posted.transaction, posted.balance.wallet.owner_id
        request = PostingRequest(view.shard, owner_id, TransactionType.SPEND, view.asset, 1, uuid4())
        transaction = filled_connection.transaction()
        await transaction.start()
        before = await counters()
        [outcome] = await post_batch(filled_connection, [request], 0)
        after = await counters()
        await transaction.rollback()
        assert isinstance(outcome, Posted)
        assert {table: scan_count - before[table][0] for table, (scan_count, _) in after.items()} == dict.fromkeys(
            after, 0
        )
        return {table: row_count - before[table][1] for table, (_, row_count) in after.items()}

    short, long = await rows_read(filled.short), await rows_read(filled.long)
    assert short == long
    assert 0 < long["entry"] < 20
