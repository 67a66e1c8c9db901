"""The only writer of transactions, entries and idempotency keys.

What a batch of postings costs between BEGIN and COMMIT, whatever its size:

| statement | what it does |
| --- | --- |
| 1 lock | the wallets of all requests and their treasury stripes, in the fixed order |
| 2 heads | the clock, and the last entry of every account concerned, read after the lock |
| 3 keys | every key that was answered before, with its transaction |
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
from wallet_gql.domain.postings import Outcome, OutcomeCode, PostingRequest, WalletMissing
from wallet_gql.domain.wallets import OwnerName, WalletKind, WalletName
from wallet_gql.ledger.columns import arrays, names, unnest
from wallet_gql.ledger.decide import Batch, Item, decide, needs_accounts, recall
from wallet_gql.ledger.heads import Account, open_accounts, read_heads, read_keys
from wallet_gql.ledger.locks import lock_free_wallets, lock_wallets
from wallet_gql.ledger.rows import PostedRow, RefusedRow
from wallet_gql.ledger.treasury import open_stripes

# Sorted by their keys, rows keep the indexes' pages dense. What is refused has no transaction, but a key.
_INSERT: Final = f"""
WITH posted AS MATERIALIZED (
  SELECT * FROM {unnest(PostedRow, "posted")}
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
INSERT INTO idempotency_key ({names(RefusedRow)})
SELECT shard, wallet_id, key, fingerprint, {OutcomeCode.POSTED:d}, id, NULL::jsonb FROM posted
 UNION ALL
SELECT {names(RefusedRow)} FROM {unnest(RefusedRow, "refused", first=len(PostedRow._fields) + 1)}
 ORDER BY shard, wallet_id, key
"""

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class WalletBusy:
    """Somebody else holds the wallet's lock; nothing was decided. Only a batch that does not wait answers so."""


Decided: TypeAlias = Outcome | WalletBusy | Unavailable
"""What a batch answers to one request."""


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
    found = [item for item in items if isinstance(item, Item)]
    if not found:
        return [item for item in items if not isinstance(item, Item)]
    now = await read_heads(connection, {each.name: each for item in found for each in (item.user, item.treasury)})
    batch = Batch(now, recall(found, await read_keys(connection, {item.wanted_key for item in found})))
    needed = [each for item in found if needs_accounts(batch, item) for each in (item.user, item.treasury)]
    if unopened := [account for account in needed if not account.id]:
        await open_accounts(connection, unopened)
    outcomes: list[Decided] = [decide(batch, item) if isinstance(item, Item) else item for item in items]
    for alarm, where in batch.alarms.items():
        _log.error(alarm, **where)
    if batch.posted or batch.refused:
        await connection.execute(_INSERT, *arrays(PostedRow, batch.posted), *arrays(RefusedRow, batch.refused))
    return outcomes


async def _lock(
    connection: Connection, requests: Sequence[PostingRequest], slot: int, *, wait: bool
) -> list[Item | WalletMissing | WalletBusy]:
    """Lock every wallet concerned, and join each request with the accounts it moves credits between."""
    stripes = {request.shard: WalletName(request.shard, WalletKind.TREASURY, str(slot)) for request in requests}
    owners = [OwnerName(request.shard, request.owner_id).wallet_name for request in requests]
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
    accounts: dict[tuple[WalletName, int], Account] = {}

    def account(name: WalletName, asset: Asset) -> Account:
        return accounts.setdefault((name, asset.id), Account(wallets[name], name.kind, asset))

    def item(request: PostingRequest, owner: WalletName) -> Item | WalletMissing | WalletBusy:
        stripe = stripes[request.shard]
        if owner in busy or (owner in wallets and stripe in busy):
            return WalletBusy()
        if owner not in wallets:
            return WalletMissing(request.owner_id)
        return Item(request, account(owner, request.asset), account(stripe, request.asset))

    return [item(request, owner) for request, owner in zip(requests, owners, strict=True)]
