"""Balances, pages, transactions, wallets, assets: each for many callers by one statement of index lookups.

An account's entries that move credits are numbered 1, 2, 3 … without a gap, newest first when listed: that is an
entry's position, and its seq on an account that never had a hold. So the last position is the count, an offset is a
subtraction, and whether there is more on either side of a page is arithmetic. Cursors name entries by their seq, which
counts entries that change what is held too.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple
from uuid import UUID

import orjson
from asyncpg import Connection, Record

from wallet_gql.domain.access import AskedBy
from wallet_gql.domain.assets import Asset, AssetSetting, TransferPolicy
from wallet_gql.domain.holds import HoldName, HoldStepKind
from wallet_gql.domain.postings import Entry, TransactionName, TransactionType, TransactionView
from wallet_gql.domain.refusals import OutcomeCode
from wallet_gql.domain.wallets import Balance, OwnerName, Wallet, WalletKind
from wallet_gql.ledger.columns import Bigint, Integer, Smallint, Text, Uuid, arrays, unnest
from wallet_gql.ledger.lapsing import LAPSED
from wallet_gql.ledger.lookups import ACCOUNT, CLOCK, DEBT, HEAD, HELD, STATE, all_rows, one_row


class WalletAsset(NamedTuple):
    """A wallet's account in an asset, whether it was ever used or not."""

    wallet: Wallet
    asset: Asset


class EntryName(NamedTuple):
    """What names a transaction as one account sees it."""

    shard: Smallint
    account_id: Bigint
    seq: Bigint


class Note(NamedTuple):
    """What is noted of a transaction, or of an event of a hold or a wallet."""

    metadata: dict[str, str] | None
    asked_by: AskedBy


NOTHING_NOTED: Final = Note(None, AskedBy(None, None, None))


@dataclass(frozen=True, slots=True)
class PageRequest:
    """A page of an account's history, newest first: `first` from the newest or `last` from the oldest.

    The page lies between two sequence numbers, both exclusive: older than `older_than`, newer than `newer_than`.
    """

    account: WalletAsset
    first: int | None = None
    last: int | None = None
    offset: int = 0
    older_than: int | None = None
    newer_than: int | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """A page's transactions, newest first, and what lies around it."""

    transactions: list[TransactionView]
    total_count: int
    has_next_page: bool
    has_previous_page: bool


class _WantedAccount(NamedTuple):
    shard: Smallint
    wallet_id: Bigint
    asset_id: Smallint

    @classmethod
    def of(cls, account: WalletAsset) -> "_WantedAccount":
        return cls(account.wallet.shard, account.wallet.id, account.asset.id)


class _WantedOwner(NamedTuple):
    shard: Smallint
    owner_id: Text


class _WantedOwnersAccount(NamedTuple):
    shard: Smallint
    owner_id: Text
    asset_id: Smallint


class _WantedWallet(NamedTuple):
    shard: Smallint
    id: Bigint


class _WantedPage(NamedTuple):
    shard: Smallint
    wallet_id: Bigint
    asset_id: Smallint
    first: Integer | None
    last: Integer | None
    after_offset: Bigint
    older_than: Bigint | None
    newer_than: Bigint | None

    @classmethod
    def of(cls, request: PageRequest) -> "_WantedPage":
        account = _WantedAccount.of(request.account)
        return cls(*account, request.first, request.last, request.offset, request.older_than, request.newer_than)


class _WantedKey(NamedTuple):
    shard: Smallint
    owner_id: Text
    key: Uuid


class _WantedTransaction(NamedTuple):
    shard: Smallint
    id: Uuid


class OwnTransaction(NamedTuple):
    """A transaction as a wallet of its shard sees it."""

    shard: Smallint
    transaction_id: Uuid
    wallet_id: Bigint


class _WantedLegs(NamedTuple):
    shard: Smallint
    transaction_id: Uuid
    asset_id: Smallint


_HEAD: Final = f"""
  LEFT JOIN {ACCOUNT} ON true
  LEFT JOIN {HEAD} ON true
"""

_WALLET: Final = one_row(
    "wallet", "w", by="owner_id", shard="owner.shard", kind=f"{WalletKind.USER:d}", owner_id="owner.owner_id"
)
_ACCOUNT_OF_ENTRY: Final = one_row("account", "a", by="id", shard="e.shard", id="e.account_id")
_ASSET_OF_ACCOUNT: Final = one_row("asset", "s", by="id", id="a.asset_id")
_TRANSACTION_OF_ENTRY: Final = one_row("transaction", "t", by="id", shard="e.shard", id="e.transaction_id")

