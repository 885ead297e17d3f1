"""Ctrl-C, kill -9, a second process, a full disk: nothing half-written, nothing lost, and a resumed run ends with the same bits."""

from __future__ import annotations

import errno
import os
import resource
import signal
import time
from pathlib import Path

import pytest

from sparsify_cli.values.artifact import claimed
from tests.cli.conftest import NAMES, Run, content, names

PRUNED = f"runs/{NAMES['pruned']}"
NEWEST = f"runs/{NAMES['tuned']}"
LONG = "--epochs 8 --batch-size 32"


def weights(folder: str) -> bytes:
    """The bytes of an artifact's weights."""
    return Path(folder, "model.safetensors").read_bytes()


def wait_for(path: Path) -> None:
    """Wait until a file is there."""
    end = time.monotonic() + 90
    while not path.exists():
        assert time.monotonic() < end, f"{path} never came"
        time.sleep(0.005)


def hidden(folder: str) -> list[str]:
    """Temporary files and locks in a folder."""
    return [name for name in names(folder) if name.startswith(".")]


def test_ctrl_c_leaves_a_run_that_resumes_bit_for_bit(here: Path, run: Run, start) -> None:
    """SIGINT: exit 130 and the command that continues; resumed, even when another model is newest by then, it ends with the same bits."""
    process = start(f"finetune {LONG} --out run")
    wait_for(Path("run/manifest.json"))
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert [line for line in err.splitlines() if line.startswith("error: ")] == [err.strip().splitlines()[-1]]
    assert "Traceback" not in err and "finetune --resume run" in err
    assert names("run") == ["manifest.json", "run.pt"]
    assert run("validate run").code == 2
    assert run("train --resume run").code == 2
    assert run(f"finetune {NEWEST} {LONG} --out whole").code == 0
    assert run("prune model.pt --sparsity 0.5").code == 0
    assert run("finetune --resume run").code == 0
    assert weights("run") == weights("whole")
    assert names("run") == ["manifest.json", "masks.safetensors", "model.safetensors"]


def test_kill_9_loses_nothing_but_the_last_epoch(here: Path, run: Run, start) -> None:
    """A run that is being written is not resumed by someone else; killed, it goes on from its last epoch to the same bits."""
    process = start(f"finetune {NEWEST} {LONG} --out run")
    wait_for(Path("run/manifest.json"))
    process.send_signal(signal.SIGSTOP)
    busy = run("finetune --resume run")
    process.kill()
    process.communicate(timeout=60)
    assert busy.code == 1
    assert "Another process" in busy.sentence
    Path("run/.0123abcd-run.pt").write_bytes(b"half")
    assert run("finetune --resume run").code == 0
    assert run(f"finetune {NEWEST} {LONG} --out whole").code == 0
    assert weights("run") == weights("whole")
    assert hidden("run") == []


def test_a_second_writer_is_told_to_wait(here: Path, run: Run) -> None:
    """A folder that another process writes is refused with exit 1 and stays as it is."""
    with claimed(Path("busy")):
        before = content(here)
        said = run("prune model.pt --sparsity 0.5 --out busy")
        assert content(here) == before
    assert said.code == 1
    assert "busy" in said.sentence and "Another process" in said.sentence


VERBS = [
    "prune model.pt --sparsity 0.5", f"finetune {PRUNED} --epochs 2", f"embed runs/{NAMES['dense']} --levels 0.5 --epochs 1",
    f"extract runs/{NAMES['nest']} --level 0.5", f"unlearn runs/{NAMES['dense']} --forget class:3", f"export {PRUNED} --to packed",
]  # fmt: skip


@pytest.mark.parametrize("line", VERBS)
def test_a_full_disk(line: str, here: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """ENOSPC at the first flush below this folder: exit 1, one sentence that says so, no folder and no temporary left."""
    real = os.fsync

    def full(descriptor: int) -> None:
        if Path(f"/proc/self/fd/{descriptor}").readlink().is_relative_to(here):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor)

    before = content(here)
    monkeypatch.setattr(os, "fsync", full)
    said = run(line)
    assert said.code == 1
    assert "disk is full" in said.sentence
    assert content(here) == before


def test_a_file_size_limit(here: Path, start) -> None:
    """A system that refuses to write past a size (here 8 kB): exit 1, one sentence, nothing left."""
    before = content(here)
    process = start(f"prune {PRUNED} --sparsity 0.95", preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192)))
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert err.count("error: ") == 1 and "Traceback" not in err
    assert content(here) == before


def test_ctrl_c_outside_training(here: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while nothing can be resumed: exit 130, one sentence, nothing left."""
    before = content(here)

    def press(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("sparsify_cli.stages.prune.write_product", press)
    said = run("prune model.pt --sparsity 0.5")
    assert said.code == 130
    assert "Interrupted" in said.sentence
    assert content(here) == before
