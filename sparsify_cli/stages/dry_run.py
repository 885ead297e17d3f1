"""`--dry-run`: the resolved recipe, and for pruning the plan of every tensor; nothing is written."""

from __future__ import annotations

from sparsify_cli.errors import MissingContext
from sparsify_cli.recipes.recipe import Recipe
from sparsify_cli.recipes.verbs import PruneRecipe
from sparsify_cli.stages.outcome import Outcome, Table
from sparsify_cli.stages.prune import dry_run as plan_of
from sparsify_cli.stages.strategy import strategy

SHELF_FIELDS = {
    "criterion": "criteria",
    "solver": "solvers",
    "regime": "regimes",
    "objective": "objectives",
    "unlearner": "unlearners",
    "to": "exporters",
}


def dry_run(recipe: Recipe) -> Outcome:
    """The recipe as it would run; every strategy it names is built, so that a wrong name or option is found now."""
    for name, package in SHELF_FIELDS.items():
        if getattr(recipe, name, None) is not None:
            strategy(package, getattr(recipe, name))
    tables = _plan(recipe) if isinstance(recipe, PruneRecipe) else ()
    return Outcome(
        recipe.verb, recipe.to_yaml().rstrip(), tables=tables, facts={"recipe": recipe.to_plain(), "recipe_sha256": recipe.digest()}
    )


def _plan(recipe: PruneRecipe) -> tuple[Table, ...]:
    """What would go; nothing when no network is named and there is no newest one either."""
    try:
        return (plan_of(recipe),)
    except MissingContext:
        if recipe.model:
            raise
        return ()
