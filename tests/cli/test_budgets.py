"""Budgets on the command line: the packed file fits, and what cannot be met says what can, with exit status 5."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.cli.conftest import Run

DENSE = "runs/001-train-mlp"


def packed_size(run: Run, folder: str) -> int:
    """Bytes of the packed file that `export` writes of an artifact."""
    assert run(f"export {folder} --to packed --out packed").code == 0
    return next(Path("packed").rglob("model.packed.safetensors")).stat().st_size


@pytest.mark.parametrize("size", [30_000, 12_000, 6_000])
@pytest.mark.parametrize("allocation", ["global", "dp"])
def test_the_packed_file_fits(allocation: str, size: int, here: Path, run: Run) -> None:
    """The file that `export --to packed` writes has no more bytes than allowed, header and all; and most of them are used."""
    said = run(f"prune {DENSE} --budget bytes={size}B --allocation {allocation} --samples 128 --out out")
    assert said.code == 0, said.err
    found = packed_size(run, "out")
    assert 0.95 * size < found <= size


def test_what_cannot_be_met_is_infeasible(here: Path, run: Run) -> None:
    """Exit 5, one sentence, and the budget it names can be met."""
    for kind, most in (("bytes", "100B"), ("params", "10"), ("macs", "2")):
        said = run(f"prune {DENSE} --budget {kind}={most} --allocation dp --samples 64 --out no")
        nearest = re.search(rf"{kind}=\d+(\.\d+)?\w*", said.err.split("nearest")[1])
        assert said.code == 5 and nearest is not None, said.err
        assert not Path("no").exists()
        assert run(f"prune {DENSE} --budget {nearest[0]} --allocation dp --samples 64 --out {kind}").code == 0
