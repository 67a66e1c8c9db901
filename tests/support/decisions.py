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
from wallet_gql.domain.postings import (
    POSTING_TYPES,
    Outcome,
    Posted,
    PostingRequest,
    Refused,
    TransactionType,
    TransferRequest,
)
from wallet_gql.domain.refusals import Facts, OutcomeCode, details_of
from wallet_gql.domain.wallets import OwnerName, Wallet, WalletKind
from wallet_gql.ledger.batch import Batch, Item, PostingItem, TransferItem
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
