"""The composition root: the Starlette application, its lifespan and its routes."""

import asyncio
import os
import re
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from http import HTTPStatus
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
from uvicorn.config import STARTUP_FAILURE

from wallet_gql import logs
from wallet_gql.console import playground
from wallet_gql.db.migrations import UnfitDatabase
from wallet_gql.endpoint.errors import bad_request, format_errors
from wallet_gql.endpoint.http import GraphQLEndpoint
from wallet_gql.endpoint.memory import calm_collector
from wallet_gql.endpoint.negotiation import fields
from wallet_gql.endpoint.protocol.connection import DROPPED
from wallet_gql.hosts import takes_host
from wallet_gql.operations.health import check_database, name_fault
from wallet_gql.operations.opening import Ledger, end
from wallet_gql.operations.waiting import open_eventually
from wallet_gql.processes import end_with_parent
from wallet_gql.settings import Settings

_REQUEST_ID: Final = re.compile(rb"[A-Za-z0-9._-]{1,64}")

_POLICIES: Final = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
)
"""What browsers are told of every answer but GraphiQL's page, which has policies of its own."""

_PATH_LOGGED_MAX: Final = 200

_CUT_SHORT: Final = (
    "The server stopped before this request was done, so it is not known what became of it:"
    " send the same request again, with the same key if it has one."
)

_log = structlog.get_logger()


OPENED_WITHIN_SECONDS: Final = 2
"""How long the start waits for a database that is there, so that nobody is told otherwise meanwhile."""


@dataclass(slots=True)
class Opening:
    """The ledger, as soon as it is open; until then, in a word, why it is not."""

    ledger: Ledger | None = None
    fault: str = "away"
    is_known: asyncio.Event = field(default_factory=asyncio.Event)
    """Set by the first attempt, whatever came of it."""


class State(TypedDict):
    """What the lifespan hands to every request."""

    opening: Opening


def create_app(settings: Settings | None = None) -> ASGIApp:
    """Make the application; the ledger is opened when the server starts, or later, and closed when it has drained."""
    settings = settings or Settings()
    logs.configure(settings)

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[State]:
        opening = Opening()
        async with AsyncExitStack() as stack:
            stack.push_async_callback(end, asyncio.create_task(_open(settings, opening, stack)))
            with suppress(TimeoutError):
                await asyncio.wait_for(opening.is_known.wait(), OPENED_WITHIN_SECONDS)
            yield {"opening": opening}
        _log.info("stopped")

    endpoint: ASGIApp = GraphQLEndpoint(settings, playground.page if settings.shows_graphiql else None)
    if settings.cors_origins:
        endpoint = CORSMiddleware(
            endpoint,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "POST"],
            allow_headers=settings.cors_headers,
            expose_headers=["x-request-id", "retry-after", "www-authenticate", "ratelimit", "ratelimit-policy"],
        )
    routes: list[Route | Mount] = [
        Route("/health", ready),
        Route("/health/ready", ready),
        Route("/health/live", live),
        Route("/favicon.ico", playground.favicon),
    ]
    if settings.shows_graphiql:
        routes += [
            Route("/", lambda _: RedirectResponse("graphql")),
            Mount("/graphiql", playground.assets()),
        ]
    handlers: Mapping[Any, Any] = {HTTPException: refuse, Exception: tell_fault}
    others = Starlette(routes=routes, lifespan=lifespan, exception_handlers=handlers)
    # It would redirect to wherever Host says.
    others.router.redirect_slashes = False
    return RequestGate(endpoint, others, takes_host(settings))


def create_worker_app() -> ASGIApp:
    """Make the application in one of several worker processes: it drains and ends when its supervisor is gone."""
    end_with_parent(os.getppid(), signal.SIGTERM)
    return create_app()


async def _open(settings: Settings, opening: Opening, stack: AsyncExitStack) -> None:
    """Open the ledger until `stack` is closed; ends the process where waiting does not help."""
    told = ""

    def on_failure(error: Exception) -> None:
        nonlocal told
        opening.fault = name_fault(error)
        opening.is_known.set()
        if str(error) != told:
            told = str(error)
            _log.warning("waiting for the database", reason=told)

    try:
        ledger = await open_eventually(settings, stack, on_failure)
    except Exception as error:  # noqa: BLE001 - told, and then the process ends
        _log.error("cannot serve", reason=str(error), exc_info=None if isinstance(error, UnfitDatabase) else error)
        # Nothing is in flight that could be finished, and uvicorn has no status for an end of this kind.
        os._exit(STARTUP_FAILURE)
    calm_collector()
    opening.ledger = ledger
    opening.is_known.set()
    _log.info("ready", slot=ledger.slot, shards=ledger.shard_count)


async def live(_request: Request) -> JSONResponse:
    """Answer 200: the process answers. Whoever restarts it for more than that makes an outage longer."""
    return _health(is_healthy=True)


