"""Augmented images: flipped left to right and shifted by a few pixels, as the classic recipes for small images do.

Statistics that are measured on training images as they are differ from those a network was trained with; copies that are
flipped and shifted come closer. What comes in at the border is zero, the mean of normalised images.

Source: He et al. 2016 (arXiv 1512.03385, section 4.2): 4 pixels of padding, a random crop and a random flip.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from sparsify_cli.errors import BadRequest

SHIFT = 8
"""Largest shift, as a part of the shorter side: an eighth (4 of 32 pixels)."""


def augmented(images: Float[Tensor, "n channels height width"], *, copies: int, seed: int) -> Float[Tensor, "m channels height width"]:
    """`copies` of each image, each flipped or not and shifted at random; copy after copy, so that a prefix holds every image.

    Raises:
        BadRequest: the samples are no images.
    """
    require_images(images)
    generator = torch.Generator().manual_seed(seed)
    return torch.cat([flipped_and_shifted(images, generator) for _ in range(copies)])


def require_images(samples: Tensor) -> None:
    """Refuse samples that cannot be flipped and shifted.

    Raises:
        BadRequest: they are no images.
    """
    if samples.ndim != 4 or not samples.is_floating_point():
        shape = tuple(samples.shape[1:])
        raise BadRequest(
            f"Samples of shape {shape} are no images.", "--augment flips and shifts [channels, height, width].", "Leave it out."
        )


def flipped(images: Float[Tensor, "n channels height width"], generator: torch.Generator) -> Float[Tensor, "n channels height width"]:
    """Each image flipped or not, by numbers from a generator."""
    flips = torch.rand(len(images), generator=generator) < 0.5
    return torch.where(flips[:, None, None, None].to(images.device), images.flip(3), images)


def flipped_and_shifted(
    images: Float[Tensor, "n channels height width"], generator: torch.Generator
) -> Float[Tensor, "n channels height width"]:
    """Each image flipped or not and shifted, by numbers from a generator."""
    n, _, height, width = images.shape
    most = max(1, min(height, width) // SHIFT)
    turned = flipped(images, generator)
    shifts = torch.randint(0, 2 * most + 1, (n, 2), generator=generator)
    padded = functional.pad(turned, (most, most, most, most))
    return _windows(padded, shifts, height, width)


def _windows(padded: Tensor, starts: Int[Tensor, "n 2"], height: int, width: int) -> Tensor:
    rows = starts[:, 0, None] + torch.arange(height)
    columns = starts[:, 1, None] + torch.arange(width)
    image = torch.arange(len(padded))[:, None, None]
    picked: Tensor = padded.movedim(1, -1)[image, rows[:, :, None], columns[:, None, :]]
    return picked.movedim(-1, 1).contiguous()
