"""Solve: prune and repair with a solver, each layer as many weights as the masks chosen before say.

Solvers of layers go through the network once (`layerwise.py`); solvers of networks get all of it, and choose masks
themselves, through the recipe's pattern and allocation. Tensors that no solver can take - no linear layer or convolution,
or never run - keep the masks chosen before, without repair.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor, nn

from sparsify_cli.contracts.criterion import Criterion
from sparsify_cli.contracts.listener import Listener
from sparsify_cli.contracts.solver import LayerSolver, NetworkSolver, Solver
from sparsify_cli.errors import BadRequest
from sparsify_cli.recipes.option import Choice
from sparsify_cli.recipes.verbs import EmbedRecipe, PruneRecipe
from sparsify_cli.stages import auto
from sparsify_cli.stages.auto import Auto
from sparsify_cli.stages.calibrate import BATCH, calibration_inputs, names_in, network_of, watchable
from sparsify_cli.stages.layerwise import Layer, Pass, require_whole_groups, sizes_of
from sparsify_cli.stages.memory import Need, require_room
from sparsify_cli.stages.on_the_way import Way
from sparsify_cli.stages.sparsifier import Sparsifier
from sparsify_cli.stages.strategy import strategy
from sparsify_cli.stages.subject import Subject
from sparsify_cli.training.batchnorm import norms
from sparsify_cli.values.mask_set import MaskSet

BY_SCORE = ("global", "lamp", "owl")
"""Allocations that look at the criterion's scores."""

ACTIVATIONS = 1.6
"""Times what a solver of networks plans that it holds, about: activations of the samples that are differentiated come on top."""


@dataclass(frozen=True, eq=False)
class Solved:
    """What pruning leaves of the tensors, and how it was reached.

    Args:
        tensors: every tensor of the checkpoint, zero where pruned.
        masks: which weights stay.
        notes: what a person should know, one sentence each.
        facts: solver, its options, calibration samples, relative change of each layer's outputs; plain JSON values.
        followed: batch-norm statistics were moved with the inputs.
        minutes: that `auto` spent on ALPS, by its count.
    """

    tensors: Mapping[str, Tensor]
    masks: MaskSet
    notes: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    followed: bool = False
    minutes: float = 0.0


def solver_of(recipe: PruneRecipe | EmbedRecipe) -> Solver | None:
    """The recipe's solver, or None.

    Raises:
        UnknownName, BadRequest: there is none of that name or with those options, or it cannot hold the pattern.
    """
    if recipe.solver is None:
        return None
    if recipe.solver.name == auto.NAME and recipe.solver.options:
        first = min(recipe.solver.options)
        raise BadRequest(f"--solver auto has no option {first!r}.", "It chooses a solver for each layer.", "Name the solver that has it.")
    solver: Solver = Auto() if recipe.solver.name == auto.NAME else strategy("solvers", recipe.solver, seed=recipe.seed)
    solver.check(recipe.pattern)
    return solver


def is_joint(recipe: PruneRecipe | EmbedRecipe) -> bool:
    """Whether the recipe's criterion takes what hangs together in several layers, so that no solver may choose otherwise."""
    criterion: Criterion = strategy("criteria", recipe.criterion)
    return criterion.joint


def solved(recipe: PruneRecipe, before: Subject, masks: MaskSet, chooser: Sparsifier, listener: Listener) -> Solved:
    """Zeros where the masks say; with a solver, where it says (as many in each layer), and the other weights repaired."""
    solver = solver_of(recipe)
    if solver is None:
        return Solved(masks.apply(before.checkpoint.tensors), masks)
    if isinstance(solver, NetworkSolver):
        return _network(recipe, solver, before, masks, chooser, listener)
    assert isinstance(solver, LayerSolver)
    asked = MaskSet({name: masks[name] for name in chooser.carrying(before.checkpoint.tensors)})
    return _layers(recipe, solver, before, (masks, asked), listener)


