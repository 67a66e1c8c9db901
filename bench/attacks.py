"""What `hostile.py` sends below GraphQL: by hand, over sockets, bounded in count and time."""

import json
import socket
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.synchronize import Event as EventType
from pathlib import Path
from threading import Thread
from typing import Any, Final, TypeAlias
from urllib.parse import urlsplit
from uuid import uuid4

import httpx

SECONDS: Final = 4
"""How long an attack is probed."""

KEPT_COUNT: Final = 400
KEPT_SECONDS: Final = 60
"""For how long proxies keep connections that they do not use."""

MEGABYTE: Final = b"x" * 1_000_000
TEXT: Final = "\N{GRINNING FACE}" * 500
OWNER: Final = "hostile-owner"

Attack: TypeAlias = Callable[[str, int, EventType], None]

HEAD: Final = b"POST /graphql HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


def prepare(client: httpx.Client, url: str) -> None:
    """Give an owner a page of long texts, and the demo's a page of short ones."""

    def ask(query: str, **variables: str) -> None:
        client.post(url, json={"query": query, "variables": variables}).raise_for_status()

    ask(f'mutation {{ openWallet(input: {{ownerId: "{OWNER}"}}) {{ __typename }} }}')
    fields = "ownerId: $o, amount: 1, idempotencyKey: $k, description: $t"
    for n in range(200):
        ask(
            f"mutation($o: String!, $k: UUID!, $t: String) {{ topUp(input: {{{fields}}}) {{ __typename }} }}",
            o=(OWNER, "demo-alice")[n % 2],
            k=str(uuid4()),
            t=TEXT if n % 2 == 0 else "",
        )


def process_of(url: str) -> int:
    """Return the process that listens at an address of this machine."""
    port = f":{urlsplit(url).port:04X}"
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[1].endswith(port) and fields[3] == "0A":
            for link in Path("/proc").glob("[0-9]*/fd/*"):
                with suppress(OSError):
                    if str(link.readlink()) == f"socket:[{fields[9]}]":
                        return int(link.parts[2])
    raise LookupError(f"nothing listens at {url}")


@dataclass(slots=True)
class Kept:
    """Connections that are used twice, with a minute between; `answered` the second time."""

    count: int
    answered: int = 0


@contextmanager
def kept_alive(url: str) -> Iterator[Kept]:
    """Use connections twice; the minute between is the block's, or more where that ends before."""
    kept = Kept(KEPT_COUNT)

    def use() -> None:
        with ExitStack() as stack:
            clients = [_connected(stack, url) for _ in range(KEPT_COUNT)]
            for client in clients:
                _is_answered(client)
            time.sleep(KEPT_SECONDS)
            kept.answered = sum(map(_is_answered, clients))

    user = Thread(target=use)
    user.start()
    yield kept
    user.join()


def _is_answered(client: socket.socket) -> bool:
    try:
        client.sendall(_request("{ __typename }"))
        return client.recv(65_536).startswith(b"HTTP/1.1 200")
    except OSError:
        return False


def _connected(stack: ExitStack, url: str) -> socket.socket:
    address = urlsplit(url)
    client = stack.enter_context(socket.create_connection((address.hostname, address.port), timeout=60))
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return client


def _request(query: str, variables: dict[str, Any] | None = None) -> bytes:
    body = json.dumps({"query": query, "variables": variables}).encode()
    return HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body


def _send_on_and_on(url: str, stop: EventType, start: bytes, piece: bytes) -> None:
    """Send 100 pieces on a connection, until the server closes it; then on the next, 200 times at most."""
    for _ in range(200):
        with ExitStack() as stack, suppress(OSError):
            client = _connected(stack, url)
            client.sendall(start)
            for _ in range(100):
                if stop.is_set():
                    return
                client.sendall(piece)


def endless_header(url: str, _number: int, stop: EventType) -> None:
    """Send headers of 100 MB."""
    _send_on_and_on(url, stop, HEAD + b"X: ", MEGABYTE)


def endless_url(url: str, _number: int, stop: EventType) -> None:
    """Send URLs of 100 MB."""
    _send_on_and_on(url, stop, b"GET /", MEGABYTE)


