"""Writes to the books by SQL, past the ledger's own code: what its laws must refuse, and what its proof must find."""

from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
from asyncpg import Connection
from uuid_utils.compat import uuid7

from wallet_gql.db.grants import RIGHTS, WRITTEN_BY_MIGRATIONS
from wallet_gql.domain.postings import RequestKind, TransactionType, fingerprint
from wallet_gql.domain.wallets import OwnerName, WalletKind

# What the serving role appends to, and what it only reads: the ledger's tables.
TABLES = tuple(table for table in RIGHTS if table not in {"alembic_version", "api_key"})
APPENDED = tuple(table for table in TABLES if table not in WRITTEN_BY_MIGRATIONS)

_INSERT = """
WITH new_transaction AS (
  INSERT INTO public.transaction (shard, id, type, wallet_id, executed_at, idempotency_key, description{columns})
  SELECT * FROM unnest($1::smallint[], $2::uuid[], $3::smallint[], $4::bigint[], $5::timestamptz[], $6::uuid[],
                       $7::text[]{arrays})
), new_entry AS (
  INSERT INTO public.entry (shard, account_id, seq, transaction_id, type, amount, balance_after, may_go_negative,
                            executed_at)
  SELECT * FROM unnest($8::smallint[], $9::bigint[], $10::bigint[], $11::uuid[], $12::smallint[], $13::bigint[],
                       $14::bigint[], $15::boolean[], $16::timestamptz[])
){reversals}
INSERT INTO public.idempotency_key (shard, wallet_id, key, fingerprint, outcome, transaction_id, details)
SELECT * FROM unnest($17::smallint[], $18::bigint[], $19::uuid[], $20::bytea[], $21::smallint[], $22::uuid[],
                     $23::jsonb[])
"""


@dataclass(frozen=True, slots=True)
class Account:
    """An account and its last entry."""

    shard: int
    wallet_id: int
    id: int
    may_go_negative: bool
    seq: int
    balance: int
    executed_at: datetime


@dataclass(frozen=True, slots=True)
class TransactionRow:
    shard: int
    id: UUID
    type: int
    wallet_id: int
    executed_at: datetime
    idempotency_key: UUID | None
    description: str | None = None
    counterpart_shard: int | None = None
    counterpart_id: UUID | None = None


_TRANSACTION_COLUMNS = tuple(TransactionRow.__dataclass_fields__)


@dataclass(frozen=True, slots=True)
class EntryRow:
    shard: int
    account_id: int
    seq: int
    transaction_id: UUID
    type: int
    amount: int
    balance_after: int
    may_go_negative: bool
    executed_at: datetime


@dataclass(frozen=True, slots=True)
class KeyRow:
    shard: int
    wallet_id: int
    key: UUID
    fingerprint: bytes
    outcome: int
    transaction_id: UUID
    details: str | None = None


@dataclass(frozen=True, slots=True)
class ReversalRow:
    shard: int
    original_id: UUID
    step: int
    transaction_id: UUID
    amount: int
    reversed_after: int


@dataclass(frozen=True, slots=True)
class Movement:
    """The rows of one posting."""

    transaction: TransactionRow
    user: EntryRow
    treasury: EntryRow
    key: KeyRow

    def altered(self, *legs: str, **columns: Any) -> "Movement":
        """Change columns of the legs that are named, or of both."""
        return replace(self, **{leg: replace(getattr(self, leg), **columns) for leg in legs or ("user", "treasury")})

    def of_transaction(self, **columns: Any) -> "Movement":
        """Change columns of the transaction's own row."""
        return replace(self, transaction=replace(self.transaction, **columns))

    def of_key(self, **columns: Any) -> "Movement":
        """Change columns of the key's row."""
        return replace(self, key=replace(self.key, **columns))


@dataclass(frozen=True, slots=True)
class Half:
    """The rows of what a transfer does to one of its owners."""

    transaction: TransactionRow
    user: EntryRow
    clearing: EntryRow

    def altered(self, *legs: str, **columns: Any) -> "Half":
        """Change columns of the legs that are named, or of both."""
        return replace(self, **{leg: replace(getattr(self, leg), **columns) for leg in legs or ("user", "clearing")})

    def of_transaction(self, **columns: Any) -> "Half":
        """Change columns of the transaction's own row."""
        return replace(self, transaction=replace(self.transaction, **columns))


@dataclass(frozen=True, slots=True)
class Transfer:
    """The rows of one transfer; the key is the sender's."""

    sent: Half
    received: Half
    key: KeyRow

    def of_sent(self, alter: Callable[[Half], Half]) -> "Transfer":
        """Change the sender's half."""
        return replace(self, sent=alter(self.sent))

    def of_received(self, alter: Callable[[Half], Half]) -> "Transfer":
        """Change the receiver's half."""
        return replace(self, received=alter(self.received))


