"""Compares server CPU: a constant-answer mutation through our endpoint and through stock strawberry.asgi.GraphQL.

`python bench/endpoint.py` prints the ratio, the median of three rounds in turn, and ends with 1 if it is above 0.7.
"""

import argparse
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Final

import servers
from wrk import LoadFailed, check_installed, drive

RATIO_MAX: Final = 0.7
ROUND_COUNT: Final = 3
CLIENT_COUNT: Final = 64


def cpu_us(server: servers.Server, window_seconds: float) -> float:
    """Return the server's CPU for a request, in µs."""
    drive(server.url, "top_up", clients=CLIENT_COUNT, window_seconds=1, wallets=10_000)
    before = server.cpu_seconds()
    load = drive(server.url, "top_up", clients=CLIENT_COUNT, window_seconds=window_seconds, wallets=10_000)
    if load.failed:
        raise LoadFailed(f"{load.failed} requests failed; the first: {load.first_failure[:500]}")
    return (server.cpu_seconds() - before) * 1e6 / load.requests


def compare(scratch: Path, *, window_seconds: float = 5, log_level: str = "info") -> list[tuple[float, float]]:
    """Return the CPU of stock and of ours in µs, for each round."""
    own = {"WALLET_LOG_LEVEL": log_level}
    with (
        servers.application(scratch, "constant:stock") as stock,
        servers.application(scratch, "constant:ours", own) as ours,
    ):
        return [(cpu_us(stock, window_seconds), cpu_us(ours, window_seconds)) for _ in range(ROUND_COUNT)]


def main() -> None:
    """Compare and judge."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=5, help="the length of a window")
    parser.add_argument("--log-level", default="info", help="ours: with info, it writes a line a request, to /dev/null")
    arguments = parser.parse_args()
    try:
        check_installed()
        with tempfile.TemporaryDirectory() as scratch:
            rounds = compare(Path(scratch), window_seconds=arguments.seconds, log_level=arguments.log_level)
    except LoadFailed as error:
        sys.exit(str(error))
    for stock, ours in rounds:
        print(f"stock {stock:5.0f} µs   ours {ours:5.0f} µs   ratio {ours / stock:.2f}")
    ratio = median(ours / stock for stock, ours in rounds)
    print(f"{'PASS' if ratio <= RATIO_MAX else 'FAIL'}  the median ratio is {ratio:.2f}, at most {RATIO_MAX} is asked")
    sys.exit(ratio > RATIO_MAX)


if __name__ == "__main__":
    main()
