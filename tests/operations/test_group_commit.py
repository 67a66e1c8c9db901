import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final
from uuid import UUID, uuid4

import asyncpg
import pytest
from conftest import environment, plain
from factories import TEST_SHARD_COUNT, balance, new_owner, new_owner_id
from proxy import COMMIT, Fate, open_through_proxy
from tables import Rows, count_rows
from uuid_utils.compat import uuid7

from wallet_gql.domain.errors import OutcomeUnknown, Overloaded, Unavailable
from wallet_gql.domain.model import (
    Asset,
    KeyReused,
    Outcome,
    OutcomeCode,
    Posted,
    PostingRequest,
    Refused,
    TransactionType,
    WalletKind,
    WalletMissing,
)
from wallet_gql.domain.shards import shard_of
from wallet_gql.ledger import posting
from wallet_gql.ledger.locks import WalletName, lock_wallets
from wallet_gql.operations import group_commit
from wallet_gql.operations.group_commit import BATCH_SIZE_MAX, LANE_COUNT, PARKED_UNDER_WAY_MAX, GroupCommit
from wallet_gql.operations.opening import Ledger, open_ledger
from wallet_gql.settings import Settings

# Much more than any of this takes: the machine may be busy.
PATIENCE_SECONDS: Final = 60

# Where a deadline must pass, it does so this soon; the margin keeps what happens before it apart from the deadline.
DEADLINE_SECONDS: Final = 4.0
LONG_MARGIN_SECONDS: Final = 1.0

CHILD: Final = """
import asyncio, sys
from factories import post
from wallet_gql.domain.model import Posted
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


@pytest.fixture(scope="session")
def settings(settings: Settings) -> Settings:
    """The settings of this worker's database, with time-outs that a busy machine does not reach."""
    seconds = dict.fromkeys(
        (
            "request_deadline_seconds",
            "statement_timeout_seconds",
            "lock_timeout_seconds",
            "idle_in_transaction_timeout_seconds",
            "connect_timeout_seconds",
        ),
        PATIENCE_SECONDS,
    )
    return settings.model_copy(update=seconds)


@pytest.fixture
def long_margin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group_commit, "MARGIN_SECONDS", LONG_MARGIN_SECONDS)


async def new_owner_in(ledger: Ledger, shard: int, gold: int = 0) -> str:
    """Open a wallet for a fresh owner of a shard: with four shards and four lanes, that is of a lane."""
    while shard_of(owner := new_owner_id(), TEST_SHARD_COUNT) != shard:
        pass
    return await new_owner(ledger, gold, owner)


async def new_owners_in(ledger: Ledger, shard: int, count: int) -> list[str]:
    return [await new_owner_in(ledger, shard) for _ in range(count)]


def ask(ledger: Ledger, owner: str, amount: int = 1, type_: str = "TOP_UP", **more: Any) -> PostingRequest:
    return PostingRequest(
        shard_of(owner, ledger.shard_count),
        owner,
        TransactionType[type_],
        more.pop("asset", ledger.assets["GOLD"]),
        amount,
        uuid4(),
        **more,
    )


def again(request: PostingRequest) -> PostingRequest:
    """Return what arrives when a caller asks again with the same key."""
    return replace(request, transaction_id=uuid7())


async def turns() -> None:
    """Let whatever can go on without the database, go on."""
    for _ in range(10):
        await asyncio.sleep(0)


async def send(commits: GroupCommit, *requests: PostingRequest) -> list[asyncio.Task[Outcome]]:
    """Queue requests in one turn of the event loop: what an idle lane takes of them is one batch."""
    tasks = [asyncio.create_task(commits.post(request)) for request in requests]
    await turns()
    return tasks


async def results(tasks: Sequence[asyncio.Task[Outcome]]) -> list[Outcome | BaseException]:
    async with asyncio.timeout(2 * PATIENCE_SECONDS):
        return await asyncio.gather(*tasks, return_exceptions=True)


