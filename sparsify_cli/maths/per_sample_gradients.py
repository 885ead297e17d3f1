"""Gradients of the cross-entropy, one row a sample, over the weights that may move.

An average over a mini-batch is not enough for a Fisher matrix: the outer product of a mean is not the mean of outer
products. The model runs in evaluation mode, so that batch norm uses its running statistics (and leaves them alone)
and no sample sees another. Rows come in chunks: the whole [n, d] matrix never has to exist.

Source: `torch.func` per-sample gradients; Peste, Alistarh, Lampert 2021 (arXiv 2107.03860) for their use in erasure.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from jaxtyping import Bool, Float, Int, Num
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from sparsify_cli.errors import BadRequest, KeyMismatch
from sparsify_cli.values.arrays import as_taken_by, small_batch
from sparsify_cli.values.channels_last import order_for
from sparsify_cli.values.copies import copy_of
from sparsify_cli.values.losses import loss as loss_of
from sparsify_cli.values.mask_set import MaskSet

CHUNK_NUMBERS = 4_000_000
"""Numbers in one chunk of gradients unless told otherwise: 16 MB in float32, which caches hold better than more."""
FEW = 100
"""Samples of one pass with gradients."""


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
    def of(cls, model: nn.Module, masks: MaskSet, frozen: MaskSet | None = None, only: Sequence[str] = ()) -> Coordinates:
        """Every trainable parameter of `model`, without the weights that `masks` prunes and those that `frozen` holds.

        Args:
            model: whose parameters.
            masks: True = kept.
            frozen: True = may not move.
            only: globs of the parameters that may move, such as `fc.*`; none = all.

        Raises:
            KeyMismatch: a mask names no parameter of the model or has another shape.
            BadRequest: nothing may move.
        """
        trainable = {name: p.shape for name, p in model.named_parameters() if p.requires_grad and p.is_floating_point()}
        shapes = {name: shape for name, shape in trainable.items() if not only or any(fnmatchcase(name, glob) for glob in only)}
        still = frozen or MaskSet()
        _require_fit(model, masks)
        _require_fit(model, still)
        free = {name: _free(name, shape, masks, still) for name, shape in shapes.items() if name in masks or name in still}
        coordinates = cls(shapes, {name: mask.reshape(-1).nonzero().reshape(-1) for name, mask in free.items()})
        if coordinates.count == 0:
            why = f"No trainable parameter is called {' or '.join(only)}." if only else "Everything is frozen or pruned."
            raise BadRequest("The model has no weight that may move.", why, "Unfreeze or name a parameter.")
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

    def taken_from(self, wider: Coordinates, flat: Float[Tensor, " wide"]) -> Float[Tensor, " d"]:
        """The entries of a vector over `wider` coordinates that are among these."""
        zeros = {name: torch.zeros(shape, dtype=flat.dtype) for name, shape in wider.shapes.items()}
        return self.flatten(wider.moved(zeros, flat))

    def free_of(self, frozen: MaskSet) -> Bool[Tensor, " d"]:
        """Where the vector's weights are not frozen."""
        still = {name: frozen[name].float() if name in frozen else torch.zeros(shape) for name, shape in self.shapes.items()}
        return self.flatten(still) == 0

    def spread(self, rows: Float[Tensor, "n d"]) -> dict[str, Float[Tensor, "n ..."]]:
        """Rows in the shapes of the parameters, name by name; zero outside the coordinates."""
        result, start = {}, 0
        for name, shape in self.shapes.items():
            width = len(self.kept[name]) if name in self.kept else shape.numel()
            part, start = rows[:, start : start + width], start + width
            if name in self.kept:
                part = torch.zeros(len(rows), shape.numel(), dtype=rows.dtype).index_copy_(1, self.kept[name], part)
            result[name] = part.reshape(len(rows), *shape)
        return result

    def moved(self, tensors: Mapping[str, Tensor], step: Float[Tensor, " d"]) -> dict[str, Tensor]:
        """Copies of the parameters with `step` added; positions outside the coordinates keep their exact value."""
        result, start = {}, 0
        for name, shape in self.shapes.items():
            width = len(self.kept[name]) if name in self.kept else shape.numel()
            flat, part = tensors[name].detach().reshape(-1), step[start : start + width]
            moved = flat.index_add(0, self.kept[name].to(flat.device), part.to(flat)) if name in self.kept else flat + part.to(flat)
            result[name], start = moved.reshape(shape), start + width
        return result


