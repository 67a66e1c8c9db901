"""What a request made is freed when it is answered: what waits for the collector stops every caller when it comes."""

import gc
from collections.abc import Iterator
from typing import Final
from uuid import uuid4

import pytest
from api import Endpoint
from factories import new_owner

from wallet_gql.operations.opening import Ledger

PAYLOAD: Final = "{ __typename ... on Error { code message } }"

DOCUMENTS: Final = {
    "top-up": (
        f"mutation($o: String!, $k: UUID!) {{ topUp(input: {{ownerId: $o, amount: 1, idempotencyKey: $k}}) {PAYLOAD} }}"
    ),
    "refused spend": (
        f"mutation($o: String!, $k: UUID!) {{ spend(input: {{ownerId: $o, amount: 9, idempotencyKey: $k}}) {PAYLOAD} }}"
    ),
    "opened wallet": f"mutation($o: String!) {{ openWallet(input: {{ownerId: $o}}) {PAYLOAD} }}",
    "balance": "query($o: String!) { wallet(ownerId: $o) { balances { amount } } }",
    "page": "query($o: String!) { wallet(ownerId: $o) { transactions(first: 5) { edges { node { id amount } } } } }",
    "outcome": "query($o: String!, $k: UUID!) { outcomeByKey(ownerId: $o, idempotencyKey: $k) { __typename } }",
}


@pytest.fixture
def garbage() -> Iterator[list[object]]:
    """Keep whatever only the collector would free."""
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    yield gc.garbage
    gc.set_debug(0)
    gc.enable()
    gc.garbage.clear()


@pytest.mark.parametrize("document", DOCUMENTS.values(), ids=DOCUMENTS)
async def test_an_answered_request_leaves_nothing_for_the_collector(
    ledger: Ledger, document: str, garbage: list[object]
) -> None:
    endpoint = Endpoint(ledger)
    owner = await new_owner(ledger)
    ask = {name: value for name, value in {"o": owner, "k": str(uuid4())}.items() if f"${name}" in document}
    await endpoint.ask(document, variables=ask)
    gc.collect()
    garbage.clear()

    if "k" in ask:
        ask["k"] = str(uuid4())
    answer = (await endpoint.ask(document, variables=ask)).json()
    gc.collect()

    assert "errors" not in answer
    makers = {type(item).__module__.partition(".")[0] for item in garbage}
    assert makers.isdisjoint({"wallet_gql", "tenacity"})
