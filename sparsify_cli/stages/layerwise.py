"""Layer after layer: one pass of all calibration batches, each layer pruned and repaired when they stand in front of it.

Beside the network runs the dense one, on the same batches and to the same layers, so that of each layer it is known what
goes in now, what went in before, and what should come out:

    weights      the solver prunes the weight that imitates the dense outputs best on the inputs now (`target=dense`), or
                 the weight as it was (`target=own`, as SparseGPT, Wanda and ALPS do)
    batch norm   running statistics move by as much as the inputs moved (see `training/batchnorm.follow`)
    bias         moves by as much as the mean of the outputs did, where no batch norm takes care of that

Padding is left out: where the samples are token ids and an embedding has a padding id, rows at such positions do not count.

Source: sequential layer-wise pruning, Frantar and Alistarh 2022 and 2023 (arXiv 2208.11580, 2301.00774); bias correction as in
Nagel et al. 2019 (arXiv 1906.04721, section 4.2). Ours: dense outputs as target, and batch norm that follows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from sparsify_cli.contracts.listener import Listener, Progress
from sparsify_cli.contracts.solver import Keep, LayerSolver, Solution
from sparsify_cli.errors import Infeasible, NonFinite
from sparsify_cli.maths.gram import damped, groups_of, is_turned
from sparsify_cli.maths.matrix_view import from_matrix, to_matrix
from sparsify_cli.maths.paired_moments import Moments, imitating, mean_outputs, output_error, paired_moments
from sparsify_cli.maths.refit import is_exact_cheaper, refit, refit_by_iteration
from sparsify_cli.recipes.pattern import Pattern
from sparsify_cli.stages.calibrate import watchable
from sparsify_cli.training.batchnorm import follow
from sparsify_cli.training.lockstep import Visit
from sparsify_cli.training.twins import Twins

REFIT = 1e-6
"""Damping of the fit on free positions, relative to the mean diagonal of the Gram matrix."""
RIDGE = 1e-2
"""Damping of the imitation of dense outputs, relative to the mean diagonal of the Gram matrix."""


@dataclass(frozen=True, eq=False)
class Layer:
    """A solved layer.

    Args:
        weight: its tensor now; the network's own.
        mask: which of its weights stay.
        change: mean squared error of its outputs, relative to the mean square of the dense ones.
        rows: calibration rows it was solved on.
        size: outputs (of a group), and inputs of an output.
        apart: it was solved for its own outputs, because other samples come to it than in the dense network.
    """

    weight: Tensor
    mask: Tensor
    change: float
    rows: int
    size: tuple[int, int]
    apart: bool = False

    @property
    def is_short(self) -> bool:
        """True when there were fewer rows than a Gram matrix needs to have full rank."""
        return self.rows < self.size[1]


@dataclass(frozen=True, eq=False)
class Held:
    """Weights of a layer that stay as they are, because sparser networks inside it own them.

    Args:
        values: the weight, zero where nothing is held.
        mask: where something is.
    """

    values: Tensor
    mask: Tensor


@dataclass(frozen=True, eq=False)
class Pass:
    """What is done to a network on its way.

    Args:
        solver: chooses and repairs.
        pattern: holds in every group.
        pruned: masks of what was pruned before, by the network's names.
        target: whose outputs are imitated.
        batchnorm: running statistics follow.
        bias: biases are corrected.
        batch: samples of a batch.
        seed: of what is drawn.
        held: weights that stay and do not move, by the network's names.
    """

    solver: LayerSolver
    pattern: Pattern
    pruned: Mapping[str, Tensor]
    target: Literal["dense", "own"] = "dense"
    batchnorm: bool = True
    bias: bool = True
    batch: int = 64
    seed: int = 0
    held: Mapping[str, Held] = field(default_factory=dict)

    def run(self, module: nn.Module, dense: nn.Module, inputs: Tensor, masks: Mapping[str, Tensor], listener: Listener) -> dict[str, Layer]:
        """Solve a network in place.

        Args:
            module: changed.
            dense: the same network before; on the same device.
            inputs: calibration samples, [n, ...].
            masks: name of a weight -> mask with as many weights as are to stay in it (in each group of a convolution).

        Returns:
            The layers that were solved, in the order in which the network runs them.
        """
        done: dict[str, Layer] = {}
        total, zeros = max(1, sum(mask.numel() for mask in masks.values())), 0
        twins = Twins.of(module, dense, inputs, watchable(module, masks, inputs), follows=self.batchnorm, batch=self.batch)
        tied = twins.tied
        with closing(twins.visits()) as visits:
            for now, before in visits:
                if now.name not in masks:
                    follow(now.layer, now.inputs, before.inputs)
                    continue
                done[now.name] = layer = self._layer(now, before, masks[now.name], twins.real, tied=now.name in tied)
                zeros += int((~layer.mask).sum())
                most = max(len(done), len(twins.reached(masks)))  # known from a few samples, which may pass some experts by
                listener.progress(Progress(f"solving {now.name}", len(done), most, sparsity=zeros / total))
                del now, before  # inputs of all batches, which need not live on beside the next ones
        listener.done()
        return done

    @torch.no_grad()
    def _layer(self, now: Visit, before: Visit, target: Tensor, real: Sequence[Tensor | None], *, tied: bool) -> Layer:
        """Solve one layer in place; each group of a convolution on its own, with as many weights as its rows have in the target."""
        dense, layer = matrix_of(before.layer), now.layer
        seen = now.inputs if self.solver.sequential else before.inputs
        each = [real[i] for i in now.batches]
        moments = paired_moments(layer, seen, before.inputs, dense, real=each, seed=self.seed)
        _require_finite(now.name, moments)
        within = self.pruned.get(now.name)
        held = self.held.get(now.name, Held(torch.zeros_like(weight_of(layer)), torch.zeros_like(target)))
        asked = (target, torch.ones_like(target) if within is None else within, held.values.double(), held.mask)
        new, kept = self._groups(dense, moments, positions_of(layer), *(to_matrix(oriented(layer, one)) for one in asked))
        _put(layer, new)
        if self.bias and not tied and getattr(layer, "bias", None) is not None:  # layers that share a weight have biases of their own
            _correct_bias(layer, before.layer, moments)
        mask = oriented(layer, from_matrix(kept, tuple(oriented(layer, target).shape))).contiguous()
        size, apart = (len(dense) // len(moments.gram), dense.shape[1]), now.inputs is before.inputs
        return Layer(weight_of(layer), mask, _change(new, moments), moments.rows, size, apart)

    def _groups(self, dense: Tensor, moments: Moments, positions: int, *asked: Tensor) -> Solution:
        parts = [tensor.chunk(len(moments.gram)) for tensor in (dense, *asked)]
        pairs = [self._group(moments, group, positions, *each) for group, each in enumerate(zip(*parts, strict=True))]
        weights, masks = zip(*pairs, strict=True)
        return torch.cat(weights), torch.cat(masks)

    def _group(
        self, moments: Moments, group: int, positions: int, dense: Tensor, wanted: Tensor, may: Tensor, held: Tensor, fixed: Tensor
    ) -> Solution:
        gram, aim = moments.gram[group], dense.double()
        if self.target == "dense" and self.solver.sequential:
            aim = imitating(aim, gram, moments.aims[group], damping=RIDGE)
        if bool(fixed.any()):
            return self._beside(aim, gram, int(wanted.sum()), may & ~fixed, held, fixed, positions)
        aim = aim if bool(may.all()) else _nearest(aim, gram, may)
        keep = Keep(int(wanted.sum()), self.pattern, None if bool(may.all()) else may, positions)
        return self.solver.solve(aim, gram, keep)

    def _beside(self, aim: Tensor, gram: Tensor, count: int, free: Tensor, held: Tensor, fixed: Tensor, positions: int) -> Solution:
        """The best weights to add to those that are held: what the held ones leave of the aim, in terms of the free positions alone.

        |X (aim - held - d)|^2 = |X (d* - d)|^2 + a constant for every d on the free positions, with d* the least-squares fit on them.
        """
        more = count - int(fixed.sum())
        if more <= 0:
            return held, fixed
        left = _nearest(aim - held, gram, free)
        added, chosen = self.solver.solve(left, gram, Keep(more, self.pattern, free, positions))
        return held + added.double() * chosen, chosen | fixed


def _nearest(aim: Tensor, gram: Tensor, places: Tensor) -> Tensor:
    """The weights at these places alone whose outputs are nearest to those of the aim; what lies elsewhere is made up for, not cut off."""
    fit = refit if is_exact_cheaper(places) else refit_by_iteration
    return fit(aim, damped(gram, REFIT), places)


def sizes_of(layer: nn.Module) -> list[tuple[int, int]]:
    """Outputs and columns of each group that is solved on its own."""
    groups = groups_of(layer)
    outputs, columns = matrix_of(layer).shape
    return [(outputs // groups, columns)] * groups


def require_whole_groups(name: str, layer: nn.Module, pattern: Pattern) -> None:
    """Refuse a pattern over several outputs that a group of a convolution cannot hold, before any work.

    Raises:
        Infeasible: with the layer's name.
    """
    outputs, whole = sizes_of(layer)[0][0], pattern.group if pattern.transposed else pattern.rows
    if outputs % whole:
        raise Infeasible(
            f"{name} has {outputs} outputs in each of its groups, and {pattern} needs a multiple of {whole}.",
            "Each group of a convolution is solved on its own.",
            f"Leave it dense with --skip {name}, or choose another --pattern.",
        )


def weight_of(layer: nn.Module) -> Tensor:
    """The weight of a layer as it is stored."""
    weight: Tensor = layer.weight  # type: ignore[assignment]
    return weight.detach()


def bias_of(layer: nn.Module) -> Tensor:
    """The bias of a layer that has one."""
    bias: Tensor = layer.bias  # type: ignore[assignment]
    return bias.detach()


def positions_of(layer: nn.Module) -> int:
    """Positions of a layer's kernel; 1 for a linear layer."""
    weight = weight_of(layer)
    return weight[0, 0].numel() if weight.ndim > 2 else 1


