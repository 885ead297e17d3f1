"""`analyze`: what pruning each layer alone costs, and how each rule would share the zeros out; nothing is pruned.

Costs are those that `prune --allocation dp` weighs: a layer is pruned at a ladder of levels, with repair where a solver of
layers is named, while all others stay dense. What people see at 50, 80 and 90 % lies between levels of the ladder, which is
in the JSON as it was measured.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from sparsify_cli.contracts.criterion import Criterion, Scores
from sparsify_cli.contracts.listener import Listener
from sparsify_cli.contracts.solver import LayerSolver
from sparsify_cli.errors import BadRequest, Infeasible
from sparsify_cli.maths.error_curves import Curve
from sparsify_cli.maths.macs import macs_per_weight
from sparsify_cli.pages.analysis import LEVELS, SCHEMA, Analysis, LayerAnalysis, RulePlan, Rung, picture
from sparsify_cli.pages.wording import percent, round_percent, significant
from sparsify_cli.recipes.allocation import NEEDS_COSTS
from sparsify_cli.recipes.analyze import AnalyzeRecipe
from sparsify_cli.recipes.verbs import PruneRecipe
from sparsify_cli.stages.calibrate import names_in, require_known, statistics
from sparsify_cli.stages.outcome import Outcome, Table
from sparsify_cli.stages.plan import plan, turned_of
from sparsify_cli.stages.rows import Row
from sparsify_cli.stages.sensitivity import LayerCosts
from sparsify_cli.stages.shares import BY_COST, QUICK, curves_of, measured, shared_out
from sparsify_cli.stages.solve import solver_of
from sparsify_cli.stages.sparsifier import Sparsifier, sparsifier
from sparsify_cli.stages.subject import Subject, open_subject
from sparsify_cli.stages.write import Product, output_folder, write_product
from sparsify_cli.values.artifact import claimed
from sparsify_cli.values.atomic import replace_file
from sparsify_cli.values.mask_set import MaskSet
from sparsify_cli.values.report import Report
from sparsify_cli.values.stats import Stats

USUAL = ("uniform", "global", "erk", "lamp", "dp")
SPARSITY = Fraction(9, 10)
"""Shared out when nothing is asked for."""

SHOWN = 25
"""Layers of a table on the terminal; files hold all."""

TYPED = ("arch", "arch_arg", "data", "data_arg", "entry", "sparsity", "budget", "pattern", "criterion", "solver", "skip", "include")
"""Fields of a pruning that its command line repeats."""

BEARABLE = 0.01
"""A layer is worth leaving dense when the others then need at most so many more zeros, as a fraction."""


@dataclass(frozen=True)
class Known(Criterion):
    """Scores that were computed once for all rules."""

    found: Mapping[str, Tensor]

    def scores(self, weights: Mapping[str, Tensor], stats: Stats) -> Scores:
        """Those of the named tensors."""
        del stats
        return {name: self.found[name] for name in weights}


class KnownTogether(Known):
    """Scores of what hangs together in several layers."""

    joint: ClassVar[bool] = True


def analyze(recipe: AnalyzeRecipe, listener: Listener) -> Outcome:
    """Measure the layers of a network, compare rules, and write analysis.json and analysis.svg.

    Raises:
        BadRequest: --sparsity and --budget are both given, or no layer can be measured.
        MissingContext: architecture or data are not known.
        Infeasible: no rule can reach the target.
    """
    if recipe.sparsity is not None and recipe.budget is not None:
        raise BadRequest("--sparsity and --budget are both given.", "Each says how much stays.", "Give one of them.")
    asked = _as_pruning(recipe)
    repaired = isinstance(solver_of(asked), LayerSolver)
    before = open_subject(recipe, verbs=("train",), listener=listener, survey=False).single()
    require_known("`analyze`", before)
    before = before.surveyed().checked()
    before.checkpoint.require_finite()
    rows = [row for row in plan(before.checkpoint, before.architecture, skip=recipe.skip, include=recipe.include) if row.matched]
    folder, held = output_folder(recipe, before.name)
    with claimed(folder, held=held):
        found = analysed(asked, before, rows, listener)
        facts = {"model": str(before.path), **_asked_for(recipe), "repaired_by": QUICK if repaired else None, **found.to_json()}
        files = _written(folder, facts, picture(found))
        report = write_product(folder, Product(recipe, before, Report((), facts), before, facts={"files": [file.name for file in files]}))
    notes = (
        _how(repaired=repaired),
        *(f"{rule} cannot be followed: {why}" for rule, why in found.refused.items()),
        *_left_out(found),
        *_pruned_before(before),
    )
    return Outcome("analyze", _headline(found), report, folder, _tables(found), notes, _hints(found, recipe, before), files)


def _as_pruning(recipe: AnalyzeRecipe) -> PruneRecipe:
    """The pruning that is thought about."""
    asked = PruneRecipe(**{one.name: getattr(recipe, one.name) for one in fields(recipe)})
    implied = recipe.budget is not None or recipe.sparsity is not None or recipe.pattern.implied_sparsity > 0
    return asked if implied else replace(asked, sparsity=SPARSITY)


def _asked_for(recipe: AnalyzeRecipe) -> dict[str, object]:
    plain = _as_pruning(recipe).to_plain()
    return {key: plain[key] for key in ("sparsity", "budget", "pattern", "criterion", "solver", "samples", "seed")}


def analysed(asked: PruneRecipe, before: Subject, rows: Sequence[Row], listener: Listener) -> Analysis:
    """The layers of a network measured, and every rule followed as far as counts.

    Args:
        asked: the pruning that is thought about; its allocation is the one to recommend.
        before: the network, with architecture and data.
        rows: its prunable tensors.
        listener: hears progress.
    """
    names = [row.name for row in rows]
    chooser = _chooser(asked, before, rows)
    costs = measured(asked, before, chooser, before.checkpoint.tensors, listener)
    if not costs:
        raise BadRequest(f"None of {len(names)} tensors can be measured, first {names[0]}.", "No layer that is run uses them as weights.")
    plans, refused = _plans(asked, before, chooser, costs, listener)
    uses, every = _macs(before)
    layers = [_layer(row, uses.get(row.name, 0), costs.get(row.name), plans) for row in rows]
    layers.sort(key=lambda layer: (*reversed(layer.divergences), *(rung.divergence for rung in layer.ladder[-1:])), reverse=True)
    rules = {rule: _rule(layers, rule, costs, every) for rule in plans}
    best = asked.allocation if asked.allocation in rules else min(rules, key=lambda rule: rules[rule].rank)
    return Analysis(_title(before, asked), tuple(layers), rules, refused, every, best, _unit(before))


def _unit(before: Subject) -> str:
    return "of their square" if before.samples("train").kind == "numbers" else "nats"


def _title(before: Subject, asked: PruneRecipe) -> str:
    if asked.budget is not None:
        target = str(asked.budget)
    else:
        target = f"{round_percent(float(asked.sparsity if asked.sparsity is not None else asked.pattern.implied_sparsity))} zeros"
    return f"Layers of {before.path.name}: sensitivity, and shares at {target}"


def _chooser(asked: PruneRecipe, before: Subject, rows: Sequence[Row]) -> Sparsifier:
    """What chooses masks as `prune` would, with scores computed once; the allocation is still to be set."""
    names = [row.name for row in rows]
    chooser = sparsifier(replace(asked, allocation="global"), names, stats=statistics(asked, before, names), turned=turned_of(rows))
    scores = chooser.scores({name: before.checkpoint.tensors[name] for name in names})
    return replace(chooser, criterion=(KnownTogether if chooser.criterion.joint else Known)(scores))


def _plans(
    asked: PruneRecipe, before: Subject, chooser: Sparsifier, costs: Mapping[str, LayerCosts], listener: Listener
) -> tuple[dict[str, dict[str, int]], dict[str, str]]:
    """Weights that each tensor keeps by each rule, and why a rule cannot be followed.

    Raises:
        Infeasible: none can.
    """
    own = () if asked.allocation in (*USUAL, "auto") else (asked.allocation,)
    plans: dict[str, dict[str, int]] = {}
    refused: dict[str, Infeasible] = {}
    for rule in ("global",) if chooser.criterion.joint else (*USUAL, *own):
        try:
            masks = _masks(replace(asked, allocation=rule), before, chooser, costs, listener)
            plans[rule] = {name: int(masks[name].sum()) for name in chooser.names}
        except Infeasible as error:
            refused[rule] = error
    if not plans:
        raise next(iter(refused.values()))
    return plans, {rule: str(error) for rule, error in refused.items()}


def _masks(asked: PruneRecipe, before: Subject, chooser: Sparsifier, costs: Mapping[str, LayerCosts], listener: Listener) -> MaskSet:
    """The masks that `prune` would choose by a rule."""
    tensors, by_cost = before.checkpoint.tensors, asked.allocation in NEEDS_COSTS
    chooser = replace(chooser, allocation=asked.allocation, at_least=1 if by_cost or asked.solver is not None else 0)
    sparsity = asked.sparsity
    if by_cost and asked.budget is None:
        curves, rule = curves_of(costs, chooser, tensors), BY_COST[asked.allocation]
        chooser = replace(chooser, allocation=lambda layers, total: rule([curves[layer.name] for layer in layers], layers, total))
    else:
        chooser, sparsity = shared_out(asked, before, chooser, tensors, listener)
    return chooser.once(tensors, chooser.target(tensors, sparsity, pruned=before.masks), pruned=before.masks)


def _macs(before: Subject) -> tuple[dict[str, int], int]:
    """Multiply-accumulates of each tensor for one sample, and of the whole network."""
    module = before.module()
    uses, ours = macs_per_weight(module, before.samples("train").inputs[:1]), names_in(module, before)
    found = {name: uses.get(ours[name], 0) * tensor.numel() for name, tensor in before.checkpoint.tensors.items()}
    return found, sum(found.values())


def _layer(row: Row, macs: int, costs: LayerCosts | None, plans: Mapping[str, Mapping[str, int]]) -> LayerAnalysis:
    kept = {rule: counts[row.name] for rule, counts in plans.items()}
    if costs is None:
        return LayerAnalysis(row.name, row.shape, row.weights, macs, (), (), kept)
    at = [row.weights - round(row.weights * level) for level in LEVELS]
    errors = Curve.measured(row.name, row.weights, zip(costs.kept, costs.errors, strict=True))
    divergence = costs.curve(row.name)
    triples = zip(costs.kept, costs.errors, costs.divergence, strict=True)
    ladder = tuple(Rung(count, error, cost, count in costs.measured) for count, error, cost in triples)
    own, whole = (tuple(curve.cost(count) for count in at) for curve in (errors, divergence))
    return LayerAnalysis(row.name, row.shape, row.weights, macs, own, whole, kept, ladder)


def _rule(layers: Sequence[LayerAnalysis], rule: str, costs: Mapping[str, LayerCosts], every: int) -> RulePlan:
    """What a rule would give over all layers."""
    total, kept = sum(layer.weights for layer in layers), sum(layer.kept[rule] for layer in layers)
    gone = sum(Fraction(layer.macs * (layer.weights - layer.kept[rule]), max(1, layer.weights)) for layer in layers)
    cost = sum(costs[layer.name].curve(layer.name).cost(layer.kept[rule]) for layer in layers if layer.name in costs)
    emptied = sum(1 for layer in layers if not layer.kept[rule])
    return RulePlan(float(1 - Fraction(kept, max(1, total))), float(1 - gone / max(1, every)), None if emptied else cost, emptied)


def _written(folder: Path, facts: Mapping[str, object], drawn: str) -> tuple[Path, ...]:
    told = json.dumps({"schema": SCHEMA, **facts}, indent=1, allow_nan=False) + "\n"
    for name, text in (("analysis.json", told), ("analysis.svg", drawn)):
        _write(folder / name, text)
    return folder / "analysis.json", folder / "analysis.svg"


def _write(file: Path, text: str) -> None:
    replace_file(file, lambda path: path.write_text(text, encoding="utf-8"))


def _headline(found: Analysis) -> str:
    """The most sensitive layer, and what to leave dense."""
    first, skip = found.layers[0], _worth_skipping(found)
    at = f"with {round_percent(float(LEVELS[-1]))} of it zero the predictions move by {_small(first.divergences[-1])} {found.unit}"
    text = f"{first.name} is the most sensitive of {len(found.layers)} layers: {at}"
    large = f"{text}. It holds {percent(first.weights / max(1, found.weights))} of the weights, too many to --skip"
    if skip is None:
        return f"{large}; --allocation {found.best} keeps {_kept(first, found.best)} of it."
    text = text if skip is first else f"{large}; {skip.name} ({_small(skip.divergences[-1])} {found.unit}) costs most for its size"
    zeros = found.rules[found.best].sparsity
    move = f"the others then need {percent(_of_others(found, skip))} zeros instead of {percent(zeros)}"
    return f"{text}. Leave it dense with --skip {shlex.quote(skip.name)}: {move}."


def _worth_skipping(found: Analysis) -> LayerAnalysis | None:
    """The most sensitive layer, or the one that costs most for its size, where the others can bear its zeros."""
    zeros = found.rules[found.best].sparsity
    light = [layer for layer in found.layers if layer.divergences and _of_others(found, layer) - zeros <= BEARABLE]
    if found.layers[0] in light:
        return found.layers[0]
    return max(light, key=lambda layer: layer.divergences[-1] / layer.weights, default=None)


def _of_others(found: Analysis, layer: LayerAnalysis) -> float:
    """Share of zeros that the other layers need when this one stays dense."""
    others = found.weights - layer.weights
    return found.rules[found.best].sparsity * found.weights / others if others else 2.0


def _how(*, repaired: bool) -> str:
    how = f"{QUICK} repairs what stays" if repaired else "the smallest weights go and nothing is repaired"
    return f"each layer was pruned alone, {how}; numbers at {_levels()} lie between measured levels, which are in analysis.json."


def _levels() -> str:
    *first, last = (f"{float(100 * level):g}" for level in LEVELS)
    return f"{', '.join(first)} and {last} %"


def _left_out(found: Analysis) -> tuple[str, ...]:
    """What the tables do not show."""
    unmeasured = [layer.name for layer in found.layers if not layer.divergences]
    notes = [f"{len(found.layers) - SHOWN} more layers are in analysis.json."] if len(found.layers) > SHOWN else []
    if unmeasured:
        notes.append(f"{len(unmeasured)} tensors could not be measured (no linear layer or convolution that is run): {unmeasured[0]}.")
    return tuple(notes)


def _pruned_before(before: Subject) -> tuple[str, ...]:
    zeros = float(before.masks.sparsity) if before.masks else 0.0
    return (f"{percent(zeros)} of its weights are zero already: up to there zeros cost nothing.",) if zeros else ()


def _hints(found: Analysis, recipe: AnalyzeRecipe, before: Subject) -> tuple[str, ...]:
    """The pruning that is recommended, as it is typed."""
    asked, usual = _as_pruning(recipe).to_plain(), PruneRecipe().to_plain()
    words = ["sparsify", "prune", str(before.path)]
    for key in TYPED:
        if asked[key] != usual[key]:
            words += _typed(key, asked[key])
    return (shlex.join([*words, "--allocation", found.best]),)


def _typed(key: str, value: Any) -> list[str]:
    """A field of a recipe as words of a command line."""
    flag = f"--{key.replace('_', '-')}"
    if isinstance(value, list):
        return [word for one in value for word in (flag, str(one))]
    if isinstance(value, Mapping):
        return [flag, str(value["name"]), *(word for k, v in value.items() if k != "name" for word in ("--set", f"{key}.{k}={v}"))]
    return [flag, str(value)]


def _tables(found: Analysis) -> tuple[Table, ...]:
    shown = found.layers[:SHOWN]
    return (_sizes(found, shown), _costs(shown, found.unit), _kept_table(found, shown), _rules(found))


def _sizes(found: Analysis, layers: Sequence[LayerAnalysis]) -> Table:
    rows = (
        (
            layer.name, "x".join(map(str, layer.shape)), f"{layer.weights:,}", percent(layer.weights / max(1, found.weights)),
            f"{layer.macs:,}", percent(layer.macs / max(1, found.macs)),
        )
        for layer in layers
    )  # fmt: skip
    return Table("layers, the most sensitive first", ("tensor", "shape", "weights", "of all", "MACs", "of all"), tuple(rows))


def _costs(layers: Sequence[LayerAnalysis], unit: str) -> Table:
    """What pruning one layer alone does, to its own outputs and to the predictions."""
    levels = [f"{float(100 * level):g}%" for level in LEVELS]
    columns = ("tensor", f"error {levels[0]}", *levels[1:], f"{unit} {levels[0]}", *levels[1:])
    rows = ((one.name, *_or_none(one.output_errors, percent), *_or_none(one.divergences, _small)) for one in layers)
    return Table("one layer alone: error of its outputs, divergence of predictions", columns, tuple(rows))


def _or_none(values: Sequence[float], said: Callable[[float], str]) -> tuple[str, ...]:
    return tuple(said(value) for value in values) or ("–",) * len(LEVELS)


def _small(value: float) -> str:
    return "<0.0001" if 0 < value < 1e-4 else significant(value, 2)


def _kept(layer: LayerAnalysis, rule: str) -> str:
    return percent(layer.kept[rule] / max(1, layer.weights))


def _kept_table(found: Analysis, layers: Sequence[LayerAnalysis]) -> Table:
    rows = ((layer.name, *(_kept(layer, rule) for rule in found.rules)) for layer in layers)
    return Table("share of each layer that a rule would keep", ("tensor", *found.rules), tuple(rows))


def _rules(found: Analysis) -> Table:
    """All layers together; the sum of what they cost alone is no forecast, but ranks rules."""
    columns = ("rule", "zeros", "MACs left", f"sum of {found.unit}" if found.unit == "nats" else "sum of moves", "layers emptied")
    rows = ((name, percent(of.sparsity), percent(of.macs), _summed(of), str(of.emptied)) for name, of in found.rules.items())
    return Table("rules", columns, tuple(rows))


def _summed(of: RulePlan) -> str:
    return "–" if of.divergence is None else significant(of.divergence, 2)
