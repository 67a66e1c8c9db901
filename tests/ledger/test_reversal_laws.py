"""The database refuses every broken refund and clawback, whoever writes it: by SQL as the serving role."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final
from uuid import UUID

import pytest
from asyncpg import Connection
from batches import new_owner_in
from direct import Movement, ReversalRow, Rows, insert_rows, movement, refused
from factories import balance, post
from uuid_utils.compat import uuid7

from wallet_gql.domain.postings import Posted, RequestKind, TransactionType, fingerprint
from wallet_gql.domain.wallets import OwnerName
from wallet_gql.operations.opening import Ledger

CHECK_VIOLATION: Final = "23514"
UNIQUE_VIOLATION: Final = "23505"

REFUND, CLAWBACK = TransactionType.REFUND, TransactionType.CLAWBACK
SHARD: Final = 1


@dataclass(frozen=True, slots=True)
class Reversing:
    """The rows of a refund or a clawback."""

    moved: Movement
    reversal: ReversalRow

    def of_type(self, type_: int) -> "Reversing":
        return replace(self, moved=self.moved.altered(type=type_).of_transaction(type=type_))

    def saying(self, **columns: Any) -> "Reversing":
        """Change columns of the reversal's own row."""
        return replace(self, reversal=replace(self.reversal, **columns))


def rows_of(*reversing: Reversing) -> Rows:
    return Rows(
        [each.moved.transaction for each in reversing],
        [leg for each in reversing for leg in (each.moved.user, each.moved.treasury)],
        [each.moved.key for each in reversing],
        [each.reversal for each in reversing],
    )


class Owner:
    """An owner with 100 GOLD and a spend of 60, a top-up of 60 before it, and what may be reversed next."""

    def __init__(self, ledger: Ledger, connection: Connection, name: OwnerName, top_up: UUID, spend: UUID) -> None:
        self.ledger = ledger
        self.connection = connection
        self.name = name
        self.top_up = top_up
        self.spend = spend

    async def reversing(
        self, amount: int, original: UUID | None = None, *, asset: str = "GOLD", slot: int = 40, **reversal: Any
    ) -> Reversing:
        """Return a valid first refund of the spend; of the top-up a clawback, where the amount is negative."""
        moved = await movement(self.connection, *self.name, amount, asset=asset, slot=slot)
        original = original or (self.spend if amount > 0 else self.top_up)
        row = ReversalRow(SHARD, original, 1, moved.transaction.id, abs(amount), abs(amount))
        kind = RequestKind.REFUND if amount > 0 else RequestKind.CLAWBACK
        asked = fingerprint(kind, asset, abs(amount), None, None, ("original", str(original)))
        type_ = REFUND if amount > 0 else CLAWBACK
        return Reversing(moved.of_key(fingerprint=asked), replace(row, **reversal)).of_type(type_)

    async def balance(self) -> int:
        return await balance(self.ledger, self.name.owner_id)


async def new_owner(ledger: Ledger, connection: Connection) -> Owner:
    owner_id = await new_owner_in(ledger, SHARD, gold=40)
    outcomes = [await post(ledger, "top_up", owner_id, 60), await post(ledger, "spend", owner_id, 60)]
    ids = [outcome.transaction.id for outcome in outcomes if isinstance(outcome, Posted)]
    return Owner(ledger, connection, OwnerName(SHARD, owner_id), *ids)


@pytest.fixture
async def owner(ledger: Ledger, server_connection: Connection) -> Owner:
    return await new_owner(ledger, server_connection)


async def test_valid_reversals_pass_until_all_is_reversed(owner: Owner) -> None:
    await insert_rows(owner.connection, rows_of(await owner.reversing(25)))
    await insert_rows(owner.connection, rows_of(await owner.reversing(35, step=2, reversed_after=60)))
    await insert_rows(owner.connection, rows_of(await owner.reversing(-60)))
    assert await owner.balance() == 40


async def test_two_steps_in_one_statement_pass_in_any_order(owner: Owner) -> None:
    first = await owner.reversing(25)
    # In another slot, so that only the owner's account is common to both.
    second = await owner.reversing(35, slot=41, step=2, reversed_after=60)
    user = first.moved.user
    second = replace(
        second, moved=second.moved.altered("user", seq=user.seq + 1, balance_after=user.balance_after + 35)
    )
    await insert_rows(owner.connection, rows_of(second, first))
    assert await owner.balance() == 100


# What is altered of a valid refund of 25, and how the database answers.
ALTERED: Final[dict[str, tuple[Callable[[Reversing], Rows], str, str]]] = {
    "a refund that names no original": (
        lambda r: replace(rows_of(r), reversals=()), "transaction_law_reversal", "reverses nothing",
    ),
    "a refund whose reversal is another's": (
        lambda r: rows_of(r.saying(transaction_id=uuid7())), "reversal_law", "one of its transactions does not exist",
    ),
    "a reversal without its transaction": (
        lambda r: Rows(reversals=[r.reversal]), "reversal_law", "one of its transactions does not exist",
    ),
    "an original that does not exist": (
        lambda r: rows_of(r.saying(original_id=uuid7())), "reversal_law", "one of its transactions does not exist",
    ),
    "an original that is itself": (
        lambda r: rows_of(r.saying(original_id=r.moved.transaction.id)),
        "reversal_law", "type 7 does not reverse type 7",
    ),
    "another amount than its transaction moves": (
        lambda r: rows_of(r.saying(amount=24, reversed_after=24)), "reversal_law", "is not what its transaction moves",
    ),
    "a sum that is too small": (
        lambda r: rows_of(r.saying(reversed_after=24)), "reversal_law", "reversed_after is not what was reversed",
    ),
    "a sum that is too large": (
        lambda r: rows_of(r.saying(reversed_after=26)), "reversal_law", "reversed_after is not what was reversed",
    ),
    "a second step without the first": (
        lambda r: rows_of(r.saying(step=2)), "reversal_law", "the step before it is missing",
    ),
    "step 0": (lambda r: rows_of(r.saying(step=0)), "reversal_step_check", ""),
    "a step beyond the bound": (lambda r: rows_of(r.saying(step=51)), "reversal_step_check", ""),
    "an amount of 0": (lambda r: rows_of(r.saying(amount=0)), "reversal_amount_check", ""),
    "a top-up that reverses": (
        lambda r: rows_of(r.of_type(TransactionType.TOP_UP)), "reversal_law", "type 1 does not reverse type 3",
    ),
    "a clawback of a spend": (
        lambda r: rows_of(r.of_type(CLAWBACK)), "reversal_law", "type 8 does not reverse type 3",
    ),
}  # fmt: skip


