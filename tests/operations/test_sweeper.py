"""What ended is booked by the sweeper; the test clock moves time for everything at once."""

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import datetime, timedelta
from decimal import Decimal
from functools import partial
from uuid import uuid4

import pytest
from batches import connected, held, wallet
from factories import new_owner, post

from wallet_gql.db import migrations
from wallet_gql.domain.errors import BadUserInput
from wallet_gql.domain.holds import Hold, HoldState
from wallet_gql.domain.postings import Changed, Held, Posted, Refused, Remainder, Shortfall, TransactionView
from wallet_gql.domain.refusals import HoldNotOpen
from wallet_gql.domain.shards import shard_of
from wallet_gql.domain.wallets import OwnerName, WalletStatus
from wallet_gql.ledger.reads import EntryName
from wallet_gql.ledger.sweeping import read_places
from wallet_gql.operations import opening
from wallet_gql.operations.assets import add_asset
from wallet_gql.operations.clock import advance_clock
from wallet_gql.operations.holds import ChangeHoldInput, PlaceHoldInput, capture_hold, find_hold, place_hold
from wallet_gql.operations.opening import Ledger, ModeDiffers, open_ledger
from wallet_gql.operations.proof import prove
from wallet_gql.operations.reversals import ReverseInput, clawback
from wallet_gql.operations.states import StateInput, close, freeze, reopen, unfreeze
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


async def test_an_open_ledger_sweeps_by_itself(ledger_of_tests: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    await place(ledger_of_tests, await new_owner(ledger_of_tests, gold=100))
    await advance_clock(ledger_of_tests, DAY + 1)
    monkeypatch.setattr(opening, "keep_sweeping", partial(keep_sweeping, pause_seconds=0.01))
    async with open_ledger(ledger_of_tests.settings) as other, asyncio.timeout(30):
        while not await booked(other):  # noqa: ASYNC110 - what is awaited is in the database
            await asyncio.sleep(0.01)


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


async def in_debt(ledger: Ledger, ttl_seconds: int) -> tuple[str, TransactionView]:
    """Return an owner who owes 60, for 60 are held, and what was taken back."""
    owner = await new_owner(ledger)
    credit = await post(ledger, "top_up", owner, 100)
    assert isinstance(credit, Posted)
    await place(ledger, owner, 60, ttl_seconds)
    await clawback(ledger, owing(credit.transaction))
    assert await numbers(ledger, owner) == (60, 60, 60)
    return owner, credit.transaction


def owing(view: TransactionView) -> ReverseInput:
    name = EntryName(view.shard, view.account_id, view.seq)
    return ReverseInput(name, "", uuid4(), None, Shortfall.DEBT, "Why")


async def numbers(ledger: Ledger, owner: str) -> tuple[int, int, int]:
    """Return what an owner has, what of it is held, and what is owed."""
    name = OwnerName(shard_of(owner, ledger.shard_count), owner)
    found = await ledger.reads.owners_balances.load((name, ledger.assets["GOLD"]))
    assert found is not None
    return found.amount_minor, found.held_minor, found.debt_minor


async def test_what_ended_repays_when_it_is_booked(ledger_of_tests: Ledger) -> None:
    ledger = ledger_of_tests
    owner, _ = await in_debt(ledger, DAY)
    await advance_clock(ledger, DAY + 1)
    assert await sweep(ledger.engine, await places(ledger)) == 1
    assert await numbers(ledger, owner) == (0, 0, 0)


async def test_what_ended_and_is_not_booked_is_taken_back(ledger_of_tests: Ledger) -> None:
    ledger = ledger_of_tests
    owner = await new_owner(ledger)
    credit = await post(ledger, "top_up", owner, 100)
    assert isinstance(credit, Posted)
    await place(ledger, owner, 60)
    await place(ledger, owner, 30, 3 * DAY)
    await advance_clock(ledger, DAY + 1)
    taken = await clawback(ledger, owing(credit.transaction))
    assert isinstance(taken, Posted)
    assert taken.transaction.amount_minor == -70
    assert await numbers(ledger, owner) == (30, 30, 30)
    await advance_clock(ledger, 2 * DAY)
    # A spend books what ended, which is owed.
    assert isinstance(await post(ledger, "spend", owner, 1), Refused)
    assert await numbers(ledger, owner) == (0, 0, 0)


async def test_a_closing_books_what_ended(ledger_of_tests: Ledger) -> None:
    ledger = ledger_of_tests
    owner, _ = await in_debt(ledger, DAY)
    await advance_clock(ledger, DAY + 1)
    assert isinstance(
        await close(ledger, StateInput(owner, uuid4(), "x"), Remainder.REFUSE, None, voids_holds=False), Changed
    )
    assert await sweep(ledger.engine, await places(ledger)) == 0
    assert await numbers(ledger, owner) == (0, 0, 0)


async def test_a_freeze_ends_by_the_clock(ledger_of_tests: Ledger) -> None:
    ledger = ledger_of_tests
    owner = await new_owner(ledger, gold=10)
    async with connected(ledger.settings) as connection:
        now = await connection.fetchval("SELECT wallet_now()")
    until = now + timedelta(hours=1)
    await freeze(ledger, StateInput(owner, uuid4(), "x"), WalletStatus.FROZEN_OUT, until)
    assert isinstance(await post(ledger, "spend", owner, 1), Refused)
    await advance_clock(ledger, 3601)
    assert isinstance(await post(ledger, "spend", owner, 1), Posted)
    # What comes after it begins where it ended.
    outcome = await unfreeze(ledger, StateInput(owner, uuid4()))
    assert isinstance(outcome, Changed)
    assert outcome.state is not None
    assert (outcome.state.status, outcome.state.since) == (WalletStatus.OPEN, until)


async def test_a_ledger_without_assets(clocked: Settings) -> None:
    async with open_ledger(clocked) as ledger:
        owner, other = [await new_owner(ledger) for _ in range(2)]
        for n, change in enumerate((freeze_, close_, freeze_, reopen, unfreeze)):
            asked = StateInput(owner, uuid4(), "x")
            for _ in range(2):
                outcome = await change(ledger, asked)
                assert isinstance(outcome, Refused if n == 2 else Changed)
        given = await close(ledger, StateInput(owner, uuid4(), "x"), Remainder.TRANSFER, other, voids_holds=True)
        assert isinstance(given, Changed)
    assert (await prove(clocked)).findings == []


async def freeze_(ledger: Ledger, asked: StateInput) -> object:
    return await freeze(ledger, asked, WalletStatus.FROZEN_ALL, None)


async def close_(ledger: Ledger, asked: StateInput) -> object:
    return await close(ledger, asked, Remainder.REFUSE, None, voids_holds=False)
