"""Balances: what a wallet holds in an asset."""

from typing import Self

import strawberry

from wallet_gql.domain import wallets as domain
from wallet_gql.graphql import ids
from wallet_gql.graphql.assets import DEFAULT_ASSET, Asset, AssetArgument
from wallet_gql.graphql.context import Info
from wallet_gql.graphql.node import Node
from wallet_gql.graphql.owners import OwnerId, owner_name
from wallet_gql.graphql.scalars import Amount, amount
from wallet_gql.operations.assets import find_asset


@strawberry.type(description="What a wallet holds in an asset.")
class Balance(Node):
    """What a wallet holds in an asset."""

    owner_id: str = strawberry.field(description="Whose balance it is.")
    asset: Asset = strawberry.field(description="What is held.")
    amount: Amount = strawberry.field(description="How much is held; never negative.")
    cursor: str = strawberry.field(
        description="The account's present position, also of an empty account:"
        " `transactions(before: cursor)` is what happened since."
    )

    @classmethod
    def of(cls, balance: domain.Balance) -> Self:
        """Make it from the ledger's balance."""
        wallet, asset = balance.wallet, balance.asset
        return cls(
            id=strawberry.ID(ids.balance_id(balance)),
            owner_id=wallet.owner_id,
            asset=Asset.of(asset),
            amount=amount(balance.amount_minor, asset),
            cursor=ids.cursor(wallet.shard, wallet.id, asset.id, balance.seq),
        )


@strawberry.type
class BalanceQueries:
    """What can be asked about balances."""

    @strawberry.field(
        description="What an owner holds in an asset: zero where it was never used, null for an unknown owner or asset."
    )
    async def balance(self, info: Info, owner_id: OwnerId, asset: AssetArgument = DEFAULT_ASSET) -> Balance | None:
        """Read one balance."""
        name = owner_name(info, owner_id)
        found = await find_asset(info.context.ledger, asset)
        if found is None:
            return None
        balance = await info.context.ledger.reads.owners_balances.load((name, found))
        return None if balance is None else Balance.of(balance)
