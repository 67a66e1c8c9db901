"""Limits as clients set, remove and read them: for all wallets, and for one owner's."""

from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Any, Final
from uuid import uuid4

import pytest
from factories import gql
from limiting import DAY, HOUR, OUTCOME, Answer, Economy, Player, economies
from lots import in_test_mode
from tables import count_rows

from wallet_gql.domain.limits import LIMITS_MAX, ROLLING_SECONDS_MAX
from wallet_gql.graphql import ids
from wallet_gql.operations.proof import prove
from wallet_gql.settings import Settings

FLOWS: Final = ("BALANCE", "IN", "OUT", "TOP_UP", "BONUS", "SPEND", "TRANSFER_OUT", "TRANSFER_IN")
WINDOWS: Final[dict[str, Answer]] = {
    "a second": {"rollingSeconds": 1},
    "a day up to now": {"rollingSeconds": 86_400},
    "366 days": {"rollingSeconds": ROLLING_SECONDS_MAX},
    "a day": {"calendar": {"unit": "DAY"}},
    "a week": {"calendar": {"unit": "WEEK", "timeZone": "America/Argentina/Buenos_Aires"}},
    "a month": {"calendar": {"unit": "MONTH", "timeZone": "Europe/Berlin"}},
}


@pytest.fixture(scope="module")
def clocked(new_database: Callable[..., Settings]) -> Settings:
    return in_test_mode(new_database, "limits")


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


@pytest.fixture
async def player(economy: Economy) -> Player:
    return await economy.player()


async def anew(economy: Economy, owner: str | None, key: str, **fields: Any) -> Answer:
    """Ask for a limit of what is spent, under a key."""
    given = {"flow": "SPEND", "window": HOUR, "maxAmount": 50, **fields}
    return await economy.ask_to_set(owner=owner, idempotencyKey=key, **given)


def windows_of(flow: str) -> list[Answer]:
    return [{}] if flow == "BALANCE" else [{"window": window} for window in WINDOWS.values()]


def shown(window: Answer | None) -> Answer:
    """Return what a limit shows of a window."""
    calendar = {"timeZone": "UTC", **window["calendar"]} if window and "calendar" in window else {}
    return {
        "rollingSeconds": window.get("rollingSeconds") if window else None,
        "unit": calendar.get("unit"),
        "timeZone": calendar.get("timeZone"),
    }


@pytest.mark.parametrize("is_own", [True, False], ids=["of one", "of all"])
@pytest.mark.parametrize("flow", FLOWS)
async def test_every_flow_and_window(economy: Economy, player: Player, flow: str, is_own: bool) -> None:
    owner, before = player.owner if is_own else None, await economy.served.now()
    rules = [await economy.set(flow, 50 + n, owner, **window) for n, window in enumerate(windows_of(flow))]
    for n, (rule, window) in enumerate(zip(rules, windows_of(flow), strict=True)):
        set_at = datetime.fromisoformat(rule["setAt"])
        assert before <= set_at <= await economy.served.now()
        assert rule == {
            "__typename": "Limit",
            "id": rule["id"],
            "asset": {"code": economy.asset},
            "appliesTo": owner,
            "flow": flow,
            **shown(window.get("window")),
            "maxAmount": str(50 + n),
            "maxCount": None,
            "enforcement": "REFUSE",
            "setAt": rule["setAt"],
            "setBy": None,
        }
        assert await economy.limit(rule["id"]) == rule
    assert await economy.in_force(owner) == rules
    assert await economy.in_force(None if is_own else player.owner) == []
    assert [each["rule"] for each in await player.limits()] == rules
    assert len({rule["id"] for rule in rules}) == len(rules)


async def test_both_maxima_and_only_to_warn(make: Callable[..., Any]) -> None:
    economy = await make(scale=2)
    rule = await economy.set("IN", "12.5", window=DAY, maxCount=3, enforcement="WARN")
    assert (rule["maxAmount"], rule["maxCount"], rule["enforcement"]) == ("12.50", 3, "WARN")
    by_count = await economy.set("OUT", maxCount=2**31 - 1)
    assert (by_count["maxAmount"], by_count["maxCount"]) == (None, 2**31 - 1)
    most = await economy.set("OUT", "10000000000000.00", window=DAY)
    assert most["maxAmount"] == "10000000000000.00"


