"""Numbers as people write and read them."""

import re

import pytest

from trimtab.api import quantities as q


@pytest.mark.parametrize(
    ("parse", "text", "value"),
    [
        (q.parse_percent, "1%", 0.01),
        (q.parse_percent, "0.25%", 0.0025),
        (q.parse_duration, "5ms", 0.005),
        (q.parse_duration, "1h30m", 5400),
        (q.parse_duration, "250us", 0.00025),
        (q.parse_quantity, "20Mi", 20 * 2**20),
        (q.parse_quantity, "1.5k", 1500),
        (q.parse_quantity, "42", 42),
        (q.parse_amount, "2", 2),
        (q.parse_amount, "500m", 0.5),
        (q.parse_amount, "1.5Gi", 1.5 * 2**30),
        (q.parse_amount, "100n", 1e-7),
        (q.parse_amount, "1E", 10**18),
        (q.parse_amount, "1E3", 1000),
        (q.parse_amount, "25e-1", 2.5),
        (q.parse_amount, "1e999999999", 2**63 - 1),
        (q.parse_amount, "8Ei", 2**63 - 1),
        (q.parse_amount, "0.1n", 1e-9),
    ],
)
def test_parse(parse, text: str, value: float) -> None:
    assert float(parse(text)) == pytest.approx(value)


@pytest.mark.parametrize(
    ("parse", "text"),
    [
        (q.parse_percent, "1"),
        (q.parse_percent, "one%"),
        (q.parse_duration, "5"),
        (q.parse_duration, "5 ms"),
        (q.parse_duration, "100000h"),
        (q.parse_quantity, "20MB"),
        (q.parse_quantity, "-1"),
        (q.parse_amount, "1GB"),
    ],
)
def test_a_wrong_unit_is_named_with_the_right_one(parse, text: str) -> None:
    with pytest.raises(ValueError, match=f"{re.escape(repr(text))} is not an? .* such as"):
        parse(text)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.1 + 0.2, "0.3"), (3163737, "3163737"), (3163737.5, "3163740"), (1.65e-5, "0.0000165"), (0, "0"), (1.0, "1")],
)
def test_a_number_for_the_api_has_six_digits_and_no_exponent(value: float, text: str) -> None:
    assert q.decimal(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(9.94903e-15, "9.94903e-15"), (-1.5e-20, "-1.50000e-20"), (2.5e25, "2.50000e25"), (1e-13, "0.0000000000001")],
)
def test_a_number_too_small_or_too_large_for_its_zeros_has_an_exponent(value: float, text: str) -> None:
    assert q.decimal(value) == text
    assert q.parse_decimal(text) == value


@pytest.mark.parametrize(
    ("show", "value", "text"),
    [
        (q.show_duration, 0.00123, "1.23ms"),
        (q.show_duration, 1.65e-5, "16.5us"),
        (q.show_duration, 90, "90s"),
        (q.show_duration, 7200, "2h"),
        (q.show_quantity, 3163737, "3.02Mi"),
        (q.show_quantity, 10, "10"),
        (q.show_percent, 0.9531, "95.3%"),
        (q.show_percent, 0.99981, "99.98%"),
        (q.show_percent, 0.999999999, "100%"),
        (q.show_percent, 1.0, "100%"),
    ],
)
def test_show(show, value: float, text: str) -> None:
    assert show(value) == text
