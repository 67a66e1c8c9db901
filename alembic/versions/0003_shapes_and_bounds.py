"""Types have their shapes as data, amounts and times have bounds, and no look-up of a law reads a whole shard.

- `transaction_shape` says which legs each type has; the law of entries refuses a transaction of another shape.
- CHECKs bound amounts, balances and times, so that one forged posting cannot stop the others of its stripe.
- Only owners' chains are in the order of time: a treasury's entry carries its transaction's time, so a clock that
  jumped ahead once does not reach every owner of the stripe.
- Guards and laws hold for replication roles too: they fire always.
- The look-ups of the laws are fences (see "Fences" below). A foreign key's look-up cannot be one, so the one from
  account to wallet becomes a law too.

It runs beside servers of the version before: what they write keeps to the new laws. The CHECKs come first, outside the
migration's transaction: each is added NOT VALID under a lock of an instant, then validated while postings go on. They
are the only thing that stays if a later step fails, and the next run begins with them again. The rest is one
transaction that locks `wallet` and `account` at its end, in the order in which postings do.

Revision ID: 0003
Revises: 0002
"""

import sqlalchemy as sa
from alembic import context, op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

# One table at a time, so that no lock is held while another is waited for.
BOUNDS = (
    ("ledger", "created_at", "isfinite(created_at)"),
    ("asset", "created_at", "isfinite(created_at)"),
    ("wallet", "opened_at", "isfinite(opened_at)"),
    ("account", "opened_at", "isfinite(opened_at)"),
    ("transaction", "executed_at", "isfinite(executed_at)"),
    ("entry", "executed_at", "isfinite(executed_at)"),
    ("entry", "amount_limit", "abs(amount) <= 1000000000000000000"),
    (
        "entry",
        "balance_limit",
        "abs(balance_after) <= CASE WHEN may_go_negative THEN 9000000000000000000 ELSE 1000000000000000000 END",
    ),
    ("idempotency_key", "created_at", "isfinite(created_at)"),
)

# (type, wallet_kind, sign): top-up and bonus raise the owner's balance at the treasury's expense, a spend lowers it.
SHAPES = ((1, 1, 1), (1, 2, -1), (2, 1, 1), (2, 2, -1), (3, 1, -1), (3, 2, 1))

# Fences. A plan of a trigger is made once per session, perhaps while the tables are empty, and statistics are old: then
# two indexes that begin with `shard` seem to cost the same, and the wrong one reads a whole shard. Each look-up below
# is a LATERAL subquery, ordered by the column that only the right index sorts by, and sorting is off. That column is
# compared with a range of one value, for an equality would make the order void. The search path is the one that
# OWN_TABLES_FIRST has set.
LAW_SETTINGS = "SET search_path FROM CURRENT SET enable_sort = off SET enable_incremental_sort = off SET jit = off"

# Temporary tables come last: one that is named "account" would else hide the ledger's own from the laws.
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
                    WHEN t.id IS NULL THEN 'no such transaction in this shard'
                    WHEN (t.type, t.executed_at) <> (e.type, e.executed_at)
                    THEN 'type or time is not its transaction''s'
                    WHEN a.wallet_kind = 1 AND a.wallet_id <> t.wallet_id THEN 'its wallet is not its transaction''s'
                    WHEN e.seq > 1 AND p.seq IS NULL THEN 'the entry before it is missing'
                    -- Of owners only: a system's entry carries the time that its owner's chain asks for.
                    WHEN a.wallet_kind = 1 AND p.executed_at > e.executed_at
                    THEN 'it is older than the entry before it'
                    WHEN e.balance_after <> coalesce(p.balance_after, 0) + e.amount
                    THEN 'balance_after is not the balance before it plus amount' END AS fault
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
               count(*)::int AS leg_count, sum(leg.amount) AS excess,
               -- A bit for each kind of wallet and sign: as many bits as legs, so that no two legs are alike.
               bit_or(1 << (2 * leg.wallet_kind + (leg.amount > 0)::int)) AS bits,
               min(CASE WHEN leg.fault IS NOT NULL
                        THEN format('entry (shard %s, account %s, seq %s) breaks the chain: %s',
                                    leg.shard, leg.account_id, leg.seq, leg.fault) END) AS fault
          FROM leg
         GROUP BY leg.shard, leg.transaction_id, leg.asset_id
    ), moved AS (
        SELECT m.shard, m.transaction_id, min(m.type) AS type, sum(m.leg_count) AS leg_count, bit_or(m.bits) AS bits,
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
               (moved.type, moved.leg_count, moved.bits) IN (
                   SELECT s.type, count(*), bit_or(1 << (2 * s.wallet_kind + (s.sign > 0)::int))
                     FROM transaction_shape s GROUP BY s.type) AS has_shape
          FROM moved
    )
    SELECT judged.*
      INTO broken
      FROM judged
     WHERE judged.fault IS NOT NULL OR judged.excess IS NOT NULL OR judged.leg_count <> judged.all_leg_count
        OR NOT judged.has_shape
     LIMIT 1;
    IF NOT FOUND THEN
        RETURN NULL;
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
    RETURN NULL;
