"""Nests of networks whose weights have several names, are of half precision, or go in blocks: taken out, forgotten from, and again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

import sparsify_cli
from sparsify_cli.recipes.verbs import ValidateRecipe
from sparsify_cli.stages.embed import logits_digest
from sparsify_cli.stages.levels import level_network
from sparsify_cli.stages.subject import open_subject
from tests.cli.conftest import Run

NETS = """
from torch import nn

class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.a, self.b, self.last = nn.Linear(64, 96), nn.Linear(96, 96), nn.Linear(96, 96), nn.Linear(96, 10)
        self.b.weight = self.a.weight
    def forward(self, x):
        return self.last(self.b(self.a(self.first(x.flatten(1)).relu()).relu()).relu())

class Plain(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
"""


@pytest.fixture
def nets(here):
    """The classes, in nets.py and here."""
    Path("nets.py").write_text(NETS, encoding="utf-8")
    namespace: dict[str, type[nn.Module]] = {}
    exec(NETS, namespace)
    return namespace


def proven(folder: str) -> list[bool]:
    """Of each level, whether what is on disk gives the logits whose hash the manifest holds."""
    said, nest = json.loads(Path(folder, "manifest.json").read_text())["facts"]["logits_sha256"], open_subject(ValidateRecipe(model=folder))
    return [logits_digest(level_network(nest, level)) == one for level, one in enumerate(said, 1)]


@pytest.mark.parametrize("how", ["--epochs 0", "--epochs 0 --solver sparsegpt", "--epochs 1"])
def test_a_weight_of_two_names_is_kept_once(nets, run: Run, how):
    """Both names hold what the masks say, in every way to take a level out; the file holds it once, after forgetting, too."""
    torch.save(nets["Tied"]().state_dict(), "tied.pt")
    assert run(f"embed tied.pt --arch nets.py:Tied --data digits --levels 0.95,0.5,0 {how} --out nest").code == 0
    assert all(proven("nest"))
    run("unlearn nest --forget random:3% --unlearner gradient-ascent --most-harm 1 --out erased")
    for folder in ("nest", "erased"):
        nest, net = sparsify_cli.Nest.load(folder), nets["Tied"]()
        state = nest.at(0.95)
        assert torch.equal(state["a.weight"], state["b.weight"]) and int(state["b.weight"].count_nonzero()) < 0.1 * 96 * 96
        nest.put(net, 0.95)
        assert all(torch.equal(tensor, state[name]) for name, tensor in net.state_dict().items())
        assert run(f"extract {folder} --level 0.95 --out {folder}-95").code == 0
        taken = open_subject(ValidateRecipe(model=f"{folder}-95")).checkpoint.tensors
        assert taken.keys() == state.keys() and all(torch.equal(tensor, state[name]) for name, tensor in taken.items())
        numbers = 64 * 96 + 96 * 96 + 96 * 10 + 3 * 96 + 10
        assert Path(folder, "nest.safetensors").stat().st_size < 1.1 * 4 * numbers + 2000 + numbers / 4


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_stays_and_is_exact(nets, run: Run, dtype):
    """Trained in single precision, kept as it came: levels give the logits that were vouched for, and forgetting widens nothing."""
    torch.save({name: tensor.to(dtype) for name, tensor in nets["Plain"]().state_dict().items()}, "half.pt")
    assert run("embed half.pt --arch nets.py:Plain --data digits --levels 0.9,0 --epochs 1 --out nest").code == 0
    assert all(proven("nest"))
    run("unlearn nest --forget random:3% --unlearner gradient-ascent --most-harm 1 --out erased")
    for folder in ("nest", "erased"):
        assert {tensor.dtype for level in (0.9, 0) for tensor in sparsify_cli.Nest.load(folder).at(level).values()} == {dtype}
    sizes = [Path(folder, "nest.safetensors").stat().st_size for folder in ("nest", "erased")]
    assert sizes[1] < 1.02 * sizes[0]


def test_blocks_stay_a_nests_own(nets, run: Run):
    """A level of large blocks holds more or less than its sparsity by one block, after forgetting as before."""
    torch.save(nets["Plain"]().state_dict(), "plain.pt")
    asked = "--arch nets.py:Plain --data digits --levels 0.93,0.45,0 --epochs 0 --pattern block:32x32"
    assert run(f"embed plain.pt {asked} --out nest").code == 0
    run("unlearn nest --forget random:3% --unlearner gradient-ascent --most-harm 1 --out erased")
    assert run("extract erased --level 0.93 --out taken").code == 0
