"""What a pruning would do, before it is done: every tensor, why it goes or stays, counts, bytes and memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from sparsify_cli.contracts.listener import Listener
from sparsify_cli.maths.matrix_view import obstacle
from sparsify_cli.pages.wording import size as bytes_said
from sparsify_cli.recipes.duration import decimal
from sparsify_cli.recipes.verbs import PruneRecipe
from sparsify_cli.stages.outcome import Table
from sparsify_cli.stages.plan import plan
from sparsify_cli.stages.prune import chosen_masks
from sparsify_cli.stages.rows import Row
from sparsify_cli.stages.shares import is_counted_alone, resolved
from sparsify_cli.stages.slices import AHEAD, WORKERS, Target, slices_of
from sparsify_cli.stages.solver_memory import require_solver_room
from sparsify_cli.stages.sparsifier import require_carried
from sparsify_cli.stages.streamed import Job, can_stream, job_of
from sparsify_cli.stages.subject import Subject, open_subject
from sparsify_cli.values.layout import WIDTHS

COPIES = 8
"""Arrays of the size of a slice that a worker holds at a time, about: numbers, keys, masks and what is compared."""

IN_MEMORY = 4
"""Times the weights that pruning in memory holds, about: themselves, scores, masks and the result."""


@dataclass(frozen=True)
class Planned:
    """A plan.

    Args:
        rows: every tensor.
        kept: weights that would stay in each pruned one.
        target: the sparsity that is meant, as text.
        memory: bytes held at a time beyond the program itself, about.
        solver: bytes of them that a solver holds, or what measures layers.
        streams: it goes slice by slice.
        targets: what is meant for each pruned tensor alone: a sparsity, or the allocation that shares it out.
        odd: tensors that are not plain numbers and stay as they are -> why.
    """

    rows: Sequence[Row]
    kept: Mapping[str, int]
    target: str
    memory: int
    streams: bool
    targets: Mapping[str, str] = field(default_factory=dict)
    odd: Mapping[str, str] = field(default_factory=dict)
    solver: int = 0


def planned(recipe: PruneRecipe, listener: Listener) -> Planned:
    """Count and choose as `prune` would; nothing is written."""
    recipe = resolved(recipe)
    before = open_subject(recipe, verbs=("train",), listener=listener, survey=False)
    if is_counted_alone(recipe) and can_stream(recipe, before):
        job = job_of(recipe, before, listener)
        odd = job.home.layout.odd
        return Planned(job.rows, job.cuts.kept, decimal(job.cuts.target), _slices(job), True, _targets(recipe, job.rows), odd)
    return _in_memory(recipe, before.surveyed(), listener)


def _in_memory(recipe: PruneRecipe, before: Subject, listener: Listener) -> Planned:
    if not recipe.allow_nonfinite:
        before.checkpoint.require_finite()
    rows = plan(before.checkpoint, before.architecture, skip=recipe.skip, include=recipe.include)
    if recipe.strict:
        require_carried({row.name: row.oriented for row in rows if row.matched}, recipe.pattern)
    solver = require_solver_room(recipe, before, [row.name for row in rows if row.matched], listener)
    _, masks = chosen_masks(recipe, before, rows, listener)
    kept = {row.name: int(masks[row.name].sum()) for row in rows if row.matched}
    total = sum(row.weights for row in rows if row.matched)
    asked = decimal(recipe.sparsity) if recipe.sparsity is not None else f"{1 - sum(kept.values()) / max(1, total):.6g}"
    odd = before.checkpoint.home.layout.odd if before.checkpoint.home else {}
    memory = IN_MEMORY * sum(_bytes(row) for row in rows) + solver
    return Planned(rows, kept, asked, memory, False, _targets(recipe, rows), odd, solver)


def _targets(recipe: PruneRecipe, rows: Sequence[Row]) -> dict[str, str]:
    """What is meant for each pruned tensor: layers that cannot carry the pattern stay dense, N:M is the same in all others."""
    own = recipe.sparsity if recipe.allocation == "uniform" else None
    if recipe.pattern.is_grouped and recipe.sparsity in (None, recipe.pattern.implied_sparsity):
        own = recipe.pattern.implied_sparsity
    meant = f"{float(own) * 100:.6g}%" if own is not None else recipe.allocation
    return {row.name: "dense" if obstacle(row.oriented, recipe.pattern) else meant for row in rows if row.matched}


def _slices(job: Job) -> int:
    """Bytes of the slices that are under way, and of the counts of the largest digit."""
    largest = max((_slice_bytes(target) for target in job.targets), default=0)
    return WORKERS * COPIES * largest + AHEAD * WORKERS * (8 << 16)


def _slice_bytes(target: Target) -> int:
    return max((count * target.place.width for _, count in slices_of(target)), default=0)


FLAT, FEW = "not a matrix", 5
"""Tensors of batch norm and biases: of more than a few one row is enough."""


def plan_table(found: Planned) -> Table:
    """One row a tensor, one for all vectors and scalars where they are many, and one for all that is prunable."""
    matched = [row for row in found.rows if row.matched]
    weights, kept = sum(row.weights for row in matched), sum(found.kept.values())
    total = ("all prunable", "", f"{weights:,}", f"{kept:,}", f"{float(found.target) * 100:.6g}%", f"{1 - kept / max(1, weights):.2%}", "")
    odd = ((name, "", "", "", "", "", why) for name, why in found.odd.items())
    columns = ("tensor", "shape", "weights", "kept", "target", "sparsity", "why")
    flat = [row for row in found.rows if row.name not in found.kept and row.why == FLAT]
    folded = flat if len(flat) > FEW else []
    shown = [row for row in found.rows if row not in folded]
    vectors = (f"{len(folded)} vectors and scalars", "", f"{sum(row.weights for row in folded):,}", "", "", "", FLAT)
    return Table("plan", columns, (*(_cells(row, found) for row in shown), *odd, *([vectors] if folded else []), total))


def cost_table(found: Planned) -> Table:
    """Bytes before and after, and memory."""
    dense, packed = sum(map(_bytes, found.rows)), sum(_packed(row, found.kept) for row in found.rows)
    rows = (
        ("weights as they are", bytes_said(dense)),
        ("the result, zeros included", bytes_said(dense)),
        ("the result packed, about", bytes_said(packed)),
        ("memory, about", f"{bytes_said(found.memory)} ({_held(found)})"),
    )
    return Table("expected", ("what", "bytes"), rows)


def _held(found: Planned) -> str:
    """How memory is used."""
    if found.solver:
        return f"in memory, {bytes_said(found.solver)} of it beside the network"
    return "in slices" if found.streams else "in memory"


def facts(found: Planned) -> dict[str, object]:
    """The plan as plain JSON values."""
    dense, packed = sum(map(_bytes, found.rows)), sum(_packed(row, found.kept) for row in found.rows)
    costs = {"bytes": dense, "bytes_packed": packed, "memory": found.memory, "memory_solver": found.solver, "streams": found.streams}
    nothing = {"shape": None, "prunable": False, "weights": None, "kept": None, "target": None}
    odd = {name: {**nothing, "why": why} for name, why in found.odd.items()}
    return {"plan": {row.name: _fact(row, found) for row in found.rows} | odd, "target": found.target, **costs}


def _fact(row: Row, found: Planned) -> dict[str, object]:
    numbers = {"weights": row.weights, "kept": found.kept.get(row.name), "target": found.targets.get(row.name)}
    return {"shape": list(row.shape), "prunable": row.matched, "why": row.why, **numbers}


def _cells(row: Row, found: Planned) -> tuple[str, ...]:
    shape = "x".join(map(str, row.shape)) or "scalar"
    if row.name not in found.kept:
        return row.name, shape, f"{row.weights:,}", "", "", "", row.why
    kept, target = found.kept[row.name], found.targets.get(row.name, "")
    return row.name, shape, f"{row.weights:,}", f"{kept:,}", target, f"{1 - kept / max(1, row.weights):.1%}", row.why


def _bytes(row: Row) -> int:
    return row.weights * WIDTHS[row.dtype]


def _packed(row: Row, kept: Mapping[str, int]) -> int:
    """Bytes as a bitmask with values, or as it is where that is less."""
    if row.name not in kept:
        return _bytes(row)
    return min(_bytes(row), -(-row.weights // 8) + kept[row.name] * WIDTHS[row.dtype])
