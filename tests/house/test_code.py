"""What no file of the package may do."""

from __future__ import annotations

import ast
import re

import pytest

from tests.house.tree import PACKAGE, ROOT, TESTS, calls, dotted, imported, nodes, python_files, shown, tree_of

RUNS_CODE = {"eval", "exec", "pickle.load", "pickle.loads", "yaml.load", "yaml.unsafe_load", "joblib.load", "os.system"}
UNFINISHED = re.compile(r"\b(" + "|".join(["TO" + "DO", "FIX" + "ME", "X" + "XX", "HA" + "CK"]) + r")\b")
MACHINE = re.compile(r"(?<![\w.])/(home|root|Users|work|tmp|opt)/\w")


def constant(call: ast.Call, keyword: str) -> object:
    """The literal a keyword is given, or None."""
    return next((k.value.value for k in call.keywords if k.arg == keyword and isinstance(k.value, ast.Constant)), None)


def unsafe_loads(found):
    """Calls of torch.load without weights_only=True, and calls that can run what they read."""
    for path, call, name in found:
        loader = name == "yaml.load" and any("Loader" in ast.dump(arg) for arg in [*call.args[1:], *call.keywords])
        code = name == "torch.load" and constant(call, "weights_only") is not True
        if code or (name in RUNS_CODE and not loader) or constant(call, "allow_pickle") is True:
            yield shown(path, call)


def test_nothing_read_is_run():
    """torch.load is always weights_only=True, and nothing a user passes is unpickled or evaluated."""
    assert list(unsafe_loads(calls(PACKAGE))) == []


@pytest.mark.parametrize(
    ("source", "unsafe"),
    [
        ("torch.load(f)", True),
        ("torch.load(f, weights_only=False)", True),
        ("torch.load(f, weights_only=trusted)", True),
        ("torch.load(f, weights_only=True)", False),
        ("np.load(f, allow_pickle=True)", True),
        ("np.load(f, allow_pickle=False)", False),
        ("yaml.load(text)", True),
        ("yaml.load(text, Loader=StrictLoader)", False),
        ("pickle.loads(blob)", True),
        ("eval(text)", True),
        ("model.eval()", False),
    ],
)
def test_the_rule_finds_unsafe_loads(source, unsafe):
    """The rule above refuses what could run code, and only that."""
    call = ast.parse(source).body[0].value
    assert bool(list(unsafe_loads([(PACKAGE / "sample.py", call, dotted(call.func))]))) is unsafe


def test_pickle_is_named_only_to_catch_its_errors():
    """No file of the package uses a library that unpickles; the names of its errors may be caught."""
    errors = {"pickle.UnpicklingError", "pickle.PickleError"}
    used = [
        (p, n) for p, n in nodes(PACKAGE) if isinstance(n, ast.Attribute) and dotted(n).startswith("pickle.") and dotted(n) not in errors
    ]
    every = [(path, node, name) for path in python_files(PACKAGE) for node, name in imported(tree_of(path))]
    others = [
        (path, node) for path, node, name in every if name.partition(".")[0] in {"dill", "cloudpickle", "shelve", "joblib", "marshal"}
    ]
    pieces = [(p, n) for p, n in nodes(PACKAGE) if isinstance(n, ast.ImportFrom) and n.module == "pickle"]
    assert [shown(path, node) for path, node in used + others + pieces] == []


def test_only_cli_prints():
    """Calls of print and uses of the standard streams are found only in cli."""
    files = [path for path in python_files(PACKAGE) if PACKAGE / "cli" not in path.parents]
    outside = [(path, node) for path in files for node in ast.walk(tree_of(path)) if isinstance(node, ast.Call | ast.Attribute)]
    prints = [(p, n) for p, n in outside if isinstance(n, ast.Call) and isinstance(n.func, ast.Name) and n.func.id == "print"]
    streams = [(p, n) for p, n in outside if isinstance(n, ast.Attribute) and dotted(n) in {"sys.stdout", "sys.stderr"}]
    assert [shown(path, node) for path, node in prints + streams] == []


def test_nothing_is_unfinished():
    """No file leaves a note to finish it later, and no function is a stub."""
    noted = [shown(path) for folder in (PACKAGE, TESTS) for path in python_files(folder) if UNFINISHED.search(path.read_text("utf-8"))]
    raised = [(path, node) for path, node in nodes(PACKAGE) if isinstance(node, ast.Raise) and node.exc is not None]
    stubs = [shown(path, node) for path, node in raised if "NotImplementedError" in ast.dump(node.exc)]
    assert noted + stubs == []


def test_no_path_of_a_machine():
    """No file of the package, its configuration or its samples names a folder of somebody's machine."""
    files = [*python_files(PACKAGE), *(ROOT / "sample_configs").glob("*"), *ROOT.glob("*.toml"), *ROOT.glob("*.txt"), ROOT / "Makefile"]
    assert [shown(path) for path in files if MACHINE.search(path.read_text(encoding="utf-8"))] == []
