"""Postings between an owner and the treasury: top-up, bonus, spend. Each is decided once for its key.

Refusals win in the order of the table in docs/api.md.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TypeAlias
from uuid import UUID

from uuid_utils.compat import uuid7

from wallet_gql.domain.access import AskedBy
from wallet_gql.domain.assets import Asset
from wallet_gql.domain.lots import CreditSource, LotTerms
from wallet_gql.domain.money import MINOR_MAX
from wallet_gql.domain.postings import (
    DEFAULT_TERMS,
    AmountInvalid,
    AssetMissing,
    Issuer,
    KeyReused,
    Posted,
    PostingRequest,
    Receipt,
    Refused,
    TransactionType,
    WalletMissing,
)
from wallet_gql.domain.shards import shard_of, shard_of_receipt
from wallet_gql.domain.text import check_metadata, check_owner_id, check_receipt, check_text
from wallet_gql.operations.amounts import find_amount
from wallet_gql.operations.opening import Ledger

PostingOutcome: TypeAlias = Posted | Refused | WalletMissing | KeyReused | AssetMissing | AmountInvalid


@dataclass(frozen=True, slots=True)
class PostingInput:
    """What a caller asks for; `amount` is in the asset's own unit, as it was written."""

    owner_id: str
    asset_code: str
    amount: Decimal
    idempotency_key: UUID
    description: str | None = None
    reference: str | None = None
    metadata: Mapping[str, object] = field(default_factory=dict)
    receipt: str | None = None
    """Of top-ups only: what the store gave; it is credited once, whoever the owner is."""
    deadline: float | None = None
    """A time of the event loop's clock; None: as long as a request may take, from now."""
    asked_by: AskedBy | None = None
    daily_issuance: Decimal | None = None
    """The most of the asset that who asks credits in a day; None for any amount."""
    transaction_id: UUID | None = None
    """What names what is posted; None for an id that is made when it is queued."""
    terms: LotTerms = DEFAULT_TERMS
    """Of bonuses only: of which lot it shall be."""
    sources: CreditSource | None = None
    """Of spends only: the only source that it takes from."""


async def top_up(ledger: Ledger, request: PostingInput) -> PostingOutcome:
    """Credit what a player bought. Raises `BadUserInput` for malformed texts, `Forbidden` past a day's issuance."""
    return await _post(ledger, TransactionType.TOP_UP, request)


async def bonus(ledger: Ledger, request: PostingInput) -> PostingOutcome:
    """Credit what the platform gives. Raises `BadUserInput` for malformed texts, `Forbidden` past a day's issuance."""
    return await _post(ledger, TransactionType.BONUS, request)


async def spend(ledger: Ledger, request: PostingInput) -> PostingOutcome:
    """Debit what a player pays, never below zero. Raises `BadUserInput` for malformed texts."""
    return await _post(ledger, TransactionType.SPEND, request)


async def _post(ledger: Ledger, type_: TransactionType, request: PostingInput) -> PostingOutcome:
    owner_id = check_owner_id(request.owner_id)
    description = check_text(request.description, "description")
    reference = check_text(request.reference, "reference")
    metadata = check_metadata(request.metadata)
    receipt = check_receipt(request.receipt)
    found = await find_amount(ledger, request.asset_code, request.amount)
    if not isinstance(found, tuple):
        return found
    outcome = await ledger.post(
        PostingRequest(
            shard_of(owner_id, ledger.shard_count),
            owner_id,
            type_,
            *found,
            request.idempotency_key,
            description,
            reference,
            metadata,
            None if receipt is None else Receipt(shard_of_receipt(receipt, ledger.shard_count), receipt),
            _issuer(ledger, type_, request, found[0]),
            request.asked_by,
            request.transaction_id or uuid7(),
            terms=request.terms,
            sources=request.sources,
        ),
        request.deadline,
    )
    assert isinstance(outcome, (Posted, Refused, WalletMissing, KeyReused))
    return outcome


def _issuer(ledger: Ledger, type_: TransactionType, request: PostingInput, asset: Asset) -> Issuer | None:
    """Return whose issuance the posting counts against; None where it is not bounded, or issues nothing."""
    if request.daily_issuance is None or type_.sign < 0:
        return None
    assert request.asked_by is not None
    assert request.asked_by.name is not None
    name, most_minor = request.asked_by.name, min(int(request.daily_issuance.scaleb(asset.scale)), MINOR_MAX)
    return Issuer(shard_of_receipt(name, ledger.shard_count), name, most_minor)
