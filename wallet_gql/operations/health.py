"""Whether the database answers."""

import asyncio
from typing import Final

from wallet_gql.db.engine import connect
from wallet_gql.operations.opening import Ledger
from wallet_gql.operations.unit_of_work import is_away

ANSWER_WITHIN_SECONDS: Final = 2


async def check_database(ledger: Ledger) -> str:
    """Return "ok", or in a word why the database does not answer."""
    try:
        deadline = asyncio.get_running_loop().time() + ANSWER_WITHIN_SECONDS
        async with connect(ledger.engine, deadline=deadline) as connection:
            await connection.execute("SELECT 1 FROM ledger")
    except TimeoutError:
        return "slow"
    except Exception as error:
        if is_away(error):
            return "away"
        raise
    return "ok"
