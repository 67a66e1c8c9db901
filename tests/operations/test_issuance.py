"""What keys may issue in a day: exact, whoever posts at the same time, and not kept where it is refused."""

import asyncio
from collections.abc import AsyncIterator
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any, Final
from uuid import uuid4

import asyncpg
import pytest
from batches import connected, held, new_owner_in, wallet
from conftest import plain
from factories import POSTINGS, balance, new_owner, post, request
from tables import count_rows

from wallet_gql.domain.access import ActorKind, AskedBy
from wallet_gql.domain.errors import Forbidden
from wallet_gql.domain.postings import Posted, Refused
from wallet_gql.domain.shards import shard_of_receipt
from wallet_gql.ledger.batch import Issued
from wallet_gql.ledger.issuance import day_of, read_issued
from wallet_gql.ledger.receipts import lock_issuers
from wallet_gql.ledger.verify import verify_shard
from wallet_gql.operations.opening import Ledger, open_ledger
from wallet_gql.settings import Settings

pytestmark = pytest.mark.anyio


def new_issuer() -> str:
    return f"issuer {uuid4()}"


async def issue(
    ledger: Ledger, owner: str, amount: int | str, issuer: str, most: str = "100", verb: str = "top_up", **more: Any
) -> object:
    asked_by = AskedBy(ActorKind.API_KEY, issuer, None)
    asked = request(owner, amount, asked_by=asked_by, daily_issuance=Decimal(most), **more)
    return await POSTINGS[verb](ledger, asked)


async def forbidden(ledger: Ledger, owner: str, amount: int | str, issuer: str, **more: Any) -> str:
    """Issue what is not allowed; returns what is said."""
    before = await count_rows(ledger.settings)
    with pytest.raises(Forbidden) as caught:
        await issue(ledger, owner, amount, issuer, **more)
    assert caught.value.field == "amount"
    # A first posting opens the account, whatever becomes of it.
    assert (await count_rows(ledger.settings))._replace(accounts=0) == before._replace(accounts=0)
    return str(caught.value)


async def test_top_ups_and_bonuses_count_together_to_the_last_credit(ledger: Ledger) -> None:
    owner, other, issuer = await new_owner(ledger), await new_owner(ledger), new_issuer()
    assert isinstance(await issue(ledger, owner, 60, issuer), Posted)
    said = await forbidden(ledger, other, 41, issuer, verb="bonus")
    assert said == "amount is more than 40 GOLD, which is left of what your key issues until 00:00 UTC."
    assert isinstance(await issue(ledger, other, 40, issuer, verb="bonus"), Posted)
    assert "more than 0 GOLD" in await forbidden(ledger, owner, 1, issuer)
    assert (await balance(ledger, owner), await balance(ledger, other)) == (60, 40)


async def test_what_is_spent_and_what_others_issue_does_not_count(ledger: Ledger) -> None:
    owner, issuer = await new_owner(ledger), new_issuer()
    assert isinstance(await issue(ledger, owner, 100, issuer), Posted)
    assert isinstance(await issue(ledger, owner, 100, new_issuer()), Posted)
    assert isinstance(await post(ledger, "top_up", owner, 100), Posted)
    assert isinstance(await issue(ledger, owner, 150, issuer, verb="spend"), Posted)


async def test_each_asset_counts_for_itself_in_its_own_units(ledger: Ledger) -> None:
    owner, issuer = await new_owner(ledger), new_issuer()
    assert isinstance(await issue(ledger, owner, 100, issuer), Posted)
    assert isinstance(await issue(ledger, owner, "99.50", issuer, asset_code="POINTS"), Posted)
    said = await forbidden(ledger, owner, "0.51", issuer, asset_code="POINTS")
    assert said.startswith("amount is more than 0.50 POINTS")


async def test_what_is_refused_is_not_kept_and_what_was_posted_is_answered_again(ledger: Ledger) -> None:
    owner, issuer, key = await new_owner(ledger), new_issuer(), uuid4()
    await forbidden(ledger, owner, 101, issuer, key=key)
    assert isinstance(await issue(ledger, owner, 101, issuer, "200", key=key), Posted)
    again = await issue(ledger, owner, 101, issuer, key=key)
    assert isinstance(again, Posted)
    assert again.already_processed


