import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from typing import Final

import pytest
from conftest import execute
from factories import POSTINGS, balance, new_owner, new_owner_id, post, request
from proxy import COMMIT, Fate, open_through_proxy, proxy_to
from pydantic import SecretStr
from servers import OwnServer, running_server
from sqlalchemy.ext.asyncio import AsyncEngine
from tables import count_rows

from wallet_gql.db.engine import connect
from wallet_gql.domain.errors import Fault, OutcomeUnknown, Unavailable
from wallet_gql.domain.postings import Posted, Refused
from wallet_gql.operations import health
from wallet_gql.operations.health import check_database
from wallet_gql.operations.opening import Ledger, open_ledger
from wallet_gql.operations.postings import PostingInput
from wallet_gql.operations.proof import prove
from wallet_gql.operations.unit_of_work import unit_of_work
from wallet_gql.operations.wallets import open_wallet
from wallet_gql.settings import Settings

# Much more than any of this takes: the machine may be busy.
PATIENCE_SECONDS: Final = 120


@pytest.fixture(scope="module")
def own_server() -> Iterator[OwnServer]:
    with running_server() as own:
        yield own


@pytest.fixture
async def own_ledger(own_server: OwnServer) -> AsyncIterator[Ledger]:
    own_server.start()  # a test that failed may have left it stopped
    async with open_ledger(own_server.settings()) as ledger:
        yield ledger
        assert (await prove(own_server.settings())).findings == []


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not condition():  # noqa: ASYNC110 - what is awaited has no event of its own
            await asyncio.sleep(0.005)


async def everything(ledger: Ledger, owner: str) -> list[object]:
    """Ask for a posting of each verb, in each lane, and for reads, all at once; returns outcomes and faults."""
    return await asyncio.gather(
        *(post(ledger, verb, owner, 1) for verb in POSTINGS),
        *(post(ledger, "top_up", new_owner_id(), 1) for _ in range(10)),
        *(balance(ledger, owner) for _ in range(3)),
        open_wallet(ledger, owner),
        return_exceptions=True,
    )


def faults(results: list[object]) -> list[BaseException]:
    return [result for result in results if isinstance(result, BaseException)]


async def test_database_away_is_unavailable_until_it_is_back(ledger: Ledger, settings: Settings) -> None:
    async with open_through_proxy(settings) as (service, proxy):
        owner = await new_owner(service, gold=10)
        before = await count_rows(settings)
        asked = request(owner, 5)

        proxy.refuse()
        for _ in range(2):
            results = await everything(service, owner)
            # Nothing was sent, so never OutcomeUnknown; and the deadline is not waited for.
            assert [type(result) for result in results] == [Unavailable] * len(results)
            with pytest.raises(Unavailable, match="could not be reached"):
                await POSTINGS["spend"](service, asked)
            assert await check_database(service) == "away"
        assert await count_rows(settings) == before

        await proxy.accept()
        assert await check_database(service) == "ok"
        outcome = await POSTINGS["spend"](service, asked)
        assert isinstance(outcome, Posted)
        assert not outcome.already_processed
        assert faults(await everything(service, owner)) == []
        assert await balance(ledger, owner) == 6


async def test_connections_that_were_cut_in_the_pool_are_replaced_unnoticed(ledger: Ledger, settings: Settings) -> None:
    async with open_through_proxy(settings) as (service, proxy):
        owner = await new_owner(service, gold=10)
        for _ in range(3):
            assert faults(await everything(service, owner)) == []
            proxy.cut()
        assert faults(await everything(service, owner)) == []
        assert await balance(ledger, owner) == 14


async def test_database_that_comes_back_meanwhile_is_waited_for(ledger: Ledger, settings: Settings) -> None:
    async with open_through_proxy(settings) as (service, proxy):
        owner = await new_owner(service, gold=10)
        proxy.refuse()
        everyone = asyncio.create_task(everything(service, owner))
        await asyncio.sleep(0.05)
        await proxy.accept()

        assert faults(await everyone) == []
        assert await balance(ledger, owner) == 11


async def test_silent_database_is_slow(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "ANSWER_WITHIN_SECONDS", 0.2)
    async with open_through_proxy(settings) as (service, proxy):
        proxy.stall()
        assert await check_database(service) == "slow"
        proxy.flow()
        monkeypatch.setattr(health, "ANSWER_WITHIN_SECONDS", PATIENCE_SECONDS)
        assert await check_database(service) == "ok"


