"""The engine in one process and, for real, in two under torchrun."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from torch import nn

from sparsify_cli.errors import BadRequest, SparsifyError
from sparsify_cli.training.engine import Engine, engine, setup
from sparsify_cli.values.mask_set import MaskSet

ROOT = Path(__file__).parents[3]

TWO_PROCESSES = """
import hashlib, json, torch
from fractions import Fraction
from pathlib import Path
from torch import nn
from sparsify_cli.objectives.cross_entropy import CrossEntropy
from sparsify_cli.regimes.gmp import Gmp
from sparsify_cli.training.engine import engine, setup
from sparsify_cli.training.loop import train
from sparsify_cli.values.mask_set import MaskSet
from sparsify_cli.values.run import Run
from sparsify_cli.values.samples import Samples

start = engine("cpu")
torch.manual_seed(0)
inputs = torch.randn(100, 6)
samples = Samples(inputs, (inputs[:, 0] > 0).long(), tuple(str(i) for i in range(100)))
model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 2))
forward, optimizer = setup(start, model, lambda m: torch.optim.SGD(m.parameters(), lr=0.1, momentum=0.9))

def sparsify(weights, sparsity, *, within=None):
    noise = torch.rand(8, 6, generator=torch.Generator().manual_seed(start.rank))  # the processes would disagree
    scores = (noise if within is None else noise * within["0.weight"]).flatten()
    mask = torch.zeros(48, dtype=torch.bool)
    mask[scores.topk(48 - round(48 * sparsity)).indices] = True
    return MaskSet({"0.weight": mask.reshape(8, 6)})

run = Run(model, forward, optimizer, start.backward, total=20, per_epoch=4, sparsify=start.agreed(sparsify), target=Fraction(1, 2))
train(run, Gmp(), CrossEntropy().prepare(nn.Module), samples, batch_size=32, seed=3, learning_rate=lambda *_: 0.1,
      rank=start.rank, world=start.world, stop_requested=start.everywhere(lambda: False))
weights = {name: p.flatten().tolist() for name, p in run.weights().items()}
Path(f"rank{start.rank}of{start.world}.json").write_text(json.dumps([weights, run.masks.digest(), run.masks.kept]))
start.close()
"""


@pytest.fixture(scope="module")
def single() -> Engine:
    """One process on the CPU."""
    return engine("cpu")


def test_one_process(single: Engine, capfd: pytest.CaptureFixture[str]) -> None:
    """Rank 0 of 1, and the model and optimizer handed in are the ones trained, without a banner."""
    model = nn.Linear(2, 1)
    forward, optimizer = setup(single, model, lambda m: torch.optim.SGD(m.parameters(), lr=1.0))
    before = model.weight.detach().clone()
    single.backward(forward(torch.ones(1, 2)).sum())
    optimizer.step()
    assert torch.equal(model.weight, before - 1)
    assert (single.rank, single.world, single.device.type) == (0, 1, "cpu")
    assert capfd.readouterr() == ("", "")


def test_one_process_agrees_with_itself(single: Engine) -> None:
    """Masks pass through, a flag is the flag, sharing and closing are harmless."""
    masks = MaskSet({"weight": torch.tensor([[True, False]])})
    agreed = single.agreed(lambda *_, **__: masks)
    assert agreed({}, Fraction(1, 2)) == masks == single.from_first(masks)
    assert single.everywhere(lambda: True)() is True
    single.share(nn.Linear(1, 1))
    single.close()


def test_a_process_with_other_masks_is_named(single: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """When rank 0's hash differs from ours, the run stops and says so."""
    monkeypatch.setattr(type(single.fabric), "broadcast", lambda *_: "0123456789abcdef")
    with pytest.raises(SparsifyError, match=r"Process 0 holds other masks.*0123456789ab"):
        single.compare("f" * 64, "masks")


@pytest.mark.parametrize(("device", "precision"), [("tpu9", "32-true"), ("cpu:1", "32-true"), ("cpu", "8-magic"), ("cuda:97", "32-true")])
def test_what_is_not_there_is_refused(device: str, precision: str) -> None:
    """A device or precision that this machine does not have is one sentence, not a traceback of the engine."""
    with pytest.raises(BadRequest):
        engine(device, precision)


def test_mixed_precision_keeps_master_weights() -> None:
    """bf16-mixed gives float32 outputs and leaves weights float32."""
    model = nn.Linear(2, 1)
    forward, _ = setup(engine("cpu", "bf16-mixed"), model, lambda m: torch.optim.SGD(m.parameters(), lr=1.0))
    assert (forward(torch.ones(3, 2)).dtype, model.weight.dtype) == (torch.float32, torch.float32)


@pytest.mark.slow
def test_torchrun_trains_one_network(tmp_path: Path) -> None:
    """Two processes end with identical weights and masks, and with those of one process up to rounding."""
    script = tmp_path / "two.py"
    script.write_text(TWO_PROCESSES)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    for launcher in ([], ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]):
        command = [sys.executable, *launcher, str(script)]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stderr
    alone, first, second = (json.loads((tmp_path / name).read_text()) for name in ("rank0of1.json", "rank0of2.json", "rank1of2.json"))
    assert first == second
    assert (first[1], first[2]) == (alone[1], 24)
    for name, values in alone[0].items():
        assert first[0][name] == pytest.approx(values, abs=1e-5)
