"""The masks that a run of sparse training starts from.

How many weights each layer keeps is what the recipe says (sparsity, allocation, criterion); which ones is drawn at random, or
chosen by the criterion. What was pruned before stays pruned, so a checkpoint that holds the sparsity already starts from its own masks.

Source: Evci et al. 2020 (arXiv 1911.11134), section 3, part 1: a random sparse network. Counts are exact here; the reproduction
draws each position independently.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool
from torch import Tensor

from sparsify_cli.errors import BadRequest
from sparsify_cli.maths.keep import top_k
from sparsify_cli.recipes.pattern import Pattern
from sparsify_cli.training import masking
from sparsify_cli.values.mask_set import MaskSet
from sparsify_cli.values.run import Following, Run, Sparsify

Initial = Literal["auto", "random", "chosen"]
"""Which positions a run starts with; auto = chosen where the weights are trained already, else random."""

STREAM = 2
"""Of the random numbers that draw positions."""

STILL = "still."
"""What marks, in the run's memory, a tensor whose mask is not the regime's to change."""


def check_initial(regime: str, initial: str) -> None:
    """Refuse another word.

    Raises:
        BadRequest: it is none of the two.
    """
    if initial not in ("auto", "random", "chosen"):
        raise BadRequest(
            f"{regime} cannot start from masks that are {initial!r}.", "", "Write auto, random, or chosen (by the recipe's criterion)."
        )


def begin(run: Run, *, regime: str, initial: Initial, keeps_pattern: bool) -> None:
    """Give the run its first masks.

    Args:
        run: changed in place.
        regime: its name, for what is refused.
        initial: which positions stay.
        keeps_pattern: positions never change afterwards, so that a pattern would hold.

    Raises:
        BadRequest: a pattern that would not hold, a criterion that knows nothing yet, or nothing that chooses masks.
    """
    choose = _chooser(run, regime)
    pattern = getattr(choose, "pattern", None)
    if pattern not in (None, Pattern()) and not keeps_pattern:
        raise _loose(regime, str(pattern))
    chosen = choose(run.weights(), run.target, within=run.masks if run.masks else None)
    draws = initial == "random" or (initial == "auto" and not run.is_trained)
    if draws and chosen != run.masks:
        if pattern not in (None, Pattern()):
            raise _scattered(regime, str(pattern))
        chosen = _at_random(run, chosen)
    if run.masks:  # tensors that were pruned before and are none of the recipe's
        left = set(chosen) - set(choose(run.weights(), run.target))
        run.memory |= {STILL + name: torch.ones(()) for name in left}
    masking.switch(run, chosen, event="start")


def moving(run: Run) -> list[str]:
    """Names of the tensors whose masks the regime may change."""
    return [name for name in run.masks if STILL + name not in run.memory]


def frozen(run: Run, name: str) -> Bool[Tensor, "..."]:
    """Where a tensor's weights must not move."""
    return run.frozen[name][0] if name in run.frozen else torch.zeros_like(run.masks[name])


def _chooser(run: Run, regime: str) -> Sparsify:
    if run.sparsify is None:
        raise BadRequest(f"{regime} has no sparsity to train at.", "", "Add --sparsity 0.9.")
    if isinstance(run.sparsify, Following) and run.sparsify.follows:
        raise BadRequest(
            f"{regime} chooses how many weights each layer keeps before the first step.",
            "The criterion ranks weights by how they moved, and none has moved yet.",
            "Choose another --criterion, such as random.",
        )
    return run.sparsify


def _at_random(run: Run, chosen: MaskSet) -> MaskSet:
    """As many positions in each tensor, drawn among those that may stay; frozen ones always do."""
    generator, drawn = run.generator(STREAM), {}
    for name, mask in chosen.items():
        score = torch.rand(mask.shape, dtype=torch.float64, generator=generator)
        if name in run.masks:
            score.masked_fill_(~run.masks[name].cpu(), -torch.inf)
        if name in run.frozen:
            score.masked_fill_(run.frozen[name][0].cpu(), torch.inf)
        drawn[name] = top_k(score.flatten(), int(mask.sum())).reshape(mask.shape)
    return MaskSet(drawn)


def _loose(regime: str, pattern: str) -> BadRequest:
    return BadRequest(
        f"{regime} cannot hold the pattern {pattern}.",
        "It drops and grows every weight on its own, wherever it is.",
        "Leave --pattern out, or use the regime static, gmp or acdc.",
    )


def _scattered(regime: str, pattern: str) -> BadRequest:
    return BadRequest(
        f"Positions drawn at random do not hold the pattern {pattern}.",
        "",
        f"Add --set regime.initial=chosen; with --criterion random the regime {regime} still starts from random masks that hold it.",
    )
