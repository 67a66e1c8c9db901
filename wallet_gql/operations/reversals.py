"""Refunds give back what an owner paid; clawbacks take back what one was credited. Never more than was moved.

The original is looked for before the request is queued, for it never changes; how much of it was reversed is read under
the locks. The key of a request belongs to the owner whose transaction it is.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import TypeAlias
from uuid import UUID

from uuid_utils.compat import uuid7

from wallet_gql.domain.access import ANYONE, AskedBy, Caller
from wallet_gql.domain.money import AmountFault, to_minor
from wallet_gql.domain.postings import (
    AmountInvalid,
    KeyReused,
    Nothing,
    Posted,
    Refused,
    RequestKind,
    ReverseRequest,
    Shortfall,
    TransactionMissing,
    TransactionView,
    WalletMissing,
)
from wallet_gql.domain.shards import shard_of
from wallet_gql.domain.text import check_metadata, check_reason, check_text
from wallet_gql.domain.wallets import OwnerName
from wallet_gql.ledger.reads import EntryName
from wallet_gql.operations.lots import check_time
from wallet_gql.operations.opening import Ledger

ReverseOutcome: TypeAlias = Posted | Nothing | Refused | WalletMissing | KeyReused | TransactionMissing | AmountInvalid


@dataclass(frozen=True, slots=True)
class ReverseInput:
    """What a caller asks for; `name` is the original as its owner's account sees it, `shown` the id that was sent."""

    name: EntryName
    shown: str
    idempotency_key: UUID
    amount: Decimal | None = None
    on_shortfall: Shortfall = Shortfall.REFUSE
    description: str | None = None
    reference: str | None = None
    metadata: Mapping[str, object] = field(default_factory=dict)
    deadline: float | None = None
    caller: Caller = ANYONE
    """Who asks: a transaction of an owner whom it does not reach is as if it did not exist."""
    asked_by: AskedBy | None = None
    transaction_id: UUID | None = None
    """What names what is posted; None for an id that is made when it is queued."""
    lapsed_until: datetime | None = None
    """Of refunds only: the end of what goes back to lots that have lapsed; None where it lapses again at once."""


async def refund(ledger: Ledger, request: ReverseInput) -> ReverseOutcome:
    """Give back what an owner paid, or a part of it. Raises `BadUserInput`."""
    return await _reverse(ledger, RequestKind.REFUND, request)


async def clawback(ledger: Ledger, request: ReverseInput) -> ReverseOutcome:
    """Take back what an owner was credited, or a part of it. Raises `BadUserInput`."""
    return await _reverse(ledger, RequestKind.CLAWBACK, request)


async def _reverse(ledger: Ledger, kind: RequestKind, request: ReverseInput) -> ReverseOutcome:
    check_description = check_reason if kind is RequestKind.CLAWBACK else check_text
    description = check_description(request.description, "description")
    reference = check_text(request.reference, "reference")
    metadata = check_metadata(request.metadata)
    check_time(request.lapsed_until, "lapsedUntil")
    if request.amount is not None and request.amount <= 0:
        return AmountInvalid(AmountFault.NOT_POSITIVE, None)
    original = await ledger.reads.transactions.load(request.name)
    # Who may see some wallets only learns nothing by what is read: the same is where nothing was found.
    wallet_id = 0 if original is None else original.wallet_id
    wallet = None
    if original is not None or not request.caller.reaches_all:
        wallet = await ledger.reads.wallets_by_id.load((request.name.shard, wallet_id))
    if original is None or wallet is None or not request.caller.reaches(wallet.owner_id):
        return TransactionMissing(request.shown)
    request.caller.check_movement(original.asset.code, request.amount)
    amount_minor = None if request.amount is None else to_minor(request.amount, original.asset.scale)
    if isinstance(amount_minor, AmountFault):
        return AmountInvalid(amount_minor, original.asset)
    outcome = await ledger.post(
        ReverseRequest(
            kind,
            original,
            OwnerName(wallet.shard, wallet.owner_id),
            await _sender(ledger, original) if kind is RequestKind.CLAWBACK else None,
            amount_minor,
            request.idempotency_key,
            request.on_shortfall,
            description,
            reference,
            metadata,
            request.asked_by,
            request.transaction_id or uuid7(),
            lapsed_until=request.lapsed_until,
        ),
        request.deadline,
    )
    assert isinstance(outcome, (Posted, Nothing, Refused, WalletMissing, KeyReused))
    return outcome


async def _sender(ledger: Ledger, original: TransactionView) -> OwnerName | None:
    """Return who gets back what an owner received; None where it came from the platform."""
    if original.counterpart is None or original.amount_minor < 0:
        return None
    owner_id = await ledger.reads.owners_of_transactions.load(original.counterpart)
    assert owner_id is not None
    return OwnerName(shard_of(owner_id, ledger.shard_count), owner_id)
