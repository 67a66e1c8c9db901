"""Holds: placing, capturing, voiding and adjusting them. Each request is decided once for its key.

A hold is looked for before its request is queued, or remembered, for whose it is never changes; what it holds is read
under the locks.
The key of a request belongs to the owner whose hold it is.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Final, TypeAlias
from uuid import UUID

from uuid_utils.compat import uuid7

from wallet_gql.domain.access import ANYONE, AskedBy, Caller
from wallet_gql.domain.errors import BadUserInput
from wallet_gql.domain.holds import TTL_SECONDS_DEFAULT, TTL_SECONDS_MAX, Hold, HoldName
from wallet_gql.domain.lots import CreditSource
from wallet_gql.domain.money import AmountFault, to_minor
from wallet_gql.domain.postings import (
    AmountInvalid,
    AssetMissing,
    Held,
    HoldMissing,
    HoldRequest,
    KeyReused,
    PlaceHoldRequest,
    ReceiverIsSender,
    Refused,
    Request,
    RequestKind,
    WalletMissing,
)
from wallet_gql.domain.shards import shard_of
from wallet_gql.domain.text import check_metadata, check_owner_id, check_text
from wallet_gql.domain.wallets import OwnerName
from wallet_gql.operations.amounts import find_amount
from wallet_gql.operations.opening import Ledger

PLACED_HOLDS_MAX: Final = 10_000
"""Holds that a worker remembers, for who placed one soon captures it: that saves looking for it."""

HoldOutcome: TypeAlias = Held | Refused | WalletMissing | KeyReused
PlaceOutcome: TypeAlias = HoldOutcome | AssetMissing | AmountInvalid | ReceiverIsSender
ChangeOutcome: TypeAlias = HoldOutcome | HoldMissing | AmountInvalid


@dataclass(frozen=True, slots=True)
class PlaceHoldInput:
    """What a caller asks for; `amount` is in the asset's own unit, as it was written."""

    owner_id: str
    asset_code: str
    amount: Decimal
    idempotency_key: UUID
    ttl_seconds: int = TTL_SECONDS_DEFAULT
    to_owner_id: str | None = None
    description: str | None = None
    reference: str | None = None
    metadata: Mapping[str, object] = field(default_factory=dict)
    deadline: float | None = None
    """A time of the event loop's clock; None: as long as a request may take, from now."""
    asked_by: AskedBy | None = None
    hold_id: UUID | None = None
    """What names the hold; None for an id that is made when it is queued."""
    sources: CreditSource | None = None
    """The only source that it takes from; None where it takes from all."""


@dataclass(frozen=True, slots=True)
class ChangeHoldInput:
    """What a caller asks for; `name` is None where its id names no hold that there could be, `shown` is that id."""

    name: HoldName | None
    shown: str
    idempotency_key: UUID
    amount: Decimal | None = None
    keep_remainder: bool = False
    ttl_seconds: int | None = None
    description: str | None = None
    reference: str | None = None
    metadata: Mapping[str, object] = field(default_factory=dict)
    deadline: float | None = None
    caller: Caller = ANYONE
    """Who asks: a hold of an owner whom it does not reach is as if it did not exist."""
    asked_by: AskedBy | None = None
    event_id: UUID | None = None
    """What names the change; None for an id that is made when it is queued."""


async def place_hold(ledger: Ledger, request: PlaceHoldInput) -> PlaceOutcome:
    """Promise credits of an owner to a purchase, or to another owner. Raises `BadUserInput`."""
    owner = _owner(ledger, request.owner_id, "ownerId")
    receiver = None if request.to_owner_id is None else _owner(ledger, request.to_owner_id, "toOwnerId")
    _check_ttl(request.ttl_seconds)
    description = check_text(request.description, "description")
    reference = check_text(request.reference, "reference")
    metadata = check_metadata(request.metadata)
    found = await find_amount(ledger, request.asset_code, request.amount)
    if not isinstance(found, tuple):
        return found
    if owner == receiver:
        return ReceiverIsSender(owner.owner_id)
    key, ttl = request.idempotency_key, request.ttl_seconds
    by, hold_id = request.asked_by, request.hold_id or uuid7()
    place = PlaceHoldRequest(
        owner, receiver, *found, ttl, key, description, reference, metadata, by, hold_id, sources=request.sources
    )
    outcome = await _post(ledger, place, request.deadline)
    assert not isinstance(outcome, HoldMissing)
    return outcome


