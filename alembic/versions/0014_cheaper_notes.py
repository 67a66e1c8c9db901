"""The bounds of notes at less cost: they are in the law, where they were CHECKs.

A statement reads and plans each CHECK of its tables anew, a law once a session; most statements write notes now.

It runs beside servers of the version before.

Revision ID: 0014
Revises: 0013
"""

from alembic import context, op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

# As in 0003: look-ups are fences, and temporary tables come last.
LAW_SETTINGS = "SET search_path FROM CURRENT SET enable_sort = off SET enable_incremental_sort = off SET jit = off"
OWN_TABLES_FIRST = "SELECT set_config('search_path', quote_ident(current_schema()) || ', pg_temp', true)"

CHECKS = {
    "something": "num_nonnulls(metadata, receipt, actor_kind, request_id) > 0",
    "metadata": "jsonb_typeof(metadata) = 'object' AND metadata <> '{}' AND octet_length(metadata::text) <= 32768",
    "receipt": "length(receipt) BETWEEN 1 AND 200",
}

TRANSACTION = """
      LEFT JOIN LATERAL (
           SELECT t.id FROM transaction t
            WHERE t.shard = n.shard AND t.id BETWEEN n.transaction_id AND n.transaction_id
            ORDER BY t.id LIMIT 1) AS t ON true"""

# What says nothing, or too much.
IS_OUT_OF_BOUNDS = """((n.request_id IS NULL AND n.actor_kind IS NULL AND n.metadata IS NULL AND n.receipt IS NULL)
            OR jsonb_typeof(n.metadata) <> 'object' OR n.metadata = '{}' OR octet_length(n.metadata::text) > 32768
            OR length(n.receipt) NOT BETWEEN 1 AND 200)"""


def is_half_known(length: str = "length") -> str:
    """Return the condition for what does not say who asked; `length` is the function that texts are measured by."""
    return f"""((n.actor_kind IS NULL) <> (n.actor_name IS NULL) OR n.actor_kind NOT BETWEEN 1 AND 4
            OR {length}(n.actor_name) NOT BETWEEN 1 AND 128 OR {length}(n.request_id) NOT BETWEEN 1 AND 128
            OR (n.at IS NULL) <> (n.actor_kind IS NULL AND n.request_id IS NULL) OR NOT isfinite(n.at))"""


NOTE_LAW = f"""
CREATE OR REPLACE FUNCTION transaction_note_law() RETURNS trigger LANGUAGE plpgsql {LAW_SETTINGS} AS $$
DECLARE
    broken record;
BEGIN
    -- Most notes are of transactions, have no receipt and, counted in bytes, short texts: others pay for the rest.
    PERFORM FROM inserted n {TRANSACTION}
      WHERE t.id IS NULL OR n.receipt IS NOT NULL OR {IS_OUT_OF_BOUNDS}
         OR {is_half_known("octet_length")};
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;

    SELECT found.*
      INTO broken
      FROM (SELECT n.shard, n.transaction_id,
                   {IS_OUT_OF_BOUNDS} IS TRUE AS is_out_of_bounds,
                   {is_half_known()} IS TRUE AS is_half_known,
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
     WHERE found.is_out_of_bounds OR found.is_half_known OR found.is_alone OR found.has_anothers_receipt
     LIMIT 1;
    IF NOT FOUND THEN
        RETURN NULL;
    ELSIF broken.is_out_of_bounds THEN
        RAISE EXCEPTION 'the note of transaction % (shard %) says nothing, or too much',
            broken.transaction_id, broken.shard
            USING ERRCODE = 'check_violation', CONSTRAINT = 'transaction_note_law_bounds';
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
    op.execute(OWN_TABLES_FIRST)
    # The law first: no note is ever without bounds.
    op.execute(NOTE_LAW)
    op.execute(f"ALTER TABLE transaction_note {', '.join(f'DROP CONSTRAINT {name_of(check)}' for check in CHECKS)}")


def downgrade() -> None:
    op.execute(OWN_TABLES_FIRST)
    # Each row keeps to them: by the law.
    added = ", ".join(f"ADD CONSTRAINT {name_of(check)} CHECK ({condition})" for check, condition in CHECKS.items())
    op.execute(f"ALTER TABLE transaction_note {added}")
    op.execute(context.script.get_revision("0012").module.NOTE_LAW)


def name_of(check: str) -> str:
    """Return a constraint's name."""
    return f"transaction_note_{check}_check"
