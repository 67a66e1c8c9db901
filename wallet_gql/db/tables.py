"""The tables, as the migrations make them; `alembic check` compares the two.

Everything but `api_key` is an append: guard triggers refuse UPDATE, DELETE and TRUNCATE, for everybody. `shard` is part
of every key, so that the same schema can be distributed. Triggers and their laws are in the migrations.
"""

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Date,
    DateTime,
    ForeignKeyConstraint,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Numeric,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from wallet_gql.domain.money import MINOR_MAX, TREASURY_MINOR_MAX

metadata = MetaData(
    naming_convention={
        "pk": "%(table_name)s_pkey",
        "uq": "%(table_name)s_%(column_0_N_name)s_key",
        "ix": "%(table_name)s_%(column_0_N_name)s_idx",
        "ck": "%(table_name)s_%(constraint_name)s_check",
        "fk": "%(table_name)s_%(column_0_N_name)s_fkey",
    }
)

# The one clock: a test clock may move it.
NOW = text("wallet_now()")

Code = Text(collation="C")
Timestamp = DateTime(timezone=True)

# One row: what is fixed when the database is made. mode: 1 live, 2 test, where the clock may be moved.
ledger = Table(
    "ledger",
    metadata,
    Column("is_only_row", Boolean, primary_key=True, server_default=text("true")),
    Column("shard_count", SmallInteger, nullable=False),
    Column("created_at", Timestamp, nullable=False, server_default=func.now()),
    Column("mode", SmallInteger, nullable=False, server_default=text("1")),
    CheckConstraint("is_only_row", name="one_row"),
    CheckConstraint("mode IN (1, 2)", name="mode"),
    CheckConstraint("isfinite(created_at)", name="created_at"),
    CheckConstraint("shard_count BETWEEN 1 AND 4096", name="shard_count"),
)

# How far the test clock is ahead, one row a move.
clock_offset = Table(
    "clock_offset",
    metadata,
    Column("step", Integer, primary_key=True, autoincrement=False),
    Column("seconds", BigInteger, nullable=False),
    Column("set_at", Timestamp, nullable=False, server_default=func.clock_timestamp()),
    CheckConstraint("step >= 1", name="step"),
    CheckConstraint("seconds BETWEEN 1 AND 3155760000", name="seconds"),
    CheckConstraint("isfinite(set_at)", name="set_at"),
)

# Up to when what ended is booked: a sweeper that starts goes on from the last row of each shard.
sweep = Table(
    "sweep",
    metadata,
    Column("shard", SmallInteger, nullable=False, autoincrement=False),
    Column("until", Timestamp, nullable=False),
    PrimaryKeyConstraint("shard", "until"),
    CheckConstraint("isfinite(until)", name="until"),
)

asset = Table(
    "asset",
    metadata,
    Column("id", SmallInteger, Identity(always=True), primary_key=True),
    Column("code", Code, nullable=False),
    Column("name", Text, nullable=False),
    Column("scale", SmallInteger, nullable=False),
    Column("created_at", Timestamp, nullable=False, server_default=NOW),
    UniqueConstraint("code"),
    CheckConstraint("code ~ '^[A-Z][A-Z0-9_]{0,31}$'", name="code"),
    CheckConstraint("length(name) BETWEEN 1 AND 100", name="name"),
    CheckConstraint("scale BETWEEN 0 AND 9", name="scale"),
    CheckConstraint("isfinite(created_at)", name="created_at"),
)

# What operators set of an asset, one row a change: the last one holds.
asset_setting = Table(
    "asset_setting",
    metadata,
    Column("asset_id", SmallInteger, nullable=False, autoincrement=False),
    Column("step", Integer, nullable=False, autoincrement=False),
    Column("transfers", SmallInteger, nullable=False),
    Column("set_at", Timestamp, nullable=False, server_default=NOW),
    # From then on, for ever.
    Column("has_lots", Boolean, nullable=False, server_default=text("false")),
    PrimaryKeyConstraint("asset_id", "step"),
    ForeignKeyConstraint(["asset_id"], ["asset.id"]),
    CheckConstraint("step >= 1", name="step"),
    CheckConstraint("transfers BETWEEN 1 AND 3", name="transfers"),
    CheckConstraint("isfinite(set_at)", name="set_at"),
)

