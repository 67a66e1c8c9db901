"""Connections: SQLAlchemy's pool over asyncpg, with every timeout set from the start.

The ledger's statements go to asyncpg directly: a statement through SQLAlchemy costs some 400 µs more of CPU, and on
the path of a posting that is what there is to save (docs/decisions/0003). SQLAlchemy keeps the pool, the addresses
and the tables.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

from asyncpg import Connection
from asyncpg.transaction import Transaction
from sqlalchemy import PoolProxiedConnection
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from wallet_gql.settings import Settings

LOCAL_SETTINGS: Final = "local_settings"
"""The engine's execution option that holds the statement which sets a transaction's own settings, if it needs one."""


def create_engine(settings: Settings, url: URL | None = None) -> AsyncEngine:
    """Return an engine for the service's database; it connects when first used.

    Behind PgBouncer in transaction mode a session is another client's with the next transaction: nothing may be
    prepared in it or set for it, so each transaction sets its own, by one more statement.
    """
    session = _session_settings(settings)
    arguments: dict[str, Any] = {"timeout": settings.connect_timeout_seconds}
    options = {}
    if settings.pgbouncer:
        arguments |= {"statement_cache_size": 0, "prepared_statement_cache_size": 0}
        # The values are numbers and words of our own.
        calls = (f"set_config('{name}', '{value}', true)" for name, value in session.items())
        options[LOCAL_SETTINGS] = f"SELECT {', '.join(calls)}"
    else:
        arguments["server_settings"] = session | {"application_name": "wallet-gql"}
    return create_async_engine(
        url or settings.server_url(),
        pool_size=settings.pool_size,
        max_overflow=0,
        pool_timeout=settings.connect_timeout_seconds,
        # Units of work end themselves by COMMIT or ROLLBACK; a connection in doubt is not given back but closed.
        pool_reset_on_return=None,
        connect_args=arguments,
        execution_options=options,
    )


def _session_settings(settings: Settings) -> dict[str, str]:
    """Return what holds in the service's sessions.

    A look-up is written so that it has one plan if nothing is sorted that an index can give in order (see
    `ledger.lookups`). So a plan that is made once, perhaps while the table is empty, stays right when it is full, and
    nothing is planned again: for one posting that was half of what the database did.
    """
    return {
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
        "enable_sort": "off",
        "enable_incremental_sort": "off",
        "plan_cache_mode": "force_generic_plan",
        "timezone": "UTC",
    }


def _milliseconds(seconds: float) -> str:
    return str(max(1, round(seconds * 1000)))


@asynccontextmanager
async def lend(engine: AsyncEngine) -> AsyncIterator[Connection]:
    """Lend an asyncpg connection from the pool, outside a transaction.

    A connection that the server closed while it lay in the pool is replaced. One that comes back closed, inside a
    transaction, or from somebody who gave up waiting for its answer, is thrown away.
    """
    pooled = await _check_out(engine)
    driver: Any = pooled.driver_connection
    try:
        yield driver
    except asyncio.CancelledError:
        # A database that fell silent would not answer to who got the connection next either.
        driver.terminate()
        raise
    finally:
        # Neither needs an await, for neither sends anything: the pool resets nothing, what is broken is gone already.
        if driver.is_closed() or driver.is_in_transaction():
            driver.terminate()
            pooled.invalidate()
        else:
            pooled.close()


async def _check_out(engine: AsyncEngine) -> PoolProxiedConnection:
    while True:
        try:
            pooled = await engine.raw_connection()
        except engine.dialect.loaded_dbapi.Error as error:
            # SQLAlchemy's wrapping of what the server answered to the driver.
            raise error.__cause__ or error from None
        if pooled.driver_connection is not None and not pooled.driver_connection.is_closed():
            return pooled
        pooled.invalidate()


async def begin(engine: AsyncEngine, connection: Connection) -> Transaction:
    """Begin a transaction at Read Committed, with its own settings where the session cannot have them."""
    transaction = connection.transaction(isolation="read_committed")
    await transaction.start()
    local = engine.get_execution_options().get(LOCAL_SETTINGS)
    if local is not None:
        await connection.execute(local)
    return transaction


@asynccontextmanager
async def connect(engine: AsyncEngine, *, deadline: float | None = None) -> AsyncIterator[Connection]:
    """Lend a connection for statements that each commit by themselves, and are each their own snapshot.

    Behind PgBouncer they share a transaction, at Read Committed still each with its own snapshot. At `deadline`, a time
    of the event loop's clock, it stops waiting for the database and raises TimeoutError.
    """
    async with asyncio.timeout_at(deadline), lend(engine) as connection:
        if LOCAL_SETTINGS not in engine.get_execution_options():
            yield connection
            return
        transaction = await begin(engine, connection)
        yield connection
        await transaction.commit()
