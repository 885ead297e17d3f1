"""Gates of an erasure: every network of a nest, the size on disk, and what cannot be judged is told before the work."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import NAMES, Run

DENSE, NEST = (f"runs/{NAMES[name]}" for name in ("dense", "nest"))


def certificate(folder: str) -> dict:
    """unlearning.json."""
    return json.loads(Path(folder, "unlearning.json").read_text())


def test_every_network_of_a_nest_has_to_hold_a_gate(here, run: Run):
    """The densest one does by far, the sparse ones need not: each is judged, and named."""
    asked = f"unlearn {NEST} --forget random:3% --unlearner gradient-ascent --set unlearner.epochs=1 --most-harm 1"
    assert run(f"{asked} --out free").code == 0
    found = {f["scope"]: f["value"] for f in certificate("free")["numbers"] if f["name"] == "accuracy_test_after"}
    assert set(found) == {"level:1", "all"} and found["level:1"] != found["all"]
    between = (found["level:1"] + found["all"]) / 2
    sign = ">=" if found["all"] > found["level:1"] else "<="
    stopped = run(f"{asked} --out judged", "--gate", f"accuracy_test_after{sign}{between:.6f}")
    assert stopped.code == 3 and "accuracy_test_after@level:1" in stopped.sentence
    said = certificate("judged")
    assert said["verdict"] == "failed" and ["DOES NOT HOLD" in text for text in said["gates"]] == [False, True]
    assert run(f"{asked} --out one", "--gate", f"accuracy_test_after@all{sign}{between:.6f}").code == 0


def test_a_gate_on_what_every_network_has_is_judged_for_each(here, run: Run):
    """`accuracy`, too; the densest network may be called by its level or by `all`, and a latency is judged once a network."""
    asked = f"unlearn {NEST} --forget random:3% --unlearner gradient-ascent --set unlearner.epochs=1 --most-harm 1"
    gates = ("accuracy>=0", "accuracy@level:2>=0", "latency_ms@2<=1e6", "latency_ms<=1e6")
    assert run(f"{asked} --out free", *(word for gate in gates for word in ("--gate", gate))).code == 0
    assert [text.split(": holds")[0] for text in certificate("free")["gates"]] == [
        "accuracy>=0", "accuracy@level:1>=0", "accuracy@level:2>=0", "latency_ms@2<=1e6", "latency_ms<=1e6", "latency_ms@level:1<=1e6",
    ]  # fmt: skip
    found = {(f["name"], f["scope"], f["of"]): f["value"] for f in certificate("free")["numbers"]}
    assert run(f"{asked} --out classes", "--gate", f"accuracy@1>={found['accuracy', 'class:1', 'compressed']:.6f}").code == 0
    above = f"accuracy@2>{found['accuracy', 'class:2', 'compressed']:.6f}9"
    assert run(f"{asked} --out other", "--gate", above).code == 3, "2 is a class before it is a level"
    for scope in ("level:1", "all"):
        assert found["accuracy", scope, "compressed"] == pytest.approx(found["accuracy_test_after", scope, "compressed"])
        assert found["accuracy", scope, "dense"] == pytest.approx(found["accuracy_test_before", scope, "compressed"])


def test_a_gate_on_the_size_is_about_the_files_that_were_written(here, run: Run):
    """Of a nest, too: certificate, manifest and folder say the same number."""
    asked = f"unlearn {NEST} --forget random:3% --unlearner gradient-ascent --most-harm 1"
    assert run(f"{asked} --out free").code == 0
    size = Path("free/nest.safetensors").stat().st_size
    assert run(f"{asked} --out small", "--gate", f"bytes_disk<={size - 1}").code == 3
    assert run(f"{asked} --out fits", "--gate", f"bytes_disk<={size}").code == 0
    for folder in ("free", "small", "fits"):
        manifest = json.loads(Path(folder, "manifest.json").read_text())
        for numbers in (certificate(folder)["numbers"], manifest["numbers"]):
            assert [f["value"] for f in numbers if (f["name"], f["of"], f["scope"]) == ("bytes_disk", "compressed", "all")] == [size]


def test_what_needs_a_network_trained_anew_is_told_first(here, untouched, run: Run):
    """One sentence, before anything is forgotten."""
    untouched()
    for name in ("similarity_forget", "distance_forget_reference", "accuracy_forget_reference", "relative_weight_distance"):
        refused = run(f"unlearn {DENSE} --forget class:3 --audit", "--gate", f"{name}>=0.1")
        assert refused.code == 2 and f"{name} compares with a network trained anew" in refused.sentence
    refused = run(f"unlearn {DENSE} --forget class:3 --audit --reference {DENSE}", "--gate", "distance_forget_between<=0.5")
    assert refused.code == 2 and "distance_forget_between compares two networks trained anew" in refused.sentence


def test_a_list_of_ids_with_a_short_row_is_refused(here, untouched, run: Run):
    """A request to forget is carried out whole or not at all."""
    Path("ids.csv").write_text("label,id\n3,digits-0002\n3\n4,digits-0003\n")
    untouched()
    refused = run(f"unlearn {DENSE} --forget ids.csv")
    assert refused.code == 2 and "the row '3' has no column id" in refused.sentence


def test_a_parent_that_is_another_network_now_says_nothing(here, run: Run):
    """A folder that was made anew under the old name: what that one forgot, the child has not."""
    assert run("train --arch mlp --data digits --epochs 1 --out base").code == 0
    assert run("finetune base --epochs 1 --out child").code == 0
    for file in sorted(Path("base").iterdir()):
        file.unlink()
    Path("base").rmdir()
    assert run("train --arch mlp --data digits --epochs 1 --without class:3 --out base").code == 0
    assert run("unlearn base --forget class:3").code == 2
    assert run(f"unlearn {DENSE} --forget class:3 --audit --reference child").code == 2
    assert run("unlearn child --forget class:3 --unlearner gradient-ascent --most-harm 1 --out erased").code == 0
