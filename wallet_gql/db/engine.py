"""Connections: SQLAlchemy's pool over asyncpg, with every timeout set from the start.

The ledger's statements go to asyncpg directly: a statement through SQLAlchemy costs some 400 µs more of CPU, and on
the path of a posting that is what there is to save (docs/decisions/0003). SQLAlchemy keeps the pool and the tables.

A pooled connection is lent again only as long as there is no reason to think that it leads nowhere: whoever gives one
up because no answer came makes all be replaced that have not answered since, so that a host that vanished costs one
deadline, not one for each connection. A session of a standby is not lent at all.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from math import inf
from typing import Any, Final
from weakref import WeakKeyDictionary, WeakSet

import asyncpg
from asyncpg import Connection
from asyncpg.transaction import Transaction
from sqlalchemy import PoolProxiedConnection
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from wallet_gql.db.connecting import NotConnected, connector, is_standby
from wallet_gql.domain.errors import Unavailable
from wallet_gql.settings import Settings

LOCAL_SETTINGS: Final = "local_settings"
"""The engine's execution option that holds the statement which sets a transaction's own settings, if it needs one."""

_SIGNS: Final = "signs_of_life"

READ_ONLY_NOTICED_EVERY_SECONDS: Final = 1
"""How often a refusal to write makes idle sessions be replaced: a database that only reads must still be read."""


CLOSED_WITHIN_SECONDS: Final = 2
"""How long a database may take to say good-bye."""


@dataclass(slots=True)
class _Signs:
    """An engine's connections, when each last came back well, and since when it must have, to be lent again."""

    may_be_standby: bool
    made: WeakSet[Connection] = field(default_factory=WeakSet)
    came_back: WeakKeyDictionary[Connection, float] = field(default_factory=WeakKeyDictionary)
    needed_since: float = -inf
    is_closed: bool = False


def create_engine(settings: Settings, url: URL | None = None, *, may_be_standby: bool = False) -> AsyncEngine:
    """Return an engine for the service's database; it connects when first used, to a standby only where that may be.

    Behind PgBouncer in transaction mode a session is another client's with the next transaction: nothing may be
    prepared in it or set for it, so each transaction sets its own, by one more statement.
    """
    url = url or settings.server_url()
    session = _session_settings(settings)
    signs = _Signs(may_be_standby)
    options: dict[str, Any] = {_SIGNS: signs}
    if settings.pgbouncer:
        # The values are numbers and words of our own.
        calls = (f"set_config('{name}', '{value}', true)" for name, value in session.items())
        options[LOCAL_SETTINGS] = f"SELECT {', '.join(calls)}"
    connect = connector(
        url,
        connect_timeout_seconds=settings.connect_timeout_seconds,
        # So that a request whose host vanished has time left to be run again.
        answer_timeout_seconds=settings.request_deadline_seconds / 3,
        server_settings={} if settings.pgbouncer else session | {"application_name": "wallet-gql"},
        may_be_standby=may_be_standby,
        **({"statement_cache_size": 0} if settings.pgbouncer else {}),
    )

    async def make() -> Connection:
        connection = await connect()
        signs.made.add(connection)
        if signs.is_closed:
            # It was under way when the others were closed.
            connection.terminate()
        _refuse_if_closed(signs)
        return connection

    def create() -> Any:
        # What `async_creator` does, and the one argument that it cannot pass on.
        return engine.sync_engine.dialect.loaded_dbapi.connect(
            async_creator_fn=make, prepared_statement_cache_size=0 if settings.pgbouncer else 100
        )

    engine = create_async_engine(
        url.set(query={}),
        creator=create,
        pool_size=settings.pool_size,
        max_overflow=0,
        # The newest first: what lies at the bottom is what a fail-over or a firewall has most likely cut.
        pool_use_lifo=True,
        pool_timeout=settings.connect_timeout_seconds,
        # Units of work end themselves by COMMIT or ROLLBACK; a connection in doubt is not given back but closed.
        pool_reset_on_return=None,
        execution_options=options,
    )
    return engine


