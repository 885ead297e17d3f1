"""`train --without`: samples that a new network is never shown, now or later; a reference for the audit of forgetting."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sparsify_cli.stages.subject import open_path
from tests.cli.conftest import NAMES, Run

DENSE = f"runs/{NAMES['dense']}"


def numbers(folder: str) -> dict[str, dict]:
    """Findings of a manifest by name, those of the whole network."""
    found = json.loads(Path(folder, "manifest.json").read_text())["numbers"]
    return {f["name"]: f for f in found if f["scope"] == "all" and f["of"] == "compressed"}


def facts(folder: str) -> dict:
    """Facts of a manifest."""
    return json.loads(Path(folder, "manifest.json").read_text())["facts"]


def test_network_trained_without_the_samples_is_a_reference(here, run: Run):
    """It starts as the other did, sees no such sample then or later, and the audit has nothing to doubt."""
    assert run("train --arch mlp --data digits --epochs 2 --without random:5% --seed 3 --out anew").code == 0
    gone, seen = set(facts("anew")["forgotten_ids"]), open_path(Path("anew")).samples("train")
    assert len(gone) == 54 and len(seen) == 1077 - 54 and not gone & set(seen.ids)
    assert facts("anew")["samples"] == len(seen)
    Path("ids.json").write_text(json.dumps(sorted(gone)))
    said = run(f"unlearn {DENSE} --forget ids.json --audit --reference anew --out out")
    assert said.code == 0 and "nothing says" not in said.err + said.out
    assert numbers("out")["accuracy_forget_reference"]["n"] == 54
    assert run("finetune anew --epochs 1 --out tuned").code == 0
    assert facts("tuned")["forgotten_ids"] == sorted(gone) and facts("tuned")["samples"] == len(seen)
    assert run("train --arch mlp --data digits --epochs 1 --seed 3 --out all").code == 0
    assert "forgotten_ids" not in facts("all") and facts("all")["data_sha256"] != facts("anew")["data_sha256"]


def test_a_network_that_never_saw_a_class_is_still_asked_about_it(here, run: Run):
    """The outputs stay as many."""
    assert run("train --arch mlp --data digits --epochs 1 --without class:9 --out anew").code == 0
    assert open_path(Path("anew")).samples("train").outputs == 10
    assert run("validate anew").code == 0


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (f"train {DENSE} --epochs 1 --without class:3", ["--without", "unlearn --forget"]),
        ("train --arch mlp --data digits --epochs 1 --without class:12", ["'12'"]),
        ("train --arch mlp --data digits --epochs 1 --without random:100%", ["random:100%"]),
        ("train --arch mlp --data digits --epochs 1 --without nope.csv", ["nope.csv"]),
        ("train --arch mlp --data digits --epochs 1 --without nope.csv --dry-run", ["nope.csv"]),
    ],
)
def test_samples_that_cannot_be_left_out(here, run: Run, line: str, words: list[str]):
    """One sentence."""
    said = run(line)
    assert said.code == 2 and not [word for word in words if word not in said.sentence]
