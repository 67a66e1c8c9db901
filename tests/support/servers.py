"""PostgreSQL servers that a test may stop, start again, and fail over from one to the other."""

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import asyncpg
from conftest import add_assets, execute, plain
from factories import TEST_SHARD_COUNT
from pydantic import SecretStr
from sqlalchemy import make_url

from wallet_gql.db import migrations
from wallet_gql.embedded.binaries import copied, installed_binaries, unprivileged_account
from wallet_gql.embedded.launcher import EmbeddedPostgres, start
from wallet_gql.settings import Settings


class OwnServer:
    """A server of the test's own, that it may stop and start again; it keeps its port."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.server_settings: Mapping[str, str] = {}
        self._running: AbstractContextManager[EmbeddedPostgres] | None = None
        self.start()

    def start(self) -> None:
        if self._running is not None:
            return
        version = Settings(_env_file=None).postgres_version
        self._running = start(self.folder / "data", version=version, settings=self.server_settings)
        self.server = self._running.__enter__()

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """Stop it as a signal tells it to: SIGINT ends its sessions and goes, SIGQUIT goes at once, without a word."""
        if self._running is not None:
            os.kill(self.server.pid, how)
            self._running.__exit__(None, None, None)
            self._running = None

    def settings(self, **query: str) -> Settings:
        """Return settings that name it, with parameters in its address."""
        return Settings(
            _env_file=None,
            DATABASE_URL=SecretStr(_with_query(self.server.server_url, query)),
            migration_database_url=SecretStr(_with_query(self.server.owner_url, query)),
            shard_count=TEST_SHARD_COUNT,
            pool_size=20,
        )

    async def execute(self, *statements: str) -> None:
        """Run statements as the superuser."""
        await execute(self.server.superuser_url, *statements)

    def migrate(self) -> None:
        settings = self.settings()
        migrations.upgrade(settings.owner_url(), settings.server_role())
        asyncio.run(add_assets(settings))


def _with_query(url: str, query: Mapping[str, str]) -> str:
    return make_url(url).set(query=query).render_as_string(hide_password=False)


@contextmanager
def running_server() -> Iterator[OwnServer]:
    """Run a server whose database is migrated and has the assets."""
    # Not tmp_path: as root that is 0700, and PostgreSQL's account could not enter it.
    folder = Path(tempfile.mkdtemp(prefix="wallet-test-", dir="/tmp"))
    folder.chmod(0o755)
    own = OwnServer(folder)
    try:
        own.migrate()
        yield own
    finally:
        own.stop()
        shutil.rmtree(folder, ignore_errors=True)


class Standby:
    """A hot standby that streams from a server; it has the same roles and databases."""

    def __init__(self, primary: OwnServer) -> None:
        self._account = unprivileged_account()
        binaries = installed_binaries(primary.server.version)
        self._binaries = copied(binaries) if self._account else binaries
        self._folder = primary.folder / "standby"
        url = make_url(primary.server.superuser_url)
        assert url.host is not None
        assert url.username is not None
        self._spawn(
            "pg_basebackup", "--pgdata", self._folder / "data", "--write-recovery-conf", "--checkpoint=fast",
            "--host", url.host, "--port", str(url.port), "--username", url.username, password=str(url.password),
        ).wait(60)  # fmt: skip
        self.port = free_port()
        self.superuser_url = url.set(port=self.port).render_as_string(hide_password=False)
        self.process = self._spawn(
            "postgres", "-D", self._folder / "data", "-c", f"port={self.port}", "-c", "listen_addresses=127.0.0.1",
            "-c", "unix_socket_directories=", "-c", "max_connections=200",
        )  # fmt: skip

    def _spawn(self, program: str, *arguments: str | Path, password: str = "") -> subprocess.Popen[bytes]:
        self._folder.mkdir(exist_ok=True)
        account = self._account
        if account:
            os.chown(self._folder, account.pw_uid, account.pw_gid)
        with (self._folder / f"{program}.log").open("wb") as log:
            return subprocess.Popen(
                [self._binaries / program, *arguments],
                stdout=log,
                stderr=log,
                cwd=self._folder,
                env={"PATH": "/usr/bin:/bin", "LC_ALL": "C", "PGPASSWORD": password},
                user=account and account.pw_uid,
                group=account and account.pw_gid,
                extra_groups=account and [account.pw_gid],
                umask=0o077,
            )

    async def caught_up(self, primary: OwnServer) -> None:
        """Wait until it can be read and has replayed all that the primary has written."""
        connection = await asyncpg.connect(plain(primary.server.superuser_url))
        position = await connection.fetchval("SELECT pg_current_wal_lsn()")
        await connection.close()
        while not await self._has_replayed(position):  # noqa: ASYNC110 - replay is no event of ours
            await asyncio.sleep(0.05)

    async def _has_replayed(self, position: int) -> bool:
        assert self.process.poll() is None, "the standby has ended: see its log"
        try:
            connection = await asyncpg.connect(plain(self.superuser_url))
        except (OSError, asyncpg.CannotConnectNowError):
            return False
        reached: bool = await connection.fetchval("SELECT pg_last_wal_replay_lsn() >= $1", position)
        await connection.close()
        return reached

    async def promote(self) -> None:
        await execute(self.superuser_url, "SELECT pg_promote(true, 60)")

    def stop(self) -> None:
        self.process.send_signal(signal.SIGINT)
        self.process.wait(60)


@contextmanager
def standby_of(primary: OwnServer) -> Iterator[Standby]:
    standby = Standby(primary)
    try:
        yield standby
    finally:
        standby.stop()


def free_port() -> int:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port: int = unused.getsockname()[1]
        return port
