"""Loss scaling: gradients of float16 passes, computed on S times the loss so that small ones do not vanish, and divided by S at once.

    g = grad(S loss) / S         every reader of gradients (clipping, growth, the step up of CrAM) sees g itself
    any g not finite             S <- S / 2, and the same pass again: no step is lost, so schedules stay what they are
    2,000 passes without that    S <- 2 S

The pass is repeated on the same random numbers and from the same buffers. S and the count are in the run's memory and resume with it.

Source: Micikevicius et al. 2018 (arXiv 1710.03740), section 3.2; torch's GradScaler for the start (2^16), the factor and the 2,000.
Differs: overflowing passes are repeated; there the step is skipped.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from sparsify_cli.errors import Diverged
from sparsify_cli.values.run import Run

SCALE, SINCE = "loss_scale.scale", "loss_scale.since"
START, LEAST, MOST, PATIENCE = 2.0**16, 2.0**-14, 2.0**24, 2000


def begin(run: Run) -> None:
    """Scale losses from here on."""
    run.memory |= {SCALE: torch.tensor(START, dtype=torch.float64), SINCE: torch.tensor(0)}


def scaled(run: Run, compute: Callable[[float], Tensor]) -> Tensor:
    """A pass whose gradients are those of the loss.

    Args:
        run: its memory holds the scale; without one nothing is scaled.
        compute: given S, fills gradients with those of S times the loss, from nothing; returns the loss.

    Raises:
        Diverged: gradients are not finite at the least scale either.
    """
    if SCALE not in run.memory:
        return compute(1.0)
    buffers = [(buffer, buffer.clone()) for buffer in run.model.buffers()]
    numbers, there = torch.get_rng_state(), [p.device for p in run.model.parameters() if p.device.type == "cuda"][:1]
    theirs = [torch.cuda.get_rng_state(device) for device in there]
    while True:
        scale = float(run.memory[SCALE])
        value = compute(scale)
        parameters = [parameter for parameter in run.model.parameters() if parameter.grad is not None]
        if _divided(parameters, scale):
            _count(run)
            return value
        if scale <= LEAST:
            raise Diverged(
                f"Gradients are not finite at step {run.step + 1}, however small the loss is made.", "", "Use --precision 32-true."
            )
        run.memory |= {SCALE: torch.tensor(scale / 2, dtype=torch.float64), SINCE: torch.tensor(0)}
        torch.set_rng_state(numbers)
        for device, state in zip(there, theirs, strict=True):
            torch.cuda.set_rng_state(state, device)
        for buffer, before in buffers:
            buffer.data.copy_(before)


def _count(run: Run) -> None:
    since, scale = int(run.memory[SINCE]) + 1, float(run.memory[SCALE])
    grows = since >= PATIENCE and scale < MOST
    run.memory |= {SCALE: torch.tensor(scale * (1 + grows), dtype=torch.float64), SINCE: torch.tensor(0 if grows else since)}


@torch.no_grad()
def _divided(parameters: list[nn.Parameter], scale: float) -> bool:
    """Divide gradients by S, a power of two; False where one is not finite."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    for gradient in gradients:
        gradient.mul_(1 / scale)
    return all(bool(torch.isfinite(gradient).all()) for gradient in gradients)
