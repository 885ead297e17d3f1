"""Rates of right and wrong answers by group, and what each sample contributes to them and to the gap between groups.

Everything is put as questions to be answered with yes or no: each attribute; of two classes, "is it the second one?"; of several
classes, "is it this one?" for each of them. Of a question with truth y and answer s,

    tpr = P(s = 1 | y = 1)      fpr = P(s = 1 | y = 0)      fnr = P(s = 0 | y = 1)      selection = P(s = 1)

A weighted sum of groups' rates, sum_k w_k r_k, is the mean over samples of r + n w_k (s_i - r_k) / n_k for a sample i of group k
that counts (that has y = 1, say) and r for all others. Weights +1 and -1 make the gap between two groups, all questions' weights
together their mean. A rate of fewer than `least` samples is not used. Several models answer with the share of them that says yes.

Source: rates and gaps as in Hardt, Price, Srebro 2016 (arXiv 1610.02413) and fairlearn; contributions by the delta method; the mean
over questions, the mean over classes included, is ours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from sparsify_cli.maths.scopes import class_names
from sparsify_cli.values.predictions import Predictions

TOGETHER = 16
"""Questions worked on at once; bounds memory where there are a thousand classes."""

DRAWS = 1000

Truth = Bool[Tensor, "n questions"]
Said = Float[Tensor, "n questions"]
Codes = Int[Tensor, " n"]
Table = Float[Tensor, "groups questions"]


class Rate(NamedTuple):
    """A rate of each group and question, and how many samples it rests on."""

    value: Table
    n: Table


class Chosen(NamedTuple):
    """Weighted sums of rates, one for each question.

    values: NaN where undefined.
    each: one number a sample, whose mean is the sum of the defined values.
    weights: of the groups.
    counted: samples that some defined value rests on.
    rates, usable: what was chosen from.
    """

    values: Float[Tensor, " questions"]
    each: Float[Tensor, " n"]
    weights: Table
    counted: Bool[Tensor, " n"]
    rates: list[Rate]
    usable: list[Bool[Tensor, "groups questions"]]


Choose = Callable[[Rate, Bool[Tensor, "groups questions"]], Table]
"""Weights of the groups' rates, from the rates and which of them can be used."""


def questions(predictions: Predictions) -> tuple[str, ...]:
    """Names of what is answered with yes or no: attributes, the second of two classes, or every class."""
    names = predictions.attributes or class_names(predictions)
    return names[1:] if len(names) == 2 and not predictions.has_attributes else names


def yes(labels: Int[Tensor, "n *a"], asked: range) -> Truth:
    """Where a label, true or predicted, answers a question with yes; questions about classes are asked by label."""
    return labels[:, asked.start : asked.stop] == 1 if labels.ndim == 2 else labels[:, None] == torch.tensor(list(asked))


def blocks(sides: Sequence[Sequence[Predictions]], rows: Int[Tensor, " m"]) -> Iterator[tuple[Truth, list[Said]]]:
    """(truth, what each side says) for some questions at a time; rows are samples.

    Args:
        sides: populations of models over the same samples.
        rows: the samples to speak of.
    """
    first = sides[0][0]
    labels = [[model.labels[rows] for model in side] for side in sides]
    count, start = len(questions(first)), int(not first.has_attributes and first.logits.shape[1] == 2)
    for at in range(start, start + count, TOGETHER):
        asked = range(at, min(at + TOGETHER, start + count))
        said = [torch.stack([yes(one, asked) for one in side]).double().mean(dim=0) for side in labels]
        yield yes(first.targets[rows], asked), said


def counting(rate: str, truth: Truth, said: Shaped[Tensor, "n questions"]) -> tuple[Shaped[Tensor, "n questions"], Truth]:
    """What a rate is the mean of, and the samples it is the mean over."""
    among = {"tpr": truth, "fpr": ~truth, "fnr": truth, "selection": torch.ones_like(truth)}[rate]
    return (1 - said if rate == "fnr" else said), among


def by_group(values: Said, among: Truth, codes: Codes, groups: int) -> Rate:
    """A rate of each group; 0 where nothing counts."""
    nothing = torch.zeros(groups, values.shape[1], dtype=torch.float64)
    n = nothing.index_add(0, codes, among.double())
    return Rate(nothing.index_add(0, codes, values * among) / n.clamp(min=1), n)


