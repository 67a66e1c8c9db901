"""What the figures were measured on."""

import os
import platform
import statistics
import subprocess
import time
from datetime import UTC, datetime
from pathlib import Path

from books import Cluster

_FSYNC_COUNT = 100


def describe(cluster: Cluster) -> dict[str, str]:
    """Return the machine, the versions, and how long its disk takes to make 8 KB durable."""
    processor = next(line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name"))
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": _output("git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"),
        "processor": f"{processor.partition(': ')[2]}, {len(os.sched_getaffinity(0))} cores",
        "memory": f"{memory_bytes / 2**30:.0f} GiB",
        "system": platform.platform(),
        "python": platform.python_version(),
        "postgresql": str(cluster.execute("SHOW server_version")),
        "wrk": _output("wrk", "-v").split("[")[0].strip(),
        "fsync": f"{_fsync_ms(cluster.scratch):.2f} ms",
        "load": f"{os.getloadavg()[0]:.1f} at the start, of others",
    }


def _output(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return (done.stdout or done.stderr).strip()


def _fsync_ms(folder: Path) -> float:
    """Return the median time of writing 8 KB and making it durable."""
    times = []
    descriptor = os.open(folder / "fsync", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        for n in range(_FSYNC_COUNT):
            started = time.perf_counter()
            os.pwrite(descriptor, bytes(8192), n * 8192)
            os.fdatasync(descriptor)
            times.append(time.perf_counter() - started)
    finally:
        os.close(descriptor)
    return statistics.median(times) * 1000
