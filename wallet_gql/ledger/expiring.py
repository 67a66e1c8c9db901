"""Prepares the treasury's side of what expires: a stripe that only one line of work uses.

It is locked after all other wallets, and whoever has it locks nothing more: that is one more place in the one order of
locks. So nothing else of the treasury waits while a great deal is over at the same midnight.
"""

from collections.abc import Callable, Iterable, Sequence

from asyncpg import Connection

from wallet_gql.domain.wallets import WalletKind, WalletName
from wallet_gql.ledger.batch import Batch, Item
from wallet_gql.ledger.heads import Account, open_accounts, read_heads
from wallet_gql.ledger.locks import lock_wallets
from wallet_gql.ledger.treasury import open_stripes


def what_may_lapse(batch: Batch, items: Sequence[Item], accounts: Iterable[Account]) -> list[Account]:
    """Return the owners' accounts of which something is over, and those that may get some of that by a request."""
    over = {account.name: account for account in accounts if _has_lapsed(batch, account)}
    for item in items:
        if any(account.name in over for account in item.accounts):
            over |= {account.name: account for account in item.accounts if account.kind is WalletKind.USER}
    return list(over.values())


def _has_lapsed(batch: Batch, account: Account) -> bool:
    return any(lot.terms.has_lapsed(batch.now) for lot in account.lots.values())


async def prepare_expiry(
    connection: Connection, accounts: Iterable[Account], stripe_of: Callable[[int], WalletName]
) -> None:
    """Give each account the stripe of its shard that gets what expires, locked and at the end of its chain."""
    over = list(accounts)
    if not over:
        return
    names = {stripe_of(account.wallet.shard) for account in over}
    wallets = await lock_wallets(connection, names)
    if missing := names - wallets.keys():
        await open_stripes(connection, missing)
        wallets |= await lock_wallets(connection, missing)
    stripes: dict[tuple[int, int], Account] = {}
    for account in over:
        place = (account.wallet.shard, account.asset.id)
        if place not in stripes:
            stripes[place] = Account(wallets[stripe_of(account.wallet.shard)], WalletKind.TREASURY, account.asset)
        account.expiry = stripes[place]
    await read_heads(connection, {stripe.name: stripe for stripe in stripes.values()})
    await open_accounts(connection, [stripe for stripe in stripes.values() if not stripe.id])
