"""The test clock: in test mode, and only there, time can be moved forward for everything at once."""

from datetime import datetime
from typing import Final

from asyncpg import Connection

# Two at once: the second conflicts, and finds another last step when it tries again.
_ADVANCE: Final = """
INSERT INTO clock_offset (step, seconds)
SELECT coalesce(max(step), 0) + 1, coalesce(max(seconds), 0) + $1::bigint FROM clock_offset
"""


async def advance_clock(connection: Connection, seconds: int) -> datetime:
    """Move the clock forward; returns what it says now. The law refuses it in live mode."""
    await connection.execute(_ADVANCE, seconds)
    return await read_clock(connection)


async def read_clock(connection: Connection) -> datetime:
    """Return what the clock says."""
    now: datetime = await connection.fetchval("SELECT wallet_now()")
    return now
