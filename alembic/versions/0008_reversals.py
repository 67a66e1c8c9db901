"""Refunds and clawbacks: what gives a transaction back, or takes it back, never more than it moved.

- `reversal` is a chain for each original: what was reversed runs along, and the law keeps it within the original.
- A type may have several shapes: `transaction_shape.variant`. A clawback takes to the treasury, or to clearing where it
  goes back to the owner who had sent it: then the two are halves, like those of a transfer.

It runs beside servers of the version before: new columns have a constant default, and the CHECKs that are replaced only
allow more. These come first, outside the migration's transaction; the next run begins with them again.

Revision ID: 0008
Revises: 0007
"""

import sqlalchemy as sa
from alembic import context, op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

HALVES = (
    "(counterpart_id IS NULL) = (counterpart_shard IS NULL)"
    " AND CASE WHEN counterpart_id IS NULL THEN type NOT IN (4, 5) ELSE type IN (4, 5, 8) END"
)

# (table, name, condition, condition before).
CHECKS = (
    ("transaction", "type", "type BETWEEN 1 AND 8", "type BETWEEN 1 AND 6"),
    (
        "transaction",
        "counterpart",
        HALVES,
        "(type IN (4, 5)) = (counterpart_id IS NOT NULL) AND (counterpart_id IS NULL) = (counterpart_shard IS NULL)",
    ),
    (
        "idempotency_key",
        "outcome",
        "outcome BETWEEN 1 AND 11 OR outcome IN (50, 51)",
        "outcome BETWEEN 1 AND 9 OR outcome = 50",
    ),
)

# (type, variant, wallet_kind, sign).
SHAPES = ((7, 1, 1, 1), (7, 1, 2, -1), (8, 1, 1, -1), (8, 1, 2, 1), (8, 2, 1, -1), (8, 2, 3, 1))

# Rows that only this version makes.
OWN_ROWS = (("reversal", "true"), ("idempotency_key", "outcome IN (10, 11, 51)"))

# As in 0003: look-ups are fences, and temporary tables come last.
LAW_SETTINGS = "SET search_path FROM CURRENT SET enable_sort = off SET enable_incremental_sort = off SET jit = off"
OWN_TABLES_FIRST = "SELECT set_config('search_path', quote_ident(current_schema()) || ', pg_temp', true)"


def transaction(alias: str, shard: str, id_: str) -> str:
    """Return a look-up of a transaction."""
    return f"""LATERAL (
           SELECT * FROM transaction t
            WHERE t.shard = {shard} AND t.id BETWEEN {id_} AND {id_}
            ORDER BY t.id LIMIT 1) AS {alias}"""


def moved(alias: str, shard: str, id_: str) -> str:
    """Return a look-up of what the legs of a transaction move, and in which asset."""
    return f"""LATERAL (
           SELECT max(e.amount) AS amount, min(a.asset_id) AS asset_id
             FROM (SELECT * FROM entry e
                    WHERE e.shard = {shard} AND e.transaction_id BETWEEN {id_} AND {id_}
                    ORDER BY e.transaction_id) AS e
            CROSS JOIN LATERAL (
                  SELECT a.asset_id FROM account a
                   WHERE a.shard = e.shard AND a.id BETWEEN e.account_id AND e.account_id
                   ORDER BY a.id LIMIT 1) AS a) AS {alias}"""


REVERSAL_LAW = f"""
CREATE FUNCTION reversal_law() RETURNS trigger LANGUAGE plpgsql {LAW_SETTINGS} AS $$
DECLARE
    broken record;
BEGIN
    SELECT r.shard, r.original_id, r.step,
           CASE WHEN o.id IS NULL OR t.id IS NULL THEN 'one of its transactions does not exist'
                WHEN o.wallet_id <> t.wallet_id OR own.asset_id <> original.asset_id
                THEN 'its transactions are not of one account'
                WHEN (t.type, o.type) NOT IN ((7, 3), (7, 6), (8, 1), (8, 2), (8, 5))
                THEN format('type %s does not reverse type %s', t.type, o.type)
                WHEN r.step > 1 AND p.step IS NULL THEN 'the step before it is missing'
                WHEN r.amount <> own.amount THEN 'its amount is not what its transaction moves'
                WHEN r.reversed_after <> coalesce(p.reversed_after, 0) + r.amount
                THEN 'reversed_after is not what was reversed before and its amount'
                WHEN r.reversed_after > original.amount THEN 'more is reversed than the original moved' END AS fault
      INTO broken
      FROM inserted r
      LEFT JOIN LATERAL (
           SELECT * FROM reversal p
            WHERE p.shard = r.shard AND p.original_id = r.original_id AND p.step BETWEEN r.step - 1 AND r.step - 1
            ORDER BY p.step LIMIT 1) AS p ON true
      LEFT JOIN {transaction("o", "r.shard", "r.original_id")} ON true
      LEFT JOIN {transaction("t", "r.shard", "r.transaction_id")} ON true
     CROSS JOIN {moved("own", "r.shard", "r.transaction_id")}
     CROSS JOIN {moved("original", "r.shard", "r.original_id")}
     ORDER BY fault NULLS LAST
     LIMIT 1;
    IF broken.fault IS NOT NULL THEN
        RAISE EXCEPTION 'reversal % of transaction % (shard %): %',
            broken.step, broken.original_id, broken.shard, broken.fault
            USING ERRCODE = 'check_violation', CONSTRAINT = 'reversal_law';
    END IF;
    RETURN NULL;
END
$$
"""


