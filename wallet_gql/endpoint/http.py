"""The endpoint: GraphQL over HTTP, straight on ASGI.

Follows the GraphQL-over-HTTP specification. Any body gets a JSON answer of class 4xx, never 5xx; bodies are
JSON only, which no HTML form can send; GET never mutates. A request is authorised, parsed and answered without a
framework's request and response objects: they cost as much as the resolvers do.
"""

import asyncio
import gzip
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, Final

import orjson
from graphql import ExecutionResult, GraphQLError
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send

from wallet_gql.domain.access import Caller
from wallet_gql.domain.errors import (
    Fault,
    Forbidden,
    OutcomeUnknown,
    Overloaded,
    RateLimited,
    Unauthenticated,
    Unavailable,
)
from wallet_gql.endpoint import rates
from wallet_gql.endpoint.access import authenticate
from wallet_gql.endpoint.documents import Document, Documents, InvalidDocument, Operation
from wallet_gql.endpoint.errors import bad_request, format_errors
from wallet_gql.endpoint.executor import StraightExecutor, is_coroutine
from wallet_gql.endpoint.limits import Limits
from wallet_gql.endpoint.negotiation import GRAPHQL_RESPONSE, HTML, JSON, choose, fields, takes_gzip
from wallet_gql.endpoint.requests import BadRequest, Requests, check_parameters
from wallet_gql.endpoint.schema import executable_schema
from wallet_gql.endpoint.trusted import Trusted, prepare, read_manifests
from wallet_gql.endpoint.turns import Turns
from wallet_gql.graphql.context import Context
from wallet_gql.operations.deadlines import Deadlines
from wallet_gql.operations.opening import Ledger
from wallet_gql.operations.rates import Charge
from wallet_gql.settings import Settings

_ANSWERS: Final = (JSON, GRAPHQL_RESPONSE)

GZIP_BYTES_MIN: Final = 16 * 1024
"""An answer that is larger is compressed where the client takes it, beside the loop. No answer repeats a secret."""

GZIP_LEVEL: Final = 1

COSTLY: Final = 500
"""What costs more takes turns with others like it: together they would keep the loop from everyone else."""

KNOWN_SECONDS: Final = 1
"""Who sends a body for longer is asked again who it is."""

WAITING_COST_MAX: Final = 200_000
"""What is costly waits for its turn up to this cost in all, two seconds' work or so; more is refused as overload."""

_STATUSES: Final[dict[type[Fault], HTTPStatus]] = {
    Unauthenticated: HTTPStatus.UNAUTHORIZED,
    Forbidden: HTTPStatus.FORBIDDEN,
    RateLimited: HTTPStatus.TOO_MANY_REQUESTS,
}
"""Of what was not executed for who asked, rather than for what the service can do."""

_BEARER: Final = ((b"www-authenticate", b"Bearer"),)


