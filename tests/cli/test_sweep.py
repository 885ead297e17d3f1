"""`report --sparsities`: pruned to each, fine-tuned where asked, on one page; every network is an artifact of its own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sparsify_cli.stages.subject import open_path
from tests.cli.conftest import NAMES, Run

DENSE, PRUNED = (f"runs/{NAMES[name]}" for name in ("dense", "pruned"))


@pytest.mark.slow
def test_a_page_against_sparsity(here, run: Run):
    """Columns by rising sparsity; each network has as many zeros as was asked; the section with its curves is there."""
    assert run(f"report {DENSE} --sparsities 0.95,0.5,0.8 --solver sparsegpt --gate sparsity>=0.1 --out page").code == 0
    page = json.loads(Path("page/report.json").read_text())
    assert [stage["verb"] for stage in page["stages"]] == ["dense", "prune", "prune", "prune"]
    found = [float(open_path(Path(stage["path"])).masks.sparsity) for stage in page["stages"][1:]]
    assert found == pytest.approx([0.5, 0.8, 0.95], abs=1e-3)
    html = Path("page/report.html").read_text(encoding="utf-8")
    regimes = [one["regime"] for one in page["sweep"]["networks"]]
    holds = [i for i, regime in enumerate(regimes) if i and regime in ("as dense", "less sure")]
    assert page["subject"] == page["sweep"]["networks"][holds[-1] if holds else 1]["stage"]
    assert any(note.startswith("gates and details are about pruned") for note in page["notes"])
    assert [one["gate"] for one in page["gates"] if one["holds"]] == ["sparsity>=0.1"]
    assert 'id="against"' in html and "fig-against-accuracy" in html


@pytest.mark.slow
def test_a_gate_fails_where_every_network_is_worse(here, run: Run):
    """The page is about the least sparse one, and no condition that it meets makes up for that: exit 3, after all is written."""
    said = run(f"report {DENSE} --sparsities 0.97,0.98,0.99 --gate sparsity>=0.95 --out ruins")
    page = json.loads(Path("ruins/report.json").read_text())
    assert {one["regime"] for one in page["sweep"]["networks"][1:]} == {"worse"}, "the networks of this test must be ruined"
    assert (said.code, "No network of the sweep" in said.sentence, page["gates"][0]["holds"]) == (3, True, True)
    assert page["subject"] == 1 and "because there is none" in page["notes"][0]


@pytest.mark.slow
def test_the_page_is_about_a_network_that_was_swept(here, run: Run):
    """One beside it that is sparser and as good is shown, and gates are not about it."""
    assert run(f"finetune {DENSE} --regime gmp --sparsity 0.6 --epochs 3 --out kept").code == 0
    run(f"report {DENSE} --sparsities 0.1,0.2,0.3 --also kept --out beside")
    page = json.loads(Path("beside/report.json").read_text())
    assert "kept" in [stage["name"] for stage in page["stages"]]
    assert page["stages"][page["subject"]]["name"] != "kept"


@pytest.mark.slow
def test_each_may_be_fine_tuned(here, run: Run):
    """The networks shown are those after training, each once."""
    assert run(f"report {DENSE} --sparsities 0.9,0.6 --pattern 2:4 --epochs 1 --out page").code == 0
    page = json.loads(Path("page/report.json").read_text())
    assert [stage["verb"] for stage in page["stages"]] == ["dense", "finetune", "finetune"]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (f"report {PRUNED} --sparsities 0.95", "is sparse already"),
        (f"report {DENSE} --sparsities 0,0.5", "A sparsity of 0 prunes nothing"),
    ],
)
def test_what_cannot_be_swept_is_told(here, run: Run, line: str, words: str):
    """One sentence, exit 2; nothing is pruned."""
    before = sorted(Path("runs").iterdir())
    said = run(line)
    assert (said.code, words in said.sentence) == (2, True), said.sentence
    assert sorted(Path("runs").iterdir()) == before
