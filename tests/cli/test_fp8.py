"""Weights of 8 bits and tensors that are not plain numbers, through every verb that takes a file: nothing else changes."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import sparsify_cli
from sparsify_cli.errors import UnreadableFile
from tests.cli.conftest import Run

EIGHT = [torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz]


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test writes into a folder of its own."""
    monkeypatch.chdir(tmp_path)


def tensors(dtype: torch.dtype) -> dict[str, Tensor]:
    """Two matrices of 8 bits, one of 16, scales of blocks, a bias and a counter of a type without arithmetic."""
    torch.manual_seed(0)
    return {
        "a.weight": torch.randn(16, 32).to(dtype),
        "b.weight": torch.randn(24, 16).to(dtype),
        "c.weight": torch.randn(8, 16).bfloat16(),
        "a.scale": torch.randint(0, 255, (16, 4), dtype=torch.uint8).view(torch.float8_e8m0fnu),
        "a.bias": torch.randn(16),
        "seen": torch.arange(4).to(torch.uint16),
    }


def bits(tensor: Tensor) -> bytes:
    """The bytes of a tensor's numbers."""
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def told(folder: str) -> Any:
    """What the manifest of a folder says."""
    return json.loads(Path(folder, "manifest.json").read_text())


def require_only_zeros(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> int:
    """Every number is the same bits or +0; returns how many became zero."""
    assert set(before) == set(after)
    gone = 0
    for name, old in before.items():
        assert after[name].dtype == old.dtype and after[name].shape == old.shape
        width = old.element_size()
        pairs = [(bits(old)[i : i + width], bits(after[name])[i : i + width]) for i in range(0, old.nbytes, width)]
        apart = [new for was, new in pairs if was != new]
        assert set(apart) <= {bytes(width)} and (not apart or name.endswith(".weight"))
        gone += len(apart)
    return gone


@pytest.mark.parametrize("dtype", EIGHT, ids=str)
@pytest.mark.parametrize("how", ["--sparsity 0.6", "--pattern 2:4", "--sparsity 0.5 --pattern block:4x1 --allocation uniform"])
def test_masks_in_memory_equal_those_of_slices(run: Run, dtype: torch.dtype, how: str) -> None:
    """Weights of 8 bits are ranked the same in slices, in memory for another kind of file, and without extras."""
    torch.save({"state_dict": tensors(dtype), "epoch": 3}, "m.pt")
    for out, more in (("slices", ""), ("other", "--save-as safetensors"), ("alone", "--extras drop")):
        assert run(f"prune m.pt {how} --out {out} {more}").code == 0
    results = [torch.load("slices/m.pt")["state_dict"], load_file("other/model.safetensors"), torch.load("alone/m.pt")["state_dict"]]
    assert [require_only_zeros(tensors(dtype), result) > 400 for result in results] == [True] * 3
    assert len({told(out)["masks_sha256"] for out in ("slices", "other", "alone")}) == 1
    assert all(bits(result[name]) == bits(results[0][name]) for result in results for name in results[0])


@pytest.mark.parametrize("criterion", ["lamp", "random"])
@pytest.mark.parametrize("dtype", EIGHT, ids=str)
def test_other_criteria(run: Run, dtype: torch.dtype, criterion: str) -> None:
    """A criterion that needs the tensors in memory zeroes as many weights as asked for, and changes nothing else."""
    save_file(tensors(dtype), "m.safetensors")
    assert run(f"prune m.safetensors --criterion {criterion} --sparsity 0.5 --out out").code == 0
    require_only_zeros(tensors(dtype), load_file("out/m.safetensors"))
    assert sum(one.get("kept", 0) for one in told("out")["tensors"].values()) == (512 + 384 + 128) // 2


@pytest.mark.parametrize("more", ["", "--save-as safetensors", "--criterion lamp"])
@pytest.mark.parametrize("dtype", EIGHT, ids=str)
def test_every_pattern_survives(run: Run, dtype: torch.dtype, more: str) -> None:
    """All 256 patterns of bits, NaN and infinite ones too, are the same behind a pruning of another layer."""
    every = torch.arange(256, dtype=torch.uint8).reshape(16, 16).view(dtype)
    torch.save({"odd.weight": every, "a.weight": torch.randn(8, 8).to(dtype)}, "m.pt")
    assert run(f"prune m.pt --skip odd --allow-nonfinite --sparsity 0.5 --out out {more}").code == 0
    after = sparsify_cli.load("out")
    assert bits(after["odd.weight"]) == bytes(range(256)) and int((after["a.weight"] == 0).sum()) == 32


def test_nan_is_refused_by_name(run: Run) -> None:
    """Without --allow-nonfinite a NaN of 8 bits stops both ways of pruning with the same sentence; a NaN scale does not."""
    weights = tensors(torch.float8_e4m3fn)
    weights["a.scale"] = torch.full((4, 4), 255, dtype=torch.uint8).view(torch.float8_e8m0fnu)
    save_file(weights, "fine.safetensors")
    weights["b.weight"].view(torch.uint8)[3, 3] = 0xFF
    save_file(weights, "m.safetensors")
    assert run("prune fine.safetensors --sparsity 0.5 --criterion lamp --out fine").code == 0
    said = [run(f"prune m.safetensors --sparsity 0.5 --out out {more}") for more in ("", "--criterion lamp")]
    assert all("1 tensors of m.safetensors hold NaN or infinite values: b.weight (1)" in one.sentence for one in said)
    assert run("prune m.safetensors --sparsity 0.5 --allow-nonfinite --criterion lamp --out out").code == 0
    assert bits(load_file("out/m.safetensors")["b.weight"])[3 * 16 + 3] == 0


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2fnuz], ids=str)
def test_other_verbs(run: Run, dtype: torch.dtype) -> None:
    """Masks are taken and put on, an artifact is exported packed bit for bit, inspected and compared; sizes are true to the byte."""
    save_file(tensors(dtype), "m.safetensors")
    torch.save(tensors(dtype), "m.pt")
    lines = [
        "prune m.safetensors --criterion lamp --sparsity 0.7 --out pruned",
        "masks apply m.pt --masks pruned --out applied",
        "masks apply m.pt --masks pruned --save-as safetensors --out plain",
        "export pruned --to packed --out packed",
        "export applied --to safetensors --out dense",
        "prune plain --sparsity 0.8 --criterion lamp --out further",
        "prune m.pt --sparsity 0.7 --criterion lamp --dry-run",
        *("inspect pruned", "inspect pruned m.pt", "inspect packed/model.packed.safetensors", "masks diff pruned applied"),
    ]
    assert [line for line in lines if run(line).code] == []
    expected = load_file("pruned/m.safetensors")
    for found in (torch.load("applied/m.pt"), load_file("plain/model.safetensors"), *map(sparsify_cli.load, ("packed", "dense"))):
        assert {name: (t.dtype, bits(t)) for name, t in found.items()} == {name: (t.dtype, bits(t)) for name, t in expected.items()}
    numbers = {one["name"]: one["value"] for one in told("plain")["numbers"] if one["of"] != "dense" and one["scope"] == "all"}
    assert numbers["bytes_disk"] == Path("plain/model.safetensors").stat().st_size
    assert numbers["bytes_packed"] == Path("packed/model.packed.safetensors").stat().st_size
    assert numbers["sparsity"] == pytest.approx(0.7, abs=1e-3)


