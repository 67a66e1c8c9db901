import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from asyncpg import Connection
from factories import balance, new_owner, new_owner_id
from pydantic import SecretStr
from sqlalchemy import AsyncAdaptedQueuePool
from sqlalchemy.ext.asyncio import AsyncEngine
from tables import count_rows

from wallet_gql.db.engine import connect, create_engine
from wallet_gql.domain.errors import OutcomeUnknown, Unavailable
from wallet_gql.domain.postings import Posted, PostingRequest, TransactionType
from wallet_gql.domain.shards import shard_of
from wallet_gql.domain.wallets import WalletKind, WalletName
from wallet_gql.ledger.locks import lock_wallets
from wallet_gql.ledger.posting import post_batch
from wallet_gql.operations.opening import Ledger
from wallet_gql.operations.unit_of_work import ATTEMPTS_MAX, CommitInDoubt, retrying, unit_of_work

CONFLICTS = {
    "serialization failure": "ERRCODE = '40001'",
    "deadlock": "ERRCODE = '40P01'",
    "fork of a chain": "ERRCODE = '23505', CONSTRAINT = 'entry_pkey'",
    "key written meanwhile": "ERRCODE = '23505', CONSTRAINT = 'idempotency_key_pkey'",
    "account opened meanwhile": "ERRCODE = '23505', CONSTRAINT = 'account_shard_wallet_id_asset_id_key'",
    "fork of a hold": "ERRCODE = '23505', CONSTRAINT = 'hold_step_pkey'",
    "fork of what is held": "ERRCODE = '23505', CONSTRAINT = 'hold_step_shard_account_id_seq_key'",
    "hold placed meanwhile": "ERRCODE = '23505', CONSTRAINT = 'hold_pkey'",
    "fork of what is reversed": "ERRCODE = '23505', CONSTRAINT = 'reversal_pkey'",
    "reversal written meanwhile": "ERRCODE = '23505', CONSTRAINT = 'reversal_shard_transaction_id_key'",
    "fork of a wallet's states": "ERRCODE = '23505', CONSTRAINT = 'wallet_state_pkey'",
    "receipt credited meanwhile": "ERRCODE = '23505', CONSTRAINT = 'receipt_pkey'",
}

FAULTS = {
    "another unique key": ("ERRCODE = '23505', CONSTRAINT = 'somebody_elses_key'", asyncpg.UniqueViolationError),
    "law of the ledger": ("ERRCODE = '23514', CONSTRAINT = 'entry_law_chain'", asyncpg.CheckViolationError),
    "guard trigger": ("ERRCODE = '23001'", asyncpg.RestrictViolationError),
    "syntax": ("ERRCODE = '42601'", asyncpg.PostgresSyntaxError),
    "missing right": ("ERRCODE = '42501'", asyncpg.InsufficientPrivilegeError),
}

SERVER_FAULTS = {
    "disk full": "ERRCODE = '53100'",
    "out of memory": "ERRCODE = '53200'",
    "input or output": "ERRCODE = '58030'",
    "damaged data": "ERRCODE = 'XX001'",
}

DEADLINE_SECONDS = 10


class Planted:
    """A unit of work that opens a wallet, but the database raises an error in the first so many attempts."""

    def __init__(self, ledger: Ledger, using: str, failures: int) -> None:
        self.attempts = 0
        self.owner = new_owner_id()
        self._ledger = ledger
        self._using = using
        self._failures = failures

    async def __call__(self) -> int:
        self.attempts += 1
        async with unit_of_work(self._ledger.engine) as connection:
            await connection.execute(
                "INSERT INTO wallet (shard, kind, owner_id) VALUES ($1, 1, $2)",
                shard_of(self.owner, self._ledger.shard_count),
                self.owner,
            )
            if self.attempts <= self._failures:
                await connection.execute(f"DO $$ BEGIN RAISE EXCEPTION 'planted' USING {self._using}; END $$")
        return self.attempts


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses between attempts, in seconds; they are noted, but not made."""
    taken: list[float] = []
    sleep = asyncio.sleep

    async def pause(seconds: float) -> None:
        taken.append(seconds)
        await sleep(0)

    monkeypatch.setattr(asyncio, "sleep", pause)
    return taken


@asynccontextmanager
async def other_engine(ledger: Ledger, **changes: Any) -> AsyncIterator[AsyncEngine]:
    """Connections of another kind to the same database."""
    engine = create_engine(ledger.settings.model_copy(update=changes))
    yield engine
    await engine.dispose()


@asynccontextmanager
async def engine_to_nowhere(ledger: Ledger) -> AsyncIterator[AsyncEngine]:
    """Connections to a port of this machine on which nobody listens."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = ledger.settings.server_url().set(port=unused.getsockname()[1]).render_as_string(hide_password=False)
        async with other_engine(ledger, database_url=SecretStr(url)) as engine:
            yield engine


