"""The subject of a verb: a file or an artifact, opened, with everything its lineage knows about it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from sparsify_cli.contracts.dataset import Split
from sparsify_cli.contracts.listener import Listener
from sparsify_cli.errors import BadRequest, MissingContext, MissingFile
from sparsify_cli.recipes.shared import DataFields, ModelFields, SparsityFields
from sparsify_cli.stages.fit_keys import fitting_names, lent, loaded
from sparsify_cli.stages.forgotten import without_forgotten
from sparsify_cli.stages.opening import Opened, open_headers
from sparsify_cli.stages.output_form import in_logits
from sparsify_cli.stages.plan import masked_names, rows_of, tied_names
from sparsify_cli.stages.reading import checkpoint_of, require_plain
from sparsify_cli.stages.resolve import build_architecture, check_inputs, parse_spec
from sparsify_cli.stages.rows import Row
from sparsify_cli.stages.shared_memory import inherited
from sparsify_cli.stages.splits import forms_once, samples_asked
from sparsify_cli.stages.support import pruned_support
from sparsify_cli.values.artifact import MASKS, Artifact, is_artifact, newest
from sparsify_cli.values.checkpoint import Checkpoint, Source, Spec, with_names
from sparsify_cli.values.file_hash import fingerprint
from sparsify_cli.values.mask_file import read_masks
from sparsify_cli.values.mask_set import MaskSet
from sparsify_cli.values.nest import Nest
from sparsify_cli.values.nest_file import read_nest
from sparsify_cli.values.nest_plan import is_nest_file
from sparsify_cli.values.samples import Samples
from sparsify_cli.values.tensor_file import is_ours, read
from sparsify_cli.values.trust import NAMES_CODE, is_sealed, trusts_pickle

SEALED = ("architecture", "data")
"""Entries of a manifest that may name code."""


@dataclass(frozen=True, eq=False)
class Subject:
    """An opened network and its context.

    Args:
        checkpoint: the tensors.
        masks: which weights stay; empty for a dense network.
        architecture: how to rebuild the module, or None.
        data: where samples come from, or None.
        artifact: the folder it came from, or None for a plain file.
        nest: the levels of an embedded artifact, or None.
        trusted: False when the artifact names code that this user did not name; it is then forgotten.
        globs: what is to be left dense, and what alone is to be pruned; None when nothing is.
        left_out: ids of training samples that it is never shown, besides what it has forgotten.
    """

    checkpoint: Checkpoint
    masks: MaskSet
    architecture: Spec | None = None
    data: Spec | None = None
    artifact: Artifact | None = None
    nest: Nest | None = None
    trusted: bool = True
    globs: tuple[Sequence[str], Sequence[str]] | None = None
    left_out: frozenset[str] = frozenset()

    @property
    def path(self) -> Path:
        """The artifact's folder or the checkpoint's file."""
        return self.artifact.folder if self.artifact else Path(self.checkpoint.source.path)

    @property
    def name(self) -> str:
        """A short name for the result's folder: `model` for model.pt and for runs/002-prune-model."""
        return self.path.name if self.artifact else self.path.name.split(".")[0]

    def module(self) -> nn.Module:
        """The network with its weights, in eval mode.

        Raises:
            MissingContext: no architecture is known.
            KeyMismatch: the tensors do not fit it.
        """
        return loaded(self.built(), self.checkpoint)

    def lent(self) -> nn.Module:
        """The network on the checkpoint's own memory, in eval mode: to be run, not to be changed.

        Raises:
            MissingContext, KeyMismatch: as `module`.
        """
        return lent(self.built(), self.checkpoint)

    def built(self) -> nn.Module:
        """A freshly initialised network of its architecture, which answers in logits.

        Raises:
            MissingContext: no architecture is known.
        """
        module = build_architecture(self.known_architecture())
        if self.data is None:
            return module
        return in_logits(module, forms_once(json.dumps(self.data.to_json(), sort_keys=True), self._architecture, module))

    @property
    def _architecture(self) -> str:
        return "" if self.architecture is None else json.dumps(self.architecture.to_json(), sort_keys=True)

    def known_architecture(self) -> Spec:
        """The architecture.

        Raises:
            MissingContext: none is known.
        """
        if self.architecture is None:
            raise MissingContext(
                f"No architecture is known for {self.path}.", self.why_unknown, "Add --arch NAME or --arch path/file.py:callable."
            )
        return self.architecture

    def samples(self, split: Split) -> Samples:
        """One split of the data; training samples that were forgotten on the way here are left out.

        Raises:
            MissingContext: no data is known.
        """
        if self.data is None:
            raise MissingContext(
                f"No data is known for {self.path}.",
                self.why_unknown,
                "Add --data digits, idx:FOLDER, folder:PATH, npz:FILE or file.py:callable.",
            )
        samples = samples_asked(json.dumps(self.data.to_json(), sort_keys=True), split, self._architecture)
        return without_forgotten(samples, self.artifact, self.left_out) if split == "train" else samples

    @property
    def is_new(self) -> bool:
        """True for a freshly initialised network, which came from no file."""
        return not self.checkpoint.source.sha256

    @property
    def why_unknown(self) -> str:
        """Why an artifact's architecture and data are not known although its manifest names them; empty otherwise."""
        return "" if self.trusted else "Its manifest names code that was not named by you on this machine, so it is not run."

    @property
    def has_context(self) -> bool:
        """True when both architecture and data are known."""
        return self.architecture is not None and self.data is not None

    def checked(self) -> Subject:
        """Itself, after making sure that architecture, weights and data fit each other (as far as they are known)."""
        if self.architecture is not None:
            require_plain(self.checkpoint, self.path)
            module = self.module()
            if self.data is not None:
                check_inputs(module, self.samples("train"))
        return self

    def surveyed(self) -> Subject:
        """Itself, with the masks that a plain file's zeros show, of tensors that share no number; every number is read for it.

        Raises:
            UnreadableFile: an architecture is known, and some tensors are not plain numbers.
        """
        if self.architecture is not None:
            require_plain(self.checkpoint, self.path)
        return _settled(self) if self.masks else _seen_as_pruned(self)

    def single(self) -> Subject:
        """Itself, if it holds one network.

        Raises:
            BadRequest: several are embedded in it.
        """
        if self.nest is None:
            return self
        levels = ", ".join(f"{float(sparsity):g}" for sparsity in self.nest.sparsities)
        raise BadRequest(
            f"{self.path} holds {self.nest.levels} networks (sparsities {levels}).",
            "Changing one would break the others.",
            f"Take one out first: sparsify extract {self.path} --level {float(self.nest.sparsities[0]):g}",
        )

    def changed(self, checkpoint: Checkpoint, masks: MaskSet) -> Subject:
        """The same subject with other weights."""
        return replace(self, checkpoint=checkpoint, masks=masks)


