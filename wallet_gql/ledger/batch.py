"""What a batch is made of: requests with the accounts they are decided on, and the movements they become."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, NamedTuple, TypeAlias
from uuid import UUID

from wallet_gql.domain.access import SWEEPER, AskedBy
from wallet_gql.domain.assets import AssetSetting
from wallet_gql.domain.errors import Forbidden, Unavailable
from wallet_gql.domain.holds import Hold, HoldName
from wallet_gql.domain.lots import LotUse
from wallet_gql.domain.postings import (
    Changed,
    Held,
    HoldMissing,
    HoldRequest,
    Nothing,
    PlaceHoldRequest,
    Posted,
    PostingRequest,
    Refused,
    ReverseRequest,
    StateRequest,
    TransactionName,
    TransactionType,
    TransferRequest,
    WalletMissing,
)
from wallet_gql.domain.refusals import Facts
from wallet_gql.domain.wallets import Wallet, WalletState
from wallet_gql.ledger.choose_lots import LotChange
from wallet_gql.ledger.heads import Account, KeyName, WantedKey
from wallet_gql.ledger.rows import EntryRow, OtherRow, TransactionRow
from wallet_gql.ledger.states import States


class PostingItem(NamedTuple):
    """A posting with the accounts it moves credits between."""

    request: PostingRequest
    key: KeyName
    owner: Account
    treasury: Account

    @property
    def accounts(self) -> tuple[Account, ...]:
        """All accounts that it may change."""
        return (self.owner, self.treasury)


class TransferItem(NamedTuple):
    """A transfer with its accounts; without a receiver where the receiver has no wallet."""

    request: TransferRequest
    key: KeyName
    owner: Account
    clearing: Account
    receiver: Account | None
    receiver_clearing: Account

    @property
    def accounts(self) -> tuple[Account, ...]:
        """All accounts that it may change."""
        own = (self.owner, self.clearing)
        return own if self.receiver is None else (*own, self.receiver, self.receiver_clearing)


class PlaceItem(NamedTuple):
    """A hold to place with its account; `receiver` is None where there is none, or it has no wallet."""

    request: PlaceHoldRequest
    key: KeyName
    owner: Account
    receiver: Wallet | None

    @property
    def accounts(self) -> tuple[Account, ...]:
        """All accounts that it may change."""
        return (self.owner,)


class HoldItem(NamedTuple):
    """A hold to capture, void or adjust with its account.

    A capture has the stripe that it pays: the treasury's, or clearing's and the receiver with the one on its side.
    """

    request: HoldRequest
    key: KeyName
    owner: Account
    stripe: Account | None
    receiver: Account | None
    receiver_clearing: Account | None

    @property
    def accounts(self) -> tuple[Account, ...]:
        """All accounts that it may change."""
        return tuple(
            each for each in (self.owner, self.stripe, self.receiver, self.receiver_clearing) if each is not None
        )


class ReverseItem(NamedTuple):
    """A refund or clawback with its accounts.

    `stripe` is the treasury's, or clearing's where a transfer goes back to who had sent it: `sender` with its side.
    `creditor` is the treasury's, where the owner may come to owe something.
    """

    request: ReverseRequest
    key: KeyName
    owner: Account
    stripe: Account
    sender: Account | None
    sender_clearing: Account | None
    creditor: Account | None

    @property
    def accounts(self) -> tuple[Account, ...]:
        """All accounts that it may change, but what the owner owes."""
        sides = (self.owner, self.stripe, self.sender, self.sender_clearing, self.creditor)
        return tuple(each for each in sides if each is not None)


class Remains(NamedTuple):
    """An account of a wallet that is to be closed, with what gets what it still has.

    `stripe` is the treasury's, or clearing's where a receiver gets it: then with the one on its side.
    """

    owner: Account
    treasury: Account
    stripe: Account
    receiver: Account | None
    receiver_clearing: Account | None

    @property
    def accounts(self) -> tuple[Account, ...]:
        """All accounts that it may change."""
        sides = (self.owner, self.treasury, self.stripe, self.receiver, self.receiver_clearing)
        return tuple(each for each in sides if each is not None)


class StateItem(NamedTuple):
    """A wallet to freeze, unfreeze, close or reopen; `owner` is an account of it in any asset, for its refusals.

    Of a closing `remains` are all its accounts; `receiver` is None where there is none, or it has no wallet.
    """

    request: StateRequest
    key: KeyName
    owner: Account
    receiver: Wallet | None
    remains: tuple[Remains, ...]

    @property
    def accounts(self) -> tuple[Account, ...]:
        """All accounts that it may change."""
        return (self.owner, *(account for each in self.remains for account in each.accounts))


Item: TypeAlias = PostingItem | TransferItem | PlaceItem | HoldItem | ReverseItem | StateItem
"""A request with the accounts that it is decided on; `owner` is the account of the wallet whose key it is."""


ITEMS: Final = (PostingItem, TransferItem, PlaceItem, HoldItem, ReverseItem, StateItem)
"""The kinds of items: to ask for one of a tuple is quicker than for one of a union."""


class Leg(NamedTuple):
    """What a transaction adds to an account's balance, and to which of its lots.

    Without `lots` it is what there is to take, as it is spent, or what the other half of a transfer took.
    """

    account: Account
    amount_minor: int
    lots: tuple[LotChange, ...] | None = None


class HoldChange(NamedTuple):
    """A step of a hold: what it was, None where it is placed, and what it is."""

    before: Hold | None
    after: Hold


class Reversed(NamedTuple):
    """How much of a transaction was reversed, in how many steps."""

    step: int
    amount_minor: int


class Issued(NamedTuple):
    """How much an issuer has issued of an asset today, in how many steps."""

    step: int
    amount_minor: int


IssuerAsset: TypeAlias = tuple[str, int]
"""An issuer's name, and an asset's id."""


class Movement(NamedTuple):
    """A transaction to post: its legs, the owner's first.

    It may be the half of a transfer, capture a hold by a step of it, or reverse an original, of which so much was
    reversed before. `wallet` is whose transaction it is where no leg is of that wallet.
    """

    type: TransactionType
    id: UUID
    legs: tuple[Leg, ...]
    counterpart: TransactionName | None = None
    captured: HoldChange | None = None
    reverses: tuple[TransactionName, Reversed] | None = None
    wallet: Wallet | None = None


class StateChange(NamedTuple):
    """What becomes of a wallet: the state after it, the holds that end, and what is posted of what remains.

    `after` is None where nothing changes.
    """

    after: WalletState | None
    voided: tuple[tuple[Account, HoldChange], ...] = ()
    movements: tuple[Movement, ...] = ()


class Forgone(NamedTuple):
    """There is nothing to take back; what was to be taken is forgone, or is owed by `indebted`."""

    amount_minor: int
    indebted: Movement | None = None


class Movements(tuple[Movement, ...]):
    """What is posted together; the first is the one that is answered with."""

    __slots__ = ()


Decision: TypeAlias = (
    Movements | HoldChange | StateChange | Forgone | Facts | WalletMissing | HoldMissing | Unavailable | Forbidden
)
"""How a new request ends: what is posted or how a hold changes; or why nothing is."""


Kept: TypeAlias = Posted | Held | Changed | Nothing | Refused
"""What is kept under a key."""


@dataclass(frozen=True, slots=True)
class Answered:
    """What a key was answered with. `outcome` is None where nobody in the batch asks for the same."""

    fingerprint: bytes
    transaction_id: UUID
    outcome: Kept | None


@dataclass(slots=True)
class Batch:
    """The clock, what was read under the locks, the rows to insert, and what the operator must be told once."""

    now: datetime
    answered: dict[KeyName, Answered]
    settings: Mapping[int, AssetSetting] = field(default_factory=dict)
    credited: dict[str, TransactionName] = field(default_factory=dict)
    issued: dict[IssuerAsset, Issued] = field(default_factory=dict)
    holds: dict[HoldName, Hold] = field(default_factory=dict)
    reversed: dict[TransactionName, Reversed] = field(default_factory=dict)
    uses: dict[TransactionName, tuple[LotUse, ...]] = field(default_factory=dict)
    """What originals took from lots, or put into them."""
    taken_back: dict[TransactionName, dict[int, int]] = field(default_factory=dict)
    """What clawbacks took of originals before, by lot, and by 0 what of the pool; of accounts with lots only."""
    given: dict[UUID, tuple[LotChange, ...]] = field(default_factory=dict)
    """What the first half of a transfer takes from lots, as the second one gives it."""
    states: States = field(default_factory=dict)
    transactions: list[TransactionRow] = field(default_factory=list)
    entries: list[EntryRow] = field(default_factory=list)
    others: dict[type[OtherRow], list[OtherRow]] = field(default_factory=lambda: defaultdict(list))
    alarms: dict[str, dict[str, object]] = field(default_factory=dict)
    exceeded: list[dict[str, object]] = field(default_factory=list)
    """The limits that the request exceeds which is being decided, and that let it through."""
    warned: list[dict[str, object]] = field(default_factory=list)
    """Those that were exceeded by what is posted."""
    asked_by: AskedBy | None = SWEEPER
    """Who asked for what is being appended: the service, until the first request is decided."""

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to insert."""
        return not (self.transactions or self.others)

    def unavailable(self, alarm: str, **where: object) -> Unavailable:
        """Answer a request that cannot be posted through no fault of its owner."""
        self.alarms.setdefault(alarm, where)
        return Unavailable(f"Nothing was posted: {alarm}.")


def wanted_key(item: Item) -> WantedKey:
    """Return an item's key, and the asset in which it wants to see what was posted."""
    return WantedKey(*item.key, item.owner.asset.id)
