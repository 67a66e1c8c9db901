"""Limits as they are shown, and how much of them is used up."""

from datetime import datetime
from enum import Enum
from typing import Annotated

import strawberry
from strawberry import UNSET

from wallet_gql.domain import limits as domain
from wallet_gql.domain.access import Scope
from wallet_gql.domain.assets import Asset as DomainAsset
from wallet_gql.domain.wallets import Wallet as DomainWallet
from wallet_gql.graphql import ids
from wallet_gql.graphql.access import Actor, ActorKind
from wallet_gql.graphql.assets import DEFAULT_ASSET, Asset, AssetArgument
from wallet_gql.graphql.context import Info
from wallet_gql.graphql.node import Node
from wallet_gql.graphql.owners import owner_name
from wallet_gql.graphql.scalars import Amount, amount
from wallet_gql.ledger import limit_reads
from wallet_gql.ledger.limits import Chain
from wallet_gql.ledger.reads import WalletAsset
from wallet_gql.operations.assets import find_asset, list_assets


@strawberry.enum(description="What is limited. Values are added as the service grows: keep a default branch.")
class LimitFlow(Enum):
    """What is limited."""

    BALANCE = strawberry.enum_value("BALANCE", description="What a wallet holds, what is held included.")
    IN = strawberry.enum_value("IN", description="Top-ups, bonuses and transfers that come in, together.")
    OUT = strawberry.enum_value(
        "OUT", description="Spends, captures and transfers that go out, with what open holds hold, together."
    )
    TOP_UP = strawberry.enum_value("TOP_UP", description="Top-ups alone.")
    BONUS = strawberry.enum_value("BONUS", description="Bonuses alone.")
    SPEND = strawberry.enum_value("SPEND", description="Spends and captures for the platform, with holds for it.")
    TRANSFER_OUT = strawberry.enum_value(
        "TRANSFER_OUT", description="Transfers that go out, with holds that name who gets what is captured."
    )
    TRANSFER_IN = strawberry.enum_value("TRANSFER_IN", description="Transfers that come in.")


@strawberry.enum(description="How long a window of the calendar is.")
class CalendarUnit(Enum):
    """How long a window of the calendar is."""

    DAY = strawberry.enum_value("DAY", description="From midnight on.")
    WEEK = strawberry.enum_value("WEEK", description="From midnight of Monday on.")
    MONTH = strawberry.enum_value("MONTH", description="From midnight of the first on.")


@strawberry.enum(description="What becomes of what exceeds a limit.")
class Enforcement(Enum):
    """What becomes of what exceeds a limit."""

    REFUSE = strawberry.enum_value("REFUSE", description="It is refused.")
    WARN = strawberry.enum_value("WARN", description="It is posted, and the service's log tells: to try a limit out.")


@strawberry.type(
    description="A limit in one of its versions: what is set anew takes its place, and is another version with an id of"
    " its own. So it always shows what a refusal was decided on."
)
class Limit(Node):
    """A limit in one of its versions."""

    rule: strawberry.Private[domain.Rule]
    of_asset: strawberry.Private[DomainAsset]
    owner_id: strawberry.Private[str | None]
    asset: Asset = strawberry.field(resolver=lambda self: Asset.of(self.of_asset), description="What it is in.")
    applies_to: str | None = strawberry.field(
        resolver=lambda self: self.owner_id, description="The owner whose wallet it is for; null for all wallets."
    )
    flow: LimitFlow = strawberry.field(
        resolver=lambda self: LimitFlow[self.rule.flow.name], description="What is limited."
    )
    rolling_seconds: int | None = strawberry.field(
        resolver=lambda self: None if self.rule.window is None else self.rule.window.rolling_seconds,
        description="How long its window is, which ends now; null where it is not a rolling one.",
    )
    unit: CalendarUnit | None = strawberry.field(
        resolver=lambda self: (
            None
            if self.rule.window is None or self.rule.window.unit is None
            else CalendarUnit[self.rule.window.unit.name]
        ),
        description="How long its window of the calendar is; null where it has none.",
    )
    time_zone: str | None = strawberry.field(
        resolver=lambda self: None if self.rule.window is None else self.rule.window.time_zone,
        description="The time zone of that calendar.",
    )
    max_amount: Amount | None = strawberry.field(
        resolver=lambda self: _amount(self.rule.max_minor, self.of_asset), description="The most, if that is limited."
    )
    max_count: int | None = strawberry.field(
        resolver=lambda self: self.rule.max_count, description="The most movements, if they are limited."
    )
    enforcement: Enforcement = strawberry.field(
        resolver=lambda self: Enforcement[self.rule.enforcement.name], description="What becomes of what exceeds it."
    )
    set_at: datetime = strawberry.field(resolver=lambda self: self.rule.set_at, description="When it was set so.")

    @strawberry.field(
        description="Who set it so; null where that is not known, and for whoever is neither that nor an auditor."
    )
    def set_by(self, info: Info) -> Actor | None:
        """Say who, to whom may know."""
        kind, name, _ = self.rule.set_by
        caller = info.context.caller
        is_own = (kind, name) == (caller.kind, caller.name)
        if kind is None or name is None or not (is_own or Scope.AUDIT in caller.scopes):
            return None
        return Actor(kind=ActorKind[kind.name], name=name)

    def global_id(self) -> str:
        """Return its global id."""
        return ids.limit_id(self.rule.name)


