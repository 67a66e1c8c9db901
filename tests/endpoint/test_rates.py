"""What a caller may ask for in a while: refused with when to come back, and nobody else notices."""

import asyncio
import re
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from api import Endpoint
from callers import Callers, open_callers
from factories import new_owner
from identity import Identity
from pydantic import SecretStr
from watched import endpoint_of, statements_of

from wallet_gql.db.engine import close, create_engine
from wallet_gql.domain.access import ALL_SCOPES, ANYONE, Budget
from wallet_gql.graphql.ids import wallet_id
from wallet_gql.operations import api_keys, rates
from wallet_gql.operations.api_keys import KeyInput
from wallet_gql.operations.opening import Ledger, open_ledger
from wallet_gql.operations.rates import Rates
from wallet_gql.settings import Settings

pytestmark = pytest.mark.anyio

SPEND = "mutation ($i: SpendInput!) { spend(input: $i) { __typename } }"
BALANCE = "query ($o: String!) { balance(ownerId: $o) { amount } }"


@pytest.fixture
async def ledger(settings: Settings) -> AsyncIterator[Ledger]:
    async with open_ledger(
        settings.model_copy(update={"access": "closed", "rate_burst": 40, "rate_per_second": 1})
    ) as it:
        yield it


async def key(settings: Settings, **more: Any) -> dict[str, str]:
    engine = create_engine(settings, settings.owner_url())
    text = await api_keys.create_key(engine, "live", KeyInput("caller", sorted(ALL_SCOPES), **more))
    await close(engine)
    return {"authorization": f"Bearer {text}", "x-graphql-cost": "1"}


async def spend(client: httpx.AsyncClient, headers: dict[str, str], owner: str) -> httpx.Response:
    given = {"ownerId": owner, "amount": "1", "idempotencyKey": str(uuid4())}
    return await client.post("/graphql", json={"query": SPEND, "variables": {"i": given}}, headers=headers)


@pytest.fixture
def frozen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no budget fill up."""
    now = int(time.time())
    monkeypatch.setattr("throttled.utils.now_sec", lambda: now)


@pytest.mark.usefixtures("frozen")
async def test_a_budget_that_is_used_up_is_told_with_when_to_come_back(ledger: Ledger, settings: Settings) -> None:
    owner, headers = await new_owner(ledger, gold=100), await key(settings)
    async with endpoint_of(ledger) as client:
        # Another caller has the document prepared.
        await spend(client, await key(settings), owner)
        answers = [await spend(client, headers, owner) for _ in range(4)]
        assert [answer.status_code for answer in answers] == [200] * 4
        assert [answer.json()["extensions"]["cost"]["requested"] for answer in answers] == [10] * 4
        assert answers[0].headers["ratelimit-policy"] == '"points";q=40;w=40'
        assert answers[0].headers["ratelimit"] == '"points";r=30;t=10'
        with statements_of(ledger) as statements:
            refused = await spend(client, headers, owner)
        assert statements == []
        assert refused.status_code == 429
        body = refused.json()
        assert "data" not in body
        assert body["errors"][0]["extensions"]["code"] == "RATE_LIMITED"
        assert body["errors"][0]["extensions"]["retryAfterSeconds"] == 1
        assert body["errors"][0]["message"] == (
            "Your budget has 0 points, and this needs 1: send it again in 1 s, or ask for less."
        )
        assert refused.headers["retry-after"] == "1"
        assert refused.headers["ratelimit"].startswith('"points";r=')
        cost = body["extensions"]["cost"]
        assert cost == {"requested": 1, "actual": 0, "limit": 40, "remaining": 0, "restoreRate": 1}
        # Others have budgets of their own.
        assert (await spend(client, await key(settings), owner)).status_code == 200


async def ask(endpoint: Endpoint, headers: dict[str, str], query: str) -> tuple[int, int | None]:
    """Return an answer's status, and how many points its caller has left."""
    async with httpx.AsyncClient(transport=httpx.ASGITransport(endpoint), base_url="http://wallet.test") as client:
        answer = await client.post("/graphql", json={"query": query}, headers=headers)
    left = re.search("r=([0-9]+)", answer.headers.get("ratelimit", ""))
    return answer.status_code, None if left is None else int(left[1])


