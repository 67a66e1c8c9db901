"""Proves lots, as `verify` does: their rows, their chains, and what entries say of them.

A step is proved as its law judges it, but by what the log says; and beyond it, from where lots come and in which order
they are spent. What entries say is proved one after the other: which lots have something left, and what is due next,
follow from what was so before and from the steps of the entry. All of it begins with the rows of lots, or with entries
that name some, so books without lots pay for a scan.
"""

from typing import Final

from wallet_gql.domain.lots import CreditSource
from wallet_gql.domain.postings import TransactionType
from wallet_gql.ledger.judge import HEAD_AHEAD_MAX
from wallet_gql.ledger.verify_terms import BONUS, EXPIRY, RECEIVED, REFUND, SENT, USER, any_fault, first_fault

_FORFEIT: Final = f"{TransactionType.FORFEIT:d}"
_REPAYMENT: Final = f"{TransactionType.REPAYMENT:d}"
_SPEND: Final = f"{TransactionType.SPEND:d}"
_OF_BONUSES: Final = f"{CreditSource.BONUS:d}"

SETTING_SLACK: Final = "interval '1 hour'"
"""How far the time of a setting may be from when it is decided by: it is committed later, and clocks are set."""

_ENDS: Final = "coalesce(o.expires_at, 'infinity')"

LOTS_SINCE: Final = "(SELECT asset_id, min(set_at) AS at FROM asset_setting WHERE has_lots GROUP BY asset_id)"
"""Since when which assets have lots."""

_EARMARKED: Final = """(
               SELECT account_id, seq, lot, sum(amount) AS amount
                 FROM (SELECT h.account_id, h.seq, mark.lot, mark.amount
                         FROM hold_step h
                        CROSS JOIN unnest(h.lots, h.earmarks) AS mark(lot, amount)
                        WHERE h.shard = $1 AND h.lots IS NOT NULL
                        UNION ALL
                       SELECT next.account_id, next.seq, mark.lot, -mark.amount
                         FROM hold_step h
                         JOIN hold_step next ON next.shard = $1 AND next.hold_id = h.hold_id AND next.step = h.step + 1
                        CROSS JOIN unnest(h.lots, h.earmarks) AS mark(lot, amount)
                        WHERE h.shard = $1 AND h.lots IS NOT NULL) AS marks
                GROUP BY account_id, seq, lot)"""
"""How much more holds have of which lots by which entries, or less."""

STEPS: Final = """(
               SELECT s.*, coalesce(lag(s.step) OVER of_lot, 0) AS step_before,
                      coalesce(lag(s.seq) OVER of_lot, 0) AS seq_before,
                      coalesce(lag(s.granted) OVER of_lot, 0) AS granted_before,
                      coalesce(lag(s.remaining) OVER of_lot, 0) AS remaining_before,
                      coalesce(lag(s.held) OVER of_lot, 0) AS held_before
                 FROM lot_step s
                WHERE s.shard = $1
               WINDOW of_lot AS (PARTITION BY s.account_id, s.lot ORDER BY s.step))"""
"""The steps of a shard's lots, each with the one before it."""

_PUTS: Final = f"{BONUS}, {RECEIVED}, {REFUND}"
_GRANTS: Final = f"s.step = 1 OR s.type IN ({BONUS}, {RECEIVED})"
_IN_SPEND_ORDER: Final = f"{_SPEND}, {SENT}, {_REPAYMENT}, {_FORFEIT}"

# Each fault of a lot with the condition that finds it; the first that is met is told.
_LOT_FAULTS: Final = {
    f"o.wallet_kind IS DISTINCT FROM {USER}": "'its account is not an owner''s'",
    f"o.since IS NULL OR o.granted_at < o.since - {SETTING_SLACK}": "'its asset had no lots'",
    "o.n <> o.n_before + 1": "format('follows lot %s', o.n_before)",
    "o.step_seq IS DISTINCT FROM o.seq": "format('its first step is of seq %s, not %s', o.step_seq, o.seq)",
    f"(o.type IN ({_PUTS}) AND o.amount > 0) IS NOT TRUE": "format('was granted by an entry of type %s', o.type)",
    "o.granted_at <> o.executed_at": "'its time is not that of the entry that granted it'",
    "o.origin_id IS DISTINCT FROM CASE WHEN o.expires_at IS NOT NULL THEN o.transaction_id END": (
        "format('its origin is transaction %s, but it was granted by %s', o.origin_id, o.transaction_id)"
    ),
    f"o.source <> {_OF_BONUSES}": "format('is of source %s, which makes no lots', o.source)",
}

