"""Writing the artifact of a verb: weights, masks, nest, and last the manifest that vouches for them."""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from sparsify_cli.recipes.recipe import Recipe
from sparsify_cli.recipes.shared import ModelFields, OutputFields, TrainFields, WeightsFields
from sparsify_cli.stages.forgotten import FORGOTTEN, forgotten_ids
from sparsify_cli.stages.like_original import Written, write_like
from sparsify_cli.stages.origin import code_of, versions
from sparsify_cli.stages.plan import turned_names
from sparsify_cli.stages.subject import Subject
from sparsify_cli.values.artifact import CERTIFICATE, FORECAST, MASKS, MEMO, NEST, PACKED, WEIGHTS, relative_to, reserve, write_manifest
from sparsify_cli.values.checkpoint import Checkpoint
from sparsify_cli.values.file_hash import fingerprint, joint_fingerprint
from sparsify_cli.values.mask_file import write_masks
from sparsify_cli.values.mask_set import MaskSet
from sparsify_cli.values.nest import Nest
from sparsify_cli.values.nest_file import write_nest
from sparsify_cli.values.nest_plan import read_plan
from sparsify_cli.values.ranges import is_url, ranges
from sparsify_cli.values.report import Report
from sparsify_cli.values.samples import Samples
from sparsify_cli.values.small_floats import stored_as, zeros_in
from sparsify_cli.values.tensor_file import save_dense
from sparsify_cli.values.trust import pickle_trust, seal


@dataclass(frozen=True, eq=False)
class Product:
    """What a verb made.

    Args:
        recipe: the request.
        parent: what it was made from; None for training from scratch.
        checkpoint: the new weights; None when the artifact holds no network.
        masks: which weights stay.
        subject: context (architecture, data) to remember.
        report: every number.
        nest: levels, for an embedded artifact.
        facts: further plain values for the manifest.
        counts: of each tensor, for the manifest; None = counted from the checkpoint.
        masks_sha256: of masks that are on disk already; None = of `masks`.
        certify: writes what else belongs into the folder, once the weights are there: told the folder and their sha256.
    """

    recipe: Recipe
    subject: Subject
    report: Report
    parent: Subject | None = None
    checkpoint: Checkpoint | None = None
    masks: MaskSet = field(default_factory=MaskSet)
    nest: Nest | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    counts: Mapping[str, Mapping[str, Any]] | None = None
    masks_sha256: str | None = None
    certify: Callable[[Path, str, Report], object] | None = None


def output_folder(recipe: OutputFields, name: str) -> tuple[Path, bool]:
    """The folder a recipe asks for, and whether it is already ours: `--out`, or the next `runs/NNN-verb-name`."""
    return (Path(recipe.out), False) if recipe.out else (reserve(recipe.verb, name), True)


def write_product(folder: Path, product: Product) -> Report:
    """Write everything into a claimed folder, the manifest last; returns the report, with the size that the weights turned out to have.

    Raises:
        DiskFailure: the file system refused; what was written is not yet an artifact.
    """
    if product.checkpoint is not None:
        product = replace(product, checkpoint=in_own_types(product.checkpoint))
    weights = write_weights(folder, product) if product.checkpoint is not None else None
    if product.masks and product.nest is None:
        write_masks(folder / MASKS, product.masks)
    if weights is not None:
        product = replace(product, report=_with_size(product.report, sum((folder / name).stat().st_size for name in weights.parts)))
    if product.certify is not None:
        product.certify(folder, joint_fingerprint(folder, weights.parts) if weights else "", product.report)
    write_manifest(folder, manifest(folder, product, weights))
    return product.report


def in_own_types(checkpoint: Checkpoint) -> Checkpoint:
    """The tensors in the types of the file they came from, as they are written."""
    if checkpoint.home is None:
        return checkpoint
    places = checkpoint.home.places
    kinds = {name: getattr(torch, places[name].dtype) for name in checkpoint.tensors if name in places}
    return checkpoint.with_tensors({name: stored_as(t, kinds.get(name, t.dtype)) for name, t in checkpoint.tensors.items()})


def _with_size(report: Report, size: int) -> Report:
    """The numbers with the bytes that the written files take."""
    found = [replace(f, value=float(size)) if (f.name, f.of, f.scope) == ("bytes_disk", "compressed", "all") else f for f in report]
    return Report(tuple(found), report.facts)


def write_weights(folder: Path, product: Product) -> Written:
    """Write a product's tensors: as a nest, like the file they came from, or as safetensors."""
    checkpoint = product.checkpoint
    if checkpoint is None:
        raise ValueError("a product without tensors has no weights to write")
    if product.nest is not None:
        write_nest(folder / NEST, product.nest, checkpoint.tensors)
        return Written(NEST, (NEST,))
    how = product.recipe if isinstance(product.recipe, WeightsFields) else WeightsFields()
    if checkpoint.home is not None and how.save_as == "same":
        entry = product.recipe.entry if isinstance(product.recipe, ModelFields) else ""
        return write_like(folder, checkpoint, checkpoint.home, entry=entry or _entry_of(product.parent), others=how.extras == "keep")
    save_dense(folder / WEIGHTS, checkpoint.tensors)
    return Written(WEIGHTS, (WEIGHTS,))


