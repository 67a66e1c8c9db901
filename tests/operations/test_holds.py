"""Holds: what each request ends with, what is shown meanwhile, and that nothing is lost or doubled."""

from dataclasses import replace
from decimal import Decimal
from uuid import uuid4

import pytest
from factories import balance, new_owner, post
from holds import change, held, place
from tables import count_rows

from wallet_gql.domain.holds import HoldState
from wallet_gql.domain.postings import Held, HoldMissing, KeyReused, Posted, Refused, TransactionType
from wallet_gql.domain.refusals import Counted, HoldExceeded, HoldNotOpen, InsufficientBalance, TooMany
from wallet_gql.domain.shards import shard_of
from wallet_gql.domain.wallets import Balance, OwnerName
from wallet_gql.operations.holds import (
    adjust_hold,
    capture_hold,
    find_hold,
    place_hold,
    void_hold,
)
from wallet_gql.operations.opening import Ledger


async def position(ledger: Ledger, owner: str) -> Balance:
    name = OwnerName(shard_of(owner, ledger.shard_count), owner)
    found = await ledger.reads.owners_balances.load((name, ledger.assets["GOLD"]))
    assert found is not None
    return found


async def figures(ledger: Ledger, owner: str) -> tuple[int, int, int]:
    """Return amount, available and held."""
    found = await position(ledger, owner)
    return found.amount_minor, found.available_minor, found.held_minor


async def test_what_is_held_stays_and_cannot_be_spent(ledger: Ledger) -> None:
    owner = await new_owner(ledger, gold=100)
    hold = held(await place_hold(ledger, place(owner, 60)))
    assert (hold.state, hold.amount_minor, hold.remaining_minor) == (HoldState.OPEN, 60, 60)
    assert await figures(ledger, owner) == (100, 40, 60)
    refused = await post(ledger, "spend", owner, 41)
    assert isinstance(refused, Refused)
    assert refused.facts == InsufficientBalance(ledger.assets["GOLD"], 40, 41)
    assert isinstance(await post(ledger, "spend", owner, 40), Posted)
    assert await figures(ledger, owner) == (60, 0, 60)
    assert await find_hold(ledger, hold.name) is not None


async def test_a_capture_pays_what_it_takes_and_releases_the_rest(ledger: Ledger) -> None:
    owner = await new_owner(ledger, gold=100)
    hold = held(await place_hold(ledger, place(owner, 60)))
    asked = change(hold, 25)
    outcome = await capture_hold(ledger, asked)
    captured = held(outcome)
    assert (captured.state, captured.captured_minor, captured.released_minor) == (HoldState.CAPTURED, 25, 35)
    assert isinstance(outcome, Held)
    assert outcome.transaction is not None
    assert (outcome.transaction.type, outcome.transaction.amount_minor) == (TransactionType.CAPTURE, -25)
    assert await figures(ledger, owner) == (75, 75, 0)
    again = await capture_hold(ledger, asked)
    assert held(again, again=True).captured_minor == 25
    assert isinstance(again, Held)
    assert again.transaction == outcome.transaction
    late = await capture_hold(ledger, change(hold, 1))
    assert isinstance(late, Refused)
    assert late.facts == HoldNotOpen(hold.asset, hold.id, HoldState.CAPTURED)
    assert await ledger.reads.captures.load(hold.name) == [outcome.transaction]
    assert await ledger.reads.holds_of_transactions.load((hold.shard, outcome.transaction.id)) is not None  # type: ignore[arg-type]


async def test_several_captures_keep_the_remainder(ledger: Ledger) -> None:
    owner = await new_owner(ledger, gold=100)
    hold = held(await place_hold(ledger, place(owner, 60)))
    for taken, left in ((20, 40), (10, 30)):
        assert held(await capture_hold(ledger, change(hold, taken, keep_remainder=True))).remaining_minor == left
    exceeded = await capture_hold(ledger, change(hold, 31))
    assert isinstance(exceeded, Refused)
    assert exceeded.facts == HoldExceeded(hold.asset, hold.id, 30, 31)
    last = held(await capture_hold(ledger, change(hold)))
    assert (last.state, last.captured_minor, last.released_minor) == (HoldState.CAPTURED, 60, 0)
    assert await figures(ledger, owner) == (40, 40, 0)


async def test_a_hold_is_voided_once(ledger: Ledger) -> None:
    owner = await new_owner(ledger, gold=100)
    hold = held(await place_hold(ledger, place(owner, 60)))
    asked = change(hold)
    assert held(await void_hold(ledger, asked)).state is HoldState.VOIDED
    assert held(await void_hold(ledger, asked), again=True).state is HoldState.VOIDED
    second = await void_hold(ledger, change(hold))
    assert isinstance(second, Refused)
    assert second.facts == HoldNotOpen(hold.asset, hold.id, HoldState.VOIDED)
    assert await figures(ledger, owner) == (100, 100, 0)


