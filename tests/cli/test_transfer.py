"""`finetune --transfer` and `transfer`, from the command line: another task on digits, and tables that are none."""

from __future__ import annotations

import json
from contextlib import contextmanager
from pathlib import Path

import pytest

from sparsify_cli.cli.app import main
from sparsify_cli.stages.subject import open_path
from sparsify_cli.stages.training_log import read_log
from sparsify_cli.training import loop
from sparsify_cli.values.mask_set import MaskSet

PART = """
from sparsify_cli.datasets.digits import Digits

def part(split, low=0, high=5):
    samples = Digits().load(split)
    there = samples.take(((samples.targets >= low) & (samples.targets < high)).nonzero().flatten())
    return {"x": there.inputs, "y": there.targets - low}
"""


def numbers(folder):
    """Numbers of an artifact's manifest by name."""
    found = json.loads((Path(folder) / "manifest.json").read_text())["numbers"]
    return {one["name"]: one["value"] for one in found if (one["of"], one["scope"]) == ("compressed", "all")}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with a network of digits 0 to 4, dense (`up`) and at 80 % (`up80`)."""
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        (folder / "parts.py").write_text(PART)
        train = "train --arch cnn --arch-arg classes=5 --arch-arg width=4 --data parts.py:part --epochs 4 --out up --format quiet"
        assert main(train.split()) == 0
        assert main(["prune", "up", "--sparsity", "0.8", "--out", "up80", "--format", "quiet"]) == 0
    return folder


def moved(model, part, out, more=""):
    """Digits 4 to 9."""
    task = "--data parts.py:part --data-arg low=4 --data-arg high=10"
    return main(f"finetune {model} --transfer {part} {task} --epochs 5 --out {out} --format quiet {more}".split())


@pytest.fixture(scope="module")
def results(home):
    """Folders of both networks on the other task, both parts trained."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        for part in ("linear", "full"):
            for model in ("up", "up80"):
                assert moved(model, part, f"{model}-{part}") == 0
    return home


def test_all_of_the_backbone_stays_where_only_the_classifier_is_trained(results):
    """Linear: weights, buffers and masks of all other layers are those of the network; full: zeros stay, weights do not."""
    before, linear, full = (open_path(results / name) for name in ("up80", "up80-linear", "up80-full"))
    for name, tensor in before.checkpoint.tensors.items():
        if not name.startswith("fc."):
            assert linear.checkpoint.tensors[name].equal(tensor), name
    assert linear.checkpoint.tensors["fc.weight"].shape == (6, 16)
    backbone = MaskSet({name: mask for name, mask in before.masks.items() if name != "fc.weight"})
    assert linear.masks == full.masks == backbone
    assert all(not full.checkpoint.tensors[name][~mask].any() for name, mask in full.masks.items())
    assert not full.checkpoint.tensors["conv2.weight"].equal(before.checkpoint.tensors["conv2.weight"])


def test_it_learns(results):
    """All four are far above a sixth; sparsity told is the backbone's."""
    for name in ("up-linear", "up80-linear", "up-full", "up80-full"):
        assert numbers(results / name)["accuracy"] > 0.5, name
    assert numbers(results / "up80-full")["sparsity"] > 0.75
    assert "training_macs_share" not in numbers(results / "up80-linear")  # of the classifier alone it would say nothing


@pytest.mark.slow
def test_later_verbs_take_it(results, monkeypatch, capsys):
    """validate, finetune and export know the classifier; a report asks for a dense network of this task."""
    monkeypatch.chdir(results)
    assert main(["validate", "up80-full", "--format", "quiet"]) == 0
    assert main(["finetune", "up80-full", "--epochs", "1", "--out", "again", "--format", "quiet"]) == 0
    assert main(["export", "up80-full", "--to", "onnx", "--out", "onnx", "--format", "quiet"]) == 0
    capsys.readouterr()
    assert main(["report", "up80-full", "--format", "quiet"]) == 2
    assert "trained for another task" in capsys.readouterr().err
    assert main(["report", "up80-full", "--dense", "up-full", "--out", "page", "--format", "quiet"]) == 0


