"""Limits: what a wallet may hold, and how much it may move in a window of time.

What moves is counted gross, by kind of movement: what comes back is never taken off. Windows are named for what they
are: rolling ones end now, calendar ones begin at midnight in their time zone.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta, tzinfo
from enum import IntEnum
from functools import cache
from importlib.resources import files
from typing import Final, NamedTuple, TypeAlias
from uuid import UUID
from zoneinfo import ZoneInfo

from uuid_utils.compat import uuid7

from wallet_gql.domain.access import AskedBy
from wallet_gql.domain.assets import Asset
from wallet_gql.domain.money import POSTING_MINOR_MAX
from wallet_gql.domain.postings import RequestKind, TransactionType, fingerprint
from wallet_gql.domain.wallets import OwnerName

LIMITS_MAX: Final = 20
"""Limits of an asset for all wallets; and as many for one wallet in it."""

COUNT_MAX: Final = 2**31 - 1

ROLLING_SECONDS_MAX: Final = 366 * 86_400

_MOMENT: Final = timedelta(microseconds=1)


class LimitFlow(IntEnum):
    """What is limited. The numbers are stored."""

    BALANCE = 1
    IN = 2
    OUT = 3
    TOP_UP = 4
    BONUS = 5
    SPEND = 6
    TRANSFER_OUT = 7
    TRANSFER_IN = 8


class CalendarUnit(IntEnum):
    """How long a calendar window is. The numbers are stored."""

    DAY = 1
    WEEK = 2
    """From Monday on."""
    MONTH = 3


class Enforcement(IntEnum):
    """What becomes of a movement that exceeds a limit. The numbers are stored."""

    REFUSE = 1
    WARN = 2
    """It is posted, and logged."""


class Window(NamedTuple):
    """A stretch of time up to now: so many seconds, or the calendar's day, week or month in a time zone."""

    rolling_seconds: int | None = None
    unit: CalendarUnit | None = None
    time_zone: str | None = None

    def last_before(self, at: datetime) -> datetime:
        """Return the last microsecond that is no longer in the window that `at` is in."""
        if self.unit is None:
            assert self.rolling_seconds is not None
            return at - timedelta(seconds=self.rolling_seconds)
        return self._begin(self._first_day(at)) - _MOMENT

    def next_after(self, at: datetime) -> datetime:
        """Return when the calendar window that `at` is in is over."""
        first = self._first_day(at)
        if self.unit is CalendarUnit.MONTH:
            following = (first.replace(day=1) + timedelta(days=32)).replace(day=1)
        else:
            following = first + timedelta(days=7 if self.unit is CalendarUnit.WEEK else 1)
        return self._begin(following)

    def _first_day(self, at: datetime) -> date:
        assert self.time_zone is not None
        local = at.astimezone(zone(self.time_zone))
        day = local.date()
        # Where clocks go back over midnight they show the day before again, but the next one has begun.
        if local.fold and self._begin(day + timedelta(days=1)) <= at:
            day += timedelta(days=1)
        if self.unit is CalendarUnit.MONTH:
            return day.replace(day=1)
        return day - timedelta(days=day.weekday()) if self.unit is CalendarUnit.WEEK else day

    def _begin(self, day: date) -> datetime:
        """Return when a day begins. Where clocks skip its midnight that is when they do; of two, the first counts."""
        assert self.time_zone is not None
        return datetime(day.year, day.month, day.day, tzinfo=zone(self.time_zone)).astimezone(UTC)


UTC: Final = ZoneInfo("UTC")


@cache
def zone_names() -> frozenset[str]:
    """Return the names of all time zones."""
    return frozenset(files("tzdata").joinpath("zones").read_text(encoding="utf-8").split())


@cache
def zone(name: str) -> tzinfo:
    """Return a time zone by the package's own data: a machine's may be older, and differ from another's."""
    with files("tzdata").joinpath("zoneinfo", *name.split("/")).open("rb") as data:
        return ZoneInfo.from_file(data, key=name)


class RuleName(NamedTuple):
    """What names a version of a limit: of a wallet in an asset, or with wallet 0 (in shard 0) of all wallets."""

    asset_id: int
    shard: int
    wallet_id: int
    step: int


class NewLimit(NamedTuple):
    """What a limit shall be: with a maximum at least."""

    flow: LimitFlow
    window: Window | None
    max_minor: int | None
    max_count: int | None
    enforcement: Enforcement


class Rule(NamedTuple):
    """A version of a limit. Without a maximum it says that there is none from then on."""

    name: RuleName
    flow: LimitFlow
    window: Window | None
    max_minor: int | None
    max_count: int | None
    enforcement: Enforcement
    set_at: datetime
    set_by: AskedBy

    @property
    def subject(self) -> tuple[LimitFlow, Window | None]:
        """What a version has in common with the one that takes its place."""
        return self.flow, self.window

    @property
    def limit(self) -> NewLimit:
        """What it says."""
        return NewLimit(self.flow, self.window, self.max_minor, self.max_count, self.enforcement)

    @property
    def caps_balance(self) -> bool:
        """Whether it refuses more than so much in the wallet."""
        return self.flow is LimitFlow.BALANCE and self.enforcement is Enforcement.REFUSE

    @property
    def counts_holds(self) -> bool:
        """Whether what open holds hold counts in it."""
        return self.flow in _LEAVING

    def remaining_minor(self, used: "Used") -> int:
        """Return how much may still move at once, or come to be held."""
        if self.max_count is not None and used.number >= self.max_count:
            return 0
        if self.max_minor is None:
            return POSTING_MINOR_MAX
        return max(0, self.max_minor - used.minor)

    def remaining_count(self, used: "Used") -> int | None:
        """Return how many movements there may still be; None where they are not counted."""
        return None if self.max_count is None else max(0, self.max_count - used.number)

    def lets(self, used: "Used", amount_minor: int, number: int) -> bool:
        """Say whether so much more does not exceed it."""
        return (self.max_minor is None or used.minor + amount_minor <= self.max_minor) and (
            self.max_count is None or used.number + number <= self.max_count
        )


