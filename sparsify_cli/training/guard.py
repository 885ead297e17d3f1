"""The guard: no optimizer moves a masked or a frozen weight, whatever its momentum or decay.

Masking gradients is not enough: SGD momentum left from before a mask change keeps pushing, and decoupled decay never
passes through the gradient. So after every optimizer step masked weights become exact zeros, frozen weights get their
stored bits back, and the optimizer's memory of both (momentum, moments) is zeroed. Gradients are masked before the step
as well, for what looks at a gradient as a whole (norm clipping, for instance).

Source: house rule 4. Peste et al. 2021 (AC/DC, arXiv 2106.12379), official code, re-applies masks to weights after
every step; zeroing the optimizer's state as well is ours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from sparsify_cli.errors import BadRequest, KeyMismatch
from sparsify_cli.training import loss_scale, movement
from sparsify_cli.values.mask_set import MaskSet
from sparsify_cli.values.run import Run
from sparsify_cli.values.shards import apart, here, is_split, rows, whole


def freeze(weights: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    """What `Run.frozen` holds: where each mask is True, and the values there now.

    Args:
        weights: current tensors by name.
        masks: name -> bool tensor of the weight's shape, True = freeze.

    Returns:
        name -> (bool positions, 1-D values in row order), copies.
    """
    return {name: (mask.clone(), whole(weights[name].detach())[mask].clone()) for name, mask in masks.items()}


def descend(run: Run, loss: Callable[[], Tensor]) -> Tensor:
    """One guarded optimizer step; returns the loss it stepped on, detached."""
    value = gradients(run, loss)
    update(run)
    return value


def gradients(run: Run, loss: Callable[[], Tensor]) -> Tensor:
    """Fresh gradients of a loss, part by part where a batch is computed in parts; returns the loss, detached."""

    def compute(scale: float) -> Tensor:
        run.optimizer.zero_grad(set_to_none=True)
        values = []
        for part in getattr(loss, "parts", (loss,)):
            with apart():
                value: Tensor = part()
                run.backward(value if scale == 1 else value * scale)
            values.append(value.detach())
        return torch.stack(values).sum()

    return loss_scale.scaled(run, compute)


def update(run: Run) -> None:
    """The optimizer's step on the gradients there are: masked, clipped if asked for, and guarded."""
    mask_gradients(run)
    movement.gather(run)
    if run.clip:
        nn.utils.clip_grad_norm_([p for p in run.model.parameters() if p.grad is not None], run.clip)
    run.optimizer.step()
    enforce(run)


def mask_gradients(run: Run) -> None:
    """Zero the gradients of masked and frozen weights, before the optimizer step."""
    for parameter, still in _still(run):
        if parameter.grad is not None:
            parameter.grad.masked_fill_(still, 0)


@torch.no_grad()
def enforce(run: Run) -> None:
    """Zero masked weights, restore frozen ones bit for bit, and zero the optimizer state of both; after every step."""
    parameters = dict(run.model.named_parameters())
    for parameter, still in _still(run):
        for moment in _moments(run.optimizer, parameter):
            moment.masked_fill_(still, 0)
    for name, mask in run.masks.items():
        parameters[name].masked_fill_(~mask, 0)
    for name, (positions, values) in run.frozen.items():
        put_back(parameters[name], positions, values)


def place(run: Run) -> None:
    """Check masks and frozen values against the model and move them to its device; after either changes, before `enforce`.

    Frozen positions may also be given as flat indices; they become a bool tensor of the weight's shape.

    Raises:
        KeyMismatch: a mask or frozen tensor names no parameter, or has another shape or size.
        BadRequest: a frozen weight is masked out.
    """
    parameters = dict(run.model.named_parameters())
    _check_names([*run.masks, *run.frozen], parameters)
    run.masks = MaskSet({name: _same_shape(name, mask, parameters[name]) for name, mask in run.masks.items()})
    run.frozen = {name: _fitted(name, parameters[name], *pair) for name, pair in run.frozen.items()}
    lost = sum(int((positions & ~run.masks[name]).sum()) for name, (positions, _) in run.frozen.items() if name in run.masks)
    if lost:
        raise BadRequest(f"The masks drop {lost} frozen weights.", "A frozen weight belongs to a network that must not change.")


def _still(run: Run) -> Iterator[tuple[nn.Parameter, Bool[Tensor, "..."]]]:
    """Each parameter with a mask or frozen values, and where it must stay as it is."""
    for name, parameter in run.model.named_parameters():
        if name in run.masks:
            yield parameter, ~run.masks[name]
        if name in run.frozen:
            yield parameter, run.frozen[name][0]


@torch.no_grad()
def put_back(parameter: Tensor, positions: Bool[Tensor, "..."], values: Tensor) -> None:
    """Stored values at their positions, in row order; of a split parameter those of the rows that lie here."""
    if not is_split(parameter):
        parameter.masked_scatter_(positions, values)
        return
    part = rows(parameter)
    before = int(positions[: part.start].sum())
    here(parameter).masked_scatter_(positions[part], values[before:])


def _moments(optimizer: torch.optim.Optimizer, parameter: nn.Parameter) -> Iterator[Tensor]:
    """What the optimizer remembers of each weight: state tensors of the parameter's shape."""
    for key, value in optimizer.state.get(parameter, {}).items():
        if key != "step" and isinstance(value, Tensor) and value.shape == parameter.shape:
            yield value


def _check_names(names: list[str], parameters: Mapping[str, nn.Parameter]) -> None:
    strange = sorted(set(names) - set(parameters))
    if strange:
        raise KeyMismatch(f"{len(strange)} masked or frozen tensors are no parameters of the model, first {strange[0]!r}.")


def _same_shape(name: str, mask: Tensor, parameter: nn.Parameter) -> Tensor:
    if mask.shape == parameter.shape:
        return mask.to(parameter.device)
    raise KeyMismatch(f"The mask of {name!r} has shape {tuple(mask.shape)}, the weight {tuple(parameter.shape)}.")


def _fitted(name: str, parameter: nn.Parameter, positions: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    if positions.dtype != torch.bool:
        order = positions.argsort()
        flat = torch.zeros(parameter.numel(), dtype=torch.bool).index_fill_(0, positions.cpu(), True)
        positions, values = flat.reshape(parameter.shape), values[order]
    positions = _same_shape(name, positions, parameter)
    if values.numel() != int(positions.sum()):
        raise KeyMismatch(f"{values.numel()} frozen values are stored for {int(positions.sum())} positions of {name!r}.")
    return positions, values.to(device=parameter.device, dtype=parameter.dtype)
