"""`shrink`: zeroed filters, channels and neurons are taken out of the tensors; the network's outputs stay what they were.

The result remembers the architecture and the new shapes of its tensors, so that later verbs build it as small as it is; the
weights are plain safetensors. Before anything is written the network is built anew from what will be written, and compared.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from sparsify_cli.contracts.listener import Listener
from sparsify_cli.errors import Infeasible
from sparsify_cli.maths.compact_conv import Compaction, compactions
from sparsify_cli.maths.identities import identities, without
from sparsify_cli.recipes.verbs import ShrinkRecipe
from sparsify_cli.stages.evidence import compared
from sparsify_cli.stages.outcome import Outcome, Table
from sparsify_cli.stages.shrunk import TOLERANCE, Shrinking, require_same, shrinking, tolerance_of, with_random
from sparsify_cli.stages.sizes import compared_sizes
from sparsify_cli.stages.subject import Subject, open_subject
from sparsify_cli.stages.tables import ELSEWHERE, before_after, said
from sparsify_cli.stages.write import Product, output_folder, write_product
from sparsify_cli.values.artifact import claimed, require_free
from sparsify_cli.values.checkpoint import Checkpoint
from sparsify_cli.values.mask_set import MaskSet
from sparsify_cli.values.report import Finding, Report

NEWEST = ("finetune", "prune", "extract", "unlearn", "train")
SAMPLES = 64
"""Training samples on which outputs are compared, beside as many random inputs."""
SHOWN = ("parameters", "macs", "bytes_disk", "bytes_packed", "latency_ms", "accuracy", "nll", *ELSEWHERE, "sparsity")


def shrink(recipe: ShrinkRecipe, listener: Listener) -> Outcome:
    """Take out every channel that is constant or unread, and write what is left."""
    if recipe.out:
        require_free(Path(recipe.out))
    before = open_subject(recipe, verbs=NEWEST, listener=listener).single()
    if before.known_architecture().compact:
        raise _compacted_already(before)
    inputs = before.samples("train").inputs[:SAMPLES]
    before = before.checked()
    before.checkpoint.require_finite()
    identity = identities(before.module().eval(), with_random(inputs, seed=recipe.seed))
    found = shrinking(before.module(), inputs, identity=identity)
    after = shrunk_subject(before, found)
    found = replace(found, compact=compactions(after.module(), most=recipe.compact) if recipe.compact else {})
    if not (found.removed or identity or found.compact):
        raise _nothing(before, found)
    after = compact_subject(after, found.compact)
    listener.note("comparing outputs in float64")
    allowed = tolerance_of(before.module())
    difference = require_same(before.module(), after.module(), inputs, seed=recipe.seed, tolerance=allowed)
    folder, held = output_folder(recipe, before.name)
    with claimed(folder, held=held):
        report = Report(tuple(_findings(before, after, found, difference)), {"channels": _channels(found)})
        report = write_product(folder, Product(recipe, after, report, before, after.checkpoint, after.masks))
    name = shlex.quote(str(folder))
    return Outcome(
        "shrink",
        _headline(found, report),
        report,
        folder,
        tables=(before_after("what it did", report, SHOWN), *([_table(found)] if found.removed else ())),
        notes=(*found.notes, *_rounded_note(difference), *_accuracy_note(report), *_speed_note(found, report)),
        hints=(f"sparsify finetune {name}", f"sparsify export {name} --to onnx"),
    )


def shrunk_subject(before: Subject, found: Shrinking) -> Subject:
    """The network without its channels: tensors, masks, and an architecture that knows the new shapes."""
    architecture, module = before.known_architecture(), before.module()
    old, gone = before.checkpoint, tuple(f"{part}." for part in found.identity)
    kept = {name: tensor for name, tensor in old.tensors.items() if not name.startswith(gone)}
    masks = MaskSet({name: mask for name, mask in before.masks.items() if not name.startswith(gone)})
    shapes = {**architecture.resized, **found.surgery.shapes(without(module, found.identity).state_dict())}
    shapes = {name: shape for name, shape in shapes.items() if not name.startswith(gone)}
    checkpoint = Checkpoint(found.surgery.tensors(kept), old.source, architecture=old.architecture)
    after = before.changed(checkpoint, found.surgery.masks(masks))
    parts = (*architecture.identity, *found.identity)
    return replace(after, architecture=replace(architecture, resized=shapes, identity=parts))


def compact_subject(before: Subject, found: Mapping[str, Compaction]) -> Subject:
    """The network with compact layers in place of convolutions."""
    tensors, masks = dict(before.checkpoint.tensors), dict(before.masks)
    for name, one in found.items():
        weight = f"{name}.weight"
        tensors |= one.tensors(name, tensors.pop(weight))
        if weight in masks:
            masks[f"{name}.product.weight"] = one.mask(masks.pop(weight))
    architecture = before.known_architecture()
    kept = {name: (len(one.rows), len(one.columns)) for name, one in found.items()}
    after = before.changed(Checkpoint(tensors, before.checkpoint.source, architecture=before.checkpoint.architecture), MaskSet(masks))
    return replace(after, architecture=replace(architecture, compact=kept))


def _findings(before: Subject, after: Subject, found: Shrinking, difference: float) -> list[Finding]:
    change = "Largest difference of an output after shrinking, float64, relative to the largest output."
    return [
        *compared_sizes(before, after),
        Finding(name="channels_removed", value=float(found.channels), unit="channels", definition="Channels that were taken out."),
        Finding(name="heads_removed", value=float(found.heads), unit="heads", definition="Heads of attention that were taken out."),
        Finding(
            name="parts_removed", value=float(len(found.identity)), unit="parts", definition="Blocks that returned what they were given."
        ),
        Finding(name="layers_compacted", value=float(len(found.compact)), unit="layers", definition="Convolutions without zero columns."),
        Finding(name="output_change", value=difference, better="lower", definition=change),
        *compared(before, after),
    ]


def _channels(found: Shrinking) -> list[dict[str, object]]:
    """The groups that lost channels, for the manifest."""
    named = ({"writers": list(g.writers), "readers": list(g.readers), "widths": list(g.widths)} for g in found.removed)
    return [{**names, "channels": g.channels, "removed": g.removed} for names, g in zip(named, found.removed, strict=True)]


def _table(found: Shrinking) -> Table:
    heads = {f"{name.rpartition('.')[0]} (heads)": group for group in found.removed if group.heads for name in group.writers}
    counts = {name.removesuffix(".weight"): rows for name, rows in found.layers.items()}
    counts |= {name: (group.channels, group.channels - group.removed) for name, group in heads.items()}
    rows = tuple((name, f"{before:,}", f"{after:,}", f"{before - after:,}") for name, (before, after) in counts.items())
    return Table("channels", ("layer", "before", "after", "removed"), rows)


def _headline(found: Shrinking, report: Report) -> str:
    told = [f"{name}{said(report.get(key, of='dense')).split(' ')[0]} -> {said(report.get(key))}" for name, key in _SAID]
    ratio = report.get("latency_ratio")
    speed = f"; {ratio.value:.2f} x the time" if ratio is not None and ratio.value is not None else ""
    compact = f"the zero columns of {len(found.compact)} convolution{'s' * (len(found.compact) > 1)}" if found.compact else ""
    parts = f"{len(found.identity)} block{'s' * (len(found.identity) > 1)} ({', '.join(found.identity)})" if found.identity else ""
    gone = " and ".join(filter(None, (_count(found.channels, "channel"), _count(found.heads, "head", " of attention"), parts, compact)))
    return f"Removed {gone}: {', '.join(told)}{speed}; outputs are what they were{_closely(report)}."


def _closely(report: Report) -> str:
    change = report.get("output_change")
    return ", to 16 bits" if change is not None and change.value is not None and change.value > TOLERANCE else ""


def _count(number: int, what: str, more: str = "") -> str:
    return f"{number:,} {what}{'s' * (number > 1)}{more}" if number else ""


_SAID = (("", "parameters"), ("", "macs"))


def _rounded_note(difference: float) -> tuple[str, ...]:
    """A word where numbers of 16 bits could not hold what was folded in."""
    return (f"outputs moved by {difference:.1e} of their scale: biases are rounded to 16 bits.",) if difference > TOLERANCE else ()


def _accuracy_note(report: Report) -> tuple[str, ...]:
    """A word where the last bits of float32 decided a sample."""
    old, new = report.get("accuracy", of="dense"), report.get("accuracy")
    same = old is None or new is None or old.value == new.value
    return () if same else (f"accuracy {said(old)} -> {said(new)}: outputs agree in float64, so these are ties in float32.",)


def _speed_note(found: Shrinking, report: Report) -> tuple[str, ...]:
    """A word where less work takes longer."""
    ratio = report.get("latency_ratio")
    if ratio is None or ratio.low is None or ratio.low <= 1:
        return ()
    if found.compact:
        return ("it is not faster here: gathering columns costs more than their products save; lower --compact.",)
    return ("it is not faster here: kernels prefer widths that are multiples of 8 or 16.",)


def _compacted_already(before: Subject) -> Infeasible:
    what = f"{before.path} was compacted already, and its products are no convolutions any more."
    return Infeasible(what, "", "Shrink what it was made from, with a larger --compact.")


def _nothing(before: Subject, found: Shrinking) -> Infeasible:
    columns = len(compactions(before.module(), most=0.999))
    if columns:
        what = f"No channel of {before.path} is zero or unread everywhere, but {columns} convolutions have zero columns."
        return Infeasible(what, "They stay convolutions unless you say how small they must become.", "Add --compact 0.5, say.")
    why = " ".join((*found.notes[:3], f"And {len(found.notes) - 3} more groups.")) if len(found.notes) > 3 else " ".join(found.notes)
    return Infeasible(
        f"Nothing of {before.path} can be removed: no channel is zero or unread everywhere.",
        why[:1].upper() + why[1:],
        "Zero whole channels first: `prune --criterion channels --sparsity 0.5`, or `finetune --regime ssl`.",
    )
