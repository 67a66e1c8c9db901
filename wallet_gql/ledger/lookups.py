"""Look-ups by a whole key, whatever the planner believes and whenever it planned.

Statistics of a growing table are old, and plans are older: a session keeps one that was made while the table was
empty. Left to itself PostgreSQL then takes another index that begins with the same `shard`, for both seem to cost the
same, and reads the whole shard. Two fences leave it one plan only:

- A look-up is a LATERAL subquery that is sorted, so it is planned alone and run once for each row before it.
- Its order is by the column that tells its index from the table's others, in a range of one value: by an equality
  the order would be void. Only the right index gives that order, and the service's sessions do not sort rows
  (`enable_sort`, see `db.engine`) where an index can.

The laws in the migrations are written in the same way.
"""

from typing import Final

from wallet_gql.domain.wallets import WalletKind


def all_rows(table: str, alias: str, by: str, limit: str = "", **key: str) -> str:
    """Return an item for FROM: the rows of `table` whose columns equal the expressions in `key`, ordered `by` one."""
    conditions = " AND ".join(
        f"{alias}.{column} BETWEEN {value} AND {value}" if column == by else f"{alias}.{column} = {value}"
        for column, value in key.items()
    )
    return f"LATERAL (SELECT * FROM {table} {alias} WHERE {conditions} ORDER BY {alias}.{by}{limit}) AS {alias}"


def one_row(table: str, alias: str, by: str, **key: str) -> str:
    """Return an item for FROM: the one row of `table` whose columns equal the expressions in `key`."""
    return all_rows(table, alias, by, " LIMIT 1", **key)


ACCOUNT: Final = one_row(
    "account", "a", by="asset_id", shard="wanted.shard", wallet_id="wanted.wallet_id", asset_id="wanted.asset_id"
)
"""The account `a` of the wallet and asset in `wanted`."""

HEAD: Final = """LATERAL (
       SELECT e.seq, e.balance_after, e.executed_at, e.held_after, e.held_seq, e.position, e.next_due_at, e.lots_after,
              e.lots_seq, e.flows
         FROM entry e
        WHERE e.shard = a.shard AND e.account_id = a.id
        ORDER BY e.seq DESC
        LIMIT 1) AS head"""
"""The last entry of the account `a`."""

STATE: Final = """LATERAL (
       SELECT s.step, s.debt_wallet_id
         FROM wallet_state s
        WHERE s.shard = wanted.shard AND s.wallet_id = wanted.wallet_id
        ORDER BY s.step DESC
        LIMIT 1) AS state"""
"""The last `state` of the wallet in `wanted`; most have none."""

OWNERS_STATE: Final = STATE.replace("WHERE ", f"WHERE (a.id IS NULL OR a.wallet_kind = {WalletKind.USER:d}) AND ")
"""As `STATE`, where `a` may be an account of the system's, whose wallets have none: they are not looked up."""


def limits_version(shard: str, wallet_id: str) -> str:
    """Return an expression: what identifies the last version of the limits of a wallet, for the asset in `wanted`."""
    return f"""
CASE WHEN (SELECT EXISTS (SELECT FROM limit_rule)) AND (a.id IS NULL OR a.wallet_kind = {WalletKind.USER:d}) THEN (
       SELECT r.id FROM limit_rule r
        WHERE r.asset_id = wanted.asset_id AND r.shard = {shard} AND r.wallet_id = {wallet_id}
        ORDER BY r.step DESC
        LIMIT 1) END"""


LIMITS_OF_ALL: Final = limits_version("0", "0")
"""The last version of what is limited for all wallets; where no limit was ever set, nothing is looked up."""

OWN_LIMITS: Final = limits_version("wanted.shard", "wanted.wallet_id")
"""The last version of what is limited for the wallet in `wanted`."""

_DEBT_ACCOUNT: Final = one_row(
    "account", "a", by="asset_id", shard="wanted.shard", wallet_id="state.debt_wallet_id", asset_id="wanted.asset_id"
)

DEBT: Final = f"""
CASE WHEN state.debt_wallet_id IS NOT NULL THEN (
       SELECT -head.balance_after FROM {_DEBT_ACCOUNT} CROSS JOIN {HEAD}) END"""
"""What the owner of the wallet in `wanted`, with its `state`, owes in its asset; NULL where it never owed anything."""

CLOCK: Final = "WITH clock AS MATERIALIZED (SELECT wallet_now() AS now)"
"""What a statement begins with that looks at `NOW`: the time is asked for once, where it is asked for at all."""

NOW: Final = "(SELECT now FROM clock)"

IS_DUE: Final = f"head.next_due_at IS NOT NULL AND head.next_due_at <= {NOW}"
"""Whether something of an account is over that its `head` still has: a hold, or a lot of which something is free."""

HOLDING: Final = f"""{one_row("hold_step", "s", by="seq", shard="a.shard", account_id="a.id", seq="head.held_seq")}
        CROSS JOIN unnest(s.open_holds) AS is_open(id)
        CROSS JOIN LATERAL (
              SELECT * FROM hold_step l
               WHERE l.shard = a.shard AND l.hold_id = is_open.id
               ORDER BY l.step DESC
               LIMIT 1) AS holding"""
"""The last step of each open hold of the account `a` after its `head`; it may be over by now."""

HELD: Final = f"""
CASE WHEN {IS_DUE} THEN (
       SELECT coalesce(sum(holding.amount - holding.captured - holding.released), 0)::bigint
         FROM {HOLDING}
        WHERE holding.held_until > {NOW})
     ELSE coalesce(head.held_after, 0) END"""
"""What open holds hold of the account `a` after its `head`: what is over holds nothing, whether or not it is booked."""
