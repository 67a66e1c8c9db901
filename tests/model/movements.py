"""What every movement should do, in plain Python: transfers, holds, refunds, clawbacks, debts, freezes, closings.

The clock jumps. What is over by the clock is over; what is booked for it is booked before anything else of its owner.
"""

from dataclasses import dataclass, field
from typing import Any

DAY = 86_400


@dataclass
class Hold:
    """A hold: `amount` is captured, released and remaining together."""

    owner: str
    to: str | None
    amount: int
    until: int
    captured: int = 0
    released: int = 0
    state: str = "OPEN"
    captures: int = 0

    @property
    def remaining(self) -> int:
        return self.amount - self.captured - self.released

    def close(self, state: str) -> None:
        self.released = self.amount - self.captured
        self.state = state


@dataclass
class Moved:
    """A transaction as its owner sees it."""

    owner: str
    type: str
    amount: int
    after: int
    sender: str | None = None
    reversed: int = 0


@dataclass(frozen=True)
class Ask:
    """A request: what is asked for, and the key.

    `what` names a hold or a transaction by its place; `how` is what a clawback does where too little is there, what a
    freeze freezes, or what becomes of what a closed wallet has; `until` is when a freeze ends.
    """

    verb: str
    key: str
    owner: str = ""
    to: str | None = None
    amount: int | None = None
    what: int = 0
    flag: bool = False
    how: str = ""
    until: int | None = None


OF_HOLDS = frozenset({"capture", "void", "adjust"})
REVERSIBLE = {"refund": {"spend", "capture"}, "clawback": {"top_up", "bonus", "transfer_in"}}
OF_STATES = frozenset({"freeze", "unfreeze", "close", "reopen"})

NOTHING_LEAVES = frozenset({"FROZEN_OUT", "FROZEN_ALL", "CLOSED"})
NOTHING_MOVES = frozenset({"FROZEN_ALL", "CLOSED"})


