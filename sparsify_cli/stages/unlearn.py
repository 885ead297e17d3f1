"""`unlearn`: forget training samples after the fact, in two steps that can be run apart, with an audit and a certificate.

`--prepare` takes gradients over the whole training set and stores what erasing needs; after that gradients are taken of the samples to
forget alone. A later `--memo` still reads the training set, to be sure by its hash that it is the same, and the network runs over some of
the samples that stay, to choose the step and to measure. Without either, both run one after the other.
"""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from torch import nn

from sparsify_cli.contracts.listener import Listener
from sparsify_cli.contracts.unlearner import Request, Unlearner
from sparsify_cli.errors import Anomalous, BadRequest, MissingContext, SparsifyError
from sparsify_cli.recipes.verbs import UnlearnRecipe
from sparsify_cli.stages.asked_once import AskedOnce
from sparsify_cli.stages.audit import Audit, audit_notes, audit_tables
from sparsify_cli.stages.certificate import Certificate
from sparsify_cli.stages.erase import Erased, erase_all, levels_of, prepared, rejoined, shift_notes
from sparsify_cli.stages.evidence import Predict, compared, said_by_both
from sparsify_cli.stages.forget import forget_positions, split_off
from sparsify_cli.stages.forgotten import FORGOTTEN, forgotten_ids
from sparsify_cli.stages.gates import check_gates, for_each_level, read_gates
from sparsify_cli.stages.levels import level_network
from sparsify_cli.stages.measure import require_choices
from sparsify_cli.stages.memos import Prepared, read_memo, stored
from sparsify_cli.stages.outcome import Outcome, Table
from sparsify_cli.stages.references import reference_notes, references, require_unseen
from sparsify_cli.stages.side_effects import side_effect_tables
from sparsify_cli.stages.sizes import size_findings
from sparsify_cli.stages.strategy import strategy
from sparsify_cli.stages.subject import Subject, open_subject
from sparsify_cli.stages.tables import listing, said
from sparsify_cli.stages.trained_with import as_trained, recipe_notes, unknown_notes
from sparsify_cli.stages.unchanged import ALL, unforgotten, unmoved
from sparsify_cli.stages.write import Product, data_identity, output_folder, write_product
from sparsify_cli.training.forgetting import answered_by, draw
from sparsify_cli.values.artifact import CERTIFICATE, MEMO, claimed
from sparsify_cli.values.choices import kinds
from sparsify_cli.values.mask_file import write_tensors
from sparsify_cli.values.mask_set import MaskSet
from sparsify_cli.values.report import Better, Finding, Report
from sparsify_cli.values.samples import Samples

NEWEST = ("finetune", "extract", "prune", "train")
SPLITS = ("forget", "retain", "test", "test_others")
MEANING = {
    "forget": "training samples that were to be forgotten",
    "retain": "training samples that stay",
    "test": "test samples",
    "test_others": "test samples of classes that stay",
}
HELD = {"test": "test", "test_others": "classes that stay"}
AUDITED = ("membership", "distance_", "similarity_", "relearn_", "relative_weight_distance")
"""How the names of the audit's numbers begin."""
COMPARED = re.compile("^similarity_|^relative_weight_distance|_reference$|_between$")
"""Names of numbers that need a network trained anew."""
SHOWN = 5000
"""Most retained samples whose accuracy is measured, drawn at random."""
HARMLESS = "Allow more with --most-harm, or let the method go less far: --set unlearner.epsilon=, lr= or epochs=, whichever it has."
SECONDS = "Clock time of forgetting, without preparing, reading data and measuring."


