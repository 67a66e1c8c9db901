"""Joins each request of a batch with the accounts that it is decided on, under the locks of all wallets concerned."""

from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass, field
from typing import TypeAlias, assert_never

from asyncpg import Connection

from wallet_gql.domain.assets import Asset
from wallet_gql.domain.postings import (
    HoldRequest,
    PlaceHoldRequest,
    PostingRequest,
    Request,
    RequestKind,
    ReverseRequest,
    Shortfall,
    StateRequest,
    TransferRequest,
    WalletMissing,
)
from wallet_gql.domain.wallets import OwnerName, Wallet, WalletName
from wallet_gql.ledger.batch import (
    HoldItem,
    Item,
    PlaceItem,
    PostingItem,
    Remains,
    ReverseItem,
    StateItem,
    TransferItem,
)
from wallet_gql.ledger.heads import Account, KeyName
from wallet_gql.ledger.locks import lock_free_wallets, lock_wallets
from wallet_gql.ledger.treasury import clearing, open_stripes, treasury


@dataclass(frozen=True, slots=True)
class WalletBusy:
    """Somebody else holds the wallet's lock; nothing was decided. Only a batch that does not wait answers so."""


Joined: TypeAlias = Item | WalletMissing | WalletBusy


@dataclass(slots=True)
class _Locked:
    """The wallets whose locks are had, those that somebody else has, and the accounts of the batch."""

    wallets: dict[WalletName, Wallet]
    busy: set[WalletName]
    accounts: dict[tuple[WalletName, int], Account] = field(default_factory=dict)

    def account(self, name: WalletName, asset: Asset) -> Account:
        """Return the account of a wallet in an asset: one object, whoever asks for it."""
        account = self.accounts.get((name, asset.id))
        if account is None:
            account = self.accounts[name, asset.id] = Account(self.wallets[name], name.kind, asset)
        return account


async def lock_items(
    connection: Connection, requests: Sequence[Request], slot: int, line: int, busy_receipts: Set[str], *, wait: bool
) -> tuple[list[Joined], list[Account]]:
    """Lock every wallet concerned, and join each request with its accounts; returns them in order, and all accounts."""
    concerned = [
        ([owner.wallet_name for owner in request.owners], _stripes(request, slot, line)) for request in requests
    ]
    stripes = {name for _, names in concerned for name in names}
    names = stripes.union(*(owners for owners, _ in concerned))

    async def lock(names: Iterable[WalletName]) -> tuple[dict[WalletName, Wallet], set[WalletName]]:
        return (await lock_wallets(connection, names), set()) if wait else await lock_free_wallets(connection, names)

    wallets, busy = await lock(names)
    if missing := stripes - wallets.keys() - busy:
        # Clearing's first use; or a fail-over lost the treasury's wallets: a standby that lagged became the primary.
        await open_stripes(connection, missing)
        opened, taken = await lock(missing)
        wallets |= opened
        busy |= taken
    locked = _Locked(wallets, busy)
    items = [
        _join(locked, request, *names, is_busy=bool(busy_receipts) and _receipt(request) in busy_receipts)
        for request, names in zip(requests, concerned, strict=True)
    ]
    return items, list(locked.accounts.values())


def _receipt(request: Request) -> str | None:
    return request.receipt.text if isinstance(request, PostingRequest) and request.receipt is not None else None


def has_issuers(requests: Iterable[Request]) -> bool:
    """Say whether one of the requests counts against what its issuer may issue."""
    return any(isinstance(request, PostingRequest) and request.issuer is not None for request in requests)


def without_issuers(requests: Sequence[Request]) -> dict[int, Request]:
    """Return those, by their places, that need no issuer, and come after none that does for one of their owners."""
    behind: set[OwnerName] = set()
    free: dict[int, Request] = {}
    for n, request in enumerate(requests):
        if has_issuers((request,)) or not behind.isdisjoint(request.owners):
            behind.update(request.owners)
        else:
            free[n] = request
    return free


