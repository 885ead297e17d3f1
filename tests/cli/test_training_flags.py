"""What the flags of training do, from the command line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import sparsify_cli
from tests.cli.conftest import NAMES, Run

PRUNED, DENSE = f"runs/{NAMES['pruned']}", f"runs/{NAMES['dense']}"


def number(folder: str, name: str) -> float:
    """One of an artifact's numbers."""
    found = json.loads(Path(folder, "manifest.json").read_text())["numbers"]
    return float(next(one["value"] for one in found if one["name"] == name and one["of"] == "compressed"))


def events(folder: str) -> list[dict[str, Any]]:
    """The lines of its log."""
    return [json.loads(line) for line in Path(folder, "training.jsonl").read_text().splitlines()]


def test_acdc_leaves_both_networks(here: Path, run: Run) -> None:
    """The sparse one is exactly as sparse as asked, the dense one beside it validates; the log has the phases, the note the warning."""
    said = run("train --arch mlp --data digits --epochs 10 --regime acdc --sparsity 0.9 --allocation uniform --out both")
    assert said.code == 0
    assert number("both", "sparsity") == pytest.approx(0.9, abs=1e-3)
    assert "the shortest phase" in said.err and "others/dense.safetensors" in said.err
    dense = sparsify_cli.load("both/others/dense.safetensors")
    sparse = sparsify_cli.load("both")
    assert all(3 * int((sparse[name] != 0).sum()) < int((tensor != 0).sum()) for name, tensor in dense.items() if tensor.ndim == 2)
    kinds = [event["event"] for event in events("both")]
    assert kinds.count("compressed") > 2 and kinds.count("epoch") == 10
    assert 0.3 < number("both", "training_macs_share") < 0.9
    assert run("validate both/others/dense.safetensors --arch mlp --data digits").code == 0


def test_regimes_that_prune_nothing_leave_the_masks(here: Path, run: Run) -> None:
    """Sam keeps a pruned network's zeros; cram-plus wants to know for which sparsity and leaves the network dense."""
    assert run(f"finetune {PRUNED} --epochs 1 --regime sam --out flat").code == 0
    assert number("flat", "sparsity") == pytest.approx(number(PRUNED, "sparsity"))
    assert run(f"finetune {DENSE} --epochs 1 --regime cram-plus --out none").code == 2
    assert run(f"finetune {DENSE} --epochs 1 --regime cram-plus --sparsity 0.8 --out ready").code == 0
    assert number("ready", "sparsity") < 0.01
    said = run(f"finetune {PRUNED} --epochs 1 --regime sam --sparsity 0.9 --out no")
    assert said.code == 2 and "keeps the masks as they are" in said.sentence


def test_the_best_epoch_is_kept_and_patience_ends(here: Path, run: Run) -> None:
    """With a rate that ruins the network the best is an early epoch, and training ends when patience does."""
    said = run(f"finetune {PRUNED} --epochs 9 --lr 0.6 --schedule constant --warmup 0run --keep best --patience 2 --out best")
    assert said.code == 0
    log = events("best")
    epochs = [event for event in log if event["event"] == "epoch"]
    best = max(event["accuracy"] for event in epochs)
    assert [event["accuracy"] for event in epochs].index(best) == len(epochs) - 3 or len(epochs) == 9
    assert log[-1]["event"] == "stopped" or len(epochs) == 9
    validated = run("validate best --split validation --format json")
    found = json.loads(validated.out)
    accuracy = next(one["value"] for one in found["findings"] if one["name"] == "accuracy" and one["scope"] == "all")
    assert accuracy == pytest.approx(best)


@pytest.mark.parametrize("regime", ["ssl --set regime.lam=0.5", "acdc --sparsity 0.9"])
def test_patience_waits_for_the_last_phase(here: Path, run: Run, regime: str) -> None:
    """A network in the middle of its schedule is no result: training ends early in the last phase at most, and the best is of it."""
    line = "train --arch mlp --data digits --epochs 12 --lr 0.4 --schedule constant --keep best --patience 1"
    assert run(f"{line} --regime {regime} --out short").code == 0
    log = events("short")
    last = max(event["step"] for event in log if event["event"] in ("compressed", "zero groups frozen"))
    total = 12 * max(event["step"] for event in log if event["event"] == "epoch") // len([e for e in log if e["event"] == "epoch"])
    assert last >= 0.7 * total and Path("short/masks.safetensors").is_file()
    assert all(event["step"] > last for event in log if event["event"] == "stopped")
    assert Path("short/others/dense.safetensors").is_file() == regime.startswith("acdc")