async def posted(tasks: Sequence[asyncio.Task[Outcome]]) -> list[Posted]:
    """Return the outcomes, which must be postings that were asked for the first time."""
    outcomes = await results(tasks)
    first = [outcome for outcome in outcomes if isinstance(outcome, Posted) and not outcome.already_processed]
    assert first == outcomes
    return first


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not condition():  # noqa: ASYNC110 - what is awaited has no event of its own
            await asyncio.sleep(0.005)


def wallet(ledger: Ledger, owner: str) -> WalletName:
    return WalletName(shard_of(owner, ledger.shard_count), WalletKind.USER, owner)


def stripe(ledger: Ledger, shard: int) -> WalletName:
    return WalletName(shard, WalletKind.TREASURY, str(ledger.slot))


@asynccontextmanager
async def connected(settings: Settings) -> AsyncIterator[asyncpg.Connection]:
    """A connection that is none of the service's."""
    connection = await asyncpg.connect(plain(settings.server_url().render_as_string(hide_password=False)))
    try:
        yield connection
    finally:
        await connection.close()


@asynccontextmanager
async def held(settings: Settings, *names: WalletName) -> AsyncIterator[None]:
    """Hold wallets' locks while the block lasts, as another program would."""
    async with connected(settings) as connection, connection.transaction():
        assert len(await lock_wallets(connection, names)) == len(names)
        yield


@asynccontextmanager
async def lane_held_up(ledger: Ledger, shard: int = 0, commits: GroupCommit | None = None) -> AsyncIterator[None]:
    """Keep a batch of one in the database while the block lasts: what the lane gets meanwhile has to queue."""
    commits = commits or ledger.commits
    request = ask(ledger, await new_owner_in(ledger, shard))
    async with held(ledger.settings, stripe(ledger, shard)):
        first = await send(commits, request)
        await waiting_for_locks(ledger, 1)
        yield
    await posted(first)


async def sessions(settings: Settings, condition: str, count: int) -> list[int]:
    """Wait until so many of the service's sessions on this database are in a state; returns their process ids."""
    async with connected(settings) as connection, asyncio.timeout(PATIENCE_SECONDS):
        while True:
            rows = await connection.fetch(
                "SELECT pid FROM pg_stat_activity a"
                f" WHERE datname = current_database() AND application_name = 'wallet-gql' AND {condition}"
            )
            if len(rows) == count:
                return [row[0] for row in rows]
            await asyncio.sleep(0.005)


async def waiting_for_locks(ledger: Ledger, count: int) -> list[int]:
    return await sessions(
        ledger.settings, "EXISTS (SELECT FROM pg_locks l WHERE l.pid = a.pid AND NOT l.granted)", count
    )


async def terminate(settings: Settings, pids: Iterable[int]) -> None:
    """End sessions at the server, as an operator or a fail-over does."""
    async with connected(settings) as connection:
        for pid in pids:
            assert await connection.fetchval("SELECT pg_terminate_backend($1, 60000)", pid)


@asynccontextmanager
async def group_commit_of(ledger: Ledger, **changes: Any) -> AsyncIterator[GroupCommit]:
    """A group commit with limits of its own, on the ledger's connections."""
    limits = {"deadline_seconds": PATIENCE_SECONDS, "queue_size_max": 4096}
    commits = GroupCommit(ledger.engine, ledger.slot, **{**limits, **changes})
    try:
        yield commits
    finally:
        await commits.close()


def added(before: Rows, *, transactions: int, keys: int | None = None, accounts: int = 0) -> Rows:
    return before._replace(
        accounts=before.accounts + accounts,
        transactions=before.transactions + transactions,
        entries=before.entries + 2 * transactions,
        keys=before.keys + (transactions if keys is None else keys),
    )


def seqs(outcomes: Iterable[Posted]) -> list[int]:
    return [outcome.transaction.seq for outcome in outcomes]


