"""What every movement should do on an asset with lots, in plain Python; the pool is a lot that is spent last.

The clock jumps. What is over by the clock is over; what is booked for it is booked before anything else of its owner.
A transaction remembers where its credits were taken from, or put to, in order: place 0 is the pool.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

from model.movements import DAY, NOTHING_LEAVES, NOTHING_MOVES, OF_HOLDS, REVERSIBLE

HOUR = 3600
MONTH = 31 * DAY
"""A hold ends so long after it was placed at the latest."""
TEN_YEARS = 3653 * DAY
NEVER = float("inf")


class Terms(NamedTuple):
    """What distinguishes a lot from others, and travels with its credits."""

    source: str = "BONUS"
    priority: int = 50
    campaign: str | None = None
    end: float = NEVER


POOL = Terms("PURCHASED")


@dataclass
class Lot:
    """A lot of an owner, by its number; the pool has number 0. What holds have of it is part of what remains."""

    n: int
    terms: Terms
    remaining: int = 0

    @property
    def spend_order(self) -> tuple[bool, int, float, int]:
        return (self.n == 0, self.terms.priority, self.terms.end, self.n)

    @property
    def end_order(self) -> tuple[bool, float, int]:
        return (self.n == 0, self.terms.end, self.n)


@dataclass
class Hold:
    """A hold: `amount` is captured, released and remaining together.

    `parts` is what it has of which lots until its end is booked. `until` has a number that tells ends apart.
    """

    owner: str
    to: str | None
    source: str | None
    amount: int
    placed: tuple[int, int]
    until: tuple[int, int]
    parts: dict[int, int]
    captured: int = 0
    released: int = 0
    state: str = "OPEN"

    @property
    def remaining(self) -> int:
        return self.amount - self.captured - self.released

    def close(self, state: str) -> None:
        self.released = self.amount - self.captured
        self.state = state


@dataclass
class Moved:
    """A transaction as its owner sees it; `uses` is what it took from which lots, or put into them, in order."""

    owner: str
    type: str
    amount: int
    after: int
    uses: dict[int, int]
    sender: str | None = None
    reversed: int = 0
    taken_back: dict[int, int] = field(default_factory=dict)


@dataclass(frozen=True, repr=False)
class Ask:
    """A request: what is asked for, and the key.

    `what` names a hold or a transaction by its place; `source` is the only one to take from; `how` is what a clawback
    does where too little is there, what a freeze freezes, or what becomes of what a closed wallet has; `until` is when
    a bonus, a freeze or what goes back to lapsed lots ends; `flag` keeps a capture's remainder, or voids holds.
    """

    verb: str
    key: str
    owner: str = ""
    to: str | None = None
    amount: int | None = None
    source: str | None = None
    what: int = 0
    flag: bool = False
    how: str = ""
    until: int | None = None
    ttl: int | None = None
    priority: int = 50
    campaign: str | None = None

    def __repr__(self) -> str:
        """Show what differs from the defaults."""
        named = {each.name: getattr(self, each.name) for each in fields(self)}
        return f"Ask({', '.join(f'{name}={value!r}' for name, value in named.items() if value != _DEFAULTS.get(name))})"


_DEFAULTS = {each.name: each.default for each in fields(Ask)}

Answer = tuple[Any, ...]


@dataclass
class Books:
    """Every owner's lots, holds, debt and history; what each key was answered with."""

    lots: dict[str, list[Lot]] = field(default_factory=dict)
    debts: dict[str, int] = field(default_factory=dict)
    states: dict[str, tuple[str, int | None]] = field(default_factory=dict)
    ended: dict[str, list[Hold]] = field(default_factory=dict)
    """Holds that are over, before anything is booked for it."""
    holds: list[Hold] = field(default_factory=list)
    moved: list[Moved] = field(default_factory=list)
    answered: dict[tuple[str, str], tuple[Ask, Answer]] = field(default_factory=dict)
    now: int = 0

    # What there is.

    def open(self, owner: str) -> None:
        self.lots[owner] = [Lot(0, POOL)]

    def balance(self, owner: str) -> int:
        """Return what is booked: all lots and the pool."""
        return sum(lot.remaining for lot in self.lots[owner])

    def held(self, owner: str) -> int:
        """Return what open holds hold, by the clock."""
        return sum(hold.remaining for hold in self.holds if hold.owner == owner)

    def lapsed(self, owner: str) -> int:
        """Return what has lapsed and is not booked: no open hold has it."""
        promised = [hold.parts for hold in self.holds if hold.owner == owner and hold.state == "OPEN"]
        over = [lot for lot in self.lots[owner] if lot.terms.end <= self.now]
        return sum(lot.remaining - sum(parts.get(lot.n, 0) for parts in promised) for lot in over)

    def kept(self, owner: str, n: int) -> int:
        """Return what holds have of a lot, as far as it is booked."""
        return sum(hold.parts.get(n, 0) for hold in self.holds if hold.owner == owner)

    def free(self, owner: str, lot: Lot) -> int:
        return lot.remaining - self.kept(owner, lot.n)

    def available(self, owner: str, source: str | None = None) -> int:
        """Return what can be spent that comes from a source, or from any; once what is due is booked."""
        return sum(self.free(owner, lot) for lot in self.lots[owner] if source in {None, lot.terms.source})

    def debt(self, owner: str) -> int:
        return self.debts.get(owner, 0)

    def status(self, owner: str) -> str:
        status, until = self.states.get(owner, ("OPEN", None))
        return status if until is None or self.now < until else "OPEN"

    def history(self, owner: str) -> list[tuple[str, int]]:
        return [(moved.type, moved.after) for moved in reversed(self.moved) if moved.owner == owner]

    # What time does.

    def advance(self, seconds: int) -> None:
        """Let time pass: what is over is over."""
        self.now += seconds
        over = [hold for hold in self.holds if hold.state == "OPEN" and hold.until[0] <= self.now]
        for hold in sorted(over, key=lambda hold: hold.until):
            self.ended.setdefault(hold.owner, []).append(hold)
            hold.close("EXPIRED")

    def book(self, *owners: str) -> None:
        """Book what is over: what a hold releases lapses, if its end has come, else it repays what is owed."""
        for owner in owners:
            for hold in self.ended.pop(owner, []):
                hold.parts = {}
                self._settle(owner)
            self._lapse(owner)

    def _settle(self, owner: str) -> None:
        """Let what became available lapse, where it is over, else repay what is owed."""
        self._lapse(owner)
        if repaid := min(self.available(owner), self.debt(owner)):
            self.debts[owner] -= repaid
            self._debit(owner, "repayment", self._take(owner, repaid))

    def _lapse(self, owner: str) -> None:
        for lot in sorted(self.lots[owner], key=lambda lot: lot.spend_order):
            if lot.terms.end <= self.now and self.free(owner, lot):
                self._debit(owner, "expiry", {lot.n: self.free(owner, lot)})

    # What takes from lots, and puts into them.

    def _take(self, owner: str, amount: int, source: str | None = None) -> dict[int, int]:
        """Choose what to take, in spend order."""
        lots = sorted(self.lots[owner], key=lambda lot: lot.spend_order)
        return _first({lot.n: self.free(owner, lot) for lot in lots if source in {None, lot.terms.source}}, amount)

    def _place_of(self, owner: str, terms: Terms) -> int:
        """Return the lot that credits of such terms join, or a new one."""
        if terms == POOL:
            return 0
        lots = self.lots[owner]
        for lot in lots:
            if terms.end == NEVER and lot.terms == terms and lot.remaining:
                return lot.n
        lots.append(Lot(len(lots), terms))
        return len(lots) - 1

    def _record(self, owner: str, type_: str, uses: dict[int, int], sign: int, sender: str | None = None) -> Answer:
        self.moved.append(Moved(owner, type_, sign * sum(uses.values()), self.balance(owner), uses, sender))
        return "posted", self.balance(owner)

    def _debit(self, owner: str, type_: str, uses: dict[int, int]) -> Answer:
        for n, part in uses.items():
            self.lots[owner][n].remaining -= part
        return self._record(owner, type_, uses, -1)

    def _credit(self, owner: str, type_: str, given: Iterable[tuple[Terms, int]], sender: str | None = None) -> Answer:
        uses: dict[int, int] = {}
        for terms, part in given:
            n = self._place_of(owner, terms)
            self.lots[owner][n].remaining += part
            uses[n] = uses.get(n, 0) + part
        answer = self._record(owner, type_, uses, 1, sender)
        self._settle(owner)
        return answer

    def _give(self, owner: str, to: str, uses: dict[int, int], type_: str = "transfer_out") -> Answer:
        """Give credits to another owner, on the terms that they have."""
        answer = self._debit(owner, type_, uses)
        self._settle(owner)
        self._credit(to, "transfer_in", [(self.lots[owner][n].terms, part) for n, part in uses.items()], owner)
        return answer

    # Requests.

    def ask(self, ask: Ask) -> Answer:
        """Decide one request."""
        owner = self.owner_of(ask)
        self.book(owner, *self.others_of(ask))
        first = self.answered.get((owner, ask.key))
        if first is not None:
            return ("replayed", *first[1]) if first[0] == ask else ("key reused",)
        answer: Answer = getattr(self, f"_{ask.verb}")(ask)
        self.answered[owner, ask.key] = ask, answer
        return answer

    def owner_of(self, ask: Ask) -> str:
        """Return whose key it is."""
        if ask.verb in OF_HOLDS:
            return self.holds[ask.what].owner
        return self.moved[ask.what].owner if ask.verb in REVERSIBLE else ask.owner

    def others_of(self, ask: Ask) -> list[str]:
        """Return who else gets something, or may."""
        if ask.verb == "capture":
            to = self.holds[ask.what].to
        elif ask.verb == "clawback":
            original = self.moved[ask.what]
            to = original.sender if original.type == "transfer_in" else None
        else:
            to = None if ask.verb == "place" else ask.to
        return [] if to is None else [to]

    def _stopped(self, owner: str, by: frozenset[str]) -> Answer:
        """Return why nothing leaves a wallet, or moves at all; nothing where it does."""
        status = self.status(owner)
        if status not in by:
            return ()
        return ("WalletClosed",) if status == "CLOSED" else ("WalletFrozen", status)

    def _short(self, owner: str, amount: int, source: str | None = None) -> Answer:
        available = self.available(owner, source)
        return ("InsufficientBalance", available) if amount > available else ()

    def _takes(self, to: str | None) -> Answer:
        """Return that a receiver takes nothing; nothing where it does."""
        return ("ReceiverRefused",) if to is not None and self.status(to) in NOTHING_MOVES else ()

    def _cannot_end(self, until: int | None) -> Answer:
        """Return why credits cannot end then; nothing where they can."""
        if until is None or self.now < until <= self.now + TEN_YEARS:
            return ()
        return "InvalidExpiry", "IN_THE_PAST" if until <= self.now else "TOO_FAR"

    def _top_up(self, ask: Ask) -> Answer:
        refused = self._stopped(ask.owner, NOTHING_MOVES)
        return refused or self._credit(ask.owner, "top_up", [(POOL, ask.amount or 0)])

    def _bonus(self, ask: Ask) -> Answer:
        refused = self._stopped(ask.owner, NOTHING_MOVES) or self._cannot_end(ask.until)
        terms = Terms("BONUS", ask.priority, ask.campaign, NEVER if ask.until is None else ask.until)
        return refused or self._credit(ask.owner, "bonus", [(terms, ask.amount or 0)])

    def _spend(self, ask: Ask) -> Answer:
        assert ask.amount is not None
        return (
            self._stopped(ask.owner, NOTHING_LEAVES)
            or self._short(ask.owner, ask.amount, ask.source)
            or self._debit(ask.owner, "spend", self._take(ask.owner, ask.amount, ask.source))
        )

    def _transfer(self, ask: Ask) -> Answer:
        assert ask.amount is not None
        assert ask.to is not None
        return (
            self._stopped(ask.owner, NOTHING_LEAVES)
            or self._short(ask.owner, ask.amount, ask.source)
            or self._takes(ask.to)
            or self._give(ask.owner, ask.to, self._take(ask.owner, ask.amount, ask.source))
        )

    def _place(self, ask: Ask) -> Answer:
        assert ask.amount is not None
        assert ask.ttl is not None
        owner = ask.owner
        refused = self._stopped(owner, NOTHING_LEAVES) or self._short(owner, ask.amount, ask.source)
        if refused:
            return refused
        tick = len(self.answered)
        parts = self._take(owner, ask.amount, ask.source)
        placed, until = (self.now, tick), (self.now + ask.ttl, tick)
        self.holds.append(Hold(owner, ask.to, ask.source, ask.amount, placed, until, parts))
        return ("held",)

    def _ending(self, hold: Hold, *, last: bool = False) -> dict[int, int]:
        """Return what a hold has, the soonest end first; or last."""
        lots = self.lots[hold.owner]
        order = sorted(hold.parts, key=lambda n: lots[n].end_order, reverse=last)
        return {n: hold.parts[n] for n in order}

    def _capture(self, ask: Ask) -> Answer:
        hold = self.holds[ask.what]
        amount = hold.remaining if ask.amount is None else ask.amount
        refused = self._stopped(hold.owner, NOTHING_MOVES)
        if not refused and hold.state != "OPEN":
            refused = "HoldNotOpen", hold.state
        if not refused and amount > hold.remaining:
            refused = "HoldExceeded", hold.remaining
        refused = refused or self._takes(hold.to)
        if refused:
            return refused
        uses = _first(self._ending(hold), amount)
        hold.captured += amount
        hold.parts = _without(hold.parts, uses) if ask.flag else {}
        if not ask.flag or not hold.remaining:
            hold.close("CAPTURED")
        if hold.to is not None:
            return self._give(hold.owner, hold.to, uses)
        answer = self._debit(hold.owner, "capture", uses)
        self._settle(hold.owner)
        return answer

    def _void(self, ask: Ask) -> Answer:
        hold = self.holds[ask.what]
        if hold.state != "OPEN":
            return "HoldNotOpen", hold.state
        self._release(hold)
        return ("held",)

    def _release(self, hold: Hold) -> None:
        hold.close("VOIDED")
        hold.parts = {}
        self._settle(hold.owner)

    def _adjust(self, ask: Ask) -> Answer:
        hold = self.holds[ask.what]
        amount = hold.amount if ask.amount is None else ask.amount
        raised = amount - hold.amount
        if raised > 0 and (refused := self._stopped(hold.owner, NOTHING_LEAVES)):
            return refused
        if hold.state != "OPEN":
            return "HoldNotOpen", hold.state
        if amount < hold.captured:
            return "HoldExceeded", hold.remaining
        if raised > 0 and (refused := self._short(hold.owner, raised, hold.source)):
            return refused
        if raised > 0:
            for n, part in self._take(hold.owner, raised, hold.source).items():
                hold.parts[n] = hold.parts.get(n, 0) + part
        else:
            # What lives longest is released: the pool first.
            hold.parts = _without(hold.parts, _first(self._ending(hold, last=True), -raised))
        hold.amount = amount
        if ask.ttl is not None:
            latest = hold.placed[0] + MONTH, hold.placed[1]
            hold.until = min((self.now + ask.ttl, len(self.answered)), latest)
        if not hold.remaining:
            hold.state = "CAPTURED"
        self._settle(hold.owner)
        return ("held",)

    def _refund(self, ask: Ask) -> Answer:
        original = self.moved[ask.what]
        owner = original.owner
        refused = self._stopped(owner, NOTHING_MOVES) or self._cannot_end(ask.until) or self._reverse(ask, original)
        if refused:
            return refused
        amount = self._asked(ask, original)
        # What was taken last goes back first; what went back before is passed over.
        back = dict(reversed(original.uses.items()))
        uses = _first(_without(back, _first(back, original.reversed)), amount)
        original.reversed += amount
        if ask.until is not None:
            uses = self._renewed(owner, uses, ask.until)
        for n, part in uses.items():
            self.lots[owner][n].remaining += part
        answer = self._record(owner, "refund", uses, 1)
        self._settle(owner)
        return answer

    def _renewed(self, owner: str, uses: dict[int, int], until: int) -> dict[int, int]:
        """Let what would go back to lots that have lapsed go to new ones that end later."""
        renewed: dict[int, int] = {}
        for n, part in uses.items():
            terms = self.lots[owner][n].terms
            place = self._place_of(owner, terms._replace(end=until)) if terms.end <= self.now else n
            renewed[place] = part
        return renewed

    def _clawback(self, ask: Ask) -> Answer:
        original = self.moved[ask.what]
        owner, sender = original.owner, original.sender
        if refused := self._reverse(ask, original):
            return refused
        amount = self._asked(ask, original)
        if ask.how == "REFUSE" and (refused := self._short(owner, amount)):
            return refused
        # What it put there, as far as it was not taken back before and is there.
        own = _without(original.uses, original.taken_back)
        uses = _first({n: min(part, self.free(owner, self.lots[owner][n])) for n, part in own.items()}, amount)
        taken = sum(uses.values()) if ask.how == "LOT_ONLY" else min(amount, self.available(owner))
        owed = amount - taken if ask.how == "DEBT" else 0
        if taken and (refused := self._takes(sender)):
            return refused
        others = {lot.n: self.free(owner, lot) for lot in sorted(self.lots[owner], key=lambda lot: lot.spend_order)}
        for n, part in _first(_without(others, uses), taken - sum(uses.values())).items():
            uses[n] = uses.get(n, 0) + part
        for n, part in uses.items():
            original.taken_back[n] = original.taken_back.get(n, 0) + part
        original.reversed += taken + owed
        self.debts[owner] = self.debt(owner) + owed
        if not taken:
            return "nothing", amount - owed, owed
        return self._debit(owner, "clawback", uses) if sender is None else self._give(owner, sender, uses, "clawback")

    def _reverse(self, ask: Ask, original: Moved) -> Answer:
        """Return why nothing can be reversed; nothing where it can."""
        left = abs(original.amount) - original.reversed
        if original.type not in REVERSIBLE[ask.verb]:
            return ("NotRefundable",)
        if left == 0 or (ask.amount or left) > left:
            return "RefundExceedsOriginal", left
        return ()

    def _asked(self, ask: Ask, original: Moved) -> int:
        return ask.amount or abs(original.amount) - original.reversed

    def _freeze(self, ask: Ask) -> Answer:
        return self._become(ask, f"FROZEN_{ask.how}" if ask.verb == "freeze" else "OPEN")

    _unfreeze = _freeze

    def _reopen(self, ask: Ask) -> Answer:
        if self.status(ask.owner) == "CLOSED":
            self.states[ask.owner] = "OPEN", None
        return "changed", 0

    def _become(self, ask: Ask, status: str) -> Answer:
        if self.status(ask.owner) == "CLOSED":
            return ("WalletClosed",)
        self.states[ask.owner] = status, ask.until
        return "changed", 0

    def _close(self, ask: Ask) -> Answer:
        owner = ask.owner
        if self.status(owner) == "CLOSED":
            return "changed", 0
        held = [hold for hold in self.holds if hold.owner == owner and hold.state == "OPEN"]
        # When its holds are voided, what has lapsed is gone before it could repay anything.
        over = sum(lot.remaining for lot in self.lots[owner] if lot.terms.end <= self.now)
        left = self.balance(owner) - over - self.debt(owner)
        is_kept = {
            "REFUSE": self.balance(owner) > 0 or self.debt(owner) > 0, "TRANSFER": left < 0, "FORFEIT": False,
        }[ask.how]  # fmt: skip
        refused = self._stopped(owner, NOTHING_LEAVES) if ask.how == "TRANSFER" else ()
        if not refused and ((held and not ask.flag) or is_kept):
            refused = "WalletNotEmpty", len(held)
        if left > 0:
            refused = refused or self._takes(ask.to)
        if refused:
            return refused
        for hold in held:
            self._release(hold)
        if left > 0 and ask.to is not None:
            self._give(owner, ask.to, self._take(owner, left))
        elif left > 0:
            self._debit(owner, "forfeit", self._take(owner, left))
        self.debts[owner] = 0
        self.states[owner] = "CLOSED", None
        return "changed", int(left != 0)


def _first(parts: dict[int, int], amount: int) -> dict[int, int]:
    """Return the first of the parts that make up an amount."""
    taken: dict[int, int] = {}
    for n, part in parts.items():
        if part and amount:
            taken[n] = min(part, amount)
            amount -= taken[n]
    return taken


def _without(parts: dict[int, int], others: dict[int, int]) -> dict[int, int]:
    """Return what is left of parts when others are taken away, none below zero."""
    left = {n: max(0, part - others.get(n, 0)) for n, part in parts.items()}
    return {n: part for n, part in left.items() if part}