def test_folded_file(run: Run) -> None:
    """A masked weight of 8 bits is folded in its own type, whether its mask holds 0 and 1 or other numbers."""
    weight = torch.tensor([[1.0, -2.0, 3.0], [4.0, 5.0, -6.0]]).to(torch.float8_e4m3fn)
    table = {"a.weight_orig": weight, "a.weight_mask": torch.tensor([[1.0, 0, 1], [1, 1, 0]])}
    table |= {"b.weight_orig": weight, "b.weight_mask": torch.tensor([[2.0, 0, 2], [2, 2, 0]])}
    torch.save(table, "m.pt")
    assert run("prune m.pt --sparsity 0.5 --out out").code == 0
    after = torch.load("out/m.pt")
    assert after["a.weight"].dtype == torch.float8_e4m3fn and set(after) == {"a.weight", "b.weight"}
    assert after["a.weight"].float().tolist() == [[0, 0, 3], [4, 5, 0]]
    assert after["b.weight"].float().tolist() == [[0, 0, 6], [8, 10, 0]]


def test_with_an_architecture(run: Run) -> None:
    """With architecture and data a network of 8 bits is measured, trained further, reported on and exported; its type stays."""
    torch.manual_seed(0)
    assert run("train --arch mlp --data digits --epochs 1 --out dense").code == 0
    trained = sparsify_cli.load("dense")
    torch.save({name: t.to(torch.float8_e4m3fn) if t.ndim == 2 else t for name, t in trained.items()}, "m.pt")
    known = "--arch mlp --data digits"
    lines = [
        f"prune m.pt {known} --sparsity 0.5 --out pruned",
        "validate pruned",
        "finetune pruned --epochs 1 --out tuned",
        "report tuned --dense m.pt --out page",
        "export tuned --to packed --out packed",
    ]
    assert [line for line in lines if run(line).code] == []
    tuned, masks = torch.load("tuned/m.pt"), sparsify_cli.load("pruned")
    matrices = [name for name, t in trained.items() if t.ndim == 2]
    assert matrices and all(tuned[name].dtype == torch.float8_e4m3fn for name in matrices)
    assert all(bool((tuned[name][masks[name] == 0] == 0).all()) for name in matrices)
    assert all(bool(tuned[name].float().isfinite().all()) for name in matrices)