@pytest.mark.usefixtures("frozen")
async def test_a_text_that_has_to_be_prepared_costs_points_valid_or_not(ledger: Ledger, settings: Settings) -> None:
    headers, endpoint = await key(settings), Endpoint(ledger)
    assert await ask(endpoint, headers, "{ __typename }") == (200, 40 - 1 - 1)
    assert await ask(endpoint, headers, "{ __typename }") == (200, 38 - 1)
    for invalid, points in (("{ rubbish }", 1), ("{", 1), ("{ rubbish }", 1), ("{ rubbish } #" + "x" * 2000, 3)):
        before = (await ask(endpoint, headers, "{ __typename }"))[1]
        assert before is not None
        assert (await ask(endpoint, headers, invalid))[1] == before - points


@pytest.mark.usefixtures("frozen")
async def test_who_has_no_points_left_has_nothing_prepared(ledger: Ledger, settings: Settings) -> None:
    headers, endpoint = await key(settings), Endpoint(ledger)
    left: int | None = 40
    while left:
        left = (await ask(endpoint, headers, f"{{ rubbish{left} }}"))[1]
    prepared = len(endpoint.prepared)
    assert prepared == 40
    for query in ("{ new }", "{ rubbish1 }", "{ __typename }", ""):
        assert await ask(endpoint, headers, query) == (429, 0)
    assert len(endpoint.prepared) == prepared
    # Nor is anything else of the request looked at, and others are served.
    async with endpoint_of(ledger) as client:
        answer = await client.post("/graphql", content=b"rubbish", headers=headers)
        assert answer.status_code == 429
        assert answer.headers["retry-after"] == "1"
    assert (await ask(endpoint, await key(settings), "{ __typename }"))[0] == 200


@pytest.mark.usefixtures("frozen")
async def test_a_text_that_costs_more_than_is_left_is_not_prepared(ledger: Ledger, settings: Settings) -> None:
    headers, endpoint = await key(settings), Endpoint(ledger)
    assert await ask(endpoint, headers, "{ rubbish } #" + "x" * 35_000) == (200, 4)
    assert await ask(endpoint, headers, "{ rubbish } #" + "x" * 4_000) == (429, 4)
    # No budget of 40 ever has 51.
    assert await ask(endpoint, headers, "{ rubbish } #" + "x" * 50_000) == (200, None)
    assert len(endpoint.prepared) == 1


async def test_a_document_that_is_kept_asks_no_store_for_points_at_hand(ledger: Ledger, settings: Settings) -> None:
    headers = await key(settings, rate_burst=1000, rate_per_second=1)
    endpoint, asked = Endpoint(ledger), []
    await ask(endpoint, headers, "{ __typename }")
    limit = ledger.callers.rates._limit

    async def counted(key: str, budget: Budget, points: int) -> Any:
        asked.append(points)
        return await limit(key, budget, points)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ledger.callers.rates, "_limit", counted)
        for _ in range(8):
            assert (await ask(endpoint, headers, "{ __typename }"))[0] == 200
    assert asked == []


async def test_a_key_may_have_a_budget_of_its_own(ledger: Ledger, settings: Settings) -> None:
    owner, headers = await new_owner(ledger, gold=100), await key(settings, rate_burst=1000, rate_per_second=500)
    async with endpoint_of(ledger) as client:
        answers = [await spend(client, headers, owner) for _ in range(8)]
    assert {answer.status_code for answer in answers} == {200}
    assert answers[0].headers["ratelimit-policy"] == '"points";q=1000;w=2'


