"""However old plans and statistics are, a look-up reads the rows of its whole key: what the indexes count says so."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from itertools import pairwise
from typing import Any, Final
from uuid import uuid4

import asyncpg
import pytest
from asyncpg import Connection
from sqlalchemy import make_url

from wallet_gql.db.engine import create_engine, lend
from wallet_gql.domain.assets import Asset
from wallet_gql.domain.limits import (
    CalendarUnit,
    Enforcement,
    LimitFlow,
    LimitRequest,
    LimitsSet,
    NewLimit,
    Rule,
    RuleName,
    Window,
)
from wallet_gql.domain.postings import (
    Changed,
    Posted,
    PostingRequest,
    Remainder,
    RequestKind,
    StateRequest,
    TransactionType,
)
from wallet_gql.domain.wallets import OwnerName
from wallet_gql.embedded.launcher import EmbeddedPostgres
from wallet_gql.ledger.limit_reads import read_limit_uses, read_resets, read_rules_of
from wallet_gql.ledger.limit_rules import change_limits
from wallet_gql.ledger.limits import Chain, KnownLimits, read_rules
from wallet_gql.ledger.posting import post_batch
from wallet_gql.ledger.reads import (
    EntryName,
    PageRequest,
    WalletAsset,
    read_assets,
    read_balances,
    read_entries,
    read_owners_balances,
    read_pages,
    read_transactions,
    read_transactions_by_key,
    read_wallets,
    read_wallets_by_id,
)
from wallet_gql.ledger.treasury import open_stripes, treasuries
from wallet_gql.settings import Settings

SHARD: Final = 0
SLOT: Final = 0
SHARD_COUNT: Final = 4

# A posting looks some twenty rows up, its laws among them; a page of ten has two rows for each transaction.
TUPLES_MAX: Final = 30

TABLES: Final = ("wallet", "account", "transaction", "entry", "idempotency_key", "wallet_state", "limit_rule")

HOUR: Final = Window(rolling_seconds=3600)
DAY: Final = Window(unit=CalendarUnit.DAY, time_zone="Europe/Berlin")

# How many postings there are, roughly, when a session makes its plans; and in the end.
STAGES: Final = (100, 200, 400, 700)
ENTRY_UNTIL: Final = "SELECT entry_until($1, $2, $3, $4, $5)"

POSTINGS: Final = 50_000
BATCH: Final = 32

# Postings to one shard, from one number to another, as the ledger would have made them: every fifth is another owner's
# first, the others are one owner's.
FILL: Final = (
    """
    INSERT INTO wallet (shard, kind, owner_id)
    SELECT 0, 1, 'filled-' || n FROM generate_series({first}, {last}) AS n WHERE n % 5 = 0
    """,
    """
    INSERT INTO account (shard, wallet_id, wallet_kind, asset_id, may_go_negative)
    SELECT 0, w.id, 1, s.id, false FROM wallet w, asset s WHERE w.owner_id LIKE 'filled-%' AND s.code = 'GOLD'
        ON CONFLICT DO NOTHING
    """,
    "DROP TABLE IF EXISTS filling",
    """
    CREATE TEMPORARY TABLE filling AS
    WITH head AS (
      SELECT w.id AS wallet_id, a.id AS account_id, w.owner_id, coalesce(e.seq, 0) AS seq,
             coalesce(e.balance_after, 0) AS balance_after
        FROM wallet w
        JOIN account a ON (a.shard, a.wallet_id) = (w.shard, w.id)
        JOIN asset s ON s.id = a.asset_id AND s.code = 'GOLD'
        LEFT JOIN LATERAL (SELECT * FROM entry e WHERE (e.shard, e.account_id) = (a.shard, a.id)
                            ORDER BY e.seq DESC LIMIT 1) AS e ON true
       WHERE w.shard = 0)
    SELECT ('0190' || lpad(to_hex(n), 28, '0'))::uuid AS id, gen_random_uuid() AS key, clock_timestamp() AS executed_at,
           mine.wallet_id, mine.account_id, mine.seq + place AS seq, mine.balance_after + place AS balance_after,
           its.account_id AS its_account_id, its.seq + n - {first} + 1 AS its_seq,
           its.balance_after - n + {first} - 1 AS its_balance_after
      FROM (SELECT n, row_number() OVER (PARTITION BY owner_id ORDER BY n) AS place, owner_id
              FROM generate_series({first}, {last}) AS n,
                   LATERAL (SELECT CASE n % 5 WHEN 0 THEN 'filled-' || n ELSE 'hot' END AS owner_id) AS o) AS posting
      JOIN head AS mine ON mine.owner_id = posting.owner_id
      JOIN head AS its ON its.owner_id = '0'
    """,
    """
    WITH new_transaction AS (
      INSERT INTO transaction (shard, id, type, wallet_id, executed_at, idempotency_key)
      SELECT 0, id, 1, wallet_id, executed_at, key FROM filling
    ), new_entry AS (
      INSERT INTO entry (shard, account_id, seq, transaction_id, type, amount, balance_after, may_go_negative,
                         executed_at)
      SELECT 0, account_id, seq, id, 1, 1, balance_after, false, executed_at FROM filling
       UNION ALL
      SELECT 0, its_account_id, its_seq, id, 1, -1, its_balance_after, true, executed_at FROM filling
    )
    INSERT INTO idempotency_key (shard, wallet_id, key, fingerprint, outcome, transaction_id)
    SELECT 0, wallet_id, key, substr(sha256('1 GOLD 1 --'), 1, 16), 1, id FROM filling
    """,
    # And a limit for each of the others, which has nothing to count yet.
    """
    INSERT INTO limit_rule (asset_id, shard, wallet_id, step, id, flow, rolling_seconds, max_amount, enforcement,
                            in_force, set_at)
    SELECT s.id, 0, w.id, 1, gen_random_uuid(), 6, 3600, 5, 1, '{{1}}', clock_timestamp()
      FROM wallet w, asset s WHERE w.owner_id LIKE 'filled-%' AND s.code = 'GOLD'
        ON CONFLICT DO NOTHING
    """,
)


class Books:
    """What is asked of the ledger, always in the same session; each method returns how many things it asked for."""

    def __init__(self, session: Connection, gold: Asset, name: str) -> None:
        self.session = session
        self.gold = gold
        self.name = name
        self.opened_count = 0
        self.batch_count = 0

    async def post(self, owners: Sequence[str], shard: int = SHARD, keys: Sequence[Any] = ()) -> list[Posted]:
        requests = [
            PostingRequest(shard, owner, TransactionType.TOP_UP, self.gold, 1, key)
            for owner, key in zip(owners, keys or [uuid4() for _ in owners], strict=True)
        ]
        self.batch_count += 1
        async with self.session.transaction():
            outcomes = await post_batch(self.session, requests, SLOT, wait=self.batch_count % 2 == 0)
        posted = [outcome for outcome in outcomes if isinstance(outcome, Posted)]
        assert len(posted) == len(requests), outcomes
        return posted

    async def open_wallets(self, count: int) -> list[str]:
        owners = [f"{self.name}-{self.opened_count + n}" for n in range(count)]
        self.opened_count += count
        await self.session.execute(
            "INSERT INTO wallet (shard, kind, owner_id) SELECT $1, 1, unnest($2::text[])", SHARD, owners
        )
        return owners

    async def one_posting(self) -> int:
        return len(await self.post(["hot"]))

    async def a_batch_of_one_owner(self) -> int:
        return len(await self.post(["hot"] * BATCH))

    async def a_batch_of_many_owners_and_their_first_accounts(self) -> int:
        return len(await self.post(await self.open_wallets(8)))

    async def replays(self) -> int:
        keys = [uuid4() for _ in range(4)]
        await self.post(["hot"] * 4, keys=keys)
        return 2 * len(await self.post(["hot"] * 4, keys=keys))

    async def closings(self) -> int:
        """Close wallets with credits, each with its own batch: two of each wallet, and one look-up of all it has."""
        owners = await self.open_wallets(2)
        await self.post(owners)
        for owner in owners:
            name = OwnerName(SHARD, owner)
            close = StateRequest(
                RequestKind.CLOSE, name, self.gold, uuid4(), remainder=Remainder.FORFEIT, assets=(self.gold,)
            )
            async with self.session.transaction():
                [outcome] = await post_batch(self.session, [close], SLOT)
            assert isinstance(outcome, Changed)
        return 2 * len(owners)

    async def limit(self, owner: str, change: NewLimit | RuleName) -> Rule:
        async with self.session.transaction():
            request = LimitRequest(self.gold, OwnerName(SHARD, owner), change, uuid4())
            outcome = await change_limits(self.session, request)
        assert isinstance(outcome, LimitsSet)
        assert outcome.rule is not None
        return outcome.rule

    async def limited(self) -> tuple[str, list[Rule]]:
        """Open a wallet under two limits of what comes in."""
        [owner] = await self.open_wallets(1)
        new = (NewLimit(LimitFlow.IN, window, 10, None, Enforcement.REFUSE) for window in (HOUR, DAY))
        return owner, [await self.limit(owner, each) for each in new]

    async def changes_of_limits(self) -> int:
        """Set limits, one in the place of another, and remove one."""
        owner, rules = await self.limited()
        await self.limit(owner, rules[0].limit._replace(max_minor=20))
        await self.limit(owner, rules[1].name)
        return 4

    async def postings_under_limits(self) -> int:
        """Post before there is a limit, and then one by one; three things each: the posting, and two windows."""
        [owner] = await self.open_wallets(1)
        await self.post([owner] * 3)
        await self.limit(owner, NewLimit(LimitFlow.IN, HOUR, 10, None, Enforcement.REFUSE))
        await self.limit(owner, NewLimit(LimitFlow.TOP_UP, DAY, None, 10, Enforcement.REFUSE))
        for _ in range(4):
            await self.post([owner])
        return 4 + 3 * 4

    async def reads_of_limits(self) -> int:
        """Read which limits hold, how much of each is used up, and when some of that is given back."""
        owner, rules = await self.limited()
        posted = await self.post([owner] * 4)
        wallet = posted[0].balance.wallet
        assert await read_rules(self.session, [rule.name for rule in rules]) == rules
        chain = Chain(self.gold.id, SHARD, wallet.id)
        assert await read_rules_of(self.session, [chain]) == [tuple(rules)]
        [uses] = await read_limit_uses(self.session, [WalletAsset(wallet, self.gold)], known=KnownLimits())
        assert [use.used for use in uses] == [(4, 4)] * 2
        resets = [use.reset for use in uses if use.reset is not None]
        assert await read_resets(self.session, resets) > [posted[0].transaction.executed_at] * 2
        return len(uses) * 5

    async def look_ups_by_time(self) -> int:
        """Find entries by when they were, of an account with many of them: in steps that halve what is left."""
        [posted] = await self.post(["hot"])
        view = posted.transaction
        for ago in (timedelta(0), timedelta(seconds=1), timedelta(days=1)):
            moment = view.executed_at - ago
            found = await self.session.fetchval(ENTRY_UNTIL, SHARD, view.account_id, 0, view.seq, moment)
            assert (found == view.seq) is (ago == timedelta(0))
        return 3 * 2 * view.seq.bit_length()

    async def every_read(self) -> int:
        [posted] = await self.post(["hot"])
        view, wallet = posted.transaction, posted.balance.wallet
        name, account = OwnerName(SHARD, wallet.owner_id), WalletAsset(wallet, self.gold)
        assert view.idempotency_key is not None
        assert await read_balances(self.session, [account]) == [posted.balance]
        assert await read_owners_balances(self.session, [(name, self.gold)]) == [posted.balance]
        assert await read_wallets(self.session, [name]) == [wallet]
        assert await read_wallets_by_id(self.session, [(SHARD, wallet.id)]) == [wallet]
        assert await read_transactions(self.session, [EntryName(SHARD, view.account_id, view.seq)]) == [view]
        assert await read_transactions_by_key(self.session, [(name, view.idempotency_key)]) == [view]
        [entries] = await read_entries(self.session, [view])
        [page] = await read_pages(self.session, [PageRequest(account, first=10)])
        assert (len(entries), page.transactions[0]) == (2, view)
        return 9


ACTS: Final[tuple[Callable[[Books], Awaitable[int]], ...]] = (
    Books.one_posting,
    Books.every_read,
    Books.replays,
    Books.closings,
    Books.changes_of_limits,
    Books.postings_under_limits,
    Books.reads_of_limits,
    Books.look_ups_by_time,
    Books.a_batch_of_many_owners_and_their_first_accounts,
    Books.a_batch_of_one_owner,
)


async def tuples_read(observer: Connection, books: Books) -> int:
    """Return what all index scans, and whole scans of tables, have read so far in both sessions."""
    for session in (books.session, observer):
        await session.execute("SELECT pg_stat_force_next_flush()")
    count: int = await observer.fetchval(
        "SELECT (SELECT sum(idx_tup_read) FROM pg_stat_user_indexes WHERE relname = ANY($1))"
        "     + (SELECT sum(seq_tup_read) FROM pg_stat_user_tables WHERE relname = ANY($1))",
        TABLES,
    )
    return count


async def fill(superuser: Connection, first: int, last: int) -> None:
    for statement in FILL:
        await superuser.execute(statement.format(first=first, last=last))


async def read_by_act(observer: Connection, books: Books) -> dict[str, float]:
    """Return what each act reads for one thing that it asks for."""
    read: dict[str, float] = {}
    for act in ACTS:
        before = await tuples_read(observer, books)
        count = await act(books)
        read[act.__name__] = float(await tuples_read(observer, books) - before) / count
    return read


@asynccontextmanager
async def session_of(settings: Settings, name: str) -> AsyncIterator[Books]:
    engine = create_engine(settings)
    async with lend(engine) as session:
        gold = next(asset for asset in await read_assets(session) if asset.code == "GOLD")
        yield Books(session, gold, name)
    await engine.dispose()


@pytest.fixture
def grown_settings(new_database: Callable[[str], Settings]) -> Settings:
    return new_database("plans")


@pytest.fixture
async def superuser(postgres: EmbeddedPostgres, grown_settings: Settings) -> AsyncIterator[Connection]:
    url = make_url(postgres.superuser_url).set(drivername="postgresql", database=grown_settings.server_url().database)
    connection = await asyncpg.connect(url.render_as_string(hide_password=False))
    for table in TABLES:
        await connection.execute(f"ALTER TABLE {table} SET (autovacuum_enabled = off)")
    yield connection
    await connection.close()


@pytest.mark.parametrize(
    "state", ["never analysed", "analysed empty", "analysed at ten entries", "analysed full", "restored"]
)
async def test_nothing_reads_more_when_a_shard_has_grown_to_100_000_entries(
    grown_settings: Settings, superuser: Connection, state: str
) -> None:
    if state == "restored":
        # As pg_restore makes them, by their names: of two that seem to cost the same the newest index is taken.
        await superuser.execute("ALTER TABLE wallet DROP CONSTRAINT wallet_shard_kind_owner_id_key")
        await superuser.execute(
            "ALTER TABLE wallet ADD CONSTRAINT wallet_shard_kind_owner_id_key UNIQUE (shard, kind, owner_id)"
        )
    if state == "analysed empty":
        await superuser.execute("ANALYZE")
    async with AsyncExitStack() as stack:
        sessions = [await stack.enter_async_context(session_of(grown_settings, "at none"))]
        await open_stripes(sessions[0].session, treasuries(SLOT, SHARD_COUNT))
        await sessions[0].session.execute(
            "INSERT INTO wallet (shard, kind, owner_id) SELECT shard, 1, 'hot' FROM generate_series(0, 3) AS shard"
        )
        for shard in (0, 1, 2, 3, 0):
            await sessions[0].post(["hot"], shard)
        if state == "analysed at ten entries":
            await superuser.execute("ANALYZE")
        for act in ACTS:
            await act(sessions[0])
        await tuples_read(superuser, sessions[0])
        # Each session makes its plans while there is so little, the first for one posting, the others for a batch.
        for first, last in pairwise((0, *STAGES)):
            await fill(superuser, first + 1, last)
            books = await stack.enter_async_context(session_of(grown_settings, f"at {last}"))
            await books.a_batch_of_one_owner()
            # What is counted later is what was read later.
            await tuples_read(superuser, books)
            sessions.append(books)
        await fill(superuser, STAGES[-1] + 1, POSTINGS)
        if state == "analysed full":
            await superuser.execute("ANALYZE")
        sessions.append(await stack.enter_async_context(session_of(grown_settings, "at last")))
        read = {books.name: await read_by_act(superuser, books) for books in sessions}
    assert max(count for counts in read.values() for count in counts.values()) < TUPLES_MAX, read
