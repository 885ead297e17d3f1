"""Samples as pictures inside the page: any array of one to many channels becomes a small PNG data URI.

Brightness is stretched to the range of each image, because inputs arrive normalised on a scale the page does not know.
Small images stay as they are (the browser scales them up, pixelated); large ones shrink so that the page stays small.
"""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

LARGEST = 128
COLOUR = 3


def data_uri(image: Any) -> str | None:
    """A PNG data URI of one sample; None when it is not an image of [channels, height, width] or [height, width].

    Args:
        image: nested lists or an array, any scale; non-finite values are drawn black.
    """
    pixels = as_pixels(image)
    if pixels is None:
        return None
    picture = Image.fromarray(pixels)
    picture.thumbnail((LARGEST, LARGEST))
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def as_pixels(image: Any) -> NDArray[np.uint8] | None:
    """Bytes [height, width] or [height, width, 3]: three channels are colours, any other number is averaged to grey."""
    try:
        values = np.asarray(image, dtype=np.float64)
    except (TypeError, ValueError):
        return None
    values = values[None] if values.ndim == 2 else values
    if values.ndim != 3 or not values.size:
        return None
    flat = values if values.shape[0] == COLOUR else values.mean(axis=0, keepdims=True)
    bright = _stretch(flat)
    return np.ascontiguousarray(bright.transpose(1, 2, 0)) if len(bright) == COLOUR else bright[0]


def _stretch(values: NDArray[np.float64]) -> NDArray[np.uint8]:
    finite = np.isfinite(values)
    low, high = (values[finite].min(), values[finite].max()) if finite.any() else (0.0, 0.0)
    if high <= low:
        return np.full(values.shape, 128, dtype=np.uint8)
    scaled = (np.where(finite, values, low) - low) / (high - low)
    return np.round(255 * scaled).astype(np.uint8)
