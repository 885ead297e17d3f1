"""Bias amplification by hand-made tables, its rules of eligibility, means and intervals."""

import pytest
import torch

from sparsify_cli.contracts.metric import Evidence, Truth
from sparsify_cli.errors import UnknownName
from sparsify_cli.metrics.bias_amplification import BiasAmplification
from sparsify_cli.stages.measure import by_attribute
from sparsify_cli.values.predictions import Predictions
from sparsify_cli.values.report import Report
from tests.predictions import answering, shuffled

SEX = {"sex": ("f",) * 50 + ("m",) * 50}
"""The test set: fifty and fifty."""


def truth(f, m, *, groups=("f", "m")) -> Truth:
    """A training set with this many of 100 positives in either group."""
    targets = torch.tensor([1] * f + [0] * (100 - f) + [1] * m + [0] * (100 - m))
    return Truth(targets, {"sex": (groups[0],) * 100 + (groups[1],) * 100})


def said(f, m) -> list[int]:
    """This many yes among the first fifty and among the last."""
    return [1] * f + [0] * (50 - f) + [1] * m + [0] * (50 - m)


def choosing(labels, targets, groups=SEX) -> Predictions:
    """A model of one choice between no and yes."""
    given = torch.tensor(labels) * 4.0 - 2
    logits = torch.stack([torch.zeros(len(given)), given], dim=1)
    return Predictions(logits, torch.tensor(targets), tuple(f"s{i}" for i in range(len(given))), groups, ("no", "yes"))


def telling(labels, targets, groups, names) -> Predictions:
    """A model of attributes."""
    given = torch.as_tensor(labels)
    return Predictions(given * 4.0 - 2, torch.as_tensor(targets), tuple(f"s{i}" for i in range(len(given))), groups, tuple(names))


def report(compressed, train, *dense, **options) -> Report:
    """The findings, to be asked by scope."""
    sides = compressed if isinstance(compressed, tuple) else (compressed,)
    return Report(tuple(BiasAmplification(**options).measure(Evidence(sides, dense, (), train))))


def amplified(predicted, true, train=None) -> float | None:
    """BA of the only pair, None where it is left out."""
    return report(choosing(said(*predicted), said(*true)), train or truth(60, 20)).get("bias_amplification").value


def test_two_by_two_tables_by_hand():
    """True positives 20 f and 20 m: half are f. Predicted 30 f of 40: +25 points; 10 of 40: -25; 20 of 20: +50."""
    assert amplified((30, 10), (20, 20)) == pytest.approx(0.25)
    assert amplified((10, 30), (20, 20)) == pytest.approx(-0.25)
    assert amplified((20, 0), (20, 20)) == pytest.approx(0.5)


def test_the_sign_flips_when_training_favours_the_other_group():
    """The same predictions: training decides which group is looked at."""
    assert amplified((30, 10), (20, 20), truth(20, 60)) == pytest.approx(-0.25)
    names = [report(choosing(said(30, 10), said(20, 20)), truth(f, 80 - f)) for f in (60, 20)]
    assert [next(f.scope for f in found if "@" in f.scope) for found in names] == ["class:yes@sex=f", "class:yes@sex=m"]


def test_perfect_predictions_amplify_nothing():
    """0, and no interval of width zero."""
    found = report(choosing(said(25, 15), said(25, 15)), truth(60, 20)).get("bias_amplification")
    assert (found.value, found.low) == (0, None) and "no spread" in found.note


def test_constant_predictions():
    """Always yes: half of everybody is f, 30 of 40 true positives are: -25 points. Never yes: undefined, not a number."""
    assert amplified((50, 50), (30, 10)) == pytest.approx(-0.25)
    never = report(choosing(said(0, 0), said(30, 10)), truth(60, 20))
    assert all(f.value is None and "undefined" in f.note and "no positives" in f.note for f in never)


def test_permuted_and_base_rate_predictions_even_out():
    """Answers that know nothing of the sample put half of their positives in either half, whatever is true."""
    generator = torch.Generator().manual_seed(0)
    groups, true = {"sex": ("f",) * 1000 + ("m",) * 1000}, [1] * 600 + [0] * 400 + [1] * 200 + [0] * 800
    permuted = [true[i] for i in torch.randperm(2000, generator=generator).tolist()]
    base = (torch.rand(2000, generator=generator) < 0.4).long().tolist()
    for labels in (permuted, base):
        found = report(choosing(labels, true, groups), truth(60, 20)).get("bias_amplification")
        assert found.low < -0.25 < found.high and found.high - found.low < 0.12


