"""Logs: one line an event, as JSON, or for people on a terminal; uvicorn's own lines among them."""

import logging
import sys
from collections.abc import MutableMapping
from typing import Any

import orjson
import structlog

from wallet_gql.settings import Settings


def configure(settings: Settings) -> None:
    """Send everything to standard error in one format."""
    level = logging.getLevelName(settings.log_level.upper())
    console = settings.log_format == "console" or (settings.log_format == "auto" and sys.stderr.isatty())
    shared: list[Any] = [
        structlog.processors.add_log_level,
        _escape,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    # Local variables in a traceback would be what callers sent, and passwords.
    if console:
        renderers: list[Any] = [structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)]
        text_renderers = renderers
        factory: Any = structlog.PrintLoggerFactory(sys.stderr)
    else:
        errors = structlog.processors.ExceptionRenderer(
            structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
        )
        renderers = [errors, structlog.processors.JSONRenderer(serializer=orjson.dumps, default=str)]
        text_renderers = [errors, structlog.processors.JSONRenderer()]
        factory = structlog.BytesLoggerFactory(sys.stderr.buffer)
    structlog.configure(
        processors=[*shared, *renderers],
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


def _escape(_logger: object, _method: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Escape what cannot be seen, such as line separators and what moves a terminal's cursor: callers may send it."""
    for name, value in line.items():
        if isinstance(value, str) and not value.isprintable():
            line[name] = repr(value)[1:-1]
    return line
