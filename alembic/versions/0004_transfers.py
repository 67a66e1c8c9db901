"""Transfers between owners: two transactions, each balanced against a clearing stripe, each naming the other.

- `wallet.kind` 3 is a clearing stripe; transaction types 4 and 5 are the halves, outcomes 4 and 5 the refusals.
- The law of transactions refuses a half without its other half, in one statement.
- `asset_setting` says whether owners may transfer an asset: rows are added, the last one holds.

It runs beside servers of the version before: new columns may be null, and the CHECKs that are replaced only allow more.
These come first, outside the migration's transaction, one table at a time; the next run begins with them again.

Revision ID: 0004
Revises: 0003
"""

import sqlalchemy as sa
from alembic import context, op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

COUNTERPART = (
    "(type IN (4, 5)) = (counterpart_id IS NOT NULL) AND (counterpart_id IS NULL) = (counterpart_shard IS NULL)"
)

# (table, name, condition, condition before): a constraint that is replaced, or is new where there was none.
CHECKS = (
    ("wallet", "kind", "kind IN (1, 2, 3)", "kind IN (1, 2)"),
    ("transaction", "type", "type BETWEEN 1 AND 5", "type IN (1, 2, 3)"),
    ("transaction", "counterpart", COUNTERPART, None),
    ("transaction_shape", "wallet_kind", "wallet_kind IN (1, 2, 3)", "wallet_kind IN (1, 2)"),
    ("idempotency_key", "outcome", "outcome BETWEEN 1 AND 5", "outcome IN (1, 2, 3)"),
)

# (type, wallet_kind, sign): what an owner sends goes to a clearing stripe, and what one receives comes from one.
SHAPES = ((4, 1, -1), (4, 3, 1), (5, 1, 1), (5, 3, -1))

# Rows that only this version makes.
OWN_ROWS = (
    ("wallet", "kind = 3"),
    ("transaction", "type IN (4, 5)"),
    ("idempotency_key", "outcome IN (4, 5)"),
    ("asset_setting", "true"),
)

# As in 0003: look-ups are fences, and temporary tables come last.
LAW_SETTINGS = "SET search_path FROM CURRENT SET enable_sort = off SET enable_incremental_sort = off SET jit = off"
OWN_TABLES_FIRST = "SELECT set_config('search_path', quote_ident(current_schema()) || ', pg_temp', true)"


def owners_leg(transaction: str) -> str:
    """Return a subquery: what the legs of a transaction move, and in which asset."""
    return f"""
           SELECT max(e.amount) AS amount, min(a.asset_id) AS asset_id
             FROM (SELECT * FROM entry e
                    WHERE e.shard = {transaction}.shard
                      AND e.transaction_id BETWEEN {transaction}.id AND {transaction}.id
                    ORDER BY e.transaction_id) AS e
            CROSS JOIN LATERAL (
                  SELECT a.asset_id FROM account a
                   WHERE a.shard = e.shard AND a.id BETWEEN e.account_id AND e.account_id
                   ORDER BY a.id LIMIT 1) AS a"""


TRANSACTION_LAW = f"""
CREATE OR REPLACE FUNCTION transaction_law() RETURNS trigger LANGUAGE plpgsql {LAW_SETTINGS} AS $$
DECLARE
    broken record;
BEGIN
    SELECT t.shard, t.id
      INTO broken
      FROM inserted t
      LEFT JOIN LATERAL (
           SELECT e.seq FROM entry e
            WHERE e.shard = t.shard AND e.transaction_id BETWEEN t.id AND t.id
            ORDER BY e.transaction_id LIMIT 1) AS leg ON true
     WHERE leg.seq IS NULL
     LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'transaction % (shard %) has no legs', broken.id, broken.shard
            USING ERRCODE = 'check_violation', CONSTRAINT = 'transaction_law_legs',
                  HINT = 'Insert a transaction and its entries by one statement.';
    END IF;

    -- A transfer has two halves: what one owner sends, the other receives. Nothing else pays for this part.
    IF NOT EXISTS (SELECT FROM inserted t WHERE t.counterpart_id IS NOT NULL) THEN
        RETURN NULL;
    END IF;
    SELECT t.shard, t.id
      INTO broken
      FROM inserted t
      LEFT JOIN LATERAL (
           SELECT * FROM transaction o
            WHERE o.shard = t.counterpart_shard AND o.id BETWEEN t.counterpart_id AND t.counterpart_id
            ORDER BY o.id LIMIT 1) AS o ON true
     CROSS JOIN LATERAL ({owners_leg("t")}) AS own
     CROSS JOIN LATERAL ({owners_leg("o")}) AS other
     WHERE t.counterpart_id IS NOT NULL
       AND (o.id IS NULL OR o.type = t.type OR (o.shard, o.wallet_id) = (t.shard, t.wallet_id)
            OR (o.counterpart_shard, o.counterpart_id) IS DISTINCT FROM (t.shard, t.id)
            OR (own.amount, own.asset_id) IS DISTINCT FROM (other.amount, other.asset_id))
     LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'transaction % (shard %) is a transfer without its other half', broken.id, broken.shard
            USING ERRCODE = 'check_violation', CONSTRAINT = 'transaction_law_halves',
                  HINT = 'Insert both halves, which name each other and move the same, by one statement.';
    END IF;
    RETURN NULL;
END
$$
"""

