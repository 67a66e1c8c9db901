"""Clients that are slow or silent, and connections beyond the bound: none costs the others anything for long."""

import resource
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

import httpx
import pytest
from conftest import Served, environment
from raw import PATIENCE_SECONDS, TYPENAME, Raw, connected, head, new_posting, request

from wallet_gql.settings import Settings

CONNECTIONS_MAX = 20
SECONDS = 2


@pytest.fixture(scope="module")
def brisk(serve: Callable[..., Served], settings: Settings) -> Served:
    """A server that waits for no one."""
    return serve(
        environment(
            settings,
            WALLET_LOG_FORMAT="json",
            WALLET_HEADER_TIMEOUT_SECONDS=str(SECONDS),
            WALLET_BODY_TIMEOUT_SECONDS=str(SECONDS),
            WALLET_KEEP_ALIVE_SECONDS=str(SECONDS),
            WALLET_CONNECTIONS_MAX=str(CONNECTIONS_MAX),
        )
    )


@contextmanager
def many(url: str, count: int) -> Iterator[list[Raw]]:
    with ExitStack() as stack:
        yield [stack.enter_context(connected(url)) for _ in range(count)]


def logged(served: Served, event: str) -> list[dict[str, object]]:
    """Wait for lines of this event."""
    for _ in range(PATIENCE_SECONDS * 10):
        if lines := [line for line in served.logged() if line["event"] == event]:
            return lines
        time.sleep(0.1)
    raise AssertionError(event)


def test_an_idle_connection_ends_when_its_time_is_over(brisk: Served) -> None:
    with connected(brisk.url) as raw:
        for _ in range(2):
            raw.send(request(TYPENAME))
            assert getattr(raw.answer(), "status", None) == 200
            time.sleep(SECONDS / 2)
        started = time.monotonic()
        assert raw.answers() == []
        assert time.monotonic() - started > SECONDS / 4


def test_a_connection_on_which_nothing_comes_ends(brisk: Served) -> None:
    for sent in (b"", b"\r\n\r\n"):
        with connected(brisk.url) as raw:
            raw.send(sent)
            assert raw.answers() == []


def drip(raw: Raw, piece: bytes) -> None:
    """Send a byte now and then, until the server has enough of it."""
    raw.socket.settimeout(0.2)
    for byte in piece:
        raw.send(bytes([byte]))
        try:
            raw.socket.recv(1, socket.MSG_PEEK)
            break  # an answer, or the end
        except TimeoutError:
            continue
    raw.socket.settimeout(PATIENCE_SECONDS)


@pytest.mark.parametrize("is_dripping", [False, True])
def test_a_request_that_does_not_arrive_is_answered_so(brisk: Served, is_dripping: bool) -> None:
    posting = new_posting(brisk.url)
    # More is announced than ever comes, blanks that JSON may have among it.
    begun = head("X-Request-Id: begun", f"Content-Length: {len(posting.body) + 10_000}")
    for start in (begun[:35], begun, begun + posting.body):
        with connected(brisk.url) as raw:
            raw.send(start)
            if is_dripping:
                drip(raw, b" " * 1000)
            (answer,) = raw.answers()
        assert answer.status == 408
        assert "did not arrive in time" in answer.error()
        assert (answer.headers["x-request-id"] == "begun") == start.startswith(begun)
    lines = [line for line in brisk.logged() if line.get("request_id") == "begun"]
    assert {(line["event"], line["status"]) for line in lines} == {("request", 408)}
    assert not posting.is_posted(brisk.url)


def test_a_body_of_chunks_without_end_is_cut(brisk: Served) -> None:
    posting = new_posting(brisk.url)
    with connected(brisk.url) as raw:
        raw.send(head("Transfer-Encoding: chunked"), b"%x\r\n%s\r\n" % (len(posting.body), posting.body))
        drip(raw, b"1\r\n \r\n" * 1000)
        (answer,) = raw.answers()
    assert answer.status == 408
    assert not posting.is_posted(brisk.url)


