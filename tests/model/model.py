"""What the wallets should do, in a page of plain Python: the tests' model of the ledger."""

from dataclasses import dataclass, field

BALANCE_MAX = 10**17


@dataclass(frozen=True)
class Ask:
    """A request as the model sees it."""

    verb: str
    owner: str
    asset: str
    amount: int
    key: str
    reference: str | None = None


@dataclass(frozen=True)
class Answer:
    """What is compared: the outcome, the balance just after (posted) or before (refused), now, and whether replayed."""

    outcome: str
    at: int | None = None
    now: int | None = None
    replayed: bool = False


@dataclass
class Books:
    """Every owner's balances, and what each key was asked and answered."""

    balances: dict[str, dict[str, int]] = field(default_factory=dict)
    answered: dict[tuple[str, str], tuple[Ask, Answer]] = field(default_factory=dict)
    history: dict[tuple[str, str], list[tuple[str, int]]] = field(default_factory=dict)

    def open(self, owner: str) -> bool:
        """Open a wallet; say whether it was open before."""
        was_open = owner in self.balances
        self.balances.setdefault(owner, {})
        return was_open

    def balance(self, owner: str, asset: str) -> int:
        return self.balances[owner].get(asset, 0)

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
            return Answer(answer.outcome, answer.at, before, replayed=True)
        after = before + (-ask.amount if ask.verb == "spend" else ask.amount)
        if after > BALANCE_MAX:
            answer = Answer("limit", before, before)
        elif after < 0:
            answer = Answer("insufficient", before, before)
        else:
            self.balances[ask.owner][ask.asset] = after
            self.history.setdefault((ask.owner, ask.asset), []).insert(0, (ask.verb, after))
            answer = Answer("posted", after, after)
        self.answered[ask.owner, ask.key] = ask, answer
        return answer
