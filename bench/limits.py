"""Limits: top-ups under a rolling limit with 10,000 movements in its window beside plain ones.

Of two kinds of wallets: those that came under their limit before these movements, and those that had them before. What
moved before a limit was set no entry counts: it is summed once, and from then on what leaves the window is taken off.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import servers
from books import Database, Plan, fill, owner_ids
from session import Scenario, Session

MOVEMENTS: Final = 10_000
"""Of each wallet, in its window."""

WALLETS: Final = 16
"""Of each kind: more would take minutes to fill."""

PLAIN: Final = Scenario(
    "top-ups, wallets without limits (pairs)", "top_up", window_seconds=3, options={"wallets": WALLETS}
)
LIMITED: Final = replace(
    PLAIN,
    name=f"top-ups under a rolling limit, {MOVEMENTS:,} movements in its window (pairs)",
    options={"wallets": WALLETS, "prefix": "limited"},
)
LATE: Final = replace(
    PLAIN,
    name=f"top-ups under a rolling limit that was set after {MOVEMENTS:,} movements (pairs)",
    options={"wallets": WALLETS, "prefix": "late"},
)


def limits(session: Session) -> None:
    """Measure top-ups of three kinds of wallets in turn."""
    database = session.cluster.create("limits")
    kinds = [owner_ids(WALLETS, prefix) for prefix in ("bench", "limited", "late")]
    plain, limited, late = (Plan(database, owners, WALLETS * MOVEMENTS) for owners in kinds)
    fill(*(Plan(database, plan.owners, WALLETS) for plan in (plain, limited, late)))
    limit(database, limited.owners)
    fill(plain, limited, late)
    limit(database, late.owners)
    database.settle()
    with servers.service(session.cluster.scratch, database.environment()) as ours:
        for number in session.pairs:
            for scenario in (PLAIN, LIMITED, LATE):
                session.measure(number, scenario, ours, database)
    session.prove(database)


def limit(database: Database, owners: Sequence[str]) -> None:
    """Limit what comes in within a day, far above what is measured."""
    for owner in owners:
        database.command(
            "limit", "set", "GOLD", "--flow", "IN", "--within", "24h", "--max-amount", f"{10**12}", "--owner", owner
        )
