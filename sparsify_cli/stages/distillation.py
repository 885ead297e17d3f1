"""What a teacher does to the noise of a run's gradients, measured before it starts; and the weight that follows from it.

At temperature 1, whatever the run's is: only there what the teacher takes off a gradient is its own residual, as the theory has it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import nn

from sparsify_cli.errors import BadRequest
from sparsify_cli.maths.distillation_variance import GradientMoments, Moments
from sparsify_cli.recipes.option import Choice
from sparsify_cli.recipes.shared import TrainFields
from sparsify_cli.stages.strategy import strategy
from sparsify_cli.stages.training_run import Training
from sparsify_cli.training.distillation_gradients import gradient_pairs
from sparsify_cli.values.mask_set import MaskSet
from sparsify_cli.values.report import Finding
from sparsify_cli.values.samples import Samples

DISTILL, AUTO = "distill", "auto"
GRADIENTS = 32
"""Batches whose gradients are looked at."""


@dataclass(frozen=True)
class Distillation:
    """The numbers of a student and a teacher.

    Args:
        moments: of their gradients.
        gamma_mu: step size times weight decay, which stands for the convexity.
        weight: the teacher's share that is used.
        is_auto: it follows from the numbers.
    """

    moments: GradientMoments
    gamma_mu: float
    weight: float
    is_auto: bool

    @property
    def recommended(self) -> float:
        """The best weight of the bound, in [0, 1]."""
        return min(1.0, max(0.0, self.moments.best_weight(self.gamma_mu)))

    def note(self) -> str:
        """One sentence."""
        m = self.moments
        used = "which is used" if self.is_auto else f"{self.weight:g} is used, --distill-weight auto takes the other"
        return (
            f"distillation: gradients of labels and teacher correlate by {m.correlation:.2f}; the theory's cautious share of the teacher "
            f"is {self.recommended:.2g} ({used}); it is near 0 where the teacher errs on the same samples again and again or weight decay "
            "is small, though more may well help."
        )

    def findings(self) -> list[Finding]:
        """Each number, with its meaning."""
        m = self.moments
        listed = (
            (
                "distill_correlation",
                m.correlation,
                "Correlation of the labels' gradient and of what the teacher takes off it.",
            ),
            ("distill_beta", m.beta, "Share of the teacher's part that is the same in every batch: bias instead of noise."),
            (
                "distill_best_weight",
                m.best_weight(self.gamma_mu),
                "Share of the teacher with the least bound on noise, by decay and rate.",
            ),
            ("distill_variance_weight", m.variance_weight, "Teacher's share with the least variance, whatever the bias."),
            ("distill_noise_ratio", m.ratio(self.gamma_mu), "The bound on noise at the best share, relative to no teacher."),
            ("distill_weight", self.weight, "Teacher's share that was used."),
        )
        return [Finding(name=name, value=value, unit="fraction", n=GRADIENTS, definition=text) for name, value, text in listed]


def with_weight(recipe: TrainFields) -> Choice:
    """The objective with the share of the teacher that --distill-weight asks for; `auto` is left for later.

    Raises:
        BadRequest: the objective is another one, or the share is no number.
    """
    objective, asked = recipe.objective, recipe.distill_weight
    if not asked:
        return objective
    if objective.name != DISTILL:
        raise BadRequest(f"The objective {objective.name} has no share of a teacher.", "", "Add --objective distill.")
    if asked == AUTO:
        return objective
    try:
        share = float(asked)
    except ValueError as error:
        raise BadRequest(f"--distill-weight {asked} is no share.", "", "Write a number in [0, 1], or auto.") from error
    return replace(objective, options={**objective.options, "weight": share})


def analysed(
    recipe: TrainFields, student: nn.Module, teacher: Callable[[], nn.Module], samples: Samples, masks: MaskSet, *, seed: int
) -> tuple[Choice, Distillation | None]:
    """The objective with its weight settled, and what was found; None for objectives other than distill."""
    choice = with_weight(recipe)
    if choice.name != DISTILL:
        return choice, None
    objective = strategy("objectives", choice)
    moments, guide = Moments(), teacher().to(next(student.parameters()).device)
    for g, t in gradient_pairs(student, guide, samples, masks, temperature=1.0, batch=recipe.batch_size, most=GRADIENTS, seed=seed):
        moments.add(g, t)
    found = Distillation(moments.means(), recipe.lr * recipe.weight_decay, objective.weight, recipe.distill_weight == AUTO)
    if found.is_auto:
        found = replace(found, weight=found.recommended)
    return replace(choice, options={**choice.options, "weight": found.weight}), found


def settled(training: Training) -> tuple[Training, Distillation | None]:
    """The training with its objective settled, and what the teacher does to its gradients."""
    recipe = training.recipe
    objective, found = analysed(recipe, training.module, training.teacher, training.samples, training.masks, seed=training.seed)
    return replace(training, objective=objective), found
