"""The only writer of transactions, entries and idempotency keys.

What a batch of postings costs between BEGIN and COMMIT, whatever its size:

| statement | what it does |
| --- | --- |
| 1 lock | the wallets of all requests and their treasury stripes, in the fixed order |
| 2 heads | the clock, and the last entry of every account concerned, read after the lock |
| 3 keys | every key that was answered before, with its transaction |
| (4 open) | accounts for the first posting in an asset |
| 5 insert | transactions, entries and keys, by one statement over arrays |

Before the insert the batch is decided in memory, in arrival order, on the heads as they move.

A transaction's time is the later of the clock and its owner's head, so an owner's times never run backwards. The
treasury's head has no say: it would carry one clock's mistake to every owner of its stripe.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple, TypeAlias
from uuid import UUID

import orjson
import structlog
from asyncpg import Connection

from wallet_gql.domain.errors import Unavailable
from wallet_gql.domain.model import (
    Asset,
    Balance,
    KeyReused,
    Outcome,
    OutcomeCode,
    Posted,
    PostingRequest,
    Refused,
    TransactionView,
    Wallet,
    WalletKind,
    WalletMissing,
)
from wallet_gql.domain.money import BALANCE_MINOR_MAX, TREASURY_MINOR_MAX
from wallet_gql.ledger.locks import WalletName, lock_free_wallets, lock_wallets
from wallet_gql.ledger.lookups import ACCOUNT, HEAD, one_row
from wallet_gql.ledger.treasury import open_stripes

_HEADS: Final = f"""
SELECT wanted.shard, wanted.wallet_id, wanted.asset_id, a.id, head.seq, head.balance_after, head.executed_at,
       clock_timestamp()
  FROM unnest($1::smallint[], $2::bigint[], $3::smallint[]) AS wanted(shard, wallet_id, asset_id)
  LEFT JOIN {ACCOUNT} ON true
  LEFT JOIN {HEAD} ON true
"""

_KEYS: Final = f"""
SELECT k.shard, k.wallet_id, k.key, k.fingerprint, k.outcome, k.transaction_id,
       (k.details ->> 'balance_before_minor')::bigint, e.account_id, e.seq, e.amount, e.balance_after, e.executed_at
  FROM unnest($1::smallint[], $2::bigint[], $3::uuid[], $4::smallint[]) AS wanted(shard, wallet_id, key, asset_id)
 CROSS JOIN {
    one_row("idempotency_key", "k", by="key", shard="wanted.shard", wallet_id="wanted.wallet_id", key="wanted.key")
}
  LEFT JOIN {ACCOUNT} ON true
  LEFT JOIN {
    one_row("entry", "e", by="transaction_id", shard="k.shard", transaction_id="k.transaction_id", account_id="a.id")
} ON true
"""

_OPEN_ACCOUNTS: Final = """
INSERT INTO account (shard, wallet_id, wallet_kind, asset_id, may_go_negative)
SELECT shard, wallet_id, kind, asset_id, kind <> 1
  FROM unnest($1::smallint[], $2::bigint[], $3::smallint[], $4::smallint[]) AS new(shard, wallet_id, kind, asset_id)
RETURNING shard, wallet_id, asset_id, id
"""

# Sorted by their keys, rows keep the indexes' pages dense. What is refused has no transaction, but a key.
_INSERT: Final = """
WITH posted AS MATERIALIZED (
  SELECT *
    FROM unnest($1::smallint[], $2::uuid[], $3::smallint[], $4::bigint[], $5::uuid[], $6::bytea[], $7::text[],
                $8::text[], $9::bigint[], $10::timestamptz[], $11::bigint[], $12::bigint[], $13::bigint[],
                $14::bigint[], $15::bigint[], $16::bigint[])
         AS posted(shard, id, type, wallet_id, key, fingerprint, description, reference, amount, executed_at,
                   account_id, seq, balance_after, treasury_account_id, treasury_seq, treasury_balance_after)
), new_transaction AS (
  INSERT INTO transaction (shard, id, type, wallet_id, executed_at, idempotency_key, description, reference)
  SELECT shard, id, type, wallet_id, executed_at, key, description, reference FROM posted ORDER BY shard, id
), new_entry AS (
  INSERT INTO entry (shard, account_id, seq, transaction_id, type, amount, balance_after, may_go_negative, executed_at)
  SELECT shard, account_id, seq, id, type, amount, balance_after, false, executed_at FROM posted
   UNION ALL
  SELECT shard, treasury_account_id, treasury_seq, id, type, -amount, treasury_balance_after, true, executed_at
    FROM posted
   ORDER BY shard, account_id, seq
)
INSERT INTO idempotency_key (shard, wallet_id, key, fingerprint, outcome, transaction_id, details)
SELECT shard, wallet_id, key, fingerprint, 1, id, NULL::jsonb FROM posted
 UNION ALL
