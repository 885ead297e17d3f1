"""Promises that a request must not break silently: patterns, supports, levels, teachers, names, code in manifests."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.nn.utils.prune

from sparsify_cli import load
from sparsify_cli.maths.choose_masks import holds
from sparsify_cli.recipes.pattern import Pattern
from sparsify_cli.values.artifact import MASKS, Artifact
from sparsify_cli.values.mask_file import read_masks
from tests.cli.conftest import NAMES, Run

DENSE, PRUNED = (f"runs/{NAMES[key]}" for key in ("dense", "pruned"))


def zeros(folder: str) -> int:
    """Zeros in the matrices of an artifact."""
    return sum(int((t == 0).sum()) for t in load(folder).values() if t.ndim == 2)


def test_pruning_again_never_revives(run: Run, here: Path):
    """What is pruned stays pruned: less than there is already is refused, more keeps within the old support."""
    said = run(f"prune {PRUNED} --sparsity 0.5")
    assert said.code == 2
    assert "below what is pruned already" in said.sentence
    assert run(f"prune {PRUNED} --sparsity 0.95 --out again").code == 0
    assert read_masks(Path("again") / MASKS) <= read_masks(Path(PRUNED) / MASKS)
    assert zeros("again") > zeros(PRUNED)


def test_gmp_imposes_the_pattern_on_a_sparse_network(run: Run, here: Path):
    """An unstructured network at its target still gets its 2:4, or the request is refused before training."""
    assert run(f"prune {DENSE} --sparsity 0.9 --out loose").code == 0
    said = run("finetune loose --regime gmp --sparsity 0.95 --pattern 2:4 --epochs 1 --out tight")
    assert said.code == 0
    assert holds(read_masks(Path("tight") / MASKS), Pattern.parse("2:4"))


def test_movement_is_gathered_while_training_and_refused_without(run: Run, here: Path):
    """Training supplies what the criterion ranks by; pruning in one shot says where to get it."""
    assert run(f"finetune {DENSE} --regime gmp --criterion movement --sparsity 0.8 --epochs 2 --out moved").code == 0
    total = sum(t.numel() for t in load("moved").values() if t.ndim == 2)
    assert zeros("moved") == round(0.8 * total)
    said = run(f"prune {DENSE} --criterion movement --sparsity 0.8")
    assert said.code == 2 and "finetune --regime gmp --criterion movement" in said.sentence


def test_embed_refuses_what_embeds_nothing(run: Run, here: Path):
    """The regime fixed prunes nothing and --sparsity is not a level; both are refused."""
    assert "prunes nothing" in run(f"embed {DENSE} --levels 0.9 --regime fixed").sentence
    assert "--levels" in run(f"embed {DENSE} --levels 0.9 --sparsity 0.5").sentence


def test_a_new_network_has_no_teacher(run: Run, here: Path):
    """Distilling from a random initialisation is refused; so is a teacher nobody listens to."""
    said = run("train --arch mlp --data digits --epochs 1 --objective distill")
    assert said.code == 2
    assert "no dense ancestor" in said.sentence
    assert "listens to no teacher" in run(f"finetune {PRUNED} --teacher {DENSE}").sentence


def test_a_misspelt_skip_is_refused(run: Run, here: Path):
    """A glob that names nothing would prune what was to be protected."""
    said = run("prune model.pt --sparsity 0.5 --skip 0.weigth")
    assert said.code == 2
    assert "0.weight" in said.sentence


def test_include_takes_no_biases_or_statistics(run: Run, here: Path):
    """`--include *` is every matrix and nothing else."""
    assert run("prune model.pt --sparsity 0.5 --include * --out all").code == 0
    state = load("all")
    assert all(bool((tensor != 0).any()) for name, tensor in state.items() if name.endswith(("running_var", "1.weight", "4.weight")))
    assert {name for name in read_masks(Path("all") / MASKS)} == {name for name, tensor in state.items() if tensor.ndim >= 2}


def test_code_in_a_foreign_manifest_is_not_run(run: Run, here: Path):
    """A manifest that names code and was not sealed here runs nothing, in any verb, and says what to do."""
    assert run(f"prune {DENSE} --sparsity 0.5 --out evil").code == 0
    path = Path("evil/manifest.json")
    manifest = json.loads(path.read_text())
    manifest["architecture"] = {"name": "subprocess:getoutput", "options": {"cmd": "touch PWNED"}}
    path.write_text(json.dumps(manifest))
    assert run("inspect evil").code == 0
    said = run("validate evil")
    assert said.code == 2
    assert "--arch" in said.sentence
    assert not Path("PWNED").exists()


def test_a_nest_is_one_file(run: Run, here: Path):
    """The one file of an embedded artifact is enough, anywhere: its extraction is that of the artifact, bit for bit."""
    nest = f"runs/{NAMES['nest']}"
    assert [path.name for path in Path(nest).glob("*.safetensors")] == ["nest.safetensors"]
    Path("shipped.safetensors").write_bytes((Path(nest) / "nest.safetensors").read_bytes())
    assert run("extract shipped.safetensors --level 0.9 --out alone").code == 0
    assert run(f"extract {nest} --level 0.9 --out together").code == 0
    alone, together = (load(folder) for folder in ("alone", "together"))
    assert alone.keys() == together.keys()
    assert all(torch.equal(alone[name], together[name]) for name in alone)


def test_seed_reaches_what_draws_at_random(run: Run, here: Path):
    """Another --seed is another random pruning, the same seed the same one."""
    for name, seed in (("a", 0), ("b", 0), ("c", 7)):
        assert run(f"prune model.pt --sparsity 0.5 --criterion random --seed {seed} --out {name}").code == 0
    digest = {name: Artifact.open(Path(name)).manifest["masks_sha256"] for name in "abc"}
    assert digest["a"] == digest["b"] != digest["c"]


def test_tied_weights_are_one_tensor(run: Run, here: Path):
    """A tensor under two names is counted once, pruned once, and both names hold the same values."""
    shared = torch.randn(8, 8, generator=torch.Generator().manual_seed(0))
    torch.save({"first.weight": shared, "second.weight": shared}, "tied.pt")
    assert run("prune tied.pt --sparsity 0.5 --out tied").code == 0
    state = load("tied")
    assert torch.equal(state["first.weight"], state["second.weight"])
    assert int((state["first.weight"] == 0).sum()) == 32
    assert list(read_masks(Path("tied") / MASKS)) == ["first.weight"]


def test_half_precision_stays_half(run: Run, here: Path):
    """Batch norm is measured anew and the file's number types stay as they were."""
    arch = "--arch cnn --data digits"
    assert run(f"train {arch} --epochs 1 --out cnn").code == 0
    torch.save({n: t.half() if t.is_floating_point() else t for n, t in load("cnn").items()}, "half.pt")
    assert run(f"prune half.pt --sparsity 0.5 {arch} --out pruned").code == 0
    kinds = {tensor.dtype for tensor in load("pruned").values()}
    assert kinds == {torch.float16, torch.int64}


