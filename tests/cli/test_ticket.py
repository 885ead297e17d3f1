"""The verdict on winning tickets from artifacts, by the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Run


def artifact(name: str, accuracy: float, *, n: int = 1000, overlap: float | None = None, branch: str = "", sparsity: float = 0.9) -> str:
    """A folder that looks like a trained artifact's, with this test accuracy."""
    Path(name).mkdir()
    values = {"accuracy": accuracy, "sparsity": sparsity}
    numbers = [{"name": key, "value": value, "n": n, "of": "compressed", "scope": "all"} for key, value in values.items()]
    recipe = {"verb": "train", "regime": {"name": "imp", "branch": branch or name}}
    manifest = {"schema": "sparsify/artifact/1", "status": "complete", "verb": "train", "recipe": recipe, "numbers": numbers}
    Path(name, "manifest.json").write_text(json.dumps({**manifest, "facts": {}}))
    if overlap is not None:
        Path(name, "training.jsonl").write_text(json.dumps({"event": "overlap", "step": 9, "share": overlap}) + "\n")
    return name


def named(**accuracies: float) -> str:
    """Flags for artifacts with these accuracies."""
    return " ".join(f"--{role} {artifact(role, value)}" for role, value in accuracies.items())


@pytest.mark.parametrize(
    ("accuracies", "word"),
    [
        ({"dense": 0.92, "ticket": 0.919, "reinit": 0.90, "random": 0.89}, "jackpot"),
        ({"dense": 0.974, "ticket": 0.94, "reinit": 0.67, "random": 0.75, "finetuned": 0.944}, "no prize"),
        ({"dense": 0.974, "ticket": 0.965, "reinit": 0.96, "random": 0.95, "finetuned": 0.966}, "no ticket"),
        ({"dense": 0.95, "ticket": 0.93, "reinit": 0.90, "random": 0.89, "finetuned": 0.93}, "secondary prize"),
    ],
)
def test_the_verdict(here: Path, run: Run, accuracies: dict[str, float], word: str) -> None:
    """Accuracies are read from the manifests; the verdict is in words and in JSON."""
    said = run(f"ticket {named(**accuracies)} --format json")
    assert said.code == 0
    assert json.loads(said.out)["facts"]["verdict"] == word
    assert "fewer than three artifacts" in said.out


def test_several_seeds_are_averaged(here: Path, run: Run) -> None:
    """Three tickets of 0.90, 0.92 and 0.94 count as 0.92, with a distance of two points; a suspect overlap is said."""
    flags = named(dense=0.92, reinit=0.90, random=0.89)
    tickets = " ".join(f"--ticket {artifact(f't{i}', v, overlap=0.9, branch='ticket')}" for i, v in enumerate((0.90, 0.92, 0.94)))
    said = run(f"ticket {flags} {tickets}")
    assert "92.00%" in said.out and "2.00%" in said.out and "Jackpot" in said.out
    assert "90% of the largest weights" in said.err


def test_what_cannot_be_compared(here: Path, run: Run) -> None:
    """A missing role, other test data, a folder without accuracy: exit 2 and a sentence."""
    flags = named(dense=0.92, ticket=0.9, reinit=0.90)
    said = run(f"ticket {flags}")
    assert said.code == 2 and "--random" in said.sentence
    said = run(f"ticket {flags} --random {artifact('other', 0.8, n=500, branch='random')}")
    assert said.code == 2 and "500" in said.sentence
    Path("random").mkdir()
    recipe = {"verb": "train", "regime": {"name": "imp", "branch": "random"}}
    manifest = {"schema": "sparsify/artifact/1", "status": "complete", "verb": "train", "recipe": recipe, "facts": {}}
    Path("random/manifest.json").write_text(json.dumps({**manifest, "numbers": []}))
    said = run(f"ticket {flags} --random random")
    assert said.code == 2 and "no test accuracy" in said.sentence


def test_roles_are_checked(here: Path, run: Run) -> None:
    """One artifact in two roles, a branch that is another one, and other sparsities: exit 2 and a sentence."""
    flags = named(dense=0.92, ticket=0.9, reinit=0.90)
    said = run(f"ticket {flags} --random reinit")
    assert said.code == 2 and "--reinit and as --random" in said.sentence
    said = run(f"ticket {flags} --random {artifact('plain', 0.8, branch='ticket')}")
    assert said.code == 2 and "is no random" in said.sentence
    said = run(f"ticket {flags} --random {artifact('denser', 0.8, branch='random', sparsity=0.5)}")
    assert said.code == 2 and "50.00%" in said.sentence
