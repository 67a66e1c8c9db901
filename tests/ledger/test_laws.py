"""The database refuses every broken entry, whoever writes it: each law is shown by SQL as the serving role."""

from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import asyncpg
import pytest
from asyncpg import Connection
from direct import (
    TABLES,
    EntryRow,
    Movement,
    Rows,
    TransactionRow,
    account_of,
    count_rows,
    insert,
    insert_rows,
    movement,
    refused,
)
from factories import balance, new_owner, new_owner_id, post
from sqlalchemy import make_url
from uuid_utils.compat import uuid7

from wallet_gql.domain.money import MINOR_MAX, TREASURY_MINOR_MAX
from wallet_gql.domain.postings import TransactionType
from wallet_gql.domain.shards import shard_of
from wallet_gql.domain.wallets import WalletKind
from wallet_gql.embedded.launcher import EmbeddedPostgres
from wallet_gql.operations.opening import Ledger
from wallet_gql.settings import Settings

CHECK_VIOLATION = "23514"
UNIQUE_VIOLATION = "23505"
FOREIGN_KEY_VIOLATION = "23503"
RESTRICT_VIOLATION = "23001"
INSUFFICIENT_PRIVILEGE = "42501"

NO_SUCH_TRANSACTION = "no such transaction in this shard"
NO_SUCH_ACCOUNT = "no such account in this shard"
NOT_THE_ACCOUNT_S = "may_go_negative is not its account's"
NOT_THE_TRANSACTION_S = "type or time is not its transaction's"
NOT_ITS_WALLET = "its wallet is not its transaction's"
WRONG_LEGS = "does not have the legs of type"
# What the driver sends as PostgreSQL's "infinity".
INFINITY = datetime.max.replace(tzinfo=UTC)
MISSING_BEFORE = "the entry before it is missing"
OLDER = "it is older than the entry before it"
WRONG_BALANCE = "balance_after is not the balance before it plus amount"


class Owner:
    """An owner with 100 GOLD, and what the serving role may try next."""

    def __init__(self, ledger: Ledger, connection: Connection, owner_id: str) -> None:
        self.ledger = ledger
        self.connection = connection
        self.id = owner_id
        self.shard = shard_of(owner_id, ledger.shard_count)

    async def movement(self, amount: int = 10) -> Movement:
        # The stripe that the opening balance came from: a fork needs an entry that is there already.
        return await movement(self.connection, self.shard, self.id, amount, slot=self.ledger.slot)

    async def balance(self) -> int:
        return await balance(self.ledger, self.id)


@pytest.fixture
async def owner(ledger: Ledger, server_connection: Connection) -> Owner:
    return Owner(ledger, server_connection, await new_owner(ledger, gold=100))


async def other_shard_s_owner(owner: Owner) -> Owner:
    while True:
        owner_id = new_owner_id()
        if shard_of(owner_id, owner.ledger.shard_count) != owner.shard:
            return Owner(owner.ledger, owner.connection, await new_owner(owner.ledger, 50, owner_id))


async def neighbour(owner: Owner, gold: int = 0) -> Owner:
    """Another owner in the same shard."""
    while True:
        owner_id = new_owner_id()
        if shard_of(owner_id, owner.ledger.shard_count) == owner.shard:
            return Owner(owner.ledger, owner.connection, await new_owner(owner.ledger, gold, owner_id))


async def test_a_valid_posting_passes(owner: Owner) -> None:
    await insert(owner.connection, await owner.movement(10))
    await insert(owner.connection, await owner.movement(-110))
    assert await owner.balance() == 0


async def test_several_postings_in_one_statement_pass(owner: Owner) -> None:
    other = await neighbour(owner)
    moved: list[Movement] = []
    for name, amount in ((owner, 5), (other, 7), (owner, -105), (other, 1), (owner, 2)):
        moved.append(await movement(owner.connection, owner.shard, name.id, amount, after=moved))
    await insert(owner.connection, *moved)
    assert (await owner.balance(), await other.balance()) == (2, 8)


async def test_the_order_of_the_rows_in_a_statement_does_not_matter(owner: Owner) -> None:
    first = await owner.movement(-100)
    second = await movement(owner.connection, owner.shard, owner.id, 4, after=[first])
    await insert(owner.connection, second, first)
    assert await owner.balance() == 4


