"""What becomes of each request of a batch: pure decisions on the heads as the requests before it left them.

No I/O, and no clock but the batch's. Each kind of request has one function that judges it: it returns the movements to
post, or why there are none. The rest is the same for all: replay, posting, keeping a refusal.

A transaction's time is the later of the clock and its owners' heads, so an owner's times never run backwards. The
stripes' heads have no say: they would carry one clock's mistake to every owner of the stripe.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Final, TypeAlias, assert_never
from uuid import UUID

import orjson

from wallet_gql.domain.assets import AssetSetting, TransferPolicy
from wallet_gql.domain.errors import Unavailable
from wallet_gql.domain.money import BALANCE_MINOR_MAX, TREASURY_MINOR_MAX
from wallet_gql.domain.postings import (
    KeyReused,
    Outcome,
    Posted,
    PostingRequest,
    Refused,
    Request,
    TransactionName,
    TransactionType,
    TransactionView,
    TransferRequest,
    WalletMissing,
)
from wallet_gql.domain.refusals import (
    BalanceLimitExceeded,
    Facts,
    InsufficientBalance,
    OutcomeCode,
    ReceiverCause,
    ReceiverRefused,
    TransferForbidden,
    details_of,
    facts_of,
)
from wallet_gql.domain.wallets import WalletKind
from wallet_gql.ledger.heads import Account, AccountName, KeptAnswer, KeyName, WantedKey
from wallet_gql.ledger.rows import EntryRow, RefusedRow, TransactionRow

HEAD_AHEAD_MAX: Final = timedelta(seconds=60)
"""How far an owner's last entry may be ahead of the database's clock: past it, one of the two is wrong."""


@dataclass(frozen=True, slots=True)
class PostingItem:
    """A posting with the accounts it moves credits between."""

    request: PostingRequest
    owner: Account
    treasury: Account

    @property
    def accounts(self) -> tuple[Account, ...]:
        """All accounts that it may change."""
        return (self.owner, self.treasury)


@dataclass(frozen=True, slots=True)
class TransferItem:
    """A transfer with its accounts; without a receiver where the receiver has no wallet."""

    request: TransferRequest
    owner: Account
    clearing: Account
    receiver: Account | None
    receiver_clearing: Account

    @property
    def accounts(self) -> tuple[Account, ...]:
        """All accounts that it may change."""
        own = (self.owner, self.clearing)
        return own if self.receiver is None else (*own, self.receiver, self.receiver_clearing)


Item: TypeAlias = PostingItem | TransferItem
"""A request with the accounts that it is decided on; `owner` is the account of the wallet whose key it is."""


@dataclass(frozen=True, slots=True)
class Leg:
    """What a transaction adds to an account's balance."""

    account: Account
    amount_minor: int


@dataclass(frozen=True, slots=True)
class Movement:
    """A transaction to post: its legs, the owner's first."""

    type: TransactionType
    id: UUID
    legs: tuple[Leg, ...]
    counterpart: TransactionName | None = None


Decision: TypeAlias = tuple[Movement, ...] | Facts | WalletMissing | Unavailable
"""How a new request ends: what is posted, the transaction that is answered with first; or why nothing is."""


@dataclass(frozen=True, slots=True)
class Answered:
    """What a key was answered with. `outcome` is None where nobody in the batch asks for the same."""

    fingerprint: bytes
    transaction_id: UUID
    outcome: Posted | Refused | None


@dataclass(slots=True)
class Batch:
    """The clock, the keys answered so far, the rows to insert, and what the operator must be told: once per batch."""

    now: datetime
    answered: dict[KeyName, Answered]
    settings: Mapping[int, AssetSetting] = field(default_factory=dict)
    transactions: list[TransactionRow] = field(default_factory=list)
    entries: list[EntryRow] = field(default_factory=list)
    refused: list[RefusedRow] = field(default_factory=list)
    alarms: dict[str, dict[str, object]] = field(default_factory=dict)

    def unavailable(self, alarm: str, **where: object) -> Unavailable:
        """Answer a request that cannot be posted through no fault of its owner."""
        self.alarms.setdefault(alarm, where)
        return Unavailable(f"Nothing was posted: {alarm}.")


