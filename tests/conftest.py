"""One embedded PostgreSQL for the whole run, one migrated template, one clone of it for each test worker.

Every test that opens the ledger ends with the ledger's own verification.
"""

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest
from factories import TEST_SHARD_COUNT
from pydantic import SecretStr
from sqlalchemy import make_url

from wallet_gql.db import migrations
from wallet_gql.embedded.launcher import EmbeddedPostgres, start
from wallet_gql.operations import opening
from wallet_gql.operations.assets import add_asset
from wallet_gql.operations.demo import ASSETS
from wallet_gql.operations.opening import Ledger, open_ledger
from wallet_gql.operations.proof import prove
from wallet_gql.settings import Settings

TEMPLATE = "wallet_template"
MIGRATED = "wallet_migrated"
"""What the migrations leave: the template without its assets."""
SERVER = pytest.StashKey[EmbeddedPostgres]()
RUNNING = pytest.StashKey[tuple[AbstractContextManager[EmbeddedPostgres], Path]]()
MAIN = pytest.StashKey[Settings]()
SERVED = pytest.StashKey["Served"]()

# Above it a module begins with fresh books: to prove what others posted costs each test more than to make a database.
ENTRIES_MAX = 1500


def database(url: str, name: str) -> str:
    """Return the address of another database of the same server, as the same role."""
    return make_url(url).set(database=name).render_as_string(hide_password=False)


def plain(url: str) -> str:
    """Return an address as asyncpg takes it."""
    return make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)


async def execute(url: str, *statements: str) -> None:
    connection = await asyncpg.connect(plain(url))
    for statement in statements:
        await connection.execute(statement)
    await connection.close()


def settings_for(server: EmbeddedPostgres, name: str) -> Settings:
    return Settings(
        _env_file=None,
        DATABASE_URL=SecretStr(database(server.server_url, name)),
        migration_database_url=SecretStr(database(server.owner_url, name)),
        shard_count=TEST_SHARD_COUNT,
        pool_size=20,
        access="open",
    )


async def ease_logins(server: EmbeddedPostgres) -> None:
    """Let a password be hashed once, not 4096 times: each test logs in several times."""
    for url in map(make_url, (server.server_url, server.owner_url, server.superuser_url)):
        change = f"ALTER ROLE {url.username} PASSWORD '{url.password}'"
        await execute(server.superuser_url, "SET scram_iterations = 1", change)


async def add_assets(settings: Settings) -> None:
    async with open_ledger(settings) as ledger:
        for code, name, scale in ASSETS:
            await add_asset(ledger, code, name, scale)


def pytest_configure(config: pytest.Config) -> None:
    if hasattr(config, "workerinput"):
        server = config.workerinput["server"]
        config.stash[SERVER] = EmbeddedPostgres(**{**server, "data_dir": Path(server["data_dir"])})
        return
    if config.option.collectonly:
        return
    for name in [name for name in os.environ if name == "DATABASE_URL" or name.startswith("WALLET_")]:
        if name != "WALLET_POSTGRES_VERSION":
            del os.environ[name]
    os.environ["WALLET_SHARD_COUNT"] = str(TEST_SHARD_COUNT)
    folder = Path(tempfile.mkdtemp(prefix="wallet-gql-test-", dir="/tmp"))
    folder.chmod(0o755)
    running = start(folder / "data", version=Settings(_env_file=None).postgres_version)
    config.stash[RUNNING] = running, folder
    server = config.stash[SERVER] = running.__enter__()
    asyncio.run(ease_logins(server))
    asyncio.run(execute(server.superuser_url, f"CREATE DATABASE {TEMPLATE} OWNER wallet_owner"))
    settings = settings_for(server, TEMPLATE)
    migrations.upgrade(settings.owner_url(), settings.server_role())
    clone = f"CREATE DATABASE {MIGRATED} OWNER wallet_owner TEMPLATE {TEMPLATE}"
    asyncio.run(execute(server.superuser_url, clone))
    asyncio.run(add_assets(settings))


def pytest_unconfigure(config: pytest.Config) -> None:
    if (running := config.stash.get(RUNNING, None)) is not None:
        running[0].__exit__(None, None, None)
        shutil.rmtree(running[1], ignore_errors=True)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Run three workers for two cores: some tests only wait, for time to pass or for the database."""
    return max(2, (os.cpu_count() or 1) * 3 // 2)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: object) -> None:
    """Tell a worker of pytest-xdist where the server is."""
    server = node.config.stash[SERVER]  # type: ignore[attr-defined]
    fields = {name: getattr(server, name) for name in EmbeddedPostgres.__dataclass_fields__}
    node.workerinput["server"] = {**fields, "data_dir": str(server.data_dir)}  # type: ignore[attr-defined]


@pytest.fixture(scope="session", autouse=True)
def unswept() -> Iterator[None]:
    """Open ledgers without a sweeper: when what ended is booked is left to the tests, not to how long they take."""

    async def rest(*_: object) -> None:
        await asyncio.Event().wait()

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(opening, "keep_sweeping", rest)
        yield


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def postgres(pytestconfig: pytest.Config) -> EmbeddedPostgres:
    return pytestconfig.stash[SERVER]


@pytest.fixture(scope="session")
def new_database(postgres: EmbeddedPostgres, worker_id: str) -> Callable[[str], Settings]:
    """Make a database by cloning the migrated template, or an empty one."""

    def make(name: str, *, template: str = TEMPLATE) -> Settings:
        name = f"wallet_{worker_id}_{name}"
        asyncio.run(
            execute(
                postgres.superuser_url,
                f"DROP DATABASE IF EXISTS {name} WITH (FORCE)",
                f"CREATE DATABASE {name} OWNER wallet_owner TEMPLATE {template}",
            )
        )
        return settings_for(postgres, name)

    return make


@pytest.fixture(scope="session")
def settings(new_database: Callable[[str], Settings], pytestconfig: pytest.Config) -> Settings:
    """The settings of this worker's own database, as the serving role."""
    settings = pytestconfig.stash[MAIN] = new_database("main")
    return settings


