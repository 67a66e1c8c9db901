"""Assets: kinds of credit."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Asset:
    """A kind of credit; `scale` is its number of fraction digits and never changes."""

    id: int
    code: str
    name: str
    scale: int
