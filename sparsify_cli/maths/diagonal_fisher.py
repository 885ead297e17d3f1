"""The diagonal of the Fisher matrix: squared gradients, one a sample, summed.

    empirical   sum_i (d l(x_i, y_i) / d theta)^2         at the labels of the data
    own         the same at labels drawn from the model's own answers, one a sample: its mean is the true Fisher's diagonal

A drawn label hangs on the seed and the sample's id alone, so that a sum over some samples can be subtracted from a sum over all.

Source: Kirkpatrick et al. 2017 (arXiv 1612.00796) for its use as importance; Martens 2014 (arXiv 1412.1193), section 5 to 8, on labels of
the data and of the model.
"""

from __future__ import annotations

import hashlib
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from sparsify_cli.maths.per_sample_gradients import Coordinates, per_sample_gradients
from sparsify_cli.values.arrays import as_taken_by
from sparsify_cli.values.choices import options
from sparsify_cli.values.samples import Samples

Labels = Literal["data", "own"]


def squared_gradients(
    model: nn.Module, samples: Samples, coordinates: Coordinates, *, labels: Labels = "data", seed: int = 0
) -> Float[Tensor, " d"]:
    """Sum over samples of squared gradients, float64; batch norm in eval mode.

    Args:
        model: left as it was.
        samples: any number.
        coordinates: which parameters, in which order.
        labels: whose: the data's, or drawn from the model's own answers.
        seed: of the draw.
    """
    total = torch.zeros(coordinates.count, dtype=torch.float64)
    if not len(samples):
        return total
    targets = samples.targets if labels == "data" else own_labels(model, samples, seed)
    for rows in per_sample_gradients(model, samples.inputs, targets, coordinates):
        total += rows.double().square().sum(dim=0).cpu()
    return total


@torch.no_grad()
def own_labels(model: nn.Module, samples: Samples, seed: int) -> Int[Tensor, "n *a"]:
    """Labels drawn from the model's answers in its present mode, one a choice; the same for the same seed and id."""
    logits = torch.cat([model(as_taken_by(model, x)).double().cpu() for x in torch.split(samples.inputs, 500)])
    cumulated = options(logits, attributes=samples.has_attributes).softmax(dim=1).cumsum(dim=1)
    names = [f"{name}/{i}" for name in samples.ids for i in range(logits.shape[1])] if samples.has_attributes else samples.ids
    draws = torch.tensor([_uniform(seed, name) for name in names], dtype=torch.float64)
    return (cumulated < draws.unsqueeze(1)).sum(dim=1).clamp(max=cumulated.shape[1] - 1).reshape(samples.targets.shape)


def _uniform(seed: int, name: str) -> float:
    words = hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=8).digest()
    return (int.from_bytes(words, "big") >> 11) / 2**53
