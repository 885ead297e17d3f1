"""A multilayer perceptron: flattens its inputs; linear layers fc1, fc2, ... with ReLU between them, then fc."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from torch import nn

from sparsify_cli.contracts.architecture import Architecture
from sparsify_cli.errors import BadRequest


@dataclass(frozen=True)
class Mlp(Architecture):
    """A multilayer perceptron.

    Args:
        inputs: numbers in one sample, e.g. 64 for 8x8 grey images, 784 for 28x28.
        hidden: units of each hidden layer, separated by commas.
        classes: outputs.
    """

    inputs: int = 64
    hidden: int | str | tuple[int, ...] = "64,64"
    classes: int = 10

    def __post_init__(self) -> None:
        """Refuse sizes that make no network."""
        if min(self.sizes) < 1:
            raise BadRequest(f"The architecture mlp cannot have the layer sizes {list(self.sizes)}.", "", "Give numbers of at least 1.")

    @property
    def sizes(self) -> tuple[int, ...]:
        """Inputs, units of each hidden layer, classes.

        Raises:
            BadRequest: `hidden` is not a list of whole numbers.
        """
        parts = self.hidden if isinstance(self.hidden, tuple) else str(self.hidden).split(",")
        try:
            return (self.inputs, *(int(part) for part in parts), self.classes)
        except ValueError as error:
            raise BadRequest(
                f"hidden is {self.hidden!r}.", "It lists the units of each hidden layer.", "Write for instance hidden=64,64."
            ) from error

    def build(self) -> nn.Module:
        """A freshly initialised network."""
        sizes = self.sizes
        layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
        for i in range(1, len(sizes) - 1):
            layers[f"fc{i}"], layers[f"relu{i}"] = nn.Linear(sizes[i - 1], sizes[i]), nn.ReLU()
        layers["fc"] = nn.Linear(sizes[-2], sizes[-1])
        return nn.Sequential(layers)
