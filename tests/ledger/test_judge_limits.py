"""The decisions on limits alone, without a database: what each counts, which one is told, and what none ever stops."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any, Final
from uuid import uuid4

import pytest
from decisions import (
    BONUS,
    GOLD,
    IN,
    MICROSECOND,
    NOW,
    OUT,
    SPEND,
    TOP_UP,
    account,
    assert_refused,
    batch,
    changing_hold,
    closing,
    hold_of,
    kept_rows,
    posted,
    posting,
    refused,
    reversing,
    same,
    transfer,
)

from wallet_gql.domain.access import AskedBy
from wallet_gql.domain.assets import AssetSetting, TransferPolicy
from wallet_gql.domain.holds import OPEN_HOLDS_MAX
from wallet_gql.domain.limits import (
    COUNTED,
    NOTHING_MOVED,
    CalendarUnit,
    Enforcement,
    LimitFlow,
    Rule,
    RuleName,
    Used,
    Window,
)
from wallet_gql.domain.lots import CreditSource, Lot, LotTerms
from wallet_gql.domain.money import BALANCE_MINOR_MAX, POSTING_MINOR_MAX
from wallet_gql.domain.postings import (
    Changed,
    Held,
    PlaceHoldRequest,
    Receipt,
    Refused,
    Remainder,
    RequestKind,
    TransactionName,
    TransactionType,
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
    WalletFrozen,
)
from wallet_gql.domain.wallets import OwnerName, WalletKind, WalletState, WalletStatus
from wallet_gql.ledger.batch import Batch, Item, PlaceItem
from wallet_gql.ledger.decide import book_due, decide
from wallet_gql.ledger.heads import Account, KeyName
from wallet_gql.ledger.judge_limits import held_of, holds_in, judge_limits, used_of_rule
from wallet_gql.ledger.rows import OwnersEntryRow
from wallet_gql.ledger.states import WalletId

DAY: Final = Window(86_400)
HOUR: Final = Window(3600)
MONTH: Final = Window(unit=CalendarUnit.MONTH, time_zone="Europe/Berlin")
TOMORROW: Final = NOW + timedelta(days=1)

CAPTURE, REFUND, CLAWBACK = TransactionType.CAPTURE, RequestKind.REFUND, RequestKind.CLAWBACK
KINDS: Final = (TOP_UP, BONUS, SPEND, OUT, IN)
"""What is counted, in the order in which entries say it."""

# Which movements each limit counts.
FLOWS: Final[dict[LimitFlow, set[TransactionType]]] = {
    LimitFlow.IN: {TOP_UP, BONUS, IN},
    LimitFlow.OUT: {SPEND, OUT, CAPTURE},
    LimitFlow.TOP_UP: {TOP_UP},
    LimitFlow.BONUS: {BONUS},
    LimitFlow.SPEND: {SPEND, CAPTURE},
    LimitFlow.TRANSFER_OUT: {OUT},
    LimitFlow.TRANSFER_IN: {IN},
}


def rule(
    flow: LimitFlow,
    most: int | None = None,
    count: int | None = None,
    window: Window | None = DAY,
    *,
    warns: bool = False,
    step: int = 1,
) -> Rule:
    """Make a limit of all wallets."""
    enforcement = Enforcement.WARN if warns else Enforcement.REFUSE
    window = None if flow is LimitFlow.BALANCE else window
    name, nobody = RuleName(GOLD.id, 0, 0, step), AskedBy(None, None, None)
    return Rule(name, flow, window, most, count, enforcement, NOW - timedelta(days=9), nobody)


def moved(**kinds: tuple[int, int]) -> tuple[int, ...]:
    """Return what moved, by kind: amounts and numbers."""
    return tuple(each for kind in KINDS for each in kinds.get(kind.name.lower(), (0, 0)))


def limited(*rules: Rule, **more: Any) -> Account:
    """Make an account under limits, in whose windows so much has moved, by kind: an amount and a number."""
    shard, balance = more.pop("shard", 1), more.pop("balance", 1000)
    caps = [each.max_minor for each in rules if each.caps_balance and each.max_minor is not None]
    return account(
        shard,
        balance,
        rules=rules,
        flows=moved(**more),
        flows_since=2,
        outside={each.window: NOTHING_MOVED for each in rules if each.window is not None},
        balance_max_minor=min(caps, default=BALANCE_MINOR_MAX),
    )


def stripe(kind: WalletKind = WalletKind.TREASURY) -> Account:
    return account(1, 0, kind)


def placing(owner: Account, amount: int = 10, receiver: Account | None = None) -> PlaceItem:
    """Make a hold to place, for another owner or to be paid to the treasury."""
    key, wallet = uuid4(), owner.wallet
    to = None if receiver is None else OwnerName(receiver.wallet.shard, receiver.wallet.owner_id)
    request = PlaceHoldRequest(OwnerName(wallet.shard, wallet.owner_id), to, GOLD, amount, 3600, key)
    other = None if receiver is None else receiver.wallet
    return PlaceItem(request, KeyName(wallet.shard, wallet.id, key), owner, other)


def exceeded(
    owner: Account,
    told: Rule,
    used: Used,
    amount: int = 10,
    *,
    held: str = "",
    number: int = 1,
    at_us: int | None = None,
) -> LimitExceeded:
    """Return what is told of a limit that is exceeded."""
    at_us = unix_us(NOW) if at_us is None else at_us
    return LimitExceeded(
        GOLD, *told.name[1:], used.minor, used.number, held, amount, number, at_us, owner.id, owner.seq
    )


# What an owner can ask for: what moves by it, or would.
ASKED: Final[dict[str, tuple[Callable[[Account, int], Item], TransactionType]]] = {
    "a top-up": (lambda owner, amount: posting(owner, stripe(), amount), TOP_UP),
    "a bonus": (lambda owner, amount: posting(owner, stripe(), amount, BONUS), BONUS),
    "a spend": (lambda owner, amount: posting(owner, stripe(), amount, SPEND), SPEND),
    "a transfer": (
        lambda owner, amount: transfer(owner, account(1), stripe(WalletKind.CLEARING), amount=amount), OUT,
    ),
    "a hold": (placing, SPEND),
    "a hold for another owner": (lambda owner, amount: placing(owner, amount, account(2)), OUT),
}  # fmt: skip


def assert_not_limited(item: Item) -> None:
    """Decide a request that may be refused, but not by a limit."""
    outcome = decide(batch(), item)
    assert not (isinstance(outcome, Refused) and isinstance(outcome.facts, LimitExceeded)), outcome


of_each_flow = pytest.mark.parametrize("flow", FLOWS, ids=[flow.name for flow in FLOWS])


@of_each_flow
@pytest.mark.parametrize("asked", ASKED)
def test_a_limit_lets_through_what_it_says_and_no_more(asked: str, flow: LimitFlow) -> None:
    make, kind = ASKED[asked]
    name = kind.name.lower()
    if kind not in FLOWS[flow]:
        # However little it lets through.
        assert_not_limited(make(limited(rule(flow, 1, 1), **{name: (9, 9)}), 10))
        return
    for window in (DAY, MONTH):
        amounts, numbers = rule(flow, 100, window=window), rule(flow, count=3, window=window)
        for limit in (amounts, numbers):
            assert_not_limited(make(limited(limit, **{name: (90, 2)}), 10))
        owner = limited(amounts, **{name: (90, 2)})
        assert_refused(batch(), make(owner, 11), exceeded(owner, amounts, Used(90, 2), 11))
        owner = limited(numbers, **{name: (90, 3)})
        assert_refused(batch(), make(owner, 1), exceeded(owner, numbers, Used(90, 3), 1))


@of_each_flow
@pytest.mark.parametrize("kind", KINDS, ids=[kind.name for kind in KINDS])
def test_a_limit_counts_what_moved_of_its_kinds_alone(kind: TransactionType, flow: LimitFlow) -> None:
    limit = rule(flow, 100)
    owner = limited(limit, **{kind.name.lower(): (60, 2)})
    assert used_of_rule(owner, limit) == (Used(60, 2) if kind in FLOWS[flow] else Used(0, 0))


@pytest.mark.parametrize(
    ("flow", "used"),
    [
        (LimitFlow.IN, Used(10_000_000_000_000_000_101, 131)),
        (LimitFlow.OUT, Used(11_000, 1100)),
        (LimitFlow.TOP_UP, Used(1, 11)),
        (LimitFlow.BONUS, Used(100, 20)),
        (LimitFlow.SPEND, Used(1000, 100)),
        (LimitFlow.TRANSFER_OUT, Used(10_000, 1000)),
        (LimitFlow.TRANSFER_IN, Used(10**19, 100)),
    ],
)
def test_what_moved_in_a_window_is_a_difference(flow: LimitFlow, used: Used) -> None:
    """Of the kinds that a limit counts, by amount and by number; each window has its own."""
    owner = limited(rule(flow, 1), rule(flow, 1, window=HOUR))
    owner.flows = moved(
        top_up=(101, 14), bonus=(300, 25), spend=(4000, 200), transfer_out=(50_000, 3000),
        transfer_in=(2 * 10**19, 400),
    )  # fmt: skip
    owner.outside[DAY] = moved(
        top_up=(100, 3), bonus=(200, 5), spend=(3000, 100), transfer_out=(40_000, 2000), transfer_in=(10**19, 300)
    )
    owner.outside[HOUR] = owner.flows
    assert used_of_rule(owner, owner.rules[0]) == used
    assert used_of_rule(owner, owner.rules[1]) == Used(0, 0)


def test_what_was_not_counted_before_is_more_than_what_was() -> None:
    """Entries from before the limit are in its window: what is outside is less than nothing."""
    limit = rule(LimitFlow.SPEND, 100)
    owner = limited(limit, spend=(10, 1))
    owner.outside[DAY] = tuple(-each for each in moved(spend=(70, 2)))
    assert used_of_rule(owner, limit) == Used(80, 3)
    assert_refused(batch(), posting(owner, stripe(), 21, SPEND), exceeded(owner, limit, Used(80, 3), 21))


def test_what_moves_is_counted_gross_never_net() -> None:
    owner, treasury, made = limited(rule(LimitFlow.OUT, 100), rule(LimitFlow.IN, 100)), stripe(), batch()
    for amount, type_ in ((60, SPEND), (60, TOP_UP), (40, SPEND), (40, BONUS)):
        posted(decide(made, posting(owner, treasury, amount, type_)))
    assert owner.balance_minor == 1000
    assert owner.flows == moved(top_up=(60, 1), bonus=(40, 1), spend=(100, 2))
    for type_, limit in ((SPEND, owner.rules[0]), (TOP_UP, owner.rules[1])):
        assert_refused(made, posting(owner, treasury, 1, type_), exceeded(owner, limit, Used(100, 2), 1))


def test_both_sides_of_a_transfer_are_counted_and_a_replay_is_not() -> None:
    sender, receiver = limited(rule(LimitFlow.OUT, 15)), limited(rule(LimitFlow.IN, 25), shard=2)
    made, here, there = batch(), stripe(WalletKind.CLEARING), account(2, 0, WalletKind.CLEARING)
    item = transfer(sender, receiver, here, there, 15)
    posted(decide(made, item))
    assert posted(decide(made, same(item))).already_processed
    assert (sender.flows, receiver.flows) == (moved(transfer_out=(15, 1)), moved(transfer_in=(15, 1)))
    refused(decide(made, transfer(sender, receiver, here, there, 1)))


# Limits of what goes out with what is used of them, a spend of 10, and which of them is told: the one that lets the
# least through.
TIGHTEST: Final[dict[str, tuple[tuple[Rule, ...], tuple[int, int], int]]] = {
    "the only one": ((rule(LimitFlow.OUT, 99), rule(LimitFlow.SPEND, 100)), (90, 1), 0),
    "the smallest, first": ((rule(LimitFlow.OUT, 91), rule(LimitFlow.SPEND, 92)), (90, 1), 0),
    "the smallest, last": ((rule(LimitFlow.OUT, 92), rule(LimitFlow.SPEND, 91)), (90, 1), 1),
    "the first of two alike": ((rule(LimitFlow.OUT, 91), rule(LimitFlow.SPEND, 91)), (90, 1), 0),
    "the number, which lets nothing through": ((rule(LimitFlow.OUT, 91), rule(LimitFlow.SPEND, count=1)), (90, 1), 1),
    "what is passed already": ((rule(LimitFlow.OUT, 95), rule(LimitFlow.SPEND, 80)), (90, 1), 1),
    "not one that is not exceeded": ((rule(LimitFlow.OUT, 95), rule(LimitFlow.SPEND, count=2)), (90, 1), 0),
    "not one of another kind": ((rule(LimitFlow.IN, 1), rule(LimitFlow.OUT, 95)), (90, 1), 1),
    "not one that warns": ((rule(LimitFlow.OUT, 1, warns=True), rule(LimitFlow.SPEND, 95)), (90, 1), 1),
    "both maxima of one": ((rule(LimitFlow.OUT, 99, 1), rule(LimitFlow.SPEND, 95)), (90, 1), 0),
}


@pytest.mark.parametrize("name", TIGHTEST)
def test_of_several_limits_that_are_exceeded_is_told(name: str) -> None:
    rules, used, told = TIGHTEST[name]
    rules = tuple(each._replace(name=each.name._replace(step=n)) for n, each in enumerate(rules, start=1))
    owner = limited(*rules, spend=used)
    facts = refused(decide(batch(), posting(owner, stripe(), 10, SPEND))).facts
    assert isinstance(facts, LimitExceeded)
    assert replace(facts, others="") == exceeded(owner, rules[told], Used(*used))
    # The others that are exceeded stand with it, for when the same would pass.
    passed = {
        rule.name.step
        for rule in rules
        if SPEND in COUNTED[rule.flow] and rule.enforcement is Enforcement.REFUSE and not rule.lets(Used(*used), 10, 1)
    }
    assert facts.every()[0].rule_step == rules[told].name.step
    assert {each.rule_step for each in facts.every()} == passed
    assert {(each.used_minor, each.used_count, each.others) for each in facts.every()[1:]} <= {(*used, "")}


def test_what_is_told_names_a_limit_of_the_owner_s_own() -> None:
    own = rule(LimitFlow.OUT, 5)._replace(name=RuleName(GOLD.id, 1, 4711, 3))
    owner = limited(own)
    facts = refused(decide(batch(), posting(owner, stripe(), 10, SPEND))).facts
    assert isinstance(facts, LimitExceeded)
    assert (facts.rule_shard, facts.rule_wallet_id, facts.rule_step) == (1, 4711, 3)


@pytest.mark.parametrize("ahead", [timedelta(0), -MICROSECOND, timedelta(seconds=30)])
def test_a_window_ends_with_the_later_of_the_clock_and_the_last_entry(ahead: timedelta) -> None:
    limit = rule(LimitFlow.OUT, 5)
    owner = limited(limit)
    owner.executed_at = NOW + ahead
    at_us = unix_us(max(NOW, owner.executed_at))
    assert_refused(batch(), posting(owner, stripe(), 10, SPEND), exceeded(owner, limit, Used(0, 0), at_us=at_us))


def warned(made: Batch) -> list[tuple[object, ...]]:
    return [(each["flow"], each["step"], each["used_minor"], each["amount_minor"]) for each in made.warned]


def test_what_a_limit_warns_of_passes_and_is_noted() -> None:
    owner, made = (
        limited(rule(LimitFlow.OUT, 5, warns=True), rule(LimitFlow.SPEND, count=1, warns=True, step=2)),
        batch(),
    )
    posted(decide(made, posting(owner, stripe(), 5, SPEND)))
    assert made.warned == []
    item = posting(owner, stripe(), 2, SPEND)
    posted(decide(made, item))
    wallet = owner.wallet
    of_both = {"shard": 1, "wallet_id": wallet.id, "asset": "GOLD", "of_all": True, "used_minor": 5, "used_count": 1,
               "amount_minor": 2}  # fmt: skip
    assert made.warned == [{"flow": "OUT", "step": 1, **of_both}, {"flow": "SPEND", "step": 2, **of_both}]
    # A replay exceeds nothing.
    assert posted(decide(made, same(item))).already_processed
    assert len(made.warned) == 2
    assert kept_rows(made) == []


def test_what_is_refused_for_something_else_is_not_noted() -> None:
    owner, made = limited(rule(LimitFlow.OUT, 5, warns=True), rule(LimitFlow.SPEND, 8, step=2), balance=7), batch()
    assert_refused(made, posting(owner, stripe(), 9, SPEND), exceeded(owner, owner.rules[1], Used(0, 0), 9))
    assert_refused(made, posting(owner, stripe(), 8, SPEND), InsufficientBalance(GOLD, 7, 8))
    assert made.warned == []
    posted(decide(made, posting(owner, stripe(), 6, SPEND)))
    assert warned(made) == [("OUT", 1, 0, 6)]


def test_holds_and_receivers_are_warned_of_as_well() -> None:
    owner, made = limited(rule(LimitFlow.SPEND, 5, warns=True)), batch()
    receiver = limited(rule(LimitFlow.IN, 5, warns=True, step=2))
    assert isinstance(decide(made, placing(owner, 6)), Held)
    posted(decide(made, transfer(owner, receiver, stripe(WalletKind.CLEARING), amount=7)))
    assert warned(made) == [("SPEND", 1, 0, 6), ("IN", 2, 0, 7)]


@pytest.mark.parametrize(("amount", "type_", "noted"), [
    (10, TOP_UP, []),
    (11, TOP_UP, [("BALANCE", 1, 90, 11)]),
    (11, BONUS, [("BALANCE", 1, 90, 11)]),
    (11, SPEND, []),
])  # fmt: skip
def test_a_balance_that_a_limit_warns_of_is_noted(
    amount: int, type_: TransactionType, noted: list[tuple[object, ...]]
) -> None:
    owner, made = limited(rule(LimitFlow.BALANCE, 100, warns=True), balance=90), batch()
    posted(decide(made, posting(owner, stripe(), amount, type_)))
    assert warned(made) == noted


def test_a_balance_is_limited_with_what_is_held() -> None:
    owner, made = limited(rule(LimitFlow.BALANCE, 100), balance=90), batch()
    hold_of(owner, 80, TOMORROW)
    assert_refused(made, posting(owner, stripe(), 11), BalanceLimitExceeded(GOLD, 90, 11, 100))
    posted(decide(made, posting(owner, stripe(), 10)))
    # What takes from a balance that is above its limit is not refused for that.
    owner.balance_max_minor = 5
    posted(decide(made, posting(owner, stripe(), 1, SPEND)))
    assert_refused(made, posting(owner, stripe(), 1, BONUS), BalanceLimitExceeded(GOLD, 99, 1, 5))


# Limits of holds.


def test_what_open_holds_hold_is_used_of_limits_of_what_goes_out() -> None:
    owner = limited(spend=(10, 1), transfer_out=(20, 2))
    other = OwnerName(2, "other")
    late, escrow = hold_of(owner, 5, TOMORROW), hold_of(owner, 7, TOMORROW - MICROSECOND, other)
    part = hold_of(owner, 9, NOW + MICROSECOND, captured=6)
    assert holds_in(owner, LimitFlow.OUT) == [part, escrow, late]
    assert holds_in(owner, LimitFlow.SPEND) == [part, late]
    assert holds_in(owner, LimitFlow.TRANSFER_OUT) == [escrow]
    # One movement each, whatever was captured of it.
    assert [held_of(owner, flow) for flow in (LimitFlow.OUT, LimitFlow.SPEND, LimitFlow.TRANSFER_OUT)] == [
        Used(15, 3), Used(8, 2), Used(7, 1),
    ]  # fmt: skip
    for flow in (LimitFlow.IN, LimitFlow.TOP_UP, LimitFlow.BONUS, LimitFlow.TRANSFER_IN, LimitFlow.BALANCE):
        assert (holds_in(owner, flow), held_of(owner, flow)) == ([], Used(0, 0))
    limits = [rule(flow, 1) for flow in (LimitFlow.OUT, LimitFlow.SPEND, LimitFlow.TRANSFER_OUT)]
    owner.outside[DAY] = NOTHING_MOVED
    assert [used_of_rule(owner, limit) for limit in limits] == [Used(45, 6), Used(18, 3), Used(27, 3)]


def test_a_refusal_tells_what_holds_held_by_when_they_end() -> None:
    limit = rule(LimitFlow.OUT, 100)
    owner = limited(limit, spend=(60, 1))
    hold_of(owner, 30, TOMORROW)
    hold_of(owner, 5, NOW + timedelta(hours=1), captured=1)
    held = f"4@{unix_us(NOW + timedelta(hours=1))} 30@{unix_us(TOMORROW)}"
    assert_refused(batch(), posting(owner, stripe(), 7, SPEND), exceeded(owner, limit, Used(94, 3), 7, held=held))
    assert_not_limited(posting(owner, stripe(), 6, SPEND))


def test_a_hold_is_judged_once_and_never_when_it_is_captured() -> None:
    owner, made = limited(rule(LimitFlow.OUT, 10, 1)), batch()
    placed = decide(made, placing(owner, 10))
    assert isinstance(placed, Held)
    assert used_of_rule(owner, owner.rules[0]) == Used(10, 1)
    # The limit is used up, twice over, and then lower than what was promised.
    owner.rules = (rule(LimitFlow.OUT, 1, 1),)
    for amount in (4, 6):
        change = changing_hold(made, made.holds[placed.hold.name], owner, RequestKind.CAPTURE_HOLD, amount)
        change = change._replace(request=replace(change.request, keep_remainder=True))
        assert isinstance(decide(made, change), Held)
    assert (owner.flows, owner.held_minor) == (moved(spend=(10, 2)), 0)


def test_what_a_capture_leaves_is_used_as_before() -> None:
    owner, made = limited(rule(LimitFlow.OUT, 100, 9)), batch()
    hold = hold_of(owner, 60, TOMORROW)
    change = changing_hold(made, hold, owner, RequestKind.CAPTURE_HOLD, 25)
    assert isinstance(decide(made, change._replace(request=replace(change.request, keep_remainder=True))), Held)
    # It moved 25, and the hold is still open.
    assert used_of_rule(owner, owner.rules[0]) == Used(60, 2)
    assert isinstance(decide(made, changing_hold(made, made.holds[hold.name], owner, RequestKind.VOID_HOLD)), Held)
    assert used_of_rule(owner, owner.rules[0]) == Used(25, 1)


def test_a_hold_that_is_voided_or_over_gives_its_share_back() -> None:
    limit = rule(LimitFlow.OUT, 100, 3)
    owner, made = limited(limit), batch()
    voided = hold_of(owner, 60, TOMORROW)
    hold_of(owner, 40, NOW)
    refused(decide(made, posting(owner, stripe(), 1, SPEND)))
    book_due(made, [owner])
    posted(decide(made, posting(owner, stripe(), 40, SPEND)))
    refused(decide(made, posting(owner, stripe(), 1, SPEND)))
    assert isinstance(decide(made, changing_hold(made, voided, owner, RequestKind.VOID_HOLD)), Held)
    posted(decide(made, posting(owner, stripe(), 60, SPEND)))
    assert owner.flows == moved(spend=(100, 2))


def test_a_raise_counts_the_difference_and_no_movement_more() -> None:
    limit = rule(LimitFlow.SPEND, 100, 2)
    owner, made = limited(limit, spend=(30, 1)), batch()
    hold = hold_of(owner, 60, TOMORROW)
    held = f"60@{unix_us(TOMORROW)}"
    facts = exceeded(owner, limit, Used(90, 2), 11, held=held, number=0)
    assert_refused(made, changing_hold(made, hold, owner, RequestKind.ADJUST_HOLD, 71), facts)
    assert isinstance(decide(made, changing_hold(made, hold, owner, RequestKind.ADJUST_HOLD, 70)), Held)
    assert used_of_rule(owner, limit) == Used(100, 2)
    # The limit is used up: what lowers a hold, or only lengthens it, is not judged.
    hold = made.holds[hold.name]
    longer = changing_hold(made, hold, owner, RequestKind.ADJUST_HOLD)
    assert isinstance(decide(made, longer._replace(request=replace(longer.request, ttl_seconds=5))), Held)
    owner.rules = (rule(LimitFlow.SPEND, 1, 1),)
    lower = changing_hold(made, made.holds[hold.name], owner, RequestKind.ADJUST_HOLD, 50)
    assert isinstance(decide(made, lower), Held)
    assert used_of_rule(owner, limit) == Used(80, 2)


def test_a_raise_is_judged_as_what_its_hold_is_for() -> None:
    limit = rule(LimitFlow.TRANSFER_OUT, 70)
    owner, made = limited(limit), batch()
    plain, escrow = hold_of(owner, 60, TOMORROW), hold_of(owner, 60, TOMORROW, OwnerName(2, "other"))
    assert isinstance(decide(made, changing_hold(made, plain, owner, RequestKind.ADJUST_HOLD, 100)), Held)
    facts = exceeded(owner, limit, Used(60, 1), 40, held=f"60@{unix_us(TOMORROW)}", number=0)
    assert_refused(made, changing_hold(made, escrow, owner, RequestKind.ADJUST_HOLD, 100), facts)


# The order of refusals.


def frozen(made: Batch, owner: Account) -> None:
    wallet = owner.wallet
    made.states[WalletId(wallet.shard, wallet.id)] = WalletState(
        wallet.shard, wallet.id, 1, WalletStatus.FROZEN_ALL, NOW - timedelta(hours=1)
    )


def test_a_limit_of_what_moves_wins_over_one_of_the_balance_and_that_over_what_is_available() -> None:
    limit = rule(LimitFlow.IN, 9)
    owner, made = limited(limit, rule(LimitFlow.BALANCE, 1000)), batch()
    assert_refused(made, posting(owner, stripe(), 10), exceeded(owner, limit, Used(0, 0)))
    assert_refused(made, posting(owner, stripe(), 9), BalanceLimitExceeded(GOLD, 1000, 9, 1000))
    limit = rule(LimitFlow.OUT, 9)
    owner = limited(limit, balance=8)
    for item in (posting(owner, stripe(), 10, SPEND), placing(owner, 10)):
        assert_refused(made, item, exceeded(owner, limit, Used(0, 0)))
    for item in (posting(owner, stripe(), 9, SPEND), placing(owner, 9)):
        assert_refused(made, item, InsufficientBalance(GOLD, 8, 9))


def test_what_wins_over_a_limit() -> None:
    limits = (rule(LimitFlow.IN, 1), rule(LimitFlow.OUT, 1))
    owner, made = limited(*limits), batch()
    receipt = Receipt(0, "store-1")
    made.credited["store-1"] = TransactionName(1, uuid4())
    item = posting(owner, stripe(), 10, receipt=receipt)
    assert_refused(made, item, ReceiptUsed(GOLD, *made.credited["store-1"]))
    ends = LotTerms(CreditSource.BONUS, 50, None, TOMORROW)
    assert isinstance(refused(decide(made, posting(owner, stripe(), 10, BONUS, terms=ends))).facts, InvalidExpiry)
    made.settings = {GOLD.id: AssetSetting(TransferPolicy.NONE)}
    line = stripe(WalletKind.CLEARING)
    assert_refused(made, transfer(owner, account(1), line), TransferForbidden(GOLD, TransferPolicy.NONE))
    frozen(made, owner)
    for make, _ in ASKED.values():
        assert_refused(made, make(owner, 10), WalletFrozen(GOLD, WalletStatus.FROZEN_ALL, 0))
    many = limited(*limits)
    for _ in range(OPEN_HOLDS_MAX):
        hold_of(many, 1, TOMORROW)
    assert_refused(batch(), placing(many), TooMany(GOLD, Counted.HOLDS, OPEN_HOLDS_MAX))


def test_a_receiver_is_refused_without_its_figures_after_all_that_refuses_the_sender() -> None:
    receiver = limited(rule(LimitFlow.TRANSFER_IN, 9), rule(LimitFlow.BALANCE, 1000), shard=1)
    limit = rule(LimitFlow.OUT, 15)
    sender, made, line = limited(limit, balance=12), batch(), stripe(WalletKind.CLEARING)

    def sending(amount: int) -> Item:
        return transfer(sender, receiver, line, amount=amount)

    assert_refused(made, sending(16), exceeded(sender, limit, Used(0, 0), 16))
    assert_refused(made, sending(15), InsufficientBalance(GOLD, 12, 15))
    owner_id = receiver.wallet.owner_id
    assert_refused(made, sending(12), ReceiverRefused(GOLD, owner_id, ReceiverCause.LIMIT))
    assert_refused(made, sending(9), ReceiverRefused(GOLD, owner_id, ReceiverCause.FULL))
    frozen(made, receiver)
    assert_refused(made, sending(12), ReceiverRefused(GOLD, owner_id, ReceiverCause.FROZEN))


def test_an_escrow_s_capture_is_refused_by_the_receiver_s_limits_alone() -> None:
    owner, made = limited(rule(LimitFlow.OUT, 1, 1), spend=(9, 9)), batch()
    receiver, line = limited(rule(LimitFlow.IN, 9)), stripe(WalletKind.CLEARING)
    name = OwnerName(receiver.wallet.shard, receiver.wallet.owner_id)
    hold = hold_of(owner, 60, TOMORROW, name)

    def capturing(amount: int) -> Item:
        change = changing_hold(made, made.holds.get(hold.name, hold), owner, RequestKind.CAPTURE_HOLD, amount)
        return change._replace(stripe=line, receiver=receiver, receiver_clearing=line)

    assert_refused(made, capturing(10), ReceiverRefused(GOLD, name.owner_id, ReceiverCause.LIMIT))
    assert isinstance(decide(made, capturing(9)), Held)
    assert (owner.flows, receiver.flows) == (moved(spend=(9, 9), transfer_out=(9, 1)), moved(transfer_in=(9, 1)))


def test_a_receiver_of_a_closing_is_refused_and_who_closes_is_not() -> None:
    made = batch(TransferPolicy.ALL)
    owner, receiver = limited(rule(LimitFlow.OUT, 1, 1), balance=10), limited(rule(LimitFlow.IN, 9))
    facts = ReceiverRefused(GOLD, receiver.wallet.owner_id, ReceiverCause.LIMIT)
    assert_refused(made, closing(owner, Remainder.TRANSFER, receiver), facts)
    receiver.rules = (rule(LimitFlow.IN, 10),)
    assert isinstance(decide(made, closing(owner, Remainder.TRANSFER, receiver)), Changed)
    assert (owner.flows, receiver.flows) == (moved(transfer_out=(10, 1)), moved(transfer_in=(10, 1)))


# What no limit stops, and none counts.

EXHAUSTED: Final = (
    *(rule(flow, 1, 1) for flow in FLOWS),
    rule(LimitFlow.BALANCE, 1),
)
USED_UP: Final = {kind.name.lower(): (9, 9) for kind in KINDS}


@pytest.mark.parametrize(
    ("kind", "type_"),
    [(REFUND, SPEND), (REFUND, CAPTURE), (CLAWBACK, TOP_UP), (CLAWBACK, BONUS)],
)
def test_what_gives_back_or_takes_back_is_neither_refused_nor_counted(
    kind: RequestKind, type_: TransactionType
) -> None:
    owner, made = limited(*EXHAUSTED, **USED_UP), batch()
    posted(decide(made, reversing(kind, owner, type_, 40)))
    assert (owner.balance_minor, owner.flows) == (1040 if kind is REFUND else 960, moved(**USED_UP))
    assert made.warned == []


def test_what_lapses_is_not_counted() -> None:
    owner, made = limited(*EXHAUSTED, **USED_UP), batch()
    terms = LotTerms(CreditSource.BONUS, 50, None, NOW)
    owner.lots, owner.live_lots = {1: Lot(1, terms, 1, 30, 30, 0)}, [1]
    owner.lots_minor, owner.lots_seq, owner.lot_count, owner.expiry = 30, 7, 1, stripe()
    book_due(made, [owner])
    assert [row.type for row in made.transactions] == [TransactionType.EXPIRY]
    assert (owner.balance_minor, owner.flows) == (970, moved(**USED_UP))


def test_what_repays_a_debt_is_neither_refused_nor_counted() -> None:
    owner, made = limited(rule(LimitFlow.OUT, 1, 1), spend=(9, 9), balance=0), batch()
    owner.debt = account(1, -25, WalletKind.DEBT)
    posted(decide(made, posting(owner, stripe(), 40)))
    assert (owner.balance_minor, owner.debt_minor) == (15, 0)
    assert owner.flows == moved(spend=(9, 9), top_up=(40, 1))


def test_what_is_forfeited_is_neither_refused_nor_counted() -> None:
    owner, made = limited(*EXHAUSTED, **USED_UP), batch()
    assert isinstance(decide(made, closing(owner)), Changed)
    assert (owner.balance_minor, owner.flows) == (0, moved(**USED_UP))


# What limits leave in the batch.


def test_entries_say_what_moved_from_the_first_one_under_a_limit_on() -> None:
    owner, treasury, made = limited(rule(LimitFlow.OUT, 100)), stripe(), batch()
    owner.flows_since = owner.seq + 1
    for amount, type_ in ((10, SPEND), (3, TOP_UP)):
        posted(decide(made, posting(owner, treasury, amount, type_)))
    assert isinstance(decide(made, placing(owner, 5)), Held)
    rows = [row for row in made.others[OwnersEntryRow] if isinstance(row, OwnersEntryRow)]
    assert [row.flows for row in rows] == [
        "{0,0,0,0,10,1,0,0,0,0,8}", "{3,1,0,0,10,1,0,0,0,0,8}", "{3,1,0,0,10,1,0,0,0,0,8}",
    ]  # fmt: skip
    assert [(row.amount, row.held_seq, row.lots_seq) for row in rows] == [
        (-10, None, None),
        (3, None, None),
        (0, 10, None),
    ]
    # The treasury's entries say nothing of it.
    assert [row.account_id for row in made.entries] == [treasury.id] * 2


def test_an_account_whose_limits_are_gone_goes_on_counting() -> None:
    owner, made = limited(spend=(9, 9)), batch()
    posted(decide(made, posting(owner, stripe(), POSTING_MINOR_MAX)))
    posted(decide(made, posting(owner, stripe(), 5, SPEND)))
    assert owner.flows == moved(spend=(14, 10), top_up=(POSTING_MINOR_MAX, 1))
    assert len(made.others[OwnersEntryRow]) == 2


def test_an_account_without_limits_is_not_judged_and_counts_nothing() -> None:
    owner, made = account(1, 100), batch()
    assert judge_limits(made, owner, SPEND, 10**18) is None
    posted(decide(made, posting(owner, stripe(), 100, SPEND)))
    assert (owner.flows, made.others, len(made.entries)) == (None, {}, 2)


def test_an_account_under_a_limit_of_its_balance_alone_counts_nothing() -> None:
    owner, made = account(1, 100, rules=(rule(LimitFlow.BALANCE, 100),), balance_max_minor=100), batch()
    assert judge_limits(made, owner, TOP_UP, 1) is None
    assert_refused(made, posting(owner, stripe(), 1), BalanceLimitExceeded(GOLD, 100, 1, 100))
    posted(decide(made, posting(owner, stripe(), 100, SPEND)))
    assert owner.flows is None
