"""Gradients of the cross-entropy, one row a sample, over the weights that may move.

An average over a mini-batch is not enough for a Fisher matrix: the outer product of a mean is not the mean of outer
products. The model runs in evaluation mode, so that batch norm uses its running statistics (and leaves them alone)
and no sample sees another. Rows come in chunks: the whole [n, d] matrix never has to exist.

Source: `torch.func` per-sample gradients; Peste, Alistarh, Lampert 2021 (arXiv 2107.03860) for their use in erasure.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.functional import cross_entropy

from sparsify_cli.errors import BadRequest, KeyMismatch
from sparsify_cli.values.arrays import as_taken_by
from sparsify_cli.values.mask_set import MaskSet

CHUNK_NUMBERS = 16_000_000
"""Numbers in one chunk of gradients unless told otherwise: 64 MB in float32."""


@dataclass(frozen=True, eq=False)
class Coordinates:
    """Which numbers of a model may move, and their order in one flat vector.

    Args:
        shapes: trainable floating-point parameters in the model's own order.
        kept: name -> flat positions that may move; a name without masks keeps all of its positions.
    """

    shapes: Mapping[str, torch.Size]
    kept: Mapping[str, Int[Tensor, " kept"]]

    @classmethod
    def of(cls, model: nn.Module, masks: MaskSet) -> Coordinates:
        """Every trainable parameter of `model`, without the weights that `masks` prunes.

        Raises:
            KeyMismatch: a mask names no parameter of the model or has another shape.
            BadRequest: nothing may move.
        """
        shapes = {name: p.shape for name, p in model.named_parameters() if p.requires_grad and p.is_floating_point()}
        _require_fit(model, masks)
        kept = {name: masks[name].reshape(-1).nonzero().reshape(-1).cpu() for name in shapes if name in masks}
        coordinates = cls(shapes, kept)
        if coordinates.count == 0:
            raise BadRequest("The model has no weight that may move.", "Everything is frozen or pruned.", "Unfreeze a parameter.")
        return coordinates

    @property
    def count(self) -> int:
        """Length d of the flat vector."""
        return sum(len(self.kept[name]) if name in self.kept else shape.numel() for name, shape in self.shapes.items())

    def flatten(self, tensors: Mapping[str, Tensor], *, batched: bool = False) -> Float[Tensor, "*rows d"]:
        """The coordinates of `tensors` in order; with `batched`, one row for each entry of the leading dimension."""
        lead = next(iter(tensors.values())).shape[:1] if batched else torch.Size()
        flat = {name: tensors[name].reshape(*lead, -1) for name in self.shapes}
        return torch.cat([t[..., self.kept[name]] if name in self.kept else t for name, t in flat.items()], dim=-1)

    def moved(self, tensors: Mapping[str, Tensor], step: Float[Tensor, " d"]) -> dict[str, Tensor]:
        """Copies of the parameters with `step` added; positions outside the coordinates keep their exact value."""
        result, start = {}, 0
        for name, shape in self.shapes.items():
            positions = self.kept.get(name, torch.arange(shape.numel()))
            part = step[start : start + len(positions)]
            flat = tensors[name].detach().clone().reshape(-1)
            flat[positions] += part.to(flat)
            result[name], start = flat.reshape(shape), start + len(positions)
        return result


def per_sample_gradients(
    model: nn.Module, inputs: Float[Tensor, "n ..."], targets: Int[Tensor, " n"], coordinates: Coordinates, *, chunk: int = 0
) -> Iterator[Float[Tensor, "rows d"]]:
    """Gradients of each sample's cross-entropy (nats), chunk by chunk, in sample order; the model is left as it was.

    Args:
        model: classifier returning logits [n, outputs].
        inputs: samples as the model expects them.
        targets: labels.
        coordinates: which parameters, in which order.
        chunk: rows at a time; 0 = as many as `CHUNK_NUMBERS` allows.
    """
    quiet = copy.deepcopy(model).eval()
    parameters = {name: p.detach() for name, p in quiet.named_parameters() if name in coordinates.shapes}
    rows = chunk or max(1, min(256, CHUNK_NUMBERS // coordinates.count))
    device = next(iter(parameters.values())).device
    for start in range(0, len(inputs), rows):
        some = slice(start, start + rows)
        yield _rows(quiet, parameters, as_taken_by(quiet, inputs[some]), targets[some].to(device), coordinates)


def _rows(model: nn.Module, parameters: dict[str, Tensor], x: Tensor, y: Tensor, coordinates: Coordinates) -> Tensor:
    def loss(values: dict[str, Tensor], sample: Tensor, target: Tensor) -> Tensor:
        logits: Tensor = functional_call(model, values, (sample.unsqueeze(0),))
        return cross_entropy(logits, target.unsqueeze(0))

    try:
        gradients = vmap(grad(loss), in_dims=(None, 0, 0))(parameters, x, y)
    except (RuntimeError, NotImplementedError):  # layers vmap cannot batch (recurrent ones, data-dependent branches)
        each = [grad(loss)(parameters, sample, target) for sample, target in zip(x, y, strict=True)]
        gradients = {name: torch.stack([g[name] for g in each]) for name in parameters}
    return coordinates.flatten(gradients, batched=True)


def _require_fit(model: nn.Module, masks: MaskSet) -> None:
    shapes = {name: p.shape for name, p in model.named_parameters()}
    wrong = [name for name in masks if shapes.get(name) != masks[name].shape]
    if wrong:
        raise KeyMismatch(
            f"{len(wrong)} of {len(masks)} masks do not fit the model, first {wrong[0]!r}: mask {tuple(masks[wrong[0]].shape)}.",
            f"The model's parameter is {tuple(shapes[wrong[0]]) if wrong[0] in shapes else 'absent'}.",
            "Use the masks that belong to this model.",
        )
