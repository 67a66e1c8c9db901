"""The database refuses broken limits, and entries that count wrong: by SQL as the serving role and as the owner."""

from bisect import bisect_right
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import accumulate
from random import Random
from typing import Any, Final
from uuid import uuid4

import pytest
from asyncpg import Connection
from batches import new_owner_in
from direct import Movement, account_of, count_rows, movement, refused, transfer
from direct_holds import HeldAccount
from direct_limits import act_of, flows, insert_versions, version
from direct_lots import LotAct, Row, insert_acts
from planted_damage import DamagedBooks, damaged_books

from wallet_gql.domain.limits import MOVEMENTS, Enforcement, LimitFlow, LimitsSet, Window
from wallet_gql.domain.postings import TransactionType, fingerprint
from wallet_gql.domain.wallets import OwnerName, WalletKind
from wallet_gql.embedded.launcher import EmbeddedPostgres
from wallet_gql.operations.limits import LimitInput, set_limit
from wallet_gql.operations.opening import Ledger
from wallet_gql.settings import Settings

CHECK: Final = "23514"
UNIQUE: Final = "23505"
FOREIGN_KEY: Final = "23503"
NOT_NULL: Final = "23502"
RESTRICT: Final = "23001"
DENIED: Final = "42501"

SHARD: Final = 1
CHAIN: Final = (CHECK, "entry_law_chain")
FORGETS: Final = "it does not count what moved, as the entry before it does"
OWNERS_ONLY: Final = "what moves is counted of owners only"
MISCOUNTS: Final = "flows are not what moved before it and by it"


class Owner:
    """An owner with 120 GOLD, of whose two top-ups the second one, of 20, is counted; one limit is set for it."""

    def __init__(self, ledger: Ledger, connection: Connection, owner_id: str) -> None:
        self.ledger = ledger
        self.connection = connection
        self.id = owner_id
        self.wallet_id = 0

    async def moves(self, amount: int, *after: Movement) -> Movement:
        """Return a top-up or a spend that follows those in `after`."""
        return await movement(self.connection, SHARD, self.id, amount, slot=self.ledger.slot, after=after)

    async def counted(self, amount: int, **moved: tuple[int, int]) -> LotAct:
        """Return a top-up or a spend that counts so much."""
        return act_of(await self.moves(amount)).altered("entry", flows=flows(2, **moved))


@pytest.fixture
async def owner(ledger: Ledger, server_connection: Connection) -> Owner:
    owner = Owner(ledger, server_connection, await new_owner_in(ledger, SHARD))
    window = Window(86_400)
    asked = LimitInput("GOLD", owner.id, LimitFlow.OUT, window, Decimal(10**6), None, Enforcement.REFUSE, uuid4())
    outcome = await set_limit(ledger, asked)
    assert isinstance(outcome, LimitsSet)
    assert outcome.rule is not None
    owner.wallet_id = outcome.rule.name.wallet_id
    await insert_acts(server_connection, act_of(await owner.moves(100)))
    await insert_acts(server_connection, await owner.counted(20, top_up=(20, 1)))
    return owner