def _stripes(request: Request, slot: int, line: int) -> tuple[WalletName, ...]:
    """Name the system's wallets on the other side of a request: of each owner concerned, in order."""
    match request:
        case PostingRequest():
            return (treasury(request.shard, slot),)
        case HoldRequest() if request.kind is RequestKind.CAPTURE_HOLD and request.hold.receiver is None:
            return (treasury(request.shard, slot),)
        case ReverseRequest() if request.sender is None:
            return (treasury(request.shard, slot),)
        case ReverseRequest() if request.on_shortfall is Shortfall.DEBT:
            return (*(clearing(owner.shard, slot, line) for owner in request.owners), treasury(request.shard, slot))
        case StateRequest() if not request.assets:
            return ()
        case StateRequest():
            own = treasury(request.shard, slot)
            through = (clearing(owner.shard, slot, line) for owner in request.owners)
            return (own,) if request.receiver is None else (own, *through)
        case HoldRequest() if request.kind is not RequestKind.CAPTURE_HOLD:
            return ()
        case PlaceHoldRequest():
            return ()
        case _:
            return tuple(clearing(owner.shard, slot, line) for owner in request.owners)


def _join(
    locked: _Locked,
    request: Request,
    owners: Sequence[WalletName],
    stripes: Sequence[WalletName],
    *,
    is_busy: bool,
) -> Joined:
    """Return the item of a request; `is_busy` where something else than a wallet keeps it waiting."""
    # One that is busy parks the whole request; but who has no wallet is told so at once.
    if owners[0] not in locked.wallets and owners[0] not in locked.busy:
        return WalletMissing(request.owner_id)
    if is_busy or (locked.busy and not locked.busy.isdisjoint((*owners, *stripes))):
        locked.busy.update(owners)  # what follows for one of them does not overtake it
        return WalletBusy()
    return _item(locked, request, owners, stripes)


def _item(locked: _Locked, request: Request, owners: Sequence[WalletName], stripes: Sequence[WalletName]) -> Item:
    """Join a request with its accounts; all wallets that exist are locked."""
    owner = locked.account(owners[0], request.asset)
    key = KeyName(request.shard, owner.wallet.id, request.idempotency_key)
    if isinstance(request, PostingRequest):
        return PostingItem(request, key, owner, locked.account(stripes[0], request.asset))
    other = owners[1] if len(owners) > 1 and owners[1] in locked.wallets else None
    if isinstance(request, StateRequest):
        remains = tuple(_remains(locked, asset, owners[0], other, stripes) for asset in request.assets)
        return StateItem(request, key, owner, None if other is None else locked.wallets[other], remains)
    sides = [locked.account(stripe, request.asset) for stripe in stripes]
    match request:
        case TransferRequest():
            receiver = None if other is None else locked.account(other, request.asset)
            return TransferItem(request, key, owner, sides[0], receiver, sides[1])
        case PlaceHoldRequest():
            return PlaceItem(request, key, owner, None if other is None else locked.wallets[other])
        case HoldRequest():
            receiver = None if other is None else locked.account(other, request.asset)
            stripe, receiver_clearing = (*sides, None, None)[:2]
            return HoldItem(request, key, owner, stripe, receiver, receiver_clearing)
        case ReverseRequest():
            sender = None if other is None else locked.account(other, request.asset)
            stripe, sender_clearing, creditor = (*sides, None, None)[:3]
            assert stripe is not None
            return ReverseItem(request, key, owner, stripe, sender, sender_clearing, creditor)
        case _:
            assert_never(request)


def _remains(
    locked: _Locked, asset: Asset, owner: WalletName, receiver: WalletName | None, stripes: Sequence[WalletName]
) -> Remains:
    """Return an account of a wallet that is to be closed, with what gets what it has in this asset."""
    treasury, stripe, receiver_clearing = (*(locked.account(each, asset) for each in stripes), None, None)[:3]
    assert treasury is not None
    return Remains(
        locked.account(owner, asset),
        treasury,
        stripe or treasury,
        None if receiver is None else locked.account(receiver, asset),
        receiver_clearing,
    )
