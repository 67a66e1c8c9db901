"""Limits: what a wallet may hold, and how much it may move in a window of time.

- `limit_rule` is a chain of versions: of a wallet in an asset, or with wallet 0 in shard 0 of all wallets. A version
  takes the place of the one of the same flow and window; without a maximum there is none from then on. `in_force` says
  which versions hold after it.
- On accounts that came under a limit of what moves, each entry carries `flows`: what moved so far, kind by kind, as
  amounts and numbers, and since which entry that is counted. So what moved in a window is a difference of two entries.
  They are numeric: what moves in all has no bound.
- `entry_until` finds the last entry of an account up to a moment, `entry_reaching` the first by which so much moved:
  both by halving, for an owner's entries are in the order of their times.

It runs beside servers of the version before, until a limit is set. The CHECKs come first, outside the migration's
transaction; the next run begins with them again.

Revision ID: 0016
Revises: 0015
"""

import sqlalchemy as sa
from alembic import context, op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

TIMESTAMP = sa.DateTime(timezone=True)

# (table, name, condition, condition before)
CHECKS = (
    (
        "idempotency_key",
        "outcome",
        "outcome BETWEEN 1 AND 16 OR outcome IN (50, 51, 52, 53)",
        "outcome BETWEEN 1 AND 15 OR outcome IN (50, 51, 52)",
    ),
)

# Rows that only this version makes.
OWN_ROWS = (("limit_rule", "true"), ("idempotency_key", "outcome IN (16, 53)"))

# As in 0003: look-ups are fences, and temporary tables come last.
LAW_SETTINGS = "SET search_path FROM CURRENT SET enable_sort = off SET enable_incremental_sort = off SET jit = off"
OWN_TABLES_FIRST = "SELECT set_config('search_path', quote_ident(current_schema()) || ', pg_temp', true)"

# What an entry adds to `flows`: an amount and a number for each kind. A capture (6) counts as a spend (3).
MOVED = ",\n                          ".join(
    f"CASE WHEN e.amount <> 0 AND e.type IN ({types}) THEN {what} ELSE 0 END"
    for types in ("1", "2", "3, 6", "4", "5")
    for what in ("abs(e.amount)", "1")
)

# (text of the law of 0015, what it is now)
CHANGES = (
    (
        "                    WHEN e.lots_seq IS NULL AND p.lots_seq IS NOT NULL",
        """\
                    WHEN e.flows IS NULL AND p.flows IS NOT NULL
                    THEN 'it does not count what moved, as the entry before it does'
                    WHEN e.lots_seq IS NULL AND p.lots_seq IS NOT NULL""",
    ),
    (
        "SELECT p.seq, p.executed_at, p.balance_after, p.held_seq, p.lots_seq FROM entry p",
        "SELECT p.seq, p.executed_at, p.balance_after, p.held_seq, p.lots_seq, p.flows FROM entry p",
    ),
    (
        "    -- Nor do types that move no debts:",
        f"""    IF fault IS NULL AND EXISTS (SELECT FROM inserted e WHERE e.flows IS NOT NULL) THEN
        SELECT format('entry (shard %s, account %s, seq %s) breaks the chain: %s',
                      e.shard, e.account_id, e.seq, judged.fault)
          INTO fault
          FROM inserted e
          LEFT JOIN LATERAL (
               SELECT p.flows FROM entry p
                WHERE p.shard = e.shard AND p.account_id = e.account_id AND p.seq BETWEEN e.seq - 1 AND e.seq - 1
                ORDER BY p.seq LIMIT 1) AS p ON true
         CROSS JOIN LATERAL (
               SELECT CASE
                      WHEN e.may_go_negative THEN 'what moves is counted of owners only'
                      WHEN e.flows <> ARRAY(
                           SELECT coalesce(p.flows[n], 0) + added.amount
                             FROM unnest(ARRAY[
                          {MOVED}]::numeric[])
                                  WITH ORDINALITY AS added(amount, n)
                            ORDER BY n) || coalesce(p.flows[11], e.seq)
                      THEN 'flows are not what moved before it and by it' END AS fault
               OFFSET 0) AS judged
         WHERE e.flows IS NOT NULL AND judged.fault IS NOT NULL
         LIMIT 1;
    END IF;

    -- Nor do types that move no debts:""",
    ),
)

