"""Every verb as a person types it: what it writes, what it prints in each format, what holds in the written files."""

from __future__ import annotations

import csv
import json
from fractions import Fraction
from pathlib import Path

import pytest
import torch

import sparsify_cli
from sparsify_cli import load
from sparsify_cli.datasets.digits import Digits
from tests.cli.conftest import NAMES, Run, content, state

DENSE, PRUNED, TUNED, NEST, MEMO = (f"runs/{NAMES[key]}" for key in ("dense", "pruned", "tuned", "nest", "memo"))
KEYS = {"schema", "verb", "headline", "artifact", "files", "notes", "facts", "findings"}
WEIGHTS = ("0.weight", "3.weight", "8.weight")


def kept_zeros(folder: str, names: tuple[str, ...] = WEIGHTS) -> tuple[int, int]:
    """Zeros and size of the named tensors of an artifact, counted in the file itself."""
    tensors = load(folder)
    return sum(int((tensors[name] == 0).sum()) for name in names), sum(tensors[name].numel() for name in names)


def fullest_group(weight: torch.Tensor, size: int) -> int:
    """Most nonzeros in `size` consecutive input channels at one output and one kernel position."""
    rows = weight.reshape(weight.shape[0], weight.shape[1], -1).permute(0, 2, 1)
    return int((rows.reshape(-1, size) != 0).sum(1).max())


@pytest.mark.parametrize("criterion", ["magnitude", "random", "lamp"])
@pytest.mark.parametrize("allocation", ["uniform", "global", "erk"])
def test_prune_without_data(criterion: str, allocation: str, here: Path, run: Run) -> None:
    """A plain state dict needs no architecture; every criterion and allocation gives 80 % zeros of 1,384 weights, to one a layer."""
    said = run(f"prune model.pt --sparsity 0.8 --criterion {criterion} --allocation {allocation} --format quiet --out out")
    zeros, size = kept_zeros("out")
    assert (said.code, said.out, size) == (0, "out\n", 1384)
    assert abs(zeros - size * Fraction(8, 10)) <= 3


@pytest.mark.parametrize(("pattern", "size", "most"), [("2:4", 4, 2), ("1:4", 4, 1), ("4:8", 8, 4)])
def test_a_pattern_and_ninety_percent_hold_together(pattern: str, size: int, most: int, here: Path, run: Run) -> None:
    """In the file: 90 % of all prunable weights are zero, and each group of M input channels keeps at most N."""
    assert run(f"prune {DENSE} --sparsity 0.9 --pattern {pattern} --out out").code == 0
    tensors = load("out")
    matrices = [tensor for tensor in tensors.values() if tensor.ndim == 2]
    assert sum(int((tensor == 0).sum()) for tensor in matrices) == round(0.9 * 8832)
    assert max(fullest_group(tensor, size) for tensor in matrices) <= most


def test_a_pattern_on_convolutions_runs_along_input_channels(here: Path, run: Run) -> None:
    """2:4 on a convolution: of 4 neighbouring input channels at each kernel position at most 2 stay; the 1-channel layer stays dense."""
    said = run("prune model.pt --sparsity 0.8 --pattern 2:4 --out out")
    tensors = load("out")
    assert said.code == 0
    assert fullest_group(tensors["3.weight"], 4) <= 2 and fullest_group(tensors["8.weight"], 4) <= 2
    assert "0.weight" in said.err and not bool((tensors["0.weight"] == 0).any())
    assert kept_zeros("out")[0] == round(0.8 * 1384)


def test_blocks_go_together(here: Path, run: Run) -> None:
    """block:4x1: of 4 neighbouring outputs at each input, all or none are zero."""
    assert run(f"prune {DENSE} --sparsity 0.5 --pattern block:4x1 --out out").code == 0
    weight = load("out")["fc1.weight"]
    counts = (weight == 0).reshape(16, 4, 64).sum(1)
    assert set(counts.flatten().tolist()) == {0, 4}


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda s: {"state_dict": s, "epoch": 3}, lambda s: {f"module.{k}": v for k, v in s.items()},
        lambda s: {"model": {f"_orig_mod.module.{k}": v for k, v in s.items()}},
    ],
    ids=["state_dict", "module.", "both"],
)  # fmt: skip
def test_wrapped_checkpoints(wrapped, run: Run) -> None:
    """Training scripts' wrappers and prefixes are taken off; the same weights go as from the plain file."""
    torch.save(state(), "plain.pt")
    torch.save(wrapped(state()), "wrapped.pt")
    assert [run(f"prune {name}.pt --sparsity 0.9 --out {name}").code for name in ("plain", "wrapped")] == [0, 0]
    plain, back = load("plain"), load("wrapped")
    assert all(torch.equal(plain[name], back[name]) for name in plain) and plain.keys() == back.keys()


