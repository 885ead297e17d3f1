"""What training costs: multiply-accumulates of one sample and one step, from what its forward pass costs.

A backward pass costs two forward passes: one for the gradient of the inputs, one for that of the weights. Where a regime needs the
gradient of weights that are not there, that part is dense. f_S is the sparse and f_D the dense forward pass:

    dense                       3 f_D
    static, SET                 3 f_S
    SNFS                        2 f_S + f_D                 (a dense gradient at every step)
    RigL                        (3 f_S dT + 2 f_S + f_D) / (dT + 1)
    gradual pruning             mean over steps of 3 f_D (1 - s_t)
    AC/DC                       3 f_S in compressed steps, 3 f_D in the others
    SAM, CrAM                   twice the step they are built on

Batch norm, activations, biases, the optimizer and the search for masks are not counted.

Source: Evci et al. 2020 (arXiv 1911.11134), appendix on FLOPs. That RigL stops after 75 % of the steps is not subtracted there
either. Differs from the reproduction (github.com/varun19299/rigl-reproducibility), whose gradual pruning is 2 f_D (1 - s) + f_D.
AC/DC: Peste et al. 2021 (arXiv 2106.12379); SAM: Foret et al. 2021 (arXiv 2010.01412).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def forward(uses: Mapping[str, int], weights: Mapping[str, int]) -> int:
    """f: multiply-accumulates of one sample's forward pass.

    Args:
        uses: how often each weight of a tensor is used, of `macs.macs_per_weight`.
        weights: how many weights each tensor has, or keeps; one that is not named costs nothing.
    """
    return sum(times * weights.get(name, 0) for name, times in uses.items())


def plain(f: float) -> float:
    """Forward and backward through the same weights: dense training with f_D, static masks and SET with f_S."""
    return 3 * f


def snfs(f_sparse: float, f_dense: float) -> float:
    """A step whose gradient of the weights is dense."""
    return 2 * f_sparse + f_dense


def rigl(f_sparse: float, f_dense: float, *, every: int) -> float:
    """The mean step, when one comes with a dense gradient after `every` sparse ones.

    Args:
        f_sparse: f_S.
        f_dense: f_D.
        every: dT, steps between two updates of the masks.
    """
    return (plain(f_sparse) * every + snfs(f_sparse, f_dense)) / (every + 1)


def gradual(f_dense: float, sparsities: Sequence[float]) -> float:
    """The mean step of gradual pruning: the cost of a step falls with the sparsity.

    Args:
        f_dense: f_D.
        sparsities: s_t of every step, fraction of the multiply-accumulates that are spared; at least one step.
    """
    return sum(plain(f_dense) * (1 - sparsity) for sparsity in sparsities) / len(sparsities)


def alternating(f_sparse: float, f_dense: float, *, sparse_steps: int, dense_steps: int) -> float:
    """The mean step of AC/DC; together at least one step.

    Args:
        f_sparse: f_S.
        f_dense: f_D.
        sparse_steps: steps of the compressed phases.
        dense_steps: steps of the others.
    """
    return (plain(f_sparse) * sparse_steps + plain(f_dense) * dense_steps) / (sparse_steps + dense_steps)


def twice(step: float) -> float:
    """A step that takes two gradients, as SAM and CrAM do."""
    return 2 * step
