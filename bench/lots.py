"""Lots: spends over 50 of them beside plain ones; and 100,000 that lapse at the same midnight, beside spends.

Each lot is used up by 40 spends, so a spend takes from one or two. What lapses is booked by a sweeper while spends go
over the same wallets at a quarter of the rate that the server reached just before; a spend books first what has lapsed
in its own wallet.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Final

import servers
from books import BATCH_SIZE, Database, Lane, Plan, fill, in_lanes, owner_ids
from session import Scenario, Session
from sweeps import Kind, let_end
from throughput import FUNDS_MINOR, funded

from wallet_gql.db.engine import connect, create_engine
from wallet_gql.domain.lots import PRIORITY_DEFAULT, CreditSource, LotTerms
from wallet_gql.domain.postings import TransactionType
from wallet_gql.ledger import openings

LIVE_LOTS: Final = 50
SPENDS_A_LOT: Final = 40

WALLETS: Final = 1000
"""Of each kind: more would take minutes to fill."""

PLAIN: Final = Scenario(
    "spends, accounts without lots (pairs)", "spend", window_seconds=3, options={"wallets": WALLETS}
)
LOTTED: Final = replace(
    PLAIN,
    name=f"spends, accounts with {LIVE_LOTS} live lots (pairs)",
    options={"wallets": WALLETS, "prefix": "lotted"},
)

OWNERS: Final = owner_ids(100_000)
"""Each has a lot that lapses."""

# Type 11 is EXPIRY. The clock is moved by eight days.
MIDNIGHT: Final = Kind(
    what="lots",
    before=Scenario("spends at a steady rate, before lots lapse", "spend"),
    meanwhile=Scenario("spends at a steady rate, while 100,000 lots lapse", "spend"),
    total=len(OWNERS),
    booked_count="SELECT count(*) FROM entry WHERE type = 11 AND NOT may_go_negative",
    ends="SELECT shard, account_id, seq, executed_at AS at FROM entry WHERE type = 11 AND NOT may_go_negative",
    polls_max=480,
)


def lots(session: Session) -> None:
    """Measure spends on two kinds of wallets in turn; then let lots lapse under load."""
    database = funded(session, "lots", 64)
    owners = owner_ids(WALLETS, "lotted")
    now = datetime.now(UTC)
    ends = [now + timedelta(days=day) for day in range(1, LIVE_LOTS + 1)]
    grant(database, owners, ends, SPENDS_A_LOT)
    database.settle()
    with servers.service(session.cluster.scratch, database.environment()) as ours:
        for number in session.pairs:
            session.measure(number, PLAIN, ours, database)
            session.measure(number, LOTTED, ours, database)
    session.prove(database)


def lapses(session: Session) -> None:
    """Let lots lapse under load, three times."""
    database = session.cluster.create("lapses", mode="test")
    fill(Plan(database, OWNERS, len(OWNERS), FUNDS_MINOR))
    with servers.service(session.cluster.scratch, database.environment()) as ours:
        for number in session.rounds:
            midnight = clock(database) + timedelta(days=7)
            grant(database, OWNERS, [midnight], 10_000)
            database.settle()
            let_end(session, number, ours, database, OWNERS, MIDNIGHT)
    session.prove(database)


def clock(database: Database) -> datetime:
    """Return the database's time."""
    return datetime.fromtimestamp(float(database.execute("SELECT extract(epoch FROM wallet_now())::float8")), UTC)


def grant(database: Database, owners: Sequence[str], ends: Sequence[datetime], amount_minor: int) -> None:
    """Give GOLD lots, and each owner a bonus for each end."""
    asyncio.run(_set_lots(database))
    terms = [LotTerms(CreditSource.BONUS, PRIORITY_DEFAULT, "bench", at) for at in ends]
    asyncio.run(in_lanes(database, owners, partial(_grant, terms, amount_minor)))


async def _set_lots(database: Database) -> None:
    engine = create_engine(database.settings())
    try:
        async with connect(engine) as connection:
            await openings.set_asset(connection, 1, None, has_lots=True)
    finally:
        await engine.dispose()


async def _grant(terms: Sequence[LotTerms], amount_minor: int, lane: Lane) -> None:
    for first in range(0, len(lane.owners), BATCH_SIZE):
        for each in terms:
            bonuses = (
                lane.posting(owner, TransactionType.BONUS, amount_minor)
                for owner in lane.owners[first : first + BATCH_SIZE]
            )
            await lane.post([replace(bonus, terms=each) for bonus in bonuses])
