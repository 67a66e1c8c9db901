"""Each kind of damage to what keeps the books right is named, before anything else, and the ledger stays shut."""

import asyncio
from collections.abc import Callable

import pytest
from armoured import as_server, damage_of, fill, is_shut
from direct import TABLES

from wallet_gql.db.grants import WRITTEN_BY_MIGRATIONS
from wallet_gql.db.tables import metadata
from wallet_gql.ledger.armour import expected_armour, read_armour
from wallet_gql.operations.proof import prove
from wallet_gql.settings import Settings


def test_the_committed_armour_is_that_of_a_freshly_migrated_database(settings: Settings) -> None:
    assert as_server(settings, read_armour) == expected_armour(), "renew it: make armour"


def test_every_table_is_guarded_and_every_trigger_is_enabled_always() -> None:
    armour = expected_armour()
    assert {f"{table}.refuse_change" for table in TABLES} <= armour["trigger"].keys()
    assert set(armour["state of trigger"].values()) == {"enabled always"}


def test_a_whole_armour_has_no_damage(settings: Settings) -> None:
    assert damage_of(settings) == []


# Everything else of the function stays.
REPLACE_BODY = (
    "DO $$ BEGIN EXECUTE (SELECT replace(pg_get_functiondef(oid), prosrc, 'BEGIN RETURN NULL; END')"
    " FROM pg_proc WHERE proname = '{}'); END $$"
)
LEGS_INDEX = "entry_shard_transaction_id_account_id_key"
ENABLED_ALWAYS = "but should be enabled always"
MISSING = "is missing: "

