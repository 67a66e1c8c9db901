"""Begin, commit and retry: the only place where a database transaction of the ledger starts and ends.

What an error means for the credits decides what is done about it:

| error | posted? | then |
| --- | --- | --- |
| 40001, 40P01, 23505 on an entry's key | no | the whole unit again, after a jittered pause |
| the connection is lost, refused or shut down before COMMIT | no | again, then `Unavailable` |
| the connection is lost at COMMIT | perhaps | again: the keys make that safe; whatever stops that, `OutcomeUnknown` |
| no answer when the deadline is near | perhaps, if at COMMIT | the connection is given up; as above |
| a lock or statement timeout | no | `Unavailable` |
| anything else | no | raised: it is a fault of ours |
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final, TypeVar

import asyncpg
import sqlalchemy.exc
from asyncpg import Connection
from sqlalchemy.ext.asyncio import AsyncEngine
from tenacity import AsyncRetrying, RetryError, retry_if_exception, stop_after_attempt, stop_after_delay
from tenacity.wait import wait_random_exponential

from wallet_gql.db.engine import begin, lend
from wallet_gql.domain.errors import OutcomeUnknown, Unavailable

Result = TypeVar("Result")

ATTEMPTS_MAX: Final = 8
"""How often a unit of work is tried; the pauses between double from 5 ms to a second, each jittered from zero."""


class CommitInDoubt(Exception):
    """The connection was lost while COMMIT was under way."""


_CONFLICTS: Final = (asyncpg.SerializationError, asyncpg.DeadlockDetectedError)

_AWAY: Final = (
    OSError,  # refused, reset, unreachable; TimeoutError is one too
    asyncpg.PostgresConnectionError,  # 08xxx
    asyncpg.InterfaceError,  # the driver's "connection is closed"
    asyncpg.InternalClientError,  # the driver's state after a connection was cut in mid-message
    asyncpg.AdminShutdownError,  # 57P01
    asyncpg.CrashShutdownError,  # 57P02
    asyncpg.CannotConnectNowError,  # 57P03: starting up or shutting down
    asyncpg.TooManyConnectionsError,  # 53300
    asyncpg.ReadOnlySQLTransactionError,  # 25006: a fail-over left us at a standby
    asyncpg.IdleInTransactionSessionTimeoutError,  # 25P03: this process was stopped for a while
    sqlalchemy.exc.TimeoutError,  # no connection free in the pool
    sqlalchemy.exc.InterfaceError,  # SQLAlchemy's wrapping of the driver's errors while it connects
    sqlalchemy.exc.OperationalError,
)

_TIMED_OUT: Final = (asyncpg.LockNotAvailableError, asyncpg.QueryCanceledError)


def is_conflict(error: BaseException) -> bool:
    """Say whether a unit of work lost a race that it can win when it runs again."""
    if isinstance(error, asyncpg.UniqueViolationError):
        return bool(error.constraint_name == "entry_pkey")
    return isinstance(error, _CONFLICTS)


def is_away(error: BaseException) -> bool:
    """Say whether the database could not be reached, or was lost before COMMIT."""
    if isinstance(error, sqlalchemy.exc.DBAPIError) and error.orig is not None:
        # What the server answers to a connection that is asked for, such as 53300 and 57P03, comes wrapped twice.
        error = error.orig.__cause__ or error
    if isinstance(error, asyncpg.DataError | asyncpg.UnsupportedClientFeatureError):
        return False  # interface errors of the driver that are no lost connection
    return isinstance(error, _AWAY)


@asynccontextmanager
async def unit_of_work(engine: AsyncEngine, *, deadline: float | None = None) -> AsyncIterator[Connection]:
    """Lend a connection inside BEGIN … COMMIT, Read Committed; an exception rolls back. No retry.

    At `deadline`, a time of the event loop's clock, it stops waiting for the database: it raises TimeoutError, or
    `CommitInDoubt` when COMMIT was under way.
    """
    async with asyncio.timeout_at(deadline) as limit, lend(engine) as connection:
        try:
            transaction = await begin(engine, connection)
            try:
                yield connection
            except BaseException:
                if not (connection.is_closed() or limit.expired()):
                    await transaction.rollback()
                raise
            try:
                await transaction.commit()
            except _AWAY as error:
                raise CommitInDoubt from error
            except asyncio.CancelledError as error:
                if limit.expired():
                    raise CommitInDoubt from error
                raise
        finally:
            if limit.expired():
                # A database that fell silent would not answer to ROLLBACK either, nor to who got the connection next.
                connection.terminate()


async def retrying(
    work: Callable[[], Awaitable[Result]], *, deadline_seconds: float, attempts_max: int = ATTEMPTS_MAX
) -> Result:
    """Run a unit of work that is safe to repeat until it succeeds or the deadline is near.

    Raises `Unavailable` when nothing was posted, `OutcomeUnknown` when a COMMIT stayed in doubt.
    """
    in_doubt = False

    def again(error: BaseException) -> bool:
        nonlocal in_doubt
        in_doubt = in_doubt or isinstance(error, CommitInDoubt)
        return isinstance(error, CommitInDoubt) or is_conflict(error) or is_away(error)

    try:
        async for attempt in AsyncRetrying(
            retry=retry_if_exception(again),
            stop=stop_after_attempt(attempts_max) | stop_after_delay(deadline_seconds),
            wait=wait_random_exponential(multiplier=0.005, max=1),
        ):
            with attempt:
                return await work()
    except RetryError as error:
        raise _fault(in_doubt) from error.last_attempt.exception()
    except Exception as error:
        if in_doubt or isinstance(error, _TIMED_OUT):
            raise _fault(in_doubt) from error
        raise
    raise AssertionError("AsyncRetrying returns or raises")


def _fault(in_doubt: bool) -> Exception:
    if in_doubt:
        return OutcomeUnknown("The connection to the database was lost at COMMIT.")
    return Unavailable("The database could not be reached in time.")
