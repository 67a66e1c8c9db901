"""The refusals of the business: members of the results' unions, made from the ledger's outcomes."""

from enum import Enum
from typing import Final, Self, TypeAlias, assert_never
from uuid import UUID

import strawberry

from wallet_gql.domain import postings as domain
from wallet_gql.domain import refusals as kept
from wallet_gql.domain.errors import BadUserInput
from wallet_gql.domain.money import AmountFault
from wallet_gql.domain.refusals import OutcomeCode
from wallet_gql.graphql.balances import Balance
from wallet_gql.graphql.errors import Error, ErrorCode, Replayable, kept_fields
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
    WalletNotEmpty,
)
from wallet_gql.graphql.scalars import Amount, amount
from wallet_gql.graphql.sources import InvalidExpiry

ECHO_LENGTH_MAX: Final = 64

OutcomeOfRefusal: TypeAlias = (
    domain.Refused
    | domain.WalletMissing
    | domain.KeyReused
    | domain.AssetMissing
    | domain.AmountInvalid
    | domain.ReceiverIsSender
    | domain.HoldMissing
    | domain.TransactionMissing
)


@strawberry.enum(description="What is wrong with an amount.")
class InvalidAmountReason(Enum):
    """What is wrong with an amount."""

    NOT_POSITIVE = strawberry.enum_value("NOT_POSITIVE", description="It is zero or negative.")
    TOO_PRECISE = strawberry.enum_value(
        "TOO_PRECISE", description="It has more fraction digits than the asset's scale."
    )
    TOO_LARGE = strawberry.enum_value("TOO_LARGE", description="It is above 10^15 of the asset's smallest units.")


@strawberry.type(
    description="No wallet can be opened for this owner id; the message says why. Wallets that exist stay reachable."
)
class InvalidOwnerId(Error):
    """No wallet can be opened for this owner id."""

    @classmethod
    def of(cls, fault: BadUserInput) -> Self:
        """Make it from what is wrong with the id."""
        return cls(code=ErrorCode.INVALID_OWNER_ID, message=str(fault), retryable=False)


@strawberry.type(description="No wallet has this owner id. Open one, then send the request again.")
class WalletNotFound(Error):
    """No wallet has this owner id."""

    owner_id: str = strawberry.field(description="The owner id that was asked for.")

    @classmethod
    def of(cls, refusal: domain.WalletMissing) -> Self:
        """Make it from the ledger's refusal."""
        return cls(
            code=ErrorCode.WALLET_NOT_FOUND,
            message="Wallet not found: open it with openWallet, then send the request again",
            retryable=False,
            owner_id=refusal.owner_id,
        )


@strawberry.type(description="No asset has this code.")
class AssetNotFound(Error):
    """No asset has this code."""

    asset_code: str = strawberry.field(
        description=f"The code that was asked for, at most its first {ECHO_LENGTH_MAX} characters."
    )

    @classmethod
    def of(cls, refusal: domain.AssetMissing) -> Self:
        """Make it from the ledger's refusal."""
        return cls(
            code=ErrorCode.ASSET_NOT_FOUND,
            message="Asset not found: send a code that the query assets returns",
            retryable=False,
            # What a caller sends is echoed up to a limit only.
            asset_code=refusal.code[:ECHO_LENGTH_MAX],
        )


_AMOUNT_MESSAGES: Final = {
    AmountFault.NOT_POSITIVE: "Amount must be greater than zero",
    AmountFault.TOO_PRECISE: "Amount has more fraction digits than the asset",
    AmountFault.TOO_LARGE: "Amount is larger than one posting may move",
}


@strawberry.type(description="The amount can be read, but cannot be posted in this asset.")
class InvalidAmount(Error):
    """The amount cannot be posted in this asset."""

    reason: InvalidAmountReason = strawberry.field(description="What is wrong with it.")
    scale: int | None = strawberry.field(description="The number of the asset's fraction digits.")

    @classmethod
    def of(cls, refusal: domain.AmountInvalid) -> Self:
        """Make it from the ledger's refusal."""
        return cls(
            code=ErrorCode.INVALID_AMOUNT,
            message=_AMOUNT_MESSAGES[refusal.fault],
            retryable=False,
            reason=InvalidAmountReason[refusal.fault.name],
            scale=None if refusal.asset is None else refusal.asset.scale,
        )


@strawberry.type(description="The key was used for another request of this wallet. A new request needs a new key.")
class IdempotencyKeyReused(Error):
    """The key was used for another request of this wallet."""

    idempotency_key: UUID = strawberry.field(description="The key that was sent.")

    @classmethod
    def of(cls, refusal: domain.KeyReused) -> Self:
        """Make it from the ledger's refusal."""
        return cls(
            code=ErrorCode.IDEMPOTENCY_KEY_REUSED,
            message="Idempotency key was used for another request",
            retryable=False,
            idempotency_key=refusal.idempotency_key,
        )


