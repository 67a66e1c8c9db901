"""The composition root: the Starlette application, its lifespan and its routes."""

import gc
import os
import re
import signal
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final, TypedDict

import structlog
from graphql import GraphQLError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, RedirectResponse
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uuid_utils import uuid7

from wallet_gql import logs
from wallet_gql.graphql import playground
from wallet_gql.graphql.errors import bad_request, format_errors
from wallet_gql.graphql.http import GraphQLEndpoint
from wallet_gql.graphql.negotiation import fields
from wallet_gql.hosts import takes_host
from wallet_gql.operations.health import check_database
from wallet_gql.operations.opening import Ledger, open_ledger
from wallet_gql.processes import end_with_parent
from wallet_gql.protocol.connection import DROPPED
from wallet_gql.settings import Settings

_REQUEST_ID: Final = re.compile(rb"[A-Za-z0-9._-]{1,64}")

_PATH_LOGGED_MAX: Final = 200

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
            allow_headers=settings.cors_headers,
            expose_headers=["x-request-id", "retry-after"],
        )
    routes: list[Route | Mount] = [Route("/health", health), Route("/favicon.ico", playground.favicon)]
    if settings.graphiql:
        routes += [
            Route("/", lambda _: RedirectResponse("graphql")),
            Mount("/graphiql", playground.assets()),
        ]
    handlers: Mapping[Any, Any] = {HTTPException: refuse, Exception: tell_fault}
    others = Starlette(routes=routes, lifespan=lifespan, exception_handlers=handlers)
    # It would redirect to wherever Host says.
    others.router.redirect_slashes = False
    return Front(endpoint, others, takes_host(settings))


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


def refuse(request: Request, error: HTTPException) -> JSONResponse:
    """Answer what no route takes."""
    message = "Nothing is here: the API is at /graphql." if error.status_code == 404 else f"{error.detail}."
    return _refusal(request.scope, error.status_code, message, error.headers)


def tell_fault(request: Request, error: Exception) -> JSONResponse:
    """Answer a fault of a route as the endpoint answers its own."""
    errors = format_errors([GraphQLError("", original_error=error)], request.state.request_id)
    request.state.error_codes = ["INTERNAL"]
    return JSONResponse({"errors": errors}, 500)


def _refusal(scope: Scope, status: int, message: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    state = scope["state"]
    state["error_codes"] = ["BAD_USER_INPUT"]
    return JSONResponse({"errors": [bad_request(message, state["request_id"])]}, status, headers)


class Front:
    """Gives every request an id, its own or the caller's, and logs one line when it is answered.

    `/graphql` goes straight to its endpoint: on that path Starlette's routing would cost a fifth of what the resolvers
    do.
    """

    def __init__(self, endpoint: ASGIApp, others: ASGIApp, takes_host: Callable[[bytes], bool]) -> None:
        """Take the endpoint at `/graphql`, what answers everything else, the lifespan among it, and known hosts."""
        self._endpoint = endpoint
        self._others = others
        self._takes_host = takes_host

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._others(scope, receive, send)
            return
        headers = fields(scope["headers"])
        app = self._endpoint if scope["path"] == "/graphql" else self._others
        if not self._takes_host(headers.get(b"host", b"")):
            app = self._without_host(scope, headers, app)
        sent = headers.get(b"x-request-id", b"")
        request_id = sent.decode() if _REQUEST_ID.fullmatch(sent) else uuid7().hex
        state: dict[str, Any] = scope["state"]
        state["request_id"] = request_id
        started = time.perf_counter()
        event, status = "request", 500

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode())]
            await send(message)

        try:
            await app(scope, receive, send_with_id)
        except ClientDisconnect:
            event, status = "client went away", 0
        finally:
            if DROPPED not in state:
                _log.info(
                    event,
                    request_id=request_id,
                    method=scope["method"],
                    path=scope["path"][:_PATH_LOGGED_MAX],
                    status=status or None,
                    milliseconds=round((time.perf_counter() - started) * 1000, 2),
                    errors=state.get("error_codes") or None,
                )

    def _without_host(self, scope: Scope, headers: dict[bytes, bytes], app: ASGIApp) -> ASGIApp:
        """Return what answers a request whose host is missing or not ours; probes of health name what they like."""
        host = headers.get(b"host")
        if f"{scope['path']}/".startswith("/health/") or (host is None and scope["http_version"] == "1.0"):
            return app
        if host is None or b"," in host:
            message = "Send one Host header."
        else:
            shown = ascii(host[:64].decode("latin-1"))
            message = f"Host {shown} is not one that this server answers to: name it in WALLET_ALLOWED_HOSTS."

        async def answer(scope: Scope, receive: Receive, send: Send) -> None:
            await _refusal(scope, 400, message)(scope, receive, send)

        return answer
