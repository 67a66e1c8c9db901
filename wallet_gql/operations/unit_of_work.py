"""Begin, commit and retry: the only place where a database transaction of the ledger starts and ends.

What an error means for the credits decides what is done about it. `verdict` sorts every error by its SQLSTATE:

| verdict | errors | posted? | then |
| --- | --- | --- | --- |
| CONFLICT | 40001, 40P01, 23505 on a key of the ledger | no | the whole unit again, after a jittered pause |
| AWAY | connection lost, refused or shut down before COMMIT; a standby; a refused login | no | again; `Unavailable` |
| in doubt | the connection is lost at COMMIT, or there is no answer to it | perhaps | again: the keys make that safe |
| TIMED_OUT | a lock or statement timeout | no | `Unavailable` |
| SERVER | 53, 57, 58, XX: disk full, out of memory, damaged data | no | `Unavailable` |
| DATA | 22, 23, and what the driver cannot encode | no | raised: the culprit is in the unit |
| FAULT | anything else | no | raised: it is a fault of ours |

Once a unit of work is in doubt, only its true outcome ends that: whatever else stops it is `OutcomeUnknown`.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from enum import Enum, auto
from typing import Final, TypeVar

import asyncpg
import sqlalchemy.exc
from asyncpg import Connection
from sqlalchemy import Index, PrimaryKeyConstraint, UniqueConstraint
from sqlalchemy.ext.asyncio import AsyncEngine
from tenacity import AsyncRetrying, RetryError, retry_if_exception, stop_after_attempt, stop_after_delay
from tenacity.wait import wait_random_exponential

from wallet_gql.db.engine import begin, lend
from wallet_gql.db.tables import metadata
from wallet_gql.domain.errors import OutcomeUnknown, Unavailable

Result = TypeVar("Result")

ATTEMPTS_MAX: Final = 8
"""How often a unit of work is tried; the pauses between double from 5 ms to a second, each jittered from zero."""


class CommitInDoubt(Exception):
    """The connection was lost while COMMIT was under way."""


class Verdict(Enum):
    """What an error means; the module's table says what follows."""

    CONFLICT = auto()
    AWAY = auto()
    TIMED_OUT = auto()
    SERVER = auto()
    DATA = auto()
    FAULT = auto()


_LEDGER_KEYS: Final = frozenset(
    str(key.name)
    for table in metadata.tables.values()
    for key in (*table.constraints, *table.indexes)
    if isinstance(key, PrimaryKeyConstraint | UniqueConstraint) or (isinstance(key, Index) and key.unique)
)
"""A second row under one of them was written by somebody else meanwhile: run again, the unit finds it."""

# By SQLSTATE; what is not here is sorted by its class, the first two characters.
_VERDICTS: Final = {
    "40001": Verdict.CONFLICT,
    "40P01": Verdict.CONFLICT,
    "55P03": Verdict.TIMED_OUT,  # lock_timeout
    "57014": Verdict.TIMED_OUT,  # statement_timeout
    "25006": Verdict.AWAY,  # a read-only session: a fail-over left us at a standby
    "25P03": Verdict.AWAY,  # idle in transaction: this process was stopped for a while
    "25P04": Verdict.AWAY,  # transaction_timeout
    "3D000": Verdict.AWAY,  # no such database, while it is being restored
    "53300": Verdict.AWAY,  # too many connections
    "55000": Verdict.AWAY,  # the database is closed to connections
    "57P01": Verdict.AWAY,  # shut down by an operator
    "57P02": Verdict.AWAY,  # shut down by a crash
    "57P03": Verdict.AWAY,  # starting up or shutting down
    "57P04": Verdict.AWAY,  # the database was dropped
    "57P05": Verdict.AWAY,  # idle for too long
}
_VERDICTS_BY_CLASS: Final = {
    "08": Verdict.AWAY,  # connection exceptions
    "28": Verdict.AWAY,  # the login is refused: a password is being rotated, a role is locked
    "22": Verdict.DATA,
    "23": Verdict.DATA,
    "53": Verdict.SERVER,  # insufficient resources
    "57": Verdict.SERVER,  # operator intervention
    "58": Verdict.SERVER,  # system errors
    "XX": Verdict.SERVER,  # internal errors
}

