"""`extract` from one progressive file: by name or limit, in parts, from elsewhere, into any format."""

from __future__ import annotations

import json
from pathlib import Path

import fsspec
import pytest
import torch

import sparsify_cli
from sparsify_cli.errors import MissingContext
from sparsify_cli.maths.matrix_view import to_matrix
from sparsify_cli.stages.subject import open_path
from sparsify_cli.values.nest_plan import read_plan
from sparsify_cli.values.ranges import ranges
from tests.cli.conftest import NAMES, Run

NEST = f"runs/{NAMES['nest']}"


def numbers(folder: str) -> dict[str, float]:
    """Numbers of a manifest by name, without layers and levels."""
    return {f["name"]: f["value"] for f in json.loads(Path(folder, "manifest.json").read_text())["numbers"] if f["scope"] == "all"}


def levels_of(folder: str) -> dict[str, float]:
    """Accuracy of each level."""
    found = json.loads(Path(folder, "manifest.json").read_text())["numbers"]
    return {f["scope"]: f["value"] for f in found if f["name"] == "accuracy"}


def plan():
    """What the header of the nest says."""
    with ranges(f"{NEST}/nest.safetensors") as source:
        return read_plan(source)


def test_only_the_prefix_is_read(here, run: Run):
    """The sparsest level takes the header and its own bytes, and works although everything behind it is damaged."""
    assert run(f"extract {NEST} --level 0.9 --out whole").code == 0
    end = plan().ends[0]
    found = numbers("whole")
    assert (found["bytes_read"], found["bytes_nest"]) == (end, Path(NEST, "nest.safetensors").stat().st_size)
    assert end < 0.35 * found["bytes_nest"]
    file = Path(NEST, "nest.safetensors")
    file.write_bytes(file.read_bytes()[:end] + bytes(file.stat().st_size - end))
    assert run(f"extract {NEST} --level 0.9 --out part").code == 0
    whole, part = (open_path(Path(name)).checkpoint.tensors for name in ("whole", "part"))
    assert all(torch.equal(whole[name], part[name]) for name in whole)
    assert "sha256 is another" in run(f"extract {NEST} --level 0.5").sentence


def test_a_part_is_trusted_by_the_header_alone(here, run: Run):
    """Another nest's file, whole in itself, where the manifest describes one: refused, though only a prefix is read."""
    assert run(f"embed runs/{NAMES['dense']} --levels 0.9,0.5 --epochs 0 --classifier private --out other").code == 0
    Path(NEST, "nest.safetensors").write_bytes(Path("other/nest.safetensors").read_bytes())
    said = run(f"extract {NEST} --level 0.9 --out out")
    assert (said.code, "sha256 of its header" in said.sentence) == (2, True)


@pytest.mark.parametrize(("flags", "level"), [("--max-bytes 1GB", 2), ("--max-latency 10s", 2), ("--level 0.9", 1), ("--level 2", 2)])
def test_the_densest_level_within_a_limit(here, run: Run, flags: str, level: int):
    """Bytes of the file, or the time that was measured when the levels were embedded."""
    assert run(f"extract {NEST} {flags} --out out").code == 0
    assert json.loads(Path("out/manifest.json").read_text())["facts"]["level"] == level


def test_a_limit_between_two_levels(here, run: Run):
    """One byte less than the second level takes: the first."""
    first, second = plan().ends
    for limit, level in ((second - 1, 1), (second, 2), (first, 1)):
        assert run(f"extract {NEST} --max-bytes {limit} --out out{limit}").code == 0
        assert json.loads(Path(f"out{limit}/manifest.json").read_text())["facts"]["level"] == level
    said = run(f"extract {NEST} --max-bytes {first - 1}")
    assert (said.code, f"{first:,}" in said.sentence) == (5, True)
    assert run(f"extract {NEST} --max-latency 0.000001ms").code == 5


