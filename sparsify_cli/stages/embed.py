"""`embed`: several sparse networks nested inside one network (ELSA: partial weight freezing).

    levels, sparsest first; F = nothing
    for each level:  weights outside F start from the given network; F keeps its values
                     train and prune (any regime) with F frozen and never dropped
                     M = support; F = M;  private batch norm and biases of this level are kept aside
    store: the last level's weights, one small integer a weight, the side state of every level

With `--epochs 0` nothing is trained: levels are the largest weights (or what else `--criterion` ranks highest) of the given network.

`--state shared-affine` freezes batch norm's scales and shifts and all biases after the first level, so that levels differ in running
statistics alone; `shared` keeps only those of the last level, and others measure their statistics when they are taken out.

Source: Halvachi, Peste, Alistarh, Lampert 2023 (arXiv 2312.06872). Unverified there and chosen here: private side state a level by
default (extraction is then exact), free weights restart from the given network, the full schedule each level. Frozen biases and affine
parameters: Mallya and Lazebnik 2018 (PackNet, arXiv 1711.05769).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sparsify_cli.contracts.listener import Listener
from sparsify_cli.errors import BadRequest
from sparsify_cli.recipes.option import Choice, decimal
from sparsify_cli.recipes.verbs import EmbedRecipe
from sparsify_cli.stages.classifier import head_of
from sparsify_cli.stages.distillation import settled
from sparsify_cli.stages.levels import with_own_statistics
from sparsify_cli.stages.measure import BUFFERS, answers, predict, share_right
from sparsify_cli.stages.nest_size import size_notes
from sparsify_cli.stages.outcome import Outcome, Table
from sparsify_cli.stages.plan import plan, tied_names, turned_of, untied
from sparsify_cli.stages.sizes import size_findings, speed_findings
from sparsify_cli.stages.solved_level import repaired, require_level_room, require_solvable
from sparsify_cli.stages.sparsifier import Sparsifier, pattern_notes, sparsifier
from sparsify_cli.stages.strategy import strategy
from sparsify_cli.stages.subject import Subject, open_subject
from sparsify_cli.stages.tables import said
from sparsify_cli.stages.teachers import teacher_of
from sparsify_cli.stages.train import fresh
from sparsify_cli.stages.training_run import Trained, Training, trained
from sparsify_cli.stages.workplace import Workplace, workplace
from sparsify_cli.stages.write import Product, data_identity, in_own_types
from sparsify_cli.training.engine import Engine, engine
from sparsify_cli.values.artifact import NEST
from sparsify_cli.values.mask_set import MaskSet
from sparsify_cli.values.nest import Nest
from sparsify_cli.values.report import Finding, Report

Tensors = Mapping[str, Tensor]
WHAT = {
    "accuracy": "Test accuracy of the network of this level, extracted from the nest.",
    "r2": "Explained variance of test numbers by the network of this level, extracted from the nest.",
}


@dataclass(frozen=True, eq=False)
class Level:
    """One finished level: its sparsity, its masks, its network's whole state."""

    sparsity: Fraction
    masks: MaskSet
    tensors: Tensors


@dataclass(frozen=True, eq=False)
class Embedding:
    """Everything the levels share.

    Args:
        recipe: the request.
        subject: the network all levels start from.
        parent: what the result descends from; None from scratch.
        chooser: chooses masks.
        names: prunable tensors.
        private: tensors of the classifier, where each level has its own.
    """

    recipe: EmbedRecipe
    subject: Subject
    parent: Subject | None
    chooser: Sparsifier
    names: tuple[str, ...]
    private: tuple[str, ...] = ()


def embed(recipe: EmbedRecipe, listener: Listener, *, resume: Path | None = None) -> Outcome:
    """Train every level and write one artifact that holds them all."""
    work, notes = _embedding(recipe, listener)
    machine = engine(recipe.device, recipe.precision, recipe.parallel)
    with workplace(recipe, Product(recipe, work.subject, Report(), work.parent), work.subject.name, resume=resume) as place:
        levels = _trained_levels(work, machine, listener, place)
        levels = [_in_own_types(work, level) for level in _settled(work, levels)]
        nest = _nest(work, levels)
        last = work.subject.changed(work.subject.checkpoint.with_tensors(levels[-1].tensors), levels[-1].masks)
        report = Report(tuple(_findings(work, levels, last)), _facts(work, levels, machine))
        masks = MaskSet() if nest.sparsities[-1] == 0 else last.masks
        place.finish(Product(recipe, last, report, work.parent, last.checkpoint, masks, nest))
    return _outcome(levels, report, place.folder, (*place.notes, *notes, *size_notes(place.folder / NEST, nest, last.checkpoint.tensors)))


