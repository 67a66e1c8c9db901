"""Proves the books: every invariant of the ledger, shard by shard, in one snapshot.

Each check is a statement that returns the rows which break it, so an empty result is the proof. The snapshot is one
REPEATABLE READ transaction: verification runs beside live traffic without a false alarm.

What cannot be found without a seal outside the database:

- a removed tail of a shard together with its keys, a removed refusal, a consistent rewrite of a whole history;
- what was set of an asset, but for a setting that is missing between others;
- what nothing else repeats: an asset's scale and name, when wallets and accounts were opened, the ids of a transaction
  and of its key where they were changed in every place;
- an owner renamed to another of the same shard, a treasury stripe renamed to a slot that has none;
- of a refusal: another key, fingerprint or time, another wallet or balance where an account of that wallet held that
  balance within an hour of it (the clock may have been set meanwhile), another outcome within an amount of the limit;
  that one is on nothing, for bonuses alone may have been asked for;
- of a refusal that is not about a balance: all but that it names an asset;
- of a clawback and a closing: its fingerprint, so the closing's note;
- that a repayment is missing where a later one took all that was owed;
- of a hold that was adjusted: whether the request named an amount, and which ttl; so another end of it, while another
  hold ends before it and no step follows;
- of a hold for another owner that has nothing of lots: that it was to take from the pool alone, as its asset's policy
  may have it;
- of a spend or a transfer: whether the request named the source that it took from anyway;
- of a refund in an asset with lots that made no lot: its fingerprint, which may name an end that nothing got;
- from which lots a clawback took, and how much an adjustment earmarked of which, where what follows was changed, too;
- that a bonus within an hour of when its asset got lots is in none;
- of a limit: who set it, and another time between its neighbours' times; of a removal of none that was in force: which;
- that an account counts what moves from a later entry on than its limits ask for: what was not counted is summed;
- of a refusal by a limit: that another one was exceeded as well; and of a calendar's window when it began, where the
  amounts do not tell it.
"""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Final

from asyncpg import Connection

from wallet_gql.domain.money import INT64_MAX
from wallet_gql.domain.postings import TransactionType
from wallet_gql.domain.shards import shard_of
from wallet_gql.domain.wallets import WalletKind
from wallet_gql.ledger.lookups import all_rows, one_row
from wallet_gql.ledger.verify_accounts import ACCOUNT_CHECKS
from wallet_gql.ledger.verify_holds import HOLD_CHECKS
from wallet_gql.ledger.verify_issuance import ISSUANCE_CHECKS
from wallet_gql.ledger.verify_keys import KEY_CHECKS
from wallet_gql.ledger.verify_limits import LIMIT_CHECKS
from wallet_gql.ledger.verify_lot_uses import LOT_USE_CHECKS
from wallet_gql.ledger.verify_lots import LOT_CHECKS
from wallet_gql.ledger.verify_reversals import REVERSAL_CHECKS
from wallet_gql.ledger.verify_states import STATE_CHECKS
from wallet_gql.ledger.verify_terms import (
    ANY_LIMIT,
    CLAWBACK,
    EXPIRY,
    LATEST,
    OTHER_HALF,
    RECEIVED,
    SENT,
    USER,
    doubled,
)


@dataclass(frozen=True, slots=True)
class Finding:
    """What breaks an invariant: where it is, and what is wrong with it. What concerns all shards has none."""

    check: str
    shard: int | None
    row: str
    fault: str


FINDINGS_PER_CHECK_MAX: Final = 10
"""Rows that one check reports in one shard: the first ones name the damage."""

_CLEARING: Final = f"{WalletKind.CLEARING:d}"


def _owners_leg(transaction: str, sign: str, where: str = "true") -> str:
    """Return a look-up of what an owner's leg of that sign moves, and in which asset; only `where` it matters."""
    leg = all_rows("entry", "e", by="transaction_id", shard=f"{transaction}.shard", transaction_id=f"{transaction}.id")
    account = one_row("account", "a", by="id", shard="e.shard", id="e.account_id")
    return f"""LATERAL (
        SELECT abs(e.amount) AS amount, a.asset_id FROM {leg} CROSS JOIN {account}
         WHERE {where} AND e.amount {sign} 0 AND a.wallet_kind = {USER} LIMIT 1)"""


