"""Exact global selection beside torch.nn.utils.prune.global_unstructured: the same request, one process, in turn.

Both prune 90 % of 10 million weights in 20 layers. Ours also holds the exact count and a stated order of ties. The last
output is kept in `selection.txt`; rerun with `python benchmarks/selection.py`.
"""

from __future__ import annotations

import statistics
import time
from fractions import Fraction

import torch
from torch import nn
from torch.nn.utils import prune

from sparsify_cli.maths.choose_masks import choose_masks
from sparsify_cli.recipes.pattern import Pattern

LAYERS, SIZE, RUNS = 20, 707, 5


def ours(weights: dict[str, torch.Tensor]) -> int:
    """Zeros of our masks."""
    scores = {name: weight.abs() for name, weight in weights.items()}
    masks = choose_masks(scores, pattern=Pattern(), sparsity=Fraction(9, 10), allocation="global")
    return masks.total - masks.kept


def theirs(weights: dict[str, torch.Tensor]) -> int:
    """Zeros of torch's masks."""
    layers = [nn.Linear(SIZE, SIZE, bias=False) for _ in weights]
    for layer, weight in zip(layers, weights.values(), strict=True):
        layer.weight.data = weight.clone()
    prune.global_unstructured([(layer, "weight") for layer in layers], pruning_method=prune.L1Unstructured, amount=0.9)
    return sum(int((layer.weight_mask == 0).sum()) for layer in layers)


def main() -> None:
    """Time both in turn and print medians and the ratio."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    weights = {f"layer{i:02d}": torch.randn(SIZE, SIZE) for i in range(LAYERS)}
    times: dict[str, list[float]] = {"ours": [], "torch": []}
    zeros = {}
    for _ in range(RUNS):
        for name, run in (("ours", ours), ("torch", theirs)):
            start = time.perf_counter()
            zeros[name] = run(weights)
            times[name].append(time.perf_counter() - start)
    ours_s, torch_s = (statistics.median(times[name]) for name in ("ours", "torch"))
    ratio = statistics.median(a / b for a, b in zip(times["ours"], times["torch"], strict=True))
    print(f"{LAYERS * SIZE * SIZE:,} weights, 90 %: zeros ours {zeros['ours']:,}, torch {zeros['torch']:,}")
    print(f"median of {RUNS}: ours {ours_s:.2f} s, torch {torch_s:.2f} s, ratio ours/torch {ratio:.2f}")


if __name__ == "__main__":
    main()