LIMIT_RULE_LAW = f"""
CREATE FUNCTION limit_rule_law() RETURNS trigger LANGUAGE plpgsql {LAW_SETTINGS} AS $$
DECLARE
    broken record;
BEGIN
    SELECT r.asset_id, r.shard, r.wallet_id, r.step,
           CASE WHEN r.step > 1 AND p.step IS NULL THEN 'the version before it is missing'
                WHEN p.set_at > r.set_at THEN 'it is older than the version before it'
                WHEN r.wallet_id = 0 AND r.shard <> 0 THEN 'what is of all wallets is in shard 0'
                WHEN r.wallet_id <> 0 AND w.kind IS DISTINCT FROM 1 THEN 'its wallet is no owner''s'
                WHEN r.in_force <> ARRAY(
                     SELECT l.step
                       FROM unnest(coalesce(p.in_force, '{{}}')) WITH ORDINALITY AS before(step, place)
                      CROSS JOIN LATERAL (
                            SELECT b.* FROM limit_rule b
                             WHERE b.asset_id = r.asset_id AND b.shard = r.shard AND b.wallet_id = r.wallet_id
                               AND b.step BETWEEN before.step AND before.step
                             ORDER BY b.step LIMIT 1) AS l
                      WHERE (l.flow, l.rolling_seconds, l.calendar_unit, l.time_zone)
                            IS DISTINCT FROM (r.flow, r.rolling_seconds, r.calendar_unit, r.time_zone)
                      ORDER BY before.place)
                      || CASE WHEN num_nonnulls(r.max_amount, r.max_count) > 0 THEN ARRAY[r.step] ELSE '{{}}' END
                THEN 'in_force is not what held before it, with it in the place of its like' END AS fault
      INTO broken
      FROM inserted r
      LEFT JOIN LATERAL (
           SELECT p.step, p.set_at, p.in_force FROM limit_rule p
            WHERE p.asset_id = r.asset_id AND p.shard = r.shard AND p.wallet_id = r.wallet_id
              AND p.step BETWEEN r.step - 1 AND r.step - 1
            ORDER BY p.step LIMIT 1) AS p ON true
      LEFT JOIN LATERAL (
           SELECT w.kind FROM wallet w
            WHERE w.shard = r.shard AND w.id BETWEEN r.wallet_id AND r.wallet_id
            ORDER BY w.id LIMIT 1) AS w ON true
     ORDER BY fault NULLS LAST
     LIMIT 1;
    IF broken.fault IS NOT NULL THEN
        RAISE EXCEPTION 'version % of the limits of wallet % (shard %) in asset %: %',
            broken.step, broken.wallet_id, broken.shard, broken.asset_id, broken.fault
            USING ERRCODE = 'check_violation', CONSTRAINT = 'limit_rule_law';
    END IF;
    RETURN NULL;
END
$$
"""

# Plain look-ups in a loop: a recursive query costs three times as much a turn.
ENTRY_UNTIL = f"""
CREATE FUNCTION entry_until(
    of_shard smallint, of_account bigint, low bigint, high bigint, moment timestamptz
) RETURNS bigint LANGUAGE plpgsql STABLE {LAW_SETTINGS} AS $$
DECLARE
    stride bigint := 1;
    middle bigint;
BEGIN
    -- From `low` on, which is not after the moment (0 is before all), in strides twice as long each time.
    LOOP
        EXIT WHEN low + stride > high
               OR (SELECT e.executed_at FROM entry e
                    WHERE e.shard = of_shard AND e.account_id = of_account
                      AND e.seq BETWEEN low + stride AND low + stride
                    ORDER BY e.seq LIMIT 1) > moment;
        low := low + stride;
        stride := stride * 2;
    END LOOP;
    high := least(high, low + stride - 1);
    WHILE low < high LOOP
        middle := (low + high + 1) / 2;
        IF (SELECT e.executed_at FROM entry e
             WHERE e.shard = of_shard AND e.account_id = of_account AND e.seq BETWEEN middle AND middle
             ORDER BY e.seq LIMIT 1) <= moment THEN
            low := middle;
        ELSE
            high := middle - 1;
        END IF;
    END LOOP;
    RETURN low;
END
$$
"""

ENTRY_REACHING = f"""
CREATE FUNCTION entry_reaching(
    of_shard smallint, of_account bigint, low bigint, high bigint, places int[], least_amount numeric,
    least_number numeric
) RETURNS bigint LANGUAGE plpgsql STABLE {LAW_SETTINGS} AS $$
DECLARE
    middle bigint;
BEGIN
    -- The first of low to high by which so much has moved, of the kinds at these places, by so many movements.
    WHILE low < high LOOP
        middle := (low + high) / 2;
        IF (SELECT (SELECT sum(e.flows[place]) FROM unnest(places) AS place) >= least_amount
               AND (SELECT sum(e.flows[place + 1]) FROM unnest(places) AS place) >= least_number
              FROM entry e
             WHERE e.shard = of_shard AND e.account_id = of_account AND e.seq BETWEEN middle AND middle
             ORDER BY e.seq LIMIT 1) THEN
            high := middle;
        ELSE
            low := middle + 1;
        END IF;
    END LOOP;
    RETURN low;
END
$$
"""


def entry_law(before: str) -> str:
    """Return the law of entries with this version's changes."""
    for old, new in CHANGES:
        assert before.count(old) == 1, old
        before = before.replace(old, new)
    return before


