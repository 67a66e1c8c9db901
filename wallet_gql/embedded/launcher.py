"""An embedded PostgreSQL for development and tests: the binaries come from the package index, the launcher is ours.

- One server per data folder: its starter holds a lock on `<data_dir>/lock` until the server has ended.
- Durable: `fsync` and `synchronous_commit` stay on. After `kill -9` of anything the next start works: a cluster is
  made aside and moved into place whole, and a start waits for what is left of the last server.
- It ends with its parent. On Linux the kernel sends it SIGINT (fast shutdown) when the *thread* that started it ends:
  start it from one that lives as long, such as the main thread. macOS has nothing like it: there the server of a
  killed parent runs on until the next start on its folder shuts it down and takes over.
- Only 127.0.0.1 listens, every role has a password, and none is on a command line or in the log.
- PostgreSQL refuses to run as root: as root it runs under the account `postgres` or, failing that, `nobody`.

`<data_dir>/` holds `pg<version>/` (clusters; one runs at a time), `lock`, `passwords.json`, `port`, `postgres.log`.
Everything here blocks: call it before an event loop runs, or keep that loop waiting. Windows is not supported.
"""

import fcntl
import hashlib
import json
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Final

from wallet_gql.embedded.binaries import (
    ELSEWHERE,
    EmbeddedError,
    claim,
    clusters_in,
    copied,
    default_data_dir,
    installed_binaries,
    open_private,
    remove_clusters,
    unprivileged_account,
)
from wallet_gql.processes import end_with_parent

__all__ = ["EmbeddedError", "EmbeddedPostgres", "attach_or_start", "default_data_dir", "remove", "start"]

_START_SECONDS: Final = 60
_ORPHAN_SECONDS: Final = 30
_STOP_STEPS: Final = ((signal.SIGINT, 60), (signal.SIGQUIT, 10), (signal.SIGKILL, 10))
_PORT_ATTEMPTS: Final = 5
_LOG_BYTES_MAX: Final = 10_000_000
_LOG_LINES: Final = 10
_VERSIONS: Final = (16, 18)
_ROLES: Final = ("postgres", "wallet_owner", "wallet_server")

_SETTINGS: Final = {
    "shared_buffers": "256MB",
    # A page is logged whole when it first changes after a checkpoint: the rarer they are, the less is logged.
    "max_wal_size": "4GB",
    "checkpoint_timeout": "15min",
    "max_connections": "200",
    "timezone": "UTC",
    "log_timezone": "UTC",
}


@dataclass(frozen=True, slots=True)
class EmbeddedPostgres:
    """A running server; its addresses hold passwords and stay out of its repr.

    `server_url` is what the service uses: `wallet_server` may connect and no more. `owner_url` is for migrations:
    `wallet_owner` owns the database `wallet`. `superuser_url` names `postgres`, the role and the database.
    """

    data_dir: Path
    version: int
    port: int
    pid: int
    server_url: str = field(repr=False)
    owner_url: str = field(repr=False)
    superuser_url: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class _Cluster:
    """One version's cluster in a data folder, the binaries that run it and, if we are root, the account they run as."""

    data_dir: Path
    version: int
    binaries: Path
    account: pwd.struct_passwd | None

    @property
    def folder(self) -> Path:
        return self.data_dir / f"pg{self.version}"

    @property
    def log(self) -> Path:
        return self.data_dir / "postgres.log"

    @property
    def passwords(self) -> Path:
        return self.data_dir / "passwords.json"

    @property
    def name(self) -> str:
        """The cluster_name: it stands in the command line of the postmaster and of each of its backends."""
        return f"wallet-gql-{hashlib.sha256(bytes(self.folder)).hexdigest()[:16]}"


@contextmanager
def start(data_dir: Path, *, version: int = 18, settings: Mapping[str, str] = {}) -> Iterator[EmbeddedPostgres]:
    """Run a server on the folder while the block lasts, making its cluster at the first start.

    `settings` are PostgreSQL's and win over this module's. Raises EmbeddedError, in this order: the binaries are
    missing; the folder cannot be used; another process uses it; the server does not come up within 60 s.
    """
    cluster = _prepare(data_dir, version)
    if (lock := _try_lock(cluster)) is None:
        raise EmbeddedError(_in_use(cluster))
    with _serving(cluster, lock, settings) as server:
        yield server


