"""Every field, asked by every kind of caller: each sees what the policy's table says, and nothing else."""

from collections.abc import AsyncIterator
from functools import cache
from typing import Any, Final

import httpx
import pytest
from callers import SCOPES, Callers, Owned, codes, example_of, open_callers
from paths import Example, Step, composites, document, every_field, root_fields, ways
from watched import statements_of

from wallet_gql.domain.access import ALL_SCOPES, Scope
from wallet_gql.graphql.policy import NODES, RULES
from wallet_gql.operations.proof import prove
from wallet_gql.settings import Settings

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
async def callers(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Callers]:
    async with open_callers(settings, tmp_path_factory.mktemp("provider")) as callers:
        for name in ("partner", "auditor"):
            await callers.add_key(name, SCOPES[name] or frozenset())
        yield callers
    assert (await prove(settings)).findings == []


@pytest.fixture(scope="module")
async def owned(callers: Callers) -> Owned:
    owned = await callers.owner("asked")
    callers.add_person("player", owned.owner_id, SCOPES["player"] or frozenset())
    return owned


@pytest.fixture(scope="module")
def example(owned: Owned) -> Example:
    return example_of(owned, owned)


def lacked(step: Step, scopes: frozenset[Scope]) -> bool:
    """Say whether the table keeps a field from whoever has these scopes."""
    return bool(RULES[step]) and not any(scope in RULES[step] for scope in scopes)


def way_of(step: Step, scopes: frozenset[Scope]) -> tuple[Step, ...]:
    """Return the shortest way to a field by which nothing but its own rule can refuse it, if there is one."""
    own = own_ways(scopes)
    return (*(own if step[0] in own else own_ways(ALL_SCOPES))[step[0]], step)


@cache
def own_ways(scopes: frozenset[Scope]) -> dict[str, tuple[Step, ...]]:
    return ways(lambda step: not lacked(step, scopes))


def told(answer: httpx.Response) -> Any:
    body = answer.json()
    assert "data" not in body, answer.text
    return body["errors"][0]


@pytest.mark.parametrize("type_name", [type_.name for type_ in composites()])
async def test_every_field(callers: Callers, example: Example, type_name: str) -> None:
    for step in (each for each in every_field() if each[0] == type_name):
        for caller, scopes in SCOPES.items():
            path = way_of(step, scopes or frozenset())
            text = document(path, example)
            answer, statements = await callers.cost(caller, text)
            where, refused = f"{caller}: {text}", [each for each in path if lacked(each, scopes or frozenset())]
            if scopes is None:
                assert (answer.status_code, codes(answer)) == (401, ["UNAUTHENTICATED"]), where
                assert told(answer)["message"].startswith("This service answers callers with an API key or a token")
                assert statements == []
            elif refused:
                assert (answer.status_code, codes(answer)) == (403, ["FORBIDDEN"]), where
                assert told(answer)["message"].split()[0] in {".".join(each) for each in refused}, where
                assert statements == []
            else:
                assert (answer.status_code, codes(answer)) == (200, []), (where, answer.text)


def test_every_field_is_refused_by_its_own_rule_somewhere() -> None:
    """The way to a field hides no rule: whoever lacks its scopes only is told of it."""
    for step, rule in RULES.items():
        if rule:
            others = ALL_SCOPES - rule
            assert [each for each in way_of(step, others) if lacked(each, others)][-1] == step


@pytest.mark.parametrize("kind", NODES)
async def test_every_node(callers: Callers, owned: Owned, kind: str) -> None:
    asked = "query ($id: ID!) { node(id: $id) { __typename } nodes(ids: [$id]) { __typename } }"
    for caller, scopes in SCOPES.items():
        answer, statements = await callers.cost(caller, asked, id=owned.ids[kind])
        if scopes is None:
            assert (answer.status_code, codes(answer)) == (401, ["UNAUTHENTICATED"])
        elif NODES[kind] and not NODES[kind] & scopes:
            assert (answer.status_code, codes(answer)) == (200, ["FORBIDDEN"] * 2), caller
            assert answer.json()["data"] == {"node": None, "nodes": [None]}
        else:
            thing = {"__typename": kind}
            assert answer.json() == {"data": {"node": thing, "nodes": [thing]}}, caller
            continue
        assert statements == []


SHAPES: Final = {
    "KIND { alias: FIELD }": None,
    "KIND ($no: Boolean! = true) { ... @include(if: $no) { FIELD } }": {"no": False},
    "KIND ($yes: Boolean!) { __typename ... @skip(if: $yes) { ... { FIELD } } }": {"yes": True},
    "KIND ($yes: Boolean!) { ... on TYPE @skip(if: $yes) { FIELD } }": {"yes": True},
    "KIND { __typename ...A } fragment A on TYPE { ...B } fragment B on TYPE { ... { FIELD } }": None,
    "KIND { ...A @include(if: false) } fragment A on TYPE { FIELD }": None,
    "KIND Named { FIELD } query Other { __typename }": None,
}
"""Documents that ask for a field in a roundabout way, and their variables."""


def shaped(type_name: str, field: str) -> list[tuple[str, dict[str, bool]]]:
    kind = type_name.lower()
    return [
        (shape.replace("KIND", kind).replace("TYPE", type_name).replace("FIELD", field), variables or {})
        for shape, variables in SHAPES.items()
    ]


async def refused_in_every_shape(callers: Callers, caller: str, type_name: str, field: str) -> None:
    for text, variables in shaped(type_name, field):
        with statements_of(callers.ledger) as statements:
            name = "Named" if "Named" in text else None
            answer = await callers.post(caller, query=text, variables=variables, operationName=name)
        assert (answer.status_code, codes(answer)) == (403, ["FORBIDDEN"]), (caller, text, answer.text)
        assert "data" not in answer.json()
        assert statements == []


@pytest.mark.parametrize("root", root_fields(), ids=".".join)
async def test_the_shape_of_a_document_gains_nothing(callers: Callers, example: Example, root: Step) -> None:
    field = document((root,), example).partition("{")[2].rpartition("}")[0]
    for caller, scopes in SCOPES.items():
        if scopes is not None and lacked(root, scopes):
            await refused_in_every_shape(callers, caller, root[0], field)


@pytest.mark.parametrize("field", ["__schema { types { name } }", '__type(name: "Wallet") { fields { name } }'])
async def test_introspection(callers: Callers, field: str) -> None:
    for caller, scopes in SCOPES.items():
        if scopes is not None and Scope.SCHEMA not in scopes:
            await refused_in_every_shape(callers, caller, "Query", field)
            answer = await callers.ask(caller, "mutation { spent(imput: {ownerid: 5}) { transactoin } }")
            assert "Did you mean" not in answer.text
    assert (await callers.data("operator", f"{{ {field} }}")).keys() <= {"__schema", "__type"}
