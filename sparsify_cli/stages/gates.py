"""Gates: conditions on findings that a pipeline stops at, e.g. `accuracy>=0.95`, `change.accuracy>=-0.015`, `bytes_packed<=1MB`.

[dense.|change.]NAME[@SCOPE] OPERATOR VALUE      operators >= <= > <; values may end in kB, MB, GB, ms or %

NAME is a finding's, as listed (`worst_group`) or as `sparsify list metrics` writes it (`worst-group`). SCOPE is a class or a
group, whole or without what can be told from the rest: `class:3` or `3`, `group:sex=Female`, `sex=Female` or `sex:Female`. A
sparsity is a count of weights over n, so >= and <= hold within half a weight: 241502 of 268336 zeros are what 0.9 asks for.
"""

from __future__ import annotations

import difflib
import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from sparsify_cli.errors import BadRequest, Regression, UnknownName
from sparsify_cli.shelf import Shelf
from sparsify_cli.values.condition import Condition
from sparsify_cli.values.report import Finding, Report

OPERATORS: dict[str, Callable[[float, float], bool]] = {">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt}
Of = Literal["compressed", "dense", "change"]
SHARES = (
    "accuracy",
    "auc",
    "churn",
    "ece",
    "classwise_ece",
    "smooth_ece",
    "f1",
    "uncertainty",
    "worst_group",
    "group_gap",
    "sparsity",
    "membership",
    "confidence_shift",
    "cooccurrence",
    "fairness_gaps",
    "group_rates",
    "selective_accuracy",
    "token_agreement",
)
"""Beginnings of names of numbers that lie between 0 and 1, and change by 1 at most: whoever asks for more means percent."""
SIZES = (
    "bytes_dense",
    "bytes_disk",
    "bytes_packed",
    "latency_ms",
    "latency_ratio",
    "macs",
    "macs_nonzero",
    "nonzeros",
    "parameters",
    "sparsity",
    "sparsity_total",
)
"""Numbers of every comparison that no metric gives."""
MISSPELT = 0.85
"""Likeness to a known name, of 1, from which on an unknown one is taken for a slip; names that nothing is like may yet be measured."""
HALF = 0.5 + 1e-6
"""Weights that rounding to whole ones may be off by, and the rounding of a float."""

UNITS = {"": 1.0, "kB": 1e3, "MB": 1e6, "GB": 1e9, "ms": 1.0, "%": 0.01}
FORM = re.compile(r"\s*(?:(dense|change)\.)?(\w[\w -]*?)\s*(?:@(.+?))?\s*(>=|<=|>|<)\s*(-?[\d.]+(?:e-?\d+)?)\s*(kB|MB|GB|ms|%)?\s*")


@dataclass(frozen=True)
class Gate:
    """One condition.

    Args:
        text: as it was written.
        name, of, scope: which finding.
        sign: a key of OPERATORS.
        bound: in the finding's unit.
    """

    text: str
    name: str
    of: Of
    scope: str
    sign: str
    bound: float

    def holds(self, finding: Finding) -> bool:
        """True when the finding has a value that meets the bound; counted sparsities within half a weight."""
        if finding.value is None:
            return False
        counted = finding.n and finding.unit == "fraction" and finding.name.startswith("sparsity")
        near = bool(counted) and self.sign in (">=", "<=") and abs(finding.value - self.bound) * (finding.n or 1) <= HALF
        return near or OPERATORS[self.sign](finding.value, self.bound)


def parse_gate(text: str) -> Gate:
    """Read a gate.

    Raises:
        BadRequest: it is not one, or asks for a share beyond 1.
    """
    match = FORM.fullmatch(text)
    if match is None:
        raise BadRequest(f"{text!r} is not a gate.", "", "Write for instance accuracy>=0.95, change.accuracy>=-0.015 or bytes_packed<=1MB.")
    of: Of = match[1] or "compressed"  # type: ignore[assignment]
    name, scope, sign, number, unit = match.groups()[1:]
    try:
        bound = float(number) * UNITS[unit or ""]
    except ValueError as error:
        raise BadRequest(f"{number!r} in the gate {text!r} is not a number.") from error
    name = re.sub(r"[ -]+", "_", name.strip())
    if name.startswith(SHARES) and abs(bound) > 1:
        raise BadRequest(f"The gate {text!r} asks for {bound:g}.", f"{name} is a share, from 0 to 1.", f"Write {bound:g}% for percent.")
    return Gate(text, name, of, scope or "all", sign, bound)


def read_gates(texts: Sequence[str]) -> tuple[Gate, ...]:
    """Read gates before anything is measured.

    Raises:
        BadRequest: one is none.
        UnknownName: a name is all but that of a known number.
    """
    gates = tuple(map(parse_gate, texts))
    known = {name.replace("-", "_") for name in Shelf("metrics").names()} | set(SIZES)
    for gate in gates:
        begins = gate.name.startswith(tuple(known))  # accuracy_retain_after, or a number of somebody's own metric
        if not begins and difflib.get_close_matches(gate.name, known, n=1, cutoff=MISSPELT):
            raise UnknownName("number", gate.name, known, f"The gate was {gate.text!r}.")
    return gates


def for_each_level(texts: Sequence[str], report: Report, densest: int = 0) -> tuple[str, ...]:
    """The gates, and each without a scope once more for every network inside a nest that has such a number.

    Args:
        texts: the gates.
        report: what was measured.
        densest: the level that a gate without a scope is about.
    """
    found = []
    for text in texts:
        gate, name = parse_gate(text), FORM.fullmatch(text)
        scopes = [
            one.scope
            for one in report
            if one.scope.startswith("level:") and one.scope != f"level:{densest}" and (one.name, one.of) == (gate.name, gate.of)
        ]
        levels = scopes if name is not None and name[3] is None else []
        found += [text, *(f"{text[: name.end(2)]}@{scope}{text[name.end(2) :]}" for scope in levels if name is not None)]
    return tuple(found)


def check_gates(texts: Sequence[str], report: Report, densest: int = 0) -> tuple[tuple[Condition, ...], Regression | None]:
    """What came of each gate, and the failure when one does not hold.

    Args:
        texts: the gates.
        report: what was measured.
        densest: the level of a nest whose numbers are those of `all`; 0 = there is no nest.

    Raises:
        BadRequest: a gate cannot be read.
        UnknownName: a gate asks for a number that was not measured.
    """
    found = [(gate, _found(_of_densest(gate, densest), report)) for gate in map(parse_gate, texts)]
    checked = tuple(Condition(gate.text, gate.sign, gate.bound, finding, gate.holds(finding)) for gate, finding in found)
    failed = [condition.sentence for condition in checked if not condition.holds]
    if not failed:
        return checked, None
    return checked, Regression(
        f"{len(failed)} of {len(checked)} gates failed: {'; '.join(failed)}.", "", "`sparsify report` shows where the loss is."
    )


def require_about_one(gate: Gate) -> None:
    """Refuse a gate that compares, before one network is measured.

    Raises:
        BadRequest: it does.
    """
    if gate.of != "compressed":
        raise _compares(gate)


def _compares(gate: Gate) -> BadRequest:
    return BadRequest(f"The gate {gate.text!r} compares two networks.", "This verb measured one.", "Put it on `sparsify report`.")


def _of_densest(gate: Gate, level: int) -> Gate:
    return replace(gate, scope="all") if level and gate.scope == f"level:{level}" else gate


def _found(gate: Gate, report: Report) -> Finding:
    named = [finding for finding in report if (finding.name, finding.of) == (gate.name, gate.of)]
    whole = [finding for finding in named if finding.scope == gate.scope]
    fitting = whole or [finding for finding in named if gate.scope in _short(finding.scope) or gate.scope == "all"]
    if gate.scope != "all":  # `1` is a class first
        fitting = [finding for finding in fitting if not finding.scope.startswith("level:")] or fitting
    if len(fitting) == 1 or whole:
        return fitting[0]
    if not any(finding.of == gate.of for finding in report):
        raise _compares(gate)
    raise _not_one(gate, named, fitting, report)


def _short(scope: str) -> set[str]:
    """What a scope may be called where nothing else is called so: `group:sex=Female` is `sex=Female` and `sex:Female` too."""
    bare = scope.partition(":")[2]
    return {bare, bare.replace("=", ":", 1)} if bare else set()


def _not_one(gate: Gate, named: list[Finding], fitting: list[Finding], report: Report) -> UnknownName:
    wanted = gate.name if gate.scope == "all" else f"{gate.name}@{gate.scope}"
    if named:
        known = {f.name if f.scope == "all" else f"{f.name}@{f.scope}" for f in fitting or named}
    else:
        known = {f.name for f in report if f.of == gate.of and f.scope == "all"}
    hint = "" if named else " A class, attribute or group is named behind an @, e.g. accuracy@class:3 or accuracy@group:sex=Female."
    return UnknownName(f"measured number ({gate.of})", wanted, known, f"The gate was {gate.text!r}.{hint}")
