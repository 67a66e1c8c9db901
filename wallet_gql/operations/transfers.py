"""Transfers between owners: one key, the sender's; two transactions, one commit."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TypeAlias
from uuid import UUID

from uuid_utils.compat import uuid7

from wallet_gql.domain.access import AskedBy
from wallet_gql.domain.lots import CreditSource
from wallet_gql.domain.postings import (
    AmountInvalid,
    AssetMissing,
    KeyReused,
    Posted,
    ReceiverIsSender,
    Refused,
    TransferRequest,
    WalletMissing,
)
from wallet_gql.domain.shards import shard_of
from wallet_gql.domain.text import check_metadata, check_owner_id, check_text
from wallet_gql.domain.wallets import OwnerName
from wallet_gql.operations.amounts import find_amount
from wallet_gql.operations.opening import Ledger

TransferOutcome: TypeAlias = (
    Posted | Refused | WalletMissing | KeyReused | AssetMissing | AmountInvalid | ReceiverIsSender
)


@dataclass(frozen=True, slots=True)
class TransferInput:
    """What a caller asks for; `amount` is in the asset's own unit, as it was written."""

    from_owner_id: str
    to_owner_id: str
    asset_code: str
    amount: Decimal
    idempotency_key: UUID
    description: str | None = None
    reference: str | None = None
    metadata: Mapping[str, object] = field(default_factory=dict)
    deadline: float | None = None
    """A time of the event loop's clock; None: as long as a request may take, from now."""
    asked_by: AskedBy | None = None
    transaction_id: UUID | None = None
    """What names what is posted; None for an id that is made when it is queued."""
    sources: CreditSource | None = None
    """The only source that it takes from; None where it takes from all."""


async def transfer(ledger: Ledger, request: TransferInput) -> TransferOutcome:
    """Move credits from one owner to another. Raises `BadUserInput` for malformed texts."""
    sender = check_owner_id(request.from_owner_id, "fromOwnerId")
    receiver = check_owner_id(request.to_owner_id, "toOwnerId")
    description = check_text(request.description, "description")
    reference = check_text(request.reference, "reference")
    metadata = check_metadata(request.metadata)
    found = await find_amount(ledger, request.asset_code, request.amount)
    if not isinstance(found, tuple):
        return found
    if sender == receiver:
        return ReceiverIsSender(sender)
    outcome = await ledger.post(
        TransferRequest(
            OwnerName(shard_of(sender, ledger.shard_count), sender),
            OwnerName(shard_of(receiver, ledger.shard_count), receiver),
            *found,
            request.idempotency_key,
            description,
            reference,
            metadata,
            request.asked_by,
            request.transaction_id or uuid7(),
            sources=request.sources,
        ),
        request.deadline,
    )
    assert isinstance(outcome, (Posted, Refused, WalletMissing, KeyReused))
    return outcome