async def test_entries_count_each_kind_of_movement(owner: Owner) -> None:
    connection, ledger = owner.connection, owner.ledger
    other = await new_owner_in(ledger, 2, 50)
    here, there = OwnerName(SHARD, owner.id), OwnerName(2, other)
    await insert_acts(connection, await owner.counted(-7, top_up=(20, 1), spend=(7, 1)))
    bonus = TransactionType.BONUS
    given = (await owner.moves(3)).altered(type=bonus).of_transaction(type=bonus)
    given = given.of_key(fingerprint=fingerprint(bonus, "GOLD", 3, None, None))
    so_far: dict[str, tuple[int, int]] = {"top_up": (20, 1), "spend": (7, 1), "bonus": (3, 1)}
    await insert_acts(connection, act_of(given).altered("entry", flows=flows(2, **so_far)))
    sent = act_of(await transfer(connection, here, there, 4, line=ledger.slot))
    await insert_acts(connection, sent.altered("entry", 0, flows=flows(2, **so_far, transfer_out=(4, 1))))
    so_far["transfer_out"], so_far["transfer_in"] = (4, 1), (9, 1)
    got = act_of(await transfer(connection, there, here, 9, line=ledger.slot))
    await insert_acts(connection, got.altered("entry", 2, flows=flows(2, **so_far)))
    # A hold moves nothing; what is captured of it is spent.
    held = await HeldAccount.read(connection, SHARD, owner.id, ledger.slot)
    placed = held.place(6)
    await insert_acts(connection, act_of(placed).altered("entry", flows=flows(2, **so_far)))
    assert placed.hold is not None
    captured = act_of(held.capture(placed.hold.id, 5, keep=True))
    await insert_acts(connection, captured.altered("entry", flows=flows(2, **so_far | {"spend": (12, 2)})))
    voided = act_of(held.void(placed.hold.id))
    await insert_acts(connection, voided.altered("entry", flows=flows(2, **so_far | {"spend": (12, 2)})))


async def test_entries_count_from_one_to_the_next_in_one_statement(owner: Owner) -> None:
    first = await owner.moves(-1)
    second = await owner.moves(-2, first)
    counts = [flows(2, top_up=(20, 1), spend=spent) for spent in ((1, 1), (3, 2))]
    acts = [act_of(moved).altered("entry", flows=count) for moved, count in zip((first, second), counts, strict=True)]
    async with refused(owner.connection, *CHAIN, FORGETS):
        await insert_acts(owner.connection, acts[0], acts[1].without("entry", "flows"))
    async with refused(owner.connection, *CHAIN, MISCOUNTS):
        await insert_acts(owner.connection, acts[0], acts[1].altered("entry", flows=counts[0]))
    # The order of the rows does not matter.
    await insert_acts(owner.connection, *acts[::-1])


async def test_an_account_counts_from_any_entry_on_or_never(owner: Owner) -> None:
    plain = Owner(owner.ledger, owner.connection, await new_owner_in(owner.ledger, SHARD, 10))
    act = act_of(await plain.moves(-1))
    for since, spent in ((1, (1, 1)), (3, (1, 1)), (2, (11, 1)), (2, (1, 2))):
        async with refused(owner.connection, *CHAIN, MISCOUNTS):
            await insert_acts(owner.connection, act.altered("entry", flows=flows(since, spend=spent)))
    async with refused(owner.connection, *CHAIN, MISCOUNTS):
        await insert_acts(owner.connection, act.altered("entry", flows=flows(2, top_up=(10, 1), spend=(1, 1))))
    await insert_acts(owner.connection, act)


def plus(place: int, more: int | None = 1) -> Callable[[list[int]], list[int | None]]:
    """Return a change: a number of an entry's `flows` is another, or none."""

    def change(before: list[int]) -> list[int | None]:
        after: list[int | None] = list(before)
        after[place] = None if more is None else before[place] + more
        return after

    return change


# What is tried with a spend of 5, by what it is: what `flows` are instead, and what is said of it.
TRIED: Final[dict[str, tuple[object, str]]] = {
    "nothing": (None, FORGETS),
    **{f"another number, {n + 1}": (plus(n), MISCOUNTS) for n in range(11)},
    **{f"a smaller number, {n + 1}": (plus(n, -1), MISCOUNTS) for n in range(11)},
    "a number that is missing": (plus(4, None), MISCOUNTS),
    "since when is missing": (plus(10, None), MISCOUNTS),
    "as before it": (flows(2, top_up=(20, 1)), MISCOUNTS),
    "as another kind": (flows(2, top_up=(20, 1), transfer_out=(5, 1)), MISCOUNTS),
    "net": (flows(2, top_up=(15, 1)), MISCOUNTS),
    "only what it moves": (flows(2, spend=(5, 1)), MISCOUNTS),
    "anew": (flows(3, spend=(5, 1)), MISCOUNTS),
    "what was not counted": (flows(2, top_up=(120, 2), spend=(5, 1)), MISCOUNTS),
    "too few numbers": (lambda right: right[:-1], MISCOUNTS),
    "too many numbers": (lambda right: [*right, 0], MISCOUNTS),
    "no numbers": ([], MISCOUNTS),
    "numbers of numbers": (lambda right: [right], MISCOUNTS),
}


