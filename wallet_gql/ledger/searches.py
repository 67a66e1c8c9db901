"""What an actor or a request asked for, whoever the owners are: transactions, by what is noted of them, newest first.

A page is a span of notes: those of events that are no transactions, such as a hold that was placed, leave it shorter.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Final, NamedTuple
from uuid import UUID

from asyncpg import Connection, Record

from wallet_gql.domain.postings import TransactionView
from wallet_gql.ledger.columns import Integer, Smallint, Text, Time, Uuid, arrays, unnest
from wallet_gql.ledger.lookups import all_rows, one_row
from wallet_gql.ledger.reads import VIEW_OF_TRANSACTION, view_with_asset


class SearchRequest(NamedTuple):
    """Whose doings to look for, by name or by request or by both; `before_at` and `before_id` are where a page ended.

    `first` is the most notes of a page. With an `owner_prefix` only transactions of owners count whose ids begin so:
    not even where a page ends tells of another's.
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
_WALLET: Final = one_row("wallet", "w", by="id", shard="t.shard", id="t.wallet_id")


def _notes(column: str, other: str) -> str:
    """Return those of one actor or request that are older than the page before."""
    return f"""
       (SELECT note.*
          FROM transaction_note note
         WHERE note.{column} = wanted.{column} AND {other}
           AND (wanted.actor_kind IS NULL OR note.actor_kind = wanted.actor_kind)
           AND (note.at, note.transaction_id) < (coalesce(wanted.before_at, 'infinity'),
                                                 coalesce(wanted.before_id, 'ffffffff-ffff-ffff-ffff-ffffffffffff'))
           AND (wanted.owner_prefix = '' OR (
                SELECT starts_with(w.owner_id, wanted.owner_prefix)
                  FROM {_TRANSACTION}
                 CROSS JOIN {_WALLET}))
         ORDER BY note.{column} DESC, note.at DESC, note.transaction_id DESC
         LIMIT wanted.first + 1)"""


_SEARCH: Final = f"""
SELECT wanted.n, note.at AS noted_at, note.transaction_id AS noted_id, w.owner_id, {VIEW_OF_TRANSACTION}
  FROM {unnest(SearchRequest, "wanted", numbered=True)}
 CROSS JOIN LATERAL ({_notes("request_id", "(wanted.actor_name IS NULL OR note.actor_name = wanted.actor_name)")}
        UNION ALL {_notes("actor_name", "wanted.request_id IS NULL")}) AS note
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
    places = [Place(row["noted_at"], row["noted_id"]) for row in rows[: request.first]]
    found = [
        Found(view_with_asset(row), row["owner_id"], place)
        for place, row in zip(places, rows, strict=False)
        if row["account_id"] is not None
    ]
    return FoundPage(found, places[-1] if len(rows) > request.first else None)