def unlearn(recipe: UnlearnRecipe, listener: Listener) -> Outcome:
    """Prepare, erase, or both; write the artifact."""
    _require_sense(recipe)
    strategy("unlearners", recipe.unlearner, seed=recipe.seed)  # wrong options are told before anything is read
    subject = open_subject(recipe, verbs=NEWEST, listener=listener).checked()
    require_choices(subject.samples("train"), "unlearn")
    subject.checkpoint.require_finite()
    method = _method(recipe, subject)
    if recipe.prepare:
        return _prepared(recipe, method, subject, listener)
    for note in (*recipe_notes(method, recipe.unlearner.name, subject), *unknown_notes(recipe.unlearner, method, subject)):
        listener.note(note)
    opened = references(recipe, subject)
    request = _request(recipe, subject, listener)
    require_unseen(opened, subject, request)
    start = time.monotonic()
    took = 0.0

    def memos() -> Prepared:
        nonlocal took
        found = (
            read_memo(Path(recipe.memo), subject, recipe.unlearner.name)
            if recipe.memo
            else Prepared(prepared(method, subject, subject.samples("train"), listener))
        )
        took = time.monotonic() - start
        return found

    done, known = erase_all(method, subject, request, memos, seed=recipe.seed, batchnorm=recipe.batchnorm)
    seconds = Finding(name="seconds_erase", value=time.monotonic() - start - took, unit="s", better="lower", definition=SECONDS)
    return _written(recipe, subject, done, known, seconds, opened)


def _method(recipe: UnlearnRecipe, subject: Subject) -> Any:
    """The method of forgetting, with what it takes from how the network was trained."""
    return strategy("unlearners", as_trained(recipe.unlearner, subject), seed=recipe.seed)


def _require_sense(recipe: UnlearnRecipe) -> None:
    """Refuse what would be computed in vain, or dropped without a word.

    Raises:
        BadRequest: a gate that cannot be read, or samples to forget while preparing.
        MissingContext: a gate on a number of the audit, and no audit.
    """
    names = [gate.name for gate in read_gates(recipe.gate)]
    audited = [name for name in names if name.startswith(AUDITED)]
    if audited and not recipe.audit:
        raise MissingContext(f"{audited[0]} is a number of the audit, which was not asked for.", "", "Add --audit.")
    if (anew := [name for name in names if COMPARED.search(name)]) and not recipe.reference:
        what = f"{anew[0]} compares with a network trained anew, and none was given."
        raise MissingContext(what, "", "Add --audit and --reference FOLDER.")
    if (between := [name for name in names if name.endswith("_between")]) and len(recipe.reference) < 2:
        raise MissingContext(f"{between[0]} compares two networks trained anew, and one was given.", "", "Add another --reference FOLDER.")
    if recipe.prepare and recipe.forget:
        raise BadRequest(
            "--prepare forgets nothing, and --forget was given.", "One reads the data once, the other comes later.", "Drop one."
        )


def _request(recipe: UnlearnRecipe, subject: Subject, listener: Listener) -> Request:
    train = subject.samples("train")
    positions = forget_positions(recipe.forget, train, seed=recipe.seed, forgotten=forgotten_ids(subject.artifact))
    forget, retain = split_off(train, positions)
    if 2 * len(forget) > len(train):
        half = f"more than half of the training set ({len(forget)} of {len(train)}) is to be forgotten"
        listener.note(f"{half}: what is known about the rest is then a poor guide; training anew (--unlearner retrain) is more honest.")
    return Request(forget, retain, subject.samples("validation"), subject.masks)


def _prepared(recipe: UnlearnRecipe, method: Unlearner, subject: Subject, listener: Listener) -> Outcome:
    train = subject.samples("train")
    start = time.monotonic()
    memo = stored(prepared(method, subject, train, listener))
    if not memo:
        name = recipe.unlearner.name
        raise BadRequest(f"The method {name} has nothing to prepare.", "It looks at the samples when it forgets.", "Leave --prepare out.")
    took = time.monotonic() - start
    size = float(sum(t.numel() * t.element_size() for t in memo.values()))
    report = Report(
        (
            Finding(name="bytes_memo", value=size, unit="bytes", definition="Size of what was prepared."),
            Finding(name="seconds_prepare", value=took, unit="s", better="lower", definition="Clock time of preparing."),
        ),
        {"samples": len(train), "data_sha256": data_identity(train)},
    )
    folder, held = output_folder(recipe, f"{subject.name}-prepared")
    with claimed(folder, held=held):
        write_tensors(folder / MEMO, memo)
        write_product(folder, Product(recipe, subject, report, subject))
    took_text, keep = said(report.get("seconds_prepare")), said(report.findings[0])
    used = next((int(tensor) for name, tensor in memo.items() if name.split(".")[-1] == "samples"), len(train))
    of = f"{len(train):,} samples" if used == len(train) else f"{used:,} of {len(train):,} samples"
    headline = f"Prepared {recipe.unlearner.name} for {subject.path} on {of} in {took_text}: {keep} to keep."
    some = f"attribute:{(*train.classes, 0)[0]}" if train.has_attributes else "class:0"
    hint = f"sparsify unlearn {subject.path} --memo {folder} --forget {shlex.quote(some)}"
    return Outcome("unlearn", headline, report, folder, hints=(hint,))