async def test_the_database_refuses_an_entry_that_counts(owner: Owner, owner_connection: Connection) -> None:
    right = await owner.counted(-5, top_up=(20, 1), spend=(5, 1))
    for tried, (wrong, message) in TRIED.items():
        act = right.altered("entry", flows=wrong)
        for connection in (owner.connection, owner_connection):
            try:
                async with refused(connection, *CHAIN, message):
                    await insert_acts(connection, act)
            except BaseException as error:
                error.add_note(tried)
                raise
    async with refused(owner.connection, *CHAIN, OWNERS_ONLY):
        await insert_acts(owner.connection, right.altered("entry", 1, flows=flows(1, spend=(5, 1))))
    await insert_acts(owner.connection, right)


async def test_what_a_hold_does_is_counted_as_nothing_but_its_captures(owner: Owner) -> None:
    held = await HeldAccount.read(owner.connection, SHARD, owner.id, owner.ledger.slot)
    placed, before = held.place(6), flows(2, top_up=(20, 1))
    act = act_of(placed)
    for wrong in (flows(2, top_up=(20, 1), spend=(0, 1)), flows(2, top_up=(20, 1), spend=(6, 1))):
        async with refused(owner.connection, *CHAIN, MISCOUNTS):
            await insert_acts(owner.connection, act.altered("entry", flows=wrong))
    await insert_acts(owner.connection, act.altered("entry", flows=before))
    assert placed.hold is not None
    captured = act_of(held.capture(placed.hold.id, 5))
    for wrong in (before, flows(2, top_up=(20, 1), spend=(6, 1))):
        async with refused(owner.connection, *CHAIN, MISCOUNTS):
            await insert_acts(owner.connection, captured.altered("entry", flows=wrong))
    async with refused(owner.connection, *CHAIN, FORGETS):
        await insert_acts(owner.connection, captured)


LAW: Final = (CHECK, "limit_rule_law")
MISSING: Final = "the version before it is missing"
NOT_FOLLOWING: Final = "in_force is not what held before it, with it in the place of its like"


def check(name: str) -> tuple[str, str]:
    return CHECK, f"limit_rule_{name}_check"


CALENDAR: Final = {"rolling_seconds": None, "calendar_unit": 1, "time_zone": "UTC"}
OF_BALANCE: Final = {"flow": 1, "rolling_seconds": None}

