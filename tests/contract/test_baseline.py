"""The contract with callers: schema.graphql against the schema that they know, the newest release's.

That baseline is in the release's folder in `tests/released`, and is never changed to make this test pass.
"""

import re
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import pytest
import releases
from graphql import (
    DangerousChangeType,
    GraphQLEnumType,
    GraphQLInputObjectType,
    GraphQLInterfaceType,
    GraphQLObjectType,
    GraphQLSchema,
    GraphQLUnionType,
    build_schema,
    find_breaking_changes,
    find_dangerous_changes,
)

ROOT = Path(__file__).parents[2]
BASELINE = (releases.FOLDER / releases.NEWEST / "schema.graphql").read_text()
CURRENT = (ROOT / "schema.graphql").read_text()
CHANGELOG = (ROOT / "CHANGELOG.md").read_text()

# Who left an argument out would get something else. The other dangers that graphql-core knows are additions.
BREAKING_DANGERS = {
    DangerousChangeType.ARG_DEFAULT_VALUE_CHANGE,
    DangerousChangeType.INPUT_FIELD_DEFAULT_VALUE_CHANGE,
}


def faults(baseline: str, current: str, changelog: str) -> list[str]:
    """Return what callers of the baseline would be hurt by, or would not be told of."""
    old, new = build_schema(baseline), build_schema(current)
    broken = [change.description for change in find_breaking_changes(old, new)]
    broken += [change.description for change in find_dangerous_changes(old, new) if change.type in BREAKING_DANGERS]
    unreleased = re.split(r"^## ", changelog.partition("## Unreleased")[2], maxsplit=1, flags=re.MULTILINE)[0]
    untold = [
        f"{name} has a new member {member}: name it under Unreleased in CHANGELOG.md."
        for name, member in added_members(old, new)
        if re.search(rf"\b{member}\b", unreleased) is None
    ]
    undated = [
        f"{coordinate} is deprecated without a reason and a date such as 2027-01-31."
        for coordinate, reason in deprecations(new)
        if not has_words_and_date(reason)
    ]
    return broken + untold + undated


def members(schema: GraphQLSchema) -> Iterator[tuple[str, str]]:
    for type_ in schema.type_map.values():
        if isinstance(type_, GraphQLEnumType):
            yield from ((type_.name, value) for value in type_.values)
        elif isinstance(type_, GraphQLUnionType):
            yield from ((type_.name, member.name) for member in type_.types)


def added_members(old: GraphQLSchema, new: GraphQLSchema) -> list[tuple[str, str]]:
    known = set(members(old))
    return [(name, member) for name, member in members(new) if (name, member) not in known and name in old.type_map]


def deprecations(schema: GraphQLSchema) -> Iterator[tuple[str, str]]:
    for name, type_ in schema.type_map.items():
        if isinstance(type_, GraphQLEnumType):
            parts = {f"{name}.{value}": member.deprecation_reason for value, member in type_.values.items()}
        elif isinstance(type_, GraphQLInputObjectType):
            parts = {f"{name}.{field}": member.deprecation_reason for field, member in type_.fields.items()}
        elif isinstance(type_, GraphQLObjectType | GraphQLInterfaceType):
            parts = {f"{name}.{field}": member.deprecation_reason for field, member in type_.fields.items()}
            parts |= {
                f"{name}.{field}({argument}:)": detail.deprecation_reason
                for field, member in type_.fields.items()
                for argument, detail in member.args.items()
            }
        else:
            continue
        yield from ((coordinate, reason) for coordinate, reason in parts.items() if reason is not None)


def has_words_and_date(reason: str) -> bool:
    found = re.search(r"\b\d{4}-\d\d-\d\d\b", reason)
    if found is None or len(reason.split()) == 1:
        return False
    try:
        date.fromisoformat(found[0])
    except ValueError:
        return False
    return True


def test_schema_keeps_what_callers_know() -> None:
    assert faults(BASELINE, CURRENT, CHANGELOG) == []


def doctored(old: str, new: str) -> str:
    """Return the baseline, without its descriptions, with one thing changed."""
    plain = re.sub(r'""".*?"""\s*', "", BASELINE, flags=re.DOTALL)
    assert old in plain
    return plain.replace(old, new, 1)


WITH_FROZEN = doctored("  INSUFFICIENT_BALANCE\n", "  INSUFFICIENT_BALANCE\n  WALLET_FROZEN\n")
WITH_ASSET = doctored("union SpendResult = ", "union SpendResult = Asset | ")


@pytest.mark.parametrize(
    ("current", "told"),
    [
        (doctored("  balanceAfter: Amount!\n", ""), "Transaction.balanceAfter was removed"),
        (doctored("  balanceAfter: Amount!\n", "  balanceAfter: Amount\n"), "Transaction.balanceAfter changed type"),
        (doctored("  reference: String\n}", "  reference: String!\n}"), "BonusInput.reference"),
        (doctored(" | InsufficientBalance", ""), "InsufficientBalance was removed from union type SpendResult"),
        (doctored("  TOP_UP\n", ""), "TransactionType.TOP_UP was removed"),
        (doctored("type Asset implements Node", "type Asset"), "Asset no longer implements interface Node"),
        (doctored('asset: String! = "GOLD"', 'asset: String! = "DIAMOND"'), "default"),
        (doctored('asset: String! = "GOLD"', "asset: String!"), "default"),
    ],
)
def test_breaking_change_is_found(current: str, told: str) -> None:
    (fault,) = faults(BASELINE, current, CHANGELOG)

    assert told in fault


@pytest.mark.parametrize(
    ("current", "member"), [(WITH_FROZEN, "WALLET_FROZEN"), (WITH_ASSET, "Asset")], ids=["enum", "union"]
)
def test_addition_needs_a_line_in_the_changelog(current: str, member: str) -> None:
    unreleased = f"# Changelog\n\n## Unreleased\n\n- `{member}` is new.\n\n## 0.1.0\n"
    released = f"# Changelog\n\n## Unreleased\n\n- Faster.\n\n## 0.1.0\n\n- `{member}` is new.\n"

    assert faults(BASELINE, current, unreleased) == []
    (fault,) = faults(BASELINE, current, released)
    assert member in fault


def test_other_additions_need_nothing() -> None:
    current = doctored("  balanceAfter: Amount!\n", "  balanceAfter: Amount!\n  balanceBefore: Amount!\n")

    assert faults(BASELINE, current + "enum New { A B }", "") == []


@pytest.mark.parametrize(
    ("directive", "is_enough"),
    [
        ("@deprecated", False),
        ('@deprecated(reason: "Use transactionId.")', False),
        ('@deprecated(reason: "2027-01-31")', False),
        ('@deprecated(reason: "Use transactionId; goes on 2027-02-30.")', False),
        ('@deprecated(reason: "Use transactionId; goes on 2027-01-31.")', True),
    ],
)
@pytest.mark.parametrize(
    "part",
    ["  balanceAfter: Amount!\n", "  BONUS\n", "  description: String\n", "    offset: Int\n"],
    ids=["field", "enum value", "input field", "argument"],
)
def test_deprecation_needs_a_reason_and_a_date(part: str, directive: str, *, is_enough: bool) -> None:
    found = faults(BASELINE, doctored(part, f"{part.rstrip()} {directive}\n"), CHANGELOG)

    assert (found == []) is is_enough