def test_who_hangs_up_is_no_bad_request(brisk: Served) -> None:
    posting = new_posting(brisk.url)
    whole = request(posting.body, "X-Request-Id: hung-up")
    with connected(brisk.url) as raw:
        raw.send(whole[:-10])
    (line,) = logged(brisk, "client went away")
    assert (line["request_id"], line["status"], line["errors"]) == ("hung-up", None, None)
    assert not [line for line in brisk.logged() if line["event"] == "request" and line.get("request_id") == "hung-up"]
    assert not posting.is_posted(brisk.url)


def test_connections_beyond_the_bound_are_told_so(brisk: Served) -> None:
    # The sessions of other tests have ended, or end soon.
    time.sleep(SECONDS * 2)
    with many(brisk.url, CONNECTIONS_MAX) as open_ones:
        for raw in open_ones:
            raw.send(request(TYPENAME))
            assert getattr(raw.answer(), "status", None) == 200
        with many(brisk.url, 5) as newest:
            for raw in newest:
                raw.send(request(TYPENAME))
                (answer,) = raw.answers()
                assert answer.status == 503
                assert "Too many connections" in answer.error()
                assert (answer.headers["connection"], answer.headers["retry-after"]) == ("close", "1")
        for raw in open_ones:
            raw.send(request(TYPENAME))
            assert getattr(raw.answer(), "status", None) == 200
    (line, *_) = logged(brisk, "connections full")
    assert (line["level"], line["max"]) == ("warning", CONNECTIONS_MAX)
    for _ in range(PATIENCE_SECONDS * 10):
        if httpx.post(brisk.url, content=TYPENAME, headers={"content-type": "application/json"}).status_code == 200:
            break
        time.sleep(0.1)
    else:
        raise AssertionError("no connection was free again")


def test_the_limit_of_descriptors_bounds_connections(serve: Callable[..., Served], settings: Settings) -> None:
    limit = partial(resource.setrlimit, resource.RLIMIT_NOFILE, (200, 200))
    served = serve(environment(settings, WALLET_LOG_FORMAT="json"), preexec_fn=limit)
    (line,) = logged(served, "connections bounded by file descriptors")
    assert (line["level"], line["descriptors"], line["wanted"]) == ("warning", 200, settings.connections_max)
    allowed = line["max"]
    assert isinstance(allowed, int)
    statuses = []
    with many(served.url, 150) as clients:
        for raw in clients:
            raw.send(request(TYPENAME))
            statuses.append(getattr(raw.answer(), "status", None))
        assert statuses.count(200) == allowed
        assert set(statuses) <= {200, 503, None}
        assert 503 in statuses
    (line, *_) = logged(served, "connections full")
    assert line["max"] == allowed


def test_what_is_half_sent_is_left_behind_when_the_server_stops(
    serve: Callable[..., Served], settings: Settings
) -> None:
    served = serve(environment(settings, WALLET_LOG_FORMAT="json", WALLET_SHUTDOWN_TIMEOUT_SECONDS="300"))
    whole = request(TYPENAME)
    starts = [b"", whole, whole[:30], head("Content-Length: 100"), whole[:-3], whole + whole[:-3]]
    starts += [head("Content-Length: 900000") + b" " * 100_000, head("Transfer-Encoding: chunked") + b"3\r\n   \r\n"]
    with many(served.url, 5 * len(starts)) as clients:
        for raw, start in zip(clients, 5 * starts, strict=True):
            raw.send(start)
        # They are there: those that are whole are answered.
        for raw, start in zip(clients, 5 * starts, strict=True):
            if start.startswith(whole):
                assert getattr(raw.answer(), "status", None) == 200
        served.process.send_signal(signal.SIGTERM)
        assert served.process.wait(PATIENCE_SECONDS) == 143
        assert all(raw.is_closed() for raw in clients)
    log = served.log.read_text()
    assert "Traceback" not in log
    assert [line for line in served.logged() if line["level"] in {"error", "critical"} or line.get("exception")] == []
    assert served.logged()[-1]["event"] == "stopped"
