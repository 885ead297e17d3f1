"""What `train` or `finetune` would do, before it does: samples, steps, what is pruned and what is trained."""

from __future__ import annotations

from sparsify_cli.contracts.listener import Listener
from sparsify_cli.contracts.regime import Regime
from sparsify_cli.recipes.verbs import FinetuneRecipe, TrainRecipe
from sparsify_cli.stages import finetune, train
from sparsify_cli.stages.finetune import Start, training_of
from sparsify_cli.stages.minimised import loss_of
from sparsify_cli.stages.outcome import Table
from sparsify_cli.stages.strategy import strategy
from sparsify_cli.stages.training_run import preparation, started
from sparsify_cli.training import guard
from sparsify_cli.training.batches import steps_per_epoch
from sparsify_cli.training.engine import engine
from sparsify_cli.training.loop import check
from sparsify_cli.values.run import Run


def training_plan(recipe: FinetuneRecipe | TrainRecipe, listener: Listener) -> Table:
    """The plan of a training verb; everything it would refuse at its start is refused here.

    Raises:
        MissingContext, BadRequest, BadData: as the verb itself.
    """
    start = train.start_of(recipe) if isinstance(recipe, TrainRecipe) else finetune.start_of(recipe, listener)
    samples = start.subject.samples("train")
    per_epoch = steps_per_epoch(len(samples), size=recipe.batch_size)
    total = per_epoch * recipe.epochs
    warmup = recipe.warmup.steps(per_epoch=per_epoch, total=total)
    rows = [
        ("samples", f"{len(samples):,} for training, {len(start.subject.samples('validation')):,} for validation"),
        ("steps", f"{per_epoch:,} an epoch, {total:,} in all; the rate climbs for {warmup:,}"),
        *_pruned(start),
        *_classifier(recipe, start),
        *_warned(recipe, start, listener),
    ]
    return Table("plan", ("", ""), tuple(rows))


def _warned(recipe: FinetuneRecipe | TrainRecipe, start: Start, listener: Listener) -> list[tuple[str, str]]:
    """What the run itself says before its first step."""
    if isinstance(recipe, FinetuneRecipe) and recipe.transfer == "linear":
        return []  # its features take a pass over the data
    return [("note", str(event["text"])) for event in _begun(recipe, start, listener).events if event.get("event") == "warning"]


def _begun(recipe: FinetuneRecipe | TrainRecipe, start: Start, listener: Listener) -> Run:
    """The run before its first step, refused if it would be."""
    work = training_of(recipe, start, listener)
    machine = engine(recipe.device, recipe.precision, recipe.parallel)
    with machine.together():
        run = started(work, machine)
        check(run, work.samples, recipe.batch_size // machine.world)
        preparation(work)
        loss_of(work.objective or recipe.objective, work.teacher)
        guard.place(run)
        regime: Regime = strategy("regimes", work.regime)
        regime.start(run)
    return run


def _pruned(start: Start) -> list[tuple[str, str]]:
    masks = start.subject.masks
    now = f"{float(masks.sparsity):.2%} zeros in {len(masks)} tensors stay zero" if masks else "nothing is pruned"
    rows = [("masks now", now)]
    return [*rows, ("masks in the end", f"{float(start.target):.2%} zeros")] if start.chooser is not None else rows


def _classifier(recipe: FinetuneRecipe | TrainRecipe, start: Start) -> list[tuple[str, str]]:
    if not start.head or not isinstance(recipe, FinetuneRecipe) or start.parent is None:
        return []
    weight = f"{start.head}.weight"
    old, new = (len(one.checkpoint.tensors[weight]) for one in (start.parent, start.subject))
    what = "it alone, on features computed once" if recipe.transfer == "linear" else "everything"
    return [("classifier", f"{start.head}, drawn anew: {old} -> {new} outputs, dense"), ("trained", what)]
