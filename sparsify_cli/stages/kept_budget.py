"""A budget that is kept: of bytes by looking at the packed file, which is known only when positions are; and said: of multiply-accumulates.

Before positions are chosen the bytes of a layer are those expected for zeros at random. Zeros that lie close together take more,
some percent at most; then the network is pruned once more, with as much less asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction

from torch import Tensor

from sparsify_cli.errors import Infeasible
from sparsify_cli.maths.macs import macs_per_weight
from sparsify_cli.recipes.budget import Budget
from sparsify_cli.recipes.verbs import PruneRecipe
from sparsify_cli.stages.calibrate import names_in
from sparsify_cli.stages.plan import tied_names, untied
from sparsify_cli.stages.solve import Solved
from sparsify_cli.stages.subject import Subject
from sparsify_cli.values.tensor_size import packed_bytes

TRIES = 5
"""Times a network is pruned at most."""


def kept_to_budget(recipe: PruneRecipe, before: Subject, pruned: Callable[[PruneRecipe], Solved]) -> Solved:
    """What pruning leaves, with the packed file within a budget of bytes.

    Args:
        recipe: says the budget; without one of bytes the network is pruned once.
        before: the dense network.
        pruned: prunes it as a recipe says.

    Raises:
        Infeasible: the file stays larger.
    """
    each = _a_try(recipe)
    found = pruned(each)
    if recipe.budget is None or recipe.budget.kind != "bytes":
        return replace(found, notes=(*found.notes, *_macs(recipe, before, found)))
    limit = recipe.budget.limit(packed_bytes(before.checkpoint.tensors))
    spent = found.minutes
    asked, aliases = limit, tied_names(before.checkpoint, before.architecture)
    for _ in range(TRIES):
        size = packed_bytes(untied(found.tensors, aliases))
        if size <= limit:
            return replace(found, minutes=spent)
        asked = max(2, asked * limit // size - 1)
        found = pruned(replace(each, budget=Budget("bytes", Fraction(asked))))
        spent += found.minutes
    if (size := packed_bytes(untied(found.tensors, aliases))) <= limit:
        return replace(found, minutes=spent)
    raise Infeasible(
        f"The packed file has {size:,} bytes, and the budget allows {limit:,}.",
        "Its zeros lie too close together to be told in fewer.",
        f"Ask for a little less: --budget bytes={asked * limit // size}B.",
    )


def _a_try(recipe: PruneRecipe) -> PruneRecipe:
    """The recipe of one try: its share of the minutes, where bytes may take several."""
    tried = recipe.minutes is not None and recipe.budget is not None and recipe.budget.kind == "bytes"
    return replace(recipe, minutes=(recipe.minutes or 0.0) / (TRIES + 1)) if tried else recipe


def _macs(recipe: PruneRecipe, before: Subject, found: Solved) -> tuple[str, ...]:
    """How many multiply-accumulates are left, where they were asked for."""
    if recipe.budget is None or recipe.budget.kind != "macs":
        return ()
    module = before.module()
    uses, ours = macs_per_weight(module, before.samples("train").inputs[:1]), names_in(module, before)

    tensors = before.checkpoint.tensors
    dense = sum(uses.get(ours[name], 0) * tensor.numel() for name, tensor in tensors.items())
    left = sum(uses.get(ours[name], 0) * _left(name, tensor, found) for name, tensor in tensors.items())
    return (f"multiply-accumulates of a sample: {left:,} of {dense:,} ({left / max(1, dense):.2%}).",)


def _left(name: str, tensor: Tensor, found: Solved) -> int:
    return int(found.masks[name].sum()) if name in found.masks else tensor.numel()
