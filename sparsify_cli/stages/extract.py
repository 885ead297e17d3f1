"""`extract`: one sparse network out of an embedded artifact, by masking alone; no data is needed, and no byte beyond its level is read.

But for a file without the folder that `embed` wrote: the lineage needs its hash, for which it is read as a whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from sparsify_cli.contracts.listener import Listener
from sparsify_cli.recipes.option import decimal
from sparsify_cli.recipes.verbs import ExtractRecipe
from sparsify_cli.stages.export import exported
from sparsify_cli.stages.forgotten import FORGOTTEN
from sparsify_cli.stages.levels import nest_of, with_own_statistics
from sparsify_cli.stages.nested_file import Asked, Place, Taken, find_nest, take_level
from sparsify_cli.stages.outcome import Outcome
from sparsify_cli.stages.sizes import size_findings
from sparsify_cli.stages.subject import open_subject, with_context
from sparsify_cli.stages.tables import said
from sparsify_cli.stages.write import Product, output_folder, write_product
from sparsify_cli.values.artifact import NEST, WEIGHTS, claimed, newest
from sparsify_cli.values.report import Finding, Report
from sparsify_cli.values.tensor_size import packed_bytes

READ = "Bytes read of the file that holds all levels."


def extract(recipe: ExtractRecipe, listener: Listener) -> Outcome:
    """Extract a level and write it as an artifact of its own, or in another format."""
    place = _place(recipe, listener)
    taken = take_level(place, Asked(recipe.level, recipe.max_bytes, recipe.max_latency))
    network = with_context(taken.network, (recipe.arch, recipe.arch_arg), (recipe.data, recipe.data_arg))
    if taken.nest.state == "shared" and taken.level < taken.levels:
        listener.note("levels share their batch norm: statistics of this one are measured on training samples")
        network = with_own_statistics(network)
    taken = replace(taken, network=network)
    gone = {FORGOTTEN: ids} if (ids := place.manifest.get("facts", {}).get(FORGOTTEN)) else {}
    if recipe.to is not None:
        done = exported(recipe, recipe.to, taken.network, taken.parent, facts=gone)
        return replace(done, notes=(*done.notes, *_room(recipe, taken, sum(file.stat().st_size for file in done.files))))
    sparsity = decimal(taken.nest.sparsities[taken.level - 1])
    report = Report((*size_findings(taken.network), *_read(taken)), {"level": taken.level, "sparsity": sparsity})
    folder, held = output_folder(recipe, f"{Path(place.shown).name}-{sparsity}")
    with claimed(folder, held=held):
        write_product(
            folder, Product(recipe, taken.network, report, taken.parent, taken.network.checkpoint, taken.network.masks, facts=gone)
        )
    return replace(_outcome(place, taken, report, folder), notes=tuple(_room(recipe, taken, (folder / WEIGHTS).stat().st_size)))


def _place(recipe: ExtractRecipe, listener: Listener) -> Place:
    """Where the nest lies.

    Raises:
        BadRequest: what is there holds no embedded levels.
    """
    text = recipe.model or str(newest(("embed", "unlearn"), file=NEST).folder)
    if not recipe.model:
        listener.note(f"taking {text}, the newest")
    place = find_nest(text)
    if place is None:
        nest_of(open_subject(replace(recipe, model=text), listener=listener))  # says what is there instead
        raise AssertionError("a nest that was not found is there")
    return place


def _room(recipe: ExtractRecipe, taken: Taken, written: int) -> Iterator[str]:
    """That a limit on what is read of the nest is none on what is written, where that is larger."""
    limit = recipe.max_bytes
    if limit is None or written <= limit:
        return
    packed = packed_bytes(taken.network.checkpoint.tensors)
    smaller = f"; --to packed writes {packed:,}" if packed < written else ""
    sparser = (
        "" if smaller and packed <= limit else ", a sparser level (--level) less" if smaller else "; a sparser level (--level) takes less"
    )
    what = f"--max-bytes bounds what is read of the nest ({taken.read:,} bytes)"
    yield f"{what}; what was written takes {written:,}, more than the {limit:,} asked for{smaller}{sparser}."


def _read(taken: Taken) -> tuple[Finding, ...]:
    return (
        Finding(name="bytes_read", value=float(taken.read), unit="bytes", better="lower", definition=READ),
        Finding(name="bytes_nest", value=float(taken.size), unit="bytes", definition="Size of the file that holds all levels."),
    )


def _outcome(place: Place, taken: Taken, report: Report, folder: Path) -> Outcome:
    masks, packed = taken.nest.masks(taken.level), said(report.get("bytes_packed"))
    sparsity = decimal(taken.nest.sparsities[taken.level - 1])
    network = f"Level {taken.level} (sparsity {sparsity}) of {place.shown}: {masks.kept:,} of {masks.total:,} weights, {packed} packed"
    headline = f"{network}; {said(report.get('bytes_read'))} of {said(report.get('bytes_nest'))} read."
    return Outcome("extract", headline, report, folder, hints=(f"sparsify validate {folder}", f"sparsify export {folder} --to packed"))
