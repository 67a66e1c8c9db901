"""Freezes, unfreezes, closes and reopens wallets. Each is decided once for its key."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, TypeAlias
from uuid import UUID

from uuid_utils.compat import uuid7

from wallet_gql.domain.access import AskedBy
from wallet_gql.domain.assets import Asset
from wallet_gql.domain.errors import BadUserInput
from wallet_gql.domain.postings import (
    Changed,
    KeyReused,
    ReceiverIsSender,
    Refused,
    Remainder,
    RequestKind,
    StateRequest,
    WalletMissing,
)
from wallet_gql.domain.shards import shard_of
from wallet_gql.domain.text import check_owner_id, check_reason, check_text
from wallet_gql.domain.wallets import OwnerName, WalletStatus
from wallet_gql.operations.assets import list_assets
from wallet_gql.operations.opening import Ledger

StateOutcome: TypeAlias = Changed | Refused | WalletMissing | KeyReused | ReceiverIsSender

_NO_ASSET: Final = Asset(0, "", "", 0)
"""What a refusal is told in where the platform has no assets yet."""

_UNTIL_MIN: Final = datetime(1970, 1, 1, tzinfo=UTC)
_UNTIL_MAX: Final = datetime(3000, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class StateInput:
    """What a caller asks for; `deadline` is a time of the event loop's clock."""

    owner_id: str
    idempotency_key: UUID
    note: str | None = None
    deadline: float | None = None
    asked_by: AskedBy | None = None
    event_id: UUID | None = None
    """What names the change; None for an id that is made when it is queued."""


async def freeze(ledger: Ledger, request: StateInput, status: WalletStatus, until: datetime | None) -> StateOutcome:
    """Let nothing leave a wallet, or nothing move at all, for good or until a time. Raises `BadUserInput`."""
    check_reason(request.note, "note")
    if until is not None and until.tzinfo is None:
        raise BadUserInput("until", "has no time zone", 'send an offset or "Z" with it')
    if until is not None and until < _UNTIL_MIN:
        raise BadUserInput("until", "is before the year 1970", "send when the freeze is to end")
    if until is not None and until > _UNTIL_MAX:
        raise BadUserInput("until", "is after the year 2999", "leave it out for a freeze without an end")
    return await _change(ledger, RequestKind.FREEZE, request, status=status, until=until)


async def unfreeze(ledger: Ledger, request: StateInput) -> StateOutcome:
    """Let a wallet's credits move again. Raises `BadUserInput`."""
    return await _change(ledger, RequestKind.UNFREEZE, request)


async def reopen(ledger: Ledger, request: StateInput) -> StateOutcome:
    """Open a closed wallet again; it comes back empty. Raises `BadUserInput`."""
    return await _change(ledger, RequestKind.REOPEN, request)


async def close(
    ledger: Ledger, request: StateInput, remainder: Remainder, to_owner_id: str | None, *, voids_holds: bool
) -> StateOutcome:
    """Close a wallet, which must be empty, or say what becomes of what is left. Raises `BadUserInput`."""
    check_reason(request.note, "note")
    receiver = None
    if remainder is Remainder.TRANSFER:
        if to_owner_id is None:
            raise BadUserInput("toOwnerId", "is missing", "name who gets the remainder, or choose another one")
        to_owner_id = check_owner_id(to_owner_id, "toOwnerId")
        _check(request)
        if to_owner_id == request.owner_id:
            return ReceiverIsSender(to_owner_id)
        receiver = OwnerName(shard_of(to_owner_id, ledger.shard_count), to_owner_id)
    elif to_owner_id is not None:
        raise BadUserInput("toOwnerId", "is given, but the remainder is not transferred", "leave it out")
    return await _change(
        ledger, RequestKind.CLOSE, request, remainder=remainder, receiver=receiver, voids_holds=voids_holds
    )


async def _change(ledger: Ledger, kind: RequestKind, request: StateInput, **more: object) -> StateOutcome:
    _check(request)
    # Of a closing what another worker added counts: nothing is left behind. A freeze waits for nothing.
    assets = await list_assets(ledger) if kind is RequestKind.CLOSE else list(ledger.assets.values())
    owner = OwnerName(shard_of(request.owner_id, ledger.shard_count), request.owner_id)
    outcome = await ledger.post(
        StateRequest(
            kind,
            owner,
            assets[0] if assets else _NO_ASSET,
            request.idempotency_key,
            assets=tuple(assets) if kind is RequestKind.CLOSE else (),
            description=request.note,
            asked_by=request.asked_by,
            transaction_id=request.event_id or uuid7(),
            **more,  # type: ignore[arg-type] # each kind's own
        ),
        request.deadline,
    )
    assert isinstance(outcome, (Changed, Refused, WalletMissing, KeyReused))
    return outcome


def _check(request: StateInput) -> None:
    check_owner_id(request.owner_id)
    check_text(request.note, "note")
