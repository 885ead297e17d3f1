"""Things to test with, drawn by hypothesis: ties, odd sizes and extremes are common here, as they are in real networks."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from sparsify_cli.recipes.pattern import Pattern

seeds = st.integers(0, 2**31 - 1)


@st.composite
def sizes(draw: st.DrawFn, *, most: int = 64) -> int:
    """How many weights: 0 and 1 are common."""
    return draw(st.one_of(st.sampled_from([0, 1, 2, 3]), st.integers(0, most)))


@st.composite
def sparsities(draw: st.DrawFn) -> Fraction:
    """Fractions of zeros in [0, 1], exact: the ends, what people type (0.9), and k/n."""
    ends = st.sampled_from([Fraction(0), Fraction(1), Fraction(1, 2)])
    typed = st.integers(0, 1000).map(lambda k: Fraction(k, 1000))
    odd = st.integers(1, 97).flatmap(lambda n: st.integers(0, n).map(lambda k: Fraction(k, n)))
    return draw(st.one_of(ends, typed, odd))


@st.composite
def scores(draw: st.DrawFn, shape: Sequence[int] | None = None, *, most: int = 64) -> Tensor:
    """Finite float32 scores of `shape` (flat when none is given); mostly ties, sometimes all equal, sometimes all different."""
    shape = (draw(sizes(most=most)),) if shape is None else tuple(shape)
    count = int(torch.Size(shape).numel())
    values = draw(
        st.sampled_from(
            [
                st.just(0.0),
                st.sampled_from([0.0, -0.0, 1.0]),
                st.integers(-2, 2).map(float),
                st.floats(-1e6, 1e6, width=32),
            ]
        )
    )
    return torch.tensor(draw(st.lists(values, min_size=count, max_size=count)), dtype=torch.float32).reshape(shape)


@st.composite
def masks(draw: st.DrawFn, shape: Sequence[int] | None = None, *, most: int = 64) -> Tensor:
    """Boolean masks, True = kept, all-kept and none-kept included."""
    shape = (draw(sizes(most=most)),) if shape is None else tuple(shape)
    count = int(torch.Size(shape).numel())
    values = draw(st.sampled_from([st.just(True), st.just(False), st.booleans()]))
    return torch.tensor(draw(st.lists(values, min_size=count, max_size=count)), dtype=torch.bool).reshape(shape)


@st.composite
def n_of_m(draw: st.DrawFn, *, most: int = 8) -> Pattern:
    """N:M patterns with 0 < N < M <= `most`; 2:4 and 1:4 are common."""
    group = draw(st.integers(2, most))
    any_pair = st.integers(1, group - 1).map(lambda keep: Pattern(keep=keep, group=group))
    return draw(st.one_of(st.sampled_from([Pattern.parse("2:4"), Pattern.parse("1:4")]), any_pair))


@st.composite
def blocks(draw: st.DrawFn, *, most: int = 4) -> Pattern:
    """block:RxC patterns of at least two weights."""
    rows, columns = draw(st.tuples(st.integers(1, most), st.integers(1, most)).filter(lambda pair: pair[0] * pair[1] > 1))
    return Pattern(rows=rows, columns=columns)


def patterns() -> st.SearchStrategy[Pattern]:
    """Every kind of pattern."""
    return st.one_of(st.just(Pattern()), n_of_m(), blocks())


@st.composite
def shapes_for(draw: st.DrawFn, pattern: Pattern, *, most: int = 3) -> tuple[int, ...]:
    """A matrix [out, in] or convolution [out, in, k, k] shape that the pattern divides."""
    outputs = pattern.rows * draw(st.integers(1, most))
    inputs = pattern.group * pattern.columns * draw(st.integers(1, most))
    side = draw(st.sampled_from([0, 1, 2])) if pattern.columns == 1 else 0
    return (outputs, inputs, side, side) if side else (outputs, inputs)


class TinyCNN(nn.Module):
    """conv 1->4, batch norm, relu, conv 4->8, batch norm, relu, mean over pixels, linear 8->3; inputs [n, 1, 6, 6]."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(1, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.conv2, self.norm2 = nn.Conv2d(4, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits [n, 3]."""
        first = torch.relu(self.norm1(self.conv1(inputs)))
        second = torch.relu(self.norm2(self.conv2(first)))
        logits: Tensor = self.head(second.mean(dim=(2, 3)))
        return logits


def tiny_cnn(seed: int = 0) -> TinyCNN:
    """A convolutional network with batch norm in train mode: 36 + 288 + 24 = 348 prunable weights and 27 other parameters."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return TinyCNN()


def tiny_mlp(seed: int = 0, widths: Sequence[int] = (8, 16, 3)) -> nn.Sequential:
    """Linear layers `0`, `2`, ... with ReLU between them; inputs [n, widths[0]], logits [n, widths[-1]]."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(widths):
            layers += [nn.Linear(inputs, outputs), nn.ReLU()]
        return nn.Sequential(*layers[:-1])


def inputs_for(model: nn.Module, n: int = 8, seed: int = 0) -> Tensor:
    """Normal inputs that fit a tiny model, the same for the same seed."""
    shape = (1, 6, 6) if isinstance(model, TinyCNN) else (next(model.parameters()).shape[1],)
    return torch.randn(n, *shape, generator=torch.Generator().manual_seed(seed))


def models() -> st.SearchStrategy[nn.Module]:
    """Tiny networks with and without convolution and batch norm."""
    makers: list[Any] = [tiny_mlp, tiny_cnn]
    return st.builds(lambda make, seed: make(seed), st.sampled_from(makers), st.integers(0, 9))


def named_weights() -> st.SearchStrategy[dict[str, Tensor]]:
    """The prunable tensors (two dimensions and more) of a tiny network, by name."""
    return models().map(lambda model: {name: p.detach().clone() for name, p in model.named_parameters() if p.dim() > 1})