@pytest.mark.parametrize("altered", ALTERED)
async def test_a_refund_is_refused_with(owner: Owner, altered: str) -> None:
    alter, constraint, message = ALTERED[altered]
    rows = alter(await owner.reversing(25))
    async with refused(owner.connection, CHECK_VIOLATION, constraint, message):
        await insert_rows(owner.connection, rows)
    assert await owner.balance() == 40


@pytest.mark.parametrize("amount", [61, -61], ids=["refund", "clawback"])
async def test_more_than_the_original_moved_is_refused(owner: Owner, amount: int) -> None:
    await post(owner.ledger, "top_up", owner.name.owner_id, 100)
    rows = rows_of(await owner.reversing(amount))
    async with refused(owner.connection, CHECK_VIOLATION, "reversal_law", "more is reversed than the original moved"):
        await insert_rows(owner.connection, rows)


@pytest.mark.parametrize("amount", [36, -36], ids=["refund", "clawback"])
async def test_parts_that_exceed_the_original_together_are_refused(owner: Owner, amount: int) -> None:
    await post(owner.ledger, "top_up", owner.name.owner_id, 100)
    part = 25 if amount > 0 else -25
    await insert_rows(owner.connection, rows_of(await owner.reversing(part)))
    rows = rows_of(await owner.reversing(amount, step=2, reversed_after=61))
    async with refused(owner.connection, CHECK_VIOLATION, "reversal_law", "more is reversed than the original moved"):
        await insert_rows(owner.connection, rows)


async def test_a_second_first_step_is_refused(owner: Owner) -> None:
    await insert_rows(owner.connection, rows_of(await owner.reversing(25)))
    rows = rows_of(await owner.reversing(25))
    async with refused(owner.connection, UNIQUE_VIOLATION, "reversal_pkey"):
        await insert_rows(owner.connection, rows)
    assert await owner.balance() == 65


async def test_one_transaction_that_reverses_two_is_refused(owner: Owner) -> None:
    other = await post(owner.ledger, "spend", owner.name.owner_id, 30)
    assert isinstance(other, Posted)
    reversing = await owner.reversing(25)
    rows = rows_of(reversing)
    twice = replace(rows, reversals=[reversing.reversal, replace(reversing.reversal, original_id=other.transaction.id)])
    async with refused(owner.connection, UNIQUE_VIOLATION, "reversal_shard_transaction_id_key"):
        await insert_rows(owner.connection, twice)


@pytest.mark.parametrize("amount", [25, -25], ids=["refund", "clawback"])
async def test_what_another_owner_moved_is_not_reversed(owner: Owner, amount: int) -> None:
    other = await new_owner(owner.ledger, owner.connection)
    rows = rows_of(await owner.reversing(amount, other.spend if amount > 0 else other.top_up))
    async with refused(owner.connection, CHECK_VIOLATION, "reversal_law", "its transactions are not of one account"):
        await insert_rows(owner.connection, rows)


async def test_what_was_moved_in_another_asset_is_not_reversed(owner: Owner) -> None:
    rows = rows_of(await owner.reversing(25, asset="DIAMOND"))
    async with refused(owner.connection, CHECK_VIOLATION, "reversal_law", "its transactions are not of one account"):
        await insert_rows(owner.connection, rows)


@pytest.mark.parametrize(
    ("amount", "original", "message"),
    [(25, "top_up", "type 7 does not reverse type 1"), (-25, "spend", "type 8 does not reverse type 3")],
    ids=["a refund of a top-up", "a clawback of a spend"],
)
async def test_a_type_reverses_only_its_own_kind(owner: Owner, amount: int, original: str, message: str) -> None:
    rows = rows_of(await owner.reversing(amount, getattr(owner, original)))
    async with refused(owner.connection, CHECK_VIOLATION, "reversal_law", message):
        await insert_rows(owner.connection, rows)


@pytest.mark.parametrize(
    ("amount", "original", "type_"),
    [(-25, "spend", REFUND), (25, "top_up", CLAWBACK)],
    ids=["a refund that takes", "a clawback that gives"],
)
async def test_a_type_moves_only_its_own_way(owner: Owner, amount: int, original: str, type_: int) -> None:
    rows = rows_of((await owner.reversing(amount, getattr(owner, original))).of_type(type_))
    async with refused(owner.connection, CHECK_VIOLATION, "entry_law_shape", "does not have the legs of type"):
        await insert_rows(owner.connection, rows)
