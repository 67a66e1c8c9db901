"""Damage to debts and to states of wallets is found, and the damaged row is named."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from string import Template
from typing import Any, Final, TypeAlias
from uuid import UUID, uuid4

import asyncpg
import pytest
from asyncpg import Connection
from damaged import SHARD, SHARD_COUNT, owners_of
from direct import TABLES
from factories import new_owner, post
from holds import held, place
from sqlalchemy import make_url
from uuid_utils.compat import uuid7

from wallet_gql.domain.holds import Hold
from wallet_gql.domain.postings import Changed, Nothing, Posted, Remainder, Shortfall, TransactionView, repayment_id
from wallet_gql.domain.wallets import WalletStatus
from wallet_gql.embedded.launcher import EmbeddedPostgres
from wallet_gql.ledger.reads import EntryName
from wallet_gql.ledger.verify import verify_outside, verify_shard
from wallet_gql.operations.holds import place_hold
from wallet_gql.operations.opening import Ledger, open_ledger
from wallet_gql.operations.reversals import ReverseInput, clawback
from wallet_gql.operations.states import StateInput, close, freeze, unfreeze
from wallet_gql.settings import Settings

ALICE, BOB, CAROL, *_ = owners_of(SHARD)
LATER: Final = datetime(2100, 1, 1, tzinfo=UTC)
NOBODY: Final = uuid7()

Found: TypeAlias = tuple[str, str, str]
"""A finding: the check, the row, the fault."""

Damage: TypeAlias = tuple[str, Callable[["History"], list[Found]]]
"""A statement that names what is in the history, and what is found afterwards."""


@dataclass(frozen=True)
class History:
    """What was posted, frozen and closed.

    Alice owes 70 after a clawback, and 20 after a bonus of 50. Bob was frozen until later, unfrozen, and closed with 40
    of which 10 were held; of what was taken back from him then he owes 5. Carol spent 10 of 30.
    """

    taken: TransactionView
    bonus: TransactionView
    repayment: UUID
    alice_debt: int
    """The account of what Alice owes."""
    bob: int
    """Bob's wallet."""
    bob_debts: int
    """The wallet of what Bob owes, and its account."""
    bob_debt: int
    hold: Hold
    forfeit: UUID
    owed: UUID
    """The clawback that took nothing of Bob's."""
    keys: dict[str, UUID]
    """What was asked of Bob's wallet, by what it was."""
    carol: int
    spend: TransactionView

    @property
    def names(self) -> dict[str, object]:
        """What statements that damage it can name, after a dollar sign."""
        views = {name: view.id for name in ("taken", "bonus", "spend") for view in [getattr(self, name)]}
        keys = {f"key_of_{name}": key for name, key in self.keys.items()}
        return {**vars(self), **views, **keys, "alice": self.taken.wallet_id}


class Books:
    """The books in a transaction that is rolled back, with the laws and guards switched off."""

    def __init__(self, connection: Connection, history: History) -> None:
        self.connection = connection
        self.history = history

    async def damage(self, statement: str) -> None:
        """Run a statement that names what is in the history; it must change something."""
        for part in Template(statement).substitute(self.history.names).split("; "):
            status = await self.connection.execute(part)
            assert status.split()[-1] != "0", status

    async def findings(self) -> list[Found]:
        found = [finding async for finding in verify_outside(self.connection, SHARD_COUNT)]
        found += [finding async for finding in verify_shard(self.connection, SHARD, SHARD_COUNT)]
        return [(finding.check, finding.row, finding.fault) for finding in found]


@pytest.fixture(scope="module")
def state_settings(new_database: Callable[[str], Settings]) -> Settings:
    return new_database("verify_states")


async def moved(ledger: Ledger, verb: str, owner: str, amount: int) -> TransactionView:
    outcome = await post(ledger, verb, owner, amount)
    assert isinstance(outcome, Posted)
    return outcome.transaction