# What is changed in a valid top-up of 10, and how the database answers.
ALTERED: dict[str, tuple[Callable[[Movement], Movement], str, str, str]] = {
    "a gap in seq": (
        lambda m: m.altered("user", seq=m.user.seq + 1), CHECK_VIOLATION, "entry_law_chain", MISSING_BEFORE,
    ),
    "a gap in the treasury's seq": (
        lambda m: m.altered("treasury", seq=m.treasury.seq + 1), CHECK_VIOLATION, "entry_law_chain", MISSING_BEFORE,
    ),
    "a fork": (
        lambda m: m.altered("user", seq=m.user.seq - 1), UNIQUE_VIOLATION, "entry_pkey", "",
    ),
    "a fork of the treasury": (
        lambda m: m.altered("treasury", seq=m.treasury.seq - 1), UNIQUE_VIOLATION, "entry_pkey", "",
    ),
    "seq 0": (
        lambda m: m.altered("user", seq=0, balance_after=10), CHECK_VIOLATION, "entry_seq_check", "",
    ),
    "a wrong balance": (
        lambda m: m.altered("user", balance_after=m.user.balance_after + 1),
        CHECK_VIOLATION, "entry_law_chain", WRONG_BALANCE,
    ),
    "a wrong balance of the treasury": (
        lambda m: m.altered("treasury", balance_after=m.treasury.balance_after - 1),
        CHECK_VIOLATION, "entry_law_chain", WRONG_BALANCE,
    ),
    "a balance that forgets the one before it": (
        lambda m: m.altered("user", balance_after=m.user.amount), CHECK_VIOLATION, "entry_law_chain", WRONG_BALANCE,
    ),
    "an overdraft": (
        lambda m: m.altered("user", amount=-101, balance_after=-1).altered(
            "treasury", amount=101, balance_after=m.treasury.balance_after + 111
        ),
        CHECK_VIOLATION, "entry_balance_after_check", "",
    ),
    "an overdraft that says it is allowed": (
        lambda m: m.altered("user", amount=-101, balance_after=-1, may_go_negative=True).altered(
            "treasury", amount=101, balance_after=m.treasury.balance_after + 111
        ),
        CHECK_VIOLATION, "entry_law_chain", NOT_THE_ACCOUNT_S,
    ),
    "an owner's entry that may go negative": (
        lambda m: m.altered("user", may_go_negative=True), CHECK_VIOLATION, "entry_law_chain", NOT_THE_ACCOUNT_S,
    ),
    "an entry that moves nothing": (
        lambda m: m.altered("user", amount=0, balance_after=m.user.balance_after - 10),
        CHECK_VIOLATION, "entry_amount_check", "",
    ),
    "legs that create credits": (
        lambda m: m.altered("user", amount=11, balance_after=m.user.balance_after + 1),
        CHECK_VIOLATION, "entry_law_balanced", "is unbalanced by 1",
    ),
    "legs that destroy credits": (
        lambda m: m.altered("treasury", amount=-11, balance_after=m.treasury.balance_after - 1),
        CHECK_VIOLATION, "entry_law_balanced", "is unbalanced by -1",
    ),
    "a leg of another type": (
        lambda m: m.altered("user", type=2), CHECK_VIOLATION, "entry_law_chain", NOT_THE_TRANSACTION_S,
    ),
    "legs of another type": (
        lambda m: m.altered(type=2), CHECK_VIOLATION, "entry_law_chain", NOT_THE_TRANSACTION_S,
    ),
    "a leg of another time": (
        lambda m: m.altered("treasury", executed_at=m.treasury.executed_at + timedelta(microseconds=1)),
        CHECK_VIOLATION, "entry_law_chain", NOT_THE_TRANSACTION_S,
    ),
    "time that runs backwards": (
        lambda m: m.altered(executed_at=m.user.executed_at - timedelta(days=1)).of_transaction(
            executed_at=m.user.executed_at - timedelta(days=1)
        ),
        CHECK_VIOLATION, "entry_law_chain", OLDER,
    ),
    "a wallet that is another's": (
        lambda m: m.of_transaction(wallet_id=m.transaction.wallet_id + 1), CHECK_VIOLATION, "entry_law_chain",
        NOT_ITS_WALLET,
    ),
    "a time without end": (
        lambda m: m.of_transaction(executed_at=INFINITY), CHECK_VIOLATION, "transaction_executed_at_check", "",
    ),
    "a leg's time without end": (
        lambda m: m.altered(executed_at=INFINITY), CHECK_VIOLATION, "entry_executed_at_check", "",
    ),
    "more than the database moves at once": (
        lambda m: m.altered("user", amount=MINOR_MAX + 1), CHECK_VIOLATION, "entry_amount_limit_check", "",
    ),
    "more than the database moves at once, downwards": (
        lambda m: m.altered("treasury", amount=-MINOR_MAX - 1), CHECK_VIOLATION, "entry_amount_limit_check", "",
    ),
    "more than an owner may hold": (
        lambda m: m.altered("user", amount=MINOR_MAX, balance_after=MINOR_MAX + 100),
        CHECK_VIOLATION, "entry_balance_limit_check", "",
    ),
    "a stripe past its lower end": (
        lambda m: m.altered("treasury", balance_after=-TREASURY_MINOR_MAX - 1),
        CHECK_VIOLATION, "entry_balance_limit_check", "",
    ),
    "a stripe past its upper end": (
        lambda m: m.altered("treasury", balance_after=TREASURY_MINOR_MAX + 1),
        CHECK_VIOLATION, "entry_balance_limit_check", "",
    ),
    "a spend's type and a top-up's legs": (
        lambda m: m.altered(type=3).of_transaction(type=3), CHECK_VIOLATION, "entry_law_shape", WRONG_LEGS,
    ),
    "an unknown account": (
        lambda m: m.altered("user", account_id=2**60, seq=1, balance_after=10),
        CHECK_VIOLATION, "entry_law_chain", NO_SUCH_ACCOUNT,
    ),
    "legs in a shard that is not the accounts'": (
        lambda m: m.altered(shard=m.user.shard ^ 1, seq=1).of_transaction(shard=m.user.shard ^ 1),
        CHECK_VIOLATION, "entry_law_chain", NO_SUCH_ACCOUNT,
    ),
    "legs in another shard than their transaction": (
        lambda m: m.of_transaction(shard=m.user.shard ^ 1), CHECK_VIOLATION, "entry_law_chain", NO_SUCH_TRANSACTION,
    ),
    "one account twice": (
        lambda m: replace(m, treasury=replace(m.user, seq=m.user.seq + 1, amount=-10, balance_after=100)),
        UNIQUE_VIOLATION, "entry_shard_transaction_id_account_id_key", "",
    ),
    "an unknown type": (
        lambda m: m.altered(type=12).of_transaction(type=12), CHECK_VIOLATION, "transaction_type_check", "",
    ),
    "a description that is too long": (
        lambda m: m.of_transaction(description="é" * 501), CHECK_VIOLATION, "transaction_description_check", "",
    ),
    "a fingerprint of another length": (
        lambda m: m.of_key(fingerprint=b"short"), CHECK_VIOLATION, "idempotency_key_fingerprint_check", "",
    ),
    "an unknown outcome": (
        lambda m: m.of_key(outcome=49, details="{}"), CHECK_VIOLATION, "idempotency_key_outcome_check", "",
    ),
    "a refusal without details": (
        lambda m: m.of_key(outcome=3), CHECK_VIOLATION, "idempotency_key_details_check", "",
    ),
    "a posting with details": (
        lambda m: m.of_key(details="{}"), CHECK_VIOLATION, "idempotency_key_details_check", "",
    ),
}  # fmt: skip


