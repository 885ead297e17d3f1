"""Drown what the samples to forget wrote in noise, most where the samples that stay do not care (Fisher forgetting).

    F_R     diagonal Fisher over the samples that stay: what was summed over all, minus what the samples to forget add to it
    theta <- theta + noise * (F_R + damping * mean F_R)^(-1/4) * n ,     n ~ N(0, 1), from the seed

`prepare` reads the training set once; `erase` takes gradients of the samples to forget alone, and runs the network
over a few hundred that stay and validation samples. `noise` is (lambda sigma^2)^(1/4) of the paper. When it
is not given, the smallest is taken at which the samples look like unseen ones, as for ssse (`training/forgetting.py`), on one draw of n.

Source: Golatkar, Achille, Soatto 2020 (arXiv 1911.04933). Differs: labels drawn once from the model's own answers
(their code sums over all classes); relative damping in the place of a clamp; the choice of the noise.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sparsify_cli.contracts.unlearner import Erasure, Memo, Request, Unlearner
from sparsify_cli.errors import Anomalous, MissingContext
from sparsify_cli.maths.diagonal_fisher import Labels, squared_gradients
from sparsify_cli.maths.per_sample_gradients import Coordinates
from sparsify_cli.maths.step_search import shortest_step
from sparsify_cli.training.erasing import MOVED, UNCHANGED, require
from sparsify_cli.training.forgetting import Judge, Reading
from sparsify_cli.training.modes import evaluating
from sparsify_cli.training.prepared import checked, stamped
from sparsify_cli.values.mask_set import MaskSet
from sparsify_cli.values.report import Finding
from sparsify_cli.values.samples import Samples

FISHER, SUMMED, SEED = "fisher_diagonal", "summed", "seed"
NOISE = "Scale of the noise, (lambda sigma^2)^(1/4)."
ENDINGS = {
    "reached": "",
    "known": "The network does not tell these samples from unseen ones: no noise was added. Ask for some with --set unlearner.noise=",
    "harm": "The target was not reached within the tolerance; this is the most noise within it.",
    "limit": "The trust region ended before the target was reached.",
    "clipped": "The noise that was asked for was cut to the trust region.",
}


@dataclass(frozen=True, kw_only=True)
class FisherForgetting(Unlearner):
    """Noise where what stays does not care.

    Args:
        noise: its scale; None = chosen by the rule above.
        damping: of the diagonal, relative to its mean, > 0.
        labels: of the Fisher: `own` = drawn from the model's answers, `data` = the data's.
        trust: most noise, relative to the norm of the parameters that may move.
        tolerance: fall of validation accuracy on the classes that stay that may be paid, fraction.
        forgotten: accuracy on a wholly forgotten class that counts as forgotten, fraction.
        probe: most samples of each kind looked at while the noise is chosen; 0 = 200 to 2,000 by the network's size.
        seed: of the noise, of labels and of probes.
    """

    noise: float | None = None
    damping: float = 0.01
    labels: Labels = "own"
    trust: float = 0.5
    tolerance: float = 0.02
    forgotten: float = 0.02
    probe: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse options without a meaning."""
        require(self.damping > 0 and self.trust > 0, f"damping={self.damping}, trust={self.trust}", "Both are positive.")
        require(self.noise is None or self.noise >= 0, f"noise={self.noise}", "It is a length.")

    @property
    def idle(self) -> bool:
        """Whether noise of scale 0 was asked for."""
        return self.noise == 0

    def effort(self, model: nn.Module, train: Samples, masks: MaskSet) -> str:
        """Samples and parameters."""
        return f"squared gradients of {len(train):,} samples: {Coordinates.of(model, masks).count:,} numbers to keep"

    def prepare(self, model: nn.Module, train: Samples, masks: MaskSet) -> Memo:
        """Sum the squared gradients of every training sample."""
        total = self._sum(model, train, Coordinates.of(model, masks), self.seed)
        memo = {FISHER: total, SUMMED: torch.tensor(len(train)), SEED: torch.tensor(self.seed)}
        return stamped(memo, model, masks, len(train), how=f"labels={self.labels}")

    def erase(self, model: nn.Module, request: Request, memo: Memo | None) -> Erasure:
        """Add the noise.

        Raises:
            BadRequest: no memo, or one of another model.
            MissingContext: the noise is to be chosen and there are no validation samples.
            Anomalous: the Fisher is zero.
        """
        known = checked(memo, {FISHER, SUMMED, SEED}, model, request, "Fisher", how=f"labels={self.labels}")
        if not len(request.forget):
            return Erasure({}, (UNCHANGED,))
        everywhere, coordinates = Coordinates.of(model, request.masks), Coordinates.of(model, request.masks, request.frozen)
        total = known[FISHER].double() - self._sum(model, request.forget, everywhere, int(known[SEED]))
        direction = self._direction(coordinates.taken_from(everywhere, total.clamp(min=0) / (int(known[SUMMED]) - len(request.forget))))
        judge = Judge.of(model, coordinates, request, forgotten=self.forgotten, tolerance=self.tolerance, most=self.probe, seed=self.seed)
        theta = coordinates.flatten(judge.parameters).double().cpu()
        scale, ending = self._scale(judge, direction, self.trust * float(theta.norm()) / float(direction.norm()))
        step = scale * direction
        return Erasure(
            coordinates.moved(judge.parameters, step),
            (
                Finding(name="noise", value=scale, definition=NOISE, note=ENDINGS[ending]),
                Finding(name="step_norm", value=float(step.norm()), definition=MOVED),
            ),
        )

    def _sum(self, model: nn.Module, samples: Samples, coordinates: Coordinates, seed: int) -> Tensor:
        with evaluating(model):
            return squared_gradients(model, samples, coordinates, labels=self.labels, seed=seed)

    def _direction(self, diagonal: Tensor) -> Tensor:
        mean = float(diagonal.mean())
        if not 0 < mean < float("inf"):
            raise Anomalous(f"The mean squared gradient of the samples that stay is {mean}.", "Such a Fisher says nothing.")
        draws = torch.randn(len(diagonal), generator=torch.Generator().manual_seed(self.seed), dtype=torch.float64)
        return (diagonal + self.damping * mean) ** -0.25 * draws

    def _scale(self, judge: Judge, direction: Tensor, limit: float) -> tuple[float, str]:
        if self.noise is not None:
            return min(self.noise, limit), "clipped" if self.noise > limit else "reached"
        if not len(judge.validation):
            raise MissingContext("There are no validation samples of the classes that stay.", "The noise is chosen on them.", "Give noise.")
        if judge.before.reached:
            return 0.0, "known"

        def attempt(scale: float) -> Reading:
            return judge.read(scale * direction)

        found = shortest_step(attempt, judge.before, limit)
        return found.length, found.ending
