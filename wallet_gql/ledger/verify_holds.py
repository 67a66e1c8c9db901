"""Proves holds, as `verify` does: their steps, their rows, and the keys that asked for them.

A step is proved as its law judges it, but by what the log says: each follows the one before it, of its hold and of its
account, and belongs to one entry. What a capture was asked for is proved with its transaction.
"""

from typing import Final

from wallet_gql.domain.holds import TTL_SECONDS_DEFAULT, HoldStepKind
from wallet_gql.domain.lots import CreditSource
from wallet_gql.domain.postings import RequestKind
from wallet_gql.domain.refusals import OutcomeCode
from wallet_gql.ledger.lookups import one_row
from wallet_gql.ledger.verify_states import named_by
from wallet_gql.ledger.verify_terms import CAPTURE, CHANGED, NOTES, OTHER_HALF, SENT, USER

# The numbers of kinds, types and outcomes, as SQL writes them.
_PLACED: Final = f"{HoldStepKind.PLACED:d}"
_CAPTURED: Final = f"{HoldStepKind.CAPTURED:d}"
_ADJUSTED: Final = f"{HoldStepKind.ADJUSTED:d}"
_VOIDED: Final = f"{HoldStepKind.VOIDED:d}"
_EXPIRED: Final = f"{HoldStepKind.EXPIRED:d}"

_SENT_HALF: Final = one_row("transaction", "t", by="id", shard="s.shard", id="s.event_id")
_RECEIVER: Final = one_row("wallet", "receiver", by="id", shard="h.receiver_shard", id="h.receiver_wallet_id")

# What may follow a step of an open hold, by kind: NULL where there is no step before it.
_FOLLOWS: Final = f"""CASE s.kind
            WHEN {_PLACED} THEN s.step = 1 AND s.amount > 0 AND s.captured = 0 AND s.released = 0
            WHEN {_CAPTURED} THEN s.amount = s.amount_before AND s.held_until = s.held_until_before
                              AND s.captured > s.captured_before
                              AND s.released IN (s.released_before, s.amount - s.captured)
            WHEN {_ADJUSTED} THEN s.captured = s.captured_before AND s.released = s.released_before
            WHEN {_VOIDED} THEN s.amount = s.amount_before AND s.held_until = s.held_until_before
                            AND s.captured = s.captured_before AND s.remaining = 0
            ELSE s.amount = s.amount_before AND s.held_until = s.held_until_before
                 AND s.captured = s.captured_before AND s.remaining = 0 AND s.at >= s.held_until END"""

_OPEN: Final = """CASE WHEN s.remaining = 0 THEN array_remove(coalesce(s.open_before, '{}'), s.hold_id)
            WHEN s.step = 1 THEN coalesce(s.open_before, '{}') || s.hold_id
            ELSE coalesce(s.open_before, '{}') END"""

# When the first of the open holds ends. It is looked up only where the one that ended first is closed, or ends later
# now, while others are open: else it follows from when the first ended before this step.
_DUE: Final = """CASE WHEN s.open_holds = '{}' THEN NULL
            WHEN s.step = 1 OR (s.remaining > 0 AND (s.held_until <= s.due_before
                                                     OR s.held_until_before > s.due_before))
            THEN least(s.due_before, s.held_until)
            WHEN s.held_until_before > s.due_before THEN s.due_before
            ELSE (SELECT min(last.held_until)
                    FROM unnest(s.open_holds) AS is_open(id)
                   CROSS JOIN LATERAL (
                         SELECT l.held_until FROM hold_step l
                          WHERE l.shard = s.shard AND l.hold_id = is_open.id AND l.seq <= s.seq
                          ORDER BY l.step DESC LIMIT 1) AS last) END"""