def _note(transaction: str) -> str:
    """Return a look-up of the note of a transaction."""
    row = one_row(
        "transaction_note", "n", by="transaction_id", shard=f"{transaction}.shard", transaction_id=f"{transaction}.id"
    )
    return f"{row[: -len(' AS n')]} AS {transaction}_note"


_HALVES: Final = f"({SENT}, {RECEIVED}), ({RECEIVED}, {SENT}), ({CLAWBACK}, {RECEIVED}), ({RECEIVED}, {CLAWBACK})"
"""The types of two transactions that are halves of one movement between owners."""

_RECEIPT_OF_NOTE: Final = one_row("receipt", "r", by="receipt", shard="receipt_shard(n.receipt)", receipt="n.receipt")
# An event of a hold has an entry of its id.
_EVENT_OF_NOTE: Final = one_row(
    "entry",
    "e",
    by="transaction_id",
    shard="n.shard",
    transaction_id="CASE WHEN t.id IS NULL THEN n.transaction_id END",
)
_STATE_OF_NOTE: Final = one_row(
    "wallet_state", "s", by="event_id", shard="n.shard", event_id="CASE WHEN t.id IS NULL THEN n.transaction_id END"
)
_NOTE_OF_RECEIPT: Final = one_row(
    "transaction_note", "n", by="transaction_id", shard="r.transaction_shard", transaction_id="r.transaction_id"
)

_BALANCE: Final = "coalesce(p.balance_after, 0)::numeric + e.amount"

# As bigint where the sum surely is one: that is three times as fast as numeric, in which no sum overflows.
_WRONG_BALANCE: Final = f"""CASE WHEN p.balance_after BETWEEN -{INT64_MAX // 2} AND {INT64_MAX // 2}
                         AND e.amount BETWEEN -{INT64_MAX // 2} AND {INT64_MAX // 2}
                    THEN e.balance_after <> p.balance_after + e.amount
                    ELSE e.balance_after <> {_BALANCE} END"""

_POSITION: Final = "coalesce({0}.position, {0}.seq, 0)"

_HELD_COLUMNS: Final = "{0}.held_seq, coalesce({0}.held_after, 0)"

# Of an account with lots what is due is proved with them.
_HELD_DIFFERS: Final = f"""(({_HELD_COLUMNS.format("e")}) IS DISTINCT FROM ({_HELD_COLUMNS.format("p")})
                      OR (e.lots_seq IS NULL AND e.next_due_at IS DISTINCT FROM p.next_due_at))"""

# What the checks of lots, which begin with the entries that name some, would not see.
_WITHOUT_LOTS: Final = f"""(e.lots_seq IS NULL
                      AND (p.lots_seq IS NOT NULL OR e.lots_after IS NOT NULL OR e.live_lots IS NOT NULL
                           OR (e.type = {EXPIRY} AND a.wallet_kind = {USER})))"""

# What the checks of limits, which begin where there ever were some, would not see.
_WITHOUT_LIMITS: Final = f"(e.flows IS NOT NULL AND NOT {ANY_LIMIT})"

