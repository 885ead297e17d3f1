"""Every metric on the shelf keeps the promise of `contracts/metric.py`, whatever it measures."""

import dataclasses
import importlib
import math
import re
from dataclasses import replace

import pytest
import torch

from sparsify_cli.contracts.metric import Evidence, Truth
from sparsify_cli.shelf import Shelf
from sparsify_cli.values.predictions import Predictions
from tests.predictions import answering, shuffled

SHELF = Shelf("metrics")
OF_CHOICES = [name for name in SHELF.names() if SHELF.load(name).kinds & {"classes", "attributes"}]
N = 120


def model(seed: int, sharp: float = 1.5) -> Predictions:
    """A model with three classes that is right more often than not."""
    noise = torch.randn(N, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    targets = torch.arange(N) % 3
    logits = sharp * (noise + 2 * torch.nn.functional.one_hot(targets, 3))
    groups = {"side": tuple("left" if i % 2 else "right" for i in range(N)), "rare": tuple("no" if i > 2 else "yes" for i in range(N))}
    return Predictions(logits, targets, tuple(f"s{i}" for i in range(N)), groups, ("a", "b", "c"))


def attributes(seed: int) -> Predictions:
    """The same model asked about three attributes that hang together."""
    one = model(seed)
    targets = torch.stack([one.targets > 0, one.targets > 1, torch.arange(N) % 5 > 1], dim=1).long()
    noise = torch.randn(N, 3, generator=torch.Generator().manual_seed(seed + 50), dtype=torch.float64)
    return Predictions(2.0 * targets - 1 + noise, targets, one.ids, one.groups, ("x", "y", "z"))


def evidence_of(make, *, dense: bool = True, models: int = 1) -> Evidence:
    """Compressed and dense models of one make, and a training set in which a side goes with the answer more often than with others."""
    targets = make(0).targets
    first = (targets if targets.ndim == 1 else targets[:, 0]).tolist()
    sides = tuple("left" if i % 2 or label == 1 else "right" for i, label in enumerate(first))
    compressed, others = (tuple(make(2 * i + side) for i in range(models)) for side in (0, 1))
    return Evidence(compressed, others if dense else (), train=Truth(targets, {**make(0).groups, "side": sides}))


def made_for(metric):
    """What a metric is asked about: attributes where it needs them, else classes."""
    return attributes if "attributes" in metric.needs else model


@pytest.fixture(params=OF_CHOICES)
def metric(request):
    """One metric with its default options."""
    return SHELF.load(request.param)()


@pytest.fixture
def pair(metric):
    """One model a side."""
    return evidence_of(made_for(metric))


@pytest.fixture(params=[1, 2], ids=["pair", "populations"])
def evidence(metric, request):
    """One model a side, or two."""
    return evidence_of(made_for(metric), models=request.param)


def test_options_are_fields_with_defaults(metric):
    """A frozen dataclass that can be made without arguments and whose Args name every field."""
    assert dataclasses.is_dataclass(metric) and type(metric).__dataclass_params__.frozen
    fields = [field.name for field in dataclasses.fields(metric)]
    assert all(f"{name}:" in type(metric).__doc__ for name in fields)


def test_module_says_what_and_names_its_source(metric):
    """The module docstring starts with a sentence and ends with its source."""
    text = importlib.import_module(type(metric).__module__).__doc__
    assert re.match(r"[A-Z].*[.]$", text.splitlines()[0]) and "Source:" in text


def test_needs_are_known(metric):
    """A metric needs nothing, dense predictions, the truth of the training set, or attributes seen whole."""
    assert metric.needs <= {"dense", "train", "attributes"}


def test_findings_explain_themselves(metric, evidence):
    """Name after the file, one sentence of definition, a source, and n or a note on every finding."""
    file = type(metric).__module__.rsplit(".", 1)[-1]
    found = metric.measure(evidence)
    assert found
    for finding in found:
        assert finding.name == file or finding.name.startswith(f"{file}_")
        assert re.fullmatch(r"[A-Z].*[.]", finding.definition) and finding.source
        assert finding.n > 0 or finding.note


def test_numbers_are_finite_and_inside_their_interval(metric, evidence):
    """Value between low and high where there is an interval; a missing value has a note."""
    for finding in metric.measure(evidence):
        assert (finding.value is None and finding.note) or math.isfinite(finding.value)
        assert (finding.low is None) == (finding.high is None)
        assert finding.low is None or finding.low <= finding.value <= finding.high


def test_change_is_compressed_minus_dense(metric, pair):
    """Where all three are reported for a scope they fit together."""
    seen = {(f.name, f.scope, f.of): f.value for f in metric.measure(pair)}
    changes = [key[:2] for key, value in seen.items() if key[2] == "change" and value is not None]
    for name, scope in changes:
        assert seen[name, scope, "change"] == pytest.approx(seen[name, scope, "compressed"] - seen[name, scope, "dense"], abs=1e-12)
    assert changes or "dense" in metric.needs


def test_without_dense_it_speaks_of_the_compressed_model_only(metric):
    """No dense predictions: no dense numbers and no change; a metric that needs them says so beforehand."""
    alone = evidence_of(made_for(metric), dense=False)
    said = {"compressed"} if "dense" in metric.needs else {f.of for f in metric.measure(alone)}
    assert said == {"compressed"}


def test_the_same_model_twice_has_not_changed(metric, pair):
    """Dense = compressed: every change is 0, churn and exemplars are 0."""
    same = replace(pair, dense=pair.compressed)
    found = [f for f in metric.measure(same) if f.of == "change" or f.name in ("churn", "exemplars")]
    assert found and all(f.value in (0, None) for f in found)


def test_the_order_of_samples_does_not_matter(metric, pair):
    """Shuffling the samples leaves every number and interval where it was."""
    order = torch.randperm(N, generator=torch.Generator().manual_seed(9)).tolist()
    other = replace(pair, compressed=(shuffled(pair.compressed[0], order),), dense=(shuffled(pair.dense[0], order),))
    for mine, theirs in zip(metric.measure(pair), metric.measure(other), strict=True):
        assert (mine.name, mine.of, mine.scope, mine.n, mine.note) == (theirs.name, theirs.of, theirs.scope, theirs.n, theirs.note)
        numbers = [(f.value or 0.0, f.low or 0.0, f.high or 0.0) for f in (mine, theirs)]
        assert numbers[0] == pytest.approx(numbers[1], abs=1e-12)


def test_measuring_changes_nothing_and_repeats_itself(metric, pair):
    """The evidence keeps its bits and a second call gives the same findings, whatever the global generator does."""
    before = pair.compressed[0].logits.clone()
    first = metric.measure(pair)
    torch.rand(3)
    assert metric.measure(pair) == first and torch.equal(pair.compressed[0].logits, before)


def test_small_groups_get_a_note_instead_of_a_number(metric, pair):
    """Three samples of group rare=yes never get a number, whatever the metric."""
    rare = [f for f in metric.measure(pair) if f.scope == "group:rare=yes"]
    assert all(f.value is None and "not enough data" in f.note for f in rare)


def test_few_samples_never_break_a_metric(metric):
    """Three samples, one of them unlike the others: findings without a crash, missing numbers with a note."""
    few = answering([0, 1, 2], [0, 0, 2])
    for finding in metric.measure(Evidence((few,), (few,))):
        assert finding.value is not None or finding.note
