"""Migration 0009, states and debts: up and down on a filled database, and not down where something would be lost."""

import asyncio
from collections.abc import Awaitable, Callable
from decimal import Decimal
from typing import Any, Final
from uuid import uuid4

import asyncpg
import pytest
from asyncpg import Connection
from conftest import plain
from direct import TABLES, insert, movement
from factories import balance, new_owner, post
from filled import COLUMNS
from holds import change, held, place
from schemas import catalog, check, downgrade, execute, fetch, fill, refused_to_go_down, revision, upgrade

from wallet_gql.db import migrations
from wallet_gql.domain.postings import Changed, Nothing, Posted, Refused, Remainder, Shortfall, TransactionView
from wallet_gql.domain.shards import shard_of
from wallet_gql.domain.wallets import WalletStatus
from wallet_gql.ledger.reads import EntryName
from wallet_gql.operations.holds import capture_hold, place_hold
from wallet_gql.operations.opening import Ledger, open_ledger
from wallet_gql.operations.proof import prove
from wallet_gql.operations.reversals import ReverseInput, clawback, refund
from wallet_gql.operations.states import StateInput, close, freeze, reopen
from wallet_gql.operations.transfers import TransferInput, transfer
from wallet_gql.settings import Settings

BEFORE: Final = "0008"
OWNER: Final = "owner-1"
RECEIVER: Final = "owner-2"


def rows(settings: Settings) -> dict[str, list[Any]]:
    """Return all rows that there are, by the columns that every version since has."""
    existing = {row[0] for row in fetch(settings.owner_url(), "SELECT tablename FROM pg_tables")}
    return {
        table: sorted(fetch(settings.owner_url(), f"SELECT {COLUMNS.get(table, '*')} FROM {table}"), key=repr)
        for table in TABLES
        if table in existing - {"transaction_shape"}
    }


def reversing(
    view: TransactionView, amount: int | None = None, shortfall: Shortfall = Shortfall.REFUSE
) -> ReverseInput:
    name = EntryName(view.shard, view.account_id, view.seq)
    return ReverseInput(name, "shown", uuid4(), None if amount is None else Decimal(amount), shortfall, "Why")


def posted(outcome: object) -> TransactionView:
    assert isinstance(outcome, Posted), outcome
    return outcome.transaction


async def last_of(ledger: Ledger, view: TransactionView, seq: int) -> TransactionView:
    found = await ledger.reads.transactions.load(EntryName(view.shard, view.account_id, seq))
    assert found is not None
    return found


async def fill_as_before(settings: Settings) -> None:
    """Make what the version before can make: postings, holds, transfers, refunds, clawbacks of all shapes, refusals."""
    await fill(settings)
    async with open_ledger(settings) as ledger:
        for owner in (OWNER, RECEIVER):
            await new_owner(ledger, 50, owner)
        texts: dict[str, Any] = {"metadata": {"a": "b"}, "receipt": "store-1"}
        top_up = posted(await post(ledger, "top_up", OWNER, 20, **texts))
        spend = posted(await post(ledger, "spend", OWNER, 10))
        held(await capture_hold(ledger, change(held(await place_hold(ledger, place(OWNER, 5))), 3)))
        posted(await refund(ledger, reversing(spend, 4)))
        posted(await clawback(ledger, reversing(top_up, 7)))
        posted(await transfer(ledger, TransferInput(OWNER, RECEIVER, "GOLD", Decimal(30), uuid4())))
        paid = posted(await post(ledger, "spend", RECEIVER, 60))
        received = await last_of(ledger, paid, paid.seq - 1)
        posted(await clawback(ledger, reversing(received, None, Shortfall.AVAILABLE)))
        assert isinstance(await clawback(ledger, reversing(received, None, Shortfall.AVAILABLE)), Nothing)
        assert isinstance(await post(ledger, "spend", OWNER, 1000), Refused)


async def top_up_by_sql(settings: Settings, amount: int) -> None:
    """Post as a session of the version before does."""
    url = plain(settings.server_url().render_as_string(hide_password=False))
    connection: Connection = await asyncpg.connect(url)
    try:
        shard = shard_of(RECEIVER, settings.shard_count)
        await insert(connection, await movement(connection, shard, RECEIVER, amount, slot=1))
    finally:
        await connection.close()


def asked(owner: str) -> StateInput:
    return StateInput(owner, uuid4(), "because")


async def freeze_owner(ledger: Ledger) -> None:
    assert isinstance(await freeze(ledger, asked(OWNER), WalletStatus.FROZEN_OUT, None), Changed)


async def close_owner(ledger: Ledger) -> None:
    outcome = await close(ledger, asked(OWNER), Remainder.FORFEIT, None, voids_holds=True)
    assert isinstance(outcome, Changed)
    assert isinstance(await reopen(ledger, asked(OWNER)), Changed)


async def owe(ledger: Ledger) -> None:
    """Spend what was credited, and owe it."""
    top_up = posted(await post(ledger, "top_up", RECEIVER, 90))
    posted(await post(ledger, "spend", RECEIVER, await balance(ledger, RECEIVER)))
    outcome = await clawback(ledger, reversing(top_up, 40, Shortfall.DEBT))
    assert isinstance(outcome, Nothing)
    assert outcome.indebted_minor == 40