def calendar(**fields: Any) -> Answer:
    return {"window": {"calendar": {"unit": "DAY", **fields}}}


SECONDS: Final = "window.rollingSeconds"
ZONE: Final = "window.calendar.timeZone"
BAD: Final[dict[str, tuple[Answer, str, str]]] = {
    "no maximum": ({"maxAmount": None}, "maxAmount", "is missing, and so is maxCount: send one of them, or both"),
    "no movement": ({"maxCount": 0}, "maxCount", "is 0: send 1 to 2147483647"),
    "less than none": ({"maxCount": -1}, "maxCount", "is -1: send 1 to 2147483647"),
    "no window": ({"window": None}, "window", "is missing: send rollingSeconds or calendar"),
    "no time": ({"window": {"rollingSeconds": 0}}, SECONDS, "is 0: send 1 to 31622400, which is 366 days"),
    "time back": ({"window": {"rollingSeconds": -5}}, SECONDS, "is -5: send 1 to 31622400, which is 366 days"),
    "too long": (
        {"window": {"rollingSeconds": ROLLING_SECONDS_MAX + 1}},
        SECONDS,
        "is 31622401: send 1 to 31622400, which is 366 days",
    ),
    **{
        f"the zone {name!r}": (calendar(timeZone=name), ZONE, "is not a time zone that is known: send an IANA name")
        for name in ("Europe/Atlantis", "europe/berlin", "", "+02:00", "../zones", "Europe", "UTC\u0000", "é" * 200)
    },
    "a balance in a window": ({"flow": "BALANCE"}, "window", "is given, but a balance has none: leave it out"),
    "a balance by count": (
        {"flow": "BALANCE", "window": None, "maxCount": 5},
        "maxCount",
        "is given, but a balance is not counted: leave it out",
    ),
    "an owner id that is none": ({"ownerId": " a"}, "ownerId", "begins or ends with a blank: send the id without"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
async def test_bad_input(economy: Economy, player: Player, name: str) -> None:
    changed, field, message = BAD[name]
    before, key = await count_rows(economy.served.ledger.settings), str(uuid4())
    error = await error_of(economy, {"window": HOUR, "ownerId": player.owner, "idempotencyKey": key, **changed})
    assert error["extensions"]["field"] == field
    assert error["message"].startswith(f"{field} {message}")
    assert await count_rows(economy.served.ledger.settings) == before
    assert (await anew(economy, player.owner, key))["alreadyProcessed"] is False


async def error_of(economy: Economy, fields: Answer) -> Answer:
    given = {"asset": economy.asset, "flow": "SPEND", "maxAmount": 5, **fields}
    text = "mutation($input: SetLimitInput!) { setLimit(input: $input) { __typename } }"
    return await refused(economy, text, input=given)


async def refused(economy: Economy, text: str, **variables: Any) -> Answer:
    """Send what must be refused for what it is, and return the error."""
    answer = await economy.client.post("/graphql", json={"query": text, "variables": variables})
    body = answer.json()
    assert not (body.get("data") or {}).get("setLimit"), body
    error: Answer = body["errors"][0]
    assert error["extensions"]["code"] == "BAD_USER_INPUT", body
    return error


# By a variable's value, and as a document has it.
NOT_ONE_WINDOW: Final[dict[str, tuple[Any, str]]] = {
    "{}": ({}, "window"),
    "{rollingSeconds: 5, calendar: {unit: DAY}}": ({"rollingSeconds": 5, "calendar": {"unit": "DAY"}}, "window"),
    "{rollingSeconds: null}": ({"rollingSeconds": None}, "window.rollingSeconds"),
    "{calendar: null}": ({"calendar": None}, "window.calendar"),
    "{rollingSeconds: 5, calendar: null}": ({"rollingSeconds": 5, "calendar": None}, "window"),
}


@pytest.mark.parametrize("literal", NOT_ONE_WINDOW)
async def test_a_window_is_of_one_kind(economy: Economy, literal: str) -> None:
    value, place = NOT_ONE_WINDOW[literal]
    told = "A value of type 'LimitWindowInput' has exactly one field, which is not null: send it."
    by_variable = await error_of(economy, {"window": value, "idempotencyKey": str(uuid4())})
    assert by_variable["message"] == f"Variable '$input' has invalid value at .{place}: {told}"
    error = await refused(economy, written(economy, literal))
    assert error["message"] == f"'window' has invalid value: {told}"


def written(economy: Economy, window: str, declared: str = "") -> str:
    """Return a document with a window in it."""
    fields = f'asset: "{economy.asset}", flow: SPEND, maxAmount: 5, window: {window}, idempotencyKey: "{uuid4()}"'
    return f"mutation {declared} {{ setLimit(input: {{{fields}}}) {{ __typename }} }}"


async def test_a_window_whose_field_is_a_variable(economy: Economy) -> None:
    error = await refused(economy, written(economy, "{rollingSeconds: $n}", "($n: Int)"), n=5)
    assert "must be non-nullable" in error["message"]
    set_ = await gql(economy.client, written(economy, "{rollingSeconds: $n}", "($n: Int!)"), n=5)
    assert set_["setLimit"]["__typename"] == "SetLimitPayload"
    error = await refused(economy, written(economy, "{rollingSeconds: $n}", "($n: Int!)"), n=0)
    assert error["extensions"]["field"] == SECONDS
    window = await gql(economy.client, written(economy, "$w", "($w: LimitWindowInput)"), w=DAY)
    assert window["setLimit"]["__typename"] == "SetLimitPayload"


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("maxCount", 2**31, "Int cannot be read from 2147483648: send an integer from -2147483648 to 2147483647."),
        ("maxCount", 1.5, "Int cannot be read from 1.5: send an integer from -2147483648 to 2147483647."),
        ("maxAmount", "1e3", 'Amount cannot be read from "1e3": send plain decimal digits, such as "12.50".'),
        ("flow", "CAPTURE", "Value 'CAPTURE' does not exist in 'LimitFlow' enum."),
        ("enforcement", None, "A value of type 'Enforcement!' must not be null: send one."),
        ("idempotencyKey", "x", 'UUID cannot be read from "x": send a version 4 or 7 UUID'),
        ("window", {"calendar": {"unit": "YEAR"}}, "Value 'YEAR' does not exist in 'CalendarUnit' enum."),
    ],
)
async def test_a_value_of_another_type(economy: Economy, field: str, value: object, message: str) -> None:
    error = await error_of(economy, {"window": HOUR, "idempotencyKey": str(uuid4()), field: value})
    place, told = error["message"].split(": ", 1)
    assert place.startswith(f"Variable '$input' has invalid value at .{field}")
    assert told.startswith(message)


