"""What no posting makes: wallets, assets and what is set of them.

Wallets and assets are looked for, or met, before they take a number of their identities.
"""

from typing import Final

from asyncpg import Connection

from wallet_gql.domain.assets import TransferPolicy
from wallet_gql.domain.wallets import OwnerName, Wallet

_OPEN: Final = """
INSERT INTO wallet (shard, kind, owner_id) VALUES ($1, $2, $3)
    ON CONFLICT (shard, kind, owner_id) DO NOTHING
RETURNING shard, id, owner_id, opened_at
"""

# A statement of its own: the row that stood in the way may be newer than the snapshot of the insert.
_FIND: Final = "SELECT shard, id, owner_id, opened_at FROM wallet WHERE (shard, kind, owner_id) = ($1, $2, $3)"

# Looked for first: a conflict alone would use up an id, and there are 32,767.
_ADD_ASSET: Final = """
INSERT INTO asset (code, name, scale)
SELECT $1, $2, $3 WHERE NOT EXISTS (SELECT FROM asset WHERE code = $1)
    ON CONFLICT (code) DO NOTHING
"""

# Two at once: the second conflicts, and finds another last step when it tries again.
_SET_ASSET: Final = """
INSERT INTO asset_setting (asset_id, step, transfers, has_lots)
SELECT $1::smallint, coalesce(max(s.step), 0) + 1,
       coalesce($2::smallint, (array_agg(s.transfers ORDER BY s.step DESC))[1], 1),
       $3::boolean OR coalesce(bool_or(s.has_lots), false)
  FROM asset_setting s
 WHERE s.asset_id = $1::smallint
"""


async def open_wallet(connection: Connection, owner: OwnerName) -> tuple[Wallet, bool]:
    """Open an owner's wallet, or find the one there is; returns it, and whether it was open before.

    It waits for another session's uncommitted insert of the same wallet. One statement, two where it was open.
    """
    name = owner.wallet_name
    row = await connection.fetchrow(_OPEN, *name)
    if row is not None:
        return Wallet(*row), False
    return Wallet(*await connection.fetchrow(_FIND, *name)), True


async def add_asset(connection: Connection, code: str, name: str, scale: int) -> None:
    """Add an asset, unless its code is taken. One statement."""
    await connection.execute(_ADD_ASSET, code, name, scale)


async def set_asset(
    connection: Connection, asset_id: int, transfers: TransferPolicy | None, *, has_lots: bool = False
) -> None:
    """Append a setting of an asset: what is not set stays as it was, and lots stay for ever.

    One statement; a conflict with another one raises UniqueViolationError.
    """
    await connection.execute(_SET_ASSET, asset_id, transfers, has_lots)
