"""What clients may say of lots: ends, priorities, campaigns, and which credits a request takes."""

from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from lots import ASSET, Player, Service, document, in_test_mode, service, uses

from wallet_gql.graphql.scalars import format_datetime
from wallet_gql.operations.assets import add_asset
from wallet_gql.operations.proof import prove
from wallet_gql.settings import Settings

YEARS_10 = 3653


@pytest.fixture(scope="module")
def clocked(new_database: Callable[..., Settings]) -> Settings:
    return in_test_mode(new_database, "lot_requests")


@pytest.fixture
async def served_lots(clocked: Settings) -> AsyncIterator[Service]:
    async with service(clocked) as served:
        yield served
    assert (await prove(clocked)).findings == []


async def same_again(player: Player, verb: str, amount: int, **asked: Any) -> None:
    """Ask twice with the same key, and compare: a refusal is kept."""
    key = str(uuid4())
    first, second = [await player.ask(verb, amount, idempotencyKey=key, **asked) for _ in range(2)]
    assert second == {**first, "alreadyProcessed": True}


async def test_an_end_that_cannot_be(served_lots: Service) -> None:
    player, now = await served_lots.player(), await served_lots.now()
    far = now + timedelta(days=YEARS_10, minutes=10)
    for at, fault in ((now, "IN_THE_PAST"), (now - timedelta(days=400), "IN_THE_PAST"), (far, "TOO_FAR")):
        asked = {"expiresAt": format_datetime(at), "idempotencyKey": str(uuid4())}
        first = await player.ask("bonus", 5, **asked)
        assert (first.pop("message") != "", first) == (
            True,
            {
                "__typename": "InvalidExpiry",
                "code": "INVALID_EXPIRY",
                "retryable": False,
                "alreadyProcessed": False,
                "fault": fault,
            },
        )
        assert (await player.ask("bonus", 5, **asked))["alreadyProcessed"]
    assert await player.history() == []
    assert (await player.ask("bonus", 5, expiresAt=format_datetime(far - timedelta(minutes=20))))["transaction"]


@pytest.mark.parametrize("terms", ["expiresAt", "priority", "campaign"])
async def test_an_asset_without_lots_takes_no_terms(served_lots: Service, terms: str) -> None:
    player = await served_lots.player()
    await add_asset(served_lots.ledger, "COINS", "Coins", 0)
    given: Any = {"expiresAt": format_datetime(await served_lots.in_days(1)), "priority": 10, "campaign": "x"}[terms]
    refused = await player.ask("bonus", 5, asset="COINS", **{terms: given})
    assert (refused["__typename"], refused["fault"]) == ("InvalidExpiry", "LOTS_OFF")
    await same_again(player, "bonus", 5, asset="COINS", **{terms: given})
    # What is said of itself anyway says nothing.
    assert (await player.ask("bonus", 5, asset="COINS", priority=50))["__typename"] == "BonusPayload"


async def test_a_refund_s_new_end_is_judged_likewise(served_lots: Service) -> None:
    player = await served_lots.player()
    await player.grant(10, await served_lots.in_days(1))
    spend = (await player.do("spend", 5))["transaction"]
    for days, fault in ((-1, "IN_THE_PAST"), (YEARS_10 + 1, "TOO_FAR")):
        until = format_datetime(await served_lots.in_days(days))
        refused = await player.ask("refund", transactionId=spend["id"], lapsedUntil=until)
        assert (refused["__typename"], refused["fault"]) == ("InvalidExpiry", fault)


async def test_a_bonus_replays_after_its_end(served_lots: Service) -> None:
    player = await served_lots.player()
    asked = {"expiresAt": format_datetime(await served_lots.in_days(1)), "idempotencyKey": str(uuid4())}
    first = await player.do("bonus", 5, **asked)
    await served_lots.wait(2)
    same = await player.do("bonus", 5, **asked)
    assert same["alreadyProcessed"]
    assert same["transaction"] == first["transaction"]
    assert (await player.balance())["amount"] == 0


