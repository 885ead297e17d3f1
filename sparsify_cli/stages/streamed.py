"""Pruning by magnitude without holding a network: tensors are counted, ranked and written slice by slice, file by file.

The masks equal those chosen in memory bit for bit. The result is of the kind of the original: what is no pruned weight is
the same, byte for byte. After each finished file the folder can be resumed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from sparsify_cli.contracts.listener import Listener
from sparsify_cli.criteria.magnitude import Magnitude
from sparsify_cli.errors import BadRequest, DiskFailure, Interrupted, UnreadableFile
from sparsify_cli.maths.magnitude_keys import BITS
from sparsify_cli.maths.matrix_view import obstacle
from sparsify_cli.maths.radix_select import Cut
from sparsify_cli.maths.weight_view import WeightView
from sparsify_cli.recipes.pattern import Pattern
from sparsify_cli.recipes.verbs import PruneRecipe
from sparsify_cli.stages.cutting import Census, Cuts, census, cuts_of, ranked_alone, seen_as_pruned
from sparsify_cli.stages.like_original import base_of, copy_companions, written
from sparsify_cli.stages.plan import masked_names, plan
from sparsify_cli.stages.rewriting import write_copy
from sparsify_cli.stages.rows import Row
from sparsify_cli.stages.shared_memory import apart, sharing
from sparsify_cli.stages.slices import Meter, Target
from sparsify_cli.stages.sparsifier import require_carried
from sparsify_cli.stages.strategy import strategy
from sparsify_cli.stages.stream_report import stream_report
from sparsify_cli.stages.subject import Subject
from sparsify_cli.stages.write import Product, manifest, output_folder
from sparsify_cli.values.artifact import MANIFEST, MASKS, Artifact, claimed, relative_to, require_free, write_manifest
from sparsify_cli.values.atomic import disk_failures, replace_file
from sparsify_cli.values.checkpoint import Home
from sparsify_cli.values.file_hash import fingerprint
from sparsify_cli.values.mask_file import mask_digest
from sparsify_cli.values.mask_writer import MaskWriter
from sparsify_cli.values.overlaps import meeting
from sparsify_cli.values.report import Report

PARTIAL = "masks.partial"


@dataclass(frozen=True, eq=False)
class Job:
    """What is streamed.

    Args:
        recipe: the request.
        before: the network, mapped and not read.
        rows: its plan.
        targets: prunable tensors.
        cuts: what stays of each.
        counted: zeros of every tensor before.
        held: tensors that were pruned before and are not now; they stay as sparse as they were.
    """

    recipe: PruneRecipe
    before: Subject
    rows: Sequence[Row]
    targets: Sequence[Target]
    cuts: Cuts
    counted: Census
    held: Sequence[Target] = ()

    @property
    def masked(self) -> list[Target]:
        """Every tensor that has a mask afterwards."""
        return [*self.targets, *self.held]

    @property
    def home(self) -> Home:
        """Where the tensors lie."""
        return home_of(self.before)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every mask."""
        return {target.name: target.place.shape for target in self.masked}


@dataclass(frozen=True, eq=False)
class Streamed:
    """What streaming wrote.

    Args:
        job: what was asked for and decided.
        folder: the artifact's.
        report: every number.
    """

    job: Job
    folder: Path
    report: Report


def home_of(subject: Subject) -> Home:
    """The files of a subject that is streamed."""
    if subject.checkpoint.home is None:
        raise BadRequest(f"{subject.path} cannot be read in slices.")
    return subject.checkpoint.home


def can_stream(recipe: PruneRecipe, before: Subject) -> bool:
    """True when weights are ranked by magnitude alone, nothing is measured, and the files can be copied with changes."""
    home = before.checkpoint.home
    criterion = strategy("criteria", recipe.criterion, seed=recipe.seed)
    plain = type(criterion) is Magnitude and recipe.solver is None and recipe.save_as == "same" and recipe.extras == "keep"
    plain = plain and not recipe.pattern.transposed
    return plain and home is not None and not home.folds and before.nest is None and not before.has_context


