"""Solvers on one large layer: seconds, beside the time its floating-point operations take at the rate of a large product.

    floor       operations of the algorithm / rate of a product of two such matrices, measured in the same process and dtype,
                before and after each run (the mean of both)
    structure   SparseGPT as the paper describes it: float32, the inverse and its factor by Cholesky, blocks of 128 columns, a loop
                over the columns of a block, columns further right updated a block at a time

Operations of SparseGPT: columns^3 / 3 for the Cholesky factor, as much for its inverse, and out x columns^2 for the repairs (ours in
float32 on layers of this size, the factors in float64); those of other solvers are counted while they run, product by product, a
symmetric eigendecomposition as 9 columns^3. All runs take turns. Nothing else should be running; all cores are used.

    python benchmarks/solvers.py                 4096 x 4096; a few minutes and 3 GB
    python benchmarks/solvers.py --size 1024     quick
    python benchmarks/solvers.py --alps          ALPS as well

The last output is kept in `solvers.txt`.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from sparsify_cli.contracts.solver import Keep, LayerSolver
from sparsify_cli.maths.gram import damped, output_change
from sparsify_cli.recipes.pattern import Pattern
from sparsify_cli.shelf import Shelf

DAMPING = 0.01
BLOCK = 128


def problem(size: int) -> tuple[Tensor, Tensor]:
    """A layer and the Gram matrix of correlated inputs whose sizes differ."""
    generator = torch.Generator().manual_seed(0)
    mix = torch.randn(size, size, generator=generator) / size**0.5
    rows = torch.randn(2 * size, size, generator=generator) * torch.logspace(0, -1.5, size)
    rows = (rows @ mix + 0.02 * torch.randn(2 * size, size, generator=generator)) * torch.exp(0.5 * torch.randn(size, generator=generator))
    weight = torch.randn(size, size, generator=generator) * torch.exp(0.3 * torch.randn(size, 1, generator=generator))
    gram = rows.T @ rows / len(rows)
    return weight, gram.double()


def structure(weight: Tensor, gram: Tensor, share: float, pattern: Pattern) -> Tensor:
    """SparseGPT as described in the paper, for timing; `share` of every block is pruned, or all but N of M."""
    work, columns = weight.float().clone(), weight.shape[1]
    lower = torch.linalg.cholesky(damped(gram, DAMPING).float())
    factor = torch.linalg.cholesky(torch.cholesky_inverse(lower), upper=True)
    for start in range(0, columns, BLOCK):
        stop = min(start + BLOCK, columns)
        part, inner = work[:, start:stop].clone(), factor[start:stop, start:stop]
        done, errors = torch.zeros_like(part), torch.zeros_like(part)
        pruned = torch.zeros_like(part, dtype=torch.bool)
        if not pattern.is_grouped:
            scores = part.square() / inner.diagonal().square()
            pruned = scores <= scores.flatten().sort().values[int(scores.numel() * share)]
        for j in range(stop - start):
            if pattern.is_grouped and j % pattern.group == 0:
                near = slice(j, j + pattern.group)
                scores = part[:, near].square() / inner.diagonal()[near].square()
                pruned[:, near].scatter_(1, scores.topk(pattern.group - pattern.keep, dim=1, largest=False).indices, True)
            column = part[:, j]
            kept = column.masked_fill(pruned[:, j], 0)
            done[:, j], errors[:, j] = kept, (column - kept) / inner[j, j]
            part[:, j:] -= errors[:, j, None] @ inner[None, j, j:]
        work[:, start:stop] = done
        work[:, stop:] -= errors @ factor[start:stop, stop:]
    return work


def floor(size: int, speed: dict[torch.dtype, float], factors: torch.dtype) -> float:
    """Seconds of SparseGPT's operations on a square layer: both factors in a number type of their own, repairs in float32."""
    return 2 * size**3 / 3 / speed[factors] + size**3 / speed[torch.float32]


