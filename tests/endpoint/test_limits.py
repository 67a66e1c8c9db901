"""What a document may ask for: each limit at its edge, the bombs, and what must pass."""

import pytest
from graphql import GraphQLError, get_introspection_query, parse

from wallet_gql.domain.limits import LIMITS_MAX
from wallet_gql.domain.lots import LIVE_LOTS_MAX
from wallet_gql.endpoint.documents import Documents, InvalidDocument
from wallet_gql.endpoint.limits import Limits, check
from wallet_gql.endpoint.schema import executable_schema
from wallet_gql.ledger.judge_reversals import REVERSALS_MAX

LIMITS = Limits(
    characters=65_536,
    tokens=2000,
    depth=15,
    aliases=30,
    root_mutations=10,
    root_queries=20,
    directives=50,
    operations=50,
    fragments=50,
    fields=1500,
    cost=10_000,
)
WALLET = 'wallet(ownerId: "a")'


@pytest.fixture(scope="module")
def documents() -> Documents:
    return Documents(executable_schema(), LIMITS, introspection=True)


def fault(documents: Documents, text: str) -> str | None:
    """Return the first thing that is wrong with a document; None where it is valid."""
    try:
        documents.prepare(text)
    except InvalidDocument as error:
        return error.errors[0].message
    return None


def cost(text: str) -> int:
    return check(parse(text), LIMITS)[None].cost


def nested(depth: int) -> str:
    """A query whose fields nest so deeply, without a type that would allow it."""
    return "{ a " * (depth - 1) + "{ a }" + " }" * (depth - 1)


def spend(n: int) -> str:
    return f'm{n}: spend(input: {{ownerId: "a", amount: 1, idempotencyKey: "11111111-1111-4111-8111-111111111111"}})'


@pytest.mark.parametrize(
    ("allowed", "refused", "message"),
    [
        ("{" + WALLET + "{id}}" + " " * 65_000, "{" + WALLET + "{id}}" + " " * 65_536, "characters"),
        (nested(15), nested(16), "deeper than 15"),
        (
            "{" + WALLET + "{" + " ".join(f"a{n}: id" for n in range(30)) + "}}",
            "{" + WALLET + "{" + " ".join(f"a{n}: id" for n in range(31)) + "}}",
            "31 aliases, but at most 30",
        ),
        (
            "{" + " ".join(f"a{n}: __typename" for n in range(20)) + "}",
            "{" + " ".join(f"a{n}: __typename" for n in range(21)) + "}",
            "21 root queries, but at most 20",
        ),
        (
            "mutation {" + " ".join(spend(n) + "{__typename}" for n in range(10)) + "}",
            "mutation {" + " ".join(spend(n) + "{__typename}" for n in range(11)) + "}",
            "11 root mutations, but at most 10",
        ),
        (
            "{__typename " + "@skip(if: false)" * 50 + "}",
            "{__typename " + "@skip(if: false)" * 51 + "}",
            "51 directives, but at most 50",
        ),
        (
            "{...f0}" + "".join(f"fragment f{n} on Query {{__typename}}" for n in range(50)),
            "{...f0}" + "".join(f"fragment f{n} on Query {{__typename}}" for n in range(51)),
            "51 fragments, but at most 50",
        ),
        (
            "".join(f"query q{n} {{__typename}}" for n in range(50)),
            "".join(f"query q{n} {{__typename}}" for n in range(51)),
            "51 operations, but at most 50",
        ),
        (
            "{" + WALLET + "{" + "id " * 55 + "}}",
            "{" + WALLET + "{" + "id " * 56 + "}}",
            "1540 pairs of repeated fields",
        ),
        (
            "{ wallets(ownerIds: $a) { transactions(first: 98) { totalCount } } }",
            "{ wallets(ownerIds: $a) { transactions(first: 100) { totalCount } } }",
            "costs 10101, but at most 10000",
        ),
    ],
    ids=lambda value: "" if len(value) > 40 else value,
)
def test_each_limit_at_its_edge(documents: Documents, allowed: str, refused: str, message: str) -> None:
    within = fault(documents, allowed)
    assert within is None or message.rsplit(maxsplit=1)[-1] not in within.split()
    assert message in (fault(documents, refused) or "")


