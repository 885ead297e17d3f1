"""What lies in the folder of a checkpoint beside its weights: what goes along with them, and what stays behind and why.

Config, tokenizer, code and notes go along, also out of folders within. Copies of the weights in other kinds of file do not:
they hold what the weights were. Folders that `modules.json` names are layers of a sentence-transformers network (pooling,
dense layers); they go along with the weights in them. What is hidden is no part of a checkpoint, and
neither is a folder that this tool wrote, finished or not: a result within the folder that it was made from.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from sparsify_cli.values.artifact import is_artifact
from sparsify_cli.values.shard_index import leaves
from sparsify_cli.values.strict_json import NotJson, strict_json

KINDS = "safetensors|bin|pt|pth|th|ckpt|pkl|h5|hdf5|keras|msgpack|onnx|onnx_data|gguf|ggml|tflite|ot|pt2|pte|ts|jit|npz|mlmodel|nemo"
WEIGHTS = re.compile(rf".*\.({KINDS})(\.index\.json)?|.*\.(ckpt|onnx)\..*|.*\.(pt|pth|th)\.tar|.*\.(index|data-\d+-of-\d+)", re.IGNORECASE)
"""Files that hold weights, whatever the kind, and their indices."""

STATE = re.compile(r"(training_args|optimizer|scheduler|scaler|rng_state|tokenizer|vocab|merges|spiece)[\w-]*\.\w+")
"""Files of a training run or a tokenizer that are called like weights and are none."""

MODULES = "modules.json"
PARTIAL = "masks.partial"
COPY, LINK, FOLDER_LINK, OUTPUT = (
    "left out: dense copy of the weights",
    "left out: a link that leads out of the folder",
    "left out: a link to a folder",
    "left out: a folder that this tool wrote",
)
COUNT, SIZE, SEEN = 1_000, 1_000_000_000, 10_000
"""Files that go along, their bytes, and entries of a folder that are looked at; the smallest go first."""

TOO_MUCH = f"left out: more than {COUNT:,} files or {SIZE / 1e9:g} GB beside the weights"
MORE = "(more)"


@dataclass
class Beside:
    """What lies beside the weights of a folder.

    Args:
        carried: names of files that go along, relative to the folder, sorted.
        left: name -> why it stays behind.
    """

    carried: tuple[str, ...] = ()
    left: dict[str, str] = field(default_factory=dict)


def is_weights(name: str) -> bool:
    """True when a file is called like one that holds weights."""
    return WEIGHTS.fullmatch(name) is not None and STATE.fullmatch(name) is None


def beside(folder: Path, own: Collection[str]) -> Beside:
    """Everything in a folder that is not hidden, sorted into what goes along and what does not.

    Args:
        folder: of the checkpoint.
        own: names of the files that the weights are read from; they are neither.

    Raises:
        OSError: the folder cannot be read.
    """
    found = Beside()
    layers = _layers(folder)
    sizes: list[tuple[int, str]] = []
    for number, (name, entry) in enumerate(_entries(folder)):
        if number >= SEEN:
            found.left[MORE] = f"left out: more than {SEEN:,} entries"
            break
        if why := _obstacle(folder, name, entry, layers):
            found.left[name] = why
        elif name not in own and entry.is_file():
            sizes.append((entry.stat().st_size, name))
    for name in own:
        found.left.pop(name, None)
    found.carried = _within_bounds(sizes, found.left)
    return found


def _within_bounds(sizes: list[tuple[int, str]], left: dict[str, str]) -> tuple[str, ...]:
    """The smallest files, as far as there is room; the others are noted as left out."""
    carried: list[str] = []
    total = 0
    for size, name in sorted(sizes):
        total += size
        if len(carried) >= COUNT or total > SIZE:
            left[name] = TOO_MUCH
        else:
            carried.append(name)
    return tuple(sorted(carried))


def _entries(folder: Path) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Files and links of a folder and of folders within, by their path from the top, sorted; links are not followed.

    Folders that this tool wrote come as they are, with nothing of what is in them.
    """
    waiting = [""]
    while waiting:
        within = waiting.pop()
        with os.scandir(folder / within) as scanned:
            entries = sorted((entry for entry in scanned if not entry.name.startswith(".")), key=lambda entry: entry.name)
        for entry in entries:
            if entry.is_dir(follow_symlinks=False) and not _is_output(Path(entry.path)):
                waiting.append(f"{within}{entry.name}/")
            else:
                yield within + entry.name, entry


def _is_output(folder: Path) -> bool:
    """True for an artifact, also one that is being written."""
    return (folder / PARTIAL).is_file() or is_artifact(folder)


def _obstacle(folder: Path, name: str, entry: os.DirEntry[str], layers: Collection[str]) -> str:
    """Why a file stays behind; nothing when it need not."""
    if entry.is_dir(follow_symlinks=False):
        return OUTPUT
    if is_weights(entry.name) and name.partition("/")[0] not in layers:
        return COPY
    if entry.is_symlink() and leaves(folder, name):
        return LINK
    return FOLDER_LINK if entry.is_dir() else ""


def _layers(folder: Path) -> frozenset[str]:
    """Folders that hold layers of a sentence-transformers network."""
    path = folder / MODULES
    try:
        modules = strict_json(path.read_bytes()) if path.is_file() and path.stat().st_size <= 1 << 20 else []
    except (NotJson, OSError):
        return frozenset()
    listed = modules if isinstance(modules, list) else []
    paths = [module.get("path") for module in listed if isinstance(module, dict)]
    return frozenset(path.partition("/")[0] for path in paths if isinstance(path, str) and path)
