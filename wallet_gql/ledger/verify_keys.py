"""Proves keys and what they answer, as `verify` does.

A key that posted has the fingerprint of what is in the books. Of a clawback no row tells what was asked for.
"""

from typing import Final

from wallet_gql.domain.limits import Enforcement, LimitFlow
from wallet_gql.domain.lots import PRIORITY_DEFAULT
from wallet_gql.domain.money import BALANCE_MINOR_MAX, POSTING_MINOR_MAX, TREASURY_MINOR_MAX
from wallet_gql.domain.postings import RequestKind, TransactionType
from wallet_gql.domain.refusals import OutcomeCode
from wallet_gql.ledger.verify_lots import LOTS_SINCE, SETTING_SLACK, STEPS
from wallet_gql.ledger.verify_states import named_by
from wallet_gql.ledger.verify_terms import (
    ANY_LIMIT,
    BONUS,
    CAPTURE,
    CLAWBACK,
    EXPIRY,
    LATEST,
    NAMING,
    NOTES,
    OTHER_HALF,
    OWNERS_LEGS,
    RECEIVED,
    RECEIVER,
    REFUND,
    SENT,
    USER,
    doubled,
)

_POSTED: Final = f"{OutcomeCode.POSTED:d}"
_OUTCOMES: Final = ", ".join(f"{code:d}" for code in OutcomeCode)
_ON_BALANCE: Final = f"{OutcomeCode.BALANCE_LIMIT_EXCEEDED:d}, {OutcomeCode.INSUFFICIENT_BALANCE:d}"
_REPAYMENT: Final = f"{TransactionType.REPAYMENT:d}"
_SPEND: Final = f"{TransactionType.SPEND:d}"
_OWN_FINGERPRINT: Final = f"{SENT}, {CAPTURE}, {REFUND}, {CLAWBACK}"
"""What is asked for otherwise than a posting: of a clawback no row tells it."""


def _differs(kind: str, amount: str = "ltrim(leg.amount::text, '-')", before: str = "''", after: str = "''") -> str:
    """Return a condition: that a key's fingerprint is not that of what is in the books, as `domain.postings` makes it.

    `before` and `after` are what only some kinds have, before and after the metadata and the receipt; each is left out
    where it is NULL.
    """
    text = f"""concat({kind}, ' ', leg.code, ' ', {amount}, ' ',
                        coalesce(length(t.description) || ':' || t.description, '-'),
                        coalesce(length(t.reference) || ':' || t.reference, '-'), {before},
                        ' metadata ' || length(note.pairs) || ':' || note.pairs,
                        ' receipt ' || length(note.receipt) || ':' || note.receipt, {after})"""
    return f"k.fingerprint IS DISTINCT FROM substr(sha256(convert_to({text}, 'UTF8')), 1, 16)"


# Whether a capture named its amount, and whether it kept the remainder where nothing remained, is in no other row.
_CAPTURED: Final = " AND ".join(
    _differs(f"'{RequestKind.CAPTURE_HOLD:d}'", amount, before=f"' hold 36:', captured.hold_id, '{keep}'")
    for amount in ("ltrim(leg.amount::text, '-')", "'0'")
    for keep in ("", " keepRemainder 4:true")
)

# Nor is whether a refund named its amount; or an end, where it made no lot of it and its asset has lots.
_UNTIL_US: Final = "(extract(epoch FROM {0}.until) * 1000000)::bigint"
_UNTIL: Final = f"' {{1}} ' || length({_UNTIL_US}::text) || ':' || {_UNTIL_US}"
_REFUNDED: Final = "(lot.until IS NOT NULL OR since.at IS NULL) AND " + " AND ".join(
    _differs(
        f"'{RequestKind.REFUND:d}'",
        amount,
        before=_UNTIL.format("lot", "lapsedUntil"),
        after="' original 36:', reversing.original_id",
    )
    for amount in ("ltrim(leg.amount::text, '-')", "'0'")
)

