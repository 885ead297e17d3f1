"""How many weights each layer keeps: allocations that need measured costs, and budgets other than a sparsity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from fractions import Fraction

import torch
from torch import Tensor

from sparsify_cli.contracts.listener import Listener
from sparsify_cli.contracts.solver import LayerSolver
from sparsify_cli.errors import BadRequest
from sparsify_cli.maths.allocate import ALLOCATIONS, BY_SIZE, Allocation, Layer, for_many_totals, owl_counted
from sparsify_cli.maths.budget import Amount, largest, multiply_accumulates, packed_bytes, parameters, room_for
from sparsify_cli.maths.error_curves import Curve
from sparsify_cli.maths.knapsack import dp, priced, sensitivity, within_budget
from sparsify_cli.maths.macs import macs_per_weight
from sparsify_cli.recipes.allocation import NEEDS_COSTS
from sparsify_cli.recipes.budget import Budget
from sparsify_cli.recipes.option import Choice
from sparsify_cli.recipes.pattern import Pattern
from sparsify_cli.recipes.verbs import PruneRecipe
from sparsify_cli.shelf import Shelf
from sparsify_cli.stages.auto import NAME as AUTO
from sparsify_cli.stages.calibrate import calibration_inputs, names_in, statistics
from sparsify_cli.stages.measure import BUFFERS
from sparsify_cli.stages.plan import tied_names
from sparsify_cli.stages.sensitivity import LayerCosts, costs_of
from sparsify_cli.stages.solve import is_joint, solver_of
from sparsify_cli.stages.sparsifier import Sparsifier, shared_by
from sparsify_cli.stages.strategy import strategy
from sparsify_cli.stages.subject import Subject
from sparsify_cli.values.packed import OVERHEAD, sizes, smallest_of
from sparsify_cli.values.stats import Stats
from sparsify_cli.values.tensor_size import packed_bytes as file_bytes

DIGITS = 40
"""Bytes that a layer's places in the header of a file take when they are far from its start, at most about."""

BY_COST = {"dp": dp, "sensitivity": sensitivity}
QUICK = "sparsegpt"
"""The solver with which ladders are measured: what a layer can bear hardly depends on the method, and this one is the fastest."""


def resolved(recipe: PruneRecipe) -> PruneRecipe:
    """The recipe with the allocation that `auto` means: by measured errors where a solver of layers repairs, else by scores.

    Raises:
        BadRequest: a sparsity and a budget were given, or --minutes without --solver auto.
    """
    if recipe.sparsity is not None and recipe.budget is not None:
        raise BadRequest("Both --sparsity and --budget were given.", "Each of them says how much goes.", "Give one of them.")
    if recipe.minutes is not None and (recipe.solver is None or recipe.solver.name != AUTO):
        raise BadRequest("--minutes bounds what --solver auto chooses.", "No other solver chooses by time.", "Add --solver auto.")
    if recipe.allocation != "auto":
        return recipe
    if recipe.pattern.is_grouped and recipe.sparsity in (None, recipe.pattern.implied_sparsity) and recipe.budget is None:
        return replace(recipe, allocation="uniform")  # every group keeps as many as it may: there is nothing to share out
    solver, criterion = solver_of(recipe), strategy("criteria", recipe.criterion, seed=recipe.seed)
    if isinstance(solver, LayerSolver) and not is_joint(recipe):
        return replace(recipe, allocation="dp")
    return replace(recipe, allocation=shared_by(criterion) if solver is None else "global")


def is_counted_alone(recipe: PruneRecipe) -> bool:
    """True when sizes or one ranking say what each layer keeps, and nothing is trained afterwards: all that pruning in slices does."""
    return recipe.allocation in {*BY_SIZE, "global"} and recipe.budget is None and recipe.effort != "high" and not recipe.permute


