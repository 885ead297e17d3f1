"""Claim: every export holds the same network: packed bit for bit, ONNX within its bound, and the sparse file is the small one.

Source: house, section 2 (an exporter is a pair of `export` and `verify`). The checks here read the files with other
programs' readers (safetensors, onnxruntime) and not with the verifiers.
"""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from safetensors.torch import load_file

import sparsify_cli
from sparsify_cli.contracts.listener import Listener
from sparsify_cli.recipes.option import Choice
from sparsify_cli.recipes.verbs import ExportRecipe, PruneRecipe, TrainRecipe
from sparsify_cli.stages.export import export
from sparsify_cli.stages.measure import predict
from sparsify_cli.stages.prune import prune
from sparsify_cli.stages.subject import open_path
from sparsify_cli.stages.train import train

BOUND = 1e-4


@pytest.fixture(scope="module")
def exports(tmp_path_factory):
    """A network pruned to 90 %, and what each exporter made of it: name -> (outcome, main file)."""
    folder = tmp_path_factory.mktemp("exports")
    dense = train(TrainRecipe(arch="cnn", data="digits", epochs=1, out=str(folder / "dense")), Listener())
    pruned = prune(PruneRecipe(model=str(dense.artifact), sparsity=Fraction(9, 10), out=str(folder / "pruned")), Listener())
    made = {}
    for name in ("packed", "safetensors", "onnx"):
        made[name] = export(ExportRecipe(model=str(pruned.artifact), to=Choice(name), out=str(folder / name)), Listener())
    return open_path(pruned.artifact), {name: (outcome, Path(outcome.files[0])) for name, outcome in made.items()}


def bits(tensor):
    """The bytes of a tensor."""
    return tensor.contiguous().numpy().tobytes()


@pytest.mark.parametrize(("name", "read"), [("packed", sparsify_cli.load), ("safetensors", load_file)])
def test_tensor_files_are_bit_exact(exports, name, read):
    """Every name, type, shape and bit of the artifact, from our reader for packed files and from safetensors' own for dense ones."""
    subject, made = exports
    found = read(made[name][1])
    assert set(found) == set(subject.checkpoint.tensors)
    for tensor_name, tensor in subject.checkpoint.tensors.items():
        other = found[tensor_name]
        assert (other.dtype, other.shape, bits(other)) == (tensor.dtype, tensor.shape, bits(tensor))


@pytest.mark.parametrize("batch", [1, 7, 360])
def test_onnx_agrees_on_real_inputs(exports, batch):
    """Onnxruntime and torch on test digits, any batch size: logits within the bound, the same answers."""
    subject, made = exports
    test = subject.samples("test").take(range(batch))
    expected = predict(subject.module(), test).logits.numpy()
    session = onnxruntime.InferenceSession(made["onnx"][1], providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"input": test.inputs.numpy()})
    assert np.abs(found - expected).max() <= BOUND * max(1, np.abs(expected).max())
    assert (found.argmax(1) == expected.argmax(1)).all()


def test_the_printed_difference_is_bounded(exports):
    """What the verb prints is what it promises: at most the bound, and a number."""
    found = exports[1]["onnx"][0].report.get("onnx_max_difference").value
    assert 0 <= found < 1e-3


def test_sizes_have_an_order(exports):
    """At 90 % zeros packed is less than a third of the dense file: a bit a weight and 10 % of the values; the ONNX file is dense."""
    subject, made = exports
    size = {name: path.stat().st_size for name, (_, path) in made.items()}
    assert size["packed"] * 3 < size["safetensors"]
    assert size["onnx"] > subject.masks.total * 4
    values = sum(tensor.numel() * tensor.element_size() for tensor in subject.checkpoint.tensors.values())
    assert values <= size["safetensors"] < values + 8000
    for name, (outcome, _) in made.items():
        assert outcome.report.get(f"bytes_{name}").value == size[name]


@pytest.mark.slow
def test_the_same_export_twice_is_the_same_file(exports, tmp_path):
    """Nothing of time or machine is inside."""
    subject, made = exports
    for name, (_, path) in made.items():
        again = export(ExportRecipe(model=str(subject.path), to=Choice(name), out=str(tmp_path / name)), Listener())
        assert again.files[0].read_bytes() == path.read_bytes()