async def test_first_host_away_the_second_serves(ledger: Ledger, settings: Settings) -> None:
    url = settings.server_url()
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        hosts = f"host=127.0.0.1:{unused.getsockname()[1]}&host=127.0.0.1:{url.port}"
        both = f"postgresql+asyncpg://{url.username}:{url.password}@/{url.database}?{hosts}"
        async with open_ledger(settings.model_copy(update={"database_url": SecretStr(both)})) as service:
            owner = await new_owner(service, gold=10)
            assert faults(await everything(service, owner)) == []
            assert await check_database(service) == "ok"
    assert await balance(ledger, owner) == 11


async def test_service_follows_a_fail_over_and_back(ledger: Ledger, settings: Settings) -> None:
    url = settings.server_url()
    async with proxy_to(settings) as first, proxy_to(settings) as second:
        hosts = f"host=127.0.0.1:{first.port}&host=127.0.0.1:{second.port}&target_session_attrs=read-write"
        both = f"postgresql+asyncpg://{url.username}:{url.password}@/{url.database}?{hosts}"
        async with open_ledger(settings.model_copy(update={"database_url": SecretStr(both)})) as service:
            owner = await new_owner(service, gold=10)
            for away, back in ((first, second), (second, first), (first, second)):
                away.refuse()
                assert faults(await everything(service, owner)) == []
                await away.accept()
                back.cut()
            assert await balance(ledger, owner) == 13


async def timeouts(engine: AsyncEngine) -> set[tuple[str, ...]]:
    """Return what holds in the sessions of an engine's pool, old and new ones."""
    names = ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout")
    async with AsyncExitStack() as stack:
        connections = [await stack.enter_async_context(connect(engine)) for _ in range(8)]
        return {tuple([await connection.fetchval(f"SHOW {name}") for name in names]) for connection in connections}


async def test_every_session_has_its_timeouts_and_keeps_them(ledger: Ledger, settings: Settings) -> None:
    changes = {
        "statement_timeout_seconds": 77,
        "lock_timeout_seconds": 33.5,
        "idle_in_transaction_timeout_seconds": 111,
    }
    expected = {("77s", "33500ms", "111s")}
    async with open_ledger(settings.model_copy(update=changes)) as service:
        owner = await new_owner(service)
        assert await timeouts(service.engine) == expected
        # A request that waits for a held wallet waits no longer than its deadline, and leaves nothing of that behind.
        async with unit_of_work(ledger.engine) as connection:
            await connection.execute("SELECT FROM wallet WHERE owner_id = $1 FOR NO KEY UPDATE", owner)
            task = asyncio.create_task(post(service, "top_up", owner, 1))
            await until(lambda: service.commits.figures.parked_count == 1)
        assert isinstance(await task, Posted)
        assert await timeouts(service.engine) == expected


async def test_worker_stopped_in_mid_transaction_does_not_keep_its_locks(ledger: Ledger, settings: Settings) -> None:
    stopped = settings.model_copy(update={"idle_in_transaction_timeout_seconds": 0.5})
    async with open_through_proxy(stopped) as (service, proxy):
        owner = await new_owner(service, gold=10)
        before = await count_rows(settings)
        proxy.on(COMMIT, Fate.HELD)
        late = asyncio.create_task(post(service, "top_up", owner, 100))
        await until(lambda: proxy.count == 1)

        outcome = await post(ledger, "top_up", owner, 1)

        assert isinstance(outcome, Posted)
        assert outcome.balance.amount_minor == 11
        proxy.release()
        outcome = await late
        assert isinstance(outcome, Posted)
        assert (outcome.balance.amount_minor, outcome.already_processed) == (111, False)
        assert (await count_rows(settings)).transactions == before.transactions + 2


CLOSED = "ALTER DATABASE wallet ALLOW_CONNECTIONS {}"
ENDED = "SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity WHERE usename LIKE 'wallet%'"

