"""HTTP/1.1 by hand over a socket: what no client library would send, split as the test likes."""

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple
from uuid import uuid4

import httpx

PATIENCE_SECONDS = 60


class Answer(NamedTuple):
    """An answer as it came."""

    status: int
    headers: dict[str, str]
    body: bytes

    def error(self) -> str:
        """Return the message of its one error, which has a code and the answer's own request id."""
        (error,) = json.loads(self.body)["errors"]
        assert error["extensions"]["requestId"] == self.headers["x-request-id"]
        assert error["extensions"]["code"] in {"BAD_USER_INPUT", "OVERLOADED"}
        assert self.headers["content-type"].startswith("application/json")
        return str(error["message"])


class Raw:
    """A connection."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self._received = b""

    def send(self, *pieces: bytes) -> None:
        """Send each piece as a packet of its own; a server that closes before the end is no fault of the test's."""
        try:
            for piece in pieces:
                self.socket.sendall(piece)
        except (BrokenPipeError, ConnectionResetError):
            pass

    def answer(self) -> Answer | None:
        """Return the next answer; None where the server closed the connection instead."""
        head = self._until(b"\r\n\r\n")
        if head is None:
            return None
        line, *fields = head.decode().split("\r\n")
        pairs = (field.partition(": ") for field in fields if field)
        headers = {name.lower(): value for name, _, value in pairs}
        length = int(headers.get("content-length", "0"))
        while len(self._received) < length:
            if not self._receive():
                return None
        body, self._received = self._received[:length], self._received[length:]
        return Answer(int(line.split()[1]), headers, body)

    def answers(self) -> list[Answer]:
        """Return all answers until the server closes the connection."""
        return list(iter(self.answer, None))

    def is_closed(self) -> bool:
        """Wait until the server closes the connection; what it sends meanwhile is dropped."""
        while self._receive():
            self._received = b""
        return True

    def _until(self, end: bytes) -> bytes | None:
        while end not in self._received:
            if not self._receive():
                return None
        found, _, self._received = self._received.partition(end)
        return found

    def _receive(self) -> bool:
        try:
            piece = self.socket.recv(65536)
        except ConnectionResetError:
            piece = b""
        self._received += piece
        return bool(piece)


@contextmanager
def connected(url: str) -> Iterator[Raw]:
    """Open a connection to a server."""
    address = httpx.URL(url)
    assert address.port is not None
    with socket.create_connection((address.host, address.port), timeout=PATIENCE_SECONDS) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield Raw(connection)


def head(*lines: str, method: str = "POST", path: str = "/graphql") -> bytes:
    """Write a head with these header lines besides Host and a type."""
    fixed = (f"{method} {path} HTTP/1.1", "Host: localhost", "Content-Type: application/json")
    return "\r\n".join((*fixed, *lines, "", "")).encode()


def request(body: bytes, *lines: str) -> bytes:
    """Write a whole request."""
    return head(*lines, f"Content-Length: {len(body)}") + body


def graphql(query: str, **variables: Any) -> bytes:
    """Write a body."""
    return json.dumps({"query": query, "variables": variables}, separators=(",", ":")).encode()


TYPENAME = graphql("{__typename}")


class Posting(NamedTuple):
    """A top-up that a test tries to have posted, or not."""

    owner_id: str
    key: str

    @property
    def body(self) -> bytes:
        """The body that asks for it."""
        return graphql(
            "mutation($o:String!,$k:UUID!){topUp(input:{ownerId:$o,amount:1,idempotencyKey:$k}){__typename}}",
            o=self.owner_id,
            k=self.key,
        )

    def is_posted(self, url: str) -> bool:
        """Say whether it is in the books."""
        query = "query($o:String!,$k:UUID!){transactionByKey(ownerId:$o,idempotencyKey:$k){id}}"
        body = graphql(query, o=self.owner_id, k=self.key)
        answer = httpx.post(url, content=body, headers={"content-type": "application/json"}, timeout=PATIENCE_SECONDS)
        return answer.json()["data"]["transactionByKey"] is not None


def new_posting(url: str) -> Posting:
    """Open a wallet, and think of a top-up of it."""
    posting = Posting(f"raw-{uuid4()}", str(uuid4()))
    query = f'mutation {{ openWallet(input: {{ownerId: "{posting.owner_id}"}}) {{ __typename }} }}'
    httpx.post(url, json={"query": query}, timeout=PATIENCE_SECONDS).raise_for_status()
    return posting
