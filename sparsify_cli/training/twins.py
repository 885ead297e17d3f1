"""Twins: a network that is being changed and the dense one it was, side by side in lockstep on the same batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from sparsify_cli.training.batches import as_taken_by
from sparsify_cli.training.batchnorm import norms
from sparsify_cli.training.lockstep import Visit, calls, lockstep
from sparsify_cli.training.modes import evaluating

Seen = tuple[Visit, Visit]
"""The same layer in the network as it is, and in the dense one."""


@dataclass(frozen=True, eq=False)
class Twins:
    """Two networks of the same layers.

    Args:
        module: changes while they run.
        dense: does not.
        batches: samples.
        watched: name -> layer of `module` to stop at.
        often: how many times each watched layer is called in one pass.
    """

    module: nn.Module
    dense: nn.Module
    batches: Sequence[Tensor]
    watched: Mapping[str, nn.Module]
    often: Mapping[str, int]

    @classmethod
    def of(
        cls, module: nn.Module, dense: nn.Module, inputs: Tensor, layers: Mapping[str, nn.Module], *, follows: bool = False, batch: int = 64
    ) -> Twins:
        """Twins on batches of some inputs; with `follows` batch norms are watched too, under their paths."""
        watched = {**layers, **(norms(module) if follows else {})}
        with evaluating(module):
            often = calls(module, inputs[: min(len(inputs), 2)], watched)
        return cls(module, dense, inputs.split(batch), watched, often)

    def visits(self) -> Iterator[Seen]:
        """Layers in the order in which the networks run them, in eval mode."""
        others = {name: self.dense.get_submodule(path) for name, path in self._paths().items()}
        with evaluating(self.module), evaluating(self.dense), ExitStack() as after:
            streams = [
                after.enter_context(closing(lockstep(net, self.batches, layers)))
                for net, layers in ((self.module, self.watched), (self.dense, others))
            ]
            for now, before in zip(*streams, strict=True):
                yield self._complete(self.module, now), self._complete(self.dense, before)

    def reached(self, names: Iterable[str]) -> list[str]:
        """Those of the names that a pass comes to, in its order."""
        wanted = set(names)
        return [name for name in self.often if name in wanted]

    @property
    def real(self) -> list[Tensor | None]:
        """Positions of each batch that are no padding, flat; None where nothing is known to be."""
        padding = {m.padding_idx for m in self.module.modules() if isinstance(m, nn.Embedding) and m.padding_idx is not None}
        known = len(padding) == 1 and self.batches[0].ndim == 2 and not self.batches[0].is_floating_point()
        return [(batch != next(iter(padding))).reshape(-1) if known else None for batch in self.batches]

    def _paths(self) -> dict[str, str]:
        paths = {id(layer): path for path, layer in self.module.named_modules()}
        return {name: paths[id(layer)] for name, layer in self.watched.items()}

    def _complete(self, net: nn.Module, visit: Visit) -> Visit:
        """What a layer that is called several times in a pass sees in all of them."""
        if self.often.get(visit.name, 1) < 2:
            return visit
        return replace(visit, inputs=[_all_inputs(net, visit.layer, batch) for batch in self.batches])


@torch.no_grad()
def _all_inputs(net: nn.Module, layer: nn.Module, batch: Tensor) -> Tensor:
    seen: list[Tensor] = []

    def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen.append((args[0] if args else kwargs["input"]).detach())

    remove: Callable[[], None] = layer.register_forward_pre_hook(hook, with_kwargs=True).remove
    try:
        net(as_taken_by(net, batch))
    finally:
        remove()
    return torch.cat(seen)
