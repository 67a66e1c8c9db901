"""What an actor or a request asked for: for auditors."""

from typing import Annotated, Final

import strawberry
from strawberry import UNSET

from wallet_gql.domain.access import ActorKind as DomainActorKind
from wallet_gql.domain.errors import BadUserInput
from wallet_gql.domain.text import check_text
from wallet_gql.graphql import ids, paging
from wallet_gql.graphql.access import ActorKind
from wallet_gql.graphql.context import Info
from wallet_gql.graphql.paging import PAGE_SIZE_DEFAULT, PageInfo
from wallet_gql.graphql.transactions import After, Transaction, TransactionConnection, TransactionEdge
from wallet_gql.ledger.searches import FoundPage, SearchRequest

NAME_LENGTH_MAX: Final = 128


RequestId = Annotated[str | None, strawberry.argument(description="The id of a request: its X-Request-Id.")]
ActorName = Annotated[str | None, strawberry.argument(description="The name of an API key, or a person's owner id.")]
Kind = Annotated[ActorKind | None, strawberry.argument(description="What kind of actor it is; any kind if null.")]
First = Annotated[
    int | None, strawberry.argument(description=f"How many, 1 to {paging.PAGE_SIZE_MAX}; {PAGE_SIZE_DEFAULT} if null.")
]


def _given(value: str | None, field: str) -> str | None:
    """Return what to look for; raises `BadUserInput` for what nothing can be noted as."""
    if value is None or value is UNSET:
        return None
    if not 1 <= len(value) <= NAME_LENGTH_MAX:
        raise BadUserInput(field, f"has {len(value)} characters", f"send 1 to {NAME_LENGTH_MAX}")
    return check_text(value, field)


@strawberry.type
class SearchQueries:
    """What can be asked about who did what."""

    @strawberry.field(
        description="What an actor or a request asked for, whoever the owners are, newest first: send one of the two,"
        " or both. A page may be empty although more follow, where much of what was done is not what is asked for: go"
        " on from its end. What moved nothing of its owner's, such as a clawback of which all is owed, is not shown."
    )
    async def search_transactions(
        self,
        info: Info,
        request_id: RequestId = UNSET,
        actor: ActorName = UNSET,
        actor_kind: Kind = UNSET,
        first: First = UNSET,
        after: After = UNSET,
    ) -> TransactionConnection | None:
        """Read a page."""
        paging.check(paging.PageArguments(first, after, None, None, None))
        name, request = _given(actor, "actor"), _given(request_id, "requestId")
        if name is None and request is None:
            raise BadUserInput("requestId", "and actor are missing", "send one of them, or both")
        kind = None if actor_kind is None or actor_kind is UNSET else DomainActorKind[actor_kind.name]
        size = PAGE_SIZE_DEFAULT if first is None or first is UNSET else first
        place = (None, None) if after is None or after is UNSET else ids.decode_place(after, "after")
        wanted = SearchRequest(name, kind, request, size, info.context.caller.owner_prefix, *place)
        return _connection(await info.context.ledger.reads.searches.load(wanted), is_first=place[0] is None)


def _connection(page: FoundPage, *, is_first: bool) -> TransactionConnection:
    edges = [
        TransactionEdge(cursor=ids.place(*found.place), node=Transaction(view=found.transaction))
        for found in page.found
    ]
    last = edges[-1].cursor if edges else None
    return TransactionConnection(
        edges=edges,
        nodes=[edge.node for edge in edges],
        page_info=PageInfo(
            has_next_page=page.end is not None,
            has_previous_page=not is_first,
            start_cursor=edges[0].cursor if edges else None,
            end_cursor=last if page.end is None else ids.place(*page.end),
        ),
        total_count=None,
    )
