"""What counts in a limit, gross: kinds of movements, holds while they are open, and what gives nothing back."""

from collections.abc import AsyncIterator, Callable
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import uuid4

import pytest
from factories import gql
from limiting import DAY, HOUR, Answer, Economy, Player, economies
from lots import in_test_mode

from wallet_gql.graphql.scalars import format_datetime
from wallet_gql.operations.proof import prove
from wallet_gql.settings import Settings

FLOWS: Final = ("IN", "OUT", "TOP_UP", "BONUS", "SPEND", "TRANSFER_OUT", "TRANSFER_IN")


@pytest.fixture(scope="module")
def clocked(new_database: Callable[..., Settings]) -> Settings:
    return in_test_mode(new_database, "limit_uses")


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


async def watched(economy: Economy, credits: int = 1000, *flows: str) -> Player:
    """Open a wallet with limits that are far away, of each flow that is named, or of all."""
    player = await economy.player(credits)
    for flow in flows or FLOWS:
        await economy.set(flow, 10**6, player.owner, maxCount=10**6)
    return player


async def used(player: Player) -> dict[str, tuple[int, int]]:
    """Return how much of each limit is used up, where something is, by how many movements."""
    return {flow: (amount, count) for flow, amount, count in await player.used() if (amount, count) != (0, 0)}


async def test_each_kind_counts_where_the_docs_say(economy: Economy) -> None:
    player, other = await watched(economy), await watched(economy)
    await player.do("topUp", 1)
    await player.do("bonus", 2)
    await player.do("spend", 4)
    await player.do("transfer", 8, toOwnerId=other.owner)
    await other.do("transfer", 16, toOwnerId=player.owner)
    await player.hold(32)
    await player.hold(64, toOwnerId=other.owner)
    assert await used(player) == {
        "IN": (19, 3),
        "OUT": (108, 4),
        "TOP_UP": (1, 1),
        "BONUS": (2, 1),
        "SPEND": (36, 2),
        "TRANSFER_OUT": (72, 2),
        "TRANSFER_IN": (16, 1),
    }
    assert await used(other) == {"IN": (8, 1), "OUT": (16, 1), "TRANSFER_OUT": (16, 1), "TRANSFER_IN": (8, 1)}


@pytest.mark.parametrize("is_counted", [True, False], ids=["counted by entries", "from before the limit"])
async def test_what_moved_before_a_limit_counts(economy: Economy, *, is_counted: bool) -> None:
    player = await watched(economy) if is_counted else await economy.player(1000)
    await player.do("spend", 20)
    await economy.wait(1800)
    await player.do("spend", 5)
    rule = await economy.set("SPEND", 30, player.owner, window={"rollingSeconds": 3500})
    use = next(each for each in await player.limits() if each["rule"] == rule)
    assert (use["used"], use["usedCount"], use["remaining"]) == ("25", 2, "5")
    assert (await player.refused("spend", 6))["used"] == "25"
    await economy.wait(1800)
    await player.do("spend", 25)
    use = next(each for each in await player.limits() if each["rule"] == rule)
    assert (use["used"], use["usedCount"]) == ("30", 2)


@pytest.mark.parametrize("pays", [False, True])
async def test_a_hold_counts_until_it_is_captured(economy: Economy, *, pays: bool) -> None:
    player = await watched(economy)
    kind, other = ("TRANSFER_OUT", {"toOwnerId": (await economy.player()).owner}) if pays else ("SPEND", {})
    hold = await player.hold(100, **other)
    assert await used(player) == {"OUT": (100, 1), kind: (100, 1)}
    await player.do("captureHold", 30, holdId=hold, keepRemainder=True)
    # What was captured counts as it was, and what is still held beside it.
    assert await used(player) == {"OUT": (100, 2), kind: (100, 2)}
    await player.do("captureHold", 20, holdId=hold)
    # What was released does not count.
    assert await used(player) == {"OUT": (50, 2), kind: (50, 2)}
    await economy.wait(3600)
    assert await used(player) == {}


