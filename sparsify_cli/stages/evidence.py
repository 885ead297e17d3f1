"""Two networks over the same samples: every metric of the shelf, and their times side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from torch import nn

from sparsify_cli.contracts.dataset import Split
from sparsify_cli.contracts.metric import Evidence, Truth
from sparsify_cli.stages.known_answers import answered, predicted
from sparsify_cli.stages.measure import SUMMARY, answers, measure_all, predict, train_marginals
from sparsify_cli.stages.sizes import speed_findings
from sparsify_cli.stages.subject import Subject
from sparsify_cli.values.positions import Positions
from sparsify_cli.values.predictions import Predictions
from sparsify_cli.values.report import Finding
from sparsify_cli.values.samples import Samples

Said = TypeVar("Said", Predictions, Positions)


Predict = Callable[[nn.Module, Samples], Predictions]
"""How a network is asked: `predict`, or what remembers its answers."""


def evidence(
    after: Sequence[Subject], before: Sequence[Subject] = (), *, split: Split = "test", keep: bool = False, ask: Predict = predict
) -> Evidence:
    """Predictions of a network, and of the one it is compared with, over one split.

    Args:
        after: the network; with others of its kind a population.
        before: its dense ancestor, or the population's; may be empty.
        split: of which data.
        keep: read answers that were kept, and keep these; never those to training samples, which may have to be forgotten.
        ask: how networks that choose are asked, where answers are not kept.
    """
    keep = keep and split != "train"
    samples, train = after[0].samples(split), after[0].samples("train")
    if not samples.chooses:
        say = answered if keep else _answers
        return Evidence(positions=_each(say, after, samples), dense_positions=_each(say, before, samples))
    tell = predicted if keep else lambda subject, samples: ask(subject.module(), samples)
    truth = Truth(train.targets, train.groups)
    return Evidence(_each(tell, after, samples), _each(tell, before, samples), train_marginals(train), truth)


def compared(
    before: Subject, after: Subject, *, split: Split = "test", names: Sequence[str] = SUMMARY, ask: Predict = predict
) -> list[Finding]:
    """Findings of metrics over both networks, and their latency; both need architecture and data. No names = every metric."""
    speed = speed_findings(after.module(), after.samples(split), dense=before.module())
    return [*said_by_both(before, after, split=split, names=names, ask=ask), *speed]


def said_by_both(
    before: Subject, after: Subject, *, split: Split = "test", names: Sequence[str] = SUMMARY, ask: Predict = predict
) -> tuple[Finding, ...]:
    """The same without latency."""
    return tuple(measure_all(evidence([after], [before], split=split, ask=ask), names))


def alone(subject: Subject, *, split: Split = "test", names: Sequence[str] = SUMMARY) -> list[Finding]:
    """Findings of metrics over one network, and its latency. No names = every metric."""
    speed = speed_findings(subject.module(), subject.samples(split))
    return [*measure_all(evidence([subject], split=split, keep=True), names), *speed]


def _each(say: Callable[[Subject, Samples], Said], subjects: Sequence[Subject], samples: Samples) -> tuple[Said, ...]:
    return tuple(say(subject, samples) for subject in subjects)


def _answers(subject: Subject, samples: Samples) -> Positions:
    return answers(subject.module(), samples)