@pytest.mark.parametrize("is_own", [True, False], ids=["of one", "of all"])
async def test_what_is_not_kept_leaves_the_key_free(make: Callable[..., Any], is_own: bool) -> None:
    economy = await make(scale=2)
    player, key = await economy.player(), str(uuid4())
    owner, before = player.owner if is_own else None, await count_rows(economy.served.ledger.settings)
    for changed, told in (
        ({"asset": "NOPE"}, {"__typename": "AssetNotFound", "assetCode": "NOPE"}),
        ({"maxAmount": 0}, {"reason": "NOT_POSITIVE"}),
        ({"maxAmount": "-1"}, {"reason": "NOT_POSITIVE"}),
        ({"maxAmount": "0.005"}, {"reason": "TOO_PRECISE", "scale": 2}),
        ({"maxAmount": "10000000000000.01"}, {"reason": "TOO_LARGE"}),
        # In this order.
        ({"asset": "NOPE", "maxAmount": 0, "ownerId": "nobody"}, {"__typename": "AssetNotFound"}),
        ({"maxAmount": 0, "ownerId": "nobody"}, {"__typename": "InvalidAmount"}),
        ({"ownerId": "nobody"}, {"__typename": "WalletNotFound", "ownerId": "nobody"}),
    ):
        answer = await anew(economy, owner, key, **changed)
        assert told.items() <= answer.items(), answer
        assert answer["retryable"] is False
    assert await count_rows(economy.served.ledger.settings) == before
    assert (await anew(economy, owner, key))["alreadyProcessed"] is False
    # Now it is used, and what is static wins all the same.
    assert (await anew(economy, owner, key, asset="NOPE"))["__typename"] == "AssetNotFound"
    assert (await anew(economy, owner, key, maxAmount="0.005"))["__typename"] == "InvalidAmount"


