"""Holds: credits that are promised to a purchase or to another owner, until they are captured, voided or over."""

from decimal import Decimal
from typing import Annotated, Self, TypeAlias, cast
from uuid import UUID

import strawberry
from strawberry import UNSET

from wallet_gql.domain import holds as domain
from wallet_gql.domain import postings
from wallet_gql.domain.errors import BadUserInput
from wallet_gql.domain.text import TEXT_LENGTH_MAX
from wallet_gql.graphql import ids, refusals
from wallet_gql.graphql.assets import DEFAULT_ASSET, AssetArgument
from wallet_gql.graphql.balances import Balance
from wallet_gql.graphql.context import Context, Info
from wallet_gql.graphql.errors import Replayable
from wallet_gql.graphql.held import Hold, HoldConnection, HoldStateArgument, read_hold_page, shown
from wallet_gql.graphql.node import NodeId
from wallet_gql.graphql.owners import OwnerId, owner_name
from wallet_gql.graphql.refusals_of_holds import HoldExceeded, HoldNotFound, HoldNotOpen, TooMany
from wallet_gql.graphql.refusals_of_limits import LimitExceeded
from wallet_gql.graphql.refusals_of_wallets import (
    ReceiverRefused,
    SelfTransfer,
    TransferForbidden,
    WalletClosed,
    WalletFrozen,
)
from wallet_gql.graphql.scalars import Amount, Metadata
from wallet_gql.graphql.sources import SOURCES, CreditSource, sources_of
from wallet_gql.graphql.transactions import After, First, Key, Transaction
from wallet_gql.graphql.wallets import Wallet
from wallet_gql.ledger.reads import WalletAsset
from wallet_gql.operations import holds
from wallet_gql.operations.assets import find_asset
from wallet_gql.operations.lots import check_sources

AMOUNT = "How much: greater than zero, at most 10^15 smallest units."
KEY = "A fresh UUID for each new request, the same one for each retry of it: it is done once. It is the owner's."
DESCRIPTION = f"For people to read, at most {TEXT_LENGTH_MAX} characters."
REFERENCE = f"The caller's own reference, at most {TEXT_LENGTH_MAX} characters; not unique."
METADATA = "The caller's own pairs of texts."


@strawberry.input(description="Credits to promise.")
class PlaceHoldInput:
    """Credits to promise."""

    owner_id: str = strawberry.field(description="Whose credits they are.")
    asset: str = strawberry.field(default=DEFAULT_ASSET, description="The code of the asset.")
    amount: Amount = strawberry.field(description=AMOUNT)
    ttl_seconds: int = strawberry.field(
        default=domain.TTL_SECONDS_DEFAULT,
        description=f"For how long: 1 to {domain.TTL_SECONDS_MAX} seconds, which is 31 days; 7 days if not given.",
    )
    to_owner_id: str | None = strawberry.field(
        default=UNSET, description="Whom captures pay; the platform if not given. It never changes."
    )
    idempotency_key: UUID = strawberry.field(description=KEY)
    description: str | None = strawberry.field(default=UNSET, description=DESCRIPTION)
    reference: str | None = strawberry.field(default=UNSET, description=REFERENCE)
    metadata: Metadata | None = strawberry.field(default=UNSET, description=METADATA)
    sources: list[CreditSource] | None = strawberry.field(default=UNSET, description=SOURCES)


@strawberry.input(description="A hold to take, or a part of it.")
class CaptureHoldInput:
    """A hold to take."""

    hold_id: strawberry.ID = strawberry.field(description="The hold.")
    amount: Amount | None = strawberry.field(default=UNSET, description="How much; all that remains if not given.")
    keep_remainder: bool = strawberry.field(
        default=False, description="Whether what is not taken stays held; it is released if not."
    )
    idempotency_key: UUID = strawberry.field(description=KEY)
    description: str | None = strawberry.field(default=UNSET, description=DESCRIPTION)
    reference: str | None = strawberry.field(default=UNSET, description=REFERENCE)
    metadata: Metadata | None = strawberry.field(default=UNSET, description=METADATA)


@strawberry.input(description="A hold to release.")
class VoidHoldInput:
    """A hold to release."""

    hold_id: strawberry.ID = strawberry.field(description="The hold.")
    idempotency_key: UUID = strawberry.field(description=KEY)


@strawberry.input(description="What is to be different about a hold: its amount, its time, or both.")
class AdjustHoldInput:
    """What is to be different about a hold."""

    hold_id: strawberry.ID = strawberry.field(description="The hold.")
    amount: Amount | None = strawberry.field(
        default=UNSET, description="The new total, not below what was captured; as it is if not given."
    )
    ttl_seconds: int | None = strawberry.field(
        default=UNSET,
        description="For how long from now; as it is if not given. It ends 31 days after it was placed at the latest.",
    )
    idempotency_key: UUID = strawberry.field(description=KEY)


