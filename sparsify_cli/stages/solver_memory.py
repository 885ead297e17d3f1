"""What a solver will hold, before anything is measured or solved: the layer that needs most, and the activations beside it.

    Gram      X X^T of every group of the layer, and how dense outputs go together with its inputs
    rows      the unfolded inputs of a batch, or of a chunk of it, now and in the dense network, in float32 and float64
    solver    factors and copies while one group is solved: `layer_memory` of the solver
    alive     what all samples need to go on, in both networks

Shares by measured errors solve every layer once more, with another solver and none of the others' activations; the larger need counts.
Within a half of what was measured on layers whose inputs or outputs are many (`tests/unit/stages/test_solver_memory.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from sparsify_cli.contracts.listener import Listener
from sparsify_cli.contracts.solver import LayerSolver, NetworkSolver
from sparsify_cli.maths.gram import CHUNK, row_count
from sparsify_cli.pages.wording import size as said
from sparsify_cli.recipes.allocation import NEEDS_COSTS
from sparsify_cli.recipes.pattern import Pattern
from sparsify_cli.recipes.verbs import PruneRecipe
from sparsify_cli.shelf import Shelf
from sparsify_cli.stages import auto
from sparsify_cli.stages.auto import Auto
from sparsify_cli.stages.calibrate import BATCH, calibration_samples, names_in, run, watchable, watching
from sparsify_cli.stages.layerwise import sizes_of
from sparsify_cli.stages.memory import Need, require_room
from sparsify_cli.stages.shares import QUICK
from sparsify_cli.stages.solve import network_need, solver_of
from sparsify_cli.stages.subject import Subject

NUMBER = 8
"""Bytes of a float64."""

SQUARES, WEIGHTS = 5, 12
"""Matrices of the size of a Gram matrix, and of the weight, that a solver holds while it solves, where it does not say."""

MEASURED = 4
"""Gram-sized matrices of a layer that is measured without a solver."""

ALIVE = 8
"""Times the inputs of the layer with most of them that are held: in both networks, with outputs and room that threads keep for more."""


@runtime_checkable
class Weighed(Protocol):
    """A solver that says what it holds."""

    def layer_memory(self, outputs: int, columns: int) -> int:
        """Bytes while one layer (or one group of a convolution) is solved, beyond its weight and its Gram matrix."""


@dataclass(frozen=True)
class Asked:
    """What a recipe asks of layers.

    Args:
        flag: that asks for it.
        works: solvers that every layer meets; None = it is measured, and nothing is repaired.
        pattern: that holds.
        samples: of calibration.
        budget: operations that `auto` may take.
    """

    flag: str
    works: Sequence[LayerSolver | None]
    pattern: Pattern
    samples: int
    budget: float = auto.BUDGET["normal"]


@dataclass(frozen=True)
class Seen:
    """What comes into a layer for one sample.

    Args:
        rows: multiplications with the weight.
        numbers: of the input.
    """

    rows: int
    numbers: int


def require_solver_room(recipe: PruneRecipe, before: Subject, names: Sequence[str], listener: Listener) -> int:
    """Say what a solver will hold, and refuse what does not fit; the bytes, 0 where no layer is solved or measured.

    Args:
        recipe: says which solver, or which allocation measures layers.
        before: the network; nothing is said where it cannot be run, which is refused elsewhere.
        names: tensors to prune.
        listener: hears the number.

    Raises:
        BadRequest: with what is needed and what there is.
    """
    need = solver_need(recipe, before, names)
    if need is None:
        return 0
    require_room(need, listener)
    return need.bytes


def solver_need(recipe: PruneRecipe, before: Subject, names: Sequence[str]) -> Need | None:
    """What a recipe's solver will hold; None where there is nothing to solve, or no network to look at."""
    solver = solver_of(recipe)
    if isinstance(solver, NetworkSolver):
        return network_need(recipe, solver, [before.checkpoint.tensors[name].numel() for name in names])
    if not before.has_context or not (recipe.allocation in NEEDS_COSTS or solver):
        return None
    works: list[LayerSolver | None] = [solver] if isinstance(solver, LayerSolver) else []
    if recipe.allocation in NEEDS_COSTS:
        works.append(Shelf("solvers").load(QUICK)() if solver else None)
    flag = f"--solver {recipe.solver.name}" if recipe.solver else f"--allocation {recipe.allocation}"
    samples = calibration_samples(recipe, before).inputs
    asked = Asked(flag, works, recipe.pattern, len(samples) * max(1, recipe.augment), auto.budget(recipe.effort, recipe.minutes))
    return need_of(asked, before, names, samples[:2])


