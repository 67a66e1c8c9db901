"""Runs the migrations as the tables' owner, one migrator at a time, and gives the serving role its rights.

The database's address comes from the caller (`wallet-gql migrate`), or from the settings when Alembic's own command
is used. Lock timeouts are set: a migration that cannot have its lock fails and changes nothing, instead of making
the whole service queue behind it. The timeout and the migrators' lock are the session's: a migration may commit on its
way.
"""

import asyncio
from time import monotonic, sleep
from typing import Any

from alembic import context
from sqlalchemy import Connection, text

from wallet_gql.db import migrations
from wallet_gql.db.engine import create_owner_engine
from wallet_gql.db.grants import close_statements, grant_statements
from wallet_gql.db.migrations import MIGRATION_ADVISORY_LOCK, MigratorBusy, check_encoding
from wallet_gql.db.tables import metadata
from wallet_gql.settings import Settings


def include_object(_object: Any, name: str | None, type_: str, _reflected: bool, _compare_to: Any) -> bool:
    """Compare our tables only: another tool's table in the same schema is not ours to judge."""
    return type_ != "table" or name in metadata.tables


def run(connection: Connection, server_role: str | None) -> None:
    """Migrate and grant, in one database transaction but for what a migration says."""
    context.configure(
        connection=connection, target_metadata=metadata, compare_server_default=True, include_object=include_object
    )
    wait_for_others(connection)
    with context.begin_transaction():
        check_encoding(connection.execute(text("SHOW server_encoding")).scalar_one())
        context.run_migrations()
        for statement in (*close_statements(connection, server_role), *grant_statements(connection, server_role)):
            connection.execute(text(statement))


def wait_for_others(connection: Connection) -> None:
    """Have the migrators' lock; raises MigratorBusy where another one keeps it.

    It is asked for again and again, each time in a transaction of its own: an index that the other one makes
    CONCURRENTLY waits for the end of every transaction that has begun.
    """
    end = monotonic() + migrations.MIGRATOR_WAIT_SECONDS
    try_lock, key = text("SELECT pg_try_advisory_lock(:key)"), {"key": MIGRATION_ADVISORY_LOCK}
    while not (is_had := connection.execute(try_lock, key).scalar()) and monotonic() < end:
        connection.rollback()
        sleep(0.05)
    connection.rollback()
    if not is_had:
        raise MigratorBusy("Another migration is under way: let it end, then run this one again.")


async def main() -> None:
    """Open a connection of its own and migrate."""
    attributes = context.config.attributes
    settings = None if "url" in attributes else Settings()
    url = attributes["url"] if settings is None else settings.owner_url()
    role = attributes["server_role"] if settings is None else settings.server_role()
    engine = create_owner_engine(url)
    async with engine.connect() as connection:
        await connection.run_sync(run, role)
        await connection.commit()
    await engine.dispose()


# The first migration writes it down, and no later one changes it.
settings = Settings()
context.config.attributes["shard_count"] = settings.shard_count
context.config.attributes["is_test_mode"] = settings.mode == "test"

if context.is_offline_mode():
    context.configure(dialect_name="postgresql", target_metadata=metadata, literal_binds=True)
    with context.begin_transaction():
        context.run_migrations()
else:
    asyncio.run(main())
