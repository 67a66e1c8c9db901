"""Holds as they are in the books: by their names, and all that are open on an account.

An account's last entry that changed what is held has a step of a hold, and that step says which holds are open after
it: so what is open is found by look-ups, whatever was ever held.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final, NamedTuple
from uuid import UUID

from asyncpg import Connection, Record

from wallet_gql.domain.assets import Asset
from wallet_gql.domain.holds import Earmark, Hold, HoldName, HoldState, HoldStepKind
from wallet_gql.domain.lots import CreditSource
from wallet_gql.domain.money import INT64_MAX
from wallet_gql.domain.postings import TransactionName
from wallet_gql.domain.refusals import OutcomeCode
from wallet_gql.domain.wallets import OwnerName, Wallet, WalletKind
from wallet_gql.ledger.columns import Bigint, Integer, Smallint, Text, Uuid, arrays, unnest
from wallet_gql.ledger.heads import Account
from wallet_gql.ledger.lookups import ACCOUNT, HEAD, all_rows, one_row
from wallet_gql.ledger.reads import WalletAsset


class _WantedHold(NamedTuple):
    shard: Smallint
    id: Uuid


class _HeldAccount(NamedTuple):
    shard: Smallint
    account_id: Bigint
    held_seq: Bigint


class _WantedPage(NamedTuple):
    shard: Smallint
    wallet_id: Bigint
    asset_id: Smallint
    older_than: Bigint | None
    size: Integer


class _WantedKey(NamedTuple):
    shard: Smallint
    owner_id: Text
    key: Uuid


@dataclass(frozen=True, slots=True)
class HoldPageRequest:
    """A page of an account's holds, newest first: `first` of those placed before an entry, in a state or in any."""

    account: WalletAsset
    state: HoldState | None
    first: int
    older_than: int | None = None


@dataclass(frozen=True, slots=True)
class HoldPage:
    """A page's holds, newest first; and the entry to go on from where there may be more."""

    holds: list[Hold]
    next_older_than: int | None


WALKED_MAX: Final = 200
"""How many holds a page in a state looks at: what was closed is not found by an index, and a page costs its size."""


LAST_STEP: Final = """LATERAL (
       SELECT * FROM hold_step l
        WHERE l.shard = h.shard AND l.hold_id = h.id
        ORDER BY l.step DESC
        LIMIT 1) AS last"""
"""The last step of the hold `h`."""

_DETAILS: Final = """
       h.shard, h.id, h.account_id, h.seq, h.wallet_id, w.owner_id, w.opened_at,
       s.id AS asset_id, s.code, s.name, s.scale, h.receiver_shard, r.owner_id AS receiver, h.idempotency_key,
       h.description, h.reference, h.sources, last.lots, last.earmarks,
       first.at AS placed_at, last.step, last.kind, last.amount, last.captured,
       last.released, last.capture_count, last.held_until, last.at, (SELECT wallet_now()) AS now"""

_JOINS: Final = f"""
 CROSS JOIN {one_row("hold_step", "first", by="step", shard="h.shard", hold_id="h.id", step="1")}
 CROSS JOIN {LAST_STEP}
 CROSS JOIN {one_row("account", "a", by="id", shard="h.shard", id="h.account_id")}
 CROSS JOIN {one_row("asset", "s", by="id", id="a.asset_id")}
 CROSS JOIN {one_row("wallet", "w", by="id", shard="h.shard", id="h.wallet_id")}
  LEFT JOIN {one_row("wallet", "r", by="id", shard="h.receiver_shard", id="h.receiver_wallet_id")} ON true
"""

_HOLDS: Final = f"""
SELECT wanted.n, {_DETAILS}
  FROM {unnest(_WantedHold, "wanted", numbered=True)}
 CROSS JOIN {one_row("hold", "h", by="id", shard="wanted.shard", id="wanted.id")}
{_JOINS}
"""

