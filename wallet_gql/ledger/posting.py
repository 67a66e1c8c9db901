"""The only writer of transactions, entries and idempotency keys.

What a batch of postings costs between BEGIN and COMMIT, whatever its size:

| statement | what it does |
| --- | --- |
| 1 lock | the wallets of all requests and their treasury stripes, in the fixed order |
| 2 heads | the clock, and the last entry of every account concerned, read after the lock |
| 3 keys | every key that was answered before, with its transaction |
| (settings) | whether owners may transfer the assets, only where the batch has a transfer |
| (4 open) | accounts for the first posting in an asset |
| 5 insert | transactions, entries and keys, by one statement over arrays |

Before the insert the batch is decided in memory (`decide`), in arrival order, on the heads as they move.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import structlog
from asyncpg import Connection

from wallet_gql.domain.assets import Asset
from wallet_gql.domain.errors import Unavailable
from wallet_gql.domain.postings import Outcome, PostingRequest, Request, WalletMissing
from wallet_gql.domain.refusals import OutcomeCode
from wallet_gql.domain.wallets import WalletName
from wallet_gql.ledger.columns import arrays, names, unnest
from wallet_gql.ledger.decide import (
    Batch,
    Item,
    PostingItem,
    TransferItem,
    accounts_needed,
    decide,
    recall,
    wanted_key,
)
from wallet_gql.ledger.heads import Account, open_accounts, read_heads, read_keys
from wallet_gql.ledger.locks import lock_free_wallets, lock_wallets
from wallet_gql.ledger.reads import read_asset_settings
from wallet_gql.ledger.rows import EntryRow, RefusedRow, TransactionRow
from wallet_gql.ledger.treasury import clearing, open_stripes, treasury

_FIRST_ENTRY: Final = len(TransactionRow._fields) + 1
_FIRST_REFUSED: Final = _FIRST_ENTRY + len(EntryRow._fields)

# Sorted by their keys, rows keep the indexes' pages dense. What is refused has no transaction, but a key.
_INSERT: Final = f"""
WITH posted AS MATERIALIZED (
  SELECT * FROM {unnest(TransactionRow, "posted")}
), new_transaction AS (
  INSERT INTO transaction (shard, id, type, wallet_id, executed_at, idempotency_key, description, reference,
                           counterpart_shard, counterpart_id)
  SELECT shard, id, type, wallet_id, executed_at, idempotency_key, description, reference,
         counterpart_shard, counterpart_id
    FROM posted ORDER BY shard, id
), new_entry AS (
  INSERT INTO entry ({names(EntryRow)})
  SELECT * FROM {unnest(EntryRow, "leg", first=_FIRST_ENTRY)} ORDER BY shard, account_id, seq
)
INSERT INTO idempotency_key ({names(RefusedRow)})
SELECT shard, wallet_id, idempotency_key, fingerprint, {OutcomeCode.POSTED:d}, id, NULL::jsonb
  FROM posted WHERE fingerprint IS NOT NULL
 UNION ALL
SELECT {names(RefusedRow)} FROM {unnest(RefusedRow, "refused", first=_FIRST_REFUSED)}
 ORDER BY shard, wallet_id, idempotency_key
"""

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class WalletBusy:
    """Somebody else holds the wallet's lock; nothing was decided. Only a batch that does not wait answers so."""


Decided: TypeAlias = Outcome | WalletBusy | Unavailable
"""What a batch answers to one request."""


async def post_batch(
    connection: Connection, requests: Sequence[Request], slot: int, *, line: int = 0, wait: bool = True
) -> list[Decided]:
    """Post a batch under its wallets' locks against the stripes of `slot`; one outcome per request, in order.

    Four statements, five when accounts are opened, one more for transfers, whatever the batch's size. `line` is the
    slot's line of work: what posts at the same time needs another one. Without `wait`, requests that concern a wallet
    or stripe that somebody else has locked are answered `WalletBusy`. Raises nothing for a refusal: it is an outcome.
    The order in which refusals win is the table in docs/api.md. A request that the owner may make and the ledger cannot
    post gets an `Unavailable`, which is not kept: an owner's last entry is in the future (before balances are looked
    at), or a stripe is at its end.
    """
    items = await _lock(connection, requests, slot, line, wait=wait)
    found = [item for item in items if isinstance(item, Item)]
    if not found:
        return [item for item in items if not isinstance(item, Item)]
    now = await read_heads(connection, {each.name: each for item in found for each in item.accounts})
    batch = Batch(now, recall(found, await read_keys(connection, {wanted_key(item) for item in found})))
    if any(isinstance(item, TransferItem) for item in found):
        batch.settings = await read_asset_settings(connection)
    if unopened := [account for account in accounts_needed(batch, found) if not account.id]:
        await open_accounts(connection, unopened)
    outcomes: list[Decided] = [decide(batch, item) if isinstance(item, Item) else item for item in items]
    for alarm, where in batch.alarms.items():
        _log.error(alarm, **where)
    if batch.transactions or batch.refused:
        await connection.execute(
            _INSERT,
            *arrays(TransactionRow, batch.transactions),
            *arrays(EntryRow, batch.entries),
            *arrays(RefusedRow, batch.refused),
        )
    return outcomes


def _stripes(request: Request, slot: int, line: int) -> tuple[WalletName, ...]:
    """Name the system's wallets on the other side of a request: of each owner concerned, in order."""
    if isinstance(request, PostingRequest):
        return (treasury(request.shard, slot),)
    return tuple(clearing(owner.shard, slot, line) for owner in request.owners)


async def _lock(
    connection: Connection, requests: Sequence[Request], slot: int, line: int, *, wait: bool
) -> list[Item | WalletMissing | WalletBusy]:
    """Lock every wallet concerned, and join each request with the accounts it moves credits between."""
    concerned = [
        ([owner.wallet_name for owner in request.owners], _stripes(request, slot, line)) for request in requests
    ]
    stripes = {name for _, names in concerned for name in names}
    names = stripes.union(*(owners for owners, _ in concerned))
    wallets, busy = (
        (await lock_wallets(connection, names), set[WalletName]())
        if wait
        else await lock_free_wallets(connection, names)
    )
    if missing := stripes - wallets.keys() - busy:
        # Clearing's first use; or a fail-over lost the treasury's wallets: a standby that lagged became the primary.
        await open_stripes(connection, missing)
        wallets |= await lock_wallets(connection, missing)
    accounts: dict[tuple[WalletName, int], Account] = {}

    def account(name: WalletName, asset: Asset) -> Account:
        return accounts.setdefault((name, asset.id), Account(wallets[name], name.kind, asset))

    def item(
        request: Request, owners: Sequence[WalletName], stripes: Sequence[WalletName]
    ) -> Item | WalletMissing | WalletBusy:
        # One that is busy parks the whole request; but who has no wallet is told so at once.
        if owners[0] not in wallets and owners[0] not in busy:
            return WalletMissing(request.owner_id)
        if not busy.isdisjoint((*owners, *stripes)):
            return WalletBusy()
        owner, stripe = account(owners[0], request.asset), account(stripes[0], request.asset)
        if isinstance(request, PostingRequest):
            return PostingItem(request, owner, stripe)
        receiver = account(owners[1], request.asset) if owners[1] in wallets else None
        return TransferItem(request, owner, stripe, receiver, account(stripes[1], request.asset))

    return [item(request, *names) for request, names in zip(requests, concerned, strict=True)]
