"""Writing weights the way they came: the original's format, names, wrapper, types, shards and sharing."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from sparsify_cli.contracts.format import Format
from sparsify_cli.errors import Infeasible
from sparsify_cli.shelf import Shelf
from sparsify_cli.stages.opening import common_prefix
from sparsify_cli.values.artifact import RESERVED
from sparsify_cli.values.atomic import disk_failures, replace_file
from sparsify_cli.values.checkpoint import Checkpoint, Home
from sparsify_cli.values.layout import Key, Layout
from sparsify_cli.values.mapped import mapped
from sparsify_cli.values.model_config import plain_config
from sparsify_cli.values.packed import bits, differing
from sparsify_cli.values.patch_file import write_patched
from sparsify_cli.values.small_floats import stored_as

SUBFOLDER = "model"
"""Where files go that would stand in the way of an artifact's own."""


@dataclass(frozen=True)
class Written:
    """Weights on disk.

    Args:
        file: what to open, seen from the artifact's folder.
        parts: the files that hold numbers.
        entry: dotted keys inside it that were asked for.
        names: name when it is opened -> name in the artifact, where they differ.
    """

    file: str
    parts: tuple[str, ...]
    entry: str = ""
    names: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        extra = {key: value for key, value in (("entry", self.entry), ("names", dict(self.names))) if value}
        return {"file": self.file, "parts": list(self.parts), **extra}


def write_like(folder: Path, checkpoint: Checkpoint, home: Home, *, entry: str = "", others: bool = True) -> Written:
    """Write the tensors of a checkpoint into files of the kind they came from.

    Args:
        folder: the artifact's.
        checkpoint: what the tensors are now.
        home: where they came from.
        entry: the table that was asked for.
        others: what lies beside the weights stays.

    Raises:
        Infeasible: the kind cannot be written anew, and has to be because entries are folded or dropped.
    """
    base = base_of(folder, home.layout)
    alone = not home.layout.others and len(home.layout.tables) == 1
    if home.folds or not (others or alone):
        _rebuild(base, checkpoint.tensors, home, others=others)
    else:
        write_patched(home.layout, base, _changes(checkpoint.tensors, home))
    copy_companions(home.layout, base, plain=any(fold.kind == "sparse-bitmask" for fold in home.folds))
    return written(folder, home, entry=entry)


def base_of(folder: Path, layout: Layout) -> Path:
    """The folder for the files of a layout: the artifact's own, or one inside it; it is there afterwards."""
    clashes = any(name in RESERVED or name.startswith(".") for name in (*layout.files, *layout.companions))
    base = folder / SUBFOLDER if layout.path.is_dir() or clashes else folder
    with disk_failures(base):
        base.mkdir(exist_ok=True)
    return base


def written(folder: Path, home: Home, *, entry: str) -> Written:
    """What a later verb has to know of files written like a home's."""
    base, layout = base_of(folder, home.layout).relative_to(folder), home.layout
    main = base if layout.path.is_dir() else base / layout.path.name
    prefix = _prefix(home)
    names = {theirs.removeprefix(prefix): ours for ours, theirs in home.names.items()}
    names = {theirs: ours for theirs, ours in names.items() if theirs != ours}
    return Written(main.as_posix(), tuple((base / name).as_posix() for name in layout.files), entry, names)


def copy_companions(layout: Layout, base: Path, *, plain: bool = False) -> None:
    """Files that go with the weights, unchanged; a config loses what it says of a packing that is gone.

    Args:
        layout: of the original.
        base: where they go.
        plain: the weights were stored packed and are plain now.
    """
    for name in layout.companions:
        if (base / name).exists():  # an index that was written anew
            continue
        (base / name).parent.mkdir(parents=True, exist_ok=True)
        if plain and name == "config.json":
            text = plain_config((layout.root / name).read_text(encoding="utf-8", errors="surrogateescape"))
            replace_file(base / name, lambda path, text=text: path.write_text(text, encoding="utf-8", errors="surrogateescape"))  # type: ignore[misc]
        else:
            replace_file(base / name, lambda path, name=name: shutil.copyfile(layout.root / name, path))  # type: ignore[misc]


def _prefix(home: Home) -> str:
    """The prefix that is removed from every name when the files are opened."""
    masks = {part for fold in home.folds for part in fold.parts[1:]}
    return common_prefix([home.names.get(name, name) for name in home.places if name not in masks])


def _changes(tensors: Mapping[str, Tensor], home: Home) -> dict[str, Any]:
    """Name -> place and new bits of every tensor that is not what it was."""
    before = mapped(home.layout.root, home.places)
    changes = {}
    for name, place in home.places.items():
        if name in tensors:
            now = stored_as(tensors[name].detach(), before[name].dtype)
            if differing(before[name], now):
                changes[name] = (place, bits(now))
    return changes


def _rebuild(base: Path, tensors: Mapping[str, Tensor], home: Home, *, others: bool) -> None:
    kind: Format = Shelf("formats").load(home.layout.kind)()
    theirs = {home.names.get(name, _prefix(home) + name): tensor for name, tensor in tensors.items()}
    kind.rebuild(home.layout, _table(home), theirs, base, others=others)


def _table(home: Home) -> Key:
    """The one table that holds the tensors.

    Raises:
        Infeasible: they lie in several.
    """
    tables = [key for key in home.layout.tables if key[: len(home.wrapper)] == home.wrapper]
    if len(tables) > 1:
        raise Infeasible(
            f"{home.layout.path} cannot be written anew: its weights lie in {len(tables)} tables ({', '.join(map('.'.join, tables[:3]))}).",
            "Entries of it are folded or dropped.",
            "Choose one of them with --entry, or --save-as safetensors.",
        )
    return tables[0]
