"""A year of a loyalty programme by the test clock, and its breakage report against an independent calculation.

`python bench/year.py [--members 10000] [--weeks 52]`. Each week every member is granted points that end twelve weeks
later, one in ten a promotion of ten days, which is spent first; a third redeems, and of last week's redemptions one in
twenty is given back in part. Ends lie in the middle of a week and quarters begin there, so that nothing hangs on the
seconds that the run itself takes. The calculation is plain Python over each member's lots and knows nothing of the
ledger; every figure of every quarter's report must be the same, and `verify` proves the books.
"""

import argparse
import asyncio
import random
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Final, NamedTuple
from uuid import uuid4

import books
from books import Database, Lane, in_lanes, owner_ids
from lots import clock, grant

from wallet_gql.db.engine import close, connect, create_engine
from wallet_gql.domain.lots import CreditSource, LotTerms
from wallet_gql.domain.postings import Posted, RequestKind, ReverseRequest, TransactionType
from wallet_gql.ledger.clock import advance_clock
from wallet_gql.ledger.sweeping import read_places
from wallet_gql.operations.breakage import report_breakage
from wallet_gql.operations.sweeper import sweep
from wallet_gql.operations.unit_of_work import unit_of_work

WEEK: Final = timedelta(days=7)
MIDWEEK: Final = timedelta(days=3, hours=12)
BATCH: Final = 250
QUARTER_WEEKS: Final = 13


@dataclass
class Points:
    """Some of a member's points: what the calculation knows of a lot."""

    campaign: str
    priority: int
    ends: datetime
    left: int


class Redeemed(NamedTuple):
    """What was redeemed, and of which points: as they were taken."""

    posted: Posted
    parts: list[tuple[Points, int]]


@dataclass
class Member:
    """A member's points, in the order in which they were granted, and what was redeemed last week."""

    points: list[Points] = field(default_factory=list)
    redeemed: Redeemed | None = None

    def lapse(self, now: datetime, flows: "Flows") -> None:
        """Lose what has ended."""
        for each in self.points:
            if each.ends <= now and each.left:
                flows.add(each.ends, each.campaign, "expired", each.left)
                each.left = 0

    def take(self, amount: int) -> list[tuple[Points, int]]:
        """Take points by priority and end; returns of which how many."""
        parts = []
        for each in sorted(self.points, key=lambda each: (each.priority, each.ends)):
            part = min(each.left, amount)
            if part:
                each.left -= part
                amount -= part
                parts.append((each, part))
        return parts


