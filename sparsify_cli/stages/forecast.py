"""The forecast of what compression will do, from the dense network alone, and its score once a compressed network is there.

`report DENSE --forecast` writes `forecast.json`: hashes of network and data, answers at risk, and how much each attribute's bias is.
`report COMPRESSED --score FORECAST` checks the hashes, so that the forecast is of this network's dense ancestor and of these samples, and
says how right it was. The numbers are those of `maths/forecast.py`.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sparsify_cli.contracts.listener import Listener
from sparsify_cli.contracts.metric import Evidence
from sparsify_cli.errors import BadRequest, MissingFile, UnreadableFile
from sparsify_cli.maths.exemplars import modal_labels
from sparsify_cli.maths.forecast import BELOW, LEAST, Risk, foretold, lift, precision, rank_correlation, recall, susceptible
from sparsify_cli.maths.identity_pairs import IdentityPairs, Rules
from sparsify_cli.maths.intervals import Estimate
from sparsify_cli.maths.marked_answers import Marks, by_sample
from sparsify_cli.maths.one_against_rest import asked
from sparsify_cli.pages.wording import percent
from sparsify_cli.recipes.verbs import ReportRecipe
from sparsify_cli.stages.evidence import evidence
from sparsify_cli.stages.measure import require_choices
from sparsify_cli.stages.outcome import Outcome, Table
from sparsify_cli.stages.subject import Subject
from sparsify_cli.stages.tables import said
from sparsify_cli.stages.write import Product, data_identity, output_folder, write_product
from sparsify_cli.values.artifact import FORECAST, Artifact, claimed, is_artifact
from sparsify_cli.values.atomic import replace_file
from sparsify_cli.values.predictions import Predictions
from sparsify_cli.values.report import Finding, Report

SCHEMA = "sparsify/forecast/1"
SHOWN = 10
SOURCE = "Iofinova et al. 2023, criteria from the dense model; the scores are ours"
SCORES = {
    "forecast_precision": "Share of the answers foretold to be at risk that changed.",
    "forecast_recall": "Share of the answers that changed that were foretold to be at risk.",
    "forecast_lift": "How many times more of the changed answers were foretold than of all answers; 1 = the forecast says nothing.",
}

SCORES_OF_BIAS = {
    "forecast_bias_precision": "Share of the pairs whose bias was foretold to grow whose bias amplification grew beyond noise.",
    "forecast_bias_recall": "Share of the pairs whose bias amplification grew beyond noise that were foretold.",
    "forecast_bias_lift": "How many times more of the pairs that grew were foretold than of all pairs; 1 = the forecast says nothing.",
}


def foretell(recipe: ReportRecipe, subject: Subject, listener: Listener) -> Outcome:
    """Write the forecast of a dense network.

    Raises:
        BadRequest: the network is not dense.
    """
    if subject.masks:
        what = f"{subject.path} is sparse already."
        raise BadRequest(what, "A forecast is made from the dense network.", "Name that, or score a forecast with --score.")
    require_choices(subject.samples("train"), "report --forecast")
    listener.note(f"looking at the answers of {subject.path}")
    seen = evidence([subject], split=recipe.split, keep=True)  # type: ignore[arg-type]
    samples = subject.samples(recipe.split)  # type: ignore[arg-type]
    [answers] = (one.every_answer() for one in seen.compressed)
    at_risk, found = susceptible(answers.probabilities), sorted(risks(seen, recipe.identity), key=lambda one: -one.risk)
    growing = foretold([one.risk for one in found])
    document = {
        "schema": SCHEMA,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "model_sha256": subject.checkpoint.source.sha256,
        "split": recipe.split,
        "data_sha256": data_identity(samples),
        "below": BELOW,
        "answers": len(answers),
        "susceptible": [answers.ids[i] for i in at_risk.nonzero()[:, 0].tolist()],
        "risks": [{**asdict(one), "risk": one.risk, "foretold": grows} for one, grows in zip(found, growing, strict=True)],
    }
    report = Report(tuple(_foretold(at_risk, found)), {"data_sha256": document["data_sha256"]})
    folder, held = output_folder(recipe, subject.name)
    with claimed(folder, held=held):
        write_product(folder, Product(recipe, subject, report, subject, certify=partial(_write, document)))
    some = [one for one in found if one.risk > 0]
    headline = (
        f"Foretold: {int(at_risk.sum()):,} of {len(answers):,} answers are at risk, and the bias of {sum(growing)} of {len(found)} pairs."
    )
    table = Table("bias at risk, most first", ("what, and the group training favours", "unsure", "gap", "risk"), tuple(_rows(some)))
    hints = (f"sparsify prune {subject.path} --sparsity 0.9 --out pruned", f"sparsify report pruned --score {folder}")
    notes = () if found else ("the data names no groups that share an attribute unequally, so no bias can be foretold.",)
    return Outcome("report", headline, report, folder, (table,) if some else (), notes, hints, files=(folder / FORECAST,))


def risks(seen: Evidence, named: Sequence[str] = ()) -> list[Risk]:
    """The risk of every pair that bias amplification would count, from the first model of the evidence.

    Args:
        seen: predictions, and what is known of the training set.
        named: attributes that tell groups apart as group columns do.
    """
    said = seen.compressed[0]
    if seen.train is None or not (said.groups or (named and said.has_attributes)):
        return []
    known = IdentityPairs(said, seen.train.targets, seen.train.groups, Rules(tuple(named)))
    unsure = ((said.probabilities - 0.5).abs() < BELOW - 0.5).double().mean(dim=0)
    unsure = unsure[-len(asked(said)) :]
    gaps = (known.trained.inside - known.trained.outside).abs()
    found = []
    for a, i, inside in zip(*(column.tolist() for column in known.pairs), strict=True):
        scope = known.scope(a, i, inside=inside)
        found.append(Risk(scope, float(unsure[a]), float(gaps[a, i])))
    return found


def score(path: Path, seen: Evidence, dense: Subject, data_sha256: str, findings: list[Finding]) -> list[Finding]:
    """How right a forecast was.

    Args:
        path: its file, or the folder it lies in.
        seen: predictions of the dense and the compressed network.
        dense: the ancestor.
        data_sha256: of the samples.
        findings: of the compressed network; bias amplification is looked up in them.

    Raises:
        BadRequest: it is of another network or of other samples.
        UnreadableFile: it is none.
    """
    told = read_forecast(path)
    if told["model_sha256"] != dense.checkpoint.source.sha256:
        raise BadRequest(f"{path} foretells another network than {dense.path}.", "The sha256 of its weights differs.", "Name its own.")
    if told["data_sha256"] != data_sha256:
        raise BadRequest(f"{path} was made on other samples.", "Their sha256 differs.", "Use the same --data and --split.")
    before, after = ([one.every_answer() for one in side] for side in (seen.dense, seen.compressed))
    changed = modal_labels(before) != modal_labels(after)
    at_risk, n = _at_risk(told, before[0]), len(seen.dense[0])
    return [
        *_scored(by_sample(at_risk, n), by_sample(changed, n), SCORES, "answers"),
        *_scored(*_pairs(told, findings), SCORES_OF_BIAS, "pairs"),
        _ranked(told, findings),
    ]


def late_notes(path: Path, compressed: Subject) -> tuple[str, ...]:
    """A word where the forecast was written after the network that it is scored on."""
    manifest = compressed.artifact.manifest if compressed.artifact else {}
    told, made = str(read_forecast(path).get("created", "")), str(manifest.get("created", ""))
    return (f"{path} was written after {compressed.path}: it foretells nothing.",) if made and told > made else ()


def score_note(report: Report) -> tuple[str, ...]:
    """The score in a sentence; nothing without one."""
    right, times = report.get("forecast_recall"), report.get("forecast_lift")
    if right is None or times is None:
        return ()
    if right.value is None or times.value is None:
        return (f"the forecast cannot be scored: {times.note or right.note}.",)
    words = f"of {right.n:,} answers that changed {said(right)} were foretold to be at risk, {times.value:.1f} times as many as by chance"
    kept = report.get("forecast_precision")
    came = f"; of {kept.n:,} that were at risk {said(kept)} changed" if kept is not None and kept.value is not None else ""
    return (f"{words} (95 % interval {times.low:.1f} to {times.high:.1f}){came}.",)


def read_forecast(path: Path) -> Mapping[str, Any]:
    """What a forecast says.

    Raises:
        MissingFile, UnreadableFile: it is gone, changed since, or none.
    """
    file = path / FORECAST if path.is_dir() else path
    if path.is_dir() and is_artifact(path):
        Artifact.open(path).verified(FORECAST)
    try:
        told = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise MissingFile(f"There is no forecast {file}.", "", "Make one: sparsify report DENSE --forecast") from error
    except (OSError, ValueError, RecursionError) as error:
        raise UnreadableFile(f"{path} holds no forecast.", f"{error}.", "Make one: sparsify report DENSE --forecast") from error
    kinds = {"model_sha256": str, "data_sha256": str, "answers": int, "susceptible": list, "risks": list}
    whole = isinstance(told, dict) and told.get("schema") == SCHEMA and all(isinstance(told.get(k), kind) for k, kind in kinds.items())
    if not whole or not all(isinstance(one, dict) and {"scope", "risk"} <= one.keys() for one in told["risks"]):
        raise UnreadableFile(f"{path} holds no forecast.", f"Expected the schema {SCHEMA}.", "Make one: sparsify report DENSE --forecast")
    return dict(told)


def _at_risk(told: Mapping[str, Any], answers: Predictions) -> Tensor:
    listed = set(told["susceptible"])
    return torch.tensor([name in listed for name in answers.ids], dtype=torch.bool)


def _pairs(told: Mapping[str, Any], findings: list[Finding]) -> tuple[Marks, Marks]:
    """Pairs whose bias was foretold to grow, and those whose bias did, beyond noise; of those that were measured."""
    grew = {
        f.scope: f.low is not None and f.low > 0
        for f in findings
        if (f.name, f.of) == ("bias_amplification", "change") and f.value is not None
    }
    expected = foretold([float(one["risk"]) for one in told["risks"]])
    both = [
        (bool(one.get("foretold", was)), grew[one["scope"]])
        for one, was in zip(told["risks"], expected, strict=True)
        if one["scope"] in grew
    ]
    marks = torch.tensor(both, dtype=torch.bool).reshape(-1, 2)
    return marks[:, :1], marks[:, 1:]


def _scored(at_risk: Marks, changed: Marks, definitions: Mapping[str, str], what: str) -> Iterator[Finding]:
    for (name, text), rule, counted in zip(definitions.items(), (precision, recall, lift), (at_risk, changed, changed), strict=True):
        n = int(counted.sum())
        about = Finding(
            name=name, value=None, unit="" if rule is lift else "fraction", n=n, better="higher", definition=text, source=SOURCE
        )
        few = "undefined: nothing was foretold to be at risk" if not bool(at_risk.any()) else ""
        yield _with(about, rule(at_risk, changed), few or f"not enough data: {n} {what}, at least {LEAST} are needed")


def _ranked(told: Mapping[str, Any], findings: list[Finding]) -> Finding:
    change = {f.scope: f.value for f in findings if (f.name, f.of) == ("bias_amplification", "change") and f.value is not None}
    pairs = [(float(one["risk"]), change[one["scope"]]) for one in told["risks"] if one["scope"] in change]
    text = "Rank correlation of the foretold risk of bias with the change of bias amplification, over pairs; 1 = the order was foretold."
    about = Finding(name="forecast_bias", value=None, n=len(pairs), better="higher", definition=text, source=SOURCE)
    found = rank_correlation(*(list(side) for side in zip(*pairs, strict=True))) if pairs else None
    return _with(about, found, f"not enough data: {len(pairs)} pairs, at least {LEAST} that vary are needed")


def _with(about: Finding, found: Estimate | None, otherwise: str) -> Finding:
    if found is None:
        return replace(about, note=otherwise)
    return replace(about, value=found.value, low=found.low, high=found.high)


def _foretold(at_risk: Tensor, found: list[Risk]) -> Iterator[Finding]:
    text = f"Share of answers whose probability is below {BELOW:g}: those that compression changes most often."
    share = float(at_risk.double().mean())
    yield Finding(name="forecast_susceptible", value=share, unit="fraction", n=len(at_risk), definition=text, source=SOURCE)
    for one in found:
        words = "Share of unsure answers times the gap between groups in training: how much this bias is at risk of growing."
        yield Finding(name="forecast_risk", value=one.risk, scope=one.scope, n=len(at_risk), definition=words, source=SOURCE)


def _rows(found: list[Risk]) -> Iterator[tuple[str, ...]]:
    for one in found[:SHOWN]:
        yield one.scope.partition(":")[2], percent(one.uncertainty), percent(one.gap), f"{one.risk:.3f}"


def _write(document: Mapping[str, Any], folder: Path, *_: object) -> None:
    text = json.dumps(document, indent=1, allow_nan=False) + "\n"
    replace_file(folder / FORECAST, lambda path: path.write_text(text, encoding="utf-8"))
