"""Forms in which an empirical Fisher is kept, and products with its damped inverse in each.

    dense, block   diagonal blocks of consecutive weights (`fisher.py`); one block is the whole matrix. Blocks of up to 1,024 weights are
                   kept as their eigenvectors Q and eigenvalues w:  (F + lambda I)^-1 v = Q ((Q^T v) / (w + lambda)),  at any damping
    low-rank       m rows r_i = g_i / sqrt(m) as they are:  (R^T R + lambda I)^-1 v = (v - R^T (R R^T + lambda I)^-1 R v) / lambda
    kronecker      a weight matrix [rows, cols] with per-sample gradients G_i:  F = A (x) B / tr,  A = E[G G^T], B = E[G^T G], tr = E|G|^2;
                   with A = U a U^T, B = W b W^T:  (F + lambda I)^-1 V = U ((U^T V W) / (a b^T / tr + lambda)) W^T ;  vectors dense

Where some weights may not move, the first three invert the Fisher of those that may. The Kronecker form cannot be cut that way: what it
gives for the others is set to zero.

Source: Woodbury's identity as in Frantar, Kurtic, Alistarh 2021 (M-FAC, arXiv 2107.03356); Kronecker factors: Martens and Grosse 2015
(arXiv 1503.05671). Differs: factors are marginals of per-sample gradients, which needs no hooks and treats convolutions like any matrix;
the trace is that of the Fisher; damping is exact, not split between factors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from sparsify_cli.errors import Anomalous
from sparsify_cli.maths.fisher import add_gram, blocks_of, empty_gram, mean_diagonal, solve_blocks
from sparsify_cli.maths.per_sample_gradients import Coordinates

Rows = Iterator[Float[Tensor, "rows d"]]
TOGETHER = 2**25
"""Numbers of the gradients whose products are summed before they are added to the rest: 128 MB in float32."""
SPECTRAL = 1024
"""Weights in a block up to which its eigenvectors are worth their time, that of five to ten Cholesky factors."""
EIGENVECTORS = "vectors"
"""What they are called among what is kept."""
CHUNK = 2**18
"""Numbers of blocks that are copied together: few enough for the processor's cache; of blocks of 512 one, see `_products`."""
COLUMNS = 2**16
"""Columns of the rows that are multiplied at a time in float64."""


@runtime_checkable
class Form(Protocol):
    """A Fisher that can be kept and inverted."""

    @property
    def scale(self) -> float:
        """Mean diagonal entry, without damping."""

    def solve(self, vector: Tensor, damping: float, free: Tensor | None = None) -> Tensor:
        """(F + damping I)^-1 vector over the weights that are free; zero elsewhere. float64."""

    def tensors(self) -> dict[str, Tensor]:
        """To be kept."""


