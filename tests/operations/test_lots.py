"""Lots in the books: what a spend reads of them, what a sweeper books, and what a retry finds after they lapsed."""

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import pytest
from batches import connected
from factories import new_owner

from wallet_gql.db import migrations
from wallet_gql.domain.lots import CreditSource
from wallet_gql.domain.postings import Held, Posted, Refused
from wallet_gql.domain.refusals import InsufficientBalance
from wallet_gql.domain.shards import shard_of
from wallet_gql.ledger.breakage import CampaignFlows
from wallet_gql.ledger.lots import FIRST_LOTS
from wallet_gql.ledger.reads import EntryName
from wallet_gql.ledger.sweeping import read_places
from wallet_gql.operations.assets import add_asset, set_asset
from wallet_gql.operations.breakage import report_breakage
from wallet_gql.operations.clock import advance_clock
from wallet_gql.operations.holds import PlaceHoldInput, place_hold
from wallet_gql.operations.lots import check_terms
from wallet_gql.operations.opening import Ledger, open_ledger
from wallet_gql.operations.postings import PostingInput, bonus, spend, top_up
from wallet_gql.operations.proof import prove
from wallet_gql.operations.reversals import ReverseInput, refund
from wallet_gql.operations.sweeper import sweep
from wallet_gql.operations.transfers import TransferInput, transfer
from wallet_gql.settings import Settings

DAY = timedelta(days=1)


@pytest.fixture(scope="module")
def clocked(new_database: Callable[..., Settings]) -> Settings:
    """A database in test mode."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WALLET_MODE", "test")
        settings = new_database("lots", template="template0")
        migrations.upgrade(settings.owner_url(), settings.server_role(), "head")
    return settings.model_copy(update={"mode": "test"})


@pytest.fixture
async def lots(clocked: Settings) -> AsyncIterator[Ledger]:
    """A ledger whose GOLD has lots."""
    async with open_ledger(clocked) as ledger:
        await add_asset(ledger, "GOLD", "Gold Coins", 0)
        await set_asset(ledger, "GOLD", has_lots=True)
        yield ledger
    assert (await prove(clocked)).findings == []


async def give(
    ledger: Ledger, owner: str, amount: int, days: float | None = None, priority: int = 50, campaign: str | None = None
) -> None:
    at = None if days is None else await now(ledger) + days * DAY
    asked = PostingInput(owner, "GOLD", Decimal(amount), uuid4(), terms=check_terms(at, priority, campaign))
    assert isinstance(await bonus(ledger, asked), Posted)


async def now(ledger: Ledger) -> datetime:
    """Return the database's time, which the test clock has moved."""
    return await ledger.reads.clock.load(None)


async def pay(ledger: Ledger, owner: str, amount: int, key: UUID | None = None, **more: Any) -> Posted | Refused:
    outcome = await spend(ledger, PostingInput(owner, "GOLD", Decimal(amount), key or uuid4(), **more))
    assert isinstance(outcome, (Posted, Refused))
    return outcome


async def live(ledger: Ledger, owner: str) -> tuple[list[int], str | None]:
    """Return which lots have something left, and on which day something is due next."""
    async with connected(ledger.settings) as connection:
        row = await connection.fetchrow(
            """
            SELECT listed.live_lots, head.next_due_at
              FROM wallet w JOIN account a ON a.shard = w.shard AND a.wallet_id = w.id
             CROSS JOIN LATERAL (
                   SELECT * FROM entry e WHERE e.shard = a.shard AND e.account_id = a.id
                    ORDER BY seq DESC LIMIT 1) AS head
              JOIN entry listed
                ON listed.shard = a.shard AND listed.account_id = a.id AND listed.seq = head.lots_seq
             WHERE w.shard = $1 AND w.kind = 1 AND w.owner_id = $2
            """,
            shard_of(owner, ledger.shard_count),
            owner,
        )
    assert row is not None
    return row[0], None if row[1] is None else f"{round((row[1] - await now(ledger)) / DAY)}"


