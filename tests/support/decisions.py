"""Decisions without a database: accounts, items and batches as they are under the locks, and what comes of them."""

from copy import deepcopy
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any, Final
from uuid import uuid4

import orjson
from uuid_utils.compat import uuid7

from wallet_gql.domain.assets import Asset, AssetSetting, TransferPolicy
from wallet_gql.domain.errors import Fault, Unavailable
from wallet_gql.domain.holds import Hold, HoldStepKind
from wallet_gql.domain.postings import (
    POSTING_TYPES,
    HoldRequest,
    Outcome,
    Posted,
    PostingRequest,
    Refused,
    Remainder,
    RequestKind,
    ReverseRequest,
    StateRequest,
    TransactionType,
    TransactionView,
    TransferRequest,
)
from wallet_gql.domain.refusals import Facts, OutcomeCode, details_of
from wallet_gql.domain.wallets import OwnerName, Wallet, WalletKind
from wallet_gql.ledger.batch import Batch, HoldItem, Item, PostingItem, Remains, ReverseItem, StateItem, TransferItem
from wallet_gql.ledger.decide import decide
from wallet_gql.ledger.heads import Account, KeptAnswer, KeyName
from wallet_gql.ledger.rows import KeptRow

GOLD: Final = Asset(1, "GOLD", "Gold Coins", 0)
NOW: Final = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
MICROSECOND: Final = timedelta(microseconds=1)
TOP_UP, BONUS, SPEND = POSTING_TYPES
OUT, IN = TransactionType.TRANSFER_OUT, TransactionType.TRANSFER_IN

numbers = count(1)


def account(shard: int, balance_minor: int = 0, kind: WalletKind = WalletKind.USER, **more: Any) -> Account:
    """Make an account as its lock and its head give it; one that was used has an entry behind it."""
    number = next(numbers)
    wallet = Wallet(shard, number, f"owner-{number}" if kind is WalletKind.USER else "0", NOW)
    head = {"id": 1000 + number, "seq": 7, "executed_at": NOW - timedelta(hours=1), "balance_minor": balance_minor}
    return Account(wallet, kind, GOLD, **{**head, **more})


def batch(policy: TransferPolicy | None = None) -> Batch:
    return Batch(NOW, {}, {} if policy is None else {GOLD.id: AssetSetting(policy)})


def posting(
    owner: Account, treasury: Account, amount: int = 10, type_: TransactionType = TOP_UP, **more: Any
) -> PostingItem:
    key = more.pop("key", None) or uuid4()
    wallet = owner.wallet
    request = PostingRequest(wallet.shard, wallet.owner_id, type_, GOLD, amount, key, **more)
    return PostingItem(request, KeyName(wallet.shard, wallet.id, key), owner, treasury)


def transfer(
    sender: Account,
    receiver: Account | None,
    clearing: Account,
    receiver_clearing: Account | None = None,
    amount: int = 10,
    **more: Any,
) -> TransferItem:
    """Make a transfer; without a second clearing account both owners are in one shard, and without a receiver too."""
    key = more.pop("key", None) or uuid4()
    receiver_clearing = receiver_clearing or clearing
    to = "nobody" if receiver is None else receiver.wallet.owner_id
    request = TransferRequest(
        OwnerName(sender.wallet.shard, sender.wallet.owner_id),
        OwnerName(receiver_clearing.wallet.shard, to),
        GOLD,
        amount,
        key,
        **more,
    )
    key_name = KeyName(sender.wallet.shard, sender.wallet.id, key)
    return TransferItem(request, key_name, sender, clearing, receiver, receiver_clearing)


def hold_of(owner: Account, amount: int, held_until: datetime, receiver: OwnerName | None = None, **more: Any) -> Hold:
    """Let an account hold so much more, for another owner or for the treasury; what is captured of it is `captured`."""
    captured = more.pop("captured", 0)
    hold = Hold(
        owner.wallet.shard, uuid7(), owner.id, owner.seq, owner.wallet, owner.asset, receiver, uuid4(), None, None,
        NOW - timedelta(hours=1), 1, HoldStepKind.PLACED, amount, captured, 0, int(captured > 0), held_until,
        NOW - timedelta(hours=1), NOW,
    )  # fmt: skip
    owner.holds[hold.id] = hold
    owner.held_minor += hold.remaining_minor
    owner.held_seq, owner.position = owner.seq, owner.position or owner.seq
    owner.look_ahead()
    return hold


