"""Damage to holds is found, and the damaged row is named: each column of a step, and what entries say is held."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, fields
from decimal import Decimal
from typing import Any, Final, TypeAlias
from uuid import UUID, uuid4

import asyncpg
import pytest
from asyncpg import Connection
from damaged import SHARD_COUNT, owners_of
from direct import TABLES
from direct_holds import HoldStepRow
from factories import new_owner, post
from sqlalchemy import make_url

from wallet_gql.domain.holds import Hold, HoldStepKind
from wallet_gql.domain.postings import Held, Posted, Refused, TransactionView, fingerprint
from wallet_gql.embedded.launcher import EmbeddedPostgres
from wallet_gql.ledger.verify import Finding, verify_outside, verify_shard
from wallet_gql.operations.holds import (
    ChangeHoldInput,
    PlaceHoldInput,
    adjust_hold,
    capture_hold,
    place_hold,
    void_hold,
)
from wallet_gql.operations.opening import Ledger, open_ledger
from wallet_gql.operations.proof import prove
from wallet_gql.settings import Settings

SHARD: Final = 1
OTHER_SHARD: Final = 2
ALICE, BOB, *_ = owners_of(SHARD)
CAROL, *_ = owners_of(OTHER_SHARD)

Found: TypeAlias = tuple[str, int | None, str, str]
"""A finding: the check, the shard, the row, the fault."""

Row: TypeAlias = tuple[str, str]
"""What names a damaged row: the check, and the row."""


@dataclass(frozen=True)
class History:
    """Alice's holds, and the keys of what was asked for them."""

    sword: Hold
    """Of 40: 10 captured, adjusted to 50, 20 captured with all that is left, in 20 and a release."""
    voided: Hold
    expired: Hold
    escrow: Hold
    """For Carol, in another shard; captured in part."""
    open: Hold
    open_escrow: Hold
    captures: list[TransactionView]
    """The sword's two, and the escrow's."""
    keys: dict[str, UUID]


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

    async def rows(self) -> set[Row]:
        """Return which rows are found."""
        return {(check, row) for check, _, row, _ in await self.findings()}

    @asynccontextmanager
    async def damaged(self, statement: str) -> AsyncIterator[None]:
        """Damage the books while the block lasts."""
        savepoint = self.connection.transaction()
        await savepoint.start()
        await self.connection.execute(statement)
        yield
        await savepoint.rollback()

    async def steps(self) -> list[HoldStepRow]:
        columns = ", ".join(each.name for each in fields(HoldStepRow))
        return [
            HoldStepRow(*row)
            for row in await self.connection.fetch(f"SELECT {columns} FROM hold_step ORDER BY account_id, seq")
        ]


@pytest.fixture(scope="module")
def hold_settings(new_database: Any) -> Settings:
    settings: Settings = new_database("verify_holds")
    return settings


