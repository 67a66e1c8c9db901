"""The database refuses every broken debt and state of a wallet, whoever writes it: by SQL as the serving role.

All is written in a transaction that is rolled back, so what is accepted need not be whole books.
"""

from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from typing import Any, Final, TypeAlias
from uuid import UUID, uuid4

import pytest
from asyncpg import Connection
from batches import new_owner_in
from direct import account_of, refused
from direct_states import Moved, StateRow, halves, insert_moved, insert_states, moved
from factories import post
from holds import held, place
from uuid_utils.compat import uuid7

from wallet_gql.domain.postings import Posted, TransactionType
from wallet_gql.domain.wallets import OwnerName, WalletKind, WalletStatus
from wallet_gql.operations.holds import place_hold
from wallet_gql.operations.opening import Ledger
from wallet_gql.operations.transfers import TransferInput, transfer

CHECK_VIOLATION: Final = "23514"
UNIQUE_VIOLATION: Final = "23505"

USER, TREASURY, CLEARING, DEBT = WalletKind
CLAWBACK, REPAYMENT, FORFEIT = TransactionType.CLAWBACK, TransactionType.REPAYMENT, TransactionType.FORFEIT
OPEN, OUT, ALL, CLOSED = WalletStatus
SHARD: Final = 1
SECOND: Final = timedelta(seconds=1)

Legs: TypeAlias = Mapping[WalletKind, int]


@dataclass(frozen=True, slots=True)
class Owner:
    """An owner with 40 GOLD: a top-up of 100, a transfer of 60 away, and another owner, who received it."""

    ledger: Ledger
    connection: Connection
    name: OwnerName
    top_up: UUID
    other: "Owner | None" = None
    received: UUID | None = None

    async def moved(self, type_: TransactionType, legs: Legs, *, debtor: str | None = None) -> Moved:
        return await moved(self.connection, self.name, type_, legs, debtor=debtor)

    async def clawed(self, legs: Legs, amount: int | None = None, **reversal: Any) -> Moved:
        """Return a clawback of the top-up; unless another amount is given it reverses what it credits."""
        taken = await self.moved(CLAWBACK, legs)
        amount = amount or sum(each for each in legs.values() if each > 0)
        return taken.reversing(self.top_up, amount, **reversal)

    async def insert(self, *all_moved: Moved) -> None:
        await insert_moved(self.connection, *all_moved)

    async def owes(self, amount: int) -> None:
        """Let the owner owe so much, whatever is available: no law is about that."""
        await self.insert(await self.clawed({TREASURY: amount, DEBT: -amount}))

    async def state(self, status: WalletStatus = OUT, **columns: Any) -> StateRow:
        """Return a valid first state."""
        wallet_id = (await account_of(self.connection, *self.name)).wallet_id
        now = await self.connection.fetchval("SELECT clock_timestamp()")
        return StateRow(SHARD, wallet_id, 1, status, now, None, "because", None, uuid7(), now).saying(**columns)

    async def debt_wallet(self) -> int:
        return (await account_of(self.connection, *self.name, kind=DEBT)).wallet_id

    async def is_refused(self, constraint: str, message: str, *all_moved: Moved) -> None:
        async with refused(self.connection, CHECK_VIOLATION, constraint, message), self.connection.transaction():
            await self.insert(*all_moved)

    async def is_no_state(self, row: StateRow, message: str, constraint: str = "wallet_state_law") -> None:
        async with refused(self.connection, CHECK_VIOLATION, constraint, message), self.connection.transaction():
            await insert_states(self.connection, row)


async def new_owner(ledger: Ledger, connection: Connection, gold: int) -> Owner:
    owner_id = await new_owner_in(ledger, SHARD)
    top_up = uuid4()
    if gold:
        outcome = await post(ledger, "top_up", owner_id, gold)
        assert isinstance(outcome, Posted)
        top_up = outcome.transaction.id
    return Owner(ledger, connection, OwnerName(SHARD, owner_id), top_up)


@pytest.fixture
async def owner(ledger: Ledger, server_connection: Connection) -> AsyncIterator[Owner]:
    owner = await new_owner(ledger, server_connection, 100)
    other = await new_owner(ledger, server_connection, 0)
    sent = await transfer(ledger, TransferInput(owner.name.owner_id, other.name.owner_id, "GOLD", Decimal(60), uuid4()))
    assert isinstance(sent, Posted)
    assert sent.transaction.counterpart is not None
    transaction = server_connection.transaction()
    await transaction.start()
    yield Owner(ledger, server_connection, owner.name, owner.top_up, other, sent.transaction.counterpart.id)
    await transaction.rollback()


