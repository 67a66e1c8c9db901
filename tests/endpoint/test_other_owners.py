"""Another owner's wallet, by every way that the schema has: for a person, and for a key of some owners.

Who names another owner is refused before anything is read, whether there is such an owner or not; an id, a cursor or a
key of another's is as one that does not exist, in answer and in statements.
"""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import AsyncIterator, Iterator
from typing import Final, NamedTuple
from uuid import uuid4

import pytest
from callers import Callers, Owned, codes, example_of, open_callers
from graphql import GraphQLArgument, GraphQLInputField, is_required_input_field
from paths import Place, asked_at, field_of, places

from wallet_gql.domain.access import PERSONAL_SCOPES
from wallet_gql.graphql.policy import RULES
from wallet_gql.operations.proof import prove
from wallet_gql.settings import Settings

pytestmark = pytest.mark.anyio

WHO: Final = ("player", "region")


class Two(NamedTuple):
    """What callers may reach, and what they may not; `missing` is an owner without a wallet."""

    own: Owned
    other: Owned
    missing: str = "other-nobody"


@pytest.fixture(scope="module")
async def callers(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Callers]:
    async with open_callers(settings, tmp_path_factory.mktemp("provider")) as callers:
        yield callers
    assert (await prove(settings)).findings == []


@pytest.fixture(scope="module")
async def two(callers: Callers) -> Two:
    two = Two(await callers.owner("own"), await callers.owner("other"))
    callers.add_person("player", two.own.owner_id)
    await callers.add_key("region", prefix="own-")
    return two


def names_an_owner(place: Place) -> bool:
    """Say whether a place names an owner by itself: whoever only gets something may be anybody."""
    return "owner" in place.name.lower() and not place.name.startswith("to")


def written(place: Place, two: Two, owner: str) -> Iterator[tuple[str, dict[str, object]]]:
    """Yield documents that name an owner at a place, with their variables, in every shape that a document has."""
    example, kind = example_of(two.own, two.other), place.root[0].lower()
    type_ = str(place.given.type)

    def asked(value: str) -> str:
        return asked_at(place, value, example)

    own, quoted = f'"{two.own.owner_id}"', f'"{owner}"'
    literal = asked(quoted)
    yield f"{kind} {{ {literal} }}", {}
    yield f"{kind} {{ ... on {place.root[0]} {{ a: {literal} }} }}", {}
    yield f"{kind} {{ ...F }} fragment F on {place.root[0]} {{ ... {{ {literal} }} }}", {}
    yield f"{kind} {{ one: {asked(own)} two: {literal} }}", {}
    yield f"{kind} ($no: Boolean! = false) {{ {literal.replace(') {', ') @include(if: $no) {', 1)} }}", {}
    yield f"{kind} ($yes: Boolean! = true) {{ ... @skip(if: $yes) {{ {literal} }} }}", {}
    yield f"{kind} ($o: {type_}) {{ {asked('$o')} }}", {"o": [two.own.owner_id, owner] if place.is_list else owner}
    yield f"{kind} ($o: {type_} = {quoted}) {{ {asked('$o')} }}", {}
    block = '""' + quoted + '""'
    yield f"{kind} {{ {asked(block)} }}", {}
    if place.is_list:
        yield f"{kind} ($o: String!) {{ {asked(f'[{own}, $o]')} }}", {"o": owner}


@pytest.mark.parametrize("who", WHO)
@pytest.mark.parametrize("place", [each for each in places() if names_an_owner(each)], ids=str)
async def test_naming_another_owner(callers: Callers, two: Two, who: str, place: Place) -> None:
    there, missing = (list(written(place, two, owner)) for owner in (two.other.owner_id, two.missing))
    for (text, variables), (text_of_missing, variables_of_missing) in zip(there, missing, strict=True):
        answer, statements = await callers.cost(who, text, **variables)
        assert (answer.status_code, codes(answer)) == (403, ["FORBIDDEN"]), (text, answer.text)
        assert "data" not in answer.json()
        assert statements == []
        again, statements = await callers.cost(who, text_of_missing, **variables_of_missing)
        assert (again.text, statements) == (answer.text, []), text


@pytest.mark.parametrize("who", WHO)
async def test_naming_another_owner_in_a_whole_input(callers: Callers, two: Two, who: str) -> None:
    example = example_of(two.own, two.other)
    for place in (each for each in places() if names_an_owner(each) and each.root[0] == "Mutation"):
        type_ = str(field_of(place.root).args["input"].type)
        given = {each.name: example.of(each.name, each.given.type).strip('"') for each in needed_beside(place)}
        text = f"mutation ($i: {type_}) {{ {place.root[1]}(input: $i) {{ __typename }} }}"
        answers = []
        for owner in (two.other.owner_id, two.missing):
            answer, statements = await callers.cost(who, text, i=given | {place.name: owner})
            assert (answer.status_code, codes(answer), statements) == (403, ["FORBIDDEN"], []), text
            answers.append(answer.text)
        assert answers[0] == answers[1]


def needed_beside(place: Place) -> list[Place]:
    """Return what an input must have; all of it is text."""
    return [each for each in places() if each.root == place.root and is_needed(each.given)]


