"""A level of a nest in one shot: a solver of layers chooses and sets the weights that a level adds to those of sparser ones.

Layer after layer the network of the level imitates the dense one, on inputs that come from its own layers before. The weights of sparser
levels stay, bit for bit; what they leave of a layer's aim is approximated by the weights that are added (`layerwise.Pass`). Running
statistics move with the inputs, biases with the means of outputs, where a level has them of its own.

Source: ours; the nesting of Halvachi, Peste, Alistarh, Lampert 2023 (arXiv 2312.06872) with layer-wise solvers instead of training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from sparsify_cli.contracts.listener import Listener
from sparsify_cli.contracts.solver import LayerSolver
from sparsify_cli.errors import BadRequest
from sparsify_cli.recipes.verbs import EmbedRecipe
from sparsify_cli.stages import auto
from sparsify_cli.stages.auto import Auto
from sparsify_cli.stages.calibrate import names_in, watchable
from sparsify_cli.stages.layerwise import Held, Pass, sizes_of
from sparsify_cli.stages.memory import require_room
from sparsify_cli.stages.solve import solver_of
from sparsify_cli.stages.solver_memory import Asked, need_of
from sparsify_cli.stages.subject import Subject
from sparsify_cli.training.forgetting import draw
from sparsify_cli.values.mask_set import MaskSet


def require_solvable(recipe: EmbedRecipe) -> None:
    """Refuse a solver where it has no work, or cannot work beside frozen weights.

    Raises:
        BadRequest: levels are trained, a pattern was asked for, or the solver is for whole networks.
    """
    if recipe.epochs:
        raise BadRequest("--solver chooses levels in one shot; here they are trained.", "", "Add --epochs 0, or leave --solver out.")
    if recipe.pattern.is_grouped:
        why = "Beside the weights of sparser levels a solver of layers holds no groups."
        raise BadRequest(f"--solver and --pattern {recipe.pattern} do not go together in a nest.", why, "Leave --solver out.")
    if not isinstance(solver_of(recipe), LayerSolver):
        name = recipe.solver.name if recipe.solver else ""
        raise BadRequest(f"The solver {name} works on whole networks.", "It cannot leave weights as they are.", "Take --solver auto.")


def require_level_room(recipe: EmbedRecipe, subject: Subject, names: Sequence[str], listener: Listener) -> None:
    """Say what the solver will hold, and refuse what does not fit.

    Raises:
        BadRequest: with what is needed and what there is.
    """
    solver = solver_of(recipe)
    if recipe.solver is not None and isinstance(solver, LayerSolver):
        inputs = subject.samples("train").inputs
        asked = Asked(f"--solver {recipe.solver.name}", [solver], recipe.pattern, min(recipe.samples, len(inputs)))
        if (need := need_of(asked, subject, names, inputs[:2])) is not None:
            require_room(need, listener)


def repaired(
    recipe: EmbedRecipe, subject: Subject, start: Mapping[str, Tensor], masks: MaskSet, frozen: MaskSet, listener: Listener
) -> tuple[dict[str, Tensor], MaskSet]:
    """Every tensor of the level's network, and its masks.

    Args:
        recipe: solver, samples, state and seed.
        subject: the dense network that is imitated.
        start: tensors of the level before it is repaired; those of sparser levels where `frozen` says.
        masks: as many weights as are to stay in each layer.
        frozen: weights of sparser levels.
        listener: hears progress.
    """
    module, dense = subject.module(), subject.module()
    ours = names_in(module, subject)
    module.load_state_dict({**module.state_dict(), **{ours[name]: tensor for name, tensor in start.items() if name in ours}})
    inputs = draw(subject.samples("train"), recipe.samples, recipe.seed).inputs
    held = {ours[name]: Held(torch.where(mask, start[name], 0), mask) for name, mask in frozen.items()}
    theirs = {new: name for name, new in ours.items()}
    own = recipe.state == "private"
    wanted = {ours[name]: mask for name, mask in masks.items()}
    pruned = {ours[name]: mask for name, mask in subject.masks.items()}
    work = Pass(_solver(recipe, watchable(module, wanted, inputs)), recipe.pattern, pruned, bias=own, seed=recipe.seed, held=held)
    solved = {theirs[new]: layer for new, layer in work.run(module, dense, inputs, wanted, listener).items()}
    state = module.state_dict()
    tensors = {name: state[ours[name]].to(tensor.dtype) if name in ours else tensor for name, tensor in start.items()}
    final = MaskSet({**masks, **{name: layer.mask for name, layer in solved.items()}})
    return final.apply(tensors), final


def _solver(recipe: EmbedRecipe, layers: Mapping[str, torch.nn.Module]) -> LayerSolver:
    solver = solver_of(recipe)
    assert isinstance(solver, LayerSolver)
    if isinstance(solver, Auto):
        return Auto(auto.limit([size for layer in layers.values() for size in sizes_of(layer)], auto.budget("normal")))
    return solver
