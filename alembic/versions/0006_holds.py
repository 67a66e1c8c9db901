"""Holds: credits that are promised, on the one chain of their account.

- An entry may move nothing and change what is held. `held_after` is what open holds hold after it, `held_seq` the last
  entry that changed it, `next_due_at` when the first of them ends, `position` its number among those that move credits.
  All are NULL on an account that never had a hold: nothing is held, and an entry's position is its seq.
- `hold` is what was asked for; `hold_step` is its chain: placed, captured, adjusted, voided, expired. Each step belongs
  to one entry, and says which holds of the account are open after it.
- A CHECK keeps what is held within the balance, and the key of entries forbids forks: no two sessions can spend it
  twice.

It runs beside servers of the version before: where there is no hold, what they write keeps to the new laws. The CHECKs
and the index come first, outside the migration's transaction; the next run begins with them again.

Revision ID: 0006
Revises: 0005
"""

import sqlalchemy as sa
from alembic import context, op
from sqlalchemy.dialects.postgresql import ARRAY

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

TIMESTAMP = sa.DateTime(timezone=True)

# (table, name, condition, condition before): a constraint that is replaced, or is new where there was none.
CHECKS = (
    ("transaction", "type", "type BETWEEN 1 AND 6", "type BETWEEN 1 AND 5"),
    ("entry", "amount", "amount <> 0 OR held_after IS NOT NULL", "amount <> 0"),
    (
        "entry",
        "balance_after",
        "may_go_negative OR balance_after >= coalesce(held_after, 0)",
        "may_go_negative OR balance_after >= 0",
    ),
    ("entry", "held_after", "held_after IS NULL OR (held_after >= 0 AND NOT may_go_negative)", None),
    (
        "entry",
        "held_seq",
        "(held_seq IS NULL) = (held_after IS NULL) AND (held_seq IS NULL) = (position IS NULL)",
        None,
    ),
    ("entry", "next_due_at", "(next_due_at IS NOT NULL) = (coalesce(held_after, 0) > 0)", None),
    ("idempotency_key", "outcome", "outcome BETWEEN 1 AND 9 OR outcome = 50", "outcome BETWEEN 1 AND 6"),
)

# A captured hold is what an owner paid the treasury.
SHAPES = ((6, 1, -1), (6, 2, 1))

# Rows that only this version makes.
OWN_ROWS = (("hold", "true"), ("idempotency_key", "outcome BETWEEN 7 AND 50"))

# As in 0003: look-ups are fences, and temporary tables come last.
LAW_SETTINGS = "SET search_path FROM CURRENT SET enable_sort = off SET enable_incremental_sort = off SET jit = off"
OWN_TABLES_FIRST = "SELECT set_config('search_path', quote_ident(current_schema()) || ', pg_temp', true)"