DIFFERENT: Final[dict[str, Answer]] = {
    "flow": {"flow": "OUT"},
    "amount": {"maxAmount": 51},
    "count": {"maxCount": 5},
    "only a count": {"maxAmount": None, "maxCount": 5},
    "seconds": {"window": {"rollingSeconds": 3601}},
    "calendar": {"window": {"calendar": {"unit": "DAY"}}},
    "enforcement": {"enforcement": "WARN"},
}


@pytest.mark.parametrize("is_own", [True, False], ids=["of one", "of all"])
async def test_another_request_under_the_key(economy: Economy, player: Player, is_own: bool) -> None:
    key, owner = str(uuid4()), player.owner if is_own else None
    rule = (await anew(economy, owner, key))["rule"]
    for changed in DIFFERENT.values():
        answer = await anew(economy, owner, key, **changed)
        assert (answer["__typename"], answer["idempotencyKey"]) == ("IdempotencyKeyReused", key)
    assert (await economy.ask_to_remove(rule["id"], key))["__typename"] == "IdempotencyKeyReused"
    # An explicit default is as none.
    again = await anew(economy, owner, key, enforcement="REFUSE", maxCount=None, maxAmount="50")
    assert (again["rule"], again["alreadyProcessed"]) == (rule, True)
    assert await economy.in_force(owner) == [rule]


async def test_a_key_of_another_zone_or_unit(economy: Economy, player: Player) -> None:
    key = str(uuid4())
    first = await anew(economy, player.owner, key, **calendar())
    assert first["__typename"] == "SetLimitPayload"
    for changed in (calendar(timeZone="Europe/Berlin"), calendar(unit="WEEK")):
        assert (await anew(economy, player.owner, key, **changed))["__typename"] == "IdempotencyKeyReused"
    assert (await anew(economy, player.owner, key, **calendar(timeZone="UTC")))["alreadyProcessed"] is True


async def test_keys_of_postings_and_of_limits_are_of_one_kind(economy: Economy, player: Player) -> None:
    posted, set_, for_all = (str(uuid4()) for _ in range(3))
    await player.do("topUp", 5, idempotencyKey=posted)
    assert (await anew(economy, player.owner, posted))["__typename"] == "IdempotencyKeyReused"
    rule = (await anew(economy, player.owner, set_))["rule"]
    for verb in ("topUp", "spend", "placeHold"):
        assert (await player.ask(verb, 50, idempotencyKey=set_))["__typename"] == "IdempotencyKeyReused"
    assert (await economy.ask_to_remove(rule["id"], posted))["__typename"] == "IdempotencyKeyReused"
    # What is for all wallets has keys of its own.
    assert (await anew(economy, None, for_all))["__typename"] == "SetLimitPayload"
    assert (await anew(economy, None, posted))["alreadyProcessed"] is False
    assert (await anew(economy, None, set_))["alreadyProcessed"] is False
    assert (await player.do("topUp", 5, idempotencyKey=for_all))["alreadyProcessed"] is False
    # And so has each owner.
    other = await economy.player()
    assert (await anew(economy, other.owner, set_))["alreadyProcessed"] is False


async def test_a_key_for_all_wallets_is_one_for_all_assets(make: Callable[..., Any]) -> None:
    one, other, key = await make(), await make(), str(uuid4())
    rule = (await anew(one, None, key))["rule"]
    assert (await anew(other, None, key))["__typename"] == "IdempotencyKeyReused"
    assert await other.in_force() == []
    assert (await anew(one, None, key))["rule"] == rule