def outliers_seen(recipe: PruneRecipe, before: Subject, names: Sequence[str], listener: Listener) -> tuple[PruneRecipe, Stats]:
    """The recipe and what its criterion sees; beside a solver owl counts outliers of |w| |x|, unless a criterion is named."""
    if recipe.allocation != "owl" or solver_of(recipe) is None or recipe.criterion != Choice("magnitude"):
        return recipe, statistics(recipe, before, names)
    seen = replace(recipe, criterion=Choice("wanda"))
    try:
        return seen, statistics(seen, before, names)
    except BadRequest as error:
        listener.note(f"owl counts outliers among the weights alone, without their inputs: {error.what}")
        return recipe, statistics(recipe, before, names)


def shared_out(
    recipe: PruneRecipe, before: Subject, chooser: Sparsifier, weights: Mapping[str, Tensor], listener: Listener
) -> tuple[Sparsifier, Fraction | None]:
    """What chooses masks, with measured costs where the allocation needs them, and the sparsity that a budget means.

    Raises:
        Infeasible: no allocation meets the budget.
    """
    curves: dict[str, Curve] = {}
    if recipe.allocation == "owl":  # solvers of networks, and places in rows, compete by scores that have no outliers
        sizes = replace(chooser, criterion=chooser.criterion.sizes)
        every = replace(sizes, pattern=Pattern())  # on the way to N:M, layers that cannot carry it may compete as well
        counted = (one.layers(weights, before.masks)[0] for one in ((every, sizes) if chooser.pattern != Pattern() else (sizes,)))
        chooser = replace(chooser, allocation=owl_counted(*counted))
    if recipe.allocation in NEEDS_COSTS:
        costs = measured(recipe, before, chooser, weights, listener)
        curves = curves_of(costs, chooser, weights)
        if unknown := [name for name in chooser.names if name not in costs]:
            few = f"{len(unknown)} of {len(chooser.names)} tensors, first {unknown[0]}"
            listener.note(f"the harm of pruning cannot be measured for {few}: their weights count as those of the others on average.")
        rule = BY_COST[recipe.allocation]
        chooser = replace(chooser, allocation=lambda layers, total: rule([curves[layer.name] for layer in layers], layers, total))
    if recipe.budget is None:
        return chooser, recipe.sparsity
    return _within(recipe.budget, before, chooser, weights, curves)


def measured(
    recipe: PruneRecipe, before: Subject, chooser: Sparsifier, weights: Mapping[str, Tensor], listener: Listener
) -> dict[str, LayerCosts]:
    """The costs of pruning each layer alone, by the tensors' names; those that no solver can take are absent.

    Where a solver repairs, single weights go, whatever the pattern; else those that the chooser lets go, in its pattern.
    """
    module, names = before.module(), chooser.names
    ours = {name: new for name, new in names_in(module, before).items() if name in names}
    theirs = {new: name for name, new in ours.items()}
    repairs = isinstance(solver_of(recipe), LayerSolver)
    quick: LayerSolver | None = Shelf("solvers").load(QUICK)() if repairs else None
    inputs, kind = calibration_inputs(recipe, before), before.samples("train").kind
    keeping = None if repairs else chooser.keeping(weights, before.masks)
    chosen = keeping and (lambda name, count: keeping(theirs[name], count))
    left = {ours[name]: before.masks[name] for name in names if name in before.masks}
    found = costs_of(module, inputs, [ours[name] for name in names], quick, listener, kind=kind, chosen=chosen, left=left)
    return {theirs[costs.name]: costs for costs in found}


