"""What goes wrong in the database, at COMMIT above all, and what becomes of the batch."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

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
    keys_held,
    new_owner_in,
    new_owners_in,
    on_balance,
    posted,
    results,
    send,
    seqs,
    sessions,
    terminate,
    until,
    waiting_for_locks,
    wallet,
)
from factories import balance
from proxy import COMMIT, Fate, Proxy, open_through_proxy
from tables import count_rows

from wallet_gql.domain.errors import OutcomeUnknown, Unavailable
from wallet_gql.domain.postings import Outcome, Posted, PostingRequest, Refused
from wallet_gql.ledger import posting
from wallet_gql.ledger.locks import lock_wallets
from wallet_gql.operations import group_commit
from wallet_gql.operations.group_commit import GroupCommit
from wallet_gql.operations.opening import Ledger
from wallet_gql.settings import Settings


@pytest.fixture
def attempts(monkeypatch: pytest.MonkeyPatch) -> list[Exception | None]:
    """The errors to raise at each attempt's end, None for none; then none."""
    errors: list[Exception | None] = []

    async def post_batch(*arguments: Any, **more: Any) -> Any:
        outcomes = await posting.post_batch(*arguments, **more)
        if errors and (error := errors.pop(0)) is not None:
            raise error
        return outcomes

    monkeypatch.setattr(group_commit, "post_batch", post_batch)
    return errors


def fork() -> asyncpg.UniqueViolationError:
    error = asyncpg.UniqueViolationError("planted")
    error.constraint_name = "entry_pkey"
    return error


@pytest.mark.parametrize(
    "error", [asyncpg.SerializationError("planted"), asyncpg.DeadlockDetectedError("planted"), fork()], ids=repr
)
async def test_lost_race_is_replayed_whole(ledger: Ledger, error: Exception, attempts: list[Exception | None]) -> None:
    owner = await new_owner_in(ledger, 0, gold=1)
    before = await count_rows(ledger.settings)
    attempts += [error, error]

    tasks = await send(ledger.commits, *(ask(ledger, owner) for _ in range(10)))

    assert seqs(await posted(tasks)) == list(range(2, 12))
    assert attempts == []
    assert await count_rows(ledger.settings) == added(before, transactions=10)


