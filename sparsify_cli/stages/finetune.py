"""`finetune`: train a network further; masks hold after every step, on weights and optimizer state."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from sparsify_cli.contracts.listener import Listener
from sparsify_cli.contracts.regime import Regime
from sparsify_cli.errors import BadRequest, MissingContext, MissingFile, UnreadableFile
from sparsify_cli.recipes.pattern import Pattern
from sparsify_cli.recipes.shared import TrainFields
from sparsify_cli.recipes.verbs import FinetuneRecipe, TrainRecipe
from sparsify_cli.stages.after_forgetting import meant
from sparsify_cli.stages.classifier import Probe, featured, probe, require_transferable, with_classifier
from sparsify_cli.stages.distillation import settled, with_weight
from sparsify_cli.stages.evidence import alone, compared
from sparsify_cli.stages.lineage import dense_ancestor
from sparsify_cli.stages.minimised import needs_teacher
from sparsify_cli.stages.mirror import require_mirror
from sparsify_cli.stages.norms import with_exact_norms
from sparsify_cli.stages.outcome import Outcome, Table
from sparsify_cli.stages.plan import plan, turned_of
from sparsify_cli.stages.sizes import size_findings
from sparsify_cli.stages.sparsifier import Sparsifier, collapse_notes, pattern_notes, sparsifier
from sparsify_cli.stages.strategy import strategy
from sparsify_cli.stages.subject import Subject, open_subject
from sparsify_cli.stages.tables import ELSEWHERE, before_after, called, quality, said
from sparsify_cli.stages.teachers import teacher_notes, teacher_of
from sparsify_cli.stages.training_log import warnings_in
from sparsify_cli.stages.training_run import Trained, Training, preparation, trained
from sparsify_cli.stages.undertraining import fall, fit
from sparsify_cli.stages.undertraining import verdict as undertrained
from sparsify_cli.stages.workplace import workplace
from sparsify_cli.stages.write import Product, data_identity
from sparsify_cli.training.engine import HALF, Engine, engine
from sparsify_cli.values.artifact import LOG, OTHERS
from sparsify_cli.values.mask_set import MaskSet
from sparsify_cli.values.report import Finding, Report
from sparsify_cli.values.tensor_file import save_dense

LESS_LASSO = "A smaller --set regime.lam leaves more."
"""What gives thin layers more where groups are shrunk."""
COLLAPSE, NOISE = 0.1, 0.01
"""Fall of accuracy, fraction, from which a note says what to try."""

SHOWN = (
    "accuracy", "nll", "ece", *ELSEWHERE, "sparsity", "sparsity_total", "bytes_disk", "bytes_packed", "macs", "macs_nonzero",
    "latency_ms", "training_macs_share",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Start:
    """Where a training verb starts.

    Args:
        subject: weights, masks and context; its module fits its data.
        parent: what the result descends from; None from scratch.
        chooser: chooses masks; None when nothing will be pruned.
        target: sparsity to reach.
        notes: sentences about the plan.
        head: the classifier that was made anew for another task; empty where the task is still the ancestor's.
    """

    subject: Subject
    parent: Subject | None
    chooser: Sparsifier | None
    target: Fraction
    notes: tuple[str, ...] = ()
    head: str = ""


NO_NORMS = "--batchnorm changed nothing: no layer keeps running statistics, or a classifier alone was trained."


def finetune(recipe: FinetuneRecipe, listener: Listener, *, resume: Path | None = None) -> Outcome:
    """Train a checkpoint or artifact further and write the result."""
    return run_training(recipe, start_of(recipe, listener), listener, resume=resume)


def start_of(recipe: FinetuneRecipe, listener: Listener) -> Start:
    """What is trained further, and how it will be pruned; whatever is wrong with the request is found here."""
    require_transferable(recipe)
    opened = open_subject(recipe, verbs=("prune", "shrink", "finetune", "train"), listener=listener).single()
    anew = recipe.transfer != "none"
    subject, head = with_classifier(opened, head=recipe.head, seed=recipe.seed) if anew else (opened, "")
    subject.checked().checkpoint.require_finite()
    subject.samples("train")
    chooser, target, notes = pruning_plan(recipe, subject, dense=head)
    return Start(subject, opened, chooser, target, (*notes, *_format_note(opened, subject)), head)


def _format_note(opened: Subject, now: Subject) -> tuple[str, ...]:
    """A word where the original's format cannot hold the network any more."""
    if opened.checkpoint.home is None or now.checkpoint.home is not None:
        return ()
    return ("the new classifier has another shape than the file's: weights are written as safetensors, as trained, without its extras.",)


