"""Prune gradually while training: sparsity climbs along a cubic (or another curve) to its target, then the rest recovers.

Every `every` steps from `begin` to `end` the run's criterion drops the lowest-scored of the weights that are left; a
dropped weight never returns. The event at `end` reaches the target exactly, and at least a quarter of the steps come
after it.

With `cycle` the learning-rate schedule starts anew at every pruning, so that late prunings are recovered from as well as early ones;
then one `every` after the last is enough.

Source: Zhu and Gupta 2017 (arXiv 1710.01878), eq. 1; cycles: the rewinding of Kurtic et al. 2022 (oBERT, arXiv 2203.07259), whose
official recipes start at a sparsity of 0.7 and have one cycle a pruning. Differs: masks only shrink (theirs are recomputed from all
weights), the criterion is the recipe's, counts are exact, and the last quarter is kept free (end = 75 % as in
RigL's configurations, Evci et al. 2020, arXiv 1911.11134).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated, Literal

import torch
from pydantic import BeforeValidator
from torch import Tensor

from sparsify_cli.contracts.regime import Regime
from sparsify_cli.errors import BadRequest
from sparsify_cli.maths.schedules import SPARSITIES
from sparsify_cli.recipes.duration import Duration
from sparsify_cli.training import guard, masking, movement
from sparsify_cli.values.run import Run

Text = Annotated[str, BeforeValidator(str)]


@dataclass(frozen=True, kw_only=True)
class Gmp(Regime):
    """Gradual magnitude pruning, with any criterion.

    Args:
        initial: sparsity at `begin`, in [0, 1); at least that of the masks the run starts with.
        begin: when the climb starts, a duration from the start of the run.
        end: when the target is reached; at most 0.75run, or with `cycle` one `every` before the end.
        every: time between two prunings, at least one step.
        curve: cubic, linear or exponential.
        cycle: start the learning-rate schedule anew at every pruning.
    """

    initial: Text = "0"
    begin: Text = "0run"
    end: Text = "0.75run"
    every: Text = "0.025run"
    curve: Literal["cubic", "linear", "exponential"] = "cubic"
    cycle: bool = False

    def __post_init__(self) -> None:
        """Read every option once, so that a mistyped one is refused before anything is loaded."""
        for text in (self.begin, self.end, self.every):
            Duration.parse(text)
        if not 0 <= _fraction(self.initial) < 1:
            raise BadRequest(f"gmp cannot start from the sparsity {self.initial}.", "", "Write a fraction of zeros in [0, 1).")

    def start(self, run: Run) -> None:
        """Remember the sparsity the climb starts from.

        Raises:
            BadRequest: the climb would go down, start after its end, or end too late to recover.
        """
        begin, end, every = self._window(run)
        if end - begin < every:
            text = (
                f"gmp prunes from step {begin} to step {end} of {run.total}, every {every}: all at once; train longer, or prune more often."
            )
            run.tell("warning", text=text)
        slack = Fraction(len(run.masks), max(1, run.masks.total))  # counts are rounded once a tensor
        low = max(_fraction(self.initial), run.masks.sparsity)
        if run.sparsify is None or low > run.target + slack:
            raise BadRequest(
                f"gmp cannot go from sparsity {float(low):.4g} to {float(run.target):.4g}.",
                "It only ever drops weights.",
                "Ask for a --sparsity above the one the model already has, or use the regime fixed.",
            )
        low = min(low, run.target).limit_denominator(10**12)
        run.memory["gmp.initial"] = torch.tensor([low.numerator, low.denominator])
        movement.begin(run)
        guard.enforce(run)

    def clock(self, run: Run) -> tuple[int, int]:
        """The place in the cycle that runs, or in the run."""
        begin, end, every = self._window(run)
        if not self.cycle or run.step < begin:
            return (run.step, begin) if self.cycle and begin else (run.step, run.total)
        inside = run.step - end if run.step >= end else (run.step - begin) % every
        length = run.total - end if run.step >= end else min(every, end - (run.step - inside))
        climbed = run.warmup if run.step - inside else 0  # the rate climbs once, at the start of the run
        return inside + climbed, length + climbed

    def step(self, run: Run, loss: Callable[[], Tensor]) -> Tensor:
        """Prune if it is time, then one guarded optimizer step."""
        begin, end, every = self._window(run)
        if run.step == end or (begin <= run.step < end and (run.step - begin) % every == 0):
            numerator, denominator = run.memory["gmp.initial"].tolist()
            _prune(run, SPARSITIES[self.curve](run.step, begin, end, Fraction(numerator, denominator), run.target))
        return guard.descend(run, loss)

    def _window(self, run: Run) -> tuple[int, int, int]:
        """First and last step before which weights are dropped, and the steps between."""
        begin, end, every = (Duration.parse(t).steps(per_epoch=run.per_epoch, total=run.total) for t in (self.begin, self.end, self.every))
        latest = run.total - max(1, every) if self.cycle else round(Fraction(3, 4) * run.total)
        if end > latest or begin > end:
            needed = "a cycle" if self.cycle else "a quarter of the steps"
            raise BadRequest(
                f"gmp would prune from step {begin} to step {end} of {run.total}.",
                f"It must begin before it ends, and {needed} is needed to recover.",
                f"Choose begin <= end <= {'1run minus regime.every' if self.cycle else '0.75run'}.",
            )
        end = end if self.cycle else min(end, run.total * 3 // 4)
        return min(begin, end), end, max(1, every)


def _prune(run: Run, sparsity: Fraction) -> None:
    """Shrink the masks to `sparsity`; where they are there already, only the pattern may still drop weights."""
    choose = movement.informed(run)
    if choose is None:
        return
    masking.switch(run, choose(run.weights(), sparsity, within=run.masks if run.masks else None), event="pruned")


def _fraction(text: str) -> Fraction:
    try:
        return Fraction(text)
    except (ValueError, ZeroDivisionError) as error:
        raise BadRequest(f"{text!r} is not a sparsity.", "", "Write a number in [0, 1), such as 0.3.") from error
