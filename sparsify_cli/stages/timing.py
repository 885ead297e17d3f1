"""Time a forward pass: one module alone, or two modules run alternately. Prints nothing.

Alternating runs see the same background load, so the ratio of two modules is far steadier than two separate timings.
"""

from __future__ import annotations

import time
from dataclasses import replace

import torch
from torch import Tensor, nn

from sparsify_cli.errors import BadRequest
from sparsify_cli.maths.order_statistics import median_interval, spread
from sparsify_cli.training.modes import evaluating
from sparsify_cli.values.arrays import as_taken_by
from sparsify_cli.values.report import Finding

LATENCY = Finding(
    name="latency_ms",
    value=None,
    unit="ms",
    better="lower",
    definition="Median wall-clock time of one forward pass of one batch; the range holds the middle 90 % of the runs.",
)
RATIO = Finding(
    name="latency_ratio",
    value=None,
    better="lower",
    definition="Median over interleaved runs of compressed time / dense time; 1 is as fast as dense, below 1 is faster.",
    source="ours; exact interval of a median from binomial ranks, Hahn and Meeker 1991",
)


def latency(module: nn.Module, inputs: Tensor, *, batch: int = 1, repeats: int = 30, warmup: int = 5) -> list[Finding]:
    """Median time of one forward pass, with the 5 % and 95 % quantiles of the runs.

    Args:
        module: measured in eval mode, where it is.
        inputs: [n, ...]; the first `batch` are used.
        batch: inputs a pass.
        repeats: timed runs, at least 1.
        warmup: runs before them that do not count.

    Raises:
        BadRequest: no runs, or more inputs a pass than there are.
    """
    with evaluating(module), torch.inference_mode():
        [times] = _interleaved((module,), _first(inputs, batch), repeats, warmup)
    return [_latency(times, batch)]


def latency_ratio(
    compressed: nn.Module, dense: nn.Module, inputs: Tensor, *, batch: int = 1, repeats: int = 30, warmup: int = 5
) -> list[Finding]:
    """Time two modules alternately, so that whatever else the machine does hits both.

    Returns:
        `latency_ms` of the compressed and of the dense module, then `latency_ratio`, compressed / dense.
    """
    with evaluating(compressed), evaluating(dense), torch.inference_mode():
        now, before = _interleaved((compressed, dense), _first(inputs, batch), repeats, warmup)
    ratios = [a / b for a, b in zip(now, before, strict=True)]
    exact = median_interval(ratios)
    low, high = (exact.low, exact.high) if exact else (None, None)
    ratio = replace(RATIO, value=spread(ratios).value, low=low, high=high, n=repeats, note=_circumstances(batch))
    return [_latency(now, batch), replace(_latency(before, batch), of="dense"), ratio]


def device_of(module: nn.Module) -> torch.device:
    """Where a module's parameters are; the CPU when it has none."""
    first = next(module.parameters(), None)
    return torch.device("cpu") if first is None else first.device


def _first(inputs: Tensor, batch: int) -> Tensor:
    if not 0 < batch <= len(inputs):
        raise BadRequest(f"A batch of {batch} was asked for and there are {len(inputs)} inputs.", "", f"Ask for 1 to {len(inputs)}.")
    return inputs[:batch]


def _interleaved(modules: tuple[nn.Module, ...], inputs: Tensor, repeats: int, warmup: int) -> list[list[float]]:
    """Milliseconds of each run of each module, after `warmup` uncounted rounds; who goes first alternates."""
    if repeats < 1:
        raise BadRequest(f"{repeats} timed runs were asked for.", "A median needs at least one.", "Ask for 30.")
    forwards = tuple(range(len(modules)))
    rounds = [_round(modules, inputs, forwards if turn % 2 else forwards[::-1]) for turn in range(warmup + repeats)]
    return [[took[i] for took in rounds[warmup:]] for i in forwards]


def _round(modules: tuple[nn.Module, ...], inputs: Tensor, order: tuple[int, ...]) -> dict[int, float]:
    return {i: _milliseconds(modules[i], inputs) for i in order}


def _milliseconds(module: nn.Module, inputs: Tensor) -> float:
    device = device_of(module)
    moved = as_taken_by(module, inputs)
    _wait(device)
    start = time.perf_counter()
    module(moved)
    _wait(device)
    return (time.perf_counter() - start) * 1000


def _wait(device: torch.device) -> None:
    """Accelerators run behind: without waiting, only the launch would be timed."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _latency(times: list[float], batch: int) -> Finding:
    found = spread(times)
    return replace(LATENCY, value=found.value, low=found.low, high=found.high, n=len(times), note=_circumstances(batch))


def _circumstances(batch: int) -> str:
    threads = torch.get_num_threads()
    return f"batch of {batch}, {threads} thread{'s' if threads > 1 else ''}, this machine"
