"""Movement pruning: masks learnt from where fine-tuning moves the weights; what was dropped may come back.

    W' = W * mask,  g = dL/dW'               mask = the k largest scores S, k by the climb of the sparsity
    S <- S - g * W                           straight through: of dropped weights as well
    W <- the optimizer's step on mask * g    dropped weights keep their values, but for decay and momentum

Scores start at 0 and are gathered from the first step on; until `begin` nothing is dropped. The sparsity climbs along a cubic curve
and is the target's from `end` on; from `until` on masks hold, and weights and batch norm settle under them.

A weight scores high where training makes it larger, whatever its size. That is meant for a network on its way to another task
(`--transfer full`, another --data): one that was trained to its end on the same data hardly moves, and is ranked by noise; there gmp is
better.

Source: Sanh, Wolf, Rush 2020 (arXiv 2005.07683), section 4.1 and equations 2-4 (hard movement pruning); cubic climb with a start and an end
of its own: appendix. Differs: scores take plain steps, which makes their ranking independent of a rate (official: AdamW); shares
of layers are the recipe's allocation (theirs: the same for every matrix, --allocation uniform); `until` is ours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

import torch
from torch import Tensor

from sparsify_cli.contracts.regime import Regime
from sparsify_cli.errors import BadRequest
from sparsify_cli.maths.schedules import cubic
from sparsify_cli.recipes.duration import Duration
from sparsify_cli.training import guard, masking
from sparsify_cli.training.aim import masks_at_target
from sparsify_cli.training.straight_through import mask_gradients, seen_through
from sparsify_cli.values.mask_set import MaskSet
from sparsify_cli.values.run import Run
from sparsify_cli.values.shards import whole

SCORE, MASK = "moved.score.", "moved.mask."


@dataclass(frozen=True, kw_only=True)
class Movement(Regime):
    """Masks by movement, learnt while weights are.

    Args:
        begin: when the climb starts, a duration from the start of the run.
        end: when the target is reached.
        until: when masks stop changing, not before `end`.
        every: time between two choices of the masks, at least one step.
    """

    looks_up: ClassVar[bool] = True

    begin: str = "0.1run"
    end: str = "0.7run"
    until: str = "0.9run"
    every: str = "1it"

    def __post_init__(self) -> None:
        """Read every option once, so that a mistyped one is refused before anything is loaded."""
        for text in (self.begin, self.end, self.until, self.every):
            Duration.parse(text)

    def seen(self, run: Run) -> MaskSet | None:
        """The masks of the scores, while there are any; None once they hold."""
        return self._masks(run) or None

    def passes(self, run: Run) -> tuple[float, float]:
        """Scores need the gradient of every weight; once the masks hold, an ordinary step."""
        return (2.0, 1.0) if run.step < self._window(run)[2] else (3.0, 0.0)

    def start(self, run: Run) -> None:
        """Scores of zero.

        Raises:
            BadRequest: a criterion that does not rank scores, or a climb that ends before it begins or after the run.
        """
        criterion = getattr(run.sparsify, "criterion", None)
        if criterion is not None and type(criterion).__name__ != "Magnitude":
            why = "Its criterion ranks weights by something else."
            raise BadRequest("The regime movement learns scores.", why, "Leave --criterion at magnitude.")
        self._window(run)
        weights = run.weights()
        run.memory |= {SCORE + name: torch.zeros_like(weights[name], dtype=torch.float32) for name in masks_at_target(run)}
        guard.enforce(run)

    def step(self, run: Run, loss: Callable[[], Tensor]) -> Tensor:
        """One step of weights and scores; an ordinary guarded one once the masks hold."""
        begin, _, until, every = self._window(run)
        if run.step == until:
            self._hold(run)
        if run.step >= until:
            return guard.descend(run, loss)
        if begin <= run.step and (run.step - begin) % every == 0:
            self._choose(run)
        masks = self._masks(run)
        with seen_through(run, masks):
            value = guard.gradients(run, loss)
        self._learn(run)
        mask_gradients(run, masks)
        guard.update(run)
        return value

    def finish(self, run: Run) -> None:
        """The masks of the last scores hold, unless they do."""
        if run.remembered(SCORE):
            self._hold(run)

    def _window(self, run: Run) -> tuple[int, int, int, int]:
        """First step of the climb, its end, the step from which masks hold, and the steps between two choices."""
        texts = (self.begin, self.end, self.until, self.every)
        begin, end, until, every = (Duration.parse(text).steps(per_epoch=run.per_epoch, total=run.total) for text in texts)
        if not begin <= end <= until <= run.total:
            raise BadRequest(
                f"movement would drop weights from step {begin} to step {end} of {run.total}, and hold them from {until}.",
                "It must begin before it ends, and end before masks hold.",
                "Choose begin <= end <= until <= 1run.",
            )
        return begin, end, until, max(1, every)

    @staticmethod
    def _masks(run: Run) -> MaskSet:
        weights = run.weights()
        return MaskSet({name: mask.to(weights[name].device) for name, mask in run.remembered(MASK).items()})

    @staticmethod
    @torch.no_grad()
    def _learn(run: Run) -> None:
        parameters = dict(run.model.named_parameters())
        for name, score in run.remembered(SCORE).items():
            weight = parameters[name]
            if weight.grad is not None:
                run.memory[SCORE + name] = score.to(weight.device) - weight.grad.float() * weight.float()

    def _choose(self, run: Run) -> None:
        """Masks of this step's sparsity; what was pruned before the run stays pruned."""
        begin, end, _, _ = self._window(run)
        assert run.sparsify is not None, "checked at the start"
        sparsity = cubic(run.step, begin, end, min(self._given(run), run.target), run.target)
        ranked = {**run.weights(), **_positive(run.remembered(SCORE))}
        self._switch(run, run.sparsify(ranked, sparsity, within=run.masks or None))

    @staticmethod
    def _given(run: Run) -> Fraction:
        """Sparsity that the tensors with scores had at the start."""
        scores = run.remembered(SCORE)
        gone = sum(int((~run.masks[name]).sum()) for name in scores if name in run.masks)
        return Fraction(gone, max(1, sum(score.numel() for score in scores.values())))

    def _hold(self, run: Run) -> None:
        """Masks of the target, by the last scores."""
        self._switch(run, masks_at_target(run, _positive(run.remembered(SCORE))))
        masks = self._masks(run)
        run.forget(SCORE, MASK)
        masking.switch(run, masks, event="masks hold")

    @staticmethod
    def _switch(run: Run, masks: MaskSet) -> None:
        settled, before = run.settle(masks), MaskSet(run.remembered(MASK))
        run.memory |= {MASK + name: mask for name, mask in settled.items()}
        if before and run.step % max(1, run.per_epoch // 4) == 0:
            run.tell("masks", **masking.changes(before, settled))


def _positive(scores: dict[str, Tensor]) -> dict[str, Tensor]:
    """Scores moved above 0 by one constant for all, so that they rank by size as they do by value."""
    if not scores:
        return {}
    scores = whole(scores)
    low = min(float(score.min()) for score in scores.values())
    high = max(float(score.max()) for score in scores.values())
    return {name: (score.double() - low) + (high - low) * 1e-6 + 1e-300 for name, score in scores.items()}