# What is tried as the second version of an owner's limits, by what it is: the sqlstate and the constraint that refuse
# it, and what they say. The first one is of what goes out in a day.
VERSIONS: Final[dict[str, tuple[Row, tuple[str, str | None], str]]] = {
    "a version that is left out": ({"step": 3, "in_force": [1, 3]}, LAW, MISSING),
    "a first version that is left out": ({"asset_id": 2, "in_force": [2]}, LAW, MISSING),
    "an older version": ({"set_at": "2020-01-01"}, LAW, "it is older than the version before it"),
    "what is of all wallets, in another shard": (
        {"wallet_id": 0, "step": 1, "in_force": [1]}, LAW, "what is of all wallets is in shard 0",
    ),
    "a wallet that there is not": (
        {"wallet_id": 2**62, "step": 1, "in_force": [1]}, LAW, "its wallet is no owner's",
    ),
    "an owner's wallet in another shard": (
        {"shard": 2, "step": 1, "in_force": [1]}, LAW, "its wallet is no owner's",
    ),
    "itself alone": ({"in_force": [2]}, LAW, NOT_FOLLOWING),
    "not itself": ({"in_force": [1]}, LAW, NOT_FOLLOWING),
    "nothing": ({"in_force": []}, LAW, NOT_FOLLOWING),
    "another order": ({"in_force": [2, 1]}, LAW, NOT_FOLLOWING),
    "one twice": ({"in_force": [1, 1, 2]}, LAW, NOT_FOLLOWING),
    "one that there is not": ({"in_force": [1, 2, 3]}, LAW, NOT_FOLLOWING),
    "one that has no number": ({"in_force": [1, None]}, LAW, NOT_FOLLOWING),
    "its like": ({"rolling_seconds": 86_400, "in_force": [1, 2]}, LAW, NOT_FOLLOWING),
    "itself without a maximum": ({"max_amount": None, "in_force": [1, 2]}, LAW, NOT_FOLLOWING),
    "its like without a maximum": (
        {"max_amount": None, "rolling_seconds": 86_400, "in_force": [1]}, LAW, NOT_FOLLOWING,
    ),
    "another flow of the same window in the place of it": (
        {"flow": 2, "rolling_seconds": 86_400, "in_force": [2]}, LAW, NOT_FOLLOWING,
    ),
    "a step before the first": ({"step": 0}, check("step"), ""),
    "a flow before the first": ({"flow": 0}, check("flow"), ""),
    "a flow after the last": ({"flow": 9}, check("flow"), ""),
    "no window": ({"rolling_seconds": None}, check("window"), ""),
    "two windows": ({**CALENDAR, "rolling_seconds": 1}, check("window"), ""),
    "a window of a balance": ({"flow": 1}, check("window"), ""),
    "a calendar's window of a balance": ({**CALENDAR, "flow": 1}, check("window"), ""),
    "a calendar without a time zone": ({**CALENDAR, "time_zone": None}, check("window"), ""),
    "a time zone without a calendar": ({"time_zone": "UTC"}, check("window"), ""),
    "a window of no time": ({"rolling_seconds": 0}, check("rolling_seconds"), ""),
    "a window of more than a year": ({"rolling_seconds": 366 * 86_400 + 1}, check("rolling_seconds"), ""),
    "a unit before the first": ({**CALENDAR, "calendar_unit": 0}, check("calendar_unit"), ""),
    "a unit after the last": ({**CALENDAR, "calendar_unit": 4}, check("calendar_unit"), ""),
    "a time zone without a name": ({**CALENDAR, "time_zone": ""}, check("time_zone"), ""),
    "a time zone of a long name": ({**CALENDAR, "time_zone": "x" * 65}, check("time_zone"), ""),
    "at most nothing": ({"max_amount": 0}, check("max_amount"), ""),
    "at most more than there can be": ({"max_amount": 10**18 + 1}, check("max_amount"), ""),
    "at most no movements": ({"max_count": 0}, check("max_count"), ""),
    "at most so many movements of a balance": ({**OF_BALANCE, "max_count": 1}, check("max_count"), ""),
    "no enforcement": ({"enforcement": 0}, check("enforcement"), ""),
    "an enforcement after the last": ({"enforcement": 3}, check("enforcement"), ""),
    "more than twenty": ({"in_force": [*range(1, 22)]}, check("in_force"), ""),
    "a time before all": ({"set_at": "-infinity"}, check("set_at"), ""),
    "a time after all": ({"set_at": "infinity"}, check("set_at"), ""),
    "a version twice": ({"step": 1}, (UNIQUE, "limit_rule_pkey"), ""),
    "an asset that there is not": (
        {"asset_id": 99, "step": 1, "in_force": [1]}, (FOREIGN_KEY, "limit_rule_asset_id_fkey"), "",
    ),
    **{
        f"no {column}": ({column: None}, (NOT_NULL, None), f'null value in column "{column}"')
        for column in ("asset_id", "shard", "wallet_id", "step", "id", "flow", "enforcement", "in_force", "set_at")
    },
}  # fmt: skip


def second(owner: Owner, **columns: Any) -> Row:
    """Return a second version of an owner's limits."""
    row = version(owner.ledger.assets["GOLD"].id, SHARD, owner.wallet_id, 2, in_force=[1, 2], set_at="2100-01-01")
    return row | columns


