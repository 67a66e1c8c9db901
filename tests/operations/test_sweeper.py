"""What ended is booked by the sweeper; the test clock moves time for everything at once."""

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import datetime
from decimal import Decimal
from uuid import uuid4

import pytest
from batches import connected, held, wallet
from factories import new_owner, post

from wallet_gql.db import migrations
from wallet_gql.domain.errors import BadUserInput
from wallet_gql.domain.holds import Hold, HoldState
from wallet_gql.domain.postings import Held, Posted, Refused
from wallet_gql.domain.refusals import HoldNotOpen
from wallet_gql.ledger.sweeping import read_places
from wallet_gql.operations.assets import add_asset
from wallet_gql.operations.clock import advance_clock
from wallet_gql.operations.holds import ChangeHoldInput, PlaceHoldInput, capture_hold, find_hold, place_hold
from wallet_gql.operations.opening import Ledger, ModeDiffers, open_ledger
from wallet_gql.operations.proof import prove
from wallet_gql.operations.sweeper import keep_sweeping, sweep
from wallet_gql.settings import Settings

DAY = 86_400


@pytest.fixture
def clocked(new_database: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A database in test mode."""
    monkeypatch.setenv("WALLET_MODE", "test")
    settings = new_database("clock", template="template0")
    migrations.upgrade(settings.owner_url(), settings.server_role(), "head")
    return settings.model_copy(update={"mode": "test"})


@pytest.fixture
async def ledger_of_tests(clocked: Settings) -> AsyncIterator[Ledger]:
    async with open_ledger(clocked) as ledger:
        await add_asset(ledger, "GOLD", "Gold Coins", 0)
        yield ledger
        assert (await prove(clocked)).findings == []


async def place(ledger: Ledger, owner: str, amount: int = 10, ttl_seconds: int = DAY) -> Hold:
    outcome = await place_hold(ledger, PlaceHoldInput(owner, "GOLD", Decimal(amount), uuid4(), ttl_seconds))
    assert isinstance(outcome, Held)
    return outcome.hold


async def places(ledger: Ledger) -> dict[int, datetime]:
    async with connected(ledger.settings) as connection:
        return dict(await read_places(connection, ledger.shard_count))


async def booked(ledger: Ledger) -> int:
    async with connected(ledger.settings) as connection:
        count: int = await connection.fetchval("SELECT count(*) FROM hold_step WHERE kind = 55")
        return count


async def test_what_ended_is_booked_once(ledger_of_tests: Ledger) -> None:
    ledger = ledger_of_tests
    owners = [await new_owner(ledger, gold=100) for _ in range(8)]
    holds = [await place(ledger, owner) for owner in owners for _ in range(3)]
    late = await place(ledger, owners[0], ttl_seconds=3 * DAY)
    until = await places(ledger)
    assert await sweep(ledger.engine, until) == 0
    await advance_clock(ledger, DAY + 1)
    assert await sweep(ledger.engine, until) == len(holds)
    assert await sweep(ledger.engine, until) == 0
    assert await booked(ledger) == len(holds)
    found = [await find_hold(ledger, hold.name) for hold in [*holds, late]]
    assert [hold.state for hold in found if hold] == [HoldState.EXPIRED] * len(holds) + [HoldState.OPEN]


async def test_what_a_posting_booked_is_left_alone(ledger_of_tests: Ledger) -> None:
    ledger = ledger_of_tests
    owner = await new_owner(ledger, gold=100)
    hold = await place(ledger, owner, 60)
    until = await places(ledger)
    await advance_clock(ledger, DAY + 1)
    late = await capture_hold(ledger, ChangeHoldInput(hold.name, "", uuid4()))
    assert isinstance(late, Refused)
    assert late.facts == HoldNotOpen(hold.asset, hold.id, HoldState.EXPIRED)
    assert isinstance(await post(ledger, "spend", owner, 100), Posted)
    assert await sweep(ledger.engine, until) == 0
    assert await booked(ledger) == 1


async def test_a_locked_wallet_is_swept_later_and_keeps_nobody(ledger_of_tests: Ledger) -> None:
    ledger = ledger_of_tests
    owners = [await new_owner(ledger, gold=100) for _ in range(4)]
    for owner in owners:
        await place(ledger, owner)
    until = await places(ledger)
    await advance_clock(ledger, DAY + 1)
    async with held(ledger.settings, wallet(ledger, owners[0])):
        assert await sweep(ledger.engine, until) == 3
    assert await sweep(ledger.engine, until) == 1


async def test_sweepers_of_two_workers_share_the_work(ledger_of_tests: Ledger) -> None:
    ledger = ledger_of_tests
    for _ in range(10):
        await place(ledger, await new_owner(ledger, gold=100))
    await advance_clock(ledger, DAY + 1)
    tasks = [asyncio.create_task(keep_sweeping(ledger.engine, ledger.shard_count, 0.01)) for _ in range(2)]
    async with asyncio.timeout(30):
        while await booked(ledger) < 10:  # noqa: ASYNC110 - what is awaited is in the database
            await asyncio.sleep(0.01)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    assert await booked(ledger) == 10


async def test_the_clock_only_goes_forward_and_only_in_test_mode(ledger_of_tests: Ledger, ledger: Ledger) -> None:
    first = await advance_clock(ledger_of_tests, 60)
    second = await advance_clock(ledger_of_tests, 60)
    assert first is not None
    assert second is not None
    assert (second - first).total_seconds() >= 60
    for seconds in (0, -1):
        with pytest.raises(BadUserInput):
            await advance_clock(ledger_of_tests, seconds)
    assert await advance_clock(ledger, 60) is None


async def test_a_mode_that_differs_is_refused(clocked: Settings, settings: Settings) -> None:
    for other in (clocked.model_copy(update={"mode": "live"}), settings.model_copy(update={"mode": "test"})):
        with pytest.raises(ModeDiffers, match="mode, which never changes"):
            async with open_ledger(other):
                pass
