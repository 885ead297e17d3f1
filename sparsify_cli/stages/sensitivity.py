"""Sensitivity: what pruning each layer alone costs the network, at several levels.

Each layer is solved at a ladder of counts on inputs of the dense network, which gives the error of its own outputs. At a few
of these levels the layer is put into the network, and what comes out is compared with the dense network's: the Kullback-Leibler
divergence of the predictions. Between those the divergence follows the error, whose ratio is interpolated. The sum over
layers is what a budget is shared out by.

Source: the error database of Frantar and Alistarh 2022 (arXiv 2208.11580, section 6; SPDY, arXiv 2201.13096), which takes
summed layer errors or the loss with one layer compressed. Ours: the second, measured at a few levels only, as divergence
from the dense network instead of loss, so that no labels are needed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from types import MappingProxyType

import torch
from torch import Tensor, nn

from sparsify_cli.contracts.listener import Listener, Progress
from sparsify_cli.contracts.solver import Keep, LayerSolver
from sparsify_cli.errors import NonFinite
from sparsify_cli.maths.error_curves import Curve, levels
from sparsify_cli.maths.gram import output_change
from sparsify_cli.maths.keep import apportion, top_k
from sparsify_cli.maths.matrix_view import from_matrix, to_matrix
from sparsify_cli.maths.paired_moments import sampled_gram
from sparsify_cli.recipes.pattern import Pattern
from sparsify_cli.stages.calibrate import BATCH, calibrate, watchable
from sparsify_cli.stages.layerwise import matrix_of, oriented, positions_of, weight_of
from sparsify_cli.training.batches import as_taken_by
from sparsify_cli.training.lockstep import calls, lockstep, parted
from sparsify_cli.training.modes import evaluating
from sparsify_cli.training.padding import counted, real_positions
from sparsify_cli.training.twins import all_inputs
from sparsify_cli.values.arrays import NUMBERS
from sparsify_cli.values.losses import divergence
from sparsify_cli.values.samples import Kind

STEP, LEAST = Fraction(6, 10), Fraction(2, 100)
"""Densities of the ladder: each 0.6 of the one before, to 2 %."""

PROBES = 3
"""Levels of each layer at which the whole network is run."""

JUDGES = 192
"""Samples it is run on."""


@dataclass(frozen=True)
class LayerCosts:
    """What pruning one layer alone costs.

    Args:
        name: of its weight in the network.
        weights: it has.
        kept: counts, descending.
        errors: mean squared error of its outputs at each, relative to their mean square.
        divergence: of the network's predictions at each, nats; measured at a few, between them by the error.
        measured: the counts at which it was measured.
    """

    name: str
    weights: int
    kept: tuple[int, ...]
    errors: tuple[float, ...]
    divergence: tuple[float, ...]
    measured: tuple[int, ...]

    def curve(self, name: str, *, block: int = 1) -> Curve:
        """The divergence as a curve over units of `block` weights, under the name of the tensor."""
        points = [(count // block, cost) for count, cost in zip(self.kept, self.divergence, strict=True)]
        return Curve.measured(name, self.weights // block, points)


def costs_of(
    module: nn.Module,
    inputs: Tensor,
    names: Sequence[str],
    solver: LayerSolver | None,
    listener: Listener,
    *,
    kind: Kind = "classes",
    seed: int = 0,
    chosen: Callable[[str, int], Tensor] | None = None,
    left: Mapping[str, Tensor] = MappingProxyType({}),
) -> list[LayerCosts]:
    """The costs of layers, in the order of `names`; those that no solver can take are left out.

    Args:
        module: the dense network; as it was afterwards.
        inputs: calibration samples.
        names: weights in the network.
        solver: chooses, and repairs what stays; None = nothing is repaired.
        listener: hears progress.
        kind: what the outputs are.
        seed: of which samples judge.
        chosen: without a solver, name and count -> mask of what stays, as the weight is stored; None = the largest weights.
        left: name -> where weights are that were not pruned before, as stored; where no name is, everywhere.
    """
    layers, judges = watchable(module, names, inputs), inputs[:JUDGES]
    batches = parted(module, inputs, layers, BATCH)
    with evaluating(module):
        often = calls(module, inputs[:2], layers)
    real = [real_positions(module, batch) for batch in batches]
    found: dict[str, LayerCosts] = {}
    with evaluating(module), torch.no_grad(), closing(lockstep(module, batches, layers)) as visits:
        judges = judges[: max(1, NUMBERS // max(1, _outputs(module, judges[:1]).numel()))]
        aim = _outputs(module, judges)
        _require_numbers(module, judges, aim, names, kind)
        harm = partial(_divergence, module, judges, aim, kind)
        for visit in visits:
            listener.progress(Progress(f"measuring {visit.name}", len(found) + 1, len(layers)))
            seen, each = visit.inputs, [real[i] for i in visit.batches]
            if often.get(visit.name, 1) > 1:
                every = [all_inputs(module, visit.layer, batch) for batch in batches]
                seen, each = [x for of in every for x in of], [mask for mask, of in zip(real, every, strict=True) for _ in of]
            gram = sampled_gram(visit.layer, seen, real=each, seed=seed)
            masks = partial(_largest, visit.layer) if chosen is None else partial(chosen, visit.name)
            may = _places(visit.layer, left.get(visit.name))
            rungs = partial(_masked, visit.layer, masks) if solver is None else partial(_solved, visit.layer, gram, solver, may)
            found[visit.name] = _costs(visit.layer, visit.name, gram, rungs, harm, int(may.sum()))
    listener.done()
    return [found[name] for name in names if name in found]


def _places(layer: nn.Module, left: Tensor | None) -> Tensor:
    """Where weights of the matrix view may stay."""
    everywhere = torch.ones_like(matrix_of(layer), dtype=torch.bool)
    return everywhere if left is None else to_matrix(oriented(layer, left)).to(everywhere.device)


def _costs(
    layer: nn.Module, name: str, gram: Tensor, rungs: Callable[[Sequence[int]], list[Tensor]], harm: Callable[[], float], there: int
) -> LayerCosts:
    """The costs of keeping fewer than are there; as many as there are cost nothing."""
    dense = matrix_of(layer).double()
    counts = [count for count in levels(there, step=STEP, least=LEAST) if count < there]
    ladder = rungs(counts)
    power = _change(dense, gram)
    errors = [_change(dense - new, gram) / power if power else 0.0 for new in ladder]
    probes = _spread(len(counts), PROBES)
    saved = weight_of(layer).clone()
    measured = {}
    for i in probes:
        weight_of(layer).copy_(oriented(layer, from_matrix(ladder[i], tuple(oriented(layer, saved).shape))))
        measured[i] = harm()
    weight_of(layer).copy_(saved)
    between = _along(errors, measured)
    whole = (there,) if there < dense.numel() else ()
    free = (0.0,) * len(whole)
    return LayerCosts(name, dense.numel(), (*whole, *counts), (*free, *errors), (*free, *between), (*whole, *(counts[i] for i in probes)))


def _largest(layer: nn.Module, count: int) -> Tensor:
    """Where a layer's largest weights are, as they are stored."""
    weight = weight_of(layer)
    return top_k(weight.abs().flatten(), count).view_as(weight)


