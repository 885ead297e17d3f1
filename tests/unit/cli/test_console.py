"""What reaches the terminal: text of other people's files cannot command it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sparsify_cli.cli import console
from sparsify_cli.cli.app import main
from sparsify_cli.stages.outcome import Outcome, Table

EVIL = "\x1b[31mred\x07\x9b"
SHOWN = "\ufffd[31mred\ufffd\ufffd"


def test_control_characters_are_shown_as_signs(capsys):
    """In cells, titles, headlines and notes; lines of a headline stay lines, and no markup is read."""
    table = Table(EVIL, ("a", "b"), ((EVIL, "1"),))
    console.show(Outcome("prune", f"{EVIL}\nsecond [bold]", tables=(table,), notes=(EVIL,)), console.Format.HUMAN)
    said = capsys.readouterr()
    assert said.out.startswith(f"{SHOWN}\nsecond [bold]\n") and said.out.count(SHOWN) == 3
    assert f"note: {SHOWN}" in said.err
    assert not {"\x1b", "\x07", "\x9b"} & set(said.out + said.err)


def test_a_path_for_a_program_stays_as_it_is(capsys):
    """A script gets the bytes of the name that it has to open."""
    console.show(Outcome("prune", "", files=(Path("odd\x07name"),)), console.Format.QUIET)
    assert "odd\x07name" in capsys.readouterr().out


def test_a_hostile_name_in_a_plan(capsys):
    """A tensor's name that would colour the screen is told in a dry run without doing so."""
    torch.save({"\x1b[31mred.weight": torch.ones(4, 4)}, "model.pt")
    assert main(["prune", "model.pt", "--sparsity", "0.5", "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "\ufffd[31mred.weight" in out and "\x1b" not in out


@pytest.mark.parametrize("text", ["a\nb", "é 中 1\u202f000", "100\u00a0%"])
def test_plain_text_stays(text, capsys):
    """Lines, letters of all scripts and blanks that do not break."""
    console.say(text)
    assert capsys.readouterr().out == f"{text}\n"
