"""Who asked for what: kept with every transaction, hold and status, read by auditors, and by others of themselves."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import httpx
import pytest
from conftest import Served, environment
from identity import AUDIENCE, ISSUER, Identity, jwks
from schemas import fetch

from wallet_gql.db.engine import close, create_engine
from wallet_gql.domain.access import ALL_SCOPES, COMMAND_LINE, Scope
from wallet_gql.domain.postings import Posted
from wallet_gql.operations import api_keys
from wallet_gql.operations.api_keys import KeyInput
from wallet_gql.operations.opening import open_ledger
from wallet_gql.operations.postings import PostingInput, top_up
from wallet_gql.operations.proof import prove
from wallet_gql.settings import Settings

CALLERS: Final = {
    "game": KeyInput("game", sorted(ALL_SCOPES - {Scope.AUDIT})),
    "shop": KeyInput("shop", [Scope.SPEND, Scope.CAPTURE, Scope.HISTORY_READ]),
    "auditor": KeyInput("auditor", [Scope.HISTORY_READ, Scope.WALLET_READ, Scope.AUDIT]),
    "promotions": KeyInput("promotions", [Scope.BONUS], daily_issuance="10"),
    "regional": KeyInput("regional", [Scope.AUDIT, Scope.HISTORY_READ], "eu-"),
}

# What has no note: who asked for what.
LACKING: Final = {
    "transaction": "SELECT id, type FROM transaction t WHERE NOT EXISTS (SELECT FROM transaction_note n"
    " WHERE (n.shard, n.transaction_id) = (t.shard, t.id) AND n.actor_kind IS NOT NULL)",
    "hold_step": "SELECT hold_id, kind FROM hold_step s WHERE kind <> 55 AND NOT EXISTS (SELECT FROM transaction_note n"
    " WHERE (n.shard, n.transaction_id) = (s.shard, s.event_id) AND n.actor_kind IS NOT NULL)",
    "wallet_state": "SELECT wallet_id, status FROM wallet_state s WHERE NOT EXISTS (SELECT FROM transaction_note n"
    " WHERE (n.shard, n.transaction_id) = (s.shard, s.event_id) AND n.actor_kind IS NOT NULL)",
}


@dataclass(slots=True)
class Doors:
    """A server that knows keys and people, and the credentials of each caller."""

    served: Served
    settings: Settings
    keys: dict[str, str]
    identity: Identity
    last_request_id: str = ""
    """Which the last answer says."""

    def ask(self, caller: str, query: str, request_id: str = "", **variables: Any) -> Any:
        """Ask as the holder of a key, or as the person of this owner id, "@" before it; nothing may go wrong."""
        token = self.keys.get(caller) or self.identity.token(caller.removeprefix("@"), " ".join(ALL_SCOPES))
        headers = {"authorization": f"Bearer {token}"} | ({"x-request-id": request_id} if request_id else {})
        answer = httpx.post(self.served.url, json={"query": query, "variables": variables}, headers=headers, timeout=30)
        assert answer.status_code == 200, answer.text
        assert "errors" not in answer.json(), answer.text
        self.last_request_id = answer.headers["x-request-id"]
        return answer.json()["data"]

    def do(self, caller: str, mutation: str, request_id: str = "", **input: Any) -> Any:
        """Send a mutation that is to succeed; returns its payload."""
        name = mutation[0].upper() + mutation[1:]
        payload = "WalletPayload" if name.endswith("Wallet") and name != "OpenWallet" else f"{name}Payload"
        shown = f"__typename ... on {payload} {{ {SHOWN[name]} }}"
        query = f"mutation ($i: {name}Input!) {{ {mutation}(input: $i) {{ {shown} }} }}"
        keyed = {} if mutation == "openWallet" else {"idempotencyKey": str(uuid4())}
        answer = self.ask(caller, query, request_id, i=keyed | input)[mutation]
        assert answer["__typename"] == payload, answer
        return answer


ASKED: Final = "actor { kind name } requestId"
_OF_HOLD: Final = f"hold {{ id {ASKED} }}"
_OF_TRANSACTION: Final = f"transaction {{ id type ownerId {ASKED} }}"
_OF_WALLET: Final = "wallet { status statusActor { kind name } statusRequestId }"
SHOWN: Final = {
    "OpenWallet": "alreadyOpen",
    **dict.fromkeys(("TopUp", "Bonus", "Spend", "Transfer", "Refund"), _OF_TRANSACTION),
    **dict.fromkeys(("PlaceHold", "VoidHold", "AdjustHold"), _OF_HOLD),
    "CaptureHold": f"{_OF_HOLD} {_OF_TRANSACTION}",
    "Clawback": f"clawback {{ id {ASKED} }} indebted",
    **dict.fromkeys(("FreezeWallet", "UnfreezeWallet", "CloseWallet", "ReopenWallet"), _OF_WALLET),
}


@pytest.fixture(scope="module")
def doors(
    serve: Callable[..., Served], new_database: Callable[[str], Settings], tmp_path_factory: pytest.TempPathFactory
) -> Doors:
    settings, identity = new_database("asked_by"), Identity()
    file: Path = tmp_path_factory.mktemp("provider") / "jwks.json"
    file.write_bytes(jwks(identity.jwk()))

    async def make() -> dict[str, str]:
        owner = create_engine(settings, settings.owner_url())
        keys = {name: await api_keys.create_key(owner, "live", asked) for name, asked in CALLERS.items()}
        await close(owner)
        return keys

    keys = asyncio.run(make())
    provider = {"WALLET_TOKEN_KEYS": str(file), "WALLET_TOKEN_ISSUER": ISSUER, "WALLET_TOKEN_AUDIENCE": AUDIENCE}
    return Doors(serve(environment(settings, WALLET_ACCESS="closed", **provider)), settings, keys, identity)


def player(doors: Doors, owner: str = "", amount: str = "100") -> str:
    owner = owner or f"asked-{uuid4().hex[:12]}"
    doors.do("game", "openWallet", ownerId=owner)
    doors.do("game", "topUp", ownerId=owner, amount=amount)
    return owner


def actor(name: str, kind: str = "API_KEY") -> dict[str, str]:
    return {"kind": kind, "name": name}


def search(doors: Doors, caller: str = "auditor", **arguments: Any) -> Any:
    types = {"requestId": "String", "actor": "String", "actorKind": "ActorKind", "first": "Int", "after": "String"}
    given = ", ".join(f"${name}: {types[name]}" for name in arguments)
    passed = ", ".join(f"{name}: ${name}" for name in arguments)
    query = f"""query ({given}) {{ searchTransactions({passed}) {{
      nodes {{ id type ownerId {ASKED} }} pageInfo {{ hasNextPage endCursor }} totalCount }} }}"""
    return doors.ask(caller, query, **arguments)["searchTransactions"]


def test_every_movement_says_who_asked_for_it_and_by_which_request(doors: Doors) -> None:
    owner, other = player(doors), player(doors)
    topped = doors.do("game", "topUp", "r-1", ownerId=owner, amount="50")["transaction"]
    assert (topped["actor"], topped["requestId"]) == (actor("game"), "r-1")
    spent = doors.do("shop", "spend", ownerId=owner, amount="5")["transaction"]
    assert spent["actor"] == actor("shop")
    assert len(spent["requestId"]) == 32
    doors.do("game", "refund", transactionId=spent["id"])
    doors.do(owner, "transfer", "r-2", fromOwnerId=owner, toOwnerId=other, amount="5")
    hold = doors.do("game", "placeHold", "r-3", ownerId=owner, amount="9", toOwnerId=other)["hold"]
    assert (hold["actor"], hold["requestId"]) == (actor("game"), "r-3")
    doors.do("game", "adjustHold", holdId=hold["id"], amount="8")
    taken = doors.do("shop", "captureHold", "r-4", holdId=hold["id"], amount="3", keepRemainder=True)
    assert taken["transaction"]["actor"] == actor("shop")
    assert taken["hold"]["actor"] is None  # the game placed it
    doors.do("game", "voidHold", holdId=hold["id"])
    frozen = doors.do("game", "freezeWallet", "r-5", ownerId=owner, note="Fraud?")["wallet"]
    assert (frozen["statusActor"], frozen["statusRequestId"]) == (actor("game"), "r-5")
    doors.do("game", "unfreezeWallet", ownerId=owner)
    # What is taken is more than there is: the owner owes the rest, and repays it by what comes.
    doors.do(owner, "transfer", fromOwnerId=owner, toOwnerId=other, amount="60")
    clawed = doors.do(
        "game", "clawback", transactionId=topped["id"], description="Chargeback", onShortfall="DEBT", amount="50"
    )
    assert clawed["clawback"]["actor"] == actor("game")
    doors.do("game", "placeHold", ownerId=other, amount="7")
    doors.do("game", "closeWallet", ownerId=other, note="Left", remainder="TRANSFER", toOwnerId=owner, voidHolds=True)
    doors.do("game", "reopenWallet", ownerId=other)
    doors.do("game", "bonus", ownerId=owner, amount="1")
    for rows in LACKING.values():
        assert fetch(doors.settings.owner_url(), rows) == []
    assert asyncio.run(prove(doors.settings)).findings == []


def test_a_debt_says_nothing_of_who_froze_the_wallet(doors: Doors) -> None:
    owner = player(doors)
    topped = doors.do("game", "topUp", ownerId=owner, amount="50")["transaction"]
    doors.do("shop", "spend", ownerId=owner, amount="120")
    doors.do(owner, "freezeWallet", "f-1", ownerId=owner, note="Lost my phone")
    doors.do("game", "clawback", "f-2", transactionId=topped["id"], description="Fraud", onShortfall="DEBT")
    asked = f'{{ wallet(ownerId: "{owner}") {{ status statusActor {{ kind name }} statusRequestId }} }}'
    expected = {"status": "FROZEN_OUT", "statusActor": actor(owner, "PERSON"), "statusRequestId": "f-1"}
    assert doors.ask("auditor", asked)["wallet"] == expected


STATUS: Final = "status statusActor { kind name } statusRequestId"


def status(doors: Doors, owner: str) -> tuple[str, str | None, str | None]:
    """Return an owner's status, the name of who gave it, and by which request."""
    found = doors.ask("auditor", f'{{ wallet(ownerId: "{owner}") {{ {STATUS} }} }}')["wallet"]
    return found["status"], found["statusActor"] and found["statusActor"]["name"], found["statusRequestId"]


