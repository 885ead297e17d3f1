"""Gates: read, checked, and said in a sentence."""

from __future__ import annotations

import pytest

from sparsify_cli.errors import BadRequest, Regression, UnknownName
from sparsify_cli.stages.gates import Gate, check_gates, parse_gate
from sparsify_cli.values.report import Finding, Report

REPORT = Report(
    (
        Finding(name="accuracy", value=0.95),
        Finding(name="accuracy", value=0.97, of="dense"),
        Finding(name="accuracy", value=-0.02, of="change"),
        Finding(name="accuracy", value=0.5, scope="class:3"),
        Finding(name="bytes_packed", value=1e6, unit="bytes"),
        Finding(name="auc", value=None, note="one class only"),
        Finding(name="nll", value=float("nan")),
    )
)


@pytest.mark.parametrize(
    ("text", "gate"),
    [
        ("accuracy>=0.95", ("accuracy", "compressed", "all", ">=", 0.95)),
        (" accuracy > 95% ", ("accuracy", "compressed", "all", ">", 0.95)),
        ("change.accuracy>=-0.015", ("accuracy", "change", "all", ">=", -0.015)),
        ("dense.accuracy@class:3<.5", ("accuracy", "dense", "class:3", "<", 0.5)),
        ("accuracy@group:slant=left>=1e-1", ("accuracy", "compressed", "group:slant=left", ">=", 0.1)),
        ("bytes_packed<=1.5MB", ("bytes_packed", "compressed", "all", "<=", 1.5e6)),
        ("bytes_packed<=20kB", ("bytes_packed", "compressed", "all", "<=", 20e3)),
        ("latency_ms<5ms", ("latency_ms", "compressed", "all", "<", 5.0)),
    ],
)
def test_texts(text, gate):
    """Model, scope, sign, number and unit; a group's own `=` does not disturb."""
    found = parse_gate(text)
    assert (found.name, found.of, found.scope, found.sign) == gate[:4]
    assert found.bound == pytest.approx(gate[4], rel=1e-15)
    assert isinstance(found, Gate) and found.text == text


@pytest.mark.parametrize(
    "text", ["", "accuracy", "accuracy=0.9", "accuracy>=", ">=0.9", "accuracy>=high", "accuracy>=1.2.3", "accuracy>=5km", "a b>1"]
)
def test_what_is_no_gate(text):
    """A condition that cannot be read is malformed, not failed."""
    with pytest.raises(BadRequest):
        parse_gate(text)


def test_gates_that_hold():
    """Bounds themselves count for >= and <=; one sentence each, no failure."""
    sentences, failure = check_gates(["accuracy>=0.95", "bytes_packed<=1MB", "change.accuracy>=-2%"], REPORT)
    assert failure is None
    assert sentences[0] == "accuracy>=0.95: holds, measured 0.95"
    assert len(sentences) == 3


def test_gates_that_do_not_hold():
    """The failures are counted and said, exit code 3; those that hold are not among them."""
    sentences, failure = check_gates(["accuracy>0.95", "dense.accuracy>0.9", "accuracy@class:3>=60%"], REPORT)
    assert isinstance(failure, Regression) and failure.exit_code == 3
    assert "2 of 3 gates failed" in str(failure)
    assert "accuracy>0.95: DOES NOT HOLD, measured 0.95" in str(failure) and "dense.accuracy" not in str(failure)
    assert len(sentences) == 3


@pytest.mark.parametrize("text", ["auc>=0", "auc<=1", "nll>=0", "nll<=100"])
def test_nothing_measured_never_holds(text):
    """A number that could not be measured, or is NaN, passes no gate in either direction."""
    assert isinstance(check_gates([text], REPORT)[1], Regression)


@pytest.mark.parametrize("text", ["acuracy>=0.9", "accuracy@class:9>=0.9", "dense.nll<1"])
def test_a_number_that_was_not_measured(text):
    """A misspelt name, another scope, a model without it: what is known is listed."""
    with pytest.raises(UnknownName, match=r"Known: accuracy"):
        check_gates([text], REPORT)


def test_no_gates():
    """Nothing asked, nothing failed."""
    assert check_gates([], REPORT) == ((), None)
