"""Small real files that hold a graph beside the weights: TorchScript, exported programs, ONNX; see `kinds.py` for the others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from tests.kinds import TORCH, Kind, Table, named, seeded
from tests.kinds_safetensors import SAFETENSORS
from tests.old_programs import WRITERS, load_old

IMAGES = torch.linspace(-1, 1, 2 * 4 * 6 * 6).reshape(2, 4, 6, 6)


def scripted(folder: Path) -> Path:
    """`torch.jit.script`."""
    torch.jit.save(torch.jit.script(seeded()), folder / "model.ts")
    return folder / "model.ts"


def traced(folder: Path) -> Path:
    """`torch.jit.trace`."""
    torch.jit.save(torch.jit.trace(seeded(), IMAGES), folder / "model.pt")
    return folder / "model.pt"


def load_script(path: Path) -> Table:
    """The state of a loaded archive."""
    return dict(torch.jit.load(path).state_dict())


def run_script(path: Path) -> Tensor:
    """What it computes."""
    return torch.jit.load(path)(IMAGES)


def exported(folder: Path) -> Path:
    """`torch.export.save`."""
    torch.export.save(torch.export.export(seeded(), (IMAGES,)), folder / "model.pt2")
    return folder / "model.pt2"


def exported_by(release: str) -> Callable[[Path], Path]:
    """`torch.export.save` of an earlier torch."""
    return lambda folder: WRITERS[release](folder / "model.pt2", torch.export.export(seeded(), (IMAGES,)))


def load_exported(path: Path) -> Table:
    """The state of a loaded program."""
    return dict(load_old(path).state_dict)


def run_exported(path: Path) -> Tensor:
    """What it computes."""
    return load_old(path).module()(IMAGES)


ONNX_NAMES = ("conv.weight", "conv.bias", "fc.weight", "fc.bias", "pos_embed")


def onnx_model(*, external: bool = False, typed: bool = False) -> Callable[[Path], Path]:
    """A graph Conv, GlobalAveragePool, Flatten, Gemm, MatMul; numbers raw, typed (`float_data`) or in a file beside it."""

    def make(folder: Path) -> Path:
        table = {name: tensor.numpy() for name, tensor in seeded().state_dict().items() if name in ONNX_NAMES}
        table["fc2"] = np.asarray(torch.randn(12, 4))
        nodes = [
            helper.make_node("Conv", ["x", "conv.weight", "conv.bias"], ["a"]),
            helper.make_node("GlobalAveragePool", ["a"], ["b"]),
            helper.make_node("Flatten", ["b"], ["c"]),
            helper.make_node("Gemm", ["c", "fc.weight", "fc.bias"], ["d"], transB=1),
            helper.make_node("MatMul", ["d", "fc2"], ["e"]),
            helper.make_node("ReduceSum", ["pos_embed"], ["f"], keepdims=0),
            helper.make_node("Add", ["e", "f"], ["y"]),
        ]
        images = helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 4, 6, 6])
        output = helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, 4])
        graph = helper.make_graph(nodes, "net", [images], [output], [_initializer(name, array, typed) for name, array in table.items()])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9, producer_name="tests")
        options: dict[str, Any] = {"save_as_external_data": True, "location": "model.data", "size_threshold": 0} if external else {}
        onnx.save(model, folder / "model.onnx", **options)
        return folder / "model.onnx"

    return make


def _initializer(name: str, array: Any, typed: bool) -> TensorProto:
    return helper.make_tensor(name, TensorProto.FLOAT, array.shape, array.ravel()) if typed else numpy_helper.from_array(array, name)


def load_onnx(path: Path) -> Table:
    """The initializers, as onnx reads them."""
    model = onnx.load(path)
    return {tensor.name: torch.from_numpy(numpy_helper.to_array(tensor).copy()) for tensor in model.graph.initializer}


def run_onnx(path: Path) -> Any:
    """What onnxruntime computes."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {"x": IMAGES.numpy()})[0])


ONNX_WEIGHTS = named("", ("conv.weight", "fc.weight", "fc2"))
GRAPHS = {
    "scripted": Kind(scripted, load_script, named(), run=run_script),
    "traced": Kind(traced, load_script, named(), run=run_script),
    "exported": Kind(exported, load_exported, named(), run=run_exported),
    **{f"exported {release}": Kind(exported_by(release), load_exported, named(), run=run_exported) for release in WRITERS},
    "ONNX": Kind(onnx_model(), load_onnx, ONNX_WEIGHTS, run=run_onnx),
    "ONNX typed": Kind(onnx_model(typed=True), load_onnx, ONNX_WEIGHTS, run=run_onnx),
    "ONNX external": Kind(onnx_model(external=True), load_onnx, ONNX_WEIGHTS, run=run_onnx),
}

KINDS = TORCH | SAFETENSORS | GRAPHS
"""Every kind, by what people call it."""