def owe(doors: Doors, owner: str, request_id: str) -> dict[str, Any]:
    """Take back more than the owner has left."""
    topped = doors.do("game", "topUp", ownerId=owner, amount="50")["transaction"]
    doors.do("shop", "spend", ownerId=owner, amount="150")
    taken: dict[str, Any] = doors.do(
        "game", "clawback", request_id, transactionId=topped["id"], description="Fraud", onShortfall="DEBT"
    )
    return taken


def test_who_comes_to_owe_was_given_no_status_by_that(doors: Doors) -> None:
    owner = player(doors)
    assert status(doors, owner) == ("OPEN", None, None)
    assert owe(doors, owner, "d-1") == {"__typename": "ClawbackPayload", "clawback": None, "indebted": "50"}
    assert status(doors, owner) == ("OPEN", None, None)
    doors.do("game", "freezeWallet", "d-2", ownerId=owner, note="Why")
    assert status(doors, owner) == ("FROZEN_OUT", "game", "d-2")
    # That all is owed is a transaction, and an event of the wallet; both say who asked.
    for rows in LACKING.values():
        assert fetch(doors.settings.owner_url(), rows) == []
    assert search(doors, requestId="d-1")["nodes"] == []


def test_the_last_of_those_who_gave_the_same_status_is_told(doors: Doors) -> None:
    owner = player(doors)
    doors.do("game", "freezeWallet", "a", ownerId=owner, note="n1")
    doors.do(owner, "freezeWallet", "b", ownerId=owner, note="n2")
    doors.do("game", "freezeWallet", "c", ownerId=owner, note="n1")
    assert status(doors, owner) == ("FROZEN_OUT", "game", "c")


