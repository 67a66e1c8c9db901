"""The law of entries and the clock at less cost.

- The law of entries is what is run most: its look-ups return the columns that it reads; a transaction's shape is looked
  up among those of its type, where all of them were put together for each statement; what is particular to debts is
  looked at where they move; and legs are put together once, for all of a transaction are of one asset. That is the one
  thing it says that it did not: a clawback that owes could take one asset and owe another. No request asks for that,
  and `verify` calls it a fault.
- `wallet_now()` names its table for good, so that it needs no search path of its own to be set at each call.

It runs beside servers of the version before.

Revision ID: 0010
Revises: 0009
"""

from alembic import context, op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

# As in 0003: look-ups are fences, and temporary tables come last.
LAW_SETTINGS = "SET search_path FROM CURRENT SET enable_sort = off SET enable_incremental_sort = off SET jit = off"
OWN_TABLES_FIRST = "SELECT set_config('search_path', quote_ident(current_schema()) || ', pg_temp', true)"

WALLET_NOW = """
CREATE OR REPLACE FUNCTION wallet_now() RETURNS timestamptz LANGUAGE sql VOLATILE
RETURN clock_timestamp()
       + coalesce((SELECT make_interval(secs => o.seconds) FROM clock_offset o ORDER BY o.step DESC LIMIT 1), '0')
"""


def owner(shard: str, wallet: str) -> str:
    """Return a look-up of whose wallet it is."""
    return (
        f"(SELECT w.owner_id FROM wallet w WHERE w.shard = {shard} AND w.id BETWEEN {wallet} AND {wallet}"
        " ORDER BY w.id LIMIT 1)"
    )


