"""Starts and stops the servers under load, and reads what they cost from /proc."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

HERE: Final = Path(__file__).parent
_START_SECONDS: Final = 60
_STOP_SECONDS: Final = 40
_TICKS: Final = os.sysconf("SC_CLK_TCK")

# As `wallet-gql serve` runs uvicorn; what is compared are the applications.
_UVICORN: Final = (
    "--factory", "--loop", "uvloop", "--http", "httptools", "--ws", "none", "--no-access-log", "--no-server-header",
    "--no-date-header", "--no-proxy-headers", "--log-level", "warning",
)  # fmt: skip


class Processes:
    """A process and all below it."""

    def __init__(self, pid: int) -> None:
        """Take the pid at the top."""
        self.pid = pid

    def cpu_seconds(self) -> float:
        """Return the CPU time so far of all of them, those that ended included."""
        tree = _tree(self.pid)
        ended = sum(map(int, tree[self.pid][13:15]))
        return (sum(sum(map(int, fields[11:13])) for fields in tree.values()) + ended) / _TICKS

    def memory_mb(self) -> float:
        """Return the resident memory of the largest of them: of a worker, where a supervisor is at the top."""
        pages = max(int(fields[21]) for fields in _tree(self.pid).values())
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


class Server(Processes):
    """A running server."""

    def __init__(self, pid: int, url: str) -> None:
        """Take the pid and the address."""
        super().__init__(pid)
        self.url = url

    def ask(self, query: str) -> Any:
        """Send a document; return its data."""
        body = json.dumps({"query": query}).encode()
        request = urllib.request.Request(  # noqa: S310 - our own address
            f"{self.url}/graphql", body, {"content-type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310 - our own address
            return json.load(answer)["data"]


def _tree(root: int) -> dict[int, list[str]]:
    """Return the fields of /proc/<pid>/stat from the third on, for a process and all below it."""
    every: dict[int, list[str]] = {}
    for file in Path("/proc").glob("[0-9]*/stat"):
        try:
            every[int(file.parent.name)] = file.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
    found = {root: every[root]}
    waiting = [root]
    while waiting:
        parent = waiting.pop()
        below = {pid: fields for pid, fields in every.items() if int(fields[1]) == parent}
        found |= below
        waiting += below
    return found


@contextmanager
def service(scratch: Path, environment: Mapping[str, str], *, workers: int = 1) -> Iterator[Server]:
    """Run the real server, as an operator would, its log going to /dev/null."""
    command = str(Path(sys.executable).with_name("wallet-gql"))
    with _serving(scratch, environment, command, "serve", "--workers", str(workers)) as server:
        yield server


@contextmanager
def application(scratch: Path, factory: str, environment: Mapping[str, str] = {}) -> Iterator[Server]:
    """Run an application of this folder, named as uvicorn takes it."""
    uvicorn = (sys.executable, "-m", "uvicorn", factory, "--app-dir", str(HERE), *_UVICORN)
    with _serving(scratch, environment, *uvicorn) as server:
        yield server


@contextmanager
def _serving(scratch: Path, environment: Mapping[str, str], *command: str) -> Iterator[Server]:
    port = _free_port()
    # Run from a folder without a .env, which would be settings too.
    process = subprocess.Popen(
        [*command, "--port", str(port)],
        cwd=scratch,
        env=clean_environment(environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _await_ready(process, f"http://127.0.0.1:{port}/graphql")
        yield Server(process.pid, f"http://127.0.0.1:{port}")
    finally:
        process.terminate()
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def clean_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return our environment without settings of the service but those given."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("WALLET_", "DATABASE_URL"))}
    return {**kept, **environment}


def _await_ready(process: subprocess.Popen[bytes], url: str) -> None:
    request = urllib.request.Request(  # noqa: S310 - our own address
        url, b'{"query":"{__typename}"}', {"content-type": "application/json"}
    )
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            with urllib.request.urlopen(request, timeout=5):  # noqa: S310 - our own address
                return
        except OSError:
            time.sleep(0.05)
    raise RuntimeError(f"The server does not answer at {url}; its command was {process.args!r}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
