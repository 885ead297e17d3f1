"""Network: a module with samples to run it on, and which of its parameters are being pruned."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import torch
from torch import Tensor, nn

from sparsify_cli.values.arrays import as_taken_by
from sparsify_cli.values.losses import loss


@dataclass(frozen=True, eq=False)
class Network:
    """A private copy of a network in eval mode: methods may set its weights, and put nothing else out of order.

    Args:
        module: in eval mode; its other parameters are frozen.
        names: name of each prunable tensor -> name of the parameter in the module.
        inputs: [n, ...] calibration samples.
        targets: [n] class labels, or [n, attributes].
        sparsity: the fraction of zeros that is meant, in [0, 1]; 0 when none is.
        seed: of everything random.
        batch: samples of one pass.
        saves: what there is to be less of.
    """

    module: nn.Module
    names: Mapping[str, str]
    inputs: Tensor
    targets: Tensor
    sparsity: Fraction = Fraction(0)
    seed: int = 0
    batch: int = 64
    saves: Literal["weights", "macs"] = "weights"

    def parameters(self) -> dict[str, nn.Parameter]:
        """The prunable parameters, by the tensors' names."""
        there = dict(self.module.named_parameters())
        return {name: there[inside] for name, inside in self.names.items()}

    def weights(self) -> dict[str, Tensor]:
        """Their values now, copied."""
        return {name: parameter.detach().clone() for name, parameter in self.parameters().items()}

    @torch.no_grad()
    def put(self, weights: Mapping[str, Tensor]) -> None:
        """Set prunable parameters."""
        there = self.parameters()
        for name, value in weights.items():
            there[name].copy_(value)

    def batches(self, size: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Inputs as the module takes them, and labels; `size` samples each (0 = `batch`), in order."""
        for inputs, targets in zip(self.inputs.split(size or self.batch), self.targets.split(size or self.batch), strict=True):
            taken = as_taken_by(self.module, inputs)
            yield taken, targets.to(taken.device)

    def loss(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Mean loss of a batch, differentiable: cross-entropy, nats, or squared error."""
        out = self.module(inputs)
        if not isinstance(out, Tensor):
            raise TypeError(f"what it puts out must be Tensor, not {type(out).__name__}")
        return loss(out, targets)
