"""Every exporter of the shelf: what it writes it can prove, and damage is never accepted."""

import copy
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import nn

from sparsify_cli.contracts.exporter import Exportable, Exporter
from sparsify_cli.errors import MissingContext, Regression, SparsifyError
from sparsify_cli.shelf import Shelf
from sparsify_cli.values.checkpoint import Checkpoint, Source
from sparsify_cli.values.mask_set import MaskSet

NAMES = Shelf("exporters").names()


class ConvNet(nn.Module):
    """Two convolutions with batch norm, and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(1, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.conv2, self.bn2 = nn.Conv2d(6, 12, 3), nn.BatchNorm2d(12)
        self.fc = nn.Linear(12, 5)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits of 8x8 images."""
        features = self.bn1(self.conv1(images)).relu()
        return self.fc(self.bn2(self.conv2(features)).relu().mean((2, 3)))


def mlp() -> nn.Module:
    """Three layers over 8x8 images."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 40), nn.ReLU(), nn.Linear(40, 24), nn.ReLU(), nn.Linear(24, 5))


def pruned(make: Callable[[], nn.Module]) -> nn.Module:
    """A network with lived-in batch norm and nine of ten weights zero."""
    torch.manual_seed(3)
    network = make()
    for name, tensor in network.state_dict().items():
        if "running" in name:
            tensor.uniform_(0.2, 2)
        if tensor.dim() > 1:
            tensor[torch.rand(tensor.shape) < 0.9] = 0
    return network.eval()


def subject_of(kind: str) -> Exportable:
    """What is exported: `conv` or `mlp`, or one of them in bfloat16."""
    network = pruned(ConvNet if kind.startswith("conv") else mlp)
    network = network.bfloat16() if kind.endswith("bf16") else network
    state = network.state_dict()
    masks = MaskSet.from_zeros({name: tensor for name, tensor in state.items() if tensor.dim() > 1})
    return Exportable(Checkpoint(state, Source("x", "")), masks, lambda: copy.deepcopy(network), torch.randn(7, 1, 8, 8))


@cache
def content(name: str, kind: str, folder: Path) -> tuple[str, bytes]:
    """Name and bytes of the main file; exporting is slow, so once for each pair."""
    main = exporter(name).export(subject_of(kind), folder)[0]
    return main.name, main.read_bytes()


def exporter(name: str) -> Exporter:
    """One exporter with its defaults."""
    made: Exporter = Shelf("exporters").load(name)()
    return made


@pytest.fixture(scope="module")
def cabinet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the files of `content` are made."""
    return tmp_path_factory.mktemp("exports")


def put(name: str, kind: str, cabinet: Path, folder: Path) -> Path:
    """A fresh copy of the exported file."""
    file, data = content(name, kind, cabinet)
    (folder / file).write_bytes(data)
    return folder / file


KINDS = [(name, kind) for name in NAMES for kind in ("conv", "mlp", "mlp-bf16")]


@pytest.mark.parametrize(("name", "kind"), KINDS)
def test_what_is_written_is_proved(name: str, kind: str, cabinet: Path, tmp_path: Path) -> None:
    """A fresh export is accepted by verify, which says its bytes, dense bytes and by how much it differs."""
    main = put(name, kind, cabinet, tmp_path)
    subject = subject_of(kind)
    findings = exporter(name).verify(subject, tmp_path)
    values = {(finding.name, finding.of): finding.value for finding in findings}
    assert values["bytes", "compressed"] == main.stat().st_size
    assert values["bytes", "dense"] == sum(tensor.nbytes for tensor in subject.checkpoint.tensors.values())
    difference = values.get(("differing_values", "compressed"), values.get(("onnx_max_difference", "compressed")))
    assert difference is not None
    assert 0 <= difference <= 1e-4
    assert all(finding.definition for finding in findings)


@pytest.mark.parametrize("name", NAMES)
def test_the_main_file_comes_first_and_nothing_else_stays(name: str, tmp_path: Path) -> None:
    """What export returns is exactly the files that are in the folder, and writing twice gives the same bytes."""
    subject = subject_of("mlp")
    files = exporter(name).export(subject, tmp_path)
    first = files[0].read_bytes()
    assert sorted(files) == sorted(tmp_path.iterdir())
    assert exporter(name).export(subject, tmp_path) == files
    assert files[0].read_bytes() == first


