"""Artifacts: the folder a verb writes: file names, hashes, lineage, one writer at a time, nothing half-written.

    manifest.json        schema, verb, recipe, seed, versions, parent, architecture and data, counts, every number; written last
    model.safetensors    the weights, dense layout
    masks.safetensors    packed masks (one bit a weight)
    nest.safetensors     all embedded networks in one file, instead of model and masks
    unlearning.json      what was forgotten, and what was measured of it
    forecast.json        what a dense network foretells of its compression
    run.pt               a training run that can be resumed; gone when it is done

A folder is claimed by creating it and locked while it is written; a reader believes a folder whose manifest says
`complete`. The artifact does not know what the tensors mean.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

from sparsify_cli.errors import BadRequest, Busy, MissingContext, MissingFile, UnreadableFile
from sparsify_cli.values.atomic import disk_failures, replace_file
from sparsify_cli.values.file_hash import fingerprint

SCHEMA = "sparsify/artifact/1"
MANIFEST, WEIGHTS, MASKS = "manifest.json", "model.safetensors", "masks.safetensors"
NEST, RUN, MEMO = "nest.safetensors", "run.pt", "memo.safetensors"
PACKED, CERTIFICATE, FORECAST = "model.packed.safetensors", "unlearning.json", "forecast.json"
LOG, OTHERS = "training.jsonl", "others"
PAGES = ("report.json", "report.html", "report.md", "report.csv")
RESERVED = frozenset({MANIFEST, MASKS, NEST, RUN, MEMO, CERTIFICATE, FORECAST, LOG, OTHERS, "masks.partial", *PAGES})
"""Names in an artifact's folder that files of somebody else's must not take."""

AGAIN = "Run the verb that made it again."
RUNS = Path("runs")
LOCK = ".lock"
TEMPORARY = re.compile(r"\.[0-9a-f]{8}-")
"""Names of unfinished files."""
ENTRIES = {"parent": ("path", "sha256"), "weights": ("file", "sha256"), "architecture": ("name", "options"), "data": ("name", "options")}
"""Entries of a manifest that are null or hold these keys."""
KINDS: Mapping[str, type | tuple[type, ...]] = {"options": dict, "value": (str, int, float, type(None))}
"""What is under a key of an entry; a text under all others."""


@dataclass(frozen=True)
class Artifact:
    """A folder some verb wrote.

    Args:
        folder: where it is.
        manifest: its manifest, plain JSON values.
    """

    folder: Path
    manifest: Mapping[str, Any]

    @classmethod
    def open(cls, folder: Path) -> Artifact:
        """Read a folder's manifest.

        Raises:
            MissingFile: no such folder, or no manifest in it.
            UnreadableFile: the manifest is damaged or of another schema.
        """
        path = folder / MANIFEST
        if not path.is_file():
            raise MissingFile(f"{folder} is not an artifact.", "It has no manifest.json.", "List yours with: ls runs")
        try:
            manifest = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise UnreadableFile(f"{path} is damaged.", f"It is not JSON: {error}.", AGAIN) from error
        if not isinstance(manifest, dict) or manifest.get("schema") != SCHEMA:
            raise UnreadableFile(f"{path} is of another kind or version.", f"Expected the schema {SCHEMA}.")
        if wrong := wrong_entries(manifest):
            raise UnreadableFile(f"{path} is damaged.", f"Missing or not what it should be: {', '.join(wrong)}.", AGAIN)
        return cls(folder, manifest)

    @property
    def verb(self) -> str:
        """The verb that wrote it."""
        return str(self.manifest["verb"])

    @property
    def complete(self) -> bool:
        """False for a run that was interrupted and can be resumed."""
        return bool(self.manifest["status"] == "complete")

    def file(self, name: str) -> Path | None:
        """One of its files, or None when it has none of that name."""
        path = self.folder / name
        return path if path.is_file() else None

    def verified(self, name: str) -> Path | None:
        """One of its files, made sure to be the one that was written; None when none of that name was.

        Raises:
            MissingFile: it was written and is gone.
            UnreadableFile: its content changed since.
        """
        expected = self.manifest.get("files", {}).get(name)
        if expected is None:
            return None
        path = self.folder / name
        if not path.is_file():
            raise MissingFile(f"{path} is gone.", "The manifest beside it says that it was written.", AGAIN)
        if (found := fingerprint(path)) != expected:
            why = f"Its sha256 is {found[:12]}..., the manifest says {str(expected)[:12]}...."
            raise UnreadableFile(f"{path} is not the file its manifest describes.", why, f"It was changed or damaged since. {AGAIN}")
        return path

    def weights(self) -> tuple[Path, str, dict[str, str]]:
        """What to open for its network, made sure to be what was written: path, dotted keys inside it, and names there -> names here.

        Raises:
            MissingFile, UnreadableFile: as for `verified`.
        """
        entry = self.manifest["weights"]
        parts, names = entry.get("parts", [entry["file"]]), entry.get("names", {})
        listed = isinstance(parts, list) and bool(parts) and all(isinstance(part, str) for part in parts)
        if not (listed and _is_inside(entry["file"]) and all(map(_is_inside, parts)) and set(parts) <= self.manifest["files"].keys()):
            raise UnreadableFile(f"{self.folder / MANIFEST} is damaged.", "It does not say which files hold the weights.", AGAIN)
        if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
            raise UnreadableFile(f"{self.folder / MANIFEST} is damaged.", "Its names of tensors are not texts.", AGAIN)
        for name in parts:
            self.verified(name)
        return self.folder / entry["file"], str(entry.get("entry", "")), names


def _is_inside(name: str) -> bool:
    """True for a plain path below an artifact's folder."""
    path = PurePosixPath(name)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts


