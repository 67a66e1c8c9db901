import subprocess
import sys
from typing import Final

import pytest
from conftest import environment

from wallet_gql.settings import Settings

# A signal that comes while a destructor runs: what its handler raises there is ignored.
SERVE: Final = """
import signal, sys
from wallet_gql import cli

# Whoever runs the tests in the background of a shell ignores it, and so would this process.
signal.signal(signal.SIGINT, signal.default_int_handler)
number, announce = signal.Signals[sys.argv.pop()], cli._announce

class Dying:
    def __del__(self):
        signal.raise_signal(number)

def announce_and_die(*arguments, **more):
    announce(*arguments, **more)
    Dying()

cli._announce = announce_and_die
cli.main()
"""


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_stop_that_comes_while_the_server_starts_is_heard(settings: Settings, name: str, workers: str) -> None:
    run = subprocess.run(
        [sys.executable, "-c", SERVE, "serve", "--port", "0", "--workers", workers, name],
        env=environment(settings), capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    # A supervisor of several workers has done what it was told, and says so.
    status = {"SIGINT": 130, "SIGTERM": 143}[name] if workers == "1" else 0
    assert run.returncode == status, run.stderr
