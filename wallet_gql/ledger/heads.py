"""What a batch is decided on, read under its locks: the clock, the ends of the accounts' chains, and the keys' answers.

An answer from an unlocked read could still be lost, and under Read Committed a statement that waited for a lock would
return what was there before it waited.
"""

from bisect import insort
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, NamedTuple
from uuid import UUID

from asyncpg import Connection

from wallet_gql.domain.assets import Asset
from wallet_gql.domain.holds import Hold
from wallet_gql.domain.limits import Flows, Rule, Window, moved
from wallet_gql.domain.lots import Lot
from wallet_gql.domain.money import BALANCE_MINOR_MAX
from wallet_gql.domain.wallets import Balance, Wallet, WalletKind
from wallet_gql.ledger.columns import Bigint, Bytes, Integer, Smallint, Text, Time, Uuid, arrays, select, unnest
from wallet_gql.ledger.lookups import ACCOUNT, HEAD, LIMITS_OF_ALL, OWN_LIMITS, OWNERS_STATE, one_row


class AccountName(NamedTuple):
    """What names an account before it is opened."""

    shard: Smallint
    wallet_id: Bigint
    asset_id: Smallint


class KeyName(NamedTuple):
    """What names an idempotency key: it belongs to its wallet."""

    shard: Smallint
    wallet_id: Bigint
    key: Uuid


class WantedKey(NamedTuple):
    """A key, and the asset in which its transaction is to be shown."""

    shard: Smallint
    wallet_id: Bigint
    key: Uuid
    asset_id: Smallint

    @property
    def name(self) -> KeyName:
        """The key alone."""
        return KeyName(self.shard, self.wallet_id, self.key)


class _Head(NamedTuple):
    """The end of an account's chain; `account_id` is None where it was never opened, `seq` where it has no entry."""

    shard: Smallint
    wallet_id: Bigint
    asset_id: Smallint
    account_id: Bigint | None
    seq: Bigint | None
    balance_minor: Bigint | None
    executed_at: Time | None
    held_minor: Bigint | None
    held_seq: Bigint | None
    position: Bigint | None
    next_due_at: Time | None
    lots_minor: Bigint | None
    lots_seq: Bigint | None
    state_step: Integer | None
    flows: Text | None
    limits_of_all: Uuid | None
    own_limits: Uuid | None
    now: Time


class KeptAnswer(NamedTuple):
    """What a key was answered with; of a transaction the leg in the asset that was wanted, None if it has none."""

    shard: Smallint
    wallet_id: Bigint
    key: Uuid
    fingerprint: Bytes
    outcome: Smallint
    transaction_id: Uuid
    details: Text | None
    counterpart_shard: Smallint | None
    counterpart_id: Uuid | None
    account_id: Bigint | None
    seq: Bigint | None
    amount_minor: Bigint | None
    balance_after_minor: Bigint | None
    executed_at: Time | None

    @property
    def name(self) -> KeyName:
        """The key alone."""
        return KeyName(self.shard, self.wallet_id, self.key)


class _NewAccount(NamedTuple):
    shard: Smallint
    wallet_id: Bigint
    kind: Smallint
    asset_id: Smallint


HEADS: Final = f"""
SELECT {
    select(
        _Head,
        shard="wanted.shard",
        wallet_id="wanted.wallet_id",
        asset_id="wanted.asset_id",
        account_id="a.id",
        seq="head.seq",
        balance_minor="head.balance_after",
        executed_at="head.executed_at",
        held_minor="head.held_after",
        held_seq="head.held_seq",
        position="head.position",
        next_due_at="head.next_due_at",
        lots_minor="head.lots_after",
        lots_seq="head.lots_seq",
        state_step="state.step",
        flows="head.flows::text",
        limits_of_all=LIMITS_OF_ALL,
        own_limits=OWN_LIMITS,
        now="(SELECT wallet_now())",
    )
}
  FROM {unnest(AccountName, "wanted")}
  LEFT JOIN {ACCOUNT} ON true
  LEFT JOIN {HEAD} ON true
  LEFT JOIN {OWNERS_STATE} ON true
"""