def wrong_entries(manifest: Mapping[str, Any]) -> list[str]:
    """Names of entries that are missing or of another shape than this module and its readers count on."""
    wrong = [key for key in ("verb", "status") if not isinstance(manifest.get(key), str)]
    wrong += [key for key in ("recipe", "versions", "code", "facts", "files", "tensors") if not isinstance(manifest.get(key, {}), dict)]
    wrong += [key for key, parts in ENTRIES.items() if manifest.get(key) is not None and not _holds(manifest[key], parts)]
    wrong += [key for key in ("architecture", "data") if key not in wrong and not _is_shrunk(manifest.get(key) or {})]
    if not wrong and not all(isinstance(digest, str) for digest in manifest.get("files", {}).values()):
        wrong.append("files")
    numbers = manifest.get("numbers", [])
    sound = isinstance(numbers, list) and all(_holds(one, ("name", "scope", "value")) for one in numbers)
    return wrong if sound else [*wrong, "numbers"]


def _holds(entry: Any, parts: tuple[str, ...]) -> bool:
    """Whether an entry is a mapping with these keys and the right kind of value under each."""
    return isinstance(entry, dict) and all(isinstance(entry.get(key, ...), KINDS.get(key, str)) for key in parts)


def _is_shrunk(spec: Mapping[str, Any]) -> bool:
    """Whether what a spec says of shrinking are shapes and names."""
    parts = spec.get("identity", [])
    named = isinstance(parts, list) and all(isinstance(name, str) for name in parts)
    compact = spec.get("compact", {})
    return named and _are_shapes(spec.get("resized", {})) and _are_shapes(compact) and all(len(kept) == 2 for kept in compact.values())


def _are_shapes(found: Any) -> bool:
    """Whether it is a mapping of names to lists of whole numbers above zero."""
    sizes = found.values() if isinstance(found, dict) else [None]
    return all(isinstance(shape, list) and all(type(size) is int and size > 0 for size in shape) for shape in sizes)


def is_artifact(path: Path) -> bool:
    """True for a folder with a manifest of ours, also a damaged one unless somebody else's checkpoint lies there."""
    manifest = path / MANIFEST
    if not manifest.is_file():
        return False
    try:
        found = json.loads(manifest.read_text(encoding="utf-8"))
    except OSError:
        return True
    except (ValueError, RecursionError):
        found = None
    if isinstance(found, dict) and (str(found.get("schema")).startswith("sparsify/") or {"verb", "recipe"} <= found.keys()):
        return True
    if found:
        return False
    names = {entry.name for entry in path.iterdir()}
    foreign = {name for name in names if name == "config.json" or name.endswith((".safetensors", ".safetensors.index.json"))}
    return bool(names & {MASKS, NEST, MEMO, "masks.partial"}) or foreign <= {WEIGHTS, PACKED}


def newest(verbs: tuple[str, ...], *, runs: Path = RUNS, file: str = "") -> Artifact:
    """The newest complete artifact with a network that one of `verbs` wrote.

    Args:
        verbs: any of them.
        runs: where to look.
        file: what its network must be stored in; empty = anything.

    Raises:
        MissingContext: there is none.
    """
    folders = sorted(runs.glob("[0-9]*-*"), key=_number, reverse=True) if runs.is_dir() else []
    damaged: list[str] = []
    for folder in filter(is_artifact, folders):
        try:
            artifact = Artifact.open(folder)
        except UnreadableFile:  # one bad folder must not stand in the way of the good ones
            damaged.append(str(folder))
            continue
        weights = artifact.manifest.get("weights")
        if artifact.complete and artifact.verb in verbs and weights and file in ("", weights["file"]):
            return artifact
    raise MissingContext(
        f"No artifact of {' or '.join(verbs)} is in {runs}/.",
        f"The manifest of {' and '.join(damaged)} is damaged." if damaged else "",
        f"Name a file or folder, or run first: sparsify {verbs[0]} ...",
    )


def _number(folder: Path) -> int:
    match = re.match(r"\d+", folder.name)
    return int(match[0]) if match else 0