@contextmanager
def attach_or_start(data_dir: Path, *, version: int = 18) -> Iterator[EmbeddedPostgres]:
    """Use the server that another of our processes runs on the folder, else start one.

    A server attached to ends with the process that started it, not with this block. Raises as `start` does, and when
    the other process runs another version or its server is not ready within 60 s.
    """
    cluster = _prepare(data_dir, version)
    deadline = time.monotonic() + _START_SECONDS
    while (lock := _try_lock(cluster)) is None:
        running = _holder(cluster)[1]
        pid, port, ready = _postmaster(cluster)
        # The file of a killed postmaster still says ready; its port is free.
        if ready and running == str(version) and not _is_free(port):
            yield _describe(cluster, pid, port)
            return
        if running not in {"", str(version)} or time.monotonic() > deadline:
            raise EmbeddedError(_in_use(cluster))
        time.sleep(0.05)
    with _serving(cluster, lock, {}) as server:
        yield server


def remove(data_dir: Path, confirm: Callable[[], object]) -> bool:
    """Remove the folder's clusters and all that is in them; False where there is none.

    `confirm` is called before anything is removed, and raises to keep it. Raises EmbeddedError, before that, when
    another process uses the folder.
    """
    if not clusters_in(data_dir):
        return False
    cluster = _prepare(data_dir, max(_VERSIONS))
    if (lock := _try_lock(cluster)) is None:
        raise EmbeddedError(
            f"{data_dir} is in use by process {_holder(cluster)[0]}. Stop that server (Ctrl-C), then reset again."
            " Nothing was removed."
        )
    try:
        confirm()
        with _naming_faults(data_dir):
            for version in _VERSIONS:
                _await_orphans(replace(cluster, version=version))
            remove_clusters(data_dir)
    finally:
        os.close(lock)
    return True


@contextmanager
def _serving(cluster: _Cluster, lock: int, settings: Mapping[str, str]) -> Iterator[EmbeddedPostgres]:
    try:
        with _naming_faults(cluster.data_dir):
            os.ftruncate(lock, 0)
            os.pwrite(lock, f"{os.getpid()} {cluster.version}".encode(), 0)
            _await_orphans(cluster)
            if cluster.log.exists() and cluster.log.stat().st_size > _LOG_BYTES_MAX:
                cluster.log.replace(cluster.log.with_suffix(".log.1"))
            _initialise(cluster)
            process, port = _launch(cluster, settings)
        try:
            yield _describe(cluster, process.pid, port)
        finally:
            _stop(process)
    finally:
        os.ftruncate(lock, 0)
        os.close(lock)


def _describe(cluster: _Cluster, pid: int, port: int) -> EmbeddedPostgres:
    passwords = json.loads(cluster.passwords.read_text())
    server, owner, superuser = (
        f"postgresql+asyncpg://{role}:{passwords[role]}@127.0.0.1:{port}/{database}"
        for role, database in (("wallet_server", "wallet"), ("wallet_owner", "wallet"), ("postgres", "postgres"))
    )
    return EmbeddedPostgres(cluster.data_dir, cluster.version, port, pid, server, owner, superuser)


def _prepare(data_dir: Path, version: int) -> _Cluster:
    with _naming_faults(data_dir):
        account = unprivileged_account()
        binaries = installed_binaries(version)
        cluster = _Cluster(data_dir.resolve(), version, copied(binaries) if account else binaries, account)
        claim(cluster.data_dir, account)
        return cluster


@contextmanager
def _naming_faults(data_dir: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, subprocess.SubprocessError) as error:
        raise EmbeddedError(f"The embedded PostgreSQL cannot use {data_dir}: {error}. {ELSEWHERE}") from error


def _try_lock(cluster: _Cluster) -> int | None:
    """Lock the folder until the descriptor is closed, at the latest by our end; None if another process holds it."""
    with _naming_faults(cluster.data_dir):
        lock = open_private(cluster.data_dir / "lock", os.O_RDWR)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            return None
        return lock


def _holder(cluster: _Cluster) -> tuple[str, str]:
    """Return the pid and version that the lock's holder wrote into it; empty for a moment after it was taken."""
    pid, _, version = (cluster.data_dir / "lock").read_text().partition(" ")
    return pid, version


def _in_use(cluster: _Cluster) -> str:
    pid, version = _holder(cluster)
    return (
        f"{cluster.data_dir} is in use by process {pid or '(just starting)'}, which runs PostgreSQL {version} there. "
        "End that process, set WALLET_DATA_DIR to another folder, or set DATABASE_URL."
    )


