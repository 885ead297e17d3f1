"""Another task for a trained network: its classifier is replaced by a dense one with an output for each class of the data.

    full     everything is trained, under the masks the network came with
    linear   only the classifier is; its inputs, the features, are computed once: eval mode, no augmentation

The classifier is drawn anew from the seed and is never masked, so that the sparsity of the result is that of the backbone.

Source: Iofinova, Peste, Kurtz, Alistarh 2022 (arXiv 2111.13445), section 3; official configurations and feature extraction. Differs: the
last epoch counts, as everywhere here (official linear runs keep the best on test data; `--keep best` asks validation data), and
optimizer and schedule are the recipe's: the published ones are in sample_configs/finetune-transfer-*.yaml.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from sparsify_cli.contracts.dataset import Split
from sparsify_cli.errors import BadRequest, Infeasible
from sparsify_cli.recipes.shared import SELF
from sparsify_cli.recipes.verbs import FinetuneRecipe
from sparsify_cli.stages.minimised import needs_teacher
from sparsify_cli.stages.resolve import check_inputs
from sparsify_cli.stages.subject import Subject
from sparsify_cli.values.arrays import as_taken_by
from sparsify_cli.values.checkpoint import Checkpoint
from sparsify_cli.values.mask_set import MaskSet
from sparsify_cli.values.samples import Samples

SPLITS: tuple[Split, ...] = ("train", "validation", "test")
BATCH = 256
"""Samples whose features are computed at a time."""


class Probe(nn.Module):
    """A classifier alone, under the name it has in its network; takes features."""

    def __init__(self, name: str, layer: nn.Linear) -> None:
        """Hold `layer` at the dotted `name`."""
        super().__init__()
        holder: nn.Module = self
        *path, leaf = name.split(".")
        for part in path:
            holder.add_module(part, nn.Module())
            holder = holder.get_submodule(part)
        holder.add_module(leaf, layer)
        self._at = name

    def forward(self, features: Tensor) -> Tensor:
        """Logits of features."""
        logits: Tensor = self.get_submodule(self._at)(features)
        return logits


def probe(module: nn.Module, name: str) -> Probe:
    """The classifier of a network, alone."""
    layer = module.get_submodule(name)
    assert isinstance(layer, nn.Linear)
    return Probe(name, layer)


def require_transferable(recipe: FinetuneRecipe) -> None:
    """Refuse what goes with no new classifier, or not with one that is trained alone.

    Raises:
        BadRequest: as said.
    """
    if recipe.head and recipe.transfer == "none":
        raise BadRequest("--head goes with --transfer, which is not given.", "", "Add --transfer linear or --transfer full.")
    if recipe.transfer != "none" and needs_teacher(recipe.objective) and recipe.teacher in ("", SELF):
        why = "The dense ancestor knows other classes, and the network's own new classifier nothing yet."
        raise BadRequest("--transfer has no teacher to learn from.", why, "Name one of the new task: --teacher ARTIFACT.")
    if recipe.transfer == "linear":
        _require_alone(recipe)
    if recipe.transfer != "none" and not recipe.data:
        raise BadRequest("--transfer needs the data of the other task.", "The network would start anew on its own.", "Add --data.")


def _require_alone(recipe: FinetuneRecipe) -> None:
    """Refuse what does not go with a classifier that is trained alone."""
    flags = {
        f"--regime {recipe.regime.name}": recipe.regime.name != "fixed",
        f"--augment {recipe.augment}": recipe.augment != "none",
        f"--objective {recipe.objective.name}": needs_teacher(recipe.objective),
    }
    wrong = [flag for flag, given in flags.items() if given]
    if wrong:
        raise BadRequest(
            f"--transfer linear does not go with {' and '.join(wrong)}.",
            "The classifier is trained alone, on features that are computed once.",
            "Leave it out, or use --transfer full.",
        )


def with_classifier(subject: Subject, *, head: str, seed: int) -> tuple[Subject, str]:
    """The network with a new classifier for its data, and that classifier's name.

    Args:
        subject: knows its architecture and the new data.
        head: the classifier's name; empty = the linear layer whose outputs are the network's.
        seed: of the new weights.

    Raises:
        BadRequest: no layer of that name, or the layer is no classifier.
    """
    architecture, module, samples = subject.known_architecture(), subject.module(), subject.samples("train")
    two = samples.take(range(min(2, len(samples))))
    check_inputs(module, replace(two, targets=torch.zeros_like(two.targets), classes=()))  # its own classes do not matter
    name = head_of(module, samples.inputs[:2], named=head)
    old = module.get_submodule(name)
    assert isinstance(old, nn.Linear)
    outputs = max(subject.samples(split).outputs for split in SPLITS)
    new = _drawn(old, outputs=outputs, seed=seed)
    tensors = {f"{name}.{leaf}": value.detach() for leaf, value in new.named_parameters()}
    shapes = {**architecture.resized, **{key: list(value.shape) for key, value in tensors.items()}}
    known = subject.checkpoint
    same = all(known.tensors[key].shape == value.shape for key, value in tensors.items() if key in known.tensors)
    whole = {**known.tensors, **tensors}
    checkpoint = known.with_tensors(whole) if same else Checkpoint(whole, known.source, architecture=known.architecture)
    masks = MaskSet({key: mask for key, mask in subject.masks.items() if key not in tensors})
    after = replace(subject.changed(checkpoint, masks), architecture=replace(architecture, resized=shapes))
    _require_last(after, name, two, outputs)
    return after, name


def _require_last(after: Subject, name: str, samples: Samples, outputs: int) -> None:
    """Refuse a layer whose outputs are not the network's."""
    module = after.module()
    try:
        logits = module(as_taken_by(module, samples.inputs))
    except Exception as error:  # whatever code says that reads another width
        raise _no_classifier(name) from error
    if not isinstance(logits, Tensor) or logits.shape[-1] != outputs:
        raise _no_classifier(name)


