"""`prune`: remove weights in one shot, without training.

Scores, then counts, then positions; the weights that go become real zeros. With a solver the counts of each layer hold, and
the solver chooses the positions in it and repairs the weights that stay. When architecture and data are known,
batch-norm statistics are measured anew on training data and kept only if the loss on held-out training data falls, and
accuracy is measured before and after.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from sparsify_cli.contracts.listener import Listener
from sparsify_cli.contracts.solver import NetworkSolver
from sparsify_cli.errors import BadRequest
from sparsify_cli.maths.matrix_view import obstacle
from sparsify_cli.recipes.allocation import NEEDS_COSTS
from sparsify_cli.recipes.pattern import Pattern
from sparsify_cli.recipes.verbs import PruneRecipe
from sparsify_cli.stages.calibrate import names_in, require_context
from sparsify_cli.stages.evidence import compared
from sparsify_cli.stages.fit_keys import fitted
from sparsify_cli.stages.imitation import Imitated, Spared, imitated
from sparsify_cli.stages.kept_budget import kept_to_budget
from sparsify_cli.stages.memory import give_back_freed
from sparsify_cli.stages.norms import NormChoice, with_best_norms
from sparsify_cli.stages.opening import shares_memory, tables_left
from sparsify_cli.stages.outcome import Outcome
from sparsify_cli.stages.permute import permuted
from sparsify_cli.stages.plan import plan, tied_names, turned_of, untied
from sparsify_cli.stages.reading import odd_notes
from sparsify_cli.stages.resolve import build_architecture
from sparsify_cli.stages.rows import Row
from sparsify_cli.stages.shares import is_counted_alone, outliers_seen, resolved, shared_out
from sparsify_cli.stages.sizes import compared_sizes
from sparsify_cli.stages.solve import Solved, is_joint, solved, solver_of
from sparsify_cli.stages.solver_memory import require_solver_room
from sparsify_cli.stages.sparsifier import (
    Sparsifier,
    collapse_notes,
    emptied_notes,
    lean_notes,
    pattern_notes,
    require_carried,
    sparsifier,
)
from sparsify_cli.stages.streamed import Streamed, can_stream, streamed
from sparsify_cli.stages.subject import Subject, open_subject
from sparsify_cli.stages.tables import ELSEWHERE, before_after, called, quality, said
from sparsify_cli.stages.write import Product, output_folder, write_product
from sparsify_cli.values.artifact import Artifact, claimed
from sparsify_cli.values.checkpoint import Home
from sparsify_cli.values.mask_set import MaskSet
from sparsify_cli.values.report import Finding, Report
from sparsify_cli.values.small_floats import computable

SHOWN = (
    "sparsity",
    "sparsity_total",
    "nonzeros",
    "bytes_disk",
    "bytes_packed",
    "macs",
    "macs_nonzero",
    "latency_ms",
    "accuracy",
    "nll",
    "ece",
    *ELSEWHERE,
)


def prune(recipe: PruneRecipe, listener: Listener, *, resume: Path | None = None) -> Outcome:
    """Prune a checkpoint or artifact and write the result: in slices where weights alone decide, else in memory."""
    recipe = resolved(recipe)
    before = open_subject(recipe, verbs=("train",), listener=listener, survey=False).single()
    if is_counted_alone(recipe) and can_stream(recipe, before):
        if before.architecture is not None:
            fitted(build_architecture(before.architecture), before.checkpoint)
        return _outcome_of_stream(recipe, streamed(recipe, before, listener, resume=resume))
    if resume is not None:
        raise BadRequest(f"{resume} cannot be resumed.", "Only a pruning that went file by file can.", "Start it again.")
    return _in_memory(recipe, before.surveyed().checked(), listener)


def _outcome_of_stream(recipe: PruneRecipe, done: Streamed) -> Outcome:
    targets, before = done.job.targets, done.job.before
    shapes = {target.name: target.view.oriented for target in targets}
    empty = [target.name for target in targets if not done.job.cuts.kept[target.name] and target.weights]
    notes = (*pattern_notes(shapes, recipe.pattern), *emptied_notes(empty), *stored_notes(before, done.job.rows, recipe))
    masked = done.job.masked
    total, kept = sum(target.weights for target in masked), sum(done.job.cuts.kept.values())
    return Outcome(
        "prune",
        _headline(total, total - kept, sum(done.job.cuts.kept[one.name] < one.weights for one in masked), len(masked), done.report),
        done.report,
        done.folder,
        tables=(before_after("what it did", done.report, SHOWN),),
        notes=notes,
        hints=_hints(done.folder, before),
        weights=weights_of(done.folder),
    )


def _in_memory(recipe: PruneRecipe, before: Subject, listener: Listener) -> Outcome:
    give_back_freed(sum(tensor.nbytes for tensor in before.checkpoint.tensors.values()))
    if not recipe.allow_nonfinite:
        before.checkpoint.require_finite()
    rows = plan(before.checkpoint, before.architecture, skip=recipe.skip, include=recipe.include)
    if recipe.strict:
        require_carried({row.name: row.oriented for row in rows if row.matched}, recipe.pattern)
    before = _finite_subject(recipe, before, rows)
    start, reordered = reordered_first(recipe, before, rows)
    if not isinstance(solver_of(recipe), NetworkSolver):  # which says so itself, of each try
        require_solver_room(recipe, start, [row.name for row in rows if row.matched], listener)
    first = chosen_masks(recipe, start, rows, listener)  # before there is a folder: what cannot be is refused here

    def once(asked: PruneRecipe) -> Solved:
        chooser, chosen = first if asked.budget == recipe.budget else chosen_masks(asked, start, rows, listener)
        return solved(asked, start, chosen, chooser, listener)

    folder, held = output_folder(recipe, before.name)
    with claimed(folder, held=held):  # before the work: a folder that is taken is refused now, not after solving
        found = kept_to_budget(recipe, start, once)
        masks = found.masks
        after, imitation = imitated(recipe, start, pruned(start, found), followed=found.followed, listener=listener, spent=found.minutes)
        after, choice = with_best_norms(recipe, start, after, followed=found.followed or (imitation is not None and imitation.kept))
        report = Report(tuple(_findings(before, after, choice, imitation)), dict(found.facts))
        report = write_product(folder, Product(recipe, after, report, before, after.checkpoint, masks))
    shapes = {row.name: row.oriented for row in rows if row.matched}
    lean = lean_notes(masks, recipe.pattern.block_size) if recipe.solver is not None else ()
    tried = [one.note() for one in (imitation, choice) if one is not None]
    notes = (*reordered, *pattern_notes(shapes, recipe.pattern), *found.notes, *collapse_notes(masks), *lean, *tried)
    notes += stored_notes(before, rows, recipe)
    if recipe.budget is not None and masks.kept == masks.total:
        notes += (f"the network as it is meets the budget {recipe.budget}: nothing was pruned.",)
    return Outcome(
        "prune",
        _headline(masks.total, masks.total - masks.kept, sum(not bool(mask.all()) for mask in masks.values()), len(masks), report),
        report,
        folder,
        tables=(before_after("what it did", report, SHOWN),),
        notes=notes,
        hints=_hints(folder, before, whole=is_joint(recipe)),
        weights=weights_of(folder),
    )


def reordered_first(recipe: PruneRecipe, before: Subject, rows: Sequence[Row]) -> tuple[Subject, tuple[str, ...]]:
    """The network with its channels in the order in which N:M costs least, where the recipe asks for it, and what was done.

    Raises:
        BadRequest: it is pruned already, so that its masks belong to the old order.
        MissingContext: architecture or data are not known.
    """
    if not recipe.permute:
        return before, ()
    require_context(recipe, before)
    if before.masks:
        raise BadRequest(f"{before.path} is pruned already.", "Its masks hold in the order of channels it has.", "Leave --permute out.")
    module = before.module()
    ours = names_in(module, before)
    theirs = {new: name for name, new in ours.items()}
    names = [ours[row.name] for row in rows if row.matched and obstacle(row.oriented, recipe.pattern) is None]
    changes, done = permuted(module, names, recipe.pattern, before.samples("train").inputs[:8], seed=recipe.seed)
    old = before.checkpoint.tensors
    tensors = {**old, **{theirs[name]: tensor.to(old[theirs[name]].dtype) for name, tensor in changes.items() if name in theirs}}
    return before.changed(before.checkpoint.with_tensors(tensors), before.masks), tuple(done.sentences())


def chosen_masks(recipe: PruneRecipe, before: Subject, rows: Sequence[Row], listener: Listener) -> tuple[Sparsifier, MaskSet]:
    """What chooses masks as a recipe says, and the masks; a solver of layers keeps as many weights in each.

    Raises:
        BadRequest, Infeasible: it asks for what cannot be.
        MissingContext: it needs calibration, and architecture or data are not known.
    """
    solver = solver_of(recipe)
    require_context(recipe, before)
    names = [row.name for row in rows if row.matched]
    least = 1 if solver is not None or recipe.allocation in NEEDS_COSTS else 0
    recipe, stats = outliers_seen(recipe, before, names, listener)
    chooser = sparsifier(recipe, names, stats=stats, turned=turned_of(rows), at_least=least)
    tensors = _finite(recipe, before, names)
    chooser, sparsity = shared_out(recipe, before, chooser, tensors, listener)
    target = chooser.target(tensors, sparsity, pruned=before.masks)
    masks = chooser.once(tensors, target, pruned=before.masks)
    chooser.require_held(masks, target)
    return chooser, masks


def _finite_subject(recipe: PruneRecipe, before: Subject, rows: Sequence[Row]) -> Subject:
    """The network with zeros for weights that are not finite, where the recipe allows them and the network is run."""
    if not (recipe.allow_nonfinite and before.has_context):
        return before
    numbers = _finite(recipe, before, [row.name for row in rows if row.matched])
    changed = {name: tensor.to(before.checkpoint.tensors[name].dtype) for name, tensor in numbers.items()}
    return before.changed(before.checkpoint.with_tensors({**before.checkpoint.tensors, **changed}), before.masks)


def _finite(recipe: PruneRecipe, before: Subject, names: Sequence[str]) -> Mapping[str, Tensor]:
    """The tensors, what is not finite taken as zero where the recipe allows it."""
    if not recipe.allow_nonfinite:
        return before.checkpoint.tensors
    numbers = {name: computable(before.checkpoint.tensors[name]) for name in names}
    return {name: torch.where(weight.isfinite(), weight, 0) for name, weight in numbers.items()}


def pruned(before: Subject, found: Solved) -> Subject:
    """The subject with real zeros."""
    tensors = untied(found.tensors, tied_names(before.checkpoint, before.architecture))
    return before.changed(before.checkpoint.with_tensors(tensors), found.masks)


def _hints(folder: Path, before: Subject, *, whole: bool = False) -> tuple[str, ...]:
    """What can be done next, `whole` channels can be taken out; programs and graphs are not trained."""
    home, name = before.checkpoint.home, shlex.quote(str(folder))
    trains = home is None or home.layout.kind not in ("onnx-model", "torchscript", "exported")
    export = f"sparsify export {name} --to packed"
    shrinks = (f"sparsify shrink {name}",) if whole else ()
    return (*shrinks, f"sparsify finetune {name}{_context_hint(before)}", export) if trains else (*shrinks, export)


def weights_of(folder: Path) -> Path:
    """What the original's loader takes, of an artifact that was just written."""
    return folder / str(Artifact.open(folder).manifest["weights"]["file"])