async def test_a_hold_is_raised_and_lowered(ledger: Ledger) -> None:
    owner = await new_owner(ledger, gold=100)
    hold = held(await place_hold(ledger, place(owner, 60)))
    assert held(await adjust_hold(ledger, change(hold, 80))).remaining_minor == 80
    assert await figures(ledger, owner) == (100, 20, 80)
    refused = await adjust_hold(ledger, change(hold, 101))
    assert isinstance(refused, Refused)
    assert refused.facts == InsufficientBalance(hold.asset, 20, 21)
    held(await capture_hold(ledger, change(hold, 30, keep_remainder=True)))
    below = await adjust_hold(ledger, change(hold, 29))
    assert isinstance(below, Refused)
    assert below.facts == HoldExceeded(hold.asset, hold.id, 50, 29)
    assert held(await adjust_hold(ledger, change(hold, 30))).state is HoldState.CAPTURED
    assert await figures(ledger, owner) == (70, 70, 0)


async def test_an_escrow_pays_its_receiver(ledger: Ledger) -> None:
    owner, receiver = await new_owner(ledger, gold=100), await new_owner(ledger)
    hold = held(await place_hold(ledger, place(owner, 60, to_owner_id=receiver)))
    outcome = await capture_hold(ledger, change(hold, 50))
    assert isinstance(outcome, Held)
    assert outcome.transaction is not None
    assert outcome.transaction.type is TransactionType.TRANSFER_OUT
    assert await figures(ledger, owner) == (50, 50, 0)
    assert await balance(ledger, receiver) == 50


async def test_there_are_at_most_a_hundred_open_holds(ledger: Ledger) -> None:
    owner = await new_owner(ledger, gold=1000)
    holds = [held(await place_hold(ledger, place(owner, 1))) for _ in range(100)]
    many = await place_hold(ledger, place(owner, 1))
    assert isinstance(many, Refused)
    assert many.facts == TooMany(ledger.assets["GOLD"], Counted.HOLDS, 100)
    held(await void_hold(ledger, change(holds[50])))
    held(await place_hold(ledger, place(owner, 1)))
    assert await figures(ledger, owner) == (1000, 900, 100)


async def test_what_is_over_is_released_at_once(ledger: Ledger) -> None:
    owner = await new_owner(ledger, gold=100)
    hold = held(await place_hold(ledger, place(owner, 60, ttl_seconds=1)))
    while (await figures(ledger, owner)) == (100, 40, 60):
        pass
    assert await figures(ledger, owner) == (100, 100, 0)
    found = await find_hold(ledger, hold.name)
    assert found is not None
    assert found.state is HoldState.EXPIRED
    late = await capture_hold(ledger, change(hold))
    assert isinstance(late, Refused)
    assert late.facts == HoldNotOpen(hold.asset, hold.id, HoldState.EXPIRED)
    assert isinstance(await post(ledger, "spend", owner, 100), Posted)
    assert await figures(ledger, owner) == (0, 0, 0)


async def test_keys(ledger: Ledger) -> None:
    owner = await new_owner(ledger, gold=100)
    asked = place(owner, 60)
    hold = held(await place_hold(ledger, asked))
    before = await count_rows(ledger.settings)
    assert held(await place_hold(ledger, asked), again=True).id == hold.id
    assert isinstance(await place_hold(ledger, replace(asked, amount=Decimal(61))), KeyReused)
    assert isinstance(await place_hold(ledger, replace(asked, ttl_seconds=5)), KeyReused)
    assert isinstance(await post(ledger, "spend", owner, 60, asked.idempotency_key), KeyReused)
    missing = hold.name._replace(id=uuid4())
    assert await void_hold(ledger, replace(change(hold), name=missing)) == HoldMissing("shown")
    assert await count_rows(ledger.settings) == before


async def test_a_hold_that_a_fail_over_lost_is_not_found_though_it_is_remembered(ledger: Ledger) -> None:
    owner = await new_owner(ledger, gold=100)
    hold = held(await place_hold(ledger, place(owner, 60)))
    assert ledger.placed_holds[hold.name] == hold
    lost = replace(hold, id=uuid4())
    ledger.placed_holds[lost.name] = lost
    before = await count_rows(ledger.settings)
    for end in (capture_hold, void_hold):
        assert await end(ledger, change(lost)) == HoldMissing("shown")
        assert lost.name not in ledger.placed_holds
    assert await count_rows(ledger.settings) == before


async def test_a_worker_remembers_so_many_holds(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wallet_gql.operations.holds.PLACED_HOLDS_MAX", 2)
    ledger.placed_holds.clear()
    owner = await new_owner(ledger, gold=100)
    placed = [held(await place_hold(ledger, place(owner, 1))) for _ in range(3)]
    assert list(ledger.placed_holds) == [hold.name for hold in placed[1:]]
    assert held(await capture_hold(ledger, change(placed[0]))).captured_minor == 1


@pytest.mark.parametrize("count", [1, 3])
async def test_history_shows_only_what_moved(ledger: Ledger, count: int) -> None:
    owner = await new_owner(ledger, gold=100)
    for _ in range(count):
        hold = held(await place_hold(ledger, place(owner, 6)))
        await post(ledger, "spend", owner, 1)
        held(await capture_hold(ledger, change(hold, 2)))
        held(await void_hold(ledger, change(held(await place_hold(ledger, place(owner, 5))))))
    found = await position(ledger, owner)
    assert found.amount_minor == 100 - 3 * count
