"""What an operation asks of its caller: worked out once, when its document is prepared."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from graphql import (
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    GraphQLInterfaceType,
    GraphQLObjectType,
    GraphQLSchema,
    InlineFragmentNode,
    ListValueNode,
    ObjectValueNode,
    OperationDefinitionNode,
    SelectionNode,
    SelectionSetNode,
    StringValueNode,
    ValueNode,
    VariableNode,
    get_named_type,
)

from wallet_gql.domain.access import Caller
from wallet_gql.domain.errors import Forbidden
from wallet_gql.graphql.policy import FREE, OWNER_ARGUMENTS, OWNER_FIELDS, RULES, SCHEMA, Rule, check

_Selected: TypeAlias = tuple[SelectionSetNode, str]
"""What is selected, and the name of the type that it is selected of."""

_INTROSPECTION: Final = frozenset({"__schema", "__type"})


@dataclass(frozen=True, slots=True)
class Demands:
    """The rules of the fields that an operation selects, each with one of them, and what names owners in it."""

    rules: tuple[tuple[Rule, str], ...]
    owners: tuple[tuple[str, ValueNode], ...]

    def check(self, caller: Caller, variables: Mapping[str, Any]) -> None:
        """Raise `Forbidden` where the caller may not ask so; `variables` are coerced."""
        for rule, place in self.rules:
            check(caller, rule, place)
        if caller.reaches_all:
            return
        for name, node in self.owners:
            for owner_id in _owner_ids(name, node, variables):
                if not caller.reaches(owner_id):
                    raise Forbidden(f"{name} names an owner who is not one of yours: name one who is.", name)


def demands(
    schema: GraphQLSchema,
    operation: OperationDefinitionNode,
    fragments: Mapping[str, FragmentDefinitionNode],
    *,
    is_schema_free: bool = False,
) -> Demands:
    """Work out what a valid operation asks of its caller, whatever directives may leave out.

    Introspection asks for a scope, unless it `is_schema_free`.
    """
    root = schema.get_root_type(operation.operation)
    assert root is not None
    rules: dict[Rule, str] = {}
    owners: list[tuple[str, ValueNode]] = []
    waiting: list[_Selected] = [(operation.selection_set, root.name)]
    seen: set[tuple[int, str]] = set()
    while waiting:
        selection_set, type_name = waiting.pop()
        if (id(selection_set), type_name) in seen:
            continue
        seen.add((id(selection_set), type_name))
        for selection in selection_set.selections:
            if isinstance(selection, FieldNode):
                name = selection.name.value
                rule = _rule(type_name, name)
                if rule and not (is_schema_free and rule is SCHEMA):
                    rules.setdefault(rule, f"{type_name}.{name}")
                for argument in selection.arguments or ():
                    owners += _owner_nodes(argument.name.value, argument.value)
            waiting += _below(schema, selection, type_name, fragments)
    return Demands(tuple(rules.items()), tuple(owners))


def _below(
    schema: GraphQLSchema, selection: SelectionNode, type_name: str, fragments: Mapping[str, FragmentDefinitionNode]
) -> Iterator[_Selected]:
    """Yield what is selected below a selection, with the type that it is selected of."""
    match selection:
        case FieldNode(selection_set=SelectionSetNode() as selected) if not selection.name.value.startswith("__"):
            type_ = schema.type_map[type_name]
            assert isinstance(type_, GraphQLObjectType | GraphQLInterfaceType)
            yield selected, get_named_type(type_.fields[selection.name.value].type).name
        case InlineFragmentNode(type_condition=condition):
            yield selection.selection_set, type_name if condition is None else condition.name.value
        case FragmentSpreadNode():
            fragment = fragments[selection.name.value]
            yield fragment.selection_set, fragment.type_condition.name.value


def _rule(type_name: str, name: str) -> Rule:
    if name in _INTROSPECTION:
        return SCHEMA
    # A field without a rule is for nobody; a test says which has none.
    return FREE if name == "__typename" else RULES[type_name, name]


def _owner_nodes(name: str, node: ValueNode) -> Iterator[tuple[str, ValueNode]]:
    """Yield what may name an owner in an argument: itself, fields of an input, or a variable that is one."""
    if name in OWNER_ARGUMENTS or (name == "input" and isinstance(node, VariableNode)):
        yield name, node
    elif isinstance(node, ObjectValueNode):
        for field in node.fields:
            yield from _owner_nodes(field.name.value, field.value)


def _owner_ids(name: str, node: ValueNode, variables: Mapping[str, Any]) -> Iterator[str]:
    """Yield the owners that a value names, once variables are coerced."""
    match node:
        case StringValueNode():
            yield node.value
        case ListValueNode():
            for each in node.values:
                yield from _owner_ids(name, each, variables)
        case VariableNode():
            value = variables.get(node.name.value)
            if isinstance(value, str):
                yield value
            elif isinstance(value, list):
                yield from (each for each in value if isinstance(each, str))
            elif value is not None:
                for python_name in OWNER_FIELDS:
                    owner_id = getattr(value, python_name, None)
                    if isinstance(owner_id, str):
                        yield owner_id
