"""Networks that answer with the next token of a text, or with numbers, through every verb that takes them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.cli.conftest import Run

CODE = '''
import torch
from torch import nn

WORDS = 12


class Speaker(nn.Module):
    """Guesses the next token from the one before."""

    def __init__(self):
        super().__init__()
        self.words, self.inside, self.out = nn.Embedding(WORDS, 16), nn.Linear(16, 48), nn.Linear(48, WORDS)

    def forward(self, x):
        return self.out(torch.relu(self.inside(self.words(x))))


def speaker():
    return Speaker()


def texts(split):
    """Each token goes to one of two others, one of them thrice as often; odd texts end early."""
    g = torch.Generator().manual_seed(len(split))
    ids = [torch.randint(WORDS, (240,), generator=g)]
    for _ in range(20):
        ids.append((3 * ids[-1] + 1 + 4 * (torch.rand(240, generator=g) < 0.25)) % WORDS)
    ids = torch.stack(ids, 1)
    y = ids[:, 1:].clone()
    y[1::2, 12:] = -100
    return {"x": ids[:, :-1], "y": y, "groups": {"length": ["short" if i % 2 else "long" for i in range(240)]}}


def forecaster():
    return nn.Sequential(nn.Linear(3, 48), nn.ReLU(), nn.Linear(48, 2))


def numbers(split):
    g = torch.Generator().manual_seed(len(split))
    x = torch.randn(300, 3, generator=g)
    y = torch.stack([x[:, 0] * x[:, 1], (2 * x[:, 2]).sin()], 1) + 0.05 * torch.randn(300, 2, generator=g)
    return {"x": x, "y": y, "groups": {"side": ["left" if v < 0 else "right" for v in x[:, 0].tolist()]}}
'''
SPEAKER = "--arch net.py:speaker --data net.py:texts"
FORECASTER = "--arch net.py:forecaster --data net.py:numbers"
HOW = ["--solver auto", "--solver woodfisher", "--criterion snip"]
HOW += [pytest.param(how, marks=pytest.mark.slow) for how in ("--solver sparsegpt", "--criterion wanda")]


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A folder with a network of each kind."""
    from sparsify_cli.cli.app import main

    folder = tmp_path_factory.mktemp("positions")
    (folder / "net.py").write_text(CODE)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(f"train {SPEAKER} --epochs 30 --lr 0.5 --out speaker --format quiet".split()) == 0
        assert main(f"train {FORECASTER} --epochs 60 --lr 0.1 --out forecaster --format quiet".split()) == 0
    return folder


