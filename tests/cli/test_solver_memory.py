"""Memory of solvers on the command line: told, refused before anything is solved, and in the plan of a dry run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sparsify_cli.stages import memory
from tests.cli.conftest import Run

DENSE = "runs/001-train-mlp"
ASKED = [
    ("prune", "--sparsity 0.8 --samples 64 --solver sparsegpt", "--solver sparsegpt"),
    ("prune", "--sparsity 0.8 --samples 64 --solver woodfisher", "--solver woodfisher"),
    ("prune", "--sparsity 0.8 --samples 64 --allocation dp", "--allocation dp"),
    ("embed", "--levels 0.9,0.5 --epochs 0 --solver auto", "--solver auto"),
]


@pytest.mark.parametrize(("verb", "asked", "flag"), ASKED)
def test_what_is_held_is_told_once(verb: str, asked: str, flag: str, here: Path, run: Run) -> None:
    """One line with the flag and a size."""
    said = run(f"{verb} {DENSE} {asked} --out out")
    assert said.code == 0, said.err
    assert (said.out + said.err).count(f"{flag} will hold about") == 1


@pytest.mark.parametrize(("verb", "asked", "flag"), ASKED)
def test_what_does_not_fit_is_refused_first(
    verb: str, asked: str, flag: str, here: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit 2, one sentence with the flag, and nothing written."""
    monkeypatch.setattr(memory, "machine_memory", lambda: 100_000)
    said = run(f"{verb} {DENSE} {asked} --out out")
    assert said.code == 2 and said.sentence.startswith(f"error: {flag} needs"), said.err
    assert not Path("out").exists()


def test_too_few_rows_are_told_with_the_rank(here: Path, run: Run) -> None:
    """The layer, the rank that its Gram matrix has at most, and its inputs; nothing where there are rows enough."""
    few, enough = (run(f"prune {DENSE} --sparsity 0.8 --solver refit --samples {n} --out out-{n}") for n in (30, 200))
    assert "the rank of a Gram matrix is at most the number of its rows" in " ".join((few.out + few.err).split())
    assert ": 30 of 64)" in few.out + few.err
    assert "rank" not in enough.out + enough.err


@pytest.mark.parametrize("name", ["sparsegpt", "woodfisher"])
def test_a_dry_run_counts_what_the_solver_holds(name: str, here: Path, run: Run) -> None:
    """The plan's memory is what the run says that it will hold, and the network beside it; without a solver it is the network's."""
    line = f"prune {DENSE} --sparsity 0.8 --samples 64 --dry-run --format json"
    alone, beside = (json.loads(run(f"{line} {more}").out)["facts"] for more in ("--criterion wanda", f"--solver {name}"))
    assert beside["memory"] == alone["memory"] + beside["memory_solver"] and beside["memory_solver"] > 100_000
    assert alone["memory_solver"] == 0
    said = run(f"prune {DENSE} --sparsity 0.8 --samples 64 --dry-run --solver {name}")
    assert f"--solver {name} will hold about" in said.out + said.err and "beside the network" in said.out