@asynccontextmanager
async def locked(ledger: Ledger, owner: str) -> AsyncIterator[None]:
    """Hold a wallet's lock."""
    async with unit_of_work(ledger.engine) as connection:
        await lock_wallets(connection, [WalletName(shard_of(owner, ledger.shard_count), WalletKind.USER, owner)])
        yield


async def end(ledger: Ledger, connection: Connection) -> None:
    """End a connection at its other end, as an operator or a fail-over does."""
    pid = connection.get_server_pid()
    async with connect(ledger.engine) as other:
        assert await other.fetchval("SELECT pg_terminate_backend($1, 10000)", pid)


def top_up_request(ledger: Ledger, owner: str, amount: int) -> PostingRequest:
    return PostingRequest(
        shard_of(owner, ledger.shard_count), owner, TransactionType.TOP_UP, ledger.assets["GOLD"], amount, uuid4()
    )


async def open_in(connection: Connection, ledger: Ledger, owner: str) -> None:
    shard = shard_of(owner, ledger.shard_count)
    await connection.execute("INSERT INTO wallet (shard, kind, owner_id) VALUES ($1, 1, $2)", shard, owner)


async def test_block_that_ends_is_committed(ledger: Ledger) -> None:
    before = await count_rows(ledger.settings)

    async with unit_of_work(ledger.engine) as connection:
        assert await connection.fetchval("SHOW transaction_isolation") == "read committed"
        await open_in(connection, ledger, new_owner_id())
        assert await count_rows(ledger.settings) == before

    assert await count_rows(ledger.settings) == before._replace(wallets=before.wallets + 1)


async def test_block_that_raises_is_rolled_back(ledger: Ledger) -> None:
    before = await count_rows(ledger.settings)

    async def work() -> None:
        async with unit_of_work(ledger.engine) as connection:
            await open_in(connection, ledger, new_owner_id())
            raise LookupError

    with pytest.raises(LookupError):
        await work()

    assert await count_rows(ledger.settings) == before


async def test_block_that_is_cancelled_is_rolled_back(ledger: Ledger) -> None:
    before = await count_rows(ledger.settings)
    opened = asyncio.Event()

    async def work() -> None:
        async with unit_of_work(ledger.engine) as connection:
            await open_in(connection, ledger, new_owner_id())
            opened.set()
            await connection.execute("SELECT pg_sleep(60)")

    task = asyncio.create_task(work())
    await opened.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert await count_rows(ledger.settings) == before
    # The worker slot's own is the only connection that is not back.
    assert isinstance(ledger.engine.pool, AsyncAdaptedQueuePool)
    assert ledger.engine.pool.checkedout() == 1


@pytest.mark.parametrize("using", CONFLICTS.values(), ids=CONFLICTS)
async def test_lost_race_is_run_again(ledger: Ledger, using: str) -> None:
    work = Planted(ledger, using, failures=3)

    assert await retrying(work, deadline_seconds=DEADLINE_SECONDS) == 4

    assert await balance(ledger, work.owner) == 0


@pytest.mark.parametrize("using", CONFLICTS.values(), ids=CONFLICTS)
async def test_race_that_is_always_lost_ends_unavailable(ledger: Ledger, using: str, pauses: list[float]) -> None:
    before = await count_rows(ledger.settings)
    work = Planted(ledger, using, failures=ATTEMPTS_MAX + 1)

    with pytest.raises(Unavailable):
        await retrying(work, deadline_seconds=DEADLINE_SECONDS)

    assert work.attempts == ATTEMPTS_MAX
    assert len(pauses) == ATTEMPTS_MAX - 1
    assert await count_rows(ledger.settings) == before


async def test_pauses_double_and_are_jittered(ledger: Ledger, pauses: list[float]) -> None:
    for _ in range(5):
        with pytest.raises(Unavailable):
            await retrying(Planted(ledger, "ERRCODE = '40001'", ATTEMPTS_MAX), deadline_seconds=DEADLINE_SECONDS)

    rounds = [pauses[start : start + ATTEMPTS_MAX - 1] for start in range(0, len(pauses), ATTEMPTS_MAX - 1)]
    bounds = [0.005 * 2**n for n in range(ATTEMPTS_MAX - 1)]
    assert len(rounds) == 5
    for made in rounds:
        assert all(0 <= pause <= bound for pause, bound in zip(made, bounds, strict=True))
    assert len({tuple(made) for made in rounds}) == 5


