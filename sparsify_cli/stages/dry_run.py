"""`--dry-run`: the resolved recipe, for pruning the plan of every tensor, for training samples and steps; nothing is written."""

from __future__ import annotations

from sparsify_cli.contracts.listener import Listener
from sparsify_cli.errors import MissingContext
from sparsify_cli.recipes.recipe import Recipe
from sparsify_cli.recipes.verbs import FinetuneRecipe, PruneRecipe, TrainRecipe
from sparsify_cli.stages.auto import NAME
from sparsify_cli.stages.outcome import Outcome, Table
from sparsify_cli.stages.planned import Planned, cost_table, facts, plan_table, planned
from sparsify_cli.stages.strategy import strategy
from sparsify_cli.stages.training_plan import training_plan

SHELF_FIELDS = {
    "criterion": "criteria",
    "solver": "solvers",
    "regime": "regimes",
    "objective": "objectives",
    "unlearner": "unlearners",
    "to": "exporters",
}


def dry_run(recipe: Recipe, listener: Listener) -> Outcome:
    """The recipe as it would run; every strategy it names is built, so that a wrong name or option is found now."""
    for name, package in SHELF_FIELDS.items():
        choice = getattr(recipe, name, None)
        if choice is not None and (name, choice.name) != ("solver", NAME):  # auto is on no shelf
            strategy(package, choice)
    found = _plan(recipe, listener) if isinstance(recipe, PruneRecipe) else None
    known = {"recipe": recipe.to_plain(), "recipe_sha256": recipe.digest(), **(facts(found) if found else {})}
    tables = (plan_table(found), cost_table(found)) if found else _training(recipe, listener)
    return Outcome(recipe.verb, recipe.to_yaml().rstrip(), tables=tables, facts=known)


def _training(recipe: Recipe, listener: Listener) -> tuple[Table, ...]:
    """What a training verb would do; nothing where the network or its data are not named yet."""
    if not isinstance(recipe, FinetuneRecipe | TrainRecipe) or not (recipe.model or isinstance(recipe, TrainRecipe)):
        return ()
    try:
        return (training_plan(recipe, listener),)
    except MissingContext:
        if recipe.model:
            raise
        return ()


def _plan(recipe: PruneRecipe, listener: Listener) -> Planned | None:
    """What would go; nothing when no network is named and there is no newest one either."""
    try:
        return planned(recipe, listener)
    except MissingContext:
        if recipe.model:
            raise
        return None
