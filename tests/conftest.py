"""What every test runs under: one torch thread, fixed seeds, its own folder, no network, no window, shapes checked."""

from __future__ import annotations

import os
import random
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
QUIET = {"OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg", "COLUMNS": "120", "NO_COLOR": "1", "TERM": "dumb", "PYTHONHASHSEED": "0"}
LOUD = ("FORCE_COLOR", "PY_COLORS", "GITHUB_ACTIONS", "CLICOLOR_FORCE", "SPARSIFY_DEBUG")
os.environ.update(QUIET)
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
os.environ["XDG_STATE_HOME"] = tempfile.mkdtemp(prefix="sparsify-tests-")  # the key that seals manifests is not the user's
os.environ["XDG_CACHE_HOME"] = os.environ["XDG_STATE_HOME"]  # nor are answers kept among theirs
for name in LOUD:
    os.environ.pop(name, None)

from jaxtyping import install_import_hook  # noqa: E402

SHAPED = [path.stem for path in (ROOT / "sparsify_cli" / "values").glob("*.py") if "jaxtyping" in path.read_text(encoding="utf-8")]
CHECKED = ["sparsify_cli.maths", *(f"sparsify_cli.values.{name}" for name in sorted(SHAPED))]
"""Modules whose annotations, shapes included, are checked at every call while the tests run: the maths, and values that are arrays."""
install_import_hook(CHECKED, "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))")

import numpy as np  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402
from hypothesis import HealthCheck, settings  # noqa: E402
from hypothesis.database import DirectoryBasedExampleDatabase  # noqa: E402

torch.set_num_threads(1)

SLOW_MACHINE = [HealthCheck.too_slow, HealthCheck.data_too_large]
FAILURES = DirectoryBasedExampleDatabase(ROOT / ".hypothesis" / "examples")
settings.register_profile("dev", deadline=None, max_examples=25, suppress_health_check=SLOW_MACHINE, database=FAILURES)
settings.register_profile("ci", deadline=None, max_examples=25, suppress_health_check=SLOW_MACHINE, derandomize=True, database=None)
settings.register_profile("deep", deadline=None, max_examples=2000, suppress_health_check=SLOW_MACHINE, database=FAILURES)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "dev"))


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test starts in an empty folder: nothing is read from or left in the repository by accident."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Every test starts from the same generators, whatever ran before it."""
    random.seed(0)
    np.random.seed(0)
    torch.default_generator.manual_seed(0)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """A test that changes torch's globals does not change the next one."""
    deterministic = torch.are_deterministic_algorithms_enabled()
    yield
    torch.set_num_threads(1)
    torch.set_grad_enabled(True)
    torch.use_deterministic_algorithms(deterministic)


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that leaves the machine is an error."""
    real = socket.socket.connect

    def connect(self: socket.socket, address: Any) -> Any:
        local = not isinstance(address, tuple) or str(address[0]) in {"localhost", "::1"} or str(address[0]).startswith("127.")
        if not local:
            raise ConnectionRefusedError(f"Tests have no network; something asked for {address!r}.")
        return real(self, address)

    monkeypatch.setattr(socket.socket, "connect", connect)


@pytest.fixture
def repository() -> Path:
    """The folder that holds pyproject.toml."""
    return ROOT


@pytest.fixture(scope="session")
def python() -> str:
    """The interpreter that runs the tests, for those that need a fresh process."""
    return sys.executable
