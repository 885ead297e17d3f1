"""Drop and grow: sparse from the first step to the last; now and then the smallest weights make room for others.

    alpha(t) = alpha/2 (1 + cos(pi t / T_end))
    step t:  if t > 0, t % dT = 0 and t <= T_end:      instead of the optimizer's step
               each layer, M its mask, n its active weights, k = int(alpha(t) n):
                 K    = the n - k active weights of highest |w| + N(0, noise)
                 grow = the k positions outside K of highest growth score (those just dropped are candidates)
                 M    = K and grow; a new weight is 0 with momentum 0; one that was dropped and grows again keeps value and momentum
             else:  g = dL/dw * M;  optimizer step;  w = w * M

Frozen weights are active and are never dropped: k is at most the number of the others.

Source: Evci et al. 2020 (arXiv 1911.11134), section 3 and Algorithm 1; official code `rigl/sparse_optimizers_base.py`. Differs:
nothing is updated at step 0 (theirs is, before anything was learnt); noise is given to active weights only (theirs to all, so that
an inactive position may outrank an active zero); where the default dT of 100 steps would leave fewer than ten of them in the
run, dT is a fortieth of the run, and at least 4 steps.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from jaxtyping import Bool, Float
from pydantic import BeforeValidator
from torch import Tensor

from sparsify_cli.contracts.regime import Regime
from sparsify_cli.errors import BadRequest, Diverged
from sparsify_cli.maths.keep import top_k
from sparsify_cli.recipes.duration import Duration
from sparsify_cli.training import first_masks, guard, masking
from sparsify_cli.training.first_masks import Initial
from sparsify_cli.values.mask_set import MaskSet
from sparsify_cli.values.run import Run
from sparsify_cli.values.shards import whole

Text = Annotated[str, BeforeValidator(str)]

EVERY = "100it"
"""dT of the paper."""

NOISE, GROWTH = 0, 1
"""Streams of random numbers: which of equal weights go, and what grows."""


@dataclass(frozen=True, kw_only=True)
class DropAndGrow(Regime):
    """Masks that move at a constant number of weights; what grows is the subclass's.

    Args:
        alpha: share of a layer's active weights replaced at the first updates, in (0, 1]; falls along a cosine.
        every: dT, time between two updates.
        end: T_end, after which masks stay as they are; at most the whole run.
        noise: standard deviation of what is added to |w| when weights are dropped, so that it is not the order in memory that
            decides among weights that grew and are still 0.
        initial: the first masks are random, or chosen by the recipe's criterion; both have the recipe's counts in each layer. auto:
            chosen for a trained checkpoint, whose weights would be thrown away at random, else random as published.
    """

    looks_at_gradients: ClassVar[bool] = True
    """True when an update needs the gradient of weights that are not there."""

    alpha: float = 0.3
    every: Text = EVERY
    end: Text = "0.75run"
    noise: float = 1e-5
    initial: Initial = "auto"

    def __post_init__(self) -> None:
        """Read every option once, so that a mistyped one is refused before anything is loaded."""
        first_masks.check_initial(self.word, self.initial)
        for text in (self.every, self.end):
            Duration.parse(text)
        if not (0 < self.alpha <= 1 and 0 <= self.noise < math.inf):
            raise BadRequest(
                f"{self.word} cannot work with alpha {self.alpha:g} and noise {self.noise:g}.", "", "alpha is in (0, 1], noise at least 0."
            )

    @property
    def word(self) -> str:
        """What people call it."""
        return type(self).__name__.lower()

    def start(self, run: Run) -> None:
        """The first masks.

        Raises:
            BadRequest: masks would never change, or a pattern would not hold.
        """
        every, end = self.window(run)
        if not 1 <= every < end <= run.total:
            raise BadRequest(
                f"{run.total} steps are too few for {self.word}: masks would change every {every} steps until step {end}.",
                "An update at the end replaces nothing, so at least one must come before it, within the run.",
                "Train for more --epochs, or choose --set regime.every=... shorter than regime.end, which is at most 1run.",
            )
        first_masks.begin(run, regime=self.word, initial=self.initial, keeps_pattern=False)
        run.tell("schedule", every=every, end=end)
        if self.every == EVERY != f"{every}it":
            run.tell("warning", text=f"{self.word}: masks change every {every} steps instead of 100, since there are only {run.total}.")

    def step(self, run: Run, loss: Callable[[], Tensor]) -> Tensor:
        """An update of the masks, or one guarded optimizer step."""
        value = guard.gradients(run, loss)
        self.see(run)
        every, end = self.window(run)
        if 0 < run.step <= end and run.step % every == 0:
            self._replace(run, fraction(run.step, alpha=self.alpha, end=end))
        else:
            guard.update(run)
        return value

    def passes(self, run: Run) -> tuple[float, float]:
        """Sparse, but for the dense gradient of an update that looks at it."""
        every, end = self.window(run)
        updates = 0 < run.step <= end and run.step % every == 0
        return (2.0, 1.0) if self.looks_at_gradients and updates else (3.0, 0.0)

    def window(self, run: Run) -> tuple[int, int]:
        """Steps between two updates, and the last step that may be one."""
        every, end = (Duration.parse(text).steps(per_epoch=run.per_epoch, total=run.total) for text in (self.every, self.end))
        if self.every == EVERY and run.total < 10 * every:
            every = max(4, run.total // 40)
        return every, end

    def see(self, run: Run) -> None:
        """Called at every step, between the backward pass and the masking of gradients: they are dense here."""
        del run

    def growth(self, run: Run, kept: Mapping[str, Tensor], dropped: Mapping[str, int]) -> Mapping[str, int]:
        """How many weights grow in each layer: as many as were dropped there.

        Args:
            run: masks are those from before.
            kept: what survived of each layer's mask.
            dropped: how many did not.
        """
        del run, kept
        return dropped

    @abstractmethod
    def score(self, run: Run, name: str, generator: torch.Generator) -> Tensor:
        """What grows first: numbers of the weight's shape, higher = sooner, on its device.

        Args:
            run: gradients are this step's, dense, and not masked.
            name: of the weight.
            generator: for what is random; layers are asked in the order of their names.
        """

    @torch.no_grad()
    def _replace(self, run: Run, share: float) -> None:
        kept = self._survivors(run, share)
        dropped = {name: int(run.masks[name].sum()) - int(mask.sum()) for name, mask in kept.items()}
        counts, generator, grown = self.growth(run, kept, dropped), run.generator(GROWTH), {}
        for name, mask in kept.items():
            grown[name] = grow(_finite(run, name, whole(self.score(run, name, generator))), mask, counts[name])
        masking.switch(run, MaskSet({**run.masks, **grown}), event="regrow")

    def _survivors(self, run: Run, share: float) -> dict[str, Bool[Tensor, "..."]]:
        weights, generator, kept = run.weights(), run.generator(NOISE), {}
        for name in first_masks.moving(run):
            weight = whole(weights[name])
            noise = torch.randn(weight.shape, generator=generator) * self.noise
            magnitude = weight.abs().float() + noise.to(weight.device)
            kept[name] = drop(magnitude, run.masks[name], first_masks.frozen(run, name), share)
        return kept


def fraction(step: int, *, alpha: float, end: int) -> float:
    """alpha(t): the share of active weights that an update at `step` replaces.

    Args:
        step: t, 0 <= t <= end.
        alpha: the share at step 0.
        end: T_end, where it is 0.
    """
    return alpha / 2 * (1 + math.cos(math.pi * step / end))


def drop(magnitude: Float[Tensor, "*shape"], mask: Bool[Tensor, "*shape"], still: Bool[Tensor, "*shape"], share: float) -> Tensor:
    """K: the mask without its int(share * n) smallest weights.

    Args:
        magnitude: higher = keep.
        mask: n active weights.
        still: of these, weights that are never dropped.
        share: fraction to drop, in [0, 1].
    """
    active = int(mask.sum())
    count = min(int(share * active), active - int((mask & still).sum()))
    score = magnitude.masked_fill(still, torch.inf).masked_fill(~mask, -torch.inf)
    return top_k(score.flatten(), active - count).reshape(mask.shape)


def grow(score: Float[Tensor, "*shape"], kept: Bool[Tensor, "*shape"], count: int) -> Tensor:
    """The mask with `count` more positions, those of the highest scores."""
    return kept | top_k(score.masked_fill(kept, -torch.inf).flatten(), count).reshape(kept.shape)


def gradient(run: Run, name: str) -> Tensor:
    """dL/dw of this step in float32 or wider; zeros for a weight that the loss does not reach."""
    parameter = run.model.get_parameter(name)
    found = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
    return found.detach() if found.dtype == torch.float64 else found.detach().float()


def _finite(run: Run, name: str, score: Tensor) -> Tensor:
    if bool(torch.isfinite(score).all()):
        return score
    raise Diverged(
        f"The gradient of {name} is not finite at step {run.step + 1} of {run.total}.",
        "Weights cannot grow where it is largest.",
        "Start again with a lower --lr or a longer --warmup.",
    )