@strawberry.type
class _HoldPayload(Replayable):
    held: strawberry.Private[postings.Held]

    @strawberry.field(description="The hold as it is now.")
    def hold(self) -> Hold:
        """Make it when it is asked for."""
        return Hold(hold=self.held.hold)

    @strawberry.field(description="The wallet as it is now.")
    def wallet(self) -> Wallet:
        """Make it when it is asked for."""
        return Wallet.of(self.held.balance.wallet)

    @strawberry.field(description="The balance as it is now.")
    def balance(self) -> Balance:
        """Make it when it is asked for."""
        return Balance(balance=self.held.balance)

    @classmethod
    def of(cls, held: postings.Held) -> Self:
        """Make it from the ledger's outcome."""
        return cls(held=held, already_processed=held.already_processed)


@strawberry.type(description="The credits are held.")
class PlaceHoldPayload(_HoldPayload):
    """The credits are held."""


@strawberry.type(description="What was captured is in the books.")
class CaptureHoldPayload(_HoldPayload):
    """What was captured is in the books."""

    @strawberry.field(description="What was posted; on replay, what was posted first.")
    def transaction(self) -> Transaction:
        """Make it when it is asked for."""
        assert self.held.transaction is not None
        return Transaction(view=self.held.transaction)


@strawberry.type(description="What was held is released.")
class VoidHoldPayload(_HoldPayload):
    """What was held is released."""


@strawberry.type(description="The hold is as it was asked for.")
class AdjustHoldPayload(_HoldPayload):
    """The hold is as it was asked for."""


PlaceHoldResult = Annotated[
    PlaceHoldPayload
    | refusals.AssetNotFound
    | refusals.InvalidAmount
    | SelfTransfer
    | refusals.WalletNotFound
    | refusals.IdempotencyKeyReused
    | WalletClosed
    | WalletFrozen
    | TransferForbidden
    | TooMany
    | refusals.InsufficientBalance
    | LimitExceeded,
    strawberry.union("PlaceHoldResult", description="Unions grow: keep a `... on Error` branch."),
]
CaptureHoldResult = Annotated[
    CaptureHoldPayload
    | refusals.InvalidAmount
    | HoldNotFound
    | refusals.IdempotencyKeyReused
    | WalletClosed
    | WalletFrozen
    | HoldNotOpen
    | HoldExceeded
    | TooMany
    | ReceiverRefused,
    strawberry.union("CaptureHoldResult", description="Unions grow: keep a `... on Error` branch."),
]
VoidHoldResult = Annotated[
    VoidHoldPayload | HoldNotFound | refusals.IdempotencyKeyReused | HoldNotOpen,
    strawberry.union("VoidHoldResult", description="Unions grow: keep a `... on Error` branch."),
]
AdjustHoldResult = Annotated[
    AdjustHoldPayload
    | refusals.InvalidAmount
    | HoldNotFound
    | refusals.IdempotencyKeyReused
    | WalletClosed
    | WalletFrozen
    | HoldNotOpen
    | HoldExceeded
    | refusals.InsufficientBalance
    | LimitExceeded,
    strawberry.union("AdjustHoldResult", description="Unions grow: keep a `... on Error` branch."),
]

Change: TypeAlias = CaptureHoldInput | VoidHoldInput | AdjustHoldInput


def _change(context: Context, change: Change, **more: object) -> holds.ChangeHoldInput:
    name = _hold_name(change.hold_id)
    # What a field was not sent for is as null.
    given = {field: None if value is UNSET else value for field, value in more.items()}
    return holds.ChangeHoldInput(
        name,
        change.hold_id,
        change.idempotency_key,
        deadline=context.deadline,
        caller=context.caller,
        asked_by=context.asked_by,
        event_id=context.take_id(),
        **given,  # type: ignore[arg-type] # each caller names fields of it
    )


def _hold_name(id_: str, field: str = "holdId") -> domain.HoldName:
    kind, parts, _ = ids.decode(id_, field)
    if kind != "Hold":
        raise BadUserInput(field, "is not the id of a hold", "send a hold's id")
    return domain.HoldName(parts[0], UUID(int=parts[1]))


def _given(value: str | None) -> str | None:
    return None if value is UNSET else value


async def place_hold(context: Context, asked: PlaceHoldInput) -> PlaceHoldResult:
    """Promise credits of an owner."""
    context.caller.check_movement(asked.asset, cast("Decimal", asked.amount))
    request = holds.PlaceHoldInput(
        asked.owner_id,
        asked.asset,
        cast("Decimal", asked.amount),
        asked.idempotency_key,
        asked.ttl_seconds,
        _given(asked.to_owner_id),
        _given(asked.description),
        _given(asked.reference),
        asked.metadata or {},
        context.deadline,
        context.asked_by,
        context.take_id(),
        check_sources(sources_of(asked.sources)),
    )
    outcome = await holds.place_hold(context.ledger, request)
    if isinstance(outcome, postings.Held):
        return PlaceHoldPayload.of(outcome)
    return cast("PlaceHoldResult", refusals.of_outcome(outcome))


