"""Openings under way: they share a task and a few connections, and a session that is stuck costs others nothing."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from asyncpg import Connection
from asyncpg.transaction import Transaction
from batches import PATIENCE_SECONDS, connected, until, waiting_for_locks
from factories import balance, new_owner, new_owner_id, post
from proxy import COMMIT, Fate, open_through_proxy
from sqlalchemy.ext.asyncio import AsyncEngine
from tables import count_rows

from wallet_gql.domain.errors import Fault, OutcomeUnknown, Overloaded, Unavailable
from wallet_gql.domain.postings import Posted
from wallet_gql.domain.shards import shard_of
from wallet_gql.operations import openings
from wallet_gql.operations.opening import Ledger, open_ledger
from wallet_gql.operations.openings import CONNECTIONS_MAX, Opened
from wallet_gql.operations.unit_of_work import CommitInDoubt, unit_of_work
from wallet_gql.operations.wallets import open_wallet
from wallet_gql.settings import Settings

INSERT = "INSERT INTO wallet (shard, kind, owner_id) VALUES ($1, 1, $2)"


@pytest.fixture(scope="module")
def settings(settings: Settings) -> Settings:
    """The settings of this worker's database, with a deadline that a busy machine does not reach."""
    return settings.model_copy(update={"request_deadline_seconds": float(PATIENCE_SECONDS)})


@asynccontextmanager
async def inserted(settings: Settings, *owners: str) -> AsyncIterator[Transaction]:
    """Insert wallets as another session does that is stuck before its COMMIT; what is left open is rolled back."""
    async with connected(settings) as connection:
        transaction = connection.transaction()
        await transaction.start()
        for owner in owners:
            await connection.execute(INSERT, shard_of(owner, settings.shard_count), owner)
        yield transaction


def opening(ledger: Ledger, owner: str, count: int = 1) -> list[asyncio.Task[Opened]]:
    return [asyncio.create_task(open_wallet(ledger, owner)) for _ in range(count)]


async def ended(tasks: list[asyncio.Task[Opened]]) -> list[Opened]:
    async with asyncio.timeout(PATIENCE_SECONDS):
        return await asyncio.gather(*tasks)


async def faults(tasks: list[asyncio.Task[Opened]]) -> list[type]:
    async with asyncio.timeout(PATIENCE_SECONDS):
        return [type(result) for result in await asyncio.gather(*tasks, return_exceptions=True)]


async def stuck(ledger: Ledger) -> None:
    """Wait until somebody is known to be busy."""
    await until(ledger.openings._busy.locked)