def _nest(work: Embedding, levels: list[Level]) -> Nest:
    """What is stored: in shared state that of the last level, for all."""
    shared = work.recipe.state == "shared"
    there = tied_names(work.subject.checkpoint, work.subject.architecture)
    ties = {name: first for name, first in there.items() if {name, first} <= levels[-1].tensors.keys()}
    side = [_shared_side(work, level, levels[-1]) if shared else _side(level, work.names) for level in levels]
    side = [{name: tensor for name, tensor in one.items() if name not in ties} for one in side]
    sparsities, masks, block = [level.sparsity for level in levels], [level.masks for level in levels], work.recipe.pattern.block_size
    return Nest.of(sparsities, masks, side, work.recipe.state, block=block, ties=ties)


def _in_own_types(work: Embedding, level: Level) -> Level:
    """A level as it will be read again: in the types of the file that it came from, tied tensors as one."""
    checkpoint = in_own_types(work.subject.checkpoint.with_tensors(dict(level.tensors)))
    tensors = untied(checkpoint.tensors, tied_names(work.subject.checkpoint, work.subject.architecture))
    return replace(level, tensors=tensors)


def _settled(work: Embedding, levels: list[Level]) -> list[Level]:
    """The levels as they will be taken out: in shared state with that of the last one, statistics measured anew."""
    if work.recipe.state != "shared":
        return levels
    *others, last = levels
    return [*(_measured(work, replace(level, tensors={**level.tensors, **_shared_side(work, level, last)})) for level in others), last]


def _shared_side(work: Embedding, level: Level, last: Level) -> dict[str, Tensor]:
    """The last level's side state, with a level's own classifier where it has one."""
    return {**_side(last, work.names), **{name: level.tensors[name] for name in work.private}}


def _measured(work: Embedding, level: Level) -> Level:
    network = work.subject.changed(work.subject.checkpoint.with_tensors(dict(level.tensors)), level.masks)
    return replace(level, tensors=with_own_statistics(network).checkpoint.tensors)


def _embedding(recipe: EmbedRecipe, listener: Listener) -> tuple[Embedding, tuple[str, ...]]:
    _check_request(recipe)
    named = recipe.model or not recipe.arch
    subject = (open_subject(recipe, verbs=("train",), listener=listener) if named else fresh(recipe, recipe, recipe)).single().checked()
    subject.checkpoint.require_finite()
    subject.samples("train")
    if subject.masks and recipe.levels[-1] < subject.masks.sparsity:
        raise BadRequest(
            f"{subject.path} is sparse already ({float(subject.masks.sparsity):.4g}).", "A level cannot hold more weights than there are.",
            "Embed into a dense network, or ask for sparser levels.",
        )  # fmt: skip
    private = _private_classifier(recipe, subject)
    skip = (*recipe.skip, *private)
    rows = plan(subject.checkpoint, subject.architecture, skip=skip, include=recipe.include)
    shapes = {row.name: row.oriented for row in rows if row.matched}
    chooser = sparsifier(recipe, list(shapes), turned=turned_of(rows))
    for level in filter(None, recipe.levels):
        chooser.once(subject.checkpoint.tensors, level, pruned=subject.masks)  # refuse now what could only fail at the end
    require_level_room(recipe, subject, list(shapes), listener)
    parent = subject if recipe.model or subject.artifact else None
    return Embedding(recipe, subject, parent, chooser, tuple(shapes), private), pattern_notes(shapes, recipe.pattern)


def _private_classifier(recipe: EmbedRecipe, subject: Subject) -> tuple[str, ...]:
    """Weight and bias of the classifier, where every level gets its own."""
    if recipe.classifier == "shared":
        return ()
    module = subject.module()
    head = head_of(module, subject.samples("train").inputs[:2])
    return tuple(f"{head}.{name}" for name, _ in module.get_submodule(head).named_parameters())


