"""Balances, pages, transactions, wallets, assets: each for many callers by one statement of index lookups.

An account's entries are numbered 1, 2, 3 … without a gap, newest first when listed. So the last sequence number is
the count, an offset is a subtraction, and whether there is more on either side of a page is arithmetic.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple
from uuid import UUID

from asyncpg import Connection

from wallet_gql.domain.model import (
    Asset,
    Balance,
    Entry,
    TransactionType,
    TransactionView,
    Wallet,
    WalletKind,
)
from wallet_gql.ledger.lookups import ACCOUNT, HEAD, all_rows, one_row


class OwnerName(NamedTuple):
    """What names an owner's wallet."""

    shard: int
    owner_id: str


class WalletAsset(NamedTuple):
    """A wallet's account in an asset, whether it was ever used or not."""

    wallet: Wallet
    asset: Asset


class TransactionName(NamedTuple):
    """What names a transaction as one account sees it."""

    shard: int
    account_id: int
    seq: int


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


_HEAD: Final = f"""
  LEFT JOIN {ACCOUNT} ON true
  LEFT JOIN {HEAD} ON true
"""

_WALLET: Final = one_row("wallet", "w", by="owner_id", shard="owner.shard", kind="1", owner_id="owner.owner_id")
_ACCOUNT_OF_ENTRY: Final = one_row("account", "a", by="id", shard="e.shard", id="e.account_id")
_ASSET_OF_ACCOUNT: Final = one_row("asset", "s", by="id", id="a.asset_id")
_TRANSACTION_OF_ENTRY: Final = one_row("transaction", "t", by="id", shard="e.shard", id="e.transaction_id")

_BALANCES: Final = f"""
SELECT wanted.n, coalesce(head.seq, 0), coalesce(head.balance_after, 0)
  FROM unnest($1::smallint[], $2::bigint[], $3::smallint[]) WITH ORDINALITY AS wanted(shard, wallet_id, asset_id, n)
{_HEAD}
"""

_OWNERS_BALANCES: Final = f"""
SELECT wanted.n, w.id, w.opened_at, coalesce(head.seq, 0), coalesce(head.balance_after, 0)
  FROM unnest($1::smallint[], $2::text[], $3::smallint[]) WITH ORDINALITY AS owner(shard, owner_id, asset_id, n)
 CROSS JOIN {_WALLET}
 CROSS JOIN LATERAL (SELECT owner.shard, w.id AS wallet_id, owner.asset_id, owner.n) AS wanted
{_HEAD}
"""

_WALLETS: Final = f"""
SELECT w.shard, w.id, w.owner_id, w.opened_at
  FROM unnest($1::smallint[], $2::text[]) AS owner(shard, owner_id)
 CROSS JOIN {_WALLET}
"""

_WALLETS_BY_ID: Final = f"""
SELECT w.shard, w.id, w.owner_id, w.opened_at
  FROM unnest($1::smallint[], $2::bigint[]) AS wanted(shard, id)
 CROSS JOIN {one_row("wallet", "w", by="id", shard="wanted.shard", id="wanted.id")}
 WHERE w.kind = 1
"""

_VIEW: Final = """
e.shard, e.account_id, e.seq, a.wallet_id, e.transaction_id, e.type, e.amount, e.balance_after,
       e.executed_at, t.description, t.reference, t.idempotency_key"""

_PAGES: Final = f"""
SELECT wanted.n, coalesce(head.seq, 0), {_VIEW}
  FROM unnest($1::smallint[], $2::bigint[], $3::smallint[], $4::int[], $5::int[], $6::bigint[], $7::bigint[],
              $8::bigint[]) WITH ORDINALITY
       AS wanted(shard, wallet_id, asset_id, first, last, after_offset, older_than, newer_than, n)
{_HEAD}
 CROSS JOIN LATERAL (
       SELECT least(coalesce(head.seq, 0), wanted.older_than - 1) - wanted.after_offset AS newest,
              least(coalesce(head.seq, 0), coalesce(wanted.newer_than, 0)) + 1 AS oldest) AS span
  LEFT JOIN LATERAL (
       SELECT e.*
         FROM entry e
        WHERE e.shard = a.shard AND e.account_id = a.id
          AND e.seq BETWEEN greatest(span.oldest, span.newest - wanted.first + 1)
                        AND least(span.newest, span.oldest + wanted.last - 1)
        ORDER BY e.seq DESC) AS e ON true
  LEFT JOIN {_TRANSACTION_OF_ENTRY} ON true
 ORDER BY wanted.n, e.seq DESC
"""

