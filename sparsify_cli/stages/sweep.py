"""`report DENSE --sparsities 0.5,0.8,...`: the network is pruned to each (and fine-tuned, where asked), and all are shown on one page.

Each pruned network is an artifact of its own, as `prune` and `finetune` write them, so the one that is chosen is there.
"""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

from sparsify_cli.contracts.listener import Listener
from sparsify_cli.errors import BadRequest
from sparsify_cli.recipes.option import decimal
from sparsify_cli.recipes.verbs import FinetuneRecipe, PruneRecipe, ReportRecipe
from sparsify_cli.stages.finetune import finetune
from sparsify_cli.stages.prune import prune
from sparsify_cli.stages.subject import Subject

CONTEXT = ("arch", "arch_arg", "data", "data_arg")


def swept(recipe: ReportRecipe, dense: Subject, listener: Listener) -> tuple[str, ...]:
    """Paths of the networks, least sparse first.

    Raises:
        BadRequest: the network is sparse already, or a sparsity is no pruning.
    """
    if dense.masks:
        what = f"{dense.path} is sparse already."
        raise BadRequest(what, "--sparsities starts from a dense network.", "Name that one.")
    if not all(recipe.sparsities):
        raise BadRequest("A sparsity of 0 prunes nothing.", "The dense network is shown anyway.", "Leave it out of --sparsities.")
    return tuple(_at(recipe, dense, sparsity, listener) for sparsity in sorted(set(recipe.sparsities)))


def _at(recipe: ReportRecipe, dense: Subject, sparsity: Fraction, listener: Listener) -> str:
    """One network."""
    listener.note(f"pruning to {decimal(sparsity)}")
    context: dict[str, Any] = {name: getattr(recipe, name) for name in CONTEXT}
    given = {name: getattr(recipe, name) for name in ("pattern", "solver", "entry", "trust_pickle")}
    asked = PruneRecipe(model=str(dense.path), sparsity=sparsity, **given, **context)
    made = prune(asked, listener).artifact
    if recipe.epochs:
        listener.note(f"fine-tuning {made}")
        made = finetune(FinetuneRecipe(model=str(made), epochs=recipe.epochs, **context), listener).artifact
    return str(Path(str(made)))