def owed(view: TransactionView, amount: int | None = None) -> ReverseInput:
    name = EntryName(view.shard, view.account_id, view.seq)
    return ReverseInput(name, "shown", uuid4(), None if amount is None else Decimal(amount), Shortfall.DEBT, "Why")


async def fill_debts(ledger: Ledger) -> tuple[TransactionView, TransactionView]:
    """Let Alice come to owe something, and repay some of it; returns the clawback and the bonus."""
    top_up = await moved(ledger, "top_up", ALICE, 100)
    await moved(ledger, "spend", ALICE, 70)
    taken = await clawback(ledger, owed(top_up))
    assert isinstance(taken, Posted)
    return taken.transaction, await moved(ledger, "bonus", ALICE, 50)


async def fill_states(ledger: Ledger) -> tuple[Hold, UUID, dict[str, UUID]]:
    """Let Bob be frozen, unfrozen, closed, and in debt; returns his hold, what he forfeited, and his keys."""
    top_up = await moved(ledger, "top_up", BOB, 40)
    hold = held(await place_hold(ledger, place(BOB, 10)))
    keys = {name: uuid4() for name in ("freeze", "unfreeze", "close")}

    def asked(name: str) -> StateInput:
        return StateInput(BOB, keys[name], f"to {name}")

    frozen = await freeze(ledger, asked("freeze"), WalletStatus.FROZEN_ALL, LATER)
    unfrozen = await unfreeze(ledger, asked("unfreeze"))
    closed = await close(ledger, asked("close"), Remainder.FORFEIT, None, voids_holds=True)
    assert isinstance(frozen, Changed)
    assert isinstance(unfrozen, Changed)
    assert isinstance(closed, Changed)
    late = owed(top_up, 5)
    assert isinstance(await clawback(ledger, late), Nothing)
    return hold, closed.transactions[0].id, keys | {"clawback": late.idempotency_key}


@pytest.fixture(scope="module")
def history(state_settings: Settings) -> History:
    async def fill() -> History:
        async with open_ledger(state_settings) as ledger:
            for owner in (ALICE, BOB, CAROL):
                await new_owner(ledger, owner_id=owner)
            taken, bonus = await fill_debts(ledger)
            hold, forfeit, keys = await fill_states(ledger)
            await moved(ledger, "top_up", CAROL, 30)
            spend = await moved(ledger, "spend", CAROL, 10)
            async with ledger.engine.connect() as connection:
                rows = await connection.exec_driver_sql(
                    "SELECT w.owner_id, w.id, a.id, e.transaction_id"
                    "  FROM account a JOIN wallet w ON (w.shard, w.id) = (a.shard, a.wallet_id)"
                    "  JOIN entry e ON (e.shard, e.account_id, e.seq) = (a.shard, a.id, 1) WHERE w.kind = 4"
                )
                debts: dict[str, Any] = {row[0]: tuple(row[1:]) for row in rows}
            return History(
                taken=taken,
                bonus=bonus,
                repayment=repayment_id(bonus.id),
                alice_debt=debts[ALICE][1],
                bob=hold.wallet.id,
                bob_debts=debts[BOB][0],
                bob_debt=debts[BOB][1],
                hold=hold,
                forfeit=forfeit,
                owed=debts[BOB][2],
                keys=keys,
                carol=spend.wallet_id,
                spend=spend,
            )

    return asyncio.run(fill())


@pytest.fixture
async def books(postgres: EmbeddedPostgres, state_settings: Settings, history: History) -> AsyncIterator[Books]:
    name = state_settings.server_url().database
    url = make_url(postgres.superuser_url).set(drivername="postgresql", database=name)
    connection = await asyncpg.connect(url.render_as_string(hide_password=False))
    transaction = connection.transaction()
    await transaction.start()
    for table in TABLES:
        await connection.execute(f"ALTER TABLE {table} DISABLE TRIGGER ALL")
    yield Books(connection, history)
    await transaction.rollback()
    await connection.close()


