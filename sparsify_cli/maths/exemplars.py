"""Compression-identified exemplars: samples whose usual answer changes when the model is compressed.

With several models a side the usual answer is the modal one (most frequent predicted label; of labels as frequent as each other the one
of the highest mean probability); with one model a side it is that model's answer. The most surprising come first: those whose dense
answer, now lost, was most confident.

Source: Hooker, Courville, Clark, Dauphin, Frome 2019 (arXiv 1911.05248), "pruning identified exemplars"; Hooker et al. 2020
(arXiv 2010.03058) call them compression-identified. They use populations of 30 models; with one model a side part of
them is what retraining alone would change.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sparsify_cli.values.predictions import Predictions


class Exemplar(NamedTuple):
    """A sample whose usual answer changed; labels are class numbers, confidences mean probabilities of the usual answer."""

    id: str
    true: int
    dense: int
    compressed: int
    dense_confidence: float
    compressed_confidence: float


def modal_labels(population: Sequence[Predictions]) -> Int[Tensor, " n"]:
    """The most frequent predicted label of each sample, ties by mean probability. For classes; of attributes each is asked for alone."""
    votes = sum(torch.nn.functional.one_hot(p.labels, p.logits.shape[1]).double() for p in population)
    chances = torch.stack([p.probabilities for p in population]).mean(dim=0)
    return torch.as_tensor(votes + chances / 2).argmax(dim=1)


def modal_confidence(population: Sequence[Predictions], labels: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Mean over the population of the probability given to `labels`."""
    mean = torch.stack([p.probabilities for p in population]).mean(dim=0)
    return mean.gather(1, labels[:, None])[:, 0]


def exemplar_ids(dense: Sequence[Predictions], compressed: Sequence[Predictions]) -> list[Exemplar]:
    """The exemplars, most confident dense answer first; sample order breaks ties.

    Args:
        dense: population of dense models, at least one, same samples in the same order as `compressed`; where they tell attributes, an
            exemplar is an answer, `sample: attribute`.
        compressed: population of compressed models, at least one.
    """
    dense, compressed = ([one.every_answer() for one in side] for side in (dense, compressed))
    before, after = modal_labels(dense), modal_labels(compressed)
    sure, now = modal_confidence(dense, before), modal_confidence(compressed, after)
    where = sorted((before != after).nonzero()[:, 0].tolist(), key=lambda i: (-float(sure[i]), i))
    ids, targets = dense[0].ids, dense[0].targets
    return [Exemplar(ids[i], int(targets[i]), int(before[i]), int(after[i]), float(sure[i]), float(now[i])) for i in where]
