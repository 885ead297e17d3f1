"""`report --forecast` and `--score`: written from the dense network, scored only against its own descendants on the same samples."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sparsify_cli.stages.measure import predict
from sparsify_cli.stages.subject import open_path
from tests.cli.conftest import NAMES, Run

DENSE, PRUNED = (f"runs/{NAMES[name]}" for name in ("dense", "pruned"))


def numbers(folder: str) -> dict[str, dict]:
    """Findings of a manifest by name, over all samples."""
    found = json.loads(Path(folder, "manifest.json").read_text())["numbers"]
    return {f["name"]: f for f in found if f["scope"] == "all" and f["of"] == "compressed"}


def test_a_forecast_lists_the_answers_that_are_unsure(here, run: Run):
    """Exactly those, with the hashes of network and samples; in the manifest's care."""
    assert run(f"report {DENSE} --forecast --out told").code == 0
    told, dense = json.loads(Path("told/forecast.json").read_text()), open_path(Path(DENSE))
    seen = predict(dense.module(), dense.samples("test"))
    unsure = [name for name, p in zip(seen.ids, seen.probabilities.max(dim=1).values.tolist(), strict=True) if p < 0.9]
    assert told["susceptible"] == unsure
    assert told["model_sha256"] == dense.checkpoint.source.sha256
    assert "forecast.json" in json.loads(Path("told/manifest.json").read_text())["files"]
    assert numbers("told")["forecast_susceptible"]["value"] == len(unsure) / len(seen)


def test_it_is_scored_by_what_changed(here, run: Run):
    """Recall and lift as counted by hand from both networks' answers; on the page and in a sentence."""
    assert run(f"report {DENSE} --forecast --out told").code == 0
    assert run(f"prune {DENSE} --sparsity 0.95 --out pruned").code == 0
    said = run("report pruned --score told --out page")
    assert said.code == 0 and "foretold" in said.err + said.out
    dense, pruned = open_path(Path(DENSE)), open_path(Path("pruned"))
    samples = dense.samples("test")
    before, after = predict(dense.module(), samples), predict(pruned.module(), samples)
    changed = {name for name, a, b in zip(samples.ids, before.labels.tolist(), after.labels.tolist(), strict=True) if a != b}
    told = set(json.loads(Path("told/forecast.json").read_text())["susceptible"])
    found = numbers("page")
    assert found["forecast_recall"]["value"] == len(told & changed) / len(changed)
    assert found["forecast_precision"]["value"] == len(told & changed) / len(told)
    assert found["forecast_lift"]["low"] > 1
    assert 'id="forecast"' in Path("page/report.html").read_text(encoding="utf-8")


def test_a_forecast_written_afterwards_is_none(here, run: Run):
    """It is scored, and said to foretell nothing; one that is not there stops the report before anything is measured."""
    assert run(f"prune {DENSE} --sparsity 0.95 --out pruned").code == 0
    assert run(f"report {DENSE} --forecast --out told").code == 0
    told, manifest = Path("told/forecast.json"), json.loads(Path("pruned/manifest.json").read_text())
    later = json.loads(told.read_text()) | {"created": manifest["created"][:-6].replace("20", "29", 1) + manifest["created"][-6:]}
    Path("later.json").write_text(json.dumps(later))
    assert "it foretells nothing" in run("report pruned --score later.json --out page").err
    said = run("report pruned --score nowhere.json --out other")
    assert (said.code, "There is no forecast nowhere.json" in said.sentence) == (2, True)


@pytest.mark.slow
def test_what_cannot_be_scored_is_told(here, run: Run):
    """A sparse network foretells nothing; another network's forecast, other samples, a changed file and no file are refused by name."""
    assert "is sparse already" in run(f"report {PRUNED} --forecast").sentence
    assert run(f"report {DENSE} --forecast --split validation --out other").code == 0
    assert "made on other samples" in run(f"report {PRUNED} --score other").sentence
    assert run("train --arch mlp --data digits --epochs 1 --seed 7 --out stranger").code == 0
    assert run("report stranger --forecast --out strange").code == 0
    assert "foretells another network" in run(f"report {PRUNED} --score strange").sentence
    Path("other/forecast.json").write_text("{}")
    assert "is not the file its manifest describes" in run(f"report {PRUNED} --score other").sentence
    Path("loose.json").write_text('{"schema": "sparsify/forecast/1", "susceptible": 3}')
    assert "holds no forecast" in run(f"report {PRUNED} --score loose.json").sentence
    assert "There is no forecast nowhere" in run(f"report {PRUNED} --score nowhere").sentence
