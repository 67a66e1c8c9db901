import asyncio
from collections.abc import Callable
from typing import Any

import asyncpg
import pytest
from batches import connected, held, sessions, until, wallet
from conftest import database, execute
from factories import balance, new_owner, post
from proxy import open_through_proxy

from wallet_gql.domain.postings import Posted
from wallet_gql.embedded.launcher import EmbeddedPostgres
from wallet_gql.ledger.treasury import SLOT_COUNT, claim_slot, open_stripes, treasuries
from wallet_gql.operations import opening
from wallet_gql.operations.opening import Ledger, open_ledger
from wallet_gql.operations.proof import prove
from wallet_gql.settings import Settings

_HELD = """
SELECT l.objid::integer, l.pid FROM pg_locks l JOIN pg_database d ON d.oid = l.database
 WHERE d.datname = current_database() AND l.locktype = 'advisory' AND l.granted
"""


async def slots_held(settings: Settings) -> dict[int, int]:
    """Return the sessions that hold slots, by slot."""
    async with connected(settings) as connection:
        return {slot: pid for slot, pid in await connection.fetch(_HELD)}  # noqa: C416 - a record is no tuple


async def end_holder(settings: Settings, slot: int) -> None:
    pid = (await slots_held(settings))[slot]
    async with connected(settings) as connection:
        assert await connection.fetchval("SELECT pg_terminate_backend($1, 60000)", pid)


async def test_worker_whose_session_ends_claims_a_slot_again(ledger: Ledger, settings: Settings) -> None:
    async with open_ledger(settings) as service:
        owner = await new_owner(service, gold=10)
        slot = service.slot
        await end_holder(settings, slot)
        # A newcomer may have it by then; whoever comes last has another.
        async with open_ledger(settings) as other:
            async with asyncio.timeout(60):
                # Somebody else may hold one beside these three.
                held_now: Any = ()
                while not (len(ours := {ledger.slot, service.slot, other.slot}) == 3 and ours <= set(held_now)):
                    await asyncio.sleep(0.02)
                    held_now = await slots_held(settings)
            outcomes = await asyncio.gather(
                *(post(opened, "top_up", owner, 1) for _ in range(20) for opened in (service, other, ledger))
            )
        assert all(isinstance(outcome, Posted) for outcome in outcomes)
    assert await balance(ledger, owner) == 70


async def test_silent_session_of_a_slot_is_noticed(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "SLOT_CHECKED_EVERY_SECONDS", 0.5)
    async with open_through_proxy(settings) as (service, proxy):
        before = await slots_held(settings)
        proxy.vanish()
        async with asyncio.timeout(60):
            while set((await slots_held(settings)).values()) <= set(before.values()):  # noqa: ASYNC110 - as above
                await asyncio.sleep(0.05)
        held_now = await slots_held(settings)
        await until(lambda: service.slot in held_now)


async def test_slots_that_are_all_taken_are_shared_by_chance(settings: Settings) -> None:
    async with connected(settings) as taking, connected(settings) as late:
        # A session may take the same lock twice, and a slot that it has counts as free to it: so one for each.
        for slot in range(SLOT_COUNT):
            await taking.fetchval("SELECT pg_try_advisory_lock($1, $2)", 0x736C6F74, slot)
        shared = {await claim_slot(late) for _ in range(20)}
    assert len(shared) > 1
    assert shared <= set(range(SLOT_COUNT))


async def test_behind_pgbouncer_processes_of_the_same_number_are_spread(settings: Settings) -> None:
    slots = set()
    for _ in range(8):
        async with open_ledger(settings.model_copy(update={"pgbouncer": True})) as service:
            slots.add(service.slot)
    assert len(slots) > 1
    assert slots <= set(range(SLOT_COUNT))


@pytest.fixture
def lossy(new_database: Callable[[str], Settings]) -> Settings:
    return new_database("lossy")


@pytest.mark.parametrize("is_busy", [False, True], ids=["free", "busy"])
async def test_treasury_wallets_that_a_fail_over_lost_are_opened_again(
    postgres: EmbeddedPostgres, lossy: Settings, is_busy: bool
) -> None:
    async with open_ledger(lossy) as service:
        owner = await new_owner(service)
        url = database(postgres.superuser_url, str(lossy.server_url().database))
        await execute(
            url,
            "ALTER TABLE wallet DISABLE TRIGGER refuse_change",
            "DELETE FROM wallet WHERE kind = 2",
            "ALTER TABLE wallet ENABLE ALWAYS TRIGGER refuse_change",
        )

        async with held(lossy, *([wallet(service, owner)] if is_busy else [])):
            tasks = [asyncio.create_task(post(service, "top_up", owner, 1)) for _ in range(3)]
            await asyncio.sleep(0.2 if is_busy else 0)
        outcomes = await asyncio.gather(*tasks)

        assert all(isinstance(outcome, Posted) for outcome in outcomes)
        assert await balance(service, owner) == 3
    assert (await prove(lossy)).findings == []


async def test_opening_stripes_that_are_there_costs_no_id(
    ledger: Ledger, settings: Settings, owner_connection: asyncpg.Connection
) -> None:
    last = "SELECT last_value FROM pg_sequences WHERE sequencename = 'wallet_id_seq'"
    before = await owner_connection.fetchval(last)
    async with connected(settings) as connection:
        for _ in range(10):
            await open_stripes(connection, treasuries(ledger.slot, settings.shard_count))
    assert await owner_connection.fetchval(last) == before


async def test_session_that_held_a_slot_does_not_go_back_to_the_pool(settings: Settings) -> None:
    async with open_ledger(settings) as service:
        slot = service.slot
    lock = f"EXISTS (SELECT FROM pg_locks l WHERE l.pid = a.pid AND locktype = 'advisory' AND objid = {slot})"
    assert await sessions(settings, lock, 0) == []
