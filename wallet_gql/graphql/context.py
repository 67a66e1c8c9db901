"""What a resolver has at hand: the open ledger, and the request's id and deadline."""

from dataclasses import dataclass
from typing import TypeAlias

from strawberry.types import Info as StrawberryInfo

from wallet_gql.domain.access import ANYONE, Caller
from wallet_gql.operations.opening import Ledger


@dataclass(slots=True)
class Context:
    """One a request; it never holds a database connection."""

    ledger: Ledger
    request_id: str
    deadline: float
    """When the request ends, a time of the event loop's clock."""
    caller: Caller = ANYONE


Info: TypeAlias = StrawberryInfo[Context, None]
