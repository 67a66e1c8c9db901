"""What would keep the loop from everyone else is done in turns: who goes first, and who is refused."""

import asyncio
import http.client
import json
import select
import time
from collections.abc import Callable
from typing import Any, Final

import httpx
import pytest
from batches import PATIENCE_SECONDS
from conftest import Served, environment
from factories import new_owner, post

from wallet_gql.domain.errors import Overloaded
from wallet_gql.endpoint import turns
from wallet_gql.endpoint.turns import Turns
from wallet_gql.operations.opening import open_ledger
from wallet_gql.settings import Settings


class Line:
    """Callers by name before one turn; notes who has had it, in order."""

    def __init__(self, turns: Turns) -> None:
        self.turns = turns
        self.served: list[str] = []
        self.refused: list[str] = []
        self.tasks: dict[str, asyncio.Task[None]] = {}

    async def come(self, *names: str) -> None:
        """Let callers come one after the other; a name is a letter and a weight."""
        for name in names:
            self.tasks[name] = asyncio.create_task(self._take(name))
            await asyncio.sleep(0)

    async def _take(self, name: str) -> None:
        try:
            async with self.turns.turn(int(name[1:])):
                self.served.append(name)
                await asyncio.sleep(0)
        except Overloaded:
            self.refused.append(name)

    async def end(self) -> None:
        async with asyncio.timeout(PATIENCE_SECONDS):
            await asyncio.gather(*self.tasks.values(), return_exceptions=True)
        # Whatever happened, the turn is free again.
        async with asyncio.timeout(PATIENCE_SECONDS), self.turns.turn(1):
            pass


@pytest.fixture
def line() -> Line:
    return Line(Turns(100, PATIENCE_SECONDS))


async def test_lightest_and_longest_waiting_go_by_turns(line: Line) -> None:
    async with line.turns.turn(1):
        await line.come("a30", "b20", "c10", "d10", "e5")
    await line.end()

    assert line.served == ["e5", "a30", "c10", "b20", "d10"]


async def test_nobody_is_passed_for_ever(line: Line) -> None:
    async with line.turns.turn(1):
        await line.come("a90", "b1")
        coming = asyncio.create_task(line.come(*(f"x{n}" for n in range(2, 9))))
    await coming
    await line.end()

    assert line.served.index("a90") <= 1


async def test_heaviest_is_refused_where_the_line_is_full(line: Line) -> None:
    async with line.turns.turn(1):
        await line.come("a60", "b40", "c10", "d41", "e40", "f5")
    await line.end()

    # a60 makes room for c10, d41 for itself is too heavy, e40 is the last of its equals.
    assert line.refused == ["a60", "d41"]
    assert sorted(line.served) == ["b40", "c10", "e40", "f5"]


async def test_the_last_of_equals_is_refused(line: Line) -> None:
    async with line.turns.turn(1):
        await line.come("a50", "b50", "c50")
    await line.end()

    assert (line.served, line.refused) == (["a50", "b50"], ["c50"])


async def test_one_that_is_heavier_than_the_line_may_wait_alone(line: Line) -> None:
    async with line.turns.turn(1):
        await line.come("a500")
    await line.end()

    assert (line.served, line.refused) == (["a500"], [])


async def test_turn_that_does_not_come_is_overload_and_is_not_lost() -> None:
    line = Line(Turns(100, 0.05))
    async with line.turns.turn(1):
        await line.come("a1", "b2")
        await asyncio.gather(*line.tasks.values())
    assert sorted(line.refused) == ["a1", "b2"]
    await line.come("c1")
    await line.end()

    assert line.served == ["c1"]


async def test_caller_that_goes_away_keeps_no_turn(line: Line) -> None:
    async with line.turns.turn(1):
        await line.come("a1", "b2", "c3", "d4", "e80")
        line.tasks["b2"].cancel()
        await asyncio.sleep(0)
        # This one knows of it, and has not run since, when the line is full, and when the turn is passed on.
        line.tasks["e80"].cancel()
        await line.come("f90")
        line.tasks["a1"].cancel()
    # Now the turn is c3's, who has not run yet.
    line.tasks["c3"].cancel()
    await line.end()

    assert line.served == ["d4", "f90"]
    assert line.refused == []


async def test_turn_that_is_held_for_long_is_passed_on_once(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "HELD_SECONDS_MAX", 0.05)
    async with line.turns.turn(1):
        await line.come("a1", "b2")
        async with asyncio.timeout(PATIENCE_SECONDS):
            await asyncio.gather(*line.tasks.values())
        # Whoever has the turn now has it alone, also when the one that was passed over ends.
        monkeypatch.setattr(turns, "HELD_SECONDS_MAX", PATIENCE_SECONDS)
        holder = line.turns.turn(1)
        await holder.__aenter__()
    await line.come("c1")
    await asyncio.sleep(0.1)
    assert line.served == ["a1", "b2"]
    await holder.__aexit__(None, None, None)
    await line.end()

    assert line.served == ["a1", "b2", "c1"]


async def test_error_in_a_turn_passes_it_on(line: Line) -> None:
    async def fail() -> None:
        async with line.turns.turn(1):
            await line.come("a1")
            raise LookupError

    with pytest.raises(LookupError):
        await fail()
    await line.end()

    assert line.served == ["a1"]


