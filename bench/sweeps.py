"""10,000 holds that end at once: how soon all ends are booked, and what spends feel of it meanwhile.

Every wallet has one, and spends go over all wallets at a quarter of the rate that the server reached just before,
whatever becomes of those before them. The test clock is moved, so that all holds are over in one moment. A sweeper
begins up to 5 s later: what counts for latency are the spends that were sent between the first and the last end that
were swept. To book an end costs about as much as a spend, and a spend books the end of its own wallet's hold first.
"""

import asyncio
import math
from collections.abc import Sequence
from statistics import quantiles
from typing import Final, NamedTuple
from uuid import uuid4

import servers
import uvloop
from books import Database, Plan, fill, owner_ids
from history import place_holds
from open_loop import Answer, Generator
from servers import Server
from session import Scenario, Session, make_row
from throughput import FUNDS_MINOR
from wrk import Load, LoadFailed, drive

BEFORE: Final = Scenario("spends at a steady rate, before holds end", "spend")
MEANWHILE: Final = Scenario("spends at a steady rate, while 10,000 holds end", "spend")

OWNERS: Final = owner_ids(10_000)

STEADY: Final = 0.25
"""The steady rate, as a part of what 64 clients reach."""

BEFORE_SECONDS: Final = 60
"""Once a minute PostgreSQL looks for tables to vacuum, which spends feel, too, whatever ends."""
POLL_SECONDS: Final = 0.5

SPEND: Final = """
mutation($o: String!, $k: UUID!) { spend(input: {ownerId: $o, amount: "1", idempotencyKey: $k}) {
  __typename ... on SpendPayload { transaction { id balanceAfter } balance { amount } alreadyProcessed }
  ... on Error { code message } } }
"""
# Holds are placed for seven days.
ADVANCE: Final = "mutation { advanceTestClock(input: {seconds: 691200}) { __typename } }"


# What was booked since the clock was moved last, in seconds after that. A posting books what is due of its wallet in
# its own unit of work, so an entry of the same time follows; what a sweeper books has none.
SWEPT: Final = """
SELECT ARRAY[extract(epoch FROM clock.set_at), count(*) FILTER (WHERE NOT is_followed),
             min(after.seconds) FILTER (WHERE NOT is_followed), max(after.seconds) FILTER (WHERE NOT is_followed),
             max(after.seconds)]::float8[]
  FROM (SELECT seconds, set_at FROM clock_offset ORDER BY step DESC LIMIT 1) AS clock
 CROSS JOIN ({ends}) AS s
 CROSS JOIN LATERAL (SELECT extract(epoch FROM s.at - clock.set_at) - clock.seconds AS seconds) AS after
 CROSS JOIN LATERAL (
       SELECT EXISTS (SELECT FROM entry next
                       WHERE next.shard = s.shard AND next.account_id = s.account_id AND next.seq > s.seq
                         AND next.executed_at = s.at AND next.type <= 3) AS is_followed) AS followed
 WHERE after.seconds > 0
 GROUP BY clock.set_at
"""


class Kind(NamedTuple):
    """What ends: how many at once, how that is counted in the books, and how long it may take."""

    what: str
    before: Scenario
    meanwhile: Scenario
    total: int
    booked_count: str
    ends: str
    polls_max: int


# Kind 55 is EXPIRED.
HOLDS: Final = Kind(
    "holds",
    BEFORE,
    MEANWHILE,
    len(OWNERS),
    booked_count="SELECT count(*) FROM hold_step WHERE kind = 55",
    ends="SELECT shard, account_id, seq, at FROM hold_step WHERE kind = 55",
    polls_max=120,
)


class Swept(NamedTuple):
    """When all holds ended; how many ends sweepers booked, and when: in seconds after that, as when all were booked."""

    ended_at: float
    swept_count: float
    first_seconds: float
    last_seconds: float
    booked_seconds: float


