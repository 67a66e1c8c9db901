"""Judges postings and transfers: pure functions of the heads as the requests before them left them.

Each kind of request has one function, which says what is posted, or why nothing is; it asks small ones, in the order in
which refusals win. No I/O, and no clock but the batch's.
"""

from collections.abc import Sequence, Set
from datetime import datetime, timedelta
from typing import Final

from wallet_gql.domain.assets import DEFAULT_SETTING, Asset, TransferPolicy
from wallet_gql.domain.errors import Forbidden, Unavailable
from wallet_gql.domain.lots import EXPIRES_WITHIN, LIVE_LOTS_MAX, CreditSource, InvalidExpiryReason, LotTerms
from wallet_gql.domain.money import BALANCE_MINOR_MAX, TREASURY_MINOR_MAX, format_minor
from wallet_gql.domain.postings import (
    DEFAULT_TERMS,
    PostingRequest,
    TransactionName,
    TransactionType,
    WalletMissing,
    unix_us,
)
from wallet_gql.domain.refusals import (
    BalanceLimitExceeded,
    Counted,
    InsufficientBalance,
    InvalidExpiry,
    LimitExceeded,
    ReceiptUsed,
    ReceiverCause,
    ReceiverRefused,
    TooMany,
    TransferForbidden,
    WalletClosed,
    WalletFrozen,
)
from wallet_gql.domain.wallets import NOTHING_LEAVES, NOTHING_MOVES, WalletState, WalletStatus
from wallet_gql.ledger.batch import Batch, Decision, Leg, Movement, Movements, PostingItem, TransferItem
from wallet_gql.ledger.choose_lots import LotChange, as_given, available_of, count_live, take
from wallet_gql.ledger.heads import Account
from wallet_gql.ledger.judge_limits import judge_limits
from wallet_gql.ledger.states import WalletId

HEAD_AHEAD_MAX: Final = timedelta(seconds=60)
"""How far an owner's last entry may be ahead of the database's clock: past it, one of the two is wrong."""


def judge_posting(batch: Batch, item: PostingItem) -> Decision:
    """Top-up, bonus, spend: one transaction against the treasury."""
    request = item.request
    amount_minor = request.type.sign * request.amount_minor
    lots = _lots_of_posting(batch, item)
    movement = Movement(
        request.type,
        request.transaction_id,
        (Leg(item.owner, amount_minor, lots), Leg(item.treasury, -amount_minor)),
    )
    return (
        judge_clock(batch, item.owner)
        or judge_issuance(batch, request)
        or judge_status(batch, item.owner, NOTHING_LEAVES if amount_minor < 0 else NOTHING_MOVES)
        or judge_receipt(batch, request)
        or judge_terms(batch, request.asset, request.terms)
        or (judge_room(item.owner, lots) if lots and amount_minor > 0 else None)
        or judge_limits(batch, item.owner, request.type, request.amount_minor)
        or judge_balance(item.owner, amount_minor, request.sources)
        or judge_stripe(batch, movement.legs[1])
        or Movements([movement])
    )


def _lots_of_posting(batch: Batch, item: PostingItem) -> tuple[LotChange, ...] | None:
    """Return which lots a posting changes, where it is not what there is to take as it is spent."""
    request = item.request
    if request.type is TransactionType.BONUS and has_lots(batch, request.asset):
        return (LotChange(None, request.terms, request.amount_minor),)
    return None if request.sources is None else take(item.owner, request.amount_minor, request.sources)


