"""Damage to transfers, and to what is set of assets, is found, and the damaged row is named."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final, TypeAlias
from uuid import UUID, uuid4

import asyncpg
import pytest
from asyncpg import Connection
from damaged import SHARD_COUNT, owners_of
from direct import TABLES
from factories import new_owner
from sqlalchemy import make_url

from wallet_gql.domain.assets import TransferPolicy
from wallet_gql.domain.postings import Posted, Refused, TransactionName, TransactionView
from wallet_gql.domain.wallets import WalletKind
from wallet_gql.embedded.launcher import EmbeddedPostgres
from wallet_gql.ledger.verify import Finding, verify_outside, verify_shard
from wallet_gql.operations.assets import set_asset
from wallet_gql.operations.opening import Ledger, open_ledger
from wallet_gql.operations.proof import prove
from wallet_gql.operations.transfers import TransferInput, TransferOutcome, transfer
from wallet_gql.settings import Settings

SHARD: Final = 1
OTHER_SHARD: Final = 2
ALICE, BOB, DORA, *_ = owners_of(SHARD)
CAROL, *_ = owners_of(OTHER_SHARD)

Found: TypeAlias = tuple[str, int | None, str, str]
"""A finding: the check, the shard, the row, the fault."""


@dataclass(frozen=True)
class History:
    """What was posted, as the senders see it: Alice's transfers and Carol's; and the keys of what Alice was refused."""

    to_bob: TransactionView
    to_carol: TransactionView
    again_to_carol: TransactionView
    back: TransactionView
    insufficient: UUID
    forbidden: UUID


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

    async def wallet_id(self, shard: int, owner_id: str, kind: WalletKind = WalletKind.USER) -> int:
        found: int = await self.connection.fetchval(
            "SELECT id FROM wallet WHERE (shard, kind, owner_id) = ($1, $2, $3)", shard, int(kind), owner_id
        )
        return found


def received(view: TransactionView) -> TransactionName:
    """Return the receiver's half of a transfer."""
    assert view.counterpart is not None
    return view.counterpart


def transfer_finding(half: TransactionView | TransactionName, fault: str) -> Found:
    return "transfer", half.shard, f"transaction {half.id}", fault


def fingerprint_differs(view: TransactionView) -> Found:
    row = f"key {view.idempotency_key} of wallet {view.wallet_id}"
    return "key of a movement", view.shard, row, f"its fingerprint is not what transaction {view.id} gives"


def clearing_holds(amount: int) -> Found:
    return "clearing", None, "asset 1 (GOLD)", f"clearing holds {amount}, but should hold nothing"


def names(half: TransactionView | TransactionName, other: UUID | str) -> str:
    return f"its other half, transaction {half.id}, names transaction {other}"


@pytest.fixture(scope="module")
def transfer_settings(new_database: Callable[[str], Settings]) -> Settings:
    return new_database("verify_transfers")


@pytest.fixture(scope="module")
def history(transfer_settings: Settings) -> History:
    async def send(ledger: Ledger, sender: str, receiver: str, amount: int, **more: Any) -> TransferOutcome:
        asked = TransferInput(sender, receiver, more.pop("asset_code", "GOLD"), Decimal(amount), uuid4(), **more)
        return await transfer(ledger, asked)

    async def moved(ledger: Ledger, sender: str, receiver: str, amount: int, **more: Any) -> TransactionView:
        outcome = await send(ledger, sender, receiver, amount, **more)
        assert isinstance(outcome, Posted)
        return outcome.transaction

    async def refused(ledger: Ledger, amount: int, asset_code: str) -> UUID:
        key = uuid4()
        outcome = await transfer(ledger, TransferInput(ALICE, BOB, asset_code, Decimal(amount), key))
        assert isinstance(outcome, Refused)
        return key

    async def fill() -> History:
        async with open_ledger(transfer_settings) as ledger:
            for owner in (ALICE, BOB, CAROL):
                await new_owner(ledger, gold=100, owner_id=owner)
            await new_owner(ledger, owner_id=DORA)
            for policy in (TransferPolicy.NONE, TransferPolicy.ALL, TransferPolicy.NONE):
                await set_asset(ledger, "POINTS", policy)
            return History(
                await moved(ledger, ALICE, BOB, 10, description="Gift: é🎮", reference="r-1"),
                await moved(ledger, ALICE, CAROL, 10),
                await moved(ledger, ALICE, CAROL, 20, description=""),
                await moved(ledger, CAROL, ALICE, 5, reference="-"),
                await refused(ledger, 1000, "GOLD"),
                await refused(ledger, 1, "POINTS"),
            )

    return asyncio.run(fill())