KEYS: Final = f"""
SELECT {
    select(
        KeptAnswer,
        shard="k.shard",
        wallet_id="k.wallet_id",
        key="k.key",
        fingerprint="k.fingerprint",
        outcome="k.outcome",
        transaction_id="k.transaction_id",
        details="k.details::text",
        counterpart_shard="t.counterpart_shard",
        counterpart_id="t.counterpart_id",
        account_id="e.account_id",
        seq="e.seq",
        amount_minor="e.amount",
        balance_after_minor="e.balance_after",
        executed_at="e.executed_at",
    )
}
  FROM {unnest(WantedKey, "wanted")}
 CROSS JOIN {
    one_row("idempotency_key", "k", by="key", shard="wanted.shard", wallet_id="wanted.wallet_id", key="wanted.key")
}
  LEFT JOIN {one_row("transaction", "t", by="id", shard="k.shard", id="k.transaction_id")} ON true
  LEFT JOIN {ACCOUNT} ON true
  LEFT JOIN {
    one_row("entry", "e", by="transaction_id", shard="k.shard", transaction_id="k.transaction_id", account_id="a.id")
} ON true
"""

_OPEN_ACCOUNTS: Final = f"""
INSERT INTO account (shard, wallet_id, wallet_kind, asset_id, may_go_negative)
SELECT shard, wallet_id, kind, asset_id, kind <> {WalletKind.USER:d}
  FROM {unnest(_NewAccount, "new")}
RETURNING shard, wallet_id, asset_id, id
"""


@dataclass(slots=True)
class Account:
    """An account under its wallet's lock, and where its chain stands now; without an id until it is opened."""

    wallet: Wallet
    kind: WalletKind
    asset: Asset
    id: int = 0
    seq: int = 0
    balance_minor: int = 0
    executed_at: datetime | None = None
    held_minor: int = 0
    held_seq: int | None = None
    """The last entry that changed what is held; None where there never was a hold."""
    position: int | None = None
    next_due_at: datetime | None = None
    holds: dict[UUID, Hold] = field(default_factory=dict)
    """Open holds, in the order in which they were placed; read only where they are needed."""
    lots_minor: int = 0
    lots_seq: int | None = None
    """The last entry that changed which lots have something left; None where there never was a lot."""
    live_lots: list[int] = field(default_factory=list)
    """Lots that have something left, as they are spent."""
    lots: dict[int, Lot] = field(default_factory=dict)
    """Those of them that are known, the first ones or all, and others that a request may put something into."""
    lot_count: int = 0
    knows_all_lots: bool = True
    others_end_later: bool = False
    """Whether lots that are not known end no earlier than the last one that is."""
    expiry: "Account | None" = None
    """The stripe that gets what expires; only where something may."""
    state_step: int = 0
    """The last state of its wallet, which `ledger.states` reads; 0 where nothing has become of it."""
    debt: "Account | None" = None
    """What the owner owes in this asset; None where it was never in debt."""
    limits_of_all: UUID | None = None
    own_limits: UUID | None = None
    """The last versions of the limits of all wallets and of its own, which `ledger.limits` reads; None without any."""
    rules: tuple[Rule, ...] = ()
    """The limits that hold for it."""
    flows: Flows | None = None
    """What moved, kind by kind; None where it never came under a limit of that."""
    flows_since: int = 0
    """The first entry that is counted in it."""
    outside: dict[Window, Flows] = field(default_factory=dict)
    """What moved before each window of its limits began."""
    balance_max_minor: int = BALANCE_MINOR_MAX
    """The most that it may hold."""

    @property
    def available_minor(self) -> int:
        """What can be spent."""
        return self.balance_minor - self.held_minor

    @property
    def pool_minor(self) -> int:
        """What can be spent that is in no lot."""
        return self.available_minor - sum(lot.free_minor for lot in self.lots.values())

    @property
    def debt_minor(self) -> int:
        """What the owner owes."""
        return 0 if self.debt is None else -self.debt.balance_minor

    @property
    def name(self) -> AccountName:
        """What names it."""
        return AccountName(self.wallet.shard, self.wallet.id, self.asset.id)

    def move(self, amount_minor: int, executed_at: datetime, type_: int) -> None:
        """Append an entry to the chain, in memory; its type says how it counts in what moved."""
        self.seq += 1
        self.balance_minor += amount_minor
        self.executed_at = executed_at
        if self.position is not None:
            self.position += amount_minor != 0
        if self.flows is not None:
            self.flows = moved(self.flows, type_, amount_minor)

    @property
    def counts_holds(self) -> bool:
        """Whether what open holds hold counts in one of its limits."""
        return self.held_minor > 0 and any(rule.counts_holds for rule in self.rules)

    def hold(self, before: Hold | None, after: Hold) -> None:
        """Let the last entry change what is held by a step of a hold, in memory."""
        self.held_minor += after.remaining_minor - (0 if before is None else before.remaining_minor)
        self.held_seq = self.seq
        if after.remaining_minor:
            self.holds[after.id] = after
        else:
            self.holds.pop(after.id, None)
        self.look_ahead()

    def change_lot(self, lot: Lot) -> None:
        """Let the last entry change a lot by a step of it, in memory."""
        before = self.lots.get(lot.n)
        remained_minor = 0 if before is None else before.remaining_minor
        self.lots_minor += lot.remaining_minor - remained_minor
        self.lots[lot.n] = lot
        if (remained_minor > 0) is not (lot.remaining_minor > 0):
            self.lots_seq = self.seq
            if remained_minor:
                self.live_lots.remove(lot.n)
            else:
                insort(self.live_lots, lot.n, key=lambda n: self.lots[n].spend_order)
                self.lots = {n: self.lots[n] for n in self.live_lots} | self.lots
        ends = lot.terms.expires_at
        if ends is not None and lot.free_minor and (self.next_due_at is None or ends < self.next_due_at):
            self.next_due_at = ends
        elif ends is not None and ends == self.next_due_at and not lot.free_minor:
            self.look_ahead()

    def look_ahead(self) -> None:
        """Find out when the first hold ends, or the first lot of which something is free.

        Where others may end before what is known it stays as it was, which is not too late.
        """
        if self.held_minor > sum(hold.remaining_minor for hold in self.holds.values()):
            return
        known = [lot for lot in self.lots.values() if lot.free_minor]
        if not self.knows_all_lots:
            last = next(reversed(self.lots.values()))
            if not (self.others_end_later and last.free_minor):
                return
        ends = (*(hold.held_until for hold in self.holds.values()), *(lot.terms.expires_at for lot in known))
        self.next_due_at = min((each for each in ends if each is not None), default=None)

    def balance(self) -> Balance:
        """Return where the chain stands."""
        return Balance(
            self.wallet,
            self.asset,
            self.balance_minor,
            self.seq,
            self.held_minor,
            self.debt_minor,
            self.state_step,
        )


