"""Lots as they are shown: by their names, in pages of what an account has, and what transactions moved of them.

What has lapsed is gone from its end on, whether or not that is booked; what open holds have of it stays until they end.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, NamedTuple

from asyncpg import Connection, Record

from wallet_gql.domain.assets import Asset
from wallet_gql.domain.lots import CreditSource, LotName, LotTerms
from wallet_gql.domain.postings import TransactionType
from wallet_gql.domain.wallets import Wallet
from wallet_gql.ledger.columns import Bigint, Integer, Smallint, Time, arrays, unnest
from wallet_gql.ledger.lapsing import KEPT, LIVE, kept_of
from wallet_gql.ledger.lookups import ACCOUNT, CLOCK, HEAD, NOW, all_rows, one_row
from wallet_gql.ledger.lots import LAST_LOT_STEP
from wallet_gql.ledger.reads import EntryName, WalletAsset


@dataclass(frozen=True, slots=True)
class LotView:
    """A lot as its owner sees it; `held_minor` is what open holds have of what remains."""

    account: WalletAsset
    name: LotName
    seq: int
    """The entry that granted it."""
    terms: LotTerms
    granted_at: datetime
    granted_minor: int
    booked_minor: int
    """What remains of it in the books."""
    held_minor: int
    as_of: datetime = field(compare=False)
    """The time at which it was read."""

    @property
    def is_expired(self) -> bool:
        """Whether its end has come."""
        return self.terms.has_lapsed(self.as_of)

    @property
    def remaining_minor(self) -> int:
        """What is left of it: after its end no more than what is held."""
        return self.held_minor if self.is_expired else self.booked_minor


class LotPlace(NamedTuple):
    """A lot's place in the list of those of its account."""

    expires_at: datetime | None
    n: int


@dataclass(frozen=True, slots=True)
class LotPageRequest:
    """A page of an account's lots: `first` of those after a place."""

    account: WalletAsset
    first: int
    after: LotPlace | None = None


@dataclass(frozen=True, slots=True)
class LotPage:
    """A page's lots: what ends soonest first, what never does last, then by number."""

    lots: list[LotView]
    has_next_page: bool


class LotPart(NamedTuple):
    """What a transaction took from a lot, or put into it, unsigned; without a lot it is of the pool."""

    lot: LotView | None
    amount_minor: int


class _WantedLot(NamedTuple):
    shard: Smallint
    account_id: Bigint
    lot: Integer


class _WantedPage(NamedTuple):
    shard: Smallint
    wallet_id: Bigint
    asset_id: Smallint
    size: Integer
    after_end: Time | None
    after_lot: Integer | None

    @classmethod
    def of(cls, request: LotPageRequest) -> "_WantedPage":
        wallet, asset = request.account
        end, n = request.after or (None, None)
        return cls(wallet.shard, wallet.id, asset.id, request.first + 1, end, n)


_LOT: Final = f"""
       o.shard, o.account_id, o.n AS lot, o.seq, o.source, o.priority, o.campaign, o.expires_at, o.granted_at,
       last.granted, last.remaining, {kept_of("o.n", "last.held")} AS held, {NOW} AS now"""

_OWNER: Final = "w.id AS wallet_id, w.owner_id, w.opened_at, s.id AS asset_id, s.code, s.name, s.scale"

_OWNER_OF_ACCOUNT: Final = f"""
 CROSS JOIN {one_row("asset", "s", by="id", id="a.asset_id")}
 CROSS JOIN {one_row("wallet", "w", by="id", shard="a.shard", id="a.wallet_id")}
"""

_LOTS: Final = f"""
{CLOCK}
SELECT wanted.n, {_OWNER}, {_LOT}
  FROM {unnest(_WantedLot, "wanted", numbered=True)}
 CROSS JOIN {one_row("lot", "o", by="n", shard="wanted.shard", account_id="wanted.account_id", n="wanted.lot")}
 CROSS JOIN {LAST_LOT_STEP}
 CROSS JOIN {one_row("account", "a", by="id", shard="o.shard", id="o.account_id")}
 CROSS JOIN {HEAD}
 CROSS JOIN {KEPT}
{_OWNER_OF_ACCOUNT}
"""

_PAGES: Final = f"""
{CLOCK}
SELECT wanted.n, lot.*
  FROM {unnest(_WantedPage, "wanted", numbered=True)}
 CROSS JOIN {ACCOUNT}
 CROSS JOIN {HEAD}
 CROSS JOIN {KEPT}
 CROSS JOIN LATERAL (
       SELECT {_LOT}
         FROM {LIVE}
        WHERE (o.expires_at IS NULL OR o.expires_at > {NOW})
          AND (wanted.after_lot IS NULL
               OR (coalesce(o.expires_at, 'infinity'), o.n)
                  > (coalesce(wanted.after_end, 'infinity'), wanted.after_lot))
        ORDER BY o.expires_at NULLS LAST, o.n
        LIMIT wanted.size) AS lot
 ORDER BY wanted.n, lot.expires_at NULLS LAST, lot.lot
"""

