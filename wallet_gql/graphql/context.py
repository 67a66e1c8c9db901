"""What a resolver has at hand: the open ledger, and the request's id and deadline."""

from dataclasses import dataclass
from typing import TypeAlias
from uuid import UUID

from strawberry.types import Info as StrawberryInfo

from wallet_gql.domain.access import ANYONE, AskedBy, Caller
from wallet_gql.operations.opening import Ledger


@dataclass(slots=True)
class Context:
    """One a request; it never holds a database connection."""

    ledger: Ledger
    request_id: str
    deadline: float
    """When the request ends, a time of the event loop's clock."""
    caller: Caller = ANYONE
    own_request_id: str | None = None
    """The request's id, where it is the caller's own."""
    is_id_free: bool = False
    """Whether the service made the request's id, and nothing is named by it yet."""

    @property
    def asked_by(self) -> AskedBy | None:
        """What is kept of who asks; None where nothing is known: where access is open, and the request has no id."""
        caller = self.caller
        if caller is not ANYONE:
            return AskedBy(caller.kind, caller.name, self.request_id)
        return None if self.own_request_id is None else AskedBy(None, None, self.own_request_id)

    def take_id(self) -> UUID | None:
        """Return the request's id for the first that asks, to name its transaction by: so it is not kept once more.

        None for any other, and where the id is the caller's own, who may send the same again.
        """
        if not self.is_id_free:
            return None
        self.is_id_free = False
        return UUID(self.request_id)


Info: TypeAlias = StrawberryInfo[Context, None]
