"""`unlearn` end to end: the audit, the certificate, gates, stale preparations, and networks nested in one another."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from sparsify_cli.maths.membership import ATTACKS
from sparsify_cli.stages.subject import open_path
from sparsify_cli.values.artifact import Artifact
from tests.cli.conftest import NAMES, Run

DENSE, PRUNED, NEST, MEMO = (f"runs/{NAMES[name]}" for name in ("dense", "pruned", "nest", "memo"))


def numbers(folder: str) -> dict[str, dict]:
    """Findings of a manifest by name, those of the whole network."""
    found = json.loads(Path(folder, "manifest.json").read_text())["numbers"]
    return {f["name"]: f for f in found if f["scope"] == "all" and f["of"] == "compressed"}


def certificate(folder: str) -> dict:
    """What `unlearning.json` says."""
    return json.loads(Path(folder, "unlearning.json").read_text())


def test_certificate_names_what_was_forgotten_by_hashes(here, run: Run):
    """Counts, hashes of ids in alphabetical order, of the files before and after, the method with every option, and its own limits."""
    assert run(f"unlearn {DENSE} --forget random:2% --out out --set unlearner.damping=0.2").code == 0
    found, manifest = certificate("out"), Artifact.open(Path("out")).manifest
    ids = sorted(manifest["facts"]["forgotten_ids"])
    assert found["forgotten"]["ids_sha256"] == hashlib.sha256("\n".join(ids).encode()).hexdigest()
    assert found["forgotten"]["samples"] == len(ids) == 1077 - found["retained"]["samples"]
    assert found["model"]["before_sha256"] == open_path(Path(DENSE)).checkpoint.source.sha256
    assert found["model"]["after_sha256"] == hashlib.sha256(Path("out/model.safetensors").read_bytes()).hexdigest()
    assert (found["method"]["name"], found["method"]["options"]["damping"], found["method"]["options"]["block"]) == ("ssse", 0.2, 512)
    assert found["verdict"] == "measured"
    assert "not a proof" in found["limits"]
    assert not any(name in json.dumps(found) for name in ids[:5])


def test_audit_beside_a_network_trained_anew(here, run: Run):
    """Six attacks on three networks, distances both ways, the ratio never without them, relearning; the trained one forgot exactly."""
    assert run(f"unlearn {DENSE} --forget class:3 --unlearner retrain --set unlearner.epochs=10 --out anew").code == 0
    said = run(f"unlearn {DENSE} --forget class:3 --audit --reference anew --out out")
    assert said.code == 0
    assert "is no reference" not in said.err
    found = numbers("out")
    for when in ("before", "after", "reference"):
        assert 0 <= found[f"membership_{when}"]["low"] <= found[f"membership_{when}"]["value"] <= found[f"membership_{when}"]["high"] <= 1
        assert found[f"membership_learned_{when}"]["n"] == found[f"membership_loss_{when}"]["n"] > 100
    ratio, there, back = (found[name]["value"] for name in ("similarity_forget", "distance_forget_before", "distance_forget_reference"))
    assert ratio == pytest.approx(there / (there + back))
    assert found["distance_forget_before_reference"]["value"] > back and "was nearer before" not in said.err
    assert 0 < found["distance_profile_forget_before"]["value"] <= there
    assert found["distance_profile_forget_reference"]["value"] < min(back, 0.2), "neither knows the class any more"
    assert found["similarity_profile_forget"]["value"] > ratio
    assert "whichever samples are wrong" in said.out
    assert found["accuracy_forget_reference"]["value"] == 0
    assert found["relearn_passes_reference"]["value"] > 0
    assert "trained anew" in said.out
    assert "exact" not in certificate("out")["limits"]
    sides = {(f["scope"], f["of"]) for f in certificate("out")["numbers"] if f["name"] == "accuracy"}
    assert {(scope, of) for scope in ("class:5", "group:slant=left") for of in ("dense", "compressed", "change")} <= sides
    assert "accuracy by class" in said.out and "accuracy by group" in said.out
    assert "trained anew without" in certificate("anew")["limits"]


def test_a_second_network_trained_anew_says_what_chance_does(here, run: Run):
    """Its distance from the first stands beside that of the network that forgot; two that are one, and three, are refused."""
    for seed in (0, 1):
        how = f"--unlearner retrain --set unlearner.epochs=3 --set unlearner.seed={seed} --most-harm 1"
        assert run(f"unlearn {DENSE} --forget class:3 {how} --out anew{seed}").code == 0
    said = run(f"unlearn {DENSE} --forget class:3 --audit --reference anew0 --reference anew1 --out out")
    assert said.code == 0
    found = numbers("out")
    one, other, samples = (open_path(Path(name)) for name in ("anew0", "anew1", DENSE))
    images = samples.samples("test").inputs
    with torch.no_grad():
        apart = (one.module()(images).softmax(1) - other.module()(images).softmax(1)).abs().sum(1).mean() / 2
        right = samples.samples("test").targets.unsqueeze(1)
        known = [network.module()(images).softmax(1).gather(1, right).sort(dim=0).values for network in (one, other)]
    assert found["distance_test_between"]["value"] == pytest.approx(float(apart), rel=1e-5)
    assert found["distance_profile_test_between"]["value"] == pytest.approx(float((known[0] - known[1]).abs().mean()), rel=1e-4)
    assert "between two trained anew" in said.out and "nearer than that is chance" in said.err
    assert "membership_second" not in found and "accuracy_forget_second" not in found
    assert certificate("out")["reference_sha256"] == one.checkpoint.source.sha256
    for twice in ("--reference anew0 --reference anew0", "--reference anew0 --reference anew1 --reference out"):
        assert run(f"unlearn {DENSE} --forget class:3 --audit {twice} --out no").code == 2


def test_reference_that_knows_the_samples_is_refused(here, run: Run):
    """A network that saw the samples, or that another method made, is no reference; of a plain file nothing is known, which is said."""
    said = run(f"unlearn {DENSE} --forget class:3 --audit --reference {PRUNED} --out out")
    assert (said.code, "is no reference" in said.sentence) == (2, True)
    assert run(f"unlearn {DENSE} --forget class:3 --out forgot").code == 0
    said = run(f"unlearn {DENSE} --forget class:3 --audit --reference forgot --out out")
    assert (said.code, "made by ssse" in said.sentence) == (2, True)
    assert run("prune forgot --sparsity 0.1 --out thinner").code == 0
    assert "made by ssse" in run(f"unlearn {DENSE} --forget class:3 --audit --reference thinner --out out").sentence
    assert run(f"unlearn {DENSE} --forget class:3 --unlearner retrain --set unlearner.epochs=1 --most-harm 1 --out anew").code == 0
    shutil.copy("anew/model.safetensors", "plain.safetensors")
    said = run(f"unlearn {DENSE} --forget class:3 --audit --reference plain.safetensors --out out")
    assert (said.code, "nothing says that it was trained anew" in said.err) == (0, True)
    shutil.copy(f"{DENSE}/model.safetensors", "itself.safetensors")
    said = run(f"unlearn {DENSE} --forget class:3 --audit --reference itself.safetensors --out no")
    assert (said.code, "is no reference" in said.sentence) == (2, True)
    assert run("train --arch mlp --data digits --epochs 1 --seed 7 --out all").code == 0
    assert run("train --arch mlp --data digits --epochs 1 --seed 8 --out other").code == 0
    said = run("unlearn other --forget class:3 --audit --reference all --out no")
    assert (said.code, "It was trained with" in said.sentence) == (2, True)
    assert "--audit" in run(f"unlearn {DENSE} --forget class:3 --reference {PRUNED}").sentence


def test_gates_and_harm_stop_a_pipeline_after_everything_is_written(here, run: Run):
    """A gate that does not hold is exit 3, a ruined network exit 4; artifact and certificate are there and say failed."""
    assert run(f"unlearn {DENSE} --forget class:3 --out a --gate accuracy_forget_after<=0.15").code == 0
    assert certificate("a")["verdict"] == "passed"
    said = run(f"unlearn {DENSE} --forget random:1% --out b --gate accuracy_forget_after<=0.01")
    assert (said.code, "gates failed" in said.sentence, certificate("b")["verdict"]) == (3, True, "failed")
    ruin = "--unlearner gradient-ascent --set unlearner.stop=false --set unlearner.lr=0.2 --set unlearner.epochs=2"
    said = run(f"unlearn {DENSE} --forget class:3 {ruin} --out c")
    assert said.code == 4
    assert "--most-harm" in said.sentence
    assert certificate("c")["verdict"] == "failed"
    assert run(f"unlearn {DENSE} --forget class:3 {ruin} --most-harm 1 --out d").code == 0


def test_gates_are_read_before_anything_is_done(here, untouched, run: Run):
    """A gate without a meaning costs nothing."""
    untouched()
    assert run(f"unlearn {DENSE} --forget class:3 --gate nonsense").code == 2


def test_second_erasure_from_one_preparation_is_told_to_be_stale(here, run: Run):
    """The Fisher of the network before serves the one after, n is counted down, and the note says how old it is."""
    assert run(f"unlearn {DENSE} --forget random:2% --memo {MEMO} --out first").code == 0
    said = run(f"unlearn first --forget random:2% --memo {MEMO} --seed 1 --out second")
    assert said.code == 0
    assert "stale" in said.err
    assert "22 samples were forgotten" in said.err
    found = numbers("second")
    assert (found["memo_forgotten_since"]["value"], 0 < found["memo_moved_since"]["value"] < 0.2) == (22.0, True)
    assert "stale" not in run(f"unlearn {DENSE} --forget random:2% --memo {MEMO} --seed 1 --out fresh").err


def test_preparation_of_another_network_is_refused_also_in_a_family(here, untouched, run: Run):
    """Pruning lies between: its Fisher is another one."""
    untouched()
    assert "another model" in run(f"unlearn {PRUNED} --forget class:3 --memo {MEMO}").sentence


def test_every_level_of_a_nest_forgets(here, run: Run):
    """Levels stay nested and share their weights, and each of them answers the class at most 15 % of the time."""
    said = run(f"unlearn {NEST} --forget class:3 --audit --out out")
    assert said.code == 0
    assert "stale for denser levels" in said.err and "forget accuracy before this step" in said.out
    before, after = open_path(Path(NEST)), open_path(Path("out"))
    assert after.nest.sparsities == before.nest.sparsities
    assert all(torch.equal(after.nest.index[name], index) for name, index in before.nest.index.items())
    for level in ("0.9", "0.5"):
        assert run(f"extract out --level {level} --out x{level}").code == 0
    sparse, denser = (open_path(Path(name)) for name in ("x0.9", "x0.5"))
    for name, mask in sparse.masks.items():
        assert torch.equal(sparse.checkpoint.tensors[name][mask], denser.checkpoint.tensors[name][mask])
        assert not torch.equal(sparse.checkpoint.tensors[name], before.nest.extract(before.checkpoint.tensors, 1)[name])
    found = json.loads(Path("out/manifest.json").read_text())["numbers"]
    accuracy = {f["scope"]: f["value"] for f in found if f["name"] == "accuracy_forget_after"}
    assert sorted(accuracy) == ["all", "level:1"]
    [shift] = [f for f in found if f["name"] == "memo_moved_by_sparser_levels"]
    assert shift["scope"] == "all" and f"of level 2 by {shift['value']:.2%}" in said.err
    [own] = [f for f in found if f["name"] == "forget_accuracy_before" and f["scope"] == "all"]
    assert "of this step alone" in own["definition"]
    assert max(accuracy.values()) <= 0.15


def test_nest_is_prepared_level_by_level(here, run: Run):
    """A preparation of a nest serves a later erasure of the same nest."""
    assert run(f"unlearn {NEST} --prepare --out prepared").code == 0
    assert run(f"unlearn {NEST} --forget class:3 --memo prepared --out apart").code == 0
    assert run(f"unlearn {NEST} --forget class:3 --out once").code == 0
    apart, once = (load_file(f"{folder}/nest.safetensors") for folder in ("apart", "once"))
    assert apart.keys() == once.keys()
    assert all(torch.equal(tensor, once[name]) for name, tensor in apart.items())


@pytest.mark.slow
def test_statistics_can_be_measured_again(here, run: Run):
    """--batchnorm gives running statistics of what stays; without it they are what they were."""
    assert run("train --arch cnn --data digits --epochs 1 --out cnn").code == 0
    for flag, out in (("", "kept"), (" --batchnorm", "renewed")):
        assert run(f"unlearn cnn --forget class:3{flag} --out {out}").code == 0
    was, kept, renewed = (open_path(Path(name)).checkpoint.tensors for name in ("cnn", "kept", "renewed"))
    names = [name for name in was if name.endswith("running_mean")]
    assert names
    assert all(torch.equal(was[name], kept[name]) for name in names)
    assert not any(torch.equal(was[name], renewed[name]) for name in names)


ENOUGH = {"ssd": " --set unlearner.alpha=1.5", "fisher-forgetting": " --set unlearner.noise=0.001"}
"""Options that make a method move a network that learnt little."""


@pytest.mark.parametrize("kind", ["finetune", "scrub", "salun", "ssd", "fisher-forgetting", "gradient-ascent"])
def test_every_method_runs_on_a_sparse_network(here, run: Run, kind: str):
    """Masks hold, bit for bit the same zeros."""
    assert run(f"unlearn {PRUNED} --forget random:3% --unlearner {kind}{ENOUGH.get(kind, '')} --out out").code == 0
    before, after = open_path(Path(PRUNED)), open_path(Path("out"))
    assert after.masks == before.masks
    assert all(not after.checkpoint.tensors[name][~mask].any() for name, mask in after.masks.items())


@pytest.mark.slow
def test_more_than_half_is_warned_about(here, run: Run):
    """Not refused, but said."""
    assert "more than half" in run(f"unlearn {DENSE} --forget random:60% --out out").err


def test_the_page_shows_the_certificate(here, run: Run):
    """Verdict, method, hashes, conditions and the audit, in HTML and JSON; a page about something else has no such section."""
    assert run(f"unlearn {DENSE} --forget class:3 --audit --gate accuracy_forget_after<=0.15 --out out").code == 0
    assert run("report out --out page").code == 0
    page, data = Path("page/report.html").read_text(), json.loads(Path("page/report.json").read_text())
    [found] = data["certificates"]
    assert found["verdict"] == "passed"
    assert certificate("out")["model"]["after_sha256"][:16] in page
    assert all(text in page for text in ('id="forgetting"', "every condition held", "not a proof", "Membership inference", "Relearn time"))
    assert run(f"report {PRUNED} --out other").code == 0
    assert 'id="forgetting"' not in Path("other/report.html").read_text()


def test_ids_listed_twice_are_told(here, untouched, run: Run):
    """A list with repetitions is refused, with their number."""
    Path("ids.csv").write_text("id\ntrain-1\ntrain-2\ntrain-1\n")
    untouched()
    assert "1 of 2 ids in ids.csv are listed more than once, first 'train-1'" in run(f"unlearn {DENSE} --forget ids.csv").sentence


@pytest.mark.parametrize(
    ("prepared", "asked"),
    [
        ("--set unlearner.block=64", ""),
        ("", "--set unlearner.fisher=dense"),
        ("--set unlearner.layers=layers.0.*", "--set unlearner.layers=layers.2.*"),
    ],
)
def test_preparations_with_other_options_are_refused(here, run: Run, prepared: str, asked: str):
    """What was prepared is not what is asked for: exit 2 instead of a certificate that names the wrong Fisher."""
    names = open_path(Path(DENSE)).checkpoint.tensors
    first, *_, last = (name.rsplit(".", 1)[0] for name in names)
    prepared, asked = (text.replace("layers.0", first).replace("layers.2", last) for text in (prepared, asked))
    assert run(f"unlearn {DENSE} --prepare {prepared} --out p").code == 0
    said = run(f"unlearn {DENSE} --forget class:3 --memo p {asked}")
    assert (said.code, "other options" in said.sentence) == (2, True)


def test_nothing_prepared_holds_for_a_network_trained_anew(here, untouched, run: Run):
    """Retraining lies between: that is no ageing."""
    assert run(f"unlearn {DENSE} --forget random:2% --unlearner retrain --set unlearner.epochs=1 --most-harm 1 --out anew").code == 0
    untouched()
    assert "another model" in run(f"unlearn anew --forget random:2% --seed 1 --memo {MEMO}").sentence


def test_methods_that_prepare_nothing_say_so(here, untouched, run: Run):
    """No artifact with an empty memo."""
    untouched()
    assert "nothing to prepare" in run(f"unlearn {DENSE} --unlearner finetune --prepare").sentence


def test_preparations_of_every_level_are_checked(here, run: Run):
    """Nests that share their sparsest level and differ in the next: the memo of one is refused for the other."""
    for state in ("private", "shared-affine"):
        assert run(f"embed {DENSE} --levels 0.9,0.5 --epochs 1 --state {state} --out {state}").code == 0
    assert run("unlearn private --prepare --out prepared").code == 0
    said = run("unlearn shared-affine --forget class:3 --memo prepared")
    assert (said.code, "another model" in said.sentence) == (2, True)


def test_a_nest_is_compared_level_by_level_with_one_trained_anew(here, run: Run):
    """The reference of level 1 is level 1; another network's shape, or other levels, are refused before anything is done."""
    assert run(f"unlearn {NEST} --forget class:3 --unlearner retrain --set unlearner.epochs=8 --most-harm 1 --out anew").code == 0
    assert run(f"unlearn {NEST} --forget class:3 --audit --reference anew --most-harm 1 --out out").code == 0
    told = {
        f["scope"]: f["value"]
        for f in json.loads(Path("out/manifest.json").read_text())["numbers"]
        if f["name"] == "accuracy_test_reference"
    }
    own = {
        f["scope"]: f["value"] for f in json.loads(Path("anew/manifest.json").read_text())["numbers"] if f["name"] == "accuracy_test_after"
    }
    assert told == own
    assert run("train --arch mlp --arch-arg width=8 --data digits --epochs 1 --out small").code in (0, 2)
    assert run("train --arch cnn --data digits --epochs 1 --out cnn").code == 0
    assert "no network like" in run(f"unlearn {DENSE} --forget class:3 --audit --reference cnn").sentence
    assert run("extract out --max-latency 10s --out level").code == 0


