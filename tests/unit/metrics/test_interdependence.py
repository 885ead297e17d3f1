"""Interdependence: R^2 of each predicted attribute given the other predicted attributes."""

import pytest
import torch
from sklearn.linear_model import LinearRegression

from sparsify_cli.contracts.metric import Evidence
from sparsify_cli.metrics.interdependence import Interdependence
from sparsify_cli.values.predictions import Predictions
from sparsify_cli.values.report import Report
from tests.predictions import answering, shuffled


def telling(labels) -> Predictions:
    """A model that gave these answers about attributes; what is true does not matter here."""
    given = torch.as_tensor(labels)
    names = tuple("abcdefgh"[: given.shape[1]])
    return Predictions(given * 4.0 - 2, torch.zeros_like(given), tuple(f"s{i}" for i in range(len(given))), {}, names)


def linked(n=300, attributes=5, seed=0, strength=1.0) -> torch.Tensor:
    """Answers with a common cause."""
    generator = torch.Generator().manual_seed(seed)
    cause = torch.randn(n, 1, generator=generator)
    return ((torch.randn(n, attributes, generator=generator) + strength * cause) > 0).long()


def report(compressed, *dense) -> Report:
    """The findings, to be asked by name."""
    sides = compressed if isinstance(compressed, tuple) else (compressed,)
    return Report(tuple(Interdependence().measure(Evidence(sides, dense))))


def each(found: Report, of="compressed") -> list[float | None]:
    """R^2 by attribute."""
    return [f.value for f in found if f.of == of and f.scope != "all"]


def regression(labels) -> list[float]:
    """The oracle: scikit-learn's regression of each column on the others."""
    table = torch.as_tensor(labels).double().numpy()
    others = [[k for k in range(table.shape[1]) if k != j] for j in range(table.shape[1])]
    return [float(LinearRegression().fit(table[:, o], table[:, j]).score(table[:, o], table[:, j])) for j, o in enumerate(others)]


@pytest.mark.parametrize("seed", range(4))
def test_it_is_what_a_regression_scores(seed):
    """Every attribute as scikit-learn's LinearRegression has it, and their mean."""
    labels = linked(seed=seed, strength=0.5 + seed)
    found = report(telling(labels))
    assert each(found) == pytest.approx(regression(labels), abs=1e-9)
    assert found.get("interdependence").value == pytest.approx(sum(regression(labels)) / 5, abs=1e-9)


def test_two_attributes_by_hand():
    """Equal in 30 of 40, each half yes: correlation (30 - 10) / 40 = .5, so R^2 = .25 for both."""
    labels = [[0, 0]] * 15 + [[1, 1]] * 15 + [[0, 1]] * 5 + [[1, 0]] * 5
    assert each(report(telling(labels))) == pytest.approx([0.25, 0.25])


def test_copies_follow_and_independent_attributes_do_not():
    """A full table of two attributes and a copy of the first: 1, 0, 1; scikit-learn agrees although nothing can be inverted."""
    labels = [[a, b, a] for a in (0, 1) for b in (0, 1)] * 10
    assert each(report(telling(labels))) == pytest.approx([1, 0, 1], abs=1e-9) == regression(labels)


def test_a_sum_of_others_is_found():
    """One of three is always said: any two tell the third; the fourth, drawn apart, has what scikit-learn gives it."""
    generator = torch.Generator().manual_seed(1)
    one = torch.nn.functional.one_hot(torch.randint(3, (200,), generator=generator), 3)
    labels = torch.cat([one, torch.randint(2, (200, 1), generator=generator)], dim=1)
    assert each(report(telling(labels))) == pytest.approx(regression(labels), abs=1e-9)


def test_a_constant_attribute_is_undefined_and_tells_nothing():
    """The last attribute is never predicted: no number for it, the others as without it, and the mean leaves it out by name."""
    labels = torch.cat([linked(), torch.zeros(300, 1, dtype=torch.int64)], dim=1)
    found = report(telling(labels))
    gone, mean = found.get("interdependence", scope="attribute:f"), found.get("interdependence")
    assert gone.value is None and "one value only" in gone.note
    assert each(found)[:5] == pytest.approx(each(report(telling(linked()))), abs=1e-12)
    assert mean.value == pytest.approx(sum(each(found)[:5]) / 5) and "without f" in mean.note


