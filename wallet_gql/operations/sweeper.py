"""The sweeper: books what ended, a little at a time, whenever something did. Every worker has one.

It only writes down what is so already, so it has the lowest priority: it takes its time and rests between two units of
work, it waits for no lock, and whatever stops it is tried again with the next round.
"""

import asyncio
from datetime import datetime
from typing import Final

import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from wallet_gql.db.engine import connect
from wallet_gql.ledger.sweeping import book_ended, find_due, find_ended, in_units, keep_places, read_places
from wallet_gql.operations.unit_of_work import unit_of_work

PAUSE_SECONDS: Final = 5.0
"""Between two rounds, when nothing is due."""

KEPT_EVERY_SECONDS: Final = 3600.0
"""How often its place is kept: a sweeper that starts looks at what ended since."""

SECONDS_PER_END: Final = 0.0022
"""It takes no less for each, and rests for the rest: spends feel a little work all the time less than much at once, and
100,000 ends of one midnight are booked within three minutes so (bench/lots.py)."""

_log = structlog.get_logger()


async def keep_sweeping(engine: AsyncEngine, shard_count: int, pause_seconds: float = PAUSE_SECONDS) -> None:
    """Sweep until it is cancelled."""
    loop = asyncio.get_running_loop()
    places = None
    kept_at = loop.time()
    while True:
        await asyncio.sleep(pause_seconds)
        try:
            if places is None:
                async with connect(engine) as connection:
                    places = await read_places(connection, shard_count)
            await sweep(engine, places)
            if loop.time() - kept_at > KEPT_EVERY_SECONDS:
                async with connect(engine) as connection:
                    await keep_places(connection, places)
                kept_at = loop.time()
        except Exception as error:  # noqa: BLE001 - whatever it is, the next round may succeed
            _log.warning("sweep failed", reason=str(error) or type(error).__name__)


async def sweep(engine: AsyncEngine, places: dict[int, datetime], seconds_per_end: float = SECONDS_PER_END) -> int:
    """Book all that is due and free, in no less time than that for each; returns how many ends were booked."""
    total = 0
    async with connect(engine) as connection:
        due = await find_due(connection, places)
    for shard in due:
        while booked := await _sweep_shard(engine, shard, places[shard], seconds_per_end):
            total += booked
    return total


async def _sweep_shard(engine: AsyncEngine, shard: int, until: datetime, seconds_per_end: float) -> int:
    """Book some of what is due in a shard, with rests in between; returns how many ends were booked."""
    loop = asyncio.get_running_loop()
    async with connect(engine) as connection:
        found = await find_ended(connection, shard, until)
    booked = 0
    for unit in in_units(found):
        started = loop.time()
        async with unit_of_work(engine) as connection:
            booked += await book_ended(connection, shard, unit)
        taken = loop.time() - started
        if seconds_per_end:
            await asyncio.sleep(max(taken, seconds_per_end * sum(each.ends for each in unit) - taken))
    return booked
