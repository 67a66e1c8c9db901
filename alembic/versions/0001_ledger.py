"""The ledger: assets, wallets, accounts, transactions, entries, idempotency keys, and its laws.

Revision ID: 0001
Revises:
"""

import sqlalchemy as sa
from alembic import context, op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

TABLES = ("ledger", "asset", "wallet", "account", "transaction", "entry", "idempotency_key")

CODE = sa.Text(collation="C")
TIMESTAMP = sa.DateTime(timezone=True)

GUARD = """
CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% of % refused: the ledger is append-only', TG_OP, TG_TABLE_NAME
        USING ERRCODE = 'restrict_violation', HINT = 'Post a new transaction instead.';
END
$$
"""

# Plans of a trigger are made once a session, perhaps while the tables are still empty: they must be the plans of full
# tables, index lookups, from the first call on. The search path is the one that OWN_TABLES_FIRST has set.
LAW_SETTINGS = (
    "SET search_path FROM CURRENT "
    "SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET jit = off"
)

# Temporary tables come last: one that is named "account" would else hide the ledger's own from the laws.
OWN_TABLES_FIRST = "SELECT set_config('search_path', quote_ident(current_schema()) || ', pg_temp', true)"

ENTRY_LAW = f"""
CREATE FUNCTION entry_law() RETURNS trigger LANGUAGE plpgsql {LAW_SETTINGS} AS $$
DECLARE
    broken record;
BEGIN
    -- The chain: each entry follows the one before it on the same account.
    SELECT e.shard, e.account_id, e.seq,
           CASE WHEN a.id IS NULL THEN 'no such account in this shard'
                WHEN a.may_go_negative <> e.may_go_negative THEN 'may_go_negative is not its account''s'
                WHEN t.id IS NULL THEN 'no such transaction in this shard'
                WHEN (t.type, t.executed_at) <> (e.type, e.executed_at) THEN 'type or time is not its transaction''s'
                WHEN e.seq > 1 AND p.seq IS NULL THEN 'the entry before it is missing'
                WHEN p.executed_at > e.executed_at THEN 'it is older than the entry before it'
                ELSE 'balance_after is not the balance before it plus amount' END AS fault
      INTO broken
      FROM inserted e
      LEFT JOIN account a ON (a.shard, a.id) = (e.shard, e.account_id)
      LEFT JOIN transaction t ON (t.shard, t.id) = (e.shard, e.transaction_id)
      LEFT JOIN entry p ON (p.shard, p.account_id, p.seq) = (e.shard, e.account_id, e.seq - 1)
     WHERE a.id IS NULL
        OR a.may_go_negative <> e.may_go_negative
        OR t.id IS NULL
        OR (t.type, t.executed_at) <> (e.type, e.executed_at)
        OR (e.seq > 1 AND p.seq IS NULL)
        OR p.executed_at > e.executed_at
        OR e.balance_after <> coalesce(p.balance_after, 0) + e.amount
     LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'entry (shard %, account %, seq %) breaks the chain: %',
            broken.shard, broken.account_id, broken.seq, broken.fault
            USING ERRCODE = 'check_violation', CONSTRAINT = 'entry_law_chain';
    END IF;

    -- All legs of a transaction are in this statement: none is ever added to an old one.
    SELECT legs.shard, legs.transaction_id
      INTO broken
      FROM (SELECT e.shard, e.transaction_id, count(*) AS leg_count
              FROM inserted e GROUP BY e.shard, e.transaction_id) AS legs
     WHERE legs.leg_count <> (SELECT count(*) FROM entry s
                               WHERE s.shard = legs.shard AND s.transaction_id = legs.transaction_id)
     LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'transaction % (shard %) has legs from an earlier statement',
            broken.transaction_id, broken.shard
            USING ERRCODE = 'check_violation', CONSTRAINT = 'entry_law_legs';
    END IF;

    -- Double entry: the legs of a transaction sum to zero in each asset.
    SELECT e.shard, e.transaction_id, sum(e.amount) AS excess
      INTO broken
      FROM inserted e
      JOIN account a ON (a.shard, a.id) = (e.shard, e.account_id)
     GROUP BY e.shard, e.transaction_id, a.asset_id
    HAVING sum(e.amount) <> 0
     LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'transaction % (shard %) is unbalanced by %',
            broken.transaction_id, broken.shard, broken.excess
            USING ERRCODE = 'check_violation', CONSTRAINT = 'entry_law_balanced';
    END IF;
    RETURN NULL;
END
$$
"""