async def test_posts_to_one_wallet_keep_the_order_of_their_arrival(ledger: Ledger) -> None:
    owner = await new_owner(ledger)
    amounts = [n % 7 + 1 for n in range(2 * BATCH_SIZE_MAX + 50)]

    outcomes = await posted(await send(ledger.commits, *(ask(ledger, owner, amount) for amount in amounts)))

    assert seqs(outcomes) == list(range(1, len(amounts) + 1))
    assert [outcome.transaction.balance_after_minor for outcome in outcomes] == [
        sum(amounts[: n + 1]) for n in range(len(amounts))
    ]


async def test_each_of_many_wallets_keeps_its_order(ledger: Ledger) -> None:
    owners = [await new_owner(ledger) for _ in range(20)]

    tasks: list[asyncio.Task[Outcome]] = []
    for n in range(30):
        tasks += [asyncio.create_task(ledger.commits.post(ask(ledger, owner, n + 1))) for owner in owners]
        await asyncio.sleep(0)
    outcomes = await posted(tasks)

    for index in range(len(owners)):
        own = outcomes[index :: len(owners)]
        assert seqs(own) == list(range(1, 31))
        assert [outcome.transaction.amount_minor for outcome in own] == list(range(1, 31))


async def test_single_post_is_a_batch_of_its_own_at_once(ledger: Ledger) -> None:
    owner = await new_owner(ledger)
    figures = ledger.commits.figures
    for n in range(5):
        (task,) = await send(ledger.commits, ask(ledger, owner))
        # Without the database having answered anything, it is no more in the queue.
        assert (figures.batch_count, figures.posting_count) == (n + 1, n + 1)
        await posted([task])


async def test_what_arrives_while_a_batch_is_in_the_database_forms_the_next(ledger: Ledger) -> None:
    owners = await new_owners_in(ledger, 0, 7)
    figures = ledger.commits.figures
    async with lane_held_up(ledger):
        tasks = []
        for n in range(49):
            tasks += await send(ledger.commits, ask(ledger, owners[n % 7]))
        assert figures.batch_count == 1

    assert len(await posted(tasks)) == 49
    assert (figures.batch_count, figures.posting_count) == (2, 50)


async def test_more_than_a_batch_takes_is_divided(ledger: Ledger) -> None:
    owner = await new_owner_in(ledger, 0)
    figures = ledger.commits.figures
    async with lane_held_up(ledger):
        tasks = await send(ledger.commits, *(ask(ledger, owner) for _ in range(BATCH_SIZE_MAX + 44)))

    assert seqs(await posted(tasks)) == list(range(1, BATCH_SIZE_MAX + 45))
    assert figures.batch_count == 3


async def test_lanes_do_not_wait_for_each_other(ledger: Ledger) -> None:
    others = [shard for shard in range(TEST_SHARD_COUNT) if shard % LANE_COUNT != 0]
    owners = [await new_owner_in(ledger, shard) for shard in others]
    async with lane_held_up(ledger, 0):
        for _ in range(3):
            await posted(await send(ledger.commits, *(ask(ledger, owner) for owner in owners)))