_ASSET_SETTINGS: Final = """
SELECT DISTINCT ON (asset_id) asset_id, transfers, has_lots FROM asset_setting ORDER BY asset_id DESC, step DESC
"""

_OWNERS: Final = f"""
SELECT wanted.n, w.owner_id
  FROM {unnest(_WantedTransaction, "wanted", numbered=True)}
 CROSS JOIN {one_row("transaction", "t", by="id", shard="wanted.shard", id="wanted.id")}
 CROSS JOIN {one_row("wallet", "w", by="id", shard="t.shard", id="t.wallet_id")}
"""

_BALANCE: Final = f"""coalesce(head.balance_after, 0) AS balance_minor, coalesce(head.seq, 0) AS seq,
       {HELD} AS held_minor, coalesce({DEBT}, 0) AS debt_minor, coalesce(state.step, 0) AS state_step,
       {LAPSED} AS lapsed_minor"""
"""What `_balance` takes."""

_BALANCES: Final = f"""
{CLOCK}
SELECT wanted.n, {_BALANCE}
  FROM {unnest(_WantedAccount, "wanted", numbered=True)}
{_HEAD}
  LEFT JOIN {STATE} ON true
"""

_OWNERS_BALANCES: Final = f"""
{CLOCK}
SELECT wanted.n, w.id AS wallet_id, w.opened_at, {_BALANCE}
  FROM {unnest(_WantedOwnersAccount, "owner", numbered=True)}
 CROSS JOIN {_WALLET}
 CROSS JOIN LATERAL (SELECT owner.shard, w.id AS wallet_id, owner.asset_id, owner.n) AS wanted
{_HEAD}
  LEFT JOIN {STATE} ON true
"""

_WALLETS: Final = f"""
SELECT owner.n, w.shard, w.id, w.owner_id, w.opened_at
  FROM {unnest(_WantedOwner, "owner", numbered=True)}
 CROSS JOIN {_WALLET}
"""

_WALLETS_BY_ID: Final = f"""
SELECT wanted.n, w.shard, w.id, w.owner_id, w.opened_at
  FROM {unnest(_WantedWallet, "wanted", numbered=True)}
 CROSS JOIN {one_row("wallet", "w", by="id", shard="wanted.shard", id="wanted.id")}
 WHERE w.kind = {WalletKind.USER:d}
"""

_ASSET: Final = "s.id AS asset_id, s.code, s.name, s.scale"

_VIEW: Final = """
       e.shard, e.account_id, e.seq, a.wallet_id, e.transaction_id, e.type, e.amount, e.balance_after, e.executed_at,
       t.description, t.reference, t.idempotency_key, t.counterpart_shard, t.counterpart_id"""

VIEW_OF_TRANSACTION: Final = f"{_ASSET}, {_VIEW}"
"""What `view_with_asset` takes: of an entry `e`, its transaction `t`, account `a` and asset `s`."""

# The position of the entry just before a cursor: on an account without holds it is the seq.
_POSITION: Final = """
       coalesce((SELECT c.position FROM entry c
                  WHERE head.position IS NOT NULL AND c.shard = a.shard AND c.account_id = a.id
                    AND c.seq BETWEEN {seq} AND {seq}
                  ORDER BY c.seq LIMIT 1), {seq})"""

_BOUNDS: Final = """greatest(span.oldest, span.newest - wanted.first + 1)
                               AND least(span.newest, span.oldest + wanted.last - 1)"""

# Entries from before the first hold of an account have no position of their own: it is their seq.
_PAGES: Final = f"""
SELECT wanted.n, coalesce(head.position, head.seq, 0) AS total_count, span.newest, span.oldest, {_VIEW},
       coalesce(e.position, e.seq) AS position
  FROM {unnest(_WantedPage, "wanted", numbered=True)}
{_HEAD}
 CROSS JOIN LATERAL (
       SELECT least(coalesce(head.position, head.seq, 0),
                    {_POSITION.format(seq="wanted.older_than - 1")}) - wanted.after_offset AS newest,
              least(coalesce(head.position, head.seq, 0),
                    coalesce({_POSITION.format(seq="wanted.newer_than")}, 0)) + 1 AS oldest) AS span
  LEFT JOIN LATERAL (
       (SELECT e.*
          FROM entry e
         WHERE e.shard = a.shard AND e.account_id = a.id AND e.position IS NULL
           AND e.seq BETWEEN {_BOUNDS}
         ORDER BY e.seq DESC)
        UNION ALL
       (SELECT e.*
          FROM entry e
         WHERE head.position IS NOT NULL AND e.shard = a.shard AND e.account_id = a.id
           AND e.position IS NOT NULL AND e.amount <> 0 AND e.position BETWEEN {_BOUNDS}
         ORDER BY e.position DESC)) AS e ON true
  LEFT JOIN {_TRANSACTION_OF_ENTRY} ON true
 ORDER BY wanted.n, e.seq DESC
"""

