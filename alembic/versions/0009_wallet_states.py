"""What becomes of a wallet: frozen, closed, reopened, in debt.

- `wallet_state` is a chain for each wallet that ever changed: its status, and the wallet of its debts. Closing needs
  accounts that are empty.
- `wallet.kind` 4 is what an owner owes, an account of its own that is never above zero. A clawback that finds too
  little puts the rest there; a repayment (type 9) moves it back; a forfeit (type 10) takes what a closed wallet had, or
  writes off what it owed.

It runs beside servers of the version before: the CHECKs that are replaced only allow more. These come first, outside
the migration's transaction; the next run begins with them again.

Revision ID: 0009
Revises: 0008
"""

import sqlalchemy as sa
from alembic import context, op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

TIMESTAMP = sa.DateTime(timezone=True)

# (table, name, condition, condition before).
CHECKS = (
    ("wallet", "kind", "kind IN (1, 2, 3, 4)", "kind IN (1, 2, 3)"),
    ("transaction_shape", "wallet_kind", "wallet_kind IN (1, 2, 3, 4)", "wallet_kind IN (1, 2, 3)"),
    ("transaction", "type", "type BETWEEN 1 AND 10", "type BETWEEN 1 AND 8"),
    (
        "idempotency_key",
        "outcome",
        "outcome BETWEEN 1 AND 14 OR outcome IN (50, 51, 52)",
        "outcome BETWEEN 1 AND 11 OR outcome IN (50, 51)",
    ),
)

# (type, variant, wallet_kind, sign): clawbacks that leave a debt to the treasury, with or without something taken;
# repayments; forfeits of credits, and of debts.
SHAPES = (
    *((8, 3, 1, -1), (8, 3, 2, 1), (8, 3, 4, -1)),
    *((8, 4, 2, 1), (8, 4, 4, -1)),
    *((8, 5, 1, -1), (8, 5, 2, 1), (8, 5, 3, 1), (8, 5, 4, -1)),
    *((9, 1, 1, -1), (9, 1, 4, 1)),
    *((10, 1, 1, -1), (10, 1, 2, 1)),
    *((10, 2, 2, -1), (10, 2, 4, 1)),
)

# Rows that only this version makes.
OWN_ROWS = (("wallet_state", "true"), ("wallet", "kind = 4"), ("idempotency_key", "outcome IN (12, 13, 14, 52)"))

# As in 0003: look-ups are fences, and temporary tables come last.
LAW_SETTINGS = "SET search_path FROM CURRENT SET enable_sort = off SET enable_incremental_sort = off SET jit = off"
OWN_TABLES_FIRST = "SELECT set_config('search_path', quote_ident(current_schema()) || ', pg_temp', true)"


def owner(shard: str, wallet: str) -> str:
    """Return a look-up of whose wallet it is."""
    return (
        f"(SELECT w.owner_id FROM wallet w WHERE w.shard = {shard} AND w.id BETWEEN {wallet} AND {wallet}"
        " ORDER BY w.id LIMIT 1)"
    )


def kind(shard: str, wallet: str) -> str:
    """Return a look-up of a wallet's kind."""
    return owner(shard, wallet).replace("w.owner_id", "w.kind", 1)


def entry_law() -> str:
    """Return the law of entries, for what owners owe."""
    law = context.script.get_revision("0008").module.entry_law()
    before = "                    WHEN e.seq > 1 AND p.seq IS NULL THEN 'the entry before it is missing'\n"
    assert before in law
    return law.replace(
        before,
        "                    WHEN a.wallet_kind = 4 AND e.balance_after > 0 THEN 'a debt is never above zero'\n"
        f"                    WHEN a.wallet_kind = 4 AND {owner('e.shard', 'a.wallet_id')}\n"
        f"                         IS DISTINCT FROM {owner('e.shard', 't.wallet_id')}\n"
        "                    THEN 'it is a debt of another owner'\n" + before,
    )