CONNECTIONS: Final = 300
"""What comes at once; a descriptor limit of 1,024 leaves room for it."""

# A cost of 1,501 each: of those that come at once, the line takes some 133.
COSTLY: Final = (
    "query($o: String!) { transactions(ownerId: $o, first: 100) {"
    " totalCount pageInfo { endCursor } edges { cursor node {"
    " id type direction amount balanceAfter executedAt description reference } } } }"
)
PAGE: Final = COSTLY.replace("first: 100", "first: 50")


@pytest.fixture(scope="module")
def own(serve: Callable[..., Served], new_database: Callable[[str], Settings]) -> tuple[Served, str]:
    """A server of its own, for what is done to it, and an owner with a history."""
    settings = new_database("turns")

    async def fill() -> str:
        async with open_ledger(settings) as ledger:
            owner = await new_owner(ledger)
            await asyncio.gather(*(post(ledger, "top_up", owner, 1) for _ in range(150)))
            return owner

    owner = asyncio.run(fill())
    return serve(environment(settings, WALLET_REQUEST_DEADLINE_SECONDS="60")), owner


class Flood:
    """Requests that are sent at once, each over a connection of its own; the answers stay at the sockets."""

    def __init__(self, url: str, bodies: list[dict[str, Any]]) -> None:
        host, port = httpx.URL(url).host, httpx.URL(url).port
        assert port is not None
        requests = [http.client.HTTPConnection(host, port, timeout=PATIENCE_SECONDS) for _ in bodies]
        for request in requests:
            request.connect()
        for request, body in zip(requests, bodies, strict=True):
            request.request("POST", "/graphql", json.dumps(body), {"content-type": "application/json"})
        self._requests = requests

    def answered(self) -> set[int]:
        """Return whose answers have arrived."""
        poll = select.poll()
        numbers = {}
        for number, request in enumerate(self._requests):
            numbers[request.sock.fileno()] = number
            poll.register(request.sock, select.POLLIN)
        return {numbers[descriptor] for descriptor, _ in poll.poll(0)}

    def await_answers(self, count: int) -> set[int]:
        for _ in range(PATIENCE_SECONDS * 1000):
            if len(arrived := self.answered()) >= count:
                return arrived
            time.sleep(0.001)
        raise AssertionError(f"{len(arrived)} answers")

    def read(self) -> list[tuple[str | None, str | None]]:
        """Read all answers; returns each one's code, None for data, and its Retry-After."""
        answers = []
        for request in self._requests:
            response = request.getresponse()
            answer = json.loads(response.read())
            answers.append((code(answer), response.headers["retry-after"]))
            request.close()
        return answers


def code(answer: dict[str, Any]) -> str | None:
    return answer["errors"][0]["extensions"]["code"] if "errors" in answer else None


def test_costly_queries_of_many_connections_delay_an_ordinary_page_by_a_few_turns(own: tuple[Served, str]) -> None:
    served, owner = own
    costly: dict[str, Any] = {"query": COSTLY, "variables": {"o": owner}}
    page: dict[str, Any] = {"query": PAGE, "variables": {"o": owner}}
    with httpx.Client(timeout=PATIENCE_SECONDS) as player:
        for body in (costly, page):
            assert "errors" not in player.post(served.url, json=body).json()
        flood = Flood(served.url, [costly] * CONNECTIONS)
        # All have arrived when the line has refused what it does not take.
        before = flood.await_answers(CONNECTIONS - 140)
        answer = player.post(served.url, json=page).json()
        after = flood.answered()
    answers = flood.read()

    assert len(answer["data"]["transactions"]["edges"]) == 50
    # The one under way, the one that had waited longest, and what the server and this test do between two lines.
    assert len([number for number in after - before if answers[number][0] is None]) <= 10
    assert set(answers) == {(None, None), ("OVERLOADED", "1")}
    assert answers.count((None, None)) >= 20


def test_new_documents_of_many_connections_delay_a_short_one_by_a_few_turns(own: tuple[Served, str]) -> None:
    served, _ = own
    fields = " ".join(f"a{n}: assets {{ code name }}" for n in range(20))
    with httpx.Client(timeout=PATIENCE_SECONDS) as player:
        assert "errors" not in player.post(served.url, json={"query": "{ __typename }"}).json()
        flood = Flood(served.url, [{"query": f"{{ {fields} }} #{n} {'x' * 300}"} for n in range(CONNECTIONS)])
        before = flood.await_answers(10)
        answer = player.post(served.url, json={"query": "{ assets { scale } }"}).json()
        after = flood.answered()
    answers = flood.read()

    assert "errors" not in answer
    assert len([number for number in after - before if answers[number][0] is None]) <= 20
    assert set(answers) <= {(None, None), ("OVERLOADED", "1")}


def test_a_new_document_of_many_connections_is_prepared_for_all_of_them(own: tuple[Served, str]) -> None:
    served, _ = own
    fields = " ".join(f"a{n}: assets {{ code }}" for n in range(20))
    # Together they are far more than the line of new documents takes.
    body: dict[str, Any] = {"query": f"{{ {fields} }} # {'x' * 60_000}"}
    answers = Flood(served.url, [body] * CONNECTIONS).read()

    assert answers == [(None, None)] * CONNECTIONS
