"""A fail-over behind one address, with a real standby that streams."""

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator

import pytest
from factories import POSTINGS, balance, new_owner, post, request
from proxy import Proxy, proxy_to, through
from pydantic import SecretStr
from servers import OwnServer, Standby, running_server, standby_of

from wallet_gql.db.engine import connect
from wallet_gql.domain.errors import Unavailable
from wallet_gql.domain.postings import Posted
from wallet_gql.operations.health import check_database
from wallet_gql.operations.opening import Ledger, open_ledger
from wallet_gql.operations.proof import prove


@pytest.fixture(scope="module")
def primary() -> Iterator[OwnServer]:
    with running_server() as own:
        yield own


@pytest.fixture
async def standby(primary: OwnServer) -> AsyncIterator[Standby]:
    with standby_of(primary) as standby:
        await standby.caught_up(primary)
        yield standby


@pytest.fixture
async def relay(primary: OwnServer) -> AsyncIterator[Proxy]:
    """The one address, which leads to one server or the other."""
    async with proxy_to(primary.settings()) as relay:
        yield relay


@pytest.fixture
async def service(primary: OwnServer, relay: Proxy) -> AsyncIterator[Ledger]:
    async with open_ledger(through(relay, primary.settings())) as service:
        yield service


async def use_connections(ledger: Ledger, count: int) -> None:
    """Use so many at once, so that as many lie in the pool."""

    async def use() -> None:
        async with connect(ledger.engine) as connection:
            await connection.execute("SELECT pg_sleep(0.1)")

    await asyncio.gather(*(use() for _ in range(count)), return_exceptions=True)


async def test_sessions_that_were_read_only_are_replaced_when_the_database_is_not(
    primary: OwnServer, service: Ledger
) -> None:
    owner = await new_owner(service, gold=10)
    await primary.execute("ALTER ROLE wallet_server SET default_transaction_read_only = on")
    try:
        await primary.execute(
            "SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity WHERE usename = 'wallet_server'"
        )
        await use_connections(service, 18)
        with pytest.raises(Unavailable):
            await post(service, "spend", owner, 1)
        # What is there is current, so it may be read.
        assert await balance(service, owner) == 10
        assert await check_database(service) == "read-only"
        await use_connections(service, 18)
    finally:
        await primary.execute("ALTER ROLE wallet_server RESET default_transaction_read_only")

    # One posting finds all that is left of it.
    assert isinstance(await post(service, "spend", owner, 1), Posted)
    assert await check_database(service) == "ok"


async def test_commits_that_a_crash_would_lose_are_not_ready(primary: OwnServer, service: Ledger) -> None:
    await primary.execute("ALTER SYSTEM SET full_page_writes = off")
    await primary.execute("SELECT pg_reload_conf()")
    try:
        async with asyncio.timeout(60):
            while await check_database(service) != "not durable":  # noqa: ASYNC110 - the server reads its file by itself
                await asyncio.sleep(0.05)
    finally:
        await primary.execute("ALTER SYSTEM RESET full_page_writes")
        await primary.execute("SELECT pg_reload_conf()")
    async with asyncio.timeout(60):
        while await check_database(service) != "ok":  # noqa: ASYNC110 - the same
            await asyncio.sleep(0.05)


# The last one here: it ends the primary.
async def test_service_follows_a_fail_over_and_reads_nothing_stale(
    primary: OwnServer, standby: Standby, relay: Proxy, service: Ledger
) -> None:
    owner = await new_owner(service, gold=10)
    await standby.caught_up(primary)
    # Its books can be proven where they are not written.
    url = service.settings.server_url().set(port=standby.port).render_as_string(hide_password=False)
    assert (await prove(service.settings.model_copy(update={"database_url": SecretStr(url)}))).findings == []
    primary_port = relay.server_port
    await use_connections(service, 12)

    # The address leads to the standby, and nothing is promoted.
    relay.server_port = standby.port
    relay.cut()
    await use_connections(service, 12)
    for _ in range(2):
        with pytest.raises(Unavailable):
            await post(service, "spend", owner, 1)
        with pytest.raises(Unavailable):
            await balance(service, owner)
        assert await check_database(service) == "read-only"

    # It leads to the primary again, while what was made meanwhile lives on.
    relay.server_port = primary_port
    assert isinstance(await post(service, "spend", owner, 1), Posted)
    assert await balance(service, owner) == 9
    assert await check_database(service) == "ok"
    await use_connections(service, 12)
    assert isinstance(await post(service, "spend", owner, 1), Posted)

    # The primary is lost, and the standby takes over.
    await standby.caught_up(primary)
    asked = request(owner, 1)
    primary.stop(signal.SIGQUIT)
    with pytest.raises(Unavailable):
        await POSTINGS["spend"](service, asked)
    relay.server_port = standby.port
    await standby.promote()
    outcome = await POSTINGS["spend"](service, asked)
    assert isinstance(outcome, Posted)
    assert not outcome.already_processed
    assert await balance(service, owner) == 7
    assert await check_database(service) == "ok"
    assert (await prove(service.settings)).findings == []