_TRANSACTIONS: Final = f"""
SELECT wanted.n, s.id, s.code, s.name, s.scale, {_VIEW}
  FROM unnest($1::smallint[], $2::bigint[], $3::bigint[]) WITH ORDINALITY AS wanted(shard, account_id, seq, n)
 CROSS JOIN {one_row("entry", "e", by="seq", shard="wanted.shard", account_id="wanted.account_id", seq="wanted.seq")}
 CROSS JOIN {_ACCOUNT_OF_ENTRY}
 CROSS JOIN {_ASSET_OF_ACCOUNT}
 CROSS JOIN {_TRANSACTION_OF_ENTRY}
 WHERE a.wallet_kind = 1
"""

_TRANSACTIONS_BY_KEY: Final = f"""
SELECT owner.n, s.id, s.code, s.name, s.scale, {_VIEW}
  FROM unnest($1::smallint[], $2::text[], $3::uuid[]) WITH ORDINALITY AS owner(shard, owner_id, key, n)
 CROSS JOIN {_WALLET}
 CROSS JOIN {one_row("idempotency_key", "k", by="key", shard="owner.shard", wallet_id="w.id", key="owner.key")}
 CROSS JOIN {all_rows("entry", "e", by="transaction_id", shard="k.shard", transaction_id="k.transaction_id")}
 CROSS JOIN {_ACCOUNT_OF_ENTRY}
 CROSS JOIN {_ASSET_OF_ACCOUNT}
 CROSS JOIN {_TRANSACTION_OF_ENTRY}
 WHERE k.outcome = 1 AND a.wallet_id = w.id
"""

_ENTRIES: Final = f"""
SELECT wanted.n, a.wallet_kind, e.amount
  FROM unnest($1::smallint[], $2::uuid[], $3::smallint[]) WITH ORDINALITY AS wanted(shard, transaction_id, asset_id, n)
 CROSS JOIN {all_rows("entry", "e", by="transaction_id", shard="wanted.shard", transaction_id="wanted.transaction_id")}
 CROSS JOIN {_ACCOUNT_OF_ENTRY}
 WHERE a.asset_id = wanted.asset_id
 ORDER BY wanted.n, a.wallet_kind, e.account_id
"""


async def read_balances(connection: Connection, accounts: Sequence[WalletAsset]) -> list[Balance]:
    """Return the present balance of each account, in order; what was never used is zero."""
    rows = await connection.fetch(
        _BALANCES,
        [account.wallet.shard for account in accounts],
        [account.wallet.id for account in accounts],
        [account.asset.id for account in accounts],
    )
    balances = {n: (seq, amount_minor) for n, seq, amount_minor in rows}
    return [
        Balance(account.wallet, account.asset, balances[n][1], balances[n][0])
        for n, account in enumerate(accounts, start=1)
    ]


async def read_owners_balances(
    connection: Connection, owners: Sequence[tuple[OwnerName, Asset]]
) -> list[Balance | None]:
    """Return each owner's balance in an asset, in order; None where the owner has no wallet."""
    rows = await connection.fetch(
        _OWNERS_BALANCES,
        [name.shard for name, _ in owners],
        [name.owner_id for name, _ in owners],
        [asset.id for _, asset in owners],
    )
    balances: list[Balance | None] = [None] * len(owners)
    for n, wallet_id, opened_at, seq, amount_minor in rows:
        name, asset = owners[n - 1]
        balances[n - 1] = Balance(Wallet(name.shard, wallet_id, name.owner_id, opened_at), asset, amount_minor, seq)
    return balances


async def read_wallets(connection: Connection, owners: Sequence[OwnerName]) -> list[Wallet | None]:
    """Return each owner's wallet, in order; None where there is none."""
    rows = await connection.fetch(_WALLETS, [name.shard for name in owners], [name.owner_id for name in owners])
    wallets = {OwnerName(row[0], row[2]): Wallet(*row) for row in rows}
    return [wallets.get(name) for name in owners]


