"""Who sets limits, of whose wallets, and who is told by whom they were set."""

from collections.abc import AsyncIterator, Callable
from decimal import Decimal
from typing import Any, Final
from uuid import uuid4

import asyncpg
import httpx
import pytest
from callers import Callers, Owned, codes, open_callers
from conftest import plain

from wallet_gql.domain.access import ALL_SCOPES, COMMAND_LINE, ActorKind, Scope
from wallet_gql.domain.limits import Enforcement, LimitFlow, LimitsSet
from wallet_gql.graphql import ids
from wallet_gql.operations.limits import LimitInput, rolling, set_limit
from wallet_gql.operations.proof import prove
from wallet_gql.settings import Settings

pytestmark = pytest.mark.anyio

SHOWN: Final = "id appliesTo flow maxAmount setBy { kind name }"
SET: Final = f"""mutation ($i: SetLimitInput!) {{ setLimit(input: $i) {{
  __typename ... on SetLimitPayload {{ alreadyProcessed rule {{ {SHOWN} }} }} ... on Error {{ code message }}
}} }}"""
REMOVE: Final = f"""mutation ($i: RemoveLimitInput!) {{ removeLimit(input: $i) {{
  __typename ... on RemoveLimitPayload {{ rule {{ {SHOWN} }} }} ... on LimitNotFound {{ code limitId }}
}} }}"""
IN_FORCE: Final = f"query ($o: String, $a: String!) {{ limits(ownerId: $o, asset: $a) {{ {SHOWN} }} }}"
NODE: Final = f"query ($i: ID!) {{ node(id: $i) {{ ... on Limit {{ {SHOWN} }} }} }}"
USES: Final = f"query ($o: String!) {{ wallet(ownerId: $o) {{ limits {{ used rule {{ {SHOWN} }} }} }} }}"
SPEND: Final = f"""mutation ($i: SpendInput!) {{ spend(input: $i) {{
  __typename ... on LimitExceeded {{ used balance {{ amount }} rule {{ {SHOWN} }} }}
}} }}"""

KEYS: Final[dict[str, tuple[frozenset[Scope], dict[str, Any]]]] = {
    "setter": (frozenset({Scope.LIMIT}), {}),
    "reader": (frozenset({Scope.WALLET_READ, Scope.HISTORY_READ, Scope.SPEND}), {}),
    "auditor": (frozenset({Scope.WALLET_READ, Scope.AUDIT}), {}),
    "region": (ALL_SCOPES - {Scope.AUDIT}, {"prefix": "own-"}),
    "bounded": (ALL_SCOPES - {Scope.AUDIT}, {"assets": ["GOLD"]}),
}


@pytest.fixture(scope="module")
def own_settings(new_database: Callable[[str], Settings]) -> Settings:
    """A database in which limits of all wallets are in nobody's way."""
    return new_database("limit_access")


@pytest.fixture(scope="module")
async def everybody(own_settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Callers]:
    async with open_callers(own_settings, tmp_path_factory.mktemp("provider")) as callers:
        for name, (scopes, more) in KEYS.items():
            await callers.add_key(name, scopes, **more)
        yield callers


@pytest.fixture
async def callers(everybody: Callers, own_settings: Settings) -> AsyncIterator[Callers]:
    yield everybody
    for limit in (await everybody.data("operator", IN_FORCE, o=None, a="GOLD"))["limits"]:
        await remove(everybody, "operator", limit["id"])
    assert (await prove(own_settings)).findings == []


@pytest.fixture
async def mine(callers: Callers) -> Owned:
    mine = await callers.owner("own")
    callers.add_person("player", mine.owner_id, ALL_SCOPES)
    return mine


@pytest.fixture
async def other(callers: Callers) -> Owned:
    return await callers.owner("other")


def given(owner: str | None, **fields: Any) -> dict[str, Any]:
    window = {"rollingSeconds": 3600}
    common = {"flow": "SPEND", "window": window, "maxAmount": "30", "idempotencyKey": str(uuid4())}
    return common | ({} if owner is None else {"ownerId": owner}) | fields


