"""Keep the gradient flowing: weights whose removal would lower the norm of the loss gradient the most stay.

    score = theta * (H g),      g and H of the cross-entropy of logits / temperature

Removing theta_i changes the squared norm of g by about -2 theta_i (H g)_i, so a large score is a loss of flow. The
product comes from differentiating twice, in at least two parts and no more samples at once than a calibration batch holds.

Source: Wang et al. 2020, arXiv 2002.07376, section 4 and the published code, whose S = -theta * H g ranks the other way round (the
largest S is removed). Differs: the scores are not divided by their sum, which leaves their order as it is; parts hold all
classes (the code's halves hold half of them each); the last layer is re-initialised only when asked for, because a trained one
means something.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from sparsify_cli.contracts.criterion import Criterion, Scores
from sparsify_cli.errors import BadRequest
from sparsify_cli.maths.loss_gradients import BatchNorm, hessian_product, loss_gradient, private_copy
from sparsify_cli.values.choices import kinds
from sparsify_cli.values.network import Network
from sparsify_cli.values.stats import Stats


@dataclass(frozen=True)
class Grasp(Criterion):
    """Gradient signal preservation; comparable across tensors, made for networks that are not trained yet.

    Args:
        samples: of each class, drawn from the calibration set; all there are where there are fewer.
        temperature: logits are divided by it.
        fresh_head: score with the last linear layer re-initialised (Xavier normal), as published; for networks that are not trained.
        batch_norm: divide by the statistics of the batch, as at initialisation, or by running ones.
    """

    samples: Annotated[int, Field(ge=1)] = 10
    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 200.0
    fresh_head: bool = False
    batch_norm: BatchNorm = "batch"
    needs = frozenset({"network"})

    def scores(self, weights: Mapping[str, Tensor], stats: Stats) -> Scores:
        """Theta times H g, float64, of either sign, same shapes as `weights`, higher = keep."""
        network = private_copy(stats.probed(), weights, batch_norm=self.batch_norm)
        network.module.register_forward_hook(lambda *call: call[-1] / self.temperature)
        if self.fresh_head:
            _renew_head(network)
        drawn = _drawn(network, self.samples)
        flow = hessian_product(drawn, loss_gradient(drawn, least=2), least=2)
        values = drawn.weights()
        return {name: (values[name] * flow[name]).to(weight.device) for name, weight in weights.items()}


def _drawn(network: Network, samples: int) -> Network:
    """So many samples of each class, or so many with attributes; one of every class comes first, so that parts hold all classes."""
    order = torch.randperm(len(network.targets), generator=torch.Generator().manual_seed(network.seed))
    labels = kinds(network.targets.cpu())[order]
    classes = [order[labels == label][:samples] for label in labels.unique()]
    turns = torch.cat([torch.arange(len(rows)) for rows in classes]) if classes else order
    rows = torch.cat(classes)[turns.argsort(stable=True)] if classes else order
    return replace(network, inputs=network.inputs[rows], targets=network.targets[rows])


def _renew_head(network: Network) -> None:
    heads = [layer for layer in network.module.modules() if isinstance(layer, nn.Linear)]
    if not heads:
        raise BadRequest("There is no linear layer to re-initialise.", "fresh_head renews the last one.", "Leave fresh_head out.")
    generator = torch.Generator(heads[-1].weight.device).manual_seed(network.seed)
    nn.init.xavier_normal_(heads[-1].weight, generator=generator)