@dataclass(frozen=True, eq=False)
class BlockForm:
    """Diagonal blocks."""

    blocks: Float[Tensor, "blocks size size"]
    count: int

    @classmethod
    def gathered(cls, rows: Rows, count: int, block: int, like: Tensor, dtype: torch.dtype) -> BlockForm:
        """The mean of outer products, summed in `dtype` and rounded once."""
        gram, n = empty_gram(count, block, like, dtype=dtype), 0
        wide = torch.promote_types(like.dtype, torch.float32)
        part = empty_gram(count, block, like, dtype=wide)
        for some in gathered_rows(rows, TOGETHER // count):
            gram += add_gram(part.zero_(), some)  # a product in float32 is twice as fast
            n += len(some)
        del part
        gram /= n
        return cls(gram.to("cpu", wide), count)

    @property
    def scale(self) -> float:
        """Mean diagonal entry."""
        return mean_diagonal(self.blocks, self.count)

    def solve(self, vector: Tensor, damping: float, free: Tensor | None = None) -> Tensor:
        """By Cholesky factors, block by block."""
        return solve_blocks(self.blocks, vector, damping=damping, free=free)

    def spectral(self) -> SpectralForm:
        """The same in eigenvectors, which take the place of the blocks: less memory than both."""
        values = torch.empty(self.blocks.shape[:2], dtype=torch.float64)
        for some in _some_at_a_time(self.blocks):
            found = torch.linalg.eigh(self.blocks[some].double())
            values[some], self.blocks[some] = found.eigenvalues, found.eigenvectors.to(self.blocks.dtype)
        return SpectralForm(self.blocks, values, self.count)

    def without(self, rows: Rows, n: int) -> BlockForm:
        """The mean over what stays: (n F - sum g g^T over the rows) / (n - k), where F was the mean over all n.

        Rounding can leave it slightly indefinite; damping has to be larger than that.
        """
        return _without(self.blocks.to(torch.float64, copy=True), rows, n, self.count)

    def tensors(self) -> dict[str, Tensor]:
        """The blocks."""
        return {"fisher": self.blocks}


@dataclass(frozen=True, eq=False)
class SpectralForm:
    """Diagonal blocks by their eigenvectors (columns) and eigenvalues: decomposed once, solved at any damping by two products."""

    vectors: Float[Tensor, "blocks size size"]
    values: Float[Tensor, "blocks size"]
    count: int

    @property
    def scale(self) -> float:
        """Mean diagonal entry."""
        return float(self.values.sum()) / self.count

    def blocks(self, some: slice) -> Float[Tensor, "some size size"]:
        """Some of the blocks themselves, float64."""
        q = self._copied(some, torch.float64)
        return (q * self.values[some].unsqueeze(1)) @ q.mT

    def solve(self, vector: Tensor, damping: float, free: Tensor | None = None) -> Tensor:
        """In the eigenbasis; by Cholesky factors where some weights may not move.

        Raises:
            Anomalous: a block is not positive definite.
        """
        return self.solutions(vector)(damping) if free is None else self._solved_inside(vector, damping, free)

    def solutions(self, vector: Tensor) -> Callable[[float], Tensor]:
        """Damping -> (F + damping I)^-1 vector, float64: turned into the eigenbasis once, for any number of dampings.

        There in float64, because small eigenvalues enlarge its rounding; back in the eigenvectors' own type, where nothing does.
        """
        turned = blocks_of(vector.double(), self.vectors.shape[-1]).unsqueeze(-1)
        for some in _some_at_a_time(self.vectors):
            turned[some] = _products(self._copied(some, torch.float64).mT, turned[some])

        def solution(damping: float) -> Tensor:
            damped = self.values + damping
            if float(damped.min()) <= 0:
                raise Anomalous(f"The Fisher matrix is not positive definite at damping {damping:.3g}.", "", "Use a larger damping.")
            scaled = (turned / damped.unsqueeze(-1)).to(self.vectors.dtype)
            parts = [_products(self._copied(some, self.vectors.dtype), scaled[some]) for some in _some_at_a_time(self.vectors)]
            return torch.cat(parts).reshape(-1)[: len(vector)].double()

        return solution

    def without(self, rows: Rows, n: int) -> BlockForm:
        """The mean over what stays: see `BlockForm.without`."""
        whole = torch.empty(self.vectors.shape, dtype=torch.float64)
        for some in _some_at_a_time(self.vectors):
            whole[some] = self.blocks(some)
        return _without(whole, rows, n, self.count)

    def _copied(self, some: slice, dtype: torch.dtype) -> Tensor:
        """Eigenvectors in memory of this process: in a mapped file they may begin anywhere, and products would round differently."""
        return self.vectors[some].to(dtype, copy=True)

    def _solved_inside(self, vector: Tensor, damping: float, free: Tensor) -> Tensor:
        """By Cholesky factors, a few blocks at a time."""
        size, parts = self.vectors.shape[-1], []
        for some in _some_at_a_time(self.vectors):
            there = slice(some.start * size, some.stop * size)
            parts.append(solve_blocks(self.blocks(some), vector[there], damping=damping, free=free[there]))
        return torch.cat(parts)

    def tensors(self) -> dict[str, Tensor]:
        """Eigenvectors and eigenvalues."""
        return {EIGENVECTORS: self.vectors, "values": self.values}


@dataclass(frozen=True, eq=False)
class LowRankForm:
    """Rows g / sqrt(m), and their Gram matrix."""

    rows: Float[Tensor, "m d"]
    gram: Float[Tensor, "m m"]

    @classmethod
    def gathered(cls, rows: Rows) -> LowRankForm:
        """All rows, in memory."""
        kept = torch.cat([some.cpu() for some in rows])
        kept /= len(kept) ** 0.5
        return cls(kept, _row_gram(kept))

    @property
    def scale(self) -> float:
        """Mean diagonal entry."""
        return float(self.gram.trace()) / self.rows.shape[1]

    def solve(self, vector: Tensor, damping: float, free: Tensor | None = None) -> Tensor:
        """By Woodbury's identity: one system of m unknowns."""
        rows = self.rows if free is None else self.rows * free
        gram = self.gram.clone() if free is None else _row_gram(rows)
        gram.diagonal().add_(damping)
        factor, info = torch.linalg.cholesky_ex(gram)
        if int(info):
            raise Anomalous(f"{len(rows)} gradients have no inverse at damping {damping:.3g}.", "", "Use a larger damping.")
        v = vector.double() if free is None else vector.double() * free
        inner = torch.cholesky_solve((rows @ v.to(rows.dtype)).double().unsqueeze(1), factor).squeeze(1)
        return (v - (inner.to(rows.dtype) @ rows).double()) / damping

    def tensors(self) -> dict[str, Tensor]:
        """Rows and Gram matrix."""
        return {"rows": self.rows, "row_gram": self.gram}


@dataclass(frozen=True, eq=False)
class KroneckerForm:
    """Name -> factors: two of a matrix, one of a vector; and E|G|^2 of each."""

    coordinates: Coordinates
    factors: Mapping[str, tuple[Tensor, ...]]
    traces: Mapping[str, float]

    @classmethod
    def gathered(cls, rows: Rows, coordinates: Coordinates) -> KroneckerForm:
        """Marginals of per-sample gradients, summed in float64."""
        factors = {name: _empty(shape) for name, shape in coordinates.shapes.items()}
        n = 0
        for some in rows:
            for name, gradients in coordinates.spread(some.cpu()).items():
                _add(factors[name], gradients.double())
            n += len(some)
        mean = {name: tuple(factor / n for factor in each) for name, each in factors.items()}
        return cls(coordinates, mean, {name: float(each[0].trace()) for name, each in mean.items()})

    @property
    def scale(self) -> float:
        """Mean diagonal entry over the weights that are kept."""
        return sum(self.traces.values()) / self.coordinates.count

    def solve(self, vector: Tensor, damping: float, free: Tensor | None = None) -> Tensor:
        """In the eigenbasis of the factors."""
        v = vector.double() if free is None else vector.double() * free
        solved = {name: self._solved(name, part[0], damping) for name, part in self.coordinates.spread(v.unsqueeze(0)).items()}
        found = self.coordinates.flatten(solved)
        return found if free is None else found * free

    def _solved(self, name: str, part: Tensor, damping: float) -> Tensor:
        (a, u), *other = self._bases[name]
        if not other or not self.traces[name]:
            return u @ ((u.T @ part.reshape(len(u), -1)) / (a.unsqueeze(1) + damping)) if not other else part / damping
        b, w = other[0]
        middle = (u.T @ part.reshape(len(u), len(w)) @ w) / (a.unsqueeze(1) * b / self.traces[name] + damping)
        return u @ middle @ w.T

    @cached_property
    def _bases(self) -> dict[str, list[tuple[Tensor, Tensor]]]:
        return {name: [_eigen(factor) for factor in each] for name, each in self.factors.items()}

    def tensors(self) -> dict[str, Tensor]:
        """The factors; a factor is named by its weight and its place."""
        return {f"factor.{i}.{name}": factor for name, each in self.factors.items() for i, factor in enumerate(each)}


def _without(blocks: Float[Tensor, "blocks size size"], rows: Rows, n: int, count: int) -> BlockForm:
    """(sum g g^T over the rows - n F) / (k - n), in the place of F: large blocks are not there twice."""
    blocks.mul_(-n)
    k = 0
    for some in rows:
        add_gram(blocks, some)
        k += len(some)
    return BlockForm(blocks.div_(k - n), count)


def _products(matrices: Float[Tensor, "some size size"], vectors: Float[Tensor, "some size 1"]) -> Float[Tensor, "some size 1"]:
    """Batched, but for a single one, which is three times as fast by itself."""
    return matrices @ vectors if len(matrices) > 1 else (matrices[0] @ vectors[0]).unsqueeze(0)


def _some_at_a_time(blocks: Float[Tensor, "blocks size size"]) -> list[slice]:
    """Blocks that are copied together."""
    step = max(1, CHUNK // blocks.shape[-1] ** 2)
    return [slice(i, i + step) for i in range(0, len(blocks), step)]


def gathered_rows(rows: Rows, most: int) -> Rows:
    """The same rows, several chunks at a time: at least `most` rows, or all."""
    waiting: list[Tensor] = []
    for some in rows:
        waiting.append(some)
        if sum(map(len, waiting)) >= most:
            yield torch.cat(waiting)
            waiting = []
    if waiting:
        yield torch.cat(waiting)


def form_of(kind: str, memo: Mapping[str, Tensor], coordinates: Coordinates) -> Form | None:
    """The form that was kept; None where the memo holds another one."""
    d = coordinates.count
    if kind in ("dense", "block"):
        if EIGENVECTORS in memo and "values" in memo:
            fits = _holds(memo[EIGENVECTORS], d) and memo["values"].shape == memo[EIGENVECTORS].shape[:2]
            return SpectralForm(memo[EIGENVECTORS], memo["values"], d) if fits else None
        return BlockForm(memo["fisher"], d) if "fisher" in memo and _holds(memo["fisher"], d) else None
    if kind == "low-rank":
        fits = {"rows", "row_gram"} <= set(memo) and memo["rows"].ndim == 2 and memo["rows"].shape[1] == d
        return LowRankForm(memo["rows"], memo["row_gram"]) if fits else None
    names = [f"factor.{i}.{name}" for name, shape in coordinates.shapes.items() for i in range(min(2, max(1, len(shape))))]
    if not set(names) <= set(memo):
        return None
    factors = {name: tuple(memo[n] for n in names if n.split(".", 2)[2] == name) for name in coordinates.shapes}
    if any(
        f.shape != e.shape for name, shape in coordinates.shapes.items() for f, e in zip(factors[name], _empty(shape, "meta"), strict=True)
    ):
        return None
    return KroneckerForm(coordinates, factors, {name: float(each[0].trace()) for name, each in factors.items()})


def _holds(blocks: Tensor, count: int) -> bool:
    """Whether blocks are square and hold so many coordinates, the last one padded."""
    return blocks.ndim == 3 and blocks.shape[1] == blocks.shape[2] and -(-count // max(1, blocks.shape[1])) == len(blocks)


def factor_sizes(coordinates: Coordinates) -> list[int]:
    """Widths of the factors that the Kronecker form keeps."""
    return [len(factor) for shape in coordinates.shapes.values() for factor in _empty(shape, device="meta")]


def _empty(shape: torch.Size, device: str = "cpu") -> tuple[Tensor, ...]:
    sizes = (shape[0], shape[1:].numel()) if len(shape) > 1 else (shape.numel(),)
    return tuple(torch.zeros(size, size, dtype=torch.float64, device=device) for size in sizes)


def _add(factors: tuple[Tensor, ...], gradients: Float[Tensor, "n ..."]) -> None:
    n = len(gradients)
    if len(factors) == 1:
        flat = gradients.reshape(n, -1)
        factors[0].addmm_(flat.T, flat)
        return
    matrices = gradients.reshape(n, len(factors[0]), len(factors[1]))
    tall, wide = matrices.transpose(0, 1).reshape(len(factors[0]), -1), matrices.reshape(-1, len(factors[1]))
    factors[0].addmm_(tall, tall.T)
    factors[1].addmm_(wide.T, wide)


def _eigen(factor: Tensor) -> tuple[Tensor, Tensor]:
    values, vectors = torch.linalg.eigh(factor)
    return values.clamp(min=0), vectors


def _row_gram(rows: Float[Tensor, "m d"]) -> Float[Tensor, "m m"]:
    gram = torch.zeros(len(rows), len(rows), dtype=torch.float64)
    for some in rows.split(COLUMNS, dim=1):
        wide = some.double()
        gram.addmm_(wide, wide.T)
    return gram
