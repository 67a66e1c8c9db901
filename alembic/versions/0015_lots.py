"""Lots: credits that expire, or are spent before others, on the one chain of their account.

- A lot is some of an account's credits: of one source, priority and campaign, with one end or none. It is named by its
  number in the account. `lot_step` is its chain: what was ever put into it, what remains, what open holds have of that.
  What is in no lot is the pool: it has no row, so accounts without lots pay nothing.
- Each step belongs to an entry. `lots_after` is what is in lots after it; `live_lots` which lots have something left,
  as they are spent, where that changed; and `lots_seq` the last entry where it did.
- `next_due_at` is when the first open hold ends, or the first lot of which something is in no hold.
- A step of a hold says what the hold has of which lots.
- What only the chains of owners have is checked by the law of entries, where it was three CHECKs: a statement reads and
  plans each of these anew, a law once a session.

It runs beside servers of the version before, until an asset gets lots. The CHECKs come first, outside the migration's
transaction; the next run begins with them again.

Revision ID: 0015
Revises: 0014
"""

import sqlalchemy as sa
from alembic import context, op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

TIMESTAMP = sa.DateTime(timezone=True)

OWNERS_ONLY = (
    "CASE WHEN num_nonnulls(held_seq, lots_seq) = 0"
    " THEN num_nonnulls(held_after, position, next_due_at, lots_after, live_lots) = 0 ELSE NOT may_go_negative END"
)

# (table, name, condition, condition before): None where there is no such constraint.
CHECKS = (
    ("asset_setting", "transfers", "transfers BETWEEN 1 AND 3", "transfers IN (1, 3)"),
    ("transaction", "type", "type BETWEEN 1 AND 11", "type BETWEEN 1 AND 10"),
    (
        "entry",
        "balance_after",
        "may_go_negative OR balance_after >= greatest(held_after, lots_after, 0)",
        "may_go_negative OR balance_after >= coalesce(held_after, 0)",
    ),
    ("entry", "owners_only", OWNERS_ONLY, None),
    ("entry", "held_after", None, "held_after IS NULL OR (held_after >= 0 AND NOT may_go_negative)"),
    (
        "entry",
        "held_seq",
        None,
        "(held_seq IS NULL) = (held_after IS NULL) AND (held_seq IS NULL) = (position IS NULL)",
    ),
    ("entry", "next_due_at", None, "(next_due_at IS NOT NULL) = (coalesce(held_after, 0) > 0)"),
    ("hold", "sources", "sources IN (1, 2)", None),
    ("hold_step", "earmarks", "coalesce(cardinality(lots), 0) = coalesce(cardinality(earmarks), 0)", None),
    (
        "idempotency_key",
        "outcome",
        "outcome BETWEEN 1 AND 15 OR outcome IN (50, 51, 52)",
        "outcome BETWEEN 1 AND 14 OR outcome IN (50, 51, 52)",
    ),
)

# What expires goes to the treasury.
SHAPES = ((11, 1, -1), (11, 2, 1))

# Rows that only this version makes.
OWN_ROWS = (
    ("asset_setting", "has_lots OR transfers = 2"),
    ("lot", "true"),
    ("hold", "sources IS NOT NULL"),
    ("idempotency_key", "outcome = 15"),
)

# As in 0003: look-ups are fences, and temporary tables come last.
LAW_SETTINGS = "SET search_path FROM CURRENT SET enable_sort = off SET enable_incremental_sort = off SET jit = off"
OWN_TABLES_FIRST = "SELECT set_config('search_path', quote_ident(current_schema()) || ', pg_temp', true)"


def owner(shard: str, wallet: str) -> str:
    """Return a look-up of whose wallet it is."""
    return (
        f"(SELECT w.owner_id FROM wallet w WHERE w.shard = {shard} AND w.id BETWEEN {wallet} AND {wallet}"
        " ORDER BY w.id LIMIT 1)"
    )


def last_step(account: str, lot: str, seq: str, columns: str) -> str:
    """Return a look-up of the last step of a lot, up to the entry `seq` of its account."""
    return (
        f"(SELECT {columns} FROM lot_step l WHERE l.shard = {account}.shard AND l.account_id = {account}.account_id"
        f" AND l.lot = {lot} AND l.seq <= {seq} ORDER BY l.step DESC LIMIT 1)"
    )


def lot_of(account: str, lot: str, columns: str) -> str:
    """Return a look-up of a lot of an account."""
    return (
        f"(SELECT {columns} FROM lot o WHERE o.shard = {account}.shard AND o.account_id = {account}.account_id"
        f" AND o.n BETWEEN {lot} AND {lot} ORDER BY o.n LIMIT 1)"
    )


