"""The first screen in words: one plain sentence, who pays, and five numbers with what they mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sparsify_cli.maths.intervals import Estimate
from sparsify_cli.maths.multiple import holm, p_value
from sparsify_cli.pages.glossary import label
from sparsify_cli.pages.view import QUALITIES, View, missing
from sparsify_cli.pages.wording import (
    NOTHING,
    UNMEASURED,
    Judgement,
    count,
    interval,
    judge,
    moved,
    points,
    ratio,
    round_percent,
    said,
    spoken,
)
from sparsify_cli.values.report import Finding

STEADY, STORED = 0.1, 0.01
PAIRED = ", the median of runs in pairs"
TAIL = 0.025
LEVEL = 0.05


FORGETTING = (
    ("forget", "what should be forgotten"),
    ("retain", "the training data that stays"),
    ("test", "the test data"),
    ("test_others", "the test data of the classes that stay"),
)
"""Where accuracy is told before and after unlearning, by the middle of the finding's name."""


GAPS = ("fairness_gaps_demographic_parity", "fairness_gaps_equal_opportunity", "fairness_gaps_equalised_odds")


@dataclass(frozen=True)
class Card:
    """One of the five numbers: its label, the number, what it means, and whether it got worse."""

    label: str
    value: str
    meaning: str
    judgement: Judgement
    exact: str = ""


@dataclass(frozen=True)
class Speed:
    """Time against dense: the ratio (1 = equal, below 1 = faster), a sentence, and the judgement."""

    ratio: float | None
    sentence: str
    judgement: Judgement


def verdict(view: View) -> str:
    """The page in one sentence: how much is gone and what it cost."""
    if view.index == 0:
        return f"This is the dense model itself: {called(view)} {spoken(view.number(view.quality))}."
    if view.about.verb == "unlearn" and view.number("accuracy_forget_after"):
        return _forgotten(view)
    return f"{_gone(view)}; {_cost(called(view), view.change(view.quality))}."


def called(view: View) -> str:
    """What says how good networks are, inside a sentence."""
    return QUALITIES[view.quality]


def _gone(view: View) -> str:
    """What was taken away: weights that are zero, parameters that are not there any more, or both."""
    gone, now, before = view.number("sparsity"), view.number("nonzeros"), view.dense("nonzeros")
    zero = "" if missing(gone) or gone is None else round_percent(gone.value or 0)
    removed = 1 - (now.n or 0) / before.n if now is not None and before is not None and before.n else 0.0  # n: parameters there are
    if removed > 0:
        also = f", and {zero} of the prunable weights that are left are zero" if gone is not None and (gone.value or 0) > 0 else ""
        return f"{round_percent(removed)} of the parameters were removed{also}"
    return f"{zero} of the prunable weights are gone" if zero else f"Stage {view.about.name!r}"


def _cost(name: str, change: Finding | None) -> str:
    if change is None or missing(change):
        return f"there is {NOTHING} to say what it did to {name}"
    bounds = interval(change)
    inside = f" (95 % interval {bounds})" if bounds else ""
    return f"{name} {moved(change)}{inside}: {said(change)}"


def _forgotten(view: View) -> str:
    parts = []
    for split, where in FORGETTING:
        before, after = view.number(f"accuracy_{split}_before"), view.number(f"accuracy_{split}_after")
        if not missing(after):
            start = "" if missing(before) else f"from {spoken(before)} "
            parts.append(f"on {where} {start}to {spoken(after)}")
    return f"Unlearning took accuracy {'; '.join(parts)}." if parts else f"Unlearning ran; there is {NOTHING} to say what it did."


def slices(view: View) -> list[tuple[str, Finding]]:
    """Every class, attribute and group of the subject with its change of accuracy, or of what stands for it."""
    scopes = [scope for kind in ("class", "attribute", "group") for scope in view.scopes(kind, view.quality)]
    changes = ((scope, view.change(view.quality, scope=scope)) for scope in scopes)
    return [(scope, change) for scope, change in changes if change is not None]


