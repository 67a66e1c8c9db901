"""docs/access.md as it stands: each of its commands is run, and answers as it says."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Served, environment

from wallet_gql.settings import Settings

PAGE = (Path(__file__).parents[1] / "docs/access.md").read_text()
WALKS = re.findall(r"```sh\n(.*?)```\s+```json\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture(scope="module")
def own(new_database: Callable[[str], Settings]) -> Settings:
    return new_database("walks")


def test_every_walk_answers_as_the_page_says(own: Settings, serve: Callable[..., Served], tmp_path: Path) -> None:
    env = environment(own, WALLET_ACCESS="closed")
    path = f"{Path(sys.executable).parent}:{env['PATH']}"
    first = ["wallet-gql", "api-key", "create", "--name", "first", "--scope", "wallet:read"]
    subprocess.run(first, env=env | {"PATH": path}, check=True, capture_output=True)
    served = serve(env)
    script = "\n".join(commands for commands, _ in WALKS)
    done = subprocess.run(
        ["/bin/bash", "-euo", "pipefail", "-c", script], env=env | {"PATH": path, "URL": served.url}, cwd=tmp_path,
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    answers = [line for line in done.stdout.splitlines() if not line.startswith("Key ")]
    assert answers == "".join(answer for _, answer in WALKS).splitlines()
