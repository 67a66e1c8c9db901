"""The owner whom an argument names."""

from typing import Annotated

import strawberry

from wallet_gql.domain.shards import shard_of
from wallet_gql.domain.text import check_owner_id
from wallet_gql.domain.wallets import OwnerName
from wallet_gql.graphql.context import Info

OwnerId = Annotated[str, strawberry.argument(description="The owner's id: the caller's own id of the player.")]


def owner_name(info: Info, owner_id: str, field: str = "ownerId") -> OwnerName:
    """Check an owner id and find its shard."""
    return OwnerName(shard_of(check_owner_id(owner_id, field), info.context.ledger.shard_count), owner_id)