# Each returns (row, fault) for a shard. What is counted or summed comes from the log alone.
_CHECKS: Final = {
    "chain": f"""
        SELECT format('account %s (%s), seq %s', e.account_id, coalesce(
                      (SELECT w.owner_id FROM wallet w WHERE w.shard = $1 AND w.id = a.wallet_id), '?'), e.seq),
               CASE WHEN a.id IS NULL THEN 'its account does not exist'
                    WHEN p.seq IS NULL AND e.seq <> 1
                    THEN format('follows seq %s: entries between are missing',
                                (SELECT coalesce(max(x.seq), 0) FROM entry x
                                  WHERE x.shard = $1 AND x.account_id = e.account_id AND x.seq < e.seq))
                    WHEN {_WRONG_BALANCE}
                    THEN format('balance after it is %s, but should be %s', e.balance_after, {_BALANCE})
                    WHEN e.may_go_negative <> a.may_go_negative THEN 'may_go_negative is not its account''s'
                    WHEN e.balance_after < 0 AND a.wallet_kind = {USER}
                    THEN format('an owner''s balance is negative: %s', e.balance_after)
                    WHEN e.amount = 0 AND e.held_seq IS DISTINCT FROM e.seq THEN 'moves nothing'
                    WHEN e.held_after > e.balance_after
                    THEN format('%s is held, but the balance is %s', e.held_after, e.balance_after)
                    WHEN {_POSITION.format("e")} <> {_POSITION.format("p")} + (e.amount <> 0)::int
                    THEN format('its position is %s, but should be %s',
                                {_POSITION.format("e")}, {_POSITION.format("p")} + (e.amount <> 0)::int)
                    WHEN e.held_seq = e.seq AND st.seq IS NULL THEN 'no step of a hold belongs to it'
                    WHEN e.held_seq = e.seq AND coalesce(e.held_after, 0) <> coalesce(p.held_after, 0) + st.change
                    THEN format('%s is held after it, but should be %s',
                                coalesce(e.held_after, 0), coalesce(p.held_after, 0) + st.change)
                    WHEN e.held_seq IS DISTINCT FROM e.seq AND {_HELD_DIFFERS}
                    THEN 'what is held differs from the entry before it, without a step of a hold'
                    WHEN {_WITHOUT_LOTS} THEN 'does not say what is in lots'
                    WHEN e.lots_seq IS NOT NULL AND a.wallet_kind <> {USER} THEN 'has lots, but is not an owner''s'
                    WHEN {_WITHOUT_LIMITS} THEN 'counts what moved, but nothing was ever limited'
                    WHEN e.executed_at = '-infinity' THEN 'has no time'
                    WHEN e.executed_at > {LATEST}
                    THEN format('is dated in the future: %s', e.executed_at)
                    ELSE 'is older than the entry before it' END
          FROM entry e
          LEFT JOIN entry p ON p.shard = $1 AND p.account_id = e.account_id AND p.seq = e.seq - 1
          LEFT JOIN account a ON a.shard = $1 AND a.id = e.account_id
          LEFT JOIN hold_step st
            ON st.shard = $1 AND st.account_id = e.account_id AND st.seq = e.seq AND e.held_seq = e.seq
         WHERE e.shard = $1
           AND (a.id IS NULL OR (p.seq IS NULL AND e.seq <> 1) OR {_WRONG_BALANCE}
            OR e.may_go_negative <> a.may_go_negative OR (e.balance_after < 0 AND a.wallet_kind = {USER})
            OR e.held_after > e.balance_after
            OR {_POSITION.format("e")} <> {_POSITION.format("p")} + (e.amount <> 0)::int
            OR CASE WHEN e.held_seq = e.seq
                    THEN st.seq IS NULL OR coalesce(e.held_after, 0) <> coalesce(p.held_after, 0) + st.change
                    ELSE e.amount = 0 OR {_HELD_DIFFERS} END
            OR {_WITHOUT_LOTS} OR (e.lots_seq IS NOT NULL AND a.wallet_kind <> {USER}) OR {_WITHOUT_LIMITS}
            OR e.executed_at = '-infinity' OR e.executed_at > {LATEST}
            -- A stripe's entries have the times of their transactions, which only follow the owner's.
            OR (e.executed_at < p.executed_at AND a.wallet_kind = {USER}))
         ORDER BY e.account_id, e.seq""",
    # With the chains it proves that each balance is the sum of the account's entries.
    "doubled entry": doubled("entry", "account %s, seq %s", "account_id", "seq"),
    "transaction": f"""
        SELECT format('transaction %s', coalesce(t.id, legs.transaction_id)),
               CASE WHEN t.id IS NULL
                    THEN format('does not exist, but entry %s is a leg of it',
                                (SELECT min(format('(account %s, seq %s)', e.account_id, e.seq)) FROM entry e
                                  WHERE e.shard = $1 AND e.transaction_id = legs.transaction_id))
                    WHEN legs.transaction_id IS NULL THEN 'has no legs'
                    WHEN legs.excess <> 0 THEN 'its legs do not sum to zero'
                    WHEN legs.first_type <> t.type OR legs.last_type <> t.type
                    THEN format('is of type %s, but a leg is not', t.type)
                    WHEN legs.first_time <> t.executed_at OR legs.last_time <> t.executed_at
                    THEN 'its time is not that of its legs'
                    WHEN legs.wallet_id <> t.wallet_id
                    THEN format('is wallet %s''s, but a leg is wallet %s''s', t.wallet_id, legs.wallet_id)
                    WHEN legs.leg_count NOT IN (SELECT count(*) FROM transaction_shape s
                                                 WHERE s.type = t.type GROUP BY s.variant)
                         OR legs.owner_leg_count > 1
                    THEN format('has %s legs, %s of them an owner''s', legs.leg_count, legs.owner_leg_count)
                    WHEN (t.counterpart_id IS NOT NULL) <> (legs.bits & {3 << 2 * WalletKind.CLEARING} <> 0)
                    THEN 'has another half or a leg of clearing, but not both'
                    WHEN legs.first_asset <> legs.last_asset THEN 'its legs are of more than one asset'
                    ELSE format('type %s does not move %s', t.type, (
                         SELECT sum(e.amount) FROM entry e
                           JOIN account a ON a.shard = $1 AND a.id = e.account_id AND a.wallet_kind = {USER}
                          WHERE e.shard = $1 AND e.transaction_id = t.id)) END
          FROM (SELECT e.transaction_id, sum(e.amount) AS excess, count(*) AS leg_count,
                       min(a.asset_id) AS first_asset, max(a.asset_id) AS last_asset,
                       min(e.type) AS first_type, max(e.type) AS last_type,
                       min(e.executed_at) AS first_time, max(e.executed_at) AS last_time,
                       bit_or(1 << (2 * a.wallet_kind + (e.amount > 0)::int)) AS bits,
                       count(*) FILTER (WHERE a.wallet_kind = {USER}) AS owner_leg_count,
                       max(a.wallet_id) FILTER (WHERE a.wallet_kind = {USER}) AS wallet_id
                  FROM entry e
                  LEFT JOIN account a ON a.shard = $1 AND a.id = e.account_id
                 WHERE e.shard = $1 AND e.amount <> 0
                 GROUP BY e.transaction_id) AS legs
          FULL JOIN (SELECT * FROM transaction WHERE shard = $1) AS t ON t.id = legs.transaction_id
          -- As the law of entries does: a bit for each kind of wallet and sign, as many bits as legs.
          LEFT JOIN (SELECT type, count(*) AS leg_count, bit_or(1 << (2 * wallet_kind + (sign > 0)::int)) AS bits,
                            count(*) FILTER (WHERE wallet_kind = {USER}) AS owner_leg_count,
                            bool_or(wallet_kind = {_CLEARING}) AS has_halves
                       FROM transaction_shape GROUP BY type, variant) AS shape
            ON (shape.type, shape.leg_count, shape.bits) = (t.type, legs.leg_count, legs.bits)
           AND shape.has_halves = (t.counterpart_id IS NOT NULL)
         WHERE t.id IS NULL OR legs.transaction_id IS NULL OR legs.excess <> 0 OR legs.first_asset <> legs.last_asset
            OR legs.first_type <> t.type OR legs.last_type <> t.type
            OR legs.first_time <> t.executed_at OR legs.last_time <> t.executed_at
            OR shape.type IS NULL OR legs.owner_leg_count <> shape.owner_leg_count OR legs.wallet_id <> t.wallet_id
         ORDER BY 1""",
    "doubled transaction": doubled("transaction", "transaction %s", "id"),
    "transfer": f"""
        SELECT format('transaction %s', t.id),
               CASE WHEN o.id IS NULL
                    THEN format('its other half, transaction %s of shard %s, does not exist',
                                t.counterpart_id, t.counterpart_shard)
                    WHEN (o.counterpart_shard, o.counterpart_id) IS DISTINCT FROM (t.shard, t.id)
                    THEN format('its other half, transaction %s, names transaction %s', o.id, o.counterpart_id)
                    WHEN (t.type, o.type) NOT IN ({_HALVES})
                    THEN format('is of type %s, but its other half, transaction %s, of type %s', t.type, o.id, o.type)
                    WHEN o.wallet_id = t.wallet_id AND o.shard = t.shard THEN 'is between a wallet and itself'
                    WHEN (own.amount, own.asset_id) IS DISTINCT FROM (other.amount, other.asset_id)
                    THEN format('moves %s of asset %s, but its other half, transaction %s, moves %s of asset %s',
                                own.amount, own.asset_id, o.id, other.amount, other.asset_id)
                    WHEN o.executed_at <> t.executed_at
                    THEN format('its time is not that of its other half, transaction %s', o.id)
                    ELSE format('its texts are not those of its other half, transaction %s', o.id) END
          FROM transaction t
          LEFT JOIN {OTHER_HALF} ON true
          LEFT JOIN {_note("t")} ON true
          LEFT JOIN {_note("o")} ON true
         -- Of two halves the one that gives is compared: that is half the work.
          LEFT JOIN {_owners_leg("t", "<", f"t.type <> {RECEIVED}")} AS own ON true
          LEFT JOIN {_owners_leg("o", ">", f"t.type <> {RECEIVED}")} AS other ON true
         WHERE t.shard = $1 AND (t.type IN ({SENT}, {RECEIVED}) OR t.counterpart_id IS NOT NULL)
           AND (o.id IS NULL OR (t.type, o.type) NOT IN ({_HALVES})
                OR (o.counterpart_shard, o.counterpart_id) IS DISTINCT FROM (t.shard, t.id)
                OR (o.wallet_id = t.wallet_id AND o.shard = t.shard)
                OR (own.amount, own.asset_id) IS DISTINCT FROM (other.amount, other.asset_id)
                OR o.executed_at <> t.executed_at
                -- What a client asked for is in the fingerprint, which only the sender's half has.
                OR (o.description, o.reference, o_note.metadata)
                   IS DISTINCT FROM (t.description, t.reference, t_note.metadata))
         ORDER BY t.id""",
    **HOLD_CHECKS,
    **LOT_CHECKS,
    **LOT_USE_CHECKS,
    **STATE_CHECKS,
    **REVERSAL_CHECKS,
    **ISSUANCE_CHECKS,
    **LIMIT_CHECKS,
    "note": f"""
        SELECT format('note of transaction %s', n.transaction_id),
               CASE WHEN t.id IS NULL AND e.seq IS NULL AND s.step IS NULL THEN 'its transaction does not exist'
                    WHEN r.receipt IS NULL THEN 'its receipt is not kept where it is looked for'
                    ELSE format('its receipt is that of transaction %s', r.transaction_id) END
          FROM transaction_note n
          LEFT JOIN transaction t ON t.shard = n.shard AND t.id = n.transaction_id
          LEFT JOIN {_EVENT_OF_NOTE} ON t.id IS NULL
          LEFT JOIN {_STATE_OF_NOTE} ON t.id IS NULL AND e.seq IS NULL
          LEFT JOIN {_RECEIPT_OF_NOTE} ON true
         WHERE n.shard = $1
           AND ((t.id IS NULL AND e.seq IS NULL AND s.step IS NULL)
                OR (n.receipt IS NOT NULL
                    AND (r.transaction_shard, r.transaction_id) IS DISTINCT FROM (n.shard, n.transaction_id)))
         ORDER BY n.transaction_id""",
    "receipt": f"""
        SELECT format('receipt %s', r.receipt),
               CASE WHEN r.shard <> receipt_shard(r.receipt) THEN 'is in another shard than its own'
                    WHEN n.receipt IS DISTINCT FROM r.receipt
                    THEN format('transaction %s of shard %s does not have it', r.transaction_id, r.transaction_shard)
                    ELSE format('transaction %s of shard %s is no top-up', r.transaction_id, r.transaction_shard) END
          FROM receipt r
          LEFT JOIN {_NOTE_OF_RECEIPT} ON true
          LEFT JOIN {one_row("transaction", "t", by="id", shard="r.transaction_shard", id="r.transaction_id")} ON true
         WHERE r.shard = $1
           AND (r.shard <> receipt_shard(r.receipt) OR n.receipt IS DISTINCT FROM r.receipt
                OR t.type IS DISTINCT FROM {TransactionType.TOP_UP:d})
         ORDER BY r.receipt""",
    **KEY_CHECKS,
    **ACCOUNT_CHECKS,
}

