"""What each release left behind, in `tests/released/<version>/`: see docs/releases.md."""

import json
import subprocess
from pathlib import Path
from typing import Any, Final

from wallet_gql.embedded.binaries import installed_binaries
from wallet_gql.settings import Settings

FOLDER: Final = Path(__file__).parents[1] / "released"

OLDEST_REVISION: Final = {"0.1.0": "0001"}
"""Each release, oldest first, and the oldest revision whose schema holds all rows that the release could write."""

NEWEST: Final = [*OLDEST_REVISION][-1]


def read(version: str, name: str) -> Any:
    """Return what a file of JSON says."""
    return json.loads((FOLDER / version / name).read_text(encoding="utf-8"))


def restore(version: str, settings: Settings, postgres_version: int) -> None:
    """Restore a release's database into an empty one, as its owner."""
    url = settings.owner_url()
    connection = {"HOST": url.host, "PORT": str(url.port), "USER": url.username, "DATABASE": url.database}
    # The password is in the environment: every account can read a command line.
    environment = {f"PG{name}": value or "" for name, value in connection.items()} | {"PGPASSWORD": str(url.password)}
    dump = FOLDER / version / "database.sql"
    run = subprocess.run(
        [installed_binaries(postgres_version) / "psql", "--no-psqlrc", "--set=ON_ERROR_STOP=1", "-1", f"--file={dump}"],
        env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip
    assert (run.returncode, run.stderr) == (0, "")
