"""Migration 0004, transfers: up and down on a filled database, and not down where the version before would be lost."""

import asyncio
import threading
from decimal import Decimal
from typing import Any, Final
from uuid import uuid4

import asyncpg
import pytest
from asyncpg import Connection
from conftest import plain
from direct import insert, movement
from factories import new_owner, post
from schemas import catalog, downgrade, execute, fetch, fill, held, revision, upgrade

from wallet_gql.db import migrations
from wallet_gql.domain.postings import Posted, Refused
from wallet_gql.domain.shards import shard_of
from wallet_gql.operations.opening import open_ledger
from wallet_gql.operations.proof import prove
from wallet_gql.operations.transfers import TransferInput, transfer
from wallet_gql.settings import Settings

BEFORE: Final = "0003"

# Of the tables that both versions have, what both know.
COLUMNS: Final = {
    "asset": "*",
    "wallet": "*",
    "account": "*",
    "transaction": "shard, id, type, wallet_id, executed_at, idempotency_key, description, reference",
    "entry": "shard, account_id, seq, transaction_id, type, amount, balance_after, may_go_negative, executed_at",
    "idempotency_key": "*",
}

SENDER: Final = "sender-1"
RECEIVER: Final = "receiver-2"


def rows(settings: Settings) -> dict[str, list[Any]]:
    """Return all rows of the owners' tables, as both versions know them."""
    return {
        table: sorted(fetch(settings.owner_url(), f"SELECT {columns} FROM {table}"), key=repr)
        for table, columns in COLUMNS.items()
    }


async def fill_as_before(settings: Settings) -> None:
    """Make all that the version before can make: postings of each type, texts, a refusal."""
    await fill(settings)
    async with open_ledger(settings) as ledger:
        for owner in (SENDER, RECEIVER):
            await new_owner(ledger, 50, owner)
            assert isinstance(await post(ledger, "bonus", owner, 5, description="Gift", reference="r-1"), Posted)
            assert isinstance(await post(ledger, "spend", owner, 3), Posted)
            assert isinstance(await post(ledger, "spend", owner, 1000), Refused)


async def send(settings: Settings, amount: int) -> object:
    async with open_ledger(settings) as ledger:
        return await transfer(ledger, TransferInput(SENDER, RECEIVER, "GOLD", Decimal(amount), uuid4()))


async def spend_by_sql(settings: Settings, amount: int) -> None:
    """Post as a session of the version before does."""
    url = plain(settings.server_url().render_as_string(hide_password=False))
    connection: Connection = await asyncpg.connect(url)
    try:
        await insert(
            connection, await movement(connection, shard_of(SENDER, settings.shard_count), SENDER, -amount, slot=1)
        )
    finally:
        await connection.close()


def test_transfers_go_down_and_up_on_a_filled_database_and_change_no_row(migrated: Settings) -> None:
    asyncio.run(fill_as_before(migrated))
    before, laws = rows(migrated), catalog(migrated)
    assert all(before.values())
    downgrade(migrated, BEFORE)
    assert (revision(migrated), rows(migrated)) == ([BEFORE], before)
    asyncio.run(spend_by_sql(migrated, 2))
    posted = rows(migrated)
    upgrade(migrated)
    assert (catalog(migrated), rows(migrated)) == (laws, posted)
    assert isinstance(asyncio.run(send(migrated, 50)), Posted)
    assert isinstance(asyncio.run(send(migrated, 1)), Refused)
    proof = asyncio.run(prove(migrated))
    assert (proof.entry_count, proof.findings) == (2 * 8 + 4, [])


def test_the_version_before_refuses_what_only_transfers_have(migrated: Settings) -> None:
    downgrade(migrated, BEFORE)
    for statement, message in (
        ("INSERT INTO wallet (shard, kind, owner_id) VALUES (0, 3, '0')", "wallet_kind_check"),
        ("INSERT INTO transaction_shape VALUES (6, 3, 1)", "transaction_shape_wallet_kind_check"),
        (
            (
                "INSERT INTO transaction (shard, id, type, wallet_id, executed_at)"
                " VALUES (0, gen_random_uuid(), 4, 1, now())"
            ),
            "transaction_type_check",
        ),
    ):
        with pytest.raises(asyncpg.CheckViolationError, match=message):
            execute(migrated, statement)
    assert fetch(migrated.owner_url(), "SELECT count(*) FROM transaction_shape WHERE type > 3") == [(0,)]


