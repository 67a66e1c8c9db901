"""The endpoint: GraphQL over HTTP, straight on ASGI.

Follows the GraphQL-over-HTTP specification. A body whatsoever gets a JSON answer of class 4xx, never 5xx; bodies are
JSON only, which no HTML form can send; GET never mutates. A request is authorised, parsed and answered without a
framework's request and response objects: they cost as much as the resolvers do.
"""

import asyncio
from contextlib import nullcontext
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import parse_qsl

import orjson
from graphql import ExecutionResult, GraphQLError
from starlette.types import Receive, Scope, Send

from wallet_gql.domain.errors import Fault, Unavailable
from wallet_gql.graphql import playground
from wallet_gql.graphql.context import Context
from wallet_gql.graphql.documents import Documents, InvalidDocument, Operation
from wallet_gql.graphql.errors import bad_request, format_errors
from wallet_gql.graphql.executor import is_coroutine
from wallet_gql.graphql.limits import Limits
from wallet_gql.graphql.negotiation import GRAPHQL_RESPONSE, HTML, JSON, choose, is_json
from wallet_gql.graphql.schema import executable_schema
from wallet_gql.operations.opening import Ledger
from wallet_gql.settings import Settings

_ANSWERS: Final = (JSON, GRAPHQL_RESPONSE)
_RETRY_AFTER_SECONDS: Final = {"OVERLOADED": b"1", "UNAVAILABLE": b"2"}


VALUES_MAX: Final = 1000
"""The most values that variables may have, nested ones included."""

_SMALL_BODY_BYTES: Final = 2 * 1024
"""A body that cannot hold more values than that is not counted."""


COSTLY: Final = 500
"""A query of more fields takes turns with others like it: together they would keep the loop from everyone else."""


class BadRequest(Exception):
    """A request that is no GraphQL request; answered without executing anything."""

    def __init__(self, status: HTTPStatus, message: str, headers: tuple[tuple[bytes, bytes], ...] = ()) -> None:
        """Take the status, what is wrong and what to do, and headers that go with them."""
        super().__init__(message)
        self.status = status
        self.headers = headers