@pytest.fixture
async def books(postgres: EmbeddedPostgres, transfer_settings: Settings, history: History) -> AsyncIterator[Books]:
    name = transfer_settings.server_url().database
    url = make_url(postgres.superuser_url).set(drivername="postgresql", database=name)
    connection = await asyncpg.connect(url.render_as_string(hide_password=False))
    transaction = connection.transaction()
    await transaction.start()
    for table in TABLES:
        await connection.execute(f"ALTER TABLE {table} DISABLE TRIGGER ALL")
    yield Books(connection, history)
    await transaction.rollback()
    await connection.close()


async def test_transfers_without_damage_give_no_finding(books: Books) -> None:
    assert await books.findings() == []
    assert await books.connection.fetchval("SELECT count(*) FROM transaction WHERE type = 5") == 4


def test_the_proof_of_transfers_without_damage_has_no_finding(transfer_settings: Settings, history: History) -> None:
    proof = asyncio.run(prove(transfer_settings))
    assert proof.findings == []
    # Three top-ups, and four transfers.
    assert proof.entry_count == 3 * 2 + 4 * 4
    assert history.to_bob.transfer_id == history.to_bob.id


async def remove(books: Books, half: TransactionView | TransactionName) -> None:
    await books.execute(
        f"DELETE FROM entry WHERE transaction_id = '{half.id}'", f"DELETE FROM transaction WHERE id = '{half.id}'"
    )


async def test_a_receiver_s_half_that_is_missing_is_found(books: Books) -> None:
    view = books.history.again_to_carol
    other = received(view)
    await remove(books, books.history.back)
    await remove(books, received(books.history.back))
    before = await books.findings()
    await remove(books, other)
    fault = f"its other half, transaction {other.id} of shard {OTHER_SHARD}, does not exist"
    assert [finding for finding in await books.findings() if finding not in before] == [
        clearing_holds(20),
        transfer_finding(view, fault),
        fingerprint_differs(view),
    ]


async def test_a_sender_s_half_that_is_missing_is_found(books: Books) -> None:
    view = books.history.back
    await remove(books, view)
    key = f"key {view.idempotency_key} of wallet {view.wallet_id}"
    fault = f"its other half, transaction {view.id} of shard {OTHER_SHARD}, does not exist"
    assert await books.findings() == [
        clearing_holds(-5),
        transfer_finding(received(view), fault),
        ("key", OTHER_SHARD, key, f"says posted, but there is no transaction {view.id}"),
    ]


@pytest.mark.parametrize("column", ["counterpart_id", "counterpart_shard"])
async def test_a_half_that_names_another_is_found(books: Books, column: str) -> None:
    view, stranger = books.history.to_carol, books.history.to_bob
    other = received(view)
    value = f"'{stranger.id}'" if column == "counterpart_id" else "3"
    await books.execute(f"UPDATE transaction SET {column} = {value} WHERE id = '{other.id}'")
    named = stranger.id if column == "counterpart_id" else view.id
    missing = f"its other half, transaction {view.id} of shard 3, does not exist"
    of_other = names(stranger, received(stranger).id) if column == "counterpart_id" else missing
    assert await books.findings() == [
        transfer_finding(view, names(other, named)),
        transfer_finding(other, of_other),
    ]


@pytest.mark.parametrize("half", ["sent", "received"])
async def test_a_half_that_names_nobody_is_found(books: Books, half: str) -> None:
    view = books.history.to_carol
    damaged, whole = (view, received(view)) if half == "sent" else (received(view), view)
    await books.execute(
        "ALTER TABLE transaction DROP CONSTRAINT transaction_counterpart_check",
        f"UPDATE transaction SET (counterpart_shard, counterpart_id) = (NULL, NULL) WHERE id = '{damaged.id}'",
    )
    found = await books.findings()
    assert transfer_finding(whole, names(damaged, "")) in found
    assert [row for check, _, row, _ in found if check == "transfer"].count(f"transaction {damaged.id}") == 1


