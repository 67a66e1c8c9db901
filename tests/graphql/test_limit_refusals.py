"""What exceeds a limit, as clients see it: refused for good with its figures, or only told to the operator."""

from collections.abc import AsyncIterator, Callable
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import uuid4
from zoneinfo import ZoneInfo

import pytest
from factories import gql
from limiting import HOUR, Answer, Economy, Player, economies
from lots import in_test_mode
from structlog.testing import capture_logs
from tables import count_rows

from wallet_gql.domain.money import BALANCE_MINOR_MAX, POSTING_MINOR_MAX
from wallet_gql.domain.shards import shard_of
from wallet_gql.graphql.scalars import format_datetime
from wallet_gql.operations.proof import prove
from wallet_gql.settings import Settings

CASES: Final = [
    ("topUp", "TOP_UP", False),
    ("topUp", "IN", False),
    ("bonus", "BONUS", False),
    ("bonus", "IN", False),
    ("spend", "SPEND", False),
    ("spend", "OUT", False),
    ("transfer", "TRANSFER_OUT", True),
    ("transfer", "OUT", True),
    ("placeHold", "SPEND", False),
    ("placeHold", "TRANSFER_OUT", True),
    ("placeHold", "OUT", False),
    ("placeHold", "OUT", True),
]
"""Mutations, limits that they come under, and whether they name another owner."""

LONG: Final = {"rollingSeconds": 86_400}


@pytest.fixture(scope="module")
def clocked(new_database: Callable[..., Settings]) -> Settings:
    return in_test_mode(new_database, "limit_refusals")


@pytest.fixture(scope="module")
async def serving(clocked: Settings) -> AsyncIterator[Callable[..., Any]]:
    async with economies(clocked) as make:
        yield make


@pytest.fixture
async def make(clocked: Settings, serving: Callable[..., Any]) -> AsyncIterator[Callable[..., Any]]:
    yield serving
    assert (await prove(clocked)).findings == []


@pytest.fixture
async def economy(make: Callable[..., Any]) -> Economy:
    economy: Economy = await make()
    return economy


async def other_of(economy: Economy, *, pays: bool) -> Answer:
    """Return whom a mutation names beside the one who asks: an owner who has an account."""
    return {"toOwnerId": (await economy.player(1)).owner} if pays else {}


async def keeps(player: Player, verb: str, first: Answer) -> None:
    """See that a refusal is told again under its key, whatever has changed."""
    again = await player.ask_again(verb)
    assert {**again, "balance": first["balance"]} == first | {"alreadyProcessed": True}


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


@pytest.mark.parametrize("is_own", [True, False], ids=["of one", "of all"])
@pytest.mark.parametrize(("verb", "flow", "pays"), CASES)
async def test_more_than_a_limit_lets(economy: Economy, verb: str, flow: str, *, pays: bool, is_own: bool) -> None:
    player, other = await economy.player(1000), await other_of(economy, pays=pays)
    rule = await economy.set(flow, 30, player.owner if is_own else None)
    before = await count_rows(economy.served.ledger.settings)
    refused = await player.refused(verb, 31, **other)
    told = {
        "__typename": "LimitExceeded",
        "code": "LIMIT_EXCEEDED",
        "message": "A limit would be exceeded",
        "retryable": False,
        "alreadyProcessed": False,
        "rule": rule,
        "used": "0",
        "usedCount": 0,
        "remaining": "30",
        "remainingCount": None,
        "required": "31",
        "resetsAt": None,
        "balance": {"ownerId": player.owner, "amount": "1000", "available": "1000", "held": "0"},
    }
    assert refused == told
    assert await count_rows(economy.served.ledger.settings) == before._replace(keys=before.keys + 1)
    await keeps(player, verb, refused)
    # What fits passes, and then nothing more.
    await player.do(verb, 30, **other)
    refused = await player.refused(verb, 1, **other)
    figures = {"used": "30", "usedCount": 1, "remaining": "0", "required": "1"}
    assert refused == told | figures | {"resetsAt": refused["resetsAt"], "balance": refused["balance"]}
    assert refused["resetsAt"] is not None


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize(("verb", "flow", "pays"), CASES[::2])
async def test_more_movements_than_a_limit_lets(
    economy: Economy, verb: str, flow: str, *, pays: bool, count: int
) -> None:
    player = await economy.player(1000)
    rule = await economy.set(flow, None, player.owner, maxCount=count)
    other = await other_of(economy, pays=pays)
    for n in range(count):
        [use] = await player.limits()
        most = str(POSTING_MINOR_MAX)
        assert (use["usedCount"], use["remaining"], use["remainingCount"]) == (n, most, count - n)
        await player.do(verb, 5, **other)
    refused = await player.refused(verb, 1, **other)
    assert refused["rule"] == rule
    figures = {"used": str(5 * count), "usedCount": count, "remaining": "0", "remainingCount": 0, "required": "1"}
    assert figures.items() <= refused.items()
    [use] = await player.limits()
    assert (use["remaining"], use["remainingCount"]) == ("0", 0)


