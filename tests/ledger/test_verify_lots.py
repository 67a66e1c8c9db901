"""Books with lots give no finding, and damage to lots is found, and the damaged row is named."""

import asyncio
from collections.abc import AsyncIterator, Callable

import asyncpg
import pytest
from asyncpg import Connection
from damaged import SHARD_COUNT
from direct import TABLES
from lotted import Play, play
from sqlalchemy import make_url

from wallet_gql.db import migrations
from wallet_gql.embedded.launcher import EmbeddedPostgres
from wallet_gql.ledger.verify import Finding, verify_outside, verify_shard
from wallet_gql.operations.assets import add_asset
from wallet_gql.operations.opening import open_ledger
from wallet_gql.operations.proof import prove
from wallet_gql.settings import Settings


class Books:
    """The books in a transaction that is rolled back, with the laws and guards switched off."""

    def __init__(self, connection: Connection, played: Play) -> None:
        self.connection = connection
        self.played = played

    async def findings(self) -> list[tuple[str, str, str]]:
        """Return what is found: the check, the row, the fault."""
        found: list[Finding] = [finding async for finding in verify_outside(self.connection, SHARD_COUNT)]
        for shard in range(SHARD_COUNT):
            found += [finding async for finding in verify_shard(self.connection, shard, SHARD_COUNT)]
        return [(finding.check, finding.row, finding.fault) for finding in found]


@pytest.fixture(scope="module")
def lot_settings(new_database: Callable[..., Settings]) -> Settings:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WALLET_MODE", "test")
        settings = new_database("verify_lots", template="template0")
        migrations.upgrade(settings.owner_url(), settings.server_role(), "head")
    return settings.model_copy(update={"mode": "test"})


@pytest.fixture(scope="module")
def played(lot_settings: Settings) -> Play:
    async def fill() -> Play:
        async with open_ledger(lot_settings) as ledger:
            for code in ("GOLD", "DIAMOND"):
                await add_asset(ledger, code, code.title(), 0)
            return await play(ledger)

    return asyncio.run(fill())


@pytest.fixture
async def books(postgres: EmbeddedPostgres, lot_settings: Settings, played: Play) -> AsyncIterator[Books]:
    name = lot_settings.server_url().database
    url = make_url(postgres.superuser_url).set(drivername="postgresql", database=name)
    connection = await asyncpg.connect(url.render_as_string(hide_password=False))
    transaction = connection.transaction()
    await transaction.start()
    for table in TABLES:
        await connection.execute(f"ALTER TABLE {table} DISABLE TRIGGER ALL")
    for table in ("asset_setting", "entry", "hold", "hold_step", "lot", "lot_step", "transaction"):
        for (constraint,) in await connection.fetch(
            "SELECT conname FROM pg_constraint WHERE conrelid = $1::regclass AND contype = 'c'", table
        ):
            await connection.execute(f"ALTER TABLE {table} DROP CONSTRAINT {constraint}")
    yield Books(connection, played)
    await transaction.rollback()
    await connection.close()


async def test_lots_without_damage_give_no_finding(books: Books) -> None:
    assert await books.findings() == []


def test_the_proof_of_lots_without_damage_has_no_finding(lot_settings: Settings, played: Play) -> None:
    assert asyncio.run(prove(lot_settings)).findings == []
    assert played.posted
