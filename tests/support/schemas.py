"""Schemas as tests of migrations make them, look at them, and hold them up."""

import asyncio
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import asyncpg
from alembic import command
from asyncpg import Connection
from conftest import plain
from factories import new_owner, post
from sqlalchemy.engine import URL

from wallet_gql.db import migrations
from wallet_gql.domain.postings import Posted
from wallet_gql.operations.assets import add_asset
from wallet_gql.operations.opening import open_ledger
from wallet_gql.settings import Settings

# What there is in a schema, each thing as the server itself describes it.
CATALOG = {
    "column": "SELECT attrelid::regclass::text, attname, format_type(atttypid, atttypmod), attnotnull, attidentity,"
    "       attcollation::regcollation::text, pg_get_expr(adbin, adrelid)"
    "  FROM pg_attribute LEFT JOIN pg_attrdef ON (adrelid, adnum) = (attrelid, attnum)"
    "  JOIN pg_class c ON c.oid = attrelid WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' AND attnum > 0"
    "   AND NOT attisdropped",
    "constraint": "SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint"
    " WHERE connamespace = 'public'::regnamespace",
    "index": "SELECT tablename, indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'",
    "trigger": "SELECT tgrelid::regclass::text, tgname, tgenabled, pg_get_triggerdef(oid) FROM pg_trigger"
    " WHERE NOT tgisinternal",
    "function": "SELECT proname, pg_get_functiondef(oid) FROM pg_proc WHERE pronamespace = 'public'::regnamespace",
    "option": "SELECT relname, reloptions::text, relacl::text FROM pg_class"
    " WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'S')",
}


def fetch(url: URL, statement: str, *arguments: object) -> list[Any]:
    async def run() -> list[Any]:
        connection = await asyncpg.connect(plain(url.render_as_string(hide_password=False)))
        try:
            return [tuple(row) for row in await connection.fetch(statement, *arguments)]
        finally:
            await connection.close()

    return asyncio.run(run())


def execute(settings: Settings, *statements: str) -> None:
    """Run statements as the tables' owner."""
    for statement in statements:
        fetch(settings.owner_url(), statement)


def catalog(settings: Settings, *, but: tuple[str, ...] = ()) -> dict[str, list[Any]]:
    """Return all that there is in a database's schema, apart from Alembic's own table."""
    return {
        name: sorted(
            (row for row in fetch(settings.owner_url(), query) if not row[0].startswith("alembic_version")), key=repr
        )
        for name, query in CATALOG.items()
        if name not in but
    }


def revision(settings: Settings) -> list[str]:
    return [row[0] for row in fetch(settings.owner_url(), "SELECT version_num FROM alembic_version")]


def upgrade(settings: Settings, to: str = "head") -> None:
    migrations.upgrade(settings.owner_url(), settings.server_role(), to)


def downgrade(settings: Settings, to: str) -> None:
    migrations.downgrade(settings.owner_url(), settings.server_role(), to)


def check(settings: Settings) -> None:
    command.check(migrations.configuration(settings.owner_url(), settings.server_role()))


async def fill(settings: Settings) -> None:
    """Post once; the database must have its schema."""
    async with open_ledger(settings) as ledger:
        await add_asset(ledger, "GOLD", "Gold Coins", 0)
        assert isinstance(await post(ledger, "top_up", await new_owner(ledger), 5), Posted)


@contextmanager
def held(settings: Settings, *statements: str) -> Iterator[Callable[[str], None]]:
    """Hold what the statements lock in a transaction of the serving role; yields what runs one more there."""
    with asyncio.Runner() as runner:
        connection: Connection = runner.run(
            asyncpg.connect(plain(settings.server_url().render_as_string(hide_password=False)))
        )
        for statement in ("BEGIN", *statements):
            runner.run(connection.execute(statement))
        try:
            yield lambda statement: runner.run(connection.execute(statement))
        finally:
            runner.run(connection.close())


def refused_to_go_down(settings: Settings, to: str, uncommitted: str) -> list[str]:
    """Take migrations down beside a row that is committed meanwhile; returns the tables that were said to have rows."""
    errors: list[BaseException] = []

    def take_down() -> None:
        try:
            downgrade(settings, to)
        except RuntimeError as error:
            errors.append(error)

    with held(settings, uncommitted) as run:
        thread = threading.Thread(target=take_down)
        thread.start()
        waiting = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        while thread.is_alive() and not fetch(settings.owner_url(), waiting):
            pass
        run("COMMIT")
        thread.join()
    return [re.sub("^Table (.*) has rows.*", r"\1", str(error)) for error in errors]
