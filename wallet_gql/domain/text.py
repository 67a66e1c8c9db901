"""Texts that callers send: owner ids, asset codes, descriptions, references.

Each check raises `BadUserInput` with the field, the value's fault and the remedy, and returns the value unchanged:
nothing is trimmed or normalised behind the caller's back, for two spellings would become one wallet.
"""

import re
import unicodedata
from functools import lru_cache
from typing import Final

from wallet_gql.domain.errors import BadUserInput

OWNER_ID_LENGTH_MAX: Final = 128
TEXT_LENGTH_MAX: Final = 500

# Beside the category Cf: what Unicode lets a font leave out (Default_Ignorable_Code_Point), and the blank of Braille.
_INVISIBLE: Final = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2065\u2800\u3164\ufe00-\ufe0f\uffa0\ufff0-\ufff8\U000e0000-\U000e0fff]"
)

_ASSET_CODE: Final = re.compile(r"[A-Z][A-Z0-9_]{0,31}", re.ASCII)


@lru_cache(maxsize=65_536)
def check_owner_id(owner_id: str, field: str = "ownerId") -> str:
    """Accept 1 to 128 characters in NFC without control characters or surrounding blanks; case matters."""
    if not 1 <= len(owner_id) <= OWNER_ID_LENGTH_MAX:
        raise BadUserInput(field, f"has {len(owner_id)} characters", f"send 1 to {OWNER_ID_LENGTH_MAX}")
    if owner_id != owner_id.strip():
        raise BadUserInput(field, "begins or ends with a blank", "send the id without surrounding blanks")
    # Cc: controls, NUL among them; Cs: lone surrogates, which no UTF-8 can carry; Zl and Zp: line separators.
    if any(unicodedata.category(character) in {"Cc", "Cs", "Zl", "Zp"} for character in owner_id):
        raise BadUserInput(field, "contains a control character", "send printable characters only")
    if not unicodedata.is_normalized("NFC", owner_id):
        raise BadUserInput(field, "is not in Unicode normalization form C", "send the id in NFC")
    return owner_id


def find_invisible(owner_id: str) -> str | None:
    """Return an owner id's first character that cannot be seen, if it has one: such ids look like another owner's."""
    if owner_id.isascii():
        return None
    return next((each for each in owner_id if unicodedata.category(each) == "Cf" or _INVISIBLE.match(each)), None)


def check_text(text: str | None, field: str) -> str | None:
    """Accept nothing, or at most 500 characters without NUL."""
    if text is None:
        return None
    if len(text) > TEXT_LENGTH_MAX:
        raise BadUserInput(field, f"has {len(text)} characters", f"send at most {TEXT_LENGTH_MAX}")
    if "\x00" in text:
        raise BadUserInput(field, "contains NUL", "send text without U+0000")
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        raise BadUserInput(field, "contains a lone surrogate", "send well-formed Unicode")
    return text


def is_asset_code(code: str) -> bool:
    """Say whether a string can be an asset's code: a capital letter, then at most 31 capitals, digits and `_`."""
    return _ASSET_CODE.fullmatch(code) is not None