def test_ten_true_positives_are_needed_in_each_group():
    """Ten and ten count, ten and nine do not; the note says so."""
    assert amplified((30, 10), (10, 10)) is not None
    found = report(choosing(said(30, 10), said(10, 9)), truth(60, 20)).get("bias_amplification")
    assert found.value is None and "none of 1 pairs" in found.note and "fewer than 10 true positives" in found.note


def test_training_must_be_skewed_by_a_tenth():
    """55 against 50 is exactly a tenth and counts, 54 against 50 does not; only one group having any counts too; equal ones never."""
    assert amplified((30, 10), (20, 20), truth(55, 50)) is not None
    assert amplified((30, 10), (20, 20), truth(54, 50)) is None
    assert amplified((30, 10), (20, 20), truth(5, 0)) is not None
    assert amplified((30, 10), (20, 20), truth(0, 0)) is None


def test_groups_must_be_in_the_training_set():
    """No column of that name; no samples of one group; no samples at all; one value only."""
    model = choosing(said(30, 10), said(20, 20))
    nobody = Truth(torch.zeros(0, dtype=torch.int64), {"sex": ()})
    men = Truth(torch.tensor([0, 1] * 20), {"sex": ("m",) * 40})
    for train, said_so in (
        (Truth(torch.tensor([0, 1])), "has no column 'sex'"),
        (nobody, "training set has not"),
        (men, "training set has not"),
    ):
        assert all(f.value is None for f in report(model, train))
        assert said_so in report(model, train).get("bias_amplification", scope="group:sex").note
    single = choosing(said(30, 10), said(20, 20), {"sex": ("m",) * 100})
    assert "one value only" in report(single, men).get("bias_amplification", scope="group:sex").note


def test_a_group_of_three_is_no_group_and_no_groups_is_nothing():
    """Three members cannot have ten positives; without a column there is nothing to say."""
    rare = choosing(said(30, 10), said(20, 20), {"sex": ("f",) * 3 + ("m",) * 97})
    assert report(rare, truth(60, 20)).get("bias_amplification").value is None
    assert list(report(choosing(said(30, 10), said(20, 20), {}), truth(60, 20))) == []


def test_a_change_is_paired_and_has_an_interval():
    """Dense shares positives as they are true, compressed moves ten of them to f: +25 points on both counts."""
    dense, compressed = choosing(said(20, 20), said(20, 20)), choosing(said(30, 10), said(20, 20))
    found = report(compressed, truth(60, 20), dense)
    seen = {f.of: f for f in found if f.scope == "class:yes@sex=f"}
    assert [seen[of].value for of in ("compressed", "dense", "change")] == pytest.approx([0.25, 0, 0.25])
    assert 0.05 < seen["change"].low < 0.25 < seen["change"].high < 0.45
    assert "60.0 % against 20.0 %" in seen["change"].note and "predicted: 40 and 40" in seen["change"].note


def test_few_predicted_positives_have_a_number_but_no_interval():
    """Four predicted positives, or all in one group: a bootstrap would be too sure."""
    few = report(choosing(said(3, 1), said(20, 20)), truth(60, 20)).get("bias_amplification", scope="class:yes@sex=f")
    one_sided = report(choosing(said(20, 0), said(20, 20)), truth(60, 20)).get("bias_amplification", scope="class:yes@sex=f")
    assert (few.value, few.low) == (pytest.approx(0.25), None) and "fewer than 10 predicted" in few.note
    assert (one_sided.value, one_sided.low) == (pytest.approx(0.5), None) and "one group" in one_sided.note
    mean = report(choosing(said(3, 1), said(20, 20)), truth(60, 20)).get("bias_amplification")
    assert (mean.value, mean.low) == (pytest.approx(0.25), None) and "1 of the pairs" in mean.note


def test_several_models_are_averaged():
    """+25 and 0 points: 12.5; where one of them predicts nobody the mean is undefined."""
    models = tuple(choosing(said(*k), said(20, 20)) for k in ((30, 10), (20, 20), (0, 0)))
    assert report(models[:2], truth(60, 20)).get("bias_amplification").value == pytest.approx(0.125)
    assert report(models, truth(60, 20)).get("bias_amplification").value is None


