"""Straight resolvers for a Strawberry schema: its own wrappers are most of what a field costs.

Strawberry builds the schema from the classes. Afterwards `tune` sets what graphql-core offers for the purpose:
resolvers that are called directly, Python names for arguments and input fields (`out_name`), input objects made while
they are coerced (`out_type`), union members found by their class (`resolve_type`). What Strawberry does in its wrappers
(permissions, field extensions, exception handlers, a converted `info`) this schema does not use, and `tune` refuses a
field that does. docs/decisions/0004 has the measurement.

To do without: delete this file, and let Strawberry's own wrappers resolve; a request then costs some 55 µs more.
"""

from collections.abc import Callable
from functools import partial
from inspect import iscoroutinefunction
from operator import attrgetter
from typing import Any, Final, cast

from graphql import (
    GraphQLField,
    GraphQLInputObjectType,
    GraphQLInterfaceType,
    GraphQLObjectType,
    GraphQLSchema,
    GraphQLUnionType,
)
from strawberry.schema.schema_converter import GraphQLCoreConverter
from strawberry.types.field import StrawberryField

from wallet_gql.endpoint.executor import Leaf, find_short_ways

_STRAWBERRY: Final = GraphQLCoreConverter.DEFINITION_BACKREF
"""Where Strawberry keeps its definition of a thing among graphql-core's extensions of it."""


def tune(schema: GraphQLSchema) -> None:
    """Set how fields are resolved, inputs are made and members are found."""
    names: dict[type, str] = {}
    leaves: dict[tuple[str, str], Leaf] = {}

    def resolve_type(value: object, *_: object) -> str:
        return names[type(value)]

    for graphql_type in schema.type_map.values():
        match graphql_type:
            case GraphQLInterfaceType() | GraphQLUnionType():
                graphql_type.resolve_type = resolve_type
            case GraphQLInputObjectType():
                # Set as an attribute, which is how graphql-core's own constructor does it.
                vars(graphql_type)["out_type"] = partial(_make, graphql_type.extensions[_STRAWBERRY].origin)
                # Strawberry checks it by a rule of its own, for literals alone; graphql-core does it for variables too.
                graphql_type.is_one_of = graphql_type.extensions[_STRAWBERRY].is_one_of
                for field in graphql_type.fields.values():
                    field.out_name = field.extensions[_STRAWBERRY].python_name
            case GraphQLObjectType() if _STRAWBERRY in graphql_type.extensions:
                names[graphql_type.extensions[_STRAWBERRY].origin] = graphql_type.name
                # Its class has told already what an object is.
                graphql_type.is_type_of = None
                for name, field in graphql_type.fields.items():
                    field.resolve = _resolver(field)
                    if (read := _read(field.extensions[_STRAWBERRY])) is not None:
                        leaves[graphql_type.name, name] = read
                    for argument in field.args.values():
                        argument.out_name = argument.extensions[_STRAWBERRY].python_name
    find_short_ways(schema, leaves)


def _make(origin: type, values: dict[str, Any]) -> object:
    return origin(**values)


def _read(field: StrawberryField) -> Leaf | None:
    """Return what reads a field from its source alone, at once; None where more is needed."""
    resolver = field.base_resolver
    if resolver is None:
        return attrgetter(field.python_name)
    function = cast("Callable[..., Any]", resolver.wrapped_func)
    return None if resolver.arguments or resolver.info_parameter or iscoroutinefunction(function) else function


def _resolver(graphql_field: GraphQLField) -> Callable[..., Any]:
    """Return a field's resolver: the function that it was declared with, or the reading of an attribute."""
    field: StrawberryField = graphql_field.extensions[_STRAWBERRY]
    assert not field.extensions, f"{field.name} has field extensions, which are not called"
    if (read := _read(field)) is not None:
        return lambda source, _info: read(source)
    assert field.base_resolver is not None
    function = cast("Callable[..., Any]", field.base_resolver.wrapped_func)
    if field.base_resolver.info_parameter is None:
        return lambda source, _info, **arguments: function(source, **arguments)
    return function
