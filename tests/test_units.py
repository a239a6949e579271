"""Numbers as people write them."""

import pytest

from scaling.study.errors import ConfigError
from scaling.study.units import (
    format_duration,
    format_flops,
    format_quantity,
    format_with_interval,
    parse_quantity,
)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("40M", 40e6),
        ("2.5B", 2.5e9),
        ("1e18", 1e18),
        ("10k", 1e4),
        ("1_000", 1000),
        ("3T", 3e12),
        (7, 7),
        (" 1.5 M ", 1.5e6),
        (".5", 0.5),
    ],
)
def test_parse_reads_what_people_write(text, value):
    assert parse_quantity(text) == value


@pytest.mark.parametrize("text", ["", "M", "40MB", "1e", "4 0M", "nan", "inf", None, True, [1]])
def test_parse_refuses_what_is_no_number(text):
    with pytest.raises(ConfigError, match="budget.tokens: expected a"):
        parse_quantity(text, key="budget.tokens")


@pytest.mark.parametrize("value", [1, 999, 1000, 12_345, 999_999, 1e6, 2.5e9, 7e12, 1234.0])
def test_format_reads_back_within_its_digits(value):
    assert parse_quantity(format_quantity(value)) == pytest.approx(value, rel=5e-3)  # three digits


def test_format_never_shows_a_unit_it_has_outgrown():
    assert format_quantity(999_999) == "1M"
    assert format_quantity(None) == "-"
    assert format_flops(5.76e23) == "5.76e23"
    assert format_duration(200) == "3 min 20 s"


def test_number_is_rounded_by_its_interval():
    assert format_with_interval(0.51389, 0.48, 0.55) == ("0.514", "[0.480, 0.550]")
    assert format_with_interval(1.8172, 1.8171, 1.8173)[0] == "1.81720"
    assert format_with_interval(3.0, None, None) == ("3", "")