def reversal_law() -> str:
    """Return the law of reversals, for transactions that credit two accounts: what was taken, and what is owed."""
    law = context.script.get_revision("0008").module.REVERSAL_LAW
    before = "SELECT max(e.amount) AS amount"
    assert law.count(before) == 2
    law = law.replace(before, "SELECT sum(e.amount) FILTER (WHERE e.amount > 0) AS amount")
    return law.replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION")


def transaction_law() -> str:
    """Return the law of transactions, for halves with legs of other kinds: what owners give and get is the same."""
    law = context.script.get_revision("0008").module.transaction_law()
    amount, kinds = "SELECT max(e.amount) AS amount", "SELECT a.asset_id FROM account a"
    assert law.count(amount) == law.count(kinds) == 2
    law = law.replace(amount, "SELECT max(abs(e.amount)) FILTER (WHERE a.wallet_kind = 1) AS amount")
    return law.replace(kinds, "SELECT a.asset_id, a.wallet_kind FROM account a")


# What a wallet's accounts hold, hold back, or owe.
LEFT = """EXISTS (
                     SELECT FROM unnest(ARRAY[n.wallet_id, n.debt_wallet_id]) AS closed(id)
                      CROSS JOIN LATERAL (
                            SELECT a.id FROM account a
                             WHERE a.shard = n.shard AND a.wallet_id BETWEEN closed.id AND closed.id
                             ORDER BY a.wallet_id) AS a
                      CROSS JOIN LATERAL (
                            SELECT e.balance_after, e.held_after FROM entry e
                             WHERE e.shard = n.shard AND e.account_id = a.id
                             ORDER BY e.seq DESC LIMIT 1) AS head
                      WHERE head.balance_after <> 0 OR head.held_after > 0)"""

WALLET_STATE_LAW = f"""
CREATE FUNCTION wallet_state_law() RETURNS trigger LANGUAGE plpgsql {LAW_SETTINGS} AS $$
DECLARE
    broken record;
BEGIN
    SELECT n.shard, n.wallet_id, n.step,
           CASE WHEN {kind("n.shard", "n.wallet_id")} IS DISTINCT FROM 1 THEN 'it is not an owner''s wallet'
                WHEN n.step > 1 AND p.step IS NULL THEN 'the state before it is missing'
                WHEN p.debt_wallet_id <> n.debt_wallet_id OR (p.debt_wallet_id IS NOT NULL AND n.debt_wallet_id IS NULL)
                THEN 'the wallet of its debts never changes'
                WHEN n.debt_wallet_id IS NOT NULL
                     AND ({kind("n.shard", "n.debt_wallet_id")} IS DISTINCT FROM 4
                          OR {owner("n.shard", "n.debt_wallet_id")}
                             IS DISTINCT FROM {owner("n.shard", "n.wallet_id")})
                THEN 'the wallet of its debts is not one of its owner'
                WHEN p.status = 4 AND n.status NOT IN (1, 4) THEN 'a closed wallet can only be opened again'
                -- From now on, as before, from when a freeze ended; a first debt leaves a wallet open as ever.
                WHEN n.since > n.at
                     OR (n.since = n.at OR (n.status, n.since) = (p.status, p.since)
                         OR (p.until IS NOT NULL AND (n.status, n.since) = (1, greatest(p.until, p.since)))
                         OR (n.status, n.step) = (1, 1)) IS NOT TRUE
                THEN 'since is not when it came to be so'
                WHEN n.status = 4 AND p.status IS DISTINCT FROM 4 AND {LEFT}
                THEN 'a wallet with credits, holds or debts cannot be closed' END AS fault
      INTO broken
      FROM inserted n
      LEFT JOIN LATERAL (
           SELECT * FROM wallet_state p
            WHERE p.shard = n.shard AND p.wallet_id = n.wallet_id AND p.step BETWEEN n.step - 1 AND n.step - 1
            ORDER BY p.step LIMIT 1) AS p ON true
     ORDER BY fault NULLS LAST
     LIMIT 1;
    IF broken.fault IS NOT NULL THEN
        RAISE EXCEPTION 'state % of wallet % (shard %): %', broken.step, broken.wallet_id, broken.shard, broken.fault
            USING ERRCODE = 'check_violation', CONSTRAINT = 'wallet_state_law';
    END IF;
    RETURN NULL;
END
$$
"""