ENTRY_LAW = f"""
CREATE OR REPLACE FUNCTION entry_law() RETURNS trigger LANGUAGE plpgsql {LAW_SETTINGS} AS $$
DECLARE
    broken record;
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
                    WHEN e.held_seq IS NULL AND p.held_seq IS NOT NULL
                    THEN 'what is held differs from the entry before it, without a step of a hold' END AS fault
          FROM inserted e
          LEFT JOIN LATERAL (
               SELECT * FROM account a
                WHERE a.shard = e.shard AND a.id BETWEEN e.account_id AND e.account_id
                ORDER BY a.id LIMIT 1) AS a ON true
          LEFT JOIN LATERAL (
               SELECT * FROM transaction t
                WHERE t.shard = e.shard AND t.id BETWEEN e.transaction_id AND e.transaction_id
                ORDER BY t.id LIMIT 1) AS t ON true
          LEFT JOIN LATERAL (
               SELECT * FROM entry p
                WHERE p.shard = e.shard AND p.account_id = e.account_id AND p.seq BETWEEN e.seq - 1 AND e.seq - 1
                ORDER BY p.seq LIMIT 1) AS p ON true
    ), asset_moved AS (
        SELECT leg.shard, leg.transaction_id, leg.asset_id, min(leg.type) AS type,
               count(*)::int AS leg_count, sum(leg.amount) AS excess, bool_and(leg.amount = 0) AS is_hold,
               -- A bit for each kind of wallet and sign: as many bits as legs, so that no two legs are alike.
               bit_or(1 << (2 * leg.wallet_kind + (leg.amount > 0)::int)) AS bits,
               min(CASE WHEN leg.fault IS NOT NULL
                        THEN format('entry (shard %s, account %s, seq %s) breaks the chain: %s',
                                    leg.shard, leg.account_id, leg.seq, leg.fault) END) AS fault
          FROM leg
         GROUP BY leg.shard, leg.transaction_id, leg.asset_id
    ), moved AS (
        SELECT m.shard, m.transaction_id, min(m.type) AS type, sum(m.leg_count) AS leg_count, bit_or(m.bits) AS bits,
               bool_and(m.is_hold) AS is_hold,
               min(m.fault) AS fault, min(m.excess) FILTER (WHERE m.excess <> 0) AS excess
          FROM asset_moved m
         GROUP BY m.shard, m.transaction_id
    ), judged AS MATERIALIZED (
        SELECT moved.*,
               (SELECT count(*)
                  FROM (SELECT FROM entry s
                         WHERE s.shard = moved.shard
                           AND s.transaction_id BETWEEN moved.transaction_id AND moved.transaction_id
                         ORDER BY s.transaction_id) AS s) AS all_leg_count,
               -- An entry that moves nothing stands alone: its step says what it is.
               CASE WHEN moved.is_hold THEN moved.leg_count = 1
                    ELSE (moved.type, moved.leg_count, moved.bits) IN (
                         SELECT s.type, count(*), bit_or(1 << (2 * s.wallet_kind + (s.sign > 0)::int))
                           FROM transaction_shape s GROUP BY s.type) END AS has_shape
          FROM moved
    )
    SELECT judged.*
      INTO broken
      FROM judged
     WHERE judged.fault IS NOT NULL OR judged.excess IS NOT NULL OR judged.leg_count <> judged.all_leg_count
        OR NOT judged.has_shape
     LIMIT 1;
    IF NOT FOUND THEN
        -- Accounts without holds pay nothing for this part.
        IF NOT EXISTS (SELECT FROM inserted e WHERE e.held_seq IS NOT NULL) THEN
            RETURN NULL;
        END IF;
        SELECT format('entry (shard %s, account %s, seq %s) breaks the chain: %s',
                      e.shard, e.account_id, e.seq,
                      CASE WHEN e.position <> coalesce(p.position, p.seq, 0) + (e.amount <> 0)::int
                           THEN 'position does not count the entries that move credits'
                           -- Changed by the step of a hold that belongs to this entry, else as it was.
                           WHEN e.held_seq = e.seq
                           THEN 'held_after is not what was held before it and the step of its hold'
                           ELSE 'what is held differs from the entry before it, without a step of a hold' END) AS fault
          INTO broken
          FROM inserted e
          LEFT JOIN LATERAL (
               SELECT * FROM entry p
                WHERE p.shard = e.shard AND p.account_id = e.account_id AND p.seq BETWEEN e.seq - 1 AND e.seq - 1
                ORDER BY p.seq LIMIT 1) AS p ON true
          LEFT JOIN LATERAL (
               SELECT * FROM hold_step s
                WHERE s.shard = e.shard AND s.account_id = e.account_id AND s.seq BETWEEN e.seq AND e.seq
                ORDER BY s.seq LIMIT 1) AS s ON true
         WHERE e.held_seq IS NOT NULL
           AND (e.position <> coalesce(p.position, p.seq, 0) + (e.amount <> 0)::int
                OR CASE WHEN e.held_seq = e.seq
                        THEN s.seq IS NULL OR s.event_id <> e.transaction_id OR (e.amount = 0 AND s.kind <> e.type)
                             OR e.held_after <> coalesce(p.held_after, 0) + s.change
                        ELSE e.amount = 0 OR (e.held_seq, e.held_after, e.next_due_at)
                                             IS DISTINCT FROM (p.held_seq, p.held_after, p.next_due_at) END)
         LIMIT 1;
        IF NOT FOUND THEN
            RETURN NULL;
        END IF;
        RAISE EXCEPTION '%', broken.fault
            USING ERRCODE = 'check_violation', CONSTRAINT = 'entry_law_chain';
    ELSIF broken.fault IS NOT NULL THEN
        RAISE EXCEPTION '%', broken.fault
            USING ERRCODE = 'check_violation', CONSTRAINT = 'entry_law_chain';
    ELSIF broken.excess IS NOT NULL THEN
        -- Double entry: the legs of a transaction sum to zero in each asset.
        RAISE EXCEPTION 'transaction % (shard %) is unbalanced by %',
            broken.transaction_id, broken.shard, broken.excess
            USING ERRCODE = 'check_violation', CONSTRAINT = 'entry_law_balanced';
    ELSIF broken.leg_count <> broken.all_leg_count THEN
        -- All legs of a transaction are in one statement: none is ever added to an old one.
        RAISE EXCEPTION 'transaction % (shard %) has legs from an earlier statement',
            broken.transaction_id, broken.shard
            USING ERRCODE = 'check_violation', CONSTRAINT = 'entry_law_legs';
    END IF;
    RAISE EXCEPTION 'transaction % (shard %) does not have the legs of type %',
        broken.transaction_id, broken.shard, broken.type
        USING ERRCODE = 'check_violation', CONSTRAINT = 'entry_law_shape',
              HINT = 'The table transaction_shape says which legs a type has.';
END
$$
"""