def need_of(asked: Asked, before: Subject, names: Iterable[str], few: Tensor) -> Need | None:
    """What the layers among some tensors of a network will need; `few` samples show what comes into them."""
    module = before.lent()
    ours = names_in(module, before)
    theirs = {ours[name]: name for name in names}
    layers = watchable(module, theirs, few)
    seen = inputs_seen(module, few, layers)
    return layers_need(asked, {theirs[new]: layers[new] for new in seen}, {theirs[new]: one for new, one in seen.items()})


def layers_need(asked: Asked, layers: Mapping[str, nn.Module], seen: Mapping[str, Seen]) -> Need | None:
    """What the layer that needs most takes, and what is alive beside it; None where there is no layer.

    Args:
        asked: which solvers, of which pattern.
        layers: by the names that a person knows.
        seen: what comes into them.
    """
    if not layers:
        return None
    asked = replace(asked, works=[settled(one, layers, asked.budget) for one in asked.works])
    own = {name: _layer_bytes(layer, seen[name], asked) for name, layer in layers.items()}
    name = max(own, key=own.__getitem__)
    alive = ALIVE * 4 * asked.samples * max(one.numbers for one in seen.values())
    columns = sizes_of(layers[name])[0][1]
    why = f"{name} has {columns:,} inputs: their Gram matrix alone takes {said(NUMBER * columns**2)}, and several of its size are held."
    do = f"Leave it dense with --skip {name}, or choose a --criterion without --solver."
    if alive > own[name]:
        why = f"What {asked.samples:,} samples put into a layer is held for all of them, {said(alive)}."
        do = "Take fewer --samples, or choose a --criterion without --solver."
    return Need(asked.flag, own[name] + alive, why, do, "activations" if alive > own[name] else f"{name} ({columns:,} inputs)")


def inputs_seen(module: nn.Module, inputs: Tensor, layers: Mapping[str, nn.Module]) -> dict[str, Seen]:
    """What comes into layers for one sample, over all their calls; layers that are never run are absent."""
    found: dict[str, Seen] = {}

    def add(name: str, layer: nn.Module, came: Tensor) -> None:
        old = found.get(name, Seen(0, 0))
        found[name] = Seen(old.rows + row_count(layer, came) // len(inputs), old.numbers + came.numel() // len(inputs))

    with watching(module, layers, add):
        run(module, inputs, batch=len(inputs))
    return found


def settled(solver: LayerSolver | None, layers: Mapping[str, nn.Module], budget: float) -> LayerSolver | None:
    """The solver; `auto` with the operations that layers of these sizes leave to ALPS."""
    sizes = [size for layer in layers.values() for size in sizes_of(layer)]
    return Auto(auto.limit(sizes, budget)) if isinstance(solver, Auto) else solver


def _layer_bytes(layer: nn.Module, seen: Seen, asked: Asked) -> int:
    """Gram matrices of all groups, what the solver holds for one, and rows on their way; rows are gone when the solver begins."""
    sizes = sizes_of(layer)
    outputs, columns = sizes[0]
    moments = NUMBER * len(sizes) * (columns**2 + 3 * outputs * columns)
    rows = min(BATCH * seen.rows, max(1, CHUNK // (len(sizes) * columns)))
    coming = rows * len(sizes) * (4 * NUMBER * columns + NUMBER * outputs)
    return moments + max(coming, *(_solver_bytes(one, sizes[0], asked.pattern) for one in asked.works))


def _solver_bytes(solver: LayerSolver | None, size: tuple[int, int], pattern: Pattern) -> int:
    outputs, columns = size
    if solver is None:
        return NUMBER * (MEASURED * columns**2 + WEIGHTS * outputs * columns)
    one = solver.for_size(size, pattern) if isinstance(solver, Auto) else solver
    if isinstance(one, Weighed):
        return one.layer_memory(outputs, columns)
    return NUMBER * (SQUARES * columns**2 + WEIGHTS * outputs * columns)
