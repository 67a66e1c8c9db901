"""`wallet-gql serve` while its database is away, comes back, or is not one that it may write to."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import httpx
import pytest
from conftest import database, environment, execute
from factories import new_owner_id
from pydantic import SecretStr
from servers import OwnServer, running_server

from wallet_gql.settings import Settings

COMMAND: Final = Path(sys.executable).with_name("wallet-gql")
PATIENCE_SECONDS: Final = 120


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


class Service:
    """A running server whose output is in files."""

    def __init__(self, folder: Path, env: dict[str, str], *arguments: str) -> None:
        self._said, self._log = folder / "said", folder / "log"
        with self._said.open("w") as said, self._log.open("w") as log:
            self.process = subprocess.Popen(
                [COMMAND, "serve", "--port", "0", *arguments],
                env={**env, "WALLET_LOG_FORMAT": "json", "WALLET_REQUEST_DEADLINE_SECONDS": "5"},
                cwd=folder,
                stdout=said,
                stderr=log,
            )
        until(lambda: "Serving" in self._said.read_text() or self.process.poll() is not None)
        found = re.search(r"http://\S+(?=/graphql)", self._said.read_text())
        assert found is not None, self._log.read_text()
        self._url = found[0]

    def logged(self, event: str) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in self._log.read_text().splitlines() if line.startswith("{")]
        return [line for line in lines if line["event"] == event]

    def logs(self, event: str, count: int) -> None:
        """Wait until it has logged so many of an event."""
        until(lambda: len(self.logged(event)) >= count)

    def get(self, path: str) -> tuple[int, dict[str, Any]]:
        response = httpx.get(f"{self._url}{path}", timeout=30)
        return response.status_code, response.json()

    def health(self, state: str) -> None:
        """Wait until it finds its database in a state."""
        status = "ok" if state == "ok" else "unavailable"
        expected = (200 if state == "ok" else 503, {"status": status, "database": state})
        until(lambda: self.get("/health") == expected)

    def open_wallet(self) -> httpx.Response:
        query = f'mutation {{ openWallet(input: {{ownerId: "{new_owner_id()}"}}) {{ __typename }} }}'
        return httpx.post(f"{self._url}/graphql", json={"query": query}, timeout=30)

    def top_up(self, owner_id: str) -> httpx.Response:
        query = (
            f'mutation {{ topUp(input: {{ownerId: "{owner_id}", amount: 1, idempotencyKey: "{uuid4()}"}})'
            " { __typename } }"
        )
        return httpx.post(f"{self._url}/graphql", json={"query": query}, timeout=30)

    def posts(self) -> None:
        """Each of a few requests is answered, whichever worker has it."""
        for _ in range(6):
            assert self.open_wallet().json() == {"data": {"openWallet": {"__typename": "OpenWalletPayload"}}}

    def is_unavailable(self) -> None:
        for _ in range(6):
            response = self.open_wallet()
            assert [error["extensions"]["code"] for error in response.json()["errors"]] == ["UNAVAILABLE"]
            assert int(response.headers["retry-after"]) > 0
        assert self.top_up(new_owner_id()).json()["errors"][0]["extensions"]["code"] == "UNAVAILABLE"

    def workers(self) -> list[int]:
        ps = ["/bin/ps", "-axwwo", "pid=,ppid=,command="]
        listing = subprocess.run(ps, capture_output=True, text=True, check=True).stdout
        found = (line.split(maxsplit=2) for line in listing.splitlines())
        return [int(pid) for pid, parent, name in found if int(parent) == self.process.pid and "spawn_main" in name]

    def end(self) -> int:
        if self.process.poll() is None:
            self.process.terminate()
        return self.process.wait(PATIENCE_SECONDS)


@pytest.fixture(scope="module")
def own_server() -> Iterator[OwnServer]:
    with running_server() as own:
        asyncio.run(own.execute("CREATE DATABASE unfit OWNER wallet_owner"))
        yield own


@contextmanager
def away(own_server: OwnServer) -> Iterator[None]:
    own_server.stop()
    try:
        yield
    finally:
        own_server.start()


@pytest.fixture(scope="module")
def service(own_server: OwnServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Two workers that were started while the database was away."""
    own_server.stop()
    service = Service(tmp_path_factory.mktemp("service"), environment(own_server.settings()), "--workers", "2")
    try:
        service.logs("waiting for the database", 2)
        service.is_unavailable()
        assert service.get("/health") == (503, {"status": "unavailable", "database": "away"})
        assert service.get("/health/ready") == (503, {"status": "unavailable", "database": "away"})
        assert service.get("/health/live") == (200, {"status": "ok"})
        assert service.logged("ready") == []
        own_server.start()
        service.logs("ready", 2)
        yield service
    finally:
        own_server.start()
        service.end()