def _layers(recipe: PruneRecipe, solver: LayerSolver, before: Subject, chosen: tuple[MaskSet, MaskSet], listener: Listener) -> Solved:
    """Masks of everything, and of what is solved: what was pruned before and is skipped now, or cannot carry the pattern, stays."""
    masks, asked = chosen
    inputs, module, spent = calibration_inputs(recipe, before), before.module(), 0.0
    ours = names_in(module, before)
    theirs = {new: name for name, new in ours.items()}
    losing = {ours[name]: mask for name, mask in asked.items() if not bool(mask.all())}
    joint = is_joint(recipe)  # then the criterion has chosen, and the solver repairs
    pruned = {ours[name]: mask for name, mask in (masks if joint else before.masks).items()}
    there = watchable(module, losing, inputs)
    for name, layer in there.items():
        require_whole_groups(theirs[name], layer, recipe.pattern)
    if isinstance(solver, Auto):
        sizes = [size for layer in there.values() for size in sizes_of(layer)]
        solver = Auto(auto.limit(sizes, auto.budget(recipe.effort, recipe.minutes)))
    _prune(module, {ours[name]: mask for name, mask in masks.items() if ours[name] not in there})  # what no solver takes goes first
    work = Pass(solver, recipe.pattern, pruned, recipe.target, recipe.batchnorm, recipe.bias, BATCH, recipe.seed)
    layers = {theirs[new]: layer for new, layer in work.run(module, before.lent(), inputs, losing, listener).items()}
    facts = _facts(recipe, solver, inputs) | {"output_change": {name: layer.change for name, layer in layers.items()}}
    beside = _beside(before, module, ours, layers)
    final = MaskSet({**masks, **{name: layer.mask & masks[name] if joint else layer.mask for name, layer in layers.items()}})
    old = before.checkpoint.tensors
    tensors = final.apply({**old, **beside, **{name: layer.weight.to(old[name].dtype) for name, layer in layers.items()}})
    rest = [name for name in asked if name not in layers and not bool(masks[name].all())]
    followed = recipe.batchnorm and bool(norms(module))
    notes = (*_notes(facts, layers, rest), *(() if rest else _unheard(recipe, solver)))
    if isinstance(solver, Auto):
        notes = (f"solver auto: {auto.said((layer.size for layer in layers.values()), recipe.pattern, solver.most)}.", *notes)
        notes += _beyond_minutes(recipe)
        spent = auto.minutes_of([size for name in layers for size in sizes_of(there[ours[name]])], recipe.pattern, solver.most)
    return Solved(tensors, final, notes, facts, followed, spent)


def _beyond_minutes(recipe: PruneRecipe) -> tuple[str, ...]:
    """A sentence where no solver but one holds the pattern, however long it takes."""
    alone = auto.alone(recipe.pattern)
    if recipe.minutes is None or alone is None:
        return ()
    return (f"--minutes bound imitation alone: no solver but {alone} repairs and holds {recipe.pattern}, however long it takes.",)


