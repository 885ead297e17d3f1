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

LEAF = re.compile(r"weights?|kernel|weight_(orig|g|v)|original\d?|parametrizations|base_layer|original_module", re.IGNORECASE)
"""How the weights of a module are called; the word before it is the module's own."""

EMBEDDING = r"\w*emb(s|d|eds?|eddings?)?\d*(_in|_(tokens?|positions?|table|layer|matrix|lookup)\w*)?|(\w*_)?(tokens?|wte|wpe)|\w*codebooks?"
NORM = r"\w*norms?(?!\w*(proj|linear|conv|fc|dense|mlp))\w*|(\w*_)?(bn|ln)\d*(_\w+)?"
ANYWHERE = rf"{EMBEDDING}|{NORM}|\w*_table|\w*bias(es)?|\w*basis\w*|\w*buffer|running_\w+"

MODULES = re.compile(
    rf"(?!((\w*_)?patch_embed\w*|class_embed|bbox_embed)$)({ANYWHERE}|shared|pos|positions?|\w*pos(itional)?_enc\w*)", re.IGNORECASE
)
"""Modules whose matrices are no weights of layers; patch embeddings are convolutions, class and box embeddings (DETR) linear."""

LISTED = re.compile(r"(\w*_)?(embs?|tokens|wte|wpe|norms)|\w*(embeddings|codebooks)", re.IGNORECASE)
"""Modules that, numbered within a list, are no layers either; under `time_embed.0` lies a linear layer."""

OWN = re.compile(
    rf"{ANYWHERE}|bias\w*|cls|pe|pos|pos_\w+|\w*_pos(_\w+)?|(\w*_)?position\w*|\w*masks?|\w*freqs?(_\w+)?|a_log", re.IGNORECASE
)
"""Tensors that are not called weight and are none."""

LONGEST = 300
"""Characters of a name that are looked at, the last ones: matching takes the square of their number."""

ORDERED = FLOATS - {"float8_e8m0fnu"}
"""Types whose numbers can be ranked by magnitude and can be zero."""


def is_called_otherwise(name: str) -> bool:
    """True for a tensor that is called like a norm, an embedding, a position or a statistic.

    The last word of its name tells, and of one called weight its module's; what that module is part of says nothing.
    """
    *path, word = re.split(r"[./]", re.sub(r":\d+$", "", name[-LONGEST:]))
    if not LEAF.fullmatch(word):
        return (MODULES if word.endswith("_weight") else OWN).fullmatch(word.removesuffix("_weight")) is not None
    while path and LEAF.fullmatch(path[-1]):
        path.pop()
    numbered = len(path) > 1 and path[-1].isdigit()
    return bool(path) and (LISTED.fullmatch(path[-2]) if numbered else MODULES.fullmatch(path[-1])) is not None


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
    shared = {first: alias for alias, first in aliases.items() if is_called_otherwise(alias)}
    return found | {name: Verdict(False, f"tied to {alias}") for name, alias in shared.items() if found[name].matched}


def verdict(name: str, dtype: str, shape: tuple[int, ...], hint: Hint | None = None) -> Verdict:
    """The verdict on one tensor that shares its memory with no other."""
    if why := no_matrix(dtype, shape):
        return Verdict(False, why)
    if hint is not None:
        return Verdict(True, f"{hint.operator} weight") if hint.operator in OPERATORS else Verdict(False, f"used by {hint.operator}")
    return Verdict(False, "named like no weight") if is_called_otherwise(name) else Verdict(True, "looks like a weight")


def no_matrix(dtype: str, shape: tuple[int, ...]) -> str:
    """Why a tensor is no matrix of weights, whatever it is called; nothing when it is one."""
    if why := no_ranking(dtype, shape):
        return why
    if not 2 <= len(shape) <= 5:
        return "not a matrix"
    return "a vector" if len(shape) > 2 and math.prod(shape) == max(shape) else ""


def no_ranking(dtype: str, shape: tuple[int, ...]) -> str:
    """Why the numbers of a tensor cannot be ranked, whoever asks for it; nothing when they can."""
    reasons = {
        "not of a floating type": dtype not in FLOATS,
        "of a type without order": dtype not in ORDERED,
        "empty": not math.prod(shape),
    }
    return next((why for why, holds in reasons.items() if holds), "")