_STEP_FAULTS: Final = {
    "s.n IS NULL": "'its lot does not exist'",
    "s.step <> s.step_before + 1": "format('follows step %s', s.step_before)",
    "s.seq <= s.seq_before": "format('is of seq %s, but follows seq %s', s.seq, s.seq_before)",
    "s.moved IS NULL": "'no entry belongs to it'",
    "s.place <> s.nth": "format('its place is %s, but should be %s', s.place, s.nth)",
    "sign(s.change) * sign(s.moved) < 0 OR abs(s.change) > abs(s.moved) OR abs(s.changed) > abs(s.moved)": (
        "format('changes %s, but its entry moves %s', s.change, s.moved)"
    ),
    f"s.change > 0 AND s.type NOT IN ({_PUTS})": "format('is put in by type %s', s.type)",
    "s.remaining <> s.remaining_before + s.change": (
        "format('%s remains after it, but should be %s', s.remaining, s.remaining_before + s.change)"
    ),
    f"s.granted <> s.granted_before + CASE WHEN {_GRANTS} THEN greatest(s.change, 0) ELSE 0 END": (
        "format('%s was granted up to it, which does not follow %s', s.granted, s.granted_before)"
    ),
    "s.held - s.held_before <> s.earmarked": (
        "format('%s is held after it, but should be %s', s.held, s.held_before + s.earmarked)"
    ),
    "s.held < 0 OR s.remaining < s.held OR s.granted < s.remaining": (
        "format('of %s that was granted %s remains, and %s of it is held', s.granted, s.remaining, s.held)"
    ),
    "s.is_of_hold AND s.change < 0 AND -s.change > s.held_before - s.held": (
        "format('takes %s, but a hold gives up %s', -s.change, s.held_before - s.held)"
    ),
    # What is free of a lot lapses before anything else takes from it.
    f"""s.change < 0 AND s.type <> {EXPIRY} AND NOT s.is_of_hold
          AND s.ends < s.executed_at - interval '{HEAD_AHEAD_MAX.total_seconds():.0f} s'""": (
        "format('takes of a lot that was over at %s', s.ends)"
    ),
    f"""s.change < 0 AND s.change_before < 0
          AND CASE WHEN s.is_of_hold THEN (s.ends_before, s.lot_before) > (s.ends, s.lot)
                   WHEN s.type IN ({_IN_SPEND_ORDER})
                   THEN (s.priority_before, s.ends_before, s.lot_before) > (s.priority, s.ends, s.lot) END""": (
        "format('takes after lot %s, which is spent later', s.lot_before)"
    ),
    f"""s.change < 0 AND s.change_before < 0 AND s.free_before > 0
          AND NOT s.is_of_hold AND s.type IN ({_IN_SPEND_ORDER})""": (
        "format('takes after lot %s, of which %s is left', s.lot_before, s.free_before)"
    ),
}

# What of an account's lots no hold has, as the log has it: it cannot be more than is available.
_FREE: Final = "e.in_lots - e.lots_held"
_AVAILABLE: Final = "e.balance_after - coalesce(e.held_after, 0)"

_LISTED: Final = """ARRAY(
             SELECT o.n
               FROM (SELECT unnest(e.listed_before)
                      UNION
                     SELECT l.lot FROM lot_step l
                      WHERE l.shard = $1 AND l.account_id = e.account_id AND l.seq = e.seq AND l.remaining > 0
                     EXCEPT
                     SELECT l.lot FROM lot_step l
                      WHERE l.shard = $1 AND l.account_id = e.account_id AND l.seq = e.seq AND l.remaining = 0
                    ) AS live(n)
               JOIN lot o ON o.shard = $1 AND o.account_id = e.account_id AND o.n = live.n
              ORDER BY o.priority, o.expires_at NULLS LAST, o.n)"""
"""The lots that have something left after the entry `e`, as they are spent."""

