"""Proves what became of wallets, as `verify` does: their states, what their owners owe, and the keys that asked for it.

What a closing asked for is in no row, but for its note: its fingerprint is not compared. A first debt has a state that
no key need have asked for.
"""

from typing import Final

from wallet_gql.domain.holds import HoldStepKind
from wallet_gql.domain.postings import RequestKind, TransactionType
from wallet_gql.domain.wallets import WalletKind, WalletStatus
from wallet_gql.ledger.lookups import all_rows, one_row
from wallet_gql.ledger.verify_terms import CHANGED, EXPIRY, NAMING, USER

_DEBT: Final = f"{WalletKind.DEBT:d}"
_OPEN: Final = f"{WalletStatus.OPEN:d}"
_ALL: Final = f"{WalletStatus.FROZEN_ALL:d}"
_CLOSED: Final = f"{WalletStatus.CLOSED:d}"

_HEAD: Final = """LATERAL (
               SELECT e.seq, e.balance_after, e.held_after FROM entry e
                WHERE e.shard = a.shard AND e.account_id = a.id
                ORDER BY e.seq DESC LIMIT 1) AS head"""


def named_by(key: str, what: str) -> str:
    """Return a call: the ids that a key's answer names as `posted` or `voided`; none where it is no list."""
    names = f"{key}.details -> '{what}'"
    return f"jsonb_array_elements_text(CASE jsonb_typeof({names}) WHEN 'array' THEN {names} ELSE '[]' END)"


# Whether a state says truly since when it is so, as its law judges it.
_SINCE: Final = f"""(s.since <= s.at AND (
                     s.since = s.at OR (s.status, s.since) = (s.status_before, s.since_before)
                     OR (s.until_before IS NOT NULL
                         AND (s.status, s.since) = ({_OPEN}, greatest(s.until_before, s.since_before)))
                     OR (s.status, s.step) = ({_OPEN}, 1)))"""

_UNTIL_US: Final = "(extract(epoch FROM s.until) * 1000000)::bigint"

# What was asked for, as `domain.postings` writes it; NULL where the rows do not tell it.
_ASKED: Final = f"""CASE s.status
            WHEN {_CLOSED} THEN NULL
            WHEN {_OPEN} THEN CASE s.status_before WHEN {_CLOSED} THEN '{RequestKind.REOPEN:d}'
                                                  ELSE '{RequestKind.UNFREEZE:d}' END
            ELSE '{RequestKind.FREEZE:d}' END
         || '  0 ' || coalesce(length(s.note) || ':' || s.note, '-') || '-'
         || CASE s.status WHEN {_ALL} THEN ' scope 3:ALL' ELSE '' END
         || coalesce(' until ' || length({_UNTIL_US}::text) || ':' || {_UNTIL_US}, '')"""

_CHAINED: Final = """(SELECT s.*, coalesce(lag(s.step) OVER chain, 0) AS step_before,
                       lag(s.status) OVER chain AS status_before, lag(s.since) OVER chain AS since_before,
                       lag(s.until) OVER chain AS until_before, lag(s.debt_wallet_id) OVER chain AS debt_before
                  FROM wallet_state s WHERE s.shard = $1
                WINDOW chain AS (PARTITION BY s.wallet_id ORDER BY s.step)) AS s"""

_OWN_LEG: Final = all_rows("entry", "e", by="transaction_id", shard="d.shard", transaction_id="d.transaction_id")
_OWN_ACCOUNT: Final = one_row("account", "own", by="id", shard="e.shard", id="e.account_id")


def _before(alias: str, seq: str) -> str:
    """Return a look-up of an entry of the owner's account before a repayment."""
    return one_row("entry", alias, by="seq", shard="e.shard", account_id="e.account_id", seq=seq)


def _available(entry: str) -> str:
    return f"{entry}.balance_after - coalesce({entry}.held_after, 0)"


# Whether a repayment comes right after what made more available, but for what of that was over at once.
_FOLLOWS: Final = f"cause.executed_at = e.executed_at AND {_available('p')} > coalesce({_available('pp')}, 0)"

_CAUSE: Final = f"""LATERAL (
               SELECT c.seq, c.executed_at FROM entry c
                WHERE c.shard = e.shard AND c.account_id = e.account_id AND c.seq < e.seq AND c.type <> {EXPIRY}
                ORDER BY c.seq DESC LIMIT 1) AS cause"""

