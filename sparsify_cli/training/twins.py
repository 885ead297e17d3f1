"""Twins: a network that is being changed and the dense one it was, side by side in lockstep on the same batches."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor, nn

from sparsify_cli.errors import BadRequest
from sparsify_cli.training.attention import projections
from sparsify_cli.training.batches import as_taken_by
from sparsify_cli.training.batchnorm import norms
from sparsify_cli.training.lockstep import Visit, calls, lockstep, parted, taken
from sparsify_cli.training.modes import evaluating
from sparsify_cli.training.padding import real_positions

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
        return cls(module, dense, parted(module, inputs, watched, batch), watched, often)

    def visits(self) -> Generator[Seen]:
        """Layers in the order in which the networks run them, in eval mode; a layer that is called twice has two inputs a batch.

        Raises:
            BadRequest: the two networks, or batches, take different ways.
        """
        others = self._counterparts()
        with evaluating(self.module), evaluating(self.dense), ExitStack() as after:
            streams = [
                after.enter_context(closing(lockstep(net, self.batches, layers)))
                for net, layers in ((self.module, self.watched), (self.dense, others))
            ]
            for now, before in zip_longest(*streams):
                yield _paired(now and self._complete(self.module, now), before and self._complete(self.dense, before))

    def reached(self, names: Iterable[str]) -> list[str]:
        """Those of the names that a pass comes to, in its order."""
        wanted = set(names)
        return [name for name in self.often if name in wanted]

    @property
    def real(self) -> list[Tensor | None]:
        """Positions of each batch that are no padding, [n, length]; None where nothing is known to be."""
        return [real_positions(self.dense, batch) for batch in self.batches]

    def _counterparts(self) -> dict[str, nn.Module]:
        """The watched layers in the dense network, projections of attention in as many groups."""
        shown, same = projections(self.module), projections(self.dense)
        for name, projection in shown.items():
            same[name].groups = projection.groups
        ours, theirs = {**dict(self.module.named_modules()), **shown}, {**dict(self.dense.named_modules()), **same}
        paths = {id(layer): path for path, layer in ours.items()}
        return {name: theirs[paths[id(layer)]] for name, layer in self.watched.items()}

    def _complete(self, net: nn.Module, visit: Visit) -> Visit:
        """What a layer that is called several times in a pass sees in all of them."""
        if self.often.get(visit.name, 1) < 2:
            return visit
        return replace(visit, inputs=[seen for batch in self.batches for seen in all_inputs(net, visit.layer, batch)])


def _paired(now: Visit | None, before: Visit | None) -> Seen:
    """The visits, when they are of the same layer with inputs of the same shapes: routing may depend on what was pruned."""
    if now and before and now.name == before.name and [x.shape for x in now.inputs] == [z.shape for z in before.inputs]:
        return now, before
    raise BadRequest(
        f"The pruned network takes another way than the dense one, at {' and '.join(visit.name for visit in (now, before) if visit)}.",
        "Its layers cannot be compared with the dense ones one by one.",
        "Choose a --criterion without --solver, or --skip what decides the way.",
    )


@torch.no_grad()
def all_inputs(net: nn.Module, layer: nn.Module, batch: Tensor) -> list[Tensor]:
    """What a layer sees in every one of its calls."""
    seen: list[Tensor] = []

    def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen.append(taken(args, kwargs))

    remove: Callable[[], None] = layer.register_forward_pre_hook(hook, with_kwargs=True).remove
    try:
        net(as_taken_by(net, batch))
    finally:
        remove()
    return seen