async def test_what_a_key_means(served_lots: Service) -> None:
    """What is left out and what that means are one request; anything else is another."""
    player = await served_lots.player()
    end = await served_lots.in_days(1)
    key = str(uuid4())
    asked: dict[str, Any] = {"expiresAt": format_datetime(end), "idempotencyKey": key}
    await player.do("bonus", 5, **asked)
    local = end.isoformat().replace("+00:00", "-00:00")
    for more in ({"priority": 50}, {"campaign": None}, {"expiresAt": local}):
        assert (await player.do("bonus", 5, **{**asked, **more}))["alreadyProcessed"]
    later = format_datetime(end + timedelta(microseconds=1))
    for more in ({"priority": 49}, {"campaign": "x"}, {"expiresAt": None}, {"expiresAt": later}):
        assert (await player.ask("bonus", 5, **{**asked, **more}))["__typename"] == "IdempotencyKeyReused"


async def bad_input(player: Player, verb: str, **asked: Any) -> tuple[str, str]:
    """Ask for what cannot be meant; returns the error's field and what it says."""
    asked = {"ownerId": player.owner, "asset": ASSET, "amount": 5, "idempotencyKey": str(uuid4()), **asked}
    answer = await player.client.post("/graphql", json={"query": document(verb), "variables": {"input": asked}})
    (error,) = answer.json()["errors"]
    assert error["extensions"]["code"] == "BAD_USER_INPUT", error
    return error["extensions"]["field"], error["message"]


async def test_priorities_and_campaigns_have_bounds(served_lots: Service) -> None:
    player = await served_lots.player()
    for priority in (-1, 101):
        assert await bad_input(player, "bonus", priority=priority) == (
            "priority", f"priority is {priority}: send 0, which is spent first, to 100.",
        )  # fmt: skip
    for campaign in ("", "x" * 101):
        assert (await bad_input(player, "bonus", campaign=campaign))[0] == "campaign"
    assert await player.history() == []
    kept = [await player.grant(1, priority=n, campaign="é" * length) for n, length in ((0, 1), (100, 100))]
    assert [(lot["priority"], lot["campaign"]) for lot in [await player.lot(each) for each in kept]] == [
        (0, "é"), (100, "é" * 100),
    ]  # fmt: skip


async def test_sources_narrow_what_is_taken(served_lots: Service) -> None:
    player = await served_lots.player()
    await player.do("topUp", 50)
    lot = await player.grant(30, await served_lots.in_days(3))
    receiver = await served_lots.player()
    refused = await player.ask("spend", 51, sources=["PURCHASED"])
    assert (refused["__typename"], refused["available"], refused["required"]) == ("InsufficientBalance", "50", "51")
    refused = await player.ask("spend", 31, sources=["BONUS"])
    assert (refused["__typename"], refused["available"]) == ("InsufficientBalance", "30")
    assert uses((await player.do("spend", 1, sources=["BONUS", "BONUS"]))["transaction"]) == [(lot, 1)]
    assert uses((await player.do("spend", 1, sources=["PURCHASED"]))["transaction"]) == [(None, 1)]
    sent = await player.do("transfer", 2, toOwnerId=receiver.owner, sources=["PURCHASED"])
    assert uses(sent["transaction"]) == [(None, 2)]
    hold = await player.hold(3, sources=["PURCHASED"])
    assert await player.remaining() == [(29, 0)]
    assert uses((await player.do("captureHold", holdId=hold["id"]))["transaction"]) == [(None, 3)]
    assert await receiver.balance() == {"amount": 2, "available": 2, "held": 0, "lapsed": 0}
    assert await receiver.lots() == []


async def test_both_sources_are_none(served_lots: Service) -> None:
    player = await served_lots.player()
    await player.do("topUp", 50)
    await player.grant(30)
    for verb in ("spend", "placeHold"):
        key = str(uuid4())
        first = await player.do(verb, 5, idempotencyKey=key)
        for sources in (None, ["PURCHASED", "BONUS"], ["BONUS", "PURCHASED", "BONUS"]):
            same = await player.do(verb, 5, idempotencyKey=key, sources=sources)
            assert same == {**first, "alreadyProcessed": True}
        for one in ("PURCHASED", "BONUS"):
            reused = await player.ask(verb, 5, idempotencyKey=key, sources=[one])
            assert reused["__typename"] == "IdempotencyKeyReused"


@pytest.mark.parametrize("verb", ["spend", "placeHold"])
async def test_no_source_at_all_is_no_request(served_lots: Service, verb: str) -> None:
    player = await served_lots.player()
    told = ("sources", "sources is empty: name one, or leave it out to take from all.")
    assert await bad_input(player, verb, sources=[]) == told
