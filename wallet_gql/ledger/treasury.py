"""Treasury stripes: each shard has one treasury wallet a worker slot, so that workers do not wait for each other.

Slots are about speed: the locks make any slot correct. The treasury's balance is the sum of its stripes.
"""

import random
from collections.abc import Iterable
from typing import Final

from asyncpg import Connection

from wallet_gql.domain.wallets import WalletKind
from wallet_gql.ledger.lookups import one_row

SLOT_COUNT: Final = 64
"""Slots that workers may hold at once; a worker past them shares one."""

# The first of the two keys of the advisory locks that hold the slots ("slot" in ASCII).
_SLOT_LOCK_CLASS: Final = 0x736C6F74

# It looks first: a row that stood in the way would have taken a number of the identity all the same.
_OPEN_STRIPES: Final = f"""
INSERT INTO wallet (shard, kind, owner_id)
SELECT stripe.shard, $1, $2
  FROM unnest($3::smallint[]) AS stripe(shard)
  LEFT JOIN {one_row("wallet", "w", by="owner_id", shard="stripe.shard", kind="$1::smallint", owner_id="$2::text")}
    ON true
 WHERE w.id IS NULL
    ON CONFLICT (shard, kind, owner_id) DO NOTHING
"""


async def claim_slot(connection: Connection) -> int:
    """Claim the lowest free slot for as long as this connection lives; when all are taken, share any."""
    for slot in range(SLOT_COUNT):
        if await connection.fetchval("SELECT pg_try_advisory_lock($1, $2)", _SLOT_LOCK_CLASS, slot):
            return slot
    return any_slot()


def any_slot() -> int:
    """Choose a slot without holding it: workers that cannot know of each other are spread over all of them."""
    return random.randrange(SLOT_COUNT)  # noqa: S311 - no secret


async def open_stripes(connection: Connection, slot: int, shards: Iterable[int]) -> None:
    """Open the slot's treasury wallets, one a shard, where they are missing; what is there costs no id."""
    await connection.execute(_OPEN_STRIPES, WalletKind.TREASURY, str(slot), list(shards))
