"""Gates: read, checked, and said in a sentence."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import sparsify_cli
from sparsify_cli.errors import BadRequest, Regression, UnknownName
from sparsify_cli.stages.gates import Gate, check_gates, parse_gate, read_gates
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
    "text", ["", "accuracy", "accuracy=0.9", "accuracy>=", ">=0.9", "accuracy>=high", "accuracy>=1.2.3", "accuracy>=5km", "a,b>1"]
)
def test_what_is_no_gate(text):
    """A condition that cannot be read is malformed, not failed."""
    with pytest.raises(BadRequest):
        parse_gate(text)


def test_gates_that_hold():
    """Bounds themselves count for >= and <=; one sentence each, no failure."""
    checked, failure = check_gates(["accuracy>=0.95", "bytes_packed<=1MB", "change.accuracy>=-2%"], REPORT)
    assert failure is None
    assert checked[0].sentence == "accuracy>=0.95: holds, measured 0.95"
    assert [one.holds for one in checked] == [True] * 3


def test_gates_that_do_not_hold():
    """The failures are counted and said, exit code 3; those that hold are not among them."""
    checked, failure = check_gates(["accuracy>0.95", "dense.accuracy>0.9", "accuracy@class:3>=60%"], REPORT)
    assert isinstance(failure, Regression) and failure.exit_code == 3
    assert "2 of 3 gates failed" in str(failure)
    assert "accuracy>0.95: DOES NOT HOLD, measured 0.95" in str(failure) and "dense.accuracy" not in str(failure)
    assert [one.holds for one in checked] == [False, True, False]


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


SCOPED = Report(
    (
        Finding(name="accuracy", value=0.95),
        *(Finding(name="accuracy", value=v, scope=s) for s, v in (("class:3", 0.5), ("group:sex=Female", 0.6), ("group:sex=Male", 0.7))),
        *(Finding(name="accuracy", value=0.8, scope=s) for s in ("class:left", "group:side=left", "group:arm=left")),
        *(Finding(name="group_gap", value=0.1, scope=s) for s in ("group:sex=Female", "group:sex=Male")),
        Finding(name="worst_group", value=0.6, scope="group:sex"),
        Finding(name="bytes_packed", value=10.0),
    )
)


@pytest.mark.parametrize(
    ("gate", "measured"),
    [
        ("accuracy@sex:Female>=0", "0.6"),
        ("accuracy@sex=Female>=0", "0.6"),
        ("accuracy@group:sex=Female>=0", "0.6"),
        ("accuracy@class:3>=0", "0.5"),
        ("accuracy@3>=0", "0.5"),
        ("accuracy@left>=0", "0.8"),
        ("worst-group>=0", "0.6"),
        ("worst_group@sex>=0", "0.6"),
        ("bytes-packed>=0", "10"),
        ("accuracy>=0", "0.95"),
    ],
)
def test_names_and_scopes_as_people_write_them(gate, measured):
    """With hyphens, without `class:` or `group:`, with a colon for the equals sign, wherever only one number can be meant."""
    assert [one.sentence for one in check_gates([gate], SCOPED)[0]] == [f"{gate}: holds, measured {measured}"]


@pytest.mark.parametrize("text", ["group-gap<=1", "accuracy@sex<=1", "accuracy@female>=0"])
def test_a_scope_that_could_be_any(text):
    """Two groups and no scope, a column where a value is needed, another spelling: those there are get listed."""
    with pytest.raises(UnknownName, match=r"@group:sex=Female, \w+@group:sex=Male"):
        check_gates([text], SCOPED)


def test_an_unknown_name_lists_short_names():
    """Not one line for each class and group; how to name those is said."""
    with pytest.raises(UnknownName, match=r"Known: accuracy, bytes_packed\. .*accuracy@class:3") as caught:
        check_gates(["acuracy>=0"], SCOPED)
    assert "Male" not in str(caught.value)


@pytest.mark.parametrize(
    ("zeros", "n", "text", "holds"),
    [
        (241_502, 268_336, "sparsity>=0.9", True),
        (241_501, 268_336, "sparsity>=0.9", False),
        (241_502, 268_336, "sparsity>0.9", False),
        (5, 9, "sparsity<=0.5", True),
        (6, 9, "sparsity<=0.5", False),
        (9, 10, "sparsity>=0.9", True),
    ],
)
def test_a_sparsity_holds_within_half_a_weight(zeros, n, text, holds):
    """0.9 of 268336 is 241502.4: 241502 zeros are the nearest count, one fewer is too few; a strict bound stays strict."""
    report = Report((Finding(name="sparsity", value=zeros / n, unit="fraction", n=n),))
    assert (check_gates([text], report)[1] is None) == holds


def test_other_fractions_have_no_slack():
    """An accuracy of 8 in 9 is below 0.9, however few samples there are."""
    report = Report((Finding(name="accuracy", value=8 / 9, unit="fraction", n=9),))
    assert check_gates(["accuracy>=0.9"], report)[1] is not None


def test_names_as_tables_print_them():
    """`bytes packed` and `worst-group` are the findings bytes_packed and worst_group."""
    assert parse_gate("bytes packed<=1MB").name == "bytes_packed"
    assert parse_gate("worst-group >= 0.5").name == "worst_group"


def test_a_comparison_needs_two_networks():
    """A gate on a change is sent to the verb that compares."""
    with pytest.raises(BadRequest, match="sparsify report"):
        check_gates(["change.accuracy>=-0.015"], Report((Finding(name="accuracy", value=0.9),)))


@pytest.mark.parametrize(
    "text", ["accuracy>=90", "change.accuracy>=-2", "accuracy@class:3<=5", "ece<=5", "token_agreement>=90", "fairness_gaps_parity<=5"]
)
def test_percent_without_its_sign_is_refused(text):
    """No share is beyond 1; what was meant is said before anything is measured."""
    with pytest.raises(BadRequest, match=r"is a share.*% for percent"):
        parse_gate(text)
    assert parse_gate(f"{text}%").bound == parse_gate(text.replace(">=-2", ">=-0.02").replace("90", "0.9").replace("=5", "=0.05")).bound


@pytest.mark.parametrize("text", ["output_shift<=2", "r2>=-2", "perplexity<=12", "relative_step_norm<=1.5"])
def test_numbers_beyond_one_may_be_asked_for(text):
    """Not every number without a unit is a share."""
    assert abs(parse_gate(text).bound) > 1


@pytest.mark.parametrize(
    ("text", "meant"), [("acuracy>=0.9", "accuracy"), ("bytes-paked<=1MB", "bytes_packed"), ("worst_grup>=0.5", "worst_group")]
)
def test_a_slip_is_told_before_anything_is_measured(text, meant):
    """A name that is all but that of a known number is refused with what was probably meant."""
    with pytest.raises(UnknownName, match=f"Did you mean '{meant}'"):
        read_gates([text])


def test_no_name_that_is_measured_is_taken_for_a_slip():
    """Every name of a finding in the source code may be asked for, beside names that nothing is like."""
    root = Path(sparsify_cli.__file__).parent
    names = {name for file in root.rglob("*.py") for name in re.findall(r'Finding\(\s*name="(\w+)"', file.read_text())}
    assert len(names) > 40
    assert [gate.name for gate in read_gates([f"{name}>=0.5" for name in sorted(names)])] == sorted(names)
    for own in ("of_my_own", "accuracy2", "top_accuracy"):
        assert read_gates([f"{own}>=0.3"])[0].name == own
