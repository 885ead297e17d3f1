"""Predictions of attributes: each is a choice of its own, and every metric means the same as for two classes."""

from __future__ import annotations

import pytest
import torch
from sklearn.metrics import roc_auc_score

from sparsify_cli.contracts.metric import Evidence, Truth
from sparsify_cli.errors import BadData
from sparsify_cli.maths.exemplars import exemplar_ids
from sparsify_cli.stages.measure import measure_all, train_marginals
from sparsify_cli.values.arrays import samples_from
from sparsify_cli.values.predictions import Predictions

N, NAMES = 300, ("smiling", "young", "pale")


def told(seed: int = 0, *, worse: float = 0.0) -> Predictions:
    """What a model says about three attributes of 300 samples; `worse` = noise added to its logits."""
    draw = torch.Generator().manual_seed(seed)
    targets = (torch.rand(N, 3, generator=draw) < torch.tensor([0.5, 0.2, 0.7])).long()
    logits = (2.0 * targets - 1 + torch.randn(N, 3, generator=draw)).float()
    logits = logits + worse * torch.randn(N, 3, generator=torch.Generator().manual_seed(9))
    groups = {"sex": tuple("fm"[i % 2] for i in range(N))}
    return Predictions(logits, targets, tuple(f"s{i}" for i in range(N)), groups, NAMES)


def found(dense: bool = True) -> dict[tuple[str, str, str], float | None]:
    """Every number by name, side and scope."""
    evidence = Evidence((told(worse=1.0),), (told(),) if dense else (), (0.5, 0.2, 0.7))
    return {(f.name, f.of, f.scope): f.value for f in measure_all(evidence)}


def test_by_hand():
    """Two samples, two attributes: one answer of four is wrong."""
    seen = Predictions(torch.tensor([[2.0, -1.0], [-3.0, 1.0]]), torch.tensor([[1, 0], [0, 0]]), ("a", "b"))
    assert seen.labels.tolist() == [[1, 0], [0, 1]]
    assert seen.correct.tolist() == [1.0, 0.5]
    assert seen.attributes == ("0", "1")
    torch.testing.assert_close(seen.probabilities, torch.tensor([[2.0, -1.0], [-3.0, 1.0]]).double().sigmoid())
    torch.testing.assert_close(seen.chances.sum(dim=1), torch.ones(2, dtype=torch.float64))
    assert seen.of_attribute(1).correct.tolist() == [True, False]


def test_numbers_of_attributes_are_those_of_two_classes_and_the_whole_is_their_mean():
    """Accuracy, likelihood, Brier, calibration, AUC and uncertainty; AUC as scikit-learn computes it."""
    numbers, seen = found(), told(worse=1.0)
    for name in ("accuracy", "nll", "brier", "ece", "auc", "uncertainty", "churn"):
        each = [numbers[name, "compressed", f"attribute:{attribute}"] for attribute in NAMES]
        assert numbers[name, "compressed", "all"] == pytest.approx(sum(each) / 3)
    aucs = [roc_auc_score(seen.targets[:, i], seen.probabilities[:, i]) for i in range(3)]
    assert [numbers["auc", "compressed", f"attribute:{name}"] for name in NAMES] == pytest.approx(aucs)
    right = (seen.labels == seen.targets).double().mean(dim=0)
    assert [numbers["accuracy", "compressed", f"attribute:{name}"] for name in NAMES] == pytest.approx(right.tolist())
    assert numbers["accuracy", "change", "attribute:young"] == pytest.approx(
        float(right[1] - told().of_attribute(1).correct.double().mean())
    )


def test_groups_stay_and_classes_go():
    """Accuracy per group is that of all attributes; there is no class scope."""
    numbers, seen = found(dense=False), told(worse=1.0)
    assert not any(scope.startswith("class:") for _, _, scope in numbers)
    assert numbers["accuracy", "compressed", "group:sex=f"] == pytest.approx(float(seen.correct[::2].mean()))


def test_an_attribute_with_one_value_has_no_ranking():
    """Its own AUC is undefined, and the whole says which was left out."""
    seen = told()
    seen.targets[:, 2] = 1
    of = {f.scope: f for f in measure_all(Evidence((seen,))) if f.name == "auc"}
    assert of["attribute:pale"].value is None
    assert "without pale" in of["all"].note
    assert of["all"].value == pytest.approx((of["attribute:smiling"].value + of["attribute:young"].value) / 2)


def test_exemplars_are_answers():
    """An answer that changed is named by sample and attribute."""
    changed = exemplar_ids([told()], [told(worse=1.0)])
    differ = (told().labels != told(worse=1.0).labels).nonzero().tolist()
    assert {one.id for one in changed} == {f"s{row}: {NAMES[column]}" for row, column in differ}
    assert found()["exemplars", "compressed", "all"] == len(differ)


def test_shares_of_the_training_set():
    """Of each attribute, the share that has it."""
    samples = samples_from(torch.zeros(4, 2), [[1, 0], [1, 1], [0, 1], [1, 1]], split="train", where="data")
    assert train_marginals(samples) == (0.75, 0.75)
    assert (samples.has_attributes, samples.outputs) == (True, 2)


@pytest.mark.parametrize(
    ("targets", "classes", "words"),
    [
        ([[0, 2], [1, 0]], (), "each 0 or 1"),
        ([[0, 1], [1, 0]], (), "exactly one 1"),
        ([[1, 1], [1, 0]], ("a", "a"), "given twice"),
        ([[[0, 1]], [[1, 0]]], (), "class for each position"),
        ([[1, 1], [1, 0]], ("a", "b", "c"), "2 attributes and 3 names"),
        ([1.0, 2.0], (), "may be classes"),
    ],
)
def test_what_are_no_attributes(targets, classes, words):
    """Refused with the reason."""
    with pytest.raises(BadData, match=words):
        samples_from(torch.zeros(len(targets), 3), targets, split="train", where="data", classes=classes)


def test_groups_that_are_all_too_small_are_told():
    """A column with three samples a value: notes instead of numbers, from every metric."""
    seen = told()
    groups = {"person": tuple(str(i // 3) for i in range(N))}
    small, dense = (Predictions(one.logits, one.targets, one.ids, groups, NAMES) for one in (seen, told(worse=1.0)))
    found = measure_all(Evidence((small,), (dense,), (), Truth(seen.targets, groups)))
    rates = [f for f in found if f.name.startswith(("group_rates", "fairness_gaps"))]
    assert rates and all(f.value is None and "not enough data" in f.note for f in rates)


def test_one_output_has_no_auc():
    """One class only: undefined, not NaN."""
    seen = Predictions(torch.zeros(20, 1), torch.zeros(20, dtype=torch.int64), tuple(map(str, range(20))))
    [auc] = [f for f in measure_all(Evidence((seen,))) if f.name == "auc"]
    assert (auc.value, "one class only" in auc.note) == (None, True)