def test_tied_weights_of_a_nest_stay_one(here, run: Run):
    """Two layers share a weight: after erasing, denser levels hold the sparser ones' weights as those have become, under both names."""
    Path("tied.py").write_text(TIED)
    assert run("train --arch tied.py:Tied --data digits --epochs 2 --out dense").code == 0
    assert run("embed dense --levels 0.8,0.3 --epochs 1 --out nest").code == 0
    assert run("unlearn nest --forget class:3 --most-harm 1 --out out").code == 0
    for level in ("0.8", "0.3"):
        assert run(f"extract out --level {level} --out x{level}").code == 0
    sparse, denser = (open_path(Path(f"x{level}")) for level in ("0.8", "0.3"))
    for name, mask in sparse.masks.items():
        assert torch.equal(sparse.checkpoint.tensors[name][mask], denser.checkpoint.tensors[name][mask]), name


TIED = """
from torch import nn


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.i, self.j, self.out = nn.Linear(64, 32), nn.Linear(32, 32), nn.Linear(32, 32), nn.Linear(32, 10)
        self.j.weight = self.i.weight

    def forward(self, x):
        return self.out(self.j(self.i(self.a(x.flatten(1)).relu()).relu()).relu())
"""


@pytest.mark.slow
def test_a_certificate_of_another_network_is_not_shown(here, run: Run):
    """The manifest vouches for it: one that was put in its place, changed or taken away is refused by name."""
    for out, label in (("a", 3), ("b", 4)):
        assert run(f"unlearn {DENSE} --forget class:{label} --out {out}").code == 0
    Path("a/unlearning.json").write_bytes(Path("b/unlearning.json").read_bytes())
    said = run("report a --out page")
    assert (said.code, "unlearning.json is not the file its manifest describes" in said.sentence) == (2, True)
    Path("b/unlearning.json").unlink()
    assert "unlearning.json is gone" in run("report b --out other").sentence


