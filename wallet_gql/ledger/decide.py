"""Answers the requests of a batch, in order: replays what was answered, judges what is new, appends the rows of it.

What is particular to a kind of request is in the modules named `judge…`; the rest is the same for all: replay, posting,
keeping a refusal, the steps of holds, what becomes of a wallet.

A transaction's time is the later of the clock and its owners' heads, so an owner's times never run backwards. The
stripes' heads have no say: they would carry one clock's mistake to every owner of the stripe.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import assert_never
from uuid import uuid5

import orjson

from wallet_gql.domain.errors import Forbidden, Unavailable
from wallet_gql.domain.holds import HoldStepKind
from wallet_gql.domain.postings import (
    Changed,
    Held,
    HoldMissing,
    KeyReused,
    Nothing,
    Outcome,
    Posted,
    Refused,
    TransactionName,
    WalletMissing,
)
from wallet_gql.domain.refusals import Facts, OutcomeCode, details_of
from wallet_gql.domain.wallets import WalletKind
from wallet_gql.ledger.append import append, append_state, change_hold, lapse, note, settle, settle_by, wallet_of
from wallet_gql.ledger.batch import (
    Answered,
    Batch,
    Decision,
    Forgone,
    HoldChange,
    HoldItem,
    Item,
    Kept,
    Movements,
    PlaceItem,
    PostingItem,
    ReverseItem,
    StateChange,
    StateItem,
    TransferItem,
)
from wallet_gql.ledger.heads import Account, AccountName
from wallet_gql.ledger.judge import judge_posting, judge_transfer, state_of, time_of
from wallet_gql.ledger.judge_holds import closed, judge_change, judge_place
from wallet_gql.ledger.judge_reversals import judge_reversal
from wallet_gql.ledger.judge_states import judge_state
from wallet_gql.ledger.recall import view_of
from wallet_gql.ledger.rows import HoldRow, KeptRow, WalletStateRow


def accounts_needed(batch: Batch, items: Sequence[Item]) -> list[Account]:
    """Return the accounts that must be opened before a batch is decided.

    A debit from an account that was never used is refused without one, unless a request before it may credit it.
    """
    needed: dict[AccountName, Account] = {}
    for item in items:
        if _is_settled(batch, item):
            continue
        raises = isinstance(item, PostingItem) and item.request.type.sign > 0
        sides = item.remains if isinstance(item, StateItem) else (item,)
        for side in sides:
            # A spend can be the first posting of a stripe: another slot's credited what it debits.
            if raises or side.owner.id != 0 or side.owner.name in needed:
                needed |= {account.name: account for account in side.accounts}
    return [account for account in needed.values() if not account.id]


def _is_settled(batch: Batch, item: Item) -> bool:
    """Say whether a request will surely move nothing: its key was answered, or its receiver has no wallet."""
    return item.key in batch.answered or (isinstance(item, TransferItem) and item.receiver is None)


def book_due(batch: Batch, accounts: Iterable[Account]) -> None:
    """Book the end of holds whose time is over, and what has lapsed, before anything is decided on it."""
    for account in accounts:
        if account.holds:
            _end_holds(batch, account)
        if account.expiry is not None:
            lapse(batch, account, time_of(batch.now, account))


def _end_holds(batch: Batch, account: Account) -> None:
    """Book the end of holds whose time is over, in the order in which they ended."""
    due = [hold for hold in account.holds.values() if hold.is_due]
    for hold in sorted(due, key=lambda hold: hold.held_until):
        after = closed(hold, HoldStepKind.EXPIRED)
        event_id = uuid5(hold.id, HoldStepKind.EXPIRED.name)
        executed_at = time_of(batch.now, account)
        change_hold(batch, account, HoldChange(hold, after), event_id, executed_at)
        settle(batch, account, event_id, executed_at)


def decide(batch: Batch, item: Item) -> Outcome | Unavailable | Forbidden:
    """Answer one request on the heads as the requests before it left them."""
    first = batch.answered.get(item.key)
    if first is not None:
        return replay(batch, first, item)
    if batch.exceeded:
        batch.exceeded = []
    decision = judge(batch, item)
    if isinstance(decision, (Unavailable, Forbidden, WalletMissing, HoldMissing)):
        return decision
    if batch.exceeded and isinstance(decision, (Movements, HoldChange)):
        batch.warned += batch.exceeded
    asked = item.request.fingerprint
    batch.asked_by = item.request.asked_by
    if isinstance(decision, Movements):
        outcome: Kept = _post(batch, item, asked, decision)
    elif isinstance(decision, HoldChange):
        outcome = _hold(batch, item, asked, decision)
    elif isinstance(decision, StateChange):
        outcome = _change_state(batch, item, asked, decision)
    elif isinstance(decision, Forgone):
        outcome = _forgo(batch, item, asked, decision)
    else:
        outcome = _refuse(batch, item, asked, decision)
    batch.answered[item.key] = Answered(asked, item.request.transaction_id, outcome)
    return outcome


def replay(batch: Batch, first: Answered, item: Item) -> Kept | KeyReused:
    """Answer a request whose key was answered before: the same again as things are now, or that it is another."""
    if first.outcome is None or first.fingerprint != item.request.fingerprint:
        return KeyReused(item.request.idempotency_key)
    # A batch that is replayed after an unknown COMMIT finds its own work: that is no second request.
    is_again = first.transaction_id != item.request.transaction_id
    outcome, balance = first.outcome, item.owner.balance()
    if isinstance(outcome, Held):
        hold = batch.holds[outcome.hold.name]
        return replace(outcome, hold=hold, balance=balance, already_processed=is_again)
    if isinstance(outcome, Changed):
        return replace(outcome, state=state_of(batch, item.owner), balance=balance, already_processed=is_again)
    return replace(outcome, balance=balance, already_processed=is_again)


def judge(batch: Batch, item: Item) -> Decision:
    """Say how a new request ends."""
    match item:
        case PostingItem():
            return judge_posting(batch, item)
        case TransferItem():
            return judge_transfer(batch, item)
        case PlaceItem():
            return judge_place(batch, item)
        case HoldItem():
            return judge_change(batch, item)
        case ReverseItem():
            return judge_reversal(batch, item)
        case StateItem():
            return judge_state(batch, item)
        case _:
            assert_never(item)


def _refuse(batch: Batch, item: Item, fingerprint: bytes, facts: Facts) -> Refused:
    """Keep a refusal that depends on state: a late retry must not go through."""
    _keep(batch, item, fingerprint, facts.code, details_of(facts))
    return Refused(facts, item.owner.balance(), already_processed=False)


def _forgo(batch: Batch, item: Item, fingerprint: bytes, forgone: Forgone) -> Nothing:
    """Keep that there was nothing to take back, or only to be owed: a late retry must not take what came since."""
    owed = forgone.indebted
    if owed is not None:
        append(batch, item.request, owed._replace(wallet=item.owner.wallet), time_of(batch.now, item.owner))
        events = {row.event_id for row in batch.others.get(WalletStateRow, ()) if isinstance(row, WalletStateRow)}
        if item.request.transaction_id in events:
            # That the owner owes something for the first time is an event of its own.
            note(batch, None, item.key.shard, item.request.transaction_id)
    indebted_minor = 0 if owed is None else -owed.legs[0].amount_minor
    details: dict[str, object] = {"forgone_minor": forgone.amount_minor, "asset_id": item.owner.asset.id}
    if owed is not None:
        details |= {"indebted_minor": indebted_minor, "posted": [str(owed.id)]}
    _keep(batch, item, fingerprint, OutcomeCode.NOTHING, details)
    return Nothing(forgone.amount_minor, item.owner.balance(), already_processed=False, indebted_minor=indebted_minor)


def _keep(batch: Batch, item: Item, fingerprint: bytes, outcome: OutcomeCode, details: Mapping[str, object]) -> None:
    """Keep under the key how a request ended that is not answered with a transaction."""
    text = orjson.dumps(details).decode()
    batch.others[KeptRow].append(KeptRow(*item.key, fingerprint, outcome, item.request.transaction_id, batch.now, text))


def _change_state(batch: Batch, item: Item, fingerprint: bytes, change: StateChange) -> Changed:
    """Append what becomes of a wallet, with what is posted for it, and keep it under the key."""
    request = item.request
    owners = [each for each in item.accounts if each.kind is WalletKind.USER]
    executed_at = time_of(batch.now, *owners)
    for account, hold_change in change.voided:
        event_id = uuid5(request.transaction_id, str(hold_change.after.id))
        change_hold(batch, account, hold_change, event_id, executed_at)
        note(batch, None, account.wallet.shard, event_id)
        settle(batch, account, event_id, executed_at)
    own = [each for each in change.movements if wallet_of(each) == item.owner.wallet]
    for movement in change.movements:
        # Both owners see a transfer's texts: why a wallet is closed is not told to whoever gets what it had.
        append(batch, request if movement.counterpart is None else None, movement, executed_at)
        settle_by(batch, movement, executed_at)
    if change.after is not None:
        append_state(batch, change.after, request.transaction_id)
        note(batch, None, change.after.shard, request.transaction_id)
    posted = tuple(TransactionName(request.shard, each.id) for each in own)
    details: dict[str, object] = {"posted": [str(each.id) for each in posted], "asset_id": request.asset.id}
    if change.voided:
        details["voided"] = [str(hold_change.after.id) for _, hold_change in change.voided]
    _keep(batch, item, fingerprint, OutcomeCode.CHANGED, details)
    balance = item.owner.balance()
    return Changed(state_of(batch, item.owner), balance, already_processed=False, transactions=posted)


def _hold(batch: Batch, item: Item, fingerprint: bytes, change: HoldChange) -> Held:
    """Append a step of a hold that posts nothing, and keep it under the key."""
    request, owner = item.request, item.owner
    executed_at = time_of(batch.now, owner)
    hold = change_hold(batch, owner, change, request.transaction_id, executed_at)
    if change.before is None and isinstance(item, PlaceItem):
        receiver = item.receiver
        receiver_shard, receiver_id = (None, None) if receiver is None else (receiver.shard, receiver.id)
        batch.others[HoldRow].append(
            HoldRow(
                hold.shard,
                hold.id,
                hold.account_id,
                hold.seq,
                hold.wallet.id,
                receiver_shard,
                receiver_id,
                hold.idempotency_key,
                hold.description,
                hold.reference,
                hold.sources,
            )
        )
    note(batch, request, hold.shard, request.transaction_id)
    settle(batch, owner, request.transaction_id, executed_at)
    _keep(batch, item, fingerprint, OutcomeCode.HELD, {"hold_id": str(hold.id), "asset_id": hold.asset.id})
    return Held(hold, owner.balance(), already_processed=False)


def _post(batch: Batch, item: Item, fingerprint: bytes, movements: Movements) -> Posted | Held:
    """Append transactions with their legs to the rows to insert, and move the heads."""
    owners = [movement.legs[0].account for movement in movements]
    executed_at = time_of(batch.now, *owners)
    first, *others = movements
    append(batch, item.request, first, executed_at, fingerprint)
    owner = item.owner
    amount_minor = first.legs[0].amount_minor
    transaction = view_of(
        item, first.id, owner.id, owner.seq, amount_minor, owner.balance_minor, executed_at, first.counterpart
    )
    settle_by(batch, first, executed_at)
    for movement in others:
        append(batch, item.request, movement, executed_at)
        settle_by(batch, movement, executed_at)
    if first.captured is not None:
        hold = batch.holds[first.captured.after.name]
        return Held(hold, owner.balance(), already_processed=False, transaction=transaction)
    return Posted(transaction, owner.balance(), already_processed=False)
