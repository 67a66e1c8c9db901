import asyncio
from itertools import product
from typing import Any, Final

import httpx
import pytest
from factories import gql, new_owner, post

from wallet_gql.domain.postings import Posted
from wallet_gql.graphql import ids
from wallet_gql.operations.opening import Ledger

PAGE: Final = """{
  totalCount nodes { id amount balanceAfter } edges { cursor node { id amount } }
  pageInfo { hasNextPage hasPreviousPage startCursor endCursor }
}"""


async def history(ledger: Ledger, count: int) -> str:
    """Make an owner who was given 1, 2, 3 … GOLD; the amounts are the numbers of the transactions."""
    owner = await new_owner(ledger)
    for amount in range(1, count + 1):
        assert isinstance(await post(ledger, "bonus", owner, amount), Posted)
    return owner


async def read(client: httpx.AsyncClient, owner: str, **arguments: Any) -> dict[str, Any]:
    """Read a page twice, from the root and from the wallet, which must be the same."""
    types = {"first": "Int", "last": "Int", "offset": "Int", "after": "String", "before": "String"}
    given = "".join(f", ${name}: {types[name]}" for name in arguments)
    passed = "".join(f" {name}: ${name}" for name in arguments)
    query = f"""query($o: String!{given}) {{
      transactions(ownerId: $o{passed}) {PAGE}
      wallet(ownerId: $o) {{ transactions{f"({passed})" if passed else ""} {PAGE} }}
    }}"""
    answer = await gql(client, query, o=owner, **arguments)
    page: dict[str, Any] = answer["transactions"]
    assert answer["wallet"]["transactions"] == page
    assert [edge["node"] for edge in page["edges"]] == [
        {"id": node["id"], "amount": node["amount"]} for node in page["nodes"]
    ]
    cursors = [edge["cursor"] for edge in page["edges"]]
    assert (page["pageInfo"]["startCursor"], page["pageInfo"]["endCursor"]) == (
        (cursors[0], cursors[-1]) if cursors else (None, None)
    )
    return page


def numbers(page: dict[str, Any]) -> list[int]:
    return [int(node["amount"]) for node in page["nodes"]]


def around(page: dict[str, Any]) -> tuple[bool, bool]:
    """Return whether there is more before and after a page."""
    return page["pageInfo"]["hasPreviousPage"], page["pageInfo"]["hasNextPage"]


async def cursor_of(client: httpx.AsyncClient, owner: str) -> str:
    cursor: str = (await gql(client, "query($o: String!) { balance(ownerId: $o) { cursor } }", o=owner))["balance"][
        "cursor"
    ]
    return cursor


async def place_of(client: httpx.AsyncClient, owner: str) -> tuple[int, int, int]:
    """Return the shard, the wallet and the asset of an owner's account, as its cursors name them."""
    shard, wallet, asset, _ = ids.decode(await cursor_of(client, owner)).parts
    return shard, wallet, asset


async def test_history_is_newest_first(client: httpx.AsyncClient, ledger: Ledger) -> None:
    owner = await history(ledger, 3)

    page = await read(client, owner)

    assert numbers(page) == [3, 2, 1]
    assert [node["balanceAfter"] for node in page["nodes"]] == ["6", "3", "1"]
    assert (page["totalCount"], around(page)) == (3, (False, False))


async def test_page_has_ten_unless_it_is_said(client: httpx.AsyncClient, ledger: Ledger) -> None:
    owner = await history(ledger, 12)

    for arguments in (
        {},
        {"first": None},
        {"first": None, "last": None, "after": None, "before": None, "offset": None},
    ):
        page = await read(client, owner, **arguments)
        assert numbers(page) == list(range(12, 2, -1))
        assert (page["totalCount"], around(page)) == (12, (False, True))


