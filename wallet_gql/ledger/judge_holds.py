"""Judges holds: placing, capturing, voiding and adjusting them. Pure functions, as in `judge`."""

from collections.abc import Set
from dataclasses import replace
from datetime import timedelta

from wallet_gql.domain.holds import CAPTURES_MAX, OPEN_HOLDS_MAX, Hold, HoldState, HoldStepKind
from wallet_gql.domain.lots import CreditSource
from wallet_gql.domain.postings import (
    HoldMissing,
    HoldRequest,
    RequestKind,
    TransactionName,
    TransactionType,
    WalletMissing,
)
from wallet_gql.domain.refusals import Counted, HoldExceeded, HoldNotOpen, TooMany
from wallet_gql.domain.wallets import NOTHING_LEAVES, NOTHING_MOVES, OwnerName, WalletStatus
from wallet_gql.ledger.batch import Batch, Decision, HoldChange, HoldItem, Leg, Movement, Movements, PlaceItem
from wallet_gql.ledger.choose_lots import LotChange, as_given, earmark, take, use_earmarks
from wallet_gql.ledger.judge import (
    judge_balance,
    judge_clock,
    judge_policy,
    judge_receiver,
    judge_status,
    judge_stripe,
    source_of,
    time_of,
)
from wallet_gql.ledger.judge_limits import judge_limits


def judge_place(batch: Batch, item: PlaceItem) -> Decision:
    """Place: what is held stays in the balance, and is no longer available."""
    request, owner = item.request, item.owner
    if request.receiver is not None and item.receiver is None:
        return WalletMissing(request.receiver.owner_id)
    source, policy = request.sources, None
    if request.receiver is not None:
        source = source_of(batch, request.asset, source)
        policy = judge_policy(batch, request.asset, request.sources)
    refusal = (
        judge_clock(batch, owner)
        or judge_status(batch, owner, NOTHING_LEAVES)
        or policy
        or (TooMany(owner.asset, Counted.HOLDS, OPEN_HOLDS_MAX) if len(owner.holds) >= OPEN_HOLDS_MAX else None)
        or judge_limits(batch, owner, _captured_as(request.receiver), request.amount_minor)
        or judge_balance(owner, -request.amount_minor, source)
    )
    return HoldChange(None, _placed(batch, item, source)) if refusal is None else refusal


def _captured_as(receiver: OwnerName | None) -> TransactionType:
    """Return what a hold's captures count as in limits."""
    return TransactionType.SPEND if receiver is None else TransactionType.TRANSFER_OUT


def _placed(batch: Batch, item: PlaceItem, source: CreditSource | None) -> Hold:
    request, owner = item.request, item.owner
    placed_at = time_of(batch.now, owner)
    return Hold(
        shard=request.shard,
        id=request.transaction_id,
        account_id=owner.id,
        seq=owner.seq + 1,
        wallet=owner.wallet,
        asset=request.asset,
        receiver=request.receiver,
        idempotency_key=request.idempotency_key,
        description=request.description,
        reference=request.reference,
        placed_at=placed_at,
        step=1,
        kind=HoldStepKind.PLACED,
        amount_minor=request.amount_minor,
        captured_minor=0,
        released_minor=0,
        capture_count=0,
        held_until=placed_at + timedelta(seconds=request.ttl_seconds),
        changed_at=placed_at,
        as_of=batch.now,
        sources=source,
        earmarks=earmark(owner, (), take(owner, request.amount_minor, source)),
    )


def judge_change(batch: Batch, item: HoldItem) -> Decision:
    """Capture, void, adjust: only what is open can change."""
    hold = batch.holds.get(item.request.hold.name)
    if hold is None:
        # A fail-over lost it: a standby that lagged became the primary.
        return HoldMissing(str(item.request.hold.id))
    refusal = (
        judge_clock(batch, item.owner)
        or (judge_clock(batch, item.receiver) if item.receiver else None)
        or judge_status(batch, item.owner, _refused(item.request, hold))
    )
    if refusal is not None:
        return refusal
    if hold.state is not HoldState.OPEN:
        return HoldNotOpen(hold.asset, hold.id, hold.state)
    match item.request.kind:
        case RequestKind.CAPTURE_HOLD:
            return judge_capture(batch, item, hold)
        case RequestKind.VOID_HOLD:
            return HoldChange(hold, closed(hold, HoldStepKind.VOIDED))
        case _:
            return judge_adjust(batch, item, hold)


