"""Lots written by SQL, past the ledger's own code: the rows of what may happen to an account, and their insertion.

Rows are plain values by column, for the tables decide what is in them; a test changes or leaves out what it likes.
"""

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Self, TypeAlias
from uuid import UUID, uuid4

import orjson
from asyncpg import Connection
from direct import Account, account_of
from uuid_utils.compat import uuid7

from wallet_gql.domain.holds import TTL_SECONDS_DEFAULT, HoldStepKind
from wallet_gql.domain.lots import CreditSource, LotTerms
from wallet_gql.domain.postings import RequestKind, TransactionType, fingerprint, terms_text
from wallet_gql.domain.refusals import OutcomeCode
from wallet_gql.domain.wallets import WalletKind

Row: TypeAlias = dict[str, Any]

_TABLES: Final = ("transaction", "entry", "hold", "hold_step", "lot", "lot_step", "idempotency_key")
WEEK: Final = timedelta(seconds=TTL_SECONDS_DEFAULT)


@dataclass(frozen=True)
class LotAct:
    """The rows of one thing that happens; of its entries the owner's is the first."""

    rows: Mapping[str, list[Row]]

    def altered(self, table: str, n: int = 0, /, **columns: Any) -> Self:
        """Change columns of a row; values are given as they are, or as functions of what they were."""
        rows = deepcopy(dict(self.rows))
        row = rows[table][n]
        row |= {name: value(row[name]) if callable(value) else value for name, value in columns.items()}
        return type(self)(rows)

    def without(self, table: str, *columns: str) -> Self:
        """Leave out a table's rows, or only set columns of the first of them to NULL."""
        if columns:
            return self.altered(table, **dict.fromkeys(columns))
        return type(self)({**self.rows, table: []})

    def adding(self, table: str, **columns: Any) -> Self:
        """Add a row like the first one of a table."""
        return type(self)({**self.rows, table: [*self.rows[table], {**self.rows[table][0], **columns}]})


def _plain(value: object) -> str:
    return rf"\x{value.hex()}" if isinstance(value, bytes) else str(value)


def _json(rows: Sequence[Row]) -> str:
    return orjson.dumps(rows, default=_plain).decode()


async def insert_acts(connection: Connection, *acts: LotAct) -> None:
    """Insert all rows of acts by one statement, as the ledger does."""
    parts, values = [], []
    for table in _TABLES:
        rows = [row for act in acts for row in act.rows.get(table, ())]
        if not rows:
            continue
        values.append(_json(rows))
        columns = ", ".join(rows[0])
        parts.append(
            f"new_{table} AS (INSERT INTO public.{table} ({columns})"
            f" SELECT {columns} FROM jsonb_populate_recordset(NULL::public.{table}, ${len(values)}::jsonb))"
        )
    await connection.execute(f"WITH {', '.join(parts)} SELECT", *values)


async def _rows(connection: Connection, query: str, *values: object) -> list[Row]:
    return [dict(row) for row in await connection.fetch(query, *values)]


