"""`analyze` as it is typed: what is measured, what rules would keep, the three forms of the result, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch

from sparsify_cli.contracts.listener import Listener
from sparsify_cli.pages.analysis import Analysis, LayerAnalysis, RulePlan, picture
from sparsify_cli.recipes.analyze import AnalyzeRecipe
from sparsify_cli.stages.analyze import analyze
from sparsify_cli.values.artifact import MASKS
from sparsify_cli.values.mask_file import read_masks
from tests.cli.conftest import NAMES

DENSE = f"runs/{NAMES['dense']}"
QUICK = f"analyze {DENSE} --samples 64"
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def found(run, here):
    """The facts of an analysis of the small network at 90 % zeros, as JSON."""
    said = run(f"{QUICK} --format json --out a")
    assert said.code == 0, said.err
    return json.loads(said.out)["facts"]


def test_sizes_and_work_of_layers(found):
    """The MLP 64-64-64-10 takes one multiply-accumulate a weight: 4,096 + 4,096 + 640 = 8,832 of them."""
    assert {layer["name"]: (layer["weights"], layer["macs"]) for layer in found["layers"]} == {
        "fc1.weight": (4096, 4096), "fc2.weight": (4096, 4096), "fc.weight": (640, 640),
    }  # fmt: skip
    assert found["macs"] == found["weights"] == 8832


def test_costs_rise_and_the_worst_comes_first(found):
    """More zeros never cost less, and rows fall by the divergence at 90 %."""
    for layer in found["layers"]:
        for key in ("output_error", "divergence"):
            costs = [layer["at_sparsity"][level][key] for level in ("0.5", "0.8", "0.9")]
            assert 0 <= costs[0] <= costs[1] <= costs[2]
    worst = [layer["at_sparsity"]["0.9"]["divergence"] for layer in found["layers"]]
    assert worst == sorted(worst, reverse=True) and worst[0] > 0


def test_the_ladder_is_as_it_was_measured(found):
    """The ladder falls to 2 % of 4,096 weights (81.92), and both ends of it were run through the whole network."""
    layer = next(layer for layer in found["layers"] if layer["name"] == "fc1.weight")
    kept = [rung["kept"] for rung in layer["ladder"]]
    assert kept[0] < 4096 and kept[-1] == 82 and kept == sorted(kept, reverse=True)
    assert layer["ladder"][0]["measured"] and layer["ladder"][-1]["measured"] and not all(rung["measured"] for rung in layer["ladder"])


@pytest.mark.parametrize("rule", ["uniform", "global", "erk", "lamp", "dp"])
def test_rules_keep_what_prune_would(rule, found, run):
    """The counts are those of the masks that `prune` then writes, layer for layer."""
    extra = " --samples 64" if rule == "dp" else ""
    assert run(f"prune {DENSE} --sparsity 0.9 --allocation {rule} --out p{extra} --no-batchnorm").code == 0
    masks = read_masks(Path("p") / MASKS)
    assert {layer["name"]: layer["kept"][rule] for layer in found["layers"]} == {name: int(mask.sum()) for name, mask in masks.items()}
    assert sum(int(mask.sum()) for mask in masks.values()) == 883  # 8,832 - 7,949 (7,948.8 rounded)


def test_people_get_tables(run, here, monkeypatch):
    """Four tables no wider than 80 columns, a sentence that names the most sensitive layer, and the next command."""
    monkeypatch.setenv("COLUMNS", "80")
    said = run(f"{QUICK} --sparsity 0.8")
    facts = json.loads(Path("runs/006-analyze-mlp/analysis.json").read_text())
    assert said.out.startswith(f"{facts['layers'][0]['name']} is the most sensitive of 3 layers")
    assert "too many to --skip" in said.out  # even the 640 weights of fc are 7 % of all
    tables = said.out.split("\n\n", 1)[1]
    assert max(map(len, tables.splitlines())) <= 80
    assert all(word in said.out for word in ("MACs", "error 50%", "nats 50%", "uniform", "dp", "sum of nats"))
    assert f"next: sparsify prune {DENSE} --sparsity 0.8 --allocation {facts['best']}" in said.err


def test_a_small_layer_is_left_dense(run, here):
    """A bottleneck of 128 among 18,128 weights is worth leaving dense: the sentence says how, and what the others then need."""
    Path("net.py").write_text(
        "from torch import nn\n"
        "def net():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 2), nn.Linear(2, 1500), nn.ReLU(), nn.Linear(1500, 10))\n"
    )
    torch.manual_seed(0)
    layers = {"1": torch.nn.Linear(64, 2), "2": torch.nn.Linear(2, 1500), "4": torch.nn.Linear(1500, 10)}
    torch.save({f"{at}.{key}": tensor.detach() for at, layer in layers.items() for key, tensor in layer.state_dict().items()}, "small.pt")
    said = run("analyze small.pt --arch net.py:net --data digits --samples 64 --sparsity 0.9")
    assert "Leave it dense with --skip 1.weight: the others then need 90.6 % zeros instead of 90.0 %." in said.out.replace("\n", " ")


def test_the_folder_holds_everything(found, run):
    """analysis.json says what stdout said, the picture is SVG with a title, and the folder is an artifact without a network."""
    told = json.loads(Path("a/analysis.json").read_text())
    assert told.pop("schema") == "sparsify/analysis/1" and {key: found[key] for key in told} == told
    assert sorted(path.name for path in Path("a").iterdir()) == ["analysis.json", "analysis.svg", "manifest.json"]
    assert run("inspect a").code == 0
    assert "holds no network" in run("prune a --sparsity 0.5").sentence


def test_the_picture_stands_alone(found):
    """White ground, a title, units on both axes, a row for every layer, and no colour that only a page could resolve."""
    text = Path("a/analysis.svg").read_text()
    root = ElementTree.fromstring(text)
    assert root.tag == f"{SVG}svg" and "var(" not in text
    assert root.find(f"{SVG}rect").get("fill") == "#ffffff"
    words = " ".join("".join(node.itertext()) for node in root.iter(f"{SVG}text"))
    assert all(word in words for word in ("Layers of 001-train-mlp", "nats", "stay, %", "fc1.weight", "fc2.weight", "90 % zeros", "dp"))
    assert "mathdefault" not in words


def test_names_are_no_markup_in_the_picture():
    """A layer's name is other people's text; a layer that was not measured has a row all the same."""
    evil = LayerAnalysis('<script>&"', (2, 2), 4, 4, (), (), {"dp": 2})
    plain = LayerAnalysis("fc", (2, 2), 4, 4, (0.1, 0.2, 0.3), (0.0, 0.1, 0.2), {"dp": 0})
    drawn = picture(Analysis("t", (plain, evil), {"dp": RulePlan(0.75, 0.5, None, 1)}, {}, 8, "dp"))
    assert "<script" not in drawn
    assert ElementTree.fromstring(drawn).find(f"{SVG}title").text == "t"


def test_budgets_and_other_rules(run, here):
    """Under a budget every rule stays within it; a rule that is named is shown besides the usual ones and recommended."""
    said = run(f"{QUICK} --budget params=0.25 --allocation sensitivity --format json")
    facts = json.loads(said.out)["facts"]
    assert list(facts["rules"]) == ["uniform", "global", "erk", "lamp", "dp", "sensitivity"] and facts["best"] == "sensitivity"
    biases = 64 + 64 + 10
    for rule in facts["rules"]:
        assert sum(layer["kept"][rule] for layer in facts["layers"]) + biases <= 0.25 * (8832 + biases)


def test_repair_costs_less(found, run):
    """With a solver the same zeros cost no more in any layer's outputs."""
    facts = json.loads(run(f"{QUICK} --solver sparsegpt --format json").out)["facts"]
    repaired = {layer["name"]: layer["at_sparsity"]["0.9"]["output_error"] for layer in facts["layers"]}
    assert facts["repaired_by"] == "sparsegpt" and found["repaired_by"] is None
    assert all(repaired[layer["name"]] < layer["at_sparsity"]["0.9"]["output_error"] for layer in found["layers"])


