"""Refunds give back what an owner paid; clawbacks take back what one was credited."""

from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from enum import Enum
from typing import Annotated, Self, cast
from uuid import UUID

import strawberry
from strawberry import UNSET

from wallet_gql.domain import postings as domain
from wallet_gql.domain.errors import BadUserInput
from wallet_gql.domain.text import TEXT_LENGTH_MAX
from wallet_gql.graphql import ids, refusals
from wallet_gql.graphql.balances import Balance
from wallet_gql.graphql.context import Context, Info
from wallet_gql.graphql.errors import Replayable
from wallet_gql.graphql.payloads import Payload
from wallet_gql.graphql.refusals_of_holds import TooMany
from wallet_gql.graphql.refusals_of_transactions import NotRefundable, RefundExceedsOriginal, TransactionNotFound
from wallet_gql.graphql.refusals_of_wallets import ReceiverRefused, WalletClosed, WalletFrozen
from wallet_gql.graphql.scalars import Amount, Metadata, amount
from wallet_gql.graphql.sources import InvalidExpiry
from wallet_gql.graphql.transactions import Transaction
from wallet_gql.graphql.wallets import Wallet
from wallet_gql.ledger.reads import EntryName, OwnTransaction
from wallet_gql.operations import reversals


@strawberry.enum(description="What a clawback does where less is available than it is to take back.")
class Shortfall(Enum):
    """What a clawback does where less is available."""

    REFUSE = strawberry.enum_value("REFUSE", description="It takes all or nothing.")
    LOT_ONLY = strawberry.enum_value(
        "LOT_ONLY",
        description="It takes what is left of what was credited, of its lot or of the pool; the rest is forgone.",
    )
    AVAILABLE = strawberry.enum_value("AVAILABLE", description="It takes what is available; the rest is forgone.")
    DEBT = strawberry.enum_value(
        "DEBT", description="It takes what is available; the rest is owed, and repaid by what is credited next."
    )


@strawberry.input(description="What every refund and clawback needs.")
class _ReverseInput:
    transaction_id: strawberry.ID = strawberry.field(description="The id of the transaction, as its owner sees it.")
    amount: Amount | None = strawberry.field(default=UNSET, description="How much; all that is left if not given.")
    idempotency_key: UUID = strawberry.field(
        description="A fresh UUID for each new request, the same one for each retry of it: it is posted once. It is the"
        " owner's whose transaction it is."
    )
    description: str | None = strawberry.field(
        default=UNSET, description=f"For people to read, at most {TEXT_LENGTH_MAX} characters."
    )
    reference: str | None = strawberry.field(
        default=UNSET, description=f"The caller's own reference, at most {TEXT_LENGTH_MAX} characters; not unique."
    )
    metadata: Metadata | None = strawberry.field(default=UNSET, description="The caller's own pairs of texts.")


@strawberry.input(description="A spend or capture to give back, or a part of it.")
class RefundInput(_ReverseInput):
    """A spend or capture to give back."""

    lapsed_until: datetime | None = strawberry.field(
        default=UNSET,
        description="A new end for what goes back to lots that have lapsed meanwhile; it lapses again at once if not"
        " given.",
    )


@strawberry.input(description="A credit to take back, or a part of it.")
class ClawbackInput(_ReverseInput):
    """A credit to take back."""

    description: str = strawberry.field(description=f"Why, for people to read, at most {TEXT_LENGTH_MAX} characters.")
    on_shortfall: Shortfall = strawberry.field(
        default=Shortfall.REFUSE, description="What to do where less is available."
    )


@strawberry.type(description="The refund is in the books.")
class RefundPayload(Payload):
    """The refund is in the books."""

    @strawberry.field(
        description="How much of it lapsed again at once: what had come from lots that have ended meanwhile, where no"
        " `lapsedUntil` gave it a new end."
    )
    async def lapsed(self, info: Info) -> Amount:
        """Read what followed it."""
        view = self.posted.transaction
        name = EntryName(view.shard, view.account_id, view.seq)
        return amount(await info.context.ledger.reads.lapsed_again.load(name), view.asset)

    @strawberry.field(description="How much of it repaid what the owner owed.")
    async def repaid(self, info: Info) -> Amount:
        """Read what followed it."""
        return await self.read_repaid(info)