def first_due(open_holds: str) -> str:
    """Return when the first hold of a list ends, or the first lot of which something is free, as of the entry `e`."""
    return f"""least(
                      (SELECT min(last.held_until)
                         FROM unnest({open_holds}) AS is_open(id)
                        CROSS JOIN LATERAL (
                              SELECT l.held_until FROM hold_step l
                               WHERE l.shard = e.shard AND l.hold_id = is_open.id AND l.seq <= e.seq
                               ORDER BY l.step DESC LIMIT 1) AS last),
                      (SELECT min(o.expires_at)
                         FROM (SELECT b.live_lots FROM entry b
                                WHERE b.shard = e.shard AND b.account_id = e.account_id
                                  AND b.seq BETWEEN e.lots_seq AND e.lots_seq
                                ORDER BY b.seq LIMIT 1) AS b
                        CROSS JOIN unnest(b.live_lots) AS live(n)
                        CROSS JOIN LATERAL {last_step("e", "live.n", "e.seq", "l.remaining, l.held")} AS last
                        CROSS JOIN LATERAL {lot_of("e", "live.n", "o.expires_at")} AS o
                        WHERE last.remaining > last.held))"""


OPEN_HOLDS = """(SELECT s.open_holds FROM hold_step s
                                      WHERE s.shard = e.shard AND s.account_id = e.account_id
                                        AND s.seq BETWEEN e.held_seq AND e.held_seq
                                      ORDER BY s.seq LIMIT 1)"""

