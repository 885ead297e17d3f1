"""Networks of unusual make through the verbs that take them apart: none ends in a bug, and weights are repaired."""

from __future__ import annotations

from pathlib import Path

import pytest

import sparsify_cli
from tests.cli.conftest import Run

CODE = '''
import torch
from torch import nn


def points(split):
    g = torch.Generator().manual_seed(len(split))
    y = torch.randint(0, 3, (240,), generator=g)
    return {"x": torch.randn(240, 4, 6, generator=g) + y.reshape(-1, 1, 1), "y": y}


class Whole(nn.Module):
    """Something between two layers."""

    def __init__(self, middle, wide=16):
        super().__init__()
        self.one, self.middle, self.two = nn.Linear(6, wide), middle, nn.Linear(wide, 3)

    def forward(self, x):
        return self.two(self.middle(torch.relu(self.one(x))).mean(1))


class Experts(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate, self.each = nn.Linear(16, 3), nn.ModuleList(nn.Linear(16, 16) for _ in range(3))

    def forward(self, x):
        way, out = self.gate(x).argmax(-1), torch.zeros_like(x)
        for number, expert in enumerate(self.each):
            if bool((way == number).any()):
                out[way == number] = expert(x[way == number])
        return x + out


class Across(nn.Module):
    """Attention to fewer, narrower tokens, and a decoder layer."""

    def __init__(self):
        super().__init__()
        self.narrow, self.attend = nn.Linear(16, 8), nn.MultiheadAttention(16, 2, kdim=8, vdim=8, batch_first=True)
        self.decode = nn.TransformerDecoderLayer(16, 2, 32, dropout=0.0, batch_first=True)

    def forward(self, x):
        less = self.narrow(x[:, 1:])
        return self.decode(x + self.attend(x, less, less)[0], x[:, :3])


class Counts(nn.Module):
    """Counts its passes, and keeps what it put out last."""

    def __init__(self):
        super().__init__()
        self.line = nn.Linear(16, 16)
        self.register_buffer("passes", torch.zeros(1))

    def forward(self, x):
        self.passes += 1
        self.last = self.line(x)
        return self.last


class Waves(nn.Module):
    def __init__(self):
        super().__init__()
        self.both = nn.Parameter(torch.randn(9, 16, dtype=torch.complex64) / 4)

    def forward(self, x):
        return (torch.fft.rfft(x) @ self.both).abs()


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(16, 16), nn.Linear(16, 16)
        self.b.weight = self.a.weight

    def forward(self, x):
        return self.b(torch.relu(self.a(x)))


class Several(Whole):
    def forward(self, x):
        features = torch.relu(self.one(x)).mean(1)
        return {"features": features, "answers": self.two(self.middle(features))}


def normed():
    return Whole(nn.utils.weight_norm(nn.Linear(16, 16)))


def short():
    return Whole(nn.Linear(16, 16)).bfloat16()


def several():
    return Several(nn.Linear(16, 16))


def of(kind):
    return lambda: Whole(kind())


experts, across, counts, waves, tied = map(of, (Experts, Across, Counts, Waves, Tied))
'''
KINDS = ("experts", "across", "counts", "waves", "tied", "normed", "short", "several")
COMMANDS = (
    "prune {0} --sparsity 0.6 --solver auto --samples 128 --out repaired",
    "prune {0} --sparsity 0.5 --criterion snip --out ranked",
    "prune {0} --sparsity 0.4 --solver woodfisher --samples 128 --out curved",
    "unlearn {0} --forget class:1 --out forgotten",
    "finetune repaired --epochs 1 --objective distill --out tuned",
)


@pytest.fixture(autouse=True)
def _inside(tmp_path, monkeypatch):
    """Run beside the code."""
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text(CODE)


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning", "ignore:There is a performance drop:UserWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_every_verb_works(run: Run, kind):
    """Trained, pruned by repair, by scores and by curvature, forgotten from and tuned; no layer that runs is left without repair."""
    assert run(f"train --arch net.py:{kind} --data net.py:points --epochs 4 --batch-size 48 --format quiet --out dense").code == 0
    for command in COMMANDS:
        said = run(command.format("dense"))
        assert said.code == 0, f"{command}: {said.err}"
        assert "without repair" not in said.out + said.err
    exported = run("export repaired --to onnx --out graph")
    assert exported.code == 0 or "Something unexpected" not in exported.err


def test_separate_projections_are_layers(run: Run):
    """Of an attention to narrower tokens all three matrices are pruned, as every layer's."""
    assert run("train --arch net.py:across --data net.py:points --epochs 1 --format quiet --out dense").code == 0
    assert run("prune dense --sparsity 0.5 --allocation uniform --solver sparsegpt --samples 64 --out half").code == 0
    found = sparsify_cli.load("half")
    for leaf in "qkv":
        weight = found[f"middle.attend.{leaf}_proj_weight"]
        assert int((weight == 0).sum()) == weight.numel() // 2