SELECT * FROM unnest($17::smallint[], $18::bigint[], $19::uuid[], $20::bytea[], $21::smallint[], $22::uuid[],
                     $23::jsonb[])
 ORDER BY shard, wallet_id, key
"""


HEAD_AHEAD_MAX: Final = timedelta(seconds=60)
"""How far an owner's last entry may be ahead of the database's clock: past it, one of the two is wrong."""

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class WalletBusy:
    """Somebody else holds the wallet's lock; nothing was decided. Only a batch that does not wait answers so."""


Decided: TypeAlias = Outcome | WalletBusy | Unavailable
"""What a batch answers to one request."""


class _AccountName(NamedTuple):
    shard: int
    wallet_id: int
    asset_id: int


class _KeyName(NamedTuple):
    shard: int
    wallet_id: int
    key: UUID


@dataclass(slots=True)
class _Account:
    """An account under its wallet's lock, and where its chain stands now; without an id until it is opened."""

    wallet: Wallet
    kind: WalletKind
    asset: Asset
    id: int = 0
    seq: int = 0
    balance_minor: int = 0
    executed_at: datetime | None = None

    @property
    def name(self) -> _AccountName:
        return _AccountName(self.wallet.shard, self.wallet.id, self.asset.id)

    def move(self, amount_minor: int, executed_at: datetime) -> None:
        """Append an entry to the chain, in memory."""
        self.seq += 1
        self.balance_minor += amount_minor
        self.executed_at = executed_at

    def position(self) -> Balance:
        return Balance(self.wallet, self.asset, self.balance_minor, self.seq)


@dataclass(frozen=True, slots=True)
class _Item:
    """A request with the accounts it moves credits between."""

    request: PostingRequest
    user: _Account
    treasury: _Account

    @property
    def key_name(self) -> _KeyName:
        return _KeyName(self.request.shard, self.user.wallet.id, self.request.idempotency_key)


@dataclass(frozen=True, slots=True)
class _Answered:
    """What a key was answered with. `outcome` is None where nobody in the batch asks for the same."""

    fingerprint: bytes
    transaction_id: UUID
    outcome: Posted | Refused | None


@dataclass(slots=True)
class _Batch:
    """The clock, the keys answered so far, and the rows to insert: tuples in the order of the statement's columns."""

    now: datetime
    answered: dict[_KeyName, _Answered]
    posted: list[tuple[Any, ...]] = field(default_factory=list)
    refused: list[tuple[Any, ...]] = field(default_factory=list)
    alarms: set[str] = field(default_factory=set)

    def unavailable(self, alarm: str, **where: object) -> Unavailable:
        """Answer one request that it is not the owner's fault, and tell the operator once per batch."""
        if alarm not in self.alarms:
            self.alarms.add(alarm)
            _log.error(alarm, **where)
        return Unavailable(f"Nothing was posted: {alarm}.")


async def post_batch(
    connection: Connection, requests: Sequence[PostingRequest], slot: int, *, wait: bool = True
) -> list[Decided]:
    """Post a batch under its wallets' locks against the treasury stripes of `slot`; one outcome per request, in order.

    Four statements, five when accounts are opened, whatever the batch's size. Without `wait`, requests whose wallet
    or stripe somebody else has locked are answered `WalletBusy`. Raises nothing for a refusal: it is an outcome.
    Refusals win in this order: no wallet; replay or key reused; balance limit, insufficient balance. The last two are
    kept under their key. A request that the owner may make and the ledger cannot post gets an `Unavailable`, which is
    not kept: its owner's last entry is in the future (before balances are looked at), or the treasury stripe is at its
    end.
    """
    items = await _lock(connection, requests, slot, wait=wait)
    found = [item for item in items if isinstance(item, _Item)]
    if not found:
        return [item for item in items if not isinstance(item, _Item)]
    accounts = {account.name: account for item in found for account in (item.user, item.treasury)}
    now = await _read_heads(connection, accounts)
    batch = _Batch(now, await _read_keys(connection, found))
    await _open_accounts(connection, accounts, found, batch.answered)
    outcomes: list[Decided] = [_decide(batch, item) if isinstance(item, _Item) else item for item in items]
    if batch.posted or batch.refused:
        await connection.execute(_INSERT, *_columns(batch.posted, 16), *_columns(batch.refused, 7))
    return outcomes


