"""The first screen in words."""

from __future__ import annotations

from dataclasses import replace

from sparsify_cli.pages import verdict
from sparsify_cli.pages.view import Stage
from sparsify_cli.values.report import Finding, Report
from tests.unit.pages.fakes import compressed, view

M = "\u2212"


def about(report, verb="prune"):
    """The view of a stage with this report."""
    return view(stages=(view().stages[0], Stage("it", verb, "", {}, report)), subject=1)


def test_verdict_within_noise():
    """The sentence that was asked for, word by word."""
    said = f"90 % of the prunable weights are gone; accuracy fell by 0.6 points (95 % interval {M}1.7 … +0.5): within noise."
    assert verdict.verdict(view()) == said


def test_verdict_worse_better_and_unchanged():
    """An interval that leaves zero out is called by its name."""
    assert verdict.verdict(about(compressed(-0.1, -0.15, -0.05))).endswith(f"fell by 10.0 points (95 % interval {M}15.0 … {M}5.0): worse.")
    assert verdict.verdict(about(compressed(0.02, 0.01, 0.03))).endswith("rose by 2.0 points (95 % interval +1.0 … +3.0): better.")
    assert "accuracy is unchanged" in verdict.verdict(about(compressed(0.0, -0.01, 0.01)))


def test_verdict_without_numbers():
    """A page without measurements says so."""
    assert verdict.verdict(about(Report())) == "Stage 'it'; there is not enough data to say what it did to accuracy."
    assert verdict.verdict(view(subject=0)) == "This is the dense model itself: accuracy 97.8 %."


def test_verdict_of_unlearning_speaks_of_what_was_forgotten():
    """Forget, retain and test accuracy, before and after."""
    numbers = {"forget_before": 0.98, "forget_after": 0.02, "test_before": 0.97, "test_after": 0.96}
    report = Report(tuple(Finding(name=f"accuracy_{k}", value=v, unit="fraction") for k, v in numbers.items()))
    said = "Unlearning took accuracy on what should be forgotten from 98.0 % to 2.0 %; on the test data from 97.0 % to 96.0 %."
    assert verdict.verdict(about(report, "unlearn")) == said


def test_who_pays_counts_what_chance_would_give():
    """Two compared, one beyond noise; 2 x 2.5 % = 0.05 would be by chance."""
    said = verdict.who_pays(view())
    assert said.startswith(f"Class 8 pays most: {M}10.0 points (95 % interval {M}18.0 … {M}2.0, 360 samples). 1 of 2 ")
    assert "by chance alone about 0.1 would be" in said
    assert verdict.who_pays(about(Report())) == ""


def test_gaps_that_grew_are_on_the_first_screen():
    """Of three gaps of group columns two grew beyond noise; what is about a single group or one answer is no gap of a column."""

    def gap(name: str, scope: str, value: float, low: float) -> Finding:
        named = f"fairness_gaps_{name}"
        return Finding(name=named, value=value, low=low, high=0.2, of="change", unit="fraction", better="lower", scope=scope, n=99)

    found = (
        gap("demographic_parity", "group:race", 0.043, 0.017), gap("equal_opportunity", "group:race&sex", 0.051, 0.013),
        gap("equalised_odds", "group:sex", 0.03, -0.01), gap("demographic_parity", "class:3", 0.5, 0.4),
    )  # fmt: skip
    said = verdict.who_pays(about(Report((*compressed(), *found))))
    assert (
        "2 of 3 gaps between groups grew beyond noise, where by chance alone about 0.1 would, and " in said
        and "race and sex: +5.1 points (95 % interval +1.3 … +20.0)" in said
    )
    assert "gaps" not in verdict.who_pays(view())


def test_many_comparisons_are_taken_together():
    """Of 20 classes one that is worse at p = 0.016 is so by itself and not among 20; at p < 0.001 it is."""

    def sure(low: float, high: float) -> int:
        changes = [Finding(name="accuracy", value=-0.1, low=low, high=high, of="change", better="higher", n=100)]
        changes += [replace(changes[0], value=0.01, low=-0.05, high=0.07)] * 19
        return sum(verdict._surely(changes))

    assert sure(-0.181, -0.019) == 0
    assert sure(-0.15, -0.05) == 1
    assert "beyond doubt, all 2 comparisons taken together" in verdict.who_pays(view())


def test_speed_is_honest():
    """About equal: not faster, and why. Clearly below or above: faster or slower. Either direction of the ratio is read."""
    assert verdict.speed(view()).sentence == "Not faster (1.0× the dense time): dense kernels do not skip zeros."

    def ratio(value, better="lower", low=None, high=None):
        return verdict.speed(about(Report((Finding(name="latency_ratio", value=value, better=better, low=low, high=high),))))

    assert (ratio(0.5).judgement, ratio(0.5).sentence) == ("better", "2.0× faster than the dense model on this machine.")
    assert ratio(2.0, better="higher").judgement == "better"
    assert (ratio(1.5).judgement, ratio(1.5, low=0.8, high=2.0).judgement) == ("worse", "same")
    assert verdict.speed(about(Report())).judgement == "unknown"


def test_five_cards():
    """Always five, in the same order, with 158312 / 23104 = 6.85 times smaller."""
    cards = verdict.cards(view())
    assert [card.value for card in cards] == ["90.0 %", "97.2 %", f"{M}0.6 points", "23.1 kB", "0.413 ms"]
    assert (cards[3].exact, cards[3].meaning) == ("23,104 bytes", "packed, 6.9× smaller. Dense file: 158 kB.")
    assert [card.value for card in verdict.cards(about(Report()))] == ["not measured"] * 5


def test_zero_bytes_and_zero_time_divide_nothing():
    """Odd zeros give words instead of a division error."""
    zeros = Report(tuple(replace(f, value=0.0) for f in compressed()))
    assert verdict.cards(about(zeros))[3].meaning.startswith("No dense file")
    assert verdict.speed(about(zeros)).ratio is None