# From which source alone a debit was to take is in no other row: from the pool where it took from no lot, from bonuses
# where it took from nothing else.
_SOURCES: Final = (
    "''",
    "CASE WHEN lot.moved IS NULL THEN ' sources 9:PURCHASED' END",
    "CASE WHEN lot.moved = leg.amount THEN ' sources 5:BONUS' END",
)

_TRANSFERRED: Final = " AND ".join(
    _differs(
        f"'{RequestKind.TRANSFER:d}'",
        after=f"{sources}, ' to ' || length(receiver.owner_id) || ':' || receiver.owner_id",
    )
    for sources in _SOURCES
)

_SPENT: Final = " AND ".join(_differs("t.type", after=sources) for sources in _SOURCES)

_CAMPAIGN: Final = "' campaign ' || length(lot.campaign) || ':' || lot.campaign"
_PRIORITY: Final = f"""CASE WHEN lot.priority <> {PRIORITY_DEFAULT}
                             THEN ' priority ' || length(lot.priority::text) || ':' || lot.priority END"""
_GIVEN: Final = _differs("t.type", before=f"{_CAMPAIGN}, {_UNTIL.format('lot', 'expiresAt')}", after=_PRIORITY)

_POSTED_DIFFERS: Final = f"""CASE t.type WHEN {_SPEND} THEN {_SPENT} WHEN {BONUS} THEN {_GIVEN}
                                     ELSE {_differs("t.type")} END"""

# What a transaction moves of an owner's lots, and the terms of one that it made, or put all into.
_LOTS: Final = """(
                SELECT e.transaction_id, sum(s.change) AS moved, min(o.campaign) AS campaign,
                       min(o.priority) AS priority, min(o.expires_at) FILTER (WHERE s.step = 1) AS until
                  FROM lot_step s
                  JOIN lot o ON o.shard = $1 AND o.account_id = s.account_id AND o.n = s.lot
                  JOIN entry e ON e.shard = $1 AND e.account_id = s.account_id AND e.seq = s.seq
                 WHERE s.shard = $1 AND s.change <> 0
                 GROUP BY e.transaction_id) AS lot"""

# What of each account's lots no hold has, after each of its entries.
_FREE: Final = f"""(
                 SELECT e.account_id, e.seq, e.executed_at, e.balance_after, e.held_after,
                        coalesce(sum(changed.free) OVER (PARTITION BY e.account_id ORDER BY e.seq), 0) AS free
                   FROM entry e
                   LEFT JOIN (SELECT s.account_id, s.seq, sum(s.change - s.held + s.held_before) AS free
                                FROM {STEPS} AS s GROUP BY s.account_id, s.seq) AS changed
                     ON (changed.account_id, changed.seq) = (e.account_id, e.seq)
                  WHERE e.shard = $1 AND e.lots_seq IS NOT NULL)"""

# Of what is limited for all wallets.
_OF_ALL_WALLETS: Final = f"""(k.shard = 0 AND k.wallet_id = 0
                             AND k.outcome IN ({OutcomeCode.LIMITS_SET:d}, {OutcomeCode.TOO_MANY:d}))"""

# What the checks of limits, which begin where there ever were some, would not see.
_WITHOUT_LIMITS: Final = f"""(k.outcome IN ({OutcomeCode.LIMIT_EXCEEDED:d}, {OutcomeCode.LIMITS_SET:d})
                              AND NOT {ANY_LIMIT})"""

# Whether what a refusal says that may be held at most is so for all, or what a limit ever said; not kept before wallets
# had limits of their own.
_IS_LIMIT: Final = f"""(NOT k.details ? 'limit_minor'
                  OR k.details -> 'limit_minor' = to_jsonb({BALANCE_MINOR_MAX})
                  OR EXISTS (
                     SELECT FROM limit_rule r
                      WHERE r.flow = {LimitFlow.BALANCE:d} AND r.enforcement = {Enforcement.REFUSE:d}
                        AND r.set_at <= k.created_at + {SETTING_SLACK}
                        AND (to_jsonb(r.asset_id), to_jsonb(r.max_amount))
                          = (k.details -> 'asset_id', k.details -> 'limit_minor')
                        AND (r.shard, r.wallet_id) IN ((0, 0), (k.shard, k.wallet_id))))"""