def job_of(recipe: PruneRecipe, before: Subject, listener: Listener, *, known: Mapping[str, Any] | None = None) -> Job:
    """Count and rank; nothing is written.

    Args:
        recipe: the request.
        before: the network.
        listener: hears progress.
        known: what an interrupted run found out, instead of counting and ranking again.
    """
    rows = plan(before.checkpoint, before.architecture, skip=recipe.skip, include=recipe.include)
    places, root = home_of(before).places, home_of(before).layout.root
    targets = [_target(row, before, recipe) for row in rows if row.matched]
    if recipe.strict:
        require_carried({target.name: target.view.oriented for target in targets}, recipe.pattern)
    if known is not None:
        return _job(recipe, before, rows, targets, _cuts_from(known["cuts"]), Census(**known["census"]))
    floats = [Target(row.name, places[row.name], _plain_view(row)) for row in rows if places[row.name].is_float and row.dtype in BITS]
    counted = census(root, floats, listener, ranked=ranked_alone(targets, recipe))
    if not recipe.allow_nonfinite:
        counted.require_finite(before.path)
    cuts = cuts_of(root, targets, recipe, counted, listener, zeros_go=_pruned_before(before, rows, counted))
    listener.done()
    return _job(recipe, before, rows, targets, cuts, counted)


def _pruned_before(before: Subject, rows: Sequence[Row], counted: Census) -> frozenset[str]:
    """Names of the tensors whose zeros stay: an artifact's masks say it, a plain file's share of zeros tells, skipped layers included."""
    if before.artifact is None:
        names = set(masked_names(rows, before.checkpoint, before.architecture))
        return seen_as_pruned([_whole(row, before) for row in rows if row.name in names], counted.zeros)
    pruned = {name for name, mask in before.masks.items() if not bool(mask.all())}
    near = meeting([row.name for row in rows if row.matched], home_of(before).places)
    return frozenset(pruned | {name for name, others in near.items() if others & pruned})


def _job(recipe: PruneRecipe, before: Subject, rows: Sequence[Row], targets: Sequence[Target], cuts: Cuts, counted: Census) -> Job:
    """The job, with the tensors that are not pruned now, share no number with one that is, and keep the masks they had."""
    now = {target.name for target in targets}
    names = list(before.masks) if before.artifact is not None else []
    if cuts.zeros_go and before.artifact is None:
        names = masked_names(rows, before.checkpoint, before.architecture)
    still = set(apart(names, now, home_of(before).places))
    given = {name: mask for name, mask in before.masks.items() if name in still} if before.artifact is not None else {}
    held = [_whole(row, before) for row in rows if row.name in still]
    kept = {target.name: target.weights - (counted.zeros[target.name] if target.name in cuts.zeros_go else 0) for target in held}
    kept |= {name: int(mask.sum()) for name, mask in given.items()}
    return Job(recipe, before, rows, targets, replace(cuts, kept={**cuts.kept, **kept}, given=given), counted, held)


def _whole(row: Row, before: Subject) -> Target:
    """A tensor that no pattern takes apart."""
    place = home_of(before).places[row.name]
    return Target(row.name, place, WeightView(place.shape, place.dtype, Pattern()), carries=False)


def streamed(recipe: PruneRecipe, before: Subject, listener: Listener, *, resume: Path | None = None) -> Streamed:
    """Prune into a folder.

    Args:
        recipe: the request.
        before: the network.
        listener: hears progress.
        resume: the folder of an interrupted run, instead of a new one.

    Raises:
        Interrupted: with the command that continues, when a file was finished.
    """
    if resume is not None:
        known = _known(resume, before)
        job = job_of(recipe, before, listener, known=known)
        _require_bits(job, resume, known["masks"])
        return _streamed(job, resume, True, listener, dict(known["finished"]))
    if recipe.out:
        require_free(Path(recipe.out))
    job = job_of(recipe, before, listener)
    folder, held = output_folder(recipe, before.name)
    return _streamed(job, folder, held, listener, {})


def _streamed(job: Job, folder: Path, held: bool, listener: Listener, finished: dict[str, dict[str, int]]) -> Streamed:
    """Write what was decided into a folder that is claimed for it."""
    with claimed(folder, held=held), _resumable(folder):
        zeros = _written(job, folder, listener, finished)
        listener.done()
        return Streamed(job, folder, _finished(job, folder, zeros))