@strawberry.type(description="How much of a limit is used up now.")
class LimitUse:
    """How much of a limit is used up."""

    use: strawberry.Private[limit_reads.LimitUse]
    wallet: strawberry.Private[DomainWallet]
    of_asset: strawberry.Private[DomainAsset]

    @strawberry.field(description="The limit.")
    def rule(self) -> Limit:
        """Show the limit."""
        return Limit(rule=self.use.rule, of_asset=self.of_asset, owner_id=_applies_to(self.use.rule, self.wallet))

    @strawberry.field(description="What moved in its window, with what open holds hold; of a balance, what it is.")
    def used(self) -> Amount:
        """Say how much."""
        return amount(self.use.used.minor, self.of_asset)

    @strawberry.field(description="How many movements that were, an open hold counting as one.")
    def used_count(self) -> int:
        """Say how many."""
        return self.use.used.number

    @strawberry.field(description="How much may still move at once by this limit alone; never negative.")
    def remaining(self) -> Amount:
        """Say how much."""
        return amount(self.use.rule.remaining_minor(self.use.used), self.of_asset)

    @strawberry.field(description="How many movements there may still be; null where they are not limited.")
    def remaining_count(self) -> int | None:
        """Say how many."""
        return self.use.rule.remaining_count(self.use.used)

    @strawberry.field(
        description="When time gives some of it back first: the window of the calendar ends, the oldest movement leaves"
        " the rolling one, or a hold ends. Null where time gives nothing back."
    )
    async def resets_at(self, info: Info) -> datetime | None:
        """Read when."""
        reset = self.use.reset
        return None if reset is None else await info.context.ledger.reads.limit_resets.load(reset)


def _amount(minor: int | None, asset: DomainAsset) -> Amount | None:
    return None if minor is None else amount(minor, asset)


def _applies_to(rule: domain.Rule, wallet: DomainWallet) -> str | None:
    return wallet.owner_id if rule.name.wallet_id else None


async def read_limit(info: Info, name: domain.RuleName) -> Limit | None:
    """Read a version of a limit; None where there is none, or it is of a wallet that is not the caller's."""
    ledger, wallet = info.context.ledger, None
    rule = await ledger.reads.limit_rules.load(name)
    if name.wallet_id:
        # Also where there is no such limit: another's is as one that does not exist, in statements too.
        wallet = await ledger.reads.wallets_by_id.load((name.shard, name.wallet_id))
        if wallet is None or not info.context.caller.reaches(wallet.owner_id):
            return None
    if rule is None:
        return None
    asset = next(asset for asset in await list_assets(ledger) if asset.id == name.asset_id)
    return Limit(rule=rule, of_asset=asset, owner_id=None if wallet is None else wallet.owner_id)


async def read_limit_uses(info: Info, wallet: DomainWallet, asset_code: str) -> list[LimitUse] | None:
    """Read the limits that hold for a wallet in an asset; None for an unknown asset."""
    asset = await find_asset(info.context.ledger, asset_code)
    if asset is None:
        return None
    uses = await info.context.ledger.reads.limit_uses.load(WalletAsset(wallet, asset))
    return [LimitUse(use=use, wallet=wallet, of_asset=asset) for use in uses]


@strawberry.type
class LimitQueries:
    """What can be asked about limits."""

    @strawberry.field(
        description="The limits that are set in an asset: for all wallets, or for one owner's alone. Null for an"
        " unknown asset or owner. What holds for a wallet, with how much is used up, is `wallet { limits }`."
    )
    async def limits(
        self,
        info: Info,
        asset: AssetArgument = DEFAULT_ASSET,
        owner_id: Annotated[
            str | None, strawberry.argument(description="Whose; those for all wallets if not given.")
        ] = UNSET,
    ) -> list[Limit] | None:
        """Read what is in force."""
        ledger = info.context.ledger
        owner = None if owner_id is None or owner_id is UNSET else owner_name(info, owner_id)
        found = await find_asset(ledger, asset)
        if found is None:
            return None
        shard, wallet_id = 0, 0
        if owner is not None:
            wallet = await ledger.reads.wallets.load(owner)
            if wallet is None:
                return None
            shard, wallet_id = wallet.shard, wallet.id
        rules = await ledger.reads.limits_in_force.load(Chain(found.id, shard, wallet_id))
        return [Limit(rule=rule, of_asset=found, owner_id=owner and owner.owner_id) for rule in rules]
