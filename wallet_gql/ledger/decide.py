"""Answers the requests of a batch, in order: replays what was answered, judges what is new, appends the rows of it.

What is particular to a kind of request is in `judge` and `judge_holds`; the rest is the same for all: replay, posting,
keeping a refusal, appending the steps of holds.

A transaction's time is the later of the clock and its owners' heads, so an owner's times never run backwards. The
stripes' heads have no say: they would carry one clock's mistake to every owner of the stripe.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, assert_never
from uuid import UUID, uuid5

import orjson

from wallet_gql.domain.assets import Asset
from wallet_gql.domain.errors import Unavailable
from wallet_gql.domain.holds import Hold, HoldName, HoldStepKind
from wallet_gql.domain.postings import (
    Changed,
    Held,
    HoldMissing,
    HoldRequest,
    KeyReused,
    Nothing,
    Outcome,
    Posted,
    PostingRequest,
    Receipt,
    Refused,
    Request,
    RequestKind,
    TransactionName,
    TransactionType,
    TransactionView,
    WalletMissing,
    repayment_id,
)
from wallet_gql.domain.refusals import Facts, OutcomeCode, details_of, facts_of
from wallet_gql.domain.wallets import Wallet, WalletKind, WalletState
from wallet_gql.ledger.batch import (
    Answered,
    Batch,
    Decision,
    Forgone,
    HoldChange,
    HoldItem,
    Item,
    Kept,
    Leg,
    Movement,
    Movements,
    PlaceItem,
    PostingItem,
    Reversed,
    ReverseItem,
    StateChange,
    StateItem,
    TransferItem,
)
from wallet_gql.ledger.heads import Account, AccountName, KeptAnswer, KeyName
from wallet_gql.ledger.judge import judge_posting, judge_transfer, state_of, time_of
from wallet_gql.ledger.judge_holds import judge_change, judge_place
from wallet_gql.ledger.judge_reversals import judge_reversal
from wallet_gql.ledger.judge_states import judge_state
from wallet_gql.ledger.rows import (
    EntryRow,
    HeldEntryRow,
    HoldRow,
    HoldStepRow,
    NoteRow,
    ReceiptRow,
    RefusedRow,
    ReversalRow,
    TransactionRow,
    WalletStateRow,
)
from wallet_gql.ledger.states import WalletId


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
    return _view(
        item,
        answer.transaction_id,
        answer.account_id,
        answer.seq,
        answer.amount_minor,
        answer.balance_after_minor,
        answer.executed_at,
        counterpart,
    )


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
    """Book the end of holds whose time is over, before anything is decided on what they held."""
    for account in accounts:
        if not account.holds:
            continue
        due = [hold for hold in account.holds.values() if hold.is_due]
        for hold in sorted(due, key=lambda hold: hold.held_until):
            after = replace(hold, kind=HoldStepKind.EXPIRED, released_minor=hold.amount_minor - hold.captured_minor)
            event_id = uuid5(hold.id, HoldStepKind.EXPIRED.name)
            executed_at = time_of(batch.now, account)
            _change_hold(batch, account, HoldChange(hold, after), event_id, executed_at)
            _repay(batch, account, event_id, executed_at)


def decide(batch: Batch, item: Item) -> Outcome | Unavailable:
    """Answer one request on the heads as the requests before it left them."""
    first = batch.answered.get(item.key)
    if first is not None:
        return replay(batch, first, item)
    decision = judge(batch, item)
    if isinstance(decision, (Unavailable, WalletMissing, HoldMissing)):
        return decision
    asked = item.request.fingerprint
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
        _append(batch, item.request, owed._replace(wallet=item.owner.wallet), time_of(batch.now, item.owner))
    indebted_minor = 0 if owed is None else -owed.legs[0].amount_minor
    details: dict[str, object] = {"forgone_minor": forgone.amount_minor, "asset_id": item.owner.asset.id}
    if owed is not None:
        details |= {"indebted_minor": indebted_minor, "posted": [str(owed.id)]}
    _keep(batch, item, fingerprint, OutcomeCode.NOTHING, details)
    return Nothing(forgone.amount_minor, item.owner.balance(), already_processed=False, indebted_minor=indebted_minor)


def _keep(batch: Batch, item: Item, fingerprint: bytes, outcome: OutcomeCode, details: Mapping[str, object]) -> None:
    """Keep under the key how a request ended that is not answered with a transaction."""
    text = orjson.dumps(details).decode()
    batch.refused.append(RefusedRow(*item.key, fingerprint, outcome, item.request.transaction_id, batch.now, text))


def _change_state(batch: Batch, item: Item, fingerprint: bytes, change: StateChange) -> Changed:
    """Append what becomes of a wallet, with what is posted for it, and keep it under the key."""
    request = item.request
    owners = [each for each in item.accounts if each.kind is WalletKind.USER]
    executed_at = time_of(batch.now, *owners)
    for account, hold_change in change.voided:
        event_id = uuid5(request.transaction_id, str(hold_change.after.id))
        _change_hold(batch, account, hold_change, event_id, executed_at)
        _repay(batch, account, event_id, executed_at)
    own = [each for each in change.movements if _wallet_of(each) == item.owner.wallet]
    for movement in change.movements:
        # Both owners see a transfer's texts: why a wallet is closed is not told to whoever gets what it had.
        _append(batch, request if movement.counterpart is None else None, movement, executed_at)
        _repay_by(batch, movement, executed_at)
    if change.after is not None:
        append_state(batch, change.after, request.transaction_id)
    posted = tuple(TransactionName(request.shard, each.id) for each in own)
    details: dict[str, object] = {"posted": [str(each.id) for each in posted], "asset_id": request.asset.id}
    if change.voided:
        details["voided"] = [str(hold_change.after.id) for _, hold_change in change.voided]
    _keep(batch, item, fingerprint, OutcomeCode.CHANGED, details)
    balance = item.owner.balance()
    return Changed(state_of(batch, item.owner), balance, already_processed=False, transactions=posted)


def append_state(batch: Batch, state: WalletState, event_id: UUID) -> None:
    """Append what has become of a wallet."""
    batch.states[WalletId(state.shard, state.wallet_id)] = state.at(batch.now)
    batch.others[WalletStateRow].append(
        WalletStateRow(
            state.shard,
            state.wallet_id,
            state.step,
            state.status,
            state.since,
            state.until,
            state.note,
            state.debt_wallet_id,
            event_id,
            # The clock may be behind the one by which it came to be so.
            max(batch.now, state.since),
        )
    )


def _repay_by(batch: Batch, movement: Movement, executed_at: datetime) -> None:
    """Let what a transaction credits repay what its owners owe."""
    for account, _ in movement.legs:
        if account.debt is not None:
            _repay(batch, account, movement.id, executed_at)


def _repay(batch: Batch, account: Account, cause: UUID, executed_at: datetime) -> None:
    """Repay what an owner owes as far as it is available: right after what made it available."""
    if account.debt is None:
        return
    repaid_minor = min(account.available_minor, account.debt_minor)
    if repaid_minor > 0:
        legs = (Leg(account, -repaid_minor), Leg(account.debt, repaid_minor))
        _append(batch, None, Movement(TransactionType.REPAYMENT, repayment_id(cause), legs), executed_at)


def _hold(batch: Batch, item: Item, fingerprint: bytes, change: HoldChange) -> Held:
    """Append a step of a hold that posts nothing, and keep it under the key."""
    request, owner = item.request, item.owner
    executed_at = time_of(batch.now, owner)
    hold = _change_hold(batch, owner, change, request.transaction_id, executed_at)
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
            )
        )
        _note(batch, request, hold.shard, hold.id, is_asked_for=True)
    _repay(batch, owner, request.transaction_id, executed_at)
    _keep(batch, item, fingerprint, OutcomeCode.HELD, {"hold_id": str(hold.id), "asset_id": hold.asset.id})
    return Held(hold, owner.balance(), already_processed=False)


def _post(batch: Batch, item: Item, fingerprint: bytes, movements: Movements) -> Posted | Held:
    """Append transactions with their legs to the rows to insert, and move the heads."""
    owners = [movement.legs[0].account for movement in movements]
    executed_at = time_of(batch.now, *owners)
    first, *others = movements
    _append(batch, item.request, first, executed_at, fingerprint)
    owner = item.owner
    amount_minor = first.legs[0].amount_minor
    transaction = _view(
        item, first.id, owner.id, owner.seq, amount_minor, owner.balance_minor, executed_at, first.counterpart
    )
    _repay_by(batch, first, executed_at)
    for movement in others:
        _append(batch, item.request, movement, executed_at)
        _repay_by(batch, movement, executed_at)
    if first.captured is not None:
        hold = batch.holds[first.captured.after.name]
        return Held(hold, owner.balance(), already_processed=False, transaction=transaction)
    return Posted(transaction, owner.balance(), already_processed=False)


def _append(
    batch: Batch, request: Request | None, movement: Movement, executed_at: datetime, fingerprint: bytes | None = None
) -> None:
    """Append one transaction; with a fingerprint it is the one that the request's key is answered with.

    Without a request it is one that follows from another, or shows nothing of the request.
    """
    wallet = _wallet_of(movement)
    counterpart_shard, counterpart_id = movement.counterpart or (None, None)
    batch.transactions.append(
        TransactionRow(
            wallet.shard,
            movement.id,
            movement.type,
            wallet.id,
            executed_at,
            None if request is None or fingerprint is None else request.idempotency_key,
            None if request is None else request.description,
            None if request is None else request.reference,
            counterpart_shard,
            counterpart_id,
            fingerprint,
        )
    )
    if request is not None and (request.metadata or _receipt(request) is not None):
        _note(batch, request, wallet.shard, movement.id, is_asked_for=fingerprint is not None)
    if movement.reverses is not None:
        original, before = movement.reverses
        amount_minor = sum(leg.amount_minor for leg in movement.legs if leg.amount_minor > 0)
        after = Reversed(before.step + 1, before.amount_minor + amount_minor)
        batch.reversed[original] = after
        row = ReversalRow(*original, after.step, movement.id, amount_minor, after.amount_minor)
        batch.others[ReversalRow].append(row)
    change = movement.captured
    for account, amount_minor in movement.legs:
        if change is not None and account.kind is WalletKind.USER:
            _change_hold(batch, account, change, movement.id, executed_at, movement.type, amount_minor)
        else:
            account.move(amount_minor, executed_at)
            _append_entry(batch, account, movement.id, movement.type, amount_minor, executed_at)


def _wallet_of(movement: Movement) -> Wallet:
    """Return whose transaction it is."""
    return movement.wallet or movement.legs[0].account.wallet


def _append_entry(
    batch: Batch, account: Account, id_: UUID, type_: int, amount_minor: int, executed_at: datetime
) -> None:
    """Append the entry to which an account has moved: the last transaction's, unless the account has holds."""
    may_go_negative = account.kind is not WalletKind.USER
    if account.held_seq is None:
        n, seq, balance_minor = len(batch.transactions), account.seq, account.balance_minor
        batch.entries.append(EntryRow(n, account.id, seq, amount_minor, balance_minor, may_go_negative))
        return
    assert account.position is not None
    batch.others[HeldEntryRow].append(
        HeldEntryRow(
            account.wallet.shard,
            account.id,
            account.seq,
            id_,
            type_,
            amount_minor,
            account.balance_minor,
            may_go_negative,
            executed_at,
            account.held_minor,
            account.held_seq,
            account.position,
            account.next_due_at,
        )
    )


