"""A step against a Fisher: what it is made of, the line it goes along, and what each length does.

Source: Peste, Alistarh, Lampert 2021 (arXiv 2107.03860), the step; see `unlearners/ssse.py` for what is ours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property

from jaxtyping import Bool, Float
from torch import Tensor, nn

from sparsify_cli.contracts.unlearner import Request
from sparsify_cli.errors import Anomalous
from sparsify_cli.maths.fisher import numerator
from sparsify_cli.maths.fisher_forms import BlockForm, Form, Rows, SpectralForm
from sparsify_cli.maths.per_sample_gradients import Coordinates, gradient_sum, per_sample_gradients
from sparsify_cli.maths.step_search import lowest_step
from sparsify_cli.training.forgetting import Judge, Reading


@dataclass(frozen=True, eq=False)
class Newton:
    """Everything the step is made of; `free` is where it may go, None = everywhere."""

    form: Form
    gradient_sum: Float[Tensor, " d"]
    asked: Float[Tensor, " d"]
    theta: Float[Tensor, " d"]
    k: int
    rest: int
    free: Bool[Tensor, " d"] | None

    @classmethod
    def of(cls, model: nn.Module, coordinates: Coordinates, request: Request, form: Form, *, retained: bool, weight_decay: float) -> Newton:
        """Gradients of the samples to forget, and what they ask for.

        Args:
            model: as it is.
            coordinates: which parameters may move.
            request: samples to forget and to keep; frozen weights.
            form: the Fisher.
            retained: take the samples to forget out of it.
            weight_decay: mu.
        """

        def rows() -> Rows:
            return per_sample_gradients(model, request.forget.inputs, request.forget.targets, coordinates)

        k, rest = len(request.forget), len(request.retain)
        total = gradient_sum(model, request.forget.inputs, request.forget.targets, coordinates)
        theta = coordinates.flatten({name: p.detach() for name, p in model.named_parameters()}).double().cpu()
        if retained and isinstance(form, BlockForm | SpectralForm):
            form = form.without(rows(), k + rest)
        free = coordinates.free_of(request.frozen) if request.frozen else None
        return cls(form, total, numerator(total, theta, k=k, weight_decay=weight_decay), theta, k, rest, free)

    def unit(self, damping: float) -> Float[Tensor, " d"]:
        """The step of epsilon = 1 at an absolute damping."""
        step = self._solutions(damping) / self.rest
        norm = float(step.norm())
        if not 0 < norm < float("inf"):
            raise Anomalous(f"The erasure step has norm {norm}.", "The gradients of the samples to forget are zero or not finite.")
        return step

    @cached_property
    def _solutions(self) -> Callable[[float], Tensor]:
        """What is asked for, by the inverse at any damping."""
        if isinstance(self.form, SpectralForm) and self.free is None:
            return self.form.solutions(self.asked)
        return lambda damping: self.form.solve(self.asked, damping, self.free)

    def guess(self, unit: Float[Tensor, " d"], judge: Judge) -> float:
        """The epsilon that is enough if the loss of the samples, or the margin of a class that goes, rises in a straight line."""
        slope, (unpaid, behind) = float(self.gradient_sum @ unit) / self.k, judge.before.missing
        missing = max(unpaid, behind * judge.sureness)
        return missing / slope if slope > 0 and missing > 0 else 1.0

    def limit(self, unit: Float[Tensor, " d"], trust: float) -> float:
        """The epsilon at the border of the trust region."""
        return trust * float(self.theta.norm()) / float(unit.norm())


@dataclass(frozen=True, eq=False)
class Line:
    """Steps of one direction.

    Args:
        judge: says what a step does.
        newton: what the step is made of.
        damping: lambda, absolute.
        unit: the step of epsilon = 1.
        limit: the epsilon at the border of the trust region.
        weight_decay: mu.
    """

    judge: Judge
    newton: Newton
    damping: float
    unit: Float[Tensor, " d"]
    limit: float
    weight_decay: float

    @classmethod
    def of(cls, judge: Judge, newton: Newton, damping: float, *, trust: float, weight_decay: float) -> Line:
        """The direction at a damping relative to the mean diagonal, up to `trust` times the norm of the parameters."""
        absolute = damping * newton.form.scale
        unit = newton.unit(absolute)
        return cls(judge, newton, absolute, unit, newton.limit(unit, trust), weight_decay)

    def read(self, epsilon: float) -> Reading:
        """What a step does."""
        return self.judge.read(epsilon * self.unit)

    def objective(self, epsilon: float) -> float:
        """What training without the samples would bring down, on the probed samples that stay."""
        away = self.newton.theta + epsilon * self.unit if self.weight_decay else self.unit[:0]
        return self.retained(epsilon) + self.weight_decay / 2 * float(away.square().sum())

    def lowest(self, least: float = 0.0) -> float:
        """The epsilon from `least` up to 1 that brings the loss of what stays lowest."""
        pull, bend = float(self.newton.asked @ self.unit) / self.newton.rest, self.weight_decay / 2 * float(self.unit @ self.unit)
        return lowest_step(self.retained, max(least, min(1.0, self.limit)), pull=pull, bend=bend, least=least)

    @cached_property
    def retained(self) -> Callable[[float], float]:
        """Loss of what stays at each epsilon, looked at once."""
        return cache(lambda epsilon: self.judge.retained_loss(epsilon * self.unit) if epsilon else self.judge.stays)


@dataclass(frozen=True, eq=False)
class Attempt:
    """A step along a line, what it does, and why it is no better.

    Args:
        cut: a longer one was asked for; None where none was asked for.
    """

    line: Line
    epsilon: float
    reading: Reading
    note: str = ""
    cut: bool | None = None

    @property
    def clipped(self) -> bool:
        """Whether the trust region ended it."""
        return self.epsilon >= self.line.limit if self.cut is None else self.cut

    @property
    def step(self) -> Float[Tensor, " d"]:
        """The change of the parameters that may move."""
        return self.epsilon * self.line.unit

    @property
    def retained(self) -> float:
        """Loss of the probed samples that stay, nats."""
        return self.line.retained(self.epsilon)

    @property
    def objective(self) -> float:
        """What training without the samples would bring down."""
        return self.line.objective(self.epsilon)
