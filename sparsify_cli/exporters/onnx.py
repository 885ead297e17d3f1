"""The whole network as one ONNX file with a free batch size, checked in onnxruntime against torch on real inputs.

The file is `model.onnx`: input `input`, output `logits`, float32, masks folded in (a pruned weight is a zero of the
file's initializers), batch norm folded into the convolution before it (a zero times a scale stays zero). Nothing of
the machine that wrote it remains inside; a checksum over everything else is its last field, so that later damage is
noticed; pruning the file itself renews it.

`verify` runs onnxruntime on one input and on all of them: that proves the free batch size. The largest difference of
a logit may be 1e-4 of the largest logit (of 1, when all are smaller).

Source: torch.onnx (exporter over torch.export), ONNX opset 20. The bound is ours.
"""

from __future__ import annotations

import contextlib
import io
import logging
import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sparsify_cli.contracts.exporter import Exportable, Exporter
from sparsify_cli.errors import MissingContext, MissingFile, Regression, SparsifyError, UnreadableFile
from sparsify_cli.values.atomic import replace_file
from sparsify_cli.values.mask_set import MaskSet
from sparsify_cli.values.onnx_seal import holds, sealed
from sparsify_cli.values.report import Finding

FILE = "model.onnx"
OPSET = 20
LIMIT = 2**31 - 1
"""Bytes a protobuf message can hold."""
DAMAGED = "Do not use the file; export again."
ELSEWHERE = "Write the network without what the exporter gets wrong, or export to safetensors."
COLOURS = re.compile(r"\x1b\[[0-9;]*m")
"""What makes a terminal colour text."""


@dataclass(frozen=True)
class Onnx(Exporter):
    """One file for onnxruntime and other engines.

    Args:
        bound: largest difference of a logit from torch's, as a share of max(1, largest logit).
    """

    bound: float = 1e-4

    def export(self, subject: Exportable, folder: Path) -> list[Path]:
        """Write `model.onnx`.

        Raises:
            MissingContext: no architecture or no inputs are known.
            SparsifyError: torch cannot express the network in ONNX, or it is larger than 2 GB.
            DiskFailure: the file system refused.
        """
        build, inputs = _context(subject)
        content = _signed(_model(build(), inputs[:2]))
        replace_file(folder / FILE, lambda temporary: temporary.write_bytes(content))
        return [folder / FILE]

    def verify(self, subject: Exportable, folder: Path) -> list[Finding]:
        """Check the file, find its zeros again, and compare its logits with torch's for a batch of one and of all inputs.

        Raises:
            MissingContext: no architecture or no inputs are known.
            UnreadableFile: it is damaged or no ONNX file.
            Regression: the logits differ by more than the bound, or a pruned weight is not zero.
        """
        build, inputs = _context(subject)
        path = folder / FILE
        zeros = _zeros(_read(path), subject.masks, path)
        largest, scale = _compare(path, build().float().eval(), inputs)
        if not largest <= self.bound * scale:  # written this way round, NaN fails too
            what = f"{path} does not compute what torch computes: a logit differs by {largest:.3g}, allowed are {self.bound * scale:.3g}."
            raise Regression(what, "onnxruntime and torch ran the same inputs.", DAMAGED)
        return _findings(subject, path, zeros, largest)


def _context(subject: Exportable) -> tuple[Callable[[], nn.Module], Tensor]:
    if subject.build is None:
        raise MissingContext("ONNX export needs the network, and only its tensors are known.", do="Name the architecture with --arch.")
    if subject.inputs is None or len(subject.inputs) < 2:
        count = 0 if subject.inputs is None else len(subject.inputs)
        raise MissingContext(f"ONNX export needs 2 inputs or more to trace and check; {count} are known.", do="Name the data with --data.")
    return subject.build, subject.inputs.float() if subject.inputs.is_floating_point() else subject.inputs


def _model(module: nn.Module, inputs: Tensor) -> Any:
    """The network as an ONNX message, batch size free, constants folded."""
    try:
        with _silence(), torch.no_grad():
            program = torch.onnx.export(
                module.float().eval(),
                (inputs,),
                dynamo=True,
                verbose=False,
                opset_version=OPSET,
                input_names=["input"],
                output_names=["logits"],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
            )
            return program.model_proto if program is not None else None
    except Exception as error:
        cause = _first_cause(error)
        lines = COLOURS.sub("", str(cause)).strip().splitlines() or ["no reason given"]
        what = f"The network {type(module).__name__} does not export to ONNX."
        do = "Write the network without data-dependent control flow and with one input and one output, or export to safetensors."
        raise SparsifyError(what, f"torch.onnx says: {type(cause).__name__}: {lines[0][:300].rstrip('.')}.", do) from error


def _first_cause(error: BaseException) -> BaseException:
    """What started it: exporters wrap reasons in steps."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """The exporter talks to stdout, stderr, warnings and logging; nobody asked."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _signed(model: Any) -> bytes:
    """The message without traces of the machine, with its checksum, as bytes that are the same each time."""
    _forget_origin(model)
    _require_small(model)
    return sealed(model.SerializeToString(deterministic=True))


