"""What everything with an identity has in common.

What an answer shows of it is worked out field by field, from what the ledger keeps, when it is asked for: most requests
ask for a few fields of many.
"""

from abc import ABC, abstractmethod
from typing import Annotated

import strawberry

NodeId = Annotated[strawberry.ID, strawberry.argument(description="A global id, as it was received.")]


@strawberry.interface(description="Anything with an identity.")
class Node(ABC):
    """Anything with an identity."""

    @strawberry.field(description="A global id: opaque, permanent, unique across types.")
    def id(self) -> strawberry.ID:
        """Encode it when it is asked for."""
        return strawberry.ID(self.global_id())

    @abstractmethod
    def global_id(self) -> str:
        """Return its global id."""
