"""Logs: one line an event, as JSON, or for people on a terminal; uvicorn's own lines among them."""

import logging
import sys
from collections.abc import MutableMapping
from datetime import UTC, datetime
from typing import Any, Final, TypeAlias

import orjson
import structlog

from wallet_gql.settings import Settings

_Line: TypeAlias = MutableMapping[str, Any]

_ERRORS: Final = structlog.processors.ExceptionRenderer(
    # Local variables in a traceback would be what callers sent, and passwords.
    structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
)


def configure(settings: Settings) -> None:
    """Send everything to standard error in one format."""
    level = logging.getLevelName(settings.log_level.upper())
    console = settings.log_format == "console" or (settings.log_format == "auto" and sys.stderr.isatty())
    shared: list[Any] = [
        structlog.processors.add_log_level,
        _escape,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if console:
        plain = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
        processors: list[Any] = [*shared, plain]
        text_renderers: list[Any] = [plain]
        factory: Any = structlog.PrintLoggerFactory(sys.stderr)
    else:
        processors = [_render]
        text_renderers = [_ERRORS, structlog.processors.JSONRenderer()]
        factory = structlog.BytesLoggerFactory(sys.stderr.buffer)
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=factory,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *text_renderers],
        )
    )
    logging.basicConfig(handlers=[handler], level=max(level, logging.INFO), force=True)
    # What uvicorn and Alembic say at INFO is for their developers.
    for name in ("uvicorn", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)


def _render(logger: object, method: str, line: _Line) -> bytes:
    """Return a line as JSON: one processor for what each request pays for, instead of one for each step."""
    if "exc_info" in line:
        line = _ERRORS(logger, method, line)
    line["level"], line["timestamp"] = method, datetime.now(UTC)
    try:
        rendered = _dump(line)
    except orjson.JSONEncodeError:  # half of a surrogate pair, which no UTF-8 can carry
        return _dump(_escape(logger, method, line))
    # What JSON escapes begins with a backslash. Most lines have nothing to escape: that is asked of a whole line.
    if b"\\" in rendered or not rendered.decode().isprintable():
        return _dump(_escape(logger, method, line))
    return rendered


def _dump(line: _Line) -> bytes:
    return orjson.dumps(line, default=str, option=orjson.OPT_UTC_Z)


def _escape(_logger: object, _method: str, line: _Line) -> _Line:
    """Escape what cannot be seen, such as line separators and what moves a terminal's cursor: callers may send it."""
    for name, value in line.items():
        if isinstance(value, str) and not value.isprintable():
            line[name] = repr(value)[1:-1]
    return line
