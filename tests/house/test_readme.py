"""Every command the README shows is run, in order, in one folder."""

from __future__ import annotations

import re
import shlex

import pytest

from tests.house.tree import ROOT, VERBS

BLOCK = re.compile(r"(?P<excuse><!--\s*not run:\s*(?P<reason>[^>]*?)\s*-->\s*\n)?```sh\n(?P<body>.*?)^```", re.MULTILINE | re.DOTALL)
OURS = (["sparsify"], ["python", "-m", "sparsify_cli"])
AROUND = {"git", "cd", "make", "pip", "python", "source", "torchrun"}
"""First words a block may show besides our own command; they set up a machine and are not run."""


def blocks(text):
    """(reason not to run it or None, joined lines without comments and prompts) of every ```sh block."""
    for match in BLOCK.finditer(text):
        joined = match["body"].replace("\\\n", " ")
        words = [shlex.split(line.strip().removeprefix("$ "), comments=True) for line in joined.splitlines()]
        yield match["reason"], [line for line in words if line]


def arguments(words):
    """What follows our own command, or None for another command."""
    return next((words[len(name) :] for name in OURS if words[: len(name)] == name), None)


BLOCKS = list(blocks((ROOT / "README.md").read_text(encoding="utf-8"))) if (ROOT / "README.md").exists() else []


@pytest.mark.timeout(900)
def test_readme_commands_run_in_order():
    """Every `sparsify ...` line of the README exits 0, one after the other in one folder, as a reader would type them."""
    from sparsify_cli.cli.app import main

    typed = [argv for reason, lines in BLOCKS if reason is None for words in lines if (argv := arguments(words)) is not None]
    assert typed, "README.md shows no command that can be run"
    codes = {}
    for argv in typed:
        codes[shlex.join(argv)] = main(argv)
        assert codes[shlex.join(argv)] == 0, f"sparsify {shlex.join(argv)}"
    assert set(codes.values()) == {0}


def test_every_block_is_one_of_ours():
    """A ```sh block holds our commands and what surrounds them; make targets exist and verbs are real, run or not."""
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for _, lines in BLOCKS:
        for words in lines:
            argv = arguments(words)
            assert argv is not None or words[0] in AROUND, words
            assert argv is None or argv[0] in (*VERBS, "--help", "--version"), words
            assert words[0] != "make" or set(words[1:]) <= targets, words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("```sh\nsparsify list  # what there is\n```", [(None, [["sparsify", "list"]])]),
        ("```sh\n$ sparsify prune a.pt \\\n    --sparsity 0.9\n```", [(None, [["sparsify", "prune", "a.pt", "--sparsity", "0.9"]])]),
        ("<!-- not run: needs a GPU -->\n```sh\nsparsify env\n```", [("needs a GPU", [["sparsify", "env"]])]),
        ("```python\nsparsify env\n```", []),
        ("```sh\nmake demo\n\n# nothing\n```\ntext\n```sh\nsparsify env\n```", [(None, [["make", "demo"]]), (None, [["sparsify", "env"]])]),
    ],
)
def test_blocks_are_found(text, expected):
    """Prompts, comments, continuations, excuses and other languages are read as a person reads them."""
    assert list(blocks(text + "\n")) == expected
