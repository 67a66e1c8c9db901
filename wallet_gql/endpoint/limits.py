"""What a document may ask for, checked once per document, before it is validated: validation is what hostile ones bomb.

A document is measured as it would be executed: fragments expanded, fields with one response name merged. How large the
expansion is follows from each fragment's own size by arithmetic, so a bomb of nested spreads is refused without
being expanded; the walk afterwards is linear in what is left.

The cost of an operation is the number of fields it can answer with: a page (`first`, `last`), a list of ids and the
items of a batch multiply what is selected below them. A variable counts as 100, the most that a page may say, until
a request gives it a value; a batch in a variable as one item. A long text counts as several fields, so it bounds the
answer's bytes too: none is larger than its cost times `UNIT_BYTES`. Its rows are what it has looked for, whatever is
found: the members of its pages and lists of ids, and the items of its batches.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from graphql import (
    ArgumentNode,
    DocumentNode,
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    GraphQLError,
    InlineFragmentNode,
    IntValueNode,
    ListValueNode,
    ObjectValueNode,
    OperationDefinitionNode,
    OperationType,
    SelectionSetNode,
    ValueNode,
    VariableNode,
)

from wallet_gql.domain.holds import CAPTURES_MAX
from wallet_gql.domain.limits import LIMITS_MAX
from wallet_gql.domain.lots import LIVE_LOTS_MAX
from wallet_gql.graphql.paging import PAGE_SIZE_DEFAULT, PAGE_SIZE_MAX

UNIT_BYTES: Final = 400
"""What a field of cost 1 weighs at most in JSON: its response name, its value, and what stands around them."""

NAME_LENGTH_MAX: Final = 100
"""The longest alias: it is a response name, repeated in every row and in every error's path."""

INTROSPECTIONS_MAX: Final = 2
"""How often an operation may ask for the schema: once takes 0.1 s, whatever it costs."""

_PAGES: Final = dict.fromkeys(("transactions", "searchTransactions", "holds", "lots"), PAGE_SIZE_DEFAULT)
"""How many rows a page has that does not say how many."""

# How many members a list has that no argument bounds: an entry for each leg, the captures that a hold and the refunds
# that a transaction may have, the lots that it may move and the pool, an asset's limits and a wallet's. Assets by the
# guess that there are no more than ten, keys no more than a hundred.
_LISTS: Final = {
    "captures": CAPTURES_MAX,
    "refunds": 50,  # `ledger.judge_reversals.REVERSALS_MAX`, which a test compares
    "lotUses": LIVE_LOTS_MAX + 1,
    "limits": 2 * LIMITS_MAX,
    "entries": 2,
    "assets": 10,
    "balances": 10,
    "apiKeys": 100,
}

# A character takes six bytes where JSON escapes it: 500 of a text, 128 of an owner id, 4,096 bytes of metadata.
_LONG_TEXTS: Final = {
    "description": 8,
    "reference": 8,
    "ownerId": 2,
    "toOwnerId": 2,
    "counterpartyId": 2,
    "appliesTo": 2,
    "campaign": 2,
    "metadata": 63,
}


@dataclass(frozen=True, slots=True)
class Limits:
    """The most of each thing that a document may have; the settings say what they are for."""

    characters: int
    tokens: int
    depth: int
    aliases: int
    root_mutations: int
    root_queries: int
    directives: int
    operations: int
    fragments: int
    fields: int
    cost: int


_BATCHES: Final = frozenset({"postBatch"})
"""Mutations that answer for each item of their input."""


class Size(NamedTuple):
    """What an operation can answer with, in fields; its root fields, fragments expanded; the rows that it asks for.

    `movements` are its root fields, and of a batch its items: `has_batch` says that these are to be counted anew where
    they are in a variable.
    """

    cost: int
    root_field_count: int
    rows: int
    movements: int
    has_batch: bool


def check(document: DocumentNode, limits: Limits) -> dict[str | None, Size]:
    """Return the size of each operation by its name; raises GraphQLError where the document goes past a limit."""
    fragments = {
        definition.name.value: definition
        for definition in document.definitions
        if isinstance(definition, FragmentDefinitionNode)
    }
    operations = [definition for definition in document.definitions if isinstance(definition, OperationDefinitionNode)]
    _refuse("fragments", len(fragments), limits.fragments)
    _refuse("operations", len(operations), limits.operations)
    sizes: dict[str, int] = {}
    # Of all operations together: each of them is walked.
    size = sum(_expanded_size(operation.selection_set, fragments, sizes, ()) for operation in operations)
    _refuse("fields", size, limits.fields)
    return {
        operation.name.value if operation.name else None: _Walk(fragments, limits).measure(operation)
        for operation in operations
    }


def size(
    operation: OperationDefinitionNode,
    fragments: dict[str, FragmentDefinitionNode],
    limits: Limits,
    variables: Mapping[str, Any],
) -> Size:
    """Return the size of an operation of a document that was checked, with the coerced values of its variables."""
    return _Walk(fragments, limits, variables).measure(operation)


def _refuse(what: str, count: int, count_max: int) -> None:
    if count > count_max:
        raise GraphQLError(f"The document has {count} {what}, but at most {count_max} are allowed: split it.")


def _expanded_size(
    selection_set: SelectionSetNode | None,
    fragments: dict[str, FragmentDefinitionNode],
    sizes: dict[str, int],
    path: tuple[str, ...],
) -> int:
    """Count the fields of a selection with every fragment expanded; each fragment is measured once."""
    if selection_set is None:
        return 0
    size = 0
    for selection in selection_set.selections:
        if isinstance(selection, FragmentSpreadNode):
            name = selection.name.value
            if name in path:
                raise GraphQLError(f"Fragment {name[:100]!r} spreads itself: remove the spread.", selection)
            if name not in sizes and name in fragments:
                sizes[name] = _expanded_size(fragments[name].selection_set, fragments, sizes, (*path, name))
            size += sizes.get(name, 0) + 1
        else:
            assert isinstance(selection, FieldNode | InlineFragmentNode)
            size += 1 + _expanded_size(selection.selection_set, fragments, sizes, path)
    return size


