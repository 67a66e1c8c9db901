"""Tests the tests: plants one mistake at a time in a copy of the project, and says which test caught it.

`make mutants`, or `python tests/mutants/run.py [name…]`. A mutant that no test catches fails the run; so does one whose
place in the code is gone, for then no test can run, or which is itself at fault: a function that has other arguments
now, say. A check that never failed proves nothing.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from textwrap import indent
from typing import Final

from planted import MUTANTS, Mutant

ROOT: Final = Path(__file__).parents[2]
COPIED: Final = (
    "wallet_gql",
    "alembic",
    "tests",
    "docs",
    "pyproject.toml",
    "schema.graphql",
    "README.md",
    "CHANGELOG.md",
)
TIMEOUT_SECONDS: Final = 600

# What a mutant raises by itself, as pytest shows it: then the code has changed under it, and it shows nothing.
OWN_FAULT: Final = re.compile(
    r"^E +(NameError: .*|TypeError: _planted\.<locals>.*|.*\b(UndefinedColumn|PostgresSyntax)Error: .*)$", re.MULTILINE
)


def plant(mutant: Mutant, copy: Path) -> None:
    """Let the copy's names mean what the mutant says: at the end of their modules, before anybody takes them."""
    for target, wrong in mutant.changes:
        module, name = target.split(":")
        path = copy / (module if module.endswith(".py") else module.replace(".", "/") + ".py")
        owner, _, member = name.rpartition(".")
        right = f"vars({owner})[{member!r}]" if owner else name
        path.write_text(f"""{path.read_text()}

def _planted():
    right = {right}
{indent(wrong.strip(), "    ")}
    assert wrong != right
    return wrong
{name} = _planted()
""")
    if any(target.startswith("alembic/") for target, _ in mutant.changes):
        renew_armour(mutant, copy)


def renew_armour(mutant: Mutant, copy: Path) -> None:
    """Let the armour, which knows every law by heart, not catch a mutant before any test of what the law says."""
    armour = copy / "wallet_gql/ledger/armour.json"
    before = armour.read_text()
    subprocess.run([sys.executable, "tests/renew_armour.py"], cwd=copy, env=environment_of(copy), check=True)
    if armour.read_text() == before:
        raise SystemExit(f"Mutant {mutant.name!r} changes no law that is in force: a later migration replaces it.")


def environment_of(copy: Path) -> dict[str, str]:
    """Return an environment in which the copy comes before the installed project, also for commands of tests."""
    return {**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}


def caught_by(mutant: Mutant, copy: Path) -> str | None:
    """Run the mutant's tests on the copy; return the first one that failed."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-n", "2", "-p", "no:cacheprovider", *mutant.tests]
    try:
        run = subprocess.run(
            command,
            cwd=copy,
            env=environment_of(copy),
            capture_output=True,
            text=True,
            timeout=TIMEOUT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"the time limit of {TIMEOUT_SECONDS} s"
    failed = re.findall(r"^(?:FAILED|ERROR) (\S+)", run.stdout, re.MULTILINE)
    if run.returncode == 0:
        return None
    if not failed:
        raise SystemExit(f"Mutant {mutant.name!r}: no test could run.\n{run.stdout[-2000:]}{run.stderr[-2000:]}")
    if fault := OWN_FAULT.search(run.stdout):
        raise SystemExit(f"Mutant {mutant.name!r} is itself at fault in {failed[0]}: {fault[1]}")
    return str(failed[0])


def run_on_copy(mutant: Mutant) -> str | None:
    """Plant a mutant in a copy of the project; return the test that caught it."""
    folder = Path(tempfile.mkdtemp(prefix="wallet-gql-mutant-", dir="/tmp"))
    try:
        folder.chmod(0o755)
        for name in COPIED:
            source = ROOT / name
            ignore = shutil.ignore_patterns("conformance", "mutants", "__pycache__")
            if source.is_dir():
                shutil.copytree(source, folder / name, ignore=ignore)
            else:
                shutil.copy(source, folder / name)
        plant(mutant, folder)
        return caught_by(mutant, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def main(names: list[str]) -> int:
    """Plant every mutant, or the named ones; return 1 if one survived."""
    if unknown := set(names) - {mutant.name for mutant in MUTANTS}:
        print(f"There is no mutant {', '.join(sorted(unknown))}. There are:")
        print(*(mutant.name for mutant in MUTANTS), sep="\n")
        return 2
    chosen = [mutant for mutant in MUTANTS if not names or mutant.name in names]
    tests = tuple(sorted({test for mutant in chosen for test in mutant.tests}))
    # What fails anyway would catch everything.
    if failed := run_on_copy(Mutant("nothing", (), tests)):
        print(f"The tests fail without a mistake, so they prove nothing: {failed}")
        return 1
    print("passed    without a mistake", flush=True)
    survivors = 0
    for mutant in chosen:
        test = run_on_copy(mutant)
        survivors += test is None
        print(f"{'SURVIVED' if test is None else 'caught  '}  {mutant.name:45} {test or ''}", flush=True)
    print(f"{len(chosen) - survivors} passed, {survivors} failed")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