def _written(
    recipe: UnlearnRecipe, subject: Subject, done: list[Erased], known: Prepared, seconds: Finding, opened: tuple[Subject, ...]
) -> Outcome:
    """Measure, write the artifact, then certify what is on disk."""
    request, after, ask = done[-1].request, rejoined(subject, done), AskedOnce()
    found = ((scope, f) for scope, one in levels_of(done) for f in _measured(recipe, one, opened, ask))
    measured = [replace(f, scope=scope) if scope != "all" else f for scope, f in found]
    last, still = done[-1], unmoved(done)
    facts = _facts(request, forgot=still != ALL)
    evident = (*compared(last.before, last.after, ask=ask), *size_findings(last.after), *_compared_inside(done, ask))
    report = Report((*measured, *_latencies(subject), seconds, *known.findings(), *evident), facts)
    _judged(recipe, subject, report, still, last)  # what cannot be judged is refused before anything is written
    folder, held = output_folder(recipe, subject.name)
    with claimed(folder, held=held):
        gone = {FORGOTTEN: sorted(forgotten_ids(subject.artifact) | set(request.forget.ids))} if still != ALL else {}

        def certify(folder: Path, digest: str, report: Report) -> None:
            verdict = _judged(recipe, subject, report, still, last)
            replace(_certificate(recipe, subject, done, report, *verdict, opened), unchanged=still == ALL, after=digest).write(folder)

        made = Product(recipe, after, report, subject, after.checkpoint, after.masks, after.nest, facts=gone, certify=certify)
        report = write_product(folder, made)
    gates, failure = _judged(recipe, subject, report, still, last)
    notes = (*known.notes(), *shift_notes(done), *reference_notes(opened, subject, request), *_notes(done, report), *gates)
    headline, hints = _headline(request, report, still), (f"sparsify report {folder}",)
    return Outcome("unlearn", headline, report, folder, _tables(last, report), notes, hints, files=(folder / CERTIFICATE,), failure=failure)


def _judged(
    recipe: UnlearnRecipe, subject: Subject, report: Report, still: str, last: Erased
) -> tuple[tuple[str, ...], SparsifyError | None]:
    """A sentence for each gate, of a nest for each of its networks, and why the erasure failed."""
    densest = last.level if subject.nest else 0
    checked, failed = check_gates(for_each_level(recipe.gate, report, densest), report, densest)
    method = _method(recipe, subject)
    return tuple(one.sentence for one in checked), unforgotten(method, recipe.unlearner.name, still) or _ruined(recipe, report) or failed


def _compared_inside(done: list[Erased], ask: Predict) -> Iterator[Finding]:
    """What every sparser network of a nest says over the test samples, before and after."""
    for scope, one in levels_of(done):
        if scope != "all":
            yield from (replace(f, scope=scope) for f in said_by_both(one.before, one.after, ask=ask) if f.scope == "all")


def _latencies(subject: Subject) -> list[Finding]:
    """How long the levels of a nest take, as they were measured when they were embedded: forgetting changes no time."""
    numbers = subject.artifact.manifest["numbers"] if subject.artifact and subject.nest else []
    found = [Finding(**one) for one in numbers if one["name"] == "latency_ms"]
    return [one for one in found if one.scope.startswith("level:")]


