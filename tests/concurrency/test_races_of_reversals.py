"""Refunds and clawbacks at once, on several ledgers and processes: never more than was moved, never below zero."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from decimal import Decimal
from typing import Any, Final
from uuid import UUID, uuid4

import pytest
from batches import new_owner_in
from concurrency.worker import Job, check, run_worker
from deadlocks import count_deadlocks
from factories import balance, new_owner, post
from holds import held, place
from tables import count_rows

from wallet_gql.domain.postings import (
    Nothing,
    Posted,
    Refused,
    RequestKind,
    ReverseRequest,
    Shortfall,
    TransactionView,
)
from wallet_gql.domain.refusals import InsufficientBalance, RefundExceedsOriginal, TooMany
from wallet_gql.domain.shards import shard_of
from wallet_gql.domain.wallets import OwnerName
from wallet_gql.ledger.posting import post_batch
from wallet_gql.ledger.reads import EntryName, OwnTransaction
from wallet_gql.operations.holds import place_hold
from wallet_gql.operations.opening import Ledger, open_ledger
from wallet_gql.operations.proof import prove
from wallet_gql.operations.reversals import ReverseInput, clawback, refund
from wallet_gql.operations.transfers import TransferInput, transfer
from wallet_gql.operations.unit_of_work import unit_of_work
from wallet_gql.settings import Settings

AVAILABLE: Final[dict[str, Any]] = {"on_shortfall": Shortfall.AVAILABLE}


def of(view: TransactionView, amount: int | None = None, **more: Any) -> ReverseInput:
    """Return a request to reverse a transaction, or a part of it, with a key of its own."""
    name = EntryName(view.shard, view.account_id, view.seq)
    asked = ReverseInput(name, "", uuid4(), None if amount is None else Decimal(amount), description="Why")
    return replace(asked, **more)


def view_of(outcome: object) -> TransactionView:
    assert isinstance(outcome, Posted), outcome
    return outcome.transaction


async def received(ledger: Ledger, sender: str, receiver: str, amount: int) -> TransactionView:
    """Transfer, and return the receiver's half."""
    sent = view_of(await transfer(ledger, TransferInput(sender, receiver, "GOLD", Decimal(amount), uuid4())))
    assert sent.counterpart is not None
    name = OwnerName(shard_of(receiver, ledger.shard_count), receiver)
    wallet = await ledger.reads.wallets.load(name)
    assert wallet is not None
    view = await ledger.reads.own_transactions.load(OwnTransaction(*sent.counterpart, wallet.id))
    assert view is not None
    return view


async def reversed_minor(ledger: Ledger, view: TransactionView) -> int:
    amount: int = await ledger.reads.reversed_minor.load(view.name)
    return amount


def split(outcomes: list[Any]) -> tuple[list[TransactionView], list[Refused]]:
    """Return what was posted, for the first time, and what was refused; there is nothing else."""
    posted = [outcome.transaction for outcome in outcomes if isinstance(outcome, Posted)]
    refused = [outcome for outcome in outcomes if isinstance(outcome, Refused)]
    assert len(posted) + len(refused) == len(outcomes), outcomes
    assert not any(outcome.already_processed for outcome in outcomes)
    return posted, refused


async def test_of_refunds_that_are_too_much_together_as_many_pass_as_fit(ledgers: list[Ledger]) -> None:
    owner = await new_owner(ledgers[0], gold=100)
    spend = view_of(await post(ledgers[0], "spend", owner, 60))
    before = await count_rows(ledgers[0].settings)
    posted, refused = split(await asyncio.gather(*(refund(ledgers[n % 4], of(spend, 7)) for n in range(24))))
    assert sorted(view.balance_after_minor for view in posted) == list(range(47, 97, 7))
    assert {outcome.facts for outcome in refused} == {RefundExceedsOriginal(spend.asset, 4, 7)}
    after = await count_rows(ledgers[0].settings)
    moved = before._replace(transactions=before.transactions + 8, entries=before.entries + 16, keys=before.keys + 24)
    assert after == moved
    # Of those that want all that is left, one gets it.
    [last], refused = split(await asyncio.gather(*(refund(ledgers[n % 4], of(spend)) for n in range(8))))
    assert last.amount_minor == 4
    assert {outcome.facts for outcome in refused} == {RefundExceedsOriginal(spend.asset, 0, 60)}
    assert (await balance(ledgers[0], owner), await reversed_minor(ledgers[1], spend)) == (100, 60)


async def test_of_sixty_refunds_of_1_fifty_pass(ledgers: list[Ledger]) -> None:
    owner = await new_owner(ledgers[0], gold=100)
    spend = view_of(await post(ledgers[0], "spend", owner, 100))
    posted, refused = split(await asyncio.gather(*(refund(ledgers[n % 4], of(spend, 1)) for n in range(60))))
    assert sorted(view.balance_after_minor for view in posted) == list(range(1, 51))
    assert {type(outcome.facts) for outcome in refused} == {TooMany}
    assert (await balance(ledgers[0], owner), await reversed_minor(ledgers[1], spend)) == (50, 50)


