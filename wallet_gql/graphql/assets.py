"""Assets: kinds of credit."""

from functools import cache
from typing import Annotated, Final, Self, TypeAlias

import strawberry

from wallet_gql.domain import assets as domain
from wallet_gql.graphql import ids
from wallet_gql.graphql.context import Info
from wallet_gql.graphql.node import Node
from wallet_gql.operations.assets import list_assets

DEFAULT_ASSET: Final = "GOLD"

AssetArgument: TypeAlias = Annotated[
    str, strawberry.argument(description='The code of the asset, "GOLD" if not given.')
]


@strawberry.type(description="A kind of credit. Assets are added, never changed.")
class Asset(Node):
    """A kind of credit."""

    code: str = strawberry.field(description='What callers name it by, such as "GOLD".')
    name: str = strawberry.field(description='What people call it, such as "Gold Coins".')
    scale: int = strawberry.field(description="The number of its fraction digits.")

    @classmethod
    @cache
    def of(cls, asset: domain.Asset) -> Self:
        """Make it from the ledger's asset, once: there are few, none ever changes, and every answer has some."""
        return cls(id=strawberry.ID(ids.asset_id(asset.code)), code=asset.code, name=asset.name, scale=asset.scale)


@strawberry.type
class AssetQueries:
    """What can be asked about assets."""

    @strawberry.field(description="All kinds of credit, in the order in which they were added.")
    async def assets(self, info: Info) -> list[Asset] | None:
        """Read all assets."""
        return [Asset.of(asset) for asset in await list_assets(info.context.ledger)]
