"""Callers that go away, queues that are full, deadlines that pass, and the end."""

import asyncio

import pytest
from batches import (
    DEADLINE_SECONDS,
    PATIENCE_SECONDS,
    added,
    again,
    ask,
    group_commit_of,
    held,
    keys_held,
    lane_held_up,
    new_owner_in,
    new_owners_in,
    posted,
    results,
    send,
    seqs,
    sessions,
    terminate,
    turns,
    until,
    waiting_for_locks,
    wallet,
)
from factories import balance
from proxy import COMMIT, Fate, open_through_proxy
from tables import count_rows

from wallet_gql.domain.errors import OutcomeUnknown, Overloaded, Unavailable
from wallet_gql.domain.postings import Posted
from wallet_gql.operations import group_commit
from wallet_gql.operations.group_commit import BATCH_SIZE_MAX
from wallet_gql.operations.opening import Ledger, open_ledger
from wallet_gql.settings import Settings


async def test_caller_that_hangs_up_neither_loses_nor_doubles_its_posting(ledger: Ledger) -> None:
    owner, other = await new_owners_in(ledger, 0, 2)
    in_database, queued, stays = ask(ledger, owner, 1), ask(ledger, owner, 10), ask(ledger, other, 100)
    before = await count_rows(ledger.settings)
    async with group_commit_of(ledger) as commits:
        async with keys_held(ledger.settings, in_database):
            (first,) = await send(commits, in_database)
            await waiting_for_locks(ledger, 1)
            second, third = await send(commits, queued, stays)
            first.cancel()
            second.cancel()
            await turns()
            assert first.cancelled()
            assert second.cancelled()
        await posted([third])

    assert await count_rows(ledger.settings) == added(before, transactions=3, accounts=2)
    for request, after in ((in_database, 1), (queued, 11)):
        (outcome,) = await asyncio.gather(*await send(ledger.commits, again(request)))
        assert isinstance(outcome, Posted)
        assert outcome.already_processed
        assert (outcome.transaction.id, outcome.transaction.balance_after_minor) == (request.transaction_id, after)


@pytest.mark.parametrize("when", ["in the database", "parked"])
async def test_caller_that_hangs_up_while_its_wallet_is_held_loses_nothing(ledger: Ledger, when: str) -> None:
    owner = await new_owner_in(ledger, 0)
    gone, stays = ask(ledger, owner, 1), ask(ledger, owner, 10)
    beside = ask(ledger, await new_owner_in(ledger, 0), 100)
    before = await count_rows(ledger.settings)
    async with group_commit_of(ledger) as commits:
        async with held(ledger.settings, wallet(ledger, owner)):
            async with keys_held(ledger.settings, beside):
                first, second, third = await send(commits, gone, stays, beside)
                await waiting_for_locks(ledger, 1)
                if when == "in the database":
                    first.cancel()
                    await turns()
            await until(lambda: commits.figures.parked_count == 1)
            first.cancel()
            await turns()
            assert first.cancelled()
        await posted([second, third])

    assert await count_rows(ledger.settings) == added(before, transactions=3, accounts=2)
    (outcome,) = await asyncio.gather(*await send(ledger.commits, again(gone)))
    assert isinstance(outcome, Posted)
    assert outcome.already_processed
    # It keeps its place, too.
    assert outcome.transaction.seq == 1


async def test_full_queue_is_overloaded_at_once(ledger: Ledger) -> None:
    owners = await new_owners_in(ledger, 0, 9)
    before = await count_rows(ledger.settings)
    async with group_commit_of(ledger, queue_size_max=8) as commits:
        async with lane_held_up(ledger, 0, commits):
            tasks = await send(commits, *(ask(ledger, owner) for owner in owners[:8]))
            refused = ask(ledger, owners[8])
            (over,) = await send(commits, refused)
            assert over.done()
            assert isinstance(over.exception(), Overloaded)
            # Another lane's requests count, too: it is one queue.
            (elsewhere,) = await send(commits, ask(ledger, await new_owner_in(ledger, 1)))
            assert isinstance(elsewhere.exception(), Overloaded)
            assert not any(task.done() for task in tasks)

        assert len(await posted(tasks)) == 8
        # One more was opened to hold up the lane.
        assert await count_rows(ledger.settings) == added(
            before._replace(wallets=before.wallets + 2), transactions=9, accounts=9
        )
        await posted(await send(commits, again(refused)))


