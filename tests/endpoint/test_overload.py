"""Overload over GraphQL: what cannot be posted in time is refused before it is parsed, with the time to come back."""

import pytest
from api import Endpoint
from factories import new_owner

from wallet_gql.domain.errors import Overloaded
from wallet_gql.operations.opening import Ledger

BALANCE = "query($o: String!) { balance(ownerId: $o) { amount } }"
OPEN = "mutation($o: String!) { openWallet(input: {ownerId: $o}) { __typename } }"


async def test_mutations_are_refused_unparsed_and_queries_go_on(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint = Endpoint(ledger)
    owner = await new_owner(ledger, gold=7)
    refusal = Overloaded("A posting would take 9.0 s now.", retry_after_seconds=7)
    monkeypatch.setattr(ledger.commits, "refusal", lambda: refusal)

    answer = await endpoint.ask(OPEN, variables={"o": owner})

    error = answer.json()["errors"][0]
    assert (error["extensions"]["code"], error["extensions"]["retryAfterSeconds"]) == ("OVERLOADED", 7)
    assert answer.headers["retry-after"] == "7"
    assert endpoint.prepared == []
    assert (await endpoint.ask(BALANCE, variables={"o": owner})).json() == {"data": {"balance": {"amount": "7"}}}

    monkeypatch.setattr(ledger.commits, "refusal", lambda: None)
    assert (await endpoint.ask(OPEN, variables={"o": owner})).json()["data"]["openWallet"] is not None
    monkeypatch.setattr(ledger.commits, "refusal", lambda: refusal)
    # A text that is known is known for what it is, whatever words it has.
    named = "query mutation($o: String!) { balance(ownerId: $o) { amount } }"
    monkeypatch.setattr(ledger.commits, "refusal", lambda: None)
    await endpoint.ask(named, variables={"o": owner})
    monkeypatch.setattr(ledger.commits, "refusal", lambda: refusal)
    assert (await endpoint.ask(named, variables={"o": owner})).json() == {"data": {"balance": {"amount": "7"}}}
    assert (await endpoint.ask(OPEN, variables={"o": owner})).json()["data"] is None