# What is done as the superuser, and what is found of it: the rows, and how each fault begins.
DAMAGE: dict[str, tuple[tuple[str, ...], list[tuple[str, str]]]] = {
    "a law that is disabled": (
        ("ALTER TABLE entry DISABLE TRIGGER entry_law",),
        [("state of trigger entry.entry_law", f"is disabled, {ENABLED_ALWAYS}")],
    ),
    "a guard that is disabled": (
        ("ALTER TABLE wallet DISABLE TRIGGER refuse_change",),
        [("state of trigger wallet.refuse_change", f"is disabled, {ENABLED_ALWAYS}")],
    ),
    "a law that replication roles skip": (
        ("ALTER TABLE transaction ENABLE TRIGGER transaction_law",),
        [("state of trigger transaction.transaction_law", "is enabled, but not for replication roles, ")],
    ),
    "a law for replication roles only": (
        ("ALTER TABLE entry ENABLE REPLICA TRIGGER entry_law",),
        [("state of trigger entry.entry_law", "is enabled for replication roles only, ")],
    ),
    "a law that is dropped": (
        ("DROP TRIGGER entry_law ON entry",),
        [("trigger entry.entry_law", f"{MISSING}CREATE TRIGGER entry_law AFTER INSERT ON entry ")],
    ),
    "a guard that is dropped": (
        ("DROP TRIGGER refuse_change ON idempotency_key",),
        [("trigger idempotency_key.refuse_change", MISSING)],
    ),
    "a guard of fewer events": (
        (
            "DROP TRIGGER refuse_change ON entry",
            "CREATE TRIGGER refuse_change BEFORE DELETE ON entry EXECUTE FUNCTION refuse_change()",
            "ALTER TABLE entry ENABLE ALWAYS TRIGGER refuse_change",
        ),
        [("trigger entry.refuse_change", "is CREATE TRIGGER refuse_change BEFORE DELETE ON entry ")],
    ),
    "a law that is another function": (
        (
            "CREATE SCHEMA other",
            "CREATE FUNCTION other.entry_law() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
            "DROP TRIGGER entry_law ON entry",
            "CREATE TRIGGER entry_law AFTER INSERT ON entry EXECUTE FUNCTION other.entry_law()",
            "ALTER TABLE entry ENABLE ALWAYS TRIGGER entry_law",
        ),
        [("trigger entry.entry_law", "is CREATE TRIGGER entry_law AFTER INSERT ON entry ")],
    ),
    "a body that is replaced": (
        (REPLACE_BODY.format("entry_law"),),
        [("body of function entry_law()", "is not what the migrations made")],
    ),
    "a guard's body that is replaced": (
        (REPLACE_BODY.format("refuse_change"),),
        [("body of function refuse_change()", "is not what the migrations made")],
    ),
    "a setting of a law": (
        ("ALTER FUNCTION entry_law() SET enable_seqscan = on",),
        [("settings of function entry_law()", "is enable_")],
    ),
    "the search path of a law": (
        ("ALTER FUNCTION transaction_law() SET search_path = pg_temp, public",),
        [("settings of function transaction_law()", "is enable_")],
    ),
    "a law with its owner's rights": (
        ("ALTER FUNCTION entry_law() SECURITY DEFINER",),
        [("function entry_law()", "is RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER, but should be ")],
    ),
    "a trigger of others that drops rows": (
        (
            "CREATE FUNCTION theirs() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
            "CREATE TRIGGER theirs BEFORE INSERT ON idempotency_key FOR EACH ROW EXECUTE FUNCTION theirs()",
        ),
        [
            (
                "trigger idempotency_key.theirs",
                "is not ours, and can drop or change rows before they are written: DROP TRIGGER theirs ON idempotency_",
            )
        ],
    ),
    "a trigger of others for replication roles": (
        (
            "CREATE FUNCTION theirs() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
            'CREATE TRIGGER "The irs" BEFORE UPDATE ON entry FOR EACH ROW EXECUTE FUNCTION theirs()',
            'ALTER TABLE entry ENABLE REPLICA TRIGGER "The irs"',
        ),
        [("trigger entry.The irs", 'is not ours, and can drop or change rows before they are written: DROP TRIGGER "')],
    ),
    "a function that is dropped with its triggers": (
        ("DROP FUNCTION transaction_law() CASCADE",),
        [("trigger transaction.transaction_law", MISSING), ("function transaction_law()", MISSING)],
    ),
    "a check that is dropped": (
        ("ALTER TABLE entry DROP CONSTRAINT entry_balance_after_check",),
        [
            (
                "constraint entry.entry_balance_after_check",
                f"{MISSING}CHECK (may_go_negative OR balance_after >= GREATEST(held_after, lots_after, 0::bigint))",
            )
        ],
    ),
    "a check that is not validated": (
        (
            "ALTER TABLE entry DROP CONSTRAINT entry_amount_check",
            "ALTER TABLE entry ADD CONSTRAINT entry_amount_check CHECK (amount <> 0) NOT VALID",
        ),
        [
            (
                "constraint entry.entry_amount_check",
                "is CHECK (amount <> 0) NOT VALID, but should be ",
            )
        ],
    ),
    "a check that is weaker": (
        (
            "ALTER TABLE asset DROP CONSTRAINT asset_scale_check",
            "ALTER TABLE asset ADD CONSTRAINT asset_scale_check CHECK (scale >= 0)",
        ),
        [
            (
                "constraint asset.asset_scale_check",
                "is CHECK (scale >= 0), but should be CHECK (scale ",
            )
        ],
    ),
    "a foreign key that is dropped": (
        ("ALTER TABLE account DROP CONSTRAINT account_asset_id_fkey",),
        [("constraint account.account_asset_id_fkey", f"{MISSING}FOREIGN KEY (asset_id) REFERENCES asset(id)")],
    ),
    "foreign keys that are switched off": (
        (
            "ALTER TABLE asset DISABLE TRIGGER ALL",
            "ALTER TABLE asset ENABLE ALWAYS TRIGGER refuse_change",
        ),
        [
            (
                f"constraint {table}.{table}_asset_id_fkey",
                "is FOREIGN KEY (asset_id) REFERENCES asset(id) DISABLED, but",
            )
            for table in ("account", "asset_setting", "limit_rule")
        ],
    ),
    "a unique index that is dropped": (
        ("DROP INDEX entry_shard_transaction_id_account_id_key",),
        [("index entry.entry_shard_transaction_id_account_id_key", f"{MISSING}CREATE UNIQUE INDEX ")],
    ),
    "a unique index that is not unique": (
        (
            "DROP INDEX entry_shard_transaction_id_account_id_key",
            "CREATE INDEX entry_shard_transaction_id_account_id_key ON entry (shard, transaction_id, account_id)",
        ),
        [("index entry.entry_shard_transaction_id_account_id_key", "is CREATE INDEX ")],
    ),
    "a unique index that is not valid": (
        (f"UPDATE pg_index SET indisvalid = false WHERE indexrelid = '{LEGS_INDEX}'::regclass",),
        [
            (
                "index entry.entry_shard_transaction_id_account_id_key",
                (
                    "is CREATE UNIQUE INDEX entry_shard_transaction_id_account_id_key ON entry"
                    " USING btree (shard, transaction_id, account_id) INVALID, "
                ),
            ),
        ],
    ),
    "a primary key that is dropped": (
        ("ALTER TABLE idempotency_key DROP CONSTRAINT idempotency_key_pkey",),
        [
            ("constraint idempotency_key.idempotency_key_pkey", f"{MISSING}PRIMARY KEY (shard, wallet_id, key)"),
            ("index idempotency_key.idempotency_key_pkey", MISSING),
        ],
    ),
    "a column that may be null": (
        ("ALTER TABLE entry ALTER amount DROP NOT NULL",),
        [("column entry.amount", "is bigint, but should be bigint NOT NULL")],
    ),
    "a column of another type": (
        ("ALTER TABLE entry ALTER type TYPE int",),
        [("column entry.type", "is integer NOT NULL, but should be smallint NOT NULL")],
    ),
    "a column with another default": (
        ("ALTER TABLE wallet ALTER opened_at SET DEFAULT '2000-01-01 00:00+00'",),
        [("column wallet.opened_at", "is timestamp with time zone NOT NULL DEFAULT '2000-01-01 ")],
    ),
    "a column whose ids can be chosen": (
        ("ALTER TABLE account ALTER id SET GENERATED BY DEFAULT",),
        [("column account.id", "is bigint NOT NULL GENERATED BY DEFAULT AS IDENTITY, ")],
    ),
    "a column that compares by a language": (
        ('ALTER TABLE wallet ALTER owner_id TYPE text COLLATE "default"',),
        [("column wallet.owner_id", 'is text NOT NULL, but should be text COLLATE "C" NOT NULL')],
    ),
    "a column that is dropped": (
        ("ALTER TABLE asset DROP COLUMN name",),
        [("column asset.name", f"{MISSING}text NOT NULL"), ("constraint asset.asset_name_check", MISSING)],
    ),
    "a table that is dropped": (
        ("DROP TABLE idempotency_key",),
        [("table idempotency_key", MISSING)],
    ),
    "a table that a crash empties": (
        ("ALTER TABLE idempotency_key SET UNLOGGED",),
        [("table idempotency_key", "is a table, lost in a crash, but should be a table")],
    ),
    "a table with row security": (
        ("ALTER TABLE entry ENABLE ROW LEVEL SECURITY", "CREATE POLICY few ON entry USING (amount > 0)"),
        [("table entry", "is a table, with row security, but should be a table")],
    ),
    "a table with a rule": (
        ("CREATE RULE quiet AS ON INSERT TO idempotency_key DO INSTEAD NOTHING",),
        [("table idempotency_key", "is a table, with rules, but should be a table")],
    ),
    "a table with a child": (
        ("CREATE TABLE more () INHERITS (entry)",),
        [("table entry", "is a table, with children, but should be a table")],
    ),
    "a ledger without its row": (
        ("ALTER TABLE ledger DISABLE TRIGGER ALL", "DELETE FROM ledger"),
        [
            ("state of trigger ledger.refuse_change", "is disabled, "),
            ("table ledger", "has 0 rows, but must have one, which holds the shard count"),
        ],
    ),
    "a ledger with two rows": (
        (
            "ALTER TABLE ledger DROP CONSTRAINT ledger_pkey",
            "INSERT INTO ledger (shard_count) SELECT shard_count FROM ledger",
        ),
        [
            ("constraint ledger.ledger_pkey", MISSING),
            ("index ledger.ledger_pkey", MISSING),
            ("table ledger", "has 2 rows, but must have one, which holds the shard count"),
        ],
    ),
    "a right to change a table": (
        ("GRANT UPDATE, DELETE ON entry TO wallet_server",),
        [
            ("role wallet_server", "has DELETE ON TABLE entry, granted to wallet_server: revoke it"),
            ("role wallet_server", "has UPDATE ON TABLE entry, granted to wallet_server: revoke it"),
        ],
    ),
    "a right by PUBLIC": (
        ("GRANT TRUNCATE ON wallet TO PUBLIC",),
        [("role wallet_server", "has TRUNCATE ON TABLE wallet, granted to PUBLIC: revoke it")],
    ),
    "a right to a column": (
        ("GRANT UPDATE (balance_after) ON entry TO wallet_server",),
        [("role wallet_server", "has UPDATE (balance_after) ON TABLE entry, granted to wallet_server: revoke it")],
    ),
    "a right to make triggers": (
        ("GRANT TRIGGER ON entry TO wallet_server",),
        [("role wallet_server", "has TRIGGER ON TABLE entry, granted to wallet_server: revoke it")],
    ),
    "a right to the version": (
        ("GRANT INSERT ON alembic_version TO wallet_server",),
        [("role wallet_server", "has INSERT ON TABLE alembic_version, granted to wallet_server: revoke it")],
    ),
    "a right to a sequence": (
        ("GRANT UPDATE ON SEQUENCE wallet_id_seq TO wallet_server",),
        [("role wallet_server", "has UPDATE ON SEQUENCE wallet_id_seq, granted to wallet_server: revoke it")],
    ),
    "a right to the schema": (
        ("GRANT CREATE ON SCHEMA public TO PUBLIC",),
        [("role wallet_server", "has CREATE ON SCHEMA public, granted to PUBLIC: revoke it")],
    ),
    "a table of the serving role": (
        ("ALTER TABLE entry OWNER TO wallet_server",),
        [("role wallet_server", "owns table entry, or is a member of its owner: serve as a role of its own ")],
    ),
    "a law of the serving role": (
        ("ALTER FUNCTION entry_law() OWNER TO wallet_server",),
        [("role wallet_server", "owns function entry_law, or is a member of its owner: ")],
    ),
    "a session that is a replica": (
        ("ALTER ROLE wallet_server IN DATABASE {database} SET session_replication_role = replica",),
        [("role wallet_server", "works with session_replication_role = replica, ")],
    ),
    "a session that does not wait for the disk": (
        ("ALTER ROLE wallet_server IN DATABASE {database} SET synchronous_commit = off",),
        [("setting synchronous_commit", "is off, and a crash would lose what was posted: switch it on")],
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_named_and_the_ledger_stays_shut(own: Settings, damage: Callable[..., None], name: str) -> None:
    statements, expected = DAMAGE[name]
    damage(*(statement.replace("{database}", str(own.server_url().database)) for statement in statements))
    found = damage_of(own)
    assert [row for row, _ in found] == [row for row, _ in expected]
    for (_, fault), (_, beginning) in zip(found, expected, strict=True):
        assert fault.startswith(beginning)
    said = is_shut(own)
    assert all(f"{row}: {fault}" in said for row, fault in found)
    # The proof names it first, and goes on with the rows as far as they can be read.
    findings = asyncio.run(prove(own)).findings
    assert [(finding.check, finding.shard, finding.row, finding.fault) for finding in findings[: len(found)]] == [
        ("armour", None, row, fault) for row, fault in found
    ]


@pytest.mark.parametrize("table", sorted(WRITTEN_BY_MIGRATIONS & metadata.tables.keys()))
def test_another_row_of_a_table_that_only_migrations_write_is_damage(
    own: Settings, damage: Callable[..., None], table: str
) -> None:
    damage(
        f"ALTER TABLE {table} DISABLE TRIGGER refuse_change",
        f"DELETE FROM {table} WHERE ctid = (SELECT min(ctid) FROM {table})",
        f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER refuse_change",
    )
    assert damage_of(own) == [(f"rows of table {table}", "is not what the migrations made")]


def test_rows_that_cannot_be_read_are_a_finding(own: Settings, damage: Callable[..., None]) -> None:
    damage("DROP TABLE idempotency_key")
    *_, last = asyncio.run(prove(own)).findings
    assert (last.row, last.fault) == (
        "the rows", 'cannot be read: relation "idempotency_key" does not exist',
    )  # fmt: skip


def test_a_lost_shard_count_is_taken_from_the_settings_to_read_the_rows(
    own: Settings, damage: Callable[..., None]
) -> None:
    asyncio.run(fill(own))
    damage("ALTER TABLE ledger DISABLE TRIGGER USER", "DELETE FROM ledger")
    proof = asyncio.run(prove(own))
    assert (proof.shard_count, proof.entry_count) == (own.shard_count, 2)
    assert {finding.check for finding in proof.findings} == {"armour"}


def test_objects_beside_ours_are_no_damage(own: Settings, damage: Callable[..., None]) -> None:
    damage(
        "CREATE TABLE theirs (id int)",
        "CREATE FUNCTION theirs() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
        "CREATE TRIGGER theirs AFTER INSERT ON wallet FOR EACH ROW EXECUTE FUNCTION theirs()",
        "CREATE TRIGGER before_all BEFORE INSERT ON wallet EXECUTE FUNCTION theirs()",
        "CREATE TRIGGER off BEFORE INSERT ON wallet FOR EACH ROW EXECUTE FUNCTION theirs()",
        "ALTER TABLE wallet DISABLE TRIGGER off",
        "CREATE INDEX theirs_idx ON entry (executed_at)",
        "ALTER TABLE entry ADD CONSTRAINT theirs CHECK (seq > 0)",
        "ALTER TABLE transaction ADD COLUMN theirs text",
        "CREATE FUNCTION entry_law(int) RETURNS int LANGUAGE sql RETURN 1",
        # How full pages are kept is the operator's.
        "ALTER INDEX entry_pkey SET (fillfactor = 70)",
        "REINDEX TABLE entry",
    )
    assert damage_of(own) == []
    asyncio.run(fill(own))
