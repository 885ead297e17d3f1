"""The one training loop: any regime with any objective, stoppable and resumable at every step.

Everything a step depends on is the run's state and the step's number: the batch, the learning rate, and the seed of the
random numbers inside the network (dropout), which is set anew at each step from (seed, step, process). What an
`after_step` draws or evaluates therefore never changes training, and a resumed run repeats the uninterrupted one bit for bit.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from types import FrameType

import torch
from torch import Tensor, nn

from sparsify_cli.contracts.objective import Loss
from sparsify_cli.contracts.regime import Regime
from sparsify_cli.errors import BadData, BadRequest, Diverged, Interrupted
from sparsify_cli.training import guard, loss_scale
from sparsify_cli.training.ahead import ahead
from sparsify_cli.training.batches import as_taken_by, batch_of, derived_seed, samples_of_step
from sparsify_cli.training.batchnorm import has_batchnorm
from sparsify_cli.training.seeding import seed_torch
from sparsify_cli.values.losses import require_answers
from sparsify_cli.values.run import Run
from sparsify_cli.values.samples import Samples
from sparsify_cli.values.shards import apart

AfterStep = Callable[[Run, Tensor], None]
Prepare = Callable[[Samples, int], Samples]


def train(
    run: Run,
    regime: Regime,
    loss: Loss,
    samples: Samples,
    *,
    batch_size: int,
    seed: int,
    learning_rate: Callable[[int, int], float],
    after_step: AfterStep | None = None,
    stop_requested: Callable[[], bool] | None = None,
    rank: int = 0,
    world: int = 1,
    accumulate: int = 1,
    prepare: Prepare | None = None,
    workers: int = 0,
) -> None:
    """Train from `run.step` to `run.total`.

    Args:
        run: changed in place; at a step boundary whenever `after_step` is called and whenever this raises `Interrupted`.
        regime: how a step and the masks evolve; started at step 0 only, finished after the last step.
        loss: what an objective prepared.
        samples: the training split.
        batch_size: samples of one step, over all processes.
        seed: of the order of samples and of the random numbers inside the network.
        learning_rate: (step, total) -> rate of every parameter group; a pure function of both, which the regime's clock gives.
        after_step: called after every step with the run and the detached loss.
        stop_requested: asked between steps, not after the last; by default Ctrl-C and SIGTERM, as `interruptible`.
        rank: which process, 0 .. world - 1.
        world: processes that train together.
        accumulate: parts a batch is computed in.
        prepare: (batch, seed) -> the batch that is trained on, such as augmented images; the seed depends on step and process.
        workers: threads that cut out and prepare batches ahead; the batches are the same.

    Raises:
        Interrupted: a stop was requested; `run.state()` is resumable.
        Diverged: a loss (before the weights are touched) or, at the end, a weight is not finite.
        BadData, BadRequest: samples, labels or batch size do not fit the model.
    """
    check(run, samples, batch_size // world)
    guard.place(run)

    def given(step: int) -> Samples:
        batch = batch_of(samples, step, size=batch_size, seed=seed, rank=rank, world=world)
        return batch if prepare is None else prepare(batch, derived_seed(seed, step, rank, 1))

    with _stopping(stop_requested) as stop, closing(ahead(given, _steps_left(run), workers=workers)) as order:
        if run.step == 0:
            _stop_here(run, stop)
            regime.start(run)
        for batch in order:
            _ready(run, learning_rate(*regime.clock(run)), derived_seed(seed, run.step, rank))
            every = samples_of_step(len(samples), size=batch_size, world=world, step=run.step)
            value = regime.step(run, _BatchLoss(run, loss, batch, accumulate, every, world))
            run.step += 1
            if after_step is not None:
                after_step(run, value)
            if run.is_over:
                break
            _stop_here(run, stop)
        regime.finish(run)
    _check_weights(run)


def _steps_left(run: Run) -> range:
    return range(run.step, run.step if run.is_over else run.total)


@contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """Turn Ctrl-C (and SIGTERM) into a flag that is asked between steps; a second Ctrl-C raises at once.

    Outside the main thread signals cannot be caught, and the flag stays down.
    """
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return

    def raise_flag(number: int, frame: FrameType | None) -> None:
        del number, frame
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()

    before = {number: signal.signal(number, raise_flag) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@torch.no_grad()
def check_fit(model: nn.Module, samples: Samples) -> None:
    """Check on two samples that the model takes these inputs, also in train mode, and has an output for every label.

    Modes, running statistics and the random numbers that follow are as before afterwards.

    Raises:
        BadData: it does not.
    """
    _check_labels(_tried(model, samples, training=False), samples)
    if len(samples) > 1:  # batch norm cannot train on one
        _check_labels(_tried(model, samples, training=True), samples, " in train mode")


def check(run: Run, samples: Samples, share: int) -> None:
    """Whether this run can train on these samples, a share of so many of them in a batch on each process.

    Raises:
        BadRequest, BadData: it cannot.
    """
    if run.total < 1:
        raise BadRequest(f"A run of {run.total} steps trains nothing.", "", "Ask for at least one epoch.")
    if not len(samples):
        raise BadData("There are no training samples.")
    if not any(parameter.requires_grad for parameter in run.model.parameters()):
        raise BadRequest("No parameter of the model can be trained.", "All have requires_grad=False.", "Set it in the architecture.")
    if share == 1 and has_batchnorm(run.model):
        raise BadRequest("A batch of 1 sample a process cannot train batch norm.", "A variance needs two.", "Choose a larger batch.")
    check_fit(run.model, samples)


def _tried(model: nn.Module, samples: Samples, *, training: bool) -> object:
    """What the model gives for two samples; nothing it keeps is changed."""
    modes = [(part, part.training) for part in model.modules()]
    kept = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        with torch.random.fork_rng(devices=[]), apart():
            return model.train(training)(as_taken_by(model, samples.inputs[:2]))
    except BadRequest:
        raise
    except Exception as error:  # whatever the network says about inputs it does not take
        lines = str(error).strip().splitlines() or ["no reason given"]
        what = f"The model does not take inputs of shape {tuple(samples.inputs.shape[1:])}{' in train mode' if training else ''}."
        raise BadData(what, f"{type(error).__name__}: {lines[0].rstrip('.')}.") from error
    finally:
        for part, before in modes:
            part.training = before
        for buffer, value in kept:
            buffer.copy_(value)


def _check_labels(logits: object, samples: Samples, when: str = "") -> None:
    if not isinstance(logits, Tensor):
        raise BadData(f"The model gives a {type(logits).__name__}{when}, not a tensor.", "A classifier gives one row of logits a sample.")
    if not samples.chooses:
        require_answers(logits, samples)
        return
    if logits.ndim != 2:
        raise BadData(f"The model's outputs have shape {tuple(logits.shape)}{when}.", "A classifier gives one row of logits a sample.")
    if samples.has_attributes:
        if logits.shape[1] != samples.outputs:
            what = f"There are {samples.outputs} attributes but the model has {logits.shape[1]} outputs."
            raise BadData(what, "Every attribute needs one.")
        return
    low, high, width = int(samples.targets.min()), int(samples.targets.max()), logits.shape[1]
    if low < 0 or high >= width:
        raise BadData(f"Labels run from {low} to {high} but the model has {width} outputs.", "Every label needs an output.")


def _stopping(stop_requested: Callable[[], bool] | None) -> AbstractContextManager[Callable[[], bool]]:
    return interruptible() if stop_requested is None else nullcontext(stop_requested)


def _stop_here(run: Run, stop: Callable[[], bool]) -> None:
    if run.step < run.total and stop():  # after the last step nothing is left to stop
        raise Interrupted(f"Stopped after step {run.step} of {run.total}.", "A stop was requested.", "Continue with --resume.")


def _ready(run: Run, rate: float, seed: int) -> None:
    """Train mode, learning rate and random numbers of this step, whatever happened since the last."""
    run.forward.train()  # the model is inside it
    seed_torch(seed)
    for group in run.optimizer.param_groups:
        group["lr"] = rate


class _BatchLoss:
    """The loss on a batch, refused before any weight moves when it is not finite.

    Called, it is the whole batch's; its `parts` are losses of parts of the batch, weighted so that their sum is the batch's. Of several
    processes one may have a sample more than another: losses are weighted so that their mean over processes is that over all samples.
    """

    def __init__(self, run: Run, loss: Loss, batch: Samples, count: int, every: int, world: int) -> None:
        self.run, self.loss, self.weight = run, loss, len(batch) * world / every
        inputs = as_taken_by(run.model, batch.inputs)
        self.batch = batch if inputs is batch.inputs else replace(batch, inputs=inputs, targets=batch.targets.to(inputs.device))
        pieces = torch.arange(len(batch)).tensor_split(min(count, max(1, every // world // 2)))  # batch norm needs two in each
        self.parts: list[Callable[[], Tensor]] = [self] if len(pieces) == 1 else [partial(self._part, piece) for piece in pieces]

    def __call__(self) -> Tensor:
        return self._checked(self.batch)

    def _part(self, piece: Tensor) -> Tensor:
        part = self.batch.take(piece)
        return self._checked(part) * (_counted(part) / _counted(self.batch))

    def _checked(self, batch: Samples) -> Tensor:
        value = self.loss(self.run.forward, batch)
        if not bool(torch.isfinite(value.detach())):
            what = f"The loss is {float(value.detach())} at step {self.run.step + 1} of {self.run.total}."
            half = (
                " Activations above 65,504 overflow in float16: --precision bf16-mixed has no such limit."
                if loss_scale.SCALE in self.run.memory
                else ""
            )
            raise _diverged(what, f"No weight was touched by that step.{half}")
        return value if self.weight == 1 else value * self.weight


def _counted(samples: Samples) -> int:
    """What the loss is a mean over: samples, of texts tokens."""
    return max(1, int((samples.targets >= 0).sum())) if samples.texts else len(samples)


def _check_weights(run: Run) -> None:
    bad = [name for name, weight in run.weights().items() if not bool(torch.isfinite(weight).all())]
    if bad:
        raise _diverged(f"After {run.step} steps {len(bad)} tensors hold non-finite values, first {bad[0]!r}.", "A gradient overflowed.")


def _diverged(what: str, why: str) -> Diverged:
    return Diverged(what, why, "Start again with a lower --lr or a longer --warmup, or check the inputs for NaN and unscaled values.")
