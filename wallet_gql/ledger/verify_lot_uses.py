"""Proves what movements do with lots, as `verify` does: bonuses, transfers, refunds, and what holds have of them.

Nothing may launder what ends: the halves of a transfer move lots of the same terms, a refund puts back what was taken
last, where it was taken from, and a capture uses up first what ends first.
"""

from typing import Final

from wallet_gql.domain.holds import HoldStepKind
from wallet_gql.domain.lots import CreditSource
from wallet_gql.ledger.lookups import all_rows, one_row
from wallet_gql.ledger.verify_lots import LOTS_SINCE, SETTING_SLACK
from wallet_gql.ledger.verify_terms import BONUS, CLAWBACK, OTHER_HALF, RECEIVED, REFUND, SENT, USER

_CAPTURED: Final = f"{HoldStepKind.CAPTURED:d}"


def _lots_moved(transaction: str, alias: str) -> str:
    """Return a look-up: which lots the owner's leg of a transaction moves, on their terms; NULL where it moves none.

    Lots that never end are joined, so of them only the sum is told.
    """
    entry = all_rows(
        "entry", "e", by="transaction_id", shard=f"{transaction}.shard", transaction_id=f"{transaction}.id"
    )
    step = all_rows("lot_step", "s", by="seq", shard="e.shard", account_id="e.account_id", seq="e.seq")
    lot = one_row("lot", "o", by="n", shard="s.shard", account_id="s.account_id", n="s.lot")
    return f"""LATERAL (
               SELECT string_agg(each.lot, '; ' ORDER BY each.lot) AS lots
                 FROM (SELECT format('%s of source %s, priority %s, campaign %L, until %L', sum(abs(s.change)),
                                     o.source, o.priority, o.campaign, o.expires_at) AS lot
                         FROM {entry} CROSS JOIN {step} CROSS JOIN {lot}
                        WHERE e.lots_seq IS NOT NULL AND s.change <> 0
                        GROUP BY o.source, o.priority, o.campaign, o.expires_at,
                                 CASE WHEN o.expires_at IS NOT NULL THEN o.n END) AS each) AS {alias}"""


_MARKS: Final = "unnest({0}.lots, {0}.earmarks) AS {1}(lot, amount)"
_BEFORE: Final = "unnest(s.lots_before, s.earmarks_before)"

# What a capture uses up of what its hold had: in that order, as far as it goes.
_USED: Final = f"""(
                   SELECT b.lot, b.amount, greatest(0, least(b.amount, s.captured - s.captured_before
                          - (sum(b.amount) OVER (ORDER BY b.nth) - b.amount))) AS used
                     FROM {_BEFORE} WITH ORDINALITY AS b(lot, amount, nth))"""

_STEP: Final = "l.shard = $1 AND l.account_id = s.account_id AND l.seq = s.seq"