@pytest.mark.parametrize("pays", [False, True])
async def test_a_hold_is_raised_above_a_limit(economy: Economy, *, pays: bool) -> None:
    player, other = await economy.player(1000), await other_of(economy, pays=pays)
    rule = await economy.set("TRANSFER_OUT" if pays else "SPEND", 30, player.owner, maxCount=1)
    hold = await player.hold(20, **other)
    refused = await player.refused("adjustHold", 31, holdId=hold)
    assert (refused["rule"], refused["required"], refused["remainingCount"]) == (rule, "11", 0)
    assert (refused["used"], refused["usedCount"], refused["remaining"]) == ("20", 1, "0")
    await keeps(player, "adjustHold", refused)
    # Raised it is still one movement, and lowered it is never refused.
    assert (await player.do("adjustHold", 30, holdId=hold))["hold"]["remaining"] == "30"
    await economy.set("TRANSFER_OUT" if pays else "SPEND", 5, player.owner)
    await player.do("adjustHold", 25, holdId=hold)
    await player.do("adjustHold", holdId=hold, ttlSeconds=60)
    assert (await player.refused("adjustHold", 26, holdId=hold))["remaining"] == "0"


@pytest.mark.parametrize(("verb", "flow", "pays"), [case for case in CASES if case[0] != "placeHold"])
async def test_it_passes_from_when_it_says(economy: Economy, verb: str, flow: str, *, pays: bool) -> None:
    player, other = await economy.player(1000), await other_of(economy, pays=pays)
    await economy.set(flow, 30, player.owner)
    await player.do(verb, 30, **other)
    moved_at = await executed_at(player)
    refused = await player.refused(verb, 1, **other)
    asked = player.asked
    assert moment(refused["resetsAt"]) == moved_at + timedelta(hours=1)
    assert (await player.limits())[0]["resetsAt"] == refused["resetsAt"]
    await economy.wait_until(refused["resetsAt"], before_seconds=60)
    assert (await player.refused(verb, 1, **other))["resetsAt"] == refused["resetsAt"]
    await economy.wait_until(refused["resetsAt"])
    [use] = await player.limits()
    assert (use["used"], use["usedCount"], use["remaining"], use["resetsAt"]) == ("0", 0, "30", None)
    await player.do(verb, 30, **other)
    # A late retry is refused all the same, with the figures of then.
    player.asked = asked
    await keeps(player, verb, refused)


async def executed_at(player: Player) -> datetime:
    """Return when the newest transaction of an owner was."""
    text = """query($o: String!, $a: String!) {
      transactions(ownerId: $o, asset: $a, first: 1) { nodes { executedAt } }
    }"""
    found = await gql(player.economy.client, text, o=player.owner, a=player.economy.asset)
    return moment(found["transactions"]["nodes"][0]["executedAt"])


async def test_how_long_it_takes_is_of_the_amount(economy: Economy) -> None:
    player = await economy.player(1000)
    await economy.set("SPEND", 30, player.owner)
    left_at = []
    for _ in range(3):
        await player.do("spend", 10)
        left_at.append(await executed_at(player) + timedelta(hours=1))
        await economy.wait(600)
    for amount, n in ((1, 0), (10, 0), (11, 1), (20, 1), (21, 2), (30, 2)):
        refused = await player.refused("spend", amount)
        assert moment(refused["resetsAt"]) == left_at[n], amount
        assert refused["remaining"] == "0"
    assert (await player.refused("spend", 31))["resetsAt"] is None
    # What is used is given back first by the oldest.
    assert moment((await player.limits())[0]["resetsAt"]) == left_at[0]
    # And by count.
    await economy.set("SPEND", 1000, player.owner, maxCount=2)
    refused = await player.refused("spend", 1)
    assert (moment(refused["resetsAt"]), refused["usedCount"]) == (left_at[1], 3)


