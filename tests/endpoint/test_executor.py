"""The executor's short ways lead where graphql-core's own executor goes."""

import asyncio
import gc
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final, cast

import pytest
from api import Endpoint
from factories import new_owner, new_owner_id
from graphql import ExecutionResult, GraphQLObjectType, OperationDefinitionNode, execute, parse, validate
from graphql.execution import get_variable_values
from graphql.execution.values import VariableValues

from wallet_gql.domain import assets as domain
from wallet_gql.domain import wallets
from wallet_gql.endpoint.executor import LEAVES, OBJECTS, StraightExecutor, is_coroutine, is_stream
from wallet_gql.endpoint.schema import executable_schema
from wallet_gql.graphql import ids
from wallet_gql.graphql.assets import Asset
from wallet_gql.graphql.balances import Balance
from wallet_gql.graphql.context import Context
from wallet_gql.operations.opening import Ledger

PAGE: Final = """
  query ($o: String!, $no: Boolean = false, $yes: Boolean = true) {
    wallet(ownerId: $o) {
      b: balance { amount asset { code scale } id } __typename
      transactions(first: 3) {
        totalCount pageInfo { hasNextPage endCursor }
        edges { cursor node { ...one } }
        nodes { ...one ... on Node { id } entries { account amount } }
        nodes { balanceAfter @skip(if: $no) reference @include(if: $no) description @include(if: $yes) }
      }
      id
      openedAt
    }
    assets { name }
    again: assets { code ...on Asset { scale } }
  }
  fragment one on Transaction { type direction executedAt idempotencyKey description asset { id } }
"""
DOCUMENTS: Final = [
    PAGE,
    "query ($o: String!) { a: balance(ownerId: $o) { amount } balance(ownerId: $o) { ownerId cursor } }",
    'query ($o: String!) { transactions(ownerId: $o, first: 500) { totalCount } node(id: "x") { id } __typename }',
    "query ($o: String!) { wallets(ownerIds: [$o, $o]) { id balances { asset { code } } } __schema { __typename } }",
]


async def run(executor_class: type | None, ledger: Ledger, text: str, variables: dict[str, Any]) -> ExecutionResult:
    result = execute(
        executable_schema(),
        parse(text),
        variable_values=variables,
        context_value=Context(ledger, "test", asyncio.get_running_loop().time() + 60),
        executor_class=executor_class,
        is_awaitable=is_coroutine,
        is_async_iterable=is_stream,
    )
    answer = await result if is_coroutine(result) else result
    assert isinstance(answer, ExecutionResult)
    return answer


@pytest.mark.parametrize("text", DOCUMENTS)
async def test_answers_are_those_of_graphql_core(ledger: Ledger, text: str) -> None:
    assert validate(executable_schema(), parse(text)) == []
    owner = await new_owner(ledger, gold=10)
    for variables in ({"o": owner}, {"o": owner, "no": True, "yes": False}, {"o": new_owner_id()}, {"o": ""}):
        straight, usual = (
            await run(StraightExecutor, ledger, text, variables),
            await run(None, ledger, text, variables),
        )
        # As text, for the order of the fields is part of the answer.
        assert repr(straight.data) == repr(usual.data)
        assert straight.errors == usual.errors


@pytest.mark.parametrize(("directive", "kept"), [("", 3), ("@include(if: true)", 0)])
async def test_what_a_document_keeps_serves_all_its_requests(ledger: Ledger, directive: str, kept: int) -> None:
    text = f"query ($o: String!) {{ balance(ownerId: $o) {directive} {{ amount asset {{ code }} }} assets {{ code }} }}"
    document = parse(text)
    operation = document.definitions[0]
    assert isinstance(operation, OperationDefinitionNode)
    shared = StraightExecutor.of(executable_schema(), document, operation, text)
    for gold in (5, 6):
        variables = {"o": await new_owner(ledger, gold=gold)}
        executor = shared.for_request(
            Context(ledger, "test", asyncio.get_running_loop().time() + 60), variables, hide_suggestions=False
        )
        assert isinstance(executor, StraightExecutor)
        result = executor.execute_operation()
        assert is_coroutine(result)
        answer = await result
        assert answer.errors is None
        assert answer.data["balance"] == {"amount": str(gold), "asset": {"code": "GOLD"}}
    assert len(shared.collected or {}) == kept
    assert (shared.context_value, shared.variable_values) == (None, VariableValues({}, {}))