def test_a_freeze_that_ended_by_itself_was_ended_by_nobody(doors: Doors) -> None:
    owner = player(doors)
    ended = (datetime.now(UTC) + timedelta(seconds=1)).isoformat()
    doors.do("game", "freezeWallet", "e-1", ownerId=owner, note="Why", until=ended)
    while status(doors, owner)[0] != "OPEN":
        time.sleep(0.05)
    assert status(doors, owner) == ("OPEN", None, None)
    owe(doors, owner, "e-2")
    assert status(doors, owner) == ("OPEN", None, None)


def test_who_is_no_auditor_sees_what_it_did_itself(doors: Doors) -> None:
    owner, other = player(doors), player(doors)
    doors.do(owner, "spend", "p-1", ownerId=owner, amount="5")
    doors.do(other, "transfer", "p-2", fromOwnerId=other, toOwnerId=owner, amount="5")
    history = f"query ($o: String!) {{ transactions(ownerId: $o) {{ nodes {{ type {ASKED} }} }} }}"

    def seen(caller: str) -> list[Any]:
        return [
            (each["type"], each["actor"] and each["actor"]["name"], each["requestId"])
            for each in doors.ask(caller, history, o=owner)["transactions"]["nodes"]
        ]

    assert seen(owner) == [("TRANSFER_IN", None, None), ("SPEND", owner, "p-1"), ("TOP_UP", None, None)]
    assert seen("shop") == [("TRANSFER_IN", None, None), ("SPEND", None, None), ("TOP_UP", None, None)]
    by_game, by_auditor = seen("game"), seen("auditor")
    assert [name for _, name, _ in by_game] == [None, None, "game"]
    assert [name for _, name, _ in by_auditor] == [other, owner, "game"]
    assert [request for _, _, request in by_auditor][:2] == ["p-2", "p-1"]


