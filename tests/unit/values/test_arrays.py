"""Arrays from outside: what each type of number becomes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from sparsify_cli.errors import BadData
from sparsify_cli.values.arrays import as_taken_by, input_tensor, label_tensor, samples_from, small_batch


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([[0, 255]], dtype=np.uint8), torch.tensor([[0.0, 1.0]])),
        (torch.tensor([[0.25]], dtype=torch.float64), torch.tensor([[0.25]])),
        (np.array([[3, 70000]]), torch.tensor([[3, 70000]])),
        (np.array([[1.5]], dtype=">f8"), torch.tensor([[1.5]])),
        (np.arange(6.0).reshape(2, 3)[::-1], torch.tensor([[3.0, 4.0, 5.0], [0.0, 1.0, 2.0]])),
        ([[1.0, 2.0]], torch.tensor([[1.0, 2.0]])),
        (np.array([[True, False]]), torch.tensor([[1.0, 0.0]])),
    ],
    ids=["bytes", "double", "tokens", "big-endian", "reversed", "list", "bool"],
)
def test_inputs_by_type(values, expected):
    """Bytes are scaled, floats become float32, other integers stay integers."""
    found = input_tensor(values, where="x")
    assert torch.equal(found, expected)
    assert found.dtype == expected.dtype


@pytest.mark.parametrize("values", [np.array([], dtype=np.float32), np.array(3.0), np.array([None]), np.array([1.0, np.inf]), "text"])
def test_refused_inputs(values):
    """Nothing, one number, objects, infinities and text are no inputs."""
    with pytest.raises(BadData, match=r"^x: "):
        input_tensor(values, where="x")


def test_inputs_with_gradients_are_detached():
    """A tensor that asks for gradients is taken without its history."""
    assert not input_tensor(torch.ones(2, 1, requires_grad=True), where="x").requires_grad


def test_refused_labels_say_where():
    """The error carries the name of the data."""
    with pytest.raises(BadData, match=r"^here: labels have shape \[1, 1, 1\]"):
        label_tensor(np.zeros((1, 1, 1), dtype=int), where="here")


def test_default_ids_and_given_groups():
    """Rows are named by split and number; group values become text."""
    samples = samples_from(np.zeros((2, 1)), [0, 1], split="test", where="x", groups={"age": [30, 40]})
    assert (samples.ids, samples.groups) == (("test-000000", "test-000001"), {"age": ("30", "40")})


def test_only_floating_inputs_take_the_dtype_of_the_network():
    """A float64 network gets float64 pictures but the same integer tokens; a network without parameters gets what there is."""
    wide = nn.Linear(1, 1).double()
    assert as_taken_by(wide, torch.zeros(2, 1)).dtype == torch.float64
    assert as_taken_by(wide, torch.zeros(2, dtype=torch.int64)).dtype == torch.int64
    assert as_taken_by(nn.ReLU(), torch.zeros(2, 1)).dtype == torch.float32


@pytest.mark.parametrize(
    ("inputs", "batch"),
    [
        (torch.zeros(1, 3, 32, 32), 64),  # 3,072 numbers: 2^16 of them are 21 samples
        (torch.zeros(1, 1, 14, 14), 334),
        (torch.zeros(1, 108), 500),
        (torch.zeros(1, 10, dtype=torch.int64), 64),
        (torch.zeros(0, 108), 500),
    ],
    ids=["images", "small images", "rows", "tokens", "none"],
)
def test_small_samples_go_by_the_hundreds(inputs, batch):
    """As many as make up 65,536 numbers, from the usual 64 to 500; tokens never."""
    assert small_batch(inputs, 64) == batch
