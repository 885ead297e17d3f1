"""The step of CrAM: the gradient is taken where the network is compressed, the step is made where it is dense.

    g0    = grad L(theta)
    theta' = theta + rho g0                        every parameter with a gradient; not normalised
    M     = the mask of C for theta'
    g1    = grad L(M theta')                       times M with sparse_grad
    theta <- optimizer step at theta along g1      along g1 + g0 with plus (CrAM+)

Weight decay and momentum are the optimizer's and see theta. What both passes share is told in `training/perturbed.py`.

Source: Peste et al. 2023 (CrAM, arXiv 2207.14200), official `optimization/custom_optimizers.py` (`TopkCrAM`, `NMTopkCrAM`,
`TopkCrAMPeriod`). Differs: the mask is chosen anew by the run's criterion, allocation and pattern
with exact counts (theirs keeps a stale mask where none is fresh); weights that are pruned already stay out of it, frozen ones
in it; N:M groups lie along input channels, and layers that cannot carry them stay dense (theirs straddle kernel positions).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

from sparsify_cli.errors import BadRequest
from sparsify_cli.maths.choose_masks import choose_masks, least_sparsity
from sparsify_cli.maths.orientation import outputs_first
from sparsify_cli.recipes.pattern import Pattern
from sparsify_cli.training import guard, movement, perturbed
from sparsify_cli.training.perturbed import Gradients
from sparsify_cli.values.mask_set import MaskSet
from sparsify_cli.values.run import Run, Sparsify
from sparsify_cli.values.shards import whole

KEPT = "cram.mask"
"""Masks that are used for several steps, in `run.memory`."""

EMPTIED = "compressed as asked for, some layer keeps no weight, and the network cannot learn to work so: try --allocation uniform or erk."
"""Said of a compression that cuts the network; one sentence however often it happens."""


@dataclass(frozen=True)
class Descent:
    """How the two gradients are taken and put together.

    Args:
        rho: length of the step up, as a multiple of the gradient, >= 0.
        sparse_grad: the gradient at the compressed point counts only where C keeps a weight.
        plus: the gradient at the weights themselves is added.
    """

    rho: float
    sparse_grad: bool
    plus: bool

    def step(self, run: Run, loss: Callable[[], Tensor], choose: Callable[[], MaskSet]) -> Tensor:
        """One optimizer step.

        Args:
            run: changed in place.
            loss: on the batch of this step.
            choose: the masks of C; called when the weights are theta + rho g0.

        Returns:
            The loss of the first pass, detached.
        """
        here = perturbed.first_pass(run, loss)
        with perturbed.elsewhere(run, here):
            perturbed.move(run, here.gradients, self.rho)
            masks = choose()
            compress(run, masks)
            there = perturbed.second_pass(run, loss)
        perturbed.descend(run, self._together(here.gradients, there.gradients, masks))
        if (run.step + 1) % run.per_epoch == 0:
            _tell(run, masks, here.loss, there.loss)
        return here.loss

    def _together(self, here: Gradients, there: Gradients, masks: MaskSet) -> Gradients:
        made = {name: _masked(gradient, masks, name) if self.sparse_grad else gradient for name, gradient in there.items()}
        if not self.plus:
            return made
        return {name: _sum([part[name] for part in (made, here) if name in part]) for name in {**here, **made}}


def check_options(regime: str, *, rho: float, every: int) -> None:
    """Refuse a perturbation or a period that makes no sense.

    Raises:
        BadRequest: rho is negative or not finite, or the period is shorter than a step.
    """
    if not (rho >= 0 and math.isfinite(rho)):
        raise BadRequest(
            f"{regime} cannot perturb by rho = {rho:g}.", "It is a multiple of the gradient.", "Choose rho >= 0, such as 0.05."
        )
    if every < 1:
        raise BadRequest(f"{regime} cannot choose its masks every {every} steps.", "", "Choose every >= 1.")


def begin(run: Run, regime: str) -> None:
    """Make masks true of the weights and gather what the choice of masks wants; before the first step.

    Raises:
        BadRequest: nothing says how to compress.
    """
    if run.sparsify is None:
        raise BadRequest(f"{regime} trains for a compression, and none was asked for.", "", "Add --sparsity 0.9 or --pattern 2:4.")
    movement.begin(run)
    guard.enforce(run)


def chosen(run: Run, sparsity: Fraction) -> MaskSet:
    """What the run's criterion, allocation and pattern keep of the weights as they are now."""
    choose: Sparsify | None = movement.informed(run)
    assert choose is not None, "checked by begin"
    return choose(run.weights(), sparsity, within=run.masks or None)