# kind: 1 an owner's; 2 a treasury stripe, whose owner_id is the number of its worker slot; 3 a clearing stripe, whose
# owner_id is the number of the line of work that uses it.
wallet = Table(
    "wallet",
    metadata,
    Column("shard", SmallInteger, nullable=False),
    Column("id", BigInteger, Identity(always=True), nullable=False),
    Column("kind", SmallInteger, nullable=False),
    Column("owner_id", Code, nullable=False),
    Column("opened_at", Timestamp, nullable=False, server_default=NOW),
    PrimaryKeyConstraint("shard", "id"),
    UniqueConstraint("shard", "kind", "owner_id"),
    CheckConstraint("shard >= 0", name="shard"),
    CheckConstraint("kind IN (1, 2, 3, 4)", name="kind"),
    CheckConstraint("length(owner_id) BETWEEN 1 AND 128", name="owner_id"),
    CheckConstraint("isfinite(opened_at)", name="opened_at"),
)

# Its wallet exists, is in its shard and of its kind: the law of accounts checks it.
account = Table(
    "account",
    metadata,
    Column("shard", SmallInteger, nullable=False),
    Column("id", BigInteger, Identity(always=True), nullable=False),
    Column("wallet_id", BigInteger, nullable=False),
    Column("wallet_kind", SmallInteger, nullable=False),
    Column("asset_id", SmallInteger, nullable=False),
    Column("may_go_negative", Boolean, nullable=False),
    Column("opened_at", Timestamp, nullable=False, server_default=NOW),
    PrimaryKeyConstraint("shard", "id"),
    UniqueConstraint("shard", "wallet_id", "asset_id"),
    ForeignKeyConstraint(["asset_id"], ["asset.id"]),
    # Only the system's accounts may go below zero, and they all may.
    CheckConstraint("may_go_negative = (wallet_kind <> 1)", name="may_go_negative"),
    CheckConstraint("isfinite(opened_at)", name="opened_at"),
)

# Which legs a transaction of each type has: a row each. The law of entries reads it, nobody but a migration writes it.
transaction_shape = Table(
    "transaction_shape",
    metadata,
    Column("type", SmallInteger, nullable=False, autoincrement=False),
    Column("wallet_kind", SmallInteger, nullable=False),
    Column("sign", SmallInteger, nullable=False),
    # A type may have several shapes.
    Column("variant", SmallInteger, nullable=False, server_default=text("1")),
    PrimaryKeyConstraint("type", "variant", "wallet_kind", "sign"),
    CheckConstraint("wallet_kind IN (1, 2, 3, 4)", name="wallet_kind"),
    CheckConstraint("sign IN (-1, 1)", name="sign"),
)

# A business event of one wallet. What it refers to is checked by the law of the ledger, in one trigger a statement,
# instead of by a foreign key a row.
transaction = Table(
    "transaction",
    metadata,
    Column("shard", SmallInteger, nullable=False),
    Column("id", Uuid, nullable=False),
    Column("type", SmallInteger, nullable=False),
    Column("wallet_id", BigInteger, nullable=False),
    Column("executed_at", Timestamp, nullable=False),
    Column("idempotency_key", Uuid),
    Column("description", Text),
    Column("reference", Code),
    # Of a transfer's half: the other one.
    Column("counterpart_shard", SmallInteger),
    Column("counterpart_id", Uuid),
    PrimaryKeyConstraint("shard", "id"),
    CheckConstraint("type BETWEEN 1 AND 11", name="type"),
    CheckConstraint(
        "(counterpart_id IS NULL) = (counterpart_shard IS NULL)"
        " AND CASE WHEN counterpart_id IS NULL THEN type NOT IN (4, 5) ELSE type IN (4, 5, 8) END",
        name="counterpart",
    ),
    CheckConstraint("length(description) <= 500", name="description"),
    CheckConstraint("length(reference) <= 500", name="reference"),
    CheckConstraint("isfinite(executed_at)", name="executed_at"),
)

