"""Holds written by SQL, past the ledger's own code: the rows of valid steps, and one statement that inserts them."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from datetime import datetime, timedelta
from typing import Any, Final, Self
from uuid import UUID, uuid4

import orjson
from asyncpg import Connection
from direct import Account, EntryRow, KeyRow, TransactionRow, account_of
from uuid_utils.compat import uuid7

from wallet_gql.domain.holds import TTL_SECONDS_DEFAULT, HoldStepKind
from wallet_gql.domain.postings import RequestKind, TransactionType, fingerprint
from wallet_gql.domain.refusals import OutcomeCode
from wallet_gql.domain.wallets import WalletKind

DAY: Final = timedelta(days=1)
WEEK: Final = timedelta(seconds=TTL_SECONDS_DEFAULT)


@dataclass(frozen=True, slots=True)
class HeldEntryRow(EntryRow):
    held_after: int | None
    held_seq: int | None
    position: int | None
    next_due_at: datetime | None


@dataclass(frozen=True, slots=True)
class HoldRow:
    shard: int
    id: UUID
    account_id: int
    seq: int
    wallet_id: int
    idempotency_key: UUID


@dataclass(frozen=True, slots=True)
class HoldStepRow:
    shard: int
    hold_id: UUID
    step: int
    kind: int
    event_id: UUID
    account_id: int
    seq: int
    amount: int
    captured: int
    released: int
    change: int
    capture_count: int
    held_until: datetime
    at: datetime
    open_holds: tuple[UUID, ...]

    @property
    def remaining(self) -> int:
        return self.amount - self.captured - self.released


@dataclass(frozen=True, slots=True)
class Act:
    """The rows of one thing that happens to an account: an entry, and what there is besides.

    A step where it concerns a hold, the hold where it is placed, a transaction and the treasury's leg where it moves.
    """

    entry: HeldEntryRow | None
    step: HoldStepRow | None = None
    hold: HoldRow | None = None
    transaction: TransactionRow | None = None
    treasury: EntryRow | None = None
    key: KeyRow | None = None

    def altered(self, part: str, **columns: Any) -> Self:
        """Change columns of a part; numbers are given as they are, or as functions of what they were."""
        row = getattr(self, part)
        values = {name: value(getattr(row, name)) if callable(value) else value for name, value in columns.items()}
        return replace(self, **{part: replace(row, **values)})

    def holding(self, more: int) -> Self:
        """Let the entry say that so much more is held."""
        return self.altered("entry", held_after=lambda held: held + more)

    def moving(self, more: int) -> Self:
        """Let the owner pay so much more to the treasury."""
        act = self.altered("entry", amount=lambda it: it - more, balance_after=lambda it: it - more)
        return act.altered("treasury", amount=lambda it: it + more, balance_after=lambda it: it + more)

    def without(self, *parts: str) -> Self:
        """Leave parts out."""
        return replace(self, **dict.fromkeys(parts))

    def only(self, part: str) -> Self:
        """Leave all but one part out."""
        return self.without(*(each.name for each in fields(self) if each.name != part))


# Where each part of an act goes.
_TABLES: Final[Mapping[str, tuple[type[Any], tuple[str, ...]]]] = {
    "transaction": (TransactionRow, ("transaction",)),
    "entry": (HeldEntryRow, ("entry", "treasury")),
    "hold": (HoldRow, ("hold",)),
    "hold_step": (HoldStepRow, ("step",)),
    "idempotency_key": (KeyRow, ("key",)),
}


def _insert(n: int, table: str, row: type[Any]) -> str:
    names = ", ".join(each.name for each in fields(row))
    rows = f"jsonb_populate_recordset(NULL::public.{table}, ${n}::jsonb)"
    return f"new_{table} AS (INSERT INTO public.{table} ({names}) SELECT {names} FROM {rows})"


_STATEMENT: Final = f"""
WITH {", ".join(_insert(n, table, row) for n, (table, (row, _)) in enumerate(_TABLES.items(), start=1))} SELECT
"""


def _columns(row: Any) -> dict[str, Any]:
    """Return a row's values by their columns, which `asdict` would copy one by one."""
    return {name: getattr(row, name) for name in row.__dataclass_fields__}


