"""Answers to what never becomes a request of the application, as JSON with a request id like every other answer."""

from http import HTTPStatus

import orjson
import structlog
from uuid_utils import uuid7

_log = structlog.get_logger()


def refusal(status: HTTPStatus, message: str, request_id: str | None = None) -> bytes:
    """Return a whole answer that ends the connection, and log it as a request; one that was begun has its id."""
    request_id = request_id or uuid7().hex
    code = "OVERLOADED" if status is HTTPStatus.SERVICE_UNAVAILABLE else "BAD_USER_INPUT"
    _log.info("request", request_id=request_id, status=status, errors=[code])
    error = {"message": message, "extensions": {"code": code, "requestId": request_id}}
    content = orjson.dumps({"errors": [error]})
    more = {HTTPStatus.SERVICE_UNAVAILABLE: "retry-after: 1\r\n", HTTPStatus.METHOD_NOT_ALLOWED: "allow: GET, POST\r\n"}
    head = (
        f"HTTP/1.1 {status} {status.phrase}\r\n"
        "content-type: application/json; charset=utf-8\r\n"
        f"content-length: {len(content)}\r\n"
        "cache-control: no-store\r\n"
        f"x-request-id: {request_id}\r\n"
        f"{more.get(status, '')}"
        "connection: close\r\n\r\n"
    )
    return head.encode() + content