def test_what_was_forgotten_stays_forgotten_behind_a_url(here, run: Run):
    """A level taken from elsewhere still knows the ids, so that no later verb shows it those samples."""
    assert run(f"unlearn {NEST} --forget class:3 --out out").code == 0
    assert run(f"extract {Path('out').resolve().as_uri()} --level 0.9 --out level").code == 0
    ids = Artifact.open(Path("out")).manifest["facts"]["forgotten_ids"]
    assert Artifact.open(Path("level")).manifest["facts"]["forgotten_ids"] == ids


@pytest.mark.slow
def test_a_second_seed_of_retraining_draws_another_network_and_forgets_the_same_samples(here, run: Run):
    """`unlearner.seed` is that of the network; `--seed` that of the samples."""
    for seed in (0, 1):
        how = f"--unlearner retrain --set unlearner.epochs=1 --set unlearner.seed={seed} --most-harm 1"
        assert run(f"unlearn {DENSE} --forget random:5% {how} --out one{seed}").code == 0
    one, other = (json.loads(Path(f"one{seed}/unlearning.json").read_text()) for seed in (0, 1))
    assert one["forgotten"] == other["forgotten"] and one["model"]["after_sha256"] != other["model"]["after_sha256"]
    steps = [numbers(f"one{seed}")["step_norm"]["value"] for seed in (0, 1)]
    assert abs(steps[0] - steps[1]) > 0.01 * steps[0]