@pytest.mark.parametrize("altered", ALTERED)
async def test_a_posting_is_refused_with(owner: Owner, altered: str) -> None:
    alter, sqlstate, constraint, message = ALTERED[altered]
    broken = alter(await owner.movement(10))
    async with refused(owner.connection, sqlstate, constraint, message):
        await insert(owner.connection, broken)
    assert await owner.balance() == 100


async def test_a_first_entry_whose_balance_is_not_its_amount_is_refused(owner: Owner) -> None:
    fresh = await neighbour(owner)
    first = await fresh.movement(10)
    assert first.user.seq == 1
    async with refused(owner.connection, CHECK_VIOLATION, "entry_law_chain", WRONG_BALANCE):
        await insert(owner.connection, first.altered("user", balance_after=11))


async def test_a_chain_that_begins_in_the_middle_is_refused(owner: Owner) -> None:
    fresh = await neighbour(owner)
    first = await fresh.movement(10)
    async with refused(owner.connection, CHECK_VIOLATION, "entry_law_chain", MISSING_BEFORE):
        await insert(owner.connection, first.altered("user", seq=2))


async def test_another_shard_s_account_is_refused(owner: Owner) -> None:
    stranger = await other_shard_s_owner(owner)
    moved, other = await owner.movement(10), await stranger.movement(10)
    foreign = replace(moved, user=replace(other.user, shard=owner.shard, transaction_id=moved.transaction.id))
    foreign = foreign.altered("user", executed_at=moved.transaction.executed_at)
    async with refused(owner.connection, CHECK_VIOLATION, "entry_law_chain", NO_SUCH_ACCOUNT):
        await insert(owner.connection, foreign)