def open_subject(recipe: ModelFields, *, verbs: tuple[str, ...] = (), listener: Listener | None = None, survey: bool = True) -> Subject:
    """Open what a recipe names: a file, an artifact, or, when it names nothing, the newest artifact of `verbs`.

    Flags win over what an artifact remembers; the listener hears which artifact was taken. Without `survey` no number of
    a plain file is read, and nobody knows yet whether it was pruned.

    Raises:
        MissingFile: nothing is there.
        MissingContext: nothing was named and no artifact fits.
    """
    if not recipe.model and not verbs:
        raise MissingContext(f"`{recipe.verb}` needs a model.", "", f"Name it: sparsify {recipe.verb} model.pt ...")
    path = Path(recipe.model) if recipe.model else _newest(recipe, verbs)
    if not recipe.model and listener is not None:
        listener.note(f"taking {path}, the newest")
    subject = open_path(path, entry=recipe.entry, trust=recipe.trust_pickle, plain=False)
    data = (recipe.data, recipe.data_arg) if isinstance(recipe, DataFields) else ("", ())
    globs = (recipe.skip, recipe.include) if isinstance(recipe, SparsityFields) else None
    found = with_context(replace(subject, globs=globs), (recipe.arch, recipe.arch_arg), data)
    return found.surveyed() if survey else found