async def test_transfers_with_each_other_s_receivers_are_found(books: Books) -> None:
    one, other = books.history.to_bob, books.history.to_carol
    await books.execute("UPDATE transaction SET description = NULL, reference = NULL WHERE description <> ''")
    for half in (other, received(other)):
        for table, column in (("entry", "transaction_id"), ("transaction", "id")):
            await books.execute(
                f"UPDATE {table} SET executed_at ="
                f" (SELECT t.executed_at FROM transaction t WHERE t.id = '{one.id}') WHERE {column} = '{half.id}'"
            )
    before = await books.findings()
    for view, half in ((one, received(other)), (other, received(one))):
        await books.execute(
            f"UPDATE transaction SET (counterpart_shard, counterpart_id) = ({half.shard}, '{half.id}')"
            f" WHERE id = '{view.id}'",
            f"UPDATE transaction SET (counterpart_shard, counterpart_id) = ({view.shard}, '{view.id}')"
            f" WHERE id = '{half.id}'",
        )
    # Both move 10 and are whole: that the receivers are others is in the fingerprints only.
    assert before == [fingerprint_differs(one)]
    assert [finding for finding in await books.findings() if finding not in before] == [fingerprint_differs(other)]


async def test_a_receiver_s_other_name_is_found(books: Books) -> None:
    carol = await books.wallet_id(OTHER_SHARD, CAROL)
    await books.execute(f"UPDATE wallet SET owner_id = '{owners_of(OTHER_SHARD)[1]}' WHERE id = {carol}")
    assert sorted(await books.findings()) == sorted(
        fingerprint_differs(view) for view in (books.history.to_carol, books.history.again_to_carol)
    )


async def add_to(books: Books, half: TransactionView | TransactionName, more: int) -> None:
    """Let a half move more, with all that comes after it on its accounts."""
    accounts = await books.connection.fetch(
        "SELECT shard, account_id, seq, sign(amount)::int FROM entry WHERE transaction_id = $1", half.id
    )
    for shard, account_id, seq, sign in accounts:
        await books.execute(
            f"UPDATE entry SET balance_after = balance_after + {sign * more}"
            f" WHERE (shard, account_id) = ({shard}, {account_id}) AND seq >= {seq}"
        )
    await books.execute(f"UPDATE entry SET amount = amount + sign(amount) * {more} WHERE transaction_id = '{half.id}'")


async def test_halves_of_different_amounts_are_found(books: Books) -> None:
    view = books.history.again_to_carol
    other = received(view)
    await add_to(books, other, 3)
    sent = f"moves 20 of asset 1, but its other half, transaction {other.id}, moves 23 of asset 1"
    assert await books.findings() == [clearing_holds(-3), transfer_finding(view, sent)]


async def test_halves_of_one_other_amount_are_found_by_the_fingerprint(books: Books) -> None:
    view = books.history.again_to_carol
    await add_to(books, view, 3)
    await add_to(books, received(view), 3)
    found = await books.findings()
    assert fingerprint_differs(view) in found
    assert {check for check, *_ in found} == {
        "key of a movement",
        "refusal",
    }  # Alice was refused on what she held before


async def test_halves_in_different_assets_are_found(books: Books) -> None:
    view = books.history.back
    other = received(view)
    await books.execute(
        "UPDATE account SET asset_id = 2 WHERE (shard, id) IN"
        f" (SELECT shard, account_id FROM entry WHERE transaction_id = '{other.id}')"
    )
    fault = f"moves 5 of asset 1, but its other half, transaction {other.id}, moves 5 of asset 2"
    assert transfer_finding(view, fault) in await books.findings()


async def test_a_transfer_between_a_wallet_and_itself_is_found(books: Books) -> None:
    view = books.history.to_bob
    await books.execute(f"UPDATE transaction SET wallet_id = {view.wallet_id} WHERE id = '{received(view).id}'")
    found = await books.findings()
    for half in (view, received(view)):
        assert transfer_finding(half, "is between a wallet and itself") in found


