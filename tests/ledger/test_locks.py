import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from uuid import uuid4

import asyncpg
import pytest
from asyncpg import Connection
from factories import balance, new_owner, new_owner_id
from uuid_utils.compat import uuid7

from wallet_gql.db.engine import connect
from wallet_gql.domain.postings import Posted, PostingRequest, TransactionType, WalletMissing
from wallet_gql.domain.shards import shard_of
from wallet_gql.domain.wallets import WalletKind, WalletName
from wallet_gql.ledger.items import WalletBusy
from wallet_gql.ledger.locks import lock_free_wallets, lock_wallets
from wallet_gql.ledger.posting import Decided, post_batch
from wallet_gql.ledger.treasury import clearing, open_stripes
from wallet_gql.operations.opening import Ledger
from wallet_gql.operations.unit_of_work import unit_of_work


async def new_name(ledger: Ledger, shard: int | None = None) -> WalletName:
    """Open a wallet, in a shard if one is named."""
    owner_id = new_owner_id()
    while shard is not None and shard_of(owner_id, ledger.shard_count) != shard:
        owner_id = new_owner_id()
    await new_owner(ledger, owner_id=owner_id)
    return WalletName(shard_of(owner_id, ledger.shard_count), WalletKind.USER, owner_id)


def stripe(ledger: Ledger, shard: int) -> WalletName:
    return WalletName(shard, WalletKind.TREASURY, str(ledger.slot))


def clearing_stripe(ledger: Ledger, shard: int) -> WalletName:
    return clearing(shard, ledger.slot, 0)


async def is_free(ledger: Ledger, name: WalletName) -> bool:
    """Say whether nobody holds a wallet's lock."""
    async with unit_of_work(ledger.engine) as connection:
        rows = await connection.fetch(
            "SELECT id FROM wallet WHERE (shard, kind, owner_id) = ($1, $2, $3) FOR NO KEY UPDATE SKIP LOCKED", *name
        )
    return len(rows) == 1


async def blocked_by(connection: Connection, waiting: int) -> set[int]:
    """Return the backends that a backend waits for, once it waits."""
    for _ in range(1000):
        if blockers := await connection.fetchval("SELECT pg_blocking_pids($1)", waiting):
            return set(blockers)
        await asyncio.sleep(0.01)
    raise AssertionError("it waits for nobody")


@asynccontextmanager
async def waiting_behind(
    ledger: Ledger,
    held: WalletName,
    names: list[WalletName],
    lock: Callable[[Connection, list[WalletName]], Awaitable[object]] = lock_wallets,
) -> AsyncIterator[None]:
    """Hold one wallet's lock; the block runs while another unit of work that asks for `names` waits for it."""
    asking = asyncio.Event()
    pids = []

    async def ask() -> None:
        async with unit_of_work(ledger.engine) as connection:
            pids.append(connection.get_server_pid())
            asking.set()
            await lock(connection, names)

    async with connect(ledger.engine) as observer, unit_of_work(ledger.engine) as holder:
        await lock_wallets(holder, [held])
        task = asyncio.create_task(ask())
        await asking.wait()
        assert await blocked_by(observer, pids[0]) == {holder.get_server_pid()}
        yield
    await task


@pytest.mark.parametrize("seed", range(5))
async def test_owners_are_locked_first_then_by_shard_then_by_id(ledger: Ledger, seed: int) -> None:
    names = [await new_name(ledger) for _ in range(12)]
    stripes = [each(ledger, shard) for each in (stripe, clearing_stripe) for shard in range(ledger.shard_count)]
    async with unit_of_work(ledger.engine) as connection:
        await open_stripes(connection, stripes)
    names += stripes
    random.Random(seed).shuffle(names)  # noqa: S311 - an order, no secret
    async with unit_of_work(ledger.engine) as connection:
        wallets = await lock_wallets(connection, names)
    assert set(wallets) == set(names)
    order = [(name.kind is not WalletKind.USER, wallet.shard, wallet.id) for name, wallet in wallets.items()]
    assert order == sorted(order)


async def test_the_locks_themselves_are_taken_in_that_order(ledger: Ledger) -> None:
    before = [await new_name(ledger, 0), await new_name(ledger, 0), await new_name(ledger, 1)]
    held = await new_name(ledger, 1)
    after = [await new_name(ledger, 1), await new_name(ledger, 2), stripe(ledger, 0), stripe(ledger, 1)]
    async with waiting_behind(ledger, held, [*after, held, *before]):
        assert [await is_free(ledger, name) for name in before] == [False] * len(before)
        assert [await is_free(ledger, name) for name in after] == [True] * len(after)


async def test_owners_are_locked_before_the_stripe_although_it_is_older(ledger: Ledger) -> None:
    owners = [await new_name(ledger, 3) for _ in range(3)]
    async with waiting_behind(ledger, stripe(ledger, 3), [stripe(ledger, 3), *owners]):
        assert [await is_free(ledger, name) for name in owners] == [False] * 3


async def test_names_that_are_no_wallet_s_are_left_out(ledger: Ledger) -> None:
    known = await new_name(ledger)
    unknown = [
        known._replace(owner_id=new_owner_id()),
        known._replace(shard=known.shard ^ 1),
        known._replace(kind=WalletKind.TREASURY),
        known._replace(owner_id=known.owner_id.upper()),
    ]
    async with unit_of_work(ledger.engine) as connection:
        assert set(await lock_wallets(connection, [*unknown, known])) == {known}
        assert await lock_wallets(connection, unknown) == {}
        assert await lock_wallets(connection, []) == {}
        assert await lock_free_wallets(connection, []) == ({}, set())


