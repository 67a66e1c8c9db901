"""Appends to the rows that a batch inserts, and moves the accounts' heads with them.

What became available lapses, where it is over, and repays what its owner owes: right after what made it so.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from uuid import UUID

import orjson
from uuid_utils.compat import uuid7

from wallet_gql.domain.holds import Hold
from wallet_gql.domain.postings import (
    Issuer,
    PostingRequest,
    Receipt,
    Request,
    TransactionName,
    TransactionType,
    repayment_id,
)
from wallet_gql.domain.wallets import Wallet, WalletKind, WalletState
from wallet_gql.ledger.append_lots import change_lots, lots_of
from wallet_gql.ledger.batch import (
    Batch,
    HoldChange,
    Issued,
    Leg,
    Movement,
    Reversed,
)
from wallet_gql.ledger.choose_lots import LotChange, parts_of
from wallet_gql.ledger.columns import array
from wallet_gql.ledger.heads import Account
from wallet_gql.ledger.issuance import day_of
from wallet_gql.ledger.rows import (
    EntryRow,
    HoldStepRow,
    IssuanceRow,
    NoteRow,
    OwnersEntryRow,
    ReceiptRow,
    ReversalRow,
    TransactionRow,
    WalletStateRow,
)
from wallet_gql.ledger.states import WalletId


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


def settle_by(batch: Batch, movement: Movement, executed_at: datetime) -> None:
    """Let what a transaction credits its owners lapse, where it is over, or repay what they owe."""
    for account, _, _ in movement.legs:
        if account.expiry is not None or account.debt is not None:
            settle(batch, account, movement.id, executed_at)


def settle(batch: Batch, account: Account, cause: UUID, executed_at: datetime) -> None:
    """Let what became available lapse, where it is over, or repay what its owner owes: right after what made it so."""
    if account.expiry is not None:
        lapse(batch, account, executed_at)
    if account.debt is not None:
        _repay(batch, account, account.debt, cause, executed_at)


def lapse(batch: Batch, account: Account, executed_at: datetime) -> None:
    """Book what has lapsed, lot by lot: what is free of those whose end has come goes to the treasury."""
    over = [lot for lot in account.lots.values() if lot.free_minor and lot.terms.has_lapsed(batch.now)]
    for lot in over:
        assert account.expiry is not None
        taken = Leg(account, -lot.free_minor, (LotChange(lot.n, lot.terms, -lot.free_minor),))
        legs = (taken, Leg(account.expiry, lot.free_minor))
        append(batch, None, Movement(TransactionType.EXPIRY, uuid7(), legs), executed_at)


def _repay(batch: Batch, account: Account, debt: Account, cause: UUID, executed_at: datetime) -> None:
    """Repay what an owner owes as far as it is available."""
    repaid_minor = min(account.available_minor, account.debt_minor)
    if repaid_minor > 0:
        legs = (Leg(account, -repaid_minor), Leg(debt, repaid_minor))
        append(batch, None, Movement(TransactionType.REPAYMENT, repayment_id(cause), legs), executed_at)


def append(
    batch: Batch, request: Request | None, movement: Movement, executed_at: datetime, fingerprint: bytes | None = None
) -> None:
    """Append one transaction; with a fingerprint it is the one that the request's key is answered with.

    Without a request it is one that follows from another, or shows nothing of the request.
    """
    wallet = wallet_of(movement)
    counterpart_shard, counterpart_id = movement.counterpart or (None, None)
    batch.transactions.append(
        TransactionRow(
            wallet.shard,
            movement.id,
            movement.type,
            wallet.id,
            None if executed_at == batch.now else executed_at,
            None if request is None or fingerprint is None else request.idempotency_key,
            None if request is None else request.description,
            None if request is None else request.reference,
            counterpart_shard,
            counterpart_id,
            fingerprint,
        )
    )
    note(batch, request, wallet.shard, movement.id, is_asked_for=fingerprint is not None)
    if isinstance(request, PostingRequest) and request.issuer is not None:
        _count_issued(batch, request, request.issuer, wallet.shard)
    if movement.reverses is not None:
        _count_reversed(batch, movement, *movement.reverses)
    change = movement.captured
    for account, amount_minor, chosen in movement.legs:
        has_lots = account.kind is WalletKind.USER and (chosen or account.lots_seq is not None or batch.given)
        lots = lots_of(batch, movement, account, amount_minor, chosen) if has_lots else ()
        if change is not None and account.kind is WalletKind.USER:
            change_hold(batch, account, change, movement.id, executed_at, movement.type, amount_minor, lots)
            continue
        account.move(amount_minor, executed_at, movement.type)
        if lots:
            change_lots(batch, account, movement.id, executed_at, lots)
        _append_entry(batch, account, movement.id, movement.type, amount_minor, executed_at)


def wallet_of(movement: Movement) -> Wallet:
    """Return whose transaction it is."""
    return movement.wallet or movement.legs[0].account.wallet


def _append_entry(
    batch: Batch, account: Account, id_: UUID, type_: int, amount_minor: int, executed_at: datetime
) -> None:
    """Append the entry to which an account has moved: the last transaction's, unless it has holds, lots or limits."""
    may_go_negative = account.kind is not WalletKind.USER
    if account.held_seq is None and account.lots_seq is None and account.flows is None:
        n, seq, balance_minor = len(batch.transactions), account.seq, account.balance_minor
        batch.entries.append(EntryRow(n, account.id, seq, amount_minor, balance_minor, may_go_negative))
        return
    has_holds, has_lots = account.held_seq is not None, account.lots_seq is not None
    batch.others[OwnersEntryRow].append(
        OwnersEntryRow(
            account.wallet.shard,
            account.id,
            account.seq,
            id_,
            type_,
            amount_minor,
            account.balance_minor,
            may_go_negative,
            executed_at,
            account.held_minor if has_holds else None,
            account.held_seq,
            account.position,
            account.next_due_at,
            account.lots_minor if has_lots else None,
            account.lots_seq,
            array(account.live_lots) if account.lots_seq == account.seq else None,
            None if account.flows is None else array((*account.flows, account.flows_since)),
        )
    )


