from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wallet_gql.domain.money import (
    BALANCE_MINOR_MAX,
    POSTING_MINOR_MAX,
    TREASURY_MINOR_MAX,
    AmountFault,
    format_minor,
    parse_decimal,
    to_minor,
)

unhurried = settings(deadline=None)
scales = st.integers(0, 9)
digits = st.text("0123456789", min_size=1, max_size=20)


def is_plain_decimal(text: str) -> bool:
    """The grammar, written a second time: a sign, digits, and perhaps a point with digits after it."""
    parts = text.removeprefix("-").split(".")
    return len(parts) <= 2 and all(part and set(part) <= set("0123456789") for part in parts)


@pytest.mark.parametrize("text", ["0", "7", "007", "-3", "12.50", "0.000000001", "-0", "-0.5", "1" * 5000])
def test_plain_decimal_notation_is_parsed(text: str) -> None:
    assert parse_decimal(text) == Decimal(text)


@pytest.mark.parametrize(
    "text",
    [
        "", "-", ".", ".5", "5.", "-.5", "1.2.3", "--1", "+1", "1e3", "1E3", "1e-3", "0x10", "1_000", "1,000", "1,5",
        " 1", "1 ", "1\n", "\t1", "1\x00", "NaN", "sNaN", "nan", "Infinity", "-inf",
        "\uff11\uff12", "1\uff12", "\u0663", "\u0967", "²", "½",
        "\u22121", "1.\u0665", "$5", "true", "None",
    ],
)  # fmt: skip
def test_any_other_notation_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="plain decimal notation"):
        parse_decimal(text)


@unhurried
@given(st.text("019.-+eE_ \n\uff11\u0663aN", max_size=8))
def test_exactly_the_grammar_is_parsed(text: str) -> None:
    if is_plain_decimal(text):
        assert parse_decimal(text) == Decimal(text)
    else:
        with pytest.raises(ValueError, match="plain decimal notation"):
            parse_decimal(text)


@unhurried
@given(digits, digits, scales)
def test_conversion_is_exact_or_names_the_first_fault_that_applies(whole: str, fraction: str, scale: int) -> None:
    shifted = int(whole + fraction)
    if shifted == 0:
        expected: int | AmountFault = AmountFault.NOT_POSITIVE
    elif len(fraction) > scale:
        expected = AmountFault.TOO_PRECISE
    else:
        exact = shifted * 10 ** (scale - len(fraction))
        expected = exact if exact <= POSTING_MINOR_MAX else AmountFault.TOO_LARGE
    assert to_minor(parse_decimal(f"{whole}.{fraction}"), scale) == expected


@unhurried
@given(st.integers(1, POSTING_MINOR_MAX), scales)
def test_what_is_written_reads_back_as_the_same_minor_units(amount_minor: int, scale: int) -> None:
    assert to_minor(parse_decimal(format_minor(amount_minor, scale)), scale) == amount_minor


@unhurried
@given(st.integers(-TREASURY_MINOR_MAX, TREASURY_MINOR_MAX), scales)
def test_what_is_written_is_exact_with_all_digits_of_the_scale(amount_minor: int, scale: int) -> None:
    text = format_minor(amount_minor, scale)
    assert is_plain_decimal(text)
    assert int(text.replace(".", "")) == amount_minor
    assert len(text.partition(".")[2]) == scale


@pytest.mark.parametrize(
    ("amount_minor", "scale", "text"),
    [
        (800, 0, "800"),
        (-800, 0, "-800"),
        (0, 0, "0"),
        (0, 2, "0.00"),
        (5, 2, "0.05"),
        (-5, 2, "-0.05"),
        (1250, 2, "12.50"),
        (1, 9, "0.000000001"),
        (10**17, 2, "1000000000000000.00"),
    ],
)
def test_minor_units_are_written_with_the_scale_s_digits(amount_minor: int, scale: int, text: str) -> None:
    assert format_minor(amount_minor, scale) == text


@pytest.mark.parametrize(("text", "scale"), [("1", 0), ("1", 2), ("1.0", 2), ("1.00", 2), ("0001.00", 2)])
def test_zeros_that_change_no_value_change_no_amount(text: str, scale: int) -> None:
    assert to_minor(parse_decimal(text), scale) == 10**scale


@pytest.mark.parametrize(
    ("text", "scale", "fault"),
    [
        ("0", 0, AmountFault.NOT_POSITIVE),
        ("-0", 0, AmountFault.NOT_POSITIVE),
        ("-1", 0, AmountFault.NOT_POSITIVE),
        ("0.00", 0, AmountFault.NOT_POSITIVE),
        ("-1.5", 0, AmountFault.NOT_POSITIVE),
        (f"-{'9' * 30}.5", 0, AmountFault.NOT_POSITIVE),
        ("1.0", 0, AmountFault.TOO_PRECISE),
        ("0.001", 2, AmountFault.TOO_PRECISE),
        (f"{'9' * 30}.5", 0, AmountFault.TOO_PRECISE),
        (f"{'9' * 30}.500", 2, AmountFault.TOO_PRECISE),
        ("9" * 30, 0, AmountFault.TOO_LARGE),
        (f"{'9' * 30}.50", 2, AmountFault.TOO_LARGE),
    ],
)
def test_not_positive_wins_over_too_precise_and_that_over_too_large(text: str, scale: int, fault: AmountFault) -> None:
    assert to_minor(parse_decimal(text), scale) is fault


@pytest.mark.parametrize("scale", range(10))
def test_the_most_that_one_posting_moves_is_the_same_number_of_minor_units_in_every_scale(scale: int) -> None:
    assert to_minor(Decimal(POSTING_MINOR_MAX).scaleb(-scale), scale) == POSTING_MINOR_MAX
    assert to_minor(Decimal(POSTING_MINOR_MAX + 1).scaleb(-scale), scale) is AmountFault.TOO_LARGE


def test_digits_are_counted_before_they_are_converted() -> None:
    # As an integer this would need some 400 MB and minutes.
    assert to_minor(Decimal("1E+999999999"), 0) is AmountFault.TOO_LARGE
    assert to_minor(parse_decimal("9" * 200_000), 9) is AmountFault.TOO_LARGE
    assert to_minor(parse_decimal("0." + "9" * 200_000), 9) is AmountFault.TOO_PRECISE


def test_the_limits_are_the_ledger_s_for_ever() -> None:
    assert (POSTING_MINOR_MAX, BALANCE_MINOR_MAX, TREASURY_MINOR_MAX) == (10**15, 10**17, 9 * 10**18)
    # A leg that passes the treasury's bound by one posting still fits 64 bits, so it can be refused, not crash.
    assert TREASURY_MINOR_MAX + POSTING_MINOR_MAX < 2**63