@pytest.mark.parametrize("flags", ["", "--to safetensors", "--to onnx", "--to packed"])
def test_what_is_written_may_take_more_than_what_is_read(here, run: Run, flags: str):
    """A limit on the file that is read is told to be no more than that, with the size that was written and the packed one."""
    limit = plan().ends[0]
    said = run(f"extract {NEST} --max-bytes {limit} {flags} --out out")
    told = " ".join((said.out + said.err).split())
    written = sum(path.stat().st_size for path in Path("out").glob("model*"))
    assert said.code == 0
    assert (f"bounds what is read of the nest ({limit:,} bytes); what was written takes {written:,}" in told) == (written > limit)
    assert ("--to packed writes" in told) == (flags != "--to packed")
    assert written > limit or flags == "--to packed"
    assert "bounds what is read" not in run(f"extract {NEST} --max-bytes 1GB {flags} --out roomy").err


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--level 0.9 --max-bytes 1MB", ["one of"]), ("--max-bytes much", ["'much'", "5MB"]), ("--max-latency 3h", ["'3h'", "3ms"]),
        ("--level 0.9 --to nothing", ["'nothing'"]),
    ],
)  # fmt: skip
def test_requests_without_a_meaning(here, untouched, run: Run, flags: str, words: list[str]):
    """One sentence, exit 2, nothing written."""
    untouched()
    said = run(f"extract {NEST} {flags}")
    assert said.code == 2
    assert all(word in said.sentence for word in words)


@pytest.mark.parametrize("kind", ["packed", "safetensors", "onnx"])
def test_into_a_format_in_one_step(here, run: Run, kind: str):
    """The same files as extracting first and exporting then."""
    assert run(f"extract {NEST} --level 0.5 --to {kind} --out once").code == 0
    assert run(f"export {NEST} --level 0.5 --to {kind} --out twice").code == 0
    once, twice = (sorted(path for path in Path(name).glob("model*")) for name in ("once", "twice"))
    assert [path.name for path in once] == [path.name for path in twice]
    if kind != "onnx":
        assert [path.read_bytes() for path in once] == [path.read_bytes() for path in twice]


def test_from_elsewhere(here, run: Run):
    """A folder or a file behind a URL: the prefix is read, and a folder says which architecture belongs to it."""
    store = fsspec.filesystem("memory")
    for path in Path(NEST).iterdir():
        store.pipe(f"/shelf/{path.name}", path.read_bytes())
    assert run(f"extract {NEST} --level 0.9 --out local").code == 0
    assert run("extract memory://shelf --level 0.9 --out folder").code == 0
    assert run("extract memory://shelf/nest.safetensors --level 0.9 --out file").code == 0
    local, folder, file = (open_path(Path(name)) for name in ("local", "folder", "file"))
    for other in (folder, file):
        assert all(torch.equal(local.checkpoint.tensors[name], tensor) for name, tensor in other.checkpoint.tensors.items())
    assert numbers("folder")["bytes_read"] == numbers("local")["bytes_read"]
    assert (folder.architecture, file.architecture) == (local.architecture, None)
    assert run("validate folder").code == 0
    assert json.loads(Path("folder/manifest.json").read_text())["parent"]["path"] == "memory://shelf/nest.safetensors"
    assert "It was taken out of memory://shelf" in run("report folder").sentence
    assert run(f"report folder --dense runs/{NAMES['dense']} --out page").code == 0
    assert "memory://nowhere" in run("extract memory://nowhere --level 0.9").sentence


def test_what_holds_no_levels_is_told(here, run: Run):
    """A plain file, a pruned artifact."""
    assert "no embedded levels" in run("extract model.pt --level 0.9").sentence
    assert "no embedded levels" in run(f"extract runs/{NAMES['pruned']} --level 0.9").sentence


AFFINE, STATISTICS = ("bn1.weight", "bn1.bias", "fc.bias"), ("bn1.running_mean", "bn1.running_var")


@pytest.fixture
def cnn(here, run: Run) -> str:
    """A small network with batch norm, trained for a moment."""
    assert run("train --arch cnn --data digits --epochs 2 --out cnn").code == 0
    return "cnn"


def embedded(run: Run, flags: str) -> dict[str, dict]:
    """What was embedded and extracted again: level -> tensors; and accuracy as told and as measured afterwards must agree."""
    assert run(f"embed cnn --levels 0.9,0.5 --epochs 1 --lr 0.02 {flags} --out nested").code == 0
    told = {f["scope"]: f["value"] for f in json.loads(Path("nested/manifest.json").read_text())["numbers"] if f["name"] == "accuracy"}
    found = {}
    for number, level in enumerate(("0.9", "0.5"), 1):
        assert run(f"extract nested --level {level} --out x{level}").code == 0
        assert run(f"validate x{level} --out v{level}").code == 0
        assert numbers(f"v{level}")["accuracy"] == told[f"level:{number}"]
        found[level] = open_path(Path(f"x{level}")).checkpoint.tensors
    return found


