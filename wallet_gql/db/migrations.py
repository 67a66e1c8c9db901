"""Migrations: where they are, running them, and whether a database is at head."""

from functools import cache
from pathlib import Path
from typing import Final

import asyncpg
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncEngine

import wallet_gql
from wallet_gql.db.engine import connect

MIGRATION_ADVISORY_LOCK: Final = 0x77616C6C6574  # "wallet" in ASCII


MIGRATOR_WAIT_SECONDS = 60.0
"""How long one migrator waits for another."""


class MigratorBusy(Exception):
    """Another migration is under way, and stays."""


class UnfitDatabase(Exception):
    """A database that this version must not work with; waiting does not cure it."""


class SchemaNotAtHead(UnfitDatabase):
    """The database's schema is not the one that this version of the service works with."""


class EncodingDiffers(UnfitDatabase):
    """The database cannot store every text that the service takes."""


def _script_location() -> Path:
    """Find the migrations: inside an installed package, or at the top of the checkout."""
    package = Path(wallet_gql.__file__).parent
    packaged = package / "_alembic"
    return packaged if packaged.is_dir() else package.parent / "alembic"


def configuration(url: URL, server_role: str | None) -> Config:
    """Return Alembic's configuration for migrating `url` and serving as `server_role`."""
    config = Config(attributes={"url": url, "server_role": server_role})
    config.set_main_option("script_location", str(_script_location()).replace("%", "%%"))
    return config


def upgrade(url: URL, server_role: str | None, revision: str = "head") -> None:
    """Migrate up as the role of `url` and give `server_role` its rights. Not for use inside an event loop."""
    command.upgrade(configuration(url, server_role), revision)


def downgrade(url: URL, server_role: str | None, revision: str) -> None:
    """Migrate down to `revision`. Not for use inside an event loop."""
    command.downgrade(configuration(url, server_role), revision)


async def check_at_head(engine: AsyncEngine) -> None:
    """Raise SchemaNotAtHead unless the database is at the newest migration that this version knows."""
    try:
        async with connect(engine) as connection:
            check_encoding(await connection.fetchval("SHOW server_encoding"))
            revision = await connection.fetchval("SELECT version_num FROM alembic_version")
    except asyncpg.UndefinedTableError:
        revision = None
    if revision != head():
        raise SchemaNotAtHead(
            f"The database's schema is at {revision or 'no revision'}, but this version needs {head()}:"
            " run `wallet-gql migrate`."
        )


def check_encoding(name: str) -> None:
    """Raise EncodingDiffers unless it is the encoding in which every text can be stored."""
    if name != "UTF8":
        raise EncodingDiffers(
            f"The database's encoding is {name}, which cannot store every text: create another database with"
            " CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0, and move the data into it."
        )


@cache
def head() -> str:
    """Return the newest migration that this version knows."""
    revision = ScriptDirectory(str(_script_location())).get_current_head()
    assert revision is not None
    return revision
