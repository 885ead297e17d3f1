"""Stats: what calibration or training saw of a network and of each layer's inputs, and what was not gathered."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from sparsify_cli.errors import MissingContext
from sparsify_cli.values.network import Network


@dataclass(frozen=True, eq=False)
class Inputs:
    """How active each input column of a layer is, over calibration rows; tensors [columns] or [groups, columns], float64.

    Args:
        mean: E[x].
        variance: E[x^2] - E[x]^2, >= 0.
        active: fraction of rows in which the input is not zero, in [0, 1].
    """

    mean: Tensor
    variance: Tensor
    active: Tensor


@dataclass(frozen=True, eq=False)
class Stats:
    """Statistics of layer inputs over calibration rows, and the network itself; empty when nothing was gathered.

    Args:
        rows: name -> how many rows were seen.
        gram: name -> X X^T / n, float64, [columns, columns] of the matrix view, n = rows; for a grouped convolution
            [groups, columns, columns], n = rows of one group.
        inputs: name -> how active its inputs are.
        movement: name -> minus the sum over training steps of gradient times weight, of the weight's shape.
        network: a private copy of the network with calibration samples, for criteria that differentiate its loss.
    """

    rows: Mapping[str, int] = field(default_factory=dict)
    gram: Mapping[str, Tensor] = field(default_factory=dict)
    inputs: Mapping[str, Inputs] = field(default_factory=dict)
    network: Network | None = None
    movement: Mapping[str, Tensor] = field(default_factory=dict)

    def second_moment(self, name: str) -> Tensor:
        """E[x_j^2] of a layer's inputs over calibration rows, [columns] or [groups, columns]: the diagonal of its Gram matrix.

        E[x]^2 + Var[x] where these are known, a sum of terms >= 0 that equals it to rounding and needs no such matrix.

        Raises:
            MissingContext: calibration did not see this layer.
        """
        if name in self.inputs:
            return self.inputs[name].mean.square() + self.inputs[name].variance
        if name in self.gram:
            return self.gram[name].diagonal(dim1=-2, dim2=-1)
        raise MissingContext(f"No calibration statistics for {name!r}.", "This criterion needs inputs.", "Give --data and --arch.")

    def activity(self, name: str) -> Inputs:
        """How active a layer's inputs are.

        Raises:
            MissingContext: calibration did not see this layer.
        """
        if name not in self.inputs:
            raise MissingContext(f"No input activity for {name!r}.", "This criterion needs inputs.", "Give --data and --arch.")
        return self.inputs[name]

    def moved(self, name: str) -> Tensor:
        """How far training has moved a tensor's weights away from zero.

        Raises:
            MissingContext: nothing was trained.
        """
        if name not in self.movement:
            raise MissingContext(
                f"Nothing is known of the movement of {name!r}.",
                "It is gathered while training.",
                "Use `sparsify finetune --regime gmp --criterion movement`, or another --criterion.",
            )
        return self.movement[name]

    def probed(self) -> Network:
        """The network to differentiate.

        Raises:
            MissingContext: there is none.
        """
        if self.network is None:
            raise MissingContext("There is no network to run.", "This criterion looks at gradients.", "Give --data and --arch.")
        return self.network