# How a login comes to be refused, and how that ends.
REFUSED_LOGINS = {
    "password changed": (["ALTER ROLE wallet_server PASSWORD 'rotated'"], ["ALTER ROLE wallet_server PASSWORD '{}'"]),
    "role closed": (["ALTER ROLE wallet_server NOLOGIN"], ["ALTER ROLE wallet_server LOGIN"]),
    "database closed": ([CLOSED.format("false")], [CLOSED.format("true")]),
    "database gone": (
        [CLOSED.format("false"), ENDED, "ALTER DATABASE wallet RENAME TO other"],
        ["ALTER DATABASE other RENAME TO wallet", CLOSED.format("true")],
    ),
    "right to connect revoked": (
        ["REVOKE CONNECT ON DATABASE wallet FROM PUBLIC, wallet_server"],
        ["GRANT CONNECT ON DATABASE wallet TO wallet_server"],
    ),
    "no more connections": (
        ["ALTER ROLE wallet_server CONNECTION LIMIT 0"],
        ["ALTER ROLE wallet_server CONNECTION LIMIT -1"],
    ),
}


@pytest.mark.parametrize("case", REFUSED_LOGINS)
async def test_login_that_is_refused_is_unavailable_until_it_is_not(
    own_server: OwnServer, own_ledger: Ledger, case: str
) -> None:
    owner = await new_owner(own_ledger, gold=10)
    before = await count_rows(own_server.settings())
    refuse, allow = REFUSED_LOGINS[case]
    await own_server.execute(*refuse, ENDED)
    try:
        for _ in range(2):
            results = await everything(own_ledger, owner)
            assert [type(result) for result in results] == [Unavailable] * len(results)
            assert await check_database(own_ledger) == ("away" if case == "no more connections" else "refused")
    finally:
        password = own_server.settings().server_url().password
        await own_server.execute(*(statement.format(password) for statement in allow))
    # Healthy again by itself, and nothing was posted meanwhile.
    assert await check_database(own_ledger) == "ok"
    assert await count_rows(own_server.settings()) == before
    assert faults(await everything(own_ledger, owner)) == []
    assert await balance(own_ledger, owner) == 11


async def test_right_that_is_missing_is_no_word_of_the_database_but_a_line_in_the_log(
    own_server: OwnServer, own_ledger: Ledger, capsys: pytest.CaptureFixture[str]
) -> None:
    url = own_server.settings().owner_url().render_as_string(hide_password=False)
    await execute(url, "REVOKE SELECT ON ledger FROM wallet_server")
    try:
        assert await check_database(own_ledger) == "faulty"
    finally:
        await execute(url, "GRANT SELECT ON ledger TO wallet_server")
    assert "permission denied for table ledger" in capsys.readouterr().out
    assert await check_database(own_ledger) == "ok"


async def test_database_that_only_reads_is_unavailable_for_postings(own_server: OwnServer, own_ledger: Ledger) -> None:
    owner = await new_owner(own_ledger, gold=10)
    asked = request(owner, 5)
    await set_read_only(own_server, own_ledger, "on")
    try:
        with pytest.raises(Unavailable):
            await POSTINGS["spend"](own_ledger, asked)
        assert await balance(own_ledger, owner) == 10
        assert await check_database(own_ledger) == "read-only"
    finally:
        await set_read_only(own_server, own_ledger, "off")

    outcome = await POSTINGS["spend"](own_ledger, asked)
    assert isinstance(outcome, Posted)
    assert not outcome.already_processed
    assert await balance(own_ledger, owner) == 5


async def set_read_only(own_server: OwnServer, ledger: Ledger, value: str) -> None:
    await own_server.execute(f"ALTER SYSTEM SET default_transaction_read_only = {value}", "SELECT pg_reload_conf()")
    async with asyncio.timeout(PATIENCE_SECONDS), connect(ledger.engine) as connection:
        while await connection.fetchval("SHOW default_transaction_read_only") != value:  # noqa: ASYNC110 - a reload is no event
            await asyncio.sleep(0.01)