def key_name(item: Item) -> KeyName:
    """Return what names an item's key."""
    return KeyName(item.request.shard, item.owner.wallet.id, item.request.idempotency_key)


def wanted_key(item: Item) -> WantedKey:
    """Return an item's key, and the asset in which it wants to see what was posted."""
    return WantedKey(*key_name(item), item.owner.asset.id)


def recall(items: Sequence[Item], kept: Sequence[KeptAnswer]) -> dict[KeyName, Answered]:
    """Turn what was kept into outcomes, for whoever asks for the same under the same key."""
    asking = {(key_name(item), item.request.fingerprint): item for item in items} if kept else {}
    answered: dict[KeyName, Answered] = {}
    for answer in kept:
        item = asking.get((answer.name, answer.fingerprint))
        outcome = None if item is None else _recalled(item, answer)
        if outcome is not None or answer.name not in answered:
            answered[answer.name] = Answered(answer.fingerprint, answer.transaction_id, outcome)
    return answered


def _recalled(item: Item, answer: KeptAnswer) -> Posted | Refused | None:
    request, position = item.request, item.owner.position()
    if answer.outcome != OutcomeCode.POSTED:
        assert answer.details is not None
        # 0.1.0 kept neither asset nor amount; whoever asks for the same again says them.
        details = {"amount_minor": request.amount_minor, **orjson.loads(answer.details)}
        return Refused(facts_of(OutcomeCode(answer.outcome), details, request.asset), position, already_processed=True)
    if answer.account_id is None:
        return None
    assert answer.seq is not None
    assert answer.amount_minor is not None
    assert answer.balance_after_minor is not None
    assert answer.executed_at is not None
    counterpart = None
    if answer.counterpart_id is not None:
        assert answer.counterpart_shard is not None
        counterpart = TransactionName(answer.counterpart_shard, answer.counterpart_id)
    transaction = _view(
        item,
        answer.transaction_id,
        answer.account_id,
        answer.seq,
        answer.amount_minor,
        answer.balance_after_minor,
        answer.executed_at,
        counterpart,
    )
    return Posted(transaction, position, already_processed=True)


def accounts_needed(batch: Batch, items: Iterable[Item]) -> list[Account]:
    """Return the accounts that must be open before a batch is decided.

    A debit from an account that was never used is refused without one, unless a request before it may credit it.
    """
    needed: dict[AccountName, Account] = {}
    for item in items:
        is_open = item.owner.id != 0 or item.owner.name in needed
        # A spend can be the first posting of a stripe: another slot's credited what it debits.
        if (is_open or _first_type(item).sign > 0) and not _is_settled(batch, item):
            needed |= {account.name: account for account in item.accounts}
    return list(needed.values())


def _is_settled(batch: Batch, item: Item) -> bool:
    """Say whether a request will surely move nothing: its key was answered, or its receiver has no wallet."""
    return key_name(item) in batch.answered or (isinstance(item, TransferItem) and item.receiver is None)


def _first_type(item: Item) -> TransactionType:
    """Return the type of the transaction that a request is answered with."""
    return item.request.type if isinstance(item, PostingItem) else TransactionType.TRANSFER_OUT


def decide(batch: Batch, item: Item) -> Outcome | Unavailable:
    """Answer one request on the heads as the requests before it left them."""
    first = batch.answered.get(key_name(item))
    if first is not None:
        return replay(first, item)
    decision = judge(batch, item)
    match decision:
        case Unavailable() | WalletMissing():
            return decision
        case tuple():
            outcome: Posted | Refused = _post(batch, item, *decision)
        case _:
            outcome = _refuse(batch, item, decision)
    batch.answered[key_name(item)] = Answered(item.request.fingerprint, item.request.transaction_id, outcome)
    return outcome


