"""`shrink`: what was zero is gone, later verbs work on what is left, and what cannot be is said."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.cli.conftest import NAMES, Run

NET = """
import torch
from torch import nn


def net():
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.BatchNorm2d(16), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10, bias=False),
    )


class Hooked(nn.Sequential):
    def __init__(self):
        super().__init__(*net())
        self[2].register_forward_hook(lambda layer, inputs, output: output * torch.arange(output.shape[1]).view(-1, 1, 1))


class Counting(nn.Sequential):
    def __init__(self):
        super().__init__(*net())

    def forward(self, x):
        for layer in list(self)[:7]:
            x = layer(x)
        return self[8](x.reshape(x.numel() // 16, -1))
"""
FLAGS = "--data digits --format json"


@pytest.fixture
def zeroed(here: Path) -> Path:
    """model.pt with 3 of 8 and 5 of 16 zero filters, and net.py that builds it."""
    state = torch.load("model.pt", weights_only=True)
    state.pop("8.bias")
    state["0.weight"][[1, 4, 6]] = 0
    state["3.weight"][[0, 2, 4, 6, 15]] = 0
    torch.save(state, "zeroed.pt")
    (here / "net.py").write_text(NET)
    return here


def numbers(folder: str) -> dict[tuple[str, str], float]:
    """Numbers of an artifact, by name and whose they are."""
    manifest = json.loads((Path(folder) / "manifest.json").read_text())
    return {(one["name"], one["of"]): one["value"] for one in manifest["numbers"] if one["scope"] == "all"}


def test_shrink_and_what_comes_after(zeroed: Path, run: Run) -> None:
    """8 -> 5 and 16 -> 11 filters: shapes, counts and accuracy by hand; validate, prune, finetune, export and shrink take the result."""
    said = run("shrink zeroed.pt --arch net.py:net --data digits --out small")
    assert said.code == 0 and "Removed 8 channels" in said.out
    tensors, found = load_file("small/model.safetensors"), numbers("small")
    assert [list(tensors[f"{at}.weight"].shape) for at in (0, 3, 8)] == [[5, 1, 3, 3], [11, 5, 3, 3], [10, 11]]
    assert list(tensors["8.bias"].shape) == [10]  # the constants of the last five went there
    assert found["parameters", "dense"] == (8 * 9 + 8) + 2 * 8 + (16 * 72 + 16) + 2 * 16 + 160
    assert found["parameters", "compressed"] == (5 * 9 + 5) + 2 * 5 + (11 * 45 + 11) + 2 * 11 + 110 + 10
    assert found["macs", "dense"] == 64 * 72 + 36 * 16 * 72 + 160 and found["macs", "compressed"] == 64 * 45 + 36 * 11 * 45 + 110
    assert found["accuracy", "compressed"] == found["accuracy", "dense"] and found["output_change", "compressed"] < 1e-6
    assert (
        found["bytes_disk", "compressed"] == (zeroed / "small/model.safetensors").stat().st_size
        and ("latency_ratio", "compressed") in found
    )
    for line in ("validate small", "prune small --sparsity 0.5 --out less", "export small --to onnx", "export less --to packed"):
        assert run(line).code == 0, line
    assert run("finetune less --epochs 1 --out tuned").code == 0
    assert run("report tuned").code == 0
    assert run("shrink small").code == 5
    assert "% of the parameters were removed" in run("report small").out


BLOCKS = """
import torch
from torch import nn


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)

    def forward(self, x):
        return torch.relu(x + self.norm(self.conv(x)))


class Net(nn.Module):
    def __init__(self, silent=0):
        super().__init__()
        self.stem, self.head = nn.Conv2d(1, 8, 3, padding=1), nn.Linear(8, 10)
        self.blocks = nn.Sequential(*[Block() for _ in range(3)])

    def forward(self, x):
        return self.head(self.blocks(torch.relu(self.stem(x))).mean((2, 3)))
"""


@pytest.mark.slow
def test_blocks_that_do_nothing_go_as_a_whole(here: Path, run: Run) -> None:
    """One of three residual blocks is silent: it goes with its five tensors, later verbs build the network without it, and train it."""
    (here / "blocks.py").write_text(BLOCKS)
    assert run("train --arch blocks.py:Net --data digits --epochs 2 --out whole").code == 0
    state = load_file("whole/model.safetensors")
    state["blocks.1.conv.weight"].zero_()
    for name in ("bias", "running_mean"):
        state[f"blocks.1.norm.{name}"].zero_()
    torch.save(state, "silent.pt")
    said = run("shrink silent.pt --arch blocks.py:Net --data digits --out small")
    assert said.code == 0 and "1 block (blocks.1)" in said.out
    tensors, found = load_file("small/model.safetensors"), numbers("small")
    assert not any(name.startswith("blocks.1.") for name in tensors) and "blocks.2.conv.weight" in tensors
    assert found["parameters", "dense"] - found["parameters", "compressed"] >= 8 * 8 * 9 + 2 * 8
    assert found["accuracy", "compressed"] == found["accuracy", "dense"] and found["output_change", "compressed"] < 1e-12
    for line in ("validate small --arch blocks.py:Net --data digits", "prune small --sparsity 0.5 --out less", "export small --to onnx"):
        assert run(line).code == 0, line
    assert run("finetune less --epochs 1 --out tuned").code == 0
    assert run("report tuned").code == 0
    path = Path("small/manifest.json")
    path.write_text(path.read_text().replace('"blocks.1"', '"blocks.9"'))
    assert "lacks a part" in run("validate small --arch blocks.py:Net --data digits").sentence


ENCODER = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.into, self.head = nn.Linear(8, 16), nn.Linear(32, 10)
        self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 4, 24, dropout=0.0, batch_first=True), 1)
        self.beside = nn.Linear(8, 16)

    def forward(self, x):
        x = x.view(-1, 8, 8)
        return self.head(torch.cat([self.encoder(self.into(x)), self.beside(x)], 2).mean(1))
"""


@pytest.mark.slow
def test_heads_go_and_what_is_beside_them(here: Path, run: Run) -> None:
    """Two of four heads that `prune` silenced as blocks of columns; a neuron that is concatenated; every later verb takes the rest."""
    (here / "encoder.py").write_text(ENCODER)
    assert run("train --arch encoder.py:Net --data digits --epochs 3 --out whole").code == 0
    assert run("prune whole --include *out_proj* --pattern block:16x4 --sparsity 0.5 --out silent").code == 0
    state = load_file("silent/model.safetensors")
    state["beside.weight"][3] = 0
    torch.save(state, "silent.pt")
    said = run("shrink silent.pt --arch encoder.py:Net --data digits --out small")
    assert said.code == 0 and "Removed 1 channel and 2 heads of attention" in said.out, said.err
    tensors, found = load_file("small/model.safetensors"), numbers("small")
    assert list(tensors["encoder.layers.0.self_attn.in_proj_weight"].shape) == [24, 16]
    assert list(tensors["head.weight"].shape) == [10, 31]
    assert found["heads_removed", "compressed"] == 2 and found["output_change", "compressed"] < 1e-7
    for line in ("validate small", "prune small --solver sparsegpt --sparsity 0.5 --out less", "export small --to onnx"):
        assert run(line).code == 0, line
    assert run("finetune less --epochs 1 --out tuned").code == 0 and run("report tuned").code == 0


@pytest.mark.slow
def test_zero_columns_become_smaller_products(zeroed: Path, run: Run) -> None:
    """Of the second convolution's 72 columns 18 are left, so a quarter of its work; later verbs know it, masks and pruning included."""
    state = torch.load("zeroed.pt", weights_only=True)
    keep = torch.arange(72) % 4 == 0
    state["3.weight"].flatten(1)[:, ~keep] = 0
    torch.save(state, "columns.pt")
    assert run("shrink columns.pt --arch net.py:net --data digits --out plain").code == 0
    said = run("shrink columns.pt --arch net.py:net --data digits --compact 0.5 --out small")
    assert said.code == 0 and "zero columns of 1 convolution" in said.out
    tensors, before, after = load_file("small/model.safetensors"), numbers("plain"), numbers("small")
    assert list(tensors["3.product.weight"].shape) == [11, len(tensors["3.columns"])] and "3.weight" not in tensors
    assert before["macs", "compressed"] - after["macs", "compressed"] == 36 * 11 * (45 - len(tensors["3.columns"]))
    assert after["accuracy", "compressed"] == after["accuracy", "dense"] and after["output_change", "compressed"] < 1e-6
    for line in ("validate small", "validate small --arch net.py:net --data digits", "export small --to onnx", "inspect small"):
        assert run(line).code == 0, line
    assert run("prune small --sparsity 0.5 --out less").code == 0
    assert run("finetune less --epochs 1 --out tuned").code == 0
    assert run("report tuned").code == 0
    tuned, counts = load_file("tuned/model.safetensors"), json.loads(Path("tuned/manifest.json").read_text())["tensors"]
    assert torch.equal(tuned["3.columns"], tensors["3.columns"])
    assert "3.product.weight" in counts and counts["3.product.weight"]["kept"] < tensors["3.product.weight"].numel()
    again = run("shrink small")
    assert again.code == 5 and "compacted already" in again.sentence
    torch.save({**state, "0.weight": state["0.weight"] + 1, "3.weight": state["3.weight"].index_fill(0, torch.tensor([0, 2, 4, 6, 15]), 0)
                + 1e-3 * keep.view(1, 8, 3, 3)}, "alive.pt")  # fmt: skip
    none = run("shrink alive.pt --arch net.py:net --data digits")
    assert none.code == 5 and "--compact" in none.sentence
    manifest = json.loads(Path("small/manifest.json").read_text())
    manifest["architecture"]["compact"] = {"3": [11]}
    Path("small/manifest.json").write_text(json.dumps(manifest))
    assert "architecture" in run("validate small").sentence


def test_masks_are_cut_with_the_weights(zeroed: Path, run: Run) -> None:
    """A pruned network stays pruned: masks have the new shapes, zeros are where they say, and what is zero inside stays zero."""
    assert run("prune zeroed.pt --arch net.py:net --data digits --sparsity 0.7 --out pruned").code == 0
    assert run("shrink pruned --out small").code == 0
    counts = json.loads(Path("small/manifest.json").read_text())["tensors"]
    assert counts["3.weight"]["shape"][0] <= 11 and 0 < counts["3.weight"]["kept"] < 11 * 5 * 9
    assert all(one["zeros"] >= torch.Size(one["shape"]).numel() - one["kept"] for one in counts.values() if "kept" in one)


@pytest.mark.parametrize("bits", [torch.float16, torch.bfloat16])
def test_networks_of_16_bits_round_what_is_folded(zeroed: Path, run: Run, bits: torch.dtype) -> None:
    """Biases that carry constants are rounded as all others are, and the run says by how much outputs moved: by more than 1e-5."""
    layers = "nn.Flatten(), nn.Linear(64, 40), nn.Sigmoid(), nn.Linear(40, 10)"
    (zeroed / "half.py").write_text(f"import torch\nfrom torch import nn\ndef net():\n    return nn.Sequential({layers}).to({bits})\n")
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 40), torch.nn.Sigmoid(), torch.nn.Linear(40, 10))
    module[1].weight.data[:20] = 0  # what is left of them is the sigmoid of a bias
    torch.save(module.to(bits).state_dict(), "half.pt")
    said = run("shrink half.pt --arch half.py:net --data digits --out half")
    assert said.code == 0 and "to 16 bits" in said.out and "biases are rounded" in said.err
    assert 1e-5 < numbers("half")["output_change", "compressed"] <= torch.finfo(bits).eps


