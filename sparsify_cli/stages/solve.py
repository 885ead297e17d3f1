"""Solve: prune and repair layer by layer with a solver, each layer as many weights as the masks chosen before say.

Layers are taken in the order in which the network runs them. A sequential solver sees inputs from layers that are already
solved (one calibration pass a layer), with batch norm measured anew before each where the recipe measures it anew at the
end: repairs are fitted to the inputs that the layer will have. Others see the network as it was (one pass for all).
Tensors that no solver can take - no linear layer or convolution, or never run - keep the masks chosen before, without repair.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor, nn

from sparsify_cli.contracts.listener import Listener, Progress
from sparsify_cli.contracts.solver import Keep, Solver
from sparsify_cli.maths.gram import output_change
from sparsify_cli.maths.matrix_view import from_matrix, to_matrix
from sparsify_cli.recipes.pattern import Pattern
from sparsify_cli.recipes.verbs import PruneRecipe
from sparsify_cli.stages.calibrate import calibrate, calibration_inputs, execution_order, names_in
from sparsify_cli.stages.strategy import strategy
from sparsify_cli.stages.subject import Subject
from sparsify_cli.training.batchnorm import has_batchnorm, recalibrate
from sparsify_cli.values.mask_set import MaskSet

BATCH = 64
"""Samples of one forward pass of calibration."""


@dataclass(frozen=True, eq=False)
class Solved:
    """What pruning leaves of the tensors, and how it was reached.

    Args:
        tensors: every tensor of the checkpoint, zero where pruned.
        masks: which weights stay.
        notes: what a person should know, one sentence each.
        facts: solver, its options, calibration samples, relative change of each layer's outputs; plain JSON values.
    """

    tensors: Mapping[str, Tensor]
    masks: MaskSet
    notes: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)


def solver_of(recipe: PruneRecipe) -> Solver | None:
    """The recipe's solver, or None.

    Raises:
        UnknownName, BadRequest: there is none of that name or with those options, or it cannot hold the pattern.
    """
    if recipe.solver is None:
        return None
    solver: Solver = strategy("solvers", recipe.solver)
    solver.check(recipe.pattern)
    return solver


def solved(recipe: PruneRecipe, before: Subject, masks: MaskSet, listener: Listener) -> Solved:
    """Zeros where the masks say; with a solver, where it says (as many in each layer), and the other weights repaired."""
    solver = solver_of(recipe)
    if solver is None:
        return Solved(masks.apply(before.checkpoint.tensors), masks)
    inputs, module = calibration_inputs(recipe, before), before.module()
    ours = names_in(module, before)
    theirs = {new: name for name, new in ours.items()}
    batchnorm = recipe.batchnorm and has_batchnorm(module)
    task = _Task(solver, module, inputs, recipe.pattern, {ours[name]: mask for name, mask in before.masks.items()}, batchnorm)
    done = {theirs[new]: layer for new, layer in task.run({ours[name]: mask for name, mask in masks.items()}, listener).items()}
    facts = {
        "solver": {"name": recipe.solver.name if recipe.solver else "", **_options(solver)},
        "calibration_samples": len(inputs),
        "output_change": {name: layer.change for name, layer in done.items()},
    }
    return _with(done, before.checkpoint.tensors, masks, facts)


def _with(done: Mapping[str, _Layer], old: Mapping[str, Tensor], masks: MaskSet, facts: Mapping[str, Any]) -> Solved:
    """The tensors with solved layers in their places; the others are masked as they are."""
    final = MaskSet({**masks, **{name: layer.mask for name, layer in done.items()}})
    tensors = final.apply({**old, **{name: layer.weight.to(old[name].dtype) for name, layer in done.items()}})
    rest = [name for name in masks if name not in done and not bool(masks[name].all())]
    return Solved(tensors, final, _notes(facts["solver"]["name"], facts["calibration_samples"], done, rest), facts)


def _options(solver: Solver) -> dict[str, Any]:
    """A solver's options, defaults included, as plain JSON values."""
    return {one.name: getattr(solver, one.name) for one in fields(solver)}  # type: ignore[arg-type]


@dataclass(frozen=True, eq=False)
class _Layer:
    """A solved layer: its tensor, its mask, and the mean squared change of its outputs relative to their mean square."""

    weight: Tensor
    mask: Tensor
    change: float


@dataclass(frozen=True, eq=False)
class _Task:
    """A network that is solved layer by layer, in place."""

    solver: Solver
    module: nn.Module
    inputs: Tensor
    pattern: Pattern
    pruned: Mapping[str, Tensor]
    batchnorm: bool

    def run(self, masks: Mapping[str, Tensor], listener: Listener) -> dict[str, _Layer]:
        """The layers a solver can take, of those that lose weights."""
        targets = {name: mask for name, mask in masks.items() if not bool(mask.all())}
        order = execution_order(self.module, self.inputs, targets)
        tensors, done = self.module.state_dict(), {}
        total, zeros = sum(mask.numel() for mask in masks.values()), 0
        for name in set(targets) - set(order):
            tensors[name].masked_fill_(~targets[name], 0)
            zeros += int((~targets[name]).sum())
        for i, (name, gram) in enumerate(self._grams(order), start=1):
            done[name] = self._layer(tensors[name], gram, targets[name], self.pruned.get(name))
            tensors[name].copy_(done[name].weight)
            zeros += int((~done[name].mask).sum())
            listener.progress(Progress(f"solving {name}", i, len(order), sparsity=zeros / total))
        listener.done()
        return done

    def _grams(self, order: Sequence[str]) -> Iterator[tuple[str, Tensor]]:
        if not self.solver.sequential:
            grams = calibrate(self.module, self.inputs, order).gram
            yield from ((name, grams[name]) for name in order)
            return
        for i, name in enumerate(order):
            if i and self.batchnorm and len(self.inputs) > 1:
                recalibrate(self.module, self.inputs, batch=BATCH)
            yield name, calibrate(self.module, self.inputs, [name], batch=BATCH).gram[name]

    def _layer(self, weight: Tensor, gram: Tensor, target: Tensor, within: Tensor | None) -> _Layer:
        """One layer; each group of a grouped convolution on its own, with as many weights as its rows have in the target."""
        grams = gram.reshape(-1, *gram.shape[-2:])
        old, wanted, may = (to_matrix(t).chunk(len(grams)) for t in (weight, target, target | True if within is None else within))
        keeps = [Keep(int(part.sum()), self.pattern, some) for part, some in zip(wanted, may, strict=True)]
        parts = [self.solver.solve(*each) for each in zip(old, grams, keeps, strict=True)]
        new, mask = (torch.cat(pieces) for pieces in zip(*parts, strict=True))
        lost = sum(output_change(a - b, g) for a, b, g in zip(old, new.chunk(len(grams)), grams, strict=True))
        total = sum(output_change(a, g) for a, g in zip(old, grams, strict=True))
        shape = tuple(weight.shape)
        return _Layer(from_matrix(new, shape).to(weight.dtype), from_matrix(mask, shape), lost / total if total else 0.0)


def _notes(solver: str, samples: int, done: Mapping[str, _Layer], rest: Sequence[str]) -> tuple[str, ...]:
    worst = max(done, key=lambda name: done[name].change, default="")
    said = f"{solver} repaired {len(done)} layers on {samples:,} training samples"
    if worst:
        said += f"; the outputs of {worst} change most, by {done[worst].change:.1%} of their mean square"
    if not rest:
        return (f"{said}.",)
    listed = ", ".join(rest[:3])
    return (f"{said}.", f"{len(rest)} tensors that no running linear layer or convolution uses were pruned without repair: {listed}.")
