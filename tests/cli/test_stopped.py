"""Ctrl-C, kill -9, a second process, a full disk: nothing half-written, nothing lost, and a resumed run ends with the same bits."""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from sparsify_cli.errors import Diverged
from sparsify_cli.stages.workplace import Workplace
from sparsify_cli.values.artifact import claimed
from tests.cli.conftest import NAMES, Run, Said, content, names

PRUNED = f"runs/{NAMES['pruned']}"
NEWEST = f"runs/{NAMES['tuned']}"
LONG = "--epochs 8 --batch-size 32"
RESUMED = [
    "rigl",
    *(pytest.param(one, marks=pytest.mark.slow) for one in ("acdc --set regime.finetune_dense=true", "sr-ste", "imp", "cram-plus")),
]


def weights(folder: str) -> bytes:
    """The bytes of an artifact's weights."""
    return Path(folder, "model.safetensors").read_bytes()


def facts(folder: str) -> dict[str, Any]:
    """The facts of an artifact's manifest."""
    found: dict[str, Any] = json.loads(Path(folder, "manifest.json").read_text())["facts"]
    return found


def stopped(run: Run, monkeypatch: pytest.MonkeyPatch, line: str, error: BaseException | None = None) -> Said:
    """What is said when training is stopped (by Ctrl-C, or an error) after its second epoch was saved."""
    real = Workplace.save
    saved = []

    def save(place: Workplace, state: dict[str, Any]) -> None:
        real(place, state)
        saved.append(1)
        if len(saved) == 2:
            raise error or KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Workplace, "save", save)
        return run(line)


