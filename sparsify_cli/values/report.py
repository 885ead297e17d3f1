"""Findings: a number with unit, n, interval, definition and source; a report is a list of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Better = Literal["higher", "lower", "neither"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One measured number; it does not know how it was computed or how it is printed.

    Args:
        name: the metric, as its file is called: `accuracy`.
        value: the number; None = undefined or not enough data (then `note` says why).
        unit: `fraction`, `nats`, `bytes`, `ms`, `samples`, `` (none).
        n: samples (or runs) the number rests on; 0 where that has no meaning.
        low, high: 95 % interval, or None.
        of: whose number: `compressed`, `dense`, or `change` (compressed - dense).
        scope: `all`, `class:<name>`, `attribute:<name>`, `group:<column>=<value>`, `group:<column>`, `group:<a>&<b>`,
            `layer:<name>`, `routed:<share>`.
        better: which direction is good.
        definition: one plain sentence.
        source: paper, equation or `ours`.
        note: why the value is missing, or what to beware of.
    """

    name: str
    value: float | None
    unit: str = ""
    n: int = 0
    low: float | None = None
    high: float | None = None
    of: Literal["compressed", "dense", "change"] = "compressed"
    scope: str = "all"
    better: Better = "neither"
    definition: str = ""
    source: str = "ours"
    note: str = ""


@dataclass(frozen=True)
class Report:
    """A list of findings and the facts around them.

    Args:
        findings: the numbers.
        facts: lineage, settings, files: whatever explains the numbers; plain JSON values.
    """

    findings: tuple[Finding, ...] = ()
    facts: dict[str, Any] = field(default_factory=dict)

    def __iter__(self) -> Iterator[Finding]:
        """The findings in order."""
        return iter(self.findings)

    def get(self, name: str, *, of: str = "compressed", scope: str = "all") -> Finding | None:
        """The finding of that name, model and scope, or None."""
        return next((f for f in self.findings if (f.name, f.of, f.scope) == (name, of, scope)), None)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"schema": "sparsify/report/1", "facts": self.facts, "findings": [asdict(f) for f in self.findings]}
