"""What limits should let through, in plain Python: a list of all that moved, and windows that are found by walking it.

Times are whole microseconds since 1970, by a clock that stands still but for what the tests say. When days begin in a
time zone is found by what its clocks show, never by asking for midnight: so it shares no thought with the ledger's way.
"""

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from datetime import UTC, date, datetime
from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from model import movements

SECOND = 1_000_000
DAY_SECONDS = 86_400
DAY = DAY_SECONDS * SECOND
MONTH = 31 * DAY
"""A hold ends so long after it was placed at the latest."""
FAR = 1_000 * DAY
"""After so long no window has anything of today, and no hold is open."""


# The calendar.


@cache
def load_zone(name: str) -> ZoneInfo:
    """Return a time zone of the package's data, whatever the machine has."""
    with files("tzdata").joinpath("zoneinfo", *name.split("/")).open("rb") as data:
        return ZoneInfo.from_file(data, key=name)


def offset_of(zone: ZoneInfo, at: int) -> int:
    """Return by how many seconds a zone's clocks are ahead, at a second since 1970."""
    offset = datetime.fromtimestamp(at, zone).utcoffset()
    assert offset is not None
    return int(offset.total_seconds())


def changes_of(zone: ZoneInfo, first: int, last: int) -> Iterator[tuple[int, int]]:
    """Tell from which second on clocks are so much ahead; looks twice a day."""
    before = offset_of(zone, first)
    yield first, before
    for at in range(first, last, DAY_SECONDS // 2):
        after = offset_of(zone, at + DAY_SECONDS // 2)
        if after != before:
            low, high = at, at + DAY_SECONDS // 2
            while high - low > 1:
                middle = (low + high) // 2
                low, high = (middle, high) if offset_of(zone, middle) == before else (low, middle)
            yield high, after
            before = after


class Calendar:
    """When days begin in a time zone: at the first moment of which its clocks show that day, or a later one.

    Days are numbered from 1970 on. Of a midnight that comes twice that is the first, of one that is skipped when it is.
    """

    def __init__(self, zone_name: str, first_year: int, last_year: int) -> None:
        first, last = (int(datetime(year, 1, 1, tzinfo=UTC).timestamp()) for year in (first_year, last_year))
        zone = load_zone(zone_name)
        self.changes = [*changes_of(zone, first, last)]
        self.days: list[int] = []
        self.begins: list[int] = []
        ends = [*(at for at, _ in self.changes[1:]), last]
        for (start, offset), end in zip(self.changes, ends, strict=True):
            for day in range((start + offset) // DAY_SECONDS, (end - 1 + offset) // DAY_SECONDS + 1):
                # More than one at once where clocks skip a whole day.
                for begun in range(self.days[-1] + 1 if self.days else day, day + 1):
                    self.days.append(begun)
                    self.begins.append(max(start, day * DAY_SECONDS - offset) * SECOND)

    def window(self, unit: str, at: int) -> tuple[int, int]:
        """Return when the window begins that a moment is in, and when the next one does."""
        day = self.days[bisect_right(self.begins, at) - 1]
        first, following = bounds_of(unit, day)
        return self.begins[first - self.days[0]], self.begins[following - self.days[0]]


def bounds_of(unit: str, day: int) -> tuple[int, int]:
    """Return the first day of the day, week or month that a day is in, and of the next one."""
    if unit == "DAY":
        return day, day + 1
    if unit == "WEEK":
        # The first day of 1970 was a Thursday.
        return (monday := day - (day + 3) % 7), monday + 7
    first = following = day
    while month_of(first - 1) == month_of(day):
        first -= 1
    while month_of(following) == month_of(day):
        following += 1
    return first, following


@cache
def month_of(day: int) -> int:
    return date.fromordinal(day + date(1970, 1, 1).toordinal()).month


@cache
def calendar_of(zone_name: str) -> Calendar:
    """Return the calendar of the years that tests jump about in."""
    this_year = datetime.now(UTC).year
    return Calendar(zone_name, this_year - 1, this_year + 16)


# Limits.

FLOWS = {
    "IN": {"top_up", "bonus", "transfer_in"},
    "OUT": {"spend", "capture", "transfer_out"},
    "TOP_UP": {"top_up"},
    "BONUS": {"bonus"},
    "SPEND": {"spend", "capture"},
    "TRANSFER_OUT": {"transfer_out"},
    "TRANSFER_IN": {"transfer_in"},
}

POSTING_MAX = 10**15
"""More does not move at once, limit or not."""

RULES_MAX = 20

Window = int | tuple[str, str]
"""So many seconds up to now; or a unit of the calendar, and a zone."""


class Terms(NamedTuple):
    """What a limit says."""

    flow: str
    window: Window | None
    amount: int | None
    times: int | None = None
    warns: bool = False


class Rule(NamedTuple):
    """A version of a limit: the how manieth of an owner's, or of those for all."""

    owner: str | None
    n: int
    terms: Terms


class Use(NamedTuple):
    """How much of a limit is used up, by how many movements; how much may still move at once."""

    rule: Rule
    amount: int
    times: int
    remaining: int


class Set(NamedTuple):
    """Asks for a limit; without an owner of all."""

    key: str
    owner: str | None
    terms: Terms


class Remove(NamedTuple):
    """Asks that a version of a limit be removed."""

    key: str
    owner: str | None
    n: int


@dataclass(frozen=True, repr=False)
class Ask(movements.Ask):
    """A request that moves something, or holds it: for so long."""

    ttl: int | None = None

    def __repr__(self) -> str:
        """Show what differs from the defaults."""
        named = ((each.name, getattr(self, each.name), each.default) for each in fields(self))
        return f"Ask({', '.join(f'{name}={value!r}' for name, value, default in named if value != default)})"


@dataclass
class Hold(movements.Hold):
    placed: int = 0


@dataclass
class Books(movements.Books):
    """Everybody's books, as `movements` has them, with limits on them."""

    moved_at: list[int] = field(default_factory=list)
    """When each of `moved` did."""
    rules: dict[str | None, list[Rule]] = field(default_factory=dict)
    """What is in force, of an owner or of all."""
    versions: dict[str | None, int] = field(default_factory=dict)
    changed: dict[tuple[str | None, str], tuple[Set | Remove, tuple[Any, ...]]] = field(default_factory=dict)
    """What each key for limits was answered with."""

    # What limits say.

    def set_limit(self, asked: Set | Remove) -> tuple[Any, ...]:
        """Decide a change of limits, once for its key: an owner's keys are those of all its requests."""
        place = asked.owner, asked.key
        if place in self.answered:
            return ("key reused",)
        if place in self.changed:
            first, answer = self.changed[place]
            return ("replayed", *answer) if first == asked else ("key reused",)
        answer = self._set(asked) if isinstance(asked, Set) else self._remove(asked)
        self.changed[place] = asked, answer
        return answer

    def _set(self, asked: Set) -> tuple[Any, ...]:
        rules = self.rules.setdefault(asked.owner, [])
        like = [rule for rule in rules if rule.terms[:2] == asked.terms[:2]]
        if like and like[0].terms == asked.terms:
            return "set", like[0]
        if not like and len(rules) >= RULES_MAX:
            return ("too many",)
        rule = Rule(asked.owner, self._next(asked.owner), asked.terms)
        self.rules[asked.owner] = [*(each for each in rules if each not in like), rule]
        return "set", rule

    def _remove(self, asked: Remove) -> tuple[Any, ...]:
        rules = self.rules.get(asked.owner, [])
        named = [rule for rule in rules if rule.n == asked.n]
        if not named:
            return "set", None
        self.rules[asked.owner] = [rule for rule in rules if rule not in named]
        self._next(asked.owner)
        return "set", named[0]

    def _next(self, owner: str | None) -> int:
        """Return the number of an owner's next version: to remove a limit makes one, too."""
        self.versions[owner] = self.versions.get(owner, 0) + 1
        return self.versions[owner]

    def limits(self, owner: str) -> list[Rule]:
        """Return what holds for an owner: its own, and those for all that it has none like."""
        own = self.rules.get(owner, [])
        replaced = {rule.terms[:2] for rule in own}
        return [*own, *(rule for rule in self.rules.get(None, []) if rule.terms[:2] not in replaced)]

    def use(self, owner: str, rule: Rule, at: int) -> Use:
        """Return what is used up of a limit at a moment, now or later, if nothing moves until then."""
        flow, window, most, most_times, _ = rule.terms
        if window is None:
            amount, times = self.balances[owner], 0
        else:
            begin = begin_of(window, at)
            used = [
                abs(moved.amount)
                for moved, time in zip(self.moved, self.moved_at, strict=True)
                if moved.owner == owner and moved.type in FLOWS[flow] and begin <= time <= at
            ]
            used += [
                hold.remaining
                for hold in self.holds
                if hold.owner == owner and hold.state == "OPEN" and at < hold.until and kind_of(hold.to) in FLOWS[flow]
            ]
            amount, times = sum(used), len(used)
        remaining = POSTING_MAX if most is None else max(0, most - amount)
        return Use(rule, amount, times, 0 if most_times is not None and times >= most_times else remaining)

    def exceeds(self, owner: str, rule: Rule, at: int, amount: int, times: int) -> bool:
        """Say whether so much more is more than a limit lets, at a moment."""
        use, terms = self.use(owner, rule, at), rule.terms
        return (terms.amount is not None and use.amount + amount > terms.amount) or (
            terms.times is not None and use.times + times > terms.times
        )

    def moments(self, owner: str) -> list[int]:
        """Return when something will be given back to an owner."""
        found = {hold.until for hold in self.holds if hold.owner == owner and hold.state == "OPEN"}
        for window in {rule.terms.window for rule in self.limits(owner)}:
            if isinstance(window, int):
                found |= {
                    time + window * SECOND
                    for moved, time in zip(self.moved, self.moved_at, strict=True)
                    if moved.owner == owner
                }
            elif window is not None:
                found.add(calendar_of(window[1]).window(window[0], self.now)[1])
        return sorted(moment for moment in found if moment > self.now)

    # What they refuse.

    def _over(self, owner: str, kind: str, amount: int, times: int = 1) -> tuple[Any, ...]:
        """Return that a limit lets less through, and which might be told; nothing where all let it."""
        over = [
            self.use(owner, rule, self.now)
            for rule in self.limits(owner)
            if rule.terms.flow != "BALANCE" and not rule.terms.warns and kind in FLOWS[rule.terms.flow]
            and self.exceeds(owner, rule, self.now, amount, times)
        ]  # fmt: skip
        least = min((use.remaining for use in over), default=0)
        told = frozenset(use for use in over if use.remaining == least)
        return ("LimitExceeded", amount, told) if over else ()

    def _full(self, owner: str, amount: int) -> tuple[Any, ...]:
        """Return that an owner would hold too much; nothing where not."""
        for rule in self.limits(owner):
            most, balance = rule.terms.amount, self.balances[owner]
            if rule.terms.flow == "BALANCE" and not rule.terms.warns and most is not None and balance + amount > most:
                return "BalanceLimitExceeded", balance, most
        return ()

    def _takes(self, to: str | None, amount: int = 0) -> tuple[Any, ...]:
        """Return that a receiver takes nothing, and why; nothing where it does."""
        if to is None or not amount:
            return ()
        if self._over(to, "transfer_in", amount):
            return "ReceiverRefused", "LIMIT"
        return ("ReceiverRefused", "FULL") if self._full(to, amount) else ()

    # Requests, with limits where they are judged.

    def ask(self, ask: movements.Ask) -> tuple[Any, ...]:
        if (self.owner_of(ask), ask.key) in self.changed:
            self.book(self.owner_of(ask), *self.others_of(ask))
            return ("key reused",)
        return super().ask(ask)

    def _move(self, owner: str, type_: str, amount: int, **more: Any) -> tuple[Any, ...]:
        self.moved_at.append(self.now)
        return super()._move(owner, type_, amount, **more)

    def _top_up(self, ask: movements.Ask) -> tuple[Any, ...]:
        amount = ask.amount or 0
        return (
            self._over(ask.owner, ask.verb, amount)
            or self._full(ask.owner, amount)
            or self._move(ask.owner, ask.verb, amount)
        )

    _bonus = _top_up

    def _spend(self, ask: movements.Ask) -> tuple[Any, ...]:
        amount = ask.amount or 0
        return (
            self._over(ask.owner, "spend", amount)
            or self._short(ask.owner, amount)
            or self._move(ask.owner, "spend", -amount)
        )

    def _transfer(self, ask: movements.Ask) -> tuple[Any, ...]:
        assert ask.to is not None
        amount = ask.amount or 0
        return (
            self._over(ask.owner, "transfer_out", amount)
            or self._short(ask.owner, amount)
            or self._takes(ask.to, amount)
            or self._give(ask.owner, ask.to, amount)
        )

    def _place(self, ask: movements.Ask) -> tuple[Any, ...]:
        assert isinstance(ask, Ask)
        assert ask.ttl is not None
        amount = ask.amount or 0
        refused = self._over(ask.owner, kind_of(ask.to), amount) or self._short(ask.owner, amount)
        if not refused:
            self.holds.append(Hold(ask.owner, ask.to, amount, self.now + ask.ttl * SECOND, placed=self.now))
        return refused or ("held",)

    def _capture(self, ask: movements.Ask) -> tuple[Any, ...]:
        hold = self.holds[ask.what]
        amount = hold.remaining if ask.amount is None else ask.amount
        if hold.state == "OPEN" and amount <= hold.remaining and (refused := self._takes(hold.to, amount)):
            return refused
        return super()._capture(ask)

    def _adjust(self, ask: movements.Ask) -> tuple[Any, ...]:
        hold = self.holds[ask.what]
        assert isinstance(ask, Ask)
        assert isinstance(hold, Hold)
        assert ask.amount is not None
        raised = ask.amount - hold.amount
        # More is held, but nothing moves once more.
        if hold.state == "OPEN" and raised > 0 and (refused := self._over(hold.owner, kind_of(hold.to), raised, 0)):
            return refused
        answer = super()._adjust(ask)
        if answer == ("held",) and ask.ttl is not None:
            hold.until = min(self.now + ask.ttl * SECOND, hold.placed + MONTH)
        return answer


def begin_of(window: Window, at: int) -> int:
    """Return the first microsecond of the window that a moment is in, which it is the last of, or may be not."""
    if isinstance(window, int):
        return at - window * SECOND + 1
    unit, zone_name = window
    begin, _ = calendar_of(zone_name).window(unit, at)
    return begin


def kind_of(to: str | None) -> str:
    """Return what a hold moves when it is captured: to another owner, or to the platform."""
    return "spend" if to is None else "transfer_out"
