"""Top-ups, bonuses and spends.

A refusal of the business is a member of the result's union; results are nullable, so that a fault in one field does
not erase the committed answer of another.
"""

from datetime import datetime
from decimal import Decimal
from typing import Annotated, cast
from uuid import UUID

import strawberry

from wallet_gql.domain.lots import PRIORITY_DEFAULT, PRIORITY_MAX, LotTerms
from wallet_gql.domain.postings import DEFAULT_TERMS
from wallet_gql.domain.text import CAMPAIGN_LENGTH_MAX, RECEIPT_LENGTH_MAX, TEXT_LENGTH_MAX
from wallet_gql.graphql import refusals
from wallet_gql.graphql.assets import DEFAULT_ASSET
from wallet_gql.graphql.context import Context, Info
from wallet_gql.graphql.payloads import Payload, result
from wallet_gql.graphql.refusals_of_holds import TooMany
from wallet_gql.graphql.refusals_of_limits import LimitExceeded
from wallet_gql.graphql.refusals_of_transactions import ReceiptUsed
from wallet_gql.graphql.refusals_of_wallets import WalletClosed, WalletFrozen
from wallet_gql.graphql.scalars import Amount, Metadata
from wallet_gql.graphql.sources import SOURCES, CreditSource, InvalidExpiry, sources_of
from wallet_gql.operations import postings
from wallet_gql.operations.lots import check_sources, check_terms


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
    metadata: Metadata | None = strawberry.field(
        default=strawberry.UNSET, description="The caller's own pairs of texts, kept with the transaction."
    )


@strawberry.input(description="Credits that a player bought.")
class TopUpInput(_PostingInput):
    """Credits that a player bought."""

    receipt: str | None = strawberry.field(
        default=strawberry.UNSET,
        description="What the store or the payment provider calls the payment, 1 to"
        f" {RECEIPT_LENGTH_MAX} characters: it is credited once, whoever the owner is.",
    )


@strawberry.input(description="Credits that the platform gives.")
class BonusInput(_PostingInput):
    """Credits that the platform gives."""

    expires_at: datetime | None = strawberry.field(
        default=strawberry.UNSET,
        description="From when on what is left of it is gone, at most ten years away; never if not given. For assets"
        " with lots.",
    )
    priority: int = strawberry.field(
        default=PRIORITY_DEFAULT,
        description=f"What is spent first: 0 to {PRIORITY_MAX}, the lower the earlier. For assets with lots.",
    )
    campaign: str | None = strawberry.field(
        default=strawberry.UNSET,
        description=f"What it is given for, 1 to {CAMPAIGN_LENGTH_MAX} characters: reports sum by it. For assets with"
        " lots.",
    )


@strawberry.input(description="Credits that a player pays.")
class SpendInput(_PostingInput):
    """Credits that a player pays."""

    sources: list[CreditSource] | None = strawberry.field(default=strawberry.UNSET, description=SOURCES)


@strawberry.type(description="The top-up is in the books.")
class TopUpPayload(Payload):
    """The top-up is in the books."""

    @strawberry.field(description="How much of it repaid what the owner owed.")
    async def repaid(self, info: Info) -> Amount:
        """Read what followed it."""
        return await self.read_repaid(info)


@strawberry.type(description="The bonus is in the books.")
class BonusPayload(Payload):
    """The bonus is in the books."""

    @strawberry.field(description="How much of it repaid what the owner owed.")
    async def repaid(self, info: Info) -> Amount:
        """Read what followed it."""
        return await self.read_repaid(info)


@strawberry.type(description="The spend is in the books.")
class SpendPayload(Payload):
    """The spend is in the books."""