async def test_what_an_answer_did_not_need_is_given_back(ledger: Ledger, settings: Settings) -> None:
    owner, headers = await new_owner(ledger, gold=1), await key(settings, rate_burst=1000, rate_per_second=1)
    query = "query ($o: String!, $n: Int!) { transactions(ownerId: $o, first: $n) { nodes { id amount } } }"
    async with endpoint_of(ledger) as client:
        given = {"query": query, "variables": {"o": owner, "n": 100}}
        cost = (await client.post("/graphql", json=given, headers=headers)).json()["extensions"]["cost"]
        # Rows that were asked for count, whether there are so many; what would be told of them does not.
        assert (cost["requested"], cost["actual"]) == (1 + 100 * 3, 4 + 100)
        assert cost["remaining"] == 1000 - 1 - cost["actual"]


async def cost_of(client: httpx.AsyncClient, headers: dict[str, str], query: str, **variables: Any) -> dict[str, int]:
    answer = await client.post("/graphql", json={"query": query, "variables": variables}, headers=headers)
    assert answer.status_code == 200, answer.text
    cost: dict[str, int] = answer.json()["extensions"]["cost"]
    return cost


IDS = [wallet_id(1, 10**9 + n) for n in range(60)]
OWNERS = [f"nobody-{n}" for n in range(60)]


@pytest.mark.parametrize(
    ("query", "given", "expected"),
    [
        ("query ($g: [ID!]!) { nodes(ids: $g) { ... on Wallet { id ownerId } } }", IDS, 1 + 60),
        ("query ($g: [String!]!) { wallets(ownerIds: $g) { id ownerId } }", OWNERS, 1 + 60),
        (
            "query ($g: [String!]!) { wallets(ownerIds: $g) { transactions(first: 2) { nodes { id } } } }",
            OWNERS,
            1 + 60 + 60 * 2,
        ),
        ("query ($g: Int!) { transactions(ownerId: NOBODY, first: $g) { nodes { id amount } } }", 100, 1 + 100),
        ("query ($g: Int!) { transactions(ownerId: NOBODY, first: $g) { nodes { id amount } } }", 1000, 1 + 100),
        ("query ($g: String!) { transactions(ownerId: $g) { nodes { description metadata } } }", "nobody", 1 + 10),
    ],
)
async def test_what_is_looked_for_in_vain_is_not_given_back(
    ledger: Ledger, settings: Settings, query: str, given: object, expected: int
) -> None:
    headers = await key(settings, rate_burst=100_000, rate_per_second=1)
    async with endpoint_of(ledger) as client:
        cost = await cost_of(client, headers, query.replace("NOBODY", '"nobody"'), g=given)
    assert cost["actual"] == expected
    assert cost["requested"] > expected


async def test_what_is_found_pays_for_nothing_that_is_not(ledger: Ledger, settings: Settings) -> None:
    owner, headers = await new_owner(ledger, gold=1), await key(settings, rate_burst=100_000, rate_per_second=1)
    found = " ".join(f"f{n}: balance(ownerId: $o) {{ id amount available held debt }}" for n in range(10))
    missed = 'transactions(ownerId: "nobody", first: 50) { nodes { id amount type } }'
    async with endpoint_of(ledger) as client:
        cost = await cost_of(client, headers, f"query ($o: String!) {{ {found} {missed} }}", o=owner)
    assert cost["actual"] == 10 * 6 + 1 + 50


async def test_what_no_budget_ever_has_is_told_as_such(ledger: Ledger, settings: Settings) -> None:
    owner, headers = await new_owner(ledger), await key(settings)
    query = "query ($o: String!) { transactions(ownerId: $o, first: 100) { nodes { id } } }"
    async with endpoint_of(ledger) as client:
        answer = await client.post("/graphql", json={"query": query, "variables": {"o": owner}}, headers=headers)
    error = answer.json()["errors"][0]
    assert error["extensions"]["code"] == "BAD_USER_INPUT"
    assert "your budget never has more than 40" in error["message"]


