"""Anything with an identity, by its global id."""

from typing import Annotated, cast
from uuid import UUID

import strawberry

from wallet_gql.domain.errors import BadUserInput, Forbidden
from wallet_gql.domain.holds import HoldName
from wallet_gql.domain.lots import LotName
from wallet_gql.graphql import ids
from wallet_gql.graphql.assets import Asset
from wallet_gql.graphql.balances import Balance
from wallet_gql.graphql.context import Info
from wallet_gql.graphql.held import shown
from wallet_gql.graphql.limits import read_limit
from wallet_gql.graphql.lots import read_lot
from wallet_gql.graphql.node import Node, NodeId
from wallet_gql.graphql.paging import PAGE_SIZE_MAX
from wallet_gql.graphql.policy import FREE, NODES
from wallet_gql.graphql.transactions import read_transaction
from wallet_gql.graphql.wallets import Wallet
from wallet_gql.ledger.reads import EntryName, WalletAsset
from wallet_gql.operations.assets import find_asset, list_assets
from wallet_gql.operations.holds import find_hold


async def read_node(info: Info, id_: str, field: str = "id") -> Node | None:
    """Return what a global id names; None where nothing has it. Raises `BadUserInput` for a malformed id."""
    kind, parts, code = ids.decode(id_, field)
    ledger, caller = info.context.ledger, info.context.caller
    needed = NODES.get(kind, FREE)
    if needed and needed.isdisjoint(caller.scopes):
        raise Forbidden(f"A {kind} is for callers with the scope {min(needed)}: have the operator give you it.", field)
    match kind:
        case "Asset":
            asset = await find_asset(ledger, code)
            return None if asset is None else Asset.of(asset)
        case "Wallet":
            wallet = await ledger.reads.wallets_by_id.load((parts[0], parts[1]))
            return None if wallet is None or not caller.reaches(wallet.owner_id) else Wallet.of(wallet)
        case "Balance":
            wallet = await ledger.reads.wallets_by_id.load((parts[0], parts[1]))
            asset = next((asset for asset in await list_assets(ledger) if asset.id == parts[2]), None)
            if wallet is None or asset is None or not caller.reaches(wallet.owner_id):
                return None
            return Balance(balance=await ledger.reads.balances.load(WalletAsset(wallet, asset)))
        case "Transaction":
            return await read_transaction(info, EntryName(*parts))
        case "Hold":
            return shown(info, await find_hold(ledger, HoldName(parts[0], UUID(int=parts[1]))))
        case "Lot":
            return await read_lot(info, LotName(*parts))
        case "Limit":
            return await read_limit(info, ids.limit_name(parts))
        case _:
            raise BadUserInput(field, "is a cursor, not an id", "send the id of a node")


@strawberry.type
class NodeQueries:
    """What can be asked by a global id."""

    @strawberry.field(description="Anything with an identity, by its global id.")
    async def node(self, info: Info, id: NodeId) -> Node | None:
        """Read one node."""
        return await read_node(info, id)

    @strawberry.field(description=f"Many things by their global ids, in order; at most {PAGE_SIZE_MAX}, read together.")
    async def nodes(
        self,
        info: Info,
        ids: Annotated[list[strawberry.ID], strawberry.argument(description=f"Global ids, at most {PAGE_SIZE_MAX}.")],
    ) -> list[Node | None]:
        """Read many nodes."""
        # Each is awaited by itself: one that is malformed is an error at its place, and the others are answered.
        return cast("list[Node | None]", [read_node(info, id_, "ids") for id_ in ids])
