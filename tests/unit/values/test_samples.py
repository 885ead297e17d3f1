"""Samples, predictions and reports: columns of one length, choices by position, findings by name."""

from __future__ import annotations

import json

import pytest
import torch

from sparsify_cli.errors import Anomalous, BadData
from sparsify_cli.values.predictions import Predictions
from sparsify_cli.values.report import Finding, Report
from sparsify_cli.values.samples import Samples

FOUR = Samples(
    torch.arange(8.0).reshape(4, 2), torch.tensor([0, 2, 1, 2]), ("a", "b", "c", "d"), {"side": ("l", "r", "l", "r")}, ("x", "y", "z")
)


def test_taking_keeps_columns_together():
    """Position 3 then 1: inputs, labels, ids and groups in that order; class names stay."""
    two = FOUR.take([3, 1])
    assert two.inputs.tolist() == [[6.0, 7.0], [2.0, 3.0]]
    assert (two.targets.tolist(), two.ids, two.groups, two.classes) == ([2, 2], ("d", "b"), {"side": ("r", "r")}, ("x", "y", "z"))
    assert len(FOUR.take([])) == 0 and len(FOUR.take(torch.tensor([0, 2]))) == 2
    one = FOUR.take([2])
    assert (one.ids, one.groups) == (("c",), {"side": ("l",)})


def test_outputs():
    """Named classes count; without names the largest label plus one; nothing has none."""
    assert FOUR.outputs == 3
    assert Samples(torch.zeros(2, 1), torch.tensor([0, 4]), ("a", "b")).outputs == 5
    assert Samples(torch.zeros(0, 1), torch.zeros(0, dtype=torch.int64), ()).outputs == 0


def test_a_description_for_manifests():
    """Size, shape and group columns, as plain values."""
    assert json.loads(json.dumps(FOUR.describe())) == {"n": 4, "shape": [2], "outputs": 3, "groups": ["side"]}


@pytest.mark.parametrize(
    ("targets", "ids", "groups", "word"),
    [
        (torch.zeros(3, dtype=torch.int64), ("a", "b"), {}, "targets"),
        (torch.zeros(2, dtype=torch.int64), ("a",), {}, "ids"),
        (torch.zeros(2, dtype=torch.int64), ("a", "b"), {"side": ("l",)}, r"groups\.side"),
        (torch.zeros(2, dtype=torch.int64), ("a", "a"), {}, "1 of 2 are duplicates"),
    ],
)
def test_columns_must_fit(targets, ids, groups, word):
    """A column of another length, and an id that names two samples, are refused by name and number."""
    with pytest.raises(BadData, match=word):
        Samples(torch.zeros(2, 1), targets, ids, groups)


def test_predictions_by_hand():
    """Logits ln 1 and ln 3 are probabilities 1/4 and 3/4; the lowest label wins a tie."""
    found = Predictions(torch.tensor([[1.0, 3.0], [2.0, 2.0]]).log(), torch.tensor([1, 1]), ("a", "b"))
    torch.testing.assert_close(found.probabilities, torch.tensor([[0.25, 0.75], [0.5, 0.5]]).double(), atol=1e-7, rtol=0)
    assert (found.labels.tolist(), found.correct.tolist(), len(found)) == ([1, 0], [True, False], 2)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_predictions_that_are_no_numbers(value):
    """One odd sample of two is counted: every number made from it would be wrong."""
    with pytest.raises(Anomalous, match="1 of 2"):
        Predictions(torch.tensor([[0.0, value], [0.0, 1.0]]), torch.tensor([0, 0]), ("a", "b"))


def test_a_report_finds_by_name_model_and_scope():
    """The same number exists for the dense model, for a class and as a change."""
    found = [Finding(name="accuracy", value=v, of=of, scope=scope) for v, of, scope in ((0.9, "compressed", "all"), (0.95, "dense", "all"))]
    report = Report((*found, Finding(name="accuracy", value=0.5, scope="class:3")), {"seed": 0})
    assert report.get("accuracy").value == 0.9
    assert report.get("accuracy", of="dense").value == 0.95
    assert report.get("accuracy", scope="class:3").value == 0.5
    assert report.get("accuracy", of="change") is None and report.get("nll") is None
    assert len(list(report)) == 3


def test_a_report_is_plain_json():
    """It survives JSON, with schema, facts and every field of a finding."""
    plain = json.loads(json.dumps(Report((Finding(name="nll", value=None, note="no data"),), {"a": [1]}).to_json()))
    assert (plain["schema"], plain["facts"]) == ("sparsify/report/1", {"a": [1]})
    assert plain["findings"][0]["name"] == "nll" and plain["findings"][0]["value"] is None
    assert set(plain["findings"][0]) >= {"unit", "n", "low", "high", "of", "scope", "better", "definition", "source", "note"}