def judge_transfer(batch: Batch, item: TransferItem) -> Decision:
    """Transfer: what the sender gives to clearing in its shard, the receiver gets from clearing in its own."""
    request, sender, receiver = item.request, item.owner, item.receiver
    if receiver is None:
        return WalletMissing(request.receiver.owner_id)
    amount_minor, source = request.amount_minor, source_of(batch, request.asset, request.sources)
    lots = take(sender, amount_minor, source)
    sent = Movement(
        TransactionType.TRANSFER_OUT,
        request.transaction_id,
        (Leg(sender, -amount_minor, lots), Leg(item.clearing, amount_minor)),
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
        or judge_status(batch, sender, NOTHING_LEAVES)
        or judge_policy(batch, request.asset, request.sources)
        or judge_limits(batch, sender, TransactionType.TRANSFER_OUT, amount_minor)
        or judge_balance(sender, -amount_minor, source)
        or judge_receiver(batch, receiver, amount_minor, as_given(lots))
        or judge_stripe(batch, sent.legs[1])
        or judge_stripe(batch, received.legs[1])
        or Movements([sent, received])
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


def judge_status(batch: Batch, account: Account, refused: Set[WalletStatus]) -> WalletClosed | WalletFrozen | None:
    """Refuse what the status of the owner's wallet does not let through: it is one of those that are `refused`."""
    state = state_of(batch, account)
    if state is None or state.status not in refused:
        return None
    if state.status is WalletStatus.CLOSED:
        return WalletClosed(account.asset)
    return WalletFrozen(account.asset, state.status, 0 if state.until is None else unix_us(state.until))


def state_of(batch: Batch, account: Account) -> WalletState | None:
    """Return what has become of an account's wallet; None where nothing has."""
    return batch.states.get(WalletId(account.wallet.shard, account.wallet.id)) if batch.states else None


def present_state(batch: Batch, account: Account) -> WalletState:
    """Return the state of an account's wallet: open since it was opened, where nothing has become of it."""
    wallet = account.wallet
    return state_of(batch, account) or WalletState(wallet.shard, wallet.id, 0, WalletStatus.OPEN, wallet.opened_at)


def judge_policy(batch: Batch, asset: Asset, source: CreditSource | None) -> TransferForbidden | None:
    """Refuse to transfer what owners may not give away."""
    policy = batch.settings.get(asset.id, DEFAULT_SETTING).transfers
    is_forbidden = policy is TransferPolicy.NONE or (
        policy is TransferPolicy.PURCHASED and source is CreditSource.BONUS
    )
    return TransferForbidden(asset, policy) if is_forbidden else None


def source_of(batch: Batch, asset: Asset, source: CreditSource | None) -> CreditSource | None:
    """Return the only source that a transfer takes from, by the asset's policy or the request; None for all."""
    policy = batch.settings.get(asset.id, DEFAULT_SETTING).transfers
    return CreditSource.PURCHASED if policy is TransferPolicy.PURCHASED else source


def has_lots(batch: Batch, asset: Asset) -> bool:
    """Say whether each bonus of an asset is a lot."""
    return batch.settings.get(asset.id, DEFAULT_SETTING).has_lots


def judge_terms(batch: Batch, asset: Asset, terms: LotTerms) -> InvalidExpiry | None:
    """Refuse what a lot cannot be: without lots, over before it begins, or too far away."""
    if terms is DEFAULT_TERMS or terms == DEFAULT_TERMS:
        return None
    if not has_lots(batch, asset):
        return InvalidExpiry(asset, InvalidExpiryReason.LOTS_OFF)
    if terms.has_lapsed(batch.now):
        return InvalidExpiry(asset, InvalidExpiryReason.IN_THE_PAST)
    if terms.expires_at is not None and terms.expires_at > batch.now + EXPIRES_WITHIN:
        return InvalidExpiry(asset, InvalidExpiryReason.TOO_FAR)
    return None


def judge_room(account: Account, lots: Sequence[LotChange]) -> TooMany | None:
    """Refuse to make more lots than an account may have."""
    if count_live(account, lots) <= LIVE_LOTS_MAX:
        return None
    return TooMany(account.asset, Counted.LOTS, LIVE_LOTS_MAX)


def judge_issuance(batch: Batch, request: PostingRequest) -> Forbidden | None:
    """Refuse to issue more in a day than who asks may; it is not kept, for the next day it may."""
    if request.issuer is None:
        return None
    issued = batch.issued.get((request.issuer.name, request.asset.id))
    left_minor = request.issuer.most_minor - (0 if issued is None else issued.amount_minor)
    if request.amount_minor <= left_minor:
        return None
    left, asset = format_minor(max(0, left_minor), request.asset.scale), request.asset.code
    return Forbidden(
        f"amount is more than {left} {asset}, which is left of what your key issues until 00:00 UTC.", "amount"
    )


def judge_receipt(batch: Batch, request: PostingRequest) -> ReceiptUsed | None:
    """Refuse to credit what was credited before, to whomever."""
    used = None if request.receipt is None else batch.credited.get(request.receipt.text)
    return None if used is None else ReceiptUsed(request.asset, *used)


def judge_balance(
    account: Account, amount_minor: int, source: CreditSource | None = None, *, is_return: bool = False
) -> BalanceLimitExceeded | InsufficientBalance | None:
    """Refuse what would take more than is available, or raise a balance above what an owner's account may hold."""
    # What takes from a balance that is above the limit is not refused for that.
    most_minor = BALANCE_MINOR_MAX if is_return else account.balance_max_minor
    if amount_minor > 0 and account.balance_minor + amount_minor > most_minor:
        return BalanceLimitExceeded(account.asset, account.balance_minor, abs(amount_minor), most_minor)
    available_minor = account.available_minor if source is None else available_of(account, source)
    if available_minor + amount_minor < 0:
        return InsufficientBalance(account.asset, available_minor, abs(amount_minor))
    return None


def judge_receiver(
    batch: Batch, account: Account, amount_minor: int, lots: Sequence[LotChange] = (), *, is_return: bool = False
) -> ReceiverRefused | None:
    """Refuse what another owner cannot take, without telling what it holds. Limits do not refuse what comes back."""
    room = judge_room(account, lots) if lots else None
    match (
        judge_status(batch, account, NOTHING_MOVES)
        or room
        or (None if is_return else judge_limits(batch, account, TransactionType.TRANSFER_IN, amount_minor))
        or judge_balance(account, amount_minor, is_return=is_return)
    ):
        case None:
            return None
        case WalletClosed():
            cause = ReceiverCause.CLOSED
        case WalletFrozen():
            cause = ReceiverCause.FROZEN
        case TooMany():
            cause = ReceiverCause.TOO_MANY_LOTS
        case LimitExceeded():
            cause = ReceiverCause.LIMIT
        case _:
            cause = ReceiverCause.FULL
    return ReceiverRefused(account.asset, account.wallet.owner_id, cause)


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
    for owner in owners:
        if owner.executed_at is not None and owner.executed_at > now:
            now = owner.executed_at
    return now