ENTRY_LAW = f"""
CREATE OR REPLACE FUNCTION entry_law() RETURNS trigger LANGUAGE plpgsql {LAW_SETTINGS} AS $$
DECLARE
    broken record;
    fault text;
BEGIN
    WITH leg AS (
        -- The chain: each entry follows the one before it on the same account.
        SELECT e.shard, e.account_id, e.seq, e.transaction_id, e.type, e.amount, a.asset_id, a.wallet_kind,
               CASE WHEN a.id IS NULL THEN 'no such account in this shard'
                    WHEN a.may_go_negative <> e.may_go_negative THEN 'may_go_negative is not its account''s'
                    WHEN t.id IS NULL AND e.amount <> 0 THEN 'no such transaction in this shard'
                    WHEN (t.type, t.executed_at) <> (e.type, e.executed_at)
                    THEN 'type or time is not its transaction''s'
                    WHEN a.wallet_kind = 1 AND a.wallet_id <> t.wallet_id THEN 'its wallet is not its transaction''s'
                    WHEN e.seq > 1 AND p.seq IS NULL THEN 'the entry before it is missing'
                    -- Of owners only: a system's entry carries the time that its owner's chain asks for.
                    WHEN a.wallet_kind = 1 AND p.executed_at > e.executed_at
                    THEN 'it is older than the entry before it'
                    WHEN e.balance_after <> coalesce(p.balance_after, 0) + e.amount
                    THEN 'balance_after is not the balance before it plus amount'
                    WHEN e.type = 6 AND a.wallet_kind = 1 AND e.held_seq IS DISTINCT FROM e.seq
                    THEN 'it captures no hold'
                    WHEN e.type = 11 AND a.wallet_kind = 1 AND e.lots_seq IS NULL THEN 'it takes what expires of no lot'
                    WHEN e.held_seq IS NULL AND p.held_seq IS NOT NULL
                    THEN 'what is held differs from the entry before it, without a step of a hold'
                    WHEN e.lots_seq IS NULL AND p.lots_seq IS NOT NULL
                    THEN 'what is in lots differs from the entry before it, without a step of a lot' END AS fault
          FROM inserted e
          LEFT JOIN LATERAL (
               SELECT a.id, a.wallet_id, a.wallet_kind, a.asset_id, a.may_go_negative FROM account a
                WHERE a.shard = e.shard AND a.id BETWEEN e.account_id AND e.account_id
                ORDER BY a.id LIMIT 1) AS a ON true
          LEFT JOIN LATERAL (
               SELECT t.id, t.type, t.wallet_id, t.executed_at FROM transaction t
                WHERE t.shard = e.shard AND t.id BETWEEN e.transaction_id AND e.transaction_id
                ORDER BY t.id LIMIT 1) AS t ON true
          LEFT JOIN LATERAL (
               SELECT p.seq, p.executed_at, p.balance_after, p.held_seq, p.lots_seq FROM entry p
                WHERE p.shard = e.shard AND p.account_id = e.account_id AND p.seq BETWEEN e.seq - 1 AND e.seq - 1
                ORDER BY p.seq LIMIT 1) AS p ON true
    ), moved AS (
        SELECT leg.shard, leg.transaction_id, min(leg.type) AS type,
               count(*) AS leg_count, sum(leg.amount) AS excess, bool_and(leg.amount = 0) AS is_hold,
               min(leg.asset_id) <> max(leg.asset_id) AS is_mixed,
               -- A bit for each kind of wallet and sign: as many bits as legs, so that no two legs are alike.
               bit_or(1 << (2 * leg.wallet_kind + (leg.amount > 0)::int)) AS bits,
               min(CASE WHEN leg.fault IS NOT NULL
                        THEN format('entry (shard %s, account %s, seq %s) breaks the chain: %s',
                                    leg.shard, leg.account_id, leg.seq, leg.fault) END) AS fault
          FROM leg
         GROUP BY leg.shard, leg.transaction_id
    ), judged AS MATERIALIZED (
        SELECT moved.*,
               (SELECT count(*)
                  FROM (SELECT FROM entry s
                         WHERE s.shard = moved.shard
                           AND s.transaction_id BETWEEN moved.transaction_id AND moved.transaction_id
                         ORDER BY s.transaction_id) AS s) AS all_leg_count,
               -- An entry that moves nothing stands alone: its step says what it is.
               CASE WHEN moved.is_hold THEN moved.leg_count = 1
                    ELSE EXISTS (
                         SELECT FROM transaction_shape s
                          WHERE s.type BETWEEN moved.type AND moved.type
                          GROUP BY s.type, s.variant
                         HAVING count(*) = moved.leg_count
                                AND bit_or(1 << (2 * s.wallet_kind + (s.sign > 0)::int)) = moved.bits) END AS has_shape
          FROM moved
    )
    SELECT judged.*
      INTO broken
      FROM judged
     WHERE judged.fault IS NOT NULL OR judged.excess <> 0 OR judged.is_mixed
        OR judged.leg_count <> judged.all_leg_count OR NOT judged.has_shape
     LIMIT 1;
    IF broken.fault IS NOT NULL THEN
        RAISE EXCEPTION '%', broken.fault
            USING ERRCODE = 'check_violation', CONSTRAINT = 'entry_law_chain';
    ELSIF broken.excess <> 0 THEN
        -- Double entry: the legs of a transaction, all of one asset, sum to zero.
        RAISE EXCEPTION 'transaction % (shard %) is unbalanced by %',
            broken.transaction_id, broken.shard, broken.excess
            USING ERRCODE = 'check_violation', CONSTRAINT = 'entry_law_balanced';
    ELSIF broken.leg_count <> broken.all_leg_count THEN
        -- All legs of a transaction are in one statement: none is ever added to an old one.
        RAISE EXCEPTION 'transaction % (shard %) has legs from an earlier statement',
            broken.transaction_id, broken.shard
            USING ERRCODE = 'check_violation', CONSTRAINT = 'entry_law_legs';
    ELSIF NOT broken.has_shape THEN
        RAISE EXCEPTION 'transaction % (shard %) does not have the legs of type %',
            broken.transaction_id, broken.shard, broken.type
            USING ERRCODE = 'check_violation', CONSTRAINT = 'entry_law_shape',
                  HINT = 'The table transaction_shape says which legs a type has.';
    ELSIF broken.is_mixed THEN
        RAISE EXCEPTION 'transaction % (shard %) is unbalanced: its legs are of more than one asset',
            broken.transaction_id, broken.shard
            USING ERRCODE = 'check_violation', CONSTRAINT = 'entry_law_balanced';
    END IF;

    -- Accounts without holds and lots pay nothing for this part.
    IF EXISTS (SELECT FROM inserted e WHERE e.held_seq IS NOT NULL OR e.lots_seq IS NOT NULL) THEN
        SELECT format('entry (shard %s, account %s, seq %s) breaks the chain: %s',
                      e.shard, e.account_id, e.seq, judged.fault)
          INTO fault
          FROM inserted e
          LEFT JOIN LATERAL (
               SELECT p.seq, p.held_after, p.held_seq, p.position, p.next_due_at FROM entry p
                WHERE p.shard = e.shard AND p.account_id = e.account_id AND p.seq BETWEEN e.seq - 1 AND e.seq - 1
                ORDER BY p.seq LIMIT 1) AS p ON true
          LEFT JOIN LATERAL (
               SELECT s.seq, s.event_id, s.kind, s.change FROM hold_step s
                WHERE s.shard = e.shard AND s.account_id = e.account_id AND s.seq BETWEEN e.seq AND e.seq
                ORDER BY s.seq LIMIT 1) AS s ON true
         CROSS JOIN LATERAL (
               SELECT CASE
                      WHEN num_nonnulls(e.held_seq, e.held_after, e.position) NOT IN (0, 3)
                           OR num_nonnulls(e.lots_seq, e.lots_after) NOT IN (0, 2)
                      THEN 'it says half of what is held, or in lots'
                      WHEN e.held_after < 0 OR e.lots_after < 0 THEN 'less than nothing is held, or in lots'
                      WHEN e.position <> coalesce(p.position, p.seq, 0) + (e.amount <> 0)::int
                      THEN 'position does not count the entries that move credits'
                      -- Changed by the step of a hold that belongs to this entry, else as it was.
                      WHEN e.held_seq = e.seq
                      THEN CASE WHEN s.seq IS NULL OR s.event_id <> e.transaction_id
                                     OR (e.amount = 0 AND s.kind <> e.type)
                                     OR e.held_after <> coalesce(p.held_after, 0) + s.change
                                THEN 'held_after is not what was held before it and the step of its hold' END
                      WHEN e.amount = 0 OR (e.held_seq, e.held_after) IS DISTINCT FROM (p.held_seq, p.held_after)
                           OR (e.lots_seq IS NULL AND e.next_due_at IS DISTINCT FROM p.next_due_at)
                      THEN 'what is held differs from the entry before it, without a step of a hold' END AS fault
               OFFSET 0) AS judged
         WHERE judged.fault IS NOT NULL
         LIMIT 1;
    END IF;

    IF fault IS NULL AND EXISTS (SELECT FROM inserted e WHERE e.lots_seq IS NOT NULL) THEN
        SELECT format('entry (shard %s, account %s, seq %s) breaks the chain: %s',
                      e.shard, e.account_id, e.seq, judged.fault)
          INTO fault
          FROM inserted e
          LEFT JOIN LATERAL (
               SELECT p.next_due_at, p.lots_after, p.lots_seq FROM entry p
                WHERE p.shard = e.shard AND p.account_id = e.account_id AND p.seq BETWEEN e.seq - 1 AND e.seq - 1
                ORDER BY p.seq LIMIT 1) AS p ON true
         CROSS JOIN LATERAL (
               SELECT coalesce(sum(s.change), 0) AS change, count(*) AS step_count,
                      -- A lot that has something left for the first time, or again; or nothing from now on.
                      coalesce(bool_or(s.change <> 0 AND s.remaining IN (0, s.change)), false) AS is_listed,
                      min(o.expires_at) FILTER (WHERE s.remaining > s.held) AS ends,
                      max(coalesce(o.expires_at, 'infinity')) AS last_end
                 FROM (SELECT s.* FROM lot_step s
                        WHERE s.shard = e.shard AND s.account_id = e.account_id AND s.seq BETWEEN e.seq AND e.seq
                        ORDER BY s.seq) AS s
                CROSS JOIN LATERAL {lot_of("s", "s.lot", "o.expires_at")} AS o) AS lots
         CROSS JOIN LATERAL (
               SELECT CASE
                      WHEN e.lots_after <> coalesce(p.lots_after, 0) + lots.change
                      THEN 'lots_after is not what was in lots before it and the steps of its lots'
                      WHEN e.live_lots IS NULL AND (lots.is_listed OR e.lots_seq IS DISTINCT FROM p.lots_seq)
                      THEN 'it does not say which lots have something left'
                      WHEN e.live_lots IS NOT NULL AND (e.lots_seq <> e.seq OR e.live_lots <> ARRAY(
                           SELECT live.n
                             FROM (SELECT unnest(b.live_lots) AS n
                                     FROM (SELECT b.live_lots FROM entry b
                                            WHERE b.shard = e.shard AND b.account_id = e.account_id
                                              AND b.seq BETWEEN p.lots_seq AND p.lots_seq
                                            ORDER BY b.seq LIMIT 1) AS b
                                    UNION
                                   SELECT s.lot FROM lot_step s
                                    WHERE s.shard = e.shard AND s.account_id = e.account_id
                                      AND s.seq BETWEEN e.seq AND e.seq) AS live
                            CROSS JOIN LATERAL {last_step("e", "live.n", "e.seq", "l.remaining")} AS last
                            CROSS JOIN LATERAL {lot_of("e", "live.n", "o.priority, o.expires_at")} AS o
                            WHERE last.remaining > 0
                            ORDER BY o.priority, o.expires_at NULLS LAST, live.n))
                      THEN 'live_lots are not those that have something left, as they are spent'
                      WHEN e.type = 11 AND (lots.step_count <> 1 OR lots.change <> e.amount)
                      THEN 'it takes what expires of no lot, or of several'
                      WHEN e.type = 11 AND lots.last_end > e.executed_at THEN 'it takes what has not expired'
                      -- No later than what this entry changes; and later than before only where all of them say so.
                      WHEN e.next_due_at IS NOT DISTINCT FROM p.next_due_at
                      THEN CASE WHEN lots.ends < coalesce(e.next_due_at, 'infinity')
                                THEN 'next_due_at is later than the end of a lot' END
                      WHEN e.held_seq IS DISTINCT FROM e.seq AND e.next_due_at IS DISTINCT FROM {first_due(OPEN_HOLDS)}
                      THEN 'next_due_at is not the first end of an open hold or a lot' END AS fault
               OFFSET 0) AS judged
         WHERE e.lots_seq IS NOT NULL AND judged.fault IS NOT NULL
         LIMIT 1;
    END IF;

    -- Nor do types that move no debts: the shapes of those before 8 have none.
    IF fault IS NULL AND EXISTS (SELECT FROM inserted e WHERE e.type BETWEEN 8 AND 10) THEN
        SELECT format('entry (shard %s, account %s, seq %s) breaks the chain: %s',
                      e.shard, e.account_id, e.seq,
                      CASE WHEN e.balance_after > 0 THEN 'a debt is never above zero'
                           ELSE 'it is a debt of another owner' END)
          INTO fault
          FROM inserted e
         CROSS JOIN LATERAL (
               SELECT a.wallet_kind, a.wallet_id FROM account a
                WHERE a.shard = e.shard AND a.id BETWEEN e.account_id AND e.account_id
                ORDER BY a.id LIMIT 1) AS a
         CROSS JOIN LATERAL (
               SELECT t.wallet_id FROM transaction t
                WHERE t.shard = e.shard AND t.id BETWEEN e.transaction_id AND e.transaction_id
                ORDER BY t.id LIMIT 1) AS t
         WHERE a.wallet_kind = 4
           AND (e.balance_after > 0
                OR {owner("e.shard", "a.wallet_id")}
                   IS DISTINCT FROM {owner("e.shard", "t.wallet_id")})
         LIMIT 1;
    END IF;

    IF fault IS NOT NULL THEN
        RAISE EXCEPTION '%', fault USING ERRCODE = 'check_violation', CONSTRAINT = 'entry_law_chain';
    END IF;
    RETURN NULL;
END
$$
"""

