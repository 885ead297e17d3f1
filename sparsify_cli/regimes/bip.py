"""Bilevel pruning: weights and masks learnt in turn, the masks by how the best weights would answer them.

    min over masks m with k ones of  l(m theta*(m)),   theta*(m) = argmin l(m theta) + gamma/2 |theta|^2

    z = m theta, g = dl/dz
    even steps, batch A:  theta <- the optimizer's step on m g                     (masks stand)
    odd steps, batch B:   s <- clamp(s - eta (theta - g / gamma) g, 0, 1)          (weights stand)
                          m <- the k largest scores s, by the recipe's allocation and pattern

Scores start at |theta| relative to the largest of the tensor. Since m and theta enter as a product, the implicit gradient needs no
second derivative: (theta - g / gamma) g. Weights that are masked keep their values and may come back until the end, when the masks
of the last scores hold.

Source: Zhang et al. 2022 (BiP, arXiv 2210.04092), eqs. 6-9; official code for the order of steps, eta = 0.1 and 1/gamma = 1e-4. Differs:
counts are exact; official code multiplies its second term by m theta once more, starts its scores at the weights themselves, ranks them
by size in each layer alone, and moves them with momentum and decay: here they are the paper's relaxed masks in [0, 1], and steps are
projected gradients. An epoch there passes the data twice, once for weights and once for masks: E epochs there are 2 E here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsify_cli.contracts.regime import Regime
from sparsify_cli.errors import BadRequest
from sparsify_cli.recipes.duration import Duration
from sparsify_cli.training import guard, masking
from sparsify_cli.training.aim import masks_at_target
from sparsify_cli.training.straight_through import mask_gradients, seen_through
from sparsify_cli.values.mask_set import MaskSet
from sparsify_cli.values.run import Run
from sparsify_cli.values.shards import whole

SCORE, MASK = "bip.score.", "bip.mask."


@dataclass(frozen=True, kw_only=True)
class Bip(Regime):
    """Masks and weights by bilevel optimisation.

    Args:
        gamma: of the penalty on weights in the lower problem, > 0; larger = the masks' gradient is theta g alone.
        rate: eta, step size of the scores, > 0.
        until: when masks stop changing; the steps after that are of the weights alone, so that batch norm fits the last masks.
    """

    gamma: float = 1e4
    rate: float = 0.1
    until: str = "0.9run"

    def __post_init__(self) -> None:
        """Check the options' ranges."""
        Duration.parse(self.until)
        if not (self.gamma > 0 and self.rate > 0):
            raise BadRequest(f"bip has gamma {self.gamma} and rate {self.rate}.", "", "Choose both above 0.")

    def seen(self, run: Run) -> MaskSet | None:
        """The masks of the scores."""
        return self._masks(run)

    def passes(self, run: Run) -> tuple[float, float]:
        """Steps of the masks need the gradient of every weight."""
        return (2.0, 1.0) if self._learns(run) else (3.0, 0.0)

    def start(self, run: Run) -> None:
        """Scores from the weights as they are.

        Raises:
            BadRequest: one step, in which no mask could be learnt; or a criterion that does not rank scores.
        """
        criterion = getattr(run.sparsify, "criterion", None)
        if criterion is not None and type(criterion).__name__ != "Magnitude":
            raise BadRequest("bip learns scores, and its criterion ranks weights by something else.", "", "Leave --criterion at magnitude.")
        if run.total < 2:
            raise BadRequest("A run of 1 step learns no masks with bip.", "Weights and masks take steps in turn.", "Train longer.")
        guard.enforce(run)
        weights = run.weights()
        names = list(masks_at_target(run))
        run.memory |= {SCORE + name: relative(weights[name]) for name in names}
        self._choose(run)

    def step(self, run: Run, loss: Callable[[], Tensor]) -> Tensor:
        """A step of the weights, or one of the masks."""
        masks = self._masks(run)
        with seen_through(run, masks):
            value = guard.gradients(run, loss)
        if not self._learns(run):
            mask_gradients(run, masks)
            guard.update(run)
        else:
            self._learn(run)
            self._choose(run)
        return value

    def finish(self, run: Run) -> None:
        """The masks of the last scores hold."""
        masks = MaskSet(run.remembered(MASK))
        run.forget(SCORE, MASK)
        masking.switch(run, masks, event="masks hold")

    def _learns(self, run: Run) -> bool:
        until = Duration.parse(self.until).steps(per_epoch=run.per_epoch, total=run.total)
        return run.step % 2 == 1 and run.step < max(2, until)

    @staticmethod
    def _masks(run: Run) -> MaskSet:
        weights = run.weights()
        return MaskSet({name: mask.to(weights[name].device) for name, mask in run.remembered(MASK).items()})

    @torch.no_grad()
    def _learn(self, run: Run) -> None:
        parameters = dict(run.model.named_parameters())
        for name, score in run.remembered(SCORE).items():
            weight = parameters[name]
            if weight.grad is not None:
                slope = (weight - weight.grad / self.gamma) * weight.grad
                run.memory[SCORE + name] = (score.to(weight.device) - self.rate * slope.float()).clamp(0, 1)
        run.optimizer.zero_grad(set_to_none=True)

    @staticmethod
    def _choose(run: Run) -> None:
        before = MaskSet(run.remembered(MASK))
        masks = run.settle(masks_at_target(run, run.remembered(SCORE)))
        weights = run.weights()
        run.memory |= {MASK + name: masks[name].to(weights[name].device) for name in masks}
        if before:
            run.tell("masks", **masking.changes(before, MaskSet(run.remembered(MASK))))


def relative(weight: Tensor) -> Tensor:
    """|w| relative to the largest of the tensor, in [0, 1]."""
    size = weight.abs().float()
    largest: Tensor = whole(size).max()
    return size / largest.clamp_min(1e-30)