async def set_by(callers: Callers, caller: str, owner: str | None, **fields: Any) -> dict[str, Any]:
    """Set a limit as a caller, and return it as it is told."""
    answer = (await callers.data(caller, SET, i=given(owner, **fields)))["setLimit"]
    assert answer["__typename"] == "SetLimitPayload", answer
    rule: dict[str, Any] = answer["rule"]
    return rule


async def remove(callers: Callers, caller: str, limit_id: str) -> dict[str, Any]:
    asked = {"limitId": limit_id, "idempotencyKey": str(uuid4())}
    answer: dict[str, Any] = (await callers.data(caller, REMOVE, i=asked))["removeLimit"]
    return answer


async def forbidden(callers: Callers, caller: str, text: str, **variables: Any) -> dict[str, Any]:
    """Ask for what the caller may not; returns the error."""
    answer = await callers.ask(caller, text, **variables)
    assert codes(answer) == ["FORBIDDEN"], answer.text
    error: dict[str, Any] = answer.json()["errors"][0]
    return error


async def shown_by_id(callers: Callers, caller: str, limit_id: str) -> dict[str, Any] | None:
    found: dict[str, Any] | None = (await callers.data(caller, NODE, i=limit_id))["node"]
    return found


async def test_a_scope_of_its_own(callers: Callers, mine: Owned) -> None:
    assert (await set_by(callers, "setter", mine.owner_id))["appliesTo"] == mine.owner_id
    for_all = await set_by(callers, "setter", None)
    assert for_all["appliesTo"] is None
    for caller in ("reader", "auditor", "player"):
        for text, asked in ((SET, given(mine.owner_id)), (REMOVE, {"limitId": for_all["id"], **key()})):
            answer, statements = await callers.cost(caller, text, i=asked)
            assert (answer.status_code, codes(answer), statements) == (403, ["FORBIDDEN"], [])
            assert "limit:write" in answer.text
    # It is for nothing else.
    for text in (USES, "query ($o: String!) { limits(ownerId: $o) { id } }"):
        await forbidden(callers, "setter", text, o=mine.owner_id)
    assert (await forbidden(callers, "setter", NODE, i=for_all["id"]))["message"].startswith("A Limit is for callers")
    assert (await remove(callers, "setter", for_all["id"]))["rule"] == for_all


def key() -> dict[str, str]:
    return {"idempotencyKey": str(uuid4())}


async def test_a_key_of_some_owners_limits_no_others(callers: Callers, mine: Owned, other: Owned) -> None:
    for_all, of_other = await set_by(callers, "operator", None), await set_by(callers, "operator", other.owner_id)
    own = await set_by(callers, "region", mine.owner_id, maxAmount="40")
    # Who names another owner, there or not, is refused before anything is read.
    for owner in (other.owner_id, "nobody"):
        answer, statements = await callers.cost("region", SET, i=given(owner))
        assert (answer.status_code, codes(answer), statements) == (403, ["FORBIDDEN"], [])
        await forbidden(callers, "region", IN_FORCE, o=owner, a="GOLD")
    error = await forbidden(callers, "region", SET, i=given(None))
    assert error["extensions"]["field"] == "ownerId"
    assert error["message"] == "A limit for all wallets is for callers who reach all of them: name one owner."
    error = await forbidden(callers, "region", REMOVE, i={"limitId": for_all["id"], **key()})
    assert error["extensions"]["field"] == "ownerId"
    told = {"__typename": "LimitNotFound", "code": "LIMIT_NOT_FOUND", "limitId": of_other["id"]}
    assert await remove(callers, "region", of_other["id"]) == told
    assert await shown_by_id(callers, "region", of_other["id"]) is None
    # What holds for its owners it sees, though not by whom it was set.
    hidden = for_all | {"setBy": None}
    assert await shown_by_id(callers, "region", for_all["id"]) == hidden
    assert (await callers.data("region", IN_FORCE, o=None, a="GOLD"))["limits"] == [hidden]
    assert (await callers.data("region", IN_FORCE, o=mine.owner_id, a="GOLD"))["limits"] == [own]
    assert (await remove(callers, "region", own["id"]))["rule"] == own
    # And nothing of all that was done.
    assert (await callers.data("operator", IN_FORCE, o=None, a="GOLD"))["limits"] == [for_all]
    assert (await callers.data("operator", IN_FORCE, o=other.owner_id, a="GOLD"))["limits"] == [of_other]