def _check_request(recipe: EmbedRecipe) -> None:
    if not recipe.levels:
        raise BadRequest("No levels were asked for.", "", "Add for instance --levels 0.95,0.8,0.5")
    if recipe.sparsity is not None:
        raise BadRequest("`embed` takes its sparsities from --levels; --sparsity does not go with it.", "", "Leave --sparsity out.")
    if recipe.average and recipe.keep == "best":
        raise BadRequest("A level is its best epoch or its average.", "Others build on its weights.", "Leave --keep or --average out.")
    if recipe.average and not recipe.epochs:
        raise BadRequest("Nothing is averaged where nothing is trained.", "", "Leave --average out, or ask for --epochs.")
    if recipe.mirror:
        raise BadRequest("`embed` keeps no log that could be mirrored.", "", "Leave --mirror out.")
    if recipe.solver is not None:
        require_solvable(recipe)
    if recipe.epochs and not strategy("regimes", recipe.regime).prunes and any(recipe.levels):
        name = recipe.regime.name
        raise BadRequest(f"The regime {name} prunes nothing, so no sparse level would come of it.", "", "Use --regime gmp.")


def _trained_levels(work: Embedding, machine: Engine, listener: Listener, place: Workplace) -> list[Level]:
    state = place.resumed
    levels = _done(state)
    if not work.recipe.epochs:
        for sparsity in work.recipe.levels[len(levels) :]:
            levels.append(_one_shot(work, levels, sparsity, listener))
        return levels
    for sparsity in work.recipe.levels[len(levels) :]:

        def save(run: Mapping[str, Any], done: tuple[Level, ...] = tuple(levels)) -> None:
            place.save({**run, "levels": _plain(done)})

        going = state if state is not None and "run" in state else None
        training, _ = settled(_training(work, levels, sparsity))
        result = trained(training, machine, listener, save=save, state=going)
        levels.append(_level(work, sparsity, result))
        state = None
    return levels


def _one_shot(work: Embedding, levels: list[Level], sparsity: Fraction, listener: Listener) -> Level:
    """A level without training, with running statistics of its own: the given network's own weights, or a solver's beside the frozen ones.

    The dense level is the given network around the frozen weights, with statistics measured where a solver changed those.
    """
    start, frozen = _start(work, levels), levels[-1].masks if levels else MaskSet()
    if sparsity == 0:
        whole = Level(sparsity, MaskSet({name: torch.ones_like(start[name], dtype=torch.bool) for name in work.names}), start)
        return _repaired(work, whole, frozen, listener) if work.recipe.solver and levels else whole
    masks = work.chooser.above(frozen).once(start, sparsity, pruned=work.subject.masks)
    tensors = untied(masks.apply(start), tied_names(work.subject.checkpoint, work.subject.architecture))
    level = Level(sparsity, _counted(work, masks), tensors)
    return _repaired(work, level, frozen, listener) if work.recipe.solver else _measured(work, level)


def _repaired(work: Embedding, level: Level, frozen: MaskSet, listener: Listener) -> Level:
    """A level whose free weights a solver chose and set, as many in each layer."""
    tensors, masks = repaired(work.recipe, work.subject, level.tensors, level.masks, frozen, listener)
    return Level(level.sparsity, masks, tensors)


def _training(work: Embedding, levels: list[Level], sparsity: Fraction) -> Training:
    frozen = levels[-1].masks if levels else MaskSet()
    module = work.subject.module()
    module.load_state_dict(_start(work, levels))
    validation = work.subject.samples("validation")
    dense = sparsity == 0
    return Training(
        recipe=work.recipe, regime=Choice("fixed") if dense else work.recipe.regime, module=module,
        samples=work.subject.samples("train"), watched=validation.take(range(min(len(validation), 1000))),
        teacher=teacher_of(work.recipe, work.subject), seed=work.recipe.seed + len(levels), masks=work.subject.masks, frozen=frozen,
        held=_held(work, levels, module),
        sparsify=None if dense else work.chooser.above(frozen), target=sparsity, label=f"level {decimal(sparsity)}",
        is_trained=bool(levels) or not work.subject.is_new,
        reached=lambda masks: dense or work.chooser.above(frozen).is_held(masks, sparsity),
    )  # fmt: skip


def _held(work: Embedding, levels: list[Level], module: nn.Module) -> MaskSet:
    """Biases and affine parameters of the first level, where later ones may not change them."""
    if work.recipe.state != "shared-affine" or not levels:
        return MaskSet()
    side = {name: p for name, p in module.named_parameters() if name not in (*work.names, *work.private)}
    return MaskSet({name: torch.ones_like(p, dtype=torch.bool) for name, p in side.items()})


def _start(work: Embedding, levels: list[Level]) -> dict[str, Tensor]:
    """The given network's state, with the frozen weights of the level before."""
    given = dict(work.subject.checkpoint.tensors)
    if not levels:
        return given
    before = levels[-1]
    frozen = {name: torch.where(mask, before.tensors[name], given[name]) for name, mask in before.masks.items()}
    if work.recipe.state == "shared-affine":
        frozen |= {name: before.tensors[name] for name in given if name not in (*work.names, *work.private) and not name.endswith(BUFFERS)}
    return untied({**given, **frozen}, tied_names(work.subject.checkpoint, work.subject.architecture))


