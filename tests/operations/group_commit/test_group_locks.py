"""Wallets and stripes that somebody else holds, and several workers on the same ones."""

import asyncio
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Final
from uuid import UUID

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
    seqs,
    sessions,
    stripe,
    turns,
    until,
    waiting_for_locks,
    wallet,
)
from conftest import environment
from factories import balance, new_owner
from tables import count_rows

from wallet_gql.domain.errors import Unavailable
from wallet_gql.domain.postings import Outcome
from wallet_gql.domain.wallets import OwnerName
from wallet_gql.operations import group_commit, parking
from wallet_gql.operations.opening import Ledger, open_ledger
from wallet_gql.settings import Settings

CHILD: Final = """
import asyncio, sys
from factories import post
from wallet_gql.domain.postings import Posted
from wallet_gql.operations.opening import open_ledger
from wallet_gql.settings import Settings

async def main():
    async with open_ledger(Settings(_env_file=None)) as ledger:
        print("ready", flush=True)
        sys.stdin.readline()
        outcomes = await asyncio.gather(*(post(ledger, "top_up", sys.argv[1], 1) for _ in range(int(sys.argv[2]))))
        assert all(isinstance(outcome, Posted) and not outcome.already_processed for outcome in outcomes)
        print(*(outcome.transaction.seq for outcome in outcomes))

asyncio.run(main())
"""


async def test_held_wallet_does_not_stop_its_lane(ledger: Ledger) -> None:
    stuck, *others = await new_owners_in(ledger, 0, 6)
    async with held(ledger.settings, wallet(ledger, stuck)):
        tasks = await send(ledger.commits, *(ask(ledger, owner) for owner in (stuck, *others, stuck)))
        await posted(tasks[1:-1])
        for n in range(5):
            # Later requests for the wallet, behind the first ones; the others go on.
            tasks += await send(ledger.commits, ask(ledger, stuck, n + 2))
            await posted(await send(ledger.commits, *(ask(ledger, owner) for owner in others)))
        waiting = [tasks[0], tasks[6], *tasks[7:]]
        assert not any(task.done() for task in waiting)
        assert ledger.commits.figures.parked_count == 1

    outcomes = await posted(waiting)
    assert seqs(outcomes) == list(range(1, 8))
    assert [outcome.transaction.amount_minor for outcome in outcomes] == [1, 1, 2, 3, 4, 5, 6]
    # Then the wallet is served by its lane again.
    await posted(await send(ledger.commits, ask(ledger, stuck)))
    assert ledger.commits.figures.parked_count == 1


