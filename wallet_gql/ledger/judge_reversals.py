"""Judges refunds and clawbacks: never more than the original moved. Pure functions, as in `judge`."""

from typing import Final

from wallet_gql.domain.errors import Unavailable
from wallet_gql.domain.money import MINOR_MAX
from wallet_gql.domain.postings import (
    CLAWABLE,
    DEFAULT_TERMS,
    REFUNDABLE,
    RequestKind,
    Shortfall,
    TransactionName,
    TransactionType,
)
from wallet_gql.domain.refusals import (
    BalanceLimitExceeded,
    Counted,
    Facts,
    NotRefundable,
    RefundExceedsOriginal,
    TooMany,
)
from wallet_gql.domain.wallets import NOTHING_MOVES
from wallet_gql.ledger.batch import Batch, Decision, Forgone, Leg, Movement, Movements, Reversed, ReverseItem
from wallet_gql.ledger.choose_lots import LotChange, as_given, give_back, take_back, take_own
from wallet_gql.ledger.judge import (
    judge_balance,
    judge_clock,
    judge_receiver,
    judge_room,
    judge_status,
    judge_stripe,
    judge_terms,
)

REVERSALS_MAX: Final = 50
"""Refunds and clawbacks of one transaction."""


def judge_reversal(batch: Batch, item: ReverseItem) -> Decision:
    """Refund or clawback: of a type that can be reversed so, and within what is left of the original."""
    request, original = item.request, item.request.original
    is_refund = request.kind is RequestKind.REFUND
    before = batch.reversed.get(original.name, Reversed(0, 0))
    left_minor = abs(original.amount_minor) - before.amount_minor
    asked_minor = left_minor if request.amount_minor is None else request.amount_minor
    fault: Facts | Unavailable | None = judge_clock(batch, item.owner)
    if fault is None and item.sender is not None:
        fault = judge_clock(batch, item.sender)
    if fault is None and is_refund:
        fault = judge_status(batch, item.owner, NOTHING_MOVES)
    if fault is None and request.lapsed_until is not None:
        fault = judge_terms(batch, original.asset, DEFAULT_TERMS._replace(expires_at=request.lapsed_until))
    if fault is not None:
        return fault
    if original.type not in (REFUNDABLE if is_refund else CLAWABLE):
        return NotRefundable(original.asset, original.shard, original.id)
    if left_minor == 0 or asked_minor > left_minor:
        return RefundExceedsOriginal(original.asset, left_minor, asked_minor or abs(original.amount_minor))
    if before.step >= REVERSALS_MAX:
        return TooMany(original.asset, Counted.REFUNDS, REVERSALS_MAX)
    judge = judge_refund if is_refund else judge_clawback
    return judge(batch, item, before, asked_minor)


def judge_refund(batch: Batch, item: ReverseItem, before: Reversed, amount_minor: int) -> Decision:
    """Refund: the treasury gives back what an owner paid, also above the most that a wallet may hold.

    It is refused only where the arithmetic ends.
    """
    owner = item.owner
    lots = _returned(batch, item, before, amount_minor)
    lasting = [each for each in lots if not each.terms.has_lapsed(batch.now)]
    if (too_many := judge_room(owner, lasting) if lasting else None) is not None:
        return too_many
    if owner.balance_minor + amount_minor > MINOR_MAX:
        return BalanceLimitExceeded(owner.asset, owner.balance_minor, amount_minor)
    legs = (Leg(item.owner, amount_minor, lots), Leg(item.stripe, -amount_minor))
    reverses = (item.request.original.name, before)
    paid_back = Movement(TransactionType.REFUND, item.request.transaction_id, legs, reverses=reverses)
    return judge_stripe(batch, legs[1]) or Movements([paid_back])


