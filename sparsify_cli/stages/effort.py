"""What a training run computes: multiply-adds of its steps, summed as they are taken.

A step with (a, b) passes costs a f_S + b f_D for each sample; f_D is what a forward pass of the dense network takes in layers with
weights, f_S what is left of it under the masks. Two operations, a multiplication and an addition, are one multiply-add.

Source: Evci et al. 2020 (arXiv 1911.11134), appendix on FLOPs: batch norm, activations, biases, the optimizer and the search for masks do
not count; a backward pass is two forward passes.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction

from torch import nn

from sparsify_cli.maths.macs import macs_per_weight
from sparsify_cli.values.mask_set import MaskSet
from sparsify_cli.values.report import Finding
from sparsify_cli.values.samples import Samples


class Effort:
    """Sums a run's multiply-adds.

    Args:
        module: the network.
        samples: one of them is run.
        done: (spent, dense) of a run that is resumed.
    """

    def __init__(self, module: nn.Module, samples: Samples, *, done: tuple[float, float] = (0.0, 0.0)) -> None:
        self.uses = macs_per_weight(module, samples.inputs[:1])
        self.sizes = {name: p.numel() for name, p in module.named_parameters() if name in self.uses}
        self.spent, self.dense = done
        self._masks: MaskSet | None = None
        self._forward = Fraction(0)

    def add(self, masks: MaskSet, passes: tuple[float, float], *, samples: int) -> None:
        """A step on so many samples that was taken under these masks."""
        whole = self._cost({})
        if masks is not self._masks:
            self._masks, self._forward = masks, Fraction(self._cost({name: int(mask.sum()) for name, mask in masks.items()}))
        self.spent += samples * (passes[0] * float(self._forward) + passes[1] * whole)
        self.dense += samples * 3 * whole

    def findings(self) -> list[Finding]:
        """Multiply-adds of the run, and relative to dense training of as many steps."""
        if not self.dense:
            return []
        text = "Multiply-adds of all training steps in layers with weights; a backward pass counts as two; a teacher is left out."
        share = "The run's multiply-adds relative to dense training for as many steps (possible savings: dense kernels do not skip zeros)."
        return [
            Finding(name="training_macs", value=self.spent, unit="multiply-adds", better="lower", definition=text),
            Finding(name="training_macs_share", value=self.spent / self.dense, unit="fraction", better="lower", definition=share),
        ]

    def _cost(self, kept: Mapping[str, int]) -> int:
        return sum(self.uses[name] * kept.get(name, size) for name, size in self.sizes.items())