def sweeps(session: Session) -> None:
    """Let holds end under load, three times."""
    database = session.cluster.create("sweeps", mode="test")
    fill(Plan(database, OWNERS, len(OWNERS), FUNDS_MINOR))
    with servers.service(session.cluster.scratch, database.environment()) as ours:
        for number in session.rounds:
            place_holds(database, OWNERS, 1)
            database.settle()
            let_end(session, number, ours, database, OWNERS, HOLDS)
    session.prove(database)


def let_end(
    session: Session, number: int, server: Server, database: Database, owners: Sequence[str], kind: Kind
) -> None:
    """Let all of a kind end at once beside spends, and keep what was measured."""
    rate = STEADY * drive(server.url, "spend", clients=64, window_seconds=3, wallets=len(owners)).rate
    posted, booked = _spends(database), database.execute(kind.booked_count)
    answers = uvloop.run(_let_end(session, server, database, rate, owners, kind))
    posted, booked = _spends(database) - posted, database.execute(kind.booked_count) - booked
    swept = Swept(*database.execute(SWEPT.format(ends=kind.ends)))
    if not swept.swept_count:
        raise LoadFailed("Spends booked all ends before a sweeper began: the steady rate is too high.")
    _keep(session, number, kind.before, answers, (answers[0].sent_at, swept.ended_at), rate)
    swept_between = swept.ended_at + swept.first_seconds, swept.ended_at + swept.last_seconds
    _keep(session, number, kind.meanwhile, answers, swept_between, rate, booked_seconds=swept.booked_seconds)
    failed = [answer.kind for answer in answers if answer.kind != "posted"]
    if failed or posted != len(answers) or booked != kind.total:
        session.faults.append(
            f"{kind.what}: {len(answers)} spends, {posted} in the books, {len(failed)} failed {failed[:1]};"
            f" {booked} ends"
        )
    session.say(
        f"{number}  {booked:,} ends of {kind.what} booked after {swept.booked_seconds:.1f} s;"
        f" {swept.swept_count:,.0f} by sweepers, from {swept.first_seconds:.1f} s to {swept.last_seconds:.1f} s"
    )


def _spends(database: Database) -> int:
    return int(database.execute("SELECT count(*) FROM transaction WHERE type = 3"))


async def _let_end(
    session: Session, server: Server, database: Database, rate: float, owners: Sequence[str], kind: Kind
) -> list[Answer]:
    """Spend at the rate, let all end meanwhile, and return what was answered until all ends were booked."""

    def spend(number: int) -> tuple[str, dict[str, object]]:
        return SPEND, {"o": owners[number % len(owners)], "k": str(uuid4())}

    async def count() -> int:
        return int(await database.execute_beside(kind.booked_count))

    is_over = asyncio.Event()
    wanted_count = await count() + kind.total
    offered = asyncio.create_task(Generator(server.url, spend).offer(rate, math.inf, is_over.is_set))
    await asyncio.sleep(2 if session.quick else BEFORE_SECONDS)
    await asyncio.to_thread(server.ask, ADVANCE)
    for _ in range(kind.polls_max):
        await asyncio.sleep(POLL_SECONDS)
        if await count() >= wanted_count:
            break
    is_over.set()
    return await offered


def _keep(
    session: Session,
    number: int,
    scenario: Scenario,
    answers: list[Answer],
    between: tuple[float, float],
    rate: float,
    **extra: float,
) -> None:
    """Add the row of what was sent between two moments. What it costs is not told apart."""
    first_at, last_at = between
    sent = [answer for answer in answers if first_at <= answer.sent_at <= last_at]
    milliseconds = [answer.seconds * 1000 for answer in sent]
    percentiles = quantiles(milliseconds, n=100, method="inclusive")
    posted_count = sum(answer.kind == "posted" for answer in sent)
    load = Load(
        len(sent), posted_count, posted_count / (last_at - first_at), percentiles[49], percentiles[94],
        percentiles[98], max(milliseconds), failed=len(sent) - posted_count,
    )  # fmt: skip
    row = make_row(scenario, number, load)
    row.extra |= {"offered_rate": rate, **extra}
    session.keep(row, scenario)