# What a hold has of each lot by a step of it, as rows.
EARMARKS = "unnest({0}.lots, {0}.earmarks) AS {1}(lot, amount)"

HOLD_STEP_LAW = f"""
CREATE OR REPLACE FUNCTION hold_step_law() RETURNS trigger LANGUAGE plpgsql {LAW_SETTINGS} AS $$
DECLARE
    broken record;
BEGIN
    SELECT s.shard, s.hold_id, s.step,
           CASE WHEN h.id IS NULL OR h.account_id <> s.account_id THEN 'no such hold of this account'
                WHEN e.seq IS NULL OR e.held_seq <> s.seq OR e.transaction_id <> s.event_id OR e.executed_at <> s.at
                THEN 'it belongs to no entry'
                WHEN s.step > 1 AND p.step IS NULL THEN 'the step before it is missing'
                WHEN p.amount = p.captured + p.released THEN 'its hold is closed'
                WHEN s.change <> (s.amount - s.captured - s.released)
                                 - coalesce(p.amount - p.captured - p.released, 0)
                THEN 'change is not what it changes'
                WHEN s.capture_count <> coalesce(p.capture_count, 0) + (s.kind = 52)::int
                THEN 'capture_count does not count its captures'
                WHEN e.amount <> coalesce(p.captured, 0) - s.captured THEN 'its entry does not move what it captures'
                WHEN e.amount <> 0 AND e.type <> CASE WHEN h.receiver_shard IS NULL THEN 6 ELSE 4 END
                THEN 'its entry is not of the type that its hold is captured by'
                -- NULL where there is no step before it: then it is to be placed.
                WHEN CASE s.kind
                         WHEN 51 THEN s.step = 1 AND h.seq = s.seq AND s.amount > 0 AND s.captured = 0
                                      AND s.released = 0
                         WHEN 52 THEN s.amount = p.amount AND s.held_until = p.held_until AND s.captured > p.captured
                                      AND s.released IN (p.released, s.amount - s.captured)
                         WHEN 53 THEN s.released = p.released AND s.captured = p.captured
                         WHEN 54 THEN s.amount = p.amount AND s.captured = p.captured AND s.held_until = p.held_until
                                      AND s.amount = s.captured + s.released
                         ELSE s.amount = p.amount AND s.captured = p.captured AND s.held_until = p.held_until
                              AND s.amount = s.captured + s.released AND s.at >= s.held_until END IS NOT TRUE
                THEN 'it does not follow the step before it'
                WHEN s.open_holds <> CASE WHEN s.amount = s.captured + s.released
                                          THEN array_remove(coalesce(open.open_holds, '{{}}'), s.hold_id)
                                          WHEN s.step = 1 THEN coalesce(open.open_holds, '{{}}') || s.hold_id
                                          ELSE open.open_holds END
                THEN 'open_holds are not those before it and its own'
                WHEN e.next_due_at IS DISTINCT FROM due.next_due_at
                THEN 'next_due_at of its entry is not the first end of an open hold or a lot'
                WHEN s.lots IS NOT NULL
                     AND (SELECT sum(a.amount) > s.amount - s.captured - s.released OR min(a.amount) <= 0
                                 OR count(DISTINCT a.lot) <> count(*)
                            FROM {EARMARKS.format("s", "a")})
                THEN 'its earmarks are not a part of what it holds'
                -- The law of lots' steps compares the figures.
                WHEN (s.lots, s.earmarks) IS DISTINCT FROM (p.lots, p.earmarks)
                     AND EXISTS (SELECT FROM {EARMARKS.format("s", "a")}
                                   FULL JOIN {EARMARKS.format("p", "b")} ON b.lot = a.lot
                                  WHERE a.amount IS DISTINCT FROM b.amount
                                    AND NOT EXISTS (SELECT FROM lot_step l
                                                     WHERE l.shard = s.shard AND l.account_id = s.account_id
                                                       AND l.seq BETWEEN s.seq AND s.seq
                                                       AND l.lot = coalesce(a.lot, b.lot)))
                THEN 'a lot has no step for what it earmarks' END AS fault
      INTO broken
      FROM inserted s
      LEFT JOIN LATERAL (
           SELECT * FROM hold h WHERE h.shard = s.shard AND h.id BETWEEN s.hold_id AND s.hold_id
            ORDER BY h.id LIMIT 1) AS h ON true
      LEFT JOIN LATERAL (
           SELECT * FROM hold_step p
            WHERE p.shard = s.shard AND p.hold_id = s.hold_id AND p.step BETWEEN s.step - 1 AND s.step - 1
            ORDER BY p.step LIMIT 1) AS p ON true
      LEFT JOIN LATERAL (
           SELECT * FROM entry e
            WHERE e.shard = s.shard AND e.account_id = s.account_id AND e.seq BETWEEN s.seq AND s.seq
            ORDER BY e.seq LIMIT 1) AS e ON true
      LEFT JOIN LATERAL (
           SELECT b.held_seq FROM entry b
            WHERE b.shard = s.shard AND b.account_id = s.account_id AND b.seq BETWEEN s.seq - 1 AND s.seq - 1
            ORDER BY b.seq LIMIT 1) AS before ON true
      LEFT JOIN LATERAL (
           SELECT o.open_holds FROM hold_step o
            WHERE o.shard = s.shard AND o.account_id = s.account_id
              AND o.seq BETWEEN before.held_seq AND before.held_seq
            ORDER BY o.seq LIMIT 1) AS open ON true
     CROSS JOIN LATERAL (
           SELECT {first_due("s.open_holds")} AS next_due_at OFFSET 0) AS due
     ORDER BY fault NULLS LAST
     LIMIT 1;
    IF broken.fault IS NOT NULL THEN
        RAISE EXCEPTION 'step % of hold % (shard %): %', broken.step, broken.hold_id, broken.shard, broken.fault
            USING ERRCODE = 'check_violation', CONSTRAINT = 'hold_step_law';
    END IF;
    RETURN NULL;
END
$$
"""