class Counted(TorchDispatchMode):
    """Counts floating-point operations of products and factorisations by dtype."""

    def __init__(self) -> None:
        super().__init__()
        self.flops: Counter[torch.dtype] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operation and count it."""
        out = func(*args, **(kwargs or {}))
        name, tensors = str(func).split(".")[1], [a for a in args if isinstance(a, Tensor)]
        if name in ("mm", "bmm", "addmm", "addmm_", "baddbmm"):
            left, right = tensors[-2:]
            self.flops[left.dtype] += 2 * left.numel() * right.shape[-1]
        elif name in ("linalg_cholesky_ex", "_linalg_eigh", "linalg_solve_triangular", "cholesky_solve"):
            self.flops[tensors[0].dtype] += int(_factorisation(name, tensors))
        return out


def _factorisation(name: str, tensors: list[Tensor]) -> float:
    first = tensors[0]
    if name == "linalg_solve_triangular":
        return tensors[1].numel() * first.shape[-1]
    if name == "cholesky_solve":
        return 2 * first.numel() * first.shape[-2]
    return first.numel() * first.shape[-1] * (9 if name == "_linalg_eigh" else 1 / 3)


def rate(size: int, dtype: torch.dtype) -> float:
    """Operations a second of a product of two square matrices, the best of two."""
    left, right = torch.randn(size, size, dtype=dtype), torch.randn(size, size, dtype=dtype)
    return 2 * size**3 / min(timed(lambda: left @ right)[0] for _ in range(2))


def timed(run: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds, and what came out."""
    start = time.perf_counter()
    out = run()
    return time.perf_counter() - start, out


def rates(size: int, run: Callable[[], Any]) -> tuple[float, Any, dict[torch.dtype, float]]:
    """Seconds and outcome of a run, and the rates in both precisions, the mean of before and after."""
    before = {dtype: rate(size, dtype) for dtype in (torch.float32, torch.float64)}
    seconds, out = timed(run)
    return seconds, out, {dtype: (old + rate(size, dtype)) / 2 for dtype, old in before.items()}


def compare(size: int, pattern: Pattern, share: float, runs: int) -> None:
    """SparseGPT and the structure, in turn."""
    weight, gram = problem(size)
    solver: LayerSolver = Shelf("solvers").load("sparsegpt")()
    keep = Keep(round(weight.numel() * (1 - share)), pattern)
    found: dict[str, list[tuple[float, float]]] = {"ours": [], "structure": []}
    change = {}
    for _ in range(runs):
        for name, dtype, run in (
            ("ours", torch.float64, lambda: solver.solve(weight, gram, keep)[0]),
            ("structure", torch.float32, lambda: structure(weight, gram, share, pattern)),
        ):
            seconds, out, speed = rates(size, run)
            found[name].append((seconds, seconds / floor(size, speed, dtype)))
            change[name] = output_change(weight - out, gram) / output_change(weight, gram)
    ratio = statistics.median(ours[0] / theirs[0] for ours, theirs in zip(found["ours"], found["structure"], strict=True))
    for name, dtype in (("ours", "float64 factors"), ("structure", "float32")):
        seconds, floors = (statistics.median(column) for column in zip(*found[name], strict=True))
        print(f"sparsegpt {pattern} {share:.0%}  {name:9} {dtype:15}  {seconds:7.2f} s  {floors:5.2f} x floor  change {change[name]:.5f}")
    print(
        f"sparsegpt {pattern} {share:.0%}  ours / structure: time {ratio:.2f}, change {change['ours'] / change['structure']:.2f}",
        flush=True,
    )


def alps(size: int, share: float) -> None:
    """ALPS beside what its own operations take."""
    weight, gram = problem(size)
    solver, counted = Shelf("solvers").load("alps")(), Counted()

    def run() -> Tensor:
        with counted:
            return solver.solve(weight, gram, Keep(round(weight.numel() * (1 - share)), Pattern()))[0]

    seconds, out, speed = rates(size, run)
    floor = sum(flops / speed[dtype] for dtype, flops in counted.flops.items())
    change = output_change(weight - out, gram) / output_change(weight, gram)
    parts = ", ".join(f"{flops / 1e9:,.0f} GFLOP in {str(dtype).removeprefix('torch.')}" for dtype, flops in counted.flops.items())
    print(f"alps unstructured {share:.0%}  {seconds:7.2f} s  {seconds / floor:5.2f} x floor ({parts})  change {change:.5f}", flush=True)


def main() -> None:
    """Read the options and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=4096, help="rows and columns of the layer")
    parser.add_argument("--runs", type=int, default=3, help="of each, in turn; the median is printed")
    parser.add_argument("--alps", action="store_true", help="ALPS as well, once")
    asked = parser.parse_args()
    print(
        f"{asked.size} x {asked.size}, {torch.get_num_threads()} threads of {os.cpu_count()}, torch {torch.__version__}, {asked.runs} runs"
    )
    for pattern, share in (("unstructured", 0.5), ("unstructured", 0.8), ("2:4", 0.5)):
        compare(asked.size, Pattern.parse(pattern), share, asked.runs)
    if asked.alps:
        alps(asked.size, 0.7)


if __name__ == "__main__":
    main()