class GraphQLEndpoint:
    """The ASGI application at `/graphql`."""

    def __init__(self, settings: Settings, page: Callable[[], ASGIApp] | None = None) -> None:
        """Take the settings and what makes the page for browsers; the ledger comes with each request's state."""
        self._settings = settings
        self._schema = executable_schema()
        self.documents = Documents(
            self._schema, _limits(settings), introspection=settings.introspection, hides_schema=settings.hides_schema
        )
        self._trusted = Trusted(read_manifests(settings.trusted_documents), settings.trusted_documents_only)
        prepare(self.documents, self._trusted.texts)
        # Who has waited for half its time has the other half for its query.
        self._costly_turns = Turns(WAITING_COST_MAX, settings.request_deadline_seconds / 2)
        self._deadlines: Deadlines[asyncio.Task[Any]] = Deadlines(asyncio.Task.cancel)
        self._page = page
        self._requests = Requests(settings.body_bytes_max)
        # What each request asks of the settings is worked out once.
        self._is_open, self._has_tokens = settings.is_open, settings.token_keys is not None
        self._hides_schema = settings.hides_schema

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        headers = fields(scope["headers"])
        request_id: str = scope["state"]["request_id"]
        accept = headers.get(b"accept", b"").decode("latin-1")
        if self._page is not None and _wants_page(scope, accept):
            await self._page()(scope, receive, send)
            return
        media_type = choose(accept, _ANSWERS)
        try:
            caller, known_at = await self._caller(scope, headers), asyncio.get_running_loop().time()
            request = await self._requests.read(scope, receive, headers, media_type)
            if asyncio.get_running_loop().time() > known_at + KNOWN_SECONDS:
                # The key may have been revoked while the body came.
                caller = await self._caller(scope, headers)
            status, body = await self._answer(
                scope, request, media_type or JSON, request_id, caller, show_cost=b"x-graphql-cost" in headers
            )
            extra = _retry_after(body)
        except BadRequest as error:
            errors = [bad_request(str(error), request_id, error.code)]
            status, body, extra = error.status, {"errors": errors}, error.headers
        except (Unauthenticated, RateLimited, Overloaded, Unavailable) as fault:
            status, body = _fault(fault, request_id)
            extra = _BEARER if isinstance(fault, Unauthenticated) else _retry_after(body)
        except ClientDisconnect:
            raise  # there is nobody to answer
        except Exception as error:  # noqa: BLE001 - whatever went wrong, the client gets a JSON answer
            errors = format_errors([GraphQLError("", original_error=error)], request_id)
            status, body, extra = HTTPStatus.INTERNAL_SERVER_ERROR, {"errors": errors}, ()
        extra = (*extra, *_told_of_budget(scope["state"].get("charge"), body, show_cost=b"x-graphql-cost" in headers))
        scope["state"]["error_codes"] = [error["extensions"]["code"] for error in body.get("errors", ())]
        content = orjson.dumps(body)
        if len(content) > GZIP_BYTES_MIN and takes_gzip(headers.get(b"accept-encoding", b"").decode("latin-1")):
            content = await asyncio.to_thread(gzip.compress, content, GZIP_LEVEL)
            extra = (*extra, (b"content-encoding", b"gzip"))
        await send({
            "type": "http.response.start",
            "status": status,
            "headers": [
                (b"content-type", f"{media_type or JSON}; charset=utf-8".encode()),
                (b"content-length", str(len(content)).encode()),
                (b"cache-control", b"no-store"),
                (b"vary", b"Accept, Accept-Encoding"),
                *extra,
            ],
        })  # fmt: skip
        await send({"type": "http.response.body", "body": content})

    async def _caller(self, scope: Scope, headers: dict[bytes, bytes]) -> Caller:
        """Return who sends a request. Raises `Unauthenticated`, `Unavailable`, `RateLimited` for an empty budget."""
        state = scope["state"]
        caller = await authenticate(
            headers.get(b"authorization"),
            state["ledger"],
            is_open=self._is_open,
            has_tokens=self._has_tokens,
        )
        state["caller"] = caller.name
        # Before anything of the request is read: a budget bounds that work, too.
        if caller.budget_id is not None and state["ledger"].callers.rates.may_be_empty(caller.budget_id):
            await rates.check_left(state["ledger"].callers.rates, caller, state)
        return caller

    async def _answer(
        self,
        scope: Scope,
        parameters: dict[str, Any],
        media_type: str,
        request_id: str,
        caller: Caller,
        *,
        show_cost: bool,
    ) -> tuple[HTTPStatus, dict[str, Any]]:
        """Execute a request; returns the status and the answer."""
        self._trusted.put_query(parameters, caller)
        query, variables, operation_name = check_parameters(parameters)
        deadline = asyncio.get_running_loop().time() + self._settings.request_deadline_seconds
        try:
            ledger = _open_ledger(scope)
            document = await self._document(ledger, query, caller, scope["state"])
            operation = _operation(document, operation_name, scope["method"])
            operation.check(variables or {})
        except InvalidDocument as error:
            return _request_error(error.errors, media_type, request_id)
        except GraphQLError as error:
            return _request_error([error], media_type, request_id)
        except Fault as fault:
            return _fault(fault, request_id, is_mutation=self.documents.may_mutate(query))
        own_id, is_id_free = scope["state"].get("own_request_id"), scope["state"].get("is_id_free", False)
        context = Context(ledger, request_id, deadline, caller, own_id, is_id_free)
        try:
            result = await self._execute(operation, variables or {}, context, scope["state"])
        except Fault as fault:
            return _fault(fault, request_id, is_mutation=operation.is_mutation)
        if result.data is None and result.errors and all(error.path is None for error in result.errors):
            return _request_error(result.errors, media_type, request_id)
        answer: dict[str, Any] = {"data": result.data}
        if result.errors:
            answer["errors"] = format_errors(result.errors, request_id, is_mutation=operation.is_mutation)
        if show_cost:
            answer["extensions"] = {"cost": {"requested": operation.size.cost, "max": self._settings.document_cost_max}}
        return HTTPStatus.OK, answer

    async def _document(self, ledger: Ledger, query: str, caller: Caller, state: dict[str, Any]) -> Document:
        """Return the document to execute; a mutation that would be refused is refused before it costs anything.

        A text that has to be prepared is charged for, valid or not. Raises `Overloaded`, `RateLimited`,
        `InvalidDocument`, and GraphQLError for a text that costs more than its caller's budget ever has.
        """
        refusal = ledger.commits.refusal()
        if refusal is not None and self.documents.may_mutate(query):
            raise refusal
        document = self.documents.known(query)
        if document is None:
            await rates.charge(ledger.callers.rates, caller, rates.preparation_points(query), state)
            document = await self.documents.find(query)
        return document

    async def _execute(
        self, operation: Operation, variables: dict[str, Any], context: Context, state: dict[str, Any]
    ) -> ExecutionResult:
        """Raises `Forbidden`, `RateLimited`, `Overloaded` where a costly operation's turn does not come, `Unavailable`.

        A mutation whose deadline passes is `OutcomeUnknown`: what it posted is in the books. Before that, each of its
        postings ends by itself and says what became of it.
        """
        executor = operation.executor.for_request(context, variables, hide_suggestions=self._hides_schema)
        if isinstance(executor, list):
            return ExecutionResult(None, executor)
        operation.demands.check(context.caller, executor.variable_values.coerced)
        # Most clients send the size of their pages as a variable, which could cost far more than it does.
        size = operation.size
        kept = context.ledger.callers.rates
        try:
            if size.has_batch or (size.rows and size.cost >= rates.REFUNDED_FROM_POINTS):
                size = operation.size_with(executor.variable_values.coerced)
            least = rates.POSTING_POINTS * size.movements if operation.is_mutation else 1
            charge = await rates.charge(kept, context.caller, max(size.cost, least), state)
        except GraphQLError as error:
            return ExecutionResult(None, [error])
        try:
            result = await self._run(operation, executor, size.cost, context.deadline)
        except Overloaded:
            if charge is not None:
                await kept.settle(charge, 0)
            raise
        if charge is not None and charge.requested >= rates.REFUNDED_FROM_POINTS:
            await kept.settle(charge, max(least, rates.needed(result.data, size.rows)))
        return result

    async def _run(
        self, operation: Operation, executor: StraightExecutor, cost: int, deadline: float
    ) -> ExecutionResult:
        # One root field alone needs no machinery to run root fields one after the other.
        serially = operation.is_mutation and operation.size.root_field_count > 1
        task = asyncio.current_task()
        assert task is not None
        self._deadlines.put(task, deadline)
        try:
            if cost <= COSTLY:
                return await _result(executor.execute_operation(serially=serially))
            async with self._costly_turns.turn(cost):
                return await _result(executor.execute_operation(serially=serially))
        except asyncio.CancelledError:
            # By its deadline, and by nobody else?
            if self._deadlines.take_out(task) or task.uncancel():
                raise
            if operation.is_mutation:
                raise OutcomeUnknown("The deadline passed.") from None
            raise Unavailable("The deadline passed.") from None
        finally:
            self._deadlines.take_out(task)