def test_a_person_named_as_a_key_is_not_that_key(doors: Doors) -> None:
    owner = player(doors, "game")
    history = f'{{ transactions(ownerId: "{owner}") {{ nodes {{ {ASKED} }} }} }}'
    assert doors.ask(f"@{owner}", history)["transactions"]["nodes"] == [{"actor": None, "requestId": None}]


def test_auditors_find_what_an_actor_or_a_request_did_page_by_page(doors: Doors) -> None:
    owner, other = player(doors, f"eu-{uuid4().hex[:8]}"), player(doors, f"us-{uuid4().hex[:8]}")
    request = f"s-{uuid4().hex}"
    posted = [
        doors.do(each, "spend", request, ownerId=each, amount="1")["transaction"]["id"]
        for each in (owner, other, owner, other, owner)
    ]
    doors.do(owner, "placeHold", request, ownerId=owner, amount="1")
    newest_first = posted[::-1]
    assert [each["id"] for each in search(doors, requestId=request)["nodes"]] == newest_first
    assert [each["id"] for each in search(doors, requestId=request, actor=other)["nodes"]] == newest_first[1::2]
    assert [each["id"] for each in search(doors, actor=owner)["nodes"]] == newest_first[::2]
    assert [each["id"] for each in search(doors, actor=owner, actorKind="PERSON")["nodes"]] == newest_first[::2]
    assert search(doors, actor=owner, actorKind="API_KEY")["nodes"] == []
    assert search(doors, requestId="nobody's")["nodes"] == []
    walked, after = [], None
    while True:
        page = search(doors, requestId=request, first=2, after=after)
        walked += [each["id"] for each in page["nodes"]]
        after = page["pageInfo"]["endCursor"]
        if not page["pageInfo"]["hasNextPage"]:
            break
    assert walked == newest_first
    # Who reaches some owners only finds theirs.
    assert {each["ownerId"] for each in search(doors, "regional", requestId=request)["nodes"]} == {owner}
    whole = search(doors, actor="game", first=1)
    assert (whole["totalCount"], whole["pageInfo"]["hasNextPage"]) == (None, True)


def spend_at_once(doors: Doors, caller: str, owner: str, *amounts: str, **headers: str) -> tuple[str, list[Any]]:
    """Send spends by one request; returns its id, and what was posted, oldest first."""
    spends = " ".join(
        f'n{n}: spend(input: {{ownerId: "{owner}", amount: {amount}, idempotencyKey: "{uuid4()}"}}) {{'
        f" __typename ... on SpendPayload {{ transaction {{ id type ownerId {ASKED} }} }} }}"
        for n, amount in enumerate(amounts)
    )
    token = doors.keys.get(caller) or doors.identity.token(caller, " ".join(ALL_SCOPES))
    answer = httpx.post(
        doors.served.url,
        json={"query": f"mutation {{ {spends} }}"},
        headers={"authorization": f"Bearer {token}"} | headers,
    )
    posted = [each.get("transaction") for each in answer.json()["data"].values()]
    return answer.headers["x-request-id"], [each for each in posted if each is not None]


