"""Migration 0014, the bounds of notes in their law: up and down on a filled database, bounded before and after."""

import asyncio
from typing import Any, Final

import pytest
from asyncpg import CheckViolationError
from filled import fill_up_to_holds, rows
from schemas import catalog, check, downgrade, execute, fetch, revision, upgrade

from wallet_gql.operations.proof import prove
from wallet_gql.settings import Settings

BEFORE: Final = "0013"
# A note of a transaction that has none, with what says nothing, or too much.
NOTE: Final = """
INSERT INTO transaction_note (shard, transaction_id, metadata, receipt)
SELECT t.shard, t.id, {metadata}, {receipt} FROM transaction t
 WHERE NOT EXISTS (SELECT FROM transaction_note n WHERE (n.shard, n.transaction_id) = (t.shard, t.id)) LIMIT 1
"""
OUT_OF_BOUNDS: Final = (("NULL", "NULL"), ("'{}'", "NULL"), ("NULL", "''"))


def refuses_what_is_out_of_bounds(settings: Settings, constraint: str) -> None:
    for metadata, receipt in OUT_OF_BOUNDS:
        with pytest.raises(CheckViolationError) as refused:
            execute(settings, NOTE.format(metadata=metadata, receipt=receipt))
        assert (refused.value.as_dict()["constraint_name"] or "").startswith(constraint)


def test_notes_are_bounded_before_and_after_and_no_row_is_changed(migrated: Settings) -> None:
    asyncio.run(fill_up_to_holds(migrated))
    before: Any = rows(migrated), catalog(migrated)
    refuses_what_is_out_of_bounds(migrated, "transaction_note_law_bounds")
    downgrade(migrated, BEFORE)
    assert (revision(migrated), rows(migrated)) == ([BEFORE], before[0])
    checks = "SELECT count(*) FROM pg_constraint WHERE conrelid = 'transaction_note'::regclass AND contype = 'c'"
    assert fetch(migrated.owner_url(), checks) == [(3,)]
    refuses_what_is_out_of_bounds(migrated, "transaction_note_")
    upgrade(migrated)
    assert (rows(migrated), catalog(migrated)) == before
    check(migrated)
    assert asyncio.run(prove(migrated)).findings == []
