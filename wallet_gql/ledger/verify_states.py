"""Proves what became of wallets, as `verify` does: their states, and what their owners owe."""

from typing import Final

from wallet_gql.domain.wallets import WalletKind, WalletStatus

_USER: Final = f"{WalletKind.USER:d}"
_DEBT: Final = f"{WalletKind.DEBT:d}"
_OPEN: Final = f"{WalletStatus.OPEN:d}"
_CLOSED: Final = f"{WalletStatus.CLOSED:d}"

_HEAD: Final = """LATERAL (
               SELECT e.seq, e.balance_after, e.held_after FROM entry e
                WHERE e.shard = a.shard AND e.account_id = a.id
                ORDER BY e.seq DESC LIMIT 1) AS head"""

# Each returns (row, fault) for a shard.
STATE_CHECKS: Final = {
    "state": f"""
        SELECT format('state %s of wallet %s', s.step, s.wallet_id),
               CASE WHEN w.kind IS DISTINCT FROM {_USER} THEN 'its wallet is not an owner''s'
                    WHEN s.step <> s.step_before + 1 THEN format('follows state %s', s.step_before)
                    WHEN s.status_before = {_CLOSED} AND s.status NOT IN ({_OPEN}, {_CLOSED})
                    THEN 'its wallet was closed, and is not opened by it'
                    WHEN s.debt_before IS DISTINCT FROM s.debt_wallet_id AND s.debt_before IS NOT NULL
                    THEN format('names debts in wallet %s, but they are in wallet %s', s.debt_wallet_id, s.debt_before)
                    ELSE format('names debts in wallet %s, which is not the owner''s', s.debt_wallet_id) END
          FROM (SELECT s.*, coalesce(lag(s.step) OVER chain, 0) AS step_before,
                       lag(s.status) OVER chain AS status_before, lag(s.debt_wallet_id) OVER chain AS debt_before
                  FROM wallet_state s WHERE s.shard = $1
                WINDOW chain AS (PARTITION BY s.wallet_id ORDER BY s.step)) AS s
          LEFT JOIN wallet w ON w.shard = $1 AND w.id = s.wallet_id
          LEFT JOIN wallet d ON d.shard = $1 AND d.id = s.debt_wallet_id
         WHERE w.kind IS DISTINCT FROM {_USER} OR s.step <> s.step_before + 1
            OR (s.status_before = {_CLOSED} AND s.status NOT IN ({_OPEN}, {_CLOSED}))
            OR (s.debt_before IS DISTINCT FROM s.debt_wallet_id AND s.debt_before IS NOT NULL)
            OR (s.debt_wallet_id IS NOT NULL AND (d.kind, d.owner_id) IS DISTINCT FROM ({_DEBT}, w.owner_id))
         ORDER BY s.wallet_id, s.step""",
    "closed": f"""
        SELECT format('account %s (%s)', a.id, w.owner_id),
               format('its wallet is closed, but it holds %s', head.balance_after)
          FROM (SELECT DISTINCT ON (s.wallet_id) s.* FROM wallet_state s
                 WHERE s.shard = $1 ORDER BY s.wallet_id, s.step DESC) AS s
          JOIN wallet w ON w.shard = $1 AND w.id = s.wallet_id
          JOIN account a ON a.shard = $1 AND a.wallet_id = s.wallet_id
         CROSS JOIN {_HEAD}
         WHERE s.status = {_CLOSED} AND head.balance_after <> 0
         ORDER BY a.id""",
    "debt": f"""
        SELECT format('account %s (%s)', a.id, w.owner_id),
               CASE WHEN s.wallet_id IS NULL THEN 'is a debt that no state of its owner''s wallet names'
                    WHEN head.balance_after > 0 THEN format('is a debt above zero: %s', head.balance_after)
                    ELSE format('owes %s, but the owner has %s available', -head.balance_after, own.available) END
          FROM account a
          JOIN wallet w ON w.shard = $1 AND w.id = a.wallet_id
         CROSS JOIN {_HEAD}
          LEFT JOIN (SELECT DISTINCT wallet_id, debt_wallet_id FROM wallet_state
                      WHERE shard = $1 AND debt_wallet_id IS NOT NULL) AS s ON s.debt_wallet_id = a.wallet_id
          LEFT JOIN LATERAL (
               SELECT e.balance_after - coalesce(e.held_after, 0) AS available
                 FROM account o
                 JOIN entry e ON e.shard = $1 AND e.account_id = o.id
                WHERE o.shard = $1 AND o.wallet_id = s.wallet_id AND o.asset_id = a.asset_id
                ORDER BY e.seq DESC LIMIT 1) AS own ON true
         WHERE a.shard = $1 AND a.wallet_kind = {_DEBT}
           AND (s.wallet_id IS NULL OR head.balance_after > 0 OR (head.balance_after < 0 AND own.available > 0))
         ORDER BY a.id""",
}