_TRANSACTIONS: Final = f"""
SELECT wanted.n, {VIEW_OF_TRANSACTION}
  FROM {unnest(EntryName, "wanted", numbered=True)}
 CROSS JOIN {one_row("entry", "e", by="seq", shard="wanted.shard", account_id="wanted.account_id", seq="wanted.seq")}
 CROSS JOIN {_ACCOUNT_OF_ENTRY}
 CROSS JOIN {_ASSET_OF_ACCOUNT}
 CROSS JOIN {_TRANSACTION_OF_ENTRY}
 WHERE a.wallet_kind = {WalletKind.USER:d}
"""

_TRANSACTIONS_BY_KEY: Final = f"""
SELECT owner.n, {VIEW_OF_TRANSACTION}
  FROM {unnest(_WantedKey, "owner", numbered=True)}
 CROSS JOIN {_WALLET}
 CROSS JOIN {one_row("idempotency_key", "k", by="key", shard="owner.shard", wallet_id="w.id", key="owner.key")}
 CROSS JOIN {all_rows("entry", "e", by="transaction_id", shard="k.shard", transaction_id="k.transaction_id")}
 CROSS JOIN {_ACCOUNT_OF_ENTRY}
 CROSS JOIN {_ASSET_OF_ACCOUNT}
 CROSS JOIN {_TRANSACTION_OF_ENTRY}
 WHERE k.outcome = {OutcomeCode.POSTED:d} AND a.wallet_id = w.id
"""

_OWN_TRANSACTIONS: Final = f"""
SELECT wanted.n, {VIEW_OF_TRANSACTION}
  FROM {unnest(OwnTransaction, "wanted", numbered=True)}
 CROSS JOIN {all_rows("entry", "e", by="transaction_id", shard="wanted.shard", transaction_id="wanted.transaction_id")}
 CROSS JOIN {_ACCOUNT_OF_ENTRY}
 CROSS JOIN {_ASSET_OF_ACCOUNT}
 CROSS JOIN {_TRANSACTION_OF_ENTRY}
 WHERE a.wallet_id = wanted.wallet_id
"""

_CAPTURES: Final = f"""
SELECT wanted.n, {VIEW_OF_TRANSACTION}
  FROM {unnest(_WantedTransaction, "wanted", numbered=True)}
 CROSS JOIN LATERAL (
       SELECT * FROM hold_step s
        WHERE s.shard = wanted.shard AND s.hold_id = wanted.id
        ORDER BY s.step) AS step
 CROSS JOIN {one_row("entry", "e", by="seq", shard="step.shard", account_id="step.account_id", seq="step.seq")}
 CROSS JOIN {_ACCOUNT_OF_ENTRY}
 CROSS JOIN {_ASSET_OF_ACCOUNT}
 CROSS JOIN {_TRANSACTION_OF_ENTRY}
 WHERE step.kind = {HoldStepKind.CAPTURED:d}
 ORDER BY wanted.n, step.step DESC
"""

_NOTES: Final = f"""
SELECT wanted.n, note.metadata::text, note.actor_kind, note.actor_name, note.request_id
  FROM {unnest(_WantedTransaction, "wanted", numbered=True)}
 CROSS JOIN {one_row("transaction_note", "note", by="transaction_id", shard="wanted.shard", transaction_id="wanted.id")}
"""

_ENTRIES: Final = f"""
SELECT wanted.n, a.wallet_kind, e.amount
  FROM {unnest(_WantedLegs, "wanted", numbered=True)}
 CROSS JOIN {all_rows("entry", "e", by="transaction_id", shard="wanted.shard", transaction_id="wanted.transaction_id")}
 CROSS JOIN {_ACCOUNT_OF_ENTRY}
 WHERE a.asset_id = wanted.asset_id
 ORDER BY wanted.n, a.wallet_kind, e.account_id
"""


