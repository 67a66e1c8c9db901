import subprocess
import sys
from typing import Final

import pytest
from conftest import environment

from wallet_gql.settings import Settings

# A signal that comes while a destructor runs: what its handler raises there is ignored.
SERVE: Final = """
import signal, sys
from wallet_gql import cli, serving

number, create_app = signal.Signals[sys.argv.pop()], serving.create_app

class Dying:
    def __del__(self):
        signal.raise_signal(number)

def create(settings):
    Dying()
    return create_app(settings)

serving.create_app = create
cli.main()
"""


@pytest.mark.parametrize(("name", "status"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_a_stop_that_comes_while_the_server_starts_is_heard(settings: Settings, name: str, status: int) -> None:
    run = subprocess.run(
        [sys.executable, "-c", SERVE, "serve", "--port", "0", name],
        env=environment(settings), capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert run.returncode == status, run.stderr