async def test_each_caller_gets_its_own_outcome(ledger: Ledger) -> None:
    rich, poor = await new_owner_in(ledger, 0, gold=10), await new_owner_in(ledger, 0, gold=1)
    while shard_of(nobody := new_owner_id(), TEST_SHARD_COUNT) != 0:
        pass
    first = ask(ledger, rich, 3)
    (before_first,) = await posted(await send(ledger.commits, first))
    before = await count_rows(ledger.settings)
    batches = ledger.commits.figures.batch_count
    reused = replace(again(first), amount_minor=4)

    tasks = await send(
        ledger.commits,
        ask(ledger, rich, 5, "SPEND"),
        ask(ledger, poor, 2, "SPEND"),
        ask(ledger, nobody),
        again(first),
        reused,
        ask(ledger, rich, 7, "BONUS"),
    )
    spent, refused, missing, replayed, key_reused, granted = await asyncio.gather(*tasks)

    assert ledger.commits.figures.batch_count == batches + 1
    assert isinstance(spent, Posted)
    assert (spent.transaction.balance_after_minor, spent.already_processed) == (8, False)
    assert isinstance(refused, Refused)
    assert (refused.code, refused.already_processed) == (OutcomeCode.INSUFFICIENT_BALANCE, False)
    assert missing == WalletMissing(nobody)
    assert isinstance(replayed, Posted)
    assert (replayed.transaction, replayed.already_processed) == (before_first.transaction, True)
    assert key_reused == KeyReused(first.idempotency_key)
    assert isinstance(granted, Posted)
    assert granted.transaction.balance_after_minor == 15
    assert await count_rows(ledger.settings) == added(before, transactions=2, keys=3)


async def test_one_key_often_in_one_batch_is_posted_once(ledger: Ledger) -> None:
    owner = await new_owner_in(ledger, 0, gold=10)
    request, refused = ask(ledger, owner, 5), ask(ledger, owner, 1000, "SPEND")
    before = await count_rows(ledger.settings)

    first, second, other, no, no_again, no_other = await asyncio.gather(
        *await send(
            ledger.commits,
            request,
            again(request),
            replace(again(request), amount_minor=6),
            refused,
            again(refused),
            replace(again(refused), amount_minor=1),
        )
    )

    assert ledger.commits.figures.batch_count == 2
    assert isinstance(first, Posted)
    assert second == replace(first, already_processed=True)
    assert other == KeyReused(request.idempotency_key)
    assert isinstance(no, Refused)
    assert not no.already_processed
    assert no_again == replace(no, already_processed=True)
    assert no_other == KeyReused(refused.idempotency_key)
    assert await count_rows(ledger.settings) == added(before, transactions=1, keys=2)


POISONS: Final[dict[str, tuple[dict[str, Any], type[Exception]]]] = {
    "an asset that does not exist": ({"asset": Asset(999, "NONE", "None", 0)}, asyncpg.ForeignKeyViolationError),
    "a description too long": ({"description": "x" * 501}, asyncpg.CheckViolationError),
    "a character that the server refuses": ({"reference": "a\0b"}, asyncpg.CharacterNotInRepertoireError),
    "a character that the driver cannot send": ({"reference": "a\ud800"}, UnicodeEncodeError),
    "a number that the driver cannot send": ({"asset": Asset(99_999, "NONE", "None", 0)}, asyncpg.DataError),
}


@pytest.mark.parametrize(("poison", "error"), POISONS.values(), ids=POISONS)
@pytest.mark.parametrize("places", [(0,), (7,), (19,), (3, 4, 19)], ids=str)
async def test_poisoned_request_is_isolated(
    ledger: Ledger, poison: dict[str, Any], error: type[Exception], places: tuple[int, ...]
) -> None:
    owners = [await new_owner_in(ledger, 0, gold=1), await new_owner_in(ledger, 0, gold=1)]
    requests = [ask(ledger, owners[n % 2], n + 1, **(poison if n in places else {})) for n in range(20)]
    before = await count_rows(ledger.settings)
    figures = replace(ledger.commits.figures)
    started = asyncio.get_running_loop().time()

    outcomes = await results(await send(ledger.commits, *requests))

    assert ledger.commits.figures.batch_count == figures.batch_count + 1
    seconds = asyncio.get_running_loop().time() - started
    assert ledger.commits.figures.database_seconds - figures.database_seconds <= seconds
    assert [type(outcome) for outcome in outcomes] == [error if n in places else Posted for n in range(20)]
    assert await count_rows(ledger.settings) == added(before, transactions=20 - len(places))
    for index, owner in enumerate(owners):
        own = [outcome for outcome in outcomes[index::2] if isinstance(outcome, Posted)]
        assert seqs(own) == list(range(2, 2 + len(own)))
        assert await balance(ledger, owner) == own[-1].balance.amount_minor


