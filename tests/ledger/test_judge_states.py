"""Freezes, closings and debts, decided without a database: what the clock does to them."""

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final
from uuid import uuid4

import pytest
from decisions import GOLD, NOW, account, assert_unavailable, batch, changing, closing, posting
from uuid_utils.compat import uuid7

from wallet_gql.domain.assets import TransferPolicy
from wallet_gql.domain.holds import Hold, HoldStepKind
from wallet_gql.domain.postings import (
    Changed,
    Posted,
    Refused,
    Remainder,
    RequestKind,
    TransactionType,
)
from wallet_gql.domain.refusals import WalletFrozen
from wallet_gql.domain.wallets import WalletKind, WalletState, WalletStatus
from wallet_gql.ledger.append import append_state
from wallet_gql.ledger.batch import StateItem
from wallet_gql.ledger.decide import book_due, decide
from wallet_gql.ledger.heads import Account
from wallet_gql.ledger.judge import HEAD_AHEAD_MAX
from wallet_gql.ledger.rows import OwnersEntryRow, WalletStateRow

OUT, CLOSED = WalletStatus.FROZEN_OUT, WalletStatus.CLOSED
SECOND: Final = timedelta(seconds=1)


def freezing(owner: Account, until: datetime | None) -> StateItem:
    return changing(RequestKind.FREEZE, owner, status=OUT, until=until)


def become(outcome: object) -> WalletState:
    assert isinstance(outcome, Changed), outcome
    assert outcome.state is not None
    return outcome.state


@pytest.mark.parametrize("until", [None, NOW + SECOND, NOW, NOW - SECOND])
def test_what_follows_a_freeze_in_its_batch_sees_it_by_the_clock(until: datetime | None) -> None:
    made, owner, is_over = batch(), account(0, 10), until is not None and until <= NOW
    state = become(decide(made, freezing(owner, until)))
    assert state.status is (WalletStatus.OPEN if is_over else OUT)
    spending = posting(owner, account(0, kind=WalletKind.TREASURY), type_=TransactionType.SPEND)
    outcome = decide(made, spending)
    assert isinstance(outcome, Posted if is_over else Refused)
    if isinstance(outcome, Refused):
        assert isinstance(outcome.facts, WalletFrozen)
    # What is kept is what was asked for.
    [row] = made.others[WalletStateRow]
    assert isinstance(row, WalletStateRow)
    assert (row.status, row.until, row.at) == (OUT, until, NOW)


def test_a_state_of_a_clock_that_went_back_is_not_before_what_it_says() -> None:
    made, owner = batch(), account(0, 10)
    opened = WalletState(0, owner.wallet.id, 1, WalletStatus.OPEN, NOW + SECOND)
    append_state(made, replace(opened, debt_wallet_id=5), uuid4())
    [row] = made.others[WalletStateRow]
    assert isinstance(row, WalletStateRow)
    assert (row.since, row.at) == (NOW + SECOND, NOW + SECOND)


@pytest.mark.parametrize("remainder", list(Remainder))
def test_a_closing_does_not_follow_a_clock_that_jumped(remainder: Remainder) -> None:
    ahead = NOW + HEAD_AHEAD_MAX + SECOND
    owner, receiver = account(0, 10, executed_at=ahead), account(0)
    item = closing(owner, remainder, receiver if remainder is Remainder.TRANSFER else None)
    where = {"shard": 0, "wallet_id": owner.wallet.id, "ahead_seconds": 61}
    assert_unavailable(batch(TransferPolicy.ALL), item, "wallet_ahead_of_clock", **where)


def test_a_closing_does_not_follow_a_receiver_s_clock_that_jumped() -> None:
    owner, receiver = account(0, 10), account(0, executed_at=NOW + HEAD_AHEAD_MAX + SECOND)
    where = {"shard": 0, "wallet_id": receiver.wallet.id, "ahead_seconds": 61}
    item = closing(owner, Remainder.TRANSFER, receiver)
    assert_unavailable(batch(TransferPolicy.ALL), item, "wallet_ahead_of_clock", **where)
    # Who gets nothing has no say.
    nothing = closing(account(0), Remainder.TRANSFER, receiver)
    assert become(decide(batch(TransferPolicy.ALL), nothing)).status is CLOSED


def owing(balance_minor: int, *holds: tuple[int, timedelta], debt_minor: int) -> Account:
    """Make an account with holds, each until so long from now, of an owner who owes something."""
    owner = account(0, balance_minor, seq=7, held_seq=7, position=7)
    owner.debt = Account(replace(owner.wallet, id=owner.wallet.id + 10**6), WalletKind.DEBT, GOLD, 10**6)
    owner.debt.balance_minor = -debt_minor
    for amount_minor, ttl in holds:
        hold = Hold(
            0, uuid7(), owner.id, 7, owner.wallet, GOLD, None, uuid4(), None, None, NOW, 1, HoldStepKind.PLACED,
            amount_minor, 0, 0, 0, NOW + ttl, NOW, NOW,
        )  # fmt: skip
        owner.holds[hold.id] = hold
        owner.held_minor += amount_minor
    return owner


def test_what_the_end_of_holds_releases_repays_what_is_owed() -> None:
    owner = owing(60, (20, -SECOND), (10, -2 * SECOND), (30, SECOND), debt_minor=25)
    made = batch()
    book_due(made, [owner])
    assert owner.debt is not None
    assert (owner.balance_minor, owner.available_minor, owner.debt_minor) == (35, 5, 0)
    # The first to end first, each with its own repayment.
    assert [row.type for row in made.transactions] == [TransactionType.REPAYMENT] * 2
    assert [(row.amount, row.balance_after) for row in made.entries] == [(10, -15), (15, 0)]
    moved = [
        (row.amount, row.balance_after, row.held_after)
        for row in made.others[OwnersEntryRow]
        if isinstance(row, OwnersEntryRow)
    ]
    assert moved == [(0, 60, 50), (-10, 50, 50), (0, 50, 30), (-15, 35, 30)]