def _measured(recipe: UnlearnRecipe, one: Erased, opened: tuple[Subject, ...], ask: Predict) -> Iterator[Finding]:
    """Numbers of one network: accuracies, the step, the audit."""
    before, after, test = one.before.module(), one.after.module(), one.before.samples("test")
    splits = _splits(one.request, test)
    yield from (*_accuracies(before, splits, "before", ask), *_accuracies(after, splits, "after", ask))
    yield from one.erasure.findings
    if recipe.audit:
        networks, masks = {"before": before, "after": after}, MaskSet()
        for name, reference in zip(("reference", "second"), opened, strict=False):
            anew = reference if reference.nest is None else level_network(reference, one.level)
            networks |= {name: anew.module()}
            if name == "reference":
                yield from _accuracies(networks[name], splits, name, ask)
                masks = anew.masks
        yield from Audit(one.request, test, networks, recipe.seed, masks, ask).findings()


def _certificate(
    recipe: UnlearnRecipe, subject: Subject, done: list[Erased], report: Report, gates: tuple[str, ...],
    failure: SparsifyError | None, opened: tuple[Subject, ...],
) -> Certificate:  # fmt: skip
    """What is certified; the hash of the weights comes when they are written."""
    after = rejoined(subject, done)
    return Certificate(
        method=recipe.unlearner, request=done[-1].request, before=subject.checkpoint.source.sha256, after="",
        masks=after.masks.digest() if after.masks else "", seed=recipe.seed, findings=report, gates=gates, failure=failure,
        options=asdict(_method(recipe, subject)),
        references=tuple(one.checkpoint.source.sha256 for one in opened), memo=recipe.memo, asked=recipe.forget,
    )  # fmt: skip


def _ruined(recipe: UnlearnRecipe, report: Report) -> Anomalous | None:
    """The failure when held-out accuracy on what stays fell further than allowed."""
    held = "test_others" if report.get("accuracy_test_others_after") else "test"
    pairs = [(f, report.get(f"accuracy_{held}_after", scope=f.scope)) for f in report if f.name == f"accuracy_{held}_before"]
    falls = [((old.value or 0) - (new.value or 0), old, new) for old, new in pairs if new is not None]
    fall, old, new = max(falls, key=lambda one: one[0])
    if fall <= recipe.most_harm:
        return None
    where = "" if old.scope == "all" else f" of {old.scope.replace(':', ' ')}"
    what = f"Forgetting cost {100 * fall:.1f} points of accuracy{where} on {MEANING[held]}: {said(old)} -> {said(new)}."
    return Anomalous(what, f"More than {100 * recipe.most_harm:g} points count as a ruined network (--most-harm).", HARMLESS)


def _splits(request: Request, test: Samples) -> dict[str, Samples]:
    """Splits by name, without those that hold nothing."""
    others = test.take(answered_by(test.targets, request.retain.targets))
    gone = len(others) < len(test)  # also by an earlier erasure
    splits = {"forget": request.forget, "retain": draw(request.retain, SHOWN, 0), "test": test, "test_others": others}
    return {name: samples for name, samples in splits.items() if len(samples) and (name != "test_others" or gone)}


def _accuracies(module: nn.Module, splits: dict[str, Samples], when: str, ask: Predict) -> Iterator[Finding]:
    words = {"reference": "network trained anew"}.get(when, f"{when} unlearning")
    for name, samples in splits.items():
        share = float(ask(module, samples).correct.double().mean())
        better: Better = "lower" if name == "forget" else "higher"
        drawn = f" (at most {SHOWN:,} of them, drawn at random)" if name == "retain" else ""
        text = f"Accuracy on {MEANING[name]}{drawn}, {words}."
        finding = Finding(name=f"accuracy_{name}_{when}", value=share, unit="fraction", n=len(samples), definition=text)
        yield replace(finding, better=better)


def _notes(done: list[Erased], report: Report) -> Iterator[str]:
    """What the accuracies on the classes that stay do not show."""
    for scope, one in levels_of(done):
        at = "" if scope == "all" else f" ({scope.replace(':', ' ')})"
        yield from (f"{f.name.replace('_', ' ')}: {f.note}{at}" for f in one.erasure.findings if f.note)
    yield from audit_notes(report.findings)
    old, new = report.get("accuracy_test_before"), report.get("accuracy_test_after")
    others = report.get("accuracy_test_others_after")
    if others is not None and old is not None and new is not None and (old.value or 0) > (new.value or 0):
        yield f"over the test samples of all classes, forgotten ones included, accuracy fell: {said(old)} -> {said(new)}."
    left = sorted(set(kinds(done[-1].request.retain.targets).tolist()))
    if len(left) < 2 and not done[-1].request.retain.has_attributes:
        names = done[-1].request.retain.classes
        only = names[left[0]] if names else left[0]
        yield f"only the class {only} is left: a network that always answers it makes no mistake; its accuracy says nothing."