# An owner may be refused for the bonuses alone, of which most have none.
_OF_NOTHING: Final = f"outcome = {OutcomeCode.INSUFFICIENT_BALANCE:d} AND balance = 0"

# Each returns (row, fault) for a shard.
KEY_CHECKS: Final = {
    "key": f"""
        SELECT format('key %s of wallet %s', coalesce(k.key, t.idempotency_key), coalesce(k.wallet_id, t.wallet_id)),
               CASE WHEN t.type = {RECEIVED} THEN format('transaction %s has a key, but it is its other half''s', t.id)
                    WHEN k.key IS NULL AND t.idempotency_key IS NULL
                    THEN format('transaction %s has no key, and no key''s answer names it', t.id)
                    WHEN k.key IS NULL THEN format('is missing: transaction %s was posted under it', t.id)
                    WHEN w.id IS NULL AND NOT {_OF_ALL_WALLETS} THEN 'its wallet does not exist'
                    WHEN k.outcome NOT IN ({_OUTCOMES}) THEN format('has outcome %s, which does not exist', k.outcome)
                    WHEN {_WITHOUT_LIMITS} THEN 'is about a limit, but none was ever set'
                    WHEN octet_length(k.fingerprint) IS DISTINCT FROM 16
                    THEN format('its fingerprint has %s bytes', octet_length(k.fingerprint))
                    WHEN k.created_at > {LATEST}
                    THEN format('is dated in the future: %s', k.created_at)
                    WHEN k.outcome = {_POSTED} AND t.id IS NULL
                    THEN format('says posted, but there is no transaction %s', k.transaction_id)
                    WHEN k.outcome = {_POSTED} AND k.details IS NOT NULL
                    THEN 'says posted, but has the details of a refusal'
                    WHEN t.id IS NULL AND k.outcome IN ({_ON_BALANCE}) THEN 'says refused, but not on which balance'
                    WHEN t.id IS NULL THEN 'says refused, but not in which asset'
                    WHEN k.outcome <> {_POSTED} THEN format('says refused, but transaction %s was posted', t.id)
                    WHEN (k.key, k.wallet_id) IS DISTINCT FROM (t.idempotency_key, t.wallet_id)
                    THEN format('is not the key of its transaction %s', t.id)
                    ELSE format('its fingerprint is not what transaction %s gives', t.id) END
          FROM (SELECT * FROM idempotency_key WHERE shard = $1) AS k
          FULL JOIN (SELECT * FROM transaction WHERE shard = $1) AS t ON t.id = k.transaction_id
          LEFT JOIN wallet w ON w.shard = $1 AND w.id = k.wallet_id AND w.kind = {USER}
          LEFT JOIN ({NOTES}) AS note ON note.transaction_id = t.id
          LEFT JOIN ({OWNERS_LEGS}) AS leg ON leg.transaction_id = t.id AND leg.wallet_id = t.wallet_id
          LEFT JOIN {_LOTS} ON lot.transaction_id = t.id
         WHERE (t.type IS DISTINCT FROM {RECEIVED} OR k.key IS NOT NULL OR t.idempotency_key IS NOT NULL)
           -- What follows from a request: a repayment from any credit, what a closing or a debt posts from its key.
           -- What expires follows from the time.
           AND NOT (k.key IS NULL AND t.idempotency_key IS NULL
                    AND (t.type IN ({_REPAYMENT}, {EXPIRY}) OR t.id::text IN (
                         SELECT posted.id
                           FROM idempotency_key named
                          CROSS JOIN {named_by("named", "posted")} AS posted(id)
                          WHERE named.shard = $1 AND named.outcome IN ({NAMING}))))
           AND (t.type = {RECEIVED} OR k.key IS NULL OR (w.id IS NULL AND NOT {_OF_ALL_WALLETS})
            OR (k.outcome = {_POSTED}) <> (t.id IS NOT NULL)
            OR octet_length(k.fingerprint) IS DISTINCT FROM 16 OR k.created_at > {LATEST} OR {_WITHOUT_LIMITS}
            OR CASE WHEN k.outcome = {_POSTED}
                    THEN k.details IS NOT NULL OR k.key IS DISTINCT FROM t.idempotency_key
                         OR k.wallet_id IS DISTINCT FROM t.wallet_id
                         OR (t.type NOT IN ({_OWN_FINGERPRINT}) AND {_POSTED_DIFFERS})
                    WHEN k.outcome IN ({_ON_BALANCE})
                    THEN (jsonb_typeof(k.details -> 'balance_before_minor') = 'number'
                          AND k.details ->> 'balance_before_minor' ~ '^[0-9]{{1,19}}$') IS NOT TRUE
                    ELSE k.outcome NOT IN ({_OUTCOMES})
                         OR jsonb_typeof(k.details -> 'asset_id') IS DISTINCT FROM 'number' END)
         ORDER BY 1""",
    "key of a movement": f"""
        SELECT format('key %s of wallet %s', k.key, k.wallet_id),
               format('its fingerprint is not what transaction %s gives', t.id)
          FROM transaction t
          JOIN idempotency_key k ON k.shard = $1 AND k.transaction_id = t.id
          LEFT JOIN ({NOTES}) AS note ON note.transaction_id = t.id
          LEFT JOIN ({OWNERS_LEGS}) AS leg ON leg.transaction_id = t.id AND leg.wallet_id = t.wallet_id
          LEFT JOIN {_LOTS} ON lot.transaction_id = t.id
          LEFT JOIN {LOTS_SINCE} AS since ON since.asset_id = leg.asset_id
          LEFT JOIN reversal reversing ON reversing.shard = $1 AND reversing.transaction_id = t.id
          LEFT JOIN hold_step captured ON captured.shard = $1 AND captured.event_id = t.id
          LEFT JOIN {OTHER_HALF} ON true
          LEFT JOIN {RECEIVER} ON true
         WHERE t.shard = $1 AND t.type IN ({SENT}, {CAPTURE}, {REFUND})
           AND CASE WHEN t.type = {REFUND} THEN {_REFUNDED}
                    WHEN captured.hold_id IS NULL THEN {_TRANSFERRED}
                    ELSE {_CAPTURED} END
         ORDER BY 1""",
    "doubled key": doubled("idempotency_key", "key %2$s of wallet %1$s", "wallet_id", "key"),
    # Each refusal among the times at which an account of its wallet held the balance that it was refused on: `until` is
    # when the last of those that had begun by then was over. An account holds zero until its first entry.
    "refusal": f"""
        WITH refusal AS MATERIALIZED (
          SELECT k.wallet_id, k.key, k.outcome, k.created_at,
                 (k.details ->> 'balance_before_minor')::numeric AS balance,
                 k.details ->> 'limit_minor' AS told_most, {_IS_LIMIT} AS is_limit,
                 CASE jsonb_typeof(k.details -> 'limit_minor')
                      WHEN 'number' THEN (k.details ->> 'limit_minor')::numeric
                      ELSE {BALANCE_MINOR_MAX} END AS most,
                 count(*) OVER (PARTITION BY k.transaction_id) AS same_id
            FROM idempotency_key k
           WHERE k.shard = $1 AND k.outcome IN ({_ON_BALANCE})
             AND jsonb_typeof(k.details -> 'balance_before_minor') = 'number'
        ), wanted AS MATERIALIZED (
          SELECT DISTINCT wallet_id, balance FROM refusal
        ), held AS (
          SELECT r.wallet_id, r.balance, e.executed_at AS since, coalesce(next.executed_at, 'infinity') AS until
            FROM wanted r
            JOIN account a ON a.shard = $1 AND a.wallet_id = r.wallet_id
            JOIN entry e ON e.shard = $1 AND e.account_id = a.id AND e.balance_after = r.balance
            LEFT JOIN entry next ON next.shard = $1 AND next.account_id = e.account_id AND next.seq = e.seq + 1
           UNION ALL
          -- Of an account with holds: what was available.
          SELECT r.wallet_id, r.balance, e.executed_at, coalesce(next.executed_at, 'infinity')
            FROM wanted r
            JOIN account a ON a.shard = $1 AND a.wallet_id = r.wallet_id
            JOIN entry e ON e.shard = $1 AND e.account_id = a.id AND e.held_after > 0
                        AND e.balance_after - e.held_after = r.balance
            LEFT JOIN entry next ON next.shard = $1 AND next.account_id = e.account_id AND next.seq = e.seq + 1
           UNION ALL
          -- Of an account with lots: what was available of the pool alone, or of lots alone.
          SELECT r.wallet_id, r.balance, e.executed_at, coalesce(next.executed_at, 'infinity')
            FROM wanted r
            JOIN account a ON a.shard = $1 AND a.wallet_id = r.wallet_id
            JOIN {_FREE} AS e ON e.account_id = a.id
                             AND r.balance IN (e.free, e.balance_after - coalesce(e.held_after, 0) - e.free)
            LEFT JOIN entry next ON next.shard = $1 AND next.account_id = e.account_id AND next.seq = e.seq + 1
           UNION ALL
          SELECT r.wallet_id, 0, '-infinity', coalesce(e.executed_at, 'infinity')
            FROM wanted r
           CROSS JOIN asset s
            LEFT JOIN account a ON a.shard = $1 AND a.wallet_id = r.wallet_id AND a.asset_id = s.id
            LEFT JOIN entry e ON e.shard = $1 AND e.account_id = a.id AND e.seq = 1
           WHERE r.balance = 0
        ), timeline AS (
          SELECT wallet_id, balance, since - interval '1 hour' AS at, until, NULL::uuid AS key, NULL AS outcome,
                 NULL AS same_id, NULL AS most, NULL AS told_most, NULL AS is_limit
            FROM held
           UNION ALL
          SELECT wallet_id, balance, created_at, NULL, key, outcome, same_id, most, told_most, is_limit FROM refusal
        )
        SELECT format('key %s of wallet %s', key, wallet_id),
               CASE WHEN same_id > 1 THEN 'has the transaction id of another refusal'
                    WHEN NOT is_limit THEN format('says that at most %s may be held, which no limit says', told_most)
                    WHEN until IS NULL OR until < at - interval '1 hour'
                    THEN format('says refused on %s, which no account of its wallet held then', balance)
                    WHEN outcome = {OutcomeCode.INSUFFICIENT_BALANCE:d}
                    THEN format('says that %s was not enough, but it is enough for any amount', balance)
                    ELSE format('says that the limit was exceeded, but no amount exceeds it from %s', balance) END
          FROM (SELECT wallet_id, balance, at, key, outcome, same_id, most, told_most, is_limit,
                       max(until) OVER (PARTITION BY wallet_id, balance ORDER BY at, key NULLS FIRST
                                        ROWS UNBOUNDED PRECEDING) AS until
                  FROM timeline) AS found
         WHERE key IS NOT NULL
           AND (same_id > 1 OR NOT is_limit
                OR ((until IS NULL OR until < at - interval '1 hour') AND NOT ({_OF_NOTHING}))
                OR (outcome = {OutcomeCode.INSUFFICIENT_BALANCE:d} AND balance >= {POSTING_MINOR_MAX})
                -- Stripes that were full were told as the owner's limit once.
                OR (outcome = {OutcomeCode.BALANCE_LIMIT_EXCEEDED:d}
                    AND balance <= most - {POSTING_MINOR_MAX}
                    AND NOT EXISTS (SELECT FROM entry e WHERE e.shard = $1
                                       AND abs(e.balance_after) > {TREASURY_MINOR_MAX - POSTING_MINOR_MAX})))
         ORDER BY 1""",
}