def _entry_of(parent: Subject | None) -> str:
    """The entry an artifact's network was taken from."""
    weights = parent.artifact.manifest.get("weights") if parent is not None and parent.artifact else None
    return str((weights or {}).get("entry", ""))


def manifest(folder: Path, product: Product, weights: Written | None = None, *, status: str = "complete") -> dict[str, Any]:
    """The manifest of a product: plain JSON values.

    Args:
        folder: where its files are.
        product: what a verb made.
        weights: where its tensors are, once they are written.
        status: `complete`, or `interrupted` for a run that can be resumed.
    """
    subject, weights = product.subject, weights or _found(folder)
    digest = joint_fingerprint(folder, weights.parts) if weights else ""
    specs = {name: spec.to_json() if spec else None for name, spec in (("architecture", subject.architecture), ("data", subject.data))}
    return {
        "status": status,
        "verb": product.recipe.verb,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "recipe": product.recipe.to_plain(),
        "recipe_sha256": product.recipe.digest(),
        "recipe_seal": seal({"recipe": product.recipe.to_plain(), "origin": str(Path.cwd().resolve())}),
        "versions": versions(),
        "code": code_of(subject, product.recipe.objective.name if isinstance(product.recipe, TrainFields) else ""),
        "parent": parent_entry(product.parent, folder),
        **specs,
        "seal": seal(specs),
        "pickle_seal": _pickle_seal(product, digest),
        "weights": None if weights is None else {**weights.to_json(), "sha256": digest, **_header(folder, weights)},
        "files": {name: fingerprint(folder / name) for name in _stored(weights) if (folder / name).is_file()},
        "masks_sha256": product.masks_sha256 or (product.masks.digest() if product.masks else None),
        "tensors": product.counts if product.counts is not None else _counts(product.checkpoint, product.masks),
        "inputs_first": _inputs_first(product),
        "numbers": [asdict(finding) for finding in product.report],
        "facts": {**product.report.facts, **_forgotten(product), **product.facts},
    }


def _inputs_first(product: Product) -> list[str]:
    """Weights that are stored [in, out], for who reads the folder without its architecture; of what went in slices nothing is told."""
    architecture = product.subject.architecture
    if architecture is None or product.checkpoint is None or product.counts is not None:
        return []
    return sorted(name for name, groups in turned_names(product.checkpoint, architecture).items() if groups == 1)


def _header(folder: Path, weights: Written) -> dict[str, str]:
    """The hash of a nest's header, by which a part of the file can be trusted without reading the rest."""
    if weights.file != NEST:
        return {}
    with ranges(folder / NEST) as source:
        return {"header_sha256": read_plan(source).sha256}


def _pickle_seal(product: Product, digest: str) -> str:
    """The seal over weights whose pickle names code, when their user trusts it; later verbs need not be told again."""
    foreign = product.parent is not None and product.parent.checkpoint.home is not None and product.parent.checkpoint.home.layout.foreign
    return seal(pickle_trust(digest)) if foreign and digest else ""


def _found(folder: Path) -> Written | None:
    """Weights that an exporter or an unfinished run left in the folder."""
    there = [name for name in (WEIGHTS, PACKED, NEST) if (folder / name).is_file()]
    return Written(there[0], (there[0],)) if there else None


def _stored(weights: Written | None) -> tuple[str, ...]:
    """Files whose content the manifest vouches for."""
    return (*(weights.parts if weights else ()), MASKS, MEMO, CERTIFICATE, FORECAST)


def parent_entry(parent: Subject | None, folder: Path) -> dict[str, str] | None:
    """Path (seen from `folder`), or URL, and sha256 of what something was made from."""
    if parent is None:
        return None
    source = parent.checkpoint.source
    return {"path": source.path if is_url(source.path) else relative_to(parent.path, folder), "sha256": source.sha256}


def data_identity(samples: Samples) -> str:
    """sha256 over ids, targets and inputs of a split."""
    state = hashlib.sha256("\n".join(samples.ids).encode())
    state.update(samples.targets.numpy().tobytes())
    state.update(samples.inputs.contiguous().numpy().tobytes())
    return state.hexdigest()


def _forgotten(product: Product) -> dict[str, list[str]]:
    """What the parent had forgotten stays forgotten, whatever becomes of the parent's folder; what was left out is as good as forgotten."""
    parent = product.parent
    ids = product.subject.left_out | (forgotten_ids(parent.artifact) if parent is not None else frozenset())
    return {FORGOTTEN: sorted(ids)} if ids else {}


def _counts(checkpoint: Checkpoint | None, masks: MaskSet) -> dict[str, dict[str, Any]]:
    if checkpoint is None:
        return {}
    return {
        name: {
            "shape": list(tensor.shape),
            "dtype": str(tensor.dtype).removeprefix("torch."),
            "zeros": zeros_in(tensor),
            **({"kept": int(masks[name].sum())} if name in masks else {}),
        }
        for name, tensor in checkpoint.tensors.items()
    }