# What only some transactions have, and events of holds and of wallets; a table of its own, so that it can be erased one
# day. actor_kind: 1 an API key, 2 a person, 3 the service itself, 4 an operator. Its bounds are in its law.
transaction_note = Table(
    "transaction_note",
    metadata,
    Column("shard", SmallInteger, nullable=False, autoincrement=False),
    Column("transaction_id", Uuid, nullable=False),
    Column("metadata", JSONB),
    Column("receipt", Code),
    # Who asked for it, by which request, and when that was decided. Where an API key or a person asked by a request
    # that is not said, its id is that of the transaction or event.
    Column("actor_kind", SmallInteger),
    Column("actor_name", Code),
    Column("request_id", Code),
    Column("at", Timestamp),
    PrimaryKeyConstraint("shard", "transaction_id"),
    # What an actor or a request did, whoever the owners are.
    Index(
        "transaction_note_actor_name_idx",
        "actor_name",
        "at",
        "transaction_id",
        postgresql_where=text("actor_name IS NOT NULL"),
    ),
    Index(
        "transaction_note_request_id_idx",
        "request_id",
        "at",
        "transaction_id",
        postgresql_where=text("request_id IS NOT NULL"),
    ),
)

# A store's receipt or a payment's id that was credited: once, whoever the owner is. Its shard is that of its own hash.
receipt = Table(
    "receipt",
    metadata,
    Column("shard", SmallInteger, nullable=False, autoincrement=False),
    Column("receipt", Code, nullable=False),
    Column("transaction_shard", SmallInteger, nullable=False),
    Column("transaction_id", Uuid, nullable=False),
    PrimaryKeyConstraint("shard", "receipt"),
    CheckConstraint("length(receipt) BETWEEN 1 AND 200", name="receipt"),
)

