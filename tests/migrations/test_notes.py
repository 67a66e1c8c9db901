"""Migration 0005, notes and receipts: up and down on a filled database, and not down where one would be lost."""

import asyncio
from typing import Any, Final

import asyncpg
import pytest
from factories import new_owner, post
from schemas import catalog, check, downgrade, execute, fetch, fill, revision, upgrade

from wallet_gql.db import migrations
from wallet_gql.domain.postings import Posted, Refused
from wallet_gql.operations.opening import open_ledger
from wallet_gql.operations.proof import prove
from wallet_gql.settings import Settings

BEFORE: Final = "0004"
TABLES: Final = ("wallet", "account", "transaction", "idempotency_key")
ENTRY: Final = "shard, account_id, seq, transaction_id, type, amount, balance_after, may_go_negative, executed_at"


def rows(settings: Settings) -> dict[str, list[Any]]:
    """Return all rows of the owners' tables that both versions have."""
    statements = {table: f"SELECT * FROM {table}" for table in TABLES} | {"entry": f"SELECT {ENTRY} FROM entry"}
    return {table: sorted(fetch(settings.owner_url(), each), key=repr) for table, each in statements.items()}


def notes(settings: Settings) -> list[list[Any]]:
    return [
        fetch(settings.owner_url(), f"SELECT * FROM {table} ORDER BY 1, 2") for table in ("transaction_note", "receipt")
    ]


async def credit(settings: Settings, owner: str, **texts: Any) -> object:
    async with open_ledger(settings) as ledger:
        return await post(ledger, "top_up", await new_owner(ledger, owner_id=owner), 5, **texts)


async def fill_as_before(settings: Settings) -> None:
    await fill(settings)
    async with open_ledger(settings) as ledger:
        owner = await new_owner(ledger, 50)
        assert isinstance(await post(ledger, "spend", owner, 3, description="Sword"), Posted)
        assert isinstance(await post(ledger, "spend", owner, 1000), Refused)


def test_notes_go_down_and_up_on_a_filled_database_and_change_no_row(migrated: Settings) -> None:
    asyncio.run(fill_as_before(migrated))
    before, laws = rows(migrated), catalog(migrated)
    assert all(before.values())
    downgrade(migrated, BEFORE)
    assert (revision(migrated), rows(migrated)) == ([BEFORE], before)
    upgrade(migrated)
    assert (catalog(migrated), rows(migrated)) == (laws, before)
    check(migrated)
    texts = {"metadata": {"a": "b"}, "receipt": "store-1"}
    assert isinstance(asyncio.run(credit(migrated, "owner-1", **texts)), Posted)
    assert isinstance(asyncio.run(credit(migrated, "owner-2", **texts)), Refused)
    assert [len(table) for table in notes(migrated)] == [1, 1]
    assert asyncio.run(prove(migrated)).findings == []


def test_the_version_before_knows_neither_notes_nor_receipts(migrated: Settings) -> None:
    downgrade(migrated, BEFORE)
    for table in ("transaction_note", "receipt"):
        with pytest.raises(asyncpg.UndefinedTableError):
            execute(migrated, f"SELECT FROM {table}")
    own = ["receipt_shard", "receipt_law", "transaction_note_law"]
    assert fetch(migrated.owner_url(), "SELECT proname FROM pg_proc WHERE proname = ANY ($1)", own) == []
    with pytest.raises(asyncpg.CheckViolationError, match="idempotency_key_outcome_check"):
        execute(migrated, KEY)


KEY: Final = (
    "INSERT INTO idempotency_key (shard, wallet_id, key, fingerprint, outcome, transaction_id, details)"
    " VALUES (0, 1, gen_random_uuid(), decode(repeat('00', 16), 'hex'), 6, gen_random_uuid(), '{\"asset_id\": 1}')"
)


def assert_not_taken_down(settings: Settings, table: str, to: str = BEFORE) -> None:
    before = rows(settings), notes(settings), catalog(settings)
    with pytest.raises(RuntimeError, match=f"^Table {table} has rows that the version before cannot read"):
        downgrade(settings, to)
    assert revision(settings) == [migrations.head()]
    assert (rows(settings), notes(settings), catalog(settings)) == before


def test_notes_are_not_taken_down_with_a_receipt_that_was_refused(migrated: Settings) -> None:
    asyncio.run(fill(migrated))
    execute(migrated, KEY)
    assert_not_taken_down(migrated, "idempotency_key")


@pytest.mark.parametrize("texts", [{"metadata": {"a": "b"}}, {"receipt": "store-1"}], ids=["a note", "a receipt"])
def test_notes_are_not_taken_down_with(migrated: Settings, texts: dict[str, Any]) -> None:
    asyncio.run(fill(migrated))
    assert isinstance(asyncio.run(credit(migrated, "owner-1", **texts)), Posted)
    # A receipt has a note as well.
    assert_not_taken_down(migrated, "transaction_note")
    assert_not_taken_down(migrated, "transaction_note", "0003")
    assert asyncio.run(prove(migrated)).findings == []


def test_notes_are_not_taken_down_with_a_receipt_that_lost_its_note(migrated: Settings) -> None:
    asyncio.run(fill(migrated))
    assert isinstance(asyncio.run(credit(migrated, "owner-1", receipt="store-1")), Posted)
    execute(
        migrated,
        "ALTER TABLE transaction_note DISABLE TRIGGER refuse_change",
        "DELETE FROM transaction_note",
        "ALTER TABLE transaction_note ENABLE ALWAYS TRIGGER refuse_change",
    )
    assert_not_taken_down(migrated, "receipt")