@pytest.mark.parametrize(("name", "kind"), KINDS)
def test_one_damaged_byte_is_noticed(name: str, kind: str, cabinet: Path, tmp_path: Path) -> None:
    """Every bit of one byte flipped, anywhere in the file: verify raises one of our errors."""
    main = put(name, kind, cabinet, tmp_path)
    data, subject, accepted = main.read_bytes(), subject_of(kind), []
    for position in {0, 8, len(data) - 1, *range(3, len(data), len(data) // 40)}:
        main.write_bytes(data[:position] + bytes([data[position] ^ 0xFF]) + data[position + 1 :])
        try:
            exporter(name).verify(subject, tmp_path)
        except SparsifyError as error:
            assert error.what
        else:
            accepted.append(position)
    assert accepted == []


@pytest.mark.parametrize("name", NAMES)
def test_a_damaged_weight_is_noticed(name: str, cabinet: Path, tmp_path: Path) -> None:
    """The lowest bit of one stored weight, too small to change any logit, is still noticed."""
    main = put(name, "mlp", cabinet, tmp_path)
    data, weight = main.read_bytes(), subject_of("mlp").checkpoint.tensors["3.weight"]
    needle = weight[weight != 0][:1].numpy().tobytes()
    position = data.index(needle)
    assert data.count(needle) == 1
    main.write_bytes(data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :])
    with pytest.raises(SparsifyError, match=r"damaged|is not what was exported"):
        exporter(name).verify(subject_of("mlp"), tmp_path)


@pytest.mark.parametrize("name", NAMES)
def test_a_truncated_or_absent_file_is_noticed(name: str, cabinet: Path, tmp_path: Path) -> None:
    """Half a file, an empty one and none at all: one sentence each, exit code 2."""
    main = put(name, "conv", cabinet, tmp_path)
    data, subject = main.read_bytes(), subject_of("conv")
    for size in (len(data) // 2, len(data) - 1, 7, 0):
        main.write_bytes(data[:size])
        with pytest.raises(SparsifyError) as caught:
            exporter(name).verify(subject, tmp_path)
        assert caught.value.exit_code == 2
    main.unlink()
    with pytest.raises(SparsifyError, match="There is no file"):
        exporter(name).verify(subject, tmp_path)


@pytest.mark.parametrize("name", NAMES)
def test_another_network_is_not_accepted(name: str, cabinet: Path, tmp_path: Path) -> None:
    """A sound file of one network does not pass for the same network with one weight changed."""
    put(name, "mlp", cabinet, tmp_path)
    subject = subject_of("mlp")
    network = subject.build()
    network[5].bias.data[0] += 1
    other = Exportable(subject.checkpoint.with_tensors(network.state_dict()), subject.masks, lambda: network, subject.inputs)
    with pytest.raises(Regression):
        exporter(name).verify(other, tmp_path)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_needed_is_said(name: str, tmp_path: Path) -> None:
    """A format either needs tensors only, or says that --arch or --data is missing and writes nothing."""
    whole = subject_of("mlp")
    for subject, option in (
        (Exportable(whole.checkpoint, whole.masks, None, whole.inputs), "--arch"),
        (Exportable(whole.checkpoint, whole.masks, whole.build, None), "--data"),
    ):
        try:
            exporter(name).export(subject, tmp_path)
        except MissingContext as error:
            assert option in error.do
            assert list(tmp_path.iterdir()) == []
        else:
            assert len(exporter(name).verify(subject, tmp_path)) >= 3


@pytest.mark.parametrize("name", NAMES)
def test_exporting_changes_nothing_and_says_nothing(name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The subject's tensors are what they were, and neither export nor verify writes to the terminal."""
    subject = subject_of("conv")
    before = {key: tensor.clone() for key, tensor in subject.checkpoint.tensors.items()}
    exporter(name).export(subject, tmp_path)
    exporter(name).verify(subject, tmp_path)
    assert capfd.readouterr() == ("", "")
    assert all(torch.equal(before[key], tensor) for key, tensor in subject.checkpoint.tensors.items())