@strawberry.type(description="The balance would exceed the most that a wallet may hold. Kept under the key.")
class BalanceLimitExceeded(Error, Replayable):
    """The balance would exceed the most that a wallet may hold."""

    limit: Amount = strawberry.field(description="The most that the wallet might hold in this asset.")
    balance: Balance = strawberry.field(description="What the wallet holds now.")

    @classmethod
    def of(cls, refusal: domain.Refused, facts: kept.BalanceLimitExceeded) -> Self:
        """Make it from the ledger's refusal."""
        return cls(
            **kept_fields(refusal.facts.code),
            limit=amount(facts.limit_minor, refusal.balance.asset),
            balance=Balance(balance=refusal.balance),
            already_processed=refusal.already_processed,
        )


@strawberry.type(
    description="Less is available than the request needs. Kept under the key: a late retry is refused too."
)
class InsufficientBalance(Error, Replayable):
    """Less is available than the request needs."""

    available: Amount = strawberry.field(description="What was available when the request was refused.")
    required: Amount = strawberry.field(description="What the request needed.")
    balance: Balance = strawberry.field(description="What the wallet holds now.")

    @classmethod
    def of(cls, refusal: domain.Refused, facts: kept.InsufficientBalance) -> Self:
        """Make it from the ledger's refusal."""
        return cls(
            **kept_fields(facts.code),
            available=amount(facts.balance_before_minor, facts.asset),
            required=amount(facts.amount_minor, facts.asset),
            balance=Balance(balance=refusal.balance),
            already_processed=refusal.already_processed,
        )


@strawberry.type(description="The clock cannot be moved: the service is not in test mode.")
class TestClockOff(Error):
    """The service is not in test mode."""

    __test__ = False  # no test, whatever a collector thinks of its name

    @classmethod
    def of(cls) -> Self:
        """Make it."""
        return cls(
            code=ErrorCode.TEST_CLOCK_OFF,
            message="The clock of a live service cannot be moved: use one in test mode, WALLET_MODE=test",
            retryable=False,
        )


@strawberry.type(
    description="A refusal by version 0.1.0, which did not keep its asset and figures. Send the same request with the"
    " same key to learn them."
)
class KeptRefusal(Error, Replayable):
    """A kept refusal whose figures were not kept with it."""

    @classmethod
    def of(cls, code: OutcomeCode) -> Self:
        """Make it from the code alone."""
        return cls(**kept_fields(code), already_processed=True)


Kept: TypeAlias = (
    BalanceLimitExceeded
    | InsufficientBalance
    | TransferForbidden
    | ReceiverRefused
    | ReceiptUsed
    | HoldNotOpen
    | HoldExceeded
    | TooMany
    | NotRefundable
    | RefundExceedsOriginal
    | WalletClosed
    | WalletFrozen
    | WalletNotEmpty
    | InvalidExpiry
    | LimitExceeded
)
"""What is kept under a key."""


def of_refused(refusal: domain.Refused) -> Kept:  # noqa: C901, PLR0912 - a case for each refusal
    """Make the member of the union that tells a kept refusal's facts."""
    match facts := refusal.facts:
        case kept.BalanceLimitExceeded():
            return BalanceLimitExceeded.of(refusal, facts)
        case kept.InsufficientBalance():
            return InsufficientBalance.of(refusal, facts)
        case kept.TransferForbidden():
            return TransferForbidden.of(refusal, facts)
        case kept.HoldNotOpen():
            return HoldNotOpen.of(refusal, facts)
        case kept.HoldExceeded():
            return HoldExceeded.of(refusal, facts)
        case kept.TooMany():
            return TooMany.of(refusal, facts)
        case kept.NotRefundable():
            return NotRefundable.of(refusal, facts)
        case kept.RefundExceedsOriginal():
            return RefundExceedsOriginal.of(refusal, facts)
        case kept.ReceiptUsed():
            return ReceiptUsed.of(refusal, facts)
        case kept.ReceiverRefused():
            return ReceiverRefused.of(refusal, facts)
        case kept.WalletClosed():
            return WalletClosed.of(refusal)
        case kept.WalletFrozen():
            return WalletFrozen.of(refusal, facts)
        case kept.WalletNotEmpty():
            return WalletNotEmpty.of(refusal, facts)
        case kept.InvalidExpiry():
            return InvalidExpiry.of(refusal, facts)
        case kept.LimitExceeded():
            return LimitExceeded.of(refusal, facts)
        case _:
            assert_never(facts)


NotKept: TypeAlias = (
    WalletNotFound
    | IdempotencyKeyReused
    | AssetNotFound
    | InvalidAmount
    | SelfTransfer
    | HoldNotFound
    | TransactionNotFound
)
"""What is not kept under a key: the same request may be answered otherwise later."""


def of_outcome(outcome: OutcomeOfRefusal) -> Kept | NotKept:
    """Make the member of the union that tells why nothing was posted."""
    match outcome:
        case domain.Refused():
            return of_refused(outcome)
        case domain.WalletMissing():
            return WalletNotFound.of(outcome)
        case domain.KeyReused():
            return IdempotencyKeyReused.of(outcome)
        case domain.AssetMissing():
            return AssetNotFound.of(outcome)
        case domain.AmountInvalid():
            return InvalidAmount.of(outcome)
        case domain.TransactionMissing():
            return TransactionNotFound.of(outcome)
        case domain.HoldMissing():
            return HoldNotFound.of(outcome)
        case domain.ReceiverIsSender():
            return SelfTransfer.of(outcome)
        case _:
            assert_never(outcome)
