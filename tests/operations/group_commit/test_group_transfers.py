"""Requests that concern several wallets: of several lanes, of locked wallets, and many at once in rings."""

import asyncio
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from batches import (
    DEADLINE_SECONDS,
    PATIENCE_SECONDS,
    added,
    again,
    ask,
    connected,
    group_commit_of,
    held,
    keys_held,
    new_owner_in,
    new_owners_in,
    posted,
    results,
    send,
    sessions,
    terminate,
    transfer_request,
    turns,
    until,
    waiting_for_locks,
    wallet,
)
from conftest import execute
from factories import TEST_SHARD_COUNT, balance, new_owner_id
from proxy import COMMIT, Fate, open_through_proxy
from tables import count_rows

from wallet_gql.domain.errors import OutcomeUnknown, Overloaded, Unavailable
from wallet_gql.domain.postings import Outcome, Posted, PostingRequest, Request, TransferRequest, WalletMissing
from wallet_gql.domain.shards import shard_of
from wallet_gql.domain.wallets import OwnerName, WalletName
from wallet_gql.embedded.launcher import EmbeddedPostgres
from wallet_gql.ledger import items, posting
from wallet_gql.ledger.treasury import open_stripes
from wallet_gql.operations import group_commit, parking
from wallet_gql.operations.group_commit import LANE_COUNT, GroupCommit
from wallet_gql.operations.opening import Ledger, open_ledger
from wallet_gql.operations.unit_of_work import unit_of_work
from wallet_gql.settings import Settings

# The sender's shard and the receiver's: of two lanes, each the first of them once.
ACROSS_LANES = pytest.mark.parametrize(("here", "there"), [(0, 1), (1, 0)], ids=["to lane 1", "to lane 0"])


@asynccontextmanager
async def in_database(
    ledger: Ledger, commits: GroupCommit, *requests: PostingRequest
) -> AsyncIterator[list[asyncio.Task[Outcome]]]:
    """Keep a batch with these requests in the database while the block lasts."""
    others = len(await waiting_for_locks(ledger, None))
    async with keys_held(ledger.settings, *requests):
        tasks = await send(commits, *requests)
        await waiting_for_locks(ledger, others + 1)
        yield tasks


async def history(ledger: Ledger, owner: str) -> list[UUID]:
    """Return an owner's transactions in GOLD, in the order of its chain."""
    async with ledger.engine.connect() as pooled:
        driver = (await pooled.get_raw_connection()).driver_connection
        assert driver is not None
        rows = await driver.fetch(
            "SELECT e.transaction_id FROM entry e JOIN account a ON (a.shard, a.id) = (e.shard, e.account_id)"
            " JOIN wallet w ON (w.shard, w.id) = (a.shard, a.wallet_id)"
            " WHERE (w.shard, w.kind, w.owner_id, a.asset_id) = ($1, 1, $2, $3) ORDER BY e.seq",
            shard_of(owner, ledger.shard_count),
            owner,
            ledger.assets["GOLD"].id,
        )
    return [row[0] for row in rows]


async def history_in(ledger: Ledger, owner: str, *requests: Request) -> list[int]:
    """Return the order in which these requests stand in an owner's chain, by their places in the list."""
    places: dict[UUID, int] = {}
    for place, request in enumerate(requests):
        places[request.transaction_id] = place
        if isinstance(request, TransferRequest):
            places[request.receiving_id] = place
    return [places[each] for each in await history(ledger, owner) if each in places]


@ACROSS_LANES
async def test_transfer_goes_right_after_the_batch_that_has_its_receiver(ledger: Ledger, here: int, there: int) -> None:
    sender, receiver = await new_owner_in(ledger, here, gold=100), await new_owner_in(ledger, there)
    beside = [await new_owner_in(ledger, here), await new_owner_in(ledger, there)]
    first, follows = ask(ledger, receiver, 1), [ask(ledger, receiver, 3), ask(ledger, sender, 4)]
    transfer = transfer_request(ledger, sender, receiver, 2)
    async with in_database(ledger, ledger.commits, first) as in_front:
        tasks = [*in_front, *await send(ledger.commits, transfer)]
        tasks += await send(ledger.commits, *follows)
        # Its own lane goes on meanwhile, with what does not concern it.
        for _ in range(3):
            await posted(await send(ledger.commits, ask(ledger, beside[0])))
        assert not any(task.done() for task in tasks)

    await posted(tasks)
    assert await history_in(ledger, receiver, first, transfer, *follows) == [0, 1, 2]
    assert await history_in(ledger, sender, first, transfer, *follows) == [1, 3]
    assert ledger.commits.figures.parked_count == 0