async def test_spends_read_the_first_lots_and_no_more_than_they_need(lots: Ledger) -> None:
    owner = await new_owner(lots, gold=0)
    count = FIRST_LOTS + 3
    for day in range(count, 0, -1):
        await give(lots, owner, 10, day)
    in_order = list(range(count, 0, -1))
    await pay(lots, owner, 9)
    assert await live(lots, owner) == (in_order, "1")
    # What empties the first ones, also together with others of the same batch.
    await asyncio.gather(*(pay(lots, owner, 7) for _ in range(2)))
    assert await live(lots, owner) == (in_order[2:], "3")
    # More than the first ones have.
    await pay(lots, owner, 10 * (count - 3))
    assert await live(lots, owner) == (in_order[-1:], f"{count}")
    assert isinstance(await pay(lots, owner, 8), Refused)
    await pay(lots, owner, 7)
    assert await live(lots, owner) == ([], None)


async def test_a_spend_of_all_the_first_lots_finds_what_ends_next(lots: Ledger) -> None:
    owner = await new_owner(lots, gold=0)
    for day in range(1, FIRST_LOTS + 3):
        await give(lots, owner, 10, day)
    await pay(lots, owner, 10 * FIRST_LOTS)
    assert await live(lots, owner) == ([FIRST_LOTS + 1, FIRST_LOTS + 2], f"{FIRST_LOTS + 1}")


async def test_lots_of_other_priorities_may_end_before_those_that_are_read(lots: Ledger) -> None:
    owner = await new_owner(lots, gold=0)
    await give(lots, owner, 5, days=2, priority=0)
    for number in range(FIRST_LOTS):
        await give(lots, owner, 5, priority=1 + number)
    await give(lots, owner, 5, days=4, priority=100)
    # What may be due before is looked for, and found not to be: never too late.
    await pay(lots, owner, 5)
    assert await live(lots, owner) == ([2, 3, 4, 5, 6], "2")
    await advance_clock(lots, 3 * 86_400)
    await pay(lots, owner, 5)
    assert await live(lots, owner) == ([3, 4, 5, 6], "1")
    await advance_clock(lots, 2 * 86_400)
    refused = await pay(lots, owner, 16)
    assert isinstance(refused, Refused)
    assert refused.facts == InsufficientBalance(lots.assets["GOLD"], 15, 16)
    assert await live(lots, owner) == ([3, 4, 5], None)


async def test_a_first_lot_beside_an_open_hold(lots: Ledger) -> None:
    owner = await new_owner(lots, gold=0)
    await top_up(lots, PostingInput(owner, "GOLD", Decimal(10), uuid4()))
    placed = await place_hold(lots, PlaceHoldInput(owner, "GOLD", Decimal(5), uuid4(), 2 * 86_400))
    assert isinstance(placed, Held)
    # The first lot and its end in one batch, where nobody has looked at the hold.
    at = await now(lots) + DAY
    asked = PostingInput(owner, "GOLD", Decimal(7), uuid4(), terms=check_terms(at, 50, None))
    await asyncio.gather(bonus(lots, asked), pay(lots, owner, 7))
    await pay(lots, owner, 1)
    await give(lots, owner, 3)
    await advance_clock(lots, 3 * 86_400)
    assert isinstance(await pay(lots, owner, 7), Posted)
    assert await live(lots, owner) == ([], None)


async def test_a_retry_after_its_lots_lapsed_replays(lots: Ledger) -> None:
    owner, key = await new_owner(lots, gold=0), uuid4()
    await give(lots, owner, 10, days=1)
    first = await pay(lots, owner, 4, key)
    await advance_clock(lots, 2 * 86_400)
    again = await pay(lots, owner, 4, key)
    assert isinstance(first, Posted)
    assert isinstance(again, Posted)
    assert (again.already_processed, again.transaction.id) == (True, first.transaction.id)
    assert again.balance.amount_minor == 0
    refused = await pay(lots, owner, 1)
    assert isinstance(refused, Refused)


async def test_a_bonus_that_is_sent_again_after_its_end_replays(lots: Ledger) -> None:
    owner = await new_owner(lots, gold=0)
    terms = check_terms(await now(lots) + DAY, 50, "a")
    asked = PostingInput(owner, "GOLD", Decimal(3), uuid4(), terms=terms)
    await bonus(lots, asked)
    await advance_clock(lots, 2 * 86_400)
    again = await bonus(lots, asked)
    assert isinstance(again, Posted)
    assert again.already_processed


