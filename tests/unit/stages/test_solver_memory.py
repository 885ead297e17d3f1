"""What a solver of layers will hold: near to what it does hold, by the layer that needs most, and refused before any work."""

from __future__ import annotations

import copy
import ctypes
from pathlib import Path

import pytest
import torch
from torch import nn

from sparsify_cli.contracts.listener import Listener
from sparsify_cli.errors import BadRequest
from sparsify_cli.recipes.pattern import Pattern
from sparsify_cli.shelf import Shelf
from sparsify_cli.stages import memory
from sparsify_cli.stages.auto import Auto
from sparsify_cli.stages.layerwise import Pass
from sparsify_cli.stages.memory import require_room
from sparsify_cli.stages.solver_memory import ALIVE, Asked, Need, Seen, inputs_seen, layers_need
from sparsify_cli.training.attention import projections

STATUS = Path("/proc/self/status")
LAYERWISE = ("alps", "dsnot", "exactobs", "greedy", "one-swap", "refit", "sparsegpt")


def need(layers, *works, samples=1, seen=None, pattern="unstructured"):
    """Of layers that see one row a sample, unless said otherwise."""
    came = seen or {name: Seen(1, layer.weight[0].numel()) for name, layer in layers.items()}
    found = layers_need(Asked("--solver x", works, Pattern.parse(pattern), samples), layers, came)
    assert isinstance(found, Need)
    return found


def solver(name):
    """From the shelf, with its defaults."""
    return Shelf("solvers").load(name)()


def resident(field):
    """Bytes of this process's memory, now (VmRSS) or at most (VmHWM)."""
    return next(int(line.split()[1]) * 1024 for line in STATUS.read_text().splitlines() if line.startswith(field))


@pytest.mark.parametrize(("name", "outputs", "columns"), [("sparsegpt", 16, 2400), ("refit", 16, 2400), ("sparsegpt", 8000, 300)])
def test_the_plan_is_near_what_is_held(name, outputs, columns):
    """Within a factor 1.6 of the rise of this process's memory while one wide layer is solved."""
    net, x = nn.Sequential(nn.Linear(columns, outputs, bias=False)), torch.randn(64, columns)
    mask = torch.rand(outputs, columns) < 0.2
    planned = need({"0.weight": net[0]}, solver(name), samples=64).bytes
    other = copy.deepcopy(net)
    ctypes.CDLL(None).malloc_trim(0)  # what earlier tests freed would be used again, and be no rise
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pytest.skip("this system does not tell how much memory was held at most")
    before = resident("VmRSS")
    Pass(solver(name), Pattern(), {}).run(net, other, x, {"0.weight": mask}, Listener())
    held = resident("VmHWM") - before
    assert held / 1.6 < planned < held * 1.6


@pytest.mark.parametrize("name", LAYERWISE)
def test_every_solver_needs_several_gram_matrices(name):
    """At least three of a wide layer, and no more than a hundred; twice as wide is four times as much."""
    one, two = (need({"a": nn.Linear(width, 1)}, solver(name)).bytes / (8 * width**2) for width in (5000, 10000))
    assert 3 < one < 100
    assert two / one == pytest.approx(1, rel=0.2)


def test_the_layer_that_needs_most_is_named():
    """With its inputs, in the note and in the refusal; small ones do not matter."""
    layers = {"a": nn.Linear(10, 4), "wide": nn.Linear(5000, 4), "b": nn.Linear(200, 5)}
    found = need(layers, solver("sparsegpt"))
    assert found.bytes == need({"wide": layers["wide"]}, solver("sparsegpt")).bytes
    assert found.largest == "wide (5,000 inputs)" and "--skip wide" in found.do and "200 MB" in found.why


def test_groups_of_a_convolution_are_held_together_and_solved_alone():
    """Gram matrices of all groups, the solver's of one: four groups of a quarter of the inputs need between 1/16 and 1/4."""
    whole, grouped = (nn.Conv2d(512, 512, 3, groups=groups) for groups in (1, 4))
    seen = {"a": Seen(1, 512 * 9)}
    most, less = (need({"a": layer}, solver("sparsegpt"), seen=seen).bytes for layer in (whole, grouped))
    assert most / 16 < less < most / 4
    assert less > 8 * 4 * (128 * 9) ** 2


def test_activations_of_all_samples_count():
    """More samples, more memory; when activations are most of it, the advice is fewer samples."""
    few, many = (need({"a": nn.Linear(100, 4)}, solver("sparsegpt"), samples=n) for n in (10, 10**6))
    assert many.bytes - few.bytes == ALIVE * 4 * 100 * (10**6 - 10)
    assert "--samples" in many.do and "--samples" not in need({"a": nn.Linear(5000, 4)}, solver("sparsegpt")).do


def test_auto_needs_what_its_choice_does():
    """A layer that goes to SparseGPT needs what SparseGPT needs, a block what exactobs does."""
    wide = {"a": nn.Linear(4000, 4)}
    assert need(wide, Auto()).bytes == need(wide, solver("sparsegpt")).bytes
    assert need(wide, Auto(), pattern="block:2x2").bytes == need(wide, solver("exactobs")).bytes


def test_the_larger_of_measuring_and_solving_counts():
    """Layers meet both, one after the other."""
    layers = {"a": nn.Linear(2000, 4)}
    both = need(layers, solver("sparsegpt"), solver("alps")).bytes
    assert both == max(need(layers, solver(name)).bytes for name in ("sparsegpt", "alps"))
    assert need(layers, None).bytes < both
    assert layers_need(Asked("x", [None], Pattern(), 1), {}, {}) is None


def test_rows_and_numbers_of_a_sample():
    """Positions of a kernel, both calls of a layer, projections of attention; a layer that is never run is absent."""
    conv, linear = nn.Conv2d(2, 3, 3), nn.Linear(3, 3)
    net = nn.Sequential(conv, nn.AdaptiveAvgPool2d(1), nn.Flatten(), linear, linear)
    found = inputs_seen(net, torch.randn(2, 2, 6, 6), {"c": conv, "l": linear, "never": nn.Linear(1, 1)})
    assert found == {"c": Seen(16, 72), "l": Seen(2, 6)}
    block = nn.TransformerEncoderLayer(8, 2, batch_first=True)
    packed = projections(block)
    assert inputs_seen(block, torch.randn(2, 5, 8), packed) == dict.fromkeys(packed, Seen(5, 40))


def test_what_does_not_fit_is_refused(monkeypatch):
    """One sentence with the flag, the layer and what to do."""
    monkeypatch.setattr(memory, "machine_memory", lambda: 1 << 30)
    with pytest.raises(BadRequest, match=r"--solver x needs .* a has 60,000 inputs.*28\.8 GB.*--skip a"):
        require_room(need({"a": nn.Linear(60000, 4)}, solver("sparsegpt")), Listener())
