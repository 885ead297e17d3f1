"""`recalibrate`: temperature or thresholds, found on validation data and folded into the last layer.

    temperature T       W / T,  b / T
    threshold t_k       b_k - t_k

The result is a network like any other, so `validate`, `export` and every later verb use it as it is; zeros of a pruned last layer stay.

Source: see `maths/recalibration.py`; folding into the last layer is ours.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sparsify_cli.contracts.listener import Listener
from sparsify_cli.errors import BadRequest, Infeasible, MissingContext
from sparsify_cli.maths.recalibration import temperature, threshold
from sparsify_cli.recipes.recalibrate import RecalibrateRecipe
from sparsify_cli.stages.calibrate import names_in
from sparsify_cli.stages.classifier import head_of
from sparsify_cli.stages.evidence import compared
from sparsify_cli.stages.measure import predict, require_choices
from sparsify_cli.stages.outcome import Outcome
from sparsify_cli.stages.sizes import compared_sizes
from sparsify_cli.stages.subject import Subject, open_subject
from sparsify_cli.stages.tables import before_after, said
from sparsify_cli.stages.write import Product, output_folder, write_product
from sparsify_cli.values.artifact import claimed
from sparsify_cli.values.predictions import Predictions
from sparsify_cli.values.report import Finding, Report

NEWEST = ("finetune", "prune", "shrink", "extract", "unlearn", "train")
SHOWN = ("accuracy", "ece", "nll", "brier", "uncertainty", "threshold_bias", "f1")
LEAST = 50
"""Validation samples below which nothing is moved."""
NEAR = 0.005
"""Temperatures this near to 1 say nothing."""


@dataclass(frozen=True, eq=False)
class Move:
    """What is done to the logits: o / temperature - offsets.

    Args:
        temperature: T > 0.
        offsets: one an output, or nothing.
        kept: names of answers that keep their threshold.
    """

    temperature: float = 1.0
    offsets: tuple[float, ...] = ()
    kept: tuple[str, ...] = ()

    def notes(self) -> Iterator[str]:
        """What a person should know."""
        if not self.offsets:
            was = (
                "as sure as it should be" if abs(self.temperature - 1) < NEAR else "too sure" if self.temperature > 1 else "not sure enough"
            )
            yield f"temperature {self.temperature:.4g}: the network was {was}."
        if self.kept:
            some = ", ".join(self.kept[:5])
            yield f"{len(self.kept)} answers keep their threshold: validation data has one value of them, or the network one logit: {some}."

    def findings(self, n: int) -> Iterator[Finding]:
        """T, or how far thresholds moved on average."""
        if self.offsets:
            text, far = "Mean distance by which thresholds of logits moved.", sum(map(abs, self.offsets)) / len(self.offsets)
            yield Finding(name="threshold_shift", value=far, n=n, definition=text)
        else:
            yield Finding(name="temperature", value=self.temperature, n=n, definition="What logits were divided by.")


def recalibrate(recipe: RecalibrateRecipe, listener: Listener) -> Outcome:
    """Find the move on validation samples, fold it in, measure before and after on test samples."""
    before = open_subject(recipe, verbs=NEWEST, listener=listener).single().checked()
    require_choices(before.samples("train"), "recalibrate")
    before.checkpoint.require_finite()
    seen = predict(before.module(), before.samples("validation"))
    move = _move(recipe, seen)
    after = moved(before, move)
    _require_moved(move, seen, predict(after.module(), before.samples("validation")))
    folder, held = output_folder(recipe, before.name)
    with claimed(folder, held=held):
        report = Report(
            (*compared(before, after, names=()), *compared_sizes(before, after), *move.findings(len(seen))), {"samples": len(seen)}
        )
        report = write_product(folder, Product(recipe, after, report, before, after.checkpoint, after.masks))
    name = shlex.quote(str(folder))
    return Outcome(
        "recalibrate",
        _headline(recipe, before, report, len(seen)),
        report,
        folder,
        tables=(before_after("on test samples", report, SHOWN),),
        notes=tuple(move.notes()),
        hints=(f"sparsify validate {name}", f"sparsify export {name} --to onnx"),
    )


def moved(before: Subject, move: Move) -> Subject:
    """The network with a move folded into its last layer.

    Raises:
        BadRequest: there is no linear last layer, or it has no bias that thresholds could move.
    """
    module = before.module()
    head = _head(module, before.samples("validation").inputs[:2])
    theirs = {new: name for name, new in names_in(module, before).items()}
    weight, bias = (theirs.get(f"{head}.{leaf}".lstrip("."), "") for leaf in ("weight", "bias"))
    if move.offsets and not bias:
        raise BadRequest(f"The last layer {head} has no bias.", "Thresholds are folded into it.", "Take --method temperature.")
    old = before.checkpoint.tensors
    changed = {name: _scaled(old[name], move.temperature) for name in (weight, bias) if name}
    if move.offsets:
        changed[bias] = (changed[bias].double() - torch.tensor(move.offsets, dtype=torch.float64)).to(old[bias].dtype)
    return before.changed(before.checkpoint.with_tensors({**old, **changed}), before.masks)


def _head(module: nn.Module, inputs: Tensor) -> str:
    """The last layer.

    Raises:
        BadRequest: it is not linear, or its weights are another layer's too.
    """
    try:
        return head_of(module, inputs, whole=True)
    except BadRequest as error:
        raise BadRequest(error.what, error.why, "Only a linear last layer of its own can be recalibrated.") from error


def _require_moved(move: Move, before: Predictions, after: Predictions) -> None:
    """Make sure that the network now answers as was meant: its last layer may do more than multiply and add.

    Raises:
        BadRequest: it does not.
    """
    offsets = torch.tensor(move.offsets or (0.0,) * before.logits.shape[1])
    wanted = before.logits / move.temperature - offsets
    if not torch.allclose(after.logits, wanted, rtol=1e-2, atol=1e-2 * float(wanted.abs().max())):
        what = "What the network puts out does not follow its last layer's weight and bias."
        raise BadRequest(what, "Something is computed after them.", "Only a linear last layer can be recalibrated.")


def _scaled(tensor: Tensor, by: float) -> Tensor:
    return tensor if by == 1 else (tensor.double() / by).to(tensor.dtype)


def _move(recipe: RecalibrateRecipe, seen: Predictions) -> Move:
    """What to do, from validation answers.

    Raises:
        MissingContext: too few of them.
        BadRequest: thresholds of answers that are not yes or no.
        Infeasible: no answer can be moved.
    """
    if len(seen) < LEAST:
        what = f"There are {len(seen)} validation samples."
        raise MissingContext(what, f"At least {LEAST} are needed.", "Give data with a larger validation split.")
    if recipe.method == "thresholds":
        return _thresholds(seen)
    if not seen.has_attributes and len(seen.targets.unique()) == 1:
        what = f"All {len(seen):,} validation samples are of one class."
        raise Infeasible(what, "Then the likeliest temperature is that which is surest of it.", "Give validation data of every class.")
    found = temperature(seen.logits, seen.targets)
    if found is None:
        why = "Every validation answer is right, or they are worse than a guess: then no temperature is the likeliest."
        raise Infeasible("Validation data sets no temperature.", why, "Give more validation data, on which the network makes mistakes.")
    return Move(found)


def _thresholds(seen: Predictions) -> Move:
    if not seen.has_attributes and seen.logits.shape[1] != 2:
        what = f"The network chooses among {seen.logits.shape[1]} classes."
        raise BadRequest(what, "Thresholds are of yes-or-no answers.", "Take --method temperature.")
    asked = [(name, seen.logits[:, i], seen.targets[:, i]) for i, name in enumerate(seen.attributes)]
    asked = asked or [("yes", seen.logits[:, 1] - seen.logits[:, 0], seen.targets)]
    found = [threshold(logits, targets) for _, logits, targets in asked]
    if all(value is None for value in found):
        why = "Validation data has one value of every answer, or the network one logit for it."
        raise Infeasible("No threshold can be moved.", why, "Give other data.")
    offsets = tuple(value or 0.0 for value in found)
    kept = tuple(name for (name, *_), value in zip(asked, found, strict=True) if value is None)
    return Move(offsets=offsets if seen.has_attributes else (0.0, *offsets), kept=kept)


def _headline(recipe: RecalibrateRecipe, before: Subject, report: Report, n: int) -> str:
    name = "ece" if recipe.method == "temperature" else "threshold_bias"
    old, new = (report.get(name, of=of) for of in ("dense", "compressed"))
    word = {"ece": "calibration error", "threshold_bias": "predicted over true share of the rarer answer"}[name]
    told = f"{word} {said(old)} -> {said(new)} on test samples" if old and new and new.value is not None else "see the table"
    return f"Recalibrated {before.path} on {n:,} validation samples by {recipe.method}: {told}."
