"""Forget samples in one step against the empirical Fisher, read once from the whole training set.

    theta' = theta + epsilon / (n - k) * F^-1 (sum_{i in S} grad l_i(theta) + k mu theta)

S are the k samples to forget of n, F = lambda I + (1/m) sum g g^T. `prepare` keeps the blocks of F; `erase` afterwards
computes gradients of S alone. All trainable parameters move, pruned weights do not.

How epsilon is chosen, when it is not given; the test split is never seen. With growing steps, from 1/1024 of the trust
region upwards by factors of two and then by bisection, the smallest epsilon is taken at which both hold:
  - samples whose class stays: their mean loss reaches what the model paid before the step on validation samples of the same
    mixture of classes, corrected for how hard they were among retained samples (`training/forgetting.py`);
  - samples whose whole class goes: their accuracy is at most `forgotten`, because a model trained without a class never
    answers it.
Validation accuracy on the classes that stay may not fall by more than `tolerance`; if the target is not within it, damping
ten times smaller and ten times larger is tried, then the most forgetful step within the tolerance is taken, and a note says
so. A model that shows no gap between seen and unseen samples gives nothing to measure: it gets the published epsilon = 1, or
the longest halving of it within the tolerance.

Limits. Running statistics of batch norm are read, never changed: they still contain the forgotten samples. One step is an
approximation away from convex models; it is no proof of erasure. A memo belongs to one model: after an erasure, prepare
again.

Source: Peste, Alistarh, Lampert 2021 (arXiv 2107.03860), the update and the stored Fisher. The numerator with weight decay
is derived; damping relative to the mean diagonal, the trust region and the choice of epsilon are ours: the paper's values
could not be verified.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sparsify_cli.contracts.unlearner import Erasure, Memo, Request, Unlearner
from sparsify_cli.errors import Anomalous, BadRequest, MissingContext
from sparsify_cli.maths.fisher import add_gram, empty_gram, erasure_step, mean_diagonal
from sparsify_cli.maths.per_sample_gradients import Coordinates, per_sample_gradients
from sparsify_cli.maths.step_search import longest_step, shortest_step
from sparsify_cli.training.forgetting import Judge, Reading, draw
from sparsify_cli.values.mask_set import MaskSet
from sparsify_cli.values.report import Finding
from sparsify_cli.values.samples import Samples

MEMO = {"fisher", "model_sha256", "n", "coordinates", "samples", "damping"}
NO_GAP = "The model does not tell these samples from unseen ones: the published epsilon = 1 was taken as far as tolerance and trust allow."
HARM = "The target was not reached within a fall of {:g} of validation accuracy; this is the most forgetful step within it."
FAR = "The trust region ({:g} of the parameters' norm) ended before the target was reached."
MOVED = "Euclidean length of the change of the parameters."
SOURCE = "Peste, Alistarh, Lampert 2021 (arXiv 2107.03860)"


@dataclass(frozen=True, kw_only=True)
class Ssse(Unlearner):
    """Single-step sample erasure.

    Args:
        fisher: `block` keeps diagonal blocks, `dense` the whole matrix (small models).
        block: parameters in a block.
        samples: training samples the Fisher is averaged over, drawn at random; 0 = all.
        damping: lambda relative to the mean diagonal of the empirical Fisher, > 0.
        epsilon: step length; None = chosen by the rule above.
        weight_decay: mu of the regulariser mu/2 |theta|^2 the model was trained with, 0 = none.
        trust: longest step, relative to the norm of the parameters that may move.
        tolerance: fall of validation accuracy on the classes that stay that may be paid, fraction.
        forgotten: accuracy on a wholly forgotten class that counts as forgotten, fraction.
        probe: most samples of each kind looked at while epsilon is chosen, drawn at random.
        seed: for every random draw.
    """

    fisher: Literal["block", "dense"] = "block"
    block: int = 512
    samples: int = 0
    damping: float = 0.1
    epsilon: float | None = None
    weight_decay: float = 0.0
    trust: float = 0.5
    tolerance: float = 0.02
    forgotten: float = 0.02
    probe: int = 2000
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse options without a meaning."""
        _require(self.fisher in ("block", "dense"), f"fisher={self.fisher!r}", "It is `block` or `dense`.")
        _require(self.block >= 1, f"block={self.block}", "A block holds at least one parameter.")
        _require(self.samples >= 0 and self.probe >= 1, f"samples={self.samples}, probe={self.probe}", "They count samples.")
        _require(self.damping > 0, f"damping={self.damping}", "Without damping the Fisher has no inverse.")
        _require(self.epsilon is None or self.epsilon >= 0, f"epsilon={self.epsilon}", "A negative step learns instead of forgetting.")
        _require(self.trust > 0 and self.weight_decay >= 0, f"trust={self.trust}, weight_decay={self.weight_decay}", "They are lengths.")
        _require(0 <= self.tolerance <= 1 and 0 <= self.forgotten <= 1, f"tolerance={self.tolerance}", "Fractions lie in [0, 1].")

    def effort(self, model: nn.Module, train: Samples, masks: MaskSet) -> str:
        """Samples, parameters, memory and the precision of the sums."""
        count = Coordinates.of(model, masks).count
        size = min(count if self.fisher == "dense" else self.block, count)
        dtype = _precision(count, size)
        used = min(self.samples or len(train), len(train))
        return (
            f"averaging the Fisher over {used:,} samples: {count:,} parameters in blocks of {size:,},"
            f" {_needed(count, size, dtype) / 1e9:,.2f} GB, sums in {str(dtype).removeprefix('torch.')}"
        )

    def prepare(self, model: nn.Module, train: Samples, masks: MaskSet) -> Memo:
        """Average the outer products of per-sample gradients over the training set, diagonal blocks only.

        Raises:
            BadRequest: the Fisher does not fit in memory, or there are no samples.
            Anomalous: gradients are not finite, or zero everywhere.
        """
        coordinates = Coordinates.of(model, masks)
        size = coordinates.count if self.fisher == "dense" else self.block
        _require_memory(coordinates.count, min(size, coordinates.count), self.fisher)
        dtype = _precision(coordinates.count, min(size, coordinates.count))
        used = draw(train, self.samples or len(train), self.seed)
        _require(len(used) > 0, "0 training samples", "The Fisher is an average over samples.")
        like = next(model.parameters())
        gram = empty_gram(coordinates.count, size, like, dtype=dtype)
        for rows in per_sample_gradients(model, used.inputs, used.targets, coordinates):
            add_gram(gram, rows)
        gram /= len(used)
        scale = _finite_scale(gram, coordinates.count, len(used))
        return {
            "fisher": gram.to("cpu", torch.promote_types(like.dtype, torch.float32)),  # summed in float64, kept rounded once
            "model_sha256": _fingerprint(model, masks),
            "n": torch.tensor(len(train)),
            "coordinates": torch.tensor(coordinates.count),
            "samples": torch.tensor(len(used)),
            "damping": torch.tensor(self.damping * scale, dtype=torch.float64),
        }

    def erase(self, model: nn.Module, request: Request, memo: Memo | None) -> Erasure:
        """One step away from the samples to forget.

        Raises:
            BadRequest: no memo, a memo of another model, masks or training set, or nothing is retained.
            MissingContext: epsilon is to be chosen and there are no validation samples.
            Anomalous: the step is not finite.
        """
        coordinates = Coordinates.of(model, request.masks)
        known = _checked(memo, model, request, coordinates)
        if not len(request.forget):
            return Erasure({}, (_finding("step_norm", 0.0, definition=MOVED, note="Nothing was to be forgotten; nothing changed."),))
        newton = _Newton.of(model, coordinates, request, known, self.weight_decay)
        judge = Judge.of(model, coordinates, request, forgotten=self.forgotten, tolerance=self.tolerance, most=self.probe, seed=self.seed)
        attempt = self._chosen(judge, newton) if self.epsilon is None else self._fixed(judge, newton, self.epsilon)
        return Erasure(coordinates.moved(judge.parameters, attempt.step), _findings(judge, newton, attempt, self.trust))

    def _fixed(self, judge: Judge, newton: _Newton, asked: float) -> _Attempt:
        """The step a person asked for, cut to the trust region."""
        damping = self.damping * newton.scale
        unit = newton.unit(damping)
        epsilon = min(asked, newton.limit(unit, self.trust))
        return _Attempt(judge.read(epsilon * unit), epsilon, damping, epsilon * unit, clipped=epsilon < asked)

    def _chosen(self, judge: Judge, newton: _Newton) -> _Attempt:
        """The first damping that reaches the target, or the most forgetful step of all."""
        if not len(judge.validation):
            raise MissingContext(
                "There are no validation samples of the classes that stay.",
                "Epsilon is chosen on them.",
                "Give epsilon, or data with a validation split.",
            )
        attempts = []
        for factor in (1.0, 0.1, 10.0):
            attempts.append(self._searched(judge, newton, factor * self.damping * newton.scale))
            if not attempts[-1].note or judge.before.reached:
                return attempts[-1]
        return max(attempts, key=lambda a: (-a.reading.gone_accuracy, a.reading.forget_loss))

    def _searched(self, judge: Judge, newton: _Newton, damping: float) -> _Attempt:
        unit = newton.unit(damping)
        limit = newton.limit(unit, self.trust)

        def attempt(epsilon: float) -> Reading:
            return judge.read(epsilon * unit)

        if judge.before.reached:
            found, note = longest_step(attempt, judge.before, min(1.0, limit)), NO_GAP
        else:
            found = shortest_step(attempt, judge.before, limit)
            note = {"reached": "", "harm": HARM.format(self.tolerance), "limit": FAR.format(self.trust)}[found.ending]
        return _Attempt(found.trial, found.length, damping, found.length * unit, clipped=found.length == limit, note=note)