def is_needed(given: GraphQLArgument | GraphQLInputField) -> bool:
    return isinstance(given, GraphQLInputField) and is_required_input_field(given)


KINDS: Final = {
    "holdId": ("Hold",),
    "transactionId": ("Transaction",),
    "hold.id": ("Hold",),
    "transaction.id": ("Transaction",),
    "limitId": ("Limit",),
    "node.id": ("Wallet", "Balance", "Transaction", "Hold", "Lot", "Limit"),
    "nodes.ids": ("Wallet", "Balance", "Transaction", "Hold", "Lot", "Limit"),
}


def kinds_of(place: Place) -> tuple[str, ...]:
    return KINDS.get(place.name) or KINDS[str(place)]


def may_ask(who: str, place: Place) -> bool:
    """Say whether a caller may ask for a field at all: limits are set by no person."""
    needed = RULES[place.root]
    return who != "player" or not needed or not needed.isdisjoint(PERSONAL_SCOPES)


@pytest.mark.parametrize(
    ("who", "place"),
    [(who, each) for who in WHO for each in places() if each.type_name == "ID" and may_ask(who, each)],
    ids=str,
)
async def test_an_id_of_another(callers: Callers, two: Two, who: str, place: Place) -> None:
    before = await callers.amount(two.other.owner_id)
    for kind in kinds_of(place):

        async def asked(id_: str) -> tuple[str, list[str]]:
            text = asked_at(place, f'"{id_}"', example_of(two.own, two.other))
            answer, statements = await callers.cost(who, f"{place.root[0].lower()} {{ {text} }}")
            assert (answer.status_code, codes(answer)) == (200, []), answer.text
            return answer.text.replace(id_, "ID"), statements

        found, statements = await asked(two.other.ids[kind])
        assert (found, statements) == await asked(missing(two.other.ids[kind])), kind
        assert "NotFound" in found if place.root[0] == "Mutation" else found.count("null") == 1
        assert (await asked(two.own.ids[kind]))[0] != found
    assert await callers.amount(two.other.owner_id) == before


def missing(id_: str) -> str:
    """Return an id or cursor of the same kind and shard that names nothing."""
    kind, shard, _, *rest = urlsafe_b64decode(id_ + "=" * (-len(id_) % 4)).decode().split(":")
    beyond = str(2**100 + 7) if kind == "Hold" else "999999999"
    return urlsafe_b64encode(":".join((kind, shard, beyond, *rest)).encode()).decode().rstrip("=")


def is_of_an_owner(place: Place) -> bool:
    """Say whether a place takes a cursor of an owner's list."""
    return place.name in {"after", "before"} and "ownerId" in field_of(place.root).args


@pytest.mark.parametrize("who", WHO)
@pytest.mark.parametrize("place", [each for each in places() if is_of_an_owner(each)], ids=str)
async def test_a_cursor_of_another(callers: Callers, two: Two, who: str, place: Place) -> None:
    for cursor in (two.other.ids["Cursor"], two.other.ids["HoldCursor"]):
        told = []
        for each in (cursor, missing(cursor)):
            text = asked_at(place, f'"{each}"', example_of(two.own, two.other))
            answer, statements = await callers.cost(who, f"{{ {text} }}")
            assert (answer.status_code, codes(answer)) == (200, ["BAD_USER_INPUT"])
            told.append((answer.text, statements))
        assert told[0] == told[1]


BELOW: Final = {
    "a: transactions(after: $c)": "HoldCursor",
    "a: transactions(before: $c)": "HoldCursor",
    "balance { holds(after: $c)": "HoldCursor",
    "balance { lots(after: $c)": "LotCursor",
}


@pytest.mark.parametrize("who", WHO)
async def test_a_cursor_of_another_below_one_s_own(callers: Callers, two: Two, who: str) -> None:
    for below, kind in BELOW.items():
        end = "}" * (1 + below.count("{"))
        text = f"query ($o: String!, $c: String!) {{ wallet(ownerId: $o) {{ {below} {{ __typename }} {end} }}"
        told = []
        for cursor in (two.other.ids[kind], missing(two.other.ids[kind])):
            answer, statements = await callers.cost(who, text, o=two.own.owner_id, c=cursor)
            assert codes(answer) == ["BAD_USER_INPUT"]
            told.append((answer.text, statements))
        assert told[0] == told[1]


@pytest.mark.parametrize("who", WHO)
@pytest.mark.parametrize("field", ["transactionByKey", "holdByKey", "outcomeByKey"])
async def test_a_key_of_another(callers: Callers, two: Two, who: str, field: str) -> None:
    """Keys are an owner's own: what another sent is not known for one's own wallet."""
    below = "{ state }" if field == "outcomeByKey" else "{ id }"
    text = f"query ($o: String!, $k: UUID!) {{ {field}(ownerId: $o, idempotencyKey: $k) {below} }}"

    async def asked(key: str) -> tuple[str, list[str]]:
        answer, statements = await callers.cost(who, text, o=two.own.owner_id, k=key)
        assert (answer.status_code, codes(answer)) == (200, [])
        return answer.text, statements

    for key in (two.other.key, two.other.hold_key):
        assert await asked(key) == await asked(str(uuid4()))