LOT_LAW = f"""
CREATE FUNCTION lot_law() RETURNS trigger LANGUAGE plpgsql {LAW_SETTINGS} AS $$
DECLARE
    broken record;
BEGIN
    SELECT o.shard, o.account_id, o.n,
           CASE WHEN a.wallet_kind IS DISTINCT FROM 1 THEN 'its account is no owner''s'
                WHEN setting.has_lots IS NOT TRUE THEN 'its asset has no lots'
                WHEN o.n > 1 AND before.n IS NULL THEN 'the lot before it is missing'
                WHEN (SELECT s.seq FROM lot_step s
                       WHERE s.shard = o.shard AND s.account_id = o.account_id AND s.lot = o.n
                         AND s.step BETWEEN 1 AND 1
                       ORDER BY s.step LIMIT 1) IS DISTINCT FROM o.seq
                THEN 'it has no first step'
                WHEN e.amount <= 0 OR e.executed_at <> o.granted_at
                     OR o.origin_id IS DISTINCT FROM CASE WHEN o.expires_at IS NOT NULL THEN e.transaction_id END
                THEN 'it is not of the transaction that granted it' END AS fault
      INTO broken
      FROM inserted o
      LEFT JOIN LATERAL (
           SELECT a.wallet_kind, a.asset_id FROM account a
            WHERE a.shard = o.shard AND a.id BETWEEN o.account_id AND o.account_id
            ORDER BY a.id LIMIT 1) AS a ON true
      LEFT JOIN LATERAL (
           SELECT s.has_lots FROM asset_setting s
            WHERE s.asset_id = a.asset_id
            ORDER BY s.step DESC LIMIT 1) AS setting ON true
      LEFT JOIN LATERAL (
           SELECT b.n FROM lot b
            WHERE b.shard = o.shard AND b.account_id = o.account_id AND b.n BETWEEN o.n - 1 AND o.n - 1
            ORDER BY b.n LIMIT 1) AS before ON true
      LEFT JOIN LATERAL (
           SELECT e.transaction_id, e.amount, e.executed_at FROM entry e
            WHERE e.shard = o.shard AND e.account_id = o.account_id AND e.seq BETWEEN o.seq AND o.seq
            ORDER BY e.seq LIMIT 1) AS e ON true
     ORDER BY fault NULLS LAST
     LIMIT 1;
    IF broken.fault IS NOT NULL THEN
        RAISE EXCEPTION 'lot % of account % (shard %): %', broken.n, broken.account_id, broken.shard, broken.fault
            USING ERRCODE = 'check_violation', CONSTRAINT = 'lot_law';
    END IF;
    RETURN NULL;
END
$$
"""

