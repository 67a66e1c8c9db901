"""Migration 0016, limits: up and down on a filled database, and not down where something would be lost."""

import asyncio
from collections.abc import Awaitable, Callable
from decimal import Decimal
from typing import Any, Final
from uuid import uuid4

import asyncpg
import pytest
from factories import post
from filled import OTHER, OWNER, PLAIN, fill_up_to_holds, rows, spend_by_sql
from holds import change, held
from schemas import catalog, check, downgrade, execute, fetch, fill, refused_to_go_down, revision, upgrade

from wallet_gql.db import migrations
from wallet_gql.domain.limits import CalendarUnit, Enforcement, LimitFlow, LimitsSet, Window
from wallet_gql.domain.postings import Posted, Refused
from wallet_gql.operations.holds import PlaceHoldInput, capture_hold, place_hold
from wallet_gql.operations.limits import LimitInput, remove_limit, set_limit
from wallet_gql.operations.opening import Ledger, open_ledger
from wallet_gql.operations.proof import prove
from wallet_gql.operations.transfers import TransferInput, transfer
from wallet_gql.settings import Settings

BEFORE: Final = "0015"
OUTCOMES: Final = (16, 53)
HOUR: Final = Window(rolling_seconds=3600)

KEY: Final = (
    "INSERT INTO idempotency_key (shard, wallet_id, key, fingerprint, outcome, transaction_id, details)"
    " VALUES (0, 1, gen_random_uuid(), decode(repeat('00', 16), 'hex'), {}, gen_random_uuid(), '{{\"asset_id\": 1}}')"
)
RULE: Final = (
    "INSERT INTO limit_rule (asset_id, shard, wallet_id, step, id, flow, max_amount, enforcement, in_force, set_at)"
    " VALUES (1, 0, 0, 1, gen_random_uuid(), 1, 50, 1, '{1}', wallet_now())"
)


def of_limits(settings: Settings) -> list[int]:
    """Return how many limits were set, and how many entries count what moved."""
    statements = ("SELECT count(*) FROM limit_rule", "SELECT count(*) FROM entry WHERE flows IS NOT NULL")
    return [fetch(settings.owner_url(), statement)[0][0] for statement in statements]


async def limit(
    ledger: Ledger, owner: str | None, flow: LimitFlow, most: int, window: Window | None = HOUR, **more: Any
) -> LimitsSet:
    asked: dict[str, Any] = {"max_count": None, "enforcement": Enforcement.REFUSE, "idempotency_key": uuid4(), **more}
    outcome = await set_limit(ledger, LimitInput("GOLD", owner, flow, window, Decimal(most), **asked))
    assert isinstance(outcome, LimitsSet)
    return outcome


async def limit_a_balance(ledger: Ledger) -> None:
    await limit(ledger, None, LimitFlow.BALANCE, 10_000, None)


async def limit_and_move(ledger: Ledger) -> None:
    """Set limits, for all wallets and for one, and move something of each kind beside them."""
    await limit_a_balance(ledger)
    await limit(ledger, None, LimitFlow.OUT, 300, Window(unit=CalendarUnit.DAY, time_zone="Europe/Berlin"))
    await limit(ledger, OWNER, LimitFlow.SPEND, 100)
    assert isinstance(await post(ledger, "spend", OWNER, 101), Refused)
    for verb in ("top_up", "bonus", "spend"):
        assert isinstance(await post(ledger, verb, OWNER, 3), Posted)
    assert isinstance(await transfer(ledger, TransferInput(OTHER, PLAIN, "GOLD", Decimal(4), uuid4())), Posted)
    hold = held(await place_hold(ledger, PlaceHoldInput(OWNER, "GOLD", Decimal(5), uuid4())))
    held(await capture_hold(ledger, change(hold, 2)))


async def limit_and_remove(ledger: Ledger) -> None:
    outcome = await limit(ledger, OWNER, LimitFlow.SPEND, 40)
    assert outcome.rule is not None
    assert isinstance(await remove_limit(ledger, outcome.rule.name, OWNER, uuid4()), LimitsSet)


async def run(settings: Settings, act: Callable[[Ledger], Awaitable[None]]) -> None:
    async with open_ledger(settings) as ledger:
        await act(ledger)