# The step of a hold: 51 placed, 52 captured, 53 adjusted, 54 voided, 55 expired.
HOLD_STEP_LAW = f"""
CREATE FUNCTION hold_step_law() RETURNS trigger LANGUAGE plpgsql {LAW_SETTINGS} AS $$
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
                THEN 'next_due_at of its entry is not the first end of an open hold' END AS fault
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
           SELECT min(last.held_until) AS next_due_at
             FROM unnest(s.open_holds) AS is_open(id)
            CROSS JOIN LATERAL (
                  SELECT l.held_until FROM hold_step l
                   WHERE l.shard = s.shard AND l.hold_id = is_open.id AND l.seq <= s.seq
                   ORDER BY l.step DESC LIMIT 1) AS last) AS due
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

HOLD_LAW = f"""
CREATE FUNCTION hold_law() RETURNS trigger LANGUAGE plpgsql {LAW_SETTINGS} AS $$
DECLARE
    broken record;
BEGIN
    SELECT h.shard, h.id
      INTO broken
      FROM inserted h
      LEFT JOIN LATERAL (
           SELECT a.wallet_id, a.wallet_kind FROM account a
            WHERE a.shard = h.shard AND a.id BETWEEN h.account_id AND h.account_id
            ORDER BY a.id LIMIT 1) AS a ON true
      LEFT JOIN LATERAL (
           SELECT s.seq FROM hold_step s
            WHERE s.shard = h.shard AND s.hold_id = h.id AND s.step BETWEEN 1 AND 1
            ORDER BY s.step LIMIT 1) AS s ON true
     WHERE a.wallet_kind IS DISTINCT FROM 1 OR a.wallet_id <> h.wallet_id OR s.seq IS DISTINCT FROM h.seq
     LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'hold % (shard %) is not that of an owner''s account, or was never placed',
            broken.id, broken.shard
            USING ERRCODE = 'check_violation', CONSTRAINT = 'hold_law_placed',
                  HINT = 'Insert a hold, its first step and its entry by one statement.';
    END IF;
    RETURN NULL;
