"""The repository as the house tests see it: files, syntax trees, functions, verbs."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from sparsify_cli.recipes.verbs import RECIPES

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "sparsify_cli"
TESTS = ROOT / "tests"
VERBS = (*(recipe.verb for recipe in RECIPES), "list", "env")
"""Every word that may follow `sparsify`."""

Function = ast.FunctionDef | ast.AsyncFunctionDef
Documented = Function | ast.ClassDef | ast.Module


def python_files(folder: Path) -> list[Path]:
    """Every Python file below `folder`, sorted."""
    return sorted(path for path in folder.rglob("*.py") if "__pycache__" not in path.parts)


def shown(path: Path, node: ast.AST | None = None) -> str:
    """`file` or `file:line`, as a person would look it up."""
    where = path.relative_to(ROOT).as_posix()
    return f"{where}:{getattr(node, 'lineno', 1)}" if node is not None else where


@cache
def tree_of(path: Path) -> ast.Module:
    """A file's syntax tree."""
    return ast.parse(path.read_text(encoding="utf-8"))


def nodes(folder: Path) -> Iterator[tuple[Path, ast.AST]]:
    """Every node of every file below `folder`."""
    for path in python_files(folder):
        for node in ast.walk(tree_of(path)):
            yield path, node


def functions(folder: Path) -> Iterator[tuple[Path, Function]]:
    """Every function and method below `folder`, nested ones too."""
    for path, node in nodes(folder):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield path, node


def body_lines(path: Path, function: Function) -> int:
    """Lines of a function's body that hold something; its signature and docstring are not counted."""
    body = function.body[1:] if ast.get_docstring(function, clean=False) is not None else function.body
    if not body:
        return 0
    text = path.read_text(encoding="utf-8").splitlines()[body[0].lineno - 1 : body[-1].end_lineno]
    return sum(1 for line in text if line.strip())


def dotted(node: ast.AST) -> str:
    """`torch.load` for the expression torch.load, `?.load` for make().load; empty for anything else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value) or '?'}.{node.attr}"
    return ""


def calls(folder: Path) -> Iterator[tuple[Path, ast.Call, str]]:
    """Every call below `folder` with the dotted name of what is called."""
    for path, node in nodes(folder):
        if isinstance(node, ast.Call):
            yield path, node, dotted(node.func)


def imported(tree: ast.AST) -> Iterator[tuple[ast.AST, str]]:
    """Every absolute module name a file imports, at the top or inside a function."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node, node.module
