"""One training run: a module, samples, a regime and an objective through the engine and the loop.

What a killed run needs to go on is written after every epoch and at Ctrl-C; what a run decides (batches, learning rate,
random numbers) depends on the recipe and the step alone.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, field, fields, replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sparsify_cli.contracts.listener import Listener, Progress
from sparsify_cli.contracts.regime import Regime
from sparsify_cli.errors import BadRequest, Interrupted
from sparsify_cli.maths.schedules import SCHEDULES
from sparsify_cli.recipes.option import Choice
from sparsify_cli.recipes.shared import TrainFields
from sparsify_cli.stages.effort import Effort
from sparsify_cli.stages.measure import share_right
from sparsify_cli.stages.minimised import loss_of
from sparsify_cli.stages.mirror import mirror
from sparsify_cli.stages.strategy import strategy
from sparsify_cli.stages.training_log import TrainingLog
from sparsify_cli.training import guard, kept_weights, loss_scale
from sparsify_cli.training.augmented import flipped, flipped_and_shifted, require_images
from sparsify_cli.training.batches import samples_of_step, steps_per_epoch
from sparsify_cli.training.engine import HALF, Engine, setup
from sparsify_cli.training.loop import Prepare, interruptible, train
from sparsify_cli.training.straight_through import seen_through
from sparsify_cli.values.mask_set import MaskSet
from sparsify_cli.values.report import Finding
from sparsify_cli.values.run import Run, Sparsify
from sparsify_cli.values.samples import Samples
from sparsify_cli.values.shards import apart, whole

ADAPTIVE: dict[str, Callable[..., torch.optim.Optimizer]] = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
"""Optimizers with a rate for each weight; `adam` takes decay as a part of the gradient."""

WATCHED = 1000
"""Validation samples whose accuracy is shown after each epoch."""

Save = Callable[[dict[str, Any]], None]


def _always(masks: MaskSet) -> bool:
    del masks
    return True


@dataclass(frozen=True, eq=False)
class Training:
    """What is trained and how.

    Args:
        recipe: optimizer, schedule, epochs, objective.
        regime: how masks evolve.
        module: starts from its current weights; trained in place.
        samples: the training split.
        watched: validation samples, for the eyes only.
        teacher: builds the dense ancestor.
        seed: of order and randomness.
        masks: enforced from the first step.
        frozen: masks whose weights must not move.
        held: further parameters that must not move, as masks.
        sparsify: chooses masks, for regimes that change them.
        target: sparsity to reach.
        label: what the progress bar says.
        log: where to write what happens.
        is_trained: the module starts from trained weights.
        objective: what is minimised; None = as the recipe has it.
        reached: whether masks hold what is asked for at the end; such networks compete for the best.
        around: masks of a network of which the module is a part, for what is told.
    """

    recipe: TrainFields
    regime: Choice
    module: nn.Module
    samples: Samples
    watched: Samples
    teacher: Callable[[], nn.Module]
    seed: int
    masks: MaskSet = field(default_factory=MaskSet)
    frozen: MaskSet = field(default_factory=MaskSet)
    held: MaskSet = field(default_factory=MaskSet)
    sparsify: Sparsify | None = None
    target: Fraction = Fraction(0)
    label: str = "training"
    log: Path | None = None
    is_trained: bool = False
    objective: Choice | None = None
    reached: Callable[[MaskSet], bool] = _always
    around: MaskSet = field(default_factory=MaskSet)


@dataclass(frozen=True, eq=False)
class Trained:
    """A finished training run.

    Args:
        tensors: the module's state, on the CPU.
        masks: as they ended.
        history: one entry an epoch: step, loss, accuracy, sparsity.
        events: what happened, epochs included.
        others: further networks that came of it: name -> state.
        findings: numbers about the training itself.
    """

    tensors: Mapping[str, Tensor]
    masks: MaskSet
    history: tuple[dict[str, float], ...]
    events: tuple[Mapping[str, Any], ...] = ()
    others: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    findings: tuple[Finding, ...] = ()


def trained(work: Training, engine: Engine, listener: Listener, *, save: Save, state: Mapping[str, Any] | None = None) -> Trained:
    """Train to the end of the run.

    Args:
        work: what and how.
        engine: device, precision, processes.
        listener: hears progress.
        save: called with a resumable state after every epoch and at Ctrl-C.
        state: what `save` was given by an interrupted run.

    Raises:
        Interrupted: at Ctrl-C, after saving.
        Diverged: a loss or weight is not finite.
    """
    with engine.together():
        return _trained(work, engine, listener, save=save, state=state)


def _trained(work: Training, engine: Engine, listener: Listener, *, save: Save, state: Mapping[str, Any] | None) -> Trained:
    run = started(work, engine)
    regime: Regime = strategy("regimes", work.regime)
    watch = _Watch(work, regime, engine, listener, save, saved=state or {})
    if state is not None:
        run.restore(state["run"])
        run.is_over = bool(state.get("is_over", False))
    elif run.warmup >= run.total:
        run.tell(
            "warning", text=f"the run has {run.total} steps and climbs for {run.warmup}: the rate never reaches --lr; shorten --warmup."
        )
    loss = loss_of(work.objective or work.recipe.objective, work.teacher)
    with closing(watch.log):
        try:
            with interruptible() as asked:
                train(
                    run, regime, loss, work.samples,
                    batch_size=work.recipe.batch_size, seed=work.seed, learning_rate=learning_rate(work.recipe, run),
                    after_step=watch, stop_requested=engine.everywhere(asked), rank=engine.rank, world=engine.world,
                    accumulate=work.recipe.accumulate, prepare=preparation(work), workers=work.recipe.workers,
                )  # fmt: skip
        except Interrupted:
            watch.keep(run)  # only here is the run at a step boundary: a second Ctrl-C or a diverged loss leaves the last good state
            raise
        finally:
            listener.done()
        engine.share(run.model)
        watch.end(run)
    others = {**regime.others(run), "average": kept_weights.averaged(run)}
    found = (kept_weights.best(run) if work.recipe.keep == "best" else None) or (run.model.state_dict(), run.masks)
    return Trained(
        on_cpu(found[0]),
        MaskSet(on_cpu(found[1])),
        tuple(watch.history),
        tuple(watch.log.entries),
        {name: on_cpu(state) for name, state in others.items() if state},
        tuple(watch.effort.findings()),
    )


def preparation(work: Training) -> Prepare | None:
    """What is done to every batch: images augmented; None where nothing is.

    Raises:
        BadRequest: the samples are no images.
    """
    if work.recipe.augment == "none":
        return None
    require_images(work.samples.inputs)
    if work.samples.kind == "numbers" and work.samples.targets.ndim > 2:
        what = "Images that are answered with images cannot be flipped alone."
        raise BadRequest(what, "Their answers would have to be flipped as well.", "Leave --augment out.")
    shifted = work.recipe.augment == "crop-flip"

    def prepare(batch: Samples, seed: int) -> Samples:
        generator = torch.Generator().manual_seed(seed)
        return replace(batch, inputs=(flipped_and_shifted if shifted else flipped)(batch.inputs, generator))

    return prepare


def on_cpu(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies of tensors, whole, on the CPU."""
    return {name: whole(value).detach().cpu().clone() for name, value in state.items()}