def test_what_is_skipped_keeps_its_masks(run: Run, here: Path):
    """Pruning or training on with --skip leaves the skipped layer as sparse as it was, through fine-tuning too."""
    before = read_masks(Path(PRUNED) / MASKS)
    skipped = next(name for name in before if not bool(before[name].all()))
    assert run(f"prune {PRUNED} --skip {skipped} --sparsity 0.97 --out more").code == 0
    assert run("finetune more --epochs 1 --out trained").code == 0
    assert run(f"finetune {PRUNED} --regime gmp --skip {skipped} --sparsity 0.97 --epochs 1 --out gmp").code == 0
    for folder in ("more", "trained", "gmp"):
        after = read_masks(Path(folder) / MASKS)
        assert torch.equal(after[skipped], before[skipped])
        assert after <= before
        weight = load(folder)[skipped]
        assert bool((weight[~before[skipped]] == 0).all())


TIED = """
import pytest
import torch
import torch.nn.utils.prune
class Net(torch.nn.Module):
    def __init__(self, first="z", second="a"):
        super().__init__()
        setattr(self, first, torch.nn.Linear(64, 64))
        setattr(self, second, torch.nn.Linear(64, 64))
        self.head = torch.nn.Linear(64, 10)
        getattr(self, second).weight = getattr(self, first).weight
        self.order = (first, second)
    def forward(self, x):
        x = x.flatten(1)
        for name in self.order:
            x = torch.relu(getattr(self, name)(x))
        return self.head(x)
"""


