"""Migration 0013, what was issued in a day: up and down on a filled database, and not down where one would be lost."""

import asyncio
from decimal import Decimal
from typing import Final
from uuid import UUID

import pytest
from filled import OWNER, fill_up_to_holds, rows
from schemas import catalog, check, downgrade, fetch, revision, upgrade

from wallet_gql.db import migrations
from wallet_gql.domain.access import ActorKind, AskedBy
from wallet_gql.domain.postings import Posted
from wallet_gql.operations.opening import open_ledger
from wallet_gql.operations.postings import PostingInput, top_up
from wallet_gql.operations.proof import prove
from wallet_gql.settings import Settings

BEFORE: Final = "0012"
ISSUED: Final = "SELECT actor_name, step, amount, issued_after FROM issuance"


async def issue(settings: Settings) -> object:
    asked_by = AskedBy(ActorKind.API_KEY, "shop", None)
    asked = PostingInput(
        OWNER, "GOLD", Decimal(5), UUID(int=9, version=4), asked_by=asked_by, daily_issuance=Decimal(10)
    )
    async with open_ledger(settings) as ledger:
        return await top_up(ledger, asked)


def test_it_goes_down_and_up_on_a_filled_database_and_changes_no_row(migrated: Settings) -> None:
    asyncio.run(fill_up_to_holds(migrated))
    before, laws = rows(migrated), catalog(migrated)
    downgrade(migrated, BEFORE)
    assert (revision(migrated), rows(migrated)) == ([BEFORE], before)
    upgrade(migrated)
    assert (catalog(migrated), rows(migrated)) == (laws, before)
    check(migrated)


def test_it_is_not_taken_down_with_what_was_issued(migrated: Settings) -> None:
    asyncio.run(fill_up_to_holds(migrated))
    assert isinstance(asyncio.run(issue(migrated)), Posted)
    issued = fetch(migrated.owner_url(), ISSUED)
    assert issued == [("shop", 1, 5, 5)]
    for to in (BEFORE, "0003"):
        with pytest.raises(RuntimeError, match=r"^Table issuance has rows that the version before cannot read"):
            downgrade(migrated, to)
        assert revision(migrated) == [migrations.head()]
    assert fetch(migrated.owner_url(), ISSUED) == issued
    assert asyncio.run(prove(migrated)).findings == []
