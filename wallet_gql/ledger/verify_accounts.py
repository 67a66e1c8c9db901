"""Proves wallets and accounts, as `verify` does: whose they are, and that each is there once."""

from typing import Final

from wallet_gql.domain.text import OWNER_ID_LENGTH_MAX
from wallet_gql.domain.wallets import WalletKind
from wallet_gql.ledger.treasury import LINES_PER_SLOT, SLOT_COUNT, STRIPE_COUNT
from wallet_gql.ledger.verify_terms import LATEST, USER

# The numbers of kinds, as SQL writes them.
_TREASURY: Final = f"{WalletKind.TREASURY:d}"
_CLEARING: Final = f"{WalletKind.CLEARING:d}"
_KINDS: Final = ", ".join(f"{kind:d}" for kind in WalletKind)

ACCOUNT_CHECKS: Final = {
    "account": f"""
        SELECT format('account %s', a.id),
               CASE WHEN a.same_id > 1 THEN format('is there %s times', a.same_id)
                    WHEN a.same_asset > 1
                    THEN format('wallet %s has %s accounts in its asset', a.wallet_id, a.same_asset)
                    WHEN w.id IS NULL THEN format('its wallet %s does not exist in this shard', a.wallet_id)
                    WHEN w.kind <> a.wallet_kind THEN 'its kind is not its wallet''s'
                    WHEN s.id IS NULL THEN format('its asset %s does not exist', a.asset_id)
                    WHEN a.opened_at > {LATEST}
                    THEN format('is dated in the future: %s', a.opened_at)
                    ELSE 'may_go_negative is right for the system''s accounts only' END
          FROM (SELECT a.*, count(*) OVER (PARTITION BY a.wallet_id, a.asset_id) AS same_asset,
                       count(*) OVER (PARTITION BY a.id) AS same_id
                  FROM account a WHERE a.shard = $1) AS a
          LEFT JOIN wallet w ON w.shard = $1 AND w.id = a.wallet_id
          LEFT JOIN asset s ON s.id = a.asset_id
         WHERE a.same_id > 1 OR a.same_asset > 1 OR w.id IS NULL OR w.kind <> a.wallet_kind OR s.id IS NULL
            OR a.opened_at > {LATEST} OR a.may_go_negative <> (w.kind <> {USER})
         ORDER BY a.id""",
    "owner": f"""
        SELECT format('wallet %s (%s)', w.id, w.owner_id),
               CASE WHEN w.same_id > 1 THEN format('is there %s times', w.same_id)
                    WHEN w.kind NOT IN ({_KINDS}) THEN format('has kind %s, which does not exist', w.kind)
                    WHEN w.same_owner > 1 THEN format('its owner has %s wallets', w.same_owner)
                    WHEN w.kind = {_TREASURY} AND NOT w.is_slot
                    THEN 'is the treasury''s, but its owner id is not a slot, 0 to {STRIPE_COUNT - 1}'
                    WHEN w.kind = {_CLEARING} AND NOT w.is_line
                    THEN 'is a clearing wallet, but its owner id is not a line of work,'
                         ' 0 to {SLOT_COUNT * LINES_PER_SLOT - 1}'
                    WHEN (length(w.owner_id) BETWEEN 1 AND {OWNER_ID_LENGTH_MAX}) IS NOT TRUE
                    THEN format('its owner id has %s characters', length(w.owner_id))
                    ELSE format('is dated in the future: %s', w.opened_at) END
          FROM (SELECT w.*, count(*) OVER (PARTITION BY w.kind, w.owner_id) AS same_owner,
                       count(*) OVER (PARTITION BY w.id) AS same_id,
                       w.owner_id IN (SELECT generate_series(0, {STRIPE_COUNT - 1})::text) AS is_slot,
                       w.owner_id IN (SELECT generate_series(0, {SLOT_COUNT * LINES_PER_SLOT - 1})::text) AS is_line
                  FROM wallet w WHERE w.shard = $1) AS w
         WHERE w.same_id > 1 OR w.same_owner > 1 OR w.kind NOT IN ({_KINDS}) OR (w.kind = {_TREASURY} AND NOT w.is_slot)
            OR (w.kind = {_CLEARING} AND NOT w.is_line)
            OR (length(w.owner_id) BETWEEN 1 AND {OWNER_ID_LENGTH_MAX}) IS NOT TRUE
            OR w.opened_at > {LATEST}
         ORDER BY w.id""",
}
"""Each returns (row, fault) for a shard, as all checks of `verify` do."""
