"""Orders of channels, merged where they must agree, and the layers and operations that are known to leave them alone.

A space is one order of channels: every place in the state of a network that is indexed by them, and why they may not be reordered,
if so. Spaces merge like sets in a union-find structure; where only a part of one meets another it is split in two first, and where
several neighbours of one meet a single channel of another, these become one channel before.

Source: none; union-find after Galler and Fisher 1964.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from torch import nn

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
ELEMENTWISE = (
    *(nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU),
    *(nn.GELU, nn.SiLU, nn.Mish, nn.Sigmoid, nn.Tanh, nn.Hardswish, nn.Hardsigmoid, nn.Hardtanh, nn.Softplus, nn.LogSigmoid),
)
POOLS = (
    *(nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d),
    *(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d),
    *(nn.Upsample, nn.ConstantPad1d, nn.ConstantPad2d, nn.ConstantPad3d, nn.ReflectionPad1d, nn.ReflectionPad2d, nn.ReflectionPad3d),
    *(nn.ReplicationPad1d, nn.ReplicationPad2d, nn.ReplicationPad3d, nn.CircularPad1d, nn.CircularPad2d, nn.CircularPad3d),
)
SAME = frozenset(
    {
        *("relu", "relu_", "relu6", "leaky_relu", "leaky_relu_", "elu", "elu_", "selu", "celu", "gelu", "silu", "mish", "sigmoid", "tanh"),
        *("sigmoid_", "tanh_", "hardswish", "hardsigmoid", "hardtanh", "softplus", "dropout", "dropout_", "contiguous", "clone", "detach"),
        *("neg", "abs", "exp", "sqrt", "rsqrt", "square", "clamp", "clamp_", "float", "double", "half", "to"),
    }
)
"""Functions and methods that treat every number alike."""
POOLING = frozenset(
    {
        *("max_pool1d", "max_pool2d", "max_pool3d", "avg_pool1d", "avg_pool2d", "avg_pool3d"),
        *("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d"),
        *("adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d", "interpolate", "upsample"),
    }
)
"""Functions that treat every channel alike, when channels are axis 1."""
JOINS = frozenset(
    {"add", "add_", "iadd", "sub", "sub_", "isub", "mul", "mul_", "imul", "div", "div_", "truediv", "itruediv", "maximum", "minimum"}
)
"""Functions of two tensors, number by number."""
CONCATENATIONS = frozenset({"cat", "concat", "concatenate"})
DIVISIONS = frozenset({"chunk", "split", "split_with_sizes", "tensor_split"})
SIZES = frozenset({"size", "dim", "getattr", "numel", "floordiv", "floor_divide", "eq", "ne"})
"""What a network asks a tensor other than its numbers."""


@dataclass(frozen=True)
class Place:
    """Where channels lie in a tensor of the state: along `dim`, from entry `start` on, `repeat` neighbours for each."""

    name: str
    dim: int
    repeat: int = 1
    start: int = 0


@dataclass(frozen=True)
class Heard:
    """Once that a layer reads channels.

    Args:
        weight: of the layer, by its first name.
        module: path of the layer.
        node: the call, by its name in the traced network.
        dim: axis of the layer's input that holds the channels.
        repeat: neighbours along it for each channel.
        start: the first of them.
        along: axis of the weight that meets them: 1, of a transposed convolution 0.
    """

    weight: str
    module: str
    node: str
    dim: int
    repeat: int = 1
    start: int = 0
    along: int = 1


@dataclass(frozen=True)
class ChannelGroup:
    """Places whose channels have one order.

    Args:
        channels: how many.
        places: every tensor of the state that is indexed by them.
        readers: weights that read them as inputs, and how many columns each channel has there.
        writers: weights that make them.
        passed: weights of convolutions in groups that they pass.
        blocked: why they may not be reordered; empty when they may.
        mixed: why none may be missing although any order would do: means over channels, layer norms, sizes in the code.
        heard: every call that reads them.
    """

    channels: int
    places: tuple[Place, ...]
    readers: tuple[Place, ...]
    writers: tuple[str, ...]
    passed: tuple[str, ...] = ()
    blocked: tuple[str, ...] = ()
    mixed: tuple[str, ...] = ()
    heard: tuple[Heard, ...] = ()


@dataclass(frozen=True)
class ChannelGroups:
    """The groups of a network; when it cannot be traced there are none, and `untraced` says why."""

    groups: tuple[ChannelGroup, ...] = ()
    untraced: str = ""


@dataclass(eq=False)
class Space:
    """One order of channels; spaces that must agree are merged into one, spaces of which a part must agree are split in two.

    Args:
        channels: how many.
        members, heard: as in `ChannelGroup`.
        blocked, mixed: as in `ChannelGroup`.
        into: what it became.
        times: channels of it that are one channel there.
    """

    channels: int
    members: list[tuple[str, Place]] = field(default_factory=list)
    blocked: list[str] = field(default_factory=list)
    mixed: list[str] = field(default_factory=list)
    heard: list[Heard] = field(default_factory=list)
    into: tuple[Space, ...] = ()
    times: int = 1

    def leaves(self) -> tuple[Space, ...]:
        """The spaces that this one became, in order; itself where nothing happened to it."""
        return tuple(leaf for leaf, _ in self.grains())

    def grains(self, times: int = 1) -> Iterator[tuple[Space, int]]:
        """The leaves, and how many channels of this space are one channel there; `times` as many."""
        if not self.into:
            yield self, times
        for space in self.into:
            yield from space.grains(times * self.times)

    def block(self, reason: str) -> None:
        """Forbid any other order, for this reason."""
        for leaf in self.leaves():
            if reason not in leaf.blocked:
                leaf.blocked.append(reason)

    def mix(self, reason: str) -> None:
        """Say that something looks at all of them at once, in any order."""
        for leaf in self.leaves():
            leaf.mixed.append(reason)

    def split(self, at: int) -> None:
        """Make two of a leaf: its first `at` channels, and the others."""
        first = replace(self, channels=at, members=[*self.members], heard=[*self.heard])
        members = [(role, replace(place, start=place.start + at * place.repeat)) for role, place in self.members]
        heard = [replace(one, start=one.start + at * one.repeat) for one in self.heard]
        second = replace(self, channels=self.channels - at, members=members, heard=heard)
        for half in (first, second):
            half.blocked, half.mixed = [*self.blocked], [*self.mixed]
        self.into = (first, second)

    def join(self, times: int) -> None:
        """Make one channel of each `times` neighbours of a leaf."""
        members = [(role, replace(place, repeat=place.repeat * times)) for role, place in self.members]
        heard = [replace(one, repeat=one.repeat * times) for one in self.heard]
        self.into, self.times = (Space(self.channels // times, members, [*self.blocked], [*self.mixed], heard),), times

    def merge(self, other: Space) -> None:
        """Make one of two that have as many channels and are not split."""
        [ours], [theirs] = self.leaves(), other.leaves()
        if ours is theirs:
            return
        for reason in theirs.blocked:
            ours.block(reason)
        ours.members += theirs.members
        ours.mixed += theirs.mixed
        ours.heard += theirs.heard
        theirs.into = (ours,)
