"""Rows as the database is given them."""

from uuid import UUID

import pytest

from wallet_gql.ledger.columns import arrays
from wallet_gql.ledger.rows import NoteRow, WalletRow


def test_lines_are_one_text() -> None:
    assert arrays(WalletRow, [WalletRow(1, 1, "a b"), WalletRow(2, 1, "NULL")]) == ["{1,2}", "{1,1}", "a b\nNULL"]
    assert arrays(WalletRow, []) == ["{}", "{}", ""]


@pytest.mark.parametrize("owner_id", ["a\nb", "\n", "a\n"])
def test_what_would_be_two_lines_is_never_sent(owner_id: str) -> None:
    with pytest.raises(ValueError, match="line break"):
        arrays(WalletRow, [WalletRow(1, 1, "a"), WalletRow(2, 1, owner_id)])


def test_a_name_that_was_never_checked_spoils_nobody_s_batch() -> None:
    """A key's name comes from a table that its owner may change by hand."""
    names = arrays(
        NoteRow, [NoteRow(1, UUID(int=n), None, None, 1, name, "r-1") for n, name in enumerate(["a\nb", ""])]
    )
    assert ("a\nb", "") in names
