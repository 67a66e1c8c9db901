"""What is taken from lots, put back and kept for holds: without a database."""

from datetime import timedelta
from typing import Final

import pytest
from decisions import BONUS, GOLD, NOW, SPEND, account, batch, posted, posting, refused
from hypothesis import given
from hypothesis import strategies as st

from wallet_gql.domain.assets import AssetSetting, TransferPolicy
from wallet_gql.domain.holds import Earmark
from wallet_gql.domain.lots import (
    EXPIRES_WITHIN,
    LIVE_LOTS_MAX,
    CreditSource,
    InvalidExpiryReason,
    Lot,
    LotTerms,
    LotUse,
)
from wallet_gql.domain.refusals import Counted, InsufficientBalance, InvalidExpiry, TooMany
from wallet_gql.domain.wallets import WalletKind
from wallet_gql.ledger.batch import Batch
from wallet_gql.ledger.choose_lots import (
    available_of,
    count_live,
    earmark,
    give_back,
    take,
    take_back,
    take_own,
    use_earmarks,
)
from wallet_gql.ledger.decide import book_due, decide
from wallet_gql.ledger.heads import Account
from wallet_gql.ledger.rows import LotRow, LotStepRow, OwnersEntryRow

DAY: Final = timedelta(days=1)
NEVER: Final = LotTerms(CreditSource.BONUS, 50, None, None)
PURCHASED: Final = CreditSource.PURCHASED


def terms(days: float | None = None, priority: int = 50, campaign: str | None = None) -> LotTerms:
    return LotTerms(CreditSource.BONUS, priority, campaign, None if days is None else NOW + days * DAY)


def lot(n: int, remaining: int, held: int = 0, **more: object) -> Lot:
    return Lot(n, terms(**more), 1, remaining, remaining, held)  # type: ignore[arg-type]


def lotted(pool: int, *lots: Lot) -> Account:
    """Make an account with lots and a pool, as they are read."""
    in_order = sorted(lots, key=lambda each: each.spend_order)
    total = sum(each.remaining_minor for each in lots)
    made = account(1, pool + total, lots_minor=total, lots_seq=7, lot_count=len(lots))
    made.lots = {each.n: each for each in in_order}
    made.live_lots = list(made.lots)
    made.look_ahead()
    return made


def with_lots() -> Batch:
    made = batch()
    made.settings = {GOLD.id: AssetSetting(TransferPolicy.ALL, has_lots=True)}
    return made


def taken(account_: Account, amount: int, source: CreditSource | None = None) -> list[tuple[int | None, int]]:
    return [(change.n, -change.amount_minor) for change in take(account_, amount, source)]


def test_lots_are_spent_by_priority_then_end_then_age_and_the_pool_last() -> None:
    owner = lotted(
        100, lot(1, 5), lot(2, 5, days=9), lot(3, 5, days=2), lot(4, 5, days=2), lot(5, 5, priority=0),
        lot(6, 5, priority=100),
    )  # fmt: skip
    assert taken(owner, 28) == [(5, 5), (3, 5), (4, 5), (2, 5), (1, 5), (6, 3)]
    assert taken(owner, 90) == [(5, 5), (3, 5), (4, 5), (2, 5), (1, 5), (6, 5)]  # the rest is of the pool
    assert taken(owner, 6) == [(5, 5), (3, 1)]


def test_what_holds_have_is_not_taken() -> None:
    owner = lotted(10, lot(1, 5, held=5, days=1), lot(2, 5, held=2, days=2))
    assert taken(owner, 10) == [(2, 3)]


def test_a_source_narrows_what_is_taken_and_what_is_available() -> None:
    owner = lotted(10, lot(1, 5, days=1), lot(2, 7))
    assert (taken(owner, 8, PURCHASED), available_of(owner, PURCHASED)) == ([], 10)
    assert (taken(owner, 8, CreditSource.BONUS), available_of(owner, CreditSource.BONUS)) == ([(1, 5), (2, 3)], 12)
    assert available_of(owner, None) == 22
    plain = account(1, 9)
    assert [available_of(plain, source) for source in (None, *CreditSource)] == [9, 9, 0]