LOT_STEP_LAW = f"""
CREATE FUNCTION lot_step_law() RETURNS trigger LANGUAGE plpgsql {LAW_SETTINGS} AS $$
DECLARE
    broken record;
BEGIN
    SELECT s.shard, s.account_id, s.lot, s.step,
           CASE WHEN {lot_of("s", "s.lot", "o.n")} IS NULL THEN 'no such lot of this account'
                WHEN e.lots_seq IS NULL THEN 'it belongs to no entry'
                WHEN (s.change > 0 AND e.amount <= 0) OR (s.change < 0 AND e.amount >= 0)
                THEN 'its entry does not move what it changes'
                WHEN s.step > 1 AND p.step IS NULL THEN 'the step before it is missing'
                WHEN p.seq >= s.seq THEN 'it does not come after the step before it'
                WHEN s.remaining <> coalesce(p.remaining, 0) + s.change
                THEN 'remaining is not what remained before it and its change'
                WHEN s.granted <> coalesce(p.granted, 0) + s.change AND (s.step = 1 OR s.granted <> p.granted)
                THEN 'granted is not what was granted before it, with its change or without'
                WHEN s.held - coalesce(p.held, 0)
                     <> coalesce((SELECT sum(h.amount) FROM {EARMARKS.format("held", "h")} WHERE h.lot = s.lot), 0)
                      - coalesce((SELECT sum(h.amount) FROM {EARMARKS.format("before", "h")} WHERE h.lot = s.lot), 0)
                THEN 'held does not follow what a hold earmarks' END AS fault
      INTO broken
      FROM inserted s
      LEFT JOIN LATERAL (
           SELECT e.lots_seq, e.amount FROM entry e
            WHERE e.shard = s.shard AND e.account_id = s.account_id AND e.seq BETWEEN s.seq AND s.seq
            ORDER BY e.seq LIMIT 1) AS e ON true
      LEFT JOIN LATERAL (
           SELECT p.step, p.seq, p.remaining, p.granted, p.held FROM lot_step p
            WHERE p.shard = s.shard AND p.account_id = s.account_id AND p.lot = s.lot
              AND p.step BETWEEN s.step - 1 AND s.step - 1
            ORDER BY p.step LIMIT 1) AS p ON true
      LEFT JOIN LATERAL (
           SELECT h.hold_id, h.step, h.lots, h.earmarks FROM hold_step h
            WHERE h.shard = s.shard AND h.account_id = s.account_id AND h.seq BETWEEN s.seq AND s.seq
            ORDER BY h.seq LIMIT 1) AS held ON true
      LEFT JOIN LATERAL (
           SELECT b.lots, b.earmarks FROM hold_step b
            WHERE b.shard = s.shard AND b.hold_id = held.hold_id AND b.step BETWEEN held.step - 1 AND held.step - 1
            ORDER BY b.step LIMIT 1) AS before ON true
     ORDER BY fault NULLS LAST
     LIMIT 1;
    IF broken.fault IS NOT NULL THEN
        RAISE EXCEPTION 'step % of lot % of account % (shard %): %',
            broken.step, broken.lot, broken.account_id, broken.shard, broken.fault
            USING ERRCODE = 'check_violation', CONSTRAINT = 'lot_step_law';
    END IF;
    RETURN NULL;
END
$$
"""