async def test_a_name_that_is_asked_twice_is_locked_once(ledger: Ledger) -> None:
    name = await new_name(ledger)
    async with unit_of_work(ledger.engine) as connection:
        assert list(await lock_wallets(connection, [name, name])) == [name]


async def test_a_wallet_is_known_by_what_was_stored(ledger: Ledger) -> None:
    name = await new_name(ledger)
    async with unit_of_work(ledger.engine) as connection:
        wallet = (await lock_wallets(connection, [name]))[name]
        row = await connection.fetchrow(
            "SELECT shard, id, owner_id, opened_at FROM wallet WHERE owner_id = $1", name.owner_id
        )
    assert (wallet.shard, wallet.id, wallet.owner_id, wallet.opened_at) == tuple(row)


async def test_the_second_locker_waits_and_gives_up_at_the_lock_timeout(ledger: Ledger) -> None:
    name = await new_name(ledger)

    async def second() -> None:
        async with unit_of_work(ledger.engine) as connection:
            await connection.execute("SET LOCAL lock_timeout = '50ms'")
            await lock_wallets(connection, [name])

    async with unit_of_work(ledger.engine) as first:
        await lock_wallets(first, [name])
        with pytest.raises(asyncpg.LockNotAvailableError):
            await second()
    await second()


async def test_the_second_locker_reads_what_the_first_committed(ledger: Ledger) -> None:
    name = await new_name(ledger)
    asking = asyncio.Event()
    pids = []
    first = PostingRequest(name.shard, name.owner_id, TransactionType.TOP_UP, ledger.assets["GOLD"], 10, uuid4())
    spend = replace(first, type=TransactionType.SPEND, idempotency_key=uuid4(), transaction_id=uuid7())

    async def second() -> list[Decided]:
        async with unit_of_work(ledger.engine) as connection:
            pids.append(connection.get_server_pid())
            asking.set()
            return await post_batch(connection, [replace(first, transaction_id=uuid7()), spend], ledger.slot)

    async with connect(ledger.engine) as observer:
        async with unit_of_work(ledger.engine) as connection:
            [outcome] = await post_batch(connection, [first], ledger.slot)
            task = asyncio.create_task(second())
            await asking.wait()
            assert await blocked_by(observer, pids[0]) == {connection.get_server_pid()}
        replayed, spent = await task
    assert isinstance(outcome, Posted)
    assert isinstance(replayed, Posted)
    assert isinstance(spent, Posted)
    assert replayed.already_processed
    assert replayed.transaction == outcome.transaction
    assert (spent.balance.seq, spent.balance.amount_minor) == (2, 0)


async def test_of_wallets_that_must_be_free_the_busy_ones_are_told_and_the_others_locked(ledger: Ledger) -> None:
    busy = {await new_name(ledger) for _ in range(3)}
    free = {await new_name(ledger) for _ in range(3)} | {stripe(ledger, 0), stripe(ledger, 1)}
    unknown = WalletName(0, WalletKind.USER, new_owner_id())
    async with unit_of_work(ledger.engine) as first, unit_of_work(ledger.engine) as second:
        await lock_wallets(first, busy)
        wallets, told = await lock_free_wallets(second, {*busy, *free, unknown})
        assert (set(wallets), told) == (free, busy)
        assert {name: (wallet.shard, wallet.owner_id) for name, wallet in wallets.items()} == {
            name: (name.shard, name.owner_id) for name in free
        }
        assert [await is_free(ledger, name) for name in free] == [False] * len(free)
    assert [await is_free(ledger, name) for name in busy | free] == [True] * (len(busy) + len(free))


async def test_a_batch_that_does_not_wait_passes_over_a_shard_whose_stripe_is_locked(ledger: Ledger) -> None:
    names = [await new_name(ledger, shard) for shard in (1, 2, 3)]
    gold = ledger.assets["GOLD"]
    requests = [PostingRequest(name.shard, name.owner_id, TransactionType.TOP_UP, gold, 5, uuid4()) for name in names]
    async with unit_of_work(ledger.engine) as holder, unit_of_work(ledger.engine) as connection:
        await lock_wallets(holder, [stripe(ledger, 2)])
        first, second, third = await post_batch(connection, requests, ledger.slot, wait=False)
    assert second == WalletBusy()
    assert isinstance(first, Posted)
    assert isinstance(third, Posted)
    assert [await balance(ledger, name.owner_id) for name in names] == [5, 0, 5]


async def test_a_batch_that_does_not_wait_posts_what_it_can(ledger: Ledger) -> None:
    busy, free = await new_name(ledger), await new_name(ledger)
    gold = ledger.assets["GOLD"]
    requests = [
        PostingRequest(name.shard, name.owner_id, TransactionType.TOP_UP, gold, 5, uuid4()) for name in (busy, free)
    ]
    missing = replace(requests[0], owner_id=new_owner_id())
    async with unit_of_work(ledger.engine) as holder, unit_of_work(ledger.engine) as connection:
        await lock_wallets(holder, [busy])
        waited, posted, unknown = await post_batch(connection, [*requests, missing], ledger.slot, wait=False)
    assert waited == WalletBusy()
    assert isinstance(posted, Posted)
    assert unknown == WalletMissing(missing.owner_id)
    assert (await balance(ledger, busy.owner_id), await balance(ledger, free.owner_id)) == (0, 5)
    async with unit_of_work(ledger.engine) as connection:
        [again] = await post_batch(connection, requests[:1], ledger.slot, wait=False)
    assert isinstance(again, Posted)
    assert not again.already_processed
