"""Durations: the unit a person thinks in, counted in optimizer steps."""

from __future__ import annotations

import pytest

from sparsify_cli.errors import BadRequest
from sparsify_cli.recipes.duration import Duration


@pytest.mark.parametrize(
    ("text", "steps"),
    [("30ep", 300), ("0.5ep", 5), ("500it", 500), ("0it", 0), ("0.75run", 60), ("1run", 80), ("0.05ep", 0), ("0.15ep", 2), ("0.25ep", 2)],
)
def test_steps(text, steps):
    """Ten steps an epoch, eighty in the run; halves go to the even number: 0.05ep is 0.5 -> 0, 0.15ep 1.5 -> 2, 0.25ep 2.5 -> 2."""
    assert Duration.parse(text).steps(per_epoch=10, total=80) == steps


@pytest.mark.parametrize(
    "text", ["30ep", "0.75run", "500it", "0.00001run", "0.333333333333333333run", "100000000000000000000001it", "0.1ep"]
)
def test_the_text_comes_back_digit_for_digit(text):
    """What is written can be read again and means exactly the same, also where a float would round or write 1e-05."""
    duration = Duration.parse(text)
    assert str(duration) == text
    assert Duration.parse(str(duration)) == duration
    assert Duration.parse(duration) is duration


@pytest.mark.parametrize("text", ["30", "ep", "-1ep", "1e2it", "30 ep", "30epochs", "", ".5run", "1.ep", "1,5ep", "infrun", 3, None])
def test_what_is_no_duration(text):
    """No unit, no number, a sign, another unit: one sentence that shows the three forms."""
    with pytest.raises(BadRequest, match=r"30ep, 500it, 0\.75run"):
        Duration.parse(text)