@pytest.fixture(scope="module")
def history(hold_settings: Settings) -> History:
    keys: dict[str, UUID] = {}

    def change(hold: Hold, name: str, amount: int | None = None, **more: Any) -> ChangeHoldInput:
        keys[name] = uuid4()
        return ChangeHoldInput(hold.name, "", keys[name], None if amount is None else Decimal(amount), **more)

    async def placed(ledger: Ledger, name: str, amount: int, **more: Any) -> Hold:
        keys[name] = uuid4()
        outcome = await place_hold(ledger, PlaceHoldInput(ALICE, "GOLD", Decimal(amount), keys[name], **more))
        assert isinstance(outcome, Held)
        return outcome.hold

    def posted(outcome: object) -> TransactionView:
        assert isinstance(outcome, Held)
        assert outcome.transaction is not None
        return outcome.transaction

    async def fill() -> History:
        async with open_ledger(hold_settings) as ledger:
            await new_owner(ledger, gold=500, owner_id=ALICE)
            await new_owner(ledger, gold=50, owner_id=BOB)
            await new_owner(ledger, owner_id=CAROL)
            metadata = {"order": "é-7", "a": "b"}
            expired = await placed(ledger, "place expired", 3, ttl_seconds=1)
            sword = await placed(ledger, "place", 40, description="Sword: é🎮", reference="r-1", metadata=metadata)
            first = posted(
                await capture_hold(
                    ledger, change(sword, "capture", 10, keep_remainder=True, description="", metadata=metadata)
                )
            )
            assert isinstance(await post(ledger, "spend", ALICE, 5), Posted)
            assert isinstance(await adjust_hold(ledger, change(sword, "adjust", 50, ttl_seconds=60)), Held)
            voided = await placed(ledger, "place voided", 5)
            assert isinstance(await void_hold(ledger, change(voided, "void")), Held)
            last = posted(await capture_hold(ledger, change(sword, "last capture", 20)))
            escrow = await placed(ledger, "place escrow", 7, to_owner_id=CAROL, ttl_seconds=86_400)
            sent = posted(await capture_hold(ledger, change(escrow, "capture escrow", keep_remainder=True)))
            assert isinstance(await capture_hold(ledger, change(escrow, "refused", 1)), Refused)
            for_good = await placed(ledger, "place open", 20, ttl_seconds=2_678_400)
            open_escrow = await placed(ledger, "place open escrow", 9, to_owner_id=BOB, ttl_seconds=86_401)
            assert isinstance(await adjust_hold(ledger, change(for_good, "adjust open", ttl_seconds=2_678_400)), Held)
            await asyncio.sleep(1.1)
            # All that is available now that the first hold is over, which is booked first.
            assert isinstance(await post(ledger, "spend", ALICE, 429), Posted)
            return History(sword, voided, expired, escrow, for_good, open_escrow, [first, last, sent], keys)

    return asyncio.run(fill())


@pytest.fixture
async def books(postgres: EmbeddedPostgres, hold_settings: Settings, history: History) -> AsyncIterator[Books]:
    name = hold_settings.server_url().database
    url = make_url(postgres.superuser_url).set(drivername="postgresql", database=name)
    connection = await asyncpg.connect(url.render_as_string(hide_password=False))
    transaction = connection.transaction()
    await transaction.start()
    for table in TABLES:
        await connection.execute(f"ALTER TABLE {table} DISABLE TRIGGER ALL")
    for table in ("entry", "hold", "hold_step"):
        for (constraint,) in await connection.fetch(
            "SELECT conname FROM pg_constraint WHERE conrelid = $1::regclass AND contype = 'c'", table
        ):
            await connection.execute(f"ALTER TABLE {table} DROP CONSTRAINT {constraint}")
    await connection.execute("DROP INDEX entry_shard_account_id_position_key")
    yield Books(connection, history)
    await transaction.rollback()
    await connection.close()


def step_of(hold: Hold | UUID, step: int) -> Row:
    return "hold", f"step {step} of hold {hold.id if isinstance(hold, Hold) else hold}"


def where(step: HoldStepRow) -> str:
    return f"hold_id = '{step.hold_id}' AND step = {step.step}"


async def test_holds_without_damage_give_no_finding(books: Books) -> None:
    assert await books.findings() == []
    kinds = [step.kind for step in await books.steps()]
    assert {kind: kinds.count(kind) for kind in set(kinds)} == {
        HoldStepKind.PLACED: 6,
        HoldStepKind.CAPTURED: 3,
        HoldStepKind.ADJUSTED: 2,
        HoldStepKind.VOIDED: 1,
        HoldStepKind.EXPIRED: 1,
    }


def test_the_proof_of_holds_without_damage_has_no_finding(hold_settings: Settings, history: History) -> None:
    assert asyncio.run(prove(hold_settings)).findings == []
    assert history.sword.amount_minor == 40


STRANGER: Final = uuid4()