async def capture_hold(context: Context, asked: CaptureHoldInput) -> CaptureHoldResult:
    """Take what is held."""
    request = _change(
        context,
        asked,
        amount=asked.amount,
        keep_remainder=asked.keep_remainder,
        description=asked.description,
        reference=asked.reference,
        metadata=asked.metadata or {},
    )
    outcome = await holds.capture_hold(context.ledger, request)
    if isinstance(outcome, postings.Held):
        return CaptureHoldPayload.of(outcome)
    return cast("CaptureHoldResult", refusals.of_outcome(outcome))


async def void_hold(context: Context, asked: VoidHoldInput) -> VoidHoldResult:
    """Release what is held."""
    outcome = await holds.void_hold(context.ledger, _change(context, asked))
    if isinstance(outcome, postings.Held):
        return VoidHoldPayload.of(outcome)
    return cast("VoidHoldResult", refusals.of_outcome(outcome))


async def adjust_hold(context: Context, asked: AdjustHoldInput) -> AdjustHoldResult:
    """Hold more or less, or for another time."""
    request = _change(context, asked, amount=asked.amount, ttl_seconds=asked.ttl_seconds)
    outcome = await holds.adjust_hold(context.ledger, request)
    if isinstance(outcome, postings.Held):
        return AdjustHoldPayload.of(outcome)
    return cast("AdjustHoldResult", refusals.of_outcome(outcome))


@strawberry.type
class HoldQueries:
    """What can be asked about holds."""

    @strawberry.field(description="A hold by its id; null where there is none.")
    async def hold(self, info: Info, id: NodeId) -> Hold | None:
        """Read one hold."""
        return shown(info, await holds.find_hold(info.context.ledger, _hold_name(id, "id")))

    @strawberry.field(
        description="The hold that an owner's idempotency key placed, voided or adjusted; null where it did neither."
    )
    async def hold_by_key(self, info: Info, owner_id: OwnerId, idempotency_key: Key) -> Hold | None:
        """Read one hold."""
        found = await info.context.ledger.reads.holds_by_key.load((owner_name(info, owner_id), idempotency_key))
        return None if found is None else Hold(hold=found)

    @strawberry.field(description="An owner's holds in an asset, newest first; null for an unknown owner or asset.")
    async def holds(
        self,
        info: Info,
        owner_id: OwnerId,
        asset: AssetArgument = DEFAULT_ASSET,
        state: HoldStateArgument = UNSET,
        first: First = UNSET,
        after: After = UNSET,
    ) -> HoldConnection | None:
        """Read a page."""
        owner = owner_name(info, owner_id)
        found = await find_asset(info.context.ledger, asset)
        wallet = await info.context.ledger.reads.wallets.load(owner)
        if found is None or wallet is None:
            return None
        return await read_hold_page(info, WalletAsset(wallet, found), state, first, after)


@strawberry.type
class HoldMutations:
    """What promises credits, and what becomes of the promise."""

    @strawberry.mutation(
        description="Promise credits of an owner: they stay in the balance and cannot be spent. Safe to retry with the"
        " same key."
    )
    async def place_hold(
        self, info: Info, input: Annotated[PlaceHoldInput, strawberry.argument(description="What is promised.")]
    ) -> PlaceHoldResult | None:
        """Promise credits of an owner."""
        return await place_hold(info.context, input)

    @strawberry.mutation(
        description="Take what is held, or a part of it: it is paid. At most"
        f" {domain.CAPTURES_MAX} times. Safe to retry with the same key."
    )
    async def capture_hold(
        self, info: Info, input: Annotated[CaptureHoldInput, strawberry.argument(description="What is taken.")]
    ) -> CaptureHoldResult | None:
        """Take what is held."""
        return await capture_hold(info.context, input)

    @strawberry.mutation(description="Release what is held. Safe to retry with the same key.")
    async def void_hold(
        self, info: Info, input: Annotated[VoidHoldInput, strawberry.argument(description="What is released.")]
    ) -> VoidHoldResult | None:
        """Release what is held."""
        return await void_hold(info.context, input)

    @strawberry.mutation(description="Hold more or less, or for another time. Safe to retry with the same key.")
    async def adjust_hold(
        self, info: Info, input: Annotated[AdjustHoldInput, strawberry.argument(description="What is different.")]
    ) -> AdjustHoldResult | None:
        """Hold more or less, or for another time."""
        return await adjust_hold(info.context, input)
