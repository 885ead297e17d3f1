"""Two networks over the same samples: every metric of the shelf, and their times side by side."""

from __future__ import annotations

from collections.abc import Sequence

from sparsify_cli.contracts.dataset import Split
from sparsify_cli.contracts.metric import Evidence, Truth
from sparsify_cli.stages.measure import SUMMARY, answers, measure_all, predict, train_marginals
from sparsify_cli.stages.sizes import speed_findings
from sparsify_cli.stages.subject import Subject
from sparsify_cli.values.report import Finding


def evidence(after: Subject, before: Subject | None, *, split: Split = "test") -> Evidence:
    """Predictions of a network, and of the one it is compared with, over one split."""
    samples = after.samples(split)
    if not samples.chooses:
        others = (answers(before.module(), samples),) if before is not None else ()
        return Evidence(positions=(answers(after.module(), samples),), dense_positions=others)
    dense = (predict(before.module(), samples),) if before is not None else ()
    train = after.samples("train")
    return Evidence((predict(after.module(), samples),), dense, train_marginals(train), Truth(train.targets, train.groups))


def compared(before: Subject, after: Subject, *, split: Split = "test", names: Sequence[str] = SUMMARY) -> list[Finding]:
    """Findings of metrics over both networks, and their latency; both need architecture and data. No names = every metric."""
    speed = speed_findings(after.module(), after.samples(split), dense=before.module())
    return [*measure_all(evidence(after, before, split=split), names), *speed]


def alone(subject: Subject, *, split: Split = "test", names: Sequence[str] = SUMMARY) -> list[Finding]:
    """Findings of metrics over one network, and its latency. No names = every metric."""
    speed = speed_findings(subject.module(), subject.samples(split))
    return [*measure_all(evidence(subject, None, split=split), names), *speed]
