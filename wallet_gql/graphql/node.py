"""What everything with an identity has in common."""

from typing import Annotated

import strawberry

NodeId = Annotated[strawberry.ID, strawberry.argument(description="A global id, as it was received.")]


@strawberry.interface(description="Anything with an identity.")
class Node:
    """Anything with an identity."""

    id: strawberry.ID = strawberry.field(description="A global id: opaque, permanent, unique across types.")
