"""Many movements in one request, each with its own key and outcome."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Annotated, Any, Final, cast

import strawberry
from strawberry import UNSET

from wallet_gql.domain.access import Caller
from wallet_gql.domain.errors import BadUserInput, Forbidden
from wallet_gql.graphql import holds, postings, refusals, reversals, transfers
from wallet_gql.graphql.context import Context, Info
from wallet_gql.graphql.errors import Error, Replayable
from wallet_gql.graphql.policy import OWNER_FIELDS, RULES, check
from wallet_gql.graphql.refusals_of_holds import HoldExceeded, HoldNotFound, HoldNotOpen, TooMany
from wallet_gql.graphql.refusals_of_limits import LimitExceeded
from wallet_gql.graphql.refusals_of_transactions import (
    NotRefundable,
    ReceiptUsed,
    RefundExceedsOriginal,
    TransactionNotFound,
)
from wallet_gql.graphql.refusals_of_wallets import (
    ReceiverRefused,
    SelfTransfer,
    TransferForbidden,
    WalletClosed,
    WalletFrozen,
)
from wallet_gql.graphql.sources import InvalidExpiry
from wallet_gql.operations.batches import run_in_order
from wallet_gql.operations.opening import Ledger

ITEMS_MAX: Final = 1000
"""The most items that a batch has."""


@strawberry.input(one_of=True, description="A movement: exactly one of these fields.")
class PostBatchItemInput:
    """A movement: exactly one of these fields."""

    top_up: postings.TopUpInput | None = strawberry.field(default=UNSET, description="What `topUp` does.")
    bonus: postings.BonusInput | None = strawberry.field(default=UNSET, description="What `bonus` does.")
    spend: postings.SpendInput | None = strawberry.field(default=UNSET, description="What `spend` does.")
    transfer: transfers.TransferInput | None = strawberry.field(default=UNSET, description="What `transfer` does.")
    place_hold: holds.PlaceHoldInput | None = strawberry.field(default=UNSET, description="What `placeHold` does.")
    capture_hold: holds.CaptureHoldInput | None = strawberry.field(
        default=UNSET, description="What `captureHold` does."
    )
    void_hold: holds.VoidHoldInput | None = strawberry.field(default=UNSET, description="What `voidHold` does.")
    adjust_hold: holds.AdjustHoldInput | None = strawberry.field(default=UNSET, description="What `adjustHold` does.")
    refund: reversals.RefundInput | None = strawberry.field(default=UNSET, description="What `refund` does.")
    clawback: reversals.ClawbackInput | None = strawberry.field(default=UNSET, description="What `clawback` does.")


@strawberry.input(description="Movements to post, each as it would be posted alone.")
class PostBatchInput:
    """Movements to post, each as it would be posted alone."""

    items: list[PostBatchItemInput] = strawberry.field(
        description=f"The movements, 1 to {ITEMS_MAX}, each with an idempotency key of its own. Those of one wallet are"
        " posted in this order."
    )


PostBatchItemResult = Annotated[
    postings.TopUpPayload
    | postings.BonusPayload
    | postings.SpendPayload
    | transfers.TransferPayload
    | holds.PlaceHoldPayload
    | holds.CaptureHoldPayload
    | holds.VoidHoldPayload
    | holds.AdjustHoldPayload
    | reversals.RefundPayload
    | reversals.ClawbackPayload
    | refusals.AssetNotFound
    | refusals.InvalidAmount
    | SelfTransfer
    | refusals.WalletNotFound
    | HoldNotFound
    | TransactionNotFound
    | refusals.IdempotencyKeyReused
    | WalletClosed
    | WalletFrozen
    | TransferForbidden
    | InvalidExpiry
    | HoldNotOpen
    | HoldExceeded
    | NotRefundable
    | RefundExceedsOriginal
    | ReceiptUsed
    | TooMany
    | LimitExceeded
    | refusals.BalanceLimitExceeded
    | refusals.InsufficientBalance
    | ReceiverRefused,
    strawberry.union("PostBatchItemResult", description="Unions grow: keep a `... on Error` branch."),
]


@strawberry.type(description="What became of each movement of a batch.")
class PostBatchPayload:
    """What became of each movement of a batch."""

    results: list[PostBatchItemResult | None] = strawberry.field(
        description="One for each item, in order. What went wrong with one is an error with its path, and null here:"
        " send it again with the same key."
    )
    posted: int = strawberry.field(description="How many were done now.")
    replayed: int = strawberry.field(description="How many had been answered before, done or refused.")
    refused: int = strawberry.field(description="How many were refused now.")

    @classmethod
    def of(cls, outcomes: Sequence[object]) -> "PostBatchPayload":
        """Make it from the result of each item, or what was raised."""
        replayed = sum(isinstance(each, Replayable) and each.already_processed for each in outcomes)
        faults = sum(isinstance(each, Exception) for each in outcomes)
        refused = sum(
            isinstance(each, Error) and not (isinstance(each, Replayable) and each.already_processed)
            for each in outcomes
        )
        return cls(
            # An exception in a list is the error of its place.
            results=cast("list[PostBatchItemResult | None]", outcomes),
            posted=len(outcomes) - replayed - refused - faults,
            replayed=replayed,
            refused=refused,
        )


PostBatchResult = Annotated[
    PostBatchPayload,
    strawberry.union(
        "PostBatchResult", description="Unions grow. As yet nothing refuses a batch as a whole: errors are of items."
    ),
]

_Run = Callable[[Context, Any], Awaitable[Any]]

_MOVEMENTS: Final[Mapping[str, tuple[str, _Run]]] = {
    "top_up": ("topUp", postings.top_up),
    "bonus": ("bonus", postings.bonus),
    "spend": ("spend", postings.spend),
    "transfer": ("transfer", transfers.transfer),
    "place_hold": ("placeHold", holds.place_hold),
    "capture_hold": ("captureHold", holds.capture_hold),
    "void_hold": ("voidHold", holds.void_hold),
    "adjust_hold": ("adjustHold", holds.adjust_hold),
    "refund": ("refund", reversals.refund),
    "clawback": ("clawback", reversals.clawback),
}
"""By the field of an item: the mutation that does the same, and what it runs."""


async def _run(context: Context, item: PostBatchItemInput, ledger: Ledger) -> object:
    """Run an item as its mutation does, for a caller who may."""
    field, asked = next((name, value) for name, value in vars(item).items() if value is not UNSET)
    name, run = _MOVEMENTS[field]
    check(context.caller, RULES["Mutation", name], f"Mutation.{name}")
    _check_owners(context.caller, asked)
    return await run(replace(context, ledger=ledger), asked)


def _check_owners(caller: Caller, asked: object) -> None:
    """Raise `Forbidden` where an owner is named whom the caller does not reach. Operations look after ids of things."""
    for python_name, name in OWNER_FIELDS.items():
        owner_id = getattr(asked, python_name, None)
        if owner_id is not None and not caller.reaches(owner_id):
            raise Forbidden(f"{name} names an owner who is not one of yours: name one who is.", name)


@strawberry.type
class BatchMutations:
    """What posts many movements in one request."""

    @strawberry.mutation(
        description="Post many movements, each as its own mutation does: one that is refused keeps no other from being"
        " posted. Safe to retry with the same keys, as a whole or in part."
    )
    async def post_batch(
        self, info: Info, input: Annotated[PostBatchInput, strawberry.argument(description="What is posted.")]
    ) -> PostBatchResult | None:
        """Post many movements."""
        context = info.context
        if not 1 <= len(input.items) <= ITEMS_MAX:
            raise BadUserInput("items", f"has {len(input.items)} items", f"send 1 to {ITEMS_MAX}")
        # The first may be named by the request's id.
        first, others = replace(context), replace(context, is_id_free=False)
        context.is_id_free = False
        runs = [partial(_run, others if n else first, item) for n, item in enumerate(input.items)]
        return PostBatchPayload.of(await run_in_order(context.ledger, runs))