CLAWBACKS: Final[dict[str, Legs]] = {
    "all taken": {USER: -40, TREASURY: 40},
    "some taken, some owed": {USER: -40, TREASURY: 100, DEBT: -60},
    "all owed": {TREASURY: 100, DEBT: -100},
}


@pytest.mark.parametrize("legs", CLAWBACKS)
async def test_a_clawback_passes_with(owner: Owner, legs: str) -> None:
    await owner.insert(await owner.clawed(CLAWBACKS[legs]))
    assert await owner.connection.fetchval("SELECT amount FROM reversal WHERE original_id = $1", owner.top_up)


async def received_back(owner: Owner, taken: Legs, returned: int) -> tuple[Moved, Moved]:
    """Return a clawback of what the other owner received, and the half that gives it back."""
    assert owner.other is not None
    assert owner.received is not None
    clawed = await owner.other.moved(CLAWBACK, taken)
    clawed = clawed.reversing(owner.received, sum(each for each in taken.values() if each > 0))
    given = await owner.moved(TransactionType.TRANSFER_IN, {USER: returned, CLEARING: -returned})
    leg = clawed.legs[CLEARING]
    given = given.of_leg(CLEARING, seq=leg.seq + 1, balance_after=leg.balance_after - returned)
    return halves(clawed, given)


async def test_a_clawback_between_owners_passes_with_a_debt(owner: Owner) -> None:
    await owner.insert(*await received_back(owner, {USER: -20, TREASURY: 40, CLEARING: 20, DEBT: -40}, 20))


async def test_halves_of_a_clawback_whose_owners_legs_differ_are_refused(owner: Owner) -> None:
    for taken, returned in (
        ({USER: -20, TREASURY: 40, CLEARING: 20, DEBT: -40}, 40),
        ({USER: -20, TREASURY: 40, CLEARING: 20, DEBT: -40}, 60),
        ({USER: -10, TREASURY: 40, CLEARING: 20, DEBT: -50}, 20),
    ):
        pair = await received_back(owner, taken, returned)
        await owner.is_refused("transaction_law_halves", "without its other half", *pair)


# What is taken back or owed, and how the database answers.
BROKEN_CLAWBACKS: Final[dict[str, tuple[Legs, str]]] = {
    "an owner's leg and a debt without the treasury": ({USER: -40, DEBT: 40}, "entry_law_shape"),
    "a debt that is owed to nobody": ({USER: -40, TREASURY: 40, DEBT: -60}, "entry_law_balanced"),
    "a debt that is repaid": ({USER: -60, TREASURY: 40, DEBT: 20}, "entry_law_shape"),
    "a debt that is written off": ({TREASURY: -20, DEBT: 20}, "entry_law_shape"),
    "an owner that gets what is owed": ({USER: 40, TREASURY: 20, DEBT: -60}, "entry_law_shape"),
    "a treasury that pays": ({USER: -20, TREASURY: -20, DEBT: 40}, "entry_law_shape"),
    "clearing that gets what is owed": ({CLEARING: 60, DEBT: -60}, "entry_law_shape"),
    "clearing that pays": ({USER: -40, TREASURY: 60, CLEARING: -10, DEBT: -10}, "entry_law_shape"),
    "clearing and the treasury without a debt": ({USER: -40, TREASURY: 20, CLEARING: 20}, "entry_law_shape"),
}


@pytest.mark.parametrize("legs", BROKEN_CLAWBACKS)
async def test_a_clawback_is_refused_with(owner: Owner, legs: str) -> None:
    # Something to spare in both accounts, so that only the shape is wrong.
    assert isinstance(await post(owner.ledger, "top_up", owner.name.owner_id, 100), Posted)
    await owner.owes(40)
    amounts, constraint = BROKEN_CLAWBACKS[legs]
    credited = sum(each for each in amounts.values() if each > 0)
    await owner.is_refused(constraint, "", await owner.clawed(amounts, step=2, reversed_after=40 + credited))


async def test_a_reversal_says_what_is_taken_and_owed(owner: Owner) -> None:
    for amount in (40, 80, 60):
        legs = {USER: -40, TREASURY: 60, DEBT: -20}
        taken = await owner.clawed(legs, amount)
        if amount == 60:
            await owner.insert(taken)
        else:
            await owner.is_refused("reversal_law", "its amount is not what its transaction moves", taken)


