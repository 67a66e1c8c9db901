"""Migration 0015, lots: up and down on a filled database, and not down where something would be lost."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final
from uuid import uuid4

import asyncpg
import pytest
from asyncpg import Connection
from conftest import plain
from direct_holds import HeldAccount, insert_acts
from factories import post
from filled import OTHER, OWNER, PLAIN, fill_up_to_holds, rows, spend_by_sql
from schemas import catalog, check, downgrade, execute, fetch, fill, refused_to_go_down, revision, upgrade

from wallet_gql.db import migrations
from wallet_gql.domain.assets import TransferPolicy
from wallet_gql.domain.lots import CreditSource, LotTerms
from wallet_gql.domain.postings import Held, Posted
from wallet_gql.domain.shards import shard_of
from wallet_gql.operations.assets import set_asset
from wallet_gql.operations.holds import PlaceHoldInput, place_hold
from wallet_gql.operations.opening import Ledger, open_ledger
from wallet_gql.operations.proof import prove
from wallet_gql.settings import Settings

BEFORE: Final = "0014"

KEY: Final = (
    "INSERT INTO idempotency_key (shard, wallet_id, key, fingerprint, outcome, transaction_id, details)"
    " VALUES (0, 1, gen_random_uuid(), decode(repeat('00', 16), 'hex'), 15, gen_random_uuid(), '{\"asset_id\": 1}')"
)
TRANSACTION: Final = (
    "INSERT INTO transaction (shard, id, type, wallet_id, executed_at) VALUES (0, gen_random_uuid(), 11, 1, now())"
)

# What only lots have, and no version before writes.
OF_LOTS: Final = {
    "entry": "lots_after, lots_seq, live_lots",
    "hold": "sources",
    "hold_step": "lots, earmarks",
    "asset_setting": "nullif(has_lots, false)",
}


def of_lots(settings: Settings) -> list[tuple[str, int]]:
    """Return how many rows have something of lots, by their tables."""
    return [
        (table, fetch(settings.owner_url(), f"SELECT count(*) FROM {table} WHERE num_nonnulls({names}) > 0")[0][0])
        for table, names in OF_LOTS.items()
    ]


async def give_lots(ledger: Ledger) -> None:
    await set_asset(ledger, "GOLD", has_lots=True)


async def give_bonuses(ledger: Ledger) -> None:
    await give_lots(ledger)
    for until in (None, await soon(ledger)):
        terms = LotTerms(CreditSource.BONUS, 50, "c", until)
        assert isinstance(await post(ledger, "bonus", OWNER, 7, terms=terms), Posted)
    assert isinstance(await place_hold(ledger, PlaceHoldInput(OWNER, "GOLD", Decimal(9), uuid4())), Held)
    assert isinstance(await post(ledger, "spend", OWNER, 3), Posted)


async def soon(ledger: Ledger) -> datetime:
    """Return tomorrow, by the database's clock."""
    url = ledger.settings.server_url().render_as_string(hide_password=False)
    connection: Connection = await asyncpg.connect(plain(url))
    try:
        until: datetime = await connection.fetchval("SELECT wallet_now() + $1::interval", timedelta(days=1))
        return until
    finally:
        await connection.close()


async def hold_the_pool(ledger: Ledger) -> None:
    asked = PlaceHoldInput(OWNER, "GOLD", Decimal(9), uuid4(), sources=CreditSource.PURCHASED)
    assert isinstance(await place_hold(ledger, asked), Held)


async def forbid_bonuses(ledger: Ledger) -> None:
    await set_asset(ledger, "GOLD", TransferPolicy.PURCHASED)


async def run(settings: Settings, act: Callable[[Ledger], Awaitable[None]]) -> None:
    async with open_ledger(settings) as ledger:
        await act(ledger)


async def hold_by_sql(settings: Settings) -> None:
    """Place and void a hold of the owner who has one, as a session of the version before does."""
    connection: Connection = await asyncpg.connect(plain(settings.server_url().render_as_string(hide_password=False)))
    try:
        account = await HeldAccount.read(connection, shard_of(OTHER, settings.shard_count), OTHER, 0)
        placed = account.place(5)
        await insert_acts(connection, placed, account.void(account.open_holds[-1]), account.spend(3))
    finally:
        await connection.close()


