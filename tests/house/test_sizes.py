"""Small files and small functions: the budget of the house."""

from __future__ import annotations

from statistics import median, quantiles

import pytest

from tests.house.tree import PACKAGE, TESTS, body_lines, functions, python_files, shown

LONGEST_FILE = 400
MEDIAN_FILE = 150
LONGEST_BODY = 50
MOST_BODIES = 25
MEDIAN_BODY = 7

BODIES = {f"{shown(path, node)} {node.name}": size for path, node in functions(PACKAGE) if (size := body_lines(path, node))}
"""Promises (a docstring and nothing else) have no body and do not count."""


@pytest.mark.parametrize("folder", [PACKAGE, TESTS], ids=["package", "tests"])
def test_no_file_is_long(folder):
    """No Python file has more than 400 lines."""
    lengths = {shown(path): len(path.read_text(encoding="utf-8").splitlines()) for path in python_files(folder)}
    assert {path: n for path, n in lengths.items() if n > LONGEST_FILE} == {}


def test_files_are_short_as_a_rule():
    """The median file that is more than a docstring has at most 150 lines."""
    lengths = [len(path.read_text(encoding="utf-8").splitlines()) for path in python_files(PACKAGE) if path.name != "__init__.py"]
    assert median(lengths) <= MEDIAN_FILE


def test_no_function_is_long():
    """No function body has more than 50 lines, docstring not counted."""
    assert {name: size for name, size in BODIES.items() if size > LONGEST_BODY} == {}


def test_nine_of_ten_functions_fit_on_a_screen():
    """Nine of ten function bodies have at most 25 lines."""
    assert quantiles(BODIES.values(), n=10)[-1] <= MOST_BODIES


def test_functions_are_short_as_a_rule():
    """The median function body has at most 7 lines."""
    assert median(BODIES.values()) <= MEDIAN_BODY
