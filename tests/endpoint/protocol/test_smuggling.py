"""One request is one request: whatever its head says of its end, nothing in its body is taken for another."""

from typing import Final

import pytest
from conftest import Served
from raw import TYPENAME, Answer, Posting, connected, head, new_posting, request

UPGRADE: Final = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABk")

LAST: Final = request(TYPENAME, "X-Request-Id: last")


@pytest.fixture(scope="module")
def posting(served: Served) -> Posting:
    """What a smuggled request asks for."""
    return new_posting(served.url)


def chunked(body: bytes, size: int = 1 << 20) -> bytes:
    pieces = [body[start : start + size] for start in range(0, len(body), size)]
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


def one_answer(served: Served, *pieces: bytes) -> Answer:
    """Send a request in pieces, then another; returns the first's answer, after which comes the other's."""
    with connected(served.url) as raw:
        raw.send(*pieces)
        answer = raw.answer()
        assert answer is not None
        raw.send(LAST)
        last = raw.answer()
        assert last is not None
        assert last.headers["x-request-id"] == "last"
        return answer


@pytest.mark.parametrize("lines", [UPGRADE, ("Connection: upgrade", "Upgrade: websocket")])
def test_body_after_an_upgrade_is_the_body(served: Served, posting: Posting, lines: tuple[str, ...]) -> None:
    smuggled = request(posting.body)
    for sent in (
        [request(smuggled, *lines)],
        [head(*lines, f"Content-Length: {len(smuggled)}"), smuggled],
        [head(*lines, "Transfer-Encoding: chunked"), chunked(smuggled)],
        [head(*lines, "Transfer-Encoding: chunked") + chunked(smuggled, 7)],
    ):
        assert one_answer(served, *sent).status == 400
    assert not posting.is_posted(served.url)


@pytest.mark.parametrize("framing", ["length", "chunks"])
def test_upgrade_split_anywhere(served: Served, posting: Posting, framing: str) -> None:
    smuggled = request(posting.body)
    lines = ("Connection: Upgrade", "Upgrade: h2c")
    if framing == "length":
        sent = request(smuggled, *lines)
    else:
        sent = head(*lines, "Transfer-Encoding: chunked") + chunked(smuggled, 100)
    for place in range(1, len(sent)):
        assert one_answer(served, sent[:place], sent[place:]).status == 400
    # And every byte a packet of its own.
    assert one_answer(served, *(sent[place : place + 1] for place in range(len(sent)))).status == 400
    assert not posting.is_posted(served.url)


def test_upgrade_is_ignored_and_the_request_answered(served: Served) -> None:
    sent = request(TYPENAME, *UPGRADE)
    for pieces in ([sent], [sent[: -len(TYPENAME)], TYPENAME]):
        answer = one_answer(served, *pieces)
        assert (answer.status, answer.body) == (200, b'{"data":{"__typename":"Query"}}')
    # Several at once, each asking anew.
    with connected(served.url) as raw:
        raw.send(sent * 3 + LAST)
        assert [answer.status for answer in (raw.answer(), raw.answer(), raw.answer()) if answer] == [200] * 3
        last = raw.answer()
        assert last is not None
        assert last.headers["x-request-id"] == "last"


def test_what_the_default_client_of_java_sends(served: Served) -> None:
    # As java.net.http.HttpClient of Java 17 sends its first request, byte for byte: the head, then the body.
    sent = (
        b"POST /graphql HTTP/1.1\r\n"
        b"Connection: Upgrade, HTTP2-Settings\r\n"
        b"Content-Length: 60\r\n"
        b"Host: 127.0.0.1:18099\r\n"
        b"HTTP2-Settings: AAEAAEAAAAIAAAAAAAMAAAAAAAQBAAAAAAUAAEAAAAYABgAA\r\n"
        b"Upgrade: h2c\r\n"
        b"User-Agent: Java-http-client/17.0.15\r\n"
        b"Content-Type: application/json\r\n\r\n"
    )
    body = b'{"query": "{ wallet(ownerId: \\"java-owner\\") { ownerId } }"}'
    answer = one_answer(served, sent, body)
    assert (answer.status, answer.body) == (200, b'{"data":{"wallet":null}}')


HEAD: Final = b"POST /graphql HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"

