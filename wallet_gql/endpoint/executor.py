"""graphql-core's executor with short ways for what is most of a request.

A leaf that needs no more than its source, and is neither null where it must not be nor faulty, is read at once: on the
long way it would get a path, a resolve info and three calls. An object that needs no more than that and is never null
is gone into at once. And what a selection set of one field holds is collected once per document instead of once per
request, where no directive could make it differ. So is what a variable's type is.
Everything else goes the long way, errors among it. The methods of graphql-core that are overridden are its own, not its
public interface (docs/decisions/0004), so graphql-core is capped to one minor version.

To do without: delete this file and call `graphql.execute` in `documents`; a request then costs some 23 µs more.
"""

import asyncio
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable, Mapping, Sequence
from functools import partial
from types import CoroutineType
from typing import Any, Final, Self, TypeGuard, cast

from graphql import (
    DocumentNode,
    FragmentDefinitionNode,
    GraphQLEnumType,
    GraphQLError,
    GraphQLInputObjectType,
    GraphQLInputType,
    GraphQLList,
    GraphQLNonNull,
    GraphQLObjectType,
    GraphQLOutputType,
    GraphQLResolveInfo,
    GraphQLResolveInfoHelpers,
    GraphQLScalarType,
    GraphQLSchema,
    OperationDefinitionNode,
    default_field_resolver,
    default_type_resolver,
    is_required_input_field,
)
from graphql.execution import Executor, get_variable_values
from graphql.execution.collect_fields import CollectedFields, FieldDetails, FragmentDetails
from graphql.execution.executor import CollectedErrors
from graphql.execution.get_variable_signature import GraphQLVariableSignature, get_variable_signature
from graphql.execution.values import VariableValues, VariableValueSource
from graphql.pyutils import AwaitableOrValue, Path, Undefined
from graphql.utilities import coerce_input_value
from graphql.utilities.coerce_input_value import coerce_default_value

VARIABLE_ERRORS_MAX: Final = 20

MEMBERS_AT_ONCE: Final = 100
"""So many members of a list are completed in one turn of the event loop: more would keep it from the others."""

Reader = Callable[[Any], Any]
"""Coerces a value of a variable; Undefined where it is not right, and the long way must be gone to say why."""

Leaf = Callable[[Any], Any]
"""Reads a leaf from its source, coerced for the answer; Undefined where the long way must be gone."""

LEAVES: Final = "leaves"
"""Where an object type's leaves are kept, by field name, among graphql-core's extensions of it."""

OBJECTS: Final = "objects"
"""Where, likewise, what reads an object that is never null from its source is kept, with the object's type."""


def is_coroutine(value: object) -> TypeGuard[Awaitable[Any]]:
    """Say whether a result is to be awaited: resolvers here are plain functions or coroutine functions."""
    return type(value) is CoroutineType


def is_stream(_value: object) -> TypeGuard[AsyncIterable[Any]]:
    """Say that no result is an asynchronous iterable: lists here are lists."""
    return False


def find_short_ways(schema: GraphQLSchema, reads: Mapping[tuple[str, str], Leaf]) -> None:
    """Give each object type its short ways; `reads` reads fields that need their source only, by type and field name.

    Objects are told by their classes, so their types have no `is_type_of`, which a short way would not ask.
    """
    for graphql_type in schema.type_map.values():
        if isinstance(graphql_type, GraphQLObjectType):
            leaves: dict[str, Leaf] = {"__typename": _constant(graphql_type.name)}
            objects: dict[str, tuple[Leaf, GraphQLObjectType]] = {}
            for name, field in graphql_type.fields.items():
                read = reads.get((graphql_type.name, name))
                may_be_null = not isinstance(field.type, GraphQLNonNull)
                named = field.type if may_be_null else field.type.of_type
                if read is not None and isinstance(named, GraphQLScalarType | GraphQLEnumType):
                    leaves[name] = _coerced(read, named, null=None if may_be_null else Undefined)
                elif read is not None and isinstance(named, GraphQLObjectType) and not may_be_null:
                    objects[name] = read, named
            graphql_type.extensions |= {LEAVES: leaves, OBJECTS: objects}


def _constant(value: str) -> Leaf:
    return lambda _source: value


def _coerced(read: Leaf, leaf_type: GraphQLScalarType | GraphQLEnumType, null: object) -> Leaf:
    coerce = leaf_type.coerce_output_value

    def leaf(source: Any) -> Any:
        try:
            value = read(source)
            if value is None:
                return null
            coerced = coerce(value)
        except Exception:  # noqa: BLE001 - the long way says what is wrong with it
            return Undefined
        return Undefined if coerced is None else coerced

    return leaf