TopUpResult = Annotated[
    TopUpPayload
    | refusals.WalletNotFound
    | refusals.IdempotencyKeyReused
    | WalletClosed
    | WalletFrozen
    | refusals.AssetNotFound
    | refusals.InvalidAmount
    | ReceiptUsed
    | refusals.BalanceLimitExceeded
    | LimitExceeded,
    strawberry.union("TopUpResult", description="Unions grow: keep a `... on Error` branch."),
]
BonusResult = Annotated[
    BonusPayload
    | refusals.WalletNotFound
    | refusals.IdempotencyKeyReused
    | WalletClosed
    | WalletFrozen
    | refusals.AssetNotFound
    | refusals.InvalidAmount
    | InvalidExpiry
    | TooMany
    | refusals.BalanceLimitExceeded
    | LimitExceeded,
    strawberry.union("BonusResult", description="Unions grow: keep a `... on Error` branch."),
]
SpendResult = Annotated[
    SpendPayload
    | refusals.WalletNotFound
    | refusals.IdempotencyKeyReused
    | WalletClosed
    | WalletFrozen
    | refusals.AssetNotFound
    | refusals.InvalidAmount
    | refusals.BalanceLimitExceeded
    | refusals.InsufficientBalance
    | LimitExceeded,
    strawberry.union("SpendResult", description="Unions grow: keep a `... on Error` branch."),
]


def _posting_input(context: Context, posting: _PostingInput) -> postings.PostingInput:
    # The scalar reads text and hands on a Decimal; the annotation is what it writes.
    amount = cast("Decimal", posting.amount)
    context.caller.check_movement(posting.asset, amount)
    return postings.PostingInput(
        posting.owner_id,
        posting.asset,
        amount,
        posting.idempotency_key,
        None if posting.description is strawberry.UNSET else posting.description,
        None if posting.reference is strawberry.UNSET else posting.reference,
        posting.metadata or {},
        posting.receipt if isinstance(posting, TopUpInput) and posting.receipt is not strawberry.UNSET else None,
        context.deadline,
        context.asked_by,
        context.caller.daily_issuance,
        context.take_id(),
        _terms(posting) if isinstance(posting, BonusInput) else DEFAULT_TERMS,
        check_sources(sources_of(posting.sources)) if isinstance(posting, SpendInput) else None,
    )


def _terms(bonus: BonusInput) -> LotTerms:
    return check_terms(
        None if bonus.expires_at is strawberry.UNSET else bonus.expires_at,
        bonus.priority,
        None if bonus.campaign is strawberry.UNSET else bonus.campaign,
    )


async def top_up(context: Context, asked: TopUpInput) -> TopUpResult:
    """Credit what a player bought."""
    outcome = await postings.top_up(context.ledger, _posting_input(context, asked))
    return cast("TopUpResult", result(TopUpPayload, outcome))


async def bonus(context: Context, asked: BonusInput) -> BonusResult:
    """Credit what the platform gives."""
    outcome = await postings.bonus(context.ledger, _posting_input(context, asked))
    return cast("BonusResult", result(BonusPayload, outcome))


async def spend(context: Context, asked: SpendInput) -> SpendResult:
    """Debit what a player pays."""
    outcome = await postings.spend(context.ledger, _posting_input(context, asked))
    return cast("SpendResult", result(SpendPayload, outcome))


@strawberry.type
class PostingMutations:
    """What moves credits between an owner and the platform."""

    @strawberry.mutation(description="Credit what a player bought. Safe to retry with the same key.")
    async def top_up(
        self, info: Info, input: Annotated[TopUpInput, strawberry.argument(description="What was bought.")]
    ) -> TopUpResult | None:
        """Credit what a player bought."""
        return await top_up(info.context, input)

    @strawberry.mutation(description="Credit what the platform gives. Safe to retry with the same key.")
    async def bonus(
        self, info: Info, input: Annotated[BonusInput, strawberry.argument(description="What is given.")]
    ) -> BonusResult | None:
        """Credit what the platform gives."""
        return await bonus(info.context, input)

    @strawberry.mutation(description="Debit what a player pays; never below zero. Safe to retry with the same key.")
    async def spend(
        self, info: Info, input: Annotated[SpendInput, strawberry.argument(description="What is paid for.")]
    ) -> SpendResult | None:
        """Debit what a player pays."""
        return await spend(info.context, input)
