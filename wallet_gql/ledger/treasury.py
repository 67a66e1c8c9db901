"""Stripes: each shard has one treasury wallet a worker slot, so that workers do not wait for each other.

A transfer reaches into other lanes' shards, so each line of work of a worker has clearing wallets of its own.
Slots are about speed: the locks make any slot correct. The treasury's balance is the sum of its stripes, and clearing's
is zero.
"""

import random
from collections.abc import Iterable
from functools import cache
from typing import Final

from asyncpg import Connection

from wallet_gql.domain.wallets import Wallet, WalletKind, WalletName
from wallet_gql.ledger.columns import arrays, unnest
from wallet_gql.ledger.lookups import one_row
from wallet_gql.ledger.rows import WalletRow

SLOT_COUNT: Final = 64
"""Slots that workers may hold at once; a worker past them shares one."""

LINES_PER_SLOT: Final = 4
"""Lines of work of a worker that post transfers at the same time: its lanes, and the one that waits for locks."""

STRIPE_COUNT: Final = SLOT_COUNT + 1 + SLOT_COUNT * LINES_PER_SLOT
"""The treasury's wallets of a shard at most: one for each slot, and those that get what expires."""

# The first of the two keys of the advisory locks that hold the slots ("slot" in ASCII).
_SLOT_LOCK_CLASS: Final = 0x736C6F74

# It looks first: a row that stood in the way would have taken a number of the identity all the same.
_OPEN_STRIPES: Final = f"""
INSERT INTO wallet (shard, kind, owner_id)
SELECT stripe.shard, stripe.kind, stripe.owner_id
  FROM {unnest(WalletRow, "stripe")}
  LEFT JOIN {
    one_row("wallet", "w", by="owner_id", shard="stripe.shard", kind="stripe.kind", owner_id="stripe.owner_id")
} ON true
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


@cache
def treasury(shard: int, slot: int) -> WalletName:
    """Name the treasury wallet of a slot."""
    return WalletName(shard, WalletKind.TREASURY, str(slot))


@cache
def expiry(shard: int, slot: int | None, line: int = 0) -> WalletName:
    """Name the treasury wallet that gets what expires: of a slot's line of work, or of the shard's sweeper.

    It is locked after all others, by whoever finds that something is over, so nobody else's postings wait for it.
    """
    number = SLOT_COUNT if slot is None else SLOT_COUNT + 1 + slot * LINES_PER_SLOT + line % LINES_PER_SLOT
    return WalletName(shard, WalletKind.TREASURY, str(number))


def treasuries(slot: int, shard_count: int) -> list[WalletName]:
    """Name all treasury wallets of a slot."""
    return [treasury(shard, slot) for shard in range(shard_count)]


@cache
def clearing(shard: int, slot: int, line: int) -> WalletName:
    """Name the clearing wallet of a slot's line of work."""
    return WalletName(shard, WalletKind.CLEARING, str(slot * LINES_PER_SLOT + line % LINES_PER_SLOT))


def debts_of(wallet: Wallet) -> WalletName:
    """Name the wallet of what an owner owes."""
    return WalletName(wallet.shard, WalletKind.DEBT, wallet.owner_id)


async def open_stripes(connection: Connection, names: Iterable[WalletName]) -> None:
    """Open the system's wallets where they are missing, in a fixed order; what is there costs no id."""
    await connection.execute(_OPEN_STRIPES, *arrays(WalletRow, sorted(names)))
