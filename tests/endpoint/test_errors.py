"""What errors say of postings: nothing to a query, and nothing untrue to a mutation."""

from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest
from api import Endpoint
from factories import balance, new_owner
from graphql import GraphQLError

from wallet_gql.domain.errors import Overloaded, Unavailable
from wallet_gql.endpoint.errors import format_errors
from wallet_gql.operations.opening import Ledger
from wallet_gql.operations.read_batches import ReadBatch

FAULTS = [Overloaded("planted"), Unavailable("planted"), LookupError("planted")]


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("path", [None, ["outcomeByKey"], ["node", "transactions"]])
def test_query_is_told_nothing_of_postings_or_keys(fault: Exception, path: list[str | int] | None) -> None:
    [error] = format_errors([GraphQLError("", path=path, original_error=fault)], "test")
    assert "post" not in error["message"]
    assert "key" not in error["message"]
    assert "ask again" in error["message"]


@pytest.mark.parametrize("fault", FAULTS[:2])
@pytest.mark.parametrize("path", [None, ["topUp"]])
def test_mutation_is_told_that_its_attempt_posted_nothing(fault: Exception, path: list[str | int] | None) -> None:
    [error] = format_errors([GraphQLError("", path=path, original_error=fault)], "test", is_mutation=True)
    assert "this attempt posted nothing: try again with the same key" in error["message"]


async def test_fault_in_reading_after_a_posting_does_not_deny_it(ledger: Ledger) -> None:
    async def fail(*_: Any) -> list[Any]:
        raise Unavailable("planted")

    owner = await new_owner(ledger, gold=1)
    reads = replace(ledger.reads, balances=ReadBatch(ledger.engine, fail, 1))
    query = """mutation($o: String!, $k: UUID!) { topUp(input: {ownerId: $o, amount: 4, idempotencyKey: $k}) {
      ... on TopUpPayload { wallet { balances { amount } } }
    } }"""
    answer = await Endpoint(replace(ledger, reads=reads)).ask(query, variables={"o": owner, "k": str(uuid4())})

    [error] = answer.json()["errors"]
    assert (error["path"][:3], error["extensions"]["code"]) == (["topUp", "wallet", "balances"], "UNAVAILABLE")
    assert error["message"] == "The service got no answer in time: ask again after a pause."
    assert await balance(ledger, owner) == 5


async def test_overloaded_mutation_is_told_before_it_is_parsed(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger.commits, "refusal", lambda: Overloaded("planted"))
    answer = await Endpoint(ledger).ask('mutation { openWallet(input: {ownerId: "a"}) { __typename } }')
    assert "this attempt posted nothing" in answer.json()["errors"][0]["message"]
