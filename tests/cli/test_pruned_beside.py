"""What a pass over layers leaves beside them: tensors that no solver takes go first, and buffers of the network's own stay."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from sparsify_cli.recipes.verbs import ValidateRecipe
from sparsify_cli.stages.subject import open_subject
from tests.cli.conftest import Run

NETS = """
import torch
from torch import nn

class Up(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(16, 12), nn.ReLU(), nn.Unflatten(1, (3, 4)), nn.ConvTranspose1d(3, 4, 3), nn.ReLU(), nn.Flatten(),
                         nn.Linear(24, 5))

class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(16, 12), nn.Linear(12, 5)
        self.register_buffer("mean", torch.zeros(16))
    def forward(self, x):
        self.mean.mul_(0.9).add_(x.mean(0), alpha=0.1)
        return self.last(self.first(x - 0.01 * self.mean).relu())

def data(split):
    generator = torch.Generator().manual_seed({"train": 0, "validation": 1, "test": 2}[split])
    x = torch.randn(200, 16, generator=generator) + 1
    return {"x": x, "y": x[:, :5].argmax(1)}
"""


@pytest.fixture
def nets(here):
    """The classes, in nets.py and here."""
    Path("nets.py").write_text(NETS, encoding="utf-8")
    namespace: dict[str, object] = {}
    exec(NETS, namespace)
    return namespace


def pruned(run: Run, nets, name: str, words: str) -> tuple[nn.Module, nn.Module]:
    """The network before and after."""
    before, after = nets[name](), nets[name]()
    torch.save(before.state_dict(), "model.pt")
    assert run(f"prune model.pt --arch nets.py:{name} --data nets.py:data --samples 200 {words} --out out").code == 0
    after.load_state_dict(open_subject(ValidateRecipe(model="out")).checkpoint.tensors)
    return before.eval(), after.eval()


def test_layers_behind_what_no_solver_takes_are_solved_on_what_it_gives_now(nets, run: Run):
    """The bias of the last layer gives the dense network's mean outputs, which it can only where it has seen the pruned one's inputs."""
    before, after = pruned(run, nets, "Up", "--sparsity 0.7 --solver sparsegpt --allocation uniform")
    x = nets["data"]("train")["x"]
    with torch.no_grad():
        torch.testing.assert_close(after(x).mean(0), before(x).mean(0), rtol=0, atol=5e-3)
        assert float((after[3].weight == 0).double().mean()) > 0.6


def test_buffers_that_a_network_changes_stay_as_they_were(nets, run: Run):
    """Calibration is not training."""
    before, after = pruned(run, nets, "Counting", "--sparsity 0.7 --solver sparsegpt")
    assert torch.equal(before.mean, torch.zeros(16)) and torch.equal(after.mean, before.mean)
    assert not torch.equal(after.last.bias, before.last.bias)


PRUNED_FIRST = """
from torch import nn

def net():
    return nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 10))
"""


@pytest.fixture
def half(here, run: Run) -> dict[str, torch.Tensor]:
    """A network of which half is pruned, in half/; its first layer can carry no 2:4."""
    Path("net.py").write_text(PRUNED_FIRST, encoding="utf-8")
    assert run("train --arch net.py:net --data digits --epochs 1 --out dense").code == 0
    assert run("prune dense --sparsity 0.5 --out half").code == 0
    return dict(open_subject(ValidateRecipe(model="half")).checkpoint.tensors)


@pytest.mark.parametrize("solver", ["auto", "sparsegpt", "exactobs", "obert"])
def test_what_was_pruned_and_cannot_carry_the_pattern_stays_as_it_is(half, run: Run, solver: str):
    """The first convolution has one input channel: the others hold 2:4, it keeps its zeros and its weights."""
    said = run(f"prune half --pattern 2:4 --sparsity 0.7 --solver {solver} --samples 128 --out out")
    assert said.code == 0 and "stay as they are: 0.weight" in said.err
    after = open_subject(ValidateRecipe(model="out")).checkpoint.tensors
    torch.testing.assert_close(after["0.weight"], half["0.weight"], rtol=0, atol=0)
    assert int((after["2.weight"] != 0).unflatten(1, (-1, 4)).sum(dim=2).max()) <= 2
    assert not torch.equal(after["2.weight"], half["2.weight"] * (after["2.weight"] != 0))


def test_what_is_skipped_is_left_as_it_is_though_it_was_pruned(half, run: Run):
    """Its zeros are part of the network, and nothing of it is repaired; the layers beside it are."""
    assert run("prune half --sparsity 0.8 --solver sparsegpt --samples 128 --skip 2.weight --out out").code == 0
    after = open_subject(ValidateRecipe(model="out")).checkpoint.tensors
    torch.testing.assert_close(after["2.weight"], half["2.weight"], rtol=0, atol=0)
    assert not torch.equal(after["5.weight"], half["5.weight"] * (after["5.weight"] != 0))


def test_outliers_are_counted_in_layers_that_join_on_the_way(half, run: Run):
    """To 2:4 in stages the first ones choose single weights, also in the layer that carries no 2:4 in the end."""
    asked = "--pattern 2:4 --sparsity 0.49 --solver obert --set solver.stages=4 --allocation owl --samples 64 --set solver.gradients=64"
    assert run(f"prune dense {asked} --out out").code == 0
    after = open_subject(ValidateRecipe(model="out")).checkpoint.tensors
    assert bool((after["0.weight"] != 0).all()) and int((after["2.weight"] != 0).unflatten(1, (-1, 4)).sum(dim=2).max()) <= 2
