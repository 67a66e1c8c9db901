"""The database refuses every broken transfer, whoever writes it: by SQL as the serving role."""

from collections.abc import Callable
from dataclasses import replace
from typing import Final
from uuid import UUID

import pytest
from asyncpg import Connection
from batches import new_owner_in
from direct import (
    Half,
    Movement,
    Rows,
    Transfer,
    account_of,
    count_rows,
    insert,
    insert_rows,
    movement,
    refused,
    rows_of,
    transfer,
)
from factories import balance
from uuid_utils.compat import uuid7

from wallet_gql.domain.postings import TransactionType
from wallet_gql.domain.wallets import OwnerName, WalletKind
from wallet_gql.operations.opening import Ledger

CHECK_VIOLATION: Final = "23514"
UNIQUE_VIOLATION: Final = "23505"
FOREIGN_KEY_VIOLATION: Final = "23503"

NO_OTHER_HALF: Final = "is a transfer without its other half"
WRONG_LEGS: Final = "does not have the legs of type"
OUT, IN = TransactionType.TRANSFER_OUT, TransactionType.TRANSFER_IN

SHARD: Final = 1
OTHER_SHARD: Final = 2


class Owners:
    """A sender with 100 GOLD, a receiver with 50 in the same shard or another, and what may be tried next."""

    def __init__(self, ledger: Ledger, connection: Connection, sender: OwnerName, receiver: OwnerName) -> None:
        self.ledger = ledger
        self.connection = connection
        self.sender = sender
        self.receiver = receiver

    async def transfer(self, amount: int = 10) -> Transfer:
        return await transfer(self.connection, self.sender, self.receiver, amount)

    async def balances(self) -> tuple[int, int]:
        return (await balance(self.ledger, self.sender.owner_id), await balance(self.ledger, self.receiver.owner_id))


@pytest.fixture(params=[SHARD, OTHER_SHARD], ids=["same shard", "other shard"])
async def owners(request: pytest.FixtureRequest, ledger: Ledger, server_connection: Connection) -> Owners:
    sender = OwnerName(SHARD, await new_owner_in(ledger, SHARD, gold=100))
    receiver = OwnerName(request.param, await new_owner_in(ledger, request.param, gold=50))
    return Owners(ledger, server_connection, sender, receiver)


async def test_a_valid_transfer_passes(owners: Owners) -> None:
    moved = await owners.transfer(100)
    before = await count_rows(owners.connection)
    await insert_rows(owners.connection, rows_of(moved))
    assert await owners.balances() == (0, 150)
    added = {"transaction": 2, "entry": 4, "idempotency_key": 1}
    assert await count_rows(owners.connection) == {
        table: count + added.get(table, 0) for table, count in before.items()
    }


async def test_transfers_there_and_back_in_one_statement_pass(owners: Owners) -> None:
    moved: list[Transfer] = []
    for sender, receiver, amount in (
        (owners.sender, owners.receiver, 100),
        (owners.receiver, owners.sender, 150),
        (owners.sender, owners.receiver, 1),
    ):
        moved.append(await transfer(owners.connection, sender, receiver, amount, after=moved))
    rows = rows_of(*moved)
    # The order of the rows does not matter.
    await insert_rows(owners.connection, Rows(rows.transactions[::-1], rows.entries[::-1], rows.keys[::-1]))
    assert await owners.balances() == (149, 1)


def half_alone(half: Half) -> Rows:
    return Rows([half.transaction], [half.user, half.clearing])


def turned(half: Half) -> Half:
    """Return a half that moves the same in the other direction."""
    legs = {
        leg: {"amount": -row.amount, "balance_after": row.balance_after - 2 * row.amount}
        for leg, row in (("user", half.user), ("clearing", half.clearing))
    }
    return half.altered("user", **legs["user"]).altered("clearing", **legs["clearing"])


def of_type(half: Half, type_: int) -> Half:
    return half.altered(type=type_).of_transaction(type=type_)


def moving(half: Half, more: int) -> Half:
    """Return a half that moves more, in both of its legs."""
    user, clearing = half.user, half.clearing
    more = more if user.amount > 0 else -more
    half = half.altered("user", amount=user.amount + more, balance_after=user.balance_after + more)
    return half.altered("clearing", amount=clearing.amount - more, balance_after=clearing.balance_after - more)