CHECK_COUNT: Final = len(_CHECKS) + 1
"""How many checks a shard has."""

_ASSETS: Final = """
SELECT format('asset %s (%s)', s.id, s.code), 'is there more than once'
  FROM (SELECT s.*, count(*) OVER (PARTITION BY s.id) AS same_id, count(*) OVER (PARTITION BY s.code) AS same_code
          FROM asset s) AS s
 WHERE s.same_id > 1 OR s.same_code > 1
 ORDER BY s.id
"""

_SETTINGS: Final = """
SELECT format('setting %s of asset %s', n.step, n.asset_id),
       CASE WHEN n.step <> n.step_before + 1 THEN 'does not follow the one before it'
            ELSE 'takes lots from an asset that has them for ever' END
  FROM (SELECT n.*, coalesce(lag(n.step) OVER chain, 0) AS step_before, lag(n.has_lots) OVER chain AS had_lots
          FROM asset_setting n
        WINDOW chain AS (PARTITION BY n.asset_id ORDER BY n.step)) AS n
 WHERE n.step <> n.step_before + 1 OR n.had_lots > n.has_lots
 ORDER BY n.asset_id, n.step
"""

_CLEARED: Final = f"""
SELECT format('asset %s (%s)', s.id, s.code), format('clearing holds %s, but should hold nothing', sum(h.balance_after))
  FROM account a
 CROSS JOIN LATERAL (SELECT e.balance_after FROM entry e WHERE e.shard = a.shard AND e.account_id = a.id
                      ORDER BY e.seq DESC LIMIT 1) AS h
  JOIN asset s ON s.id = a.asset_id
 WHERE a.wallet_kind = {_CLEARING}
 GROUP BY s.id, s.code
HAVING sum(h.balance_after) <> 0
 ORDER BY s.id
"""