async def test_poisoned_requests_alone_are_each_told(ledger: Ledger) -> None:
    owner = await new_owner_in(ledger, 0)
    before = await count_rows(ledger.settings)

    requests = [ask(ledger, owner, description="x" * 501) for _ in range(5)]
    outcomes = await results(await send(ledger.commits, *requests))

    assert [type(outcome) for outcome in outcomes] == [asyncpg.CheckViolationError] * 5
    assert await count_rows(ledger.settings) == before
    # What was wrong with it is not kept under its key.
    await posted(await send(ledger.commits, replace(requests[0], description="x")))


async def test_poisoned_request_for_a_held_wallet_is_isolated(ledger: Ledger) -> None:
    owner = await new_owner_in(ledger, 0)
    async with held(ledger.settings, wallet(ledger, owner)):
        tasks = await send(
            ledger.commits, *(ask(ledger, owner, n + 1, description="x" * (501 * (n == 2))) for n in range(5))
        )
        await waiting_for_locks(ledger, 1)

    outcomes = await results(tasks)

    assert [type(outcome) for outcome in outcomes] == [Posted, Posted, asyncpg.CheckViolationError, Posted, Posted]
    assert seqs(outcome for outcome in outcomes if isinstance(outcome, Posted)) == [1, 2, 3, 4]


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


@pytest.mark.parametrize("error", [asyncpg.LockNotAvailableError("planted"), asyncpg.QueryCanceledError("planted")])
async def test_timeout_is_told_to_the_whole_batch_which_is_never_split(
    ledger: Ledger, error: Exception, attempts: list[Exception | None]
) -> None:
    owner = await new_owner_in(ledger, 0)
    before = await count_rows(ledger.settings)
    attempts += [error, error]

    outcomes = await results(await send(ledger.commits, *(ask(ledger, owner) for _ in range(10))))

    assert [type(outcome) for outcome in outcomes] == [Unavailable] * 10
    assert len(attempts) == 1
    assert await count_rows(ledger.settings) == before


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
        assert (second.balance_before_minor, second.balance.amount_minor) == (5, 105)
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
    async with held(ledger.settings, stripe(ledger, 0)):
        tasks = await send(ledger.commits, *(ask(ledger, owner) for owner in owners for _ in range(2)))
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


async def test_caller_that_hangs_up_neither_loses_nor_doubles_its_posting(ledger: Ledger) -> None:
    owner, other = await new_owners_in(ledger, 0, 2)
    in_database, queued, stays = ask(ledger, owner, 1), ask(ledger, owner, 10), ask(ledger, other, 100)
    before = await count_rows(ledger.settings)
    async with group_commit_of(ledger) as commits:
        async with held(ledger.settings, stripe(ledger, 0)):
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
    before = await count_rows(ledger.settings)
    async with group_commit_of(ledger) as commits:
        async with held(ledger.settings, wallet(ledger, owner)):
            async with held(ledger.settings, stripe(ledger, 0)):
                first, second = await send(commits, gone, stays)
                await waiting_for_locks(ledger, 1)
                if when == "in the database":
                    first.cancel()
                    await turns()
            await until(lambda: commits.figures.parked_count == 1)
            first.cancel()
            await turns()
            assert first.cancelled()
        await posted([second])

    assert await count_rows(ledger.settings) == added(before, transactions=2, accounts=1)
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