def test_limits_go_down_and_up_on_a_filled_database_and_change_no_row(migrated: Settings) -> None:
    asyncio.run(fill_up_to_holds(migrated))
    before, laws = rows(migrated), catalog(migrated)
    assert of_limits(migrated) == [0, 0]
    downgrade(migrated, BEFORE)
    assert (revision(migrated), rows(migrated)) == ([BEFORE], before)
    asyncio.run(spend_by_sql(migrated, 2))
    posted = rows(migrated)
    assert posted != before
    upgrade(migrated)
    assert (catalog(migrated), rows(migrated)) == (laws, posted)
    check(migrated)
    asyncio.run(run(migrated, limit_and_move))
    assert asyncio.run(prove(migrated)).findings == []


def test_the_version_before_goes_on_beside_it_and_counts_nothing(migrated: Settings) -> None:
    asyncio.run(fill_up_to_holds(migrated))
    asyncio.run(spend_by_sql(migrated, 2))
    assert of_limits(migrated) == [0, 0]
    assert asyncio.run(prove(migrated)).findings == []
    # So it can be taken down again.
    before = rows(migrated)
    downgrade(migrated, BEFORE)
    assert rows(migrated) == before


def test_the_version_before_is_refused_on_an_account_that_counts(migrated: Settings) -> None:
    asyncio.run(fill_up_to_holds(migrated))

    async def count(ledger: Ledger) -> None:
        await limit(ledger, PLAIN, LimitFlow.SPEND, 30)
        # What moved before the limit counts: 2 are gone already, by the version before.
        assert isinstance(await post(ledger, "spend", PLAIN, 29), Refused)
        assert isinstance(await post(ledger, "spend", PLAIN, 28), Posted)

    asyncio.run(spend_by_sql(migrated, 2))
    asyncio.run(run(migrated, count))
    assert of_limits(migrated) == [1, 1]
    with pytest.raises(asyncpg.CheckViolationError, match="it does not count what moved, as the entry before it does"):
        asyncio.run(spend_by_sql(migrated, 2))
    assert asyncio.run(prove(migrated)).findings == []


def test_the_version_before_refuses_what_only_limits_have(migrated: Settings) -> None:
    downgrade(migrated, BEFORE)
    for outcome in OUTCOMES:
        with pytest.raises(asyncpg.CheckViolationError, match="idempotency_key_outcome_check"):
            execute(migrated, KEY.format(outcome))
    names = "'limit_rule_law', 'entry_until', 'entry_reaching'"
    owner = migrated.owner_url()
    assert fetch(owner, f"SELECT proname FROM pg_proc WHERE proname IN ({names})") == []
    assert fetch(owner, "SELECT to_regclass('limit_rule')") == [(None,)]
    columns = "SELECT FROM pg_attribute WHERE attrelid = 'entry'::regclass AND attname = 'flows' AND NOT attisdropped"
    assert fetch(owner, columns) == []


def assert_not_taken_down(settings: Settings, table: str, to: str = BEFORE) -> None:
    before = rows(settings), of_limits(settings), catalog(settings)
    with pytest.raises(RuntimeError, match=f"^Table {table} has rows that the version before cannot read"):
        downgrade(settings, to)
    assert revision(settings) == [migrations.head()]
    assert (rows(settings), of_limits(settings), catalog(settings)) == before


@pytest.mark.parametrize("act", [limit_a_balance, limit_and_move, limit_and_remove])
def test_limits_are_not_taken_down_and_go_on(migrated: Settings, act: Callable[[Ledger], Awaitable[None]]) -> None:
    asyncio.run(fill_up_to_holds(migrated))
    asyncio.run(run(migrated, act))
    assert_not_taken_down(migrated, "limit_rule")
    # Nor by who wants to go further.
    assert_not_taken_down(migrated, "limit_rule", "0007")
    asyncio.run(run(migrated, act))
    assert asyncio.run(prove(migrated)).findings == []


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_limits_are_not_taken_down_with_a_key_s_outcome(migrated: Settings, outcome: int) -> None:
    asyncio.run(fill(migrated))
    execute(migrated, KEY.format(outcome))
    assert_not_taken_down(migrated, "idempotency_key")


@pytest.mark.parametrize(
    ("uncommitted", "table"),
    [(RULE, "limit_rule"), *((KEY.format(outcome), "idempotency_key") for outcome in OUTCOMES)],
)
def test_limits_are_not_taken_down_with_what_is_not_committed_yet(
    migrated: Settings, uncommitted: str, table: str
) -> None:
    asyncio.run(fill(migrated))
    assert refused_to_go_down(migrated, BEFORE, uncommitted) == [table]
    assert revision(migrated) == [migrations.head()]
