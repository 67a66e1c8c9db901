"""Who asks, and what they may do."""

from dataclasses import dataclass
from decimal import Decimal
from enum import IntEnum, StrEnum
from typing import Final, NamedTuple, Self
from uuid import UUID

from wallet_gql.domain.errors import Forbidden


class ActorKind(IntEnum):
    """What kind of caller asked for a movement. The numbers are stored."""

    API_KEY = 1
    """A machine."""
    PERSON = 2
    """A player, by a token of the platform's identity provider."""
    SYSTEM = 3
    """The service itself, such as the sweeper."""
    OPERATOR = 4
    """Whoever runs the command line, and everybody where access is open."""


class AskedBy(NamedTuple):
    """Who asked for something, and by which HTTP request; None of each where it is not known."""

    kind: ActorKind | None
    name: str | None
    request_id: str | None

    def kept_request_id(self, event_id: UUID) -> str | None:
        """Return what is kept of the request's id with an event: nothing where the id of the event says it."""
        return None if self.request_id == event_id.hex and self.kind in CALLERS else self.request_id

    @classmethod
    def of_kept(cls, kind: int | None, name: str | None, kept_request_id: str | None, event_id: UUID) -> Self:
        """Return who asked for an event, by what is kept with it."""
        asking = None if kind is None else ActorKind(kind)
        is_in_event = asking in CALLERS and kept_request_id is None
        return cls(asking, name, event_id.hex if is_in_event else kept_request_id)


CALLERS: Final = (ActorKind.API_KEY, ActorKind.PERSON)
"""Whoever asks by a request. An event of theirs with which no request's id is kept has the same id as its request.

So it is with the first event of a request whose id the service made: most are, and have only one.
"""

SWEEPER: Final = AskedBy(ActorKind.SYSTEM, "sweeper", None)
"""Whoever books what ends by itself."""

COMMAND_LINE: Final = AskedBy(ActorKind.OPERATOR, "wallet-gql", None)
"""Whoever runs a command that posts."""


class Scope(StrEnum):
    """What a caller may be allowed; each names a kind of movement or of knowledge."""

    WALLET_OPEN = "wallet:open"
    WALLET_READ = "wallet:read"
    """Wallets and balances."""
    HISTORY_READ = "history:read"
    """Transactions, holds and lots, with what they are linked to."""
    TOP_UP = "wallet:topup"
    BONUS = "wallet:bonus"
    SPEND = "wallet:spend"
    TRANSFER = "wallet:transfer"
    HOLD = "wallet:hold"
    """Place, adjust and void holds."""
    CAPTURE = "wallet:capture"
    REFUND = "wallet:refund"
    CLAWBACK = "wallet:clawback"
    FREEZE = "wallet:freeze"
    """Freeze and unfreeze wallets."""
    CLOSE = "wallet:close"
    """Close and reopen wallets."""
    LIMIT = "limit:write"
    """Set and remove limits."""
    AUDIT = "audit:read"
    """Who asked for what."""
    KEY_READ = "key:read"
    """Which API keys there are; never a secret."""
    CLOCK = "clock:write"
    """Move the test clock."""
    SCHEMA = "schema:read"
    """Introspection and GraphiQL, where they are off for others."""


ALL_SCOPES: Final = frozenset(Scope)

PERSONAL_SCOPES: Final = ALL_SCOPES - {Scope.LIMIT, Scope.AUDIT, Scope.KEY_READ, Scope.CLOCK}
"""What a person may be given: nothing that is about others."""


class Budget(NamedTuple):
    """What a caller may ask for in a while, in points of cost."""

    burst: int
    """The most that it can be; it begins so."""
    per_second: int
    """What comes back every second."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Whoever sends a request: who it is, what it may do, and whose wallets it reaches."""

    kind: ActorKind
    name: str
    scopes: frozenset[Scope]
    owner_id: str | None = None
    """A person's own; it reaches no other."""
    owner_prefix: str = ""
    """What the ids of the owners begin with that a key reaches."""
    max_amount: Decimal | None = None
    """The most that it moves at once, in units of the asset; None for any amount."""
    assets: frozenset[str] | None = None
    """The codes of the assets that it moves; None for any."""
    daily_issuance: Decimal | None = None
    """The most of an asset that top-ups and bonuses of its name credit in a day of UTC; None for any amount."""
    budget_id: str | None = None
    """What its budget is kept under; None for whoever has none."""
    budget: Budget | None = None
    """Its own; None for the usual one."""

    @property
    def reaches_all(self) -> bool:
        """Whether it reaches every wallet."""
        return self.owner_id is None and not self.owner_prefix

    @property
    def is_bounded(self) -> bool:
        """Whether it moves some amounts or assets only, or issues so much a day."""
        return not (self.max_amount is None and self.assets is None and self.daily_issuance is None)

    def check_asset(self, asset_code: str) -> None:
        """Raise `Forbidden` where it may not touch this asset."""
        if self.assets is not None and asset_code not in self.assets:
            raise Forbidden(f"asset is not one of {', '.join(sorted(self.assets))}, which your key is for.", "asset")

    def check_movement(self, asset_code: str, amount: Decimal | None) -> None:
        """Raise `Forbidden` where it may not move so much, or this asset; None is all that there is, whatever it is."""
        self.check_asset(asset_code)
        if self.max_amount is None:
            return
        if amount is None:
            raise Forbidden(f"amount is missing: your key moves at most {self.max_amount:f}, so send one.", "amount")
        if amount > self.max_amount:
            raise Forbidden(f"amount is more than {self.max_amount:f}, the most that your key moves at once.", "amount")

    def reaches(self, owner_id: str) -> bool:
        """Say whether an owner's wallet is one of its own."""
        return owner_id == self.owner_id if self.owner_id is not None else owner_id.startswith(self.owner_prefix)


ANYONE: Final = Caller(ActorKind.OPERATOR, "open access", ALL_SCOPES)
"""Everybody, where access is open."""
