"""The engine: device, precision and several processes, from Lightning Fabric. Nothing else imports it.

One process by default; under `torchrun` every process that torchrun started, with gradients averaged (DDP). What float16 needs besides
(`loss_scale.py`) is part of the run's state, so that it is complete without the engine.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from sparsify_cli.errors import BadRequest, SparsifyError
from sparsify_cli.recipes.pattern import Pattern
from sparsify_cli.values.mask_set import MaskSet
from sparsify_cli.values.run import Following, Sparsify

if TYPE_CHECKING:
    from lightning_fabric import Fabric

PRECISIONS = ("32-true", "bf16-mixed", "16-mixed", "64-true")
HALF = "16-mixed"


@dataclass(frozen=True, eq=False)
class Engine:
    """A launched Fabric and what the rest may ask of it."""

    fabric: Fabric

    @property
    def rank(self) -> int:
        """Which process this is, 0 .. world - 1; 0 writes files."""
        return self.fabric.global_rank

    @property
    def world(self) -> int:
        """How many processes train together."""
        return self.fabric.world_size

    @property
    def device(self) -> torch.device:
        """Where this process computes."""
        return self.fabric.device

    def backward(self, loss: Tensor) -> None:
        """The backward pass; gradients are averaged over processes."""
        self.fabric.backward(loss)

    def everywhere(self, asked: Callable[[], bool]) -> Callable[[], bool]:
        """`asked`, true on every process as soon as it is true on one, so that all stop at the same step."""
        if self.world == 1:
            return asked
        return lambda: bool(self.fabric.all_reduce(torch.tensor(float(asked()), device=self.device), reduce_op="max"))

    def agreed(self, sparsify: Sparsify) -> Sparsify:
        """`sparsify`, decided on rank 0, broadcast, and its hash compared on every process."""
        return _Agreed(self, sparsify)

    def from_first(self, masks: MaskSet) -> MaskSet:
        """The masks of rank 0, on every process, hash compared."""
        sent: dict[str, Tensor] = self.fabric.broadcast({name: mask.cpu() for name, mask in masks.items()})
        received = MaskSet(sent)
        self.compare(received.digest(), "masks")
        return received

    def compare(self, digest: str, noun: str) -> None:
        """Check that every process holds the same thing.

        Raises:
            SparsifyError: this process's digest is not that of rank 0.
        """
        first = self.fabric.broadcast(digest)
        if digest != first:
            raise SparsifyError(f"Process {self.rank} holds other {noun} than process 0.", f"sha256 {digest[:12]} is not {first[:12]}.")

    def share(self, module: nn.Module) -> None:
        """Copy rank 0's parameters and buffers to every process (batch-norm statistics differ after the last step)."""
        if self.world == 1:
            return
        for tensor in (*module.parameters(), *module.buffers()):
            tensor.data.copy_(self.fabric.broadcast(tensor.data))

    def from_rank_zero(self, value: Tensor) -> Tensor:
        """The value that rank 0 holds, on every process, for what all must decide alike."""
        if self.world == 1:
            return value
        sent: Tensor = self.fabric.broadcast(value)
        return sent

    def close(self) -> None:
        """Leave the process group; harmless in one process."""
        leave()


@dataclass(frozen=True, eq=False)
class _Agreed:
    """Masks chosen by one process for all."""

    engine: Engine
    sparsify: Sparsify

    def __call__(self, weights: Mapping[str, Tensor], sparsity: Fraction, *, within: MaskSet | None = None) -> MaskSet:
        """The masks of rank 0."""
        chosen = self.sparsify(weights, sparsity, within=within) if self.engine.rank == 0 else MaskSet()
        return self.engine.from_first(chosen) if self.engine.world > 1 else chosen

    @property
    def follows(self) -> tuple[str, ...]:
        """What the choice wants gathered."""
        return self.sparsify.follows if isinstance(self.sparsify, Following) else ()

    @property
    def pattern(self) -> Pattern | None:
        """The pattern of what it chooses, where that says one."""
        return getattr(self.sparsify, "pattern", None)

    @property
    def criterion(self) -> object:
        """The criterion that ranks, where there is one."""
        return getattr(self.sparsify, "criterion", None)

    def knowing(self, movement: Mapping[str, Tensor]) -> _Agreed:
        """The choice that knows it."""
        return _Agreed(self.engine, self.sparsify.knowing(movement)) if isinstance(self.sparsify, Following) else self


