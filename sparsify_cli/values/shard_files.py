"""Safetensors files that are one checkpoint: their tensors as one table, and the files written anew."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from sparsify_cli.errors import Infeasible
from sparsify_cli.values.atomic import replace_file
from sparsify_cli.values.fold_names import find_folds
from sparsify_cli.values.layout import Layout, Place
from sparsify_cli.values.model_config import transposed_weights
from sparsify_cli.values.safetensors_header import Header, read_header
from sparsify_cli.values.safetensors_stream import stream_tensors, twins
from sparsify_cli.values.shard_index import shards_of, written_index
from sparsify_cli.values.strict_json import shown


def joined(
    kind: str, path: Path, headers: Mapping[str, Header], *, companions: tuple[str, ...] = (), others: Mapping[str, str] | None = None
) -> Layout:
    """The layout of one or several files of one folder.

    Args:
        kind: name of the format.
        path: the file or folder that was named.
        headers: name of each file -> its header.
        companions, others: as in `Layout`.
    """
    root = path if path.is_dir() else path.parent
    files = tuple(sorted(headers))
    places = {name: place for file in files for name, place in headers[file].places.items()}
    return Layout(
        kind=kind,
        path=path,
        root=root,
        files=files,
        tables={(): places},
        companions=companions,
        others=others or {},
        odd={name: why for file in files for name, why in headers[file].odd.items()},
        hints=transposed_weights(root, places),
        metadata={key: text for file in reversed(files) for key, text in headers[file].metadata.items()},
    )


def write_anew(layout: Layout, tensors: Mapping[str, Any], folder: Path, *, others: bool, index: str = "") -> None:
    """Write the files of a layout with other tensors, each into the file that it or what it was made of came from.

    A file that nothing goes to any more is written without tensors, and no index names it.
    Memory of one tensor is needed when `tensors` reads on demand.

    Args:
        layout: of the original, which is still there.
        tensors: name -> torch tensor; all that the checkpoint holds from now on.
        folder: where to write.
        others: False = of the metadata only `format` stays, and nothing of the index.
        index: name of the index, written last; nothing without one.

    Raises:
        Infeasible: a tensor of the original is of a type that torch has no word for.
        BadData: a type or layout that safetensors has no word for.
        DiskFailure: the file system refused.
    """
    _require_plain(layout)
    places = layout.tables[()]
    origins = origins_of(places)
    old = {name: place.file for name, place in places.items()}
    new = [name for name in tensors if origins.get(name, name) not in places]
    dropped = twins(tensors, new)
    homes = shards_of([name for name in tensors if name not in dropped], old or {"": layout.files[0]}, origins)
    for file in layout.files:
        names = [name for name, home in homes.items() if home == file]
        stream_tensors(folder / file, tensors, names, _metadata(layout.root / file, names, others=others))
    if index:
        text = written_index(layout.root / index, homes, sizes_of(tensors, homes), others=others)
        replace_file(folder / index, lambda temporary: temporary.write_bytes(text))


def origins_of(places: Mapping[str, Place]) -> dict[str, str]:
    """New names of folded tensors -> the first of the entries that they are folded from."""
    folds = find_folds({name: (place.dtype, place.shape) for name, place in places.items()})
    return {fold.name: fold.parts[0] for fold in folds}


def sizes_of(tensors: Mapping[str, Any], names: Iterable[str]) -> tuple[int, int]:
    """Bytes and numbers of some of the tensors."""
    counts = [(tensor.element_size(), math.prod(tensor.shape)) for tensor in (tensors[name] for name in names)]
    return sum(width * count for width, count in counts), sum(count for _, count in counts)


def _require_plain(layout: Layout) -> None:
    if layout.odd:
        name, why = next(iter(layout.odd.items()))
        raise Infeasible(f"{layout.path} cannot be written anew.", f"{shown(name)} is {why}.", "Leave names and shapes as they are.")


def _metadata(path: Path, names: list[str], *, others: bool) -> dict[str, str]:
    """Text entries that stay; what this tool wrote there names tensors, and stays only when they are the same."""
    header = read_header(path)
    same = header.names == frozenset(names)
    kept = {key: text for key, text in header.metadata.items() if key == "format" or (others and (same or key != "sparsify"))}
    return dict(sorted(kept.items()))
