"""The database refuses notes and receipts that do not belong together: by SQL as the serving role."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final
from uuid import UUID, uuid4

import pytest
from asyncpg import Connection
from batches import new_owner_in
from direct import insert, movement, refused
from factories import TEST_SHARD_COUNT
from holds import change, held, place

from wallet_gql.domain.shards import shard_of_receipt
from wallet_gql.domain.wallets import WalletStatus
from wallet_gql.operations.holds import place_hold, void_hold
from wallet_gql.operations.opening import Ledger
from wallet_gql.operations.states import StateInput, freeze

CHECK_VIOLATION: Final = "23514"
UNIQUE_VIOLATION: Final = "23505"
FOREIGN_KEY_VIOLATION: Final = "23503"

SHARD: Final = 1

_INSERT: Final = """
WITH note AS (
  INSERT INTO transaction_note (shard, transaction_id, metadata, receipt)
  SELECT $1::smallint, $2::uuid, $3::jsonb, $4::text WHERE $2 IS NOT NULL
)
INSERT INTO receipt (shard, receipt, transaction_shard, transaction_id)
SELECT $5::smallint, $6::text, $7::smallint, $8::uuid WHERE $6 IS NOT NULL
"""


@dataclass(frozen=True)
class Written:
    """A note and a receipt; what is None is not written."""

    note_of: UUID | None = None
    note: str | None = None
    metadata: str | None = None
    receipt: str | None = None
    receipt_of: UUID | None = None
    receipt_shard: int | None = None
    note_shard: int = SHARD

    async def insert(self, connection: Connection) -> None:
        shard = self.receipt_shard
        if shard is None and self.receipt is not None:
            shard = shard_of_receipt(self.receipt, TEST_SHARD_COUNT)
        async with connection.transaction():
            await connection.execute(
                _INSERT,
                self.note_shard,
                self.note_of,
                self.metadata,
                self.note,
                shard,
                self.receipt,
                SHARD,
                self.receipt_of,
            )


@pytest.fixture
async def connection(server_connection: Connection) -> AsyncIterator[Connection]:
    """A connection whose work is rolled back: of what the requests asked for, the notes were no part."""
    transaction = server_connection.transaction()
    await transaction.start()
    yield server_connection
    await transaction.rollback()


def new_receipt(shard: int) -> str:
    while shard_of_receipt(receipt := f"receipt {uuid4()}", TEST_SHARD_COUNT) != shard:
        pass
    return receipt


async def posted(ledger: Ledger, connection: Connection, amount: int = 10) -> UUID:
    """Post without a note, to a fresh owner that has 10; return the transaction's id."""
    owner = await new_owner_in(ledger, SHARD, gold=10)
    made = await movement(connection, SHARD, owner, amount, slot=9)  # nobody's, for it stays locked
    await insert(connection, made)
    return made.transaction.id


@pytest.mark.parametrize("shard", range(TEST_SHARD_COUNT))
async def test_a_top_up_s_note_and_its_receipt_are_taken(ledger: Ledger, connection: Connection, shard: int) -> None:
    id_, receipt = await posted(ledger, connection), new_receipt(shard)
    await Written(id_, receipt, '{"a": "x"}', receipt, id_).insert(connection)
    row = await connection.fetchrow("SELECT shard, transaction_id FROM receipt WHERE receipt = $1", receipt)
    assert tuple(row) == (shard, id_)


@pytest.mark.parametrize("amount", [10, -5], ids=["top-up", "spend"])
async def test_a_note_without_a_receipt_is_taken_of_any_transaction(
    ledger: Ledger, connection: Connection, amount: int
) -> None:
    await Written(await posted(ledger, connection, amount), metadata='{"a": "x"}').insert(connection)


async def test_a_note_without_its_transaction_is_refused(connection: Connection) -> None:
    async with refused(connection, FOREIGN_KEY_VIOLATION, "transaction_note_law_transaction"):
        await Written(uuid4(), metadata='{"a": "x"}').insert(connection)