# Each fault of what a hold has of lots with the condition that finds it; the first that is met is told.
_EARMARK_FAULTS: Final = {
    "coalesce(cardinality(s.lots), 0) <> coalesce(cardinality(s.earmarks), 0)": "'names other lots than amounts'",
    f"""s.lots IS NOT NULL
          AND (SELECT sum(a.amount) > s.remaining OR min(a.amount) <= 0 OR count(DISTINCT a.lot) <> count(*)
                 FROM {_MARKS.format("s", "a")}) IS NOT FALSE""": (
        "format('earmarks %s of lots %s, which is no part of the %s that it holds', s.earmarks, s.lots, s.remaining)"
    ),
    f"s.sources = {CreditSource.PURCHASED:d} AND s.lots IS NOT NULL": "'has earmarks, but its hold takes from no lots'",
    f"""s.sources = {CreditSource.BONUS:d}
          AND s.remaining <> (SELECT coalesce(sum(a.amount), 0) FROM {_MARKS.format("s", "a")})""": (
        "'holds what is in no lot, but its hold takes from lots alone'"
    ),
    """s.lots IS NOT NULL
          AND s.lots <> ARRAY(SELECT o.n FROM unnest(s.lots) AS a(lot)
                                JOIN lot o ON o.shard = $1 AND o.account_id = s.account_id AND o.n = a.lot
                               ORDER BY o.expires_at NULLS LAST, o.n)""": (
        "format('earmarks lots %s, which do not end in that order', s.lots)"
    ),
    f"""EXISTS (SELECT FROM {_MARKS.format("s", "a")}
                  FULL JOIN {_BEFORE} AS b(lot, amount) ON b.lot = a.lot
                 WHERE a.amount IS DISTINCT FROM b.amount
                   AND NOT EXISTS (SELECT FROM lot_step l WHERE {_STEP} AND l.lot = coalesce(a.lot, b.lot)))""": (
        "'a lot has no step for what it earmarks'"
    ),
    f"""s.kind = {_CAPTURED}
          AND EXISTS (SELECT FROM {_USED} AS u
                        LEFT JOIN {_MARKS.format("s", "a")} ON a.lot = u.lot
                        LEFT JOIN lot_step l ON {_STEP} AND l.lot = u.lot
                       WHERE u.used <> coalesce(-l.change, 0)
                          OR (s.remaining > 0 AND u.amount - u.used <> coalesce(a.amount, 0)))""": (
        "'does not use up first what ends first'"
    ),
}

# What a refund gives back of what its original took, from `started` to `ended` of all that it moved: first what was of
# the pool, then what was taken last.
_GIVEN_BACK: Final = f"""(
               SELECT r.transaction_id, e.account_id, s.lot, s.place, r.reversed_after - r.amount AS reversed_before,
                      r.reversed_after, -s.change AS taken,
                      -e.amount - sum(-s.change) OVER (PARTITION BY r.transaction_id)
                      + sum(-s.change) OVER (PARTITION BY r.transaction_id ORDER BY s.place DESC) AS ended
                 FROM reversal r
                 JOIN entry e ON e.shard = $1 AND e.transaction_id = r.original_id AND e.lots_seq IS NOT NULL
                 JOIN lot_step s ON s.shard = $1 AND s.account_id = e.account_id AND s.seq = e.seq AND s.change < 0
                 JOIN transaction t ON t.shard = $1 AND t.id = r.transaction_id AND t.type = {REFUND}
                WHERE r.shard = $1)"""

_PART: Final = "least(u.ended, u.reversed_after) - greatest(u.ended - u.taken, u.reversed_before)"

