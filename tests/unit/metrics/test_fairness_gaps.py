"""Gaps between groups by hand and against fairlearn."""

import pytest
import torch

from sparsify_cli.contracts.metric import Evidence
from sparsify_cli.metrics.fairness_gaps import FairnessGaps
from sparsify_cli.values.predictions import Predictions
from sparsify_cli.values.report import Report
from tests.predictions import answering, said, shuffled

NAMES = tuple(f"fairness_gaps_{name}" for name in ("demographic_parity", "equal_opportunity", "equalised_odds"))


def report(*sides, **options) -> Report:
    """The findings of a compressed model and, where there is one, a dense one."""
    return Report(tuple(FairnessGaps(**options).measure(Evidence(*((side,) for side in sides)))))


def gaps(model, scope="group:g", **options):
    """The three gaps of one model."""
    found = report(model, **options)
    return [found.get(name, scope=scope).value for name in NAMES]


def choosing(answers, truth, groups, classes=("no", "yes")) -> Predictions:
    """A model of two classes that answers this."""
    return said([[0.1, 0.9] if a else [0.9, 0.1] for a in answers], truth, groups=groups, classes=classes)


def drawn(n=600, outputs=2, seed=0, groups=3, noise=1.5) -> Predictions:
    """Random predictions over two columns of unequal groups."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(outputs, (n,), generator=generator)
    logits = 2 * torch.nn.functional.one_hot(targets, outputs) + noise * torch.randn(n, outputs, generator=generator)
    codes = (torch.rand(n, generator=generator) ** 1.5 * groups).long().tolist()
    columns = {"g": tuple(f"v{c}" for c in codes), "h": tuple("xy"[i % 2] for i in range(n))}
    return Predictions(logits, targets, tuple(map(str, range(n))), columns)


def tossed(n, rates, seed=0, answers=None) -> Predictions:
    """Everybody is a yes; n samples a group, answered yes with the group's probability."""
    generator = torch.Generator().manual_seed(seed)
    chance = torch.tensor(rates, dtype=torch.float64).repeat_interleave(n)
    said_yes = torch.rand(len(chance), generator=generator, dtype=torch.float64) < chance
    logits = torch.stack([torch.zeros(len(chance)), said_yes.float() * 2 - 1], dim=1)
    groups = {"g": tuple(f"v{i // n}" for i in range(len(chance)))}
    return Predictions(logits, torch.ones(len(chance), dtype=torch.int64), tuple(map(str, range(len(chance)))), groups)


LEFT = ([1, 1, 1, 0, 1, 0, 0, 0], [1, 1, 1, 1, 0, 0, 0, 0])
RIGHT = ([1, 1, 0, 0, 1, 1, 1, 0], [1, 1, 1, 1, 0, 0, 0, 0])
SIDES = {"g": ["left"] * 8 + ["right"] * 8}


def test_by_hand():
    """Left: selection 1/2, tpr 3/4, fpr 1/4; right: 5/8, 2/4, 3/4. Gaps 1/8, 1/4 and the wider of 1/4 and 1/2."""
    model = choosing(LEFT[0] + RIGHT[0], LEFT[1] + RIGHT[1], SIDES)
    assert gaps(model, least=1) == pytest.approx([1 / 8, 1 / 4, 1 / 2])
    found = report(model, least=1)
    assert "'right' above 'left'" in found.get(NAMES[0], scope="group:g").note
    assert [found.get(name, scope="group:g").n for name in NAMES] == [16, 8, 16]


@pytest.mark.parametrize("seed", range(4))
def test_it_agrees_with_fairlearn(seed):
    """demographic_parity_difference, equal_opportunity_difference, equalized_odds_difference."""
    metrics = pytest.importorskip("fairlearn.metrics")
    oracles = (metrics.demographic_parity_difference, metrics.equal_opportunity_difference, metrics.equalized_odds_difference)
    model = drawn(seed=seed)
    together = [f"{a} & {b}" for a, b in zip(*model.groups.values(), strict=True)]
    for scope, column in (("group:g", model.groups["g"]), ("group:h", model.groups["h"]), ("group:g&h", together)):
        expected = [oracle(model.targets.numpy(), model.labels.numpy(), sensitive_features=list(column)) for oracle in oracles]
        assert gaps(model, scope) == pytest.approx(expected, abs=1e-12)


def test_change_of_two_models():
    """Compressed as by hand, dense the same for both sides: changes are the gaps themselves."""
    truth = LEFT[1] + RIGHT[1]
    found = report(choosing(LEFT[0] + RIGHT[0], truth, SIDES), choosing(LEFT[0] + LEFT[0], truth, SIDES), least=1)
    assert [found.get(name, of="dense", scope="group:g").value for name in NAMES] == pytest.approx([0, 0, 0])
    assert [found.get(name, of="change", scope="group:g").value for name in NAMES] == pytest.approx([1 / 8, 1 / 4, 1 / 2])


