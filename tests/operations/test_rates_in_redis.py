"""Budgets that several workers share, in a real Redis: `make redis`."""

import shutil
import socket
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import SecretStr

from wallet_gql.domain.access import ANYONE, Budget, Caller
from wallet_gql.operations import rates
from wallet_gql.operations.rates import Rates
from wallet_gql.settings import Settings

PROGRAM = shutil.which("redis-server") or shutil.which("valkey-server")

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(PROGRAM is None, reason="needs a redis-server or valkey-server: make redis"),
]


class Server:
    """A Redis without files, on a port of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with socket.create_server(("127.0.0.1", 0)) as taken:
            self.port = taken.getsockname()[1]
        self.start()

    def start(self) -> None:
        assert PROGRAM is not None
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        self._process = subprocess.Popen([PROGRAM, *options], cwd=self._folder, stdout=subprocess.DEVNULL)
        for _ in range(200):
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
            except OSError:
                assert self._process.poll() is None
                subprocess.run(["/bin/sleep", "0.02"], check=True)
            else:
                return
        raise AssertionError("the server does not answer")

    def stop(self) -> None:
        self._process.kill()
        self._process.wait(timeout=10)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path)
    yield server
    server.stop()


@pytest.fixture
async def worker(server: Server, settings: Settings) -> AsyncIterator[Callable[[], Rates]]:
    url = SecretStr(f"redis://127.0.0.1:{server.port}/0")
    workers: list[Rates] = []

    def make() -> Rates:
        workers.append(Rates(settings.model_copy(update={"rate_url": url})))
        return workers[-1]

    yield make
    for each in workers:
        await each.aclose()


CALLER = replace(ANYONE, budget_id="key:one", budget=Budget(40, 1))


async def is_taken(worker: Rates, points: int = 10, caller: Caller = CALLER) -> bool:
    charge = await worker.charge(caller, points)
    assert charge is not None
    return not charge.retry_after_seconds


async def test_all_workers_take_from_one_budget(worker: Callable[[], Rates]) -> None:
    one, other = worker(), worker()
    assert [await is_taken(each) for each in (one, other, one, other)] == [True] * 4
    assert not await is_taken(one)
    assert not await is_taken(other)
    # Another caller has another.
    assert await is_taken(one, caller=replace(CALLER, budget_id="key:two"))


async def test_what_is_given_back_is_there_for_all(worker: Callable[[], Rates]) -> None:
    one, other = worker(), worker()
    big = replace(CALLER, budget=Budget(200, 1))
    charge = await one.charge(big, 200)
    assert charge is not None
    assert not await is_taken(other, caller=big)
    await one.settle(charge, 21)
    assert (charge.actual, charge.remaining) == (21, 179)
    # But for what stays in the first one's purse.
    assert await is_taken(other, 177, caller=big)
    assert not await is_taken(other, 10, caller=big)


async def test_while_it_is_away_each_worker_keeps_its_own(
    worker: Callable[[], Rates], server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = worker(), worker()
    assert [await is_taken(each) for each in (one, other)] == [True] * 2
    server.stop()
    for each in (one, other):
        assert [await is_taken(each) for _ in range(5)] == [True] * 4 + [False]
    server.start()
    monkeypatch.setattr(rates, "TRY_AGAIN_SECONDS", 0)
    one._away_until = other._away_until = 0
    # It began anew, too, and is shared again.
    assert [await is_taken(each) for each in (one, other, one, other)] == [True] * 4
    assert not await is_taken(one)