async def test_walk_to_the_oldest_and_back(client: httpx.AsyncClient, ledger: Ledger) -> None:
    owner = await history(ledger, 11)

    seen, page = [], await read(client, owner, first=3)
    seen.append(numbers(page))
    while page["pageInfo"]["hasNextPage"]:
        page = await read(client, owner, first=3, after=page["pageInfo"]["endCursor"])
        seen.append(numbers(page))
    assert seen == [[11, 10, 9], [8, 7, 6], [5, 4, 3], [2, 1]]

    back = []
    while page["pageInfo"]["hasPreviousPage"]:
        page = await read(client, owner, last=3, before=page["pageInfo"]["startCursor"])
        back.append(numbers(page))
    assert back == [[5, 4, 3], [8, 7, 6], [11, 10, 9]]


async def test_walk_by_offset(client: httpx.AsyncClient, ledger: Ledger) -> None:
    owner = await history(ledger, 7)

    pages = [await read(client, owner, first=3, offset=offset) for offset in (0, 3, 6, 7, 8, 2**31 - 1)]

    assert [numbers(page) for page in pages] == [[7, 6, 5], [4, 3, 2], [1], [], [], []]
    assert [around(page) for page in pages] == [(False, True), (True, True), (True, False)] + [(True, False)] * 3
    assert {page["totalCount"] for page in pages} == {7}


async def test_rows_that_arrive_never_shift_a_page(client: httpx.AsyncClient, ledger: Ledger) -> None:
    owner = await history(ledger, 6)
    first = await read(client, owner, first=2)
    for amount in (7, 8, 9):
        await post(ledger, "bonus", owner, amount)

    second = await read(client, owner, first=2, after=first["pageInfo"]["endCursor"])

    assert (numbers(first), numbers(second)) == ([6, 5], [4, 3])
    assert around(second) == (True, True)
    newer = await read(client, owner, last=2, before=first["pageInfo"]["startCursor"])
    assert numbers(newer) == [8, 7]
    assert around(newer) == (True, True)


async def test_what_happened_since_a_balance_was_read(client: httpx.AsyncClient, ledger: Ledger) -> None:
    owner = await history(ledger, 2)
    cursor = await cursor_of(client, owner)
    assert numbers(await read(client, owner, before=cursor)) == []
    for amount in (3, 4):
        await post(ledger, "bonus", owner, amount)

    since = await read(client, owner, before=cursor)

    assert numbers(since) == [4, 3]
    assert around(since) == (False, True)
    assert numbers(await read(client, owner, after=cursor)) == [1]


async def test_what_happened_since_an_account_was_empty(client: httpx.AsyncClient, ledger: Ledger) -> None:
    owner = await history(ledger, 0)
    cursor = await cursor_of(client, owner)
    for page in (await read(client, owner, before=cursor), await read(client, owner, after=cursor)):
        assert (numbers(page), around(page), page["totalCount"]) == ([], (False, False), 0)
    for amount in (1, 2):
        await post(ledger, "bonus", owner, amount)

    since = await read(client, owner, before=cursor)

    assert (numbers(since), around(since)) == ([2, 1], (False, False))
    assert numbers(await read(client, owner, after=cursor)) == []


async def test_cursor_of_a_balance_is_that_of_its_newest_transaction(client: httpx.AsyncClient, ledger: Ledger) -> None:
    owner = await history(ledger, 3)

    page = await read(client, owner, first=1)

    assert page["pageInfo"]["startCursor"] == await cursor_of(client, owner)