def pruning_plan(
    recipe: FinetuneRecipe | TrainRecipe, subject: Subject, *, dense: str = ""
) -> tuple[Sparsifier | None, Fraction, tuple[str, ...]]:
    """How masks will be chosen and the sparsity to reach; nothing for regimes that keep the masks as they are.

    Args:
        recipe: the request.
        subject: what is pruned.
        dense: a layer that is not, whatever the recipe says.

    Raises:
        BadRequest: such a regime with a sparsity, or another one without.
        UnknownName: no such regime or objective.
    """
    regime: Regime = strategy("regimes", recipe.regime)
    require_mirror(recipe.mirror)
    needs_teacher(with_weight(recipe))  # a wrong name or option is found before anything is trained
    wanted = recipe.sparsity is not None or recipe.pattern != Pattern()
    if not regime.aims:
        if wanted:
            what = f"The regime {recipe.regime.name} is given no sparsity; --sparsity and --pattern do not go with it."
            why = "It keeps the masks as they are, or finds out itself what can go (its options: sparsify list regimes)."
            raise BadRequest(what, why, "Leave them out, or choose another regime, such as gmp.")
        return None, subject.masks.sparsity, ()
    rows = plan(subject.checkpoint, subject.architecture, skip=recipe.skip, include=recipe.include)
    shapes = {row.name: row.oriented for row in rows if row.matched and row.name != f"{dense}.weight"}
    chooser = sparsifier(recipe, list(shapes), turned=turned_of(rows))
    now = chooser.knowing({name: subject.checkpoint.tensors[name].abs() for name in chooser.follows})  # nothing has moved yet
    target = now.target(subject.checkpoint.tensors, recipe.sparsity, pruned=subject.masks)
    now.once(subject.checkpoint.tensors, target, pruned=subject.masks)  # refuse now what could only fail at the end
    return chooser, target, pattern_notes(shapes, recipe.pattern)


def run_training(recipe: FinetuneRecipe | TrainRecipe, start: Start, listener: Listener, *, resume: Path | None) -> Outcome:
    """Train from a start and write the artifact."""
    machine = engine(recipe.device, recipe.precision, recipe.parallel)
    if recipe.precision == HALF and machine.fabric.device.type == "cpu":
        listener.note("16-mixed is many times slower than 32-true on a processor; bf16-mixed is not")
    unfinished = Product(recipe, start.subject, Report(), start.parent)
    with workplace(recipe, unfinished, start.subject.name, resume=resume) as place:
        _require_fewer(place.resumed, start)
        training = replace(training_of(recipe, start, listener), log=place.folder / LOG, reached=_reached(recipe, start))
        training, distilled = settled(training)
        result = trained(training, machine, listener, save=place.save, state=place.resumed)
        if start.chooser is not None and strategy("regimes", recipe.regime).prunes:
            start.chooser.require_held(result.masks, start.target)
        is_probe = isinstance(training.module, Probe)
        after = _trained_subject(start, result, is_probe=is_probe)
        anew = recipe.batchnorm and not is_probe
        after, norms = with_exact_norms(after, preparation(training), seed=recipe.seed) if anew else (after, None)
        fits, verdict = _fits(start, after, result)
        beside = [one for tried in (distilled, norms) if tried for one in tried.findings()]
        found = [*_findings(start, after), *beside, *fits, *(() if is_probe else result.findings)]
        report = Report(tuple(found), _facts(start, result, machine))
        for name, state in result.others.items():
            (place.folder / OTHERS).mkdir(exist_ok=True)
            save_dense(_other(place.folder, name), {**start.subject.checkpoint.tensors, **state} if is_probe else state)
        place.finish(Product(recipe, after, report, start.parent, after.checkpoint, after.masks))
    notes = (
        *place.notes,
        *start.notes,
        *([distilled.note()] if distilled else ()),
        *([norms.note() if norms else NO_NORMS] if recipe.batchnorm else ()),
        *([verdict] if verdict else ()),
        *(warnings_in(result.events, LESS_LASSO) if recipe.regime.name == "ssl" else warnings_in(result.events)),
        *(_about_other(name, place.folder) for name in result.others),
    )
    return _outcome(recipe, replace(start, notes=notes), after, report, place.folder)


def _require_fewer(state: Mapping[str, Any] | None, start: Start) -> None:
    """A run that goes on with another recipe may not have pruned more than it is to prune in all.

    Raises:
        BadRequest: it has.
    """
    masks = MaskSet(state["run"]["masks"]) if state and start.chooser is not None else MaskSet()
    more = (masks.sparsity - start.target) * masks.total
    if start.chooser is not None and more > start.chooser.pattern.block_size:
        what = f"The interrupted run has pruned {float(masks.sparsity):.2%} already, and is to end at {float(start.target):.2%}."
        raise BadRequest(what, "Weights that were pruned stay pruned.", f"Ask for --sparsity {float(masks.sparsity):.4g} or more.")