# What can be read in two ways: where %s stands comes a request whose posting must not happen.
AMBIGUOUS: Final = {
    "length and chunks": HEAD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n%s",
    "chunks and length": HEAD + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n%s",
    "two lengths": HEAD + b"Content-Length: 2\r\nContent-Length: 200\r\n\r\n{}%s",
    "two equal lengths": HEAD + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}%s",
    "a list of lengths": HEAD + b"Content-Length: 2, 200\r\n\r\n{}%s",
    "length with a plus": HEAD + b"Content-Length: +2\r\n\r\n{}%s",
    "length with a minus": HEAD + b"Content-Length: -2\r\n\r\n{}%s",
    "length in two words": HEAD + b"Content-Length: 2 0\r\n\r\n{}%s",
    "length in hexadecimal": HEAD + b"Content-Length: 0x2\r\n\r\n{}%s",
    "length past 64 bits": HEAD + b"Content-Length: 18446744073709551618\r\n\r\n{}%s",
    "length empty": HEAD + b"Content-Length:\r\n\r\n%s",
    "blank before the colon": HEAD + b"Content-Length : 200\r\n\r\n%s",
    "folded line": HEAD + b"X: a\r\n Content-Length: 200\r\n\r\n%s",
    "folded length": HEAD + b"Content-Length: 2\r\n 0\r\n\r\n{}%s",
    "folded coding": HEAD + b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n%s",
    "bare line feeds": HEAD.replace(b"\r\n", b"\n") + b"Content-Length: 2\n\n{}%s",
    "one bare line feed": HEAD + b"X: a\nContent-Length: 2\r\n\r\n{}%s",
    "bare carriage return": HEAD + b"X: a\rContent-Length: 2\r\n\r\n{}%s",
    "end of headers by a line feed": HEAD + b"Content-Length: 2\r\n\n{}%s",
    "unknown coding": HEAD + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n%s",
    "coding that ends unchunked": HEAD + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n%s",
    "two codings": HEAD + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n%s",
    "coding after a vertical tab": HEAD + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n%s",
    "chunk size with a sign": HEAD + b"Transfer-Encoding: chunked\r\n\r\n+2\r\n{}\r\n0\r\n\r\n%s",
    "chunk size in 0x": HEAD + b"Transfer-Encoding: chunked\r\n\r\n0x2\r\n{}\r\n0\r\n\r\n%s",
    "chunk size past 64 bits": HEAD + b"Transfer-Encoding: chunked\r\n\r\n10000000000000002\r\n{}\r\n0\r\n\r\n%s",
    "chunk extension with a line feed": HEAD + b"Transfer-Encoding: chunked\r\n\r\n2;a\n{}\r\n0\r\n\r\n%s",
    "chunks with line feeds": HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\n{}\n0\n\n%s",
    "chunk longer than it says": HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{}\r\n0\r\n\r\n%s",
    "length in a trailer": HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nContent-Length: 2\r\n\r\n%s",
    "a version that does not exist": HEAD.replace(b"HTTP/1.1", b"HTTP/1.2") + b"Content-Length: 2\r\n\r\n{}%s",
    "NUL in a header": HEAD + b"X: \0\r\nContent-Length: 2\r\n\r\n{}%s",
    "a tunnel": b"CONNECT localhost:80 HTTP/1.1\r\nHost: localhost\r\n\r\n%s",
    "the preface of HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n%s",
    "after the last request": HEAD + b"Connection: close\r\nContent-Length: 2\r\n\r\n{}%s",
}


@pytest.mark.parametrize("sent", AMBIGUOUS.values(), ids=AMBIGUOUS)
def test_what_can_be_read_in_two_ways_is_refused_once(served: Served, posting: Posting, sent: bytes) -> None:
    sent = sent.replace(b"%s", request(posting.body))
    for pieces in ([sent], [sent[: len(sent) // 2], sent[len(sent) // 2 :]]):
        with connected(served.url) as raw:
            raw.send(*pieces)
            (answer,) = raw.answers()
        assert answer.status in {400, 405}
        assert answer.error()
        assert answer.headers["connection"] == "close"
    assert not posting.is_posted(served.url)


@pytest.mark.parametrize(
    "line",
    [
        "Transfer-Encoding: chunked",
        "Transfer-Encoding: Chunked",
        "Transfer-Encoding:\tchunked",
        "Transfer-Encoding: gzip, chunked",
    ],
)
def test_chunks_are_read_as_the_body(served: Served, posting: Posting, line: str) -> None:
    for body in (
        chunked(request(posting.body)),
        chunked(request(posting.body)).replace(b"\r\n", b";name=value\r\n", 1),
        chunked(request(posting.body)).removesuffix(b"\r\n") + b"X-Trailer: a\r\nX-Request-Id: b\r\n\r\n",
    ):
        assert one_answer(served, head(line) + body).status == 400
    assert not posting.is_posted(served.url)


def test_a_body_that_nobody_reads_is_no_request(served: Served, posting: Posting) -> None:
    smuggled = request(posting.body)
    length = f"Content-Length: {len(smuggled)}"
    get = head(length, method="GET", path="/graphql?query=%7B__typename%7D")
    other_type = head(length).replace(b"application/json", b"text/plain")
    for sent, status in ((get, 200), (head(length, path="/nothing"), 404), (other_type, 415)):
        assert one_answer(served, sent + smuggled).status == status
        # The answer may come before the body does.
        with connected(served.url) as raw:
            raw.send(sent)
            assert getattr(raw.answer(), "status", None) == status
            raw.send(smuggled, LAST)
            last = raw.answer()
            assert last is not None
            assert last.headers["x-request-id"] == "last"
    assert not posting.is_posted(served.url)


def test_a_bad_request_sent_ahead_does_not_answer_for_those_before_it(served: Served, posting: Posting) -> None:
    with connected(served.url) as raw:
        raw.send(request(TYPENAME, "X-Request-Id: first") + b"\0\0\0" + request(posting.body))
        (answer,) = raw.answers()
    assert (answer.status, answer.headers["x-request-id"]) == (200, "first")
    assert not posting.is_posted(served.url)


@pytest.mark.parametrize("cut", [1, 2, 10, 1000])
def test_a_body_cut_short_is_not_executed(served: Served, cut: int) -> None:
    posting = new_posting(served.url)
    for lines, body in (
        ([f"Content-Length: {len(posting.body) + cut}"], posting.body),
        (["Transfer-Encoding: chunked"], chunked(posting.body).removesuffix(b"0\r\n\r\n")),
        (["Transfer-Encoding: chunked"], chunked(posting.body).removesuffix(b"\r\n")),
    ):
        for pieces in ([head(*lines) + body], [head(*lines), body[:10], body[10:]]):
            with connected(served.url) as raw:
                raw.send(*pieces)
                raw.socket.shutdown(1)
                assert raw.answers() == []
    assert not posting.is_posted(served.url)
