"""What becomes of each request of a batch: pure decisions on the heads as the requests before it left them.

No I/O, and no clock but the batch's. A transaction's time is the later of the clock and its owner's head, so an owner's
times never run backwards. The treasury's head has no say: it would carry one clock's mistake to every owner of its
stripe.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

import orjson

from wallet_gql.domain.errors import Unavailable
from wallet_gql.domain.money import BALANCE_MINOR_MAX, TREASURY_MINOR_MAX
from wallet_gql.domain.postings import KeyReused, Outcome, OutcomeCode, Posted, PostingRequest, Refused, TransactionView
from wallet_gql.ledger.heads import Account, KeptAnswer, KeyName, WantedKey
from wallet_gql.ledger.rows import PostedRow, RefusedRow

HEAD_AHEAD_MAX: Final = timedelta(seconds=60)
"""How far an owner's last entry may be ahead of the database's clock: past it, one of the two is wrong."""


@dataclass(frozen=True, slots=True)
class Item:
    """A request with the accounts it moves credits between."""

    request: PostingRequest
    user: Account
    treasury: Account

    @property
    def key_name(self) -> KeyName:
        """What names its key."""
        return KeyName(self.request.shard, self.user.wallet.id, self.request.idempotency_key)

    @property
    def wanted_key(self) -> WantedKey:
        """Its key, and the asset in which it wants to see what was posted."""
        return WantedKey(*self.key_name, self.user.asset.id)

    @property
    def amount_minor(self) -> int:
        """What it adds to the owner's balance; the treasury's leg is the opposite."""
        return self.request.type.sign * self.request.amount_minor


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
    posted: list[PostedRow] = field(default_factory=list)
    refused: list[RefusedRow] = field(default_factory=list)
    alarms: dict[str, dict[str, object]] = field(default_factory=dict)

    def unavailable(self, alarm: str, **where: object) -> Unavailable:
        """Answer a request that cannot be posted through no fault of its owner."""
        self.alarms.setdefault(alarm, where)
        return Unavailable(f"Nothing was posted: {alarm}.")


def recall(items: Sequence[Item], kept: Sequence[KeptAnswer]) -> dict[KeyName, Answered]:
    """Turn what was kept into outcomes, for whoever asks for the same under the same key."""
    asking = {(item.key_name, item.request.fingerprint): item for item in items} if kept else {}
    answered: dict[KeyName, Answered] = {}
    for answer in kept:
        item = asking.get((answer.name, answer.fingerprint))
        outcome = None if item is None else _recalled(item, answer)
        if outcome is not None or answer.name not in answered:
            answered[answer.name] = Answered(answer.fingerprint, answer.transaction_id, outcome)
    return answered


def _recalled(item: Item, answer: KeptAnswer) -> Posted | Refused | None:
    request, position = item.request, item.user.position()
    if answer.outcome != OutcomeCode.POSTED:
        assert answer.balance_before_minor is not None
        code, before_minor = OutcomeCode(answer.outcome), answer.balance_before_minor
        return Refused(code, before_minor, request.amount_minor, position, already_processed=True)
    if answer.account_id is None:
        return None
    assert answer.seq is not None
    assert answer.amount_minor is not None
    assert answer.balance_after_minor is not None
    assert answer.executed_at is not None
    transaction = _view(
        item,
        answer.transaction_id,
        answer.account_id,
        answer.seq,
        answer.amount_minor,
        answer.balance_after_minor,
        answer.executed_at,
    )
    return Posted(transaction, position, already_processed=True)


def needs_accounts(batch: Batch, item: Item) -> bool:
    """Say whether accounts must be open to decide it: a spend from one that was never used is refused without one."""
    # A spend can be the first posting of a stripe: another slot's credited what it debits.
    return (item.request.type.sign > 0 or item.user.id != 0) and item.key_name not in batch.answered


def decide(batch: Batch, item: Item) -> Outcome | Unavailable:
    """Answer one request on the heads as the requests before it left them."""
    first = batch.answered.get(item.key_name)
    if first is not None:
        return replay(first, item)
    code = judge(batch, item)
    if isinstance(code, Unavailable):
        return code
    asked = item.request.fingerprint
    outcome = _post(batch, item, asked) if code is OutcomeCode.POSTED else _refuse(batch, item, asked, code)
    batch.answered[item.key_name] = Answered(asked, item.request.transaction_id, outcome)
    return outcome


def replay(first: Answered, item: Item) -> Posted | Refused | KeyReused:
    """Answer a request whose key was answered before: the same again with today's balance, or that it is another."""
    if first.outcome is None or first.fingerprint != item.request.fingerprint:
        return KeyReused(item.request.idempotency_key)
    # A batch that is replayed after an unknown COMMIT finds its own work: that is no second request.
    return replace(
        first.outcome,
        balance=item.user.position(),
        already_processed=first.transaction_id != item.request.transaction_id,
    )


