"""Rates: top-ups, the hot wallet, the mix and balance reads, beside both references and both ablations; and memory.

Everything runs at once and idles but for what is measured, so that a round goes from one to the next without a start.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Final

import servers
from books import Database, Plan, fill, owner_ids
from session import SQL_NAME, Scenario, Session

# Enough in each wallet for every spend of the session.
FUNDS_MINOR: Final = 1_000_000

CHUNK_COUNT_MAX: Final = 20

STOCK: Final = Scenario("stock: a constant top-up", "top_up")
STOCK_QUERY: Final = Scenario("stock: a constant balance", "balance")
SQL: Final = Scenario(SQL_NAME, "sql", baseline=STOCK.name)
SQL_ALONE: Final = Scenario("sql, a transaction per posting", "sql", baseline=STOCK.name)

TOP_UPS: Final = Scenario("top-ups over 10,000 wallets", "top_up", baseline=STOCK.name)
TWO_WORKERS: Final = replace(TOP_UPS, name="top-ups, two workers")
MANY: Final = replace(TOP_UPS, name="top-ups, 256 clients", clients=256, tail_seconds=2, may_fail=True)
TWO_WORKERS_MANY: Final = replace(MANY, name="top-ups, two workers, 256 clients")
ALONE: Final = replace(TOP_UPS, name="top-ups, one client", clients=1, window_seconds=3)
HOT: Final = Scenario("spends on one hot wallet", "spend", baseline=STOCK.name, options={"owner": "bench-00000"})
MIX: Final = Scenario("60 % spends, 20 % top-ups, 20 % balances", "mix", baseline=STOCK.name)
BALANCES: Final = Scenario("balance reads over 10,000 wallets", "balance", baseline=STOCK_QUERY.name)
ABLATION: Final = replace(TOP_UPS, name="ablation: a transaction per request", tail_seconds=2)
ABLATION_ALONE: Final = replace(ALONE, name="ablation: a transaction per request, one client")
ONE_STRIPE: Final = replace(TOP_UPS, name="ablation: one treasury stripe")

MEMORY_FIRST: Final = Scenario("memory, at first", "top_up")
MEMORY_LAST: Final = Scenario("memory, after 200,000 requests", "top_up")


def throughput(session: Session) -> None:
    """Measure all rates, three times in turn."""
    main, one_shard = funded(session, "main", 64), funded(session, "one_shard", 1)
    scratch = session.cluster.scratch
    with ExitStack() as stack:
        stock = stack.enter_context(servers.application(scratch, "constant:stock"))
        ours = stack.enter_context(servers.service(scratch, main.environment()))
        two = stack.enter_context(servers.service(scratch, main.environment(), workers=2))
        alone = stack.enter_context(
            servers.application(scratch, "ablation:transaction_per_request", main.environment())
        )
        one_stripe = stack.enter_context(servers.service(scratch, one_shard.environment()))
        for number in session.rounds:
            session.measure(number, STOCK, stock)
            session.measure_sql(number, SQL, "grouped", main)
            session.measure(number, TOP_UPS, ours, main)
            session.measure(number, ABLATION, alone, main)
            session.measure(number, TWO_WORKERS, two, main)
            session.measure(number, HOT, ours, main)
            session.measure(number, MIX, ours, main)
            session.measure(number, ALONE, ours, main)
            session.measure(number, ABLATION_ALONE, alone, main)
            session.measure(number, STOCK_QUERY, stock)
            session.measure(number, BALANCES, ours, main)
            session.measure(number, MANY, ours, main)
            session.measure(number, TWO_WORKERS_MANY, two, main)
            session.measure(number, ONE_STRIPE, one_stripe, one_shard)
        session.measure_sql(1, SQL_ALONE, "alone", main)
    session.prove(main)
    session.prove(one_shard)


def memory(session: Session) -> None:
    """Watch a worker's memory over many requests."""
    database = funded(session, "memory", 64)
    request_count = 5_000 if session.quick else 200_000
    with servers.service(session.cluster.scratch, database.environment()) as ours:
        # The first requests fill pools, caches and the allocator's arenas.
        seconds = 1 if session.quick else 8
        session.measure(1, replace(MEMORY_FIRST, window_seconds=seconds), ours, database)
        total = 0
        for number in range(1, CHUNK_COUNT_MAX + 1):
            row = session.measure(number, replace(MEMORY_LAST, window_seconds=10), ours, database)
            total += row.requests
            if total >= request_count:
                break
        else:
            session.faults.append(f"memory: only {total} requests in the time there is")
    series = [row for row in session.rows if row.name == MEMORY_LAST.name]
    # One row stands for all: the largest memory seen.
    session.rows = [row for row in session.rows if row not in series]
    last = replace(series[-1], round=1, memory_mb=max(row.memory_mb for row in series), requests=total)
    session.rows.append(last)
    session.prove(database)


def funded(session: Session, name: str, shard_count: int, prefixes: Sequence[str] = ("bench",)) -> Database:
    """Make a database whose wallets, of each prefix as many, have enough for a session."""
    database = session.cluster.create(name, shard_count=shard_count)
    for prefix in prefixes:
        fill(Plan(database, owner_ids(session.wallet_count, prefix), session.wallet_count, FUNDS_MINOR))
    database.settle()
    return database
