"""The Gram matrix of a layer's inputs: X X^T / n, float64, columns in the order of the matrix view.

    rows     one a multiplication with the weight: a sample, a token, or a position a convolution's kernel visits
    columns  kernel positions x input channels, channels fastest, as in `matrix_view.to_matrix`
    groups   a grouped convolution, or an attention between two sequences, multiplies each part of its outputs with other inputs: one
             Gram matrix a group

With the rows x, a layer puts out `to_matrix(weight) @ x` (without bias), and a change D of the matrix view changes the
outputs by a mean square of trace(D gram D^T).

Source: Hassibi and Stork 1993 (optimal brain surgeon) and Frantar and Alistarh 2023 (arXiv 2301.00774), who use
H = 2 X X^T (/ n). Differs: no factor 2, n = rows, float64, damping relative to the mean diagonal of live inputs, and the
Cholesky factor of H^-1 is reached without forming H^-1.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn
from torch.nn import functional

from sparsify_cli.errors import Anomalous
from sparsify_cli.maths.triangular import upper_inverse

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
SIDE_BY_SIDE = "inputs_side_by_side"
"""How many inputs a layer that is no convolution multiplies by as many parts of its weight; layers without it have one."""
CHUNK = 2**22
"""Numbers of unfolded input that are held at a time; 32 MiB in float64."""


def has_gram(layer: nn.Module) -> bool:
    """True for layers whose inputs can be written as rows: linear ones, stored either way, and convolutions (not transposed ones)."""
    return isinstance(layer, (nn.Linear, *CONVOLUTIONS)) or is_turned(layer)


def is_turned(layer: nn.Module) -> bool:
    """True for a linear layer that stores its weight [in, out]: what transformers calls Conv1D."""
    weight = getattr(layer, "weight", None)
    return type(layer).__name__ == "Conv1D" and isinstance(weight, Tensor) and weight.ndim == 2


def gram_shape(layer: nn.Module) -> tuple[int, ...]:
    """The shape of a layer's Gram matrix: [columns, columns], or [groups, columns, columns] where it is one in groups."""
    groups, columns = groups_of(layer), _weight(layer).shape[0] if is_turned(layer) else _weight(layer)[0].numel()
    return (groups, columns, columns) if groups > 1 else (columns, columns)


def input_rows(layer: nn.Module, inputs: Shaped[Tensor, "..."]) -> Shaped[Tensor, "groups rows columns"]:
    """The rows a layer multiplies its weight with, for inputs as its forward takes them.

    Args:
        layer: one that `has_gram`.
        inputs: [..., features] of a linear layer, groups side by side; [n, channels, *size] of a convolution (or one such sample).
    """
    if not isinstance(layer, CONVOLUTIONS):
        return _linear_rows(layer, inputs)
    windows = _windows(layer, _batched(layer, inputs))
    return _by_group(layer, windows.movedim(1, -1).flatten(0, len(layer.kernel_size)))


def chosen_rows(
    layer: nn.Module, inputs: Shaped[Tensor, "..."], generator: torch.Generator, share: float, real: Bool[Tensor, "..."] | None = None
) -> Int[Tensor, " chosen"]:
    """Which rows are taken, ascending; of positions [n, length] that are no padding, where there is a row for each of them."""
    count = row_count(layer, inputs)
    taken = torch.ones(count, dtype=torch.bool) if share >= 1 else torch.rand(count, generator=generator) < share
    if real is not None and real.numel() == count:
        turned = real.ndim == 2 and inputs.shape[:2] == real.shape[::-1] != real.shape  # [length, n, features]
        taken &= (real.T if turned else real).reshape(-1).cpu()
    return taken.nonzero().reshape(-1)


def row_count(layer: nn.Module, inputs: Shaped[Tensor, "..."]) -> int:
    """Rows that inputs have: samples, tokens, or positions of a kernel."""
    if not isinstance(layer, CONVOLUTIONS):
        return inputs.numel() // inputs.shape[-1]
    samples = _batched(layer, inputs)
    return len(samples) * math.prod(_windows(layer, samples[:1]).shape[2 : 2 + len(layer.kernel_size)])


def rows_at(layer: nn.Module, inputs: Shaped[Tensor, "..."], where: Int[Tensor, " rows"]) -> Shaped[Tensor, "groups rows columns"]:
    """The rows of `input_rows` at some places, without the others."""
    where = where.to(inputs.device)
    if not isinstance(layer, CONVOLUTIONS):
        return _linear_rows(layer, inputs)[:, where]
    windows = _windows(layer, _batched(layer, inputs)).movedim(1, -1)
    places = torch.unravel_index(where, windows.shape[: len(layer.kernel_size) + 1])
    return _by_group(layer, windows[places])


