"""Names say what a thing is."""

from __future__ import annotations

import re

import pytest

from tests.house.tree import PACKAGE, ROOT, TESTS, shown

NOTHING_SAID = re.compile(r"(^|_)(utils?|helpers?|common|misc|manager)(_|$)", re.IGNORECASE)


@pytest.mark.parametrize("folder", [PACKAGE, TESTS, ROOT / "benchmarks"], ids=["package", "tests", "benchmarks"])
def test_no_file_or_folder_is_a_drawer(folder):
    """No file or folder is called utils, helpers, common, misc or manager."""
    named = [path for path in folder.rglob("*") if "__pycache__" not in path.parts]
    assert [shown(path) for path in named if NOTHING_SAID.search(path.stem)] == []


@pytest.mark.parametrize(("name", "says_nothing"), [("utils", True), ("test_utils", True), ("io_helpers", True), ("commons", False)])
def test_the_rule_finds_drawers(name, says_nothing):
    """The rule above refuses a drawer however it is spelled, and nothing else."""
    assert bool(NOTHING_SAID.search(name)) is says_nothing


def test_top_level_is_fixed():
    """The top level holds what the house says and nothing more."""
    house = {"pyproject.toml", "sparsify_cli", "tests", "sample_configs", "benchmarks", "README.md", "Makefile", "LICENSE", "CHANGELOG.md"}
    made = {"constraints.txt", "runs", "dist", "build", "docs"}
    found = {path.name for path in ROOT.iterdir() if not path.name.startswith(".")}
    assert found - house - made == set()
    assert house - found == set()