async def test_who_needs_no_credentials_has_no_budget(settings: Settings) -> None:
    async with open_ledger(settings.model_copy(update={"rate_burst": 1, "rate_per_second": 1})) as ledger:
        owner = await new_owner(ledger, gold=100)
        async with endpoint_of(ledger) as client:
            answers = [await spend(client, {}, owner) for _ in range(3)]
    assert {answer.status_code for answer in answers} == {200}
    assert "ratelimit" not in answers[0].headers


WHO = "{ viewer { ownerId } }"


async def left(callers: Callers, caller: str) -> int:
    """Return what a caller's budget has, by an operation that costs little."""
    answer = await callers.ask(caller, WHO)
    assert answer.status_code == 200, answer.text
    return int(answer.headers["ratelimit"].partition(";r=")[2].partition(";")[0])


async def test_nobody_spends_the_budget_of_another(settings: Settings, tmp_path: Path) -> None:
    budget = {"rate_burst": 50, "rate_per_second": 1}
    async with open_callers(settings, tmp_path, **budget) as callers:
        key = await callers.add_key("greedy")
        token = callers.add_person("player", "player-1")
        # Whoever is called as another is, or as another's key is, is somebody else.
        callers.add_person("namesake", key[8:16])
        callers.add_person("other", f"key:{key[8:16]}")
        await callers.add_key("twin", name="greedy")
        for _ in range(60):
            await callers.ask("greedy", WHO)
        assert (await callers.ask("greedy", WHO)).status_code == 429
        callers.headers |= {
            f"forger {n}": {"authorization": f"Bearer {text}"}
            for n, text in enumerate(("", key[:16], key[:-1], token[:-8], Identity().token("player-1"), "player-1"))
        }
        for forger in ["outsider", *(name for name in callers.headers if name.startswith("forger"))] * 10:
            assert "ratelimit" not in (await callers.ask(forger, WHO)).headers
        untouched = {name: await left(callers, name) for name in ("operator", "player", "namesake", "other", "twin")}
        assert set(untouched.values()) == {untouched["operator"]}
        assert untouched["operator"] > 40


async def test_tokens_of_one_person_have_one_budget(settings: Settings, tmp_path: Path) -> None:
    async with open_callers(settings, tmp_path, rate_burst=50, rate_per_second=1) as callers:
        callers.add_person("phone", "player-2")
        before = await left(callers, "phone")
        for n in range(10):
            callers.headers["another"] = {"authorization": f"Bearer {callers.identity.token('player-2', jti=str(n))}"}
            await callers.ask("another", WHO)
        assert await left(callers, "phone") <= before - 10


async def test_budgets_fill_up_again(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    caller = replace(ANYONE, budget_id="key:one", budget=Budget(20, 10))
    kept = Rates(settings)
    assert [(await charged(kept, caller)) for _ in range(3)] == [True, True, False]
    later = int(time.time()) + 1
    monkeypatch.setattr("throttled.utils.now_sec", lambda: later)
    assert [(await charged(kept, caller)) for _ in range(2)] == [True, False]


async def charged(kept: Rates, caller: Any) -> bool:
    charge = await kept.charge(caller, 10)
    assert charge is not None
    return not charge.retry_after_seconds


async def test_a_store_that_is_away_leaves_each_worker_with_its_own_budgets(settings: Settings) -> None:
    away = settings.model_copy(update={"rate_url": SecretStr("redis://127.0.0.1:9/0")})
    kept, caller = Rates(away), replace(ANYONE, budget_id="key:one", budget=Budget(20, 1))
    started = asyncio.get_running_loop().time()
    assert [(await charged(kept, caller)) for _ in range(3)] == [True, True, False]
    assert asyncio.get_running_loop().time() - started < 3 * rates.ANSWER_WITHIN_SECONDS