ASSET_SETTING_LAW = f"""
CREATE OR REPLACE FUNCTION asset_setting_law() RETURNS trigger LANGUAGE plpgsql {LAW_SETTINGS} AS $$
DECLARE
    broken record;
BEGIN
    SELECT n.asset_id, n.step, p.has_lots > n.has_lots AS loses_lots
      INTO broken
      FROM inserted n
      LEFT JOIN LATERAL (
           SELECT p.step, p.has_lots FROM asset_setting p
            WHERE p.asset_id = n.asset_id AND p.step BETWEEN n.step - 1 AND n.step - 1
            ORDER BY p.step LIMIT 1) AS p ON true
     WHERE n.step > 1 AND (p.step IS NULL OR p.has_lots > n.has_lots)
     LIMIT 1;
    IF broken.loses_lots THEN
        RAISE EXCEPTION 'asset % has lots for ever', broken.asset_id
            USING ERRCODE = 'check_violation', CONSTRAINT = 'asset_setting_law_lots';
    ELSIF FOUND THEN
        RAISE EXCEPTION 'setting % of asset % does not follow the one before it', broken.step, broken.asset_id
            USING ERRCODE = 'check_violation', CONSTRAINT = 'asset_setting_law_chain';
    END IF;
    RETURN NULL;
END
$$
"""

COLUMNS = {
    "entry": ("lots_after bigint", "lots_seq bigint", "live_lots integer[]"),
    "hold": ("sources smallint",),
    "hold_step": ("lots integer[]", "earmarks bigint[]"),
    "asset_setting": ("has_lots boolean NOT NULL DEFAULT false",),
}


def upgrade() -> None:
    with op.get_context().autocommit_block():
        for table, columns in COLUMNS.items():
            op.execute(f"ALTER TABLE {table} {', '.join(f'ADD COLUMN IF NOT EXISTS {each}' for each in columns)}")
        for table, name, condition, _ in CHECKS:
            if condition is not None:
                replace_check(table, name, condition)
    values = ", ".join(map(str, SHAPES))
    op.execute(f"INSERT INTO transaction_shape (type, wallet_kind, sign) VALUES {values}")
    create_tables()
    op.execute(OWN_TABLES_FIRST)
    for law in (ENTRY_LAW, HOLD_STEP_LAW, LOT_LAW, LOT_STEP_LAW, ASSET_SETTING_LAW):
        op.execute(law)
    for table in ("lot", "lot_step"):
        guard(table)
    # What the law of entries says now.
    for table, name, condition, _ in CHECKS:
        if condition is None:
            op.execute(f"ALTER TABLE {table} DROP CONSTRAINT {table}_{name}_check")