async def run(settings: Settings, *acts: Callable[[Ledger], Awaitable[None]]) -> None:
    async with open_ledger(settings) as ledger:
        for act in acts:
            await act(ledger)


def test_states_go_down_and_up_on_a_filled_database_and_change_no_row(migrated: Settings) -> None:
    asyncio.run(fill_as_before(migrated))
    before, laws = rows(migrated), catalog(migrated)
    later = {table: before.pop(table) for table in ("wallet_state", "issuance", "lot", "lot_step", "limit_rule")}
    assert list(later.values()) == [[]] * 5
    assert all(rows for table, rows in before.items() if table not in {"clock_offset", "sweep", "asset_setting"})
    downgrade(migrated, BEFORE)
    assert (revision(migrated), rows(migrated)) == ([BEFORE], before)
    asyncio.run(top_up_by_sql(migrated, 2))
    made = rows(migrated)
    upgrade(migrated)
    assert (catalog(migrated), rows(migrated)) == (laws, made | later)
    check(migrated)
    asyncio.run(run(migrated, freeze_owner, close_owner, owe))
    assert asyncio.run(prove(migrated)).findings == []


def test_what_the_version_before_makes_is_as_it_would_make_it(empty: Settings) -> None:
    upgrade(empty, BEFORE)
    before = catalog(empty)
    upgrade(empty)
    asyncio.run(fill_as_before(empty))
    downgrade(empty, BEFORE)
    assert catalog(empty) == before
    upgrade(empty)
    assert asyncio.run(prove(empty)).findings == []


KEY: Final = (
    "INSERT INTO idempotency_key (shard, wallet_id, key, fingerprint, outcome, transaction_id, details)"
    " VALUES (0, 1, gen_random_uuid(), decode(repeat('00', 16), 'hex'), {}, gen_random_uuid(), '{{\"asset_id\": 1}}')"
)
TRANSACTION: Final = (
    "INSERT INTO transaction (shard, id, type, wallet_id, executed_at) VALUES (0, gen_random_uuid(), {}, 1, now())"
)
OUTCOMES: Final = (12, 13, 14, 52)
DEBT_WALLET: Final = "INSERT INTO wallet (shard, kind, owner_id) VALUES (0, 4, 'owner-0')"


def test_the_version_before_refuses_what_only_states_and_debts_have(migrated: Settings) -> None:
    downgrade(migrated, BEFORE)
    for statement, constraint in (
        *((KEY.format(outcome), "idempotency_key_outcome_check") for outcome in OUTCOMES),
        *((TRANSACTION.format(type_), "transaction_type_check") for type_ in (9, 10)),
        (DEBT_WALLET, "wallet_kind_check"),
    ):
        with pytest.raises(asyncpg.CheckViolationError, match=constraint):
            execute(migrated, statement)
    shapes = "SELECT count(*) FROM transaction_shape WHERE type > 8 OR variant > 2 OR wallet_kind = 4"
    assert fetch(migrated.owner_url(), shapes) == [(0,)]
    functions = "SELECT proname::text FROM pg_proc WHERE proname LIKE 'wallet_state%'"
    assert fetch(migrated.owner_url(), functions) == []


def assert_not_taken_down(settings: Settings, table: str, to: str = BEFORE) -> None:
    before = rows(settings), catalog(settings)
    with pytest.raises(RuntimeError, match=f"^Table {table} has rows that the version before cannot read"):
        downgrade(settings, to)
    assert revision(settings) == [migrations.head()]
    assert (rows(settings), catalog(settings)) == before


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_states_are_not_taken_down_with_a_key_s_outcome(migrated: Settings, outcome: int) -> None:
    asyncio.run(fill(migrated))
    execute(migrated, KEY.format(outcome))
    assert_not_taken_down(migrated, "idempotency_key")


def test_states_are_not_taken_down_with_a_wallet_of_debts(migrated: Settings) -> None:
    execute(migrated, DEBT_WALLET)
    assert_not_taken_down(migrated, "wallet")


@pytest.mark.parametrize("act", [freeze_owner, close_owner, owe])
def test_states_are_not_taken_down_and_go_on(migrated: Settings, act: Callable[[Ledger], Awaitable[None]]) -> None:
    asyncio.run(fill_as_before(migrated))
    asyncio.run(run(migrated, act))
    assert_not_taken_down(migrated, "wallet_state")
    # Nor by who wants to go further.
    assert_not_taken_down(migrated, "wallet_state", "0007")
    asyncio.run(run(migrated, act))
    assert asyncio.run(prove(migrated)).findings == []


def test_states_are_not_taken_down_with_what_is_not_committed_yet(migrated: Settings) -> None:
    asyncio.run(fill(migrated))
    assert refused_to_go_down(migrated, BEFORE, KEY.format(52)) == ["idempotency_key"]
    assert revision(migrated) == [migrations.head()]
