"""Forget samples in one step against the empirical Fisher, read once from the whole training set.

    theta' = theta + epsilon / (n - k) * F^-1 (sum_{i in S} grad l_i(theta) + k mu theta)

S are the k samples to forget of n, F = lambda I + (1/m) sum g g^T. `prepare` keeps F in one of four forms
(`maths/fisher_forms.py`); `erase` afterwards computes gradients of S alone, and runs the
network over probes of retained and validation samples (200 to 2,000 of each) to choose epsilon. All trainable parameters move, or those
in `layers`; pruned weights do not.

How epsilon is chosen, when it is not given; the test split is never seen. The search starts from the step that slopes promise, at least
1/1024 of the trust region, and takes about the smallest epsilon (`maths/step_search.py`) at which both hold:
  - samples whose class stays: their mean loss reaches what the model paid before the step on validation samples of the same
    mixture of classes, corrected for how hard they were among retained samples (`training/forgetting.py`);
  - samples whose whole class goes: their accuracy is at most `forgotten`, because a model trained without a class never
    answers it. This takes long steps, on which the Fisher of all samples misleads; so damping ten and a hundred times larger is
    tried as well, and the step is taken that leaves the samples that stay the lowest loss (probed), which is what retraining minimises.
From there the step goes on to where the loss of the samples that stay is expected to be lowest (see below), provided that the target still
holds there and that loss, measured on a probe, did fall: half of a class takes with it how often that class is right.
A step that more than doubles what the samples that stay cost follows a Fisher that a few of them make up, as in networks that fit
nearly all; damping ten times smaller, and smaller again, is then tried as long as it leaves them a lower loss.
Validation accuracy on the classes that stay may not fall by more than `tolerance`; if the target is not within it, damping
ten times smaller and ten times larger (a hundred where a class goes) is tried, then the most forgetful step within the tolerance
is taken, and a note says so. A model that shows no gap between seen and unseen samples gives no such target. What retraining
minimises is the loss of the samples that stay; so epsilon is then the one, up to the published 1, that brings this loss lowest
along the step: its slope is known exactly (minus that of S) at a minimum of the whole, its bend is measured on a probe; where the network
is at no such minimum, that promises too much, so no step goes where S costs more than twice what it did, or unseen samples do. Half a
class of a convex model (digits): answers on it differ from those of the retrained model by 3 to 4 %, with epsilon = 1 by 7 to
17 %, with no step by 9 %.

Limits. Running statistics of batch norm are read, never changed: they still contain the forgotten samples. One step is an
approximation away from convex models; it is no proof of erasure. A memo belongs to one model: after an erasure it is stale, which
is said, and the further the network has moved the less it holds.

Source: Peste, Alistarh, Lampert 2021 (arXiv 2107.03860), the update and the stored Fisher. The numerator with weight decay
is derived; damping relative to the mean diagonal, the trust region and the choice of epsilon are ours: the paper's values
could not be verified. `retained` is the Fisher of what stays, from the same sums: closer where part of a class goes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from sparsify_cli.contracts.unlearner import Erasure, Memo, Request, Unlearner
from sparsify_cli.errors import Anomalous, BadRequest, MissingContext
from sparsify_cli.maths.fisher_forms import EIGENVECTORS, SPECTRAL, BlockForm, Form, KroneckerForm, LowRankForm, Rows, factor_sizes, form_of
from sparsify_cli.maths.memory import machine_memory
from sparsify_cli.maths.per_sample_gradients import Coordinates, per_sample_gradients
from sparsify_cli.maths.step_search import HALVINGS, guided_step, longest_step
from sparsify_cli.training.forgetting import Judge, draw
from sparsify_cli.training.newton_step import Attempt, Line, Newton
from sparsify_cli.training.prepared import N, checked, stamped
from sparsify_cli.values.mask_set import MaskSet
from sparsify_cli.values.report import Finding
from sparsify_cli.values.samples import Samples

Kind = Literal["block", "dense", "low-rank", "kronecker"]
DRAWN, ENOUGH = 1024, 4096
"""Gradients that the low-rank form keeps, and that others are averaged over, unless told otherwise."""
DEAR = 2.0
"""Times its loss before: a step that leaves what stays a larger one is worth looking for a kinder one."""
TWICE = 2.0
"""Times what unseen samples cost, or the samples themselves did: further a step that no target ends does not go."""
NO_GAP = (
    "The model does not tell these samples from unseen ones; epsilon is where what stays is expected to cost least along the step, but not "
    f"where these samples cost more than {TWICE:g} times what they did, or unseen ones do."
)
HARM = "The target was not reached within a fall of {:g} of validation accuracy; this is the most forgetful step within it."
FAR = "The trust region ({:g} of the parameters' norm) ended before the target was reached."
STEP = "Before and after are those of this step alone: in a nest, before it sparser levels have changed the network already."
MOVED = "Euclidean length of the change of the parameters."
SOURCE = "Peste, Alistarh, Lampert 2021 (arXiv 2107.03860)"


@dataclass(frozen=True, kw_only=True)
class Ssse(Unlearner):
    """Single-step sample erasure.

    Args:
        fisher: `block` keeps diagonal blocks, `dense` the whole matrix (small models), `low-rank` the gradients themselves, `kronecker`
            two factors a weight matrix (large layers).
        block: parameters in a block.
        samples: training samples the Fisher is averaged over, drawn at random; 0 = up to 4,096, of low-rank 1,024, with `retained` all.
        layers: globs of the parameters that move, separated by commas, such as fc.*; empty = all.
        retained: take the samples to forget out of the Fisher; `block` and `dense` over all samples only.
        damping: lambda relative to the mean diagonal of the empirical Fisher, > 0.
        epsilon: step length; None = chosen by the rule above.
        weight_decay: mu of the regulariser mu/2 |theta|^2 the model was trained with, 0 = none; left out = as recorded in its artifact or
            an ancestor's, 0 where nothing is.
        trust: longest step, relative to the norm of the parameters that may move.
        tolerance: fall of validation accuracy on the classes that stay that may be paid, fraction.
        forgotten: accuracy on a wholly forgotten class that counts as forgotten, fraction.
        probe: most samples of each kind looked at while epsilon is chosen, drawn at random; 0 = 200 to 2,000 by the network's size
            and that of the training set, where whole classes go a third of that, but for validation samples.
        seed: for every random draw.
    """

    as_trained: ClassVar[tuple[str, ...]] = ("weight_decay",)
    fisher: Kind = "block"
    block: int = 512
    samples: int = 0
    layers: str = ""
    retained: bool = False
    damping: float = 0.1
    epsilon: float | None = None
    weight_decay: float = 0.0
    trust: float = 0.5
    tolerance: float = 0.02
    forgotten: float = 0.02
    probe: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse options without a meaning."""
        kinds = "block, dense, low-rank or kronecker"
        _require(self.fisher in ("block", "dense", "low-rank", "kronecker"), f"fisher={self.fisher!r}", f"It is {kinds}.")
        _require(self.block >= 1, f"block={self.block}", "A block holds at least one parameter.")
        _require(self.samples >= 0 and self.probe >= 0, f"samples={self.samples}, probe={self.probe}", "They count samples.")
        _require(self.damping > 0, f"damping={self.damping}", "Without damping the Fisher has no inverse.")
        _require(self.epsilon is None or self.epsilon >= 0, f"epsilon={self.epsilon}", "A negative step learns instead of forgetting.")
        _require(self.trust > 0 and self.weight_decay >= 0, f"trust={self.trust}, weight_decay={self.weight_decay}", "They are lengths.")
        _require(0 <= self.tolerance <= 1 and 0 <= self.forgotten <= 1, f"tolerance={self.tolerance}", "Fractions lie in [0, 1].")
        sums = self.fisher in ("block", "dense") and not self.samples
        _require(sums or not self.retained, "retained=true", "Samples can be taken out of blocks over all samples only.")

    @property
    def idle(self) -> bool:
        """Whether a step of length 0 was asked for."""
        return self.epsilon == 0

    def effort(self, model: nn.Module, train: Samples, masks: MaskSet) -> str:
        """Samples, parameters, memory and the precision of the sums."""
        coordinates = self._coordinates(model, masks)
        used, needed = self._used(len(train)), self._needed(coordinates, len(train))
        form = f"{coordinates.count:,} parameters in blocks of {self._size(coordinates):,}"
        if self.fisher in ("low-rank", "kronecker"):
            form = f"{coordinates.count:,} parameters, {self.fisher}"
        sums = str(self._precision(coordinates)).removeprefix("torch.") if self.fisher in ("block", "dense") else "float64"
        return f"averaging the Fisher over {used:,} samples: {form}, {needed / 1e9:,.2f} GB, sums in {sums}"

    def prepare(self, model: nn.Module, train: Samples, masks: MaskSet) -> Memo:
        """Gather the Fisher from per-sample gradients over the training set.

        Raises:
            BadRequest: the Fisher does not fit in memory, or there are no samples.
            Anomalous: gradients are not finite, or zero everywhere.
        """
        coordinates = self._coordinates(model, masks)
        self._require_memory(coordinates, len(train))
        used = draw(train, self._used(len(train)), self.seed)
        _require(len(used) > 0, "0 training samples", "The Fisher is an average over samples.")
        rows = per_sample_gradients(model, used.inputs, used.targets, coordinates)
        form = self._gathered(rows, coordinates, model.get_parameter(next(iter(coordinates.shapes))))
        memo = {
            **form.tensors(),
            "coordinates": torch.tensor(coordinates.count),
            "samples": torch.tensor(len(used)),
            "damping": torch.tensor(self.damping * _finite(form.scale, len(used)), dtype=torch.float64),
        }
        return stamped(memo, model, masks, len(train), how=self._how)

    def erase(self, model: nn.Module, request: Request, memo: Memo | None) -> Erasure:
        """One step away from the samples to forget.

        Raises:
            BadRequest: no memo, a memo of another model, masks, form or training set, or nothing is retained.
            MissingContext: epsilon is to be chosen and there are no validation samples.
            Anomalous: the step is not finite.
        """
        coordinates = self._coordinates(model, request.masks)
        known = checked(memo, {"coordinates", "samples"}, model, request, "Fisher", how=self._how, mapped=(EIGENVECTORS,))
        form = self._form(known, coordinates)
        _require(not self.retained or int(known["samples"]) == int(known[N]), "retained=true", "What was prepared is stale, or a sample.")
        if not len(request.forget):
            return Erasure({}, (_finding("step_norm", 0.0, definition=MOVED, note="Nothing was to be forgotten; nothing changed."),))
        newton = Newton.of(model, coordinates, request, form, retained=self.retained, weight_decay=self.weight_decay)
        judge = Judge.of(model, coordinates, request, forgotten=self.forgotten, tolerance=self.tolerance, most=self.probe, seed=self.seed)
        attempt = self._chosen(judge, newton) if self.epsilon is None else self._fixed(judge, newton, self.epsilon)
        moved = coordinates.moved(judge.parameters, attempt.step)
        kept = {name: torch.where(new == judge.parameters[name], judge.parameters[name], new) for name, new in moved.items()}  # -0.0, too
        return Erasure(kept, _findings(judge, newton, attempt, self.trust))

    @property
    def _how(self) -> str:
        """Options that the Fisher hangs on."""
        block = f", block={self.block}" if self.fisher == "block" else ""
        return f"fisher={self.fisher}{block}, layers={self.layers or 'all'}"

    def _coordinates(self, model: nn.Module, masks: MaskSet) -> Coordinates:
        return Coordinates.of(model, masks, only=[glob.strip() for glob in self.layers.split(",") if glob.strip()])

    def _used(self, n: int) -> int:
        usual = DRAWN if self.fisher == "low-rank" else n if self.retained else ENOUGH
        return min(self.samples or usual, n)

    def _size(self, coordinates: Coordinates) -> int:
        return min(coordinates.count if self.fisher == "dense" else self.block, coordinates.count)

    def _gathered(self, rows: Rows, coordinates: Coordinates, like: Tensor) -> Form:
        if self.fisher == "low-rank":
            return LowRankForm.gathered(rows)
        if self.fisher == "kronecker":
            return KroneckerForm.gathered(rows, coordinates)
        blocks = BlockForm.gathered(rows, coordinates.count, self._size(coordinates), like, self._precision(coordinates))
        return blocks.spectral() if self._size(coordinates) <= SPECTRAL else blocks

    def _form(self, memo: Memo, coordinates: Coordinates) -> Form:
        """The kept Fisher.

        Raises:
            BadRequest: it was kept in another form, or of other parameters.
        """
        form = form_of(self.fisher, memo, coordinates)
        if form is None or int(memo["coordinates"]) != coordinates.count:
            what = f"The memo holds no {self.fisher} Fisher of these {coordinates.count:,} parameters."
            raise BadRequest(what, "It was prepared with another `fisher` or other `layers`.", "Give the same options, or prepare again.")
        return form

    def _line(self, judge: Judge, newton: Newton, damping: float) -> Line:
        """The direction at a damping relative to the mean diagonal."""
        return Line.of(judge, newton, damping, trust=self.trust, weight_decay=self.weight_decay)

    def _fixed(self, judge: Judge, newton: Newton, asked: float) -> Attempt:
        """The step a person asked for, cut to the trust region."""
        line = self._line(judge, newton, self.damping)
        epsilon = min(asked, line.limit)
        return Attempt(line, epsilon, line.read(epsilon), cut=asked > line.limit)

    def _chosen(self, judge: Judge, newton: Newton) -> Attempt:
        """The first damping that reaches the target, or the most forgetful step of all."""
        if not len(judge.validation):
            raise MissingContext(
                "There are no validation samples of the classes that stay.",
                "Epsilon is chosen on them.",
                "Give epsilon, or data with a validation split.",
            )
        if bool(judge.gone.any()) and not judge.before.reached and (best := self._kindest(judge, newton)) is not None:
            return best
        attempts = []
        for factor in (1.0, 0.1, 10.0, *((100.0,) if bool(judge.gone.any()) else ())):
            attempts.append(self._searched(self._line(judge, newton, factor * self.damping)))
            if judge.before.reached:
                return attempts[-1]
            if not attempts[-1].note:
                return self._kinder(attempts[-1], factor)
        return max(attempts, key=lambda a: (-a.reading.gone_accuracy, a.reading.forget_loss))

    def _kindest(self, judge: Judge, newton: Newton) -> Attempt | None:
        """Of the steps that make a class go, at growing damping, the one that leaves what stays the lowest loss; None where none does.

        Where going on from it pays, the next larger damping may pay more.
        """
        found: list[Attempt] = []
        for factor in (1.0, 10.0, 100.0):
            attempt = self._shortest(self._line(judge, newton, factor * self.damping))
            if not attempt.note:
                found.append(attempt)
            if len(found) > 1 and found[-1].objective >= found[-2].objective:
                break
        if not found:
            return None
        best = min(found, key=lambda one: one.objective)
        longer, more = self._further(best), found[found.index(best) + 1 :]
        return longer if longer is best or not more else min(longer, self._further(more[0]), key=lambda one: one.objective)

    def _kinder(self, found: Attempt, factor: float) -> Attempt:
        """The step itself, or where it costs what stays dearly one at smaller damping, as long as that leaves it a lower loss."""
        if found.retained <= DEAR * found.line.judge.stays:
            return found
        for smaller in (0.1, 0.01):
            try:
                attempt = self._searched(self._line(found.line.judge, found.line.newton, smaller * factor * self.damping))
            except Anomalous:  # by rounding not positive definite any more
                break
            if attempt.note or attempt.objective >= found.objective:
                break
            found = attempt
        return found

    def _searched(self, line: Line) -> Attempt:
        """The step along a line, or the most forgetful one with a note."""
        if line.judge.before.reached:
            found = longest_step(line.read, line.judge.before, self._bounded(line, line.lowest()))
            return Attempt(line, found.length, found.trial, NO_GAP)
        return self._further(self._shortest(line))

    def _bounded(self, line: Line, length: float) -> float:
        """The longest of length, length/2, ... at which the samples do not cost too much, or the shortest of eleven."""
        most = TWICE * max(line.judge.unseen, line.judge.before.forget_loss)
        for _ in range(HALVINGS):
            if line.read(length).forget_loss <= most:
                break
            length /= 2
        return length

    def _shortest(self, line: Line) -> Attempt:
        """The shortest step that reaches the target."""
        found = guided_step(line.read, line.judge.before, line.limit, line.newton.guess(line.unit, line.judge))
        note = {"reached": "", "harm": HARM.format(self.tolerance), "limit": FAR.format(self.trust)}[found.ending]
        return Attempt(line, found.length, found.trial, note)

    def _further(self, short: Attempt) -> Attempt:
        """On to where what stays is expected to lose least, if the target holds there and that loss, measured, fell."""
        if short.note:
            return short
        line, least = short.line, short.epsilon
        further = line.lowest(least)
        longer = longest_step(line.read, short.reading, further) if further > least else None
        if longer is None or longer.length <= least or not longer.trial.reached:
            return short
        return Attempt(line, longer.length, longer.trial) if line.objective(longer.length) < line.objective(least) else short

    def _needed(self, coordinates: Coordinates, n: int, dtype: torch.dtype | None = None) -> int:
        """Bytes at the peak: sums, in float64 with a float32 copy (`retained`: what is kept and stays of it), one block solved."""
        count, size = coordinates.count, self._size(coordinates)
        if self.fisher == "low-rank":
            return 8 * self._used(n) * count  # the rows, and once more while they are put together
        if self.fisher == "kronecker":
            return 24 * sum(width**2 for width in factor_sizes(coordinates))
        wide = self.retained or (dtype or self._precision(coordinates)) == torch.float64
        return (-(-count // size) * (12 if wide else 4) + 16) * size**2

    def _precision(self, coordinates: Coordinates) -> torch.dtype:
        """Sums in float64, or in float32 where only that fits in memory."""
        return torch.float64 if self._needed(coordinates, 0, torch.float64) <= 0.8 * machine_memory() else torch.float32

    def _require_memory(self, coordinates: Coordinates, n: int) -> None:
        needed, there = self._needed(coordinates, n, torch.float32), machine_memory()
        if needed > 0.8 * there:
            what = f"The {self.fisher} Fisher of {coordinates.count:,} parameters needs {needed / 1e9:,.1f} GB; there are"
            smaller = "Use fewer samples." if self.fisher == "low-rank" else "Use fisher=block with a smaller block, or name layers."
            raise BadRequest(f"{what} {there / 1e9:,.1f} GB.", "It is kept in memory while it is made.", smaller)


def _findings(judge: Judge, newton: Newton, attempt: Attempt, trust: float) -> tuple[Finding, ...]:
    before, after, norm = judge.before, attempt.reading, float(attempt.step.norm())
    theta, forgets, valids = float(newton.theta.norm()), len(judge.forget), len(judge.validation)
    one = "Length of the step; 1 is the Newton step of a well-specified model."
    cut = f"1 when the step was cut to {trust:g} of the parameters' norm, else 0."
    stays = f"On the classes that stay, over the probed validation samples. {STEP}"
    return (
        _finding("epsilon", attempt.epsilon, definition=one, note=attempt.note),
        _finding("damping", attempt.line.damping, definition="lambda added to the diagonal of the empirical Fisher, absolute."),
        _finding("step_norm", norm, definition=MOVED),
        _finding("relative_step_norm", norm / theta, "fraction", definition="step_norm over the norm of the parameters that may move."),
        _finding(
            "clipped", float(attempt.clipped), definition=cut, note=f"cut to {trust:g} of the parameters' norm." if attempt.clipped else ""
        ),
        _finding("forget_loss_before", before.forget_loss, "nats", forgets),
        _finding("forget_loss_after", after.forget_loss, "nats", forgets),
        _finding("forget_accuracy_before", before.forget_accuracy, "fraction", forgets),
        _finding("forget_accuracy_after", after.forget_accuracy, "fraction", forgets),
        _finding("validation_accuracy_before", before.validation_accuracy, "fraction", valids, definition=stays),
        _finding("validation_accuracy_after", after.validation_accuracy, "fraction", valids, definition=stays),
    )


def _finding(name: str, value: float, unit: str = "", n: int = 0, *, definition: str = "", note: str = "") -> Finding:
    words = definition or f"Mean over the probed samples to forget, batch norm in evaluation mode. {STEP}"
    return Finding(name=name, value=value, unit=unit, n=n, definition=words, source=SOURCE, note=note)


def _require(holds: bool, what: str, why: str) -> None:
    if not holds:
        raise BadRequest(f"ssse cannot work with {what}.", why, "See the options of ssse.")


def _finite(scale: float, n: int) -> float:
    if not (0 < scale < float("inf")):
        raise Anomalous(f"The mean squared gradient over {n} samples is {scale}.", "Such a Fisher says nothing.", "Check model and data.")
    return scale
