"""Amounts: 64-bit integers of an asset's minor units inside, exact decimal strings outside.

Nothing here rounds. What does not fit an asset's scale is refused with its reason.
"""

import re
from decimal import Decimal
from enum import Enum
from typing import Final

INT64_MAX: Final = 2**63 - 1
"""The largest number that a column or a JSON decoder holds exactly."""

POSTING_MINOR_MAX: Final = 10**15
"""The most that one posting moves, in minor units."""

BALANCE_MINOR_MAX: Final = 10**17
"""The most that an owner's account holds, in minor units."""

MINOR_MAX: Final = 10**18
"""The most that the database lets an entry move or an owner's account hold: above the rules, inside the arithmetic."""

TREASURY_MINOR_MAX: Final = 9 * 10**18
"""The furthest that a treasury stripe goes from zero, in minor units: just inside 64 bits."""

# ASCII digits only: \d would also take full-width and Arabic-Indic digits.
_DECIMAL: Final = re.compile(r"-?[0-9]+(?:\.[0-9]+)?", re.ASCII)


class AmountFault(Enum):
    """Why an amount that parses cannot be posted, in the order in which they win."""

    NOT_POSITIVE = "NOT_POSITIVE"
    TOO_PRECISE = "TOO_PRECISE"
    TOO_LARGE = "TOO_LARGE"


def parse_decimal(text: str) -> Decimal:
    """Parse plain decimal notation (`"12.50"`, `"-3"`); raises ValueError for anything else.

    The digits written after the point are kept: they decide whether an amount is too precise.
    """
    if _DECIMAL.fullmatch(text) is None:
        raise ValueError("not a number in plain decimal notation")
    return Decimal(text)


def to_minor(amount: Decimal, scale: int) -> int | AmountFault:
    """Convert an amount to minor units of an asset with `scale` fraction digits, or say why it cannot be posted."""
    if amount <= 0:
        return AmountFault.NOT_POSITIVE
    _, digits, exponent = amount.as_tuple()
    assert isinstance(exponent, int)  # parse_decimal lets no NaN or infinity pass
    if -exponent > scale:
        return AmountFault.TOO_PRECISE
    # Digits are counted before they are converted: thousands of them must cost nothing.
    if len(digits) + exponent + scale > 16:
        return AmountFault.TOO_LARGE
    amount_minor = int(amount.scaleb(scale))
    return AmountFault.TOO_LARGE if amount_minor > POSTING_MINOR_MAX else amount_minor


def format_minor(amount_minor: int, scale: int) -> str:
    """Write minor units as a decimal with exactly `scale` fraction digits: `1250` at scale 2 is `"12.50"`."""
    if scale == 0:
        return str(amount_minor)
    sign = "-" if amount_minor < 0 else ""
    digits = str(abs(amount_minor)).rjust(scale + 1, "0")
    return f"{sign}{digits[:-scale]}.{digits[-scale:]}"
