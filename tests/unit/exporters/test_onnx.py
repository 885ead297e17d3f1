"""ONNX: what other engines find in the file, and what the export refuses."""

import errno
import hashlib
from collections.abc import Callable
from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from sparsify_cli.cli.app import main
from sparsify_cli.contracts.exporter import Exportable
from sparsify_cli.errors import DiskFailure, MissingContext, Regression, SparsifyError, UnreadableFile
from sparsify_cli.exporters.onnx import Onnx
from sparsify_cli.values.checkpoint import Checkpoint, Source
from sparsify_cli.values.mask_set import MaskSet
from tests.strategies import inputs_for, tiny_cnn


class Branching(nn.Module):
    """A network whose path depends on its input, which ONNX cannot trace."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Twice or three times the inputs."""
        return inputs * 2 if float(inputs.sum()) > 0 else inputs * 3


def pruned(seed: int = 0) -> nn.Module:
    """A tiny CNN whose batch norm has seen something and of which every other weight is zero."""
    network = tiny_cnn(seed)
    network(inputs_for(network, n=32, seed=1) * 3 + 1)
    for tensor in network.state_dict().values():
        if tensor.dim() > 1:
            tensor.view(-1)[::2] = 0
    return network.eval()


def subject(network: nn.Module, inputs: torch.Tensor | None = None, build: Callable[[], nn.Module] | None = None) -> Exportable:
    """A network with the masks of its zeros and six inputs."""
    state = network.state_dict()
    masks = MaskSet.from_zeros({name: tensor for name, tensor in state.items() if tensor.dim() > 1})
    given = inputs if inputs is not None else inputs_for(network, n=6)
    return Exportable(Checkpoint(state, Source("x", "")), masks, build or (lambda: network), given)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one export; tests read it only."""
    folder = tmp_path_factory.mktemp("onnx")
    Onnx().export(subject(pruned()), folder)
    return folder


def test_any_batch_size(exported: Path) -> None:
    """Batches of 1, 2 and 9 are answered by onnxruntime as torch does; the names are `input` and `logits`."""
    session = onnxruntime.InferenceSession(exported / "model.onnx", providers=["CPUExecutionProvider"])
    assert [given.name for given in session.get_inputs()] == ["input"]
    for count in (1, 2, 9):
        inputs = inputs_for(pruned(), n=count, seed=5)
        logits = torch.from_numpy(session.run(["logits"], {"input": inputs.numpy()})[0])
        with torch.no_grad():
            torch.testing.assert_close(logits, pruned()(inputs), rtol=1e-5, atol=1e-5)


def test_zeros_are_in_the_file(exported: Path) -> None:
    """Half of the 36 + 288 + 24 weights are zeros of the file; the finding counts the same and names the masks' number."""
    model = onnx.load(exported / "model.onnx")
    weights = [numpy_helper.to_array(tensor) for tensor in model.graph.initializer if len(tensor.dims) >= 2]
    assert sum(int((weight == 0).sum()) for weight in weights) == 174
    finding = next(finding for finding in Onnx().verify(subject(pruned()), exported) if finding.name == "onnx_zeros")
    assert finding.value == 174
    assert "prune 174 weights" in finding.note


def test_one_file_without_traces(exported: Path, repository: Path) -> None:
    """No second file with weights, no path of the machine, no stack traces."""
    content = (exported / "model.onnx").read_bytes()
    assert [path.name for path in exported.iterdir()] == ["model.onnx"]
    assert not [word for word in (str(repository), str(Path(torch.__file__).parent), "stack_trace", ".py") if word.encode() in content]


def test_difference_is_measured(exported: Path) -> None:
    """A bias moved by 0.25 is a largest difference of 0.25; a bound above it accepts it, the standing one does not."""
    moved = pruned()
    moved.head.bias.data[1] += 0.25
    findings = {finding.name: finding for finding in Onnx(bound=0.3).verify(subject(moved), exported)}
    assert findings["onnx_max_difference"].value == pytest.approx(0.25, abs=1e-5)
    assert findings["onnx_max_difference"].n == 6
    with pytest.raises(Regression, match=r"a logit differs by 0\.25, allowed are 0\.000"):
        Onnx().verify(subject(moved), exported)


