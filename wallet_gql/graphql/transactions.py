"""Transactions as one wallet sees them, their legs, and pages of them."""

from asyncio import gather
from datetime import datetime
from enum import Enum
from typing import TYPE_CHECKING, Annotated, TypeAlias
from uuid import UUID

import strawberry

from wallet_gql.domain import postings as domain
from wallet_gql.domain.errors import BadUserInput
from wallet_gql.graphql import held, ids, lots, paging
from wallet_gql.graphql.access import Actor, read_actor, read_asked_by
from wallet_gql.graphql.assets import DEFAULT_ASSET, Asset, AssetArgument
from wallet_gql.graphql.context import Info
from wallet_gql.graphql.node import Node, NodeId
from wallet_gql.graphql.owners import OwnerId, owner_name, reaches_account
from wallet_gql.graphql.paging import PAGE_SIZE_DEFAULT, PAGE_SIZE_MAX, PageInfo
from wallet_gql.graphql.scalars import Amount, Metadata, amount
from wallet_gql.ledger.reads import EntryName, OwnTransaction, WalletAsset
from wallet_gql.operations.assets import find_asset

if TYPE_CHECKING:  # the two show each other
    from wallet_gql.graphql.held import Hold
    from wallet_gql.graphql.lots import LotUse

First: TypeAlias = Annotated[
    int | None,
    strawberry.argument(
        description=f"How many from the newest end of the span, 1 to {PAGE_SIZE_MAX};"
        f" {PAGE_SIZE_DEFAULT} if neither first nor last is given."
    ),
]
After: TypeAlias = Annotated[str | None, strawberry.argument(description="Only what is older than this cursor.")]
Last: TypeAlias = Annotated[
    int | None, strawberry.argument(description=f"How many from the oldest end of the span, 1 to {PAGE_SIZE_MAX}.")
]
Before: TypeAlias = Annotated[str | None, strawberry.argument(description="Only what is newer than this cursor.")]
Offset: TypeAlias = Annotated[
    int | None,
    strawberry.argument(
        description="How many of the newest to skip: what arrives meanwhile shifts the page."
        " Not together with after, before or last."
    ),
]
Key = Annotated[UUID, strawberry.argument(description="The key that the request was sent with.")]


@strawberry.enum(description="What happened. Types are added as the service grows: keep a default branch.")
class TransactionType(Enum):
    """What happened."""

    TOP_UP = strawberry.enum_value("TOP_UP", description="A player bought credits.")
    BONUS = strawberry.enum_value("BONUS", description="The platform gave credits.")
    SPEND = strawberry.enum_value("SPEND", description="A player spent credits.")
    TRANSFER_OUT = strawberry.enum_value("TRANSFER_OUT", description="The owner gave credits to another owner.")
    CAPTURE = strawberry.enum_value("CAPTURE", description="What was held was paid.")
    REFUND = strawberry.enum_value("REFUND", description="What was paid was given back.")
    CLAWBACK = strawberry.enum_value("CLAWBACK", description="What was credited was taken back.")
    REPAYMENT = strawberry.enum_value("REPAYMENT", description="A credit repaid what the owner owed.")
    FORFEIT = strawberry.enum_value("FORFEIT", description="A wallet was closed, and the platform took what was left.")
    TRANSFER_IN = strawberry.enum_value("TRANSFER_IN", description="The owner got credits from another owner.")
    EXPIRY = strawberry.enum_value("EXPIRY", description="What was left of a lot expired.")


@strawberry.enum(description="Which way credits moved, as the account sees it.")
class Direction(Enum):
    """Which way credits moved."""

    CREDIT = strawberry.enum_value("CREDIT", description="Raises the account's balance.")
    DEBIT = strawberry.enum_value("DEBIT", description="Lowers the account's balance.")


@strawberry.enum(description="Whose account an entry is in. Kinds are added as the service grows.")
class AccountKind(Enum):
    """Whose account an entry is in."""

    USER = strawberry.enum_value("USER", description="The owner's.")
    TREASURY = strawberry.enum_value(
        "TREASURY", description="The platform's, the other side of what it gives or takes."
    )
    CLEARING = strawberry.enum_value(
        "CLEARING", description="What is on its way between two owners: over both halves of a transfer it is zero."
    )
    DEBT = strawberry.enum_value("DEBT", description="What the owner owes: never above zero.")


@strawberry.type(description="One leg of a transaction. Another owner's balance is never shown.")
class Entry:
    """One leg of a transaction."""

    account: AccountKind = strawberry.field(description="Whose account it is in.")
    direction: Direction = strawberry.field(description="Which way it moves that account's balance.")
    amount: Amount = strawberry.field(description="How much it moves; always positive.")