def test_values_of_a_larger_column_are_each_against_the_rest():
    """Three towns; predicted positives of Rome 20 of 40, true ones 15 of 45: +1/6. Where the rest is favoured it is called so."""
    towns = {"town": ("Bonn",) * 30 + ("Oslo",) * 30 + ("Rome",) * 30}
    true = ([1] * 15 + [0] * 15) * 3
    labels = [1] * 10 + [0] * 20 + [1] * 10 + [0] * 20 + [1] * 20 + [0] * 10
    train = Truth(
        torch.tensor([0] * 9 + [1] + [0] * 8 + [1] * 2 + [0] * 3 + [1] * 7), {"town": ("Bonn",) * 10 + ("Oslo",) * 10 + ("Rome",) * 10}
    )
    found = report(choosing(labels, true, towns), train)
    seen = {f.scope: f.value for f in found}
    assert seen["class:yes@town=Rome"] == pytest.approx(1 / 6)
    assert seen["class:yes@town=not Bonn"] == pytest.approx(30 / 40 - 30 / 45)
    assert seen["class:yes@town=not Oslo"] == pytest.approx(30 / 40 - 30 / 45)
    assert seen["all"] == seen["group:town"] == pytest.approx((1 / 6 + 2 / 12) / 3)


def test_a_column_of_many_values_is_no_identity():
    """Sample numbers are not groups of people."""
    numbers = {"number": tuple(map(str, range(100)))}
    found = report(choosing(said(30, 10), said(20, 20), numbers), Truth(torch.tensor([0, 1]), {"number": ("1", "2")}))
    assert "more than 20" in found.get("bias_amplification", scope="group:number").note


def attributes() -> tuple[Predictions, Truth]:
    """Male and two attributes: Hat as in the tables above, Tie true as often in either half and never predicted."""
    male = [0] * 50 + [1] * 50
    targets = torch.tensor([male, said(20, 20), said(25, 25)]).T
    labels = torch.tensor([male, said(10, 30), [0] * 100]).T
    train = torch.tensor([[0] * 100 + [1] * 100, truth(20, 60).targets.tolist(), truth(10, 30).targets.tolist()]).T
    return telling(labels, targets, {}, ("Male", "Hat", "Tie")), Truth(train)


def test_attributes_can_be_identities():
    """Hat with Male: 30 of 40 predicted, 20 of 40 true: +25. Tie is undefined and left out of the mean; Male is not paired with itself."""
    model, train = attributes()
    found = report(model, train, identities=("Male",))
    assert found.get("bias_amplification", scope="attribute:Hat@Male=yes").value == pytest.approx(0.25)
    assert found.get("bias_amplification", scope="attribute:Tie@Male=yes").value is None
    mean = found.get("bias_amplification")
    assert mean.value == pytest.approx(0.25) and "mean over 1 of 3 pairs" in mean.note
    assert "1 the attribute with itself" in mean.note and "1 undefined, because a model predicts no positives" in mean.note
    assert list(report(model, train)) == []


def test_a_group_column_named_like_an_attribute_is_that_attribute():
    """A column Male beside the attribute Male: never a pair, and naming it as identity does not count it twice."""
    model, train = attributes()
    groups = {"Male": ("no",) * 50 + ("yes",) * 50}
    model = Predictions(model.logits, model.targets, model.ids, groups, model.classes)
    train = Truth(train.targets, {"Male": ("no",) * 100 + ("yes",) * 100})
    assert list(report(model, train)) == list(report(model, train, identities=("Male",)))
    assert "1 the attribute with itself" in report(model, train).get("bias_amplification").note


def test_without_training_truth_it_is_undefined():
    """Only training says which group is favoured."""
    assert "nothing is known of the training set" in report(choosing(said(30, 10), said(20, 20)), None).get("bias_amplification").note


def test_an_unknown_identity_is_refused():
    """The nearest attribute is named; classes are not asked for identities."""
    model, train = attributes()
    with pytest.raises(UnknownName, match="'Male'"):
        report(model, train, identities=("Mal",))
    assert report(choosing(said(30, 10), said(20, 20)), truth(60, 20), identities=("Mal",)).get("bias_amplification").value is not None


def test_an_attribute_seen_alone_has_its_mean_over_identities():
    """What is reported for each attribute: the mean over the columns, without the class names of the two-way view."""
    model, train = attributes()
    groups = {"sex": ("f",) * 50 + ("m",) * 50}
    model = Predictions(model.logits, model.targets, model.ids, groups, model.classes)
    train = Truth(train.targets, {"sex": ("f",) * 100 + ("m",) * 100})
    seen = {f.scope: f.value for f in by_attribute(BiasAmplification(), Evidence((model,), (), (), train))}
    assert seen == {"attribute:Male": None, "attribute:Hat": pytest.approx(0.25), "attribute:Tie": None}