async def test_a_request_leaves_nothing_to_the_collector(ledger: Ledger) -> None:
    endpoint = Endpoint(ledger)
    owner = await new_owner(ledger, gold=10)
    query = "query ($o: String!) { wallet(ownerId: $o) { id balance { amount } } assets { code } }"
    await endpoint.ask(query, variables={"o": owner})
    gc.collect()
    gc.disable()
    try:
        await endpoint.ask(query, variables={"o": owner})
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        ours = [type(found) for found in gc.garbage if type(found).__module__.startswith(("graphql", "wallet_gql"))]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    assert ours == []


TOP_UP: Final = {"ownerId": "a", "amount": "1", "idempotencyKey": "11111111-1111-4111-8111-111111111111"}
VARIABLES: Final = [
    ("$o: String!", {"o": "a"}, ("o",)),
    ("$o: String!", {}, None),
    ("$o: String!", {"o": None}, None),
    ("$o: String!", {"o": 5}, None),
    ('$o: String = "b"', {}, ("o",)),
    ("$o: String", {}, ()),
    ("$o: String", {"o": None, "more": 1}, ("o",)),
    ("$o: [ID!]", {"o": "one"}, ("o",)),
    ("$o: [ID!]", {"o": ["one", None]}, None),
    ("$o: UUID!, $n: Int", {"o": "11111111-1111-4111-8111-111111111111", "n": 2**31}, None),
    ("$o: TopUpInput!", {"o": {"ownerId": "a", "amount": "1", "idempotencyKey": "x"}}, None),
    ("$o: TopUpInput!", {"o": [[[[]]]]}, None),
    ("$o: TopUpInput!", {"o": TOP_UP}, ("o",)),
    ("$o: TopUpInput!", {"o": {**TOP_UP, "asset": "SILVER", "description": None, "reference": "r"}}, ("o",)),
    ("$o: TopUpInput!", {"o": {**TOP_UP, "more": 1}}, None),
    ("$o: TopUpInput!", {"o": {**TOP_UP, "amount": None}}, None),
    ("$o: TopUpInput!", {"o": {**TOP_UP, "asset": None}}, None),
    ("$o: TopUpInput!", {"o": {**TOP_UP, "reference": 5}}, None),
    ("$o: TopUpInput!", {"o": {"ownerId": "a", "amount": "1"}}, None),
    ("$o: TopUpInput!", {"o": None}, None),
    ("$o: TopUpInput", {"o": None}, ("o",)),
    ("$o: [TopUpInput!]", {"o": TOP_UP}, ("o",)),
    ("$o: TransactionType", {"o": "SPEND"}, ("o",)),
    ("$o: TransactionType", {"o": "THEFT"}, None),
]


@pytest.mark.parametrize(("definitions", "given", "coerced"), VARIABLES)
def test_variables_are_what_graphql_core_makes_of_them(
    definitions: str, given: dict[str, Any], coerced: tuple[str, ...] | None
) -> None:
    text = f"query ({definitions}) {{ __typename }}"
    document = parse(text)
    operation = document.definitions[0]
    assert isinstance(operation, OperationDefinitionNode)
    shared = StraightExecutor.of(executable_schema(), document, operation, text)
    executor = shared.for_request(None, given, hide_suggestions=True)
    usual = get_variable_values(
        executable_schema(), operation.variable_definitions or (), given, max_errors=20, hide_suggestions=True
    )
    if isinstance(executor, list):
        assert executor == usual
        assert coerced is None
    else:
        assert not isinstance(usual, list)
        assert executor.variable_values.coerced == usual.coerced
        assert tuple(usual.coerced) == coerced


def test_every_attribute_that_is_a_leaf_is_read_at_once() -> None:
    leaves = {
        name: set(graphql_type.extensions[LEAVES]) - {"__typename"}
        for name, graphql_type in executable_schema().type_map.items()
        if isinstance(graphql_type, GraphQLObjectType) and not name.startswith("__")
    }
    assert leaves["Balance"] == {"id", "ownerId", "amount", "available", "held", "lapsed", "debt", "cursor"}
    assert leaves["Wallet"] == {"id", "ownerId", "openedAt"}
    assert leaves["Query"] == leaves["Mutation"] == set()
    assert leaves["InsufficientBalance"] == {
        "code", "message", "retryable", "available", "required", "alreadyProcessed",
    }  # fmt: skip


