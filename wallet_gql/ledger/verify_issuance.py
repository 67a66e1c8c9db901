"""Proves what was issued in a day, as `verify` does: each step follows the one before it, and is what was posted."""

from typing import Final

from wallet_gql.domain.access import ActorKind
from wallet_gql.ledger.lookups import all_rows, one_row
from wallet_gql.ledger.verify_terms import USER

_TRANSACTION: Final = one_row("transaction", "t", by="id", shard="i.transaction_shard", id="i.transaction_id")
_NOTE: Final = one_row(
    "transaction_note", "n", by="transaction_id", shard="i.transaction_shard", transaction_id="i.transaction_id"
)
_LEGS: Final = all_rows(
    "entry", "e", by="transaction_id", shard="i.transaction_shard", transaction_id="i.transaction_id"
)
_ACCOUNT: Final = one_row("account", "a", by="id", shard="e.shard", id="e.account_id")

# Each returns (row, fault) for a shard.
ISSUANCE_CHECKS: Final = {
    "issuance": f"""
        SELECT format('step %s of what %s issues of asset %s on %s', i.step, i.actor_name, i.asset_id, i.day),
               CASE WHEN i.shard <> receipt_shard(i.actor_name) THEN 'is in another shard than its own'
                    WHEN i.step <> i.step_before + 1 THEN format('follows step %s', i.step_before)
                    WHEN i.issued_after <> i.issued_before + i.amount
                    THEN format('%s is issued after it, but should be %s', i.issued_after, i.issued_before + i.amount)
                    ELSE format('transaction %s issues something else', i.transaction_id) END
          FROM (SELECT i.*, coalesce(lag(i.step) OVER chain, 0) AS step_before,
                       coalesce(lag(i.issued_after) OVER chain, 0) AS issued_before
                  FROM issuance i WHERE i.shard = $1
                WINDOW chain AS (PARTITION BY i.actor_name, i.asset_id, i.day ORDER BY i.step)) AS i
          LEFT JOIN {_TRANSACTION} ON true
          LEFT JOIN {_NOTE} ON true
          LEFT JOIN LATERAL (
               SELECT e.amount, a.asset_id FROM {_LEGS} CROSS JOIN {_ACCOUNT}
                WHERE a.wallet_kind = {USER} LIMIT 1) AS own ON true
         WHERE i.shard <> receipt_shard(i.actor_name) OR i.step <> i.step_before + 1
            OR i.issued_after <> i.issued_before + i.amount
            OR (t.type IN (1, 2), n.actor_kind, n.actor_name, (n.at AT TIME ZONE 'UTC')::date, own.amount, own.asset_id)
               IS DISTINCT FROM (true, {ActorKind.API_KEY:d}::smallint, i.actor_name, i.day, i.amount, i.asset_id)
         ORDER BY i.actor_name, i.asset_id, i.day, i.step""",
}
