"""Connections: SQLAlchemy's pool over asyncpg, with every timeout set from the start.

The ledger's statements go to asyncpg directly: a statement through SQLAlchemy costs some 400 µs more of CPU, and on
the path of a posting that is what there is to save (docs/decisions/0003). SQLAlchemy keeps the pool, the addresses
and the tables.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from asyncpg import Connection
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from wallet_gql.settings import Settings


def create_engine(settings: Settings, url: URL | None = None) -> AsyncEngine:
    """Return an engine for the service's database; it connects when first used.

    The service only ever looks up index entries, so its sessions plan nothing else: a plan made while a table was
    still empty stays right when it is full.
    """
    return create_async_engine(
        url or settings.server_url(),
        pool_size=settings.pool_size,
        max_overflow=0,
        pool_timeout=settings.connect_timeout_seconds,
        # Units of work end themselves by COMMIT or ROLLBACK; a connection in doubt is not given back but closed.
        pool_reset_on_return=None,
        connect_args={
            "timeout": settings.connect_timeout_seconds,
            "server_settings": {
                "application_name": "wallet-gql",
                "default_transaction_isolation": "read committed",
                "statement_timeout": _milliseconds(settings.statement_timeout_seconds),
                "lock_timeout": _milliseconds(settings.lock_timeout_seconds),
                "idle_in_transaction_session_timeout": _milliseconds(settings.idle_in_transaction_timeout_seconds),
                "tcp_keepalives_idle": "30",
                "tcp_keepalives_interval": "10",
                "tcp_keepalives_count": "3",
                "tcp_user_timeout": "30000",
                "jit": "off",
                "enable_seqscan": "off",
                "enable_hashjoin": "off",
                "enable_mergejoin": "off",
                "TimeZone": "UTC",
            },
        },
    )


def _milliseconds(seconds: float) -> str:
    return str(max(1, round(seconds * 1000)))


async def driver_connection(connection: AsyncConnection) -> Connection:
    """Return the asyncpg connection below a pooled one."""
    return (await connection.get_raw_connection()).driver_connection


@asynccontextmanager
async def connect(engine: AsyncEngine) -> AsyncIterator[Connection]:
    """Lend an asyncpg connection from the pool; each statement outside a transaction is its own snapshot.

    A connection that the server closed while it lay in the pool is replaced. One that comes back closed, or inside a
    transaction, is thrown away.
    """
    async with engine.connect() as connection:
        driver = await driver_connection(connection)
        while driver.is_closed():
            await connection.invalidate()
            driver = await driver_connection(connection)
        try:
            yield driver
        finally:
            if driver.is_closed() or driver.is_in_transaction():
                driver.terminate()
                await connection.invalidate()
