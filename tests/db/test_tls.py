"""TLS to a real server, with certificates made for the run.

The embedded PostgreSQL is built without TLS: a door before it does what its own would, as a cloud's proxy does.
"""

import asyncio
import ssl
import struct
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

import asyncpg
import pytest
import uvloop
from authority import Authority
from pydantic import SecretStr
from sqlalchemy.engine import URL

from wallet_gql.db import migrations
from wallet_gql.db.connecting import NotConnected
from wallet_gql.db.engine import connect, create_engine
from wallet_gql.settings import Settings

SSL_REQUEST: Final = 80877103
CANCEL_REQUEST: Final = 80877102


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls") / "authority")


REFUSAL = b"SFATAL\0VFATAL\0C28000\0Mno pg_hba.conf entry, no encryption\0\0"


class Door:
    """Encrypts what goes to a server, and lets nothing in that is not; `encrypted` counts who came in."""

    def __init__(self, server_port: int, certificate: Path, key: Path, clients: Path | None = None) -> None:
        self.encrypted = 0
        self._server_port = server_port
        self._context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._context.load_cert_chain(certificate, key)
        if clients is not None:
            self._context.verify_mode = ssl.CERT_REQUIRED
            self._context.load_verify_locations(clients)
        self._loop = asyncio.new_event_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        # A loop and a thread of its own: migrations keep the test's thread busy.
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self.port: int = asyncio.run_coroutine_threadsafe(self._open(), self._loop).result()

    async def _open(self) -> int:
        self._listener = await asyncio.start_server(self._start, "127.0.0.1", 0)
        return int(self._listener.sockets[0].getsockname()[1])

    def _start(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = self._loop.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            _, code = struct.unpack("!ii", await reader.readexactly(8))
            if code == SSL_REQUEST:
                writer.write(b"S")
                await writer.start_tls(self._context)
                self.encrypted += 1
                answers, server = await asyncio.open_connection("127.0.0.1", self._server_port)
                await asyncio.gather(_copy(reader, server), _copy(answers, writer))
            elif code != CANCEL_REQUEST:
                writer.write(b"E" + struct.pack("!i", len(REFUSAL) + 4) + REFUSAL)
        writer.close()

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _end(self) -> None:
        self._listener.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def url(self, settings_url: URL, **query: str) -> URL:
        return settings_url.set(host="localhost", port=self.port, query=query)

    def settings(self, settings: Settings, **query: str) -> Settings:
        url = self.url(settings.server_url(), **query)
        return settings.model_copy(update={"database_url": SecretStr(url.render_as_string(hide_password=False))})


async def _copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    try:
        while data := await source.read(65536):
            target.write(data)
            await target.drain()
    finally:
        target.close()


@pytest.fixture(scope="module")
def door(authority: Authority, settings: Settings) -> Iterator[Door]:
    port = settings.server_url().port
    assert port is not None
    door = Door(port, *authority.sign("localhost", "subjectAltName=DNS:localhost"))
    yield door
    door.close()


async def enter(settings: Settings) -> None:
    engine = create_engine(settings)
    try:
        async with connect(engine) as connection:
            assert await connection.fetchval("SELECT shard_count FROM ledger") == settings.shard_count
    finally:
        await engine.dispose()


@pytest.mark.parametrize("mode", ["require", "prefer"])
async def test_connection_is_encrypted(door: Door, settings: Settings, mode: str) -> None:
    before = door.encrypted
    await enter(door.settings(settings, sslmode=mode))
    assert door.encrypted == before + 1


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_server_is_verified_by_its_authority_and_its_name(
    door: Door, authority: Authority, settings: Settings, loop: object
) -> None:
    own = door.settings(settings, sslmode="verify-full", sslrootcert=str(authority.certificate))

    with asyncio.Runner(loop_factory=loop) as runner:  # type: ignore[arg-type] # one of two loops
        runner.run(enter(own))


async def test_server_of_another_name_is_refused(door: Door, authority: Authority, settings: Settings) -> None:
    def at_its_address(mode: str) -> Settings:
        own = door.settings(settings, sslmode=mode, sslrootcert=str(authority.certificate))
        url = own.server_url().set(host="127.0.0.1").render_as_string(hide_password=False)
        return own.model_copy(update={"database_url": SecretStr(url)})

    with pytest.raises(NotConnected, match="certificate verify failed"):
        await enter(at_its_address("verify-full"))
    await enter(at_its_address("verify-ca"))


@pytest.mark.parametrize("mode", ["verify-ca", "verify-full"])
async def test_server_of_another_authority_is_refused(
    door: Door, settings: Settings, tmp_path: Path, mode: str
) -> None:
    other = Authority(tmp_path / "other")

    with pytest.raises(NotConnected, match="certificate verify failed"):
        await enter(door.settings(settings, sslmode=mode, sslrootcert=str(other.certificate)))


async def test_authorities_of_this_machine_are_those_it_is_told(
    door: Door, authority: Authority, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = door.settings(settings, sslmode="verify-full", sslrootcert="system")
    with pytest.raises(NotConnected, match="certificate verify failed"):
        await enter(own)

    monkeypatch.setenv("SSL_CERT_FILE", str(authority.certificate))
    await enter(own)


async def test_server_that_insists_on_tls_refuses_what_does_without(door: Door, settings: Settings) -> None:
    with pytest.raises(NotConnected, match="no encryption") as caught:
        await enter(door.settings(settings, sslmode="disable"))
    assert caught.value.sqlstate == "28000"


async def test_server_without_tls_is_refused_where_it_is_asked_for(settings: Settings) -> None:
    url = settings.server_url().set(query={"sslmode": "require"}).render_as_string(hide_password=False)
    with pytest.raises(NotConnected, match="rejected SSL upgrade"):
        await enter(settings.model_copy(update={"database_url": SecretStr(url)}))


def test_migrations_and_the_service_take_the_same_parameters(authority: Authority, settings: Settings) -> None:
    port = settings.server_url().port
    assert port is not None
    door = Door(port, *authority.sign("localhost", "subjectAltName=DNS:localhost"), authority.certificate)
    try:
        verified = {"sslmode": "verify-full", "sslrootcert": str(authority.certificate)}
        certificate, key = map(str, authority.sign("wallet"))
        with pytest.raises((NotConnected, asyncpg.PostgresConnectionError)):
            migrations.upgrade(door.url(settings.owner_url(), **verified), settings.server_role())

        own = {**verified, "sslcert": certificate, "sslkey": key}
        migrations.upgrade(door.url(settings.owner_url(), **own), settings.server_role())
        asyncio.run(enter(door.settings(settings, **own)))
        assert door.encrypted == 2
    finally:
        door.close()
