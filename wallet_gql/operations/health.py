"""Whether a posting would find what it needs: a database that answers, and that may be written to."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import structlog
from asyncpg import Connection

from wallet_gql.db.engine import connect
from wallet_gql.ledger.armour import check_durability
from wallet_gql.operations.opening import Ledger
from wallet_gql.operations.unit_of_work import is_away

ANSWER_WITHIN_SECONDS: Final = 2

_log = structlog.get_logger()


async def _check_writable(connection: Connection) -> str | None:
    # True at a standby, and where an operator or a full disk made the database read-only.
    read_only = "SELECT current_setting('transaction_read_only')::boolean FROM ledger"
    return "read-only" if await connection.fetchval(read_only) else None


async def _check_durable(connection: Connection) -> str | None:
    return "not durable" if await check_durability(connection) else None


NEEDS: Final[tuple[Callable[[Connection], Awaitable[str | None]], ...]] = (_check_writable, _check_durable)
"""What a posting needs of the database: each answers None, or in a word what is missing."""


async def check_database(ledger: Ledger) -> str:
    """Return "ok", or in a word why nothing can be posted."""
    try:
        deadline = asyncio.get_running_loop().time() + ANSWER_WITHIN_SECONDS
        async with connect(ledger.engine, deadline=deadline) as connection:
            for need in NEEDS:
                if (missing := await need(connection)) is not None:
                    return missing
    except Exception as error:  # noqa: BLE001 - whoever asks is told, whatever it is
        return name_fault(error)
    return "ok"


def name_fault(error: Exception) -> str:
    """Return a word for what stands between us and the database; what has no word is logged."""
    state = getattr(error, "sqlstate", None) or ""
    if state == "25006":
        return "read-only"
    if isinstance(error, OSError) and state[:2] in _LOGIN_REFUSED:
        return "refused"
    if type(error) is TimeoutError:
        return "slow"
    if is_away(error):
        return "away"
    _log.error("health", reason=repr(error))
    return "faulty"


_LOGIN_REFUSED: Final = {"28", "3D", "42", "55"}
"""To a connection that is asked for: no such role, password or database, no right to connect, closed to connections."""
