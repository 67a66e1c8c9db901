"""What can be asked. A reader gets null for what does not exist."""

from typing import Annotated, cast
from uuid import UUID

import strawberry

from wallet_gql.domain.errors import BadUserInput
from wallet_gql.domain.shards import shard_of
from wallet_gql.domain.text import check_owner_id
from wallet_gql.graphql import ids, outcomes, paging, types
from wallet_gql.graphql.context import Info
from wallet_gql.ledger.reads import OwnerName, TransactionName, WalletAsset
from wallet_gql.operations.assets import find_asset, list_assets

OwnerId = Annotated[str, strawberry.argument(description="The owner's id: the caller's own id of the player.")]
Key = Annotated[UUID, strawberry.argument(description="The key that the request was sent with.")]
NodeId = Annotated[strawberry.ID, strawberry.argument(description="A global id, as it was received.")]


def owner_name(info: Info, owner_id: str, field: str = "ownerId") -> OwnerName:
    """Check an owner id and find its shard."""
    return OwnerName(shard_of(check_owner_id(owner_id, field), info.context.ledger.shard_count), owner_id)


async def read_node(info: Info, id_: str, field: str = "id") -> types.Node | None:
    """Return what a global id names; None where nothing has it. Raises `BadUserInput` for a malformed id."""
    kind, parts, code = ids.decode(id_, field)
    ledger = info.context.ledger
    match kind:
        case "Asset":
            asset = await find_asset(ledger, code)
            return None if asset is None else types.Asset.of(asset)
        case "Wallet":
            wallet = await ledger.reads.wallets_by_id.load((parts[0], parts[1]))
            return None if wallet is None else types.Wallet.of(wallet)
        case "Balance":
            wallet = await ledger.reads.wallets_by_id.load((parts[0], parts[1]))
            asset = next((asset for asset in await list_assets(ledger) if asset.id == parts[2]), None)
            if wallet is None or asset is None:
                return None
            return types.Balance.of(await ledger.reads.balances.load(WalletAsset(wallet, asset)))
        case "Transaction":
            view = await ledger.reads.transactions.load(TransactionName(*parts))
            return None if view is None else types.Transaction.of(view)
        case _:
            raise BadUserInput(field, "is a cursor, not an id", "send the id of a node")


async def read_wallet(info: Info, owner_id: str, field: str = "ownerId") -> types.Wallet | None:
    """Return an owner's wallet; None where there is none. Raises `BadUserInput` for a malformed owner id."""
    wallet = await info.context.ledger.reads.wallets.load(owner_name(info, owner_id, field))
    return None if wallet is None else types.Wallet.of(wallet)


@strawberry.type(description="What can be asked.")
class Query:
    """What can be asked."""

    @strawberry.field(description="Anything with an identity, by its global id.")
    async def node(self, info: Info, id: NodeId) -> types.Node | None:
        """Read one node."""
        return await read_node(info, id)

    @strawberry.field(description="Many things by their global ids, in order; at most 100, read together.")
    async def nodes(
        self,
        info: Info,
        ids: Annotated[list[strawberry.ID], strawberry.argument(description="Global ids, at most 100.")],
    ) -> list[types.Node | None]:
        """Read many nodes."""
        # Each is awaited by itself: one that is malformed is an error at its place, and the others are answered.
        return cast("list[types.Node | None]", [read_node(info, id_, "ids") for id_ in ids])

    @strawberry.field(description="An owner's wallet.")
    async def wallet(self, info: Info, owner_id: OwnerId) -> types.Wallet | None:
        """Read one wallet."""
        return await read_wallet(info, owner_id)

    @strawberry.field(description="Many owners' wallets, in order; at most 100, read together.")
    async def wallets(
        self,
        info: Info,
        owner_ids: Annotated[list[str], strawberry.argument(description="The owners' ids, at most 100.")],
    ) -> list[types.Wallet | None] | None:
        """Read many wallets."""
        # As with nodes: one that is malformed is an error at its place, and the others are answered.
        return cast("list[types.Wallet | None]", [read_wallet(info, owner_id, "ownerIds") for owner_id in owner_ids])

    @strawberry.field(
        description="What an owner holds in an asset: zero where it was never used, null for an unknown owner or asset."
    )
    async def balance(
        self, info: Info, owner_id: OwnerId, asset: types.AssetArgument = types.DEFAULT_ASSET
    ) -> types.Balance | None:
        """Read one balance."""
        name = owner_name(info, owner_id)
        found = await find_asset(info.context.ledger, asset)
        if found is None:
            return None
        balance = await info.context.ledger.reads.owners_balances.load((name, found))
        return None if balance is None else types.Balance.of(balance)

    @strawberry.field(
        description="An owner's history in an asset, newest first; null for an unknown owner or asset."
        " Page by cursor, or by limit and offset: first and offset. Pages by cursor never shift; pages by offset do:"
        " each transaction that arrives meanwhile moves every later offset by one."
    )
    async def transactions(
        self,
        info: Info,
        owner_id: OwnerId,
        asset: types.AssetArgument = types.DEFAULT_ASSET,
        first: types.First = strawberry.UNSET,
        after: types.After = strawberry.UNSET,
        last: types.Last = strawberry.UNSET,
        before: types.Before = strawberry.UNSET,
        offset: types.Offset = strawberry.UNSET,
    ) -> types.TransactionConnection | None:
        """Read a page."""
        arguments = paging.PageArguments(first, after, last, before, offset)
        paging.check(arguments)
        wallet = await info.context.ledger.reads.wallets.load(owner_name(info, owner_id))
        found = await find_asset(info.context.ledger, asset)
        if wallet is None or found is None:
            return None
        return await types.read_page(info, WalletAsset(wallet, found), arguments)

    @strawberry.field(description="A transaction by its global id.")
    async def transaction(self, info: Info, id: NodeId) -> types.Transaction | None:
        """Read one transaction."""
        kind, parts, _ = ids.decode(id)
        if kind != "Transaction":
            raise BadUserInput("id", "is not the id of a transaction", "send a transaction's id")
        view = await info.context.ledger.reads.transactions.load(TransactionName(*parts))
        return None if view is None else types.Transaction.of(view)

    @strawberry.field(
        description="What an owner's idempotency key posted. Null says nothing about a retry: the key may be unknown,"
        " its request refused, or under way. outcomeByKey distinguishes these."
    )
    async def transaction_by_key(self, info: Info, owner_id: OwnerId, idempotency_key: Key) -> types.Transaction | None:
        """Read one transaction by its key."""
        reads = info.context.ledger.reads
        view = await reads.transactions_by_key.load((owner_name(info, owner_id), idempotency_key))
        return None if view is None else types.Transaction.of(view)

    @strawberry.field(
        description="What became of the request that an owner's idempotency key was sent with, decided under the"
        " wallet's lock: it waits for whoever is posting to the wallet. Null for an owner without a wallet, for whom"
        " nothing is decided either. An error says nothing about the key."
    )
    async def outcome_by_key(self, info: Info, owner_id: OwnerId, idempotency_key: Key) -> outcomes.KeyOutcome | None:
        """Decide what became of one request."""
        outcome = await info.context.ledger.outcomes.find(owner_name(info, owner_id), idempotency_key)
        return None if outcome is None else outcomes.KeyOutcome.of(outcome)

    @strawberry.field(description="All kinds of credit, in the order in which they were added.")
    async def assets(self, info: Info) -> list[types.Asset] | None:
        """Read all assets."""
        return [types.Asset.of(asset) for asset in await list_assets(info.context.ledger)]
