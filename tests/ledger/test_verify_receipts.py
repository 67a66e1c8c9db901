"""Damage to metadata and receipts is found, and the damaged row is named."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final, TypeAlias
from uuid import uuid4

import asyncpg
import pytest
from asyncpg import Connection
from damaged import SHARD_COUNT, owners_of
from direct import TABLES
from factories import new_owner, post
from sqlalchemy import make_url

from wallet_gql.domain.postings import Held, Posted, TransactionView
from wallet_gql.domain.shards import shard_of_receipt
from wallet_gql.embedded.launcher import EmbeddedPostgres
from wallet_gql.ledger.verify import Finding, verify_outside, verify_shard
from wallet_gql.operations.holds import PlaceHoldInput, place_hold
from wallet_gql.operations.opening import Ledger, open_ledger
from wallet_gql.operations.proof import prove
from wallet_gql.operations.transfers import TransferInput, transfer
from wallet_gql.settings import Settings

SHARD: Final = 1
RECEIPT_SHARD: Final = 2
ALICE, BOB, *_ = owners_of(SHARD)

# In another shard than its owner's.
RECEIPT: Final = next(
    name for name in (f"receipt-{n}" for n in range(100)) if shard_of_receipt(name, SHARD_COUNT) == RECEIPT_SHARD
)
PAIRS: Final = {"b": "é🎮", "B": "1:a", "_": "x", "-": "y"}

Found: TypeAlias = tuple[str, int | None, str, str]
"""A finding: the check, the shard, the row, the fault."""


@dataclass(frozen=True)
class History:
    """What was posted: Alice's top-up with a receipt, one without, Bob's; a spend and a transfer with metadata."""

    bought: TransactionView
    plain: TransactionView
    bobs: TransactionView
    spent: TransactionView
    sent: TransactionView


class Books:
    """The books in a transaction that is rolled back, with the laws and guards switched off."""

    def __init__(self, connection: Connection, history: History) -> None:
        self.connection = connection
        self.history = history

    async def execute(self, *statements: str) -> None:
        for statement in statements:
            await self.connection.execute(statement)

    async def findings(self) -> list[Found]:
        found: list[Finding] = [finding async for finding in verify_outside(self.connection, SHARD_COUNT)]
        for shard in range(SHARD_COUNT):
            found += [finding async for finding in verify_shard(self.connection, shard, SHARD_COUNT)]
        return [(finding.check, finding.shard, finding.row, finding.fault) for finding in found]


def note_finding(view: TransactionView, fault: str) -> Found:
    return "note", view.shard, f"note of transaction {view.id}", fault


def receipt_finding(fault: str, shard: int = RECEIPT_SHARD) -> Found:
    return "receipt", shard, f"receipt {RECEIPT}", fault


def fingerprint_differs(view: TransactionView) -> Found:
    row = f"key {view.idempotency_key} of wallet {view.wallet_id}"
    return "key", view.shard, row, f"its fingerprint is not what transaction {view.id} gives"


def does_not_have_it(view: TransactionView) -> Found:
    return receipt_finding(f"transaction {view.id} of shard {view.shard} does not have it")


NOT_KEPT: Final = "its receipt is not kept where it is looked for"


@pytest.fixture(scope="module")
def receipt_settings(new_database: Callable[[str], Settings]) -> Settings:
    return new_database("verify_receipts")


@pytest.fixture(scope="module")
def history(receipt_settings: Settings) -> History:
    async def posted(ledger: Ledger, verb: str, owner: str, amount: int, **more: Any) -> TransactionView:
        outcome = await post(ledger, verb, owner, amount, **more)
        assert isinstance(outcome, Posted)
        return outcome.transaction

    async def fill() -> History:
        async with open_ledger(receipt_settings) as ledger:
            for owner in (ALICE, BOB):
                await new_owner(ledger, owner_id=owner)
            bought = await posted(ledger, "top_up", ALICE, 100, receipt=RECEIPT, metadata=PAIRS)
            plain = await posted(ledger, "top_up", ALICE, 100)
            bobs = await posted(ledger, "top_up", BOB, 100)
            spent = await posted(ledger, "spend", ALICE, 10, metadata={"item": "sword"})
            sent = await transfer(ledger, TransferInput(ALICE, BOB, "GOLD", Decimal(1), uuid4(), metadata=PAIRS))
            assert isinstance(sent, Posted)
            held = await place_hold(ledger, PlaceHoldInput(BOB, "GOLD", Decimal(1), uuid4(), metadata=PAIRS))
            assert isinstance(held, Held)
            return History(bought, plain, bobs, spent, sent.transaction)

    return asyncio.run(fill())


@pytest.fixture
async def books(postgres: EmbeddedPostgres, receipt_settings: Settings, history: History) -> AsyncIterator[Books]:
    name = receipt_settings.server_url().database
    url = make_url(postgres.superuser_url).set(drivername="postgresql", database=name)
    connection = await asyncpg.connect(url.render_as_string(hide_password=False))
    transaction = connection.transaction()
    await transaction.start()
    for table in TABLES:
        await connection.execute(f"ALTER TABLE {table} DISABLE TRIGGER ALL")
    yield Books(connection, history)
    await transaction.rollback()
    await connection.close()


async def test_books_without_damage_give_no_finding(books: Books, receipt_settings: Settings) -> None:
    assert await books.findings() == []
    assert await books.connection.fetchval("SELECT count(*) FROM transaction_note") == 5
    assert (await prove(receipt_settings)).findings == []


async def test_a_receipt_that_is_missing_is_found(books: Books) -> None:
    await books.execute("DELETE FROM receipt")
    assert await books.findings() == [note_finding(books.history.bought, NOT_KEPT)]


@pytest.mark.parametrize("other", ["plain", "bobs"])
async def test_a_receipt_that_names_another_top_up_is_found(books: Books, other: str) -> None:
    view: TransactionView = getattr(books.history, other)
    await books.execute(f"UPDATE receipt SET transaction_id = '{view.id}'")
    assert await books.findings() == [
        note_finding(books.history.bought, f"its receipt is that of transaction {view.id}"),
        does_not_have_it(view),
    ]


async def test_a_receipt_that_names_another_shard_is_found(books: Books) -> None:
    bought = books.history.bought
    await books.execute("UPDATE receipt SET transaction_shard = 3")
    assert await books.findings() == [
        note_finding(bought, f"its receipt is that of transaction {bought.id}"),
        receipt_finding(f"transaction {bought.id} of shard 3 does not have it"),
    ]


async def test_a_receipt_in_another_shard_than_its_own_is_found(books: Books) -> None:
    await books.execute("UPDATE receipt SET shard = 3")
    assert await books.findings() == [
        note_finding(books.history.bought, NOT_KEPT),
        receipt_finding("is in another shard than its own", shard=3),
    ]


async def test_a_receipt_past_the_last_shard_is_found(books: Books) -> None:
    await books.execute("UPDATE receipt SET shard = 9")
    fault = f"has rows in a shard past the last, {SHARD_COUNT - 1}"
    assert await books.findings() == [
        ("shard", 9, "table receipt", fault),
        note_finding(books.history.bought, NOT_KEPT),
    ]


async def test_a_receipt_of_a_spend_is_found(books: Books) -> None:
    bought, spent = books.history.bought, books.history.spent
    await books.execute(
        f"UPDATE receipt SET transaction_id = '{spent.id}'",
        f"UPDATE transaction_note SET receipt = NULL WHERE transaction_id = '{bought.id}'",
        f"UPDATE transaction_note SET receipt = '{RECEIPT}' WHERE transaction_id = '{spent.id}'",
    )
    found = await books.findings()
    assert receipt_finding(f"transaction {spent.id} of shard {SHARD} is no top-up") in found
    assert sorted(found)[:2] == sorted([fingerprint_differs(bought), fingerprint_differs(spent)])
    assert len(found) == 3


async def test_a_receipt_s_other_text_is_found(books: Books) -> None:
    bought = books.history.bought
    await books.execute("UPDATE transaction_note SET receipt = 'forged' WHERE receipt IS NOT NULL")
    assert await books.findings() == [
        note_finding(bought, NOT_KEPT), fingerprint_differs(bought), does_not_have_it(bought),
    ]  # fmt: skip


async def test_a_note_that_is_missing_is_found(books: Books) -> None:
    bought = books.history.bought
    await books.execute(f"DELETE FROM transaction_note WHERE transaction_id = '{bought.id}'")
    assert await books.findings() == [fingerprint_differs(bought), does_not_have_it(bought)]


async def test_a_note_without_its_transaction_is_found(books: Books) -> None:
    id_ = uuid4()
    await books.execute(
        f"INSERT INTO transaction_note (shard, transaction_id, metadata) VALUES ({SHARD}, '{id_}', '{{\"a\": \"x\"}}')"
    )
    fault = "its transaction does not exist"
    assert await books.findings() == [("note", SHARD, f"note of transaction {id_}", fault)]


async def test_a_note_of_a_transaction_that_had_none_is_found(books: Books) -> None:
    plain = books.history.plain
    await books.execute(
        "INSERT INTO transaction_note (shard, transaction_id, metadata)"
        f" VALUES ({SHARD}, '{plain.id}', '{{\"a\": \"x\"}}')"
    )
    assert await books.findings() == [fingerprint_differs(plain)]


@pytest.mark.parametrize(
    "change", ['metadata || \'{"item": "shield"}\'', 'metadata || \'{"more": "x"}\'', '\'{"Item": "sword"}\'']
)
async def test_other_metadata_is_found(books: Books, change: str) -> None:
    spent = books.history.spent
    await books.execute(f"UPDATE transaction_note SET metadata = {change} WHERE transaction_id = '{spent.id}'")
    assert await books.findings() == [fingerprint_differs(spent)]


async def test_other_metadata_of_the_receiver_s_half_is_found(books: Books) -> None:
    sent = books.history.sent
    assert sent.counterpart is not None
    other = sent.counterpart
    await books.execute(
        f"UPDATE transaction_note SET metadata = metadata || '{{\"b\": \"x\"}}' WHERE transaction_id = '{other.id}'"
    )
    assert sorted(await books.findings()) == sorted(
        ("transfer", SHARD, f"transaction {half}", f"its texts are not those of its other half, transaction {its}")
        for half, its in ((sent.id, other.id), (other.id, sent.id))
    )
