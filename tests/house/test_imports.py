"""Imports read downwards, and the command line starts without torch."""

from __future__ import annotations

import subprocess
import time

import pytest
from importlinter.cli import EXIT_STATUS_SUCCESS, lint_imports

from tests.house.tree import PACKAGE, ROOT, TESTS, VERBS, imported, python_files, shown, tree_of

HEAVY = ("torch", "numpy", "matplotlib", "sklearn", "onnx", "onnxruntime", "lightning_fabric", "safetensors")
START_SECONDS = 10.0
"""Far above what a start takes; importing torch on a busy machine is what it must not become."""

PROBE = """
import sys
from sparsify_cli.cli.app import main
code = main({argv!r})
heavy = sorted({heavy!r} & {{name.partition(".")[0] for name in sys.modules}})
sys.exit(f"imported {{heavy}}" if heavy else code)
"""


def test_contracts_hold(monkeypatch, capsys):
    """Layers, independence of shelf files, terminal only in cli, no torch in recipes: import-linter agrees."""
    monkeypatch.chdir(ROOT)
    status = lint_imports(config_filename=str(ROOT / "pyproject.toml"), cache_dir=None)
    assert status == EXIT_STATUS_SUCCESS, capsys.readouterr().out


@pytest.mark.parametrize("package", ["recipes", "cli"])
def test_no_heavy_import_at_the_top(package):
    """Files of recipes and cli import nothing heavy outside a function."""
    tops = [(path, node) for path in python_files(PACKAGE / package) for node in tree_of(path).body]
    heavy = [(path, name) for path, node in tops for _, name in imported(node) if name.partition(".")[0] in HEAVY and is_top(node)]
    assert [f"{shown(path)} imports {name}" for path, name in heavy] == []


def is_top(node):
    """True for statements that run when the file is imported (functions and TYPE_CHECKING blocks do not)."""
    return type(node).__name__ in {"Import", "ImportFrom", "Try", "With"}


def test_nobody_imports_click():
    """Typer carries its own click; ours would be another one."""
    every = [(path, node, name) for folder in (PACKAGE, TESTS) for path in python_files(folder) for node, name in imported(tree_of(path))]
    assert [shown(path, node) for path, node, name in every if name.partition(".")[0] == "click"] == []


@pytest.mark.parametrize("argv", [[], ["--help"], *([verb, "--help"] for verb in VERBS)], ids=lambda argv: " ".join(argv) or "no words")
def test_help_needs_no_torch(argv, python):
    """`sparsify --help` and every `VERB --help` print help, exit 0, start soon and import neither torch nor numpy."""
    code = PROBE.format(argv=argv, heavy=set(HEAVY)) if argv else "import sparsify_cli.cli.app, sys; sys.exit('torch' in sys.modules)"
    started = time.perf_counter()
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    seconds = time.perf_counter() - started
    assert done.returncode == 0, done.stderr
    assert ("Usage" in done.stdout) == bool(argv)
    assert seconds < START_SECONDS


def test_module_is_the_command(python):
    """`python -m sparsify_cli --help` prints what `sparsify --help` prints."""
    done = subprocess.run([python, "-m", "sparsify_cli", "--help"], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert all(verb in done.stdout for verb in VERBS)