def started(work: Training, engine: Engine) -> Run:
    """The run at step 0: optimizer made, module on its device, frozen values remembered."""
    torch.manual_seed(work.seed)
    forward, optimizer = setup(engine, work.module, partial(optimizer_of, work.recipe))
    per_epoch = steps_per_epoch(len(work.samples), size=work.recipe.batch_size, world=engine.world)
    run = Run(
        model=work.module, forward=forward, optimizer=optimizer, backward=engine.backward,
        total=per_epoch * work.recipe.epochs, per_epoch=per_epoch, masks=work.masks,
        sparsify=engine.agreed(work.sparsify) if work.sparsify else None, target=work.target, seed=work.seed, clip=work.recipe.clip,
        is_trained=work.is_trained,
    )  # fmt: skip
    run.warmup = work.recipe.warmup.steps(per_epoch=per_epoch, total=run.total)
    if engine.world > 1:
        run.settle = engine.from_first
    if work.recipe.precision == HALF:
        loss_scale.begin(run)
    weights = run.weights()
    still = {**dict(work.frozen.items()), **dict(work.held.items())}
    run.frozen = guard.freeze(weights, {name: mask.to(weights[name].device) for name, mask in still.items()})
    return run


def optimizer_of(recipe: TrainFields, module: nn.Module) -> torch.optim.Optimizer:
    """The recipe's optimizer over every parameter."""
    if recipe.optimizer in ADAPTIVE:
        return ADAPTIVE[recipe.optimizer](module.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay)
    return torch.optim.SGD(
        module.parameters(), lr=recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay, nesterov=recipe.nesterov
    )