def unbalanced(half: Half) -> Half:
    """Return a half whose leg of the system gives one less than its owner gets."""
    clearing = half.clearing
    return half.altered("clearing", amount=clearing.amount + 1, balance_after=clearing.balance_after + 1)


def naming(shard: int | None, id_: UUID | None) -> Callable[[Half], Half]:
    return lambda half: half.of_transaction(counterpart_shard=shard, counterpart_id=id_)


def naming_another(half: Half) -> Half:
    return half.of_transaction(counterpart_id=uuid7())


def naming_another_shard(half: Half) -> Half:
    shard = half.transaction.counterpart_shard
    assert shard is not None
    return half.of_transaction(counterpart_shard=shard + 1)


# What is inserted of a valid transfer of 10, and how the database answers.
ALTERED: Final[dict[str, tuple[Callable[[Transfer], Rows], str, str]]] = {
    "the sender's half alone": (lambda t: half_alone(t.sent), "transaction_law_halves", NO_OTHER_HALF),
    "the receiver's half alone": (lambda t: half_alone(t.received), "transaction_law_halves", NO_OTHER_HALF),
    "a sender's half that names another": (
        lambda t: rows_of(t.of_sent(naming_another)), "transaction_law_halves", NO_OTHER_HALF,
    ),
    "a receiver's half that names another": (
        lambda t: rows_of(t.of_received(naming_another)), "transaction_law_halves", NO_OTHER_HALF,
    ),
    "a sender's half that names another shard": (
        lambda t: rows_of(t.of_sent(naming_another_shard)), "transaction_law_halves", NO_OTHER_HALF,
    ),
    "a receiver's half that names another shard": (
        lambda t: rows_of(t.of_received(naming_another_shard)), "transaction_law_halves", NO_OTHER_HALF,
    ),
    "halves that name themselves": (
        lambda t: rows_of(
            t.of_sent(naming(t.sent.transaction.shard, t.sent.transaction.id)).of_received(
                naming(t.received.transaction.shard, t.received.transaction.id)
            )
        ),
        "transaction_law_halves", NO_OTHER_HALF,
    ),
    "halves of different amounts": (
        lambda t: rows_of(t.of_received(lambda half: moving(half, -1))), "transaction_law_halves", NO_OTHER_HALF,
    ),
    "a half that does not balance in its shard": (
        lambda t: rows_of(t.of_received(unbalanced)), "entry_law_balanced", "is unbalanced by 1",
    ),
    "a sender that gains": (
        lambda t: rows_of(replace(t, sent=of_type(turned(t.sent), OUT))), "entry_law_shape", WRONG_LEGS,
    ),
    "a receiver that loses": (
        lambda t: rows_of(replace(t, received=of_type(turned(t.received), IN))), "entry_law_shape", WRONG_LEGS,
    ),
    "a sender's half of the receiver's type": (
        lambda t: rows_of(replace(t, sent=of_type(t.sent, IN))), "entry_law_shape", WRONG_LEGS,
    ),
    "a spend and its counterpart": (
        lambda t: rows_of(replace(t, sent=of_type(t.sent, TransactionType.SPEND))), "transaction_counterpart_check", "",
    ),
    "a top-up and its counterpart": (
        lambda t: rows_of(replace(t, received=of_type(t.received, TransactionType.TOP_UP))),
        "transaction_counterpart_check", "",
    ),
    "a sender's half without a counterpart": (
        lambda t: rows_of(t.of_sent(naming(None, None))), "transaction_counterpart_check", "",
    ),
    "a receiver's half without a counterpart": (
        lambda t: rows_of(t.of_received(naming(None, None))), "transaction_counterpart_check", "",
    ),
    "a counterpart without a shard": (
        lambda t: rows_of(t.of_sent(naming(None, t.received.transaction.id))), "transaction_counterpart_check", "",
    ),
    "a counterpart without an id": (
        lambda t: rows_of(t.of_sent(naming(t.received.transaction.shard, None))), "transaction_counterpart_check", "",
    ),
    "an overdraft of the sender": (
        lambda t: rows_of(t.of_sent(lambda half: moving(half, 91)).of_received(lambda half: moving(half, 91))),
        "entry_balance_after_check", "",
    ),
}  # fmt: skip