def per_sample_gradients(
    model: nn.Module, inputs: Num[Tensor, "n ..."], targets: Num[Tensor, "n *a"], coordinates: Coordinates, *, chunk: int = 0
) -> Iterator[Float[Tensor, "rows d"]]:
    """Gradients of each sample's cross-entropy (nats), chunk by chunk, in sample order; the model is left as it was.

    Args:
        model: classifier returning logits [n, outputs].
        inputs: samples as the model expects them.
        targets: labels; or attributes, whose cross-entropies are added up: the loss of a sample is -ln of the chance of all its answers.
        coordinates: which parameters, in which order.
        chunk: rows at a time; 0 = as many as `CHUNK_NUMBERS` allows.
    """
    quiet = copy_of(model).eval().requires_grad_(False)  # what is not among the coordinates needs no graph
    parameters = {name: p.detach() for name, p in quiet.named_parameters() if name in coordinates.shapes}
    rows = chunk or max(1, min(256, CHUNK_NUMBERS // coordinates.count))
    device = next(iter(parameters.values())).device
    for start in range(0, len(inputs), rows):
        some = slice(start, start + rows)
        yield _rows(quiet, parameters, as_taken_by(quiet, inputs[some]), targets[some].to(device), coordinates)


def gradient_sum(
    model: nn.Module, inputs: Num[Tensor, "n ..."], targets: Num[Tensor, "n *a"], coordinates: Coordinates, *, batch: int = 0
) -> Float[Tensor, " d"]:
    """The sum of what `per_sample_gradients` gives, by ordinary backward passes: float64, on the CPU.

    Args:
        model, inputs, targets, coordinates: as there.
        batch: samples of one pass; 0 = 100, of short rows more: pictures would take memory for every layer.
    """
    batch = batch or (small_batch(inputs, FEW) if inputs.ndim == 2 else FEW)
    quiet = copy_of(model).eval()
    parameters = {name: p for name, p in quiet.named_parameters() if name in coordinates.shapes}
    total = torch.zeros(coordinates.count, dtype=torch.float64)
    order = order_for(quiet, inputs if len(inputs) > batch else inputs[:0])  # for fewer it is not worth the trial
    for some, right in zip(inputs.split(batch), targets.split(batch), strict=True):
        logits = quiet(order(as_taken_by(quiet, some)))
        loss = loss_of(logits, right.to(logits.device), reduction="sum")
        found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
        pairs = zip(parameters.items(), found, strict=True)
        total += coordinates.flatten({name: torch.zeros_like(p) if g is None else g for (name, p), g in pairs}).double().cpu()
    return total


def _rows(model: nn.Module, parameters: dict[str, Tensor], x: Tensor, y: Tensor, coordinates: Coordinates) -> Tensor:
    def loss(values: dict[str, Tensor], sample: Tensor, target: Tensor) -> Tensor:
        logits: Tensor = functional_call(model, values, (sample.unsqueeze(0),))
        return loss_of(logits, target.unsqueeze(0), reduction="sum")

    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "There is a performance drop", UserWarning)  # operations that are batched one by one
            gradients = vmap(grad(loss), in_dims=(None, 0, 0))(parameters, x, y)
    except (RuntimeError, NotImplementedError):  # layers vmap cannot batch (recurrent ones, data-dependent branches, counters)
        each = [_gradient(loss, parameters, sample, target) for sample, target in zip(x, y, strict=True)]
        gradients = {name: torch.stack([g[name] for g in each]) for name in parameters}
    rows = coordinates.flatten(gradients, batched=True)
    return rows.to(torch.promote_types(rows.dtype, torch.float32))  # products of what has eight bits would keep as few


def _gradient(loss: Callable[..., Tensor], parameters: Mapping[str, Tensor], sample: Tensor, target: Tensor) -> dict[str, Tensor]:
    """By an ordinary backward pass, which takes whatever a network writes into itself."""
    leaves = {name: p.detach().requires_grad_() for name, p in parameters.items()}
    with torch.enable_grad():
        value = loss(leaves, sample, target)
    if not value.requires_grad:  # the sample takes a way past all of them
        return {name: torch.zeros_like(p) for name, p in parameters.items()}
    found = torch.autograd.grad(value, list(leaves.values()), allow_unused=True, materialize_grads=True)
    return dict(zip(leaves, found, strict=True))


def _free(name: str, shape: torch.Size, masks: MaskSet, frozen: MaskSet) -> Bool[Tensor, "..."]:
    """Where a parameter may move."""
    kept = masks[name].cpu() if name in masks else torch.ones(shape, dtype=torch.bool)
    return kept & ~frozen[name].cpu() if name in frozen else kept


def _require_fit(model: nn.Module, masks: MaskSet) -> None:
    shapes = {name: p.shape for name, p in model.named_parameters()}
    wrong = [name for name in masks if shapes.get(name) != masks[name].shape]
    if wrong:
        raise KeyMismatch(
            f"{len(wrong)} of {len(masks)} masks do not fit the model, first {wrong[0]!r}: mask {tuple(masks[wrong[0]].shape)}.",
            f"The model's parameter is {tuple(shapes[wrong[0]]) if wrong[0] in shapes else 'absent'}.",
            "Use the masks that belong to this model.",
        )
