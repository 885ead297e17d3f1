"""Groups of a weight that can leave a network together: filters, channels, shapes, the whole layer.

    W [outputs, inputs, *kernel]
    filters    W[n]          one output: with it go its batch norm and an input of the next layer
    channels   W[:, c]       one input: with it may go an output of the layer before
    shapes     W[:, c, m, k] one column of the matrix the convolution multiplies with
    layers     W             the whole layer, where a shortcut leads around it

The group lasso is the sum over groups g of |g|^(p/2) * |w_g|_2, |g| the number of weights. Its two operators:

    proximal      w_g <- w_g * max(0, 1 - t / |w_g|)      exact zeros
    subgradient   w_g / |w_g|, and 0 where |w_g| is 0     no zeros of its own

Source: Wen et al. 2016 (SSL, arXiv 1608.03665), section 3 and fig. 2; Yuan and Lin 2006 for the group lasso, Parikh and Boyd
2014, section 6.5.1, for its proximal operator, both from memory.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from sparsify_cli.maths.macs import is_conv1d
from sparsify_cli.maths.prunable import verdict

KINDS = ("filters", "channels", "shapes", "layers")


@dataclass(frozen=True)
class Groups:
    """The groups of one kind of one weight.

    Args:
        name: of the weight.
        kind: one of `KINDS`.
        outputs: dimension that counts the outputs, 0, or 1 for a weight stored [in, out].
    """

    name: str
    kind: str
    outputs: int = 0

    def norms(self, weight: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """The 2-norm of each group, of the weight's number of dimensions, 1 along those inside a group."""
        norms: Tensor = torch.linalg.vector_norm(weight, dim=self._inside(weight), keepdim=True)
        return norms

    def size(self, weight: Tensor) -> int:
        """Weights in a group."""
        return math.prod(weight.shape[i] for i in self._inside(weight))

    def shrunk(self, weight: Float[Tensor, "..."], by: float) -> Float[Tensor, "..."]:
        """The proximal operator: every group shorter by `by`, exactly 0 where it was not longer than that."""
        norms = self.norms(weight)
        factor = torch.where(norms > by, 1 - by / norms, torch.zeros_like(norms))
        return torch.where(factor > 0, weight * factor, torch.zeros_like(weight))

    def directions(self, weight: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """The subgradient of the sum of norms: each group at length 1, 0 where it is 0."""
        norms = self.norms(weight)
        return torch.where(norms > 0, weight / norms, torch.zeros_like(weight))

    def zero(self, weight: Tensor) -> Bool[Tensor, "..."]:
        """True for each group all of whose weights are exactly 0, of the shape of `norms`."""
        return (weight == 0).all(dim=self._inside(weight), keepdim=True)

    def _inside(self, weight: Tensor) -> tuple[int, ...]:
        """Dimensions along which a group lies."""
        across = {"filters": self.outputs, "channels": 1 - self.outputs}
        return (self.outputs,) if self.kind == "shapes" else tuple(i for i in range(weight.ndim) if i != across.get(self.kind))


def groups_of(
    model: nn.Module, kinds: Sequence[str], *, first: bool = True, last: bool = True, only: Sequence[str] = ("*",)
) -> list[Groups]:
    """The groups of a network, kind after kind, weights in the order of its parameters.

    Inputs of grouped convolutions make no groups: each of their filters sees other channels. Where a kernel is a single
    position, shapes are channels, and are listed once.

    Args:
        model: its first prunable weight sees the data, its last gives the classes.
        kinds: of `KINDS`.
        first: also inputs of the first weight, and that layer as a whole.
        last: also outputs of the last weight, and that layer as a whole.
        only: globs of the weights that are looked at.
    """
    found = _weights(model)
    names = list(found)
    left_out = {(name, kind) for name in names[:1] if not first for kind in ("channels", "shapes", "layers")}
    left_out |= {(name, kind) for name in names[-1:] if not last for kind in ("filters", "layers")}
    asked = [name for name in names if any(fnmatchcase(name, glob) for glob in only)]
    return [
        Groups(name, kind, int(_is_turned(found[name][1])))
        for kind in kinds
        for name in asked
        if (name, kind) not in left_out and _has(*found[name], kind, kinds)
    ]


def _weights(model: nn.Module) -> dict[str, tuple[Tensor, nn.Module]]:
    """Each prunable weight and the module it belongs to."""
    owners = dict(model.named_modules())
    pairs = {name: (weight, owners[name.rpartition(".")[0]]) for name, weight in model.named_parameters() if weight.ndim > 1}
    return {name: pair for name, pair in pairs.items() if _is_weight(name, *pair)}


def _is_weight(name: str, weight: Tensor, owner: nn.Module) -> bool:
    said = verdict(name, str(weight.dtype).removeprefix("torch."), tuple(weight.shape))
    return said.matched and not isinstance(owner, nn.Embedding | nn.EmbeddingBag)


def _is_turned(owner: nn.Module) -> bool:
    """True for a module that stores its weight [in, out]: a transposed convolution, or what transformers calls Conv1D."""
    return getattr(owner, "transposed", False) is True or is_conv1d(owner)


def _has(weight: Tensor, owner: nn.Module, kind: str, kinds: Sequence[str]) -> bool:
    """False for inputs of a grouped convolution, and for shapes that are channels."""
    if kind in ("filters", "layers"):
        return True
    is_one_position = math.prod(weight.shape[2:]) == 1
    return getattr(owner, "groups", 1) == 1 and not (kind == "shapes" and is_one_position and "channels" in kinds)