@pytest.mark.parametrize("names", ["first=z second=a", pytest.param("first=a second=z", marks=pytest.mark.slow)])
def test_tied_networks_go_the_whole_way(run: Run, here: Path, names: str):
    """Whichever name sorts first, tied weights train, prune, fine-tune, embed and unlearn as the one tensor they are."""
    Path("tie.py").write_text(TIED)
    args = " ".join(f"--arch-arg {name}" for name in names.split())
    assert run(f"train --arch tie.py:Net {args} --data digits --epochs 1 --out dense").code == 0
    for line in (
        "prune dense --sparsity 0.8 --out pruned",
        "finetune pruned --epochs 1 --out tuned",
        "finetune dense --regime gmp --sparsity 0.8 --epochs 1 --out gmp",
        "embed dense --levels 0.8,0.5 --epochs 1 --out nest",
        "extract nest --level 0.8 --out level",
        "unlearn tuned --forget random:5% --out forgotten",
    ):
        said = run(line)
        assert said.code == 0, said.err
    for folder in ("pruned", "tuned", "gmp", "level", "forgotten"):
        state = load(folder)
        assert torch.equal(state["a.weight"], state["z.weight"]), folder
        assert int((state["a.weight"] == 0).sum()) > 2000, folder


def test_a_foreign_run_is_not_resumed_into_its_code(run: Run, here: Path):
    """--resume runs no code that a folder from elsewhere names."""
    Path("foreign").mkdir()
    Path("foreign/evil.py").write_text("open('PWNED', 'w')\ndef Net(): pass\n")
    recipe = {"verb": "train", "arch": "evil.py:Net", "data": "digits"}
    manifest = {"schema": "sparsify/artifact/1", "status": "interrupted", "verb": "train", "recipe": recipe, "facts": {"started_in": "."}}
    Path("foreign/manifest.json").write_text(json.dumps(manifest))
    said = run("train --resume foreign")
    assert said.code == 2
    assert not Path("PWNED").exists()
    assert not Path("foreign/PWNED").exists()


def test_a_foreign_run_is_not_resumed_into_its_loss(run: Run, here: Path):
    """A loss of one's own is code as well."""
    Path("foreign").mkdir()
    Path("foreign/evil.py").write_text("open('PWNED', 'w')\ndef loss(m, b): pass\n")
    for objective in ("evil.py:loss", {"name": "evil.py:loss"}):
        recipe = {"verb": "train", "arch": "cnn", "data": "digits", "objective": objective}
        manifest = {
            "schema": "sparsify/artifact/1",
            "status": "interrupted",
            "verb": "train",
            "recipe": recipe,
            "facts": {"started_in": "."},
        }
        Path("foreign/manifest.json").write_text(json.dumps(manifest))
        said = run("train --resume foreign")
        assert said.code == 2 and "evil.py:loss" in said.sentence
        assert not Path("PWNED").exists() and not Path("foreign/PWNED").exists()


def test_a_stray_rank_changes_nothing(run: Run, here: Path, monkeypatch: pytest.MonkeyPatch):
    """RANK from a job wrapper, without torchrun, does not silence or lose anything."""
    monkeypatch.setenv("RANK", "1")
    assert run("train --arch mlp --data digits --epochs 1 --out kept").out
    assert Artifact.open(Path("kept")).complete
    monkeypatch.setenv("RANK", "abc")
    assert run("inspect kept").code == 0


def test_masks_that_a_file_brings_are_kept(run: Run, here: Path):
    """A file of torch's own pruning says what is pruned, however little or much that is; training on keeps exactly that."""
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10))
    torch.nn.utils.prune.l1_unstructured(network[1], "weight", amount=20)  # 20 of 2,048: far below what zeros alone would show
    mask = network[1].weight_mask.bool().clone()
    torch.save(network.state_dict(), "pairs.pt")
    Path("net.py").write_text(
        "from torch import nn\n\n\ndef net():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))\n"
    )
    assert run("finetune pairs.pt --arch net.py:net --data digits --epochs 1 --out trained").code == 0
    weight = load("trained")["1.weight"]
    assert torch.equal(weight == 0, ~mask)


def test_levels_of_large_blocks_are_readable(run: Run, here: Path):
    """Counts of a small network in large blocks are off by half a block; its nest is read all the same."""
    assert run(f"embed {DENSE} --levels 0.9 --pattern block:16x32 --include fc1 --epochs 1 --out blocks").code == 0
    assert run("extract blocks --level 0.9 --out one").code == 0
