"""API keys: what operators do with them, and how soon workers know."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import asyncpg
import pytest
from asyncpg import Connection
from sqlalchemy.ext.asyncio import AsyncEngine
from watched import statements_of

from wallet_gql.db.api_keys import find_key
from wallet_gql.db.engine import close, connect, create_engine
from wallet_gql.domain.access import ActorKind, Scope
from wallet_gql.domain.api_keys import ApiKey, PresentedKey, make_key, read_key
from wallet_gql.domain.errors import BadUserInput, Overloaded, Unavailable
from wallet_gql.operations import api_keys
from wallet_gql.operations.api_keys import KeyInput, Keyring
from wallet_gql.operations.opening import Ledger
from wallet_gql.settings import Settings

pytestmark = pytest.mark.anyio


@pytest.fixture
async def owner(settings: Settings) -> AsyncIterator[AsyncEngine]:
    engine = create_engine(settings, settings.owner_url())
    yield engine
    await close(engine)


def id_of(text: str) -> str:
    key = read_key(text)
    assert key is not None
    return key.id


async def known(ledger: Ledger) -> Keyring:
    ring = Keyring(ledger.engine, "live")
    await ring.read()
    return ring


async def test_a_key_says_who_its_holder_is_and_what_it_may_do(ledger: Ledger, owner: AsyncEngine) -> None:
    asked = KeyInput("game-server", ["wallet:spend", "wallet:read"], "eu-", timedelta(days=1))
    text = await api_keys.create_key(owner, "live", asked)
    caller = await (await known(ledger)).find(text)
    assert caller is not None
    assert (caller.kind, caller.name) == (ActorKind.API_KEY, "game-server")
    assert caller.scopes == {Scope.SPEND, Scope.WALLET_READ}
    assert [caller.reaches(owner_id) for owner_id in ("eu-1", "us-1", "eu")] == [True, False, False]


async def test_what_is_not_exactly_a_key_that_is_good_lets_nobody_in(ledger: Ledger, owner: AsyncEngine) -> None:
    text = await api_keys.create_key(owner, "live", KeyInput("server", ["wallet:read"]))
    other = make_key("live")
    ring = await known(ledger)
    assert await ring.find(text) is not None
    forged = text[:17] + other[17:]
    for wrong in (other, forged, text[:-1], text + "0", text.lower(), f" {text}", "", make_key("test")):
        assert await ring.find(wrong) is None


async def test_a_key_that_was_used_is_known_by_its_header_until_all_are_read_again(
    ledger: Ledger, owner: AsyncEngine
) -> None:
    text = await api_keys.create_key(owner, "live", KeyInput("server", ["wallet:read"]))
    header, ring = f"Bearer {text}".encode(), await known(ledger)
    assert ring.recall(header) is None
    ring.used.clear()
    caller = await ring.find(text)
    ring.used.clear()
    assert ring.recall(header) == caller
    assert ring.used == {id_of(text)}
    for other in (f"bearer {text}", f"Bearer  {text}", f"Bearer {text} ", text, f"Bearer {make_key('live')}", ""):
        assert ring.recall(other.encode()) is None
    await api_keys.revoke_key(owner, id_of(text))
    await ring.read()
    assert ring.recall(header) is None


async def test_a_key_is_not_known_by_its_header_where_keys_have_not_been_read_for_long(
    ledger: Ledger, owner: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = await api_keys.create_key(owner, "live", KeyInput("server", ["wallet:read"]))
    header, ring = f"Bearer {text}".encode(), await known(ledger)
    monkeypatch.setattr(api_keys, "GOOD_FOR_SECONDS", 0.2)
    await ring.read()
    assert await ring.find(text) == ring.recall(header) is not None
    async with asyncio.timeout(5):
        while ring.recall(header) is not None:  # noqa: ASYNC110 - nobody tells it
            await asyncio.sleep(0.05)
    with pytest.raises(Unavailable):
        await ring.find(text)


async def test_each_mode_refuses_the_keys_of_the_other(ledger: Ledger, owner: AsyncEngine) -> None:
    text = await api_keys.create_key(owner, "test", KeyInput("server", ["wallet:read"]))
    assert await (await known(ledger)).find(text) is None
    ring = Keyring(ledger.engine, "test")
    await ring.read()
    assert await ring.find(text) is not None


async def test_a_revoked_key_lets_nobody_in_and_stays_revoked(ledger: Ledger, owner: AsyncEngine) -> None:
    text = await api_keys.create_key(owner, "live", KeyInput("server", ["wallet:read"]))
    ring = await known(ledger)
    await api_keys.revoke_key(owner, id_of(text))
    first = await listed(owner, text)
    await api_keys.revoke_key(owner, id_of(text))
    assert await listed(owner, text) == first
    assert first.revoked_at is not None
    await ring.read()
    assert await ring.find(text) is None
    with pytest.raises(BadUserInput, match="is not of an active key"):
        await api_keys.rotate_key(owner, id_of(text))


async def listed(owner: AsyncEngine, text: str) -> ApiKey:
    found = next(key for key in await api_keys.list_keys(owner) if key.id == id_of(text))
    return replace(found, read_at=found.created_at)


async def test_a_rotated_key_goes_on_for_a_day_beside_its_successor(ledger: Ledger, owner: AsyncEngine) -> None:
    asked = KeyInput("server", ["wallet:spend"], "eu-")
    text = await api_keys.create_key(owner, "live", asked)
    successor = await api_keys.rotate_key(owner, id_of(text))
    ring = await known(ledger)
    caller = await ring.find(text)
    assert caller is not None
    other = await ring.find(successor)
    assert other is not None
    assert replace(other, budget_id=caller.budget_id) == caller
    old, new = await listed(owner, text), await listed(owner, successor)
    assert old.expires_at is not None
    assert timedelta(hours=24) <= old.expires_at - old.created_at < timedelta(hours=25)
    assert new.expires_at is None


async def test_a_key_ends_by_itself(ledger: Ledger, owner: AsyncEngine, owner_connection: Connection) -> None:
    text = await api_keys.create_key(owner, "live", KeyInput("server", ["wallet:read"], "", timedelta(minutes=1)))
    assert await (await known(ledger)).find(text) is not None
    await owner_connection.execute("UPDATE api_key SET expires_at = clock_timestamp() WHERE id = $1", id_of(text))
    assert await (await known(ledger)).find(text) is None


async def test_use_is_noted_roughly(ledger: Ledger, owner: AsyncEngine) -> None:
    text = await api_keys.create_key(owner, "live", KeyInput("server", ["wallet:read"]))
    ring = await known(ledger)
    assert (await listed(owner, text)).last_used_at is None
    await ring.find(text)
    await ring.note_use()
    used = (await listed(owner, text)).last_used_at
    assert used is not None
    await ring.find(text)
    await ring.note_use()
    assert (await listed(owner, text)).last_used_at == used


async def test_keys_that_cannot_be_read_let_nobody_in(ledger: Ledger, owner: AsyncEngine) -> None:
    text = await api_keys.create_key(owner, "live", KeyInput("server", ["wallet:read"]))
    ring = await known(ledger)
    ring.read_at -= api_keys.GOOD_FOR_SECONDS
    with pytest.raises(Unavailable):
        await ring.find(text)


async def test_a_worker_knows_new_and_revoked_keys_within_five_seconds(ledger: Ledger, owner: AsyncEngine) -> None:
    text = await api_keys.create_key(owner, "live", KeyInput("server", ["wallet:read"]))
    await becomes(ledger, text, is_known=True)
    await api_keys.revoke_key(owner, id_of(text))
    await becomes(ledger, text, is_known=False)


async def test_a_key_that_was_just_made_is_looked_up_alone(ledger: Ledger, owner: AsyncEngine) -> None:
    ring = await known(ledger)
    text = await api_keys.create_key(owner, "live", KeyInput("server", ["wallet:read"]))
    with statements_of(ledger) as statements:
        callers = await asyncio.gather(*(ring.find(text) for _ in range(10)))
        callers.append(await ring.find(text))
    assert {caller.name for caller in callers if caller is not None} == {"server"}
    assert None not in callers
    assert [" WHERE id = $1 AND hash = $2" in statement for statement in statements] == [True]


async def test_a_look_up_reads_one_row_by_its_id(ledger: Ledger, owner: AsyncEngine) -> None:
    text = await api_keys.create_key(owner, "live", KeyInput("server", ["wallet:read"]))
    key = read_key(text)
    assert key is not None
    async with connect(ledger.engine) as connection:
        found = await find_key(connection, key)
        assert found is not None
        assert found.id == key.id
        assert await find_key(connection, replace(key, hash=bytes(32))) is None
        plan = await connection.fetch("EXPLAIN SELECT id FROM api_key WHERE id = 'abcdefgh' AND hash = ''")
    assert "Index Scan using api_key_pkey" in plan[0][0]


async def test_a_key_that_there_is_not_is_not_looked_up_again_at_once(ledger: Ledger) -> None:
    ring, made_up, other = await known(ledger), make_key("live"), make_key("live")
    with statements_of(ledger) as statements:
        for _ in range(20):
            assert await ring.find(made_up) is None
        assert len(statements) == 1
        assert await ring.find(other) is None
        assert len(statements) == 2
        # For what is not even written like a key, or is of the other mode, nobody is asked.
        for wrong in (made_up[:-1], "wk_live_x", make_key("test")):
            assert await ring.find(wrong) is None
        assert len(statements) == 2
    assert all(" WHERE id = $1 AND hash = $2" in statement for statement in statements)


async def test_keys_that_are_made_up_take_one_connection_and_keep_nobody_waiting(
    ledger: Ledger, owner: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = await api_keys.create_key(owner, "live", KeyInput("server", ["wallet:read"]))
    ring, may_answer, under_way = await known(ledger), asyncio.Event(), Counter[str]()

    async def slow(connection: Connection, key: PresentedKey) -> ApiKey | None:
        under_way["now"] += 1
        under_way["most"] = max(under_way["most"], under_way["now"])
        await may_answer.wait()
        under_way["now"] -= 1
        return await find_key(connection, key)

    monkeypatch.setattr("wallet_gql.db.api_keys.find_key", slow)
    monkeypatch.setattr(api_keys, "ANSWER_WITHIN_SECONDS", 30)
    pool: Any = ledger.engine.pool
    held = pool.checkedout()
    attempts = [asyncio.create_task(ring.find(make_key("live"))) for _ in range(1000)]
    await asyncio.sleep(0.05)
    # What does not fit into the line is told at once.
    refused = [task.exception() for task in attempts if task.done()]
    assert [type(error) for error in refused] == [Overloaded] * (1000 - api_keys.LOOKED_UP_MAX)
    assert pool.checkedout() == held + 1
    # Whoever has a key that is known does not wait for anything.
    with pytest.raises(StopIteration) as ended:
        ring.find(text).send(None)
    assert ended.value.value.name == "server"
    may_answer.set()
    waited = await asyncio.gather(*(task for task in attempts if not task.done()), return_exceptions=True)
    assert waited == [None] * api_keys.LOOKED_UP_MAX
    assert under_way["most"] == 1
    # And whoever has a new key is looked up again.
    successor = await api_keys.rotate_key(owner, id_of(text))
    assert await ring.find(successor) is not None


async def test_a_key_that_cannot_be_looked_up_is_not_told_to_be_wrong(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    ring, made_up = await known(ledger), make_key("live")
    monkeypatch.setattr(api_keys, "ANSWER_WITHIN_SECONDS", 0.05)
    monkeypatch.setattr("wallet_gql.db.api_keys.find_key", lambda *_: asyncio.sleep(10))
    with pytest.raises(Unavailable):
        await ring.find(made_up)
    monkeypatch.undo()
    await asyncio.sleep(0.1)
    assert await ring.find(made_up) is None


async def test_a_key_that_is_revoked_while_it_is_looked_up_ends_with_the_next_reading(
    ledger: Ledger, owner: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    ring = await known(ledger)
    text = await api_keys.create_key(owner, "live", KeyInput("server", ["wallet:read"]))

    async def overtaken(connection: Connection, key: PresentedKey) -> ApiKey | None:
        found = await find_key(connection, key)
        await api_keys.revoke_key(owner, key.id)
        await ring.read()
        return found

    monkeypatch.setattr("wallet_gql.db.api_keys.find_key", overtaken)
    assert await ring.find(text) is not None
    monkeypatch.undo()
    assert await ring.find(text) is None


async def becomes(ledger: Ledger, text: str, *, is_known: bool) -> None:
    async with asyncio.timeout(5):
        while (await ledger.callers.keys.find(text) is not None) != is_known:  # noqa: ASYNC110 - nobody tells it
            await asyncio.sleep(0.05)


@pytest.mark.parametrize(
    ("asked", "fault"),
    [
        (KeyInput("", ["wallet:read"]), "name is not 1 to 100 printable characters"),
        (KeyInput("a\nb", ["wallet:read"]), "name is not 1 to 100 printable characters"),
        (KeyInput("n" * 101, ["wallet:read"]), "name is not 1 to 100 printable characters"),
        (KeyInput("server", []), "scopes are missing"),
        (KeyInput("server", ["wallet:read", "wallet:fly"]), "scopes has wallet:fly, which there is not"),
        (KeyInput("server", ["wallet:read"], "p" * 129), "owner prefix is longer"),
        (KeyInput("server", ["wallet:read"], "", timedelta()), "expires is not in the future"),
        (KeyInput("server", ["wallet:read"], rate_burst=5), "rate has a burst without what comes back"),
        (KeyInput("server", ["wallet:read"], rate_burst=0, rate_per_second=5), "rate is not of 1 to 1000000000 points"),
        (KeyInput("server", ["wallet:read"], rate_burst=5, rate_per_second=6), "rate gets back more in a second"),
        (KeyInput("server", ["wallet:spend"], max_amount="0"), "max amount cannot be read from '0'"),
        (KeyInput("server", ["wallet:spend"], max_amount="-5"), "max amount cannot be read from '-5'"),
        (KeyInput("server", ["wallet:spend"], daily_issuance="0"), "daily issuance cannot be read from '0'"),
        (KeyInput("server", ["wallet:spend"], max_amount="1e5"), "max amount cannot be read from '1e5'"),
        (KeyInput("server", ["wallet:spend"], assets=["TIN"]), "assets has TIN, which there is not"),
    ],
)
async def test_a_key_that_makes_no_sense_is_not_made(owner: AsyncEngine, asked: KeyInput, fault: str) -> None:
    before = await api_keys.list_keys(owner)
    with pytest.raises(BadUserInput, match=fault):
        await api_keys.create_key(owner, "live", asked)
    assert len(await api_keys.list_keys(owner)) == len(before)


async def test_the_serving_role_mints_no_key_and_gives_none_back(
    server_connection: Connection, owner: AsyncEngine
) -> None:
    text = await api_keys.create_key(owner, "live", KeyInput("server", ["wallet:read"]))
    for statement in (
        "INSERT INTO api_key SELECT 'abcdefgh', name, mode, hash, scopes FROM api_key",
        "UPDATE api_key SET revoked_at = NULL",
        "UPDATE api_key SET scopes = '{wallet:topup}'",
        "UPDATE api_key SET hash = ''",
        "DELETE FROM api_key",
        "TRUNCATE api_key",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await server_connection.execute(statement)
    assert (await listed(owner, text)).revoked_at is None
