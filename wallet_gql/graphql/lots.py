"""Lots as they are shown, pages of them, and what transactions took from them."""

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, TypeAlias

import strawberry
from strawberry import UNSET

from wallet_gql.domain.lots import LotName
from wallet_gql.domain.postings import TransactionView
from wallet_gql.graphql import ids, paging, transactions
from wallet_gql.graphql.assets import Asset
from wallet_gql.graphql.context import Info
from wallet_gql.graphql.node import Node
from wallet_gql.graphql.paging import PAGE_SIZE_DEFAULT, PAGE_SIZE_MAX, PageInfo
from wallet_gql.graphql.scalars import Amount, amount
from wallet_gql.graphql.sources import CreditSource
from wallet_gql.ledger.lot_reads import LotPageRequest, LotPart, LotPlace, LotView
from wallet_gql.ledger.reads import EntryName, WalletAsset

if TYPE_CHECKING:  # the two show each other
    from wallet_gql.graphql.transactions import Transaction

FirstLots: TypeAlias = Annotated[
    int | None,
    strawberry.argument(description=f"How many, 1 to {PAGE_SIZE_MAX}; {PAGE_SIZE_DEFAULT} if not given."),
]
AfterLot: TypeAlias = Annotated[str | None, strawberry.argument(description="Only what follows this cursor.")]


@strawberry.type(
    description="Credits of a bonus that expire, or are spent before others. What is in no lot is the pool: it never"
    " expires, and is spent last."
)
class Lot(Node):
    """Credits of a bonus that expire, or are spent before others."""

    lot: strawberry.Private[LotView]
    owner_id: str = strawberry.field(
        resolver=lambda self: self.lot.account.wallet.owner_id, description="Whose credits they are."
    )
    asset: Asset = strawberry.field(
        resolver=lambda self: Asset.of(self.lot.account.asset), description="What they are credits of."
    )
    source: CreditSource = strawberry.field(
        resolver=lambda self: CreditSource[self.lot.terms.source.name], description="Where they come from."
    )
    priority: int = strawberry.field(
        resolver=lambda self: self.lot.terms.priority,
        description="Lots of a lower one are spent earlier; among equals, what ends first.",
    )
    campaign: str | None = strawberry.field(
        resolver=lambda self: self.lot.terms.campaign, description="What they were given for."
    )
    amount: Amount = strawberry.field(
        resolver=lambda self: amount(self.lot.granted_minor, self.lot.account.asset),
        description="How much was ever granted into it.",
    )
    remaining: Amount = strawberry.field(
        resolver=lambda self: amount(self.lot.remaining_minor, self.lot.account.asset),
        description="How much of it is left, what is held included; after its end, only that.",
    )
    held: Amount = strawberry.field(
        resolver=lambda self: amount(self.lot.held_minor, self.lot.account.asset),
        description="What open holds have of it: that outlives its end, until they close.",
    )
    expires_at: datetime | None = strawberry.field(
        resolver=lambda self: self.lot.terms.expires_at,
        description="From when on what is left of it, and not held, is gone; null where it never ends.",
    )
    granted_at: datetime = strawberry.field(
        resolver=lambda self: self.lot.granted_at, description="When it was granted first."
    )
    expired: bool = strawberry.field(resolver=lambda self: self.lot.is_expired, description="Whether its end has come.")

    @strawberry.field(
        description="The transaction that granted it. Null where it never ends: equal bonuses join in one such lot."
    )
    async def origin(
        self, info: Info
    ) -> Annotated["Transaction", strawberry.lazy("wallet_gql.graphql.transactions")] | None:
        """Read the transaction."""
        if self.lot.terms.expires_at is None:
            return None
        name = EntryName(self.lot.name.shard, self.lot.name.account_id, self.lot.seq)
        view = await info.context.ledger.reads.transactions.load(name)
        assert view is not None
        return transactions.Transaction(view=view)

    def global_id(self) -> str:
        """Return its global id."""
        return ids.lot_id(self.lot.name)


@strawberry.type(description="A lot and its place in the list.")
class LotEdge:
    """A lot and its place in the list."""

    cursor: str = strawberry.field(description="Its position: page from here.")
    node: Lot = strawberry.field(description="The lot.")


@strawberry.type(
    description="A page of what an account has in lots: what ends soonest first, what never ends last. What has lapsed"
    " is not in it."
)
class LotConnection:
    """A page of what an account has in lots."""

    edges: list[LotEdge] = strawberry.field(description="The page, with a cursor for each lot.")
    nodes: list[Lot] = strawberry.field(description="The page, lots only.")
    page_info: PageInfo = strawberry.field(description="What is before and after the page.")


@strawberry.type(description="What a transaction took from a lot, or put into it.")
class LotUse:
    """What a transaction took from a lot, or put into it."""

    part: strawberry.Private[LotPart]
    asset: strawberry.Private[Asset]

    @strawberry.field(description="The lot as it is now; null for the pool.")
    def lot(self) -> Lot | None:
        """Make it when it is asked for."""
        return None if self.part.lot is None else Lot(lot=self.part.lot)

    @strawberry.field(description="How much; always positive.")
    def amount(self) -> Amount:
        """Say how much."""
        return amount(self.part.amount_minor, self.asset.asset)

    @strawberry.field(description="The lot's end; null where it never ends, and for the pool.")
    def expires_at(self) -> datetime | None:
        """Say when it ends."""
        return None if self.part.lot is None else self.part.lot.terms.expires_at


async def read_lot(info: Info, name: LotName) -> Lot | None:
    """Read a lot that an id names; None where there is none, or it is not one of the caller's."""
    lot = await info.context.ledger.reads.lots.load(name)
    return None if lot is None or not info.context.caller.reaches(lot.account.wallet.owner_id) else Lot(lot=lot)


async def read_lot_uses(info: Info, view: TransactionView) -> list[LotUse]:
    """Read what a transaction took from lots, or put into them, in order."""
    parts = await info.context.ledger.reads.lot_parts.load(EntryName(view.shard, view.account_id, view.seq))
    return [LotUse(part=part, asset=Asset.of(view.asset)) for part in parts]


async def read_lot_page(info: Info, account: WalletAsset, first: int | None, after: str | None) -> LotConnection:
    """Read a page of an account's lots; raises `BadUserInput` for arguments that name none."""
    paging.check(paging.PageArguments(first, None, None, None, None))
    size = PAGE_SIZE_DEFAULT if first is None or first is UNSET else first
    wallet, asset = account
    place = None
    if after is not None and after is not UNSET:
        place = LotPlace(*ids.decode_lot_cursor(after, (wallet.shard, wallet.id, asset.id), "after"))
    page = await info.context.ledger.reads.lot_pages.load(LotPageRequest(account, size, place))
    edges = [
        LotEdge(
            cursor=ids.lot_cursor(wallet.shard, wallet.id, asset.id, lot.name.n, lot.terms.expires_at),
            node=Lot(lot=lot),
        )
        for lot in page.lots
    ]
    return LotConnection(
        edges=edges,
        nodes=[edge.node for edge in edges],
        page_info=PageInfo(
            has_next_page=page.has_next_page,
            has_previous_page=place is not None,
            start_cursor=edges[0].cursor if edges else None,
            end_cursor=edges[-1].cursor if edges else None,
        ),
    )