@pytest.mark.parametrize("is_own", [True, False], ids=["of one", "of all"])
async def test_as_many_as_there_may_be(economy: Economy, player: Player, is_own: bool) -> None:
    owner, key = player.owner if is_own else None, str(uuid4())
    rules = [await economy.set("SPEND", 5, owner, window={"rollingSeconds": n + 1}) for n in range(LIMITS_MAX)]
    told = {"__typename": "TooMany", "code": "TOO_MANY", "counted": "LIMITS", "most": 20, "retryable": False}
    first = await anew(economy, owner, key)
    assert told.items() <= first.items()
    assert first["alreadyProcessed"] is False
    # One that takes the place of another is none more.
    newer = await economy.set("SPEND", 6, owner, window={"rollingSeconds": 1})
    assert await economy.in_force(owner) == [*rules[1:], newer]
    # It is kept, whatever there is room for by then.
    assert (await economy.ask_to_remove(newer["id"]))["rule"] == newer
    assert await anew(economy, owner, key) == first | {"alreadyProcessed": True}
    assert (await anew(economy, owner, key, maxAmount=51))["__typename"] == "IdempotencyKeyReused"
    added = await economy.set("SPEND", 50, owner)
    assert await economy.in_force(owner) == [*rules[1:], added]
    if is_own:
        refusal = {"__typename": "TooMany", "code": "TOO_MANY", "alreadyProcessed": True}
        outcome = await player.outcome(key)
        assert outcome == {
            "state": "REFUSED", "transaction": None, "hold": None,
            "refusal": {**refusal, "counted": "LIMITS", "most": 20},
        }  # fmt: skip


async def test_as_many_for_each(economy: Economy, player: Player) -> None:
    for owner in (None, player.owner, (await economy.player()).owner):
        for n in range(LIMITS_MAX):
            await economy.set("SPEND", 5, owner, window={"rollingSeconds": n + 1 if owner else 1000 + n})
    assert len(await player.limits()) == 2 * LIMITS_MAX


async def test_a_replay_tells_the_version_that_was_set(economy: Economy, player: Player) -> None:
    for owner in (player.owner, None):
        key = str(uuid4())
        first = await anew(economy, owner, key)
        newer = await economy.set("SPEND", 70, owner)
        assert newer["id"] != first["rule"]["id"]
        assert await anew(economy, owner, key) == first | {"alreadyProcessed": True}
        assert await economy.in_force(owner) == [newer]
        assert (await economy.ask_to_remove(newer["id"]))["rule"] == newer
        assert await anew(economy, owner, key) == first | {"alreadyProcessed": True}
        # What was replayed is not in force again.
        assert await economy.in_force(owner) == []


async def test_what_holds_already_is_no_other_version(economy: Economy, player: Player) -> None:
    for owner in (player.owner, None):
        rule = await economy.set("SPEND", 50, owner, maxCount=3)
        assert await economy.set("SPEND", 50, owner, maxCount=3) == rule
        changed = await economy.set("SPEND", 50, owner)
        assert changed["id"] != rule["id"]
        assert await economy.in_force(owner) == [changed]


async def test_each_version_is_shown_as_it_was(economy: Economy, player: Player) -> None:
    versions = [await economy.set("SPEND", most, player.owner) for most in (50, 60, 50)]
    await economy.ask_to_remove(versions[-1]["id"])
    versions.append(await economy.set("SPEND", 70, player.owner))
    assert len({each["id"] for each in versions}) == 4
    for version in versions:
        assert await economy.limit(version["id"]) == version
    assert [each["setAt"] for each in versions] == sorted(each["setAt"] for each in versions)
    assert await economy.in_force(player.owner) == versions[-1:]