def test_a_loss_of_ones_own(here: Path, run: Run) -> None:
    """file.py:callable is minimised; one that returns no number, or takes options, is refused with a sentence."""
    Path("loss.py").write_text(
        "from torch.nn import functional\n"
        "def smooth(model, batch):\n    return functional.cross_entropy(model(batch.inputs), batch.targets, label_smoothing=0.3)\n"
        "def many(model, batch):\n    return model(batch.inputs)\n"
        "def flat(model, batch):\n    return model(batch.inputs).detach().mean()\n"
    )
    shelf = "--objective cross-entropy --set objective.label_smoothing=0.3"
    for flags, out in (("--objective loss.py:smooth", "own"), (shelf, "shelf")):
        assert run(f"finetune {PRUNED} --epochs 1 {flags} --out {out}").code == 0
    own, theirs = sparsify_cli.load("own"), sparsify_cli.load("shelf")
    assert all(torch.equal(own[name], theirs[name]) for name in own)
    assert "returned" in run(f"finetune {PRUNED} --epochs 1 --objective loss.py:many --out no").sentence
    assert "does not depend on the network" in run(f"finetune {PRUNED} --epochs 1 --objective loss.py:flat --out no").sentence
    assert run(f"finetune {PRUNED} --epochs 1 --objective loss.py:none --out no").code == 2
    assert run(f"finetune {PRUNED} --epochs 1 --objective loss.py:smooth --set objective.weight=1 --out no").code == 2


def test_a_teacher_of_another_architecture(here: Path, run: Run) -> None:
    """A plain checkpoint teaches with its architecture named; without it, or without a teacher, a sentence says which flag is missing."""
    assert run("train --arch cnn --data digits --epochs 1 --out big").code == 0
    shutil.copy("big/model.safetensors", "big.safetensors")
    line = "train --arch mlp --data digits --epochs 1 --objective distill --out"
    assert run(f"{line} named --teacher big.safetensors --teacher-arch cnn").code == 0
    assert run(f"{line} known --teacher big").code == 0
    one, other = sparsify_cli.load("named"), sparsify_cli.load("known")
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert "--teacher-arch" in run(f"{line} no --teacher big.safetensors").sentence
    assert "--teacher MODEL" in run(f"{line} no --teacher-arch cnn").sentence
    assert "'deep'" in run(f"{line} no --teacher big.safetensors --teacher-arch deep").sentence


def test_distillation_says_what_the_teacher_does(here: Path, run: Run) -> None:
    """Correlation, beta, weights and the share that is used are in the manifest; `auto` uses the recommended one."""
    said = run(f"finetune {PRUNED} --epochs 1 --objective distill --distill-weight auto --weight-decay 0.05 --out auto")
    assert said.code == 0 and "correlate" in said.err
    used, best = number("auto", "distill_weight"), number("auto", "distill_best_weight")
    assert used == pytest.approx(min(1.0, max(0.0, best))) and -1 <= number("auto", "distill_correlation") <= 1
    assert run(f"finetune {PRUNED} --epochs 1 --objective distill --distill-weight 0.25 --out fixed").code == 0
    assert number("fixed", "distill_weight") == 0.25
    assert run(f"finetune {PRUNED} --epochs 1 --distill-weight 0.25 --out no").code == 2
    assert run(f"finetune {PRUNED} --epochs 1 --objective distill --distill-weight much --out no").code == 2
    assert run(f"finetune {PRUNED} --epochs 1 --objective distill --distill-weight 2 --out no").code == 2


def test_a_warm_up_longer_than_the_run_is_told(here: Path, run: Run) -> None:
    """Its rate would never be the one that was asked for."""
    assert "never reaches --lr" in run(f"finetune {PRUNED} --epochs 1 --warmup 5ep --out long").err
    assert "never reaches" not in run(f"finetune {PRUNED} --epochs 2 --warmup 1ep --out short").err


def test_what_training_was_given_is_told(here: Path, run: Run) -> None:
    """Accuracy before beside the dense ancestor's, where no more is pruned; a warning only where training lost some of it."""
    before = f"{100 * number(PRUNED, 'accuracy'):.1f} %"
    good, bad = (run(f"finetune {PRUNED} --epochs 1 --lr {rate} --out {out}") for rate, out in ((1e-6, "good"), (9.0, "bad")))
    assert f"before training {before}" in good.out and "fell" not in good.err
    assert number("bad", "accuracy") < number(PRUNED, "accuracy") - 0.02 and f"fell from {before}" in bad.err
    more = run(f"finetune {PRUNED} --epochs 1 --regime gmp --sparsity 0.97 --out more")
    assert more.code == 0 and "before training" not in more.out