# What only the version with transfers can read, alone, and the table that it is in.
KEY: Final = (
    "INSERT INTO idempotency_key (shard, wallet_id, key, fingerprint, outcome, transaction_id, details)"
    " VALUES (0, 1, gen_random_uuid(), decode(repeat('00', 16), 'hex'), {}, gen_random_uuid(), '{{\"asset_id\": 1}}')"
)
TRANSACTION: Final = (
    "ALTER TABLE transaction DISABLE TRIGGER USER",
    (
        "INSERT INTO transaction (shard, id, type, wallet_id, executed_at, counterpart_shard, counterpart_id)"
        " VALUES (0, gen_random_uuid(), {}, 1, now(), 0, gen_random_uuid())"
    ),
    "ALTER TABLE transaction ENABLE ALWAYS TRIGGER refuse_change",
    "ALTER TABLE transaction ENABLE ALWAYS TRIGGER transaction_law",
)
OWN: Final[dict[str, tuple[str, tuple[str, ...]]]] = {
    "a clearing wallet": ("wallet", ("INSERT INTO wallet (shard, kind, owner_id) VALUES (0, 3, '0')",)),
    "a half that was sent": ("transaction", tuple(statement.format(4) for statement in TRANSACTION)),
    "a half that was received": ("transaction", tuple(statement.format(5) for statement in TRANSACTION)),
    "a transfer that was forbidden": ("idempotency_key", (KEY.format(4),)),
    "a receiver that refused": ("idempotency_key", (KEY.format(5),)),
    "what is set of an asset": (
        "asset_setting", ("INSERT INTO asset_setting (asset_id, step, transfers) SELECT id, 1, 1 FROM asset",),
    ),
}  # fmt: skip


def assert_not_taken_down(settings: Settings, table: str) -> None:
    before = rows(settings), catalog(settings), fetch(settings.owner_url(), "SELECT * FROM asset_setting")
    counterparts = fetch(settings.owner_url(), "SELECT id, counterpart_shard, counterpart_id FROM transaction")
    with pytest.raises(RuntimeError, match=f"^Table {table} has rows that the version before cannot read"):
        downgrade(settings, BEFORE)
    assert revision(settings) == [migrations.head()]
    after = rows(settings), catalog(settings), fetch(settings.owner_url(), "SELECT * FROM asset_setting")
    assert after == before
    assert fetch(settings.owner_url(), "SELECT id, counterpart_shard, counterpart_id FROM transaction") == counterparts


@pytest.mark.parametrize("own", OWN)
def test_transfers_are_not_taken_down_with(migrated: Settings, own: str) -> None:
    asyncio.run(fill(migrated))
    table, statements = OWN[own]
    execute(migrated, *statements)
    assert_not_taken_down(migrated, table)


def test_transfers_are_not_taken_down_with_a_transfer_and_go_on(migrated: Settings) -> None:
    asyncio.run(fill_as_before(migrated))
    assert isinstance(asyncio.run(send(migrated, 10)), Posted)
    assert_not_taken_down(migrated, "wallet")
    assert isinstance(asyncio.run(send(migrated, 10)), Posted)
    assert asyncio.run(prove(migrated)).findings == []


@pytest.mark.parametrize("own", ["a clearing wallet", "a transfer that was forbidden", "what is set of an asset"])
def test_transfers_are_not_taken_down_with_what_is_not_committed_yet(migrated: Settings, own: str) -> None:
    asyncio.run(fill(migrated))
    table, statements = OWN[own]
    errors: list[BaseException] = []

    def take_down() -> None:
        try:
            downgrade(migrated, BEFORE)
        except RuntimeError as error:
            errors.append(error)

    with held(migrated, *statements) as run:
        thread = threading.Thread(target=take_down)
        thread.start()
        waiting = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        while thread.is_alive() and not fetch(migrated.owner_url(), waiting):
            pass
        run("COMMIT")
        thread.join()
    assert [str(error).split(" has rows")[0] for error in errors] == [f"Table {table}"]
    assert revision(migrated) == [migrations.head()]