_AWAY: Final = (
    OSError,  # refused, reset, unreachable; TimeoutError is one too
    asyncpg.InterfaceError,  # the driver's "connection is closed"
    asyncpg.InternalClientError,  # the driver's state after a connection was cut in mid-message
    sqlalchemy.exc.TimeoutError,  # no connection free in the pool
    sqlalchemy.exc.InterfaceError,  # SQLAlchemy's wrapping of the driver's errors while it connects
    sqlalchemy.exc.OperationalError,
)


def verdict(error: BaseException) -> Verdict:
    """Say what an error of the database or of its driver means."""
    if isinstance(error, sqlalchemy.exc.DBAPIError) and error.orig is not None:
        # What the server answers to a connection that is asked for, such as 53300 and 57P03, comes wrapped twice.
        error = error.orig.__cause__ or error
    if isinstance(error, asyncpg.UniqueViolationError) and error.constraint_name in _LEDGER_KEYS:
        return Verdict.CONFLICT
    if isinstance(error, asyncpg.PostgresError):
        state = error.sqlstate or ""
        return _VERDICTS.get(state) or _VERDICTS_BY_CLASS.get(state[:2], Verdict.FAULT)
    if isinstance(error, ValueError):
        return Verdict.DATA  # a value cannot be encoded
    if isinstance(error, asyncpg.UnsupportedClientFeatureError):
        return Verdict.FAULT
    return Verdict.AWAY if isinstance(error, _AWAY) else Verdict.FAULT


def is_away(error: BaseException) -> bool:
    """Say whether the database could not be reached, or was lost before COMMIT."""
    return verdict(error) is Verdict.AWAY


_ROLLED_BACK: Final = {Verdict.CONFLICT, Verdict.DATA}
"""What the server says to a COMMIT that it turned into a ROLLBACK. After anything else it may have been done."""


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
            except Exception as error:
                if verdict(error) in _ROLLED_BACK:
                    raise
                raise CommitInDoubt from error
            except asyncio.CancelledError as error:
                if limit.expired():
                    raise CommitInDoubt from error
                raise
        finally:
            if limit.expired():
                # A database that fell silent would not answer to ROLLBACK either, nor to who got the connection next.
                connection.terminate()


def _nothing() -> None:
    """Nobody wants to know."""


def _is_worth_another(error: BaseException) -> bool:
    return isinstance(error, CommitInDoubt) or verdict(error) in {Verdict.CONFLICT, Verdict.AWAY}


_RETRY: Final = retry_if_exception(_is_worth_another)
_WAIT: Final = wait_random_exponential(multiplier=0.005, max=1)


async def retrying(
    work: Callable[[], Awaitable[Result]],
    *,
    deadline_seconds: float,
    attempts_max: int = ATTEMPTS_MAX,
    on_doubt: Callable[[], None] = _nothing,
) -> Result:
    """Run a unit of work that is safe to repeat until it succeeds or the deadline is near.

    Raises `Unavailable` when nothing was posted, `OutcomeUnknown` when a COMMIT stayed in doubt. `on_doubt` is called
    when a COMMIT is in doubt: what the unit returns afterwards settles only what it decided.
    """
    in_doubt = False
    stop = stop_after_attempt(attempts_max) | stop_after_delay(deadline_seconds)
    policy = AsyncRetrying(retry=_RETRY, stop=stop, wait=_WAIT)
    try:
        async for attempt in policy:
            with attempt:
                try:
                    return await work()
                except CommitInDoubt:
                    in_doubt = True
                    on_doubt()
                    raise
    except RetryError as error:
        raise _fault(in_doubt) from error.last_attempt.exception()
    except Exception as error:
        if in_doubt or verdict(error) in {Verdict.TIMED_OUT, Verdict.SERVER}:
            raise _fault(in_doubt) from error
        raise
    finally:
        # Tenacity's objects go round in circles: they would stay until the collector comes, and stop everybody then.
        vars(policy).clear()
    raise AssertionError("AsyncRetrying returns or raises")


def _fault(in_doubt: bool) -> Exception:
    if in_doubt:
        return OutcomeUnknown("The connection to the database was lost at COMMIT.")
    return Unavailable("The database could not be reached, or did not answer in time.")