# How each column of a step is damaged: SQL of what it was.
DAMAGE: Final[dict[str, tuple[str, ...]]] = {
    "shard": (f"{OTHER_SHARD}",),
    "hold_id": (f"'{STRANGER}'",),
    "step": ("step + 10",),
    "kind": ("51 + (kind - 50) % 5", "51 + (kind - 48) % 5", "56"),
    "event_id": ("gen_random_uuid()",),
    "account_id": ("account_id + 1", "2::bigint ^ 60"),
    "seq": ("seq + 1000", "0"),
    "amount": ("amount + 1", "amount - 1"),
    "captured": ("captured + 1", "captured - 1"),
    "released": ("released + 1", "released - 1"),
    "change": ("change + 1", "change - 1"),
    "capture_count": ("capture_count + 1", "capture_count - 1"),
    "held_until": ("held_until + interval '1 s'", "held_until - interval '1 s'"),
    "at": ("at + interval '1 ms'", "at - interval '1 ms'"),
    "open_holds": ("open_holds || gen_random_uuid()", "open_holds || hold_id", "open_holds || open_holds"),
}


def test_every_column_of_a_step_is_damaged() -> None:
    assert list(DAMAGE) == [each.name for each in fields(HoldStepRow)]


def names(step: HoldStepRow) -> tuple[str, ...]:
    """Return what tells which step it is: the step, its entry, or the next step where only that one does not fit."""
    return (
        f"step {step.step} of hold {step.hold_id}",
        f"step {step.step} of hold {STRANGER}",
        f"step {step.step + 10} of hold {step.hold_id}",
        f"step {step.step + 1} of hold {step.hold_id}",
        f"account {step.account_id} ({ALICE}), seq {step.seq}",
        f"hold {step.hold_id} was never placed",
    )


@pytest.mark.parametrize("column", DAMAGE)
async def test_a_damaged_step_is_found_and_named(books: Books, column: str) -> None:
    for step in await books.steps():
        for value in DAMAGE[column]:
            if value == "open_holds || open_holds" and not step.open_holds:
                continue
            if column == "held_until" and step.step == 2 and step.hold_id == books.history.open.id:
                # Which ttl was asked for is in no other row, and nothing waits for its end.
                continue
            async with books.damaged(f"UPDATE hold_step SET {column} = {value} WHERE {where(step)}"):
                told = [f"{row} {fault}" for _, _, row, fault in await books.findings()]
                assert any(name in text for name in names(step) for text in told), (step, value, told)


@pytest.mark.parametrize("column", ["amount", "released", "capture_count", "held_until", "open_holds", "kind", "at"])
async def test_a_damaged_step_is_told_as_a_step(books: Books, column: str) -> None:
    step = (await books.steps())[-1]
    assert step.kind == HoldStepKind.EXPIRED
    async with books.damaged(f"UPDATE hold_step SET {column} = {DAMAGE[column][0]} WHERE {where(step)}"):
        assert step_of(step.hold_id, step.step) in await books.rows()


# How what an entry says of holds is damaged.
HELD_COLUMNS: Final[dict[str, tuple[str, ...]]] = {
    "held_after": ("held_after + 1", "held_after - 1", "NULL"),
    "held_seq": ("held_seq + 1", "held_seq - 1", "NULL"),
    "position": ("position + 1", "position - 1", "NULL"),
    "next_due_at": ("next_due_at + interval '1 s'", "next_due_at - interval '1 s'", "NULL"),
}


@pytest.mark.parametrize("column", HELD_COLUMNS)
async def test_an_entry_that_says_otherwise_what_is_held_is_found_and_named(books: Books, column: str) -> None:
    entries = await books.connection.fetch(
        "SELECT e.account_id, e.seq, e.next_due_at, s.hold_id, s.step FROM entry e"
        "  LEFT JOIN hold_step s ON (s.shard, s.account_id, s.seq) = (e.shard, e.account_id, e.seq)"
        " WHERE e.held_seq IS NOT NULL ORDER BY e.account_id, e.seq"
    )
    assert len(entries) == 15
    for account_id, seq, next_due_at, hold_id, step in entries:
        for value in HELD_COLUMNS[column]:
            if column == "next_due_at" and next_due_at is None:
                continue
            statement = f"UPDATE entry SET {column} = {value} WHERE account_id = {account_id} AND seq = {seq}"
            async with books.damaged(statement):
                found = await books.rows()
                chain = "chain", f"account {account_id} ({ALICE}), seq {seq}"
                # What depends on the holds themselves is told of the step that the entry belongs to.
                assert found & {chain, *([] if hold_id is None else [step_of(hold_id, step)])}, (seq, value, found)