async def test_every_page_is_what_a_list_would_give(client: httpx.AsyncClient, ledger: Ledger) -> None:
    count = 5
    owner = await history(ledger, count)
    cursors = {int(edge["node"]["amount"]): edge["cursor"] for edge in (await read(client, owner))["edges"]}
    bounds = (None, *range(1, count + 1))
    sizes = [("first", n) for n in (1, 2, 5, 100)] + [("last", n) for n in (1, 2, 5, 100)]
    for after, before, (direction, size) in product(bounds, bounds, sizes):
        arguments: dict[str, Any] = {direction: size}
        span = list(range(count, 0, -1))
        if after is not None:
            arguments["after"] = cursors[after]
            span = [number for number in span if number < after]
        if before is not None:
            arguments["before"] = cursors[before]
            span = [number for number in span if number > before]
        expected = span[:size] if direction == "first" else span[-size:]

        page = await read(client, owner, **arguments)

        assert numbers(page) == expected, arguments
        assert page["totalCount"] == count
        if expected:
            assert around(page) == (expected[0] < count, expected[-1] > 1), arguments
        elif after is None and before is not None:
            assert around(page) == (False, True), "nothing is newer than the newest"
        elif before is None:
            assert around(page) == (True, False), "nothing is older than the oldest"


async def test_position_that_no_account_reaches_is_the_end_of_the_span(
    client: httpx.AsyncClient, ledger: Ledger
) -> None:
    owner = await history(ledger, 3)
    for far in (4, 2**31, 2**62, 2**63 - 1):
        place = await place_of(client, owner)
        cursor = ids.cursor(*place, far)
        assert numbers(await read(client, owner, first=2, after=cursor)) == [3, 2]
        assert numbers(await read(client, owner, last=2, after=cursor)) == [2, 1]
        for size in ({"first": 2}, {"last": 2}, {"first": 100}, {"last": 100}):
            page = await read(client, owner, before=cursor, **size)
            assert (numbers(page), around(page), page["totalCount"]) == ([], (False, True), 3)
            assert numbers(await read(client, owner, after=cursor, before=cursor, **size)) == []


async def test_forged_position_is_nobody_elses_error(client: httpx.AsyncClient, ledger: Ledger) -> None:
    owners = [await history(ledger, n) for n in (1, 2, 3, 4)]
    forged = ids.cursor(*await place_of(client, owners[0]), 2**63 - 1)

    pages = await asyncio.gather(
        *(read(client, owner, last=3) for owner in owners * 10),
        *(read(client, owners[0], last=100, before=forged) for _ in range(10)),
    )

    assert [page["totalCount"] for page in pages[:40]] == [1, 2, 3, 4] * 10
    assert [numbers(page) for page in pages[40:]] == [[]] * 10


async def test_accounts_of_a_wallet_are_paged_apart(client: httpx.AsyncClient, ledger: Ledger) -> None:
    owner = await history(ledger, 3)
    await post(ledger, "top_up", owner, "0.5", asset_code="POINTS")
    query = """query($o: String!) { transactions(ownerId: $o, asset: "POINTS") {
      totalCount nodes { type amount asset { code } } pageInfo { hasNextPage hasPreviousPage }
    } }"""

    assert (await gql(client, query, o=owner))["transactions"] == {
        "totalCount": 1,
        "nodes": [{"type": "TOP_UP", "amount": "0.50", "asset": {"code": "POINTS"}}],
        "pageInfo": {"hasNextPage": False, "hasPreviousPage": False},
    }
    assert (await read(client, owner))["totalCount"] == 3


async def test_page_of_a_hundred(client: httpx.AsyncClient, ledger: Ledger) -> None:
    owner = await history(ledger, 101)

    page = await read(client, owner, first=100)

    assert numbers(page) == list(range(101, 1, -1))
    assert around(page) == (False, True)
    assert numbers(await read(client, owner, last=100)) == list(range(100, 0, -1))


@pytest.mark.parametrize("verb", ["top_up", "bonus", "spend"])
async def test_refused_requests_are_no_history(client: httpx.AsyncClient, ledger: Ledger, verb: str) -> None:
    owner = await history(ledger, 2)
    for amount in (0, 10**16):
        await post(ledger, verb, owner, amount)
    await post(ledger, "spend", owner, 1000)

    page = await read(client, owner)

    assert (numbers(page), page["totalCount"]) == ([2, 1], 2)
