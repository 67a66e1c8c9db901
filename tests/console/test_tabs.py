from collections.abc import Callable
from decimal import Decimal

import pytest
from conftest import Served, environment
from newcomer import TABS, assert_a_limit_refuses, play, variables_of

from wallet_gql.settings import Settings

WITHOUT_A_TYPE = ("Balance", "History", "Expiring", "Limits")
"""Tabs that ask for no refusal, or for several fields."""


@pytest.fixture(scope="module")
def demo(serve: Callable[..., Served], new_database: Callable[[str], Settings]) -> Served:
    """A server on demo data, as `make run` starts it."""
    return serve(environment(new_database("tabs")), "--demo")


@pytest.mark.parametrize("title", TABS)
async def test_tab_can_be_played_in_any_order_and_again(demo: Served, title: str) -> None:
    if title == "Refund":
        await play(demo.url, "Spend")
    answers = [await play(demo.url, title) for _ in range(2)]
    others = {"Refused": "InsufficientBalance", "Hold": "PlaceHoldPayload", **dict.fromkeys(WITHOUT_A_TYPE)}
    expected = others.get(title, f"{title}Payload")
    assert [answer.get("__typename") for answer in answers] == [expected, expected]


async def test_points_can_be_granted_and_spent_for_ever(demo: Served) -> None:
    for _ in range(5):
        answer = await play(demo.url, "Expiring")
        assert [field["__typename"] for field in answer.values()] == ["BonusPayload", "SpendPayload"]
        assert sum(Decimal(use["amount"]) for use in answer["spend"]["transaction"]["lotUses"]) == 35


async def test_a_limit_is_met_by_each_fresh_player(demo: Served) -> None:
    for _ in range(3):
        variables = variables_of("Limits")
        first, again = [await play(demo.url, "Limits", variables) for _ in range(2)]
        assert_a_limit_refuses(first)
        assert_a_limit_refuses(again)
        for field in ("setLimit", "within", "beyond"):
            assert again[field] == first[field] | {"alreadyProcessed": True}


async def test_wallet_that_is_open_is_told_as_such(demo: Served) -> None:
    await play(demo.url, "OpenWallet")
    assert (await play(demo.url, "OpenWallet"))["alreadyOpen"] is True