def _target(row: Row, before: Subject, recipe: PruneRecipe) -> Target:
    place = home_of(before).places[row.name]
    view = WeightView(place.shape, place.dtype, recipe.pattern, row.transposed, row.groups)
    return Target(row.name, place, view, obstacle(view.oriented, recipe.pattern) is None)


def _plain_view(row: Row) -> WeightView:
    """A tensor as a run of numbers, whatever its shape."""
    return WeightView((1, row.weights), row.dtype, Pattern())


def _written(job: Job, folder: Path, listener: Listener, finished: dict[str, dict[str, int]]) -> dict[str, int]:
    """Write every file that is not finished; zeros of each target afterwards."""
    layout, base = job.home.layout, base_of(folder, job.home.layout)
    masks = MaskWriter(folder / PARTIAL, job.shapes)
    if not finished:
        masks.path.touch()
        masks.begin()
    meter = Meter(listener, "writing", sum((layout.root / name).stat().st_size for name in layout.files if name not in finished))
    for name in layout.files:
        if name not in finished:
            here = [target for target in job.masked if target.place.file == name]
            finished[name] = _one_file(job, name, base, here, masks, meter)
            if len(layout.files) > 1:
                masks.flush()
                write_manifest(folder, _unfinished(job, folder, finished))
    copy_companions(layout, base)
    replace_file(folder / MASKS, lambda path: masks.path.replace(path))
    return {name: count for counts in finished.values() for name, count in counts.items()}


def _one_file(job: Job, name: str, base: Path, here: Sequence[Target], masks: MaskWriter, meter: Meter) -> dict[str, int]:
    found: dict[str, int] = {}
    layout = job.home.layout
    with disk_failures(base / name):
        (base / name).parent.mkdir(parents=True, exist_ok=True)
    replace_file(base / name, lambda path: found.update(write_copy(layout, name, path, here, job.cuts, masks, meter)))
    return found


def _finished(job: Job, folder: Path, zeros: Mapping[str, int]) -> Report:
    """The report, and the manifest that vouches for everything."""
    zeros = {**zeros, **_zeros_beside(job, folder, zeros)}
    report = stream_report(job.before, job.rows, job.counted.zeros, zeros, job.cuts.kept)
    product = _product(job, report, masks=mask_digest(folder / MASKS))
    counts = {row.name: _count(row, job, zeros) for row in job.rows}
    write_manifest(folder, manifest(folder, replace(product, counts=counts), written(folder, job.home, entry=job.recipe.entry)))
    return report


def _zeros_beside(job: Job, folder: Path, zeros: Mapping[str, int]) -> dict[str, int]:
    """Zeros of the tensors that are not pruned themselves and share numbers with pruned ones, as they are now."""
    places = job.home.places
    known = {target.place: zeros[target.name] for target in job.targets}
    rows = [row for row in sharing(job.rows, places) if row.name in job.counted.zeros]
    new = {places[row.name]: Target(row.name, places[row.name], _plain_view(row)) for row in rows if places[row.name] not in known}
    found = census(base_of(folder, job.home.layout), list(new.values()), Listener()).zeros
    known |= {place: found[target.name] for place, target in new.items()}
    return {row.name: known[places[row.name]] for row in rows}


def _count(row: Row, job: Job, zeros: Mapping[str, int]) -> dict[str, Any]:
    kept = {"kept": job.cuts.kept[row.name]} if row.name in job.cuts.kept else {}
    return {"shape": list(row.shape), "dtype": row.dtype, "zeros": zeros.get(row.name, job.counted.zeros.get(row.name, 0)), **kept}


def _product(job: Job, report: Report, *, masks: str | None = None) -> Product:
    return Product(job.recipe, job.before, report, job.before, counts={}, masks_sha256=masks)


def _unfinished(job: Job, folder: Path, finished: Mapping[str, Mapping[str, int]]) -> dict[str, Any]:
    """A manifest from which `--resume` goes on."""
    base = base_of(folder, job.home.layout)
    known = {
        "finished": {name: dict(counts) for name, counts in finished.items()},
        "files": {name: fingerprint(base / name) for name in finished},
        "masks": {name: _bits_digest(job, folder, name) for name in finished},
        "census": {"zeros": dict(job.counted.zeros), "nonfinite": dict(job.counted.nonfinite)},
        "cuts": _cuts_to_json(job.cuts),
    }
    product = replace(_product(job, Report(())), facts={"streamed": known, "started_in": relative_to(Path.cwd(), folder)})
    return manifest(folder, product, status="interrupted")


