"""Weights that are kept beside those that train: an exponential average, and the best epoch's. They live in `run.memory`.

average:  a <- d a + (1 - d) w after every step; counters are copied. Where the masks are zero at the end, so is the average.

Source: averaging: Polyak and Juditsky 1992; the exponential form with a warm-up of the decay, min(d, (1 + t) / (10 + t)), as
TensorFlow's moving averages have it.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from sparsify_cli.values.mask_set import MaskSet
from sparsify_cli.values.run import Run
from sparsify_cli.values.shards import split_like

AVERAGE, BEST, BEST_MASK, SCORE = "average.", "best.model.", "best.mask.", "best.score"


@torch.no_grad()
def average(run: Run, decay: float) -> None:
    """One step of the average, after the optimizer's."""
    now = run.model.state_dict()
    if not run.remembered(AVERAGE):
        run.memory |= {AVERAGE + name: tensor.detach().clone() for name, tensor in now.items()}
        return
    share = min(decay, (1 + run.step) / (10 + run.step))
    for name, tensor in now.items():
        kept = split_like(run.memory[AVERAGE + name].to(tensor.device), tensor)
        run.memory[AVERAGE + name] = kept.lerp_(tensor, 1 - share) if kept.is_floating_point() else tensor.detach().clone()


def forget_average(run: Run) -> None:
    """Begin the average anew with the next step."""
    run.forget(AVERAGE)


def averaged(run: Run) -> Mapping[str, Tensor]:
    """The average as a state dict, zero where the masks are, under every name of a weight; empty when none was kept."""
    found = run.remembered(AVERAGE)
    if not found:
        return {}
    masked, parameters = (
        run.masks.apply({name: found[name] for name in run.masks}),
        dict(run.model.named_parameters(remove_duplicate=False)),
    )
    first = {id(parameters[name]): name for name in masked if name in parameters}
    again = {name: masked[first[id(one)]] for name, one in parameters.items() if id(one) in first and name in found}
    return {**found, **again, **masked}


def offer(run: Run, score: float) -> bool:
    """Keep the network as it is now if it scores more than the best so far; returns whether it does."""
    if SCORE in run.memory and score <= float(run.memory[SCORE]):
        return False
    run.forget(BEST, BEST_MASK)
    run.memory |= {BEST + name: tensor.detach().clone() for name, tensor in run.model.state_dict().items()}
    run.memory |= {BEST_MASK + name: mask.clone() for name, mask in run.masks.items()}
    run.memory[SCORE] = torch.tensor(score, dtype=torch.float64)
    return True


def best(run: Run) -> tuple[Mapping[str, Tensor], MaskSet] | None:
    """The best network and its masks; None when none was offered."""
    found = run.remembered(BEST)
    return (found, MaskSet(run.remembered(BEST_MASK))) if found else None