async def test_the_database_refuses_a_version_of_limits(owner: Owner, owner_connection: Connection) -> None:
    for tried, (columns, (sqlstate, constraint), message) in VERSIONS.items():
        for connection in (owner.connection, owner_connection):
            try:
                async with refused(connection, sqlstate, constraint, message):
                    await insert_versions(connection, second(owner, **columns))
            except BaseException as error:
                error.add_note(tried)
                raise


async def test_the_treasury_has_no_limits(owner: Owner) -> None:
    stripe = await account_of(owner.connection, SHARD, str(owner.ledger.slot), kind=WalletKind.TREASURY)
    async with refused(owner.connection, *LAW, "its wallet is no owner's"):
        await insert_versions(owner.connection, second(owner, wallet_id=stripe.wallet_id, step=1, in_force=[1]))


# Versions after the first one, each with what is in force after it: of the same chain, in one statement or several.
VALID: Final[tuple[Row, ...]] = (
    {"step": 2, "in_force": [1, 2]},
    {"step": 3, **CALENDAR, "in_force": [1, 2, 3]},
    {"step": 4, **CALENDAR, "time_zone": "Europe/Berlin", "max_count": 1, "in_force": [1, 2, 3, 4]},
    {"step": 5, **OF_BALANCE, "in_force": [1, 2, 3, 4, 5]},
    {"step": 6, "rolling_seconds": 86_400, "max_amount": None, "max_count": 9, "in_force": [2, 3, 4, 5, 6]},
    {"step": 7, **OF_BALANCE, "max_amount": 10**18, "enforcement": 2, "in_force": [2, 3, 4, 6, 7]},
    {"step": 8, **CALENDAR, "max_amount": None, "in_force": [2, 4, 6, 7]},
    {"step": 9, **CALENDAR, "in_force": [2, 4, 6, 7, 9]},
    {"step": 10, "flow": 8, "max_amount": None, "in_force": [2, 4, 6, 7, 9]},
)


@pytest.mark.parametrize("at_once", [1, 4, len(VALID)])
async def test_valid_versions_pass(owner: Owner, at_once: int) -> None:
    rows = [second(owner, **columns) for columns in VALID]
    transaction = owner.connection.transaction()
    await transaction.start()
    for first in range(0, len(rows), at_once):
        # The order of the rows does not matter.
        await insert_versions(owner.connection, *rows[first : first + at_once][::-1])
    # No key asked for them.
    await transaction.rollback()


async def test_nobody_changes_a_limit(owner: Owner, owner_connection: Connection) -> None:
    table = "limit_rule"
    for statement in (f"UPDATE {table} SET shard = shard", f"DELETE FROM {table}", f"TRUNCATE {table}"):
        async with refused(owner.connection, DENIED, message=f"permission denied for table {table}"):
            await owner.connection.execute(statement)
        async with refused(owner_connection, RESTRICT, message=f"{statement.split()[0]} of {table} refused"):
            await owner_connection.execute(statement)
    assert (await count_rows(owner.connection))[table] > 0


# Looking for entries.

ENTRIES: Final = 200
FIRST: Final = datetime(2026, 1, 1, tzinfo=UTC)

_FILL: Final = """
INSERT INTO entry (shard, account_id, seq, transaction_id, type, amount, balance_after, may_go_negative, executed_at,
                   flows)
SELECT 1, $1, seq, gen_random_uuid(), 1, 1, seq, false, executed_at, flows::numeric[]
  FROM unnest($2::timestamptz[], $3::text[]) WITH ORDINALITY AS given(executed_at, flows, seq)
"""


@pytest.fixture(scope="module")
def function_settings(new_database: Callable[[str], Settings]) -> Settings:
    return new_database("limit_functions")


@pytest.fixture
async def books(postgres: EmbeddedPostgres, function_settings: Settings) -> AsyncIterator[DamagedBooks]:
    """Books that take entries without laws, and forget them."""
    async with damaged_books(postgres, function_settings, ()) as books:
        yield books


