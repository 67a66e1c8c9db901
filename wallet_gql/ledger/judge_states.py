"""Judges what becomes of wallets: freezing, closing, opening again. Pure functions, as in `judge`.

What is so already is no fault: it is answered with the wallet as it is.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from typing import TypeVar
from uuid import UUID, uuid5

from wallet_gql.domain.errors import Unavailable
from wallet_gql.domain.holds import HoldStepKind
from wallet_gql.domain.lots import CreditSource
from wallet_gql.domain.postings import (
    Remainder,
    RequestKind,
    StateRequest,
    TransactionName,
    TransactionType,
    WalletMissing,
)
from wallet_gql.domain.refusals import Facts, ReceiverRefused, WalletClosed, WalletNotEmpty
from wallet_gql.domain.wallets import NOTHING_LEAVES, WalletStatus
from wallet_gql.ledger.batch import (
    Batch,
    Decision,
    HoldChange,
    Leg,
    Movement,
    Remains,
    StateChange,
    StateItem,
)
from wallet_gql.ledger.choose_lots import LotChange
from wallet_gql.ledger.heads import Account
from wallet_gql.ledger.judge import (
    judge_clock,
    judge_policy,
    judge_receiver,
    judge_status,
    judge_stripe,
    present_state,
)
from wallet_gql.ledger.judge_holds import closed

Refusal = TypeVar("Refusal", bound=Facts | Unavailable)


def judge_state(batch: Batch, item: StateItem) -> Decision:
    """Freeze, unfreeze, close, reopen."""
    request, state = item.request, present_state(batch, item.owner)
    is_closed = state.status is WalletStatus.CLOSED
    match request.kind:
        case RequestKind.CLOSE:
            return StateChange(None) if is_closed else judge_close(batch, item)
        case RequestKind.REOPEN:
            return _become(batch, item, WalletStatus.OPEN) if is_closed else StateChange(None)
        case RequestKind.FREEZE:
            return WalletClosed(request.asset) if is_closed else _become(batch, item, request.status)
        case _:
            return WalletClosed(request.asset) if is_closed else _become(batch, item, WalletStatus.OPEN)


def judge_close(batch: Batch, item: StateItem) -> Decision:
    """Close: what remains stops it, or goes to the platform or to another owner; so do holds that stay open."""
    request, remains = item.request, item.remains
    if request.receiver is not None and item.receiver is None:
        return WalletMissing(request.receiver.owner_id)
    given = [each for each in remains if each.receiver is not None and _credits(each, batch.now) > 0]
    movements = tuple(movement for each in remains for movement in _dispose(item, each, batch.now))
    moving = (*(each.owner for each in remains), *(each.receiver for each in given if each.receiver is not None))
    return (
        _first(judge_clock(batch, account) for account in moving)
        or (judge_status(batch, item.owner, NOTHING_LEAVES) if request.receiver is not None else None)
        or _first(judge_policy(batch, each.owner.asset, _source(each.owner)) for each in given)
        or _judge_empty(request, remains, batch.now)
        or _first(_judge_given(batch, each) for each in given)
        or _first(judge_stripe(batch, leg) for movement in movements for leg in movement.legs[1:])
        or _become(batch, item, WalletStatus.CLOSED, _voided(remains), movements)
    )


def _source(account: Account) -> CreditSource | None:
    """Return the source that a policy must let through: an owner gives all that there is."""
    return CreditSource.BONUS if account.lots_minor else None


def _judge_given(batch: Batch, remains: Remains) -> ReceiverRefused | None:
    assert remains.receiver is not None
    lasting = (
        lot for lot in remains.owner.lots.values() if lot.remaining_minor and not lot.terms.has_lapsed(batch.now)
    )
    lots = tuple(LotChange(None, lot.terms, lot.remaining_minor) for lot in lasting)
    return judge_receiver(batch, remains.receiver, _credits(remains, batch.now), lots)


def _judge_empty(request: StateRequest, remains: Sequence[Remains], now: datetime) -> WalletNotEmpty | None:
    """Refuse to close a wallet with something that the request does not say what to do with."""
    open_holds = sum(len(each.owner.holds) for each in remains)
    if (open_holds and not request.voids_holds) or any(_is_kept(each, request.remainder, now) for each in remains):
        return WalletNotEmpty(request.asset, open_holds)
    return None


def _is_kept(remains: Remains, remainder: Remainder, now: datetime) -> bool:
    match remainder:
        case Remainder.REFUSE:
            return remains.owner.balance_minor > 0 or remains.owner.debt_minor > 0
        case Remainder.TRANSFER:
            return _credits(remains, now) < 0
        case Remainder.FORFEIT:
            return False


def _credits(remains: Remains, now: datetime) -> int:
    """Return what an account still has when its holds are voided, what lapses then is gone, and debts are repaid."""
    lapsing_minor = sum(lot.held_minor for lot in remains.owner.lots.values() if lot.terms.has_lapsed(now))
    return remains.owner.balance_minor - lapsing_minor - remains.owner.debt_minor


def _dispose(item: StateItem, remains: Remains, now: datetime) -> Iterator[Movement]:
    """Say what is posted of what remains in an asset: it is forfeited or given, and what is owed is written off."""
    account, left_minor = remains.owner, _credits(remains, now)
    credits_minor, debt_minor = max(left_minor, 0), max(-left_minor, 0)
    id_ = uuid5(item.request.transaction_id, account.asset.code)
    if credits_minor and remains.receiver is not None:
        yield from _give(item, remains, id_, credits_minor)
    elif credits_minor:
        legs = (Leg(account, -credits_minor), Leg(remains.treasury, credits_minor))
        yield Movement(TransactionType.FORFEIT, id_, legs)
    if debt_minor:
        assert account.debt is not None
        legs = (Leg(account.debt, debt_minor), Leg(remains.treasury, -debt_minor))
        yield Movement(TransactionType.FORFEIT, id_, legs, wallet=account.wallet)


def _give(item: StateItem, remains: Remains, id_: UUID, amount_minor: int) -> Iterator[Movement]:
    account, receiver, clearing = remains.owner, remains.receiver, remains.receiver_clearing
    assert receiver is not None
    assert clearing is not None
    receiving_id = uuid5(item.request.transaction_id, f"{account.asset.code} received")
    sent, received = TransactionName(account.wallet.shard, id_), TransactionName(receiver.wallet.shard, receiving_id)
    legs = (Leg(account, -amount_minor), Leg(remains.stripe, amount_minor))
    yield Movement(TransactionType.TRANSFER_OUT, id_, legs, received)
    legs = (Leg(receiver, amount_minor), Leg(clearing, -amount_minor))
    yield Movement(TransactionType.TRANSFER_IN, receiving_id, legs, sent)


def _voided(remains: Sequence[Remains]) -> tuple[tuple[Account, HoldChange], ...]:
    return tuple(
        (each.owner, HoldChange(hold, closed(hold, HoldStepKind.VOIDED)))
        for each in remains
        for hold in each.owner.holds.values()
    )


def _first(refusals: Iterable[Refusal | None]) -> Refusal | None:
    return next((refusal for refusal in refusals if refusal is not None), None)


def _become(
    batch: Batch,
    item: StateItem,
    status: WalletStatus,
    voided: tuple[tuple[Account, HoldChange], ...] = (),
    movements: tuple[Movement, ...] = (),
) -> StateChange:
    before, until, note = present_state(batch, item.owner), item.request.until, item.request.description
    is_same = (before.status, before.until) == (status, until)
    if is_same and (status is WalletStatus.OPEN or note == before.note):
        return StateChange(None)
    since = before.since if is_same else batch.now
    after = replace(before, step=before.step + 1, status=status, since=since, until=until, note=note)
    return StateChange(after, voided, movements)