def largest_of_groups(run: Run, names: Sequence[str], pattern: Pattern) -> MaskSet:
    """The largest weights that an N:M pattern lets stay in each group, as they are now, the same on every process.

    Args:
        run: what its masks dropped stays out, what is frozen stays in.
        names: weights to compress; those whose shape cannot carry the pattern stay as they are.
        pattern: N:M.

    Raises:
        Infeasible: no weight can carry the pattern, or frozen ones crowd a group.
    """
    weights = whole(run.weights())
    scores = {name: weights[name].abs() for name in names}
    frozen = MaskSet({name: positions for name, (positions, _) in run.frozen.items() if name in scores})
    turned: Mapping[str, int] = getattr(run.sparsify, "turned", {})
    scores, within, floor = (_turned(tensors, turned) for tensors in (scores, run.masks, frozen))
    least = least_sparsity(scores, pattern=pattern, within=MaskSet(within), floor=MaskSet(floor))
    found = choose_masks(scores, pattern=pattern, sparsity=least, allocation="global", within=MaskSet(within), floor=MaskSet(floor))
    return run.settle(MaskSet({name: mask.contiguous() for name, mask in _turned(found, turned).items()}))


def _turned(tensors: Mapping[str, Tensor], groups: Mapping[str, int]) -> dict[str, Tensor]:
    """Tensors with outputs first where they are stored inputs first, or back."""
    return {name: outputs_first(tensor, groups.get(name)) for name, tensor in tensors.items()}


def kept_for(run: Run, every: int, choose: Callable[[], MaskSet], *, key: str = "0") -> MaskSet:
    """Masks chosen now, or those chosen at one of the last uses; what is kept is saved with the run.

    Args:
        run: its memory holds them.
        every: uses until they are chosen anew; 1 = each time, nothing is remembered.
        choose: chooses them.
        key: tells masks of several compressions apart; no "/".
    """
    if every == 1:
        return choose()
    prefix, count = f"{KEPT}/{key}/", f"{KEPT}.uses/{key}"
    uses = int(run.memory.get(count, 0))
    run.memory[count] = torch.tensor(uses + 1)
    if uses % every:
        return MaskSet(run.remembered(prefix))
    masks = choose()
    run.memory |= {prefix + name: masks[name] for name in masks}
    return masks


@torch.no_grad()
def compress(run: Run, masks: MaskSet) -> None:
    """Zero the weights that masks drop; nothing is remembered of it."""
    for name, parameter in run.model.named_parameters():
        if name in masks:
            parameter.masked_fill_(~masks[name].to(parameter.device), 0)


def _tell(run: Run, masks: MaskSet, loss: Tensor, compressed_loss: Tensor) -> None:
    run.tell("compressed-point", compressed_sparsity=float(masks.sparsity), loss=float(loss), compressed_loss=float(compressed_loss))
    late = 4 * run.step >= 3 * run.total  # while a network finds its layers' sizes, some may be empty for a while
    if late and not all(bool(masks[name].any()) for name in masks):
        run.tell("warning", text=EMPTIED)


def _sum(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else parts[0] + parts[1]


def _masked(gradient: Tensor, masks: MaskSet, name: str) -> Tensor:
    return gradient.masked_fill(~masks[name].to(gradient.device), 0) if name in masks else gradient