def replay(first: Answered, item: Item) -> Posted | Refused | KeyReused:
    """Answer a request whose key was answered before: the same again with today's balance, or that it is another."""
    if first.outcome is None or first.fingerprint != item.request.fingerprint:
        return KeyReused(item.request.idempotency_key)
    # A batch that is replayed after an unknown COMMIT finds its own work: that is no second request.
    return replace(
        first.outcome,
        balance=item.owner.position(),
        already_processed=first.transaction_id != item.request.transaction_id,
    )


def judge(batch: Batch, item: Item) -> Decision:
    """Say how a new request ends."""
    match item:
        case PostingItem():
            return judge_posting(batch, item)
        case TransferItem():
            return judge_transfer(batch, item)
        case _:
            assert_never(item)


def judge_posting(batch: Batch, item: PostingItem) -> Decision:
    """Top-up, bonus, spend: one transaction against the treasury."""
    request = item.request
    amount_minor = request.type.sign * request.amount_minor
    movement = Movement(
        request.type,
        request.transaction_id,
        (Leg(item.owner, amount_minor), Leg(item.treasury, -amount_minor)),
    )
    return (
        judge_clock(batch, item.owner)
        or judge_balance(item.owner, amount_minor)
        or judge_stripe(batch, movement.legs[1])
        or (movement,)
    )


def judge_transfer(batch: Batch, item: TransferItem) -> Decision:
    """Transfer: what the sender gives to clearing in its shard, the receiver gets from clearing in its own."""
    request, sender, receiver = item.request, item.owner, item.receiver
    if receiver is None:
        return WalletMissing(request.receiver.owner_id)
    amount_minor = request.amount_minor
    sent = Movement(
        TransactionType.TRANSFER_OUT,
        request.transaction_id,
        (Leg(sender, -amount_minor), Leg(item.clearing, amount_minor)),
        TransactionName(request.receiver.shard, request.receiving_id),
    )
    received = Movement(
        TransactionType.TRANSFER_IN,
        request.receiving_id,
        (Leg(receiver, amount_minor), Leg(item.receiver_clearing, -amount_minor)),
        TransactionName(request.sender.shard, request.transaction_id),
    )
    return (
        judge_clock(batch, sender)
        or judge_clock(batch, receiver)
        or judge_policy(batch, request)
        or judge_balance(sender, -amount_minor)
        or judge_receiver(receiver, amount_minor)
        or judge_stripe(batch, sent.legs[1])
        or judge_stripe(batch, received.legs[1])
        or (sent, received)
    )


def judge_clock(batch: Batch, account: Account) -> Unavailable | None:
    """Refuse to follow a clock that jumped ahead, which is no fault of the owner's."""
    if not is_ahead(batch.now, account):
        return None
    assert account.executed_at is not None
    ahead_seconds = round((account.executed_at - batch.now).total_seconds())
    wallet = account.wallet
    return batch.unavailable(
        "wallet_ahead_of_clock", shard=wallet.shard, wallet_id=wallet.id, ahead_seconds=ahead_seconds
    )


def judge_policy(batch: Batch, request: TransferRequest) -> TransferForbidden | None:
    """Refuse to transfer an asset that owners may not give away."""
    setting = batch.settings.get(request.asset.id)
    if setting is None or setting.transfers is TransferPolicy.ALL:
        return None
    return TransferForbidden(request.asset, setting.transfers)


def judge_balance(account: Account, amount_minor: int) -> BalanceLimitExceeded | InsufficientBalance | None:
    """Refuse what would leave an owner's account below zero or above the most that it may hold."""
    balance_minor = account.balance_minor + amount_minor
    if balance_minor > BALANCE_MINOR_MAX:
        return BalanceLimitExceeded(account.asset, account.balance_minor, abs(amount_minor))
    if balance_minor < 0:
        return InsufficientBalance(account.asset, account.balance_minor, abs(amount_minor))
    return None


