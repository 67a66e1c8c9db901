"""People, by tokens: each reaches its own wallet, by whatever way, and learns nothing of another's."""

import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import httpx
import pytest
from factories import new_owner_id
from identity import AUDIENCE, ISSUER, Identity, jwks
from watched import endpoint_of, statements_of

from wallet_gql.domain.access import ALL_SCOPES
from wallet_gql.operations.opening import Ledger, open_ledger
from wallet_gql.settings import Settings

pytestmark = pytest.mark.anyio

EVERYTHING = " ".join(sorted(ALL_SCOPES))
NOBODY = "pe-nobody"


@pytest.fixture(scope="module")
def identity() -> Identity:
    return Identity()


@pytest.fixture
async def ledger(
    settings: Settings, identity: Identity, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Ledger]:
    file = tmp_path_factory.mktemp("provider") / "jwks.json"
    file.write_bytes(jwks(identity.jwk()))
    changes = {
        "access": "closed", "token_keys": str(file), "token_issuer": ISSUER, "token_audience": (AUDIENCE,)
    }  # fmt: skip
    async with open_ledger(settings.model_copy(update=changes)) as ledger:
        yield ledger


class People:
    """Players, each with its token and its wallet, and a server that knows them."""

    def __init__(self, client: httpx.AsyncClient, identity: Identity) -> None:
        self._client = client
        self._identity = identity

    async def ask(
        self, owner: str, query: str, scope: str = EVERYTHING, headers: dict[str, str] | None = None, **variables: Any
    ) -> httpx.Response:
        headers = {"authorization": f"Bearer {self._identity.token(owner, scope)}"} | (headers or {})
        return await self._client.post("/graphql", json={"query": query, "variables": variables}, headers=headers)

    async def data(self, owner: str, query: str, **variables: Any) -> Any:
        answer = await self.ask(owner, query, **variables)
        assert answer.status_code == 200, answer.text
        assert "errors" not in answer.json(), answer.text
        return answer.json()["data"]

    async def player(self, name: str) -> "Player":
        owner = new_owner_id(name)
        await self.data(owner, "mutation ($o: String!) { openWallet(input: {ownerId: $o}) { __typename } }", o=owner)
        topped = await self.data(owner, POST.replace("NAME", "topUp").replace("TYPE", "TopUp"), i=given(owner, "100"))
        held = await self.data(owner, PLACE, i=given(owner, "5"))
        wallet = topped["topUp"]["wallet"]["id"]
        return Player(
            owner,
            {
                "Wallet": wallet,
                "Balance": topped["topUp"]["balance"]["id"],
                "Transaction": topped["topUp"]["transaction"]["id"],
                "Hold": held["placeHold"]["hold"]["id"],
            },
        )


class Player:
    def __init__(self, owner: str, ids: dict[str, str]) -> None:
        self.owner = owner
        self.ids = ids


POST = """
mutation ($i: TYPEInput!) { NAME(input: $i) { ... on TYPEPayload { transaction { id } balance { id } wallet { id } } } }
"""
PLACE = "mutation ($i: PlaceHoldInput!) { placeHold(input: $i) { ... on PlaceHoldPayload { hold { id } } } }"
NODE = "query ($id: ID!) { node(id: $id) { __typename } }"


def given(owner: str, amount: str) -> dict[str, str]:
    return {"ownerId": owner, "amount": amount, "idempotencyKey": str(uuid4())}


@pytest.fixture
async def people(ledger: Ledger, identity: Identity) -> AsyncIterator[People]:
    async with endpoint_of(ledger) as client:
        yield People(client, identity)


async def test_a_person_is_told_who_it_is(people: People) -> None:
    asked = "{ viewer { actor { kind name } ownerId ownerPrefix scopes testMode now } }"
    answer = await people.ask("player-1", asked, "wallet:read profile wallet:spend audit:read")
    viewer = answer.json()["data"]["viewer"]
    assert viewer.pop("now") is not None
    assert viewer == {
        "actor": {"kind": "PERSON", "name": "player-1"}, "ownerId": "player-1", "ownerPrefix": None,
        "scopes": ["wallet:read", "wallet:spend"], "testMode": False,
    }  # fmt: skip