async def test_wallet_that_is_parked_just_after_others_has_its_turn_in_line(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def all_are_busy(_: object, owners: Collection[OwnerName], **__: object) -> set[OwnerName]:
        return set(owners)

    # Others lock it again and again, so it is never seen free; and who looks for that sleeps while nothing is parked.
    monkeypatch.setattr(group_commit, "find_busy", all_are_busy)
    monkeypatch.setattr(group_commit, "PROBE_SECONDS", 0.5)
    for owner in await new_owners_in(ledger, 0, 3):
        async with held(ledger.settings, wallet(ledger, owner)):
            tasks = await send(ledger.commits, ask(ledger, owner))
            await waiting_for_locks(ledger, 1)
        await posted(tasks)


async def test_closing_does_not_wait_for_what_nobody_waits_for(ledger: Ledger) -> None:
    owner = await new_owner_in(ledger, 0)
    before = await count_rows(ledger.settings)
    async with (
        held(ledger.settings, wallet(ledger, owner)),
        asyncio.timeout(PATIENCE_SECONDS / 2),
        group_commit_of(ledger) as commits,
    ):
        tasks = await send(commits, *(ask(ledger, owner) for _ in range(5)))
        await until(lambda: commits.figures.parked_count == 1)
        for task in tasks:
            task.cancel()
        await turns()
    assert await count_rows(ledger.settings) == before


async def test_order_is_kept_where_a_wallet_is_found_busy(ledger: Ledger) -> None:
    stuck, other = await new_owners_in(ledger, 0, 2)
    async with held(ledger.settings, wallet(ledger, stuck)):
        beside = ask(ledger, other)
        async with keys_held(ledger.settings, beside):
            # Several in the batch that will find the wallet busy, and several that queue in the lane meanwhile.
            *tasks, last = await send(ledger.commits, *(ask(ledger, stuck, n + 1) for n in range(5)), beside)
            await waiting_for_locks(ledger, 1)
            tasks += await send(ledger.commits, *(ask(ledger, stuck, n + 1) for n in range(5, 10)))
        while ledger.commits.figures.parked_count == 0:  # noqa: ASYNC110 - the very turn in which the lane goes on
            await asyncio.sleep(0)
        tasks += await send(ledger.commits, *(ask(ledger, stuck, n + 1) for n in range(10, 15)))
        await posted([last, *await send(ledger.commits, ask(ledger, other))])
        assert not any(task.done() for task in tasks)

    outcomes = await posted(tasks)
    assert [outcome.transaction.amount_minor for outcome in outcomes] == list(range(1, 16))
    assert seqs(outcomes) == list(range(1, 16))


async def test_many_held_wallets_do_not_stop_the_others(ledger: Ledger) -> None:
    stuck = await new_owners_in(ledger, 0, 12)
    others = await new_owners_in(ledger, 0, 3)
    async with held(ledger.settings, *(wallet(ledger, owner) for owner in stuck)):
        tasks = await send(ledger.commits, *(ask(ledger, owner) for _ in range(3) for owner in stuck))
        await until(lambda: ledger.commits.figures.parked_count == len(stuck))
        for _ in range(5):
            await posted(await send(ledger.commits, *(ask(ledger, owner) for owner in others)))
        tasks += await send(ledger.commits, *(ask(ledger, owner) for owner in stuck))
        assert not any(task.done() for task in tasks)
        assert ledger.commits.figures.parked_count == len(stuck)

    outcomes = await posted(tasks)
    for index in range(len(stuck)):
        assert seqs(outcomes[index :: len(stuck)]) == [1, 2, 3, 4]


async def test_wallet_that_is_free_again_does_not_wait_for_wallets_that_are_not(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The first in line stays there: the others' only way back to their lane is that they are seen free.
    monkeypatch.setattr(parking, "SLICE_SECONDS", 10 * PATIENCE_SECONDS)
    *stuck, brief = await new_owners_in(ledger, 0, 13)
    async with held(ledger.settings, *(wallet(ledger, owner) for owner in stuck)):
        tasks = await send(ledger.commits, *(ask(ledger, owner) for owner in stuck))
        await until(lambda: ledger.commits.figures.parked_count == len(stuck))
        async with held(ledger.settings, wallet(ledger, brief)):
            late = await send(ledger.commits, ask(ledger, brief), ask(ledger, brief))
            await until(lambda: ledger.commits.figures.parked_count == len(stuck) + 1)

        assert seqs(await posted(late)) == [1, 2]
        # Whoever waits, waits with one connection in all.
        for _ in range(20):
            assert len(await waiting_for_locks(ledger, None)) <= 1
            await asyncio.sleep(0.01)
        assert not any(task.done() for task in tasks)

    assert seqs(await posted(tasks)) == [1] * len(stuck)


async def test_wallet_that_others_lock_again_and_again_has_its_turn(ledger: Ledger, settings: Settings) -> None:
    owners = await new_owners_in(ledger, 0, 4)
    is_over = False

    async def use(owner: str) -> None:
        # Of two sessions, one always waits in line already when the other lets go: the lock is never seen free.
        while not is_over:
            async with held(settings, wallet(ledger, owner)):
                await asyncio.sleep(0.02)

    users = [asyncio.create_task(use(owner)) for owner in owners for _ in range(2)]
    try:
        for _ in range(3):
            await posted(await send(ledger.commits, *(ask(ledger, owner) for owner in owners for _ in range(2))))
    finally:
        is_over = True
        await asyncio.gather(*users)
    assert ledger.commits.figures.parked_count > 0


async def test_held_wallet_is_waited_for_longer_than_the_lock_timeout(ledger: Ledger, settings: Settings) -> None:
    lock_timeout_seconds = 0.2
    async with open_ledger(settings.model_copy(update={"lock_timeout_seconds": lock_timeout_seconds})) as other:
        owner = await new_owner_in(other, 0)
        async with held(settings, wallet(other, owner)):
            tasks = await send(other.commits, ask(other, owner))
            await waiting_for_locks(ledger, 1)
            await asyncio.sleep(3 * lock_timeout_seconds)
        await posted(tasks)


@pytest.mark.usefixtures("long_margin")
async def test_wallets_held_until_the_deadline_are_unavailable_and_not_posted(ledger: Ledger) -> None:
    stuck = await new_owners_in(ledger, 0, 6)
    free = await new_owner_in(ledger, 0)
    before = await count_rows(ledger.settings)
    requests = [ask(ledger, owner) for owner in stuck for _ in range(2)]
    async with group_commit_of(ledger, deadline_seconds=DEADLINE_SECONDS) as commits:
        async with held(ledger.settings, *(wallet(ledger, owner) for owner in stuck)):
            tasks = await send(commits, *requests)
            outcomes = await results(tasks)
            await posted(await send(commits, ask(ledger, free)))

        assert [type(outcome) for outcome in outcomes] == [Unavailable] * len(requests)
    assert await count_rows(ledger.settings) == added(before, transactions=1, accounts=1)
    assert seqs(await posted(await send(ledger.commits, *map(again, requests)))) == [1, 2] * len(stuck)


async def test_held_stripe_keeps_nobody_waiting_but_who_needs_it(ledger: Ledger, settings: Settings) -> None:
    needs_it, does_not = await new_owners_in(ledger, 0, 3), await new_owner_in(ledger, 2)
    before = await count_rows(settings)
    async with group_commit_of(ledger, deadline_seconds=3) as commits:
        requests = [ask(ledger, owner) for owner in needs_it]
        async with held(settings, stripe(ledger, 0)):
            tasks = await send(commits, *requests)
            # Both shards are of one lane, which goes on.
            for _ in range(5):
                await posted(await send(commits, ask(ledger, does_not)))
            assert not any(task.done() for task in tasks)
            outcomes = await results(tasks)
    assert [type(outcome) for outcome in outcomes] == [Unavailable] * 3
    assert await count_rows(settings) == added(before, transactions=5, accounts=1)
    await posted(await send(ledger.commits, *map(again, requests)))


async def stripe_used(settings: Settings, transaction_id: UUID) -> str:
    """Return the owner id of the treasury wallet that a transaction moved credits from."""
    async with connected(settings) as connection:
        (row,) = await connection.fetch(
            "SELECT w.owner_id FROM entry e JOIN account a ON (a.shard, a.id) = (e.shard, e.account_id)"
            " JOIN wallet w ON (w.shard, w.id) = (a.shard, a.wallet_id) WHERE w.kind = 2 AND e.transaction_id = $1",
            transaction_id,
        )
    return str(row[0])


async def test_two_ledgers_claim_slots_and_stripes_of_their_own(ledger: Ledger, settings: Settings) -> None:
    owner = await new_owner_in(ledger, 0)
    async with open_ledger(settings) as second:
        async with open_ledger(settings) as third:
            assert len({ledger.slot, second.slot, third.slot}) == 3
            for opened in (ledger, second, third):
                (outcome,) = await posted(await send(opened.commits, ask(opened, owner)))
                assert await stripe_used(settings, outcome.transaction.id) == str(opened.slot)
        # What is free is claimed again, the lowest first.
        lock = f"EXISTS (SELECT FROM pg_locks l WHERE l.pid = a.pid AND locktype = 'advisory' AND objid = {third.slot})"
        await sessions(settings, lock, 0)
        async with open_ledger(settings) as again_third:
            assert again_third.slot == third.slot
        # A stripe of one does not hold up the other.
        async with held(settings, stripe(ledger, 0)):
            await posted(await send(second.commits, ask(second, owner)))


async def test_two_ledgers_on_one_wallet_post_all_in_one_chain(ledger: Ledger, settings: Settings) -> None:
    owner = await new_owner(ledger)
    async with open_ledger(settings) as other:
        tasks: list[list[asyncio.Task[Outcome]]] = [[], []]
        for n in range(100):
            for opened, own in zip((ledger, other), tasks, strict=True):
                own += [asyncio.create_task(opened.commits.post(ask(opened, owner, n + 1)))]
            await asyncio.sleep(0.001)
        first, second = [await posted(own) for own in tasks]

    assert sorted(seqs(first + second)) == list(range(1, 201))
    for outcomes in (first, second):
        assert [outcome.transaction.amount_minor for outcome in outcomes] == list(range(1, 101))
        assert seqs(outcomes) == sorted(seqs(outcomes))
    assert await balance(ledger, owner) == 2 * sum(range(1, 101))


async def test_two_processes_on_one_wallet_post_all_in_one_chain(ledger: Ledger, settings: Settings) -> None:
    owner, count = await new_owner(ledger), 150
    tests = Path(__file__).parents[2]
    env = environment(settings, PYTHONPATH=f"{tests.parent}:{tests}:{tests / 'support'}")
    children = [
        await asyncio.create_subprocess_exec(
            sys.executable,
            *("-c", CHILD, owner, str(count)),
            env=env,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        for _ in range(2)
    ]
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            for child in children:
                assert child.stdout is not None
                assert await child.stdout.readline() == b"ready\n"
            outputs = await asyncio.gather(*(child.communicate(b"\n") for child in children))
    finally:
        for child in children:
            if child.returncode is None:
                child.kill()
                await child.wait()

    assert [child.returncode for child in children] == [0, 0]
    numbers = [[int(number) for number in output[0].split()] for output in outputs]
    assert sorted(numbers[0] + numbers[1]) == list(range(1, 2 * count + 1))
    for own in numbers:
        assert own == sorted(own)
    assert await balance(ledger, owner) == 2 * count
