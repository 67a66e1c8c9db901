"""The examples do what they say, also where answers are lost."""

import http.server
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import httpx
import pytest
from conftest import Served
from newcomer import ROOT

ECONOMY: Final = ROOT / "examples" / "economy.py"

STORY: Final = """\
Mira and Jonas begin to play.
Mira buys 500 gold in the store. She has 500.
Her phone did not see the answer and asks again, with the same key. She has 500.
The store reports the same payment to the game's server, under another key: the receipt was credited before.
A sword costs 120: they are held while it is forged. Of 500 she can spend 380.
A castle for 400 meanwhile? Only 380 are available.
The sword is hers: 120 are captured. She has 380.
A horse for 200 runs away before it is delivered: the hold is voided. She has 380.
The stable wants its money all the same: the hold is voided, nothing is paid.
Mira gives Jonas 50, and taps twice. She has 330.
Jonas sells a shield for 80: Mira's credits are held for him, and nobody can spend them.
Jonas wants more, and she agrees: 100 are held.
The shield has a dent, so he takes 90, and 10 are released.
The sword is blunt: support refunds 60 of it. Mira has 300.
Another 61? Only 60 of what she paid are left to refund.
Her bank charges the 500 back: 300 are taken, and she owes 200.
Her wallet is frozen: FROZEN_OUT, for chargeback.
She cannot spend. She buys 220 again: 200 repay her debt, 20 are left.
Her wallet is open again.
Mira has 20, of which 0 are held:
  TOP_UP        +500   500
  CAPTURE       -120   380 (A sword)
  TRANSFER_OUT   -50   330 (A gift)
  TRANSFER_OUT   -90   240 (A shield)
  REFUND         +60   300
  CLAWBACK      -300     0 (Chargeback)
  TOP_UP        +220   220 (Paid up)
  REPAYMENT     -200    20
Jonas has 140, of which 0 are held:
  TRANSFER_IN    +50    50 (A gift)
  TRANSFER_IN    +90   140 (A shield)
"""


def play(address: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, ECONOMY, address], capture_output=True, text=True, timeout=120, check=False)


@contextmanager
def answering(answer: Callable[[bytes], tuple[int, bytes] | None]) -> Iterator[str]:
    """A server whose answers are made from the request's body; where there is none, the connection is closed."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            answered = answer(self.rfile.read(int(self.headers["Content-Length"])))
            if answered is None:
                return
            status, body = answered
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/graphql"
        server.shutdown()
        thread.join()


async def test_economy_tells_its_story(client: httpx.AsyncClient, served: Served) -> None:
    assert client.base_url.port == httpx.URL(served.url).port  # and the books are proved afterwards
    for _ in range(2):
        played = play(served.url)
        assert (played.returncode, played.stderr) == (0, "")
        assert played.stdout == STORY


async def test_economy_is_the_same_where_every_other_answer_is_lost(client: httpx.AsyncClient, served: Served) -> None:
    assert client.base_url.port == httpx.URL(served.url).port
    answers: list[bytes] = []

    def lose_every_other(body: bytes) -> tuple[int, bytes] | None:
        response = httpx.post(served.url, content=body, headers={"content-type": "application/json"}, timeout=30)
        answers.append(response.content)
        return None if len(answers) % 2 else (200, answers[-1])

    with answering(lose_every_other) as address:
        played = play(address)
    assert (played.returncode, played.stderr) == (0, "")
    assert played.stdout == STORY
    assert len(answers) > 30


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, b'{"errors": [{"message": "wrong", "extensions": {"code": "BAD_USER_INPUT"}}], "data": null}'),
        (404, b'{"detail": "wrong"}'),
    ],
    ids=["bad input", "no GraphQL"],
)
def test_economy_does_not_repeat_what_is_wrong(status: int, body: bytes) -> None:
    asked: list[bytes] = []

    def refuse(request: bytes) -> tuple[int, bytes]:
        asked.append(request)
        return status, body

    with answering(refuse) as address:
        played = play(address)
    assert (played.returncode, played.stdout, len(asked)) == (1, "", 1)
    assert "wrong" in played.stderr
    assert "Traceback" not in played.stderr
