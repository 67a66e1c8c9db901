"""Treasury stripes: each shard has one treasury wallet a worker slot, so that workers do not wait for each other.

Slots are about speed: the locks make any slot correct. The treasury's balance is the sum of its stripes.
"""

from typing import Final

from asyncpg import Connection

from wallet_gql.domain.model import WalletKind

SLOT_COUNT: Final = 64
"""Slots that workers may hold at once; a worker past them shares one."""

# The first of the two keys of the advisory locks that hold the slots ("slot" in ASCII).
_SLOT_LOCK_CLASS: Final = 0x736C6F74


async def claim_slot(connection: Connection) -> int:
    """Claim the lowest free slot for as long as this connection lives; slot 0, shared, when all are taken."""
    for slot in range(SLOT_COUNT):
        if await connection.fetchval("SELECT pg_try_advisory_lock($1, $2)", _SLOT_LOCK_CLASS, slot):
            return slot
    return 0


async def open_stripes(connection: Connection, slot: int, shard_count: int) -> None:
    """Open the slot's treasury wallets, one a shard, where they are missing."""
    await connection.execute(
        "INSERT INTO wallet (shard, kind, owner_id) SELECT shard, $1, $2 FROM generate_series(0, $3 - 1) AS shard"
        " ON CONFLICT (shard, kind, owner_id) DO NOTHING",
        WalletKind.TREASURY,
        str(slot),
        shard_count,
    )