async def test_what_is_refused_for_another_reason_does_not_count(ledger: Ledger) -> None:
    owner, issuer = await new_owner(ledger), new_issuer()
    receipt = f"r-{uuid4()}"
    assert isinstance(await issue(ledger, owner, 1, issuer, receipt=receipt), Posted)
    assert isinstance(await issue(ledger, owner, 90, issuer, receipt=receipt), Refused)
    assert isinstance(await issue(ledger, owner, 99, issuer), Posted)


async def test_it_is_exact_whoever_posts_at_the_same_time(ledger: Ledger) -> None:
    issuer = new_issuer()
    owners = [await new_owner(ledger) for _ in range(12)]
    async with open_ledger(ledger.settings) as other:
        outcomes = await asyncio.gather(
            *(issue(each, owner, 3, issuer) for _ in range(3) for owner in owners for each in (ledger, other)),
            return_exceptions=True,
        )
    assert [type(each) for each in outcomes].count(Posted) == 33
    assert [type(each) for each in outcomes].count(Forbidden) == len(outcomes) - 33
    assert sum([await balance(ledger, owner) for owner in owners]) == 99


# Sessions that wait for a row while they have something else in hand that others wait for.
WAITING_WITH_AN_ISSUER: Final = """
SELECT count(*) FROM pg_locks w JOIN pg_locks a USING (pid) JOIN pg_stat_activity s USING (pid)
 WHERE s.datname = current_database() AND NOT w.granted AND w.locktype IN ('transactionid', 'tuple')
   AND a.granted AND a.locktype = 'advisory' AND a.objsubid = 1
"""


async def test_a_wallet_that_is_stuck_does_not_stop_what_its_issuer_issues(ledger: Ledger) -> None:
    issuer, stuck = new_issuer(), await new_owner(ledger)
    others = [await new_owner(ledger) for _ in range(6)]
    async with held(ledger.settings, wallet(ledger, stuck)):
        waiting = asyncio.create_task(issue(ledger, stuck, 1, issuer))
        for _ in range(3):
            outcomes = await asyncio.gather(*(issue(ledger, owner, 1, issuer) for owner in others))
            assert {type(each) for each in outcomes} == {Posted}
        async with connected(ledger.settings) as connection:
            for _ in range(40):
                assert await connection.fetchval(WAITING_WITH_AN_ISSUER) == 0
                await asyncio.sleep(0.01)
        assert not waiting.done()
    assert isinstance(await waiting, Posted)
    assert [row[2] for row in await issued_by(ledger, issuer)] == list(range(1, 20))


async def test_who_has_an_issuer_in_hand_for_long_keeps_only_those_waiting_who_need_it(ledger: Ledger) -> None:
    issuer, owner, other = new_issuer(), await new_owner_in(ledger, 1), await new_owner_in(ledger, 1)
    async with connected(ledger.settings) as connection, connection.transaction():
        await lock_issuers(connection, [issuer])
        waiting = [asyncio.create_task(issue(ledger, owner, 1, issuer)) for _ in range(2)]
        behind = asyncio.create_task(post(ledger, "top_up", owner, 1))
        for _ in range(3):
            assert isinstance(await post(ledger, "top_up", other, 1), Posted)
        assert not any(task.done() for task in (*waiting, behind))
    assert {type(each) for each in await asyncio.gather(*waiting, behind)} == {Posted}


async def test_what_is_forbidden_tells_the_pace_too(ledger: Ledger) -> None:
    issuer, owner = new_issuer(), await new_owner_in(ledger, 1)
    before = [lane.pace._products for lane in ledger.commits._lanes]
    await forbidden(ledger, owner, 101, issuer)
    assert [lane.pace._products for lane in ledger.commits._lanes] != before


async def issued_by(ledger: Ledger, issuer: str) -> list[tuple[int, int, int]]:
    async with connected(ledger.settings) as connection:
        rows = await connection.fetch(
            "SELECT step, amount, issued_after FROM issuance WHERE actor_name = $1 ORDER BY step", issuer
        )
    return [tuple(row) for row in rows]


