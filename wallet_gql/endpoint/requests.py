"""The parameters of a request: from its body, or from the query string of a GET. What is wrong with it is told."""

from http import HTTPStatus
from types import NoneType
from typing import Any, Final
from urllib.parse import parse_qsl

import orjson
from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive, Scope

from wallet_gql.domain.errors import Overloaded
from wallet_gql.endpoint.negotiation import GRAPHQL_RESPONSE, JSON, is_json
from wallet_gql.graphql.scalars import REQUEST, RequestText, kind

VALUES_MAX: Final = 16_000
"""The most values that variables may have, nested ones included: a batch of a thousand items has some eight an item."""

_SMALL_BODY_BYTES: Final = 32 * 1024
"""A body that cannot hold more values than that is not counted."""

UNFINISHED_BYTES_MAX: Final = 64 * 1024 * 1024
"""How much of bodies that are still being sent a worker holds."""

_EXAMPLE: Final = 'a JSON object such as {"query": "{ assets { code } }"}'

_PARAMETERS_MAX: Final = 10

_OBJECT_OR_NULL: Final = (dict, NoneType)
_STRING_OR_NULL: Final = (str, NoneType)

_NO_CODING: Final = frozenset({b"", b"identity"})


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


class Requests:
    """Reads requests, and bounds what is held of those that are still being sent."""

    def __init__(self, bytes_max: int) -> None:
        """Take the most bytes that a body may have."""
        self._bytes_max = bytes_max
        self._unfinished_bytes = 0

    async def read(
        self, scope: Scope, receive: Receive, headers: dict[bytes, bytes], media_type: str | None
    ) -> dict[str, Any]:
        """Read the request's parameters from its body, or from the query string of a GET."""
        if media_type is None:
            raise BadRequest(
                HTTPStatus.NOT_ACCEPTABLE, f"The Accept header takes no JSON: name {GRAPHQL_RESPONSE} or {JSON}."
            )
        if scope["method"] == "GET":
            return from_query_string(scope["query_string"])
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
        bytes_max = self._bytes_max
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
            while not is_whole and len(body) <= self._bytes_max:
                if self._unfinished_bytes > UNFINISHED_BYTES_MAX:
                    raise Overloaded("Too many large bodies are being received: try again after a pause.")
                piece, is_whole = _piece(await receive())
                body += piece
                self._unfinished_bytes += len(piece)
        finally:
            self._unfinished_bytes -= len(body)
        return bytes(body)


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


def from_query_string(query_string: bytes) -> dict[str, Any]:
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


def check_parameters(parameters: dict[str, Any]) -> tuple[str, dict[str, Any] | None, str | None]:
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
        if not isinstance(parameters.get(name), _OBJECT_OR_NULL):
            raise BadRequest(HTTPStatus.BAD_REQUEST, f"{name} is {kind(parameters[name])}: send a JSON object or null.")
    operation_name = parameters.get("operationName")
    if not isinstance(operation_name, _STRING_OR_NULL):
        raise BadRequest(HTTPStatus.BAD_REQUEST, f"operationName is {kind(operation_name)}: send a string or null.")
    return query, parameters.get("variables"), operation_name or None


def _names_persisted_query(extensions: object) -> bool:
    """Say whether a request sends the hash of its document, as clients with automatic persisted queries do at first."""
    persisted = extensions.get("persistedQuery") if isinstance(extensions, dict) else None
    return isinstance(persisted, dict) and isinstance(persisted.get("sha256Hash"), str)