def _refused(request: HoldRequest, hold: Hold) -> Set[WalletStatus]:
    """Return by which statuses of its owner's wallet a change is refused: what was promised before is kept."""
    if request.kind is RequestKind.CAPTURE_HOLD:
        return NOTHING_MOVES
    is_raised = request.kind is RequestKind.ADJUST_HOLD and (request.amount_minor or 0) > hold.amount_minor
    return NOTHING_LEAVES if is_raised else frozenset()


def judge_capture(batch: Batch, item: HoldItem, hold: Hold) -> Decision:
    """Capture: the treasury gets what is taken, or the receiver by a transfer; the rest is released, or kept."""
    request, owner, receiver = item.request, item.owner, item.receiver
    amount_minor = hold.remaining_minor if request.amount_minor is None else request.amount_minor
    if amount_minor > hold.remaining_minor:
        return HoldExceeded(hold.asset, hold.id, hold.remaining_minor, amount_minor)
    if hold.capture_count >= CAPTURES_MAX:
        return TooMany(hold.asset, Counted.CAPTURES, CAPTURES_MAX)
    captured_minor = hold.captured_minor + amount_minor
    used, left = use_earmarks(hold.earmarks, amount_minor)
    after = replace(
        hold,
        kind=HoldStepKind.CAPTURED,
        captured_minor=captured_minor,
        released_minor=hold.released_minor if request.keep_remainder else hold.amount_minor - captured_minor,
        capture_count=hold.capture_count + 1,
        earmarks=left if request.keep_remainder else (),
    )
    assert item.stripe is not None
    lots = tuple(LotChange(n, owner.lots[n].terms, -part_minor) for n, part_minor in used)
    legs = (Leg(owner, -amount_minor, lots), Leg(item.stripe, amount_minor))
    change = HoldChange(hold, after)
    if receiver is None:
        paid = Movement(TransactionType.CAPTURE, request.transaction_id, legs, captured=change)
        return judge_stripe(batch, legs[1]) or Movements([paid])
    assert item.receiver_clearing is not None
    received = Movement(
        TransactionType.TRANSFER_IN,
        request.receiving_id,
        (Leg(receiver, amount_minor), Leg(item.receiver_clearing, -amount_minor)),
        TransactionName(owner.wallet.shard, request.transaction_id),
    )
    counterpart = TransactionName(receiver.wallet.shard, request.receiving_id)
    sent = Movement(TransactionType.TRANSFER_OUT, request.transaction_id, legs, counterpart, change)
    return (
        judge_receiver(batch, receiver, amount_minor, as_given(lots))
        or judge_stripe(batch, legs[1])
        or judge_stripe(batch, received.legs[1])
        or Movements([sent, received])
    )


def judge_adjust(batch: Batch, item: HoldItem, hold: Hold) -> Decision:
    """Adjust: a new total, not below what was captured; and a new time, counted from now, at most so long in all."""
    request, owner = item.request, item.owner
    amount_minor = hold.amount_minor if request.amount_minor is None else request.amount_minor
    if amount_minor < hold.captured_minor:
        return HoldExceeded(hold.asset, hold.id, hold.remaining_minor, amount_minor)
    raised_minor = amount_minor - hold.amount_minor
    if raised_minor > 0:
        refusal = judge_limits(batch, owner, _captured_as(hold.receiver), raised_minor, 0) or judge_balance(
            owner, -raised_minor, hold.sources
        )
        if refusal is not None:
            return refusal
    if raised_minor > 0:
        earmarks = earmark(owner, hold.earmarks, take(owner, raised_minor, hold.sources))
    else:
        # What is released lives longest: what is kept is used first.
        earmarks, _ = use_earmarks(hold.earmarks, hold.remaining_minor + raised_minor)
    held_until = hold.held_until
    if request.ttl_seconds is not None:
        held_until = min(time_of(batch.now, owner) + timedelta(seconds=request.ttl_seconds), hold.latest_end)
    after = replace(
        hold, kind=HoldStepKind.ADJUSTED, amount_minor=amount_minor, held_until=held_until, earmarks=earmarks
    )
    return HoldChange(hold, after)


def closed(hold: Hold, kind: HoldStepKind) -> Hold:
    """Return the hold with what remains released."""
    return replace(hold, kind=kind, released_minor=hold.amount_minor - hold.captured_minor, earmarks=())