def changing_hold(made: Batch, hold: Hold, owner: Account, kind: RequestKind, amount: int | None = None) -> HoldItem:
    """Make a change of a hold that is paid to the treasury."""
    key, wallet = uuid4(), owner.wallet
    made.holds[hold.name] = hold
    stripe = account(wallet.shard, 0, WalletKind.TREASURY) if kind is RequestKind.CAPTURE_HOLD else None
    request = HoldRequest(kind, hold, amount, key)
    return HoldItem(request, KeyName(wallet.shard, wallet.id, key), owner, stripe, None, None)


def reversing(kind: RequestKind, owner: Account, type_: TransactionType, amount: int) -> ReverseItem:
    """Make a refund or a clawback of all that a transaction moved."""
    key, wallet = uuid4(), owner.wallet
    original = TransactionView(
        wallet.shard, owner.id, 1, wallet.id, GOLD, uuid7(), type_, type_.sign * amount, 0, NOW, None, None, uuid4()
    )
    request = ReverseRequest(kind, original, OwnerName(wallet.shard, wallet.owner_id), None, None, key)
    stripe = account(wallet.shard, 0, WalletKind.TREASURY)
    return ReverseItem(request, KeyName(wallet.shard, wallet.id, key), owner, stripe, None, None, None)


def changing(kind: RequestKind, owner: Account, remains: tuple[Remains, ...] = (), **more: Any) -> StateItem:
    """Make a change of what becomes of a wallet."""
    wallet, key = owner.wallet, uuid4()
    name = OwnerName(wallet.shard, wallet.owner_id)
    request = StateRequest(kind, name, GOLD, key, **more)
    return StateItem(request, KeyName(wallet.shard, wallet.id, key), owner, None, remains)


def closing(owner: Account, remainder: Remainder = Remainder.FORFEIT, receiver: Account | None = None) -> StateItem:
    """Make a closing of a wallet; what remains is forfeited, or another owner gets it."""
    treasury = account(owner.wallet.shard, kind=WalletKind.TREASURY)
    clearing = account(owner.wallet.shard, kind=WalletKind.CLEARING)
    remains = Remains(owner, treasury, treasury if receiver is None else clearing, receiver, clearing)
    to = None if receiver is None else OwnerName(receiver.wallet.shard, receiver.wallet.owner_id)
    item = changing(RequestKind.CLOSE, owner, (remains,), remainder=remainder, receiver=to)
    return item._replace(receiver=None if receiver is None else receiver.wallet)


def same(item: Item) -> Item:
    """Return what arrives when a caller asks for the same again."""
    return item._replace(request=replace(item.request, transaction_id=uuid7()))  # type: ignore[arg-type]


def posted(outcome: Outcome | Fault) -> Posted:
    assert isinstance(outcome, Posted), outcome
    return outcome


def refused(outcome: Outcome | Fault) -> Refused:
    assert isinstance(outcome, Refused), outcome
    return outcome


def kept_rows(made: Batch) -> list[Any]:
    """Return the rows of keys that are not answered with a transaction."""
    return list(made.others.get(KeptRow, ()))


def decide_without_moving(made: Batch, item: Item) -> Outcome | Fault:
    """Decide what must not be posted: no head moves, and nothing is appended but a refusal."""

    def moved() -> tuple[object, ...]:
        others = {row: rows for row, rows in made.others.items() if row is not KeptRow}
        return item.accounts, made.transactions, made.entries, others, made.holds

    before = deepcopy(moved())
    outcome = decide(made, item)
    assert moved() == before
    return outcome


def assert_refused(made: Batch, item: Item, facts: Facts) -> None:
    """Decide a request that is refused, and see that the refusal is kept as it is."""
    kept = len(kept_rows(made))
    outcome = refused(decide_without_moving(made, item))
    assert outcome == Refused(facts, item.owner.balance(), already_processed=False)
    [row] = kept_rows(made)[kept:]
    details = row.details
    assert row == KeptRow(*item.key, item.request.fingerprint, facts.code, item.request.transaction_id, NOW, details)
    assert orjson.loads(details) == details_of(facts)


def assert_unavailable(made: Batch, item: Item, alarm: str, **where: object) -> None:
    """Decide a request that is not answered for good: nothing is kept, and the operator is told."""
    outcome = decide_without_moving(made, item)
    assert isinstance(outcome, Unavailable)
    assert str(outcome) == f"Nothing was posted: {alarm}."
    assert (kept_rows(made), item.key in made.answered) == ([], False)
    assert made.alarms == {alarm: where}


def kept(item: Item, outcome: OutcomeCode, details: str | None = None, **more: Any) -> KeptAnswer:
    """Return what the books say of an item's key."""
    name, request = item.key, item.request
    none = dict.fromkeys(KeptAnswer._fields[7:])
    return KeptAnswer(*name, request.fingerprint, outcome, request.transaction_id, details, **{**none, **more})
