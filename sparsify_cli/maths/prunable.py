"""What is prunable without an architecture: names, types and shapes decide, and what the file's own graph says. Needs no torch.

Floating tensors of 2 to 5 dimensions are weights, unless they are called like norms, embeddings, positions or statistics, or
are one memory with a tensor that is called so.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import NamedTuple

from sparsify_cli.values.layout import FLOATS, Hint

OPERATORS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul", "LSTM", "GRU", "RNN", "Conv1D"})
"""Operators of a file's own graph whose weights are prunable."""

NOT_WEIGHTS = re.compile(
    r"(^|[._])(emb|embed\w*|shared|wte|wpe|pos\w*|\w*norm\w*|bn\d*|ln\d*\w*|running_\w+|token\w*|cls\w*|bias\w*|\w*basis\w*|\w*buffer)([._]|$)",
    re.IGNORECASE,
)
"""Names of tensors that are no weights whatever their shape."""

ORDERED = FLOATS - {"float8_e8m0fnu"}
"""Types whose numbers can be ranked by magnitude and can be zero."""


class Verdict(NamedTuple):
    """Whether a tensor is prunable, and why."""

    matched: bool
    why: str


def verdicts(
    tensors: Mapping[str, tuple[str, tuple[int, ...]]], aliases: Mapping[str, str], hints: Mapping[str, Hint]
) -> dict[str, Verdict]:
    """The verdict on each tensor.

    Args:
        tensors: name -> torch's word for its type, and its shape.
        aliases: second name of a tensor -> the name that stands for it.
        hints: what the file's graph says, by name.
    """
    found = {name: verdict(name, dtype, shape, hints.get(name)) for name, (dtype, shape) in tensors.items()}
    found |= {name: Verdict(False, f"tied to {first}") for name, first in aliases.items()}
    shared = {first: alias for alias, first in aliases.items() if NOT_WEIGHTS.search(alias)}
    return found | {name: Verdict(False, f"tied to {alias}") for name, alias in shared.items() if found[name].matched}


def verdict(name: str, dtype: str, shape: tuple[int, ...], hint: Hint | None = None) -> Verdict:
    """The verdict on one tensor that shares its memory with no other."""
    if why := no_matrix(dtype, shape):
        return Verdict(False, why)
    if hint is not None:
        return Verdict(True, f"{hint.operator} weight") if hint.operator in OPERATORS else Verdict(False, f"used by {hint.operator}")
    return Verdict(False, "named like no weight") if NOT_WEIGHTS.search(name) else Verdict(True, "looks like a weight")


def no_matrix(dtype: str, shape: tuple[int, ...]) -> str:
    """Why a tensor is no matrix of weights, whatever it is called; nothing when it is one."""
    size = math.prod(shape)
    reasons = {
        "not of a floating type": dtype not in FLOATS,
        "not a matrix": not 2 <= len(shape) <= 5,
        "empty": not size,
        "a vector": len(shape) > 2 and size == max(shape, default=0),
        "of a type without order": dtype not in ORDERED,
    }
    return next((why for why, holds in reasons.items() if holds), "")