async def test_one_wallets_share_of_the_queue_is_a_quarter(ledger: Ledger) -> None:
    greedy, modest, poor = await new_owners_in(ledger, 0, 3)
    async with group_commit_of(ledger, queue_size_max=8) as commits:
        async with lane_held_up(ledger, 0, commits):
            tasks = await send(commits, ask(ledger, greedy), ask(ledger, greedy), ask(ledger, modest))
            over, *fits = await send(commits, ask(ledger, greedy), ask(ledger, modest), ask(ledger, poor))
            assert isinstance(over.exception(), Overloaded)
            tasks += fits

        await posted(tasks)
        assert await balance(ledger, greedy) == 2
        # Its share is free again.
        await posted(await send(commits, ask(ledger, greedy), ask(ledger, greedy)))


async def test_parked_requests_count_in_their_wallets_share(ledger: Ledger) -> None:
    owner, other = await new_owners_in(ledger, 0, 2)
    async with group_commit_of(ledger, queue_size_max=8) as commits:
        async with held(ledger.settings, wallet(ledger, owner)):
            tasks = await send(commits, ask(ledger, owner))
            await waiting_for_locks(ledger, 1)
            tasks += await send(commits, ask(ledger, owner), ask(ledger, owner))
            (over,) = await send(commits, ask(ledger, owner))
            assert isinstance(over.exception(), Overloaded)
            await posted(await send(commits, ask(ledger, other)))

        assert seqs(await posted(tasks)) == [1, 2, 3]


async def test_what_a_caller_who_went_away_asked_for_ends_at_its_deadline(ledger: Ledger) -> None:
    owner = await new_owner_in(ledger, 0)
    before = await count_rows(ledger.settings)
    async with group_commit_of(ledger, deadline_seconds=2) as commits, held(ledger.settings, wallet(ledger, owner)):
        (task,) = await send(commits, ask(ledger, owner))
        await until(lambda: commits.figures.parked_count == 1)
        task.cancel()
        await until(lambda: not commits._tasks)
    assert await count_rows(ledger.settings) == before


async def test_request_has_the_time_that_is_left_of_its_callers(ledger: Ledger) -> None:
    owner = await new_owner_in(ledger, 0)
    loop = asyncio.get_running_loop()
    async with held(ledger.settings, wallet(ledger, owner)):
        for left_seconds in (-1, 0, 1):
            with pytest.raises(Unavailable):
                await ledger.commits.post(ask(ledger, owner), loop.time() + left_seconds)
    await posted(await send(ledger.commits, ask(ledger, owner)))


@pytest.mark.usefixtures("long_margin")
async def test_request_still_queued_at_its_deadline_is_unavailable_and_never_posted(ledger: Ledger) -> None:
    first, second = await new_owners_in(ledger, 0, 2)
    requests = ask(ledger, first), ask(ledger, second)
    before = await count_rows(ledger.settings)
    async with group_commit_of(ledger, deadline_seconds=DEADLINE_SECONDS) as commits:
        async with keys_held(ledger.settings, requests[0]):
            tasks = []
            for request in requests:
                tasks += await send(commits, request)
            outcomes = await results(tasks)

        # The first was in the database, but gave up before COMMIT.
        assert [type(outcome) for outcome in outcomes] == [Unavailable, Unavailable]
        assert "too near to ask" in str(outcomes[1])
        assert commits.figures.posting_count == 1
    assert await count_rows(ledger.settings) == before
    await posted(await send(ledger.commits, *map(again, requests)))


