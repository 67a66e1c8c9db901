"""What an actor or a request asked for, whoever the owners are: transactions, by what is noted of them, newest first.

A page is a span of notes, which are found by an index: those of events that are no transactions, such as a hold that
was placed, leave it shorter. So do those that are not of the kind, the actor or the owners that are asked for: at most
`SPAN` are looked at for a page, however many there are.

What a request whose id the service made asked for first has the same id, and no other is kept with it: it is looked up
by that, in each shard.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final, NamedTuple
from uuid import UUID

from asyncpg import Connection, Record

from wallet_gql.domain.access import CALLERS
from wallet_gql.domain.postings import TransactionView
from wallet_gql.ledger.columns import Integer, Smallint, Text, Time, Uuid, arrays, unnest
from wallet_gql.ledger.lookups import all_rows, one_row
from wallet_gql.ledger.reads import VIEW_OF_TRANSACTION, view_with_asset

SPAN: Final = 1000
"""The most notes that are looked at for a page. More than are noted at one moment: a batch shares its moment."""


class SearchRequest(NamedTuple):
    """Whose doings to look for, by name or by request or by both; `before_at` and `before_id` are where a page ended.

    `first` is the most notes of a page. With an `owner_prefix` only transactions of owners count whose ids begin so;
    what a page tells of others' is no more than that it ends early.
    """

    actor_name: Text | None
    actor_kind: Smallint | None
    request_id: Text | None
    first: Integer
    owner_prefix: Text = ""
    before_at: Time | None = None
    before_id: Uuid | None = None


class Found(NamedTuple):
    """A transaction, whose it is, and its place in the list."""

    transaction: TransactionView
    owner_id: str
    place: "Place"


class Place(NamedTuple):
    """A place in the list."""

    at: datetime
    id: UUID


class FoundPage(NamedTuple):
    """A page of what was found; `end` is where the next one goes on, None where nothing follows."""

    found: list[Found]
    end: Place | None


_TRANSACTION: Final = one_row("transaction", "t", by="id", shard="note.shard", id="note.transaction_id")
_NOTE: Final = one_row("transaction_note", "note", by="transaction_id", shard="every.shard", transaction_id="event.id")
_WALLET: Final = one_row("wallet", "w", by="id", shard="t.shard", id="t.wallet_id")

_IS_FILTERED: Final = """(wanted.actor_kind IS NOT NULL OR wanted.owner_prefix <> ''
                           OR (wanted.actor_name IS NOT NULL AND wanted.request_id IS NOT NULL))"""

_IS_WANTED: Final = f"""(wanted.actor_kind IS NULL OR note.actor_kind = wanted.actor_kind)
           AND (wanted.actor_name IS NULL OR note.actor_name = wanted.actor_name)
           AND (wanted.owner_prefix = '' OR (
                SELECT starts_with(w.owner_id, wanted.owner_prefix) FROM {_TRANSACTION} CROSS JOIN {_WALLET}))"""

_CALLERS: Final = f"({', '.join(f'{kind:d}' for kind in CALLERS)})"

_IS_OLDER: Final = """(note.at, note.transaction_id) < (coalesce(wanted.before_at, 'infinity'),
                                                 coalesce(wanted.before_id, 'ffffffff-ffff-ffff-ffff-ffffffffffff'))"""


def _notes(column: str, condition: str, end: str) -> str:
    """Return the notes of one actor or request that are older than the page before, newest first."""
    return f"""
       (SELECT note.*
          FROM transaction_note note
         WHERE note.{column} = wanted.{column} AND {condition}
           AND {_IS_OLDER}
         ORDER BY note.{column} DESC, note.at DESC, note.transaction_id DESC
         {end})"""


def _found(end: str, more: str = "") -> str:
    """Return the notes by the request where one is named, else by the actor."""
    return f"""{_notes("request_id", f"true{more}", end)}
        UNION ALL {_notes("actor_name", f"wanted.request_id IS NULL{more}", end)}"""


_SPAN: Final = _found(f"LIMIT {SPAN}", f" AND {_IS_FILTERED}")

_IS_ON_PAGE: Final = f"note.at > coalesce(edge.at, '-infinity') AND {_IS_WANTED}"

# At most one in each shard, so it is no part of the span.
_NAMED_BY_REQUEST: Final = f"""
       (SELECT note.*
          FROM (SELECT CASE WHEN wanted.request_id ~ '^[0-9a-f]{{32}}$' THEN wanted.request_id::uuid END AS id) AS event
         CROSS JOIN generate_series(0, (SELECT shard_count FROM ledger) - 1) AS every(shard)
         CROSS JOIN {_NOTE}
         WHERE event.id IS NOT NULL AND note.request_id IS NULL AND note.actor_kind IN {_CALLERS}
           AND {_IS_OLDER} AND {_IS_ON_PAGE})"""

_WANTED: Final = f"""{_found("LIMIT wanted.first + 1", f" AND {_IS_ON_PAGE}")}
        UNION ALL {_NAMED_BY_REQUEST}"""

# Where much of what an index finds is passed over, a page ends at the moment of the last note of the span.
_SEARCH: Final = f"""
SELECT wanted.n, edge.at AS span_end, note.at AS noted_at, note.transaction_id AS noted_id, w.owner_id,
       {VIEW_OF_TRANSACTION}
  FROM {unnest(SearchRequest, "wanted", numbered=True)}
  LEFT JOIN LATERAL (SELECT span.at FROM ({_SPAN}) AS span OFFSET {SPAN - 1}) AS edge ON true
  LEFT JOIN LATERAL ({_WANTED}) AS note ON true
  LEFT JOIN ({_TRANSACTION}
             CROSS JOIN {all_rows("entry", "e", by="transaction_id", shard="t.shard", transaction_id="t.id")}
             CROSS JOIN {one_row("account", "a", by="id", shard="e.shard", id="e.account_id")}
             CROSS JOIN {one_row("asset", "s", by="id", id="a.asset_id")}
             CROSS JOIN {_WALLET}) ON a.wallet_id = w.id
 ORDER BY wanted.n, note.at DESC, note.transaction_id DESC
"""


async def search(connection: Connection, requests: Sequence[SearchRequest]) -> list[FoundPage]:
    """Return a page of what was found, for each request, in order."""
    rows: list[list[Record]] = [[] for _ in requests]
    for row in await connection.fetch(_SEARCH, *arrays(SearchRequest, requests)):
        rows[row["n"] - 1].append(row)
    return [_page(request, found) for request, found in zip(requests, rows, strict=True)]


def _page(request: SearchRequest, rows: Sequence[Record]) -> FoundPage:
    noted = [row for row in rows if row["noted_at"] is not None]
    places = [Place(row["noted_at"], row["noted_id"]) for row in noted[: request.first]]
    found = [
        Found(view_with_asset(row), row["owner_id"], place)
        for place, row in zip(places, noted, strict=False)
        if row["account_id"] is not None
    ]
    if len(noted) > request.first:
        return FoundPage(found, places[-1])
    span_end = rows[0]["span_end"]
    # What was noted at that very moment comes next, all of it.
    return FoundPage(found, None if span_end is None else Place(span_end + timedelta(microseconds=1), UUID(int=0)))