# Each returns (row, fault) for a shard.
STATE_CHECKS: Final = {
    "state": f"""
        SELECT format('state %s of wallet %s', s.step, s.wallet_id),
               CASE WHEN w.kind IS DISTINCT FROM {USER} THEN 'its wallet is not an owner''s'
                    WHEN s.step <> s.step_before + 1 THEN format('follows state %s', s.step_before)
                    WHEN s.status_before = {_CLOSED} AND s.status NOT IN ({_OPEN}, {_CLOSED})
                    THEN 'its wallet was closed, and is not opened by it'
                    WHEN s.debt_before IS DISTINCT FROM s.debt_wallet_id AND s.debt_before IS NOT NULL
                    THEN format('names debts in wallet %s, but they are in wallet %s', s.debt_wallet_id, s.debt_before)
                    WHEN {_SINCE} IS NOT TRUE
                    THEN format('says that it is so since %s, which is not when it came to be so', s.since)
                    ELSE format('names debts in wallet %s, which is not the owner''s', s.debt_wallet_id) END
          FROM {_CHAINED}
          LEFT JOIN wallet w ON w.shard = $1 AND w.id = s.wallet_id
          LEFT JOIN wallet d ON d.shard = $1 AND d.id = s.debt_wallet_id
         WHERE w.kind IS DISTINCT FROM {USER} OR s.step <> s.step_before + 1
            OR (s.status_before = {_CLOSED} AND s.status NOT IN ({_OPEN}, {_CLOSED}))
            OR (s.debt_before IS DISTINCT FROM s.debt_wallet_id AND s.debt_before IS NOT NULL)
            OR {_SINCE} IS NOT TRUE
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
    "key of a state": f"""
        SELECT format('state %s of wallet %s', s.step, s.wallet_id),
               CASE WHEN k.key IS NULL THEN 'no key asked for it'
                    WHEN k.wallet_id <> s.wallet_id
                    THEN format('key %s asked for it, but is of wallet %s', k.key, k.wallet_id)
                    ELSE format('is not what key %s asked for', k.key) END
          FROM {_CHAINED}
          LEFT JOIN idempotency_key k
            ON k.shard = $1 AND k.outcome = {CHANGED} AND k.transaction_id = s.event_id
         WHERE s.debt_before IS NOT DISTINCT FROM s.debt_wallet_id
           AND (k.key IS NULL OR k.wallet_id <> s.wallet_id
                OR k.fingerprint <> substr(sha256(convert_to({_ASKED}, 'UTF8')), 1, 16))
         ORDER BY s.wallet_id, s.step""",
    "answer": f"""
        SELECT format('key %s of wallet %s', k.key, k.wallet_id),
               format('says that %s was %s, but %s', named.id, named.what,
                      CASE named.what WHEN 'posted' THEN 'its wallet has no such transaction without a key'
                           ELSE 'its wallet has no such hold that was voided' END)
          FROM idempotency_key k
         CROSS JOIN LATERAL (
               SELECT 'posted' AS what, posted.id FROM {named_by("k", "posted")} AS posted(id)
                UNION ALL
               SELECT 'voided', voided.id FROM {named_by("k", "voided")} AS voided(id)) AS named
          LEFT JOIN transaction t ON named.what = 'posted' AND t.shard = $1 AND t.id::text = named.id
           AND t.wallet_id = k.wallet_id AND t.idempotency_key IS NULL
          LEFT JOIN hold h ON named.what = 'voided' AND h.shard = $1 AND h.id::text = named.id
           AND h.wallet_id = k.wallet_id
          LEFT JOIN hold_step last ON last.shard = $1 AND last.hold_id = h.id AND last.kind = {HoldStepKind.VOIDED:d}
         WHERE k.shard = $1 AND k.outcome IN ({NAMING}) AND t.id IS NULL AND last.step IS NULL
         ORDER BY k.wallet_id, k.key, named.id""",
    "debt": f"""
        SELECT format('account %s (%s)', a.id, w.owner_id),
               CASE WHEN s.wallet_id IS NULL THEN 'is a debt that no state of its owner''s wallet names'
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
           AND (s.wallet_id IS NULL OR (head.balance_after < 0 AND own.available > 0))
         ORDER BY a.id""",
    "entry of a debt": f"""
        SELECT format('account %s (%s), seq %s', a.id, w.owner_id, e.seq),
               CASE WHEN e.balance_after > 0 THEN format('is a debt above zero: %s', e.balance_after)
                    ELSE format('is owed by %s, but transaction %s is of another owner', w.owner_id, t.id) END
          FROM account a
          JOIN wallet w ON w.shard = $1 AND w.id = a.wallet_id
          JOIN entry e ON e.shard = $1 AND e.account_id = a.id
          LEFT JOIN transaction t ON t.shard = $1 AND t.id = e.transaction_id
          LEFT JOIN wallet o ON o.shard = $1 AND o.id = t.wallet_id
         WHERE a.shard = $1 AND a.wallet_kind = {_DEBT}
           AND (e.balance_after > 0 OR (o.kind, o.owner_id) IS DISTINCT FROM ({USER}, w.owner_id))
         ORDER BY a.id, e.seq""",
    # It takes all that is available, or all that is owed.
    "repayment": f"""
        SELECT format('transaction %s', d.transaction_id),
               CASE WHEN ({_FOLLOWS}) IS NOT TRUE
                    THEN 'repays, but nothing became available right before it'
                    ELSE format('repays, but leaves %s available and %s owed',
                                {_available("e")}, -d.balance_after) END
          FROM account a
          JOIN entry d ON d.shard = $1 AND d.account_id = a.id AND d.type = {TransactionType.REPAYMENT:d}
         CROSS JOIN {_OWN_LEG}
         CROSS JOIN {_OWN_ACCOUNT}
          LEFT JOIN {_before("p", "e.seq - 1")} ON true
          LEFT JOIN {_CAUSE} ON true
          LEFT JOIN {_before("pp", "cause.seq - 1")} ON true
         WHERE a.shard = $1 AND a.wallet_kind = {_DEBT} AND own.wallet_kind = {USER}
           AND (({_FOLLOWS}) IS NOT TRUE
                OR ({_available("e")} > 0 AND d.balance_after < 0))
         ORDER BY 1""",
}