_OUTSIDE: Final = """
SELECT DISTINCT shard, name FROM (
  SELECT shard, 'wallet' AS name FROM wallet UNION ALL SELECT shard, 'account' FROM account
  UNION ALL SELECT shard, 'transaction' FROM transaction UNION ALL SELECT shard, 'entry' FROM entry
  UNION ALL SELECT shard, 'idempotency_key' FROM idempotency_key
  UNION ALL SELECT shard, 'wallet_state' FROM wallet_state UNION ALL SELECT shard, 'reversal' FROM reversal
  UNION ALL SELECT shard, 'hold' FROM hold UNION ALL SELECT shard, 'hold_step' FROM hold_step
  UNION ALL SELECT shard, 'transaction_note' FROM transaction_note UNION ALL SELECT shard, 'receipt' FROM receipt
  UNION ALL SELECT shard, 'issuance' FROM issuance UNION ALL SELECT shard, 'lot' FROM lot
  UNION ALL SELECT shard, 'lot_step' FROM lot_step UNION ALL SELECT shard, 'limit_rule' FROM limit_rule
) AS rows
 WHERE shard NOT BETWEEN 0 AND $1 - 1
 ORDER BY shard, name
"""


async def verify_shard(
    connection: Connection, shard: int, shard_count: int, on_check: Callable[[], object] = lambda: None
) -> AsyncIterator[Finding]:
    """Yield what is wrong in a shard; the caller holds the snapshot. `on_check` is called after each check."""
    for check, statement in _CHECKS.items():
        for row, fault in await connection.fetch(f"{statement} LIMIT {FINDINGS_PER_CHECK_MAX}", shard):
            yield Finding(check, shard, row, fault)
        on_check()
    # The shard of an owner is a BLAKE2b, which SQL does not have: wallets are streamed.
    found = 0
    async for id_, owner_id in connection.cursor(
        f"SELECT id, owner_id FROM wallet WHERE shard = $1 AND kind = {USER} AND owner_id IS NOT NULL ORDER BY id",
        shard,
        prefetch=5000,
    ):
        right = shard_of.__wrapped__(owner_id, shard_count)
        if right != shard:
            yield Finding("wallet", shard, f"wallet {id_} ({owner_id})", f"belongs in shard {right}")
            found += 1
            if found == FINDINGS_PER_CHECK_MAX:
                break
    on_check()


async def verify_outside(connection: Connection, shard_count: int) -> AsyncIterator[Finding]:
    """Yield what is wrong in no shard: assets and their settings, clearing's balance, rows in shards past the last."""
    for check, statement in (("asset", _ASSETS), ("asset setting", _SETTINGS), ("clearing", _CLEARED)):
        for row, fault in await connection.fetch(f"{statement} LIMIT {FINDINGS_PER_CHECK_MAX}"):
            yield Finding(check, None, row, fault)
    for shard, table in await connection.fetch(_OUTSIDE, shard_count):
        yield Finding("shard", shard, f"table {table}", f"has rows in a shard past the last, {shard_count - 1}")


async def count_entries(connection: Connection, shard: int) -> int:
    """Return the number of entries in a shard."""
    count: int = await connection.fetchval("SELECT count(*) FROM entry WHERE shard = $1", shard)
    return count