_OPEN: Final = f"""
SELECT wanted.n, {_DETAILS}
  FROM {unnest(_HeldAccount, "wanted", numbered=True)}
 CROSS JOIN {
    one_row(
        "hold_step", "at_entry", by="seq", shard="wanted.shard", account_id="wanted.account_id", seq="wanted.held_seq"
    )
}
 CROSS JOIN unnest(at_entry.open_holds) WITH ORDINALITY AS is_open(id, place)
 CROSS JOIN {one_row("hold", "h", by="id", shard="wanted.shard", id="is_open.id")}
{_JOINS}
 ORDER BY wanted.n, is_open.place
"""


_HOLDS_BY_KEY: Final = f"""
SELECT wanted.n, {_DETAILS}
  FROM {unnest(_WantedKey, "wanted", numbered=True)}
 CROSS JOIN {
    one_row(
        "wallet", "owner", by="owner_id", shard="wanted.shard", kind=f"{WalletKind.USER:d}", owner_id="wanted.owner_id"
    )
}
 CROSS JOIN {one_row("idempotency_key", "k", by="key", shard="wanted.shard", wallet_id="owner.id", key="wanted.key")}
 CROSS JOIN {one_row("hold", "h", by="id", shard="wanted.shard", id="(k.details ->> 'hold_id')::uuid")}
{_JOINS}
 WHERE k.outcome = {OutcomeCode.HELD:d}
"""

_HOLDS_OF_TRANSACTIONS: Final = f"""
SELECT wanted.n, {_DETAILS}
  FROM {unnest(_WantedHold, "wanted", numbered=True)}
 CROSS JOIN {all_rows("entry", "e", by="transaction_id", shard="wanted.shard", transaction_id="wanted.id")}
 CROSS JOIN {one_row("hold_step", "own", by="seq", shard="e.shard", account_id="e.account_id", seq="e.seq")}
 CROSS JOIN {one_row("hold", "h", by="id", shard="wanted.shard", id="own.hold_id")}
{_JOINS}
"""

_PAGES: Final = f"""
SELECT wanted.n, {_DETAILS}
  FROM {unnest(_WantedPage, "wanted", numbered=True)}
 CROSS JOIN {ACCOUNT.replace("AS a", "AS owned")}
 CROSS JOIN LATERAL (
       SELECT * FROM hold h
        WHERE h.shard = owned.shard AND h.account_id = owned.id AND h.seq < coalesce(wanted.older_than, {INT64_MAX})
        ORDER BY h.seq DESC
        LIMIT wanted.size) AS h
{_JOINS}
 ORDER BY wanted.n, h.seq DESC
"""

_OPEN_PAGES: Final = f"""
SELECT wanted.n, {_DETAILS}
  FROM {unnest(_WantedPage, "wanted", numbered=True)}
 CROSS JOIN {ACCOUNT.replace("AS a", "AS owned")}
 CROSS JOIN {HEAD.replace("a.", "owned.")}
 CROSS JOIN {
    one_row("hold_step", "at_entry", by="seq", shard="owned.shard", account_id="owned.id", seq="head.held_seq")
}
 CROSS JOIN unnest(at_entry.open_holds) AS is_open(id)
 CROSS JOIN {one_row("hold", "h", by="id", shard="owned.shard", id="is_open.id")}
{_JOINS}
 ORDER BY wanted.n, h.seq DESC
"""


async def read_holds(connection: Connection, names: Sequence[HoldName]) -> list[Hold | None]:
    """Return each hold as it is now, in order; None where there is none. One statement."""
    return _in_order(await connection.fetch(_HOLDS, *arrays(_WantedHold, names)), len(names))


async def read_holds_by_key(connection: Connection, keys: Sequence[tuple[OwnerName, UUID]]) -> list[Hold | None]:
    """Return the hold that each owner's key placed, voided or adjusted, in order; None where it did neither."""
    wanted = [_WantedKey(*owner, key) for owner, key in keys]
    return _in_order(await connection.fetch(_HOLDS_BY_KEY, *arrays(_WantedKey, wanted)), len(keys))