@pytest.fixture(autouse=True)
def _inside(trained, tmp_path, monkeypatch):
    """Run beside a copy of the data and the networks."""
    shutil.copytree(trained, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")


def found(folder: str, name: str, of: str = "compressed", scope: str = "all") -> float:
    """A number of a manifest."""
    numbers = json.loads(Path(folder, "manifest.json").read_text())["numbers"]
    [value] = [f["value"] for f in numbers if (f["name"], f["of"], f["scope"]) == (name, of, scope)]
    return value


def test_training_learns_both():
    """A choice of two with 3 : 1 has perplexity 1.755; the numbers are foretold but for their noise."""
    assert found("speaker", "perplexity") == pytest.approx(1.755, rel=0.06) and found("speaker", "accuracy") > 0.7
    assert found("forecaster", "r2") > 0.9 and found("forecaster", "rmse") < 0.3


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("kind", ["speaker", "forecaster"])
def test_pruning_takes_them_as_they_are(run: Run, kind: str, how: str):
    """Solvers, and criteria that look at inputs or at the loss."""
    assert run(f"prune {kind} --sparsity 0.5 {how} --samples 128 --out pruned").code == 0
    assert found("pruned", "sparsity") == pytest.approx(0.5, abs=0.01)
    good = found("pruned", "perplexity") < 6 if kind == "speaker" else found("pruned", "r2") > 0.3
    assert good or "snip" in how


@pytest.mark.slow
def test_repair_helps_numbers(run: Run):
    """Least squares on what stays moves outputs less than zeros alone, as on classes."""
    moved = []
    for how in ("", "--solver exactobs --samples 200"):
        assert run(f"prune forecaster --sparsity 0.6 --allocation uniform {how} --out {f'with{len(moved)}'}").code == 0
        moved.append(found(f"with{len(moved)}", "output_shift"))
    assert moved[1] < 0.8 * moved[0]


@pytest.mark.parametrize(("kind", "name"), [("speaker", "perplexity"), ("forecaster", "rmse")])
def test_finetuning_distils(run: Run, kind: str, name: str):
    """Towards the dense network, with a resumable run like any other."""
    assert run(f"prune {kind} --sparsity 0.7 --out pruned").code == 0
    assert run("finetune pruned --epochs 3 --lr 0.05 --objective distill --keep best --out tuned").code == 0
    assert found("tuned", name) < found("pruned", name)


def test_a_report_speaks_of_perplexity(run: Run):
    """In its sentence, its page and its gates; groups have it as well."""
    assert run("prune speaker --sparsity 0.8 --out pruned").code == 0
    said = run("report pruned --out page --gate perplexity<=1.2")
    assert said.code == 3 and "perplexity rose by" in said.out and "Same next token" in said.out
    page = Path("page/report.html").read_text()
    assert "Perplexity per group" in page and "length = short" in page and "Calibration and uncertainty" not in page
    assert found("page", "perplexity", scope="group:length=long") > 1.7


def test_a_report_speaks_of_errors(run: Run):
    """Of numbers: the root mean square error, and how far outputs moved."""
    assert run("prune forecaster --sparsity 0.8 --out pruned").code == 0
    said = run("report pruned --out page")
    assert said.code == 0 and "root mean square error rose by" in said.out and "Moved from the dense model" in said.out
    text = Path("page/report.md").read_text()
    assert "Group side = " in text and "accuracy" not in text.split("<details>")[0]


def test_validate_and_compare(run: Run):
    """Side by side, and alone with a gate."""
    assert run("prune speaker --sparsity 0.5 --out pruned").code == 0
    assert "perplexity" in run("validate pruned").out
    assert run("compare speaker pruned --out both").code == 0
    assert run("validate forecaster --gate r2>=0.9 --gate rmse<=0.3").code == 0


@pytest.mark.slow
def test_a_nest_of_speakers(run: Run):
    """Levels are trained and ranked by tokens guessed right."""
    assert run(f"embed speaker {SPEAKER} --levels 0.8,0.4 --epochs 2 --out nest").code == 0
    assert found("nest", "accuracy", scope="level:1") > 0.5


@pytest.mark.parametrize("verb", ["unlearn speaker --forget train-000001", "recalibrate forecaster", "report speaker --forecast"])
def test_what_is_about_classes_says_so(run: Run, verb: str):
    """One sentence, and nothing written."""
    said = run(f"{verb} --out nothing")
    assert said.code == 2 and "classes and attributes" in said.sentence and not Path("nothing").exists()


def test_a_text_longer_than_the_answers(run: Run):
    """A network that gives one row a text is refused before anything runs."""
    Path("net.py").write_text(CODE.replace("self.words(x))))", "self.words(x).mean(1))))"))
    said = run(f"prune speaker {SPEAKER} --sparsity 0.5 --solver sparsegpt")
    assert said.code != 0 and "one row of logits for each token" in said.sentence


@pytest.mark.slow
def test_samples_that_pay_most_are_shown(run: Run):
    """Those whose loss rose most, with what the network was given and both answers."""
    for kind, words in (("speaker", "nats a token"), ("forecaster", "error")):
        assert run(f"prune {kind} --sparsity 0.8 --out pruned-{kind}").code == 0
        assert run(f"report pruned-{kind} --out page-{kind}").code == 0
        shown = json.loads(Path(f"page-{kind}/report.json").read_text())["exemplars"]
        place = {"speaker": 0, "forecaster": 1}[kind]  # of the loss among the words
        before, after = ([float(one[side].split()[place]) for one in shown] for side in ("dense", "compressed"))
        assert len(shown) == 24 and words in shown[0]["dense"] and all(a > b for a, b in zip(after, before, strict=True))
        assert "[" in shown[0]["row"] if kind == "speaker" else shown[0]["row"].count(",") == 2
        assert "Samples that pay most" in Path(f"page-{kind}/report.html").read_text()


def test_texts_are_shown_in_words(run: Run):
    """With a vocabulary, what stands before the token that lost most, and what both networks say there."""
    words = [chr(ord("a") + i) * 3 for i in range(12)]
    Path("words.py").write_text(CODE.replace('"groups": {"length"', f'"classes": {words}, "groups": {{"length"'))
    context = "--arch words.py:speaker --data words.py:texts"
    assert run(f"prune speaker {context} --sparsity 0.8 --out bare").code == 0
    assert run(f"report bare {context} --dense speaker --out read").code == 0
    for one in json.loads(Path("read/report.json").read_text())["exemplars"]:
        given, right = one["row"].removesuffix("]").split(" [")
        assert {*given.removeprefix("… ").split()} <= {*words} and right in words
        guesses = [one[side].split("here ")[1].strip("“”") for side in ("dense", "compressed")]
        assert {*guesses} <= {*words}
        last = words.index(given.split()[-1])  # the dense network says the likelier of the two that can follow
        assert guesses[0] == words[(3 * last + 1) % 12]
    assert "in brackets the token that is right there" in Path("read/report.html").read_text()


def test_one_number_a_sample(run: Run):
    """Targets of shape [n], and a network that puts out [n, 1]; ids of tokens without labels from an .npz file."""
    one = CODE.replace("nn.Linear(48, 2)", "nn.Linear(48, 1)").replace('"y": y, "groups": {"side"', '"y": y[:, 0], "groups": {"side"')
    Path("one.py").write_text(one)
    context = "--arch one.py:forecaster --data one.py:numbers"
    assert run(f"train {context} --epochs 20 --lr 0.1 --out single").code == 0 and found("single", "r2") > 0.5
    assert run("prune single --sparsity 0.5 --solver alps --samples 200 --out fewer").code == 0
    np.savez("texts.npz", x=np.random.default_rng(0).integers(0, 12, (60, 9)))
    assert run("validate speaker --data npz:texts.npz").code == 0


@pytest.mark.slow
def test_a_sweep_of_texts_draws_no_curves(run: Run):
    """Nothing is said about accuracy where perplexity tells."""
    assert run("report speaker --sparsities 0.3,0.6,0.9 --out page").code == 0
    assert 'href="#against"' not in Path("page/report.html").read_text()


@pytest.mark.parametrize(("kind", "unit"), [("speaker", "nats"), ("forecaster", "of their square")])
def test_an_analysis_says_in_what_predictions_move(run: Run, kind: str, unit: str):
    """Divergences of choices are nats; numbers have none, only a distance relative to their square."""
    said = run(f"analyze {kind} --samples 64 --out a")
    assert said.code == 0 and unit in said.out and ("nats" in said.out) == (unit == "nats")
    assert json.loads(Path("a/manifest.json").read_text())["facts"]["unit"] == unit