async def test_of_24_with_one_key_one_is_posted_and_23_are_replays(ledgers: list[Ledger]) -> None:
    owner = await new_owner(ledgers[0], gold=200)
    spend, top_up, bonus = [
        view_of(await post(ledgers[0], verb, owner, amount))
        for verb, amount in (("spend", 60), ("top_up", 100), ("bonus", 300))
    ]
    for reverse, asked, left in (
        (refund, of(spend, 20), 560),
        (clawback, of(top_up), 460),
        (clawback, of(bonus, **AVAILABLE), 160),
    ):
        outcomes = await asyncio.gather(*(reverse(ledgers[n % 4], asked) for n in range(24)))
        posted = [outcome for outcome in outcomes if isinstance(outcome, Posted)]
        assert (len(posted), len({outcome.transaction for outcome in posted})) == (24, 1)
        assert sorted(outcome.already_processed for outcome in posted) == [False] + [True] * 23
        assert await balance(ledgers[0], owner) == left


@pytest.mark.parametrize("shortfall", Shortfall, ids=lambda each: each.name)
async def test_of_a_refund_and_a_clawback_at_once_one_comes_first(ledgers: list[Ledger], shortfall: Shortfall) -> None:
    for n in range(12):
        owner = await new_owner(ledgers[0])
        top_up = view_of(await post(ledgers[0], "top_up", owner, 100))
        spend = view_of(await post(ledgers[0], "spend", owner, 60))
        # In every second round both are of one lane; the order in which they are sent changes too.
        give, take = ledgers[n % 4], ledgers[(n + n // 2 % 2) % 4]
        both: list[Awaitable[object]] = [refund(give, of(spend)), clawback(take, of(top_up, on_shortfall=shortfall))]
        outcomes = await asyncio.gather(*(both if n % 3 else both[::-1]))
        given, taken = outcomes if n % 3 else outcomes[::-1]
        is_given_first = isinstance(taken, Posted) and taken.transaction.amount_minor == -100
        if is_given_first:
            assert (view_of(given).balance_after_minor, view_of(taken).balance_after_minor) == (100, 0)
        elif shortfall is Shortfall.REFUSE:
            assert isinstance(taken, Refused)
            assert taken.facts == InsufficientBalance(top_up.asset, 40, 100)
        else:
            assert (view_of(taken).amount_minor, view_of(given).balance_after_minor) == (-40, 60)
        lefts = {Shortfall.REFUSE: 100, Shortfall.LOT_ONLY: 60, Shortfall.AVAILABLE: 60, Shortfall.DEBT: 0}
        left = 0 if is_given_first else lefts[shortfall]
        assert await balance(ledgers[0], owner) == left


async def test_in_one_lane_who_was_sent_first_comes_first(ledger: Ledger) -> None:
    for is_refund_first in (True, False):
        owner = await new_owner(ledger)
        top_up = view_of(await post(ledger, "top_up", owner, 100))
        spend = view_of(await post(ledger, "spend", owner, 60))
        requests = [
            ReverseRequest(kind, view, OwnerName(view.shard, owner), None, None, uuid4())
            for kind, view in ((RequestKind.REFUND, spend), (RequestKind.CLAWBACK, top_up))
        ]
        order = requests if is_refund_first else requests[::-1]
        outcomes = await asyncio.gather(*(ledger.post(request, None) for request in order))
        kinds = [type(outcome) for outcome in outcomes]
        assert kinds == ([Posted, Posted] if is_refund_first else [Refused, Posted])
        assert await balance(ledger, owner) == (0 if is_refund_first else 100)


async def test_of_a_clawback_and_a_spend_of_the_same_credits_one_passes(ledgers: list[Ledger]) -> None:
    wants: list[Callable[[Ledger, str, TransactionView], Awaitable[object]]] = [
        lambda ledger, _, top_up: clawback(ledger, of(top_up, 700)),
        lambda ledger, owner, _: post(ledger, "spend", owner, 700),
    ]
    for n in range(12):
        owner = await new_owner(ledgers[0])
        top_up = view_of(await post(ledgers[0], "top_up", owner, 799))
        order = wants if n % 2 else wants[::-1]
        outcomes = await asyncio.gather(*(want(ledgers[(n + at) % 4], owner, top_up) for at, want in enumerate(order)))
        [done], [refused] = split(list(outcomes))
        assert refused.facts == InsufficientBalance(done.asset, 99, 700)
        assert await balance(ledgers[0], owner) == 99


async def test_clawbacks_take_what_spends_and_holds_leave_and_no_more(ledgers: list[Ledger]) -> None:
    owner = await new_owner(ledgers[0])
    top_up = view_of(await post(ledgers[0], "top_up", owner, 100))
    held(await place_hold(ledgers[0], place(owner, 30)))

    def request(n: int) -> Awaitable[object]:
        ledger = ledgers[n % 4]
        return clawback(ledger, of(top_up, 4, **AVAILABLE)) if n % 3 == 0 else post(ledger, "spend", owner, 3)

    outcomes = list(await asyncio.gather(*(request(n) for n in range(90))))
    nothing = [outcome for outcome in outcomes if isinstance(outcome, Nothing)]
    posted, refused = split([outcome for outcome in outcomes if not isinstance(outcome, Nothing)])
    # All that was available was taken, one way or the other; the 30 that are held are there.
    assert sum(view.amount_minor for view in posted) == -70
    assert min(view.balance_after_minor for view in posted) == 30
    assert (await balance(ledgers[0], owner), {outcome.forgone_minor for outcome in nothing}) == (30, {4})
    assert all(isinstance(outcome.facts, InsufficientBalance) for outcome in refused)
    taken = [view for view in posted if view.type.name == "CLAWBACK"]
    assert await reversed_minor(ledgers[1], top_up) == -sum(view.amount_minor for view in taken)
    assert len(taken) + len(nothing) == 30


@pytest.mark.parametrize("shards", [(0, 0), (0, 3)], ids=["same shard", "across shards"])
async def test_transfers_in_both_directions_are_clawed_back_at_once(
    ledgers: list[Ledger], shards: tuple[int, int]
) -> None:
    one, other = [await new_owner_in(ledgers[0], shard, gold=100) for shard in shards]
    views = [await received(ledgers[0], *pair, 40) for pair in ((one, other), (other, one)) for _ in range(2)]
    requests = [of(view, 1) for view in views for _ in range(30)]
    outcomes = await asyncio.gather(*(clawback(ledgers[n % 4], asked) for n, asked in enumerate(requests)))
    posted, refused = split(list(outcomes))
    assert (len(posted), refused) == (120, [])
    assert [await reversed_minor(ledgers[1], view) for view in views] == [30] * 4
    assert (await balance(ledgers[0], one), await balance(ledgers[0], other)) == (100, 100)


@pytest.fixture
def settings_of_its_own(new_database: Callable[[str], Settings]) -> Settings:
    return new_database("deadlocks_of_reversals")


async def test_opposing_clawbacks_never_deadlock(settings_of_its_own: Settings, seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311 - drawn again by its seed

    async def take_back(ledger: Ledger, views: list[tuple[str, str, TransactionView]]) -> int:
        """Claw 1 back of a few in any order, again and again; not retried, so a deadlock would be raised."""
        done = 0
        for _ in range(12):
            requests = [
                ReverseRequest(
                    RequestKind.CLAWBACK,
                    view,
                    OwnerName(view.shard, owner),
                    OwnerName(shard_of(sender, ledger.shard_count), sender),
                    1,
                    uuid4(),
                )
                for sender, owner, view in chance.sample(views, 3)
            ]
            async with unit_of_work(ledger.engine) as connection:
                outcomes = await post_batch(connection, requests, chance.choice([0, ledger.slot]), wait=True)
            done += sum(isinstance(outcome, Posted) for outcome in outcomes)
            assert {type(outcome) for outcome in outcomes} <= {Posted, Refused}
        return done

    async with AsyncExitStack() as stack:
        ledgers = [await stack.enter_async_context(open_ledger(settings_of_its_own)) for _ in range(4)]
        owners = [await new_owner(ledgers[0], gold=1000) for _ in range(6)]
        pairs = [(one, other) for one in owners for other in owners if one != other]
        views = [(*pair, await received(ledgers[0], *pair, 60)) for pair in pairs]
        done = await asyncio.gather(*(take_back(ledger, views) for ledger in ledgers for _ in range(2)))
        total = sum([await balance(ledgers[0], owner) for owner in owners])
        returned = sum([await reversed_minor(ledgers[0], view) for _, _, view in views])

    assert (total, returned) == (6000, sum(done))
    assert returned == 8 * 12 * 3
    assert (await prove(settings_of_its_own)).findings == []
    assert await count_deadlocks(settings_of_its_own) == 0


@pytest.mark.parametrize("wallets", [1, 20])
async def test_processes_that_refund_the_same_spends_never_exceed_them(ledger: Ledger, wallets: int, seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311 - drawn again by its seed
    owners = [await new_owner(ledger, gold=1000) for _ in range(wallets)]
    views = {owner: view_of(await post(ledger, "spend", owner, 300)) for owner in owners}
    spends = {owner: (view.shard, view.account_id, view.seq) for owner, view in views.items()}
    jobs = [Job(chance.getrandbits(32), owners, 150, 24, [], spends) for _ in range(2)]
    answers = [
        answer
        for worker in await asyncio.gather(*(run_worker(ledger.settings, job) for job in jobs))
        for answer in worker
    ]
    moved = check(answers)
    assert {owner: await balance(ledger, owner) for owner in owners} == {
        owner: 700 + moved.get(owner, 0) for owner in owners
    }
    refunds = {UUID(each.key): each for each in answers if each.verb == "refund"}.values()
    refused = [each for each in refunds if each.outcome != "posted"]
    for owner, view in views.items():
        given = sum(each.amount_minor for each in refunds if each.owner == owner)
        assert given == await reversed_minor(ledger, view)
        assert given <= 300
    # With so many requests for one owner some had to be refused, and of what was left then none had enough.
    assert refused or wallets > 1
    assert all(each.outcome.startswith("refused with ") for each in refused)
