"""Top-ups, bonuses and spends.

A refusal of the business is a member of the result's union; results are nullable, so that a fault in one field does
not erase the committed answer of another.
"""

from decimal import Decimal
from typing import Annotated, Self, TypeAlias, TypeVar, cast
from uuid import UUID

import strawberry

from wallet_gql.domain import postings as domain
from wallet_gql.domain.text import TEXT_LENGTH_MAX
from wallet_gql.graphql import refusals
from wallet_gql.graphql.assets import DEFAULT_ASSET
from wallet_gql.graphql.balances import Balance
from wallet_gql.graphql.context import Info
from wallet_gql.graphql.scalars import Amount
from wallet_gql.graphql.transactions import Transaction
from wallet_gql.graphql.wallets import Wallet
from wallet_gql.operations import postings


@strawberry.input(description="What every posting needs.")
class _PostingInput:
    owner_id: str = strawberry.field(description="Whose wallet it is.")
    asset: str = strawberry.field(default=DEFAULT_ASSET, description="The code of the asset.")
    amount: Amount = strawberry.field(description="How much: greater than zero, at most 10^15 smallest units.")
    idempotency_key: UUID = strawberry.field(
        description="A fresh UUID for each new request, the same one for each retry of it: it is posted once."
    )
    description: str | None = strawberry.field(
        default=strawberry.UNSET, description=f"For people to read, at most {TEXT_LENGTH_MAX} characters."
    )
    reference: str | None = strawberry.field(
        default=strawberry.UNSET,
        description=f"The caller's own reference, at most {TEXT_LENGTH_MAX} characters; not unique.",
    )


@strawberry.input(description="Credits that a player bought.")
class TopUpInput(_PostingInput):
    """Credits that a player bought."""


@strawberry.input(description="Credits that the platform gives.")
class BonusInput(_PostingInput):
    """Credits that the platform gives."""


@strawberry.input(description="Credits that a player pays.")
class SpendInput(_PostingInput):
    """Credits that a player pays."""


@strawberry.type(description="The posting is in the books.")
class _Payload(refusals.Replayable):
    posted: strawberry.Private[domain.Posted]

    @strawberry.field(description="What was posted; on replay, what was posted first.")
    def transaction(self) -> Transaction:
        """Make it when it is asked for."""
        return Transaction.of(self.posted.transaction)

    @strawberry.field(description="The wallet as it is now.")
    def wallet(self) -> Wallet:
        """Make it when it is asked for."""
        return Wallet.of(self.posted.balance.wallet)

    @strawberry.field(description="The balance as it is now.")
    def balance(self) -> Balance:
        """Make it when it is asked for."""
        return Balance.of(self.posted.balance)

    @classmethod
    def of(cls, posted: domain.Posted) -> Self:
        """Make it from the ledger's outcome."""
        return cls(posted=posted, already_processed=posted.already_processed)


@strawberry.type(description="The top-up is in the books.")
class TopUpPayload(_Payload):
    """The top-up is in the books."""


@strawberry.type(description="The bonus is in the books.")
class BonusPayload(_Payload):
    """The bonus is in the books."""


@strawberry.type(description="The spend is in the books.")
class SpendPayload(_Payload):
    """The spend is in the books."""


TopUpResult = Annotated[
    TopUpPayload
    | refusals.WalletNotFound
    | refusals.IdempotencyKeyReused
    | refusals.AssetNotFound
    | refusals.InvalidAmount
    | refusals.BalanceLimitExceeded,
    strawberry.union("TopUpResult", description="Unions grow: keep a `... on Error` branch."),
]
BonusResult = Annotated[
    BonusPayload
    | refusals.WalletNotFound
    | refusals.IdempotencyKeyReused
    | refusals.AssetNotFound
    | refusals.InvalidAmount
    | refusals.BalanceLimitExceeded,
    strawberry.union("BonusResult", description="Unions grow: keep a `... on Error` branch."),
]
SpendResult = Annotated[
    SpendPayload
    | refusals.WalletNotFound
    | refusals.IdempotencyKeyReused
    | refusals.AssetNotFound
    | refusals.InvalidAmount
    | refusals.BalanceLimitExceeded
    | refusals.InsufficientBalance,
    strawberry.union("SpendResult", description="Unions grow: keep a `... on Error` branch."),
]

PayloadType = TypeVar("PayloadType", bound=_Payload)

Refusal: TypeAlias = (
    refusals.WalletNotFound
    | refusals.IdempotencyKeyReused
    | refusals.AssetNotFound
    | refusals.InvalidAmount
    | refusals.BalanceLimitExceeded
)


def _posting_input(info: Info, posting: _PostingInput) -> postings.PostingInput:
    return postings.PostingInput(
        posting.owner_id,
        posting.asset,
        # The scalar reads text and hands on a Decimal; the annotation is what it writes.
        cast("Decimal", posting.amount),
        posting.idempotency_key,
        None if posting.description is strawberry.UNSET else posting.description,
        None if posting.reference is strawberry.UNSET else posting.reference,
        info.context.deadline,
    )


def _result(payload: type[PayloadType], outcome: postings.PostingOutcome) -> PayloadType | Refusal:
    match outcome:
        case domain.Posted():
            return payload.of(outcome)
        case domain.Refused():
            return refusals.BalanceLimitExceeded.of(outcome)
        case domain.WalletMissing():
            return refusals.WalletNotFound.of(outcome)
        case domain.KeyReused():
            return refusals.IdempotencyKeyReused.of(outcome)
        case domain.AssetMissing():
            return refusals.AssetNotFound.of(outcome)
        case domain.AmountInvalid():
            return refusals.InvalidAmount.of(outcome)


@strawberry.type
class PostingMutations:
    """What moves credits between an owner and the platform."""

    @strawberry.mutation(description="Credit what a player bought. Safe to retry with the same key.")
    async def top_up(
        self, info: Info, input: Annotated[TopUpInput, strawberry.argument(description="What was bought.")]
    ) -> TopUpResult | None:
        """Credit what a player bought."""
        return _result(TopUpPayload, await postings.top_up(info.context.ledger, _posting_input(info, input)))

    @strawberry.mutation(description="Credit what the platform gives. Safe to retry with the same key.")
    async def bonus(
        self, info: Info, input: Annotated[BonusInput, strawberry.argument(description="What is given.")]
    ) -> BonusResult | None:
        """Credit what the platform gives."""
        return _result(BonusPayload, await postings.bonus(info.context.ledger, _posting_input(info, input)))

    @strawberry.mutation(description="Debit what a player pays; never below zero. Safe to retry with the same key.")
    async def spend(
        self, info: Info, input: Annotated[SpendInput, strawberry.argument(description="What is paid for.")]
    ) -> SpendResult | None:
        """Debit what a player pays."""
        outcome = await postings.spend(info.context.ledger, _posting_input(info, input))
        if isinstance(outcome, domain.Refused) and outcome.code is domain.OutcomeCode.INSUFFICIENT_BALANCE:
            return refusals.InsufficientBalance.of(outcome)
        return _result(SpendPayload, outcome)
