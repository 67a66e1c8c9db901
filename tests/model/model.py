"""What the wallets should do, in a page of plain Python: the tests' model of the ledger."""

from dataclasses import dataclass, field, replace

BALANCE_MAX = 10**17

# What a wallet becomes, by what is asked for.
STATUSES = {
    "freeze_out": "FROZEN_OUT",
    "freeze_all": "FROZEN_ALL",
    "unfreeze": "OPEN",
    "close": "CLOSED",
    "reopen": "OPEN",
}


@dataclass(frozen=True)
class Ask:
    """A request as the model sees it; what changes a wallet's status has neither asset nor amount."""

    verb: str
    owner: str
    asset: str
    amount: int
    key: str
    reference: str | None = None


@dataclass(frozen=True)
class Answer:
    """What is compared: the outcome, the balance just after (posted) or before (refused), now, and whether replayed.

    What is told without a balance has none.
    """

    outcome: str
    at: int | None = None
    now: int | None = None
    replayed: bool = False


@dataclass
class Books:
    """Every owner's balances, and what each key was asked and answered."""

    balances: dict[str, dict[str, int]] = field(default_factory=dict)
    statuses: dict[str, str] = field(default_factory=dict)
    answered: dict[tuple[str, str], tuple[Ask, Answer]] = field(default_factory=dict)
    history: dict[tuple[str, str], list[tuple[str, int]]] = field(default_factory=dict)

    def open(self, owner: str) -> bool:
        """Open a wallet; say whether it was open before."""
        was_open = owner in self.balances
        self.balances.setdefault(owner, {})
        return was_open

    def balance(self, owner: str, asset: str) -> int:
        return self.balances[owner].get(asset, 0)

    def status(self, owner: str) -> str:
        return self.statuses.get(owner, "OPEN")

    def post(self, ask: Ask) -> Answer:
        """Decide one request."""
        if ask.owner not in self.balances:
            return Answer("wallet missing")
        before = self.balance(ask.owner, ask.asset)
        first = self.answered.get((ask.owner, ask.key))
        if first is not None:
            asked, answer = first
            if asked != ask:
                return Answer("key reused")
            return replace(answer, now=None if answer.now is None else before, replayed=True)
        answer = self._change(ask) if ask.verb in STATUSES else self._stopped(ask) or self._move(ask, before)
        self.answered[ask.owner, ask.key] = ask, answer
        return answer

    def _stopped(self, ask: Ask) -> Answer | None:
        status = self.status(ask.owner)
        if status == "CLOSED":
            return Answer("closed")
        is_stopped = status == "FROZEN_ALL" or (status == "FROZEN_OUT" and ask.verb == "spend")
        return Answer(status) if is_stopped else None

    def _move(self, ask: Ask, before: int) -> Answer:
        after = before + (-ask.amount if ask.verb == "spend" else ask.amount)
        if after > BALANCE_MAX:
            return Answer("limit", before, before)
        if after < 0:
            return Answer("insufficient", before, before)
        self._append(ask.owner, ask.asset, ask.verb, after)
        return Answer("posted", after, after)

    def _append(self, owner: str, asset: str, verb: str, after: int) -> None:
        self.balances[owner][asset] = after
        self.history.setdefault((owner, asset), []).insert(0, (verb, after))

    def _change(self, ask: Ask) -> Answer:
        """Freeze, unfreeze, close, reopen; a wallet that is closed forfeits what it has."""
        if self.status(ask.owner) == "CLOSED" and ask.verb not in {"close", "reopen"}:
            return Answer("closed")
        if self.status(ask.owner) == "CLOSED" or ask.verb != "reopen":
            self.statuses[ask.owner] = STATUSES[ask.verb]
        if ask.verb == "close":
            for asset, balance in self.balances[ask.owner].items():
                if balance:
                    self._append(ask.owner, asset, "forfeit", 0)
        return Answer("changed")
