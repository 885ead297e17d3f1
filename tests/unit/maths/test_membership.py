"""Attacks on models whose answers are made up, so that what an attacker can tell is known."""

from __future__ import annotations

import math

import pytest
import torch
from sklearn.metrics import roc_auc_score

from sparsify_cli.maths.intervals import Estimate
from sparsify_cli.maths.membership import among, attack_auc, attacks, mixed_alike, signals, strongest


def answers(margins, label=0):
    """Two-class logits (margin, 0), all of one class."""
    logits = torch.stack([torch.tensor(margins), torch.zeros(len(margins))], dim=1)
    return logits, torch.full((len(margins),), label)


def test_signals_of_known_probabilities():
    """P = 3/4 for the true class: loss log 4/3, entropy of (3/4, 1/4), margin log 3, right."""
    found = {name: float(value[0]) for name, value in signals(*answers([math.log(3.0)])).items()}
    entropy = 0.75 * math.log(0.75) + 0.25 * math.log(0.25)
    wanted = {"loss": math.log(0.75), "confidence": 0.75, "entropy": entropy, "margin": math.log(3), "correct": 1.0}
    assert found == pytest.approx(wanted, rel=1e-6)


def test_certain_answers_stay_finite_where_they_can():
    """A probability of one has entropy zero, not a NaN."""
    found = signals(*answers([2000.0, -2000.0]))
    assert found["entropy"].tolist() == [0.0, 0.0]
    assert found["loss"].tolist() == [0.0, -2000.0]
    assert found["correct"].tolist() == [1.0, 0.0]


def test_auc_is_that_of_scikit_learn_and_its_interval_holds_it():
    """Overlapping scores with ties."""
    generator = torch.Generator().manual_seed(0)
    forgotten = torch.arange(200) < 80
    scores = (torch.randn(200, generator=generator, dtype=torch.float64) + forgotten).round(decimals=1)
    found = attack_auc(scores, forgotten)
    assert found.value == pytest.approx(roc_auc_score(forgotten, scores), abs=1e-12)
    assert found.low < found.value < found.high <= 1.0


def test_interval_covers_the_truth():
    """Both sides alike: 95 % intervals hold 0.5 in about 95 % of 400 draws."""
    generator, forgotten = torch.Generator().manual_seed(4), torch.arange(60) < 30
    draws = [attack_auc(torch.randn(60, generator=generator, dtype=torch.float64), forgotten) for _ in range(400)]
    assert 0.91 <= sum(one.low <= 0.5 <= one.high for one in draws) / 400 <= 0.98


def test_memorised_samples_are_found_and_unknown_ones_are_not():
    """Forgotten margins of 6 against 1: every attack but the right answer tells them; the same margins: none does."""
    noise = torch.randn(120, generator=torch.Generator().manual_seed(1)) * 0.3
    forgotten = torch.arange(120) < 60
    logits, targets = answers((torch.where(forgotten, 6.0, 1.0) + noise).tolist())
    known = attacks(logits, targets, forgotten)
    assert all(known[name].value > 0.95 for name in ("loss", "confidence", "entropy", "margin", "learned"))
    assert known["correct"].value == pytest.approx(0.5, abs=0.01)
    same = attacks(*answers((2 + noise).tolist()), forgotten)
    assert all(one.low <= 0.5 <= one.high or abs(one.value - 0.5) < 0.12 for one in same.values())


def test_over_unlearning_shows_below_one_half():
    """Forgotten samples answered worse than unseen ones."""
    noise = torch.randn(100, generator=torch.Generator().manual_seed(2)) * 0.3
    forgotten = torch.arange(100) < 50
    found = attacks(*answers((torch.where(forgotten, -2.0, 3.0) + noise).tolist()), forgotten)
    assert found["loss"].high < 0.1
    assert strongest(found) in ("loss", "margin", "correct", "confidence", "entropy", "learned")


def test_too_few_samples_are_not_measured():
    """Nine forgotten ones."""
    assert attacks(*answers([1.0] * 40), torch.arange(40) < 9) == {}


def test_strongest_is_what_differs_beyond_its_interval():
    """An interval away from one half goes before a larger number with a wide one."""
    found = {"a": Estimate(0.7, 0.45, 0.95), "b": Estimate(0.6, 0.55, 0.65), "c": Estimate(0.35, 0.3, 0.4)}
    assert strongest(found) == "c"
    assert strongest({name: found[name] for name in "ab"}) == "b"
    assert strongest({"a": found["a"], "d": Estimate(0.5, 0.4, 0.6)}) == "a"


def test_unseen_samples_are_mixed_like_the_forgotten():
    """Forgotten: class 0 twice as often as class 1, none of class 2. There are 10 of each: 10 and 5 are taken."""
    targets, like = torch.arange(30) % 3, torch.tensor([0, 0, 1] * 4)
    taken, compared = mixed_alike(targets, like, 0)
    assert torch.bincount(targets[taken], minlength=3).tolist() == [10, 5, 0]
    assert torch.equal(taken, taken.sort().values)
    assert torch.equal(taken, mixed_alike(targets, like, 0)[0])
    assert compared.tolist() == list(range(12))


def test_a_rare_class_does_not_cut_down_the_others():
    """Of 51 forgotten samples one is of class 1, of which a fifth of a sample would be unseen: both sides leave it out."""
    targets, like = torch.tensor([0] * 100 + [1] * 0 + [2] * 30), torch.tensor([0] * 50 + [1])
    taken, compared = mixed_alike(targets, like, 0)
    assert torch.bincount(targets[taken], minlength=3).tolist() == [100, 0, 0]
    assert compared.tolist() == list(range(50))


def test_what_most_forgotten_samples_are_is_never_left_out():
    """111 of class 3 and one of class 5, 36 unseen of each: class 3 is compared, not the class of which there are plenty."""
    targets, like = torch.tensor([3] * 36 + [5] * 36), torch.tensor([3] * 111 + [5])
    taken, compared = mixed_alike(targets, like, 0)
    assert int((targets[taken] == 3).sum()) == 36
    assert set(like[compared].tolist()) >= {3}


def test_classes_without_unseen_samples_cannot_be_compared():
    """Nothing in common: nothing on either side."""
    taken, compared = mixed_alike(torch.tensor([0, 0]), torch.tensor([1, 1]), 0)
    assert (taken.tolist(), compared.tolist()) == ([], [])


def test_interval_of_the_strongest_holds_for_all():
    """No attack can tell anything: of the strongest of six, 0.5 is outside its own interval far more often than outside the widened one."""
    generator, forgotten = torch.Generator().manual_seed(5), torch.arange(300) < 150
    own = wide = 0
    for _ in range(200):
        found = {str(i): attack_auc(torch.randn(300, generator=generator, dtype=torch.float64), forgotten) for i in range(6)}
        one = found[strongest(found)]
        own += not one.low <= 0.5 <= one.high
        wide += not among(one, 6).low <= 0.5 <= among(one, 6).high
    assert own / 200 > 0.15
    assert wide / 200 < 0.1


def test_a_learned_attack_that_learned_nothing_is_no_evidence():
    """Below 0.5 it learned what does not hold on other samples: another attack goes before it, however far below it is."""
    found = {"loss": Estimate(0.52, 0.45, 0.59), "learned": Estimate(0.3, 0.2, 0.4)}
    assert strongest(found) == "loss"
    assert strongest({"loss": found["loss"], "learned": Estimate(0.7, 0.6, 0.8)}) == "learned"
