"""What all refusals of the business have in common: codes, the interface, and what a kept one says."""

from enum import Enum
from typing import Final, TypedDict

import strawberry

from wallet_gql.domain.refusals import OutcomeCode


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
        "INSUFFICIENT_BALANCE", description="Less is available than the request needs."
    )
    SELF_TRANSFER = strawberry.enum_value("SELF_TRANSFER", description="Sender and receiver are the same owner.")
    TRANSFER_FORBIDDEN = strawberry.enum_value(
        "TRANSFER_FORBIDDEN", description="The asset's policy lets no owner transfer it."
    )
    HOLD_NOT_FOUND = strawberry.enum_value("HOLD_NOT_FOUND", description="There is no such hold.")
    HOLD_NOT_OPEN = strawberry.enum_value("HOLD_NOT_OPEN", description="The hold was captured, voided, or is over.")
    HOLD_EXCEEDED = strawberry.enum_value(
        "HOLD_EXCEEDED", description="The hold does not hold so much, or more of it was captured."
    )
    TRANSACTION_NOT_FOUND = strawberry.enum_value("TRANSACTION_NOT_FOUND", description="There is no such transaction.")
    NOT_REFUNDABLE = strawberry.enum_value(
        "NOT_REFUNDABLE", description="The transaction is of a type that cannot be reversed so."
    )
    REFUND_EXCEEDS_ORIGINAL = strawberry.enum_value(
        "REFUND_EXCEEDS_ORIGINAL", description="More than is left of the transaction."
    )
    WALLET_CLOSED = strawberry.enum_value("WALLET_CLOSED", description="The owner's wallet is closed.")
    WALLET_FROZEN = strawberry.enum_value("WALLET_FROZEN", description="The owner's wallet is frozen.")
    WALLET_NOT_EMPTY = strawberry.enum_value(
        "WALLET_NOT_EMPTY", description="The owner's wallet has credits, open holds or debts."
    )
    INVALID_EXPIRY = strawberry.enum_value(
        "INVALID_EXPIRY", description="The lot that the credits shall be of cannot be."
    )
    LIMIT_EXCEEDED = strawberry.enum_value("LIMIT_EXCEEDED", description="More would move than a limit lets.")
    LIMIT_NOT_FOUND = strawberry.enum_value("LIMIT_NOT_FOUND", description="There is no such limit.")
    TEST_CLOCK_OFF = strawberry.enum_value("TEST_CLOCK_OFF", description="The service is not in test mode.")
    TOO_MANY = strawberry.enum_value("TOO_MANY", description="There are as many as there may be.")
    RECEIPT_USED = strawberry.enum_value("RECEIPT_USED", description="The receipt was credited before.")
    RECEIVER_REFUSED = strawberry.enum_value("RECEIVER_REFUSED", description="The receiver takes nothing.")
    INVALID_OWNER_ID = strawberry.enum_value(
        "INVALID_OWNER_ID", description="No wallet can be opened for this owner id."
    )


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


class KeptFields(TypedDict):
    """What `Error` says of a refusal that is kept under a key."""

    code: ErrorCode
    message: str
    retryable: bool


_MESSAGES: Final = {
    OutcomeCode.BALANCE_LIMIT_EXCEEDED: "Balance limit exceeded",
    OutcomeCode.INSUFFICIENT_BALANCE: "Insufficient balance",
    OutcomeCode.TRANSFER_FORBIDDEN: "Transfers of this asset are not allowed",
    OutcomeCode.RECEIVER_REFUSED: "The receiver cannot take it",
    OutcomeCode.RECEIPT_USED: "The receipt was credited before",
    OutcomeCode.HOLD_NOT_OPEN: "The hold is closed",
    OutcomeCode.HOLD_EXCEEDED: "The hold does not hold so much",
    OutcomeCode.TOO_MANY: "There are as many as there may be",
    OutcomeCode.NOT_REFUNDABLE: "The transaction cannot be reversed so",
    OutcomeCode.REFUND_EXCEEDS_ORIGINAL: "More than is left of the transaction",
    OutcomeCode.WALLET_CLOSED: "The wallet is closed",
    OutcomeCode.WALLET_FROZEN: "The wallet is frozen",
    OutcomeCode.WALLET_NOT_EMPTY: "The wallet is not empty",
    OutcomeCode.INVALID_EXPIRY: "The credits cannot expire so",
    OutcomeCode.LIMIT_EXCEEDED: "A limit would be exceeded",
}


def kept_fields(code: OutcomeCode) -> KeptFields:
    """Return what `Error` says of it: the same again for whoever retries."""
    return {"code": ErrorCode[code.name], "message": _MESSAGES[code], "retryable": False}
