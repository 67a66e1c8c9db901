"""Setting and removing limits."""

from decimal import Decimal
from typing import Annotated, cast
from uuid import UUID

import strawberry
from strawberry import UNSET

from wallet_gql.domain import limits as domain
from wallet_gql.domain.errors import Forbidden
from wallet_gql.domain.limits import LIMITS_MAX, ROLLING_SECONDS_MAX
from wallet_gql.domain.refusals import OutcomeCode
from wallet_gql.graphql import ids, refusals
from wallet_gql.graphql.assets import DEFAULT_ASSET
from wallet_gql.graphql.context import Info
from wallet_gql.graphql.errors import Replayable, kept_fields
from wallet_gql.graphql.limits import CalendarUnit, Enforcement, Limit, LimitFlow, read_limit
from wallet_gql.graphql.refusals_of_holds import Counted, TooMany
from wallet_gql.graphql.refusals_of_limits import LimitNotFound
from wallet_gql.graphql.scalars import Amount
from wallet_gql.operations import limits

_KEY: str = "A fresh UUID for each new request, the same one for each retry of it: it takes effect once."


@strawberry.input(description="A window of the calendar.")
class CalendarWindowInput:
    """A window of the calendar."""

    unit: CalendarUnit = strawberry.field(description="How long it is.")
    time_zone: str = strawberry.field(
        default="UTC", description='The time zone in which it begins at midnight: an IANA name, "Europe/Berlin".'
    )


@strawberry.input(
    one_of=True,
    description="The time in which what moves is counted together: a rolling window or one of the calendar.",
)
class LimitWindowInput:
    """The time in which what moves is counted together."""

    rolling_seconds: int | None = strawberry.field(
        default=UNSET, description=f"So many seconds up to now, 1 to {ROLLING_SECONDS_MAX} (366 days)."
    )
    calendar: CalendarWindowInput | None = strawberry.field(
        default=UNSET, description="The day, week or month that it is in a time zone."
    )


@strawberry.input(
    description="A limit to set. It takes the place of the one of the same flow and window, and an owner's that of the"
    f" asset's. There are at most {LIMITS_MAX} for all wallets, and as many for one, in an asset."
)
class SetLimitInput:
    """A limit to set."""

    asset: str = strawberry.field(default=DEFAULT_ASSET, description='The code of the asset, "GOLD" if not given.')
    owner_id: str | None = strawberry.field(default=UNSET, description="Whose wallet it is for; all if not given.")
    flow: LimitFlow = strawberry.field(description="What is limited.")
    window: LimitWindowInput | None = strawberry.field(
        default=UNSET, description="In which time it is counted; every flow but BALANCE needs it."
    )
    max_amount: Amount | None = strawberry.field(default=UNSET, description="The most, together.")
    max_count: int | None = strawberry.field(default=UNSET, description="The most movements; at least 1.")
    enforcement: Enforcement = strawberry.field(
        default=Enforcement.REFUSE, description="What becomes of what exceeds it."
    )
    idempotency_key: UUID = strawberry.field(description=_KEY)


@strawberry.input(description="A limit to remove.")
class RemoveLimitInput:
    """A limit to remove."""

    limit_id: strawberry.ID = strawberry.field(
        description="The id of the version to remove: one that took its place meanwhile stays."
    )
    idempotency_key: UUID = strawberry.field(description=_KEY)


@strawberry.type(description="The limit holds from the next posting on.")
class SetLimitPayload(Replayable):
    """The limit holds."""

    rule: Limit = strawberry.field(description="The limit; on replay, as it was set first.")


@strawberry.type(description="The limit does not hold any more.")
class RemoveLimitPayload(Replayable):
    """The limit does not hold any more."""

    rule: Limit | None = strawberry.field(
        description="What was removed; null where it did not hold any more, or another version had its place."
    )


SetLimitResult = Annotated[
    SetLimitPayload
    | refusals.AssetNotFound
    | refusals.InvalidAmount
    | refusals.WalletNotFound
    | refusals.IdempotencyKeyReused
    | TooMany,
    strawberry.union("SetLimitResult", description="Unions grow: keep a `... on Error` branch."),
]