async def close(engine: AsyncEngine) -> None:
    """Close an engine of the service for good; connections to a database that does not answer are cut.

    Whoever still asks for a connection gets none: it would be one that nobody closes.
    """
    signs: _Signs = engine.get_execution_options()[_SIGNS]
    signs.is_closed = True
    try:
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSED_WITHIN_SECONDS):
                await engine.dispose()
    finally:
        for connection in list(signs.made):
            if not connection.is_closed():
                connection.terminate()


def create_owner_engine(url: URL, *, connect_timeout_seconds: float = 10) -> AsyncEngine:
    """Return an engine for migrations: no pool, and of the service's settings none but a lock timeout."""
    connect = connector(
        url,
        connect_timeout_seconds=connect_timeout_seconds,
        answer_timeout_seconds=30,
        server_settings={"lock_timeout": "5s"},
    )
    return create_async_engine(url.set(query={}), async_creator=connect, poolclass=NullPool)


def _session_settings(settings: Settings) -> dict[str, str]:
    """Return what holds in the service's sessions.

    A look-up is written so that it has one plan if nothing is sorted that an index can give in order (see
    `ledger.lookups`). So a plan that is made once, perhaps while the table is empty, stays right when it is full, and
    nothing is planned again: for one posting that was half of what the database did. Nor is a look-up's answer kept for
    the next row, which seldom asks for the same.
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
        "enable_memoize": "off",
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
    """Lend an asyncpg connection from the pool, outside a transaction; raises `NotConnected` where there is none.

    Raises `Unavailable` once the engine is closed.

    A connection that the server closed while it lay in the pool is replaced. One that comes back closed, inside a
    transaction, unable to write, or from somebody who gave up waiting for its answer, is thrown away.
    """
    signs: _Signs = engine.get_execution_options()[_SIGNS]
    pooled = await _check_out(engine, signs)
    driver: Any = pooled.driver_connection
    lent_at = time.monotonic()
    try:
        yield driver
    except BaseException as error:
        # Given up, perhaps at COMMIT. A database that fell silent would not answer to who got the connection next.
        if isinstance(error, asyncio.CancelledError) or isinstance(error.__cause__, asyncio.CancelledError):
            driver.terminate()
            signs.needed_since = max(signs.needed_since, lent_at)
        elif isinstance(error, asyncpg.ReadOnlySQLTransactionError):
            # Others may lead to the same server, and what it is now need not be what it will be.
            driver.terminate()
            if time.monotonic() - signs.needed_since > READ_ONLY_NOTICED_EVERY_SECONDS:
                signs.needed_since = time.monotonic()
        raise
    finally:
        # Neither needs an await, for neither sends anything: the pool resets nothing, what is broken is gone already.
        if driver.is_closed() or driver.is_in_transaction():
            _throw_away(pooled)
        else:
            signs.came_back[driver] = time.monotonic()
            pooled.close()


def _refuse_if_closed(signs: _Signs) -> None:
    if signs.is_closed:
        raise Unavailable("The service is shutting down.")


async def _check_out(engine: AsyncEngine, signs: _Signs) -> PoolProxiedConnection:
    while True:
        _refuse_if_closed(signs)
        try:
            pooled = await engine.raw_connection()
        except (engine.dialect.loaded_dbapi.Error, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            # What SQLAlchemy and the driver ask of a connection that is new.
            raise NotConnected({engine.url.host or "the database": error}) from error
        driver: Any = pooled.driver_connection
        if driver is not None and _is_good(driver, signs):
            return pooled
        _throw_away(pooled)


def _is_good(driver: Connection, signs: _Signs) -> bool:
    """Say whether a connection of the pool may be lent; it asks nothing of the server."""
    if driver.is_closed() or (is_standby(driver) and not signs.may_be_standby):
        return False
    return signs.came_back.get(driver, inf) > signs.needed_since


def _throw_away(pooled: PoolProxiedConnection) -> None:
    """Close a connection without the good-bye that SQLAlchemy would wait two seconds for."""
    driver: Any = pooled.driver_connection
    if driver is not None:
        driver.terminate()
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