def reserve(verb: str, name: str, *, runs: Path = RUNS) -> Path:
    """Create `runs/NNN-verb-name` with the next free number, also when several processes ask at once.

    Args:
        verb: the verb that will write it.
        name: what it works on; loses the number and verb of the artifact it came from.

    Raises:
        DiskFailure: it cannot be created.
    """
    stem = re.sub(r"^\d+-[a-z]+-", "", name) or "model"
    with disk_failures(runs):
        runs.mkdir(parents=True, exist_ok=True)
        while True:
            taken = [_number(folder) for folder in runs.glob("[0-9]*-*")]
            with contextlib.suppress(FileExistsError):
                folder = runs / f"{max(taken, default=0) + 1:03d}-{verb}-{stem}"
                folder.mkdir()
                return folder


@contextlib.contextmanager
def claimed(folder: Path, *, held: bool = False) -> Iterator[Path]:
    """Hold `folder` for writing, alone; if the block fails before anything resumable was written, nothing of it is left.

    An empty folder that was there before is used, and empty again after a failure.

    Args:
        folder: the artifact's folder.
        held: it is ours already (reserved, or an interrupted run); otherwise it must not exist.

    Raises:
        BadRequest: something is there already.
        Busy: another process holds it.
        DiskFailure: it cannot be created.
    """
    made = [folder] if held else _create(folder)
    with _locked(folder):
        if not held and _contents(folder):  # another writer came between creating and locking
            raise _taken(folder)
        _sweep(folder)
        try:
            yield folder
        except BaseException:
            if not is_artifact(folder):
                _undo(folder, made)
            raise


def _undo(folder: Path, made: list[Path]) -> None:
    """Remove what was written into a folder, and of the folder and its parents those that were made for it."""
    with contextlib.suppress(OSError):  # a parent that holds something else by now stays
        for path in folder.iterdir():
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)
        for path in reversed(made):
            path.rmdir()


def _sweep(folder: Path) -> None:
    """Remove the temporary files of a writer that was killed; the lock says that nobody writes here now."""
    for path in [*folder.glob(".*"), *folder.glob("*/.*")]:
        if TEMPORARY.match(path.name) and path.is_file():
            path.unlink(missing_ok=True)


def _create(folder: Path) -> list[Path]:
    """Make a folder and its parents; returns those that were not there, outermost first."""
    missing = [path for path in reversed(folder.parents) if not path.is_dir()]
    with disk_failures(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            folder.mkdir()
        except FileExistsError:
            _refuse_if_taken(folder)
            return []
    return [*missing, folder]


def require_free(folder: Path) -> None:
    """Refuse a folder that is taken, before the work that fills it; whether it still is free is asked again when it is claimed.

    Raises:
        BadRequest: something is there already.
        Busy: another process holds it.
    """
    if folder.exists():
        _refuse_if_taken(folder)


def _refuse_if_taken(folder: Path) -> None:
    if folder.is_dir() and _is_locked(folder):
        raise _busy(folder)
    if not folder.is_dir() or _contents(folder):
        raise _taken(folder)


def _contents(folder: Path) -> list[str]:
    """What a folder holds, without the lock and the temporary files of a writer that was killed."""
    return [path.name for path in folder.iterdir() if path.name != LOCK and not TEMPORARY.match(path.name)]


def _taken(folder: Path) -> BadRequest:
    return BadRequest(f"{folder} already exists.", "Nothing is overwritten.", "Choose another --out, or remove it first.")


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    with _lock(folder):
        try:
            yield
        finally:
            (folder / LOCK).unlink(missing_ok=True)  # while it is held: whoever opened it before finds out in `_lock`


def _lock(folder: Path) -> IO[str]:
    """The lock file, open and locked; never one that its last holder removed in the meantime."""
    while True:
        with disk_failures(folder):
            lock = (folder / LOCK).open("a")
        if not _flocked(lock):
            lock.close()
            raise _busy(folder)
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(lock.fileno()), (folder / LOCK).stat()):
                return lock
        lock.close()


def _flocked(lock: IO[str]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_locked(folder: Path) -> bool:
    try:
        with (folder / LOCK).open("r") as lock:  # asking must not leave a file behind
            return not _flocked(lock)
    except FileNotFoundError:
        return False


def _busy(folder: Path) -> Busy:
    return Busy(f"Another process is writing {folder}.", "Two writers would mix their results.", "Wait for it, or choose another --out.")


def write_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Write the manifest, whole or not at all; the last file of an artifact."""
    text = json.dumps({"schema": SCHEMA, **manifest}, indent=1, sort_keys=False, allow_nan=False)
    replace_file(folder / MANIFEST, lambda path: path.write_text(text + "\n", encoding="utf-8"))


def relative_to(path: Path, folder: Path) -> str:
    """`path` as seen from `folder`, so that a project can be moved as a whole."""
    return os.path.relpath(path.resolve(), folder.resolve())
