"""What graphql-core says about input: in the words of GraphQL and JSON, none of Python's."""

import re
from typing import Any, Final

import pytest
from graphql import ExecutionResult, GraphQLError

from wallet_gql.endpoint.documents import Documents, InvalidDocument
from wallet_gql.endpoint.errors import MESSAGE_LENGTH_MAX, format_errors
from wallet_gql.endpoint.executor import StraightExecutor
from wallet_gql.endpoint.http import _limits
from wallet_gql.endpoint.schema import executable_schema
from wallet_gql.settings import Settings

POST: Final = "mutation ($i: TopUpInput!) { topUp(input: $i) { __typename } }"
READ: Final = """query ($f: Int, $o: String!, $ids: [ID!]!, $b: Boolean!) {
  transactions(ownerId: $o, first: $f) { totalCount @include(if: $b) } nodes(ids: $ids) { id }
}"""
LIMIT: Final = "mutation ($i: SetLimitInput!) { setLimit(input: $i) { __typename } }"
KEY: Final = "6f1e7b1c-59a7-4f0d-9a5e-1f8a5b1c2d3e"
INPUT: Final = {"ownerId": "a", "amount": "1", "idempotencyKey": KEY}
OF_A_LIMIT: Final = {"flow": "SPEND", "maxAmount": 1, "idempotencyKey": KEY}
RIGHT: Final = {"f": 1, "o": "a", "ids": ["a"], "b": True}

# A kind of value each, and text that looks like Python's.
VALUES: Final[tuple[Any, ...]] = (
    None,
    True,
    False,
    5,
    -1.5,
    2**40,
    "x",
    'it\'s "None"',
    [],
    [None, True],
    {},
    {"x": [None, {"y": "'"}]},
)

# What graphql-core, Starlette and others say of themselves, instead of what is wrong and what to do.
LIBRARIES: Final = re.compile(
    r"cannot represent|non[- ](?:32-bit|integer|string|boolean)|Parsing aborted|Syntax Error: Document|Not Allowed"
    r"|Within OneOf"
)

PYTHON: Final = re.compile(r"\b(?:None|True|False|Undefined|NoneType|dict|inf|nan)\b|: '|\['|\{'|', '")


@pytest.fixture(scope="module")
def documents() -> Documents:
    return Documents(executable_schema(), _limits(Settings(_env_file=None)), introspection=True)


def messages(documents: Documents, text: str, variables: dict[str, Any] | None = None) -> list[str]:
    """Return what is wrong with a request before it is executed."""
    try:
        executor = (
            documents.prepare(text).operation(None).executor.for_request(None, variables or {}, hide_suggestions=False)
        )
    except InvalidDocument as invalid:
        errors: list[GraphQLError] = invalid.errors
    else:
        errors = executor if isinstance(executor, list) else []
    return [error["message"] for error in format_errors(errors, "test")]


REQUESTS: Final = [
    *((POST, {"i": value}) for value in VALUES),
    *((POST, {"i": {**INPUT, name: value}}) for name in (*INPUT, "asset", "unknown") for value in VALUES),
    (POST, {}),
    *((LIMIT, {"i": {**OF_A_LIMIT, "window": value}}) for value in VALUES),
    *((LIMIT, {"i": {**OF_A_LIMIT, "window": {"rollingSeconds": value}}}) for value in VALUES),
    *((LIMIT, {"i": {**OF_A_LIMIT, "window": {"calendar": value}}}) for value in VALUES),
    *((READ, {**RIGHT, name: value}) for name in RIGHT for value in VALUES),
    *((READ, {**RIGHT, "ids": [value]}) for value in VALUES),
    ('query ($a: String = "GOLD") { balance(ownerId: "x", asset: $a) { amount } }', {"a": None}),
    ("query ($a: Int! = null) { transactions(ownerId: \"a\", first: $a) { totalCount } }", {}),
    ("query ($a: TopUpInput! = {}) { __typename @include(if: true) }", {}),
    *(
        (text % value, {})
        for text in (
            "{ wallet(ownerId: %s) { id } }",
            "{ nodes(ids: [%s]) { id } }",
            '{ transactions(ownerId: "a", first: %s) { totalCount } }',
            "{ assets @skip(if: %s) { code } }",
            "mutation { topUp(input: %s) { __typename } }",
            'mutation { topUp(input: {ownerId: "a", amount: %s, idempotencyKey: 1}) { __typename } }',
            "{ assets { code(a: %s) } }",
            f'mutation {{ setLimit(input: {{flow: IN, idempotencyKey: "{KEY}", window: %s}}) {{ __typename }} }}',
        )
        for value in ("null", "true", "5.5", '"x"', "[null]", "{a: null}", "A", "99999999999999", "[" * 1500)
    ),
    ("{ a " * 1500, {}),
    ("{ " + "a " * 3000 + "}", {}),
]  # fmt: skip


