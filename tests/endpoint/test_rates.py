"""What a caller may ask for in a while: refused with when to come back, and nobody else notices."""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from callers import Callers, open_callers
from factories import new_owner
from identity import Identity
from pydantic import SecretStr
from watched import endpoint_of, statements_of

from wallet_gql.db.engine import close, create_engine
from wallet_gql.domain.access import ALL_SCOPES, ANYONE, Budget
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


async def test_a_budget_that_is_used_up_is_told_with_when_to_come_back(ledger: Ledger, settings: Settings) -> None:
    owner, headers = await new_owner(ledger, gold=100), await key(settings)
    async with endpoint_of(ledger) as client:
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
        assert "The operation costs 10 points" in body["errors"][0]["message"]
        seconds = body["errors"][0]["extensions"]["retryAfterSeconds"]
        assert 1 <= seconds <= 10
        assert refused.headers["retry-after"] == str(seconds)
        assert refused.headers["ratelimit"].startswith('"points";r=')
        cost = body["extensions"]["cost"]
        assert (cost["requested"], cost["actual"], cost["limit"], cost["restoreRate"]) == (10, 0, 40, 1)
        assert 0 <= cost["remaining"] < 10
        # Others have budgets of their own.
        assert (await spend(client, await key(settings), owner)).status_code == 200


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
        assert cost["requested"] > 200
        assert cost["actual"] == 5
        assert cost["remaining"] == 995


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