async def ready(request: Request) -> JSONResponse:
    """Answer 200 while a posting would find what it needs, else 503 and, in a word, what is missing."""
    opening: Opening = request.state.opening
    state = opening.fault if opening.ledger is None else await check_database(opening.ledger)
    return _health(is_healthy=state == "ok", database=state)


def _health(*, is_healthy: bool, **more: str) -> JSONResponse:
    return JSONResponse(
        {"status": "ok" if is_healthy else "unavailable", **more},
        status_code=200 if is_healthy else 503,
        headers={"cache-control": "no-store"},
    )


def refuse(request: Request, error: HTTPException) -> JSONResponse:
    """Answer what no route takes."""
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        allowed = (error.headers or {}).get("Allow", "GET, HEAD")
        message = f"The method is not supported at this path: use one of {allowed}."
    elif error.status_code == HTTPStatus.NOT_FOUND:
        message = "There is nothing at this path: the API is at /graphql."
    else:
        message = f"{error.detail}."
    return _refusal(request.scope, error.status_code, message, error.headers)


def tell_fault(request: Request, error: Exception) -> JSONResponse:
    """Answer a fault of a route as the endpoint answers its own."""
    errors = format_errors([GraphQLError("", original_error=error)], request.state.request_id)
    request.state.error_codes = ["INTERNAL"]
    return JSONResponse({"errors": errors}, 500)


def _refusal(
    scope: Scope, status: int, message: str, headers: Mapping[str, str] | None = None, code: str = "BAD_USER_INPUT"
) -> JSONResponse:
    state = scope["state"]
    state["error_codes"] = [code]
    return JSONResponse({"errors": [bad_request(message, state["request_id"], code)]}, status, headers)


def _has_policy(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    return b"content-security-policy" in dict(headers)


class RequestGate:
    """Gives every request an id, its own or the caller's, and logs one line when it is answered.

    `/graphql` goes straight to its endpoint: on that path Starlette's routing would cost a fifth of what the resolvers
    do.
    """

    def __init__(self, endpoint: ASGIApp, others: ASGIApp, takes_host: Callable[[bytes], bool]) -> None:
        """Take the endpoint at `/graphql`, what answers everything else, the lifespan among it, and known hosts."""
        self._endpoint = endpoint
        self._others = others
        self._takes_host = takes_host
        # Bound once: each line by a logger that is not would look for the one to use.
        self._log = structlog.get_logger().bind()

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
        own_id = sent.decode() if _REQUEST_ID.fullmatch(sent) else None
        request_id = own_id or uuid7().hex
        state: dict[str, Any] = scope["state"]
        state["request_id"], state["own_request_id"], state["is_id_free"] = request_id, own_id, own_id is None
        state["ledger"] = state["opening"].ledger
        started = time.perf_counter()
        event, status, is_begun = "request", 500, False

        async def send_with_id(message: Message) -> None:
            nonlocal status, is_begun
            if message["type"] == "http.response.start":
                status, is_begun = message["status"], True
                given = [*message["headers"], (b"x-request-id", request_id.encode())]
                message["headers"] = given if _has_policy(given) else [*given, *_POLICIES]
            await send(message)

        try:
            await app(scope, receive, send_with_id)
        except ClientDisconnect:
            event, status = "client went away", 0
        except asyncio.CancelledError:
            # The server does that to what outlasts its stop; it would answer in plain text, and log a stack.
            event = "cut short by the stop"
            if not is_begun:
                await _refusal(scope, 503, _CUT_SHORT, code="OUTCOME_UNKNOWN")(scope, receive, send_with_id)
        finally:
            if DROPPED not in state:
                self._log.info(
                    event,
                    request_id=request_id,
                    method=scope["method"],
                    path=scope["path"][:_PATH_LOGGED_MAX],
                    status=status or None,
                    milliseconds=round((time.perf_counter() - started) * 1000, 2),
                    caller=state.get("caller"),
                    errors=state.get("error_codes") or None,
                )

    def _without_host(self, scope: Scope, headers: dict[bytes, bytes], app: ASGIApp) -> ASGIApp:
        """Return what answers a request whose host is missing or not ours; probes of health name what they like."""
        host = headers.get(b"host")
        if f"{scope['path']}/".startswith("/health/") or (host is None and scope["http_version"] == "1.0"):
            return app
        if host is None or b"," in host:
            message = "The request has no Host header, or several: send exactly one."
        else:
            shown = ascii(host[:64].decode("latin-1"))
            message = (
                f"Host {shown} is not a name of this server:"
                " send one that is, or have the operator add it to WALLET_ALLOWED_HOSTS."
            )

        async def answer(scope: Scope, receive: Receive, send: Send) -> None:
            await _refusal(scope, 400, message)(scope, receive, send)

        return answer