@given(
    uses=st.lists(st.integers(1, 9), max_size=5),
    pool=st.integers(0, 9),
    parts=st.lists(st.integers(1, 7), max_size=8),
)
def test_what_is_given_back_in_parts_is_what_was_taken(uses: list[int], pool: int, parts: list[int]) -> None:
    total = sum(uses) + pool
    took = [LotUse(n, amount) for n, amount in enumerate(uses, start=1)]
    back: dict[int, int] = {}
    before = 0
    order: list[int] = []
    for part in parts:
        amount = min(part, total - before)
        given_back = give_back(took, total, before, amount)
        assert sum(use.amount_minor for use in given_back) <= amount
        for n, amount_minor in given_back:
            back[n] = back.get(n, 0) + amount_minor
            order.append(n)
        before += amount
    # What was taken last goes back first, and never more than was taken.
    assert order == sorted(order, reverse=True)
    assert all(back[n] <= uses[n - 1] for n in back)
    if before == total:
        assert back == dict(enumerate(uses, start=1))


def test_what_was_taken_last_goes_back_first() -> None:
    took = [LotUse(4, 5), LotUse(2, 3)]
    assert give_back(took, 10, 0, 2) == ()  # of the pool, which was taken last
    assert give_back(took, 10, 0, 3) == (LotUse(2, 1),)
    assert give_back(took, 10, 2, 4) == (LotUse(2, 3), LotUse(4, 1))
    assert give_back(took, 10, 6, 4) == (LotUse(4, 4),)


def test_a_hold_has_what_ends_first_first_and_a_capture_takes_it_so() -> None:
    owner = lotted(10, lot(1, 5), lot(2, 5, days=9, priority=0), lot(3, 5, days=2))
    earmarks = earmark(owner, (), take(owner, 13))
    assert earmarks == (Earmark(3, 5), Earmark(2, 5), Earmark(1, 3))
    assert use_earmarks(earmarks, 7) == ((Earmark(3, 5), Earmark(2, 2)), (Earmark(2, 3), Earmark(1, 3)))
    assert use_earmarks(earmarks, 20) == (earmarks, ())
    assert earmark(owner, earmarks[2:], take(owner, 6))[:2] == (Earmark(3, 1), Earmark(2, 5))


def test_a_clawback_takes_its_own_lots_first() -> None:
    owner = lotted(10, lot(1, 5, days=1), lot(2, 5, days=9), lot(3, 5))
    own = take_own(owner, [LotUse(2, 4)], 4, {}, 4)
    assert own == [LotUse(2, 4), LotUse(0, 0)]
    assert [(n, -amount) for n, _, amount in take_back(owner, own, 4)] == [(2, 4)]
    # A top-up's own is the pool.
    own = take_own(owner, (), 12, {}, 12)
    assert own == [LotUse(0, 10)]
    assert [(n, -amount) for n, _, amount in take_back(owner, own, 12)] == [(1, 2)]


def test_a_share_is_taken_back_once() -> None:
    owner = lotted(10, lot(1, 5), lot(2, 5, days=9))
    assert take_own(owner, [LotUse(1, 4)], 7, {1: 3, 0: 1}, 7) == [LotUse(1, 1), LotUse(0, 2)]
    assert take_own(owner, [LotUse(1, 4)], 7, {1: 5, 0: 3}, 2) == [LotUse(1, 0), LotUse(0, 0)]


def test_a_lot_that_is_held_in_part_is_clawed_back_in_part() -> None:
    owner = lotted(0, lot(1, 5, held=3, days=1), lot(2, 5, days=9))
    own = take_own(owner, [LotUse(1, 5)], 5, {}, 5)
    assert own == [LotUse(1, 2), LotUse(0, 0)]
    assert [(n, -amount) for n, _, amount in take_back(owner, own, 5)] == [(1, 2), (2, 3)]


def test_only_equal_lots_that_never_end_join() -> None:
    made, owner, treasury = with_lots(), account(1), account(1, -10, WalletKind.TREASURY)
    for number, each in enumerate(
        [NEVER, NEVER, terms(campaign="a"), NEVER, terms(days=1), terms(days=1), terms(priority=1)], start=1
    ):
        posted(decide(made, posting(owner, treasury, number, BONUS, terms=each)))
    assert {n: (each.remaining_minor, each.granted_minor, each.step) for n, each in owner.lots.items()} == {
        1: (7, 7, 3), 2: (3, 3, 1), 3: (5, 5, 1), 4: (6, 6, 1), 5: (7, 7, 1),
    }  # fmt: skip
    assert owner.live_lots == [5, 3, 4, 1, 2]
    assert (owner.lots_minor, owner.balance_minor, owner.next_due_at) == (28, 28, NOW + DAY)
    assert [row.n for row in made.others[LotRow] if isinstance(row, LotRow)] == [1, 2, 3, 4, 5]
    origins = [row.origin_id is None for row in made.others[LotRow] if isinstance(row, LotRow)]
    assert origins == [True, True, False, False, True]