# What is moved by an owner who owes 60, and how the database answers; nothing where it accepts.
MOVED: Final[dict[str, tuple[TransactionType, Legs, str]]] = {
    "a repayment": (REPAYMENT, {USER: -40, DEBT: 40}, ""),
    "a repayment by the treasury": (REPAYMENT, {TREASURY: -40, DEBT: 40}, "entry_law_shape"),
    "a repayment to the treasury": (REPAYMENT, {USER: -40, TREASURY: 40}, "entry_law_shape"),
    "a repayment that lends": (REPAYMENT, {USER: 40, DEBT: -40}, "entry_law_shape"),
    "a repayment with a third leg": (REPAYMENT, {USER: -40, TREASURY: 20, DEBT: 20}, "entry_law_shape"),
    "a repayment of another amount": (REPAYMENT, {USER: -40, DEBT: 20}, "entry_law_balanced"),
    "a forfeit": (FORFEIT, {USER: -40, TREASURY: 40}, ""),
    "a forfeit of a debt": (FORFEIT, {TREASURY: -60, DEBT: 60}, ""),
    "a forfeit that gives": (FORFEIT, {USER: 40, TREASURY: -40}, "entry_law_shape"),
    "a forfeit that makes a debt": (FORFEIT, {TREASURY: 60, DEBT: -60}, "entry_law_shape"),
    "a forfeit that repays": (FORFEIT, {USER: -40, DEBT: 40}, "entry_law_shape"),
    "a forfeit of both at once": (FORFEIT, {USER: -40, TREASURY: -20, DEBT: 60}, "entry_law_shape"),
    "a forfeit to clearing": (FORFEIT, {USER: -40, CLEARING: 40}, "entry_law_shape"),
    "a spend that is owed": (TransactionType.SPEND, {TREASURY: 20, DEBT: -20}, "entry_law_shape"),
    "a top-up that repays": (TransactionType.TOP_UP, {TREASURY: -20, DEBT: 20}, "entry_law_shape"),
}  # fmt: skip


@pytest.mark.parametrize("case", MOVED)
async def test_who_owes_can_have(owner: Owner, case: str) -> None:
    await owner.owes(60)
    type_, legs, constraint = MOVED[case]
    made = await owner.moved(type_, legs)
    if constraint:
        await owner.is_refused(constraint, "", made)
    else:
        await owner.insert(made)


@pytest.mark.parametrize("type_", [REPAYMENT, FORFEIT])
async def test_a_debt_is_never_above_zero(owner: Owner, type_: TransactionType) -> None:
    payer = USER if type_ is REPAYMENT else TREASURY
    never_owed = await owner.moved(type_, {payer: -1, DEBT: 1})
    await owner.is_refused("entry_law_chain", "a debt is never above zero", never_owed)
    await owner.owes(30)
    too_much = await owner.moved(type_, {payer: -31, DEBT: 31})
    await owner.is_refused("entry_law_chain", "a debt is never above zero", too_much)
    await owner.insert(await owner.moved(type_, {payer: -30, DEBT: 30}))


@pytest.mark.parametrize(
    ("type_", "legs"),
    [
        (CLAWBACK, {USER: -20, TREASURY: 60, DEBT: -40}),
        (CLAWBACK, {TREASURY: 60, DEBT: -60}),
        (REPAYMENT, {USER: -20, DEBT: 20}),
        (FORFEIT, {TREASURY: -20, DEBT: 20}),
    ],
    ids=["a clawback", "a clawback that takes nothing", "a repayment", "a forfeit"],
)
async def test_a_debt_of_another_owner_is_not_touched_by(owner: Owner, type_: TransactionType, legs: Legs) -> None:
    other = await new_owner(owner.ledger, owner.connection, 100)
    await other.owes(60)
    made = await owner.moved(type_, legs, debtor=other.name.owner_id)
    if type_ is CLAWBACK:
        made = made.reversing(owner.top_up, 60)
    await owner.is_refused("entry_law_chain", "it is a debt of another owner", made)