def _returned(batch: Batch, item: ReverseItem, before: Reversed, amount_minor: int) -> tuple[LotChange, ...]:
    """Return to which lots credits go back: where they came from, what was taken last first.

    What has lapsed meanwhile lapses again at once, unless the request gives it a new end.
    """
    original, until = item.request.original, item.request.lapsed_until
    changes = []
    uses = batch.uses.get(original.name, ())
    for n, part_minor in give_back(uses, abs(original.amount_minor), before.amount_minor, amount_minor):
        terms = item.owner.lots[n].terms
        is_new = until is not None and terms.has_lapsed(batch.now)
        changes.append(
            LotChange(None if is_new else n, terms._replace(expires_at=until) if is_new else terms, part_minor)
        )
    return tuple(changes)


def judge_clawback(batch: Batch, item: ReverseItem, before: Reversed, asked_minor: int) -> Decision:
    """Clawback: what an owner was credited is taken back, as far as it is available; what is held is never taken."""
    request, owner = item.request, item.owner
    taken_minor, owed_minor = asked_minor, 0
    uses = batch.uses.get(request.original.name, ())
    back = batch.taken_back.get(request.original.name, {})
    own = take_own(owner, uses, request.original.amount_minor, back, asked_minor)
    if request.on_shortfall is Shortfall.LOT_ONLY:
        taken_minor = sum(part_minor for _, part_minor in own)
    elif owner.available_minor < asked_minor:
        if request.on_shortfall is Shortfall.REFUSE:
            return judge_balance(owner, -asked_minor) or Forgone(asked_minor)
        taken_minor = owner.available_minor
        owed_minor = asked_minor - taken_minor if request.on_shortfall is Shortfall.DEBT else 0
    if taken_minor + owed_minor == 0:
        return Forgone(asked_minor)
    reverses = (request.original.name, before)
    if taken_minor == 0:
        owed = Movement(TransactionType.CLAWBACK, request.receiving_id, _owed(item, owed_minor), reverses=reverses)
        return judge_stripe(batch, owed.legs[1]) or Forgone(0, owed)
    lots = take_back(owner, own, taken_minor)
    if item.sender is not None:
        return _give_back(batch, item, Leg(owner, -taken_minor, lots), owed_minor, reverses)
    legs = (Leg(owner, -taken_minor, lots), *_owed(item, owed_minor, taken_minor))
    taken = Movement(TransactionType.CLAWBACK, request.transaction_id, legs, reverses=reverses)
    return judge_stripe(batch, legs[-1]) or Movements([taken])


def _owed(item: ReverseItem, owed_minor: int, taken_minor: int = 0) -> tuple[Leg, ...]:
    """Return what the treasury gets: what is taken, and what the owner owes it from now on."""
    creditor = item.creditor or item.stripe
    credited = Leg(creditor, taken_minor + owed_minor)
    if not owed_minor:
        return (credited,)
    assert item.owner.debt is not None
    return (Leg(item.owner.debt, -owed_minor), credited)


def _give_back(
    batch: Batch, item: ReverseItem, taken: Leg, owed_minor: int, reverses: tuple[TransactionName, Reversed]
) -> Decision:
    """Return what was taken to the owner who had sent it; what could not be taken is owed to the treasury."""
    request, owner, sender, taken_minor = item.request, item.owner, item.sender, -taken.amount_minor
    assert sender is not None
    assert item.sender_clearing is not None
    returned = Movement(
        TransactionType.TRANSFER_IN,
        request.receiving_id,
        (Leg(sender, taken_minor), Leg(item.sender_clearing, -taken_minor)),
        TransactionName(owner.wallet.shard, request.transaction_id),
    )
    legs = (taken, Leg(item.stripe, taken_minor), *(_owed(item, owed_minor) if owed_minor else ()))
    counterpart = TransactionName(sender.wallet.shard, request.receiving_id)
    clawed = Movement(TransactionType.CLAWBACK, request.transaction_id, legs, counterpart, reverses=reverses)
    return (
        judge_receiver(batch, sender, taken_minor, as_given(taken.lots or ()), is_return=True)
        or judge_stripe(batch, legs[1])
        or judge_stripe(batch, legs[-1])
        or judge_stripe(batch, returned.legs[1])
        or Movements([clawed, returned])
    )
