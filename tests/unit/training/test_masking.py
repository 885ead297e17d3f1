"""What is told when masks change."""

import torch
from torch import nn

from sparsify_cli.training import masking
from sparsify_cli.values.mask_set import MaskSet
from sparsify_cli.values.run import Run


def mask(*kept: int) -> torch.Tensor:
    """[2, 4] with these weights."""
    made = torch.zeros(8, dtype=torch.bool)
    made[list(kept)] = True
    return made.reshape(2, 4)


def test_densities_of_layers_that_keep_more_or_fewer() -> None:
    """At first of all, then only of those whose number changed; a layer that exchanges weights is not among them."""
    model = nn.Sequential(nn.Linear(4, 2), nn.Linear(4, 2))
    run = Run(model, model, torch.optim.SGD(model.parameters(), 0.1), lambda loss: None, 1, 1)
    for masks in (
        {"0.weight": mask(0, 1, 4, 5), "1.weight": mask(0, 7)},
        {"0.weight": mask(0, 1), "1.weight": mask(1, 6)},
        {"0.weight": mask(0, 3), "1.weight": mask(1, 6)},
    ):
        masking.switch(run, MaskSet(masks), event="changed")
    first, second, third = run.events
    assert first["densities"] == {"0.weight": 0.5, "1.weight": 0.25}
    assert second["densities"] == {"0.weight": 0.25} and "densities" not in third
    assert (second["sad"], third["sad"], third["mask_change"]) == (2 + 4, 2, 0.25)
    assert (first["dead_channels"], second["dead_channels"]) == (0, 1)
