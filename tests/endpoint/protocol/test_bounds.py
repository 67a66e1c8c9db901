"""What a request may be before it is one: the bytes of its head, its headers, its URL, its framing."""

import json
import socket
from collections.abc import Iterator
from itertools import repeat
from pathlib import Path
from typing import Final

import pytest
from conftest import Served
from raw import PATIENCE_SECONDS, TYPENAME, Raw, connected, head, new_posting, request

from wallet_gql.endpoint.protocol.connection import (
    FRAMING_MAX,
    HEAD_BYTES_MAX,
    HEADERS_MAX,
    PIPELINE_MAX,
    URL_BYTES_MAX,
)

MEGABYTES: Final = 100
"""How much a client sends that does not stop by itself."""

MEGABYTE: Final = b"x" * 1_000_000


def resident_bytes(served: Served) -> int:
    pages = int(Path(f"/proc/{served.process.pid}/statm").read_text().split()[1])
    return pages * 4096


def padded(size: int, **more: str) -> bytes:
    """Write a head of so many bytes."""
    filler = head("X: ", **more)
    return head(f"X: {'x' * (size - len(filler))}", **more)


def get(url_size: int) -> bytes:
    query = "/graphql?query={__typename}&x="
    return head(method="GET", path=query + "x" * (url_size - len(query)))


def halves(sent: bytes) -> tuple[bytes, bytes]:
    return sent[: len(sent) // 2], sent[len(sent) // 2 :]


def test_each_bound_at_its_edge(served: Served) -> None:
    length = f"Content-Length: {len(TYPENAME)}"
    fits = {
        "head": padded(HEAD_BYTES_MAX - len(length) - 2).replace(b"Host", f"{length}\r\nHost".encode()) + TYPENAME,
        "headers": head(*(f"X-{n}: x" for n in range(HEADERS_MAX - 3)), length) + TYPENAME,
        "url": get(URL_BYTES_MAX),
    }
    for name, sent in fits.items():
        for pieces in ([sent], halves(sent)):
            with connected(served.url) as raw:
                raw.send(*pieces)
                answer = raw.answer()
                assert answer is not None, name
                assert (answer.status, answer.body) == (200, b'{"data":{"__typename":"Query"}}'), name


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (padded(HEAD_BYTES_MAX + 1000), 431),
        (head(*(f"X-{n}: x" for n in range(HEADERS_MAX))), 431),
        (head(*(f"X{n}:" for n in range(20_000))), 431),
        (head("X" * 100_000 + ": x"), 431),
        (get(URL_BYTES_MAX + 1), 414),
        (get(200_000), 414),
    ],
    ids=["head", "headers", "20,000 headers", "name", "url", "long url"],
)
def test_what_goes_past_a_bound_is_answered_and_closed(served: Served, sent: bytes, status: int) -> None:
    for pieces in ([sent], halves(sent), (sent[:100], sent[100:])):
        with connected(served.url) as raw:
            raw.send(*pieces, request(TYPENAME))
            (answer,) = raw.answers()
        assert answer.status == status
        assert answer.error().endswith(("send fewer.", "use POST."))
        assert answer.headers["connection"] == "close"


def sent_until_closed(raw: Raw, pieces: Iterator[bytes]) -> int:
    """Send until the server no longer takes it; returns how many bytes that were."""
    sent = 0
    try:
        for piece in pieces:
            raw.socket.sendall(piece)
            sent += len(piece)
    except OSError:
        pass
    return sent


ENDLESS: Final = {
    "url": (b"GET /", MEGABYTE, 414),
    "method": (b"", MEGABYTE, 400),
    "header": (head().removesuffix(b"\r\n") + b"X: ", MEGABYTE, 431),
    "header's name": (head().removesuffix(b"\r\n"), MEGABYTE, 431),
    "headers": (head().removesuffix(b"\r\n"), b"x: y\r\n" * 100_000, 431),
    "chunk's extension": (head("Transfer-Encoding: chunked") + b"5;a=", MEGABYTE, 400),
    "trailer": (head("Transfer-Encoding: chunked") + b"2\r\n{}\r\n0\r\nX: ", MEGABYTE, 400),
    "trailers": (head("Transfer-Encoding: chunked") + b"2\r\n{}\r\n0\r\n", b"x: y\r\n" * 100_000, 400),
    "body": (head("Transfer-Encoding: chunked"), b"f4240\r\n" + MEGABYTE + b"\r\n", 413),
    "body of a GET": (
        head("Transfer-Encoding: chunked", method="GET", path="/graphql?query={__typename}"),
        b"f4240\r\n" + MEGABYTE + b"\r\n",
        200,
    ),
}


@pytest.mark.parametrize(("start", "piece", "status"), ENDLESS.values(), ids=ENDLESS)
def test_what_never_ends_is_not_kept(served: Served, start: bytes, piece: bytes, status: int) -> None:
    before = resident_bytes(served)
    with connected(served.url) as raw:
        raw.send(start)
        sent_until_closed(raw, repeat(piece, MEGABYTES))
        # While it is still connected.
        assert resident_bytes(served) - before < 20_000_000
        answer = raw.answer()
    assert answer is None or answer.status == status


def test_a_body_in_tiny_chunks_is_read(served: Served) -> None:
    posting = new_posting(served.url)
    padded_body = posting.body + b" " * 50_000
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in padded_body)
    with connected(served.url) as raw:
        raw.send(head("Transfer-Encoding: chunked") + chunks + b"0\r\n\r\n")
        answer = raw.answer()
    assert answer is not None
    assert json.loads(answer.body) == {"data": {"topUp": {"__typename": "TopUpPayload"}}}


def test_a_chunk_in_more_framing_than_content_is_refused(served: Served) -> None:
    chunk = b"1;" + b"x" * 1000 + b"\r\n \r\n"
    with connected(served.url) as raw:
        raw.send(head("Transfer-Encoding: chunked"), *repeat(chunk, 200))
        (answer,) = raw.answers()
    assert answer.status == 400
    assert "larger chunks" in answer.error()
    assert len(chunk) > FRAMING_MAX


def test_so_many_requests_may_be_sent_ahead(served: Served) -> None:
    with connected(served.url) as raw:
        raw.send(request(TYPENAME) * PIPELINE_MAX)
        statuses = [getattr(raw.answer(), "status", None) for _ in range(PIPELINE_MAX)]
        assert statuses == [200] * PIPELINE_MAX
        # Of more at once, the first are answered and the rest is left to the client.
        raw.send(request(TYPENAME) * 10 * PIPELINE_MAX)
        answers = raw.answers()
    assert PIPELINE_MAX <= len(answers) <= PIPELINE_MAX + 2
    assert {answer.status for answer in answers} == {200}


def test_a_client_that_reads_its_answer_late_has_it_whole(served: Served) -> None:
    body = b"x" * 3_000_000
    with connected(served.url) as raw:
        raw.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        raw.send(head(f"Content-Length: {len(body)}", "Connection: close"), body)
        raw.socket.settimeout(PATIENCE_SECONDS)
        answer = raw.answer()
    assert answer is not None
    assert (answer.status, answer.error()) == (413, "The body is larger than 1048576 bytes: split the request.")
