"""Condition: what a pipeline asked of a number, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass

from sparsify_cli.values.report import Finding


@dataclass(frozen=True)
class Condition:
    """One gate that was checked.

    Args:
        text: as it was written, e.g. `accuracy>=0.95`.
        sign: one of >=, <=, > and <.
        bound: what the number was held against, in its unit.
        finding: the number.
        holds: whether it does; a number that could not be measured never does.
    """

    text: str
    sign: str
    bound: float
    finding: Finding
    holds: bool

    @property
    def sentence(self) -> str:
        """What came of it, for people."""
        return f"{self.text}: {'holds' if self.holds else 'DOES NOT HOLD'}, measured {_value(self.finding)}"


def _value(finding: Finding) -> str:
    if finding.value is None:
        return "nothing"
    unit = "points" if finding.of == "change" else "%"
    return f"{finding.value:.6g}" + (f" ({100 * finding.value:.1f} {unit})" if finding.unit == "fraction" else "")
