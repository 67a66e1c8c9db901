"""Wallets: what has become of one, and all that it holds."""

from asyncio import gather
from datetime import datetime
from enum import Enum
from typing import Annotated, Self, cast

import strawberry

from wallet_gql.domain import wallets as domain
from wallet_gql.domain.postings import TransactionName
from wallet_gql.graphql import ids, paging
from wallet_gql.graphql.access import Actor, read_actor, read_asked_by
from wallet_gql.graphql.assets import DEFAULT_ASSET, AssetArgument
from wallet_gql.graphql.balances import Balance
from wallet_gql.graphql.context import Info
from wallet_gql.graphql.limits import LimitUse, read_limit_uses
from wallet_gql.graphql.node import Node
from wallet_gql.graphql.owners import OwnerId, owner_name
from wallet_gql.graphql.paging import PAGE_SIZE_MAX
from wallet_gql.graphql.transactions import After, Before, First, Last, Offset, TransactionConnection, read_page
from wallet_gql.ledger.reads import WalletAsset
from wallet_gql.ledger.states import WalletId
from wallet_gql.operations.assets import find_asset, list_assets


@strawberry.enum(description="What a wallet lets through. Statuses are added as the service grows.")
class WalletStatus(Enum):
    """What a wallet lets through."""

    OPEN = strawberry.enum_value("OPEN", description="Everything.")
    FROZEN_OUT = strawberry.enum_value(
        "FROZEN_OUT",
        description="Nothing leaves it: no spend, transfer or new hold. Credits come in, and holds are captured.",
    )
    FROZEN_ALL = strawberry.enum_value(
        "FROZEN_ALL", description="Nothing comes in either; holds end, and clawbacks still take back."
    )
    CLOSED = strawberry.enum_value("CLOSED", description="Nothing, until it is opened again; its history stays.")


@strawberry.type(description="An owner's wallet.")
class Wallet(Node):
    """An owner's wallet."""

    wallet: strawberry.Private[domain.Wallet]
    owner_id: str = strawberry.field(description="Whose it is: the caller's own id of the player.")
    opened_at: datetime = strawberry.field(description="When it was opened.")

    @strawberry.field(description="What it lets through.")
    async def status(self, info: Info) -> WalletStatus:
        """Read what has become of it."""
        state = await self._state(info)
        return WalletStatus.OPEN if state is None else WalletStatus[state.status.name]

    @strawberry.field(description="Since when it has this status.")
    async def status_since(self, info: Info) -> datetime:
        """Read since when."""
        state = await self._state(info)
        return self.opened_at if state is None else state.since

    @strawberry.field(description="When a freeze ends by itself; null where it does not.")
    async def status_until(self, info: Info) -> datetime | None:
        """Read until when."""
        state = await self._state(info)
        return None if state is None else state.until

    @strawberry.field(description="Why it has this status, as whoever changed it wrote.")
    async def status_note(self, info: Info) -> str | None:
        """Read why."""
        state = await self._state(info)
        return None if state is None else state.note

    @strawberry.field(
        description="Who gave it this status; null where nobody did or that is not known, and for whoever is neither"
        " that nor an auditor."
    )
    async def status_actor(self, info: Info) -> Actor | None:
        """Read what is noted of it."""
        event = await self._status_event(info)
        return None if event is None else await read_actor(info, event)

    @strawberry.field(
        description="The id of the request that gave it this status: its X-Request-Id. For whoever may know the actor."
    )
    async def status_request_id(self, info: Info) -> str | None:
        """Read what is noted of it."""
        event = await self._status_event(info)
        return None if event is None else (await read_asked_by(info, event)).request_id

    async def _status_event(self, info: Info) -> TransactionName | None:
        return await info.context.ledger.reads.status_events.load(WalletId(self.wallet.shard, self.wallet.id))

    async def _state(self, info: Info) -> domain.WalletState | None:
        return await info.context.ledger.reads.states.load(WalletId(self.wallet.shard, self.wallet.id))

    @strawberry.field(description="What it holds in an asset: zero where it was never used, null for an unknown asset.")
    async def balance(self, info: Info, asset: AssetArgument = DEFAULT_ASSET) -> Balance | None:
        """Read one balance."""
        found = await find_asset(info.context.ledger, asset)
        if found is None:
            return None
        return Balance(balance=await info.context.ledger.reads.balances.load(WalletAsset(self.wallet, found)))

    @strawberry.field(description="What it holds in every asset, in the order in which the assets were added.")
    async def balances(self, info: Info) -> list[Balance] | None:
        """Read all balances."""
        reads = info.context.ledger.reads
        assets = await list_assets(info.context.ledger)
        balances = await gather(*(reads.balances.load(WalletAsset(self.wallet, asset)) for asset in assets))
        return [Balance(balance=balance) for balance in balances]

    @strawberry.field(
        description="Its history in an asset, newest first; null for an unknown asset. Pages by cursor never shift;"
        " pages by offset do: what arrives meanwhile moves every later offset by one."
    )
    async def transactions(
        self,
        info: Info,
        asset: AssetArgument = DEFAULT_ASSET,
        first: First = strawberry.UNSET,
        after: After = strawberry.UNSET,
        last: Last = strawberry.UNSET,
        before: Before = strawberry.UNSET,
        offset: Offset = strawberry.UNSET,
    ) -> TransactionConnection | None:
        """Read a page."""
        arguments = paging.PageArguments(first, after, last, before, offset)
        paging.check(arguments)
        found = await find_asset(info.context.ledger, asset)
        if found is None:
            return None
        return await read_page(info, WalletAsset(self.wallet, found), arguments)

    @strawberry.field(
        description="The limits that hold for it in an asset, with how much of each is used up; null for an unknown"
        " asset. Its own take the place of the asset's of the same flow and window."
    )
    async def limits(self, info: Info, asset: AssetArgument = DEFAULT_ASSET) -> list[LimitUse] | None:
        """Read what holds for it."""
        return await read_limit_uses(info, self.wallet, asset)

    def global_id(self) -> str:
        """Return its global id."""
        return ids.wallet_id(self.wallet.shard, self.wallet.id)

    @classmethod
    def of(cls, wallet: domain.Wallet) -> Self:
        """Make it from the ledger's wallet."""
        return cls(wallet=wallet, owner_id=wallet.owner_id, opened_at=wallet.opened_at)


async def read_wallet(info: Info, owner_id: str, field: str = "ownerId") -> Wallet | None:
    """Return an owner's wallet; None where there is none. Raises `BadUserInput` for a malformed owner id."""
    wallet = await info.context.ledger.reads.wallets.load(owner_name(info, owner_id, field))
    return None if wallet is None else Wallet.of(wallet)


@strawberry.type
class WalletQueries:
    """What can be asked about wallets."""

    @strawberry.field(description="An owner's wallet.")
    async def wallet(self, info: Info, owner_id: OwnerId) -> Wallet | None:
        """Read one wallet."""
        return await read_wallet(info, owner_id)

    @strawberry.field(description=f"Many owners' wallets, in order; at most {PAGE_SIZE_MAX}, read together.")
    async def wallets(
        self,
        info: Info,
        owner_ids: Annotated[list[str], strawberry.argument(description=f"The owners' ids, at most {PAGE_SIZE_MAX}.")],
    ) -> list[Wallet | None] | None:
        """Read many wallets."""
        # As with nodes: one that is malformed is an error at its place, and the others are answered.
        return cast("list[Wallet | None]", [read_wallet(info, owner_id, "ownerIds") for owner_id in owner_ids])