def test_logits_that_are_no_numbers(exported: Path) -> None:
    """NaN is not within any bound."""
    broken = pruned()
    broken.head.bias.data[0] = float("nan")
    with pytest.raises(Regression, match="a logit differs by nan"):
        Onnx(bound=1e9).verify(subject(broken), exported)


def test_lost_masks(exported: Path) -> None:
    """A weight that the masks prune and the file still holds is found by name."""
    made = subject(pruned())
    masks = MaskSet({**made.masks, "head.weight": torch.zeros(3, 8, dtype=torch.bool)})
    with pytest.raises(Regression, match=r"'head\.weight' with pruned weights that are not zero"):
        Onnx().verify(Exportable(made.checkpoint, masks, made.build, made.inputs), exported)


def test_another_number_of_classes(exported: Path) -> None:
    """Logits of another shape are said with both shapes."""
    other = pruned()
    other.head = nn.Linear(8, 4)
    with pytest.raises(Regression, match=r"batch of 1 with \[1, 3\], torch with \[1, 4\]"):
        Onnx().verify(subject(other), exported)


def test_one_input_is_not_enough(tmp_path: Path) -> None:
    """A batch of one cannot show that the batch size is free."""
    with pytest.raises(MissingContext, match=r"needs 2 inputs or more to trace and check; 1 are known.*--data"):
        Onnx().export(subject(pruned(), torch.zeros(1, 1, 6, 6)), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_network_that_cannot_be_traced(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Data-dependent control flow is one sentence that names the network; nothing is printed or written."""
    with pytest.raises(SparsifyError, match=r"The network Branching does not export to ONNX\. torch\.onnx says: \w+: .*control flow"):
        Onnx().export(subject(Branching(), torch.ones(3, 2)), tmp_path)
    assert capfd.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == []


def test_disk_and_size_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk leaves nothing behind; a message above the format's limit is refused before it is written."""

    def full(self: Path, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(DiskFailure, match="The disk is full"):
        patch.setattr(Path, "write_bytes", full)
        Onnx().export(subject(pruned()), tmp_path)
    monkeypatch.setattr("sparsify_cli.exporters.onnx.LIMIT", 2**20)
    with pytest.raises(SparsifyError, match="holds at most 2 GB"):
        Onnx().export(subject(pruned()), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_exported_file_is_pruned(exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`prune` on an export renews its checksum: it is sound, of the same length, runs, and has as many zeros as asked for."""
    monkeypatch.chdir(tmp_path)
    assert main(["prune", str(exported / "model.onnx"), "--sparsity", "0.75", "--out", "out"]) == 0
    assert main(["inspect", "out"]) == main(["inspect", "out/model.onnx"]) == 0
    before, after = (exported / "model.onnx").read_bytes(), (tmp_path / "out/model.onnx").read_bytes()
    assert len(before) == len(after)
    assert before[-64:] != after[-64:] == hashlib.sha256(after[:-85]).hexdigest().encode()
    network = pruned()
    made = {
        tensor.name: torch.from_numpy(numpy_helper.to_array(tensor).copy()) for tensor in onnx.load_from_string(after).graph.initializer
    }
    network.load_state_dict({"head.weight": made["head.weight"]}, strict=False)
    (finding,) = [finding for finding in Onnx(bound=1e9).verify(subject(network), tmp_path / "out") if finding.name == "onnx_zeros"]
    assert finding.value == 261  # of 36 + 288 + 24


def test_damage_to_the_checksum_itself(exported: Path, tmp_path: Path) -> None:
    """A file whose checksum was cut off or changed is no sound one."""
    content = (exported / "model.onnx").read_bytes()
    for damaged in (content[:-85], content[:-1] + b"x"):
        (tmp_path / "model.onnx").write_bytes(damaged)
        with pytest.raises(UnreadableFile, match="does not have the checksum it was written with"):
            Onnx().verify(subject(pruned()), tmp_path)
