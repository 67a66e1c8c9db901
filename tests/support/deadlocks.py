"""The deadlocks that a database has counted."""

import asyncpg

from wallet_gql.settings import Settings


async def count_deadlocks(settings: Settings) -> int:
    """Count the deadlocks that there ever were in a database which nobody is connected to any more."""
    url = settings.server_url().set(drivername="postgresql").render_as_string(hide_password=False)
    connection = await asyncpg.connect(url)
    # Connections write their statistics when they end, which is a little after they were closed.
    others = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        " AND backend_type = 'client backend'"
    )
    while await connection.fetchval(others):
        await connection.execute("SELECT pg_sleep(0.01)")
    count: int = await connection.fetchval("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
    await connection.close()
    return count
