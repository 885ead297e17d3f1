"""Imitate: train the weights that stay, so that a pruned network does what the dense one does, on calibration samples alone.

    loss = T^2 KL(softmax(dense / T) || softmax(pruned / T)) + mean over blocks of |b - B|^2 / |B|^2

with b and B what a block of the pruned and of the dense network puts out. Of numbers |pruned - dense|^2 / |dense|^2
stands instead of KL. No labels are looked at. Everything may move but
pruned weights and running statistics, which batch norm uses and does not touch. Images may be flipped and shifted anew in
every pass. Adam, with a rate that falls to zero along a cosine.

Source: block-wise reconstruction as in Li et al. 2021 (BRECQ, arXiv 2102.05426) and logits as in Hinton et al. 2015
(arXiv 1503.02531). Ours: all blocks and the logits at once, with gradients through the whole network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sparsify_cli.errors import Anomalous
from sparsify_cli.training.augmented import flipped_and_shifted
from sparsify_cli.training.batches import as_taken_by, epoch_order
from sparsify_cli.training.modes import evaluating
from sparsify_cli.training.padding import counted
from sparsify_cli.values.losses import divergence
from sparsify_cli.values.samples import Kind


@dataclass(frozen=True)
class Imitation:
    """How it is trained.

    Args:
        passes: over the samples.
        batch: samples a step.
        lr: peak learning rate of Adam.
        temperature: T.
        blocks: weight of the blocks' part of the loss.
        augment: images are flipped and shifted anew in every pass.
        kind: what outputs are.
        seed: of order and augmentation.
    """

    passes: int = 30
    batch: int = 64
    lr: float = 1e-3
    temperature: float = 2.0
    blocks: float = 1.0
    augment: bool = False
    kind: Kind = "classes"
    seed: int = 0

    def run(
        self,
        module: nn.Module,
        dense: nn.Module,
        inputs: Tensor,
        masks: Mapping[str, Tensor],
        tell: Callable[[int, int, float], None] = lambda *_: None,
    ) -> None:
        """Train a network in place.

        Args:
            module: the pruned network; its parameters are named as in `masks`.
            dense: what it imitates.
            inputs: calibration samples, [n, ...].
            masks: name of a parameter -> weights that may move; others stay as they are.
            tell: hears the step, of how many, and the loss.

        Raises:
            Anomalous: the loss is not finite.
        """
        steps = self.passes * -(-len(inputs) // self.batch)
        module.requires_grad_(True)
        optimizer = torch.optim.Adam(module.parameters(), lr=self.lr)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        held = _Held.of(module, masks)
        with evaluating(module), evaluating(dense), _watched(module, dense) as seen:
            for step, batch in enumerate(self._batches(inputs), start=1):
                loss = self._loss(module, dense, batch, seen)
                optimizer.zero_grad()
                _differentiate(loss)
                held.still()
                optimizer.step()
                held.put_back()
                schedule.step()
                tell(step, steps, _finite(loss, step))
        module.requires_grad_(False)

    def _batches(self, inputs: Tensor) -> Iterator[Tensor]:
        generator = torch.Generator().manual_seed(self.seed)
        for epoch in range(self.passes):
            for where in epoch_order(len(inputs), seed=self.seed, epoch=epoch).split(self.batch):
                yield flipped_and_shifted(inputs[where], generator) if self.augment else inputs[where]

    def _loss(self, module: nn.Module, dense: nn.Module, batch: Tensor, seen: _Seen) -> Tensor:
        seen.forget()
        with torch.no_grad():
            aim = _tensor(dense(as_taken_by(dense, batch))).float()
        out = _tensor(module(as_taken_by(module, batch))).float()
        real = counted(module, batch, out)
        imitation = divergence(out, aim, self.kind, temperature=self.temperature, targets=real)
        return imitation + self.blocks * seen.distance(len(batch)).to(imitation)


@dataclass(frozen=True, eq=False)
class _Seen:
    """What blocks of two networks put out in the last pass."""

    pruned: dict[str, Tensor]
    dense: dict[str, Tensor]

    def forget(self) -> None:
        """Blocks that the next samples pass by have put out nothing."""
        self.pruned.clear()
        self.dense.clear()

    def distance(self, count: int) -> Tensor:
        """Mean over blocks of the squared distance, relative to the mean square of the dense one's.

        Blocks that do not see all of the `count` samples, as experts do, are left out: they may see others in either network.
        """
        both = [(self.pruned[name], self.dense[name]) for name in self.pruned if name in self.dense]
        pairs = [(a, b) for a, b in both if a.shape == b.shape and count in a.shape[:2]]
        parts = [(a - b).square().mean() / b.square().mean().clamp_min(1e-12) for a, b in pairs]
        return torch.stack(parts).mean() if parts else torch.zeros(())


@dataclass(frozen=True, eq=False)
class _Held:
    """Weights that are pruned and do not move."""

    pairs: tuple[tuple[nn.Parameter, Tensor], ...]

    @classmethod
    def of(cls, module: nn.Module, masks: Mapping[str, Tensor]) -> _Held:
        there = dict(module.named_parameters(remove_duplicate=False))
        return cls(tuple((there[name], mask.to(there[name].device)) for name, mask in masks.items() if name in there))

    def still(self) -> None:
        for parameter, mask in self.pairs:
            if parameter.grad is not None:
                parameter.grad.mul_(mask)

    @torch.no_grad()
    def put_back(self) -> None:
        for parameter, mask in self.pairs:
            parameter.mul_(mask)


@contextmanager
def _watched(module: nn.Module, dense: nn.Module) -> Iterator[_Seen]:
    seen = _Seen({}, {})
    with ExitStack() as after:
        for path in blocks_of(module):
            for net, store in ((module, seen.pruned), (dense, seen.dense)):
                after.callback(net.get_submodule(path).register_forward_hook(_keep(path, store)).remove)
        yield seen


def _keep(path: str, store: dict[str, Tensor]) -> Callable[[nn.Module, Any, Any], None]:
    def hook(_: nn.Module, __: Any, out: Any) -> None:
        found = _tensor(out)
        if found.is_floating_point():
            store[path] = found

    return hook


def blocks_of(module: nn.Module) -> list[str]:
    """Paths of the blocks of a network: the innermost members of its lists and sequences that hold several layers with weights."""
    paths = [
        f"{path}.{name}".lstrip(".")
        for path, parent in module.named_modules()
        if isinstance(parent, (nn.Sequential, nn.ModuleList))
        for name, child in parent.named_children()
        if _layers_in(child) > 1
    ]
    return [path for path in paths if not any(other.startswith(f"{path}.") for other in paths)]


def _layers_in(module: nn.Module) -> int:
    return sum(1 for name, weight in module.named_parameters() if name.endswith("weight") and weight.ndim > 1)


def _tensor(out: Any) -> Tensor:
    """The tensor of what a module puts out: itself, or the first of several, by order or by field."""
    while not isinstance(out, Tensor):
        out = next(iter(out.values())) if isinstance(out, Mapping) else out[0]
    return out


def _differentiate(loss: Tensor) -> None:
    """Gradients of the loss.

    Raises:
        Anomalous: an operation of the network has none, or wrote into what its gradient needs.
    """
    try:
        loss.backward()
    except RuntimeError as error:
        what = f"The network cannot be trained to imitate the dense one: {str(error)[:120]}."
        raise Anomalous(what, "One of its operations has no gradient.", "Give --effort normal.") from error


def _finite(loss: Tensor, step: int) -> float:
    value = float(loss.detach())
    if value - value:
        raise Anomalous(f"The loss of imitating the dense network is {value} in step {step}.", "It diverged.", "Give --effort normal.")
    return value