def _reader(type_: GraphQLInputType, holders: tuple[GraphQLInputType, ...] = ()) -> Reader:
    """Return what coerces a value as `coerce_input_value` does, with what it asks of the type answered beforehand.

    `holders` are the types that hold it: one that held itself would be prepared without end, and goes the long way.
    """
    named = type_.of_type if isinstance(type_, GraphQLNonNull) else type_
    null = Undefined if isinstance(type_, GraphQLNonNull) else None
    if named in holders:
        return partial(coerce_input_value, type_=type_)
    match named:
        case GraphQLScalarType() | GraphQLEnumType():
            read = _leaf_reader(named)
        case GraphQLList():
            read = _list_reader(_reader(named.of_type, holders))
        case GraphQLInputObjectType(is_one_of=True):
            read = _one_of_reader(named, holders)
        case GraphQLInputObjectType():
            read = _object_reader(named, holders)
    return lambda value: null if value is None else read(value)


def _list_reader(read_member: Reader) -> Reader:
    def read(given: Any) -> Any:
        # What is no list is one of a single member, which the long way makes.
        if not isinstance(given, list):
            return Undefined
        members = [read_member(member) for member in given]
        return Undefined if Undefined in members else members

    return read


def _one_of_reader(type_: GraphQLInputObjectType, holders: tuple[GraphQLInputType, ...]) -> Reader:
    readers = {
        name: (field.out_name or name, _reader(field.type, (*holders, type_))) for name, field in type_.fields.items()
    }

    def read(given: Any) -> Any:
        if not isinstance(given, dict) or len(given) != 1:
            return Undefined
        ((name, value),) = given.items()
        if value is None or name not in readers:
            return Undefined
        out_name, read_field = readers[name]
        coerced = read_field(value)
        return Undefined if coerced is Undefined else type_.out_type({out_name: coerced})

    return read


def _leaf_reader(type_: GraphQLScalarType | GraphQLEnumType) -> Reader:
    coerce = type_.coerce_input_value

    def read(value: Any) -> Any:
        try:
            return coerce(value)
        except Exception:  # noqa: BLE001 - the long way says what is wrong with it
            return Undefined

    return read


def _object_reader(type_: GraphQLInputObjectType, holders: tuple[GraphQLInputType, ...]) -> Reader:
    fields = type_.fields
    readers = [
        (
            name,
            field.out_name or name,
            is_required_input_field(field),
            coerce_default_value(field),
            _reader(field.type, (*holders, type_)),
        )
        for name, field in fields.items()
    ]

    def read(given: Any) -> Any:
        if not isinstance(given, dict) or not given.keys() <= fields.keys():
            return Undefined
        values: dict[str, Any] = {}
        for name, out_name, is_required, default, read_field in readers:
            value = given.get(name, Undefined)
            if value is not Undefined:
                value = read_field(value)
            elif not is_required:
                if default is not Undefined:
                    values[out_name] = default
                continue
            if value is Undefined:
                return Undefined
            values[out_name] = value
        return type_.out_type(values)

    return read


