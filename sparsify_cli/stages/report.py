"""`report`: a compressed network against its dense ancestor: one HTML page, Markdown, JSON, and rows for the terminal."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sparsify_cli.contracts.dataset import Split
from sparsify_cli.contracts.listener import Listener
from sparsify_cli.contracts.metric import Evidence
from sparsify_cli.errors import BadRequest, Regression
from sparsify_cli.maths.calibration_error import reliability_bins
from sparsify_cli.pages.against_sparsity import AS_DENSE, LESS_SURE, headline, regime
from sparsify_cli.pages.document import to_json
from sparsify_cli.pages.html import render_html
from sparsify_cli.pages.markdown import render_markdown, terminal_columns, terminal_rows
from sparsify_cli.pages.spreadsheet import render_csv
from sparsify_cli.pages.verdict import called
from sparsify_cli.pages.view import Curve, Epoch, Layer, LineageStep, Reliability, Stage, View
from sparsify_cli.pages.wording import percent, round_percent
from sparsify_cli.recipes.shared import OutputFields
from sparsify_cli.recipes.verbs import ReportRecipe
from sparsify_cli.stages.after_forgetting import meant_notes
from sparsify_cli.stages.certified import certified
from sparsify_cli.stages.evidence import evidence
from sparsify_cli.stages.exemplars import exemplars
from sparsify_cli.stages.forecast import foretell, late_notes, read_forecast, score, score_note
from sparsify_cli.stages.forgotten import lineage
from sparsify_cli.stages.gates import check_gates, read_gates
from sparsify_cli.stages.levels import level_note
from sparsify_cli.stages.lineage import dense_ancestor, kin
from sparsify_cli.stages.machine import machine
from sparsify_cli.stages.measure import measure_all
from sparsify_cli.stages.origin import versions
from sparsify_cli.stages.outcome import Outcome, Table
from sparsify_cli.stages.plan import prunable_names
from sparsify_cli.stages.population import Population, population
from sparsify_cli.stages.sizes import size_findings, speed_findings
from sparsify_cli.stages.subject import Subject, open_path, open_subject, with_context_of
from sparsify_cli.stages.support import pruned_support
from sparsify_cli.stages.sweep import swept
from sparsify_cli.stages.training_log import read_log
from sparsify_cli.stages.validate import parse_split
from sparsify_cli.stages.write import Product, data_identity, output_folder, write_product
from sparsify_cli.values.artifact import claimed
from sparsify_cli.values.atomic import replace_file
from sparsify_cli.values.condition import Condition
from sparsify_cli.values.predictions import Predictions
from sparsify_cli.values.report import Finding, Report

PAIR = 2
"""Columns up to which the terminal shows changes, and not networks side by side."""
LESS = "Ask for lower sparsities, or for --epochs of fine-tuning."
COMPRESSED = ("recalibrate", "finetune", "prune", "shrink", "extract", "unlearn")


@dataclass(frozen=True, eq=False)
class Compared:
    """One network beside the dense ancestor.

    Args:
        subject: the network.
        seen: both populations' predictions.
        report: its findings.
    """

    subject: Subject
    seen: Evidence
    report: Report


def report(recipe: ReportRecipe, listener: Listener) -> Outcome:
    """Compare, write the page, Markdown, JSON and CSV, and check the gates."""
    split = parse_split(recipe.split)
    read_gates(recipe.gate)
    if recipe.score:
        read_forecast(Path(recipe.score))
    if recipe.population and (recipe.forecast or recipe.sparsities):
        flag = "--forecast" if recipe.forecast else "--sparsities"
        raise BadRequest(
            f"{flag} is about one network, --population about one that was pruned several times.", "", "Leave one of them out."
        )
    if recipe.forecast:
        return foretell(recipe, open_subject(recipe, verbs=("train",), listener=listener).single().checked(), listener)
    if recipe.sparsities:
        dense = open_subject(recipe, verbs=("train",), listener=listener).single().checked()
        first, *others = swept(recipe, dense, listener)
        recipe = replace(recipe, model=first, also=(*others, *recipe.also), dense=recipe.dense or str(dense.path))
    subject = open_subject(recipe, verbs=COMPRESSED, listener=listener)
    ancestor = open_path(Path(recipe.dense)) if recipe.dense else dense_ancestor(subject)
    return reported(recipe, subject, ancestor, split, listener)


def reported(
    recipe: ReportRecipe, subject: Subject, ancestor: Subject, split: Split, listener: Listener, *, asked: OutputFields | None = None
) -> Outcome:
    """The page about a subject beside a baseline and what else the recipe names; `asked` is what is remembered, where another verb was."""
    dense = with_context_of(ancestor, subject).checked()
    networks = _networks(dense, subject, recipe.also)
    if recipe.sparsities:  # those that were made, without what they were made from
        named = {Path(path).resolve() for path in (recipe.model, *recipe.also)}
        networks = [one for one in networks if one.path.resolve() in named]
        networks.sort(key=lambda one: one.masks.sparsity)
    others = population(recipe.population, subject, dense)
    beside = {True: others, False: others.dense_only()}
    shown = [_compared(dense, one, split, listener, beside[one.path == subject.path], recipe.identity) for one in networks]
    asked_about = next(one for one in shown if one.subject.path == subject.path)
    made = {
        Path(path).resolve() for path in (recipe.model, *recipe.also[: len(set(recipe.sparsities)) - 1])
    }  # what was swept, without --also
    swept_here = [one for one in shown if one.subject.path.resolve() in made]
    chosen, *why = _chosen(dense, swept_here) if recipe.sparsities else (asked_about,)
    about, subject = _scored(recipe, chosen, dense, split), chosen.subject
    shown = [about if one is chosen else one for one in shown]
    gates, failure = check_gates(recipe.gate, about.report)
    if recipe.gate and recipe.sparsities and not _holds(dense, about):
        failure = failure or Regression(
            "No network of the sweep is known to be as good as the dense one.", "Each is worse beyond noise, or too little is known.", LESS
        )
    first = (*why, *others.notes(subject), *_stranger_notes(subject, dense, networks), *meant_notes(dense, networks))
    view = replace(_view(dense, shown, about, split, gates), notes=first, models=1 + len(others.compressed))
    sentences = [gate.sentence for gate in gates]
    notes = (*(text for one in networks for text in level_note(one)), *first, *sentences, *_scores(recipe, about))
    folder, held = output_folder(asked or recipe, subject.name)
    with claimed(folder, held=held):
        files = write_pages(folder, view)
        write_product(folder, Product(asked or recipe, subject, about.report, subject, facts={"files": [path.name for path in files]}))
    return Outcome("report", headline(view), about.report, folder, tables=(_terminal(view),), files=files, notes=notes, failure=failure)


def _chosen(dense: Subject, shown: Sequence[Compared]) -> tuple[Compared, str]:
    """Of a sweep, by sparsity, what the page is about: the sparsest whose accuracy is not worse beyond noise, or else the least sparse."""
    holding = [one for one in shown if _holds(dense, one)]
    about, why = (holding[-1], "the sparsest") if holding else (shown[0], "the least sparse, because there is none")
    return about, f"gates and details are about {_name(about.subject)}, {why} whose {_good(dense, about)} is not worse beyond noise."


def _holds(dense: Subject, one: Compared) -> bool:
    """Whether accuracy (perplexity, error) is known not to be worse beyond noise."""
    return regime(_pair(dense, one), 1) in (AS_DENSE, LESS_SURE)


def _good(dense: Subject, one: Compared) -> str:
    return called(_pair(dense, one))


def _pair(dense: Subject, one: Compared) -> View:
    return View("", (Stage(_root(dense), "dense", "", {}, _dense_report(one.report)), _stage(one)))


def _scores(recipe: ReportRecipe, about: Compared) -> tuple[str, ...]:
    late = late_notes(Path(recipe.score), about.subject) if recipe.score else ()
    return (*score_note(about.report), *late)


def _scored(recipe: ReportRecipe, about: Compared, dense: Subject, split: Split) -> Compared:
    """The subject with the score of a forecast among its numbers, where there is one."""
    if not recipe.score:
        return about
    identity = data_identity(about.subject.samples(split))
    found = score(Path(recipe.score), about.seen, dense, identity, list(about.report))
    return replace(about, report=Report((*about.report, *found), about.report.facts))


def write_pages(folder: Path, view: View) -> tuple[Path, ...]:
    """Write report.html, report.md, report.json and report.csv into a folder."""
    texts = {
        "report.html": render_html(view),
        "report.md": render_markdown(view),
        "report.json": json.dumps(to_json(view), indent=1, allow_nan=False) + "\n",
        "report.csv": render_csv(view),
    }
    for name, text in texts.items():
        replace_file(folder / name, lambda path, text=text: path.write_text(text, encoding="utf-8"))  # type: ignore[misc]
    return tuple(folder / name for name in texts)


def _stranger_notes(subject: Subject, dense: Subject, networks: Sequence[Subject]) -> tuple[str, ...]:
    """A word about networks that were trained on other data than the subject, and about a dense one that is sparse."""
    here = _trained_on(subject)
    others = [one for one in (dense, *networks) if here and _trained_on(one) not in ("", here)]
    notes = [f"{one.path} was trained on other data than {subject.path}: its numbers here are not those it was made for." for one in others]
    if dense.masks:
        notes.append(
            f"{dense.path} is sparse itself ({percent(float(dense.masks.sparsity))} zeros), so this is no comparison with a dense network."
        )
    return tuple(notes)


def _trained_on(subject: Subject) -> str:
    """Hash of the data it was last trained on, itself or an ancestor, where a manifest says it."""
    facts = (one.manifest.get("facts", {}) for one in lineage(subject.artifact) if one.verb in ("finetune", "train"))
    return str(next((one.get("data_sha256", "") for one in facts), ""))


def _terminal(view: View) -> Table:
    if len(view.stages) > PAIR:
        head, *rows = terminal_columns(view)
        return Table("side by side", head, tuple(rows))
    head, *rows = terminal_rows(view)
    return Table("against the dense model", head, tuple(rows))


def _path_to(dense: Subject, subject: Subject) -> list[Subject]:
    """The networks from just after the dense ancestor to the subject."""
    chain = [subject]
    for parent in kin(subject):
        if parent.path.resolve() == dense.path.resolve() or not parent.masks:
            break
        if parent.nest is None:
            chain.append(parent)
    return [with_context_of(one, subject) for one in reversed(chain)]


def _networks(dense: Subject, subject: Subject, also: Sequence[str]) -> list[Subject]:
    """The path to the subject and what is to be shown beside it, each network once."""
    found = _path_to(dense, subject)
    seen = {one.path.resolve() for one in (dense, *found)}
    for text in also:
        if (path := Path(text).resolve()) not in seen:
            seen.add(path)
            found.append(with_context_of(open_path(Path(text)), subject))
    return found


def _compared(
    dense: Subject, network: Subject, split: Split, listener: Listener, others: Population, identities: Sequence[str]
) -> Compared:
    listener.note(f"measuring {network.path}")
    seen = evidence([network, *others.compressed], [dense, *others.dense], split=split, keep=True)
    speed = speed_findings(network.module(), network.samples(split), dense=dense.module())
    unlearned = _remembered(network, "unlearn") if network.artifact and network.artifact.verb == "unlearn" else []
    old = [replace(f, of="dense") for f in size_findings(dense) if f.scope == "all"]
    return Compared(network, seen, Report((*measure_all(seen, identities=identities), *speed, *size_findings(network), *old, *unlearned)))


def _remembered(network: Subject, verb: str) -> list[Finding]:
    """What only the verb itself could measure, from the manifest: accuracies around an erasure, the step."""
    numbers: list[dict[str, Any]] = network.artifact.manifest["numbers"] if network.artifact else []
    found = [Finding(**one) for one in numbers]
    wanted = ("accuracy_", "epsilon", "damping", "step_", "relative_step", "membership_", "distance_", "similarity_", "relearn_")
    return [finding for finding in found if verb == "unlearn" and finding.name.startswith(wanted)]


def _view(dense: Subject, shown: Sequence[Compared], about: Compared, split: Split, gates: tuple[Condition, ...]) -> View:
    root = Stage(_root(dense), "dense", str(dense.path), _recipe(dense), _dense_report(about.report))
    stages = told_apart((root, *(_stage(one) for one in shown)))
    return View(
        title=f"{_name(about.subject)} against {dense.path.name}",
        stages=stages,
        subject=1 + next(i for i, one in enumerate(shown) if one is about),
        layers=_layers(about.subject),
        exemplars=exemplars(about.seen, about.subject.samples(split)),
        reliability=_reliabilities((_root(dense), _name(about.subject)), about.seen),
        lineage=tuple(_step(one) for one in (dense, *(s.subject for s in shown))),
        environment={**versions(), **machine(), "data": f"{dense.data.name if dense.data else ''} ({split} split)"},
        gates=gates,
        curves=tuple(curve for one in shown if (curve := _curve(one.subject)) is not None),
        certificates=tuple(
            found for one in shown if (found := certified(_name(one.subject), one.subject.artifact, one.report)) is not None
        ),
    )


def _epoch(entry: Mapping[str, Any]) -> Epoch:
    rate = entry.get("rate")
    return Epoch(
        int(entry["step"]),
        float(entry["accuracy"]),
        float(entry["sparsity"]),
        None if rate is None else float(rate),
        int(entry.get("rewinds", 0)),
    )


def _curve(subject: Subject) -> Curve | None:
    """How an artifact was trained, from the log beside it; None for one that was not."""
    if subject.artifact is None:
        return None
    log = read_log(subject.artifact.folder)
    epochs = tuple(_epoch(entry) for entry in log if entry.get("event") == "epoch")
    changes = tuple((int(e["step"]), float(e["mask_change"])) for e in log if "mask_change" in e)
    share = next((one["value"] for one in subject.artifact.manifest["numbers"] if one["name"] == "training_macs_share"), None)
    measure = next((str(entry["measure"]) for entry in log if "measure" in entry), "accuracy")
    if not epochs:
        return None
    differing = tuple((int(e["step"]), float(e["sad"])) for e in log if "sad" in e)
    densities = tuple((int(e["step"]), {str(name): float(d) for name, d in e["densities"].items()}) for e in log if "densities" in e)
    dead = tuple((int(e["step"]), int(e["dead_channels"])) for e in log if "dead_channels" in e)
    return Curve(_name(subject), epochs, changes, share, measure, differing, densities, dead)


def told_apart(stages: tuple[Stage, ...]) -> tuple[Stage, ...]:
    """The stages, those of the same name called by their folder or file."""
    often = Counter(stage.name for stage in stages)
    return tuple(stage if often[stage.name] == 1 else replace(stage, name=Path(stage.path).name) for stage in stages)


def _root(dense: Subject) -> str:
    """What the first column is called: `dense`, or `given 50 %` for a plain file that is sparse itself."""
    names = prunable_names(dense.checkpoint, dense.architecture) if dense.artifact is None else []
    found = pruned_support({name: dense.checkpoint.tensors[name] for name in names})
    return f"given {round_percent(float(found.sparsity))}" if found else "dense"


def _dense_report(told: Report) -> Report:
    return Report(tuple(replace(finding, of="compressed") for finding in told if finding.of == "dense"))


def _stage(one: Compared) -> Stage:
    verb = one.subject.artifact.verb if one.subject.artifact else "file"
    return Stage(_name(one.subject), verb, str(one.subject.path), _recipe(one.subject), one.report)


NUMBERED = re.compile(r"\d{3,}-")
"""Folders that nobody named."""


def _name(subject: Subject) -> str:
    """What a network is called in a column: the name it was given, or what it is: `pruned 90 %`, `level 0.8`."""
    if subject.artifact is None or not NUMBERED.match(subject.path.name):
        return subject.path.name
    verb = {
        "prune": "pruned",
        "finetune": "fine-tuned",
        "unlearn": "unlearned",
        "train": "trained",
        "shrink": "shrunk",
        "recalibrate": "recalibrated",
    }.get(subject.artifact.verb, subject.artifact.verb)
    if subject.artifact.verb == "extract":
        return f"level {subject.artifact.manifest['facts'].get('sparsity', '')}"
    return f"{verb} {round_percent(float(subject.masks.sparsity))}" if subject.masks else verb


def _recipe(subject: Subject) -> dict[str, Any]:
    return dict(subject.artifact.manifest["recipe"]) if subject.artifact else {}


def _layers(subject: Subject) -> tuple[Layer, ...]:
    """In the order in which the network has them; files sort them by name."""
    tensors, order = subject.checkpoint.tensors, list(subject.module().state_dict())
    names = [name for name in tensors if name in subject.masks] or prunable_names(subject.checkpoint, subject.architecture)
    names.sort(key=lambda name: order.index(name) if name in order else len(order))
    kept = {name: int(subject.masks[name].sum()) if name in subject.masks else tensors[name].numel() for name in names}
    return tuple(Layer(name, tuple(tensors[name].shape), tensors[name].numel(), kept[name]) for name in names)


def _reliabilities(names: tuple[str, str], seen: Evidence) -> tuple[Reliability, ...]:
    """Of the dense network and the other; none where answers are no choices."""
    pairs = zip(names, (*seen.dense[:1], *seen.compressed[:1]), strict=True) if seen.dense else ()
    return tuple(_reliability(name, one) for name, one in pairs)


def _reliability(name: str, seen: Predictions) -> Reliability:
    each = seen.every_answer()
    return Reliability(name, reliability_bins(each.probabilities.max(dim=1).values, each.correct))


def _step(subject: Subject) -> LineageStep:
    sha = subject.checkpoint.source.sha256
    if subject.artifact is None:
        return LineageStep(subject.path.name, "file", str(subject.path), sha, "the checkpoint that was given")
    parent = subject.artifact.manifest["parent"]
    source = f"from {Path(parent['path']).name}" if parent else "from scratch"
    asked = _asked(subject.artifact.manifest["recipe"])
    return LineageStep(_name(subject), subject.artifact.verb, str(subject.path), sha, "; ".join(filter(None, (source, asked))))


def _asked(recipe: Mapping[str, Any]) -> str:
    """What a recipe asked for, without what does not matter to it."""
    chosen_by = "solver" if recipe.get("solver") else "criterion"
    pruning = ("sparsity", "pattern", chosen_by, "allocation") if recipe.get("sparsity") or recipe["verb"] == "prune" else ()
    names = (*pruning, "epochs", "objective", "regime", "level", "forget", "unlearner")
    return ", ".join(f"{name} {_named(recipe[name])}" for name in names if recipe.get(name))


def _named(value: Any) -> Any:
    """A strategy with options as a person would write it: `gmp (initial=0.7)`."""
    if not isinstance(value, Mapping):
        return value
    options = ", ".join(f"{key}={one}" for key, one in value.items() if key != "name")
    return f"{value.get('name')} ({options})" if options else value.get("name")
