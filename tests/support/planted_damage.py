"""Damage that tests plant in books, past the laws and guards, and what verification finds of it."""

from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import asyncpg
import pytest
from asyncpg import Connection
from damaged import SHARD_COUNT
from direct import TABLES
from sqlalchemy import make_url

from wallet_gql.db import migrations
from wallet_gql.embedded.launcher import EmbeddedPostgres
from wallet_gql.ledger.verify import Finding, verify_outside, verify_shard
from wallet_gql.settings import Settings


@dataclass(frozen=True)
class Planted:
    """Damage, and what is found of it: the check, the row, and how the fault begins."""

    statements: tuple[str, ...]
    check: str
    row: str
    fault: str


class DamagedBooks:
    """The books in a transaction that is rolled back, with the laws and guards switched off."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    @asynccontextmanager
    async def damaged(self, *statements: str) -> AsyncIterator[None]:
        """Damage the books while the block lasts."""
        savepoint = self.connection.transaction()
        await savepoint.start()
        for statement in statements:
            await self.connection.execute(statement)
        yield
        await savepoint.rollback()

    async def findings(self) -> list[tuple[str, str, str]]:
        """Return what is found: the check, the row, the fault."""
        found: list[Finding] = [finding async for finding in verify_outside(self.connection, SHARD_COUNT)]
        for shard in range(SHARD_COUNT):
            found += [finding async for finding in verify_shard(self.connection, shard, SHARD_COUNT)]
        return [(finding.check, finding.row, finding.fault) for finding in found]

    async def assert_each_is_found(self, planted: Iterable[Planted]) -> None:
        """Plant one damage after the other, and see that it is found and that the damaged row is named."""
        for each in planted:
            async with self.damaged(*each.statements):
                found = await self.findings()
            told = [
                row
                for check, row, fault in found
                if check == each.check and each.row in row and fault.startswith(each.fault)
            ]
            assert told, (each, found)


@asynccontextmanager
async def damaged_books(
    postgres: EmbeddedPostgres, settings: Settings, unchecked: Sequence[str]
) -> AsyncIterator[DamagedBooks]:
    """Lend the books of a database to a block that damages them; tables that are `unchecked` have no CHECKs in it."""
    url = make_url(postgres.superuser_url).set(drivername="postgresql", database=settings.server_url().database)
    connection = await asyncpg.connect(url.render_as_string(hide_password=False))
    transaction = connection.transaction()
    await transaction.start()
    for table in TABLES:
        await connection.execute(f"ALTER TABLE {table} DISABLE TRIGGER ALL")
    for table in unchecked:
        for (constraint,) in await connection.fetch(
            "SELECT conname FROM pg_constraint WHERE conrelid = $1::regclass AND contype = 'c'", table
        ):
            await connection.execute(f"ALTER TABLE {table} DROP CONSTRAINT {constraint}")
    yield DamagedBooks(connection)
    await transaction.rollback()
    await connection.close()


def new_test_mode_database(new_database: Callable[..., Settings], name: str) -> Settings:
    """Make a database whose clock tests move."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WALLET_MODE", "test")
        settings = new_database(name, template="template0")
        migrations.upgrade(settings.owner_url(), settings.server_role(), "head")
    return settings.model_copy(update={"mode": "test"})
