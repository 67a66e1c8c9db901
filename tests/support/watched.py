"""The endpoint in the test's own process, and the statements that its ledger sends."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from typing import Any

import asyncpg
import httpx
from sqlalchemy import event
from starlette.types import Receive, Scope, Send

from wallet_gql.endpoint.http import GraphQLEndpoint
from wallet_gql.operations.opening import Ledger

_WATCHED: ContextVar[list[str] | None] = ContextVar("_WATCHED", default=None)
"""Where the statements go that a task begins."""


@asynccontextmanager
async def endpoint_of(ledger: Ledger) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the endpoint in this process, whose statements can be watched."""
    endpoint = GraphQLEndpoint(ledger.settings)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await endpoint({**scope, "state": {"ledger": ledger, "request_id": "test"}}, receive, send)

    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://wallet.test") as client:
        yield client


@contextmanager
def statements_of(ledger: Ledger) -> Iterator[list[str]]:
    """Collect every statement that the block, and what it begins, sends over a pooled connection."""
    statements: list[str] = []
    watched: list[asyncpg.Connection] = []

    def note(query: Any) -> None:
        # What the service does by itself, such as reading keys, was begun elsewhere.
        is_own = _WATCHED.get() is statements
        # The driver looks up what it does not know of types, once a connection.
        if is_own and "pg_catalog" not in query.query and "current_setting" not in query.query:
            statements.append(query.query)

    def watch(connection: Any, *_: Any) -> None:
        if connection.driver_connection not in watched:
            watched.append(connection.driver_connection)
            connection.driver_connection.add_query_logger(note)

    token = _WATCHED.set(statements)
    event.listen(ledger.engine.sync_engine, "checkout", watch)
    try:
        yield statements
    finally:
        _WATCHED.reset(token)
        event.remove(ledger.engine.sync_engine, "checkout", watch)
        for connection in watched:
            connection.remove_query_logger(note)