async def test_a_capture_counts_when_it_is_captured(economy: Economy) -> None:
    player = await watched(economy)
    hold = await player.hold(100)
    await economy.wait(7200)
    assert await used(player) == {"OUT": (100, 1), "SPEND": (100, 1)}
    await player.do("captureHold", holdId=hold)
    await economy.wait(3500)
    assert await used(player) == {"OUT": (100, 1), "SPEND": (100, 1)}
    await economy.wait(100)
    assert await used(player) == {}


async def test_a_capture_is_never_refused_by_its_owner_s_limits(economy: Economy) -> None:
    player, other = await economy.player(1000), await economy.player()
    holds = [await player.hold(100), await player.hold(100, toOwnerId=other.owner)]
    for flow in ("OUT", "SPEND", "TRANSFER_OUT"):
        await economy.set(flow, 1, player.owner, maxCount=1)
    for hold in holds:
        await player.do("captureHold", 60, holdId=hold, keepRemainder=True)
        await player.do("captureHold", holdId=hold)
    assert (await player.refused("spend", 1))["used"] == "200"
    assert (await other.balance())["amount"] == 100


@pytest.mark.parametrize("end", ["void", "time", "lower"])
async def test_a_hold_that_is_over_gives_its_share_back(economy: Economy, end: str) -> None:
    player = await economy.player(1000)
    await economy.set("SPEND", 100, player.owner, maxCount=2)
    hold = await player.hold(100, ttlSeconds=600)
    assert (await player.refused("spend", 1))["remaining"] == "0"
    if end == "void":
        await player.do("voidHold", holdId=hold)
    elif end == "time":
        await economy.wait(600)
    else:
        await player.do("adjustHold", 40, holdId=hold)
    left = 40 if end == "lower" else 0
    [use] = await player.limits()
    assert (use["used"], use["usedCount"]) == (str(left), 1 if left else 0)
    await player.do("spend", 100 - left)
    assert (await player.refused("spend", 1))["used"] == "100"


async def test_what_comes_back_gives_nothing_back(economy: Economy) -> None:
    player = await watched(economy)
    spent = await player.do("spend", 40)
    captured = await player.do("captureHold", holdId=await player.hold(10))
    before = await used(player)
    assert before == {"OUT": (50, 2), "SPEND": (50, 2)}
    for payload in (spent, captured):
        await player.do("refund", transactionId=payload["transaction"]["id"])
    assert await used(player) == before
    # A top-up gives a spend nothing back, and what is taken back no top-up.
    bought = await player.do("topUp", 30)
    await player.do("clawback", transactionId=bought["transaction"]["id"])
    assert await used(player) == before | {"IN": (30, 1), "TOP_UP": (30, 1)}


async def test_a_debt_that_is_repaid_counts_nowhere(economy: Economy) -> None:
    player = await watched(economy, 0)
    bought = await player.do("topUp", 30)
    await player.do("spend", 30)
    await player.do("clawback", transactionId=bought["transaction"]["id"], onShortfall="DEBT")
    before = await used(player)
    await player.do("bonus", 20)
    assert (await player.balance())["amount"] == 0
    assert await used(player) == before | {"IN": (50, 2), "BONUS": (20, 1)}


async def test_what_expires_counts_nowhere(make: Callable[..., Any]) -> None:
    economy = await make(has_lots=True)
    player = await watched(economy)
    end = await economy.served.now() + timedelta(minutes=10)
    await player.do("bonus", 25, expiresAt=format_datetime(end))
    before = await used(player)
    await economy.wait(700)
    # Whatever comes next books it.
    await player.do("spend", 1)
    assert (await player.balance()) == {"amount": 999, "available": 999, "held": 0, "lapsed": 0}
    assert await used(player) == before | {"OUT": (1, 1), "SPEND": (1, 1)}
    # Of what lapsed and is not booked a limit of the balance knows, too.
    await economy.set("BALANCE", 1050, player.owner)
    end = await economy.served.now() + timedelta(minutes=10)
    await player.do("bonus", 50, expiresAt=format_datetime(end))
    await economy.wait(700)
    use = next(each for each in await player.limits() if each["rule"]["flow"] == "BALANCE")
    assert (use["used"], use["remaining"]) == ("999", "51")
    await player.do("bonus", 51)