def with_odd(kind: str) -> dict[str, Any]:
    """A table with a tensor that is not plain numbers."""
    odd: dict[str, Callable[[], Tensor]] = {
        "stored sparse": lambda: torch.eye(4).to_sparse(),
        "quantized": lambda: torch.quantize_per_tensor(torch.randn(4, 4), 0.1, 0, torch.qint8),
        "of the type complex32": lambda: torch.randn(4, 4, dtype=torch.complex64).to(torch.complex32),
    }
    return {"a.weight": torch.randn(8, 8), "q": odd[kind](), "b.weight": torch.randn(4, 8)}


ODD = pytest.mark.parametrize("kind", ["stored sparse", "quantized", "of the type complex32"])


@ODD
@pytest.mark.filterwarnings("ignore:ComplexHalf", "ignore:.*quantize", "ignore:.*[Ss]parse")
def test_odd_tensors_stay(run: Run, kind: str) -> None:
    """Without an architecture a tensor that is no plain numbers stays as it is in a file of the same kind, and is named."""
    table = {"state_dict": with_odd(kind)}
    torch.save(table, "m.pt")
    for out, line in (("s", "prune m.pt --sparsity 0.5"), ("l", "prune m.pt --sparsity 0.5 --criterion lamp")):
        said = run(f"{line} --out {out}")
        assert said.code == 0 and f"not plain numbers, and left as they are: state_dict.q ({kind})." in said.out + said.err
        after = torch.load(f"{out}/m.pt", weights_only=True)["state_dict"]["q"]
        assert str(after) == str(table["state_dict"]["q"]) and after.dtype == table["state_dict"]["q"].dtype
    said = run("masks apply m.pt --masks s --out applied")
    assert said.code == 0 and "left as they are: state_dict.q" in said.out + said.err
    assert Path("applied/m.pt").read_bytes() == Path("s/m.pt").read_bytes()
    assert run("masks stats s").code == run("masks extract s --out masks").code == 0


@ODD
@pytest.mark.filterwarnings("ignore:ComplexHalf", "ignore:.*quantize", "ignore:.*[Ss]parse")
def test_odd_tensors_are_left_out_aloud(run: Run, kind: str) -> None:
    """What another kind of file cannot hold is left out, and a note names it; loading part of a network is refused."""
    torch.save({"state_dict": with_odd(kind), "epoch": 1}, "m.pt")
    lines = ["prune m.pt --sparsity 0.5 --save-as safetensors", "prune m.pt --sparsity 0.5 --extras drop", "export m.pt --to packed"]
    for number, line in enumerate(lines):
        said = run(f"{line} --out out{number}")
        assert said.code == 0 and f"not plain numbers, and left out: state_dict.q ({kind})." in said.out + said.err
    assert set(load_file("out0/model.safetensors")) == {"a.weight", "b.weight"}
    assert set(torch.load("out1/m.pt")["state_dict"]) == set(sparsify_cli.load("out2")) == {"a.weight", "b.weight"}
    assert run("prune m.pt --sparsity 0.5 --out same").code == 0
    with pytest.raises(UnreadableFile, match="not plain numbers"):
        sparsify_cli.load("same")


@pytest.mark.filterwarnings("ignore:.*[Ss]parse")
def test_odd_tensors_and_an_architecture(run: Run) -> None:
    """A network that an architecture is given for must be plain numbers; the sentence names what is not."""
    torch.save(with_odd("stored sparse"), "m.pt")
    said = run("validate m.pt --arch mlp --data digits")
    assert said.code == 2 and "q is stored sparse" in said.sentence


def test_a_type_of_sixteen_bytes(run: Run) -> None:
    """A complex number of 16 bytes stays as it is in a file of the same kind; a safetensors file is refused in one sentence."""
    turned = torch.randn(3, dtype=torch.complex128)
    torch.save({"a.weight": torch.randn(8, 8), "turned": turned}, "m.pt")
    for out, more in (("slices", ""), ("memory", "--criterion lamp")):
        assert run(f"prune m.pt --sparsity 0.5 --out {out} {more}").code == 0
        assert torch.equal(torch.load(f"{out}/m.pt")["turned"], turned)
    said = run("prune m.pt --sparsity 0.5 --save-as safetensors --out other")
    assert said.code == 2 and "'turned' is complex128" in said.sentence and not Path("other").exists()
