"""View: everything one page shows, already measured; and how to look a number up when some are missing.

Stage 0 is always the dense ancestor; `subject` is the stage the page is about. A number that is absent stays absent:
lookups return None and the page says "not measured".
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

from sparsify_cli.errors import BadRequest
from sparsify_cli.values.condition import Condition
from sparsify_cli.values.report import Finding, Report

SAME = {"bytes_dense": ("bytes_disk", "bytes_dense")}
"""Names under which the same number may be found, the measured file before the computed sum."""
QUALITIES = {"perplexity": "perplexity", "accuracy": "accuracy", "rmse": "root mean square error"}
"""What says how good networks are, the first that was measured, and what it is called in a sentence."""
NOT_COMPRESSION = frozenset({"dense", "train", "unlearn"})


@dataclass(frozen=True)
class Stage:
    """One model of the comparison: a column of the page.

    Args:
        name: what the column is called, e.g. `pruned 90 %`.
        verb: what made it: `train`, `prune`, `finetune`, `extract`, `unlearn`.
        path: its artifact folder or file.
        recipe: what was asked for, plain JSON values.
        report: its findings; `of` is `compressed` for this model, `dense` for its ancestor, `change` for the difference.
    """

    name: str
    verb: str
    path: str
    recipe: Mapping[str, Any]
    report: Report


@dataclass(frozen=True)
class Layer:
    """One prunable tensor of the subject: its shape, how many weights it has and how many stay."""

    name: str
    shape: tuple[int, ...]
    weights: int
    kept: int

    @property
    def sparsity(self) -> float:
        """Fraction of zeros; 0 for an empty layer."""
        return 1 - self.kept / self.weights if self.weights else 0.0


@dataclass(frozen=True, eq=False)
class Exemplar:
    """A sample on which compression changed the answer.

    Args:
        id: name of the sample.
        image: [channels, height, width] numbers (nested lists or array) on any scale, or None when it is not an image.
        true, dense, compressed: the true class and what each model said.
        dense_confidence, compressed_confidence: probability each gave its answer, or None.
        groups: column -> value.
        row: what the network was given where it is no image: figures, or words and in brackets the one that is right next.
    """

    id: str
    image: Any
    true: str
    dense: str
    compressed: str
    dense_confidence: float | None = None
    compressed_confidence: float | None = None
    groups: Mapping[str, str] = field(default_factory=dict)
    row: str = ""


class Reliability(NamedTuple):
    """Reliability bins of one model: (mean confidence, accuracy, samples) each."""

    name: str
    bins: Sequence[tuple[float, float, int]]


@dataclass(frozen=True)
class LineageStep:
    """One step from the dense ancestor to the subject: what was run, what it wrote, its hash, one sentence."""

    name: str
    verb: str
    path: str
    sha256: str
    summary: str


class Epoch(NamedTuple):
    """A network after an epoch: steps, validation accuracy and sparsity (fractions), learning rate, how often that was put back."""

    step: int
    accuracy: float
    sparsity: float
    rate: float | None = None
    rewinds: int = 0


@dataclass(frozen=True)
class Curve:
    """How a stage was trained.

    Args:
        name: of the stage.
        epochs: in order.
        changes: (step, share of the weights kept then that were not kept before) at each change of the masks.
        share: multiply-adds relative to dense training of as many steps; None when it was not counted.
        measure: what the accuracy of epochs is.
        differing: (step, bits of the masks that differ from those before: SAD) at the same changes.
        densities: (step, layer -> share of its weights that it keeps from then on), of layers that keep more or fewer than before.
        dead: (step, output channels of which no weight is kept).
    """

    name: str
    epochs: tuple[Epoch, ...]
    changes: tuple[tuple[int, float], ...] = ()
    share: float | None = None
    measure: str = "accuracy"
    differing: tuple[tuple[int, float], ...] = ()
    densities: tuple[tuple[int, Mapping[str, float]], ...] = ()
    dead: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class Certified:
    """What a certificate of forgetting says of a stage.

    Args:
        name: of the stage.
        verdict: `passed`, `failed` or `measured`.
        limits: what it does not prove, one sentence.
        facts: label and value: how many samples, by which method, hashes.
        tables: title, headings and rows of the audit; none where there was none.
        notes: sentences about the audit.
    """

    name: str
    verdict: str
    limits: str
    facts: tuple[tuple[str, str], ...]
    tables: tuple[tuple[str, tuple[str, ...], tuple[tuple[str, ...], ...]], ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class View:
    """Everything one page shows.

    Args:
        title: heading of the page.
        stages: one column each, the dense ancestor first.
        subject: index of the stage the page is about; None = the last compressed one.
        layers: prunable tensors of the subject.
        exemplars: samples on which compression changed the answer, most striking first.
        reliability: (name, bins) of each model.
        lineage: steps from the ancestor to the subject.
        environment: name -> version or machine fact.
        gates: what a pipeline asked, and what came of it.
        curves: how trained stages were trained.
        certificates: of stages that were made to forget.
        notes: sentences to be read before any number: whose answers are averaged, what is of another kind.
        models: networks whose answers are averaged on the subject's side.
    """

    title: str
    stages: tuple[Stage, ...]
    subject: int | None = None
    layers: tuple[Layer, ...] = ()
    exemplars: tuple[Exemplar, ...] = ()
    reliability: tuple[Reliability, ...] = ()
    lineage: tuple[LineageStep, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    gates: tuple[Condition, ...] = ()
    curves: tuple[Curve, ...] = ()
    certificates: tuple[Certified, ...] = ()
    notes: tuple[str, ...] = ()
    models: int = 1

    def __post_init__(self) -> None:
        """Check once that there is something to show and that the subject is one of the stages."""
        if not self.stages:
            raise BadRequest("A report needs at least one model.", "No stage was given.", "Name an artifact to report on.")
        if self.subject is not None and not 0 <= self.subject < len(self.stages):
            raise BadRequest(f"The report is about stage {self.subject}.", f"There are {len(self.stages)} stages, counted from 0.")

    @property
    def index(self) -> int:
        """Index of the subject: as asked, else the last compressed stage, else the last one."""
        if self.subject is not None:
            return self.subject
        compressed = [i for i, stage in enumerate(self.stages) if i and stage.verb not in NOT_COMPRESSION]
        return compressed[-1] if compressed else len(self.stages) - 1

    @property
    def about(self) -> Stage:
        """The subject itself."""
        return self.stages[self.index]

    @property
    def quality(self) -> str:
        """Name of the number that says how good networks are here: accuracy; of texts perplexity; of numbers the error."""
        return next((name for name in QUALITIES if self.number(name)), "accuracy")

    def number(self, name: str, index: int | None = None, scope: str = "all") -> Finding | None:
        """A stage's own number (the subject's by default), or None."""
        where = self.index if index is None else index
        if where:
            return _find(self.stages[where].report, name, "compressed", scope)
        return self.dense(name, scope)

    def dense(self, name: str, scope: str = "all") -> Finding | None:
        """The dense ancestor's number: from its own report, else from what another report says of it."""
        own = self.stages[0].report
        reports = (self.about.report, *(stage.report for stage in self.stages))
        told = (_find(report, name, "dense", scope) for report in reports)
        return _find(own, name, "dense", scope) or _find(own, name, "compressed", scope) or next((f for f in told if f), None)

    def change(self, name: str, index: int | None = None, scope: str = "all") -> Finding | None:
        """The measured change (compressed - dense) with its interval, else the plain difference without one."""
        where = self.index if index is None else index
        measured = self.stages[where].report.get(name, of="change", scope=scope)
        now, before = self.number(name, where, scope), self.dense(name, scope)
        if measured or not where or not now or not before:
            return measured
        gap = None if missing(now) or missing(before) else float(now.value or 0) - float(before.value or 0)
        return replace(now, value=gap, low=None, high=None, of="change", note=now.note or before.note)

    def scopes(self, kind: str, name: str = "accuracy") -> list[str]:
        """Scopes of a kind (`class`, `group`) that the subject's report speaks of, in its order."""
        found = (f.scope for f in self.about.report if f.name == name and f.scope.startswith(f"{kind}:"))
        return list(dict.fromkeys(found))


def _find(report: Report, name: str, of: Literal["compressed", "dense"], scope: str) -> Finding | None:
    found = (report.get(known, of=of, scope=scope) for known in SAME.get(name, (name,)))
    return next((finding for finding in found if finding), None)


def missing(finding: Finding | None) -> bool:
    """True when there is no usable number: absent, None, NaN or infinite."""
    return finding is None or finding.value is None or not math.isfinite(finding.value)
