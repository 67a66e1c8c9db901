"""HTTP as it is sent: an answer's headers and body are one piece."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from wallet_gql.endpoint.protocol.clients import ClientLimits, Clients
from wallet_gql.endpoint.protocol.connection import Connection

LARGE: Final = "x" * 3_000_000


class Recording(Clients):
    """Notes each piece that is sent to the socket."""

    sent: Final[list[bytes]] = []

    def __call__(self, **uvicorns: Any) -> Connection:
        connection = super().__call__(**uvicorns)
        made = connection.connection_made

        def connection_made(transport: asyncio.Transport) -> None:
            write = transport.write

            class Noting:
                def __getattr__(self, name: str) -> object:
                    return getattr(transport, name)

                def write(self, data: bytes) -> None:
                    Recording.sent.append(data)
                    write(data)

            made(Noting())  # type: ignore[arg-type] # it passes all on

        connection.connection_made = connection_made  # type: ignore[method-assign] # noted, then as ever
        return connection


CLIENTS: Final = Recording(ClientLimits(connections=10, keep_alive_seconds=60, header_seconds=60, body_seconds=60))


async def answer(request: Request) -> Response:
    if request.url.path == "/parts":

        async def parts() -> AsyncIterator[str]:
            for part in ("one ", "two ", "three"):
                yield part
                await asyncio.sleep(0.01)

        return StreamingResponse(parts())
    if request.url.path == "/named":
        response = PlainTextResponse("small")
        response.raw_headers.append((b"x-name", await request.body()))
        return response
    return PlainTextResponse(LARGE if request.url.path == "/large" else "small")


@asynccontextmanager
async def connected() -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    routes = [Route("/{path:path}", answer, methods=["GET", "HEAD", "POST"])]
    http: Any = CLIENTS
    config = uvicorn.Config(Starlette(routes=routes), port=0, http=http, log_config=None, lifespan="off")
    server = uvicorn.Server(config)
    running = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
        await asyncio.sleep(0.01)
    reader, writer = await asyncio.open_connection(*server.servers[0].sockets[0].getsockname())
    Recording.sent.clear()
    try:
        yield reader, writer
    finally:
        writer.close()
        server.should_exit = True
        await running


async def read_answer(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(int(line.split(b":")[1]) for line in head.splitlines() if line.startswith(b"content-length"))
    return head, await reader.readexactly(length)


def ask(path: str, method: str = "GET", more: str = "") -> bytes:
    return f"{method} {path} HTTP/1.1\r\nhost: wallet.test\r\n{more}\r\n".encode()


async def test_head_and_body_are_one_piece() -> None:
    async with connected() as (reader, writer):
        for _ in range(3):
            writer.write(ask("/"))
            head, body = await read_answer(reader)
            assert (head.splitlines()[0], body) == (b"HTTP/1.1 200 OK", b"small")
        assert len(Recording.sent) == 3


async def test_the_head_has_each_field_once_and_the_server_s_own() -> None:
    async with connected() as (reader, writer):
        writer.write(ask("/"))
        head, _ = await read_answer(reader)
        names = [line.partition(b":")[0] for line in head.splitlines()[1:-1]]
        assert sorted(names) == [b"content-length", b"content-type", b"date", b"server"]
        assert b"content-type: text/plain; charset=utf-8\r\n" in head


@pytest.mark.parametrize(
    "name", [b"a\r\nset-cookie: b", b"a\nset-cookie: b", b"a\rb", b"a\r\n\r\nHTTP/1.1 200 OK", b"\0"]
)
async def test_a_field_does_not_end_early(name: bytes) -> None:
    async with connected() as (reader, writer):
        writer.write(ask("/named", "POST", f"content-length: {len(name)}\r\n") + name)
        answered = await reader.read()
        assert answered.startswith(b"HTTP/1.1 500 Internal Server Error\r\n")
        assert name not in answered
        assert answered.count(b"HTTP/1.1") == 1


async def test_requests_sent_at_once_are_answered_in_order() -> None:
    async with connected() as (reader, writer):
        writer.write(ask("/") + ask("/large") + ask("/"))
        assert [len((await read_answer(reader))[1]) for _ in range(3)] == [5, len(LARGE), 5]


async def test_an_answer_without_a_body_is_sent() -> None:
    async with connected() as (reader, writer):
        writer.write(ask("/", "HEAD"))
        assert b"content-length: 5" in await reader.readuntil(b"\r\n\r\n")
        writer.write(ask("/"))
        assert (await read_answer(reader))[1] == b"small"


async def test_what_is_written_before_the_end_is_sent() -> None:
    async with connected() as (reader, writer):
        writer.write(ask("/large", more="connection: close\r\n"))
        answered = await reader.read()
        assert answered.endswith(LARGE.encode())
        assert answered.count(b"HTTP/1.1 200 OK") == 1


async def test_a_stream_is_not_held_back() -> None:
    async with connected() as (reader, writer):
        writer.write(ask("/parts"))
        answered = await reader.readuntil(b"0\r\n\r\n")
        assert b"one \r\n4\r\ntwo \r\n5\r\nthree\r\n" in answered
        assert len(Recording.sent) >= 3
