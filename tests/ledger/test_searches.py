"""Searches by what is noted: bounded, whatever an actor did, and complete, page by page."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

import asyncpg
import orjson
import pytest
from asyncpg import Connection
from batches import new_owner_in
from explained import explain
from factories import post
from sqlalchemy import make_url

from wallet_gql.domain.postings import Posted
from wallet_gql.embedded.launcher import EmbeddedPostgres
from wallet_gql.ledger import searches
from wallet_gql.ledger.columns import arrays
from wallet_gql.ledger.searches import SPAN, Place, SearchRequest, search
from wallet_gql.operations.opening import Ledger
from wallet_gql.settings import Settings

SHARD: Final = 1
BUSY, OTHER = "busy actor", "other actor"
AT: Final = datetime(2026, 1, 1, tzinfo=UTC)
NOTES: Final = 20 * SPAN

# Nine in ten are of one owner, and of the kind 1; a batch has ten at one moment. One request asked for all of them.
FILL: Final = f"""
INSERT INTO transaction_note (shard, transaction_id, actor_kind, actor_name, request_id, at)
SELECT {SHARD}, t.id, CASE WHEN n % 10 = 0 THEN 2 ELSE 1 END, '{BUSY}', 'all', $1::timestamptz + n / 10 * interval '1 s'
  FROM generate_series(1, {NOTES}) AS n
 CROSS JOIN LATERAL (SELECT lpad(to_hex(n), 32, '0')::uuid AS id) AS t
"""


@pytest.fixture
async def noted(
    postgres: EmbeddedPostgres, settings: Settings, ledger: Ledger
) -> AsyncIterator[tuple[Connection, UUID]]:
    """A session in which much is noted, to be rolled back, and the one transaction among it."""
    owner = await new_owner_in(ledger, SHARD)
    posted = await post(ledger, "top_up", owner, 1)
    assert isinstance(posted, Posted)
    url = make_url(postgres.superuser_url).set(drivername="postgresql", database=settings.server_url().database)
    connection = await asyncpg.connect(url.render_as_string(hide_password=False))
    await connection.set_type_codec("json", encoder=str, decoder=orjson.loads, schema="pg_catalog")
    transaction = connection.transaction()
    await transaction.start()
    await connection.execute("ALTER TABLE transaction_note DISABLE TRIGGER transaction_note_law")
    await connection.execute(FILL, AT)
    # The oldest of all.
    await connection.execute(
        "INSERT INTO transaction_note (shard, transaction_id, actor_kind, actor_name, request_id, at)"
        f" VALUES ({SHARD}, $1, 3, '{BUSY}', 'all', $2)",
        posted.transaction.id, AT,
    )  # fmt: skip
    await connection.execute("SET LOCAL enable_sort = off")
    yield connection, posted.transaction.id
    await transaction.rollback()
    await connection.close()


# Each finds nothing, or much is passed over; and one that passes nothing over.
REQUESTS: Final = {
    "an actor": SearchRequest(BUSY, None, None, 20),
    "a request": SearchRequest(None, None, "all", 20),
    "a request that the service named": SearchRequest(None, None, f"{NOTES:032x}", 20),
    "another kind": SearchRequest(BUSY, 4, None, 20),
    "another actor of a request": SearchRequest(OTHER, None, "all", 20),
    "owners of a prefix": SearchRequest(BUSY, None, None, 20, "nobody-"),
    "a late page": SearchRequest(BUSY, None, None, 20, "", datetime(2026, 1, 1, 0, 5, tzinfo=UTC), UUID(int=0)),
}


@pytest.mark.parametrize("request_", REQUESTS.values(), ids=REQUESTS)
@pytest.mark.parametrize("mode", ["force_generic_plan", "force_custom_plan"])
async def test_a_page_reads_no_more_than_a_span(
    noted: tuple[Connection, UUID], mode: str, request_: SearchRequest
) -> None:
    connection, _ = noted
    quoted = [None if value is None else f'"{value}"' for value in request_]
    explained = await explain(connection, mode, searches._SEARCH, *quoted)
    # A page of what is there takes 20 rows; what is passed over takes a span, and a look at each owner.
    assert explained.buffers < 20 * SPAN
    assert explained.scanned <= {"ledger"}  # which has one row


async def walked(connection: Connection, request: SearchRequest) -> tuple[list[UUID], int]:
    """Walk all pages; returns what was found, and how many pages there were."""
    found, pages, place = [], 0, (request.before_at, request.before_id)
    while True:
        [page] = await search(connection, [request._replace(before_at=place[0], before_id=place[1])])
        found += [each.transaction.id for each in page.found]
        pages += 1
        if page.end is None:
            return found, pages
        assert page.end != Place(*place)  # type: ignore[arg-type] # the first page has no place
        place = page.end


@pytest.mark.parametrize(
    "request_",
    [SearchRequest(BUSY, 3, None, 100), SearchRequest(BUSY, None, "all", 100)],
    ids=["by kind", "by both"],
)
async def test_what_is_far_behind_is_found_once(noted: tuple[Connection, UUID], request_: SearchRequest) -> None:
    connection, transaction_id = noted
    found, pages = await walked(connection, request_)
    assert found == [transaction_id]
    assert pages <= 2 + NOTES // 100


REQUEST: Final = UUID(int=2**100)

# Twenty that say by which request, and three with the id of the request, in as many shards: the service asked for one.
NAMED: Final = f"""
INSERT INTO transaction_note (shard, transaction_id, actor_kind, actor_name, request_id, at)
SELECT {SHARD}, gen_random_uuid(), 1, '{OTHER}', '{REQUEST.hex}', $1::timestamptz + n * interval '1 s'
  FROM generate_series(1, 20) AS n
 UNION ALL
SELECT shard, '{REQUEST}', kind, '{OTHER}', NULL, $1::timestamptz + n * interval '1 s'
  FROM (VALUES ({SHARD}, 1, 5.5), ({SHARD + 1}, 2, 17.5), ({SHARD + 2}, 3, 6.5)) AS named(shard, kind, n)
"""


@pytest.mark.parametrize("first", [1, 2, 3, 7, 100])
async def test_what_has_the_id_of_its_request_is_found_in_its_place(noted: tuple[Connection, UUID], first: int) -> None:
    connection, _ = noted
    await connection.execute(NAMED, AT)
    expected = [AT + timedelta(seconds=n) for n in sorted([*range(1, 21), 5.5, 17.5], reverse=True)]
    request, ends = SearchRequest(OTHER, None, REQUEST.hex, first), []
    while (page := (await search(connection, [request]))[0]).end is not None:
        ends.append(page.end.at)
        request = request._replace(before_at=page.end.at, before_id=page.end.id)
    assert ends == expected[first - 1 : -1 : first]
    [of_people] = await search(connection, [SearchRequest(OTHER, 2, REQUEST.hex, 1)])
    assert of_people.end is None


async def test_many_searches_share_a_statement(noted: tuple[Connection, UUID]) -> None:
    connection, _ = noted
    alone = [(await search(connection, [request]))[0] for request in REQUESTS.values()]
    assert await search(connection, list(REQUESTS.values())) == alone
    assert len(arrays(SearchRequest, list(REQUESTS.values()))) == len(SearchRequest._fields)