def state(h: History, step: int, fault: str) -> Found:
    return "state", f"state {step} of wallet {h.bob}", fault


def not_asked(h: History, step: int, key: str) -> Found:
    return "key of a state", f"state {step} of wallet {h.bob}", f"is not what key {h.keys[key]} asked for"


def repays(h: History, fault: str) -> Found:
    return "repayment", f"transaction {h.repayment}", f"repays, but {fault}"


def answer(h: History, key: str, what: str, id_: object) -> Found:
    missing = {"posted": "no such transaction without a key", "voided": "no such hold that was voided"}[what]
    return "answer", f"key {h.keys[key]} of wallet {h.bob}", f"says that {id_} was {what}, but its wallet has {missing}"


def unnamed(transaction: UUID, wallet_id: int) -> Found:
    return "key", f"key  of wallet {wallet_id}", f"transaction {transaction} has no key, and no key's answer names it"


def debt(h: History, fault: str) -> Found:
    return "debt", f"account {h.alice_debt} ({ALICE})", fault


def not_voided(h: History) -> Found:
    return "key of a hold", f"step 2 of hold {h.hold.id}", "its key is missing"


def entry_of_debt(h: History, seq: int, fault: str) -> Found:
    return "entry of a debt", f"account {h.alice_debt} ({ALICE}), seq {seq}", fault


def of_state(step: int, values: str) -> str:
    return f"UPDATE wallet_state SET {values} WHERE wallet_id = $bob AND step = {step}"


def of_key(key: str, values: str) -> str:
    return f"UPDATE idempotency_key SET {values} WHERE key = '$key_of_{key}'"


def naming(key: str, what: str, names: str) -> str:
    """Return a statement that lets a key's answer name something else."""
    return of_key(key, f"""details = jsonb_set(details, ARRAY['{what}'], '{names}')""")


SINCE: Final = "says that it is so since {}, which is not when it came to be so"

