"""Twins: a network that is being changed and the dense one it was, side by side in lockstep on the same batches."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn

from sparsify_cli.training.attention import projections
from sparsify_cli.training.batches import as_taken_by
from sparsify_cli.training.batchnorm import norms
from sparsify_cli.training.lockstep import Visit, calls, lockstep, parted, taken, uses
from sparsify_cli.training.modes import evaluating
from sparsify_cli.training.padding import real_positions
from sparsify_cli.training.routes import Choices, in_order, same_samples

TRIED = 8
"""Samples that show how often layers are called."""
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
        chooses: ways through the network may hang on its data.
    """

    module: nn.Module
    dense: nn.Module
    batches: Sequence[Tensor]
    watched: Mapping[str, nn.Module]
    often: Mapping[str, int]
    chooses: bool = False

    @classmethod
    def of(
        cls, module: nn.Module, dense: nn.Module, inputs: Tensor, layers: Mapping[str, nn.Module], *, follows: bool = False, batch: int = 64
    ) -> Twins:
        """Twins on batches of some inputs; with `follows` batch norms are watched too, under their paths."""
        watched = {**layers, **(norms(module) if follows else {})}
        with evaluating(module), Choices() as choices:
            often = calls(module, inputs[:TRIED], watched)
        return cls(module, dense, parted(module, inputs, watched, batch), watched, often, choices.seen)

    def visits(self) -> Generator[Seen]:
        """Layers in the order in which the network runs them, in eval mode; a layer that is called twice has two inputs a batch.

        Where the dense network does not take the same samples there (routing may depend on what was pruned), the inputs of both are those
        of the network that changes.
        """
        others = self._counterparts()
        with evaluating(self.module), evaluating(self.dense), ExitStack() as after:
            ours, theirs = (
                after.enter_context(closing(lockstep(net, self.batches, layers)))
                for net, layers in ((self.module, self.watched), (self.dense, others))
            )
            for now, before in _met(ours, theirs, cache(partial(self._places, others))):
                there = replace(now, layer=others[now.name]) if before is None else self._complete(self.dense, before)
                yield self._paired(self._complete(self.module, now), there)
                del now, before, there  # inputs of all batches, which need not live on beside the next ones

    def reached(self, names: Iterable[str]) -> list[str]:
        """Those of the names that a pass comes to, in its order."""
        wanted = set(names)
        return [name for name in self.often if name in wanted]

    @property
    def tied(self) -> frozenset[str]:
        """Watched layers whose weight others use, too."""
        return frozenset(name for name, every in uses(self.module, self.watched).items() if len(every) > 1)

    @property
    def real(self) -> list[Tensor | None]:
        """Positions of each batch that are no padding, [n, length]; None where nothing is known to be."""
        return [real_positions(self.dense, batch) for batch in self.batches]

    def _places(self, others: Mapping[str, nn.Module]) -> dict[str, int]:
        """Layers in the order in which both networks call them."""
        both = ((self.dense, others), (self.module, self.watched))
        return in_order(calls(net, batch, layers) for net, layers in both for batch in self.batches)

    def _paired(self, now: Visit, before: Visit) -> Seen:
        """The visits, with the inputs of the first where those of the second are of other samples."""
        same = list(now.batches) == list(before.batches) and [x.shape for x in now.inputs] == [z.shape for z in before.inputs]
        same = same and (not self.chooses or same_samples(now.inputs, before.inputs))
        return now, before if same else replace(before, inputs=now.inputs, batches=now.batches)

    def _counterparts(self) -> dict[str, nn.Module]:
        """The watched layers in the dense network, projections of attention in as many groups."""
        shown, same = projections(self.module), projections(self.dense)
        for name, projection in shown.items():
            same[name].inputs_side_by_side = projection.inputs_side_by_side
        ours, theirs = {**dict(self.module.named_modules()), **shown}, {**dict(self.dense.named_modules()), **same}
        paths = {id(layer): path for path, layer in ours.items()}
        return {name: theirs[paths[id(layer)]] for name, layer in self.watched.items()}

    def _complete(self, net: nn.Module, visit: Visit) -> Visit:
        """What a layer that is called several times in a pass sees in all of them."""
        if self.often.get(visit.name, 1) < 2:
            return visit
        every = [all_inputs(net, visit.layer, batch) for batch in self.batches]
        return replace(visit, inputs=[x for of in every for x in of], batches=[i for i, of in enumerate(every) for _ in of])


def _met(ours: Iterable[Visit], theirs: Iterator[Visit], places: Callable[[], Mapping[str, int]]) -> Iterator[tuple[Visit, Visit | None]]:
    """Visits of one network with those of the other at the same layer; None where that does not come there, and waits at a later one."""
    waiting = next(theirs, None)
    for now in ours:
        while waiting is not None and waiting.name != now.name and places()[waiting.name] < places().get(now.name, -1):
            waiting = next(theirs, None)
        if waiting is None or waiting.name != now.name:
            yield now, None
            continue
        yield now, waiting
        waiting = None  # nothing may hold a visit while the next one comes
        del now
        waiting = next(theirs, None)


@torch.no_grad()
def all_inputs(net: nn.Module, layer: nn.Module, batch: Tensor) -> list[Tensor]:
    """What a layer, and others with its weight, see in every one of their calls; copies, for a network may go on in the same memory."""
    seen: list[Tensor] = []

    def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen.append(taken(args, kwargs).clone())

    with ExitStack() as after:
        for one in uses(net, {"": layer})[""]:
            after.callback(one.register_forward_pre_hook(hook, with_kwargs=True).remove)
        net(as_taken_by(net, batch))
    return seen