# Each fault with the condition that finds it; the first that is met is told.
_FAULTS: Final = {
    "h.id IS NULL": "'its hold does not exist'",
    "h.account_id <> s.account_id": "format('is of account %s, but its hold is not', s.account_id)",
    "s.step <> coalesce(s.step_before, 0) + 1": "format('follows step %s', coalesce(s.step_before, 0))",
    "s.entry_seq IS NULL": "'no entry belongs to it'",
    "s.at <> s.executed_at": "'its time is not that of its entry'",
    "s.remaining_before = 0": "'follows a step that closed its hold'",
    "s.change <> s.remaining - coalesce(s.remaining_before, 0)": (
        "format('says that it changes %s, but it changes %s', s.change, s.remaining - coalesce(s.remaining_before, 0))"
    ),
    f"s.capture_count <> coalesce(s.count_before, 0) + (s.kind = {_CAPTURED})::int": (
        "format('says that it is after %s captures, but it is not', s.capture_count)"
    ),
    "s.moved <> coalesce(s.captured_before, 0) - s.captured": (
        "format('captures %s, but its entry moves %s', s.captured - coalesce(s.captured_before, 0), s.moved)"
    ),
    f"s.type <> CASE WHEN s.moved = 0 THEN s.kind WHEN h.receiver_shard IS NULL THEN {CAPTURE} ELSE {SENT} END": (
        "format('is of kind %s, but its entry is of type %s', s.kind, s.type)"
    ),
    f"({_FOLLOWS}) IS NOT TRUE": "format('of kind %s, does not follow the step before it', s.kind)",
    f"""h.receiver_shard IS NOT NULL
          AND EXISTS (SELECT FROM {_SENT_HALF} CROSS JOIN {OTHER_HALF}
                       WHERE (o.shard, o.wallet_id) IS DISTINCT FROM (h.receiver_shard, h.receiver_wallet_id))""": (
        "format('does not pay wallet %s of shard %s, which its hold is for', h.receiver_wallet_id, h.receiver_shard)"
    ),
    f"s.open_holds <> {_OPEN}": "'the open holds after it are not those before it and its own'",
    # Of an account with lots what is due is proved with them.
    f"s.lots_seq IS NULL AND s.next_due_at IS DISTINCT FROM {_DUE}": (
        f"format('its entry says that a hold ends at %s, but the first ends at %s', s.next_due_at, {_DUE})"
    ),
}

_TTL: Final = "round(extract(epoch FROM s.held_until - s.at))"
_TEXT: Final = "coalesce(length({text}) || ':' || {text}, '-')"

# A transfer may take from the pool alone by its asset's policy, without being asked to.
_SOURCES: Final = f"""CASE h.sources WHEN {CreditSource.PURCHASED:d} THEN ' sources 9:PURCHASED'
                                WHEN {CreditSource.BONUS:d} THEN ' sources 5:BONUS' ELSE '' END"""

# What was asked for, as `domain.postings` writes it; NULL where the rows do not tell it.
_ASKED_FROM: Final = f"""CASE s.kind
            WHEN {_PLACED} THEN '{RequestKind.PLACE_HOLD:d} ' || c.code || ' ' || s.amount || ' '
                 || {_TEXT.format(text="h.description")} || {_TEXT.format(text="h.reference")}
                 || coalesce(' metadata ' || length(note.pairs) || ':' || note.pairs, '') || {{sources}}
                 || coalesce(' to ' || length(receiver.owner_id) || ':' || receiver.owner_id, '')
                 || CASE WHEN {_TTL} = {TTL_SECONDS_DEFAULT} THEN ''
                         ELSE ' ttlSeconds ' || length({_TTL}::text) || ':' || {_TTL} END
            WHEN {_VOIDED} THEN '{RequestKind.VOID_HOLD:d} ' || c.code || ' 0 -- hold 36:' || s.hold_id END"""
_OTHER: Final = " AND ".join(
    f"k.fingerprint <> substr(sha256(convert_to({_ASKED_FROM.format(sources=sources)}, 'UTF8')), 1, 16)"
    for sources in (
        _SOURCES,
        f"CASE WHEN h.receiver_shard IS NULL OR h.sources <> {CreditSource.PURCHASED:d} THEN {_SOURCES} ELSE '' END",
    )
)