@pytest.mark.parametrize("who", WHO)
async def test_another_s_key_is_free_for_one_s_own(callers: Callers, two: Two, who: str) -> None:
    for place in (each for each in places() if each.name == "idempotencyKey" and each.root[1] in {"spend", "topUp"}):
        example = example_of(two.own, two.other)
        text = asked_at(place, f'"{two.other.hold_key}"', example)
        found = (await callers.data(who, f"mutation {{ {text} }}"))[place.root[1]]
        assert found["__typename"] in {"SpendPayload", "TopUpPayload", "IdempotencyKeyReused"}
    seen = await callers.data("operator", OUTCOME, o=two.other.owner_id, k=two.other.hold_key)
    assert seen == {"outcomeByKey": {"state": "HELD", "transaction": None}}


OUTCOME: Final = """
query ($o: String!, $k: UUID!) { outcomeByKey(ownerId: $o, idempotencyKey: $k) { state transaction { id } } }
"""


@pytest.mark.parametrize("who", WHO)
async def test_a_receipt_of_another(callers: Callers, two: Two, who: str) -> None:
    """It is told that it was used, for it is credited once; not by whom, nor what it credited."""
    receipt, text = (
        str(uuid4()),
        """
    mutation ($i: TopUpInput!) { topUp(input: $i) { __typename ... on ReceiptUsed { message creditedBy { id } } } }
    """,
    )
    used = {"ownerId": two.other.owner_id, "amount": "1", "receipt": receipt}
    await callers.data("operator", text, i=used | {"idempotencyKey": str(uuid4())})
    mine = used | {"ownerId": two.own.owner_id, "idempotencyKey": str(uuid4())}
    answer = await callers.ask(who, text, i=mine)
    found = answer.json()["data"]["topUp"]
    assert (found["__typename"], found["creditedBy"]) == ("ReceiptUsed", None)
    assert two.other.owner_id not in answer.text


async def test_one_operation_of_a_document_is_judged_by_itself(callers: Callers, two: Two) -> None:
    owners = {"Own": two.own.owner_id, "Other": two.other.owner_id}
    text = " ".join(f'query {name} {{ wallet(ownerId: "{owner}") {{ id }} }}' for name, owner in owners.items())
    for who in WHO:
        own = await callers.post(who, query=text, operationName="Own")
        assert own.json() == {"data": {"wallet": {"id": two.own.ids["Wallet"]}}}
        for name in ("Other", None, "", "own"):
            answer = await callers.post(who, query=text, operationName=name)
            assert "data" not in answer.json()
            assert codes(answer) == (["FORBIDDEN"] if name == "Other" else ["BAD_USER_INPUT"]), name


async def test_only_payments_tell_whether_there_is_an_owner(callers: Callers, two: Two) -> None:
    """Who gets something may be anybody, and whoever pays must learn that nobody got it: the one exception."""
    receiving = [each for each in places() if each.name.startswith("to")]
    assert {str(each) for each in receiving} == {"transfer.toOwnerId", "placeHold.toOwnerId", "closeWallet.toOwnerId"}
    for place in receiving:
        more = {"remainder": "TRANSFER"} if place.root[1] == "closeWallet" else {}
        text = asked_at(place, f'"{two.missing}"', example_of(two.own, two.other), **more)
        found = (await callers.data("player", f"mutation {{ {text} }}"))[place.root[1]]
        assert found["__typename"] == "WalletNotFound"


SEARCH: Final = """
query ($actor: String, $request: String, $after: String) {
  searchTransactions(actor: $actor, requestId: $request, first: 1, after: $after) {
    nodes { id } pageInfo { hasNextPage hasPreviousPage startCursor endCursor }
  }
}
"""


async def test_a_search_for_what_another_did(callers: Callers, two: Two) -> None:
    """Not even where a page ends tells an auditor of some owners that another did something."""
    callers.add_person("stranger", two.other.owner_id)
    for _ in range(3):
        text = asked_at(SPENT, f'"{uuid4()}"', example_of(two.other, two.own))
        await callers.data("stranger", f"mutation {{ {text} }}")
    seen = await callers.data("operator", SEARCH, actor=two.other.owner_id)
    assert seen["searchTransactions"]["pageInfo"]["hasNextPage"]
    found, nothing = [await callers.cost("region", SEARCH, actor=name) for name in (two.other.owner_id, two.missing)]
    assert (found[0].json(), found[1]) == (nothing[0].json(), nothing[1])
    assert nothing[0].json()["data"]["searchTransactions"]["nodes"] == []
    # What a request did for several owners is what it did for one's own.
    reached, after = 0, None
    while True:
        page = (await callers.data("region", SEARCH, request="test", after=after))["searchTransactions"]
        reached += len(page["nodes"])
        if not page["pageInfo"]["hasNextPage"]:
            break
        assert len(page["nodes"]) == 1
        after = page["pageInfo"]["endCursor"]
    assert reached


SPENT: Final = next(each for each in places() if str(each) == "spend.idempotencyKey")
