"""Movement: minus the sum over steps of gradient times weight, gathered for criteria that rank by it, and saved with the run.

Source: Sanh et al. 2020, arXiv 2005.07683, equation 3.
"""

from __future__ import annotations

import torch

from sparsify_cli.values.run import Following, Run, Sparsify

PREFIX = "movement."


def begin(run: Run) -> None:
    """From now on, gather what the run's choice of masks wants."""
    names = run.sparsify.follows if isinstance(run.sparsify, Following) else ()
    weights = run.weights()
    run.memory |= {PREFIX + name: torch.zeros_like(weights[name], dtype=torch.float32) for name in names}


@torch.no_grad()
def gather(run: Run) -> None:
    """Add a step; between its backward pass and the optimizer's."""
    wanted = run.remembered(PREFIX)
    if not wanted:
        return
    parameters = dict(run.model.named_parameters())
    for name, total in wanted.items():
        weight = parameters[name]
        if weight.grad is not None:
            run.memory[PREFIX + name] = total.to(weight.device) - weight.grad.float() * weight.float()


def informed(run: Run) -> Sparsify | None:
    """The run's choice of masks, when it knows what was gathered."""
    gathered = run.remembered(PREFIX)
    return run.sparsify.knowing(gathered) if gathered and isinstance(run.sparsify, Following) else run.sparsify
