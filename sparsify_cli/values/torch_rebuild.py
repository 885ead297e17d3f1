"""Torch checkpoints written anew: everything as torch loads it (weights only), one table of tensors replaced."""

from __future__ import annotations

import contextlib
import importlib
from collections import OrderedDict
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sparsify_cli.errors import Infeasible
from sparsify_cli.values.atomic import replace_file
from sparsify_cli.values.layout import Key, Layout
from sparsify_cli.values.pickle_tree import Call, Tree
from sparsify_cli.values.torch_names import NUMPY, PYTHON, module_state
from sparsify_cli.values.torch_tables import Contradiction, entries_of, key_text

DROP = "Add --extras drop to keep the tensors alone, or choose --save-as safetensors."


def rebuilt(layout: Layout, tree: Tree, table: Key, tensors: Mapping[str, Tensor], *, others: bool) -> Any:
    """What a checkpoint holds once a table is replaced, ready for `save`.

    Args:
        layout: of the original.
        tree: of its pickle.
        table: keys of the table that is replaced.
        tensors: what it holds from now on.
        others: True = everything else stays; False = only the table, under its keys.

    Raises:
        Infeasible: something else in the file needs code to be loaded, so it cannot stay.
    """
    own = _own_memory(tensors)
    if not others:
        return _alone(tree, table, own)
    if layout.foreign:
        raise Infeasible(
            f"{layout.path} cannot be written anew with everything that is in it.",
            f"Names or shapes of its tensors changed, and the rest needs code to be loaded: {', '.join(layout.foreign[:4])}.",
            DROP,
        )
    return _replaced(_loaded(layout), table, own, layout.tables[table])


def save(path: Path, content: Any, *, zipped: bool) -> None:
    """Write a checkpoint whole or not at all, as a zip archive or as torch did before 1.6.

    Raises:
        DiskFailure: the file system refused.
    """

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:  # an open file: torch writes the name of a path into the archive
            torch.save(content, file, _use_new_zipfile_serialization=zipped)

    replace_file(path, write)


def _own_memory(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors, those copied that are alone in more memory than they need: torch saves all of it."""
    users: dict[int, int] = {}
    for tensor in tensors.values():
        users[tensor.untyped_storage().data_ptr()] = users.get(tensor.untyped_storage().data_ptr(), 0) + 1
    return {name: tensor.clone() if _wastes(tensor, users) else tensor for name, tensor in tensors.items()}


def _wastes(tensor: Tensor, users: Mapping[int, int]) -> bool:
    storage = tensor.untyped_storage()
    return users[storage.data_ptr()] == 1 and storage.nbytes() > tensor.nbytes


def _loaded(layout: Layout) -> Any:
    try:
        known = set(torch.serialization.get_safe_globals())  # torch forgets those that are allowed twice
        with torch.serialization.safe_globals([pair for pair in _data_holders() if known.isdisjoint((pair, pair[0]))]):
            return torch.load(layout.path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever torch thinks of the rest of the file, the tensors alone can be written
        raise Infeasible(
            f"{layout.path} cannot be written anew with everything that is in it.",
            f"Torch does not load the rest of it ({type(error).__name__}).",
            DROP,
        ) from error


def _data_holders() -> Iterator[tuple[Any, str]]:
    """Classes that only hold data, each with the name that a pickle calls it by."""
    for name in (*PYTHON, *NUMPY):
        module, _, word = name.replace("numpy.core.", "numpy._core.").rpartition(".")
        if module == "builtins":  # torch allows those that it needs
            continue
        with contextlib.suppress(ImportError, AttributeError):  # of another version of Python or NumPy
            yield getattr(importlib.import_module(module), word), name


def _replaced(content: Any, keys: Key, tensors: Mapping[str, Tensor], old: Collection[str]) -> Any:
    """A checkpoint's content with the table under `keys` replaced; what is mutable is changed in place."""
    if not keys:
        return _renewed(content, tensors, old)
    if isinstance(content, Mapping):
        key = next(key for key in content if key_text(key) == keys[0])
        content[key] = _replaced(content[key], keys[1:], tensors, old)  # type: ignore[index]  # pickles make mutable ones
        return content
    index = int(keys[0])
    values = [_replaced(value, keys[1:], tensors, old) if at == index else value for at, value in enumerate(content)]
    return type(content)(values)


def _renewed(table: Any, tensors: Mapping[str, Tensor], old: Collection[str]) -> Any:
    """A table of the same type with other tensors; entries that are none stay behind them."""
    if not isinstance(table, Mapping):
        values = (
            _renewed(part, _of_stage(tensors, index), tuple(_of_stage(dict.fromkeys(old), index))) for index, part in enumerate(table)
        )
        return type(table)(values)
    kept = {key: value for key, value in table.items() if key not in old and key not in tensors}
    new = OrderedDict({**tensors, **kept}) if isinstance(table, OrderedDict) else {**tensors, **kept}
    if isinstance(table, OrderedDict):
        vars(new).update(vars(table))
    return new


def _of_stage(names: Mapping[str, Any], index: int) -> dict[str, Any]:
    """What belongs to one mapping of a list of them, under its own names."""
    mark = f"{index}."
    return {name.removeprefix(mark): value for name, value in names.items() if name.startswith(mark)}


def _alone(tree: Tree, keys: Key, tensors: Mapping[str, Tensor]) -> Any:
    """The table under its keys and nothing else, its mapping of the same type as in the file."""
    if not keys:
        return _table(tree, tensors)
    for key, value in entries_of(tree) or enumerate(tree):
        if key_text(key) == keys[0]:
            inner = _alone(value, keys[1:], tensors)
            return [inner] if isinstance(tree, list | tuple) else {key: inner}
    raise Contradiction(f"it holds no entry {keys[0]!r}")


def _table(node: Tree, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(node, list | tuple):
        return [_table(part, _of_stage(tensors, index)) for index, part in enumerate(node)]
    if not isinstance(node, Call):
        return dict(tensors)
    table = OrderedDict(tensors)
    metadata = node.state.get("_metadata") if isinstance(node.state, dict) and module_state(node) is None else None
    if metadata is not None:
        with contextlib.suppress(Contradiction):  # versions of layers; torch does without
            vars(table)["_metadata"] = _plain(metadata, 8)
    return table


def _plain(node: Tree, depth: int) -> Any:
    """Text, numbers and mappings of them, as Python has them."""
    if isinstance(node, str | int | float | bool | None):
        return node
    entries: Iterable[tuple[Tree, Tree]] | None = entries_of(node)
    if entries is None or not depth:
        raise Contradiction("it is not plain")
    pairs = ((_plain(key, 0), _plain(value, depth - 1)) for key, value in entries)
    return OrderedDict(pairs) if isinstance(node, Call) else dict(pairs)
