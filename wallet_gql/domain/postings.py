"""Postings: what is asked for, what becomes of it, and what a reader sees of it.

Amounts are integers in minor units and say so; an entry's amount is signed, a posting's is positive.
"""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import Enum, IntEnum
from hashlib import sha256
from typing import Final, NamedTuple, Protocol, TypeAlias
from uuid import UUID, uuid5

from uuid_utils.compat import uuid7

from wallet_gql.domain.access import AskedBy
from wallet_gql.domain.assets import Asset
from wallet_gql.domain.holds import TTL_SECONDS_DEFAULT, Hold
from wallet_gql.domain.lots import PRIORITY_DEFAULT, CreditSource, LotTerms
from wallet_gql.domain.money import AmountFault
from wallet_gql.domain.refusals import Facts, OutcomeCode
from wallet_gql.domain.text import Metadata
from wallet_gql.domain.wallets import Balance, OwnerName, WalletKind, WalletState, WalletStatus

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class TransactionType(IntEnum):
    """What happened. The numbers are stored."""

    TOP_UP = 1
    BONUS = 2
    SPEND = 3
    TRANSFER_OUT = 4
    TRANSFER_IN = 5
    CAPTURE = 6
    REFUND = 7
    CLAWBACK = 8
    REPAYMENT = 9
    FORFEIT = 10
    EXPIRY = 11

    @property
    def sign(self) -> int:
        """+1 where the owner's balance rises, -1 where it falls."""
        return -1 if self in _LOWERING else 1


_LOWERING: Final = {
    TransactionType.SPEND,
    TransactionType.TRANSFER_OUT,
    TransactionType.CAPTURE,
    TransactionType.CLAWBACK,
    TransactionType.REPAYMENT,
    TransactionType.FORFEIT,
    TransactionType.EXPIRY,
}

REFUNDABLE: Final = frozenset({TransactionType.SPEND, TransactionType.CAPTURE})
"""What an owner paid the treasury: it can be given back."""

CLAWABLE: Final = frozenset({TransactionType.TOP_UP, TransactionType.BONUS, TransactionType.TRANSFER_IN})
"""What an owner was credited: it can be taken back."""

POSTING_TYPES: Final = (TransactionType.TOP_UP, TransactionType.BONUS, TransactionType.SPEND)
"""What moves credits between an owner and the treasury."""


class RequestKind(IntEnum):
    """What was asked for: the first part of a fingerprint. Kinds of their own begin past the transaction types."""

    TOP_UP = TransactionType.TOP_UP
    BONUS = TransactionType.BONUS
    SPEND = TransactionType.SPEND
    TRANSFER = 101
    PLACE_HOLD = 102
    CAPTURE_HOLD = 103
    VOID_HOLD = 104
    ADJUST_HOLD = 105
    REFUND = 106
    CLAWBACK = 107
    FREEZE = 108
    UNFREEZE = 109
    CLOSE = 110
    REOPEN = 111
    SET_LIMIT = 112
    REMOVE_LIMIT = 113


class Receipt(NamedTuple):
    """What a store or a payment provider gave for a payment, and the shard in which it is looked up."""

    shard: int
    text: str


class Issuer(NamedTuple):
    """Whose issuance in a day is bounded, the shard in which it is counted, and the most that it is."""

    shard: int
    name: str
    most_minor: int


class TransactionName(NamedTuple):
    """What names a transaction."""

    shard: int
    id: UUID


class TransactionView(NamedTuple):
    """One ledger transaction as one wallet sees it in one asset; `amount_minor` is signed."""

    shard: int
    account_id: int
    seq: int
    wallet_id: int
    asset: Asset
    id: UUID
    type: TransactionType
    amount_minor: int
    balance_after_minor: int
    executed_at: datetime
    description: str | None
    reference: str | None
    idempotency_key: UUID | None
    counterpart: TransactionName | None = None
    """Of a transfer's half: the other one."""

    @property
    def transfer_id(self) -> UUID | None:
        """What both halves of a transfer have in common: the id of the sender's."""
        if self.counterpart is None:
            return None
        return self.counterpart.id if self.type is TransactionType.TRANSFER_IN else self.id

    @property
    def name(self) -> TransactionName:
        """What names it."""
        return TransactionName(self.shard, self.id)


