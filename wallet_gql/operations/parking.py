"""Waiting for wallets that somebody else has locked: another worker's batch, or a session that is stuck.

A wallet whose stripe is locked waits in the same way, and a request that concerns several wallets waits for them all.
Nothing here waits for long with a connection in its hands, so wallets that stay locked never keep others waiting. One
statement asks for all that are parked; and each in turn stands in the database's own line for a slice of time.
"""

import asyncio
from collections.abc import Collection
from typing import Final

from asyncpg import Connection
from sqlalchemy.ext.asyncio import AsyncEngine

from wallet_gql.db.engine import begin, lend
from wallet_gql.domain.wallets import OwnerName
from wallet_gql.ledger.locks import lock_free_wallets

PROBE_SECONDS: Final = 0.01
"""The pause between two looks at which locks are free; nobody looks while nothing is parked."""

SLICE_SECONDS: Final = 0.1
"""How long a wallet stands in line: longer than another worker's batch usually takes."""


async def find_busy(engine: AsyncEngine, owners: Collection[OwnerName], *, deadline_seconds: float) -> set[OwnerName]:
    """Return those of the owners whose wallets somebody has locked at the moment.

    Stripes are not asked for, which would take them from their lanes. When the database cannot say, none is returned: a
    batch that takes them will be told why.
    """
    if not owners:
        return set()
    names = [owner.wallet_name for owner in owners]
    try:
        async with asyncio.timeout(deadline_seconds), lend(engine) as connection:
            transaction = await begin(engine, connection)
            _, busy = await lock_free_wallets(connection, names)
            await transaction.rollback()  # a COMMIT would be made durable
    except Exception:  # noqa: BLE001 - whatever it is, who posts next meets it too and tells its callers
        return set()
    return {OwnerName(name.shard, name.owner_id) for name in busy}


async def wait_in_slices(connection: Connection) -> None:
    """Let every lock of the unit of work be waited for a slice at most."""
    await connection.execute(f"SET LOCAL lock_timeout = {round(SLICE_SECONDS * 1000)}")