async def test_what_came_later_to_the_receivers_lane_does_not_overtake_a_transfer(ledger: Ledger) -> None:
    sender, receiver = await new_owner_in(ledger, 0, gold=100), await new_owner_in(ledger, 1)
    beside = [await new_owner_in(ledger, shard) for shard in (0, 1)]
    first, later, transfer = ask(ledger, receiver), ask(ledger, receiver), transfer_request(ledger, sender, receiver)
    async with AsyncExitStack() as senders_lane:
        async with in_database(ledger, ledger.commits, first) as in_front:
            tasks = [*in_front, *await send(ledger.commits, transfer)]
            await senders_lane.enter_async_context(in_database(ledger, ledger.commits, ask(ledger, beside[0])))
            tasks += await send(ledger.commits, later)
        # The receiver's lane has its turn, and the sender's has not.
        await posted(tasks[:1])
        for _ in range(3):
            await posted(await send(ledger.commits, ask(ledger, beside[1])))
        assert [task.done() for task in tasks] == [True, False, False]

    await posted(tasks)
    assert await history_in(ledger, receiver, first, transfer, later) == [0, 1, 2]


@ACROSS_LANES
async def test_busy_stream_to_the_receiver_does_not_starve_transfers(ledger: Ledger, here: int, there: int) -> None:
    count, clients = 15, 6
    sender, receiver = await new_owner_in(ledger, here, gold=count), await new_owner_in(ledger, there)
    is_over = False
    answered = 0

    async def stream(owner: str) -> None:
        nonlocal answered
        while not is_over:
            (outcome,) = await posted([asyncio.create_task(ledger.commits.post(ask(ledger, owner)))])
            answered += outcome.transaction.wallet_id == receiver_wallet

    (outcome,) = await posted(await send(ledger.commits, ask(ledger, receiver)))
    receiver_wallet = outcome.transaction.wallet_id
    streams = [asyncio.create_task(stream(owner)) for owner in (sender, receiver) for _ in range(clients)]
    passed = []
    try:
        for _ in range(count):
            before = answered
            await posted([asyncio.create_task(ledger.commits.post(transfer_request(ledger, sender, receiver)))])
            passed.append(answered - before)
    finally:
        is_over = True
        await asyncio.gather(*streams)
    # Each client is answered once by the batch under way, and once more where its lane is faster than the sender's.
    assert max(passed) <= 4 * clients, passed
    assert ledger.commits.figures.parked_count == 0