def _await_orphans(cluster: _Cluster) -> None:
    """Wait, within bounds, for what an ended process of ours left running on the cluster.

    We hold the lock, so nobody uses that server any more: its postmaster is told to shut down, in case nothing told
    it yet. Backends whose postmaster was killed end by themselves, after their statement at the latest.
    """
    deadline = time.monotonic() + _ORPHAN_SECONDS
    while pids := [pid for pid, command in _commands().items() if "postgres" in command and cluster.name in command]:
        if time.monotonic() > deadline:
            raise EmbeddedError(
                f"PostgreSQL processes of an ended process still use {cluster.folder} after {_ORPHAN_SECONDS} s. "
                f"End them (kill {' '.join(map(str, pids))}) and start again."
            )
        if (postmaster := _postmaster(cluster)[0]) in pids:
            with suppress(ProcessLookupError):
                os.kill(postmaster, signal.SIGINT)
        time.sleep(0.1)
    # What PostgreSQL would refuse to start over: a pid file cut off empty, one whose pid another program has by now,
    # and one of a killed postmaster that nobody has waited for. All else is left to its own, stricter checks.
    stale = _postmaster(cluster)[0]
    if stale == 0 or "postgres" not in _commands().get(stale, "postgres"):
        (cluster.folder / "postmaster.pid").unlink(missing_ok=True)


def _commands() -> dict[int, str]:
    """Return the command line of each process, as far as we may see it; a dead one that nobody waited for has none."""
    commands = {}
    if sys.platform == "linux":
        for file in Path("/proc").glob("[0-9]*/cmdline"):
            with suppress(OSError):
                commands[int(file.parent.name)] = file.read_bytes().replace(b"\0", b" ").decode(errors="replace")
    else:
        listing = subprocess.run(["/bin/ps", "-axwwo", "pid=,command="], capture_output=True, text=True, check=True)
        for line in listing.stdout.splitlines():
            pid, _, command = line.strip().partition(" ")
            commands[int(pid)] = command
    return commands


def _postmaster(cluster: _Cluster) -> tuple[int, int, bool]:
    """Return the pid and port in the cluster's pid file, and whether it says ready; zeros where there is none."""
    with suppress(FileNotFoundError, ValueError, IndexError):
        lines = (cluster.folder / "postmaster.pid").read_text().splitlines()
        return int(lines[0]), int(lines[3]), "".join(lines[7:8]).strip() == "ready"
    return 0, 0, False