async def others_go_on(ledger: Ledger, owner: str) -> None:
    """Post, read, open a new wallet and find an old one."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        before = await balance(ledger, owner)
        assert isinstance(await post(ledger, "top_up", owner, 1), Posted)
        assert await balance(ledger, owner) == before + 1
        assert not (await open_wallet(ledger, new_owner_id())).already_open
        assert (await open_wallet(ledger, owner)).already_open


@pytest.mark.parametrize("pgbouncer", [False, True], ids=["sessions", "pgbouncer"])
async def test_stuck_insert_rolled_back(settings: Settings, pgbouncer: bool) -> None:
    async with open_ledger(settings.model_copy(update={"pgbouncer": pgbouncer})) as ledger:
        free, owner = await new_owner(ledger), new_owner_id()
        async with inserted(settings, owner) as insert:
            waiting = opening(ledger, owner, 60)
            await stuck(ledger)
            for _ in range(10):
                await others_go_on(ledger, free)
            assert not any(task.done() for task in waiting)
            await insert.rollback()
            answers = await ended(waiting)

        assert len({opened.wallet.id for opened in answers}) == 1
        assert [opened.already_open for opened in answers] == [False] + [True] * 59
        assert answers[0].wallet.owner_id == owner
        assert ledger.openings._under_way == {}


async def test_stuck_insert_committed(ledger: Ledger) -> None:
    owner = new_owner_id()
    before = await count_rows(ledger.settings)
    async with inserted(ledger.settings, owner) as insert:
        waiting = opening(ledger, owner, 60)
        await stuck(ledger)
        await insert.commit()
        answers = await ended(waiting)

    assert len({opened.wallet.id for opened in answers}) == 1
    assert all(opened.already_open for opened in answers)
    assert await count_rows(ledger.settings) == before._replace(wallets=before.wallets + 1)


async def test_stuck_owners_share_one_place(ledger: Ledger) -> None:
    free, owners = await new_owner(ledger), [new_owner_id() for _ in range(2 * CONNECTIONS_MAX)]
    async with inserted(ledger.settings, *owners[1:]), inserted(ledger.settings, owners[0]) as first:
        waiting = [task for owner in owners for task in opening(ledger, owner)]
        await until(lambda: len(ledger.openings._busy._waiters or ()) == len(owners) - 1)
        await waiting_for_locks(ledger, 1)
        assert not ledger.openings._free.locked()
        await others_go_on(ledger, free)
        assert not any(task.done() for task in waiting)

        # Each has its turn.
        await first.rollback()
        assert not (await waiting[0]).already_open
        assert not any(task.done() for task in waiting[1:])
        others = ended(waiting[1:])
    assert [opened.already_open for opened in await others] == [False] * (len(owners) - 1)


async def test_flood_of_new_owners_has_a_few_connections(ledger: Ledger, settings: Settings) -> None:
    async with open_through_proxy(settings) as (service, proxy):
        free = await new_owner(ledger)
        # What a connection of the service that opens a wallet sends for the first time.
        proxy.on("INSERT INTO wallet (shard, kind, owner_id)", Fate.HELD, times=1000)
        owners = [new_owner_id() for _ in range(300)]
        waiting = [task for owner in owners for task in opening(service, owner)]
        await until(lambda: proxy.count == CONNECTIONS_MAX)

        for _ in range(5):
            assert isinstance(await post(service, "top_up", free, 1), Posted)
        assert await balance(service, free) == 5
        assert (await open_wallet(service, free)).already_open
        assert proxy.count == CONNECTIONS_MAX
        assert not any(task.done() for task in waiting)

        proxy.release()
        answers = await ended(waiting)
    assert [opened.wallet.owner_id for opened in answers] == owners
    assert not any(opened.already_open for opened in answers)


async def test_more_than_may_wait_is_overload(settings: Settings) -> None:
    async with open_ledger(settings.model_copy(update={"queue_size_max": 3})) as ledger:
        free, owner, other = await new_owner(ledger), new_owner_id(), new_owner_id()
        async with inserted(settings, owner, other) as insert:
            waiting = opening(ledger, owner, 2)
            await stuck(ledger)
            waiting += opening(ledger, other)
            await until(lambda: ledger.openings._caller_count == 3)
            before = await count_rows(settings)
            with pytest.raises(Overloaded, match="3 openings are waiting already"):
                await open_wallet(ledger, owner)
            with pytest.raises(Overloaded):
                await open_wallet(ledger, new_owner_id())
            assert await count_rows(settings) == before
            # Nobody waits for what is there.
            assert (await open_wallet(ledger, free)).already_open
            await insert.rollback()
            await ended(waiting)
        assert not (await open_wallet(ledger, new_owner_id())).already_open


async def test_openings_whose_callers_hung_up_count_too(settings: Settings) -> None:
    async with open_ledger(settings.model_copy(update={"queue_size_max": 2})) as ledger:
        owners = [new_owner_id(), new_owner_id()]
        async with inserted(settings, *owners) as insert:
            gone = [task for owner in owners for task in opening(ledger, owner)]
            await until(lambda: ledger.openings._caller_count == 2)
            for task in gone:
                task.cancel()
            await until(lambda: ledger.openings._caller_count == 0)
            with pytest.raises(Overloaded):
                await open_wallet(ledger, new_owner_id())
            await insert.rollback()
        await until(lambda: ledger.openings._under_way == {})
        assert [(await open_wallet(ledger, owner)).already_open for owner in owners] == [True, True]


async def test_caller_that_hangs_up_takes_nothing_from_others(ledger: Ledger) -> None:
    owner = new_owner_id()
    async with inserted(ledger.settings, owner) as insert:
        gone, *waiting = opening(ledger, owner, 3)
        await stuck(ledger)
        gone.cancel()
        await asyncio.wait([gone])
        assert gone.cancelled()
        assert not any(task.done() for task in waiting)
        await insert.rollback()
        assert [opened.already_open for opened in await ended(waiting)] == [True, True]


async def test_stuck_until_the_deadline_is_unavailable(settings: Settings) -> None:
    async with open_ledger(settings.model_copy(update={"request_deadline_seconds": 1.0})) as ledger:
        owner = new_owner_id()
        before = await count_rows(settings)
        async with inserted(settings, owner):
            assert await faults(opening(ledger, owner, 20)) == [Unavailable] * 20
            await until(lambda: ledger.openings._under_way == {})
            await waiting_for_locks(ledger, 0)
        assert await count_rows(settings) == before
        assert not (await open_wallet(ledger, owner)).already_open


async def test_each_caller_has_its_own_deadline(ledger: Ledger) -> None:
    owner, loop = new_owner_id(), asyncio.get_running_loop()
    async with inserted(ledger.settings, owner) as insert:
        with pytest.raises(Unavailable):
            await open_wallet(ledger, owner, loop.time() + 1)
        hasty = asyncio.create_task(open_wallet(ledger, owner, loop.time() + 1))
        await stuck(ledger)
        patient = opening(ledger, owner)
        assert await faults([hasty]) == [Unavailable]
        await asyncio.sleep(0.5)
        assert not patient[0].done()
        await insert.rollback()
        await ended(patient)
    with pytest.raises(Unavailable):
        await open_wallet(ledger, new_owner_id(), loop.time() - 1)
    assert ledger.openings._under_way == {}


async def test_commit_under_way_at_the_deadline_is_outcome_unknown(settings: Settings) -> None:
    short = settings.model_copy(update={"request_deadline_seconds": 2.0})
    async with open_through_proxy(short) as (service, proxy):
        proxy.on(COMMIT, Fate.HELD, times=1000)
        assert await faults(opening(service, new_owner_id(), 5)) == [OutcomeUnknown] * 5
        assert proxy.count == 1


async def test_caller_who_leaves_before_others_is_told_that_commit_is_under_way(settings: Settings) -> None:
    async with open_through_proxy(settings) as (service, proxy):
        owner = new_owner_id()
        proxy.on(COMMIT, Fate.HELD)
        waiting = opening(service, owner, 2)
        await until(lambda: proxy.count == 1)
        with pytest.raises(Fault) as caught:
            await open_wallet(service, owner, asyncio.get_running_loop().time() + 1)
        # The look-up finds nothing: the wallet is not there before COMMIT is.
        assert type(caught.value) is OutcomeUnknown
        proxy.release()
        assert [opened.already_open for opened in await ended(waiting)] == [False, True]


@pytest.mark.parametrize("is_freed", [True, False], ids=["freed", "stuck until the deadline"])
async def test_doubt_outlasts_the_slices(settings: Settings, monkeypatch: pytest.MonkeyPatch, is_freed: bool) -> None:
    attempts = []

    @asynccontextmanager
    async def first_in_doubt(engine: AsyncEngine, *, deadline: float) -> AsyncIterator[Connection]:
        attempts.append(deadline)
        if len(attempts) == 1:
            raise CommitInDoubt
        async with unit_of_work(engine, deadline=deadline) as connection:
            yield connection

    monkeypatch.setattr(openings, "unit_of_work", first_in_doubt)
    deadline_seconds = PATIENCE_SECONDS if is_freed else 2.0
    async with open_ledger(settings.model_copy(update={"request_deadline_seconds": deadline_seconds})) as ledger:
        owner = new_owner_id()
        async with inserted(settings, owner) as insert:
            waiting = opening(ledger, owner, 3)
            await stuck(ledger)
            if not is_freed:
                assert await faults(waiting) == [OutcomeUnknown] * 3
                return
            await insert.commit()
            assert all(opened.already_open for opened in await ended(waiting))


async def test_closing_waits_for_no_stuck_insert(settings: Settings) -> None:
    owner = new_owner_id()
    async with inserted(settings, owner):
        async with asyncio.timeout(PATIENCE_SECONDS / 2), open_ledger(settings) as ledger:
            waiting = opening(ledger, owner, 3)
            await stuck(ledger)
        assert await faults(waiting) == [Unavailable] * 3
