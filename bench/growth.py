"""Growth: the same work on small and large tables, spread over wallets and on one account; and pages.

Small tables are copied for each round. All sizes of a round are measured one right after the other, for these machines
change their speed within minutes. What no target needs is measured in the first round only.
"""

from contextlib import ExitStack
from dataclasses import replace
from typing import Final

import servers
from books import Database, Plan, fill, owner_ids
from servers import Server
from session import Row, Scenario, Session

SIZES: Final = {"10 thousand": 10_000, "100 thousand": 100_000, "1 million": 1_000_000}
SIZES_QUICK: Final = {"10 thousand": 1_000, "100 thousand": 4_000, "1 million": 20_000}
DEPTHS: Final = {"10": 10, "1 thousand": 1_000, "100 thousand": 100_000, "1 million": 1_000_000}
DEPTHS_QUICK: Final = {"10": 10, "1 thousand": 1_000, "100 thousand": 12_000, "1 million": 20_000}
EXTREMES: Final = ("10 thousand", "1 million")
EXTREME_DEPTHS: Final = ("10", "1 million")
PAGE_SIZE: Final = 10

READ: Final = Scenario("", "balance", clients=1, window_seconds=2)


def spread_name(size: str, clients: int) -> str:
    """Name the row of top-ups over many wallets on tables of a size."""
    return f"top-ups at {size} postings, {'one client' if clients == 1 else f'{clients} clients'}"


def balance_name(depth: str) -> str:
    """Name the row of balance reads of an account of a depth."""
    return f"a balance at {depth} entries, one client"


def one_account_name(depth: str) -> str:
    """Name the row of top-ups on one account of a depth."""
    return f"top-ups on one account of {depth} entries"


def page_name(number: int, clients: int) -> str:
    """Name the row of reads of a page."""
    return f"page {number:,} of ten, {'one client' if clients == 1 else f'{clients} clients'}"


def growth(session: Session) -> None:
    """Fill the tables, then measure them in turns."""
    sizes, depths = (SIZES_QUICK, DEPTHS_QUICK) if session.quick else (SIZES, DEPTHS)
    spread, deep = session.cluster.create("spread"), session.cluster.create("deep")
    templates = _fill(session, spread, sizes, [Plan(deep, [_deep_owner(d)], n) for d, n in depths.items()])
    # Before anything is measured: autovacuum would else be at it meanwhile.
    deep.settle()
    session.say("filled")
    for number in session.rounds:
        _measure_spread(session, number, {s: t for s, t in templates.items() if number == 1 or s in EXTREMES})
    session.prove(spread)
    _measure_deep(session, deep, list(depths))
    session.prove(deep)


def _fill(session: Session, spread: Database, sizes: dict[str, int], beside: list[Plan]) -> dict[str, Database]:
    """Return a database for each size: copies of `spread` as it grew, and itself for the largest."""
    templates, filled = {}, 0
    for size, posting_count in sizes.items():
        step = Plan(spread, owner_ids(session.wallet_count), posting_count - filled)
        is_last = posting_count == max(sizes.values())
        fill(step, *(beside if is_last else ()))
        filled = posting_count
        spread.settle()
        templates[size] = spread if is_last else session.cluster.clone(spread, f"spread_{posting_count}")
    return templates


def _measure_spread(session: Session, number: int, templates: dict[str, Database]) -> None:
    """Measure all sizes of a round, their servers up at once: what is compared is measured within seconds."""
    cluster = session.cluster
    largest = list(templates.values())[-1]
    copies = {
        size: template if template is largest else cluster.clone(template, f"{template.name}_{number}")
        for size, template in templates.items()
    }
    cluster.execute("CHECKPOINT")
    image_bytes = {size: _touch(session, database) for size, database in copies.items()}
    with ExitStack() as stack:
        ours = {
            size: stack.enter_context(servers.service(cluster.scratch, database.environment()))
            for size, database in copies.items()
        }
        # Without a baseline: `stock` has no tables to grow.
        for size, database in copies.items():
            alone = Scenario(spread_name(size, 1), "top_up", clients=1, window_seconds=3)
            session.measure(number, alone, ours[size], database)
        for size, database in copies.items():
            row = session.measure(number, Scenario(spread_name(size, 64), "top_up"), ours[size], database)
            _add_cycle(row, image_bytes[size], cluster.checkpoint_seconds())
    for database in copies.values():
        if database is not largest:
            session.prove(database)
            cluster.execute(f"DROP DATABASE {database.name} WITH (FORCE)")


def _touch(session: Session, database: Database) -> int:
    """Post once to every wallet after a checkpoint; returns the bytes of the full pages that this logged.

    A page that changes for the first time after a checkpoint is logged whole, once: in a window of seconds it would
    count for what it costs in minutes.
    """
    mark = session.cluster.mark()
    fill(Plan(database, owner_ids(session.wallet_count), session.wallet_count))
    return session.cluster.wal_since(mark).image_bytes


def _add_cycle(row: Row, touch_image_bytes: int, checkpoint_seconds: float) -> None:
    """Add the log's bytes a posting over a whole cycle: all full pages since the checkpoint, shared by its postings."""
    assert row.wal_bytes is not None
    assert row.wal_images is not None
    image_bytes = touch_image_bytes + row.wal_images * row.postings
    row.extra |= {
        "image_bytes_since_checkpoint": image_bytes,
        "wal_bytes_of_cycle": row.wal_bytes - row.wal_images + image_bytes / (row.rate * checkpoint_seconds),
    }


def _measure_deep(session: Session, deep: Database, depths: list[str]) -> None:
    with servers.service(session.cluster.scratch, deep.environment()) as ours:
        paged = _deep_owner(depths[-1])
        cursor = _cursor_before(ours, paged, 1000)
        for number in session.rounds:
            for depth in depths if number == 1 else EXTREME_DEPTHS:
                balance = replace(READ, name=balance_name(depth), options={"owner": _deep_owner(depth)})
                session.measure(number, balance, ours, deep)
            for clients in (1, 64) if number == 1 else (1,):
                page = replace(READ, kind="page", clients=clients)
                first = replace(page, name=page_name(1, clients), options={"owner": paged})
                session.measure(number, first, ours, deep)
                last = replace(page, name=page_name(1000, clients), options={"owner": paged, "after": cursor})
                session.measure(number, last, ours, deep)
        for depth in depths[1:]:
            one = Scenario(one_account_name(depth), "top_up", options={"owner": _deep_owner(depth)})
            session.measure(1, one, ours, deep)


def _deep_owner(depth: str) -> str:
    return f"deep-{depth.replace(' ', '-')}"


def _cursor_before(server: Server, owner: str, page_number: int) -> str:
    """Return the cursor that a page begins after, as a client has it that paged its way there."""
    offset = PAGE_SIZE * (page_number - 1) - 1
    query = f'{{ transactions(ownerId: "{owner}", first: 1, offset: {offset}) {{ pageInfo {{ endCursor }} }} }}'
    return str(server.ask(query)["transactions"]["pageInfo"]["endCursor"])
