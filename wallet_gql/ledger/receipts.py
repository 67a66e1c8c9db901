"""Receipts: one store receipt or payment credits one owner, platform-wide. And names that are held until COMMIT.

Who posts with a receipt, or what is counted against a day's issuance, holds the name's advisory lock until COMMIT,
taken before the wallets' locks: of two requests with one name the second sees what the first did. A receipt's shard is
that of its own hash.
"""

from collections.abc import Collection
from typing import Final, NamedTuple

from asyncpg import Connection

from wallet_gql.domain.postings import Receipt, TransactionName
from wallet_gql.ledger.columns import Smallint, Text, arrays, unnest
from wallet_gql.ledger.lookups import one_row

# Told apart from other advisory locks with one key by this seed of the hash ("receipt" in ASCII).
_SEED: Final = 0x72656365697074


class _Wanted(NamedTuple):
    shard: Smallint
    receipt: Text


# Sorted, so that two that wait for each other's do not wait for ever.
_LOCK: Final = f"""
SELECT pg_advisory_xact_lock(lock.id)
  FROM (SELECT DISTINCT hashtextextended(name, {_SEED}) AS id FROM unnest($1::text[]) AS wanted(name)
         ORDER BY id) AS lock
"""

_LOCK_FREE: Final = f"""
SELECT name FROM unnest($1::text[]) AS wanted(name)
 WHERE NOT pg_try_advisory_xact_lock(hashtextextended(name, {_SEED}))
"""

_FIND: Final = f"""
SELECT wanted.receipt, r.transaction_shard, r.transaction_id
  FROM {unnest(_Wanted, "wanted")}
 CROSS JOIN {one_row("receipt", "r", by="receipt", shard="wanted.shard", receipt="wanted.receipt")}
"""


async def lock_names(connection: Connection, names: Collection[str], *, wait: bool) -> set[str]:
    """Lock names until the unit of work ends; returns those that somebody else has, where it does not wait."""
    if wait:
        await connection.fetch(_LOCK, names)
        return set()
    return {name for (name,) in await connection.fetch(_LOCK_FREE, names)}


async def read_receipts(connection: Connection, receipts: Collection[Receipt]) -> dict[str, TransactionName]:
    """Return which transactions credited those of the receipts that were credited."""
    rows = await connection.fetch(_FIND, *arrays(_Wanted, receipts))
    return {text: TransactionName(shard, id_) for text, shard, id_ in rows}
