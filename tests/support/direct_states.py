"""Debts and states of wallets written by SQL, past the ledger's own code: legs of any kind, and states."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final, Self
from uuid import UUID

from asyncpg import Connection
from direct import EntryRow, ReversalRow, Rows, TransactionRow, account_of, insert_rows
from uuid_utils.compat import uuid7

from wallet_gql.domain.postings import TransactionType
from wallet_gql.domain.wallets import OwnerName, WalletKind

SLOT: Final = "50"
"""The stripes that these rows use: the service uses others."""


@dataclass(frozen=True, slots=True)
class Moved:
    """The rows of one transaction, with legs of any kind; without a key, for no law asks for one."""

    transaction: TransactionRow
    legs: Mapping[WalletKind, EntryRow]
    reversal: ReversalRow | None = None

    def of_transaction(self, **columns: Any) -> Self:
        """Change columns of the transaction's own row."""
        return replace(self, transaction=replace(self.transaction, **columns))

    def of_leg(self, kind: WalletKind, **columns: Any) -> Self:
        """Change columns of a leg."""
        return replace(self, legs={**self.legs, kind: replace(self.legs[kind], **columns)})

    def reversing(self, original: UUID, amount: int, **columns: Any) -> Self:
        """Add that it is the first that reverses an original."""
        row = ReversalRow(self.transaction.shard, original, 1, self.transaction.id, amount, amount)
        return replace(self, reversal=replace(row, **columns))


async def moved(
    connection: Connection,
    owner: OwnerName,
    type_: TransactionType,
    legs: Mapping[WalletKind, int],
    *,
    debtor: str | None = None,
) -> Moved:
    """Return a transaction that moves so much of each kind of account; `debtor` is who owes, where another does."""
    names = {WalletKind.USER: owner.owner_id, WalletKind.DEBT: debtor or owner.owner_id}
    own = await account_of(connection, *owner)
    accounts = {
        kind: await account_of(connection, owner.shard, names.get(kind, SLOT), kind=kind)
        for kind in legs
    }  # fmt: skip
    at = max(await connection.fetchval("SELECT clock_timestamp()"), own.executed_at)
    transaction = TransactionRow(owner.shard, uuid7(), type_, own.wallet_id, at, None)
    rows = {
        kind: EntryRow(
            owner.shard, account.id, account.seq + 1, transaction.id, type_, legs[kind], account.balance + legs[kind],
            account.may_go_negative, at,
        )
        for kind, account in accounts.items()
    }  # fmt: skip
    return Moved(transaction, rows)


def halves(taken: Moved, returned: Moved) -> tuple[Moved, Moved]:
    """Let two transactions be halves of one movement, at one time."""
    at, (one, other) = taken.transaction.executed_at, (taken.transaction, returned.transaction)
    returned = replace(returned, legs={kind: replace(leg, executed_at=at) for kind, leg in returned.legs.items()})
    return (
        taken.of_transaction(counterpart_shard=other.shard, counterpart_id=other.id),
        returned.of_transaction(counterpart_shard=one.shard, counterpart_id=one.id, executed_at=at),
    )


async def insert_moved(connection: Connection, *all_moved: Moved) -> None:
    """Insert whole transactions by one statement."""
    await insert_rows(
        connection,
        Rows(
            [each.transaction for each in all_moved],
            [leg for each in all_moved for leg in each.legs.values()],
            (),
            [each.reversal for each in all_moved if each.reversal is not None],
        ),
    )


@dataclass(frozen=True, slots=True)
class StateRow:
    """A row of wallet_state."""

    shard: int
    wallet_id: int
    step: int
    status: int
    since: datetime
    until: datetime | None
    note: str | None
    debt_wallet_id: int | None
    event_id: UUID
    at: datetime

    def followed(self, status: int, at: datetime, **columns: Any) -> Self:
        """Return the state after it: another status from then on."""
        return replace(
            self, step=self.step + 1, status=status, since=at, until=None, event_id=uuid7(), at=at
        ).saying(**columns)  # fmt: skip

    def saying(self, **columns: Any) -> Self:
        """Change columns."""
        return replace(self, **columns)


_INSERT_STATES: Final = f"""
INSERT INTO wallet_state ({", ".join(StateRow.__dataclass_fields__)})
VALUES ({", ".join(f"${n}" for n in range(1, 11))})
"""


async def insert_states(connection: Connection, *rows: StateRow) -> None:
    """Insert states, one after the other."""
    for row in rows:
        await connection.execute(_INSERT_STATES, *(getattr(row, name) for name in StateRow.__dataclass_fields__))