def test_perfect_constant_and_permuted_predictors():
    """Perfect where base rates are equal: no gap. Always yes: none. Answers that know only the group: gaps of 1."""
    truth, groups = [1, 0] * 20, {"g": ["a"] * 20 + ["b"] * 20}
    assert gaps(choosing(truth, truth, groups)) == pytest.approx([0, 0, 0])
    assert gaps(choosing([1] * 40, truth, groups)) == pytest.approx([0, 0, 0])
    assert gaps(choosing([1] * 20 + [0] * 20, truth, groups)) == pytest.approx([1, 1, 1])


def test_perfect_answers_are_not_parity_where_base_rates_differ():
    """Group a is a yes in 15 of 20, b in 10 of 20: perfect answers select a more often by 1/4, and have no gap in errors."""
    truth = [1] * 15 + [0] * 5 + [1] * 10 + [0] * 10
    model = choosing(truth, truth, {"g": ["a"] * 20 + ["b"] * 20})
    assert gaps(model, least=5) == pytest.approx([1 / 4, 0, 0])


def test_several_classes_are_averaged():
    """Answers of left perfect, of right always 0, three equal classes: selection gaps 2/3, 1/3, 1/3; tpr gaps 0, 1, 1; fpr gaps 1, 0, 0."""
    truth = [0, 1, 2] * 20
    model = answering(truth[:30] + [0] * 30, truth, groups={"g": ["l"] * 30 + ["r"] * 30}, classes=("a", "b", "c"))
    assert gaps(model) == pytest.approx([4 / 9, 2 / 3, 1])
    assert "mean over classes, widest for 'a'" in report(model).get(NAMES[0], scope="group:g").note


def test_attributes_are_seen_together():
    """Attribute a without a gap, b answered yes on the left only: mean 1/2, widest for b; and the same as fairlearn's mean."""
    truth = torch.tensor([[1, 1], [0, 0]] * 20)
    answers = truth.clone()
    answers[:20, 1], answers[20:, 1] = 1, 0
    groups = {"g": tuple("a" * 20 + "b" * 20)}
    model = Predictions(answers * 2.0 - 1, truth, tuple(map(str, range(40))), groups, ("a", "b"))
    found = report(model)
    assert gaps(model) == pytest.approx([1 / 2, 1 / 2, 1 / 2])
    assert "widest for 'b' (100.0 %" in found.get(NAMES[0], scope="group:g").note
    assert len(list(found)) == 3 and gaps(model.of_attribute(1)) == pytest.approx([1, 1, 1])


def test_many_questions_are_worked_on_in_parts():
    """70 attributes, more than are worked on at once: the mean of the gaps of each alone."""
    generator = torch.Generator().manual_seed(3)
    truth, logits = torch.randint(2, (300, 70), generator=generator), torch.randn(300, 70, generator=generator)
    model = Predictions(logits, truth, tuple(map(str, range(300))), {"g": tuple("abc"[i % 3] for i in range(300))})
    alone = torch.tensor([gaps(model.of_attribute(i)) for i in range(70)])
    assert gaps(model) == pytest.approx(alone.mean(dim=0).tolist(), abs=1e-6)


def test_small_groups_are_left_out_and_named():
    """A group of three that is always answered yes makes no gap; with fewer than two groups there is no number."""
    truth, groups = [1, 0] * 20 + [1] * 3, {"g": ["a"] * 20 + ["b"] * 20 + ["rare"] * 3}
    model = choosing(truth, truth, groups)
    found = report(model).get(NAMES[0], scope="group:g")
    assert found.value == pytest.approx(0) and "without 'rare'" in found.note and found.n == 40
    none = report(model, least=30).get(NAMES[0], scope="group:g")
    assert none.value is None and "fewer than two groups have 30 samples" in none.note


def test_groups_without_a_yes_have_no_opportunity():
    """Nobody of b is a yes: selection has a gap, opportunity and odds have none to compare."""
    found = report(choosing([1] * 20 + [0] * 20, [1] * 20 + [0] * 20, {"g": ["a"] * 20 + ["b"] * 20}))
    assert found.get(NAMES[0], scope="group:g").value == pytest.approx(1.0)
    assert [found.get(name, scope="group:g").value for name in NAMES[1:]] == [None, None]