def same(found: dict[str, dict], name: str) -> bool:
    """Whether both levels hold the same tensor."""
    return torch.equal(found["0.9"][name], found["0.5"][name])


def test_private_state_is_of_each_level(cnn, run: Run):
    """Scales, shifts, biases and statistics all differ."""
    found = embedded(run, "--state private")
    assert not any(same(found, name) for name in (*AFFINE, *STATISTICS))


def test_shared_affine_freezes_all_but_statistics(cnn, run: Run):
    """Bit for bit the first level's scales, shifts and biases, through momentum and decay; statistics are of each level."""
    found = embedded(run, "--state shared-affine --optimizer adamw --weight-decay 0.05")
    assert all(same(found, name) for name in AFFINE)
    assert not any(same(found, name) for name in STATISTICS)


def test_shared_state_is_stored_once_and_measured_anew(cnn, run: Run):
    """Only statistics differ after extraction; the file holds the side state once; without data there is nothing to measure on."""
    found = embedded(run, "--state shared")
    assert all(same(found, name) for name in AFFINE)
    assert not any(same(found, name) for name in STATISTICS)
    with ranges("nested/nest.safetensors") as source:
        own = read_plan(source).own
    assert (len(own[0]) > 5, own[1]) == (True, ())
    Path("alone.safetensors").write_bytes(Path("nested/nest.safetensors").read_bytes())
    said = run("extract alone.safetensors --level 0.9")
    assert (said.code, "--arch" in said.sentence) == (2, True)
    assert run("extract alone.safetensors --level 0.9 --arch cnn --data digits --out again").code == 0
    again = open_path(Path("again")).checkpoint.tensors
    assert all(torch.equal(again[name], tensor) for name, tensor in found["0.9"].items())


@pytest.mark.parametrize("state", ["private", "shared-affine", "shared"])
def test_levels_in_a_running_program_are_those_that_are_extracted(cnn, run: Run, state: str):
    """Bit for bit, as a state and in place; what would have to be measured is refused."""
    assert run(f"embed cnn --levels 0.9,0 --epochs 0 --state {state} --out nested").code == 0
    nest, module = sparsify_cli.Nest.load("nested"), open_path(Path("cnn")).module()
    if state == "shared":
        with pytest.raises(MissingContext, match="extract NEST"):
            nest.at(0.9)
    for level in ("0",) if state == "shared" else ("0.9", "0"):
        assert run(f"extract nested --level {level} --out x{level}").code == 0
        extracted = open_path(Path(f"x{level}")).checkpoint.tensors
        nest.put(module, level)
        for found in (nest.at(level), module.state_dict()):
            assert all(found[name].numpy().tobytes() == tensor.numpy().tobytes() for name, tensor in extracted.items())


@pytest.mark.parametrize(
    "state", ["private", pytest.param("shared-affine", marks=pytest.mark.slow), pytest.param("shared", marks=pytest.mark.slow)]
)
def test_a_private_classifier_is_dense_and_of_each_level(cnn, run: Run, state: str):
    """Weight and bias differ between levels whatever is shared, and no weight of it is pruned."""
    found = embedded(run, f"--classifier private --state {state}")
    assert not any(same(found, name) for name in ("fc.weight", "fc.bias"))
    assert all(bool((tensors["fc.weight"] != 0).all()) for tensors in found.values())
    assert same(found, "bn1.weight") == (state != "private")


def test_levels_of_two_in_four_are_nested(cnn, run: Run):
    """A 90 % network inside a 2:4 one: both keep at most 2 of 4, and the sparser one is part of the other."""
    assert run("embed cnn --levels 0.9,0.5 --pattern 2:4 --skip conv1.weight --epochs 1 --out nested").code == 0
    nest = open_path(Path("nested")).nest
    for level in (1, 2):
        for name, mask in nest.masks(level).items():
            assert int(to_matrix(mask).reshape(-1, 4).sum(dim=1).max()) <= 2, name
    assert nest.masks(1) <= nest.masks(2)