@dataclass
class Books:
    """Every owner's balance, holds, debt and history; what each key was answered with."""

    balances: dict[str, int] = field(default_factory=dict)
    debts: dict[str, int] = field(default_factory=dict)
    states: dict[str, tuple[str, int | None]] = field(default_factory=dict)
    """A status, and when it ends by itself."""
    ended: dict[str, list[int]] = field(default_factory=dict)
    """What holds released when they were over, before anything is booked for it."""
    holds: list[Hold] = field(default_factory=list)
    moved: list[Moved] = field(default_factory=list)
    answered: dict[tuple[str, str], tuple[Ask, tuple[Any, ...]]] = field(default_factory=dict)
    now: int = 0

    def held(self, owner: str) -> int:
        return sum(hold.remaining for hold in self.holds if hold.owner == owner)

    def available(self, owner: str) -> int:
        return self.balances[owner] - self.held(owner)

    def debt(self, owner: str) -> int:
        return self.debts.get(owner, 0)

    def status(self, owner: str) -> str:
        status, until = self.states.get(owner, ("OPEN", None))
        return status if until is None or self.now < until else "OPEN"

    def history(self, owner: str) -> list[tuple[str, int]]:
        return [(moved.type, moved.after) for moved in reversed(self.moved) if moved.owner == owner]

    def advance(self, seconds: int) -> None:
        """Let time pass: what is over is over."""
        self.now += seconds
        over = [hold for hold in self.holds if hold.state == "OPEN" and hold.until <= self.now]
        for hold in sorted(over, key=lambda hold: hold.until):
            self.ended.setdefault(hold.owner, []).append(hold.remaining)
            hold.close("EXPIRED")

    def book(self, *owners: str) -> None:
        """Let what ended repay what is owed."""
        for owner in owners:
            for released in self.ended.pop(owner, []):
                self._repay(owner, released)

    def ask(self, ask: Ask) -> tuple[Any, ...]:
        """Decide one request."""
        owner = self.owner_of(ask)
        self.book(owner, *self.others_of(ask))
        first = self.answered.get((owner, ask.key))
        if first is not None:
            return ("replayed", *first[1]) if first[0] == ask else ("key reused",)
        answer: tuple[Any, ...] = getattr(self, f"_{ask.verb}")(ask)
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

    def _move(self, owner: str, type_: str, amount: int, **more: Any) -> tuple[Any, ...]:
        self.balances[owner] += amount
        self.moved.append(Moved(owner, type_, amount, self.balances[owner], **more))
        answer = "posted", self.balances[owner]
        if type_ != "repayment":
            self._repay(owner, self.available(owner))
        return answer

    def _repay(self, owner: str, available: int) -> None:
        """Let what is available repay what is owed."""
        repaid = min(available, self.debt(owner))
        if repaid > 0:
            self.debts[owner] -= repaid
            self._move(owner, "repayment", -repaid)

    def _give(self, owner: str, to: str, amount: int) -> tuple[Any, ...]:
        answer = self._move(owner, "transfer_out", -amount)
        self._move(to, "transfer_in", amount, sender=owner)
        return answer

    def _stopped(self, owner: str, by: frozenset[str]) -> tuple[Any, ...]:
        """Return why nothing leaves a wallet, or moves at all; nothing where it does."""
        status = self.status(owner)
        if status not in by:
            return ()
        return ("WalletClosed",) if status == "CLOSED" else ("WalletFrozen", status)

    def _short(self, owner: str, amount: int) -> tuple[Any, ...]:
        available = self.available(owner)
        return ("InsufficientBalance", available) if amount > available else ()

    def _takes(self, to: str | None) -> tuple[Any, ...]:
        """Return that a receiver takes nothing; nothing where it does."""
        return ("ReceiverRefused",) if to is not None and self.status(to) in NOTHING_MOVES else ()

    def _top_up(self, ask: Ask) -> tuple[Any, ...]:
        return self._stopped(ask.owner, NOTHING_MOVES) or self._move(ask.owner, ask.verb, ask.amount or 0)

    _bonus = _top_up

    def _spend(self, ask: Ask) -> tuple[Any, ...]:
        assert ask.amount is not None
        return (
            self._stopped(ask.owner, NOTHING_LEAVES)
            or self._short(ask.owner, ask.amount)
            or self._move(ask.owner, "spend", -ask.amount)
        )

    def _transfer(self, ask: Ask) -> tuple[Any, ...]:
        assert ask.amount is not None
        assert ask.to is not None
        return (
            self._stopped(ask.owner, NOTHING_LEAVES)
            or self._short(ask.owner, ask.amount)
            or self._takes(ask.to)
            or self._give(ask.owner, ask.to, ask.amount)
        )

    def _place(self, ask: Ask) -> tuple[Any, ...]:
        assert ask.amount is not None
        refused = self._stopped(ask.owner, NOTHING_LEAVES) or self._short(ask.owner, ask.amount)
        if refused:
            return refused
        self.holds.append(Hold(ask.owner, ask.to, ask.amount, self.now + DAY))
        return ("held",)

    def _capture(self, ask: Ask) -> tuple[Any, ...]:
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
        hold.captured += amount
        if not ask.flag or not hold.remaining:
            hold.close("CAPTURED")
        if hold.to is not None:
            return self._give(hold.owner, hold.to, amount)
        return self._move(hold.owner, "capture", -amount)

    def _void(self, ask: Ask) -> tuple[Any, ...]:
        hold = self.holds[ask.what]
        if hold.state != "OPEN":
            return "HoldNotOpen", hold.state
        self._release(hold)
        return ("held",)

    def _release(self, hold: Hold) -> None:
        hold.close("VOIDED")
        self._repay(hold.owner, self.available(hold.owner))

    def _adjust(self, ask: Ask) -> tuple[Any, ...]:
        hold = self.holds[ask.what]
        assert ask.amount is not None
        raised = ask.amount - hold.amount
        if raised > 0 and (refused := self._stopped(hold.owner, NOTHING_LEAVES)):
            return refused
        if hold.state != "OPEN":
            return "HoldNotOpen", hold.state
        if ask.amount < hold.captured:
            return "HoldExceeded", hold.remaining
        if raised > 0 and (refused := self._short(hold.owner, raised)):
            return refused
        hold.amount = ask.amount
        if not hold.remaining:
            hold.state = "CAPTURED"
        self._repay(hold.owner, self.available(hold.owner))
        return ("held",)

    def _refund(self, ask: Ask) -> tuple[Any, ...]:
        original = self.moved[ask.what]
        refused = self._stopped(original.owner, NOTHING_MOVES) or self._reverse(ask, original)
        if refused:
            return refused
        amount = self._asked(ask, original)
        original.reversed += amount
        return self._move(original.owner, "refund", amount)

    def _clawback(self, ask: Ask) -> tuple[Any, ...]:
        original = self.moved[ask.what]
        if refused := self._reverse(ask, original):
            return refused
        amount = self._asked(ask, original)
        if ask.how == "REFUSE" and (refused := self._short(original.owner, amount)):
            return refused
        taken = min(amount, self.available(original.owner))
        owed = amount - taken if ask.how == "DEBT" else 0
        if taken and (refused := self._takes(original.sender)):
            return refused
        original.reversed += taken + owed
        self.debts[original.owner] = self.debt(original.owner) + owed
        if not taken:
            return "nothing", amount - owed, owed
        answer = self._move(original.owner, "clawback", -taken)
        if original.sender is not None:
            self._move(original.sender, "transfer_in", taken, sender=original.owner)
        return answer

    def _reverse(self, ask: Ask, original: Moved) -> tuple[Any, ...]:
        """Return why nothing can be reversed; nothing where it can."""
        left = abs(original.amount) - original.reversed
        if original.type not in REVERSIBLE[ask.verb]:
            return ("NotRefundable",)
        if left == 0 or (ask.amount or left) > left:
            return "RefundExceedsOriginal", left
        return ()

    def _asked(self, ask: Ask, original: Moved) -> int:
        return ask.amount or abs(original.amount) - original.reversed

    def _freeze(self, ask: Ask) -> tuple[Any, ...]:
        return self._become(ask, f"FROZEN_{ask.how}" if ask.verb == "freeze" else "OPEN")

    _unfreeze = _freeze

    def _reopen(self, ask: Ask) -> tuple[Any, ...]:
        return self._become(ask, "OPEN", {"CLOSED"}) if self.status(ask.owner) == "CLOSED" else ("changed", 0)

    def _become(self, ask: Ask, status: str, before: frozenset[str] | set[str] = frozenset()) -> tuple[Any, ...]:
        if self.status(ask.owner) == "CLOSED" and "CLOSED" not in before:
            return ("WalletClosed",)
        self.states[ask.owner] = status, ask.until
        return "changed", 0

    def _close(self, ask: Ask) -> tuple[Any, ...]:
        owner = ask.owner
        if self.status(owner) == "CLOSED":
            return "changed", 0
        held = [hold for hold in self.holds if hold.owner == owner and hold.state == "OPEN"]
        given, owed = self.balances[owner] - self.debt(owner), self.debt(owner) - self.balances[owner]
        is_kept = {
            "REFUSE": self.balances[owner] > 0 or self.debt(owner) > 0, "TRANSFER": owed > 0, "FORFEIT": False,
        }[ask.how]  # fmt: skip
        refused = self._stopped(owner, NOTHING_LEAVES) if ask.how == "TRANSFER" else ()
        if not refused and ((held and not ask.flag) or is_kept):
            refused = "WalletNotEmpty", len(held)
        if given > 0:
            refused = refused or self._takes(ask.to)
        if refused:
            return refused
        for hold in held:
            self._release(hold)
        if given > 0 and ask.to is not None:
            self._give(owner, ask.to, given)
        elif given > 0:
            self._move(owner, "forfeit", -given)
        self.debts[owner] = 0
        self.states[owner] = "CLOSED", None
        return "changed", int(given > 0 or owed > 0)
