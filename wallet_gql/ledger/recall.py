"""Makes an outcome again of what a key was answered with, and shows a transaction as its owner sees it."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson

from wallet_gql.domain.assets import Asset
from wallet_gql.domain.holds import HoldName
from wallet_gql.domain.postings import (
    Changed,
    Held,
    HoldRequest,
    Nothing,
    Posted,
    Refused,
    RequestKind,
    TransactionName,
    TransactionType,
    TransactionView,
)
from wallet_gql.domain.refusals import OutcomeCode, facts_of
from wallet_gql.ledger.batch import (
    Answered,
    Batch,
    HoldItem,
    Item,
    Kept,
    PostingItem,
    ReverseItem,
    StateItem,
)
from wallet_gql.ledger.heads import KeptAnswer, KeyName
from wallet_gql.ledger.judge import state_of


def held_names(items: Iterable[Item], kept: Iterable[KeptAnswer]) -> set[HoldName]:
    """Return the holds that requests name, and those that keys were answered with."""
    named = {item.request.hold.name for item in items if isinstance(item, HoldItem)}
    placed = (answer for answer in kept if answer.outcome == OutcomeCode.HELD)
    return named | {HoldName(answer.shard, UUID(_details(answer)["hold_id"])) for answer in placed}


def recall(batch: Batch, items: Sequence[Item], kept: Sequence[KeptAnswer]) -> dict[KeyName, Answered]:
    """Turn what was kept into outcomes, for whoever asks for the same under the same key."""
    asking = {(item.key, item.request.fingerprint): item for item in items} if kept else {}
    answered: dict[KeyName, Answered] = {}
    for answer in kept:
        item = asking.get((answer.name, answer.fingerprint))
        outcome = None if item is None else _recalled(batch, item, answer)
        if outcome is not None or answer.name not in answered:
            answered[answer.name] = Answered(answer.fingerprint, answer.transaction_id, outcome)
    return answered


def _recalled(batch: Batch, item: Item, answer: KeptAnswer) -> Kept | None:
    request, balance = item.request, item.owner.balance()
    if answer.outcome == OutcomeCode.HELD:
        hold = batch.holds[HoldName(answer.shard, UUID(_details(answer)["hold_id"]))]
        return Held(hold, balance, already_processed=True)
    if answer.outcome == OutcomeCode.CHANGED:
        posted = tuple(TransactionName(answer.shard, UUID(each)) for each in _details(answer)["posted"])
        return Changed(state_of(batch, item.owner), balance, already_processed=True, transactions=posted)
    if answer.outcome == OutcomeCode.NOTHING:
        details = _details(answer)
        indebted_minor = details.get("indebted_minor", 0)
        return Nothing(details["forgone_minor"], balance, already_processed=True, indebted_minor=indebted_minor)
    if answer.outcome != OutcomeCode.POSTED:
        # 0.1.0 kept neither asset nor amount; whoever asks for the same again says them.
        details = {"amount_minor": request.amount_minor, **_details(answer)}
        facts = facts_of(OutcomeCode(answer.outcome), details, _refused_asset(item, details))
        return Refused(facts, balance, already_processed=True)
    if answer.account_id is None:
        return None
    transaction = _kept_view(item, answer)
    if isinstance(request, HoldRequest):
        return Held(batch.holds[request.hold.name], balance, already_processed=True, transaction=transaction)
    return Posted(transaction, balance, already_processed=True)


def _refused_asset(item: Item, details: Mapping[str, Any]) -> Asset:
    """Return the asset that a request was refused in: a closing is about many."""
    assets = (item.request.asset, *(each.owner.asset for each in item.remains)) if isinstance(item, StateItem) else ()
    return next((each for each in assets if each.id == details["asset_id"]), item.request.asset)


def _details(answer: KeptAnswer) -> dict[str, Any]:
    assert answer.details is not None
    details: dict[str, Any] = orjson.loads(answer.details)
    return details


def _kept_view(item: Item, answer: KeptAnswer) -> TransactionView:
    assert answer.account_id is not None
    assert answer.seq is not None
    assert answer.amount_minor is not None
    assert answer.balance_after_minor is not None
    assert answer.executed_at is not None
    counterpart = None
    if answer.counterpart_id is not None:
        assert answer.counterpart_shard is not None
        counterpart = TransactionName(answer.counterpart_shard, answer.counterpart_id)
    return view_of(
        item,
        answer.transaction_id,
        answer.account_id,
        answer.seq,
        answer.amount_minor,
        answer.balance_after_minor,
        answer.executed_at,
        counterpart,
    )


def view_of(
    item: Item,
    transaction_id: UUID,
    account_id: int,
    seq: int,
    amount_minor: int,
    balance_after_minor: int,
    executed_at: datetime,
    counterpart: TransactionName | None,
) -> TransactionView:
    """Show a transaction as the owner of a request's account sees it."""
    request = item.request
    return TransactionView(
        shard=request.shard,
        account_id=account_id,
        seq=seq,
        wallet_id=item.owner.wallet.id,
        asset=request.asset,
        id=transaction_id,
        type=_type(item),
        amount_minor=amount_minor,
        balance_after_minor=balance_after_minor,
        executed_at=executed_at,
        description=request.description,
        reference=request.reference,
        idempotency_key=request.idempotency_key,
        counterpart=counterpart,
    )


def _type(item: Item) -> TransactionType:
    """Return the type of the transaction that a request is answered with."""
    match item:
        case PostingItem():
            return item.request.type
        case HoldItem() if item.receiver is None:
            return TransactionType.CAPTURE
        case ReverseItem():
            is_refund = item.request.kind is RequestKind.REFUND
            return TransactionType.REFUND if is_refund else TransactionType.CLAWBACK
        case _:
            return TransactionType.TRANSFER_OUT
