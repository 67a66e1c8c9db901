"""Transfers between random owners, nearly all of two shards, beside spends of the same wallets."""

from typing import Final

import servers
from session import Scenario, Session
from throughput import funded

SPENDS: Final = Scenario("spends over 10,000 wallets", "spend")
TRANSFERS: Final = Scenario("transfers between 10,000 wallets", "transfer")


def transfers(session: Session) -> None:
    """Measure both, three times in turn."""
    database = funded(session, "transfers", 64)
    with servers.service(session.cluster.scratch, database.environment()) as ours:
        for number in session.rounds:
            session.measure(number, SPENDS, ours, database)
            session.measure(number, TRANSFERS, ours, database)
    session.prove(database)
