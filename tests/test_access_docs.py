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
COMMANDS = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
ANSWERS = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
SETTINGS = dict(
    line.split("=", 1) for block in re.findall(r"```ini\n(.*?)```", PAGE, re.DOTALL) for line in block.split()
)
PROVIDER = next(commands for commands in COMMANDS if "openssl" in commands)


@pytest.fixture(scope="module")
def own(new_database: Callable[[str], Settings]) -> Settings:
    return new_database("walks")


def test_every_walk_answers_as_the_page_says(own: Settings, serve: Callable[..., Served], tmp_path: Path) -> None:
    env = environment(own, WALLET_ACCESS="closed", **SETTINGS)
    env["PATH"] = f"{Path(sys.executable).parent}:{env['PATH']}"

    def run(script: str, **more: str) -> list[str]:
        command = ["/bin/bash", "-euo", "pipefail", "-c", script]
        done = subprocess.run(
            command, env=env | more, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    # Its keys are made before the server reads them.
    run(PROVIDER)
    served = serve(env, cwd=tmp_path)
    said = run("\n".join(each for each in COMMANDS if each != PROVIDER), URL=served.url)
    assert [line for line in said if not line.startswith("Key ")] == "".join(ANSWERS).splitlines()
