"""Torch files that are one checkpoint (`pytorch_model-00001-of-00002.bin` and their index): their tensors as one, written anew."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sparsify_cli.errors import UnreadableFile
from sparsify_cli.values.atomic import replace_file
from sparsify_cli.values.layout import Key, Layout, Place
from sparsify_cli.values.model_config import transposed_weights
from sparsify_cli.values.shard_files import origins_of, sizes_of
from sparsify_cli.values.shard_index import read_map, require_agreement, shards_of, written_index
from sparsify_cli.values.torch_file import rewrite, torch_layout

INDEX = ".bin.index.json"
"""How the name of an index of such files ends."""


def read_shards(path: Path, *, trust: bool = False) -> dict[str, Layout]:
    """The layout of every file that an index names, in the order of their first use.

    Raises:
        MissingFile: there is no such index.
        UnreadableFile: it or a shard is damaged, a shard is missing or elsewhere, or index and shards contradict each other.
        UnsafePickle: a shard names code and `trust` is False.
    """
    weight_map, _ = read_map(path)
    layouts = {shard: torch_layout(path.parent / shard, trust=trust) for shard in dict.fromkeys(weight_map.values())}
    for shard, layout in layouts.items():
        if inner := next((keys for keys in layout.tables if keys), None):
            why = f"Its shard {shard} holds tensors under {'.'.join(inner)!r}, not at the top as a shard does."
            raise UnreadableFile(f"{path} cannot be read.", why, "Name that file itself.")
    require_agreement(path, weight_map, {shard: frozenset((*layout.tables.get((), ()), *layout.odd)) for shard, layout in layouts.items()})
    return layouts


def joined_torch(
    kind: str, path: Path, layouts: Mapping[str, Layout], *, companions: tuple[str, ...] = (), others: Mapping[str, str] | None = None
) -> Layout:
    """The layout of one or several torch files of one folder as one checkpoint.

    Args:
        kind: name of the format.
        path: the file or folder that was named.
        layouts: name of each file -> its layout.
        companions, others: as in `Layout`.
    """
    files, root = tuple(sorted(layouts)), path if path.is_dir() else path.parent
    every = [layouts[file] for file in files]
    tables: dict[Key, dict[str, Place]] = {}
    for layout in every:
        for keys, table in layout.tables.items():
            tables.setdefault(keys, {}).update(table)
    return Layout(
        kind=kind,
        path=path,
        root=root,
        files=files,
        tables=tables,
        companions=companions,
        others={name: what for layout in every for name, what in layout.others.items() if name or len(every) == 1} | dict(others or {}),
        odd={name: why for layout in every for name, why in layout.odd.items()},
        checks=tuple(check for layout in every for check in layout.checks),
        hints=transposed_weights(root, {name: place for table in tables.values() for name, place in table.items()}),
        foreign=tuple(dict.fromkeys(name for layout in every for name in layout.foreign)),
    )


def write_shards(layout: Layout, table: Key, tensors: Mapping[str, Any], folder: Path, *, others: bool, index: str = "") -> None:
    """Write the files of a layout anew, each tensor into the file that it or what it was made of came from.

    Args:
        layout: of the original, which is still there.
        table: keys of the table that is replaced.
        tensors: name -> torch tensor; all that the table holds from now on.
        folder: where to write.
        others: True = everything else stays.
        index: name of the index, written last; nothing without one.

    Raises:
        Infeasible: something else in a file needs code to be loaded, so it cannot stay.
        DiskFailure: the file system refused.
    """
    places = layout.tables[table]
    homes = shards_of(tensors, {name: place.file for name, place in places.items()}, origins_of(places))
    for file in layout.files:
        mine = {name: tensors[name] for name, home in homes.items() if home == file}
        rewrite(layout.root / file, folder / file, table, mine, others=others)
    if index:
        old, _ = read_map(layout.root / index)
        odd = {name: shard for name, shard in old.items() if others and name in layout.odd}
        text = written_index(layout.root / index, {**odd, **homes}, sizes_of(tensors, homes), others=others)
        replace_file(folder / index, lambda temporary: temporary.write_bytes(text))
