"""Samples as pictures."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from sparsify_cli.pages.images import as_pixels, data_uri


def decoded(uri):
    """The picture inside a data URI."""
    return Image.open(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/png;base64,"))))


def test_one_channel_is_grey_and_stretched():
    """-1 becomes black, 3 white, 1 (half way) the middle grey 128."""
    assert np.asarray(decoded(data_uri([[[-1.0, 1.0], [3.0, 3.0]]]))).tolist() == [[0, 128], [255, 255]]


def test_three_channels_are_colours():
    """Red stays red: channels come first in the array and last in the picture."""
    red = np.zeros((3, 1, 2))
    red[0] = 1
    assert as_pixels(red).tolist() == [[[255, 0, 0], [255, 0, 0]]]


def test_other_channels_are_averaged():
    """Two channels 0 and 2 average to 1 everywhere except where both are 0."""
    assert as_pixels([[[0.0, 0.0]], [[0.0, 2.0]]]).tolist() == [[0, 255]]


def test_not_finite_pixels_are_black():
    """NaN does not spread over the image."""
    assert as_pixels([[float("nan"), 0.0, 1.0]]).tolist() == [[0, 0, 255]]


def test_a_flat_image_is_grey():
    """No range to stretch."""
    assert as_pixels([[5.0, 5.0]]).tolist() == [[128, 128]]


@pytest.mark.parametrize("image", [None, [1.0, 2.0], "text", [[1.0], [1.0, 2.0]], np.zeros((1, 0, 4)), np.zeros((2, 3, 4, 5))])
def test_what_is_not_an_image_is_none(image):
    """Rows, text, ragged and empty arrays are shown as "no image"."""
    assert data_uri(image) is None


def test_large_images_shrink():
    """The page stays small: no side above 128 pixels, proportions kept."""
    assert decoded(data_uri(np.random.default_rng(0).random((3, 400, 200)))).size == (64, 128)
