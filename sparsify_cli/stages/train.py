"""`train`: train a network from scratch, dense or becoming sparse; or go on from a checkpoint."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from sparsify_cli.contracts.listener import Listener
from sparsify_cli.errors import BadRequest
from sparsify_cli.recipes.shared import DataFields, ModelFields, OutputFields
from sparsify_cli.recipes.verbs import TrainRecipe
from sparsify_cli.stages.finetune import Start, pruning_plan, run_training
from sparsify_cli.stages.forget import forget_positions
from sparsify_cli.stages.outcome import Outcome
from sparsify_cli.stages.subject import Subject, open_subject, with_context
from sparsify_cli.values.checkpoint import Checkpoint, Source
from sparsify_cli.values.mask_set import MaskSet


def train(recipe: TrainRecipe, listener: Listener, *, resume: Path | None = None) -> Outcome:
    """Train and write the result."""
    return run_training(recipe, start_of(recipe), listener, resume=resume)


def start_of(recipe: TrainRecipe) -> Start:
    """The network that is trained, new or from a checkpoint, and how it will be pruned."""
    found = (open_subject(recipe) if recipe.model else fresh(recipe, recipe, recipe)).single()
    subject, left = leaving_out(recipe, found)
    subject.checked().samples("train")
    chooser, target, notes = pruning_plan(recipe, subject)
    parent = subject if recipe.model else None
    return Start(subject, parent, chooser, target, (*left, *notes))


def leaving_out(recipe: TrainRecipe, subject: Subject) -> tuple[Subject, tuple[str, ...]]:
    """The network that is never to be shown what --without names, and a word about it.

    Raises:
        BadRequest: no such samples, or the network is no new one.
    """
    if not recipe.without:
        return subject, ()
    if recipe.model:
        what, why = "--without is for new networks.", f"{recipe.model} may have been trained with these samples."
        raise BadRequest(what, why, "Leave the model out, or have it forget them: sparsify unlearn --forget.")
    train = subject.samples("train")
    gone = frozenset(train.ids[i] for i in forget_positions(recipe.without, train, seed=recipe.seed, flag="--without"))
    told = f"{len(gone):,} of {len(train):,} training samples are left out, now and by later verbs: a --reference for unlearn --audit."
    return replace(subject, left_out=gone), (told,)


def fresh(model: ModelFields, data: DataFields, output: OutputFields) -> Subject:
    """A freshly initialised network of the recipe's architecture, from its seed.

    Raises:
        MissingContext: no architecture was given.
    """
    empty = Subject(Checkpoint({}, Source("a new network", "")), MaskSet())
    subject = with_context(empty, (model.arch, model.arch_arg), (data.data, data.data_arg))
    torch.manual_seed(output.seed)
    module = subject.built()
    state = {name: value.clone() for name, value in module.state_dict().items()}
    name = subject.known_architecture().name.rpartition(":")[2]
    return subject.changed(Checkpoint(state, Source(name, ""), architecture=subject.architecture), MaskSet())
