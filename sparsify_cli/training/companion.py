"""A second network beside the one that trains: the same architecture and optimizer, its own numbers, kept in `run.memory`.

So it is saved with the run, resumed bit for bit, and can be trained on the same batches.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from sparsify_cli.training import guard
from sparsify_cli.values.mask_set import MaskSet
from sparsify_cli.values.run import Run


def keep(run: Run, name: str) -> None:
    """Remember the network and its optimizer's memory as they are now."""
    run.memory |= {key: tensor.detach().clone() for key, tensor in _live(run, name).items()}


def kept(run: Run, name: str) -> Mapping[str, Tensor]:
    """Its state dict."""
    start = f"{name}.model."
    return run.remembered(start)


@contextmanager
def in_place_of(run: Run, name: str, masks_there: MaskSet) -> Iterator[None]:
    """Inside, the remembered network is the one that trains, under masks of its own; afterwards both are where they were."""
    masks = run.masks
    _exchange(run, name)
    run.masks = masks_there
    guard.place(run)
    try:
        yield
    finally:
        _exchange(run, name)
        run.masks = masks


@torch.no_grad()
def _exchange(run: Run, name: str) -> None:
    live = _live(run, name)
    now = {key: tensor.detach().clone() for key, tensor in live.items()}  # all before any is changed: tied names share numbers
    for key, tensor in live.items():
        tensor.copy_(run.memory[key])
    run.memory |= now


def _live(run: Run, name: str) -> dict[str, Tensor]:
    """The tensors of the network and of the optimizer's memory, by the names under which they are kept."""
    model = {f"{name}.model.{key}": tensor for key, tensor in run.model.state_dict().items()}
    state = run.optimizer.state
    parameters = list(run.model.parameters())
    moments = {
        f"{name}.optimizer.{i}.{key}": value
        for i, parameter in enumerate(parameters)
        for key, value in state.get(parameter, {}).items()
        if isinstance(value, Tensor)
    }
    return model | moments