@torch.no_grad()
def _prune(module: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Set weights to zero, so that what comes after them is solved on what they give."""
    for name, parameter in module.named_parameters(remove_duplicate=False):
        if name in masks:
            parameter.mul_(masks[name].to(parameter.device))


def _beside(before: Subject, module: nn.Module, ours: Mapping[str, str], layers: Mapping[str, Layer]) -> dict[str, Tensor]:
    """Biases and running statistics of batch norm that moved with the weights, by the checkpoint's names.

    Other buffers that a network changes as it runs have seen calibration samples, and stay what they were.
    """
    now, old = module.state_dict(), before.checkpoint.tensors
    own = {f"{path}.{leaf}".lstrip(".") for path, norm in norms(module).items() for leaf, _ in norm.named_buffers()}
    may = own | {name for name, _ in module.named_parameters(remove_duplicate=False)}
    moved = {name for name, new in ours.items() if new in now and new in may and name not in layers and name not in before.masks}
    return {
        name: now[ours[name]].to(old[name].dtype) for name in moved if not bool((now[ours[name]].to(old[name].dtype) == old[name]).all())
    }


def _network(
    recipe: PruneRecipe, solver: NetworkSolver, before: Subject, masks: MaskSet, chooser: Sparsifier, listener: Listener
) -> Solved:
    if is_joint(recipe):
        raise BadRequest(
            f"The criterion {recipe.criterion.name} and the solver {recipe.solver.name if recipe.solver else ''} both choose weights.",
            "A solver of whole networks ranks single weights, and channels would not go whole.",
            "Name a solver that repairs layer by layer, alps for instance, or leave --solver out.",
        )
    network = network_of(recipe, before, chooser.names)
    require_room(network_need(recipe, solver, _sizes(network.weights())), listener)
    weights = {name: before.checkpoint.tensors[name] for name in chooser.names}
    meant = MaskSet({name: masks[name] for name in chooser.names}).sparsity if recipe.budget else recipe.sparsity
    target = chooser.target(weights, meant, pruned=before.masks)
    found = solver.solve_network(network, Way(chooser, target, before.masks).choose, recipe.pattern)
    old = before.checkpoint.tensors
    tensors = found.masks.apply({**old, **{name: weight.to(old[name].dtype) for name, weight in found.weights.items()}})
    facts = _facts(recipe, solver, network.inputs)
    few = getattr(solver, "gradients", len(network.inputs))
    each = f", {few:,} at each stage" if few < len(network.inputs) else ""
    said = f"{facts['solver']['name']} pruned and repaired {len(found.weights)} tensors together on {_seen(facts)}{each}."
    return Solved(tensors, MaskSet({**before.masks, **found.masks}), (said, *_unheard(recipe, solver), *found.notes), facts)


def network_need(recipe: PruneRecipe, solver: NetworkSolver, sizes: Sequence[int]) -> Need:
    """What a solver of networks will hold for tensors of these sizes."""
    name = recipe.solver.name if recipe.solver else ""
    return Need(f"--solver {name}", int(ACTIVATIONS * solver.memory(sizes, recipe.samples)))


def _sizes(weights: Mapping[str, Tensor]) -> list[int]:
    return [weight.numel() for weight in weights.values()]


def _unheard(recipe: PruneRecipe, solver: Solver) -> tuple[str, ...]:
    """A sentence where a criterion was named that decides nothing."""
    counts = isinstance(solver, LayerSolver) and recipe.allocation in BY_SCORE
    if recipe.criterion == Choice("magnitude") or counts or is_joint(recipe) or recipe.solver is None:
        return ()
    shares = f", and {recipe.allocation} how many stay in each layer" if isinstance(solver, LayerSolver) else ""
    return (f"--criterion {recipe.criterion.name} decided nothing: the solver {recipe.solver.name} chooses which weights go{shares}.",)


def _seen(facts: Mapping[str, Any]) -> str:
    """1,024 training samples, or 2 augmented copies of them."""
    samples = _counted(facts["calibration_samples"], "training sample")
    return f"{samples} ({facts['augment']} augmented copies of each)" if facts["augment"] else samples


def _facts(recipe: PruneRecipe, solver: Solver, inputs: Tensor) -> dict[str, Any]:
    name = recipe.solver.name if recipe.solver else ""
    options = {one.name: getattr(solver, one.name) for one in fields(solver)}  # type: ignore[arg-type]
    drawn = len(inputs) // max(1, recipe.augment)
    return {"solver": {"name": name, **options}, "calibration_samples": drawn, "augment": recipe.augment}


def _notes(facts: Mapping[str, Any], layers: Mapping[str, Layer], rest: Sequence[str]) -> tuple[str, ...]:
    worst = max(layers, key=lambda name: layers[name].change, default="")
    said = f"{facts['solver']['name']} repaired {_counted(len(layers), 'layer')} on {_seen(facts)}"
    if worst:
        said += f"; the outputs of {worst} change most, by {layers[worst].change:.1%} of their mean square"
    notes = [f"{said}."]
    short = [name for name, layer in layers.items() if layer.is_short]
    if short:
        first = layers[short[0]]
        notes.append(
            f"{_counted(len(short), 'layer')} saw fewer rows than inputs, and the rank of a Gram matrix is at most the number of its rows "
            f"({short[0]}: {first.rows:,} of {first.size[1]:,}): more --samples repair better."
        )
    apart = [name for name, layer in layers.items() if layer.apart]
    if apart:
        notes.append(
            f"{_counted(len(apart), 'layer')} solved for what the pruned network sends there: other samples than in the dense network "
            f"({apart[0]})."
        )
    if rest:
        listed = ", ".join(rest[:3])
        notes.append(f"{_counted(len(rest), 'tensor')} pruned without repair, of no linear layer or convolution that runs: {listed}.")
    return tuple(notes)


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'s' * (count != 1)}"