async def test_whoever_sends_no_token_or_a_wrong_one_is_told_so(ledger: Ledger) -> None:
    stranger = Identity().token()
    async with endpoint_of(ledger) as client:
        for headers in ({}, {"authorization": f"Bearer {stranger}"}, {"authorization": "Bearer rubbish"}):
            answer = await client.post("/graphql", json={"query": "{ __typename }"}, headers=headers)
            assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
            error = answer.json()["errors"][0]
            assert error["extensions"]["code"] == "UNAUTHENTICATED"
            assert stranger not in answer.text


async def test_a_person_may_do_what_its_token_gives(people: People) -> None:
    player = await people.player("own")
    query = "query ($o: String!) { balance(ownerId: $o) { amount } }"
    assert (await people.ask(player.owner, query, "wallet:read", o=player.owner)).status_code == 200
    for scope in ("", "history:read", "wallet:spend", "wallet:READ"):
        answer = await people.ask(player.owner, query, scope, o=player.owner)
        assert (answer.status_code, answer.json()["errors"][0]["extensions"]["code"]) == (403, "FORBIDDEN")


async def test_an_argument_that_names_another_owner_is_refused_before_anything_is_read(
    people: People, ledger: Ledger
) -> None:
    player, other = await people.player("player"), await people.player("other")
    queries = (
        "query ($o: String!) { FIELD(ownerId: $o) { __typename } }".replace("FIELD", field)
        for field in ("wallet", "balance", "transactions")
    )
    keyed = f'query ($o: String!) {{ FIELD(ownerId: $o, idempotencyKey: "{uuid4()}") {{ __typename }} }}'
    by_key = (keyed.replace("FIELD", field) for field in ("transactionByKey", "holdByKey", "outcomeByKey"))
    with statements_of(ledger) as statements:
        for text in (*queries, *by_key):
            answers = [await people.ask(player.owner, text, o=owner) for owner in (other.owner, NOBODY)]
            for answer in answers:
                assert answer.status_code == 403
                assert (
                    answer.json()["errors"][0]["message"]
                    == "ownerId names an owner who is not one of yours: name one who is."
                )
    assert statements == []


async def test_ids_of_another_owner_cost_what_missing_ones_do(people: People) -> None:
    player, other = await people.player("player"), await people.player("other")
    text = "query ($ids: [ID!]!) { nodes(ids: $ids) { __typename ... on Hold { id ownerId metadata } } }"

    async def cost(ids: list[str]) -> object:
        answer = (await people.ask(player.owner, text, ids=ids, headers={"x-graphql-cost": "1"})).json()
        assert answer["data"] == {"nodes": [None] * len(ids)}
        return {name: answer["extensions"]["cost"][name] for name in ("requested", "actual")}

    ids = [other.ids["Hold"], other.ids["Wallet"], other.ids["Transaction"]]
    assert await cost(ids) == await cost([missing(id_) for id_ in ids]) == {"requested": 1 + 3 * 67, "actual": 1 + 3}


CHANGE = "mutation ($i: TYPEInput!) { NAME(input: $i) { __typename ... on Error { code message } } }"
CHANGES = [
    ("captureHold", "Hold", {}),
    ("voidHold", "Hold", {}),
    ("adjustHold", "Hold", {"amount": "1"}),
    ("refund", "Transaction", {}),
    ("clawback", "Transaction", {"description": "why"}),
]
READS = [
    ("node", "Wallet"),
    ("node", "Balance"),
    ("node", "Transaction"),
    ("node", "Hold"),
    ("transaction", "Transaction"),
    ("hold", "Hold"),
]


