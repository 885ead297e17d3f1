"""Tables for people: every value with its unit, or why there is none."""

from __future__ import annotations

import pytest

from sparsify_cli.stages.tables import UNMEASURED, before_after, interval, listing, said
from sparsify_cli.values.report import Finding, Report


@pytest.mark.parametrize(
    ("finding", "words"),
    [
        (None, UNMEASURED),
        (Finding(name="accuracy", value=0.9123, unit="fraction"), "91.2 %"),
        (Finding(name="bytes", value=23104, unit="bytes"), "23.1 kB"),
        (Finding(name="kept", value=1234.0, unit="weights"), "1,234 weights"),
        (Finding(name="auc", value=None, note="one class only"), "one class only"),
        (Finding(name="auc", value=None), "not enough data"),
        (Finding(name="zeros", value=0.0, unit="fraction"), "0.0 %"),
    ],
)
def test_a_value_in_words(finding, words):
    """Percent, kilobytes, thousands, the reason for a missing number; zero is a number."""
    assert said(finding) == words


def test_a_change_has_its_sign():
    """A change of accuracy is in points, with sign, ends of its interval too."""
    change = Finding(name="accuracy", value=-0.0061, unit="fraction", of="change", low=-0.02, high=0.005)
    assert said(change, change=True) == "\u22120.6 points"
    assert interval(change) == "\u22122.0 points to +0.5 points"


def test_an_interval_only_where_there_is_one():
    """Both ends or nothing."""
    assert interval(Finding(name="a", value=0.5, unit="fraction", low=0.25, high=0.75)) == "25.0 % to 75.0 %"
    assert interval(Finding(name="a", value=0.5, low=0.25)) == interval(None) == ""


def test_before_and_after():
    """Rows that either model has, in the order asked; underscores become spaces."""
    report = Report(
        (
            Finding(name="accuracy", value=0.9, unit="fraction"),
            Finding(name="accuracy", value=0.95, unit="fraction", of="dense"),
            Finding(name="bytes_packed", value=500.0, unit="bytes"),
        )
    )
    table = before_after("title", report, ("bytes_packed", "nll", "accuracy"))
    assert (table.title, table.columns) == ("title", ("", "before", "after"))
    assert table.rows == (("bytes packed", UNMEASURED, "500 bytes"), ("accuracy", "95.0 %", "90.0 %"))


def test_a_listing():
    """Scope and model beside the number; n only where it counts."""
    found = [
        Finding(name="accuracy", value=0.5, unit="fraction", scope="class:3", of="dense", n=1200, low=0.25, high=0.75),
        Finding(name="bytes_disk", value=10.0, unit="bytes"),
    ]
    table = listing("numbers", found)
    assert table.rows == (("accuracy", "class:3 dense", "50.0 %", "25.0 % to 75.0 %", "1,200"), ("bytes disk", "", "10 bytes", "", ""))
    assert all(len(row) == len(table.columns) for row in table.rows)