async def test_a_key_of_some_assets_limits_no_others(callers: Callers, mine: Owned) -> None:
    points = await set_by(callers, "operator", mine.owner_id, asset="POINTS")
    for owner in (mine.owner_id, None):
        for asset in ("POINTS", "NOPE"):
            error = await forbidden(callers, "bounded", SET, i=given(owner, asset=asset))
            assert error["extensions"]["field"] == "asset"
            assert error["message"] == "asset is not one of GOLD, which your key is for."
    error = await forbidden(callers, "bounded", REMOVE, i={"limitId": points["id"], **key()})
    assert error["extensions"]["field"] == "asset"
    # It reads them all the same, and sets those of its own.
    assert await shown_by_id(callers, "bounded", points["id"]) == points | {"setBy": None}
    rules = [await set_by(callers, "bounded", owner) for owner in (mine.owner_id, None)]
    for rule in rules:
        assert (await remove(callers, "bounded", rule["id"]))["rule"] == rule
    assert (await callers.data("operator", IN_FORCE, o=mine.owner_id, a="POINTS"))["limits"] == [points]


async def test_what_was_forbidden_leaves_the_key_free(callers: Callers, mine: Owned) -> None:
    asked = given(None)
    await forbidden(callers, "region", SET, i=asked)
    answer = (await callers.data("operator", SET, i=asked))["setLimit"]
    assert (answer["__typename"], answer["alreadyProcessed"]) == ("SetLimitPayload", False)
    asked = given(mine.owner_id, asset="POINTS")
    await forbidden(callers, "bounded", SET, i=asked)
    assert (await callers.data("region", SET, i=asked))["setLimit"]["alreadyProcessed"] is False


async def test_by_whom_it_was_set_is_for_those_and_for_auditors(callers: Callers, mine: Owned) -> None:
    async def seen(caller: str, limit_id: str) -> Any:
        found = await shown_by_id(callers, caller, limit_id)
        assert found is not None
        return found["setBy"]

    by = {name: {"kind": "API_KEY", "name": name} for name in ("region", "bounded", "setter", "operator")}
    versions = {
        name: await set_by(callers, name, mine.owner_id, maxAmount=most)
        for most, name in (("30", "region"), ("40", "bounded"), ("50", "setter"))
    }
    for name, rule in versions.items():
        # Each is told of its own, in the payload too.
        assert rule["setBy"] == by[name]
        for auditor in ("auditor", "operator"):
            assert await seen(auditor, rule["id"]) == by[name]
        for reader in ("reader", "player"):
            assert await seen(reader, rule["id"]) is None
        for reader in ("region", "bounded"):
            assert await seen(reader, rule["id"]) == (by[name] if reader == name else None)
    # Wherever it is shown.
    [use] = (await callers.data("auditor", USES, o=mine.owner_id))["wallet"]["limits"]
    assert use["rule"]["setBy"] == by["setter"]
    [use] = (await callers.data("player", USES, o=mine.owner_id))["wallet"]["limits"]
    assert use["rule"]["setBy"] is None
    refused = await spend(callers, "player", mine.owner_id, 51)
    assert (refused["__typename"], refused["rule"]["setBy"]) == ("LimitExceeded", None)
    # Who removes what another set is not told by whom that was.
    removed = (await remove(callers, "region", versions["setter"]["id"]))["rule"]
    assert removed == versions["setter"] | {"setBy": None}


