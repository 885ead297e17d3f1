"""`unlearn` where no weight changed: it does not claim to have forgotten, and does not lock the samples."""

from __future__ import annotations

import json
from pathlib import Path

from sparsify_cli.values.artifact import Artifact
from tests.cli.conftest import NAMES, Run

DENSE = f"runs/{NAMES['dense']}"


def certificate(folder: str) -> dict:
    """What `unlearning.json` says."""
    return json.loads(Path(folder, "unlearning.json").read_text())


def test_an_erasure_that_changes_nothing_is_exit_4_and_locks_no_samples(here, run: Run):
    """Too many samples for ssd's alpha: written, failed, not listed as forgotten, so that the next one can forget them."""
    said = run(f"unlearn {DENSE} --forget class:3 --unlearner ssd --out out")
    assert (said.code, "ssd forgot nothing: no weight changed" in said.sentence) == (4, True)
    assert "Did not forget 111 samples, for no weight changed" in said.out
    assert "Lower alpha below 9.7: --set unlearner.alpha=" in said.err
    found, facts = certificate("out"), Artifact.open(Path("out")).manifest["facts"]
    assert (found["verdict"], found["unchanged"], "nothing was forgotten" in found["limits"]) == ("failed", True, True)
    assert found["model"]["before_sha256"] == found["model"]["after_sha256"]
    assert facts.get("forgotten_ids", []) == [] and facts["forgotten"] == 0
    assert run("report out --out page").code == 0
    assert "none forgotten" in Path("page/report.html").read_text()
    said = run("unlearn out --forget class:3 --unlearner ssd --set unlearner.alpha=2 --out again")
    assert "Forgot 111 samples" in said.out and len(Artifact.open(Path("again")).manifest["facts"]["forgotten_ids"]) == 111


def test_a_step_of_length_0_that_was_asked_for_is_no_failure(here, run: Run):
    """The numbers of no action: exit 0, and the headline says that no weight changed."""
    said = run(f"unlearn {DENSE} --forget class:3 --set unlearner.epsilon=0 --audit --out out")
    assert (said.code, "Did not forget 111 samples, for no weight changed" in said.out) == (0, True)
    found = certificate("out")
    assert (found["verdict"], found["unchanged"], found["failure"]) == ("measured", True, "")
    assert {f["name"]: f["value"] for f in found["numbers"] if f["scope"] == "all"}["distance_forget_before"] == 0
    assert "forgotten_ids" not in Artifact.open(Path("out")).manifest["facts"]
