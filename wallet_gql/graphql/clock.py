"""The test clock."""

from datetime import datetime
from typing import Annotated

import strawberry

from wallet_gql.graphql import refusals
from wallet_gql.graphql.context import Info
from wallet_gql.operations import clock


@strawberry.input(description="How far to move the clock of a service in test mode.")
class AdvanceTestClockInput:
    """How far to move the clock."""

    seconds: int = strawberry.field(description="By how many seconds, at least 1: a clock only goes forward.")


@strawberry.type(description="The clock was moved.")
class AdvanceTestClockPayload:
    """The clock was moved."""

    now: datetime = strawberry.field(description="What it says now.")


AdvanceTestClockResult = Annotated[
    AdvanceTestClockPayload | refusals.TestClockOff,
    strawberry.union("AdvanceTestClockResult", description="Unions grow: keep a `... on Error` branch."),
]


@strawberry.type
class ClockMutations:
    """What moves time."""

    @strawberry.mutation(
        description="In test mode: move the clock forward for everything at once, so that holds end in milliseconds."
    )
    async def advance_test_clock(
        self, info: Info, input: Annotated[AdvanceTestClockInput, strawberry.argument(description="How far.")]
    ) -> AdvanceTestClockResult | None:
        """Move the clock forward."""
        now = await clock.advance_clock(info.context.ledger, input.seconds)
        return refusals.TestClockOff.of() if now is None else AdvanceTestClockPayload(now=now)
