"""Prepares the treasury's side of what expires: the stripe that a posting has in hand, or one of a line of work's own.

That one is locked after all other wallets, and whoever has it locks nothing more: that is one more place in the one
order of locks. So nothing else of the treasury waits while a great deal is over at the same midnight.
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
    connection: Connection, over: Iterable[Account], accounts: Iterable[Account], stripe_of: Callable[[int], WalletName]
) -> None:
    """Give each account of which something is over what gets that: a stripe of the treasury in its shard.

    Where postings of the batch have one in hand it is that, for it is among the `accounts`. For others one is locked.
    """
    lapsing = list(over)
    if not lapsing:
        return
    stripes = {_place(account): account for account in accounts if account.kind is WalletKind.TREASURY}
    lacking = {_place(account): account for account in lapsing if _place(account) not in stripes}
    if lacking:
        names = {stripe_of(account.wallet.shard) for account in lacking.values()}
        wallets = await lock_wallets(connection, names)
        if missing := names - wallets.keys():
            await open_stripes(connection, missing)
            wallets |= await lock_wallets(connection, missing)
        locked = {
            place: Account(wallets[stripe_of(account.wallet.shard)], WalletKind.TREASURY, account.asset)
            for place, account in lacking.items()
        }
        await read_heads(connection, {stripe.name: stripe for stripe in locked.values()})
        stripes |= locked
    for account in lapsing:
        account.expiry = stripes[_place(account)]
    used = {_place(account): stripes[_place(account)] for account in lapsing}
    await open_accounts(connection, [stripe for stripe in used.values() if not stripe.id])


def _place(account: Account) -> tuple[int, int]:
    return account.wallet.shard, account.asset.id
