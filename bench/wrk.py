"""Runs wrk with load.lua and reads what it counted. Linux only; Debian's package is called wrk."""

import json
import math
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

SCRIPT: Final = Path(__file__).with_name("load.lua")
TIMEOUT_SECONDS: Final = 10


class LoadFailed(Exception):
    """The load could not be driven at all; the message says why."""


@dataclass(frozen=True, slots=True)
class Load:
    """What a run sent and got back. `postings` are success payloads of what posts; `rate` is successes in the window.

    `by_second`: successes in each second of the window; `pair_rate`: holds placed and captured in it, per second.
    """

    requests: int
    postings: int
    rate: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float
    failed: int = 0
    first_failure: str = ""
    by_second: tuple[int, ...] = ()
    pair_rate: float = 0

    def slowest_rate(self) -> float:
        """Return the rate of the slowest two seconds in a row."""
        pairs = zip(self.by_second, self.by_second[1:], strict=False)
        return min(((first + second) / 2 for first, second in pairs), default=self.rate)


def check_installed() -> None:
    """Raise LoadFailed with the remedy where wrk is missing."""
    if shutil.which("wrk") is None:
        raise LoadFailed("wrk is not installed. On Debian and Ubuntu: apt-get install wrk; then run make bench again.")


def drive(
    url: str, scenario: str, *, clients: int, window_seconds: float, tail_seconds: float = 1.0, **options: object
) -> Load:
    """Send a scenario's requests for a window, and wait out a tail in which everything in flight is answered."""
    given = {"scenario": scenario, "window": window_seconds, "connections": clients, **options}
    command = [
        "wrk", "-t1", f"-c{clients}", f"-d{math.ceil(window_seconds + tail_seconds)}s", f"--timeout={TIMEOUT_SECONDS}s",
        f"--script={SCRIPT}", url, "--", *(f"{name}={value}" for name, value in given.items()),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    lines = done.stdout.splitlines()
    result = next((line.removeprefix("RESULT ") for line in lines if line.startswith("RESULT ")), None)
    if done.returncode != 0 or result is None:
        raise LoadFailed(f"wrk failed on {url}: {done.stderr.strip() or done.stdout.strip()}")
    failure = next((line.removeprefix("FAILURE ") for line in lines if line.startswith("FAILURE ")), "")
    return _load(json.loads(result), failure)


def _load(counted: dict[str, Any], failure: str) -> Load:
    unanswered, socket_errors = int(counted["unanswered"]), int(counted["socket_errors"])
    if unanswered or socket_errors:
        failure = failure or f"{unanswered} requests were not answered, {socket_errors} errors of the socket"
    return Load(
        requests=int(counted["answered"]),
        postings=int(counted["postings"]),
        rate=counted["in_window"] / counted["window_seconds"],
        p50_ms=counted["p50_ms"],
        p95_ms=counted["p95_ms"],
        p99_ms=counted["p99_ms"],
        max_ms=counted["max_ms"],
        failed=int(counted["failed"]) + unanswered + socket_errors,
        first_failure=failure,
        by_second=tuple(counted["by_second"]),
        pair_rate=counted["captured"] / counted["window_seconds"],
    )