def test_a_teacher_of_other_samples(here: Path, run: Run) -> None:
    """Exit 2 and what its layers said."""
    rows = {
        f"{name}_{split}": values
        for split in ("train", "test")
        for name, values in (("x", np.ones((40, 5), "f4")), ("y", np.arange(40) % 2))
    }
    np.savez("other.npz", **rows)
    assert run("train --arch mlp --arch-arg inputs=5 --data npz:other.npz --epochs 1 --out other").code == 0
    for objective in ("distill", "distill-features"):
        said = run(f"finetune {PRUNED} --epochs 1 --objective {objective} --teacher other --out no")
        assert said.code == 2 and "The teacher does not take the samples: " in said.sentence


def test_oneself_as_a_teacher_and_features(here: Path, run: Run) -> None:
    """`--teacher self` needs no ancestor; features of an ancestor of the same shape are learnt from."""
    assert run(f"finetune {PRUNED} --epochs 1 --objective distill --teacher self --out self").code == 0
    assert run(f"finetune {PRUNED} --epochs 1 --objective distill-features --out features").code == 0
    said = run(f"finetune {PRUNED} --epochs 1 --objective distill-features --set objective.layers=nope --out no")
    assert said.code == 2 and "nope" in said.sentence


def test_images_are_augmented_and_vectors_are_not(here: Path, run: Run) -> None:
    """crop-flip changes what is trained on, without changing what is measured; samples that are no images are refused."""
    for flag in ("none", "crop-flip"):
        assert run(f"finetune {PRUNED} --epochs 1 --augment {flag} --out {flag}").code == 0
    plain, other = sparsify_cli.load("none"), sparsify_cli.load("crop-flip")
    assert not all(torch.equal(plain[name], other[name]) for name in plain)
    x = np.random.default_rng(0).normal(size=(60, 5)).astype("float32")
    np.savez("flat.npz", x_train=x, y_train=(x[:, 0] > 0).astype("int64"), x_test=x, y_test=(x[:, 0] > 0).astype("int64"))
    said = run("train --arch mlp --arch-arg inputs=5 --arch-arg classes=2 --data npz:flat.npz --epochs 1 --augment flip --out no")
    assert said.code == 2


def test_under_training_is_said(here: Path, run: Run) -> None:
    """A sparse network after one epoch at a tiny rate fits its own training samples worse than its dense ancestor: a note says so."""
    said = run(f"finetune {DENSE} --epochs 2 --regime gmp --sparsity 0.97 --lr 0.0005 --out short")
    assert said.code == 0 and "under-trained" in said.err
    assert number("short", "train_nll") > 0.05


def test_a_teacher_of_another_shape_is_refused(here: Path, run: Run) -> None:
    """A teacher with other outputs is one sentence, before any training."""
    assert run("train --arch mlp --arch-arg classes=12 --data digits --epochs 1 --out twelve").code == 0
    said = run(f"finetune {PRUNED} --epochs 1 --objective distill --teacher twelve --out no")
    assert said.code == 2 and "12 outputs, the model 10" in said.sentence
    assert not Path("no").exists()


def test_a_damaged_log_costs_nothing(here: Path, run: Run) -> None:
    """A report of an artifact whose log is somebody else's shows what is sound of it."""
    assert run(f"finetune {PRUNED} --epochs 2 --out tuned").code == 0
    lines = (
        '{"event": "epoch", "step": "x", "accuracy": null, "sparsity": []}',
        "[1]",
        '{"mask_change": "much", "step": 3}',
        '{"event": "epoch"}',
    )
    with Path("tuned/training.jsonl").open("a") as file:
        file.write("\n".join(lines))
    assert run("report tuned --out page").code == 0
    assert "Training" in Path("page/report.html").read_text()


