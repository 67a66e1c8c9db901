"""Migration 0006, holds: up and down on a filled database, and not down where what a hold left would be lost."""

import asyncio
from decimal import Decimal
from typing import Any, Final
from uuid import uuid4

import asyncpg
import pytest
from asyncpg import Connection
from conftest import plain
from direct import insert, movement
from factories import new_owner, post
from schemas import catalog, check, downgrade, execute, fetch, fill, refused_to_go_down, revision, upgrade

from wallet_gql.db import migrations
from wallet_gql.domain.postings import Held, Posted, Refused
from wallet_gql.domain.shards import shard_of
from wallet_gql.operations.holds import ChangeHoldInput, PlaceHoldInput, capture_hold, place_hold, void_hold
from wallet_gql.operations.opening import open_ledger
from wallet_gql.operations.proof import prove
from wallet_gql.operations.transfers import TransferInput, transfer
from wallet_gql.settings import Settings

BEFORE: Final = "0005"

# Of the tables that both versions have, what both know.
ENTRY: Final = "shard, account_id, seq, transaction_id, type, amount, balance_after, may_go_negative, executed_at"
COLUMNS: Final = {
    "asset": "*",
    "wallet": "*",
    "account": "*",
    "transaction": "*",
    "transaction_note": "shard, transaction_id, metadata, receipt",
    "receipt": "*",
    "entry": ENTRY,
    "idempotency_key": "*",
}

OWNER: Final = "owner-1"
RECEIVER: Final = "owner-2"


def rows(settings: Settings) -> dict[str, list[Any]]:
    """Return all rows of the owners' tables, as both versions know them."""
    return {
        table: sorted(fetch(settings.owner_url(), f"SELECT {columns} FROM {table}"), key=repr)
        for table, columns in COLUMNS.items()
    }


def held_rows(settings: Settings) -> list[list[Any]]:
    """Return what only this version has."""
    statements = (
        "SELECT * FROM hold ORDER BY id",
        "SELECT * FROM hold_step ORDER BY hold_id, step",
        "SELECT shard, account_id, seq, held_after, held_seq, position, next_due_at FROM entry ORDER BY 1, 2, 3",
    )
    return [fetch(settings.owner_url(), statement) for statement in statements]


async def fill_as_before(settings: Settings) -> None:
    """Make what the version before can make: postings, a note, a receipt, a transfer, refusals."""
    await fill(settings)
    async with open_ledger(settings) as ledger:
        for owner in (OWNER, RECEIVER):
            await new_owner(ledger, 50, owner)
        texts: dict[str, Any] = {"description": "Gift", "metadata": {"a": "b"}, "receipt": "store-1"}
        assert isinstance(await post(ledger, "top_up", OWNER, 5, **texts), Posted)
        assert isinstance(await post(ledger, "top_up", RECEIVER, 5, receipt="store-1"), Refused)
        assert isinstance(await post(ledger, "spend", OWNER, 3), Posted)
        assert isinstance(await post(ledger, "spend", OWNER, 1000), Refused)
        asked = TransferInput(OWNER, RECEIVER, "GOLD", Decimal(2), uuid4())
        assert isinstance(await transfer(ledger, asked), Posted)


async def spend_by_sql(settings: Settings, amount: int) -> None:
    """Post as a session of the version before does."""
    url = plain(settings.server_url().render_as_string(hide_password=False))
    connection: Connection = await asyncpg.connect(url)
    try:
        shard = shard_of(OWNER, settings.shard_count)
        await insert(connection, await movement(connection, shard, OWNER, -amount, slot=1))
    finally:
        await connection.close()


async def hold(settings: Settings, end: str | None = None) -> None:
    """Place a hold, and end it."""
    async with open_ledger(settings) as ledger:
        placed = await place_hold(ledger, PlaceHoldInput(OWNER, "GOLD", Decimal(10), uuid4()))
        assert isinstance(placed, Held)
        change = ChangeHoldInput(placed.hold.name, "", uuid4())
        if end is not None:
            assert isinstance(await {"void": void_hold, "capture": capture_hold}[end](ledger, change), Held)