_DUE: Final = """least(
                 (SELECT min(last.held_until)
                    FROM hold_step h
                   CROSS JOIN unnest(h.open_holds) AS is_open(id)
                   CROSS JOIN LATERAL (
                         SELECT l.held_until FROM hold_step l
                          WHERE l.shard = $1 AND l.hold_id = is_open.id AND l.seq <= e.seq
                          ORDER BY l.step DESC LIMIT 1) AS last
                   WHERE h.shard = $1 AND h.account_id = e.account_id AND h.seq = e.held_seq),
                 (SELECT min(o.expires_at)
                    FROM entry listing
                   CROSS JOIN unnest(listing.live_lots) AS live(n)
                    JOIN lot o ON o.shard = $1 AND o.account_id = e.account_id AND o.n = live.n
                   CROSS JOIN LATERAL (
                         SELECT l.remaining, l.held FROM lot_step l
                          WHERE l.shard = $1 AND l.account_id = e.account_id AND l.lot = o.n AND l.seq <= e.seq
                          ORDER BY l.step DESC LIMIT 1) AS last
                   WHERE listing.shard = $1 AND listing.account_id = e.account_id AND listing.seq = e.lots_seq
                     AND last.remaining > last.held))"""
"""When the first open hold of an account ends, or its first lot of which something is free, after the entry `e`."""

_ENTRY_FAULTS: Final = {
    "e.lots_after IS DISTINCT FROM e.in_lots": (
        "format('%s is in lots after it, but should be %s', e.lots_after, e.in_lots)"
    ),
    f"{_FREE} > {_AVAILABLE}": f"format('%s is in lots and in no hold, but %s is available', {_FREE}, {_AVAILABLE})",
    # Of some requests the pool alone is taken; where lots are, they come first.
    f"""e.type IN ({_IN_SPEND_ORDER}) AND e.held_seq IS DISTINCT FROM e.seq AND e.amount < coalesce(e.change, 0)
          AND (e.change < 0 OR e.type IN ({_REPAYMENT}, {_FORFEIT})) AND {_FREE} > 0""": (
        f"format('takes of the pool, but %s is left in lots', {_FREE})"
    ),
    "e.live_lots IS NOT NULL AND NOT e.is_listed": "'says which lots have something left, but changes none of them'",
    "e.live_lots IS NULL AND e.is_listed": "'does not say which lots have something left'",
    "e.lots_seq IS DISTINCT FROM CASE WHEN e.live_lots IS NULL THEN e.lots_seq_before ELSE e.seq END": (
        "format('says that seq %s listed its lots, which it did not', e.lots_seq)"
    ),
    f"e.live_lots IS NOT NULL AND e.live_lots <> {_LISTED}": (
        f"format('says that lots %s have something left, but %s have, as they are spent', e.live_lots, {_LISTED})"
    ),
    f"e.type = {EXPIRY} AND (e.step_count, e.change) IS DISTINCT FROM (1, e.amount)": (
        "'takes what expires of no lot, or of several'"
    ),
    f"e.type = {EXPIRY} AND (e.last_end <= e.executed_at) IS NOT TRUE": (
        "format('takes what expires, but not before %s', e.last_end)"
    ),
    f"e.type = {EXPIRY} AND e.free_left > 0": "format('leaves %s of what expires', e.free_left)",
    # Nobody looks further where it may stay as it was, though what was due then is gone: that is not too late.
    f"e.next_due_at IS DISTINCT FROM least(e.due_before, e.ends) AND e.next_due_at IS DISTINCT FROM {_DUE}": (
        f"format('says that something is due at %s, but the first is at %s', e.next_due_at, {_DUE})"
    ),
}


# What the steps of an entry do in all, and which ends they set free or take away.
_CHANGES: Final = f"""(
               SELECT s.account_id, s.seq, count(*) AS step_count, sum(s.change) AS change,
                      sum(s.held - s.held_before) AS held, sum(s.remaining - s.held) AS free_left,
                      bool_or((s.remaining > 0) <> (s.remaining_before > 0)) AS is_listed,
                      min(o.expires_at) FILTER (WHERE s.remaining > s.held) AS ends, max({_ENDS}) AS last_end
                 FROM {STEPS} AS s
                 JOIN lot o ON o.shard = $1 AND o.account_id = s.account_id AND o.n = s.lot
                GROUP BY s.account_id, s.seq)"""

_HELD: Final = """(
               SELECT h.account_id, h.seq, CASE WHEN h.amount > h.captured + h.released THEN h.held_until END AS ends
                 FROM hold_step h
                WHERE h.shard = $1 AND h.account_id IN (SELECT account_id FROM lot WHERE shard = $1))"""

