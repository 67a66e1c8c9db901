"""Balances: what a wallet holds in an asset."""

from typing import Annotated

import strawberry

from wallet_gql.domain import wallets as domain
from wallet_gql.graphql import ids
from wallet_gql.graphql.assets import DEFAULT_ASSET, Asset, AssetArgument
from wallet_gql.graphql.context import Info
from wallet_gql.graphql.held import HoldConnection, HoldState, read_hold_page
from wallet_gql.graphql.lots import AfterLot, FirstLots, LotConnection, read_lot_page
from wallet_gql.graphql.node import Node
from wallet_gql.graphql.owners import OwnerId, owner_name
from wallet_gql.graphql.scalars import Amount, amount
from wallet_gql.graphql.transactions import After, First
from wallet_gql.ledger.reads import WalletAsset
from wallet_gql.operations.assets import find_asset


@strawberry.type(description="What a wallet holds in an asset.")
class Balance(Node):
    """What a wallet holds in an asset."""

    balance: strawberry.Private[domain.Balance]
    owner_id: str = strawberry.field(
        resolver=lambda self: self.balance.wallet.owner_id, description="Whose balance it is."
    )
    asset: Asset = strawberry.field(resolver=lambda self: Asset.of(self.balance.asset), description="What is held.")
    amount: Amount = strawberry.field(
        resolver=lambda self: amount(self.balance.amount_minor, self.balance.asset),
        description="How much is the owner's, what is held included and what has lapsed not; never negative.",
    )
    available: Amount = strawberry.field(
        resolver=lambda self: amount(self.balance.available_minor, self.balance.asset),
        description="What can be spent: the amount without what is held.",
    )
    held: Amount = strawberry.field(
        resolver=lambda self: amount(self.balance.held_minor, self.balance.asset),
        description="What open holds hold: a part of the amount.",
    )
    lapsed: Amount = strawberry.field(
        resolver=lambda self: amount(self.balance.lapsed_minor, self.balance.asset),
        description="What has lapsed and is not booked yet: the newest balanceAfter is amount and lapsed together.",
    )
    debt: Amount = strawberry.field(
        resolver=lambda self: amount(self.balance.debt_minor, self.balance.asset), description="What the owner owes."
    )
    cursor: str = strawberry.field(
        resolver=lambda self: ids.balance_cursor(self.balance),
        description="The account's present position, also of an empty account:"
        " `transactions(before: cursor)` is what happened since.",
    )

    @strawberry.field(description="Its holds, newest first: open ones if no state is named.")
    async def holds(
        self,
        info: Info,
        state: Annotated[
            HoldState | None, strawberry.argument(description="Only those in this state; all of them if null.")
        ] = HoldState.OPEN,
        first: First = strawberry.UNSET,
        after: After = strawberry.UNSET,
    ) -> HoldConnection | None:
        """Read a page of its holds."""
        account = WalletAsset(self.balance.wallet, self.balance.asset)
        return await read_hold_page(info, account, state, first, after)

    @strawberry.field(
        description="What of it expires, or is spent before the rest: what ends soonest first, what never ends last."
        " What has lapsed is not in it; what holds still have of that is in `held`."
    )
    async def lots(
        self, info: Info, first: FirstLots = strawberry.UNSET, after: AfterLot = strawberry.UNSET
    ) -> LotConnection | None:
        """Read a page of its lots."""
        return await read_lot_page(info, WalletAsset(self.balance.wallet, self.balance.asset), first, after)

    def global_id(self) -> str:
        """Return its global id."""
        return ids.balance_id(self.balance)


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
        return None if balance is None else Balance(balance=balance)