@pytest.mark.usefixtures("long_margin")
async def test_request_still_queued_at_its_deadline_is_unavailable_and_never_posted(ledger: Ledger) -> None:
    first, second = await new_owners_in(ledger, 0, 2)
    requests = ask(ledger, first), ask(ledger, second)
    before = await count_rows(ledger.settings)
    async with group_commit_of(ledger, deadline_seconds=DEADLINE_SECONDS) as commits:
        async with held(ledger.settings, stripe(ledger, 0)):
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
    async with group_commit_of(ledger, deadline_seconds=0.3) as commits, held(ledger.settings, stripe(ledger, 0)):
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
    owners = await new_owners_in(ledger, 0, PARKED_UNDER_WAY_MAX + 2)
    async with group_commit_of(ledger) as commits:
        async with held(ledger.settings, *(wallet(ledger, owner) for owner in owners)):
            tasks = await send(commits, *(ask(ledger, owner) for owner in owners for _ in range(2)))
            await waiting_for_locks(ledger, PARKED_UNDER_WAY_MAX)
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


async def test_order_is_kept_where_a_wallet_is_found_busy(ledger: Ledger) -> None:
    stuck, other = await new_owners_in(ledger, 0, 2)
    async with held(ledger.settings, wallet(ledger, stuck)):
        async with held(ledger.settings, stripe(ledger, 0)):
            # Several in the batch that will find the wallet busy, and several that queue in the lane meanwhile.
            tasks = await send(ledger.commits, *(ask(ledger, stuck, n + 1) for n in range(5)))
            await waiting_for_locks(ledger, 1)
            tasks += await send(ledger.commits, *(ask(ledger, stuck, n + 1) for n in range(5, 10)))
        while ledger.commits.figures.parked_count == 0:  # noqa: ASYNC110 - the very turn in which the lane goes on
            await asyncio.sleep(0)
        tasks += await send(ledger.commits, *(ask(ledger, stuck, n + 1) for n in range(10, 15)))
        await posted(await send(ledger.commits, ask(ledger, other)))
        assert not any(task.done() for task in tasks)

    outcomes = await posted(tasks)
    assert [outcome.transaction.amount_minor for outcome in outcomes] == list(range(1, 16))
    assert seqs(outcomes) == list(range(1, 16))


async def test_many_held_wallets_do_not_stop_the_others(ledger: Ledger) -> None:
    stuck = await new_owners_in(ledger, 0, 3 * PARKED_UNDER_WAY_MAX)
    others = await new_owners_in(ledger, 0, 3)
    async with held(ledger.settings, *(wallet(ledger, owner) for owner in stuck)):
        tasks = await send(ledger.commits, *(ask(ledger, owner) for _ in range(3) for owner in stuck))
        await waiting_for_locks(ledger, PARKED_UNDER_WAY_MAX)
        for _ in range(5):
            await posted(await send(ledger.commits, *(ask(ledger, owner) for owner in others)))
        tasks += await send(ledger.commits, *(ask(ledger, owner) for owner in stuck))
        assert not any(task.done() for task in tasks)
        assert ledger.commits.figures.parked_count == len(stuck)

    outcomes = await posted(tasks)
    for index in range(len(stuck)):
        assert seqs(outcomes[index :: len(stuck)]) == [1, 2, 3, 4]


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
    stuck = await new_owners_in(ledger, 0, PARKED_UNDER_WAY_MAX + 2)
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


async def test_held_stripe_is_unavailable_after_the_lock_timeout(ledger: Ledger, settings: Settings) -> None:
    owner = await new_owner_in(ledger, 0)
    before = await count_rows(settings)
    async with open_ledger(settings.model_copy(update={"lock_timeout_seconds": 0.2})) as other:
        requests = [ask(other, owner) for _ in range(3)]
        async with held(settings, stripe(other, 0)):
            outcomes = await results(await send(other.commits, *requests))

        assert [type(outcome) for outcome in outcomes] == [Unavailable] * 3
        assert await count_rows(settings) == before
        await posted(await send(other.commits, *map(again, requests)))


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
    env = environment(settings, PYTHONPATH=str(Path(__file__).parents[1]))
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
