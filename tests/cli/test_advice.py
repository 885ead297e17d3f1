"""What is said about inputs that a network does not take, and about options of the wrong kind."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from tests.cli.conftest import Run

CODE = """
import torch
from torch import nn


class Reader(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.kinds, self.out = nn.Embedding(10, 4), nn.Embedding(2, 4), nn.Linear(4, 10)

    def forward(self, x):
        return self.out(self.embedding(x) + self.kinds(x // 100))


def tokens(split):
    x = torch.arange(40).reshape(8, 5) % 10
    x[6, 2] = 12
    return {"x": x, "y": x % 10}


def viewer():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))


def last(split):
    return {"x": torch.zeros(8, 16, 16, 3), "y": torch.arange(8) % 2}
"""


@pytest.fixture
def code(tmp_path: Path) -> None:
    """Two networks, and data that neither takes."""
    Path("net.py").write_text(CODE)
    reader = nn.ModuleDict({"embedding": nn.Embedding(10, 4), "kinds": nn.Embedding(2, 4), "out": nn.Linear(4, 10)})
    viewer = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    torch.save(reader.state_dict(), "reader.pt"), torch.save(viewer.state_dict(), "viewer.pt")


def test_a_token_that_no_row_is_for_is_named(code: None, run: Run) -> None:
    """It is in the seventh text only; the sentence names it and the rows there are, before anything is computed."""
    said = run("validate reader.pt --arch net.py:Reader --data net.py:tokens")
    assert said.code == 2
    assert "embedding has 10 rows and was asked for row 12" in said.sentence


def test_channels_that_come_last_are_told(code: None, run: Run) -> None:
    """Images [16, 16, 3] for a network that wants [3, 16, 16]."""
    said = run("validate viewer.pt --arch net.py:viewer --data net.py:last")
    assert said.code == 2
    assert "Channels come last" in said.sentence and "permute(0, 3, 1, 2)" in said.sentence


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("--epochs x", "epochs = 'x': it must be a whole number."),
        ("--lr -1", "lr = '-1': it must be greater than 0."),
        ("--lr fast", "lr = 'fast': it must be a number."),
        ("--epochs 0", "epochs = '0': it must be at least 1."),
    ],
)
def test_options_of_the_wrong_kind(run: Run, option: str, words: str) -> None:
    """One plain sentence, in our words and not in those of a library."""
    said = run(f"train --arch mlp --data digits {option}")
    assert (said.code, said.sentence) == (2, f"error: {words}")