# What is kept of the ids of the requests of an owner, oldest first.
_KEPT: Final = """
SELECT n.request_id FROM transaction_note n JOIN transaction t ON (t.shard, t.id) = (n.shard, n.transaction_id)
  JOIN wallet w ON (w.shard, w.id) = (t.shard, t.wallet_id) WHERE w.owner_id = '{}' AND t.type = 3 ORDER BY n.at, t.id
"""


@pytest.mark.parametrize("by", ["key", "person"])
def test_an_id_that_the_service_made_is_told_of_all_that_the_request_posted(doors: Doors, by: str) -> None:
    owner = player(doors)
    caller = owner if by == "person" else "game"
    request, posted = spend_at_once(doors, caller, owner, "1", "2", "3")
    assert len(request) == 32
    assert [each["requestId"] for each in posted] == [request] * 3
    assert [row[0] for row in fetch(doors.settings.owner_url(), _KEPT.format(owner))] == [None, request, request]
    newest_first = [each["id"] for each in reversed(posted)]
    assert [each["id"] for each in search(doors, requestId=request)["nodes"]] == newest_first
    assert [each["id"] for each in search(doors, requestId=request, actor=caller)["nodes"]] == newest_first
    assert search(doors, requestId=request, actor="shop")["nodes"] == []
    assert search(doors, "regional", requestId=request)["nodes"] == []
    assert search(doors, requestId=request.upper())["nodes"] == []
    walked, after = [], None
    while True:
        page = search(doors, requestId=request, first=1, after=after)
        walked += [each["id"] for each in page["nodes"]]
        after = page["pageInfo"]["endCursor"]
        if not page["pageInfo"]["hasNextPage"]:
            break
    assert walked == newest_first


def test_a_request_whose_first_posting_is_refused_is_told_of_the_others(doors: Doors) -> None:
    owner = player(doors)
    request, posted = spend_at_once(doors, "game", owner, "1000000", "2")
    assert [each["requestId"] for each in posted] == [request]
    assert [each["id"] for each in search(doors, requestId=request)["nodes"]] == [posted[0]["id"]]


def test_an_id_that_the_caller_sends_may_be_sent_again(doors: Doors) -> None:
    owner, own = player(doors), uuid4().hex
    first = spend_at_once(doors, "game", owner, "1", **{"x-request-id": own})[1]
    second = spend_at_once(doors, "game", owner, "1", **{"x-request-id": own})[1]
    assert [each["requestId"] for each in first + second] == [own, own]
    # Also where it is that of another's request, which then has one more.
    request, posted = spend_at_once(doors, owner, owner, "1")
    again = spend_at_once(doors, "game", owner, "1", **{"x-request-id": request})[1]
    assert [each["id"] for each in search(doors, requestId=request)["nodes"]] == [again[0]["id"], posted[0]["id"]]


def test_each_kind_of_event_tells_the_id_that_the_service_made(doors: Doors) -> None:
    owner, other = player(doors), player(doors)

    def told(mutation: str, **input: Any) -> Any:
        shown = doors.do("game", mutation, **input)
        assert len(doors.last_request_id) == 32
        assert f"equestId': '{doors.last_request_id}'" in str(shown)
        return shown

    told("transfer", fromOwnerId=owner, toOwnerId=other, amount="5")
    # Both halves have it.
    assert {each["ownerId"] for each in search(doors, requestId=doors.last_request_id)["nodes"]} == {owner, other}
    hold = told("placeHold", ownerId=owner, amount="9", toOwnerId=other)["hold"]["id"]
    told("captureHold", holdId=hold, amount="3", keepRemainder=True)
    spent = told("spend", ownerId=owner, amount="5")["transaction"]["id"]
    told("refund", transactionId=spent)
    topped = told("topUp", ownerId=owner, amount="5")["transaction"]["id"]
    told("clawback", transactionId=topped, description="Chargeback")
    told("freezeWallet", ownerId=owner, note="Fraud?")
    told("unfreezeWallet", ownerId=owner)
    told("closeWallet", ownerId=other, note="Left", remainder="FORFEIT", voidHolds=True)
    told("reopenWallet", ownerId=other)
    assert asyncio.run(prove(doors.settings)).findings == []


