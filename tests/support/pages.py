"""Pages of a history as a list would give them: what the ledger's arithmetic must agree with."""

from collections.abc import Sequence
from itertools import product

from wallet_gql.domain.postings import TransactionView
from wallet_gql.ledger.reads import Page

# What callers may ask for: `first` or `last`, cursors, or an offset without either.
SIZES: list[dict[str, int]] = [
    {}, *({name: size} for name in ("first", "last") for size in (1, 2, 5, 11, 12, 13, 100)),
]  # fmt: skip


def asked_pages(positions: Sequence[int | None]) -> list[dict[str, int | None]]:
    """Return all that may be asked for with cursors at these positions."""
    return [
        *(
            {**size, "older_than": older, "newer_than": newer}
            for size, older, newer in product(SIZES, positions, positions)
        ),
        *({**size, "offset": offset} for size in SIZES if "last" not in size for offset in (*range(15), 1000, 2**31)),
    ]


def model(history: Sequence[TransactionView], asked: dict[str, int | None]) -> Page:
    """Say what a page is, by a list: newest first, cut, and whatever is not on it lies on one side of it."""
    older_than, newer_than = asked.get("older_than"), asked.get("newer_than")

    def is_older(view: TransactionView) -> bool:
        return older_than is None or view.seq < older_than

    def is_newer(view: TransactionView) -> bool:
        return newer_than is None or view.seq > newer_than

    listed = sorted(history, key=lambda view: -view.seq)
    page = [view for view in listed if is_older(view) and is_newer(view)][asked.get("offset") or 0 :]
    first, last = asked.get("first"), asked.get("last")
    page = page[:first] if first is not None else page[len(page) - min(last, len(page)) :] if last is not None else page
    if page:
        before, after = listed.index(page[0]), len(listed) - listed.index(page[-1]) - 1
    elif asked.get("offset"):
        before, after = len(listed), 0
    else:
        # Behind an empty page lies what is older than both its bounds, before it the rest.
        after = len([view for view in listed if is_older(view) and not is_newer(view)])
        before = len(listed) - after
    return Page(page, len(listed), has_next_page=after > 0, has_previous_page=before > 0)
