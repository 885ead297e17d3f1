"""Training dense weights through their masks: the network computes with W * mask, the gradient goes to all of W.

Every step chooses the masks anew on the dense weights, at the target sparsity and pattern:

    forward, backward   at W~ = W * mask
    gradient            g = dL/dW~ + decay * (1 - mask) * W
    step                the optimizer's, on the dense W

Outside forward and backward the network holds W bit for bit. So `run.masks` stays what it was until `until`; there the masks
of the last weights become the run's masks, and hold from then on as everywhere else.

SAD (sparse architecture divergence) is the number of mask bits that differ from those `sad_every` steps ago.

Source: Zhou et al. 2021 (SR-STE, arXiv 2102.04010), section 3 and figure 2; official `devkit/sparse_ops/sparse_ops.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsify_cli.contracts.regime import Regime
from sparsify_cli.recipes.duration import Duration
from sparsify_cli.training import guard, masking, movement
from sparsify_cli.training.aim import masks_at_target
from sparsify_cli.values.mask_set import MaskSet
from sparsify_cli.values.run import Run

PREFIX = "straight_through.mask."


@dataclass(frozen=True, kw_only=True)
class StraightThrough(Regime):
    """What regimes share that train dense weights through masks.

    Args:
        until: when the masks stop changing, a duration from the start of the run; the rest trains with them fixed.
        sad_every: time between two measurements of how many mask bits changed (SAD), at least one step.
    """

    until: str = "1run"
    sad_every: str = "0.05run"

    def __post_init__(self) -> None:
        """Read every option once, so that a mistyped one is refused before anything is loaded."""
        for text in (self.until, self.sad_every):
            Duration.parse(text)

    @property
    def decay(self) -> float:
        """Of weights that the mask drops, in the gradient; 0 = none."""
        return 0.0

    def start(self, run: Run) -> None:
        """Make the masks the run starts with true of the weights."""
        movement.begin(run)
        guard.enforce(run)

    def passes(self, run: Run) -> tuple[float, float]:
        """Through the masks, with the gradient of every weight; once they hold, an ordinary step."""
        return (2.0, 1.0) if run.step < self._end(run) else (3.0, 0.0)

    def seen(self, run: Run) -> MaskSet | None:
        """The masks of the weights as they are; None once they hold."""
        return _here(run, masks_at_target(run)) if run.step <= self._end(run) else None

    def step(self, run: Run, loss: Callable[[], Tensor]) -> Tensor:
        """One step on the dense weights; once the masks hold, an ordinary guarded one."""
        last = self._end(run)
        if run.step == last:
            self._hold(run)
        if run.step >= last:
            return guard.descend(run, loss)
        masks = _here(run, masks_at_target(run))
        self._measure(run, masks)
        with seen_through(run, masks):
            value = guard.gradients(run, loss)
        if self.decay:
            decay_dropped(run, masks, self.decay)
        guard.update(run)
        return value

    def finish(self, run: Run) -> None:
        """Let the last masks hold, unless they do."""
        if run.step <= self._end(run):
            self._hold(run)

    def _end(self, run: Run) -> int:
        """Steps before which the masks change."""
        return min(run.total, self._steps(run, self.until))

    def _hold(self, run: Run) -> None:
        masks = _here(run, masks_at_target(run))
        self._measure(run, masks)
        run.forget(PREFIX, movement.PREFIX)
        masking.switch(run, masks, event="masks hold")

    def _measure(self, run: Run, masks: MaskSet) -> None:
        """Tell by how much the masks differ from those remembered, and remember these."""
        every = max(1, self._steps(run, self.sad_every))
        if run.step % every:
            return
        before = MaskSet(run.remembered(PREFIX))
        if before:
            run.tell("sad", steps=every, weights=masks.total, **masking.changes(before, masks))
        run.memory |= {PREFIX + name: mask for name, mask in masks.items()}

    @staticmethod
    def _steps(run: Run, text: str) -> int:
        return Duration.parse(text).steps(per_epoch=run.per_epoch, total=run.total)


@contextmanager
def seen_through(run: Run, masks: MaskSet) -> Iterator[None]:
    """Inside, dropped weights are exact zeros; afterwards every weight has its own bits again, whatever happened."""
    parameters = dict(run.model.named_parameters())
    whole = {name: parameters[name].detach().clone() for name in masks}
    try:
        with torch.no_grad():
            for name, mask in masks.items():
                parameters[name].masked_fill_(~mask.to(parameters[name].device), 0)
        yield
    finally:
        with torch.no_grad():
            for name, weight in whole.items():
                parameters[name].copy_(weight)


@torch.no_grad()
def decay_dropped(run: Run, masks: MaskSet, by: float) -> None:
    """Add `by` * (1 - mask) * W to the gradient of each masked weight W."""
    parameters = dict(run.model.named_parameters())
    for name, mask in masks.items():
        weight = parameters[name]
        if weight.grad is not None:
            weight.grad.copy_(torch.where(mask, weight.grad, weight.grad + by * weight))


@torch.no_grad()
def mask_gradients(run: Run, masks: MaskSet) -> None:
    """Zero the gradients of dropped weights."""
    parameters = dict(run.model.named_parameters())
    for name, mask in masks.items():
        slope = parameters[name].grad
        if slope is not None:
            slope.masked_fill_(~mask, 0)


def _here(run: Run, masks: MaskSet) -> MaskSet:
    """Masks where the weights are: those of another process come on the CPU."""
    weights = run.weights()
    return MaskSet({name: mask.to(weights[name].device) for name, mask in masks.items()})
