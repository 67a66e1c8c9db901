"""Which limits hold for accounts, and what moved before their windows began: read under the locks.

Nothing is decided by a cache. What a worker remembers cannot change: what a version of the limits says, which the heads
name, and where a window began once, from where the present one is looked for.

What moved in a window is a difference: `flows` of the head without those of the last entry before it. Entries from
before an account came under a limit have none: what is in the window of them is summed, from where that was known.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from operator import sub
from typing import Any, Final, NamedTuple
from uuid import UUID

from asyncpg import Connection
from cachetools import LRUCache

from wallet_gql.domain.access import ActorKind, AskedBy
from wallet_gql.domain.limits import (
    MOVEMENTS,
    NOTHING_MOVED,
    CalendarUnit,
    Enforcement,
    Flows,
    LimitFlow,
    Rule,
    RuleName,
    Window,
    effective,
)
from wallet_gql.domain.money import BALANCE_MINOR_MAX
from wallet_gql.domain.postings import TransactionType
from wallet_gql.domain.wallets import WalletKind
from wallet_gql.ledger.columns import Bigint, Boolean, Integer, Smallint, Time, arrays, unnest
from wallet_gql.ledger.heads import Account, read_flows
from wallet_gql.ledger.lookups import one_row

KNOWN_MAX: Final = 10_000


class Chain(NamedTuple):
    """What names the limits of a wallet in an asset, or of all wallets."""

    asset_id: Smallint
    shard: Smallint
    wallet_id: Bigint


class _Name(NamedTuple):
    asset_id: Smallint
    shard: Smallint
    wallet_id: Bigint
    step: Integer


class _Wanted(NamedTuple):
    """A window to look for the beginning of, from an entry on that is known to be before it."""

    shard: Smallint
    account_id: Bigint
    low: Bigint
    high: Bigint
    since: Bigint
    is_known: Boolean
    moment: Time


class _Marks(NamedTuple):
    """The times of two entries, by which what is remembered is known again: a fail-over may have lost what it was of.

    They are the last one before a window, and the last one that no `flows` count.
    """

    before: datetime | None
    uncounted: datetime | None


class _Before(NamedTuple):
    """The last entry before a window, and what moved after it up to the one `since` which that is counted."""

    seq: int
    since: int
    uncounted: Flows
    marks: _Marks


_RULE: Final = """r.asset_id, r.shard, r.wallet_id, r.step, r.flow, r.rolling_seconds, r.calendar_unit, r.time_zone,
       r.max_amount, r.max_count, r.enforcement, r.set_at, r.actor_kind, r.actor_name, r.request_id"""

_IN_FORCE: Final = f"""
SELECT wanted.asset_id, wanted.shard, wanted.wallet_id, last.id, {_RULE}
  FROM {unnest(Chain, "wanted")}
 CROSS JOIN LATERAL (
       SELECT * FROM limit_rule r
        WHERE r.asset_id = wanted.asset_id AND r.shard = wanted.shard AND r.wallet_id = wanted.wallet_id
        ORDER BY r.step DESC
        LIMIT 1) AS last
  LEFT JOIN unnest(last.in_force) WITH ORDINALITY AS held(step, place) ON true
  LEFT JOIN {
    one_row(
        "limit_rule",
        "r",
        by="step",
        asset_id="wanted.asset_id",
        shard="wanted.shard",
        wallet_id="wanted.wallet_id",
        step="held.step",
    )
} ON true
 ORDER BY wanted.asset_id, wanted.shard, wanted.wallet_id, held.place