# Entries from before the first lot of an account say nothing of lots.
_PARTS: Final = f"""
{CLOCK}
SELECT wanted.n, abs(e.amount) AS moved, abs(moved.change) AS part, {_OWNER}, {_LOT}
  FROM {unnest(EntryName, "wanted", numbered=True)}
 CROSS JOIN {one_row("entry", "e", by="seq", shard="wanted.shard", account_id="wanted.account_id", seq="wanted.seq")}
 CROSS JOIN {one_row("account", "a", by="id", shard="e.shard", id="e.account_id")}
 CROSS JOIN {HEAD}
 CROSS JOIN {KEPT}
{_OWNER_OF_ACCOUNT}
  LEFT JOIN ({all_rows("lot_step", "moved", by="seq", shard="e.shard", account_id="e.account_id", seq="e.seq")}
             CROSS JOIN {one_row("lot", "o", by="n", shard="e.shard", account_id="e.account_id", n="moved.lot")}
             CROSS JOIN {LAST_LOT_STEP}) ON moved.change <> 0
 WHERE e.lots_seq IS NOT NULL AND e.amount <> 0
 ORDER BY wanted.n, moved.place
"""

_LAPSED_AGAIN: Final = f"""
SELECT wanted.n, sum(given.change)::bigint AS lapsed
  FROM {unnest(EntryName, "wanted", numbered=True)}
 CROSS JOIN {one_row("entry", "e", by="seq", shard="wanted.shard", account_id="wanted.account_id", seq="wanted.seq")}
 CROSS JOIN {all_rows("lot_step", "given", by="seq", shard="e.shard", account_id="e.account_id", seq="e.seq")}
 CROSS JOIN {one_row("lot", "o", by="n", shard="e.shard", account_id="e.account_id", n="given.lot")}
 CROSS JOIN {
    one_row(
        "lot_step",
        "after",
        by="step",
        shard="e.shard",
        account_id="e.account_id",
        lot="given.lot",
        step="given.step + 1",
    )
}
 CROSS JOIN {one_row("entry", "x", by="seq", shard="e.shard", account_id="e.account_id", seq="after.seq")}
 WHERE given.change > 0 AND o.expires_at <= e.executed_at
   AND x.type = {TransactionType.EXPIRY:d} AND x.executed_at = e.executed_at
 GROUP BY wanted.n
"""


async def read_lots_by_name(connection: Connection, names: Sequence[LotName]) -> list[LotView | None]:
    """Return each lot as it is now, in order; None where there is none."""
    lots: list[LotView | None] = [None] * len(names)
    for row in await connection.fetch(_LOTS, *arrays(_WantedLot, names)):
        lots[row["n"] - 1] = _lot(row, _account(row))
    return lots


async def read_lot_pages(connection: Connection, requests: Sequence[LotPageRequest]) -> list[LotPage]:
    """Return each page of what has something left and has not lapsed, in order."""
    found: list[list[LotView]] = [[] for _ in requests]
    for row in await connection.fetch(_PAGES, *arrays(_WantedPage, [_WantedPage.of(each) for each in requests])):
        found[row["n"] - 1].append(_lot(row, requests[row["n"] - 1].account))
    return [
        LotPage(lots[: request.first], has_next_page=len(lots) > request.first)
        for request, lots in zip(requests, found, strict=True)
    ]


async def read_lot_parts(connection: Connection, entries: Sequence[EntryName]) -> list[list[LotPart]]:
    """Return what each entry of an account took from lots, or put into them, in order, and last what is of the pool.

    Nothing where the account had no lot yet.
    """
    parts: list[list[LotPart]] = [[] for _ in entries]
    pools: dict[int, int] = {}
    for row in await connection.fetch(_PARTS, *arrays(EntryName, entries)):
        n, part_minor = row["n"] - 1, row["part"] or 0
        pools[n] = pools.get(n, row["moved"]) - part_minor
        if part_minor:
            parts[n].append(LotPart(_lot(row, _account(row)), part_minor))
    for n, pool_minor in pools.items():
        if pool_minor:
            parts[n].append(LotPart(None, pool_minor))
    return parts


async def read_lapsed_again(connection: Connection, refunds: Sequence[EntryName]) -> list[int]:
    """Return how much of what each refund gave back to lots lapsed again at once, in order."""
    lapsed = [0] * len(refunds)
    for n, lapsed_minor in await connection.fetch(_LAPSED_AGAIN, *arrays(EntryName, refunds)):
        lapsed[n - 1] = lapsed_minor
    return lapsed


def _account(row: Record) -> WalletAsset:
    return WalletAsset(
        Wallet(row["shard"], row["wallet_id"], row["owner_id"], row["opened_at"]),
        Asset(row["asset_id"], row["code"], row["name"], row["scale"]),
    )


def _lot(row: Record, account: WalletAsset) -> LotView:
    return LotView(
        account=account,
        name=LotName(row["shard"], row["account_id"], row["lot"]),
        seq=row["seq"],
        terms=LotTerms(CreditSource(row["source"]), row["priority"], row["campaign"], row["expires_at"]),
        granted_at=row["granted_at"],
        granted_minor=row["granted"],
        booked_minor=row["remaining"],
        held_minor=row["held"],
        as_of=row["now"],
    )