async def test_an_entry_that_says_nothing_of_holds_is_found(books: Books) -> None:
    account_id, seq = await books.connection.fetchrow(
        "SELECT account_id, max(seq) FROM entry WHERE held_seq IS NOT NULL GROUP BY account_id"
    )
    await books.execute(
        "UPDATE entry SET held_after = NULL, held_seq = NULL, position = NULL, next_due_at = NULL"
        f" WHERE account_id = {account_id} AND seq = {seq}"
    )
    assert ("chain", f"account {account_id} ({ALICE}), seq {seq}") in await books.rows()


async def test_an_end_where_nothing_ends_is_found(books: Books) -> None:
    account_id, seq, hold_id, step = await books.connection.fetchrow(
        "SELECT account_id, seq, hold_id, step FROM hold_step WHERE open_holds = '{}'"
        " UNION ALL SELECT account_id, seq, hold_id, step FROM hold_step WHERE step = 1 LIMIT 1"
    )
    await books.execute(f"UPDATE entry SET next_due_at = 'epoch' WHERE account_id = {account_id} AND seq = {seq}")
    assert step_of(hold_id, step) in await books.rows()


async def test_a_missing_step_is_found(books: Books) -> None:
    for step in await books.steps():
        async with books.damaged(f"DELETE FROM hold_step WHERE {where(step)}"):
            found = await books.findings()
            row = f"account {step.account_id} ({ALICE}), seq {step.seq}"
            assert ("chain", SHARD, row, "no step of a hold belongs to it") in found
            if step.step == 1:
                assert ("hold of an account", SHARD, f"hold {step.hold_id}", "was never placed") in found


async def test_a_missing_hold_is_found(books: Books) -> None:
    for hold, steps in ((books.history.sword, 4), (books.history.expired, 2), (books.history.open, 2)):
        async with books.damaged(f"DELETE FROM hold WHERE id = '{hold.id}'"):
            found = await books.findings()
            for step in range(1, steps + 1):
                assert ("hold", SHARD, step_of(hold, step)[1], "its hold does not exist") in found
    key, wallet = books.history.keys["place"], books.history.sword.wallet.id
    async with books.damaged(f"DELETE FROM hold WHERE id = '{books.history.sword.id}'"):
        fault = f"asked for step 1 of hold {books.history.sword.id}, which does not exist"
        assert ("key of a hold", SHARD, f"key {key} of wallet {wallet}", fault) in await books.findings()


HOLD_COLUMNS: Final = {
    "shard": f"{OTHER_SHARD}",
    "id": "gen_random_uuid()",
    "account_id": "account_id + 1",
    "seq": "seq + 100",
    "wallet_id": "wallet_id + 1",
    "receiver_shard": "3",
    "receiver_wallet_id": "receiver_wallet_id + 1",
    "idempotency_key": "gen_random_uuid()",
    "description": "'other'",
    "reference": "'other'",
}


@pytest.mark.parametrize("column", HOLD_COLUMNS)
async def test_a_damaged_hold_is_found_and_named(books: Books, column: str) -> None:
    history = books.history
    names = {"sword": "place", "open": "place open", "open_escrow": "place open escrow", "escrow": "place escrow"}
    for name, key_name in names.items():
        hold: Hold = getattr(history, name)
        if column.startswith("receiver") and hold.receiver is None:
            continue
        async with books.damaged(f"UPDATE hold SET {column} = {HOLD_COLUMNS[column]} WHERE id = '{hold.id}'"):
            key = "key of a hold", f"key {history.keys[key_name]} of wallet {hold.wallet.id}"
            named = {key, ("hold of an account", f"hold {hold.id}"), step_of(hold, 1)}
            assert await books.rows() & named