@pytest.mark.parametrize("unit", ["DAY", "WEEK", "MONTH"])
async def test_the_calendar_s_window_ends_at_midnight(economy: Economy, unit: str) -> None:
    player, zone = await economy.player(1000), ZoneInfo("America/New_York")
    calendar = {"unit": unit, "timeZone": zone.key}
    await economy.set("SPEND", 30, player.owner, window={"calendar": calendar})
    await player.do("spend", 30)
    refused = await player.refused("spend", 1)
    resets_at = moment(refused["resetsAt"]).astimezone(zone)
    today = (await executed_at(player)).astimezone(zone)
    assert (resets_at.hour, resets_at.minute, resets_at.second) == (0, 0, 0)
    assert today < resets_at
    assert resets_at.date() - today.date() <= timedelta(days={"DAY": 1, "WEEK": 7, "MONTH": 31}[unit])
    assert {"DAY": True, "WEEK": resets_at.weekday() == 0, "MONTH": resets_at.day == 1}[unit]
    assert (await player.limits())[0]["resetsAt"] == refused["resetsAt"]
    assert (await player.refused("spend", 31))["resetsAt"] is None
    await economy.wait_until(refused["resetsAt"], before_seconds=60)
    assert (await player.refused("spend", 1))["resetsAt"] == refused["resetsAt"]
    await economy.wait_until(refused["resetsAt"])
    await player.do("spend", 30)


async def test_it_passes_when_a_hold_is_over(economy: Economy) -> None:
    player = await economy.player(1000)
    await economy.set("OUT", 30, player.owner)
    await player.do("spend", 5)
    spent_at = await executed_at(player)
    held_until = [
        (await player.do("placeHold", amount, ttlSeconds=60 * minutes))["hold"]["heldUntil"]
        for amount, minutes in ((10, 90), (15, 30))
    ]
    soon = await player.refused("spend", 15)
    assert soon["resetsAt"] == held_until[1]
    assert [(each["used"], each["usedCount"]) for each in (soon, *await player.limits())] == [("30", 3)] * 2
    assert (await player.limits())[0]["resetsAt"] == held_until[1]
    # The spend has left the hour before the other hold is over.
    later = await player.refused("spend", 20)
    assert moment(later["resetsAt"]) == spent_at + timedelta(hours=1)
    assert (await player.refused("spend", 21))["resetsAt"] == held_until[0]
    await economy.wait_until(later["resetsAt"], before_seconds=60)
    assert (await player.refused("spend", 20))["usedCount"] == 2
    await economy.wait_until(later["resetsAt"])
    await player.do("spend", 20)


async def test_the_one_that_lets_the_least_through_is_told(economy: Economy) -> None:
    player = await economy.player(1000)
    hour = await economy.set("SPEND", 30)
    day = await economy.set("SPEND", 50, player.owner, window=LONG)
    assert (await player.refused("spend", 51))["rule"] == hour
    await player.do("spend", 30)
    await economy.wait(3600)
    refused = await player.refused("spend", 51)
    assert (refused["rule"], refused["remaining"]) == (day, "20")
    count = await economy.set("OUT", None, player.owner, maxCount=1, window=LONG)
    refused = await player.refused("spend", 51)
    assert (refused["rule"], refused["remaining"], refused["remainingCount"]) == (count, "0", 0)


async def test_of_several_limits_the_last_one_says_when_it_passes(economy: Economy) -> None:
    player = await economy.player(1000)
    await economy.set("SPEND", 30, player.owner)
    await economy.set("OUT", 40, player.owner, window={"rollingSeconds": 7200})
    await player.do("spend", 30)
    moved_at = await executed_at(player)
    assert moment((await player.refused("spend", 10))["resetsAt"]) == moved_at + timedelta(hours=1)
    refused = await player.refused("spend", 11)
    assert (refused["rule"]["flow"], moment(refused["resetsAt"])) == ("SPEND", moved_at + timedelta(hours=2))
    await economy.wait_until(refused["resetsAt"])
    await player.do("spend", 11)
    # None of them ever lets so much.
    assert (await player.refused("spend", 41))["resetsAt"] is None


async def test_a_refusal_tells_the_version_that_it_was_decided_on(economy: Economy) -> None:
    player = await economy.player(1000)
    for owner in (player.owner, None):
        old = await economy.set("SPEND", 30, owner)
        refused = await player.refused("spend", 31)
        new = await economy.set("SPEND", 40, owner)
        await keeps(player, "spend", refused)
        assert refused["rule"] == old
        await economy.ask_to_remove(new["id"])
        await keeps(player, "spend", refused)
        outcome = await player.outcome()
        assert (outcome["state"], outcome["transaction"], outcome["hold"]) == ("REFUSED", None, None)
        told = {name: value for name, value in refused.items() if name not in {"message", "retryable"}}
        assert outcome["refusal"] == told | {"alreadyProcessed": True}
        # Another attempt, under another key, is none of its business.
        await player.do("spend", 31)
        await economy.wait(3600)