async def account_of(
    connection: Connection, shard: int, owner_id: str, asset: str = "GOLD", kind: WalletKind = WalletKind.USER
) -> Account:
    """Return an account, opened if need be, as it stands now."""
    names = (shard, int(kind), owner_id)
    if kind is not WalletKind.USER:
        await connection.execute(
            "INSERT INTO wallet (shard, kind, owner_id) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING", *names
        )
    await connection.execute(
        "INSERT INTO account (shard, wallet_id, wallet_kind, asset_id, may_go_negative)"
        " SELECT w.shard, w.id, w.kind, a.id, w.kind <> 1 FROM wallet w, asset a"
        " WHERE (w.shard, w.kind, w.owner_id, a.code) = ($1, $2, $3, $4) ON CONFLICT DO NOTHING",
        *names,
        asset,
    )
    row = await connection.fetchrow(
        "SELECT a.shard, a.wallet_id, a.id, a.may_go_negative, coalesce(e.seq, 0), coalesce(e.balance_after, 0),"
        "       coalesce(e.executed_at, 'epoch')"
        "  FROM wallet w JOIN account a ON (a.shard, a.wallet_id) = (w.shard, w.id) JOIN asset s ON s.id = a.asset_id"
        "  LEFT JOIN entry e ON (e.shard, e.account_id) = (a.shard, a.id)"
        " WHERE (w.shard, w.kind, w.owner_id, s.code) = ($1, $2, $3, $4) ORDER BY e.seq DESC NULLS LAST LIMIT 1",
        *names,
        asset,
    )
    return Account(*row)


async def movement(
    connection: Connection,
    shard: int,
    owner_id: str,
    amount: int,
    *,
    asset: str = "GOLD",
    slot: int | str = 0,
    executed_at: datetime | None = None,
    after: Sequence[Movement] = (),
) -> Movement:
    """Return the rows of a valid posting, a spend when `amount` is negative, that follows those in `after`."""
    user = await account_of(connection, shard, owner_id, asset)
    treasury = await account_of(connection, shard, str(slot), asset, WalletKind.TREASURY)
    for row in (row for before in after for row in (before.user, before.treasury)):
        if row.account_id == user.id:
            user = replace(user, seq=row.seq, balance=row.balance_after, executed_at=row.executed_at)
        if row.account_id == treasury.id:
            treasury = replace(treasury, seq=row.seq, balance=row.balance_after, executed_at=row.executed_at)
    now = await connection.fetchval("SELECT clock_timestamp()")
    at = max(executed_at or now, user.executed_at, treasury.executed_at)
    type_ = TransactionType.SPEND if amount < 0 else TransactionType.TOP_UP
    transaction = TransactionRow(shard, uuid7(), int(type_), user.wallet_id, at, uuid4())

    def leg(account: Account, amount: int) -> EntryRow:
        return EntryRow(
            shard, account.id, account.seq + 1, transaction.id, transaction.type, amount, account.balance + amount,
            account.may_go_negative, at,
        )  # fmt: skip

    assert transaction.idempotency_key is not None
    key = KeyRow(
        shard,
        user.wallet_id,
        transaction.idempotency_key,
        fingerprint(type_, asset, abs(amount), None, None),
        1,
        transaction.id,
    )
    return Movement(transaction, leg(user, amount), leg(treasury, -amount), key)


async def transfer(
    connection: Connection,
    sender: OwnerName,
    receiver: OwnerName,
    amount: int,
    *,
    asset: str = "GOLD",
    line: int | str = 0,
    after: Sequence[Transfer] = (),
) -> Transfer:
    """Return the rows of a valid transfer that follows those in `after`."""
    heads: dict[tuple[OwnerName, WalletKind], Account] = {}
    for owner in (sender, receiver):
        heads[owner, WalletKind.USER] = await account_of(connection, *owner, asset)
        clearing = OwnerName(owner.shard, str(line))
        heads[clearing, WalletKind.CLEARING] = await account_of(connection, *clearing, asset, WalletKind.CLEARING)
    for row in (
        row for before in after for half in (before.sent, before.received) for row in (half.user, half.clearing)
    ):
        for name, head in heads.items():
            if (row.shard, row.account_id) == (head.shard, head.id):
                heads[name] = replace(head, seq=row.seq, balance=row.balance_after, executed_at=row.executed_at)
    now = await connection.fetchval("SELECT clock_timestamp()")
    at = max(now, *(heads[owner, WalletKind.USER].executed_at for owner in (sender, receiver)))
    key, sent_id, received_id = uuid4(), uuid7(), uuid7()

    def half(owner: OwnerName, type_: TransactionType, id_: UUID, other: OwnerName, other_id: UUID) -> Half:
        names = ((owner, WalletKind.USER), (OwnerName(owner.shard, str(line)), WalletKind.CLEARING))
        wallet_id = heads[names[0]].wallet_id
        of_sender = key if type_ is TransactionType.TRANSFER_OUT else None
        row = TransactionRow(owner.shard, id_, int(type_), wallet_id, at, of_sender, None, other.shard, other_id)
        legs = []
        for name, moved in zip(names, (type_.sign * amount, -type_.sign * amount), strict=True):
            head = heads[name]
            balance = head.balance + moved
            legs.append(EntryRow(owner.shard, head.id, head.seq + 1, id_, row.type, moved, balance,
                                 head.may_go_negative, at))  # fmt: skip
            heads[name] = replace(head, seq=head.seq + 1, balance=balance)
        return Half(row, *legs)

    sent = half(sender, TransactionType.TRANSFER_OUT, sent_id, receiver, received_id)
    received = half(receiver, TransactionType.TRANSFER_IN, received_id, sender, sent_id)
    asked = fingerprint(RequestKind.TRANSFER, asset, amount, None, None, ("to", receiver.owner_id))
    return Transfer(sent, received, KeyRow(sender.shard, sent.transaction.wallet_id, key, asked, 1, sent_id))


