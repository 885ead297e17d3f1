"""From the activity of input columns to scores of weights: one number an input channel, ties inside it broken by |w|.

A weight reads one input channel, at one kernel position. Channels are ranked as a whole, so all weights that read one get its
number v. The weights of a channel are told apart by their size, without ever reaching the next channel's number v':

    score = v + r * rank,      r = min(v' - v, largest |v| / 2^20) / 4,      rank in [0, 1] = that of |w| in the tensor

Channels with equal numbers compete as one channel.

Source: none; it makes a ranking of channels usable where single weights are counted.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from sparsify_cli.values.stats import Inputs

FINE = 2.0**-20
"""How much of a tensor's largest number the order inside a channel may take: nothing that shows between tensors."""


def of_channels(inputs: Inputs, weight: Shaped[Tensor, "..."]) -> Inputs:
    """Activity of whole input channels, [groups, channels]: rows of all kernel positions are one sample of the channel.

    Args:
        inputs: of columns, [columns] or [groups, columns], channels fastest.
        weight: [out, channels of a group, *kernel]; a vector reads one channel.
    """
    channels = weight.shape[1] if weight.ndim > 1 else 1
    groups = len(inputs.mean) if inputs.mean.ndim > 1 else 1
    means, variances, active = (v.reshape(groups, -1, channels) for v in (inputs.mean, inputs.variance, inputs.active))
    mean = means.mean(1)
    return Inputs(mean, variances.mean(1) + (means - mean[:, None]).square().mean(1), active.mean(1))


def ranked_by_channel(values: Float[Tensor, "groups channels"], weight: Shaped[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Scores of a weight's shape, float64: the order of its channels' values, then of |w|.

    Args:
        values: one number an input channel of each group, finite, higher = keep.
        weight: [out, channels, *kernel]; its outputs are as many in every group.
    """
    levels, place = values.unique(return_inverse=True)
    scale = float(levels.abs().max()) * FINE or FINE
    apart = torch.cat([levels.diff(), levels.new_tensor([torch.inf])]).clamp(max=scale)
    shape = (len(values), len(weight) // len(values), values.shape[1], -1)  # groups, outputs, channels, kernel positions
    sizes = weight.detach().abs()
    sorted_sizes, rank = sizes.flatten().unique(return_inverse=True)
    fine = rank.reshape(shape).double() / max(1, len(sorted_sizes) - 1)
    rows = place.reshape(len(values), 1, -1, 1)
    # A quarter: half of a gap of one unit in the last place could round up to the next channel.
    scores: Tensor = levels[rows] + apart[rows] / 4 * fine
    return scores.reshape(weight.shape)