class LotAccount:
    """An owner's account as it is in the books, and the rows of what would happen to it, one act after another."""

    def __init__(self, owner: Account, treasury: Account, asset: str, now: datetime) -> None:
        self.owner = owner
        self.treasury = treasury
        self.asset = asset
        self.now = now
        self.asset_id = 0
        self.head: Row = {}
        self.lots: dict[int, Row] = {}
        """Rows of `lot`, each with the columns of its last step."""
        self.holds: dict[UUID, Row] = {}
        """The last step of each hold."""

    @classmethod
    async def read(cls, connection: Connection, shard: int, owner_id: str, asset: str, stripe: str = "0") -> Self:
        """Read an account, with all its lots and holds."""
        owner = await account_of(connection, shard, owner_id, asset)
        treasury = await account_of(connection, shard, stripe, asset, WalletKind.TREASURY)
        now = await connection.fetchval("SELECT wallet_now()")
        account = cls(owner, treasury, asset, max(now, owner.executed_at))
        account.asset_id = await connection.fetchval("SELECT id FROM asset WHERE code = $1", asset)
        where = "WHERE (shard, account_id) = ($1, $2)"
        for row in await _rows(connection, f"SELECT * FROM entry {where} ORDER BY seq", shard, owner.id):
            account.head = row
        steps = await _rows(connection, f"SELECT * FROM lot_step {where} ORDER BY step", shard, owner.id)
        for row in await _rows(connection, f"SELECT * FROM lot {where} ORDER BY n", shard, owner.id):
            last = [step for step in steps if step["lot"] == row["n"]][-1]
            account.lots[row["n"]] = {**last, **row}
        for row in await _rows(connection, f"SELECT * FROM hold_step {where} ORDER BY seq", shard, owner.id):
            account.holds[row["hold_id"]] = row
        return account

    @property
    def seq(self) -> int:
        """The last entry's number."""
        return int(self.head.get("seq", 0))

    @property
    def live(self) -> list[int]:
        """Lots that have something left, as they are spent."""
        live = [lot for lot in self.lots.values() if lot["remaining"]]
        return [lot["n"] for lot in sorted(live, key=_spend_order)]

    def bonus(self, amount: int, until: datetime | None = None, priority: int = 50) -> LotAct:
        """Give so much, in a lot of its own."""
        id_, n = uuid7(), len(self.lots) + 1
        terms = LotTerms(CreditSource.BONUS, priority, None, until)
        lot = {
            "shard": self.owner.shard, "account_id": self.owner.id, "n": n, "seq": self.seq + 1,
            "source": int(terms.source), "priority": priority, "campaign": None, "expires_at": until,
            "granted_at": self.now, "origin_id": None if until is None else id_,
        }  # fmt: skip
        self.lots[n] = {"step": 0, "granted": 0, "remaining": 0, "held": 0, **lot}
        asked = fingerprint(TransactionType.BONUS, self.asset, amount, None, None, *terms_text(terms, ()))
        act = self._move(id_, TransactionType.BONUS, amount, {n: amount}, asked)
        return LotAct({**act.rows, "lot": [lot]})

    def spend(self, amount: int, of: Mapping[int, int]) -> LotAct:
        """Pay so much, of these lots and the rest of the pool."""
        asked = fingerprint(TransactionType.SPEND, self.asset, amount, None, None)
        return self._move(uuid7(), TransactionType.SPEND, -amount, {n: -part for n, part in of.items()}, asked)

    def expire(self, n: int, amount: int | None = None) -> LotAct:
        """Let what is free of a lot lapse, or so much."""
        free = self.lots[n]["remaining"] - self.lots[n]["held"] if amount is None else amount
        return self._move(uuid7(), TransactionType.EXPIRY, -free, {n: -free})

    def place(self, amount: int, earmarks: Mapping[int, int]) -> LotAct:
        """Hold so much, of these lots and the rest of the pool."""
        id_, key = uuid7(), uuid4()
        step = {
            "shard": self.owner.shard, "hold_id": id_, "step": 1, "kind": int(HoldStepKind.PLACED), "event_id": id_,
            "account_id": self.owner.id, "seq": self.seq + 1, "amount": amount, "captured": 0, "released": 0,
            "change": amount, "capture_count": 0, "held_until": self.now + WEEK, "at": self.now,
            "open_holds": [*self._open, id_], **_marks(earmarks),
        }  # fmt: skip
        hold = {
            "shard": self.owner.shard, "id": id_, "account_id": self.owner.id, "seq": self.seq + 1,
            "wallet_id": self.owner.wallet_id, "idempotency_key": key, "sources": None,
        }  # fmt: skip
        asked = fingerprint(RequestKind.PLACE_HOLD, self.asset, amount, None, None)
        act = self._step(step, earmarks, key, asked)
        return LotAct({**act.rows, "hold": [hold]})

    def void(self, id_: UUID) -> LotAct:
        """Release a hold."""
        before = self.holds[id_]
        step = {
            **before, "step": before["step"] + 1, "kind": int(HoldStepKind.VOIDED), "event_id": uuid7(),
            "seq": self.seq + 1, "released": before["amount"], "change": -before["amount"], "at": self.now,
            "open_holds": [each for each in self._open if each != id_], **_marks({}),
        }  # fmt: skip
        earmarks = zip(before["lots"] or (), before["earmarks"] or (), strict=True)
        asked = fingerprint(RequestKind.VOID_HOLD, self.asset, 0, None, None, ("hold", str(id_)))
        return self._step(step, {n: -part for n, part in earmarks}, uuid4(), asked)

    @property
    def _open(self) -> list[UUID]:
        return [id_ for id_, step in self.holds.items() if step["amount"] > step["captured"] + step["released"]]

    def _step(self, step: Row, held: Mapping[int, int], key: UUID, asked: bytes) -> LotAct:
        self.holds[step["hold_id"]] = step
        steps = self._lot_steps({}, held)
        entry = self._entry(step["event_id"], step["kind"], 0, steps, step)
        kept = self._key(key, asked, OutcomeCode.HELD, step["event_id"])
        kept["details"] = {"hold_id": str(step["hold_id"]), "asset_id": self.asset_id}
        rows = {"entry": [entry], "hold_step": [step], "lot_step": steps, "idempotency_key": [kept]}
        return LotAct(rows)

    def _move(
        self, id_: UUID, type_: TransactionType, amount: int, of: Mapping[int, int], asked: bytes | None = None
    ) -> LotAct:
        owner, stripe, key = self.owner, self.treasury, None if asked is None else uuid4()
        steps = self._lot_steps(of, {})
        entry = self._entry(id_, type_, amount, steps)
        balance, seq = stripe.balance - amount, stripe.seq + 1
        leg = dict.fromkeys(entry) | {
            "shard": owner.shard, "account_id": stripe.id, "seq": seq, "transaction_id": id_, "type": int(type_),
            "amount": -amount, "balance_after": balance, "may_go_negative": True, "executed_at": self.now,
        }  # fmt: skip
        self.treasury = Account(
            stripe.shard, stripe.wallet_id, stripe.id, may_go_negative=True, seq=seq, balance=balance,
            executed_at=self.now,
        )  # fmt: skip
        transaction = {
            "shard": owner.shard, "id": id_, "type": int(type_), "wallet_id": owner.wallet_id,
            "executed_at": self.now, "idempotency_key": key,
        }  # fmt: skip
        rows = {"transaction": [transaction], "entry": [entry, leg], "lot_step": steps}
        if key is not None and asked is not None:
            rows["idempotency_key"] = [self._key(key, asked, OutcomeCode.POSTED, id_)]
        return LotAct(rows)

    def _key(self, key: UUID, asked: bytes, outcome: OutcomeCode, id_: UUID) -> Row:
        return {
            "shard": self.owner.shard, "wallet_id": self.owner.wallet_id, "key": key, "fingerprint": asked,
            "outcome": int(outcome), "transaction_id": id_, "created_at": self.now, "details": None,
        }  # fmt: skip

    def _lot_steps(self, moved: Mapping[int, int], held: Mapping[int, int]) -> list[Row]:
        steps = []
        for place, n in enumerate({**moved, **held}, start=1):
            lot, change = self.lots[n], moved.get(n, 0)
            lot["step"] += 1
            lot["granted"] += max(change, 0)
            lot["remaining"] += change
            lot["held"] += held.get(n, 0)
            steps.append({
                "shard": self.owner.shard, "account_id": self.owner.id, "lot": n, "step": lot["step"],
                "seq": self.seq + 1, "place": place, "change": change, "granted": lot["granted"],
                "remaining": lot["remaining"], "held": lot["held"],
            })  # fmt: skip
        return steps

    def _entry(self, id_: UUID, type_: int, amount: int, steps: Sequence[Row], step: Row | None = None) -> Row:
        head, seq = self.head, self.seq + 1
        held_seq = seq if step is not None else head.get("held_seq")
        position = head.get("position")
        if step is not None and position is None:
            position = self.seq
        listed = any(each["change"] and each["remaining"] in {0, each["change"]} for each in steps)
        holds = [self.holds[each]["held_until"] for each in self._open]
        free = [lot["expires_at"] for lot in self.lots.values() if lot["remaining"] > lot["held"]]
        held = (head.get("held_after") or 0) + (0 if step is None else step["change"])
        lots_after = sum(lot["remaining"] for lot in self.lots.values())
        self.head = {
            "shard": self.owner.shard, "account_id": self.owner.id, "seq": seq, "transaction_id": id_,
            "type": int(type_), "amount": amount, "balance_after": head.get("balance_after", 0) + amount,
            "may_go_negative": False, "executed_at": self.now,
            "held_after": None if held_seq is None else held,
            "held_seq": held_seq, "position": None if position is None else position + (amount != 0),
            "next_due_at": min((*holds, *(each for each in free if each is not None)), default=None),
            "lots_after": lots_after if self.lots else None,
            "lots_seq": seq if listed else head.get("lots_seq"),
            "live_lots": self.live if listed else None,
        }  # fmt: skip
        return dict(self.head)


def _spend_order(lot: Row) -> tuple[Any, ...]:
    ends = lot["expires_at"]
    return (lot["priority"], ends is None, 0 if ends is None else ends.timestamp(), lot["n"])


def _marks(earmarks: Mapping[int, int]) -> Row:
    if not earmarks:
        return {"lots": None, "earmarks": None}
    return {"lots": list(earmarks), "earmarks": list(earmarks.values())}


Alter: TypeAlias = Callable[[LotAccount], LotAct]