def test_what_would_be_dropped_is_refused(here, untouched, run: Run):
    """Samples to forget while preparing, and gates on an audit that is not made."""
    untouched()
    assert "--forget was given" in run(f"unlearn {DENSE} --prepare --forget class:3").sentence
    said = run(f"unlearn {DENSE} --forget class:3 --gate membership_after<=0.6")
    assert said.code == 2 and "Add --audit" in said.sentence


@pytest.mark.slow
def test_a_failed_certificate_says_why(here, run: Run):
    """The sentence that the command ended with; what was asked; the memo's hash."""
    assert run(f"unlearn {DENSE} --prepare --out memo").code == 0
    said = run(f"unlearn {DENSE} --memo memo --forget random:5% --gate accuracy_forget_after<=0.1 --out out")
    found = certificate("out")
    assert said.code == 3 and found["failure"] and found["failure"].split(".")[0] in said.sentence
    assert found["asked"] == "random:5%" and len(found["method"]["memo_sha256"]) == 64


def test_an_earlier_erasure_counts(here, run: Run):
    """Random samples after a class: test samples of that class are not among those that stay."""
    assert run(f"unlearn {DENSE} --forget class:3 --out first").code == 0
    said = run("unlearn first --forget random:5% --out second")
    assert said.code == 0 and "classes that stay" in said.out
    assert numbers("second")["accuracy_test_others_after"]["n"] < numbers("second")["accuracy_test_after"]["n"]


def test_the_membership_number_is_that_of_the_largest_attack(here, run: Run):
    """So a gate on it holds for each of the six."""
    assert run(f"unlearn {DENSE} --forget class:3 --audit --out out").code == 0
    found = numbers("out")
    each = [found[f"membership_{name}_after"]["value"] for name in ATTACKS]
    assert found["membership_after"]["value"] == max(each)