def test_resumed_as_if_never_stopped(results, monkeypatch):
    """A probe that is stopped and resumed ends bit for bit as one that was not."""
    monkeypatch.chdir(results)
    steps = iter(range(10_000))

    @contextmanager
    def stopping():
        with loop.interruptible():
            yield lambda: next(steps) >= 7

    monkeypatch.setattr("sparsify_cli.stages.training_run.interruptible", stopping)
    assert moved("up80", "linear", "stopped") == 130
    monkeypatch.undo()
    monkeypatch.chdir(results)
    assert main(["finetune", "--resume", "stopped", "--format", "quiet"]) == 0
    whole, parts = open_path(results / "up80-linear"), open_path(results / "stopped")
    assert all(parts.checkpoint.tensors[name].equal(tensor) for name, tensor in whole.checkpoint.tensors.items())
    assert read_log(results / "stopped") == read_log(results / "up80-linear")  # stopped in the middle of an epoch


def test_told_beside_the_dense_network(results, monkeypatch, capsys):
    """One row a part, the change of error as the accuracies have it."""
    monkeypatch.chdir(results)
    capsys.readouterr()
    assert main(["transfer", "up-linear", "up80-linear", "up-full", "up80-full", "--format", "json"]) == 0
    told = json.loads(capsys.readouterr().out)
    of = {one["scope"].rsplit(" ", 1)[1]: one["value"] for one in told["findings"]}
    for part in ("linear", "full"):
        dense, sparse = (1 - numbers(results / f"{model}-{part}")["accuracy"] for model in ("up", "up80"))
        assert of[part] == pytest.approx((sparse - dense) / dense)


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("task,model,sparsity\na,b,0\n", "no column accuracy"),
        ("task,model,sparsity,accuracy\na,b,0,x\n", "Line 2"),
        ("task,model,sparsity,accuracy\na,b,0,0.5\na,c,0.5,75\n", "outside [0, 1]"),
        ("task,model,sparsity,accuracy\na,b,0.5,0.5\n", "dense network"),
        ("task,model,sparsity,accuracy\na,b,0,1.0\na,c,0.5,0.9\n", "no error on a"),
        ("task,model,sparsity,accuracy\na,b,0,0.5\nz,c,0.5,0.9\n", "on a task of the dense one"),
        ("", "no column task"),
        ("sparsity,accuracy,task,model\n0,0.6,a\n", "names no task or no model"),
        ("task,model,sparsity,accuracy\n\xe9,b,0,0.5\n", "UTF-8"),
    ],
)
def test_tables_that_are_none(tmp_path, capsys, table, said):
    """One sentence, the code of a malformed request, no traceback."""
    file = tmp_path / "results.csv"
    file.write_bytes(table.encode("latin-1"))
    assert main(["transfer", "--results", str(file)]) in (1, 2)
    error = capsys.readouterr().err
    assert said in error and "Traceback" not in error


def test_artifacts_that_are_none(home, monkeypatch, capsys):
    """One that was not made for another task, and nothing at all."""
    monkeypatch.chdir(home)
    assert main(["transfer", "up80"]) == 2
    assert "not made for another task" in capsys.readouterr().err
    assert main(["transfer"]) == 2
    assert "needs results" in capsys.readouterr().err


def test_data_the_network_does_not_take(home, monkeypatch, capsys):
    """Named before anything is trained."""
    monkeypatch.chdir(home)
    (home / "wrong.py").write_text("import torch\ndef part(split):\n    return {'x': torch.zeros(4, 7), 'y': torch.arange(4)}\n")
    assert main(["finetune", "up80", "--transfer", "full", "--data", "wrong.py:part", "--out", "no", "--format", "quiet"]) == 2
    assert "does not take the data" in capsys.readouterr().err
    assert not (home / "no").exists()


def table(folder, *rows):
    """A CSV file; with a byte-order mark, as spreadsheets write it."""
    file = folder / "results.csv"
    file.write_text("task,model,sparsity,accuracy\n" + "\n".join(rows) + "\n", encoding="utf-8-sig")
    return str(file)