def _no_classifier(name: str) -> BadRequest:
    what = f"{name} is not the network's classifier."
    return BadRequest(what, "With another width it does not give the network's outputs.", "Name the last linear layer with --head.")


def _drawn(old: nn.Linear, *, outputs: int, seed: int) -> nn.Linear:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Linear(old.in_features, outputs, bias=old.bias is not None).to(old.weight.dtype)


def head_of(module: nn.Module, inputs: Tensor, *, named: str = "", whole: bool = False) -> str:
    """Name of the linear layer whose outputs are the network's; empty for the network itself, where `whole` allows that.

    Raises:
        BadRequest: there is none, `named` is another kind of layer, or its weights are another layer's too.
    """
    linear = {name: layer for name, layer in module.named_modules() if isinstance(layer, nn.Linear)}
    if named and named not in linear:
        raise BadRequest(f"The network has no linear layer {named!r}.", "", f"It has: {', '.join(list(linear)[-5:]) or 'none'}.")
    found: dict[str, Tensor] = {}
    with heard(linear, lambda name, _, out: found.update({name: out})), torch.no_grad():
        logits = module(as_taken_by(module, inputs))
    heads = [name for name, out in found.items() if isinstance(logits, Tensor) and out.shape == logits.shape and torch.equal(out, logits)]
    if not (named or heads):
        what = "No linear layer's outputs are the network's, so the classifier is not known."
        raise BadRequest(what, "", f"Name it: --head {list(linear)[-1] if linear else 'NAME'}.")
    name = named or heads[-1]
    _require_plain(name, linear[name], whole=whole)
    weight = linear[name].weight
    if sum(parameter is weight for _, parameter in module.named_parameters(remove_duplicate=False)) > 1:
        raise BadRequest(f"The classifier {name} shares its weights with another layer.", "A new one would change that layer as well.")
    return name


def _require_plain(name: str, layer: nn.Linear, *, whole: bool) -> None:
    if not (name or whole):
        raise BadRequest("The network is one linear layer.", "With a new classifier nothing would be left of it.", "Use `sparsify train`.")
    if "weight" not in dict(layer.named_parameters()):
        raise BadRequest(f"The weight of the classifier {name} is computed from others (a parametrization).", "It cannot be replaced.")


@contextmanager
def heard(layers: Mapping[str, nn.Module], hear: Callable[[str, Tensor, Tensor], None]) -> Iterator[None]:
    """Tell the name, the input and the output of layers while they run."""

    def tell(name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        return lambda _, args, out: hear(name, args[0], out)

    handles = [layer.register_forward_hook(tell(name)) for name, layer in layers.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def featured(module: nn.Module, name: str, samples: Samples) -> Samples:
    """The samples with the classifier's inputs in place of their own.

    Raises:
        Infeasible: what the classifier puts out is not what the network puts out, so that it cannot be trained alone.
    """
    layer = module.get_submodule(name)
    assert isinstance(layer, nn.Linear)
    kept: list[tuple[Tensor, Tensor]] = []
    parts = []
    with heard({name: layer}, lambda _, given, out: kept.append((given, out))), torch.no_grad():
        for start in range(0, len(samples), BATCH):
            kept.clear()
            logits = module.eval()(as_taken_by(module, samples.inputs[start : start + BATCH]))
            if len(kept) != 1 or not torch.equal(kept[0][1], logits):
                raise _not_last(name)
            parts.append(kept[0][0])
    return replace(samples, inputs=torch.cat(parts))


def _not_last(name: str) -> Infeasible:
    return Infeasible(
        f"The outputs of {name} are not the network's, so it cannot be trained alone.",
        "What comes after it would be left out.",
        "Use --transfer full, or name the last linear layer with --head.",
    )
