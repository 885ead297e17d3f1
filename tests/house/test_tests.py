"""Every test can fail."""

from __future__ import annotations

import ast
import functools

import pytest

from tests.house.tree import TESTS, dotted, functions, shown

CHECKS = ("assert", "raises", "warns", "fail")
Function = ast.FunctionDef | ast.AsyncFunctionDef


def is_check(node: ast.AST) -> bool:
    """True for an assert that can fail."""
    return isinstance(node, ast.Assert) and not (isinstance(node.test, ast.Constant) and bool(node.test.value))


@functools.cache
def found_in(function: Function) -> tuple[bool, frozenset[str]]:
    """Whether the function's own code, or that of functions inside it, checks something, and the names of what it calls."""
    inside = [node for statement in function.body for node in ast.walk(statement)]
    called = frozenset(dotted(node.func).rpartition(".")[2] for node in inside if isinstance(node, ast.Call))
    return any(map(is_check, inside)) or any(name.startswith(CHECKS) for name in called), called


def can_fail(function: Function, checkers: frozenset[str] = frozenset()) -> bool:
    """True when the function checks something, or calls one of `checkers`, which do."""
    checks, called = found_in(function)
    return checks or bool(called & checkers)


def asserting(found: list[Function]) -> frozenset[str]:
    """Names of the functions among `found` that check something themselves or through another of them."""
    names: frozenset[str] = frozenset()
    while names != (more := frozenset(function.name for function in found if can_fail(function, names))):
        names = more
    return names


def test_no_test_is_without_an_assertion():
    """A test without an assertion is found and refused."""
    tests = [(path, node) for path, node in functions(TESTS) if node.name.startswith("test_")]
    checkers = asserting([node for _, node in functions(TESTS) if not node.name.startswith("test_")])
    assert len(tests) > 0
    assert [f"{shown(path, node)} {node.name}" for path, node in tests if not can_fail(node, checkers)] == []


@pytest.mark.parametrize(
    ("source", "fails"),
    [
        ("def test_a(): run()", False),
        ("def test_a(): assert True", False),
        ("def test_a(): assert 1, 'always'", False),
        ("def test_a():\n    '''assert x'''\n    run()", False),
        ("def test_a(): assert run() == 3", True),
        ("def test_a():\n    with pytest.raises(E): run()", True),
        ("def test_a(): torch.testing.assert_close(a, b)", True),
        ("def test_a():\n    def inner():\n        assert run()\n    inner()", True),
    ],
)
def test_the_rule_finds_tests_that_cannot_fail(source, fails):
    """The rule above tells tests that check something from tests that do not."""
    assert can_fail(ast.parse(source).body[0]) is fails


def test_checks_are_found_through_calls():
    """A function that only calls one that asserts counts as a check; one that calls neither does not."""
    source = "def a(): assert x\ndef b(): a()\ndef c(): print(x)\ndef d(): c()"
    assert asserting(ast.parse(source).body) == {"a", "b"}


def test_names_are_unique_in_a_file():
    """No test hides another of the same name in the same file and class."""
    seen, hidden = set(), []
    for path, node in functions(TESTS):
        if not node.name.startswith("test_"):
            continue
        key = (path, node.name, node.col_offset)
        hidden += [f"{shown(path, node)} {node.name}"] if key in seen and node.col_offset == 0 else []
        seen.add(key)
    assert hidden == []
