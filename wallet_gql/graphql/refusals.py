"""The refusals of the business: members of the results' unions, made from the ledger's outcomes."""

from enum import Enum
from typing import Final, Self
from uuid import UUID

import strawberry

from wallet_gql.domain import postings as domain
from wallet_gql.domain.errors import BadUserInput
from wallet_gql.domain.money import BALANCE_MINOR_MAX, AmountFault
from wallet_gql.graphql.balances import Balance
from wallet_gql.graphql.scalars import Amount, amount

ECHO_LENGTH_MAX: Final = 64


@strawberry.enum(description="Why a request was refused. Codes are added as the service grows: keep a default branch.")
class ErrorCode(Enum):
    """Why a request was refused."""

    WALLET_NOT_FOUND = strawberry.enum_value("WALLET_NOT_FOUND", description="No wallet has this owner id.")
    ASSET_NOT_FOUND = strawberry.enum_value("ASSET_NOT_FOUND", description="No asset has this code.")
    INVALID_AMOUNT = strawberry.enum_value("INVALID_AMOUNT", description="The amount cannot be posted in this asset.")
    IDEMPOTENCY_KEY_REUSED = strawberry.enum_value(
        "IDEMPOTENCY_KEY_REUSED", description="The key was used for another request of this wallet."
    )
    BALANCE_LIMIT_EXCEEDED = strawberry.enum_value(
        "BALANCE_LIMIT_EXCEEDED", description="The balance would exceed the most that a wallet may hold."
    )
    INSUFFICIENT_BALANCE = strawberry.enum_value(
        "INSUFFICIENT_BALANCE", description="The wallet holds less than the spend needs."
    )
    INVALID_OWNER_ID = strawberry.enum_value(
        "INVALID_OWNER_ID", description="No wallet can be opened for this owner id."
    )


@strawberry.enum(description="What is wrong with an amount.")
class InvalidAmountReason(Enum):
    """What is wrong with an amount."""

    NOT_POSITIVE = strawberry.enum_value("NOT_POSITIVE", description="It is zero or negative.")
    TOO_PRECISE = strawberry.enum_value(
        "TOO_PRECISE", description="It has more fraction digits than the asset's scale."
    )
    TOO_LARGE = strawberry.enum_value("TOO_LARGE", description="It is above 10^15 of the asset's smallest units.")


@strawberry.interface(description="A refusal of the business: nothing moved. New refusals implement this interface.")
class Error:
    """A refusal of the business."""

    code: ErrorCode = strawberry.field(description="Tells refusals apart.")
    message: str = strawberry.field(description="An explanation for people; may change.")
    retryable: bool = strawberry.field(
        description="Whether it can help to send the same request again with the same key and nothing else changed."
    )


@strawberry.interface(description="An answer that is kept under its idempotency key: a retry gets it again.")
class Replayable:
    """An answer that is kept under its key."""

    already_processed: bool = strawberry.field(
        description="Whether the key was answered before: then this repeats that answer, and nothing moved now."
    )


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


_KEPT_MESSAGES: Final = {
    domain.OutcomeCode.BALANCE_LIMIT_EXCEEDED: "Balance limit exceeded",
    domain.OutcomeCode.INSUFFICIENT_BALANCE: "Insufficient balance",
}

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
            scale=refusal.asset.scale,
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

    limit: Amount = strawberry.field(description="The most that a wallet may hold in this asset.")
    balance: Balance = strawberry.field(description="What the wallet holds now.")

    @classmethod
    def of(cls, refusal: domain.Refused) -> Self:
        """Make it from the ledger's refusal."""
        return cls(
            code=ErrorCode.BALANCE_LIMIT_EXCEEDED,
            message=_KEPT_MESSAGES[refusal.code],
            retryable=False,
            limit=amount(BALANCE_MINOR_MAX, refusal.balance.asset),
            balance=Balance.of(refusal.balance),
            already_processed=refusal.already_processed,
        )


@strawberry.type(
    description="The wallet holds less than the spend needs. Kept under the key: a late retry is refused too."
)
class InsufficientBalance(Error, Replayable):
    """The wallet holds less than the spend needs."""

    available: Amount = strawberry.field(description="What the wallet held when the spend was refused.")
    required: Amount = strawberry.field(description="What the spend needed.")
    balance: Balance = strawberry.field(description="What the wallet holds now.")

    @classmethod
    def of(cls, refusal: domain.Refused) -> Self:
        """Make it from the ledger's refusal."""
        asset = refusal.balance.asset
        return cls(
            code=ErrorCode.INSUFFICIENT_BALANCE,
            message=_KEPT_MESSAGES[refusal.code],
            retryable=False,
            available=amount(refusal.balance_before_minor, asset),
            required=amount(refusal.amount_minor, asset),
            balance=Balance.of(refusal.balance),
            already_processed=refusal.already_processed,
        )


@strawberry.type(
    description="A refusal by version 0.1.0, which did not keep its asset and figures. Send the same request with the"
    " same key to learn them."
)
class KeptRefusal(Error, Replayable):
    """A kept refusal whose figures were not kept with it."""

    @classmethod
    def of(cls, code: domain.OutcomeCode) -> Self:
        """Make it from the code alone."""
        return cls(code=ErrorCode[code.name], message=_KEPT_MESSAGES[code], retryable=False, already_processed=True)