@pytest.mark.parametrize("altered", ALTERED)
async def test_a_transfer_is_refused_with(owners: Owners, altered: str) -> None:
    alter, constraint, message = ALTERED[altered]
    moved = await owners.transfer()
    if owners.sender.shard == owners.receiver.shard:
        # Each half has a clearing account of its own, so that one half's legs can change without the other's.
        moved = await through_another_line(owners, moved)
    async with refused(owners.connection, CHECK_VIOLATION, constraint, message):
        await insert_rows(owners.connection, alter(moved))
    assert await owners.balances() == (100, 50)


async def through_another_line(owners: Owners, moved: Transfer) -> Transfer:
    clearing = await account_of(owners.connection, owners.receiver.shard, "1", kind=WalletKind.CLEARING)
    amount = moved.received.clearing.amount
    return moved.of_received(
        lambda half: half.altered(
            "clearing", account_id=clearing.id, seq=clearing.seq + 1, balance_after=clearing.balance + amount
        )
    )


async def test_what_the_altered_transfers_begin_with_is_valid(owners: Owners) -> None:
    await insert_rows(owners.connection, rows_of(await through_another_line(owners, await owners.transfer())))
    assert await owners.balances() == (90, 60)


async def test_two_halves_that_send_are_refused(owners: Owners) -> None:
    moved = await through_another_line(owners, await owners.transfer())
    twice = moved.of_received(lambda half: of_type(turned(half), OUT))
    async with refused(owners.connection, CHECK_VIOLATION, "transaction_law_halves", NO_OTHER_HALF):
        await insert_rows(owners.connection, rows_of(twice))
    assert await owners.balances() == (100, 50)


async def test_two_halves_that_receive_are_refused(owners: Owners) -> None:
    moved = await through_another_line(owners, await owners.transfer())
    twice = moved.of_sent(lambda half: of_type(turned(half), IN))
    async with refused(owners.connection, CHECK_VIOLATION, "transaction_law_halves", NO_OTHER_HALF):
        await insert_rows(owners.connection, rows_of(twice))
    assert await owners.balances() == (100, 50)


async def test_halves_in_different_assets_are_refused(owners: Owners) -> None:
    moved = await owners.transfer()
    user = await account_of(owners.connection, *owners.receiver, "DIAMOND")
    clearing = await account_of(owners.connection, owners.receiver.shard, "0", "DIAMOND", WalletKind.CLEARING)
    diamonds = moved.of_received(
        lambda half: half.altered("user", account_id=user.id, seq=1, balance_after=10).altered(
            "clearing", account_id=clearing.id, seq=clearing.seq + 1, balance_after=clearing.balance - 10
        )
    )
    async with refused(owners.connection, CHECK_VIOLATION, "transaction_law_halves", NO_OTHER_HALF):
        await insert_rows(owners.connection, rows_of(diamonds))
    assert await owners.balances() == (100, 50)


async def test_a_transfer_between_a_wallet_and_itself_is_refused(owners: Owners) -> None:
    moved = await transfer(owners.connection, owners.sender, owners.sender, 10)
    async with refused(owners.connection, CHECK_VIOLATION, "transaction_law_halves", NO_OTHER_HALF):
        await insert_rows(owners.connection, rows_of(moved))
    assert await owners.balances() == (100, 50)


async def test_halves_of_two_transfers_that_name_each_other_crosswise_are_refused(owners: Owners) -> None:
    first = await owners.transfer()
    second = await transfer(owners.connection, owners.sender, owners.receiver, 10, after=[first])
    crossed = first.of_sent(naming(owners.receiver.shard, second.received.transaction.id))
    other = second.of_sent(naming(owners.receiver.shard, first.received.transaction.id))
    async with refused(owners.connection, CHECK_VIOLATION, "transaction_law_halves", NO_OTHER_HALF):
        await insert_rows(owners.connection, rows_of(crossed, other))
    assert await owners.balances() == (100, 50)