@pytest.fixture(scope="module", autouse=True)
def small_books(request: pytest.FixtureRequest) -> None:
    """Begin a module with fresh books where those there are have grown: each test proves all of them."""
    settings = request.config.stash.get(MAIN, None)
    if settings is None or asyncio.run(count_entries(settings)) < ENTRIES_MAX:
        return
    served = request.config.stash.get(SERVED, None)
    if served is not None:
        # The next one is started by the next module that needs it.
        del request.config.stash[SERVED]
        served.process.terminate()
        served.process.wait()
    request.getfixturevalue("new_database")("main")


async def count_entries(settings: Settings) -> int:
    connection = await asyncpg.connect(plain(settings.server_url().render_as_string(hide_password=False)))
    try:
        count: int = await connection.fetchval("SELECT count(*) FROM entry")
        return count
    finally:
        await connection.close()


@pytest.fixture
async def proved(settings: Settings) -> AsyncIterator[None]:
    """The books are verified, once, when all that a test had open of them has been closed."""
    yield
    assert (await prove(settings)).findings == []


@pytest.fixture
async def ledger(settings: Settings, proved: None) -> AsyncIterator[Ledger]:  # noqa: ARG001 - verified after it
    async with open_ledger(settings) as ledger:
        yield ledger


@pytest.fixture
async def server_connection(settings: Settings) -> AsyncIterator[asyncpg.Connection]:
    """A connection as the serving role, with the planner's defaults."""
    connection = await asyncpg.connect(plain(settings.server_url().render_as_string(hide_password=False)))
    yield connection
    await connection.close()


@pytest.fixture
async def owner_connection(settings: Settings) -> AsyncIterator[asyncpg.Connection]:
    """A connection as the tables' owner."""
    connection = await asyncpg.connect(plain(settings.owner_url().render_as_string(hide_password=False)))
    yield connection
    await connection.close()


def environment(settings: Settings, **more: str) -> dict[str, str]:
    """Return the environment that gives a command these settings' database."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("WALLET_", "DATABASE_URL"))}
    return {
        **kept,
        "DATABASE_URL": settings.server_url().render_as_string(hide_password=False),
        "WALLET_MIGRATION_DATABASE_URL": settings.owner_url().render_as_string(hide_password=False),
        "WALLET_SHARD_COUNT": str(settings.shard_count),
        "WALLET_ACCESS": "open",
        **more,
    }


class Served:
    """A running `wallet-gql serve`, its address, and the file that its log goes to."""

    def __init__(self, process: subprocess.Popen[str], url: str, log: Path) -> None:
        self.process = process
        self.url = url
        self.log = log

    def logged(self) -> list[dict[str, Any]]:
        """Return the lines of its log so far."""
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]


@pytest.fixture(scope="session")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Served]]:
    """Start `wallet-gql serve` on a free port; it is stopped at the end of the run."""
    processes: list[subprocess.Popen[str]] = []

    def run(env: dict[str, str], *arguments: str, **popen: Any) -> Served:
        log = tmp_path_factory.mktemp("serve") / "log"
        with log.open("w") as stderr:
            process = subprocess.Popen(
                [Path(sys.executable).with_name("wallet-gql"), "serve", "--port", "0", *arguments],
                env=env,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                **popen,
            )
        processes.append(process)
        assert process.stdout is not None
        lines = iter(process.stdout.readline, "")
        address = next((found[0] for line in lines if (found := re.search(r"http://\S+/graphql", line))), None)
        assert address is not None, "the server did not start"
        for _ in range(300):
            try:
                httpx.get(address.replace("/graphql", "/health"), timeout=5)
            except httpx.TransportError:
                assert process.poll() is None, "the server ended"
                asyncio.run(asyncio.sleep(0.05))
            else:
                return Served(process, address, log)
        raise AssertionError("the server does not answer")

    yield run
    for process in processes:
        if process.poll() is None:
            process.terminate()
    for process in processes:
        process.wait(timeout=60)
        if process.stdout is not None:
            process.stdout.close()


@pytest.fixture(scope="module")
def served(serve: Callable[..., Served], settings: Settings, pytestconfig: pytest.Config) -> Served:
    """The real server on this worker's database; it serves one module after the other."""
    if SERVED not in pytestconfig.stash:
        pytestconfig.stash[SERVED] = serve(environment(settings))
    return pytestconfig.stash[SERVED]


@pytest.fixture
async def client(served: Served, proved: None) -> AsyncIterator[httpx.AsyncClient]:  # noqa: ARG001 - verified after it
    """An HTTP client of the real server; the books are verified afterwards."""
    async with httpx.AsyncClient(base_url=served.url.removesuffix("/graphql"), timeout=30) as client:
        yield client
