"""Refusals that are about holds."""

from enum import Enum
from typing import Self

import strawberry

from wallet_gql.domain import postings as domain
from wallet_gql.domain import refusals as kept
from wallet_gql.domain.holds import HoldName
from wallet_gql.graphql.context import Info
from wallet_gql.graphql.errors import Error, ErrorCode, Replayable, kept_fields
from wallet_gql.graphql.held import Hold, HoldState
from wallet_gql.graphql.scalars import Amount, amount


@strawberry.type(description="There is no such hold.")
class HoldNotFound(Error):
    """There is no such hold."""

    hold_id: strawberry.ID = strawberry.field(description="The id that was sent.")

    @classmethod
    def of(cls, refusal: domain.HoldMissing) -> Self:
        """Make it from the ledger's refusal."""
        return cls(
            code=ErrorCode.HOLD_NOT_FOUND,
            message="Hold not found: send the id of a hold as it was received",
            retryable=False,
            hold_id=strawberry.ID(refusal.hold_id),
        )


@strawberry.type
class _OfHold(Error, Replayable):
    name: strawberry.Private[HoldName]

    @strawberry.field(description="The hold as it is now.")
    async def hold(self, info: Info) -> Hold:
        """Read the hold."""
        hold = await info.context.ledger.reads.holds.load(self.name)
        assert hold is not None
        return Hold(hold=hold)


@strawberry.type(description="The hold was captured or voided, or its time is over. Kept under the key.")
class HoldNotOpen(_OfHold):
    """The hold is closed."""

    state: HoldState = strawberry.field(description="Where it stood when the request was refused.")

    @classmethod
    def of(cls, refusal: domain.Refused, facts: kept.HoldNotOpen) -> Self:
        """Make it from the ledger's refusal."""
        return cls(
            **kept_fields(facts.code),
            name=HoldName(refusal.balance.wallet.shard, facts.hold_id),
            state=HoldState[facts.state.name],
            already_processed=refusal.already_processed,
        )


@strawberry.type(
    description="More was to be captured than remains, or less was to be held than was captured. Kept under the key."
)
class HoldExceeded(_OfHold):
    """The hold does not hold so much."""

    remaining: Amount = strawberry.field(description="What remained when the request was refused.")
    required: Amount = strawberry.field(description="What the request named.")

    @classmethod
    def of(cls, refusal: domain.Refused, facts: kept.HoldExceeded) -> Self:
        """Make it from the ledger's refusal."""
        return cls(
            **kept_fields(facts.code),
            name=HoldName(refusal.balance.wallet.shard, facts.hold_id),
            remaining=amount(facts.remaining_minor, facts.asset),
            required=amount(facts.amount_minor, facts.asset),
            already_processed=refusal.already_processed,
        )


@strawberry.enum(description="What there can be too many of. Values are added as the service grows.")
class Counted(Enum):
    """What there can be too many of."""

    HOLDS = strawberry.enum_value("HOLDS", description="Open holds of an account.")
    CAPTURES = strawberry.enum_value("CAPTURES", description="Captures of a hold.")
    REFUNDS = strawberry.enum_value("REFUNDS", description="Refunds and clawbacks of a transaction.")
    LOTS = strawberry.enum_value("LOTS", description="Lots of an account that have something left.")
    LIMITS = strawberry.enum_value("LIMITS", description="Limits of a wallet in an asset, or of all wallets.")


@strawberry.type(description="There are as many as there may be. Kept under the key.")
class TooMany(Error, Replayable):
    """There are as many as there may be."""

    counted: Counted = strawberry.field(description="Of what.")
    most: int = strawberry.field(description="How many there may be.")

    @classmethod
    def of(cls, refusal: domain.Refused, facts: kept.TooMany) -> Self:
        """Make it from the ledger's refusal."""
        return cls(
            **kept_fields(facts.code),
            counted=Counted[facts.counted.name],
            most=facts.most,
            already_processed=refusal.already_processed,
        )