async def test_legs_that_balance_only_across_assets_are_refused(owner: Owner) -> None:
    gold = await owner.movement(10)
    diamonds = await movement(owner.connection, owner.shard, owner.id, 10, asset="DIAMOND")
    at = max(gold.transaction.executed_at, diamonds.transaction.executed_at)
    mixed = replace(gold, treasury=replace(diamonds.treasury, transaction_id=gold.transaction.id))
    mixed = mixed.altered(executed_at=at).of_transaction(executed_at=at)
    async with refused(owner.connection, CHECK_VIOLATION, "entry_law_balanced", "of more than one asset"):
        await insert(owner.connection, mixed)


async def test_a_transaction_without_legs_is_refused(owner: Owner) -> None:
    moved = await owner.movement()
    async with refused(owner.connection, CHECK_VIOLATION, "transaction_law_legs", "has no legs"):
        await insert_rows(owner.connection, Rows([moved.transaction]))


async def test_a_transaction_whose_legs_come_in_a_later_statement_is_refused(owner: Owner) -> None:
    moved = await owner.movement()
    async with (
        refused(owner.connection, CHECK_VIOLATION, "transaction_law_legs", "has no legs"),
        owner.connection.transaction(),
    ):
        await insert_rows(owner.connection, Rows([moved.transaction]))
        await insert_rows(owner.connection, Rows((), [moved.user, moved.treasury]))


async def test_one_transaction_without_legs_among_others_is_refused(owner: Owner) -> None:
    moved = await owner.movement()
    bare = replace(moved.transaction, id=uuid7())
    async with refused(owner.connection, CHECK_VIOLATION, "transaction_law_legs", str(bare.id)):
        await insert_rows(owner.connection, Rows([moved.transaction, bare], [moved.user, moved.treasury]))


async def test_entries_without_a_transaction_are_refused(owner: Owner) -> None:
    moved = await owner.movement()
    async with refused(owner.connection, CHECK_VIOLATION, "entry_law_chain", NO_SUCH_TRANSACTION):
        await insert_rows(owner.connection, Rows((), [moved.user, moved.treasury]))


async def test_one_leg_alone_is_refused(owner: Owner) -> None:
    moved = await owner.movement()
    async with refused(owner.connection, CHECK_VIOLATION, "entry_law_balanced"):
        await insert_rows(owner.connection, Rows([moved.transaction], [moved.user], [moved.key]))


async def test_legs_that_balance_between_two_transactions_only_are_refused(owner: Owner) -> None:
    first = await owner.movement(10)
    second = await movement(owner.connection, owner.shard, owner.id, 10, after=[first])
    first = first.altered("user", amount=11, balance_after=first.user.balance_after + 1)
    second = second.altered("user", amount=9)
    async with refused(owner.connection, CHECK_VIOLATION, "entry_law_balanced"):
        await insert(owner.connection, first, second)


async def legs_added_to(owner: Owner, moved: TransactionRow) -> tuple[EntryRow, EntryRow]:
    """Return a pair that balances, between accounts that were never used, for a transaction that has its legs."""
    user = await account_of(owner.connection, owner.shard, owner.id, "DIAMOND")
    treasury = await account_of(owner.connection, owner.shard, "40", "DIAMOND", WalletKind.TREASURY)
    leg = EntryRow(owner.shard, user.id, 1, moved.id, moved.type, 5, 5, may_go_negative=False,
                   executed_at=moved.executed_at)  # fmt: skip
    return leg, replace(leg, account_id=treasury.id, amount=-5, balance_after=-5, may_go_negative=True)


async def test_a_balanced_pair_of_legs_added_to_an_old_transaction_is_refused(owner: Owner) -> None:
    moved = await owner.movement()
    await insert(owner.connection, moved)
    async with (
        refused(owner.connection, CHECK_VIOLATION, "entry_law_legs", "has legs from an earlier statement"),
        owner.connection.transaction(),
    ):
        await insert_rows(owner.connection, Rows((), await legs_added_to(owner, moved.transaction)))
    assert await owner.balance() == 110


async def test_legs_added_by_a_later_statement_of_the_same_unit_of_work_are_refused(owner: Owner) -> None:
    moved = await owner.movement()
    async with (
        refused(owner.connection, CHECK_VIOLATION, "entry_law_legs", str(moved.transaction.id)),
        owner.connection.transaction(),
    ):
        await insert(owner.connection, moved)
        await insert_rows(owner.connection, Rows((), await legs_added_to(owner, moved.transaction)))
    assert await owner.balance() == 100


