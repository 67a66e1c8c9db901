import asyncio
import contextlib
import gc

import pytest
from api import Endpoint
from factories import new_owner
from graphql import Node, Token

from wallet_gql.endpoint.documents import TOKENS_KEPT_MAX, InvalidDocument
from wallet_gql.operations.opening import Ledger

BALANCE = "query($o: String!) { balance(ownerId: $o) { amount } }"


@pytest.fixture
def endpoint(ledger: Ledger) -> Endpoint:
    return Endpoint(ledger)


async def test_document_is_prepared_once(endpoint: Endpoint, ledger: Ledger) -> None:
    for gold in range(1, 11):
        owner = await new_owner(ledger, gold=gold)
        response = await endpoint.ask(BALANCE, variables={"o": owner})
        assert response.json() == {"data": {"balance": {"amount": str(gold)}}}

    assert endpoint.figures() == (9, 1)


async def test_documents_differ_by_their_texts(endpoint: Endpoint) -> None:
    for query in (BALANCE, BALANCE + " ", BALANCE, "{ assets { code } }", "{ assets { name } }"):
        assert "errors" not in (await endpoint.ask(query, variables={"o": "nobody"})).json()

    assert endpoint.figures() == (1, 4)


async def test_one_document_serves_all_its_operations(endpoint: Endpoint) -> None:
    query = "query A { assets { code } } query B { assets { scale } }"
    answers = [(await endpoint.ask(query, operationName=name)).json()["data"]["assets"][0] for name in "ABAB"]

    assert answers == [{"code": "GOLD"}, {"scale": 0}] * 2
    assert endpoint.figures() == (3, 1)


async def test_document_without_the_named_operation_is_kept_for_the_next(endpoint: Endpoint) -> None:
    query = "query A { assets { code } }"

    assert "errors" in (await endpoint.ask(query, operationName="B")).json()
    assert "errors" not in (await endpoint.ask(query, operationName="A")).json()

    assert endpoint.figures() == (1, 1)


@pytest.mark.parametrize(
    "query",
    [
        "{",
        "{ nothing }",
        "# nothing",
        "{ assets { code } } #" + "x" * 100_000,
        "{ assets" * 500,
        "fragment A on Asset { id }",
    ],
    ids=["syntax", "unknown field", "empty", "too long", "too deep", "no operation"],
)
async def test_document_that_is_invalid_is_not_kept(endpoint: Endpoint, query: str) -> None:
    for _ in range(3):
        assert "data" not in (await endpoint.ask(query)).json()

    assert endpoint.figures() == (0, 3)


async def test_documents_are_kept_up_to_so_many_tokens(endpoint: Endpoint) -> None:
    find = endpoint.documents.find
    in_use = "{ assets { code } }"
    count = TOKENS_KEPT_MAX // (await find("query A { __typename }")).tokens
    texts = [f"query A{n} {{ __typename }}" for n in range(count)]
    for text in texts:
        await find(text)
        await find(in_use)
    assert endpoint.prepared.count(in_use) == 1

    for text in (texts[-1], texts[-100], texts[0]):
        await find(text)
    assert [endpoint.prepared.count(text) for text in (texts[-1], texts[-100], texts[0])] == [1, 1, 2]


async def test_a_text_that_many_ask_for_at_once_is_prepared_once(endpoint: Endpoint) -> None:
    answers = await asyncio.gather(*(endpoint.ask("{ assets { code } }") for _ in range(20)))
    assert {answer.status_code for answer in answers} == {200}
    assert endpoint.figures() == (19, 1)


async def test_between_two_long_documents_the_others_are_served(endpoint: Endpoint) -> None:
    """A known document waits for one unknown one at most, however many there are."""
    known = "{ assets { code } }"
    await endpoint.ask(known)
    ended: list[str] = []

    async def ask(name: str, query: str) -> None:
        await endpoint.ask(query)
        ended.append(name)

    long = "{" + "assets{code}" * 17 + "}"
    await asyncio.gather(*(ask("long", f"{long} #{n}") for n in range(10)), ask("known", known))
    assert len(ended) == 11
    assert ended.index("known") <= 3


async def test_a_document_that_is_let_go_leaves_nothing_to_the_collector(endpoint: Endpoint) -> None:
    def count_nodes() -> int:
        return sum(isinstance(found, Token | Node) for found in gc.get_objects())

    gc.collect()
    gc.disable()
    before = count_nodes()
    try:
        for text in ("{ assets { code } }", "{ assets { cod } }", "{ assets { code }"):
            with contextlib.suppress(InvalidDocument):
                endpoint.documents.prepare(text)
        assert count_nodes() == before
    finally:
        gc.enable()