async def read_wallets_by_id(connection: Connection, ids: Sequence[tuple[int, int]]) -> list[Wallet | None]:
    """Return the owners' wallets with these (shard, id), in order; None where there is none."""
    rows = await connection.fetch(_WALLETS_BY_ID, [shard for shard, _ in ids], [id_ for _, id_ in ids])
    wallets = {(row[0], row[1]): Wallet(*row) for row in rows}
    return [wallets.get(id_) for id_ in ids]


async def read_pages(connection: Connection, requests: Sequence[PageRequest]) -> list[Page]:
    """Return each page, in order. Whatever the page, each costs two index lookups and its own entries."""
    rows = await connection.fetch(
        _PAGES,
        [request.account.wallet.shard for request in requests],
        [request.account.wallet.id for request in requests],
        [request.account.asset.id for request in requests],
        [request.first for request in requests],
        [request.last for request in requests],
        [request.offset for request in requests],
        [request.older_than for request in requests],
        [request.newer_than for request in requests],
    )
    found: list[tuple[int, list[TransactionView]]] = [(0, []) for _ in requests]
    for n, head_seq, *view in rows:
        _, transactions = found[n - 1]
        found[n - 1] = (head_seq, transactions)
        if view[0] is not None:
            transactions.append(_view(view, requests[n - 1].account.asset))
    return [_page(request, *result) for request, result in zip(requests, found, strict=True)]


def _page(request: PageRequest, head_seq: int, transactions: list[TransactionView]) -> Page:
    """Say what lies around a page: entries are numbered without a gap, so it is arithmetic."""
    if transactions:
        newest, oldest = transactions[0].seq, transactions[-1].seq
    else:
        # An empty page lies at its own bound.
        bound = request.older_than if request.older_than is not None else head_seq + 1 - request.offset
        if request.newer_than is not None:
            bound = min(bound, request.newer_than + 1)
        oldest = max(bound, 1)
        newest = oldest - 1
    return Page(transactions, head_seq, has_next_page=oldest > 1 and head_seq > 0, has_previous_page=newest < head_seq)


async def read_transactions(connection: Connection, names: Sequence[TransactionName]) -> list[TransactionView | None]:
    """Return each transaction as its owner's account sees it, in order; None where there is none."""
    rows = await connection.fetch(
        _TRANSACTIONS,
        [name.shard for name in names],
        [name.account_id for name in names],
        [name.seq for name in names],
    )
    return _numbered(rows, len(names))


async def read_transactions_by_key(
    connection: Connection, keys: Sequence[tuple[OwnerName, UUID]]
) -> list[TransactionView | None]:
    """Return what each owner's key posted, in order; None where the key is unknown or its request was refused."""
    rows = await connection.fetch(
        _TRANSACTIONS_BY_KEY,
        [owner.shard for owner, _ in keys],
        [owner.owner_id for owner, _ in keys],
        [key for _, key in keys],
    )
    return _numbered(rows, len(keys))


def _numbered(rows: Sequence[Any], count: int) -> list[TransactionView | None]:
    views: list[TransactionView | None] = [None] * count
    for n, asset_id, code, name, scale, *view in rows:
        views[n - 1] = _view(view, Asset(asset_id, code, name, scale))
    return views


async def read_entries(connection: Connection, transactions: Sequence[TransactionView]) -> list[list[Entry]]:
    """Return the legs of each transaction in its asset, in order: owners' first."""
    rows = await connection.fetch(
        _ENTRIES,
        [transaction.shard for transaction in transactions],
        [transaction.id for transaction in transactions],
        [transaction.asset.id for transaction in transactions],
    )
    entries: list[list[Entry]] = [[] for _ in transactions]
    for n, kind, amount_minor in rows:
        entries[n - 1].append(Entry(WalletKind(kind), amount_minor))
    return entries


async def read_assets(connection: Connection) -> list[Asset]:
    """Return all assets, by their ids: a handful."""
    return [Asset(*row) for row in await connection.fetch("SELECT id, code, name, scale FROM asset ORDER BY id")]


async def read_shard_count(connection: Connection) -> int:
    """Return the number of shards that the database was made with."""
    count: int = await connection.fetchval("SELECT shard_count FROM ledger")
    return count


def _view(row: Sequence[Any], asset: Asset) -> TransactionView:
    shard, account_id, seq, wallet_id, id_, type_, *rest = row
    return TransactionView(shard, account_id, seq, wallet_id, asset, id_, TransactionType(type_), *rest)