async def test_halves_of_different_times_are_found(books: Books) -> None:
    view = books.history.back
    other = received(view)
    for table, column in (("entry", "transaction_id"), ("transaction", "id")):
        await books.execute(
            f"UPDATE {table} SET executed_at = executed_at + interval '1 ms' WHERE {column} = '{other.id}'"
        )
    assert await books.findings() == [
        transfer_finding(half, f"its time is not that of its other half, transaction {its.id}")
        for half, its in ((other, view), (view, other))
    ]


@pytest.mark.parametrize("column", ["description", "reference"])
async def test_a_text_of_the_receiver_s_half_that_is_another_is_found(books: Books, column: str) -> None:
    view = books.history.to_carol
    await books.execute(f"UPDATE transaction SET {column} = 'forged' WHERE id = '{received(view).id}'")
    assert await books.findings() == [
        transfer_finding(half, f"its texts are not those of its other half, transaction {its.id}")
        for half, its in ((view, received(view)), (received(view), view))
    ]


async def test_a_key_on_a_receiver_s_half_is_found(books: Books) -> None:
    other, key = received(books.history.to_carol), uuid4()
    carol = await books.wallet_id(OTHER_SHARD, CAROL)
    await books.execute(f"UPDATE transaction SET idempotency_key = '{key}' WHERE id = '{other.id}'")
    fault = f"transaction {other.id} has a key, but it is its other half's"
    finding = ("key", OTHER_SHARD, f"key {key} of wallet {carol}", fault)
    assert await books.findings() == [finding]
    await books.execute(
        "INSERT INTO idempotency_key (shard, wallet_id, key, fingerprint, outcome, transaction_id)"
        f" SELECT {OTHER_SHARD}, {carol}, '{key}', fingerprint, 1, '{other.id}' FROM idempotency_key LIMIT 1"
    )
    assert await books.findings() == [finding]
    # Neither does a key alone pass.
    await books.execute(f"UPDATE transaction SET idempotency_key = NULL WHERE id = '{other.id}'")
    assert await books.findings() == [finding]


async def test_a_transfer_whose_key_is_missing_is_found(books: Books) -> None:
    view = books.history.to_carol
    await books.execute(f"DELETE FROM idempotency_key WHERE transaction_id = '{view.id}'")
    row = f"key {view.idempotency_key} of wallet {view.wallet_id}"
    assert await books.findings() == [("key", SHARD, row, f"is missing: transaction {view.id} was posted under it")]


async def test_the_fingerprint_of_another_receiver_is_found(books: Books) -> None:
    to_bob, to_carol = books.history.to_bob, books.history.to_carol
    await books.execute(
        "UPDATE idempotency_key SET fingerprint ="
        f" (SELECT fingerprint FROM idempotency_key WHERE transaction_id = '{to_bob.id}')"
        f" WHERE transaction_id = '{to_carol.id}'"
    )
    assert await books.findings() == [fingerprint_differs(to_carol)]


@pytest.mark.parametrize("type_", [1, 3, 5])
async def test_a_sender_s_half_of_another_type_is_found(books: Books, type_: int) -> None:
    view = books.history.to_carol
    await books.execute(
        "ALTER TABLE transaction DROP CONSTRAINT transaction_counterpart_check",
        *(
            f"UPDATE {table} SET type = {type_} WHERE {column} = '{view.id}'"
            for table, column in (("transaction", "id"), ("entry", "transaction_id"))
        ),
    )
    found = await books.findings()
    assert ("transaction", SHARD, f"transaction {view.id}") in [finding[:3] for finding in found]
    for half, its, mine, other in ((view, received(view), type_, 5), (received(view), view, 5, type_)):
        fault = f"is of type {mine}, but its other half, transaction {its.id}, of type {other}"
        assert transfer_finding(half, fault) in found