class GraphQLEndpoint:
    """The ASGI application at `/graphql`."""

    def __init__(self, settings: Settings) -> None:
        """Take the settings; the ledger comes with each request's state."""
        self._settings = settings
        self._schema = executable_schema()
        self.documents = Documents(self._schema, _limits(settings), introspection=settings.introspection)
        self._costly_turn = asyncio.Lock()
        self._page = playground.page if settings.graphiql else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        headers = dict(scope["headers"])
        request_id: str = scope["state"]["request_id"]
        accept = headers.get(b"accept", b"").decode("latin-1")
        if self._page is not None and _wants_page(scope, accept):
            await self._page()(scope, receive, send)
            return
        media_type = choose(accept, _ANSWERS)
        try:
            request = await self._read(scope, receive, headers, media_type)
            status, body = await self._answer(
                scope, request, media_type or JSON, request_id, show_cost=b"x-graphql-cost" in headers
            )
            extra = _retry_after(body)
        except BadRequest as error:
            status, body, extra = error.status, {"errors": [bad_request(str(error), request_id)]}, error.headers
        except Exception as error:  # noqa: BLE001 - whatever went wrong, the client gets a JSON answer
            errors = format_errors([GraphQLError("", original_error=error)], request_id)
            status, body, extra = HTTPStatus.INTERNAL_SERVER_ERROR, {"errors": errors}, ()
        scope["state"]["error_codes"] = [error["extensions"]["code"] for error in body.get("errors", ())]
        content = orjson.dumps(body)
        await send({
            "type": "http.response.start",
            "status": status,
            "headers": [
                (b"content-type", f"{media_type or JSON}; charset=utf-8".encode()),
                (b"content-length", str(len(content)).encode()),
                (b"cache-control", b"no-store"),
                (b"vary", b"Accept"),
                *extra,
            ],
        })  # fmt: skip
        await send({"type": "http.response.body", "body": content})

    async def _read(
        self, scope: Scope, receive: Receive, headers: dict[bytes, bytes], media_type: str | None
    ) -> dict[str, Any]:
        """Read the request's parameters from its body, or from the query string of a GET."""
        if media_type is None:
            raise BadRequest(HTTPStatus.NOT_ACCEPTABLE, f"Accept must take {GRAPHQL_RESPONSE} or {JSON}.")
        if scope["method"] == "GET":
            return _from_query_string(scope["query_string"])
        if scope["method"] != "POST":
            raise BadRequest(
                HTTPStatus.METHOD_NOT_ALLOWED, "Use POST, or GET for queries.", ((b"allow", b"GET, POST"),)
            )
        if not is_json(headers.get(b"content-type", b"").decode("latin-1")):
            raise BadRequest(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"Send the body as {JSON} in UTF-8.")
        body = await _read_body(receive, headers.get(b"content-length"), self._settings.body_bytes_max)
        try:
            parameters = orjson.loads(body)
        except orjson.JSONDecodeError:
            raise BadRequest(HTTPStatus.BAD_REQUEST, "The body is not JSON in UTF-8.") from None
        if not isinstance(parameters, dict):
            raise BadRequest(
                HTTPStatus.BAD_REQUEST, 'The body must be a JSON object such as {"query": "{ assets { code } }"}.'
            )
        if len(body) > _SMALL_BODY_BYTES and _count_values(parameters.get("variables")) > VALUES_MAX:
            raise BadRequest(
                HTTPStatus.BAD_REQUEST, f"variables have more than {VALUES_MAX} values: split the request."
            )
        return parameters

    async def _answer(
        self, scope: Scope, parameters: dict[str, Any], media_type: str, request_id: str, *, show_cost: bool
    ) -> tuple[HTTPStatus, dict[str, Any]]:
        """Execute a request; returns the status and the answer."""
        query, variables, operation_name = _check_parameters(parameters)
        try:
            document = await self.documents.find(query)
            operation = document.operation(operation_name)
            ledger = _open_ledger(scope)
        except InvalidDocument as error:
            return _request_error(error.errors, media_type, request_id)
        except GraphQLError as error:
            return _request_error([error], media_type, request_id)
        except Fault as fault:
            return _fault(fault, request_id)
        if scope["method"] == "GET" and operation.is_mutation:
            raise BadRequest(HTTPStatus.METHOD_NOT_ALLOWED, "Send mutations by POST.", ((b"allow", b"POST"),))
        context = Context(ledger, request_id)
        if operation.is_mutation:
            # Its postings have a deadline of their own, which tells what became of them.
            result = await self._execute(operation, variables or {}, context)
        else:
            turn = self._costly_turn if operation.cost > COSTLY else nullcontext()
            try:
                async with asyncio.timeout(self._settings.request_deadline_seconds), turn:
                    result = await self._execute(operation, variables or {}, context)
            except TimeoutError:
                return _fault(Unavailable("The deadline passed."), request_id)
        if result.data is None and result.errors and all(error.path is None for error in result.errors):
            return _request_error(result.errors, media_type, request_id)
        answer: dict[str, Any] = {"data": result.data}
        if result.errors:
            answer["errors"] = format_errors(result.errors, request_id)
        if show_cost:
            answer["extensions"] = {"cost": {"requested": operation.cost, "max": self._settings.document_cost_max}}
        return HTTPStatus.OK, answer

    async def _execute(self, operation: Operation, variables: dict[str, Any], context: Context) -> ExecutionResult:
        executor = operation.executor.for_request(context, variables, hide_suggestions=not self._settings.introspection)
        if isinstance(executor, list):
            return ExecutionResult(None, executor)
        # One root field alone needs no machinery to run root fields one after the other.
        result = executor.execute_operation(serially=operation.is_mutation and operation.root_field_count > 1)
        if is_coroutine(result):
            result = await result
        assert isinstance(result, ExecutionResult)
        return result


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
    if scope["method"] != "GET" or b"query=" in scope["query_string"]:
        return False
    return choose(accept, (*_ANSWERS, HTML)) == HTML