async def read_balances(connection: Connection, accounts: Sequence[WalletAsset]) -> list[Balance]:
    """Return the present balance of each account, in order; what was never used is zero."""
    rows = await connection.fetch(_BALANCES, *arrays(_WantedAccount, [_WantedAccount.of(each) for each in accounts]))
    found = {n: figures for n, *figures in rows}
    return [_balance(account, *found[n]) for n, account in enumerate(accounts, start=1)]


async def read_owners_balances(
    connection: Connection, owners: Sequence[tuple[OwnerName, Asset]]
) -> list[Balance | None]:
    """Return each owner's balance in an asset, in order; None where the owner has no wallet."""
    wanted = [_WantedOwnersAccount(*name, asset.id) for name, asset in owners]
    rows = await connection.fetch(_OWNERS_BALANCES, *arrays(_WantedOwnersAccount, wanted))
    balances: list[Balance | None] = [None] * len(owners)
    for n, wallet_id, opened_at, *figures in rows:
        name, asset = owners[n - 1]
        wallet = Wallet(name.shard, wallet_id, name.owner_id, opened_at)
        balances[n - 1] = _balance(WalletAsset(wallet, asset), *figures)
    return balances


def _balance(
    account: WalletAsset,
    balance_minor: int,
    seq: int,
    held_minor: int,
    debt_minor: int,
    state_step: int,
    lapsed_minor: int,
) -> Balance:
    """Return a balance: what has lapsed is not part of it, whether or not that is booked."""
    amount_minor = balance_minor - lapsed_minor
    return Balance(*account, amount_minor, seq, held_minor, debt_minor, state_step, lapsed_minor)


async def read_wallets(connection: Connection, owners: Sequence[OwnerName]) -> list[Wallet | None]:
    """Return each owner's wallet, in order; None where there is none."""
    return _wallets(await connection.fetch(_WALLETS, *arrays(_WantedOwner, owners)), len(owners))


async def read_wallets_by_id(connection: Connection, ids: Sequence[tuple[int, int]]) -> list[Wallet | None]:
    """Return the owners' wallets with these (shard, id), in order; None where there is none."""
    return _wallets(await connection.fetch(_WALLETS_BY_ID, *arrays(_WantedWallet, ids)), len(ids))


def _wallets(rows: Iterable[Record], count: int) -> list[Wallet | None]:
    wallets: list[Wallet | None] = [None] * count
    for n, *wallet in rows:
        wallets[n - 1] = Wallet(*wallet)
    return wallets


async def read_pages(connection: Connection, requests: Sequence[PageRequest]) -> list[Page]:
    """Return each page, in order. Whatever the page, each costs a few index lookups and its own entries."""
    rows = await connection.fetch(_PAGES, *arrays(_WantedPage, [_WantedPage.of(request) for request in requests]))
    found: list[list[Record]] = [[] for _ in requests]
    for row in rows:
        found[row["n"] - 1].append(row)
    return [_page(request, *rows) for request, rows in zip(requests, found, strict=True)]


def _page(request: PageRequest, first: Record, *more: Record) -> Page:
    """Say what lies around a page: positions have no gap, so it is arithmetic."""
    asset, total_count = request.account.asset, first["total_count"]
    if first["shard"] is None:
        # An empty page lies at its own bound.
        oldest = max(min(first["newest"] + 1, first["oldest"]), 1)
        is_older_there, is_newer_there = oldest > 1 and total_count > 0, oldest <= total_count
        return Page([], total_count, has_next_page=is_older_there, has_previous_page=is_newer_there)
    rows = (first, *more)
    newest, oldest = first["position"], rows[-1]["position"]
    transactions = [_view(row, asset) for row in rows]
    return Page(transactions, total_count, has_next_page=oldest > 1, has_previous_page=newest < total_count)


async def read_transactions(connection: Connection, names: Sequence[EntryName]) -> list[TransactionView | None]:
    """Return each transaction as its owner's account sees it, in order; None where there is none."""
    return _views(await connection.fetch(_TRANSACTIONS, *arrays(EntryName, names)), len(names))


async def read_transactions_by_key(
    connection: Connection, keys: Sequence[tuple[OwnerName, UUID]]
) -> list[TransactionView | None]:
    """Return what each owner's key posted, in order; None where the key is unknown or its request was refused."""
    wanted = [_WantedKey(*owner, key) for owner, key in keys]
    return _views(await connection.fetch(_TRANSACTIONS_BY_KEY, *arrays(_WantedKey, wanted)), len(keys))