# One leg of a transaction, and one link of its account's chain.
entry = Table(
    "entry",
    metadata,
    Column("shard", SmallInteger, nullable=False),
    Column("account_id", BigInteger, nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("transaction_id", Uuid, nullable=False),
    Column("type", SmallInteger, nullable=False),
    Column("amount", BigInteger, nullable=False),
    Column("balance_after", BigInteger, nullable=False),
    Column("may_go_negative", Boolean, nullable=False),
    Column("executed_at", Timestamp, nullable=False),
    # Of accounts that ever had a hold, NULL on others: what open holds hold, the last entry that changed it, and the
    # number of this entry among those that move credits. When the first open hold ends, or the first lot.
    Column("held_after", BigInteger),
    Column("held_seq", BigInteger),
    Column("position", BigInteger),
    Column("next_due_at", Timestamp),
    # Of accounts that ever had a lot, NULL on others: what is in lots, the last entry that changed which lots have
    # something left, and where it is that entry these lots, as they are spent.
    Column("lots_after", BigInteger),
    Column("lots_seq", BigInteger),
    Column("live_lots", ARRAY(Integer)),
    # Of accounts that came under a limit of what moves, NULL on others: what moved so far, an amount and a number for
    # each kind, and since which entry that is counted.
    Column("flows", ARRAY(Numeric)),
    PrimaryKeyConstraint("shard", "account_id", "seq"),
    # An account has one leg of a transaction at most; finds the legs of a transaction.
    Index("entry_shard_transaction_id_account_id_key", "shard", "transaction_id", "account_id", unique=True),
    CheckConstraint("seq >= 1", name="seq"),
    # Finds a page of the history of an account that has entries which move nothing.
    Index(
        "entry_shard_account_id_position_key",
        "shard",
        "account_id",
        "position",
        unique=True,
        postgresql_where=text("position IS NOT NULL AND amount <> 0"),
    ),
    CheckConstraint("amount <> 0 OR held_after IS NOT NULL", name="amount"),
    CheckConstraint("may_go_negative OR balance_after >= greatest(held_after, lots_after, 0)", name="balance_after"),
    # The law of entries says what is what on these chains.
    CheckConstraint(
        "CASE WHEN num_nonnulls(held_seq, lots_seq) = 0"
        " THEN num_nonnulls(held_after, position, next_due_at, lots_after, live_lots) = 0 ELSE NOT may_go_negative END",
        name="owners_only",
    ),
    # Arithmetic bounds, above the rules of the ledger's own decisions: one row cannot exhaust a stripe's 64 bits.
    CheckConstraint(f"abs(amount) <= {MINOR_MAX}", name="amount_limit"),
    CheckConstraint(
        f"abs(balance_after) <= CASE WHEN may_go_negative THEN {TREASURY_MINOR_MAX} ELSE {MINOR_MAX} END",
        name="balance_limit",
    ),
    CheckConstraint("isfinite(executed_at)", name="executed_at"),
)

# Credits that are promised: what was asked for. An escrow's has a receiver.
hold = Table(
    "hold",
    metadata,
    Column("shard", SmallInteger, nullable=False, autoincrement=False),
    Column("id", Uuid, nullable=False),
    Column("account_id", BigInteger, nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("wallet_id", BigInteger, nullable=False),
    Column("receiver_shard", SmallInteger),
    Column("receiver_wallet_id", BigInteger),
    Column("idempotency_key", Uuid, nullable=False),
    Column("description", Text),
    Column("reference", Code),
    # The only source that it takes from: 1 what was paid for, 2 bonuses.
    Column("sources", SmallInteger),
    PrimaryKeyConstraint("shard", "id"),
    UniqueConstraint("shard", "account_id", "seq"),
    CheckConstraint("sources IN (1, 2)", name="sources"),
    CheckConstraint("length(description) <= 500", name="description"),
    CheckConstraint("length(reference) <= 500", name="reference"),
    CheckConstraint("(receiver_shard IS NULL) = (receiver_wallet_id IS NULL)", name="receiver"),
)

# The chain of a hold: each step belongs to one entry, and says which holds of the account are open after it. kind: 51
# placed, 52 captured, 53 adjusted, 54 voided, 55 expired.
hold_step = Table(
    "hold_step",
    metadata,
    Column("shard", SmallInteger, nullable=False, autoincrement=False),
    Column("hold_id", Uuid, nullable=False),
    Column("step", Integer, nullable=False, autoincrement=False),
    Column("kind", SmallInteger, nullable=False),
    Column("event_id", Uuid, nullable=False),
    Column("account_id", BigInteger, nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("amount", BigInteger, nullable=False),
    Column("captured", BigInteger, nullable=False),
    Column("released", BigInteger, nullable=False),
    Column("change", BigInteger, nullable=False),
    Column("capture_count", SmallInteger, nullable=False),
    Column("held_until", Timestamp, nullable=False),
    Column("at", Timestamp, nullable=False),
    Column("open_holds", ARRAY(Uuid), nullable=False),
    # What it has of which lots of the account; the rest is of the pool.
    Column("lots", ARRAY(Integer)),
    Column("earmarks", ARRAY(BigInteger)),
    PrimaryKeyConstraint("shard", "hold_id", "step"),
    UniqueConstraint("shard", "account_id", "seq"),
    Index(
        "hold_step_shard_held_until_idx",
        "shard",
        "held_until",
        postgresql_where=text("amount > captured + released"),
    ),
    CheckConstraint("step >= 1", name="step"),
    CheckConstraint("kind BETWEEN 51 AND 55", name="kind"),
    CheckConstraint(
        f"captured >= 0 AND released >= 0 AND amount >= captured + released AND amount <= {MINOR_MAX}", name="amount"
    ),
    CheckConstraint("capture_count BETWEEN 0 AND 50", name="capture_count"),
    CheckConstraint("cardinality(open_holds) <= 100", name="open_holds"),
    CheckConstraint("coalesce(cardinality(lots), 0) = coalesce(cardinality(earmarks), 0)", name="earmarks"),
    CheckConstraint("isfinite(held_until) AND isfinite(at)", name="at"),
)

# Some of an account's credits, by its number in the account: of one kind, with one end or none. source: 1 what was paid
# for, 2 a bonus. What is in no lot is the pool, which has no row.
lot = Table(
    "lot",
    metadata,
    Column("shard", SmallInteger, nullable=False, autoincrement=False),
    Column("account_id", BigInteger, nullable=False, autoincrement=False),
    Column("n", Integer, nullable=False, autoincrement=False),
    Column("seq", BigInteger, nullable=False),
    Column("source", SmallInteger, nullable=False),
    Column("priority", SmallInteger, nullable=False),
    Column("campaign", Code),
    Column("expires_at", Timestamp),
    Column("granted_at", Timestamp, nullable=False),
    # The transaction that granted it; NULL of one that never expires, for several may.
    Column("origin_id", Uuid),
    PrimaryKeyConstraint("shard", "account_id", "n"),
    Index("lot_shard_expires_at_idx", "shard", "expires_at", postgresql_where=text("expires_at IS NOT NULL")),
    CheckConstraint("n >= 1", name="n"),
    CheckConstraint("source IN (1, 2)", name="source"),
    CheckConstraint("priority BETWEEN 0 AND 100", name="priority"),
    CheckConstraint("length(campaign) BETWEEN 1 AND 100", name="campaign"),
    CheckConstraint("isfinite(expires_at) AND isfinite(granted_at)", name="expires_at"),
)

# The chain of a lot: what was ever put into it, what remains, and what open holds have of that. Each step belongs to an
# entry; `place` is its number among those that do, as they were taken.
lot_step = Table(
    "lot_step",
    metadata,
    Column("shard", SmallInteger, nullable=False, autoincrement=False),
    Column("account_id", BigInteger, nullable=False, autoincrement=False),
    Column("lot", Integer, nullable=False, autoincrement=False),
    Column("step", Integer, nullable=False, autoincrement=False),
    Column("seq", BigInteger, nullable=False),
    Column("place", SmallInteger, nullable=False),
    Column("change", BigInteger, nullable=False),
    Column("granted", BigInteger, nullable=False),
    Column("remaining", BigInteger, nullable=False),
    Column("held", BigInteger, nullable=False),
    PrimaryKeyConstraint("shard", "account_id", "lot", "step"),
    UniqueConstraint("shard", "account_id", "seq", "place"),
    CheckConstraint("step >= 1 AND place >= 1", name="step"),
    CheckConstraint(
        f"held >= 0 AND remaining >= held AND granted >= remaining AND granted <= {MINOR_MAX}", name="remaining"
    ),
)

# What becomes of an owner's wallet: a chain. status: 1 open, 2 nothing leaves, 3 nothing moves, 4 closed. The wallet of
# its owner's debts is one of kind 4.
wallet_state = Table(
    "wallet_state",
    metadata,
    Column("shard", SmallInteger, nullable=False, autoincrement=False),
    Column("wallet_id", BigInteger, nullable=False, autoincrement=False),
    Column("step", Integer, nullable=False, autoincrement=False),
    Column("status", SmallInteger, nullable=False),
    Column("since", Timestamp, nullable=False),
    Column("until", Timestamp),
    Column("note", Text),
    Column("debt_wallet_id", BigInteger),
    Column("event_id", Uuid, nullable=False),
    Column("at", Timestamp, nullable=False),
    PrimaryKeyConstraint("shard", "wallet_id", "step"),
    Index("wallet_state_shard_event_id_idx", "shard", "event_id"),
    CheckConstraint("step >= 1", name="step"),
    CheckConstraint("status BETWEEN 1 AND 4", name="status"),
    CheckConstraint("until IS NULL OR status IN (2, 3)", name="until"),
    CheckConstraint("length(note) <= 500", name="note"),
    CheckConstraint("isfinite(since) AND isfinite(at) AND isfinite(until)", name="at"),
)

# What gives a transaction back, or takes it back: a chain for each original, what was reversed so far running along.
reversal = Table(
    "reversal",
    metadata,
    Column("shard", SmallInteger, nullable=False, autoincrement=False),
    Column("original_id", Uuid, nullable=False),
    Column("step", Integer, nullable=False, autoincrement=False),
    Column("transaction_id", Uuid, nullable=False),
    Column("amount", BigInteger, nullable=False),
    Column("reversed_after", BigInteger, nullable=False),
    PrimaryKeyConstraint("shard", "original_id", "step"),
    UniqueConstraint("shard", "transaction_id"),
    CheckConstraint("step BETWEEN 1 AND 50", name="step"),
    CheckConstraint("amount > 0", name="amount"),
)

# What was answered to a key, for ever: a posting (1) or a refusal that depended on the wallet's state (2 and up), with
# what it was refused on.
idempotency_key = Table(
    "idempotency_key",
    metadata,
    Column("shard", SmallInteger, nullable=False),
    Column("wallet_id", BigInteger, nullable=False),
    Column("key", Uuid, nullable=False),
    Column("fingerprint", LargeBinary, nullable=False),
    Column("outcome", SmallInteger, nullable=False),
    # Of a refusal: the id that the transaction would have had.
    Column("transaction_id", Uuid, nullable=False),
    Column("details", JSONB),
    Column("created_at", Timestamp, nullable=False, server_default=NOW),
    PrimaryKeyConstraint("shard", "wallet_id", "key"),
    CheckConstraint("octet_length(fingerprint) = 16", name="fingerprint"),
    CheckConstraint("outcome BETWEEN 1 AND 16 OR outcome IN (50, 51, 52, 53)", name="outcome"),
    CheckConstraint("(outcome = 1) = (details IS NULL)", name="details"),
    CheckConstraint("isfinite(created_at)", name="created_at"),
)

# What keys of a name that may issue so much a day have issued: a chain for each asset and day of UTC. Its shard is that
# of the name's own hash.
issuance = Table(
    "issuance",
    metadata,
    Column("shard", SmallInteger, nullable=False, autoincrement=False),
    Column("actor_name", Code, nullable=False),
    Column("asset_id", SmallInteger, nullable=False, autoincrement=False),
    Column("day", Date, nullable=False),
    Column("step", Integer, nullable=False, autoincrement=False),
    Column("transaction_shard", SmallInteger, nullable=False),
    Column("transaction_id", Uuid, nullable=False),
    Column("amount", BigInteger, nullable=False),
    Column("issued_after", BigInteger, nullable=False),
    PrimaryKeyConstraint("shard", "actor_name", "asset_id", "day", "step"),
    # Each is counted once.
    UniqueConstraint("transaction_shard", "transaction_id", name="issuance_transaction_shard_transaction_id_key"),
    CheckConstraint("step >= 1", name="step"),
    CheckConstraint("amount > 0", name="amount"),
)

# What a wallet may hold or move in an asset, or with wallet 0 in shard 0 all wallets: a chain of versions. flow: 1 the
# balance, 2 in, 3 out, 4 top-ups, 5 bonuses, 6 spends, 7 transfers out, 8 transfers in. calendar_unit: 1 day, 2 week,
# 3 month. enforcement: 1 refuse, 2 warn. Without a maximum there is none from then on.
limit_rule = Table(
    "limit_rule",
    metadata,
    Column("asset_id", SmallInteger, nullable=False, autoincrement=False),
    Column("shard", SmallInteger, nullable=False, autoincrement=False),
    Column("wallet_id", BigInteger, nullable=False, autoincrement=False),
    Column("step", Integer, nullable=False, autoincrement=False),
    Column("id", Uuid, nullable=False),
    Column("flow", SmallInteger, nullable=False),
    Column("rolling_seconds", Integer),
    Column("calendar_unit", SmallInteger),
    Column("time_zone", Code),
    Column("max_amount", BigInteger),
    Column("max_count", Integer),
    Column("enforcement", SmallInteger, nullable=False),
    # The versions that hold after it.
    Column("in_force", ARRAY(Integer), nullable=False),
    Column("set_at", Timestamp, nullable=False),
    Column("actor_kind", SmallInteger),
    Column("actor_name", Code),
    Column("request_id", Code),
    PrimaryKeyConstraint("asset_id", "shard", "wallet_id", "step"),
    ForeignKeyConstraint(["asset_id"], ["asset.id"]),
    CheckConstraint("step >= 1", name="step"),
    CheckConstraint("flow BETWEEN 1 AND 8", name="flow"),
    CheckConstraint(
        "num_nonnulls(rolling_seconds, calendar_unit) = (flow <> 1)::int"
        " AND (calendar_unit IS NULL) = (time_zone IS NULL)",
        name="window",
    ),
    CheckConstraint("rolling_seconds BETWEEN 1 AND 31622400", name="rolling_seconds"),
    CheckConstraint("calendar_unit BETWEEN 1 AND 3", name="calendar_unit"),
    CheckConstraint("length(time_zone) BETWEEN 1 AND 64", name="time_zone"),
    CheckConstraint(f"max_amount BETWEEN 1 AND {MINOR_MAX}", name="max_amount"),
    CheckConstraint("max_count IS NULL OR (max_count >= 1 AND flow <> 1)", name="max_count"),
    CheckConstraint("enforcement IN (1, 2)", name="enforcement"),
    CheckConstraint("cardinality(in_force) <= 20", name="in_force"),
    CheckConstraint("isfinite(set_at)", name="set_at"),
)

# Who may ask: outside the ledger, changed by the tables' owner only. mode: 1 live, 2 test.
api_key = Table(
    "api_key",
    metadata,
    Column("id", Code, primary_key=True),
    Column("name", Text, nullable=False),
    Column("mode", SmallInteger, nullable=False),
    # SHA-256 of the whole key.
    Column("hash", LargeBinary, nullable=False),
    Column("scopes", ARRAY(Text), nullable=False),
    Column("owner_prefix", Text, nullable=False, server_default=""),
    # Its own budget of points; the usual one without.
    Column("rate_burst", Integer),
    Column("rate_per_second", Integer),
    # The most that its holder moves at once, in units of the asset, and the codes of the assets; any without.
    Column("max_amount", Numeric),
    Column("assets", ARRAY(Text)),
    # The most of an asset that keys of its name issue in a day.
    Column("daily_issuance", Numeric),
    Column("created_at", Timestamp, nullable=False, server_default=NOW),
    Column("expires_at", Timestamp),
    Column("revoked_at", Timestamp),
    Column("last_used_at", Timestamp),
    CheckConstraint("id ~ '^[0-9A-Za-z]{8}$'", name="id"),
    CheckConstraint("length(name) BETWEEN 1 AND 100", name="name"),
    CheckConstraint("mode IN (1, 2)", name="mode"),
    CheckConstraint("octet_length(hash) = 32", name="hash"),
    CheckConstraint("cardinality(scopes) BETWEEN 1 AND 100", name="scopes"),
    CheckConstraint("length(owner_prefix) <= 128", name="owner_prefix"),
    CheckConstraint("num_nulls(rate_burst, rate_per_second) IN (0, 2)", name="rate"),
    CheckConstraint("rate_burst > 0", name="rate_burst"),
    CheckConstraint("rate_per_second > 0", name="rate_per_second"),
    CheckConstraint("max_amount > 0", name="max_amount"),
    CheckConstraint("daily_issuance > 0", name="daily_issuance"),
    CheckConstraint("cardinality(assets) BETWEEN 1 AND 1000", name="assets"),
)