def test_two_columns_together_show_what_each_hides():
    """Yes is answered where sex and age are alike: no gap in either column, a gap of 1 in both together."""
    sex, age = ["f", "f", "m", "m"] * 20, ["old", "young"] * 40
    answers = [int((s == "f") == (a == "old")) for s, a in zip(sex, age, strict=True)]
    model = choosing(answers, [1] * 80, {"sex": sex, "age": age})
    assert [gaps(model, scope)[0] for scope in ("group:sex", "group:age", "group:age&sex")] == pytest.approx([0, 0, 1])
    assert report(model, pairs=0).get(NAMES[0], scope="group:age&sex") is None


def test_pairs_of_columns_are_bounded_and_the_rest_is_mentioned():
    """Five columns have ten pairs; with pairs=3 three are compared and the note says so."""
    groups = {name: ["ab"[i % 2] for i in range(40)] for name in "vwxyz"}
    found = [f for f in report(choosing([1, 0] * 20, [1] * 40, groups), pairs=3) if "&" in f.scope]
    assert len({f.scope for f in found}) == 3 and all("3 of 10 pairs" in f.note for f in found)


def test_without_groups_nothing_is_said():
    """No column: no findings."""
    assert list(report(choosing([1] * 20, [1] * 20, None))) == []


def test_several_models_answer_with_their_share():
    """One model selects all of a, the other all of b: together they select half of each, and the note says what is averaged."""
    groups = {"g": ["a"] * 20 + ["b"] * 20}
    sides = (choosing([1] * 20 + [0] * 20, [1] * 40, groups), choosing([0] * 20 + [1] * 20, [1] * 40, groups))
    found = FairnessGaps().measure(Evidence(sides))[0]
    assert found.value == pytest.approx(0.0) and "not of seeds" in found.note


@pytest.mark.parametrize("outputs", [2, 3])
def test_order_and_names_do_not_matter(outputs):
    """Shuffled samples: the same findings. Renamed groups: the same gaps."""
    model, order = drawn(outputs=outputs), torch.randperm(600).tolist()
    other = Predictions(drawn(seed=7, outputs=outputs).logits, model.targets, model.ids, model.groups)
    mine, theirs = report(model, other), report(shuffled(model, order), shuffled(other, order))
    for a, b in zip(mine, theirs, strict=True):
        assert (a.scope, a.n, a.note) == (b.scope, b.n, b.note)
        assert (a.value, a.low or 0, a.high or 0) == pytest.approx((b.value, b.low or 0, b.high or 0), abs=1e-12)
    renamed = Predictions(
        model.logits, model.targets, model.ids, {"g": tuple({"v0": "z", "v1": "y", "v2": "x"}[v] for v in model.groups["g"])}
    )
    assert gaps(renamed) == pytest.approx(gaps(model), abs=1e-12)


def test_groups_that_are_alike_reach_down_to_zero():
    """Two groups with the same chance of a yes: 0 is in the interval of 90 to 99 of 100 test sets, and the note says the usual gap."""
    found = [report(tossed(60, [0.7, 0.7], seed)).get(NAMES[1], scope="group:g") for seed in range(100)]
    assert 90 <= sum(f.low == 0 for f in found) <= 99 and "would show about" in found[0].note


@pytest.mark.slow
def test_the_level_of_groups_without_difference_is_what_they_show():
    """Five groups of 60 with chance .7: the mean gap of 150 test sets is the level within 8 %."""
    found = [report(tossed(60, [0.7] * 5, seed)).get(NAMES[1], scope="group:g") for seed in range(150)]
    level = float(found[0].note.split("would show about ")[1].split()[0]) / 100
    assert sum(f.value for f in found) / 150 == pytest.approx(level, rel=0.08)


@pytest.mark.slow
@pytest.mark.parametrize("rates", [(0.7, 0.9), (0.6, 0.65, 0.7, 0.75, 0.8)])
def test_the_interval_holds_the_truth(rates):
    """The gap of .2 is in 88 to 99.5 of 100 intervals."""
    found = [report(tossed(100, rates, seed)).get(NAMES[1], scope="group:g") for seed in range(100)]
    assert 0.88 <= sum(f.low <= 0.2 <= f.high for f in found) / 100 <= 0.995


@pytest.mark.slow
def test_the_interval_of_the_change_holds_the_truth():
    """From a gap of .1 to one of .3, on the same samples: .2 is in 90 to 99.5 of 100 intervals."""
    found = [
        report(tossed(150, [0.6, 0.9], seed), tossed(150, [0.8, 0.9], seed)).get(NAMES[1], of="change", scope="group:g")
        for seed in range(100)
    ]
    assert 0.90 <= sum(f.low <= 0.2 <= f.high for f in found) / 100 <= 0.995
