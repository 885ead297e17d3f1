"""A small batch-norm CNN for images of any size: four 3x3 convolutions, average pooling, one linear layer.

conv1 keeps the size and has `width` channels; conv2, conv3 and conv4 halve it (stride 2) with 2, 2 and 4 times `width`. Convolutions
have no bias: the batch norm behind each has one. About 130 width^2 parameters: 33,338 for the defaults.
"""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn

from sparsify_cli.contracts.architecture import Architecture
from sparsify_cli.errors import BadRequest


@dataclass(frozen=True)
class Cnn(Architecture):
    """A small batch-norm CNN for images.

    Args:
        in_channels: 1 for grey, 3 for colour images.
        classes: outputs.
        width: channels of the first convolution.
    """

    in_channels: int = 1
    classes: int = 10
    width: int = 16

    def __post_init__(self) -> None:
        """Refuse sizes that make no network."""
        small = {name: value for name, value in vars(self).items() if value < 1}
        if small:
            raise BadRequest(
                f"The architecture cnn cannot have {small}.", "Each is a count of channels or classes.", "Give numbers of at least 1."
            )

    def build(self) -> nn.Module:
        """A freshly initialised network."""
        return SmallCnn(self.in_channels, self.classes, self.width)


class SmallCnn(nn.Module):
    """Images [n, in_channels, height, width] -> logits [n, classes]."""

    def __init__(self, in_channels: int, classes: int, width: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = _convolution(in_channels, width, stride=1), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = _convolution(width, 2 * width, stride=2), nn.BatchNorm2d(2 * width)
        self.conv3, self.bn3 = _convolution(2 * width, 2 * width, stride=2), nn.BatchNorm2d(2 * width)
        self.conv4, self.bn4 = _convolution(2 * width, 4 * width, stride=2), nn.BatchNorm2d(4 * width)
        self.relu = nn.ReLU()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(4 * width, classes)

    def forward(self, images: Float[Tensor, "n channels height width"]) -> Float[Tensor, "n classes"]:
        """Logits of a batch of images."""
        features = self.relu(self.bn1(self.conv1(images)))
        features = self.relu(self.bn2(self.conv2(features)))
        features = self.relu(self.bn3(self.conv3(features)))
        features = self.relu(self.bn4(self.conv4(features)))
        logits: Tensor = self.fc(self.pool(features).flatten(1))
        return logits


def _convolution(inputs: int, outputs: int, *, stride: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel_size=3, stride=stride, padding=1, bias=False)