async def test_request_in_the_database_at_its_deadline_is_outcome_unknown_and_its_key_tells(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The deadline is so short that the database is given more.
    monkeypatch.setattr(group_commit, "MARGIN_SECONDS", PATIENCE_SECONDS)
    request = ask(ledger, await new_owner_in(ledger, 0), 10)
    before = await count_rows(ledger.settings)
    async with group_commit_of(ledger, deadline_seconds=0.3) as commits, keys_held(ledger.settings, request):
        (outcome,) = await results(await send(commits, request))

        assert isinstance(outcome, OutcomeUnknown)
        assert await count_rows(ledger.settings) == before
    (told,) = await asyncio.gather(*await send(ledger.commits, again(request)))
    assert isinstance(told, Posted)
    assert (told.already_processed, told.transaction.id) == (True, request.transaction_id)
    assert await count_rows(ledger.settings) == added(before, transactions=1, accounts=1)


@pytest.mark.usefixtures("long_margin")
@pytest.mark.parametrize("does_arrive", [True, False], ids=["arrives late", "never arrives"])
async def test_request_in_commit_at_its_deadline_is_outcome_unknown_and_its_key_tells(
    ledger: Ledger, settings: Settings, does_arrive: bool
) -> None:
    hasty = settings.model_copy(update={"request_deadline_seconds": DEADLINE_SECONDS})
    async with open_through_proxy(hasty) as (service, proxy):
        owner = await new_owner_in(service, 0, gold=1)
        request = ask(service, owner, 10)
        before = await count_rows(settings)
        proxy.on(COMMIT, Fate.HELD)

        (outcome,) = await results(await send(service.commits, request))

        assert isinstance(outcome, OutcomeUnknown)
        assert await count_rows(settings) == before
        if does_arrive:
            # Asked again while the first is still under way, it waits for it.
            (task,) = await send(ledger.commits, again(request))
            await waiting_for_locks(ledger, 1)
            proxy.release()
            told = await task
        else:
            await terminate(settings, await sessions(settings, "state = 'idle in transaction'", 1))
            (told,) = await asyncio.gather(*await send(ledger.commits, again(request)))
        assert isinstance(told, Posted)
        assert told.already_processed is does_arrive
        assert await count_rows(settings) == added(before, transactions=1)
        assert await balance(ledger, owner) == 11


@pytest.mark.usefixtures("long_margin")
async def test_silent_database_frees_the_lane_at_the_deadline(ledger: Ledger, settings: Settings) -> None:
    hasty = settings.model_copy(update={"request_deadline_seconds": DEADLINE_SECONDS})
    async with open_through_proxy(hasty) as (service, proxy):
        owner = await new_owner_in(service, 0, gold=1)
        before = await count_rows(settings)
        proxy.stall()

        outcomes = await results(await send(service.commits, ask(service, owner), ask(service, owner)))

        # COMMIT was not sent: it is known that nothing was posted.
        assert [type(outcome) for outcome in outcomes] == [Unavailable, Unavailable]
        proxy.flow()
        await posted(await send(service.commits, ask(service, owner)))
        assert await count_rows(settings) == added(before, transactions=1)
        assert await balance(ledger, owner) == 2


async def test_close_finishes_a_full_queue_and_refuses_what_is_new(ledger: Ledger) -> None:
    owners = await new_owners_in(ledger, 0, 8)
    late = ask(ledger, owners[0])
    async with group_commit_of(ledger, queue_size_max=8) as commits:
        async with lane_held_up(ledger, 0, commits):
            tasks = await send(commits, *(ask(ledger, owner) for owner in owners))
            closing = asyncio.create_task(commits.close())
            await turns()
            (refused,) = await send(commits, late)
            assert isinstance(refused.exception(), Unavailable)
            assert not closing.done()

        await closing
        assert all(task.done() for task in tasks)
        assert len(await posted(tasks)) == 8
        with pytest.raises(Unavailable):
            await commits.post(late)
    await posted(await send(ledger.commits, again(late)))


async def test_close_finishes_what_waits_for_held_wallets(ledger: Ledger) -> None:
    owners = await new_owners_in(ledger, 0, 6)
    async with group_commit_of(ledger) as commits:
        async with held(ledger.settings, *(wallet(ledger, owner) for owner in owners)):
            tasks = await send(commits, *(ask(ledger, owner) for owner in owners for _ in range(2)))
            await until(lambda: commits.figures.parked_count == len(owners))
            closing = asyncio.create_task(commits.close())
            await turns()
            assert not closing.done()

        await closing
        assert all(task.done() for task in tasks)
        assert seqs(await posted(tasks)) == [1, 2] * len(owners)


async def test_ledger_that_closes_finishes_what_is_queued(ledger: Ledger, settings: Settings) -> None:
    owner = await new_owner_in(ledger, 0)
    async with open_ledger(settings) as other:
        tasks = await send(other.commits, *(ask(other, owner) for _ in range(BATCH_SIZE_MAX + 10)))

    assert all(task.done() for task in tasks)
    assert len(await posted(tasks)) == BATCH_SIZE_MAX + 10
