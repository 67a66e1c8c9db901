"""The whole proof: by one connection, and by two that share a snapshot."""

import asyncio
from collections.abc import Callable

import asyncpg
import pytest
from conftest import plain
from factories import new_owner, post

from wallet_gql.ledger import verify
from wallet_gql.operations import proof
from wallet_gql.operations.opening import Ledger, open_ledger
from wallet_gql.operations.proof import prove
from wallet_gql.settings import Settings


@pytest.fixture
def by_two(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proof, "_LARGE", "SELECT true")


@pytest.fixture
def settings_of_its_own(new_database: Callable[[str], Settings]) -> Settings:
    return new_database("proof")


@pytest.mark.usefixtures("by_two")
async def test_two_connections_prove_each_shard_once(ledger: Ledger, settings: Settings) -> None:
    for _ in range(20):
        await new_owner(ledger, gold=3)
    totals: list[int] = []
    by_two = await prove(settings, on_check=totals.append)
    assert by_two.shard_count == settings.shard_count
    assert totals == [by_two.shard_count * verify.CHECK_COUNT] * len(totals)
    assert len(totals) == by_two.shard_count * verify.CHECK_COUNT
    assert by_two.findings == []
    assert by_two.entry_count >= 40


@pytest.mark.usefixtures("by_two")
async def test_two_connections_prove_beside_traffic_without_a_false_alarm(ledger: Ledger, settings: Settings) -> None:
    owners = [await new_owner(ledger) for _ in range(8)]
    is_over = False

    async def play(owner: str) -> None:
        while not is_over:
            await post(ledger, "top_up", owner, 1)

    players = [asyncio.create_task(play(owner)) for owner in owners]
    proofs = [await prove(settings) for _ in range(10)]
    is_over = True
    await asyncio.gather(*players)
    assert [found.findings for found in proofs] == [[]] * 10
    counts = [found.entry_count for found in proofs]
    assert counts == sorted(counts)
    assert counts[0] < counts[-1]


@pytest.mark.usefixtures("by_two")
async def test_two_connections_find_damage_in_the_order_of_shards(settings_of_its_own: Settings) -> None:
    settings = settings_of_its_own
    async with open_ledger(settings) as ledger:
        for _ in range(30):
            await new_owner(ledger, gold=3)
    connection = await asyncpg.connect(plain(settings.owner_url().render_as_string(hide_password=False)))
    try:
        await connection.execute("ALTER TABLE entry DISABLE TRIGGER USER")
        await connection.execute("UPDATE entry SET balance_after = 4 WHERE amount = 3")
    finally:
        await connection.close()
    by_two = await prove(settings)
    armour = [finding.row for finding in by_two.findings if finding.shard is None]
    assert armour == ["state of trigger entry.entry_law", "state of trigger entry.refuse_change"]
    shards = [finding.shard for finding in by_two.findings[len(armour) :] if finding.shard is not None]
    assert set(shards) == set(range(settings.shard_count))
    assert shards == sorted(shards)


async def test_a_connection_that_fails_fails_the_proof(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proof, "_LARGE", "SELECT true")
    verify_shard = verify.verify_shard
    calls = 0

    def failing(connection: asyncpg.Connection, shard: int, shard_count: int, on_check: Callable[[], object]) -> object:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise asyncpg.ConnectionDoesNotExistError("planted")
        return verify_shard(connection, shard, shard_count, on_check)

    monkeypatch.setattr(proof, "verify_shard", failing)
    with pytest.raises(asyncpg.ConnectionDoesNotExistError, match="planted"):
        await prove(settings)
