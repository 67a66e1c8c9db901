"""The refusals of the business: members of the results' unions, made from the ledger's outcomes."""

from datetime import datetime
from enum import Enum
from typing import Final, Self, TypeAlias, TypedDict, assert_never
from uuid import UUID

import strawberry

from wallet_gql.domain import postings as domain
from wallet_gql.domain import refusals as kept
from wallet_gql.domain import wallets as domain_wallets
from wallet_gql.domain.errors import BadUserInput
from wallet_gql.domain.holds import HoldName
from wallet_gql.domain.money import BALANCE_MINOR_MAX, AmountFault
from wallet_gql.domain.refusals import OutcomeCode
from wallet_gql.graphql.assets import Asset, TransferPolicy
from wallet_gql.graphql.balances import Balance
from wallet_gql.graphql.context import Info
from wallet_gql.graphql.held import Hold, HoldState
from wallet_gql.graphql.scalars import Amount, amount
from wallet_gql.graphql.transactions import Transaction
from wallet_gql.graphql.wallets import Wallet, WalletStatus
from wallet_gql.ledger.reads import OwnTransaction

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
    TEST_CLOCK_OFF = strawberry.enum_value("TEST_CLOCK_OFF", description="The service is not in test mode.")
    TOO_MANY = strawberry.enum_value("TOO_MANY", description="There are as many as there may be.")
    RECEIPT_USED = strawberry.enum_value("RECEIPT_USED", description="The receipt was credited before.")
    RECEIVER_REFUSED = strawberry.enum_value("RECEIVER_REFUSED", description="The receiver takes nothing.")
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


class _Kept(TypedDict):
    code: ErrorCode
    message: str
    retryable: bool