# Each returns (row, fault) for a shard.
LOT_CHECKS: Final = {
    "lot": f"""
        SELECT format('lot %s of account %s', o.n, o.account_id), {first_fault(_LOT_FAULTS)}
          FROM (SELECT o.*, coalesce(lag(o.n) OVER (PARTITION BY o.account_id ORDER BY o.n), 0) AS n_before,
                       a.wallet_kind, since.at AS since, s.seq AS step_seq, e.type, e.amount, e.executed_at,
                       e.transaction_id
                  FROM lot o
                  LEFT JOIN account a ON a.shard = $1 AND a.id = o.account_id
                  LEFT JOIN {LOTS_SINCE} AS since ON since.asset_id = a.asset_id
                  LEFT JOIN lot_step s ON s.shard = $1 AND s.account_id = o.account_id AND s.lot = o.n AND s.step = 1
                  LEFT JOIN entry e ON e.shard = $1 AND e.account_id = o.account_id AND e.seq = o.seq
                 WHERE o.shard = $1) AS o
         WHERE {any_fault(_LOT_FAULTS)}
         ORDER BY o.account_id, o.n""",
    "lot step": f"""
        SELECT format('step %s of lot %s of account %s', s.step, s.lot, s.account_id), {first_fault(_STEP_FAULTS)}
          FROM (SELECT s.*, o.n, o.priority, {_ENDS} AS ends, e.amount AS moved, e.type, e.executed_at,
                       e.held_seq IS NOT DISTINCT FROM e.seq AS is_of_hold, coalesce(mark.amount, 0) AS earmarked,
                       row_number() OVER of_entry AS nth,
                       sum(s.change) OVER (PARTITION BY s.account_id, s.seq) AS changed,
                       lag(s.remaining - s.held) OVER of_entry AS free_before,
                       lag(s.lot) OVER of_entry AS lot_before, lag(s.change) OVER of_entry AS change_before,
                       lag(o.priority) OVER of_entry AS priority_before, lag({_ENDS}) OVER of_entry AS ends_before
                  FROM {STEPS} AS s
                  LEFT JOIN lot o ON o.shard = $1 AND o.account_id = s.account_id AND o.n = s.lot
                  LEFT JOIN entry e
                    ON e.shard = $1 AND e.account_id = s.account_id AND e.seq = s.seq AND e.lots_seq IS NOT NULL
                  LEFT JOIN {_EARMARKED} AS mark
                    ON (mark.account_id, mark.seq, mark.lot) = (s.account_id, s.seq, s.lot)
                WINDOW of_entry AS (PARTITION BY s.account_id, s.seq ORDER BY s.place)) AS s
         WHERE {any_fault(_STEP_FAULTS)}
         ORDER BY s.account_id, s.seq, s.place""",
    "lots of an account": f"""
        SELECT format('account %s, seq %s', e.account_id, e.seq), {first_fault(_ENTRY_FAULTS)}
          FROM (SELECT e.*, changed.step_count, changed.change, changed.free_left, changed.last_end,
                       coalesce(changed.is_listed, false) AS is_listed,
                       coalesce(sum(changed.change) OVER chain, 0) AS in_lots,
                       coalesce(sum(changed.held) OVER chain, 0) AS lots_held,
                       lag(e.lots_seq) OVER chain AS lots_seq_before,
                       lag(e.live_lots) OVER (PARTITION BY e.account_id, e.live_lots IS NULL ORDER BY e.seq)
                       AS listed_before,
                       p.next_due_at AS due_before, least(changed.ends, held.ends) AS ends
                  FROM entry e
                  LEFT JOIN {_CHANGES} AS changed ON (changed.account_id, changed.seq) = (e.account_id, e.seq)
                  LEFT JOIN {_HELD} AS held ON (held.account_id, held.seq) = (e.account_id, e.seq)
                  LEFT JOIN entry p ON p.shard = $1 AND p.account_id = e.account_id AND p.seq = e.seq - 1
                 WHERE e.shard = $1 AND e.lots_seq IS NOT NULL
                WINDOW chain AS (PARTITION BY e.account_id ORDER BY e.seq)) AS e
         WHERE {any_fault(_ENTRY_FAULTS)}
         ORDER BY e.account_id, e.seq""",
}
"""Each returns (row, fault) for a shard, as all checks of `verify` do."""