def _newest(recipe: ModelFields, verbs: tuple[str, ...]) -> Path:
    try:
        return newest(verbs).folder
    except MissingContext as error:
        raise MissingContext(error.what, error.why, f"Name a file or folder, e.g.: sparsify {recipe.verb} model.pt ...") from error


def with_context(subject: Subject, arch: tuple[str, Sequence[str]], data: tuple[str, Sequence[str]]) -> Subject:
    """The subject with architecture and data from flags, where they were given.

    Raises:
        BadRequest: options of an architecture or of data that were not named.
    """
    for (name, options), flag in ((arch, "--arch"), (data, "--data")):
        if options and not name:
            raise BadRequest(f"{flag}-arg {options[0]} goes with {flag}, which is not given.", "", f"Add {flag} NAME.")
    architecture = _as_shrunk(parse_spec(*arch), subject) if arch[0] else subject.architecture
    source = parse_spec(*data) if data[0] else subject.data
    subject = _renamed(replace(subject, architecture=architecture, data=source))
    return _masked_by_own_names(subject)


def _as_shrunk(architecture: Spec, subject: Subject) -> Spec:
    """An architecture that was named, made as small as the artifact says that its own was."""
    known = (subject.artifact.manifest.get("architecture") if subject.artifact else None) or {}
    return architecture.shrunk_as(known).fitting(subject.checkpoint.tensors)


def _masked_by_own_names(subject: Subject) -> Subject:
    """The subject with masks under the names by which its architecture trains tied weights."""
    if subject.architecture is None or not subject.masks:
        return subject
    aliases = tied_names(subject.checkpoint, subject.architecture)
    return replace(subject, masks=MaskSet({aliases.get(name, name): mask for name, mask in subject.masks.items()}))


def with_context_of(network: Subject, subject: Subject) -> Subject:
    """Another network with the data (and, if it knows none, the architecture) of a subject.

    Raises:
        MissingContext: one of them is not known.
    """
    if not network.trusted:
        network.known_architecture()
    lent = subject.architecture.fitting(network.checkpoint.tensors) if subject.architecture else None
    architecture = network.architecture or lent
    data = subject.data or network.data
    if architecture is None or data is None:
        missing = "--arch" if architecture is None else "--data"
        why = subject.why_unknown or network.why_unknown
        raise MissingContext(f"{network.path} is to be run on data and knows no {missing[2:]}.", why, f"Add {missing}.")
    return _renamed(replace(network, architecture=architecture, data=data))


def _renamed(subject: Subject) -> Subject:
    """The subject with the architecture's own tensor names, where a wrapper's prefix made them differ."""
    if subject.architecture is None or subject.nest is not None:
        return subject
    expected = build_architecture(subject.architecture).state_dict()
    tensors = fitting_names(subject.checkpoint.tensors, expected)
    new = dict(zip(subject.checkpoint.tensors, tensors, strict=True))
    masks = MaskSet({new[name]: mask for name, mask in subject.masks.items()})
    return replace(subject, checkpoint=with_names(subject.checkpoint, new), masks=masks)


def open_path(path: Path, *, entry: str = "", trust: bool = False, plain: bool = True) -> Subject:
    """Open a checkpoint file or folder, or an artifact.

    Args:
        path: where it is.
        entry: dotted keys that lead to the weights inside a file; empty = the usual ones.
        trust: read pickles that name code (nothing is run).
        plain: refuse a file in which some tensors are not plain numbers.

    Raises:
        MissingFile: nothing is there.
        UnreadableFile: damaged, of an unknown kind, or not plain.
    """
    if not path.exists():
        raise MissingFile(f"There is no file or artifact {path}.", "", "Check the path; artifacts are in runs/.")
    if is_artifact(path):
        subject = _from_artifact(Artifact.open(path), trust=trust)
    else:
        checkpoint, masks, nest = _contents(path, entry=entry, trust=trust)
        subject = Subject(checkpoint, masks, nest=nest)
    if plain:
        require_plain(subject.checkpoint, path)
    return subject