LOT_USE_CHECKS: Final = {
    "bonus": f"""
        SELECT format('transaction %s', e.transaction_id),
               format('puts %s of %s into %s lots', coalesce(put.change, 0), e.amount, coalesce(put.step_count, 0))
          FROM account a
          JOIN {LOTS_SINCE} AS since ON since.asset_id = a.asset_id
          JOIN entry e ON e.shard = $1 AND e.account_id = a.id AND e.type = {BONUS}
          LEFT JOIN (SELECT account_id, seq, count(*) AS step_count, sum(change) AS change
                       FROM lot_step WHERE shard = $1 GROUP BY account_id, seq) AS put
            ON (put.account_id, put.seq) = (e.account_id, e.seq)
         WHERE a.shard = $1 AND a.wallet_kind = {USER}
           -- Known before anything is read: most ledgers have no lots.
           AND (SELECT bool_or(has_lots) FROM asset_setting)
           AND CASE WHEN put.step_count IS NULL THEN e.executed_at > since.at + {SETTING_SLACK}
                    ELSE (put.step_count, put.change) <> (1, e.amount) END
         ORDER BY e.transaction_id""",
    "transfer of lots": f"""
        SELECT format('transaction %s', t.id),
               format('moves lots (%s), but its other half, transaction %s, moves (%s)', own.lots, o.id, other.lots)
          FROM (SELECT DISTINCT e.transaction_id AS id
                  FROM lot_step s
                  JOIN entry e ON e.shard = $1 AND e.account_id = s.account_id AND e.seq = s.seq
                              AND e.type IN ({SENT}, {RECEIVED}, {CLAWBACK})
                 WHERE s.shard = $1 AND s.change <> 0) AS moved
          JOIN transaction t ON t.shard = $1 AND t.id = moved.id AND t.counterpart_id IS NOT NULL
         CROSS JOIN {OTHER_HALF}
         CROSS JOIN {_lots_moved("t", "own")}
         CROSS JOIN {_lots_moved("o", "other")}
         WHERE own.lots IS DISTINCT FROM other.lots
           -- Of two halves that both move lots the one that gives tells it.
           AND (t.type <> {RECEIVED} OR other.lots IS NULL)
         ORDER BY t.id""",
    "refund of lots": f"""
        SELECT format('transaction %s', coalesce(given.transaction_id, put.transaction_id)),
               CASE WHEN put.lot IS NULL THEN format('does not put %s into lot %s', given.part, given.lot)
                    WHEN given.lot IS NULL
                    THEN format('puts %s into lot %s, which its original did not take', put.change, put.lot)
                    ELSE format('puts %s into lot %s, but gives back %s of lot %s',
                                put.change, put.lot, given.part, given.lot) END
          FROM (SELECT u.*, {_PART} AS part,
                       row_number() OVER (PARTITION BY u.transaction_id ORDER BY u.place DESC) AS nth
                  FROM {_GIVEN_BACK} AS u
                 WHERE {_PART} > 0) AS given
          FULL JOIN (SELECT e.transaction_id, e.executed_at, s.lot, s.step, s.change, o.source, o.priority, o.campaign,
                            row_number() OVER (PARTITION BY e.transaction_id ORDER BY s.place) AS nth
                       FROM entry e
                       JOIN lot_step s ON s.shard = $1 AND s.account_id = e.account_id AND s.seq = e.seq
                       LEFT JOIN lot o ON o.shard = $1 AND o.account_id = s.account_id AND o.n = s.lot
                      WHERE e.shard = $1 AND e.type = {REFUND} AND e.lots_seq IS NOT NULL) AS put
            ON (put.transaction_id, put.nth) = (given.transaction_id, given.nth)
          LEFT JOIN lot o ON o.shard = $1 AND o.account_id = given.account_id AND o.n = given.lot
         WHERE put.lot IS NULL OR given.lot IS NULL OR put.change <> given.part
            -- What is over may be given a new end, which makes another lot of it.
            OR (put.lot <> given.lot
                AND (put.step = 1 AND o.expires_at <= put.executed_at
                     AND (put.source, put.priority) = (o.source, o.priority)
                     AND put.campaign IS NOT DISTINCT FROM o.campaign) IS NOT TRUE)
         ORDER BY 1""",
    "earmark": f"""
        SELECT format('step %s of hold %s', s.step, s.hold_id),
               CASE {" ".join(f"WHEN {condition} THEN {fault}" for condition, fault in _EARMARK_FAULTS.items())} END
          FROM (SELECT s.*, h.sources, s.amount - s.captured - s.released AS remaining,
                       lag(s.lots) OVER chain AS lots_before, lag(s.earmarks) OVER chain AS earmarks_before,
                       coalesce(lag(s.captured) OVER chain, 0) AS captured_before
                  FROM hold_step s
                  LEFT JOIN hold h ON h.shard = $1 AND h.id = s.hold_id
                 WHERE s.shard = $1
                   AND s.hold_id IN (SELECT hold_id FROM hold_step
                                      WHERE shard = $1 AND (lots IS NOT NULL OR earmarks IS NOT NULL)
                                      UNION ALL
                                     SELECT id FROM hold WHERE shard = $1 AND sources IS NOT NULL)
                WINDOW chain AS (PARTITION BY s.hold_id ORDER BY s.step)) AS s
         WHERE {" OR ".join(f"({condition})" for condition in _EARMARK_FAULTS)}
         ORDER BY s.hold_id, s.step""",
}
"""Each returns (row, fault) for a shard, as all checks of `verify` do."""
