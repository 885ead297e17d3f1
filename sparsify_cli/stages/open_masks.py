"""Opening masks: a masks file, an artifact's masks, or the exact zeros of a sparse checkpoint."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from sparsify_cli.errors import BadRequest, MissingFile, UnreadableFile
from sparsify_cli.maths.mask_compare import canonical
from sparsify_cli.stages.plan import matches, rows_of
from sparsify_cli.stages.subject import Subject, open_path
from sparsify_cli.values.artifact import MASKS, Artifact, is_artifact
from sparsify_cli.values.checkpoint import Checkpoint, Source
from sparsify_cli.values.file_hash import sha256_of
from sparsify_cli.values.mask_file import read_masks
from sparsify_cli.values.mask_set import MaskSet

SHAPES = "shapes"
"""The text of a masks file's header that says the shape of each mask."""


def open_masks(path: Path, *, entry: str = "", trust: bool = False) -> Subject:
    """What a path says of kept weights, as the masks of a subject, under names without wrappers' prefixes.

    A masks file and an artifact without a network give a subject without tensors.

    Raises:
        MissingFile: nothing is there.
        UnreadableFile: it is damaged.
        BadRequest: several networks are embedded in it.
    """
    if not path.exists():
        raise MissingFile(f"There is no file or artifact {path}.", "", "Check the path; artifacts are in runs/.")
    if is_mask_file(path):
        return _only_masks(path, path, None)
    if is_artifact(path):
        artifact = Artifact.open(path)
        stored = artifact.verified(MASKS)
        if stored is not None and artifact.manifest.get("weights") is None:
            return _only_masks(stored, path, artifact)
    subject = open_path(path, entry=entry, trust=trust, plain=False).single()
    return replace(subject, masks=canonical(_found(subject)))


def is_mask_file(path: Path) -> bool:
    """True for what `write_masks` wrote, judged by its header."""
    if not path.is_file():
        return False
    with suppress(SafetensorError, OSError), safe_open(path, framework="pt") as file:
        return SHAPES in (file.metadata() or {}) and all(file.get_slice(name).get_dtype() == "U8" for name in file.keys())  # noqa: SIM118
    return False


def prunable(subject: Subject, *, skip: Sequence[str] = (), include: Sequence[str] = ()) -> list[str]:
    """Names of a network's tensors that masks are for, no two of which share a number; `include` may name embeddings."""
    rows = rows_of(subject.checkpoint, subject.architecture, skip=skip, include=include)
    return [row.name for row in rows if row.matched]


def chosen(names: Iterable[str], skip: Sequence[str], include: Sequence[str]) -> list[str]:
    """Names that the globs leave."""
    return [name for name in names if not matches(name, skip) and (not include or matches(name, include))]


def require_used(names: Iterable[str], skip: Sequence[str], include: Sequence[str]) -> None:
    """Refuse a glob that names nothing: it is misspelt.

    Raises:
        BadRequest: with the glob.
    """
    known = list(names)
    for flag, globs in (("--skip", skip), ("--include", include)):
        for glob in globs:
            if not any(matches(name, [glob]) for name in known):
                what = f"{flag} {glob} names none of the {len(known)} tensors."
                raise BadRequest(what, f"The first is {next(iter(known), '')!r}.", "`sparsify masks stats` lists them.")


def _only_masks(stored: Path, path: Path, artifact: Artifact | None) -> Subject:
    _check(stored)
    source = Source(str(path), sha256_of(stored))
    return Subject(Checkpoint({}, source), canonical(read_masks(stored)), artifact=artifact)


def _found(subject: Subject) -> MaskSet:
    """The masks an artifact says; else those a file's own say, and the exact zeros of every other prunable tensor."""
    if subject.artifact is not None and subject.masks:
        return subject.masks
    tensors = subject.checkpoint.tensors
    names = prunable(subject)
    if not names:
        raise BadRequest(f"No tensor of {subject.path} is prunable.", f"It holds {len(tensors)} tensors.", "`sparsify inspect` lists them.")
    zeros = MaskSet.from_zeros({name: tensors[name] for name in names if name not in subject.masks})
    return MaskSet({**zeros, **subject.masks})


def _check(path: Path) -> None:
    """Make sure that a masks file holds as many bits as its header says, before memory is taken.

    Raises:
        UnreadableFile: it does not.
    """
    try:
        with safe_open(path, framework="pt") as file:
            shapes = json.loads((file.metadata() or {}).get(SHAPES, ""))
            held = {name: list(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
            wrong = [name for name in held if not _is_shape(shapes[name]) or held[name] != [-(-math.prod(shapes[name]) // 8)]]
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UnreadableFile(
            f"{path} is damaged.", "Its header does not say the shapes of its masks.", "Extract the masks again."
        ) from error
    if wrong:
        raise UnreadableFile(f"{path} is damaged.", f"{wrong[0]} has another number of bits than its shape.", "Extract the masks again.")


def _is_shape(value: Any) -> bool:
    return isinstance(value, list) and len(value) <= 64 and all(type(size) is int and size >= 0 for size in value)