async def test_one_half_without_the_other_among_whole_transfers_is_refused(owners: Owners) -> None:
    whole = await owners.transfer()
    lone = (await transfer(owners.connection, owners.sender, owners.receiver, 5, after=[whole])).sent
    rows = rows_of(whole)
    async with refused(owners.connection, CHECK_VIOLATION, "transaction_law_halves", str(lone.transaction.id)):
        await insert_rows(
            owners.connection,
            Rows([*rows.transactions, lone.transaction], [*rows.entries, lone.user, lone.clearing], rows.keys),
        )
    assert await owners.balances() == (100, 50)


@pytest.mark.parametrize("first", ["sent", "received"])
async def test_a_half_that_comes_in_a_later_statement_is_refused(owners: Owners, first: str) -> None:
    moved = await through_another_line(owners, await owners.transfer())
    halves = [moved.sent, moved.received] if first == "sent" else [moved.received, moved.sent]
    async with (
        refused(owners.connection, CHECK_VIOLATION, "transaction_law_halves", str(halves[0].transaction.id)),
        owners.connection.transaction(),
    ):
        for half in halves:
            await insert_rows(owners.connection, half_alone(half))
    assert await owners.balances() == (100, 50)


@pytest.mark.parametrize("half", ["sent", "received"])
async def test_a_second_half_for_a_transfer_that_is_whole_is_refused(owners: Owners, half: str) -> None:
    moved = await owners.transfer()
    await insert_rows(owners.connection, rows_of(moved))
    again = await through_another_line(owners, await owners.transfer())
    other = moved.received.transaction if half == "sent" else moved.sent.transaction
    second: Half = naming(other.shard, other.id)(getattr(again, half))
    async with refused(owners.connection, CHECK_VIOLATION, "transaction_law_halves", str(second.transaction.id)):
        await insert_rows(owners.connection, half_alone(second))
    assert await owners.balances() == (90, 60)


def having(moved: Transfer, name: str, half: Half) -> Transfer:
    """Return a transfer with another half."""
    return moved.of_sent(lambda _: half) if name == "sent" else moved.of_received(lambda _: half)


async def instead(connection: Connection, half: Half, kind: WalletKind, stripe: int) -> Half:
    """Return a half whose other side is a wallet of another kind."""
    account = await account_of(connection, half.transaction.shard, str(stripe), kind=kind)
    return half.altered(
        "clearing",
        account_id=account.id,
        seq=account.seq + 1,
        balance_after=account.balance + half.clearing.amount,
    )


@pytest.mark.parametrize("half", ["sent", "received"])
async def test_a_half_against_the_treasury_is_refused(owners: Owners, half: str) -> None:
    moved = await through_another_line(owners, await owners.transfer())
    wrong = await instead(owners.connection, getattr(moved, half), WalletKind.TREASURY, 45)
    message = f"transaction {wrong.transaction.id} (shard {wrong.transaction.shard}) {WRONG_LEGS}"
    async with refused(owners.connection, CHECK_VIOLATION, "entry_law_shape", message):
        await insert_rows(owners.connection, rows_of(having(moved, half, wrong)))
    assert await owners.balances() == (100, 50)


@pytest.mark.parametrize("half", ["sent", "received"])
async def test_a_half_against_an_owner_is_refused(owners: Owners, half: str) -> None:
    moved = await through_another_line(owners, await owners.transfer())
    right: Half = getattr(moved, half)
    shard = right.transaction.shard
    third = OwnerName(shard, await new_owner_in(owners.ledger, shard, gold=50))
    account = await account_of(owners.connection, *third)
    amount = right.clearing.amount
    wrong = right.altered("clearing", account_id=account.id, seq=2, balance_after=50 + amount, may_go_negative=False)
    async with refused(owners.connection, CHECK_VIOLATION, "entry_law_chain", "its wallet is not its transaction's"):
        await insert_rows(owners.connection, rows_of(having(moved, half, wrong)))
    assert await owners.balances() == (100, 50)


