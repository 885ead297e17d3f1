"""Networks of the transformers library, called with one tensor and answering with one, like all others.

They answer with a mapping; its `logits` are meant. They take a mask beside the ids, without which padding is attended to;
it follows from the ids where the network's configuration says which id is padding.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from sparsify_cli.training.padding import real_positions


def plainly_called(module: nn.Module) -> nn.Module:
    """The same network, with hooks where it is one of the transformers library."""
    if any(base.__name__ == "PreTrainedModel" for base in type(module).__mro__):
        if "attention_mask" in inspect.signature(module.forward).parameters:
            module.register_forward_pre_hook(_with_mask, with_kwargs=True)
        module.register_forward_hook(_logits)
    return module


def _with_mask(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    real = real_positions(module, args[0]) if len(args) == 1 and isinstance(args[0], Tensor) else None
    return (args, kwargs) if real is None else (args, {"attention_mask": real.long(), **kwargs})


def _logits(_: nn.Module, __: tuple[Any, ...], output: Any) -> Any:
    return output["logits"] if isinstance(output, Mapping) and "logits" in output else output