HOLD_CHECKS: Final = {
    "hold": f"""
        SELECT format('step %s of hold %s', s.step, s.hold_id),
               CASE {" ".join(f"WHEN {condition} THEN {fault}" for condition, fault in _FAULTS.items())} END
          FROM (SELECT w.*, w.amount_before - w.captured_before - w.released_before AS remaining_before
                  FROM (SELECT s.*, s.amount - s.captured - s.released AS remaining,
                               lag(s.step) OVER of_hold AS step_before, lag(s.amount) OVER of_hold AS amount_before,
                               lag(s.captured) OVER of_hold AS captured_before,
                               lag(s.released) OVER of_hold AS released_before,
                               lag(s.capture_count) OVER of_hold AS count_before,
                               lag(s.held_until) OVER of_hold AS held_until_before,
                               lag(s.open_holds) OVER of_account AS open_before,
                               lag(e.next_due_at) OVER of_account AS due_before,
                               e.seq AS entry_seq, e.amount AS moved, e.type, e.executed_at, e.next_due_at,
                               e.lots_seq
                          FROM hold_step s
                          LEFT JOIN entry e
                            ON e.shard = $1 AND e.account_id = s.account_id AND e.seq = s.seq
                           AND e.held_seq = s.seq AND e.transaction_id = s.event_id
                         WHERE s.shard = $1
                        WINDOW of_hold AS (PARTITION BY s.hold_id ORDER BY s.step),
                               of_account AS (PARTITION BY s.account_id ORDER BY s.seq)) AS w) AS s
          LEFT JOIN hold h ON h.shard = $1 AND h.id = s.hold_id
         WHERE {" OR ".join(f"({condition})" for condition in _FAULTS)}
         ORDER BY s.hold_id, s.step""",
    "hold of an account": f"""
        SELECT format('hold %s', h.id),
               CASE WHEN s.step IS NULL THEN 'was never placed'
                    WHEN s.seq <> h.seq THEN format('was placed by seq %s, not %s', s.seq, h.seq)
                    WHEN a.wallet_id IS DISTINCT FROM h.wallet_id THEN 'its wallet is not its account''s'
                    ELSE format('its receiver, wallet %s of shard %s, does not exist',
                                h.receiver_wallet_id, h.receiver_shard) END
          FROM hold h
          LEFT JOIN hold_step s ON s.shard = $1 AND s.hold_id = h.id AND s.step = 1
          LEFT JOIN account a ON a.shard = $1 AND a.id = h.account_id AND a.wallet_kind = {USER}
          LEFT JOIN {_RECEIVER} ON true
         WHERE h.shard = $1
           AND (s.step IS NULL OR s.seq <> h.seq OR a.wallet_id IS DISTINCT FROM h.wallet_id
                OR (h.receiver_shard IS NOT NULL AND receiver.kind IS DISTINCT FROM {USER}))
         ORDER BY h.id""",
    "key of a hold": f"""
        SELECT CASE WHEN k.key IS NULL THEN format('step %s of hold %s', s.step, s.hold_id)
                    ELSE format('key %s of wallet %s', k.key, k.wallet_id) END,
               CASE WHEN k.key IS NULL THEN 'its key is missing'
                    WHEN s.hold_id IS NULL THEN 'says held, but it asked for no step of a hold'
                    WHEN h.id IS NULL
                    THEN format('asked for step %s of hold %s, which does not exist', s.step, s.hold_id)
                    WHEN (k.wallet_id, k.details ->> 'hold_id', (k.details ->> 'asset_id')::int)
                         IS DISTINCT FROM (h.wallet_id, s.hold_id::text, c.id)
                         OR (s.kind = {_PLACED} AND k.key IS DISTINCT FROM h.idempotency_key)
                    THEN format('is not the key of step %s of hold %s', s.step, s.hold_id)
                    ELSE format('its fingerprint is not what step %s of hold %s gives', s.step, s.hold_id) END
          FROM (SELECT * FROM idempotency_key
                 WHERE shard = $1 AND outcome = {OutcomeCode.HELD:d}
                   AND jsonb_typeof(details -> 'asset_id') = 'number') AS k
          FULL JOIN (SELECT * FROM hold_step
                      WHERE shard = $1 AND kind IN ({_PLACED}, {_ADJUSTED}, {_VOIDED})
                        -- What was voided by the closing of its wallet is named by that key.
                        AND (kind <> {_VOIDED} OR hold_id::text NOT IN (
                             SELECT {named_by("closing", "voided")}
                               FROM idempotency_key closing
                              WHERE closing.shard = $1 AND closing.outcome = {CHANGED}))) AS s
            ON s.event_id = k.transaction_id
          LEFT JOIN hold h ON h.shard = $1 AND h.id = s.hold_id
          LEFT JOIN account a ON a.shard = $1 AND a.id = h.account_id
          LEFT JOIN asset c ON c.id = a.asset_id
          LEFT JOIN {_RECEIVER} ON true
          LEFT JOIN ({NOTES}) AS note ON note.transaction_id = h.id
         WHERE k.key IS NULL OR s.hold_id IS NULL
            OR (k.wallet_id, k.details ->> 'hold_id', (k.details ->> 'asset_id')::int)
               IS DISTINCT FROM (h.wallet_id, s.hold_id::text, c.id)
            OR (s.kind = {_PLACED} AND k.key IS DISTINCT FROM h.idempotency_key)
            OR ({_OTHER})
         ORDER BY 1""",
}
"""Each returns (row, fault) for a shard, as all checks of `verify` do."""