async def capture_hold(ledger: Ledger, request: ChangeHoldInput) -> ChangeOutcome:
    """Take what is held, or a part of it. Raises `BadUserInput`."""
    return await _change(ledger, RequestKind.CAPTURE_HOLD, request)


async def void_hold(ledger: Ledger, request: ChangeHoldInput) -> ChangeOutcome:
    """Release what is held. Raises `BadUserInput`."""
    return await _change(ledger, RequestKind.VOID_HOLD, request)


async def adjust_hold(ledger: Ledger, request: ChangeHoldInput) -> ChangeOutcome:
    """Hold more or less, or for another time. Raises `BadUserInput`."""
    if request.amount is None and request.ttl_seconds is None:
        raise BadUserInput("amount", "and ttlSeconds are missing", "send one of them, or both")
    return await _change(ledger, RequestKind.ADJUST_HOLD, request)


async def find_hold(ledger: Ledger, name: HoldName) -> Hold | None:
    """Return a hold as it is now; None where there is none."""
    return await ledger.reads.holds.load(name)


async def _change(ledger: Ledger, kind: RequestKind, request: ChangeHoldInput) -> ChangeOutcome:
    if request.ttl_seconds is not None:
        _check_ttl(request.ttl_seconds)
    description = check_text(request.description, "description")
    reference = check_text(request.reference, "reference")
    metadata = check_metadata(request.metadata)
    if request.amount is not None and request.amount <= 0:
        return AmountInvalid(AmountFault.NOT_POSITIVE, None)
    hold = None if request.name is None else await _find(ledger, request.name, request.caller)
    if hold is None:
        return HoldMissing(request.shown)
    request.caller.check_asset(hold.asset.code)
    if kind is RequestKind.CAPTURE_HOLD or request.amount is not None:
        request.caller.check_movement(hold.asset.code, request.amount)
    amount_minor = None if request.amount is None else to_minor(request.amount, hold.asset.scale)
    if isinstance(amount_minor, AmountFault):
        return AmountInvalid(amount_minor, hold.asset)
    change = HoldRequest(
        kind,
        hold,
        amount_minor,
        request.idempotency_key,
        request.keep_remainder,
        request.ttl_seconds,
        description,
        reference,
        metadata,
        request.asked_by,
        request.event_id or uuid7(),
    )
    outcome = await _post(ledger, change, request.deadline)
    if isinstance(outcome, HoldMissing):
        ledger.placed_holds.pop(hold.name, None)
        return HoldMissing(request.shown)
    return outcome


async def _find(ledger: Ledger, name: HoldName, caller: Caller) -> Hold | None:
    """Return a hold of the caller's for what never changes of it: whose it is, and what it pays whom.

    Whoever places one soon asks for it. Another's is read as one that does not exist is: the time tells nothing.
    """
    known = ledger.placed_holds.get(name)
    if known is not None and caller.reaches(known.wallet.owner_id):
        return known
    found = await find_hold(ledger, name)
    return None if found is None or not caller.reaches(found.wallet.owner_id) else found


async def _post(ledger: Ledger, request: Request, deadline: float | None) -> HoldOutcome | HoldMissing:
    outcome = await ledger.post(request, deadline)
    assert isinstance(outcome, (Held, Refused, WalletMissing, KeyReused, HoldMissing))
    if isinstance(outcome, Held) and isinstance(request, PlaceHoldRequest):
        if len(ledger.placed_holds) >= PLACED_HOLDS_MAX:
            del ledger.placed_holds[next(iter(ledger.placed_holds))]
        ledger.placed_holds[outcome.hold.name] = outcome.hold
    return outcome


def _owner(ledger: Ledger, owner_id: str, field: str) -> OwnerName:
    return OwnerName(shard_of(check_owner_id(owner_id, field), ledger.shard_count), owner_id)


def _check_ttl(seconds: int) -> None:
    if not 1 <= seconds <= TTL_SECONDS_MAX:
        raise BadUserInput("ttlSeconds", f"is {seconds}", f"send 1 to {TTL_SECONDS_MAX}, which is 31 days")
