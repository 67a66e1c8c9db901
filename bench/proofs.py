"""How many entries `verify` proves per second: on books of top-ups alone, and on books of all kinds of movements."""

import time
from typing import Final

from books import Database, Plan, fill, owner_ids
from history import live
from session import Costs, Scenario, Session, make_row
from wrk import Load

TOP_UPS: Final = Scenario("verify, top-ups alone (entries)", "verify", clients=1)
ALL_KINDS: Final = Scenario("verify, all kinds of movements (entries)", "verify", clients=1)

CYCLES: Final = 3
POSTINGS: Final = 400_000


def proofs(session: Session) -> None:
    """Fill both, and prove them in turn."""
    plain, mixed = session.cluster.create("proof_plain"), session.cluster.create("proof_mixed")
    owners = owner_ids(session.wallet_count)
    fill(Plan(plain, owners, 10_000 if session.quick else POSTINGS))
    live(mixed, owners, 1 if session.quick else CYCLES)
    for database in (plain, mixed):
        database.settle()
    session.say("filled")
    for number in session.rounds:
        _measure(session, number, TOP_UPS, plain)
        _measure(session, number, ALL_KINDS, mixed)


def _measure(session: Session, number: int, scenario: Scenario, database: Database) -> None:
    """Verify the books; a row's requests are entries here, and its latencies are the whole proof's."""
    costs, cpu_seconds, started = Costs(session.cluster), time.process_time(), time.monotonic()
    entry_count = session.prove(database)
    seconds, cpu_seconds = time.monotonic() - started, time.process_time() - cpu_seconds
    milliseconds = seconds * 1000
    load = Load(entry_count, 0, entry_count / seconds, milliseconds, milliseconds, milliseconds, milliseconds)
    row = make_row(scenario, number, load)
    row.server_cpu_us = cpu_seconds * 1e6 / entry_count
    costs.add(row, load)
    session.keep(row, scenario)
