"""How a network was trained, as its manifest or an ancestor's says: what methods of forgetting are to go by, or beside.

An option that a method names in `as_trained` is, where it is left out, the one that was trained with. Training anew
(`--unlearner retrain`) has options of its own; a note says where they differ from the recipe, and what it cannot do.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, fields, replace
from typing import Any

from sparsify_cli.contracts.unlearner import Unlearner
from sparsify_cli.recipes.duration import Duration
from sparsify_cli.recipes.option import Choice
from sparsify_cli.recipes.verbs import TrainRecipe
from sparsify_cli.shelf import Shelf
from sparsify_cli.stages.certificate import EXACT
from sparsify_cli.stages.forgotten import lineage, unlearner_of
from sparsify_cli.stages.strategy import strategy
from sparsify_cli.stages.subject import Subject
from sparsify_cli.values.artifact import Artifact

TRAINED = ("train", "finetune", "embed")
SHARED = ("epochs", "lr", "batch_size", "momentum", "weight_decay")
"""Options of training that training anew has, too."""
CHOSEN = ("objective", "regime")
ONLY_ENGINE = ("optimizer", "nesterov", "schedule", "floor", "warmup", "clip", "augment", "average", "keep", "precision", *CHOSEN)
"""Those it has not; its own are the defaults of `train`, but for the warm-up."""
WHOLE = "sparsify train --without has the whole recipe"


def as_trained(choice: Choice, subject: Subject) -> Choice:
    """The choice of a method, with the options it is to take from the training where they are not given."""
    wanted = getattr(Shelf("unlearners").load(choice.name), "as_trained", ())
    recipe = objective_of(subject.artifact)
    told = {name: recipe[name] for name in wanted if isinstance(recipe.get(name), int | float)}
    return replace(choice, options={**told, **choice.options})


def objective_of(artifact: Artifact | None) -> Mapping[str, Any]:
    """The recipe that the weights were last brought down on; empty where none is recorded.

    Decay apart from the gradient (adamw) is no part of what is minimised, so its recipe has none.
    """
    for one in lineage(artifact):
        recipe = _recipe(one)
        if one.verb == "unlearn" and unlearner_of(one) in EXACT:
            return asdict(strategy("unlearners", Choice.parse(recipe["unlearner"])))
        if one.verb in TRAINED and recipe.get("epochs"):
            return recipe if recipe.get("optimizer") != "adamw" else {**recipe, "weight_decay": 0.0}
    return {}


def recipe_notes(method: Unlearner, name: str, subject: Subject) -> Iterator[str]:
    """Where training anew differs from how the network was trained; one note, and none where nothing is recorded or differs.

    Args:
        method: with its options.
        name: what it is called.
        subject: the network.
    """
    line = list(lineage(subject.artifact))
    trained = next((i for i, one in enumerate(line) if one.verb == "train"), None)
    if name not in EXACT or trained is None:
        return
    recipe, since = _recipe(line[trained]), [one.verb for one in reversed(line[:trained]) if one.verb != "unlearn"]
    differing = [one for one in SHARED if one in recipe and getattr(method, one, recipe[one]) != recipe[one]]
    parts = (_differing(method, recipe, differing), _beyond([*_unknown(recipe), *since]))
    if any(parts):
        yield f"{name} is not how {line[trained].folder.name} was trained: {'; '.join(filter(None, parts))}."


def unknown_notes(choice: Choice, method: Unlearner, subject: Subject) -> Iterator[str]:
    """Which options were to be those of the training, of which nothing is recorded."""
    for name in method.as_trained:
        if name not in as_trained(choice, subject).options:
            yield f"nothing says with which {name} {subject.path} was trained: {getattr(method, name)} is taken (--set unlearner.{name}=)."


def _differing(method: Unlearner, recipe: Mapping[str, Any], names: list[str]) -> str:
    """Options with another value, and the words that make them equal."""
    told = ", ".join(f"{one} {getattr(method, one)} instead of {recipe[one]}" for one in names)
    return f"{told} (the same: {' '.join(f'--set unlearner.{one}={recipe[one]}' for one in names)})" if names else ""


def _beyond(words: list[str]) -> str:
    """What it does not do, and what does."""
    return f"it leaves out {', '.join(words)} ({WHOLE})" if words else ""


def _unknown(recipe: Mapping[str, Any]) -> Iterator[str]:
    """Settings that training anew does not have, where they are not what it does anyway."""
    plain = {field.name: field.default for field in fields(TrainRecipe)}
    for name in ONLY_ENGINE:
        value = Choice.parse(recipe[name]).name if name in CHOSEN and name in recipe else recipe.get(name)
        usual = getattr(plain[name], "name", plain[name])
        if value is not None and (not _is_none(str(value)) if name == "warmup" else value != usual):
            yield f"{name.replace('warmup', 'warm-up')} {value}"


def _is_none(warmup: str) -> bool:
    return not Duration.parse(warmup).value


def _recipe(artifact: Artifact) -> Mapping[str, Any]:
    return dict(artifact.manifest.get("recipe") or {})