@strawberry.type(description="What could be taken back is in the books.")
class ClawbackPayload(Replayable):
    """What could be taken back is in the books."""

    outcome: strawberry.Private[domain.Posted | domain.Nothing]
    asked: strawberry.Private[Decimal | None]

    @strawberry.field(description="What was posted; null where nothing could be taken.")
    def clawback(self) -> Transaction | None:
        """Make it when it is asked for."""
        return Transaction(view=self.outcome.transaction) if isinstance(self.outcome, domain.Posted) else None

    @strawberry.field(description="How much was taken back.")
    def taken(self) -> Amount:
        """Say how much was taken back."""
        taken = abs(self.outcome.transaction.amount_minor) if isinstance(self.outcome, domain.Posted) else 0
        return amount(taken, self.outcome.balance.asset)

    @strawberry.field(description="How much the owner owes for it.")
    async def indebted(self, info: Info) -> Amount:
        """Say what was owed for it then: what it reversed, without what was taken."""
        asset = self.outcome.balance.asset
        if isinstance(self.outcome, domain.Nothing):
            return amount(self.outcome.indebted_minor, asset)
        view = self.outcome.transaction
        reversal = await info.context.ledger.reads.reversals.load(view.name)
        assert reversal is not None
        return amount(reversal.amount_minor - abs(view.amount_minor), asset)

    @strawberry.field(description="How much was to be taken back and was not there.")
    async def forgone(self, info: Info) -> Amount:
        """Say what was not there: what was asked for, or all that was left then, without what was taken."""
        asset = self.outcome.balance.asset
        if isinstance(self.outcome, domain.Nothing):
            return amount(self.outcome.forgone_minor, asset)
        view, reads = self.outcome.transaction, info.context.ledger.reads
        reversal = await reads.reversals.load(view.name)
        assert reversal is not None
        if self.asked is not None:
            asked_minor = int(self.asked.scaleb(asset.scale))
        else:
            wanted = OwnTransaction(view.shard, reversal.original.id, view.wallet_id)
            original = await reads.own_transactions.load(wanted)
            assert original is not None
            before_minor = reversal.reversed_after_minor - reversal.amount_minor
            asked_minor = abs(original.amount_minor) - before_minor
        return amount(asked_minor - reversal.amount_minor, asset)

    @strawberry.field(description="The wallet as it is now.")
    def wallet(self) -> Wallet:
        """Make it when it is asked for."""
        return Wallet.of(self.outcome.balance.wallet)

    @strawberry.field(description="The balance as it is now.")
    def balance(self) -> Balance:
        """Make it when it is asked for."""
        return Balance(balance=self.outcome.balance)

    @classmethod
    def of(cls, outcome: domain.Posted | domain.Nothing, asked: Decimal | None) -> Self:
        """Make it from the ledger's outcome and what was asked for."""
        return cls(outcome=outcome, asked=asked, already_processed=outcome.already_processed)


RefundResult = Annotated[
    RefundPayload
    | refusals.InvalidAmount
    | TransactionNotFound
    | refusals.IdempotencyKeyReused
    | WalletClosed
    | WalletFrozen
    | InvalidExpiry
    | NotRefundable
    | RefundExceedsOriginal
    | TooMany
    | refusals.BalanceLimitExceeded,
    strawberry.union("RefundResult", description="Unions grow: keep a `... on Error` branch."),
]
ClawbackResult = Annotated[
    ClawbackPayload
    | refusals.InvalidAmount
    | TransactionNotFound
    | refusals.IdempotencyKeyReused
    | NotRefundable
    | RefundExceedsOriginal
    | TooMany
    | refusals.InsufficientBalance
    | ReceiverRefused,
    strawberry.union("ClawbackResult", description="Unions grow: keep a `... on Error` branch."),
]


def _reverse_input(context: Context, asked: _ReverseInput, on_shortfall: domain.Shortfall) -> reversals.ReverseInput:
    kind, parts, _ = ids.decode(asked.transaction_id, "transactionId")
    if kind != "Transaction":
        raise BadUserInput("transactionId", f"is the id of a {kind.lower()}", "send the id of a transaction")
    return reversals.ReverseInput(
        EntryName(*parts),
        asked.transaction_id,
        asked.idempotency_key,
        _asked(asked),
        on_shortfall,
        None if asked.description is UNSET else asked.description,
        None if asked.reference is UNSET else asked.reference,
        asked.metadata or {},
        context.deadline,
        context.caller,
        context.asked_by,
        context.take_id(),
    )


def _asked(asked: _ReverseInput) -> Decimal | None:
    # The scalar reads text and hands on a Decimal; the annotation is what it writes.
    return None if asked.amount is UNSET or asked.amount is None else cast("Decimal", asked.amount)


async def refund(context: Context, asked: RefundInput) -> RefundResult:
    """Give back what an owner paid."""
    until = None if asked.lapsed_until is UNSET else asked.lapsed_until
    request = replace(_reverse_input(context, asked, domain.Shortfall.REFUSE), lapsed_until=until)
    outcome = await reversals.refund(context.ledger, request)
    if isinstance(outcome, domain.Posted):
        return RefundPayload.of(outcome)
    assert not isinstance(outcome, domain.Nothing)
    return cast("RefundResult", refusals.of_outcome(outcome))


async def clawback(context: Context, asked: ClawbackInput) -> ClawbackResult:
    """Take back what an owner was credited."""
    request = _reverse_input(context, asked, domain.Shortfall[asked.on_shortfall.name])
    outcome = await reversals.clawback(context.ledger, request)
    if isinstance(outcome, domain.Posted | domain.Nothing):
        return ClawbackPayload.of(outcome, _asked(asked))
    return cast("ClawbackResult", refusals.of_outcome(outcome))


@strawberry.type
class ReversalMutations:
    """What reverses transactions."""

    @strawberry.mutation(
        description="Give back a spend or a capture, all of it or a part; never more than was paid. Safe to retry with"
        " the same key."
    )
    async def refund(
        self, info: Info, input: Annotated[RefundInput, strawberry.argument(description="What is given back.")]
    ) -> RefundResult | None:
        """Give back what an owner paid."""
        return await refund(info.context, input)

    @strawberry.mutation(
        description="Take back a top-up, a bonus or what was received; never what is held. Safe to retry with the same"
        " key."
    )
    async def clawback(
        self, info: Info, input: Annotated[ClawbackInput, strawberry.argument(description="What is taken back.")]
    ) -> ClawbackResult | None:
        """Take back what an owner was credited."""
        return await clawback(info.context, input)