_LEAVING: Final = frozenset({LimitFlow.OUT, LimitFlow.SPEND, LimitFlow.TRANSFER_OUT})


class Used(NamedTuple):
    """How much of a limit is used up, by how many movements."""

    minor: int
    number: int


Flows: TypeAlias = tuple[int, ...]
"""What moved through an account, in minor units and by how many movements, kind by kind of `MOVEMENTS`."""

MOVEMENTS: Final = (
    TransactionType.TOP_UP,
    TransactionType.BONUS,
    TransactionType.SPEND,
    TransactionType.TRANSFER_OUT,
    TransactionType.TRANSFER_IN,
)
"""The kinds that are counted. A capture counts as a spend; a refund or a clawback counts as none."""

NOTHING_MOVED: Final[Flows] = (0,) * (2 * len(MOVEMENTS))

_KINDS: Final[Mapping[TransactionType, int]] = {
    **{type_: n for n, type_ in enumerate(MOVEMENTS)},
    TransactionType.CAPTURE: MOVEMENTS.index(TransactionType.SPEND),
}

COUNTED: Final[Mapping[LimitFlow, frozenset[TransactionType]]] = {
    LimitFlow.IN: frozenset({TransactionType.TOP_UP, TransactionType.BONUS, TransactionType.TRANSFER_IN}),
    LimitFlow.OUT: frozenset({TransactionType.SPEND, TransactionType.TRANSFER_OUT}),
    **{LimitFlow[type_.name]: frozenset({type_}) for type_ in MOVEMENTS},
}
"""Which kinds each flow is made of."""


def moved(flows: Flows, type_: int, amount_minor: int) -> Flows:
    """Return what has moved with one transaction more, by its number."""
    kind = _KINDS.get(TransactionType(type_)) if amount_minor else None
    if kind is None:
        return flows
    n = 2 * kind
    return (*flows[:n], flows[n] + abs(amount_minor), flows[n + 1] + 1, *flows[n + 2 :])


def used_of(flow: LimitFlow, flows: Flows, outside: Flows) -> Used:
    """Return what moved of a flow between two moments."""
    counted = COUNTED[flow]
    places = [2 * n for n, type_ in enumerate(MOVEMENTS) if type_ in counted]
    return Used(sum(flows[n] - outside[n] for n in places), sum(flows[n + 1] - outside[n + 1] for n in places))


def effective(of_all: Iterable[Rule], own: Iterable[Rule]) -> tuple[Rule, ...]:
    """Return the rules that hold for a wallet: its own, and the asset's that they do not replace."""
    own = tuple(own)
    replaced = {rule.subject for rule in own}
    return (*(rule for rule in of_all if rule.subject not in replaced), *own)


@dataclass(frozen=True, slots=True)
class LimitRequest:
    """A limit to set, or to remove by the name of a version; of a wallet, or without an owner of all wallets."""

    asset: Asset
    owner: OwnerName | None
    change: NewLimit | RuleName
    idempotency_key: UUID
    asked_by: AskedBy | None = None
    event_id: UUID = field(default_factory=uuid7)

    @property
    def fingerprint(self) -> bytes:
        """The bytes that tell another request under the same key."""
        if isinstance(self.change, RuleName):
            named = ":".join(map(str, self.change))
            return fingerprint(RequestKind.REMOVE_LIMIT, self.asset.code, 0, None, None, ("limit", named))
        flow, window, max_minor, max_count, enforcement = self.change
        parts = {
            "enforcement": None if enforcement is Enforcement.REFUSE else enforcement.name,
            "flow": flow.name,
            "maxCount": None if max_count is None else str(max_count),
            "owner": None if self.owner is None else self.owner.owner_id,
            "rollingSeconds": None if window is None or window.unit is not None else str(window.rolling_seconds),
            "timeZone": None if window is None else window.time_zone,
            "unit": None if window is None or window.unit is None else window.unit.name,
        }
        named_parts = ((name, text) for name, text in parts.items() if text is not None)
        return fingerprint(RequestKind.SET_LIMIT, self.asset.code, max_minor or 0, None, None, *named_parts)


@dataclass(frozen=True, slots=True)
class LimitsSet:
    """A limit was set or removed: in which version; None where there was nothing to remove."""

    rule: Rule | None
    already_processed: bool


@dataclass(frozen=True, slots=True)
class TooManyLimits:
    """There are as many limits as there may be."""

    asset: Asset
    already_processed: bool