async def test_each_wallet_keeps_its_order_within_a_lane(ledger: Ledger) -> None:
    # Two shards of one lane: whoever sends and whoever gets, what came first is first.
    owners = [await new_owner_in(ledger, shard, gold=1000) for shard in (0, LANE_COUNT) for _ in range(2)]
    requests: list[Request] = []
    for n in range(60):
        sender, receiver = owners[n % 4], owners[(n + 1 + n // 4 % 3) % 4]
        requests += [transfer_request(ledger, sender, receiver, n + 1), ask(ledger, receiver, n + 1)]
    tasks = []
    for request in requests:
        tasks += [asyncio.create_task(ledger.commits.post(request))]
        if len(tasks) % 7 == 0:
            await turns()
    await posted(tasks)

    for owner in owners:
        name = OwnerName(shard_of(owner, TEST_SHARD_COUNT), owner)
        expected = [place for place, request in enumerate(requests) if name in request.owners]
        assert await history_in(ledger, owner, *requests) == expected


async def test_sender_keeps_its_order_across_lanes(ledger: Ledger) -> None:
    sender = await new_owner_in(ledger, 0, gold=1000)
    receivers = [await new_owner_in(ledger, shard) for shard in range(TEST_SHARD_COUNT)]
    requests: list[Request] = []
    noise: list[asyncio.Task[Outcome]] = []
    tasks: list[asyncio.Task[Outcome]] = []
    for n in range(60):
        receiver = receivers[n % 4]
        request = ask(ledger, sender) if n % 5 == 4 else transfer_request(ledger, sender, receiver)
        requests.append(request)
        tasks.append(asyncio.create_task(ledger.commits.post(request)))
        noise.append(asyncio.create_task(ledger.commits.post(ask(ledger, receivers[(n + 1) % 4]))))
        await asyncio.sleep(0.001 * (n % 3))
    await posted([*tasks, *noise])

    assert await history_in(ledger, sender, *requests) == list(range(60))


@pytest.mark.parametrize("locked", ["sender", "receiver"])
@ACROSS_LANES
async def test_locked_wallet_parks_the_whole_transfer_and_others_go_on(
    ledger: Ledger, here: int, there: int, locked: str
) -> None:
    owners = {"sender": await new_owner_in(ledger, here, gold=100), "receiver": await new_owner_in(ledger, there)}
    sender, receiver = owners.values()
    third, near, far = [await new_owner_in(ledger, shard, gold=10) for shard in (there, here, there)]
    requests: list[Request] = [
        transfer_request(ledger, sender, receiver, 1),
        ask(ledger, sender, 2),
        ask(ledger, receiver, 3),
        # It draws a third wallet in, which waits from now on.
        transfer_request(ledger, third, sender, 4),
        ask(ledger, third, 5),
        transfer_request(ledger, receiver, third, 1),
    ]
    async with held(ledger.settings, wallet(ledger, owners[locked])):
        tasks = await send(ledger.commits, requests[0])
        await until(lambda: ledger.commits.figures.parked_count == 2)
        for request in requests[1:]:
            tasks += await send(ledger.commits, request)
        for _ in range(3):
            await posted(await send(ledger.commits, ask(ledger, near), ask(ledger, far)))
            await posted(await send(ledger.commits, transfer_request(ledger, near, far)))
        assert not any(task.done() for task in tasks)
        assert ledger.commits.figures.parked_count == 3

    await posted(tasks)
    assert await history_in(ledger, sender, *requests) == [0, 1, 3]
    assert await history_in(ledger, receiver, *requests) == [0, 2, 5]
    assert await history_in(ledger, third, *requests) == [3, 4, 5]


@ACROSS_LANES
async def test_order_is_kept_where_a_group_is_found_free(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, here: int, there: int
) -> None:
    # Another wallet stands in line and stays there: the group's only way back to its lanes is that it is seen free.
    monkeypatch.setattr(parking, "SLICE_SECONDS", 10 * PATIENCE_SECONDS)
    stuck, sender = await new_owner_in(ledger, here), await new_owner_in(ledger, here, gold=100)
    receiver = await new_owner_in(ledger, there)
    requests: list[Request] = [
        transfer_request(ledger, sender, receiver),
        ask(ledger, receiver),
        ask(ledger, sender),
        transfer_request(ledger, receiver, sender),
        transfer_request(ledger, sender, receiver),
        ask(ledger, receiver),
    ]
    async with held(ledger.settings, wallet(ledger, stuck)):
        in_line = await send(ledger.commits, ask(ledger, stuck))
        await waiting_for_locks(ledger, 1)
        async with held(ledger.settings, wallet(ledger, receiver)):
            tasks = await send(ledger.commits, requests[0])
            await until(lambda: ledger.commits.figures.parked_count == 3)
            for request in requests[1:]:
                tasks += await send(ledger.commits, request)
        await posted(tasks)
        assert not in_line[0].done()

    await posted(in_line)
    assert await history_in(ledger, sender, *requests) == [0, 2, 3, 4]
    assert await history_in(ledger, receiver, *requests) == [0, 1, 3, 4, 5]


@pytest.mark.parametrize("is_parked_before", [True, False], ids=["parked before", "parked after"])
async def test_order_is_kept_where_a_follower_is_parked_for_another_wallet(
    ledger: Ledger, is_parked_before: bool
) -> None:
    sender = await new_owner_in(ledger, 0, gold=100)
    first_receiver, second_receiver = await new_owners_in(ledger, 1, 2)
    beside = ask(ledger, await new_owner_in(ledger, 0))
    first = transfer_request(ledger, sender, first_receiver, 1)
    second = transfer_request(ledger, sender, second_receiver, 2)
    third = ask(ledger, sender, 3)
    async with held(ledger.settings, wallet(ledger, first_receiver), wallet(ledger, second_receiver)):
        async with keys_held(ledger.settings, beside):
            # The first has found its receiver locked, but nobody knows while its batch is in the database.
            tasks = await send(ledger.commits, first, beside)
            await waiting_for_locks(ledger, 1)
            # The other lane parks the second's receiver, and so the second, and its sender.
            between: list[Request] = [ask(ledger, second_receiver), second]
            for request in between if is_parked_before else reversed(between):
                tasks += await send(ledger.commits, request)
                if request is between[0]:
                    await until(lambda: ledger.commits.figures.parked_count > 0)
            await until(lambda: ledger.commits.figures.parked_count == 2)
            tasks += await send(ledger.commits, third)
            await asyncio.sleep(2 * parking.SLICE_SECONDS)
        await until(lambda: ledger.commits.figures.parked_count >= 3)

    await posted(tasks)
    assert await history_in(ledger, sender, first, second, third) == [0, 1, 2]


async def test_order_is_kept_within_the_batch_that_finds_a_wallet_locked(ledger: Ledger) -> None:
    sender, receiver, third = await new_owner_in(ledger, 0, gold=100), *await new_owners_in(ledger, 2, 2)
    requests: list[Request] = [
        transfer_request(ledger, sender, receiver, 1),
        ask(ledger, sender, 2),
        transfer_request(ledger, sender, third, 3),
        ask(ledger, third, 4),
    ]
    beside = ask(ledger, await new_owner_in(ledger, 0))
    async with held(ledger.settings, wallet(ledger, receiver)):
        *tasks, last = await send(ledger.commits, *requests, beside)
        await posted([last])
        assert not any(task.done() for task in tasks)

    await posted(tasks)
    assert await history_in(ledger, sender, *requests) == [0, 1, 2]
    assert await history_in(ledger, third, *requests) == [2, 3]


async def test_stripe_that_others_open_and_lock_meanwhile_is_not_waited_for(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    slot_of_nobody = 61
    sender, receiver = await new_owner_in(ledger, 0, gold=10), await new_owner_in(ledger, 1)
    request = transfer_request(ledger, sender, receiver)
    async with AsyncExitStack() as others:

        async def open_elsewhere(_: object, names: Collection[WalletName]) -> None:
            async with connected(ledger.settings) as other:
                await open_stripes(other, names)
            await others.enter_async_context(held(ledger.settings, *names))

        monkeypatch.setattr(items, "open_stripes", open_elsewhere)
        async with asyncio.timeout(PATIENCE_SECONDS / 2), unit_of_work(ledger.engine) as connection:
            decided = await posting.post_batch(connection, [request], slot_of_nobody, wait=False)
    assert decided == [items.WalletBusy()]

    async with unit_of_work(ledger.engine) as connection:
        (outcome,) = await posting.post_batch(connection, [request], slot_of_nobody, wait=False)
    assert isinstance(outcome, Posted)


async def test_groups_that_a_transfer_joins_are_released_together(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Another wallet stands in line and stays there: all others are looked at until they are free.
    monkeypatch.setattr(parking, "SLICE_SECONDS", 10 * PATIENCE_SECONDS)
    senders = [await new_owner_in(ledger, shard, gold=100) for shard in (0, 1)]
    receivers = [await new_owner_in(ledger, shard) for shard in (1, 2)]
    stuck, apart = await new_owners_in(ledger, 3, 2)
    requests: list[Request] = [
        transfer_request(ledger, senders[0], receivers[0], 1),
        transfer_request(ledger, senders[1], receivers[1], 2),
        transfer_request(ledger, senders[0], receivers[1], 3),
        ask(ledger, receivers[0], 4),
    ]
    figures = ledger.commits.figures
    async with held(ledger.settings, wallet(ledger, stuck)):
        in_line = await send(ledger.commits, ask(ledger, stuck))
        await waiting_for_locks(ledger, 1)
        async with held(ledger.settings, wallet(ledger, receivers[1])):
            async with held(ledger.settings, wallet(ledger, receivers[0]), wallet(ledger, apart)):
                tasks = await send(ledger.commits, *requests[:2])
                separate = await send(ledger.commits, ask(ledger, apart))
                await until(lambda: figures.parked_count == 6)
                for request in requests[2:]:
                    tasks += await send(ledger.commits, request)
            # Another group is free at once; this one is when all its wallets are.
            await posted(separate)
            await asyncio.sleep(10 * parking.PROBE_SECONDS)
            assert not any(task.done() for task in tasks)
            assert figures.parked_count == 6
        await posted(tasks)
    await posted(in_line)

    assert await history_in(ledger, senders[0], *requests) == [0, 2]
    assert await history_in(ledger, senders[1], *requests) == [1]
    assert await history_in(ledger, receivers[0], *requests) == [0, 3]
    assert await history_in(ledger, receivers[1], *requests) == [1, 2]
    # Then each is served by its lane again.
    await posted(await send(ledger.commits, *(ask(ledger, owner) for owner in (*senders, *receivers))))
    assert figures.parked_count == 6


async def test_groups_that_a_transfer_joins_each_keep_their_order(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As above: it stays in line.
    monkeypatch.setattr(parking, "SLICE_SECONDS", 10 * PATIENCE_SECONDS)
    one, other = [await new_owner_in(ledger, shard, gold=100) for shard in (0, 2)]
    stuck = await new_owner_in(ledger, 3)
    requests: list[Request] = [ask(ledger, owner, amount) for amount in (1, 2) for owner in (one, other)]
    requests.append(transfer_request(ledger, one, other, 3))
    async with held(ledger.settings, wallet(ledger, stuck)):
        in_line = await send(ledger.commits, ask(ledger, stuck))
        await waiting_for_locks(ledger, 1)
        async with held(ledger.settings, wallet(ledger, one), wallet(ledger, other)):
            tasks = await send(ledger.commits, *requests[:2])
            await until(lambda: ledger.commits.figures.parked_count == 3)
            for request in requests[2:]:
                tasks += await send(ledger.commits, request)
        await posted(tasks)
    await posted(in_line)
    assert await history_in(ledger, one, *requests) == [0, 2, 4]
    assert await history_in(ledger, other, *requests) == [1, 3, 4]


@pytest.mark.usefixtures("long_margin")
async def test_receiver_that_stays_locked_makes_its_transfers_unavailable(ledger: Ledger) -> None:
    senders = [await new_owner_in(ledger, shard, gold=10) for shard in range(TEST_SHARD_COUNT)]
    receiver = await new_owner_in(ledger, 1)
    others = [await new_owner_in(ledger, shard, gold=10) for shard in range(TEST_SHARD_COUNT)]
    # Those of the sender and of the receiver are in the batches that find it locked.
    requests: list[Request] = [transfer_request(ledger, sender, receiver) for sender in senders]
    requests += [ask(ledger, senders[0]), ask(ledger, receiver)]
    before = await count_rows(ledger.settings)
    async with (
        group_commit_of(ledger, deadline_seconds=DEADLINE_SECONDS) as commits,
        held(ledger.settings, wallet(ledger, receiver)),
    ):
        tasks = await send(commits, *requests)
        beside = await send(commits, *(transfer_request(ledger, others[n], others[n + 1]) for n in range(3)))
        await posted(beside)
        outcomes = await results(tasks)
        # What is parked is told at its deadline; what waited for it in no group goes on.
        await posted(await send(commits, *(ask(ledger, owner) for owner in (*senders, *others))))

    assert [type(outcome) for outcome in outcomes] == [Unavailable] * len(requests)
    assert await count_rows(ledger.settings) == added(before, transactions=6 + 8, keys=3 + 8)
    await posted(await send(ledger.commits, *map(again, requests)))


@pytest.mark.parametrize("way", ["seen free", "in line"])
async def test_receiver_without_a_wallet_does_not_keep_its_group_waiting(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    async def all_are_busy(_: object, owners: Collection[OwnerName], **__: object) -> set[OwnerName]:
        return set(owners)

    sender, stuck, nobody = await new_owner_in(ledger, 0, gold=10), await new_owner_in(ledger, 2), new_owner_id()
    if way == "seen free":
        monkeypatch.setattr(parking, "SLICE_SECONDS", 10 * PATIENCE_SECONDS)
    else:
        monkeypatch.setattr(group_commit, "find_busy", all_are_busy)
    before = await count_rows(ledger.settings)
    async with held(ledger.settings, wallet(ledger, stuck)):
        in_line = await send(ledger.commits, ask(ledger, stuck))
        await waiting_for_locks(ledger, 1)
        async with held(ledger.settings, wallet(ledger, sender)):
            tasks = await send(ledger.commits, transfer_request(ledger, sender, nobody), ask(ledger, sender))
            await until(lambda: ledger.commits.figures.parked_count == 3)
        missing, then = await results(tasks)
    await posted(in_line)

    assert missing == WalletMissing(nobody)
    assert isinstance(then, Posted)
    assert await count_rows(ledger.settings) == added(before, transactions=2, accounts=1)


async def test_transfers_count_in_the_share_of_both_wallets(ledger: Ledger) -> None:
    senders = [await new_owner_in(ledger, 0, gold=10) for _ in range(3)]
    receiver, other = await new_owner_in(ledger, 0), await new_owner_in(ledger, 1)
    async with group_commit_of(ledger, queue_size_max=8) as commits:
        async with in_database(ledger, commits, ask(ledger, await new_owner_in(ledger, 0))):
            tasks = await send(commits, *(transfer_request(ledger, sender, receiver) for sender in senders[:2]))
            over, over_too, fits = await send(
                commits,
                transfer_request(ledger, senders[2], receiver),
                ask(ledger, receiver),
                transfer_request(ledger, senders[0], other),
            )
            full = await send(commits, transfer_request(ledger, senders[0], other))
            assert [type(task.exception()) for task in (over, over_too, *full)] == [Overloaded] * 3
            assert not fits.done()
            # Who was refused took nothing of its sender's share.
            tasks += await send(commits, ask(ledger, senders[2]), ask(ledger, senders[2]))

        await posted([*tasks, fits])
        assert await balance(ledger, receiver) == 2
        await posted(await send(commits, *(transfer_request(ledger, sender, receiver) for sender in senders[:2])))


@pytest.mark.parametrize("when", ["held back", "parked"])
async def test_caller_that_hangs_up_neither_loses_nor_doubles_its_transfer(ledger: Ledger, when: str) -> None:
    sender, receiver = await new_owner_in(ledger, 0, gold=10), await new_owner_in(ledger, 1)
    transfer, stays = transfer_request(ledger, sender, receiver, 7), ask(ledger, sender)
    before = await count_rows(ledger.settings)
    async with group_commit_of(ledger) as commits, AsyncExitStack() as stack:
        if when == "parked":
            await stack.enter_async_context(held(ledger.settings, wallet(ledger, receiver)))
            beside = []
        else:
            beside = await stack.enter_async_context(in_database(ledger, commits, ask(ledger, receiver)))
        gone, *tasks = await send(commits, transfer, stays)
        if when == "parked":
            await until(lambda: commits.figures.parked_count == 2)
        gone.cancel()
        await turns()
        assert gone.cancelled()
        await stack.aclose()
        await posted([*tasks, *beside])

    assert await count_rows(ledger.settings) == added(
        before, transactions=3 + len(beside), keys=2 + len(beside), accounts=1
    )
    (outcome,) = await asyncio.gather(*await send(ledger.commits, again(transfer)))
    assert isinstance(outcome, Posted)
    assert (outcome.already_processed, outcome.transaction.id) == (True, transfer.transaction_id)
    assert await balance(ledger, receiver) == 7 + len(beside)


async def test_closing_does_not_wait_for_parked_transfers_of_which_nobody_wants_to_know(ledger: Ledger) -> None:
    sender, receiver = await new_owner_in(ledger, 0, gold=10), await new_owner_in(ledger, 1)
    before = await count_rows(ledger.settings)
    async with (
        held(ledger.settings, wallet(ledger, receiver)),
        asyncio.timeout(PATIENCE_SECONDS / 2),
        group_commit_of(ledger) as commits,
    ):
        tasks = await send(commits, *(transfer_request(ledger, sender, receiver) for _ in range(5)))
        await until(lambda: commits.figures.parked_count == 2)
        for task in tasks:
            task.cancel()
        await turns()
    assert await count_rows(ledger.settings) == before


async def test_closing_lets_what_waited_behind_a_caller_that_is_gone_go_on(ledger: Ledger) -> None:
    sender, receiver = await new_owner_in(ledger, 0, gold=10), await new_owner_in(ledger, 1)
    first, later = ask(ledger, receiver), ask(ledger, receiver)
    async with asyncio.timeout(PATIENCE_SECONDS / 2), group_commit_of(ledger) as commits, AsyncExitStack() as stack:
        receivers_lane = in_database(ledger, commits, first)
        tasks = await stack.enter_async_context(receivers_lane)
        (gone,) = await send(commits, transfer_request(ledger, sender, receiver))
        beside = ask(ledger, await new_owner_in(ledger, 0))
        async with AsyncExitStack() as senders_lane:
            (busy,) = await senders_lane.enter_async_context(in_database(ledger, commits, beside))
            tasks += await send(commits, later)
            await stack.aclose()
            await posted(tasks[:1])
            gone.cancel()
            await turns()
        while not busy.done():  # noqa: ASYNC110 - the very turns in which the sender's lane is between two batches
            await asyncio.sleep(0)
        await commits.close()
        await posted(tasks)


@pytest.mark.parametrize("fate", [Fate.LOST, Fate.UNANSWERED])
@pytest.mark.parametrize("there", [0, 1], ids=["same shard", "across shards"])
async def test_transfer_whose_commit_was_cut_is_posted_once(
    ledger: Ledger, settings: Settings, fate: Fate, there: int
) -> None:
    async with open_through_proxy(settings) as (service, proxy):
        sender, receiver = await new_owner_in(service, 0, gold=10), await new_owner_in(service, there)
        requests = [transfer_request(service, sender, receiver, 3) for _ in range(3)]
        before = await count_rows(settings)
        proxy.on(COMMIT, fate)

        outcomes = await posted(await send(service.commits, *requests))

        assert proxy.count == 1
        assert [outcome.transaction.id for outcome in outcomes] == [request.transaction_id for request in requests]
        assert [outcome.transaction.transfer_id for outcome in outcomes] == [each.transaction_id for each in requests]
        assert await count_rows(settings) == added(before, transactions=6, keys=3, accounts=1)
        assert (await balance(ledger, sender), await balance(ledger, receiver)) == (1, 9)


@pytest.mark.parametrize(("fate", "is_done"), [(Fate.LOST, False), (Fate.UNANSWERED, True)])
async def test_transfer_whose_commit_stays_in_doubt_is_outcome_unknown(
    ledger: Ledger, settings: Settings, fate: Fate, is_done: bool
) -> None:
    async with open_through_proxy(settings) as (service, proxy):
        sender, receiver = await new_owner_in(service, 0, gold=10), await new_owner_in(service, 1)
        request = transfer_request(service, sender, receiver, 3)
        before = await count_rows(settings)
        proxy.on(COMMIT, fate, times=1000)

        outcomes = await results(await send(service.commits, request))

        assert [type(outcome) for outcome in outcomes] == [OutcomeUnknown]
        assert await count_rows(settings) == added(
            before, transactions=2 * is_done, keys=1 * is_done, accounts=1 * is_done
        )
        proxy.release()
        (outcome,) = await results(await send(service.commits, again(request)))
        assert isinstance(outcome, Posted)
        assert outcome.already_processed is is_done
        assert (await balance(ledger, sender), await balance(ledger, receiver)) == (7, 3)


async def test_transfer_whose_session_is_ended_is_posted_once(ledger: Ledger) -> None:
    sender, receiver = await new_owner_in(ledger, 0, gold=10), await new_owner_in(ledger, 1)
    beside = ask(ledger, await new_owner_in(ledger, 0))
    before = await count_rows(ledger.settings)
    async with keys_held(ledger.settings, beside):
        tasks = await send(ledger.commits, transfer_request(ledger, sender, receiver, 3), beside)
        for _ in range(2):
            await terminate(ledger.settings, await waiting_for_locks(ledger, 1))

    await posted(tasks)
    assert await count_rows(ledger.settings) == added(before, transactions=3, keys=2, accounts=2)
    assert (await balance(ledger, sender), await balance(ledger, receiver)) == (7, 3)


@pytest.fixture
async def eager_detector(postgres: EmbeddedPostgres, settings: Settings) -> AsyncIterator[None]:
    """New sessions look for deadlocks after 10 ms: a slice of waiting ends before the default of a second."""
    name = settings.server_url().database
    await execute(postgres.superuser_url, f"ALTER DATABASE {name} SET deadlock_timeout = '10ms'")
    yield
    await execute(postgres.superuser_url, f"ALTER DATABASE {name} RESET deadlock_timeout")


@pytest.fixture
def deadlocks(monkeypatch: pytest.MonkeyPatch) -> list[asyncpg.DeadlockDetectedError]:
    """The deadlocks that batches were part of."""
    met: list[asyncpg.DeadlockDetectedError] = []

    async def post_batch(*arguments: Any, **more: Any) -> Any:
        try:
            return await posting.post_batch(*arguments, **more)
        except asyncpg.DeadlockDetectedError as error:
            met.append(error)
            raise

    monkeypatch.setattr(group_commit, "post_batch", post_batch)
    return met


async def counted_deadlocks(connection: asyncpg.Connection) -> int:
    """Return how many deadlocks the database has counted; sessions tell theirs at their end."""
    count: int = await connection.fetchval("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
    return count


async def run_around(ledger: Ledger, works: Sequence[GroupCommit], owners: Sequence[str], rounds: int) -> int:
    """Send credits around a ring as fast as it goes, by all group commits at once; returns how many were sent."""

    async def client(commits: GroupCommit, number: int) -> int:
        for n in range(rounds):
            sender, receiver = owners[(number + n) % len(owners)], owners[(number + n + 1) % len(owners)]
            outcome = await commits.post(transfer_request(ledger, sender, receiver, 1 + (number + n) % 3))
            assert isinstance(outcome, Posted)
            assert not outcome.already_processed
        return rounds

    async with asyncio.timeout(2 * PATIENCE_SECONDS):
        return sum(await asyncio.gather(*(client(work, number) for work in works for number in range(12))))


@pytest.mark.parametrize(
    "shards",
    [(0, 1), (0, 2), (0, 0), (0, 1, 2), (3, 2, 1, 0), (0, 1, 2, 3) * 3],
    ids=lambda each: "".join(map(str, each)),
)
@pytest.mark.usefixtures("eager_detector")
@pytest.mark.parametrize("works", ["four lanes", "two group commits of one slot", "three workers"])
async def test_transfers_in_a_ring_at_full_speed_meet_no_deadlock(
    ledger: Ledger,
    server_connection: asyncpg.Connection,
    deadlocks: list[asyncpg.DeadlockDetectedError],
    shards: tuple[int, ...],
    works: str,
) -> None:
    owners = [await new_owner_in(ledger, shard, gold=1000) for shard in shards]
    before, counted = await count_rows(ledger.settings), await counted_deadlocks(server_connection)
    async with AsyncExitStack() as stack:
        if works == "three workers":
            ledgers = [await stack.enter_async_context(open_ledger(ledger.settings)) for _ in range(3)]
            all_works = [opened.commits for opened in ledgers]
        else:
            count = 1 if works == "four lanes" else 2
            used = await stack.enter_async_context(open_ledger(ledger.settings))
            all_works = [
                await stack.enter_async_context(group_commit_of(used, lane_count=TEST_SHARD_COUNT))
                for _ in range(count)
            ]
        sent = await run_around(ledger, all_works, owners, rounds=15)
    # Their connections are closed, and what they counted is told.
    await sessions(ledger.settings, "state = 'active'", 0)

    assert deadlocks == []
    assert await counted_deadlocks(server_connection) == counted
    assert sum([await balance(ledger, owner) for owner in owners]) == 1000 * len(owners)
    assert await count_rows(ledger.settings) == added(before, transactions=2 * sent, keys=sent)
    for owner in owners:
        assert len(await history(ledger, owner)) == 1 + 2 * sent // len(owners)