async def test_no_posting_is_counted_twice(ledger: Ledger, settings: Settings) -> None:
    issuer = new_issuer()
    assert isinstance(await issue(ledger, await new_owner(ledger), 10, issuer), Posted)
    async with connected(settings) as connection:
        again = (
            "INSERT INTO issuance SELECT shard, actor_name, asset_id, day, 2, transaction_shard, transaction_id,"
            " amount, issued_after + amount FROM issuance WHERE actor_name = $1"
        )
        with pytest.raises(asyncpg.UniqueViolationError):
            await connection.execute(again, issuer)


async def test_another_day_begins_anew(ledger: Ledger, settings: Settings) -> None:
    owner, issuer = await new_owner(ledger), new_issuer()
    assert isinstance(await issue(ledger, owner, 100, issuer), Posted)
    place = shard_of_receipt(issuer, ledger.shard_count), issuer, ledger.assets["GOLD"].id
    async with connected(settings) as connection:
        today = day_of(await connection.fetchval("SELECT wallet_now()"))
        assert await read_issued(connection, [place], today) == {place[1:]: Issued(1, 100)}
        assert await read_issued(connection, [place], today + timedelta(days=1)) == {}


def test_a_day_is_one_of_utc() -> None:
    late = datetime(2026, 11, 30, 23, 30, tzinfo=timezone(timedelta(hours=-1)))
    assert day_of(late) == date(2026, 12, 1)


# What is forged of the second step of two.
FORGED: Final = {
    "of another name": "actor_name = 'nobody'",
    "in another shard": "shard = (shard + 1) % 4",
    "of another asset": "asset_id = 2",
    "of another day": "day = day + 1",
    "of another amount": "amount = amount + 1, issued_after = issued_after + 1",
    "of another sum": "issued_after = issued_after + 1",
    "after no step": "step = 7",
    "of no transaction": "transaction_id = gen_random_uuid()",
}


@pytest.fixture
async def forger(ledger: Ledger, settings: Settings) -> AsyncIterator[tuple[asyncpg.Connection, str]]:
    """A session of the tables' owner, whose work is rolled back, and an issuer of two steps."""
    owner, issuer = await new_owner(ledger), new_issuer()
    assert isinstance(await issue(ledger, owner, 10, issuer), Posted)
    assert isinstance(await issue(ledger, owner, 20, issuer), Posted)
    connection = await asyncpg.connect(plain(settings.owner_url().render_as_string(hide_password=False)))
    transaction = connection.transaction()
    await transaction.start()
    await connection.execute("ALTER TABLE issuance DISABLE TRIGGER refuse_change")
    yield connection, issuer
    await transaction.rollback()
    await connection.close()


@pytest.mark.parametrize("change", FORGED.values(), ids=FORGED)
async def test_the_law_and_the_proof_find_what_was_not_issued(
    forger: tuple[asyncpg.Connection, str], ledger: Ledger, change: str
) -> None:
    connection, issuer = forger

    async def found() -> set[str]:
        shards = range(ledger.shard_count)
        return {each.check for n in shards async for each in verify_shard(connection, n, ledger.shard_count)}

    assert await found() == set()
    await connection.execute("CREATE TEMPORARY TABLE forged (LIKE issuance)")
    second = "DELETE FROM issuance WHERE actor_name = $1 AND step = 2 RETURNING *"
    await connection.execute(f"WITH second AS ({second}) INSERT INTO forged SELECT * FROM second", issuer)
    await connection.execute(f"UPDATE forged SET {change}")
    with pytest.raises(asyncpg.CheckViolationError) as caught:
        async with connection.transaction():
            await connection.execute("INSERT INTO issuance SELECT * FROM forged")
    assert caught.value.constraint_name == "issuance_law"
    await connection.execute("ALTER TABLE issuance DISABLE TRIGGER issuance_law")
    await connection.execute("INSERT INTO issuance SELECT * FROM forged")
    assert await found() == {"issuance"}
