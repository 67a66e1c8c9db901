"""Who posts which items of a batch, for whom; and what a batch costs."""

from collections.abc import AsyncIterator, Callable
from typing import Any, Final
from uuid import uuid4

import pytest
from callers import Callers, Owned, open_callers

from wallet_gql.domain.access import ALL_SCOPES, Scope
from wallet_gql.operations.proof import prove
from wallet_gql.settings import Settings

pytestmark = pytest.mark.anyio

POST: Final = """mutation($items: [PostBatchItemInput!]!) { postBatch(input: {items: $items}) {
  ... on PostBatchPayload { posted results { __typename ... on Error { code } } }
} }"""

KEYS: Final[dict[str, tuple[frozenset[Scope], dict[str, Any]]]] = {
    "giver": (frozenset({Scope.BONUS, Scope.TRANSFER}), {}),
    "reader": (frozenset({Scope.WALLET_READ, Scope.HISTORY_READ}), {}),
    "region": (ALL_SCOPES - {Scope.AUDIT}, {"prefix": "own-"}),
    "bounded": (ALL_SCOPES - {Scope.AUDIT}, {"max_amount": "5"}),
    "poor": (ALL_SCOPES, {"rate_burst": 500, "rate_per_second": 1}),
}


@pytest.fixture(scope="module")
def own_settings(new_database: Callable[[str], Settings]) -> Settings:
    return new_database("batch_access")


@pytest.fixture(scope="module")
async def everybody(own_settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Callers]:
    async with open_callers(own_settings, tmp_path_factory.mktemp("provider")) as callers:
        for name, (scopes, more) in KEYS.items():
            await callers.add_key(name, scopes, **more)
        yield callers


@pytest.fixture
async def callers(everybody: Callers, own_settings: Settings) -> AsyncIterator[Callers]:
    yield everybody
    assert (await prove(own_settings)).findings == []


@pytest.fixture
async def mine(callers: Callers) -> Owned:
    mine = await callers.owner("own")
    callers.add_person("player", mine.owner_id)
    return mine


@pytest.fixture
async def other(callers: Callers) -> Owned:
    return await callers.owner("other")


def given(kind: str, owner: str, amount: int = 1, **more: Any) -> dict[str, Any]:
    name = "fromOwnerId" if kind == "transfer" else "ownerId"
    return {kind: {name: owner, "amount": amount, "idempotencyKey": str(uuid4()), **more}}


async def outcomes(callers: Callers, caller: str, *items: dict[str, Any]) -> list[str]:
    """Return the type of each item's result, or the code of its error."""
    answer = (await callers.ask(caller, POST, items=items)).json()
    results = [each and each["__typename"] for each in answer["data"]["postBatch"]["results"]]
    for error in answer.get("errors", ()):
        results[error["path"][2]] = error["extensions"]["code"]
    return results


async def test_each_item_needs_the_scope_of_its_own_mutation(callers: Callers, mine: Owned, other: Owned) -> None:
    items = (
        given("topUp", mine.owner_id),
        given("bonus", mine.owner_id),
        given("spend", mine.owner_id),
        given("transfer", mine.owner_id, toOwnerId=other.owner_id),
        given("placeHold", mine.owner_id),
        {"voidHold": {"holdId": mine.ids["Hold"], "idempotencyKey": str(uuid4())}},
        {"captureHold": {"holdId": mine.ids["Hold"], "idempotencyKey": str(uuid4())}},
        {"adjustHold": {"holdId": mine.ids["Hold"], "amount": 1, "idempotencyKey": str(uuid4())}},
        {"refund": {"transactionId": mine.ids["Transaction"], "idempotencyKey": str(uuid4())}},
        {"clawback": {"transactionId": mine.ids["Transaction"], "idempotencyKey": str(uuid4()), "description": "Why"}},
    )
    before = await callers.amount(mine.owner_id)
    assert await outcomes(callers, "giver", *items) == [
        "FORBIDDEN", "BonusPayload", "FORBIDDEN", "TransferPayload", *6 * ["FORBIDDEN"],
    ]  # fmt: skip
    assert await callers.amount(mine.owner_id) == before
    answer = (await callers.ask("reader", POST, items=items)).json()
    assert [error["extensions"]["code"] for error in answer["errors"]] == ["FORBIDDEN"]
    assert answer.get("data") is None


@pytest.mark.parametrize("caller", ["region", "player"])
async def test_nobody_posts_for_an_owner_whom_it_does_not_reach(
    callers: Callers, mine: Owned, other: Owned, caller: str
) -> None:
    own, others = [
        (
            given("spend", owner.owner_id),
            given("transfer", owner.owner_id, toOwnerId=mine.owner_id if owner is other else other.owner_id),
        )
        for owner in (mine, other)
    ]
    before = await callers.amount(other.owner_id)
    assert await outcomes(callers, caller, *others, *own) == [
        "FORBIDDEN", "FORBIDDEN", "SpendPayload", "TransferPayload",
    ]  # fmt: skip
    assert int(await callers.amount(other.owner_id)) == int(before) + 1
    # Written out, they are looked at in the same way.
    text = f"""mutation {{ postBatch(input: {{items: [
      {{spend: {{ownerId: "{other.owner_id}", amount: 1, idempotencyKey: "{uuid4()}"}}}}
    ]}}) {{ ... on PostBatchPayload {{ posted results {{ __typename }} }} }} }}"""
    answer = (await callers.ask(caller, text)).json()
    assert answer["data"]["postBatch"] == {"posted": 0, "results": [None]}
    assert answer["errors"][0]["extensions"]["code"] == "FORBIDDEN"


async def test_holds_and_transactions_of_others_are_as_if_there_were_none(
    callers: Callers, mine: Owned, other: Owned
) -> None:
    items = [{"voidHold": {"holdId": owned.ids["Hold"], "idempotencyKey": str(uuid4())}} for owned in (other, mine)] + [
        {"refund": {"transactionId": owned.ids["Transaction"], "idempotencyKey": str(uuid4())}}
        for owned in (other, mine)
    ]
    assert await outcomes(callers, "region", *items) == [
        "HoldNotFound", "VoidHoldPayload", "TransactionNotFound", "RefundPayload",
    ]  # fmt: skip


async def test_a_bound_of_a_key_is_a_bound_of_each_item(callers: Callers, mine: Owned) -> None:
    items = [given("topUp", mine.owner_id, amount) for amount in (5, 6, 5)]
    assert await outcomes(callers, "bounded", *items) == ["TopUpPayload", "FORBIDDEN", "TopUpPayload"]


async def test_each_item_costs_what_its_mutation_costs(callers: Callers, mine: Owned) -> None:
    answer = await callers.ask("poor", POST, items=[given("topUp", mine.owner_id) for _ in range(40)])
    assert answer.json()["data"]["postBatch"]["posted"] == 40
    refused = await callers.ask("poor", POST, items=[given("topUp", mine.owner_id) for _ in range(40)])
    assert refused.status_code == 429
    never = await callers.ask("poor", POST, items=[given("topUp", mine.owner_id) for _ in range(60)])
    assert never.json()["errors"][0]["extensions"]["code"] == "BAD_USER_INPUT"
