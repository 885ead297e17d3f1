"""Forward passes in float16 where torch deems it safe (autocast), weights and outputs in float32. Imported by the engine alone.

Fabric's own 16-bit precision scales losses too and skips steps whose gradients overflow; here that is done in `loss_scale.py`, so that
regimes which look at gradients, or take two a step, see them as they are.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch
from lightning_fabric.plugins.precision import MixedPrecision


class Half(MixedPrecision):
    """Autocast to float16, no scaler."""

    def __init__(self, device: str) -> None:
        """Autocast on `cpu` or `cuda`."""
        super().__init__("bf16-mixed", device)  # the one without a scaler
        self.precision = "16-mixed"

    def forward_context(self) -> AbstractContextManager[Any]:
        """Where forward passes run."""
        return torch.autocast(self.device, dtype=torch.float16)

    def convert_input(self, data: Any) -> Any:
        """As they are: autocast casts what it needs."""
        return data