async def test_more_legs_than_the_type_has_are_refused(owner: Owner) -> None:
    moved = await owner.movement()
    legs = await legs_added_to(owner, moved.transaction)
    async with refused(owner.connection, CHECK_VIOLATION, "entry_law_shape", WRONG_LEGS):
        await insert_rows(owner.connection, Rows([moved.transaction], [moved.user, moved.treasury, *legs], [moved.key]))


async def test_three_legs_that_balance_are_refused(owner: Owner) -> None:
    moved = await owner.movement(10)
    second = await account_of(owner.connection, owner.shard, "41", kind=WalletKind.TREASURY)
    moved = moved.altered("treasury", amount=-4, balance_after=moved.treasury.balance_after + 6)
    leg = replace(moved.treasury, account_id=second.id, seq=second.seq + 1, amount=-6, balance_after=second.balance - 6)
    async with refused(owner.connection, CHECK_VIOLATION, "entry_law_shape", WRONG_LEGS):
        await insert_rows(owner.connection, Rows([moved.transaction], [moved.user, moved.treasury, leg], [moved.key]))


async def test_a_transaction_between_two_stripes_is_refused(owner: Owner) -> None:
    moved = await owner.movement(10)
    second = await account_of(owner.connection, owner.shard, "42", kind=WalletKind.TREASURY)
    moved = moved.altered("user", account_id=second.id, seq=1, balance_after=10, may_go_negative=True)
    async with refused(owner.connection, CHECK_VIOLATION, "entry_law_shape", WRONG_LEGS):
        await insert(owner.connection, moved)


async def test_a_spend_between_two_owners_is_refused(owner: Owner) -> None:
    other = await neighbour(owner, gold=5)
    spent, gained = await owner.movement(-10), await other.movement(10)
    leg = replace(gained.user, transaction_id=spent.transaction.id, type=spent.transaction.type)
    moved = replace(spent, treasury=leg)
    at = max(spent.user.executed_at, gained.user.executed_at)
    async with refused(owner.connection, CHECK_VIOLATION, "entry_law_chain", NOT_ITS_WALLET):
        await insert(owner.connection, moved.altered(executed_at=at).of_transaction(executed_at=at))


# What stands on the other side of an owner's leg.
SIDES = {
    TransactionType.TOP_UP: WalletKind.TREASURY,
    TransactionType.BONUS: WalletKind.TREASURY,
    TransactionType.SPEND: WalletKind.TREASURY,
    TransactionType.TRANSFER_OUT: WalletKind.CLEARING,
    TransactionType.TRANSFER_IN: WalletKind.CLEARING,
    TransactionType.CAPTURE: WalletKind.TREASURY,
    TransactionType.REFUND: WalletKind.TREASURY,
    TransactionType.CLAWBACK: WalletKind.TREASURY,
    TransactionType.REPAYMENT: WalletKind.DEBT,
    TransactionType.FORFEIT: WalletKind.TREASURY,
    TransactionType.EXPIRY: WalletKind.TREASURY,
}


async def test_the_shapes_in_the_database_are_those_of_the_code(owner: Owner) -> None:
    rows = await owner.connection.fetch("SELECT type, wallet_kind, sign FROM transaction_shape WHERE variant = 1")
    assert {tuple(row) for row in rows} == {
        (type_, kind, sign)
        for type_, against in SIDES.items()
        for kind, sign in ((WalletKind.USER, type_.sign), (against, -type_.sign))
    }


async def test_a_stripe_s_entry_may_be_older_than_the_one_before_it(owner: Owner) -> None:
    other = await neighbour(owner)
    ahead = await movement(
        owner.connection, owner.shard, other.id, 10, slot=owner.ledger.slot,
        executed_at=datetime.now(UTC) + timedelta(seconds=30),
    )  # fmt: skip
    await insert(owner.connection, ahead)
    moved = await owner.movement(10)
    now = datetime.now(UTC)
    await insert(owner.connection, moved.altered(executed_at=now).of_transaction(executed_at=now))
    assert await owner.balance() == 110


async def test_the_same_transaction_id_again_is_refused(owner: Owner) -> None:
    moved = await owner.movement()
    await insert(owner.connection, moved)
    async with refused(owner.connection, UNIQUE_VIOLATION, "transaction_pkey"):
        await insert_rows(owner.connection, Rows([moved.transaction]))