def _cuts_to_json(cuts: Cuts) -> dict[str, Any]:
    return {
        "cuts": {name: [cut.kept, str(cut.key), cut.ties, cut.equal] for name, cut in cuts.cuts.items()},
        "common": cuts.common,
        "zeros_go": sorted(cuts.zeros_go),
        "lenient": cuts.lenient,
        "target": str(cuts.target),
        "kept": dict(cuts.kept),
    }


def _cuts_from(value: Mapping[str, Any]) -> Cuts:
    cuts = {name: Cut(kept, int(key), ties, equal) for name, (kept, key, ties, equal) in value["cuts"].items()}
    return Cuts(cuts, value["common"], frozenset(value["zeros_go"]), value["lenient"], Fraction(value["target"]), value["kept"])


def _known(folder: Path, before: Subject) -> Mapping[str, Any]:
    """What an interrupted run found out, once it is sure that nothing changed since.

    Raises:
        UnreadableFile: the original, or a file that was finished, is not what it was.
    """
    artifact = Artifact.open(folder)
    found: Mapping[str, Any] | None = artifact.manifest.get("facts", {}).get("streamed")
    parent = artifact.manifest.get("parent") or {}
    if found is None or not (folder / PARTIAL).is_file():
        raise BadRequest(f"{folder} holds nothing to resume.", "", "Start the run again.")
    if parent.get("sha256") != before.checkpoint.source.sha256:
        raise UnreadableFile(
            f"{before.path} is not what {folder} started from.", "Its sha256 differs.", "Put the original back, or start again."
        )
    base = base_of(folder, home_of(before).layout)
    for name, digest in _files_of(found, folder, home_of(before)).items():
        if not (base / name).is_file() or fingerprint(base / name) != digest:
            raise UnreadableFile(f"{base / name} is not what was written.", "It was changed or removed since.", "Start the run again.")
    return found


def _files_of(found: Mapping[str, Any], folder: Path, home: Home) -> Mapping[str, str]:
    """The finished files and their digests, from a manifest that nobody vouches for.

    Raises:
        UnreadableFile: it is damaged.
    """
    damaged = UnreadableFile(
        f"{folder / 'manifest.json'} is damaged.", "What it says of finished files makes no sense.", "Start the run again."
    )
    try:
        _cuts_from(found["cuts"])
        Census(**found["census"])
        names = [set(found[key]) for key in ("files", "finished", "masks")]
        sound = names[0] == names[1] == names[2] and names[0] <= set(home.layout.files)
        sound = sound and all(isinstance(count, int) for counts in found["finished"].values() for count in counts.values())
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise damaged from error
    if not sound:
        raise damaged
    files: Mapping[str, str] = found["files"]
    return files


def _bits_digest(job: Job, folder: Path, name: str) -> str:
    """The sha256 of the mask bits of one file's tensors."""
    return MaskWriter(folder / PARTIAL, job.shapes).digest(sorted(t.name for t in job.masked if t.place.file == name))


def _require_bits(job: Job, folder: Path, expected: Mapping[str, str]) -> None:
    """Make sure that the bits written so far are what they were.

    Raises:
        UnreadableFile: they are not.
    """
    for name, digest in expected.items():
        if _bits_digest(job, folder, name) != digest:
            raise UnreadableFile(f"{folder / PARTIAL} is not what was written.", "It was changed or cut since.", "Start the run again.")


@contextmanager
def _resumable(folder: Path) -> Iterator[None]:
    try:
        yield
    except (KeyboardInterrupt, DiskFailure) as stop:
        if not (folder / MANIFEST).is_file():
            raise
        kept, go_on = "The files that were finished are kept.", f"Continue: sparsify prune --resume {folder}"
        if isinstance(stop, DiskFailure):
            raise DiskFailure(stop.what, f"{stop.why.replace(' Nothing was changed.', '')} {kept}", f"{stop.do} {go_on}") from stop
        raise Interrupted("Interrupted.", kept, go_on) from stop