def _no_network(artifact: Artifact) -> MissingContext:
    parent = (artifact.manifest.get("parent") or {}).get("path", "")
    name = f"It was made from {parent}: name that." if parent else ""
    if artifact.verb == "export":
        what = f"{artifact.folder} holds an exported network, whose layers are no longer those of an architecture here."
        return MissingContext(what, "", name)
    return MissingContext(f"{artifact.folder} holds no network.", f"It was made by `{artifact.verb}`.", name)


def _from_artifact(artifact: Artifact, *, trust: bool = False) -> Subject:
    if not artifact.complete:
        raise MissingContext(
            f"{artifact.folder} was interrupted and is not finished.", "", f"Finish it: sparsify {artifact.verb} --resume {artifact.folder}"
        )
    if not artifact.manifest.get("weights"):
        raise _no_network(artifact)
    weights, entry, names = artifact.weights()
    checkpoint, found, nest = _contents(weights, entry=entry, trust=trust or trusts_pickle(artifact.manifest))
    masks, (architecture, data, trusted) = artifact.verified(MASKS), trusted_specs(artifact.manifest)
    checkpoint = with_names(checkpoint, {name: names.get(name, name) for name in checkpoint.tensors}) if names else checkpoint
    return Subject(
        checkpoint=checkpoint,
        masks=read_masks(masks) if masks else found,
        architecture=architecture,
        data=data,
        artifact=artifact,
        nest=nest,
        trusted=trusted,
    )


def _contents(path: Path, *, entry: str, trust: bool) -> tuple[Checkpoint, MaskSet, Nest | None]:
    """What a file holds: its tensors, and, when networks are embedded in it, the last one's masks and the nest."""
    if path.is_file() and is_nest_file(path):
        nest, tensors = read_nest(path)
        masks = nest.masks(nest.levels)
        return Checkpoint(tensors, Source(str(path), fingerprint(path))), masks if masks.kept < masks.total else MaskSet(), nest
    if path.is_file() and is_ours(path):
        return Checkpoint(read(path), Source(str(path), fingerprint(path))), MaskSet(), None
    opened: Opened = open_headers(path, entry=entry, trust=trust)
    checkpoint = checkpoint_of(opened, path)
    matrices = {name: mask for name, mask in checkpoint.masks.items() if mask.ndim >= 2}  # biases are not prunable weights
    return checkpoint, MaskSet(matrices), None


def _seen_as_pruned(subject: Subject) -> Subject:
    """A plain file with the masks its zeros show; artifacts say themselves what was pruned."""
    if subject.masks or subject.nest is not None or subject.artifact is not None:
        return subject
    names = masked_names(_rows(subject), subject.checkpoint, subject.architecture)
    return replace(subject, masks=pruned_support({name: subject.checkpoint.tensors[name] for name in names}))


def _settled(subject: Subject) -> Subject:
    """A network that is to be pruned further, with no masks but those of tensors that share no number with what is pruned now."""
    home = subject.checkpoint.home
    if subject.globs is None or home is None or subject.nest is not None:
        return subject
    now = [row.name for row in _rows(subject) if row.matched]
    return replace(subject, masks=inherited(subject.masks, now, home.places, subject.checkpoint.tensors))


def _rows(subject: Subject) -> list[Row]:
    """What is pruned now."""
    skip, include = subject.globs or ((), ())
    return rows_of(subject.checkpoint, subject.architecture, skip=skip, include=include)


def trusted_specs(manifest: Mapping[str, Any]) -> tuple[Spec | None, Spec | None, bool]:
    """Architecture and data of a manifest, and whether it may say so: code that it names is not run unless this user sealed it."""
    specs = {key: manifest.get(key) for key in SEALED}
    named = [spec["name"] for spec in specs.values() if spec]
    if any(NAMES_CODE in name for name in named) and not is_sealed(specs, str(manifest.get("seal", ""))):
        return None, None, False
    return Spec.from_json(specs["architecture"]), Spec.from_json(specs["data"]), True
