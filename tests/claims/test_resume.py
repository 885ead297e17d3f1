"""Claim: a run that was stopped, saved and resumed equals the uninterrupted run bit for bit.

Source: house, section 2 (`Run` is checkpointed whole).
"""

from __future__ import annotations

import io
import os
import signal
from collections.abc import Callable, Mapping
from fractions import Fraction
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sparsify_cli.contracts.regime import Regime
from sparsify_cli.errors import Interrupted
from sparsify_cli.maths.schedules import cosine
from sparsify_cli.objectives.cross_entropy import CrossEntropy
from sparsify_cli.regimes.fixed import Fixed
from sparsify_cli.regimes.gmp import Gmp
from sparsify_cli.shelf import Shelf
from sparsify_cli.training.loop import train
from sparsify_cli.values.mask_set import MaskSet
from sparsify_cli.values.run import Run
from sparsify_cli.values.samples import Samples

REGIMES = Shelf("regimes")
OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=1e-3, nesterov=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.05),
}
TOTAL = 24
STOPPED = [
    pytest.param(make, stop, id=f"{name}-{stop}", marks=[pytest.mark.slow] if name == "adamw" and stop != 12 else [])
    for name, make in OPTIMIZERS.items()
    for stop in (1, 11, 12, 20, TOTAL - 1)
]
"""Optimizers and the steps after which a run is stopped: inside an epoch, at its end, near both ends."""


def smallest(weights: Mapping[str, Tensor], sparsity: Fraction, *, within: MaskSet | None = None) -> MaskSet:
    """Magnitude inside `within`, per matrix."""
    masks = {}
    for name, weight in weights.items():
        if weight.ndim == 2:
            score = torch.where(within[name], weight.abs(), torch.full_like(weight, -1)) if within else weight.abs()
            mask = torch.ones(weight.numel(), dtype=torch.bool)
            mask[score.flatten().argsort(stable=True)[: round(weight.numel() * sparsity)]] = False
            masks[name] = mask.reshape(weight.shape)
    return MaskSet(masks)


def fresh(make: Callable[[Any], torch.optim.Optimizer], seed: int) -> Run:
    """New objects, as a new process would build them; `seed` decides what the weights start as."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(6, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Dropout(0.4), nn.Linear(12, 3))
    optimizer = make(model.parameters())
    return Run(model, model, optimizer, lambda loss: loss.backward(), total=TOTAL, per_epoch=5, sparsify=smallest, target=Fraction(4, 5))


def go(run: Run, regime: Regime, *, after_step: Callable[[Run, Tensor], None] | None = None) -> None:
    """Train on 37 samples in batches of 8: 5 steps an epoch, the last one incomplete."""
    inputs = torch.randn(37, 6, generator=torch.Generator().manual_seed(8))
    samples = Samples(inputs, inputs[:, :3].argmax(dim=1), tuple(str(i) for i in range(37)))
    loss = CrossEntropy().prepare(nn.Module)
    rate = partial(cosine, total=TOTAL, warmup=4)
    train(run, regime, loss, samples, batch_size=8, seed=11, learning_rate=lambda step, _: rate(step) / 10, after_step=after_step)


def bits(run: Run) -> list[Tensor]:
    """Every tensor of the run's state, the optimizer's included."""
    state = run.state()
    moments = [value for entry in state["optimizer"]["state"].values() for value in entry.values()]
    return [*state["model"].values(), *moments, *state["masks"].values(), torch.tensor(state["step"])]


@pytest.mark.parametrize("name", REGIMES.names())
@pytest.mark.parametrize(("make", "stop"), STOPPED)
def test_resumed_equals_uninterrupted(make: Callable[[Any], torch.optim.Optimizer], name: str, stop: int) -> None:
    """Ctrl-C after any step, the state through a file, fresh objects with other weights: the same bits at the end, for every regime."""
    whole, killed, resumed, regime = fresh(make, 1), fresh(make, 1), fresh(make, 2), REGIMES.load(name)()
    if not regime.prunes:
        whole.masks = killed.masks = smallest(whole.weights(), Fraction(1, 2))
    go(whole, regime)

    def press_ctrl_c(run: Run, value: Tensor) -> None:
        if run.step == stop:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted):
        go(killed, regime, after_step=press_ctrl_c)
    file = io.BytesIO()
    torch.save(killed.state(), file)
    file.seek(0)
    torch.rand(17)
    resumed.restore(torch.load(file, weights_only=True))
    assert resumed.step == stop
    go(resumed, regime)
    assert whole.masks == resumed.masks and len(bits(whole)) == len(bits(resumed))
    assert all(torch.equal(a, b) for a, b in zip(bits(whole), bits(resumed), strict=True))


def test_an_exception_between_steps_leaves_a_resumable_run() -> None:
    """A bare KeyboardInterrupt out of after_step is at a boundary too: the state continues to the same bits."""
    whole, killed, resumed = (fresh(OPTIMIZERS["sgd"], seed) for seed in (1, 1, 2))
    go(whole, Gmp())

    def fail(run: Run, value: Tensor) -> None:
        if run.step == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        go(killed, Gmp(), after_step=fail)
    resumed.restore(killed.state())
    go(resumed, Gmp())
    assert all(torch.equal(a, b) for a, b in zip(bits(whole), bits(resumed), strict=True))


def test_forgetting_the_optimizer_would_be_noticed() -> None:
    """The comparison has teeth: without its momentum the resumed run ends elsewhere."""
    whole, killed, resumed = (fresh(OPTIMIZERS["sgd"], seed) for seed in (1, 1, 2))
    go(whole, Fixed())

    def fail(run: Run, value: Tensor) -> None:
        if run.step == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        go(killed, Fixed(), after_step=fail)
    resumed.restore({**killed.state(), "optimizer": resumed.optimizer.state_dict()})
    go(resumed, Fixed())
    assert not torch.equal(whole.weights()["0.weight"], resumed.weights()["0.weight"])
