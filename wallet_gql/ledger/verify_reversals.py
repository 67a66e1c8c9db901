"""Proves reversals, as `verify` does: each follows the one before it, and says what its transaction moves."""

from typing import Final

from wallet_gql.ledger.verify_terms import CLAWBACK, REFUND, USER

_OWNERS_LEG: Final = f"max(abs(e.amount)) FILTER (WHERE a.wallet_kind = {USER})"
_CREDITED: Final = "sum(e.amount) FILTER (WHERE e.amount > 0)"

# Each returns (row, fault) for a shard.
REVERSAL_CHECKS: Final = {
    "reversal": f"""
        WITH moved AS (
          SELECT e.transaction_id, {_CREDITED} AS credited, {_OWNERS_LEG} AS owners, min(a.asset_id) AS asset_id
            FROM entry e
            JOIN account a ON a.shard = $1 AND a.id = e.account_id
           WHERE e.shard = $1 AND e.transaction_id IN (SELECT transaction_id FROM reversal WHERE shard = $1
                                                        UNION ALL SELECT original_id FROM reversal WHERE shard = $1)
           GROUP BY e.transaction_id
        )
        SELECT format('reversal %s of transaction %s', r.step, r.original_id),
               CASE WHEN o.id IS NULL THEN 'its original does not exist'
                    WHEN t.id IS NULL THEN format('transaction %s does not exist', r.transaction_id)
                    WHEN r.step <> r.step_before + 1 THEN format('follows step %s', r.step_before)
                    WHEN o.wallet_id <> t.wallet_id OR own.asset_id <> original.asset_id
                    THEN format('transaction %s is not of the account of its original', t.id)
                    WHEN (t.type, o.type) NOT IN ((7, 3), (7, 6), (8, 1), (8, 2), (8, 5))
                    THEN format('transaction %s is of type %s, which does not reverse type %s', t.id, t.type, o.type)
                    WHEN r.amount <> own.credited
                    THEN format('says %s, but transaction %s moves %s', r.amount, t.id, own.credited)
                    WHEN r.reversed_after <> r.reversed_before + r.amount
                    THEN format('%s is reversed after it, but should be %s',
                                r.reversed_after, r.reversed_before + r.amount)
                    ELSE format('%s is reversed, but its original moved %s', r.reversed_after, original.owners) END
          FROM (SELECT r.*, coalesce(lag(r.step) OVER chain, 0) AS step_before,
                       coalesce(lag(r.reversed_after) OVER chain, 0) AS reversed_before
                  FROM reversal r WHERE r.shard = $1
                WINDOW chain AS (PARTITION BY r.original_id ORDER BY r.step)) AS r
          LEFT JOIN transaction o ON o.shard = $1 AND o.id = r.original_id
          LEFT JOIN transaction t ON t.shard = $1 AND t.id = r.transaction_id
          LEFT JOIN moved own ON own.transaction_id = r.transaction_id
          LEFT JOIN moved original ON original.transaction_id = r.original_id
         WHERE o.id IS NULL OR t.id IS NULL OR r.step <> r.step_before + 1 OR o.wallet_id <> t.wallet_id
            OR own.asset_id <> original.asset_id OR (t.type, o.type) NOT IN ((7, 3), (7, 6), (8, 1), (8, 2), (8, 5))
            OR r.amount <> own.credited OR r.reversed_after <> r.reversed_before + r.amount
            OR r.reversed_after > original.owners
         ORDER BY r.original_id, r.step""",
    "reversing": f"""
        SELECT format('transaction %s', t.id), 'reverses nothing'
          FROM transaction t
          LEFT JOIN reversal r ON r.shard = $1 AND r.transaction_id = t.id
         WHERE t.shard = $1 AND t.type IN ({REFUND}, {CLAWBACK}) AND r.step IS NULL
         ORDER BY t.id""",
}
