"""Gates: conditions on findings that a pipeline stops at, e.g. `accuracy>=0.95`, `change.accuracy>=-0.015`, `bytes_packed<=1MB`.

[dense.|change.]NAME[@SCOPE] OPERATOR VALUE      operators >= <= > <; values may end in kB, MB, GB, ms or %
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from sparsify_cli.errors import BadRequest, Regression, UnknownName
from sparsify_cli.values.report import Finding, Report

OPERATORS: dict[str, Callable[[float, float], bool]] = {">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt}
Of = Literal["compressed", "dense", "change"]
UNITS = {"": 1.0, "kB": 1e3, "MB": 1e6, "GB": 1e9, "ms": 1.0, "%": 0.01}
FORM = re.compile(r"\s*(?:(dense|change)\.)?(\w+)(?:@(.+?))?\s*(>=|<=|>|<)\s*(-?[\d.]+(?:e-?\d+)?)\s*(kB|MB|GB|ms|%)?\s*")


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
        """True when the finding has a value that meets the bound."""
        return finding.value is not None and OPERATORS[self.sign](finding.value, self.bound)


def parse_gate(text: str) -> Gate:
    """Read a gate.

    Raises:
        BadRequest: it is not one.
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
    return Gate(text, name, of, scope or "all", sign, bound)


def check_gates(texts: Sequence[str], report: Report) -> tuple[tuple[str, ...], Regression | None]:
    """A sentence for each gate, and the failure when one does not hold.

    Raises:
        BadRequest: a gate cannot be read.
        UnknownName: a gate asks for a number that was not measured.
    """
    checked = [(gate, _found(gate, report)) for gate in map(parse_gate, texts)]
    sentences = tuple(f"{gate.text}: {'holds' if gate.holds(f) else 'DOES NOT HOLD'}, measured {_value(f)}" for gate, f in checked)
    failed = [s for s, (gate, finding) in zip(sentences, checked, strict=True) if not gate.holds(finding)]
    if not failed:
        return sentences, None
    return sentences, Regression(
        f"{len(failed)} of {len(checked)} gates failed: {'; '.join(failed)}.", "", "The report says where the loss is."
    )


def _found(gate: Gate, report: Report) -> Finding:
    finding = report.get(gate.name, of=gate.of, scope=gate.scope)
    if finding is None:
        known = {f.name if f.scope == "all" else f"{f.name}@{f.scope}" for f in report if f.of == gate.of}
        wanted = gate.name if gate.scope == "all" else f"{gate.name}@{gate.scope}"
        raise UnknownName(f"measured number ({gate.of})", wanted, known, f"The gate was {gate.text!r}.")
    return finding


def _value(finding: Finding) -> str:
    return "nothing" if finding.value is None else f"{finding.value:.6g}"
