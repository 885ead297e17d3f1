"""Relative changes of error, by hand."""

from __future__ import annotations

import math

import pytest

from sparsify_cli.maths.transfer import transferred


def test_by_hand():
    """Errors 0.2 -> 0.3 and 0.4 -> 0.3: +0.5 and -0.25; mean 0.125, deviation 0.53033, by the root of two 0.375."""
    found = transferred({"a": 0.8, "b": 0.6}, {"a": 0.7, "b": 0.7})
    assert found.changes == pytest.approx({"a": 0.5, "b": -0.25})
    assert found.mean == pytest.approx(0.125) and found.error == pytest.approx(0.375)
    assert found.better == 1 and found.accuracy == pytest.approx(0.7)


def test_tasks_of_one_alone_do_not_count():
    """Only tasks of both; a single one has no standard error."""
    found = transferred({"a": 0.5, "c": 0.9}, {"a": 0.5, "b": 0.1})
    assert found.changes == {"a": 0.0} and math.isnan(found.error) and found.better == 0
