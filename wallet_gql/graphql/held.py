"""Holds as they are shown, and pages of them."""

from datetime import datetime
from enum import Enum
from typing import TYPE_CHECKING, Annotated
from uuid import UUID

import strawberry
from strawberry import UNSET

from wallet_gql.domain import holds as domain
from wallet_gql.domain.postings import TransactionName
from wallet_gql.graphql import ids, paging, transactions
from wallet_gql.graphql.access import Actor, read_actor, read_asked_by
from wallet_gql.graphql.assets import Asset
from wallet_gql.graphql.context import Info
from wallet_gql.graphql.node import Node
from wallet_gql.graphql.paging import PAGE_SIZE_DEFAULT, PageInfo
from wallet_gql.graphql.scalars import Amount, Metadata, amount
from wallet_gql.ledger.holds import HoldPageRequest
from wallet_gql.ledger.reads import WalletAsset

if TYPE_CHECKING:  # the two show each other
    from wallet_gql.graphql.transactions import Transaction


@strawberry.enum(description="Where a hold stands.")
class HoldState(Enum):
    """Where a hold stands."""

    OPEN = strawberry.enum_value("OPEN", description="What remains of it is held.")
    CAPTURED = strawberry.enum_value("CAPTURED", description="A capture closed it.")
    VOIDED = strawberry.enum_value("VOIDED", description="It was released; something may have been captured before.")
    EXPIRED = strawberry.enum_value("EXPIRED", description="Its time is over; something may have been captured before.")


HoldStateArgument = Annotated[
    HoldState | None, strawberry.argument(description="Only those in this state; all of them if null.")
]


@strawberry.type(
    description="Credits that are promised: `amount` is `captured`, `released` and `remaining` together. What remains"
    " is part of the balance and cannot be spent."
)
class Hold(Node):
    """Credits that are promised."""

    hold: strawberry.Private[domain.Hold]
    owner_id: str = strawberry.field(
        resolver=lambda self: self.hold.wallet.owner_id, description="Whose credits they are."
    )
    asset: Asset = strawberry.field(resolver=lambda self: Asset.of(self.hold.asset), description="What is held.")
    state: HoldState = strawberry.field(
        resolver=lambda self: HoldState[self.hold.state.name], description="Where it stands now."
    )
    amount: Amount = strawberry.field(
        resolver=lambda self: amount(self.hold.amount_minor, self.hold.asset),
        description="How much was promised in all.",
    )
    captured: Amount = strawberry.field(
        resolver=lambda self: amount(self.hold.captured_minor, self.hold.asset),
        description="How much of it was captured.",
    )
    released: Amount = strawberry.field(
        resolver=lambda self: amount(
            self.hold.amount_minor - self.hold.captured_minor - _remaining_minor(self.hold), self.hold.asset
        ),
        description="How much of it was released.",
    )
    remaining: Amount = strawberry.field(
        resolver=lambda self: amount(_remaining_minor(self.hold), self.hold.asset),
        description="How much of it is still held.",
    )
    to_owner_id: str | None = strawberry.field(
        resolver=lambda self: None if self.hold.receiver is None else self.hold.receiver.owner_id,
        description="Whom captures pay; null for the platform.",
    )
    placed_at: datetime = strawberry.field(resolver=lambda self: self.hold.placed_at, description="When it was placed.")
    held_until: datetime = strawberry.field(
        resolver=lambda self: self.hold.held_until,
        description="From when on nothing is held, if it is not closed before.",
    )
    closed_at: datetime | None = strawberry.field(
        resolver=lambda self: _closed_at(self.hold), description="When nothing remained; null while it is open."
    )
    idempotency_key: UUID | None = strawberry.field(
        resolver=lambda self: self.hold.idempotency_key,
        description="The idempotency key of the request that placed it.",
    )
    description: str | None = strawberry.field(
        resolver=lambda self: self.hold.description, description="What the caller wrote for people to read."
    )
    reference: str | None = strawberry.field(
        resolver=lambda self: self.hold.reference, description="The caller's own reference, such as an order number."
    )

    @strawberry.field(description="The caller's own pairs of texts; null where none were sent.")
    async def metadata(self, info: Info) -> Metadata | None:
        """Read what is kept with it."""
        found = (await info.context.ledger.reads.notes.load(self._event)).metadata
        return None if found is None else Metadata(found)

    @strawberry.field(
        description="Who placed it; null where that is not known, and for whoever is neither that nor an auditor."
    )
    async def actor(self, info: Info) -> Actor | None:
        """Read what is noted of it."""
        return await read_actor(info, self._event)

    @strawberry.field(
        description="The id of the request that placed it: its X-Request-Id. For whoever may know the actor."
    )
    async def request_id(self, info: Info) -> str | None:
        """Read what is noted of it."""
        return (await read_asked_by(info, self._event)).request_id

    @property
    def _event(self) -> TransactionName:
        """What names its placing."""
        return TransactionName(self.hold.shard, self.hold.id)

    @strawberry.field(description="What its captures posted, newest first.")
    async def captures(
        self, info: Info
    ) -> list[Annotated["Transaction", strawberry.lazy("wallet_gql.graphql.transactions")]] | None:
        """Read the captures."""
        captures = await info.context.ledger.reads.captures.load(self.hold.name)
        return [transactions.Transaction(view=view) for view in captures]

    def global_id(self) -> str:
        """Return its global id."""
        return ids.hold_id(self.hold.name)


