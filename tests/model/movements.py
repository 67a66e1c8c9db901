"""What every movement should do, in plain Python: transfers, holds, refunds, clawbacks, and a clock that jumps."""

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
    """A request: what is asked for, and the key. `what` names a hold or a transaction by its place."""

    verb: str
    key: str
    owner: str = ""
    to: str | None = None
    amount: int | None = None
    what: int = 0
    flag: bool = False


@dataclass
class Books:
    """Every owner's balance, holds and history; what each key was answered with."""

    balances: dict[str, int] = field(default_factory=dict)
    holds: list[Hold] = field(default_factory=list)
    moved: list[Moved] = field(default_factory=list)
    answered: dict[tuple[str, str], tuple[Ask, tuple[Any, ...]]] = field(default_factory=dict)
    now: int = 0

    def held(self, owner: str) -> int:
        return sum(hold.remaining for hold in self.holds if hold.owner == owner)

    def available(self, owner: str) -> int:
        return self.balances[owner] - self.held(owner)

    def history(self, owner: str) -> list[tuple[str, int]]:
        return [(moved.type, moved.after) for moved in reversed(self.moved) if moved.owner == owner]

    def advance(self, seconds: int) -> None:
        """Let time pass: what is over is over."""
        self.now += seconds
        for hold in self.holds:
            if hold.state == "OPEN" and hold.until <= self.now:
                hold.close("EXPIRED")

    def ask(self, ask: Ask) -> tuple[Any, ...]:
        """Decide one request."""
        owner = self.owner_of(ask)
        first = self.answered.get((owner, ask.key))
        if first is not None:
            return ("replayed", *first[1]) if first[0] == ask else ("key reused",)
        answer: tuple[Any, ...] = getattr(self, f"_{ask.verb}")(ask)
        self.answered[owner, ask.key] = ask, answer
        return answer

    def owner_of(self, ask: Ask) -> str:
        """Return whose key it is."""
        if ask.verb in {"capture", "void", "adjust"}:
            return self.holds[ask.what].owner
        return self.moved[ask.what].owner if ask.verb in {"refund", "clawback"} else ask.owner

    def _move(self, owner: str, type_: str, amount: int, **more: Any) -> tuple[Any, ...]:
        self.balances[owner] += amount
        self.moved.append(Moved(owner, type_, amount, self.balances[owner], **more))
        return "posted", self.balances[owner]

    def _give(self, owner: str, to: str, amount: int) -> tuple[Any, ...]:
        answer = self._move(owner, "transfer_out", -amount)
        self._move(to, "transfer_in", amount, sender=owner)
        return answer

    def _top_up(self, ask: Ask) -> tuple[Any, ...]:
        return self._move(ask.owner, "top_up", ask.amount or 0)

    def _spend(self, ask: Ask) -> tuple[Any, ...]:
        assert ask.amount is not None
        if ask.amount > self.available(ask.owner):
            return "InsufficientBalance", self.available(ask.owner)
        return self._move(ask.owner, "spend", -ask.amount)

    def _transfer(self, ask: Ask) -> tuple[Any, ...]:
        assert ask.amount is not None
        assert ask.to is not None
        if ask.amount > self.available(ask.owner):
            return "InsufficientBalance", self.available(ask.owner)
        return self._give(ask.owner, ask.to, ask.amount)

    def _place(self, ask: Ask) -> tuple[Any, ...]:
        assert ask.amount is not None
        if ask.amount > self.available(ask.owner):
            return "InsufficientBalance", self.available(ask.owner)
        self.holds.append(Hold(ask.owner, ask.to, ask.amount, self.now + DAY))
        return ("held",)

    def _capture(self, ask: Ask) -> tuple[Any, ...]:
        hold = self.holds[ask.what]
        if hold.state != "OPEN":
            return "HoldNotOpen", hold.state
        amount = hold.remaining if ask.amount is None else ask.amount
        if amount > hold.remaining:
            return "HoldExceeded", hold.remaining
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
        hold.close("VOIDED")
        return ("held",)

    def _adjust(self, ask: Ask) -> tuple[Any, ...]:
        hold = self.holds[ask.what]
        assert ask.amount is not None
        if hold.state != "OPEN":
            return "HoldNotOpen", hold.state
        if ask.amount < hold.captured:
            return "HoldExceeded", hold.remaining
        if ask.amount - hold.amount > self.available(hold.owner):
            return "InsufficientBalance", self.available(hold.owner)
        hold.amount = ask.amount
        if not hold.remaining:
            hold.state = "CAPTURED"
        return ("held",)

    def _refund(self, ask: Ask) -> tuple[Any, ...]:
        original = self.moved[ask.what]
        return self._reverse(ask, original, {"spend", "capture"}) or self._reversed(ask, original, "refund")

    def _clawback(self, ask: Ask) -> tuple[Any, ...]:
        original = self.moved[ask.what]
        return self._reverse(ask, original, {"top_up", "transfer_in"}) or self._reversed(ask, original, "clawback")

    def _reverse(self, ask: Ask, original: Moved, types: set[str]) -> tuple[Any, ...]:
        """Return why nothing can be reversed; nothing where it can."""
        left = abs(original.amount) - original.reversed
        if original.type not in types:
            return ("NotRefundable",)
        if left == 0 or (ask.amount or left) > left:
            return "RefundExceedsOriginal", left
        return ()

    def _reversed(self, ask: Ask, original: Moved, type_: str) -> tuple[Any, ...]:
        amount = ask.amount or abs(original.amount) - original.reversed
        if type_ == "refund":
            original.reversed += amount
            return self._move(original.owner, type_, amount)
        available = self.available(original.owner)
        if amount > available and not ask.flag:
            return "InsufficientBalance", available
        taken = min(amount, available)
        if taken == 0:
            return "nothing", amount
        original.reversed += taken
        answer = self._move(original.owner, type_, -taken)
        if original.sender is not None:
            self._move(original.sender, "transfer_in", taken, sender=original.owner)
        return answer