END
$$
"""

ACCOUNT_LAW = f"""
CREATE FUNCTION account_law() RETURNS trigger LANGUAGE plpgsql {LAW_SETTINGS} AS $$
DECLARE
    broken record;
BEGIN
    SELECT a.shard, a.wallet_id, a.wallet_kind
      INTO broken
      FROM inserted a
      LEFT JOIN LATERAL (
           SELECT w.kind FROM wallet w
            WHERE w.shard = a.shard AND w.id BETWEEN a.wallet_id AND a.wallet_id
            ORDER BY w.id LIMIT 1) AS w ON true
     WHERE w.kind IS DISTINCT FROM a.wallet_kind
     LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'shard % has no wallet % of kind %', broken.shard, broken.wallet_id, broken.wallet_kind
            USING ERRCODE = 'foreign_key_violation', CONSTRAINT = 'account_law_wallet';
    END IF;
    RETURN NULL;
END
$$
"""

# The foreign key, and the index that nothing else uses.
REFERENCE = "account_shard_wallet_id_wallet_kind_fkey"
REFERRED = "wallet_shard_id_kind_key"

# Fired always: otherwise a session that sets session_replication_role = replica is held to none of them.
GUARDED = ("ledger", "asset", "wallet", "account", "transaction", "entry", "idempotency_key")
TRIGGERS = (
    *((table, "refuse_change") for table in (*GUARDED, "transaction_shape")),
    *((table, f"{table}_law") for table in ("account", "transaction", "entry")),
)


def upgrade() -> None:
    with op.get_context().autocommit_block():
        for table, name, condition in BOUNDS:
            constraint = f"{table}_{name}_check"
            op.execute(
                f"ALTER TABLE {table} DROP CONSTRAINT IF EXISTS {constraint},"
                f" ADD CONSTRAINT {constraint} CHECK ({condition}) NOT VALID"
            )
            op.execute(f"ALTER TABLE {table} VALIDATE CONSTRAINT {constraint}")
    create_shapes()
    op.execute(OWN_TABLES_FIRST)
    for law in (ENTRY_LAW, TRANSACTION_LAW, ACCOUNT_LAW):
        op.execute(law)
    op.execute("LOCK TABLE wallet, account IN ACCESS EXCLUSIVE MODE")
    op.execute(
        "CREATE TRIGGER account_law AFTER INSERT ON account REFERENCING NEW TABLE AS inserted "
        "FOR EACH STATEMENT EXECUTE FUNCTION account_law()"
    )
    op.drop_constraint(REFERENCE, "account")
    op.drop_constraint(REFERRED, "wallet")
    for table, trigger in TRIGGERS:
        op.execute(f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER {trigger}")


def create_shapes() -> None:
    op.create_table(
        "transaction_shape",
        sa.Column("type", sa.SmallInteger(), nullable=False),
        sa.Column("wallet_kind", sa.SmallInteger(), nullable=False),
        sa.Column("sign", sa.SmallInteger(), nullable=False),
        sa.PrimaryKeyConstraint("type", "wallet_kind", "sign", name="transaction_shape_pkey"),
        sa.CheckConstraint("wallet_kind IN (1, 2)", name=op.f("transaction_shape_wallet_kind_check")),
        sa.CheckConstraint("sign IN (-1, 1)", name=op.f("transaction_shape_sign_check")),
    )
    op.execute(f"INSERT INTO transaction_shape (type, wallet_kind, sign) VALUES {', '.join(map(str, SHAPES))}")
    op.execute(
        "CREATE TRIGGER refuse_change BEFORE UPDATE OR DELETE OR TRUNCATE ON transaction_shape "
        "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
    )


def downgrade() -> None:
    op.execute(OWN_TABLES_FIRST)
    before = context.script.get_revision("0001").module
    for law in (before.ENTRY_LAW, before.TRANSACTION_LAW):
        op.execute(law.replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION"))
    op.drop_table("transaction_shape")
    op.execute("LOCK TABLE wallet, account IN ACCESS EXCLUSIVE MODE")
    op.execute("DROP TRIGGER account_law ON account")
    op.execute("DROP FUNCTION account_law()")
    for table, trigger in TRIGGERS:
        if trigger != "account_law" and table != "transaction_shape":
            op.execute(f"ALTER TABLE {table} ENABLE TRIGGER {trigger}")
    op.create_unique_constraint(REFERRED, "wallet", ["shard", "id", "kind"])
    op.create_foreign_key(
        REFERENCE, "account", "wallet", ["shard", "wallet_id", "wallet_kind"], ["shard", "id", "kind"]
    )
    for table, name, _ in BOUNDS:
        op.drop_constraint(f"{table}_{name}_check", table)
