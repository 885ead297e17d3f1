"""What `inspect` sees of a checkpoint: its tensors as their headers describe them. Neither torch nor numpy is imported here."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from sparsify_cli.contracts.listener import Listener
from sparsify_cli.maths.prunable import Verdict, verdicts
from sparsify_cli.recipes.verbs import InspectRecipe
from sparsify_cli.stages.opening import Opened, open_headers
from sparsify_cli.values.artifact import Artifact, is_artifact
from sparsify_cli.values.file_hash import joint_fingerprint
from sparsify_cli.values.fold_names import Fold
from sparsify_cli.values.layout import FLOATS, WIDTHS, Layout, Place
from sparsify_cli.values.trust import trusts_pickle

if TYPE_CHECKING:
    from sparsify_cli.stages.inspect_values import Values
    from sparsify_cli.stages.subject import Subject

VALUES_UP_TO = 256 << 20
"""Bytes of tensors up to which their values are read without being asked for."""

AXES = 8
"""Axes that a tensor stored as a bitmask may have."""


@dataclass(frozen=True)
class Item:
    """One tensor.

    Args:
        name: canonical.
        dtype: torch's word for its type.
        shape: sizes.
        verdict: prunable or not, and why.
        alias_of: the tensor that it is another name of, or nothing.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    verdict: Verdict = Verdict(False, "")
    alias_of: str = ""

    @property
    def size(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of its numbers."""
        return self.size * WIDTHS.get(self.dtype, 0)


@dataclass(frozen=True, eq=False)
class Look:
    """A checkpoint that is looked at.

    Args:
        path: what was named.
        items: its tensors, by name.
        sha256: identity of its files.
        opened: its headers; None for a file of ours that is read whole.
        artifact: the folder it is in, if some verb made it.
        subject: what was opened with torch; None where headers were enough.
        values: what was found in the numbers; None when they were not read.
    """

    path: Path
    items: Mapping[str, Item]
    sha256: str
    opened: Opened | None = None
    artifact: Artifact | None = None
    subject: Subject | None = None
    values: Values | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors, each memory counted once."""
        return sum(item.nbytes for item in self.items.values() if not item.alias_of)

    @property
    def parameters(self) -> int:
        """Numbers stored in tensors of a floating type."""
        return sum(item.size for item in self.items.values() if item.dtype in FLOATS)

    @property
    def layout(self) -> Layout | None:
        """The layout of its files."""
        return self.opened.layout if self.opened else None


def look_at(path: Path, recipe: InspectRecipe, listener: Listener) -> Look:
    """A checkpoint or a complete artifact; values are read when the recipe says so, or says nothing and there are few.

    Raises:
        MissingFile, UnreadableFile, UnsafePickle, BadRequest: as for opening it.
    """
    artifact = Artifact.open(path) if is_artifact(path) else None
    file, entry, names = artifact.weights() if artifact else (path, recipe.entry, {})
    opened = open_headers(file, entry=entry, trust=recipe.trust_pickle or bool(artifact and trusts_pickle(artifact.manifest)))
    if is_ours(opened.layout):
        return _read_whole(path, recipe, listener)
    opened = _renamed(opened, names) if names else opened
    look = Look(path, items_of(opened), joint_fingerprint(opened.layout.root, opened.layout.files), opened, artifact)
    if (recipe.values is None and look.nbytes > VALUES_UP_TO) or recipe.values is False:
        return look
    from sparsify_cli.stages.inspect_values import with_context, with_values

    return with_values(with_context(look), listener)


def _renamed(opened: Opened, names: Mapping[str, str]) -> Opened:
    """The same checkpoint with other canonical names, old -> new."""
    new = {name: names.get(name, name) for name in opened.places}
    folds = (replace(f, name=names.get(f.name, f.name), parts=tuple(new[part] for part in f.parts)) for f in opened.folds)
    said = {opened.prefix + new[name]: hint for name in new if (hint := opened.layout.hints.get(opened.prefix + name))}
    places = {new[name]: place for name, place in opened.places.items()}
    return replace(opened, places=places, folds=tuple(folds), layout=replace(opened.layout, hints=said))


def _read_whole(path: Path, recipe: InspectRecipe, listener: Listener) -> Look:
    """A file of ours that lies there packed or holds several networks."""
    from sparsify_cli.stages.inspect_values import look_inside

    return look_inside(path, recipe, listener)


def is_ours(layout: Layout) -> bool:
    """True for a file with a header of ours: packed, nested or with tied names."""
    return layout.kind == "safetensors" and ("sparsify" in layout.metadata or layout.metadata.get("schema", "").startswith("sparsify/nest"))


def items_of(opened: Opened) -> dict[str, Item]:
    """Every tensor of the network, weights that are stored in parts put together."""
    tensors = _headers(opened)
    aliases = _aliases({name: place for name, place in opened.places.items() if name in tensors})
    hints = opened.layout.hints
    said = {name: hints[there] for name in tensors if (there := opened.prefix + name) in hints}
    judged = verdicts(tensors, aliases, said)
    return {name: Item(name, dtype, shape, judged[name], aliases.get(name, "")) for name, (dtype, shape) in tensors.items()}


def _headers(opened: Opened) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Type and shape by name, in the order of the file."""
    owner = {part: fold for fold in opened.folds for part in fold.parts}
    found: dict[str, tuple[str, tuple[int, ...]]] = {}
    for name, place in opened.places.items():
        fold = owner.get(name)
        if fold is None:
            found[name] = (place.dtype, place.shape)
        elif fold.name not in found:
            found[fold.name] = (opened.places[fold.parts[0]].dtype, _folded_shape(opened, fold))
    return found


def _folded_shape(opened: Opened, fold: Fold) -> tuple[int, ...]:
    """The shape of a weight that is stored in parts; a bitmask's is written beside it."""
    weight = opened.places[fold.parts[0]].shape
    if fold.kind != "sparse-bitmask":
        return weight
    place = opened.places[fold.parts[2]]
    if not place.is_contiguous or not 0 < place.size <= AXES:
        return weight
    with (opened.layout.root / place.file).open("rb") as file:
        file.seek(place.offset)
        sizes = struct.unpack(f"<{place.size}{'q' if place.width == 8 else 'i'}", file.read(place.nbytes))
    return sizes if all(size >= 0 for size in sizes) else weight


def _aliases(places: Mapping[str, Place]) -> dict[str, str]:
    """Second names of one and the same tensor -> the first of its names in sorted order."""
    first: dict[Place, str] = {}
    return {name: first[places[name]] for name in sorted(places) if places[name].size and first.setdefault(places[name], name) != name}


def shared_memory(opened: Opened) -> list[list[str]]:
    """Tensors whose bytes overlap, in groups of at least two."""
    ranges = sorted((place.file, place.offset, place.end, name) for name, place in opened.places.items() if place.size)
    groups: list[list[str]] = []
    file, end = "", 0
    for there, start, stop, name in ranges:
        if there == file and start < end:
            groups[-1].append(name)
        else:
            groups.append([name])
        file, end = there, max(stop, end if there == file else 0)
    return [group for group in groups if len(group) > 1]


def judged_by(look: Look, prunable: Iterable[str]) -> Look:
    """The look with prunable tensors as an architecture names them."""
    names = set(prunable)
    said = {True: Verdict(True, "layer weight"), False: Verdict(False, "not a layer's weight")}
    items = {
        name: item if item.alias_of or item.verdict.matched == (name in names) else replace(item, verdict=said[name in names])
        for name, item in look.items.items()
    }
    return replace(look, items=items)