async def test_deadline_ends_the_attempts(ledger: Ledger) -> None:
    work = Planted(ledger, "ERRCODE = '40001'", failures=ATTEMPTS_MAX)

    with pytest.raises(Unavailable):
        await retrying(work, deadline_seconds=0)

    assert work.attempts == 1


@pytest.mark.parametrize(("using", "error"), FAULTS.values(), ids=FAULTS)
async def test_other_error_is_raised_at_once(ledger: Ledger, using: str, error: type[Exception]) -> None:
    before = await count_rows(ledger.settings)
    work = Planted(ledger, using, failures=1)

    with pytest.raises(error):
        await retrying(work, deadline_seconds=DEADLINE_SECONDS)

    assert work.attempts == 1
    assert await count_rows(ledger.settings) == before


@pytest.mark.parametrize("using", SERVER_FAULTS.values(), ids=SERVER_FAULTS)
async def test_servers_own_fault_is_unavailable_at_once(ledger: Ledger, using: str) -> None:
    before = await count_rows(ledger.settings)
    work = Planted(ledger, using, failures=1)

    with pytest.raises(Unavailable):
        await retrying(work, deadline_seconds=DEADLINE_SECONDS)

    assert work.attempts == 1
    assert await count_rows(ledger.settings) == before


async def test_deadlock_is_resolved(ledger: Ledger) -> None:
    owners = [await new_owner(ledger), await new_owner(ledger)]
    attempts = 0
    held = asyncio.Barrier(2)

    async def lock_one_by_one(first: str, second: str) -> None:
        nonlocal attempts
        attempts += 1
        is_first_attempt = attempts <= 2
        async with unit_of_work(ledger.engine) as connection:
            await connection.execute("SELECT FROM wallet WHERE owner_id = $1 FOR NO KEY UPDATE", first)
            if is_first_attempt:
                await held.wait()
            await connection.execute("SELECT FROM wallet WHERE owner_id = $1 FOR NO KEY UPDATE", second)

    await asyncio.gather(
        retrying(lambda: lock_one_by_one(*owners), deadline_seconds=DEADLINE_SECONDS),
        retrying(lambda: lock_one_by_one(*reversed(owners)), deadline_seconds=DEADLINE_SECONDS),
    )

    assert attempts > 2


async def test_lock_timeout_is_unavailable(ledger: Ledger) -> None:
    owner = await new_owner(ledger, gold=10)
    before = await count_rows(ledger.settings)
    attempts = 0
    async with locked(ledger, owner), other_engine(ledger, lock_timeout_seconds=0.05) as engine:

        async def work() -> None:
            nonlocal attempts
            attempts += 1
            async with unit_of_work(engine) as connection:
                await post_batch(connection, [top_up_request(ledger, owner, 5)], ledger.slot)

        with pytest.raises(Unavailable):
            await retrying(work, deadline_seconds=DEADLINE_SECONDS)

    # It has waited already: waiting again would make a queue of those who wait.
    assert attempts == 1
    assert await count_rows(ledger.settings) == before
    assert await balance(ledger, owner) == 10


async def test_statement_timeout_is_unavailable(ledger: Ledger) -> None:
    before = await count_rows(ledger.settings)
    async with other_engine(ledger, statement_timeout_seconds=0.05) as engine:

        async def work() -> None:
            async with unit_of_work(engine) as connection:
                await open_in(connection, ledger, new_owner_id())
                await connection.execute("SELECT pg_sleep(60)")

        with pytest.raises(Unavailable):
            await retrying(work, deadline_seconds=DEADLINE_SECONDS)

    assert await count_rows(ledger.settings) == before


async def test_idle_in_transaction_is_ended_and_run_again(ledger: Ledger) -> None:
    before = await count_rows(ledger.settings)
    attempts = 0
    async with other_engine(ledger, idle_in_transaction_timeout_seconds=0.5) as engine:

        async def work() -> None:
            nonlocal attempts
            attempts += 1
            async with unit_of_work(engine) as connection:
                await open_in(connection, ledger, new_owner_id())
                if attempts == 1:
                    ended = asyncio.Event()
                    connection.add_termination_listener(lambda _: ended.set())
                    await ended.wait()
                await connection.execute("SELECT 1")

        await retrying(work, deadline_seconds=DEADLINE_SECONDS)

    assert attempts == 2
    assert await count_rows(ledger.settings) == before._replace(wallets=before.wallets + 1)


