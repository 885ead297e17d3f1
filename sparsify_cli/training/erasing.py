"""What methods share that forget by training: a private copy of the network, guarded steps on it, and what has changed in the end.

Pruned weights stay zero and frozen ones keep their bits, through momentum and decay. Batches are drawn anew each epoch from the seed
alone. Samples to forget never move the running statistics of batch norm.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from sparsify_cli.contracts.unlearner import Erasure, Memo, Request, Unlearner
from sparsify_cli.errors import Anomalous, BadRequest
from sparsify_cli.training import guard
from sparsify_cli.training.batches import as_taken_by, derived_seed, epoch_order
from sparsify_cli.training.batchnorm import quiet
from sparsify_cli.values.copies import copy_of
from sparsify_cli.values.losses import loss
from sparsify_cli.values.mask_set import MaskSet
from sparsify_cli.values.report import Finding
from sparsify_cli.values.run import Run
from sparsify_cli.values.samples import Samples

Mode = Literal["train", "quiet", "eval"]
Cost = Callable[[nn.Module, Tensor, Tensor], Tensor]
"""(model, inputs, targets) -> what a step goes down on."""

MOVED = "Euclidean length of the change of the parameters."
UNCHANGED = Finding(name="step_norm", value=0.0, definition=MOVED, note="Nothing was to be forgotten; nothing changed.")


@dataclass(frozen=True, kw_only=True)
class Erasing(Unlearner):
    """What methods share that forget by training.

    Args:
        epochs: passes, as the method counts them.
        lr: learning rate of SGD.
        batch_size: samples of a step.
        momentum: of SGD.
        weight_decay: of SGD; of finetune, scrub and salun, left out, as recorded in the network's artifact or an ancestor's.
        seed: for every random draw.
    """

    epochs: int = 5
    lr: float = 0.01
    batch_size: int = 64
    momentum: float = 0.9
    weight_decay: float = 5e-4
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse options without a meaning."""
        require(self.epochs >= 1, f"epochs={self.epochs}", "It takes at least one.")
        require(self.batch_size >= 2, f"batch_size={self.batch_size}", "Batch norm needs two.")
        require(
            self.lr > 0 and self.weight_decay >= 0 and 0 <= self.momentum < 1, f"lr={self.lr}, momentum={self.momentum}", "They are rates."
        )

    def prepare(self, model: nn.Module, train: Samples, masks: MaskSet) -> Memo | None:
        """Nothing needs to be kept."""
        del model, train, masks
        return None

    def erase(self, model: nn.Module, request: Request, memo: Memo | None) -> Erasure:
        """Train a copy; what has changed in it.

        Raises:
            BadRequest: nothing is retained.
            Anomalous: the weights are no longer finite.
        """
        del memo
        require_rest(request)
        if not len(request.forget):
            return Erasure({}, (UNCHANGED,))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            student = Student.of(self.start(model, request), model, request, self)
            findings = self.descend(student, request)
        return student.erasure(model, findings)

    def start(self, model: nn.Module, request: Request) -> nn.Module:
        """The network that is trained, a copy."""
        del request
        return copied(model)

    @abstractmethod
    def descend(self, student: Student, request: Request) -> Sequence[Finding]:
        """Train it; numbers about how that went."""