def judge_receiver(account: Account, amount_minor: int) -> ReceiverRefused | None:
    """Refuse what another owner cannot take, without telling what it holds."""
    if judge_balance(account, amount_minor) is None:
        return None
    return ReceiverRefused(account.asset, account.wallet.owner_id, ReceiverCause.FULL)


def judge_stripe(batch: Batch, leg: Leg) -> Unavailable | None:
    """Refuse to move a stripe past its end, which is no fault of the owner's."""
    account = leg.account
    if not is_exhausted(account.balance_minor + leg.amount_minor):
        return None
    return batch.unavailable(
        f"{account.kind.name.lower()}_stripe_exhausted",
        shard=account.wallet.shard,
        slot=account.wallet.owner_id,
        asset=account.asset.code,
    )


def is_exhausted(balance_minor: int) -> bool:
    """Say whether a stripe cannot go so far from zero."""
    return abs(balance_minor) > TREASURY_MINOR_MAX


def is_ahead(now: datetime, account: Account) -> bool:
    """Say whether an account's last entry is further in the future than clocks differ."""
    return account.executed_at is not None and account.executed_at > now + HEAD_AHEAD_MAX


def time_of(now: datetime, *owners: Account) -> datetime:
    """Return a request's time: an owner's times never run backwards, whatever the clock does."""
    return max(now, *(owner.executed_at or now for owner in owners))


def _refuse(batch: Batch, item: Item, facts: Facts) -> Refused:
    """Keep a refusal that depends on state: a late retry must not go through."""
    request = item.request
    details = orjson.dumps(details_of(facts)).decode()
    batch.refused.append(RefusedRow(*key_name(item), request.fingerprint, facts.code, request.transaction_id, details))
    return Refused(facts, item.owner.position(), already_processed=False)


def _post(batch: Batch, item: Item, *movements: Movement) -> Posted:
    """Append transactions with their legs to the rows to insert, and move the heads."""
    owners = [leg.account for movement in movements for leg in movement.legs if leg.account.kind is WalletKind.USER]
    executed_at = time_of(batch.now, *owners)
    first, *others = movements
    _append(batch, item.request, first, executed_at, item.request.fingerprint)
    owner = item.owner
    amount_minor = first.legs[0].amount_minor
    transaction = _view(
        item, first.id, owner.id, owner.seq, amount_minor, owner.balance_minor, executed_at, first.counterpart
    )
    for movement in others:
        _append(batch, item.request, movement, executed_at)
    return Posted(transaction, owner.position(), already_processed=False)


def _append(
    batch: Batch, request: Request, movement: Movement, executed_at: datetime, fingerprint: bytes | None = None
) -> None:
    """Append one transaction; with a fingerprint it is the one that the request's key is answered with."""
    wallet = movement.legs[0].account.wallet
    key = None if fingerprint is None else request.idempotency_key
    counterpart_shard, counterpart_id = movement.counterpart or (None, None)
    batch.transactions.append(
        TransactionRow(
            wallet.shard,
            movement.id,
            movement.type,
            wallet.id,
            executed_at,
            key,
            request.description,
            request.reference,
            counterpart_shard,
            counterpart_id,
            fingerprint,
        )
    )
    for account, amount_minor in ((leg.account, leg.amount_minor) for leg in movement.legs):
        account.move(amount_minor, executed_at)
        may_go_negative = account.kind is not WalletKind.USER
        batch.entries.append(
            EntryRow(
                wallet.shard,
                account.id,
                account.seq,
                movement.id,
                movement.type,
                amount_minor,
                account.balance_minor,
                may_go_negative,
                executed_at,
            )
        )


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
        type=_first_type(item),
        amount_minor=amount_minor,
        balance_after_minor=balance_after_minor,
        executed_at=executed_at,
        description=request.description,
        reference=request.reference,
        idempotency_key=request.idempotency_key,
        counterpart=counterpart,
    )
