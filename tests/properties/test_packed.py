"""Packed tensors, for any bits and any shape: nothing changes on the way to disk and back."""

import tempfile
from pathlib import Path

import torch
from hypothesis import given
from hypothesis import strategies as st

from sparsify_cli.errors import SparsifyError
from sparsify_cli.values.packed import Record, decode, differing, encode, sizes, smallest
from sparsify_cli.values.tensor_file import read, save_packed

BITS = {
    torch.float32: torch.int32,
    torch.float16: torch.int16,
    torch.bfloat16: torch.int16,
    torch.int64: torch.int64,
    torch.uint8: torch.uint8,
}


@st.composite
def tensors(draw: st.DrawFn) -> torch.Tensor:
    """Any shape of up to 3 dimensions, any bits, runs of zeros of any length up to about 70000."""
    dtype = draw(st.sampled_from(sorted(BITS, key=str)))
    runs = draw(
        st.lists(st.tuples(st.sampled_from([0, 1, 7, 253, 254, 255, 256, 510, 65534, 65535, 65536]), st.integers(-128, 255)), max_size=12)
    )
    flat = [torch.cat([torch.zeros(zeros, dtype=torch.int64), torch.tensor([value])]) for zeros, value in runs]
    tail = torch.zeros(draw(st.sampled_from([0, 1, 254, 255, 256, 65535])), dtype=torch.int64)
    values = torch.cat([*flat, tail]).to(BITS[dtype]).view(dtype)
    return values.reshape(draw(st.sampled_from([(-1,), (1, -1), (-1, 1, 1)])) if values.numel() else (0, 3))


@given(tensors())
def test_every_form_keeps_every_bit(tensor: torch.Tensor) -> None:
    """decode(encode(t)) is t, bit for bit, in every form; and the bytes are those that `sizes` foretold."""
    name = str(tensor.dtype).removeprefix("torch.")
    foretold = sizes(tensor)
    for form in ("bitmask", "gaps8", "gaps16"):
        entries = encode(tensor, form)
        assert differing(tensor, decode(Record(form, name, tuple(tensor.shape)), entries)) == 0
        assert foretold.get(form) in (None, sum(entry.nbytes for entry in entries.values()))


@given(tensors())
def test_no_form_would_have_been_smaller(tensor: torch.Tensor) -> None:
    """The form taken costs no more than any other, a form that is not dense charged 200 bytes."""
    cost = {form: 200 + sum(entry.nbytes for entry in encode(tensor, form).values()) for form in ("bitmask", "gaps8", "gaps16")}
    cost["dense"] = tensor.nbytes
    assert cost[smallest(tensor)] == min(cost.values())


@given(st.dictionaries(st.text(max_size=6), tensors(), max_size=4))
def test_files_keep_every_bit(state: dict[str, torch.Tensor]) -> None:
    """Any names, any tensors: read(save_packed(state)) is the state, and a second save gives the same bytes."""
    state.pop("__metadata__", None)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a"
        save_packed(path, state)
        first, back = path.read_bytes(), read(path)
        assert set(back) == set(state)
        assert sum(differing(state[name], back[name]) for name in state) == 0
        save_packed(path, dict(reversed(back.items())))
        assert path.read_bytes() == first


@given(st.data())
def test_a_flipped_bit_never_passes(data: st.DataObject) -> None:
    """One flipped bit anywhere in a packed file: a sentence of ours, or (in the header's spaces) the same tensors."""
    weight = torch.zeros(6000)
    weight[::17] = torch.arange(1.0, 354.0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a"
        save_packed(path, {"w": weight, "b": torch.ones(3)})
        content = bytearray(path.read_bytes())
        content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
        path.write_bytes(content)
        try:
            back = read(path)
        except SparsifyError:
            return
        assert differing(weight, back.get("w")) + differing(torch.ones(3), back.get("b")) == 0