def test_files_of_16_bits_are_held_to_the_same_bound(zeroed: Path, run: Run) -> None:
    """The network itself has 32 bits, nothing is rounded, and a hook that tells channels apart is still found."""
    state = torch.load("zeroed.pt", weights_only=True)
    torch.save({name: tensor.bfloat16() if tensor.is_floating_point() else tensor for name, tensor in state.items()}, "half.pt")
    assert "differ by" in run("shrink half.pt --arch net.py:Hooked --data digits").sentence
    assert run("shrink half.pt --arch net.py:net --data digits --out half").code == 0
    assert numbers("half")["output_change", "compressed"] <= 1e-5


def test_filters_zeroed_by_a_criterion_go(here: Path, run: Run) -> None:
    """`prune --criterion group-norm` zeroes whole neurons, which then go; the artifact is taken as the newest."""
    assert run(f"prune runs/{NAMES['dense']} --sparsity 0.6 --criterion group-norm").code == 0
    said = run("shrink", "--format", "json")
    facts = json.loads(said.out)
    assert said.code == 0 and facts["artifact"].startswith("runs/") and "shrink" in facts["artifact"]


def test_the_architecture_may_be_named_again(zeroed: Path, run: Run) -> None:
    """Flags win over what an artifact remembers; the new shapes stay, since they are no code."""
    assert run("shrink zeroed.pt --arch net.py:net --data digits --out small").code == 0
    assert run("validate small --arch net.py:net --data digits").code == 0
    assert "does not fit" in run("validate small --arch mlp --data digits").sentence