def test_holds_go_down_and_up_on_a_filled_database_and_change_no_row(migrated: Settings) -> None:
    asyncio.run(fill_as_before(migrated))
    before, laws = rows(migrated), catalog(migrated)
    assert all(before.values())
    downgrade(migrated, BEFORE)
    assert (revision(migrated), rows(migrated)) == ([BEFORE], before)
    asyncio.run(spend_by_sql(migrated, 2))
    posted = rows(migrated)
    upgrade(migrated)
    assert (catalog(migrated), rows(migrated)) == (laws, posted)
    check(migrated)
    # An account that was used before has its first hold now.
    asyncio.run(hold(migrated, "capture"))
    asyncio.run(hold(migrated))
    held_after = fetch(migrated.owner_url(), "SELECT held_after, position, seq FROM entry WHERE held_seq = seq")
    assert sorted(held_after) == [(0, 6, 7), (10, 5, 6), (10, 6, 8)]
    assert asyncio.run(prove(migrated)).findings == []


def test_the_version_before_refuses_what_only_holds_have(migrated: Settings) -> None:
    downgrade(migrated, BEFORE)
    values = "0, 1, 1, gen_random_uuid(), {}, {}, 0, false, now()"
    for statement, message in (
        (f"INSERT INTO entry ({ENTRY}) VALUES ({values.format(51, 0)})", "entry_amount_check"),
        (
            (
                "INSERT INTO transaction (shard, id, type, wallet_id, executed_at)"
                " VALUES (0, gen_random_uuid(), 6, 1, now())"
            ),
            "transaction_type_check",
        ),
        *((KEY.format(outcome), "idempotency_key_outcome_check") for outcome in OUTCOMES),
    ):
        with pytest.raises(asyncpg.CheckViolationError, match=message):
            execute(migrated, statement)
    assert fetch(migrated.owner_url(), "SELECT count(*) FROM transaction_shape WHERE type = 6") == [(0,)]
    functions = fetch(migrated.owner_url(), "SELECT proname::text FROM pg_proc WHERE proname LIKE 'hold%'")
    assert functions == []


# What only the version with holds can read, alone.
KEY: Final = (
    "INSERT INTO idempotency_key (shard, wallet_id, key, fingerprint, outcome, transaction_id, details)"
    " VALUES (0, 1, gen_random_uuid(), decode(repeat('00', 16), 'hex'), {}, gen_random_uuid(), '{{\"asset_id\": 1}}')"
)
OUTCOMES: Final = (7, 8, 9, 50)


def assert_not_taken_down(settings: Settings, table: str, to: str = BEFORE) -> None:
    before = rows(settings), held_rows(settings), catalog(settings)
    with pytest.raises(RuntimeError, match=f"^Table {table} has rows that the version before cannot read"):
        downgrade(settings, to)
    assert revision(settings) == [migrations.head()]
    assert (rows(settings), held_rows(settings), catalog(settings)) == before


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_holds_are_not_taken_down_with_a_key_s_outcome(migrated: Settings, outcome: int) -> None:
    asyncio.run(fill(migrated))
    execute(migrated, KEY.format(outcome))
    assert_not_taken_down(migrated, "idempotency_key")


@pytest.mark.parametrize("end", [None, "void", "capture"])
def test_holds_are_not_taken_down_with_a_hold_and_go_on(migrated: Settings, end: str | None) -> None:
    asyncio.run(fill_as_before(migrated))
    asyncio.run(hold(migrated, end))
    assert_not_taken_down(migrated, "hold")
    # Nor by who wants to go further.
    assert_not_taken_down(migrated, "hold", "0003")
    asyncio.run(hold(migrated, end))
    assert asyncio.run(prove(migrated)).findings == []


def test_holds_are_not_taken_down_with_what_is_not_committed_yet(migrated: Settings) -> None:
    asyncio.run(fill(migrated))
    assert refused_to_go_down(migrated, BEFORE, KEY.format(50)) == ["idempotency_key"]
    assert revision(migrated) == [migrations.head()]
