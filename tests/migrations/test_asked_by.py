"""Migration 0012, who asked for what: up and down on a filled database, and not down where that would be lost."""

import asyncio
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

import pytest
from filled import OWNER, PLAIN, fill_up_to_holds, rows, spend_by_sql
from schemas import catalog, check, downgrade, fetch, refused_to_go_down, revision, upgrade

from wallet_gql.db import migrations
from wallet_gql.domain.access import ActorKind, AskedBy
from wallet_gql.domain.postings import Posted
from wallet_gql.operations.opening import open_ledger
from wallet_gql.operations.postings import PostingInput, top_up
from wallet_gql.operations.proof import prove
from wallet_gql.settings import Settings

BEFORE: Final = "0011"
KEY: Final = UUID(int=9, version=4)
NOTED: Final = "SELECT actor_kind, actor_name, request_id, at IS NOT NULL FROM transaction_note WHERE at IS NOT NULL"


async def credit(settings: Settings, asked_by: AskedBy) -> object:
    async with open_ledger(settings) as ledger:
        return await top_up(ledger, PostingInput(OWNER, "GOLD", Decimal(5), KEY, asked_by=asked_by))


def test_who_asked_goes_down_and_up_on_a_filled_database_and_changes_no_row(migrated: Settings) -> None:
    asyncio.run(fill_up_to_holds(migrated))
    before, laws = rows(migrated), catalog(migrated)
    assert all(before[table] for table in ("transaction", "transaction_note", "hold", "receipt"))
    downgrade(migrated, BEFORE)
    assert (revision(migrated), rows(migrated)) == ([BEFORE], before)
    upgrade(migrated)
    assert (catalog(migrated), rows(migrated)) == (laws, before)
    check(migrated)
    asyncio.run(spend_by_sql(migrated, 1))
    assert isinstance(asyncio.run(credit(migrated, AskedBy(ActorKind.API_KEY, "game", "r-1"))), Posted)
    assert fetch(migrated.owner_url(), NOTED) == [(1, "game", "r-1", True)]
    assert asyncio.run(prove(migrated)).findings == []


@pytest.mark.parametrize("asked_by", [AskedBy(ActorKind.PERSON, "p", None), AskedBy(None, None, "r-1")])
def test_who_asked_is_not_taken_down(migrated: Settings, asked_by: AskedBy) -> None:
    asyncio.run(fill_up_to_holds(migrated))
    assert isinstance(asyncio.run(credit(migrated, asked_by)), Posted)
    before: Any = rows(migrated), catalog(migrated), fetch(migrated.owner_url(), NOTED)
    for to in (BEFORE, "0003"):
        with pytest.raises(RuntimeError, match=r"^Table transaction_note has rows that the version before cannot read"):
            downgrade(migrated, to)
        assert revision(migrated) == [migrations.head()]
    assert (rows(migrated), catalog(migrated), fetch(migrated.owner_url(), NOTED)) == before


def test_it_is_not_taken_down_beside_one_who_asks(migrated: Settings) -> None:
    asyncio.run(fill_up_to_holds(migrated))
    note = (
        "INSERT INTO transaction_note (shard, transaction_id, request_id, at)"
        " SELECT t.shard, t.id, 'r-1', clock_timestamp() FROM transaction t"
        "  JOIN wallet w ON (w.shard, w.id) = (t.shard, t.wallet_id)"
        f" WHERE w.owner_id = '{PLAIN}' LIMIT 1"
    )
    assert refused_to_go_down(migrated, BEFORE, note) == ["transaction_note"]
