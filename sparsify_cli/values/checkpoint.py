"""Checkpoint: named tensors, where they came from, and how to rebuild the module they belong to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from sparsify_cli.errors import NonFinite
from sparsify_cli.values.folds import Fold
from sparsify_cli.values.layout import Key, Layout, Place
from sparsify_cli.values.mask_set import MaskSet
from sparsify_cli.values.settled import settled
from sparsify_cli.values.small_floats import SCALES, computable


@dataclass(frozen=True)
class Source:
    """Where tensors were read from.

    Args:
        path: the file or artifact folder.
        sha256: of the file the tensors were read from.
    """

    path: str
    sha256: str


@dataclass(frozen=True)
class Spec:
    """A shelf name or a user's callable, with its options: how to build an architecture or load a dataset.

    Args:
        name: `cnn`, `digits`, `package.module:callable`, `path/file.py:callable`.
        options: keyword arguments, plain JSON values.
        resized: of an architecture that was shrunk: name of a tensor -> its shape, where that is another or the tensor was added.
        identity: of an architecture that was shrunk: its parts that return what they are given, and are left out.
        compact: of an architecture that was shrunk: convolution -> the rows and columns of its product that are left.
    """

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    resized: Mapping[str, Sequence[int]] = field(default_factory=dict)
    identity: Sequence[str] = ()
    compact: Mapping[str, Sequence[int]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        shapes = {name: list(shape) for name, shape in self.resized.items()}
        smaller = {"resized": shapes, "identity": list(self.identity), "compact": {name: list(kept) for name, kept in self.compact.items()}}
        return {"name": self.name, "options": dict(self.options), **{key: value for key, value in smaller.items() if value}}

    @classmethod
    def from_json(cls, value: Mapping[str, Any] | None) -> Spec | None:
        """What `to_json` wrote, or None."""
        if value is None:
            return None
        return cls(value["name"], dict(value["options"])).shrunk_as(value)

    def shrunk_as(self, value: Mapping[str, Any]) -> Spec:
        """Itself, as small as the JSON of a spec says."""
        resized, identity, compact = value.get("resized", {}), value.get("identity", ()), value.get("compact", {})
        return replace(self, resized=dict(resized), identity=tuple(identity), compact=dict(compact))

    def fitting(self, tensors: Mapping[str, Tensor]) -> Spec:
        """Itself, or as it was before it was shrunk where these tensors are not of the shrunk network."""
        there = [list(tensors[name].shape) == list(shape) for name, shape in self.resized.items() if name in tensors]
        gone = not any(name.startswith(tuple(f"{part}." for part in self.identity)) for name in tensors)
        known = all(f"{name}.columns" in tensors for name in self.compact)
        fits = (there or self.identity or self.compact) and all(there) and gone and known
        return self if fits else replace(self, resized={}, identity=(), compact={})


@dataclass(frozen=True)
class Home:
    """The files tensors came from, and where in them each one lies: what is needed to write others of the same kind.

    Args:
        layout: everything their headers say.
        wrapper: keys that lead to the tensors.
        places: name of a tensor here -> its place there.
        names: name of a tensor here -> its name there (prefix included), where they differ.
        folds: weights that are stored there in parts.
    """

    layout: Layout
    wrapper: Key
    places: Mapping[str, Place]
    names: Mapping[str, str] = field(default_factory=dict)
    folds: tuple[Fold, ...] = ()

    def called(self, names: Mapping[str, str]) -> Home:
        """The same files with other names here, old -> new."""
        places = {names.get(name, name): place for name, place in self.places.items()}
        theirs = {names.get(name, name): self.names.get(name, name) for name in self.places}
        return replace(self, places=places, names={ours: their for ours, their in theirs.items() if ours != their})


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """Named tensors and their origin; knows nothing of training or export formats.

    Args:
        tensors: canonical name (wrapper and prefix removed) -> tensor.
        source: file and hash.
        wrapper: keys that led to the tensors inside the file, e.g. ("state_dict",).
        prefix: common key prefix that was removed, e.g. "module.".
        architecture: how to rebuild the module, when known.
        masks: which weights the file itself says are pruned, by canonical name; empty when it says nothing.
        home: the files they came from; None for tensors that never lay in a file, or in one of ours.
    """

    tensors: Mapping[str, Tensor]
    source: Source
    wrapper: tuple[str, ...] = ()
    prefix: str = ""
    architecture: Spec | None = None
    masks: MaskSet = field(default_factory=MaskSet)
    home: Home | None = None

    @property
    def parameters(self) -> int:
        """Numbers stored in floating-point tensors (buffers such as running statistics included)."""
        return sum(t.numel() for t in self.tensors.values() if t.is_floating_point())

    def with_tensors(self, tensors: Mapping[str, Tensor]) -> Checkpoint:
        """The same checkpoint with other values; what its file said of pruned weights stays, and so does what shares memory there."""
        same = settled(self.home.layout.root, self.home.places, tensors) if self.home else tensors
        return replace(self, tensors=dict(same))

    def require_finite(self) -> None:
        """Refuse NaN and infinite weights by name.

        Raises:
            NonFinite: with the first offending tensors and counts.
        """
        bad = {n: int((~computable(t).isfinite()).sum()) for n, t in self.tensors.items() if t.is_floating_point() and t.dtype != SCALES}
        bad = {name: count for name, count in bad.items() if count}
        if bad:
            first = ", ".join(f"{name} ({count})" for name, count in list(bad.items())[:3])
            raise NonFinite(
                f"{len(bad)} tensors of {self.source.path} hold NaN or infinite values: {first}.",
                "No score can rank them.",
                "Repair or retrain the checkpoint first.",
            )


def with_names(checkpoint: Checkpoint, names: Mapping[str, str]) -> Checkpoint:
    """The same tensors under other names, old -> new for every one of them."""
    return replace(
        checkpoint,
        tensors={names[name]: tensor for name, tensor in checkpoint.tensors.items()},
        masks=MaskSet({names[name]: mask for name, mask in checkpoint.masks.items()}),
        home=checkpoint.home.called(names) if checkpoint.home else None,
    )
