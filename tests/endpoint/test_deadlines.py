"""A request's end is near also when the database falls silent: it neither answers nor goes away."""

import asyncio
from typing import Any, Final
from uuid import uuid4

import pytest
from api import Endpoint
from batches import held, wallet
from factories import new_owner, new_owner_id
from proxy import open_through_proxy

from wallet_gql.endpoint import documents, turns
from wallet_gql.endpoint.schema import executable_schema
from wallet_gql.operations.opening import Ledger, open_ledger
from wallet_gql.settings import Settings

DEADLINE_SECONDS: Final = 3.0

# Much more than any of this takes: the machine may be busy.
PATIENCE_SECONDS: Final = 60

BALANCE: Final = "query($o: String!) { balance(ownerId: $o) { amount } }"
COSTLY: Final = (
    "query($o: String!, $n: Int = 100) {"
    " transactions(ownerId: $o, first: $n) { nodes { id type amount description } } }"
)
OPEN: Final = "mutation($o: String!) { openWallet(input: {ownerId: $o}) { __typename } }"


def codes(answer: dict[str, Any]) -> list[str]:
    return [error["extensions"]["code"] for error in answer.get("errors", [])]


async def test_a_silent_database_is_unavailable_to_reads_and_to_opening_a_wallet(settings: Settings) -> None:
    short = settings.model_copy(update={"request_deadline_seconds": DEADLINE_SECONDS, "pool_size": 40})
    async with open_through_proxy(short) as (service, proxy):
        endpoint = Endpoint(service)
        owner, unopened = await new_owner(service, gold=7), new_owner_id()
        assert (await endpoint.ask(BALANCE, variables={"o": owner})).json() == {"data": {"balance": {"amount": "7"}}}

        proxy.stall()
        # More at once than there are statements under way: what waits for its turn has the same deadline.
        async with asyncio.timeout(PATIENCE_SECONDS):
            silent = [endpoint.ask(BALANCE, variables={"o": name}) for name in (owner, unopened, *"abcdef")]
            answers = await asyncio.gather(*silent, endpoint.ask(OPEN, variables={"o": unopened}))
        assert [codes(answer.json()) for answer in answers] == [["UNAVAILABLE"]] * len(answers)
        assert {answer.status_code for answer in answers} == {200}
        assert {answer.headers["retry-after"] for answer in answers} == {"2"}

        # The connections that fell silent were given up: what is asked afterwards has others.
        proxy.flow()
        assert (await endpoint.ask(BALANCE, variables={"o": owner})).json() == {"data": {"balance": {"amount": "7"}}}
        opened = (await endpoint.ask(OPEN, variables={"o": unopened})).json()
        assert opened == {"data": {"openWallet": {"__typename": "OpenWalletPayload"}}}


async def test_a_costly_query_that_never_has_its_turn_is_overload_and_others_go_on(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "HELD_SECONDS_MAX", PATIENCE_SECONDS)
    endpoint = Endpoint(ledger, request_deadline_seconds=DEADLINE_SECONDS)
    owner = await new_owner(ledger, gold=7)
    async with endpoint.endpoint._costly_turns.turn(1000):
        waiting = asyncio.create_task(endpoint.ask(COSTLY, variables={"o": owner}))
        answer = await endpoint.ask(BALANCE, variables={"o": owner})
        assert answer.json() == {"data": {"balance": {"amount": "7"}}}
        # The same document costs little with a small page.
        small = await endpoint.ask(COSTLY, variables={"o": owner, "n": 10})
        assert len(small.json()["data"]["transactions"]["nodes"]) == 1
        assert not waiting.done()
        late = await waiting
    # Nothing is said of the database, which answers.
    assert late.json()["data"] is None
    [error] = late.json()["errors"]
    assert (error["extensions"]["code"], late.headers["retry-after"]) == ("OVERLOADED", "1")
    assert error["message"].startswith("The service is at its limit")

    answers = await asyncio.gather(*(endpoint.ask(COSTLY, variables={"o": owner}) for _ in range(5)))
    assert [len(answer.json()["data"]["transactions"]["nodes"]) for answer in answers] == [1] * 5