def _trained_subject(start: Start, result: Trained, *, is_probe: bool) -> Subject:
    """The network as it is now; of a probe the classifier alone is new."""
    old = start.subject
    known = old.checkpoint.tensors
    tensors = {**known, **result.tensors} if is_probe else result.tensors
    if old.checkpoint.home is not None:  # what is written has the types of the file, so that is what is measured
        tensors = {name: value.to(known[name].dtype) if name in known else value for name, value in tensors.items()}
        tensors = {name: value for name, value in tensors.items() if name in known or not name.endswith(".num_batches_tracked")}
    return old.changed(old.checkpoint.with_tensors(tensors), old.masks if is_probe else result.masks)


def _reached(recipe: FinetuneRecipe | TrainRecipe, start: Start) -> Callable[[MaskSet], bool]:
    """Whether masks hold the sparsity and pattern that were asked for."""
    chooser = start.chooser if strategy("regimes", recipe.regime).prunes else None
    return lambda masks: chooser is None or chooser.is_held(masks, start.target)


def _fits(start: Start, after: Subject, result: Trained) -> tuple[list[Finding], str]:
    """How the network fits its training samples, beside the dense one where there is one; and a sentence if it is under-trained."""
    train = start.subject.samples("train")
    now, dense = fit(after.module(), train), _dense_beside(start, result)
    if dense is None or not after.masks:
        return now.findings("compressed"), ""
    then = fit(dense.module(), train)
    return [*now.findings("compressed"), *then.findings("dense")], undertrained(now, then, fall(result.history))


def _dense_beside(start: Start, result: Trained) -> Subject | None:
    """The dense network to compare with: the one that came of the same run, else the ancestor."""
    if "dense" in result.others:
        return start.subject.changed(start.subject.checkpoint.with_tensors(result.others["dense"]), MaskSet())
    if start.parent is None or start.head:
        return None
    return _ancestor(start.parent)


def _ancestor(parent: Subject) -> Subject | None:
    """The dense network that another was pruned from, or itself; None where it is gone, for what is trained is kept without it, too."""
    try:
        return dense_ancestor(parent) if parent.masks else parent
    except (MissingContext, MissingFile, UnreadableFile):
        return None


def _other(folder: Path, name: str) -> Path:
    return folder / OTHERS / f"{name}.safetensors"


def _about_other(name: str, folder: Path) -> str:
    return f"also written, the {name} network that came of it: {_other(folder, name)}"


def training_of(recipe: FinetuneRecipe | TrainRecipe, start: Start, listener: Listener) -> Training:
    """What is trained and how; a classifier that is trained alone has its features computed here."""
    subject = start.subject
    validation = subject.samples("validation")
    whole = Training(
        recipe=recipe, regime=recipe.regime, module=subject.module(), samples=subject.samples("train"),
        watched=validation.take(range(min(len(validation), 1000))), teacher=teacher_of(recipe, subject), seed=recipe.seed,
        masks=subject.masks, sparsify=start.chooser, target=start.target, label=recipe.verb, is_trained=not subject.is_new,
    )  # fmt: skip
    for note in teacher_notes(recipe, subject):
        listener.note(note)
    if not isinstance(recipe, FinetuneRecipe) or recipe.transfer != "linear":
        return whole
    listener.note("computing features once")
    samples, watched = (featured(whole.module, start.head, part) for part in (whole.samples, whole.watched))
    alone = replace(whole, module=probe(whole.module, start.head), samples=samples, watched=watched)
    return replace(alone, masks=MaskSet(), around=subject.masks)


def _findings(start: Start, after: Subject) -> list[Finding]:
    sizes = size_findings(after)
    if start.parent is None or start.head:
        return [*sizes, *alone(after)]
    return [*sizes, *_against_ancestor(start.parent, after)]


def _against_ancestor(parent: Subject, after: Subject) -> list[Finding]:
    before = _ancestor(parent)
    if before is None:
        return alone(after)
    old = [replace(f, of="dense") for f in size_findings(before) if not f.scope.startswith("layer:")]
    return [*compared(before, after), *old]


def _facts(start: Start, result: Trained, machine: Engine) -> dict[str, object]:
    train = start.subject.samples("train")
    where = {"processes": machine.world, "parallel": machine.parallel}
    return {"history": list(result.history), **where, "data_sha256": data_identity(train), "samples": len(train)}


