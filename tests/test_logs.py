"""Lines of the log as JSON: what each has, and that nothing in one can be taken for another, or move a cursor."""

import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from pydantic import SecretStr

from wallet_gql import logs
from wallet_gql.settings import Settings


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.split("\n")[:-1]]


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.BytesIO]:
    """Let the log be JSON while the test lasts, and keep it."""
    before, kept, factory = structlog.get_config(), io.BytesIO(), structlog.BytesLoggerFactory
    monkeypatch.setattr(structlog, "BytesLoggerFactory", lambda _file: factory(kept))
    monkeypatch.setattr("logging.basicConfig", lambda **_: None)
    url = SecretStr("postgresql+asyncpg://nobody@localhost/nothing")
    logs.configure(Settings(_env_file=None, DATABASE_URL=url, log_format="json"))
    yield kept
    structlog.configure(**before)


def test_a_line_has_its_event_level_and_time(written: io.BytesIO) -> None:
    log = structlog.get_logger()
    log.info("request", path="/graphql", status=None, milliseconds=1.5, where=Path("a/b"))
    log.warning("café", errors=["INTERNAL"])
    text = written.getvalue().decode()
    assert "café" in text
    first, second = lines(text)
    time = first.pop("timestamp")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{6})?Z", time)
    assert first == {
        "path": "/graphql", "status": None, "milliseconds": 1.5, "where": "a/b", "event": "request", "level": "info",
    }  # fmt: skip
    assert (second["event"], second["level"], second["errors"]) == ("café", "warning", ["INTERNAL"])


@pytest.mark.parametrize(
    ("sent", "shown"),
    [
        ("a\nb", r"a\nb"),
        ("a\u2028b", r"a\u2028b"),
        ("a\x9b31mb", r"a\x9b31mb"),
        ("a\x7fb", r"a\x7fb"),
        ("a\u202eb", r"a\u202eb"),
        ("a\ud800b", r"a\ud800b"),
        ('a"b\\c', 'a"b\\c'),
    ],
)
def test_what_cannot_be_seen_is_escaped(written: io.BytesIO, sent: str, shown: str) -> None:
    structlog.get_logger().info("request", path=sent, caller="é")
    text = written.getvalue().decode()
    [line] = lines(text)
    assert (line["path"], line["caller"]) == (shown, "é")
    assert text[:-1].isprintable()


def test_a_traceback_has_no_local_variables(written: io.BytesIO) -> None:
    def fail(_password: str) -> None:
        raise ValueError("wrong")

    try:
        fail("hunter2")
    except ValueError:
        structlog.get_logger().exception("fault")
    structlog.get_logger().error("told", exc_info=None)
    text = written.getvalue().decode()
    first, second = lines(text)
    [told] = first["exception"]
    assert (first["level"], told["exc_type"], told["exc_value"]) == ("error", "ValueError", "wrong")
    assert told["frames"][-1]["name"] == "fail"
    assert "hunter2" not in text
    assert "exc_info" not in second