def test_a_second_ctrl_c_says_how_to_go_on(here: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """KeyboardInterrupt where a state was saved names the command that continues, and it works from another folder too."""
    said = stopped(run, monkeypatch, f"finetune {PRUNED} {LONG} --out run")
    assert said.code == 130
    assert "finetune --resume run" in said.sentence
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    assert run("finetune --resume ../run").code == 0


def test_a_run_without_some_samples_goes_on_without_them(here: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also from another folder, where the list of them has another path; code that has changed since is told."""
    line = "train --arch net.py:net --data digits --epochs 4 --without ids.json --seed 2 --out"
    net = "from torch import nn\ndef net():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n"
    Path("net.py").write_text(net)
    Path("ids.json").write_text(json.dumps(["digits-0000", "digits-0002"]))
    said = stopped(run, monkeypatch, f"{line} run")
    assert said.code == 130
    assert run(f"{line} whole").code == 0
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    Path("../net.py").write_text(f"{net}# mended\n")
    said = run("train --resume ../run")
    assert said.code == 0 and "net.py has changed" in said.err
    assert weights("../run") == weights("../whole")
    assert facts("../run")["forgotten_ids"] == facts("../whole")["forgotten_ids"] == ["digits-0000", "digits-0002"]


def test_a_second_ctrl_c_before_anything_was_saved(here: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """KeyboardInterrupt in the first step: nothing is left, and that is what is said."""

    def press(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("sparsify_cli.stages.training_run.train", press)
    said = run(f"finetune {PRUNED} --epochs 2 --out run")
    assert said.code == 130
    assert "Nothing was written" in said.sentence
    assert not Path("run").exists()


def test_a_diverged_run_says_what_is_kept(here: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the first epoch nothing, later the folder and its epoch; the advice is --lr."""
    early = run(f"finetune {PRUNED} --epochs 2 --lr 1e9 --out early")
    late = stopped(run, monkeypatch, f"finetune {PRUNED} {LONG} --out late", Diverged("It diverged.", "", "Lower --lr."))
    assert (early.code, late.code) == (1, 1)
    assert "Nothing was kept" in early.sentence and "--lr" in early.sentence
    assert "2 epochs is kept in late" in late.sentence
    assert not Path("early").exists() and Path("late/run.pt").exists()


def test_other_data_is_not_resumed(here: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the training samples are not those the run started from, --resume names both digests and trains nothing."""
    stopped(run, monkeypatch, f"finetune {PRUNED} {LONG} --out run")
    now = facts("run")["data_sha256"]
    path = Path("run/manifest.json")
    path.write_text(path.read_text().replace(now, "f" * 64))
    said = run("finetune --resume run")
    assert said.code == 2
    assert "training data is not what run started from" in said.sentence
    assert now[:12] in said.sentence and "ffffffffffff" in said.sentence


def test_a_folder_killed_before_its_first_epoch(here: Path, run: Run) -> None:
    """Only a lock is there: --resume says that nothing was saved, and the run can start again in the same folder."""
    Path("run").mkdir()
    Path("run/.lock").touch()
    said = run("finetune --resume run")
    assert said.code == 2
    assert "had not saved anything yet" in said.sentence
    assert run("prune model.pt --sparsity 0.5 --out run").code == 0


def wait_for(path: Path) -> None:
    """Wait until a file is there."""
    end = time.monotonic() + 90
    while not path.exists():
        assert time.monotonic() < end, f"{path} never came"
        time.sleep(0.005)


def hidden(folder: str) -> list[str]:
    """Temporary files and locks in a folder."""
    return [name for name in names(folder) if name.startswith(".")]


@pytest.mark.slow
def test_ctrl_c_leaves_a_run_that_resumes_bit_for_bit(here: Path, run: Run, start) -> None:
    """SIGINT: exit 130 and the command that continues; resumed, even when another model is newest by then, it ends with the same bits."""
    process = start(f"finetune {LONG} --out run")
    wait_for(Path("run/manifest.json"))
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert [line for line in err.splitlines() if line.startswith("error: ")] == [err.strip().splitlines()[-1]]
    assert "Traceback" not in err and "finetune --resume run" in err
    assert names("run") == ["manifest.json", "run.pt", "training.jsonl"]
    assert run("validate run").code == 2
    assert run("train --resume run").code == 2
    assert run(f"finetune {NEWEST} {LONG} --out whole").code == 0
    assert run("prune model.pt --sparsity 0.5").code == 0
    assert run("finetune --resume run").code == 0
    assert weights("run") == weights("whole")
    assert facts("run")["history"] == facts("whole")["history"]
    assert names("run") == ["manifest.json", "masks.safetensors", "model.safetensors", "training.jsonl"]


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

    monkeypatch.setattr("sparsify_cli.stages.streamed.write_copy", press)
    said = run("prune model.pt --sparsity 0.5")
    assert said.code == 130
    assert "Interrupted" in said.sentence
    assert content(here) == before


@pytest.mark.parametrize("regime", RESUMED)
def test_every_file_of_a_resumed_run_is_the_same(here: Path, run: Run, monkeypatch: pytest.MonkeyPatch, regime: str) -> None:
    """Stopped and resumed: weights, companions, log and numbers equal those of a run that was never stopped."""
    line = f"train --arch mlp --data digits {LONG} --sparsity 0.8 --regime {regime} --average 0.9 --save-every 70it"
    assert run(f"{line} --out whole").code == 0
    assert stopped(run, monkeypatch, f"{line} --out halved").code == 130
    assert run("train --resume halved").code == 0
    assert weights("whole") == weights("halved")
    assert Path("whole/training.jsonl").read_text() == Path("halved/training.jsonl").read_text()
    others = sorted(path.name for path in Path("whole/others").iterdir())
    assert "average.safetensors" in others and ("dense.safetensors" in others) == regime.startswith("acdc")
    assert all(Path("whole/others", name).read_bytes() == Path("halved/others", name).read_bytes() for name in others)
    assert macs("whole") == macs("halved")


def macs(folder: str) -> float:
    """Multiply-adds of a training run."""
    found = json.loads(Path(folder, "manifest.json").read_text())["numbers"]
    return float(next(one["value"] for one in found if one["name"] == "training_macs"))


def test_a_run_does_not_go_on_to_less_than_it_has_pruned(here: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused at once, and nothing of it is lost: with the sparsity it had it ends as if nothing had been."""
    line = f"train --arch mlp --data digits {LONG} --sparsity 0.9 --regime gmp"
    assert run(f"{line} --out whole").code == 0
    assert stopped(run, monkeypatch, f"{line} --out halved").code == 130
    before = content(Path("halved"))
    said = run("train --resume halved --sparsity 0.1 --force-recipe")
    assert said.code == 2 and "stay pruned" in said.sentence and "has pruned" in said.sentence
    assert content(Path("halved")) == before
    assert run("train --resume halved").code == 0 and weights("whole") == weights("halved")


def test_a_damaged_state_is_no_state_to_go_on_from(here: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be read is not said to be kept."""
    assert stopped(run, monkeypatch, f"finetune {PRUNED} {LONG} --out run").code == 130
    Path("run/run.pt").write_bytes(b"half")
    said = run("finetune --resume run")
    assert said.code != 0 and "cannot be read" in said.err and "kept" not in said.err


def test_what_fails_after_training_does_not_cost_it(here: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error while the trained network is measured: the sentence says how to go on, and that ends with the same bits."""
    line = f"train --arch mlp --data digits {LONG} --sparsity 0.8 --regime gmp"
    assert run(f"{line} --out whole").code == 0
    with monkeypatch.context() as patch:
        patch.setattr("sparsify_cli.stages.finetune._fits", lambda *_: 1 / 0)
        said = run(f"{line} --out run")
    assert said.code == 1 and "ZeroDivisionError" in said.sentence and "sparsify train --resume run" in said.sentence
    assert run("train --resume run").code == 0
    assert weights("run") == weights("whole")


def test_what_fails_after_an_early_stop_does_not_train_on(here: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The state says that training was over: resumed, not a step more is taken."""
    line = "train --arch mlp --data digits --epochs 30 --patience 1 --lr 0.5 --schedule constant --save-every 100ep"
    assert run(f"{line} --out whole").code == 0
    with monkeypatch.context() as patch:
        patch.setattr("sparsify_cli.stages.finetune._fits", lambda *_: 1 / 0)
        assert "--resume run" in run(f"{line} --out run").sentence
    assert run("train --resume run").code == 0
    assert weights("run") == weights("whole") and len(facts("run")["history"]) == len(facts("whole")["history"]) < 30


def test_a_changed_recipe_is_refused_or_forced(here: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """--resume with another flag says what it was; --force-recipe goes on under it, and remembers it."""
    assert stopped(run, monkeypatch, f"finetune {PRUNED} {LONG} --out run").code == 130
    said = run("finetune --resume run --lr 0.01 --epochs 4")
    assert said.code == 2
    assert "--lr (was 0.05)" in said.sentence and "--epochs (was 8)" in said.sentence and "--force-recipe" in said.sentence
    for fixed in ("--model other", "--regime gmp", "--optimizer adamw"):
        assert run(f"finetune --resume run {fixed} --force-recipe").code == 2
    assert run("finetune --resume run --lr 0.01 --epochs 4 --force-recipe").code == 0
    recipe = json.loads(Path("run/manifest.json").read_text())["recipe"]
    assert (recipe["lr"], recipe["epochs"]) == (0.01, 4)
    assert len(facts("run")["history"]) == 4