@pytest.mark.parametrize("flags", ["", "--optimizer adamw --lr 0.01 --weight-decay 0.1", "--objective distill", "--schedule multi-step"])
def test_zeros_survive_fine_tuning(flags: str, here: Path, run: Run) -> None:
    """Whatever the optimizer: zeros of the pruned file are zeros of the fine-tuned one, and what stayed has moved."""
    assert run(f"finetune {PRUNED} --epochs 1 --out out {flags}").code == 0
    before, after = load(PRUNED), load("out")
    for name in ("fc1.weight", "fc2.weight", "fc.weight"):
        gone = before[name] == 0
        assert not bool(after[name][gone].any())
        assert not torch.equal(before[name], after[name])


def test_gradual_pruning(here: Path, run: Run) -> None:
    """Gmp ends at the sparsity that was asked for, exactly."""
    assert run(f"finetune {DENSE} --regime gmp --sparsity 0.75 --epochs 2 --out out").code == 0
    assert kept_zeros("out", ("fc1.weight", "fc2.weight", "fc.weight")) == (6624, 8832)


@pytest.mark.parametrize(("level", "kept"), [("0.9", 883), ("0.5", 4416), ("1", 883), ("2", 4416)])
def test_extract(level: str, kept: int, here: Path, run: Run) -> None:
    """A level by its sparsity or its number holds exactly its share of 8,832 weights; the newest nest is taken and named on stderr."""
    said = run(f"extract --level {level} --out out")
    zeros, size = kept_zeros("out", ("fc1.weight", "fc2.weight", "fc.weight"))
    assert (said.code, size - zeros) == (0, kept)
    assert NEST in said.err and NEST not in said.err.replace(f"taking {NEST}", "")


