"""Torch checkpoints of one file, whichever of torch's two ways they were saved in: laid out, and written anew the same way."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sparsify_cli.errors import UnreadableFile
from sparsify_cli.values.atomic import replace_file
from sparsify_cli.values.file_kind import ADVICE, foreign_kind
from sparsify_cli.values.layout import Key, Layout
from sparsify_cli.values.torch_legacy_file import is_pickle, legacy_layout, legacy_tree
from sparsify_cli.values.torch_zip_file import is_torch_zip, zip_layout, zip_tree


def is_torch_file(path: Path) -> bool:
    """True for a file that torch.save wrote, judged by its first bytes or the names in its archive."""
    return is_torch_zip(path) or is_pickle(path)


def torch_layout(path: Path, *, trust: bool = False) -> Layout:
    """Where every tensor of such a file lies.

    Args:
        path: of the file.
        trust: a pickle that names code is read, still without running it.

    Raises:
        UnreadableFile: truncated, corrupt, contradictory, or nothing that torch.save wrote.
        UnsafePickle: it names code and `trust` is False.
    """
    if is_torch_zip(path):
        return zip_layout(path, trust=trust)
    if is_pickle(path):
        return legacy_layout(path, trust=trust)
    raise UnreadableFile(f"{path} is {foreign_kind(path) or 'of an unknown kind'}.", "It is nothing that torch.save wrote.", ADVICE)


def rewrite(path: Path, target: Path, table: Key, tensors: Mapping[str, Any], *, others: bool) -> None:
    """Write such a file anew with another table of tensors, in the way that it was saved in.

    Args:
        path: of the original.
        target: of the new file.
        table: keys of the table that is replaced.
        tensors: what it holds from now on.
        others: True = everything else stays.

    Raises:
        Infeasible: something else in the file needs code to be loaded, so it cannot stay.
        DiskFailure: the file system refused.
    """
    from sparsify_cli.values import torch_rebuild

    zipped = is_torch_zip(path)
    layout = torch_layout(path, trust=True)
    if table not in layout.tables and not tensors:  # it holds no plain tensors, and none come
        replace_file(target, lambda temporary: shutil.copyfile(path, temporary))
        return
    tree = zip_tree(path) if zipped else legacy_tree(path)
    torch_rebuild.save(target, torch_rebuild.rebuilt(layout, tree, table, tensors, others=others), zipped=zipped)
