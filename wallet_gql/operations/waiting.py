"""Opens the ledger for as long as it takes: a database that is away comes back, and nobody has to start us again."""

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Final

import asyncpg

from wallet_gql.domain.errors import OutcomeUnknown, Unavailable
from wallet_gql.operations.opening import Ledger, open_ledger
from wallet_gql.operations.unit_of_work import is_away
from wallet_gql.settings import Settings

PAUSE_SECONDS: Final = (0.1, 2.0)
"""Between attempts: at first, and at most, doubling in between."""

# Errors in what is asked for and in the data: missing rights, missing tables, broken rows.
_LASTING_CLASSES: Final = {"22", "23", "42"}


def can_pass(error: Exception) -> bool:
    """Say whether waiting may cure what stopped the ledger from being opened."""
    if isinstance(error, asyncpg.PostgresError):
        return (error.sqlstate or "")[:2] not in _LASTING_CLASSES
    return isinstance(error, Unavailable | OutcomeUnknown) or is_away(error)


async def open_eventually(
    settings: Settings, stack: AsyncExitStack, on_failure: Callable[[Exception], object]
) -> Ledger:
    """Open the ledger until `stack` is closed; raises what waiting cannot cure, and tells each other failure."""
    pause_seconds, longest_seconds = PAUSE_SECONDS
    while True:
        try:
            return await stack.enter_async_context(open_ledger(settings))
        except Exception as error:
            if not can_pass(error):
                raise
            on_failure(error)
        await asyncio.sleep(pause_seconds)
        pause_seconds = min(2 * pause_seconds, longest_seconds)