"""

_BY_NAME: Final = f"""
SELECT wanted.n, {_RULE}
  FROM {unnest(_Name, "wanted", numbered=True)}
 CROSS JOIN {
    one_row(
        "limit_rule",
        "r",
        by="step",
        asset_id="wanted.asset_id",
        shard="wanted.shard",
        wallet_id="wanted.wallet_id",
        step="wanted.step",
    )
}
"""

TYPES: Final[Mapping[TransactionType, str]] = {type_: f"{type_:d}" for type_ in MOVEMENTS} | {
    TransactionType.SPEND: f"{TransactionType.SPEND:d}, {TransactionType.CAPTURE:d}"
}

SUMS: Final = ", ".join(
    f"coalesce(sum(abs(e.amount)) FILTER (WHERE e.type IN ({TYPES[type_]})), 0),"
    f" count(*) FILTER (WHERE e.type IN ({TYPES[type_]}))"
    for type_ in MOVEMENTS
)
"""What the entries `e` moved, kind by kind."""

# Without something known what moved after the entry that is found is summed, up to the first that counts it; else what
# moved since, which is to be taken off what was known.
_BEFORE: Final = f"""
SELECT wanted.n, low.executed_at, edge.executed_at, found.seq, b.executed_at, b.flows::text, uncounted.sums::text
  FROM {unnest(_Wanted, "wanted", numbered=True)}
  LEFT JOIN {
    one_row("entry", "low", by="seq", shard="wanted.shard", account_id="wanted.account_id", seq="wanted.low")
} ON true
  LEFT JOIN {
    one_row("entry", "edge", by="seq", shard="wanted.shard", account_id="wanted.account_id", seq="wanted.since - 1")
} ON wanted.since > 1
 CROSS JOIN LATERAL (
       SELECT entry_until(wanted.shard, wanted.account_id, wanted.low, wanted.high, wanted.moment) AS seq
       OFFSET 0) AS found
  LEFT JOIN {
    one_row("entry", "b", by="seq", shard="wanted.shard", account_id="wanted.account_id", seq="found.seq")
} ON true
  LEFT JOIN LATERAL (
       SELECT ARRAY[{SUMS}]::numeric[] AS sums
         FROM (SELECT * FROM entry e
                WHERE e.shard = wanted.shard AND e.account_id = wanted.account_id
                  AND e.seq > CASE WHEN wanted.is_known THEN wanted.low ELSE found.seq END
                  AND e.seq < CASE WHEN wanted.is_known THEN least(found.seq + 1, wanted.since) ELSE wanted.since END
                ORDER BY e.seq) AS e) AS uncounted
    ON b.flows IS NULL AND wanted.since > 1
"""


class KnownLimits:
    """What a worker remembers of limits; it is its ledger's own, for other databases have others."""

    def __init__(self) -> None:
        """Remember nothing yet."""
        self.rules: LRUCache[UUID, tuple[Rule, ...]] = LRUCache(KNOWN_MAX)
        self.before: LRUCache[tuple[int, int, Window], _Before] = LRUCache(KNOWN_MAX)


async def read_limits(
    connection: Connection, accounts: Iterable[Account], now: datetime, known: KnownLimits | None
) -> None:
    """Give each owner's account its limits, and what moved before their windows began.

    No statement where there are no limits, else one; another one where a version of limits is new to the worker.
    """
    limited = [
        account
        for account in accounts
        if account.kind is WalletKind.USER and (account.limits_of_all is not None or account.own_limits is not None)
    ]
    if not limited:
        return
    known = KnownLimits() if known is None else known
    rules = await _read_rules(connection, limited, known)
    for account in limited:
        of_all, own = (rules[id_] if id_ else () for id_ in (account.limits_of_all, account.own_limits))
        account.rules = effective(of_all, own)
        account.balance_max_minor = min(
            (each.max_minor for each in account.rules if each.caps_balance and each.max_minor is not None),
            default=BALANCE_MINOR_MAX,
        )
        if account.flows is None and any(rule.window for rule in account.rules):
            account.flows, account.flows_since = NOTHING_MOVED, account.seq + 1
    wanted = [
        (account, window, now if account.executed_at is None else max(now, account.executed_at))
        for account in limited
        for window in {rule.window for rule in account.rules if rule.window is not None}
    ]
    await _read_outside(connection, wanted, known)


async def _read_rules(
    connection: Connection, limited: Sequence[Account], known: KnownLimits
) -> dict[UUID, tuple[Rule, ...]]:
    """Return what the versions say that the accounts name, or newer ones, which they name from then on."""
    named = {id_ for account in limited for id_ in (account.limits_of_all, account.own_limits) if id_ is not None}
    rules = {id_: known.rules[id_] for id_ in named if id_ in known.rules}
    lacking = {
        chain: None
        for account in limited
        for chain, id_ in ((_of_all(account), account.limits_of_all), (_own(account), account.own_limits))
        if id_ is not None and id_ not in rules
    }
    if not lacking:
        return rules
    found = await read_rules_in_force(connection, lacking)
    known.rules.update(found.values())
    for account in limited:
        if account.limits_of_all is not None and (version := found.get(_of_all(account))):
            account.limits_of_all, _ = version
        if account.own_limits is not None and (version := found.get(_own(account))):
            account.own_limits, _ = version
    # What is remembered now may have pushed out some of the others.
    return rules | dict(found.values())


