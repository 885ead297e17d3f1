"""Padding: which positions of a batch of token ids are real.

Known where the network's embeddings agree on one padding id, or where it says so itself (`config.pad_token_id`, as networks of the
transformers library do). Rows of a layer's inputs at padded positions are no evidence of what the layer is used for.
"""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Bool, Int
from torch import Tensor, nn

from sparsify_cli.maths.gram import CONVOLUTIONS


def padding_id(module: nn.Module) -> int | None:
    """The id of padding, or None where the network knows none."""
    said = getattr(getattr(module, "config", None), "pad_token_id", None)
    if isinstance(said, int):
        return said
    known = {part.padding_idx for part in module.modules() if isinstance(part, nn.Embedding) and part.padding_idx is not None}
    return known.pop() if len(known) == 1 else None


def real_positions(module: nn.Module, batch: Tensor) -> Bool[Tensor, "n length"] | None:
    """Positions that are no padding; None where the samples are no token ids or no id is known to be padding."""
    absent = padding_id(module)
    if absent is None or batch.ndim != 2 or batch.is_floating_point() or batch.is_complex():
        return None
    return batch != absent


def counted(module: nn.Module, batch: Tensor, out: Tensor) -> Int[Tensor, "n length"] | None:
    """Where the tokens that a network puts out count, as targets would say it: -1 at padding, else 0; None where nothing is known to be."""
    real = real_positions(module, batch)
    return None if real is None or out.shape[:2] != real.shape else real.long() - 1


def only_real(layer: nn.Module, inputs: Tensor, real: Bool[Tensor, "n length"] | None) -> Tensor:
    """A layer's inputs at real positions, [rows, features]; all of them where they are no positions of the batch.

    Args:
        layer: a convolution's positions overlap, so that all of its inputs count.
        inputs: [n, length, features], [length, n, features] as networks do whose sequences come first, or [n x length, features].
        real: as `real_positions` gives it.
    """
    if real is None or isinstance(layer, CONVOLUTIONS):
        return inputs
    for mask in (real, real.T, real.reshape(-1)):
        if inputs.ndim == mask.ndim + 1 and inputs.shape[:-1] == mask.shape:
            found: Tensor = inputs[mask.to(inputs.device)]
            return found
    return inputs


def batches_of(inputs: Tensor, size: int) -> Sequence[Tensor]:
    """Inputs in batches of about `size`, none of which has as many samples as a sequence is long: it shows which axis is which."""
    length = inputs.shape[1] if inputs.ndim == 2 and not inputs.is_floating_point() else 0
    for each in range(size, 0, -1):
        if length not in (each, len(inputs) % each, len(inputs) if len(inputs) < each else 0):
            size = each
            break
    parts: Sequence[Tensor] = inputs.split(size)
    return parts
