"""What the `config.json` of a Hugging Face folder says about its weights: which are transposed, and whether they are packed."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sparsify_cli.values.layout import Hint, Place

NAME = "config.json"
LIMIT = 1 << 24
"""Bytes of a config that are read."""

CONV1D_MODELS = frozenset(("gpt2", "openai-gpt", "imagegpt", "decision_transformer"))
"""Values of model_type whose projections are `Conv1D`: linear layers that store [in, out]."""

CONV1D = re.compile(r"(^|.*\.)h\.\d+\.((attn|crossattention)\.(c_attn|q_attn|c_proj)|mlp\.(c_fc|c_proj))\.weight")

SECTIONS = ("compression_config", "sparsity_config", "quantization_config")
BITMASK = "sparse-bitmask"


def transposed_weights(folder: Path, places: Mapping[str, Place]) -> dict[str, Hint]:
    """Weights of a network of the GPT-2 family, whose linear layers are stored [in, out]; nothing without such a config.

    A config that cannot be read says nothing.
    """
    if not _types(_config(folder / NAME)) & CONV1D_MODELS:
        return {}
    return {name: Hint("Conv1D", transposed=True) for name, place in places.items() if len(place.shape) == 2 and CONV1D.fullmatch(name)}


def plain_config(text: str) -> str:
    """A config without the entry that says that weights are stored as `sparse-bitmask`, for weights that are plain again.

    Args:
        text: of a config.json.

    Returns:
        The same text when there is no such entry, or when it is no JSON object.
    """
    try:
        config = json.loads(text)
    except (ValueError, RecursionError):
        return text
    if not isinstance(config, dict):
        return text
    plain = {key: _without_bitmask(value) if key in SECTIONS else value for key, value in config.items()}
    if plain == config:
        return text
    kept = {key: value for key, value in plain.items() if key not in SECTIONS or value is not None}
    return json.dumps(kept, indent=2, ensure_ascii=text.isascii()) + "\n" * text.endswith("\n")


def _without_bitmask(section: Any) -> Any:
    """A section that says something else too keeps that; None when it says nothing else."""
    if not isinstance(section, dict):
        return section
    if section.get("format") == BITMASK:
        return None
    inner = section.get("sparsity_config")
    if not isinstance(inner, dict) or inner.get("format") != BITMASK:
        return section
    rest = {key: value for key, value in section.items() if key != "sparsity_config"}
    return rest if rest.get("config_groups") else None


def _config(path: Path) -> Any:
    try:
        if not path.is_file() or path.stat().st_size > LIMIT:
            return None
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None


def _types(config: Any) -> set[str]:
    """The model_type of a config, and of the networks that it puts together."""
    if not isinstance(config, dict):
        return set()
    every = [config, *(part for part in config.values() if isinstance(part, dict))]
    return {kind for part in every if isinstance(kind := part.get("model_type"), str)}