ENTRY_LAW = f"""
CREATE OR REPLACE FUNCTION entry_law() RETURNS trigger LANGUAGE plpgsql {LAW_SETTINGS} AS $$
DECLARE
    broken record;
    fault text;
BEGIN
    WITH leg AS (
        -- The chain: each entry follows the one before it on the same account.
        SELECT e.shard, e.account_id, e.seq, e.transaction_id, e.type, e.amount, a.asset_id, a.wallet_kind,
               CASE WHEN a.id IS NULL THEN 'no such account in this shard'
                    WHEN a.may_go_negative <> e.may_go_negative THEN 'may_go_negative is not its account''s'
                    WHEN t.id IS NULL AND e.amount <> 0 THEN 'no such transaction in this shard'
                    WHEN (t.type, t.executed_at) <> (e.type, e.executed_at)
                    THEN 'type or time is not its transaction''s'
                    WHEN a.wallet_kind = 1 AND a.wallet_id <> t.wallet_id THEN 'its wallet is not its transaction''s'
                    WHEN e.seq > 1 AND p.seq IS NULL THEN 'the entry before it is missing'
                    -- Of owners only: a system's entry carries the time that its owner's chain asks for.
                    WHEN a.wallet_kind = 1 AND p.executed_at > e.executed_at
                    THEN 'it is older than the entry before it'
                    WHEN e.balance_after <> coalesce(p.balance_after, 0) + e.amount
                    THEN 'balance_after is not the balance before it plus amount'
                    WHEN e.type = 6 AND a.wallet_kind = 1 AND e.held_seq IS DISTINCT FROM e.seq
                    THEN 'it captures no hold'
                    WHEN e.held_seq IS NULL AND p.held_seq IS NOT NULL
                    THEN 'what is held differs from the entry before it, without a step of a hold' END AS fault
          FROM inserted e
          LEFT JOIN LATERAL (
               SELECT a.id, a.wallet_id, a.wallet_kind, a.asset_id, a.may_go_negative FROM account a
                WHERE a.shard = e.shard AND a.id BETWEEN e.account_id AND e.account_id
                ORDER BY a.id LIMIT 1) AS a ON true
          LEFT JOIN LATERAL (
               SELECT t.id, t.type, t.wallet_id, t.executed_at FROM transaction t
                WHERE t.shard = e.shard AND t.id BETWEEN e.transaction_id AND e.transaction_id
                ORDER BY t.id LIMIT 1) AS t ON true
          LEFT JOIN LATERAL (
               SELECT p.seq, p.executed_at, p.balance_after, p.held_seq FROM entry p
                WHERE p.shard = e.shard AND p.account_id = e.account_id AND p.seq BETWEEN e.seq - 1 AND e.seq - 1
                ORDER BY p.seq LIMIT 1) AS p ON true
    ), moved AS (
        SELECT leg.shard, leg.transaction_id, min(leg.type) AS type,
               count(*) AS leg_count, sum(leg.amount) AS excess, bool_and(leg.amount = 0) AS is_hold,
               min(leg.asset_id) <> max(leg.asset_id) AS is_mixed,
               -- A bit for each kind of wallet and sign: as many bits as legs, so that no two legs are alike.
               bit_or(1 << (2 * leg.wallet_kind + (leg.amount > 0)::int)) AS bits,
               min(CASE WHEN leg.fault IS NOT NULL
                        THEN format('entry (shard %s, account %s, seq %s) breaks the chain: %s',
                                    leg.shard, leg.account_id, leg.seq, leg.fault) END) AS fault
          FROM leg
         GROUP BY leg.shard, leg.transaction_id
    ), judged AS MATERIALIZED (
        SELECT moved.*,
               (SELECT count(*)
                  FROM (SELECT FROM entry s
                         WHERE s.shard = moved.shard
                           AND s.transaction_id BETWEEN moved.transaction_id AND moved.transaction_id
                         ORDER BY s.transaction_id) AS s) AS all_leg_count,
               -- An entry that moves nothing stands alone: its step says what it is.
               CASE WHEN moved.is_hold THEN moved.leg_count = 1
                    ELSE EXISTS (
                         SELECT FROM transaction_shape s
                          WHERE s.type BETWEEN moved.type AND moved.type
                          GROUP BY s.type, s.variant
                         HAVING count(*) = moved.leg_count
                                AND bit_or(1 << (2 * s.wallet_kind + (s.sign > 0)::int)) = moved.bits) END AS has_shape
          FROM moved
    )
    SELECT judged.*
      INTO broken
      FROM judged
     WHERE judged.fault IS NOT NULL OR judged.excess <> 0 OR judged.is_mixed
        OR judged.leg_count <> judged.all_leg_count OR NOT judged.has_shape
     LIMIT 1;
    IF broken.fault IS NOT NULL THEN
        RAISE EXCEPTION '%', broken.fault
            USING ERRCODE = 'check_violation', CONSTRAINT = 'entry_law_chain';
    ELSIF broken.excess <> 0 THEN
        -- Double entry: the legs of a transaction, all of one asset, sum to zero.
        RAISE EXCEPTION 'transaction % (shard %) is unbalanced by %',
            broken.transaction_id, broken.shard, broken.excess
            USING ERRCODE = 'check_violation', CONSTRAINT = 'entry_law_balanced';
    ELSIF broken.leg_count <> broken.all_leg_count THEN
        -- All legs of a transaction are in one statement: none is ever added to an old one.
        RAISE EXCEPTION 'transaction % (shard %) has legs from an earlier statement',
            broken.transaction_id, broken.shard
            USING ERRCODE = 'check_violation', CONSTRAINT = 'entry_law_legs';
    ELSIF NOT broken.has_shape THEN
        RAISE EXCEPTION 'transaction % (shard %) does not have the legs of type %',
            broken.transaction_id, broken.shard, broken.type
            USING ERRCODE = 'check_violation', CONSTRAINT = 'entry_law_shape',
                  HINT = 'The table transaction_shape says which legs a type has.';
    ELSIF broken.is_mixed THEN
        RAISE EXCEPTION 'transaction % (shard %) is unbalanced: its legs are of more than one asset',
            broken.transaction_id, broken.shard
            USING ERRCODE = 'check_violation', CONSTRAINT = 'entry_law_balanced';
    END IF;

    -- Accounts without holds pay nothing for this part.
    IF EXISTS (SELECT FROM inserted e WHERE e.held_seq IS NOT NULL) THEN
        SELECT format('entry (shard %s, account %s, seq %s) breaks the chain: %s',
                      e.shard, e.account_id, e.seq,
                      CASE WHEN e.position <> coalesce(p.position, p.seq, 0) + (e.amount <> 0)::int
                           THEN 'position does not count the entries that move credits'
                           -- Changed by the step of a hold that belongs to this entry, else as it was.
                           WHEN e.held_seq = e.seq
                           THEN 'held_after is not what was held before it and the step of its hold'
                           ELSE 'what is held differs from the entry before it, without a step of a hold' END)
          INTO fault
          FROM inserted e
          LEFT JOIN LATERAL (
               SELECT p.seq, p.held_after, p.held_seq, p.position, p.next_due_at FROM entry p
                WHERE p.shard = e.shard AND p.account_id = e.account_id AND p.seq BETWEEN e.seq - 1 AND e.seq - 1
                ORDER BY p.seq LIMIT 1) AS p ON true
          LEFT JOIN LATERAL (
               SELECT s.seq, s.event_id, s.kind, s.change FROM hold_step s
                WHERE s.shard = e.shard AND s.account_id = e.account_id AND s.seq BETWEEN e.seq AND e.seq
                ORDER BY s.seq LIMIT 1) AS s ON true
         WHERE e.held_seq IS NOT NULL
           AND (e.position <> coalesce(p.position, p.seq, 0) + (e.amount <> 0)::int
                OR CASE WHEN e.held_seq = e.seq
                        THEN s.seq IS NULL OR s.event_id <> e.transaction_id OR (e.amount = 0 AND s.kind <> e.type)
                             OR e.held_after <> coalesce(p.held_after, 0) + s.change
                        ELSE e.amount = 0 OR (e.held_seq, e.held_after, e.next_due_at)
                                             IS DISTINCT FROM (p.held_seq, p.held_after, p.next_due_at) END)
         LIMIT 1;
    END IF;

    -- Nor do types that move no debts: the shapes of those before 8 have none.
    IF fault IS NULL AND EXISTS (SELECT FROM inserted e WHERE e.type BETWEEN 8 AND 50) THEN
        SELECT format('entry (shard %s, account %s, seq %s) breaks the chain: %s',
                      e.shard, e.account_id, e.seq,
                      CASE WHEN e.balance_after > 0 THEN 'a debt is never above zero'
                           ELSE 'it is a debt of another owner' END)
          INTO fault
          FROM inserted e
         CROSS JOIN LATERAL (
               SELECT a.wallet_kind, a.wallet_id FROM account a
                WHERE a.shard = e.shard AND a.id BETWEEN e.account_id AND e.account_id
                ORDER BY a.id LIMIT 1) AS a
         CROSS JOIN LATERAL (
               SELECT t.wallet_id FROM transaction t
                WHERE t.shard = e.shard AND t.id BETWEEN e.transaction_id AND e.transaction_id
                ORDER BY t.id LIMIT 1) AS t
         WHERE a.wallet_kind = 4
           AND (e.balance_after > 0
                OR {owner("e.shard", "a.wallet_id")}
                   IS DISTINCT FROM {owner("e.shard", "t.wallet_id")})
         LIMIT 1;
    END IF;

    IF fault IS NOT NULL THEN
        RAISE EXCEPTION '%', fault USING ERRCODE = 'check_violation', CONSTRAINT = 'entry_law_chain';
    END IF;
    RETURN NULL;
END
$$
"""


def upgrade() -> None:
    op.execute(OWN_TABLES_FIRST)
    op.execute(ENTRY_LAW)
    op.execute(WALLET_NOW)


def downgrade() -> None:
    op.execute(OWN_TABLES_FIRST)
    op.execute(context.script.get_revision("0009").module.entry_law())
    before = context.script.get_revision("0007").module.WALLET_NOW
    op.execute(before.replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION"))