@dataclass(eq=False)
class Student:
    """A copy that is trained. `run` holds it with optimizer, masks and frozen values."""

    run: Run
    batch_size: int
    seed: int
    lr: float
    passes: int = 0

    @classmethod
    def descending(
        cls, model: nn.Module, masks: MaskSet, *, lr: float, batch_size: int, seed: int, momentum: float = 0.0, weight_decay: float = 0.0
    ) -> Student:
        """A student that goes down by SGD; masks hold."""
        moving = [p for p in model.parameters() if p.requires_grad]
        if not moving:
            raise BadRequest("No parameter of the model can be trained.", "All have requires_grad=False.", "Set it in the architecture.")
        optimizer = torch.optim.SGD(moving, lr, momentum=momentum, weight_decay=weight_decay)
        run = Run(model=model, forward=model, optimizer=optimizer, backward=_backward, total=1, per_epoch=1, masks=masks, seed=seed)
        guard.place(run)
        return cls(run, batch_size, seed, lr)

    @classmethod
    def of(cls, model: nn.Module, origin: nn.Module, request: Request, how: Erasing) -> Student:
        """The same as a method has it, with the frozen values of the network that was asked about."""
        rates = {"lr": how.lr, "momentum": how.momentum, "weight_decay": how.weight_decay}
        student = cls.descending(model, request.masks, batch_size=how.batch_size, seed=how.seed, **rates)
        student.run.frozen = guard.freeze(dict(origin.named_parameters()), dict(request.frozen.items()))
        guard.place(student.run)
        guard.enforce(student.run)
        return student

    @property
    def model(self) -> nn.Module:
        """The network."""
        return self.run.model

    def epoch(self, samples: Samples, cost: Cost, *, mode: Mode = "train", share: float = 1.0, size: int = 0) -> float:
        """One pass over samples, in an order of its own; returns the mean cost.

        Args:
            samples: what is passed over.
            cost: of a batch.
            mode: `train`; `quiet` = the same with running statistics left alone; `eval`.
            share: of the learning rate.
            size: samples of a step, 0 = as usual.
        """
        return sum(value * n for value, n in self.steps(samples, cost, mode=mode, share=share, size=size)) / max(1, len(samples))

    def steps(
        self, samples: Samples, cost: Cost, *, mode: Mode = "train", share: float = 1.0, size: int = 0
    ) -> Iterator[tuple[float, int]]:
        """The same step by step: each batch's cost and size, after the step on it."""
        order = epoch_order(len(samples), seed=derived_seed(self.seed, 1), epoch=self.passes)
        self.passes += 1
        for group in self.run.optimizer.param_groups:
            group["lr"] = self.lr * share
        for where in _parts(order, size or self.batch_size):
            self.model.train(mode != "eval" and len(where) > 1)  # batch norm needs two
            with quiet(self.model) if mode == "quiet" else nullcontext():
                value = self.step(samples.take(where), cost)
            yield value, len(where)

    def step(self, batch: Samples, cost: Cost) -> float:
        """One guarded step; returns the cost it was taken on.

        Raises:
            Anomalous: the cost is not finite.
        """
        inputs = as_taken_by(self.model, batch.inputs)
        value = float(guard.descend(self.run, lambda: cost(self.model, inputs, batch.targets.to(inputs.device))))
        if value != value or abs(value) == float("inf"):
            raise Anomalous(f"The loss is {value} while forgetting.", "A step was too long.", "Use a smaller lr.")
        return value

    def weights(self) -> dict[str, Tensor]:
        """A copy of its state."""
        return {name: tensor.detach().clone() for name, tensor in self.model.state_dict().items()}

    def put(self, weights: Mapping[str, Tensor]) -> None:
        """Go back to a copy; momentum stays what it is."""
        self.model.load_state_dict(dict(weights))

    @contextmanager
    def only(self, moving: MaskSet) -> Iterator[None]:
        """Inside, weights outside `moving` keep their bits; everything without a mask in it moves."""
        before, weights = self.run.frozen, self.run.weights()
        still = {name: ~mask.to(weights[name].device) for name, mask in moving.items()}
        for name, (positions, _) in before.items():
            still[name] = still.get(name, torch.zeros_like(positions)) | positions
        kept = {name: still[name] & self.run.masks[name] if name in self.run.masks else still[name] for name in still}
        self.run.frozen = guard.freeze(weights, kept)
        try:
            yield
        finally:
            self.run.frozen = before

    def erasure(self, model: nn.Module, findings: Sequence[Finding]) -> Erasure:
        """What differs from the model it came from.

        Raises:
            Anomalous: something is not finite.
        """
        before, after = model.state_dict(), self.model.state_dict()
        bad = [name for name, tensor in after.items() if not bool(torch.isfinite(tensor).all())]
        if bad:
            raise Anomalous(f"Forgetting left non-finite values in {len(bad)} tensors, first {bad[0]!r}.", "", "Use a smaller lr.")
        changed = {name: tensor.detach().clone() for name, tensor in after.items() if not torch.equal(tensor, before[name])}
        moved = [(after[name].detach().double() - p.detach().double()).square().sum() for name, p in model.named_parameters()]
        length = float(torch.stack(moved).sum().sqrt())
        return Erasure(changed, (*findings, Finding(name="step_norm", value=length, definition=MOVED)))


def copied(model: nn.Module) -> nn.Module:
    """A copy without gradients."""
    twin = copy_of(model)
    twin.zero_grad(set_to_none=True)
    return twin


def cross_entropy_of(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    """The cost of plain training: mean cross-entropy, nats."""
    return loss(model(inputs), targets)


def require(holds: bool, what: str, why: str) -> None:
    """Refuse an option's value.

    Raises:
        BadRequest: it does not hold.
    """
    if not holds:
        raise BadRequest(f"Forgetting cannot work with {what}.", why, "See `sparsify list unlearners`.")


def require_rest(request: Request) -> None:
    """Refuse to forget everything.

    Raises:
        BadRequest: nothing is retained.
    """
    if len(request.forget) and not len(request.retain):
        what = f"All {len(request.forget)} training samples are to be forgotten."
        raise BadRequest(what, "Nothing would be left to learn from.", "Initialise a new model.")


def _backward(loss: Tensor) -> None:
    loss.backward()


def _parts(order: Tensor, size: int) -> list[Tensor]:
    """Batches; a last one of a single sample joins the one before it, because batch norm needs two."""
    parts = list(order.split(size))
    if len(parts) > 1 and len(parts[-1]) == 1:
        parts[-2:] = [torch.cat(parts[-2:])]
    return parts