def test_an_alias_is_no_longer_than_it_may_weigh(documents: Documents) -> None:
    query = "{ " + "a" * 100 + ": __typename }"
    assert fault(documents, query) is None
    assert "101 characters in an alias, but at most 100" in (fault(documents, query.replace("aa", "aaa", 1)) or "")


def test_the_schema_is_asked_for_twice_at_most(documents: Documents) -> None:
    assert fault(documents, '{ a: __schema { description } b: __type(name: "Wallet") { name } }') is None
    three = "{ a: __schema { description } b: __schema { description } c: __schema { description } }"
    assert "3 introspections, but at most 2" in (fault(documents, three) or "")


def test_tokens_are_limited(documents: Documents) -> None:
    assert "2000 tokens" in (fault(documents, "{" + WALLET + "{" + "id " * 2000 + "}}") or "")


@pytest.mark.parametrize(
    "bomb",
    [
        "{...f0}"
        + "".join(f"fragment f{n} on Query{{...f{n + 1} ...f{n + 1}}}" for n in range(25))
        + "fragment f25 on Query{__typename}",
        "{...a} fragment a on Query{...a}",
        "{...a} fragment a on Query{...b} fragment b on Query{...a}",
        "".join(f"query a{n}{{...f0}}" for n in range(50))
        + "".join(f"fragment f{n} on Wallet{{a:balance{{...f{n + 1}}} b:balance{{...f{n + 1}}}}}" for n in range(9))
        + "fragment f9 on Query{__typename}",
        "{" + (WALLET + "{" + "id " * 17 + "}") * 18 + "}",
        "{" + "a{" * 950 + "b" + "}" * 950 + "}",
        "{node(id:" + "[" * 950 + "]" * 950 + "){id}}",
        "{" + WALLET + "{" + " ".join(f"balanc{n}" for n in range(1900)) + "}}",
    ],
    ids=["spreads", "itself", "each other", "operations", "pairs", "deep", "deep value", "misspelled"],
)
def test_a_bomb_is_refused_before_it_is_validated(
    documents: Documents, bomb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise AssertionError("validated")

    monkeypatch.setattr("wallet_gql.endpoint.documents.validate", unreachable)
    assert fault(documents, bomb) is not None


def test_the_introspection_of_graphiql_passes(documents: Documents) -> None:
    full = get_introspection_query(
        descriptions=True,
        specified_by_url=True,
        directive_is_repeatable=True,
        schema_description=True,
        input_value_deprecation=True,
    )
    assert fault(documents, full) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{ assets { code } }", 1 + 10),
        ('{ wallet(ownerId: "a") { balances { amount asset { code } } } }', 1 + 1 + 10 * 3),
        ('{ transactions(ownerId: "a", first: 5) { nodes { entries { amount } } } }', 1 + 5 * (1 + 1 + 2)),
        ('{ transactions(ownerId: "a", first: 5) { nodes { description reference } } }', 1 + 5 * (1 + 8 + 8)),
        ('{ transactions(ownerId: "a", first: -5) { nodes { id } } }', 1 + 10 * 2),
        ('{ wallet(ownerId: "a") { ownerId } }', 1 + 2),
        ('{ wallet(ownerId: "a") { id balance { amount } } }', 4),
        ('{ transactions(ownerId: "a") { nodes { id } } }', 1 + 10 * 2),
        ('{ transactions(ownerId: "a", first: 50) { nodes { id } } }', 1 + 50 * 2),
        ('{ transactions(ownerId: "a", last: 7) { nodes { id } } }', 1 + 7 * 2),
        ('{ transactions(ownerId: "a", first: $n) { nodes { id } } }', 1 + 100 * 2),
        ('{ wallets(ownerIds: ["a", "b"]) { id } }', 1 + 2),
        ("{ wallets(ownerIds: $ids) { transactions(first: 2) { nodes { id } } } }", 1 + 100 * (1 + 2 * 2)),
        ("{ ...a ...a } fragment a on Query { assets { code } }", 11),
        ('{ holds(ownerId: "a") { nodes { toOwnerId } } }', 1 + 10 * (1 + 2)),
        ('{ balance(ownerId: "a") { holds(first: 3) { nodes { id } } } }', 1 + 1 + 3 * 2),
        ('{ hold(id: "a") { metadata captures { amount } } }', 1 + 63 + 1 + 50),
        ('{ transaction(id: "a") { refunds { amount } } }', 1 + 1 + REVERSALS_MAX),
        ('{ wallet(ownerId: "a") { limits { used rule { flow } } } }', 1 + 1 + 2 * LIMITS_MAX * (1 + 1 + 1)),
        ('{ transaction(id: "a") { lotUses { amount lot { campaign } } } }', 1 + 1 + (LIVE_LOTS_MAX + 1) * (1 + 1 + 2)),
        ('{ balance(ownerId: "a") { lots { nodes { id } } } }', 1 + 1 + 10 * (1 + 1)),
        ('{ transaction(id: "a") { metadata hold { captures { hold { id } } } } }', 1 + 63 + 1 + 1 + 50 * 2),
    ],
)
def test_the_cost_is_what_can_be_answered(text: str, expected: int) -> None:
    assert cost(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{ assets { code } }", 0),
        ('{ wallet(ownerId: "a") { balances { amount } } }', 0),
        ('{ wallets(ownerIds: ["a", "b"]) { id } }', 2),
        ("{ nodes(ids: $ids) { id } }", 100),
        ('{ transactions(ownerId: "a", first: 5) { nodes { entries { amount } } edges { cursor } } }', 5),
        ('{ transactions(ownerId: "a", last: 1000) { totalCount } }', 100),
        ('{ a: transactions(ownerId: "a") { totalCount } b: holds(ownerId: "a") { totalCount } }', 10 + 10),
        ("{ wallets(ownerIds: $ids) { transactions(first: 2) { nodes { id } } } }", 100 + 100 * 2),
        # How many balances a wallet has nobody asked for.
        ('{ wallet(ownerId: "a") { balances { holds(first: 3) { nodes { id } } } } }', 3),
    ],
)
def test_what_is_looked_for_is_told_whatever_there_is(text: str, expected: int) -> None:
    assert check(parse(text), LIMITS)[None].rows == expected


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        ({"o": ["a", "b"], "n": 3}, (1 + 2 * 2) + (1 + 3 * 4)),
        ({"o": "a", "n": 100.0}, (1 + 1 * 2) + (1 + 100 * 4)),
        ({"o": ["a"], "n": 2**31 - 1}, (1 + 1 * 2) + (1 + 100 * 4)),
        ({"o": ["a"]}, (1 + 1 * 2) + (1 + 50 * 4)),
        ({"o": ["a"], "n": None}, (1 + 1 * 2) + (1 + 10 * 4)),
        ({"o": ["a"], "n": -1}, (1 + 1 * 2) + (1 + 10 * 4)),
        ({"o": ["a"] * 100, "n": 100}, (1 + 100 * 2) + (1 + 100 * 4)),
    ],
)
def test_a_request_costs_what_its_variables_say(documents: Documents, inputs: dict[str, object], expected: int) -> None:
    text = """query($o: [String!]!, $n: Int = 50) { wallets(ownerIds: $o) { ownerId } ...page }
      fragment page on Query { transactions(ownerId: "a", first: $n) { nodes { id type amount } } }"""
    operation = documents.prepare(text).operation(None)
    executor = operation.executor.for_request(None, inputs, hide_suggestions=False)
    assert not isinstance(executor, list)
    assert operation.size_with(executor.variable_values.coerced).cost == expected
    assert operation.size.cost == (1 + 100 * 2) + (1 + 100 * 4)


def test_each_operation_has_its_own_cost(documents: Documents) -> None:
    document = documents.prepare("query a { __typename } query b { assets { code } }")
    assert {name: operation.size.cost for name, operation in document.operations.items()} == {"a": 1, "b": 11}


def test_suggestions_are_off_without_introspection() -> None:
    closed = Documents(executable_schema(), LIMITS, introspection=False)
    opened = Documents(executable_schema(), LIMITS, introspection=True)
    assert "Did you mean" in (fault(opened, "{ walet }") or "")
    assert "Did you mean" not in (fault(closed, "{ walet }") or "Did you mean")
    assert "introspection" in (fault(closed, "{ __schema { queryType { name } } }") or "")


def test_limits_are_errors_of_the_client() -> None:
    with pytest.raises(GraphQLError, match="nested deeper"):
        check(parse(nested(16)), LIMITS)