@pytest.mark.parametrize(("field", "kind"), READS)
async def test_an_id_of_another_owner_is_as_one_that_does_not_exist_in_answer_and_cost(
    people: People, ledger: Ledger, field: str, kind: str
) -> None:
    player, other = await people.player("player"), await people.player("other")
    text = f"query ($id: ID!) {{ {field}(id: $id) {{ id }} }}"

    async def asked(id_: str) -> tuple[object, list[str]]:
        with statements_of(ledger) as statements:
            return await people.data(player.owner, text, id=id_), statements

    assert await asked(other.ids[kind]) == await asked(missing(other.ids[kind]))
    assert (await asked(other.ids[kind]))[0] == {field: None}
    assert (await asked(player.ids[kind]))[0] == {field: {"id": player.ids[kind]}}


@pytest.mark.parametrize(("field", "kind", "more"), CHANGES)
async def test_what_is_another_s_is_changed_as_little_as_what_does_not_exist(
    people: People, ledger: Ledger, field: str, kind: str, more: dict[str, str]
) -> None:
    player, other = await people.player("player"), await people.player("other")
    text = CHANGE.replace("NAME", field).replace("TYPE", field[0].upper() + field[1:])

    async def asked(id_: str) -> tuple[str, list[str]]:
        wanted = {f"{kind.lower()}Id": id_, "idempotencyKey": str(uuid4()), **more}
        with statements_of(ledger) as statements:
            return json.dumps(await people.data(player.owner, text, i=wanted)).replace(id_, "ID"), statements

    found, statements = await asked(other.ids[kind])
    assert (found, statements) == await asked(missing(other.ids[kind]))
    assert f"{kind}NotFound" in found
    assert "NotFound" not in (await asked(player.ids[kind]))[0]


def missing(id_: str) -> str:
    """Return an id of the same kind that names nothing."""
    kind, shard, _, *rest = urlsafe_b64decode(id_ + "=" * (-len(id_) % 4)).decode().split(":")
    beyond = str(2**100 + 7) if kind == "Hold" else "999999999"
    return urlsafe_b64encode(":".join((kind, shard, beyond, *rest)).encode()).decode().rstrip("=")


async def test_what_is_reached_from_one_s_own_is_one_s_own(people: People) -> None:
    """Who got what another had held sees its transaction, and not the other's hold."""
    payer, payee = await people.player("payer"), await people.player("payee")
    placed = await people.data(payer.owner, PLACE, i=given(payer.owner, "5") | {"toOwnerId": payee.owner})
    capture = "mutation ($i: CaptureHoldInput!) { captureHold(input: $i) { __typename } }"
    hold = placed["placeHold"]["hold"]["id"]
    assert await people.data(payer.owner, capture, i={"holdId": hold, "idempotencyKey": str(uuid4())})
    history = """
    query ($o: String!) { transactions(ownerId: $o, first: 1) { nodes { type hold { id } counterpartyId } } }
    """
    seen = await people.data(payee.owner, history, o=payee.owner)
    assert seen["transactions"]["nodes"] == [{"type": "TRANSFER_IN", "hold": None, "counterpartyId": payer.owner}]
    seen = await people.data(payer.owner, history, o=payer.owner)
    assert seen["transactions"]["nodes"][0]["hold"] == {"id": hold}


async def test_a_cursor_of_another_owner_leads_nowhere(people: People) -> None:
    player, other = await people.player("player"), await people.player("other")
    page = """
    query ($o: String!, $c: String) { transactions(ownerId: $o, first: 1, after: $c) { edges { cursor } } }
    """
    cursor = (await people.data(other.owner, page, o=other.owner))["transactions"]["edges"][0]["cursor"]
    answer = await people.ask(player.owner, page, o=player.owner, c=cursor)
    assert "errors" in answer.json()
    assert other.owner not in answer.text


async def test_people_keep_no_books_of_others(people: People) -> None:
    answer = await people.ask("player-1", "{ apiKeys { name } }")
    assert (answer.status_code, answer.json()["errors"][0]["extensions"]["code"]) == (403, "FORBIDDEN")
