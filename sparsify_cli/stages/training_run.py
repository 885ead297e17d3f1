"""One training run: a module, samples, a regime and an objective through the engine and the loop.

What a killed run needs to go on is written after every epoch and at Ctrl-C; what a run decides (batches, learning rate,
random numbers) depends on the recipe and the step alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, nn

from sparsify_cli.contracts.listener import Listener, Progress
from sparsify_cli.errors import Interrupted
from sparsify_cli.maths.schedules import SCHEDULES
from sparsify_cli.recipes.option import Choice
from sparsify_cli.recipes.shared import TrainFields
from sparsify_cli.stages.measure import predict
from sparsify_cli.stages.strategy import strategy
from sparsify_cli.training import guard
from sparsify_cli.training.batches import steps_per_epoch
from sparsify_cli.training.engine import Engine, setup
from sparsify_cli.training.loop import interruptible, train
from sparsify_cli.values.mask_set import MaskSet
from sparsify_cli.values.run import Run, Sparsify
from sparsify_cli.values.samples import Samples

WATCHED = 1000
"""Validation samples whose accuracy is shown after each epoch."""

Save = Callable[[dict[str, Any]], None]


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
        sparsify: chooses masks, for regimes that change them.
        target: sparsity to reach.
        label: what the progress bar says.
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
    sparsify: Sparsify | None = None
    target: Fraction = Fraction(0)
    label: str = "training"


@dataclass(frozen=True, eq=False)
class Trained:
    """A finished training run.

    Args:
        tensors: the module's state, on the CPU.
        masks: as they ended.
        history: one entry an epoch: step, loss, accuracy, sparsity.
    """

    tensors: Mapping[str, Tensor]
    masks: MaskSet
    history: tuple[dict[str, float], ...]


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
    run = started(work, engine)
    watch = _Watch(work, engine, listener, save, saved=state or {})
    if state is not None:
        run.restore(state["run"])
    loss = strategy("objectives", work.recipe.objective).prepare(work.teacher)
    try:
        with interruptible() as asked:
            train(
                run, strategy("regimes", work.regime), loss, work.samples,
                batch_size=work.recipe.batch_size, seed=work.seed, learning_rate=learning_rate(work.recipe, run),
                after_step=watch, stop_requested=engine.everywhere(asked), rank=engine.rank, world=engine.world,
            )  # fmt: skip
    except Interrupted:
        watch.keep(run)  # only here is the run at a step boundary: a second Ctrl-C or a diverged loss leaves the last good state
        raise
    finally:
        listener.done()
    engine.share(run.model)
    tensors = {name: value.detach().cpu().clone() for name, value in run.model.state_dict().items()}
    return Trained(tensors, MaskSet({name: mask.cpu() for name, mask in run.masks.items()}), tuple(watch.history))


def started(work: Training, engine: Engine) -> Run:
    """The run at step 0: optimizer made, module on its device, frozen values remembered."""
    torch.manual_seed(work.seed)
    forward, optimizer = setup(engine, work.module, optimizer_of(work.recipe, work.module))
    per_epoch = steps_per_epoch(len(work.samples), size=work.recipe.batch_size, world=engine.world)
    run = Run(
        model=work.module, forward=forward, optimizer=optimizer, backward=engine.backward,
        total=per_epoch * work.recipe.epochs, per_epoch=per_epoch, masks=work.masks,
        sparsify=engine.agreed(work.sparsify) if work.sparsify else None, target=work.target, seed=work.seed,
    )  # fmt: skip
    if engine.world > 1:
        run.settle = engine.from_first
    weights = run.weights()
    run.frozen = guard.freeze(weights, {name: mask.to(weights[name].device) for name, mask in work.frozen.items()})
    return run


def optimizer_of(recipe: TrainFields, module: nn.Module) -> torch.optim.Optimizer:
    """The recipe's optimizer over every parameter."""
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(module.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay)
    return torch.optim.SGD(module.parameters(), lr=recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay)


def learning_rate(recipe: TrainFields, run: Run) -> Callable[[int, int], float]:
    """(Step, total) -> learning rate, from the recipe alone."""
    extra = {"milestones": recipe.milestones, "gamma": recipe.gamma} if recipe.schedule == "multi-step" else {}
    schedule = SCHEDULES[recipe.schedule]

    def rate(step: int, total: int) -> float:
        warmup = recipe.warmup.steps(per_epoch=run.per_epoch, total=total)
        return recipe.lr * schedule(step, total=total, warmup=warmup, **extra)

    return rate


class _Watch:
    """After every step: running loss to the listener; after every epoch: accuracy, history, a resumable state."""

    def __init__(self, work: Training, engine: Engine, listener: Listener, save: Save, *, saved: Mapping[str, Any]) -> None:
        self.work, self.engine, self.listener, self.save = work, engine, listener, save
        self.history: list[dict[str, float]] = list(saved.get("history", []))
        self.loss: float | None = saved.get("loss")
        self.shown = 0.0

    def __call__(self, run: Run, value: Tensor) -> None:
        """Called by the loop after every step."""
        self.loss = float(value) if self.loss is None else 0.95 * self.loss + 0.05 * float(value)
        if run.step % run.per_epoch == 0 or run.step == run.total:
            self._epoch(run)
        elif time.monotonic() - self.shown > 0.1:
            self._show(run)

    def keep(self, run: Run) -> None:
        """Hand out a state that a later process can resume from."""
        self.save({"run": run.state(), "history": self.history, "loss": self.loss})

    def _epoch(self, run: Run) -> None:
        correct = predict(run.model, self.work.watched).correct.double().mean()
        entry = {"step": run.step, "loss": self.loss or 0.0, "accuracy": float(correct), "sparsity": float(run.masks.sparsity)}
        self.history.append(entry)
        self._show(run)
        if run.step < run.total:
            self.keep(run)

    def _show(self, run: Run) -> None:
        self.shown = time.monotonic()
        last = self.history[-1]["accuracy"] if self.history else None
        if self.engine.rank == 0:
            self.listener.progress(Progress(self.work.label, run.step, run.total, self.loss, last, float(run.masks.sparsity)))