async def read_own_transactions(
    connection: Connection, transactions: Sequence[OwnTransaction]
) -> list[TransactionView | None]:
    """Return each transaction as the wallet sees it, in order; None where it has no leg of it."""
    rows = await connection.fetch(_OWN_TRANSACTIONS, *arrays(OwnTransaction, transactions))
    return _views(rows, len(transactions))


async def read_captures(connection: Connection, holds: Sequence[HoldName]) -> list[list[TransactionView]]:
    """Return what each hold's captures posted, in order of the holds, newest first."""
    captures: list[list[TransactionView]] = [[] for _ in holds]
    for row in await connection.fetch(_CAPTURES, *arrays(_WantedTransaction, holds)):
        captures[row["n"] - 1].append(view_with_asset(row))
    return captures


async def read_notes(connection: Connection, events: Sequence[TransactionName]) -> list[Note]:
    """Return what is noted of each transaction, or event of a hold or a wallet, in order."""
    found = [NOTHING_NOTED] * len(events)
    for n, metadata, kind, name, request_id in await connection.fetch(_NOTES, *arrays(_WantedTransaction, events)):
        asked_by = AskedBy.of_kept(kind, name, request_id, events[n - 1].id)
        found[n - 1] = Note(None if metadata is None else orjson.loads(metadata), asked_by)
    return found


async def read_entries(connection: Connection, transactions: Sequence[TransactionView]) -> list[list[Entry]]:
    """Return the legs of each transaction in its asset, in order: owners' first."""
    wanted = [_WantedLegs(each.shard, each.id, each.asset.id) for each in transactions]
    entries: list[list[Entry]] = [[] for _ in transactions]
    for n, kind, amount_minor in await connection.fetch(_ENTRIES, *arrays(_WantedLegs, wanted)):
        entries[n - 1].append(Entry(WalletKind(kind), amount_minor))
    return entries


async def read_assets(connection: Connection) -> list[Asset]:
    """Return all assets, by their ids: a handful."""
    return [Asset(*row) for row in await connection.fetch("SELECT id, code, name, scale FROM asset ORDER BY id")]


async def read_asset_settings(connection: Connection) -> dict[int, AssetSetting]:
    """Return what operators set of assets, by the assets' ids, as it is now: a handful."""
    rows = await connection.fetch(_ASSET_SETTINGS)
    return {asset_id: AssetSetting(TransferPolicy(transfers), has_lots) for asset_id, transfers, has_lots in rows}


async def read_owners(connection: Connection, transactions: Sequence[TransactionName]) -> list[str | None]:
    """Return whose transactions these are, in order; None where there is none."""
    owners: list[str | None] = [None] * len(transactions)
    for n, owner_id in await connection.fetch(_OWNERS, *arrays(_WantedTransaction, transactions)):
        owners[n - 1] = owner_id
    return owners


async def read_shard_count(connection: Connection) -> int:
    """Return the number of shards that the database was made with."""
    count: int = await connection.fetchval("SELECT shard_count FROM ledger")
    return count


async def read_is_test_mode(connection: Connection) -> bool:
    """Return whether the database was made for tests, where the clock may be moved."""
    is_test: bool = await connection.fetchval("SELECT mode = 2 FROM ledger")
    return is_test


def _views(rows: Iterable[Record], count: int) -> list[TransactionView | None]:
    views: list[TransactionView | None] = [None] * count
    for row in rows:
        views[row["n"] - 1] = view_with_asset(row)
    return views


def view_with_asset(row: Record) -> TransactionView:
    """Return the transaction of a row that has its asset too."""
    return _view(row, Asset(row["asset_id"], row["code"], row["name"], row["scale"]))


def _view(row: Record, asset: Asset) -> TransactionView:
    counterpart_id = row["counterpart_id"]
    return TransactionView(
        shard=row["shard"],
        account_id=row["account_id"],
        seq=row["seq"],
        wallet_id=row["wallet_id"],
        asset=asset,
        id=row["transaction_id"],
        type=TransactionType(row["type"]),
        amount_minor=row["amount"],
        balance_after_minor=row["balance_after"],
        executed_at=row["executed_at"],
        description=row["description"],
        reference=row["reference"],
        idempotency_key=row["idempotency_key"],
        counterpart=None if counterpart_id is None else TransactionName(row["counterpart_shard"], counterpart_id),
    )
