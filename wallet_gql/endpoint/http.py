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
from urllib.parse import parse_qsl

import orjson
from graphql import ExecutionResult, GraphQLError
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from wallet_gql.domain.access import Caller
from wallet_gql.domain.errors import (
    BadUserInput,
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
from wallet_gql.endpoint.documents import Documents, InvalidDocument, Operation
from wallet_gql.endpoint.errors import bad_request, format_errors
from wallet_gql.endpoint.executor import is_coroutine
from wallet_gql.endpoint.limits import Limits
from wallet_gql.endpoint.negotiation import GRAPHQL_RESPONSE, HTML, JSON, choose, fields, is_json, takes_gzip
from wallet_gql.endpoint.schema import executable_schema
from wallet_gql.endpoint.turns import Turns
from wallet_gql.graphql.context import Context
from wallet_gql.graphql.scalars import REQUEST, RequestText, kind
from wallet_gql.operations.opening import Ledger
from wallet_gql.operations.rates import POSTING_POINTS, Charge
from wallet_gql.settings import Settings

_ANSWERS: Final = (JSON, GRAPHQL_RESPONSE)

VALUES_MAX: Final = 1000
"""The most values that variables may have, nested ones included."""

_SMALL_BODY_BYTES: Final = 2 * 1024
"""A body that cannot hold more values than that is not counted."""


UNFINISHED_BYTES_MAX: Final = 64 * 1024 * 1024
"""How much of bodies that are still being sent a worker holds."""

GZIP_BYTES_MIN: Final = 16 * 1024
"""An answer that is larger is compressed where the client takes it, beside the loop. No answer repeats a secret."""

GZIP_LEVEL: Final = 1

_EXAMPLE: Final = 'a JSON object such as {"query": "{ assets { code } }"}'

_PARAMETERS_MAX: Final = 10

_NO_CODING: Final = frozenset({b"", b"identity"})

COSTLY: Final = 500
"""What costs more takes turns with others like it: together they would keep the loop from everyone else."""

WAITING_COST_MAX: Final = 200_000
"""What is costly waits for its turn up to this cost in all, two seconds' work or so; more is refused as overload."""


_STATUSES: Final = {Forbidden: HTTPStatus.FORBIDDEN, RateLimited: HTTPStatus.TOO_MANY_REQUESTS}


class BadRequest(Exception):
    """A request that is not a GraphQL request; answered without executing anything."""

    def __init__(
        self,
        status: HTTPStatus,
        message: str,
        headers: tuple[tuple[bytes, bytes], ...] = (),
        code: str = "BAD_USER_INPUT",
    ) -> None:
        """Take the status, what is wrong and what to do, headers that go with them, and the error's code."""
        super().__init__(message)
        self.status = status
        self.headers = headers
        self.code = code


class GraphQLEndpoint:
    """The ASGI application at `/graphql`."""

    def __init__(self, settings: Settings, page: Callable[[], ASGIApp] | None = None) -> None:
        """Take the settings and what makes the page for browsers; the ledger comes with each request's state."""
        self._settings = settings
        self._schema = executable_schema()
        self.documents = Documents(
            self._schema, _limits(settings), introspection=settings.introspection, hides_schema=settings.hides_schema
        )
        # Who has waited for half its time has the other half for its query.
        self._costly_turns = Turns(WAITING_COST_MAX, settings.request_deadline_seconds / 2)
        self._page = page
        self._unfinished_bytes = 0

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
            caller = await authenticate(
                headers.get(b"authorization"),
                scope["state"]["ledger"],
                is_open=self._settings.is_open,
                has_tokens=self._settings.token_keys is not None,
            )
            scope["state"]["caller"] = caller.name
            request = await self._read(scope, receive, headers, media_type)
            status, body = await self._answer(
                scope, request, media_type or JSON, request_id, caller, show_cost=b"x-graphql-cost" in headers
            )
            extra = _retry_after(body)
        except BadRequest as error:
            errors = [bad_request(str(error), request_id, error.code)]
            status, body, extra = error.status, {"errors": errors}, error.headers
        except Unauthenticated as fault:
            status, body = HTTPStatus.UNAUTHORIZED, _unexecuted(fault, request_id)
            extra = ((b"www-authenticate", b"Bearer"),)
        except (Overloaded, Unavailable) as fault:
            status, body = _fault(fault, request_id)
            extra = _retry_after(body)
        except ClientDisconnect:
            raise  # there is nobody to answer
        except Exception as error:  # noqa: BLE001 - whatever went wrong, the client gets a JSON answer
            errors = format_errors([GraphQLError("", original_error=error)], request_id)
            status, body, extra = HTTPStatus.INTERNAL_SERVER_ERROR, {"errors": errors}, ()
        charge: Charge | None = scope["state"].get("charge")
        if charge is not None:
            extra = (*extra, *rates.headers(charge))
            if charge.retry_after_seconds or b"x-graphql-cost" in headers:
                body.setdefault("extensions", {}).setdefault("cost", {}).update(rates.extension(charge))
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

    async def _read(
        self, scope: Scope, receive: Receive, headers: dict[bytes, bytes], media_type: str | None
    ) -> dict[str, Any]:
        """Read the request's parameters from its body, or from the query string of a GET."""
        if media_type is None:
            raise BadRequest(
                HTTPStatus.NOT_ACCEPTABLE, f"The Accept header takes no JSON: name {GRAPHQL_RESPONSE} or {JSON}."
            )
        if scope["method"] == "GET":
            return _from_query_string(scope["query_string"])
        if scope["method"] != "POST":
            raise BadRequest(
                HTTPStatus.METHOD_NOT_ALLOWED,
                "The method is not supported: use POST, or GET for queries.",
                ((b"allow", b"GET, POST"),),
            )
        if not is_json(headers.get(b"content-type", b"").decode("latin-1")):
            raise BadRequest(
                HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
                f"The Content-Type must be {JSON} in UTF-8: set it, and send the body as JSON.",
            )
        coding = headers.get(b"content-encoding")
        if coding is not None and coding.strip().lower() not in _NO_CODING:
            shown = ascii(coding[:32].decode("latin-1"))
            message = f"The body's Content-Encoding is {shown}: send it as it is, not compressed."
            raise BadRequest(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, message, ((b"accept-encoding", b"identity"),))
        body = await self._read_body(receive, headers.get(b"content-length"))
        try:
            parameters = orjson.loads(body)
        except orjson.JSONDecodeError as error:
            raise BadRequest(HTTPStatus.BAD_REQUEST, _why_not_json(body, error)) from None
        REQUEST.set(RequestText(body))
        if not isinstance(parameters, dict):
            raise BadRequest(HTTPStatus.BAD_REQUEST, f"The body is JSON, but not an object: send {_EXAMPLE}.")
        if len(body) > _SMALL_BODY_BYTES and _count_values(parameters.get("variables")) > VALUES_MAX:
            raise BadRequest(
                HTTPStatus.BAD_REQUEST, f"variables have more than {VALUES_MAX} values: split the request."
            )
        return parameters

    async def _read_body(self, receive: Receive, content_length: bytes | None) -> bytes:
        """Read a body up to a limit; one that announces more is refused before it is read.

        Raises ClientDisconnect where it does not arrive whole, whatever can be read of it.
        """
        bytes_max = self._settings.body_bytes_max
        if content_length is not None and not _is_at_most(content_length, bytes_max):
            raise _too_large(bytes_max)
        body, is_whole = _piece(await receive())
        if not is_whole:
            body = await self._read_rest(receive, body)
        if len(body) > bytes_max:
            raise _too_large(bytes_max)
        return body

    async def _read_rest(self, receive: Receive, first: bytes) -> bytes:
        """Read on, a little further than the limit at most."""
        body, is_whole = bytearray(first), False
        self._unfinished_bytes += len(body)
        try:
            while not is_whole and len(body) <= self._settings.body_bytes_max:
                if self._unfinished_bytes > UNFINISHED_BYTES_MAX:
                    raise Overloaded("Too many large bodies are being received: try again after a pause.")
                piece, is_whole = _piece(await receive())
                body += piece
                self._unfinished_bytes += len(piece)
        finally:
            self._unfinished_bytes -= len(body)
        return bytes(body)

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
        query, variables, operation_name = _check_parameters(parameters)
        deadline = asyncio.get_running_loop().time() + self._settings.request_deadline_seconds
        try:
            ledger = _open_ledger(scope)
            operation = await self._find(ledger, query, operation_name, scope["method"])
            operation.check(variables or {})
        except InvalidDocument as error:
            return _request_error(error.errors, media_type, request_id)
        except GraphQLError as error:
            return _request_error([error], media_type, request_id)
        except Fault as fault:
            return _fault(fault, request_id, is_mutation=self.documents.may_mutate(query))
        context = Context(ledger, request_id, deadline, caller)
        try:
            result = await self._execute(operation, variables or {}, context, scope["state"])
        except (Forbidden, RateLimited) as fault:
            return _STATUSES[type(fault)], _unexecuted(fault, request_id)
        except Fault as fault:
            return _fault(fault, request_id, is_mutation=operation.is_mutation)
        if result.data is None and result.errors and all(error.path is None for error in result.errors):
            return _request_error(result.errors, media_type, request_id)
        answer: dict[str, Any] = {"data": result.data}
        if result.errors:
            answer["errors"] = format_errors(result.errors, request_id, is_mutation=operation.is_mutation)
        if show_cost:
            answer["extensions"] = {"cost": {"requested": operation.cost, "max": self._settings.document_cost_max}}
        return HTTPStatus.OK, answer

    async def _find(self, ledger: Ledger, query: str, operation_name: str | None, method: str) -> Operation:
        """Return the operation to execute; a mutation that would be refused is refused before it costs anything.

        Raises `BadRequest` for a mutation by GET.
        """
        refusal = ledger.commits.refusal()
        if refusal is not None and self.documents.may_mutate(query):
            raise refusal
        document = await self.documents.find(query)
        operation = document.operation(operation_name)
        if method == "GET" and operation.is_mutation:
            raise BadRequest(
                HTTPStatus.METHOD_NOT_ALLOWED, "A mutation was sent by GET: send it by POST.", ((b"allow", b"POST"),)
            )
        return operation

    async def _execute(
        self, operation: Operation, variables: dict[str, Any], context: Context, state: dict[str, Any]
    ) -> ExecutionResult:
        """Raises `Forbidden`, `RateLimited`, `Overloaded` where a costly operation's turn does not come, `Unavailable`.

        A mutation whose deadline passes is `OutcomeUnknown`: what it posted is in the books. Before that, each of its
        postings ends by itself and says what became of it.
        """
        executor = operation.executor.for_request(context, variables, hide_suggestions=self._settings.hides_schema)
        if isinstance(executor, list):
            return ExecutionResult(None, executor)
        operation.demands.check(context.caller, executor.variable_values.coerced)
        # One root field alone needs no machinery to run root fields one after the other.
        serially = operation.is_mutation and operation.root_field_count > 1
        # Most clients send the size of their pages as a variable, which could cost far more than it does.
        cost = operation.cost if operation.cost <= COSTLY else operation.cost_with(executor.variable_values.coerced)
        kept = context.ledger.callers.rates
        least = POSTING_POINTS * operation.root_field_count if operation.is_mutation else 1
        try:
            charge = state["charge"] = await kept.charge(context.caller, max(cost, least))
        except BadUserInput as fault:
            return ExecutionResult(None, [GraphQLError(str(fault), original_error=fault)])
        if charge is not None and charge.retry_after_seconds:
            raise charge.refusal()
        try:
            async with asyncio.timeout_at(context.deadline):
                if cost <= COSTLY:
                    result = await _result(executor.execute_operation(serially=serially))
                else:
                    async with self._costly_turns.turn(cost):
                        result = await _result(executor.execute_operation(serially=serially))
        except TimeoutError:
            if operation.is_mutation:
                raise OutcomeUnknown("The deadline passed.") from None
            raise Unavailable("The deadline passed.") from None
        if charge is not None:
            await kept.settle(charge, result.data, least)
        return result


async def _result(result: object) -> ExecutionResult:
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


def _piece(message: Message) -> tuple[bytes, bool]:
    """Return a piece of a body, and whether it is the last; raises ClientDisconnect where no more comes."""
    if message["type"] == "http.disconnect":
        raise ClientDisconnect
    return message.get("body", b""), not message.get("more_body", False)


def _is_at_most(content_length: bytes, bytes_max: int) -> bool:
    digits = content_length.strip()
    return digits.isdigit() and int(digits[:20]) <= bytes_max


def _too_large(bytes_max: int) -> BadRequest:
    return BadRequest(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"The body is larger than {bytes_max} bytes: split the request."
    )


def _why_not_json(body: bytes, error: orjson.JSONDecodeError) -> str:
    """Say what is wrong with a body that cannot be read, and where; some are told by how they begin."""
    if not body.strip():
        return f"The body is empty: send {_EXAMPLE}."
    if body.startswith(b"\xef\xbb\xbf"):
        return "The body begins with a byte order mark: send it without."
    if body.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "The body is UTF-16: send it in UTF-8, without a byte order mark."
    if body.startswith((b"\x1f\x8b", b"\x28\xb5\x2f\xfd")):
        return "The body is compressed: send it as it is."
    try:
        body.decode()
    except UnicodeDecodeError as undecodable:
        return f"The body is not UTF-8 from byte {undecodable.start + 1} on: send JSON in UTF-8."
    return f"The body is not JSON: {_place(error)}. Send {_EXAMPLE}."


def _place(error: orjson.JSONDecodeError) -> str:
    """Say what the parser met, and where."""
    return f"{error.msg} at line {error.lineno}, column {error.colno}"


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
        pairs = parse_qsl(
            query_string.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=_PARAMETERS_MAX
        )
    except UnicodeDecodeError:
        message = "The query string is not UTF-8, URL-encoded: encode each value as encodeURIComponent does."
        raise BadRequest(HTTPStatus.BAD_REQUEST, message) from None
    except ValueError:
        message = (
            f"The query string has more than {_PARAMETERS_MAX} parameters:"
            " send query, variables, operationName and extensions only."
        )
        raise BadRequest(HTTPStatus.BAD_REQUEST, message) from None
    parameters: dict[str, Any] = dict(pairs)
    for name in ("variables", "extensions"):
        if text := parameters.pop(name, ""):
            try:
                parameters[name] = orjson.loads(text)
            except orjson.JSONDecodeError as error:
                message = f"The parameter {name} is not JSON: {_place(error)}. Send a JSON object."
                raise BadRequest(HTTPStatus.BAD_REQUEST, message) from None
            if name == "variables":
                REQUEST.set(RequestText(text.encode()))
    return parameters


def _check_parameters(parameters: dict[str, Any]) -> tuple[str, dict[str, Any] | None, str | None]:
    """Return query, variables and operation name; raises BadRequest where one is of a wrong kind."""
    query = parameters.get("query")
    if not query and _names_persisted_query(parameters.get("extensions")):
        # Word for word what clients wait for before they send the document; some read no answer of another status.
        raise BadRequest(HTTPStatus.OK, "PersistedQueryNotSupported", code="PERSISTED_QUERY_NOT_SUPPORTED")
    if not isinstance(query, str) or not query.strip():
        fault = "missing" if query is None else "empty" if isinstance(query, str) else f"{kind(query)}, not a string"
        message = f'query is {fault}: send a GraphQL document as a string, such as "{{ assets {{ code }} }}".'
        raise BadRequest(HTTPStatus.BAD_REQUEST, message)
    for name in ("variables", "extensions"):
        if not isinstance(parameters.get(name), dict | None):
            raise BadRequest(HTTPStatus.BAD_REQUEST, f"{name} is {kind(parameters[name])}: send a JSON object or null.")
    operation_name = parameters.get("operationName")
    if not isinstance(operation_name, str | None):
        raise BadRequest(HTTPStatus.BAD_REQUEST, f"operationName is {kind(operation_name)}: send a string or null.")
    return query, parameters.get("variables"), operation_name or None


def _names_persisted_query(extensions: object) -> bool:
    """Say whether a request sends the hash of its document, as clients with automatic persisted queries do at first."""
    persisted = extensions.get("persistedQuery") if isinstance(extensions, dict) else None
    return isinstance(persisted, dict) and isinstance(persisted.get("sha256Hash"), str)


def _request_error(errors: list[GraphQLError], media_type: str, request_id: str) -> tuple[HTTPStatus, dict[str, Any]]:
    """Answer a request that was not executed: no `data` entry, and 400 where the media type means the status."""
    status = HTTPStatus.BAD_REQUEST if media_type == GRAPHQL_RESPONSE else HTTPStatus.OK
    return status, {"errors": format_errors(errors, request_id)}


def _fault(fault: Fault, request_id: str, *, is_mutation: bool = False) -> tuple[HTTPStatus, dict[str, Any]]:
    """Answer a request that is right, but had to be given up as a whole."""
    errors = format_errors([GraphQLError("", original_error=fault)], request_id, is_mutation=is_mutation)
    return HTTPStatus.OK, {"data": None, "errors": errors}


def _unexecuted(fault: Fault, request_id: str) -> dict[str, Any]:
    """Answer a request that was not executed, for whom it was not."""
    return {"errors": format_errors([GraphQLError(str(fault), original_error=fault)], request_id)}


def _retry_after(body: dict[str, Any]) -> tuple[tuple[bytes, bytes], ...]:
    """Return the header that says when to come back, where an error says so."""
    seconds = [error["extensions"].get("retryAfterSeconds", 0) for error in body.get("errors", ())]
    return ((b"retry-after", b"%d" % max(seconds)),) if any(seconds) else ()
