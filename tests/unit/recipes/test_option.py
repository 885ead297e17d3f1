"""Field types: sparsities are exact, strategies are names with options, lists are lists."""

from __future__ import annotations

from fractions import Fraction

import pytest

from sparsify_cli.errors import BadRequest
from sparsify_cli.recipes.option import Choice, decimal, parse_sparsity


@pytest.mark.parametrize(
    ("value", "exact"),
    [
        ("0.9", Fraction(9, 10)),
        (0.1, Fraction(1, 10)),
        ("9e-1", Fraction(9, 10)),
        (0, Fraction(0)),
        (1, Fraction(1)),
        ("0.333", Fraction(333, 1000)),
        ("0.1234567890123456", Fraction(1234567890123456, 10**16)),
        (Fraction(1, 3), Fraction(1, 3)),
    ],
)
def test_a_sparsity_is_read_exactly(value, exact):
    """A float is read through the decimal a person sees: 0.1 is 1/10, not the nearest binary number."""
    assert parse_sparsity(value) == exact


@pytest.mark.parametrize("value", ["nine", "", "nan", "inf", "1/3", True, None, [0.5], "0,9", "90%"])
def test_what_is_no_number(value):
    """Words, percent signs, commas and lists are refused with a number one can copy."""
    with pytest.raises(BadRequest, match=r"is not a number.*0\.9"):
        parse_sparsity(value)


@pytest.mark.parametrize(("value", "hint"), [(90, "For 90% write 0.9"), (1.5, "For 1.5% write 0.015"), (-0.1, "0 keeps"), (101, "0 keeps")])
def test_outside_zero_to_one(value, hint):
    """A percentage is answered with the fraction it means."""
    with pytest.raises(BadRequest) as caught:
        parse_sparsity(value)
    assert hint in str(caught.value)


@pytest.mark.timeout(5)
@pytest.mark.parametrize("value", ["1e-999999999", "1e999999999", "0e-999999999"])
def test_an_absurd_exponent_is_refused_at_once(value):
    """A number with a billion digits is not written out to find that it is no sparsity."""
    with pytest.raises(BadRequest):
        parse_sparsity(value)


@pytest.mark.parametrize("text", ["0.9", "0", "1", "0.00001", "0.1234567890123456789", "0.5"])
def test_decimals_are_written_digit_for_digit(text):
    """What a person wrote is what the manifest keeps."""
    assert decimal(Fraction(text)) == text


def test_a_fraction_without_end_is_rounded():
    """1/3 has no last digit; twelve are written."""
    assert decimal(Fraction(1, 3)) == "0.333333333333"


def test_a_choice_is_a_name_or_a_mapping():
    """Both forms are read, and the shorter one is written where there are no options."""
    assert Choice.parse("gmp") == Choice("gmp") == Choice.parse({"name": "gmp"}) == Choice.parse(Choice("gmp"))
    assert Choice.parse({"name": "gmp", "every": "50it"}) == Choice("gmp", {"every": "50it"})
    assert Choice("gmp").to_plain() == "gmp"
    assert Choice("gmp", {"every": "50it"}).to_plain() == {"name": "gmp", "every": "50it"}


@pytest.mark.parametrize("value", [3, None, ["gmp"], {"every": "50it"}, {"name": 3}])
def test_what_names_no_strategy(value):
    """A mapping without a name is not guessed at."""
    with pytest.raises(BadRequest, match="names no strategy"):
        Choice.parse(value)
