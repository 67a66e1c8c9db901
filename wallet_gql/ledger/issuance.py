"""What keys that may issue so much a day have issued: top-ups and bonuses, by asset and day of UTC.

Who issues holds the lock of its name (see `receipts`), so what is read under it is all that there is.
"""

from collections.abc import Collection
from datetime import UTC, date, datetime
from typing import Final, NamedTuple

from asyncpg import Connection

from wallet_gql.ledger.batch import Issued, IssuerAsset
from wallet_gql.ledger.columns import Smallint, Text, arrays, unnest


class _Wanted(NamedTuple):
    shard: Smallint
    actor_name: Text
    asset_id: Smallint


_ISSUED: Final = f"""
SELECT wanted.actor_name, wanted.asset_id, i.step, i.issued_after
  FROM {unnest(_Wanted, "wanted", first=2)}
 CROSS JOIN LATERAL (
       SELECT * FROM issuance i
        WHERE i.shard = wanted.shard AND i.actor_name = wanted.actor_name AND i.asset_id = wanted.asset_id
          AND i.day = $1::date
        ORDER BY i.step DESC
        LIMIT 1) AS i
"""


def day_of(now: datetime) -> date:
    """Return the day of UTC."""
    return now.astimezone(UTC).date()


async def read_issued(
    connection: Connection, issuers: Collection[tuple[int, str, int]], day: date
) -> dict[IssuerAsset, Issued]:
    """Return what those of the issuers, by shard, name and asset, issued in a day that issued anything."""
    rows = await connection.fetch(_ISSUED, day, *arrays(_Wanted, issuers))
    return {(name, asset_id): Issued(step, issued_after) for name, asset_id, step, issued_after in rows}