def _tables(last: Erased, report: Report) -> tuple[Table, ...]:
    whens = [when for when in ("before", "after", "reference") if report.get(f"accuracy_forget_{when}")]
    names = [name for name in SPLITS if report.get(f"accuracy_{name}_before")]
    rows = tuple(
        (_meaning(name, last.request.retain), f"{_n(report, name):,}", *(said(report.get(f"accuracy_{name}_{when}")) for when in whens))
        for name in names
    )
    titles = ("on", "n", *("trained anew" if when == "reference" else when for when in whens))
    audit = audit_tables(report.findings) if report.get("distance_forget_before") else ()
    at = f", level {last.level}" if last.level > 1 else ""
    audited = [replace(table, title=f"{table.title}{at}") for table in audit]
    step = listing(f"the step{at}, on probed samples", map(_of_step, last.erasure.findings))
    effects = side_effect_tables(report, at) if audit else ()
    return (Table(f"accuracy{at}", titles, rows), *_levels(report, last.request.retain), step, *effects, *audited)


def _of_step(finding: Finding) -> Finding:
    """Named as the step's: what was before it is, in a nest, what sparser levels have left, not the network as it was."""
    return replace(finding, name=f"{finding.name} this step") if finding.name.endswith(("_before", "_after")) else finding


def _meaning(name: str, samples: Samples) -> str:
    """What a split holds, in the words of its data."""
    return MEANING[name].replace("classes", "attributes") if samples.has_attributes else MEANING[name]


def _levels(report: Report, samples: Samples) -> tuple[Table, ...]:
    """The other networks of a nest, sparsest first; none for a single network."""
    scopes = [f.scope for f in report if f.name == "accuracy_forget_after" and f.scope != "all"]
    held = "test_others" if report.get("accuracy_test_others_after") else "test"
    names = {
        "accuracy_forget_before": "forgotten, before", "accuracy_forget_after": "after", f"accuracy_{held}_before": f"{HELD[held]}, before",
        f"accuracy_{held}_after": "after", "membership_after": "attacked", "distance_forget_reference": "from anew",
    }  # fmt: skip
    kind = "attributes" if samples.has_attributes else "classes"
    names = {name: title.replace("classes", kind) for name, title in names.items() if report.get(name)}
    rows = tuple((scope.removeprefix("level:"), *(said(report.get(name, scope=scope)) for name in names)) for scope in scopes)
    return (Table("networks inside", ("level", *names.values()), rows),) if rows else ()


def _n(report: Report, name: str) -> int:
    found = report.get(f"accuracy_{name}_before")
    return found.n if found else 0


def _facts(request: Request, *, forgot: bool) -> dict[str, int | str]:
    """Counts for the manifest, and which samples are gone."""
    if not forgot:
        return {"forgotten": 0, "retained": len(request.forget) + len(request.retain)}
    return {"forgotten": len(request.forget), "forgotten_sha256": data_identity(request.forget), "retained": len(request.retain)}


def _headline(request: Request, report: Report, still: str) -> str:
    old, new = report.get("accuracy_forget_before"), report.get("accuracy_forget_after")
    held = "test_others" if report.get("accuracy_test_others_after") else "test"
    before, after = report.get(f"accuracy_{held}_before"), report.get(f"accuracy_{held}_after")
    kept = f"on {_meaning(held, request.retain)} {said(before)} -> {said(after)}"
    n = f"{len(request.forget):,} sample{'s' * (len(request.forget) != 1)}"
    forgot = f"Forgot {n}: accuracy on them" if not still else f"Did not forget {n}, for {still}: accuracy on them"
    return f"{forgot} {said(old)} -> {said(new)}; {kept}."