def many_headers(url: str, _number: int, stop: EventType) -> None:
    """Send 20,000 headers."""
    _send_on_and_on(url, stop, HEAD, b"a: b\r\n" * 20_000 + b"\r\n")


def endless_body(url: str, _number: int, stop: EventType) -> None:
    """Send bodies that do not end."""
    _send_on_and_on(url, stop, HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"f4240\r\n" + MEGABYTE + b"\r\n")


def hang_ups(url: str, _number: int, stop: EventType) -> None:
    """Hang up in the middle of a body, 20,000 times at most."""
    for _ in range(20_000):
        if stop.is_set():
            return
        with ExitStack() as stack, suppress(OSError):
            _connected(stack, url).sendall(_request("{ __typename }")[:-5])


def silent_connections(url: str, _number: int, stop: EventType) -> None:
    """Hold connections that are idle, in the middle of a head and in the middle of a body."""
    whole = _request("{ __typename }")
    _hold(url, stop, 600, [b"", whole[:40], whole[:-5]])


def too_many_connections(url: str, _number: int, stop: EventType) -> None:
    """Open more connections than are served."""
    _hold(url, stop, 1200, [_request("{ __typename }")])


def unread_answers(url: str, _number: int, stop: EventType) -> None:
    """Ask for the heaviest answers and read nothing."""
    page = f'transactions(ownerId: "{OWNER}", first: 100) {{ nodes {{ description }} }}'
    _hold(url, stop, 60, [_request("{" + " ".join(f"p{n}: {page}" for n in range(10)) + "}") * 20])


def unread_echoes(url: str, _number: int, stop: EventType) -> None:
    """Have long asset codes echoed and read nothing."""
    field = f'topUp(input: {{ownerId: "{OWNER}", amount: 1, asset: $a, idempotencyKey: "{uuid4()}"}})'
    fields = " ".join(f"f{n}: {field} {{ ... on AssetNotFound {{ assetCode }} }}" for n in range(10))
    _hold(url, stop, 40, [_request(f"mutation($a: String!) {{ {fields} }}", {"a": "A" * 65_536}) * 100])


def costly_queries(url: str, _number: int, stop: EventType) -> None:
    """Ask one costly query on each of 400 connections."""
    pages = f"wallets(ownerIds: [{', '.join(['%r'] * 15)}])" % (("demo-alice",) * 15)
    query = "{" + pages.replace("'", '"') + " { transactions(first: 100) { nodes { id type amount } } } }"
    _hold(url, stop, 400, [_request(query)])


def costly_mutations(url: str, _number: int, stop: EventType) -> None:
    """Send one mutation with long pages below its payloads on each of 150 connections."""
    page = "transactions(first: 100) { nodes { id type direction amount balanceAfter entries { account amount } } }"
    root = f'openWallet(input: {{ownerId: "demo-alice"}}) {{ ... on OpenWalletPayload {{ wallet {{ {page} }} }} }}'
    _hold(url, stop, 150, [_request("mutation {" + " ".join(f"a{n}: {root}" for n in range(4)) + "}")])


def _hold(url: str, stop: EventType, count: int, starts: list[bytes]) -> None:
    """Open connections, send on each what it starts with, and hold them."""
    with ExitStack() as stack:
        for n in range(count):
            if stop.is_set():
                return
            with suppress(OSError):
                client = _connected(stack, url)
                client.settimeout(0.2)
                client.sendall(starts[n % len(starts)])
        stop.wait(60)


def forged_cursors(url: str, _number: int, stop: EventType) -> None:
    """Ask for pages after positions that no account has, 5,000 times at most."""
    page = '{ transactions(ownerId: "demo-alice", first: 1) { edges { cursor } } }'
    with httpx.Client(timeout=60) as client:
        cursor = client.post(url, json={"query": page}).json()["data"]["transactions"]["edges"][0]["cursor"]
        place = urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode().rpartition(":")[0]
        forged = urlsafe_b64encode(f"{place}:{2**63 - 1}".encode()).decode().rstrip("=")
        query = 'query($c: String) { transactions(ownerId: "demo-alice", after: $c) { totalCount nodes { id } } }'
        for _ in range(5000):
            if stop.is_set():
                return
            client.post(url, json={"query": query, "variables": {"c": forged}})