async def test_the_same_key_again_is_refused(owner: Owner) -> None:
    moved = await owner.movement()
    await insert(owner.connection, moved)
    again = await owner.movement()
    async with refused(owner.connection, UNIQUE_VIOLATION, "idempotency_key_pkey"):
        await insert(owner.connection, again.of_key(key=moved.key.key))
    assert await owner.balance() == 110


async def test_the_second_of_two_that_append_at_once_is_refused(owner: Owner, settings: Settings) -> None:
    moved, rival = await owner.movement(1), await owner.movement(2)
    url = settings.server_url().set(drivername="postgresql").render_as_string(hide_password=False)
    other = await asyncpg.connect(url)
    await insert(other, rival)
    await other.close()
    async with refused(owner.connection, UNIQUE_VIOLATION, "entry_pkey"):
        await insert(owner.connection, moved)
    assert await owner.balance() == 102


@pytest.mark.parametrize(
    ("values", "sqlstate", "constraint"),
    [
        ("a.wallet_id, 1, s.id, true", CHECK_VIOLATION, "account_may_go_negative_check"),
        ("a.wallet_id, 2, s.id, true", FOREIGN_KEY_VIOLATION, "account_law_wallet"),
        ("a.wallet_id, 1, 9999::smallint, false", FOREIGN_KEY_VIOLATION, "account_asset_id_fkey"),
        (f"{2**60}, 1, s.id, false", FOREIGN_KEY_VIOLATION, "account_law_wallet"),
        ("a.wallet_id, 1, a.asset_id, false", UNIQUE_VIOLATION, "account_shard_wallet_id_asset_id_key"),
    ],
    ids=[
        "that may go negative",
        "that calls itself a treasury",
        "of no asset",
        "of no wallet",
        "that is there already",
    ],
)
async def test_an_owner_s_account_is_refused(owner: Owner, values: str, sqlstate: str, constraint: str) -> None:
    mine = await account_of(owner.connection, owner.shard, owner.id)
    async with refused(owner.connection, sqlstate, constraint):
        await owner.connection.execute(
            "INSERT INTO account (shard, wallet_id, wallet_kind, asset_id, may_go_negative)"
            f" SELECT a.shard, {values} FROM account a, asset s"
            " WHERE (a.shard, a.id) = ($1, $2) AND s.code = 'DIAMOND'",
            mine.shard,
            mine.id,
        )


@pytest.mark.parametrize(
    ("statement", "sqlstate", "constraint"),
    [
        ("INSERT INTO ledger (shard_count) VALUES (8)", UNIQUE_VIOLATION, "ledger_pkey"),
        ("INSERT INTO ledger VALUES (false, 8)", CHECK_VIOLATION, "ledger_one_row_check"),
        ("INSERT INTO asset (code, name, scale) VALUES ('GOLD', 'Other', 2)", UNIQUE_VIOLATION, "asset_code_key"),
        ("INSERT INTO asset (code, name, scale) VALUES ('gold', 'Other', 2)", CHECK_VIOLATION, "asset_code_check"),
        ("INSERT INTO asset (code, name, scale) VALUES ('X', '', 2)", CHECK_VIOLATION, "asset_name_check"),
        ("INSERT INTO asset (code, name, scale) VALUES ('X', 'X', 10)", CHECK_VIOLATION, "asset_scale_check"),
        ("INSERT INTO wallet (shard, kind, owner_id) VALUES (-1, 1, 'x')", CHECK_VIOLATION, "wallet_shard_check"),
        ("INSERT INTO wallet (shard, kind, owner_id) VALUES (0, 9, 'x')", CHECK_VIOLATION, "wallet_kind_check"),
        ("INSERT INTO wallet (shard, kind, owner_id) VALUES (0, 1, '')", CHECK_VIOLATION, "wallet_owner_id_check"),
        *(
            (
                f"INSERT INTO {table} ({column}, {more}) VALUES ('infinity', {values})",
                CHECK_VIOLATION,
                f"{table}_{column}_check",
            )
            for table, column, more, values in (
                ("ledger", "created_at", "shard_count", "8"),
                ("asset", "created_at", "code, name, scale", "'X', 'X', 0"),
                ("wallet", "opened_at", "shard, kind, owner_id", "0, 1, 'x'"),
                (
                    "account",
                    "opened_at",
                    "shard, wallet_id, wallet_kind, asset_id, may_go_negative",
                    "0, 1, 1, 1, false",
                ),
                (
                    "idempotency_key",
                    "created_at",
                    "shard, wallet_id, key, fingerprint, outcome, transaction_id",
                    "0, 1, gen_random_uuid(), decode(repeat('00', 16), 'hex'), 1, gen_random_uuid()",
                ),
            )
        ),
        (
            "INSERT INTO wallet (shard, kind, owner_id) SELECT shard, kind, owner_id FROM wallet",
            UNIQUE_VIOLATION,
            "wallet_shard_kind_owner_id_key",
        ),
    ],
)
async def test_a_row_that_the_tables_do_not_allow_is_refused(
    owner: Owner, statement: str, sqlstate: str, constraint: str
) -> None:
    async with refused(owner.connection, sqlstate, constraint):
        await owner.connection.execute(statement)