def test_classes_are_each_against_the_rest():
    """Class b: predicted 20 f of 40, true 30 f of 40: -25. Class a is not skewed in training; class c is not in the test set."""
    groups = {"sex": ("f",) * 60 + ("m",) * 60}
    true = [1] * 30 + [0] * 30 + [1] * 10 + [0] * 50
    labels = [1] * 20 + [0] * 40 + [1] * 20 + [0] * 40
    train = Truth(torch.tensor([0] * 50 + [1] * 40 + [2] * 10 + [0] * 50 + [1] * 10 + [2] * 40), {"sex": ("f",) * 100 + ("m",) * 100})
    found = report(answering(labels, true, groups=groups, classes=["a", "b", "c"]), train)
    assert [f.scope for f in found] == ["all", "group:sex", "class:b@sex=f"]
    assert found.get("bias_amplification", scope="class:b@sex=f").value == pytest.approx(-0.25)
    assert (
        "1 with fewer than 10" in found.get("bias_amplification").note and "1 with a training skew" in found.get("bias_amplification").note
    )


def test_means_are_over_columns_and_over_all():
    """Two columns: +25 points by sex; by side, where predictions and truth are even, 0. Mean 12.5; only the most skewed pair is shown."""
    groups = {**SEX, "side": ("l", "r") * 50}
    train = Truth(truth(60, 20).targets, {**truth(60, 20).groups, "side": ("l",) * 50 + ("r",) * 150})
    found = report(choosing(said(30, 10), said(20, 20), groups), train, most=1)
    seen = {f.scope: f.value for f in found}
    assert seen == {"all": pytest.approx(0.125), "group:sex": pytest.approx(0.25), "group:side": 0, "class:yes@side=l": 0}


def test_forty_attributes_and_four_identities_stay_readable():
    """160 pairs at most, and a line for each model: no more than 495 findings however much is eligible."""
    generator = torch.Generator().manual_seed(1)
    groups = {f"g{i}": tuple("no" if x else "yes" for x in torch.rand(600, generator=generator) < 0.5) for i in range(4)}
    targets = (torch.rand(600, 40, generator=generator) < 0.4).long()
    labels = torch.where(torch.rand(600, 40, generator=generator) < 0.2, 1 - targets, targets)
    model, names = telling(labels, targets, groups, map(str, range(40))), {"all", "group:g0", "group:g1", "group:g2", "group:g3"}
    found = report(model, Truth(targets, groups), model, skew=0.0)
    assert len({f.scope for f in found}) <= 165 and names <= {f.scope for f in found} and len(list(found)) <= 495


def test_the_order_of_samples_and_the_names_of_groups_do_not_matter():
    """Shuffled: the same findings, in more samples than are drawn one by one. Renamed: the same number under another name."""
    generator = torch.Generator().manual_seed(2)
    groups = {"sex": tuple("f" if x else "m" for x in torch.rand(6000, generator=generator) < 0.4)}
    labels, targets = (torch.rand(2, 6000, generator=generator) < 0.3).long().tolist()
    one = choosing(labels, targets, groups)
    other = shuffled(one, torch.randperm(6000, generator=generator).tolist())
    assert list(report(one, truth(60, 20), one)) == list(report(other, truth(60, 20), other))
    renamed = choosing(labels, targets, {"sex": tuple("z" if x == "f" else "m" for x in groups["sex"])})
    theirs = report(renamed, truth(60, 20, groups=("z", "m")))
    assert [f.value for f in theirs] == pytest.approx([f.value for f in report(one, truth(60, 20))])


@pytest.mark.slow
def test_interval_holds_the_truth():
    """150 test sets of 400: true positives .42 of f and .18 of m, predicted .5 and .1: 5/6 - .7 is in about 95 of 100 intervals."""
    generator = torch.Generator().manual_seed(3)
    held = 0
    for _ in range(150):
        female = torch.rand(400, generator=generator) < 0.5
        true = torch.rand(400, generator=generator) < torch.where(female, 0.42, 0.18)
        labels = torch.rand(400, generator=generator) < torch.where(female, 0.5, 0.1)
        groups = {"sex": tuple("f" if x else "m" for x in female.tolist())}
        found = report(choosing(labels.long().tolist(), true.long().tolist(), groups), truth(60, 20)).get("bias_amplification")
        held += found.low <= 5 / 6 - 0.7 <= found.high
    assert 133 <= held <= 149
