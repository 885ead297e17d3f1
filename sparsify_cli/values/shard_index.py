"""The index of a checkpoint in several files (`model.safetensors.index.json`): which tensor lies in which shard.

    {"metadata": {"total_size": 24}, "weight_map": {"fc.weight": "model-00001-of-00002.safetensors", ...}}

An index is believed when it and the headers of its shards say the same, and when every shard lies in its own folder.
The index of torch files (`pytorch_model.bin.index.json`) is the same but for its name.

Source: Hugging Face, huggingface_hub, serialization; we refuse what contradicts itself, which it does not look for.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparsify_cli.errors import MissingFile, UnreadableFile
from sparsify_cli.values.file_kind import require_fetched
from sparsify_cli.values.model_config import plain_config
from sparsify_cli.values.safetensors_header import AGAIN, Header, read_header
from sparsify_cli.values.strict_json import NotJson, shown, strict_json

__all__ = ["Index", "leaves", "plain_config", "read_index", "read_map", "require_agreement", "shards_of", "written_index"]

LIMIT = 100_000_000
"""Bytes of an index that are read."""

SHOWN = 5
"""Names that a message lists."""


@dataclass(frozen=True)
class Index:
    """What an index and the headers of its shards agree on.

    Args:
        shards: names of files in the folder of the index, in the order of their first use.
        weight_map: name of a tensor -> its shard.
        total_size: bytes of all tensors as the index has it; None when it does not say.
        headers: what each shard says about itself.
    """

    shards: tuple[str, ...]
    weight_map: Mapping[str, str]
    total_size: int | None
    headers: Mapping[str, Header]


def read_index(path: Path) -> Index:
    """An index, and the header of every shard; no tensor is read.

    Raises:
        MissingFile: there is no such file.
        UnreadableFile: it is damaged, a shard is missing, damaged or elsewhere, or index and shards contradict each other.
    """
    weight_map, size = read_map(path)
    headers = {shard: read_header(path.parent / shard) for shard in dict.fromkeys(weight_map.values())}
    require_agreement(path, weight_map, {shard: header.names for shard, header in headers.items()})
    return Index(tuple(headers), weight_map, size, headers)


def read_map(path: Path) -> tuple[dict[str, str], int | None]:
    """What an index says: name of a tensor -> its shard, in its order, and bytes of all tensors; no shard is opened.

    Raises:
        MissingFile: there is no such file.
        UnreadableFile: it is damaged, or a shard is missing, never fetched, or elsewhere.
    """
    table = _table(path)
    weight_map: dict[str, str] = table["weight_map"]
    shards = dict.fromkeys(weight_map.values())
    for shard in shards:
        _require_inside(path, shard)
    if missing := [shard for shard in shards if not (path.parent / shard).is_file()]:
        do = "Fetch them again into the same folder."
        raise UnreadableFile(f"{path.parent} is incomplete.", f"{path.name} names {_listed(missing)}, not there as a file.", do)
    for shard in shards:
        require_fetched(path.parent / shard)
    size = table.get("metadata", {}).get("total_size")
    return weight_map, size if type(size) is int else None


def require_agreement(path: Path, weight_map: Mapping[str, str], held: Mapping[str, frozenset[str]]) -> None:
    """Refuse an index that contradicts its shards.

    Args:
        path: of the index.
        weight_map: name -> shard, as the index says.
        held: shard -> names that it holds.

    Raises:
        UnreadableFile: a shard lacks a tensor, holds one that belongs elsewhere, or one that the index does not name.
    """
    for shard, names in held.items():
        mapped = {name for name, file in weight_map.items() if file == shard}
        if missing := sorted(mapped - names):
            raise UnreadableFile(f"{path} is damaged.", f"It says that {shard} holds {_listed(missing)}, which that file does not.", AGAIN)
        if strays := sorted(names - mapped):
            where = f"puts it into {weight_map[strays[0]]}" if strays[0] in weight_map else "does not name it"
            raise UnreadableFile(
                f"{path} is damaged.", f"The shard {shard} holds {_listed(strays)}; the index {where}.", f"{AGAIN} All files together."
            )


def leaves(folder: Path, name: str) -> bool:
    """True when a file of a folder is a link to somewhere else.

    The cache of the Hugging Face hub is no elsewhere: there `snapshots/<revision>/<file>` links to `blobs/<hash>` beside `snapshots`.
    """
    try:
        home, target = folder.resolve(), (folder / name).resolve()
    except (OSError, RuntimeError):  # a loop of links
        return True
    return not target.is_relative_to(home) and not (home.parent.name == "snapshots" and target.parent == home.parent.parent / "blobs")


def shards_of(names: Iterable[str], old: Mapping[str, str], origins: Mapping[str, str]) -> dict[str, str]:
    """The shard that each tensor goes to when a checkpoint is written anew.

    Args:
        names: what it holds from now on.
        old: the shard that each tensor lay in; not empty.
        origins: new name -> the old name that it was made of.

    Returns:
        Name -> shard: the one its origin lay in; for a name of no origin, that of the old name with the longest same beginning.
    """
    ranked = sorted(old)
    return {name: old[origins.get(name, name) if origins.get(name, name) in old else _nearest(name, ranked)] for name in names}


def written_index(path: Path | None, weight_map: Mapping[str, str], sizes: tuple[int, int], *, others: bool) -> bytes:
    """The text of an index for tensors that were written anew.

    Args:
        path: the old index, whose further entries are kept; None for an index without any.
        weight_map: name -> shard.
        sizes: bytes and numbers of all tensors.
        others: False = nothing of the old index stays.

    Raises:
        MissingFile, UnreadableFile: the old index.
    """
    old = _table(path) if path is not None and others else {}
    about = {**old.get("metadata", {}), "total_size": sizes[0]}
    about |= {"total_parameters": sizes[1]} if "total_parameters" in about else {}
    table = {**old, "metadata": about, "weight_map": dict(sorted(weight_map.items()))}
    return (json.dumps(table, indent=2) + "\n").encode()


def _table(path: Path) -> dict[str, Any]:
    """The JSON of an index, whose two entries are made sure to be what they should be."""
    table = _json(path)
    if not isinstance(table, dict) or not isinstance(weight_map := table.get("weight_map"), dict) or not weight_map:
        raise UnreadableFile(f"{path} is damaged.", "It holds no weight_map that names a tensor.", AGAIN)
    if not isinstance(table.get("metadata", {}), dict):
        raise UnreadableFile(f"{path} is damaged.", "Its metadata are no table.", AGAIN)
    for name, shard in weight_map.items():
        if not isinstance(shard, str):
            raise UnreadableFile(f"{path} is damaged.", f"Its weight_map gives {shown(name)} no file, but {shown(shard)}.", AGAIN)
    return table


def _json(path: Path) -> Any:
    try:
        if path.exists() and not path.is_file():
            raise NotJson("it is not a regular file")
        with path.open("rb") as file:
            raw = file.read(LIMIT + 1)
        if len(raw) > LIMIT:
            raise NotJson(f"it has more than {LIMIT} bytes")
        return strict_json(raw)
    except NotJson as flaw:
        raise UnreadableFile(f"{path} is damaged.", f"It cannot be believed: {flaw}.", AGAIN) from flaw
    except FileNotFoundError as error:
        raise MissingFile(f"There is no file {path}.") from error
    except OSError as error:
        raise UnreadableFile(f"{path} cannot be read.", f"The system says: {error.strerror or error}.") from error


def _require_inside(path: Path, shard: str) -> None:
    if shard in ("", ".", "..") or any(sign in shard for sign in "/\\\0") or len(shard.encode()) > 255:
        why = f"Its weight_map names the file {shown(shard)}; a shard is a plain file name in the same folder."
        raise UnreadableFile(f"{path} is not to be trusted.", why, "Look at where it came from.")
    if leaves(path.parent, shard):
        why = f"The shard {shown(shard)} is a link that leads out of the folder."
        raise UnreadableFile(f"{path} is not to be trusted.", why, "Put the file itself there.")


def _listed(names: list[str]) -> str:
    rest = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(map(shown, names[:SHOWN])) + rest


def _nearest(name: str, ranked: list[str]) -> str:
    """The name with the longest same beginning; it stands beside the place where `name` would stand."""
    at = bisect_left(ranked, name)
    return max(ranked[max(0, at - 1) : at + 1], key=lambda other: _same(name, other))


def _same(one: str, other: str) -> int:
    pairs = zip(one, other, strict=False)
    return next((at for at, (left, right) in enumerate(pairs) if left != right), min(len(one), len(other)))
