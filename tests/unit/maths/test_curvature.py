"""Pruning in stages: each looks at the curvature where the network is, and there is one model of it at a time."""

from __future__ import annotations

import weakref
from fractions import Fraction

import torch
from torch import nn

from sparsify_cli.maths.curvature import prune_in_stages
from sparsify_cli.values.mask_set import MaskSet
from sparsify_cli.values.network import Network


class Model:
    """Weights cost their size; nothing is repaired."""

    def scores(self, weights):
        return {name: weight.abs() for name, weight in weights.items()}

    def repaired(self, weights, masks):
        return masks.apply(weights)


def test_one_model_at_a_time():
    """Memory is planned for one: the last one is gone when the next is made, for the network as it is then."""
    net = nn.Linear(4, 4)
    network, made, seen = Network(net, {"weight": "weight"}, torch.zeros(2, 4), torch.zeros(2).long(), 0), [], []

    def curvature(stage):
        assert not any(model() for model in made)
        seen.append(int(network.weights()["weight"].count_nonzero()))
        model = Model()
        made.append(weakref.ref(model))
        return model

    def choose(scores, share):
        most = scores["weight"].flatten().sort(descending=True).values[int(16 - 12 * share) - 1]
        return MaskSet({"weight": scores["weight"] >= most})

    masks = prune_in_stages(network, choose, curvature, stages=3, update=True)
    assert seen == [16, 12, 8] and masks.kept == 4 and int(network.weights()["weight"].count_nonzero()) == 4
    assert Fraction(masks.kept, 16) == Fraction(1, 4)
