"""Opening a wallet: idempotent by nature, for an owner has one wallet."""

import asyncio
from typing import Final, NamedTuple

from wallet_gql.domain.errors import BadUserInput
from wallet_gql.domain.model import Wallet, WalletKind
from wallet_gql.domain.shards import shard_of
from wallet_gql.domain.text import check_owner_id, find_invisible
from wallet_gql.ledger.reads import OwnerName
from wallet_gql.operations.opening import Ledger
from wallet_gql.operations.unit_of_work import retrying, unit_of_work

_OPEN: Final = """
INSERT INTO wallet (shard, kind, owner_id) VALUES ($1, $2, $3)
ON CONFLICT (shard, kind, owner_id) DO NOTHING
RETURNING shard, id, owner_id, opened_at
"""

# A statement of its own: the row that stood in the way may be newer than the snapshot of the insert.
_FIND: Final = "SELECT shard, id, owner_id, opened_at FROM wallet WHERE (shard, kind, owner_id) = ($1, $2, $3)"


class Opened(NamedTuple):
    """The owner's wallet, and whether it was open before."""

    wallet: Wallet
    already_open: bool


async def open_wallet(ledger: Ledger, owner_id: str) -> Opened:
    """Open an owner's wallet, or return the one there is.

    Raises `BadUserInput` for a malformed owner id, and for a new one with invisible characters: what exists stays
    reachable. Raises `Unavailable`, and `OutcomeUnknown` when a COMMIT stayed in doubt.
    """
    deadline_seconds = ledger.settings.request_deadline_seconds
    deadline = asyncio.get_running_loop().time() + deadline_seconds
    shard = shard_of(check_owner_id(owner_id), ledger.shard_count)
    # Looked up first: an insert that meets the row burns an id all the same.
    if (found := await ledger.reads.wallets.load(OwnerName(shard, owner_id))) is not None:
        return Opened(found, already_open=True)
    if (invisible := find_invisible(owner_id)) is not None:
        raise BadUserInput(
            "ownerId", f"contains the invisible character U+{ord(invisible):04X}", "send visible characters only"
        )

    async def work() -> Opened:
        async with unit_of_work(ledger.engine, deadline=deadline) as connection:
            row = await connection.fetchrow(_OPEN, shard, WalletKind.USER, owner_id)
            if row is not None:
                return Opened(Wallet(*row), already_open=False)
            row = await connection.fetchrow(_FIND, shard, WalletKind.USER, owner_id)
            return Opened(Wallet(*row), already_open=True)

    return await retrying(work, deadline_seconds=deadline_seconds)
