"""Connections to hosts that are silent, gone, or there again."""

import asyncio
import socket
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress

import pytest
import uvloop
from factories import POSTINGS, balance, new_owner, new_owner_id, post
from proxy import open_through_proxy
from pydantic import SecretStr

from wallet_gql.db.connecting import KEEPALIVES, NotConnected
from wallet_gql.db.engine import connect, create_engine
from wallet_gql.domain.errors import Fault
from wallet_gql.operations.opening import Ledger, open_ledger
from wallet_gql.settings import Settings

DEADLINE_SECONDS = 4.0

FEW = {"request_deadline_seconds": DEADLINE_SECONDS, "pool_size": 20}


async def fill_pool(ledger: Ledger, count: int) -> None:
    """Use so many connections at once, and let them lie in the pool."""
    deadline = asyncio.get_running_loop().time() + DEADLINE_SECONDS
    async with AsyncExitStack() as stack:
        for _ in range(count):
            connection = await stack.enter_async_context(connect(ledger.engine, deadline=deadline))
            assert await connection.fetchval("SELECT 1") == 1


async def ask_all(ledger: Ledger, owner: str) -> list[Fault]:
    """Ask for postings in both lanes and for reads, all at once; returns the faults."""
    results = await asyncio.gather(
        *(post(ledger, verb, owner, 1) for verb in POSTINGS),
        *(post(ledger, "top_up", new_owner_id(), 1) for _ in range(5)),
        *(balance(ledger, owner) for _ in range(2)),
        return_exceptions=True,
    )
    return [result for result in results if isinstance(result, Fault)]


async def test_a_host_that_vanished_costs_one_deadline_however_many_connections_led_to_it(
    ledger: Ledger, settings: Settings
) -> None:
    async with open_through_proxy(settings.model_copy(update=FEW)) as (service, proxy):
        owner = await new_owner(service, gold=10)
        await fill_pool(service, 18)

        proxy.vanish()
        assert await ask_all(service, owner) != []

        # Not only who comes next is served: all connections are.
        await fill_pool(service, 18)
        assert await ask_all(service, owner) == []
        assert await balance(ledger, owner) == 11


async def test_a_slow_answer_costs_only_who_did_not_answer(settings: Settings) -> None:
    engine = create_engine(settings.model_copy(update=FEW))
    async with AsyncExitStack() as stack:
        pids = [(await stack.enter_async_context(connect(engine))).get_server_pid() for _ in range(3)]
    loop = asyncio.get_running_loop()

    async def wait_in_vain() -> None:
        with pytest.raises(TimeoutError):
            async with connect(engine, deadline=loop.time() + 1) as connection:
                await connection.execute("SELECT pg_sleep(60)")

    waiting = asyncio.create_task(wait_in_vain())
    await asyncio.sleep(0.2)
    async with connect(engine) as connection:
        answered = connection.get_server_pid()
        await connection.execute("SELECT 1")
    await waiting

    async with AsyncExitStack() as stack:
        found = [(await stack.enter_async_context(connect(engine))).get_server_pid() for _ in range(3)]
    assert set(found) & set(pids) == {answered}
    await engine.dispose()


async def test_the_connection_that_came_back_last_is_lent_first(settings: Settings) -> None:
    engine = create_engine(settings)
    async with connect(engine) as first:
        async with connect(engine) as second:
            last = second.get_server_pid()
        for _ in range(3):
            async with connect(engine) as connection:
                assert connection.get_server_pid() == last
        last = first.get_server_pid()
    async with connect(engine) as connection:
        assert connection.get_server_pid() == last
    await engine.dispose()


class SilentHost(socket.socket):
    """A host to which one can connect, but which never says a word."""

    def __init__(self) -> None:
        super().__init__()
        self.bind(("127.0.0.1", 0))
        self.listen(50)
        self.setblocking(False)
        self.port: int = self.getsockname()[1]

    def visitors(self) -> int:
        """Count who came since this was last asked, and send them away."""
        count = 0
        with suppress(BlockingIOError):
            while True:
                self.accept()[0].close()
                count += 1
        return count


async def test_silent_first_host_does_not_keep_from_the_second(ledger: Ledger, settings: Settings) -> None:
    url = settings.server_url()
    with SilentHost() as silent:
        both = url.set(host=None, port=None, query={"host": "127.0.0.1,127.0.0.1", "port": f"{silent.port},{url.port}"})
        changes = {
            "database_url": SecretStr(both.render_as_string(hide_password=False)),
            "connect_timeout_seconds": 1.0,
        }
        async with open_ledger(settings.model_copy(update=changes)) as service:
            owner = await new_owner(service, gold=10)
            assert silent.visitors() == 1
            # The host that served is asked first from then on.
            await fill_pool(service, 10)
            assert silent.visitors() == 0
    assert await balance(ledger, owner) == 10


async def test_hosts_that_cannot_be_had_are_named_with_their_reasons(settings: Settings) -> None:
    with socket.socket() as unused, SilentHost() as silent:
        unused.bind(("127.0.0.1", 0))
        gone = unused.getsockname()[1]
        url = settings.server_url().set(
            host=None, port=None, query={"host": "127.0.0.1,127.0.0.1", "port": f"{gone},{silent.port}"}
        )
        engine = create_engine(settings.model_copy(update={"connect_timeout_seconds": 0.5}), url)
        with pytest.raises(NotConnected, match=f"127.0.0.1:{gone}: .*; 127.0.0.1:{silent.port}: no answer in time"):
            async with connect(engine):
                pass
        await engine.dispose()


LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}


def socket_options(loop: str, settings: Settings, *options: str) -> list[int]:
    async def read() -> list[int]:
        engine = create_engine(settings)
        async with connect(engine) as connection:
            own = connection._transport.get_extra_info("socket")
            found = [own.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)]
            found += [own.getsockopt(socket.IPPROTO_TCP, getattr(socket, option)) for option in options]
            connection.terminate()
            await asyncio.sleep(0)
        await engine.dispose()
        return found

    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        return runner.run(read())


LINUX = ("TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT", "TCP_USER_TIMEOUT")


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="this system's sockets have no such option")
@pytest.mark.parametrize("loop", LOOPS)
def test_sockets_notice_a_silent_end(settings: Settings, loop: str) -> None:
    url = settings.server_url()
    own = url.set(query={"keepalives_idle": "40", "keepalives_count": "9", "tcp_user_timeout": "7000"})
    given = settings.model_copy(update={"database_url": SecretStr(own.render_as_string(hide_password=False))})

    assert socket_options(loop, settings, *LINUX) == [1, *KEEPALIVES, 5000]
    assert socket_options(loop, given, *LINUX) == [1, 40, KEEPALIVES[1], 9, 7000]
