"""Proves the books: every invariant of the ledger, shard by shard, in one snapshot.

Each check is a statement that returns the rows which break it, so an empty result is the proof. The snapshot is one
REPEATABLE READ transaction: verification runs beside live traffic without a false alarm.

What cannot be found without a seal outside the database: a removed tail of a shard together with its keys, a removed
refusal, an asset's changed scale, an owner renamed to another of the same shard, and a consistent rewrite of a whole
history.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final

from asyncpg import Connection

from wallet_gql.domain.shards import shard_of


@dataclass(frozen=True, slots=True)
class Finding:
    """A row that breaks an invariant: where it is, and what is wrong with it."""

    check: str
    shard: int
    row: str
    fault: str


FINDINGS_PER_CHECK_MAX: Final = 10
"""Rows that one check reports in one shard: the first ones name the damage."""

# Each returns (row, fault) for a shard. What is counted or summed comes from the log alone.
_CHECKS: Final = {
    "chain": """
        SELECT format('account %s (%s), seq %s', c.account_id, coalesce(w.owner_id, '?'), c.seq),
               CASE WHEN a.id IS NULL THEN 'its account does not exist'
                    WHEN c.seq <> c.seq_before + 1
                    THEN format('follows seq %s: entries between are missing', c.seq_before)
                    WHEN c.balance_after <> c.balance_before + c.amount
                    THEN format('balance after it is %s, but should be %s',
                                c.balance_after, c.balance_before + c.amount)
                    WHEN c.may_go_negative <> a.may_go_negative THEN 'may_go_negative is not its account''s'
                    WHEN c.balance_after < 0 AND w.kind = 1
                    THEN format('an owner''s balance is negative: %s', c.balance_after)
                    WHEN c.amount = 0 THEN 'moves nothing'
                    ELSE 'is older than the entry before it' END
          FROM (SELECT e.*, coalesce(lag(e.seq) OVER chain, 0) AS seq_before,
                       coalesce(lag(e.balance_after) OVER chain, 0)::numeric AS balance_before,
                       lag(e.executed_at) OVER chain AS executed_before
                  FROM entry e WHERE e.shard = $1
                WINDOW chain AS (PARTITION BY e.account_id ORDER BY e.seq)) AS c
          LEFT JOIN account a ON a.shard = $1 AND a.id = c.account_id
          LEFT JOIN wallet w ON w.shard = $1 AND w.id = a.wallet_id
         WHERE a.id IS NULL OR c.seq <> c.seq_before + 1 OR c.balance_after <> c.balance_before + c.amount
            OR c.may_go_negative <> a.may_go_negative OR (c.balance_after < 0 AND w.kind = 1) OR c.amount = 0
            OR (c.executed_at < c.executed_before AND w.kind = 1)
         ORDER BY c.account_id, c.seq""",
    "sum": """
        SELECT format('account %s', s.account_id),
               format('last balance is %s, but its entries sum to %s', last.balance_after, s.total)
          FROM (SELECT e.account_id, sum(e.amount) AS total, max(e.seq) AS seq
                  FROM entry e WHERE e.shard = $1 GROUP BY e.account_id) AS s
          JOIN entry last ON last.shard = $1 AND last.account_id = s.account_id AND last.seq = s.seq
         WHERE last.balance_after <> s.total
         ORDER BY s.account_id""",
    "transaction": """
        SELECT format('transaction %s', coalesce(t.id, legs.transaction_id)),
               CASE WHEN t.id IS NULL THEN format('does not exist, but entry %s is a leg of it', legs.first_leg)
                    WHEN legs.transaction_id IS NULL THEN 'has no legs'
                    WHEN legs.unbalanced THEN 'its legs do not sum to zero'
                    WHEN legs.other_type THEN format('is of type %s, but a leg is not', t.type)
                    WHEN legs.other_time THEN 'its time is not that of its legs'
                    WHEN (legs.leg_count, legs.owner_leg_count) <> (2, 1)
                    THEN format('has %s legs, %s of them an owner''s', legs.leg_count, legs.owner_leg_count)
                    WHEN legs.wallet_id <> t.wallet_id
                    THEN format('is wallet %s''s, but a leg is wallet %s''s', t.wallet_id, legs.wallet_id)
                    ELSE format('type %s does not move %s', t.type, legs.user_amount) END
          FROM (SELECT l.transaction_id, bool_or(l.excess <> 0) AS unbalanced, bool_or(l.other_type) AS other_type,
                       bool_or(l.other_time) AS other_time, max(l.wallet_id) AS wallet_id,
                       sum(l.leg_count) AS leg_count, sum(l.owner_leg_count) AS owner_leg_count,
                       sum(l.user_amount) AS user_amount, min(l.first_leg) AS first_leg
                  FROM (SELECT e.transaction_id, sum(e.amount) AS excess, count(*) AS leg_count,
                               count(*) FILTER (WHERE a.wallet_kind = 1) AS owner_leg_count,
                               bool_or(e.type <> t.type) AS other_type,
                               bool_or(e.executed_at <> t.executed_at) AS other_time,
                               max(a.wallet_id) FILTER (WHERE a.wallet_kind = 1) AS wallet_id,
                               sum(e.amount) FILTER (WHERE a.wallet_kind = 1) AS user_amount,
                               min(format('(account %s, seq %s)', e.account_id, e.seq)) AS first_leg
                          FROM entry e
                          LEFT JOIN account a ON a.shard = $1 AND a.id = e.account_id
                          LEFT JOIN transaction t ON t.shard = $1 AND t.id = e.transaction_id
                         WHERE e.shard = $1
                         GROUP BY e.transaction_id, a.asset_id) AS l
                 GROUP BY l.transaction_id) AS legs
          FULL JOIN (SELECT * FROM transaction WHERE shard = $1) AS t ON t.id = legs.transaction_id
         WHERE t.id IS NULL OR legs.transaction_id IS NULL OR legs.unbalanced OR legs.other_type OR legs.other_time
            OR (legs.leg_count, legs.owner_leg_count) <> (2, 1) OR legs.wallet_id IS DISTINCT FROM t.wallet_id
            OR sign(legs.user_amount) <> CASE t.type WHEN 3 THEN -1 ELSE 1 END
         ORDER BY 1""",
    "key": """
        SELECT format('key %s of wallet %s', coalesce(k.key, t.idempotency_key), coalesce(k.wallet_id, t.wallet_id)),
               CASE WHEN k.key IS NULL AND t.idempotency_key IS NULL THEN format('transaction %s has none', t.id)
                    WHEN k.key IS NULL THEN format('is missing: transaction %s was posted under it', t.id)
                    WHEN w.id IS NULL THEN 'its wallet does not exist'
                    WHEN t.id IS NULL AND k.outcome <> 1 THEN 'says refused, but not on which balance'
                    WHEN t.id IS NULL THEN format('says posted, but there is no transaction %s', k.transaction_id)
                    WHEN k.outcome <> 1 THEN format('says refused, but transaction %s was posted', t.id)
                    WHEN (k.key, k.wallet_id) IS DISTINCT FROM (t.idempotency_key, t.wallet_id)
                    THEN format('is not the key of its transaction %s', t.id)
                    ELSE format('its fingerprint is not what transaction %s gives', t.id) END
          FROM (SELECT * FROM idempotency_key WHERE shard = $1) AS k
          FULL JOIN (SELECT * FROM transaction WHERE shard = $1) AS t ON t.id = k.transaction_id
          LEFT JOIN wallet w ON w.shard = $1 AND w.id = k.wallet_id AND w.kind = 1
          LEFT JOIN LATERAL (
               SELECT substr(sha256(convert_to(
                        t.type || ' ' || s.code || ' ' || abs(e.amount::numeric) || ' '
                        || coalesce(length(t.description) || ':' || t.description, '-')
                        || coalesce(length(t.reference) || ':' || t.reference, '-'), 'UTF8')), 1, 16) AS fingerprint
                 FROM entry e
                 JOIN account a ON a.shard = $1 AND a.id = e.account_id AND a.wallet_id = t.wallet_id
                 JOIN asset s ON s.id = a.asset_id
                WHERE e.shard = $1 AND e.transaction_id = t.id
                LIMIT 1) AS given ON true
         WHERE k.key IS NULL OR w.id IS NULL OR (k.outcome = 1) <> (t.id IS NOT NULL)
            OR (k.outcome <> 1 AND jsonb_typeof(k.details -> 'balance_before_minor') IS DISTINCT FROM 'number')
            OR (t.id IS NOT NULL AND ((k.key, k.wallet_id) IS DISTINCT FROM (t.idempotency_key, t.wallet_id)
                                      OR k.fingerprint IS DISTINCT FROM given.fingerprint))
         ORDER BY 1""",
    "account": """
        SELECT format('account %s', a.id),
               CASE WHEN w.id IS NULL THEN format('its wallet %s does not exist in this shard', a.wallet_id)
                    WHEN w.kind <> a.wallet_kind THEN 'its kind is not its wallet''s'
                    WHEN s.id IS NULL THEN format('its asset %s does not exist', a.asset_id)
                    ELSE 'may_go_negative is right for the system''s accounts only' END
          FROM account a
          LEFT JOIN wallet w ON w.shard = $1 AND w.id = a.wallet_id
          LEFT JOIN asset s ON s.id = a.asset_id
         WHERE a.shard = $1
           AND (w.id IS NULL OR w.kind <> a.wallet_kind OR s.id IS NULL OR a.may_go_negative <> (w.kind <> 1))
         ORDER BY a.id""",
}

_OUTSIDE: Final = """
SELECT DISTINCT shard, name FROM (
  SELECT shard, 'wallet' AS name FROM wallet UNION ALL SELECT shard, 'account' FROM account
  UNION ALL SELECT shard, 'transaction' FROM transaction UNION ALL SELECT shard, 'entry' FROM entry
  UNION ALL SELECT shard, 'idempotency_key' FROM idempotency_key) AS rows
 WHERE shard NOT BETWEEN 0 AND $1 - 1
 ORDER BY shard, name