def upgrade() -> None:
    with op.get_context().autocommit_block():
        for table, name, condition, _ in CHECKS:
            constraint = f"{table}_{name}_check"
            op.execute(
                f"ALTER TABLE {table} DROP CONSTRAINT IF EXISTS {constraint},"
                f" ADD CONSTRAINT {constraint} CHECK ({condition}) NOT VALID"
            )
            op.execute(f"ALTER TABLE {table} VALIDATE CONSTRAINT {constraint}")
    values = ", ".join(map(str, SHAPES))
    op.execute(f"INSERT INTO transaction_shape (type, variant, wallet_kind, sign) VALUES {values}")
    op.create_table(
        "wallet_state",
        sa.Column("shard", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("wallet_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("step", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("status", sa.SmallInteger(), nullable=False),
        sa.Column("since", TIMESTAMP, nullable=False),
        sa.Column("until", TIMESTAMP),
        sa.Column("note", sa.Text()),
        sa.Column("debt_wallet_id", sa.BigInteger()),
        sa.Column("event_id", sa.Uuid(), nullable=False),
        sa.Column("at", TIMESTAMP, nullable=False),
        sa.PrimaryKeyConstraint("shard", "wallet_id", "step", name="wallet_state_pkey"),
        sa.CheckConstraint("step >= 1", name=op.f("wallet_state_step_check")),
        sa.CheckConstraint("status BETWEEN 1 AND 4", name=op.f("wallet_state_status_check")),
        sa.CheckConstraint("until IS NULL OR status IN (2, 3)", name=op.f("wallet_state_until_check")),
        sa.CheckConstraint("length(note) <= 500", name=op.f("wallet_state_note_check")),
        sa.CheckConstraint("isfinite(since) AND isfinite(at) AND isfinite(until)", name=op.f("wallet_state_at_check")),
    )
    op.execute(OWN_TABLES_FIRST)
    op.execute(entry_law())
    op.execute(transaction_law())
    op.execute(reversal_law())
    op.execute(WALLET_STATE_LAW)
    op.execute(
        "CREATE TRIGGER refuse_change BEFORE UPDATE OR DELETE OR TRUNCATE ON wallet_state "
        "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
    )
    op.execute(
        "CREATE TRIGGER wallet_state_law AFTER INSERT ON wallet_state REFERENCING NEW TABLE AS inserted "
        "FOR EACH STATEMENT EXECUTE FUNCTION wallet_state_law()"
    )
    for trigger in ("refuse_change", "wallet_state_law"):
        op.execute(f"ALTER TABLE wallet_state ENABLE ALWAYS TRIGGER {trigger}")


def downgrade() -> None:
    op.execute("LOCK TABLE transaction, wallet, idempotency_key, wallet_state IN ACCESS EXCLUSIVE MODE")
    for table, condition in OWN_ROWS:
        if op.get_bind().execute(sa.text(f"SELECT EXISTS (SELECT FROM {table} WHERE {condition})")).scalar():
            raise RuntimeError(f"Table {table} has rows that the version before cannot read, so it stays as it is.")
    before = context.script.get_revision("0008").module
    op.execute(OWN_TABLES_FIRST)
    op.execute(before.entry_law())
    op.execute(before.transaction_law())
    op.execute(before.REVERSAL_LAW.replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION"))
    op.drop_table("wallet_state")
    op.execute("DROP FUNCTION wallet_state_law()")
    op.execute("ALTER TABLE transaction_shape DISABLE TRIGGER refuse_change")
    op.execute("DELETE FROM transaction_shape WHERE type > 8 OR variant > 2")
    op.execute("ALTER TABLE transaction_shape ENABLE ALWAYS TRIGGER refuse_change")
    for table, name, _, before_condition in CHECKS:
        constraint = f"{table}_{name}_check"
        op.execute(
            f"ALTER TABLE {table} DROP CONSTRAINT {constraint}, ADD CONSTRAINT {constraint} CHECK ({before_condition})"
        )