async def test_a_note_of_a_transaction_in_another_shard_is_refused(ledger: Ledger, connection: Connection) -> None:
    id_ = await posted(ledger, connection)
    async with refused(connection, FOREIGN_KEY_VIOLATION, "transaction_note_law_transaction"):
        await Written(id_, metadata='{"a": "x"}', note_shard=2).insert(connection)


async def test_a_note_whose_receipt_is_not_kept_is_refused(ledger: Ledger, connection: Connection) -> None:
    id_ = await posted(ledger, connection)
    async with refused(connection, CHECK_VIOLATION, "transaction_note_law_receipt"):
        await Written(id_, new_receipt(0)).insert(connection)


async def test_a_note_with_another_transaction_s_receipt_is_refused(ledger: Ledger, connection: Connection) -> None:
    first, second = await posted(ledger, connection), await posted(ledger, connection)
    receipt = new_receipt(0)
    await Written(first, receipt, None, receipt, first).insert(connection)
    async with refused(connection, CHECK_VIOLATION, "transaction_note_law_receipt"):
        await Written(second, receipt).insert(connection)


async def test_a_second_row_for_one_receipt_is_refused(ledger: Ledger, connection: Connection) -> None:
    first, second = await posted(ledger, connection), await posted(ledger, connection)
    receipt = new_receipt(0)
    await Written(first, receipt, None, receipt, first).insert(connection)
    async with refused(connection, UNIQUE_VIOLATION, "receipt_pkey"):
        await Written(second, receipt, None, receipt, second).insert(connection)


async def test_a_second_note_of_one_transaction_is_refused(ledger: Ledger, connection: Connection) -> None:
    id_ = await posted(ledger, connection)
    await Written(id_, metadata='{"a": "x"}').insert(connection)
    async with refused(connection, UNIQUE_VIOLATION, "transaction_note_pkey"):
        await Written(id_, metadata='{"a": "y"}').insert(connection)


async def test_a_receipt_without_a_note_is_refused(ledger: Ledger, connection: Connection) -> None:
    id_ = await posted(ledger, connection)
    async with refused(connection, CHECK_VIOLATION, "receipt_law_top_up"):
        await Written(receipt=new_receipt(0), receipt_of=id_).insert(connection)
    async with refused(connection, CHECK_VIOLATION, "receipt_law_top_up"):
        await Written(id_, metadata='{"a": "x"}', receipt=new_receipt(0), receipt_of=id_).insert(connection)


async def test_a_receipt_of_a_transaction_that_does_not_exist_is_refused(connection: Connection) -> None:
    async with refused(connection, CHECK_VIOLATION, "receipt_law_top_up"):
        await Written(receipt=new_receipt(0), receipt_of=uuid4()).insert(connection)


async def test_a_receipt_of_a_spend_is_refused(ledger: Ledger, connection: Connection) -> None:
    id_, receipt = await posted(ledger, connection, -5), new_receipt(0)
    async with refused(connection, CHECK_VIOLATION, "receipt_law_top_up"):
        await Written(id_, receipt, None, receipt, id_).insert(connection)


@pytest.mark.parametrize("shard", [0, 2, 3])
async def test_a_receipt_in_another_shard_than_its_own_is_refused(
    ledger: Ledger, connection: Connection, shard: int
) -> None:
    id_, receipt = await posted(ledger, connection), new_receipt(1)
    async with refused(connection, CHECK_VIOLATION, "receipt_law_top_up"):
        await Written(id_, None, '{"a": "x"}', receipt, id_, receipt_shard=shard).insert(connection)
    # So it is where its note names it.
    async with refused(connection, CHECK_VIOLATION, "receipt_law_top_up"):
        await Written(id_, receipt, None, receipt, id_, receipt_shard=shard).insert(connection)


