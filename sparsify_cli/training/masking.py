"""Masks that change while training: settled among processes, enforced at once, and what changed is told.

The relative change of two mask sets is the share of kept weights that are others than before: |new - old| / |new|, the
number of weights that are kept now and were not. With equal counts it is half the Hamming distance over the count.

Source: the mask difference that AC/DC logs between sparse phases (Peste et al. 2021, arXiv 2106.12379, official code
`policies/manager.py`); SAD, the number of mask bits that differ: Zhou et al. 2021 (arXiv 2102.04010), section 3.3.
"""

from __future__ import annotations

from torch import Tensor

from sparsify_cli.training import guard
from sparsify_cli.values.mask_set import MaskSet
from sparsify_cli.values.run import Run

THIN = 0.02
"""Density of a layer under which it is told as nearly dead."""


def switch(run: Run, masks: MaskSet, *, event: str) -> None:
    """Other masks from here on: enforced on weights, frozen values and the optimizer's memory.

    Args:
        run: changed in place.
        masks: the new ones; none = every weight takes part, and what was pruned starts from zero.
        event: why, in one word, for what is told.
    """
    before = run.masks
    run.masks = run.settle(masks)
    guard.place(run)
    guard.enforce(run)
    run.tell(event, sparsity=float(run.masks.sparsity), **changes(before, run.masks), **thinnest(run.masks), **resized(before, run.masks))


def changes(before: MaskSet, after: MaskSet) -> dict[str, float]:
    """Share of the weights kept now that were not kept before, and the number of bits that differ (SAD); empty for the first masks."""
    both = [name for name in after if name in before]
    if not both:
        return {}
    grown = sum(_count(after[name] & ~before[name].to(after[name].device)) for name in both)
    dropped = sum(_count(~after[name] & before[name].to(after[name].device)) for name in both)
    kept = sum(_count(after[name]) for name in both)
    return {"mask_change": grown / max(1, kept), "sad": float(grown + dropped)}


def thinnest(masks: MaskSet) -> dict[str, float | str]:
    """The layer with the least density, how many have less than 2 %, and how many output channels are dead."""
    if not masks:
        return {}
    density = {name: _count(mask) / max(1, mask.numel()) for name, mask in masks.items()}
    name = min(density, key=lambda one: density[one])
    dead = sum(_count(~mask.flatten(1).any(1)) for mask in masks.values() if mask.ndim > 1)
    return {"thinnest": name, "least_density": density[name], "thin_layers": sum(d < THIN for d in density.values()), "dead_channels": dead}


def resized(before: MaskSet, after: MaskSet) -> dict[str, dict[str, float]]:
    """The density of every layer that keeps another number of weights than before; empty where none does."""
    found = {name: _density(mask) for name, mask in after.items() if name not in before or _count(before[name]) != _count(mask)}
    return {"densities": found} if found else {}


def _density(mask: Tensor) -> float:
    return round(_count(mask) / max(1, mask.numel()), 6)


def _count(mask: Tensor) -> int:
    return int(mask.sum())
