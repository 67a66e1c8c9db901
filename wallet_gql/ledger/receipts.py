"""Receipts: one store receipt or payment credits one owner, platform-wide. And issuers, who are in one hand at a time.

Who posts with a receipt, or what counts against what an issuer may issue in a day, holds the advisory lock of that name
until COMMIT: of two requests with one name the second sees what the first did. Issuers are locked first, then receipts,
then wallets, and who holds an issuer waits for nothing else: a wallet that is stuck must not stop all that a key
issues. A receipt's shard is that of its own hash.
"""

from collections.abc import Collection
from typing import Final, NamedTuple

from asyncpg import Connection

from wallet_gql.domain.postings import Receipt, TransactionName
from wallet_gql.ledger.columns import Smallint, Text, arrays, unnest
from wallet_gql.ledger.lookups import one_row

# Told apart from other advisory locks with one key by these seeds of the hash ("receipt" and "issuer" in ASCII).
_RECEIPT: Final = 0x72656365697074
_ISSUER: Final = 0x697373756572


class _Wanted(NamedTuple):
    shard: Smallint
    receipt: Text


# Sorted, so that two that wait for each other's do not wait for ever.
_LOCK: Final = """
SELECT pg_advisory_xact_lock(lock.id)
  FROM (SELECT DISTINCT hashtextextended(name, $2) AS id FROM unnest($1::text[]) AS wanted(name) ORDER BY id) AS lock
"""

_LOCK_FREE: Final = f"""
SELECT receipt FROM unnest($1::text[]) AS wanted(receipt)
 WHERE NOT pg_try_advisory_xact_lock(hashtextextended(receipt, {_RECEIPT}))
"""

_FIND: Final = f"""
SELECT wanted.receipt, r.transaction_shard, r.transaction_id
  FROM {unnest(_Wanted, "wanted")}
 CROSS JOIN {one_row("receipt", "r", by="receipt", shard="wanted.shard", receipt="wanted.receipt")}
"""


async def lock_receipts(connection: Connection, receipts: Collection[Receipt], *, wait: bool) -> set[str]:
    """Lock receipts until the unit of work ends; returns those that somebody else has, where it does not wait."""
    texts = [receipt.text for receipt in receipts]
    if wait:
        await connection.fetch(_LOCK, texts, _RECEIPT)
        return set()
    return {text for (text,) in await connection.fetch(_LOCK_FREE, texts)}


async def lock_issuers(connection: Connection, names: Collection[str]) -> None:
    """Lock issuers until the unit of work ends: waits for them, as long as the connection lets it."""
    await connection.fetch(_LOCK, names, _ISSUER)


async def read_receipts(connection: Connection, receipts: Collection[Receipt]) -> dict[str, TransactionName]:
    """Return which transactions credited those of the receipts that were credited."""
    rows = await connection.fetch(_FIND, *arrays(_Wanted, receipts))
    return {text: TransactionName(shard, id_) for text, shard, id_ in rows}
