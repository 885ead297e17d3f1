"""The conditions tests run under are the ones conftest promises, and the oracles know closed forms."""

from __future__ import annotations

import math
import socket
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import given
from jaxtyping import TypeCheckError

from sparsify_cli.values.mask_set import pack_bits
from tests import oracles, strategies
from tests.house.tree import ROOT


def test_nothing_leaves_the_machine():
    """A connection to another machine is refused before a packet is sent; one to this machine is not ours to refuse."""
    with pytest.raises(ConnectionRefusedError, match="no network"):
        socket.create_connection(("192.0.2.1", 80), timeout=1)
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname(), timeout=5) as client:
        assert client.getpeername() == server.getsockname()


def test_a_test_starts_in_its_own_empty_folder(tmp_path):
    """The working folder is the test's own, empty, and outside the repository."""
    assert Path.cwd() == tmp_path.resolve()
    assert list(tmp_path.iterdir()) == []
    assert ROOT not in Path.cwd().parents or Path(tempfile.gettempdir()).is_relative_to(ROOT)


@pytest.mark.parametrize("time", [1, 2])
def test_generators_start_alike(time):
    """Every test draws the same first number: 1.5410 is what torch's generator gives after seed 0."""
    assert torch.randn(()).item() == pytest.approx(1.5410, abs=1e-4), time
    assert torch.get_num_threads() == 1


def test_annotations_are_checked():
    """A tensor of the wrong type is refused where the annotation says bool."""
    with pytest.raises(TypeCheckError):
        pack_bits(torch.ones(3))


def test_best_total_by_hand():
    """Of 5, 1, 4, 4 the best two are 5 + 4 = 9, and 5 + 1 = 6 when the second must stay."""
    scores = torch.tensor([5.0, 1.0, 4.0, 4.0])
    assert oracles.best_total(scores, 2) == 9.0
    assert oracles.best_total(scores, 2, legal=lambda mask: bool(mask[1])) == 6.0
    assert len(list(oracles.every_mask(6, 3))) == math.comb(6, 3)


def test_finite_differences_by_hand():
    """At (3, 2), x^2 y has the gradient (12, 9) and the Hessian [[4, 6], [6, 0]]."""

    def function(at):
        return at[0] ** 2 * at[1]

    at = torch.tensor([3.0, 2.0])
    torch.testing.assert_close(oracles.finite_difference_gradient(function, at), torch.tensor([12.0, 9.0]).double(), atol=1e-6, rtol=0)
    torch.testing.assert_close(
        oracles.finite_difference_hessian(function, at), torch.tensor([[4.0, 6.0], [6.0, 0.0]]).double(), atol=1e-5, rtol=0
    )


@given(strategies.models())
def test_tiny_models_take_their_inputs(model):
    """Every tiny model maps its inputs to three finite logits a sample, the same for the same seed."""
    logits = model(strategies.inputs_for(model, 4))
    assert logits.shape == (4, 3)
    assert bool(logits.isfinite().all())


@given(strategies.patterns().flatmap(lambda p: strategies.shapes_for(p).map(lambda shape: (p, shape))))
def test_shapes_carry_their_pattern(drawn):
    """A drawn shape is divided by the rows of its pattern and by its group or columns."""
    pattern, shape = drawn
    assert shape[0] % pattern.rows == 0
    assert shape[1] % (pattern.group * pattern.columns) == 0