async def read_holds_of_transactions(
    connection: Connection, transactions: Sequence[TransactionName]
) -> list[Hold | None]:
    """Return the hold that each transaction captured, in order; None where it captured none."""
    rows = await connection.fetch(_HOLDS_OF_TRANSACTIONS, *arrays(_WantedHold, transactions))
    return _in_order(rows, len(transactions))


async def read_hold_pages(connection: Connection, requests: Sequence[HoldPageRequest]) -> list[HoldPage]:
    """Return each page, in order. One statement, a second one where only open ones are asked for."""
    found: list[list[Hold]] = [[] for _ in requests]
    for is_open, statement in ((True, _OPEN_PAGES), (False, _PAGES)):
        places = [place for place, each in enumerate(requests) if (each.state is HoldState.OPEN) is is_open]
        wanted = [_wanted_page(requests[place]) for place in places]
        for row in await connection.fetch(statement, *arrays(_WantedPage, wanted)) if places else ():
            found[places[row["n"] - 1]].append(_hold(row))
    return [_page(request, holds) for request, holds in zip(requests, found, strict=True)]


def _wanted_page(request: HoldPageRequest) -> _WantedPage:
    account = request.account
    size = request.first + 1 if request.state is None else WALKED_MAX
    return _WantedPage(account.wallet.shard, account.wallet.id, account.asset.id, request.older_than, size)


def _page(request: HoldPageRequest, walked: list[Hold]) -> HoldPage:
    """Choose a page from the holds that were looked at."""
    older_than = INT64_MAX if request.older_than is None else request.older_than
    holds = [hold for hold in walked if hold.seq < older_than and request.state in {None, hold.state}]
    if len(holds) > request.first:
        return HoldPage(holds[: request.first], holds[request.first - 1].seq)
    # As many as may be looked at: older ones may be in that state too.
    return HoldPage(holds, walked[-1].seq if len(walked) == WALKED_MAX else None)


async def read_open_holds(connection: Connection, accounts: Sequence[Account], now: datetime) -> None:
    """Give each account that ever had a hold its open ones as of now, in the order of placement."""
    held = [account for account in accounts if account.held_seq is not None]
    if not held:
        return
    wanted = [(account.wallet.shard, account.id, account.held_seq) for account in held]
    for row in await connection.fetch(_OPEN, *arrays(_HeldAccount, wanted)):
        hold = replace(_hold(row), as_of=now)
        held[row["n"] - 1].holds[hold.id] = hold


def _in_order(rows: Iterable[Record], count: int) -> list[Hold | None]:
    holds: list[Hold | None] = [None] * count
    for row in rows:
        holds[row["n"] - 1] = _hold(row)
    return holds


def _hold(row: Record) -> Hold:
    receiver = None if row["receiver"] is None else OwnerName(row["receiver_shard"], row["receiver"])
    return Hold(
        shard=row["shard"],
        id=row["id"],
        account_id=row["account_id"],
        seq=row["seq"],
        wallet=Wallet(row["shard"], row["wallet_id"], row["owner_id"], row["opened_at"]),
        asset=Asset(row["asset_id"], row["code"], row["name"], row["scale"]),
        receiver=receiver,
        idempotency_key=row["idempotency_key"],
        description=row["description"],
        reference=row["reference"],
        placed_at=row["placed_at"],
        step=row["step"],
        kind=HoldStepKind(row["kind"]),
        amount_minor=row["amount"],
        captured_minor=row["captured"],
        released_minor=row["released"],
        capture_count=row["capture_count"],
        held_until=row["held_until"],
        changed_at=row["at"],
        as_of=row["now"],
        sources=None if row["sources"] is None else CreditSource(row["sources"]),
        earmarks=tuple(map(Earmark, row["lots"] or (), row["earmarks"] or ())),
    )
