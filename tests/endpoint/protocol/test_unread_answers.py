"""Answers that nobody reads: they are bounded one by one and together, and are not kept for long."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from uuid import uuid4

import httpx
import pytest
from conftest import Served, environment
from raw import PATIENCE_SECONDS, Raw, connected, graphql, request

from wallet_gql.endpoint.limits import UNIT_BYTES
from wallet_gql.endpoint.protocol.clients import STALL_SECONDS, UNREAD_BYTES_MAX
from wallet_gql.settings import Settings

TRANSACTIONS = 100
# Six bytes a character in JSON, the most that there is.
TEXT = "\x01" * 500

PAGE = '{name}: transactions(ownerId: "{owner}", first: 100) {{ nodes {{ description reference }} }}'

WHOLE = (
    '{{ wallet(ownerId: "{owner}") {{ ownerId id transactions(first: 100) {{ edges {{ cursor node {{ id transactionId'
    " type direction amount balanceAfter executedAt reference idempotencyKey asset {{ id name }}"
    " entries {{ account direction amount }} }} }} }} }} }}"
)


@pytest.fixture(scope="module")
def listening(serve: Callable[..., Served], settings: Settings) -> Served:
    return serve(environment(settings, WALLET_LOG_FORMAT="json"))


@pytest.fixture(scope="module")
def owner(listening: Served) -> str:
    """An owner with a page of the heaviest transactions that there can be."""
    owner = f"heavy-{uuid4()}"
    top_up = "topUp(input: {{ownerId: $o, amount: 1, description: $t, reference: $t, idempotencyKey: {key}}})"
    with httpx.Client(timeout=PATIENCE_SECONDS) as client:

        def ask(query: str) -> None:
            body = {"query": query, "variables": {"o": owner, "t": TEXT}}
            answer = client.post(listening.url, json=body).json()
            assert "errors" not in answer, answer

        ask("mutation($o: String!) { openWallet(input: {ownerId: $o}) { __typename } }")
        for _ in range(TRANSACTIONS // 10):
            fields = (
                f"m{n}: {top_up.format(key=chr(34) + str(uuid4()) + chr(34))} {{ __typename }}" for n in range(10)
            )
            ask("mutation($o: String!, $t: String!) { " + " ".join(fields) + " }")
    return owner


def heavy(owner: str, pages: int) -> str:
    return "{" + " ".join(PAGE.format(name=f"p{n}", owner=owner) for n in range(pages)) + "}"


def resident_bytes(served: Served) -> int:
    return int(Path(f"/proc/{served.process.pid}/statm").read_text().split()[1]) * 4096


def test_an_answer_weighs_at_most_what_its_cost_says(listening: Served, owner: str) -> None:
    for query in (
        heavy(owner, 1),
        "{" + PAGE.format(name="p" * 100, owner=owner).replace("description", "d" * 100 + ": description") + "}",
        WHOLE.format(owner=owner),
        "{ assets { id code name scale } }",
    ):
        answer = httpx.post(
            listening.url, json={"query": query}, headers={"x-graphql-cost": "1"}, timeout=PATIENCE_SECONDS
        )
        assert "errors" not in answer.json()
        assert len(answer.content) <= answer.json()["extensions"]["cost"]["requested"] * UNIT_BYTES + 100


def test_what_would_weigh_too_much_is_refused(listening: Served, owner: str, settings: Settings) -> None:
    for pages in (6, 20):
        answer = httpx.post(listening.url, json={"query": heavy(owner, pages)}, timeout=PATIENCE_SECONDS).json()
        (error,) = answer["errors"]
        assert f"at most {settings.document_cost_max} is allowed" in error["message"]
    answer = httpx.post(listening.url, json={"query": heavy(owner, 5)}, timeout=PATIENCE_SECONDS)
    assert len(answer.json()["data"]) == 5
    assert len(answer.content) > 2_500_000


SERVED_MIN = 10
"""So many of them are served at least: what the line of costly queries takes."""


@pytest.fixture
def deaf(listening: Served, owner: str) -> Iterator[list[Raw]]:
    """Clients that ask for the heaviest answers and read nothing."""
    with ExitStack() as stack:
        clients = [stack.enter_context(connected(listening.url)) for _ in range(60)]
        for raw in clients:
            raw.send(request(graphql(heavy(owner, 5))) * 20)
        yield clients


def test_answers_that_nobody_reads_are_bounded_in_all(listening: Served, deaf: list[Raw]) -> None:
    before = resident_bytes(listening)
    largest = 0
    started = time.monotonic()
    with httpx.Client(timeout=PATIENCE_SECONDS) as client:
        # All that while, others are answered.
        while time.monotonic() - started < STALL_SECONDS + 10:
            assert client.post(listening.url, json={"query": "{ __typename }"}).status_code == 200
            largest = max(largest, resident_bytes(listening) - before)
            time.sleep(0.1)
    # What waits to be read, a few answers in the making, and what Python keeps of either.
    assert largest < 2 * UNREAD_BYTES_MAX
    for _ in range(PATIENCE_SECONDS):
        reasons = [line["reason"] for line in listening.logged() if line["event"] == "client cut"]
        if len(reasons) >= SERVED_MIN:
            break
        time.sleep(1)
    # The others were told that the line of costly queries is full, which is little to read.
    assert SERVED_MIN <= len(reasons) <= len(deaf)
    assert set(reasons) <= {"The client does not read its answers.", "Too many unread answers wait in this process."}