ASSET_SETTING_LAW = f"""
CREATE FUNCTION asset_setting_law() RETURNS trigger LANGUAGE plpgsql {LAW_SETTINGS} AS $$
DECLARE
    broken record;
BEGIN
    SELECT n.asset_id, n.step
      INTO broken
      FROM inserted n
      LEFT JOIN LATERAL (
           SELECT p.step FROM asset_setting p
            WHERE p.asset_id = n.asset_id AND p.step BETWEEN n.step - 1 AND n.step - 1
            ORDER BY p.step LIMIT 1) AS p ON true
     WHERE n.step > 1 AND p.step IS NULL
     LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'setting % of asset % does not follow the one before it', broken.step, broken.asset_id
            USING ERRCODE = 'check_violation', CONSTRAINT = 'asset_setting_law_chain';
    END IF;
    RETURN NULL;
END
$$
"""


def upgrade() -> None:
    with op.get_context().autocommit_block():
        op.execute(
            "ALTER TABLE transaction ADD COLUMN IF NOT EXISTS counterpart_shard smallint,"
            " ADD COLUMN IF NOT EXISTS counterpart_id uuid"
        )
        for table, name, condition, _ in CHECKS:
            replace_check(table, name, condition)
    op.execute(f"INSERT INTO transaction_shape (type, wallet_kind, sign) VALUES {', '.join(map(str, SHAPES))}")
    create_asset_settings()
    op.execute(OWN_TABLES_FIRST)
    op.execute(TRANSACTION_LAW)
    op.execute(ASSET_SETTING_LAW)
    op.execute(
        "CREATE TRIGGER asset_setting_law AFTER INSERT ON asset_setting REFERENCING NEW TABLE AS inserted "
        "FOR EACH STATEMENT EXECUTE FUNCTION asset_setting_law()"
    )
    for trigger in ("refuse_change", "asset_setting_law"):
        op.execute(f"ALTER TABLE asset_setting ENABLE ALWAYS TRIGGER {trigger}")


def replace_check(table: str, name: str, condition: str) -> None:
    constraint = f"{table}_{name}_check"
    op.execute(
        f"ALTER TABLE {table} DROP CONSTRAINT IF EXISTS {constraint},"
        f" ADD CONSTRAINT {constraint} CHECK ({condition}) NOT VALID"
    )
    op.execute(f"ALTER TABLE {table} VALIDATE CONSTRAINT {constraint}")


def create_asset_settings() -> None:
    op.create_table(
        "asset_setting",
        sa.Column("asset_id", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("step", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("transfers", sa.SmallInteger(), nullable=False),
        sa.Column("set_at", sa.DateTime(timezone=True), server_default=sa.func.clock_timestamp(), nullable=False),
        sa.PrimaryKeyConstraint("asset_id", "step", name="asset_setting_pkey"),
        sa.ForeignKeyConstraint(["asset_id"], ["asset.id"], name="asset_setting_asset_id_fkey"),
        sa.CheckConstraint("step >= 1", name=op.f("asset_setting_step_check")),
        sa.CheckConstraint("transfers IN (1, 3)", name=op.f("asset_setting_transfers_check")),
        sa.CheckConstraint("isfinite(set_at)", name=op.f("asset_setting_set_at_check")),
    )
    op.execute(
        "CREATE TRIGGER refuse_change BEFORE UPDATE OR DELETE OR TRUNCATE ON asset_setting "
        "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
    )


def downgrade() -> None:
    # Before the look, in the order in which postings lock: what is under way ends first, and is seen.
    op.execute("LOCK TABLE wallet, transaction, idempotency_key, asset_setting IN ACCESS EXCLUSIVE MODE")
    for table, condition in OWN_ROWS:
        if op.get_bind().execute(sa.text(f"SELECT EXISTS (SELECT FROM {table} WHERE {condition})")).scalar():
            raise RuntimeError(f"Table {table} has rows that the version before cannot read, so it stays as it is.")
    op.execute(OWN_TABLES_FIRST)
    op.execute(context.script.get_revision("0003").module.TRANSACTION_LAW)
    op.drop_table("asset_setting")
    op.execute("DROP FUNCTION asset_setting_law()")
    op.execute("ALTER TABLE transaction_shape DISABLE TRIGGER refuse_change")
    op.execute("DELETE FROM transaction_shape WHERE type IN (4, 5)")
    op.execute("ALTER TABLE transaction_shape ENABLE ALWAYS TRIGGER refuse_change")
    for table, name, _, before in CHECKS:
        constraint = f"{table}_{name}_check"
        added = f", ADD CONSTRAINT {constraint} CHECK ({before})" if before else ""
        op.execute(f"ALTER TABLE {table} DROP CONSTRAINT {constraint}{added}")
    op.execute("ALTER TABLE transaction DROP COLUMN counterpart_shard, DROP COLUMN counterpart_id")