def _level(work: Embedding, sparsity: Fraction, result: Trained) -> Level:
    """What was trained, or its average; the average of a frozen weight is that weight, to the bit."""
    tensors = result.others["average"] if work.recipe.average else result.tensors
    if sparsity == 0:
        everything = {name: torch.ones_like(tensors[name], dtype=torch.bool) for name in work.names}
        return Level(sparsity, MaskSet(everything), tensors)
    work.chooser.require_held(result.masks, sparsity)
    return Level(sparsity, _counted(work, result.masks), tensors)


def _counted(work: Embedding, masks: MaskSet) -> MaskSet:
    """Without those of layers that were pruned before and are skipped now: they are kept whole beside the nest, zeros and all."""
    return MaskSet({name: masks[name] for name in work.names})


def _side(level: Level, names: tuple[str, ...]) -> dict[str, Tensor]:
    """Everything masks do not cover: batch norm, biases, layers left dense."""
    return {name: tensor for name, tensor in level.tensors.items() if name not in names}


def _plain(levels: tuple[Level, ...]) -> list[dict[str, Any]]:
    return [{"sparsity": str(level.sparsity), "masks": dict(level.masks.masks), "tensors": dict(level.tensors)} for level in levels]


def _done(state: Mapping[str, Any] | None) -> list[Level]:
    saved = state["levels"] if state else []
    return [Level(Fraction(one["sparsity"]), MaskSet(one["masks"]), one["tensors"]) for one in saved]


def _facts(work: Embedding, levels: list[Level], machine: Engine) -> dict[str, Any]:
    """What proves an extraction: sha256 of the logits of every level's trained network on the test split."""
    networks = [work.subject.changed(work.subject.checkpoint.with_tensors(level.tensors), level.masks) for level in levels]
    return {
        "data_sha256": data_identity(work.subject.samples("train")),
        "processes": machine.world,
        "parallel": machine.parallel,
        "logits_sha256": [logits_digest(network) for network in networks],
    }


def logits_digest(network: Subject) -> str:
    """sha256 of the bits of a network's logits on the test split; of texts and numbers, of its losses."""
    module, samples = network.module(), network.samples("test")
    said = predict(module, samples).logits if samples.chooses else answers(module, samples).losses
    return hashlib.sha256(said.numpy().tobytes()).hexdigest()


def _findings(work: Embedding, levels: list[Level], last: Subject) -> Iterator[Finding]:
    test = work.subject.samples("test")
    for number, level in enumerate(levels, 1):
        one = work.subject.changed(work.subject.checkpoint.with_tensors(level.tensors), level.masks)
        scope = f"level:{number}"
        name = "r2" if test.kind == "numbers" else "accuracy"
        right = share_right(one.module(), test)
        yield Finding(name=name, value=right, unit="fraction", n=len(test), scope=scope, better="higher", definition=WHAT[name])
        yield replace(_sparsity(level.masks), scope=scope)
        yield from (replace(f, scope=scope) for f in speed_findings(one.module(), test))
        yield Finding(
            name="kept", value=float(level.masks.kept), unit="weights", scope=scope, definition="Weights of this level's network."
        )
    yield from (finding for finding in size_findings(last) if not finding.scope.startswith("layer:"))


def _sparsity(masks: MaskSet) -> Finding:
    text = "Fraction of prunable weights that are zero in the network of this level."
    return Finding(name="sparsity", value=float(masks.sparsity), unit="fraction", n=masks.total, definition=text)


def _outcome(levels: list[Level], report: Report, folder: Path, notes: tuple[str, ...]) -> Outcome:
    name = next((k for k in WHAT if report.get(k, scope="level:1")), "accuracy")
    rows = [
        (
            str(n),
            decimal(level.sparsity),
            f"{level.masks.kept:,}",
            *(said(report.get(k, scope=f"level:{n}")) for k in (name, "latency_ms")),
        )
        for n, level in enumerate(levels, 1)
    ]
    return Outcome(
        "embed",
        f"Nested in one network, sparsities: {', '.join(decimal(level.sparsity) for level in levels)}.",
        report,
        folder,
        tables=(Table("levels", ("level", "sparsity", "weights", f"test {name}", "time of a batch"), tuple(rows)),),
        notes=notes,
        hints=(f"sparsify extract {folder} --level {decimal(levels[0].sparsity)}",),
    )