"""


async def verify_shard(connection: Connection, shard: int, shard_count: int) -> AsyncIterator[Finding]:
    """Yield what is wrong in a shard; the caller holds the snapshot."""
    for check, statement in _CHECKS.items():
        for row, fault in await connection.fetch(f"{statement} LIMIT {FINDINGS_PER_CHECK_MAX}", shard):
            yield Finding(check, shard, row, fault)
    # The shard of an owner is a BLAKE2b, which SQL has not: wallets are streamed.
    async for id_, owner_id in connection.cursor(
        "SELECT id, owner_id FROM wallet WHERE shard = $1 AND kind = 1 ORDER BY id", shard, prefetch=5000
    ):
        right = shard_of.__wrapped__(owner_id, shard_count)
        if right != shard:
            yield Finding("wallet", shard, f"wallet {id_} ({owner_id})", f"belongs in shard {right}")


async def verify_outside(connection: Connection, shard_count: int) -> AsyncIterator[Finding]:
    """Yield the tables that have rows in shards which do not exist."""
    for shard, table in await connection.fetch(_OUTSIDE, shard_count):
        yield Finding("shard", shard, f"table {table}", f"has rows in a shard past the last, {shard_count - 1}")


async def count_entries(connection: Connection, shard: int) -> int:
    """Return the number of entries in a shard."""
    count: int = await connection.fetchval("SELECT count(*) FROM entry WHERE shard = $1", shard)
    return count
