"""Random numbers of torch from a seed, at every step.

`torch.manual_seed` also leaves word for every kind of accelerator that is not there, with the whole call stack as text: 1 ms a call,
as long as a step of a small network.
"""

from __future__ import annotations

import torch


def seed_torch(seed: int) -> None:
    """Seed the generators that exist: the processor's, and those of CUDA or MPS where they are in use."""
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)
    elif torch.backends.mps.is_available():
        torch.mps.manual_seed(seed)