@strawberry.type(
    description="One ledger transaction as one wallet sees it in one asset. "
    "Only `refundable` and `refunds` ever change."
)
class Transaction(Node):
    """One ledger transaction as one wallet sees it in one asset."""

    view: strawberry.Private[domain.TransactionView]
    transaction_id: UUID = strawberry.field(
        resolver=lambda self: self.view.id, description="The ledger's own id of the transaction."
    )
    type: TransactionType = strawberry.field(
        resolver=lambda self: TransactionType[self.view.type.name], description="What happened."
    )
    direction: Direction = strawberry.field(
        resolver=lambda self: _direction(self.view.amount_minor), description="Which way it moved the owner's balance."
    )
    amount: Amount = strawberry.field(
        resolver=lambda self: amount(abs(self.view.amount_minor), self.view.asset),
        description="How much it moved; always positive.",
    )
    balance_after: Amount = strawberry.field(
        resolver=lambda self: amount(self.view.balance_after_minor, self.view.asset),
        description="The owner's balance just after it.",
    )
    asset: Asset = strawberry.field(resolver=lambda self: Asset.of(self.view.asset), description="What was moved.")
    description: str | None = strawberry.field(
        resolver=lambda self: self.view.description, description="What the caller wrote for people to read."
    )
    reference: str | None = strawberry.field(
        resolver=lambda self: self.view.reference, description="The caller's own reference, such as an order number."
    )
    executed_at: datetime = strawberry.field(
        resolver=lambda self: self.view.executed_at,
        description="When it was posted; never runs backwards within an account.",
    )
    idempotency_key: UUID | None = strawberry.field(
        resolver=lambda self: self.view.idempotency_key,
        description="The idempotency key of the request that posted it.",
    )
    transfer_id: UUID | None = strawberry.field(
        resolver=lambda self: self.view.transfer_id,
        description="What both halves of a transfer have in common; null for anything else.",
    )

    @strawberry.field(description="The caller's own pairs of texts; null where none were sent.")
    async def metadata(self, info: Info) -> Metadata | None:
        """Read what is kept with it."""
        found = (await info.context.ledger.reads.notes.load(self.view.name)).metadata
        return None if found is None else Metadata(found)

    @strawberry.field(description="Whose transaction it is.")
    async def owner_id(self, info: Info) -> str:
        """Read whose wallet it is."""
        wallet = await info.context.ledger.reads.wallets_by_id.load((self.view.shard, self.view.wallet_id))
        assert wallet is not None
        return wallet.owner_id

    @strawberry.field(
        description="Who asked for it; null where that is not known, and for whoever is neither that nor an auditor."
    )
    async def actor(self, info: Info) -> Actor | None:
        """Read what is noted of it."""
        return await read_actor(info, self.view.name)

    @strawberry.field(
        description="The id of the request that asked for it: its X-Request-Id. For whoever may know the actor."
    )
    async def request_id(self, info: Info) -> str | None:
        """Read what is noted of it."""
        return (await read_asked_by(info, self.view.name)).request_id

    @strawberry.field(description="The other owner of a transfer; null for anything else.")
    async def counterparty_id(self, info: Info) -> str | None:
        """Read whose the other half is."""
        if self.view.counterpart is None:
            return None
        return await info.context.ledger.reads.owners_of_transactions.load(self.view.counterpart)

    @strawberry.field(description="The hold that was captured by it, or by its other half; null for anything else.")
    async def hold(self, info: Info) -> Annotated["Hold", strawberry.lazy("wallet_gql.graphql.held")] | None:
        """Read the hold."""
        view = self.view
        name = domain.TransactionName(view.shard, view.id)
        if view.type is domain.TransactionType.TRANSFER_IN:
            assert view.counterpart is not None
            name = view.counterpart
        elif view.type not in {domain.TransactionType.CAPTURE, domain.TransactionType.TRANSFER_OUT}:
            return None
        return held.shown(info, await info.context.ledger.reads.holds_of_transactions.load(name))

    @strawberry.field(description="What it gave back or took back; null for anything else.")
    async def refund_of(self, info: Info) -> Annotated["Transaction", strawberry.lazy(__name__)] | None:
        """Read the original."""
        if self.view.type not in {domain.TransactionType.REFUND, domain.TransactionType.CLAWBACK}:
            return None
        reads = info.context.ledger.reads
        reversal = await reads.reversals.load(self.view.name)
        assert reversal is not None
        return await read_own(info, reversal.original, self.view.wallet_id)

    @strawberry.field(
        description="How much of it can still be given back or taken back; null where none of it ever can. It changes,"
        " unlike the rest."
    )
    async def refundable(self, info: Info) -> Amount | None:
        """Read how much was reversed."""
        if self.view.type not in domain.REFUNDABLE | domain.CLAWABLE:
            return None
        reversed_minor = await info.context.ledger.reads.reversed_minor.load(self.view.name)
        return amount(abs(self.view.amount_minor) - reversed_minor, self.view.asset)

    @strawberry.field(description="What gave it back or took it back, newest first. It grows, unlike the rest.")
    async def refunds(self, info: Info) -> list[Annotated["Transaction", strawberry.lazy(__name__)]] | None:
        """Read what reversed it."""
        if self.view.type not in domain.REFUNDABLE | domain.CLAWABLE:
            return []
        names = await info.context.ledger.reads.reversing.load(self.view.name)
        # A clawback that found nothing to take is none of the owner's account: all of it is owed.
        found = await gather(*(read_own(info, name, self.view.wallet_id) for name in names))
        return [each for each in found if each is not None]

    @strawberry.field(
        description="Which lots it took credits from, in that order, or put them into; the pool comes last. Empty where"
        " the account had never had a lot when it was posted: then all of it is the pool's."
    )
    async def lot_uses(
        self, info: Info
    ) -> list[Annotated["LotUse", strawberry.lazy("wallet_gql.graphql.lots")]] | None:
        """Read what it moved of lots."""
        return await lots.read_lot_uses(info, self.view)

    @strawberry.field(description="Its legs in this asset: the double entry.")
    async def entries(self, info: Info) -> list[Entry] | None:
        """Read the legs."""
        return [
            Entry(
                account=AccountKind[entry.kind.name],
                direction=_direction(entry.amount_minor),
                amount=amount(abs(entry.amount_minor), self.view.asset),
            )
            for entry in await info.context.ledger.reads.entries.load(self.view)
        ]

    def global_id(self) -> str:
        """Return its global id."""
        return ids.transaction_id(self.view)


