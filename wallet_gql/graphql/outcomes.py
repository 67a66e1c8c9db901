"""What became of a request, by its idempotency key."""

from enum import Enum
from typing import Final, Self

import strawberry

from wallet_gql.domain import postings as domain
from wallet_gql.domain.refusals import OutcomeCode
from wallet_gql.graphql import refusals
from wallet_gql.graphql.context import Info
from wallet_gql.graphql.errors import Error
from wallet_gql.graphql.held import Hold
from wallet_gql.graphql.owners import OwnerId, owner_name
from wallet_gql.graphql.transactions import Key, Transaction


@strawberry.enum(
    description="What became of a request. States are added as the service grows: keep a default branch that sends the"
    " same request with the same key again."
)
class KeyOutcomeState(Enum):
    """What became of a request."""

    POSTED = strawberry.enum_value("POSTED", description="It was posted, once: done. Never send it with a new key.")
    HELD = strawberry.enum_value(
        "HELD", description="It placed, voided or adjusted a hold, once: done. Never send it with a new key."
    )
    NOTHING = strawberry.enum_value(
        "NOTHING",
        description="There was nothing to take back, or only to be owed: done. Another attempt needs a new key.",
    )
    CHANGED = strawberry.enum_value(
        "CHANGED", description="It froze, unfroze, closed or reopened the wallet, or changed its limits, once: done."
    )
    REFUSED = strawberry.enum_value(
        "REFUSED", description="It was refused for good, and nothing moved. Another attempt needs a new key."
    )
    UNKNOWN = strawberry.enum_value(
        "UNKNOWN",
        description="Nothing is decided: the request may still arrive and be posted. Send it again with the same key,"
        " never with a new one.",
    )


_STATES: Final = {
    OutcomeCode.NOTHING: KeyOutcomeState.NOTHING,
    OutcomeCode.CHANGED: KeyOutcomeState.CHANGED,
    OutcomeCode.LIMITS_SET: KeyOutcomeState.CHANGED,
}


@strawberry.type(
    description="What became of the request that an idempotency key was sent with. Fields are added over time."
)
class KeyOutcome:
    """What became of a request."""

    state: KeyOutcomeState = strawberry.field(description="Tells outcomes apart.")
    transaction: Transaction | None = strawberry.field(description="What was posted; null unless POSTED.")
    hold: Hold | None = strawberry.field(description="The hold as it is now; null unless HELD.")
    refusal: Error | None = strawberry.field(description="Why it was refused, as first answered; null unless REFUSED.")

    @classmethod
    def of(cls, outcome: domain.KeyOutcome) -> Self:
        """Make it from the ledger's outcome."""
        match outcome.code:
            case None:
                return cls(state=KeyOutcomeState.UNKNOWN, transaction=None, hold=None, refusal=None)
            case OutcomeCode.POSTED:
                assert outcome.transaction is not None
                transaction = Transaction(view=outcome.transaction)
                return cls(state=KeyOutcomeState.POSTED, transaction=transaction, hold=None, refusal=None)
            case OutcomeCode.NOTHING | OutcomeCode.CHANGED | OutcomeCode.LIMITS_SET:
                return cls(state=_STATES[outcome.code], transaction=None, hold=None, refusal=None)
            case OutcomeCode.HELD:
                assert outcome.hold is not None
                return cls(state=KeyOutcomeState.HELD, transaction=None, hold=Hold(hold=outcome.hold), refusal=None)
            case code:
                refused = outcome.refused
                refusal = refusals.KeptRefusal.of(code) if refused is None else refusals.of_refused(refused)
                return cls(state=KeyOutcomeState.REFUSED, transaction=None, hold=None, refusal=refusal)


@strawberry.type
class OutcomeQueries:
    """What can be asked about requests."""

    @strawberry.field(
        description="What became of the request that an owner's idempotency key was sent with, decided under the"
        " wallet's lock: it waits for whoever is posting to the wallet. Null for an owner without a wallet, for whom"
        " nothing is decided either. An error says nothing about the key."
    )
    async def outcome_by_key(self, info: Info, owner_id: OwnerId, idempotency_key: Key) -> KeyOutcome | None:
        """Decide what became of one request."""
        outcome = await info.context.ledger.outcomes.find(owner_name(info, owner_id), idempotency_key)
        return None if outcome is None else KeyOutcome.of(outcome)
