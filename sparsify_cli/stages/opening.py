"""Opening any checkpoint from its headers: which format it is, where its weights are, what else is in it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from sparsify_cli.contracts.format import Format
from sparsify_cli.errors import BadRequest, MissingFile, UnreadableFile
from sparsify_cli.shelf import Shelf
from sparsify_cli.values.file_kind import ADVICE, foreign_kind
from sparsify_cli.values.fold_names import Fold, find_folds
from sparsify_cli.values.layout import Key, Layout, Place

WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "network", "params", "weights", "ema", "module")
"""Keys under which training scripts keep their weights, in the order they are tried."""

PREFIXES = ("module.", "_orig_mod.", "nncf_module.")
"""Prefixes that data-parallel wrappers, torch.compile and NNCF leave on every key."""

ALONE = {"_rebuild_tensor_v2": "a single Tensor without a name", "_rebuild_parameter": "a single Parameter without a name"}
"""What a file without entries may be."""

KNOWN = "Known kinds: torch .pt .pth .th .tar .bin .ckpt, TorchScript, .pt2, safetensors, Hugging Face folders and ONNX."


@dataclass(frozen=True)
class Opened:
    """A checkpoint of which only the headers were read.

    Args:
        layout: where everything lies.
        wrapper: keys that lead to its weights.
        prefix: common prefix of their names, which is removed.
        places: canonical name -> place.
        folds: weights that are stored in parts (original and mask, values and bitmask), by canonical names.
    """

    layout: Layout
    wrapper: Key
    prefix: str
    places: Mapping[str, Place]
    folds: tuple[Fold, ...] = ()


def open_headers(path: Path, *, entry: str = "", trust: bool = False) -> Opened:
    """A checkpoint file or folder, its headers read and nothing else.

    Args:
        path: file or folder.
        entry: dotted keys of the table to take; empty = the usual ones.
        trust: read pickles that name code (without running it).

    Raises:
        MissingFile: nothing is there.
        UnreadableFile: damaged, of an unknown kind, or without tensors.
        UnsafePickle: it names code.
        BadRequest: there is no such entry.
    """
    layout = layout_of(path, trust=trust)
    wrapper = _entry(layout, entry) if entry else _usual(layout)
    tensors = _merged(layout, wrapper)
    if not tensors:
        raise _nothing(layout)
    folds = find_folds({name: (place.dtype, place.shape) for name, place in tensors.items()})
    masks = {part for fold in folds for part in fold.parts[1:]}
    prefix = common_prefix([name for name in tensors if name not in masks])
    places = {name.removeprefix(prefix): place for name, place in tensors.items()}
    return Opened(layout, wrapper, prefix, places, tuple(_without(fold, prefix) for fold in folds))


def _without(fold: Fold, prefix: str) -> Fold:
    """A fold in canonical names."""
    return replace(fold, name=fold.name.removeprefix(prefix), parts=tuple(part.removeprefix(prefix) for part in fold.parts))


def layout_of(path: Path, *, trust: bool = False) -> Layout:
    """The layout of a file or folder, by the format that recognises it."""
    if not path.exists():
        raise MissingFile(f"There is no checkpoint {path}.")
    if path.is_file() and not path.stat().st_size:
        raise UnreadableFile(f"{path} is empty.", "", "Copy or save the checkpoint again.")
    return format_of(path).layout(path, trust=trust)


def format_of(path: Path) -> Format:
    """The format that recognises a path.

    Raises:
        MissingFile: a folder that is no checkpoint.
        UnreadableFile: a file of no known kind.
    """
    shelf = Shelf("formats")
    for name in shelf.names():
        found: Format = shelf.load(name)()
        if found.recognises(path):
            return found
    if path.is_dir():
        raise MissingFile(f"{path} is not an artifact.", "It is a folder without a manifest.json or weights.", "List yours with: ls runs")
    if kind := foreign_kind(path):
        raise UnreadableFile(f"{path} is {kind}.", "It is not a file of named tensors that can be read here.", ADVICE)
    raise UnreadableFile(f"{path} cannot be read as a checkpoint.", "It is truncated, corrupt or of an unknown kind.", KNOWN)


def common_prefix(names: Collection[str]) -> str:
    """The prefixes of wrappers that every name begins with."""
    prefix = ""
    while found := next((p for p in PREFIXES if names and all(name.startswith(prefix + p) for name in names)), None):
        prefix += found
    return prefix


def _usual(layout: Layout) -> Key:
    """Keys that lead to the weights: through the usual wrappers, as far as there are any."""
    keys: Key = ()
    while found := next((name for name in WRAPPERS if _leads(layout, (*keys, name))), None):
        keys = (*keys, found)
    return keys


def _leads(layout: Layout, keys: Key) -> bool:
    return any(key[: len(keys)] == keys for key in layout.tables)


def _entry(layout: Layout, entry: str) -> Key:
    keys = tuple(entry.split("."))
    prefixes = (key[:depth] for key in layout.tables for depth in range(1, len(key) + 1))  # a key may hold a dot itself
    if found := keys if _leads(layout, keys) else next((key for key in prefixes if ".".join(key) == entry), None):
        return found
    known = ", ".join(".".join(key) for key in layout.tables if key) or "none: the tensors lie at the top"
    raise BadRequest(f"{layout.path} has no entry {entry!r} with tensors.", f"Its entries: {known}.", "Name one of them with --entry.")


def _merged(layout: Layout, wrapper: Key) -> dict[str, Place]:
    """Every tensor under some keys, by what is left of its keys and its name."""
    found: dict[str, Place] = {}
    for key, table in layout.tables.items():
        if key[: len(wrapper)] == wrapper:
            named = {".".join((*key[len(wrapper) :], name)): place for name, place in table.items()}
            if twice := sorted(named.keys() & found.keys()):
                raise UnreadableFile(
                    f"{layout.path} holds {twice[0]!r} twice, in nested tables and as one name.",
                    "Nothing says which is meant.",
                    "Name one table with --entry.",
                )
            found |= named
    return found


def _nothing(layout: Layout) -> UnreadableFile:
    if packed := [name for name, why in layout.odd.items() if "compressed" in why]:
        return UnreadableFile(
            f"The tensors of {layout.path} are stored compressed.",
            f"{packed[0]!r} and {len(packed) - 1} more cannot be read in place."
            if packed[1:]
            else f"{packed[0]!r} cannot be read in place.",
            "Load it and save it again: torch.load, then torch.save (torch.jit or torch.export for a program).",
        )
    entries = [(name, what) for name, what in (dict(layout.others) | dict(layout.odd)).items() if what != "mapping of 0"]
    listed = ", ".join(f"{name} ({what})" if name else ALONE.get(what, what) for name, what in entries[:6])
    return UnreadableFile(
        f"{layout.path} holds no named tensors.", f"It holds: {listed or 'nothing'}.", "Save the network's state_dict() and pass that file."
    )


def renamed(opened: Opened, names: Mapping[str, str]) -> Opened:
    """The same checkpoint with other canonical names, old -> new."""
    return replace(opened, places={names.get(name, name): place for name, place in opened.places.items()})


def tables_left(layout: Layout, wrapper: Key) -> dict[str, int]:
    """Other tables that hold several matrices and stay as they are: dotted keys -> number of tensors."""
    outside = {key: table for key, table in layout.tables.items() if key[: len(wrapper)] != wrapper}
    return {".".join(key): len(table) for key, table in outside.items() if sum(len(p.shape) > 1 and p.is_float for p in table.values()) > 1}


def shares_memory(layout: Layout, wrapper: Key, other: str) -> bool:
    """True when a table (by its dotted keys) holds a tensor that lies where one of the chosen weights does."""
    chosen = {(place.file, place.offset) for place in _merged(layout, wrapper).values() if place.size}
    table = next((table for key, table in layout.tables.items() if ".".join(key) == other), {})
    return any((place.file, place.offset) in chosen for place in table.values() if place.size)
