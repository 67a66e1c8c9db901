"""What stands before the endpoint and the routes, driven by hand."""

import asyncio
import json
from typing import Any

from starlette.types import Message, Receive, Scope, Send
from structlog.testing import capture_logs

from wallet_gql.app import Opening, RequestGate


async def _cancelled(*, begun: bool) -> tuple[list[Message], list[Any]]:
    """Cancel a request that is under way, as the server does when its stop takes too long."""
    under_way = asyncio.Event()
    sent: list[Message] = []

    async def endpoint(_scope: Scope, _receive: Receive, send: Send) -> None:
        if begun:
            await send({"type": "http.response.start", "status": 200, "headers": []})
        under_way.set()
        await asyncio.Event().wait()

    async def receive() -> Message:
        raise AssertionError("nothing is read")

    async def send(message: Message) -> None:
        sent.append(message)

    scope: Scope = {
        "type": "http", "method": "POST", "path": "/graphql", "http_version": "1.1",
        "headers": [(b"host", b"localhost"), (b"x-request-id", b"mine")], "state": {"opening": Opening()},
    }  # fmt: skip
    front = RequestGate(endpoint, endpoint, lambda _host: True)
    with capture_logs() as logged:
        task = asyncio.ensure_future(front(scope, receive, send))
        await under_way.wait()
        task.cancel("Task cancelled, timeout graceful shutdown exceeded")
        await task
    return sent, logged


async def test_request_cut_short_by_the_stop_is_answered() -> None:
    (start, body), logged = await _cancelled(begun=False)
    assert start["status"] == 503
    headers = dict(start["headers"])
    assert (headers[b"content-type"], headers[b"x-request-id"]) == (b"application/json", b"mine")
    (error,) = json.loads(body["body"])["errors"]
    # A posting may have gone through.
    assert error["extensions"] == {"code": "OUTCOME_UNKNOWN", "requestId": "mine"}
    assert "send the same request again, with the same key" in error["message"]
    [line] = logged
    assert (line["log_level"], line["status"], line["errors"]) == ("info", 503, ["OUTCOME_UNKNOWN"])
    assert "exc_info" not in line


async def test_answer_cut_short_by_the_stop_is_not_begun_anew() -> None:
    sent, logged = await _cancelled(begun=True)
    assert [message["type"] for message in sent] == ["http.response.start"]
    assert [(line["event"], line["status"]) for line in logged] == [("cut short by the stop", 200)]