def engine(device: str = "auto", precision: str = "32-true") -> Engine:
    """Start the engine; under `torchrun`, join the other processes.

    Args:
        device: `auto`, `cpu`, `cuda`, `cuda:1` or `mps`.
        precision: `32-true`, `bf16-mixed`, `16-mixed` (with `loss_scale`) or `64-true`.

    Raises:
        BadRequest: no such device or precision here.
    """
    if precision not in PRECISIONS:
        raise BadRequest(f"There is no precision {precision!r}.", "", f"Choose one of {', '.join(PRECISIONS)}.")
    options = {**_where(device), **_processes()}
    logging.getLogger("lightning_fabric").setLevel(logging.ERROR)
    from lightning_fabric import Fabric

    # Its import resets the level, and its banner would end up among our progress lines.
    logging.getLogger("lightning_fabric").setLevel(logging.ERROR)
    try:
        fabric = Fabric(**options, **_precise(precision, device))
        fabric.launch()
    except (RuntimeError, ValueError, TypeError) as error:
        raise BadRequest(f"The device {device!r} cannot be used here.", f"{error}", "Try --device cpu.") from error
    return Engine(fabric)


def _precise(precision: str, device: str) -> dict[str, Any]:
    """Fabric's options for a precision."""
    if precision != HALF:
        return {"precision": precision}
    from sparsify_cli.training.half import Half

    has_cuda = device.startswith(("cuda", "gpu")) or (device == "auto" and torch.cuda.is_available())
    return {"plugins": [Half("cuda" if has_cuda else "cpu")]}


def leave() -> None:
    """Leave the process group, at the end of a run that all processes ended together; harmless in one process."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def setup(engine: Engine, model: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[nn.Module, torch.optim.Optimizer]:
    """Move model and optimizer to the device (in place) and wrap them.

    Returns:
        What to call for a forward pass, and the optimizer to step: `Run.forward` and `Run.optimizer`.
    """
    forward, wrapped = engine.fabric.setup(model, optimizer)
    return forward, wrapped


def _where(device: str) -> dict[str, Any]:
    """Fabric's `accelerator` and `devices` of one process."""
    match = re.fullmatch(r"(auto|cpu|cuda|gpu|mps)(?::(\d+))?", device)
    if match is None or (match[2] and match[1] not in ("cuda", "gpu")):
        raise BadRequest(f"{device!r} is not a device.", "", "Write auto, cpu, cuda, cuda:1 or mps.")
    _require_there(match[1], int(match[2] or 0))
    return {"accelerator": match[1], "devices": [int(match[2])] if match[2] else 1}


def _require_there(kind: str, index: int) -> None:
    """Refuse an accelerator this machine does not have."""
    there = torch.cuda.device_count() if kind in ("cuda", "gpu") and torch.cuda.is_available() else 0
    if kind in ("cuda", "gpu") and index >= there:
        found = f"It has {there}, numbered from 0." if there else "Torch finds none that it can use."
        raise BadRequest(f"This machine has no CUDA device {index}.", found, "Give --device cpu, or auto to take what there is.")
    if kind == "mps" and not torch.backends.mps.is_available():
        raise BadRequest("This machine has no MPS device.", "", "Give --device cpu, or auto to take what there is.")


def _processes() -> dict[str, Any]:
    """What torchrun's environment says about the other processes; nothing outside torchrun."""
    if not torch.distributed.is_available() or not torch.distributed.is_torchelastic_launched():
        return {}
    world, here = int(os.environ["WORLD_SIZE"]), int(os.environ["LOCAL_WORLD_SIZE"])
    return {"devices": here, "num_nodes": world // here, "strategy": "ddp" if world > 1 else "auto"}
