"""Batches of postings as tests send them: requests, what holds them up, and what came of them."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, Final, TypeVar
from uuid import uuid4

import asyncpg
from conftest import plain
from factories import TEST_SHARD_COUNT, new_owner, new_owner_id
from tables import Rows
from uuid_utils.compat import uuid7

from wallet_gql.domain.postings import (
    Outcome,
    Posted,
    PostingRequest,
    Refused,
    Request,
    TransactionType,
    TransferRequest,
)
from wallet_gql.domain.refusals import BalanceLimitExceeded, InsufficientBalance, OutcomeCode, facts_of
from wallet_gql.domain.shards import shard_of
from wallet_gql.domain.wallets import Balance, OwnerName, WalletKind, WalletName
from wallet_gql.ledger.locks import lock_wallets
from wallet_gql.operations.group_commit import GroupCommit
from wallet_gql.operations.opening import Ledger
from wallet_gql.settings import Settings

RequestType = TypeVar("RequestType", bound=Request)

# Much more than any of this takes: the machine may be busy.
PATIENCE_SECONDS: Final = 60

# Where a deadline must pass, it does so this soon; the margin keeps what happens before it apart from the deadline.
DEADLINE_SECONDS: Final = 4.0
LONG_MARGIN_SECONDS: Final = 1.0


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


def transfer_request(ledger: Ledger, sender: str, receiver: str, amount: int = 1, **more: Any) -> TransferRequest:
    return TransferRequest(
        OwnerName(shard_of(sender, ledger.shard_count), sender),
        OwnerName(shard_of(receiver, ledger.shard_count), receiver),
        more.pop("asset", ledger.assets["GOLD"]),
        amount,
        more.pop("idempotency_key", uuid4()),
        **more,
    )


def again(request: RequestType) -> RequestType:
    """Return what arrives when a caller asks again with the same key."""
    return replace(request, transaction_id=uuid7())


async def turns() -> None:
    """Let whatever can go on without the database, go on."""
    for _ in range(10):
        await asyncio.sleep(0)


async def send(commits: GroupCommit, *requests: Request) -> list[asyncio.Task[Outcome]]:
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
async def keys_held(settings: Settings, *requests: PostingRequest) -> AsyncIterator[None]:
    """Keep the batch with these requests in the database while the block lasts: another session writes their keys."""
    async with connected(settings) as connection:
        transaction = connection.transaction()
        await transaction.start()
        for request in requests:
            await connection.execute(
                "INSERT INTO idempotency_key (shard, wallet_id, key, fingerprint, outcome, transaction_id, details)"
                " SELECT shard, id, $3, $4, 2, $5, '{}' FROM wallet WHERE (shard, kind, owner_id) = ($1, 1, $2)",
                request.shard, request.owner_id, request.idempotency_key, request.fingerprint, request.transaction_id,
            )  # fmt: skip
        yield
        await transaction.rollback()


@asynccontextmanager
async def lane_held_up(ledger: Ledger, shard: int = 0, commits: GroupCommit | None = None) -> AsyncIterator[None]:
    """Keep a batch of one in the database while the block lasts: what the lane gets meanwhile has to queue."""
    commits = commits or ledger.commits
    request = ask(ledger, await new_owner_in(ledger, shard))
    async with keys_held(ledger.settings, request):
        first = await send(commits, request)
        await waiting_for_locks(ledger, 1)
        yield
    await posted(first)


async def sessions(settings: Settings, condition: str, count: int | None) -> list[int]:
    """Wait until so many of the service's sessions on this database are in a state; returns their process ids.

    None does not wait.
    """
    async with connected(settings) as connection, asyncio.timeout(PATIENCE_SECONDS):
        while True:
            rows = await connection.fetch(
                "SELECT pid FROM pg_stat_activity a"
                f" WHERE datname = current_database() AND application_name = 'wallet-gql' AND {condition}"
            )
            if count is None or len(rows) == count:
                return [row[0] for row in rows]
            await asyncio.sleep(0.005)


async def waiting_for_locks(ledger: Ledger, count: int | None) -> list[int]:
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


def refused_on(
    code: OutcomeCode, balance_before_minor: int, amount_minor: int, balance: Balance, *, already_processed: bool
) -> Refused:
    """Return the refusal of an amount, on a balance that may be another now."""
    details = {"balance_before_minor": balance_before_minor, "amount_minor": amount_minor}
    return Refused(facts_of(code, details, balance.asset), balance, already_processed)


def on_balance(outcome: object) -> BalanceLimitExceeded | InsufficientBalance:
    """Return the facts of a refusal, which must be about a balance."""
    assert isinstance(outcome, Refused)
    assert isinstance(outcome.facts, BalanceLimitExceeded | InsufficientBalance)
    return outcome.facts


def seqs(outcomes: Iterable[Posted]) -> list[int]:
    return [outcome.transaction.seq for outcome in outcomes]
