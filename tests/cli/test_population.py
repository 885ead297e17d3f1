"""Several seeds of one network in a report, and answers that are kept from one command to the next."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch

from sparsify_cli.stages import known_answers
from sparsify_cli.stages.measure import predict
from sparsify_cli.stages.subject import Subject, open_path
from tests.cli.conftest import Run

CODE = """
from torch import nn

def net():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 10))
"""
CONTEXT = "--arch net.py:net --data digits"


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A folder with three seeds of a network, pruned."""
    from sparsify_cli.cli.app import main

    folder = tmp_path_factory.mktemp("population")
    (folder / "net.py").write_text(CODE)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for seed in range(3):
            assert main(f"train {CONTEXT} --epochs 3 --seed {seed} --out dense{seed} --format quiet".split()) == 0
            assert main(f"prune dense{seed} --sparsity 0.9 --out pruned{seed} --format quiet".split()) == 0
    return folder


@pytest.fixture(autouse=True)
def _inside(trained, tmp_path, monkeypatch):
    """Run beside a copy of the networks, with a cache of its own."""
    shutil.copytree(trained, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def number(folder: str, name: str, of: str = "compressed") -> float:
    """A number about all samples from a report."""
    stage = json.loads(Path(folder, "report.json").read_text())["stages"][-1]["report"]["findings"]
    [value] = [f["value"] for f in stage if (f["name"], f["of"], f["scope"]) == (name, of, "all")]
    return value


def accuracy(path: str) -> float:
    """Of one network, by hand."""
    subject = open_path(Path(path))
    return float(predict(subject.module(), subject.samples("test")).correct.double().mean())


def test_numbers_are_means_over_seeds(run: Run):
    """Of the networks, of their dense ancestors, and of the changes; said in a note."""
    said = run("report pruned0 --population pruned1 --population pruned2 --out page")
    assert said.code == 0 and "numbers are means over 3 networks and 3 dense ones" in said.err
    now, before = (sum(accuracy(f"{kind}{seed}") for seed in range(3)) / 3 for kind in ("pruned", "dense"))
    assert number("page", "accuracy") == pytest.approx(now) and number("page", "accuracy", "dense") == pytest.approx(before)
    assert number("page", "accuracy", "change") == pytest.approx(now - before)
    assert "not of seeds" in Path("page/report.html").read_text()


def test_exemplars_are_those_of_the_population(run: Run):
    """Samples whose usual answer changed, counted by hand over three a side."""
    assert run("report pruned0 --population pruned1 --population pruned2 --out page").code == 0
    usual = []
    for kind in ("dense", "pruned"):
        subjects = [open_path(Path(f"{kind}{seed}")) for seed in range(3)]
        seen = [predict(one.module(), one.samples("test")) for one in subjects]
        votes = torch.stack([torch.bincount(column, minlength=10) for column in torch.stack([one.labels for one in seen]).T])
        usual.append((votes + sum(one.probabilities for one in seen) / 6).argmax(dim=1))
    assert number("page", "exemplars") == float((usual[0] != usual[1]).sum())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--population pruned0", "in the population already"),
        ("--population dense1", "dense1 has no pruned weights"),
        ("--population nothing", "no file or artifact"),
        ("--population net.py", ""),
        ("--population pruned1 --forecast", "Leave one of them out"),
    ],
)
def test_what_is_no_population(run: Run, words: str, said: str):
    """Itself, nothing, and no network: one sentence each."""
    told = run(f"report pruned0 {words} --out page")
    assert told.code == 2 and said in told.sentence and not Path("page").exists()


def test_a_relative_is_no_other_seed(run: Run):
    """Of the same dense network pruned anew: averaged as asked, and said."""
    assert run("prune dense0 --sparsity 0.9 --criterion random --out again").code == 0
    assert "it is no other seed" in run("report pruned0 --population again --out page").err


@pytest.mark.slow
def test_another_sparsity_is_named(run: Run):
    """It is averaged as asked, and said."""
    assert run("prune dense1 --sparsity 0.5 --out other").code == 0
    assert "not the same network" in run("report pruned0 --population other --out page").err


def counted(monkeypatch) -> list[int]:
    """Samples that are predicted from now on, a number for each pass."""
    passes: list[int] = []
    monkeypatch.setattr(known_answers, "predict", lambda module, some: (passes.append(len(some)), predict(module, some))[1])
    return passes


@pytest.mark.slow
def test_a_second_report_computes_one_batch(run: Run, monkeypatch):
    """The answers of both networks are read; the numbers are the same."""
    assert run("report pruned0 --out first").code == 0
    passes = counted(monkeypatch)
    assert run("report pruned0 --out second").code == 0
    assert passes == [64, 64] and number("first", "nll") == number("second", "nll")


def test_changed_code_is_seen(monkeypatch):
    """The same weights under the same name, another network: the first batch tells, and everything is computed."""
    subject = open_path(Path("pruned0"))
    samples, module = subject.samples("test"), subject.module()
    known_answers.predicted(subject, samples)
    module[2] = torch.nn.Tanh()
    monkeypatch.setattr(Subject, "module", lambda _: module)
    assert torch.equal(known_answers.predicted(subject, samples).logits, predict(module, samples).logits)


def test_damaged_answers_are_computed_anew(run: Run, monkeypatch):
    """As are those of other weights; with SPARSIFY_CACHE=off nothing is kept."""
    assert run("validate pruned0").code == 0
    [file] = Path(os.environ["XDG_CACHE_HOME"], "sparsify").glob("*.safetensors")
    file.write_bytes(b"damaged")
    assert run("validate pruned0").code == 0 and file.stat().st_size > 1000
    monkeypatch.setenv("SPARSIFY_CACHE", "off")
    assert run("validate pruned1").code == 0 and len(list(file.parent.iterdir())) == 1


@pytest.mark.slow
def test_a_full_cache_forgets_the_oldest(run: Run, monkeypatch):
    """What was not used for longest goes."""
    monkeypatch.setattr(known_answers, "MOST", 30_000)
    for seed in range(3):
        assert run(f"validate pruned{seed}").code == 0
    left = list(Path(os.environ["XDG_CACHE_HOME"], "sparsify").glob("*.safetensors"))
    assert 1 <= len(left) < 3


@pytest.mark.slow
def test_every_column_is_compared_with_the_same_dense_networks(run: Run):
    """A network beside the subject: its change is its number less the one in the dense column."""
    assert run("report pruned0 --population pruned1 --also pruned2 --out page").code == 0
    stages = json.loads(Path("page/report.json").read_text())["stages"]
    found = [{(f["name"], f["of"], f["scope"]): f["value"] for f in stage["report"]["findings"]} for stage in stages]
    dense = found[0]["accuracy", "compressed", "all"]
    for one in found[1:]:
        assert one["accuracy", "change", "all"] == pytest.approx(one["accuracy", "compressed", "all"] - dense)


def test_a_home_that_may_not_be_read(run: Run, monkeypatch):
    """Nothing is kept, and nothing fails."""
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("nobody")))
    assert run("validate pruned0").code == 0


def test_answers_to_training_samples_are_not_kept(run: Run):
    """Some may have to be forgotten."""
    assert run("validate pruned0 --split train").code == 0
    assert not list(Path(os.environ["XDG_CACHE_HOME"]).rglob("*.safetensors"))