@pytest.mark.parametrize("amount", [10, -10], ids=["top-up", "spend"])
async def test_a_posting_against_clearing_is_refused(owners: Owners, amount: int) -> None:
    moved: Movement = await movement(owners.connection, *owners.sender, amount, slot=46)
    clearing = await account_of(owners.connection, SHARD, "2", kind=WalletKind.CLEARING)
    against = moved.altered(
        "treasury", account_id=clearing.id, seq=clearing.seq + 1, balance_after=clearing.balance - amount
    )
    async with refused(owners.connection, CHECK_VIOLATION, "entry_law_shape", WRONG_LEGS):
        await insert(owners.connection, against)
    assert await owners.balances() == (100, 50)


async def test_a_clearing_account_that_may_not_go_negative_is_refused(owners: Owners) -> None:
    clearing = await account_of(owners.connection, SHARD, "3", kind=WalletKind.CLEARING)
    async with refused(owners.connection, CHECK_VIOLATION, "account_may_go_negative_check"):
        await owners.connection.execute(
            "INSERT INTO account (shard, wallet_id, wallet_kind, asset_id, may_go_negative)"
            " SELECT $1, $2, 3, id, false FROM asset WHERE code = 'DIAMOND'",
            clearing.shard,
            clearing.wallet_id,
        )


# Settings of an asset that has one already, step 1: what is inserted, and how the database answers.
SETTINGS: Final[dict[str, tuple[str, str, str]]] = {
    "that skips a step": ("(s.id, 3, 1, now())", CHECK_VIOLATION, "asset_setting_law_chain"),
    "that skips a step behind one that does not": (
        "(s.id, 2, 3, now()), (s.id, 4, 1, now())", CHECK_VIOLATION, "asset_setting_law_chain",
    ),
    "of a step that is there": ("(s.id, 1, 3, now())", UNIQUE_VIOLATION, "asset_setting_pkey"),
    "of step 0": ("(s.id, 0, 3, now())", CHECK_VIOLATION, "asset_setting_step_check"),
    "of an unknown policy": ("(s.id, 2, 4, now())", CHECK_VIOLATION, "asset_setting_transfers_check"),
    "without an end of time": ("(s.id, 2, 3, 'infinity'::timestamptz)", CHECK_VIOLATION, "asset_setting_set_at_check"),
    "of no asset": ("(9999::smallint, 1, 3, now())", FOREIGN_KEY_VIOLATION, "asset_setting_asset_id_fkey"),
}  # fmt: skip


def setting(values: str) -> str:
    """Return what inserts settings of POINTS."""
    return (
        "INSERT INTO asset_setting (asset_id, step, transfers, set_at)"
        f" SELECT v.* FROM asset s CROSS JOIN LATERAL (VALUES {values}) AS v WHERE s.code = 'POINTS'"
    )


@pytest.mark.parametrize("case", SETTINGS)
async def test_a_setting_is_refused(server_connection: Connection, case: str) -> None:
    values, sqlstate, constraint = SETTINGS[case]
    # Settings hold for a whole database, so these are taken back.
    transaction = server_connection.transaction()
    await transaction.start()
    await server_connection.execute(setting("(s.id, 1, 1, now())"))
    async with refused(server_connection, sqlstate, constraint), server_connection.transaction():
        await server_connection.execute(setting(values))
    await transaction.rollback()


async def test_settings_that_begin_in_the_middle_are_refused(server_connection: Connection) -> None:
    async with refused(server_connection, CHECK_VIOLATION, "asset_setting_law_chain", "setting 2 of asset"):
        await server_connection.execute(setting("(s.id, 2, 3, now())"))


async def test_settings_that_follow_each_other_pass_in_one_statement_or_more(server_connection: Connection) -> None:
    transaction = server_connection.transaction()
    await transaction.start()
    await server_connection.execute(setting("(s.id, 2, 3, now()), (s.id, 1, 1, now())"))
    await server_connection.execute(setting("(s.id, 3, 1, now())"))
    steps = await server_connection.fetch(
        "SELECT n.step FROM asset_setting n JOIN asset s ON s.id = n.asset_id WHERE s.code = 'POINTS' ORDER BY n.step"
    )
    await transaction.rollback()
    assert [row[0] for row in steps] == [1, 2, 3]