def who_pays(view: View) -> str:
    """The class or group that lost most beyond noise, and how many would look so by chance; empty when none was compared."""
    compared = [(s, c) for s, c in slices(view) if judge(c) not in {"unknown", "unsure"}]
    if not compared:
        return _gaps(view).strip()
    harmed = sorted(((s, c) for s, c in compared if judge(c) == "worse"), key=lambda pair: gain(pair[1]))
    if not harmed:
        return f"No {_kind(view)} or group has worse {called(view)} beyond noise ({len(compared)} compared).{_gaps(view)}"
    scope, worst = harmed[0]
    chance = f"{TAIL * len(compared):.1f}"
    meant = " What should be forgotten is meant to be among them." if view.about.verb == "unlearn" else ""
    verb = "is" if len(harmed) == 1 else "are"
    sure = len(beyond_doubt(view))
    return (
        f"{subject_of(scope)} pays most: {spoken(worst)} (95 % interval {interval(worst)}, {count(worst.n)} samples). "
        f"{len(harmed)} of {len(compared)} {_kind(view, many=True)} and groups {verb} worse beyond noise, where by chance alone about "
        f"{chance} would be; {sure} of them beyond doubt, all {len(compared)} comparisons taken together.{meant}{_gaps(view)}"
    )


def _gaps(view: View) -> str:
    """Gaps between groups that grew beyond noise, the largest growth named; empty when none did."""
    found = [(f.name, f) for f in view.about.report if f.of == "change" and f.name in GAPS and _is_column(f.scope)]
    compared = [(name, f) for name, f in found if judge(f) not in {"unknown", "unsure"}]
    grown = sorted(((name, f) for name, f in compared if judge(f) == "worse"), key=lambda pair: gain(pair[1]))
    if not grown:
        return ""
    name, worst = grown[0]
    columns = worst.scope.partition(":")[2].replace("&", " and ")
    most = f"{label(name)}, {columns}: {spoken(worst)} (95 % interval {interval(worst)})"
    chance, sure = f"{TAIL * len(compared):.1f}", sum(_surely([f for _, f in compared]))
    by = f"by chance alone about {chance} would, and {sure} of them did beyond doubt"
    return f" {len(grown)} of {len(compared)} gaps between groups grew beyond noise, where {by}; most: {most}."


def _is_column(scope: str) -> bool:
    return scope.startswith("group:") and "=" not in scope


def gain(change: Finding) -> float:
    """A change whose sign says whether it is good: below 0 is worse."""
    return -(change.value or 0.0) if change.better == "lower" else change.value or 0.0


def beyond_doubt(view: View) -> frozenset[str]:
    """Scopes of the classes, attributes and groups that are worse, all of them taken together."""
    compared = [(s, c) for s, c in slices(view) if judge(c) not in {"unknown", "unsure"}]
    found = _surely([change for _, change in compared])
    return frozenset(scope for (scope, _), sure in zip(compared, found, strict=True) if sure)


def _surely(changes: Sequence[Finding]) -> list[bool]:
    """Which are worse when the chance of any false alarm is to stay below 5 % (Holm)."""
    known = [(c, p_value(Estimate(c.value or 0.0, c.low or 0.0, c.high or 0.0))) for c in changes]
    adjusted = holm([1.0 if p is None else p for _, p in known])
    return [judge(change) == "worse" and p < LEVEL for (change, _), p in zip(known, adjusted, strict=True)]


def _kind(view: View, *, many: bool = False) -> str:
    """What the true answers are called."""
    if view.scopes("attribute"):
        return "attributes" if many else "attribute"
    return "classes" if many else "class"


def subject_of(scope: str) -> str:
    """`class:8` -> `Class 8`; `group:slant=left` -> `Group slant = left`."""
    kind, _, name = scope.partition(":")
    return f"{kind.capitalize()} {name.replace('=', ' = ', 1) if kind == 'group' else name}"


def speed(view: View) -> Speed:
    """Time against dense. Unless it is clearly below 1, the page says why zeros did not make it faster."""
    asked = view.number("latency_ratio")
    value = _against_dense(view, asked)
    if value is None:
        return Speed(None, "Time was not measured for both models.", "unknown")
    times = f"{ratio(value)} the dense time{PAIRED if asked else ''}"
    crosses = asked is not None and asked.low is not None and asked.high is not None and asked.low <= 1 <= asked.high
    if crosses or abs(value - 1) <= STEADY:
        return Speed(value, f"Not faster ({times}): dense kernels do not skip zeros.", "same")
    if value < 1:
        return Speed(value, f"{ratio(1 / value)} faster than the dense model on this machine.", "better")
    return Speed(value, f"Slower: {times}. Dense kernels do not skip zeros.", "worse")