def _initialise(cluster: _Cluster) -> None:
    """Make the passwords and the cluster with its roles and database, unless they are there.

    The cluster is made aside and then renamed, so one that is there is whole, wherever an earlier attempt was cut off.
    """
    # What a dying initdb still writes meanwhile is left to the next start.
    for leftover in cluster.data_dir.glob("pg*.new-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    if not cluster.passwords.exists():
        if clusters := [*cluster.data_dir.glob("pg*/PG_VERSION")]:
            raise EmbeddedError(
                f"{cluster.passwords} is gone, and nobody can log in to {clusters[0].parent} without it. "
                "Restore the file, or remove the whole data folder to start anew."
            )
        _write_durably(cluster.passwords, json.dumps({role: secrets.token_urlsafe(24) for role in _ROLES}))
    if not cluster.folder.exists():
        _make_cluster(cluster, json.loads(cluster.passwords.read_text()))


def _make_cluster(cluster: _Cluster, passwords: Mapping[str, str]) -> None:
    fresh = Path(tempfile.mkdtemp(prefix=f"{cluster.folder.name}.new-", dir=cluster.data_dir))
    data, password = fresh / "data", fresh / "password"
    password.write_text(passwords["postgres"])
    if cluster.account is not None:
        for path in (fresh, password):
            os.chown(path, cluster.account.pw_uid, cluster.account.pw_gid)
    options = ("--encoding=UTF8", "--no-locale", "--data-checksums", "--auth=scram-sha-256", "--username=postgres")
    _run(cluster, "initdb", f"--pgdata={data}", f"--pwfile={password}", "--no-instructions", *options)
    password.unlink()
    # A statement that fails must stop the rest, and must not be logged: it holds a password.
    strict = ("-c", "exit_on_error=on", "-c", "log_min_error_statement=panic")
    statements = (
        f"CREATE ROLE wallet_owner LOGIN PASSWORD '{passwords['wallet_owner']}';\n"
        f"CREATE ROLE wallet_server LOGIN PASSWORD '{passwords['wallet_server']}';\n"
        "CREATE DATABASE wallet OWNER wallet_owner;\n"
    )
    _run(cluster, "postgres", "--single", "-D", str(data), *strict, "postgres", text=statements)
    data.rename(cluster.folder)
    fresh.rmdir()


def _write_durably(path: Path, text: str) -> None:
    fresh = path.with_name(f"{path.name}.new")
    descriptor = open_private(fresh, os.O_WRONLY | os.O_TRUNC)
    try:
        os.write(descriptor, text.encode())
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    fresh.replace(path)


def _run(cluster: _Cluster, program: str, *arguments: str, text: str = "") -> None:
    with _spawn(cluster, program, *arguments, stdin=subprocess.PIPE) as process:
        try:
            process.communicate(text.encode(), timeout=_START_SECONDS)
        except BaseException:
            process.kill()
            raise
    if process.returncode != 0:
        raise EmbeddedError(f"{program} failed on {cluster.data_dir}. {_log_tail(cluster)}")


def _launch(cluster: _Cluster, settings: Mapping[str, str]) -> tuple[subprocess.Popen[bytes], int]:
    """Start the postmaster and wait until it takes connections; if its port is lost meanwhile, try another."""
    for _ in range(_PORT_ATTEMPTS):
        port = _choose_port(cluster)
        fixed = {
            "listen_addresses": "127.0.0.1",
            "port": str(port),
            "unix_socket_directories": "",
            "cluster_name": cluster.name,
            "log_destination": "stderr",
            "logging_collector": "off",
        }
        options = [f"--{name}={value}" for name, value in {**_SETTINGS, **settings, **fixed}.items()]
        process = _spawn(cluster, "postgres", "-D", str(cluster.folder), *options)
        try:
            if _becomes_ready(cluster, process):
                _write_durably(cluster.data_dir / "port", str(port))
                return process, port
        except BaseException:
            _stop(process)
            raise
        _stop(process)
        if "could not create any TCP/IP sockets" not in _log_tail(cluster):
            break
    raise EmbeddedError(
        f"PostgreSQL did not come up on {cluster.folder} within {_START_SECONDS} s. {_log_tail(cluster)}"
    )


def _becomes_ready(cluster: _Cluster, process: subprocess.Popen[bytes]) -> bool:
    deadline = time.monotonic() + _START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        pid, _, ready = _postmaster(cluster)
        if ready and pid == process.pid:
            return True
        time.sleep(0.02)
    return False


def _choose_port(cluster: _Cluster) -> int:
    """Return the port of the last time if it is still free, else any free one."""
    with suppress(FileNotFoundError, ValueError, OverflowError):
        remembered = int((cluster.data_dir / "port").read_text())
        if remembered and _is_free(remembered):
            return remembered
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        # As PostgreSQL does it: connections that linger after a stop do not keep the port.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def _spawn(
    cluster: _Cluster, program: str, *arguments: str, stdin: int = subprocess.DEVNULL
) -> subprocess.Popen[bytes]:
    """Start a program of PostgreSQL as its account, out of reach of the terminal's Ctrl-C, to end with this thread."""
    account = cluster.account
    log = open_private(cluster.log, os.O_WRONLY | os.O_APPEND)
    try:
        with warnings.catch_warnings():
            # Python 3.12 warns of a fork beside threads; what runs before the exec waits for none of them.
            warnings.simplefilter("ignore", DeprecationWarning)
            return subprocess.Popen(  # noqa: S603 - the package's own binaries
                [cluster.binaries / program, *arguments],
                stdin=stdin,
                stdout=log,
                stderr=log,
                cwd=cluster.data_dir,
                # Nothing of ours: PG* variables would change what runs, and secrets would show in /proc.
                env={"PATH": "/usr/bin:/bin", "LC_ALL": "C"},
                user=account and account.pw_uid,
                group=account and account.pw_gid,
                # Not []: Python 3.12.0 would keep root's groups for it (CVE-2023-6507).
                extra_groups=account and [account.pw_gid],
                umask=0o077,
                start_new_session=True,
                # It runs after setuid, which would clear the flag.
                preexec_fn=partial(end_with_parent, os.getpid(), signal.SIGINT),  # noqa: PLW1509 - prctl and getppid only
            )
    finally:
        os.close(log)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the server: a fast shutdown, then an immediate one, then for good."""
    for step, seconds in _STOP_STEPS:
        process.send_signal(step)
        with suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
            return


def _log_tail(cluster: _Cluster) -> str:
    return "\n".join(
        [f"The end of {cluster.log}:", *cluster.log.read_text(errors="replace").splitlines()[-_LOG_LINES:]]
    )