@pytest.fixture(params=["tables' owner", "superuser"])
async def strong_connection(
    request: pytest.FixtureRequest, postgres: EmbeddedPostgres, settings: Settings
) -> AsyncIterator[Connection]:
    """A connection as one of the roles that no missing right stops."""
    url = settings.owner_url() if request.param == "tables' owner" else make_url(postgres.superuser_url)
    url = url.set(drivername="postgresql", database=settings.server_url().database)
    connection = await asyncpg.connect(url.render_as_string(hide_password=False))
    yield connection
    await connection.close()


async def changes(connection: Connection, table: str) -> list[str]:
    """Return the ways to change what is in a table."""
    column = await connection.fetchval(
        "SELECT attname FROM pg_attribute WHERE attrelid = $1::regclass AND attnum > 0 AND attidentity = ''"
        " ORDER BY attnum LIMIT 1",
        table,
    )
    return [f"UPDATE {table} SET {column} = {column}", f"DELETE FROM {table}", f"TRUNCATE {table} CASCADE"]


@pytest.mark.parametrize("table", TABLES)
async def test_the_serving_role_has_no_right_to_change(owner: Owner, table: str) -> None:
    for statement in await changes(owner.connection, table):
        async with refused(owner.connection, INSUFFICIENT_PRIVILEGE):
            await owner.connection.execute(statement)


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.usefixtures("owner")
async def test_the_guard_refuses_to_change(strong_connection: Connection, table: str) -> None:
    for statement in await changes(strong_connection, table):
        message = f"{statement.split()[0]} of {table} refused: the ledger is append-only"
        async with refused(strong_connection, RESTRICT_VIOLATION, message=message):
            await strong_connection.execute(statement)
        # A statement that finds no row is refused too: it is the attempt that is wrong.
        if not statement.startswith("TRUNCATE"):
            async with refused(strong_connection, RESTRICT_VIOLATION, message=message):
                await strong_connection.execute(f"{statement} WHERE false")


async def test_the_guard_refuses_an_update_that_comes_as_an_insert(owner: Owner, strong_connection: Connection) -> None:
    moved = await owner.movement(10)
    await insert(owner.connection, moved)
    async with refused(strong_connection, RESTRICT_VIOLATION, message="UPDATE of transaction refused"):
        await strong_connection.execute(
            "INSERT INTO transaction SELECT * FROM transaction WHERE (shard, id) = ($1, $2)"
            " ON CONFLICT (shard, id) DO UPDATE SET description = 'forged'",
            moved.transaction.shard,
            moved.transaction.id,
        )
    async with refused(strong_connection, RESTRICT_VIOLATION, message="DELETE of entry refused"):
        await strong_connection.execute(
            "MERGE INTO entry USING (SELECT 1) AS always ON entry.transaction_id = $1 WHEN MATCHED THEN DELETE",
            moved.transaction.id,
        )


async def test_the_laws_hold_for_every_role(owner: Owner, strong_connection: Connection) -> None:
    moved = await owner.movement(10)
    async with refused(strong_connection, CHECK_VIOLATION, "entry_law_balanced"):
        await insert(strong_connection, moved.altered("user", amount=11, balance_after=moved.user.balance_after + 1))


async def test_the_serving_role_may_lock_wallets_but_the_guard_refuses_their_update(owner: Owner) -> None:
    async with owner.connection.transaction():
        rows = await owner.connection.fetch(
            "SELECT id FROM wallet WHERE (shard, kind, owner_id) = ($1, 1, $2) FOR NO KEY UPDATE", owner.shard, owner.id
        )
    assert len(rows) == 1
    async with refused(owner.connection, RESTRICT_VIOLATION, message="UPDATE of wallet refused"):
        await owner.connection.execute("UPDATE wallet SET opened_at = now() WHERE owner_id = $1", owner.id)


