"""Looking numbers up, and the JSON."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from sparsify_cli.errors import BadRequest
from sparsify_cli.pages.document import to_json
from sparsify_cli.pages.view import Stage, View
from sparsify_cli.values.report import Finding, Report
from tests.unit.pages.fakes import accuracy, view

GOLDEN = Path(__file__).parents[2] / "golden" / "report.json"


def test_subject_is_the_last_compressed_stage():
    """Unlearning after compression does not change what the page is about, unless asked."""
    stages = tuple(Stage(v, v, "", {}, Report()) for v in ("dense", "prune", "finetune", "unlearn"))
    assert View("t", stages).about.name == "finetune"
    assert View("t", stages, subject=3).about.name == "unlearn"
    assert View("t", (stages[0], stages[3])).about.name == "unlearn"


def test_impossible_views_are_refused():
    """No stage, or a subject that is not there, is a sentence and not a broken page."""
    with pytest.raises(BadRequest, match="at least one model"):
        View("t", ())
    with pytest.raises(BadRequest, match="stage 5"):
        view(subject=5)


def test_dense_number_is_found_wherever_it_is():
    """In the ancestor's own report under either name, else in what the subject's report says of it."""
    own = Stage("dense", "train", "", {}, Report((accuracy(0.5),)))
    assert view().dense("accuracy").value == 0.978
    assert view(stages=(own, view().stages[1])).dense("accuracy").value == 0.5
    assert view().dense("nothing") is None
    assert view().dense("bytes_dense").name == "bytes_disk"


def test_change_without_a_measured_one_is_the_difference_without_interval():
    """0.02 - 0.01 = 0.01, and no interval is invented."""
    change = view().change("ece")
    assert change.value == pytest.approx(0.01)
    assert (change.low, change.high, change.of) == (None, None, "change")
    assert view().change("accuracy", 0) is None


def test_json_matches_its_golden_file():
    """Pipelines read this: a change of shape or value must be seen in review."""
    assert json.loads(json.dumps(to_json(view()), allow_nan=False)) == json.loads(GOLDEN.read_text(encoding="utf-8"))


def test_json_is_strict_and_plain():
    """NaN and infinity become null, numpy numbers become numbers, anything else its text."""
    odd = Report((Finding(name="x", value=float("nan"), low=float("inf")),), {"a": np.float32(0.5), "b": (1, np.int64(2)), "c": Path("p")})
    stage = to_json(view(stages=(Stage("s", "v", "", {}, odd),)))["stages"][0]["report"]
    assert (stage["findings"][0]["value"], stage["findings"][0]["low"]) == (None, None)
    assert stage["facts"] == {"a": 0.5, "b": [1, 2], "c": "p"}
