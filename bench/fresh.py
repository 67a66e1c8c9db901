"""A fresh database, never analysed: top-ups over many wallets, then on one, second by second.

What a plan that was made for empty tables costs once they are full shows in the slowest seconds, and only here: the
other groups measure tables that were analysed before.
"""

from typing import Final

import servers
from books import Plan, fill, owner_ids
from session import Scenario, Session

SPREAD: Final = Scenario("top-ups, fresh database", "top_up", window_seconds=8)
HOT: Final = Scenario(
    "top-ups on one hot wallet, fresh database", "top_up", window_seconds=12, options={"owner": owner_ids(1)[0]}
)


def fresh(session: Session) -> None:
    """Measure both on a new database in each round."""
    for number in session.rounds:
        database = session.cluster.create(f"fresh_{number}")
        fill(Plan(database, owner_ids(session.wallet_count), posting_count=0))
        with servers.service(session.cluster.scratch, database.environment()) as ours:
            session.measure(number, SPREAD, ours, database)
            session.measure(number, HOT, ours, database)
        session.prove(database)
