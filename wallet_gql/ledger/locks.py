"""The only row locks there are, in the only order: all owners by shard and id, then all of the system's likewise.

Wallet rows are locked FOR NO KEY UPDATE. Whoever waits for them takes them sorted by SQL's own ORDER BY: two orders
mixed are deadlocks, and Python's order of strings is not the database's. What the locks protect is read by later
statements: under Read Committed a single statement would return what was there before it waited.
"""

from collections.abc import Iterable
from typing import Final

from asyncpg import Connection

from wallet_gql.domain.wallets import Wallet, WalletKind, WalletName
from wallet_gql.ledger.columns import arrays, unnest
from wallet_gql.ledger.lookups import one_row
from wallet_gql.ledger.rows import WalletRow

_WALLET: Final = one_row(
    "wallet", "w", by="owner_id", shard="wanted.shard", kind="wanted.kind", owner_id="wanted.owner_id"
)

# The wallets that exist. Do not remove MATERIALIZED or the order: who waits locks row by row as this list is read, and
# that order is what keeps all units of work from deadlocks.
_LOCK: Final = f"""
WITH found AS MATERIALIZED (
     SELECT w.shard, w.kind, w.id, w.owner_id, w.opened_at
       FROM {unnest(WalletRow, "wanted")}
      CROSS JOIN {_WALLET}
      ORDER BY w.kind <> {WalletKind.USER:d}, w.shard, w.id
)
SELECT found.*
  FROM found
 CROSS JOIN LATERAL (
       SELECT w.id FROM wallet w
        WHERE w.shard = found.shard AND w.id BETWEEN found.id AND found.id
        ORDER BY w.id
          FOR NO KEY UPDATE) AS locked
"""

_NAMED: Final = """FROM wallet w
        WHERE w.shard = wanted.shard AND w.kind = wanted.kind
          AND w.owner_id BETWEEN wanted.owner_id AND wanted.owner_id"""

# Takes what is free and waits for nothing, so its order does not matter. What is not free is looked up again: it is
# busy, or there is no such wallet.
_LOCK_FREE: Final = f"""
SELECT wanted.shard, wanted.kind, free.id, wanted.owner_id, free.opened_at, free.id IS NULL
  FROM {unnest(WalletRow, "wanted")}
  LEFT JOIN LATERAL (
       SELECT w.id, w.opened_at {_NAMED}
        ORDER BY w.owner_id
          FOR NO KEY UPDATE SKIP LOCKED) AS free ON true
  LEFT JOIN LATERAL (
       SELECT w.id {_NAMED} AND free.id IS NULL
        ORDER BY w.owner_id
        LIMIT 1) AS busy ON true
 WHERE free.id IS NOT NULL OR busy.id IS NOT NULL
"""


async def lock_wallets(connection: Connection, names: Iterable[WalletName]) -> dict[WalletName, Wallet]:
    """Lock the wallets that exist among `names` until the unit of work ends; waits for all of them. One statement."""
    rows = await connection.fetch(_LOCK, *arrays(WalletRow, set(names)))
    return {
        WalletName(shard, WalletKind(kind), owner_id): Wallet(shard, id_, owner_id, opened_at)
        for shard, kind, id_, owner_id, opened_at in rows
    }


async def lock_free_wallets(
    connection: Connection, names: Iterable[WalletName]
) -> tuple[dict[WalletName, Wallet], set[WalletName]]:
    """Lock the free ones of the wallets that exist, waiting for none; returns them and the busy ones."""
    wallets, busy = {}, set()
    for shard, kind, id_, owner_id, opened_at, is_busy in await connection.fetch(
        _LOCK_FREE, *arrays(WalletRow, set(names))
    ):
        name = WalletName(shard, WalletKind(kind), owner_id)
        if is_busy:
            busy.add(name)
        else:
            wallets[name] = Wallet(shard, id_, owner_id, opened_at)
    return wallets, busy
