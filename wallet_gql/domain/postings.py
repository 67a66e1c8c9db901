"""Postings: what is asked for, what becomes of it, and what a reader sees of it.

Amounts are integers in minor units and say so; an entry's amount is signed, a posting's is positive.
"""

from dataclasses import dataclass, field
from datetime import datetime
from enum import IntEnum
from hashlib import sha256
from typing import TypeAlias
from uuid import UUID

from uuid_utils.compat import uuid7

from wallet_gql.domain.assets import Asset
from wallet_gql.domain.money import AmountFault
from wallet_gql.domain.wallets import Balance, WalletKind


class TransactionType(IntEnum):
    """What happened. The numbers are stored."""

    TOP_UP = 1
    BONUS = 2
    SPEND = 3

    @property
    def sign(self) -> int:
        """+1 where the owner's balance rises, -1 where it falls."""
        return -1 if self is TransactionType.SPEND else 1


class OutcomeCode(IntEnum):
    """How a request that reached its wallet ended. The numbers are stored under the idempotency key."""

    POSTED = 1
    BALANCE_LIMIT_EXCEEDED = 2
    INSUFFICIENT_BALANCE = 3


@dataclass(frozen=True, slots=True)
class TransactionView:
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


@dataclass(frozen=True, slots=True)
class Entry:
    """One leg of a transaction; `amount_minor` is signed."""

    kind: WalletKind
    amount_minor: int


def fingerprint(
    type_: TransactionType, asset_code: str, amount_minor: int, description: str | None, reference: str | None
) -> bytes:
    """Condense what a client asked for: 16 bytes that differ where two requests under one key differ.

    SHA-256 over an unambiguous text (lengths before contents), which SQL can compute too. Nothing in it is derived
    from the wallet's state: the same request gives the same bytes for ever.
    """
    texts = "".join("-" if text is None else f"{len(text)}:{text}" for text in (description, reference))
    return sha256(f"{type_:d} {asset_code} {amount_minor} {texts}".encode()).digest()[:16]


@dataclass(frozen=True, slots=True)
class PostingRequest:
    """A posting that is well-formed: its asset exists and its amount fits.

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
    transaction_id: UUID = field(default_factory=uuid7)

    @property
    def fingerprint(self) -> bytes:
        """The bytes that tell another request under the same key."""
        return fingerprint(self.type, self.asset.code, self.amount_minor, self.description, self.reference)


@dataclass(frozen=True, slots=True)
class Posted:
    """The posting is in the books; on replay `transaction` is the first one and `balance` is what it is now."""

    transaction: TransactionView
    balance: Balance
    already_processed: bool


@dataclass(frozen=True, slots=True)
class Refused:
    """The wallet's state did not allow the posting; kept under the key. `balance_before_minor`: when it was refused."""

    code: OutcomeCode
    balance_before_minor: int
    amount_minor: int
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
    """The amount parses but cannot be posted in this asset; not kept."""

    fault: AmountFault
    asset: Asset


Outcome: TypeAlias = Posted | Refused | WalletMissing | KeyReused
"""What the ledger answers to a posting request."""