@pytest.mark.parametrize(
    ("metadata", "receipt"),
    [
        (None, None),
        ("{}", None),
        ('["x"]', None),
        ('"x"', None),
        ("null", None),
        (f'{{"a": "{"x" * 32760}"}}', None),
        (None, ""),
        (None, "x" * 201),
    ],
    ids=["nothing", "no pairs", "a list", "a string", "null", "too long", "no receipt", "a long receipt"],
)
async def test_a_note_outside_its_bounds_is_refused(
    ledger: Ledger, connection: Connection, metadata: str | None, receipt: str | None
) -> None:
    id_ = await posted(ledger, connection)
    async with refused(connection, CHECK_VIOLATION, "transaction_note_law_bounds"):
        await Written(id_, receipt, metadata).insert(connection)


@pytest.mark.parametrize("receipt", ["", "x" * 201], ids=["empty", "long"])
async def test_a_receipt_outside_its_bounds_is_refused(ledger: Ledger, connection: Connection, receipt: str) -> None:
    id_ = await posted(ledger, connection)
    async with refused(connection, CHECK_VIOLATION, "receipt_receipt_check"):
        await Written(id_, None, '{"a": "x"}', receipt, id_).insert(connection)


_NOTE: Final = """
INSERT INTO transaction_note (shard, transaction_id, actor_kind, actor_name, request_id, at)
VALUES ($1, $2, $3, $4, $5, $6)
"""
AT: Final = datetime(2026, 1, 1, tzinfo=UTC)


async def note(connection: Connection, shard: int, id_: UUID, *asked_by: object) -> None:
    async with connection.transaction():
        await connection.execute(_NOTE, shard, id_, *asked_by)


@pytest.mark.parametrize(
    ("noted", "constraint"),
    [
        ((1, "game", "r-1", AT), None),
        ((None, None, "r-1", AT), None),
        ((2, "p" * 128, None, AT), None),
        # 128 characters, twice as many bytes.
        ((2, "é" * 128, "é" * 128, AT), None),
        ((2, "é" * 129, None, AT), "law_asked_by"),
        ((None, None, None, None), "law_bounds"),
        ((1, None, "r-1", AT), "law_asked_by"),
        ((None, "game", "r-1", AT), "law_asked_by"),
        ((0, "game", None, AT), "law_asked_by"),
        ((5, "game", None, AT), "law_asked_by"),
        ((1, "", None, AT), "law_asked_by"),
        ((1, "p" * 129, None, AT), "law_asked_by"),
        ((None, None, "", AT), "law_asked_by"),
        ((None, None, "r" * 129, AT), "law_asked_by"),
        ((1, "game", None, None), "law_asked_by"),
        ((1, "game", None, datetime.max.replace(tzinfo=UTC)), "law_asked_by"),
    ],
)
async def test_who_asked_is_whole_or_is_not_noted(
    ledger: Ledger, connection: Connection, noted: tuple[object, ...], constraint: str | None
) -> None:
    id_ = await posted(ledger, connection)
    if constraint is None:
        await note(connection, SHARD, id_, *noted)
        return
    async with refused(connection, CHECK_VIOLATION, f"transaction_note_{constraint}"):
        await note(connection, SHARD, id_, *noted)


async def test_the_events_of_a_hold_and_of_a_wallet_may_be_noted(ledger: Ledger, connection: Connection) -> None:
    owner = await new_owner_in(ledger, SHARD, gold=10)
    hold = held(await place_hold(ledger, place(owner, 5)))
    voided = held(await void_hold(ledger, change(hold)))
    await freeze(ledger, StateInput(owner, uuid4(), "Why"), WalletStatus.FROZEN_OUT, None)
    events = await connection.fetch(
        "SELECT event_id FROM hold_step WHERE hold_id = $1 UNION ALL SELECT event_id FROM wallet_state s"
        "  JOIN wallet w ON (w.shard, w.id) = (s.shard, s.wallet_id) WHERE w.owner_id = $2",
        voided.id, owner,
    )  # fmt: skip
    assert len(events) == 3
    for (event,) in events:
        await note(connection, SHARD, event, 1, "game", None, AT)
    async with refused(connection, FOREIGN_KEY_VIOLATION, "transaction_note_law_transaction"):
        await note(connection, SHARD + 1, events[0][0], 1, "game", None, AT)