@pytest.mark.parametrize("table", [table for table in TABLES if table != "wallet"])
async def test_the_serving_role_may_lock_nothing_but_wallets(owner: Owner, table: str) -> None:
    async with refused(owner.connection, INSUFFICIENT_PRIVILEGE):
        await owner.connection.execute(f"SELECT 1 FROM {table} FOR KEY SHARE")


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE mine (id int)",
        "CREATE SCHEMA mine",
        "CREATE FUNCTION mine() RETURNS int LANGUAGE sql RETURN 1",
        "CREATE OR REPLACE FUNCTION entry_law() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
        "CREATE INDEX ON entry (amount)",
        "CREATE TRIGGER mine BEFORE INSERT ON entry EXECUTE FUNCTION refuse_change()",
        "CREATE RULE mine AS ON INSERT TO idempotency_key DO INSTEAD NOTHING",
        "DROP TABLE entry",
        "DROP TRIGGER entry_law ON entry",
        "DROP FUNCTION entry_law() CASCADE",
        "ALTER TABLE entry DISABLE TRIGGER ALL",
        "ALTER TABLE entry DISABLE TRIGGER entry_law",
        "ALTER TABLE entry DROP CONSTRAINT entry_balance_after_check",
        "ALTER TABLE entry ADD COLUMN mine int",
        "ALTER TABLE entry OWNER TO CURRENT_USER",
        "ALTER FUNCTION entry_law() SET search_path = pg_catalog",
        "SET session_replication_role = replica",
        "SET ROLE wallet_owner",
        "SELECT setval('wallet_id_seq', 1)",
        "INSERT INTO transaction_shape VALUES (3, 2, -1)",
    ],
)
async def test_the_serving_role_cannot(owner: Owner, statement: str) -> None:
    async with refused(owner.connection, INSUFFICIENT_PRIVILEGE):
        await owner.connection.execute(statement)


async def hide(connection: Connection, table: str, *more: TransactionRow | EntryRow) -> None:
    """Put a temporary copy with more rows before a table: PostgreSQL looks there first, unless it is told not to."""
    await connection.execute(f"CREATE TEMPORARY TABLE {table} ON COMMIT DROP AS TABLE public.{table}")
    for row in more:
        values = [getattr(row, name) for name in row.__dataclass_fields__]
        places = ", ".join(f"${n}" for n in range(1, len(values) + 1))
        await connection.execute(f"INSERT INTO pg_temp.{table} VALUES ({places})", *values)


async def test_the_laws_see_the_accounts_behind_a_temporary_table(owner: Owner) -> None:
    overdraft = (await owner.movement(-1000)).altered("user", may_go_negative=True)
    async with (
        refused(owner.connection, CHECK_VIOLATION, "entry_law_chain", NOT_THE_ACCOUNT_S),
        owner.connection.transaction(),
    ):
        await hide(owner.connection, "account")
        await owner.connection.execute("UPDATE pg_temp.account SET may_go_negative = true")
        await insert(owner.connection, overdraft)
    assert await owner.balance() == 100


async def test_the_laws_see_the_transactions_behind_a_temporary_table(owner: Owner) -> None:
    moved = await owner.movement(10)
    async with (
        refused(owner.connection, CHECK_VIOLATION, "entry_law_chain", NO_SUCH_TRANSACTION),
        owner.connection.transaction(),
    ):
        await hide(owner.connection, "transaction", moved.transaction)
        await insert_rows(owner.connection, Rows((), [moved.user, moved.treasury]))
    assert await owner.balance() == 100


async def test_the_laws_see_the_entries_behind_a_temporary_table(owner: Owner) -> None:
    moved = await owner.movement(10)
    async with (
        refused(owner.connection, CHECK_VIOLATION, "transaction_law_legs"),
        owner.connection.transaction(),
    ):
        await hide(owner.connection, "entry", moved.user, moved.treasury)
        await insert_rows(owner.connection, Rows([moved.transaction]))


async def test_a_refusal_by_the_database_leaves_the_owner_able_to_post(owner: Owner) -> None:
    before = await count_rows(owner.connection)
    broken = (await owner.movement(10)).altered("user", seq=99)
    async with refused(owner.connection, CHECK_VIOLATION, "entry_law_chain"):
        await insert(owner.connection, broken)
    await post(owner.ledger, "top_up", owner.id, 5, uuid4())
    after = await count_rows(owner.connection)
    assert after["entry"] - before["entry"] == 2
    assert await owner.balance() == 105
