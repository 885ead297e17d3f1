"""Calibration: run samples through a network and keep, for each layer, the Gram matrix of the inputs it saw."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, nn

from sparsify_cli.contracts.criterion import Criterion
from sparsify_cli.errors import BadRequest, MissingContext, NonFinite
from sparsify_cli.maths.activity import Activity
from sparsify_cli.maths.gram import gram_shape, gram_sum, has_gram
from sparsify_cli.maths.holdout import hold_out, shuffled
from sparsify_cli.maths.memory import machine_memory
from sparsify_cli.recipes.allocation import NEEDS_COSTS
from sparsify_cli.recipes.verbs import PruneRecipe
from sparsify_cli.stages.fit_keys import fitting_names
from sparsify_cli.stages.memory import SHARE
from sparsify_cli.stages.strategy import strategy
from sparsify_cli.stages.subject import Subject
from sparsify_cli.training.attention import projections, spelled_out, tell_apart
from sparsify_cli.training.augmented import augmented
from sparsify_cli.training.batches import as_taken_by
from sparsify_cli.training.lockstep import taken, uses
from sparsify_cli.training.modes import evaluating
from sparsify_cli.training.padding import batches_of, only_real, real_positions
from sparsify_cli.values.network import Network
from sparsify_cli.values.samples import Samples
from sparsify_cli.values.stats import Stats

BATCH = 64
"""Samples of one forward pass of calibration."""

FAR = Fraction(99, 100)
"""Sparsity that few budgets mean more than."""

Watcher = Callable[[str, nn.Module, Tensor], None]
"""Called with a layer's weight name, the layer, and the inputs of one call of it."""


def needs_inputs(recipe: PruneRecipe) -> str:
    """What of a recipe needs calibration, as a person wrote it; empty when nothing does."""
    criterion: Criterion = strategy("criteria", recipe.criterion)
    asking = [f"--solver {recipe.solver.name}"] if recipe.solver else []
    asking += [f"--criterion {recipe.criterion.name}"] if criterion.needs else []
    asking += [f"--allocation {recipe.allocation}"] if recipe.allocation in NEEDS_COSTS else []
    asking += [f"--budget {recipe.budget}"] if recipe.budget is not None and recipe.budget.kind == "macs" else []
    asking += ["--permute"] if recipe.permute else []
    return " and ".join(asking)


def require_context(recipe: PruneRecipe, subject: Subject) -> None:
    """Make sure that what a recipe calibrates can be computed.

    Raises:
        MissingContext: it looks at inputs, and no architecture or no data is known.
    """
    if asking := needs_inputs(recipe):
        require_known(asking, subject)


def require_known(asking: str, subject: Subject) -> None:
    """Make sure that a network can be run.

    Args:
        asking: the flags that need it.
        subject: of which architecture and data have to be known.

    Raises:
        MissingContext: one of them is not.
    """
    missing = [flag for flag, known in (("--arch", subject.architecture), ("--data", subject.data)) if known is None]
    if missing:
        looks = "look" if " and " in asking else "looks"
        raise MissingContext(
            f"{asking} {looks} at the inputs of layers, and {subject.path} does not say how to compute them.",
            "Training samples are run through the network.",
            f"Add {' and '.join(f'{flag} NAME' for flag in missing)}.",
        )


def calibration_samples(recipe: PruneRecipe, subject: Subject) -> Samples:
    """The training samples a recipe calibrates on, drawn by its seed; those that judge the result are not among them."""
    train = subject.samples("train")
    stay, _ = hold_out(len(train))
    return train.take(stay[shuffled(len(stay), seed=recipe.seed)[: recipe.samples]])


def calibration_inputs(recipe: PruneRecipe, subject: Subject) -> Tensor:
    """Their inputs, with augmented copies where the recipe says so."""
    inputs = calibration_samples(recipe, subject).inputs
    return augmented(inputs, copies=recipe.augment, seed=recipe.seed) if recipe.augment else inputs