async def fill(
    books: DamagedBooks, account_id: int, times: list[datetime], counts: list[list[int]] | None = None
) -> None:
    texts = [None] * len(times) if counts is None else ["{" + ",".join(map(str, each)) + "}" for each in counts]
    await books.connection.execute(_FILL, account_id, times, texts)


async def entry_until(books: DamagedBooks, account_id: int, low: int, high: int, moment: datetime) -> int:
    found: int = await books.connection.fetchval(
        "SELECT entry_until(1::smallint, $1, $2, $3, $4)", account_id, low, high, moment
    )
    return found


@pytest.mark.parametrize("seed", range(8))
async def test_the_last_entry_up_to_a_moment_is_what_a_scan_finds(books: DamagedBooks, seed: int) -> None:
    """Times that are equal, moments before the first entry and after the last, from every entry that may be a start."""
    random = Random(seed)  # noqa: S311 - the same for each run
    count = (1, 2, 3, ENTRIES)[seed % 4]
    # Of an account before and after it there are entries of other times.
    for account_id, apart in ((1, 50), (2, (1, 3)[seed % 2]), (3, 50)):
        steps = [random.choice((0, 0, 1, apart)) for _ in range(count)]
        await fill(books, account_id, [FIRST + timedelta(seconds=each) for each in accumulate(steps)])
        if account_id == 2:
            seconds = list(accumulate(steps))
    for _ in range(200):
        moment, high = random.randint(-2, seconds[-1] + 2), random.randint(0, count)
        last = min(bisect_right(seconds, moment), high)
        # What is known to be before the moment: no entry, any of those, the one that is looked for.
        for low in {0, last, random.randint(0, last)}:
            for off in (0, 1) if moment < seconds[-1] else (0,):
                at = FIRST + timedelta(seconds=moment, microseconds=off)
                assert await entry_until(books, 2, low, high, at) == last, (seconds, low, high, moment)


async def test_no_entry_is_found_of_an_account_without_any(books: DamagedBooks) -> None:
    assert await entry_until(books, 9, 0, 0, FIRST) == 0
    await fill(books, 9, [FIRST])
    for moment, found in ((FIRST - timedelta(microseconds=1), 0), (FIRST, 1)):
        assert await entry_until(books, 9, 0, 1, moment) == found


async def entry_reaching(
    books: DamagedBooks, low: int, high: int, places: list[int], least_amount: int, least_number: int
) -> int:
    found: int = await books.connection.fetchval(
        "SELECT entry_reaching(1::smallint, 2, $1, $2, $3, $4, $5)", low, high, places, least_amount, least_number
    )
    return found


@pytest.mark.parametrize("seed", range(6))
async def test_the_first_entry_that_reaches_so_much_is_what_a_scan_finds(books: DamagedBooks, seed: int) -> None:
    """Amounts and numbers of one kind or of several, and what is reached by no entry: then it is the last one."""
    random = Random(seed)  # noqa: S311 - the same for each run
    count = (1, 2, ENTRIES)[seed % 3]
    # Amounts have no bound.
    moved, counts = [0] * 10, []
    for _ in range(count):
        kind = random.randrange(2 * len(MOVEMENTS))
        if kind < len(MOVEMENTS):
            moved[2 * kind] += random.choice((1, 5, 10**19))
            moved[2 * kind + 1] += 1
        counts.append([*moved, 1])
    await fill(books, 2, [FIRST] * count, counts)
    for _ in range(200):
        places = sorted(random.sample(range(1, 11, 2), random.randint(1, 3)))
        sums = [(sum(each[place - 1] for place in places), sum(each[place] for place in places)) for each in counts]
        low = random.randint(1, count)
        high = random.randint(low, count)
        amount, number = random.choice(sums)
        amount, number = amount + random.choice((-1, 0, 1)), random.choice((0, number, number + 1))
        reaching = (n for n in range(low, high) if sums[n - 1][0] >= amount and sums[n - 1][1] >= number)
        expected = next(reaching, high)
        assert await entry_reaching(books, low, high, places, amount, number) == expected