STATES: Final[dict[str, Damage]] = {
    "a step that is left out": (
        of_state(4, "step = 5"), lambda h: [state(h, 5, "follows state 3")],
    ),
    "the treasury's wallet": (
        of_state(1, "wallet_id = (SELECT id FROM wallet WHERE shard = 1 AND kind = 2 LIMIT 1), status = 2"),
        lambda h: [state(h, 2, "follows state 0")],
    ),
    "a freeze of what was closed": (
        of_state(4, "status = 2"), lambda h: [state(h, 4, "its wallet was closed, and is not opened by it")],
    ),
    "debts of another owner": (
        "UPDATE wallet SET owner_id = 'another' WHERE id = $bob_debts",
        lambda h: [state(h, 4, f"names debts in wallet {h.bob_debts}, which is not the owner's")],
    ),
    "a time before it came to be so": (
        of_state(2, "since = '2020-01-01Z'"), lambda h: [state(h, 2, SINCE.format("2020-01-01 00:00:00+00"))],
    ),
    "a time after it came to be so": (
        of_state(2, "since = '2099-01-01Z'"), lambda h: [state(h, 2, SINCE.format("2099-01-01 00:00:00+00"))],
    ),
    "another scope": (of_state(1, "status = 2"), lambda h: [not_asked(h, 1, "freeze")]),
    "another end": (of_state(1, "until = until + interval '1 microsecond'"), lambda h: [not_asked(h, 1, "freeze")]),
    "no end": (of_state(1, "until = NULL"), lambda h: [not_asked(h, 1, "freeze")]),
    "another note": (of_state(2, "note = NULL"), lambda h: [not_asked(h, 2, "unfreeze")]),
    "an unfreeze that became a freeze": (of_state(2, "status = 3"), lambda h: [not_asked(h, 2, "unfreeze")]),
    "an event that no key asked for": (
        of_state(2, f"event_id = '{NOBODY}'"),
        lambda h: [("key of a state", f"state 2 of wallet {h.bob}", "no key asked for it")],
    ),
    "a closing that is missing": (
        "DELETE FROM wallet_state WHERE wallet_id = $bob AND step = 3", lambda h: [state(h, 4, "follows state 2")],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", STATES)
async def test_a_damaged_state_is_found(books: Books, case: str) -> None:
    statement, expected = STATES[case]
    await books.damage(statement)
    found = await books.findings()
    assert set(expected(books.history)) <= set(found)


async def test_a_state_of_the_system_is_found(books: Books) -> None:
    await books.damage(STATES["the treasury's wallet"][0])
    assert "its wallet is not an owner's" in {fault for check, _, fault in await books.findings() if check == "state"}


async def test_another_wallet_of_debts_is_found(books: Books) -> None:
    await books.damage(
        "INSERT INTO wallet_state (shard, wallet_id, step, status, since, debt_wallet_id, event_id, at)"
        " SELECT shard, wallet_id, 5, status, since, 999, event_id, at FROM wallet_state"
        " WHERE wallet_id = $bob AND step = 4"
    )
    h = books.history
    fault = f"names debts in wallet 999, but they are in wallet {h.bob_debts}"
    assert state(h, 5, fault) in await books.findings()


async def test_states_without_damage_give_no_finding(books: Books) -> None:
    assert await books.findings() == []
    conditions = {"wallet_state": "true", "transaction": "type IN (9, 10)", "account": "wallet_kind = 4"}
    counts = [
        await books.connection.fetchval(f"SELECT count(*) FROM {table} WHERE {condition}")
        for table, condition in conditions.items()
    ]
    assert counts == [5, 2, 2]


async def test_credits_in_a_closed_wallet_are_found(books: Books) -> None:
    await books.damage(
        "INSERT INTO wallet_state (shard, wallet_id, step, status, since, event_id, at)"
        " SELECT shard, $carol, 1, 4, at, event_id, at FROM wallet_state WHERE wallet_id = $bob AND step = 3"
    )
    h = books.history
    # A key asks for one wallet.
    of_another = f"key {h.keys['close']} asked for it, but is of wallet {h.bob}"
    assert await books.findings() == [
        ("closed", f"account {h.spend.account_id} ({CAROL})", "its wallet is closed, but it holds 20"),
        ("key of a state", f"state 1 of wallet {h.carol}", of_another),
    ]


DEBTS: Final[dict[str, Damage]] = {
    "that no state names": (
        "UPDATE wallet_state SET debt_wallet_id = NULL WHERE wallet_id = $alice",
        lambda h: [debt(h, "is a debt that no state of its owner's wallet names")],
    ),
    "that could have been repaid": (
        "UPDATE entry SET balance_after = 7 WHERE transaction_id = '$repayment' AND amount < 0",
        lambda h: [
            debt(h, "owes 20, but the owner has 7 available"),
            repays(h, "leaves 7 available and 20 owed"),
        ],
    ),
    "above zero": (
        "UPDATE entry SET balance_after = 1 WHERE account_id = $alice_debt AND seq = 2",
        lambda h: [entry_of_debt(h, 2, "is a debt above zero: 1")],
    ),
    "above zero once": (
        "UPDATE entry SET balance_after = 1 WHERE account_id = $alice_debt AND seq = 1",
        lambda h: [entry_of_debt(h, 1, "is a debt above zero: 1")],
    ),
    "of another owner's transaction": (
        "UPDATE transaction SET wallet_id = $carol WHERE id = '$taken'",
        lambda h: [entry_of_debt(h, 1, f"is owed by {ALICE}, but transaction {h.taken.id} is of another owner")],
    ),
    "of the system's transaction": (
        "UPDATE transaction SET wallet_id = $bob_debts WHERE id = '$owed'",
        lambda h: [
            ("entry of a debt", f"account {h.bob_debt} ({BOB}), seq 1",
             f"is owed by {BOB}, but transaction {h.owed} is of another owner"),
        ],
    ),
    "whose repayment was not at its time": (
        "UPDATE entry SET executed_at = executed_at + interval '1 s' WHERE transaction_id = '$repayment'",
        lambda h: [
            ("transaction", f"transaction {h.repayment}", "its time is not that of its legs"),
            repays(h, "nothing became available right before it"),
        ],
    ),
    "whose repayment follows no credit": (
        "UPDATE entry SET balance_after = 0 WHERE transaction_id = '$bonus' AND amount = 50",
        lambda h: [repays(h, "nothing became available right before it")],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", DEBTS)
async def test_a_damaged_debt_is_found(books: Books, case: str) -> None:
    statement, expected = DEBTS[case]
    await books.damage(statement)
    assert set(expected(books.history)) <= set(await books.findings())


ANSWERS: Final[dict[str, Damage]] = {
    "a forfeit that no key names": (
        of_key("close", "details = details - 'posted'"), lambda h: [unnamed(h.forfeit, h.bob)],
    ),
    "a debt that no key names": (
        of_key("clawback", "details = details - 'posted'"), lambda h: [unnamed(h.owed, h.bob)],
    ),
    "names that are no list": (
        naming("close", "posted", "7"), lambda h: [unnamed(h.forfeit, h.bob)],
    ),
    "names that are no ids": (
        naming("close", "posted", '["x"]'),
        lambda h: [answer(h, "close", "posted", "x"), unnamed(h.forfeit, h.bob)],
    ),
    "another transaction": (
        naming("close", "posted", f'["{NOBODY}"]'),
        lambda h: [answer(h, "close", "posted", NOBODY), unnamed(h.forfeit, h.bob)],
    ),
    "a transaction that is gone": (
        "DELETE FROM entry WHERE transaction_id = '$forfeit'; DELETE FROM transaction WHERE id = '$forfeit'",
        lambda h: [answer(h, "close", "posted", h.forfeit)],
    ),
    "a transaction of another owner": (
        naming("clawback", "posted", '["$spend"]'),
        lambda h: [answer(h, "clawback", "posted", h.spend.id), unnamed(h.owed, h.bob)],
    ),
    "a repayment with a key": (
        f"UPDATE transaction SET idempotency_key = '{NOBODY}' WHERE id = '$repayment'",
        lambda h: [
            ("key", f"key {NOBODY} of wallet {h.taken.wallet_id}",
             f"is missing: transaction {h.repayment} was posted under it"),
        ],
    ),
    "another type without a key": (
        "UPDATE transaction SET type = 3 WHERE id = '$repayment'",
        lambda h: [unnamed(h.repayment, h.taken.wallet_id)],
    ),
    "a hold that no key voided": (
        of_key("close", "details = details - 'voided'"),
        lambda h: [not_voided(h)],
    ),
    "another hold": (
        naming("close", "voided", f'["{NOBODY}"]'),
        lambda h: [not_voided(h), answer(h, "close", "voided", NOBODY)],
    ),
    "a hold that was not voided": (
        "UPDATE hold_step SET kind = 55 WHERE kind = 54", lambda h: [answer(h, "close", "voided", h.hold.id)],
    ),
    "no state that it made": (
        of_key("unfreeze", f"transaction_id = '{NOBODY}'"),
        lambda h: [("key of a state", f"state 2 of wallet {h.bob}", "no key asked for it")],
    ),
    "another fingerprint": (
        of_key("freeze", "fingerprint = decode(repeat('00', 16), 'hex')"), lambda h: [not_asked(h, 1, "freeze")],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", ANSWERS)
async def test_a_damaged_answer_is_found(books: Books, case: str) -> None:
    statement, expected = ANSWERS[case]
    await books.damage(statement)
    found = await books.findings()
    assert set(expected(books.history)) <= set(found), found