async def test_what_is_used_may_be_above_a_newer_limit(economy: Economy) -> None:
    player = await economy.player(1000)
    await player.do("spend", 30)
    await economy.set("SPEND", 20, player.owner)
    [use] = await player.limits()
    assert (use["used"], use["usedCount"], use["remaining"]) == ("30", 1, "0")
    refused = await player.refused("spend", 1)
    assert (refused["used"], refused["remaining"]) == ("30", "0")
    assert refused["resetsAt"] == use["resetsAt"]


async def test_a_wallet_s_first_movement_is_under_its_limits(economy: Economy) -> None:
    await economy.set("IN", 30)
    player = await economy.player()
    refused = await player.refused("topUp", 31)
    assert (refused["used"], refused["resetsAt"], refused["balance"]["amount"]) == ("0", None, "0")
    await economy.set("BALANCE", 20, player.owner)
    assert (await player.ask("bonus", 21))["limit"] == "20"
    await player.do("topUp", 20)


def warnings(logged: list[Any]) -> list[Answer]:
    return [line for line in logged if line["event"] == "limit_exceeded"]


async def test_what_is_only_warned_of_is_posted_and_logged(economy: Economy) -> None:
    player = await economy.player(1000)
    own = await economy.set("SPEND", 30, player.owner, maxCount=5, enforcement="WARN")
    await economy.set("OUT", 25, enforcement="WARN", window=LONG)
    with capture_logs() as logged:
        await player.do("spend", 20)
        assert warnings(logged) == []
        await player.do("spend", 11)
        await player.ask_again("spend")
        # What is refused did not move.
        assert (await player.ask("spend", 5000))["__typename"] == "InsufficientBalance"
    wallet = {"shard": shard_of(player.owner, economy.served.ledger.shard_count), "asset": economy.asset}
    told = [{name: line[name] for name in line if name not in {"wallet_id", "step"}} for line in warnings(logged)]
    common = {"event": "limit_exceeded", "log_level": "warning", "used_minor": 20, "used_count": 1, "amount_minor": 11}
    assert told == [
        wallet | common | {"flow": "OUT", "of_all": True},
        wallet | common | {"flow": "SPEND", "of_all": False},
    ]
    use = next(each for each in await player.limits() if each["rule"] == own)
    assert (use["used"], use["remaining"], use["remainingCount"]) == ("31", "0", 3)


async def test_a_limit_that_warns_lets_another_refuse(economy: Economy) -> None:
    player = await economy.player(1000)
    await economy.set("SPEND", 5, player.owner, enforcement="WARN")
    rule = await economy.set("OUT", 10, player.owner)
    with capture_logs() as logged:
        assert (await player.refused("spend", 11))["rule"] == rule
    assert warnings(logged) == []


@pytest.mark.parametrize("verb", ["placeHold", "adjustHold", "topUp", "transfer"])
async def test_whatever_moves_is_warned_of(economy: Economy, verb: str) -> None:
    player = await economy.player(1000)
    fields = await other_of(economy, pays=verb == "transfer")
    if verb == "adjustHold":
        fields = {"holdId": await player.hold(3)}
    for flow in ("IN", "OUT"):
        await economy.set(flow, 5, player.owner, enforcement="WARN")
    with capture_logs() as logged:
        await player.do(verb, 9, **fields)
    [line] = warnings(logged)
    assert (line["flow"], line["amount_minor"]) == (
        "IN" if verb == "topUp" else "OUT",
        6 if fields.get("holdId") else 9,
    )


