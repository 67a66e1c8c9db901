import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import asyncpg
import pytest
from factories import balance, new_owner, post
from proxy import open_through_proxy
from sqlalchemy.ext.asyncio import AsyncEngine

from wallet_gql.db.engine import close, connect, create_engine, lend
from wallet_gql.domain.errors import Unavailable
from wallet_gql.domain.postings import Posted
from wallet_gql.ledger.treasury import SLOT_COUNT
from wallet_gql.operations.opening import open_ledger
from wallet_gql.operations.proof import prove
from wallet_gql.operations.unit_of_work import unit_of_work
from wallet_gql.settings import Settings

EXPECTED = {
    "default_transaction_isolation": "read committed",
    "statement_timeout": "7s",
    "lock_timeout": "2500ms",
    "idle_in_transaction_session_timeout": "9s",
    "jit": "off",
    "enable_seqscan": "off",
    "TimeZone": "UTC",
}


@pytest.fixture
def own(settings: Settings) -> Settings:
    """Settings whose timeouts are nobody's defaults."""
    return settings.model_copy(
        update={
            "statement_timeout_seconds": 7,
            "lock_timeout_seconds": 2.5,
            "idle_in_transaction_timeout_seconds": 9,
        }
    )


@pytest.fixture
async def engine(own: Settings) -> AsyncIterator[AsyncEngine]:
    engine = create_engine(own)
    yield engine
    await engine.dispose()


async def shown(connection: asyncpg.Connection) -> dict[str, str]:
    return {name: await connection.fetchval(f"SHOW {name}") for name in EXPECTED}


async def test_every_session_has_the_settings(engine: AsyncEngine) -> None:
    async with lend(engine) as connection:
        assert await shown(connection) == EXPECTED


async def test_a_connection_that_the_server_closed_is_replaced(engine: AsyncEngine) -> None:
    async with lend(engine) as connection:
        pid = connection.get_server_pid()
    killer = await asyncpg.connect(engine.url.set(drivername="postgresql").render_as_string(hide_password=False))
    await killer.execute("SELECT pg_terminate_backend($1)", pid)
    while await killer.fetchval("SELECT count(*) FROM pg_stat_activity WHERE pid = $1", pid):  # noqa: ASYNC110 - a process's end is no event
        await asyncio.sleep(0.01)
    await killer.close()
    async with lend(engine) as connection:
        assert connection.get_server_pid() != pid
        assert await connection.fetchval("SELECT 1") == 1


async def test_a_connection_left_inside_a_transaction_is_thrown_away(engine: AsyncEngine) -> None:
    async with lend(engine) as connection:
        pid = connection.get_server_pid()
        await connection.execute("BEGIN")
    async with lend(engine) as connection:
        assert connection.get_server_pid() != pid


async def test_connections_to_a_database_that_fell_silent_are_cut_at_the_end(settings: Settings) -> None:
    made: list[asyncpg.Connection] = []
    async with open_through_proxy(settings, flow_at_end=False) as (ledger, proxy):
        async with AsyncExitStack() as stack:
            made += [await stack.enter_async_context(lend(ledger.engine)) for _ in range(5)]
        proxy.stall()
    assert [connection.is_closed() for connection in made] == [True] * 5


async def test_a_closed_engine_makes_no_connection(own: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[asyncpg.Connection] = []
    engine = create_engine(own)
    connect_now, may_connect = asyncpg.connect, asyncio.Event()

    async def connect_late(**arguments: Any) -> asyncpg.Connection:
        await may_connect.wait()
        made.append(await connect_now(**arguments))
        return made[-1]

    async def ask() -> None:
        async with lend(engine):
            pass

    monkeypatch.setattr(asyncpg, "connect", connect_late)
    late = asyncio.create_task(ask())
    await asyncio.sleep(0.01)
    await close(engine)
    may_connect.set()
    with pytest.raises(Unavailable):
        await late
    with pytest.raises(Unavailable):
        await ask()
    assert [connection.is_closed() for connection in made] == [True]


async def test_behind_pgbouncer_each_transaction_has_the_settings_and_the_session_keeps_nothing(own: Settings) -> None:
    engine = create_engine(own.model_copy(update={"pgbouncer": True, "pool_size": 10}))
    try:
        async with unit_of_work(engine) as connection:
            assert await shown(connection) == EXPECTED
        async with connect(engine) as connection:
            assert await shown(connection) == EXPECTED
        async with lend(engine) as connection:
            assert (await connection.fetchval("SHOW lock_timeout")) == "0"
            assert await connection.fetchval("SELECT count(*) FROM pg_prepared_statements WHERE name <> ''") == 0
    finally:
        await engine.dispose()


async def test_behind_pgbouncer_the_service_posts_and_reads_without_a_session_lock(own: Settings) -> None:
    async with open_ledger(own.model_copy(update={"pgbouncer": True})) as ledger:
        assert ledger.slot in range(SLOT_COUNT)
        owner = await new_owner(ledger, gold=5)
        assert isinstance(await post(ledger, "spend", owner, 2), Posted)
        assert await balance(ledger, owner) == 3
        async with lend(ledger.engine) as connection:
            held = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()"
            assert await connection.fetchval(held) == 0
    assert (await prove(own)).findings == []
