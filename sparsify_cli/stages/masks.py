"""`masks`: masks as things of their own: taken out of a sparse network, put onto another, compared, merged, counted.

Every action says the hash of the masks it worked on: sha256 over names, shapes and bits, the same on every machine, for
every type of number and however the file is cut into shards.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from sparsify_cli.contracts.listener import Listener
from sparsify_cli.errors import BadRequest, KeyMismatch
from sparsify_cli.maths.mask_compare import (
    Difference,
    LayerMask,
    Overlap,
    aligned,
    difference,
    layer_mask,
    merged,
    require_same_shapes,
    shapes_of,
)
from sparsify_cli.pages.wording import percent
from sparsify_cli.recipes.masks import MasksRecipe
from sparsify_cli.stages.open_masks import chosen, open_masks, prunable, require_used
from sparsify_cli.stages.outcome import Outcome, Table
from sparsify_cli.stages.plan import matches, tied_names, untied
from sparsify_cli.stages.reading import odd_names, odd_notes, odd_places
from sparsify_cli.stages.shared_memory import apart, seen_through
from sparsify_cli.stages.sizes import compared_sizes
from sparsify_cli.stages.subject import Subject, open_path
from sparsify_cli.stages.tables import before_after, filled
from sparsify_cli.stages.write import Product, output_folder, write_product
from sparsify_cli.values.artifact import MASKS, claimed
from sparsify_cli.values.layout import Place
from sparsify_cli.values.mask_set import MaskSet
from sparsify_cli.values.report import Finding, Report

SHOWN = ("sparsity", "sparsity_total", "nonzeros", "bytes_disk", "bytes_packed")

SPARSITY = Finding(name="sparsity", value=None, unit="fraction", definition="Share of the weights under a mask that it does not keep.")
IOU = Finding(
    name="mask_iou",
    value=None,
    unit="fraction",
    definition="Weights that both masks keep, divided by those that at least one keeps.",
    source="Jaccard 1912",
)
BOTH = Finding(name="mask_overlap", value=None, unit="weights", definition="Weights that both masks keep.")


def masks(recipe: MasksRecipe, listener: Listener) -> Outcome:
    """Do what was asked with masks.

    Raises:
        BadRequest: too few or too many paths.
        KeyMismatch: masks that do not fit each other, or the network.
    """
    del listener
    action, least, most, example = ACTIONS[recipe.action]
    count = len(recipe.paths)
    if not least <= count <= most:
        needed = f"{least}" if least == most else f"at least {least}"
        raise BadRequest(f"`masks {recipe.action}` takes {needed} path{'s' * (least > 1)}, {count} given.", "", f"Write: {example}")
    if bool(recipe.masks) != (recipe.action == "apply"):
        where = f"Write: {ACTIONS['apply'][3]}"
        raise BadRequest(f"--masks goes with `masks apply`{'' if recipe.masks else ', and is not given'}.", "", where)
    return action(recipe)


def _stats(recipe: MasksRecipe) -> Outcome:
    subject = _opened(recipe, recipe.paths[0])
    layers = [layer_mask(name, subject.masks[name]) for name in subject.masks]
    headline = f"{subject.path}: {_counted(subject.masks)}."
    return Outcome("masks", headline, Report(tuple(_sparsities(subject.masks, layers)), _facts(subject)), tables=(_stats_table(layers),))


def _extract(recipe: MasksRecipe) -> Outcome:
    subject = _opened(recipe, recipe.paths[0])
    return _written(recipe, subject, f"Masks of {subject.path}: {_counted(subject.masks)}.", _facts(subject))


def _merge(recipe: MasksRecipe) -> Outcome:
    subjects = [_opened(recipe, path) for path in recipe.paths]
    first = subjects[0]
    sets = [aligned(subject.masks, shapes_of(first.masks)) for subject in subjects]
    found = replace(first, masks=merged(sets, recipe.how))
    facts = {**_facts(found), "merged": [{"path": str(s.path), "masks_sha256": s.masks.digest()} for s in subjects]}
    return _written(recipe, found, f"{len(subjects)} masks merged by `{recipe.how}`: {_counted(found.masks)}.", facts)


def _diff(recipe: MasksRecipe) -> Outcome:
    a, b = (_opened(recipe, path) for path in recipe.paths)
    found = difference(a.masks, aligned(b.masks, shapes_of(a.masks)))
    if not found.layers:
        raise KeyMismatch(
            f"{a.path} and {b.path} have no masked tensor in common.",
            f"The first of each are {next(iter(a.masks), '')!r} and {next(iter(b.masks), '')!r}.",
            "They belong to different networks.",
        )
    total, hashes = found.total, (a.masks.digest(), b.masks.digest())
    facts = {"masks_sha256": list(hashes), "only_in_a": list(found.only_in_a), "only_in_b": list(found.only_in_b)}
    headline = f"IoU {total.iou:.4f}: {total.both:,} weights are kept in both, {total.only_a:,} only in A, {total.only_b:,} only in B. "
    same = f"The same masks, hash {hashes[0]}." if hashes[0] == hashes[1] else f"Mask hashes: A {hashes[0]}, B {hashes[1]}."
    return Outcome("masks", headline + same, Report(tuple(_overlaps(found)), facts), tables=(_diff_table(found),), notes=_alone(found))


def _apply(recipe: MasksRecipe) -> Outcome:
    before = open_path(Path(recipe.paths[0]), entry=recipe.entry, trust=recipe.trust_pickle, plain=False).single().checked()
    fitting = _fitting(recipe, before, open_masks(Path(recipe.masks)))
    folder, held = output_folder(recipe, before.name)
    with claimed(folder, held=held):
        tensors = untied(fitting.apply(before.checkpoint.tensors), tied_names(before.checkpoint, before.architecture))
        left = apart(list(before.masks), list(fitting), _places(before))  # layers that were left out keep theirs
        kept = {name: before.masks[name] for name in left}
        after = before.changed(before.checkpoint.with_tensors(tensors), MaskSet({**kept, **fitting}))
        report = Report(tuple(compared_sizes(before, after)), {"masks": recipe.masks, "masks_sha256": fitting.digest()})
        report = write_product(folder, Product(recipe, after, report, before, after.checkpoint, after.masks))
    headline = f"Masks of {recipe.masks} applied to {before.path}: {_counted(fitting)}."
    tables = (before_after("what it did", report, SHOWN),)
    notes = odd_notes(before.checkpoint, stay=recipe.save_as == "same" and recipe.extras == "keep")
    return Outcome("masks", headline, report, folder, tables=tables, hints=(f"sparsify export {folder} --to packed",), notes=notes)


def _opened(recipe: MasksRecipe, path: str) -> Subject:
    """What a path says of kept weights, of those tensors that the globs leave."""
    subject = open_masks(Path(path), entry=recipe.entry, trust=recipe.trust_pickle)
    require_used(subject.masks, recipe.skip, recipe.include)
    names = chosen(subject.masks, recipe.skip, recipe.include)
    return replace(subject, masks=MaskSet({name: subject.masks[name] for name in names}))


def _fitting(recipe: MasksRecipe, model: Subject, source: Subject) -> MaskSet:
    """The masks under the model's names.

    Raises:
        KeyMismatch: a prunable tensor without a mask, a mask without a tensor, or another shape.
    """
    shapes = shapes_of(model.checkpoint.tensors)
    every = aligned(source.masks, shapes)
    require_used({**shapes, **every, **dict.fromkeys(odd_names(model.checkpoint))}, recipe.skip, recipe.include)
    meant = prunable(model, skip=recipe.skip, include=recipe.include)
    found = _shared(recipe, model, MaskSet({name: every[name] for name in _named(recipe, model, every)}), meant)
    missing = [name for name in meant if name not in found]
    surplus = [name for name in found if name not in shapes]
    if missing or surplus or not found:
        raise _misfit(recipe, model, missing, surplus)
    require_same_shapes(found, shapes)
    return found


def _named(recipe: MasksRecipe, model: Subject, every: MaskSet) -> list[str]:
    """Names of the masks that the globs leave; a glob that means one name of a tied weight means them all."""
    aliases = tied_names(model.checkpoint, model.architecture)
    names = {
        name: {name, aliases.get(name, name)} | {a for a, first in aliases.items() if first == aliases.get(name, name)} for name in every
    }
    left = {name for name in names if len(chosen(names[name], recipe.skip, ())) == len(names[name])}
    return [name for name in every if name in left and chosen(names[name], (), recipe.include)]


def _shared(recipe: MasksRecipe, model: Subject, found: MaskSet, meant: list[str]) -> MaskSet:
    """The masks of tensors that share no number with each other, nor with one that was skipped."""
    places = {**_places(model), **odd_places(model.checkpoint)}
    skipped = [name for name in places if matches(name, recipe.skip)]
    free = apart(list(found), skipped, places)
    return seen_through(MaskSet({name: found[name] for name in free}), [name for name in meant if name in places], places)


def _places(subject: Subject) -> Mapping[str, Place]:
    """Where the tensors of a network lie in its files; empty when it came from none."""
    return subject.checkpoint.home.places if subject.checkpoint.home else {}


def _misfit(recipe: MasksRecipe, model: Subject, missing: list[str], surplus: list[str]) -> KeyMismatch:
    lacking = f"{len(missing)} prunable tensors of it have no mask ({_listed(missing)})" if missing else ""
    left = f"{len(surplus)} masks have no tensor in it ({_listed(surplus)})" if surplus else ""
    near = difflib.get_close_matches(surplus[0], missing, n=1, cutoff=0.4) if surplus else []
    return KeyMismatch(
        f"The masks of {recipe.masks} do not fit {model.path}: {' and '.join(filter(None, (lacking, left))) or 'none is left'}.",
        f"Nearest to {surplus[0]} is {near[0]}." if near else "",
        "Leave tensors out with --skip GLOB, or name those meant with --include GLOB.",
    )


def _written(recipe: MasksRecipe, subject: Subject, headline: str, facts: Mapping[str, object]) -> Outcome:
    """The artifact that holds masks and nothing else."""
    layers = [layer_mask(name, subject.masks[name]) for name in subject.masks]
    report = Report(tuple(_sparsities(subject.masks, layers)), dict(facts))
    folder, held = output_folder(recipe, subject.name)
    with claimed(folder, held=held):
        write_product(folder, Product(recipe, subject, report, subject if recipe.action == "extract" else None, None, subject.masks))
    hints = (f"sparsify masks apply model.pt --masks {folder}",)
    return Outcome("masks", headline, report, folder, tables=(_stats_table(layers),), hints=hints, files=(folder / MASKS,))


def _facts(subject: Subject) -> dict[str, object]:
    return {"masks_sha256": subject.masks.digest(), "source": {"path": str(subject.path), "sha256": subject.checkpoint.source.sha256}}


def _counted(masks: MaskSet) -> str:
    """Counts and the hash, in words."""
    zeros = masks.total - masks.kept
    share = f"{zeros:,} of {masks.total:,} weights are masked ({float(masks.sparsity):.2%}) in {len(masks)} tensors"
    return f"{share}; mask hash {masks.digest()}"


def _sparsities(masks: MaskSet, layers: list[LayerMask]) -> list[Finding]:
    each = [replace(SPARSITY, value=float(one.sparsity), n=one.weights, scope=f"layer:{one.name}") for one in layers]
    return [replace(SPARSITY, value=float(masks.sparsity), n=masks.total), *each]


def _overlaps(found: Difference) -> list[Finding]:
    rows = [(found.total, "all"), *((one, f"layer:{one.name}") for one in found.layers)]
    shared = [replace(BOTH, value=float(one.both), n=one.weights, scope=scope) for one, scope in rows]
    return [replace(IOU, value=one.iou, n=one.weights, scope=scope) for one, scope in rows] + shared


def _stats_table(layers: list[LayerMask]) -> Table:
    columns = ("tensor", "weights", "kept", "sparsity", "pattern", "dead rows", "dead columns")
    return filled(Table("masks", columns, tuple(_stats_row(one) for one in layers)))


def _stats_row(one: LayerMask) -> tuple[str, ...]:
    dead = (f"{count:,}" if count else "" for count in (one.dead_rows, one.dead_columns))
    return one.name, f"{one.weights:,}", f"{one.kept:,}", percent(float(one.sparsity)), one.pattern, *dead


def _diff_table(found: Difference) -> Table:
    rows = tuple(_diff_row(one) for one in (*found.layers, found.total))
    return Table("overlap", ("tensor", "weights", "kept in both", "IoU", "only in A", "only in B"), rows)


def _diff_row(one: Overlap) -> tuple[str, ...]:
    return one.name, f"{one.weights:,}", f"{one.both:,}", f"{one.iou:.4f}", f"{one.only_a:,}", f"{one.only_b:,}"


def _alone(found: Difference) -> tuple[str, ...]:
    sides = (("A", found.only_in_a), ("B", found.only_in_b))
    return tuple(f"masked only in {side}: {', '.join(names)}" for side, names in sides if names)


def _listed(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


ANY = 10**6
ACTIONS: Mapping[str, tuple[Callable[[MasksRecipe], Outcome], int, int, str]] = {
    "extract": (_extract, 1, 1, "sparsify masks extract model.pt"),
    "apply": (_apply, 1, 1, "sparsify masks apply model.pt --masks masks.safetensors"),
    "diff": (_diff, 2, 2, "sparsify masks diff a.pt b.pt"),
    "merge": (_merge, 2, ANY, "sparsify masks merge a.pt b.pt --how vote"),
    "stats": (_stats, 1, 1, "sparsify masks stats model.pt"),
}
"""Action -> what does it, the fewest and the most paths it takes, and how it is written."""