@dataclass(frozen=True, eq=False)
class _Newton:
    """Everything the step is made of."""

    fisher: Tensor
    gradient_sum: Float[Tensor, " d"]
    theta: Float[Tensor, " d"]
    n: int
    k: int
    weight_decay: float

    @classmethod
    def of(cls, model: nn.Module, coordinates: Coordinates, request: Request, memo: Memo, weight_decay: float) -> _Newton:
        chunks = per_sample_gradients(model, request.forget.inputs, request.forget.targets, coordinates)
        total = torch.stack([rows.double().sum(dim=0).cpu() for rows in chunks]).sum(dim=0)
        theta = coordinates.flatten({name: p.detach() for name, p in model.named_parameters()}).double().cpu()
        return cls(memo["fisher"], total, theta, int(memo["n"]), len(request.forget), weight_decay)

    @property
    def scale(self) -> float:
        """Mean diagonal of the undamped Fisher."""
        return mean_diagonal(self.fisher, len(self.theta))

    def unit(self, damping: float) -> Float[Tensor, " d"]:
        """The step of epsilon = 1 at an absolute damping."""
        step = erasure_step(self.fisher, self.gradient_sum, self.theta, n=self.n, k=self.k, damping=damping, weight_decay=self.weight_decay)
        norm = float(step.norm())
        if not 0 < norm < float("inf"):
            raise Anomalous(f"The erasure step has norm {norm}.", "The gradients of the samples to forget are zero or not finite.")
        return step

    def limit(self, unit: Float[Tensor, " d"], trust: float) -> float:
        """The epsilon at the border of the trust region."""
        return trust * float(self.theta.norm()) / float(unit.norm())