def _remaining_minor(hold: domain.Hold) -> int:
    """Return how much is held now: what is over is shown as released, whether or not it is booked."""
    return 0 if hold.is_due else hold.remaining_minor


def _closed_at(hold: domain.Hold) -> datetime | None:
    """Return when nothing remained: what expired ended when its time was over, whenever that was booked."""
    if _remaining_minor(hold):
        return None
    return hold.held_until if hold.state is domain.HoldState.EXPIRED else hold.changed_at


@strawberry.type(description="A hold and its place in the list.")
class HoldEdge:
    """A hold and its place in the list."""

    cursor: str = strawberry.field(description="Its position: page from here.")
    node: Hold = strawberry.field(description="The hold.")


@strawberry.type(
    description="A page of an account's holds, newest first. One that asks for a state may be empty although more"
    " follow: go on from its end."
)
class HoldConnection:
    """A page of an account's holds."""

    edges: list[HoldEdge] = strawberry.field(description="The page, with a cursor for each hold.")
    nodes: list[Hold] = strawberry.field(description="The page, holds only.")
    page_info: PageInfo = strawberry.field(description="What is before and after the page.")


def shown(info: Info, hold: domain.Hold | None) -> Hold | None:
    """Show a hold that an id or a link led to; None where there is none, or it is not one of the caller's."""
    return None if hold is None or not info.context.caller.reaches(hold.wallet.owner_id) else Hold(hold=hold)


async def read_hold_page(
    info: Info, account: WalletAsset, state: HoldState | None, first: int | None, after: str | None
) -> HoldConnection:
    """Read a page of an account's holds; raises `BadUserInput` for arguments that name none."""
    arguments = paging.PageArguments(first, after, None, None, None)
    paging.check(arguments)
    page = paging.page_request(account, arguments)
    wanted = None if state is None or state is UNSET else domain.HoldState[state.name]
    request = HoldPageRequest(account, wanted, page.first or PAGE_SIZE_DEFAULT, page.older_than)
    found = await info.context.ledger.reads.hold_pages.load(request)
    wallet, asset = account
    edges = [
        HoldEdge(cursor=ids.cursor(wallet.shard, wallet.id, asset.id, hold.seq), node=Hold(hold=hold))
        for hold in found.holds
    ]
    end_seq = found.next_older_than
    last = edges[-1].cursor if edges else None
    return HoldConnection(
        edges=edges,
        nodes=[edge.node for edge in edges],
        page_info=PageInfo(
            has_next_page=end_seq is not None,
            has_previous_page=page.older_than is not None,
            start_cursor=edges[0].cursor if edges else None,
            end_cursor=last if end_seq is None else ids.cursor(wallet.shard, wallet.id, asset.id, end_seq),
        ),
    )
