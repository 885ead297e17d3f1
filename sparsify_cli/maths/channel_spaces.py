"""Orders of channels, merged where they must agree, and the layers and operations that are known to leave them alone.

A space is one order of channels: every place in the state of a network that is indexed by them, and why they may not be reordered,
if so. Spaces merge like sets in a union-find structure.

Source: none; union-find after Galler and Fisher 1964.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import nn

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
ELEMENTWISE = (
    *(nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU),
    *(nn.GELU, nn.SiLU, nn.Mish, nn.Sigmoid, nn.Tanh, nn.Hardswish, nn.Hardsigmoid, nn.Hardtanh, nn.Softplus, nn.LogSigmoid),
)
POOLS = (
    *(nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d),
    *(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d),
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
        *("adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d"),
    }
)
"""Functions that treat every channel alike, when channels are axis 1."""
JOINS = frozenset(
    {"add", "add_", "iadd", "sub", "sub_", "isub", "mul", "mul_", "imul", "div", "div_", "truediv", "itruediv", "maximum", "minimum"}
)
"""Functions of two tensors, number by number."""
SIZES = frozenset({"size", "dim", "getattr", "numel", "floordiv", "floor_divide", "eq", "ne"})
"""What a network asks a tensor other than its numbers."""


@dataclass(frozen=True)
class Place:
    """Where channels lie in a tensor of the state: along `dim`, `repeat` neighbours for each."""

    name: str
    dim: int
    repeat: int = 1


@dataclass(frozen=True)
class Heard:
    """Once that a layer reads channels.

    Args:
        weight: of the layer, by its first name.
        module: path of the layer.
        node: the call, by its name in the traced network.
        dim: axis of the layer's input that holds the channels.
        repeat: neighbours along it for each channel.
    """

    weight: str
    module: str
    node: str
    dim: int
    repeat: int = 1


@dataclass(frozen=True)
class ChannelGroup:
    """Places whose channels have one order.

    Args:
        channels: how many.
        places: every tensor of the state that is indexed by them.
        readers: weights that read them as inputs, and how many columns each channel has there.
        writers: weights that make them.
        blocked: why they may not be reordered; empty when they may.
        mixed: why none may be missing although any order would do: means over channels, layer norms, sizes in the code.
        heard: every call that reads them.
    """

    channels: int
    places: tuple[Place, ...]
    readers: tuple[Place, ...]
    writers: tuple[str, ...]
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
    """One order of channels; spaces that must agree are merged into one."""

    channels: int
    members: list[tuple[str, Place]] = field(default_factory=list)
    blocked: list[str] = field(default_factory=list)
    mixed: list[str] = field(default_factory=list)
    heard: list[Heard] = field(default_factory=list)
    into: Space | None = None

    def root(self) -> Space:
        """The space that this one was merged into, or itself."""
        return self if self.into is None else self.into.root()

    def block(self, reason: str) -> None:
        """Forbid any other order, for this reason."""
        found = self.root().blocked
        if reason not in found:
            found.append(reason)

    def mix(self, reason: str) -> None:
        """Say that something looks at all of them at once, in any order."""
        self.root().mixed.append(reason)

    def merge(self, other: Space, where: str) -> None:
        """Make both one; `where` says which operation asks for it."""
        ours, theirs = self.root(), other.root()
        if ours is theirs:
            return
        for reason in theirs.blocked:
            ours.block(reason)
        if ours.channels != theirs.channels:
            ours.block(f"{where} joins {ours.channels} channels with {theirs.channels}")
        ours.members += theirs.members
        ours.mixed += theirs.mixed
        ours.heard += theirs.heard
        theirs.into = ours


@dataclass(frozen=True)
class Axis:
    """The channels of one tensor: its axis `dim` holds them, each `repeat` times in a row."""

    space: Space
    dim: int
    repeat: int = 1
