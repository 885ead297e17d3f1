"""Augmented images: every copy is a flipped and shifted original, and a seed is a choice."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from sparsify_cli.errors import BadRequest
from sparsify_cli.training.augmented import augmented


def variants(image, most):
    """(flipped, rows down, columns right) -> the image, by padding and slicing."""
    height, width = image.shape[1:]
    found = {}
    for flipped in (False, True):
        padded = functional.pad(image.flip(2) if flipped else image, (most, most, most, most))
        for i in range(2 * most + 1):
            for j in range(2 * most + 1):
                found[flipped, i, j] = padded[:, i : i + height, j : j + width]
    return found


@pytest.mark.parametrize(("size", "most"), [((8, 8), 1), ((5, 20), 1), ((17, 16), 2)])
def test_each_copy_is_flipped_and_shifted(size, most):
    """All channels of an image alike, by at most an eighth of the shorter side and at least one pixel; copy after copy."""
    images = torch.randn(6, 2, *size)
    found = augmented(images, copies=12, seed=0).unflatten(0, (12, 6))
    assert found.shape == (12, 6, 2, *size)
    chosen = set()
    for copy in found:
        for image, one in zip(images, copy, strict=True):
            matching = [key for key, variant in variants(image, most).items() if torch.equal(variant, one)]
            assert len(matching) == 1
            chosen.update(matching)
    assert {key[0] for key in chosen} == {False, True}
    assert {key[1] for key in chosen} == {key[2] for key in chosen} == set(range(2 * most + 1))


def test_a_seed_is_a_choice():
    """The same seed gives the same bits, another seed others, and fewer copies are the first of more; originals stay."""
    images = torch.randn(5, 1, 8, 8)
    before, one = images.clone(), augmented(images, copies=2, seed=3)
    assert torch.equal(one, augmented(images, copies=2, seed=3))
    assert not torch.equal(one, augmented(images, copies=2, seed=4))
    assert torch.equal(one, augmented(images, copies=3, seed=3)[:10])
    assert torch.equal(images, before)


@pytest.mark.parametrize("samples", [torch.zeros(3, 8), torch.zeros(3, 8, 8), torch.zeros(3, 1, 8, 8, dtype=torch.int64)])
def test_only_images(samples):
    """Vectors, images without channels and token ids are refused, naming the flag."""
    with pytest.raises(BadRequest, match="--augment"):
        augmented(samples, copies=1, seed=0)