@dataclass(frozen=True, eq=False)
class _Attempt:
    """A step, how it was found and what it does."""

    reading: Reading
    epsilon: float
    damping: float
    step: Float[Tensor, " d"]
    clipped: bool
    note: str = ""


def _findings(judge: Judge, newton: _Newton, attempt: _Attempt, trust: float) -> tuple[Finding, ...]:
    before, after, norm = judge.before, attempt.reading, float(attempt.step.norm())
    theta, forgets, valids = float(newton.theta.norm()), len(judge.forget), len(judge.validation)
    one = "Length of the step; 1 is the Newton step of a well-specified model."
    stays = "On the classes that stay, over the probed validation samples."
    return (
        _finding("epsilon", attempt.epsilon, definition=one, note=attempt.note),
        _finding("damping", attempt.damping, definition="lambda added to the diagonal of the empirical Fisher, absolute."),
        _finding("step_norm", norm, definition=MOVED),
        _finding("relative_step_norm", norm / theta, "fraction", definition="step_norm over the norm of the parameters that may move."),
        _finding("clipped", float(attempt.clipped), definition=f"1 when the step was cut to {trust:g} of the parameters' norm, else 0."),
        _finding("forget_loss_before", before.forget_loss, "nats", forgets),
        _finding("forget_loss_after", after.forget_loss, "nats", forgets),
        _finding("forget_accuracy_before", before.forget_accuracy, "fraction", forgets),
        _finding("forget_accuracy_after", after.forget_accuracy, "fraction", forgets),
        _finding("validation_accuracy_before", before.validation_accuracy, "fraction", valids, definition=stays),
        _finding("validation_accuracy_after", after.validation_accuracy, "fraction", valids, definition=stays),
    )


