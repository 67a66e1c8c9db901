"""Assets: kinds of credit."""

from enum import Enum
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


@strawberry.enum(description="Whether owners may transfer an asset. Policies are added: keep a default branch.")
class TransferPolicy(Enum):
    """Whether owners may transfer an asset."""

    ALL = strawberry.enum_value("ALL", description="Any of it.")
    PURCHASED = strawberry.enum_value("PURCHASED", description="What was paid for: no bonuses.")
    NONE = strawberry.enum_value("NONE", description="None of it.")


@strawberry.type(description="A kind of credit. Its code, name and scale never change.")
class Asset(Node):
    """A kind of credit."""

    asset: strawberry.Private[domain.Asset]
    code: str = strawberry.field(description='What callers name it by, such as "GOLD".')
    name: str = strawberry.field(description='What people call it, such as "Gold Coins".')
    scale: int = strawberry.field(description="The number of its fraction digits.")

    @strawberry.field(description="Whether owners may transfer it to each other now.")
    async def transfers(self, info: Info) -> TransferPolicy:
        """Read what operators set."""
        settings = await info.context.ledger.reads.asset_settings.load(None)
        return TransferPolicy[settings.get(self.asset.id, domain.DEFAULT_SETTING).transfers.name]

    @strawberry.field(description="Whether each bonus of it is a lot, which may expire: once it is so, for ever.")
    async def has_lots(self, info: Info) -> bool:
        """Read what operators set."""
        settings = await info.context.ledger.reads.asset_settings.load(None)
        return settings.get(self.asset.id, domain.DEFAULT_SETTING).has_lots

    def global_id(self) -> str:
        """Return its global id."""
        return ids.asset_id(self.code)

    @classmethod
    @cache
    def of(cls, asset: domain.Asset) -> Self:
        """Make it from the ledger's asset, once: there are few, none ever changes, and every answer has some."""
        return cls(asset=asset, code=asset.code, name=asset.name, scale=asset.scale)


@strawberry.type
class AssetQueries:
    """What can be asked about assets."""

    @strawberry.field(description="All kinds of credit, in the order in which they were added.")
    async def assets(self, info: Info) -> list[Asset] | None:
        """Read all assets."""
        return [Asset.of(asset) for asset in await list_assets(info.context.ledger)]
