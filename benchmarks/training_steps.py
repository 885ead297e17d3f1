"""What a step of each regime takes beside the dense step: ResNet-20 on images of 32 x 32, batches of 128, SGD with momentum, 90 % zeros.

    python benchmarks/training_steps.py [--rounds 15] [--batch 128]

Steps of all regimes are interleaved: in every round each takes one, and the ratio of its processor time to that of the dense step in
the same round counts; shown are medians over rounds with the spread of the middle half. All steps are taken under masks of 90 %, where a
regime has any then (ssl, admm and the ones that stay dense between steps have none). For regimes whose masks change now and then
(rigl every 100 steps, acdc every 100) the step that changes them is timed apart and amortised. The last line is a step of `--precision
bf16-mixed`, which is quick where the processor has instructions for such numbers (AMX, AVX-512 BF16). One thread.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from sparsify_cli.recipes.option import Choice
from sparsify_cli.recipes.pattern import Pattern
from sparsify_cli.shelf import Shelf
from sparsify_cli.stages.sparsifier import Sparsifier
from sparsify_cli.stages.strategy import strategy
from sparsify_cli.training import guard, masking
from sparsify_cli.values.run import Run

TOTAL, TARGET = 10_000, Fraction(9, 10)
EVERY = 100
MIXED = "fixed, bf16"

BETWEEN = ("gmp", "acdc", "asp", "imp")
"""Regimes whose masks come later in a run than at its start: they are given them, as in the middle of a run."""
ORDINARY: dict[str, dict[str, Any]] = {
    "fixed": {}, "gmp": {}, "static": {}, "acdc": {}, "rigl": {}, "set": {}, "snfs": {}, "sr-ste": {}, "admm": {}, "ssl": {},
    "asp": {}, "imp": {"drop": 0.9}, "ste": {}, "bip": {}, "movement": {}, "sam": {}, "cram": {}, "cram-plus": {}, "cram-multi": {},
}  # fmt: skip


class Block(nn.Module):
    """Two convolutions and a shortcut that pads channels."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs)
        self.stride, self.more = stride, outputs - inputs

    def forward(self, x: Tensor) -> Tensor:
        """Images to images."""
        y = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
        short = functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.more // 2, self.more // 2))
        return functional.relu(y + short)


def resnet20() -> nn.Module:
    """The network of He et al. for small images."""
    widths = [16] * 4 + [32] * 3 + [64] * 3
    blocks = [Block(a, b, 1 + (a != b)) for a, b in pairwise(widths)]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)]
    return nn.Sequential(nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU(), *blocks, *head)


@dataclass(eq=False)
class Contender:
    """A regime with a run of its own."""

    name: str
    regime: Any
    run: Run
    mixed: bool = False

    def masked(self) -> Contender:
        """With masks of the target, where its regime would have some by now."""
        if self.name in BETWEEN:
            masking.switch(self.run, self.run.sparsify(self.run.weights(), TARGET), event="given")
        return self

    def seconds(self, images: Tensor, labels: Tensor, *, at: int) -> float:
        """Processor time of one step."""
        self.run.step = at
        self.run.model.train()
        started = time.process_time()
        self.regime.step(self.run, lambda: functional.cross_entropy(self._outputs(images), labels))
        return time.process_time() - started

    def _outputs(self, images: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.mixed):
            outputs: Tensor = self.run.model(images)
        return outputs.float()


def contender(name: str, options: Mapping[str, Any]) -> Contender:
    """Ready for its first step, under masks where the regime keeps some."""
    torch.manual_seed(0)
    model = resnet20()
    names = tuple(n for n, p in model.named_parameters() if p.ndim > 1)
    choose = Sparsifier(names, strategy("criteria", Choice("magnitude")), "global", Pattern())
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    kind = Shelf("regimes").load(name)
    run = Run(model, model, optimizer, _backward, TOTAL, 100, sparsify=choose if kind.aims else None, target=TARGET)
    if name == "fixed":
        run.masks = choose(run.weights(), TARGET)
    guard.place(run)
    regime = kind(**options)
    regime.start(run)
    return Contender(name, regime, run).masked()


def _backward(loss: Tensor) -> None:
    loss.backward()  # type: ignore[no-untyped-call]


def dense() -> Contender:
    """A plain training step with no guard at all."""
    found = contender("fixed", {})
    found.name, found.run.masks = "dense", type(found.run.masks)()

    class Plain:
        def step(self, run: Run, loss: Callable[[], Tensor]) -> None:
            run.optimizer.zero_grad(set_to_none=True)
            _backward(loss())
            run.optimizer.step()

    found.regime = Plain()
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batch", type=int, default=128)
    args = parser.parse_args()
    torch.set_num_threads(1)
    images, labels = torch.randn(args.batch, 3, 32, 32), torch.randint(0, 10, (args.batch,))
    base, others = dense(), [contender(name, options) for name, options in ORDINARY.items()]
    others.append(replace(contender("fixed", {}), name=MIXED, mixed=True))
    ordinary: dict[str, list[float]] = {one.name: [] for one in others}
    changing: dict[str, list[float]] = {"rigl": [], "set": [], "snfs": [], "acdc": []}
    for i in range(args.rounds + 1):
        beside = base.seconds(images, labels, at=5001 + i)
        for one in others:
            took = one.seconds(images, labels, at=5001 + i) / beside
            if i:  # the first round warms up
                ordinary[one.name].append(took)
        for one in others:
            if i and one.name in changing:
                changing[one.name].append(one.seconds(images, labels, at=5000 if one.name != "acdc" else _phase(one, i)) / beside)
                one.masked()
    print(f"dense step {beside:.3f} s of processor time, batch {args.batch}; ratios to it, median [middle half]")
    for name, ratios in ordinary.items():
        low, middle, high = statistics.quantiles(ratios, n=4)
        line = f"{name:<12} {middle:5.3f} [{low:.3f}, {high:.3f}]"
        if name in changing:
            change = statistics.median(changing[name])
            line += f"   a step that changes masks {change:.3f}; amortised over {EVERY}: {middle + (change - middle) / EVERY:.3f}"
        print(line)


def _phase(one: Contender, number: int) -> int:
    """The first step of one of AC/DC's phases, sparse and dense by turns."""
    phases = one.regime.phases(one.run)
    return int(phases[1 + number % 10].begin)


if __name__ == "__main__":
    main()