def replace_check(table: str, name: str, condition: str) -> None:
    constraint = f"{table}_{name}_check"
    op.execute(
        f"ALTER TABLE {table} DROP CONSTRAINT IF EXISTS {constraint},"
        f" ADD CONSTRAINT {constraint} CHECK ({condition}) NOT VALID"
    )
    op.execute(f"ALTER TABLE {table} VALIDATE CONSTRAINT {constraint}")


def create_tables() -> None:
    op.create_table(
        "lot",
        sa.Column("shard", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("account_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("n", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("source", sa.SmallInteger(), nullable=False),
        sa.Column("priority", sa.SmallInteger(), nullable=False),
        sa.Column("campaign", sa.Text(collation="C")),
        sa.Column("expires_at", TIMESTAMP),
        sa.Column("granted_at", TIMESTAMP, nullable=False),
        sa.Column("origin_id", sa.Uuid()),
        sa.PrimaryKeyConstraint("shard", "account_id", "n", name="lot_pkey"),
        sa.CheckConstraint("n >= 1", name=op.f("lot_n_check")),
        sa.CheckConstraint("source IN (1, 2)", name=op.f("lot_source_check")),
        sa.CheckConstraint("priority BETWEEN 0 AND 100", name=op.f("lot_priority_check")),
        sa.CheckConstraint("length(campaign) BETWEEN 1 AND 100", name=op.f("lot_campaign_check")),
        sa.CheckConstraint("isfinite(expires_at) AND isfinite(granted_at)", name=op.f("lot_expires_at_check")),
    )
    # What ends, by the time at which it does: the sweeper walks it once.
    op.create_index(
        "lot_shard_expires_at_idx", "lot", ["shard", "expires_at"], postgresql_where=sa.text("expires_at IS NOT NULL")
    )
    op.create_table(
        "lot_step",
        sa.Column("shard", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("account_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("lot", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("step", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("place", sa.SmallInteger(), nullable=False),
        sa.Column("change", sa.BigInteger(), nullable=False),
        sa.Column("granted", sa.BigInteger(), nullable=False),
        sa.Column("remaining", sa.BigInteger(), nullable=False),
        sa.Column("held", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("shard", "account_id", "lot", "step", name="lot_step_pkey"),
        sa.UniqueConstraint("shard", "account_id", "seq", "place", name="lot_step_shard_account_id_seq_place_key"),
        sa.CheckConstraint("step >= 1 AND place >= 1", name=op.f("lot_step_step_check")),
        sa.CheckConstraint(
            "held >= 0 AND remaining >= held AND granted >= remaining AND granted <= 1000000000000000000",
            name=op.f("lot_step_remaining_check"),
        ),
    )


def guard(table: str) -> None:
    op.execute(
        f"CREATE TRIGGER refuse_change BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
        "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
    )
    op.execute(
        f"CREATE TRIGGER {table}_law AFTER INSERT ON {table} REFERENCING NEW TABLE AS inserted "
        f"FOR EACH STATEMENT EXECUTE FUNCTION {table}_law()"
    )
    for trigger in ("refuse_change", f"{table}_law"):
        op.execute(f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER {trigger}")


def downgrade() -> None:
    op.execute("LOCK TABLE transaction, entry, idempotency_key, asset_setting, hold, lot IN ACCESS EXCLUSIVE MODE")
    for table, condition in OWN_ROWS:
        if op.get_bind().execute(sa.text(f"SELECT EXISTS (SELECT FROM {table} WHERE {condition})")).scalar():
            raise RuntimeError(f"Table {table} has rows that the version before cannot read, so it stays as it is.")
    op.execute(OWN_TABLES_FIRST)
    op.execute(context.script.get_revision("0010").module.ENTRY_LAW)
    for revision_before, name in (("0006", "HOLD_STEP_LAW"), ("0004", "ASSET_SETTING_LAW")):
        law = getattr(context.script.get_revision(revision_before).module, name)
        op.execute(law.replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION"))
    for table in ("lot_step", "lot"):
        op.drop_table(table)
        op.execute(f"DROP FUNCTION {table}_law()")
    op.execute("ALTER TABLE transaction_shape DISABLE TRIGGER refuse_change")
    op.execute("DELETE FROM transaction_shape WHERE type = 11")
    op.execute("ALTER TABLE transaction_shape ENABLE ALWAYS TRIGGER refuse_change")
    for table, name, _, before in CHECKS:
        constraint = f"{table}_{name}_check"
        added = f", ADD CONSTRAINT {constraint} CHECK ({before})" if before else ""
        op.execute(f"ALTER TABLE {table} DROP CONSTRAINT IF EXISTS {constraint}{added}")
    for table, columns in COLUMNS.items():
        op.execute(f"ALTER TABLE {table} {', '.join(f'DROP COLUMN {each.split()[0]}' for each in columns)}")
