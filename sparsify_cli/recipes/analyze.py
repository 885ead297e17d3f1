"""The recipe of `analyze`: what each layer can bear, and how each rule would share the zeros out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field

from sparsify_cli.recipes.option import Allocation, BudgetText, Option, Sparsity, Strategy
from sparsify_cli.recipes.shared import DataFields, ModelFields, OutputFields, SparsityFields


@dataclass(frozen=True, kw_only=True)
class AnalyzeRecipe(ModelFields, DataFields, SparsityFields, OutputFields):
    """Measure what pruning each layer alone costs, and compare how rules would share the zeros out."""

    verb: ClassVar[str] = "analyze"
    sparsity: Annotated[
        Sparsity | None, Option("Fraction of zeros that the rules share out, in [0, 1]; left out = what the pattern implies, or 0.9.")
    ] = None
    allocation: Annotated[Allocation, Option("The rule whose plan is recommended; it is shown beside the usual ones.")] = "auto"
    budget: Annotated[
        BudgetText | None, Option("Instead of --sparsity: params=0.1, macs=0.25 or bytes=2MB of the whole network.", metavar="KIND=AMOUNT")
    ] = None
    solver: Annotated[
        Strategy | None,
        Option("As for prune: with one of layers, weights that stay are repaired while a layer is measured.", shelf="solvers"),
    ] = None
    samples: Annotated[int, Field(ge=1), Option("Training samples that are run through the network.")] = 1024
