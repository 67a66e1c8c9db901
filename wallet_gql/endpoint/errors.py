"""Faults as top-level errors: the codes of the table in docs/api.md, and nothing of the server's insides."""

import re
from collections.abc import Sequence
from typing import Any, Final

import structlog
from graphql import GRAPHQL_MAX_INT, GRAPHQL_MIN_INT, GraphQLError

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

ERRORS_MAX: Final = 20
"""How many errors an answer names; the rest is counted."""

MESSAGE_LENGTH_MAX: Final = 500

LOCATIONS_MAX: Final = 10
"""How many places an error names: fields that conflict can be a thousand."""

_CODES: Final[dict[type[Fault], str]] = {
    BadUserInput: "BAD_USER_INPUT",
    Unauthenticated: "UNAUTHENTICATED",
    Forbidden: "FORBIDDEN",
    RateLimited: "RATE_LIMITED",
    Overloaded: "OVERLOADED",
    Unavailable: "UNAVAILABLE",
    OutcomeUnknown: "OUTCOME_UNKNOWN",
}

# A query may ask about what another request posted: of postings, its errors say nothing.
_MESSAGES: Final = {
    "OVERLOADED": "The service is at its limit: ask again after a pause.",
    "UNAVAILABLE": "The service got no answer in time: ask again after a pause.",
    "INTERNAL": "Something went wrong here: ask again, and tell the operator the request id.",
}

_MUTATION_MESSAGES: Final = {
    "OVERLOADED": (
        "The service is at its limit, and this attempt posted nothing: try again with the same key after a pause."
    ),
    "UNAVAILABLE": "The service got no answer in time, and this attempt posted nothing: try again with the same key.",
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
    (
        re.compile(r"Syntax Error: Document is nested too deeply\. Parsing aborted\.\Z"),
        "The document is nested too deeply: split it.",
    ),
    (
        re.compile(r"Syntax Error: Document contains more than (\d+) tokens\. Parsing aborted\.\Z"),
        r"The document has more than \1 tokens: split it.",
    ),
)

# What it says about an input with one field only, whichever that is; a variable's name and path come before.
_ONE_OF: Final = re.compile(
    r"((?:Variable '[^']*' has invalid value(?: at \S+)?: )?)Within OneOf Input Object type '([^']*)', .*"
)

# What it says about a value of another type; a variable's name and path come before.
_OF_ANOTHER_TYPE: Final = re.compile(
    r"((?:Variable '[^']*' has invalid value(?: at \S+)?: )?)"
    r"(Int|String|ID|Boolean) cannot represent .*?value: (.*)",
    re.DOTALL,
)
_REMEDIES: Final = {
    "Int": f"send an integer from {GRAPHQL_MIN_INT} to {GRAPHQL_MAX_INT}",
    "String": "send a string",
    "ID": "send a string",
    "Boolean": "send true or false",
}
_QUOTED_LENGTH_MAX: Final = 100

_NAME_WITHIN: Final = 100
"""How many characters before a literal may hold the name of what it is given to."""

# Where graphql-core quotes the value of a variable as Python writes it; and what Python writes otherwise than JSON.
_QUOTING: Final = re.compile(r"(Expected value of type .*?[Ff]ound: |\w+ cannot represent .*?value: )(.*)", re.DOTALL)
_PYTHON: Final = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|\b(?:None|True|False)\b""", re.DOTALL)
_JSON: Final = {"None": "null", "True": "true", "False": "false"}

_log = structlog.get_logger()


def bad_request(message: str, request_id: str, code: str = "BAD_USER_INPUT") -> dict[str, Any]:
    """Return the one error of a request that is not a GraphQL request."""
    return {"message": message, "extensions": {"code": code, "requestId": request_id}}


def format_errors(
    errors: Sequence[GraphQLError], request_id: str, *, is_mutation: bool = False
) -> list[dict[str, Any]]:
    """Return errors as the client sees them; what is a fault of ours is logged with the request's id."""
    formatted = [_format(error, request_id, is_mutation=is_mutation) for error in errors[:ERRORS_MAX]]
    if len(errors) > ERRORS_MAX:
        formatted.append(bad_request(f"{len(errors) - ERRORS_MAX} more errors are not shown.", request_id))
    return formatted


def _format(error: GraphQLError, request_id: str, *, is_mutation: bool) -> dict[str, Any]:
    code = _code(error)
    # What is below a field of Mutation is read after its posting.
    is_of_posting = is_mutation and len(error.path or ()) <= 1
    message = (_MUTATION_MESSAGES if is_of_posting else _MESSAGES).get(code) or _in_plain_words(error)
    if len(message) > MESSAGE_LENGTH_MAX:
        # graphql-core quotes the value that it refuses, however long it is.
        message = message[:MESSAGE_LENGTH_MAX] + "…"
    if code == "INTERNAL":
        _log.error("fault", request_id=request_id, path=error.path, exc_info=error.original_error)
    extensions: dict[str, Any] = {"code": code, "requestId": request_id}
    match error.original_error:
        case BadUserInput(field=field):
            extensions["field"] = field
        case Forbidden(field=str(field)):
            extensions["field"] = field
        case Overloaded(retry_after_seconds=seconds) | RateLimited(retry_after_seconds=seconds):
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
    """Return what graphql-core says in the words of GraphQL and JSON, and with what to do."""
    message = error.message
    # Only what is wrong with a variable has another GraphQL error for its cause; literals are quoted as GraphQL.
    if isinstance(error.original_error, GraphQLError):
        cause = error.original_error.message
        if (quoting := _QUOTING.fullmatch(cause)) is not None:
            message = message.removesuffix(cause) + quoting[1] + _PYTHON.sub(_as_json, quoting[2][:MESSAGE_LENGTH_MAX])
    for pattern, words in _REWORDED:
        message = pattern.sub(words, message)
    if (found := _ONE_OF.fullmatch(message)) is not None:
        place, type_ = found.groups()
        return f"{place or _place(error)}A value of type '{type_}' has exactly one field, which is not null: send it."
    if (found := _OF_ANOTHER_TYPE.fullmatch(message)) is not None:
        place, type_, value = found.groups()
        shown = value if len(value) <= _QUOTED_LENGTH_MAX else value[:_QUOTED_LENGTH_MAX] + "…"
        message = f"{place or _place(error)}{type_} cannot be read from {shown}: {_REMEDIES[type_]}."
    return message


def _place(error: GraphQLError) -> str:
    """Name the argument or field that a literal is given to, as it stands before it in the document."""
    location = error.nodes[0].loc if error.nodes else None
    if location is None:
        return ""
    before = location.source.body[max(0, location.start - _NAME_WITHIN) : location.start]
    name = re.search(r"(\w+)\s*:\s*\Z", before, re.ASCII)
    return f"'{name[1]}' has invalid value: " if name else ""


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
