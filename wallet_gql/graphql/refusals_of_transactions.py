"""Refusals that are about a transaction or its receipt."""

from typing import Self

import strawberry

from wallet_gql.domain import postings as domain
from wallet_gql.domain import refusals as kept
from wallet_gql.graphql.context import Info
from wallet_gql.graphql.errors import Error, ErrorCode, Replayable, kept_fields
from wallet_gql.graphql.scalars import Amount, amount
from wallet_gql.graphql.transactions import Transaction
from wallet_gql.ledger.reads import OwnTransaction


@strawberry.type(description="There is no such transaction.")
class TransactionNotFound(Error):
    """There is no such transaction."""

    transaction_id: strawberry.ID = strawberry.field(description="The id that was sent.")

    @classmethod
    def of(cls, refusal: domain.TransactionMissing) -> Self:
        """Make it from the ledger's refusal."""
        return cls(
            code=ErrorCode.TRANSACTION_NOT_FOUND,
            message="Transaction not found: send the id of a transaction as it was received",
            retryable=False,
            transaction_id=strawberry.ID(refusal.transaction_id),
        )


@strawberry.type(
    description="A refund is of a spend or a capture, a clawback of a top-up, a bonus or what was received. Kept under"
    " the key."
)
class NotRefundable(Error, Replayable):
    """The transaction is of a type that cannot be reversed so."""

    own: strawberry.Private[OwnTransaction]

    @strawberry.field(description="The transaction.")
    async def transaction(self, info: Info) -> Transaction:
        """Read the transaction."""
        view = await info.context.ledger.reads.own_transactions.load(self.own)
        assert view is not None
        return Transaction(view=view)

    @classmethod
    def of(cls, refusal: domain.Refused, facts: kept.NotRefundable) -> Self:
        """Make it from the ledger's refusal."""
        return cls(
            **kept_fields(facts.code),
            own=OwnTransaction(facts.shard, facts.transaction_id, refusal.balance.wallet.id),
            already_processed=refusal.already_processed,
        )


@strawberry.type(description="More than is left of the transaction was to be reversed. Kept under the key.")
class RefundExceedsOriginal(Error, Replayable):
    """More than is left of the transaction."""

    refundable: Amount = strawberry.field(description="What was left of it when the request was refused.")
    required: Amount = strawberry.field(description="What was to be reversed.")

    @classmethod
    def of(cls, refusal: domain.Refused, facts: kept.RefundExceedsOriginal) -> Self:
        """Make it from the ledger's refusal."""
        return cls(
            **kept_fields(facts.code),
            refundable=amount(facts.refundable_minor, facts.asset),
            required=amount(facts.amount_minor, facts.asset),
            already_processed=refusal.already_processed,
        )


@strawberry.type(
    description="The receipt was credited by another request, to this owner or to another one. Kept under the key."
)
class ReceiptUsed(Error, Replayable):
    """The receipt was credited by another request."""

    own: strawberry.Private[OwnTransaction | None]

    # Not named `transaction`: a payload's is never null, and one union's fields of one name have one type.
    @strawberry.field(description="What credited it; null where that was another owner's.")
    async def credited_by(self, info: Info) -> Transaction | None:
        """Read it, if it is this owner's."""
        view = None if self.own is None else await info.context.ledger.reads.own_transactions.load(self.own)
        return None if view is None else Transaction(view=view)

    @classmethod
    def of(cls, refusal: domain.Refused, facts: kept.ReceiptUsed) -> Self:
        """Make it from the ledger's refusal."""
        wallet = refusal.balance.wallet
        is_near = wallet.shard == facts.shard
        return cls(
            **kept_fields(facts.code),
            own=OwnTransaction(facts.shard, facts.transaction_id, wallet.id) if is_near else None,
            already_processed=refusal.already_processed,
        )