def widest(rate: Rate, usable: Bool[Tensor, "groups questions"]) -> Table:
    """+1 for the group with the highest rate, -1 for the one with the lowest; nothing where fewer than two can be used."""
    if not len(usable):
        return usable.double()
    high = torch.where(usable, rate.value, -torch.inf).argmax(dim=0)
    low = len(usable) - 1 - torch.where(usable, rate.value, torch.inf).flip(0).argmin(dim=0)  # of equals not the same one
    return (_one(high, len(usable)) - _one(low, len(usable))) * (usable.sum(dim=0) > 1)


def highest(rate: Rate, usable: Bool[Tensor, "groups questions"]) -> Table:
    """1 for the group with the highest rate; nothing where fewer than two can be used."""
    if not len(usable):
        return usable.double()
    chosen = torch.where(usable, rate.value, -torch.inf).argmax(dim=0)
    return _one(chosen, len(usable)) * (usable.sum(dim=0) > 1)


def lowest(rate: Rate, usable: Bool[Tensor, "groups questions"]) -> Table:
    """1 for the group with the lowest rate; nothing where fewer than two can be used."""
    return highest(Rate(-rate.value, rate.n), usable)


def every(rate: Rate, usable: Bool[Tensor, "groups questions"]) -> Table:
    """1 for every group that can be used."""
    return (usable & (rate.n > 0)).double()


def chosen(rates: Sequence[str], choose: Choose, truth: Truth, said: Said, codes: Codes, *, groups: int, least: int) -> Chosen:
    """The weighted sum of rates of each question; of several rates the one for which it is largest, where all can be used.

    Args:
        rates: keys of `counting`.
        choose: which groups, with which weights.
        truth, said: of the samples.
        codes: group of each sample.
        groups: how many.
        least: rates of fewer samples are not used.
    """
    inputs = [counting(rate, truth, said) for rate in rates]
    tables = [by_group(values, among, codes, groups) for values, among in inputs]
    usable = [table.n >= max(least, 1) for table in tables]
    weights = torch.stack([choose(table, use) for table, use in zip(tables, usable, strict=True)])
    there = (weights != 0).any(dim=1).all(dim=0)
    sums = torch.stack([(w * table.value).sum(dim=0) for w, table in zip(weights, tables, strict=True)])
    taken = _one(sums.argmax(dim=0), len(rates)) * there
    weights = weights * taken[:, None]
    each = [_contributions(*given, codes, table, w) for given, table, w in zip(inputs, tables, weights, strict=True)]
    counted = [(among & there & used[codes]).any(dim=1) for (_, among), used in zip(inputs, usable, strict=True)]
    values = torch.where(there, sums.amax(dim=0), torch.nan)
    return Chosen(values, torch.stack(each).sum(dim=0), weights.sum(dim=0), torch.stack(counted).any(dim=0), tables, usable)


def chance_gap(found: Chosen) -> Float[Tensor, "2 questions"]:
    """(mean, 95 % quantile) of the widest gap that groups without any difference would show, by question.

    Rates are taken as normal around their common mean; several rates (of separate samples) as independent.
    """
    generator = torch.Generator().manual_seed(0)
    normal = [torch.randn(DRAWS, len(rate.n), generator=generator, dtype=torch.float64) for rate in found.rates]
    levels = []
    for question in range(len(found.values)):
        used = [use[:, question] for use in found.usable]
        spans = [_spans(z[:, u] * _spread(rate, question)[u]) for z, u, rate in zip(normal, used, found.rates, strict=True)]
        widest_span = torch.stack(spans).amax(dim=0)
        levels.append(torch.stack([widest_span.mean(), widest_span.quantile(0.95)]))
    return torch.stack(levels, dim=1)


def _contributions(values: Said, among: Truth, codes: Codes, rate: Rate, weights: Table) -> Float[Tensor, " n"]:
    """One number a sample, summed over questions; the mean over samples is the weighted sum of rates."""
    share = weights / rate.n.clamp(min=1) * len(codes)
    off = share[codes] * among * (values - rate.value[codes])
    return (weights * rate.value).sum() + off.sum(dim=1)


def _spread(rate: Rate, question: int) -> Float[Tensor, " groups"]:
    """Standard error of each group's rate if all groups had the same one."""
    value, n = rate.value[:, question], rate.n[:, question]
    common = (value * n).sum() / n.sum().clamp(min=1)
    return (common * (1 - common) / n.clamp(min=1)).clamp(min=0).sqrt()


def _spans(drawn: Float[Tensor, "draws used"]) -> Float[Tensor, " draws"]:
    return drawn.amax(dim=1) - drawn.amin(dim=1) if drawn.shape[1] else drawn.sum(dim=1)


def _one(at: Int[Tensor, " questions"], places: int) -> Float[Tensor, "places questions"]:
    return torch.nn.functional.one_hot(at, places).T.double()