def judge(batch: Batch, item: Item) -> OutcomeCode | Unavailable:
    """Say how a new request ends. Faults that are not the owner's: its clock's first, its stripe's end last."""
    user, treasury = item.user, item.treasury
    if is_ahead(batch.now, user):
        assert user.executed_at is not None
        ahead_seconds = round((user.executed_at - batch.now).total_seconds())
        return batch.unavailable(
            "wallet_ahead_of_clock", shard=user.wallet.shard, wallet_id=user.wallet.id, ahead_seconds=ahead_seconds
        )
    code = judge_balance(user.balance_minor + item.amount_minor)
    if code is OutcomeCode.POSTED and is_exhausted(treasury.balance_minor - item.amount_minor):
        return batch.unavailable(
            "treasury_stripe_exhausted",
            shard=treasury.wallet.shard,
            slot=treasury.wallet.owner_id,
            asset=treasury.asset.code,
        )
    return code


def judge_balance(balance_minor: int) -> OutcomeCode:
    """Say whether an owner's account may come to hold so much."""
    if balance_minor > BALANCE_MINOR_MAX:
        return OutcomeCode.BALANCE_LIMIT_EXCEEDED
    if balance_minor < 0:
        return OutcomeCode.INSUFFICIENT_BALANCE
    return OutcomeCode.POSTED


def is_exhausted(balance_minor: int) -> bool:
    """Say whether a treasury stripe cannot go so far from zero."""
    return abs(balance_minor) > TREASURY_MINOR_MAX


def is_ahead(now: datetime, account: Account) -> bool:
    """Say whether an account's last entry is further in the future than clocks differ."""
    return account.executed_at is not None and account.executed_at > now + HEAD_AHEAD_MAX


def time_of(now: datetime, user: Account) -> datetime:
    """Return a transaction's time: an owner's times never run backwards, whatever the clock does."""
    return max(now, user.executed_at or now)


def _refuse(batch: Batch, item: Item, fingerprint: bytes, code: OutcomeCode) -> Refused:
    """Keep a refusal that depends on the wallet's state: a late retry must not go through."""
    request, user = item.request, item.user
    # With its asset and amount the refusal can be told by the key alone; those of 0.1.0 have the balance only.
    facts = {
        "balance_before_minor": user.balance_minor,
        "asset_id": request.asset.id,
        "amount_minor": request.amount_minor,
    }
    details = orjson.dumps(facts).decode()
    batch.refused.append(RefusedRow(*item.key_name, fingerprint, code, request.transaction_id, details))
    return Refused(code, user.balance_minor, request.amount_minor, user.position(), already_processed=False)


def _post(batch: Batch, item: Item, fingerprint: bytes) -> Posted:
    """Append a transaction with its two legs to the rows to insert, and move the heads."""
    request, user, treasury = item.request, item.user, item.treasury
    executed_at = time_of(batch.now, user)
    user.move(item.amount_minor, executed_at)
    treasury.move(-item.amount_minor, executed_at)
    row = PostedRow(
        shard=request.shard,
        id=request.transaction_id,
        type=request.type,
        wallet_id=user.wallet.id,
        key=request.idempotency_key,
        fingerprint=fingerprint,
        description=request.description,
        reference=request.reference,
        amount=item.amount_minor,
        executed_at=executed_at,
        account_id=user.id,
        seq=user.seq,
        balance_after=user.balance_minor,
        treasury_account_id=treasury.id,
        treasury_seq=treasury.seq,
        treasury_balance_after=treasury.balance_minor,
    )
    batch.posted.append(row)
    transaction = _view(item, row.id, row.account_id, row.seq, row.amount, row.balance_after, executed_at)
    return Posted(transaction, user.position(), already_processed=False)


def _view(
    item: Item,
    transaction_id: UUID,
    account_id: int,
    seq: int,
    amount_minor: int,
    balance_after_minor: int,
    executed_at: datetime,
) -> TransactionView:
    request = item.request
    return TransactionView(
        shard=request.shard,
        account_id=account_id,
        seq=seq,
        wallet_id=item.user.wallet.id,
        asset=request.asset,
        id=transaction_id,
        type=request.type,
        amount_minor=amount_minor,
        balance_after_minor=balance_after_minor,
        executed_at=executed_at,
        description=request.description,
        reference=request.reference,
        idempotency_key=request.idempotency_key,
    )