async def test_states_follow_each_other(owner: Owner) -> None:
    first = await owner.state(OUT)
    second = first.followed(ALL, first.at + SECOND, until=first.at + 5 * SECOND)
    # A freeze that ended by itself, and then a debt.
    third = second.followed(OPEN, second.at + 9 * SECOND, since=second.until, debt_wallet_id=await owner.debt_wallet())
    fourth = third.followed(OUT, third.at + SECOND)
    await insert_states(owner.connection, first, second, third, fourth)


async def test_a_first_debt_leaves_a_wallet_open_as_ever(owner: Owner) -> None:
    row = await owner.state(OPEN, debt_wallet_id=await owner.debt_wallet())
    await insert_states(owner.connection, row.saying(since=row.at - SECOND))


async def test_a_state_of_no_owner_s_wallet_is_refused(owner: Owner) -> None:
    wallets = [await owner.debt_wallet(), (await account_of(owner.connection, SHARD, "0", kind=TREASURY)).wallet_id]
    for wallet_id in (*wallets, 10**12):
        await owner.is_no_state(await owner.state(wallet_id=wallet_id), "it is not an owner's wallet")


async def test_a_gap_in_the_chain_is_refused(owner: Owner) -> None:
    first = await owner.state()
    second = first.followed(OPEN, first.at)
    await owner.is_no_state(second, "the state before it is missing")
    await insert_states(owner.connection, first)
    await owner.is_no_state(second.saying(step=3), "the state before it is missing")
    async with refused(owner.connection, UNIQUE_VIOLATION, "wallet_state_pkey"), owner.connection.transaction():
        await insert_states(owner.connection, first)


@pytest.mark.parametrize("status", [OUT, ALL])
async def test_a_closed_wallet_is_not_frozen(owner: Owner, status: WalletStatus) -> None:
    await owner.insert(await owner.moved(FORFEIT, {USER: -40, TREASURY: 40}))
    shut = await owner.state(CLOSED)
    await insert_states(owner.connection, shut)
    await owner.is_no_state(shut.followed(status, shut.at), "a closed wallet can only be opened again")
    # A debt that comes about afterwards leaves it closed.
    owing = shut.followed(CLOSED, shut.at, debt_wallet_id=await owner.debt_wallet())
    await insert_states(owner.connection, owing, owing.followed(OPEN, shut.at))


NOT_EMPTY: Final = "a wallet with credits, holds or debts cannot be closed"


async def test_a_wallet_with_credits_is_not_closed(owner: Owner) -> None:
    shut = await owner.state(CLOSED)
    await owner.is_no_state(shut, NOT_EMPTY)
    await owner.insert(await owner.moved(FORFEIT, {USER: -39, TREASURY: 39}))
    await owner.is_no_state(shut, NOT_EMPTY)
    await owner.insert(await owner.moved(FORFEIT, {USER: -1, TREASURY: 1}))
    await insert_states(owner.connection, shut)


async def test_a_wallet_with_credits_in_another_asset_is_not_closed(owner: Owner) -> None:
    assert isinstance(await post(owner.ledger, "top_up", owner.name.owner_id, 1, asset_code="DIAMOND"), Posted)
    await owner.insert(await owner.moved(FORFEIT, {USER: -40, TREASURY: 40}))
    await owner.is_no_state(await owner.state(CLOSED), NOT_EMPTY)


async def test_a_wallet_with_holds_is_not_closed(owner: Owner) -> None:
    held(await place_hold(owner.ledger, place(owner.name.owner_id, 40)))
    await owner.is_no_state(await owner.state(CLOSED), NOT_EMPTY)


async def test_a_wallet_with_debts_is_not_closed(owner: Owner) -> None:
    await owner.insert(await owner.moved(FORFEIT, {USER: -40, TREASURY: 40}))
    await owner.owes(60)
    owing = await owner.state(OPEN, debt_wallet_id=await owner.debt_wallet())
    # Whether the debt is named before or at the same time.
    await owner.is_no_state(owing.saying(status=CLOSED), NOT_EMPTY)
    await insert_states(owner.connection, owing)
    await owner.is_no_state(owing.followed(CLOSED, owing.at), NOT_EMPTY)
    await owner.insert(await owner.moved(FORFEIT, {TREASURY: -60, DEBT: 60}))
    await insert_states(owner.connection, owing.followed(CLOSED, owing.at))


