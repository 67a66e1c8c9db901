"""Refusals that depend on state: kept under the key with their facts, which replay and GraphQL tell as they are.

One record a refusal. Its fields are what is kept, by their names; amounts are in minor units of its asset.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from enum import Enum, IntEnum
from typing import Any, ClassVar, Final, TypeAlias, get_args
from uuid import UUID

from wallet_gql.domain.assets import Asset, TransferPolicy
from wallet_gql.domain.holds import HoldState
from wallet_gql.domain.lots import InvalidExpiryReason
from wallet_gql.domain.money import BALANCE_MINOR_MAX, INT64_MAX
from wallet_gql.domain.wallets import WalletStatus


class OutcomeCode(IntEnum):
    """How a request that reached its wallet ended. The numbers are stored under the idempotency key.

    POSTED names a transaction, HELD a hold, CHANGED a wallet's state, LIMITS_SET a version of its limits, NOTHING that
    nothing was posted to the owner's account; the others are refusals.
    """

    POSTED = 1
    BALANCE_LIMIT_EXCEEDED = 2
    INSUFFICIENT_BALANCE = 3
    TRANSFER_FORBIDDEN = 4
    RECEIVER_REFUSED = 5
    RECEIPT_USED = 6
    HOLD_NOT_OPEN = 7
    HOLD_EXCEEDED = 8
    TOO_MANY = 9
    NOT_REFUNDABLE = 10
    REFUND_EXCEEDS_ORIGINAL = 11
    WALLET_CLOSED = 12
    WALLET_FROZEN = 13
    WALLET_NOT_EMPTY = 14
    INVALID_EXPIRY = 15
    LIMIT_EXCEEDED = 16
    HELD = 50
    NOTHING = 51
    CHANGED = 52
    LIMITS_SET = 53


class ReceiverCause(Enum):
    """Why a receiver takes nothing. The values are stored."""

    FULL = "FULL"
    FROZEN = "FROZEN"
    CLOSED = "CLOSED"
    TOO_MANY_LOTS = "TOO_MANY_LOTS"
    LIMIT = "LIMIT"


@dataclass(frozen=True, slots=True)
class BalanceLimitExceeded:
    """The owner would hold more than a wallet may."""

    code: ClassVar = OutcomeCode.BALANCE_LIMIT_EXCEEDED
    asset: Asset
    balance_before_minor: int
    amount_minor: int
    limit_minor: int = BALANCE_MINOR_MAX
    """The most that it may hold; not kept before wallets had limits of their own."""


@dataclass(frozen=True, slots=True)
class InsufficientBalance:
    """The owner has less than the request needs."""

    code: ClassVar = OutcomeCode.INSUFFICIENT_BALANCE
    asset: Asset
    balance_before_minor: int
    amount_minor: int


@dataclass(frozen=True, slots=True)
class TransferForbidden:
    """The asset's policy lets no owner transfer it."""

    code: ClassVar = OutcomeCode.TRANSFER_FORBIDDEN
    asset: Asset
    policy: TransferPolicy


@dataclass(frozen=True, slots=True)
class ReceiverRefused:
    """The receiver takes nothing; of its figures nothing is told."""

    code: ClassVar = OutcomeCode.RECEIVER_REFUSED
    asset: Asset
    owner_id: str
    cause: ReceiverCause


@dataclass(frozen=True, slots=True)
class ReceiptUsed:
    """The receipt was credited by another request, to whomever."""

    code: ClassVar = OutcomeCode.RECEIPT_USED
    asset: Asset
    shard: int
    transaction_id: UUID


@dataclass(frozen=True, slots=True)
class HoldNotOpen:
    """The hold was closed before."""

    code: ClassVar = OutcomeCode.HOLD_NOT_OPEN
    asset: Asset
    hold_id: UUID
    state: HoldState


@dataclass(frozen=True, slots=True)
class HoldExceeded:
    """More than what remains is to be captured, or less than what was captured is to be held."""

    code: ClassVar = OutcomeCode.HOLD_EXCEEDED
    asset: Asset
    hold_id: UUID
    remaining_minor: int
    amount_minor: int


class Counted(Enum):
    """What there can be too many of. The values are stored."""

    HOLDS = "HOLDS"
    CAPTURES = "CAPTURES"
    REFUNDS = "REFUNDS"
    LOTS = "LOTS"
    LIMITS = "LIMITS"