def _context_hint(subject: Subject) -> str:
    """The flags that a training verb would still need."""
    return ("" if subject.architecture else " --arch ...") + ("" if subject.data else " --data ...")


def _findings(before: Subject, after: Subject, choice: NormChoice | None, imitation: Imitated | Spared | None) -> list[Finding]:
    found = compared_sizes(before, after) + [one for tried in (imitation, choice) if tried for one in tried.findings()]
    return found + (compared(before, after) if after.has_context else [])


def _headline(weights: int, zeros: int, sparse: int, layers: int, report: Report) -> str:
    packed, disk = report.get("bytes_packed"), report.get("bytes_disk", of="dense")
    where = f"{layers}" if sparse == layers else f"{sparse} of {layers}"
    text = f"{zeros:,} of {weights:,} prunable weights are zero ({zeros / max(1, weights):.2%}) in {where} tensors"
    now = quality(report)
    change = f"; {called(now)} {said(quality(report, of='dense'))} -> {said(now)}" if now else ""
    return f"{text}; {said(disk)} dense -> {said(packed)} packed{change}."


def stored_notes(before: Subject, rows: Sequence[Row], recipe: PruneRecipe) -> tuple[str, ...]:
    """What was assumed or left alone because nothing says otherwise."""
    notes = []
    home = before.checkpoint.home
    told = before.architecture is not None or (home is not None and home.layout.hints)
    matrices = [row.name for row in rows if row.matched and not row.transposed]
    if recipe.pattern != Pattern() and matrices and not told:
        assumed = f"{len(matrices)} tensors are taken as [outputs, inputs], and {recipe.pattern} runs along inputs"
        notes.append(f"no architecture says how weights are stored: {assumed}.")
    stay = recipe.extras == "keep" and recipe.save_as == "same"
    return (*notes, *(_notes_of_file(home, recipe) if home else ()), *odd_notes(before.checkpoint, stay=stay))


def _notes_of_file(home: Home, recipe: PruneRecipe) -> list[str]:
    """What was folded, left alone, left out or carried along of the file's own."""
    folded = len(home.folds)
    notes = [f"{folded} masked tensor{'s were' if folded > 1 else ' was'} folded; the keys are the plain names now."] if folded else []
    notes += [f"{name}: {what}." for name, what in home.layout.others.items() if what.startswith("left out")]
    if recipe.extras == "drop" or recipe.save_as != "same":
        return notes
    left = tables_left(home.layout, home.wrapper)
    for name, count in left.items():
        same = shares_memory(home.layout, home.wrapper, name)
        fate = "is the same memory and changes with it" if same else f"stays as it is; --entry {name} takes it instead"
        notes.append(f"{name!r} holds {count} tensors too and {fate}.")
    if home.layout.foreign:
        notes.append(f"the pickle names code ({', '.join(home.layout.foreign[:3])}); it was not run, and stays in what was written.")
    return notes
