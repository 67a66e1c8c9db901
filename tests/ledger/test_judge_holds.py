"""The decisions on holds alone, without a database: every outcome, which one wins, and what it leaves in the batch."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import uuid4

import orjson
import pytest
from decisions import (
    GOLD,
    MICROSECOND,
    NOW,
    SPEND,
    account,
    assert_refused,
    assert_unavailable,
    batch,
    decide_without_moving,
    kept,
    kept_rows,
    posted,
    posting,
    refused,
    same,
)
from uuid_utils.compat import uuid7

from wallet_gql.domain.assets import AssetSetting, TransferPolicy
from wallet_gql.domain.errors import Fault
from wallet_gql.domain.holds import CAPTURES_MAX, OPEN_HOLDS_MAX, TTL_SECONDS_MAX, Hold, HoldState, HoldStepKind
from wallet_gql.domain.money import BALANCE_MINOR_MAX, TREASURY_MINOR_MAX
from wallet_gql.domain.postings import (
    Held,
    HoldRequest,
    KeyReused,
    Outcome,
    PlaceHoldRequest,
    RequestKind,
    TransactionName,
    TransactionType,
    WalletMissing,
)
from wallet_gql.domain.refusals import (
    Counted,
    Facts,
    HoldExceeded,
    HoldNotOpen,
    InsufficientBalance,
    OutcomeCode,
    ReceiverCause,
    ReceiverRefused,
    TooMany,
    TransferForbidden,
    details_of,
)
from wallet_gql.domain.wallets import Balance, OwnerName, Wallet, WalletKind
from wallet_gql.ledger.batch import Batch, HoldItem, PlaceItem
from wallet_gql.ledger.decide import book_due, decide
from wallet_gql.ledger.heads import Account, KeyName
from wallet_gql.ledger.judge import HEAD_AHEAD_MAX
from wallet_gql.ledger.recall import held_names, recall
from wallet_gql.ledger.rows import EntryRow, HoldRow, HoldStepRow, KeptRow, OwnersEntryRow

DAY: Final = timedelta(days=1)
AHEAD: Final = NOW + HEAD_AHEAD_MAX + MICROSECOND
PLACED_AT: Final = NOW - timedelta(hours=1)

CAPTURE, VOID, ADJUST = RequestKind.CAPTURE_HOLD, RequestKind.VOID_HOLD, RequestKind.ADJUST_HOLD
CHANGES: Final = (CAPTURE, VOID, ADJUST)


def held(outcome: Outcome | Fault) -> Held:
    assert isinstance(outcome, Held), outcome
    return outcome


def place(owner: Account, amount: int = 10, receiver: Wallet | str | None = None, **more: Any) -> PlaceItem:
    """Make a hold to place; a receiver that is only named has no wallet."""
    key, wallet = more.pop("key", None) or uuid4(), owner.wallet
    to = None
    if receiver is not None:
        to = OwnerName(2, receiver) if isinstance(receiver, str) else OwnerName(receiver.shard, receiver.owner_id)
    request = PlaceHoldRequest(
        OwnerName(wallet.shard, wallet.owner_id), to, GOLD, amount, more.pop("ttl_seconds", 3600), key, **more
    )
    has_wallet = isinstance(receiver, Wallet)
    return PlaceItem(request, KeyName(wallet.shard, wallet.id, key), owner, receiver if has_wallet else None)  # type: ignore[arg-type]


@dataclass
class Books:
    """A batch on an owner with 100, 60 of them held until tomorrow by a hold with a receiver or without."""

    batch: Batch
    owner: Account
    stripe: Account
    hold: Hold
    receiver: Account | None = None
    receiver_clearing: Account | None = None

    def item(self, kind: RequestKind, amount: int | None = None, **more: Any) -> HoldItem:
        key, name = more.pop("key", None) or uuid4(), self.owner.wallet
        request = HoldRequest(kind, more.pop("hold", self.hold), amount, key, **more)
        sides = (self.stripe, self.receiver, self.receiver_clearing) if kind is CAPTURE else (None, None, None)
        return HoldItem(request, KeyName(name.shard, name.id, key), self.owner, *sides)

    def now_is(self, **columns: Any) -> None:
        """Let the hold be otherwise."""
        self.hold = replace(self.hold, **columns)
        self.batch.holds[self.hold.name] = self.hold
        self.owner.holds.pop(self.hold.id, None)
        if self.hold.remaining_minor:
            self.owner.holds[self.hold.id] = self.hold
        self.owner.held_minor = sum(hold.remaining_minor for hold in self.owner.holds.values())
        self.owner.next_due_at = min((hold.held_until for hold in self.owner.holds.values()), default=None)

    def another(self, amount: int, held_until: datetime = NOW + DAY) -> Hold:
        """Hold more."""
        hold = replace(
            self.hold, id=uuid7(), amount_minor=amount, captured_minor=0, released_minor=0, held_until=held_until
        )
        self.owner.holds[hold.id] = self.batch.holds[hold.name] = hold
        self.owner.held_minor += amount
        self.owner.next_due_at = min(each.held_until for each in self.owner.holds.values())
        return hold

    def figures(self) -> tuple[int, int]:
        return self.owner.balance_minor, self.owner.held_minor


def books_of(stripe: Account, receiver: Account | None = None, receiver_clearing: Account | None = None) -> Books:
    owner = account(1, 100, held_seq=7, position=6)
    name = None if receiver is None else OwnerName(receiver.wallet.shard, receiver.wallet.owner_id)
    hold = Hold(
        1, uuid7(), owner.id, 7, owner.wallet, GOLD, name, uuid4(), "Sword", "r-1", PLACED_AT, 1, HoldStepKind.PLACED,
        60, 0, 0, 0, NOW + DAY, PLACED_AT, NOW,
    )  # fmt: skip
    books = Books(batch(), owner, stripe, hold, receiver, receiver_clearing)
    books.now_is()
    return books


@pytest.fixture
def books() -> Books:
    return books_of(account(1, -500, WalletKind.TREASURY))


@pytest.fixture
def escrow() -> Books:
    """A hold of an owner in shard 1 for one in shard 2, which has 5."""
    return books_of(account(1, 30, WalletKind.CLEARING), account(2, 5), account(2, -30, WalletKind.CLEARING))


def other_rows(made: Batch) -> tuple[list[Any], list[Any], list[Any]]:
    """Return the held entries, the holds and the steps."""
    return made.others[OwnersEntryRow], made.others[HoldRow], made.others[HoldStepRow]


def test_the_first_hold_of_an_account_is_an_entry_that_moves_nothing() -> None:
    owner, made = account(1, 100), batch()
    item = place(owner, 60, description="Sword", reference="r-1")
    request = item.request
    outcome = held(decide(made, item))
    ends, id_ = NOW + timedelta(hours=1), request.transaction_id
    assert (owner.seq, owner.balance_minor, owner.held_minor, owner.available_minor) == (8, 100, 60, 40)
    assert (owner.held_seq, owner.position, owner.next_due_at, owner.executed_at) == (8, 7, ends, NOW)
    assert (made.transactions, made.entries) == ([], [])
    assert other_rows(made) == (
        [OwnersEntryRow(1, owner.id, 8, id_, 51, 0, 100, False, NOW, 60, 8, 7, ends, None, None, None, None)],
        [HoldRow(1, id_, owner.id, 8, owner.wallet.id, None, None, request.idempotency_key, "Sword", "r-1", None)],
        [HoldStepRow(1, id_, 1, 51, id_, owner.id, 8, 60, 0, 0, 60, 0, ends, NOW, f"{{{id_}}}", None, None)],
    )
    [key] = kept_rows(made)
    assert key[:-1] == KeptRow(*item.key, request.fingerprint, OutcomeCode.HELD, id_, NOW, "")[:-1]
    assert orjson.loads(key.details) == {"hold_id": str(id_), "asset_id": GOLD.id}
    hold = outcome.hold
    assert (hold.state, hold.step, hold.seq, hold.placed_at, hold.held_until) == (HoldState.OPEN, 1, 8, NOW, ends)
    assert (outcome.balance, outcome.transaction) == (Balance(owner.wallet, GOLD, 100, 8, 60), None)
    assert not outcome.already_processed


def test_a_hold_for_another_owner_names_its_wallet(escrow: Books) -> None:
    assert escrow.receiver is not None
    wallet = escrow.receiver.wallet
    item = place(escrow.owner, 10, wallet)
    assert held(decide(escrow.batch, item)).hold.receiver == OwnerName(2, wallet.owner_id)
    _, [row], _ = other_rows(escrow.batch)
    assert (row.receiver_shard, row.receiver_wallet_id) == (2, wallet.id)


def test_what_follows_the_first_hold_says_what_is_held(books: Books) -> None:
    item = posting(books.owner, books.stripe, 40, SPEND)
    outcome = posted(decide(books.batch, item))
    assert outcome.balance == Balance(books.owner.wallet, GOLD, 60, 8, 60)
    [row], _, _ = other_rows(books.batch)
    assert row[:5] == (1, books.owner.id, 8, item.request.transaction_id, SPEND)
    assert row[5:] == (-40, 60, False, NOW, 60, 7, 7, NOW + DAY, None, None, None, None)
    # The stripe's entry has nothing of it.
    assert [type(entry) for entry in books.batch.entries] == [EntryRow]


def test_what_is_held_can_be_neither_spent_nor_held_again(books: Books) -> None:
    assert_refused(books.batch, posting(books.owner, books.stripe, 41, SPEND), InsufficientBalance(GOLD, 40, 41))
    assert_refused(books.batch, place(books.owner, 41), InsufficientBalance(GOLD, 40, 41))
    held(decide(books.batch, place(books.owner, 40)))
    assert books.figures() == (100, 100)


# What can be wrong with a hold for another owner, in the order in which it wins.
PLACE_FAULTS: Final[dict[str, Callable[[Books], object]]] = {
    "the clock": lambda books: setattr(books.owner, "executed_at", AHEAD),
    "the policy": lambda books: setattr(books.batch, "settings", {GOLD.id: AssetSetting(TransferPolicy.NONE)}),
    "too many": lambda books: [books.another(1) for _ in range(OPEN_HOLDS_MAX - 1)],
    "the balance": lambda books: setattr(books.owner, "balance_minor", books.owner.held_minor + 9),
}


def expect_place(fault: str, books: Books, receiver: Wallet | None) -> None:
    item = place(books.owner, 10, receiver)
    match fault:
        case "the clock":
            wallet_id = books.owner.wallet.id
            assert_unavailable(books.batch, item, "wallet_ahead_of_clock", shard=1, wallet_id=wallet_id,
                               ahead_seconds=60)  # fmt: skip
        case "the policy":
            assert_refused(books.batch, item, TransferForbidden(GOLD, TransferPolicy.NONE))
        case "too many":
            assert_refused(books.batch, item, TooMany(GOLD, Counted.HOLDS, OPEN_HOLDS_MAX))
        case _:
            assert_refused(books.batch, item, InsufficientBalance(GOLD, 9, 10))


def plant(books: Books, faults: dict[str, Callable[[Books], object]]) -> None:
    # The last first: the balance depends on how much is held.
    for fault in faults.values():
        fault(books)


@pytest.mark.parametrize("number", range(len(PLACE_FAULTS)))
def test_what_is_wrong_with_a_hold_wins_over_what_comes_after_it(escrow: Books, number: int) -> None:
    left = dict(list(PLACE_FAULTS.items())[number:])
    plant(escrow, left)
    assert escrow.receiver is not None
    expect_place(next(iter(left)), escrow, escrow.receiver.wallet)


@pytest.mark.parametrize("fault", PLACE_FAULTS)
def test_a_hold_is_not_placed_for(escrow: Books, fault: str) -> None:
    PLACE_FAULTS[fault](escrow)
    if fault != "the balance":
        escrow.owner.balance_minor = 1000
    assert escrow.receiver is not None
    expect_place(fault, escrow, escrow.receiver.wallet)


def test_a_missing_receiver_wins_over_everything_and_is_not_kept(escrow: Books) -> None:
    plant(escrow, PLACE_FAULTS)
    item = place(escrow.owner, 10, "nobody")
    assert decide_without_moving(escrow.batch, item) == WalletMissing("nobody")
    assert (kept_rows(escrow.batch), escrow.batch.answered, escrow.batch.alarms) == ([], {}, {})


def test_the_policy_does_not_matter_to_a_hold_that_the_treasury_is_paid_from(books: Books) -> None:
    PLACE_FAULTS["the policy"](books)
    held(decide(books.batch, place(books.owner, 10)))


def test_the_policy_does_not_matter_to_what_was_promised_before_it(escrow: Books) -> None:
    PLACE_FAULTS["the policy"](escrow)
    held(decide(escrow.batch, escrow.item(CAPTURE)))
    assert escrow.figures() == (40, 0)


def test_a_hold_can_be_the_hundredth(books: Books) -> None:
    books.owner.balance_minor = 1000
    for _ in range(OPEN_HOLDS_MAX - 2):
        books.another(1)
    held(decide(books.batch, place(books.owner, 1)))
    assert_refused(books.batch, place(books.owner, 1), TooMany(GOLD, Counted.HOLDS, OPEN_HOLDS_MAX))
    held(decide(books.batch, books.item(VOID)))
    held(decide(books.batch, place(books.owner, 1)))


@pytest.mark.parametrize("seconds", [0, 30])
def test_a_hold_ends_its_ttl_after_it_was_placed(seconds: int) -> None:
    owner = account(1, 100, executed_at=NOW + timedelta(seconds=seconds))
    hold = held(decide(batch(), place(owner, 1, ttl_seconds=5))).hold
    assert hold.placed_at == hold.changed_at == NOW + timedelta(seconds=seconds)
    assert hold.held_until == NOW + timedelta(seconds=seconds + 5)


def test_a_capture_moves_what_it_takes_and_releases_the_rest(books: Books) -> None:
    item = books.item(CAPTURE, 25, description="Paid")
    outcome = held(decide(books.batch, item))
    request, owner, stripe, id_ = item.request, books.owner, books.stripe, books.hold.id
    assert (owner.balance_minor, owner.held_minor, owner.seq, owner.held_seq, owner.position) == (75, 0, 8, 8, 7)
    assert (owner.next_due_at, owner.holds) == (None, {})
    assert (stripe.balance_minor, stripe.seq, stripe.held_seq) == (-475, 8, None)
    [transaction] = books.batch.transactions
    assert (transaction.type, transaction.idempotency_key, transaction.fingerprint) == (
        TransactionType.CAPTURE, request.idempotency_key, request.fingerprint,
    )  # fmt: skip
    assert other_rows(books.batch) == (
        [
            OwnersEntryRow(
                1, owner.id, 8, request.transaction_id, 6, -25, 75, False, NOW, 0, 8, 7, None, None, None, None, None
            )
        ],
        [],
        [
            HoldStepRow(
                1, id_, 2, 52, request.transaction_id, owner.id, 8, 60, 25, 35, -60, 1, NOW + DAY, NOW, "{}", None, None
            )
        ],
    )
    assert books.batch.entries == [
        EntryRow(1, stripe.id, 8, 25, -475, True),
    ]
    assert kept_rows(books.batch) == []
    assert (outcome.hold.state, outcome.hold.captured_minor, outcome.hold.released_minor) == (
        HoldState.CAPTURED,
        25,
        35,
    )
    view = outcome.transaction
    assert view is not None
    assert (view.type, view.amount_minor, view.balance_after_minor, view.seq) == (TransactionType.CAPTURE, -25, 75, 8)
    assert outcome.balance == Balance(owner.wallet, GOLD, 75, 8, 0)


@pytest.mark.parametrize(
    ("amount", "keep", "captured", "remaining", "state"),
    [
        (None, False, 60, 0, HoldState.CAPTURED),
        (None, True, 60, 0, HoldState.CAPTURED),
        (60, False, 60, 0, HoldState.CAPTURED),
        (60, True, 60, 0, HoldState.CAPTURED),
        (1, True, 1, 59, HoldState.OPEN),
        (1, False, 1, 0, HoldState.CAPTURED),
    ],
)
def test_a_capture_leaves(
    books: Books, amount: int | None, captured: int, remaining: int, state: HoldState, *, keep: bool
) -> None:
    hold = held(decide(books.batch, books.item(CAPTURE, amount, keep_remainder=keep))).hold
    assert (hold.captured_minor, hold.remaining_minor, hold.state, hold.capture_count) == (
        captured, remaining, state, 1,
    )  # fmt: skip
    assert books.figures() == (100 - captured, remaining)


def test_an_escrow_s_capture_is_a_transfer(escrow: Books) -> None:
    item = escrow.item(CAPTURE, 25)
    outcome, request = held(decide(escrow.batch, item)), item.request
    assert escrow.receiver is not None
    assert escrow.receiver_clearing is not None
    assert [(row.type, row.shard, row.counterpart_id, row.idempotency_key) for row in escrow.batch.transactions] == [
        (TransactionType.TRANSFER_OUT, 1, request.receiving_id, request.idempotency_key),
        (TransactionType.TRANSFER_IN, 2, request.transaction_id, None),
    ]
    assert escrow.figures() == (75, 0)
    assert (escrow.stripe.balance_minor, escrow.receiver.balance_minor, escrow.receiver_clearing.balance_minor) == (
        55, 30, -55,
    )  # fmt: skip
    # The hold's step is of the owner's entry alone.
    entries, _, steps = other_rows(escrow.batch)
    assert [row.account_id for row in entries] == [row.account_id for row in steps] == [escrow.owner.id]
    assert len(escrow.batch.entries) == 3
    view = outcome.transaction
    assert view is not None
    assert (view.type, view.counterpart) == (TransactionType.TRANSFER_OUT, TransactionName(2, request.receiving_id))


@pytest.mark.parametrize("seconds", [-1, 30])
def test_an_escrow_s_capture_is_at_the_latest_of_the_clock_and_both_owners(escrow: Books, seconds: int) -> None:
    assert escrow.receiver is not None
    escrow.receiver.executed_at = NOW + timedelta(seconds=seconds)
    held(decide(escrow.batch, escrow.item(CAPTURE)))
    entries, _, steps = other_rows(escrow.batch)
    times = {row.executed_at or NOW for row in (*escrow.batch.transactions, *entries)}
    assert times == {row.at for row in steps} == {NOW + timedelta(seconds=max(seconds, 0))}


def exhaust(stripe: Account | None, end: int) -> None:
    assert stripe is not None
    stripe.balance_minor = end


def fill(books: Books) -> None:
    assert books.receiver is not None
    books.receiver.balance_minor = BALANCE_MINOR_MAX - 9


# What can be wrong with the capture of 10 of an escrow, in the order in which it wins.
CAPTURE_FAULTS: Final[dict[str, Callable[[Books], object]]] = {
    "the owner is ahead": lambda books: setattr(books.owner, "executed_at", AHEAD),
    "the receiver is ahead": lambda books: setattr(books.receiver, "executed_at", AHEAD),
    "the time is over": lambda books: books.now_is(held_until=NOW),
    "more than remains": lambda books: books.now_is(captured_minor=51),
    "too many captures": lambda books: books.now_is(capture_count=CAPTURES_MAX),
    "the receiver is full": fill,
    "the owner's stripe": lambda books: exhaust(books.stripe, TREASURY_MINOR_MAX - 9),
    "the receiver's stripe": lambda books: exhaust(books.receiver_clearing, 9 - TREASURY_MINOR_MAX),
}


def expect_capture(fault: str, books: Books) -> None:
    """Decide a capture of 10 that ends by this fault, and nothing else."""
    item, made, receiver = books.item(CAPTURE, 10), books.batch, books.receiver
    assert receiver is not None
    match fault:
        case "the owner is ahead" | "the receiver is ahead":
            wallet = (books.owner if fault == "the owner is ahead" else receiver).wallet
            where = {"shard": wallet.shard, "wallet_id": wallet.id, "ahead_seconds": 60}
            assert_unavailable(made, item, "wallet_ahead_of_clock", **where)
        case "the time is over":
            assert_refused(made, item, HoldNotOpen(GOLD, books.hold.id, HoldState.EXPIRED))
        case "more than remains":
            assert_refused(made, item, HoldExceeded(GOLD, books.hold.id, 9, 10))
        case "too many captures":
            assert_refused(made, item, TooMany(GOLD, Counted.CAPTURES, CAPTURES_MAX))
        case "the receiver is full":
            assert_refused(made, item, ReceiverRefused(GOLD, receiver.wallet.owner_id, ReceiverCause.FULL))
        case _:
            shard = 1 if fault == "the owner's stripe" else 2
            assert_unavailable(made, item, "clearing_stripe_exhausted", shard=shard, slot="0", asset="GOLD")


@pytest.mark.parametrize("fault", CAPTURE_FAULTS)
def test_a_hold_is_not_captured_for(escrow: Books, fault: str) -> None:
    CAPTURE_FAULTS[fault](escrow)
    expect_capture(fault, escrow)


@pytest.mark.parametrize("number", range(len(CAPTURE_FAULTS)))
def test_what_is_wrong_with_a_capture_wins_over_what_comes_after_it(escrow: Books, number: int) -> None:
    left = dict(list(CAPTURE_FAULTS.items())[number:])
    plant(escrow, left)
    expect_capture(next(iter(left)), escrow)


def test_the_treasury_s_stripe_may_be_at_its_end(books: Books) -> None:
    books.stripe.balance_minor = TREASURY_MINOR_MAX - 9
    item = books.item(CAPTURE, 10)
    assert_unavailable(books.batch, item, "treasury_stripe_exhausted", shard=1, slot="0", asset="GOLD")
    held(decide(books.batch, books.item(CAPTURE, 9)))


def test_the_fiftieth_capture_passes(books: Books) -> None:
    books.now_is(capture_count=CAPTURES_MAX - 1)
    held(decide(books.batch, books.item(CAPTURE, 1, keep_remainder=True)))
    assert_refused(books.batch, books.item(CAPTURE, 1), TooMany(GOLD, Counted.CAPTURES, CAPTURES_MAX))
    # What cannot be captured any more can still be released.
    assert held(decide(books.batch, books.item(VOID))).hold.state is HoldState.VOIDED


CLOSED: Final[dict[str, tuple[dict[str, Any], HoldState]]] = {
    "captured": ({"kind": HoldStepKind.CAPTURED, "captured_minor": 60}, HoldState.CAPTURED),
    "captured in part": (
        {"kind": HoldStepKind.CAPTURED, "captured_minor": 5, "released_minor": 55}, HoldState.CAPTURED,
    ),
    "adjusted to what was captured": (
        {"kind": HoldStepKind.ADJUSTED, "captured_minor": 5, "amount_minor": 5}, HoldState.CAPTURED,
    ),
    "voided": ({"kind": HoldStepKind.VOIDED, "released_minor": 60}, HoldState.VOIDED),
    "voided after a capture": (
        {"kind": HoldStepKind.VOIDED, "captured_minor": 5, "released_minor": 55}, HoldState.VOIDED,
    ),
    "expired": ({"kind": HoldStepKind.EXPIRED, "released_minor": 60, "held_until": NOW - DAY}, HoldState.EXPIRED),
    "voided and past its time": (
        {"kind": HoldStepKind.VOIDED, "released_minor": 60, "held_until": NOW - DAY}, HoldState.VOIDED,
    ),
    "over this moment": ({"held_until": NOW}, HoldState.EXPIRED),
    "over after a capture": (
        {"kind": HoldStepKind.CAPTURED, "captured_minor": 5, "held_until": NOW - DAY}, HoldState.EXPIRED,
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", CHANGES)
@pytest.mark.parametrize("closed", CLOSED)
def test_a_hold_that_is_not_open_does_not_change(books: Books, closed: str, kind: RequestKind) -> None:
    columns, state = CLOSED[closed]
    books.now_is(**columns)
    assert books.hold.state is state
    # More than there is, too: that it is closed wins.
    for amount in (None, 1, 1000):
        assert_refused(books.batch, books.item(kind, amount), HoldNotOpen(GOLD, books.hold.id, state))


@pytest.mark.parametrize("kind", CHANGES)
def test_a_hold_is_open_until_the_last_moment(books: Books, kind: RequestKind) -> None:
    books.now_is(held_until=NOW + MICROSECOND)
    held(decide(books.batch, books.item(kind, 1 if kind is CAPTURE else None)))


@pytest.mark.parametrize("kind", CHANGES)
def test_the_clock_wins_over_a_hold_that_is_closed(books: Books, kind: RequestKind) -> None:
    books.now_is(**CLOSED["voided"][0])
    books.owner.executed_at = AHEAD
    where = {"shard": 1, "wallet_id": books.owner.wallet.id, "ahead_seconds": 60}
    assert_unavailable(books.batch, books.item(kind, 1), "wallet_ahead_of_clock", **where)


def test_what_is_asked_for_is_judged_by_the_hold_as_it_is_not_as_it_was_found(books: Books) -> None:
    found = books.hold
    books.now_is(captured_minor=51)
    assert_refused(books.batch, books.item(CAPTURE, 10, hold=found), HoldExceeded(GOLD, found.id, 9, 10))


@pytest.mark.parametrize("captured", [0, 5])
def test_a_void_releases_what_remains(books: Books, captured: int) -> None:
    books.now_is(captured_minor=captured, step=4)
    item = books.item(VOID)
    outcome = held(decide(books.batch, item))
    assert (outcome.hold.state, outcome.hold.captured_minor, outcome.hold.released_minor) == (
        HoldState.VOIDED, captured, 60 - captured,
    )  # fmt: skip
    assert (books.figures(), outcome.transaction) == ((100, 0), None)
    id_, owner = item.request.transaction_id, books.owner
    entries, holds, steps = other_rows(books.batch)
    assert entries == [
        OwnersEntryRow(1, owner.id, 8, id_, 54, 0, 100, False, NOW, 0, 8, 6, None, None, None, None, None)
    ]
    assert holds == []
    change, released = captured - 60, 60 - captured
    assert steps == [
        HoldStepRow(
            1, books.hold.id, 5, 54, id_, owner.id, 8, 60, captured, released, change, 0, NOW + DAY, NOW, "{}",
            None, None,
        )
    ]  # fmt: skip
    assert (books.batch.transactions, books.batch.entries) == ([], [])


@pytest.mark.parametrize(
    ("amount", "held_minor", "facts"),
    [
        (105, 100, None),
        (106, 55, InsufficientBalance(GOLD, 45, 46)),
        (60, 55, None),
        (6, 1, None),
        (5, 0, None),
        (4, 55, HoldExceeded),
        (1, 55, HoldExceeded),
    ],
)
def test_a_hold_of_60_with_5_captured_is_adjusted_to(
    books: Books, amount: int, held_minor: int, facts: InsufficientBalance | type[HoldExceeded] | None
) -> None:
    books.now_is(captured_minor=5)
    item = books.item(ADJUST, amount)
    if facts is None:
        hold = held(decide(books.batch, item)).hold
        assert hold.state is (HoldState.OPEN if amount > 5 else HoldState.CAPTURED)
        assert (hold.amount_minor, hold.held_until) == (amount, NOW + DAY)
    elif isinstance(facts, InsufficientBalance):
        assert_refused(books.batch, item, facts)
    else:
        assert_refused(books.batch, item, HoldExceeded(GOLD, books.hold.id, 55, amount))
    assert books.figures() == (100, held_minor)


def test_a_raise_needs_only_what_is_more(books: Books) -> None:
    assert_refused(books.batch, books.item(ADJUST, 101), InsufficientBalance(GOLD, 40, 41))
    held(decide(books.batch, books.item(ADJUST, 100)))
    assert books.figures() == (100, 100)
    # All is held, and less may be.
    held(decide(books.batch, books.item(ADJUST, 99)))
    assert_refused(books.batch, books.item(ADJUST, 101), InsufficientBalance(GOLD, 1, 2))


LONG: Final = TTL_SECONDS_MAX


@pytest.mark.parametrize(
    ("ttl_seconds", "head", "held_until"),
    [
        (None, NOW, NOW + DAY),
        (1, NOW, NOW + timedelta(seconds=1)),
        (1, NOW + timedelta(seconds=30), NOW + timedelta(seconds=31)),
        (LONG - 3600, NOW, PLACED_AT + timedelta(seconds=LONG)),
        (LONG - 3599, NOW, PLACED_AT + timedelta(seconds=LONG)),
        (LONG - 3601, NOW, PLACED_AT + timedelta(seconds=LONG - 1)),
        (LONG, NOW, PLACED_AT + timedelta(seconds=LONG)),
    ],
)
def test_a_new_ttl_counts_from_now_and_ends_31_days_after_the_hold_was_placed(
    books: Books, ttl_seconds: int | None, head: datetime, held_until: datetime
) -> None:
    books.owner.executed_at = head
    outcome = held(decide(books.batch, books.item(ADJUST, 61, ttl_seconds=ttl_seconds)))
    assert (outcome.hold.held_until, outcome.hold.placed_at) == (held_until, PLACED_AT)
    assert books.owner.next_due_at == held_until
    _, _, [step] = other_rows(books.batch)
    assert step.held_until == held_until


def test_a_new_ttl_alone_changes_nothing_that_is_held(books: Books) -> None:
    hold = held(decide(books.batch, books.item(ADJUST, ttl_seconds=5))).hold
    assert (hold.amount_minor, books.figures()) == (60, (100, 60))
    _, _, [step] = other_rows(books.batch)
    assert (step.change, step.kind) == (0, 53)


def test_several_changes_of_one_hold_in_one_batch_follow_each_other(books: Books) -> None:
    later = books.another(10, NOW + 2 * DAY)
    decided = [
        decide(books.batch, item)
        for item in (
            books.item(CAPTURE, 10, keep_remainder=True),
            books.item(ADJUST, 70),
            books.item(CAPTURE, 61),
            books.item(CAPTURE, 20, keep_remainder=True),
            place(books.owner, 10),
            books.item(VOID),
            books.item(CAPTURE),
        )
    ]
    assert [type(outcome).__name__ for outcome in decided] == [
        "Held", "Held", "Refused", "Held", "Held", "Held", "Refused",
    ]  # fmt: skip
    assert refused(decided[2]).facts == HoldExceeded(GOLD, books.hold.id, 60, 61)
    assert refused(decided[6]).facts == HoldNotOpen(GOLD, books.hold.id, HoldState.VOIDED)
    # As it was after each, not after all.
    assert [outcome.hold.remaining_minor for outcome in decided if isinstance(outcome, Held)] == [50, 60, 40, 10, 0]
    entries, [placed], steps = other_rows(books.batch)
    assert [row.seq for row in entries] == [row.seq for row in steps] == [8, 9, 10, 11, 12]
    assert [row.position for row in entries] == [7, 7, 8, 8, 8]
    assert [row.held_after for row in entries] == [60, 70, 50, 60, 20]
    assert [row.change for row in steps] == [-10, 10, -20, 10, -40]
    assert [(row.step, row.capture_count) for row in steps if row.hold_id == books.hold.id] == [
        (2, 1), (3, 1), (4, 2), (5, 2),
    ]  # fmt: skip
    both = f"{books.hold.id},{later.id}"
    new = placed.id
    assert [row.open_holds for row in steps] == [
        f"{{{both}}}", f"{{{both}}}", f"{{{both}}}", f"{{{both},{new}}}", f"{{{later.id},{new}}}",
    ]  # fmt: skip
    assert books.figures() == (70, 20)
    assert books.owner.next_due_at == NOW + timedelta(hours=1)


def test_what_is_released_can_be_spent_by_the_next_of_the_batch_and_what_is_held_cannot(books: Books) -> None:
    spend = posting(books.owner, books.stripe, 100, SPEND)
    refused(decide(books.batch, spend))
    held(decide(books.batch, books.item(VOID)))
    refused(decide(books.batch, same(spend)))
    held(decide(books.batch, place(books.owner, 1)))
    refused(decide(books.batch, posting(books.owner, books.stripe, 100, SPEND)))
    posted(decide(books.batch, posting(books.owner, books.stripe, 99, SPEND)))
    assert books.figures() == (1, 1)


def test_a_replay_in_the_batch_tells_the_hold_as_it_is_now(books: Books) -> None:
    placing = place(books.owner, 20)
    first = held(decide(books.batch, placing))
    capturing = books.item(CAPTURE, 10, keep_remainder=True)
    captured = held(decide(books.batch, capturing))
    held(decide(books.batch, books.item(VOID)))
    held(decide(books.batch, books.item(VOID, hold=first.hold)))
    again = held(decide_without_moving(books.batch, same(placing)))
    assert (again.hold.state, again.hold.id, again.already_processed) == (HoldState.VOIDED, first.hold.id, True)
    late = held(decide_without_moving(books.batch, same(capturing)))
    assert (late.hold.state, late.hold.captured_minor, late.already_processed) == (HoldState.VOIDED, 10, True)
    assert (late.transaction, late.balance) == (captured.transaction, books.owner.balance())
    assert first.hold.state is HoldState.OPEN
    # What a batch finds of its own when it runs again was not asked for before.
    assert not held(decide_without_moving(books.batch, capturing)).already_processed


def test_a_key_is_reused_by_every_other_request_in_a_batch(books: Books) -> None:
    item = books.item(CAPTURE, 10, keep_remainder=True)
    key = item.request.idempotency_key
    held(decide(books.batch, item))
    other = books.another(10)
    others: list[HoldItem | PlaceItem] = [
        books.item(CAPTURE, 10, key=key),
        books.item(CAPTURE, 11, key=key, keep_remainder=True),
        books.item(CAPTURE, key=key, keep_remainder=True),
        books.item(CAPTURE, 10, key=key, keep_remainder=True, description="Paid"),
        books.item(CAPTURE, 10, key=key, keep_remainder=True, hold=other),
        books.item(CAPTURE, 10, key=key, keep_remainder=True, metadata=(("a", "b"),)),
        books.item(VOID, key=key),
        books.item(ADJUST, 10, key=key),
        place(books.owner, 10, key=key),
    ]
    assert [decide_without_moving(books.batch, each) for each in others] == [KeyReused(key)] * len(others)
    spend = posting(books.owner, books.stripe, 10, SPEND, key=key)
    assert decide_without_moving(books.batch, spend) == KeyReused(key)


@pytest.mark.parametrize("kind", CHANGES)
def test_what_the_books_say_of_a_key_is_told_with_the_hold_as_it_is_now(books: Books, kind: RequestKind) -> None:
    item = books.item(kind, 60 if kind is not VOID else None)
    details = orjson.dumps({"hold_id": str(books.hold.id), "asset_id": GOLD.id}).decode()
    answer = kept(item, OutcomeCode.HELD, details)
    if kind is CAPTURE:
        leg: dict[str, Any] = {"account_id": books.owner.id, "seq": 3, "amount_minor": -60, "balance_after_minor": 40}
        answer = kept(item, OutcomeCode.POSTED, executed_at=NOW, **leg)
    assert held_names([item], [answer]) == {books.hold.name}
    books.now_is(**CLOSED["captured in part"][0])
    books.batch.answered = recall(books.batch, [item], [answer])
    again = held(decide_without_moving(books.batch, same(item)))
    assert (again.hold, again.already_processed) == (books.hold, True)
    assert (again.transaction is None) is (kind is not CAPTURE)
    assert again.balance == books.owner.balance()


def test_a_kept_placing_names_a_hold_that_must_be_read(books: Books) -> None:
    item = place(books.owner, 60)
    details = orjson.dumps({"hold_id": str(books.hold.id), "asset_id": GOLD.id}).decode()
    answer = kept(item, OutcomeCode.HELD, details)
    assert held_names([item], [answer]) == {books.hold.name}
    books.batch.answered = recall(books.batch, [item], [answer])
    assert held(decide_without_moving(books.batch, same(item))).hold == books.hold


@pytest.mark.parametrize(
    "facts",
    [
        HoldNotOpen(GOLD, uuid4(), HoldState.EXPIRED),
        HoldExceeded(GOLD, uuid4(), 9, 10),
        TooMany(GOLD, Counted.CAPTURES, CAPTURES_MAX),
    ],
)
def test_a_kept_refusal_is_recalled_with_its_facts(books: Books, facts: Facts) -> None:
    item = books.item(CAPTURE)
    answer = kept(item, facts.code, orjson.dumps(details_of(facts)).decode())
    books.batch.answered = recall(books.batch, [item], [answer])
    again = refused(decide_without_moving(books.batch, same(item)))
    assert (again.facts, again.already_processed) == (facts, True)


def test_every_hold_that_is_over_is_booked_once_in_the_order_of_their_ends(books: Books) -> None:
    """Before anything is decided: three of four are over, one of them by its last moment."""
    books.owner.balance_minor = 200
    last = books.another(3, NOW)
    first = books.another(1, NOW - 2 * DAY)
    second = books.another(2, NOW - DAY)
    beginning = books.owner.seq
    book_due(books.batch, [books.owner, books.stripe])
    entries, holds, steps = other_rows(books.batch)
    assert [row.hold_id for row in steps] == [first.id, second.id, last.id]
    assert [(row.kind, row.at, row.change, row.released) for row in steps] == [
        (55, NOW, -1, 1), (55, NOW, -2, 2), (55, NOW, -3, 3),
    ]  # fmt: skip
    assert [(row.seq, row.amount, row.held_after, row.type) for row in entries] == [
        (beginning + 1, 0, 65, 55), (beginning + 2, 0, 63, 55), (beginning + 3, 0, 60, 55),
    ]  # fmt: skip
    assert [row.next_due_at for row in entries] == [NOW - DAY, NOW, NOW + DAY]
    # Events have no key, and always the same id.
    assert len({row.event_id for row in steps}) == 3
    assert (holds, kept_rows(books.batch), books.batch.transactions) == ([], [], [])
    assert books.figures() == (200, 60)
    assert list(books.owner.holds) == [books.hold.id]
    assert books.batch.holds[first.name].state is HoldState.EXPIRED
    assert not books.batch.holds[first.name].is_due
    book_due(books.batch, [books.owner, books.stripe])
    assert len(books.batch.others[HoldStepRow]) == 3
    assert not books.batch.is_empty


def test_the_end_of_a_hold_is_always_the_same_event(books: Books) -> None:
    books.now_is(held_until=NOW)
    book_due(books.batch, [books.owner])
    again = books_of(books.stripe)
    again.hold = books.hold
    again.now_is()
    book_due(again.batch, [again.owner])
    [first], [second] = (other_rows(each.batch)[2] for each in (books, again))
    assert first.event_id == second.event_id


def test_what_is_booked_first_can_be_spent_and_the_hold_is_closed(books: Books) -> None:
    books.now_is(held_until=NOW, captured_minor=5)
    assert_refused(books.batch, posting(books.owner, books.stripe, 100, SPEND), InsufficientBalance(GOLD, 45, 100))
    book_due(books.batch, [books.owner])
    assert_refused(books.batch, books.item(CAPTURE), HoldNotOpen(GOLD, books.hold.id, HoldState.EXPIRED))
    _, _, [step] = other_rows(books.batch)
    assert (step.captured, step.released, step.change) == (5, 55, -55)
    posted(decide(books.batch, posting(books.owner, books.stripe, 100, SPEND)))
    assert books.figures() == (0, 0)


def test_an_end_is_booked_no_earlier_than_the_entry_before_it(books: Books) -> None:
    books.now_is(held_until=NOW)
    books.owner.executed_at = NOW + timedelta(seconds=30)
    book_due(books.batch, [books.owner])
    _, _, [step] = other_rows(books.batch)
    assert step.at == NOW + timedelta(seconds=30)