def test_workers_that_waited_serve_when_the_database_is_there(service: Service) -> None:
    service.health("ok")
    assert service.get("/health/ready") == (200, {"status": "ok", "database": "ok"})
    service.posts()


def test_database_may_be_restarted(service: Service, own_server: OwnServer) -> None:
    with away(own_server):
        service.health("away")
        service.is_unavailable()
        assert service.get("/health/live") == (200, {"status": "ok"})
    service.health("ok")
    service.posts()


def test_login_may_be_refused_for_a_while(service: Service, own_server: OwnServer) -> None:
    ended = "SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity WHERE usename = 'wallet_server'"
    asyncio.run(own_server.execute("ALTER ROLE wallet_server NOLOGIN", ended))
    try:
        service.health("refused")
        service.is_unavailable()
    finally:
        asyncio.run(own_server.execute("ALTER ROLE wallet_server LOGIN"))
    service.health("ok")
    service.posts()


def test_worker_that_starts_while_the_database_is_away_ends_nobody(service: Service, own_server: OwnServer) -> None:
    ended, ready = len(service.logged("worker ended")), len(service.logged("ready"))
    with away(own_server):
        killed = service.workers()[0]
        os.kill(killed, signal.SIGKILL)
        service.logs("worker ended", ended + 1)
        assert service.logged("worker ended")[-1]["pid"] == killed
        until(lambda: len(service.workers()) == 2)
        service.logs("waiting for the database", 3)
        service.is_unavailable()
    service.logs("ready", ready + 1)
    service.posts()


def test_worker_that_finds_another_schema_ends_nobody_else(service: Service, own_server: OwnServer) -> None:
    ended, ready = len(service.logged("worker ended")), len(service.logged("ready"))
    url = database(own_server.server.superuser_url, "wallet")
    asyncio.run(execute(url, "UPDATE alembic_version SET version_num = version_num || '-newer'"))
    try:
        os.kill(service.workers()[0], signal.SIGKILL)
        service.logs("worker ended", ended + 2)
        assert service.logged("worker ended")[-1]["status"] == 3
        assert "-newer, but this version needs" in service.logged("cannot serve")[-1]["reason"]
        service.posts()
    finally:
        asyncio.run(execute(url, "UPDATE alembic_version SET version_num = replace(version_num, '-newer', '')"))
    service.logs("ready", ready + 1)
    service.posts()


def test_worker_that_stalls_is_replaced_with_a_line_in_the_log(service: Service) -> None:
    ready = len(service.logged("ready"))
    stalled = service.workers()[0]
    os.kill(stalled, signal.SIGSTOP)

    service.logs("worker stalled", 1)

    assert service.logged("worker stalled")[0]["pid"] == stalled
    service.logs("ready", ready + 1)
    service.posts()


@pytest.mark.parametrize("workers", ["1", "2"])
def test_what_waiting_cannot_cure_ends_it_with_a_status(own_server: OwnServer, tmp_path: Path, workers: str) -> None:
    settings = own_server.settings()
    url = database(settings.server_url().render_as_string(hide_password=False), "unfit")
    unfit: Settings = settings.model_copy(update={"database_url": SecretStr(url)})
    with away(own_server):
        service = Service(tmp_path, environment(unfit), "--workers", workers)
        service.logs("waiting for the database", int(workers))
    try:
        assert service.process.wait(PATIENCE_SECONDS) == 3
    finally:
        service.end()
    told = service.logged("cannot serve")
    assert len(told) >= int(workers)
    assert "schema is at no revision" in told[0]["reason"]
    assert "run `wallet-gql migrate`" in told[0]["reason"]