@dataclass(frozen=True, slots=True)
class Rows:
    """What one statement inserts."""

    transactions: Sequence[TransactionRow] = field(default=())
    entries: Sequence[EntryRow] = field(default=())
    keys: Sequence[KeyRow] = field(default=())
    reversals: Sequence[ReversalRow] = field(default=())


async def insert_rows(connection: Connection, rows: Rows) -> None:
    """Insert by one statement, as the ledger does."""
    own, counterpart = _TRANSACTION_COLUMNS[:-2], _TRANSACTION_COLUMNS[-2:]
    tables: list[tuple[Sequence[object], Iterable[str]]] = [
        (rows.transactions, own),
        (rows.entries, EntryRow.__dataclass_fields__),
        (rows.keys, KeyRow.__dataclass_fields__),
    ]
    # Only where a row has one: an earlier version has no such columns and no such table.
    more = dict.fromkeys(("columns", "arrays", "reversals"), "")
    if any(getattr(row, name) is not None for row in rows.transactions for name in counterpart):
        tables.append((rows.transactions, counterpart))
        more |= {"columns": ", counterpart_shard, counterpart_id", "arrays": ", $24::smallint[], $25::uuid[]"}
    if rows.reversals:
        first = sum(len(tuple(names)) for _, names in tables) + 1
        tables.append((rows.reversals, ReversalRow.__dataclass_fields__))
        types = ("smallint", "uuid", "integer", "uuid", "bigint", "bigint")
        arrays = ", ".join(f"${n}::{type_}[]" for n, type_ in enumerate(types, start=first))
        names = ", ".join(ReversalRow.__dataclass_fields__)
        more["reversals"] = f", new_reversal AS (INSERT INTO public.reversal ({names}) SELECT * FROM unnest({arrays}))"
    columns = [[getattr(row, name) for row in table] for table, names in tables for name in names]
    await connection.execute(_INSERT.format(**more), *columns)


async def insert(connection: Connection, *movements: Movement) -> None:
    """Insert whole postings by one statement."""
    await insert_rows(
        connection,
        Rows(
            [moved.transaction for moved in movements],
            [leg for moved in movements for leg in (moved.user, moved.treasury)],
            [moved.key for moved in movements],
        ),
    )


def rows_of(*transfers: Transfer) -> Rows:
    """Return all rows of transfers."""
    halves = [half for made in transfers for half in (made.sent, made.received)]
    return Rows(
        [half.transaction for half in halves],
        [leg for half in halves for leg in (half.user, half.clearing)],
        [made.key for made in transfers],
    )


async def without_laws(connection: Connection, *statements: str) -> None:
    """Run statements that neither guards, laws nor foreign keys see, and switch these on again: as a superuser."""
    async with connection.transaction():
        triggers = await connection.fetch(
            "SELECT tgrelid::regclass::text, tgname FROM pg_trigger WHERE tgenabled = 'A' AND NOT tgisinternal"
        )
        for table in TABLES:
            await connection.execute(f"ALTER TABLE {table} DISABLE TRIGGER ALL")
        for statement in statements:
            await connection.execute(statement)
        for table in TABLES:
            await connection.execute(f"ALTER TABLE {table} ENABLE TRIGGER ALL")
        for table, trigger in triggers:
            await connection.execute(f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER {trigger}")


async def count_rows(connection: Connection) -> dict[str, int]:
    """Return how many rows each table has."""
    return {table: await connection.fetchval(f"SELECT count(*) FROM {table}") for table in TABLES}


@asynccontextmanager
async def refused(
    connection: Connection, sqlstate: str, constraint: str | None = None, message: str = ""
) -> AsyncIterator[None]:
    """Expect the database to refuse what the block does, for exactly this reason, and to change nothing."""
    before = await count_rows(connection)
    with pytest.raises(asyncpg.PostgresError) as caught:
        yield
    error = caught.value
    assert (error.sqlstate, getattr(error, "constraint_name", None)) == (sqlstate, constraint), error
    assert message in str(error)
    assert await count_rows(connection) == before
