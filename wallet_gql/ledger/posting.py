"""The only writer of transactions, entries and idempotency keys.

What a batch of postings costs between BEGIN and COMMIT, whatever its size:

| statement | what it does |
| --- | --- |
| 1 lock | the wallets of all requests and their treasury stripes, in the fixed order |
| 2 heads | the clock, and the last entry of every account concerned, read after the lock |
| 3 keys | every key that was answered before, with its transaction |
| (receipts) | locks of receipts before all others, and which were credited, only where the batch has some |
| (issuers) | locks of those who may issue so much a day, before the receipts, and what they issued today, likewise |
| (reversals) | how much of the originals was reversed, only where the batch has refunds or clawbacks |
| (settings) | whether owners may transfer the assets, only where the batch has a transfer |
| (limits) | what moved before the windows of limits began, and what these say, only where there are some; two |
| (states) | what has become of wallets, and what their owners owe, only where something has; two |
| (lots) | what accounts with lots have left in them, and what originals moved of them, only where there are some |
| (expiry) | the treasury's side of what is over, locked, opened and read, only where something is |
| (holds) | those that are open or named, only where the batch has requests for holds, or some that are due; two |
| (4 open) | accounts for the first posting in an asset |
| 5 insert | transactions, entries and keys, by one statement over arrays |

Before the insert the batch is decided in memory (`decide`), in arrival order, on the heads as they move.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import cache
from typing import Final, TypeAlias

import structlog
from asyncpg import Connection

from wallet_gql.domain.errors import Forbidden, Unavailable
from wallet_gql.domain.postings import Outcome, PostingRequest, Request, Shortfall, TransactionType
from wallet_gql.domain.refusals import OutcomeCode
from wallet_gql.domain.wallets import WalletKind, WalletName
from wallet_gql.ledger.append import append_state
from wallet_gql.ledger.batch import (
    ITEMS,
    Batch,
    HoldItem,
    Item,
    PlaceItem,
    PostingItem,
    ReverseItem,
    StateItem,
    TransferItem,
    wanted_key,
)
from wallet_gql.ledger.columns import arrays, cast, element, names, unnest
from wallet_gql.ledger.decide import accounts_needed, book_due, decide
from wallet_gql.ledger.expiring import prepare_expiry, what_may_lapse
from wallet_gql.ledger.heads import Account, AccountName, KeptAnswer, open_accounts, read_heads, read_keys
from wallet_gql.ledger.holds import read_holds, read_open_holds
from wallet_gql.ledger.issuance import day_of, read_issued
from wallet_gql.ledger.items import Joined, WalletBusy, lock_items
from wallet_gql.ledger.judge import present_state
from wallet_gql.ledger.limits import KnownLimits, read_limits
from wallet_gql.ledger.locks import lock_wallets
from wallet_gql.ledger.lots import read_lots, read_taken_back, read_uses
from wallet_gql.ledger.reads import read_asset_settings
from wallet_gql.ledger.recall import held_names, recall
from wallet_gql.ledger.receipts import lock_issuers, lock_receipts, read_receipts
from wallet_gql.ledger.reversals import read_reversed
from wallet_gql.ledger.rows import OTHERS, EntryRow, TransactionRow
from wallet_gql.ledger.states import WalletId, read_states
from wallet_gql.ledger.treasury import debts_of, expiry, open_stripes

_FIRST_ENTRY: Final = len(TransactionRow._fields) + 2
_FIRST_OTHER: Final = _FIRST_ENTRY + len(EntryRow._fields)

# What a leg shares with its transaction, by the number of that: a join would compare each leg with each transaction.
_SHARED: Final = ", ".join(
    [f"{element(TransactionRow, column, 'n', first=2)} AS {column}" for column in ("shard", "id", "type")]
    + [f"coalesce({element(TransactionRow, 'executed_at', 'n', first=2)}, $1) AS executed_at"]
)

# Sorted by their keys, rows keep the indexes' pages dense.
_INSERT: Final = f"""
WITH posted AS MATERIALIZED (
  SELECT * FROM {unnest(TransactionRow, "posted", first=2)}
), new_transaction AS (
  INSERT INTO transaction (shard, id, type, wallet_id, executed_at, idempotency_key, description, reference,
                           counterpart_shard, counterpart_id)
  SELECT shard, id, type, wallet_id, coalesce(executed_at, $1::timestamptz), idempotency_key, description, reference,
         counterpart_shard, counterpart_id
    FROM posted ORDER BY shard, id
), new_entry AS (
  INSERT INTO entry (shard, transaction_id, type, executed_at, account_id, seq, amount, balance_after, may_go_negative)
  SELECT {_SHARED}, account_id, seq, amount, balance_after, may_go_negative
    FROM {unnest(EntryRow, "leg", first=_FIRST_ENTRY)} ORDER BY shard, account_id, seq
)
INSERT INTO idempotency_key (shard, wallet_id, key, fingerprint, outcome, transaction_id, created_at)
SELECT shard, wallet_id, idempotency_key, fingerprint, {OutcomeCode.POSTED:d}, id, $1::timestamptz
  FROM posted WHERE fingerprint IS NOT NULL
 ORDER BY shard, wallet_id, idempotency_key
