"""The books and the databases that tests of verification damage."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from conftest import database, execute
from damaged import ALICE, ALICE_ID, BOB, BOB_ID, SHARD, Books, History, owners_of
from direct import TABLES, account_of
from factories import new_owner, post
from sqlalchemy import make_url

from wallet_gql.domain.postings import Posted, Refused, TransactionView
from wallet_gql.domain.wallets import WalletKind
from wallet_gql.embedded.launcher import EmbeddedPostgres
from wallet_gql.operations.opening import Ledger, open_ledger
from wallet_gql.settings import Settings


@pytest.fixture(scope="module")
def damaged_settings(new_database: Callable[[str], Settings]) -> Settings:
    return new_database("verify")


@pytest.fixture(scope="module")
def history(damaged_settings: Settings) -> History:
    async def posted(ledger: Ledger, owner: str, amount: int, **more: Any) -> TransactionView:
        verb = "spend" if amount < 0 else "top_up"
        outcome = await post(ledger, verb, owner, abs(amount), **more)
        assert isinstance(outcome, Posted)
        return outcome.transaction

    async def fill() -> History:
        async with open_ledger(damaged_settings) as ledger:
            for owner in (ALICE_ID, BOB_ID, owners_of(2)[0]):
                await new_owner(ledger, owner_id=owner)
            texts = [{}, {"description": "Sword: é🎮", "reference": "r-1"}, {"description": ""}, {"reference": "-"}]
            alice = [
                await posted(ledger, ALICE_ID, amount, **more) for (amount, _), more in zip(ALICE, texts, strict=True)
            ]
            refused = uuid4()
            assert isinstance(await post(ledger, "spend", ALICE_ID, 1000, refused), Refused)
            diamond = await posted(ledger, ALICE_ID, 5, asset_code="DIAMOND")
            bob = [await posted(ledger, BOB_ID, amount) for amount, _ in BOB]
            await posted(ledger, owners_of(2)[0], 7)
            return History(alice, bob, diamond, refused)

    return asyncio.run(fill())


@pytest.fixture
async def books(postgres: EmbeddedPostgres, damaged_settings: Settings, history: History) -> AsyncIterator[Books]:
    url = make_url(postgres.superuser_url).set(drivername="postgresql", database=damaged_settings.server_url().database)
    connection = await asyncpg.connect(url.render_as_string(hide_password=False))
    transaction = connection.transaction()
    await transaction.start()
    for table in TABLES:
        await connection.execute(f"ALTER TABLE {table} DISABLE TRIGGER ALL")
    treasury = (await account_of(connection, SHARD, "0", kind=WalletKind.TREASURY)).id
    yield Books(connection, history, treasury)
    await transaction.rollback()
    await connection.close()


@pytest.fixture
def own(new_database: Callable[[str], Settings]) -> Settings:
    return new_database("armour")


@pytest.fixture
def damage(own: Settings, postgres: EmbeddedPostgres) -> Callable[..., None]:
    """Run statements in the database of its own as the superuser."""
    name = own.server_url().database
    assert name is not None
    return lambda *statements: asyncio.run(execute(database(postgres.superuser_url, name), *statements))