async def test_a_balance_that_is_only_warned_of(economy: Economy) -> None:
    player = await economy.player(1000)
    await economy.set("BALANCE", 1005, player.owner, enforcement="WARN")
    with capture_logs() as logged:
        await player.do("topUp", 5)
        await player.do("topUp", 6)
        await player.do("spend", 1)
    [line] = warnings(logged)
    assert (line["flow"], line["used_minor"], line["amount_minor"]) == ("BALANCE", 1005, 6)
    # The arithmetic has an end all the same.
    filled = [await player.ask("bonus", POSTING_MINOR_MAX) for _ in range(BALANCE_MINOR_MAX // POSTING_MINOR_MAX)]
    assert filled[-1]["limit"] == str(BALANCE_MINOR_MAX)


@pytest.mark.parametrize("verb", ["topUp", "bonus"])
async def test_more_than_a_wallet_may_hold(economy: Economy, verb: str) -> None:
    player = await economy.player(100)
    await economy.set("BALANCE", 150)
    refused = await player.ask(verb, 51)
    assert refused == {
        "__typename": "BalanceLimitExceeded",
        "code": "BALANCE_LIMIT_EXCEEDED",
        "message": refused["message"],
        "retryable": False,
        "alreadyProcessed": False,
        "limit": "150",
        "balance": {"ownerId": player.owner, "amount": "100"},
    }
    # Its own takes the place of the asset's; what was refused tells of then.
    own = await economy.set("BALANCE", 200, player.owner)
    assert await player.ask_again(verb) == refused | {"alreadyProcessed": True}
    assert (await player.outcome())["refusal"]["limit"] == "150"
    await player.hold(40)
    await player.do(verb, 100)
    assert (await player.ask(verb, 1))["limit"] == "200"
    [use] = await player.limits()
    assert use == {
        "rule": own, "used": "200", "usedCount": 0, "remaining": "0", "remainingCount": None, "resetsAt": None,
    }  # fmt: skip
    await economy.ask_to_remove(own["id"])
    assert (await player.ask(verb, 1))["limit"] == "150"
    [use] = await player.limits()
    assert (use["used"], use["remaining"]) == ("200", "0")
    # What takes from a balance above its limit is not refused, nor is what comes back.
    spent = await player.do("spend", 10)
    await player.do("refund", transactionId=spent["transaction"]["id"])
    assert (await player.balance())["amount"] == 200


@pytest.mark.parametrize(("flow", "cause"), [("IN", "LIMIT"), ("TRANSFER_IN", "LIMIT"), ("BALANCE", "FULL")])
@pytest.mark.parametrize("verb", ["transfer", "captureHold", "closeWallet"])
async def test_what_the_receiver_s_limits_refuse(economy: Economy, verb: str, flow: str, cause: str) -> None:
    player, receiver = await economy.player(1000), await economy.player()
    rule = await economy.set(flow, 777, receiver.owner)
    fields: Answer = {"toOwnerId": receiver.owner}
    if verb == "captureHold":
        fields = {"holdId": await player.hold(900, **fields)}
    if verb == "closeWallet":
        refused = await close_to(player, receiver)
    else:
        refused = await player.ask(verb, 778, **fields)
    told = {"__typename": "ReceiverRefused", "ownerId": receiver.owner, "cause": cause, "alreadyProcessed": False}
    assert told.items() <= refused.items()
    assert "777" not in str(refused)
    assert rule["id"] not in str(refused)
    assert (await receiver.balance())["amount"] == 0
    if verb != "closeWallet":
        await economy.ask_to_remove(rule["id"])
        assert await player.ask_again(verb) == refused | {"alreadyProcessed": True}
        await player.do(verb, 778, **fields)


async def close_to(player: Player, receiver: Player) -> Answer:
    """Close a wallet, so that another owner gets what remains."""
    text = """mutation($input: CloseWalletInput!) { closeWallet(input: $input) {
      __typename ... on ReceiverRefused { ownerId cause alreadyProcessed } ... on Error { code message }
    } }"""
    given = {"ownerId": player.owner, "remainder": "TRANSFER", "toOwnerId": receiver.owner, "note": "why"}
    answer: Answer = (await gql(player.economy.client, text, input={**given, "idempotencyKey": str(uuid4())}))[
        "closeWallet"
    ]
    return answer


async def test_one_s_own_limit_is_told_before_the_receiver_s(economy: Economy) -> None:
    player, receiver = await economy.player(1000), await economy.player()
    for owner, flow in ((player.owner, "OUT"), (receiver.owner, "IN"), (receiver.owner, "BALANCE")):
        await economy.set(flow, 10, owner)
    await player.refused("transfer", 11, toOwnerId=receiver.owner)
    await economy.set("OUT", 5000, player.owner)
    assert (await player.ask("transfer", 2000, toOwnerId=receiver.owner))["__typename"] == "InsufficientBalance"
    assert (await player.ask("transfer", 11, toOwnerId=receiver.owner))["cause"] == "LIMIT"
    await player.do("transfer", 10, toOwnerId=receiver.owner)


async def test_figures_of_an_asset_with_fractions(make: Callable[..., Any]) -> None:
    economy = await make(scale=2)
    player = await economy.player(1000)
    await economy.set("SPEND", "12.34", player.owner, window=HOUR)
    await player.do("spend", 5)
    refused = await player.refused("spend", 8)
    assert (refused["rule"]["maxAmount"], refused["used"], refused["remaining"], refused["required"]) == (
        "12.34", "5.00", "7.34", "8.00",
    )  # fmt: skip
    assert moment(refused["resetsAt"]) == await executed_at(player) + timedelta(hours=1)
    assert format_datetime(moment(refused["resetsAt"])) == refused["resetsAt"]
