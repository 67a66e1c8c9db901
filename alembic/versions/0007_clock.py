"""One clock for all, which a test clock may move forward in test mode and only there; and the sweeper's place.

- `ledger.mode` is live (1) or test (2). It is fixed when the database is made: one that has wallets is live.
- `clock_offset` says how far the test clock is ahead: rows are added, each further than the one before.
- Every time that the database fills in by itself comes from `wallet_now()`.
- `sweep` says up to when what ended is booked, shard by shard: a sweeper that starts goes on from there.

It runs beside servers of the version before, whose clock is the same in live mode.

Revision ID: 0007
Revises: 0006
"""

import sqlalchemy as sa
from alembic import context, op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

LIVE, TEST = 1, 2

# (table, column, default before): what is filled in by the clock.
FILLED = (
    ("asset", "created_at", "now()"),
    ("asset_setting", "set_at", "clock_timestamp()"),
    ("wallet", "opened_at", "clock_timestamp()"),
    ("account", "opened_at", "clock_timestamp()"),
    ("idempotency_key", "created_at", "clock_timestamp()"),
)

# As in 0003: look-ups are fences, and temporary tables come last.
LAW_SETTINGS = "SET search_path FROM CURRENT SET enable_sort = off SET enable_incremental_sort = off SET jit = off"
OWN_TABLES_FIRST = "SELECT set_config('search_path', quote_ident(current_schema()) || ', pg_temp', true)"

WALLET_NOW = """
CREATE FUNCTION wallet_now() RETURNS timestamptz LANGUAGE sql VOLATILE SET search_path FROM CURRENT AS $$
    SELECT clock_timestamp()
           + coalesce((SELECT make_interval(secs => o.seconds) FROM clock_offset o ORDER BY o.step DESC LIMIT 1), '0')
$$
"""

CLOCK_OFFSET_LAW = f"""
CREATE FUNCTION clock_offset_law() RETURNS trigger LANGUAGE plpgsql {LAW_SETTINGS} AS $$
DECLARE
    broken record;
BEGIN
    SELECT n.step, l.mode
      INTO broken
      FROM inserted n
     CROSS JOIN ledger l
      LEFT JOIN LATERAL (
           SELECT p.step, p.seconds FROM clock_offset p
            WHERE p.step BETWEEN n.step - 1 AND n.step - 1
            ORDER BY p.step LIMIT 1) AS p ON true
     WHERE l.mode <> {TEST} OR (n.step > 1 AND p.step IS NULL) OR n.seconds <= coalesce(p.seconds, 0)
     LIMIT 1;
    IF NOT FOUND THEN
        RETURN NULL;
    ELSIF broken.mode <> {TEST} THEN
        RAISE EXCEPTION 'the clock of a live ledger cannot be moved'
            USING ERRCODE = 'check_violation', CONSTRAINT = 'clock_offset_law_mode';
    END IF;
    RAISE EXCEPTION 'offset % of the clock does not follow the one before it, further ahead', broken.step
        USING ERRCODE = 'check_violation', CONSTRAINT = 'clock_offset_law_chain';
END
$$
"""


def upgrade() -> None:
    is_fresh = not op.get_bind().execute(sa.text("SELECT EXISTS (SELECT FROM wallet)")).scalar()
    mode = TEST if is_fresh and context.config.attributes["is_test_mode"] else LIVE
    # No row is changed: those that there are get what is the default at this moment.
    op.execute(f"ALTER TABLE ledger ADD COLUMN mode smallint NOT NULL DEFAULT {mode}")
    op.execute(
        f"ALTER TABLE ledger ALTER mode SET DEFAULT {LIVE}, ADD CONSTRAINT ledger_mode_check CHECK (mode IN (1, 2))"
    )
    op.create_table(
        "clock_offset",
        sa.Column("step", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("seconds", sa.BigInteger(), nullable=False),
        sa.Column("set_at", sa.DateTime(timezone=True), server_default=sa.func.clock_timestamp(), nullable=False),
        sa.PrimaryKeyConstraint("step", name="clock_offset_pkey"),
        sa.CheckConstraint("step >= 1", name=op.f("clock_offset_step_check")),
        sa.CheckConstraint("seconds BETWEEN 1 AND 3155760000", name=op.f("clock_offset_seconds_check")),
        sa.CheckConstraint("isfinite(set_at)", name=op.f("clock_offset_set_at_check")),
    )
    op.create_table(
        "sweep",
        sa.Column("shard", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("until", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("shard", "until", name="sweep_pkey"),
        sa.CheckConstraint("isfinite(until)", name=op.f("sweep_until_check")),
    )
    op.execute(OWN_TABLES_FIRST)
    op.execute(WALLET_NOW)
    op.execute(CLOCK_OFFSET_LAW)
    for table in ("clock_offset", "sweep"):
        op.execute(
            f"CREATE TRIGGER refuse_change BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
        )
        op.execute(f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER refuse_change")
    op.execute(
        "CREATE TRIGGER clock_offset_law AFTER INSERT ON clock_offset REFERENCING NEW TABLE AS inserted "
        "FOR EACH STATEMENT EXECUTE FUNCTION clock_offset_law()"
    )
    op.execute("ALTER TABLE clock_offset ENABLE ALWAYS TRIGGER clock_offset_law")
    for table, column, _ in FILLED:
        op.execute(f"ALTER TABLE {table} ALTER {column} SET DEFAULT wallet_now()")


def downgrade() -> None:
    op.execute("LOCK TABLE ledger, clock_offset IN ACCESS EXCLUSIVE MODE")
    if op.get_bind().execute(sa.text(f"SELECT EXISTS (SELECT FROM ledger WHERE mode = {TEST})")).scalar():
        raise RuntimeError("The ledger is in test mode, which the version before does not know, so it stays as it is.")
    for table, column, before in FILLED:
        op.execute(f"ALTER TABLE {table} ALTER {column} SET DEFAULT {before}")
    op.execute("DROP FUNCTION wallet_now()")
    op.drop_table("sweep")
    op.drop_table("clock_offset")
    op.execute("DROP FUNCTION clock_offset_law()")
    op.execute("ALTER TABLE ledger DROP COLUMN mode")