END
$$
"""


def note_law(before: str) -> str:
    """Return the law of notes, which may be of holds now."""
    found = """t.id IS NULL"""
    hold = "(t.id IS NULL AND h.id IS NULL)"
    join = """      LEFT JOIN LATERAL (
           SELECT h.id FROM hold h
            WHERE h.shard = n.shard AND h.id BETWEEN n.transaction_id AND n.transaction_id
            ORDER BY h.id LIMIT 1) AS h ON true
      LEFT JOIN LATERAL (
           SELECT r.transaction_shard"""
    after = before.replace(found, hold).replace(
        """      LEFT JOIN LATERAL (
           SELECT r.transaction_shard""",
        join,
    )
    return after.replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION")


def upgrade() -> None:
    with op.get_context().autocommit_block():
        op.execute(
            "ALTER TABLE entry ADD COLUMN IF NOT EXISTS held_after bigint, ADD COLUMN IF NOT EXISTS held_seq bigint,"
            " ADD COLUMN IF NOT EXISTS position bigint, ADD COLUMN IF NOT EXISTS next_due_at timestamptz"
        )
        for table, name, condition, _ in CHECKS:
            constraint = f"{table}_{name}_check"
            op.execute(
                f"ALTER TABLE {table} DROP CONSTRAINT IF EXISTS {constraint},"
                f" ADD CONSTRAINT {constraint} CHECK ({condition}) NOT VALID"
            )
            op.execute(f"ALTER TABLE {table} VALIDATE CONSTRAINT {constraint}")
        op.execute("DROP INDEX IF EXISTS entry_shard_account_id_position_key")
        op.execute(
            "CREATE UNIQUE INDEX CONCURRENTLY entry_shard_account_id_position_key"
            " ON entry (shard, account_id, position) WHERE position IS NOT NULL AND amount <> 0"
        )
    op.execute(f"INSERT INTO transaction_shape (type, wallet_kind, sign) VALUES {', '.join(map(str, SHAPES))}")
    create_tables()
    op.execute(OWN_TABLES_FIRST)
    for law in (ENTRY_LAW, HOLD_STEP_LAW, HOLD_LAW, note_law(context.script.get_revision("0005").module.NOTE_LAW)):
        op.execute(law)
    for table in ("hold", "hold_step"):
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


def create_tables() -> None:
    op.create_table(
        "hold",
        sa.Column("shard", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("account_id", sa.BigInteger(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("wallet_id", sa.BigInteger(), nullable=False),
        sa.Column("receiver_shard", sa.SmallInteger()),
        sa.Column("receiver_wallet_id", sa.BigInteger()),
        sa.Column("idempotency_key", sa.Uuid(), nullable=False),
        sa.Column("description", sa.Text()),
        sa.Column("reference", sa.Text(collation="C")),
        sa.PrimaryKeyConstraint("shard", "id", name="hold_pkey"),
        sa.UniqueConstraint("shard", "account_id", "seq", name="hold_shard_account_id_seq_key"),
        sa.CheckConstraint("length(description) <= 500", name=op.f("hold_description_check")),
        sa.CheckConstraint("length(reference) <= 500", name=op.f("hold_reference_check")),
        sa.CheckConstraint("(receiver_shard IS NULL) = (receiver_wallet_id IS NULL)", name=op.f("hold_receiver_check")),
    )
    op.create_table(
        "hold_step",
        sa.Column("shard", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("hold_id", sa.Uuid(), nullable=False),
        sa.Column("step", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("kind", sa.SmallInteger(), nullable=False),
        sa.Column("event_id", sa.Uuid(), nullable=False),
        sa.Column("account_id", sa.BigInteger(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("captured", sa.BigInteger(), nullable=False),
        sa.Column("released", sa.BigInteger(), nullable=False),
        sa.Column("change", sa.BigInteger(), nullable=False),
        sa.Column("capture_count", sa.SmallInteger(), nullable=False),
        sa.Column("held_until", TIMESTAMP, nullable=False),
        sa.Column("at", TIMESTAMP, nullable=False),
        sa.Column("open_holds", ARRAY(sa.Uuid()), nullable=False),
        sa.PrimaryKeyConstraint("shard", "hold_id", "step", name="hold_step_pkey"),
        sa.UniqueConstraint("shard", "account_id", "seq", name="hold_step_shard_account_id_seq_key"),
        sa.CheckConstraint("step >= 1", name=op.f("hold_step_step_check")),
        sa.CheckConstraint("kind BETWEEN 51 AND 55", name=op.f("hold_step_kind_check")),
        sa.CheckConstraint(
            "captured >= 0 AND released >= 0 AND amount >= captured + released AND amount <= 1000000000000000000",
            name=op.f("hold_step_amount_check"),
        ),
        sa.CheckConstraint("capture_count BETWEEN 0 AND 50", name=op.f("hold_step_capture_count_check")),
        sa.CheckConstraint("cardinality(open_holds) <= 100", name=op.f("hold_step_open_holds_check")),
        sa.CheckConstraint("isfinite(held_until) AND isfinite(at)", name=op.f("hold_step_at_check")),
    )
    # What ends, by the time at which it does: the sweeper walks it once.
    op.create_index(
        "hold_step_shard_held_until_idx",
        "hold_step",
        ["shard", "held_until"],
        postgresql_where=sa.text("amount > captured + released"),
    )


def downgrade() -> None:
    # Before the look: what is under way ends first, and is seen.
    op.execute("LOCK TABLE transaction, entry, idempotency_key, hold, hold_step IN ACCESS EXCLUSIVE MODE")
    for table, condition in OWN_ROWS:
        if op.get_bind().execute(sa.text(f"SELECT EXISTS (SELECT FROM {table} WHERE {condition})")).scalar():
            raise RuntimeError(f"Table {table} has rows that the version before cannot read, so it stays as it is.")
    op.execute(OWN_TABLES_FIRST)
    op.execute(context.script.get_revision("0003").module.ENTRY_LAW)
    op.execute(
        context.script.get_revision("0005").module.NOTE_LAW.replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION")
    )
    op.drop_table("hold_step")
    op.drop_table("hold")
    op.execute("DROP FUNCTION hold_step_law()")
    op.execute("DROP FUNCTION hold_law()")
    op.execute("ALTER TABLE transaction_shape DISABLE TRIGGER refuse_change")
    op.execute("DELETE FROM transaction_shape WHERE type = 6")
    op.execute("ALTER TABLE transaction_shape ENABLE ALWAYS TRIGGER refuse_change")
    op.execute("DROP INDEX entry_shard_account_id_position_key")
    for table, name, _, before in CHECKS:
        constraint = f"{table}_{name}_check"
        added = f", ADD CONSTRAINT {constraint} CHECK ({before})" if before else ""
        op.execute(f"ALTER TABLE {table} DROP CONSTRAINT {constraint}{added}")
    op.execute(
        "ALTER TABLE entry DROP COLUMN held_after, DROP COLUMN held_seq, DROP COLUMN position, DROP COLUMN next_due_at"
    )