def network_of(recipe: PruneRecipe, subject: Subject, names: Sequence[str]) -> Network:
    """A private copy of the network with calibration samples, for methods that differentiate its loss.

    Raises:
        BadRequest: one of the tensors is no parameter of it.
    """
    samples, module = calibration_samples(recipe, subject), subject.module().eval()
    ours, there = names_in(module, subject), dict(module.named_parameters())
    missing = [name for name in names if ours[name] not in there]
    if missing:
        raise BadRequest(f"{missing[0]} is no parameter of the network.", "", f"Leave it dense with --skip {missing[0]}.")
    module.requires_grad_(False)
    for name in names:
        there[ours[name]].requires_grad_(True)
    pairs = {name: ours[name] for name in names}
    inputs = calibration_inputs(recipe, subject)
    targets = torch.cat([samples.targets] * (len(inputs) // len(samples)))  # copy after copy, as the inputs
    found = Network(module, pairs, inputs, targets, _meant(recipe), recipe.seed)
    return replace(found, saves="macs") if recipe.budget is not None and recipe.budget.kind == "macs" else found


def _meant(recipe: PruneRecipe) -> Fraction:
    """The sparsity on the way to which scores are computed; what a budget means is known after them, so that far down is meant."""
    asked = recipe.sparsity or recipe.pattern.implied_sparsity
    return max(asked, FAR) if recipe.budget is not None else asked


def names_in(module: nn.Module, subject: Subject) -> dict[str, str]:
    """Name of a tensor in the subject's checkpoint -> its name in the network; they differ where a prefix was kept."""
    tensors = subject.checkpoint.tensors
    return dict(zip(tensors, fitting_names(tensors, module.state_dict()), strict=True))


def statistics(recipe: PruneRecipe, subject: Subject, names: Sequence[str]) -> Stats:
    """What the recipe's criterion needs to see of the network before pruning; empty for a criterion that needs nothing.

    Raises:
        BadRequest: it needs inputs of tensors that are no linear layer or convolution, or memory does not hold them.
    """
    needs = strategy("criteria", recipe.criterion).needs
    if "movement" in needs:
        Stats().moved(names[0] if names else "")
    network = network_of(recipe, subject, names) if "network" in needs else None
    if not needs & {"gram", "inputs"}:
        return Stats(network=network)
    module = subject.module()
    ours = {name: new for name, new in names_in(module, subject).items() if name in names}
    seen = calibrate(module, calibration_inputs(recipe, subject), ours.values(), gram="gram" in needs)
    unseen = [name for name in names if ours[name] not in seen.rows]
    if unseen:
        raise BadRequest(
            f"--criterion {recipe.criterion.name} cannot rank {len(unseen)} tensors, first {unseen[0]}.",
            "Only linear layers and convolutions that the network runs have inputs to look at.",
            f"Leave them dense with --skip {unseen[0]}, or choose another --criterion.",
        )
    grams = {name: seen.gram[ours[name]] for name in names} if seen.gram else {}
    return Stats({name: seen.rows[ours[name]] for name in names}, grams, {name: seen.inputs[ours[name]] for name in names}, network)


def calibrate(module: nn.Module, inputs: Tensor, names: Iterable[str], *, batch: int = BATCH, gram: bool = True) -> Stats:
    """What comes into layers, in one streaming pass in eval mode; weights, modes and buffers stay as they are.

    Args:
        module: the network; runs where its parameters are.
        inputs: [n, ...] as the network takes them.
        names: weights of the layers to watch; those that are no linear layer or convolution, or are never run, are left out.
        batch: samples a forward pass.
        gram: gather Gram matrices too, besides how active each input is.

    Raises:
        BadRequest: the Gram matrices do not fit in memory.
        NonFinite: a layer's inputs are not finite.
    """
    layers = watchable(module, names, inputs)
    if gram:
        require_memory(layers)
    sums: dict[str, Tensor] = {}
    activity = {name: Activity() for name in layers}
    real: Tensor | None = None

    def add(name: str, layer: nn.Module, inputs: Tensor) -> None:
        seen = only_real(layer, inputs, real)
        activity[name].add(layer, seen)
        if gram:
            total, _ = gram_sum(layer, seen)
            sums[name] = sums[name].add_(total) if name in sums else total

    with watching(module, layers, add):
        for part in batches_of(inputs, batch):
            real = real_positions(module, part)
            run(module, part, batch=batch)
    rows = {name: seen.rows for name, seen in activity.items() if seen.rows}
    grams = {name: _finite(name, total / rows[name]) for name, total in sums.items()}
    inputs_seen = {name: activity[name].result() for name in rows}
    for name, seen in inputs_seen.items():
        _finite(name, seen.mean)
    return Stats(rows=rows, gram=grams, inputs=inputs_seen)


def execution_order(module: nn.Module, inputs: Tensor, names: Iterable[str]) -> list[str]:
    """The watchable layers among `names` in the order in which a forward pass first calls them."""
    called: list[str] = []

    def note(name: str, layer: nn.Module, seen: Tensor) -> None:
        del layer, seen
        called.append(name)

    with watching(module, watchable(module, names, inputs), note):
        run(module, inputs[:2], batch=2)
    return list(dict.fromkeys(called))


def watchable(module: nn.Module, names: Iterable[str], inputs: Tensor) -> dict[str, nn.Module]:
    """Weight name -> its layer, for the linear layers, convolutions and projections of attention among `names`.

    Args:
        module: run on a few samples where one of the names is a projection: what it multiplies makes it a layer in groups or not.
        names: of weights.
        inputs: samples.
    """
    wanted = set(names)
    layers = {f"{path}.weight": layer for path, layer in module.named_modules() if has_gram(layer)}
    shown = projections(module)
    if wanted & set(shown):
        tell_apart(module, inputs)
    return {name: layer for name, layer in {**layers, **shown}.items() if name in wanted}


def require_memory(layers: Mapping[str, nn.Module]) -> None:
    """Refuse Gram matrices that memory does not hold.

    Raises:
        BadRequest: with what they need and what there is.
    """
    needed = {name: 8 * math.prod(gram_shape(layer)) for name, layer in layers.items()}
    there = machine_memory()
    if sum(needed.values()) > SHARE * there:
        widest = max(needed, key=needed.__getitem__)
        raise BadRequest(
            f"The Gram matrices of {len(needed)} layers need {sum(needed.values()) / 1e9:,.1f} GB; there are {there / 1e9:,.1f} GB.",
            f"{widest} alone needs {needed[widest] / 1e9:,.1f} GB: the square of its inputs, in float64; half of the memory may be used.",
            f"Leave it dense with --skip {widest}, or use a data-free --criterion without --solver.",
        )


@contextmanager
def watching(module: nn.Module, layers: Mapping[str, nn.Module], tell: Watcher) -> Iterator[None]:
    """Inside, every call of a network's layer tells its inputs."""

    def hook(name: str) -> Callable[..., None]:
        def told(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            tell(name, layer, taken(args, kwargs))

        return told

    with spelled_out(module), ExitStack() as hooks:
        for name, layer in ((name, one) for name, every in uses(module, layers).items() for one in every):
            hooks.callback(layer.register_forward_pre_hook(hook(name), with_kwargs=True).remove)
        yield


@torch.no_grad()
def run(module: nn.Module, inputs: Tensor, *, batch: int) -> None:
    """Run inputs through a network in eval mode, batch by batch; modes are put back."""
    with evaluating(module):
        for part in inputs.split(batch):
            module(as_taken_by(module, part))


def _finite(name: str, seen: Tensor) -> Tensor:
    if not bool(seen.isfinite().all()):
        raise NonFinite(f"The inputs of {name} are NaN or infinite for some calibration samples.", "", "Check the network and the data.")
    return seen
