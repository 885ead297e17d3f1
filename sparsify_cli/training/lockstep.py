"""Lockstep: all batches go through a network together, one layer at a time, so that a layer can be changed before the next one runs.

Every batch runs in a thread of its own, and only one of them at a time. Each stops in front of the layers that are
watched; when all batches are there, the caller sees the inputs of all of them, changes the layer if it likes, and lets them
go on. So a network is calibrated on inputs from already pruned predecessors in one pass, instead of one pass a layer, and
nothing has to be known of how the layers are connected. What is held is what the batches need to go on: the tensors that
are alive between two layers, not those inside a block that is done.

A layer that is called several times in one pass stops only the first time; `calls` says which those are. Where batches take different
ways (experts, early exits), the layer that passes call first comes first, and the others wait; a batch that comes to a layer when it has
been visited goes through it as it is by then.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from sparsify_cli.maths.gram import has_gram
from sparsify_cli.training.attention import spelled_out
from sparsify_cli.training.batches import as_taken_by
from sparsify_cli.training.modes import evaluating
from sparsify_cli.training.padding import batches_of
from sparsify_cli.training.routes import in_order

WAY = ("stride", "padding", "dilation", "groups", "padding_mode")
"""What tells how a layer multiplies by its weight, besides its kind."""

Hook = Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], None]


@dataclass(frozen=True, eq=False)
class Visit:
    """A watched layer that all batches stand in front of.

    Args:
        name: what the layer is called among those watched.
        layer: itself; may be changed.
        inputs: what each batch that comes to it is about to put into it.
        batches: which those are, by position; of a layer that is called several times one as often as it calls it.
    """

    name: str
    layer: nn.Module
    inputs: Sequence[Tensor]
    batches: Sequence[int]


class _Stopped(BaseException):
    """Nobody waits for a batch any more."""


@dataclass(eq=False)
class _Runner:
    """One batch on its way through the network, in a thread that runs only when it is told to."""

    module: nn.Module
    inputs: Tensor
    go: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    stopped: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    at: str = ""
    seen: Tensor | None = None
    error: BaseException | None = None
    abandoned: bool = False
    done: bool = False
    passed: set[str] = field(default_factory=set)
    thread: threading.Thread = field(init=False)

    def __post_init__(self) -> None:
        self.thread = threading.Thread(target=self._run, daemon=True)

    def advance(self) -> None:
        """Let it run to the next watched layer, or to the end."""
        self.seen = None
        self.go.release()
        self.stopped.acquire()
        if self.error is not None:
            raise self.error

    def abandon(self) -> None:
        """End the thread, wherever it is."""
        self.abandoned = True
        self.go.release()
        if self.thread.is_alive():
            self.thread.join()

    def pause(self, name: str, seen: Tensor) -> None:
        """Called inside the thread: stop in front of a layer."""
        if self.abandoned:  # again, where the network catches every exception
            raise _Stopped
        if name in self.passed:
            return
        self.passed.add(name)
        self.at, self.seen = name, seen
        self.stopped.release()
        self._wait()

    def _wait(self) -> None:
        self.go.acquire()
        if self.abandoned:
            raise _Stopped

    @torch.no_grad()
    def _run(self) -> None:
        try:
            self._wait()
            self.module(as_taken_by(self.module, self.inputs))
        except _Stopped:
            pass
        except BaseException as error:  # told to the caller, in its own thread
            self.error = error
        self.at, self.done = "", True
        self.stopped.release()


def lockstep(module: nn.Module, batches: Sequence[Tensor], layers: Mapping[str, nn.Module]) -> Generator[Visit]:
    """Visit layers in the order in which the network runs them; what the caller changes counts from the next layer on.

    Args:
        module: in the mode it is to run in.
        batches: inputs as the data hold them.
        layers: name -> layer to stop at; layers that are never run are never visited.
    """
    runners: dict[threading.Thread, _Runner] = {}
    with ExitStack() as after:
        after.enter_context(spelled_out(module))
        for name, layer in layers.items():
            after.callback(layer.register_forward_pre_hook(_stop(name, runners), with_kwargs=True).remove)
        for batch in batches:
            runner = _Runner(module, batch)
            after.callback(runner.abandon)
            runners[runner.thread] = runner
            runner.thread.start()
        places = cache(lambda: in_order(calls(module, batch, layers) for batch in batches))
        yield from _visits(list(runners.values()), layers, places)


def taken(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
    """What a layer was called with: its first argument, by place or by whatever name."""
    first: Tensor = args[0] if args else next(iter(kwargs.values()))
    return first.detach()


def _stop(name: str, runners: Mapping[threading.Thread, _Runner]) -> Hook:
    def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        runner = runners.get(threading.current_thread())
        if runner is not None:
            runner.pause(name, taken(args, kwargs))

    return hook


def parted(module: nn.Module, inputs: Tensor, layers: Mapping[str, nn.Module], size: int) -> Sequence[Tensor]:
    """Batches that may go through a network side by side; all samples as one where it keeps something of a batch while it runs.

    Found out with four samples: two batches side by side have to put into each layer what they put into it one after the other.
    """
    few = inputs[:4].split(2)
    with evaluating(module), torch.no_grad(), closing(lockstep(module, few, layers)) as visits:
        together = {visit.name: visit for visit in visits}
        alone = [_first_inputs(module, batch, layers) for batch in few]
    same = all(
        name in alone[i] and _alike(seen, alone[i][name])
        for name, visit in together.items()
        for i, seen in zip(visit.batches, visit.inputs, strict=True)
    )
    return batches_of(inputs, size) if same else (inputs,)


def _alike(one: Tensor, other: Tensor) -> bool:
    """The same to rounding; what is not finite is found out about later, and by name."""
    if one.shape != other.shape:
        return False
    both = one.isfinite() & other.isfinite()
    a, b = one.where(both, 0).double(), other.where(both, 0).double()
    return float((a - b).norm()) <= 1e-3 * float(b.norm())


def _first_inputs(module: nn.Module, batch: Tensor, layers: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    seen: dict[str, Tensor] = {}

    def note(name: str) -> Hook:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            seen.setdefault(name, taken(args, kwargs))

        return hook

    with ExitStack() as after, spelled_out(module):
        for name, layer in layers.items():
            after.callback(layer.register_forward_pre_hook(note(name), with_kwargs=True).remove)
        module(as_taken_by(module, batch))
    return seen


def _visits(runners: Sequence[_Runner], layers: Mapping[str, nn.Module], places: Callable[[], Mapping[str, int]]) -> Iterator[Visit]:
    visited, moving = {""}, list(runners)
    while True:
        for runner in moving:
            runner.advance()
            while not runner.done and runner.at in visited:
                runner.advance()
        if all(runner.done for runner in runners):
            return
        there = {runner.at for runner in runners if not runner.done}
        name = there.pop() if len(there) == 1 else min(there, key=lambda one: (places().get(one, len(layers)), one))
        visited.add(name)
        here = [i for i, runner in enumerate(runners) if runner.at == name]
        moving = [runners[i] for i in here]
        yield Visit(name, layers[name], [runner.seen for runner in moving if runner.seen is not None], here)


def uses(module: nn.Module, layers: Mapping[str, nn.Module]) -> dict[str, list[nn.Module]]:
    """Each layer, and the others of the network that multiply by its weight in the same way: one layer called several times.

    Args:
        module: the network.
        layers: some of its layers, by name.
    """
    same: dict[int, list[nn.Module]] = {}
    for part in module.modules():
        if has_gram(part) and (weight := part._parameters.get("weight")) is not None:
            same.setdefault(id(weight), []).append(part)
    tied = {name: same.get(id(layer._parameters.get("weight")), []) for name, layer in layers.items()}
    return {name: [layer, *(o for o in tied[name] if o is not layer and _way(o) == _way(layer))] for name, layer in layers.items()}


def _way(layer: nn.Module) -> list[Any]:
    return [type(layer), *(getattr(layer, name, None) for name in WAY)]


def calls(module: nn.Module, inputs: Tensor, layers: Mapping[str, nn.Module]) -> dict[str, int]:
    """How often each layer is called in one forward pass, in the order of first calls; layers that never run are absent.

    Args:
        module: the network, in the mode it is to run in.
        inputs: samples as it takes them.
        layers: which; calls of those that share a weight count for each.
    """
    counted: dict[str, int] = {}

    def hook(name: str) -> Callable[..., None]:
        def count(*_: Any) -> None:
            counted[name] = counted.get(name, 0) + 1

        return count

    with ExitStack() as after, spelled_out(module), torch.no_grad():
        for name, layer in ((name, one) for name, every in uses(module, layers).items() for one in every):
            after.callback(layer.register_forward_pre_hook(hook(name)).remove)
        module(as_taken_by(module, inputs))
    return counted
