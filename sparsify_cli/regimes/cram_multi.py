"""CrAM+ for several compressions at once: each step draws one, so that one dense network can be pruned to all of them.

    C      ~ uniform over the list, one draw a step for all layers and all processes
    theta  <- theta - lr * (M grad L(M (theta + rho g)) + g),  g = grad L(theta),  M = what C keeps of theta + rho g

The list is one of

    levels       sparsities below --sparsity, such as 0.5,0.7; --sparsity itself is always the largest of the list. By default
                 5/9 and 7/9 of the way from the sparsity that the network has to --sparsity: 0.5, 0.7, 0.9 for 0.9, as in the paper
    patterns     N:M patterns, such as 2:4,4:8, drawn in place of levels: the largest weights of each group are kept, whatever the
                 criterion. --pattern or --sparsity must still be given; they say which layers are prunable, and nothing else

The masks of the run stay as they are: the network stays dense, or as sparse as it started. `plus: false` leaves out the second g,
`sparse_grad: false` the M before the gradient. After pruning (`sparsify prune`) batch-norm statistics must be measured anew, which is
part of the method. A step takes about the time of two; `every` saves the choice of masks, for each C by itself.

Source: Peste et al. 2023 (CrAM, arXiv 2207.14200), official `optimization/custom_optimizers.py`: `TopkCrAM` with several sparsities,
`NMTopkCrAM`; `every`: `TopkCrAMPeriod`. Differs: the draw comes from seed and step, so that processes and resumed runs agree (numpy's
global state there); otherwise as told in `training/compressed_point.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from typing import Annotated, Any, ClassVar

import torch
from pydantic import BeforeValidator
from torch import Tensor

from sparsify_cli.contracts.regime import Regime
from sparsify_cli.errors import BadRequest
from sparsify_cli.recipes.option import parse_sparsity
from sparsify_cli.recipes.pattern import Pattern
from sparsify_cli.training import compressed_point
from sparsify_cli.values.mask_set import MaskSet
from sparsify_cli.values.run import Run

LEVELS, NAMES = "cram-multi.levels", "cram-multi.prunes/"
"""What is remembered: sparsities as rows of numerator and denominator; which weights patterns apply to."""

WAYS = (Fraction(5, 9), Fraction(7, 9))
"""The paper's 0.5 and 0.7 as shares of its 0.9."""


def _joined(value: Any) -> str:
    return ",".join(str(part) for part in value) if isinstance(value, list | tuple) else str(value)


Listed = Annotated[str, BeforeValidator(_joined)]


@dataclass(frozen=True, kw_only=True)
class CramMulti(Regime):
    """CrAM+ with a compression drawn at each step.

    Args:
        levels: sparsities below --sparsity, with commas; empty = from --sparsity.
        patterns: N:M patterns to draw instead, with commas.
        rho: length of the step up, as a multiple of the gradient, >= 0.
        plus: the gradient at the weights themselves is added.
        sparse_grad: the gradient at the compressed point counts only where the compression keeps a weight.
        every: steps for which the masks of a compression are used.
    """

    prunes: ClassVar[bool] = False

    levels: Listed = ""
    patterns: Listed = ""
    rho: float = 0.05
    plus: bool = True
    sparse_grad: bool = True
    every: int = 1

    def __post_init__(self) -> None:
        """Read every option once, so that a mistyped one is refused before anything is loaded."""
        compressed_point.check_options("cram-multi", rho=self.rho, every=self.every)
        if self.levels and self.patterns:
            raise BadRequest("cram-multi draws either levels or patterns.", f"It was given {self.levels} and {self.patterns}.")
        _sparsities(self.levels)
        _grouped(self.patterns)

    def start(self, run: Run) -> None:
        """Remember the list.

        Raises:
            BadRequest: a level lies above --sparsity or below what is pruned already.
            Infeasible: no layer can carry one of the patterns.
        """
        compressed_point.begin(run, "cram-multi")
        if self.patterns:
            assert run.sparsify is not None, "checked by begin"
            run.memory |= {NAMES + name: torch.zeros(0) for name in run.sparsify(run.weights(), run.target)}
            for choose in self._choices(run):
                choose()
        else:
            levels = [level.limit_denominator(10**12) for level in self._levels(run)]
            run.memory[LEVELS] = torch.tensor([(level.numerator, level.denominator) for level in levels])

    def passes(self, run: Run) -> tuple[float, float]:
        """Two gradients; that the second network is compressed is not subtracted."""
        del run
        return 6.0, 0.0

    def step(self, run: Run, loss: Callable[[], Tensor]) -> Tensor:
        """One guarded optimizer step; returns the loss of the dense network."""
        descent = compressed_point.Descent(rho=self.rho, sparse_grad=self.sparse_grad, plus=self.plus)
        choices = self._choices(run)
        drawn = int(torch.randint(len(choices), (), generator=run.generator()))
        return descent.step(run, loss, partial(compressed_point.kept_for, run, self.every, choices[drawn], key=f"{drawn}"))

    def _choices(self, run: Run) -> list[Callable[[], MaskSet]]:
        """How the masks of each compression of the list are chosen."""
        if self.patterns:
            names = [name.removeprefix(NAMES) for name in run.memory if name.startswith(NAMES)]
            return [partial(compressed_point.largest_of_groups, run, names, pattern) for pattern in _grouped(self.patterns)]
        return [partial(compressed_point.chosen, run, Fraction(*pair)) for pair in run.memory[LEVELS].tolist()]

    def _levels(self, run: Run) -> list[Fraction]:
        """The list of sparsities, rising."""
        now, target = run.masks.sparsity, run.target
        if not self.levels:
            return sorted({target, *(now + way * (target - now) for way in WAYS)})
        slack = Fraction(len(run.masks), max(1, run.masks.total))  # counts are rounded once a tensor
        wrong = [level for level in _sparsities(self.levels) if not now - slack <= level <= target]
        if wrong:
            raise BadRequest(
                f"cram-multi cannot train for the sparsity {float(wrong[0]):.6g}.",
                f"--sparsity, the largest level, is {float(target):.6g}, and {float(now):.6g} of the weights are pruned already.",
                "Choose levels between the two.",
            )
        return sorted({target, *_sparsities(self.levels)})


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",")] if text else []


def _sparsities(text: str) -> list[Fraction]:
    return [parse_sparsity(part) for part in _parts(text)]


def _grouped(text: str) -> list[Pattern]:
    patterns = [Pattern.parse(part) for part in _parts(text)]
    wrong = [pattern for pattern in patterns if not pattern.is_grouped]
    if wrong:
        raise BadRequest(f"cram-multi cannot draw the pattern {wrong[0]}.", "It forces no sparsity.", "Write N:M patterns: 2:4,4:8.")
    return patterns