async def test_a_costly_mutation_takes_its_turn_and_posts_nothing_where_it_does_not_come(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "HELD_SECONDS_MAX", PATIENCE_SECONDS)
    endpoint = Endpoint(ledger, request_deadline_seconds=DEADLINE_SECONDS)
    owner = await new_owner(ledger, gold=7)
    text = """mutation($o: String!, $n: Int!, $k: UUID!) { topUp(input: {ownerId: $o, amount: 1, idempotencyKey: $k}) {
      ... on TopUpPayload { wallet { transactions(first: $n) { nodes { id type amount description } } } } } }"""
    async with endpoint.endpoint._costly_turns.turn(1000):
        small, large = [
            await endpoint.ask(text, variables={"o": owner, "n": size, "k": str(uuid4())}) for size in (1, 100)
        ]
    assert small.json()["data"]["topUp"]["wallet"]["transactions"]["nodes"][0]["amount"] == "1"
    assert codes(large.json()) == ["OVERLOADED"]
    assert (await endpoint.ask(BALANCE, variables={"o": owner})).json() == {"data": {"balance": {"amount": "8"}}}


async def test_a_mutation_has_one_deadline_however_much_it_asks_for(ledger: Ledger) -> None:
    hasty = ledger.settings.model_copy(update={"request_deadline_seconds": DEADLINE_SECONDS})
    async with open_ledger(hasty) as service:
        endpoint = Endpoint(service, request_deadline_seconds=DEADLINE_SECONDS)
        owner = await new_owner(service, gold=7)
        fields = " ".join(
            f'a{n}: topUp(input: {{ownerId: "{owner}", amount: 1, idempotencyKey: "{uuid4()}"}}) {{ __typename }}'
            for n in range(10)
        )
        async with held(service.settings, wallet(service, owner)), asyncio.timeout(4 * DEADLINE_SECONDS):
            answer = (await endpoint.ask(f"mutation {{ {fields} }}")).json()
        assert codes(answer) == ["UNAVAILABLE"] * 10
        assert (await endpoint.ask(BALANCE, variables={"o": owner})).json() == {"data": {"balance": {"amount": "7"}}}


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("{ assets { code } }", "UNAVAILABLE"),
        ('mutation { openWallet(input: {ownerId: "a"}) { __typename } }', "OUTCOME_UNKNOWN"),
    ],
)
async def test_what_is_not_done_at_the_deadline_is_ended(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, text: str, code: str
) -> None:
    """Whatever it waits for; and one that somebody else ends is not told of its deadline."""
    begun = asyncio.Event()

    async def never(*_: object, **__: object) -> None:
        begun.set()
        await asyncio.Event().wait()

    for root, name in ((executable_schema().query_type, "assets"), (executable_schema().mutation_type, "openWallet")):
        assert root is not None
        monkeypatch.setattr(root.fields[name], "resolve", never)
    endpoint = Endpoint(ledger, request_deadline_seconds=0.2)
    answers = await asyncio.gather(*(endpoint.ask(text) for _ in range(3)))
    assert [codes(answer.json()) for answer in answers] == [[code]] * 3
    begun.clear()
    gone = asyncio.create_task(endpoint.ask(text))
    await begun.wait()
    gone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gone


async def test_a_new_document_that_never_has_its_turn_is_overload_and_known_ones_go_on(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(documents, "TURN_WITHIN_SECONDS", 0.1)
    endpoint = Endpoint(ledger)
    owner = await new_owner(ledger, gold=7)
    known = {"data": {"balance": {"amount": "7"}}}
    assert (await endpoint.ask(BALANCE, variables={"o": owner})).json() == known
    async with endpoint.documents._short_turns.turn(10):
        late = await endpoint.ask(OPEN, variables={"o": new_owner_id()})
        assert (await endpoint.ask(BALANCE, variables={"o": owner})).json() == known
    assert (late.status_code, codes(late.json()), late.headers["retry-after"]) == (200, ["OVERLOADED"], "1")
    opened = (await endpoint.ask(OPEN, variables={"o": new_owner_id()})).json()
    assert opened == {"data": {"openWallet": {"__typename": "OpenWalletPayload"}}}


async def test_a_service_closes_although_its_database_is_silent(settings: Settings) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        async with open_through_proxy(settings, flow_at_end=False) as (service, proxy):
            await new_owner(service)
            proxy.stall()
