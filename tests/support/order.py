"""The order in which refusals win: read from the table in docs/api.md, and for each mutation from the schema."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from graphql import GraphQLInputObjectType, GraphQLObjectType, GraphQLUnionType, build_schema, get_named_type

from wallet_gql.endpoint.schema import export_schema

API_FILE: Final = Path(__file__).parents[2] / "docs" / "api.md"
SCHEMA: Final = build_schema(export_schema())
FAULT: Final = "BAD_USER_INPUT"

OF_WHAT_WAS_FOUND: Final = "InvalidAmount of a hold or transaction"
OF_THE_RECEIVER: Final = "WalletNotFound of the receiver"


class Row(NamedTuple):
    """A row of the table: a refusal that wins in two places has two rows, which its label tells apart."""

    label: str
    name: str
    is_kept: bool


class Absence(NamedTuple):
    """Mutations that never answer with a row of a refusal that their unions have, and why."""

    mutations: frozenset[str]
    why: str


class Excuse(NamedTuple):
    """Why two refusals cannot hold at once: in any mutation that has both, or only in some."""

    why: str
    only: frozenset[str] = frozenset()


_POSTINGS: Final = frozenset({"topUp", "bonus", "spend"})
_OF_STATUS: Final = frozenset({"freezeWallet", "unfreezeWallet", "reopenWallet"})

_SHARED_UNION: Final = "The mutations of a wallet's status have one union: only a closing looks at what there is."

NEVER: Final = {
    OF_WHAT_WAS_FOUND: Absence(
        _POSTINGS | {"transfer", "placeHold", "setLimit"},
        "The asset is an argument, so all of InvalidAmount is told before.",
    ),
    OF_THE_RECEIVER: Absence(_POSTINGS | _OF_STATUS | {"setLimit"}, "There is no receiver."),
    "WalletClosed": Absence(frozenset({"closeWallet", "reopenWallet"}), "What is closed is closed, or is opened."),
    **{
        name: Absence(_OF_STATUS, _SHARED_UNION)
        for name in ("SelfTransfer", "WalletFrozen", "TransferForbidden", "WalletNotEmpty", "ReceiverRefused")
    },
    "BalanceLimitExceeded": Absence(
        frozenset({"spend"}), "A spend only lowers the balance; version 0.1.0 put it into the union."
    ),
}

_KEY_OF_NOBODY: Final = "A key belongs to the wallet that is found: where none is found, no key was used."
_WHAT_IS_NOT_THERE: Final = "What does not exist has no state."
_LOWERED_OR_RAISED: Final = "A hold is lowered below what was captured, or raised above what may be held."

EXCUSES: Final = {
    (FAULT, "IdempotencyKeyReused"): Excuse(
        "Only a key can be malformed in what is sent beside the hold.", frozenset({"voidHold"})
    ),
    ("WalletNotFound", "IdempotencyKeyReused"): Excuse(_KEY_OF_NOBODY),
    ("HoldNotFound", "IdempotencyKeyReused"): Excuse(_KEY_OF_NOBODY),
    ("LimitNotFound", "IdempotencyKeyReused"): Excuse(_KEY_OF_NOBODY),
    ("WalletNotFound", "WalletClosed"): Excuse(_WHAT_IS_NOT_THERE),
    ("WalletNotFound", "WalletFrozen"): Excuse(_WHAT_IS_NOT_THERE),
    ("HoldNotFound", "HoldNotOpen"): Excuse(_WHAT_IS_NOT_THERE),
    ("WalletClosed", "WalletFrozen"): Excuse("A wallet has one status."),
    ("HoldExceeded", "LimitExceeded"): Excuse(_LOWERED_OR_RAISED),
    ("HoldExceeded", "InsufficientBalance"): Excuse(_LOWERED_OR_RAISED),
}
"""Which two cannot hold at once, and why."""


def read_rows() -> list[Row]:
    """Return the rows of the table of refusals, in the order in which they win."""
    found = re.findall(r"^\| (`\w+`[^|]*) \| [^|]+ \| (\S+) \|$", API_FILE.read_text(), re.MULTILINE)
    labels = [(cell.partition(" (")[0].replace("`", ""), kept == "yes") for cell, kept in found]
    return [Row(label, label.partition(" ")[0], is_kept) for label, is_kept in labels]


ROWS: Final = read_rows()


def members_of(mutation: str) -> list[GraphQLObjectType]:
    """Return the members of a mutation's result: the payload, and the refusals that it can be answered with."""
    assert SCHEMA.mutation_type is not None
    union = get_named_type(SCHEMA.mutation_type.fields[mutation].type)
    assert isinstance(union, GraphQLUnionType)
    return list(union.types)


def input_fields(mutation: str) -> set[str]:
    """Return the names of what a mutation can be sent."""
    assert SCHEMA.mutation_type is not None
    input_type = get_named_type(SCHEMA.mutation_type.fields[mutation].args["input"].type)
    assert isinstance(input_type, GraphQLInputObjectType)
    return set(input_type.fields)


def keyed_mutations() -> list[str]:
    """Return the mutations that are sent with a key."""
    assert SCHEMA.mutation_type is not None
    return [str(name) for name in SCHEMA.mutation_type.fields if "idempotencyKey" in input_fields(name)]


def order_of(mutation: str) -> list[str]:
    """Return the labels of the refusals that a mutation can be answered with, in the order in which they win."""
    names = {FAULT, *(member.name for member in members_of(mutation))}
    return [row.label for row in ROWS if row.name in names and not is_never(mutation, row.label)]


def is_never(mutation: str, label: str) -> bool:
    """Say whether a mutation never answers with a row of a refusal that its union has."""
    return label in NEVER and mutation in NEVER[label].mutations


def kept_by(mutation: str) -> list[str]:
    """Return the labels of the refusals that a mutation can keep under a key."""
    kept = {row.label for row in ROWS if row.is_kept}
    return [label for label in order_of(mutation) if label in kept]


def is_excused(mutation: str, *pair: str) -> bool:
    """Say whether two refusals cannot hold at once for a mutation."""
    excuse = EXCUSES.get((pair[0], pair[1]))
    return excuse is not None and (not excuse.only or mutation in excuse.only)


def neighbours(mutation: str) -> list[tuple[str, str]]:
    """Return neighbours, the excused ones too; who cannot meet its neighbour is also put beside the next one.

    So each is shown to win against the nearest later one that it can meet, and to lose against the nearest earlier one.
    """
    order = order_of(mutation)
    forward = set(_nearest(mutation, order))
    backward = {(earlier, later) for later, earlier in _nearest(mutation, order[::-1], backwards=True)}
    place = {label: n for n, label in enumerate(order)}
    return sorted(forward | backward, key=lambda pair: (place[pair[0]], place[pair[1]]))


def played(mutation: str) -> list[tuple[str, str]]:
    """Return the pairs of refusals that are made to hold at once."""
    return [pair for pair in neighbours(mutation) if not is_excused(mutation, *pair)]


def _nearest(mutation: str, order: Sequence[str], *, backwards: bool = False) -> Iterator[tuple[str, str]]:
    for n, label in enumerate(order):
        for other in order[n + 1 :]:
            yield label, other
            if not is_excused(mutation, *((other, label) if backwards else (label, other))):
                break