class Flows:
    """What was granted, spent, returned and expired, by quarter and campaign."""

    def __init__(self, since: datetime) -> None:
        self.since = since
        self.figures: dict[int, dict[str, Counter[str]]] = defaultdict(lambda: defaultdict(Counter))

    def add(self, at: datetime, campaign: str, name: str, amount: int) -> None:
        """Count what flowed at a time."""
        self.figures[(at - self.since) // (QUARTER_WEEKS * WEEK)][campaign][name] += amount


@dataclass
class Programme:
    """All members, the flows of their points, and chance."""

    members: dict[str, Member]
    flows: Flows
    chance: random.Random


async def live_a_week(programme: Programme, week: int, now: datetime, lane: Lane) -> None:
    """Post a week for the members of a lane, and calculate the same."""
    for first in range(0, len(lane.owners), BATCH):
        owners = lane.owners[first : first + BATCH]
        for owner in owners:
            programme.members[owner].lapse(now, programme.flows)
        await _grant(programme, lane, owners, f"week {week:02}", now, 12, 50)
        lucky = [owner for owner in owners if programme.chance.random() < 0.1]
        await _grant(programme, lane, lucky, f"promotion {week // 4:02}", now, 1, 10)
        await _give_back(programme, lane, owners, now)
        await _redeem(programme, lane, owners, now)


async def _grant(
    programme: Programme, lane: Lane, owners: Sequence[str], campaign: str, now: datetime, weeks: int, priority: int
) -> None:
    ends = now + weeks * WEEK + MIDWEEK
    terms = LotTerms(CreditSource.BONUS, priority, campaign, ends)
    requests = []
    for owner in owners:
        amount = programme.chance.randint(10, 50)
        programme.members[owner].points.append(Points(campaign, priority, ends, amount))
        programme.flows.add(now, campaign, "granted", amount)
        requests.append(replace(lane.posting(owner, TransactionType.BONUS, amount), terms=terms))
    if requests:
        await lane.post(requests)


async def _redeem(programme: Programme, lane: Lane, owners: Sequence[str], now: datetime) -> None:
    asked, taken = [], []
    for owner in owners:
        member = programme.members[owner]
        member.redeemed = None
        total = sum(each.left for each in member.points)
        if programme.chance.random() < 1 / 3:
            amount = programme.chance.randint(1, total)
            parts = member.take(amount)
            for points, part in parts:
                programme.flows.add(now, points.campaign, "spent", part)
            asked.append(lane.posting(owner, TransactionType.SPEND, amount))
            taken.append((member, parts))
    for posted, (member, parts) in zip(await lane.post(asked), taken, strict=True):
        assert isinstance(posted, Posted)
        member.redeemed = Redeemed(posted, parts)


async def _give_back(programme: Programme, lane: Lane, owners: Sequence[str], now: datetime) -> None:
    requests = []
    for owner in owners:
        member = programme.members[owner]
        if member.redeemed is None or programme.chance.random() >= 0.05:
            continue
        posted, parts = member.redeemed
        amount = left = programme.chance.randint(1, sum(part for _, part in parts))
        for points, part in reversed(parts):
            back = min(part, left)
            left -= back
            if back:
                programme.flows.add(now, points.campaign, "returned", back)
                points.left += back
        for points, _ in parts:
            if points.ends <= now and points.left:
                programme.flows.add(now, points.campaign, "expired", points.left)
                points.left = 0
        name = lane.name(owner)
        requests.append(ReverseRequest(RequestKind.REFUND, posted.transaction, name, None, amount, uuid4()))
    if requests:
        await lane.post(requests)


async def _pass(database: Database, seconds: int) -> None:
    """Let time pass, and have booked what ended meanwhile."""
    engine = create_engine(database.settings())
    try:
        async with unit_of_work(engine) as connection:
            await advance_clock(connection, seconds)
        async with connect(engine) as connection:
            places = await read_places(connection, database.shard_count)
        await sweep(engine, places, seconds_per_end=0)
    finally:
        await close(engine)


def compare(database: Database, flows: Flows, quarters: Iterable[int]) -> int:
    """Compare the report of each quarter with what was calculated; returns how many figures were."""
    count, before = 0, Counter[str]()
    for quarter in quarters:
        since = flows.since + quarter * QUARTER_WEEKS * WEEK
        report = asyncio.run(report_breakage(database.settings(), since, since + QUARTER_WEEKS * WEEK))
        told = {each.campaign: each for each in report}
        wanted = flows.figures[quarter]
        for campaign in sorted({*wanted, *(name for name, left in before.items() if left)}):
            figures, found = wanted[campaign], told.pop(campaign)
            granted, returned, spent, expired = (figures[name] for name in ("granted", "returned", "spent", "expired"))
            right = (before[campaign], granted, returned, 0, spent, expired, 0, 0)
            before[campaign] += granted + returned - spent - expired
            assert found[3:-1] == (*right, before[campaign]), (quarter, campaign, found, right, before[campaign])
            assert found.is_proven
            count += len(found[3:])
        assert not told, told
    return count


def main() -> None:
    """Live the year, and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--members", type=int, default=10_000)
    parser.add_argument("--weeks", type=int, default=52)
    arguments = parser.parse_args()
    started = time.monotonic()
    with books.cluster() as cluster:
        database = cluster.create("year", mode="test")
        owners = owner_ids(arguments.members, "member")
        grant(database, owners, [], 0)
        begun = clock(database)
        flows = Flows(begun - timedelta(days=2))
        programme = Programme({owner: Member() for owner in owners}, flows, random.Random(2026))  # noqa: S311 - no secret
        for week in range(arguments.weeks):
            now = begun + week * WEEK
            asyncio.run(in_lanes(database, owners, partial(live_a_week, programme, week, now)))
            asyncio.run(_pass(database, round((now + WEEK - clock(database)).total_seconds())))
            print(
                f"\rweek {week + 1} of {arguments.weeks}, {time.monotonic() - started:.0f} s", end="", file=sys.stderr
            )
        end = begun + arguments.weeks * WEEK
        for member in programme.members.values():
            member.lapse(end, flows)
        count = compare(database, flows, range(-(-arguments.weeks // QUARTER_WEEKS)))
        proof = database.prove()
    print(f"\n{count:,} figures of the reports are those that were calculated, to the last unit.")
    print(f"{proof.entry_count:,} entries, {len(proof.findings)} findings; {time.monotonic() - started:.0f} s in all.")
    sys.exit(bool(proof.findings))


if __name__ == "__main__":
    main()
