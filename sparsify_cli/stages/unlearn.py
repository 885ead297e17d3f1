"""`unlearn`: forget training samples after the fact, in two steps that can be run apart.

`--prepare` reads the whole training set once and stores what erasing needs; a later `--memo` then touches only the
samples to forget (and validation samples, to choose the step). Without either, both run one after the other.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from torch import nn

from sparsify_cli.contracts.listener import Listener
from sparsify_cli.contracts.unlearner import Erasure, Memo, Request, Unlearner
from sparsify_cli.errors import BadRequest, MissingContext
from sparsify_cli.recipes.verbs import UnlearnRecipe
from sparsify_cli.stages.compare import compared
from sparsify_cli.stages.forget import forget_positions, split_off
from sparsify_cli.stages.forgotten import FORGOTTEN, forgotten_ids, without_forgotten
from sparsify_cli.stages.measure import predict
from sparsify_cli.stages.outcome import Outcome, Table
from sparsify_cli.stages.plan import tied_names, untied
from sparsify_cli.stages.sizes import size_findings
from sparsify_cli.stages.strategy import strategy
from sparsify_cli.stages.subject import Subject, open_subject
from sparsify_cli.stages.tables import listing, said
from sparsify_cli.stages.write import Product, data_identity, output_folder, write_product
from sparsify_cli.values.artifact import MEMO, Artifact, claimed
from sparsify_cli.values.mask_file import read_tensors, write_tensors
from sparsify_cli.values.report import Better, Finding, Report
from sparsify_cli.values.samples import Samples

NEWEST = ("finetune", "extract", "prune", "train")
SPLITS = ("forget", "retain", "test", "test_others")
MEANING = {
    "forget": "training samples that were to be forgotten",
    "retain": "training samples that stay",
    "test": "test samples",
    "test_others": "test samples of classes that were not forgotten as a whole",
}


def unlearn(recipe: UnlearnRecipe, listener: Listener) -> Outcome:
    """Prepare, erase, or both; write the artifact."""
    method: Unlearner = strategy("unlearners", recipe.unlearner, seed=recipe.seed)
    subject = open_subject(recipe, verbs=NEWEST, listener=listener).single().checked()
    subject.checkpoint.require_finite()
    train = without_forgotten(subject.samples("train"), subject.artifact)
    if recipe.prepare:
        return _prepared(recipe, method, subject, train, listener)
    positions = forget_positions(recipe.forget, train, seed=recipe.seed, forgotten=forgotten_ids(subject.artifact))
    memo = read_memo(Path(recipe.memo), train) if recipe.memo else _preparing(method, subject, train, listener)
    forget, retain = split_off(train, positions)
    request = Request(forget, retain, subject.samples("validation"), subject.masks)
    if 2 * len(forget) > len(train):
        listener.note(
            f"more than half of the training set ({len(forget)} of {len(train)}) is to be forgotten; training anew is more honest."
        )
    return _erased(recipe, subject, request, method.erase(subject.module(), request, memo))


def read_memo(folder: Path, train: Samples) -> Memo:
    """What an earlier `--prepare` stored, once it is sure that it read these training samples.

    Raises:
        MissingContext: the artifact holds no memo.
        BadRequest: the memo was made on other training samples.
    """
    artifact = Artifact.open(folder)
    path = artifact.verified(MEMO)
    if path is None:
        raise MissingContext(f"{folder} holds nothing that was prepared.", "", "Make it: sparsify unlearn MODEL --prepare --data ...")
    then, now = artifact.manifest.get("facts", {}).get("data_sha256"), data_identity(train)
    if then is not None and then != now:
        raise BadRequest(
            f"{folder} was prepared on other training samples: sha256 {str(then)[:12]}..., these have {now[:12]}....",
            "What was prepared counts every sample that stays.",
            "Give the same data, or prepare again.",
        )
    return read_tensors(path)[0]


def _preparing(method: Unlearner, subject: Subject, train: Samples, listener: Listener) -> Memo | None:
    """Prepare, after saying how much work that is."""
    module = subject.module()
    if effort := method.effort(module, train, subject.masks):
        listener.note(effort)
    return method.prepare(module, train, subject.masks)


def _prepared(recipe: UnlearnRecipe, method: Unlearner, subject: Subject, train: Samples, listener: Listener) -> Outcome:
    memo = _preparing(method, subject, train, listener) or {}
    stored = float(sum(t.numel() * t.element_size() for t in memo.values()))
    report = Report(
        (Finding(name="bytes_memo", value=stored, unit="bytes", definition="Size of what was prepared."),),
        {"samples": len(train), "data_sha256": data_identity(train)},
    )
    folder, held = output_folder(recipe, f"{subject.name}-prepared")
    with claimed(folder, held=held):
        write_tensors(folder / MEMO, memo)
        write_product(folder, Product(recipe, subject, report, subject))
    headline = f"Prepared {recipe.unlearner.name} for {subject.path} on {len(train):,} samples: {said(report.findings[0])} to keep."
    return Outcome("unlearn", headline, report, folder, hints=(f"sparsify unlearn {subject.path} --memo {folder} --forget class:0",))


def _erased(recipe: UnlearnRecipe, subject: Subject, request: Request, erasure: Erasure) -> Outcome:
    erased = request.masks.apply({**subject.checkpoint.tensors, **erasure.tensors})
    tensors = untied(erased, tied_names(subject.checkpoint, subject.architecture))
    after = subject.changed(subject.checkpoint.with_tensors(tensors), subject.masks)
    splits = _splits(request, subject.samples("test"))
    accuracies = (*_accuracies(subject.module(), splits, "before"), *_accuracies(after.module(), splits, "after"))
    facts = {"forgotten": len(request.forget), "forgotten_sha256": data_identity(request.forget), "retained": len(request.retain)}
    report = Report((*accuracies, *erasure.findings, *compared(subject, after), *size_findings(after)), facts)
    folder, held = output_folder(recipe, subject.name)
    with claimed(folder, held=held):
        gone = {FORGOTTEN: sorted(forgotten_ids(subject.artifact) | set(request.forget.ids))}
        write_product(folder, Product(recipe, after, report, subject, after.checkpoint, after.masks, facts=gone))
    tables = (_table(report), listing("the step", erasure.findings))
    notes = (*(f"{f.name.replace('_', ' ')}: {f.note}" for f in erasure.findings if f.note), *_warnings(request, report))
    return Outcome("unlearn", _headline(request, report), report, folder, tables=tables, notes=notes, hints=(f"sparsify report {folder}",))


def _splits(request: Request, test: Samples) -> dict[str, Samples]:
    """Splits by name, without those that hold nothing."""
    gone = set(request.forget.targets.tolist()) - set(request.retain.targets.tolist())
    others = [i for i, label in enumerate(test.targets.tolist()) if label not in gone]
    splits = {"forget": request.forget, "retain": request.retain, "test": test, "test_others": test.take(others)}
    return {name: samples for name, samples in splits.items() if len(samples) and (name != "test_others" or gone)}


def _accuracies(module: nn.Module, splits: dict[str, Samples], when: str) -> Iterator[Finding]:
    for name, samples in splits.items():
        share = float(predict(module, samples).correct.double().mean())
        better: Better = "lower" if name == "forget" else "higher"
        text = f"Accuracy on {MEANING[name]}, {when} unlearning."
        finding = Finding(name=f"accuracy_{name}_{when}", value=share, unit="fraction", n=len(samples), definition=text)
        yield replace(finding, better=better)


def _warnings(request: Request, report: Report) -> Iterator[str]:
    """What the accuracies on the classes that stay do not show."""
    old, new = report.get("accuracy_test_before"), report.get("accuracy_test_after")
    if old is not None and new is not None and (old.value or 0) > (new.value or 0):
        yield f"over the test samples of all classes, forgotten ones included, accuracy fell: {said(old)} -> {said(new)}."
    left = sorted(set(request.retain.targets.tolist()))
    if len(left) < 2:
        names = request.retain.classes
        only = names[left[0]] if names else left[0]
        yield f"only the class {only} is left: a network that always answers it makes no mistake; its accuracy says nothing."


def _table(report: Report) -> Table:
    pairs = [(name, report.get(f"accuracy_{name}_before"), report.get(f"accuracy_{name}_after")) for name in SPLITS]
    rows = tuple((MEANING[name], f"{old.n:,}", said(old), said(new)) for name, old, new in pairs if old is not None)
    return Table("accuracy", ("on", "n", "before", "after"), rows)


def _headline(request: Request, report: Report) -> str:
    old, new = report.get("accuracy_forget_before"), report.get("accuracy_forget_after")
    held = "test_others" if report.get("accuracy_test_others_after") else "test"
    before, after = report.get(f"accuracy_{held}_before"), report.get(f"accuracy_{held}_after")
    kept = f"on {MEANING[held]} {said(before)} -> {said(after)}"
    return f"Forgot {len(request.forget):,} samples: accuracy on them {said(old)} -> {said(new)}; {kept}."