async def _read_body(receive: Receive, content_length: bytes | None, bytes_max: int) -> bytes:
    """Read a body up to a limit; one that announces more is refused before it is read."""
    too_large = BadRequest(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"The body is larger than {bytes_max} bytes.")
    if content_length is not None and (not content_length.isdigit() or int(content_length[:20]) > bytes_max):
        raise too_large
    message = await receive()
    body: bytes = message.get("body", b"")
    while message.get("more_body", False) and len(body) <= bytes_max:
        message = await receive()
        body += message.get("body", b"")
    if len(body) > bytes_max:
        raise too_large
    return body


def _count_values(value: Any) -> int:
    """Count the values in a JSON value, not much further than the limit: each costs time to coerce."""
    count = 0
    waiting = [value]
    while waiting and count <= VALUES_MAX:
        value = waiting.pop()
        if isinstance(value, dict | list):
            count += len(value)
            waiting.extend(value.values() if isinstance(value, dict) else value)
    return count


def _from_query_string(query_string: bytes) -> dict[str, Any]:
    """Read the parameters of a GET: `variables` and `extensions` are JSON."""
    try:
        pairs = parse_qsl(query_string.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=10)
    except ValueError:
        raise BadRequest(HTTPStatus.BAD_REQUEST, "The query string is not URL-encoded UTF-8.") from None
    parameters: dict[str, Any] = dict(pairs)
    for name in ("variables", "extensions"):
        if text := parameters.pop(name, ""):
            try:
                parameters[name] = orjson.loads(text)
            except orjson.JSONDecodeError:
                raise BadRequest(HTTPStatus.BAD_REQUEST, f"{name} is not JSON.") from None
    return parameters


def _check_parameters(parameters: dict[str, Any]) -> tuple[str, dict[str, Any] | None, str | None]:
    """Return query, variables and operation name; raises BadRequest where one is of a wrong kind."""
    query = parameters.get("query")
    if not isinstance(query, str) or not query.strip():
        raise BadRequest(HTTPStatus.BAD_REQUEST, "query must be a GraphQL document as a string.")
    for name in ("variables", "extensions"):
        if not isinstance(parameters.get(name), dict | None):
            raise BadRequest(HTTPStatus.BAD_REQUEST, f"{name} must be a JSON object or null.")
    operation_name = parameters.get("operationName")
    if not isinstance(operation_name, str | None):
        raise BadRequest(HTTPStatus.BAD_REQUEST, "operationName must be a string or null.")
    return query, parameters.get("variables"), operation_name or None


def _request_error(errors: list[GraphQLError], media_type: str, request_id: str) -> tuple[HTTPStatus, dict[str, Any]]:
    """Answer a request that was not executed: no `data` entry, and 400 where the media type means the status."""
    status = HTTPStatus.BAD_REQUEST if media_type == GRAPHQL_RESPONSE else HTTPStatus.OK
    return status, {"errors": format_errors(errors, request_id)}


def _fault(fault: Fault, request_id: str) -> tuple[HTTPStatus, dict[str, Any]]:
    """Answer a request that is right, but had to be given up as a whole."""
    errors = format_errors([GraphQLError("", original_error=fault)], request_id)
    return HTTPStatus.OK, {"data": None, "errors": errors}


def _retry_after(body: dict[str, Any]) -> tuple[tuple[bytes, bytes], ...]:
    for error in body.get("errors", ()):
        seconds = _RETRY_AFTER_SECONDS.get(error["extensions"]["code"])
        if seconds is not None:
            return ((b"retry-after", seconds),)
    return ()
