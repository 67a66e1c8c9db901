"""`make bench`: measures the service beside its references, judges the targets, and fails where one is missed.

`python bench/run.py [--quick] [--only GROUP …] [--publish]`. Groups: fresh, throughput, transfers, holds, sweeps,
lots, lapses, limits, memory, access, growth, proofs, endpoint.
`--publish` writes docs/performance.md's tables and plots; bench/results/ gets everything in any case.
"""

import argparse
import signal
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import books
import endpoint
import machine
import report
import targets
from access import access
from fresh import fresh
from growth import growth
from holds import holds
from limits import limits
from lots import lapses, lots
from proofs import proofs
from session import Session
from sweeps import sweeps
from throughput import memory, throughput
from transfers import transfers
from wrk import LoadFailed, check_installed

from wallet_gql.embedded.launcher import EmbeddedError

GROUPS: Final = {
    "fresh": fresh,
    "throughput": throughput,
    "transfers": transfers,
    "holds": holds,
    "sweeps": sweeps,
    "lots": lots,
    "lapses": lapses,
    "limits": limits,
    "memory": memory,
    "access": access,
    "growth": growth,
    "proofs": proofs,
}
RESULTS: Final = Path(__file__).with_name("results")


def main() -> None:
    """Measure, judge, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="windows of a second, small tables, one round: a try-out")
    parser.add_argument("--only", nargs="+", choices=[*GROUPS, "endpoint"], default=[*GROUPS, "endpoint"])
    parser.add_argument("--publish", action="store_true", help="write docs/performance.md and docs/performance/")
    arguments = parser.parse_args()
    if arguments.publish and (arguments.quick or len(set(arguments.only)) < len(GROUPS) + 1):
        parser.error("--publish needs a whole run: without --quick and --only")
    # So that every `finally` runs: the default would leave servers behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        check_installed()
        results = _run(arguments.only, quick=arguments.quick, publish=arguments.publish)
    except (LoadFailed, EmbeddedError) as error:
        sys.exit(f"Error: {error}")
    sys.exit(bool(results.faults) or not all(verdict.passed for verdict in results.verdicts))


def _run(groups: list[str], *, quick: bool, publish: bool) -> report.Results:
    started = time.monotonic()
    with books.cluster() as cluster:
        described = machine.describe(cluster)
        session = Session(cluster, quick=quick)
        for name, group in GROUPS.items():
            if name in groups:
                session.say(name)
                group(session)
        rounds = []
        if "endpoint" in groups:
            session.say("endpoint")
            rounds = endpoint.compare(cluster.scratch, window_seconds=1 if quick else 5)
    results = report.Results(
        machine=described,
        seconds=time.monotonic() - started,
        rows=session.medians(),
        verdicts=targets.judge(session.rows, rounds),
        endpoint=rounds,
        faults=session.faults,
        proven=session.proven,
    )
    _report(results, session, publish=publish)
    return results


def _report(results: report.Results, session: Session, *, publish: bool) -> None:
    file = RESULTS / f"{datetime.now(UTC):%Y%m%d-%H%M%S}.json"
    report.write_json(results, session.rows, file)
    print(f"\n{report.rows_table(results.rows)}\n")
    print(*report.verdict_lines(results.verdicts), sep="\n")
    print(*(f"FAULT {fault}" for fault in results.faults), sep="\n")
    print(f"{results.seconds:.0f} s. Everything is in {file}" + (" (a try-out: judge nothing by it)" * session.quick))
    _draw(results, RESULTS)
    if publish:
        report.publish(results)
        _draw(results, report.DOCS / "performance")


def _draw(results: report.Results, folder: Path) -> None:
    try:
        import plots  # noqa: PLC0415 - optional
    except ImportError:
        print("No plots: pip install -r bench/requirements.txt")
        return
    print(*plots.draw(results.rows, folder), sep="\n")


if __name__ == "__main__":
    main()
