"""The test clock, for integrators: holds end in milliseconds instead of days."""

from datetime import datetime
from typing import Final

from wallet_gql.domain.errors import BadUserInput
from wallet_gql.ledger import clock
from wallet_gql.operations.opening import Ledger
from wallet_gql.operations.unit_of_work import retrying, unit_of_work

ADVANCE_SECONDS_MAX: Final = 10 * 366 * 86_400


async def advance_clock(ledger: Ledger, seconds: int) -> datetime | None:
    """Move the clock of a ledger in test mode forward; returns its time, None in live mode. Raises `BadUserInput`."""
    if ledger.settings.mode != "test":
        return None
    if not 1 <= seconds <= ADVANCE_SECONDS_MAX:
        raise BadUserInput("seconds", f"is {seconds}", f"send 1 to {ADVANCE_SECONDS_MAX}: a clock only goes forward")

    async def work() -> datetime:
        async with unit_of_work(ledger.engine) as connection:
            return await clock.advance_clock(connection, seconds)

    return await retrying(work, deadline_seconds=ledger.settings.request_deadline_seconds)
