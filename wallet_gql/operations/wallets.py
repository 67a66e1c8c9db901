"""Opening a wallet: idempotent by nature, for an owner has one wallet."""

import asyncio
from typing import Final

from wallet_gql.domain.errors import BadUserInput, Unavailable
from wallet_gql.domain.shards import shard_of
from wallet_gql.domain.text import check_owner_id, find_invisible
from wallet_gql.domain.wallets import OwnerName
from wallet_gql.operations.opening import Ledger
from wallet_gql.operations.openings import Opened

MARGIN_SECONDS: Final = 0.25
"""How long before the request's deadline the wait is given up, so that the rest of the request is still answered."""


async def open_wallet(ledger: Ledger, owner_id: str, deadline: float | None = None) -> Opened:
    """Open an owner's wallet, or return the one there is.

    The request's deadline is a time of the event loop's clock; None: as long as a request may take, from now. Raises
    `BadUserInput` for a malformed owner id, and for a new one with invisible characters: what exists stays reachable.
    Raises `Overloaded`, `Unavailable`, and `OutcomeUnknown` when a COMMIT stayed in doubt.
    """
    deadline_seconds = ledger.settings.request_deadline_seconds
    if deadline is None:
        deadline = asyncio.get_running_loop().time() + deadline_seconds
    deadline -= min(MARGIN_SECONDS, deadline_seconds / 2)
    owner = OwnerName(shard_of(check_owner_id(owner_id), ledger.shard_count), owner_id)
    # Looked up first: an insert that meets the row burns an id all the same.
    try:
        async with asyncio.timeout_at(deadline):
            found = await ledger.reads.wallets.load(owner)
    except TimeoutError:
        raise Unavailable("The database did not answer before the deadline.") from None
    if found is not None:
        return Opened(found, already_open=True)
    if (invisible := find_invisible(owner_id)) is not None:
        raise BadUserInput(
            "ownerId", f"contains the invisible character U+{ord(invisible):04X}", "send visible characters only"
        )
    return await ledger.openings.open(owner, deadline)
