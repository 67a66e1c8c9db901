"""The sweeper: books what ended, a little at a time, whenever something did. Every worker has one.

It only writes down what is so already, so it has the lowest priority: between two units of work it rests twice as long
as the last one took, it waits for no lock, and whatever stops it is tried again with the next round.
"""

import asyncio
from datetime import datetime
from typing import Final

import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from wallet_gql.db.engine import connect
from wallet_gql.ledger.sweeping import find_due, keep_places, read_places, sweep_shard
from wallet_gql.operations.unit_of_work import unit_of_work

PAUSE_SECONDS: Final = 5.0
"""Between two rounds, when nothing is due."""

KEPT_EVERY_SECONDS: Final = 3600.0
"""How often its place is kept: a sweeper that starts looks at what ended since."""

REST: Final = 2
"""How often as long as a unit of work it rests after it: 10,000 ends take some 15 s so, and spends beside it less than
twice as long (bench/sweeps.py)."""

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


async def sweep(engine: AsyncEngine, places: dict[int, datetime]) -> int:
    """Book all that is due and free; returns how many ends were booked."""
    loop = asyncio.get_running_loop()
    total = 0
    async with connect(engine) as connection:
        due = await find_due(connection, places)
    for shard in due:
        booked = None
        while booked != 0:
            started = loop.time()
            async with unit_of_work(engine) as connection:
                booked = await sweep_shard(connection, shard, places[shard])
            total += booked
            await asyncio.sleep(REST * (loop.time() - started))
    return total
