"""Batch norm after pruning: statistics as they were, moved with the inputs, or measured anew; what costs least on held-out data stays.

Each of the three can be best. Where little was pruned the saved statistics are; measuring anew on few images that are not
augmented as in training costs points there, and wins many where much was pruned; moving by the difference to the dense
network lies in between and needs the fewest samples.

After training, statistics are running averages of the last few batches; measured anew they are those of many, prepared as in training.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from sparsify_cli.errors import BadData
from sparsify_cli.maths.holdout import hold_out, shuffled
from sparsify_cli.recipes.verbs import PruneRecipe
from sparsify_cli.stages.calibrate import BATCH, calibration_inputs, names_in
from sparsify_cli.stages.subject import Subject
from sparsify_cli.training.augmented import augmented
from sparsify_cli.training.batchnorm import follow, has_batchnorm, mean_loss, norms, recalibrate
from sparsify_cli.training.loop import Prepare
from sparsify_cli.training.twins import Twins
from sparsify_cli.values.report import Finding
from sparsify_cli.values.samples import Kind


def held_out(kind: Kind, data: str = "held-out training") -> tuple[str, str]:
    """What judges, and its unit."""
    return (f"mean squared error on {data} data", "") if kind == "numbers" else (f"mean cross-entropy on {data} data", "nats")


ENOUGH = 8192
"""Training samples from which statistics are measured anew; more change them little."""

SAVED, MOVED, ANEW = "as saved", "moved with the inputs", "measured anew"


@dataclass(frozen=True)
class NormChoice:
    """Which statistics stay.

    Args:
        losses: mean loss on data that none of them saw, with each of them.
        kind: of what is predicted.
        data: on which.
    """

    losses: Mapping[str, float] = field(default_factory=dict)
    kind: Kind = "classes"
    data: str = "held-out training"

    @property
    def chosen(self) -> str:
        """The ones that stay: the least loss; where equal, those that changed least."""
        return min(self.losses, key=lambda name: (not self.losses[name] < float("inf"), self.losses[name]))

    def note(self) -> str:
        """One sentence."""
        listed = ", ".join(f"{name} {loss:.4g}" for name, loss in self.losses.items())
        what, unit = held_out(self.kind, self.data)
        return f"batch-norm statistics: {what} {f'{listed} {unit}'.strip()}; kept {self.chosen}."

    def findings(self) -> list[Finding]:
        """Each loss as a number."""
        what, unit = held_out(self.kind, self.data)
        text = f"Batch-norm statistics: {what}; those {self.chosen} are kept."
        words = {SAVED: "before", MOVED: "moved", ANEW: "after"}
        return [
            Finding(name=f"batchnorm_loss_{words[name]}", value=loss, unit=unit, better="lower", definition=text)
            for name, loss in self.losses.items()
        ]


def with_best_norms(recipe: PruneRecipe, before: Subject, after: Subject, *, followed: bool) -> tuple[Subject, NormChoice | None]:
    """The pruned subject with the statistics that cost least; None where there is nothing to choose.

    Args:
        recipe: says which samples are for calibration.
        before: the dense network.
        after: the pruned one.
        followed: its statistics were moved with the inputs already.
    """
    if not (recipe.batchnorm and after.has_context):
        return after, None
    module = after.module()
    if not has_batchnorm(module):
        return after, None
    train = after.samples("train")
    stay, held = hold_out(len(train))
    found = _candidates(recipe, module, before.module(), train.take(stay[:ENOUGH]).inputs, before, followed)
    losses = {}
    for name, buffers in found.items():
        _put(module, buffers)
        losses[name] = mean_loss(module, train.take(held))
    choice = NormChoice(losses, train.kind)
    _put(module, found[choice.chosen])
    return _with_buffers(after, module), choice


def with_exact_norms(after: Subject, prepare: Prepare | None, *, seed: int) -> tuple[Subject, NormChoice | None]:
    """A trained subject with its statistics measured anew, where that lowers validation loss; None where there is nothing to choose.

    Args:
        after: the trained network.
        prepare: what was done to every batch; None = nothing.
        seed: of the samples and of what is drawn for them.
    """
    module, train = after.module(), after.samples("train")
    if not has_batchnorm(module) or len(train) < 2:
        return after, None
    seen = train.take(shuffled(len(train), seed=seed)[:ENOUGH])
    judge = after.samples("validation")
    found = {SAVED: _statistics(module)}
    losses = {SAVED: mean_loss(module, judge)}
    with suppress(BadData):  # what cannot be measured is no candidate
        recalibrate(module, (prepare(seen, seed) if prepare else seen).inputs, batch=2 * BATCH)
        found[ANEW] = _statistics(module)
        losses[ANEW] = mean_loss(module, judge)
    choice = NormChoice(losses, train.kind, "validation")
    _put(module, found[choice.chosen])
    return _with_buffers(after, module), choice


def _candidates(
    recipe: PruneRecipe, module: nn.Module, dense: nn.Module, inputs: Tensor, before: Subject, followed: bool
) -> dict[str, dict[str, Tensor]]:
    moved = _statistics(module)
    saved = _statistics(dense)
    if not followed:
        _put(module, saved)
        move(module, dense, calibration_inputs(recipe, before))
        moved = _statistics(module)
    found = {SAVED: saved, MOVED: moved}
    if len(inputs) > 1:
        with suppress(BadData):  # what cannot be measured is no candidate
            recalibrate(module, augmented(inputs, copies=1, seed=recipe.seed) if recipe.augment else inputs, batch=2 * BATCH)
            found[ANEW] = _statistics(module)
    return found


def move(module: nn.Module, dense: nn.Module, inputs: Tensor) -> None:
    """Move the running statistics of a network by as much as its layers' inputs moved away from the dense network's."""
    with closing(Twins.of(module, dense, inputs, {}, follows=True, batch=BATCH).visits()) as visits:
        for now, then in visits:
            follow(now.layer, now.inputs, then.inputs)


def _statistics(module: nn.Module) -> dict[str, Tensor]:
    """Copies of the buffers of batch norms, by their names in the network."""
    layers = norms(module)
    return {f"{path}.{name}".lstrip("."): buffer.clone() for path, layer in layers.items() for name, buffer in layer.named_buffers()}


@torch.no_grad()
def _put(module: nn.Module, buffers: Mapping[str, Tensor]) -> None:
    there = dict(module.named_buffers())
    for name, buffer in buffers.items():
        there[name].copy_(buffer)


def _with_buffers(subject: Subject, module: nn.Module) -> Subject:
    """The subject with the module's running statistics, in the checkpoint's own number types."""
    buffers, ours = dict(module.named_buffers()), names_in(module, subject)
    tensors = {
        name: buffers[ours[name]].to(tensor.dtype) if ours[name] in buffers else tensor
        for name, tensor in subject.checkpoint.tensors.items()
    }
    return replace(subject, checkpoint=subject.checkpoint.with_tensors(tensors))
