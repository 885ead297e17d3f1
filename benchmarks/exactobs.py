"""ExactOBS beside the floor of its operations, and beside the structure of the published code, in one process.

    floor      rows * columns^3 * 2/3 operations (every unit removed in turn, A made smaller as it goes) at the rate of a large
               matrix product measured just before; half of them would do if the symmetry of A were used
    published  one downdate of A a step, batched over rows; the fastest of its first steps, times all steps (it never makes A smaller)

Layers too large to wait for are measured on one part of their rows, the rows in flight, times the number of parts: rows do not
know of each other. The last output is kept in `exactobs.txt`; rerun with `python benchmarks/exactobs.py`.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor

from sparsify_cli.maths.gram import damped
from sparsify_cli.maths.obs import IN_FLIGHT, ROWS, eliminate, rebuilt

LAYERS = [(64, 64), (64, 576), (128, 1152), (512, 4608)]
PATIENCE = 4e11
"""Operations above which a layer is measured on one part of its rows."""
STEPS = 8
"""Steps of the published structure that are timed."""


def seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def rate() -> float:
    """Operations a second of a float64 matrix product of side 2,048; the best of three."""
    matrix = torch.randn(2048, 2048, dtype=torch.float64)
    return 2 * 2048**3 / min(seconds(lambda: matrix @ matrix) for _ in range(3))


def problem(rows: int, columns: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(2 * columns, columns, generator=generator, dtype=torch.float64)
    inputs[:, 1:] += inputs[:, :-1]
    return torch.randn(rows, columns, generator=generator, dtype=torch.float64), damped(inputs.T @ inputs / len(inputs), 0.01)


def published(weight: Tensor, inverse: Tensor) -> float:
    """Seconds a step as in trueobs.py: A of every row in memory, one outer product a step; memory is set up, and warm, before."""
    rows = torch.arange(len(weight))
    weight, inverses, gone = weight.clone(), inverse.repeat(len(weight), 1, 1), torch.zeros_like(weight, dtype=torch.bool)

    def step() -> None:
        diagonal = inverses.diagonal(dim1=1, dim2=2)
        pick = (weight.square() / diagonal).masked_fill(gone, torch.inf).argmin(1)
        row, pivot = inverses[rows, pick], diagonal[rows, pick]
        weight.sub_(row * (weight[rows, pick] / pivot)[:, None])
        row = row / pivot.sqrt()[:, None]
        inverses.sub_(row[:, :, None] @ row[:, None])
        gone[rows, pick] = True

    return min(seconds(step) for _ in range(STEPS))


def main() -> None:
    """Print the table."""
    print(f"{torch.get_num_threads()} threads; times in seconds, measured on `rows` of the layer and scaled to all")
    print(f"{'layer':>10} {'rows':>5} {'Gop/s':>6} {'floor':>8} {'ours':>8} {'ratio':>6} {'refit 50 %':>10} {'published':>10}")
    for rows, columns in LAYERS:
        flight = max(1, min(ROWS, IN_FLIGHT // (8 * columns**2)))
        part = rows if rows * columns**3 * 2 / 3 <= PATIENCE else min(rows, flight)
        weight, hessian = problem(part, columns)
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(hessian))
        speed, times = rate(), rows / part
        floor = rows * columns**3 * 2 / 3 / speed
        start = time.perf_counter()
        trace = eliminate(weight[:, None], inverse, columns)
        middle = time.perf_counter()
        rebuilt(weight, hessian, inverse, trace.kept(torch.full((part,), columns // 2), columns))
        ours, fitted = (middle - start) * times, (time.perf_counter() - middle) * times
        some = weight[: min(part, 32)]
        theirs = published(some, inverse) * columns * rows / len(some)
        row = f"{rows}x{columns}"
        print(f"{row:>10} {part:>5} {speed / 1e9:>6.1f} {floor:>8.2f} {ours:>8.2f} {ours / floor:>6.2f} {fitted:>10.2f} {theirs:>10.1f}")


if __name__ == "__main__":
    main()