def test_movement_counts_each_step_under_its_own_masks(here: Path, run: Run) -> None:
    """Its multiply-adds are those of the climb, step by step: (2 f_S + f_D) / 3 f_D while scores are learnt, f_S / f_D afterwards."""
    line = "train --arch mlp --data digits --epochs 2 --batch-size 32 --sparsity 0.9 --allocation uniform --out moved"
    assert run(f"{line} --regime movement --set regime.begin=4it --set regime.end=40it --set regime.until=60it").code == 0
    total = json.loads(Path("moved/manifest.json").read_text())["facts"]["history"][-1]["step"]
    climb = [0.9 * (1 - (1 - min(1.0, max(0, step - 4) / 36)) ** 3) for step in range(total)]
    meant = sum((2 * (1 - s) + 1) / 3 if step < 60 else 1 - s for step, s in enumerate(climb)) / total
    assert number("moved", "training_macs_share") == pytest.approx(meant, abs=0.01)


def test_how_often_the_rate_was_put_back_is_told(here: Path, run: Run) -> None:
    """Iterative pruning with several rounds an epoch: the log counts them although epochs do not show them; a warm-up is none."""
    line = (
        "train --arch mlp --data digits --epochs 4 --sparsity 0.8 --regime imp --set regime.rewind=rate --set regime.drop=0.4 --out rounds"
    )
    assert run(line).code == 0
    assert [event for event in events("rounds") if event["event"] == "epoch"][-1]["rewinds"] == 4
    assert run("train --arch mlp --data digits --epochs 2 --out plain").code == 0
    assert all(event.get("rewinds", 0) == 0 for event in events("plain"))


@pytest.mark.parametrize(("schedule", "warmup"), [("cosine", "0.2run"), ("cosine", "0it"), ("constant", "5it"), ("multi-step", "0.1run")])
def test_a_climb_counts_once(here: Path, run: Run, schedule: str, warmup: str) -> None:
    """Two rounds put the rate back twice, however many steps it climbs; its first climb is no rewind."""
    line = f"train --arch mlp --data digits --epochs 6 --sparsity 0.75 --regime imp --set regime.drop=0.5 --schedule {schedule}"
    assert run(f"{line} --warmup {warmup} --out rounds").code == 0
    assert [event for event in events("rounds") if event["event"] == "epoch"][-1]["rewinds"] == 2


def test_half_precision_resumes_and_says_what_overflows(here: Path, run: Run) -> None:
    """Numbers beyond float16 are one sentence that names another precision."""
    assert run("train --arch mlp --data digits --epochs 1 --precision 16-mixed --out half").code == 0
    inputs = 1e5 * torch.randn(64, 64)
    np.savez(
        "big.npz", **{f"{kind}_{split}": value for split in ("train", "test") for kind, value in (("x", inputs), ("y", np.arange(64) % 10))}
    )
    said = run("train --arch mlp --data npz:big.npz --epochs 1 --precision 16-mixed --out not")
    assert said.code == 1 and "bf16-mixed" in said.sentence


def test_batch_norm_is_measured_anew_where_that_helps(here: Path, run: Run) -> None:
    """After training the statistics are those of many samples if validation loss says so; weights are the same bits either way."""
    line = "train --arch cnn --data digits --epochs 2 --lr 0.02"
    assert run(f"{line} --out plain").code == 0
    said = run(f"{line} --batchnorm --out exact")
    assert said.code == 0 and "batch-norm statistics: mean cross-entropy on validation data as saved" in said.err
    plain, exact = (load_file(f"{name}/model.safetensors") for name in ("plain", "exact"))
    moved = {name for name, tensor in plain.items() if not torch.equal(tensor, exact[name])}
    chosen = {one["name"]: one["value"] for one in json.loads(Path("exact/manifest.json").read_text())["numbers"]}
    falls = chosen["batchnorm_loss_after"] < chosen["batchnorm_loss_before"]
    assert moved == (
        {name for name in plain if name.rpartition(".")[2] in ("running_mean", "running_var", "num_batches_tracked")} if falls else set()
    )


def test_adam_and_adamw(here: Path, run: Run) -> None:
    """Without decay they are one; with it, adam divides it by the size of the gradient as well."""
    line = "train --arch mlp --data digits --epochs 1 --lr 0.01 --format quiet"
    flags = {f"{one}-{decay}": f"--optimizer {one} --weight-decay {decay}" for one in ("adam", "adamw") for decay in ("0", "0.1")}
    assert [run(f"{line} {words} --out {name}").code for name, words in flags.items()] == [0] * 4
    found = {name: sparsify_cli.load(name) for name in flags}
    assert all(torch.equal(value, found["adamw-0"][name]) for name, value in found["adam-0"].items())
    norms = {name: sum(float(one.norm()) for one in state.values()) for name, state in found.items()}
    assert norms["adam-0.1"] < 0.8 * norms["adamw-0.1"] and norms["adamw-0.1"] < norms["adamw-0"]
