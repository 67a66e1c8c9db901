"""The first commands of a newcomer, as they are typed: `make install`, `make run`, `make reset`."""

import asyncio
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import httpx
import pytest
from conftest import environment
from newcomer import ROOT, TABS
from tables import count_rows

from wallet_gql.settings import Settings

GUARD_SECONDS: Final = 180
"""When a command that hangs is ended; no test depends on it."""

# What an outer make, a developer's own settings or a mirror of the package index would change.
KEPT: Final = {
    name: value
    for name, value in os.environ.items()
    if not name.startswith(("MAKE", "MFLAGS", "PIP_", "WALLET_", "DATABASE_URL"))
}


class Checkout:
    """This checkout with a data folder of its own, whose packages are installed already."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self.clusters = data / f"pg{Settings(_env_file=None).postgres_version}"
        # Empty: whatever a developer's .env says, the database is an embedded one.
        self.environment = {**KEPT, "DATABASE_URL": "", "WALLET_DATA_DIR": str(data)}

    def command(self, target: str, *arguments: str) -> list[str]:
        is_installed = ("-o", "install", f"BIN={Path(sys.executable).parent}")
        return ["make", *is_installed, target, *arguments]

    def make(self, target: str, *arguments: str, typed: str = "", **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(target, *arguments),
            cwd=ROOT,
            env={**self.environment, **more},
            input=typed,
            capture_output=True,
            text=True,
            timeout=GUARD_SECONDS,
            check=False,
        )

    @contextmanager
    def run(self, end_with: signal.Signals = signal.SIGINT) -> Iterator[str]:
        """`make run` on a free port; gives what it prints. At the end all of it gets the signal, as by Ctrl-C."""
        process = subprocess.Popen(
            self.command("run", "PORT=0"),
            cwd=ROOT,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        assert process.stdout is not None
        printed = ""
        for line in process.stdout:
            printed += line
            if "make reset" in line:
                break
        try:
            yield printed
        finally:
            os.killpg(process.pid, end_with)
            process.wait(GUARD_SECONDS)
            process.stdout.close()


@pytest.fixture
def checkout() -> Iterator[Checkout]:
    # Not tmp_path: as root that is 0700, and PostgreSQL's account could not enter it.
    place = Path(tempfile.mkdtemp(prefix="wallet-test-", dir="/tmp"))
    place.chmod(0o755)
    yield Checkout(place / "data")
    shutil.rmtree(place)


def play(printed: str, title: str) -> str:
    """Press Play in a tab of the page that was named, and return the answer."""
    found = re.search(r"http://\S+/graphql", printed)
    assert found is not None, printed
    query, variables = "\n".join(TABS[title]["query"]), TABS[title]["variables"]
    if "input" in variables:
        variables = {"input": {**variables["input"], "idempotencyKey": "0d1bb2a1-6d2f-4c1a-9f0e-3c5c8f0f7a11"}}
    return httpx.post(found[0], json={"query": query, "variables": variables}, timeout=GUARD_SECONDS).text


def test_run_says_what_is_next(checkout: Checkout) -> None:
    with checkout.run() as printed:
        assert '"amount":"799"' in play(printed, "Balance")

    assert printed.startswith("Serving http://127.0.0.1:")
    assert "README.md" in printed
    assert f"Data: {checkout.data} " in printed
    assert len(printed.splitlines()) <= 8


def test_reset_makes_the_first_time_again(checkout: Checkout) -> None:
    with checkout.run() as printed:
        assert '"balanceAfter":"899"' in play(printed, "TopUp")
        refused = checkout.make("reset", "ARGS=--yes")
        assert refused.returncode != 0
        assert re.search(rf"^Error: {checkout.data} is in use by process \d+\. Stop that server", refused.stderr)
        assert '"amount":"899"' in play(printed, "Balance")
    (checkout.data / "pgadmin").mkdir()
    (checkout.data / "notes.txt").write_text("mine")

    for typed in ("", "n\n"):
        kept = checkout.make("reset", typed=typed)
        assert f"Remove every wallet and transaction in {checkout.data}? [y/N]" in kept.stdout
        assert kept.returncode != 0
        assert (checkout.clusters / "PG_VERSION").exists()

    removed = checkout.make("reset", typed="y\n")
    assert (removed.returncode, removed.stderr) == (0, "")
    assert "Removed the embedded database" in removed.stdout
    assert sorted(path.name for path in checkout.data.iterdir()) == ["lock", "notes.txt", "pgadmin"]
    again = checkout.make("reset")
    assert (again.returncode, "There is nothing to remove" in again.stdout) == (0, True)
    with checkout.run() as printed:
        assert '"amount":"799"' in play(printed, "Balance")


def test_reset_waits_for_what_a_killed_server_left(checkout: Checkout) -> None:
    with checkout.run(end_with=signal.SIGKILL) as printed:
        play(printed, "TopUp")

    assert checkout.make("reset", "ARGS=--yes").returncode == 0
    assert not checkout.clusters.exists()
    with checkout.run() as printed:
        assert '"amount":"799"' in play(printed, "Balance")


def test_reset_never_touches_a_database_of_yours(checkout: Checkout, settings: Settings) -> None:
    with checkout.run():
        pass
    before = asyncio.run(count_rows(settings))

    refused = checkout.make("reset", "ARGS=--yes", DATABASE_URL=environment(settings)["DATABASE_URL"])

    assert refused.returncode != 0
    assert refused.stderr.startswith("Error: DATABASE_URL is set")
    assert asyncio.run(count_rows(settings)) == before
    assert checkout.clusters.exists()


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """What `make install` needs of a checkout, in which nothing is installed."""
    for name in ("Makefile", "pyproject.toml", "requirements.lock"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def install(folder: Path, python: str | Path, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["make", "install", f"PYTHON={python}"],  # noqa: S607 - as it is typed
        cwd=folder,
        env={**KEPT, **more},
        capture_output=True,
        text=True,
        timeout=GUARD_SECONDS,
        check=False,
    )


def test_python_that_is_missing_is_named(bare: Path) -> None:
    result = install(bare, "python3.99")

    assert result.returncode != 0
    assert result.stderr.startswith(
        "Python 3.11 or newer is needed, and there is no python3.99. Name one: make PYTHON="
    )
    assert not (bare / ".venv").exists()


def test_python_that_is_too_old_is_named(bare: Path) -> None:
    old = bare / "python3.9"
    code = "import sys; sys.version_info = (3, 9, 2); exec(sys.argv[1])"
    old.write_text(f'#!/bin/sh\nexec "{sys.executable}" -c "{code}" "$2"\n')
    old.chmod(0o755)

    result = install(bare, old)

    assert result.returncode != 0
    assert result.stderr.startswith(f"Python 3.11 or newer is needed, and {old} is 3.9. Name a newer one: make PYTHON=")
    assert not (bare / ".venv").exists()


def test_install_shows_its_progress_and_why_it_failed(bare: Path) -> None:
    wheel = bare / "found-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("found-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: found\nVersion: 1.0\n")
        archive.writestr("found-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr("found-1.0.dist-info/RECORD", "")
    digest = f"--hash=sha256:{hashlib.sha256(wheel.read_bytes()).hexdigest()}"
    (bare / "requirements.lock").write_text(f"found==1.0 {digest}\nlost==1.0 {digest}\n")

    result = install(bare, sys.executable, PIP_NO_INDEX="1", PIP_FIND_LINKS=str(bare))

    assert result.returncode != 0
    assert result.stdout.splitlines()[0].startswith("Installing the packages of requirements.lock into .venv")
    assert "\n  found-1.0-py3-none-any.whl\n" in result.stdout
    assert "No matching distribution found for lost==1.0" in result.stderr
    assert "The packages were not installed; pip says above why." in result.stderr
    assert not (bare / ".venv" / ".installed").exists()