_KEPT_MESSAGES: Final = {
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

    limit: Amount = strawberry.field(description="The most that a wallet may hold in this asset.")
    balance: Balance = strawberry.field(description="What the wallet holds now.")

    @classmethod
    def of(cls, refusal: domain.Refused) -> Self:
        """Make it from the ledger's refusal."""
        return cls(
            **_kept(refusal.facts.code),
            limit=amount(BALANCE_MINOR_MAX, refusal.balance.asset),
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
            **_kept(facts.code),
            available=amount(facts.balance_before_minor, facts.asset),
            required=amount(facts.amount_minor, facts.asset),
            balance=Balance(balance=refusal.balance),
            already_processed=refusal.already_processed,
        )


@strawberry.type(description="Owners may not transfer this asset. Kept under the key.")
class TransferForbidden(Error, Replayable):
    """Owners may not transfer this asset."""

    asset: Asset = strawberry.field(description="The asset.")
    policy: TransferPolicy = strawberry.field(description="Its policy when the transfer was refused.")

    @classmethod
    def of(cls, refusal: domain.Refused, facts: kept.TransferForbidden) -> Self:
        """Make it from the ledger's refusal."""
        return cls(
            **_kept(facts.code),
            asset=Asset.of(facts.asset),
            policy=TransferPolicy[facts.policy.name],
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
            **_kept(facts.code),
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
            **_kept(facts.code),
            refundable=amount(facts.refundable_minor, facts.asset),
            required=amount(facts.amount_minor, facts.asset),
            already_processed=refusal.already_processed,
        )


@strawberry.type(description="There is no such hold.")
class HoldNotFound(Error):
    """There is no such hold."""

    hold_id: strawberry.ID = strawberry.field(description="The id that was sent.")

    @classmethod
    def of(cls, refusal: domain.HoldMissing) -> Self:
        """Make it from the ledger's refusal."""
        return cls(
            code=ErrorCode.HOLD_NOT_FOUND,
            message="Hold not found: send the id of a hold as it was received",
            retryable=False,
            hold_id=strawberry.ID(refusal.hold_id),
        )


@strawberry.type
class _OfHold(Error, Replayable):
    name: strawberry.Private[HoldName]

    @strawberry.field(description="The hold as it is now.")
    async def hold(self, info: Info) -> Hold:
        """Read the hold."""
        hold = await info.context.ledger.reads.holds.load(self.name)
        assert hold is not None
        return Hold(hold=hold)


@strawberry.type(description="The hold was captured or voided, or its time is over. Kept under the key.")
class HoldNotOpen(_OfHold):
    """The hold is closed."""

    state: HoldState = strawberry.field(description="Where it stood when the request was refused.")

    @classmethod
    def of(cls, refusal: domain.Refused, facts: kept.HoldNotOpen) -> Self:
        """Make it from the ledger's refusal."""
        return cls(
            **_kept(facts.code),
            name=HoldName(refusal.balance.wallet.shard, facts.hold_id),
            state=HoldState[facts.state.name],
            already_processed=refusal.already_processed,
        )


@strawberry.type(
    description="More was to be captured than remains, or less was to be held than was captured. Kept under the key."
)
class HoldExceeded(_OfHold):
    """The hold does not hold so much."""

    remaining: Amount = strawberry.field(description="What remained when the request was refused.")
    required: Amount = strawberry.field(description="What the request named.")

    @classmethod
    def of(cls, refusal: domain.Refused, facts: kept.HoldExceeded) -> Self:
        """Make it from the ledger's refusal."""
        return cls(
            **_kept(facts.code),
            name=HoldName(refusal.balance.wallet.shard, facts.hold_id),
            remaining=amount(facts.remaining_minor, facts.asset),
            required=amount(facts.amount_minor, facts.asset),
            already_processed=refusal.already_processed,
        )


@strawberry.enum(description="What there can be too many of. Values are added as the service grows.")
class Counted(Enum):
    """What there can be too many of."""

    HOLDS = strawberry.enum_value("HOLDS", description="Open holds of an account.")
    CAPTURES = strawberry.enum_value("CAPTURES", description="Captures of a hold.")
    REFUNDS = strawberry.enum_value("REFUNDS", description="Refunds and clawbacks of a transaction.")


@strawberry.type(description="There are as many as there may be. Kept under the key.")
class TooMany(Error, Replayable):
    """There are as many as there may be."""

    counted: Counted = strawberry.field(description="Of what.")
    most: int = strawberry.field(description="How many there may be.")

    @classmethod
    def of(cls, refusal: domain.Refused, facts: kept.TooMany) -> Self:
        """Make it from the ledger's refusal."""
        return cls(
            **_kept(facts.code),
            counted=Counted[facts.counted.name],
            most=facts.most,
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
            **_kept(facts.code),
            own=OwnTransaction(facts.shard, facts.transaction_id, wallet.id) if is_near else None,
            already_processed=refusal.already_processed,
        )


@strawberry.enum(description="Why a receiver takes nothing. Causes are added as the service grows.")
class ReceiverCause(Enum):
    """Why a receiver takes nothing."""

    FULL = strawberry.enum_value("FULL", description="The receiver would hold more than a wallet may.")
    FROZEN = strawberry.enum_value("FROZEN", description="The receiver's wallet is frozen.")
    CLOSED = strawberry.enum_value("CLOSED", description="The receiver's wallet is closed.")


@strawberry.type(
    description="The receiver takes nothing; what it holds is not told. Told only after the sender's own refusals. Kept"
    " under the key."
)
class ReceiverRefused(Error, Replayable):
    """The receiver takes nothing."""

    owner_id: str = strawberry.field(description="The receiver.")
    cause: ReceiverCause = strawberry.field(description="Why.")

    @classmethod
    def of(cls, refusal: domain.Refused, facts: kept.ReceiverRefused) -> Self:
        """Make it from the ledger's refusal."""
        return cls(
            **_kept(facts.code),
            owner_id=facts.owner_id,
            cause=ReceiverCause[facts.cause.name],
            already_processed=refusal.already_processed,
        )


@strawberry.type
class _OfWallet(Error, Replayable):
    """A refusal by what has become of the owner's wallet."""

    kept_wallet: strawberry.Private[domain_wallets.Wallet]

    @strawberry.field(description="The wallet as it is now.")
    def wallet(self) -> Wallet:
        """Make it when it is asked for."""
        return Wallet.of(self.kept_wallet)


@strawberry.type(description="The owner's wallet is closed: reopen it first. Kept under the key.")
class WalletClosed(_OfWallet):
    """The owner's wallet is closed."""

    @classmethod
    def of(cls, refusal: domain.Refused) -> Self:
        """Make it from the ledger's refusal."""
        return cls(
            **_kept(refusal.facts.code),
            kept_wallet=refusal.balance.wallet,
            already_processed=refusal.already_processed,
        )


@strawberry.type(description="The owner's wallet is frozen. Kept under the key: a late retry is refused too.")
class WalletFrozen(_OfWallet):
    """The owner's wallet is frozen."""

    status: WalletStatus = strawberry.field(description="How it was frozen when the request was refused.")
    until: datetime | None = strawberry.field(description="When that was to end by itself; null where it was not.")

    @classmethod
    def of(cls, refusal: domain.Refused, facts: kept.WalletFrozen) -> Self:
        """Make it from the ledger's refusal."""
        return cls(
            **_kept(facts.code),
            kept_wallet=refusal.balance.wallet,
            status=WalletStatus[facts.status.name],
            until=domain.from_unix_us(facts.until_us) if facts.until_us else None,
            already_processed=refusal.already_processed,
        )


@strawberry.type(
    description="The owner's wallet has credits, open holds or debts: say what becomes of them. Kept under the key."
)
class WalletNotEmpty(_OfWallet):
    """The owner's wallet is not empty."""

    open_holds: int = strawberry.field(description="How many holds were open, in all assets.")

    @classmethod
    def of(cls, refusal: domain.Refused, facts: kept.WalletNotEmpty) -> Self:
        """Make it from the ledger's refusal."""
        return cls(
            **_kept(facts.code),
            kept_wallet=refusal.balance.wallet,
            open_holds=facts.open_holds,
            already_processed=refusal.already_processed,
        )


@strawberry.type(description="Sender and receiver are the same owner.")
class SelfTransfer(Error):
    """Sender and receiver are the same owner."""

    owner_id: str = strawberry.field(description="The owner.")

    @classmethod
    def of(cls, refusal: domain.ReceiverIsSender) -> Self:
        """Make it from the ledger's refusal."""
        return cls(
            code=ErrorCode.SELF_TRANSFER,
            message="Sender and receiver are the same owner: name another receiver",
            retryable=False,
            owner_id=refusal.owner_id,
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
        return cls(**_kept(code), already_processed=True)


def _kept(code: OutcomeCode) -> _Kept:
    return {"code": ErrorCode[code.name], "message": _KEPT_MESSAGES[code], "retryable": False}


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
)
"""What is kept under a key."""


def of_refused(refusal: domain.Refused) -> Kept:  # noqa: C901, PLR0912 - a case for each refusal
    """Make the member of the union that tells a kept refusal's facts."""
    match facts := refusal.facts:
        case kept.BalanceLimitExceeded():
            return BalanceLimitExceeded.of(refusal)
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
