"""Metadata of transactions, and receipts that are credited once for the whole platform.

- `transaction_note` has what only some transactions have, in a table of its own: it can be erased one day.
- `receipt` is unique; it lives in the shard of its own hash, which SQL can compute, so the laws hold both together.

It runs beside servers of the version before, which write neither. The CHECK that is replaced only allows more.

Revision ID: 0005
Revises: 0004
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

OUTCOME = ("idempotency_key", "outcome", "outcome BETWEEN 1 AND 6", "outcome BETWEEN 1 AND 5")

# Rows that only this version makes.
OWN_ROWS = (("idempotency_key", "outcome = 6"), ("transaction_note", "true"), ("receipt", "true"))

# As in 0003: look-ups are fences, and temporary tables come last.
LAW_SETTINGS = "SET search_path FROM CURRENT SET enable_sort = off SET enable_incremental_sort = off SET jit = off"
OWN_TABLES_FIRST = "SELECT set_config('search_path', quote_ident(current_schema()) || ', pg_temp', true)"

RECEIPT_SHARD = """
CREATE FUNCTION receipt_shard(receipt text) RETURNS smallint LANGUAGE sql STABLE SET search_path FROM CURRENT AS $$
    SELECT ((get_byte(hash, 0) * 256 + get_byte(hash, 1)) % l.shard_count)::smallint
      FROM ledger l, sha256(convert_to(receipt, 'UTF8')) AS hash
$$
"""

NOTE_LAW = f"""
CREATE FUNCTION transaction_note_law() RETURNS trigger LANGUAGE plpgsql {LAW_SETTINGS} AS $$
DECLARE
    broken record;
BEGIN
    SELECT n.shard, n.transaction_id, t.id IS NULL AS is_alone
      INTO broken
      FROM inserted n
      LEFT JOIN LATERAL (
           SELECT t.id FROM transaction t
            WHERE t.shard = n.shard AND t.id BETWEEN n.transaction_id AND n.transaction_id
            ORDER BY t.id LIMIT 1) AS t ON true
      LEFT JOIN LATERAL (
           SELECT r.transaction_shard, r.transaction_id FROM receipt r
            WHERE r.shard = receipt_shard(n.receipt) AND r.receipt BETWEEN n.receipt AND n.receipt
            ORDER BY r.receipt LIMIT 1) AS r ON true
     WHERE t.id IS NULL
        OR (n.receipt IS NOT NULL
            AND (r.transaction_shard, r.transaction_id) IS DISTINCT FROM (n.shard, n.transaction_id))
     LIMIT 1;
    IF NOT FOUND THEN
        RETURN NULL;
    ELSIF broken.is_alone THEN
        RAISE EXCEPTION 'a note is of transaction % (shard %), which does not exist',
            broken.transaction_id, broken.shard
            USING ERRCODE = 'foreign_key_violation', CONSTRAINT = 'transaction_note_law_transaction';
    END IF;
    RAISE EXCEPTION 'the receipt of transaction % (shard %) is another transaction''s, or is not kept',
        broken.transaction_id, broken.shard
        USING ERRCODE = 'check_violation', CONSTRAINT = 'transaction_note_law_receipt';
END
$$
"""

RECEIPT_LAW = f"""
CREATE FUNCTION receipt_law() RETURNS trigger LANGUAGE plpgsql {LAW_SETTINGS} AS $$
DECLARE
    broken record;
BEGIN
    SELECT r.shard, r.receipt
      INTO broken
      FROM inserted r
      LEFT JOIN LATERAL (
           SELECT n.receipt FROM transaction_note n
            WHERE n.shard = r.transaction_shard
              AND n.transaction_id BETWEEN r.transaction_id AND r.transaction_id
            ORDER BY n.transaction_id LIMIT 1) AS n ON true
      LEFT JOIN LATERAL (
           SELECT t.type FROM transaction t
            WHERE t.shard = r.transaction_shard AND t.id BETWEEN r.transaction_id AND r.transaction_id
            ORDER BY t.id LIMIT 1) AS t ON true
     WHERE r.shard <> receipt_shard(r.receipt) OR n.receipt IS DISTINCT FROM r.receipt OR t.type IS DISTINCT FROM 1
     LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'receipt % (shard %) is not that of a top-up', broken.receipt, broken.shard
            USING ERRCODE = 'check_violation', CONSTRAINT = 'receipt_law_top_up';
    END IF;
    RETURN NULL;
END
$$
"""


def upgrade() -> None:
    with op.get_context().autocommit_block():
        table, name, condition, _ = OUTCOME
        constraint = f"{table}_{name}_check"
        op.execute(
            f"ALTER TABLE {table} DROP CONSTRAINT IF EXISTS {constraint},"
            f" ADD CONSTRAINT {constraint} CHECK ({condition}) NOT VALID"
        )
        op.execute(f"ALTER TABLE {table} VALIDATE CONSTRAINT {constraint}")
    create_tables()
    op.execute(OWN_TABLES_FIRST)
    for function in (RECEIPT_SHARD, NOTE_LAW, RECEIPT_LAW):
        op.execute(function)
    for table in ("transaction_note", "receipt"):
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
        "transaction_note",
        sa.Column("shard", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("transaction_id", sa.Uuid(), nullable=False),
        sa.Column("metadata", JSONB()),
        sa.Column("receipt", sa.Text(collation="C")),
        sa.PrimaryKeyConstraint("shard", "transaction_id", name="transaction_note_pkey"),
        sa.CheckConstraint(
            "metadata IS NOT NULL OR receipt IS NOT NULL", name=op.f("transaction_note_something_check")
        ),
        sa.CheckConstraint(
            "jsonb_typeof(metadata) = 'object' AND metadata <> '{}' AND octet_length(metadata::text) <= 32768",
            name=op.f("transaction_note_metadata_check"),
        ),
        sa.CheckConstraint("length(receipt) BETWEEN 1 AND 200", name=op.f("transaction_note_receipt_check")),
    )
    op.create_table(
        "receipt",
        sa.Column("shard", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("receipt", sa.Text(collation="C"), nullable=False),
        sa.Column("transaction_shard", sa.SmallInteger(), nullable=False),
        sa.Column("transaction_id", sa.Uuid(), nullable=False),
        sa.PrimaryKeyConstraint("shard", "receipt", name="receipt_pkey"),
        sa.CheckConstraint("length(receipt) BETWEEN 1 AND 200", name=op.f("receipt_receipt_check")),
    )


def downgrade() -> None:
    # Before the look: what is under way ends first, and is seen.
    op.execute("LOCK TABLE idempotency_key, transaction_note, receipt IN ACCESS EXCLUSIVE MODE")
    for table, condition in OWN_ROWS:
        if op.get_bind().execute(sa.text(f"SELECT EXISTS (SELECT FROM {table} WHERE {condition})")).scalar():
            raise RuntimeError(f"Table {table} has rows that the version before cannot read, so it stays as it is.")
    op.drop_table("receipt")
    op.drop_table("transaction_note")
    for function in ("receipt_law()", "transaction_note_law()", "receipt_shard(text)"):
        op.execute(f"DROP FUNCTION {function}")
    table, name, _, before = OUTCOME
    constraint = f"{table}_{name}_check"
    op.execute(f"ALTER TABLE {table} DROP CONSTRAINT {constraint}, ADD CONSTRAINT {constraint} CHECK ({before})")