def test_what_no_request_asked_for_has_no_id_of_one(doors: Doors) -> None:
    owner = player(doors)

    async def credit() -> Posted:
        async with open_ledger(doors.settings) as ledger:
            asked = PostingInput(owner, "GOLD", Decimal(5), uuid4(), asked_by=COMMAND_LINE)
            posted = await top_up(ledger, asked)
            assert isinstance(posted, Posted)
            return posted

    posted = asyncio.run(credit()).transaction
    shown = doors.ask("auditor", f'{{ transactions(ownerId: "{owner}", first: 1) {{ nodes {{ {ASKED} }} }} }}')
    assert shown["transactions"]["nodes"] == [{"actor": actor("wallet-gql", "OPERATOR"), "requestId": None}]
    assert search(doors, requestId=posted.id.hex)["nodes"] == []


def test_a_key_gives_no_more_in_a_day_than_it_may(doors: Doors) -> None:
    owner = player(doors)
    doors.do("promotions", "bonus", ownerId=owner, amount="7")
    query = "mutation ($i: BonusInput!) { bonus(input: $i) { __typename } }"
    headers = {"authorization": f"Bearer {doors.keys['promotions']}"}
    for amount in ("4", "5"):
        asked = {"ownerId": owner, "amount": amount, "idempotencyKey": str(uuid4())}
        answer = httpx.post(doors.served.url, json={"query": query, "variables": {"i": asked}}, headers=headers)
        error = answer.json()["errors"][0]
        assert (error["extensions"]["code"], error["extensions"]["field"]) == ("FORBIDDEN", "amount")
        assert error["message"].startswith("amount is more than 3 GOLD")
    doors.do("promotions", "bonus", ownerId=owner, amount="3")
    assert asyncio.run(prove(doors.settings)).findings == []


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({}, "requestId"),
        ({"actor": ""}, "actor"),
        ({"requestId": "x" * 129}, "requestId"),
        ({"actor": "a\0b"}, "actor"),
        ({"actor": "a", "first": 101}, "first"),
        ({"actor": "a", "after": "rubbish"}, "after"),
        ({"actor": "a", "after": "Q3Vyc29yOjE6MToxOjE"}, "after"),
    ],
)
def test_a_search_for_what_there_cannot_be_is_refused(doors: Doors, arguments: dict[str, Any], field: str) -> None:
    given = ", ".join(f"{name}: {value!r}".replace("'", '"') for name, value in arguments.items())
    query = f"{{ searchTransactions{f'({given})' if given else ''} {{ nodes {{ id }} }} }}"
    headers = {"authorization": f"Bearer {doors.keys['auditor']}"}
    error = httpx.post(doors.served.url, json={"query": query.replace("\\x00", "\\u0000")}, headers=headers).json()[
        "errors"
    ][0]
    assert (error["extensions"]["code"], error["extensions"].get("field")) == ("BAD_USER_INPUT", field), error


def test_where_access_is_open_only_a_request_that_says_its_id_is_noted(served: Served) -> None:
    owner = f"open-{uuid4().hex[:8]}"

    def ask(query: str, **headers: str) -> Any:
        return httpx.post(served.url, json={"query": query}, headers=headers).json()["data"]

    ask(f'mutation {{ openWallet(input: {{ownerId: "{owner}"}}) {{ __typename }} }}')
    for headers in ({}, {"x-request-id": "mine"}):
        ask(
            f'mutation {{ topUp(input: {{ownerId: "{owner}", amount: 1, idempotencyKey: "{uuid4()}"}})'
            " { __typename } }",
            **headers,
        )
    nodes = ask(f'{{ transactions(ownerId: "{owner}") {{ nodes {{ {ASKED} }} }} }}')["transactions"]["nodes"]
    assert nodes == [{"actor": None, "requestId": "mine"}, {"actor": None, "requestId": None}]