TRANSACTION_LAW = f"""
CREATE FUNCTION transaction_law() RETURNS trigger LANGUAGE plpgsql {LAW_SETTINGS} AS $$
DECLARE
    broken record;
BEGIN
    SELECT t.shard, t.id
      INTO broken
      FROM inserted t
     WHERE NOT EXISTS (SELECT FROM entry e WHERE e.shard = t.shard AND e.transaction_id = t.id)
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


def upgrade() -> None:
    create_tables()
    op.execute(GUARD)
    for table in TABLES:
        op.execute(
            f"CREATE TRIGGER refuse_change BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
        )
    op.execute(OWN_TABLES_FIRST)
    op.execute(ENTRY_LAW)
    op.execute(TRANSACTION_LAW)
    for table in ("entry", "transaction"):
        op.execute(
            f"CREATE TRIGGER {table}_law AFTER INSERT ON {table} REFERENCING NEW TABLE AS inserted "
            f"FOR EACH STATEMENT EXECUTE FUNCTION {table}_law()"
        )
    shard_count = context.config.attributes["shard_count"]
    op.execute(f"INSERT INTO ledger (shard_count) VALUES ({shard_count:d})")


def create_tables() -> None:
    op.create_table(
        "ledger",
        sa.Column("is_only_row", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("shard_count", sa.SmallInteger(), nullable=False),
        sa.Column("created_at", TIMESTAMP, server_default=sa.func.now(), nullable=False),
        sa.PrimaryKeyConstraint("is_only_row", name="ledger_pkey"),
        sa.CheckConstraint("is_only_row", name=op.f("ledger_one_row_check")),
        sa.CheckConstraint("shard_count BETWEEN 1 AND 4096", name=op.f("ledger_shard_count_check")),
    )
    op.create_table(
        "asset",
        sa.Column("id", sa.SmallInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("code", CODE, nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("scale", sa.SmallInteger(), nullable=False),
        sa.Column("created_at", TIMESTAMP, server_default=sa.func.now(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="asset_pkey"),
        sa.UniqueConstraint("code", name="asset_code_key"),
        sa.CheckConstraint("code ~ '^[A-Z][A-Z0-9_]{0,31}$'", name=op.f("asset_code_check")),
        sa.CheckConstraint("length(name) BETWEEN 1 AND 100", name=op.f("asset_name_check")),
        sa.CheckConstraint("scale BETWEEN 0 AND 9", name=op.f("asset_scale_check")),
    )
    op.create_table(
        "wallet",
        sa.Column("shard", sa.SmallInteger(), nullable=False),
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("kind", sa.SmallInteger(), nullable=False),
        sa.Column("owner_id", CODE, nullable=False),
        sa.Column("opened_at", TIMESTAMP, server_default=sa.func.clock_timestamp(), nullable=False),
        sa.PrimaryKeyConstraint("shard", "id", name="wallet_pkey"),
        sa.UniqueConstraint("shard", "kind", "owner_id", name="wallet_shard_kind_owner_id_key"),
        sa.UniqueConstraint("shard", "id", "kind", name="wallet_shard_id_kind_key"),
        sa.CheckConstraint("shard >= 0", name=op.f("wallet_shard_check")),
        sa.CheckConstraint("kind IN (1, 2)", name=op.f("wallet_kind_check")),
        sa.CheckConstraint("length(owner_id) BETWEEN 1 AND 128", name=op.f("wallet_owner_id_check")),
    )
    op.create_table(
        "account",
        sa.Column("shard", sa.SmallInteger(), nullable=False),
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("wallet_id", sa.BigInteger(), nullable=False),
        sa.Column("wallet_kind", sa.SmallInteger(), nullable=False),
        sa.Column("asset_id", sa.SmallInteger(), nullable=False),
        sa.Column("may_go_negative", sa.Boolean(), nullable=False),
        sa.Column("opened_at", TIMESTAMP, server_default=sa.func.clock_timestamp(), nullable=False),
        sa.PrimaryKeyConstraint("shard", "id", name="account_pkey"),
        sa.UniqueConstraint("shard", "wallet_id", "asset_id", name="account_shard_wallet_id_asset_id_key"),
        sa.ForeignKeyConstraint(
            ["shard", "wallet_id", "wallet_kind"],
            ["wallet.shard", "wallet.id", "wallet.kind"],
            name="account_shard_wallet_id_wallet_kind_fkey",
        ),
        sa.ForeignKeyConstraint(["asset_id"], ["asset.id"], name="account_asset_id_fkey"),
        sa.CheckConstraint("may_go_negative = (wallet_kind <> 1)", name=op.f("account_may_go_negative_check")),
    )
    op.create_table(
        "transaction",
        sa.Column("shard", sa.SmallInteger(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("type", sa.SmallInteger(), nullable=False),
        sa.Column("wallet_id", sa.BigInteger(), nullable=False),
        sa.Column("executed_at", TIMESTAMP, nullable=False),
        sa.Column("idempotency_key", sa.Uuid()),
        sa.Column("description", sa.Text()),
        sa.Column("reference", CODE),
        sa.PrimaryKeyConstraint("shard", "id", name="transaction_pkey"),
        sa.CheckConstraint("type IN (1, 2, 3)", name=op.f("transaction_type_check")),
        sa.CheckConstraint("length(description) <= 500", name=op.f("transaction_description_check")),
        sa.CheckConstraint("length(reference) <= 500", name=op.f("transaction_reference_check")),
    )
    op.create_table(
        "entry",
        sa.Column("shard", sa.SmallInteger(), nullable=False),
        sa.Column("account_id", sa.BigInteger(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("transaction_id", sa.Uuid(), nullable=False),
        sa.Column("type", sa.SmallInteger(), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("balance_after", sa.BigInteger(), nullable=False),
        sa.Column("may_go_negative", sa.Boolean(), nullable=False),
        sa.Column("executed_at", TIMESTAMP, nullable=False),
        sa.PrimaryKeyConstraint("shard", "account_id", "seq", name="entry_pkey"),
        sa.CheckConstraint("seq >= 1", name=op.f("entry_seq_check")),
        sa.CheckConstraint("amount <> 0", name=op.f("entry_amount_check")),
        sa.CheckConstraint("may_go_negative OR balance_after >= 0", name=op.f("entry_balance_after_check")),
    )
    op.create_index(
        "entry_shard_transaction_id_account_id_key", "entry", ["shard", "transaction_id", "account_id"], unique=True
    )
    op.create_table(
        "idempotency_key",
        sa.Column("shard", sa.SmallInteger(), nullable=False),
        sa.Column("wallet_id", sa.BigInteger(), nullable=False),
        sa.Column("key", sa.Uuid(), nullable=False),
        sa.Column("fingerprint", sa.LargeBinary(), nullable=False),
        sa.Column("outcome", sa.SmallInteger(), nullable=False),
        sa.Column("transaction_id", sa.Uuid(), nullable=False),
        sa.Column("details", JSONB()),
        sa.Column("created_at", TIMESTAMP, server_default=sa.func.clock_timestamp(), nullable=False),
        sa.PrimaryKeyConstraint("shard", "wallet_id", "key", name="idempotency_key_pkey"),
        sa.CheckConstraint("octet_length(fingerprint) = 16", name=op.f("idempotency_key_fingerprint_check")),
        sa.CheckConstraint("outcome IN (1, 2, 3)", name=op.f("idempotency_key_outcome_check")),
        sa.CheckConstraint("(outcome = 1) = (details IS NULL)", name=op.f("idempotency_key_details_check")),
    )


def downgrade() -> None:
    # Before the look, not after it: a posting that is under way ends first, and is seen.
    op.execute("LOCK TABLE entry IN ACCESS EXCLUSIVE MODE")
    if op.get_bind().execute(sa.text("SELECT EXISTS (SELECT FROM entry)")).scalar():
        raise RuntimeError("The ledger has entries: taking it down would lose money. Drop the database if you mean to.")
    for table in reversed(TABLES):
        op.drop_table(table)
    for function in ("entry_law", "transaction_law", "refuse_change"):
        op.execute(f"DROP FUNCTION {function}()")