def test_levels_in_one_shot(cnn, run: Run):
    """Every weight is the given one, the dense level is the given network, and sparse ones have statistics of their own."""
    assert run("embed cnn --levels 0.9,0.5,0 --epochs 0 --criterion lamp --out nested").code == 0
    given, found = (open_path(Path(name)) for name in ("cnn", "nested"))
    assert all(torch.equal(found.checkpoint.tensors[name], tensor) for name, tensor in given.checkpoint.tensors.items())
    assert found.nest.masks(1) <= found.nest.masks(2)
    assert run("extract nested --level 0.9 --out sparse").code == 0
    sparse = open_path(Path("sparse")).checkpoint.tensors
    for name, mask in found.nest.masks(1).items():
        assert torch.equal(sparse[name], given.checkpoint.tensors[name] * mask)
    assert not torch.equal(sparse["bn1.running_mean"], given.checkpoint.tensors["bn1.running_mean"])
    assert torch.equal(sparse["bn1.weight"], given.checkpoint.tensors["bn1.weight"])


@pytest.mark.slow
@pytest.mark.parametrize("state", [pytest.param("private", marks=pytest.mark.slow), "shared"])
def test_levels_in_one_shot_are_repaired_beside_one_another(cnn, run: Run, state: str):
    """Better than without at nine tenths zeros; nested, and weights of the sparser level are the same bits in the denser one."""
    assert run(f"embed cnn --levels 0.9,0.5,0 --epochs 0 --samples 256 --state {state} --solver auto --out nested").code == 0
    assert run(f"embed cnn --levels 0.9,0.5,0 --epochs 0 --state {state} --out plain").code == 0
    found, plain = (levels_of(folder) for folder in ("nested", "plain"))
    assert found["level:1"] > plain["level:1"]
    nest = open_path(Path("nested")).nest
    assert nest.masks(1) <= nest.masks(2)
    tensors = []
    for level in ("0.9", "0.5"):
        assert run(f"extract nested --level {level} --out at-{level}").code == 0
        tensors.append(open_path(Path(f"at-{level}")).checkpoint.tensors)
    for name, mask in nest.masks(1).items():
        assert torch.equal(tensors[0][name][mask], tensors[1][name][mask]), name


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--epochs 1 --solver auto", "here they are trained"),
        ("--epochs 0 --solver woodfisher", "works on whole networks"),
        ("--epochs 0 --solver alps --pattern 2:4", "do not go together in a nest"),
    ],
)
def test_solvers_that_cannot_nest_are_told(cnn, run: Run, flags: str, words: str):
    """One sentence, exit 2."""
    said = run(f"embed cnn --levels 0.9,0.5 {flags}")
    assert (said.code, words in said.sentence) == (2, True)


def test_the_newest_nest_is_taken_also_after_other_networks_forgot(here, run: Run):
    """An erasure that is newer and holds one network does not stand in the way."""
    assert run(f"unlearn runs/{NAMES['dense']} --forget class:3").code == 0
    said = run("extract --level 0.9 --out out")
    assert (said.code, NEST in said.err) == (0, True)


def test_a_file_that_is_not_here_has_no_size(here, run: Run):
    """Exported from elsewhere: no size of a file that was read is told, rather than nought."""
    store = fsspec.filesystem("memory")
    store.pipe("/alone/nest.safetensors", Path(NEST, "nest.safetensors").read_bytes())
    said = run("extract memory://alone/nest.safetensors --level 0.9 --to packed --out out")
    assert (said.code, "file that was read" in said.out) == (0, False)
    assert "bytes_file" not in numbers("out")


@pytest.mark.parametrize("how", ["--epochs 0", "--epochs 1", "--epochs 0 --solver alps"])
def test_a_pruned_layer_that_is_skipped_stays_beside_the_nest(here, run: Run, how: str):
    """It is in every level what it was, zeros and all; the others hold the sparsity."""
    assert run("train --arch mlp --data digits --epochs 1 --out whole").code == 0
    assert run("prune whole --sparsity 0.5 --out half").code == 0
    given = dict(open_path(Path("half")).checkpoint.tensors)
    name = sorted(given)[-1]
    assert run(f"embed half --levels 0.9,0.7 {how} --skip {name} --out nest").code == 0
    for level in (1, 2):
        assert run(f"extract nest --level {level} --out level{level}").code == 0
        found = open_path(Path(f"level{level}")).checkpoint.tensors[name]
        assert torch.equal(found == 0, given[name] == 0) and (how != "--epochs 0" or torch.equal(found, given[name]))