def test_what_a_spend_writes() -> None:
    made, treasury = with_lots(), account(1, -10, WalletKind.TREASURY)
    owner = lotted(10, lot(1, 5, days=1), lot(2, 5, days=9))
    posted(decide(made, posting(owner, treasury, 7, SPEND)))
    [entry] = made.others[OwnersEntryRow]
    assert isinstance(entry, OwnersEntryRow)
    assert (entry.amount, entry.balance_after, entry.lots_after, entry.lots_seq, entry.live_lots) == (
        -7,
        13,
        3,
        8,
        "{2}",
    )
    assert (entry.next_due_at, entry.held_after, entry.position) == (NOW + 9 * DAY, None, None)
    assert made.others[LotStepRow] == [
        LotStepRow(1, owner.id, 1, 2, 8, 1, -5, 5, 0, 0),
        LotStepRow(1, owner.id, 2, 2, 8, 2, -2, 5, 3, 0),
    ]
    assert [row.amount for row in made.entries] == [7]
    posted(decide(made, posting(owner, treasury, 1, SPEND)))
    second = made.others[OwnersEntryRow][1]
    assert isinstance(second, OwnersEntryRow)
    assert (second.lots_after, second.lots_seq, second.live_lots) == (2, 8, None)


@pytest.mark.parametrize("ends", [NOW, NOW - DAY])
def test_what_has_lapsed_goes_to_the_treasury_before_anything_else(ends: object) -> None:
    made, treasury = with_lots(), account(1, -10, WalletKind.TREASURY)
    owner = lotted(10, lot(2, 5, days=9))
    owner.lots[1] = Lot(1, terms()._replace(expires_at=ends), 1, 8, 8, 3)  # type: ignore[arg-type]
    owner.live_lots, owner.balance_minor, owner.lots_minor = [1, 2], 23, 13
    owner.held_minor, owner.held_seq, owner.position = 3, 7, 7
    owner.expiry = account(1, -10, WalletKind.TREASURY)
    book_due(made, [owner])
    assert (owner.balance_minor, owner.lots_minor, owner.expiry.balance_minor) == (18, 8, -5)
    assert (owner.lots[1].remaining_minor, owner.lots[1].held_minor) == (3, 3)
    assert refused(decide(made, posting(owner, treasury, 16, SPEND))).facts == InsufficientBalance(GOLD, 15, 16)
    book_due(made, [owner])
    assert len(made.transactions) == 1


@pytest.mark.parametrize(
    ("at", "fault"),
    [
        (NOW, InvalidExpiryReason.IN_THE_PAST),
        (NOW - DAY, InvalidExpiryReason.IN_THE_PAST),
        (NOW + EXPIRES_WITHIN + timedelta(microseconds=1), InvalidExpiryReason.TOO_FAR),
    ],
)
def test_an_end_that_cannot_be(at: object, fault: InvalidExpiryReason) -> None:
    owner, treasury = account(1), account(1, -10, WalletKind.TREASURY)
    given_terms = NEVER._replace(expires_at=at)  # type: ignore[arg-type]
    outcome = decide(with_lots(), posting(owner, treasury, 5, BONUS, terms=given_terms))
    assert refused(outcome).facts == InvalidExpiry(GOLD, fault)


@pytest.mark.parametrize("given_terms", [terms(days=1), terms(priority=1), terms(campaign="a")])
def test_an_asset_without_lots_has_no_terms(given_terms: LotTerms) -> None:
    owner, treasury = account(1), account(1, -10, WalletKind.TREASURY)
    outcome = decide(batch(), posting(owner, treasury, 5, BONUS, terms=given_terms))
    assert refused(outcome).facts == InvalidExpiry(GOLD, InvalidExpiryReason.LOTS_OFF)


def test_an_account_has_so_many_lots_and_no_more() -> None:
    made, treasury = with_lots(), account(1, -10, WalletKind.TREASURY)
    owner = lotted(0, *(lot(n, 1, days=n) for n in range(1, LIVE_LOTS_MAX)), lot(LIVE_LOTS_MAX, 1))
    assert count_live(owner, ()) == LIVE_LOTS_MAX
    outcome = decide(made, posting(owner, treasury, 5, BONUS, terms=terms(days=1)))
    assert refused(outcome).facts == TooMany(GOLD, Counted.LOTS, LIVE_LOTS_MAX)
    # One that joins another makes none.
    posted(decide(made, posting(owner, treasury, 5, BONUS, terms=NEVER)))
    posted(decide(made, posting(owner, treasury, 1, SPEND)))
    posted(decide(made, posting(owner, treasury, 5, BONUS, terms=terms(days=1))))
