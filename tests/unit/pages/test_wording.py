"""Numbers as words."""

from __future__ import annotations

import pytest

from sparsify_cli.pages import wording
from sparsify_cli.values.report import Finding

M = "\u2212"


@pytest.mark.parametrize(
    ("fraction", "text"),
    [(0.9, "90.0 %"), (0.9123, "91.2 %"), (1.0, "100.0 %"), (0.0, "0.0 %"), (0.99996, ">99.9 %"), (0.0004, "<0.1 %")],
)
def test_percent(fraction, text):
    """One decimal, and a limit that is not reached is not claimed."""
    assert wording.percent(fraction) == text


@pytest.mark.parametrize(
    ("fraction", "text"), [(-0.006, f"{M}0.6 points"), (0.005, "+0.5 points"), (-0.0001, "0.0 points"), (0.0, "0.0 points")]
)
def test_points(fraction, text):
    """A change has a sign unless it rounds to zero."""
    assert wording.points(fraction) == text


@pytest.mark.parametrize(
    ("value", "text"), [(999, "999 bytes"), (23104, "23.1 kB"), (158312, "158 kB"), (1.5e6, "1.50 MB"), (3e9, "3.00 GB"), (0, "0 bytes")]
)
def test_size(value, text):
    """Bytes in steps of a thousand with three significant digits."""
    assert wording.size(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.41234, "0.412"), (12.345, "12.3"), (1234.5, "1,234"), (0.0, "0"), (-0.05, f"{M}0.0500"), (1e-9, f"1.00e{M}09"), (9.999, "10.0")],
)
def test_significant(value, text):
    """Three significant digits, also where rounding adds a digit."""
    assert wording.significant(value) == text


def change(value, low=None, high=None, better="higher", unit="fraction"):
    """A finding of a change."""
    return Finding(name="accuracy", value=value, unit=unit, low=low, high=high, better=better, of="change")


@pytest.mark.parametrize(
    ("finding", "judgement"),
    [
        (change(-0.1, -0.2, -0.01), "worse"),
        (change(0.1, 0.01, 0.2), "better"),
        (change(0.1, 0.01, 0.2, better="lower"), "worse"),
        (change(0.1, 0.01, 0.2, better="neither"), "higher"),
        (change(-0.1, -0.2, -0.1, better="neither"), "lower"),
        (change(-0.1, -0.2, 0.0), "noise"),
        (change(0.0, 0.0, 0.0), "same"),
        (change(-0.1), "unsure"),
        (change(0.0), "same"),
        (change(None), "unknown"),
        (change(float("nan")), "unknown"),
        (None, "unknown"),
    ],
)
def test_judge(finding, judgement):
    """Worse and better only when the interval leaves zero out, in the direction the metric says is good."""
    assert wording.judge(finding) == judgement


def test_interval_repeats_no_unit():
    """The unit is beside the value; the interval holds numbers only, with equal decimals."""
    assert wording.interval(change(-0.006, -0.017, 0.005)) == f"{M}1.7 … +0.5"
    assert wording.interval(change(0.009, -0.0013, 0.0193, unit="nats")) == f"{M}0.001 … +0.019"
    assert wording.interval(Finding(name="latency_ms", value=0.4, unit="ms", low=0.39, high=0.4512)) == "0.390 … 0.451"
    assert wording.interval(change(0.1)) == ""


def test_an_interval_shows_on_which_side_of_zero_it_ends():
    """More decimals only where an end would round to zero, three at most; zero itself has none."""
    assert wording.interval(change(-0.006, -0.012, -0.0003)) == f"{M}1.20 … {M}0.03"
    assert wording.interval(change(-0.006, -0.012, -0.000012)) == f"{M}1.200 … {M}0.001"
    assert wording.interval(change(-0.006, -0.012, -0.000001)) == f"{M}1.200 … 0.000"
    assert wording.interval(change(-0.006, -0.012, 0.0)) == f"{M}1.2 … 0.0"


def test_spoken_says_why_there_is_no_number():
    """Absent and undefined are two different things."""
    assert wording.spoken(None) == "not measured"
    assert wording.spoken(change(None)) == "not enough data"
    assert wording.spoken(change(float("inf"))) == "not enough data"


def test_amounts_of_every_unit():
    """Each unit has its own way of being written; whole numbers keep all digits, measured times do not."""
    assert [wording.amount(4260, "weights"), wording.amount(2.0, "ms")] == ["4,260 weights", "2.00 ms"]
    assert [wording.amount(38762, ""), wording.amount(12, "samples"), wording.amount(2.5, "furlongs")] == [
        "38,762",
        "12 samples",
        "2.50 furlongs",
    ]
    assert wording.amount(0.0371, "", change=True) == "+0.037"


def test_clean_and_shorten():
    """Control characters, bidirectional overrides and lone surrogates are shown as replaced; long names keep both ends."""
    assert wording.clean("a\x00b\u202ec\udc80d\n") == "a\ufffdb\ufffdc\ufffdd\n"
    assert wording.shorten("abcdefghij", 5) == "ab…ij"
    assert wording.shorten("abc", 5) == "abc"


def test_one_of_a_kind_is_singular():
    """`1 tensor`, `0 tensors`, `2 tensors`; a millisecond keeps its s."""
    assert [wording.amount(value, "tensors") for value in (0.0, 1.0, 2.0)] == ["0 tensors", "1 tensor", "2 tensors"]
    assert wording.amount(1.0, "ms") == "1.00 ms"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("conv1.weight", "conv1"),
        ("model.layers.0.self_attn.q_proj.weight", "…0.self_attn.q_proj"),
        ("model.layers.11.mlp.gate_up_proj.weight", "…11.mlp.gate_up_proj"),
        ("a_very_long_name_of_a_single_layer.weight", "…a_very_lon…ngle_layer"),
    ],
)
def test_layers_are_told_apart_by_the_end_of_their_names(name, said):
    """Whole parts go in front, as many as have to."""
    assert wording.layer_name(name) == said and len(said) <= 22