async def read_transaction(info: Info, name: EntryName) -> Transaction | None:
    """Read a transaction by the entry that an id names; None where there is none, or it is not one of the caller's."""
    view = await info.context.ledger.reads.transactions.load(name)
    is_own = await reaches_account(info, name.shard, None if view is None else view.wallet_id)
    return Transaction(view=view) if view is not None and is_own else None


async def read_own(info: Info, name: domain.TransactionName, wallet_id: int) -> Transaction | None:
    """Read a transaction as a wallet of its shard sees it; None where it has no leg of it, or there is none."""
    view = await info.context.ledger.reads.own_transactions.load(OwnTransaction(name.shard, name.id, wallet_id))
    return None if view is None else Transaction(view=view)


def _direction(amount_minor: int) -> Direction:
    return Direction.CREDIT if amount_minor > 0 else Direction.DEBIT


@strawberry.type(description="A transaction and its place in the list.")
class TransactionEdge:
    """A transaction and its place in the list."""

    cursor: str = strawberry.field(description="Its position: page from here.")
    node: Transaction = strawberry.field(description="The transaction.")


@strawberry.type(
    description="A page of an account's history, newest first. What arrives never shifts a page by cursor."
)
class TransactionConnection:
    """A page of an account's history."""

    edges: list[TransactionEdge] = strawberry.field(description="The page, with a cursor for each transaction.")
    nodes: list[Transaction] = strawberry.field(description="The page, transactions only.")
    page_info: PageInfo = strawberry.field(description="What is before and after the page.")
    total_count: int | None = strawberry.field(
        description="How many transactions the account has; null where a filter is set."
    )


async def read_page(info: Info, account: WalletAsset, arguments: paging.PageArguments) -> TransactionConnection:
    """Read a page of an account's history; raises `BadUserInput` for arguments that name none."""
    page = await info.context.ledger.reads.pages.load(paging.page_request(account, arguments))
    nodes = [Transaction(view=view) for view in page.transactions]
    cursors = [
        ids.cursor(account.wallet.shard, account.wallet.id, account.asset.id, view.seq) for view in page.transactions
    ]
    return TransactionConnection(
        edges=[TransactionEdge(cursor=cursor, node=node) for cursor, node in zip(cursors, nodes, strict=True)],
        nodes=nodes,
        page_info=PageInfo(
            has_next_page=page.has_next_page,
            has_previous_page=page.has_previous_page,
            start_cursor=cursors[0] if cursors else None,
            end_cursor=cursors[-1] if cursors else None,
        ),
        total_count=page.total_count,
    )


@strawberry.type
class TransactionQueries:
    """What can be asked about transactions."""

    @strawberry.field(
        description="An owner's history in an asset, newest first; null for an unknown owner or asset."
        " Page by cursor, or by limit and offset: first and offset. Pages by cursor never shift; pages by offset do:"
        " each transaction that arrives meanwhile moves every later offset by one."
    )
    async def transactions(
        self,
        info: Info,
        owner_id: OwnerId,
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
        wallet = await info.context.ledger.reads.wallets.load(owner_name(info, owner_id))
        found = await find_asset(info.context.ledger, asset)
        if wallet is None or found is None:
            return None
        return await read_page(info, WalletAsset(wallet, found), arguments)

    @strawberry.field(description="A transaction by its global id.")
    async def transaction(self, info: Info, id: NodeId) -> Transaction | None:
        """Read one transaction."""
        kind, parts, _ = ids.decode(id)
        if kind != "Transaction":
            raise BadUserInput("id", "is not the id of a transaction", "send a transaction's id")
        return await read_transaction(info, EntryName(*parts))

    @strawberry.field(
        description="What an owner's idempotency key posted. Null says nothing about a retry: the key may be unknown,"
        " its request refused, or under way. outcomeByKey distinguishes these."
    )
    async def transaction_by_key(self, info: Info, owner_id: OwnerId, idempotency_key: Key) -> Transaction | None:
        """Read one transaction by its key."""
        reads = info.context.ledger.reads
        view = await reads.transactions_by_key.load((owner_name(info, owner_id), idempotency_key))
        return None if view is None else Transaction(view=view)
