"""The database refuses every broken step of a hold, whoever writes it: by SQL as the serving role."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Final
from uuid import UUID

import asyncpg
import pytest
from asyncpg import Connection
from batches import connected, new_owner_in
from direct import account_of, count_rows, insert, movement, refused
from direct_holds import DAY, Act, HeldAccount, insert_acts
from factories import balance
from uuid_utils.compat import uuid7

from wallet_gql.domain.holds import CAPTURES_MAX, OPEN_HOLDS_MAX, HoldStepKind
from wallet_gql.domain.money import MINOR_MAX
from wallet_gql.domain.postings import TransactionType
from wallet_gql.domain.wallets import OwnerName, WalletKind
from wallet_gql.operations.opening import Ledger

CHECK_VIOLATION: Final = "23514"
UNIQUE_VIOLATION: Final = "23505"
RESTRICT_VIOLATION: Final = "23001"
INSUFFICIENT_PRIVILEGE: Final = "42501"

# What the laws say.
WITHOUT_STEP: Final = "what is held differs from the entry before it, without a step of a hold"
NOT_ITS_STEP: Final = "held_after is not what was held before it and the step of its hold"
WRONG_POSITION: Final = "position does not count the entries that move credits"
HALF: Final = "it says half of what is held, or in lots"
LESS_THAN_NOTHING: Final = "less than nothing is held, or in lots"
NO_CAPTURE: Final = "it captures no hold"
NO_HOLD: Final = "no such hold of this account"
NO_ENTRY: Final = "it belongs to no entry"
NO_STEP_BEFORE: Final = "the step before it is missing"
CLOSED: Final = "its hold is closed"
WRONG_CHANGE: Final = "change is not what it changes"
WRONG_COUNT: Final = "capture_count does not count its captures"
MOVES_OTHER: Final = "its entry does not move what it captures"
OTHER_TYPE: Final = "its entry is not of the type that its hold is captured by"
NO_SUCCESSOR: Final = "it does not follow the step before it"
WRONG_OPEN: Final = "open_holds are not those before it and its own"
WRONG_DUE: Final = "next_due_at of its entry is not the first end of an open hold"
NEVER_PLACED: Final = "or was never placed"

SHARD: Final = 1


class Owner:
    """An owner with 100 GOLD, 60 of them held by two holds, of 40 for a day and of 20 for a week."""

    def __init__(self, ledger: Ledger, connection: Connection, owner_id: str) -> None:
        self.ledger = ledger
        self.connection = connection
        self.id = owner_id
        self.account: HeldAccount
        self.first: UUID
        self.second: UUID

    async def read(self) -> HeldAccount:
        """Return the account as it is, for acts that follow."""
        self.account = await HeldAccount.read(self.connection, SHARD, self.id, self.ledger.slot)
        return self.account

    async def add(self, *acts: Act) -> None:
        await insert_acts(self.connection, *acts)
        await self.read()

    async def figures(self) -> tuple[int, int]:
        """Return what the owner has, and what of it is held."""
        name = OwnerName(SHARD, self.id)
        found = await self.ledger.reads.owners_balances.load((name, self.ledger.assets["GOLD"]))
        assert found is not None
        return found.amount_minor, found.held_minor


async def owner_with_holds(ledger: Ledger, connection: Connection) -> Owner:
    owner = Owner(ledger, connection, await new_owner_in(ledger, SHARD, gold=100))
    account = await owner.read()
    await owner.add(account.place(40, DAY), account.place(20))
    owner.first, owner.second = owner.account.steps
    return owner


@pytest.fixture
async def owner(ledger: Ledger, server_connection: Connection) -> Owner:
    return await owner_with_holds(ledger, server_connection)


async def test_valid_steps_pass_one_by_one(owner: Owner) -> None:
    assert await owner.figures() == (100, 60)
    before = await count_rows(owner.connection)
    await owner.add(owner.account.adjust(owner.first, 45))
    assert await owner.figures() == (100, 65)
    await owner.add(owner.account.capture(owner.first, 5, keep=True))
    assert await owner.figures() == (95, 60)
    await owner.add(owner.account.spend(35))
    assert await owner.figures() == (60, 60)
    await owner.add(owner.account.capture(owner.first, 30))
    assert await owner.figures() == (30, 20)
    await owner.add(owner.account.void(owner.second))
    assert await owner.figures() == (30, 0)
    # In one statement, or a sweeper could be the first to end it.
    brief = owner.account.place(30, timedelta(microseconds=1))
    await owner.add(brief, owner.account.expire(owner.account.open_holds[0]))
    assert await owner.figures() == (30, 0)
    await owner.add(owner.account.spend(30))
    assert await owner.figures() == (0, 0)
    # Two captures and two spends have a treasury's leg too.
    added = {"transaction": 4, "entry": 12, "hold": 1, "hold_step": 6, "idempotency_key": 7}
    assert await count_rows(owner.connection) == {table: count + added.get(table, 0) for table, count in before.items()}


async def test_several_steps_of_several_holds_in_one_statement_pass(owner: Owner) -> None:
    account = owner.account
    acts = [
        account.capture(owner.first, 10, keep=True),
        account.place(5, DAY),
        account.adjust(owner.second, 30),
        account.spend(20),
        account.capture(owner.first, 1),
        account.void(owner.second),
    ]
    # The order of the rows does not matter.
    await owner.add(*acts[::-1])
    assert await owner.figures() == (69, 5)


async def test_the_first_hold_of_an_account_and_its_end_in_one_statement_pass(owner: Owner) -> None:
    other = Owner(owner.ledger, owner.connection, await new_owner_in(owner.ledger, SHARD, gold=10))
    account = await other.read()
    placed = account.place(10)
    await other.add(placed, account.void(account.open_holds[0]))
    assert await other.figures() == (10, 0)


def kind_of(act: Act, kind: int) -> Act:
    """Call a step and its entry, which moves nothing, something else."""
    return act.altered("step", kind=kind).altered("entry", type=kind)


def paid_as(act: Act, type_: int) -> Act:
    act = act.altered("entry", type=type_).altered("treasury", type=type_)
    return act.altered("transaction", type=type_)


def more(number: int) -> Callable[[int], int]:
    return lambda it: it + number


def without_holds(act: Act) -> Act:
    return act.altered("entry", held_after=None, held_seq=None, position=None, next_due_at=None)


# What is tried after the two holds of 40 and 20, and how the database answers.
TRIED: Final[dict[str, tuple[Callable[[HeldAccount, UUID, UUID], Act], str, str, str]]] = {
    "a spend of what is held": (
        lambda a, _f, _s: a.spend(41), CHECK_VIOLATION, "entry_balance_after_check", "",
    ),
    "a hold of what is held": (
        lambda a, _f, _s: a.place(41), CHECK_VIOLATION, "entry_balance_after_check", "",
    ),
    "a raise by what is held": (
        lambda a, f, _s: a.adjust(f, 81), CHECK_VIOLATION, "entry_balance_after_check", "",
    ),
    "less than nothing held": (
        lambda a, f, _s: a.void(f).holding(-21), CHECK_VIOLATION, "entry_law_chain", LESS_THAN_NOTHING,
    ),
    "more held than is": (
        lambda a, f, _s: a.void(f).holding(1), CHECK_VIOLATION, "entry_law_chain", NOT_ITS_STEP,
    ),
    "less held than is": (
        lambda a, _f, _s: a.place(10).holding(-1), CHECK_VIOLATION, "entry_law_chain", NOT_ITS_STEP,
    ),
    "more held without a step": (
        lambda a, _f, _s: a.spend(10).holding(1), CHECK_VIOLATION, "entry_law_chain", WITHOUT_STEP,
    ),
    "less held without a step": (
        lambda a, _f, _s: a.spend(10).holding(-1), CHECK_VIOLATION, "entry_law_chain", WITHOUT_STEP,
    ),
    "another step's entry": (
        lambda a, _f, _s: a.spend(10).altered("entry", held_seq=more(-1)),
        CHECK_VIOLATION, "entry_law_chain", WITHOUT_STEP,
    ),
    "another end without a step": (
        lambda a, _f, _s: a.spend(10).altered("entry", next_due_at=lambda due: due + DAY),
        CHECK_VIOLATION, "entry_law_chain", WITHOUT_STEP,
    ),
    "a spend that says that it is a step's": (
        lambda a, _f, _s: a.spend(10).altered("entry", held_seq=a.head.seq if a.head else 0),
        CHECK_VIOLATION, "entry_law_chain", NOT_ITS_STEP,
    ),
    "an account that forgets what is held": (
        lambda a, _f, _s: without_holds(a.spend(10)), CHECK_VIOLATION, "entry_law_chain", WITHOUT_STEP,
    ),
    "an account that forgets to number": (
        lambda a, _f, _s: a.spend(10).altered("entry", position=None), CHECK_VIOLATION, "entry_law_chain", HALF,
    ),
    "an account that forgets whose step it was": (
        lambda a, _f, _s: a.spend(10).altered("entry", held_seq=None), CHECK_VIOLATION, "entry_owners_only_check", "",
    ),
    "an account that forgets how much is held": (
        lambda a, _f, _s: a.spend(10).altered("entry", held_after=None), CHECK_VIOLATION, "entry_law_chain", HALF,
    ),
    "an account that forgets when holds end": (
        lambda a, _f, _s: a.spend(10).altered("entry", next_due_at=None),
        CHECK_VIOLATION, "entry_law_chain", WITHOUT_STEP,
    ),
    "a position that skips one": (
        lambda a, _f, _s: a.spend(10).altered("entry", position=more(1)),
        CHECK_VIOLATION, "entry_law_chain", WRONG_POSITION,
    ),
    "a position that counts what moves nothing": (
        lambda a, f, _s: a.void(f).altered("entry", position=more(1)),
        CHECK_VIOLATION, "entry_law_chain", WRONG_POSITION,
    ),
    "a position that is there already": (
        lambda a, _f, _s: a.spend(10).altered("entry", position=more(-1)),
        CHECK_VIOLATION, "entry_law_chain", WRONG_POSITION,
    ),
    "an entry that moves nothing, without a step": (
        lambda a, f, _s: a.void(f).without("step").holding(40).altered("entry", held_seq=more(-1)),
        CHECK_VIOLATION, "entry_law_chain", WITHOUT_STEP,
    ),
    "an entry that is to have a step": (
        lambda a, f, _s: a.void(f).without("step"), CHECK_VIOLATION, "entry_law_chain", NOT_ITS_STEP,
    ),
    "an entry that moves nothing, of an account without holds": (
        lambda a, f, _s: without_holds(a.void(f)), CHECK_VIOLATION, "entry_amount_check", "",
    ),
    "an entry that moves nothing, of another kind": (
        lambda a, f, _s: a.void(f).altered("entry", type=HoldStepKind.ADJUSTED),
        CHECK_VIOLATION, "entry_law_chain", NOT_ITS_STEP,
    ),
    "an entry of another event": (
        lambda a, f, _s: a.void(f).altered("entry", transaction_id=uuid7()),
        CHECK_VIOLATION, "hold_step_law", NO_ENTRY,
    ),
    "a step of another event": (
        lambda a, f, _s: a.void(f).altered("step", event_id=uuid7()), CHECK_VIOLATION, "hold_step_law", NO_ENTRY,
    ),
    "a step of another time": (
        lambda a, f, _s: a.void(f).altered("step", at=lambda at: at + DAY), CHECK_VIOLATION, "hold_step_law", NO_ENTRY,
    ),
    "a step without an entry": (
        lambda a, f, _s: a.adjust(f, 41).without("entry"), CHECK_VIOLATION, "hold_step_law", NO_ENTRY,
    ),
    "a hold without an entry": (
        lambda a, _f, _s: a.place(1).without("entry"), CHECK_VIOLATION, "hold_step_law", NO_ENTRY,
    ),
    "a hold that was never placed": (
        lambda a, _f, _s: a.place(1).only("hold"), CHECK_VIOLATION, "hold_law_placed", NEVER_PLACED,
    ),
    "a hold without its row": (
        lambda a, _f, _s: a.place(1).without("hold"), CHECK_VIOLATION, "hold_step_law", NO_HOLD,
    ),
    "a hold of another entry": (
        lambda a, _f, _s: a.place(1).altered("hold", seq=more(1)), CHECK_VIOLATION, "hold_step_law", NO_SUCCESSOR,
    ),
    "a hold of another wallet": (
        lambda a, _f, _s: a.place(1).altered("hold", wallet_id=a.treasury.wallet_id),
        CHECK_VIOLATION, "hold_law_placed", NEVER_PLACED,
    ),
    "a hold of the treasury's account": (
        lambda a, _f, _s: a.place(1).altered("hold", account_id=a.treasury.id, wallet_id=a.treasury.wallet_id),
        CHECK_VIOLATION, "hold_step_law", NO_HOLD,
    ),
    "a hold in another shard": (
        lambda a, _f, _s: a.place(1).altered("hold", shard=more(1)), CHECK_VIOLATION, "hold_step_law", NO_HOLD,
    ),
    "a hold of nothing": (
        lambda a, _f, _s: a.place(0), CHECK_VIOLATION, "hold_step_law", NO_SUCCESSOR,
    ),
    "a hold that begins captured": (
        lambda a, _f, _s: a.place(2).altered("step", captured=1, change=1).holding(-1),
        CHECK_VIOLATION, "hold_step_law", MOVES_OTHER,
    ),
    "a hold that begins released": (
        lambda a, _f, _s: a.place(2).altered("step", released=1, change=1).holding(-1),
        CHECK_VIOLATION, "hold_step_law", NO_SUCCESSOR,
    ),
    "a hold that begins by being adjusted": (
        lambda a, _f, _s: kind_of(a.place(1), HoldStepKind.ADJUSTED), CHECK_VIOLATION, "hold_step_law", NO_SUCCESSOR,
    ),
    "a hold that begins by being voided": (
        lambda a, _f, _s: kind_of(
            a.place(1).altered("step", released=1, change=0, open_holds=lambda ids: ids[:-1]).holding(-1),
            HoldStepKind.VOIDED,
        ),
        CHECK_VIOLATION, "hold_step_law", NO_SUCCESSOR,
    ),
    "a step that is placed again": (
        lambda a, f, _s: kind_of(a.adjust(f, 41), HoldStepKind.PLACED), CHECK_VIOLATION, "hold_step_law", NO_SUCCESSOR,
    ),
    "a step of an unknown kind": (
        lambda a, f, _s: kind_of(a.adjust(f, 41), 56), CHECK_VIOLATION, "hold_step_kind_check", "",
    ),
    "a step that skips one": (
        lambda a, f, _s: a.adjust(f, 41).altered("step", step=more(1)),
        CHECK_VIOLATION, "hold_step_law", NO_STEP_BEFORE,
    ),
    "a step that is there already": (
        lambda a, f, _s: a.adjust(f, 41).altered("step", step=more(-1)), UNIQUE_VIOLATION, "hold_step_pkey", "",
    ),
    "step 0": (
        lambda a, f, _s: a.adjust(f, 41).altered("step", step=0), CHECK_VIOLATION, "hold_step_step_check", "",
    ),
    "a fork": (
        lambda a, f, _s: a.adjust(f, 41).altered("step", seq=1).altered("entry", seq=1, held_seq=1),
        UNIQUE_VIOLATION, "entry_pkey", "",
    ),
    "a fork of a spend": (
        lambda a, _f, _s: a.spend(1).altered("entry", seq=more(-1)), UNIQUE_VIOLATION, "entry_pkey", "",
    ),
    "a fork of what is open": (
        lambda a, f, _s: a.adjust(f, 41).without("entry").altered("step", seq=more(-1)),
        UNIQUE_VIOLATION, "hold_step_shard_account_id_seq_key", "",
    ),
    "a capture of more than remains": (
        lambda a, f, _s: a.capture(f, 41, keep=True), CHECK_VIOLATION, "hold_step_amount_check", "",
    ),
    "a capture that pays more than it takes": (
        lambda a, f, _s: a.capture(f, 40).moving(1), CHECK_VIOLATION, "hold_step_law", MOVES_OTHER,
    ),
    "a capture that pays less than it takes": (
        lambda a, f, _s: a.capture(f, 40).moving(-1), CHECK_VIOLATION, "hold_step_law", MOVES_OTHER,
    ),
    "a capture that raises what is held": (
        lambda a, f, _s: a.capture(f, 41).altered("step", amount=41, released=0),
        CHECK_VIOLATION, "hold_step_law", NO_SUCCESSOR,
    ),
    "a capture that releases a part of the rest": (
        lambda a, f, _s: a.capture(f, 10, keep=True).altered("step", released=5, change=-15).holding(-5),
        CHECK_VIOLATION, "hold_step_law", NO_SUCCESSOR,
    ),
    "a capture that takes nothing": (
        lambda a, f, _s: kind_of(a.adjust(f, 40), HoldStepKind.CAPTURED).altered("step", capture_count=1),
        CHECK_VIOLATION, "hold_step_law", NO_SUCCESSOR,
    ),
    "a capture that takes longer": (
        lambda a, f, _s: a.capture(f, 10, keep=True).altered("step", held_until=lambda it: it + timedelta(hours=1)),
        CHECK_VIOLATION, "hold_step_law", NO_SUCCESSOR,
    ),
    "a capture that is not counted": (
        lambda a, f, _s: a.capture(f, 10).altered("step", capture_count=0),
        CHECK_VIOLATION, "hold_step_law", WRONG_COUNT,
    ),
    "a capture that is counted twice": (
        lambda a, f, _s: a.capture(f, 10).altered("step", capture_count=2),
        CHECK_VIOLATION, "hold_step_law", WRONG_COUNT,
    ),
    "a void that is counted": (
        lambda a, f, _s: a.void(f).altered("step", capture_count=1), CHECK_VIOLATION, "hold_step_law", WRONG_COUNT,
    ),
    "a capture of no hold": (
        lambda a, _f, _s: paid_as(a.spend(10), TransactionType.CAPTURE),
        CHECK_VIOLATION, "entry_law_chain", NO_CAPTURE,
    ),
    "a spend that captures": (
        lambda a, f, _s: paid_as(a.capture(f, 10), TransactionType.SPEND),
        CHECK_VIOLATION, "hold_step_law", OTHER_TYPE,
    ),
    "an adjusted hold that pays": (
        lambda a, f, _s: a.capture(f, 10, keep=True).altered("step", kind=HoldStepKind.ADJUSTED, capture_count=0),
        CHECK_VIOLATION, "hold_step_law", NO_SUCCESSOR,
    ),
    "a void that pays": (
        lambda a, f, _s: a.capture(f, 10).altered("step", kind=HoldStepKind.VOIDED, capture_count=0),
        CHECK_VIOLATION, "hold_step_law", NO_SUCCESSOR,
    ),
    "a void that keeps some": (
        lambda a, f, _s: kind_of(a.adjust(f, 40), HoldStepKind.VOIDED), CHECK_VIOLATION, "hold_step_law", NO_SUCCESSOR,
    ),
    "a void of another amount": (
        lambda a, f, _s: a.void(f).altered("step", amount=41, released=41),
        CHECK_VIOLATION, "hold_step_law", NO_SUCCESSOR,
    ),
    "a void of another end": (
        lambda a, f, _s: a.void(f).altered("step", held_until=lambda it: it + DAY),
        CHECK_VIOLATION, "hold_step_law", NO_SUCCESSOR,
    ),
    "an adjusted hold that releases": (
        lambda a, f, _s: a.adjust(f, 40).altered("step", released=10, change=-10).holding(-10),
        CHECK_VIOLATION, "hold_step_law", NO_SUCCESSOR,
    ),
    "an adjusted hold of less than nothing": (
        lambda a, f, _s: a.adjust(f, -1), CHECK_VIOLATION, "hold_step_amount_check", "",
    ),
    "more than the database holds": (
        lambda a, f, _s: a.adjust(f, 40).altered("step", amount=MINOR_MAX + 1),
        CHECK_VIOLATION, "hold_step_amount_check", "",
    ),
    "an end a moment too early": (
        lambda a, f, _s: a.expire(f, early=True), CHECK_VIOLATION, "hold_step_law", NO_SUCCESSOR,
    ),
    "an end that keeps some": (
        lambda a, f, _s: a.expire(f).altered("step", released=39, change=-39).holding(1).altered(
            "step", open_holds=lambda ids: (f, *ids)
        ).altered("entry", next_due_at=a.steps[f].held_until),
        CHECK_VIOLATION, "hold_step_law", NO_SUCCESSOR,
    ),
    "an end of another end": (
        lambda a, f, _s: a.expire(f).altered("step", held_until=lambda it: it - DAY),
        CHECK_VIOLATION, "hold_step_law", NO_SUCCESSOR,
    ),
    "more change than there is": (
        lambda a, f, _s: a.adjust(f, 50).altered("step", change=11).holding(1),
        CHECK_VIOLATION, "hold_step_law", WRONG_CHANGE,
    ),
    "less change than there is": (
        lambda a, _f, _s: a.place(10).altered("step", change=9).holding(-1),
        CHECK_VIOLATION, "hold_step_law", WRONG_CHANGE,
    ),
    "no change where there is some": (
        lambda a, f, _s: a.void(f).altered("step", change=0).holding(40),
        CHECK_VIOLATION, "hold_step_law", WRONG_CHANGE,
    ),
    "a new hold that is not among the open ones": (
        lambda a, _f, _s: a.place(1).altered("step", open_holds=lambda ids: ids[:-1]),
        CHECK_VIOLATION, "hold_step_law", WRONG_OPEN,
    ),
    "another's place among the open ones": (
        lambda a, _f, s: a.place(1).altered("step", open_holds=lambda ids: (s, s, ids[-1])),
        CHECK_VIOLATION, "hold_step_law", WRONG_OPEN,
    ),
    "an open hold that is missing": (
        lambda a, _f, s: a.adjust(s, 21).altered("step", open_holds=lambda ids: ids[1:]),
        CHECK_VIOLATION, "hold_step_law", WRONG_OPEN,
    ),
    "an open hold twice": (
        lambda a, f, _s: a.adjust(f, 41).altered("step", open_holds=lambda ids: (*ids, f)),
        CHECK_VIOLATION, "hold_step_law", WRONG_OPEN,
    ),
    "open holds in another order": (
        lambda a, f, _s: a.adjust(f, 41).altered("step", open_holds=lambda ids: ids[::-1]),
        CHECK_VIOLATION, "hold_step_law", WRONG_OPEN,
    ),
    "an open hold that nobody placed": (
        lambda a, f, _s: a.adjust(f, 41).altered("step", open_holds=lambda ids: (*ids, uuid7())),
        CHECK_VIOLATION, "hold_step_law", WRONG_OPEN,
    ),
    "a closed hold that stays open": (
        lambda a, f, _s: a.void(f).altered("step", open_holds=lambda ids: (f, *ids)),
        CHECK_VIOLATION, "hold_step_law", WRONG_OPEN,
    ),
    "no open holds where there are some": (
        lambda a, f, _s: a.capture(f, 40).altered("step", open_holds=()),
        CHECK_VIOLATION, "hold_step_law", WRONG_OPEN,
    ),
    "an end that is later than the first": (
        lambda a, _f, _s: a.place(1).altered("entry", next_due_at=lambda due: due + DAY),
        CHECK_VIOLATION, "hold_step_law", WRONG_DUE,
    ),
    "an end that is earlier than the first": (
        lambda a, f, _s: a.capture(f, 40).altered("entry", next_due_at=lambda due: due - DAY),
        CHECK_VIOLATION, "hold_step_law", WRONG_DUE,
    ),
    "an end that a step moved": (
        lambda a, f, _s: a.adjust(f, 40).altered("step", held_until=lambda it: it - timedelta(hours=1)),
        CHECK_VIOLATION, "hold_step_law", WRONG_DUE,
    ),
    "no end while something is held": (
        lambda a, _f, _s: a.place(1).altered("entry", next_due_at=None),
        CHECK_VIOLATION, "hold_step_law", WRONG_DUE,
    ),
}  # fmt: skip


@pytest.mark.parametrize("tried", TRIED)
async def test_the_database_refuses(owner: Owner, tried: str) -> None:
    act, sqlstate, constraint, message = TRIED[tried]
    broken = act(owner.account, owner.first, owner.second)
    async with refused(owner.connection, sqlstate, constraint, message):
        await insert_acts(owner.connection, broken)
    assert await owner.figures() == (100, 60)
    # What is refused stands in nobody's way.
    await owner.read()
    await owner.add(owner.account.void(owner.first), owner.account.spend(80))
    assert await owner.figures() == (20, 20)


async def test_no_end_where_nothing_is_held_passes_and_another_is_refused(owner: Owner) -> None:
    account = owner.account
    acts = account.void(owner.first), account.capture(owner.second, 20)
    broken = acts[1].altered("entry", next_due_at=account.now)
    async with refused(owner.connection, CHECK_VIOLATION, "hold_step_law", WRONG_DUE):
        await insert_acts(owner.connection, acts[0], broken)
    await owner.add(*acts)
    assert await owner.figures() == (80, 0)


CLOSING: Final[dict[str, Callable[[HeldAccount, UUID], Act]]] = {
    "captured": lambda account, id_: account.capture(id_, 10),
    "captured in all": lambda account, id_: account.capture(id_, 40, keep=True),
    "voided": lambda account, id_: account.void(id_),
    "expired": lambda account, id_: account.expire(id_),
    "adjusted to what is captured": lambda account, id_: account.adjust(id_, account.steps[id_].captured),
}


def reopened(account: HeldAccount, id_: UUID) -> Act:
    """Raise a hold that is closed."""
    return account.adjust(id_, account.steps[id_].amount + 5)


AFTER: Final[dict[str, Callable[[HeldAccount, UUID], Act]]] = {
    "capture": lambda account, id_: account.capture(id_, 1),
    "void": lambda account, id_: account.void(id_),
    "expire": lambda account, id_: account.expire(id_),
    "raise": reopened,
}


@pytest.mark.parametrize("at_once", [True, False], ids=["in one statement", "later"])
@pytest.mark.parametrize("after", AFTER)
@pytest.mark.parametrize("closing", CLOSING)
async def test_a_second_end_of_a_hold_is_refused(owner: Owner, closing: str, after: str, *, at_once: bool) -> None:
    account, first = owner.account, owner.first
    if closing == "adjusted to what is captured":
        await owner.add(account.capture(first, 10, keep=True))
        account = owner.account
    acts: list[Act] = []
    if closing == "expired":
        # One that is over by now, in place of the first; in one statement, or a sweeper could be the first to end it.
        acts = [account.void(first), account.place(40, timedelta(microseconds=1))]
        first = account.open_holds[-1]
    acts.append(CLOSING[closing](account, first))
    if not at_once:
        await owner.add(*acts)
        account, acts = owner.account, []
    figures, step = await owner.figures(), account.steps[first]
    again = AFTER[after](account, first)
    assert again.step is not None
    if after == "capture":
        # What was released is taken after all; where nothing was, the amount has to rise.
        taken = {"captured": step.captured + 1, "released": max(step.released - 1, 0)}
        again = again.altered("step", **taken, change=0, amount=sum(taken.values()))
        again = again.altered("entry", held_after=account.head.held_after if account.head and not at_once else 20)
    constraint, message = "hold_step_law", CLOSED
    async with refused(owner.connection, CHECK_VIOLATION, constraint, message):
        await insert_acts(owner.connection, *acts, again)
    assert await owner.figures() == figures


async def neighbour(owner: Owner) -> Owner:
    return await owner_with_holds(owner.ledger, owner.connection)


async def test_a_step_of_another_owner_s_hold_is_refused(owner: Owner) -> None:
    other = await neighbour(owner)
    account = owner.account
    # The steps are alike: the other's hold is of as much, and as many steps old.
    foreign = account.adjust(owner.first, 41).altered("step", hold_id=other.first)
    async with refused(owner.connection, CHECK_VIOLATION, "hold_step_law", NO_HOLD):
        await insert_acts(owner.connection, foreign)
    assert (await owner.figures(), await other.figures()) == ((100, 60), (100, 60))


async def test_another_owner_s_open_hold_is_refused(owner: Owner) -> None:
    other = await neighbour(owner)
    act = owner.account.adjust(owner.first, 41).altered("step", open_holds=lambda ids: (*ids, other.first))
    async with refused(owner.connection, CHECK_VIOLATION, "hold_step_law", WRONG_OPEN):
        await insert_acts(owner.connection, act)
    assert await owner.figures() == (100, 60)


async def test_a_hold_on_another_owner_s_account_is_refused(owner: Owner) -> None:
    other = await neighbour(owner)
    act = owner.account.place(1).altered("hold", account_id=other.account.owner.id)
    async with refused(owner.connection, CHECK_VIOLATION, "hold_step_law", NO_HOLD):
        await insert_acts(owner.connection, act)
    act = (await other.read()).place(1).altered("hold", wallet_id=owner.account.owner.wallet_id)
    async with refused(owner.connection, CHECK_VIOLATION, "hold_law_placed", NEVER_PLACED):
        await insert_acts(owner.connection, act)


@pytest.mark.parametrize(
    ("may_go_negative", "constraint"), [(True, "entry_owners_only_check"), (False, "hold_law_placed")]
)
async def test_a_hold_on_the_treasury_s_account_is_refused(
    owner: Owner, constraint: str, *, may_go_negative: bool
) -> None:
    stripe = await account_of(owner.connection, SHARD, "47", kind=WalletKind.TREASURY)
    says = replace(stripe, balance=10, may_go_negative=may_go_negative)
    act = HeldAccount(says, stripe, None, owner.account.now).place(1)
    async with refused(owner.connection, CHECK_VIOLATION, constraint):
        await insert_acts(owner.connection, act)
    async with refused(owner.connection, CHECK_VIOLATION, "hold_law_placed", NEVER_PLACED):
        await insert_acts(owner.connection, act.only("hold"))


async def test_more_than_a_hundred_open_holds_are_refused(owner: Owner) -> None:
    other = Owner(owner.ledger, owner.connection, await new_owner_in(owner.ledger, SHARD, gold=200))
    account = await other.read()
    await other.add(*(account.place(1) for _ in range(OPEN_HOLDS_MAX)))
    async with refused(owner.connection, CHECK_VIOLATION, "hold_step_open_holds_check"):
        await insert_acts(owner.connection, other.account.place(1))
    account = await other.read()
    await other.add(account.void(account.open_holds[50]), account.place(1))
    assert await other.figures() == (200, 100)


async def test_more_than_fifty_captures_are_refused(owner: Owner) -> None:
    account = owner.account
    captures = [account.capture(owner.first, 1, keep=True) for _ in range(39)]
    captures += [account.adjust(owner.first, 60)] + [account.capture(owner.first, 1, keep=True) for _ in range(11)]
    await owner.add(*captures)
    assert owner.account.steps[owner.first].capture_count == CAPTURES_MAX
    assert await owner.figures() == (50, 30)
    async with refused(owner.connection, CHECK_VIOLATION, "hold_step_capture_count_check"):
        await insert_acts(owner.connection, owner.account.capture(owner.first, 1))
    await owner.read()
    await owner.add(owner.account.void(owner.first))
    assert await owner.figures() == (50, 20)


ACTS: Final[dict[str, Callable[[HeldAccount], Act]]] = {
    "place": lambda account: account.place(60),
    "spend": lambda account: account.spend(60),
}


@pytest.mark.parametrize("order", [("place", "spend"), ("spend", "place"), ("place", "place"), ("spend", "spend")])
@pytest.mark.parametrize("ends", ["COMMIT", "ROLLBACK"])
async def test_of_two_sessions_that_forgot_to_lock_one_commits(owner: Owner, order: tuple[str, str], ends: str) -> None:
    # Both saw 40 and 20 held, of which the first is released by now: 80 are available, and both want 60.
    await owner.add(owner.account.void(owner.first))
    first, second = [ACTS[name](await owner.read()) for name in order]
    # The stripe is the first one's alone, so that only the owner's chain is in the way.
    if order == ("spend", "spend"):
        second = await through_another_stripe(owner.connection, second)
    async with connected(owner.ledger.settings) as other:
        await owner.connection.execute("BEGIN")
        await insert_acts(owner.connection, first)
        waiting = asyncio.create_task(insert_acts(other, second))
        await until_blocked(owner.connection, other)
        await owner.connection.execute(ends)
        if ends == "COMMIT":
            with pytest.raises(asyncpg.UniqueViolationError) as caught:
                await waiting
            # Of an account's entries, and of its steps.
            both = "hold_step_shard_account_id_seq_key" if order == ("place", "place") else "entry_pkey"
            assert caught.value.constraint_name == both
        else:
            await waiting
    stays = order[0] if ends == "COMMIT" else order[1]
    assert await owner.figures() == ((100, 80) if stays == "place" else (40, 20))


async def through_another_stripe(connection: Connection, act: Act) -> Act:
    stripe = await account_of(connection, SHARD, "46", kind=WalletKind.TREASURY)
    assert act.treasury is not None
    return act.altered(
        "treasury",
        account_id=stripe.id,
        seq=stripe.seq + 1,
        balance_after=stripe.balance + act.treasury.amount,
    )


async def until_blocked(connection: Connection, other: Connection) -> None:
    """Wait until the other session waits for a lock of this one."""
    async with asyncio.timeout(60):
        while not await connection.fetchval(  # noqa: ASYNC110 - what is awaited has no event of its own
            "SELECT pg_blocking_pids($1) <> '{}'", other.get_server_pid()
        ):
            await asyncio.sleep(0.005)


@pytest.mark.parametrize("number", range(2))
async def test_a_session_that_looked_before_and_comes_after_takes_nothing_that_is_held(
    owner: Owner, number: int
) -> None:
    """One places 40 and another spends 40 of the last 40, the second with the seq that is next by then."""
    acts = [owner.account.place(40), (await owner.read()).spend(40)]
    first, second = acts[number], acts[1 - number]
    await insert_acts(owner.connection, first)
    late: dict[str, Callable[[int], int]] = {"seq": more(1)}
    if number == 0:
        assert first.entry is not None
        # What it knows of the balance it still knows; what is held, it must say as it is.
        held = {"held_after": first.entry.held_after, "held_seq": first.entry.held_seq}
        second = second.altered("entry", **late, **held, next_due_at=first.entry.next_due_at)
    else:
        assert first.entry is not None
        second = second.altered("entry", **late, held_seq=more(1), balance_after=more(-40), position=more(1))
        second = second.altered("step", seq=more(1)).altered("hold", seq=more(1))
    async with refused(owner.connection, CHECK_VIOLATION, "entry_balance_after_check"):
        await insert_acts(owner.connection, second)
    assert await owner.figures() == ((100, 100) if number == 0 else (60, 60))


async def test_a_posting_of_a_server_without_holds_is_refused_on_an_account_with_holds(owner: Owner) -> None:
    for amount in (10, -10):
        moved = await movement(owner.connection, SHARD, owner.id, amount, slot=owner.ledger.slot)
        async with refused(owner.connection, CHECK_VIOLATION, "entry_law_chain", WITHOUT_STEP):
            await insert(owner.connection, moved)
    assert await owner.figures() == (100, 60)


async def test_a_capture_on_an_account_that_never_had_a_hold_is_refused(owner: Owner) -> None:
    plain = await new_owner_in(owner.ledger, SHARD, gold=10)
    moved = await movement(owner.connection, SHARD, plain, -10, slot=owner.ledger.slot)
    async with refused(owner.connection, CHECK_VIOLATION, "entry_law_chain", NO_CAPTURE):
        await insert(owner.connection, moved.altered(type=6).of_transaction(type=6))
    assert await balance(owner.ledger, plain) == 10


TABLES: Final = ("hold", "hold_step")


@pytest.mark.parametrize("table", TABLES)
async def test_the_serving_role_may_not_change(owner: Owner, table: str) -> None:
    for statement in (f"UPDATE {table} SET shard = shard", f"DELETE FROM {table}", f"TRUNCATE {table}"):
        async with refused(owner.connection, INSUFFICIENT_PRIVILEGE, message=f"permission denied for table {table}"):
            await owner.connection.execute(statement)


@pytest.mark.parametrize("table", TABLES)
async def test_the_guard_refuses_the_owner_of_the_tables_too(
    owner: Owner, owner_connection: Connection, table: str
) -> None:
    for statement in (f"UPDATE {table} SET shard = shard", f"DELETE FROM {table}", f"TRUNCATE {table}"):
        message = f"{statement.split()[0]} of {table} refused"
        async with refused(owner_connection, RESTRICT_VIOLATION, message=message):
            await owner_connection.execute(statement)
    assert await owner.figures() == (100, 60)
