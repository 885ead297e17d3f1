"""`compare`: any number of networks on the same samples; what is written reads as its schema and its header say."""

from __future__ import annotations

import csv
import json
from importlib import resources
from pathlib import Path

import pytest

from tests.cli.conftest import NAMES, Run

DENSE, PRUNED, TUNED, NEST = (f"runs/{NAMES[name]}" for name in ("dense", "pruned", "tuned", "nest"))


def stages(folder: str) -> list[str]:
    """Paths of the columns of a page."""
    return [Path(stage["path"]).name for stage in json.loads(Path(folder, "report.json").read_text())["stages"]]


def test_networks_side_by_side(here, run: Run):
    """A column for each, the dense ancestor of the first one before them, in the terminal and on the page."""
    said = run(f"compare {TUNED} {PRUNED} --out page")
    assert said.code == 0 and "side by side" in said.out
    assert stages("page") == [NAMES["dense"], NAMES["pruned"], NAMES["tuned"]]


def test_a_dense_network_is_the_baseline(here, run: Run):
    """Named first it is what the others are measured against; or named by --dense."""
    assert run(f"compare {DENSE} {TUNED} --out one").code == 0
    assert run(f"compare {TUNED} {PRUNED} --dense {PRUNED} --out two").code == 0
    assert stages("one")[0] == NAMES["dense"] and NAMES["tuned"] in stages("one")
    assert stages("two")[0] == NAMES["pruned"]
    kept = json.loads(Path("one/manifest.json").read_text())
    assert (kept["verb"], kept["recipe"]["dense"], kept["recipe"]["networks"]) == ("compare", DENSE, [DENSE, TUNED])


@pytest.mark.slow
def test_networks_of_one_name_are_called_by_their_folders(here, run: Run):
    """Two that were pruned alike."""
    assert run(f"prune {DENSE} --sparsity 0.8 --out first").code == 0
    assert run(f"prune {DENSE} --sparsity 0.8 --criterion random --out second").code == 0
    assert run("compare first second --out page").code == 0
    names = [stage["name"] for stage in json.loads(Path("page/report.json").read_text())["stages"]]
    assert names[1:] == ["first", "second"]


def test_gates_are_about_the_first(here, run: Run):
    """Exit 3 where it fails."""
    assert run(f"compare {PRUNED} {TUNED} --gate accuracy>=0.999").code == 3


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("compare", "Nothing to compare."),
        (f"compare {PRUNED}", "Two networks are needed"),
        (f"compare {PRUNED} {PRUNED}", "Two networks are needed"),
        (f"compare {PRUNED} nowhere", "nowhere"),
    ],
)
def test_what_cannot_be_compared_is_told(here, run: Run, line: str, words: str):
    """One sentence, exit 2."""
    said = run(line)
    assert (said.code, words in said.sentence) == (2, True), said.sentence


def test_the_json_is_what_its_schema_says(here, run: Run):
    """The schema ships with the package; a report of a pruned and of an unlearned network fit it, a number as text does not."""
    from jsonschema import Draft202012Validator

    schema = json.loads(resources.files("sparsify_cli.pages").joinpath("report.schema.json").read_text(encoding="utf-8"))
    Draft202012Validator.check_schema(schema)
    validator = Draft202012Validator(schema)
    assert run(f"unlearn {DENSE} --forget class:3 --out gone").code == 0
    for network in (TUNED, "gone"):
        assert run(f"report {network} --out of-{Path(network).name}").code == 0
        found = json.loads(Path(f"of-{Path(network).name}/report.json").read_text())
        assert not list(validator.iter_errors(found))
    found["stages"][0]["report"]["findings"][0]["value"] = "0.9"
    assert list(validator.iter_errors(found))


@pytest.mark.slow
def test_the_spreadsheet_holds_every_finding(here, run: Run):
    """As many rows as the JSON has findings, the same numbers, and no text that a spreadsheet would run."""
    assert run(f"report {TUNED} --out page").code == 0
    findings = [f for stage in json.loads(Path("page/report.json").read_text())["stages"] for f in stage["report"]["findings"]]
    with Path("page/report.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == [f["name"] for f in findings]
    assert [float(row["value"]) if row["value"] else None for row in rows] == [f["value"] for f in findings]


def test_a_name_that_looks_like_a_formula_is_text():
    """Class names come from outside."""
    from sparsify_cli.pages.spreadsheet import render_csv
    from sparsify_cli.pages.view import Stage, View
    from sparsify_cli.values.report import Finding, Report

    text = render_csv(View("t", (Stage("=1+1", "train", "", {}, Report((Finding(name="x", value=-1.5, scope="all"),))),)))
    assert text.splitlines()[1].startswith("'=1+1,x,compressed,all,-1.5,")