def entry_law() -> str:
    """Return the law of entries, for types with several shapes."""
    return context.script.get_revision("0006").module.ENTRY_LAW.replace(
        "FROM transaction_shape s GROUP BY s.type)", "FROM transaction_shape s GROUP BY s.type, s.variant)"
    )


def transaction_law() -> str:
    """Return the law of transactions, for halves that are clawbacks, and for reversals that name no original."""
    law = context.script.get_revision("0004").module.TRANSACTION_LAW
    law = law.replace("o.type = t.type", "(t.type = 5) = (o.type = 5)")
    return law.replace(
        "    RETURN NULL;\nEND",
        """
    -- What reverses names what it reverses.
    SELECT t.shard, t.id
      INTO broken
      FROM inserted t
      LEFT JOIN LATERAL (
           SELECT r.step FROM reversal r
            WHERE r.shard = t.shard AND r.transaction_id BETWEEN t.id AND t.id
            ORDER BY r.transaction_id LIMIT 1) AS r ON true
     WHERE t.type IN (7, 8) AND r.step IS NULL
     LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'transaction % (shard %) reverses nothing', broken.id, broken.shard
            USING ERRCODE = 'check_violation', CONSTRAINT = 'transaction_law_reversal';
    END IF;
    RETURN NULL;
END""",
    )


def upgrade() -> None:
    with op.get_context().autocommit_block():
        for table, name, condition, _ in CHECKS:
            constraint = f"{table}_{name}_check"
            op.execute(
                f"ALTER TABLE {table} DROP CONSTRAINT IF EXISTS {constraint},"
                f" ADD CONSTRAINT {constraint} CHECK ({condition}) NOT VALID"
            )
            op.execute(f"ALTER TABLE {table} VALIDATE CONSTRAINT {constraint}")
    op.execute("ALTER TABLE transaction_shape ADD COLUMN variant smallint NOT NULL DEFAULT 1")
    op.execute(
        "ALTER TABLE transaction_shape DROP CONSTRAINT transaction_shape_pkey,"
        " ADD CONSTRAINT transaction_shape_pkey PRIMARY KEY (type, variant, wallet_kind, sign)"
    )
    values = ", ".join(map(str, SHAPES))
    op.execute(f"INSERT INTO transaction_shape (type, variant, wallet_kind, sign) VALUES {values}")
    op.create_table(
        "reversal",
        sa.Column("shard", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("original_id", sa.Uuid(), nullable=False),
        sa.Column("step", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("transaction_id", sa.Uuid(), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("reversed_after", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("shard", "original_id", "step", name="reversal_pkey"),
        sa.UniqueConstraint("shard", "transaction_id", name="reversal_shard_transaction_id_key"),
        sa.CheckConstraint("step BETWEEN 1 AND 50", name=op.f("reversal_step_check")),
        sa.CheckConstraint("amount > 0", name=op.f("reversal_amount_check")),
    )
    op.execute(OWN_TABLES_FIRST)
    op.execute(entry_law())
    op.execute(transaction_law())
    op.execute(REVERSAL_LAW)
    op.execute(
        "CREATE TRIGGER refuse_change BEFORE UPDATE OR DELETE OR TRUNCATE ON reversal "
        "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
    )
    op.execute(
        "CREATE TRIGGER reversal_law AFTER INSERT ON reversal REFERENCING NEW TABLE AS inserted "
        "FOR EACH STATEMENT EXECUTE FUNCTION reversal_law()"
    )
    for trigger in ("refuse_change", "reversal_law"):
        op.execute(f"ALTER TABLE reversal ENABLE ALWAYS TRIGGER {trigger}")


def downgrade() -> None:
    op.execute("LOCK TABLE transaction, idempotency_key, reversal IN ACCESS EXCLUSIVE MODE")
    for table, condition in OWN_ROWS:
        if op.get_bind().execute(sa.text(f"SELECT EXISTS (SELECT FROM {table} WHERE {condition})")).scalar():
            raise RuntimeError(f"Table {table} has rows that the version before cannot read, so it stays as it is.")
    op.execute(OWN_TABLES_FIRST)
    op.execute(context.script.get_revision("0006").module.ENTRY_LAW)
    op.execute(context.script.get_revision("0004").module.TRANSACTION_LAW)
    op.drop_table("reversal")
    op.execute("DROP FUNCTION reversal_law()")
    op.execute("ALTER TABLE transaction_shape DISABLE TRIGGER refuse_change")
    op.execute("DELETE FROM transaction_shape WHERE type IN (7, 8)")
    op.execute("ALTER TABLE transaction_shape ENABLE ALWAYS TRIGGER refuse_change")
    op.execute(
        "ALTER TABLE transaction_shape DROP CONSTRAINT transaction_shape_pkey,"
        " ADD CONSTRAINT transaction_shape_pkey PRIMARY KEY (type, wallet_kind, sign)"
    )
    op.execute("ALTER TABLE transaction_shape DROP COLUMN variant")
    for table, name, _, before in CHECKS:
        constraint = f"{table}_{name}_check"
        op.execute(f"ALTER TABLE {table} DROP CONSTRAINT {constraint}, ADD CONSTRAINT {constraint} CHECK ({before})")
