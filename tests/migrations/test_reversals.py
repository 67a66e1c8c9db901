"""Migration 0008, refunds and clawbacks: up and down on a filled database, and not down where one would be lost."""

import asyncio
from decimal import Decimal
from typing import Any, Final
from uuid import uuid4

import asyncpg
import pytest
from factories import balance, post
from filled import KEYS, OTHER, OWNER, PLAIN, fill_up_to_holds, rows, spend_by_sql
from schemas import catalog, check, downgrade, execute, fetch, fill, refused_to_go_down, revision, upgrade

from wallet_gql.db import migrations
from wallet_gql.domain.postings import KeyReused, Nothing, Posted, Refused, Shortfall
from wallet_gql.domain.shards import shard_of
from wallet_gql.domain.wallets import OwnerName
from wallet_gql.ledger.reads import EntryName
from wallet_gql.operations.opening import Ledger, open_ledger
from wallet_gql.operations.proof import prove
from wallet_gql.operations.reversals import ReverseInput, ReverseOutcome, clawback, refund
from wallet_gql.settings import Settings

BEFORE: Final = "0007"

# What only the version with reversals can read, alone.
KEY: Final = (
    "INSERT INTO idempotency_key (shard, wallet_id, key, fingerprint, outcome, transaction_id, details)"
    " VALUES (0, 1, gen_random_uuid(), decode(repeat('00', 16), 'hex'), {}, gen_random_uuid(), '{{\"asset_id\": 1}}')"
)
OUTCOMES: Final = (10, 11, 51)

REVERSE: Final = {"refund": refund, "clawback": clawback}


def reversals(settings: Settings) -> list[Any]:
    return fetch(settings.owner_url(), "SELECT * FROM reversal ORDER BY shard, original_id, step")


async def reverse(ledger: Ledger, verb: str, owner: str, type_: int, **more: Any) -> ReverseOutcome:
    """Reverse the newest transaction of an owner that is of a type."""
    url = ledger.settings.server_url().set(drivername="postgresql").render_as_string(hide_password=False)
    connection = await asyncpg.connect(url)
    name = await connection.fetchrow(
        "SELECT e.shard, e.account_id, e.seq FROM entry e JOIN account a ON (a.shard, a.id) = (e.shard, e.account_id)"
        "  JOIN wallet w ON (w.shard, w.id) = (a.shard, a.wallet_id)"
        " WHERE (w.owner_id, e.type) = ($1, $2) ORDER BY e.seq DESC LIMIT 1",
        owner, type_,
    )  # fmt: skip
    await connection.close()
    return await REVERSE[verb](
        ledger, ReverseInput(EntryName(*name), "", more.pop("key", uuid4()), description="Why", **more)
    )


async def reverse_once(settings: Settings, verb: str, owner: str, type_: int, **more: Any) -> ReverseOutcome:
    async with open_ledger(settings) as ledger:
        return await reverse(ledger, verb, owner, type_, **more)


async def figures(ledger: Ledger) -> list[tuple[int, int]]:
    """Return what the owners have, and what of it is held."""
    names = [OwnerName(shard_of(owner, ledger.shard_count), owner) for owner in (OWNER, OTHER, PLAIN)]
    found = [await ledger.reads.owners_balances.load((name, ledger.assets["GOLD"])) for name in names]
    return [(each.amount_minor, each.held_minor) for each in found if each is not None]


async def use(settings: Settings) -> None:
    """Reverse what the version before posted, and ask again for what it answered."""
    async with open_ledger(settings) as ledger:
        assert await figures(ledger) == [(125, 0), (30, 10), (48, 0)]
        for verb, owner, type_, amount in (
            ("refund", OWNER, 3, 10), ("refund", OWNER, 6, 5), ("refund", PLAIN, 3, 2),
            ("clawback", OWNER, 1, 90), ("clawback", OWNER, 5, 15),
        ):  # fmt: skip
            outcome = await reverse(ledger, verb, owner, type_, amount=Decimal(amount))
            assert isinstance(outcome, Posted), (verb, type_, outcome)
        assert await figures(ledger) == [(35, 0), (45, 10), (50, 0)]
        texts: dict[str, Any] = {"description": "Gift", "metadata": {"a": "b"}, "receipt": "store-1"}
        again = await post(ledger, "top_up", OWNER, 90, KEYS["top_up"], **texts)
        assert isinstance(again, Posted)
        assert again.already_processed
        refused = await post(ledger, "spend", OWNER, 1000, KEYS["refused"])
        assert isinstance(refused, Refused)
        assert refused.already_processed
        assert isinstance(await reverse(ledger, "refund", OWNER, 3, key=KEYS["spend"]), KeyReused)


