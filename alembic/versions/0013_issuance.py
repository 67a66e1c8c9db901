"""What keys that may issue so much a day have issued, step by step.

It runs beside servers of the version before, which know no such keys.

Revision ID: 0013
Revises: 0012
"""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

# As in 0003: look-ups are fences, and temporary tables come last.
LAW_SETTINGS = "SET search_path FROM CURRENT SET enable_sort = off SET enable_incremental_sort = off SET jit = off"
OWN_TABLES_FIRST = "SELECT set_config('search_path', quote_ident(current_schema()) || ', pg_temp', true)"

ISSUANCE_LAW = f"""
CREATE FUNCTION issuance_law() RETURNS trigger LANGUAGE plpgsql {LAW_SETTINGS} AS $$
DECLARE
    broken record;
BEGIN
    SELECT i.actor_name, i.asset_id, i.day, i.step,
           CASE WHEN i.shard <> receipt_shard(i.actor_name) THEN 'it is in another shard than its own'
                WHEN t.type IS NULL OR t.type NOT IN (1, 2) THEN 'its transaction issues nothing'
                WHEN (n.actor_kind, n.actor_name) IS DISTINCT FROM (1::smallint, i.actor_name)
                THEN 'somebody else asked for its transaction'
                WHEN i.day <> (n.at AT TIME ZONE 'UTC')::date THEN 'its transaction is of another day'
                WHEN (i.amount, i.asset_id) IS DISTINCT FROM (own.amount, own.asset_id)
                THEN 'its amount is not what its transaction issues'
                WHEN i.step > 1 AND p.step IS NULL THEN 'the step before it is missing'
                WHEN i.issued_after <> coalesce(p.issued_after, 0) + i.amount
                THEN 'issued_after is not what was issued before and its amount' END AS fault
      INTO broken
      FROM inserted i
      LEFT JOIN LATERAL (
           SELECT p.step, p.issued_after FROM issuance p
            WHERE p.shard = i.shard AND p.actor_name = i.actor_name AND p.asset_id = i.asset_id AND p.day = i.day
              AND p.step BETWEEN i.step - 1 AND i.step - 1
            ORDER BY p.step LIMIT 1) AS p ON true
      LEFT JOIN LATERAL (
           SELECT t.type FROM transaction t
            WHERE t.shard = i.transaction_shard AND t.id BETWEEN i.transaction_id AND i.transaction_id
            ORDER BY t.id LIMIT 1) AS t ON true
      LEFT JOIN LATERAL (
           SELECT n.actor_kind, n.actor_name, n.at FROM transaction_note n
            WHERE n.shard = i.transaction_shard AND n.transaction_id BETWEEN i.transaction_id AND i.transaction_id
            ORDER BY n.transaction_id LIMIT 1) AS n ON true
     CROSS JOIN LATERAL (
           SELECT max(e.amount) AS amount, min(a.asset_id) AS asset_id
             FROM (SELECT * FROM entry e
                    WHERE e.shard = i.transaction_shard
                      AND e.transaction_id BETWEEN i.transaction_id AND i.transaction_id
                    ORDER BY e.transaction_id) AS e
            CROSS JOIN LATERAL (
                  SELECT a.asset_id FROM account a
                   WHERE a.shard = e.shard AND a.id BETWEEN e.account_id AND e.account_id
                   ORDER BY a.id LIMIT 1) AS a) AS own
     ORDER BY fault NULLS LAST
     LIMIT 1;
    IF broken.fault IS NOT NULL THEN
        RAISE EXCEPTION 'step % of what % issues of asset % on %: %',
            broken.step, broken.actor_name, broken.asset_id, broken.day, broken.fault
            USING ERRCODE = 'check_violation', CONSTRAINT = 'issuance_law';
    END IF;
    RETURN NULL;
END
$$
"""


def upgrade() -> None:
    op.create_table(
        "issuance",
        sa.Column("shard", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("actor_name", sa.Text(collation="C"), nullable=False),
        sa.Column("asset_id", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("step", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("transaction_shard", sa.SmallInteger(), nullable=False),
        sa.Column("transaction_id", sa.Uuid(), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("issued_after", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("shard", "actor_name", "asset_id", "day", "step", name="issuance_pkey"),
        sa.UniqueConstraint(
            "transaction_shard", "transaction_id", name="issuance_transaction_shard_transaction_id_key"
        ),
        sa.CheckConstraint("step >= 1", name=op.f("issuance_step_check")),
        sa.CheckConstraint("amount > 0", name=op.f("issuance_amount_check")),
    )
    op.execute(OWN_TABLES_FIRST)
    op.execute(ISSUANCE_LAW)
    op.execute(
        "CREATE TRIGGER refuse_change BEFORE UPDATE OR DELETE OR TRUNCATE ON issuance "
        "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
    )
    op.execute(
        "CREATE TRIGGER issuance_law AFTER INSERT ON issuance REFERENCING NEW TABLE AS inserted "
        "FOR EACH STATEMENT EXECUTE FUNCTION issuance_law()"
    )
    for trigger in ("refuse_change", "issuance_law"):
        op.execute(f"ALTER TABLE issuance ENABLE ALWAYS TRIGGER {trigger}")


def downgrade() -> None:
    op.execute("LOCK TABLE issuance IN ACCESS EXCLUSIVE MODE")
    if op.get_bind().execute(sa.text("SELECT EXISTS (SELECT FROM issuance)")).scalar():
        raise RuntimeError("Table issuance has rows that the version before cannot read, so it stays as it is.")
    op.drop_table("issuance")
    op.execute("DROP FUNCTION issuance_law()")