def oriented(layer: nn.Module, tensor: Tensor) -> Tensor:
    """A weight, or a mask of it, as [out, in, *kernel], or back."""
    return tensor.T if is_turned(layer) else tensor


def matrix_of(layer: nn.Module) -> Tensor:
    """The matrix view of a layer's weight."""
    return to_matrix(oriented(layer, weight_of(layer)))


def _put(layer: nn.Module, matrix: Tensor) -> None:
    weight = weight_of(layer)
    weight.copy_(oriented(layer, from_matrix(matrix, tuple(oriented(layer, weight).shape))))


def _correct_bias(layer: nn.Module, dense: nn.Module, moments: Moments) -> None:
    """Move a layer's bias so that the mean of its outputs is that of the dense network's."""
    shift = mean_outputs(oriented(dense, weight_of(dense)), moments.dense_mean) - mean_outputs(
        oriented(layer, weight_of(layer)), moments.mean
    )
    bias, old = (bias_of(one) for one in (layer, dense))
    bias.copy_(old + shift.to(bias))


def _change(new: Tensor, moments: Moments) -> float:
    """Mean squared error of the outputs relative to the mean square of the dense ones."""
    error = moments.power + sum(output_error(part, moments, group) for group, part in enumerate(new.chunk(len(moments.gram))))
    return max(0.0, error) / moments.power if moments.power else 0.0


def _require_finite(name: str, moments: Moments) -> None:
    if not bool(moments.gram.isfinite().all() & moments.aims.isfinite().all()):
        raise NonFinite(f"The inputs of {name} are NaN or infinite for some calibration samples.", "", "Check the network and the data.")
