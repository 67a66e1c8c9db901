"""The composition root: the Starlette application, its lifespan and its routes."""

import gc
import os
import re
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final, TypedDict

import structlog
from starlette.applications import Starlette
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uuid_utils import uuid7

from wallet_gql import logs
from wallet_gql.graphql import playground
from wallet_gql.graphql.http import GraphQLEndpoint
from wallet_gql.operations.health import check_database
from wallet_gql.operations.opening import Ledger, open_ledger
from wallet_gql.processes import end_with_parent
from wallet_gql.settings import Settings

_REQUEST_ID: Final = re.compile(rb"[A-Za-z0-9._-]{1,64}")

_log = structlog.get_logger()


class State(TypedDict):
    """What the lifespan hands to every request."""

    ledger: Ledger


def create_app(settings: Settings | None = None) -> ASGIApp:
    """Make the application; the ledger is opened when the server starts and closed when it has drained."""
    settings = settings or Settings()
    logs.configure(settings)

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[State]:
        async with open_ledger(settings) as ledger:
            calm_collector()
            _log.info("ready", slot=ledger.slot, shards=ledger.shard_count)
            yield {"ledger": ledger}
        _log.info("stopped")

    endpoint: ASGIApp = GraphQLEndpoint(settings)
    if settings.cors_origins:
        endpoint = CORSMiddleware(
            endpoint,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["content-type", "x-request-id", "x-graphql-cost"],
            expose_headers=["x-request-id", "retry-after"],
        )
    routes: list[Route | Mount] = [Route("/health", health)]
    if settings.graphiql:
        routes += [
            Route("/", lambda _: RedirectResponse("graphql")),
            Mount("/graphiql", playground.assets()),
        ]
    return Front(endpoint, Starlette(routes=routes, lifespan=lifespan))


def create_worker_app() -> ASGIApp:
    """Make the application in one of several worker processes: it drains and ends when its supervisor is gone."""
    end_with_parent(os.getppid(), signal.SIGTERM)
    return create_app()


def calm_collector() -> None:
    """Keep full garbage collections rare and small: each stops the event loop for as long as it looks.

    What the start has made stays, so it need not be looked at again; what a request makes is gone before a young
    collection comes, syntax trees of large documents among it, instead of growing old.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


async def health(request: Request) -> JSONResponse:
    """Answer 200 while the database answers, 503 while it does not."""
    state = await check_database(request.state.ledger)
    healthy = state == "ok"
    return JSONResponse(
        {"status": "ok" if healthy else "unavailable", "database": state},
        status_code=200 if healthy else 503,
        headers={"cache-control": "no-store"},
    )


class Front:
    """Gives every request an id, its own or the caller's, and logs one line when it is answered.

    `/graphql` goes straight to its endpoint: on that path Starlette's routing would cost a fifth of what the resolvers
    do.
    """

    def __init__(self, endpoint: ASGIApp, others: ASGIApp) -> None:
        """Take the endpoint at `/graphql`, and what answers everything else, the lifespan among it."""
        self._endpoint = endpoint
        self._others = others

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._others(scope, receive, send)
            return
        app = self._endpoint if scope["path"] == "/graphql" else self._others
        sent = dict(scope["headers"]).get(b"x-request-id", b"")
        request_id = sent.decode() if _REQUEST_ID.fullmatch(sent) else uuid7().hex
        state: dict[str, Any] = scope["state"]
        state["request_id"] = request_id
        started = time.perf_counter()
        status = 500

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode())]
            await send(message)

        try:
            await app(scope, receive, send_with_id)
        finally:
            _log.info(
                "request",
                request_id=request_id,
                method=scope["method"],
                path=scope["path"],
                status=status,
                milliseconds=round((time.perf_counter() - started) * 1000, 2),
                errors=state.get("error_codes") or None,
            )
