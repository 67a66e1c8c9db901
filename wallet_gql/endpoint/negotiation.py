"""Headers: what a request's body is in, and what its answer may be in.

Headers repeat, so both questions are answered once a text.
"""

from functools import lru_cache
from typing import Final

GRAPHQL_RESPONSE: Final = "application/graphql-response+json"
JSON: Final = "application/json"
HTML: Final = "text/html"


def fields(lines: list[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """Return header fields by name; one that was sent in several lines is one list (RFC 9110, 5.3)."""
    by_name = dict(lines)
    if len(by_name) < len(lines):
        by_name = {}
        for name, value in lines:
            by_name[name] = by_name[name] + b", " + value if name in by_name else value
    return by_name


def _parts(value: str) -> tuple[str, dict[str, str]]:
    media_type, *parameters = value.split(";")
    pairs = (parameter.partition("=") for parameter in parameters)
    return media_type.strip().lower(), {name.strip().lower(): text.strip().strip('"') for name, _, text in pairs}


@lru_cache(maxsize=256)
def is_json(content_type: str) -> bool:
    """Say whether a body is JSON in UTF-8 (RFC 8259 knows no other encoding)."""
    media_type, parameters = _parts(content_type)
    return media_type == JSON and parameters.get("charset", "utf-8").lower() in {"utf-8", "utf8"}


@lru_cache(maxsize=256)
def choose(accept: str, offered: tuple[str, ...]) -> str | None:
    """Return the offered media type that an Accept header likes best; of equals, the one that it names first.

    What one wildcard takes is alike, and the first offered is chosen. None where the header takes none of them
    (RFC 9110, 12.5.1). An empty header takes the first offered.
    """
    if not accept.strip():
        return offered[0]
    ranges = [_parts(part) for part in accept.split(",")]
    preferences = {media_type: _preference(media_type, ranges) for media_type in offered}
    best = max(offered, key=preferences.__getitem__)
    return best if preferences[best][0] > 0 else None


@lru_cache(maxsize=256)
def takes_gzip(accept_encoding: str) -> bool:
    """Say whether an Accept-Encoding header takes gzip (RFC 9110, 12.5.3)."""
    qualities = {
        name: _number(parameters.get("q", "1")) for name, parameters in map(_parts, accept_encoding.split(","))
    }
    return qualities.get("gzip", qualities.get("*", 0)) > 0


def _preference(media_type: str, ranges: list[tuple[str, dict[str, str]]]) -> tuple[float, int]:
    """Return the quality that the most specific matching range gives, and how early the header names it."""
    type_ = media_type.partition("/")[0]
    for wanted in (media_type, f"{type_}/*", "*/*"):
        matching = [
            (_number(parameters.get("q", "1")), -place)
            for place, (name, parameters) in enumerate(ranges)
            if name == wanted
        ]
        if matching:
            return max(matching)
    return 0, 0


def _number(text: str) -> float:
    try:
        quality = float(text)
    except ValueError:
        return 0
    return quality if 0 <= quality <= 1 else 0
