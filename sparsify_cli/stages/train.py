"""`train`: train a network from scratch, dense or becoming sparse; or go on from a checkpoint."""

from __future__ import annotations

from pathlib import Path

import torch

from sparsify_cli.contracts.listener import Listener
from sparsify_cli.recipes.shared import DataFields, ModelFields, OutputFields
from sparsify_cli.recipes.verbs import TrainRecipe
from sparsify_cli.stages.finetune import Start, pruning_plan, run_training
from sparsify_cli.stages.outcome import Outcome
from sparsify_cli.stages.subject import Subject, open_subject, with_context
from sparsify_cli.values.checkpoint import Checkpoint, Source
from sparsify_cli.values.mask_set import MaskSet


def train(recipe: TrainRecipe, listener: Listener, *, resume: Path | None = None) -> Outcome:
    """Train and write the result."""
    return run_training(recipe, start_of(recipe), listener, resume=resume)


def start_of(recipe: TrainRecipe) -> Start:
    """The network that is trained, new or from a checkpoint, and how it will be pruned."""
    subject = (open_subject(recipe) if recipe.model else fresh(recipe, recipe, recipe)).single().checked()
    subject.samples("train")
    chooser, target, notes = pruning_plan(recipe, subject)
    parent = subject if recipe.model else None
    return Start(subject, parent, chooser, target, notes)


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