class StraightExecutor(Executor[Any]):
    """Executes an operation for one request; made from the one that its document keeps."""

    collected: dict[tuple[str, int], CollectedFields] | None = None
    signatures: Sequence[tuple[GraphQLVariableSignature, Reader]] = ()

    @classmethod
    def of(cls, schema: GraphQLSchema, document: DocumentNode, operation: OperationDefinitionNode, text: str) -> Self:
        """Make what all requests for an operation of a valid document share; `text` is the document's."""
        fragments = {
            definition.name.value: definition
            for definition in document.definitions
            if isinstance(definition, FragmentDefinitionNode)
        }
        executor = cls(
            schema,
            fragments,
            {name: FragmentDetails(definition, None) for name, definition in fragments.items()},
            None,
            None,
            operation,
            VariableValues({}, {}),
            default_field_resolver,
            default_type_resolver,
            default_field_resolver,
            is_awaitable=is_coroutine,
            is_async_iterable=is_stream,
        )
        # They and the executor would hold each other, which is work for the collector; no resolver here uses them.
        executor.async_helpers = cast("GraphQLResolveInfoHelpers", None)
        signatures = [get_variable_signature(schema, node) for node in operation.variable_definitions or ()]
        executor.signatures = [
            (signature, _reader(signature.type)) for signature in signatures if not isinstance(signature, GraphQLError)
        ]
        # Without a directive, a selection is the same in every request.
        executor.collected = None if "@" in text else {}
        return executor

    def for_request(
        self, context: object, inputs: dict[str, Any], *, hide_suggestions: bool
    ) -> "StraightExecutor | list[GraphQLError]":
        """Return the executor of a request, or what is wrong with its variables."""
        values = self._coerce(inputs) or get_variable_values(
            self.schema,
            self.operation.variable_definitions or (),
            inputs,
            max_errors=VARIABLE_ERRORS_MAX,
            hide_suggestions=hide_suggestions,
        )
        if isinstance(values, list):
            return values
        executor = object.__new__(type(self))
        vars(executor).update(vars(self))
        executor.collected_errors = CollectedErrors()
        executor.context_value = context
        executor.variable_values = values
        executor.hide_suggestions = hide_suggestions
        executor._relevant_sub_fields = {}
        return executor

    def _coerce(self, inputs: dict[str, Any]) -> VariableValues | None:
        """Coerce variables that are all given and right; None where the long way must be gone."""
        sources: dict[str, VariableValueSource] = {}
        coerced: dict[str, Any] = {}
        for signature, read in self.signatures:
            value = inputs.get(signature.name, Undefined)
            if value is Undefined:
                return None
            sources[signature.name] = VariableValueSource(signature, value)
            coerced[signature.name] = read(value)
            if coerced[signature.name] is Undefined:
                return None
        return VariableValues(sources, coerced)

    def execute_fields(
        self,
        parent_type: GraphQLObjectType,
        source_value: Any,
        path: Path | None,
        grouped_field_set: dict[str, list[FieldDetails]],
        position_context: Any,
    ) -> AwaitableOrValue[dict[str, Any]]:
        """Execute a selection set; its answer is in the order of the document."""
        leaves: dict[str, Leaf] = parent_type.extensions.get(LEAVES, {})
        results: dict[str, Any] = {}
        others: dict[str, list[FieldDetails]] = {}
        for name, details in grouped_field_set.items():
            leaf = leaves.get(details[0].node.name.value)
            value = results[name] = Undefined if leaf is None else leaf(source_value)
            if value is Undefined:
                others[name] = details
        if not others:
            return results
        executed = super().execute_fields(parent_type, source_value, path, others, position_context)
        if len(others) == len(results):
            return executed
        if isinstance(executed, dict):
            results.update(executed)
            return results

        async def merge() -> dict[str, Any]:
            results.update(await executed)
            return results

        return merge()

    def execute_field(
        self,
        parent_type: GraphQLObjectType,
        source: Any,
        field_details_list: list[FieldDetails],
        path: Path,
        position_context: Any,
    ) -> Any:
        """Resolve a field, and execute what it selects.

        What is wrong below a field that is never null is wrong with what holds it, which handles it.
        """
        objects: dict[str, tuple[Leaf, GraphQLObjectType]] = parent_type.extensions.get(OBJECTS, {})
        found = objects.get(field_details_list[0].node.name.value)
        if found is None:
            return super().execute_field(parent_type, source, field_details_list, path, position_context)
        read, object_type = found
        try:
            value = read(source)
        except Exception:  # noqa: BLE001 - the long way says what is wrong with it
            value = None
        if value is None:
            return super().execute_field(parent_type, source, field_details_list, path, position_context)
        selected = self.collect_subfields(object_type, field_details_list).grouped_field_set
        return self.execute_fields(object_type, value, path, selected, None)

    def complete_iterable_value(
        self,
        item_type: GraphQLOutputType,
        field_details_list: list[FieldDetails],
        info: GraphQLResolveInfo[Any],
        path: Path,
        items: Iterable[Any],
        position_context: Any,
    ) -> AwaitableOrValue[list[Any]]:
        """Complete a list; a long one in several turns of the event loop."""
        if not isinstance(items, list) or len(items) <= MEMBERS_AT_ONCE:
            return super().complete_iterable_value(item_type, field_details_list, info, path, items, position_context)

        async def complete() -> list[Any]:
            completed: list[Any] = []
            waiting: list[int] = []
            for n, item in enumerate(items):
                member_path = path.add_key(n, None)
                if self.complete_list_item_value(
                    item, completed, item_type, field_details_list, info, member_path, position_context
                ):
                    waiting.append(n)
                if n % MEMBERS_AT_ONCE == MEMBERS_AT_ONCE - 1:
                    await asyncio.sleep(0)
            for n, value in zip(waiting, await asyncio.gather(*(completed[n] for n in waiting)), strict=True):
                completed[n] = value
            return completed

        return complete()

    def collect_subfields(
        self, return_type: GraphQLObjectType, field_details_list: list[FieldDetails]
    ) -> CollectedFields:
        """Return what a field selects of a type."""
        if self.collected is None or len(field_details_list) > 1:
            return super().collect_subfields(return_type, field_details_list)
        # The document keeps its nodes, so their ids are nobody else's.
        key = return_type.name, id(field_details_list[0].node)
        found = self.collected.get(key)
        if found is None:
            found = self.collected[key] = super().collect_subfields(return_type, field_details_list)
        return found