class _Walk:
    """Walks one operation's fields, merged by response name, and counts."""

    def __init__(
        self,
        fragments: dict[str, FragmentDefinitionNode],
        limits: Limits,
        variables: Mapping[str, Any] | None = None,
    ) -> None:
        self._fragments = fragments
        self._limits = limits
        self._variables = variables
        self._aliases = 0
        self._directives = 0
        self._repetitions = 0
        self._rows = 0

    def measure(self, operation: OperationDefinitionNode) -> Size:
        """Return an operation's size."""
        limits = self._limits
        self._directives += len(operation.directives or ())
        groups = self._groups([operation.selection_set])
        if operation.operation is OperationType.MUTATION:
            _refuse("root mutations", len(groups), limits.root_mutations)
        else:
            _refuse("root queries", len(groups), limits.root_queries)
        introspections = sum(fields[0].name.value in {"__schema", "__type"} for fields in groups.values())
        _refuse("introspections", introspections, INTROSPECTIONS_MAX)
        cost = self._cost(groups.values(), depth=1, times=1)
        _refuse("aliases", self._aliases, limits.aliases)
        _refuse("directives", self._directives, limits.directives)
        if cost > limits.cost:
            raise GraphQLError(
                f"The operation costs {cost}, but at most {limits.cost} is allowed:"
                " ask for smaller pages, fewer fields, or a smaller batch."
            )
        movements = sum(_rows(fields[0], self._variables) or 1 for fields in groups.values())
        has_batch = any(fields[0].name.value in _BATCHES for fields in groups.values())
        return Size(cost, len(groups), self._rows, movements, has_batch)

    def _cost(self, groups: Iterable[list[FieldNode]], depth: int, times: int) -> int:
        """Return the cost of a selection, and count the rows that it asks for where it is made so many times."""
        if depth > self._limits.depth:
            raise GraphQLError(f"The document is nested deeper than {self._limits.depth} levels: split it.")
        cost = 0
        for fields in groups:
            below = [field.selection_set for field in fields if field.selection_set]
            cost += _LONG_TEXTS.get(fields[0].name.value, 1)
            if below:
                rows = _rows(fields[0], self._variables)
                self._rows += times * rows
                members = rows or _LISTS.get(fields[0].name.value, 1)
                cost += members * self._cost(self._groups(below).values(), depth + 1, times * (rows or 1))
        return cost

    def _groups(self, selection_sets: Iterable[SelectionSetNode]) -> dict[str, list[FieldNode]]:
        """Return the fields by response name, as execution collects them."""
        groups: dict[str, list[FieldNode]] = {}
        for selection_set in selection_sets:
            for field in self._fields(selection_set):
                groups.setdefault(field.alias.value if field.alias else field.name.value, []).append(field)
        # Validation compares all fields of one name with each other: pairs are what it costs.
        self._repetitions += sum(len(group) * (len(group) - 1) // 2 for group in groups.values())
        _refuse("pairs of repeated fields", self._repetitions, self._limits.fields)
        return groups

    def _fields(self, selection_set: SelectionSetNode) -> Iterator[FieldNode]:
        for selection in selection_set.selections:
            self._directives += len(selection.directives or ())
            if isinstance(selection, FieldNode):
                if selection.alias is not None:
                    self._aliases += 1
                    _refuse("characters in an alias", len(selection.alias.value), NAME_LENGTH_MAX)
                yield selection
            elif isinstance(selection, InlineFragmentNode):
                yield from self._fields(selection.selection_set)
            elif isinstance(selection, FragmentSpreadNode) and selection.name.value in self._fragments:
                yield from self._fields(self._fragments[selection.name.value].selection_set)


def _rows(field: FieldNode, variables: Mapping[str, Any] | None) -> int:
    """Return how many rows a field looks for, as its page, its list of ids or its batch says; 0 for any other."""
    if field.name.value in _BATCHES:
        return max([0, *(_items(argument.value, variables) for argument in field.arguments or ())])
    sizes = [_asked(argument, variables) for argument in field.arguments or ()]
    return max([0, *sizes]) or _PAGES.get(field.name.value, 0)


def _asked(argument: ArgumentNode, variables: Mapping[str, Any] | None) -> int:
    if argument.name.value not in {"first", "last", "ids", "ownerIds"}:
        return 0
    match argument.value:
        case VariableNode(name=name):
            return PAGE_SIZE_MAX if variables is None else _given(variables.get(name.value))
        case IntValueNode(value=value):
            return min(int(value[:4]), PAGE_SIZE_MAX)
        case ListValueNode(values=values):
            return len(values)
        case _:
            return 0


def _items(node: ValueNode, variables: Mapping[str, Any] | None) -> int:
    """Return how many items the input of a batch has."""
    match node:
        case VariableNode(name=name):
            value = None if variables is None else variables.get(name.value)
            return 1 if variables is None else _given(getattr(value, "items", value))
        case ListValueNode(values=values):
            return len(values)
        case ObjectValueNode(fields=fields):
            return max([0, *(_items(field.value, variables) for field in fields)])
        case _:
            return 0


def _given(value: object) -> int:
    match value:
        case int():
            return min(value, PAGE_SIZE_MAX)
        case list():
            return len(value)
        case _:
            return 0