async def test_what_is_forfeited_counts_nowhere(economy: Economy) -> None:
    player = await watched(economy)
    await economy.set("OUT", 1, player.owner)
    text = "mutation($input: CloseWalletInput!) { closeWallet(input: $input) { __typename } }"
    given = {"ownerId": player.owner, "remainder": "FORFEIT", "note": "why", "idempotencyKey": str(uuid4())}
    assert (await gql(economy.client, text, input=given))["closeWallet"]["__typename"] == "WalletPayload"
    assert (await player.balance())["amount"] == 0
    assert await used(player) == {}


async def test_moments_of_what_is_used(economy: Economy) -> None:
    player = await economy.player(1000)
    rolling = await economy.set("SPEND", 50, player.owner)
    day = await economy.set("IN", 50, player.owner, window=DAY)
    balance = await economy.set("BALANCE", 5000, player.owner)
    assert [(each["rule"], each["resetsAt"]) for each in await player.limits()] == [
        (rolling, None), (day, None), (balance, None),
    ]  # fmt: skip
    placed = await player.do("placeHold", 10, ttlSeconds=600)
    await player.do("topUp", 5)
    hour, midnight, none = (each["resetsAt"] for each in await player.limits())
    assert hour == placed["hold"]["heldUntil"]
    at = datetime.fromisoformat(midnight)
    assert (at.hour, at.minute, at.second, at.microsecond) == (0, 0, 0, 0)
    assert none is None
    await player.do("spend", 5)
    assert (await player.limits())[0]["resetsAt"] == placed["hold"]["heldUntil"]
    await economy.wait(600)
    # The hold is over, and the spend is what leaves next.
    left = datetime.fromisoformat((await player.limits())[0]["resetsAt"])
    assert timedelta(minutes=40) < left - await economy.served.now() < timedelta(minutes=51)


async def test_limits_of_several_wallets_are_read_together(economy: Economy) -> None:
    players = [await economy.player(100) for _ in range(3)]
    await economy.set("SPEND", 50)
    for n, player in enumerate(players):
        await economy.set("OUT", 60, player.owner, window={"rollingSeconds": 60 + n})
        await player.do("spend", n + 1)
    owners = ", ".join(f'"{player.owner}"' for player in (players[2], players[0], players[1]))
    # A list in a variable costs as many as there may be.
    text = f"""query($a: String!) {{ wallets(ownerIds: [{owners}, "nobody"]) {{
      limits(asset: $a) {{ rule {{ flow appliesTo rollingSeconds }} used resetsAt }}
    }} }}"""
    found = await gql(economy.client, text, a=economy.asset)
    seen = [
        [(use["rule"]["rollingSeconds"], use["rule"]["appliesTo"], use["used"]) for use in wallet["limits"]]
        for wallet in found["wallets"][:3]
    ]
    assert seen == [
        [(3600, None, str(n + 1)), (60 + n, player.owner, str(n + 1))]
        for n, player in ((2, players[2]), (0, players[0]), (1, players[1]))
    ]
    assert found["wallets"][3] is None
    assert all(use["resetsAt"] for wallet in found["wallets"][:3] for use in wallet["limits"])


async def test_a_wallet_that_never_used_the_asset(economy: Economy) -> None:
    player = await economy.player()
    for flow in ("SPEND", "IN"):
        await economy.set(flow, 30)
    await economy.set("BALANCE", 40, player.owner)
    uses: list[Answer] = await player.limits()
    assert [(use["used"], use["usedCount"], use["remaining"], use["resetsAt"]) for use in uses] == [
        ("0", 0, "30", None), ("0", 0, "30", None), ("0", 0, "40", None),
    ]  # fmt: skip


async def test_a_limit_of_another_asset_is_none_of_this_one_s(make: Callable[..., Any]) -> None:
    one, other = await make(), await make()
    player = await one.player(1000)
    await other.set("SPEND", 1)
    await other.set("SPEND", 1, player.owner, window=HOUR)
    assert await player.limits() == []
    await player.do("spend", 100)