def _linear_rows(layer: nn.Module, inputs: Shaped[Tensor, "..."]) -> Shaped[Tensor, "groups rows columns"]:
    groups = groups_of(layer)
    return inputs.reshape(-1, groups, inputs.shape[-1] // groups).movedim(1, 0)


def _by_group(layer: nn.Conv1d | nn.Conv2d | nn.Conv3d, rows: Shaped[Tensor, "..."]) -> Shaped[Tensor, "groups rows columns"]:
    """[rows, *kernel, channels] -> a matrix for each group, channels fastest."""
    by_group: Tensor = rows.unflatten(-1, (groups_of(layer), -1)).movedim(-2, 0).flatten(2)
    return by_group


def gram_sum(layer: nn.Module, inputs: Shaped[Tensor, "..."]) -> tuple[Float[Tensor, "..."], int]:
    """X X^T summed (not averaged) over the rows of some inputs, in float64 and of `gram_shape`, and how many rows there were."""
    shape = gram_shape(layer)
    total, count = torch.zeros(shape, dtype=torch.float64, device=inputs.device).reshape(-1, *shape[-2:]), 0
    for part in input_parts(layer, inputs):
        rows = input_rows(layer, part)
        for chunk in rows.split(max(1, CHUNK // (rows.shape[0] * rows.shape[2])), dim=1):
            precise = chunk.double()
            total += precise.mT @ precise
        count += rows.shape[1]
    return total.reshape(shape), count


def damped(gram: Float[Tensor, "columns columns"], damping: float) -> Float[Tensor, "columns columns"]:
    """H = gram + damping * m on the diagonal, m = mean diagonal over inputs that are ever active; the others get m themselves.

    Args:
        gram: X X^T / n, symmetric, positive semidefinite.
        damping: >= 0, without unit.
    """
    diagonal = gram.diagonal()
    live = diagonal > 0
    mean = diagonal[live].mean() if bool(live.any()) else torch.ones((), dtype=gram.dtype, device=gram.device)
    return gram + torch.diag(damping * mean + mean * ~live)


def inverse_factor(hessian: Float[Tensor, "columns columns"]) -> Float[Tensor, "columns columns"]:
    """The upper triangular R with H^-1 = R^T R: R_jj^2 is the j-th diagonal entry of the inverse of H[j:, j:].

    With J the reversal, J H J = L L^T gives H = U U^T for the upper triangular U = J L J, and R = U^-1.

    Raises:
        Anomalous: H is not positive definite.
    """
    lower, info = torch.linalg.cholesky_ex(hessian.flip(0, 1))
    if int(info) or not bool(lower.isfinite().all()):
        raise Anomalous(
            f"The Gram matrix of {len(hessian)} inputs has no inverse.", "Some inputs depend on others.", "Raise the solver's damping."
        )
    return upper_inverse(lower.flip(0, 1))


def output_change(change: Float[Tensor, "out columns"], gram: Float[Tensor, "columns columns"]) -> float:
    """trace(D gram D^T): the mean over rows of the squared change of all outputs when the weight changes by D."""
    precise = change.double()
    return float((precise @ gram * precise).sum())


def _weight(layer: nn.Module) -> Tensor:
    weight: Tensor = layer.weight  # type: ignore[assignment]
    return weight


def groups_of(layer: nn.Module) -> int:
    """Of convolutions, and of layers that multiply several inputs side by side; what other layers call groups is theirs."""
    return layer.groups if isinstance(layer, CONVOLUTIONS) else getattr(layer, SIDE_BY_SIDE, 1)


def _windows(layer: nn.Conv1d | nn.Conv2d | nn.Conv3d, inputs: Tensor) -> Tensor:
    """What the kernel sees: [n, channels, *positions, *kernel], padded as the layer pads."""
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    seen = functional.pad(inputs, list(layer._reversed_padding_repeated_twice), mode=mode)
    for axis, (size, stride, dilation) in enumerate(zip(layer.kernel_size, layer.stride, layer.dilation, strict=True), start=2):
        seen = seen.unfold(axis, dilation * (size - 1) + 1, stride)[..., ::dilation]
    return seen


def input_parts(layer: nn.Module, inputs: Tensor) -> tuple[Tensor, ...]:
    """The inputs, in parts whose windows fit in a chunk: stride 1, the most there is, repeats an input once a kernel position."""
    if not isinstance(layer, CONVOLUTIONS):
        return (inputs,)
    samples = _batched(layer, inputs)
    per_sample = samples[:1].numel() * _weight(layer)[0, 0].numel()
    parts: tuple[Tensor, ...] = samples.split(max(1, CHUNK // max(1, per_sample)))
    return parts


def _batched(layer: nn.Conv1d | nn.Conv2d | nn.Conv3d, inputs: Tensor) -> Tensor:
    return inputs[None] if inputs.ndim == len(layer.kernel_size) + 1 else inputs
