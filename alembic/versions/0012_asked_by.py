"""Who asked for a transaction, a step of a hold, or what became of a wallet, and by which request.

It is kept in `transaction_note`, whose `transaction_id` may be that of an event now: of a hold's step or of a wallet's
state. `at` is when it was asked for: what an actor or a request did is listed by it.

It runs beside servers of the version before, which keep none of it.

Revision ID: 0012
Revises: 0011
"""

import sqlalchemy as sa
from alembic import context, op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

# As in 0003: look-ups are fences, and temporary tables come last.
LAW_SETTINGS = "SET search_path FROM CURRENT SET enable_sort = off SET enable_incremental_sort = off SET jit = off"
OWN_TABLES_FIRST = "SELECT set_config('search_path', quote_ident(current_schema()) || ', pg_temp', true)"

COLUMNS = {"actor_kind": "smallint", "actor_name": 'text COLLATE "C"', "request_id": 'text COLLATE "C"'}
COLUMNS["at"] = "timestamptz"

SOMETHING_BEFORE = "metadata IS NOT NULL OR receipt IS NOT NULL"

SOMETHING = "num_nonnulls(metadata, receipt, actor_kind, request_id) > 0"

INDEXES = {
    "transaction_note_actor_name_idx": (
        "transaction_note (actor_name, at, transaction_id) WHERE actor_name IS NOT NULL"
    ),
    "transaction_note_request_id_idx": (
        "transaction_note (request_id, at, transaction_id) WHERE request_id IS NOT NULL"
    ),
    "wallet_state_shard_event_id_idx": "wallet_state (shard, event_id)",
}

TRANSACTION = """
      LEFT JOIN LATERAL (
           SELECT t.id FROM transaction t
            WHERE t.shard = n.shard AND t.id BETWEEN n.transaction_id AND n.transaction_id
            ORDER BY t.id LIMIT 1) AS t ON true"""

# The bounds of the new columns. They are no CHECK: each statement reads and plans that anew, a law once a session.
IS_HALF_KNOWN = """((n.actor_kind IS NULL) <> (n.actor_name IS NULL) OR n.actor_kind NOT BETWEEN 1 AND 4
            OR length(n.actor_name) NOT BETWEEN 1 AND 128 OR length(n.request_id) NOT BETWEEN 1 AND 128
            OR (n.at IS NULL) <> (n.actor_kind IS NULL AND n.request_id IS NULL) OR NOT isfinite(n.at))"""

NOTE_LAW = f"""
CREATE OR REPLACE FUNCTION transaction_note_law() RETURNS trigger LANGUAGE plpgsql {LAW_SETTINGS} AS $$
DECLARE
    broken record;
BEGIN
    -- Most notes are of transactions, and have no receipt: the others pay for the rest.
    PERFORM FROM inserted n {TRANSACTION}
      WHERE t.id IS NULL OR n.receipt IS NOT NULL OR {IS_HALF_KNOWN};
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;

    SELECT found.*
      INTO broken
      FROM (SELECT n.shard, n.transaction_id,
                   {IS_HALF_KNOWN} IS TRUE AS is_half_known,
                   -- A hold's step has the entry of its event.
                   t.id IS NULL
                   AND (SELECT true FROM entry e
                         WHERE e.shard = n.shard AND e.transaction_id BETWEEN n.transaction_id AND n.transaction_id
                         ORDER BY e.transaction_id LIMIT 1) IS NULL
                   AND (SELECT true FROM wallet_state s
                         WHERE s.shard = n.shard AND s.event_id BETWEEN n.transaction_id AND n.transaction_id
                         ORDER BY s.event_id LIMIT 1) IS NULL AS is_alone,
                   n.receipt IS NOT NULL
                   AND (SELECT (r.transaction_shard, r.transaction_id) = (n.shard, n.transaction_id) FROM receipt r
                         WHERE r.shard = receipt_shard(n.receipt) AND r.receipt BETWEEN n.receipt AND n.receipt
                         ORDER BY r.receipt LIMIT 1) IS NOT TRUE AS has_anothers_receipt
              FROM inserted n {TRANSACTION}
            OFFSET 0) AS found
     WHERE found.is_half_known OR found.is_alone OR found.has_anothers_receipt
     LIMIT 1;
    IF NOT FOUND THEN
        RETURN NULL;
    ELSIF broken.is_alone THEN
        RAISE EXCEPTION 'a note is of transaction % (shard %), which does not exist',
            broken.transaction_id, broken.shard
            USING ERRCODE = 'foreign_key_violation', CONSTRAINT = 'transaction_note_law_transaction';
    ELSIF broken.is_half_known THEN
        RAISE EXCEPTION 'the note of transaction % (shard %) does not say who asked for it as it should',
            broken.transaction_id, broken.shard
            USING ERRCODE = 'check_violation', CONSTRAINT = 'transaction_note_law_asked_by';
    END IF;
    RAISE EXCEPTION 'the receipt of transaction % (shard %) is another transaction''s, or is not kept',
        broken.transaction_id, broken.shard
        USING ERRCODE = 'check_violation', CONSTRAINT = 'transaction_note_law_receipt';
END
$$
"""


def upgrade() -> None:
    with op.get_context().autocommit_block():
        added = ", ".join(f"ADD COLUMN IF NOT EXISTS {name} {type_}" for name, type_ in COLUMNS.items())
        op.execute(f"ALTER TABLE transaction_note {added}")
        replace_check(SOMETHING)
        for index, columns in INDEXES.items():
            op.execute(f"DROP INDEX IF EXISTS {index}")
            op.execute(f"CREATE INDEX CONCURRENTLY {index} ON {columns}")
    op.execute(OWN_TABLES_FIRST)
    op.execute(NOTE_LAW)


def replace_check(condition: str) -> None:
    """Replace what a note has at least; rows are looked at without a lock that keeps others from writing."""
    constraint = "transaction_note_something_check"
    op.execute(
        f"ALTER TABLE transaction_note DROP CONSTRAINT IF EXISTS {constraint},"
        f" ADD CONSTRAINT {constraint} CHECK ({condition}) NOT VALID"
    )
    op.execute(f"ALTER TABLE transaction_note VALIDATE CONSTRAINT {constraint}")


def downgrade() -> None:
    # Before the look: what is under way ends first, and is seen.
    op.execute("LOCK TABLE transaction_note, wallet_state IN ACCESS EXCLUSIVE MODE")
    if op.get_bind().execute(sa.text("SELECT EXISTS (SELECT FROM transaction_note WHERE at IS NOT NULL)")).scalar():
        raise RuntimeError("Table transaction_note has rows that the version before cannot read, so it stays as it is.")
    op.execute(OWN_TABLES_FIRST)
    before = context.script.get_revision("0006").module.note_law(context.script.get_revision("0005").module.NOTE_LAW)
    op.execute(before)
    for index in INDEXES:
        op.execute(f"DROP INDEX {index}")
    replace_check(SOMETHING_BEFORE)
    op.execute(f"ALTER TABLE transaction_note {', '.join(f'DROP COLUMN {name}' for name in COLUMNS)}")
