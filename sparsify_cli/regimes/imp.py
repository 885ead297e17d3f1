"""Iterative magnitude pruning: train, drop a share of the weights that are left, rewind, train again, until the target is reached.

    theta_0 -> train T steps; the state at step k is kept
    for each round: drop `drop` of the weights that are left (the last round what is missing), by the recipe's criterion
        weights: what is left goes back to theta_k, buffers too, the optimizer starts anew, the schedule goes on at k
        rate:    what is left stays, the optimizer starts anew, the schedule goes on at k
        none:    what is left stays, and trains on at the schedule's last rate
        train T - k steps

The last training may take another branch, for comparison: `reinit` (same masks, weights drawn anew; the whole schedule in its T - k
steps, so that the masks are those of the ticket's run and the rate is that of a training from its start), `random` (masks drawn anew with
the same counts a layer), `shuffled` (each layer's kept start values permuted). What the largest 20 % of weights have in common at the
start and after the first training is told: above 0.8 a winning ticket is suspect, for little has been learnt.

Source: Frankle and Carbin 2019 (arXiv 1803.03635); Frankle et al. 2020 (arXiv 1912.05671, rewinding to step k; official open_lth);
rate: Renda et al. 2020 (arXiv 2003.02389); branches and overlap: Ma et al. 2021 (arXiv 2107.00166). Differs: counts are exact (open_lth
prunes one weight more), the order of samples goes on from training to training instead of starting anew, and all trainings share
the run's steps: for R rounds of E epochs each, give (R + 1) E epochs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import torch
from torch import Tensor

from sparsify_cli.contracts.regime import Regime
from sparsify_cli.errors import BadRequest
from sparsify_cli.maths.rounds import Rounds, densities, divided
from sparsify_cli.recipes.duration import Duration
from sparsify_cli.recipes.pattern import Pattern
from sparsify_cli.training import branches, guard, kept_weights, masking
from sparsify_cli.training.aim import refuse_movement
from sparsify_cli.values.mask_set import MaskSet
from sparsify_cli.values.run import Run

SHORT = 100
"""Steps of a training under which it is called too short."""

SIZES, GIVEN = "imp.sizes", "imp.given."
START, INITIAL = "imp.start.", "imp.initial."


@dataclass(frozen=True, kw_only=True)
class Imp(Regime):
    """Iterative magnitude pruning with rewinding.

    Args:
        drop: share of the weights left that each round drops, in (0, 1).
        rewind: weights (to their values at `to`), rate (the schedule only) or none (fine-tuning at the last rate).
        to: step k of one training that is gone back to: 0it, 500it, 1ep, or 0.05run = a share of one training.
        branch: ticket, reinit, random or shuffled: what the last training starts from.
    """

    drop: float = 0.2
    rewind: Literal["weights", "rate", "none"] = "weights"
    to: str = "0it"
    branch: Literal["ticket", "reinit", "random", "shuffled"] = "ticket"

    def __post_init__(self) -> None:
        """Check the options."""
        Duration.parse(self.to)
        if not 0 < self.drop < 1:
            raise BadRequest(
                f"imp cannot drop {self.drop} of the weights in a round.", "", "Choose regime.drop between 0 and 1, such as 0.2."
            )
        if self.branch != "ticket" and self.rewind != "weights":
            raise BadRequest(
                f"The branch {self.branch} starts from weights of the beginning.",
                "",
                "Leave regime.rewind at weights, or the branch at ticket.",
            )

    def start(self, run: Run) -> None:
        """Check the schedule and remember what the overlap is told against.

        Raises:
            BadRequest: too few steps for the rounds.
        """
        refuse_movement(run, "imp")
        self._check(run)
        if run.sparsify is not None:
            least = run.sparsify(run.weights(), Fraction(0), within=run.masks or None)
            before = run.masks.kept if run.masks else least.total
            run.memory[SIZES] = torch.tensor([before, least.kept, least.total])
            run.memory |= {GIVEN + name: mask.clone() for name, mask in run.masks.items()}
            if not self._densities(run):
                masking.switch(run, least, event="start")
        rounds = self.rounds(run)
        guard.enforce(run)
        if rounds.others < SHORT:
            text = f"the trainings of imp share the run: {rounds.first} steps for the first, {rounds.others} for each of the others; "
            run.tell("warning", text=text + "give --epochs for all of them together.")
        names = run.sparsify(run.weights(), Fraction(0)) if run.sparsify else {}
        run.memory |= {INITIAL + name: run.weights()[name].clone() for name in names}

    def clock(self, run: Run) -> tuple[int, int]:
        """The schedule's step within the training that runs; without rewinding its last one from the second training on."""
        rounds = self.rounds(run)
        number, place = rounds.at(run.step)
        if not number:
            return place, rounds.first
        if self.branch == "reinit" and number == len(self._densities(run)):
            return place - rounds.start, rounds.others  # new weights are at the start of a schedule, not at its step k
        length = rounds.start + rounds.others
        return (place if self.rewind != "none" else length - 1), length

    def step(self, run: Run, loss: Callable[[], Tensor]) -> Tensor:
        """Prune and rewind if a training begins, then one guarded optimizer step."""
        rounds = self.rounds(run)
        number, place = rounds.at(run.step)
        if run.step == rounds.start:
            run.memory |= {START + name: tensor.detach().clone() for name, tensor in run.model.state_dict().items()}
        if number and place == rounds.start:
            self._next_round(run, number)
        return guard.descend(run, loss)

    def rounds(self, run: Run) -> Rounds:
        """The trainings of a run.

        Raises:
            BadRequest: too few steps for them.
        """
        count, to = len(self._densities(run)), Duration.parse(self.to)
        share = to.unit == "run"
        start = to.value if share else Fraction(to.steps(per_epoch=run.per_epoch, total=run.total))
        try:
            return divided(run.total, count, start=start, is_share=share)
        except (ValueError, ZeroDivisionError) as error:
            what = f"A run of {run.total} steps is too short for {count + 1} trainings that start at {self.to}."
            raise BadRequest(what, "Each round trains anew.", "Train more --epochs, or drop more a round (regime.drop).") from error

    def _densities(self, run: Run) -> tuple[Fraction, ...]:
        before, least, total = run.memory[SIZES].tolist() if SIZES in run.memory else (1, 1, 1)
        return densities(run.target, Fraction(str(self.drop)), begin=Fraction(before, total), most=Fraction(least, total))

    def _check(self, run: Run) -> None:
        pattern = getattr(run.sparsify, "pattern", None)
        if run.target >= 1:
            raise BadRequest(
                "imp cannot drop every weight.", "Each round drops a share of those that are left.", "Ask for a --sparsity below 1."
            )
        if self.branch == "random" and pattern not in (None, Pattern()):
            what = f"Random masks do not hold the pattern {pattern}."
            raise BadRequest(what, "", "Leave the pattern out, or compare with regime.branch=reinit.")
        if self.branch == "reinit":
            branches.require_drawable(run.model)

    def _next_round(self, run: Run, number: int) -> None:
        if run.sparsify is None:
            return
        wanted = self._densities(run)
        masks = run.sparsify(run.weights(), 1 - wanted[number - 1], within=run.masks or None)
        if number == 1:
            run.tell("overlap", share=branches.overlap(run, INITIAL, top=Fraction(1, 5)))
        branch = self.branch if number == len(wanted) else "ticket"
        if branch == "random":
            given = run.remembered(GIVEN)
            masks = branches.random_masks(run, masks, MaskSet(given))
        if self.rewind == "weights":
            run.model.load_state_dict({name: run.memory[START + name] for name in run.model.state_dict()})
        if branch == "reinit":
            branches.draw_anew(run)
        masking.switch(run, masks, event="pruned")
        if branch == "shuffled":
            branches.shuffle(run)
        if self.rewind != "none":
            run.optimizer.state.clear()
        kept_weights.forget_average(run)  # it would mix weights of different trainings
        guard.enforce(run)
        run.tell("round", number=number, of=len(wanted), branch=branch, density=float(1 - run.masks.sparsity))