def learning_rate(recipe: TrainFields, run: Run) -> Callable[[int, int], float]:
    """(Step, total) -> learning rate, from the recipe alone."""
    falls: dict[str, Any] = {"milestones": recipe.milestones, "gamma": recipe.gamma} if recipe.schedule == "multi-step" else {}
    extra = {"floor": recipe.floor} if recipe.schedule in ("cosine", "linear") else falls
    schedule = SCHEDULES[recipe.schedule]

    def rate(step: int, total: int) -> float:
        warmup = recipe.warmup.steps(per_epoch=run.per_epoch, total=total)
        return recipe.lr * schedule(step, total=total, warmup=warmup, **extra)

    return rate


def settings_of(recipe: TrainFields) -> dict[str, str]:
    """Every setting of a recipe as text, by name."""
    return {one.name: str(getattr(recipe, one.name)) for one in fields(recipe)}


def _last_step(events: Sequence[Mapping[str, Any]]) -> int:
    return max((int(entry.get("step", 0)) for entry in events), default=-1) + 1


class _Watch:
    """After every step: running loss to the listener; after every epoch: accuracy, history; a resumable state as often as asked for."""

    def __init__(self, work: Training, regime: Regime, engine: Engine, listener: Listener, save: Save, *, saved: Mapping[str, Any]) -> None:
        self.work, self.regime, self.engine, self.listener, self.save = work, regime, engine, listener, save
        self.history: list[dict[str, float]] = list(saved.get("history", []))
        events = saved.get("events", ())
        told = mirror(work.recipe.mirror, work.log.parent if work.log else None, settings_of(work.recipe), step=_last_step(events))
        self.log = TrainingLog(work.log, events, told)
        self.loss: float | None = saved.get("loss")
        self.waited: int = saved.get("waited", 0)
        with apart():
            self.effort = Effort(work.module, work.samples, done=tuple(saved.get("effort", (0.0, 0.0))))
        self.shown, self.saved = 0.0, time.monotonic()
        self.rate: float = saved.get("rate", math.nan)
        self.fell: bool = saved.get("fell", False)
        self.rewinds: int = saved.get("rewinds", 0)
        self.sum: tuple[float, int] = tuple(saved.get("sum", (0.0, 0)))
        self.through = MaskSet(saved["through"]) if saved.get("through") else None

    def __call__(self, run: Run, value: Tensor) -> None:
        """Called by the loop after every step."""
        self.loss = float(value) if self.loss is None else 0.95 * self.loss + 0.05 * float(value)
        self.sum = (self.sum[0] + float(value), self.sum[1] + 1)
        self._count(run)
        self._follow_rate(run)
        if self.work.recipe.average:
            kept_weights.average(run, self.work.recipe.average)
        self.hear(run)
        if run.step % run.per_epoch == 0 or run.step == run.total:
            self._epoch(run)
        elif time.monotonic() - self.shown > 0.1:
            self._show(run)
        if run.is_over or run.step == run.total or self._is_time(run):
            self.keep(run)  # at the end, too: nothing that fails afterwards costs the training

    def keep(self, run: Run) -> None:
        """Hand out a state that a later process can resume from."""
        found: dict[str, Any] = {"history": self.history, "loss": self.loss, "events": self.log.entries, "waited": self.waited}
        found |= {"effort": (self.effort.spent, self.effort.dense), "through": dict(self.through.masks) if self.through else None}
        found |= {"rate": self.rate, "fell": self.fell, "rewinds": self.rewinds, "sum": self.sum, "is_over": run.is_over}
        self.save({"run": run.state(), **found})
        self.saved = time.monotonic()

    def hear(self, run: Run) -> None:
        """Write down what the regime told."""
        for event in run.events:
            self.log.add(event)
        run.events.clear()

    def end(self, run: Run) -> None:
        """After the regime has finished: what it told then, and the network as it is now among the best."""
        self.hear(run)
        self.through = None
        if self._judges and self.work.reached(run.masks):
            kept_weights.offer(run, self._accuracy(run))

    def _count(self, run: Run) -> None:
        run.step -= 1  # the regime is asked about the step that was taken
        passes = self.regime.passes(run)
        run.step += 1
        if self.through is None or self.regime.looks_up:
            self.through = self.regime.seen(run)
        size, world = self.work.recipe.batch_size, self.engine.world
        samples = samples_of_step(len(self.work.samples), size=size, world=world, step=run.step - 1)
        self.effort.add(run.masks if self.through is None else self.through, passes, samples=samples)

    def _follow_rate(self, run: Run) -> None:
        """How often the learning rate was put back: it rose, at once or in a climb, after it had fallen."""
        now = float(run.optimizer.param_groups[0]["lr"])
        rose = now > self.rate
        self.rewinds += rose and self.fell
        self.fell = now < self.rate or (self.fell and not rose)
        self.rate = now

    def _is_time(self, run: Run) -> bool:
        every = self.work.recipe.save_every
        if every.duration is not None:
            return run.step % max(1, every.duration.steps(per_epoch=run.per_epoch, total=run.total)) == 0
        waited = torch.tensor(time.monotonic() - self.saved > 60 * (every.minutes or 0))
        return bool(self.engine.from_rank_zero(waited))

    @property
    def _judges(self) -> bool:
        return self.work.recipe.keep == "best" or self.work.recipe.patience > 0

    def _accuracy(self, run: Run) -> float:
        """Of numbers R^2."""
        with nullcontext() if self.through is None else seen_through(run, self.through), apart():
            found = share_right(run.model, self.work.watched)
        return float(self.engine.from_rank_zero(torch.tensor(found, dtype=torch.float64)))

    def _epoch(self, run: Run) -> None:
        self.through = self.regime.seen(run)
        masks = (run.masks if self.through is None else self.through) or self.work.around
        loss, self.sum = self.sum[0] / max(1, self.sum[1]), (0.0, 0)
        entry = {"step": run.step, "loss": loss, "accuracy": self._accuracy(run), "sparsity": float(masks.sparsity)}
        self.history.append(entry)
        said = {"measure": "explained variance"} if self.work.watched.kind == "numbers" else {}
        self.log.add({"event": "epoch", **entry, **said, "rate": self.rate, "rewinds": self.rewinds})
        self._show(run)
        if self._judges and self.work.reached(run.masks) and self.regime.is_settled(run):
            self.waited = 0 if kept_weights.offer(run, entry["accuracy"]) else self.waited + 1
            if self.work.recipe.patience and self.waited >= self.work.recipe.patience:
                run.is_over = True
                self.log.add({"event": "stopped", "step": run.step, "text": f"no better for {self.waited} epochs"})

    def _show(self, run: Run) -> None:
        self.shown = time.monotonic()
        last = self.history[-1]["accuracy"] if self.history and self.work.watched.kind != "numbers" else None
        if self.engine.rank == 0:
            self.listener.progress(Progress(self.work.label, run.step, run.total, self.loss, last, float(run.masks.sparsity)))