@pytest.mark.parametrize(("text", "variables"), REQUESTS)
def test_no_words_of_python(documents: Documents, text: str, variables: dict[str, Any]) -> None:
    for message in messages(documents, text, variables):
        # What a client sent as text is its own.
        assert not PYTHON.search(message.replace(r"\"None\"", "")), message
        assert not LIBRARIES.search(message), message
        assert len(message) <= MESSAGE_LENGTH_MAX


@pytest.mark.parametrize(
    ("text", "variables", "message"),
    [
        (
            POST,
            {"i": None},
            "A value of type 'TopUpInput!' must not be null: send one.",
        ),
        (
            POST,
            {},
            "A value of type 'TopUpInput!' is required, but it was not provided: send one.",
        ),
        ("{ wallet(ownerId: null) { id } }", {}, "A value of type 'String!' must not be null: send one."),
        (
            POST,
            {"i": {**INPUT, "ownerId": {"a": [None, True, "it's", 'q"']}}},
            r"""String cannot be read from {"a": [null, true, "it's", "q\""]}: send a string.""",
        ),
        (
            READ,
            {**RIGHT, "f": "'\"None"},
            r"""Int cannot be read from "'\"None": send an integer from -2147483648 to 2147483647.""",
        ),
        # A literal is shown as it was sent: True is an enum's value here.
        ("{ wallet(ownerId: True) { id } }", {}, "String cannot be read from True: send a string."),
        (
            '{ transactions(ownerId: "a", first: 9223372036854775807) { totalCount } }',
            {},
            "Int cannot be read from 9223372036854775807: send an integer from -2147483648 to 2147483647.",
        ),
        (
            READ,
            {**RIGHT, "f": 2**31},
            "Int cannot be read from 2147483648: send an integer from -2147483648 to 2147483647.",
        ),
        (READ, {**RIGHT, "b": "x" * 1000}, f'Boolean cannot be read from "{"x" * 99}…: send true or false.'),
        (READ, {**RIGHT, "ids": [True]}, "ID cannot be read from true: send a string."),
        (
            POST,
            {"i": {**INPUT, "amount": "Int cannot represent value: 5"}},
            'Amount cannot be read from "Int cannot represent value: 5": send plain decimal digits, such as "12.50".',
        ),
        *(
            (
                LIMIT,
                {"i": {**OF_A_LIMIT, "window": window}},
                "A value of type 'LimitWindowInput' has exactly one field, which is not null: send it.",
            )
            for window in ({}, {"rollingSeconds": None}, {"rollingSeconds": 1, "calendar": None})
        ),
        ("{ a " * 1500, {}, "The document is nested too deeply: split it."),
        ("{ " + "a " * 3000 + "}", {}, "The document has more than 2000 tokens: split it."),
    ],
)
def test_values_as_they_were_sent(documents: Documents, text: str, variables: dict[str, Any], message: str) -> None:
    [found] = messages(documents, text, variables)
    assert re.sub(r"^(Variable .*|'\w+') has invalid value( at \S+)?: ", "", found) == message


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ('{ transactions(ownerId: "a", first : 5.5) { totalCount } }', "'first' has invalid value: Int cannot "),
        ("mutation { topUp(input: {ownerId: 5}) { __typename } }", "'ownerId' has invalid value: String cannot "),
        ('{ nodes(ids: ["a", true]) { id } }', "ID cannot "),
        (
            f'mutation {{ setLimit(input: {{flow: IN, window: {{}}, idempotencyKey: "{KEY}"}}) {{ __typename }} }}',
            "'window' has invalid value: A value of type 'LimitWindowInput' has ",
        ),
        ('query ($n: Int = "a") { transactions(ownerId: "a", first: $n) { totalCount } }', "Int cannot "),
    ],
)
def test_literal_is_named_by_what_it_is_given_to(documents: Documents, text: str, place: str) -> None:
    assert any(message.startswith(place) for message in messages(documents, text))


def test_null_that_comes_too_late(documents: Documents) -> None:
    text = 'query ($a: String = "GOLD") { balance(ownerId: "x", asset: $a) { amount } }'
    executor = documents.prepare(text).operation(None).executor.for_request(None, {"a": None}, hide_suggestions=False)
    assert isinstance(executor, StraightExecutor)
    result = executor.execute_operation()
    assert isinstance(result, ExecutionResult)
    [error] = format_errors(result.errors or [], "test")
    assert error["message"].endswith("Variable '$a' must not be null where the type is 'String!': send a value.")
