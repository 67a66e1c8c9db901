"""What became of a request by its key: under the wallet's lock, and at nobody else's cost."""

import asyncio
from contextlib import AsyncExitStack
from dataclasses import replace
from uuid import UUID, uuid4

import asyncpg
import pytest
from batches import (
    PATIENCE_SECONDS,
    ask,
    connected,
    held,
    new_owner_in,
    results,
    send,
    sessions,
    terminate,
    until,
    waiting_for_locks,
    wallet,
)
from direct import KeyRow, Rows, account_of, insert_rows
from factories import balance, new_owner, new_owner_id, post
from proxy import COMMIT, Fate, open_through_proxy

from wallet_gql.domain.errors import Unavailable
from wallet_gql.domain.money import BALANCE_MINOR_MAX, POSTING_MINOR_MAX
from wallet_gql.domain.postings import KeyOutcome, Posted, Refused
from wallet_gql.domain.refusals import OutcomeCode
from wallet_gql.domain.shards import shard_of
from wallet_gql.domain.wallets import OwnerName
from wallet_gql.ledger.posting import post_batch
from wallet_gql.operations.opening import Ledger, open_ledger
from wallet_gql.operations.outcomes import SLICES_UNDER_WAY_MAX, Outcomes
from wallet_gql.settings import Settings

UNDECIDED = KeyOutcome(None)


async def find(ledger: Ledger, owner: str, key: UUID) -> KeyOutcome | None:
    return await ledger.outcomes.find(OwnerName(shard_of(owner, ledger.shard_count), owner), key)


def asked(ledger: Ledger, owner: str, key: UUID) -> asyncio.Task[KeyOutcome | None]:
    return asyncio.create_task(find(ledger, owner, key))


async def test_posted_key_tells_its_transaction(ledger: Ledger) -> None:
    owner, key = await new_owner(ledger), uuid4()
    for verb, amount in (("top_up", 9), ("bonus", 2), ("spend", 3)):
        posted = await post(ledger, verb, owner, amount, key)
        assert isinstance(posted, Posted)
        assert await find(ledger, owner, key) == KeyOutcome(OutcomeCode.POSTED, posted.transaction)
        key = uuid4()


