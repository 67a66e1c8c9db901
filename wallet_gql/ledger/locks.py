"""The only row locks there are, in the only order: shard, owners before the system's, id.

Wallet rows are locked FOR NO KEY UPDATE, sorted by SQL's own ORDER BY: two orders mixed are deadlocks, and Python's
order of strings is not the database's. What the locks protect is read by later statements: under Read Committed a
single statement would return what was there before it waited.
"""

from collections.abc import Iterable
from typing import Final, NamedTuple

from asyncpg import Connection

from wallet_gql.domain.model import Wallet, WalletKind

_LOCK: Final = """
SELECT w.shard, w.kind, w.id, w.owner_id, w.opened_at
  FROM unnest($1::smallint[], $2::smallint[], $3::text[]) AS wanted(shard, kind, owner_id)
  JOIN wallet w ON (w.shard, w.kind, w.owner_id) = (wanted.shard, wanted.kind, wanted.owner_id)
 ORDER BY w.shard, w.kind, w.id
   FOR NO KEY UPDATE OF w
"""


class WalletName(NamedTuple):
    """What names a wallet: a treasury's owner id is the number of its worker slot."""

    shard: int
    kind: WalletKind
    owner_id: str


async def lock_wallets(connection: Connection, names: Iterable[WalletName]) -> dict[WalletName, Wallet]:
    """Lock the wallets that exist among `names` until the unit of work ends; one statement."""
    wanted = set(names)
    rows = await connection.fetch(
        _LOCK, [name.shard for name in wanted], [name.kind for name in wanted], [name.owner_id for name in wanted]
    )
    return {
        WalletName(shard, WalletKind(kind), owner_id): Wallet(shard, id_, owner_id, opened_at)
        for shard, kind, id_, owner_id, opened_at in rows
    }