def test_damaged_shapes_are_refused(zeroed: Path, run: Run) -> None:
    """A manifest whose shapes are no shapes: exit 2, one sentence."""
    assert run("shrink zeroed.pt --arch net.py:net --data digits --out small").code == 0
    path = Path("small/manifest.json")
    manifest = json.loads(path.read_text())
    manifest["architecture"]["resized"]["0.weight"] = [-1, "a"]
    path.write_text(json.dumps(manifest))
    said = run("validate small")
    assert said.code == 2 and "architecture" in said.sentence


@pytest.mark.parametrize(
    ("line", "code", "word"),
    [
        ("shrink model.pt --arch net.py:withbias --data digits", 2, "withbias"),
        ("shrink zeroed.pt --arch net.py:net", 2, "--data"),
        ("shrink zeroed.pt --data digits", 2, "--arch"),
        ("shrink zeroed.pt --arch net.py:Hooked --data digits", 4, "differ by"),
        ("shrink zeroed.pt --arch net.py:Counting --data digits", 4, "does not run"),
        (f"shrink runs/{NAMES['dense']}", 5, "channels"),
        (f"shrink runs/{NAMES['nest']}", 2, "extract"),
    ],
)  # fmt: skip
def test_what_cannot_be(zeroed: Path, run: Run, line: str, code: int, word: str) -> None:
    """One sentence, the right exit code, and nothing is written."""
    before = sorted(zeroed.rglob("*"))
    said = run(line)
    assert (said.code, word in said.sentence) == (code, True), said.sentence
    assert [path for path in sorted(zeroed.rglob("*")) if "__pycache__" not in path.parts] == before
