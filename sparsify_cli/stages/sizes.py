"""Size and speed: bytes of the file in each form, to the byte, multiply-adds, and time of a forward pass beside the ancestor's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from sparsify_cli.maths.macs import macs_per_weight
from sparsify_cli.stages.measure import count_findings, latency, latency_ratio
from sparsify_cli.stages.plan import prunable_names, tied_names
from sparsify_cli.stages.subject import Subject
from sparsify_cli.values.mask_set import MaskSet
from sparsify_cli.values.report import Finding
from sparsify_cli.values.samples import Samples
from sparsify_cli.values.tensor_size import dense_bytes, packed_bytes

BATCH = 16
"""Samples of the batch whose latency is measured."""

STORED = Finding(
    name="bytes_disk",
    value=None,
    unit="bytes",
    better="lower",
    definition="Size of the files that hold the weights, every number stored, in the format they are in.",
)
PACKED = Finding(
    name="bytes_packed", value=None, unit="bytes", better="lower", definition="Size of the packed file: only what is not zero, bit for bit."
)
MACS = Finding(
    name="macs",
    value=None,
    unit="multiply-adds",
    better="lower",
    definition="Multiply-accumulates of one sample in convolutions and linear layers, zeros included.",
)
NONZERO = replace(MACS, name="macs_nonzero", definition="Those of weights that are not zero: what is left where zeros are skipped.")


def size_findings(subject: Subject) -> list[Finding]:
    """Sparsity both ways, counts, and the bytes that the dense and the packed file take; neither is written for it.

    A dense network's sparsity is that of its prunable weights: 0 where none is zero.
    """
    tensors = subject.checkpoint.tensors
    again = tied_names(subject.checkpoint, subject.architecture)
    found = count_findings(tensors, subject.masks or _everything_kept(subject), again=again)
    home = subject.checkpoint.home
    stored = home.layout.bytes if home is not None else dense_bytes(tensors)
    return [*found, replace(STORED, value=float(stored)), replace(PACKED, value=float(packed_bytes(tensors)))]


def compared_sizes(before: Subject, after: Subject) -> list[Finding]:
    """The sizes of a network and of the one it came from."""
    old = [replace(f, of="dense") for f in size_findings(before) if not f.scope.startswith("layer:")]
    return [*size_findings(after), *old]


def speed_findings(module: nn.Module, samples: Samples, *, dense: nn.Module | None = None) -> list[Finding]:
    """Latency of a batch and multiply-adds of a sample; beside the dense module's, and the ratio of times, where that is given."""
    inputs = samples.inputs[:BATCH]
    batch = len(inputs)
    counted = mac_findings(module, inputs)
    if dense is None:
        return [*latency(module, inputs, batch=batch), *counted]
    old = [replace(one, of="dense") for one in mac_findings(dense, inputs)]
    return [*latency_ratio(module, dense, inputs, batch=batch), *counted, *old]


def mac_findings(module: nn.Module, inputs: Tensor) -> list[Finding]:
    """What one sample takes, with zeros and without; nothing where no layer is known, as in compiled programs."""
    uses = macs_per_weight(module, inputs)
    layers = {name: weight.detach() for name, weight in module.named_parameters() if name in uses}
    if not layers:
        return []
    every, kept = (sum(uses[name] * count(weight) for name, weight in layers.items()) for count in (torch.numel, torch.count_nonzero))
    return [replace(MACS, value=float(every)), replace(NONZERO, value=float(kept))]


@dataclass(frozen=True, eq=False)
class _AllKept(MaskSet):
    """Masks that keep everything: applying them copies nothing, which counts for files of many gigabytes."""

    def apply(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors themselves."""
        return dict(tensors)


def _everything_kept(subject: Subject) -> MaskSet:
    names = prunable_names(subject.checkpoint, subject.architecture)
    kept = torch.ones((), dtype=torch.bool)
    return _AllKept({name: kept.expand(subject.checkpoint.tensors[name].shape) for name in names})