@dataclass(frozen=True, slots=True)
class Entry:
    """One leg of a transaction; `amount_minor` is signed."""

    kind: WalletKind
    amount_minor: int


def fingerprint(
    kind: int,
    asset_code: str,
    amount_minor: int,
    description: str | None,
    reference: str | None,
    *more: tuple[str, str],
) -> bytes:
    """Condense what a client asked for: 16 bytes that differ where two requests under one key differ.

    SHA-256 over an unambiguous text (lengths before contents), which SQL can compute too. Nothing in it is derived
    from the wallet's state: the same request gives the same bytes for ever. `more` are fields that came after 0.1.0, in
    the order of their names and only where they differ from their defaults, so what came before keeps its bytes.
    """
    texts = "".join(["-" if text is None else f"{len(text)}:{text}" for text in (description, reference)])
    added = "".join([f" {name} {len(text)}:{text}" for name, text in more]) if more else ""
    return sha256(f"{kind:d} {asset_code} {amount_minor} {texts}{added}".encode()).digest()[:16]


def metadata_text(metadata: Metadata) -> tuple[tuple[str, str], ...]:
    """Return metadata as a field of a fingerprint; none where there is none."""
    if not metadata:
        return ()
    return (("metadata", "".join(f"{len(key)}:{key}{len(value)}:{value}" for key, value in metadata)),)


DEFAULT_TERMS: Final = LotTerms(CreditSource.BONUS, PRIORITY_DEFAULT, None, None)
"""What a bonus is that says nothing of the lot it shall be of."""


