"""The numbers behind `inspect`: zeros, patterns and bytes of each tensor, read slice by slice, so that memory stays small."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sparsify_cli.contracts.listener import Listener
from sparsify_cli.maths.found_patterns import ROWS, Zeros
from sparsify_cli.maths.gap_runs import Runs
from sparsify_cli.maths.magnitude_keys import BITS, INFINITE, magnitude_keys
from sparsify_cli.maths.prunable import verdicts
from sparsify_cli.maths.weight_view import SLICE, WeightView
from sparsify_cli.recipes.pattern import Pattern
from sparsify_cli.recipes.verbs import InspectRecipe
from sparsify_cli.stages.inspect_look import Item, Look, judged_by
from sparsify_cli.stages.plan import prunable_names
from sparsify_cli.stages.slices import Meter, Target, over_slices
from sparsify_cli.stages.subject import Subject, open_path
from sparsify_cli.values.folds import fold_value
from sparsify_cli.values.layout import FLOATS, Place
from sparsify_cli.values.mapped import mapped
from sparsify_cli.values.packed import SAME_SIZE, bits, smallest_of
from sparsify_cli.values.tensor_file import tied

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Seen:
    """What was found in the numbers of one tensor, or of a slice of it; `a + b` is that of b behind a.

    Args:
        zeros: how many are zero, 0.0 and -0.0.
        nonfinite: how many are NaN or infinite.
        runs: where the bits of numbers are all 0; what decides storage forms.
        shape: patterns of the zeros; None for anything but matrices of a floating type.
    """

    zeros: int = 0
    nonfinite: int = 0
    runs: Runs = field(default_factory=Runs)
    shape: Zeros | None = None

    def __add__(self, other: Seen) -> Seen:
        both = self.shape + other.shape if self.shape and other.shape else self.shape or other.shape
        return Seen(self.zeros + other.zeros, self.nonfinite + other.nonfinite, self.runs + other.runs, both)

    def bytes_by_form(self, item: Item) -> dict[str, int]:
        """Bytes of each storage form of the tensor; a type of 16 bytes has one."""
        width = item.nbytes // item.size if item.size else 1
        return self.runs.bytes_by_form(width) if width in SAME_SIZE else {"dense": item.nbytes}


@dataclass(frozen=True)
class Values:
    """What was found in all tensors.

    Args:
        seen: by name.
        masked: tensors that the artifact's masks are of; empty where there are none.
    """

    seen: Mapping[str, Seen]
    masked: frozenset[str] = frozenset()

    def forms(self, items: Mapping[str, Item]) -> dict[str, int]:
        """Bytes of all tensors in each form where that makes them smaller, and of each in its smallest (packed); no headers."""
        found = {name: self.seen[name].bytes_by_form(item) for name, item in items.items() if not item.alias_of}
        total = {form: sum(min(one["dense"], one.get(form, one["dense"])) for one in found.values()) for form in FORMS}
        return total | {"packed": sum(one[smallest_of(one)] for one in found.values())}


FORMS = ("dense", "bitmask", "gaps8", "gaps16")


@dataclass(frozen=True)
class _Rows(WeightView):
    """A weight in slices of whole outputs, so that no block lies across two."""

    def slices(self, most: int | None = None) -> list[tuple[int, int]]:
        """First element and number of elements of each slice; their size is fixed."""
        del most
        return _steps(self.shape)


def with_context(look: Look) -> Look:
    """The look at an artifact with what its architecture says is prunable, and with its masks."""
    if look.artifact is None or (look.layout and look.layout.odd):
        return look
    subject = open_path(look.path)
    look = replace(look, subject=subject)
    return judged_by(look, prunable_names(subject.checkpoint, subject.architecture)) if subject.architecture else look


def look_inside(path: Path, recipe: InspectRecipe, listener: Listener) -> Look:
    """A look at a file of ours, read whole."""
    subject = open_path(path, entry=recipe.entry, trust=recipe.trust_pickle)
    tensors = subject.checkpoint.tensors
    headers = {name: (str(t.dtype).removeprefix("torch."), tuple(t.shape)) for name, t in tensors.items()}
    aliases = tied(tensors)
    judged = verdicts(headers, aliases, {})
    items = {name: Item(name, *headers[name], judged[name], aliases.get(name, "")) for name in tensors}
    look = Look(path, items, subject.checkpoint.source.sha256, artifact=subject.artifact, subject=subject)
    look = judged_by(look, prunable_names(subject.checkpoint, subject.architecture)) if subject.architecture else look
    return with_values(look, listener) if recipe.values is not False else look


def with_values(look: Look, listener: Listener) -> Look:
    """The look with what the numbers say; tensors that are one memory are read once."""
    once = {name: item for name, item in look.items.items() if not item.alias_of}
    turned = _transposed(look)
    streamed = _targets(look, once, turned)
    seen = _streamed(look, streamed, listener)
    tensors = tensors_of(look)
    for name, item in once.items():
        if name not in seen:
            parts = _slices(tensors(name))
            seen[name] = sum((_slice_seen(part, item.dtype, shape, turned=name in turned) for part, shape in parts), start=Seen())
    listener.done()
    found = {name: seen[item.alias_of or name] for name, item in look.items.items()}
    return replace(look, values=Values(found, _masked(look.subject)))


def tensors_of(look: Look) -> _Tensors:
    """The tensors of a look by name, mapped; weights that are stored in parts are put together when they are asked for."""
    return _Tensors(look)


class _Tensors:
    """Tensors by name; each is mapped when it is asked for, so that what was read of it is let go with it."""

    def __init__(self, look: Look) -> None:
        self._opened = look.opened
        self._folds = {fold.name: fold for fold in look.opened.folds} if look.opened else {}
        self._held: Mapping[str, Tensor] = look.subject.checkpoint.tensors if look.subject else {}

    def __call__(self, name: str) -> Tensor:
        """One tensor."""
        if self._opened is None:
            return self._held[name]
        fold = self._folds.get(name)
        parts = fold.parts if fold else (name,)
        tensors = mapped(self._opened.layout.root, {part: self._opened.places[part] for part in parts})
        return fold_value(tensors, fold) if fold else tensors[name]


def _masked(subject: Subject | None) -> frozenset[str]:
    return frozenset(subject.masks) if subject else frozenset()


def _transposed(look: Look) -> frozenset[str]:
    """Weights that are stored [in, out], as the files' own graph or config says, or the folder's manifest."""
    told = look.artifact.manifest.get("inputs_first") if look.artifact else None
    known = frozenset(map(str, told)) if isinstance(told, list) else frozenset[str]()
    if look.opened is None:
        return known
    hints, prefix = look.opened.layout.hints, look.opened.prefix
    return known | frozenset(name for name in look.items if (hint := hints.get(prefix + name)) and hint.transposed)


def _targets(look: Look, items: Mapping[str, Item], turned: Collection[str]) -> list[Target]:
    """Tensors that are read straight from their places, in the order in which they lie there."""
    if look.opened is None:
        return []
    folded = {fold.name for fold in look.opened.folds}
    places = {name: look.opened.places[name] for name, item in items.items() if name not in folded and item.dtype in BITS}
    ordered = sorted(places.items(), key=lambda pair: (pair[1].file, pair[1].offset))
    return [Target(name, place, _view(place, turned=name in turned)) for name, place in ordered]


def _view(place: Place, *, turned: bool) -> WeightView:
    return (_Rows if len(place.shape) > 1 else WeightView)(place.shape, place.dtype, Pattern(), turned)


def _streamed(look: Look, targets: list[Target], listener: Listener) -> dict[str, Seen]:
    if look.opened is None or not targets:
        return {}
    total = {target.name: Seen() for target in targets}
    meter = Meter(listener, "reading", sum(target.place.nbytes for target in targets))
    for target, seen in over_slices(look.opened.layout.root, targets, _judged, meter):
        total[target.name] += seen
    return total


def _judged(target: Target, raw: Array) -> Seen:
    shape = target.place.shape
    rows = raw.size // max(1, math.prod(shape[1:]))
    return _slice_seen(raw, target.place.dtype, (rows, *shape[1:]), turned=target.view.transposed)


def _steps(shape: tuple[int, ...]) -> list[tuple[int, int]]:
    """First element and number of elements of slices of whole rows, a multiple of `ROWS` of them."""
    row, size = max(1, math.prod(shape[1:])), math.prod(shape)
    step = row * ROWS * max(1, SLICE // (row * ROWS))
    return [(start, min(step, size - start)) for start in range(0, size, step)]


def _slices(tensor: Tensor) -> Iterator[tuple[Array, tuple[int, ...]]]:
    """Numbers of a tensor in memory as unsigned integers, rows by rows, and the shape of each slice."""
    row = max(1, math.prod(tensor.shape[1:]))
    for start, count in _steps(tuple(tensor.shape)):
        part = tensor[start // row : (start + count) // row] if tensor.ndim else tensor
        yield _unsigned(part), tuple(part.shape)


def _unsigned(part: Tensor) -> Array:
    """Bits as unsigned integers; a number of 16 bytes becomes two."""
    flat = torch.view_as_real(part).reshape(-1) if part.dtype == torch.complex128 else part
    raw = bits(flat)
    return raw.view(np.dtype(f"u{raw.itemsize}"))


def _slice_seen(raw: Array, dtype: str, shape: tuple[int, ...], *, turned: bool) -> Seen:
    nonzero, nonfinite = _judge(raw, dtype)
    matrix = dtype in FLOATS and 2 <= len(shape) <= 5
    zeros = nonzero.size - int(np.count_nonzero(nonzero))
    return Seen(zeros, nonfinite, Runs.of(raw != 0), Zeros.of(nonzero.reshape(shape), transposed=turned) if matrix else None)


def _judge(raw: Array, dtype: str) -> tuple[npt.NDArray[np.bool_], int]:
    """Which numbers are not zero, and how many are NaN or infinite (complex ones are not judged)."""
    if dtype in BITS:
        keys = magnitude_keys(raw, dtype, dtype)
        return keys != 0, int(np.count_nonzero(keys >= keys.dtype.type(INFINITE[dtype])))
    if dtype == "float8_e8m0fnu":  # powers of two: it has no zero
        return np.ones(raw.size, dtype=np.bool_), int(np.count_nonzero(raw == 0xFF))
    if dtype == "complex64":
        return (raw & np.uint64(0x7FFF_FFFF_7FFF_FFFF)) != 0, 0
    if dtype == "complex128":
        return ((raw & np.uint64(0x7FFF_FFFF_FFFF_FFFF)) != 0).reshape(-1, 2).any(1), 0
    return raw != 0, 0