def told(capsys, *words):
    """What `transfer` says, as JSON: changes by network, and notes."""
    capsys.readouterr()
    assert main(["transfer", *words, "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    return {one["scope"].removeprefix("model:"): one for one in found["findings"]}, found["notes"]


def test_compared_with_the_dense_network_of_its_own_model(tmp_path, capsys):
    """Whatever the order of rows; without one of its own, with the mean of all, and a note says so."""
    rows = ["a,net,0,0.6", "a,other,0,0.9", "a,net,0.8,0.5", "a,third,0.8,0.5"]
    for order in (rows, rows[::-1]):
        found, notes = told(capsys, "--results", table(tmp_path, *order))
        assert found["net 80%"]["value"] == pytest.approx(0.25) and found["third 80%"]["value"] == pytest.approx(1.0)
        assert found["net 80%"]["low"] is None  # one task has no standard error
        assert len(notes) == 1 and notes[0].startswith("third 80%")


def test_counts_that_round_differently_are_one_network(tmp_path, capsys):
    """0.8 and 0.80002 of two tasks are one row; a perfect dense network on a task of nobody does no harm."""
    rows = ["a,net,0,0.6", "b,net,0,0.6", "c,net,0,1.0", "a,net,0.8,0.5", "b,net,0.80002,0.7"]
    found, _ = told(capsys, "--results", table(tmp_path, *rows))
    assert list(found) == ["net 80%"] and found["net 80%"]["n"] == 2


def test_artifacts_are_compared_with_their_own_ancestor(results, monkeypatch, capsys):
    """A dense network from elsewhere comes first and last, and changes nothing."""
    monkeypatch.chdir(results)
    train = (
        "train --arch cnn --arch-arg classes=5 --arch-arg width=4 --data parts.py:part --epochs 1 --seed 5 --out stranger --format quiet"
    )
    assert main(train.split()) == 0 and moved("stranger", "full", "stranger-full") == 0
    orders = (["stranger-full", "up-full", "up80-full"], ["up-full", "up80-full", "stranger-full"])
    values = [next(iter(told(capsys, *order)[0].values()))["value"] for order in orders]
    dense, sparse = (1 - numbers(results / f"{model}-full")["accuracy"] for model in ("up", "up80"))
    assert values == [pytest.approx((sparse - dense) / dense)] * 2
    _, notes = told(capsys, "stranger-full", "up80-full")
    assert "none of them is what it descends from" in notes[0]


def test_the_new_classifier_is_not_pruned(results, monkeypatch):
    """A regime that prunes leaves it dense; an average is a whole network."""
    monkeypatch.chdir(results)
    assert moved("up80", "full", "pruned", "--regime gmp --sparsity 0.9") == 0
    pruned = open_path(results / "pruned")
    assert "fc.weight" not in pruned.masks and (pruned.checkpoint.tensors["fc.weight"] != 0).all()
    assert moved("up80", "linear", "averaged", "--average 0.9") == 0
    state = open_path(results / "averaged" / "others" / "average.safetensors").checkpoint.tensors
    assert set(state) == set(open_path(results / "averaged").checkpoint.tensors)


def test_formats(results, monkeypatch, capsys):
    """A file of somebody else: with as many classes as before it keeps its kind, otherwise a note says that it cannot."""
    import torch

    monkeypatch.chdir(results)
    state = dict(open_path(results / "up").checkpoint.tensors)
    torch.save({"state_dict": state, "epoch": 7}, "theirs.pt")
    flags = "--arch cnn --arch-arg classes=5 --arch-arg width=4"
    task = "--transfer full --data parts.py:part --epochs 1 --format quiet"
    assert main(f"finetune theirs.pt {flags} {task} --data-arg low=5 --data-arg high=10 --out five".split()) == 0
    assert torch.load("five/theirs.pt", weights_only=True)["epoch"] == 7
    capsys.readouterr()
    assert (
        main(f"finetune theirs.pt {flags} {task.removesuffix(' --format quiet')} --data-arg low=4 --data-arg high=10 --out six".split())
        == 0
    )
    said = capsys.readouterr()
    assert "written as safetensors" in said.out + said.err and (results / "six/model.safetensors").exists()


def test_what_a_resumed_run_cannot_change(results, monkeypatch, capsys):
    """Part, classifier and precision are those it began with."""
    monkeypatch.chdir(results)
    for flag in ("--transfer full", "--head fc", "--precision 16-mixed"):
        assert main(f"finetune --resume up80-linear --force-recipe {flag}".split()) == 2
        assert "cannot change in a run that is resumed" in capsys.readouterr().err


def test_what_is_averaged_and_left_out_is_told(results, monkeypatch, capsys):
    """Runs are counted, once each; other settings, and a task without a dense result, get a note; `full` is no dense `linear`."""
    monkeypatch.chdir(results)
    assert moved("up80", "full", "longer", "--seed 3 --lr 0.01") == 0
    other = "finetune up80 --transfer full --data parts.py:part --data-arg low=6 --data-arg high=9 --epochs 1 --out elsewhere"
    assert main([*other.split(), "--format", "quiet"]) == 0
    found, notes = told(capsys, "up-full", "up80-full", "up80-full", "longer", "elsewhere")
    assert len(found) == 1
    assert any("not trained alike" in note and "lr 0.01, 0.05" in note for note in notes)
    assert any(note.startswith("left out") for note in notes)
    capsys.readouterr()
    assert main(["transfer", "up-full", "up80-full", "up80-full", "longer"]) == 0
    assert capsys.readouterr().out.splitlines()[4].split()[-1] == "2"
    assert main(["transfer", "up-full", "up80-linear"]) == 2
    assert "same part" in capsys.readouterr().err


def test_mistakes_on_the_way_to_another_task(results, monkeypatch, capsys):
    """No data, a layer that is not the last, a network that guesses, classes that do not fit: what to do is said."""
    monkeypatch.chdir(results)
    (results / "two.py").write_text(TWO_LAYERS)
    assert main(["train", "--arch", "two.py:net", "--data", "parts.py:part", "--epochs", "1", "--out", "two", "--format", "quiet"]) == 0
    task = "--data parts.py:part --data-arg low=4 --data-arg high=10 --format quiet"
    for line, code, said in (
        ("finetune up80 --transfer full", 2, "--data"),
        (f"finetune two --transfer full --head 1 {task}", 2, "not the network's classifier"),
        (f"finetune up80 {task}", 2, "--transfer full"),
    ):
        assert main(line.split()) == code, line
        assert said in capsys.readouterr().err
    assert main(f"finetune up80 --transfer full --epochs 1 --lr 5e-6 --out guess {task.removesuffix(' --format quiet')}".split()) == 0
    seen = capsys.readouterr()
    assert "hardly above guessing" in seen.out + seen.err


TWO_LAYERS = """
from torch import nn


def net():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 5))
"""


@pytest.mark.slow
def test_reports_name_strangers(results, monkeypatch, capsys):
    """A dense network of another task, and one that is sparse: numbers are shown, and a note says what they are."""
    monkeypatch.chdir(results)
    capsys.readouterr()
    assert main(["report", "up80-full", "--dense", "up80-linear", "--out", "stranger-page"]) == 0
    seen = capsys.readouterr()
    assert "is sparse itself" in seen.out + seen.err
    other = "finetune up --transfer full --data parts.py:part --data-arg low=0 --data-arg high=6 --epochs 1 --out other-task --format quiet"
    assert main(other.split()) == 0
    capsys.readouterr()
    assert main(["report", "up80-full", "--dense", "other-task", "--out", "other-page"]) == 0
    seen = capsys.readouterr()
    assert "trained on other data" in seen.out + seen.err


def test_the_log_of_a_classifier_tells_the_whole_networks_sparsity_and_the_epochs_loss(results):
    """Sparsity is the backbone's, also on the way; the loss is the mean of the epoch's steps."""
    epochs = [entry for entry in read_log(results / "up80-linear") if entry["event"] == "epoch"]
    assert all(entry["sparsity"] == pytest.approx(numbers(results / "up80-linear")["sparsity"], abs=1e-3) for entry in epochs)
    losses = [entry["loss"] for entry in epochs]
    assert losses[0] > 1.5 * losses[-1]


def test_a_dry_run_tells_the_plan(results, monkeypatch, capsys):
    """Samples, steps, masks, and which layer is replaced by how many outputs; nothing is written; bad requests are found."""
    monkeypatch.chdir(results)
    before = sorted(path.name for path in results.iterdir())
    task = "--data parts.py:part --data-arg low=4 --data-arg high=10 --dry-run"
    assert main(f"finetune up80 --transfer linear {task} --epochs 5".split()) == 0
    said = capsys.readouterr().out
    assert "fc, drawn anew: 5 -> 6 outputs" in said and "it alone" in said and "55 in all" in said
    assert main(f"finetune up80 --transfer full {task} --regime gmp --sparsity 0.9".split()) == 0
    assert "90.00% zeros" in capsys.readouterr().out
    assert main(f"finetune up80 {task}".split()) == 2
    assert sorted(path.name for path in results.iterdir()) == before