def test_a_rule_that_empties_a_layer_says_so(run, here):
    """At 100 % zeros every layer is emptied: there is no sum of costs, and dp, which leaves every layer a weight, is named as refused."""
    said = run(f"{QUICK} --sparsity 1 --format json")
    facts = json.loads(said.out)["facts"]
    assert facts["rules"]["uniform"]["emptied"] == 3 and facts["rules"]["uniform"]["divergence"] is None
    assert "dp" in facts["refused"] and "dp" not in facts["rules"]


def test_a_network_that_was_pruned_before(run, here):
    """A network that is 90 % zero is analysed for more; levels that it has passed cost nothing, and a note says so."""
    pruned = f"runs/{NAMES['pruned']}"
    said = run(f"analyze {pruned} --samples 64 --sparsity 0.95 --out more")
    assert said.code == 0 and "90.0 % of its weights are zero already" in said.err
    told = json.loads(Path("more/analysis.json").read_text())
    costs = [layer["at_sparsity"]["0.5"]["divergence"] for layer in told["layers"]]
    assert len(costs) == 3 and max(costs) < 1e-9  # 2:4 holds, so half of every layer is zero
    assert "below what is pruned already" in run(f"analyze {pruned} --samples 64 --sparsity 0.5").sentence


def test_skipped_layers_are_left_out(run, here):
    """What is skipped is neither measured nor counted among the weights; its work still counts."""
    facts = json.loads(run(f"{QUICK} --skip fc2 --format json").out)["facts"]
    assert [layer["name"] for layer in facts["layers"] if layer["name"] == "fc2.weight"] == []
    assert (facts["weights"], facts["macs"]) == (4736, 8832)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("analyze model.pt", "--arch"),
        ("analyze model.pt --arch mlp", "--data"),
        ("analyze nothing.pt", "nothing.pt"),
        (f"{QUICK} --sparsity 0.5 --budget params=0.5", "--budget"),
        (f"{QUICK} --sparsity 90", "outside [0, 1]"),
        (f"{QUICK} --skip conv", "names no tensor"),
        (f"{QUICK} --allocation best", "best"),
        (f"{QUICK} --solver none", "none"),
        (f"{QUICK} --out runs", "already exists"),
        ("analyze model.pt --arch mlp --data digits", "model.pt"),
    ],
)
def test_refusals(line, words, run, here, untouched):
    """A malformed request is one sentence and exit code 2, and nothing is left behind."""
    untouched()
    said = run(line)
    assert said.code == 2 and words in said.sentence


def test_what_cannot_be_run_is_refused(run, here):
    """Weights that are no layer's inputs meet nothing to measure: one sentence, and no folder."""
    Path("net.py").write_text(
        "import torch\nclass Net(torch.nn.Module):\n"
        "    def __init__(self):\n        super().__init__()\n        self.w = torch.nn.Parameter(torch.ones(64, 10))\n"
        "    def forward(self, x):\n        return x.flatten(1) @ self.w\n"
    )
    torch.save({"w": torch.ones(64, 10)}, "w.pt")
    said = run("analyze w.pt --arch net.py:Net --data digits --samples 8 --include w")
    assert said.code == 2 and "can be measured" in said.sentence
    assert not list(Path("runs").glob("*analyze*"))


def test_progress_is_told(here):
    """A listener hears of every layer, in order, and of the end."""
    heard = []

    class Ear(Listener):
        def progress(self, now):
            heard.append((now.label, now.step, now.total))

        def done(self):
            heard.append("done")

    analyze(AnalyzeRecipe(model=DENSE, samples=16), Ear())
    assert [one for one in heard if one != "done"] == [(f"measuring {name}.weight", i, 3) for i, name in enumerate(("fc1", "fc2", "fc"), 1)]
    assert heard[-1] == "done"