async def test_a_leaf_that_fails_is_told_as_ever() -> None:
    """A value that its type cannot be: the field's error, with its path, and null as far as it must go."""
    asset = Asset.of(domain.Asset(1, "GOLD", "Gold", 2))
    parent = executable_schema().type_map["Asset"]
    assert isinstance(parent, GraphQLObjectType)
    leaves = parent.extensions[LEAVES]
    assert leaves["scale"](asset) == 2
    wrong: list[Any] = [None, "two", 2**40]
    cases = [(replace(asset, scale=value), "scale") for value in wrong]
    # What is worked out when it is asked for may fail, too.
    failing = replace(asset)
    vars(failing)["global_id"] = lambda: ids.asset_id(failing.nothing)  # type: ignore[attr-defined] # that is how
    for broken, name in (*cases, (failing, "id")):

        async def assets(_source: object, _info: object, broken: Asset = broken) -> list[Asset]:
            await asyncio.sleep(0)
            return [asset, broken]

        straight, usual = await both("assets", assets, f"{{ assets {{ code {name} }} }}")
        assert straight.data == usual.data == {"assets": None}
        assert formatted(straight) == formatted(usual)
        assert formatted(straight)[0]["path"] == ["assets", 1, name]


async def both(name: str, resolver: Any, text: str) -> tuple[ExecutionResult, ExecutionResult]:
    """Answer a query by the executor and by graphql-core's own, with another resolver of a root field."""
    query = executable_schema().query_type
    assert query is not None
    field = query.fields[name]
    resolve, field.resolve = field.resolve, resolver
    answers = []
    try:
        for executor_class in (StraightExecutor, None):
            result = execute(
                executable_schema(), parse(text), executor_class=executor_class, is_awaitable=is_coroutine,
                is_async_iterable=is_stream,
            )  # fmt: skip
            answers.append(await result if is_coroutine(result) else result)
    finally:
        field.resolve = resolve
    straight, usual = answers
    assert isinstance(straight, ExecutionResult)
    assert isinstance(usual, ExecutionResult)
    return straight, usual


def formatted(answer: ExecutionResult) -> list[Any]:
    return [error.formatted for error in answer.errors or ()]


def test_what_is_always_there_is_gone_into_at_once() -> None:
    types = executable_schema().type_map
    objects = {
        name: {field: object_type.name for field, (_, object_type) in found.items()}
        for name, graphql_type in types.items()
        if (found := graphql_type.extensions.get(OBJECTS))
    }
    assert objects["SpendPayload"] == {"transaction": "Transaction", "wallet": "Wallet", "balance": "Balance"}
    assert objects["Balance"] == {"asset": "Asset"}
    assert "Query" not in objects
    assert "Mutation" not in objects
    # What is said of a type's objects is not asked on that way.
    assert [name for name, each in types.items() if getattr(each, "is_type_of", None) is not None] == []


@pytest.mark.parametrize(
    ("broken", "path"),
    [
        ({"asset": None}, ["asset"]),
        ({"asset": domain.Asset(1, "GOLD", "Gold", cast("int", "two"))}, ["asset", "scale"]),
    ],
)
async def test_an_object_that_fails_is_told_as_ever(broken: dict[str, Any], path: list[str]) -> None:
    wallet = wallets.Wallet(1, 2, "ann", datetime.now(UTC))
    whole = wallets.Balance(wallet, domain.Asset(1, "GOLD", "Gold", 2), 5, 1)
    text = '{ balance(ownerId: "ann") { ownerId asset { code scale } } __typename }'
    for balance, data in (
        (whole, {"ownerId": "ann", "asset": {"code": "GOLD", "scale": 2}}),
        (whole._replace(**broken), None),
    ):
        for is_awaited in (False, True):

            async def read(*_: object, balance: wallets.Balance = balance, **__: object) -> Balance:
                return Balance(balance=balance)

            def read_at_once(*_: object, balance: wallets.Balance = balance, **__: object) -> Balance:
                return Balance(balance=balance)

            straight, usual = await both("balance", read if is_awaited else read_at_once, text)
            assert repr(straight.data) == repr(usual.data) == repr({"balance": data, "__typename": "Query"})
            assert formatted(straight) == formatted(usual)
            assert [each["path"] for each in formatted(straight)] == ([] if data else [["balance", *path]])
