"""The owner whom an argument names."""

from typing import Annotated

import strawberry

from wallet_gql.domain.shards import shard_of
from wallet_gql.domain.text import check_owner_id
from wallet_gql.domain.wallets import OwnerName
from wallet_gql.graphql.context import Info

OwnerId = Annotated[str, strawberry.argument(description="The owner's id: the caller's own id of the player.")]


async def reaches_account(info: Info, shard: int, wallet_id: int | None) -> bool:
    """Say whether a wallet that an id led to is one of the caller's: another's is as if it did not exist.

    `wallet_id` is None where nothing was found. The same is read then, for who may see some wallets only.
    """
    caller = info.context.caller
    if caller.reaches_all:
        return wallet_id is not None
    wallet = await info.context.ledger.reads.wallets_by_id.load((shard, wallet_id or 0))
    return wallet is not None and caller.reaches(wallet.owner_id)


def owner_name(info: Info, owner_id: str, field: str = "ownerId") -> OwnerName:
    """Check an owner id and find its shard."""
    return OwnerName(shard_of(check_owner_id(owner_id, field), info.context.ledger.shard_count), owner_id)
