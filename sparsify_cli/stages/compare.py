"""`compare`: any number of networks side by side, measured on the same samples against one baseline.

The baseline is `--dense`, or the dense ancestor of the first network, or, where that is dense itself, the first network.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path

from sparsify_cli.contracts.listener import Listener
from sparsify_cli.errors import BadRequest, MissingContext
from sparsify_cli.recipes.compare import CompareRecipe
from sparsify_cli.recipes.verbs import ReportRecipe
from sparsify_cli.stages.gates import read_gates
from sparsify_cli.stages.lineage import dense_ancestor
from sparsify_cli.stages.outcome import Outcome
from sparsify_cli.stages.report import reported
from sparsify_cli.stages.subject import Subject, open_path, open_subject
from sparsify_cli.stages.validate import parse_split


def compare(recipe: CompareRecipe, listener: Listener) -> Outcome:
    """Measure every network, write the page about the first beside all others."""
    names = _networks(recipe)
    split = parse_split(recipe.split)
    read_gates(recipe.gate)
    first = open_subject(_asked(recipe, names), listener=listener)
    baseline = _baseline(recipe, first)
    if baseline.path.resolve() == first.path.resolve():
        names = names[1:]
        first = open_subject(_asked(recipe, names), listener=listener)
    asked = replace(recipe, dense=str(baseline.path))  # so that the same can be done again
    outcome = reported(_asked(recipe, names), first, baseline, split, listener, asked=asked)
    return replace(outcome, verb="compare")


def _networks(recipe: CompareRecipe) -> tuple[str, ...]:
    """Their paths, each once.

    Raises:
        BadRequest: fewer than two.
    """
    names = tuple({Path(text).resolve(): text for text in recipe.networks}.values())
    if len(names) < 2:
        what = "Nothing to compare." if not names else f"Nothing to compare {names[0]} with."
        raise BadRequest(what, "Two networks are needed at least.", "For instance: sparsify compare dense pruned tuned")
    return names


def _baseline(recipe: CompareRecipe, first: Subject) -> Subject:
    """What all are measured against."""
    if recipe.dense:
        return open_path(Path(recipe.dense))
    try:
        return dense_ancestor(first)
    except MissingContext:
        return first


def _asked(recipe: CompareRecipe, names: Sequence[str]) -> ReportRecipe:
    """The report that shows these networks."""
    shared = {field.name for field in fields(CompareRecipe)} & {field.name for field in fields(ReportRecipe)}
    return ReportRecipe(**{name: getattr(recipe, name) for name in shared}, model=names[0], also=tuple(names[1:]))