async def read_heads(connection: Connection, accounts: dict[AccountName, Account]) -> datetime:
    """Bring every account to the end of its chain; returns the clock, read after the locks."""
    heads = [_Head._make(row) for row in await connection.fetch(HEADS, *arrays(AccountName, accounts))]
    for head in heads:
        if head.account_id is None and not (head.state_step or head.limits_of_all or head.own_limits):
            continue
        account = accounts[AccountName(head.shard, head.wallet_id, head.asset_id)]
        account.id = head.account_id or 0
        account.state_step = head.state_step or 0
        if head.seq is not None:
            assert head.balance_minor is not None
            account.seq, account.balance_minor, account.executed_at = head.seq, head.balance_minor, head.executed_at
        if head.held_seq is not None:
            account.held_minor, account.held_seq = head.held_minor or 0, head.held_seq
            account.position = head.position
        if head.lots_seq is not None:
            account.lots_minor, account.lots_seq = head.lots_minor or 0, head.lots_seq
        account.next_due_at = head.next_due_at
        account.limits_of_all, account.own_limits = head.limits_of_all, head.own_limits
        if head.flows is not None:
            *flows, account.flows_since = read_flows(head.flows)
            account.flows = tuple(flows)
    return heads[0].now


def read_flows(text: str) -> tuple[int, ...]:
    """Read what an entry says of what moved, as PostgreSQL writes it."""
    return tuple(map(int, text[1:-1].split(",")))


async def read_keys(connection: Connection, wanted: Collection[WantedKey]) -> list[KeptAnswer]:
    """Return what those of the keys were answered with that were answered before."""
    return [KeptAnswer._make(row) for row in await connection.fetch(KEYS, *arrays(WantedKey, wanted))]


async def open_accounts(connection: Connection, accounts: Iterable[Account]) -> None:
    """Open accounts for their first posting, in a fixed order."""
    new = {account.name: account for account in accounts}
    if not new:
        return
    rows = [_NewAccount(name.shard, name.wallet_id, new[name].kind, name.asset_id) for name in sorted(new)]
    for shard, wallet_id, asset_id, id_ in await connection.fetch(_OPEN_ACCOUNTS, *arrays(_NewAccount, rows)):
        new[AccountName(shard, wallet_id, asset_id)].id = id_