def test_reversals_go_down_and_up_on_a_filled_database_and_change_no_row(migrated: Settings) -> None:
    asyncio.run(fill_up_to_holds(migrated))
    before, laws = rows(migrated), catalog(migrated)
    assert all(before[table] for table in before if table != "asset_setting")
    downgrade(migrated, BEFORE)
    assert (revision(migrated), rows(migrated)) == ([BEFORE], before)
    asyncio.run(spend_by_sql(migrated, 2))
    posted = rows(migrated)
    assert posted != before
    upgrade(migrated)
    assert (catalog(migrated), rows(migrated)) == (laws, posted)
    check(migrated)
    asyncio.run(use(migrated))
    assert [row[2:3] + row[4:] for row in reversals(migrated)].count((1, 90, 90)) == 1
    assert len(reversals(migrated)) == 5
    assert asyncio.run(prove(migrated)).findings == []


def test_the_version_before_refuses_what_only_reversals_have(migrated: Settings) -> None:
    downgrade(migrated, BEFORE)
    transaction = "INSERT INTO transaction (shard, id, type, wallet_id, executed_at{}) VALUES (0, gen_random_uuid(), {}"
    half = transaction.format(", counterpart_shard, counterpart_id", "8, 1, now(), 0, gen_random_uuid())")
    for statement, message in (
        (transaction.format("", "7, 1, now())"), "transaction_type_check"),
        (transaction.format("", "8, 1, now())"), "transaction_type_check"),
        (half, "transaction_counterpart_check"),
        *((KEY.format(outcome), "idempotency_key_outcome_check") for outcome in OUTCOMES),
    ):
        with pytest.raises(asyncpg.CheckViolationError, match=message):
            execute(migrated, statement)
    with pytest.raises(asyncpg.UndefinedTableError):
        execute(migrated, "SELECT FROM reversal")
    owner = migrated.owner_url()
    assert fetch(owner, "SELECT count(*) FROM transaction_shape WHERE type IN (7, 8)") == [(0,)]
    assert fetch(owner, "SELECT proname FROM pg_proc WHERE proname = 'reversal_law'") == []


def assert_not_taken_down(settings: Settings, table: str, to: str = BEFORE) -> None:
    before = rows(settings), reversals(settings), catalog(settings)
    with pytest.raises(RuntimeError, match=f"^Table {table} has rows that the version before cannot read"):
        downgrade(settings, to)
    assert revision(settings) == [migrations.head()]
    assert (rows(settings), reversals(settings), catalog(settings)) == before


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_reversals_are_not_taken_down_with_a_key_s_outcome(migrated: Settings, outcome: int) -> None:
    asyncio.run(fill(migrated))
    execute(migrated, KEY.format(outcome))
    assert_not_taken_down(migrated, "idempotency_key")


@pytest.mark.parametrize(("verb", "type_"), [("refund", 3), ("clawback", 1), ("clawback", 5)])
def test_reversals_are_not_taken_down_with_one_and_go_on(migrated: Settings, verb: str, type_: int) -> None:
    asyncio.run(fill_up_to_holds(migrated))
    for _ in range(2):
        outcome = asyncio.run(reverse_once(migrated, verb, OWNER, type_, amount=Decimal(7)))
        assert isinstance(outcome, Posted)
        assert_not_taken_down(migrated, "reversal")
    # Nor by who wants to go further.
    assert_not_taken_down(migrated, "reversal", "0005")
    assert asyncio.run(prove(migrated)).findings == []


def test_reversals_are_not_taken_down_with_a_clawback_that_took_nothing(migrated: Settings) -> None:
    asyncio.run(fill_up_to_holds(migrated))

    async def take_nothing() -> None:
        async with open_ledger(migrated) as ledger:
            assert isinstance(await post(ledger, "spend", PLAIN, 50), Posted)
            outcome = await reverse(ledger, "clawback", PLAIN, 1, on_shortfall=Shortfall.AVAILABLE)
            assert isinstance(outcome, Nothing)

    asyncio.run(take_nothing())
    assert_not_taken_down(migrated, "idempotency_key")


def test_reversals_go_down_with_a_refusal_that_the_version_before_can_read(migrated: Settings) -> None:
    asyncio.run(fill_up_to_holds(migrated))
    key = uuid4()

    async def ask() -> Refused:
        async with open_ledger(migrated) as ledger:
            if await balance(ledger, PLAIN) == 50:
                assert isinstance(await post(ledger, "spend", PLAIN, 1), Posted)
            outcome = await reverse(ledger, "clawback", PLAIN, 1, key=key)
            assert isinstance(outcome, Refused)
            return outcome

    first = asyncio.run(ask())
    before = rows(migrated)
    downgrade(migrated, BEFORE)
    assert rows(migrated) == before
    upgrade(migrated)
    again = asyncio.run(ask())
    assert (again.facts, again.already_processed) == (first.facts, True)
    assert asyncio.run(prove(migrated)).findings == []


def test_reversals_are_not_taken_down_with_what_is_not_committed_yet(migrated: Settings) -> None:
    asyncio.run(fill(migrated))
    assert refused_to_go_down(migrated, BEFORE, KEY.format(51)) == ["idempotency_key"]
    assert revision(migrated) == [migrations.head()]