RemoveLimitResult = Annotated[
    RemoveLimitPayload | LimitNotFound | refusals.IdempotencyKeyReused,
    strawberry.union("RemoveLimitResult", description="Unions grow: keep a `... on Error` branch."),
]


def _window(window: LimitWindowInput | None) -> domain.Window | None:
    if window is None or window is UNSET:
        return None
    if window.calendar is not None and window.calendar is not UNSET:
        return limits.calendar(domain.CalendarUnit[window.calendar.unit.name], window.calendar.time_zone)
    assert window.rolling_seconds is not None
    return limits.rolling(window.rolling_seconds)


def _refused(outcome: limits.LimitOutcome) -> refusals.NotKept | TooMany:
    if isinstance(outcome, domain.TooManyLimits):
        return TooMany(
            **kept_fields(OutcomeCode.TOO_MANY),
            counted=Counted.LIMITS,
            most=LIMITS_MAX,
            already_processed=outcome.already_processed,
        )
    assert not isinstance(outcome, domain.LimitsSet)
    return cast("refusals.NotKept", refusals.of_outcome(outcome))


@strawberry.type
class LimitMutations:
    """What changes limits."""

    @strawberry.mutation(
        description="Limit what wallets may hold, or move in a window of time, from the next posting on. Safe to retry"
        " with the same key."
    )
    async def set_limit(
        self, info: Info, input: Annotated[SetLimitInput, strawberry.argument(description="What is limited.")]
    ) -> SetLimitResult | None:
        """Set a limit."""
        context = info.context
        owner_id = None if input.owner_id is UNSET else input.owner_id
        _check_reach(info, input.asset, owner_id)
        asked = limits.LimitInput(
            input.asset,
            owner_id,
            domain.LimitFlow[input.flow.name],
            _window(input.window),
            None if input.max_amount is UNSET else cast("Decimal | None", input.max_amount),
            None if input.max_count is UNSET else input.max_count,
            domain.Enforcement[input.enforcement.name],
            input.idempotency_key,
            context.deadline,
            context.asked_by,
        )
        outcome = await limits.set_limit(context.ledger, asked)
        if not isinstance(outcome, domain.LimitsSet):
            return cast("SetLimitResult", _refused(outcome))
        assert outcome.rule is not None
        limit = Limit(rule=outcome.rule, of_asset=context.ledger.assets[input.asset], owner_id=owner_id)
        return SetLimitPayload(rule=limit, already_processed=outcome.already_processed)

    @strawberry.mutation(
        description="Remove a limit, from the next posting on. What was refused by it stays so. Safe to retry with the"
        " same key."
    )
    async def remove_limit(
        self, info: Info, input: Annotated[RemoveLimitInput, strawberry.argument(description="What is removed.")]
    ) -> RemoveLimitResult | None:
        """Remove a limit."""
        context = info.context
        name = ids.decode_limit_id(input.limit_id, "limitId")
        limit = None if name is None else await read_limit(info, name)
        if name is None or limit is None:
            return LimitNotFound.of(input.limit_id)
        _check_reach(info, limit.of_asset.code, limit.owner_id)
        outcome = await limits.remove_limit(
            context.ledger,
            name,
            limit.owner_id,
            input.idempotency_key,
            deadline=context.deadline,
            asked_by=context.asked_by,
        )
        if not isinstance(outcome, domain.LimitsSet):
            return cast("RemoveLimitResult", _refused(outcome))
        removed = None if outcome.rule is None else limit
        return RemoveLimitPayload(rule=removed, already_processed=outcome.already_processed)


def _check_reach(info: Info, asset_code: str, owner_id: str | None) -> None:
    """Raise `Forbidden` for a caller that must not touch the asset, or all wallets."""
    caller = info.context.caller
    caller.check_asset(asset_code)
    if owner_id is None and not caller.reaches_all:
        raise Forbidden("A limit for all wallets is for callers who reach all of them: name one owner.", "ownerId")
