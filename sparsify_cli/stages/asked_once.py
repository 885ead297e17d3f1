"""Answers that are computed once, however many overlapping splits a verb asks about: known by the bits of network and input."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor, nn

from sparsify_cli.stages.measure import predict
from sparsify_cli.values.predictions import Predictions
from sparsify_cli.values.samples import Samples


class AskedOnce:
    """`predict`, which remembers every row for as long as this object lives."""

    def __init__(self) -> None:
        self._known: dict[str, dict[bytes, Tensor]] = {}

    def __call__(self, module: nn.Module, samples: Samples) -> Predictions:
        """What `predict` gives; only inputs that this network was not asked about go through it."""
        known, names = self._known.setdefault(_weights(module), {}), _inputs(samples)
        new = {name: position for position, name in enumerate(names) if name not in known}
        if new or not names:
            fresh = predict(module, samples if len(new) == len(names) else samples.take(list(new.values())))
            known.update(zip(new, fresh.logits, strict=True))
        logits = torch.stack([known[name] for name in names])
        return Predictions(logits, samples.targets.cpu(), samples.ids, samples.groups, samples.classes)


def _weights(module: nn.Module) -> str:
    """sha256 of how a network is built and of every number in it."""
    state = hashlib.sha256(repr(module).encode())
    for name, tensor in module.state_dict().items():
        state.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        state.update(_bytes(tensor))
    return state.hexdigest()


def _inputs(samples: Samples) -> list[bytes]:
    """Digest of each input."""
    return [hashlib.blake2b(_bytes(row), digest_size=16).digest() for row in samples.inputs]


def _bytes(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