def _outcome(recipe: FinetuneRecipe | TrainRecipe, start: Start, after: Subject, report: Report, folder: Path) -> Outcome:
    now, dense = quality(report), quality(report, of="dense")
    given = _given(start, now) if start.subject.masks and start.target <= start.subject.masks.sparsity else None
    others = [f"{name} {said(one)}" for name, one in (("before training", given), ("dense ancestor", dense)) if one]
    against = f" ({', '.join(others)})" if others else ""
    sparse = f"sparsity {float(after.masks.sparsity):.2%}" if after.masks else "dense"
    but = "" if given or start.parent is None else meant(_ancestor(start.parent), start.parent)
    ran = len(report.facts.get("history", ())) or recipe.epochs
    count = f"{ran} of {recipe.epochs}" if ran < recipe.epochs else f"{ran}"  # fewer where patience ran out
    steps = f"{count} {'epoch' if recipe.epochs == 1 else 'epochs'} of {len(start.subject.samples('train')):,} samples"
    return Outcome(
        recipe.verb,
        f"Trained {steps}: test {called(now)} {said(now)}{against}, {sparse}.",
        report,
        folder,
        tables=(_table(report, dense is not None),),
        notes=(
            *start.notes,
            *(collapse_notes(after.masks, LESS_LASSO) if recipe.regime.name == "ssl" else collapse_notes(after.masks)),
            *_accuracy_notes(recipe, report, given or dense, but),
            *_chance_note(recipe, start, report),
        ),
        hints=(_next(recipe, folder, after, has_dense=dense is not None), *_shrinking(recipe, folder)),
    )


def _shrinking(recipe: FinetuneRecipe | TrainRecipe, folder: Path) -> tuple[str, ...]:
    """What makes whole groups of zeros really go."""
    if recipe.regime.name != "ssl":
        return ()
    return (f"sparsify shrink {folder}{' --compact 0.5' if 'shapes' in str(dict(recipe.regime.options).get('groups', '')) else ''}",)


def _next(recipe: FinetuneRecipe | TrainRecipe, folder: Path, after: Subject, *, has_dense: bool) -> str:
    if not after.masks:
        return f"sparsify prune {folder} --sparsity {float(recipe.sparsity) if recipe.sparsity else 0.9:g}"
    beside = _other(folder, "dense")
    if has_dense or not beside.exists():
        return f"sparsify report {folder}" if has_dense else f"sparsify export {folder} --to packed"
    return f"sparsify report {folder} --dense {beside}"


def _given(start: Start, now: Finding | None) -> Finding | None:
    """How good the pruned network was that training started from, as its own folder says of as many samples of the same data."""
    manifest = start.parent.artifact.manifest if start.parent and start.parent.artifact and not start.head else {}
    data = start.subject.data
    if now is None or data is None or Path((manifest.get("data") or {}).get("name", "")).name != Path(data.name).name:
        return None
    wanted = {"name": now.name, "scope": "all", "of": "compressed", "n": now.n}
    found = (one["value"] for one in manifest.get("numbers", ()) if wanted.items() <= one.items())
    value = next(found, None)
    return None if value is None else Finding(name=now.name, value=value, unit=now.unit, n=now.n)


def _accuracy_notes(recipe: TrainFields, report: Report, given: Finding | None, but: str = "") -> tuple[str, ...]:
    """A warning when training left much less accuracy than the dense ancestor has; less than it was given, where no more was pruned."""
    now, dense = report.get("accuracy"), report.get("accuracy", of="dense")
    before = given or dense
    if now is None or before is None or (before.value or 0) - (now.value or 0) < (NOISE if given else COLLAPSE):
        return ()
    more = "--epochs" if given else "--epochs or less sparsity"
    return (f"accuracy fell from {said(before)} to {said(now)}: {but}try a smaller --lr than {recipe.lr:g}, more {more}.",)


def _chance_note(recipe: TrainFields, start: Start, report: Report) -> tuple[str, ...]:
    """A warning when a network on another task learnt hardly more than to guess."""
    accuracy, classes = report.get("accuracy"), start.subject.samples("train").outputs
    if not start.head or accuracy is None or (accuracy.value or 0) > 1.5 / max(1, classes):
        return ()
    return (f"accuracy is hardly above guessing among {classes} classes: try a smaller --lr than {recipe.lr:g}, or more --epochs.",)


def _table(report: Report, has_dense: bool) -> Table:
    if has_dense:
        return before_after("against the dense ancestor", report, SHOWN)
    rows = tuple((name.replace("_", " "), said(report.get(name))) for name in SHOWN if report.get(name))
    return Table("measured", ("", "value"), rows)