def _of_all(account: Account) -> Chain:
    return Chain(account.asset.id, 0, 0)


def _own(account: Account) -> Chain:
    return Chain(account.asset.id, account.wallet.shard, account.wallet.id)


async def read_rules_in_force(
    connection: Connection, chains: Collection[Chain]
) -> dict[Chain, tuple[UUID, tuple[Rule, ...]]]:
    """Return the last version of the limits of each chain that has any, and which hold after it. One statement."""
    found: dict[Chain, tuple[UUID, tuple[Rule, ...]]] = {}
    for asset_id, shard, wallet_id, id_, *columns in await connection.fetch(_IN_FORCE, *arrays(Chain, chains)):
        chain = Chain(asset_id, shard, wallet_id)
        _, rules = found.get(chain, (id_, ()))
        found[chain] = (id_, rules if columns[0] is None else (*rules, _rule(*columns)))
    return found


async def _read_outside(
    connection: Connection, wanted: Sequence[tuple[Account, Window, datetime]], known: KnownLimits
) -> None:
    """Find out what moved before windows began. One statement; another one where the log is not as it was known."""
    if not wanted:
        return
    moments = [window.last_before(at) for _, window, at in wanted]
    hints = [
        _hint(account, window, moment, known) for (account, window, _), moment in zip(wanted, moments, strict=True)
    ]
    rows = [
        _Wanted(
            account.wallet.shard,
            account.id,
            0 if hint is None else hint.seq,
            account.seq,
            account.flows_since,
            hint is not None,
            moment,
        )
        for (account, _, _), hint, moment in zip(wanted, hints, moments, strict=True)
    ]
    again = []
    for n, low_at, edge_at, seq, executed_at, flows, sums in await connection.fetch(_BEFORE, *arrays(_Wanted, rows)):
        (account, window, _), hint = wanted[n - 1], hints[n - 1]
        place = _place(account, window)
        if hint is not None and hint.marks != (low_at, edge_at):
            known.before.pop(place, None)
            again.append(wanted[n - 1])
            continue
        uncounted = NOTHING_MOVED
        if flows is None and sums is not None:
            uncounted = read_flows(sums)
            if hint is not None:
                uncounted = tuple(map(sub, hint.uncounted, uncounted))
        account.outside[window] = tuple(-each for each in uncounted) if flows is None else read_flows(flows)[:-1]
        known.before[place] = _Before(seq, account.flows_since, uncounted, _Marks(executed_at, edge_at))
    await _read_outside(connection, again, known)


def _place(account: Account, window: Window) -> tuple[int, int, Window]:
    return account.wallet.shard, account.id, window


def _hint(account: Account, window: Window, moment: datetime, known: KnownLimits) -> _Before | None:
    """Return where a window began once, if it is of use: as far as that is counted, and not after the moment."""
    hint = known.before.get(_place(account, window))
    if hint is None or hint.since != account.flows_since or hint.seq > account.seq:
        return None
    return hint if hint.marks.before is None or hint.marks.before <= moment else None


async def read_rules(connection: Connection, names: Sequence[RuleName]) -> list[Rule | None]:
    """Return each version of a limit, in order; None where there is none. One statement."""
    rules: list[Rule | None] = [None] * len(names)
    for n, *columns in await connection.fetch(_BY_NAME, *arrays(_Name, names)):
        rules[n - 1] = _rule(*columns)
    return rules


def _rule(
    asset_id: int,
    shard: int,
    wallet_id: int,
    step: int,
    flow: int,
    rolling_seconds: int | None,
    unit: int | None,
    *more: Any,
) -> Rule:
    time_zone, max_minor, max_count, enforcement, set_at, actor_kind, actor_name, request_id = more
    calendar = None if unit is None else CalendarUnit(unit)
    has_window = rolling_seconds is not None or calendar is not None
    return Rule(
        RuleName(asset_id, shard, wallet_id, step),
        LimitFlow(flow),
        Window(rolling_seconds, calendar, time_zone) if has_window else None,
        max_minor,
        max_count,
        Enforcement(enforcement),
        set_at,
        AskedBy(None if actor_kind is None else ActorKind(actor_kind), actor_name, request_id),
    )