@dataclass
class Load:
    """Players who post without a pause, several to a wallet, and what each was answered."""

    ledger: Ledger
    answered: list[tuple[str, PostingInput, Posted | Refused]] = field(default_factory=list)
    unanswered: list[tuple[str, PostingInput, Fault]] = field(default_factory=list)
    is_over: bool = False

    async def play(self, owner: str, player: int) -> None:
        turn = 0
        while not self.is_over:
            turn += 1
            verb = "spend" if turn % 3 == 0 else "top_up"
            asked = request(owner, (turn + player) % 5 + 1)
            try:
                outcome = await POSTINGS[verb](self.ledger, asked)
            except (Unavailable, OutcomeUnknown) as fault:
                self.unanswered.append((verb, asked, fault))
            else:
                assert isinstance(outcome, Posted | Refused)
                assert not outcome.already_processed
                self.answered.append((verb, asked, outcome))

    async def grows(self, answers: int = 0, silences: int = 0) -> None:
        answers, silences = answers + len(self.answered), silences + len(self.unanswered)
        await until(lambda: len(self.answered) >= answers and len(self.unanswered) >= silences)


async def stop_and_start(own_server: OwnServer, load: Load, how: signal.Signals) -> None:
    port = own_server.server.port
    own_server.stop(how)
    await load.grows(silences=20)
    assert await check_database(load.ledger) == "away"
    own_server.start()
    assert own_server.server.port == port


async def stop_at_once(own_server: OwnServer, load: Load) -> None:
    await stop_and_start(own_server, load, signal.SIGQUIT)


async def stop_fast(own_server: OwnServer, load: Load) -> None:
    await stop_and_start(own_server, load, signal.SIGINT)


async def kill_a_session(own_server: OwnServer, load: Load) -> None:
    """Kill one: the server ends all others, too, for what it left in the shared memory, and recovers."""
    async with connect(load.ledger.engine) as connection:
        os.kill(connection.get_server_pid(), signal.SIGKILL)
    del own_server


async def end_all_sessions(own_server: OwnServer, load: Load) -> None:
    for _ in range(5):
        await own_server.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename LIKE 'wallet%'")
        await load.grows(answers=20)


async def ask_again(
    ledger: Ledger, asked: Sequence[tuple[str, PostingInput, object]]
) -> list[tuple[PostingInput, Posted | Refused]]:
    """Ask for the same as before, a few hundred at once; returns what is told now."""
    told = []
    for first in range(0, len(asked), 400):
        part = asked[first : first + 400]
        outcomes = await asyncio.gather(*(POSTINGS[verb](ledger, again) for verb, again, _ in part))
        for (_, again, _), outcome in zip(part, outcomes, strict=True):
            assert isinstance(outcome, Posted | Refused)
            told.append((again, outcome))
    return told


@pytest.mark.parametrize("disaster", [stop_at_once, stop_fast, kill_a_session, end_all_sessions])
async def test_under_load_every_answer_stays_true_and_every_key_is_posted_once(
    own_server: OwnServer, own_ledger: Ledger, disaster: Callable[[OwnServer, Load], Awaitable[None]]
) -> None:
    settings = own_server.settings()
    owners = [await new_owner(own_ledger, gold=5) for _ in range(8)]
    before = await count_rows(settings)
    load = Load(own_ledger)
    players = asyncio.gather(*(load.play(owner, player) for owner in owners for player in range(5)))

    await load.grows(answers=300)
    await disaster(own_server, load)
    await load.grows(answers=300)
    load.is_over = True
    await players

    # What was answered is in the books, as it was answered.
    final = await ask_again(own_ledger, load.answered)
    for (_, _, outcome), (_, told) in zip(load.answered, final, strict=True):
        assert told == replace(outcome, balance=told.balance, already_processed=True)
    # What was not answered is posted when it is asked again, or was; and then it is told the same for ever.
    found = await ask_again(own_ledger, load.unanswered)
    for (_, told), (_, told_again) in zip(found, await ask_again(own_ledger, load.unanswered), strict=True):
        assert told_again == replace(told, balance=told_again.balance, already_processed=True)
    final += found
    posted = [(asked.owner_id, told.transaction) for asked, told in final if isinstance(told, Posted)]
    assert len({transaction.id for _, transaction in posted}) == len(posted)
    for owner in owners:
        own = [transaction for owner_id, transaction in posted if owner_id == owner]
        assert sorted(transaction.seq for transaction in own) == list(range(2, 2 + len(own)))
        assert await balance(own_ledger, owner) == 5 + sum(transaction.amount_minor for transaction in own)
    assert await count_rows(settings) == before._replace(
        transactions=before.transactions + len(posted),
        entries=before.entries + 2 * len(posted),
        keys=before.keys + len(final),
    )