async def test_what_is_removed_holds_no_more(economy: Economy, player: Player) -> None:
    for owner in (player.owner, None):
        gone = await economy.set("SPEND", 50, owner)
        stays = await economy.set("SPEND", 50, owner, window=DAY)
        key = str(uuid4())
        first = await economy.ask_to_remove(gone["id"], key)
        assert first == {"__typename": "RemoveLimitPayload", "alreadyProcessed": False, "rule": gone}
        assert await economy.in_force(owner) == [stays]
        assert [each["rule"] for each in await player.limits()] == [stays]
        assert await economy.ask_to_remove(gone["id"], key) == first | {"alreadyProcessed": True}
        # There is nothing to remove any more: that is kept, too.
        again = str(uuid4())
        nothing = await economy.ask_to_remove(gone["id"], again)
        assert nothing == {"__typename": "RemoveLimitPayload", "alreadyProcessed": False, "rule": None}
        assert (await economy.ask_to_remove(stays["id"], again))["__typename"] == "IdempotencyKeyReused"
        back = await economy.set("SPEND", 50, owner)
        assert await economy.ask_to_remove(gone["id"], again) == nothing | {"alreadyProcessed": True}
        assert await economy.ask_to_remove(gone["id"], key) == first | {"alreadyProcessed": True}
        assert await economy.in_force(owner) == [stays, back]
        for each in (stays, back):
            await economy.ask_to_remove(each["id"])


async def test_a_version_that_took_its_place_stays(economy: Economy, player: Player) -> None:
    old = await economy.set("SPEND", 50, player.owner)
    new = await economy.set("SPEND", 60, player.owner)
    assert (await economy.ask_to_remove(old["id"]))["rule"] is None
    assert await economy.in_force(player.owner) == [new]


def encoded(text: str) -> str:
    return urlsafe_b64encode(text.encode()).decode().rstrip("=")


async def test_a_limit_that_there_is_not(economy: Economy, player: Player) -> None:
    rule = await economy.set("SPEND", 50, player.owner)
    shard, wallet, asset, step = ids.decode(rule["id"]).parts
    there_is_none = [
        (shard, wallet, asset, step + 1), (shard, wallet, asset, 0), (shard, wallet, asset, 2**31 - 1),
        (shard, wallet, 32767, step), (shard, 2**63 - 1, asset, step), (32767, wallet, asset, step),
        (shard, 0, asset, step), (0, 0, asset, 1),
    ]  # fmt: skip
    missing = [encoded(f"Limit:{':'.join(map(str, parts))}") for parts in there_is_none]
    for id_ in missing:
        assert await economy.limit(id_) is None
    for id_ in (*missing, *NONSENSE, await wallet_id(player)):
        answer = await economy.ask_to_remove(id_)
        assert answer == {
            "__typename": "LimitNotFound",
            "code": "LIMIT_NOT_FOUND",
            "message": "Limit not found: send the id of a limit as it was received",
            "retryable": False,
            "limitId": id_,
        }
    assert await economy.in_force(player.owner) == [rule]


async def wallet_id(player: Player) -> str:
    answer = await gql(player.economy.client, "query($o: String!) { wallet(ownerId: $o) { id } }", o=player.owner)
    id_: str = answer["wallet"]["id"]
    return id_


NONSENSE: Final = [
    "", "nonsense", "é" * 300, encoded("Limit:0:1:1"), encoded("Limit:0:1:1:1:1"), encoded("Limit:0:1:1:01"),
    encoded("Limit:32768:1:1:1"), encoded("Limit:0:1:32768:1"), encoded("Limit:0:1:1:2147483648"),
    encoded("Limit:0:9223372036854775808:1:1"), encoded("Limit:0:-1:1:1"), encoded("Cursor:0:1:1:1"),
]  # fmt: skip


@pytest.mark.parametrize("id_", NONSENSE)
async def test_what_this_service_never_made(economy: Economy, id_: str) -> None:
    answer = await economy.client.post("/graphql", json={"query": "query($i: ID!) { node(id: $i) { id } }",
                                                         "variables": {"i": id_}})  # fmt: skip
    [error] = answer.json()["errors"]
    assert (error["extensions"]["code"], error["extensions"]["field"]) == ("BAD_USER_INPUT", "id")