async def test_a_hold_for_a_receiver_that_it_was_not_placed_for_is_found(books: Books) -> None:
    hold, key = books.history.sword, books.history.keys["place"]
    wallet = await books.connection.fetchval("SELECT id FROM wallet WHERE owner_id = $1", CAROL)
    await books.execute(
        f"UPDATE hold SET receiver_shard = {OTHER_SHARD}, receiver_wallet_id = {wallet} WHERE id = '{hold.id}'"
    )
    fault = f"its fingerprint is not what step 1 of hold {hold.id} gives"
    found = await books.findings()
    assert ("key of a hold", SHARD, f"key {key} of wallet {hold.wallet.id}", fault) in found
    assert ("hold", SHARD, step_of(hold, 2)[1], "is of kind 52, but its entry is of type 6") in found


async def test_an_escrow_that_paid_another_than_its_receiver_is_found(books: Books) -> None:
    hold = books.history.escrow
    bob = await books.connection.fetchval("SELECT id FROM wallet WHERE owner_id = $1", BOB)
    await books.execute(f"UPDATE hold SET receiver_shard = {SHARD}, receiver_wallet_id = {bob} WHERE id = '{hold.id}'")
    fault = f"does not pay wallet {bob} of shard {SHARD}, which its hold is for"
    assert ("hold", SHARD, step_of(hold, 2)[1], fault) in await books.findings()


def key_row(books: Books, name: str) -> str:
    return f"key {books.history.keys[name]} of wallet {books.history.sword.wallet.id}"


KEYS: Final = ("place", "adjust", "void", "place escrow", "place open")


@pytest.mark.parametrize("name", KEYS)
async def test_a_key_that_says_held_without_a_hold_is_found(books: Books, name: str) -> None:
    where_key = f"key = '{books.history.keys[name]}'"
    missing = uuid4()
    async with books.damaged(
        f'UPDATE idempotency_key SET details = details || \'{{"hold_id": "{missing}"}}\' WHERE {where_key}'
    ):
        assert ("key of a hold", key_row(books, name)) in await books.rows()
    async with books.damaged(f"UPDATE idempotency_key SET details = details - 'hold_id' WHERE {where_key}"):
        assert ("key of a hold", key_row(books, name)) in await books.rows()
    async with books.damaged(f"UPDATE idempotency_key SET details = details - 'asset_id' WHERE {where_key}"):
        assert ("key", key_row(books, name)) in await books.rows()
    async with books.damaged(f"UPDATE idempotency_key SET transaction_id = gen_random_uuid() WHERE {where_key}"):
        fault = "says held, but it asked for no step of a hold"
        assert ("key of a hold", SHARD, key_row(books, name), fault) in await books.findings()


@pytest.mark.parametrize("name", KEYS)
async def test_a_key_of_another_hold_is_found(books: Books, name: str) -> None:
    other = books.history.expired.id
    await books.execute(
        f'UPDATE idempotency_key SET details = details || \'{{"hold_id": "{other}"}}\''
        f" WHERE key = '{books.history.keys[name]}'"
    )
    [(check, shard, row, fault)] = await books.findings()
    assert (check, shard, row, fault[:22]) == ("key of a hold", SHARD, key_row(books, name), "is not the key of step")


@pytest.mark.parametrize("name", KEYS)
async def test_a_missing_key_of_a_hold_is_found(books: Books, name: str) -> None:
    """Or a retry would hold the same a second time."""
    step = await books.connection.fetchval(
        "SELECT format('step %s of hold %s', s.step, s.hold_id) FROM hold_step s JOIN idempotency_key k"
        "    ON k.transaction_id = s.event_id WHERE k.key = $1",
        books.history.keys[name],
    )
    await books.execute(f"DELETE FROM idempotency_key WHERE key = '{books.history.keys[name]}'")
    assert await books.findings() == [("key of a hold", SHARD, step, "its key is missing")]


