"""The machine: how many CPU threads a verb may use, set before anything is computed."""

from __future__ import annotations

import os

import torch

from sparsify_cli.recipes.recipe import Recipe
from sparsify_cli.recipes.shared import MachineFields


def prepare(recipe: Recipe) -> None:
    """Use the recipe's number of threads. One by default: small networks are faster and sums have one order."""
    if isinstance(recipe, MachineFields):
        torch.set_num_threads(recipe.threads or os.cpu_count() or 1)
