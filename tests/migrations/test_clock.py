"""Migration 0007, the clock: up and down on a filled database, and which databases are in test mode for ever."""

import asyncio
from datetime import UTC, datetime
from typing import Any, Final

import asyncpg
import pytest
from batches import connected
from factories import new_owner
from filled import OWNER, fill_up_to_holds, rows, spend_by_sql
from holds import held, place
from schemas import catalog, check, downgrade, execute, fetch, revision, upgrade

from wallet_gql.db import migrations
from wallet_gql.ledger.sweeping import keep_places, read_places
from wallet_gql.operations.assets import add_asset
from wallet_gql.operations.clock import advance_clock
from wallet_gql.operations.holds import place_hold
from wallet_gql.operations.opening import open_ledger
from wallet_gql.operations.proof import prove
from wallet_gql.operations.sweeper import sweep
from wallet_gql.settings import Settings

BEFORE: Final = "0006"
LIVE, TEST = 1, 2

DEFAULTS: Final = (
    "SELECT attrelid::regclass::text || '.' || attname, pg_get_expr(adbin, adrelid) FROM pg_attribute"
    "  JOIN pg_attrdef ON (adrelid, adnum) = (attrelid, attnum)"
    "  JOIN pg_class c ON c.oid = attrelid WHERE relnamespace = 'public'::regnamespace"
    "   AND attname IN ('created_at', 'opened_at', 'set_at') AND relname NOT IN ('ledger', 'clock_offset')"
)


def mode(settings: Settings) -> list[Any]:
    return fetch(settings.owner_url(), "SELECT mode FROM ledger")


def defaults(settings: Settings) -> dict[str, str]:
    """Return what fills in the times that are not given, by their columns."""
    return dict(fetch(settings.owner_url(), DEFAULTS))


def test_the_clock_goes_down_and_up_on_a_filled_database_and_changes_no_row(migrated: Settings) -> None:
    asyncio.run(fill_up_to_holds(migrated))
    before, laws = rows(migrated), catalog(migrated)
    assert set(defaults(migrated).values()) == {"wallet_now()"}
    downgrade(migrated, BEFORE)
    assert (revision(migrated), rows(migrated)) == ([BEFORE], before)
    assert defaults(migrated) == {
        "asset.created_at": "now()",
        "asset_setting.set_at": "clock_timestamp()",
        "wallet.opened_at": "clock_timestamp()",
        "account.opened_at": "clock_timestamp()",
        "idempotency_key.created_at": "clock_timestamp()",
    }
    asyncio.run(spend_by_sql(migrated, 2))
    posted = rows(migrated)
    assert posted != before
    upgrade(migrated)
    assert (catalog(migrated), rows(migrated), mode(migrated)) == (laws, posted, [(LIVE,)])
    check(migrated)
    asyncio.run(use(migrated))
    assert asyncio.run(prove(migrated)).findings == []


async def use(settings: Settings) -> None:
    """Do what asks for the time."""
    begun = datetime.now(UTC)
    async with open_ledger(settings) as ledger:
        await new_owner(ledger, 5, "owner-4")
        hold = held(await place_hold(ledger, place(OWNER, 1)))
        async with connected(settings) as connection:
            opened_at = await connection.fetchval("SELECT opened_at FROM wallet WHERE owner_id = 'owner-4'")
    assert begun <= opened_at <= hold.placed_at <= datetime.now(UTC)


def test_the_version_before_knows_no_clock_of_its_own(migrated: Settings) -> None:
    downgrade(migrated, BEFORE)
    for table in ("clock_offset", "sweep"):
        with pytest.raises(asyncpg.UndefinedTableError):
            execute(migrated, f"SELECT FROM {table}")
    own = ["wallet_now", "clock_offset_law"]
    assert fetch(migrated.owner_url(), "SELECT proname FROM pg_proc WHERE proname = ANY ($1)", own) == []


def test_a_database_that_has_wallets_is_live_whatever_the_setting_says(
    migrated: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    asyncio.run(fill_up_to_holds(migrated))
    downgrade(migrated, BEFORE)
    monkeypatch.setenv("WALLET_MODE", "test")
    upgrade(migrated)
    assert mode(migrated) == [(LIVE,)]
    with pytest.raises(asyncpg.CheckViolationError, match="clock of a live ledger cannot be moved"):
        execute(migrated, "INSERT INTO clock_offset (step, seconds) VALUES (1, 1)")
    # The next row would be live too, and the one that there is never changes.
    default = "SELECT pg_get_expr(adbin, adrelid) FROM pg_attrdef WHERE adrelid = 'ledger'::regclass AND adnum ="
    number = "(SELECT attnum FROM pg_attribute WHERE attrelid = 'ledger'::regclass AND attname = 'mode')"
    assert fetch(migrated.owner_url(), f"{default} {number}") == [(f"{LIVE}",)]


@pytest.fixture
def of_tests(empty: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A database in test mode, without wallets."""
    monkeypatch.setenv("WALLET_MODE", "test")
    upgrade(empty)
    monkeypatch.delenv("WALLET_MODE")
    assert mode(empty) == [(TEST,)]
    return empty.model_copy(update={"mode": "test"})


async def advance(settings: Settings) -> None:
    async with open_ledger(settings) as ledger:
        await add_asset(ledger, "GOLD", "Gold Coins", 0)
        await new_owner(ledger, 5)
        assert await advance_clock(ledger, 3600) is not None
        await new_owner(ledger, 5)


@pytest.mark.parametrize("is_used", [False, True], ids=["unused", "advanced"])
def test_test_mode_is_not_taken_down(of_tests: Settings, *, is_used: bool) -> None:
    if is_used:
        asyncio.run(advance(of_tests))
    offsets = "SELECT * FROM clock_offset"
    before = rows(of_tests), catalog(of_tests), fetch(of_tests.owner_url(), offsets)
    for to in (BEFORE, "0003"):
        with pytest.raises(RuntimeError, match=r"^The ledger is in test mode, which the version before does not know"):
            downgrade(of_tests, to)
        assert revision(of_tests) == [migrations.head()]
    assert (rows(of_tests), catalog(of_tests), fetch(of_tests.owner_url(), offsets)) == before
    assert mode(of_tests) == [(TEST,)]
    if is_used:
        assert asyncio.run(prove(of_tests)).findings == []


def test_the_sweeper_begins_anew_after_the_clock_went_down(migrated: Settings) -> None:
    asyncio.run(fill_up_to_holds(migrated))

    async def places() -> dict[int, datetime]:
        async with connected(migrated) as connection:
            return await read_places(connection, migrated.shard_count)

    async def keep() -> None:
        async with connected(migrated) as connection:
            await keep_places(connection, dict.fromkeys(range(migrated.shard_count), datetime.now(UTC)))

    async def sweep_all() -> int:
        async with open_ledger(migrated) as ledger:
            return await sweep(ledger.engine, await places())

    never = asyncio.run(places())
    asyncio.run(keep())
    assert all(until > never[shard] for shard, until in asyncio.run(places()).items())
    # Places say only from where to look: they keep nobody from going down, and are not missed.
    downgrade(migrated, BEFORE)
    upgrade(migrated)
    assert asyncio.run(places()) == never
    assert asyncio.run(sweep_all()) == 0