def _change_hold(
    batch: Batch,
    account: Account,
    change: HoldChange,
    event_id: UUID,
    executed_at: datetime,
    type_: int = 0,
    amount_minor: int = 0,
) -> Hold:
    """Append a step of a hold and the entry that it belongs to, which moves credits where the step captures some."""
    before, after = change
    if account.position is None:
        account.position = account.seq
    account.move(amount_minor, executed_at)
    hold = after if before is None else replace(after, step=before.step + 1, changed_at=executed_at)
    account.hold(before, hold)
    batch.holds[hold.name] = hold
    _append_entry(batch, account, event_id, type_ or hold.kind, amount_minor, executed_at)
    batch.others[HoldStepRow].append(_step_row(before, hold, event_id, account))
    return hold


def _step_row(before: Hold | None, hold: Hold, event_id: UUID, account: Account) -> HoldStepRow:
    return HoldStepRow(
        hold.shard,
        hold.id,
        hold.step,
        hold.kind,
        event_id,
        account.id,
        account.seq,
        hold.amount_minor,
        hold.captured_minor,
        hold.released_minor,
        hold.remaining_minor - (0 if before is None else before.remaining_minor),
        hold.capture_count,
        hold.held_until,
        hold.changed_at,
        "{" + ",".join(map(str, account.holds)) + "}",
    )


def _note(batch: Batch, request: Request, shard: int, id_: UUID, *, is_asked_for: bool) -> None:
    """Append what only some transactions and holds have; a receipt is of the transaction that was asked for."""
    receipt = _receipt(request) if is_asked_for else None
    if receipt is not None:
        batch.credited[receipt.text] = TransactionName(shard, id_)
        batch.others[ReceiptRow].append(ReceiptRow(*receipt, shard, id_))
    if request.metadata or receipt is not None:
        metadata = orjson.dumps(dict(request.metadata)).decode() if request.metadata else None
        text = None if receipt is None else receipt.text
        batch.others[NoteRow].append(NoteRow(shard, id_, metadata, text))


def _receipt(request: Request) -> Receipt | None:
    return request.receipt if isinstance(request, PostingRequest) else None


def _view(
    item: Item,
    transaction_id: UUID,
    account_id: int,
    seq: int,
    amount_minor: int,
    balance_after_minor: int,
    executed_at: datetime,
    counterpart: TransactionName | None,
) -> TransactionView:
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