async def test_what_lapsed_is_swept_once_by_whoever_comes_first(lots: Ledger) -> None:
    async with connected(lots.settings) as connection:
        until = dict(await read_places(connection, lots.shard_count))
        await sweep(lots.engine, until)
        before = await connection.fetchval("SELECT count(*) FROM transaction WHERE type = 11")
    owners = [await new_owner(lots, gold=0) for _ in range(6)]
    for owner in owners:
        for _ in range(3):
            await give(lots, owner, 10, days=1)
        await give(lots, owner, 10, days=3)
    assert await sweep(lots.engine, until) == 0
    await advance_clock(lots, 86_401)
    # A posting books what has lapsed in its own wallet.
    assert isinstance(await pay(lots, owners[0], 10), Posted)
    assert isinstance(await pay(lots, owners[1], 11), Refused)
    counts = await asyncio.gather(*(sweep(lots.engine, dict(until)) for _ in range(2)))
    assert sum(counts) == 3 * 4
    assert await sweep(lots.engine, until) == 0
    async with connected(lots.settings) as connection:
        booked = await connection.fetchval("SELECT count(*) FROM transaction WHERE type = 11")
    assert booked - before == 3 * 6


async def test_sources_choose_where_a_spend_takes_from(lots: Ledger) -> None:
    owner = await new_owner(lots, gold=0)
    await give(lots, owner, 10)
    await top_up(lots, PostingInput(owner, "GOLD", Decimal(5), uuid4()))
    refused = await pay(lots, owner, 6, sources=CreditSource.PURCHASED)
    assert isinstance(refused, Refused)
    assert refused.facts == InsufficientBalance(lots.assets["GOLD"], 5, 6)
    assert isinstance(await pay(lots, owner, 5, sources=CreditSource.PURCHASED), Posted)
    assert isinstance(await pay(lots, owner, 10, sources=CreditSource.BONUS), Posted)


def told(flows: list[CampaignFlows]) -> dict[str | None, dict[str, int]]:
    """Return what a report says that is not zero, by campaign."""
    assert all(each.is_proven for each in flows), flows
    names = [name.removesuffix("_minor") for name in CampaignFlows._fields[3:-1]]
    return {
        each.campaign: {name: figure for name, figure in zip(names, each[3:-1], strict=True) if figure}
        for each in flows
    }


async def test_the_report_of_campaigns(lots: Ledger) -> None:
    spring, since = f"spring {uuid4()}", await now(lots)
    winner, friend = [await new_owner(lots, gold=0) for _ in range(2)]
    await give(lots, winner, 100, days=10, campaign=spring)
    paid = await pay(lots, winner, 30)
    assert isinstance(paid, Posted)
    name = EntryName(paid.transaction.shard, paid.transaction.account_id, paid.transaction.seq)
    await refund(lots, ReverseInput(name, "", uuid4(), Decimal(5)))
    await transfer(lots, TransferInput(winner, friend, "GOLD", Decimal(20), uuid4()))
    placed = await place_hold(lots, PlaceHoldInput(friend, "GOLD", Decimal(8), uuid4(), 12 * 86_400))
    assert isinstance(placed, Held)
    settings, end = lots.settings, await now(lots) + DAY
    first = {"granted": 100, "returned": 5, "spent": 30, "outstanding": 75}
    assert told(await report_breakage(settings, since, end))[spring] == first
    await advance_clock(lots, 10 * 86_400 + 60)
    later = await now(lots) + DAY
    # What has lapsed counts from its end on, whoever books it when; what a hold has of it when the hold has closed.
    second = {"before": 75, "expired": 67, "outstanding": 8}
    assert told(await report_breakage(settings, end, later))[spring] == second
    async with connected(settings) as connection:
        await sweep(lots.engine, dict(await read_places(connection, lots.shard_count)))
    assert told(await report_breakage(settings, end, later))[spring] == second
    assert told(await report_breakage(settings, since, end))[spring] == first
    await advance_clock(lots, 3 * 86_400)
    assert isinstance(await pay(lots, friend, 1), Refused)
    whole = {"granted": 100, "returned": 5, "spent": 30, "expired": 75}
    assert told(await report_breakage(settings, since, await now(lots) + DAY))[spring] == whole
    assert told(await report_breakage(settings, later, await now(lots) + DAY))[spring] == {"before": 8, "expired": 8}