async def test_the_wallet_of_debts_never_changes(owner: Owner) -> None:
    assert owner.other is not None
    first = await owner.state(debt_wallet_id=await owner.debt_wallet())
    await insert_states(owner.connection, first)
    for debt_wallet_id in (None, await owner.other.debt_wallet()):
        row = first.followed(OPEN, first.at, debt_wallet_id=debt_wallet_id)
        await owner.is_no_state(row, "the wallet of its debts never changes")
    await insert_states(owner.connection, first.followed(OPEN, first.at))


async def test_debts_are_in_a_wallet_of_the_owner(owner: Owner) -> None:
    assert owner.other is not None
    first = await owner.state()
    for wallet_id in (await owner.other.debt_wallet(), first.wallet_id, 10**12):
        row = first.saying(debt_wallet_id=wallet_id)
        await owner.is_no_state(row, "the wallet of its debts is not one of its owner")


# A second state after a freeze for five seconds, and whether it says truly since when it is so.
SINCE: Final[dict[str, tuple[Callable[[StateRow], StateRow], bool]]] = {
    "from now on": (lambda it: it.followed(OPEN, it.at + SECOND), True),
    "as before": (lambda it: it.followed(OUT, it.at + SECOND, since=it.since), True),
    "from when the freeze ended": (lambda it: it.followed(OPEN, it.at + 9 * SECOND, since=it.until), True),
    "from before, but another status": (lambda it: it.followed(ALL, it.at + SECOND, since=it.since), False),
    "from before, but open again": (lambda it: it.followed(OPEN, it.at + SECOND, since=it.since), False),
    "frozen from when the freeze ended": (lambda it: it.followed(ALL, it.at + 9 * SECOND, since=it.until), False),
    "from when the freeze will have ended": (lambda it: it.followed(OPEN, it.at + SECOND, since=it.until), False),
    "from another time": (lambda it: it.followed(OPEN, it.at + 9 * SECOND, since=it.at + SECOND), False),
    "from the future": (lambda it: it.followed(OPEN, it.at, since=it.at + SECOND), False),
}


@pytest.mark.parametrize("case", SINCE)
async def test_a_state_is_since(owner: Owner, case: str) -> None:
    first = await owner.state(OUT)
    first = first.saying(until=first.at + 5 * SECOND)
    await insert_states(owner.connection, first)
    follow, is_true = SINCE[case]
    if is_true:
        await insert_states(owner.connection, follow(first))
    else:
        await owner.is_no_state(follow(first), "since is not when it came to be so")


@pytest.mark.parametrize("status", [OUT, ALL])
async def test_a_first_freeze_is_since_now(owner: Owner, status: WalletStatus) -> None:
    row = await owner.state(status)
    for since in (row.at - SECOND, row.at + SECOND):
        await owner.is_no_state(row.saying(since=since), "since is not when it came to be so")


CHECKS: Final[dict[str, tuple[dict[str, Any], str]]] = {
    "step 0": ({"step": 0}, "step"),
    "status 0": ({"status": 0}, "status"),
    "status 5": ({"status": 5}, "status"),
    "a note that is too long": ({"note": "x" * 501}, "note"),
}


@pytest.mark.parametrize("case", CHECKS)
async def test_a_state_is_refused_with(owner: Owner, case: str) -> None:
    columns, check = CHECKS[case]
    await owner.is_no_state(await owner.state(**columns), "", f"wallet_state_{check}_check")


@pytest.mark.parametrize("status", [OPEN, CLOSED])
async def test_only_a_freeze_ends_by_itself(owner: Owner, status: WalletStatus) -> None:
    row = await owner.state(status)
    await owner.is_no_state(row.saying(until=row.at + SECOND), "", "wallet_state_until_check")


@pytest.mark.parametrize("column", ["since", "at", "until"])
@pytest.mark.parametrize("value", ["infinity", "-infinity"])
async def test_a_state_has_finite_times(owner: Owner, column: str, value: str) -> None:
    row = await owner.state()
    names = StateRow.__dataclass_fields__
    values = ", ".join(f"'{value}'" if name == column else f"${n}" for n, name in enumerate(names, start=1))
    given = [getattr(row, name) if name != column else None for name in names]
    # The place of what is written out is taken by what says of which type it would be.
    unused = f"${list(names).index(column) + 1}::timestamptz IS NULL"
    statement = f"INSERT INTO wallet_state ({', '.join(names)}) SELECT {values} WHERE {unused}"
    async with (
        refused(owner.connection, CHECK_VIOLATION, "wallet_state_at_check"),
        owner.connection.transaction(),
    ):
        await owner.connection.execute(statement, *given)
