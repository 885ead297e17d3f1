"""Fit the labels and what layers of a teacher put out: hints from inside, not only from the end.

loss = CE(labels, student) + weight * mean over layers and samples of |s - t|^2 / |t|^2, s and t the outputs of a layer in student and
teacher for a sample. The layers have the same names and shapes in both; by default the network's direct parts but the last. A part that a
batch does not come to in both, such as an expert that some samples go to, or a list of experts that is itself never called, has no distance
for that batch.

Source: hints from hidden layers: Romero et al. 2015 (FitNets, arXiv 1412.6550), eq. 3, without a regressor since shapes agree; the
relative distance is ours, so that one weight serves layers of any scale.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from sparsify_cli.contracts.objective import Loss, Objective, taught_by
from sparsify_cli.errors import BadRequest
from sparsify_cli.values.losses import loss as loss_of
from sparsify_cli.values.samples import Samples


@dataclass(frozen=True, kw_only=True)
class DistillFeatures(Objective):
    """Cross-entropy and the distance of hidden layers from a teacher's.

    Args:
        layers: globs of layer names, separated by commas; empty = the network's direct parts but the last.
        weight: of the distance, > 0.
    """

    needs_teacher: ClassVar[bool] = True

    layers: str = ""
    weight: float = 1.0

    def __post_init__(self) -> None:
        """Check the option's range."""
        if not self.weight > 0:
            raise BadRequest(f"distill-features has weight {self.weight}.", "", "Choose a weight above 0.")

    def prepare(self, teacher: Callable[[], nn.Module]) -> Loss:
        """Build the teacher; the layers of both are listened to in every batch.

        Raises:
            BadRequest: no layer has such a name; (at the first batch) a layer puts out another shape than the teacher's.
        """
        guide = teacher().eval().requires_grad_(False)
        names = _chosen(guide, self.layers)

        def loss(model: nn.Module, batch: Samples) -> Tensor:
            plain = getattr(model, "module", model)  # a wrapper for several processes holds it
            with _outputs(_parts(plain, names)) as ours:
                logits = model(batch.inputs)
            with _outputs(_parts(guide, names)) as theirs:
                taught_by(guide, batch.inputs)
            heard = [name for name in names if name in ours and name in theirs and _same(ours[name], theirs[name], len(batch))]
            if not heard:
                raise BadRequest(f"No output of {_some(names)} was seen.", "The network does not call them.", "Set objective.layers.")
            apart = [_distance(name, ours[name], theirs[name]) for name in heard]
            return loss_of(logits, batch.targets) + self.weight * torch.stack(apart).mean()

        return loss


def _chosen(guide: nn.Module, globs: str) -> list[str]:
    direct = [name for name, _ in guide.named_children()][:-1] or [""]  # a network without parts: its outputs
    every = [name for name, _ in guide.named_modules() if name]
    wanted = [glob.strip() for glob in globs.split(",") if glob.strip()]
    names: list[str] = [name for name in every if any(fnmatch.fnmatchcase(name, glob) for glob in wanted)] if wanted else direct
    if not names:
        raise BadRequest(f"No layer of the teacher is called {globs or 'anything'}.", f"It has {_some(every)}.", "Set objective.layers.")
    return names


def _some(names: Sequence[str]) -> str:
    """The first of them."""
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def _parts(model: nn.Module, names: Sequence[str]) -> dict[str, nn.Module]:
    there = dict(model.named_modules())
    missing = [name for name in names if name not in there]
    if missing:
        raise BadRequest(f"The model has no layer {missing[0]}, which the teacher has.", "", "Choose others with objective.layers.")
    return {name: there[name] for name in names}


@contextmanager
def _outputs(parts: dict[str, nn.Module]) -> Iterator[dict[str, Any]]:
    """What layers put out in the forward pass inside, by name."""
    seen: dict[str, Any] = {}
    with ExitStack() as hooks:
        for name, part in parts.items():
            hooks.callback(part.register_forward_hook(lambda _, __, out, name=name: seen.__setitem__(name, out)).remove)
        yield seen


def _same(ours: Any, theirs: Any, batch: int) -> bool:
    """Whether rows are of the same samples: all of them, each as often."""
    rows = [len(one) for one in (ours, theirs) if isinstance(one, Tensor) and one.ndim]
    return len(rows) < 2 or (rows[0] == rows[1] and rows[0] % batch == 0)


def _distance(name: str, ours: Any, theirs: Any) -> Tensor:
    if not (isinstance(ours, Tensor) and isinstance(theirs, Tensor) and ours.shape == theirs.shape):
        shapes = " and ".join(str(tuple(x.shape)) if isinstance(x, Tensor) else type(x).__name__ for x in (ours, theirs))
        what = f"The layer {name} puts out {shapes} in model and teacher."
        raise BadRequest(what, "Distances need equal shapes.", "Choose others with objective.layers.")
    wanted = theirs.to(ours)
    apart, size = ((x.square().flatten(1).sum(1)) for x in (ours - wanted, wanted))
    ratio: Tensor = (apart / size.clamp_min(1e-12)).mean()
    return ratio