async def test_a_key_that_is_none(economy: Economy, player: Player) -> None:
    rule = await economy.set("SPEND", 50, player.owner)
    text = "mutation($input: RemoveLimitInput!) { removeLimit(input: $input) { __typename } }"
    error = await refused(economy, text, input={"limitId": rule["id"], "idempotencyKey": "x"})
    assert error["message"].startswith("Variable '$input' has invalid value at .idempotencyKey: UUID cannot be read")


async def test_an_owner_s_takes_the_place_of_the_asset_s(economy: Economy, player: Player) -> None:
    for_all = [await economy.set("SPEND", 50), await economy.set("SPEND", 60, window=DAY), await economy.set("IN", 70)]
    own = [await economy.set("SPEND", 500, player.owner), await economy.set("OUT", 80, player.owner)]
    other = await economy.player()
    assert [each["rule"] for each in await player.limits()] == [*for_all[1:], *own]
    assert [each["rule"] for each in await other.limits()] == for_all
    assert (await economy.in_force(), await economy.in_force(player.owner)) == (for_all, own)
    # The same day in another zone is another window.
    berlin = await economy.set("SPEND", 5, player.owner, **calendar(timeZone="Europe/Berlin"))
    assert [each["rule"] for each in await player.limits()] == [*for_all[1:], *own, berlin]
    await economy.ask_to_remove(own[0]["id"])
    assert [each["rule"] for each in await player.limits()] == [*for_all, own[1], berlin]


async def test_of_what_there_is_not(economy: Economy, player: Player) -> None:
    await economy.set("SPEND", 50)
    text = """query($o: String!, $a: String!) {
      ofNoAsset: limits(asset: "NOPE") { id } ofNobody: limits(asset: $a, ownerId: "nobody") { id }
      ofNone: limits(asset: $a, ownerId: $o) { id } null: limits(asset: $a, ownerId: null) { flow }
      wallet(ownerId: $o) { limits(asset: "NOPE") { used } }
    }"""
    assert await gql(economy.client, text, o=player.owner, a=economy.asset) == {
        "ofNoAsset": None, "ofNobody": None, "ofNone": [], "null": [{"flow": "SPEND"}], "wallet": {"limits": None},
    }  # fmt: skip
    answer = await economy.client.post("/graphql", json={"query": '{ limits(ownerId: " a") { id } }'})
    [error] = answer.json()["errors"]
    assert error["message"] == "ownerId begins or ends with a blank: send the id without surrounding blanks."


async def test_what_became_of_a_key(economy: Economy, player: Player) -> None:
    set_, removed, nothing = (str(uuid4()) for _ in range(3))
    rule = (await anew(economy, player.owner, set_))["rule"]
    for key in (removed, nothing):
        await economy.ask_to_remove(rule["id"], key)
    changed = {"state": "CHANGED", "transaction": None, "hold": None, "refusal": None}
    for key in (set_, removed, nothing):
        assert await player.outcome(key) == changed
    # What is for all wallets is of no owner's key.
    for_all = str(uuid4())
    await anew(economy, None, for_all)
    assert await player.outcome(for_all) == {**changed, "state": "UNKNOWN"}
    assert (await gql(economy.client, OUTCOME, o="nobody", k=for_all))["outcomeByKey"] is None


async def test_many_limits_by_their_ids(economy: Economy, player: Player) -> None:
    rules = [await economy.set("SPEND", 5, owner) for owner in (player.owner, None)]
    text = "query($i: [ID!]!) { nodes(ids: $i) { ... on Limit { appliesTo asset { code } } } }"
    found = await gql(economy.client, text, i=[rules[0]["id"], encoded("Limit:0:0:1:99"), rules[1]["id"]])
    asset = {"code": economy.asset}
    assert found["nodes"] == [{"appliesTo": player.owner, "asset": asset}, None, {"appliesTo": None, "asset": asset}]


async def test_it_was_set_at_the_service_s_time(economy: Economy, player: Player) -> None:
    await economy.wait(86_400)
    rule = await economy.set("SPEND", 5, player.owner)
    assert datetime.fromisoformat(rule["setAt"]) > datetime.now(UTC)