def test_lots_go_down_and_up_on_a_filled_database_and_change_no_row(migrated: Settings) -> None:
    asyncio.run(fill_up_to_holds(migrated))
    before, laws = rows(migrated), catalog(migrated)
    downgrade(migrated, BEFORE)
    assert (revision(migrated), rows(migrated)) == ([BEFORE], before)
    asyncio.run(spend_by_sql(migrated, 2))
    asyncio.run(hold_by_sql(migrated))
    posted = rows(migrated)
    assert posted != before
    upgrade(migrated)
    assert (catalog(migrated), rows(migrated)) == (laws, posted)
    check(migrated)
    asyncio.run(run(migrated, give_bonuses))
    assert asyncio.run(prove(migrated)).findings == []


def test_the_version_before_goes_on_beside_it_and_writes_nothing_of_lots(migrated: Settings) -> None:
    asyncio.run(fill_up_to_holds(migrated))
    asyncio.run(spend_by_sql(migrated, 2))
    asyncio.run(hold_by_sql(migrated))
    assert of_lots(migrated) == [(table, 0) for table in OF_LOTS]
    assert asyncio.run(prove(migrated)).findings == []
    # So it can be taken down again.
    before = rows(migrated)
    downgrade(migrated, BEFORE)
    assert rows(migrated) == before


def test_the_version_before_is_refused_on_an_account_with_lots(migrated: Settings) -> None:
    asyncio.run(fill_up_to_holds(migrated))

    async def give(ledger: Ledger) -> None:
        await give_lots(ledger)
        assert isinstance(await post(ledger, "bonus", PLAIN, 7), Posted)

    asyncio.run(run(migrated, give))
    with pytest.raises(asyncpg.CheckViolationError, match="without a step of a lot"):
        asyncio.run(spend_by_sql(migrated, 2))
    assert asyncio.run(prove(migrated)).findings == []


def test_the_version_before_refuses_what_only_lots_have(migrated: Settings) -> None:
    downgrade(migrated, BEFORE)
    for statement, message in ((KEY, "idempotency_key_outcome_check"), (TRANSACTION, "transaction_type_check")):
        with pytest.raises(asyncpg.CheckViolationError, match=message):
            execute(migrated, statement)
    owner = migrated.owner_url()
    assert fetch(owner, "SELECT count(*) FROM transaction_shape WHERE type > 10") == [(0,)]
    assert fetch(owner, "SELECT proname FROM pg_proc WHERE proname IN ('lot_law', 'lot_step_law')") == []


def assert_not_taken_down(settings: Settings, table: str, to: str = BEFORE) -> None:
    before = rows(settings), of_lots(settings), catalog(settings)
    with pytest.raises(RuntimeError, match=f"^Table {table} has rows that the version before cannot read"):
        downgrade(settings, to)
    assert revision(settings) == [migrations.head()]
    assert (rows(settings), of_lots(settings), catalog(settings)) == before


@pytest.mark.parametrize(
    ("act", "table"),
    [
        (give_lots, "asset_setting"),
        (forbid_bonuses, "asset_setting"),
        (give_bonuses, "asset_setting"),
        (hold_the_pool, "hold"),
    ],
)
def test_lots_are_not_taken_down_with_what_they_have_and_go_on(
    migrated: Settings, act: Callable[[Ledger], Awaitable[None]], table: str
) -> None:
    asyncio.run(fill_up_to_holds(migrated))
    asyncio.run(run(migrated, act))
    assert_not_taken_down(migrated, table)
    # Nor by who wants to go further.
    assert_not_taken_down(migrated, table, "0007")
    asyncio.run(run(migrated, act))
    assert asyncio.run(prove(migrated)).findings == []


def test_lots_are_not_taken_down_with_a_key_s_outcome(migrated: Settings) -> None:
    asyncio.run(fill(migrated))
    execute(migrated, KEY)
    assert_not_taken_down(migrated, "idempotency_key")


def test_lots_are_not_taken_down_with_what_is_not_committed_yet(migrated: Settings) -> None:
    asyncio.run(fill(migrated))
    assert refused_to_go_down(migrated, BEFORE, KEY) == ["idempotency_key"]
    assert revision(migrated) == [migrations.head()]
