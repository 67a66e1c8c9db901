"""Where credits come from, and what is wrong with an end."""

from enum import Enum
from typing import Self

import strawberry

from wallet_gql.domain import lots as domain
from wallet_gql.domain import postings
from wallet_gql.domain import refusals as kept
from wallet_gql.graphql.errors import Error, Replayable, kept_fields

SOURCES = "Only credits of these sources are taken; all of them if not given."


@strawberry.enum(description="Where credits come from. Sources are added as the service grows: keep a default branch.")
class CreditSource(Enum):
    """Where credits come from."""

    PURCHASED = strawberry.enum_value(
        "PURCHASED", description="The pool, which never expires: what was topped up, and what was there before lots."
    )
    BONUS = strawberry.enum_value("BONUS", description="What the platform gave since the asset has lots.")


@strawberry.enum(description="What is wrong with the lot that credits shall be of.")
class InvalidExpiryReason(Enum):
    """What is wrong with it."""

    IN_THE_PAST = strawberry.enum_value("IN_THE_PAST", description="Its end has come.")
    TOO_FAR = strawberry.enum_value("TOO_FAR", description="Its end is more than ten years away.")
    LOTS_OFF = strawberry.enum_value(
        "LOTS_OFF", description="The asset has no lots: nothing of it has an end, a priority or a campaign."
    )


@strawberry.type(description="The lot that the credits shall be of cannot be. Kept under the key.")
class InvalidExpiry(Error, Replayable):
    """The lot cannot be."""

    fault: InvalidExpiryReason = strawberry.field(description="What is wrong with it.")

    @classmethod
    def of(cls, refusal: postings.Refused, facts: kept.InvalidExpiry) -> Self:
        """Make it from the ledger's refusal."""
        return cls(
            **kept_fields(facts.code),
            fault=InvalidExpiryReason[facts.fault.name],
            already_processed=refusal.already_processed,
        )


def sources_of(asked: list[CreditSource] | None) -> list[domain.CreditSource] | None:
    """Return the ledger's sources; None where none were sent."""
    return None if asked is strawberry.UNSET or asked is None else [domain.CreditSource[each.name] for each in asked]
