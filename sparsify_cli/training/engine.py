"""The engine: device, precision and several processes, from Lightning Fabric. Nothing else imports it.

One process by default; under `torchrun` every process that torchrun started, with gradients averaged: each holds the whole network (DDP),
or some rows of every parameter (FSDP, `blocks.py`; what that means for the rest is in `values/shards.py`). What float16 needs besides
(`loss_scale.py`) is part of the run's state, so that it is complete without the engine.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from sparsify_cli.errors import BadRequest, SparsifyError
from sparsify_cli.recipes.pattern import Pattern
from sparsify_cli.training.blocks import split
from sparsify_cli.training.joint_norms import normalise_together
from sparsify_cli.values.mask_set import MaskSet
from sparsify_cli.values.run import Following, Sparsify
from sparsify_cli.values.shards import as_one, is_split, whole

if TYPE_CHECKING:
    from lightning_fabric import Fabric

PRECISIONS = ("32-true", "bf16-mixed", "16-mixed", "64-true")
HALF = "16-mixed"


@dataclass(frozen=True, eq=False)
class Engine:
    """A launched Fabric and what the rest may ask of it.

    Args:
        fabric: launched.
        splits: parameters lie on several processes, some rows on each.
    """

    fabric: Fabric
    splits: bool = False

    @property
    def rank(self) -> int:
        """Which process this is, 0 .. world - 1; 0 writes files."""
        return self.fabric.global_rank

    @property
    def world(self) -> int:
        """How many processes train together."""
        return self.fabric.world_size

    @property
    def parallel(self) -> str:
        """What each of several processes holds: `fsdp` or `ddp`; `none` where there is one."""
        return "none" if self.world == 1 else "fsdp" if self.splits else "ddp"

    @property
    def device(self) -> torch.device:
        """Where this process computes."""
        return self.fabric.device

    def backward(self, loss: Tensor) -> None:
        """The backward pass; gradients are averaged over processes."""
        self.fabric.backward(loss)

    def together(self) -> AbstractContextManager[None]:
        """What a run trains in."""
        return as_one() if self.splits else nullcontext()

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
        for tensor in (one for one in (*module.parameters(), *module.buffers()) if not is_split(one)):
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
        weights = self._gathered(weights)
        chosen = self.sparsify(weights, sparsity, within=within) if self.engine.rank == 0 else MaskSet()
        return self.engine.from_first(chosen) if self.engine.world > 1 else chosen

    def _gathered(self, weights: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The weights, whole, on rank 0, which alone chooses; every process must come by."""
        if not self.engine.splits:
            return weights
        found = ((name, whole(weight)) for name, weight in weights.items())
        return {name: weight for name, weight in found if self.engine.rank == 0}

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
        return _Agreed(self.engine, self.sparsify.knowing(whole(movement))) if isinstance(self.sparsify, Following) else self


def engine(device: str = "auto", precision: str = "32-true", parallel: str = "ddp") -> Engine:
    """Start the engine; under `torchrun`, join the other processes.

    Args:
        device: `auto`, `cpu`, `cuda`, `cuda:1` or `mps`.
        precision: `32-true`, `bf16-mixed`, `16-mixed` (with `loss_scale`) or `64-true`.
        parallel: what each of several processes holds: `ddp`, the network, or `fsdp`, some rows of every parameter.

    Raises:
        BadRequest: no such device or precision here, or nothing to split among.
    """
    if precision not in PRECISIONS:
        raise BadRequest(f"There is no precision {precision!r}.", "", f"Choose one of {', '.join(PRECISIONS)}.")
    options = {**_where(device), **_processes(parallel)}
    splits = parallel == "fsdp"
    if splits and "strategy" not in options:
        raise BadRequest(
            "One process has nobody to share a network with.", "", "Start several: torchrun --nproc-per-node 2 -m sparsify_cli ..."
        )
    logging.getLogger("lightning_fabric").setLevel(logging.ERROR)
    from lightning_fabric import Fabric

    # Its import resets the level, and its banner would end up among our progress lines.
    logging.getLogger("lightning_fabric").setLevel(logging.ERROR)
    try:
        fabric = Fabric(**options, **_precise(precision, device))
        fabric.launch()
    except (RuntimeError, ValueError, TypeError) as error:
        raise BadRequest(f"The device {device!r} cannot be used here.", f"{error}", "Try --device cpu.") from error
    return Engine(fabric, splits)


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


def setup(
    engine: Engine, model: nn.Module, optimizer_of: Callable[[nn.Module], torch.optim.Optimizer]
) -> tuple[nn.Module, torch.optim.Optimizer]:
    """Move the model to the device (in place), split it where that is asked for, make its optimizer, and wrap them.

    Args:
        engine: device, precision and processes.
        model: changed in place.
        optimizer_of: makes the optimizer of the model as it is then.

    Returns:
        What to call for a forward pass, and the optimizer to step: `Run.forward` and `Run.optimizer`.
    """
    if engine.world > 1:
        normalise_together(model)
    if engine.splits:
        engine.share(model)
    forward: nn.Module = engine.fabric.setup_module(model, move_to_device=not engine.splits)  # split first, then moved
    optimizer: Any = engine.fabric.setup_optimizers(optimizer_of(model))
    return forward, optimizer


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


def _processes(parallel: str) -> dict[str, Any]:
    """What torchrun's environment says about the other processes; nothing outside torchrun."""
    if not torch.distributed.is_available() or not torch.distributed.is_torchelastic_launched():
        return {}
    world, here = int(os.environ["WORLD_SIZE"]), int(os.environ["LOCAL_WORLD_SIZE"])
    if world == 1:
        return {"devices": here}
    return {"devices": here, "num_nodes": world // here, "strategy": _split() if parallel == "fsdp" else "ddp"}


def _split() -> Any:
    """Fabric's way to train a network of which every process holds some rows: its own for DDP, up to where the network is wrapped.

    Its strategy for this (`ModelParallelStrategy`) takes neither float64 nor our loss scaling.
    """
    from lightning_fabric.strategies.ddp import DDPStrategy
    from torch.distributed.device_mesh import init_device_mesh

    class Split(DDPStrategy):
        def setup_module(self, module: nn.Module) -> nn.Module:  # type: ignore[override]
            module.register_forward_pre_hook(_same_buffers)
            return split(module, init_device_mesh(self.root_device.type, (self.world_size,)))

    return Split()


@torch.no_grad()
def _same_buffers(module: nn.Module, inputs: object) -> None:
    """In train mode every process starts from the first one's buffers, as with DDP."""
    del inputs
    for buffer in module.buffers() if module.training else ():
        torch.distributed.broadcast(buffer, 0)