async def _lock(
    connection: Connection, requests: Sequence[PostingRequest], slot: int, *, wait: bool
) -> list[_Item | WalletMissing | WalletBusy]:
    """Lock every wallet concerned, and join each request with the accounts it moves credits between."""
    stripes = {request.shard: WalletName(request.shard, WalletKind.TREASURY, str(slot)) for request in requests}
    owners = [WalletName(request.shard, WalletKind.USER, request.owner_id) for request in requests]
    names = {*owners, *stripes.values()}
    wallets, busy = (
        (await lock_wallets(connection, names), set[WalletName]())
        if wait
        else await lock_free_wallets(connection, names)
    )
    if not wallets.keys() | busy >= set(stripes.values()):
        # A fail-over may have lost the treasury's wallets: a standby that lagged became the primary.
        await open_stripes(connection, slot, sorted(stripes))
        wallets |= await lock_wallets(connection, stripes.values())
    accounts: dict[tuple[WalletName, int], _Account] = {}

    def account(name: WalletName, asset: Asset) -> _Account:
        return accounts.setdefault((name, asset.id), _Account(wallets[name], name.kind, asset))

    def item(request: PostingRequest, owner: WalletName) -> _Item | WalletMissing | WalletBusy:
        stripe = stripes[request.shard]
        if owner in busy or (owner in wallets and stripe in busy):
            return WalletBusy()
        if owner not in wallets:
            return WalletMissing(request.owner_id)
        return _Item(request, account(owner, request.asset), account(stripe, request.asset))

    return [item(request, owner) for request, owner in zip(requests, owners, strict=True)]


async def _read_heads(connection: Connection, accounts: dict[_AccountName, _Account]) -> datetime:
    """Bring every account to the end of its chain; returns the clock, read after the locks."""
    rows = await connection.fetch(_HEADS, *_columns(accounts, 3))
    for shard, wallet_id, asset_id, id_, seq, balance_after, executed_at, _ in rows:
        if id_ is None:
            continue
        account = accounts[_AccountName(shard, wallet_id, asset_id)]
        account.id = id_
        if seq is not None:
            account.seq, account.balance_minor, account.executed_at = seq, balance_after, executed_at
    now: datetime = rows[0][-1]
    return now


async def _read_keys(connection: Connection, items: Sequence[_Item]) -> dict[_KeyName, _Answered]:
    """Look up all keys at once, under the locks: an answer from an unlocked read could still be lost."""
    wanted = {(*item.key_name, item.user.asset.id) for item in items}
    rows = await connection.fetch(_KEYS, *_columns(wanted, 4))
    # A batch may ask for several things under one key: what was answered is told to who asks for the same.
    asking = {(item.key_name, item.request.fingerprint): item for item in items} if rows else {}
    answered: dict[_KeyName, _Answered] = {}
    for shard, wallet_id, key, fingerprint, code, transaction_id, before_minor, *leg in rows:
        name = _KeyName(shard, wallet_id, key)
        item = asking.get((name, fingerprint))
        outcome: Posted | Refused | None = None
        if item is not None and code != OutcomeCode.POSTED:
            outcome = Refused(
                OutcomeCode(code), before_minor, item.request.amount_minor, item.user.position(), already_processed=True
            )
        elif item is not None and leg[0] is not None:
            transaction = _view(item, transaction_id, *leg)
            outcome = Posted(transaction, item.user.position(), already_processed=True)
        if outcome is not None or name not in answered:
            answered[name] = _Answered(fingerprint, transaction_id, outcome)
    return answered


async def _open_accounts(
    connection: Connection,
    accounts: dict[_AccountName, _Account],
    items: Iterable[_Item],
    answered: Collection[_KeyName],
) -> None:
    """Open the accounts that postings need; a spend from an account that was never used is refused without one."""
    new = {
        account.name: account
        for item in items
        # A spend can be the first posting of a stripe: another slot's credited what it debits.
        if (item.request.type.sign > 0 or item.user.id) and item.key_name not in answered
        for account in (item.user, item.treasury)
        if not account.id
    }
    if not new:
        return
    rows = [(name.shard, name.wallet_id, account.kind, name.asset_id) for name, account in sorted(new.items())]
    for shard, wallet_id, asset_id, id_ in await connection.fetch(_OPEN_ACCOUNTS, *_columns(rows, 4)):
        accounts[_AccountName(shard, wallet_id, asset_id)].id = id_