@pytest.mark.parametrize("name", ["place", "place voided", "void", "place escrow", "place open", "place open escrow"])
async def test_another_fingerprint_of_a_hold_is_found(books: Books, name: str) -> None:
    await books.execute(
        "UPDATE idempotency_key SET fingerprint = substr(sha256('other'), 1, 16)"
        f" WHERE key = '{books.history.keys[name]}'"
    )
    [(check, _, row, fault)] = await books.findings()
    assert (check, row) == ("key of a hold", key_row(books, name))
    assert fault.startswith("its fingerprint is not what step")


def captured(hold: Hold, amount: int, *more: tuple[str, str], **texts: str | None) -> str:
    """Return SQL of the fingerprint of a capture."""
    asked = fingerprint(
        103, "GOLD", amount, texts.get("description"), texts.get("reference"), ("hold", str(hold.id)), *more
    )
    return f"'\\x{asked.hex()}'"


async def test_a_capture_s_fingerprint_is_one_of_the_four_that_its_rows_leave_open(books: Books) -> None:
    """Whether it named its amount, and whether it would have kept a remainder, is in no other row."""
    hold, [_, view, _] = books.history.sword, books.history.captures
    keep = ("keepRemainder", "true")
    differs = f"its fingerprint is not what transaction {view.id} gives"
    for expression, is_found in (
        (captured(hold, 20), False),
        (captured(hold, 0), False),
        (captured(hold, 20, keep), False),
        (captured(hold, 0, keep), False),
        (captured(hold, 21), True),
        (captured(hold, 20, ("keepRemainder", "false")), True),
        (captured(hold, 20, description="Paid"), True),
        (captured(books.history.voided, 20), True),
        ("substr(sha256('6 GOLD 20 --'), 1, 16)", True),
    ):
        key = books.history.keys["last capture"]
        async with books.damaged(f"UPDATE idempotency_key SET fingerprint = {expression} WHERE key = '{key}'"):
            expected = [("key of a movement", SHARD, key_row(books, "last capture"), differs)] if is_found else []
            assert await books.findings() == expected, expression


@pytest.mark.parametrize("name", ["capture", "capture escrow"])
async def test_another_fingerprint_of_a_capture_is_found(books: Books, name: str) -> None:
    await books.execute(
        "UPDATE idempotency_key SET fingerprint = substr(sha256('other'), 1, 16)"
        f" WHERE key = '{books.history.keys[name]}'"
    )
    [(check, _, row, _)] = await books.findings()
    assert (check, row) == ("key of a movement", key_row(books, name))


async def test_a_capture_s_text_that_was_changed_is_found(books: Books) -> None:
    view = books.history.captures[0]
    await books.execute(f"UPDATE transaction SET description = 'other' WHERE id = '{view.id}'")
    assert ("key of a movement", key_row(books, "capture")) in await books.rows()


@pytest.mark.parametrize("name", ["place", "capture"])
async def test_metadata_of_a_hold_or_a_capture_that_was_changed_is_found(books: Books, name: str) -> None:
    id_ = books.history.sword.id if name == "place" else books.history.captures[0].id
    for statement in (
        f"UPDATE transaction_note SET metadata = metadata || '{{\"a\": \"c\"}}' WHERE transaction_id = '{id_}'",
        f"DELETE FROM transaction_note WHERE transaction_id = '{id_}'",
    ):
        async with books.damaged(statement):
            check = "key of a hold" if name == "place" else "key of a movement"
            assert await books.rows() == {(check, key_row(books, name))}


async def test_a_step_that_is_added_is_found(books: Books) -> None:
    step = next(each for each in await books.steps() if each.hold_id == books.history.open.id)
    await books.execute(
        "INSERT INTO hold_step SELECT shard, hold_id, 9, 54, gen_random_uuid(), account_id, 900, amount, 0, amount,"
        f" -amount, 0, held_until, at, '{{}}' FROM hold_step WHERE {where(step)}"
    )
    assert step_of(books.history.open, 9) in await books.rows()