def _against_dense(view: View, asked: Finding | None) -> float | None:
    if asked is not None and asked.value and not missing(asked):
        return 1 / asked.value if asked.better == "higher" else asked.value
    now, before = view.number("latency_ms"), view.dense("latency_ms")
    known = now is not None and before is not None and not missing(now) and bool(before.value) and not missing(before)
    return (now.value or 0) / (before.value or 1) if known and now and before else None


def cards(view: View) -> list[Card]:
    """Sparsity, accuracy, its change, bytes on disk and time: the five numbers of the first screen."""
    return [_sparsity(view), _accuracy(view), _change(view), _bytes(view), _time(view)]


def _sparsity(view: View) -> Card:
    everything = view.number("sparsity_total")
    also = f"; {spoken(everything)} of all parameters" if not missing(everything) else ""
    return Card("Sparsity", spoken(view.number("sparsity")), f"of the prunable weights are exactly zero{also}.", "unknown")


def _accuracy(view: View) -> Card:
    now, before = _staying(view) or (view.number(view.quality), view.dense(view.quality))
    samples = f" {count(now.n)}" if now and now.n else ""
    answered = "test samples answered correctly" if not view.scopes("attribute") else "test samples' answers right, over all attributes"
    measured = f"of{samples} {answered}" if view.quality == "accuracy" else f"on{samples} samples; lower is better"
    of = " of classes that stay" if _staying(view) else ""
    return Card(label(view.quality), spoken(now), f"{measured}{of}. Dense model: {spoken(before)}.", "unknown")


def _staying(view: View) -> tuple[Finding, Finding] | None:
    """Accuracy after and before on test samples that were not to be forgotten, where a class went."""
    now, before = (view.number(f"accuracy_test_others_{when}") for when in ("after", "before"))
    return (now, before) if view.about.verb == "unlearn" and now and before else None


def _change(view: View) -> Card:
    if (staying := _staying(view)) is not None:
        moved_by = points((staying[0].value or 0) - (staying[1].value or 0))
        whole = view.change(view.quality)
        also = "" if missing(whole) else f"; over all test samples, forgotten ones included, {spoken(whole)}"
        return Card(f"Change in {called(view)}", moved_by, f"on test samples of classes that stay{also}.", "unknown")
    change = view.change(view.quality)
    if change is None or missing(change):
        return Card("Change", spoken(change), f"No dense {called(view)} to compare with.", "unknown")
    bounds = interval(change)
    inside = f"95 % interval {bounds}: {said(change)}" if bounds else said(change)
    return Card(f"Change in {called(view)}", spoken(change), f"against the dense model; {inside}.", judge(change))


def _bytes(view: View) -> Card:
    packed, plain = view.number("bytes_packed"), view.dense("bytes_dense") or view.number("bytes_dense")
    now = packed or view.number("bytes_dense")
    if now is None or now.value is None or missing(now):
        return Card("Bytes on disk", UNMEASURED, "The model was not exported.", "unknown")
    exact = f"{count(now.value)} bytes"
    if plain is None or not plain.value or missing(plain):
        return Card("Bytes on disk", spoken(now), "No dense file to compare with.", "unknown", exact)
    stored = view.number("bytes_disk") if packed else None
    here = f" As it lies here: {spoken(stored)}." if stored and stored.value and abs(stored.value / now.value - 1) > STORED else ""
    return Card("Bytes on disk", spoken(now), f"{_smaller(now.value, plain.value)} Dense file: {spoken(plain)}.{here}", "unknown", exact)


def _smaller(now: float, before: float) -> str:
    if now <= 0 or 0.99 <= now / before <= 1.01:
        return "packed, as large as before."
    return f"packed, {ratio(before / now)} smaller." if now < before else f"packed, {ratio(now / before)} larger."


def _time(view: View) -> Card:
    now, fast = view.number("latency_ms"), speed(view)
    before = view.dense("latency_ms")
    dense = f" Dense: {spoken(before)}." if not missing(before) else ""
    return Card("Time per batch", spoken(now), f"{fast.sentence}{dense}", fast.judgement)
