"""What an owner may ask for and the ledger cannot post: a fault for that request alone."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import asyncpg
from batches import ask, new_owners_in, send
from conftest import plain
from direct import insert, movement

from wallet_gql.domain.errors import Unavailable
from wallet_gql.domain.postings import Posted
from wallet_gql.operations.opening import open_ledger
from wallet_gql.settings import Settings


async def test_an_owner_ahead_of_the_clock_is_unavailable_and_its_batch_is_posted(
    new_database: Callable[[str], Settings],
) -> None:
    settings = await asyncio.to_thread(new_database, "unpostable")
    async with open_ledger(settings) as ledger:
        ahead, *others = await new_owners_in(ledger, 0, 4)
        connection = await asyncpg.connect(plain(settings.server_url().render_as_string(hide_password=False)))
        in_an_hour = datetime.now(UTC) + timedelta(hours=1)
        await insert(connection, await movement(connection, 0, ahead, 50, slot=ledger.slot, executed_at=in_an_hour))
        await connection.close()
        tasks = await send(ledger.commits, *(ask(ledger, owner) for owner in (others[0], ahead, *others[1:])))
        first, late, *rest = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(late, Unavailable)
        posted = [outcome for outcome in (first, *rest) if isinstance(outcome, Posted)]
        assert len(posted) == 3
        # The stripe has met that clock too, and tells nobody.
        assert all(outcome.transaction.executed_at < in_an_hour - timedelta(minutes=30) for outcome in posted)
        assert ledger.commits.figures.batch_count <= 2
