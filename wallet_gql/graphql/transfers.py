"""Transfers between owners."""

from decimal import Decimal
from typing import Annotated, cast
from uuid import UUID

import strawberry

from wallet_gql.domain.text import TEXT_LENGTH_MAX
from wallet_gql.graphql import refusals
from wallet_gql.graphql.assets import DEFAULT_ASSET
from wallet_gql.graphql.context import Context, Info
from wallet_gql.graphql.payloads import Payload, result
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
from wallet_gql.operations import transfers
from wallet_gql.operations.lots import check_sources


@strawberry.input(description="Credits that one owner gives to another.")
class TransferInput:
    """Credits that one owner gives to another."""

    from_owner_id: str = strawberry.field(description="Who gives: the key is this owner's.")
    to_owner_id: str = strawberry.field(description="Who gets.")
    asset: str = strawberry.field(default=DEFAULT_ASSET, description="The code of the asset.")
    amount: Amount = strawberry.field(description="How much: greater than zero, at most 10^15 smallest units.")
    idempotency_key: UUID = strawberry.field(
        description="A fresh UUID for each new request, the same one for each retry of it: it is posted once."
    )
    description: str | None = strawberry.field(
        default=strawberry.UNSET,
        description=f"For people to read, at most {TEXT_LENGTH_MAX} characters; both owners see it.",
    )
    reference: str | None = strawberry.field(
        default=strawberry.UNSET,
        description=f"The caller's own reference, at most {TEXT_LENGTH_MAX} characters; both owners see it.",
    )
    metadata: Metadata | None = strawberry.field(
        default=strawberry.UNSET,
        description="The caller's own pairs of texts, kept with both transactions; both owners see them.",
    )
    sources: list[CreditSource] | None = strawberry.field(default=strawberry.UNSET, description=SOURCES)


@strawberry.type(description="The transfer is in the books. What is told is the sender's side.")
class TransferPayload(Payload):
    """The transfer is in the books."""


TransferResult = Annotated[
    TransferPayload
    | refusals.AssetNotFound
    | refusals.InvalidAmount
    | SelfTransfer
    | refusals.WalletNotFound
    | refusals.IdempotencyKeyReused
    | WalletClosed
    | WalletFrozen
    | TransferForbidden
    | refusals.InsufficientBalance
    | ReceiverRefused
    | LimitExceeded,
    strawberry.union("TransferResult", description="Unions grow: keep a `... on Error` branch."),
]


async def transfer(context: Context, asked: TransferInput) -> TransferResult:
    """Move credits from one owner to another."""
    context.caller.check_movement(asked.asset, cast("Decimal", asked.amount))
    request = transfers.TransferInput(
        asked.from_owner_id,
        asked.to_owner_id,
        asked.asset,
        cast("Decimal", asked.amount),
        asked.idempotency_key,
        None if asked.description is strawberry.UNSET else asked.description,
        None if asked.reference is strawberry.UNSET else asked.reference,
        asked.metadata or {},
        context.deadline,
        context.asked_by,
        context.take_id(),
        check_sources(sources_of(asked.sources)),
    )
    return cast("TransferResult", result(TransferPayload, await transfers.transfer(context.ledger, request)))


@strawberry.type
class TransferMutations:
    """What moves credits between owners."""

    @strawberry.mutation(
        description="Move credits from one owner to another, both sides in one commit. Safe to retry with the same key."
    )
    async def transfer(
        self, info: Info, input: Annotated[TransferInput, strawberry.argument(description="What is given to whom.")]
    ) -> TransferResult | None:
        """Move credits from one owner to another."""
        return await transfer(info.context, input)