async def test_a_top_up_with_a_counterpart_is_found(books: Books) -> None:
    other = received(books.history.to_bob)
    [(id_,)] = await books.connection.fetch("SELECT id FROM transaction WHERE type = 1 AND shard = 1 LIMIT 1")
    await books.execute(
        "ALTER TABLE transaction DROP CONSTRAINT transaction_counterpart_check",
        f"UPDATE transaction SET (counterpart_shard, counterpart_id) = ({other.shard}, '{other.id}')"
        f" WHERE id = '{id_}'",
    )
    fault = names(other, books.history.to_bob.id)
    assert await books.findings() == [
        ("transaction", SHARD, f"transaction {id_}", "has another half or a leg of clearing, but not both"),
        ("transfer", SHARD, f"transaction {id_}", fault),
    ]


async def test_a_clearing_that_holds_something_is_found(books: Books) -> None:
    clearing = await books.wallet_id(OTHER_SHARD, "0", WalletKind.CLEARING)
    await books.execute(
        "UPDATE entry SET (amount, balance_after) = (amount + 4, balance_after + 4) WHERE (shard, account_id, seq) ="
        f" (SELECT shard, id, 1 FROM account WHERE (shard, wallet_id) = ({OTHER_SHARD}, {clearing}))"
    )
    found = await books.findings()
    assert clearing_holds(4) in found
    assert {check for check, *_ in found} == {"clearing", "transaction"}


@pytest.mark.parametrize("owner_id", ["", "256", "-1", "01", "clearing"])
async def test_a_clearing_wallet_without_a_line_is_found(books: Books, owner_id: str) -> None:
    clearing = await books.wallet_id(OTHER_SHARD, "0", WalletKind.CLEARING)
    await books.execute(
        "ALTER TABLE wallet DROP CONSTRAINT wallet_owner_id_check",
        f"UPDATE wallet SET owner_id = '{owner_id}' WHERE id = {clearing}",
    )
    fault = "is a clearing wallet, but its owner id is not a line of work, 0 to 255"
    assert await books.findings() == [("owner", OTHER_SHARD, f"wallet {clearing} ({owner_id})", fault)]


async def test_a_clearing_wallet_of_the_last_line_is_no_finding(books: Books) -> None:
    clearing = await books.wallet_id(OTHER_SHARD, "0", WalletKind.CLEARING)
    await books.execute(f"UPDATE wallet SET owner_id = '255' WHERE id = {clearing}")
    assert await books.findings() == []


async def test_a_clearing_wallet_that_calls_itself_the_treasury_is_found(books: Books) -> None:
    clearing = await books.wallet_id(OTHER_SHARD, "0", WalletKind.CLEARING)
    accounts = await books.connection.fetch("SELECT id FROM account WHERE wallet_id = $1", clearing)
    await books.execute(
        "ALTER TABLE wallet DROP CONSTRAINT wallet_shard_kind_owner_id_key",
        f"UPDATE wallet SET kind = 2, owner_id = '63' WHERE id = {clearing}",
    )
    assert await books.findings() == [
        ("account", OTHER_SHARD, f"account {id_}", "its kind is not its wallet's") for (id_,) in accounts
    ]


@pytest.mark.parametrize("details", ["{}", '{"asset_id": "GOLD"}', '{"policy": 3}'])
async def test_a_refusal_in_no_asset_is_found(books: Books, details: str) -> None:
    await books.execute(f"UPDATE idempotency_key SET details = '{details}' WHERE key = '{books.history.forbidden}'")
    row = f"key {books.history.forbidden} of wallet {books.history.to_bob.wallet_id}"
    assert await books.findings() == [("key", SHARD, row, "says refused, but not in which asset")]


async def test_a_refused_transfer_on_another_balance_is_found(books: Books) -> None:
    await books.execute(
        "UPDATE idempotency_key SET details = details || '{\"balance_before_minor\": 77}'"
        f" WHERE key = '{books.history.insufficient}'"
    )
    row = f"key {books.history.insufficient} of wallet {books.history.to_bob.wallet_id}"
    fault = "says refused on 77, which no account of its wallet held then"
    assert await books.findings() == [("refusal", SHARD, row, fault)]


async def test_a_setting_that_is_missing_between_others_is_found(books: Books) -> None:
    [(asset_id,)] = await books.connection.fetch("SELECT id FROM asset WHERE code = 'POINTS'")
    await books.execute("DELETE FROM asset_setting WHERE step = 2")
    fault = "does not follow the one before it"
    assert await books.findings() == [("asset setting", None, f"setting 3 of asset {asset_id}", fault)]