"""


# A column that says when something was decided: one value for the whole batch, which is not sent for each row.
_DECIDED_AT: Final = {
    "transaction_note": (
        "at",
        "CASE WHEN num_nonnulls(other.actor_kind, other.request_id) > 0 THEN $1::timestamptz END",
    )
}


@cache
def _insert(*tables: str) -> str:
    """Return the statement that inserts a batch; `tables` are what it fills besides transactions, entries and keys."""
    statement, first = _INSERT, _FIRST_OTHER
    for table in tables:
        row = OTHERS[table]
        columns, values = names(row), cast(row, "other")
        if table in _DECIDED_AT:
            column, value = _DECIDED_AT[table]
            columns, values = f"{columns}, {column}", f"{values}, {value}"
        rows = f"SELECT {values} FROM {unnest(row, 'other', first=first)} ORDER BY 1, 2, 3"
        inserted = f"other_{table} AS (INSERT INTO {table} ({columns}) {rows})"
        statement = statement.replace("WITH ", f"WITH {inserted}, ", 1)
        first += len(row._fields)
    return statement


_log = structlog.get_logger()


Decided: TypeAlias = Outcome | WalletBusy | Unavailable | Forbidden
"""What a batch answers to one request."""


async def post_batch(
    connection: Connection,
    requests: Sequence[Request],
    slot: int,
    *,
    line: int = 0,
    wait: bool = True,
    known: KnownLimits | None = None,
) -> list[Decided]:
    """Post a batch under its wallets' locks against the stripes of `slot`; one outcome per request, in order.

    Four statements, five when accounts are opened, one more for transfers, whatever the batch's size. `line` is the
    slot's line of work: what posts at the same time needs another one. Without `wait`, and where there are issuers,
    requests that concern a wallet or stripe that somebody else has locked are answered `WalletBusy`. Issuers are waited
    for. `known` is what the worker remembers of limits. Raises nothing for a refusal: it is an outcome, and docs/api.md
    says which wins. A request that the owner may make and the ledger cannot post gets an `Unavailable`, which is not
    kept: an owner's last entry is in the future (before balances are looked at), or a stripe is at its end.
    """
    items, concerned = await _lock(connection, requests, slot, line, wait=wait)
    found = [item for item in items if isinstance(item, ITEMS)]
    if not found:
        return [item for item in items if not isinstance(item, ITEMS)]
    accounts = {account.name: account for account in concerned}
    batch = Batch(await read_heads(connection, accounts), {})
    kept = await read_keys(connection, {wanted_key(item) for item in found})
    await read_debts(connection, batch, concerned)
    await _read_named(connection, batch, found)
    await read_limits(connection, concerned, batch.now, known)
    await _read_more(connection, batch, found, concerned, kept)
    await _read_lots(connection, batch, found, concerned, lambda shard: expiry(shard, slot, line))
    book_due(batch, concerned)
    batch.answered = recall(batch, found, kept)
    await _open_debts(connection, batch, found)
    if not all(account.id for account in concerned):
        await open_accounts(connection, accounts_needed(batch, found))
    outcomes: list[Decided] = [decide(batch, item) if isinstance(item, ITEMS) else item for item in items]
    _tell(batch)
    await insert(connection, batch)
    return outcomes


async def _lock(
    connection: Connection, requests: Sequence[Request], slot: int, line: int, *, wait: bool
) -> tuple[Sequence[Joined], Sequence[Account]]:
    """Lock all that requests concern, in the one order: issuers, receipts, wallets."""
    receipts = [each.receipt for each in requests if isinstance(each, PostingRequest) and each.receipt is not None]
    issuers = {each.issuer.name for each in requests if isinstance(each, PostingRequest) and each.issuer is not None}
    if issuers:
        await lock_issuers(connection, issuers)
        wait = False
    busy_receipts = await lock_receipts(connection, receipts, wait=wait) if receipts else set[str]()
    return await lock_items(connection, requests, slot, line, busy_receipts, wait=wait)


def _tell(batch: Batch) -> None:
    """Tell the operator what a batch met: alarms, and limits that only warn."""
    for alarm, where in batch.alarms.items():
        _log.error(alarm, **where)
    for warning in batch.warned:
        _log.warning("limit_exceeded", **warning)


async def insert(connection: Connection, batch: Batch) -> None:
    """Insert what a batch has to insert, by one statement; none where there is nothing."""
    if batch.is_empty:
        return
    others = {table: batch.others[row] for table, row in OTHERS.items() if row in batch.others}
    await connection.execute(
        _insert(*others),
        batch.now,
        *arrays(TransactionRow, batch.transactions),
        *arrays(EntryRow, batch.entries),
        *(array for table, rows in others.items() for array in arrays(OTHERS[table], rows)),
    )


async def read_debts(connection: Connection, batch: Batch, accounts: Iterable[Account]) -> None:
    """Read what has become of wallets, and what their owners owe: of most nothing ever has."""
    changed = [account for account in accounts if account.state_step]
    if not changed:
        return
    batch.states = await read_states(connection, {WalletId(each.wallet.shard, each.wallet.id) for each in changed})
    for account in changed:
        debt_wallet_id = present_state(batch, account).debt_wallet_id
        if debt_wallet_id is not None:
            account.debt = Account(replace(account.wallet, id=debt_wallet_id), WalletKind.DEBT, account.asset)
    if debts := {account.debt.name: account.debt for account in changed if account.debt is not None}:
        await read_heads(connection, debts)


async def _open_debts(connection: Connection, batch: Batch, items: Sequence[Item]) -> None:
    """Open the accounts of what owners may come to owe by this batch. Their own locks protect these, too."""
    asking = [each for each in items if isinstance(each, ReverseItem) and each.request.on_shortfall is Shortfall.DEBT]
    lacking = {
        item.owner.name: item
        for item in asking
        if item.key not in batch.answered and (item.owner.debt is None or not item.owner.debt.id)
    }
    if not lacking:
        return
    names = {name: debts_of(item.owner.wallet) for name, item in lacking.items()}
    await open_stripes(connection, set(names.values()))
    wallets = await lock_wallets(connection, names.values())
    debts = []
    for name, item in lacking.items():
        owner, wallet = item.owner, wallets[names[name]]
        owner.debt = Account(wallet, WalletKind.DEBT, owner.asset)
        debts.append(owner.debt)
        state = present_state(batch, owner)
        if state.debt_wallet_id is None:
            in_debt = replace(state, step=state.step + 1, debt_wallet_id=wallet.id)
            append_state(batch, in_debt, item.request.transaction_id)
    await open_accounts(connection, debts)


async def _read_named(connection: Connection, batch: Batch, items: Sequence[Item]) -> None:
    """Read what was done with the receipts and by the issuers of a batch, if it has any."""
    postings = [item.request for item in items if isinstance(item, PostingItem)]
    if receipts := [each.receipt for each in postings if each.receipt is not None]:
        batch.credited = await read_receipts(connection, receipts)
    if issuers := {
        (each.issuer.shard, each.issuer.name, each.asset.id) for each in postings if each.issuer is not None
    }:
        batch.issued = await read_issued(connection, issuers, day_of(batch.now))


def _asks_for_settings(item: Item) -> bool:
    """Say whether a request is decided on what operators set of its asset."""
    match item:
        case PostingItem():
            return item.request.type is TransactionType.BONUS
        case PlaceItem():
            return item.receiver is not None
        case ReverseItem():
            return item.request.lapsed_until is not None
        case _:
            return False


def only_spent(batch: Batch, items: Sequence[Item], accounts: Iterable[Account]) -> dict[AccountName, int]:
    """Return how much is spent from accounts with which nothing else is done, and of which nothing is due."""
    spent = {
        account.name: 0
        for account in accounts
        if account.debt is None
        and not account.held_minor
        and (account.next_due_at is None or account.next_due_at > batch.now)
    }
    for item in items:
        request = item.request
        if isinstance(request, PostingRequest) and request.sources is None:
            if request.type is TransactionType.SPEND and item.owner.name in spent:
                spent[item.owner.name] += request.amount_minor
            if request.type is not TransactionType.BONUS:
                continue
        for account in item.accounts:
            spent.pop(account.name, None)
    return spent


async def _read_lots(
    connection: Connection,
    batch: Batch,
    items: Sequence[Item],
    accounts: Sequence[Account],
    stripe_of: Callable[[int], WalletName],
) -> None:
    """Read which lots accounts have, and what originals took from them or put into them; prepare for what is over."""
    if all(account.lots_seq is None for account in accounts):
        return
    await read_lots(connection, accounts, only_spent(batch, items, accounts))
    reversing = [item for item in items if isinstance(item, ReverseItem) and item.owner.lots_seq is not None]
    if reversing:
        originals = [(item.owner, item.request.original.seq) for item in reversing]
        for item, uses in zip(reversing, await read_uses(connection, originals), strict=True):
            batch.uses[item.request.original.name] = uses
        again = [item for item in reversing if item.request.original.name in batch.reversed]
        names = [(item.owner, item.request.original.name) for item in again]
        for (_, name), taken in zip(names, await read_taken_back(connection, names) if names else (), strict=True):
            batch.taken_back[name] = taken
    await prepare_expiry(connection, what_may_lapse(batch, items, accounts), accounts, stripe_of)


async def _read_more(
    connection: Connection,
    batch: Batch,
    items: Sequence[Item],
    accounts: Sequence[Account],
    kept: Sequence[KeptAnswer],
) -> None:
    """Read what only some kinds of requests are decided on: a statement each, only where the batch has one of them."""
    kinds = {type(item) for item in items}
    if not kinds.isdisjoint({TransferItem, StateItem}) or any(map(_asks_for_settings, items)):
        batch.settings = await read_asset_settings(connection)
    if ReverseItem in kinds:
        originals = {item.request.original.name for item in items if isinstance(item, ReverseItem)}
        batch.reversed = await read_reversed(connection, list(originals))
    held = {
        account.name: account
        for account in accounts
        if account.next_due_at is not None and account.next_due_at <= batch.now
    }
    if not kinds.isdisjoint({PlaceItem, HoldItem}):
        held |= {item.owner.name: item.owner for item in items if isinstance(item, (PlaceItem, HoldItem))}
    closing = [each.owner for item in items if isinstance(item, StateItem) for each in item.remains]
    held |= {account.name: account for account in closing if account.held_seq is not None}
    held |= {account.name: account for account in accounts if account.rules and account.counts_holds}
    # When something of them is due next is looked for anew.
    held |= {account.name: account for account in accounts if account.lots_seq is not None and account.held_minor}
    if held:
        await read_open_holds(connection, list(held.values()), batch.now)
        batch.holds |= {hold.name: hold for account in held.values() for hold in account.holds.values()}
    if named := held_names(items, kept) - batch.holds.keys():
        closed = await read_holds(connection, list(named))
        batch.holds |= {hold.name: replace(hold, as_of=batch.now) for hold in closed if hold is not None}
