"""What was reversed of transactions, and by which."""

from collections.abc import Sequence
from typing import Final, NamedTuple

from asyncpg import Connection

from wallet_gql.domain.postings import TransactionName
from wallet_gql.ledger.batch import Reversed
from wallet_gql.ledger.columns import Smallint, Uuid, arrays, unnest
from wallet_gql.ledger.lookups import one_row


class _Wanted(NamedTuple):
    shard: Smallint
    id: Uuid


class Reversal(NamedTuple):
    """What a transaction reverses: the original, how much of it, and how much was reversed then in all."""

    original: TransactionName
    amount_minor: int
    reversed_after_minor: int


_REVERSED: Final = f"""
SELECT wanted.shard, wanted.id, r.step, r.reversed_after
  FROM {unnest(_Wanted, "wanted")}
 CROSS JOIN LATERAL (
       SELECT * FROM reversal r
        WHERE r.shard = wanted.shard AND r.original_id = wanted.id
        ORDER BY r.step DESC
        LIMIT 1) AS r
"""

_REVERSALS: Final = f"""
SELECT wanted.n, r.original_id, r.amount, r.reversed_after
  FROM {unnest(_Wanted, "wanted", numbered=True)}
 CROSS JOIN {one_row("reversal", "r", by="transaction_id", shard="wanted.shard", transaction_id="wanted.id")}
"""

_REVERSING: Final = f"""
SELECT wanted.n, r.transaction_id
  FROM {unnest(_Wanted, "wanted", numbered=True)}
 CROSS JOIN LATERAL (
       SELECT * FROM reversal r
        WHERE r.shard = wanted.shard AND r.original_id = wanted.id
        ORDER BY r.step DESC) AS r
"""


async def read_reversed(
    connection: Connection, originals: Sequence[TransactionName]
) -> dict[TransactionName, Reversed]:
    """Return how much of those of the transactions was reversed of which anything was. One statement."""
    rows = await connection.fetch(_REVERSED, *arrays(_Wanted, originals))
    return {TransactionName(shard, id_): Reversed(step, amount) for shard, id_, step, amount in rows}


async def read_reversals(connection: Connection, names: Sequence[TransactionName]) -> list[Reversal | None]:
    """Return what each transaction reverses, in order; None where it reverses nothing."""
    found: list[Reversal | None] = [None] * len(names)
    for n, original_id, amount, reversed_after in await connection.fetch(_REVERSALS, *arrays(_Wanted, names)):
        found[n - 1] = Reversal(TransactionName(names[n - 1].shard, original_id), amount, reversed_after)
    return found


async def read_reversing(connection: Connection, originals: Sequence[TransactionName]) -> list[list[TransactionName]]:
    """Return what reverses each transaction, in order of the originals, newest first."""
    found: list[list[TransactionName]] = [[] for _ in originals]
    for n, id_ in await connection.fetch(_REVERSING, *arrays(_Wanted, originals)):
        found[n - 1].append(TransactionName(originals[n - 1].shard, id_))
    return found
