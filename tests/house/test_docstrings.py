"""Everything public says what it is for."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.house.tree import PACKAGE, TESTS, Documented, functions, python_files, shown, tree_of


def public(path: Path, node: Documented, inside: str = "") -> list[str]:
    """What is public below `node` and has no docstring; functions inside functions are private."""
    here = f"{shown(path, node)} {inside}".strip()
    missing = [] if ast.get_docstring(node) else [here]
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return missing
    members = [child for child in node.body if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)]
    return missing + [name for child in members if not child.name.startswith("_") for name in public(path, child, child.name)]


def test_everything_public_has_a_docstring():
    """Every public module, class, function and method of the package has a docstring."""
    assert [name for path in python_files(PACKAGE) for name in public(path, tree_of(path))] == []


def test_every_test_states_its_claim():
    """Every test has a docstring."""
    tests = [(path, node) for path, node in functions(TESTS) if node.name.startswith("test_")]
    assert [f"{shown(path, node)} {node.name}" for path, node in tests if not ast.get_docstring(node)] == []


@pytest.mark.parametrize(
    ("source", "missing"),
    [
        ('"""M."""\ndef seen(): pass', 1),
        ('"""M."""\ndef _hidden(): pass', 0),
        ('"""M."""\nclass C:\n    """C."""\n    def m(self): pass', 1),
        ("x = 1", 1),
    ],
)
def test_the_rule_finds_what_is_missing(source, missing):
    """The rule above counts undocumented public things."""
    assert len(public(PACKAGE / "sample.py", ast.parse(source))) == missing
