"""Claim: several processes train the network that one process trains, with the same masks, in every regime and with both optimizers.

The network has batch norm (and before it no bias, whose gradient would be rounding alone, which AdamW makes steps of), and the last batch
of an epoch 7 samples, which neither two nor three processes share evenly.

Source: house rule, masks are decided once and are identical on every rank; batches over all processes are the same samples.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sparsify_cli.shelf import Shelf

ROOT = Path(__file__).parents[2]

SCRIPT = """
import copy, json, os, torch
from fractions import Fraction
from pathlib import Path
from torch import nn
from sparsify_cli.objectives.cross_entropy import CrossEntropy
from sparsify_cli.shelf import Shelf
from sparsify_cli.training import guard, kept_weights
from sparsify_cli.training.engine import engine, setup
from sparsify_cli.training.loop import train
from sparsify_cli.values.mask_set import MaskSet
from sparsify_cli.values.run import Run
from sparsify_cli.values.samples import Samples
from sparsify_cli.values.shards import here, whole

start = engine("cpu", "64-true", os.environ["PARALLEL"])
inputs = torch.randn(97, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
samples = Samples(inputs, (inputs[:, 0] > 0).long(), tuple(map(str, range(97))))
frozen = torch.zeros(2, 7, dtype=torch.bool)
frozen[1, 3:5] = True

def smallest(weights, sparsity, *, within=None):
    masks = {}
    for name in ("0.weight", "3.weight"):
        score = weights[name].abs() * (1 if within is None else within[name])
        if name == "3.weight":
            score = score.masked_fill(frozen, torch.inf)
        masks[name] = torch.ones(score.numel(), dtype=torch.bool)
        masks[name][score.flatten().argsort(stable=True)[: round(score.numel() * sparsity)]] = False
        masks[name] = masks[name].reshape(score.shape)
    return MaskSet(masks)

def begun(regime, make):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 7, bias=False), nn.BatchNorm1d(7), nn.Tanh(), nn.Linear(7, 2)).double()
    forward, optimizer = setup(start, model, lambda m: make(m.parameters()))
    run = Run(model, forward, optimizer, start.backward, total=24, per_epoch=4, target=Fraction(1, 2), seed=7,
              sparsify=start.agreed(smallest) if regime.aims else None)
    if start.world > 1:
        run.settle = start.from_first
    if not regime.prunes:
        run.masks = smallest(whole(run.weights()), Fraction(1, 4))
    run.frozen = guard.freeze(run.weights(), {"3.weight": frozen})
    return run

def go_on(run, regime, keep=lambda run: None):
    def after(run, _):
        kept_weights.average(run, 0.5)
        keep(run)
    torch.manual_seed(start.rank)  # what comes of the global generator differs
    train(run, regime, CrossEntropy().prepare(nn.Module), samples, batch_size=30, seed=3, learning_rate=lambda *_: 0.05,
          rank=start.rank, world=start.world, stop_requested=start.everywhere(lambda: False), after_step=after)
    numbers = [*whole(run.weights()).values(), *whole(kept_weights.averaged(run)).values()]
    return [torch.cat([p.flatten() for p in numbers]).tolist(), run.masks.digest(), run.masks.kept]

def held(run):
    tensors = [*run.model.parameters(), *(v for s in run.optimizer.state.values() for v in s.values() if v.ndim)]
    return sum(here(tensor).numel() for tensor in tensors), sum(tensor.numel() for tensor in tensors)

MORE = {"ssl, zero groups frozen": ("ssl", {"lam": 0.5, "finetune": "0.4run"}), "cram-multi, 2:4": ("cram-multi", {"patterns": "2:4"}),
        "imp, drawn anew": ("imp", {"branch": "reinit"}), "imp, shuffled": ("imp", {"branch": "shuffled"})}
found = {}
with start.together():
    for case, (name, options) in ({name: (name, {}) for name in Shelf("regimes").names()} | MORE).items():
        for make in (lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9), lambda p: torch.optim.AdamW(p, lr=0.02)):
            regime, saved = Shelf("regimes").load(name)(**options), []
            run = begun(regime, make)
            keep = lambda run: saved.append(copy.deepcopy(run.state())) if run.step == 13 else None
            key = f"{case} {type(run.optimizer).__name__}"
            found[key] = go_on(run, regime, keep)
            sizes = held(run)
            for word in ("resumed", "carried"):  # carried = from the state of one process
                path = Path(f"{key}.pt")
                if start.world == 1:
                    torch.save(saved[0], path)
                again = begun(regime, make)
                again.restore(torch.load(path) if word == "carried" else saved[0])
                found[f"{key} {word}"] = go_on(again, regime)
Path(f"held-{os.environ['PARALLEL']}{start.rank}of{start.world}.json").write_text(json.dumps(sizes))
Path(f"{os.environ['PARALLEL']}{start.rank}of{start.world}.json").write_text(json.dumps(found))
start.close()
"""


def torchrun(count: int) -> list[str]:
    """Words that start so many processes."""
    return ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)] if count > 1 else []


Ends = dict[str, Any]


@pytest.fixture(scope="module")
def ends(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Ends]:
    """What one process, each of two, and each of two and of three that share the network ended with."""
    folder = tmp_path_factory.mktemp("processes")
    (folder / "both.py").write_text(SCRIPT)
    for count, parallel in ((1, "ddp"), (2, "ddp"), (2, "fsdp"), (3, "fsdp")):
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PARALLEL": parallel}
        command = [sys.executable, *torchrun(count), str(folder / "both.py")]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=900)
        assert done.returncode == 0, done.stderr[-2000:]
    return {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}


@pytest.mark.slow
@pytest.mark.timeout(2400)
@pytest.mark.parametrize(("parallel", "count"), [("ddp", 2), ("fsdp", 2), ("fsdp", 3)])
def test_processes_train_the_network_of_one(ends: dict[str, Ends], parallel: str, count: int) -> None:
    """Masks are the same bit for bit on 1, 2 and 3 processes and on every rank; weights of all ranks too, and those of one up to rounding.

    So they are where each process holds some rows of every weight: of seven rows four and three, or three, three and one; of the two
    of the last layer a third process holds none. And so is what goes on from a state that one process saved.
    """
    alone, first, *others = [ends["ddp0of1"], *(ends[f"{parallel}{rank}of{count}"] for rank in range(count))]
    assert len(alone) == 6 * (len(Shelf("regimes").names()) + 4)
    assert all(first == other for other in others)
    for name, (weights, digest, kept) in alone.items():
        assert first[name][1:] == [digest, kept], name
        # torch's FSDP divides gradients by the number of processes, of which a third is a number of float32; AdamW makes small ones large
        assert first[name][0] == pytest.approx(weights, abs=1e-8 if count == 2 else 1e-4), name


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_a_resumed_run_is_the_run(ends: dict[str, Ends]) -> None:
    """Every regime, resumed at step 13 of 24, ends with the same bits: alone, on two processes, and where they share the network."""
    for ending in [ending for ending in ends if "held" not in ending]:
        found = ends[ending]
        for name in [name for name in found if name.endswith("resumed")]:
            assert found[name] == found[name.removesuffix(" resumed")], (ending, name)


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_processes_share_a_network(ends: dict[str, Any]) -> None:
    """With fsdp what two processes hold of weights and of the optimizer's memory adds up to one network, four rows of seven to three."""
    (first, total), (second, same) = ends["held-fsdp0of2"], ends["held-fsdp1of2"]
    assert first + second == total == same == ends["held-ddp0of1"][0]
    assert second < first < 0.6 * total