def _values(row: Any) -> dict[str, Any]:
    """Return a row as JSON has it."""
    values = _columns(row)
    details = values.get("details")
    return values if details is None else {**values, "details": orjson.Fragment(details)}


def _plain(value: object) -> str:
    # What the driver gives as a UUID is one of its own.
    return rf"\x{value.hex()}" if isinstance(value, bytes) else str(value)


async def insert_acts(connection: Connection, *acts: Act) -> None:
    """Insert all rows of acts by one statement, as the ledger does."""
    tables = [
        [_values(row) for act in acts for part in parts if (row := getattr(act, part)) is not None]
        for _, parts in _TABLES.values()
    ]
    await connection.execute(_STATEMENT, *(orjson.dumps(rows, default=_plain).decode() for rows in tables))


class HeldAccount:
    """An owner's account as it is in the books, and the rows of what would happen to it, one act after another.

    Each act follows those that were made before it, so several can be inserted by one statement.
    """

    def __init__(self, owner: Account, treasury: Account, head: HeldEntryRow | None, now: datetime) -> None:
        self.owner = owner
        self.treasury = treasury
        self.now = now
        self.head = head
        """The last entry of an account that has or had holds; the first act makes it."""
        self.steps: dict[UUID, HoldStepRow] = {}
        """The last step of each hold that was read or made, in the order of placement."""

    @classmethod
    async def read(cls, connection: Connection, shard: int, owner_id: str, slot: int) -> Self:
        """Read an account, with all its holds."""
        owner = await account_of(connection, shard, owner_id)
        treasury = await account_of(connection, shard, str(slot), kind=WalletKind.TREASURY)
        columns = ", ".join(each.name for each in fields(HeldEntryRow))
        row = await connection.fetchrow(
            f"SELECT {columns} FROM entry WHERE (shard, account_id, seq) = ($1, $2, $3) AND held_seq IS NOT NULL",
            shard,
            owner.id,
            owner.seq,
        )
        now = await connection.fetchval("SELECT clock_timestamp()")
        account = cls(owner, treasury, None if row is None else HeldEntryRow(*row), max(now, owner.executed_at))
        columns = ", ".join(each.name for each in fields(HoldStepRow))
        for step in await connection.fetch(
            f"SELECT {columns} FROM hold_step WHERE (shard, account_id) = ($1, $2) ORDER BY seq", shard, owner.id
        ):
            account.steps[step["hold_id"]] = HoldStepRow(*step)
        return account

    @property
    def open_holds(self) -> tuple[UUID, ...]:
        return tuple(id_ for id_, step in self.steps.items() if step.remaining)

    def place(self, amount: int, ttl: timedelta = WEEK) -> Act:
        """Hold so much."""
        id_, key = uuid7(), uuid4()
        act = self._step(
            HoldStepRow(
                self.owner.shard, id_, 0, HoldStepKind.PLACED, id_, self.owner.id, 0, amount, 0, 0, 0, 0,
                self.now + ttl, self.now, (),
            )
        )  # fmt: skip
        assert act.entry is not None
        asked = fingerprint(
            RequestKind.PLACE_HOLD, "GOLD", amount, None, None,
            *(() if ttl == WEEK else (("ttlSeconds", f"{ttl.total_seconds():.0f}"),)),
        )  # fmt: skip
        hold = HoldRow(self.owner.shard, id_, self.owner.id, act.entry.seq, self.owner.wallet_id, key)
        return replace(act, hold=hold, key=self._held_key(key, asked, id_, id_))

    def capture(self, id_: UUID, amount: int, *, keep: bool = False) -> Act:
        """Pay so much of a hold to the treasury, and release the rest or keep it."""
        step = self._next(id_, HoldStepKind.CAPTURED)
        step = replace(step, captured=step.captured + amount, capture_count=step.capture_count + 1)
        step = step if keep else replace(step, released=step.amount - step.captured)
        kept = (("keepRemainder", "true"),) if keep else ()
        asked = fingerprint(RequestKind.CAPTURE_HOLD, "GOLD", amount, None, None, ("hold", str(id_)), *kept)
        return self._paid(self._step(step, -amount), TransactionType.CAPTURE, asked)

    def void(self, id_: UUID) -> Act:
        """Release what remains of a hold."""
        step = self._next(id_, HoldStepKind.VOIDED)
        act = self._step(replace(step, released=step.amount - step.captured))
        asked = fingerprint(RequestKind.VOID_HOLD, "GOLD", 0, None, None, ("hold", str(id_)))
        return replace(act, key=self._held_key(uuid4(), asked, id_, step.event_id))

    def adjust(self, id_: UUID, amount: int) -> Act:
        """Hold so much from now on."""
        step = self._next(id_, HoldStepKind.ADJUSTED)
        act = self._step(replace(step, amount=amount))
        asked = fingerprint(RequestKind.ADJUST_HOLD, "GOLD", amount, None, None, ("hold", str(id_)))
        return replace(act, key=self._held_key(uuid4(), asked, id_, step.event_id))

    def expire(self, id_: UUID, *, early: bool = False) -> Act:
        """Release what remains of a hold because its time is over, or a microsecond too early."""
        until = self.steps[id_].held_until
        self.now = until - timedelta(microseconds=1) if early else max(self.now, until)
        step = self._next(id_, HoldStepKind.EXPIRED)
        return self._step(replace(step, released=step.amount - step.captured))

    def spend(self, amount: int) -> Act:
        """Pay so much to the treasury, of what is not held."""
        act = self._act(uuid7(), TransactionType.SPEND, -amount, None)
        return self._paid(act, TransactionType.SPEND, fingerprint(TransactionType.SPEND, "GOLD", amount, None, None))

    def _next(self, id_: UUID, kind: HoldStepKind) -> HoldStepRow:
        return replace(self.steps[id_], kind=kind, event_id=uuid7(), at=self.now)

    def _step(self, step: HoldStepRow, moved: int = 0) -> Act:
        before = self.steps.get(step.hold_id)
        change = step.remaining - (0 if before is None else before.remaining)
        step = replace(step, step=step.step + 1, seq=self._seq + 1, change=change)
        self.steps[step.hold_id] = step
        step = self.steps[step.hold_id] = replace(step, open_holds=self.open_holds)
        return self._act(step.event_id, TransactionType.CAPTURE if moved else step.kind, moved, step)

    @property
    def _seq(self) -> int:
        return self.owner.seq if self.head is None else self.head.seq

    def _act(self, id_: UUID, type_: int, amount: int, step: HoldStepRow | None) -> Act:
        owner, head, seq = self.owner, self.head, self._seq
        balance, held, position = (owner.balance, 0, seq) if head is None else (
            head.balance_after, head.held_after or 0, head.position or 0,
        )  # fmt: skip
        assert head is not None or step is not None
        entry = EntryRow(
            owner.shard, owner.id, seq + 1, id_, int(type_), amount, balance + amount, owner.may_go_negative, self.now
        )
        held_seq = seq + 1 if step is not None else None if head is None else head.held_seq
        due = min((self.steps[each].held_until for each in self.open_holds), default=None)
        row = HeldEntryRow(
            **_columns(entry),
            held_after=held + (0 if step is None else step.change),
            held_seq=held_seq,
            position=position + (amount != 0),
            next_due_at=due,
        )
        self.head = row
        return Act(row, step)

    def _paid(self, act: Act, type_: TransactionType, asked: bytes) -> Act:
        """Add what the treasury gets."""
        owner, stripe = self.owner, self.treasury
        assert act.entry is not None
        id_, amount, key = act.entry.transaction_id, -act.entry.amount, uuid4()
        self.treasury = replace(stripe, seq=stripe.seq + 1, balance=stripe.balance + amount)
        leg = EntryRow(
            stripe.shard, stripe.id, stripe.seq + 1, id_, int(type_), amount, stripe.balance + amount, True, self.now
        )
        transaction = TransactionRow(owner.shard, id_, int(type_), owner.wallet_id, self.now, key)
        posted = KeyRow(owner.shard, owner.wallet_id, key, asked, OutcomeCode.POSTED, id_)
        return replace(act, treasury=leg, transaction=transaction, key=posted)

    def _held_key(self, key: UUID, asked: bytes, hold_id: UUID, event_id: UUID) -> KeyRow:
        details = {"hold_id": str(hold_id), "asset_id": 1}
        text, owner = orjson.dumps(details).decode(), self.owner
        return KeyRow(owner.shard, owner.wallet_id, key, asked, OutcomeCode.HELD, event_id, text)