def _require_small(model: Any) -> None:
    if model.ByteSize() > LIMIT - 2**20:
        what = f"The network takes {model.ByteSize() / 1e9:.1f} GB as ONNX."
        raise SparsifyError(what, "One ONNX file holds at most 2 GB.", "Export to safetensors or packed instead.")


def _forget_origin(model: Any) -> None:
    """Drop stack traces and other notes of the exporter: they hold paths of this machine and most of a small file."""
    for part in (model, *_parts(model.graph), *model.functions, *(node for function in model.functions for node in function.node)):
        del part.metadata_props[:]
        part.doc_string = ""


def _parts(graph: Any) -> Iterator[Any]:
    """A graph, everything in it that carries notes, and the graphs inside its nodes."""
    yield from (graph, *graph.node, *graph.initializer, *graph.input, *graph.output, *graph.value_info)
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
                yield from _parts(inner)


def _read(path: Path) -> Any:
    """The message; its checksum first, then its form."""
    import onnx

    if not path.is_file():
        raise MissingFile(f"There is no file {path}.", do="Export first.")
    try:
        content = path.read_bytes()
        model = onnx.load_model_from_string(content)
        _require_sealed(content, path)
        onnx.checker.check_model(model, full_check=True)
    except UnreadableFile:
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {str(error).strip()[:200]}."
        raise UnreadableFile(f"{path} is not a sound ONNX file.", reason, DAMAGED) from error
    return model


def _require_sealed(content: bytes, path: Path) -> None:
    if not holds(content):
        raise UnreadableFile(f"{path} is damaged.", "Its content does not have the checksum it was written with.", DAMAGED)


def _zeros(model: Any, masks: MaskSet, path: Path) -> int:
    """Zeros in float initializers of two dimensions or more; every pruned weight that has kept its name must be one."""
    from onnx import TensorProto, numpy_helper

    weights = {
        tensor.name: torch.from_numpy(numpy_helper.to_array(tensor).copy())
        for tensor in model.graph.initializer
        if tensor.data_type == TensorProto.FLOAT and len(tensor.dims) >= 2
    }
    for name in masks:
        if name in weights and weights[name].shape == masks[name].shape and bool(weights[name][~masks[name]].any()):
            raise Regression(f"{path} holds {name!r} with pruned weights that are not zero.", "The masks were lost.", DAMAGED)
    return sum(int((weight == 0).sum()) for weight in weights.values())


@torch.no_grad()
def _compare(path: Path, module: nn.Module, inputs: Tensor) -> tuple[float, float]:
    """Largest difference of a logit, and max(1, largest logit), over a batch of one and a batch of all inputs."""
    session = _session(path)
    largest, scale = 0.0, 1.0
    for batch in (inputs[:1], inputs):
        expected = module(batch)
        actual = torch.from_numpy(_run(session, batch))
        if actual.shape != expected.shape:
            shapes = f"{list(actual.shape)}, torch with {list(expected.shape)}"
            raise Regression(f"{path} answers a batch of {len(batch)} with {shapes}.", do=DAMAGED)
        difference = float((actual - expected).abs().max())
        largest = largest if difference <= largest else difference  # NaN, once there, stays
        scale = max(scale, float(expected.abs().max()))
    return largest, scale


def _session(path: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise UnreadableFile(f"onnxruntime does not load {path}.", f"{str(error).strip()[:200]}.", DAMAGED) from error


def _run(session: Any, batch: Tensor) -> Any:
    try:
        return session.run(["logits"], {"input": batch.numpy()})[0]
    except Exception as error:
        what = f"The graph that torch.onnx made of the network does not run on a batch of {len(batch)}; nothing was kept."
        said = str(error).strip().splitlines() or ["no reason given"]
        raise SparsifyError(what, f"onnxruntime says: {said[0][:200].rstrip('.')}.", ELSEWHERE) from error


def _findings(subject: Exportable, path: Path, zeros: int, largest: float) -> list[Finding]:
    before = sum(tensor.nbytes for tensor in subject.checkpoint.tensors.values())
    count = 0 if subject.inputs is None else len(subject.inputs)
    pruned = subject.masks.total - subject.masks.kept
    difference = "Largest difference of a logit between onnxruntime and torch, on real inputs."
    return [
        Finding(
            name="bytes", value=float(before), unit="bytes", of="dense", better="lower", definition="Bytes of all values, stored dense."
        ),
        Finding(name="bytes", value=float(path.stat().st_size), unit="bytes", better="lower", definition="Size of the exported file."),
        Finding(name="onnx_max_difference", value=largest, n=count, better="lower", definition=difference),
        Finding(
            name="onnx_zeros",
            value=float(zeros),
            unit="weights",
            definition="Zeros in the file's float tensors of two dimensions or more.",
            note=f"The masks prune {pruned} weights.",
        ),
    ]
