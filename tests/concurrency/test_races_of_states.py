"""What becomes of wallets and debts at once: in one batch, on several ledgers, and while others post."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest
from batches import again, ask, new_owner_in, results, send, transfer_request
from factories import balance, new_owner, new_owner_id, post
from holds import held, place

from wallet_gql.domain.postings import (
    Changed,
    Nothing,
    Outcome,
    PlaceHoldRequest,
    Posted,
    Refused,
    Remainder,
    RequestKind,
    ReverseRequest,
    Shortfall,
    StateRequest,
    TransactionView,
)
from wallet_gql.domain.refusals import ReceiverCause, ReceiverRefused, WalletClosed, WalletFrozen, WalletNotEmpty
from wallet_gql.domain.shards import shard_of
from wallet_gql.domain.wallets import OwnerName, WalletState, WalletStatus
from wallet_gql.ledger.reads import EntryName
from wallet_gql.operations.assets import add_asset
from wallet_gql.operations.holds import place_hold
from wallet_gql.operations.opening import Ledger, open_ledger
from wallet_gql.operations.reversals import ReverseInput, clawback
from wallet_gql.operations.states import StateInput, close, freeze, reopen, unfreeze
from wallet_gql.operations.transfers import TransferInput, transfer
from wallet_gql.settings import Settings


@pytest.fixture
async def ledgers(settings: Settings, ledger: Ledger) -> AsyncIterator[list[Ledger]]:
    """Four ledgers with connections, lanes and stripes of their own, as four server processes have."""
    async with AsyncExitStack() as stack:
        others = [await stack.enter_async_context(open_ledger(settings)) for _ in range(3)]
        yield [ledger, *others]


def name(ledger: Ledger, owner: str) -> OwnerName:
    return OwnerName(shard_of(owner, ledger.shard_count), owner)


def changing(ledger: Ledger, kind: RequestKind, owner: str, **more: Any) -> StateRequest:
    assets = tuple(ledger.assets.values())
    if kind is RequestKind.CLOSE:
        more["assets"] = assets
    return StateRequest(kind, name(ledger, owner), assets[0], uuid4(), description="because", **more)


def freezing(ledger: Ledger, owner: str, status: WalletStatus = WalletStatus.FROZEN_OUT, **more: Any) -> StateRequest:
    return changing(ledger, RequestKind.FREEZE, owner, status=status, **more)


def forfeiting(ledger: Ledger, owner: str) -> StateRequest:
    return changing(ledger, RequestKind.CLOSE, owner, remainder=Remainder.FORFEIT, voids_holds=True)


def giving(ledger: Ledger, owner: str, to: str) -> StateRequest:
    receiver = name(ledger, to)
    return changing(ledger, RequestKind.CLOSE, owner, remainder=Remainder.TRANSFER, receiver=receiver, voids_holds=True)


def placing(ledger: Ledger, owner: str, amount: int) -> PlaceHoldRequest:
    return PlaceHoldRequest(name(ledger, owner), None, ledger.assets["GOLD"], amount, 3600, uuid4())


async def owing(ledger: Ledger, view: TransactionView, amount: int | None = None) -> ReverseRequest:
    wallet = await ledger.reads.wallets_by_id.load((view.shard, view.wallet_id))
    assert wallet is not None
    owner = OwnerName(view.shard, wallet.owner_id)
    return ReverseRequest(RequestKind.CLAWBACK, view, owner, None, amount, uuid4(), Shortfall.DEBT)


def told(outcome: object) -> object:
    """Say in a word what came of a request."""
    if isinstance(outcome, Refused):
        facts = outcome.facts
        return facts.cause if isinstance(facts, ReceiverRefused) else type(facts)
    return type(outcome)


async def in_one_batch(ledger: Ledger, *requests: Any) -> list[Outcome]:
    """Send requests as one batch; then as callers do who ask again, and as a batch whose COMMIT was in doubt."""
    batches = ledger.commits.figures.batch_count
    outcomes = await results(await send(ledger.commits, *requests))
    assert ledger.commits.figures.batch_count == batches + 1
    for repeated, is_again in ((map(again, requests), True), (requests, False)):
        answers = await results(await send(ledger.commits, *repeated))
        assert list(map(told, answers)) == list(map(told, outcomes))
        assert {getattr(answer, "already_processed", None) for answer in answers} == {is_again}
    assert not [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
    return [outcome for outcome in outcomes if not isinstance(outcome, BaseException)]


def states(outcomes: list[Outcome]) -> list[WalletStatus]:
    found = [outcome.state for outcome in outcomes if isinstance(outcome, Changed)]
    return [state.status for state in found if isinstance(state, WalletState)]


async def posted(ledger: Ledger, verb: str, owner: str, amount: int, **more: Any) -> TransactionView:
    outcome = await post(ledger, verb, owner, amount, **more)
    assert isinstance(outcome, Posted)
    return outcome.transaction


async def debt(ledger: Ledger, owner: str) -> int:
    found = await ledger.reads.owners_balances.load((name(ledger, owner), ledger.assets["GOLD"]))
    assert found is not None
    return found.debt_minor


async def test_a_freeze_between_spends(ledger: Ledger) -> None:
    owner = await new_owner_in(ledger, 0, gold=10)
    outcomes = await in_one_batch(
        ledger,
        ask(ledger, owner, 1, "SPEND"),
        freezing(ledger, owner),
        ask(ledger, owner, 1, "SPEND"),
        ask(ledger, owner, 1),
        freezing(ledger, owner, WalletStatus.FROZEN_ALL),
        ask(ledger, owner, 1),
        changing(ledger, RequestKind.UNFREEZE, owner),
        ask(ledger, owner, 2, "SPEND"),
    )
    assert list(map(told, outcomes)) == [Posted, Changed, WalletFrozen, Posted, Changed, WalletFrozen, Changed, Posted]
    assert states(outcomes) == [WalletStatus.FROZEN_OUT, WalletStatus.FROZEN_ALL, WalletStatus.OPEN]
    assert await balance(ledger, owner) == 8


async def test_a_freeze_that_is_over_in_a_batch(ledger: Ledger) -> None:
    owner = await new_owner_in(ledger, 0, gold=10)
    past = datetime.now(UTC) - timedelta(days=1)
    outcomes = await in_one_batch(
        ledger,
        freezing(ledger, owner),
        freezing(ledger, owner, WalletStatus.FROZEN_ALL, until=past),
        ask(ledger, owner, 1, "SPEND"),
        changing(ledger, RequestKind.UNFREEZE, owner),
    )
    assert list(map(told, outcomes)) == [Changed, Changed, Posted, Changed]
    assert states(outcomes) == [WalletStatus.FROZEN_OUT, WalletStatus.OPEN, WalletStatus.OPEN]


async def test_a_closing_between_credits(ledger: Ledger) -> None:
    owner = await new_owner_in(ledger, 0)
    outcomes = await in_one_batch(
        ledger,
        ask(ledger, owner, 10),
        placing(ledger, owner, 4),
        forfeiting(ledger, owner),
        ask(ledger, owner, 10),
        forfeiting(ledger, owner),
    )
    assert [told(outcome) for outcome in outcomes if not isinstance(outcome, Posted | Changed)][1:] == [WalletClosed]
    assert states(outcomes) == [WalletStatus.CLOSED, WalletStatus.CLOSED]
    assert await balance(ledger, owner) == 0


async def test_a_wallet_that_is_closed_and_credited_again(ledger: Ledger) -> None:
    owner = await new_owner_in(ledger, 0, gold=5)
    outcomes = await in_one_batch(
        ledger,
        forfeiting(ledger, owner),
        changing(ledger, RequestKind.REOPEN, owner),
        ask(ledger, owner, 7),
    )
    assert list(map(told, outcomes)) == [Changed, Changed, Posted]
    assert await balance(ledger, owner) == 7


async def test_debts_in_one_batch(ledger: Ledger) -> None:
    owner = await new_owner_in(ledger, 0)
    first, second = [await posted(ledger, "top_up", owner, 10) for _ in range(2)]
    points = await posted(ledger, "top_up", owner, 3, asset_code="POINTS")
    await posted(ledger, "spend", owner, 3, asset_code="POINTS")
    await posted(ledger, "spend", owner, 20)
    outcomes = await in_one_batch(
        ledger,
        freezing(ledger, owner),
        await owing(ledger, first),
        await owing(ledger, points),
        ask(ledger, owner, 4),
        await owing(ledger, second, 6),
        changing(ledger, RequestKind.UNFREEZE, owner),
        ask(ledger, owner, 5),
        ask(ledger, owner, 1, "SPEND"),
    )
    assert list(map(told, outcomes))[:-1] == [Changed, Nothing, Nothing, Posted, Nothing, Changed, Posted]
    assert isinstance(outcomes[-1], Refused)
    assert (await balance(ledger, owner), await debt(ledger, owner)) == (0, 7)
    owed = await ledger.reads.owners_balances.load((name(ledger, owner), ledger.assets["POINTS"]))
    assert owed is not None
    assert owed.debt_minor == 300
    # Both are written off, and what comes afterwards is the owner's.
    outcomes = await in_one_batch(
        ledger, forfeiting(ledger, owner), changing(ledger, RequestKind.REOPEN, owner), ask(ledger, owner, 2)
    )
    assert list(map(told, outcomes)) == [Changed, Changed, Posted]
    assert (await balance(ledger, owner), await debt(ledger, owner)) == (2, 0)


async def test_a_wallet_that_is_closed_and_owes_again(ledger: Ledger) -> None:
    owner = await new_owner_in(ledger, 0)
    view = await posted(ledger, "top_up", owner, 10)
    outcomes = await in_one_batch(ledger, forfeiting(ledger, owner), await owing(ledger, view))
    assert list(map(told, outcomes)) == [Changed, Nothing]
    assert (await balance(ledger, owner), await debt(ledger, owner)) == (0, 10)


async def test_one_gives_to_another_who_is_closed_in_the_same_batch(ledger: Ledger) -> None:
    first, second, third = [await new_owner_in(ledger, 0, gold=gold) for gold in (10, 0, 0)]
    outcomes = await in_one_batch(
        ledger,
        giving(ledger, first, second),
        giving(ledger, second, third),
        transfer_request(ledger, third, first, 1),
        giving(ledger, third, first),
        changing(ledger, RequestKind.REOPEN, first),
        giving(ledger, third, first),
    )
    closed = ReceiverCause.CLOSED
    assert list(map(told, outcomes)) == [Changed, Changed, closed, closed, Changed, Changed]
    assert [await balance(ledger, owner) for owner in (first, second, third)] == [10, 0, 0]


@pytest.mark.parametrize("shards", [(0, 0), (0, 1), (0, 2)])
async def test_two_give_to_each_other(ledgers: list[Ledger], shards: tuple[int, int]) -> None:
    one, other = [await new_owner_in(ledgers[0], shard, gold=10) for shard in shards]
    outcomes = await asyncio.gather(
        close(ledgers[0], StateInput(one, uuid4(), "x"), Remainder.TRANSFER, other, voids_holds=False),
        close(ledgers[1], StateInput(other, uuid4(), "x"), Remainder.TRANSFER, one, voids_holds=False),
    )
    assert sorted(map(str, map(told, outcomes))) == sorted(map(str, [Changed, ReceiverCause.CLOSED]))
    assert sorted([await balance(ledgers[0], each) for each in (one, other)]) == [0, 20]


async def test_closings_at_once(ledgers: list[Ledger]) -> None:
    owner, other = await new_owner(ledgers[0], gold=10), await new_owner(ledgers[0])
    outcomes = await asyncio.gather(
        *(
            close(ledger, StateInput(owner, uuid4(), "x"), remainder, to, voids_holds=True)
            for ledger in ledgers
            for remainder, to in ((Remainder.FORFEIT, None), (Remainder.TRANSFER, other))
        )
    )
    assert list(map(told, outcomes)) == [Changed] * 8
    assert sorted(len(each.transactions) for each in outcomes if isinstance(each, Changed)) == [0] * 7 + [1]
    assert await balance(ledgers[0], owner) == 0


async def test_a_closing_and_credits_at_once(ledgers: list[Ledger]) -> None:
    owner, other = await new_owner(ledgers[0], gold=10), await new_owner(ledgers[0], gold=100)
    asked = StateInput(owner, uuid4(), "x")
    outcomes = await asyncio.gather(
        *(post(ledger, "top_up", owner, 1) for ledger in ledgers for _ in range(5)),
        close(ledgers[2], asked, Remainder.FORFEIT, None, voids_holds=True),
        *(transfer(ledger, TransferInput(other, owner, "GOLD", Decimal(1), uuid4())) for ledger in ledgers),
        *(post(ledger, "bonus", owner, 1) for ledger in ledgers for _ in range(5)),
    )
    assert {told(outcome) for outcome in outcomes} <= {Posted, Changed, WalletClosed, ReceiverCause.CLOSED}
    assert await balance(ledgers[0], owner) == 0
    again_closed = await close(ledgers[1], asked, Remainder.FORFEIT, None, voids_holds=True)
    assert isinstance(again_closed, Changed)
    assert again_closed.already_processed


async def test_freezes_in_bursts_of_transfers_both_ways(ledgers: list[Ledger]) -> None:
    owners = [await new_owner_in(ledgers[0], shard, gold=1000) for shard in (0, 1)]

    async def sent(ledger: Ledger, sender: str, receiver: str) -> object:
        return told(await transfer(ledger, TransferInput(sender, receiver, "GOLD", Decimal(1), uuid4())))

    async def burst(ledger: Ledger) -> list[object]:
        return await asyncio.gather(*(sent(ledger, *pair) for _ in range(10) for pair in (owners, owners[::-1])))

    async def flicker(ledger: Ledger) -> None:
        for status in (WalletStatus.FROZEN_OUT, WalletStatus.FROZEN_ALL):
            await freeze(ledger, StateInput(owners[0], uuid4(), "x"), status, None)
            await unfreeze(ledger, StateInput(owners[0], uuid4()))

    flickering = asyncio.create_task(flicker(ledgers[0]))
    bursts = await asyncio.gather(*map(burst, ledgers))
    await flickering
    assert {each for burst in bursts for each in burst} <= {Posted, WalletFrozen, ReceiverCause.FROZEN}
    assert sum([await balance(ledgers[0], owner) for owner in owners]) == 2000
    final = await freeze(ledgers[1], StateInput(owners[0], uuid4(), "x"), WalletStatus.FROZEN_ALL, None)
    assert isinstance(final, Changed)
    assert {each for burst in await asyncio.gather(*map(burst, ledgers)) for each in burst} == {
        WalletFrozen, ReceiverCause.FROZEN
    }  # fmt: skip


async def test_debts_against_credits_and_spends_at_once(ledgers: list[Ledger]) -> None:
    ledger = ledgers[0]
    owner, other = await new_owner(ledger), await new_owner(ledger, gold=100)
    top_ups = [await posted(ledger, "top_up", owner, 10) for _ in range(12)]
    holds = [held(await place_hold(ledger, place(owner, 5))) for _ in range(4)]
    assert len(holds) == 4
    outcomes = await asyncio.gather(
        *(post(ledgers[n % 4], "spend", owner, 7) for n in range(12)),
        *(
            clawback(
                ledgers[n % 4],
                ReverseInput(
                    EntryName(view.shard, view.account_id, view.seq), "", uuid4(), None, Shortfall.DEBT, "Why"
                ),
            )
            for n, view in enumerate(top_ups)
        ),
        *(post(ledgers[n % 4], "top_up", owner, 3) for n in range(12)),
        *(transfer(ledgers[n % 4], TransferInput(other, owner, "GOLD", Decimal(1), uuid4())) for n in range(4)),
        *(transfer(ledgers[n % 4], TransferInput(owner, other, "GOLD", Decimal(1), uuid4())) for n in range(4)),
    )
    spent = 7 * sum(isinstance(outcome, Posted) for outcome in outcomes[:12])
    given = sum(isinstance(outcome, Posted) for outcome in outcomes[-4:])
    amount, owed = await balance(ledger, owner), await debt(ledger, owner)
    assert amount - owed == 36 + 4 - spent - given
    assert amount >= 20
    assert not owed or amount == 20


async def test_a_first_debt_on_every_ledger_at_once(ledgers: list[Ledger]) -> None:
    owner = await new_owner(ledgers[0])
    views = [await posted(ledgers[0], "top_up", owner, 10) for _ in range(4)]
    views += [await posted(ledgers[0], "top_up", owner, 10, asset_code="POINTS") for _ in range(4)]
    await posted(ledgers[0], "spend", owner, 40)
    await posted(ledgers[0], "spend", owner, 40, asset_code="POINTS")
    names = [EntryName(view.shard, view.account_id, view.seq) for view in views]
    outcomes = await asyncio.gather(
        *(
            clawback(ledgers[n % 4], ReverseInput(each, "", uuid4(), None, Shortfall.DEBT, "Why"))
            for n, each in enumerate(names)
        ),
        *(freeze(ledger, StateInput(owner, uuid4(), "x"), WalletStatus.FROZEN_OUT, None) for ledger in ledgers),
    )
    assert list(map(told, outcomes)) == [Nothing] * 8 + [Changed] * 4
    assert await debt(ledgers[0], owner) == 40


async def test_an_asset_that_another_ledger_has_just_added(ledgers: list[Ledger]) -> None:
    first, second = ledgers[:2]
    owner = await new_owner(first)
    code = f"X{new_owner_id('')[1:].upper()}"
    await add_asset(second, code, "New", 0)
    assert code not in first.assets
    await posted(second, "bonus", owner, 5, asset_code=code)
    asked = StateInput(owner, uuid4(), "x")
    refused = await close(first, asked, Remainder.REFUSE, None, voids_holds=False)
    assert isinstance(refused, Refused)
    assert isinstance(refused.facts, WalletNotEmpty)
    forfeited = await close(first, replace(asked, idempotency_key=uuid4()), Remainder.FORFEIT, None, voids_holds=False)
    assert isinstance(forfeited, Changed)
    assert len(forfeited.transactions) == 1
    assert isinstance(await reopen(first, StateInput(owner, uuid4())), Changed)
