"""Damage to refunds and clawbacks is found, and the damaged row is named."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Final, TypeAlias
from uuid import UUID, uuid4

import asyncpg
import pytest
from asyncpg import Connection
from damaged import SHARD, SHARD_COUNT, owners_of
from direct import TABLES
from factories import new_owner, post
from sqlalchemy import make_url
from uuid_utils.compat import uuid7

from wallet_gql.domain.postings import Posted, TransactionView
from wallet_gql.embedded.launcher import EmbeddedPostgres
from wallet_gql.ledger.reads import EntryName
from wallet_gql.ledger.verify import verify_shard
from wallet_gql.operations.opening import Ledger, open_ledger
from wallet_gql.operations.reversals import ReverseInput, clawback, refund
from wallet_gql.settings import Settings

ALICE, BOB, *_ = owners_of(SHARD)

Found: TypeAlias = tuple[str, str, str]
"""A finding: the check, the row, the fault."""


@dataclass(frozen=True)
class History:
    """What was posted: Alice's top-up of 100, her spend of 60, what reversed them, and a spend of 60 of Bob's."""

    top_up: TransactionView
    spend: TransactionView
    first: TransactionView
    """A refund of 25 of the spend."""
    second: TransactionView
    """A refund of the 35 that were left."""
    taken: TransactionView
    """A clawback of 10 of the top-up."""
    of_bob: TransactionView


class Books:
    """The books in a transaction that is rolled back, with the laws and guards switched off."""

    def __init__(self, connection: Connection, history: History) -> None:
        self.connection = connection
        self.history = history

    async def findings(self) -> list[Found]:
        """Return what is found."""
        found = [finding async for finding in verify_shard(self.connection, SHARD, SHARD_COUNT)]
        return [(finding.check, finding.row, finding.fault) for finding in found]

    async def alter(self, reversing: TransactionView, values: str) -> None:
        await self.connection.execute(f"UPDATE reversal SET {values} WHERE transaction_id = '{reversing.id}'")


def reversal_finding(original: UUID, step: int, fault: str) -> Found:
    return "reversal", f"reversal {step} of transaction {original}", fault


def nothing_reversed(view: TransactionView) -> Found:
    return "reversing", f"transaction {view.id}", "reverses nothing"


@pytest.fixture(scope="module")
def reversed_settings(new_database: Callable[[str], Settings]) -> Settings:
    return new_database("verify_reversals")


@pytest.fixture(scope="module")
def history(reversed_settings: Settings) -> History:
    async def moved(ledger: Ledger, verb: str, owner: str, amount: int) -> TransactionView:
        outcome = await post(ledger, verb, owner, amount)
        assert isinstance(outcome, Posted)
        return outcome.transaction

    def asked(view: TransactionView, amount: int | None) -> ReverseInput:
        name = EntryName(view.shard, view.account_id, view.seq)
        return ReverseInput(name, "shown", uuid4(), None if amount is None else Decimal(amount), description="Why")

    async def refunded(ledger: Ledger, view: TransactionView, amount: int | None) -> TransactionView:
        outcome = await refund(ledger, asked(view, amount))
        assert isinstance(outcome, Posted)
        return outcome.transaction

    async def fill() -> History:
        async with open_ledger(reversed_settings) as ledger:
            for owner in (ALICE, BOB):
                await new_owner(ledger, owner_id=owner)
            top_up = await moved(ledger, "top_up", ALICE, 100)
            spend = await moved(ledger, "spend", ALICE, 60)
            first = await refunded(ledger, spend, 25)
            second = await refunded(ledger, spend, None)
            taken = await clawback(ledger, asked(top_up, 10))
            assert isinstance(taken, Posted)
            await moved(ledger, "top_up", BOB, 100)
            of_bob = await moved(ledger, "spend", BOB, 60)
            return History(top_up, spend, first, second, taken.transaction, of_bob)

    return asyncio.run(fill())


@pytest.fixture
async def books(postgres: EmbeddedPostgres, reversed_settings: Settings, history: History) -> AsyncIterator[Books]:
    name = reversed_settings.server_url().database
    url = make_url(postgres.superuser_url).set(drivername="postgresql", database=name)
    connection = await asyncpg.connect(url.render_as_string(hide_password=False))
    transaction = connection.transaction()
    await transaction.start()
    for table in TABLES:
        await connection.execute(f"ALTER TABLE {table} DISABLE TRIGGER ALL")
    yield Books(connection, history)
    await transaction.rollback()
    await connection.close()


async def test_reversals_without_damage_give_no_finding(books: Books) -> None:
    assert await books.findings() == []
    assert await books.connection.fetchval("SELECT count(*) FROM reversal") == 3


NOBODY: Final = uuid7()

# What is set of the second refund's row, and what is found of it.
ALTERED: Final[dict[str, tuple[str, Callable[[History], list[Found]]]]] = {
    "another amount": (
        "amount = 34",
        lambda h: [reversal_finding(h.spend.id, 2, f"says 34, but transaction {h.second.id} moves 35")],
    ),
    "another sum": (
        "reversed_after = 59",
        lambda h: [reversal_finding(h.spend.id, 2, "59 is reversed after it, but should be 60")],
    ),
    "a step that is left out": ("step = 3", lambda h: [reversal_finding(h.spend.id, 3, "follows step 1")]),
    "an original that does not exist": (
        f"original_id = '{NOBODY}', step = 1", lambda _: [reversal_finding(NOBODY, 1, "its original does not exist")],
    ),
    "a transaction that does not exist": (
        f"transaction_id = '{NOBODY}'",
        lambda h: [
            reversal_finding(h.spend.id, 2, f"transaction {NOBODY} does not exist"), nothing_reversed(h.second),
        ],
    ),
}  # fmt: skip


@pytest.mark.parametrize("altered", ALTERED)
async def test_a_damaged_reversal_is_found(books: Books, altered: str) -> None:
    values, expected = ALTERED[altered]
    await books.alter(books.history.second, values)
    found = [finding for finding in await books.findings() if finding[0] not in {"key", "key of a movement"}]
    assert found == expected(books.history)


async def test_a_reversal_of_what_another_owner_moved_is_found(books: Books) -> None:
    history = books.history
    await books.alter(history.second, f"original_id = '{history.of_bob.id}', step = 1, reversed_after = 35")
    key = f"key {history.second.idempotency_key} of wallet {history.second.wallet_id}"
    assert await books.findings() == [
        reversal_finding(
            history.of_bob.id, 1, f"transaction {history.second.id} is not of the account of its original"
        ),
        # Which original a client named is in the fingerprint.
        ("key of a movement", key, f"its fingerprint is not what transaction {history.second.id} gives"),
    ]


async def test_a_reversal_of_another_kind_is_found(books: Books) -> None:
    history = books.history
    await books.alter(history.second, f"original_id = '{history.top_up.id}', step = 2, reversed_after = 45")
    fault = f"transaction {history.second.id} is of type 7, which does not reverse type 1"
    assert reversal_finding(history.top_up.id, 2, fault) in await books.findings()


async def test_more_than_the_original_moved_is_found(books: Books) -> None:
    history = books.history
    await books.connection.execute(
        f"UPDATE entry SET amount = sign(amount) * 59 WHERE transaction_id = '{history.spend.id}'"
    )
    fault = "60 is reversed, but its original moved 59"
    assert reversal_finding(history.spend.id, 2, fault) in await books.findings()


async def test_a_reversal_that_is_missing_is_found(books: Books) -> None:
    await books.connection.execute(f"DELETE FROM reversal WHERE transaction_id = '{books.history.taken.id}'")
    assert nothing_reversed(books.history.taken) in await books.findings()