def curves_of(costs: Mapping[str, LayerCosts], chooser: Sparsifier, weights: Mapping[str, Tensor]) -> dict[str, Curve]:
    """A curve for every tensor; one that could not be measured costs, weight for weight, what the others do on average.

    Raises:
        BadRequest: none could be.
    """
    block = chooser.pattern.block_size
    known = {name: curve for name, found in costs.items() if len((curve := found.curve(name, block=block)).kept) > 1}
    if not known:
        what = f"The harm of pruning can be measured for none of {len(chooser.names)} tensors, first {chooser.names[0]}."
        raise BadRequest(what, "It can for linear layers and convolutions.", "Choose another --allocation, such as erk or uniform.")
    return {name: known.get(name) or _average(name, weights[name].numel() // block, list(known.values())) for name in chooser.names}


def _average(name: str, units: int, known: Sequence[Curve]) -> Curve:
    every = max(1, sum(curve.weights for curve in known))
    levels = [Fraction(k, 20) for k in range(19, 0, -1)]
    costs = [sum(curve.cost(round(curve.weights * level)) for curve in known) * units / every for level in levels]
    points = {round(units * level): cost for level, cost in zip(levels, costs, strict=True)}
    return Curve.measured(name, units, list(points.items()))


def _within(
    budget: Budget, before: Subject, chooser: Sparsifier, weights: Mapping[str, Tensor], curves: Mapping[str, Curve]
) -> tuple[Sparsifier, Fraction]:
    """The largest network that fits a budget."""
    layers, dense = chooser.layers(weights, before.masks)
    amounts, fixed = _amounts(budget, before, chooser, layers, weights)

    def fitting(given: Sequence[Layer]) -> list[int]:
        return _counts(budget, chooser, given, amounts, fixed, curves)

    by_name = {layer.name: count for layer, count in zip(layers, fitting(layers), strict=True)}
    total = sum(weights[name].numel() for name in chooser.names)
    kept = dense + sum(by_name.values()) * chooser.pattern.block_size
    met = replace(chooser, allocation=lambda given, _: [by_name[one.name] for one in given], freely=chooser.allocation, fitting=fitting)
    return met, 1 - Fraction(kept, max(1, total))


def _counts(
    budget: Budget, chooser: Sparsifier, layers: Sequence[Layer], amounts: Sequence[Amount], fixed: int, curves: Mapping[str, Curve]
) -> list[int]:
    if curves:
        limit = room_for(layers, amounts, budget, fixed=fixed)
        return within_budget(priced([curves[layer.name] for layer in layers], layers, amounts), limit)
    rule: Allocation = ALLOCATIONS[chooser.allocation] if isinstance(chooser.allocation, str) else chooser.allocation
    many = for_many_totals(rule, layers)
    return largest(layers, lambda _, total: many(total), amounts, budget, fixed=fixed)


def _amounts(
    budget: Budget, before: Subject, chooser: Sparsifier, layers: Sequence[Layer], weights: Mapping[str, Tensor]
) -> tuple[list[Amount], int]:
    """What each layer takes, and what everything else does."""
    block, pruned = chooser.pattern.block_size, {layer.name for layer in layers}
    tensors = before.checkpoint.tensors
    if budget.kind == "macs":
        module = before.module()
        uses, ours = macs_per_weight(module, before.samples("train").inputs[:1]), names_in(module, before)
        others = sum(count * tensors[name].numel() for name, new in ours.items() if (count := uses.get(new, 0)) and name not in pruned)
        return [multiply_accumulates(uses.get(ours[layer.name], 0), block) for layer in layers], others
    aliases = tied_names(before.checkpoint, before.architecture)  # a second name takes nothing of its own
    tensors = {name: tensor for name, tensor in tensors.items() if name not in aliases}
    if budget.kind == "bytes":
        amounts = [packed_bytes(weights[layer.name].numel(), tensors[layer.name].element_size(), block) for layer in layers]
        return amounts, _beside_values(tensors, layers)
    trained = [name for name, tensor in tensors.items() if tensor.is_floating_point() and not name.endswith(BUFFERS)]
    fixed = sum(tensors[name].numel() for name in trained if name not in pruned)
    return [parameters(block)] * len(layers), fixed


def _beside_values(tensors: Mapping[str, Tensor], layers: Sequence[Layer]) -> int:
    """Bytes of the packed file without what layers take of it by `packed_bytes`: other tensors, and the file's header."""
    empty = {layer.name: torch.zeros_like(tensors[layer.name]) for layer in layers}
    found = [sizes(tensor) for tensor in empty.values()]
    values = sum(one[smallest_of(one)] for one in found)
    return file_bytes({**tensors, **empty}) - values + (DIGITS - OVERHEAD) * len(layers)
