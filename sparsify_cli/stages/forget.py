"""Which samples to forget: a file of ids, a class, those that have an attribute, or a random share of the training split."""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from sparsify_cli.errors import BadRequest, MissingFile
from sparsify_cli.maths.holdout import shuffled
from sparsify_cli.values.samples import Samples

FORMS = "Write a CSV or JSON file of sample ids, class:NAME, attribute:NAME, or random:5%."
HEADING = "If that is a heading, call the column `id` and put commas between columns; only training samples can be forgotten."


def forget_positions(text: str, train: Samples, *, seed: int, forgotten: frozenset[str] = frozenset(), flag: str = "--forget") -> list[int]:
    """Positions in the training split of the samples to forget, rising.

    Args:
        text: `forget.csv`, `forget.json`, `class:3`, `random:5%` or `random:0.05`.
        train: the training split, without what was forgotten already.
        seed: of the random choice.
        forgotten: ids forgotten already.
        flag: which option named them.

    Raises:
        BadRequest: nothing, everything or something that is not there would be forgotten.
        MissingFile: the file of ids is not there.
    """
    if not text:
        raise BadRequest("Nothing was named to forget.", "", FORMS)
    positions = sorted(set(_positions(text, train, seed, forgotten)))
    if not positions:
        why = f"{len(forgotten)} samples are forgotten already and not counted." if forgotten else ""
        raise BadRequest(f"{flag} {text} names no sample.", why, FORMS)
    if len(positions) == len(train):
        raise BadRequest(
            f"{flag} {text} names all {len(train)} training samples.", "A network that knows nothing is a new one.", "Train a new one."
        )
    return positions


def _positions(text: str, train: Samples, seed: int, forgotten: frozenset[str]) -> list[int]:
    kind, colon, value = text.partition(":")
    if colon and kind in ("class", "attribute"):
        return _of_class(kind, value, train)
    if colon and kind == "random":
        return _at_random(value, train, seed)
    return _of_ids(Path(text), train, forgotten)


def _of_class(kind: str, name: str, train: Samples) -> list[int]:
    """Samples of a class, or those that have an attribute."""
    there = "attribute" if train.has_attributes else "class"
    names = train.classes or tuple(str(label) for label in range(train.outputs))
    if kind != there or (name not in names and not (name.isdecimal() and int(name) < len(names))):
        raise BadRequest(f"There is no {kind} {name!r}.", f"The data is labelled by {there}: {', '.join(names)}.", FORMS)
    label = names.index(name) if name in names else int(name)
    chosen = train.targets[:, label] == 1 if train.has_attributes else train.targets == label
    found: list[int] = chosen.nonzero()[:, 0].tolist()
    return found


def _at_random(share: str, train: Samples, seed: int) -> list[int]:
    try:
        fraction = float(share.removesuffix("%")) / (100 if share.endswith("%") else 1)
    except ValueError as error:
        raise BadRequest(f"{share!r} is not a share.", "", "Write random:5% or random:0.05.") from error
    if not 0 < fraction < 1:
        raise BadRequest(f"random:{share} is not a share between 0 and 1.", "", "Write random:5% or random:0.05.")
    chosen: list[int] = shuffled(len(train), seed=seed)[: max(1, round(fraction * len(train)))].tolist()
    return chosen


def _of_ids(path: Path, train: Samples, forgotten: frozenset[str]) -> list[int]:
    if not path.is_file():
        raise MissingFile(f"There is no file {path}.", "", FORMS)
    ids = _read_ids(path)
    _require_known(ids, path, forgotten)
    _require_once(ids, path)
    where = {name: position for position, name in enumerate(train.ids)}
    unknown = [name for name in ids if name not in where]
    if unknown:
        raise BadRequest(
            f"{len(unknown)} of {len(ids)} ids in {path} are not in the training split, first {unknown[0]!r}.",
            f"Ids look like {train.ids[0]!r}.",
            HEADING if path.suffix != ".json" and unknown[0] == ids[0] else "Only training samples can be forgotten.",
        )
    return [where[name] for name in ids]


def _require_once(ids: list[str], path: Path) -> None:
    """Refuse ids that are listed twice: whoever made the list meant another number of samples."""
    twice = sorted(name for name, times in Counter(ids).items() if times > 1)
    if twice:
        what = f"{len(twice)} of {len(set(ids))} ids in {path} are listed more than once, first {twice[0]!r}."
        raise BadRequest(what, "A certificate counts samples, each once.", "Take the repetitions out of the list.")


def _require_known(ids: list[str], path: Path, forgotten: frozenset[str]) -> None:
    """Refuse ids that the network has forgotten already."""
    again = [name for name in ids if name in forgotten]
    if again:
        raise BadRequest(
            f"{len(again)} of {len(ids)} ids in {path} are already forgotten, first {again[0]!r}.",
            "A sample is forgotten once.",
            "Take them out of the list, or start from the network before that.",
        )


def _read_ids(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8-sig")
        return _from_json(json.loads(text), path) if path.suffix == ".json" else _from_csv(text)
    except (ValueError, RecursionError, csv.Error) as error:
        raise BadRequest(f"{path} cannot be read as a list of ids.", f"{error}.", FORMS) from error


def _from_json(value: Any, path: Path) -> list[str]:
    ids = value.get("ids") if isinstance(value, dict) else value
    if not isinstance(ids, list):
        raise BadRequest(f"{path} holds no list of ids.", "", 'Write ["id", ...] or {"ids": ["id", ...]}.')
    return [str(name) for name in ids]


def _from_csv(text: str) -> list[str]:
    """The column `id`, or the first column of a file without such a heading; lines with nothing in them do not count.

    Raises:
        ValueError: a row ends before that column.
    """
    rows = [row for row in csv.reader(text.splitlines()) if any(cell.strip() for cell in row)]
    column = rows[0].index("id") if rows and "id" in rows[0] else None
    if column is None:
        return [row[0].strip() for row in rows]
    if short := [row for row in rows if len(row) <= column]:
        raise ValueError(f"the row {','.join(short[0])!r} has no column id")
    return [row[column].strip() for row in rows[1:]]


def split_off(train: Samples, positions: list[int]) -> tuple[Samples, Samples]:
    """The samples to forget, and those that stay."""
    keep = torch.ones(len(train), dtype=torch.bool)
    keep[positions] = False
    return train.take(positions), train.take(keep.nonzero()[:, 0])
