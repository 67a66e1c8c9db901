"""Holds as tests ask for them."""

from dataclasses import replace
from decimal import Decimal
from typing import Any
from uuid import uuid4

from wallet_gql.domain.holds import Hold
from wallet_gql.domain.postings import Held
from wallet_gql.operations.holds import ChangeHoldInput, PlaceHoldInput


def place(owner: str, amount: int, **more: Any) -> PlaceHoldInput:
    return replace(PlaceHoldInput(owner, "GOLD", Decimal(amount), uuid4()), **more)


def change(hold: Hold, amount: int | None = None, **more: Any) -> ChangeHoldInput:
    asked = ChangeHoldInput(hold.name, "shown", uuid4(), None if amount is None else Decimal(amount))
    return replace(asked, **more)


def held(outcome: object, *, again: bool = False) -> Hold:
    assert isinstance(outcome, Held), outcome
    assert outcome.already_processed is again
    return outcome.hold