def change_hold(
    batch: Batch,
    account: Account,
    change: HoldChange,
    event_id: UUID,
    executed_at: datetime,
    type_: int = 0,
    amount_minor: int = 0,
    lots: Sequence[LotChange] = (),
) -> Hold:
    """Append a step of a hold and the entry that it belongs to, which moves credits where the step captures some."""
    before, after = change
    if account.position is None:
        account.position = account.seq
    account.move(amount_minor, executed_at, type_)
    hold = after if before is None else replace(after, step=before.step + 1, changed_at=executed_at)
    account.hold(before, hold)
    batch.holds[hold.name] = hold
    held = _earmarked(before, hold)
    if lots or held:
        change_lots(batch, account, event_id, executed_at, lots, held)
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
        array(account.holds),
        array(each.lot for each in hold.earmarks) if hold.earmarks else None,
        array(each.amount_minor for each in hold.earmarks) if hold.earmarks else None,
    )


def _earmarked(before: Hold | None, after: Hold) -> dict[int, int]:
    """Return how much more a step of a hold has of which lots, or less."""
    if not after.earmarks and (before is None or not before.earmarks):
        return {}
    held = dict(after.earmarks)
    for lot, amount_minor in () if before is None else before.earmarks:
        held[lot] = held.get(lot, 0) - amount_minor
    return {lot: amount_minor for lot, amount_minor in held.items() if amount_minor}


def note(batch: Batch, request: Request | None, shard: int, id_: UUID, *, is_asked_for: bool = False) -> None:
    """Append what only some transactions and events have, and who asked for them, where that is known.

    A receipt is of the transaction that was asked for. Without a request nothing of it is shown.
    """
    receipt = _receipt(request) if is_asked_for else None
    if receipt is not None:
        batch.credited[receipt.text] = TransactionName(shard, id_)
        batch.others[ReceiptRow].append(ReceiptRow(*receipt, shard, id_))
    metadata = None if request is None or not request.metadata else orjson.dumps(dict(request.metadata)).decode()
    text = None if receipt is None else receipt.text
    if batch.asked_by is not None:
        kind, name, _ = batch.asked_by
        batch.others[NoteRow].append(
            NoteRow(shard, id_, metadata, text, kind, name, batch.asked_by.kept_request_id(id_))
        )
    elif metadata is not None or text is not None:
        batch.others[NoteRow].append(NoteRow(shard, id_, metadata, text, None, None, None))


def _count_reversed(batch: Batch, movement: Movement, original: TransactionName, before: Reversed) -> None:
    """Append how much of an original is reversed in all, with what is reversed now."""
    amount_minor = sum(leg.amount_minor for leg in movement.legs if leg.amount_minor > 0)
    after = batch.reversed[original] = Reversed(before.step + 1, before.amount_minor + amount_minor)
    owner = movement.legs[0]
    if owner.account.lots_seq is not None and owner.amount_minor < 0:
        taken = batch.taken_back.setdefault(original, {})
        for n, part_minor in parts_of(-owner.amount_minor, owner.lots or ()):
            taken[n] = taken.get(n, 0) + part_minor
    row = ReversalRow(*original, after.step, movement.id, amount_minor, after.amount_minor)
    batch.others[ReversalRow].append(row)


def _count_issued(batch: Batch, request: PostingRequest, issuer: Issuer, shard: int) -> None:
    """Append how much has been issued in all, with what is posted now."""
    place, amount_minor = (issuer.name, request.asset.id), request.amount_minor
    before = batch.issued.get(place, Issued(0, 0))
    after = batch.issued[place] = Issued(before.step + 1, before.amount_minor + amount_minor)
    day = day_of(batch.now)
    row = IssuanceRow(
        issuer.shard, *place, day, after.step, shard, request.transaction_id, amount_minor, after.amount_minor
    )
    batch.others[IssuanceRow].append(row)


def _receipt(request: Request | None) -> Receipt | None:
    return request.receipt if isinstance(request, PostingRequest) else None