def _told_of_budget(charge: Charge | None, body: dict[str, Any], *, show_cost: bool) -> tuple[tuple[bytes, bytes], ...]:
    """Put the cost of an operation into its answer, where it is asked for or too high; returns header fields."""
    if charge is None:
        return ()
    if charge.retry_after_seconds or show_cost:
        body.setdefault("extensions", {}).setdefault("cost", {}).update(rates.extension(charge))
    return rates.headers(charge)


async def _result(result: object) -> ExecutionResult:
    if is_coroutine(result):
        result = await result
    assert isinstance(result, ExecutionResult)
    return result


def _operation(document: Document, name: str | None, method: str) -> Operation:
    """Return the operation to execute. Raises GraphQLError, and `BadRequest` for a mutation by GET."""
    operation = document.operation(name)
    if method == "GET" and operation.is_mutation:
        raise BadRequest(
            HTTPStatus.METHOD_NOT_ALLOWED, "A mutation was sent by GET: send it by POST.", ((b"allow", b"POST"),)
        )
    return operation


def _open_ledger(scope: Scope) -> Ledger:
    """Return the ledger; raises Unavailable while the database has not been reached yet."""
    ledger: Ledger | None = scope["state"]["ledger"]
    if ledger is None:
        raise Unavailable("The ledger is not open yet.")
    return ledger


def _limits(settings: Settings) -> Limits:
    return Limits(**{name: getattr(settings, f"document_{name}_max") for name in Limits.__slots__})


def _wants_page(scope: Scope, accept: str) -> bool:
    """Say whether a browser asks for GraphiQL: a GET that names no query and would rather have HTML."""
    if scope["method"] != "GET" or b"query=" in scope["query_string"] or b"documentId=" in scope["query_string"]:
        return False
    return choose(accept, (*_ANSWERS, HTML)) == HTML


def _request_error(errors: list[GraphQLError], media_type: str, request_id: str) -> tuple[HTTPStatus, dict[str, Any]]:
    """Answer a request that was not executed: no `data` entry, and 400 where the media type means the status."""
    status = HTTPStatus.BAD_REQUEST if media_type == GRAPHQL_RESPONSE else HTTPStatus.OK
    return status, {"errors": format_errors(errors, request_id)}


def _fault(fault: Fault, request_id: str, *, is_mutation: bool = False) -> tuple[HTTPStatus, dict[str, Any]]:
    """Answer a request that is right, but had to be given up as a whole, or that its caller may not send now."""
    errors = format_errors([GraphQLError(str(fault), original_error=fault)], request_id, is_mutation=is_mutation)
    status = _STATUSES.get(type(fault))
    return (HTTPStatus.OK, {"data": None, "errors": errors}) if status is None else (status, {"errors": errors})


def _retry_after(body: dict[str, Any]) -> tuple[tuple[bytes, bytes], ...]:
    """Return the header that says when to come back, where an error says so."""
    if "errors" not in body:
        return ()
    seconds = [error["extensions"].get("retryAfterSeconds", 0) for error in body["errors"]]
    return ((b"retry-after", b"%d" % max(seconds)),) if any(seconds) else ()
