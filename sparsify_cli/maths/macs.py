"""Multiply-accumulates per weight of each layer, from one forward pass: how often each of its weights is used for a sample.

    linear                 once for every row of inputs
    convolution            once at every position of the output, padding included; groups do not matter
    transposed convolution once at every position of the input, also where the output is cropped
    attention              its projections once for every token (the packed one on average over query, key and value)

A layer that is called several times has the sum. Bilinear layers, biases, norms, activations and the products of attention with itself,
which no mask of weights can spare, are not counted. Layers that are not called are absent.

Source: the counting of Evci et al. 2020 (arXiv 1911.11134), appendix on FLOPs: sum over layers of density x dense cost.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from sparsify_cli.values.arrays import as_taken_by

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def macs_per_weight(module: nn.Module, inputs: Tensor) -> dict[str, int]:
    """How often each weight is used for one sample; times the weights of a layer it is the layer's multiply-accumulates.

    Args:
        module: run once, in eval mode and without gradients, and left as it was.
        inputs: [n, ...] samples; the first is run.

    Returns:
        Name of the parameter -> uses of each of its weights, for every layer that the pass calls.
    """
    found: Counter[str] = Counter()
    modes = {part: part.training for part in module.modules()}
    with ExitStack() as after, torch.no_grad():
        after.callback(torch.backends.mha.set_fastpath_enabled, torch.backends.mha.get_fastpath_enabled())
        torch.backends.mha.set_fastpath_enabled(False)  # or torch's encoder cuts padding out, and no tensor has a shape
        for name, part in module.named_modules():
            after.callback(part.register_forward_hook(_counting(name, found), with_kwargs=True).remove)
        after.callback(_restore, modes)
        module.eval()(as_taken_by(module, inputs[:1]))
    return _by_first_name(module, found)


def _counting(name: str, found: Counter[str]) -> Callable[..., None]:
    def hook(part: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        for leaf, uses in _uses(part, (*args, *kwargs.values()), output).items():
            found[f"{name}.{leaf}".lstrip(".")] += uses

    return hook


def _uses(part: nn.Module, args: tuple[Any, ...], output: Any) -> dict[str, int]:
    """Uses of each weight of a layer by the leaf of its name; nothing for what is no layer."""
    if isinstance(part, nn.MultiheadAttention):
        return _attention_uses(part, *(tensor.numel() // tensor.shape[-1] for tensor in args[:3]))
    if isinstance(part, TRANSPOSED):
        return {"weight": args[0].numel() // part.in_channels}
    outputs = _outputs(part)
    return {"weight": output.numel() // outputs} if outputs else {}


def _outputs(part: nn.Module) -> int:
    """Output channels of a layer that uses each weight once for each of its output positions, else 0."""
    if isinstance(part, CONVOLUTIONS):
        return part.out_channels
    if isinstance(part, nn.Linear):
        return part.out_features
    # GPT-2's linear layers are of this class, which transformers and others define, and which is no nn.Linear.
    return int(getattr(part, "nf", 0)) if is_conv1d(part) else 0


def is_conv1d(part: nn.Module) -> bool:
    """True for GPT-2's linear layer, whatever class was made of it since (splitting among processes makes one)."""
    return any(base.__name__ == "Conv1D" for base in type(part).__mro__)


def _attention_uses(part: nn.MultiheadAttention, queries: int, keys: int, values: int) -> dict[str, int]:
    packed = {"in_proj_weight": (queries + keys + values) // 3}
    apart = {"q_proj_weight": queries, "k_proj_weight": keys, "v_proj_weight": values}
    return (packed if part.in_proj_weight is not None else apart) | {"out_proj.weight": queries}


def _restore(modes: dict[nn.Module, bool]) -> None:
    for part, training in modes.items():
        part.training = training


def _by_first_name(module: nn.Module, found: Counter[str]) -> dict[str, int]:
    """Counts under the first name of each parameter: a weight that two layers share is used by both."""
    every = dict(module.named_parameters(remove_duplicate=False))
    first = {id(parameter): name for name, parameter in module.named_parameters()}
    summed: Counter[str] = Counter()
    for name, uses in found.items():
        summed[first[id(every[name])] if name in every else name] += uses
    return dict(summed)