@pytest.mark.parametrize("when", ["before a statement", "at COMMIT"])
async def test_connection_lost_before_commit_is_replaced(ledger: Ledger, when: str) -> None:
    owner = await new_owner(ledger, gold=10)
    before = await count_rows(ledger.settings)
    request = top_up_request(ledger, owner, 5)
    attempts = 0

    async def work() -> object:
        nonlocal attempts
        attempts += 1
        async with unit_of_work(ledger.engine) as connection:
            (outcome,) = await post_batch(connection, [request], ledger.slot)
            if attempts == 1:
                await end(ledger, connection)
                if when == "before a statement":
                    await connection.execute("SELECT 1")
        return outcome

    outcome = await retrying(work, deadline_seconds=DEADLINE_SECONDS)

    assert attempts == 2
    assert isinstance(outcome, Posted)
    assert not outcome.already_processed
    assert await balance(ledger, owner) == 15
    assert await count_rows(ledger.settings) == before._replace(
        transactions=before.transactions + 1, entries=before.entries + 2, keys=before.keys + 1
    )


async def test_commit_whose_answer_was_lost_is_recognised(ledger: Ledger) -> None:
    owner = await new_owner(ledger, gold=10)
    request = top_up_request(ledger, owner, 5)
    outcomes: list[object] = []

    async def work() -> object:
        async with unit_of_work(ledger.engine) as connection:
            outcomes.extend(await post_batch(connection, [request], ledger.slot))
        if len(outcomes) == 1:
            raise CommitInDoubt
        return outcomes[-1]

    await retrying(work, deadline_seconds=DEADLINE_SECONDS)

    # To its caller it is the first answer, not a replay.
    assert len(outcomes) == 2
    assert outcomes[0] == outcomes[1]
    assert await balance(ledger, owner) == 15


@pytest.mark.parametrize(
    "then",
    [
        ConnectionRefusedError(),
        TimeoutError(),
        CommitInDoubt(),
        asyncpg.LockNotAvailableError("planted"),
        asyncpg.CheckViolationError("planted"),
        LookupError("planted"),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_commit_that_stays_in_doubt_is_outcome_unknown(then: Exception, pauses: list[float]) -> None:
    attempts = 0

    async def work() -> None:
        nonlocal attempts
        attempts += 1
        raise CommitInDoubt if attempts == 1 else then

    with pytest.raises(OutcomeUnknown):
        await retrying(work, deadline_seconds=DEADLINE_SECONDS)

    assert len(pauses) == attempts - 1


async def test_connection_lost_at_commit_says_so(ledger: Ledger) -> None:
    before = await count_rows(ledger.settings)

    async def work() -> None:
        async with unit_of_work(ledger.engine) as connection:
            await open_in(connection, ledger, new_owner_id())
            await end(ledger, connection)

    with pytest.raises(CommitInDoubt):
        await work()

    assert await count_rows(ledger.settings) == before


async def test_database_away_is_unavailable(ledger: Ledger, pauses: list[float]) -> None:
    attempts = 0
    async with engine_to_nowhere(ledger) as engine:

        async def work() -> None:
            nonlocal attempts
            attempts += 1
            async with unit_of_work(engine):
                raise AssertionError("there is no database")

        with pytest.raises(Unavailable):
            await retrying(work, deadline_seconds=DEADLINE_SECONDS)

    assert attempts == ATTEMPTS_MAX
    assert len(pauses) == ATTEMPTS_MAX - 1


async def test_no_connection_free_is_unavailable(ledger: Ledger) -> None:
    async with other_engine(ledger, pool_size=1, connect_timeout_seconds=1) as engine, connect(engine) as taken:

        async def work() -> None:
            async with unit_of_work(engine):
                raise AssertionError("there is no connection")

        with pytest.raises(Unavailable):
            await retrying(work, deadline_seconds=DEADLINE_SECONDS, attempts_max=1)

        assert await taken.fetchval("SELECT 1") == 1


async def test_connection_that_was_ended_in_the_pool_is_replaced(ledger: Ledger) -> None:
    async with other_engine(ledger) as engine:
        async with connect(engine) as connection:
            pid = connection.get_server_pid()
        async with connect(ledger.engine) as other:
            assert await other.fetchval("SELECT pg_terminate_backend($1, 10000)", pid)

        async def work() -> int:
            async with unit_of_work(engine) as connection:
                found: int = connection.get_server_pid()
                await connection.execute("SELECT 1")
                return found

        assert await retrying(work, deadline_seconds=DEADLINE_SECONDS) != pid