async def spend(callers: Callers, caller: str, owner: str, amount: int) -> dict[str, Any]:
    asked = {"ownerId": owner, "amount": amount, **key()}
    answer: dict[str, Any] = (await callers.data(caller, SPEND, i=asked))["spend"]
    return answer


async def test_what_the_operator_set_by_command(callers: Callers, mine: Owned) -> None:
    asked = LimitInput(
        "GOLD", mine.owner_id, LimitFlow.IN, rolling(60), Decimal(5), None, Enforcement.REFUSE, uuid4(),
        asked_by=COMMAND_LINE,
    )  # fmt: skip
    outcome = await set_limit(callers.ledger, asked)
    assert isinstance(outcome, LimitsSet)
    assert outcome.rule is not None
    id_ = ids.limit_id(outcome.rule.name)
    told = await shown_by_id(callers, "auditor", id_)
    assert told is not None
    assert told["setBy"] == {"kind": "OPERATOR", "name": COMMAND_LINE.name}
    assert (await shown_by_id(callers, "bounded", id_)) == told | {"setBy": None}


async def test_a_person_sees_its_own(callers: Callers, mine: Owned, other: Owned) -> None:
    for_all, of_other = await set_by(callers, "operator", None), await set_by(callers, "operator", other.owner_id)
    own = await set_by(callers, "operator", mine.owner_id, flow="OUT")
    assert "limit:write" not in (await callers.data("player", "{ viewer { scopes } }"))["viewer"]["scopes"]
    hidden, hidden_own = for_all | {"setBy": None}, own | {"setBy": None}
    uses = (await callers.data("player", USES, o=mine.owner_id))["wallet"]["limits"]
    assert [use["rule"] for use in uses] == [hidden, hidden_own]
    # It spent 9, and 9 are held.
    assert [use["used"] for use in uses] == ["18", "18"]
    assert (await callers.data("player", IN_FORCE, o=mine.owner_id, a="GOLD"))["limits"] == [hidden_own]
    assert (await callers.data("player", IN_FORCE, o=None, a="GOLD"))["limits"] == [hidden]
    assert await shown_by_id(callers, "player", for_all["id"]) == hidden
    assert await shown_by_id(callers, "player", own["id"]) == hidden_own
    assert await shown_by_id(callers, "player", of_other["id"]) is None
    for text, variables in ((IN_FORCE, {"o": other.owner_id, "a": "GOLD"}), (USES, {"o": other.owner_id})):
        answer: httpx.Response = await callers.ask("player", text, **variables)
        assert (answer.status_code, codes(answer)) == (403, ["FORBIDDEN"])
    refused = await spend(callers, "player", mine.owner_id, 13)
    assert refused == {
        "__typename": "LimitExceeded", "used": "18", "balance": {"amount": "991"}, "rule": hidden,
    }  # fmt: skip


async def test_who_asked_is_kept(callers: Callers, mine: Owned, own_settings: Settings) -> None:
    headers = callers.headers["setter"] | {"x-request-id": "r-17"}
    body = {"query": SET, "variables": {"i": given(mine.owner_id)}}
    rule = (await callers.client.post("/graphql", json=body, headers=headers)).json()["data"]["setLimit"]["rule"]
    await remove(callers, "region", rule["id"])
    shard, wallet, asset, step = ids.decode(rule["id"]).parts
    connection = await asyncpg.connect(plain(own_settings.server_url().render_as_string(hide_password=False)))
    rows = await connection.fetch(
        "SELECT actor_kind, actor_name, request_id FROM limit_rule"
        " WHERE (shard, wallet_id, asset_id) = ($1, $2, $3) AND step >= $4 ORDER BY step",
        shard,
        wallet,
        asset,
        step,
    )
    await connection.close()
    assert [(row[0], row[1]) for row in rows] == [(ActorKind.API_KEY, "setter"), (ActorKind.API_KEY, "region")]
    assert all(row["request_id"] for row in rows)
