"""A page's arguments: checked, and turned into a span of an account's sequence numbers."""

from typing import Final, NamedTuple

import strawberry
from strawberry import UNSET

from wallet_gql.domain.errors import BadUserInput
from wallet_gql.graphql import ids
from wallet_gql.ledger.reads import PageRequest, WalletAsset

PAGE_SIZE_DEFAULT: Final = 10
PAGE_SIZE_MAX: Final = 100
"""The most transactions of a page, and the most ids that `nodes` or `wallets` takes."""


@strawberry.type(description="Where a page is in its list.")
class PageInfo:
    """Where a page is in its list."""

    has_next_page: bool = strawberry.field(description="Whether more follow: older ones, or lots that end later.")
    has_previous_page: bool = strawberry.field(
        description="Whether others precede: newer ones, or lots that end first."
    )
    start_cursor: str | None = strawberry.field(description="The cursor of the first on the page.")
    end_cursor: str | None = strawberry.field(description="The cursor of the last on the page.")


class PageArguments(NamedTuple):
    """As the caller sent them; what was not sent is UNSET, and null means the same."""

    first: int | None
    after: str | None
    last: int | None
    before: str | None
    offset: int | None

    def without_unset(self) -> "PageArguments":
        """Take what was not sent for null."""
        return PageArguments._make(None if value is UNSET else value for value in self)


def check(arguments: PageArguments) -> None:
    """Refuse what no page can be made of; raises `BadUserInput` before anything is read."""
    first, after, last, before, offset = arguments.without_unset()
    for name, size in (("first", first), ("last", last)):
        if size is not None and not 1 <= size <= PAGE_SIZE_MAX:
            raise BadUserInput(name, f"is {size}", f"send 1 to {PAGE_SIZE_MAX}")
    if first is not None and last is not None:
        raise BadUserInput("first", "is sent together with last", "send one of them")
    if offset is not None:
        if offset < 0:
            raise BadUserInput("offset", f"is {offset}", "send 0 or more")
        for name, value in (("after", after), ("before", before), ("last", last)):
            if value is not None:
                raise BadUserInput("offset", f"is sent together with {name}", "page by offset or by cursor")


def page_request(account: WalletAsset, arguments: PageArguments) -> PageRequest:
    """Name a page of an account; raises `BadUserInput` for a bad cursor, another account's among them."""
    first, after, last, before, offset = arguments.without_unset()
    return PageRequest(
        account,
        first=PAGE_SIZE_DEFAULT if first is None and last is None else first,
        last=last,
        offset=offset or 0,
        older_than=None if after is None else _position(account, after, "after"),
        newer_than=None if before is None else _position(account, before, "before"),
    )


def _position(account: WalletAsset, cursor: str, field: str) -> int:
    kind, parts, _ = ids.decode(cursor, field)
    if kind != "Cursor":
        raise BadUserInput(field, "is not a cursor", "send an edge's or a balance's cursor as it was received")
    place, seq = parts[:3], parts[3]
    if place != (account.wallet.shard, account.wallet.id, account.asset.id):
        raise BadUserInput(field, "is a cursor of another account", "send a cursor of this wallet and asset")
    return seq