@dataclass(frozen=True, slots=True)
class TooMany:
    """There are as many as there may be."""

    code: ClassVar = OutcomeCode.TOO_MANY
    asset: Asset
    counted: Counted
    most: int


@dataclass(frozen=True, slots=True)
class NotRefundable:
    """The transaction is of a type that cannot be reversed so."""

    code: ClassVar = OutcomeCode.NOT_REFUNDABLE
    asset: Asset
    shard: int
    transaction_id: UUID


@dataclass(frozen=True, slots=True)
class RefundExceedsOriginal:
    """More would be reversed than the transaction moved."""

    code: ClassVar = OutcomeCode.REFUND_EXCEEDS_ORIGINAL
    asset: Asset
    refundable_minor: int
    amount_minor: int


@dataclass(frozen=True, slots=True)
class WalletClosed:
    """The owner's wallet is closed."""

    code: ClassVar = OutcomeCode.WALLET_CLOSED
    asset: Asset


@dataclass(frozen=True, slots=True)
class WalletFrozen:
    """The owner's wallet is frozen, until so many microseconds of Unix time, or until somebody ends it: then 0."""

    code: ClassVar = OutcomeCode.WALLET_FROZEN
    asset: Asset
    status: WalletStatus
    until_us: int


@dataclass(frozen=True, slots=True)
class WalletNotEmpty:
    """The owner's wallet has credits, holds or debts that the request does not say what to do with."""

    code: ClassVar = OutcomeCode.WALLET_NOT_EMPTY
    asset: Asset
    open_holds: int


@dataclass(frozen=True, slots=True)
class InvalidExpiry:
    """The end that the credits shall have cannot be."""

    code: ClassVar = OutcomeCode.INVALID_EXPIRY
    asset: Asset
    fault: InvalidExpiryReason


@dataclass(frozen=True, slots=True)
class LimitExceeded:
    """More would move than a limit lets, in its window: which limit, in which version, and on what it was judged.

    `used` is what had moved in the window that ended at a time, after so many entries of the account, with what open
    holds held of it: `held` is that, hold by hold, as `amount@end` in minor units and microseconds of Unix time.
    """

    code: ClassVar = OutcomeCode.LIMIT_EXCEEDED
    asset: Asset
    rule_shard: int
    rule_wallet_id: int
    rule_step: int
    used_minor: int
    used_count: int
    held: str
    amount_minor: int
    number: int
    at_us: int
    account_id: int
    seq: int
    others: str = ""
    """What else was exceeded, as `shard:wallet:step:used:count:held`, with the holds of each joined by a plus sign."""

    def every(self) -> "list[LimitExceeded]":
        """Return it for each limit that was exceeded, the one that is told first."""
        found = [self]
        for each in self.others.split():
            *figures, held = each.split(":")
            shard, wallet_id, step, used_minor, used_count = map(int, figures)
            other = replace(self, rule_shard=shard, rule_wallet_id=wallet_id, rule_step=step, used_minor=used_minor)
            found.append(replace(other, used_count=used_count, held=held.replace("+", " "), others=""))
        return found


Facts: TypeAlias = (
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

_FACTS: Final[Mapping[OutcomeCode, type[Facts]]] = {kind.code: kind for kind in get_args(Facts)}


def details_of(facts: Facts) -> dict[str, int | str]:
    """Return what is kept under the key: plain values by name; of the asset its id."""
    values = {each.name: getattr(facts, each.name) for each in fields(facts)}
    asset = values.pop("asset")
    return {**{name: _plain(value) for name, value in values.items()}, "asset_id": asset.id}


def _plain(value: int | str | UUID | Enum) -> int | str:
    if isinstance(value, Enum):
        plain: int | str = value.value
        return plain
    if isinstance(value, int) and value > INT64_MAX:
        # What moved in all has no bound, but numbers in JSON have.
        return str(value)
    return str(value) if isinstance(value, UUID) else value


def facts_of(code: OutcomeCode, details: Mapping[str, Any], asset: Asset) -> Facts:
    """Return the facts that were kept; `asset` is the one whose id was kept."""
    kind: Callable[..., Facts] = _FACTS[code]
    hints: dict[str, Any] = {each.name: each.type for each in fields(_FACTS[code])}
    given = {name: hint(details[name]) for name, hint in hints.items() if name in details}
    return kind(**given, asset=asset)
