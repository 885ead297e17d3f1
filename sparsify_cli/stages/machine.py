"""The machine: how many CPU threads a verb may use, and what a measured time depends on."""

from __future__ import annotations

import os
import platform

import torch

from sparsify_cli.recipes.recipe import Recipe
from sparsify_cli.recipes.shared import MachineFields


def prepare(recipe: Recipe) -> None:
    """Use the recipe's number of threads. One by default: small networks are faster and sums have one order."""
    if isinstance(recipe, MachineFields):
        torch.set_num_threads(recipe.threads or os.cpu_count() or 1)


def machine() -> dict[str, str]:
    """What a time depends on: system, processor threads, accelerator."""
    accelerator = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "none"
    return {
        "system": platform.platform(terse=True),
        "cores": str(os.cpu_count()),
        "threads": str(torch.get_num_threads()),
        "accelerator": accelerator,
    }