def _masked(layer: nn.Module, chosen: Callable[[int], Tensor], counts: Sequence[int]) -> list[Tensor]:
    """The layer's matrix at each count, nothing repaired."""
    dense = matrix_of(layer).double()
    masks = (to_matrix(oriented(layer, chosen(count))) for count in counts)
    return [torch.where(mask.to(dense.device), dense, 0) for mask in masks]


def _solved(layer: nn.Module, grams: Tensor, solver: LayerSolver, may: Tensor, counts: Sequence[int]) -> list[Tensor]:
    """The same, repaired, within the places where weights may stay; groups of a convolution share counts by places."""
    parts = matrix_of(layer).double().chunk(len(grams))
    places = may.chunk(len(grams))
    within, room = [None if bool(part.all()) else part for part in places], [int(part.sum()) for part in places]
    shares = [apportion([Fraction(one) for one in room], count, room) for count in counts]
    rungs = [
        solver.ladder(part, one, Keep(0, Pattern(), within[group], positions_of(layer)), [share[group] for share in shares])
        for group, (part, one) in enumerate(zip(parts, grams, strict=True))
    ]
    return [torch.cat([rung[i][0] for rung in rungs]) for i in range(len(counts))]


def _change(change: Tensor, grams: Tensor) -> float:
    return sum(output_change(part, one) for part, one in zip(change.chunk(len(grams)), grams, strict=True))


def _spread(count: int, probes: int) -> list[int]:
    """Places of probes among `count` levels: both ends and evenly between."""
    if count <= probes:
        return list(range(count))
    return sorted({round(i * (count - 1) / (probes - 1)) for i in range(probes)})


def _along(errors: Sequence[float], measured: Mapping[int, float]) -> list[float]:
    """Divergences at all levels: at measured ones as measured, between them in a ratio to the error that changes evenly in logarithms."""
    tiny = 1e-12
    ratios = {i: math.log(max(value, tiny) / max(errors[i], tiny)) for i, value in measured.items()}
    places = sorted(ratios)
    return [measured[i] if i in measured else errors[i] * math.exp(_between(ratios, places, i)) for i in range(len(errors))]


def _between(ratios: Mapping[int, float], places: Sequence[int], i: int) -> float:
    low, high = max((p for p in places if p < i), default=places[0]), min((p for p in places if p > i), default=places[-1])
    way = (i - low) / (high - low) if high > low else 0.0
    return ratios[low] + way * (ratios[high] - ratios[low])


def _require_numbers(module: nn.Module, judges: Tensor, dense: Tensor, names: Sequence[str], kind: Kind) -> None:
    """Refuse a dense network whose answers cannot be compared, naming the first layer that is given numbers that are not finite.

    Raises:
        NonFinite: it is one.
    """
    if math.isnan(float(divergence(dense, dense, kind))):
        calibrate(module, judges, names, gram=False)
        what = "The network's outputs are NaN or infinite for some calibration samples, before anything is pruned."
        raise NonFinite(what, "The inputs of every layer to be pruned are finite: it comes after the last of them.", "Check the network.")


def _divergence(module: nn.Module, judges: Tensor, aim: Tensor, kind: Kind) -> float:
    """Mean KL(dense || now) of the predictions, nats, >= 0; of numbers the squared distance, relative to the dense one's square."""
    out = _outputs(module, judges)
    found = float(divergence(out, aim, kind, targets=counted(module, judges, out)))
    if math.isnan(found):
        raise NonFinite(
            "The network puts out NaN when one layer is pruned.", "Its harm cannot be measured.", "Check the network and the data."
        )
    return max(0.0, found)


def _outputs(module: nn.Module, judges: Tensor) -> Tensor:
    """What it puts out, float64."""
    return torch.cat([_tensor(module(as_taken_by(module, part))).cpu() for part in judges.split(64)]).double()


def _tensor(output: object) -> Tensor:
    while not isinstance(output, Tensor):
        output = next(iter(output.values())) if isinstance(output, Mapping) else output[0]  # type: ignore[index]
    return output