def _finding(name: str, value: float, unit: str = "", n: int = 0, *, definition: str = "", note: str = "") -> Finding:
    words = definition or "Mean over the probed samples to forget, batch norm in evaluation mode."
    return Finding(name=name, value=value, unit=unit, n=n, definition=words, source=SOURCE, note=note)


def _checked(memo: Memo | None, model: nn.Module, request: Request, coordinates: Coordinates) -> Memo:
    if memo is None or not set(memo) >= MEMO:
        raise BadRequest("There is no Fisher to erase with.", "ssse needs the memo of its own `prepare`.", "Run prepare first.")
    if not torch.equal(memo["model_sha256"], _fingerprint(model, request.masks)) or int(memo["coordinates"]) != coordinates.count:
        raise BadRequest(
            "The memo was made for another model or other masks.", "A Fisher holds at one set of weights.", "Run prepare again."
        )
    n, k, rest = int(memo["n"]), len(request.forget), len(request.retain)
    if k + rest != n:
        raise BadRequest(
            f"The memo was made for {n} training samples; {k} to forget and {rest} to retain make {k + rest}.",
            "The step divides by the number of retained samples.",
            "Split the same training set, or prepare again.",
        )
    if not rest:
        raise BadRequest(
            f"All {n} training samples are to be forgotten.", "Nothing would be left to learn from.", "Initialise a new model."
        )
    return memo


def _require(holds: bool, what: str, why: str) -> None:
    if not holds:
        raise BadRequest(f"ssse cannot work with {what}.", why, "See the options of ssse.")


def _require_memory(count: int, size: int, kind: str) -> None:
    needed, there = _needed(count, size, torch.float32), _memory()
    if needed > 0.8 * there:
        raise BadRequest(
            f"The {kind} Fisher of {count:,} parameters needs {needed / 1e9:,.1f} GB; this machine has {there / 1e9:,.1f} GB.",
            f"It holds blocks of {size:,} x {size:,} numbers.",
            "Use fisher=block with a smaller block.",
        )


def _needed(count: int, size: int, dtype: torch.dtype) -> int:
    """Bytes at the peak: the blocks while they are summed, in float64 also their float32 copy, and one that is solved."""
    return (-(-count // size) * (12 if dtype == torch.float64 else 4) + 16) * size**2


def _memory() -> int:
    """Bytes of this machine."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 2**34


def _precision(count: int, size: int) -> torch.dtype:
    """Sums in float64, or in float32 where only that fits in memory."""
    return torch.float64 if _needed(count, size, torch.float64) <= 0.8 * _memory() else torch.float32


def _finite_scale(gram: Tensor, count: int, n: int) -> float:
    scale = mean_diagonal(gram, count)
    if not (0 < scale < float("inf")):
        raise Anomalous(f"The mean squared gradient over {n} samples is {scale}.", "Such a Fisher says nothing.", "Check model and data.")
    return scale


def _fingerprint(model: nn.Module, masks: MaskSet) -> Tensor:
    """sha256 over every tensor of the model (running statistics included) and the masks, as 32 bytes."""
    state = hashlib.sha256(masks.digest().encode())
    for name, tensor in sorted(model.state_dict().items()):
        state.update(f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode())
        state.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return torch.tensor(list(state.digest()), dtype=torch.uint8)