@pytest.mark.parametrize(
    "error",
    [
        asyncpg.LockNotAvailableError("planted"),
        asyncpg.QueryCanceledError("planted"),
        asyncpg.DiskFullError("planted"),
        asyncpg.OutOfMemoryError("planted"),
        asyncpg.PostgresIOError("planted"),
        asyncpg.DataCorruptedError("planted"),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_fault_of_the_server_is_told_to_the_whole_batch_which_is_never_split(
    ledger: Ledger, error: Exception, attempts: list[Exception | None]
) -> None:
    owner = await new_owner_in(ledger, 0)
    before = await count_rows(ledger.settings)
    attempts += [error, error]

    outcomes = await results(await send(ledger.commits, *(ask(ledger, owner) for _ in range(10))))

    assert [type(outcome) for outcome in outcomes] == [Unavailable] * 10
    assert len(attempts) == 1
    assert await count_rows(ledger.settings) == before


async def test_fault_of_ours_is_told_to_the_whole_batch_which_is_never_split(
    ledger: Ledger, attempts: list[Exception | None]
) -> None:
    owner = await new_owner_in(ledger, 0)
    before = await count_rows(ledger.settings)
    attempts += [LookupError("planted"), LookupError("planted")]

    outcomes = await results(await send(ledger.commits, *(ask(ledger, owner) for _ in range(10))))

    assert [type(outcome) for outcome in outcomes] == [LookupError] * 10
    assert len(attempts) == 1
    assert await count_rows(ledger.settings) == before


@asynccontextmanager
async def taken_after_a_commit_in_doubt(
    settings: Settings, service: Ledger, proxy: Proxy, owner: str, commits: GroupCommit, *requests: PostingRequest
) -> AsyncIterator[list[asyncio.Task[Outcome]]]:
    """Post requests whose COMMIT is done but not answered; another session has the wallet before they are replayed."""
    proxy.on(COMMIT, Fate.HELD_UNANSWERED)
    tasks = await send(commits, *requests)
    await until(lambda: proxy.count == 1)
    async with connected(settings) as other, other.transaction():
        taking = asyncio.create_task(lock_wallets(other, [wallet(service, owner)]))
        async with connected(settings) as watcher:
            while not await watcher.fetchval(  # noqa: ASYNC110 - another session's wait has no event of ours
                "SELECT EXISTS (SELECT FROM pg_locks WHERE pid = $1 AND NOT granted)", other.get_server_pid()
            ):
                await asyncio.sleep(0.005)
        proxy.release()
        await taking
        await until(lambda: commits.figures.parked_count == 1)
        yield tasks


@pytest.mark.usefixtures("long_margin")
@pytest.mark.parametrize("is_freed", [True, False], ids=["freed", "held until the deadline"])
async def test_doubt_of_a_commit_is_kept_while_its_wallet_is_parked(
    ledger: Ledger, settings: Settings, is_freed: bool
) -> None:
    async with (
        open_through_proxy(settings) as (service, proxy),
        group_commit_of(service, deadline_seconds=PATIENCE_SECONDS if is_freed else DEADLINE_SECONDS) as commits,
    ):
        owner = await new_owner_in(service, 0, gold=1)
        requests = [ask(service, owner) for _ in range(3)]
        before = await count_rows(settings)
        async with taken_after_a_commit_in_doubt(settings, service, proxy, owner, commits, *requests) as doubtful:
            # One that comes later is in no doubt.
            tasks = [*doubtful, *await send(commits, late := ask(service, owner, 10))]
            if not is_freed:
                outcomes = await results(tasks)
                # They are in the books: "nothing was posted" would be untrue.
                assert [type(outcome) for outcome in outcomes] == [OutcomeUnknown] * 3 + [Unavailable]
                assert await count_rows(settings) == added(before, transactions=3)
        if is_freed:
            assert seqs(await posted(tasks)) == [2, 3, 4, 5]
            assert await count_rows(settings) == added(before, transactions=4)
        else:
            told = await asyncio.gather(*await send(ledger.commits, *map(again, [*requests, late])))
            assert [isinstance(outcome, Posted) and outcome.already_processed for outcome in told] == [True] * 3 + [
                False
            ]


@pytest.mark.parametrize("fate", [Fate.LOST, Fate.UNANSWERED])
@pytest.mark.parametrize("times", [1, 3])
async def test_batch_whose_commit_was_cut_is_posted_once(
    ledger: Ledger, settings: Settings, fate: Fate, times: int
) -> None:
    async with open_through_proxy(settings) as (service, proxy):
        owners = [await new_owner_in(service, 0, gold=10) for _ in range(3)]
        before = await count_rows(settings)
        batches = service.commits.figures.batch_count
        proxy.on(COMMIT, fate, times=times)

        spends = [ask(service, owner, 6, "SPEND") for owner in owners for _ in range(2)]
        outcomes = await asyncio.gather(*await send(service.commits, *spends))

        assert proxy.count == times
        assert service.commits.figures.batch_count == batches + 1
        # To their callers these are first answers, not replays, though the first attempt may have been committed.
        assert [type(outcome) for outcome in outcomes] == [Posted, Refused] * 3
        assert not any(outcome.already_processed for outcome in outcomes if isinstance(outcome, Posted | Refused))
        for spend, outcome in zip(spends, outcomes, strict=True):
            if isinstance(outcome, Posted):
                assert outcome.transaction.id == spend.transaction_id
                assert outcome.transaction.balance_after_minor == 4
        assert await count_rows(settings) == added(before, transactions=3, keys=6)
        assert [await balance(ledger, owner) for owner in owners] == [4, 4, 4]


@pytest.mark.parametrize("fate", [Fate.LOST, Fate.UNANSWERED])
async def test_refusal_whose_commit_was_cut_is_kept(ledger: Ledger, settings: Settings, fate: Fate) -> None:
    async with open_through_proxy(settings) as (service, proxy):
        owner = await new_owner_in(service, 0, gold=5)
        spend = ask(service, owner, 6, "SPEND")
        proxy.on(COMMIT, fate)

        (first,) = await asyncio.gather(*await send(service.commits, spend))
        await posted(await send(service.commits, ask(service, owner, 100)))
        (second,) = await asyncio.gather(*await send(service.commits, again(spend)))

        assert proxy.count == 1
        assert isinstance(first, Refused)
        assert not first.already_processed
        assert isinstance(second, Refused)
        assert second.already_processed
        assert (on_balance(second).balance_before_minor, second.balance.amount_minor) == (5, 105)
        assert await balance(ledger, owner) == 105


@pytest.mark.parametrize(("fate", "is_done"), [(Fate.LOST, False), (Fate.UNANSWERED, True)])
@pytest.mark.parametrize("then", ["every COMMIT is cut", "the database is away", "a statement fails"])
async def test_commit_that_stays_in_doubt_is_outcome_unknown(
    ledger: Ledger,
    settings: Settings,
    attempts: list[Exception | None],
    fate: Fate,
    is_done: bool,
    then: str,
) -> None:
    async with open_through_proxy(settings) as (service, proxy):
        owner = await new_owner_in(service, 0, gold=1)
        requests = [ask(service, owner) for _ in range(4)]
        before = await count_rows(settings)
        is_away = then == "the database is away"
        proxy.on(COMMIT, fate, times=1000 if then == "every COMMIT is cut" else 1, then_refuse=is_away)
        if then == "a statement fails":
            attempts += [None, asyncpg.DiskFullError("planted")]

        outcomes = await results(await send(service.commits, *requests))

        assert [type(outcome) for outcome in outcomes] == [OutcomeUnknown] * 4
        assert await count_rows(settings) == added(before, transactions=4 * is_done)

        proxy.release()
        if is_away:
            await proxy.accept()
        replayed = await asyncio.gather(*await send(service.commits, *map(again, requests)))
        assert [isinstance(outcome, Posted) and outcome.already_processed for outcome in replayed] == [is_done] * 4
        assert await count_rows(settings) == added(before, transactions=4)
        assert await balance(ledger, owner) == 5


async def test_session_that_is_ended_in_mid_batch_is_replaced(ledger: Ledger) -> None:
    owners = await new_owners_in(ledger, 0, 5)
    before = await count_rows(ledger.settings)
    requests = [ask(ledger, owner) for owner in owners for _ in range(2)]
    async with keys_held(ledger.settings, requests[0]):
        tasks = await send(ledger.commits, *requests)
        for _ in range(3):
            await terminate(ledger.settings, await waiting_for_locks(ledger, 1))

    assert len(await posted(tasks)) == 10
    assert ledger.commits.figures.batch_count == 1
    assert await count_rows(ledger.settings) == added(before, transactions=10, accounts=5)


async def test_session_that_is_ended_before_its_commit_arrives_is_replaced(ledger: Ledger, settings: Settings) -> None:
    async with open_through_proxy(settings) as (service, proxy):
        owner = await new_owner_in(service, 0, gold=1)
        before = await count_rows(settings)
        proxy.on(COMMIT, Fate.HELD)
        tasks = await send(service.commits, *(ask(service, owner) for _ in range(10)))
        await until(lambda: proxy.count == 1)

        await terminate(settings, await sessions(settings, "state = 'idle in transaction'", 1))
        proxy.release()

        assert len(await posted(tasks)) == 10
        assert await count_rows(settings) == added(before, transactions=10)
        assert await balance(ledger, owner) == 11