def test_all_constant_is_undefined():
    """Nothing varies: no number anywhere, and a note everywhere."""
    assert all(f.value is None and "one value only" in f.note for f in report(telling(torch.ones(30, 3, dtype=torch.int64))))


def test_the_mean_is_over_attributes_that_both_models_vary():
    """Compressed never says e, dense does: the change of the mean is over the other four, on both sides."""
    compressed, dense = linked(seed=1), linked(seed=2)
    compressed[:, 4] = 0
    found = report(telling(compressed), telling(dense))
    sides = {of: found.get("interdependence", of=of).value for of in ("compressed", "dense", "change")}
    assert sides["dense"] == pytest.approx(sum(regression(dense)[:4]) / 4, abs=1e-9)
    assert sides["change"] == pytest.approx(sides["compressed"] - sides["dense"])
    lone = {of: found.get("interdependence", of=of, scope="attribute:e") for of in sides}
    assert lone["compressed"].value is None and lone["change"].value is None
    assert lone["dense"].value == pytest.approx(regression(dense)[4], abs=1e-9)


def test_permuted_answers_lose_the_link():
    """Each column shuffled alone: what is left is what chance shows, and the interval reaches down to 0."""
    labels = linked(strength=2.0)
    apart = torch.stack([column[torch.randperm(300)] for column in labels.T], dim=1)
    found, before = report(telling(apart)).get("interdependence", scope="attribute:a"), report(telling(labels)).get("interdependence")
    assert before.value > 0.3 and before.low > 0.2
    assert found.value < 0.04 and found.low == 0 and "1.34 %" in found.note


def test_swapping_yes_and_no_of_an_attribute_changes_nothing():
    """A regression does not care which value is called 1."""
    labels, other = linked(), linked()
    other[:, 2] = 1 - other[:, 2]
    assert each(report(telling(labels))) == pytest.approx(each(report(telling(other))), abs=1e-12)


def test_the_same_model_twice_has_not_changed():
    """Change 0 without an interval of no width."""
    found = report(telling(linked()), telling(linked()))
    assert all((f.value, f.low) == (0, None) for f in found if f.of == "change")


def test_several_models_are_averaged():
    """The mean of two models' R^2."""
    first, second = linked(seed=1), linked(seed=2, strength=2.0)
    found = report((telling(first), telling(second)))
    assert each(found) == pytest.approx([(a + b) / 2 for a, b in zip(regression(first), regression(second), strict=True)], abs=1e-9)
    assert "not of seeds" in found.get("interdependence").note


def test_missing_data_is_said():
    """Too few samples for the attributes, an attribute without another one, and classes."""
    assert "not attributes" in report(answering([0] * 20, [0] * 20)).get("interdependence").note
    assert "5 samples, at least 10" in report(telling(linked(5))).get("interdependence").note
    assert "8 samples, at least 10" in report(telling(linked(8, 8))).get("interdependence").note
    assert "no other attribute" in report(telling(linked(50, 1))).get("interdependence").note


def test_the_order_of_samples_does_not_matter():
    """More samples than are drawn one by one, in another order: the same numbers and intervals."""
    one = telling(linked(6000))
    other = shuffled(one, torch.randperm(6000, generator=torch.Generator().manual_seed(5)).tolist())
    for mine, theirs in zip(report(one), report(other), strict=True):
        assert (mine.value, mine.low, mine.high) == pytest.approx((theirs.value, theirs.low, theirs.high), abs=1e-12)


@pytest.mark.slow
def test_interval_holds_the_truth():
    """Signs of normals with correlation .5 agree in 2/3 of cases: correlation 1/3; with two attributes R^2 = 1/9."""
    held = sum(f.low <= 1 / 9 <= f.high for seed in range(150) for f in [report(telling(linked(400, 2, seed))).get("interdependence")])
    assert 133 <= held <= 149