async def test_refused_key_tells_the_refusal_as_it_was_told_first(ledger: Ledger) -> None:
    owner, short, full = await new_owner(ledger, gold=5), uuid4(), uuid4()
    refused = await post(ledger, "spend", owner, 6, short)
    assert isinstance(refused, Refused)
    for _ in range(BALANCE_MINOR_MAX // POSTING_MINOR_MAX - 1):
        await post(ledger, "bonus", owner, POSTING_MINOR_MAX)
    over = await post(ledger, "bonus", owner, POSTING_MINOR_MAX, full)
    assert isinstance(over, Refused)

    now = over.balance
    told = replace(refused, balance=now, already_processed=True)
    assert await find(ledger, owner, short) == KeyOutcome(OutcomeCode.INSUFFICIENT_BALANCE, refused=told)
    told = replace(over, already_processed=True)
    assert await find(ledger, owner, full) == KeyOutcome(OutcomeCode.BALANCE_LIMIT_EXCEEDED, refused=told)


async def test_refusal_in_an_asset_that_was_never_used_is_told(ledger: Ledger) -> None:
    owner, key = await new_owner(ledger), uuid4()
    refused = await post(ledger, "spend", owner, "0.5", key, asset_code="POINTS")
    assert isinstance(refused, Refused)

    told = replace(refused, already_processed=True)
    assert await find(ledger, owner, key) == KeyOutcome(OutcomeCode.INSUFFICIENT_BALANCE, refused=told)


async def test_refusal_of_the_first_version_is_told_without_its_figures(
    ledger: Ledger, server_connection: asyncpg.Connection
) -> None:
    owner, key = await new_owner(ledger, gold=5), uuid4()
    account = await account_of(server_connection, shard_of(owner, ledger.shard_count), owner)
    old = KeyRow(account.shard, account.wallet_id, key, b"x" * 16, 3, uuid4(), '{"balance_before_minor": 5}')
    await insert_rows(server_connection, Rows(keys=[old]))

    assert await find(ledger, owner, key) == KeyOutcome(OutcomeCode.INSUFFICIENT_BALANCE)


async def test_what_is_not_kept_is_undecided(ledger: Ledger) -> None:
    owner, key = await new_owner(ledger, gold=5), uuid4()
    assert await find(ledger, owner, key) == UNDECIDED
    await post(ledger, "top_up", owner, "0.5", key)
    await post(ledger, "top_up", owner, 1, key, asset_code="SILVER")
    assert await find(ledger, owner, key) == UNDECIDED
    # A key belongs to a wallet.
    await post(ledger, "top_up", owner, 1, key)
    assert await find(ledger, await new_owner(ledger), key) == UNDECIDED
    assert await find(ledger, new_owner_id(), key) is None


async def test_free_wallets_share_a_unit_of_work(ledger: Ledger) -> None:
    owners = [await new_owner(ledger) for _ in range(10)]
    keys = {owner: (uuid4(), uuid4(), uuid4()) for owner in owners}
    for owner, (done, refused, _) in keys.items():
        await post(ledger, "top_up", owner, 1, done)
        await post(ledger, "spend", owner, 2, refused)
    pairs = [(owner, key) for owner in owners for key in keys[owner]]
    statements: list[str] = []
    async with ledger.engine.connect() as pooled:
        driver = (await pooled.get_raw_connection()).driver_connection
        assert driver is not None
        # The pool lends the connection that came back last.
        with_logger = driver.query_logger(lambda record: statements.append(record.query))
    with with_logger:
        outcomes = await asyncio.gather(*(find(ledger, owner, key) for owner, key in pairs))
        await asyncio.sleep(0.1)

    codes = [outcome.code for outcome in outcomes if outcome is not None]
    assert codes == [OutcomeCode.POSTED, OutcomeCode.INSUFFICIENT_BALANCE, None] * 10
    named = [each for each in statements if "pg_catalog" not in each]
    assert len(named) == 6, named
    assert named[0].startswith("BEGIN")
    assert named[-1].startswith("ROLLBACK")


@pytest.mark.parametrize("elsewhere", [False, True], ids=["this worker", "another worker"])
async def test_posting_whose_commit_is_under_way_is_waited_for(settings: Settings, elsewhere: bool) -> None:
    async with open_through_proxy(settings) as (service, proxy), open_ledger(settings) as other:
        owner = await new_owner(service, gold=5)
        proxy.on(COMMIT, Fate.HELD, times=1000)
        request = ask(service, owner, 7)
        posting = await send(service.commits, request)
        await until(lambda: proxy.count == 1)

        outcome = asked(other if elsewhere else service, owner, request.idempotency_key)
        # The lock is asked for again and again, and never is the key told to be unknown.
        await waiting_for_locks(service, 1)
        for _ in range(3):
            await asyncio.sleep(0.3)
            assert not outcome.done()
        proxy.release()

        async with asyncio.timeout(PATIENCE_SECONDS):
            found = await outcome
            [posted] = await results(posting)
        assert isinstance(posted, Posted)
        assert found == KeyOutcome(OutcomeCode.POSTED, posted.transaction)


async def test_posting_whose_session_ends_before_commit_is_undecided_until_it_is_sent_again(ledger: Ledger) -> None:
    owner = await new_owner(ledger, gold=5)
    request = ask(ledger, owner, 7)
    async with connected(ledger.settings) as session:
        await session.execute("BEGIN")
        assert isinstance((await post_batch(session, [request], ledger.slot))[0], Posted)
        outcome = asked(ledger, owner, request.idempotency_key)
        await waiting_for_locks(ledger, 1)
        await terminate(ledger.settings, [session.get_server_pid()])
        assert await outcome == UNDECIDED

    [posted] = await results(await send(ledger.commits, request))
    assert isinstance(posted, Posted)
    assert await find(ledger, owner, request.idempotency_key) == KeyOutcome(OutcomeCode.POSTED, posted.transaction)
    assert await balance(ledger, owner) == 12


async def test_answer_that_was_lost_after_commit_is_found(settings: Settings) -> None:
    async with open_through_proxy(settings) as (service, proxy), open_ledger(settings) as other:
        owner = await new_owner(service)
        request = ask(service, owner, 7)
        proxy.on(COMMIT, Fate.UNANSWERED)
        posting = await send(service.commits, request)
        await until(lambda: proxy.count == 1)

        outcome = await asked(other, owner, request.idempotency_key)
        assert outcome is not None
        assert outcome.code is OutcomeCode.POSTED
        await results(posting)


async def test_wallet_that_stays_locked_is_unavailable_at_the_deadline(settings: Settings) -> None:
    async with open_ledger(settings.model_copy(update={"request_deadline_seconds": 2.0})) as short:
        owner = await new_owner(short)
        async with held(settings, wallet(short, owner)):
            answers = await asyncio.gather(*(find(short, owner, uuid4()) for _ in range(20)), return_exceptions=True)
    assert [type(answer) for answer in answers] == [Unavailable] * 20
    async with open_ledger(settings) as ledger:
        assert await find(ledger, owner, uuid4()) == UNDECIDED


async def test_wallets_that_stay_locked_keep_nobody_else_waiting(settings: Settings) -> None:
    patient = settings.model_copy(update={"request_deadline_seconds": float(PATIENCE_SECONDS)})
    async with open_ledger(patient) as ledger, AsyncExitStack() as stack:
        stuck = [await new_owner_in(ledger, n % 4) for n in range(2 * SLICES_UNDER_WAY_MAX + 1)]
        free, busy, key = await new_owner(ledger), await new_owner(ledger), uuid4()
        for owner in (free, busy):
            await post(ledger, "top_up", owner, 1, key)
        await stack.enter_async_context(held(settings, *(wallet(ledger, owner) for owner in stuck)))
        busy_lock = AsyncExitStack()
        await busy_lock.enter_async_context(held(settings, wallet(ledger, busy)))
        waiting = [asked(ledger, owner, uuid4()) for owner in stuck for _ in range(20)]
        await waiting_for_locks(ledger, SLICES_UNDER_WAY_MAX)

        later = asked(ledger, busy, key)
        for _ in range(5):
            found = await find(ledger, free, key)
            assert found is not None
            assert found.code is OutcomeCode.POSTED
        assert not any(task.done() for task in (*waiting, later))
        # However many ask, and for however many wallets: so many connections wait for locks.
        await waiting_for_locks(ledger, SLICES_UNDER_WAY_MAX)
        await busy_lock.aclose()
        found = await later
        assert found is not None
        assert found.code is OutcomeCode.POSTED
        assert not any(task.done() for task in waiting)

        await stack.aclose()
        assert await asyncio.gather(*waiting) == [UNDECIDED] * len(waiting)


async def test_wallet_that_two_workers_post_to_without_a_pause_is_still_told(settings: Settings) -> None:
    async with open_ledger(settings) as ledger, open_ledger(settings) as other:
        owner, key = await new_owner(ledger, gold=1), uuid4()
        await post(ledger, "top_up", owner, 1, key)
        is_over = False

        async def hammer(worker: Ledger) -> None:
            while not is_over:
                await post(worker, "top_up", owner, 1)

        hammers = [asyncio.create_task(hammer(worker)) for worker in (ledger, other) for _ in range(20)]
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                for _ in range(10):
                    found = await find(ledger, owner, key)
                    assert found is not None
                    assert found.code is OutcomeCode.POSTED
        finally:
            is_over = True
            await asyncio.gather(*hammers)


async def test_caller_that_goes_away_is_waited_for_no_longer(ledger: Ledger) -> None:
    owner = await new_owner(ledger)
    async with held(ledger.settings, wallet(ledger, owner)):
        gone, stays = asked(ledger, owner, uuid4()), asked(ledger, owner, uuid4())
        await waiting_for_locks(ledger, 1)
        gone.cancel()
        await asyncio.sleep(0.5)
        assert not stays.done()
    assert await stays == UNDECIDED
    assert gone.cancelled()
    await until(lambda: not ledger.outcomes._waiting)
    assert ledger.outcomes._tasks == set()


async def test_silent_database_is_unavailable(settings: Settings) -> None:
    short = settings.model_copy(update={"request_deadline_seconds": 4.0})
    async with open_through_proxy(short) as (service, proxy):
        owner, locked = await new_owner(service), await new_owner(service)
        async with held(settings, wallet(service, locked)):
            waiting = asked(service, locked, uuid4())
            await waiting_for_locks(service, 1)
            proxy.stall()
            async with asyncio.timeout(PATIENCE_SECONDS):
                answers = await asyncio.gather(waiting, asked(service, owner, uuid4()), return_exceptions=True)
            assert [type(answer) for answer in answers] == [Unavailable] * 2
            proxy.flow()
        async with asyncio.timeout(PATIENCE_SECONDS):
            assert await find(service, owner, uuid4()) == UNDECIDED


async def test_who_waits_for_a_locked_wallet_is_told_when_the_service_stops(settings: Settings) -> None:
    async with AsyncExitStack() as stack:
        ledger = await stack.enter_async_context(open_ledger(settings))
        owner = await new_owner(ledger)
        async with held(settings, wallet(ledger, owner)):
            waiting = [asked(ledger, owner, uuid4()) for _ in range(3)]
            await waiting_for_locks(ledger, 1)
            await stack.aclose()
            assert ledger.outcomes._tasks == set()
            answers = await asyncio.gather(*waiting, return_exceptions=True)
            assert [type(answer) for answer in answers] == [Unavailable] * 3


async def test_nothing_is_left_of_asking(ledger: Ledger) -> None:
    owner = await new_owner(ledger)
    outcomes = Outcomes(ledger.engine, 5)
    name = OwnerName(shard_of(owner, ledger.shard_count), owner)
    await asyncio.gather(*(outcomes.find(name, uuid4()) for _ in range(50)))
    await sessions(ledger.settings, "a.xact_start IS NOT NULL AND a.pid <> pg_backend_pid()", 0)
    async with held(ledger.settings, wallet(ledger, owner)):
        pass
