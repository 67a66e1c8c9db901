"""More is asked for than the database can do: what is served stays near what it can, the rest is refused early."""

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any, Final

import pytest
from batches import ask, group_commit_of, lane_held_up, new_owners_in, posted, send

from wallet_gql.domain.errors import Overloaded
from wallet_gql.domain.postings import Posted
from wallet_gql.ledger import posting
from wallet_gql.operations import group_commit
from wallet_gql.operations.group_commit import GroupCommit
from wallet_gql.operations.opening import Ledger

POSTING_SECONDS: Final = 0.01
LANE_CAPACITY: Final = 1 / POSTING_SECONDS


@pytest.fixture
def slow_database(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Let the database take so long for each posting of a batch."""

    def slow(seconds: float) -> None:
        async def post_batch(connection: Any, requests: Any, *arguments: Any, **more: Any) -> Any:
            await connection.execute("SELECT pg_sleep($1)", seconds * len(requests))
            return await posting.post_batch(connection, requests, *arguments, **more)

        monkeypatch.setattr(group_commit, "post_batch", post_batch)

    return slow


async def offer(ledger: Ledger, commits: GroupCommit, owners: list[str], rate: float, seconds: float) -> Counter[str]:
    """Send requests at a rate whatever becomes of them; count the answers by their kind."""
    loop = asyncio.get_running_loop()
    started, tasks = loop.time(), list[asyncio.Task[Any]]()
    for n in range(int(rate * seconds)):
        await asyncio.sleep(max(0, started + n / rate - loop.time()))
        tasks.append(asyncio.create_task(commits.post(ask(ledger, owners[n % len(owners)]))))
    return Counter(type(outcome).__name__ for outcome in await asyncio.gather(*tasks, return_exceptions=True))


async def test_twice_the_load_is_served_at_capacity(ledger: Ledger, slow_database: Callable[[float], None]) -> None:
    owners = await new_owners_in(ledger, 0, 40)
    slow_database(POSTING_SECONDS)
    seconds = 5.0
    async with group_commit_of(ledger, deadline_seconds=2.0) as commits:
        answers = await offer(ledger, commits, owners, 2 * LANE_CAPACITY, seconds)

    assert answers[Posted.__name__] >= 0.6 * LANE_CAPACITY * seconds, answers
    # What is not served is told at once that nothing was posted, instead of missing its deadline.
    assert answers[Posted.__name__] + answers[Overloaded.__name__] >= 0.9 * answers.total(), answers


async def test_refusal_says_when_to_come_back(ledger: Ledger, slow_database: Callable[[float], None]) -> None:
    owners = await new_owners_in(ledger, 0, 2)
    elsewhere = await new_owners_in(ledger, 1, 1)
    async with group_commit_of(ledger, deadline_seconds=4.0) as commits:
        slow_database(3.0)
        assert commits.refusal() is None
        await posted(await send(commits, ask(ledger, owners[0])))
        slow_database(0)
        async with lane_held_up(ledger, 0, commits):
            # Two batches of this kind would take longer than the deadline.
            (refused,) = await send(commits, ask(ledger, owners[1]))
            error = refused.exception()
            assert isinstance(error, Overloaded)
            assert error.retry_after_seconds >= 1
            # Only this lane is full, so the service as a whole is not.
            assert commits.refusal() is None
            await posted(await send(commits, ask(ledger, elsewhere[0])))

        # What was measured once is not held against the lane for ever.
        for _ in range(5):
            await posted(await send(commits, ask(ledger, owners[1])))
        async with lane_held_up(ledger, 0, commits):
            tasks = await send(commits, ask(ledger, owners[1]))
            assert not tasks[0].done()
        await posted(tasks)