def terms_text(terms: LotTerms, metadata: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
    """Return what a bonus says of its lot as fields of a fingerprint, around those of its metadata."""
    campaign = () if terms.campaign is None else (("campaign", terms.campaign),)
    ends = () if terms.expires_at is None else (("expiresAt", str(unix_us(terms.expires_at))),)
    priority = () if terms.priority == PRIORITY_DEFAULT else (("priority", str(terms.priority)),)
    return (*campaign, *ends, *metadata, *priority)


def sources_text(sources: CreditSource | None) -> tuple[tuple[str, str], ...]:
    """Return the only source that a request takes from as a field of a fingerprint; none where it takes from all."""
    return () if sources is None else (("sources", sources.name),)


@dataclass(frozen=True, slots=True)
class PostingRequest:
    """A posting that is well-formed: its type is one of `POSTING_TYPES`, its asset exists and its amount fits.

    `transaction_id` is made when the request is queued, not when it is posted: a batch that is replayed after an
    unknown COMMIT recognises its own work by it.
    """

    shard: int
    owner_id: str
    type: TransactionType
    asset: Asset
    amount_minor: int
    idempotency_key: UUID
    description: str | None = None
    reference: str | None = None
    metadata: Metadata = ()
    receipt: Receipt | None = None
    issuer: Issuer | None = None
    asked_by: AskedBy | None = None
    transaction_id: UUID = field(default_factory=uuid7)
    terms: LotTerms = DEFAULT_TERMS
    """Of a bonus: of which lot it shall be."""
    sources: CreditSource | None = None
    """Of a spend: the only source that it takes from; None where it takes from all."""

    @property
    def owners(self) -> tuple[OwnerName, ...]:
        """Whose wallets it concerns, the one whose key it is first."""
        return (OwnerName(self.shard, self.owner_id),)

    @property
    def fingerprint(self) -> bytes:
        """The bytes that tell another request under the same key."""
        more = metadata_text(self.metadata)
        if self.terms is not DEFAULT_TERMS:
            more = terms_text(self.terms, more)
        if self.receipt is not None:
            more += (("receipt", self.receipt.text),)
        if self.sources is not None:
            more += sources_text(self.sources)
        return fingerprint(self.type, self.asset.code, self.amount_minor, self.description, self.reference, *more)


class _HasOwners(Protocol):
    @property
    def owners(self) -> tuple[OwnerName, ...]: ...


class _OfOwners:
    """A request whose key belongs to the first of its `owners`."""

    __slots__ = ()

    @property
    def shard(self: _HasOwners) -> int:
        """Where its key is."""
        return self.owners[0].shard

    @property
    def owner_id(self: _HasOwners) -> str:
        """Whose key it is."""
        return self.owners[0].owner_id


@dataclass(frozen=True, slots=True)
class TransferRequest(_OfOwners):
    """A transfer between two owners that is well-formed; `transaction_id` is of the sender's half."""

    sender: OwnerName
    receiver: OwnerName
    asset: Asset
    amount_minor: int
    idempotency_key: UUID
    description: str | None = None
    reference: str | None = None
    metadata: Metadata = ()
    asked_by: AskedBy | None = None
    transaction_id: UUID = field(default_factory=uuid7)
    receiving_id: UUID = field(default_factory=uuid7)
    sources: CreditSource | None = None

    @property
    def owners(self) -> tuple[OwnerName, ...]:
        """Whose wallets it concerns, the one whose key it is first."""
        return (self.sender, self.receiver)

    @property
    def fingerprint(self) -> bytes:
        """The bytes that tell another request under the same key."""
        return fingerprint(
            RequestKind.TRANSFER,
            self.asset.code,
            self.amount_minor,
            self.description,
            self.reference,
            *metadata_text(self.metadata),
            *sources_text(self.sources),
            ("to", self.receiver.owner_id),
        )


@dataclass(frozen=True, slots=True)
class PlaceHoldRequest(_OfOwners):
    """A hold to place; `transaction_id` is what the hold will be named by."""

    owner: OwnerName
    receiver: OwnerName | None
    asset: Asset
    amount_minor: int
    ttl_seconds: int
    idempotency_key: UUID
    description: str | None = None
    reference: str | None = None
    metadata: Metadata = ()
    asked_by: AskedBy | None = None
    transaction_id: UUID = field(default_factory=uuid7)
    sources: CreditSource | None = None

    @property
    def owners(self) -> tuple[OwnerName, ...]:
        """Whose wallets it concerns, the one whose key it is first."""
        return (self.owner,) if self.receiver is None else (self.owner, self.receiver)

    @property
    def fingerprint(self) -> bytes:
        """The bytes that tell another request under the same key."""
        to = () if self.receiver is None else (("to", self.receiver.owner_id),)
        ttl = () if self.ttl_seconds == TTL_SECONDS_DEFAULT else (("ttlSeconds", str(self.ttl_seconds)),)
        return fingerprint(
            RequestKind.PLACE_HOLD,
            self.asset.code,
            self.amount_minor,
            self.description,
            self.reference,
            *metadata_text(self.metadata),
            *sources_text(self.sources),
            *to,
            *ttl,
        )


@dataclass(frozen=True, slots=True)
class HoldRequest(_OfOwners):
    """A hold to capture, void or adjust; `amount_minor` is None where the request names none.

    Of a hold as it was found before the request was queued only what never changes is used: whose it is.
    """

    kind: RequestKind
    hold: Hold
    amount_minor: int | None
    idempotency_key: UUID
    keep_remainder: bool = False
    ttl_seconds: int | None = None
    description: str | None = None
    reference: str | None = None
    metadata: Metadata = ()
    asked_by: AskedBy | None = None
    transaction_id: UUID = field(default_factory=uuid7)
    receiving_id: UUID = field(default_factory=uuid7)

    @property
    def asset(self) -> Asset:
        """What is held."""
        return self.hold.asset

    @property
    def owners(self) -> tuple[OwnerName, ...]:
        """Whose wallets it concerns, the one whose key it is first."""
        owner = OwnerName(self.hold.shard, self.hold.wallet.owner_id)
        receiver = self.hold.receiver if self.kind is RequestKind.CAPTURE_HOLD else None
        return (owner,) if receiver is None else (owner, receiver)

    @property
    def fingerprint(self) -> bytes:
        """The bytes that tell another request under the same key; an amount that is not named is 0, which none is."""
        keep = (("keepRemainder", "true"),) if self.keep_remainder else ()
        ttl = () if self.ttl_seconds is None else (("ttlSeconds", str(self.ttl_seconds)),)
        return fingerprint(
            self.kind,
            self.asset.code,
            self.amount_minor or 0,
            self.description,
            self.reference,
            ("hold", str(self.hold.id)),
            *keep,
            *metadata_text(self.metadata),
            *ttl,
        )


class Shortfall(Enum):
    """What a clawback does where less is available than it is to take back. The names are in fingerprints."""

    REFUSE = "REFUSE"
    LOT_ONLY = "LOT_ONLY"
    """Nothing is taken but what is left of what was credited: of its lot, or of the pool."""
    AVAILABLE = "AVAILABLE"
    DEBT = "DEBT"


@dataclass(frozen=True, slots=True)
class ReverseRequest(_OfOwners):
    """A transaction to give back (refund) or to take back (clawback); `amount_minor` is None for all that is left.

    `sender` is who gets back what was a transfer.
    """

    kind: RequestKind
    original: TransactionView
    owner: OwnerName
    sender: OwnerName | None
    amount_minor: int | None
    idempotency_key: UUID
    on_shortfall: Shortfall = Shortfall.REFUSE
    description: str | None = None
    reference: str | None = None
    metadata: Metadata = ()
    asked_by: AskedBy | None = None
    transaction_id: UUID = field(default_factory=uuid7)
    receiving_id: UUID = field(default_factory=uuid7)
    lapsed_until: datetime | None = None
    """Of a refund: the end of what goes back to lots that have lapsed; None where it lapses again at once."""

    @property
    def asset(self) -> Asset:
        """What was moved."""
        return self.original.asset

    @property
    def owners(self) -> tuple[OwnerName, ...]:
        """Whose wallets it concerns, the one whose key it is first."""
        return (self.owner,) if self.sender is None else (self.owner, self.sender)

    @property
    def fingerprint(self) -> bytes:
        """The bytes that tell another request under the same key; an amount that is not named is 0, which none is."""
        is_default = self.on_shortfall is Shortfall.REFUSE
        shortfall = () if is_default else (("onShortfall", self.on_shortfall.value),)
        until = () if self.lapsed_until is None else (("lapsedUntil", str(unix_us(self.lapsed_until))),)
        return fingerprint(
            self.kind,
            self.asset.code,
            self.amount_minor or 0,
            self.description,
            self.reference,
            *until,
            *metadata_text(self.metadata),
            *shortfall,
            ("original", str(self.original.id)),
        )


class Remainder(Enum):
    """What becomes of what a closed wallet still has. The names are in fingerprints."""

    REFUSE = "REFUSE"
    FORFEIT = "FORFEIT"
    TRANSFER = "TRANSFER"


@dataclass(frozen=True, slots=True)
class StateRequest(_OfOwners):
    """A wallet to freeze, unfreeze, close or reopen.

    Of a freeze `status` is what it shall be, until when; of a closing `assets` are all that it may have, `receiver` is
    who gets what remains. It has no asset of its own: `asset` is any, for its refusals.
    """

    kind: RequestKind
    owner: OwnerName
    asset: Asset
    idempotency_key: UUID
    status: WalletStatus = WalletStatus.OPEN
    until: datetime | None = None
    remainder: Remainder = Remainder.REFUSE
    receiver: OwnerName | None = None
    voids_holds: bool = False
    assets: tuple[Asset, ...] = ()
    description: str | None = None
    reference: None = None
    metadata: Metadata = ()
    asked_by: AskedBy | None = None
    transaction_id: UUID = field(default_factory=uuid7)

    @property
    def amount_minor(self) -> int:
        """It has no amount."""
        return 0

    @property
    def owners(self) -> tuple[OwnerName, ...]:
        """Whose wallets it concerns, the one whose key it is first."""
        return (self.owner,) if self.receiver is None else (self.owner, self.receiver)

    @property
    def fingerprint(self) -> bytes:
        """The bytes that tell another request under the same key."""
        is_all = self.status is WalletStatus.FROZEN_ALL
        remainder = () if self.remainder is Remainder.REFUSE else (("remainder", self.remainder.value),)
        to = () if self.receiver is None else (("to", self.receiver.owner_id),)
        until = () if self.until is None else (("until", str(unix_us(self.until))),)
        return fingerprint(
            self.kind,
            "",
            0,
            self.description,
            None,
            *remainder,
            *((("scope", "ALL"),) if is_all else ()),
            *to,
            *until,
            *((("voidHolds", "true"),) if self.voids_holds else ()),
        )


def repayment_id(cause: UUID) -> UUID:
    """Return the id of the transaction that repays what an owner owes, right after what made that possible."""
    return uuid5(cause, TransactionType.REPAYMENT.name)


def unix_us(instant: datetime) -> int:
    """Return microseconds of Unix time, exactly."""
    return (instant - _EPOCH) // timedelta(microseconds=1)


def from_unix_us(instant_us: int) -> datetime:
    """Return the instant of so many microseconds of Unix time."""
    return _EPOCH + timedelta(microseconds=instant_us)


Request: TypeAlias = PostingRequest | TransferRequest | PlaceHoldRequest | HoldRequest | ReverseRequest | StateRequest
"""What is decided under locks, once for its key. All kinds have a key, the owners concerned, and a fingerprint."""


@dataclass(frozen=True, slots=True)
class Posted:
    """The posting is in the books; on replay `transaction` is the first one and `balance` is what it is now."""

    transaction: TransactionView
    balance: Balance
    already_processed: bool


@dataclass(frozen=True, slots=True)
class Held:
    """A hold was placed, captured, voided or adjusted: `hold` and `balance` are as they are now.

    Of a capture `transaction` is what it posted.
    """

    hold: Hold
    balance: Balance
    already_processed: bool
    transaction: TransactionView | None = None


@dataclass(frozen=True, slots=True)
class Changed:
    """A wallet's state is what was asked for; `state` and `balance` are as they are now.

    Of a closing `transactions` are what it posted.
    """

    state: WalletState | None
    balance: Balance
    already_processed: bool
    transactions: tuple[TransactionName, ...] = ()


@dataclass(frozen=True, slots=True)
class Refused:
    """State did not allow the request; kept under the key. `balance` is what it is now."""

    facts: Facts
    balance: Balance
    already_processed: bool


@dataclass(frozen=True, slots=True)
class KeyOutcome:
    """What a key was answered with; `code` is None where nothing is decided.

    A refusal that 0.1.0 kept has no `refused`: its asset and amount were not kept with it.
    """

    code: OutcomeCode | None
    transaction: TransactionView | None = None
    refused: Refused | None = None
    hold: Hold | None = None


@dataclass(frozen=True, slots=True)
class WalletMissing:
    """No wallet has this owner id; not kept."""

    owner_id: str


@dataclass(frozen=True, slots=True)
class KeyReused:
    """The key was used for another request of the same wallet; not kept, nothing moved."""

    idempotency_key: UUID


@dataclass(frozen=True, slots=True)
class AssetMissing:
    """No asset has this code; not kept."""

    code: str


@dataclass(frozen=True, slots=True)
class AmountInvalid:
    """The amount parses but cannot be posted in this asset; not kept.

    `asset` is None where that it is not positive was seen before the asset was known.
    """

    fault: AmountFault
    asset: Asset | None


@dataclass(frozen=True, slots=True)
class ReceiverIsSender:
    """A transfer from an owner to the same owner; not kept."""

    owner_id: str


@dataclass(frozen=True, slots=True)
class HoldMissing:
    """There is no such hold; not kept."""

    hold_id: str


@dataclass(frozen=True, slots=True)
class TransactionMissing:
    """There is no such transaction; not kept."""

    transaction_id: str


@dataclass(frozen=True, slots=True)
class Nothing:
    """There was nothing to take back; kept under the key: it was forgone, or is owed now."""

    forgone_minor: int
    balance: Balance
    already_processed: bool
    indebted_minor: int = 0


Outcome: TypeAlias = Posted | Held | Changed | Nothing | Refused | WalletMissing | HoldMissing | KeyReused
"""What the ledger answers to a request."""
