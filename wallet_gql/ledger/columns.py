"""Rows by name: a NamedTuple says what the columns are called and which types they have, and SQL is given both by it.

So no column is told from another by its position, and none stands in two lists that could differ.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from datetime import date, datetime
from functools import cache
from typing import Annotated, Any, Final, TypeAlias, get_args, get_type_hints
from uuid import UUID

Smallint: TypeAlias = Annotated[int, "smallint"]
Integer: TypeAlias = Annotated[int, "int"]
Bigint: TypeAlias = Annotated[int, "bigint"]
Boolean: TypeAlias = Annotated[bool, "boolean"]
Text: TypeAlias = Annotated[str, "text"]
Line: TypeAlias = Annotated[str, "line"]
"""A text that is not empty and was checked for line breaks: those of a column are sent as the lines of one text."""

Bytes: TypeAlias = Annotated[bytes, "bytea"]
Uuid: TypeAlias = Annotated[UUID, "uuid"]
Uuids: TypeAlias = Annotated[str, "text", "uuid[]"]
"""Written as PostgreSQL writes an array, and cast by `cast`: the arrays in an array must all be as long."""

Integers: TypeAlias = Annotated[str, "text", "int[]"]
Bigints: TypeAlias = Annotated[str, "text", "bigint[]"]
Numerics: TypeAlias = Annotated[str, "text", "numeric[]"]

_PLAIN: Final = frozenset({"smallint", "int", "bigint", "boolean"})
"""Types whose arrays are sent as PostgreSQL writes them, as one text: the driver takes four times as long per value."""

Day: TypeAlias = Annotated[date, "date"]
Time: TypeAlias = Annotated[datetime, "timestamptz"]
Json: TypeAlias = Annotated[str, "jsonb"]


def unnest(row: type[tuple[Any, ...]], alias: str, *, first: int = 1, numbered: bool = False) -> str:
    """Return an item for FROM: rows given as one array per column, from parameter `first` on.

    `numbered` adds their number, from 1 on, as the column `n`.
    """
    parameters = ", ".join(_parameters(row, first))
    if numbered:
        return f"unnest({parameters}) WITH ORDINALITY AS {alias}({names(row)}, n)"
    return f"unnest({parameters}) AS {alias}({names(row)})"


def element(row: type[tuple[Any, ...]], column: str, number: str, *, first: int = 1) -> str:
    """Return the value in a column of the row that has the `number`, from 1 on, of those that `unnest` is given.

    The parameter is read in a SELECT of its own: once, not for each value.
    """
    parameter = _parameters(row, first)[_names(row).index(column)]
    return f"(SELECT {parameter})[{number}]"


def _parameters(row: type[tuple[Any, ...]], first: int) -> list[str]:
    types = [_sql_type(hint) for hint in get_type_hints(row, include_extras=True).values()]
    return [_parameter(n, type_) for n, type_ in enumerate(types, start=first)]


def _parameter(n: int, type_: str) -> str:
    if type_ == "line":
        return f"string_to_array(${n}, E'\\n', '')"
    return f"${n}::text::{type_}[]" if type_ in _PLAIN else f"${n}::{type_}[]"


def arrays(row: type[tuple[Any, ...]], rows: Collection[tuple[Any, ...]]) -> Sequence[tuple[Any, ...] | str]:
    """Return the parameters that `unnest` takes: one array per column.

    A column without any value is an empty array, which `unnest` fills up with NULLs: each value costs the driver time.
    """
    writers = _writers(row)
    columns = list(zip(*rows, strict=True)) or [()] * len(writers)
    return [
        values if write is None else write(values)
        for write, values in zip(writers, map(_without_blanks, columns), strict=True)
    ]


def _without_blanks(column: tuple[Any, ...]) -> tuple[Any, ...]:
    return () if column and column[0] is None and column.count(None) == len(column) else column


def _lines(values: tuple[str | None, ...]) -> str:
    text = "\n".join(["" if value is None else value for value in values])
    if text.count("\n") != max(0, len(values) - 1):
        raise ValueError("A text has a line break, where it must not.")
    return text


def _literal(values: tuple[Any, ...]) -> str:
    text = array(values)
    return text.replace("None", "NULL") if None in values else text


@cache
def _writers(row: type[tuple[Any, ...]]) -> tuple[Callable[[tuple[Any, ...]], str] | None, ...]:
    writers = {**dict.fromkeys(_PLAIN, _literal), "line": _lines}
    return tuple(writers.get(_sql_type(hint)) for hint in get_type_hints(row, include_extras=True).values())


def array(values: Iterable[object]) -> str:
    """Write an array as PostgreSQL does: of numbers or UUIDs, for a column of arrays."""
    return "{" + ",".join(map(str, values)) + "}"


def select(row: type[tuple[Any, ...]], **expressions: str) -> str:
    """Return a list for SELECT: an expression for each column of the row, which `_make` takes as it comes."""
    assert tuple(expressions) == _names(row), f"{row.__name__} has the columns {_names(row)}"
    return ", ".join(f"{expression} AS {name}" for name, expression in expressions.items())


def cast(row: type[tuple[Any, ...]], alias: str) -> str:
    """Return a list for SELECT: the columns of an item of `unnest` as the table has them."""
    hints = get_type_hints(row, include_extras=True)
    casts = {name: _metadata(hint)[1:] for name, hint in hints.items()}
    return ", ".join(f"{alias}.{name}" + "".join(f"::{type_}" for type_ in casts[name]) for name in hints)


def names(row: type[tuple[Any, ...]]) -> str:
    """Return the columns' names as a list."""
    return ", ".join(_names(row))


def _names(row: type[tuple[Any, ...]]) -> tuple[str, ...]:
    fields: tuple[str, ...] = row._fields  # type: ignore[attr-defined] # every NamedTuple has it
    return fields


def _sql_type(hint: Any) -> str:
    return str(_metadata(hint)[0])


def _metadata(hint: Any) -> tuple[Any, ...]:
    # What may be null is a union of the type and None.
    found: tuple[Any, ...] = next(
        each for each in (hint, *get_args(hint)) if hasattr(each, "__metadata__")
    ).__metadata__
    return found
