"""Faults as top-level errors: a fixed table of codes, and nothing of the server's insides.

| code | posted? | the client's remedy |
| --- | --- | --- |
| BAD_USER_INPUT | no | fix the request |
| PERSISTED_QUERY_NOT_SUPPORTED | no | again, with the document: clients do so by themselves |
| OVERLOADED | no | again after a pause, same key |
| UNAVAILABLE | no | again, same key |
| OUTCOME_UNKNOWN | perhaps | again with the same key: it answers what happened |
| INTERNAL | perhaps | again with the same key; tell the operator the request id |
"""

import re
from collections.abc import Sequence
from typing import Any, Final

import structlog
from graphql import GraphQLError

from wallet_gql.domain.errors import BadUserInput, Fault, OutcomeUnknown, Overloaded, Unavailable

ERRORS_MAX: Final = 20
"""How many errors an answer names; the rest is counted."""

MESSAGE_LENGTH_MAX: Final = 500

LOCATIONS_MAX: Final = 10
"""How many places an error names: fields that conflict can be a thousand."""

_CODES: Final[dict[type[Fault], str]] = {
    BadUserInput: "BAD_USER_INPUT",
    Overloaded: "OVERLOADED",
    Unavailable: "UNAVAILABLE",
    OutcomeUnknown: "OUTCOME_UNKNOWN",
}

_MESSAGES: Final = {
    "OVERLOADED": "The service is at its limit and posted nothing: try again with the same key after a pause.",
    "UNAVAILABLE": "The service got no answer in time, and nothing was posted: try again with the same key.",
    "OUTCOME_UNKNOWN": "It is not known whether this was posted: ask again with the same key.",
    "INTERNAL": "Something went wrong here: try again with the same key, and tell the operator the request id.",
}

UNAVAILABLE_RETRY_AFTER_SECONDS: Final = 2

# What graphql-core says about null and about what is missing, in plain words.
_REWORDED: Final = (
    (
        re.compile(r"Expected value of non-null type '([^']*)' not to be None\.\Z"),
        r"A value of type '\1' must not be null: send one.",
    ),
    (
        re.compile(r"Expected variable '([^']*)' provided to non-null type '([^']*)' not to be None\.\Z"),
        r"Variable '\1' must not be null where the type is '\2': send a value.",
    ),
    (
        re.compile(r"Expected a value of non-null type '([^']*)' to be provided\.\Z"),
        r"A value of type '\1' is required, but it was not provided: send one.",
    ),
)

# Where graphql-core quotes the value of a variable as Python writes it; and what Python writes otherwise than JSON.
_QUOTING: Final = re.compile(r"(Expected value of type .*?[Ff]ound: |\w+ cannot represent .*?value: )(.*)", re.DOTALL)
_PYTHON: Final = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|\b(?:None|True|False)\b""", re.DOTALL)
_JSON: Final = {"None": "null", "True": "true", "False": "false"}

_log = structlog.get_logger()


def bad_request(message: str, request_id: str, code: str = "BAD_USER_INPUT") -> dict[str, Any]:
    """Return the one error of a request that is not a GraphQL request."""
    return {"message": message, "extensions": {"code": code, "requestId": request_id}}


def format_errors(errors: Sequence[GraphQLError], request_id: str) -> list[dict[str, Any]]:
    """Return errors as the client sees them; what is a fault of ours is logged with the request's id."""
    formatted = [_format(error, request_id) for error in errors[:ERRORS_MAX]]
    if len(errors) > ERRORS_MAX:
        formatted.append(bad_request(f"{len(errors) - ERRORS_MAX} more errors are not shown.", request_id))
    return formatted


def _format(error: GraphQLError, request_id: str) -> dict[str, Any]:
    code = _code(error)
    message = _MESSAGES.get(code) or _in_plain_words(error)
    if len(message) > MESSAGE_LENGTH_MAX:
        # graphql-core quotes the value that it refuses, however long it is.
        message = message[:MESSAGE_LENGTH_MAX] + "…"
    if code == "INTERNAL":
        _log.error("fault", request_id=request_id, path=error.path, exc_info=error.original_error)
    extensions: dict[str, Any] = {"code": code, "requestId": request_id}
    match error.original_error:
        case BadUserInput(field=field):
            extensions["field"] = field
        case Overloaded(retry_after_seconds=seconds):
            extensions["retryAfterSeconds"] = seconds
        case Unavailable():
            extensions["retryAfterSeconds"] = UNAVAILABLE_RETRY_AFTER_SECONDS
    formatted: dict[str, Any] = {"message": message, "extensions": extensions}
    if error.locations:
        formatted["locations"] = [location.formatted for location in error.locations[:LOCATIONS_MAX]]
    if error.path:
        formatted["path"] = error.path
    return formatted


def _in_plain_words(error: GraphQLError) -> str:
    """Return an error's message without Python's words, which graphql-core has for null and in values it quotes."""
    message = error.message
    # Only what is wrong with a variable has another GraphQL error for its cause; literals are quoted as GraphQL.
    if isinstance(error.original_error, GraphQLError):
        cause = error.original_error.message
        if (quoting := _QUOTING.fullmatch(cause)) is not None:
            message = message.removesuffix(cause) + quoting[1] + _PYTHON.sub(_as_json, quoting[2][:MESSAGE_LENGTH_MAX])
    for pattern, words in _REWORDED:
        message = pattern.sub(words, message)
    return message


def _as_json(python: re.Match[str]) -> str:
    text = python[0]
    if text.startswith("'"):
        return '"' + text[1:-1].replace("\\'", "'").replace('"', '\\"') + '"'
    return _JSON.get(text, text)


def _code(error: GraphQLError) -> str:
    cause = error.original_error
    # Syntax, validation and coercion errors have no cause, or another GraphQL error for one: they are the client's.
    if cause is None or isinstance(cause, GraphQLError):
        return "BAD_USER_INPUT"
    return _CODES.get(type(cause), "INTERNAL") if isinstance(cause, Fault) else "INTERNAL"