def _decide(batch: _Batch, item: _Item) -> Outcome | Unavailable:
    """Answer one request on the heads as the requests before it left them."""
    request, user = item.request, item.user
    first = batch.answered.get(item.key_name)
    if first is not None:
        if first.outcome is None or first.fingerprint != request.fingerprint:
            return KeyReused(request.idempotency_key)
        # A batch that is replayed after an unknown COMMIT finds its own work: that is no second request.
        return replace(
            first.outcome,
            balance=user.position(),
            already_processed=first.transaction_id != request.transaction_id,
        )
    code = _judge(batch, item)
    if isinstance(code, Unavailable):
        return code
    asked = request.fingerprint
    outcome = _post(batch, item, asked) if code is OutcomeCode.POSTED else _refuse(batch, item, asked, code)
    batch.answered[item.key_name] = _Answered(asked, request.transaction_id, outcome)
    return outcome


def _judge(batch: _Batch, item: _Item) -> OutcomeCode | Unavailable:
    user, treasury = item.user, item.treasury
    amount_minor = item.request.type.sign * item.request.amount_minor
    balance_minor = user.balance_minor + amount_minor
    if user.executed_at is not None and user.executed_at > batch.now + HEAD_AHEAD_MAX:
        ahead_seconds = round((user.executed_at - batch.now).total_seconds())
        return batch.unavailable(
            "wallet_ahead_of_clock", shard=user.wallet.shard, wallet_id=user.wallet.id, ahead_seconds=ahead_seconds
        )
    if balance_minor > BALANCE_MINOR_MAX:
        return OutcomeCode.BALANCE_LIMIT_EXCEEDED
    if balance_minor < 0:
        return OutcomeCode.INSUFFICIENT_BALANCE
    if abs(treasury.balance_minor - amount_minor) > TREASURY_MINOR_MAX:
        return batch.unavailable(
            "treasury_stripe_exhausted",
            shard=treasury.wallet.shard,
            slot=treasury.wallet.owner_id,
            asset=treasury.asset.code,
        )
    return OutcomeCode.POSTED


def _refuse(batch: _Batch, item: _Item, asked: bytes, code: OutcomeCode) -> Refused:
    """Keep a refusal that depends on the wallet's state: a late retry must not go through."""
    request, user = item.request, item.user
    # With its asset and amount the refusal can be told by the key alone; those of 0.1.0 have the balance only.
    facts = {
        "balance_before_minor": user.balance_minor,
        "asset_id": request.asset.id,
        "amount_minor": request.amount_minor,
    }
    details = orjson.dumps(facts).decode()
    batch.refused.append((*item.key_name, asked, code, request.transaction_id, details))
    return Refused(code, user.balance_minor, request.amount_minor, user.position(), already_processed=False)


def _post(batch: _Batch, item: _Item, asked: bytes) -> Posted:
    """Append a transaction with its two legs to the rows to insert, and move the heads."""
    request, user, treasury = item.request, item.user, item.treasury
    # An owner's times never run backwards, whatever the clock does.
    executed_at = max(batch.now, user.executed_at or batch.now)
    amount_minor = request.type.sign * request.amount_minor
    user.move(amount_minor, executed_at)
    treasury.move(-amount_minor, executed_at)
    batch.posted.append((
        request.shard, request.transaction_id, request.type, user.wallet.id, request.idempotency_key, asked,
        request.description, request.reference, amount_minor, executed_at,
        user.id, user.seq, user.balance_minor, treasury.id, treasury.seq, treasury.balance_minor,
    ))  # fmt: skip
    transaction = _view(item, request.transaction_id, user.id, user.seq, amount_minor, user.balance_minor, executed_at)
    return Posted(transaction, user.position(), already_processed=False)


def _view(
    item: _Item,
    transaction_id: UUID,
    account_id: int,
    seq: int,
    amount_minor: int,
    balance_after_minor: int,
    executed_at: datetime,
) -> TransactionView:
    request = item.request
    return TransactionView(
        shard=request.shard,
        account_id=account_id,
        seq=seq,
        wallet_id=item.user.wallet.id,
        asset=request.asset,
        id=transaction_id,
        type=request.type,
        amount_minor=amount_minor,
        balance_after_minor=balance_after_minor,
        executed_at=executed_at,
        description=request.description,
        reference=request.reference,
        idempotency_key=request.idempotency_key,
    )


def _columns(rows: Collection[tuple[Any, ...]], width: int) -> list[tuple[Any, ...]]:
    """Turn rows into one array a column."""
    return list(zip(*rows, strict=True)) or [()] * width
