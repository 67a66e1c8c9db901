"""The endpoint in the test's own process, and the statements that its ledger sends."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import asyncpg
import httpx
from sqlalchemy import event
from starlette.types import Receive, Scope, Send

from wallet_gql.endpoint.http import GraphQLEndpoint
from wallet_gql.operations.opening import Ledger


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
    """Collect every statement that is sent over a pooled connection."""
    statements: list[str] = []
    watched: list[asyncpg.Connection] = []

    def note(query: Any) -> None:
        # The driver looks up what it does not know of types, once a connection; keys are read every two seconds.
        others = ("pg_catalog", "current_setting", "FROM api_key WHERE")
        if not any(each in query.query for each in others):
            statements.append(query.query)

    def watch(connection: Any, *_: Any) -> None:
        if connection.driver_connection not in watched:
            watched.append(connection.driver_connection)
            connection.driver_connection.add_query_logger(note)

    event.listen(ledger.engine.sync_engine, "checkout", watch)
    try:
        yield statements
    finally:
        event.remove(ledger.engine.sync_engine, "checkout", watch)
        for connection in watched:
            connection.remove_query_logger(note)
