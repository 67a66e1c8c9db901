"""Requests for holds at once, on several ledgers as several server processes have them: one wins, and sums agree."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from decimal import Decimal
from typing import Any, Final
from uuid import uuid4

import pytest
from asyncpg import Connection
from factories import new_owner, post
from tables import Rows, count_rows

from wallet_gql.domain.holds import Hold, HoldState
from wallet_gql.domain.postings import Held, Posted, Refused
from wallet_gql.domain.refusals import HoldExceeded, HoldNotOpen, InsufficientBalance
from wallet_gql.domain.shards import shard_of
from wallet_gql.domain.wallets import OwnerName
from wallet_gql.operations.holds import (
    ChangeHoldInput,
    PlaceHoldInput,
    adjust_hold,
    capture_hold,
    find_hold,
    place_hold,
    void_hold,
)
from wallet_gql.operations.opening import Ledger

CHANGES: Final = {"capture": capture_hold, "void": void_hold, "adjust": adjust_hold}


async def place(ledger: Ledger, owner: str, amount: int, **more: Any) -> object:
    return await place_hold(ledger, PlaceHoldInput(owner, "GOLD", Decimal(amount), uuid4(), **more))


async def placed(ledger: Ledger, owner: str, amount: int, **more: Any) -> Hold:
    outcome = await place(ledger, owner, amount, **more)
    assert isinstance(outcome, Held)
    return outcome.hold


def change(hold: Hold, amount: int | None = None, **more: Any) -> ChangeHoldInput:
    return ChangeHoldInput(hold.name, "", uuid4(), None if amount is None else Decimal(amount), **more)


async def figures(ledger: Ledger, owner: str) -> tuple[int, int]:
    """Return what an owner has, and what of it is held."""
    name = OwnerName(shard_of(owner, ledger.shard_count), owner)
    found = await ledger.reads.owners_balances.load((name, ledger.assets["GOLD"]))
    assert found is not None
    return found.amount_minor, found.held_minor


async def reread(ledger: Ledger, hold: Hold) -> Hold:
    found = await find_hold(ledger, hold.name)
    assert found is not None
    return found


def split(outcomes: list[Any]) -> tuple[list[Any], list[Refused]]:
    """Return what was done, and what was refused; there is nothing else."""
    refused = [outcome for outcome in outcomes if isinstance(outcome, Refused)]
    done = [outcome for outcome in outcomes if isinstance(outcome, Held | Posted)]
    assert len(done) + len(refused) == len(outcomes)
    return done, refused


async def test_of_captures_of_one_hold_at_once_one_wins(ledgers: list[Ledger]) -> None:
    for _ in range(10):
        owner = await new_owner(ledgers[0], gold=100)
        hold = await placed(ledgers[0], owner, 60)
        before = await count_rows(ledgers[0].settings)
        outcomes = await asyncio.gather(*(capture_hold(ledger, change(hold, 40)) for ledger in ledgers))
        [done], refused = split(list(outcomes))
        assert done.hold.captured_minor == 40
        assert {outcome.facts for outcome in refused} == {HoldNotOpen(hold.asset, hold.id, HoldState.CAPTURED)}
        assert await figures(ledgers[0], owner) == (60, 0)
        after = await count_rows(ledgers[0].settings)
        assert Rows(*(new - old for old, new in zip(before, after, strict=True))) == Rows(0, 0, 1, 2, 4)


async def test_of_a_hundred_captures_of_1_on_a_hold_of_30_thirty_pass(ledgers: list[Ledger]) -> None:
    owner = await new_owner(ledgers[0], gold=100)
    hold = await placed(ledgers[0], owner, 30)
    outcomes = await asyncio.gather(
        *(capture_hold(ledgers[n % 4], change(hold, 1, keep_remainder=True)) for n in range(100))
    )
    done, refused = split(list(outcomes))
    assert sorted(outcome.hold.remaining_minor for outcome in done) == list(range(30))
    assert {outcome.facts for outcome in refused} == {HoldNotOpen(hold.asset, hold.id, HoldState.CAPTURED)}
    found = await reread(ledgers[1], hold)
    assert (found.captured_minor, found.released_minor, found.capture_count) == (30, 0, 30)
    assert await figures(ledgers[0], owner) == (70, 0)
    assert len(await ledgers[2].reads.captures.load(hold.name)) == 30


async def test_of_captures_that_are_too_much_together_as_many_pass_as_fit(ledgers: list[Ledger]) -> None:
    owner = await new_owner(ledgers[0], gold=100)
    hold = await placed(ledgers[0], owner, 50)
    outcomes = await asyncio.gather(
        *(capture_hold(ledgers[n % 4], change(hold, 20, keep_remainder=True)) for n in range(8))
    )
    done, refused = split(list(outcomes))
    assert len(done) == 2
    assert {outcome.facts for outcome in refused} == {HoldExceeded(hold.asset, hold.id, 10, 20)}
    assert await figures(ledgers[0], owner) == (60, 10)


@pytest.mark.parametrize("other", ["void", "adjust"])
async def test_of_a_capture_and_another_change_at_once_one_comes_first(ledgers: list[Ledger], other: str) -> None:
    for n in range(12):
        owner = await new_owner(ledgers[0], gold=100)
        hold = await placed(ledgers[0], owner, 60)
        capture = capture_hold(ledgers[n % 4], change(hold, 60))
        second = CHANGES[other](ledgers[(n + 1 + n // 4) % 4], change(hold, None if other == "void" else 70))
        both: list[Awaitable[object]] = [capture, second]
        outcomes = await asyncio.gather(*(both if n % 2 else both[::-1]))
        captured, changed = outcomes if n % 2 else outcomes[::-1]
        found = await reread(ledgers[0], hold)
        if isinstance(changed, Refused):
            assert isinstance(captured, Held)
            assert changed.facts == HoldNotOpen(hold.asset, hold.id, HoldState.CAPTURED)
            assert (found.state, found.captured_minor) == (HoldState.CAPTURED, 60)
            assert await figures(ledgers[0], owner) == (40, 0)
        elif other == "void":
            assert isinstance(captured, Refused)
            assert captured.facts == HoldNotOpen(hold.asset, hold.id, HoldState.VOIDED)
            assert (found.state, found.captured_minor, found.released_minor) == (HoldState.VOIDED, 0, 60)
            assert await figures(ledgers[0], owner) == (100, 0)
        else:
            assert isinstance(captured, Held)
            assert (found.amount_minor, found.captured_minor, found.released_minor) == (70, 60, 10)
            assert await figures(ledgers[0], owner) == (40, 0)


async def test_a_capture_at_the_end_of_a_hold_comes_in_time_or_too_late(
    ledgers: list[Ledger], server_connection: Connection
) -> None:
    """Requests are sent from a little before the end to a little after it, with spends that book the end."""
    owners = [await new_owner(ledgers[0], gold=100) for _ in range(24)]
    holds = await asyncio.gather(*(placed(ledgers[n % 4], owner, 60, ttl_seconds=1) for n, owner in enumerate(owners)))

    async def late(n: int) -> list[object]:
        await asyncio.sleep(0.9 + 0.2 * n / len(owners))
        capture: Awaitable[object] = capture_hold(ledgers[n % 4], change(holds[n]))
        spend: Awaitable[object] = post(ledgers[(n + 1) % 4], "spend", owners[n], 100)
        both = [capture, spend]
        outcomes = await asyncio.gather(*(both if n % 2 else both[::-1]))
        return list(outcomes if n % 2 else outcomes[::-1])

    outcomes = await asyncio.gather(*(late(n) for n in range(len(owners))))
    in_time = 0
    for owner, hold, (captured, spent) in zip(owners, holds, outcomes, strict=True):
        found = await reread(ledgers[0], hold)
        if isinstance(captured, Held):
            in_time += 1
            # It was decided by the clock, before the end.
            at = await server_connection.fetchval(
                "SELECT at FROM hold_step WHERE (shard, hold_id, kind) = ($1, $2, 52)", hold.shard, hold.id
            )
            assert at < hold.held_until
            assert isinstance(spent, Refused)
            assert (found.state, await figures(ledgers[0], owner)) == (HoldState.CAPTURED, (40, 0))
        else:
            assert isinstance(captured, Refused)
            assert captured.facts == HoldNotOpen(hold.asset, hold.id, HoldState.EXPIRED)
            assert (found.state, found.captured_minor) == (HoldState.EXPIRED, 0)
            assert await figures(ledgers[0], owner) == ((0, 0) if isinstance(spent, Posted) else (100, 0))
    booked = await server_connection.fetchval(
        "SELECT count(*) FROM hold_step WHERE kind = 55 AND hold_id = ANY ($1)", [hold.id for hold in holds]
    )
    assert booked == len(owners) - in_time
    assert booked > 0


async def test_the_end_of_a_hold_is_booked_once_by_whoever_comes(
    ledgers: list[Ledger], server_connection: Connection
) -> None:
    owner = await new_owner(ledgers[0], gold=100)
    holds = [await placed(ledgers[0], owner, 5, ttl_seconds=1) for _ in range(4)]
    await asyncio.sleep(1.05)
    outcomes = await asyncio.gather(*(post(ledgers[n % 4], "spend", owner, 1) for n in range(40)))
    done, _ = split(list(outcomes))
    assert len(done) == 40
    ends = await server_connection.fetch(
        "SELECT hold_id FROM hold_step WHERE kind = 55 AND hold_id = ANY ($1)", [hold.id for hold in holds]
    )
    assert sorted(row[0] for row in ends) == sorted(hold.id for hold in holds)
    assert await figures(ledgers[0], owner) == (60, 0)


async def test_spends_and_holds_at_once_never_take_more_than_there_is(ledgers: list[Ledger]) -> None:
    owner = await new_owner(ledgers[0], gold=100)

    def request(n: int) -> Awaitable[object]:
        ledger = ledgers[n % 4]
        return post(ledger, "spend", owner, 3) if n % 3 else place(ledger, owner, 4)

    outcomes = await asyncio.gather(*(request(n) for n in range(120)))
    done, refused = split(list(outcomes))
    spent = 3 * len([outcome for outcome in done if isinstance(outcome, Posted)])
    held = 4 * len([outcome for outcome in done if isinstance(outcome, Held)])
    assert await figures(ledgers[0], owner) == (100 - spent, held)
    assert 100 - spent - held in {0, 1, 2}
    assert held > 0
    for outcome in refused:
        assert isinstance(outcome.facts, InsufficientBalance)
        assert outcome.facts.balance_before_minor < outcome.facts.amount_minor


async def test_of_two_that_each_want_all_one_gets_it(ledgers: list[Ledger]) -> None:
    wants: list[Callable[[Ledger, str], Awaitable[object]]] = [
        lambda ledger, owner: post(ledger, "spend", owner, 700),
        lambda ledger, owner: place(ledger, owner, 700),
    ]
    for n in range(12):
        owner = await new_owner(ledgers[0], gold=799)
        order = wants if n % 2 else wants[::-1]
        outcomes = await asyncio.gather(*(want(ledgers[(n + at) % 4], owner) for at, want in enumerate(order)))
        [done], [refused] = split(list(outcomes))
        assert refused.facts == InsufficientBalance(ledgers[0].assets["GOLD"], 99, 700)
        assert await figures(ledgers[0], owner) == ((99, 0) if isinstance(done, Posted) else (799, 700))


async def test_of_24_with_one_key_one_is_placed_and_23_are_replays(ledgers: list[Ledger]) -> None:
    owner = await new_owner(ledgers[0], gold=100)
    asked = PlaceHoldInput(owner, "GOLD", Decimal(30), uuid4())
    done, refused = split(list(await asyncio.gather(*(place_hold(ledgers[n % 4], asked) for n in range(24)))))
    assert (len({outcome.hold.id for outcome in done}), refused) == (1, [])
    assert sorted(outcome.already_processed for outcome in done) == [False] + [True] * 23
    hold = done[0].hold
    capture = change(hold, 10, keep_remainder=True)
    done, refused = split(list(await asyncio.gather(*(capture_hold(ledgers[n % 4], capture) for n in range(24)))))
    assert (len({outcome.transaction for outcome in done}), refused) == (1, [])
    assert sorted(outcome.already_processed for outcome in done) == [False] + [True] * 23
    assert await figures(ledgers[0], owner) == (90, 20)
    raised = replace(change(hold, 50), idempotency_key=uuid4())
    done, refused = split(list(await asyncio.gather(*(adjust_hold(ledgers[n % 4], raised) for n in range(24)))))
    assert sorted(outcome.already_processed for outcome in done) == [False] + [True] * 23
    assert await figures(ledgers[0], owner) == (90, 40)


async def test_escrows_between_two_owners_in_both_directions_lose_nothing(ledgers: list[Ledger]) -> None:
    one, other = await new_owner(ledgers[0], gold=200), await new_owner(ledgers[0], gold=200)

    async def trade(n: int) -> None:
        giver, taker = (one, other) if n % 2 else (other, one)
        hold = await placed(ledgers[n % 4], giver, 5, to_owner_id=taker)
        next_ledger = ledgers[(n + 1) % 4]
        is_void = n % 5 == 0
        end = void_hold(next_ledger, change(hold)) if is_void else capture_hold(next_ledger, change(hold, 3))
        assert isinstance(await end, Held)

    await asyncio.gather(*(trade(n) for n in range(40)))
    mine, theirs = await figures(ledgers[0], one), await figures(ledgers[0], other)
    assert (mine, theirs) == ((200, 0), (200, 0))
