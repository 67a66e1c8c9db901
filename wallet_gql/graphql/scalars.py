"""The schema's own scalars: strict on input, canonical on output.

What a scalar cannot parse is a `BAD_USER_INPUT` error of the request. Values arrive as JSON (variables) or as literals
of a document; both are read alike.
"""

import json
import re
from contextvars import ContextVar
from datetime import UTC, datetime
from decimal import Decimal
from functools import cached_property
from types import NoneType
from typing import Any, Final, NewType
from uuid import UUID

import strawberry
from graphql import GraphQLError, IntValueNode, ObjectValueNode, StringValueNode, ValueNode
from strawberry.types.scalar import ScalarDefinition

from wallet_gql.domain.assets import Asset
from wallet_gql.domain.errors import BadUserInput
from wallet_gql.domain.money import INT64_MAX, format_minor, parse_decimal
from wallet_gql.domain.text import METADATA_BYTES_MAX, METADATA_PAIRS_MAX, METADATA_VALUE_LENGTH_MAX, check_metadata

# Amounts leave as text that is formatted already, and arrive as Decimal.
Amount = NewType("Amount", str)

# Checked when it arrives; it leaves as it was kept.
Metadata = NewType("Metadata", dict[str, str])

_UUID: Final = re.compile(
    r"[0-9a-f]{8}-[0-9a-f]{4}-[47][0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", re.IGNORECASE | re.ASCII
)


def _bad(message: str, node: ValueNode | None = None) -> GraphQLError:
    """Return an error; a literal's place in the document says which field it is of, a variable's name and path do."""
    return GraphQLError(message, node, extensions={"code": "BAD_USER_INPUT"})


def amount(amount_minor: int, asset: Asset) -> Amount:
    """Write an amount in the asset's unit."""
    return Amount(format_minor(amount_minor, asset.scale))


def parse_amount(value: object, node: ValueNode | None = None) -> Decimal:
    """Read an amount from a string or an integer; a float or a boolean is refused, for it may not be exact."""
    if isinstance(value, str):
        try:
            return parse_decimal(value)
        except ValueError:
            raise _bad(
                f'Amount cannot be read from {_shorten(value)}: send plain decimal digits, such as "12.50".', node
            ) from None
    if isinstance(value, int) and not isinstance(value, bool):
        return Decimal(value)
    # JSON numbers without a point or an exponent that pass 64 bits arrive as floats from the decoder.
    if isinstance(value, float) and value.is_integer() and abs(value) > INT64_MAX:
        return Decimal(int(value))
    raise _bad(f'Amount cannot be read from {kind(value)}: send a string such as "12.50", or an integer.', node)


def _parse_amount_literal(node: ValueNode, _variables: Any = None) -> Decimal:
    if isinstance(node, StringValueNode | IntValueNode):
        return parse_amount(node.value, node)
    raise _bad(f'Amount cannot be read from {_literal(node)}: send a string such as "12.50", or an integer.', node)


def parse_uuid(value: object, node: ValueNode | None = None) -> UUID:
    """Read a UUID of version 4 or 7 in its usual form, any case; no braces, no `urn:`."""
    if isinstance(value, str) and _UUID.fullmatch(value):
        return UUID(value)
    shown = _shorten(value) if isinstance(value, str) else kind(value)
    raise _bad(f"UUID cannot be read from {shown}: send a version 4 or 7 UUID such as crypto.randomUUID() makes.", node)


def _parse_uuid_literal(node: ValueNode, _variables: Any = None) -> UUID:
    if isinstance(node, StringValueNode):
        return parse_uuid(node.value, node)
    raise _bad(f"UUID cannot be read from {_literal(node)}: send a string.", node)


class RequestText:
    """The JSON that a request's variables came in: a decoder keeps the last of two keys, and does not tell."""

    def __init__(self, text: bytes) -> None:
        """Take the JSON; it is looked through once, and only if a value asks."""
        self._text = text

    @cached_property
    def fault(self) -> BadUserInput | None:
        """What is wrong with it, though it was decoded."""
        try:
            json.loads(self._text, object_pairs_hook=_refuse_doubles)
        except BadUserInput as fault:
            return fault
        except RecursionError:
            return BadUserInput("The body", "is nested too deeply", "send metadata as a flat object")
        return None


REQUEST: Final[ContextVar[RequestText | None]] = ContextVar("request", default=None)
"""What the variables of the request at hand came in; None where it sent none."""


