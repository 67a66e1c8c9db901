"""Texts that callers send: owner ids, asset codes, descriptions, references, receipts, metadata.

Each check raises `BadUserInput` with the field, the value's fault and the remedy, and returns the value unchanged:
nothing is trimmed or normalised behind the caller's back, for two spellings would become one wallet.
"""

import re
import unicodedata
from collections.abc import Mapping
from functools import lru_cache
from typing import Final, TypeAlias

from wallet_gql.domain.errors import BadUserInput

OWNER_ID_LENGTH_MAX: Final = 128
TEXT_LENGTH_MAX: Final = 500
RECEIPT_LENGTH_MAX: Final = 200
CAMPAIGN_LENGTH_MAX: Final = 100

METADATA_PAIRS_MAX: Final = 20
METADATA_VALUE_LENGTH_MAX: Final = 500
METADATA_BYTES_MAX: Final = 4096
"""Of all keys and values together, in UTF-8."""

Metadata: TypeAlias = tuple[tuple[str, str], ...]
"""Pairs of texts, sorted by key; empty is the same as none."""

_METADATA_KEY: Final = re.compile(r"[A-Za-z0-9_.-]{1,40}", re.ASCII)

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


def check_reason(text: str | None, field: str) -> str:
    """Accept 1 to 500 characters without NUL that say something: who reads the books later must learn why."""
    reason = check_text(text, field)
    if reason is None or not reason.strip():
        raise BadUserInput(field, "is blank", "say why, for people to read")
    return reason


def check_receipt(receipt: str | None) -> str | None:
    """Accept nothing, or 1 to 200 characters without NUL."""
    if receipt is None:
        return None
    if not 1 <= len(receipt) <= RECEIPT_LENGTH_MAX:
        raise BadUserInput("receipt", f"has {len(receipt)} characters", f"send 1 to {RECEIPT_LENGTH_MAX}")
    return check_text(receipt, "receipt")


def check_campaign(campaign: str | None) -> str | None:
    """Accept nothing, or 1 to 100 characters without NUL."""
    if campaign is None:
        return None
    if not 1 <= len(campaign) <= CAMPAIGN_LENGTH_MAX:
        raise BadUserInput("campaign", f"has {len(campaign)} characters", f"send 1 to {CAMPAIGN_LENGTH_MAX}")
    return check_text(campaign, "campaign")


def check_metadata(pairs: Mapping[str, object]) -> Metadata:
    """Accept a flat object of texts within its bounds; returns its pairs, sorted by key."""
    if not pairs:
        return ()
    if len(pairs) > METADATA_PAIRS_MAX:
        raise BadUserInput("metadata", f"has {len(pairs)} pairs", f"send at most {METADATA_PAIRS_MAX}")
    checked = []
    for key, value in sorted(pairs.items()):
        if _METADATA_KEY.fullmatch(key) is None:
            raise BadUserInput(
                "metadata", "has a key that is malformed", "use 1 to 40 letters, digits, full stops, hyphens and _"
            )
        if not isinstance(value, str):
            raise BadUserInput(f"metadata.{key}", "is not a string", "send flat pairs of strings")
        if not 1 <= len(value) <= METADATA_VALUE_LENGTH_MAX:
            raise BadUserInput(
                f"metadata.{key}", f"has {len(value)} characters", f"send 1 to {METADATA_VALUE_LENGTH_MAX}"
            )
        check_text(value, f"metadata.{key}")
        checked.append((key, value))
    size = sum(len(key.encode()) + len(value.encode()) for key, value in checked)
    if size > METADATA_BYTES_MAX:
        raise BadUserInput("metadata", f"has {size} bytes of keys and values", f"send at most {METADATA_BYTES_MAX}")
    return tuple(checked)


def is_asset_code(code: str) -> bool:
    """Say whether a string can be an asset's code: a capital letter, then at most 31 capitals, digits and `_`."""
    return _ASSET_CODE.fullmatch(code) is not None