def upgrade() -> None:
    with op.get_context().autocommit_block():
        op.execute("ALTER TABLE entry ADD COLUMN IF NOT EXISTS flows numeric[]")
        for table, name, condition, _ in CHECKS:
            replace_check(table, name, condition)
    create_table()
    op.execute(OWN_TABLES_FIRST)
    op.execute(entry_law(context.script.get_revision("0015").module.ENTRY_LAW))
    for function in (LIMIT_RULE_LAW, ENTRY_UNTIL, ENTRY_REACHING):
        op.execute(function)
    context.script.get_revision("0015").module.guard("limit_rule")


def replace_check(table: str, name: str, condition: str) -> None:
    constraint = f"{table}_{name}_check"
    op.execute(
        f"ALTER TABLE {table} DROP CONSTRAINT IF EXISTS {constraint},"
        f" ADD CONSTRAINT {constraint} CHECK ({condition}) NOT VALID"
    )
    op.execute(f"ALTER TABLE {table} VALIDATE CONSTRAINT {constraint}")


def create_table() -> None:
    op.create_table(
        "limit_rule",
        sa.Column("asset_id", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("shard", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("wallet_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("step", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("flow", sa.SmallInteger(), nullable=False),
        sa.Column("rolling_seconds", sa.Integer()),
        sa.Column("calendar_unit", sa.SmallInteger()),
        sa.Column("time_zone", sa.Text(collation="C")),
        sa.Column("max_amount", sa.BigInteger()),
        sa.Column("max_count", sa.Integer()),
        sa.Column("enforcement", sa.SmallInteger(), nullable=False),
        sa.Column("in_force", sa.ARRAY(sa.Integer()), nullable=False),
        sa.Column("set_at", TIMESTAMP, nullable=False),
        sa.Column("actor_kind", sa.SmallInteger()),
        sa.Column("actor_name", sa.Text(collation="C")),
        sa.Column("request_id", sa.Text(collation="C")),
        sa.PrimaryKeyConstraint("asset_id", "shard", "wallet_id", "step", name="limit_rule_pkey"),
        sa.ForeignKeyConstraint(["asset_id"], ["asset.id"], name="limit_rule_asset_id_fkey"),
        sa.CheckConstraint("step >= 1", name=op.f("limit_rule_step_check")),
        sa.CheckConstraint("flow BETWEEN 1 AND 8", name=op.f("limit_rule_flow_check")),
        sa.CheckConstraint(
            "num_nonnulls(rolling_seconds, calendar_unit) = (flow <> 1)::int"
            " AND (calendar_unit IS NULL) = (time_zone IS NULL)",
            name=op.f("limit_rule_window_check"),
        ),
        sa.CheckConstraint(
            "rolling_seconds BETWEEN 1 AND 31622400",
            name=op.f("limit_rule_rolling_seconds_check"),
        ),
        sa.CheckConstraint("calendar_unit BETWEEN 1 AND 3", name=op.f("limit_rule_calendar_unit_check")),
        sa.CheckConstraint("length(time_zone) BETWEEN 1 AND 64", name=op.f("limit_rule_time_zone_check")),
        sa.CheckConstraint("max_amount BETWEEN 1 AND 1000000000000000000", name=op.f("limit_rule_max_amount_check")),
        sa.CheckConstraint(
            "max_count IS NULL OR (max_count >= 1 AND flow <> 1)", name=op.f("limit_rule_max_count_check")
        ),
        sa.CheckConstraint("enforcement IN (1, 2)", name=op.f("limit_rule_enforcement_check")),
        sa.CheckConstraint("cardinality(in_force) <= 20", name=op.f("limit_rule_in_force_check")),
        sa.CheckConstraint("isfinite(set_at)", name=op.f("limit_rule_set_at_check")),
    )


def downgrade() -> None:
    op.execute("LOCK TABLE entry, idempotency_key, limit_rule IN ACCESS EXCLUSIVE MODE")
    for table, condition in OWN_ROWS:
        if op.get_bind().execute(sa.text(f"SELECT EXISTS (SELECT FROM {table} WHERE {condition})")).scalar():
            raise RuntimeError(f"Table {table} has rows that the version before cannot read, so it stays as it is.")
    op.execute(OWN_TABLES_FIRST)
    op.execute(context.script.get_revision("0015").module.ENTRY_LAW)
    op.drop_table("limit_rule")
    op.execute("DROP FUNCTION limit_rule_law()")
    op.execute("DROP FUNCTION entry_until(smallint, bigint, bigint, bigint, timestamptz)")
    op.execute("DROP FUNCTION entry_reaching(smallint, bigint, bigint, bigint, int[], numeric, numeric)")
    for table, name, _, before in CHECKS:
        replace_check(table, name, before)
    op.execute("ALTER TABLE entry DROP COLUMN flows")