@pytest.mark.parametrize("forget", ["class:3", "random:5%", "ids.csv", "named.csv", "ids.json"])
def test_unlearn(forget: str, here: Path, run: Run) -> None:
    """A class, a share, or a file of ids; the numbers are in the report."""
    ids = Digits().load("train").ids[:7]
    Path("ids.csv").write_text("\n".join(ids))
    with Path("named.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("why", "id"), *(("wish", one) for one in ids)])
    Path("ids.json").write_text(json.dumps({"ids": ids}))
    said = run(f"unlearn {DENSE} --forget {forget} --format json --out out")
    assert said.code == 0
    told = json.loads(said.out)
    assert told["facts"]["forgotten"] == {"class:3": 111, "random:5%": 54}.get(forget, 7)
    assert {"accuracy_forget_before", "accuracy_forget_after", "epsilon"} <= {f["name"] for f in told["findings"]}


def test_prepare_and_erase_apart(here: Path, run: Run) -> None:
    """`--memo` of an earlier `--prepare` gives the same weights as doing both at once."""
    assert run(f"unlearn {DENSE} --forget class:3 --memo {MEMO} --out apart").code == 0
    assert run(f"unlearn {DENSE} --forget class:3 --out once").code == 0
    assert Path("apart/model.safetensors").read_bytes() == Path("once/model.safetensors").read_bytes()


def test_validate(here: Path, run: Run) -> None:
    """The newest network is measured, also when a newer artifact holds none; gates that hold exit 0; `--out` gets report.json."""
    said = run("validate --gate accuracy>=0.01 --gate bytes_packed<=1MB --out out --format quiet")
    assert (said.code, said.out) == (0, "out/report.json\n")
    assert f"taking {TUNED}" in said.err
    assert json.loads(Path("out/report.json").read_text())["schema"] == "sparsify/report/1"


@pytest.mark.parametrize("to", ["packed", "safetensors"])
def test_export(to: str, here: Path, run: Run) -> None:
    """The exported file loads with `sparsify_cli.load`, bit for bit what was exported; packed is smaller."""
    said = run(f"export {TUNED} --to {to} --format quiet")
    assert said.code == 0
    path = Path(said.out.strip())
    loaded, original = sparsify_cli.load(path), load(TUNED)
    assert all(torch.equal(loaded[name], tensor) for name, tensor in original.items())
    assert (path.stat().st_size < Path(TUNED, "model.safetensors").stat().st_size / 3) == (to == "packed")


def test_export_onnx(here: Path, run: Run) -> None:
    """The ONNX file is verified on real inputs and the largest difference is said."""
    said = run(f"export {TUNED} --to onnx --format json")
    difference = next(f for f in json.loads(said.out)["findings"] if f["name"] == "onnx_max_difference")
    assert said.code == 0 and 0 <= difference["value"] < 1e-3 and difference["n"] > 0


def test_export_of_a_level(here: Path, run: Run) -> None:
    """`export --level` is `extract`, then `export`."""
    assert run(f"export {NEST} --level 0.5 --to safetensors --out direct").code == 0
    assert run(f"extract {NEST} --level 0.5 --out level").code == 0
    direct, level = load("direct"), load("level")
    assert all(torch.equal(direct[name], level[name]) for name in level)


def test_report(here: Path, run: Run) -> None:
    """The page, Markdown and JSON beside each other; the dense ancestor is found through the lineage."""
    said = run("report --format json")
    told = json.loads(said.out)
    assert said.code == 0
    assert [Path(file).name for file in told["files"]] == ["report.html", "report.md", "report.json", "report.csv"]
    assert {f["of"] for f in told["findings"] if f["name"] == "accuracy"} >= {"dense", "compressed"}


JSON = [
    "prune model.pt --sparsity 0.9", f"validate {PRUNED}", "inspect model.pt", f"inspect {NEST}", f"inspect {MEMO}",
    f"extract {NEST} --level 0.5", "prune model.pt --sparsity 0.9 --dry-run", f"embed {DENSE} --levels 0.5 --epochs 1",
]  # fmt: skip


@pytest.mark.parametrize("line", JSON)
def test_json(line: str, here: Path, run: Run) -> None:
    """One JSON object with the documented keys and no NaN, nothing else on stdout."""

    def refuse(word: str) -> None:
        raise AssertionError(word)

    said = run(f"{line} --format json")
    told = json.loads(said.out, parse_constant=refuse)
    assert said.code == 0 and set(told) >= KEYS
    assert (told["schema"], told["verb"]) == ("sparsify/outcome/1", line.split()[0])


@pytest.mark.parametrize("line", ["list", "list criteria", "env"])
def test_json_of_the_rest(line: str, run: Run) -> None:
    """`list` and `env` are JSON too."""
    said = run(f"{line} --format json")
    assert said.code == 0 and len(json.loads(said.out)) > 0


def test_dry_run_writes_nothing(here: Path, run: Run) -> None:
    """The resolved recipe and the plan of the newest network; no file comes, goes or changes."""
    before = content(here)
    said = run("prune --pattern 2:4 --dry-run")
    assert said.code == 0 and "pattern: '2:4'" in said.out and "fc1.weight" in said.out
    assert content(here) == before


def test_flags_win_over_settings_over_the_recipe(here: Path, run: Run) -> None:
    """Defaults < --recipe < --set < flags."""
    Path("recipe.yaml").write_text("verb: prune\nmodel: model.pt\nsparsity: 0.1\npattern: 2:4\nallocation: erk\nseed: 4\n")
    said = run("prune --recipe recipe.yaml --set sparsity=0.8 --set allocation=uniform --allocation global --dry-run --format json")
    recipe = json.loads(said.out)["facts"]["recipe"]
    asked = {key: recipe[key] for key in ("model", "pattern", "seed", "allocation", "criterion")}
    assert asked == {"model": "model.pt", "pattern": "2:4", "seed": 4, "allocation": "global", "criterion": "magnitude"}
    assert float(recipe["sparsity"]) == 0.8


@pytest.mark.slow
def test_the_pipeline_of_newest_artifacts(here: Path, run: Run) -> None:
    """Verbs without a model follow each other: each takes the newest that fits and numbers its folder next."""
    lines = ("prune --sparsity 0.5", "finetune --epochs 1", "export", "report")
    said = [run(f"{line} --format quiet") for line in lines]
    assert [one.code for one in said] == [0, 0, 0, 0]
    assert [Path(one.out.strip()).parts[1] for one in said] == ["006-prune-mlp", "007-finetune-mlp", "008-export-mlp", "009-report-mlp"]


def test_a_bare_verbless_command_shows_help(run: Run) -> None:
    """`sparsify` alone is `sparsify --help`."""
    assert (run("").code, run("").out) == (0, run("--help").out)


@pytest.mark.slow
def test_demo_quick(run: Run) -> None:
    """The whole job ends well and its report is there."""
    said = run("demo --quick --format quiet")
    assert said.code in (0, 3)
    assert Path(said.out.strip()).name == "report.html" and Path(said.out.strip()).is_file()
