"""Climb the loss of the samples to forget, until it is that of samples never seen.

    theta <- theta + lr * grad (1/|B|) sum_{i in B} l_i(theta),   B a batch of the samples to forget

It has no brake of its own: a few steps too many ruin a network. So after every step it is judged as ssse's step is
(`training/forgetting.py`), and stops where the target is reached, or at the last step within the tolerance, whichever comes first.
`stop=false` climbs to the end of all epochs, as published. Nothing is trained on retained
samples; a probe of them tells how hard samples are, unless `stop=false`.

Source: Golatkar, Achille, Soatto 2020 (arXiv 1911.04933), "negative gradient"; Thudi et al. 2022 (arXiv 2109.13398). The rule
for stopping is ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from sparsify_cli.contracts.unlearner import Request
from sparsify_cli.errors import MissingContext
from sparsify_cli.maths.per_sample_gradients import Coordinates
from sparsify_cli.training.erasing import Erasing, Student
from sparsify_cli.training.forgetting import Judge
from sparsify_cli.values.choices import choices
from sparsify_cli.values.report import Finding

STEPS = "Steps up the loss of the samples to forget."
HARM = "The next step costs more validation accuracy than the tolerance; the target was not reached."
SHORT = "All epochs were over before the target was reached."


@dataclass(frozen=True, kw_only=True)
class GradientAscent(Erasing):
    """Climb the loss of the samples.

    Args:
        epochs: passes over the samples to forget, at most.
        lr: length of a step relative to the gradient.
        momentum: of the climb.
        weight_decay: of the climb.
        stop: at the target or before harm; false = climb to the end.
        tolerance: fall of validation accuracy on the classes that stay that may be paid, fraction.
        forgotten: accuracy on a wholly forgotten class that counts as forgotten, fraction.
        probe: most samples of each kind that are looked at after a step.
    """

    epochs: int = 50
    lr: float = 0.005
    momentum: float = 0.0
    weight_decay: float = 0.0
    stop: bool = True
    tolerance: float = 0.02
    forgotten: float = 0.02
    probe: int = 500

    def descend(self, student: Student, request: Request) -> Sequence[Finding]:
        """Step by step, with the last acceptable weights at hand."""
        judge = self._judge(student.model, request) if self.stop else None
        done, kept, note = 0, student.weights(), SHORT
        for _ in range(self.epochs):
            for _ in student.steps(request.forget, climb, mode="eval"):
                reading = judge.judged(dict(student.model.named_parameters())) if judge else None
                if reading and not reading.acceptable:
                    student.put(kept)
                    return _told(done, HARM)
                done, kept = done + 1, student.weights() if judge else kept
                if reading and reading.reached:
                    return _told(done, "")
        return _told(done, note if judge else "")

    def _judge(self, model: nn.Module, request: Request) -> Judge:
        if not len(request.validation):
            what = "There are no validation samples of the classes that stay."
            raise MissingContext(what, "Where to stop is told on them.", "Give data with a validation split, or stop=false.")
        moving = Coordinates.of(model, request.masks, request.frozen)
        return Judge.of(model, moving, request, forgotten=self.forgotten, tolerance=self.tolerance, most=self.probe, seed=self.seed)


def climb(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    """Minus the mean cross-entropy: going down on it is going up."""
    return -cross_entropy(*choices(model(inputs), targets))


def _told(steps: int, note: str) -> tuple[Finding, ...]:
    return (Finding(name="steps", value=steps, definition=STEPS, note=note),)
