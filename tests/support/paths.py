"""A document for every field of the schema: the shortest way to it from a root, by fields that a caller may ask for."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final, NamedTuple, TypeAlias
from uuid import uuid4

from graphql import (
    GraphQLArgument,
    GraphQLEnumType,
    GraphQLField,
    GraphQLInputField,
    GraphQLInputObjectType,
    GraphQLInputType,
    GraphQLInterfaceType,
    GraphQLList,
    GraphQLNamedType,
    GraphQLNonNull,
    GraphQLObjectType,
    build_schema,
    get_named_type,
    is_leaf_type,
    is_required_argument,
    is_required_input_field,
    is_union_type,
)

SCHEMA: Final = build_schema((Path(__file__).parents[2] / "schema.graphql").read_text())

Step: TypeAlias = tuple[str, str]
"""A field, by the names of its type and its own."""


_WANTED: Final = frozenset({"amount", "actor", "maxAmount", "ownerId", "window"})
"""What may be left out, but not together with everything else that may."""


class Example(NamedTuple):
    """What arguments are given: by the field's and its name, by its name, or by its type's; a `UUID` is fresh."""

    by_name: Mapping[str, str]
    by_type: Mapping[str, str]

    def of(self, name: str, type_: GraphQLInputType) -> str:
        """Return a value as a document has it, with nothing that may be left out."""
        if isinstance(type_, GraphQLNonNull):
            return self.of(name, type_.of_type)
        if isinstance(type_, GraphQLList):
            return f"[{self.of(name, type_.of_type)}]"
        if isinstance(type_, GraphQLInputObjectType):
            return self.input(type_)
        for known in (name, name.rpartition(".")[2]):
            if known in self.by_name:
                return self.by_name[known]
        if isinstance(type_, GraphQLEnumType):
            return str(next(iter(type_.values)))
        named = get_named_type(type_).name
        return f'"{uuid4()}"' if named == "UUID" else self.by_type[named]

    def input(self, type_: GraphQLInputObjectType, **given: str) -> str:
        """Return an input with what it must have, and what is given; the first of those of which it has one."""
        if type_.is_one_of:
            # Of movements the one that most callers may ask for.
            name = "spend" if "spend" in type_.fields else next(iter(type_.fields))
            each = type_.fields[name]
            return f"{{{name}: {self.of(name, each.type)}}}"
        needed = {
            name: self.of(name, each.type)
            for name, each in type_.fields.items()
            if is_required_input_field(each) or name in _WANTED
        }
        return "{" + ", ".join(f"{name}: {value}" for name, value in (needed | given).items()) + "}"


def composites() -> Iterator[GraphQLObjectType | GraphQLInterfaceType]:
    """Yield every type that has fields."""
    for name, type_ in SCHEMA.type_map.items():
        if isinstance(type_, GraphQLObjectType | GraphQLInterfaceType) and not name.startswith("__"):
            yield type_


def every_field() -> list[Step]:
    """Return every field of every object and interface."""
    return [(type_.name, name) for type_ in composites() for name in type_.fields]


def root_fields() -> list[Step]:
    """Return what can be asked and what can be done."""
    return [(type_, field) for type_, field in every_field() if type_ in {"Query", "Mutation"}]


def ways(may_ask: Callable[[Step], bool]) -> dict[str, tuple[Step, ...]]:
    """Return the shortest way to each type that can be reached by fields that one may ask for."""
    found: dict[str, tuple[Step, ...]] = {"Query": (), "Mutation": ()}
    waiting = list(found)
    for type_name in waiting:
        type_ = SCHEMA.type_map[type_name]
        assert isinstance(type_, GraphQLObjectType | GraphQLInterfaceType)
        for name, field in type_.fields.items():
            if not may_ask((type_name, name)):
                continue
            for reached in _members(get_named_type(field.type)):
                if reached not in found:
                    found[reached] = (*found[type_name], (type_name, name))
                    waiting.append(reached)
    return found


def _members(type_: GraphQLNamedType) -> Iterator[str]:
    """Yield the types with fields that something of a type may be asked as."""
    if isinstance(type_, GraphQLObjectType | GraphQLInterfaceType):
        yield type_.name
    # What a node or a batch's item turns out to be has rules of its own: it is reached otherwise.
    if type_.name == "PostBatchItemResult":
        return
    if is_union_type(type_) or (isinstance(type_, GraphQLInterfaceType) and type_.name != "Node"):
        for member in SCHEMA.get_possible_types(type_):
            yield member.name
            yield from (interface.name for interface in member.interfaces)


def document(path: tuple[Step, ...], example: Example) -> str:
    """Write a document that selects one field below the other."""
    text = ""
    for (type_name, name), beneath in zip(reversed(path), (None, *reversed(path)), strict=False):
        field = field_of((type_name, name))
        reached = get_named_type(field.type)
        if beneath is None:
            below = "" if is_leaf_type(reached) else " { __typename }"
        else:
            below = f" {{ {text} }}" if reached.name == beneath[0] else f" {{ ... on {beneath[0]} {{ {text} }} }}"
        needed = {
            each: example.of(f"{name}.{each}", given.type)
            for each, given in field.args.items()
            if is_required_argument(given) or each in _WANTED
        }
        arguments = ", ".join(f"{each}: {value}" for each, value in needed.items())
        text = f"{name}{f'({arguments})' if arguments else ''}{below}"
    return f"{path[0][0].lower()} {{ {text} }}"


class Place(NamedTuple):
    """Where something can be sent: an argument of a root field, or a field of the input that is one."""

    root: Step
    name: str
    given: GraphQLArgument | GraphQLInputField

    @property
    def type_name(self) -> str:
        """The name of its type, without what wraps it."""
        return get_named_type(self.given.type).name

    @property
    def is_list(self) -> bool:
        """Whether it takes many."""
        type_ = self.given.type
        return isinstance(type_.of_type if isinstance(type_, GraphQLNonNull) else type_, GraphQLList)

    def __str__(self) -> str:
        return f"{self.root[1]}.{self.name}"


def places() -> list[Place]:
    """Return every place of every root field."""
    found = []
    for root in root_fields():
        for name, argument in field_of(root).args.items():
            type_ = get_named_type(argument.type)
            if isinstance(type_, GraphQLInputObjectType):
                found += [Place(root, each, given) for each, given in type_.fields.items()]
            else:
                found.append(Place(root, name, argument))
    return found


def asked_at(place: Place, value: str, example: Example, **more: str) -> str:
    """Write a root field, all of whose needed arguments are given, with a value at a place, and more beside it."""
    given, field = {place.name: value} | more, field_of(place.root)
    if "input" in field.args:
        type_ = get_named_type(field.args["input"].type)
        assert isinstance(type_, GraphQLInputObjectType)
        return f"{place.root[1]}(input: {example.input(type_, **given)}) {{ {_TOLD} }}"
    needed = {
        each: example.of(f"{place.root[1]}.{each}", argument.type)
        for each, argument in field.args.items()
        if is_required_argument(argument) or each in _WANTED
    }
    arguments = ", ".join(f"{each}: {value}" for each, value in (needed | given).items())
    return f"{place.root[1]}({arguments}) {{ __typename }}"


_TOLD: Final = "__typename ... on Error { code message }"


def field_of(step: Step) -> GraphQLField:
    """Return a field."""
    type_ = SCHEMA.type_map[step[0]]
    assert isinstance(type_, GraphQLObjectType | GraphQLInterfaceType)
    field: GraphQLField = type_.fields[step[1]]
    return field
