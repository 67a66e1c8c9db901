"""Holds: placing and capturing them beside spends; and what open holds cost their account's spends and balances."""

from typing import Final

import servers
from books import owner_ids
from history import place_holds
from session import Scenario, Session
from throughput import funded

OPEN_HOLDS: Final = 5

SPENDS: Final = Scenario("spends, accounts without holds", "spend")
PAIRS: Final = Scenario("place and capture, two requests a pair", "hold", options={"prefix": "placed"})

PLAIN_SPENDS: Final = Scenario("spends, accounts without holds (pairs)", "spend", window_seconds=3)
HELD_SPENDS: Final = Scenario(
    f"spends, accounts with {OPEN_HOLDS} open holds (pairs)", "spend", window_seconds=3, options={"prefix": "held"}
)
PLAIN_BALANCES: Final = Scenario("balances, accounts without holds (pairs)", "available", window_seconds=3)
HELD_BALANCES: Final = Scenario(
    f"balances, accounts with {OPEN_HOLDS} open holds (pairs)", "available", window_seconds=3,
    options={"prefix": "held"},
)  # fmt: skip


def holds(session: Session) -> None:
    """Measure all of them in turn, on three kinds of wallets: without holds, with open ones, and for new ones."""
    database = funded(session, "holds", 64, prefixes=("bench", "held", "placed"))
    place_holds(database, owner_ids(session.wallet_count, "held"), OPEN_HOLDS)
    database.settle()
    with servers.service(session.cluster.scratch, database.environment()) as ours:
        for number in session.rounds:
            session.measure(number, SPENDS, ours, database)
            session.measure(number, PAIRS, ours, database)
        for number in session.pairs:
            session.measure(number, PLAIN_SPENDS, ours, database)
            session.measure(number, HELD_SPENDS, ours, database)
        for number in session.pairs:
            session.measure(number, PLAIN_BALANCES, ours, database)
            session.measure(number, HELD_BALANCES, ours, database)
    session.prove(database)
