import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import httpx
import pytest
from conftest import Served, environment

from wallet_gql.graphql import playground
from wallet_gql.settings import Settings

TABS: Final[list[dict[str, Any]]] = json.loads(
    (Path(playground.__file__).parent / "graphiql" / "tabs.json").read_text()
)


@pytest.fixture(scope="module")
def demo(serve: Callable[..., Served], new_database: Callable[[str], Settings]) -> Served:
    """A server on demo data, as `make run` starts it."""
    return serve(environment(new_database("tabs")), "--demo")


async def play(demo: Served, tab: dict[str, Any]) -> Any:
    """Press Play, as the page does: with a fresh key for each tab."""
    variables = json.loads(json.dumps(tab["variables"]).replace("$FRESH_UUID", str(uuid4())))
    async with httpx.AsyncClient() as client:
        response = await client.post(demo.url, json={"query": "\n".join(tab["query"]), "variables": variables})
    answer = response.json()
    assert response.status_code == 200
    assert "errors" not in answer
    return answer["data"]


async def test_tabs_played_in_their_order_tell_what_they_promise(demo: Served) -> None:
    balance, top_up, bonus, spend, history = [await play(demo, tab) for tab in TABS]

    assert balance["balance"]["amount"] == "799"
    assert (top_up["topUp"]["__typename"], top_up["topUp"]["balance"]["amount"]) == ("TopUpPayload", "899")
    assert (bonus["bonus"]["__typename"], bonus["bonus"]["balance"]["amount"]) == ("BonusPayload", "924")
    assert (spend["spend"]["__typename"], spend["spend"]["balance"]["amount"]) == ("SpendPayload", "894")
    assert [node["amount"] for node in history["transactions"]["nodes"]] == ["30", "25", "100", "799"]


@pytest.mark.parametrize("tab", TABS, ids=[tab["query"][0].removeprefix("# ") for tab in TABS])
async def test_tab_can_be_played_again(demo: Served, tab: dict[str, Any]) -> None:
    for _ in range(2):
        (answer,) = (await play(demo, tab)).values()
        assert answer.get("__typename", "Payload").endswith("Payload")