def parse_metadata(value: object, node: ValueNode | None = None) -> dict[str, str]:
    """Read a flat object of strings within its bounds; a key twice is refused."""
    if not isinstance(value, dict):
        raise _bad(f"Metadata cannot be read from {kind(value)}: send a flat object of strings.", node)
    try:
        request = REQUEST.get() if node is None else None
        if request is not None and request.fault is not None:
            raise request.fault
        return dict(check_metadata(value))
    except BadUserInput as fault:
        raise _bad(str(fault), node) from None


def _refuse_doubles(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise BadUserInput("The body", "has a key twice in one object", "send each key once")
    return found


def _parse_metadata_literal(node: ValueNode, _variables: Any = None) -> dict[str, str]:
    if not isinstance(node, ObjectValueNode):
        raise _bad(f"Metadata cannot be read from {_literal(node)}: send a flat object of strings.", node)
    values: dict[str, object] = {}
    for each in node.fields:
        if each.name.value in values:
            raise _bad("metadata has a key twice: send each key once.", each.value)
        if not isinstance(each.value, StringValueNode):
            raise _bad(
                f"metadata.{each.name.value} cannot be read from {_literal(each.value)}: send a string, or the whole"
                " object as a variable.",
                each.value,
            )
        values[each.name.value] = each.value.value
    return parse_metadata(values, node)


def format_datetime(value: datetime) -> str:
    """Write a time as RFC 3339 in UTC with a "Z" and six fraction digits."""
    return value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def parse_datetime(value: object, node: ValueNode | None = None) -> datetime:
    """Read an RFC 3339 time with an offset."""
    if isinstance(value, str) and re.fullmatch(
        r"\d{4}-\d\d-\d\dT[\d:.]+(Z|[+-]\d\d:\d\d)", value, re.IGNORECASE | re.ASCII
    ):
        try:
            return datetime.fromisoformat(value)
        except ValueError:
            pass  # told below, like every other value that is not a time
    raise _bad("DateTime cannot be read: send RFC 3339 with an offset, such as 2026-01-31T12:00:00Z.", node)


def _parse_datetime_literal(node: ValueNode, _variables: Any = None) -> datetime:
    return parse_datetime(node.value if isinstance(node, StringValueNode) else None, node)


def _shorten(text: str) -> str:
    return json.dumps(text if len(text) <= 40 else text[:40] + "…")


def kind(value: object) -> str:
    """Say in JSON's words what kind of value it is."""
    return {
        NoneType: "null",
        bool: "a boolean",
        int: "an integer",
        float: "a number with a fraction or an exponent",
        str: "a string",
        list: "a list",
    }.get(type(value), "an object")


def _literal(node: ValueNode) -> str:
    return {
        "float_value": "a number with a fraction or an exponent",
        "int_value": "an integer",
        "boolean_value": "a boolean",
        "enum_value": "a bare word",
        "list_value": "a list",
        "null_value": "null",
        "string_value": "a string",
        "variable": "a variable",
    }.get(node.kind, "an object")


SCALARS: Final[dict[object, ScalarDefinition]] = {
    Amount: strawberry.scalar(
        name="Amount",
        description=(
            "An exact decimal as a string, on output always with exactly the asset's scale of fraction digits:"
            ' "800" at scale 0, "12.50" at scale 2. Input is a string or an integer with at most that many; a float'
            " or a boolean is refused, because JSON numbers lose digits."
        ),
        serialize=str,
        parse_value=parse_amount,
        parse_literal=_parse_amount_literal,
    ),
    Metadata: strawberry.scalar(
        name="Metadata",
        description=(
            f"A flat JSON object of strings: at most {METADATA_PAIRS_MAX} pairs, keys of 1 to 40 letters, digits, full"
            f" stops, hyphens and underscores, values of 1 to {METADATA_VALUE_LENGTH_MAX} characters,"
            f" {METADATA_BYTES_MAX} bytes in all. An empty object is as none."
        ),
        serialize=dict,
        parse_value=parse_metadata,
        parse_literal=_parse_metadata_literal,
    ),
    UUID: strawberry.scalar(
        name="UUID",
        description="A UUID of version 4 (which callers should send) or 7. Any case is read; lower case is written.",
        specified_by_url="https://www.rfc-editor.org/rfc/rfc9562",
        serialize=str,
        parse_value=parse_uuid,
        parse_literal=_parse_uuid_literal,
    ),
    datetime: strawberry.scalar(
        name="DateTime",
        description='A time in RFC 3339 with an offset; on output in UTC with a "Z".',
        specified_by_url="https://www.rfc-editor.org/rfc/rfc3339",
        serialize=format_datetime,
        parse_value=parse_datetime,
        parse_literal=_parse_datetime_literal,
    ),
}
