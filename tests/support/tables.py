"""What is in the tables, to show that nothing moved."""

from typing import NamedTuple

import asyncpg

from wallet_gql.settings import Settings


class Rows(NamedTuple):
    """How many rows the owners' tables have; treasury stripes come and go with test servers.

    Without the ends of holds (55), which a sweeper books whenever another test's is over.
    """

    wallets: int
    accounts: int
    transactions: int
    entries: int
    keys: int


_COUNT = """
SELECT (SELECT count(*) FROM wallet WHERE kind = 1), (SELECT count(*) FROM account WHERE wallet_kind = 1),
       (SELECT count(*) FROM transaction), (SELECT count(*) FROM entry WHERE type <> 55),
       (SELECT count(*) FROM idempotency_key)
"""


async def count_rows(settings: Settings) -> Rows:
    """Count on a connection of its own, so that no pool, timeout or snapshot of the service is in the way."""
    connection = await asyncpg.connect(
        settings.server_url().set(drivername="postgresql").render_as_string(hide_password=False)
    )
    try:
        return Rows(*await connection.fetchrow(_COUNT))
    finally:
        await connection.close()
