"""What is required is used, what is used is required, and versions are pinned."""

from __future__ import annotations

import re
import sys
import tomllib

from tests.house.tree import PACKAGE, ROOT, imported, python_files, tree_of

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
IMPORT_NAMES = {"pyyaml": "yaml", "pillow": "PIL", "scikit-learn": "sklearn", "lightning-fabric": "lightning_fabric"}
USED_BY_OTHERS = {"onnxscript"}
"""torch.onnx.export imports onnxscript and does not require it."""
PARTS = {"markupsafe": "jinja2"}
"""Modules that are part of what a dependency promises: Jinja2's own type of safe text."""


def distribution(requirement: str) -> str:
    """The normalised distribution name of a requirement."""
    return re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0].lower().replace("_", "-")


REQUIRED = {distribution(requirement) for requirement in PROJECT["dependencies"]}
IMPORTED = {name.partition(".")[0] for path in python_files(PACKAGE) for _, name in imported(tree_of(path))}


def test_what_is_required_is_imported():
    """Every dependency is imported somewhere in the package; nobody installs what is not used."""
    unused = {name for name in REQUIRED - USED_BY_OTHERS if IMPORT_NAMES.get(name, name.replace("-", "_")) not in IMPORTED}
    assert unused == set()


def test_what_is_imported_is_required():
    """Every third-party module the package imports belongs to a declared dependency."""
    known = {IMPORT_NAMES.get(name, name.replace("-", "_")) for name in REQUIRED}
    known |= {part for part, whole in PARTS.items() if whole in REQUIRED}
    assert IMPORTED - known - set(sys.stdlib_module_names) - {"sparsify_cli"} == set()


def test_constraints_pin_every_dependency():
    """constraints.txt holds one exact version a line and covers every requirement and every extra."""
    lines = [line for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    assert [line for line in lines if not re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][0-9A-Za-z.]*", line)] == []
    pinned = {distribution(line) for line in lines}
    extras = {distribution(requirement) for extra in PROJECT["optional-dependencies"].values() for requirement in extra}
    assert (REQUIRED | extras) - pinned - {PROJECT["name"]} == set()
