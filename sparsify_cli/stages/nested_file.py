"""One network out of a nest's file, reading no more of it than that takes: here, or behind a URL by range requests.

A folder's manifest says what architecture and data belong to it, what each level was measured to be, and the hash of the whole file, which
becomes part of the lineage. The bytes of each level are checked against the hashes in the file's own header.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sparsify_cli.errors import BadRequest, Infeasible, MissingContext, UnreadableFile
from sparsify_cli.recipes.option import decimal
from sparsify_cli.stages.levels import require_level
from sparsify_cli.stages.subject import Subject, trusted_specs
from sparsify_cli.values.artifact import MANIFEST, NEST, Artifact, is_artifact, wrong_entries
from sparsify_cli.values.checkpoint import Checkpoint, Source
from sparsify_cli.values.file_hash import fingerprint
from sparsify_cli.values.mask_set import MaskSet
from sparsify_cli.values.nest import Nest
from sparsify_cli.values.nest_file import read_levels
from sparsify_cli.values.nest_plan import Plan, is_nest_file, read_plan
from sparsify_cli.values.ranges import Ranges, file_url, is_url, ranges
from sparsify_cli.values.vouched import require_header


@dataclass(frozen=True, eq=False)
class Asked:
    """Which level is wanted: by name, or the densest within a limit."""

    level: str = ""
    bytes: int | None = None
    latency: float | None = None


@dataclass(frozen=True, eq=False)
class Taken:
    """A level's network, and what reading it took.

    Args:
        network: masked weights and that level's own side state.
        parent: the nest as far as it was read, for the lineage.
        level: which one.
        levels: how many there are.
        nest: levels up to it.
        read: bytes that were read of the file.
        size: of the whole file.
        requests: how often something was read.
    """

    network: Subject
    parent: Subject
    level: int
    levels: int
    nest: Nest
    read: int
    size: int
    requests: int


@dataclass(frozen=True, eq=False)
class Place:
    """Where a nest lies.

    Args:
        source: its file, or a URL.
        shown: what it is called.
        artifact: the local folder it lies in.
        manifest: what is known about it.
        sha256: of the whole file, as far as that is known without reading it.
    """

    source: str | Path
    shown: str
    artifact: Artifact | None
    manifest: Mapping[str, Any]
    sha256: str


def find_nest(text: str) -> Place | None:
    """The nest that a path or URL names; None where a local path holds something else."""
    if is_url(text):
        return _remote(text.rstrip("/"))
    path = Path(text)
    if path.is_dir() and is_artifact(path):
        artifact = Artifact.open(path)
        weights = artifact.manifest.get("weights") or {}
        if not artifact.complete or weights.get("file") != NEST:
            return None
        if not (path / NEST).is_file():
            artifact.verified(NEST)  # says that it is gone
        return Place(path / NEST, text, artifact, artifact.manifest, str(artifact.manifest["files"].get(NEST, "")))
    return Place(path, text, None, {}, fingerprint(path)) if is_nest_file(path) else None


def take_level(place: Place, asked: Asked) -> Taken:
    """Read one level.

    Raises:
        BadRequest: no such level, or none was asked for.
        Infeasible: none is within the limit.
        MissingContext: a limit on what was not measured.
        UnreadableFile: the file is damaged or holds no nest.
    """
    with ranges(place.source) as source:
        plan = read_plan(source)
        require_header(plan, place.manifest, place.source)
        level = _level(plan, asked, place)
        nest, tensors = read_levels(source, plan, level)
        return _taken(place, nest, tensors, (level, plan.levels), source)


def _taken(place: Place, nest: Nest, tensors: dict[str, Any], level: tuple[int, int], source: Ranges) -> Taken:
    masks = nest.masks(level[0])
    architecture, data, trusted = trusted_specs(place.manifest)
    checkpoint = Checkpoint(tensors, Source(str(place.source), place.sha256))
    parent = Subject(checkpoint, MaskSet(), architecture, data, place.artifact, nest, trusted)
    network = replace(parent, masks=masks if masks.kept < masks.total else MaskSet(), nest=None)
    return Taken(network, parent, *level, nest, source.read, source.size, source.requests)


def _level(plan: Plan, asked: Asked, place: Place) -> int:
    """The level that is asked for."""
    wanted = [bool(asked.level), asked.bytes is not None, asked.latency is not None]
    if sum(wanted) > 1:
        raise BadRequest("Several ways to choose a level were given.", "", "Give one of --level, --max-bytes and --max-latency.")
    if asked.bytes is not None:
        return _densest(plan, lambda level: plan.ends[level - 1], asked.bytes, "{:,.0f} bytes of the file")
    if asked.latency is not None:
        return _densest(plan, _latencies(place, plan).__getitem__, asked.latency, "{:.3g} ms")
    return require_level(Nest(plan.sparsities, {}, ()), asked.level)


def _densest(plan: Plan, cost: Callable[[int], float], limit: float, words: str) -> int:
    """The last level within the limit.

    Raises:
        Infeasible: none is.
    """
    costs = {level: float(cost(level)) for level in range(1, plan.levels + 1)}
    within = [level for level, found in costs.items() if found <= limit]
    if within:
        return within[-1]
    nearest = min(costs, key=lambda level: costs[level])
    what = f"No level takes at most {words.format(limit)}."
    why = f"The nearest is {decimal(plan.sparsities[nearest - 1])} with {words.format(costs[nearest])}."
    raise Infeasible(what, why, f"Take it with --level {decimal(plan.sparsities[nearest - 1])}, or embed a sparser one.")


def _latencies(place: Place, plan: Plan) -> dict[int, float]:
    """Level -> milliseconds, as they were measured when the levels were embedded.

    Raises:
        MissingContext: they were not.
    """
    numbers = place.manifest.get("numbers", [])
    known = {str(f.get("scope")): f.get("value") for f in numbers if isinstance(f, Mapping) and f.get("name") == "latency_ms"}
    found = {level: known.get(f"level:{level}") for level in range(1, plan.levels + 1)}
    measured = {level: float(value) for level, value in found.items() if isinstance(value, int | float)}
    if len(measured) < plan.levels:
        raise MissingContext(f"{place.shown} does not say how long its levels take.", "", "Choose with --level or --max-bytes.")
    return measured


def _remote(url: str) -> Place:
    """A nest behind a URL: the file itself, or the folder that holds it with its manifest."""
    file = file_url(url, NEST)
    if file == url:
        return Place(url, url, None, {}, "")
    with ranges(f"{url}/{MANIFEST}") as source:
        text = source.take(0, source.size)
    try:
        manifest = json.loads(text)
        wrong = wrong_entries(manifest)
        if wrong or not isinstance(manifest.get("numbers", []), list):
            raise ValueError(wrong)
        digest = str(manifest["files"][NEST])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UnreadableFile(
            f"{url} holds no embedded levels.", "Its manifest names no nest.", "Give the URL of a folder or file."
        ) from error
    return Place(file, url, None, manifest, digest)
