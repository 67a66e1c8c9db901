"""Every field of the schema has a rule, and no rule is of a field that there is not."""

from pathlib import Path

from graphql import (
    GraphQLInputObjectType,
    GraphQLInterfaceType,
    GraphQLObjectType,
    build_schema,
    is_interface_type,
    is_object_type,
)

from wallet_gql.graphql.policy import NODES, OTHER_OWNERS, OWNER_ARGUMENTS, RULES

SCHEMA = build_schema((Path(__file__).parents[2] / "schema.graphql").read_text())
TYPES = {
    name: type_
    for name, type_ in SCHEMA.type_map.items()
    if (is_object_type(type_) or is_interface_type(type_)) and not name.startswith("__")
}


def test_every_field_has_a_rule_and_every_rule_a_field() -> None:
    fields = {(name, field) for name, type_ in TYPES.items() for field in type_.fields}
    assert set(RULES) == fields


def test_a_field_of_an_interface_has_the_rule_of_all_that_implement_it() -> None:
    for interface in (type_ for type_ in TYPES.values() if isinstance(type_, GraphQLInterfaceType)):
        for implementer in SCHEMA.get_possible_types(interface):
            for field in interface.fields:
                assert RULES[implementer.name, field] == RULES[interface.name, field]


def test_every_node_has_a_rule() -> None:
    node = SCHEMA.type_map["Node"]
    assert isinstance(node, GraphQLInterfaceType)
    assert set(NODES) == {type_.name for type_ in SCHEMA.get_possible_types(node)}


def test_every_argument_that_names_an_owner_is_known() -> None:
    objects = [type_ for type_ in TYPES.values() if isinstance(type_, GraphQLObjectType)]
    inputs = [type_ for type_ in SCHEMA.type_map.values() if isinstance(type_, GraphQLInputObjectType)]
    names = {name for type_ in objects for field in type_.fields.values() for name in field.args}
    names |= {name for type_ in inputs for name in type_.fields}
    assert {name for name in names if "owner" in name.lower()} == OWNER_ARGUMENTS | OTHER_OWNERS


def test_inputs_are_given_by_an_argument_of_that_name() -> None:
    """What names owners in a variable is found by it."""
    mutation = SCHEMA.mutation_type
    assert mutation is not None
    assert {name for field in mutation.fields.values() for name in field.args} == {"input"}
